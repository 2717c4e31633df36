"""`edgerl learn`, as a user types it: a robot of one file, signals, restarts, and what it says."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from stable_baselines3 import SAC

from edgerl.cli.support.live import _news
from tests.edge.learners import learner_config, write_bundle
from tests.edge.test_import import HEAVY
from tests.foreign import write_actor
from tests.importers.files import Task, saved_model
from tests.processes import Processes

Run = Callable[..., tuple[int, str, str]]
Spawn = Callable[..., "subprocess.Popen[str]"]

PLAIN = '''"""A robot without gymnasium: four observations, two actions."""

import pathlib
import sys
import time


class Plain:
    def reset(self, seed):
        self.age, self.position = 0, [0.1 * (seed % 5)] * 4
        return self.position

    def step(self, action):
        self.age += 1
        self.position = [0.9 * p + 0.1 * float(action[i % 2]) for i, p in enumerate(self.position)]
        return self.position, -abs(self.position[0]), False, self.age == 20, {}


class Slow(Plain):
    def step(self, action):
        time.sleep(1e-3)
        return super().step(action)


class Stuck(Plain):
    def step(self, action):
        if self.age == 15 and not hasattr(self, "waited"):
            self.waited = True
            time.sleep(300)
        return super().step(action)


class Resting(Slow):
    def close(self):
        pathlib.Path("at-rest").touch()


class Leaving(Resting):
    def step(self, action):
        return sys.exit(3) if self.age == 5 else super().step(action)
'''

SHORT = ("--rate", "0", "--hours", "0.0001", "--env", "plain:Plain")


@pytest.fixture(autouse=True)
def bundle() -> Path:
    """learner.safetensors for the robots in plain.py and in `robots`, both in the current folder's reach."""
    Path("plain.py").write_text(PLAIN)
    return write_bundle(config=learner_config(n=4, m=2))


def events(out: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in out.splitlines()]


@pytest.fixture
def spawn(processes: Processes) -> Spawn:
    """Run the command line in a process of its own."""

    def run(*arguments: object, **options: Any) -> subprocess.Popen[str]:
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1]), "OMP_NUM_THREADS": "1"}
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | options
        return processes.start(sys.executable, "-m", "edgerl", "learn", *arguments, env=environment, text=True, **pipes)

    return run


def lines_of(process: subprocess.Popen[str]) -> Iterator[dict[str, Any]]:
    assert process.stdout is not None
    for line in process.stdout:
        yield json.loads(line)


# What it does.


def test_a_robot_in_one_file_is_acted_on_and_learnt_from(edgerl: Run) -> None:
    code, out, err = edgerl("learn", "learner.safetensors", *SHORT)
    assert code == 0
    assert err.splitlines()[0] == "plain:Plain as fast as possible; state folder state: new"
    assert err.splitlines()[1].startswith("memory 128.0 KiB: networks ")
    assert [line.split()[0] for line in out.splitlines()] == ["time", "return", "learning", "acting", "memory", "kept"]
    assert " 0 errors; champion of snapshot " in out
    assert {"lock", "transitions.log"} < set(os.listdir("state"))


def test_a_robot_is_made_with_the_arguments_that_the_bundle_was_trained_with(edgerl: Run) -> None:
    Path("aged.py").write_text(
        f"{PLAIN}\n\ndef make(age=20):\n    made = Plain()\n    print('made', age)\n    return made\n"
    )
    about = {"environment": "aged:make", "env_args": {"age": 7}}
    write_bundle(config=learner_config(n=4, m=2), about=about)
    arguments = ("learn", "learner.safetensors", *SHORT[:-1], "aged:make")
    for start in ("a new one", "a resumed one"):
        code, out, err = edgerl(*arguments)
        assert (code, "made 7" in out + err) == (0, True), start
        assert "aged:make with age=7, as learner.safetensors was trained" in err, start
    code, out, err = edgerl("learn", "learner.safetensors", *SHORT, "--state", "other")
    assert code == 0
    assert "learner.safetensors is of aged:make with age=7; these arguments are not plain:Plain's" in err
    write_bundle(config=learner_config(n=4, m=2), about={"environment": "aged:make", "env_args": {"n": 7}})
    code, out, err = edgerl(*arguments, "--state", "third")
    assert (code, out) == (2, "")
    assert err.splitlines()[-1].startswith("edgerl: environment 'aged:make': make() takes no 'n'")
    assert not Path("third").exists()


