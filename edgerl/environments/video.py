"""A policy in its environment as a video: MuJoCo rendered off screen, the action and the return drawn on it."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgerl.edge.acting.actions import ActionMode, Playable, adapted
from edgerl.edge.acting.robot import problem
from edgerl.environments.arguments import NOTHING, Arguments, checked
from edgerl.environments.make import Environment, from_factory, is_made_by_factory, made_by_gymnasium, registered
from edgerl.errors import (
    ConfigError,
    EnvironmentError,
    Interrupted,
    OutputError,
    reason,
    require,
)
from edgerl.files.atomic import refuse_existing, write_atomically
from edgerl.files.paths import anchored, at_home, reachable
from edgerl.signals import leave_at_the_second, stop_requests

Array = npt.NDArray[Any]
Frame = npt.NDArray[np.uint8]
"""A picture [height, width, 3]."""

SUFFIXES = (".mp4", ".gif")
MOST_FRAMES_PER_SECOND = {".mp4": 30, ".gif": 20}
"""Of a simulation with more steps a second, only every second step or fewer are filmed."""

GIF_COLOURS = 128

RENDERERS = ("egl", "osmesa", "glfw")
"""MuJoCo's, in the order in which they are tried, unless MUJOCO_GL names one."""

PROBE_SECONDS = 120


@dataclass(frozen=True)
class Video:
    """A video that was written."""

    path: Path
    environment: str
    frames: int
    frames_per_second: float
    episodes: tuple[tuple[float, int], ...]  # return and steps of each


