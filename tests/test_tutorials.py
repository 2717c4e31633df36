"""The tutorials are run, block by block: programs are written, commands typed, and they print what a page shows.

Training is shortened, measurements vary, and so does the machine: texts are compared without numbers and its name.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from tests.profiling.machine import BOARD, KnownMachine, fake_linux

DOCS = Path(__file__).parents[1] / "docs"
BLOCK = re.compile(r"(?:`(?P<file>\w+\.py)`:\n\n)?^```(?P<kind>\w+)\n(?P<text>.*?)^```", re.MULTILINE | re.DOTALL)
TRAINING = {"--preset quick": "--preset quick --steps 600"}
RUNNING = {"--seconds 10": "--seconds 0.5"}
Run = Callable[..., tuple[int, str, str]]


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


def follow(page: str, edgerl: Run, changes: Mapping[str, str]) -> None:
    """Do what a page says; each key of `changes` is in it, and is replaced in its commands and programs."""
    text = (DOCS / page).read_text(encoding="utf-8")
    assert all(long in text for long in changes)
    printed = ""
    for block in BLOCK.finditer(text):
        kind, body, file = block["kind"], block["text"], block["file"]
        if kind == "text":
            assert printed, f"{page}: output without commands"
            assert_prints(body, printed)
            continue
        for long, short in changes.items():
            body = body.replace(long, short)
        if kind == "bash":
            printed = "".join(typed(line, edgerl) for line in body.splitlines())
        elif kind == "python" and file:
            Path(file).write_text(body, encoding="utf-8")
        elif kind == "python":
            exec(compile(body, page, "exec"), {})


def typed(line: str, edgerl: Run) -> str:
    """What a command prints; it succeeds. What it says on stderr may come before its result, or after it."""
    if line.startswith("edgerl "):
        command, _, file = line.partition(" > ")
        code, out, err = edgerl(*shlex.split(command)[1:])
        if file:
            Path(file).write_text(out)
    else:
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, env={**os.environ, "PATH": path})
        code, out, err = done.returncode, done.stdout, done.stderr
    assert code == 0, f"{line}: {err}"
    return err + out + err


@pytest.mark.needs("chromium")  # its packages include a renderer
def test_quick_start(edgerl: Run) -> None:
    follow("quickstart.md", edgerl, {**TRAINING, "--steps 200": "--steps 8"})


def test_from_training_to_a_board(edgerl: Run) -> None:
    changes = {"\nedgerl prune\n": "\nedgerl prune --episodes 1\n", "seconds=10": "seconds=0.5"}
    follow("tutorials/board.md", edgerl, {**TRAINING, **RUNNING, **changes})
    shutil.copy("runs/latest/policy.safetensors", ".")  # what the page copies onto the board
    done = subprocess.run([sys.executable, "act.py"], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    counts = re.findall(r"\b(?:cycles|skipped_ticks)=(\d+)", done.stdout)
    assert sum(map(int, counts)) == 50, done.stdout  # half a second at 100 Hz, however busy this machine is


def test_your_own_environment(edgerl: Run) -> None:
    follow("tutorials/environment.md", edgerl, {**TRAINING, **RUNNING})
    (refusal,) = re.findall(r"^edgerl: .*\n", (DOCS / "tutorials/environment.md").read_text(), flags=re.MULTILINE)
    Path("wrong.py").write_text(Path("dock.py").read_text().replace("[self.position, self.speed]", "[0, 0, 0]"))
    code, _, err = edgerl("train", "--env", "wrong:make")
    assert (code, err) == (2, refusal.replace("dock", "wrong"))


@pytest.mark.needs("x86_64-linux-gnu-gcc", "aarch64-linux-gnu-gcc", "arm-linux-gnueabihf-gcc")
def test_your_own_board(edgerl: Run, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """On a board whose Linux tells no more than a number of its processor, though the page's tells more."""
    fake_linux(tmp_path_factory.mktemp("linux"), monkeypatch, BOARD)
    KnownMachine().install(monkeypatch)
    assert edgerl("train", "--preset", "quick", "--steps", 600, "--sparsity", 0.9)[0] == 0
    assert edgerl("export", "--format", "onnx")[0] == 0
    follow("tutorials/profile.md", edgerl, {})


@pytest.mark.parametrize("page", ["quickstart.md", "tutorials/board.md", "tutorials/profile.md"])
def test_commands_that_are_not_run_have_options_that_exist(edgerl: Run, page: str) -> None:
    for block in BLOCK.finditer((DOCS / page).read_text(encoding="utf-8")):
        for line in block["text"].splitlines() if block["kind"] == "sh" else ():
            if line.startswith("edgerl "):
                _, out, _ = edgerl(line.split()[1], "--help")
                for option in re.findall(r"--[a-z-]+", line):
                    assert f"{option} " in out, line


@pytest.mark.parametrize(
    ("shown", "printed", "is_there"),
    [
        ("a 30.6 s", "first\na 1 min 3 s\nlast", True),
        ("file 5.5 KiB → 384 B: x", "file   1.0 MiB → 2 B: x", True),
        ("my.toml: This machine, Intel(R) Xeon(R) Processor", "my.toml: This machine, 0xd03", True),
        (" a   b\n ────\n…\n c   1", " a  b \n ──────── \n left out\n c  -2.1e-06 \n", True),
        ("one\ntwo", "two\none", False),
        ("one", "one two", False),
        ("return 5", "return five", False),
    ],
)
def test_texts_are_compared_without_their_numbers(shown: str, printed: str, is_there: bool) -> None:
    if is_there:
        assert_prints(shown, printed)
        return
    with pytest.raises(AssertionError, match="which is not printed"):
        assert_prints(shown, printed)