def test_a_run_of_sac_goes_on_learning(edgerl: Run) -> None:
    """From training to the champion's export, with norms and four updates a step."""
    options = "--env Pendulum-v1 --preset quick --steps 1100 --hidden 16,16 --batch-size 32 --critic-norm layer"
    assert edgerl("train", "--algorithm", "sac", *options.split())[0] == 0
    assert edgerl("export", "--format", "learner")[0] == 0
    code, out, _ = edgerl("profile", "runs/latest", "--learn", "--device", "pi5")
    assert (code, " updates/s fit beside 100 Hz (estimate, unvalidated)" in out) == (0, True)
    session = ("runs/latest", "--env", "Pendulum-v1", "--rate", "0", "--updates-per-step", "4", "--json")
    updates, steps = [], []
    for start in range(1, 3):
        code, out, _ = edgerl("learn", *session, "--hours", 0.0002 * start)
        last = events(out)[-1]
        assert (code, last["abandoned_updates"], last["deferred_updates"]) == (0, 0, 0)
        updates.append(last["updates"])
        steps.append(last["steps"])
    assert updates[1] - updates[0] == 4 * (steps[1] - steps[0]) > 0
    code, out, _ = edgerl("export", "runs/latest/state", "--format", "onnx")
    assert (code, "3-16-16-1" in out) == (0, True)


def test_a_model_of_stable_baselines3_goes_on_learning(edgerl: Run) -> None:
    """From its file to the champion's export; and what has no critics, or has them in another file, is told so."""
    saved_model(SAC, Path(), Task(4, ([-1, -1], [1, 1])), policy_kwargs={"net_arch": [16, 16]}, batch_size=16)
    Path("learner.safetensors").unlink()
    assert edgerl("import", "model.zip", "--normalizer", "none")[0] == 0
    for file, problem in (
        (
            "model.zip",
            "expected a learner.safetensors: edgerl export model.zip --format learner makes one of a SAC or TD3",
        ),
        (
            "policy.safetensors",
            "is a policy of edgerl, which holds no critics to learn on with; expected a learner.safet",
        ),
    ):
        code, out, err = edgerl("learn", file, *SHORT)
        assert (code, out, err.count("\n"), problem in err) == (2, "", 1, True), err
    code, out, err = edgerl("export", "model.zip", "--format", "learner", "--learning-rate", "1e-4")
    assert (code, err.count("\n")) == (0, 1)
    assert err.startswith(
        "observations are taken as they are; if the policy was trained with VecNormalize, give its sta"
    )
    assert "learner.safetensors: " in out
    assert "0 of the run to begin with" in out
    code, _, err = edgerl("export", "model.zip", "--format", "learner")
    assert (code, "learner.safetensors exists already" in err) == (2, True)
    code, out, err = edgerl("export", "model.zip", "--format", "learner", "--force", "--json", "--normalizer", "none")
    assert (code, err, json.loads(out)["updates"], json.loads(out)["notes"]) == (0, "", 0, [])
    code, out, _ = edgerl("learn", "learner.safetensors", *SHORT, "--json")
    last = events(out)[-1]
    assert (code, last["abandoned_updates"], last["trials"]["divergences"]) == (0, 0, 0)
    assert last["updates"] == last["steps"] > 16
    assert edgerl("info", "state")[0] == 0
    code, out, _ = edgerl("export", "state", "--format", "onnx")
    assert (code, "4-16-16-2" in out) == (0, True)


