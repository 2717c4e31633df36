"""The one reader of TOML: what it takes is what Python's own takes, but for what would keep it busy for minutes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import tomllib

from edgerl.errors import DeviceError, FileFormatError
from edgerl.files.toml import MAXIMUM_BYTES, MAXIMUM_PARTS, parse_toml
from edgerl.profiling.budgets.device import load_device
from edgerl.studies.study import load_study, packaged_studies

DOTS = ".".join("abcdefgh" * 10)
TOO_LONG = ".".join(["a"] * (MAXIMUM_PARTS + 1))


def _key(parts: int) -> str:
    return ".".join(["a"] * parts)


@pytest.mark.parametrize(
    "text",
    [
        f"{_key(MAXIMUM_PARTS)} = 1\n[{_key(MAXIMUM_PARTS)[:-1]}b]\nc = 1.5\n",
        f'source = "{DOTS}"\nother = "\\"{DOTS}"\n',
        f"source = '{DOTS}'\n",
        f'source = """\n"{DOTS}""{DOTS}\\"""{DOTS}"""""\n',
        f"source = '''{DOTS}'{DOTS}''{DOTS}'''''\n",
        f"# it's {DOTS}\nseed = [ # \"{DOTS}\n 1, 2]\n",
        "",
    ],
)
def test_what_pythons_own_reader_takes_is_taken(text: str) -> None:
    assert parse_toml(text.encode(), "it") == tomllib.loads(text)


@pytest.mark.parametrize("study", packaged_studies())
def test_packaged_studies(study: str) -> None:
    assert load_study(study).name == study


@pytest.mark.parametrize(
    "text",
    [
        f"{TOO_LONG} = 1",
        f"[{TOO_LONG}]",
        f"[[ {TOO_LONG} ]]",
        TOO_LONG.replace(".", " \t. ") + " = 1",
        ".".join(['"a\\"b"'] * (MAXIMUM_PARTS + 1)) + " = 1",
        ".".join(["'a'"] * (MAXIMUM_PARTS + 1)) + " = 1",
        "x = {z = '''b''''', " + TOO_LONG + " = 1}",
        'x = {z = """b\\"""""", ' + TOO_LONG + " = 1}",
        'x = {z = "it\'s", ' + TOO_LONG + " = 1}",
        "# it's \"a comment\n" + TOO_LONG + " = 1",
    ],
)
def test_a_key_of_many_parts_is_refused_wherever_it_hides(text: str) -> None:
    """The parser itself takes every one of them."""
    tomllib.loads(text)
    with pytest.raises(FileFormatError, match=r"^it is not a TOML file \(a key has more than 32 parts\)$"):
        parse_toml(text.encode(), "it")


def test_size_and_encoding() -> None:
    assert parse_toml(b"#" * MAXIMUM_BYTES, "it") == {}
    with pytest.raises(FileFormatError, match=r"^it has 65537 bytes; expected at most 65536$"):
        parse_toml(b"#" * (MAXIMUM_BYTES + 1), "it")
    with pytest.raises(FileFormatError, match=r"^it is not a TOML file \('utf-8' codec"):
        parse_toml(b"\xff", "it")


@pytest.mark.parametrize(("load", "error"), [(load_device, DeviceError), (load_study, FileFormatError)])
@pytest.mark.parametrize(
    ("size", "message"), [(100_000, "of 100003 bytes; expected at most 65536"), (60_000, "a key has more than 32")]
)
def test_studies_and_profiles_have_the_same_bounds(
    load: Callable[[Path], object], error: type[Exception], size: int, message: str
) -> None:
    """The parser needs more than a minute for the larger one."""
    path = Path("own.toml")
    path.write_text("a." * (size // 2) + "a=1")
    with pytest.raises(error, match=message):
        load(path)
