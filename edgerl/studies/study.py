"""What a study is: a grid of runs, in one TOML file.

    title = "The question"

    [run]                      # the same for every run
    steps = 300000

    [grid]                     # every combination of these values is a run
    environment = ["HalfCheetah-v5"]
    method = ["td3", "ds-td3"]
    seed = [0, 1, 2]

    [variants.plain]           # with each of these sets of options, which come before those under [run]
    [variants.layer-norm]
    critic_norm = "layer"

A key is an option of a run (edgerl.config), its `method`, or `preset` under [run]. The package's own study files are
named without their suffix: table1, schedule, sparsity, quick, recipe.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from edgerl.config import METHOD_PREFIXES, OPTIONS
from edgerl.environments.arguments import NOTHING, Arguments, checked
from edgerl.environments.consent import check_consent
from edgerl.errors import ConfigError, FileFormatError, bare, nearest, quoted, reason
from edgerl.files.atomic import MAXIMUM_JSON_BYTES, read_text
from edgerl.files.kind import what_is
from edgerl.files.strict_json import parse_json
from edgerl.files.toml import read_toml
from edgerl.run_folder import RUNS

PACKAGED = Path(__file__).parent
"""Where the study files of the package are."""

RECORD = "study.json"
"""In a study's folder: the study as last swept, with all environments and seeds of all sweeps."""

MAXIMUM_RUNS = 10_000
_MAXIMUM_TITLE = 200
_LARGEST_INTEGER = 1 << 63

Value = str | int | float | bool | tuple[int, ...] | Arguments


@dataclass(frozen=True)
class Study:
    """A grid over options of a run. `grid` and `fixed` have no key in common."""

    name: str
    title: str
    preset: str
    grid: Mapping[str, tuple[Value, ...]]  # key → its values, each once; always with environment, method and seed
    fixed: Mapping[str, Value]
    variants: Mapping[str, Mapping[str, Value]] = field(default_factory=dict)  # of `fixed`; then the grid has VARIANT

    @property
    def varying(self) -> tuple[str, ...]:
        """The keys with several values, except those of the task, the method and the seed."""
        return tuple(k for k, values in self.grid.items() if len(values) > 1 and k not in (*DEFAULTS, "env_args"))

    @property
    def tasks(self) -> list[tuple[str, Arguments]]:
        """Its environments, each with all its sets of arguments."""
        arguments = self.grid.get("env_args", (self.fixed.get("env_args", NOTHING),))
        return [(str(name), checked(each)) for name in self.grid["environment"] for each in arguments]

    @property
    def n_combinations(self) -> int:
        """The size of the grid, including combinations that are the same run."""
        return math.prod(map(len, self.grid.values()))


VARIANT = "variant"
"""The key of a grid with the names of the variants."""

DEFAULTS: Mapping[str, tuple[Value, ...]] = {
    "environment": ("HalfCheetah-v5",),
    "method": ("ds-td3",),
    "seed": (0,),
}
"""The keys of every study, with their default values."""

KEYS = ("method", *OPTIONS)
"""What a grid, or a variant, is of."""

_TASK_AND_SEED = ("environment", "env_args", "seed")
"""What no variant has: `Study.tasks` names every environment that a study makes, and the grid every seed."""


def packaged_studies() -> list[str]:
    """The names of the package's study files."""
    return sorted(path.stem for path in PACKAGED.glob("*.toml"))


def default_folder(name: str) -> Path:
    """The default folder of a study's runs."""
    return RUNS / name


def load_study(study: str | Path) -> Study:
    """A study of the package by its name, or the one in a TOML file.

    Raises FileFormatError where there is none, ConfigError where it is not valid.
    """
    path = Path(study)
    if path.suffix != ".toml":
        known = packaged_studies()
        if str(study) not in known:
            kind = what_is(path)
            subject = f"study {quoted(str(study), 80)}" if kind == "not there" else f"{study}"
            raise FileFormatError(
                f"{subject} is {kind}; expected a study: a folder that was swept, a file that ends in .toml, or one of "
                f"{', '.join(known)}{nearest(str(study), known)}"
            )
        path = PACKAGED / f"{study}.toml"
    return parse_study(read_toml(path), path.stem, str(path))


