"""`edgerl play`: the video that is written is of this policy in this environment."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edgerl as library
from edgerl.environments import video
from edgerl.environments.make import make
from edgerl.policy.format import load
from tests.foreign import write_actor
from tests.processes import Processes

Run = Callable[..., tuple[int, str, str]]
HERE = Path(__file__).parent
TINY = ("--steps", 12, "--width", 96, "--height", 64)


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    options = {"hidden": (8, 8), "steps": 40, "start_steps": 30, "evaluation_interval": 1000, "evaluation_episodes": 1}
    out = tmp_path_factory.mktemp("play") / "run"
    return library.train("HalfCheetah-v5", out=out, sparsity=0.5, batch_size=8, **options).policy


@pytest.fixture(autouse=True)
def _any_renderer(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test chooses is forgotten after it."""
    monkeypatch.setenv("MUJOCO_GL", "")
    monkeypatch.delenv("MUJOCO_GL")


@pytest.mark.needs("chromium")  # its packages include a renderer
@pytest.mark.parametrize("name", ["out.mp4", "out.gif", "OUT.GIF"])
def test_a_video_shows_the_episode_at_its_speed(edgerl: Run, policy: Path, name: str) -> None:
    code, out, err = edgerl("play", policy, "--video", name, "--seed", 5, *TINY)
    assert code == 0, err
    # The return is that of the same episode without a camera.
    environment, actor, total = make("HalfCheetah-v5"), load(policy), 0.0
    observation = environment.reset(5)
    for _ in range(12):
        observation, reward, *_ = environment.step(actor(observation))
        total += reward
    environment.close()
    assert f"episode 1: return {total:.1f} in 12 steps" in out
    assert f"{name}: 12 frames at 20 per second" in out, "HalfCheetah makes 20 steps a second"
    frames = _frames(Path(name))
    assert frames.shape == (12, 64, 96, 3)
    assert all(len(np.unique(frame.reshape(-1, 3), axis=0)) > 50 for frame in frames)
    assert (np.abs(frames[0].astype(int) - frames[-1]) > 30).mean() > 0.02, "something moves"
    assert [path.name for path in Path().iterdir()] == [name]
    code, _, err = edgerl("play", policy, "--video", name, *TINY)
    assert (code, f"{name} exists already; pass --force to replace it, or write elsewhere" in err) == (2, True)


def _frames(path: Path, rate: int = 20) -> np.ndarray:
    if path.suffix.lower() == ".gif":
        from PIL import Image, ImageSequence

        with Image.open(path) as image:
            assert image.info["duration"] == 50
            return np.stack([np.asarray(frame.convert("RGB")) for frame in ImageSequence.Iterator(image)])
    import imageio_ffmpeg

    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-i", path, "-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    done = subprocess.run(command, capture_output=True, check=True)
    assert b"yuv420p" in done.stderr
    assert b"96x64" in done.stderr
    assert f" {rate} fps".encode() in done.stderr
    return np.frombuffer(done.stdout, np.uint8).reshape(-1, 64, 96, 3)


def test_an_environment_of_ones_own_is_filmed_where_its_factory_takes_a_render_mode(edgerl: Run) -> None:
    options = {"hidden": (4,), "steps": 20, "start_steps": 10, "evaluation_interval": 1000, "evaluation_episodes": 1}
    policy = library.train("robots:painted_robot", out="run", batch_size=8, sparsity=0.5, **options).policy
    code, out, err = edgerl("play", policy, "--video", "out.mp4", "--env", "robots:painted_robot")
    assert code == 0, err
    assert "out.mp4: 5 frames at 10 per second" in out
    reds = _frames(Path("out.mp4"), rate=10)[:, 40, 48, 0].astype(int)
    assert np.abs(reds - [40, 80, 120, 160, 200]).max() < 12