def test_at_a_rate_every_tick_is_one_step(edgerl: Run) -> None:
    code, out, _ = edgerl("learn", "learner.safetensors", "--env", "plain:Plain", "--hours", 0.5 / 3600, "--json")
    last = events(out)[-1]
    assert code == 0
    assert last["control"]["rate_hz"] == 100
    assert last["steps"] + last["control"]["skipped_ticks"] == 50
    assert last["updates"] > 0


def test_json_lines(edgerl: Run) -> None:
    code, out, err = edgerl("learn", "learner.safetensors", *SHORT, "--json", "--status-seconds", "0.05")
    first, *statuses, last = events(out)
    assert (code, err) == (0, "")
    assert [first["event"], last["event"], last["reason"]] == ["started", "stopped", "complete"]
    assert (first["environment"], first["state"], first["is_new"]) == ("plain:Plain", "state", True)
    assert first["memory"]["total"] <= 1 << 17
    assert statuses
    for status in statuses:
        assert status.keys() == last.keys() - {"reason"}
        assert status["event"] == "status"
        assert status["last_episode"] is None or status["last_episode"]["steps"] == 20
    assert last["steps"] == last["control"]["cycles"] == last["updates"]
    assert {"connections", "updates_per_second", "resident_bytes", "trials", "champion", "snapshots"} < last.keys()


def test_the_same_command_continues_and_the_hours_are_those_of_all_starts(edgerl: Run) -> None:
    command = ("learn", "learner.safetensors", "--state", "here", "--rate", "0", "--env", "plain:Plain", "--seed", "7")
    reached = {}
    for hours in ("0.0001", "0.0002"):
        code, out, _ = edgerl(*command, "--json", "--hours", hours)
        assert code == 0
        reached[hours] = events(out)[-1]
    assert 0.36 <= reached["0.0001"]["seconds"] < 0.72 <= reached["0.0002"]["seconds"]
    assert reached["0.0002"]["control"]["seconds"] < 0.4
    for name in ("steps", "updates", "episodes", "snapshots"):
        assert reached["0.0002"][name] > reached["0.0001"][name]
    code, out, err = edgerl(*command, "--hours", "0.0002")
    assert code == 0
    assert "ignoring learner.safetensors: resuming from here" in err
    assert err.endswith("here has run for the hours requested; request more to go on\n")
    assert f"{reached['0.0002']['steps']} steps" in out


def test_a_state_needs_no_bundle(edgerl: Run, bundle: Path) -> None:
    assert edgerl("learn", "learner.safetensors", *SHORT)[0] == 0
    bundle.unlink()
    for arguments in ((), ("learner.safetensors",)):
        assert edgerl("learn", *arguments, *SHORT, "--state", "state", "--hours", "0.0002")[0] == 0
    code, _, err = edgerl("learn", *SHORT, "--hours", "0.0003")
    assert code == 0
    assert err.startswith("using state\nplain:Plain as fast as possible; state folder state: resumed after ")
    code, _, err = edgerl("learn", *SHORT, "--state", "another")
    assert code == 2
    assert "there is no runs/latest here; train one first: edgerl train" in err
    assert not Path("another").exists()


