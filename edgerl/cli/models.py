"""Which model a command means when it is given none: the newest in the newest run that holds a policy."""

from __future__ import annotations

from pathlib import Path

from edgerl.cli.output import note
from edgerl.errors import FileFormatError
from edgerl.run_folder import LATEST, ONNX, POLICY


def find_run(run: Path | None) -> Path:
    """The run folder that `run` names; without one, `runs/latest`, printed."""
    if run is None:
        if not LATEST.exists():
            raise FileFormatError(f"there is no {LATEST} here; name a run folder, or train one: edgerl train")
        run = _short(LATEST.resolve())
        note(f"using {run}")
    if not run.is_dir():
        raise FileFormatError(f"{run} is {'a file' if run.exists() else 'not there'}; expected a run folder")
    return run


def find_model(model: Path | None, names: tuple[str, ...] = (POLICY, ONNX)) -> Path:
    """The model file that `model` (a file or a run folder) names; without one, the newest in `runs/latest`, printed.

    `names` are the file names, in a run folder, that the calling command can read.
    """
    try:
        is_folder, exists = model is not None and model.is_dir(), model is not None and model.exists()
    except OSError as error:
        raise FileFormatError(f"cannot read {model}: {error.strerror}") from error
    if model is not None and not is_folder:
        if not exists:
            raise FileFormatError(f"{model} is not there; name a policy file or a run folder")
        return model
    if model is None and not LATEST.exists():
        raise FileFormatError(f"no model was named and there is no {LATEST} here; train one first: edgerl train")
    folder = LATEST.resolve() if model is None else model
    found = [path for name in names if (path := folder / name).is_file()]
    if not found:
        wanted = "export one: edgerl export --format onnx" if names == (ONNX,) else "train one: edgerl train"
        raise FileFormatError(f"{_short(folder)} holds no {' or '.join(names)}; {wanted}")
    newest = max(found, key=lambda path: path.stat().st_mtime_ns)
    note(f"using {_short(newest)}")
    return _short(newest)


def _short(path: Path) -> Path:
    return path.relative_to(Path.cwd()) if path.is_absolute() and path.is_relative_to(Path.cwd()) else path
