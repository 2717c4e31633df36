"""libFuzzer, guided by what it covers, under the address and the undefined-behaviour sanitizer: on learners' arenas and
on exported learners.

Five minutes each, times EDGERL_SOAK (default 0.02), from a corpus of valid states. How many inputs that are depends on
the machine; that none of them leads astray does not.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from edgerl.export.c_learner.source import make_c_learner, write_c_learner
from tests.edge.compiled import HERE, compile_c, run
from tests.edge.learners import learner_config, write_bundle

SHARE = float(os.environ.get("EDGERL_SOAK", "0.02"))
SECONDS = max(1, round(300 * SHARE))

CLANG = (
    "-fsanitize=fuzzer,address,undefined", "-fno-sanitize-recover=all", "-gline-tables-only",
    "-mllvm", "-asan-instrumentation-with-call-threshold=0", "-DEDGERL_BASELINE_ONLY",
)  # fmt: skip
"""For a few seconds it does not pay to optimise, which takes clang longer."""


def _fuzz(source: Path, *options: object) -> int:
    """How many inputs survived."""
    fuzzer, corpus = Path("fuzzer").resolve(), Path("corpus")
    corpus.mkdir()
    compile_c("clang", "-O1" if SHARE >= 1 else "-O0", *CLANG, *options, source, "-o", fuzzer)
    run(fuzzer, "corpus", corpus)
    command = [fuzzer, "-seed=20220526", f"-max_total_time={SECONDS}", "-rss_limit_mb=1024", "-print_final_stats=1"]
    output = run("sh", "-c", '"$@" 2>&1', "sh", *command, corpus)
    found = re.search(r"stat::number_of_executed_units: (\d+)", output)
    assert found is not None, output
    return int(found[1])


@pytest.mark.soak
@pytest.mark.needs("clang", "libFuzzer")
def test_whatever_is_in_an_arena_it_is_refused_or_as_good_as_any() -> None:
    inputs = _fuzz(HERE / "learner_fuzzer.c")
    print(f"{inputs} inputs")
    assert inputs > 3


@pytest.mark.soak
@pytest.mark.needs("clang", "libFuzzer")
@pytest.mark.parametrize(
    ("block", "precision", "n_step"), [(1, "fp32", 1), (4, "fp16", 3)], ids=["single-fp32", "block-4-fp16-n-step"]
)
def test_whatever_an_exported_learner_is_given_it_is_refused_or_works(block: int, precision: str, n_step: int) -> None:
    config = learner_config(2, 1, (6, 3), block, 60, batch=2, evolution_interval=2, n_step=n_step)
    bundle = write_bundle(config=config, precision=precision, normalise=block == 4)
    folder = Path("exported")
    folder.mkdir()
    write_c_learner(make_c_learner(bundle, capacity=9), folder, force=True)
    inputs = _fuzz(HERE.parent / "export" / "learner_fuzzer.c", "-I", folder)
    print(f"{inputs} inputs")
    assert inputs > 4
