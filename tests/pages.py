"""Pages of docs/ as a reader follows them: programs are written, commands typed, and they print what a page shows.

A page is followed in the shell or in Python, as the tabs of the site have it. Training is shortened, measurements vary,
and so does the machine: texts are compared without numbers and its name.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
BLOCK = re.compile(
    r"(?:`(?P<file>[\w/-]+\.(?:py|c|toml))`:\n\n)?^```(?P<kind>\w*)\n(?P<text>.*?)^```$", flags=re.MULTILINE | re.DOTALL
)
Run = Callable[..., tuple[int, str, str]]
Reader = Literal["shell", "python"]


def script(name: str) -> ModuleType:
    """A module of docs/site."""
    specification = importlib.util.spec_from_file_location(name, DOCS / f"site/{name}.py")
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


TABS: re.Pattern[str] = script("pages").TABS


@dataclass(frozen=True)
class Block:
    """A fenced block: `file` is the name that it has on the page."""

    kind: str
    text: str
    file: str | None


def blocks(markdown: str) -> Iterator[Block]:
    """All fenced blocks, in order."""
    for found in BLOCK.finditer(markdown):
        yield Block(found["kind"], found["text"], found["file"])


def shapes(text: str) -> list[str]:
    """The lines of a text without what varies: this machine, numbers, units of time and size, the width of columns."""
    text = re.sub(r"This machine, .*", "This machine, NAME", text)
    text = re.sub(r"─+", "─", text)
    text = re.sub(r"[-+]?\d[\d.]*(e[-+]?\d+)?", "#", text)
    text = re.sub(r"(?:# (?:min|s|ms|µs|ns)\b ?)+", "#TIME ", text)
    text = re.sub(r"# (?:B|[KMG]iB)\b", "#BYTES", text)
    text = re.sub(r"\b(?:sparse|dense)(?=\s+#\s*$)", "LAYOUT", text, flags=re.MULTILINE)  # that of the fewest bytes
    text = re.sub(r"the (?:mean of the last # evaluations|last evaluation)", "EVALUATIONS", text)  # of how many
    text = re.sub(r"(?:unfinished episode|episode #)(?=: return)", "episode", text)
    return [line for line in (" ".join(line.split()) for line in text.splitlines()) if line not in ("", "…")]


def assert_prints(shown: str, printed: str) -> None:
    """Every line that a page shows was printed, in that order; a page may leave lines out."""
    rest = iter(shapes(printed))
    for line in shapes(shown):
        assert line in rest, f"the page shows {line!r}, which is not printed (here) by\n{printed}"


class Follower:
    """Follows pages in the current folder.

    `changes`: what is replaced in commands and programs, each of it on the page. `instead`: what is done for a line
    that begins so. `names`: what a program of the page has beside its own.
    """

    def __init__(
        self,
        edgerl: Run,
        changes: Mapping[str, str] | None = None,
        *,
        instead: Mapping[str, Callable[[str], str]] | None = None,
        names: Mapping[str, Any] | None = None,
    ) -> None:
        self.edgerl, self.changes, self.instead = edgerl, changes or {}, instead or {}
        self.names = dict(names or {})
        self.printed = ""

    def follow(self, page: str, reader: Reader = "shell") -> str:
        """Do what a page says, or one chapter of it (`page.md#Heading`); what the last block printed."""
        name, _, heading = page.partition("#")
        text = (DOCS / name).read_text(encoding="utf-8")
        if heading:
            text = text.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
        assert [long for long in self.changes if long not in text] == []
        for block in blocks(TABS.sub(lambda found: found[reader], text)):
            self._do(block, page)
        return self.printed

    def _do(self, block: Block, page: str) -> None:
        body = block.text
        if block.kind == "text":
            assert self.printed, f"{page}: output without commands"
            assert_prints(body, self.printed)
            return
        for long, short in self.changes.items():
            body = body.replace(long, short)
        if block.file:
            Path(block.file).write_text(body, encoding="utf-8")
        elif block.kind == "bash":
            self.printed = "".join(self._typed(line) for line in body.splitlines())
        elif block.kind == "python":
            with contextlib.redirect_stdout(io.StringIO()) as out:
                exec(compile(body, page, "exec"), self.names)
            self.printed = out.getvalue()
        elif block.kind == "diff":
            apply(body)

    def _typed(self, line: str) -> str:
        """What a command prints; it succeeds. What it says on stderr may come before its result, or after it."""
        for beginning, act in self.instead.items():
            if line.startswith(beginning):
                return act(line)
        if line.startswith("edgerl "):
            command, _, file = line.partition(" > ")
            code, out, err = self.edgerl(*shlex.split(command)[1:])
            if file:
                Path(file).write_text(out)
        else:
            environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
            done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, env=environment)
            code, out, err = done.returncode, done.stdout, done.stderr
        assert code == 0, f"{line}: {err}"
        return err + out + err


def apply(changes: str) -> None:
    """Change files below the current folder as a `diff` block says: `--- file`, then lines that occur there once, of
    which those with `-` leave and those with `+` come."""
    for file, lines in re.findall(r"^--- (\S+)\n((?:[ +-].*\n)+?)(?=---|\Z)", changes, flags=re.MULTILINE):
        old, new = ("".join(line[1:] for line in lines.splitlines(True) if line[0] in kept) for kept in (" -", " +"))
        text = Path(file).read_text(encoding="utf-8")
        assert text.count(old) == 1, f"{file} has {text.count(old)} of\n{old}"
        Path(file).write_text(text.replace(old, new), encoding="utf-8")
