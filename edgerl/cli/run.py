"""`edgerl run`: a policy at a fixed rate in its environment."""

from __future__ import annotations

import contextlib
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from edgerl.cli.support.models import find_model, task_of
from edgerl.cli.support.output import Actions, Json, note, print_json
from edgerl.files.kind import is_onnx
from edgerl.run_folder import ONNX, POLICY
from edgerl.units import human_seconds

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from edgerl.edge.acting.actions import ActionMode
    from edgerl.edge.acting.control import ControlStatistics, Spread
    from edgerl.edge.acting.onnx_policy import OnnxPolicy
    from edgerl.edge.acting.policy import Policy
    from edgerl.environments.make import Environment


def command(
    model: Annotated[
        Path | None,
        typer.Argument(help="policy.safetensors, policy.onnx or run folder; default: runs/latest.", show_default=False),
    ] = None,
    env: Annotated[
        str | None, typer.Option("--env", help="Environment; default: the one the file names.", show_default=False)
    ] = None,
    rate: Annotated[float, typer.Option("--rate", help="Control rate in Hz.")] = 100.0,
    actions: Actions = None,
    seconds: Annotated[float, typer.Option("--seconds", help="How long to run.")] = 5.0,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of the first episode; each next one adds 1.")] = 0,
    json: Json = False,
) -> None:
    """Run a policy at a fixed rate in its environment: latency, jitter, missed deadlines, return.

    policy.safetensors runs on edgerl's own engine, policy.onnx on onnxruntime. A policy whose actions have other bounds
    than the environment's is refused unless --actions says what they are.

    An environment stands for the robot here: it makes one step per action, however long that step lasts in it. A
    missed deadline sends the fallback, zero within the action's bounds.

    Example: edgerl run --rate 100 --seconds 5
    """
    import numpy as np

    from edgerl.edge.acting.actions import adapted
    from edgerl.edge.acting.control import ControlLoop
    from edgerl.environments.make import make

    path = find_model(model)
    policy = load_policy(path)
    name, arguments = task_of(policy.metadata.get("about", {}), env or None, path)
    environment = make(name, arguments=arguments)
    with contextlib.ExitStack() as stack:
        stack.callback(environment.close)
        driver = adapted(policy, environment, cast("ActionMode | None", actions), str(path))
        environment.observation_dtype = policy.observation_dtype
        simulation = _Simulation(environment, seed)
        fallback = np.clip(0, environment.action_low, environment.action_high)
        loop = ControlLoop(driver, simulation.observe, simulation.act, rate, fallback)
        show = _print_json if json else _print
        try:
            loop.run(seconds)
        except KeyboardInterrupt:  # what was measured until then is the answer
            stack.close()
            show(path, environment.name, loop.statistics(), simulation)
            raise
    show(path, environment.name, loop.statistics(), simulation)


class _Simulation:
    """The environment as a robot: it is observed and acted on, and begins the next episode by itself."""

    def __init__(self, environment: Environment, seed: int) -> None:
        self._environment = environment
        self._seed = seed
        self._observation = environment.reset(seed)
        self.finished: list[dict[str, float]] = []
        self.unfinished = {"return": 0.0, "steps": 0}

    def observe(self) -> npt.NDArray[np.float32]:
        """The present observation [n]; of the type that the policy asks for."""
        return self._observation

    def act(self, action: npt.NDArray[np.float32]) -> None:
        """Make one step, and begin the next episode where this one ends."""
        self._observation, reward, terminated, truncated = self._environment.step(action)
        self.unfinished["return"] += reward
        self.unfinished["steps"] += 1
        if terminated or truncated:
            self.finished.append(self.unfinished)
            self.unfinished = {"return": 0.0, "steps": 0}
            self._observation = self._environment.reset(self._seed + len(self.finished))


def load_policy(path: Path) -> Policy | OnnxPolicy:
    """The policy, on the engine that its file is for."""
    if not is_onnx(path):
        from edgerl.edge.acting.policy import Policy

        return Policy.load(path)
    from edgerl.edge.acting.onnx_policy import OnnxPolicy
    from edgerl.profiling.budgets.onnx_graph import output_bounds

    policy = OnnxPolicy(path)
    if not policy.is_ours:
        note(f"{path} was not written by edgerl: onnxruntime executes whatever it holds; run only files that you trust")
        policy.action_low, policy.action_high = output_bounds(path, policy.n_actions) or (None, None)
        if policy.action_low is None:
            note(f"{path} does not tell the bounds of its actions: what is beyond the environment's is cut")
    _note_if_outdated(path, policy)
    return policy


def _note_if_outdated(path: Path, policy: OnnxPolicy) -> None:
    from hashlib import sha256

    source = path.with_name(POLICY)
    made_from = policy.metadata.get("policy_sha256")
    if path.name == ONNX and made_from and source.is_file() and sha256(source.read_bytes()).hexdigest() != made_from:
        note(f"{path} was not made from the {POLICY} beside it; export again: edgerl export {source}")


def _print_json(path: Path, environment: str, statistics: ControlStatistics, simulation: _Simulation) -> None:
    print_json(
        {
            "model": str(path),
            "environment": environment,
            **asdict(statistics),
            "episodes": simulation.finished,
            "unfinished_episode": simulation.unfinished,
        }
    )


def _print(path: Path, environment: str, statistics: ControlStatistics, simulation: _Simulation) -> None:
    print(f"{path} in {environment}: {statistics.cycles} actions in {human_seconds(statistics.seconds)}")
    print(f"latency of the policy      {_spread(statistics.latency)}")
    print(f"jitter (lateness of cycle) {_spread(statistics.jitter)}")
    print(
        f"missed deadlines           {statistics.missed_deadlines} of {statistics.cycles} at {statistics.rate_hz:g} Hz"
    )
    print(f"skipped ticks              {statistics.skipped_ticks}")
    for cause, count in statistics.fallbacks.items():
        if count:
            print(f"fallback, {cause.replace('_', ' ')}: {count}")
    if statistics.last_error:
        print(f"last error of the policy: {statistics.last_error}")
    for index, episode in enumerate(simulation.finished, 1):
        print(f"episode {index}: return {episode['return']:.1f} in {episode['steps']} steps")
    if rest := simulation.unfinished["steps"]:
        print(f"unfinished episode: return {simulation.unfinished['return']:.1f} in {rest} steps")


def _spread(spread: Spread) -> str:
    values = (("median", spread.median), ("p99", spread.p99), ("max", spread.maximum))
    return ", ".join(f"{name} {human_seconds(seconds)}" for name, seconds in values)
