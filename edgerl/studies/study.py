"""What a study is: a grid of runs, in one TOML file.

    title = "What the file asks"

    [run]                      # the same for every run
    steps = 300000

    [grid]                     # every combination of these values is a run
    environment = ["HalfCheetah-v5"]
    method = ["td3", "ds-td3"]
    seed = [0, 1, 2]

A key is an option of a run (edgerl.training.config), or `preset` under [run]. The study files of the package are named
without their ending: table1, schedule, sparsity, quick.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from edgerl.errors import ConfigError, FileFormatError, nearest, quoted, reason
from edgerl.files import read_bytes
from edgerl.run_folder import RUNS
from edgerl.training.config import option_names

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PACKAGED = Path(__file__).parent
"""Where the study files of the package are."""

RECORD = "study.json"
"""In a study's folder: the study as it was last swept."""

MAXIMUM_RUNS = 10_000
_MAXIMUM_TITLE = 200

Value = str | int | float | bool | tuple[int, ...]


@dataclass(frozen=True)
class Study:
    """A grid over options of a run. `grid` and `fixed` have no key in common."""

    name: str
    title: str
    preset: str
    grid: Mapping[str, tuple[Value, ...]]  # key → its values, none twice; environment, method and seed are there
    fixed: Mapping[str, Value]

    @property
    def varying(self) -> tuple[str, ...]:
        """The keys, but for environment, method and seed, that have several values."""
        return tuple(k for k, values in self.grid.items() if len(values) > 1 and k not in DEFAULTS)

    @property
    def n_combinations(self) -> int:
        """The size of the grid, before combinations that come to the same run are left out."""
        count = 1
        for values in self.grid.values():
            count *= len(values)
        return count


DEFAULTS: Mapping[str, tuple[Value, ...]] = {
    "environment": ("HalfCheetah-v5",),
    "method": ("ds-td3",),
    "seed": (0,),
}
"""What every study has, and its values where the file has none."""


def packaged_studies() -> list[str]:
    """The names of the study files that the package brings."""
    return sorted(path.stem for path in PACKAGED.glob("*.toml"))


def default_folder(name: str) -> Path:
    """Where a study's runs are when nobody says otherwise."""
    return RUNS / name


def load_study(study: str | Path) -> Study:
    """A study of the package by its name, or the one in a TOML file.

    Raises FileFormatError where there is none, ConfigError where something in it is not as it must be.
    """
    path = Path(study)
    if path.suffix != ".toml":
        known = packaged_studies()
        if str(study) not in known:
            raise FileFormatError(
                f"study {quoted(str(study))} is neither a file with the ending .toml nor one of {', '.join(known)}"
                f"{nearest(str(study), known)}"
            )
        path = PACKAGED / f"{study}.toml"
    data = read_bytes(path)
    try:
        document = tomllib.loads(data.decode())
    except (ValueError, RecursionError) as error:
        raise FileFormatError(f"{path} is no study file ({reason(error)})") from error
    return parse_study(document, path.stem, str(path))


def parse_study(document: Mapping[str, Any], name: str, source: str) -> Study:
    """A study from parsed TOML or JSON, which is not trusted. Raises ConfigError that names `source`."""
    if re.fullmatch(r"[\w.+-]+", name) is None:
        raise ConfigError(f"{source}: {quoted(name)} cannot name a folder; use letters, digits, '-', '_', '.' and '+'")
    _check_keys(document, ["title", "grid", "run"], source, "")
    title, grid, run = document.get("title", name), document.get("grid", {}), document.get("run", {})
    if not isinstance(title, str) or not title.isprintable() or len(title) > _MAXIMUM_TITLE:
        raise ConfigError(f"{source}: title is {quoted(title)}; expected at most {_MAXIMUM_TITLE} printable characters")
    for table, known in (("grid", option_names()), ("run", [*option_names(), "preset"])):
        content = document.get(table, {})
        if not isinstance(content, dict):
            raise ConfigError(f"{source}: {table} is {quoted(content)}; expected a table, [{table}]")
        _check_keys(content, known, source, f"{table}.")
    if not grid:
        raise ConfigError(f'{source} is empty: [grid] names no run; expected such as environment = ["HalfCheetah-v5"]')
    if twice := sorted(set(grid) & set(run)):
        raise ConfigError(f"{source}: {twice[0]} is in [grid] and in [run]; expected it in one of them")
    fixed = {key: _value(value) for key, value in run.items() if key != "preset"}
    lists = {key: _values(key, values, source) for key, values in grid.items()}
    defaults = {key: (fixed.pop(key),) if key in fixed else values for key, values in DEFAULTS.items()}
    study = Study(name, title, run.get("preset", "paper"), {**defaults, **lists}, fixed)
    if study.n_combinations > MAXIMUM_RUNS:
        raise ConfigError(f"{source} has {study.n_combinations} runs; expected at most {MAXIMUM_RUNS}")
    return study