def parse_study(document: Mapping[str, Any], name: str, source: str) -> Study:
    """A study from parsed TOML or JSON, which is not trusted. Raises ConfigError that names `source`."""
    if re.fullmatch(r"[\w.+-]+", name) is None:
        raise ConfigError(f"{source}: {quoted(name)} cannot name a folder; use letters, digits, '-', '_', '.' and '+'")
    _check_keys(document, ["title", "grid", "run", "variants"], source, "")
    title, grid, run = document.get("title", name), document.get("grid", {}), document.get("run", {})
    if not isinstance(title, str) or not title.isprintable() or len(title) > _MAXIMUM_TITLE:
        raise ConfigError(f"{source}: title is {quoted(title)}; expected at most {_MAXIMUM_TITLE} printable characters")
    for table, known in (("grid", KEYS), ("run", (*KEYS, "preset"))):
        content = document.get(table, {})
        if not isinstance(content, dict):
            raise ConfigError(f"{source}: {table} is {quoted(content)}; expected a table, [{table}]")
        _check_keys(content, known, source, f"{table}.")
    if not grid:
        raise ConfigError(
            f'{source} is empty: [grid] names no run; expected a line such as environment = ["HalfCheetah-v5"]'
        )
    if shared := sorted(set(grid) & set(run)):
        raise ConfigError(f"{source}: {shared[0]} is in [grid] and in [run]; expected it in one of them")
    fixed = {key: _value(value, f"{source}: run.{key}") for key, value in run.items() if key != "preset"}
    lists = {key: _values(values, f"{source}: grid.{key}") for key, values in grid.items()}
    if "method" not in {**fixed, **lists}:
        lists["method"] = _methods(fixed, lists, source)
    defaults = {key: (fixed.pop(key),) if key in fixed else values for key, values in DEFAULTS.items()}
    variants = _variants(document.get("variants", {}), {key for key in lists if len(lists[key]) > 1}, source)
    if variants:
        lists[VARIANT] = tuple(variants)
    return _check_size(Study(name, title, run.get("preset", "paper"), {**defaults, **lists}, fixed, variants), source)


def _methods(fixed: dict[str, Value], lists: dict[str, tuple[Value, ...]], source: str) -> tuple[str, ...]:
    """The words for the algorithms and topologies of a study, which are taken out of it: methods name its runs."""
    names = ("algorithm", "topology")
    algorithms, topologies = (lists.pop(name, ()) or (fixed.pop(name, OPTIONS[name].default),) for name in names)
    try:
        for name, values in zip(names, (algorithms, topologies), strict=True):
            for value in values:
                OPTIONS[name].check(value)
    except ConfigError as error:
        raise ConfigError(f"{source}: {bare(error)}") from error
    return tuple(f"{METHOD_PREFIXES[str(topology)]}{algorithm}" for algorithm in algorithms for topology in topologies)


def _variants(tables: object, varying: Set[str], source: str) -> dict[str, dict[str, Value]]:
    if not isinstance(tables, dict):
        raise ConfigError(f"{source}: variants is {quoted(tables)}; expected tables, [variants.NAME]")
    for name, table in tables.items():
        if re.fullmatch(r"[\w.+-]+", name) is None:
            raise ConfigError(
                f"{source}: a variant is called {quoted(name)}; use letters, digits, '-', '_', '.' and '+'"
            )
        if not isinstance(table, dict):
            raise ConfigError(f"{source}: variants.{name} is {quoted(table)}; expected a table, [variants.{name}]")
        _check_keys(table, [key for key in KEYS if key not in _TASK_AND_SEED], source, f"variants.{name}.")
        if shared := sorted(varying & table.keys()):
            raise ConfigError(
                f"{source}: {shared[0]} is in [grid] and in [variants.{name}]; expected it in one of them"
            )
    return {
        name: {key: _value(value, f"{source}: variants.{name}.{key}") for key, value in table.items()}
        for name, table in tables.items()
    }


def _check_size(study: Study, source: str) -> Study:
    if study.n_combinations > MAXIMUM_RUNS:
        raise ConfigError(f"{source} has {study.n_combinations} runs; expected at most {MAXIMUM_RUNS}")
    return study


def _check_keys(table: Mapping[str, Any], known: Sequence[str], source: str, prefix: str) -> None:
    for key in table:
        if key not in known:
            place = "; it belongs under [run]" if key in (*KEYS, "preset") else nearest(key, known)
            raise ConfigError(f"{source}: key {quoted(prefix + key, 80)} is unknown{place}")


def _values(values: object, place: str) -> tuple[Value, ...]:
    if not isinstance(values, list):
        raise ConfigError(f"{place} is {quoted(values)}; expected a list, or the key in [run]")
    if not values:
        raise ConfigError(f"{place} is an empty list, which makes no run; expected at least one value")
    if place.endswith("hidden") and not all(isinstance(value, list) for value in values):
        raise ConfigError(f"{place} is {quoted(values)}; expected a list of lists, such as [[256, 256], [64, 64]]")
    checked_values = tuple(_value(value, place) for value in values)
    if len({(type(value), value) for value in checked_values}) < len(values):
        raise ConfigError(f"{place} has a value twice; expected each once")
    return checked_values


