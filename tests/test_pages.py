"""Every snippet of every page is run: in the shell, and in Python where a page shows both."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import tomllib
from stable_baselines3 import PPO, SAC

import edgerl as library
from edgerl.edge.acting.onnx_policy import OnnxPolicy
from tests.edge.compiled import WARNINGS
from tests.foreign import write_actor
from tests.importers.files import (
    Task,
    brax_arrays,
    deploy,
    saved_brax_folder,
    saved_brax_parameters,
    saved_checkpoint,
    saved_model,
    write_deploy,
)
from tests.pages import DOCS, ROOT, TABS, Block, Follower, Reader, Run, apply, assert_prints, blocks
from tests.processes import Processes
from tests.profiling.machine import BOARD, KnownMachine, fake_linux

QUICK = {"--preset quick": "--preset quick --steps 600", 'preset="quick"': 'preset="quick", steps=600'}
SECONDS = {"--seconds 10": "--seconds 0.5", "seconds=10": "seconds=0.5"}
SHORT = """\
hidden = [8, 8]
steps = 60
start_steps = 30
evaluation_interval = 30
evaluation_episodes = 1"""
"""The options of a run that is over in a moment, as a study's file has them."""

in_both = pytest.mark.parametrize("reader", ["shell", "python"])


@pytest.fixture(autouse=True)
def _modules_of_a_page(monkeypatch: pytest.MonkeyPatch) -> None:
    """Python finds what a page writes, and the next page's file of the same name is another module."""
    monkeypatch.syspath_prepend(str(Path.cwd()))
    for name in ("arm", "dock"):
        monkeypatch.delitem(sys.modules, name, raising=False)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of docs/train.md, which knows little."""
    folder = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        library.train("HalfCheetah-v5", sparsity=0.9, preset="quick", steps=600)
    return folder


@pytest.fixture
def run(trained: Path) -> Path:
    """That run, in the folder that a page is followed in."""
    shutil.copytree(trained / "runs", "runs", symlinks=True)
    return Path("runs/latest")


@pytest.fixture
def clone() -> None:
    """The repository's folders, as in a clone of it."""
    for name in ("edgerl", "benchmarks", "tools"):
        Path(name).symlink_to(ROOT / name)