def _check_keys(table: Mapping[str, Any], known: Sequence[str], source: str, prefix: str) -> None:
    for key in table:
        if key not in known:
            raise ConfigError(f"{source}: key {quoted(prefix + key, 80)} is unknown{nearest(key, known)}")


def _values(key: str, values: object, source: str) -> tuple[Value, ...]:
    if not isinstance(values, list):
        raise ConfigError(f"{source}: grid.{key} is {quoted(values)}; expected a list, or the key in [run]")
    if not values:
        raise ConfigError(f"{source}: grid.{key} is an empty list, which makes no run; expected at least one value")
    unique = dict.fromkeys(json.dumps(value, default=str) for value in values)
    if len(unique) < len(values):
        raise ConfigError(f"{source}: grid.{key} has a value twice; expected each once")
    return tuple(_value(value) for value in values)


def _value(value: Any) -> Any:
    """As the configuration takes it, which checks it."""
    return tuple(value) if isinstance(value, list) else value


def narrowed(
    study: Study,
    *,
    steps: int | None = None,
    environments: Sequence[str] | None = None,
    seeds: Sequence[int] | None = None,
) -> Study:
    """The study with other steps, and with these environments and seeds alone (any seeds, and environments it has).

    Raises ConfigError.
    """
    grid, fixed = dict(study.grid), dict(study.fixed)
    if steps is not None:
        grid.pop("steps", None)
        fixed["steps"] = steps
    for name in environments or ():
        if name not in grid["environment"]:
            own = [str(value) for value in grid["environment"]]
            raise ConfigError(
                f"environment {quoted(name)} is not in the study {study.name}, which has {', '.join(own)}"
                f"{nearest(name, own)}"
            )
    if environments:
        grid["environment"] = tuple(dict.fromkeys(environments))
    if seeds:
        grid["seed"] = tuple(dict.fromkeys(seeds))
    return replace(study, grid=grid, fixed=fixed)


def to_record(study: Study) -> str:
    """The content of study.json."""
    document = {
        "title": study.title,
        "run": {"preset": study.preset, **study.fixed},
        "grid": {key: list(values) for key, values in study.grid.items()},
    }
    return json.dumps(document, indent=2) + "\n"


def read_record(folder: Path) -> Study:
    """The study that was last swept in a folder. Raises FileFormatError, ConfigError; nothing in it is trusted."""
    path = folder / RECORD
    try:
        document = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise FileFormatError(f"{folder} is no study's folder ({RECORD}: {reason(error)})") from error
    if not isinstance(document, dict):
        raise FileFormatError(f"{path} holds no JSON object; sweep the study again")
    return parse_study(document, folder.resolve().name, str(path))


def find_swept(study: str | Path, out: Path | None = None) -> tuple[Study, Path]:
    """A study and the folder of its runs: as it was last swept there, where it was; else as its file has it.

    study: a study's name or file, or the folder of one that was swept. out: its folder, where not runs/<name>.

    Raises FileFormatError, ConfigError.
    """
    folder = Path(study)
    if out is None and (folder / RECORD).is_file():
        return read_record(folder), folder
    loaded = load_study(study)
    folder = default_folder(loaded.name) if out is None else out
    if (folder / RECORD).is_file():
        return replace(read_record(folder), name=loaded.name), folder
    return loaded, folder
