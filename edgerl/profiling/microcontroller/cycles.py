"""Models of what executed instructions cost in cycles. They are models: no board is involved.

**Cortex-M4F**: the timing tables of its technical reference manual (Arm DDI 0439, "Instruction set summary" and "FPU
instruction set table") applied to each executed instruction. What the tables leave open is settled here:

- no wait states: code, weights and data are read as from memory without any (RAM, or flash behind a cache that hits);
- a taken branch refills the pipeline in P = 2 cycles (the manual: 1 to 3); a division takes 12 (2 to 12);
- a load right after a load or store of one register takes 1 cycle instead of 2, unless its address depends on it;
- an arithmetic floating-point result that the next instruction uses costs 1 more;
- instructions that an IT block skips cost as if they were executed.

**Cortex-M7**: no table is published. LLVM's scheduling model of the core (`llvm-mca -mcpu=cortex-m7`) says what each
straight run of instructions takes, repeated a hundred times, with caches that hit and branches that are predicted.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgerl.errors import UnsupportedModelError
from edgerl.profiling.microcontroller.emulator import Executed, Execution, disassemble
from edgerl.profiling.microcontroller.toolchain import require_program, run_program

REFILL = 2
"""P: cycles that a taken branch costs a Cortex-M4 beyond its own."""

DIVISION = 12

ITERATIONS = 100
"""How often llvm-mca repeats a block: long enough that filling the pipeline counts for 1 %."""

MODELS = {
    "cortex-m4f": "model: timing tables of the Cortex-M4 manual (DDI 0439), no wait states, P = 2",
    "cortex-m7": "model: LLVM's scheduling model of the Cortex-M7 (llvm-mca), caches that hit, branches predicted",
}


def modelled_cycles(execution: Execution, core: str) -> float | None:
    """Cycles per call by the core's model; None where there is none (MODELS).

    Raises MissingExtraError where llvm-mca is needed and absent.
    """
    models: dict[str, Callable[[Sequence[Executed], Mapping[int, str], Path], float]]
    models = {"cortex-m4f": lambda executed, text, _: cortex_m4_cycles(executed, text), "cortex-m7": cortex_m7_cycles}
    if core not in models:
        return None
    text = disassemble(execution.program)
    return models[core](execution.executed, text, execution.program.parent) / len(execution.instructions)


# ------------------------------------------------------------------------------------------------ Cortex-M4F


def cortex_m4_cycles(executed: Sequence[Executed], text: Mapping[int, str]) -> float:
    """Cycles of executed instructions, whose `text` by address is objdump's, by the manual's tables."""
    total = 0
    previous: Executed | None = None
    for each in sorted(executed, key=lambda instruction: instruction.address):
        here = text[each.address]
        total += each.executions * _m4_cost(here) + each.left * REFILL
        if previous is not None:
            behind = min(each.executions, previous.executions - previous.left)
            total += behind * _m4_neighbours(text[previous.address], here)
        previous = each
    return float(total)


def _m4_cost(text: str) -> int:
    """Cycles of one instruction by itself, without the refill that follows a taken branch."""
    mnemonic, _, operands = text.partition(" ")
    name = mnemonic.partition(".")[0]
    for pattern, cost in _M4_COSTS:
        if re.match(pattern, name):
            return cost if isinstance(cost, int) else cost(operands)
    return 1


def _multiple(operands: str) -> int:
    """1, and 1 for each word that a list of registers stands for, such as {r4-r7, lr} or {d8}."""
    listed = operands[operands.index("{") + 1 : operands.index("}")]
    cycles = 1
    for part in listed.split(","):
        first, _, last = part.strip().partition("-")
        registers = int(last[1:]) - int(first[1:]) + 1 if last else 1
        cycles += registers * (2 if first.startswith("d") else 1)
    return cycles


# The first pattern that a mnemonic begins with counts.
_M4_COSTS: tuple[tuple[str, int | Callable[[str], int]], ...] = (
    (r"v(ldm|stm|push|pop)", _multiple),
    (r"v(ldr|str)", lambda operands: 3 if operands.startswith("d") else 2),
    (r"v(div|sqrt)", 14),
    (r"vf?n?m(la|ls|a|s)(?![rx])", 3),
    (r"vmov", lambda operands: 2 if operands.count(",") >= 2 else 1),
    (r"v", 1),
    (r"ldm|stm|push|pop", _multiple),
    (r"ldrd|strd", 3),
    (r"ldr", 2),
    (r"str", lambda operands: 2 if re.search(r"\[\w+, [a-z]", operands) else 1),
    (r"ml[as]", 2),
    (r"[su]div", DIVISION),
    (r"tb[bh]", 2),
)

_ACCESS = re.compile(r"(ldr|str)(?!d|ex)")
_FLOAT_ARITHMETIC = re.compile(r"v(add|sub|n?mul|div|sqrt|cvt|f?n?m(la|ls|a|s)\.)")


def _m4_neighbours(before: str, here: str) -> int:
    """Cycles more, or fewer, that an instruction takes right after another one."""
    if _ACCESS.match(before) and here.startswith("ldr") and _ACCESS.match(here):
        loaded = before.partition(" ")[2].partition(",")[0] if before.startswith("ldr") else ""
        address = here[here.find("[") :]
        return 0 if loaded and re.search(rf"\b{loaded}\b", address) else -1
    if _FLOAT_ARITHMETIC.match(before) and here.startswith("v"):
        result, operands = before.partition(" ")[2].partition(",")[0], here.partition(" ")[2]
        used = operands if re.match(r"v(str|stm|push|cmp|mrs|f?n?m(la|ls|a|s))", here) else operands.partition(",")[2]
        return 1 if re.search(rf"\b{result}\b", used) else 0
    return 0


# ------------------------------------------------------------------------------------------------ Cortex-M7


@dataclass(frozen=True)
class Block:
    """A straight run of instructions that is always executed as a whole, and how often it was."""

    instructions: tuple[str, ...]
    executions: int


def straight_runs(executed: Sequence[Executed], text: Mapping[int, str]) -> list[Block]:
    """The blocks that executed instructions make up."""
    blocks: list[Block] = []
    run: list[str] = []
    count, following = 0, -1
    addresses = sorted(text)
    after = dict(zip(addresses, [*addresses[1:], -1], strict=True))
    for each in sorted(executed, key=lambda instruction: instruction.address):
        if run and (each.address != following or each.executions != count):
            blocks.append(Block(tuple(run), count))
            run = []
        run.append(text[each.address])
        count, following = each.executions, -1 if each.left else after[each.address]
    return [*blocks, Block(tuple(run), count)] if run else blocks


def cortex_m7_cycles(executed: Sequence[Executed], text: Mapping[int, str], folder: Path) -> float:
    """Cycles of executed instructions by LLVM's scheduling model. Raises MissingExtraError without llvm-mca."""
    llvm_mca = require_program("llvm-mca", "llvm", "modelling the cycles of a Cortex-M7")
    blocks = straight_runs(executed, text)
    lines = [".syntax unified", ".cpu cortex-m7", ".fpu fpv5-d16", ".thumb"]
    for index, block in enumerate(blocks):
        lines += [f"@ LLVM-MCA-BEGIN {index}", *_for_llvm(block.instructions), "@ LLVM-MCA-END"]
    (folder / "blocks.s").write_text("\n".join([*lines, "target:", ""]))
    options = ["-mtriple=thumbv7em-none-eabihf", "-mcpu=cortex-m7", f"-iterations={ITERATIONS}"]
    views = ["-all-views=false", "-summary-view", "blocks.s"]
    printed = run_program([llvm_mca, *options, *views], folder, "blocks.s")
    cycles = [int(number) for number in re.findall(r"^Total Cycles:\s+(\d+)$", printed, re.MULTILINE)]
    if len(cycles) != len(blocks):
        raise UnsupportedModelError(f"llvm-mca answered for {len(cycles)} blocks; expected {len(blocks)}")
    return sum(block.executions * total / ITERATIONS for block, total in zip(blocks, cycles, strict=True))