def test_the_overlay_has_a_bar_per_action_that_ends_where_the_action_is() -> None:
    grey = np.full((480, 640, 3), 128, np.uint8)
    drawn = video.overlaid(grey, np.array([0.5, 1.0, 0.0]), "return 1.0").astype(int)
    up, down = ((drawn == colour).all(axis=2) for colour in ((142, 166, 255), (255, 159, 90)))
    assert np.flatnonzero(up.any(axis=0)).tolist() == [*range(16, 30), *range(34, 48)]
    assert np.flatnonzero(down.any(axis=0)).tolist() == list(range(52, 66))
    # Half the range is 35 pixels, from the middle of the box upwards and downwards.
    assert 35 <= up[:, 40].sum() <= 36
    assert 35 <= down[:, 60].sum() <= 36
    assert np.flatnonzero(up[:, 40]).max() <= np.flatnonzero(down[:, 60]).min() + 1
    assert (grey == 128).all()
    assert (drawn[:40, :60] == 240).any(), "and text"


def test_no_renderer_is_one_line(edgerl: Run, policy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(video, "PROBE", "raise SystemExit('libEGL.so.1: cannot open shared object file')")
    code, _, err = edgerl("play", policy, "--video", "out.mp4", *TINY)
    assert code == 2
    line = err.splitlines()[-1]
    assert line.startswith("edgerl: no renderer works on this machine (egl: libEGL.so.1: cannot open shared object")
    assert line.endswith(
        "install a renderer (apt-get install libegl1 libgl1-mesa-dri, or libosmesa6), or name one in MUJOCO_GL"
    )
    monkeypatch.setenv("MUJOCO_GL", "nothing")
    code, _, err = edgerl("play", policy, "--video", "out.mp4", *TINY)
    assert (code, "MUJOCO_GL is 'nothing', which does not render (libEGL" in err.splitlines()[-1]) == (2, True)
    assert not list(Path().iterdir())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--video", "out.avi"], "the video is 'out.avi'; expected a name that ends in .mp4 or .gif"),
        (["--video", "out.mp4", "--width", "10"], "--width is 10; expected a number in [64, 3840]"),
        (
            ["--video", "out.mp4", "--env", "Hopper-v5"],
            "the policy maps 17 observations to 6 actions; Hopper-v5 has 11 and 3",
        ),
        (["--video", "out.mp4", "--env", "robots:robot"], "robot() takes no 'render_mode'; give it that parameter"),
        (["--video", "out.mp4", "--env", "Hoper-v5"], "environment 'Hoper-v5' is unknown; did you mean"),
        (["--video", "no/a.mp4"], "cannot write no/a.mp4: no is not there; choose an existing, writable folder"),
        (["--video", "out.mp4", "--env", ""], "environment '' is unknown"),
        ([], "Missing option '--video'"),
    ],
)
def test_bad_input_is_one_line(edgerl: Run, policy: Path, arguments: list[str], message: str) -> None:
    code, out, err = edgerl("play", policy, *arguments)
    assert (code, out) == (2, "")
    assert message in err.splitlines()[-1]
    assert not list(Path().iterdir())


def test_a_foreign_actor_of_other_bounds_is_asked_about(edgerl: Run) -> None:
    write_actor(Path("sac.onnx"), n_observations=4, n_actions=2)
    film = ("play", "sac.onnx", "--env", "robots:painted_robot", "--video", "out.gif")
    code, out, err = edgerl(*film)
    assert (code, out) == (2, "")
    line = err.splitlines()[-1]
    assert "the policy gives actions from -1 to 1, and robots:painted_robot takes actions number 0 from -1 to 2" in line
    assert edgerl(*film, "--actions", "scale")[0] == 0


def test_a_policy_is_filmed_in_the_task_that_it_was_trained_in(edgerl: Run) -> None:
    policy = _painted_policy(env_args={"length": 3, "render_mode": "human"})
    code, out, err = edgerl("play", policy, "--env", "robots:painted_robot", "--video", "out.gif")
    assert code == 0, err
    assert out.splitlines()[0].endswith(" in 3 steps")
    assert "out.gif: 3 frames at 10 per second" in out
    assert 'robots:painted_robot with length=3, render_mode="human", as run/policy.safetensors was trained' in err