def test_the_nearest_bundle_is_the_default(edgerl: Run, bundle: Path) -> None:
    """The one in the current folder, or else that of the newest run that has one, whatever was trained since."""
    for name in ("first", "second", "third"):
        Path("runs", name).mkdir(parents=True)
    Path("runs/latest").symlink_to("third")
    code, _, err = edgerl("learn", *SHORT)
    assert (code, err.splitlines()[0]) == (0, "using learner.safetensors")
    assert "state folder state: new" in err
    Path("state").rename("elsewhere")
    content = bundle.read_bytes()
    bundle.unlink()
    code, _, err = edgerl("learn", *SHORT)
    assert code == 2
    assert "runs/third holds no learner.safetensors; export one: edgerl export --format learner" in err
    for name, trained_at in (("second", 2000), ("first", 1000)):
        Path("runs", name, "learner.safetensors").write_bytes(content)
        Path("runs", name, "checkpoint.safetensors").touch()
        os.utime(Path("runs", name, "checkpoint.safetensors"), (trained_at, trained_at))
    for name in ("second", "second", "first", "third"):
        if name == "first":
            Path("runs/second/learner.safetensors").unlink()
        Path("runs", name, "learner.safetensors").write_bytes(content)
        code, _, err = edgerl("learn", *SHORT, "--hours", "0.0002")
        assert code == 0
        assert err.startswith(f"using runs/{name}/learner.safetensors\n")
        assert f"state folder runs/{name}/state: " in err
    assert edgerl("learn", "runs/first", *SHORT, "--state", "runs/first/state", "--hours", "0.0003")[0] == 0


def test_choices_reach_the_learner(edgerl: Run) -> None:
    options = ("--memory", "64KiB", "--replay-policy", "reservoir", "--replay-storage", "mapped", "--updates", "thread")
    options += ("--trial-every", "3", "--window-seconds", "0.2", "--no-explore", "--updates-per-step", "0.5")
    code, out, _ = edgerl("learn", "learner.safetensors", *SHORT, *options, "--json")
    last = events(out)[-1]
    assert code == 0
    assert last["memory"]["total"] <= 1 << 16
    assert (last["replay"]["keep"], last["replay"]["storage"]) == ("reservoir", "mapped")
    assert (last["trials"]["rule"]["every"], last["trials"]["rule"]["window_steps"]) == (3, 20)  # as at 100 Hz
    assert last["updates"] <= 0.5 * last["steps"]
    code, _, err = edgerl("learn", "learner.safetensors", *SHORT, "--memory", "128KiB")
    assert code == 2
    assert "the state folder's memory is 65536, not 131072; leave it out, or start in another folder" in err


def test_numbers_that_are_not_finite_are_counted_and_stop_nothing(edgerl: Run) -> None:
    arguments = ("--rate", "0", "--hours", "0.0001", "--json")
    code, out, _ = edgerl("learn", "learner.safetensors", *arguments, "--env", "robots:nan_reward_robot")
    last = events(out)[-1]
    assert code == 0
    assert 0 < last["refused_transitions"] < last["steps"]
    assert last["last_episode"]["steps"] == 37