_PAIRS = (("eq", "ne"), ("cs", "cc"), ("mi", "pl"), ("vs", "vc"), ("hi", "ls"), ("ge", "lt"), ("gt", "le"))
_INVERSE = {one: other for pair in _PAIRS for one, other in (pair, pair[::-1])}
_UPDATES_FIRST, _UPDATES_LAST = re.compile(r"\[(\w+)(, [^][]*)]!$"), r"[\1]\2"
_ENCODED_FLOAT = re.compile(r"#\d+$")
_BRANCH = re.compile(r"(b|bl|blx|cbn?z|b(?:eq|ne|cs|cc|mi|pl|vs|vc|hi|ls|ge|lt|gt|le))$")


def _for_llvm(instructions: Sequence[str]) -> list[str]:
    """Instructions as llvm-mca takes them: what it cannot place is replaced by what costs the same.

    Branches get a label (a call becomes a branch, or it would stand for what it calls), an IT block its instructions
    without their condition behind a nop, a comparison with zero is one with a register, and a load or store that
    updates its address first does so last (LLVM 14 to 19 crash on it).
    """
    lines: list[str] = []
    conditions: list[str] = []
    for text in instructions:
        mnemonic, _, operands = text.partition(" ")
        mnemonic = re.sub(r"\.[nw]$", "", mnemonic)  # LLVM chooses the width itself, and refuses it after some
        if re.fullmatch(r"it[te]*", mnemonic):
            conditions = [operands if letter == "t" else _INVERSE[operands] for letter in mnemonic[1:]]
            lines.append("nop")
            continue
        if conditions:
            condition = conditions.pop(0)
            first, dot, rest = mnemonic.partition(".")
            mnemonic = first.removesuffix(condition) + dot + rest
        if branch := _BRANCH.match(mnemonic):
            register = operands.partition(",")[0] + ", " if branch[1].startswith("cb") else ""
            lines.append(f"{'b' if branch[1] in ('bl', 'blx') else branch[1]} {register}target")
        else:
            if mnemonic.startswith("vcmp"):  # the model knows one form of it, which costs the same
                mnemonic = mnemonic.replace("vcmpe", "vcmp")
                operands = operands.replace("#0.0", operands.partition(",")[0])
            operands = _ENCODED_FLOAT.sub("#1.0", operands) if mnemonic.startswith("vmov.f") else operands
            lines.append(f"{mnemonic} {_UPDATES_FIRST.sub(_UPDATES_LAST, operands)}")
    return lines