@pytest.fixture
def known_machine(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """A board whose Linux tells no more than a number of its processor, and whose times are known."""
    fake_linux(tmp_path_factory.mktemp("linux"), monkeypatch, BOARD)
    KnownMachine().install(monkeypatch)


# ------------------------------------------------------------------------------------------------------ tasks


@in_both
@pytest.mark.needs("chromium")  # its packages include a renderer
def test_quick_start(edgerl: Run, reader: Reader) -> None:
    Follower(edgerl, {**QUICK, "--steps 200": "--steps 8", "steps=200": "steps=8"}).follow("quickstart.md", reader)


@in_both
def test_training(edgerl: Run, reader: Reader) -> None:
    longer = {"--resume runs/latest --steps 60000": "--resume runs/latest --steps 700", "steps=60000": "steps=700"}
    Follower(edgerl, {**QUICK, **longer}).follow("train.md", reader)
    assert (Path("runs/latest") / "config.json").read_text().count('"seed": 1')


@in_both
@pytest.mark.needs("chromium")
def test_bring_your_own(edgerl: Run, reader: Reader) -> None:
    write_actor(Path("actor.onnx"), n_observations=17, n_actions=6)
    saved_model(PPO, Path(), Task(17, ([-1] * 6, [1] * 6)))
    Path("cheetah").mkdir()
    saved_model(SAC, Path("cheetah"), Task(17, ([-1] * 6, [1] * 6)), policy_kwargs={"net_arch": [16, 16]})
    saved_checkpoint(Path("model_1500.pt"))
    write_actor(Path("g1.onnx"), n_observations=60, n_actions=3)
    write_deploy(Path("deploy.yaml"), deploy({"base_ang_vel": 3, "joint_pos_rel": 3, "last_action": 6}, 3, history=5))
    changes = {
        "--hours 0.01": "--hours 0.0002",
        "hours=0.01": "hours=0.0002",
        "--seconds 5": "--seconds 0.1",
        "seconds=5": "seconds=0.1",
        "--video actor.mp4": "--video actor.mp4 --steps 4",
        '("actor.mp4", "actor.onnx"': '("actor.mp4", "actor.onnx", steps=4',
    }
    Follower(edgerl, changes).follow("bring-your-own.md", reader)
    assert edgerl("report", "actor.onnx", "-o", "actor.html")[0] == 0


@pytest.mark.parametrize(
    "command", ["prune", "fit --device stm32f405", "export --format c", "learn --env robots:robot"]
)
def test_what_a_policy_from_elsewhere_cannot_do_is_refused(edgerl: Run, command: str) -> None:
    name, *options = command.split()
    write_actor(Path("actor.onnx"))
    code, _, err = edgerl(name, "actor.onnx", *options)
    assert code == 2
    assert "actor.onnx" in err
    assert ("edgerl import actor.onnx" in err) == (name != "learn")


@in_both
def test_compression(edgerl: Run, reader: Reader) -> None:
    assert edgerl("train", "--preset", "quick", "--steps", 600, "--hidden", "32,32")[0] == 0
    changes = {
        "--sparsity 0.95": "--sparsity 0.5 --episodes 1",
        "sparsity=0.95": "sparsity=0.5, episodes=1",
        "-o int8.safetensors": "-o int8.safetensors --episodes 1",
        'precision="int8"': 'precision="int8", episodes=1',
        "distill --sparsity 0.9": "distill --sparsity 0.5",
        "sparsity=0.9, block=4": "sparsity=0.5, block=4",
        "--max-loss 3%": "--max-loss 20% --episodes 2",
        "max_loss=0.03": "max_loss=0.2, episodes=2",
    }
    Follower(edgerl, changes).follow("compress.md", reader)
    assert Path("runs/latest/policy-stm32f405.safetensors").exists()


@in_both
@pytest.mark.usefixtures("run")
def test_export(edgerl: Run, reader: Reader) -> None:
    Follower(edgerl).follow("export.md", reader)
    for name in ("policy.onnx", "c/edgerl_policy.c", "learner.safetensors"):
        assert (Path("runs/latest") / name).exists(), name


@in_both
def test_deployment(edgerl: Run, run: Path, reader: Reader) -> None:
    Follower(edgerl, SECONDS).follow("deploy.md", reader)
    shutil.copy(run / "policy.safetensors", ".")  # what the page copies onto the board
    done = subprocess.run([sys.executable, "act.py"], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    counts = re.findall(r"\b(?:cycles|skipped_ticks)=(\d+)", done.stdout)
    assert sum(map(int, counts)) == 50, done.stdout  # half a second at 100 Hz, however busy this machine is


def test_the_service_uses_options_that_exist(edgerl: Run) -> None:
    (unit,) = [block.text for block in blocks((DOCS / "continual.md").read_text()) if block.kind == "ini"]
    (command,) = re.findall(r"^ExecStart=(.*)$", unit, flags=re.MULTILINE)
    _, out, _ = edgerl("learn", "--help")
    words = shlex.split(command)
    assert words[1] == "learn"
    for option in [word for word in words if word.startswith("--")]:
        assert f"{option} " in out
    for line in ("Restart=always", "SuccessExitStatus=143", "MemoryMax=", "CPUQuota="):
        assert line in unit


@in_both
def test_a_robot_is_trained_for_and_learns(edgerl: Run, reader: Reader) -> None:
    small = {
        "--preset quick": "--preset quick --steps 600 --hidden 16,16",
        'preset="quick"': 'preset="quick", steps=600, hidden=[16, 16]',
        "--hours 0.1": "--hours 0.0004",
        "seconds=360": "seconds=1.5",
    }
    said = Follower(edgerl, small).follow("continual.md#Robot files", reader)
    if reader == "shell":
        assert "arm:Arm at 50 Hz; state folder runs/arm-simulation-ds-td3-seed0/state: new" in said
        assert "missed deadlines" in said
    assert next(Path("runs/latest/state").glob("snapshot-*.safetensors"))


SECOND_SNAPSHOT = "snapshot-00000002.safetensors"


def _kill_while_it_learns(processes: Processes, command: Sequence[str]) -> str:
    """`edgerl learn`, as soon as it has taken a second snapshot."""
    process = processes.start(sys.executable, "-m", *command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    while max((path.name for path in Path("state").glob("snapshot-*.safetensors")), default="") < SECOND_SNAPSHOT:
        assert process.poll() is None
        time.sleep(0.05)
    process.kill()
    _, err = process.communicate()
    assert b"state folder state: new" in err
    return str(err)


def test_the_walk_through_of_learning(edgerl: Run, processes: Processes) -> None:
    """Train, export, learn under drift, kill, continue, export."""
    changes = {
        "--preset quick": "--preset quick --steps 600",
        "--hours 0.05": "--hours 0.002",
        "--snapshot-minutes 0.25": "--snapshot-minutes 0.02",
        "@20000": "@500",
    }
    kill = "timeout --signal=KILL 60 "
    instead = {kill: lambda line: _kill_while_it_learns(processes, shlex.split(line.removeprefix(kill)))}
    printed = Follower(edgerl, changes, instead=instead).follow("continual.md#Walk-through")
    assert "HalfCheetah-v5 as fast as possible; state folder state: resumed after " in printed
    assert "state folder\n" in printed
    assert "state/policy.onnx: " in printed
    assert "fits" in printed
    assert OnnxPolicy("state/policy.onnx").metadata["about"]["environment"] == "HalfCheetah-v5"


@in_both
def test_studies(edgerl: Run, reader: Reader) -> None:
    small = {
        "steps = 300000": SHORT,
        'method = ["td3", "tiny-dense", "static-td3", "ds-td3"]': 'method = ["td3", "ds-td3"]',
        "sparsity = [0.5, 0.9]": "sparsity = [0.5]",
        'growth = ["random", "gradient"]': 'growth = ["random"]',
        "seed = [0, 1, 2]": "seed = [0]",
    }
    Follower(edgerl, small).follow("studies.md", reader)
    assert Path("runs/growth/report.html").exists()


@pytest.fixture
def copy(run: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """A copy of the package in the current folder, beside a run: its command line."""
    compiled = shutil.ignore_patterns("__pycache__")
    for name in ("edgerl", "export", "device_profiles"):
        shutil.copytree(ROOT / name, name, ignore=compiled)
    for name in ("export", "device_profiles"):  # as an installation has them
        (Path("edgerl") / name).symlink_to(Path.cwd() / name)
    monkeypatch.setenv("PYTHONPATH", str(Path.cwd()))

    def command(*arguments: object) -> tuple[int, str, str]:
        words = [sys.executable, "-c", "from edgerl.cli import main; main()", *map(str, arguments)]
        done = subprocess.run(words, capture_output=True, text=True)
        return done.returncode, done.stdout, done.stderr

    assert run.exists()
    return command


def test_extensions(copy: Run) -> None:
    small = {
        "--preset quick": "--preset quick --steps 600 --hidden 16,16",
        'preset="quick"': 'preset="quick", steps=600, hidden=[16, 16]',
    }
    Follower(copy, small).follow("extend.md")
    with np.load(next(Path("runs").rglob("policy.npz"))) as file:
        assert file["weight0"].dtype == np.float16
    configs = [path.read_text() for path in Path("runs").glob("*/config.json")]
    assert sum('"reward_scale": 0.1' in config for config in configs) == 1
    assert '"engine": "torch"' in Path("runs/latest/config.json").read_text()


# -------------------------------------------------------------------------------------------------- tutorials


@in_both
def test_from_training_to_a_board(edgerl: Run, reader: Reader) -> None:
    pruning = {
        "\nedgerl prune\n": "\nedgerl prune --episodes 1\n",
        'prune("runs/latest"': 'prune("runs/latest", episodes=1',
    }
    Follower(edgerl, {**QUICK, **SECONDS, **pruning}).follow("tutorials/board.md", reader)


@in_both
def test_from_stable_baselines3_to_a_board(edgerl: Run, reader: Reader) -> None:
    changes = {
        "model.learn(1_000_000)": "model.learn(1)",
        '"MlpPolicy", environment': '"MlpPolicy", environment, n_steps=64',
        "--seconds 10": "--seconds 0.5",
        "seconds=10": "seconds=0.5",
        "--sparsity 0.5": "--sparsity 0.5 --episodes 1",
        "sparsity=0.5": "sparsity=0.5, episodes=1",
    }
    Follower(edgerl, changes).follow("tutorials/stable-baselines3.md", reader)
    assert Path("firmware/edgerl_policy.c").exists()


@in_both
def test_from_rsl_rl_to_a_board(edgerl: Run, reader: Reader) -> None:
    saved_checkpoint(Path("model_1500.pt"))
    Follower(edgerl, {"seconds=10": "seconds=0.1"}).follow("tutorials/rsl-rl.md", reader)
    assert Path("quadruped-c/edgerl_policy.c").exists()


@in_both
def test_from_mujoco_playground_to_a_board(edgerl: Run, reader: Reader) -> None:
    Path("000200540160").mkdir()
    arrays = brax_arrays((".state", ".privileged_state"), 48, (512, 256, 128), 24)
    saved_brax_folder(Path("000200540160"), arrays, action_size=12)
    saved_brax_parameters(Path("params"))
    Follower(edgerl).follow("tutorials/playground.md", reader)
    assert Path("go1-c/edgerl_policy.c").exists()


@in_both
def test_your_own_environment(edgerl: Run, reader: Reader) -> None:
    Follower(edgerl, {**QUICK, **SECONDS}).follow("tutorials/environment.md", reader)


def test_a_wrong_environment_is_refused_as_the_page_says(edgerl: Run) -> None:
    page = (DOCS / "tutorials/environment.md").read_text()
    (refusal,) = re.findall(r"^    (edgerl: .*\n)", page, flags=re.MULTILINE)
    (program,) = [block.text for block in blocks(page) if block.file]
    Path("wrong.py").write_text(program.replace("[self.position, self.speed]", "[0, 0, 0]"))
    code, _, err = edgerl("train", "--env", "wrong:make")
    assert (code, err) == (2, refusal.replace("dock", "wrong"))


@pytest.mark.needs("x86_64-linux-gnu-gcc", "aarch64-linux-gnu-gcc", "arm-linux-gnueabihf-gcc")
@pytest.mark.usefixtures("run", "known_machine")
@in_both
def test_your_own_board(edgerl: Run, reader: Reader) -> None:
    """On a board whose Linux tells no more than a number of its processor, though the page's tells more."""
    assert edgerl("export", "--format", "onnx")[0] == 0
    page = Follower(edgerl)
    for chapter in ("Calibration", "Profiling") if reader == "python" else ("",):
        page.follow(f"tutorials/profile.md#{chapter}", reader)


# -------------------------------------------------------------------------------------------------- reference


@in_both
@pytest.mark.needs("chromium")
@pytest.mark.usefixtures("run")
def test_reports(edgerl: Run, reader: Reader) -> None:
    assert edgerl("export", "-o", "policy.onnx")[0] == 0
    changes = {"--video out.mp4": "--video out.mp4 --steps 4", '("out.mp4"': '("out.mp4", steps=4'}
    Follower(edgerl, changes).follow("report.md", reader)


@pytest.mark.needs("x86_64-linux-gnu-gcc", "aarch64-linux-gnu-gcc", "arm-linux-gnueabihf-gcc")
@pytest.mark.usefixtures("run", "clone", "known_machine")
def test_devices(edgerl: Run) -> None:
    Follower(edgerl).follow("devices.md")


@pytest.mark.usefixtures("run")
def test_onnx(edgerl: Run) -> None:
    assert edgerl("export", "-o", "policy.onnx")[0] == 0
    sent: list[object] = []
    names = {"read_observation": lambda: np.zeros(17), "send_action": sent.append}
    Follower(edgerl, {"seconds=60": "seconds=0.05"}, names=names).follow("onnx.md")
    assert sent


@pytest.mark.needs("arm-none-eabi-gcc", "qemu-system-arm", "aarch64-linux-gnu-gcc")
@pytest.mark.usefixtures("run")
def test_c(edgerl: Run) -> None:
    firmware = Path("firmware")
    shutil.copytree(ROOT / "edgerl/profiling/microcontroller/firmware", firmware)
    make = {"make ": lambda line: _make(line, firmware)}
    printed = Follower(edgerl, instead=make).follow("c.md")
    assert printed.count("self-test: passed") == 2


def _make(line: str, folder: Path) -> str:
    done = subprocess.run(shlex.split(line), cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout


def _of_kind(page: str, kind: str) -> list[Block]:
    return [block for block in blocks((DOCS / page).read_text()) if block.kind == kind]


def test_the_firmware_of_the_pages_compiles(edgerl: Run, run: Path) -> None:
    """The loop of deploy.md, and the declarations of c.md beside those of the header."""
    assert edgerl("export", "--format", "c", "--no-measure")[0] == 0
    for page in ("deploy.md", "c.md"):
        (program,) = _of_kind(page, "c")
        Path("program.c").write_text(program.text)
        command = ["gcc", "-std=c99", *WARNINGS, "-fsyntax-only", "-I", run / "c", "program.c"]
        done = subprocess.run(command, capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, ""), page


FIRMWARE = """
#include "edgerl_learner.h"
#include <string.h>

void send(const float *action), wait_for_the_period(void), sense(float *observation);
int there_is_time(void);
void drive(float *observation, float *action, float *next_observation, float reward, size_t size);
#define observation_bytes (EDGERL_LEARNER_OBSERVATIONS * sizeof(float))

int main(void) {{
    float observation[EDGERL_LEARNER_OBSERVATIONS] = {{0}}, next_observation[EDGERL_LEARNER_OBSERVATIONS];
    float action[EDGERL_LEARNER_ACTIONS], reward = 0.0f;
{loop}
}}
"""


@in_both
def test_a_learner_in_c(edgerl: Run, reader: Reader) -> None:
    Follower(edgerl, QUICK).follow("c-learner.md", reader)
    loop, _ = _of_kind("c-learner.md", "c")
    Path("program.c").write_text(FIRMWARE.format(loop=loop.text))
    command = ["gcc", "-std=c11", *WARNINGS, "-fsyntax-only", "-I", "runs/latest/learner-c", "program.c"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.usefixtures("run", "clone")
def test_the_engine(edgerl: Run) -> None:
    shutil.copy("runs/latest/policy.safetensors", ".")
    Follower(edgerl, {"-O3": "-O1"}).follow("engine.md")
    done = subprocess.run(["./program"], capture_output=True, text=True, timeout=300)
    match = re.fullmatch(r"done: action (\S+)\n", done.stdout)
    assert match is not None, done.stdout
    assert 0 < abs(float(match[1])) < 1


@pytest.mark.needs("chromium")
@pytest.mark.usefixtures("run", "clone", "known_machine")
def test_the_examples_of_help(edgerl: Run) -> None:
    """docs/cli.md has them all."""
    shutil.copy(ROOT / "device_profiles/jetson-nano.toml", "my-board.toml")
    saved_checkpoint(Path("model_1500.pt"))
    assert edgerl("export", "--format", "learner", "-o", "learner.safetensors")[0] == 0
    grid = '[grid]\nenvironment = ["HalfCheetah-v5"]\nmethod = ["td3"]\nseed = [0]\n'
    Path("small.toml").write_text(f'title = "Small"\n[run]\n{SHORT}\n{grid}')
    library.train(method="td3", out="runs/small/HalfCheetah-v5-td3-seed0", **tomllib.loads(SHORT))
    changes = {
        "edgerl table table1": "edgerl table small.toml",
        "edgerl train --preset quick": "edgerl train --preset quick --steps 600 --hidden 64,64",
        "prune --sparsity 0.9 ": "prune --episodes 1 --sparsity 0.95 ",
        "distill --sparsity 0.9 ": "distill --sparsity 0.5 --updates 200 --rounds 1 --episodes 2 ",
        "fit --device stm32f405 --budget-flash 32KiB --distill": "fit --device stm32f405 --max-loss 20% --episodes 2",
        "--rate 100 --seconds 5": "--rate 100 --seconds 0.1",
        "--video out.mp4": "--video out.mp4 --steps 4",
        "--hours 1 ": "--hours 0.0002 ",
        "sweep table1 --steps 300000": "sweep small.toml --steps 60",
        "calibrate -o my-board.toml": "calibrate -o another-board.toml",
    }
    Follower(edgerl, changes).follow("cli.md")


# ------------------------------------------------------------------------------------------------- every block

NOT_RUN = {
    ("tutorials/playground.md", "python learning/train_jax_ppo.py"): "needs MuJoCo Playground and an accelerator",
    ("tutorials/playground.md", "pip install 'edgerl[train,import]'"): "needs the network",
    ("tutorials/playground.md", "python -c"): "needs Brax",
    ("quickstart.md", "python3 -m venv .venv"): "needs a network",
    ("deploy.md", "pip install ."): "needs a network and a board",
    ("devices.md", "edgerl profile --ssh user@board --device jetson-nano"): "needs a board",
    ("tutorials/profile.md", "edgerl profile --ssh user@board --device my-board.toml"): "needs a board",
    ("c.md", "git clone --recurse-submodules https://github.com/kraiskil/onnx2c"): "needs a network",
    ("studies.md", "edgerl sweep table1 --ray"): "needs a cluster, and days",
}
"""Blocks of the kind `sh`, by page and beginning."""

ELSEWHERE = {
    ("deploy.md", "c"): "tests/test_pages.py::test_the_firmware_of_the_pages_compiles",
    ("c.md", "c"): "tests/test_pages.py::test_the_firmware_of_the_pages_compiles",
    ("c-learner.md", "c"): "tests/export/test_c_learner.py::test_two_slots_survive_power_cuts",
    ("continual.md", "ini"): "tests/test_pages.py::test_the_service_uses_options_that_exist",
    ("devices.md", "json"): "tests/profiling/measuring/test_measurement.py::test_the_documented_example_is_a_result",
}
"""Blocks that a page's reader neither types nor runs, and the test that does something with them."""

PAGES = sorted(str(path.relative_to(DOCS)) for path in DOCS.rglob("*.md") if path.parent.name != "lab")
"""The laboratory log is left out: it says what was typed on a day."""


@pytest.mark.parametrize("page", PAGES)
def test_every_block_is_run_or_says_why_not(page: str) -> None:
    text, tests = (DOCS / page).read_text(encoding="utf-8"), Path(__file__).read_text(encoding="utf-8")
    for block in blocks(text):
        if block.kind in ("bash", "python", "diff") or block.file:
            assert f'"{page}"' in tests or f'"{page}#' in tests, f"no test follows {page}"
        elif block.kind == "sh":
            assert [begin for name, begin in NOT_RUN if name == page and block.text.startswith(begin)], block.text
        elif (page, block.kind) in ELSEWHERE:
            file, _, name = ELSEWHERE[page, block.kind].partition("::")
            assert f"def {name}(" in (ROOT / file).read_text(encoding="utf-8")
        else:
            assert block.kind == "text" or (page == "cli.md" and block.kind == ""), f"{page}: {block}"
    prose = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    assert not re.findall(r"^ {4,}(?:edgerl (?!replay)|python |pip |make |git |cc |tar )", prose, flags=re.MULTILINE)


@pytest.mark.parametrize(("page", "beginning"), NOT_RUN)
def test_what_is_not_run_is_there_and_has_options_that_exist(edgerl: Run, page: str, beginning: str) -> None:
    (block,) = [block for block in _of_kind(page, "sh") if block.text.startswith(beginning)]
    for line in block.text.splitlines():
        if line.startswith("edgerl "):
            _, out, _ = edgerl(line.split()[1], "--help")
            for option in re.findall(r"--[a-z-]+", line):
                assert f"{option} " in out, line


# ------------------------------------------------------------------------------------------------ this file's own


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


def test_changes_are_applied_where_they_belong() -> None:
    Path("one.txt").write_text("a\nb\nc\n")
    apply("--- one.txt\n a\n-b\n+B\n+b\n")
    assert Path("one.txt").read_text() == "a\nB\nb\nc\n"
    with pytest.raises(AssertionError, match=r"one\.txt has 0 of"):
        apply("--- one.txt\n a\n-c\n")


def test_a_command_and_the_same_in_python_are_tabs() -> None:
    shell, python = "```bash\nedgerl info x\n```\n\n```text\nkind\n```\n", "```python\nedgerl.info('x')\n```\n"
    (found,) = TABS.finditer(f"Text.\n\n{shell}\n{python}\nMore.\n")
    assert (found["shell"], found["python"]) == (shell, python)
    assert TABS.search(f"{shell}\nOr so:\n\n{python}") is None
    assert TABS.search(f"{python}\n{shell}") is None