def test_drifts_go_on_where_they_were(edgerl: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    from edgerl.environments import drift

    made = []

    class Drifting(drift.DriftingEnvironment):  # type: ignore[misc]
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            made.append(self)

    monkeypatch.setattr(drift, "DriftingEnvironment", Drifting)
    command = ("learn", "learner.safetensors", "--env", "robots:robot", "--rate", "0", "--json")
    command += ("--drift", "sensor-bias/1:0.5@20", "--drift", "sensor-bias/2:1@1000000")
    for hours in ("0.0001", "0.0002"):
        code, out, _ = edgerl(*command, "--hours", hours)
        assert code == 0
        assert made[-1].steps == events(out)[-1]["steps"] > 20
        assert [str(drift) for drift in made[-1].active] == ["sensor-bias/1:0.5@20"]
    assert made[1].steps > made[0].steps


# What it needs.

BLOCKED = sorted(HEAVY - {"typer", "rich"} | {"pandas", "scipy"})


def test_a_plain_robot_needs_nothing_but_the_base_install() -> None:
    script = f"""
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {BLOCKED!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Blocker())
sys.argv = ["edgerl", "learn", "learner.safetensors", *{SHORT!r}]
from edgerl.cli import main
try:
    main()
except SystemExit as left:
    assert not left.code, left.code
print(*sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (done.returncode, "Traceback" in done.stderr) == (0, False), done.stderr
    loaded = {name.split(".")[0] for name in done.stdout.splitlines()[-1].split()}
    assert {"numpy", "plain"} < loaded
    assert not loaded & set(BLOCKED)


# How it is stopped, and goes on.


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_saves_everything(edgerl: Run, spawn: Spawn, number: signal.Signals, code: int) -> None:
    command = ("learner.safetensors", "--env", "plain:Slow", "--json", "--status-seconds", "0.1")
    process = spawn(*command)
    lines = lines_of(process)
    while (line := next(lines))["event"] != "status" or line["steps"] < 20:
        pass
    process.send_signal(number)
    rest, (_, err) = list(lines), process.communicate(timeout=300)
    assert process.returncode == code
    assert err.splitlines()[-1].startswith("edgerl: stopped after ")
    assert err.endswith("s in all; everything is in state, and the same command continues\n")
    last = rest[-1]
    assert (last["event"], last["reason"]) == ("stopped", number.name)
    assert last["snapshots"] > line["snapshots"]
    _, out, _ = edgerl("learn", *command, "--hours", (last["seconds"] + 0.3) / 3600)
    first, *_, end = events(out)
    assert not first["is_new"]
    assert end["steps"] > last["steps"]
    assert end["updates"] > last["updates"]


@pytest.mark.parametrize(
    ("number", "code", "word"), [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "stopped by SIGTERM")]
)
def test_a_second_signal_interrupts_a_robot_that_hangs(
    spawn: Spawn, number: signal.Signals, code: int, word: str
) -> None:
    process = spawn("learner.safetensors", "--env", "plain:Stuck", "--json", "--status-seconds", "0.1")
    lines = lines_of(process)
    steps = [next(lines).get("steps", 0) for _ in range(2)]
    while steps[-2:] != [15, 15]:
        steps.append(next(lines)["steps"])
    for _ in range(2):
        process.send_signal(number)
        time.sleep(2)  # two that come together would be one
    _, err = process.communicate(timeout=300)
    assert (process.returncode, err) == (code, f"edgerl: {word}\n")
    assert len(list(Path("state").glob("snapshot-*"))) == 2


def test_the_same_command_continues_after_a_kill_and_no_transition_is_lost(edgerl: Run, spawn: Spawn) -> None:
    command = ("learner.safetensors", "--env", "plain:Slow", "--json", "--status-seconds", "0.05", "--memory", "100kB")
    steps = 0
    for _ in range(3):
        process = spawn(*command)
        lines = lines_of(process)
        assert next(lines)["event"] == "started"
        while (seen := next(lines)["steps"]) < steps + 15:
            pass
        assert seen > steps
        process.kill()
        process.communicate(timeout=300)
        steps = seen
    code, out, _ = edgerl("learn", *command, "--hours", 1e-6)
    last = events(out)[-1]
    assert code == 0
    assert last["steps"] > steps
    assert last["replay"]["size"] == last["steps"]
    assert last["disk"]["rejected"] == []


def test_a_damaged_snapshot_is_passed_over_and_named(edgerl: Run) -> None:
    for hours in ("0.0001", "0.0002"):
        assert edgerl("learn", "learner.safetensors", *SHORT, "--hours", hours)[0] == 0
    newest = sorted(Path("state").glob("snapshot-*"))[-1]
    data = bytearray(newest.read_bytes())
    data[-1] ^= 1
    newest.write_bytes(data)
    code, _, err = edgerl("learn", "learner.safetensors", *SHORT, "--hours", "0.0004")
    assert code == 0
    assert f"passed over: {newest} has been altered: its SHA-256 does not match" in err


def test_a_state_folder_serves_one_process_at_a_time(edgerl: Run, spawn: Spawn) -> None:
    process = spawn("learner.safetensors", "--env", "plain:Slow", "--json")
    assert next(lines_of(process))["event"] == "started"
    code, _, err = edgerl("learn", "learner.safetensors", *SHORT)
    assert (code, err) == (2, "edgerl: state is in use by another process; stop that one first\n")


# What it says.


def test_a_terminal_shows_a_live_block(spawn: Spawn) -> None:
    controller, terminal = pty.openpty()
    process = spawn("learner.safetensors", *SHORT, "--status-seconds", "0.05", stderr=terminal)
    os.close(terminal)
    shown = b""
    try:
        while chunk := os.read(controller, 65536):
            shown += chunk
    except OSError:  # how a pseudo-terminal says that its other end was closed
        pass
    os.close(controller)
    process.communicate(timeout=300)
    assert process.returncode == 0
    for part in (b"champion", b"updates", b"missed deadlines", b"the process", b"snapshots"):
        assert part in shown


def test_a_reader_that_leaves_ends_nothing(spawn: Spawn) -> None:
    process = spawn("learner.safetensors", *SHORT, "--json", "--status-seconds", "0.02")
    assert process.stdout is not None
    assert process.stdout.readline().startswith('{"event": "started"')
    process.stdout.close()
    assert process.stderr is not None
    assert (process.stderr.read(), process.wait(timeout=300)) == ("", 0)
    assert len(list(Path("state").glob("snapshot-*"))) == 2


def full_pipe() -> tuple[int, int]:
    """(the end to read, the end to write to), which takes one page and has it."""
    reader, writer = os.pipe()
    os.write(writer, b"x" * fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 1))
    return reader, writer


def wait_for(condition: Callable[[], object]) -> None:
    while not condition():
        time.sleep(0.01)


@pytest.mark.parametrize("streams", [("stdout",), ("stderr",), ("stdout", "stderr")])
@pytest.mark.parametrize("options", [["--json"], []])
def test_nobody_who_does_not_read_holds_up_the_stop(spawn: Spawn, options: list[str], streams: tuple[str, ...]) -> None:
    """At the first SIGTERM the robot is at rest and everything kept, though what there is to say finds no room."""
    reader, writer = full_pipe()
    pipes = dict.fromkeys(streams, writer)
    command = ("learner.safetensors", "--env", "plain:Resting", "--status-seconds", "0.01", *options)
    process = spawn(*command, **({"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL} | pipes))
    os.close(writer)
    wait_for(lambda: Path("state/transitions.log").exists() and any(Path("state/transitions.log").read_bytes()[4096:]))
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=300) == 143
    assert Path("at-rest").exists()
    assert len(list(Path("state").glob("snapshot-*"))) == 2
    os.close(reader)


def test_lines_go_on_once_a_full_disk_has_room_again(spawn: Spawn) -> None:
    """Whole ones: what met the disk's end is absent. The limit on the size of files stands for the disk."""
    with open("log", "wb") as log:
        process = spawn("learner.safetensors", "--env", "plain:Slow", "--json", "--status-seconds", "0.01", stdout=log)

    def lines() -> int:
        return Path("log").read_bytes().count(b"\n")

    def is_at_the_limit() -> bool:
        before = Path("log").read_bytes()
        time.sleep(0.3)
        return before == Path("log").read_bytes()

    wait_for(lambda: lines() > 5)
    limit = Path("log").stat().st_size + 5000
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    wait_for(is_at_the_limit)
    complete = lines()
    assert Path("log").read_bytes().endswith(b"\n")
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    wait_for(lambda: lines() > complete + 5)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=300) == 143
    lines_written = events(Path("log").read_text())
    assert lines_written[-1]["event"] == "stopped"
    steps = [line["steps"] for line in lines_written if line["event"] == "status"]
    assert steps == sorted(steps)


