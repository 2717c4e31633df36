"""Which model a command means when it is given a run folder, or nothing (docs/commands.md)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgerl.environments.arguments import NOTHING, Arguments, stated
from edgerl.environments.consent import check_consent
from edgerl.errors import ConfigError, FileFormatError, UnsupportedModelError
from edgerl.files.kind import STABLE_BASELINES3, TENSOR_FILES, importing, is_onnx, what_is
from edgerl.run_folder import CHECKPOINT, LATEST, LEARNER, ONNX, POLICY, RUNS, short

if TYPE_CHECKING:
    from edgerl.edge.acting.onnx_policy import OnnxPolicy
    from edgerl.edge.acting.policy import Policy

Notice = Callable[[str], None]
"""Called with lines that a person should read."""


def no_notice(_line: str) -> None:
    """Ignore it."""


def find_run(run: str | Path | None, notice: Notice) -> Path:
    """The run folder that `run` names; without one, `runs/latest`, which `notice` says."""
    if run is None:
        if not LATEST.exists():
            raise FileFormatError(f"there is no {LATEST} here; name a run folder, or train one: edgerl train")
        run = short(LATEST.resolve())
        notice(f"using {run}")
    run = Path(run)
    kind = what_is(run)
    how = importing(kind, run)
    if how or not run.is_dir():
        raise FileFormatError(f"{run} is {kind}; expected a run folder, as edgerl train makes{how}")
    return run


def find_subject(source: Path | None, notice: Notice) -> Path:
    """What is to become smaller: the policy file that `source` names, else a run folder as `find_run` takes it."""
    return source if source is not None and source.is_file() else find_run(source, notice)


def find_model(
    model: str | Path | None,
    notice: Notice,
    names: tuple[str, ...] = (POLICY, ONNX),
    *,
    prefers_first: bool = False,
    fix: str = "train one: edgerl train",
) -> Path:
    """The model file that `model` (a file or a run folder) names; without one, that of `runs/latest`, which `notice`
    says.

    `names` are the file names, in a run folder, that the calling command can read. Of several the newest is
    meant, or the first of `names` where the command `prefers_first`. `fix` says how to get one.
    """
    if model is not None and not Path(model).is_dir():
        if not Path(model).exists():
            raise FileFormatError(f"{model} is not there; name a policy file or a run folder")
        return Path(model)
    if model is None and not LATEST.exists():
        raise FileFormatError(f"no model was named and there is no {LATEST} here; train one first: edgerl train")
    folder = LATEST.resolve() if model is None else Path(model)
    found = [path for name in names if (path := folder / name).is_file()]
    if not found:
        kind = what_is(folder)
        which = short(folder) if kind == "a folder" else f"{short(folder)}, {kind},"
        how = importing(kind, short(folder)) or f"; {fix}"
        raise FileFormatError(f"{which} holds no {' or '.join(names)}{how}")
    meant = found[0] if prefers_first else max(found, key=lambda path: path.stat().st_mtime_ns)
    notice(f"using {short(meant)}")
    return short(meant)


def find_learner(bundle: str | Path | None, notice: Notice) -> Path:
    """The bundle that `bundle` (a file or a run folder) names; without one, that in the current folder, or else that of
    the newest run that has one, which `notice` says."""
    from edgerl.edge.runtimes import refuse_onnx

    if bundle is None and (nearest := _nearest_bundle()):
        notice(f"using {nearest}")
        return nearest
    found = find_model(bundle, notice, (LEARNER,), fix="export one: edgerl export --format learner")
    refuse_onnx(found, "native", f"a {LEARNER}: edgerl export --format learner")
    if (kind := what_is(found)).startswith(STABLE_BASELINES3):
        raise UnsupportedModelError(
            f"{found} is {kind}; expected a {LEARNER}: edgerl export {found} --format learner makes one of a SAC or TD3"
        )
    if kind == TENSOR_FILES["policy"]:
        raise UnsupportedModelError(
            f"{found} is {kind}, which holds no critics to learn on with; expected a {LEARNER}: edgerl export RUN "
            "--format learner makes one of the run that it is from"
        )
    return found


def _nearest_bundle() -> Path | None:
    for path in (Path(LEARNER), LATEST.resolve() / LEARNER):
        if path.is_file():
            return short(path)
    return max(RUNS.glob(f"*/{LEARNER}"), key=_trained_at, default=None)


def _trained_at(bundle: Path) -> int:
    """When its run was last trained, as far as that is known."""
    checkpoint = bundle.with_name(CHECKPOINT)
    return (checkpoint if checkpoint.exists() else bundle).stat().st_mtime_ns


def load_policy(path: Path, notice: Notice) -> Policy | OnnxPolicy:
    """The policy, on the engine that its file is for; `notice` says what a person should know of a foreign one."""
    if not is_onnx(path):
        from edgerl.edge.acting.policy import Policy

        return Policy.load(path)
    from edgerl.edge.acting.onnx_policy import OnnxPolicy
    from edgerl.profiling.budgets.onnx_graph import output_bounds

    policy = OnnxPolicy(path)
    if not policy.is_ours:
        notice(
            f"{path} was not written by edgerl: onnxruntime executes whatever it holds; run only files that you trust"
        )
        policy.action_low, policy.action_high = output_bounds(path, policy.n_actions) or (None, None)
        if policy.action_low is None:
            notice(f"{path} does not tell the bounds of its actions: what is beyond the environment's is cut")
    source, made_from = path.with_name(POLICY), policy.metadata.get("policy_sha256")
    if path.name == ONNX and made_from and source.is_file() and sha256(source.read_bytes()).hexdigest() != made_from:
        notice(f"{path} was not made from the {POLICY} beside it; export again: edgerl export {source}")
    return policy


def environment_in(about: Mapping[str, Any], source: Path) -> str:
    """The environment that the file `source` names in what it says about itself."""
    name, arguments = about.get("environment"), stated(about)
    if not isinstance(name, str):
        raise ConfigError(f"{source} does not name its environment; name one: `env` HalfCheetah-v5")
    check_consent(name, arguments, None, source)
    return name


def task_of(about: Mapping[str, Any], env: str | None, source: Path, notice: Notice) -> tuple[str, Arguments]:
    """(name, arguments) of the environment to run in: the one that `env` names, else the one of the file `source`; with
    the arguments that the file has for it, which `notice` says: in another task the policy would be misjudged."""
    name = environment_in(about, source) if env is None else env
    arguments, own = stated(about), str(about.get("environment"))
    if not arguments:
        return name, NOTHING
    if name not in (own, own.rpartition("-v")[0]):
        notice(f"{source} is of {own[:80]} with {arguments}; these arguments are not {name}'s, and are left out")
        return name, NOTHING
    notice(f"{name} with {arguments}, as {source} was trained")
    return name, arguments