@at_home()
def play(
    policy: Playable,
    environment: str,
    path: str | Path,
    *,
    env_args: Mapping[str, Any] = NOTHING,
    actions: ActionMode | None = None,
    seed: int = 0,
    episodes: int = 1,
    steps: int = 1000,
    width: int = 640,
    height: int = 480,
    force: bool = False,
    progress: Callable[[float], None] = lambda _share: None,
) -> Video:
    """Write episodes of a policy to `path`, .mp4 or .gif, at the speed of the simulation.

    policy: edgerl.edge's Policy or OnnxPolicy. env_args: of the function that makes the environment, by name. actions:
    how a policy's are used where their bounds are not the environment's, see edgerl.edge.acting.actions.
    seed: of the first episode; each next one adds 1. steps: the most per episode. progress: called with the share of
    episodes that is done.

    Raises ConfigError, EnvironmentError, MissingExtraError, OutputError, UnsupportedModelError; Interrupted, with
    nothing written, after SIGINT or SIGTERM.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise ConfigError(f"the video is {path.name!r}; expected a name that ends in {' or '.join(SUFFIXES)}")
    for what, number, least, most in (
        ("episodes", episodes, 1, 1000),
        ("steps", steps, 1, 1_000_000),
        ("width", width, 64, 3840),
        ("height", height, 64, 2160),
    ):
        if not least <= number <= most:
            raise ConfigError(f"`{what}` is {number}; expected a number in [{least}, {most}]")
    for module in ("PIL", *(["imageio_ffmpeg"] if suffix == ".mp4" else [])):
        require(module, "report")
    refuse_existing(path, force=force)
    refuse_unwritable(path)
    if suffix == ".mp4":
        refuse_without_encoder()
    results: list[tuple[float, int]] = []
    frames = 0
    with (
        stop_requests(leave_at_the_second) as stop,
        closing(rendered(environment, width // 2 * 2, height // 2 * 2, checked(env_args))) as filmed,
    ):
        driver = adapted(policy, filmed, actions)
        filmed.observation_dtype = policy.observation_dtype
        rate = frames_per_second(filmed)
        every = max(1, round(rate / MOST_FRAMES_PER_SECOND[suffix]))

        def film() -> Iterator[Frame]:
            nonlocal frames
            for number in range(episodes):
                for frame in _episode(driver, filmed, seed + number, steps, every, results):
                    if stop.count:
                        name = signal.Signals(stop.signal).name
                        raise Interrupted(f"stopped by {name}; {path} was not written", stop.signal)
                    frames += 1
                    yield frame
                progress((number + 1) / episodes)

        _write(anchored(path), film(), rate / every, force)
    return Video(reachable(path), filmed.name, frames, rate / every, tuple(results))


def refuse_unwritable(path: Path) -> None:
    """Raise OutputError, before anything is filmed, where the folder does not exist or may not be written."""
    if not path.parent.is_dir() or not os.access(path.parent, os.W_OK):
        what = "not a writable folder" if path.parent.exists() else "not there"
        raise OutputError(f"cannot write {path}: {path.parent} is {what}; choose an existing, writable folder")


def refuse_without_encoder() -> None:
    """Raise EnvironmentError where no ffmpeg starts. Raises MissingExtraError."""
    try:
        program = require("imageio_ffmpeg", "report").get_ffmpeg_exe()
        subprocess.run([program, "-version"], capture_output=True, check=True, timeout=PROBE_SECONDS)
    except (RuntimeError, OSError, subprocess.SubprocessError) as error:
        raise EnvironmentError(
            f"there is no ffmpeg that works ({reason(error)}); install one (apt-get install ffmpeg), name it in "
            "IMAGEIO_FFMPEG_EXE, or write a .gif"
        ) from error


class Rendered(Environment):
    """An environment with a picture of its state."""

    def __init__(self, name: str, environment: Any) -> None:
        super().__init__(name, environment)
        self.metadata: dict[str, Any] = dict(getattr(environment, "metadata", {}) or {})
        self.timestep = getattr(getattr(environment, "unwrapped", environment), "dt", None)

    def picture(self) -> Frame:
        """The present state as a picture. Raises EnvironmentError where the renderer fails."""
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                frame = np.asarray(self._environment.render())
        except (Exception, SystemExit) as error:
            unwrapped = getattr(self._environment, "unwrapped", self._environment)
            fix = f"; {HOW_TO_RENDER}" if hasattr(unwrapped, "mujoco_renderer") else ""
            raise EnvironmentError(f"{self.name} cannot be rendered ({problem(error)}){fix}") from error
        if frame.ndim != 3 or frame.shape[2] != 3 or frame.dtype != np.uint8:
            raise EnvironmentError(
                f"{self.name} rendered {frame.dtype}{list(frame.shape)}; expected a picture of bytes"
            )
        return frame


HOW_TO_RENDER = "install a renderer (apt-get install libegl1 libgl1-mesa-dri, or libosmesa6), or name one in MUJOCO_GL"


def rendered(name: str, width: int, height: int, arguments: Arguments = NOTHING) -> Rendered:
    """An environment that renders off screen; one that is made by a factory, in its own size.

    Raises EnvironmentError where it, or a renderer, is missing.
    """
    if is_made_by_factory(name):
        made = from_factory(name, **{**arguments, "render_mode": "rgb_array"})
        if hasattr(getattr(made, "unwrapped", made), "mujoco_renderer"):
            choose_renderer()
        return Rendered(name, made)
    if os.environ.get("MUJOCO_GL") and find_spec("mujoco"):
        choose_renderer()  # a name unknown to MuJoCo makes its import fail
    own = {key: value for key, value in arguments.items() if key != "render_mode"}
    with closing(registered(name, **own)) as probe:
        modes, model = probe.metadata.get("render_modes", []), getattr(probe.unwrapped, "model", None)
        is_mujoco = hasattr(probe.unwrapped, "mujoco_renderer")
    if "rgb_array" not in modes:
        raise EnvironmentError(f"{name} has no render mode rgb_array; expected an environment that can be filmed")
    options: dict[str, Any] = {}
    if is_mujoco:
        choose_renderer()
        options = {"width": width, "height": height}
        if model is not None and "track" in [model.camera(index).name for index in range(model.ncam)]:
            options["camera_name"] = "track"  # gymnasium's default lets some robots run out of the picture
    return Rendered(*made_by_gymnasium(name, **{**own, **options, "render_mode": "rgb_array"}))


def choose_renderer() -> None:
    """Set MUJOCO_GL to the first renderer that works; one that is set already must work. Raises EnvironmentError.

    Each is tried in a process of its own: one that fails may crash it, and MuJoCo keeps the first one it loads.
    """
    if given := os.environ.get("MUJOCO_GL"):
        if failure := _try_renderer(given):
            raise EnvironmentError(f"MUJOCO_GL is {given[:40]!r}, which does not render ({failure}); {HOW_TO_RENDER}")
        return
    failures = []
    for name in RENDERERS:
        if not (failure := _try_renderer(name)):
            os.environ["MUJOCO_GL"] = name
            return
        failures.append(f"{name}: {failure}")
    raise EnvironmentError(f"no renderer works on this machine ({'; '.join(failures)}); {HOW_TO_RENDER}")


PROBE = (
    "import mujoco\n"
    "model = mujoco.MjModel.from_xml_string('<mujoco><worldbody><geom size=\"1\"/></worldbody></mujoco>')\n"
    "renderer = mujoco.Renderer(model, 16, 16)\n"
    "renderer.update_scene(mujoco.MjData(model))\n"
    "assert renderer.render().shape == (16, 16, 3)\n"
    "import os\n"
    "os._exit(0)\n"
)
"""It exits without cleaning up, at which some renderers fail."""


def _try_renderer(name: str) -> str:
    """Why it does not work: its last line of output; empty where it works."""
    environment = {**os.environ, "MUJOCO_GL": name}
    try:
        process = subprocess.run(
            [sys.executable, "-c", PROBE], capture_output=True, text=True, env=environment, timeout=PROBE_SECONDS
        )
    except subprocess.TimeoutExpired:
        return f"no answer in {PROBE_SECONDS} s"
    if not process.returncode:
        return ""
    lines = [line for line in process.stderr.splitlines() if line.strip()]
    return " ".join(lines[-1].split())[:100] if lines else f"it ended with {process.returncode}"


def frames_per_second(environment: Rendered) -> float:
    """One frame per step at the speed of the simulation: by its time step, else by its metadata, else 30."""
    if isinstance(environment.timestep, float) and 1e-3 <= environment.timestep <= 10:
        return 1 / environment.timestep
    rate = environment.metadata.get("render_fps")
    return float(rate) if isinstance(rate, int | float) and 0.1 <= rate <= 1000 else 30.0


def _episode(
    policy: Playable,
    environment: Rendered,
    seed: int,
    steps: int,
    every: int,
    results: list[tuple[float, int]],
) -> Iterator[Frame]:
    """One filmed episode; its (return, steps) is appended to `results`."""
    policy.reset()
    observation, total = environment.reset(seed), 0.0
    low, high = environment.action_low, environment.action_high
    for step in range(1, steps + 1):
        action = policy(observation)
        observation, reward, terminated, truncated = environment.step(action)
        total += reward
        is_last = terminated or truncated or step == steps
        if step % every == 0 or is_last:
            yield overlaid(environment.picture(), (action - low) / (high - low), f"step {step}   return {total:.1f}")
        if is_last:
            results.append((total, step))
            return


MOST_BARS = 32
"""Of actions; the rest are not drawn."""


def overlaid(frame: Frame, shares: Array, text: str) -> Frame:
    """A copy with a line of text and a bar per action from the middle of its range; shares: [m], 0 low, 1 high."""
    pillow, drawing, fonts = (require(f"PIL.{name}", "report") for name in ("Image", "ImageDraw", "ImageFont"))
    picture = pillow.fromarray(frame)
    draw = drawing.Draw(picture, "RGBA")
    scale = max(frame.shape[0] / 480, 0.5)
    font = fonts.load_default(size=round(16 * scale))
    left, top, right, bottom = draw.textbbox((0, 0), text, font=font)
    pad = round(8 * scale)
    draw.rounded_rectangle((pad, pad, 3 * pad + right - left, 3 * pad + bottom - top), pad, fill=(17, 20, 24, 170))
    draw.text((2 * pad - left, 2 * pad - top), text, fill=(240, 243, 246, 255), font=font)
    shown = np.clip(np.nan_to_num(shares[:MOST_BARS], nan=0.5), 0, 1)
    bar, height = round(14 * scale), round(70 * scale)
    x, y = pad, frame.shape[0] - pad - height - 2 * pad
    width = min(2 * pad + len(shown) * (bar + pad // 2), frame.shape[1] - 2 * pad)
    draw.rounded_rectangle((x, y, x + width, y + height + 2 * pad), pad, fill=(17, 20, 24, 170))
    middle = y + pad + height / 2
    draw.line((x + pad, middle, x + width - pad, middle), fill=(154, 165, 177, 255))
    for index, share in enumerate(shown):
        start, end = x + pad + index * (bar + pad // 2), middle - (share - 0.5) * height
        colour = (142, 166, 255, 255) if share >= 0.5 else (255, 159, 90, 255)
        draw.rectangle((start, min(middle, end), start + bar - 1, max(middle, end)), fill=colour)
    drawn: Frame = np.asarray(picture)
    return drawn


MAKE_ROOM = f"free space for temporary files in {tempfile.gettempdir()}, or name another folder in TMPDIR"


class _EncoderError(Exception):
    """ffmpeg did not make a whole video."""


def _write(path: Path, frames: Iterator[Frame], rate: float, force: bool) -> None:
    """Write the whole file or none: it is made elsewhere, and has its name once it is complete."""
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / f"video{path.suffix.lower()}"
        try:
            (_write_gif if path.suffix.lower() == ".gif" else _write_mp4)(made, frames, rate)
        except OSError as error:
            raise OutputError(f"cannot make {path}: {reason(error)}; {MAKE_ROOM}") from error
        except _EncoderError as error:
            raise OutputError(
                f"cannot make {path}: {reason(error)}; see ffmpeg's output above, write a .gif, or {MAKE_ROOM}"
            ) from error
        write_atomically(path, made.read_bytes(), force=force)


def _write_mp4(path: Path, frames: Iterator[Frame], rate: float) -> None:
    ffmpeg = require("imageio_ffmpeg", "report")
    first, written = next(frames), 0
    encoder = ffmpeg.write_frames(
        str(path),
        (first.shape[1], first.shape[0]),
        fps=rate,
        codec="libx264",
        pix_fmt_out="yuv420p",
        macro_block_size=2,
        ffmpeg_log_level="error",
        output_params=["-movflags", "+faststart"],
    )
    encoder.send(None)
    try:
        for frame in itertools.chain([first], frames):
            try:
                encoder.send(np.ascontiguousarray(frame))
            except OSError as error:
                raise _EncoderError(f"ffmpeg ended at frame {written + 1}") from error
            written += 1
    finally:
        encoder.close()
    # Closing does not show whether ffmpeg could write all of it, so the file is read again.
    try:
        count, _ = ffmpeg.count_frames_and_secs(str(path))
    except RuntimeError as error:
        raise _EncoderError("the video that ffmpeg made cannot be read") from error
    if count < written:
        raise _EncoderError(f"the video that ffmpeg made has {count} of {written} frames")


def _write_gif(path: Path, frames: Iterator[Frame], rate: float) -> None:
    pictures = (require("PIL.Image", "report").fromarray(frame).quantize(GIF_COLOURS) for frame in frames)
    first = next(pictures)
    first.save(path, save_all=True, append_images=pictures, duration=round(100 / rate) * 10, loop=0)