def test_news_is_reported_once() -> None:
    def status(takeovers: int = 0, divergences: int = 0, error: str = "") -> dict[str, Any]:
        return {
            "trials": {"takeovers": takeovers, "divergences": divergences},
            "champion": 4,
            "last_error": error,
        }

    assert list(_news(None, status(1, 1, "old"))) == []
    assert list(_news(status(), status())) == []
    assert list(_news(status(), status(takeovers=1))) == [
        "the learning policy is the champion now, as it is in snapshot 4"
    ]
    assert list(_news(status(), status(divergences=1))) == ["learning diverged, and restarted from the champion"]
    assert list(_news(status(), status(error="cannot sync"))) == ["cannot sync"]
    assert list(_news(status(error="cannot sync"), status(error="cannot sync"))) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--hours", "0"], "--hours is 0; expected a number in (0, 200000]"),
        (["--hours", "nan"], "--hours is nan; expected a number in (0, "),
        (["--rate", "-3"], "the rate is -3 Hz; expected a number in [1e-6, 1e6]"),
        (["--memory", "lots"], "--memory is 'lots'; expected a number of bytes, such as 64KiB"),
        (["--memory", "1KiB"], "the memory is 1024 bytes"),
        (["--replay-policy", "pond"], "the replay policy is 'pond'; expected ring or reservoir"),
        (["--replay-storage", "tape"], "the storage is 'tape'; expected ram or mapped"),
        (["--updates", "never"], "--updates is 'never'; expected idle or thread"),
        (["--trial-every", "0"], "the trials' every is 0; expected an integer in [1, 50]"),
        (
            ["--window-seconds", "0.05"],
            "--window-seconds is 0.05; expected a number in [0.08, 86400]: a window has at least 8 steps",
        ),
        (["--window-seconds", "inf"], "--window-seconds is inf; expected a number in [0.08, "),
        (["--updates-per-step", "0"], "--updates-per-step is 0; expected a number in (0, 1000]"),
        (["--sync-seconds", "0"], "the sync interval is 0 s; expected a number in (0, "),
        (["--snapshot-minutes", "-1"], "the snapshot interval is -60 s; expected a number in (0, "),
        (["--status-seconds", "0"], "the status interval is 0 s; expected a number in (0, "),
        (["--seed", "-1"], "Invalid value for '--seed'"),
        (["--env", "plain:Plane"], "environment 'plain:Plane': plain has no function 'Plane'"),
        (["--env", "plain"], "environment 'plain' is unknown"),
        (["--env", "Pendulum-v1"], "Pendulum-v1 has observation_space (3,); expected 4 numbers, the policy's"),
        (["--env", "robots:no_environment"], "robots:no_environment has no reset(); expected what a gymnasium.Env has"),
        (
            ["--env", "robots:unbounded_robot"],
            "robots:unbounded_robot has actions whose low is [-inf -inf]; expected [",
        ),
        (["--drift", "wind"], "drift 'wind' is unknown; expected joint-friction"),
        (["--drift", "gravity"], "Plain cannot drift; expected a gymnasium.Env"),
        (["--drift", "gravity", "--env", "robots:robot"], "Robot has no MuJoCo model; drift gravity:1.75@0 needs one"),
        (["--state", "plain.py"], "cannot use the folder plain.py"),
    ],
)
def test_bad_input_is_one_line(edgerl: Run, arguments: list[str], message: str) -> None:
    code, out, err = edgerl("learn", "learner.safetensors", "--env", "plain:Plain", *arguments)
    assert (code, out) == (2, "")
    assert err.startswith(f"edgerl: {message}")
    assert err.count("\n") == 1
    assert not Path("state").exists(), "nothing is left of a learner that never started"


