"""`edgerl export --format c --learn`: from a run or a bundle to the learner's C files."""

from __future__ import annotations

import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgerl.cli.support.models import find_run
from edgerl.cli.support.output import described_difference, print_json
from edgerl.errors import ConfigError, FileFormatError
from edgerl.run_folder import CHECKPOINT, LEARNER, short
from edgerl.units import human_bytes

if TYPE_CHECKING:
    from edgerl.export.c_learner import Budget, Sizes
    from edgerl.policy.loss import ActionDifference

FOLDER = "learner-c"
"""Beside what was exported."""

CORES = ("generic", "cortex-m4", "cortex-m7")
"""Targets that are no board: they have no budget."""

LARGEST_MEMORY = 1 << 40
"""Bytes that a handed-over learner may take: the device's own budget counts."""


def export_c_learner(
    source: Path | None,
    output: Path | None,
    *,
    force: bool,
    json: bool,
    replay: int | None,
    replay_dtype: str | None,
    memory: int | None,
    batch: int | None,
    target: str | None,
    prefix: str | None,
) -> None:
    """Say what the learner takes, and write it. Raises EdgerlError."""
    from edgerl.export.c_learner import PREFIX, make_c_learner, write_c_learner

    budget, lanes = _target(target)
    with tempfile.TemporaryDirectory(prefix="edgerl-") as scratch:
        bundle, named, folder, kept = _bundle(source, replay_dtype, Path(scratch))
        learner = make_c_learner(
            bundle,
            capacity=replay,
            memory=memory,
            batch=batch,
            lanes=lanes,
            budget=budget,
            prefix=PREFIX if prefix is None else prefix,
            precision=replay_dtype,
            about=f"Of {named}, for {target}." if target else f"Of {named}.",
        )
    if not json:
        _print_sizes(learner.sizes, budget)
        if kept is not None and replay_dtype == "fp16":
            print(f"as they are kept: {described_difference(kept)}")
    paths = write_c_learner(learner, output or folder / FOLDER, force=force or output is None)
    if json:
        print_json(_as_json(learner.sizes, budget, paths, kept))
        return
    print(f"{paths[1]} and {paths[0].name}: compile it with -std=c11 -O2 -ffp-contract=fast")


def _bundle(
    source: Path | None, replay_dtype: str | None, scratch: Path
) -> tuple[Path, str, Path, ActionDifference | None]:
    """(the learner's bundle, what to call it, the folder beside which C is written, what is lost by how observations
    are kept, where that is decided here): a run is handed over anew."""
    from edgerl.edge.runtimes import refuse_onnx

    if source is not None and source.is_file():
        refuse_onnx(source, "c", f"a {LEARNER}, or a run folder")
        return source, source.name, source.parent, None
    run = find_run(source)
    if not (run / CHECKPOINT).is_file():
        raise FileFormatError(f"{run} holds no {CHECKPOINT}; name a run folder, or a {LEARNER}")
    from edgerl.training.handover import hand_over

    chosen: dict[str, Any] = {} if replay_dtype is None else {"precision": replay_dtype}
    handed = hand_over(run, scratch / LEARNER, seed=0, memory=LARGEST_MEMORY, **chosen)
    return scratch / LEARNER, f"the run {run.resolve().name}", short(run.resolve()), handed.action_difference


def _target(name: str | None) -> tuple[Budget | None, int]:
    """(what a learner may take there, numbers in a vector there)."""
    from edgerl.export.c_learner import Budget
    from edgerl.profiling.budgets.device import find_device
    from edgerl.profiling.budgets.memory import LANES_BASELINE

    if name is None or name in CORES:
        return None, 1
    device = find_device(name)
    figures = device.runtime("c").figures
    if figures is None:
        raise ConfigError(f"C cannot run on {device.id}; choose another --target")
    ram = int(device.budgets.memory_bytes.value - figures.base_memory_bytes.value)
    lanes = 1 if device.kind == "microcontroller" else LANES_BASELINE
    return Budget(device.id, ram, int(device.budgets.flash_bytes.value)), lanes


def _print_sizes(sizes: Sizes, budget: Budget | None) -> None:
    of_ram = of_flash = ""
    if budget is not None:
        of_ram = f" of {human_bytes(budget.ram)} on {budget.device}"
        of_flash = f" of {human_bytes(budget.flash)}"
    print(
        f"RAM {human_bytes(sizes.ram)} ({sizes.ram} bytes){of_ram}: networks {human_bytes(sizes.arena)}, "
        f"{sizes.capacity} transitions of {sizes.row} bytes {human_bytes(sizes.replay)}"
    )
    print(
        f"flash {human_bytes(sizes.flash)}{of_flash}: initial state {human_bytes(sizes.state)}, code about "
        f"{human_bytes(sizes.code)} (Cortex-M7, -O2); a save takes {human_bytes(sizes.save)}, without transitions "
        f"{human_bytes(sizes.save - sizes.replay)}"
    )


def _as_json(
    sizes: Sizes, budget: Budget | None, paths: tuple[Path, Path], kept: ActionDifference | None
) -> dict[str, Any]:
    return {
        "paths": [str(path) for path in paths],
        **asdict(sizes),
        "ram": sizes.ram,
        "flash": sizes.flash,
        "budget": None if budget is None else asdict(budget),
        "action_difference": None if kept is None else asdict(kept),
    }
