"""Which model a command means when it is given a run folder, or nothing (docs/quickstart.md)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgerl.cli.support.output import note
from edgerl.environments.consent import check_consent
from edgerl.errors import ConfigError, FileFormatError
from edgerl.files.kind import what_is
from edgerl.run_folder import LATEST, ONNX, POLICY, short

if TYPE_CHECKING:
    from edgerl.environments.arguments import Arguments


def named_path(text: str) -> Path:
    """The path that an argument names; pathlib takes an empty one, as from a variable that is not set, for here."""
    if not text:
        raise ConfigError("an argument is empty; expected a path")
    return Path(text)


def find_run(run: Path | None) -> Path:
    """The run folder that `run` names; without one, `runs/latest`, printed."""
    if run is None:
        if not LATEST.exists():
            raise FileFormatError(f"there is no {LATEST} here; name a run folder, or train one: edgerl train")
        run = short(LATEST.resolve())
        note(f"using {run}")
    if not run.is_dir():
        raise FileFormatError(f"{run} is {what_is(run)}; expected a run folder, as edgerl train makes")
    return run


def find_model(
    model: Path | None,
    names: tuple[str, ...] = (POLICY, ONNX),
    *,
    prefers_first: bool = False,
    fix: str = "train one: edgerl train",
) -> Path:
    """The model file that `model` (a file or a run folder) names; without one, that of `runs/latest`, printed.

    `names` are the file names, in a run folder, that the calling command can read. Of several that are there the newest
    is meant, what was made last: or the first of `names` where the command `prefers_first`. `fix` says how to get one.
    """
    if model is not None and not model.is_dir():
        if not model.exists():
            raise FileFormatError(f"{model} is not there; name a policy file or a run folder")
        return model
    if model is None and not LATEST.exists():
        raise FileFormatError(f"no model was named and there is no {LATEST} here; train one first: edgerl train")
    folder = LATEST.resolve() if model is None else model
    found = [path for name in names if (path := folder / name).is_file()]
    if not found:
        kind = what_is(folder)
        which = short(folder) if kind == "a folder" else f"{short(folder)}, {kind},"
        raise FileFormatError(f"{which} holds no {' or '.join(names)}; {fix}")
    meant = found[0] if prefers_first else max(found, key=lambda path: path.stat().st_mtime_ns)
    note(f"using {short(meant)}")
    return short(meant)


def environment_in(about: Mapping[str, Any], source: Path) -> str:
    """The environment that the file `source` names in what it says about itself."""
    from edgerl.environments.arguments import stated

    name, arguments = about.get("environment"), stated(about)
    if not isinstance(name, str):
        raise ConfigError(f"{source} does not name its environment; name one: --env HalfCheetah-v5")
    check_consent(name, arguments, None, source)
    return name


def task_of(about: Mapping[str, Any], env: str | None, source: Path) -> tuple[str, Arguments]:
    """(name, arguments) of the environment to run in: the one that `env` names, else the one of the file `source`; with
    the arguments that the file has for it, printed: in another task the policy would be misjudged."""
    from edgerl.environments.arguments import NOTHING, stated

    name = environment_in(about, source) if env is None else env
    arguments, own = stated(about), str(about.get("environment"))
    if not arguments:
        return name, NOTHING
    if name not in (own, own.rpartition("-v")[0]):
        note(f"{source} is of {own[:80]} with {arguments}; these arguments are not {name}'s, and are left out")
        return name, NOTHING
    note(f"{name} with {arguments}, as {source} was trained")
    return name, arguments