@pytest.mark.parametrize("arguments", [["x.onnx"], ["learner.safetensors", "--memory", "9KiB"], ["wide.safetensors"]])
def test_a_refusal_leaves_nothing_and_lets_the_robot_rest(edgerl: Run, arguments: list[str]) -> None:
    Path("x.onnx").write_bytes(b"no bundle")
    write_bundle(Path("wide.safetensors"), learner_config(n=40))
    Path("spaced.py").write_text(PLAIN + "\nResting.observation_space = type('Space', (), {'shape': (4,)})\n")
    before = sorted(os.listdir())
    code, out, err = edgerl("learn", *arguments, "--env", "spaced:Resting", "--rate", "0")
    assert (code, out, err.count("\n")) == (2, "", 1)
    made = ["at-rest"] * (arguments == ["wide.safetensors"])  # the bundle is read first
    assert sorted(set(os.listdir()) - {"__pycache__"}) == sorted([*before, *made])


def test_a_robot_that_never_made_a_step_leaves_no_beginning(edgerl: Run) -> None:
    """Or the right bundle would not be read the next time."""
    write_bundle(Path("wide.safetensors"), learner_config(n=40))
    code, _, err = edgerl("learn", "wide.safetensors", *SHORT)
    assert (code, err.splitlines()[-1]) == (
        2,
        "edgerl: plain:Plain returned 4 numbers as observation at step 0 (seed 0); expected 40",
    )
    assert not Path("state").exists()
    assert edgerl("learn", "learner.safetensors", *SHORT)[0] == 0