def _value(value: Any, place: str) -> Value:
    """A value for the configuration, which checks it. Raises ConfigError for what no option can be: a date, a table."""
    if place.endswith(".env_args"):
        try:
            return checked(value)
        except ConfigError as error:
            raise ConfigError(f"{place}: {error}") from error
    is_list = isinstance(value, list)
    parts = value if is_list else [value]
    if not all(type(part) is int if is_list else isinstance(part, str | int | float) for part in parts):
        raise ConfigError(f"{place} is {quoted(value)}; expected a number, a text, true, false, or a list of widths")
    if any(isinstance(part, int) and abs(part) >= _LARGEST_INTEGER for part in parts):
        raise ConfigError(f"{place} is {quoted(value)}; expected a number that 64 bits can hold")
    option: Value = tuple(parts) if is_list else value
    return option


def narrowed(
    study: Study,
    *,
    steps: int | None = None,
    environments: Sequence[str] | None = None,
    seeds: Sequence[int] | None = None,
) -> Study:
    """The study with other steps, and with only these environments and seeds (any seeds, and environments it has).

    Raises ConfigError.
    """
    grid, fixed, variants = dict(study.grid), dict(study.fixed), study.variants
    if steps is not None:
        grid.pop("steps", None)
        fixed["steps"] = steps
        variants = {name: {k: v for k, v in own.items() if k != "steps"} for name, own in variants.items()}
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
    narrow = replace(study, grid=grid, fixed=fixed, variants=variants)
    return _check_size(narrow, f"study {study.name}, with these seeds,")


def with_earlier(study: Study, folder: Path) -> Study:
    """The study, with the environments and seeds of its earlier sweep in that folder, if nothing else differs.

    Raises ConfigError where the folder is another study's; FileFormatError.
    """
    if not (folder / RECORD).is_file():
        return study
    earlier = read_record(folder)
    if earlier.name != study.name:
        raise ConfigError(
            f"{folder} is the folder of the study {quoted(earlier.name, 80)}, not of {study.name}; choose another `out`"
        )
    both = {key: tuple(dict.fromkeys((*earlier.grid[key], *study.grid[key]))) for key in ("environment", "seed")}
    is_same = replace(earlier, title=study.title, grid={**earlier.grid, **both}) == replace(
        study, grid={**study.grid, **both}
    )
    return replace(study, grid={**study.grid, **both}) if is_same else study


def to_record(study: Study) -> str:
    """The content of study.json."""
    document = {
        "study": study.name,
        "title": study.title,
        "run": {"preset": study.preset, **study.fixed},
        "grid": {key: list(values) for key, values in study.grid.items() if key != VARIANT},
        "variants": {name: dict(options) for name, options in study.variants.items()},
    }
    return json.dumps(document, indent=2) + "\n"


def read_record(folder: Path) -> Study:
    """The study that was last swept in a folder. Nothing in it is trusted. Raises FileFormatError, ConfigError."""
    path = folder / RECORD
    try:
        document = parse_json(read_text(path, MAXIMUM_JSON_BYTES))
    except ValueError as error:
        raise FileFormatError(f"{path} is damaged ({reason(error)}); remove it, and sweep the study again") from error
    if not isinstance(document, dict) or not isinstance(name := document.pop("study", None), str):
        raise FileFormatError(f"{path} names no study; remove it, and sweep the study again")
    return parse_study(document, name, str(path))


def find_swept(
    study: str | Path, out: Path | None = None, *, environments: Sequence[str] | None = None
) -> tuple[Study, Path]:
    """A study and the folder of its runs: the study as last swept there, or else as in its file.

    study: a study's name or file, or the folder of one that was swept. out: its folder, if not runs/<name>.
    environments: only these.

    Raises FileFormatError; ConfigError, also where only a folder, neither the study's file nor `environments`, names an
    environment that is code.
    """
    folder, loaded = Path(study), None
    if out is not None or not (folder / RECORD).is_file():
        loaded = load_study(study)
        folder = default_folder(loaded.name) if out is None else out
        if not (folder / RECORD).is_file():
            return narrowed(loaded, environments=environments), folder
    swept = read_record(folder)
    if loaded is not None and swept.name != loaded.name:
        raise ConfigError(
            f"{folder} is the folder of the study {quoted(swept.name, 80)}, not of {loaded.name}; name its own: `out`"
        )
    swept = narrowed(swept, environments=environments)
    for name, arguments in swept.tasks:
        is_named = name in (environments or ()) or (loaded is not None and (name, arguments) in loaded.tasks)
        check_consent(name, arguments, name if is_named else None, folder)
    return swept, folder
