"""`edgerl learn` where memory is limited: it works, or says in one line that there is too little, and the state folder
stays whole.

160 limits of the address space, from what the process has to 40 MiB more, and 160 of its data, with the replay in RAM
and in a file, times EDGERL_SOAK (default 0.05).
"""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from edgerl.edge.continual.learner import Learner
from tests.edge.learners import learner_config, write_bundle

from .forked import Forked, forked

LIMITS = max(4, round(160 * min(float(os.environ.get("EDGERL_SOAK", "0.05")), 1)))
MOST = 40 << 20
STEPS = 300

ROBOT = f'''"""A robot that ends the session itself."""

import os
import signal


class Robot:
    total = 0

    def reset(self, seed):
        self.age, self.state = 0, [0.1 * (seed % 5)] * 3
        return self.state

    def step(self, action):
        self.age += 1
        self.total += 1
        self.state = [0.9 * number + 0.1 * float(action[0]) for number in self.state]
        if self.total == {STEPS}:
            os.kill(os.getpid(), signal.SIGTERM)
        return self.state, -abs(self.state[0]), False, self.age == 20, {{}}
'''

WARM_UP = """
import sys
from unittest.mock import patch
from tests.edge.learners import learner_config, write_bundle
from edgerl.cli import main

write_bundle(config=learner_config(n=4, m=2, batch=8))
sys.argv = ["edgerl", "learn", "learner.safetensors", "--env", "tests.robots:robot", "--rate", "0", "--hours", "1e-5"]
with patch("sys.exit"):
    main()
"""
"""All modules are loaded: where Python finds no room for one, it may say anything."""

LEARN = ("learn", "learner.safetensors", "--env", "limited:Robot", "--rate", 0, "--hours", 10, "--state", "state")


@pytest.fixture(scope="module")
def commands(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Forked]:
    with forked(WARM_UP, tmp_path_factory.mktemp("printed")) as server:
        yield server


@pytest.mark.soak
@pytest.mark.parametrize("limit", ["RLIMIT_AS", "RLIMIT_DATA"])
@pytest.mark.parametrize("storage", ["ram", "mapped"])
def test_it_works_or_says_so_and_the_state_stays_whole(commands: Forked, limit: str, storage: str) -> None:
    Path("limited.py").write_text(ROBOT)
    write_bundle(config=learner_config(batch=8), memory=4 << 20)
    learn = (*LEARN, "--replay-storage", storage)
    stopped = commands.run(*learn)
    assert stopped.code == 128 + signal.SIGTERM, stopped.err
    shutil.copytree("state", "stopped")
    codes: dict[int, int] = {}
    for number in range(LIMITS):
        is_new = number % 4 == 3
        shutil.rmtree("state", ignore_errors=True)
        if not is_new:
            shutil.copytree("stopped", "state")
        ran = commands.run(*learn, room=(limit, MOST * number // LIMITS))
        what = f"{limit}, {number} of {LIMITS}: {ran.err}"
        codes[ran.code] = codes.get(ran.code, 0) + 1
        assert ran.code in (2, 128 + signal.SIGTERM), what
        assert ran.complaint, what
        if not is_new or Path("state").exists():
            with closing(Learner.load("learner.safetensors", state="state")) as learner:
                assert learner.rejected == [], what
                assert learner.counters.steps >= (0 if is_new else STEPS), what
                assert learner.counters.steps >= STEPS or ran.code == 2, what
    print(f"{limit}: exit codes {codes}")
    assert len(codes) == 2, "some limits are too low, some are not"