def test_a_file_that_is_no_log_is_not_overwritten(edgerl: Run) -> None:
    Path("state").mkdir()
    Path("state/transitions.log").write_text("To do: buy milk.\n")
    code, out, err = edgerl("learn", "learner.safetensors", *SHORT)
    assert (code, out) == (2, "")
    assert err.startswith(
        "edgerl: state/transitions.log is not a log of a learner; move it away, or choose another folder"
    )
    assert os.listdir("state") == ["transitions.log"]
    assert Path("state/transitions.log").read_text() == "To do: buy milk.\n"


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ("os:abort", "names the environment 'os:abort', which is code; to run it, add --env os:abort"),
        (None, "does not name its environment; name one: --env HalfCheetah-v5"),
        ("Pendulum-v1", "edgerl: Pendulum-v1 has observation_space (3,); expected 4 numbers, the policy's"),
    ],
)
def test_the_environment_that_the_bundle_names(edgerl: Run, environment: str | None, message: str) -> None:
    write_bundle(Path("other.safetensors"), learner_config(n=4, m=2), about={"environment": environment})
    code, _, err = edgerl("learn", "other.safetensors", "--rate", "0")
    assert code == 2
    assert message in err


def test_a_robot_that_fails_is_one_line_and_everything_is_kept(edgerl: Run) -> None:
    Path("broken.py").write_text(
        PLAIN + "\nclass Broken(Plain):\n    def step(self, action): raise OSError('bus off')\n"
    )
    code, out, err = edgerl("learn", "learner.safetensors", "--env", "broken:Broken", "--json")
    last = events(out)[-1]
    assert (code, err) == (2, "edgerl: broken:Broken failed at step 1 (seed 0) (OSError: bus off)\n")
    assert (last["event"], last["reason"]) == ("stopped", "broken:Broken failed at step 1 (seed 0) (OSError: bus off)")
    assert last["snapshots"] == 2


def test_a_robot_that_leaves_the_process_is_a_fault_of_the_robot(edgerl: Run) -> None:
    """`sys.exit` in a robot's code must not end a service as if all were well."""
    code, out, err = edgerl("learn", "learner.safetensors", "--env", "plain:Leaving", "--json", "--rate", "0")
    problem = "plain:Leaving failed at step 6 (seed 0) (SystemExit: 3)"
    assert (code, err) == (2, f"edgerl: {problem}\n")
    assert (events(out)[-1]["event"], events(out)[-1]["reason"]) == ("stopped", problem)
    assert events(out)[-1]["snapshots"] == 2
    assert Path("at-rest").exists()


@pytest.mark.parametrize("name", ["ppo.onnx", "ppo.safetensors"])
def test_a_file_of_another_program_does_not_learn(edgerl: Run, name: str) -> None:
    """Whatever its name says."""
    write_actor(Path(name))
    code, out, err = edgerl("learn", name, *SHORT)
    assert (code, out) == (2, "")
    assert f"native cannot run {name}: it was not written by edgerl" in err
    assert "expected a learner.safetensors: edgerl export --format learner" in err