def _painted_policy(**more: Any) -> Path:
    options = {"hidden": (4,), "steps": 20, "start_steps": 10, "evaluation_interval": 1000, "evaluation_episodes": 1}
    return library.train("robots:painted_robot", out="run", batch_size=8, sparsity=0.5, **options, **more).policy


@pytest.mark.parametrize("name", ["out.mp4", "out.gif"])
def test_a_video_that_is_not_whole_is_not_left(name: str) -> None:
    """As on a full disk: no file may grow beyond 1000 bytes."""
    command = [sys.executable, "-m", "edgerl", "play", _painted_policy(), "--env", "robots:painted_robot"]
    done = subprocess.run(
        [*command, "--video", name, "--episodes", "9"],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(HERE.parent), "PYTHONDONTWRITEBYTECODE": "1"},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000)),
    )
    line = done.stderr.splitlines()[-1]
    assert done.returncode == 2, done.stderr
    assert line.startswith(f"edgerl: cannot make {name}: ")
    assert line.endswith(f"free space for temporary files in {tempfile.gettempdir()}, or name another folder in TMPDIR")
    assert [path.name for path in Path().iterdir()] == ["run"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_with_a_word_and_leaves_nothing(processes: Processes, number: int) -> None:
    policy, temporaries = _painted_policy(), Path("temporaries")
    temporaries.mkdir()
    command = [sys.executable, "-m", "edgerl", "play", policy, "--env", "robots:painted_robot", "--video", "out.mp4"]
    process = processes.start(
        *command,
        "--episodes",
        1000,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(HERE.parent), "TMPDIR": str(temporaries.resolve())},
    )
    while not list(temporaries.glob("*/video.mp4")):
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(number)
    _, said = process.communicate(timeout=300)
    name = signal.Signals(number).name
    assert (process.returncode, said) == (128 + number, f"edgerl: stopped by {name}; out.mp4 was not written\n")
    assert not list(temporaries.iterdir())
    assert not Path("out.mp4").exists()


def test_what_cannot_be_rendered_is_said_with_its_own_remedy(edgerl: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """MuJoCo's renderers are of no use to a pendulum."""
    options = {"hidden": (4,), "steps": 20, "start_steps": 10, "evaluation_interval": 1000, "evaluation_episodes": 1}
    policy = library.train("Pendulum-v1", out="run", batch_size=8, sparsity=0.5, **options).policy
    monkeypatch.setitem(sys.modules, "pygame", None)
    code, _, err = edgerl("play", policy, "--video", "out.mp4")
    assert code == 2
    assert err.splitlines()[-1].endswith('pygame is not installed, run `pip install "gymnasium[classic_control]"`)')


def test_a_picture_that_leaves_the_process_is_a_fault_of_the_environment(edgerl: Run) -> None:
    Path("leaving.py").write_text(
        "import robots\n\n\nclass Leaving(robots.PaintedRobot):\n    def render(self):\n        raise SystemExit(3)\n"
    )
    code, _, err = edgerl("play", _painted_policy(), "--video", "out.gif", "--env", "leaving:Leaving")
    assert code == 2
    assert "leaving:Leaving cannot be rendered (SystemExit: 3)" in err.splitlines()[-1]
    assert not Path("out.gif").exists()


def test_no_ffmpeg_is_one_line_before_anything_is_filmed(
    edgerl: Run, policy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for program in ("nowhere/ffmpeg", "false"):
        monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", program)
        code, _, err = edgerl("play", policy, "--video", "out.mp4", *TINY)
        assert (code, err.splitlines()[-1].startswith("edgerl: there is no ffmpeg that works (")) == (2, True)
        assert err.endswith("(apt-get install ffmpeg), name it in IMAGEIO_FFMPEG_EXE, or write a .gif\n")
