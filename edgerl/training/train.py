"""Training from options to a complete run: a new one, or one that is resumed."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from edgerl import run_folder
from edgerl.algorithms.engine import Notice, with_engine
from edgerl.algorithms.interface import make_algorithm
from edgerl.algorithms.topology import notice_of_fixed_layers
from edgerl.config import Config, extended, make_config, stated_options, with_episode_limit
from edgerl.edge.engine.library import library
from edgerl.environments.consent import check_consent
from edgerl.environments.make import Environment, make_for_run, resumes_bit_for_bit
from edgerl.errors import ConfigError, EnvironmentError
from edgerl.files.paths import anchored, at_home, reachable
from edgerl.signals import leave_at_the_second, stop_requests
from edgerl.training import checkpoint as checkpoint_file
from edgerl.training.folder import check_latest, new_folder, read_config, write_config
from edgerl.training.trainer import Report, RunResult, Trainer


@at_home()
def train(
    env: str | None = None,
    *,
    preset: str | None = None,
    config: str | Path | None = None,
    out: str | Path | None = None,
    resume: str | Path | None = None,
    report: Report = lambda _: None,
    notice: Notice = lambda _: None,
    **options: Any,
) -> RunResult:
    """Train a policy, or resume the run folder `resume`, with another number of `steps` if that is given, too.

    env: a gymnasium id, `module:id`, which importing the module registers, or `module:factory` (default
    HalfCheetah-v5); with `resume` the run's own, required where it is code: a run folder may not choose what runs.
    config: a TOML file of options, which those given here override. preset: paper (default), quick or fast.
    out: the run folder, which must not exist (default `runs/<env>-<method>-seed<n>`). options: each of
    edgerl.config.OPTIONS by name, such as steps, seed, sparsity, and env_args, the arguments of what makes the
    environment; or `method`, algorithm and topology in a word of edgerl.config.METHODS. report: called every 100 steps.
    notice: called with each line for the user.

    Raises ConfigError, EnvironmentError, OutputError, FileFormatError; CheckFailed where training diverged;
    Interrupted, with the state saved, after SIGINT or SIGTERM: the running episode is finished first, unless that takes
    longer than GRACE_SECONDS. A second signal quits at once, with the last checkpoint.
    """
    if resume is None:
        stated = stated_options(env, preset=preset, config=config, **options)
        recorded, run = None, with_engine(make_config(**stated), notice)
    else:
        resume = anchored(resume).resolve()  # runs/latest is a link, which is about to be renewed
        steps = options.pop("steps", None)
        if any(value is not None for value in (out, preset, config, *options.values())):
            raise ConfigError(
                "`resume` goes only with `steps` and `env`, since all else is the run's; leave out all other options"
            )
        recorded, run = _resumed(resume, env, steps, notice)
    with contextlib.ExitStack() as stack:
        environment = stack.enter_context(contextlib.closing(make_for_run(run)))
        if resume is None:
            run = with_episode_limit(replace(run, environment=environment.name), environment.own_episode_limit)
            environment.episode_limit = run.schedule.max_episode_steps
        if not resumes_bit_for_bit(environment, survives_faults=run.on_fault == "truncate"):
            notice(f"{environment.name} is not determined by its seed: a resumed run will not be bit-identical")
        evaluation = evaluation_environment(run, environment, notice)
        if evaluation is not None and evaluation is not environment:
            stack.enter_context(contextlib.closing(evaluation))
        stack.enter_context(numerics(run))
        stop = stack.enter_context(stop_requests(leave_at_the_second))
        agent = make_algorithm(run, environment.n_observations, environment.n_actions)
        if line := notice_of_fixed_layers(run, environment.n_observations, environment.n_actions):
            notice(line)
        if resume is None:
            folder = stack.enter_context(new_folder(None if out is None else Path(out), run))
            if line := _notice_of_warm_up(stated, run):
                notice(line)
        else:
            folder = run_folder.short(resume)
            check_latest(folder)
        trainer = Trainer(agent, environment, evaluation, anchored(folder))
        stack.callback(trainer.close)
        if resume is not None and run != recorded:
            write_config(trainer.folder, run)  # the shorter run's checkpoint is valid with it, too
        notice(f"run folder {folder}; live curves: tensorboard --logdir {folder}")
        if trainer.step < run.schedule.start_steps:
            notice(f"learning begins at step {run.schedule.start_steps}; until then actions are random")
        result = trainer.run(report, notice, stop)
        return replace(result, folder=reachable(folder), policy=reachable(folder / run_folder.POLICY))


def _resumed(folder: Path, env: str | None, steps: int | None, notice: Notice) -> tuple[Config, Config]:
    """(the configuration in a run folder, the same with another number of steps where that is given).

    Raises ConfigError where the run has made as many already, or is of code that `env` does not name; FileFormatError.
    """
    recorded, name = read_config(folder), run_folder.short(folder)
    check_consent(recorded.environment, recorded.env_args, env, name)
    if steps is None:
        return recorded, recorded
    longer = extended(recorded, steps)
    path = folder / run_folder.CHECKPOINT
    done = checkpoint_file.read(path).counters.step if path.exists() else 0
    if steps <= done:
        raise ConfigError(f"`steps` is {steps}; expected more than the {done} that {name} has already")
    end = longer.evolution.evolution_steps
    keeps = "" if end is None else f"; the evolution of the topology still ends at step {end}"
    notice(f"{name} goes on from step {done} to {steps} (before: {recorded.schedule.steps}){keeps}")
    return recorded, longer


def _notice_of_warm_up(stated: Mapping[str, Any], config: Config) -> str | None:
    """The line for a run that is too short for its preset's random steps."""
    usual, random = make_config(stated.get("preset")).schedule.start_steps, config.schedule.start_steps
    if "start_steps" in stated or random >= usual:
        return None
    return f"{config.schedule.steps} steps are too few for the usual {usual} random ones; this run starts with {random}"


def evaluation_environment(config: Config, environment: Environment, notice: Notice) -> Environment | None:
    """Where the policy is evaluated: in a separate environment, or in `environment`, the training's, between its
    episodes; None for nowhere. `auto` is a separate one where there can be two.

    Raises EnvironmentError where a separate one is required and impossible.
    """
    if config.evaluation == "none":
        return None
    if config.evaluation == "between-episodes":
        return environment
    try:
        second = make_for_run(config)
        if second.is_same_as(environment):
            raise EnvironmentError(f"{config.environment} returns the same object each time it is made")
    except EnvironmentError as error:
        if config.evaluation == "separate":
            raise EnvironmentError(f"{error}; to evaluate in the same one: `evaluation` between-episodes") from error
        notice(f"evaluating between training episodes, in the same environment ({error})")
        return environment
    return second


@contextlib.contextmanager
def numerics(config: Config) -> Iterator[None]:
    """Denormals flushed, since with weight decay dead weights decay into them, at twice the time of an update; of
    PyTorch, which nothing else may load, the run's thread count as well."""
    if config.engine == "native":
        flush = library().quick("edgerl_flush_denormals")
        flush(True)
        try:
            yield
        finally:
            flush(False)
        return
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(config.threads)
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)
        torch.set_num_threads(threads)
