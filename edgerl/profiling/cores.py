"""Microcontroller cores: which class a core belongs to, and what its instructions can do.

The published latencies of a class are fitted together (latency_model.py). What a core can do is from Arm's and
Espressif's technical reference manuals: a floating-point unit, and two or more int8 multiply-adds in one instruction
(Arm's DSP extension: SMLAD).
"""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Core:
    """A class of cores; `name` is how fitted figures are found."""

    name: str
    has_fpu: bool
    has_int8_pairs: bool  # at least two int8 multiply-adds in one instruction


# (what a text about the core matches, in lower case; the class). The first that matches counts.
_CLASSES = (
    (r"cortex-?m(0|1|23)(?!\d)", Core("Cortex-M0+", has_fpu=False, has_int8_pairs=False)),
    (r"cortex-?m3(?!\d)", Core("Cortex-M3", has_fpu=False, has_int8_pairs=False)),
    (r"cortex-?m4(?!\d)", Core("Cortex-M4F", has_fpu=True, has_int8_pairs=True)),
    (r"cortex-?m7(?!\d)", Core("Cortex-M7", has_fpu=True, has_int8_pairs=True)),
    (r"cortex-?m3[35]", Core("Cortex-M33F", has_fpu=True, has_int8_pairs=True)),
    (r"cortex-?m(52|55|85)", Core("Cortex-M55", has_fpu=True, has_int8_pairs=True)),
    (r"lx6", Core("Xtensa LX6", has_fpu=True, has_int8_pairs=False)),
    (r"lx7", Core("Xtensa LX7", has_fpu=True, has_int8_pairs=True)),
    (r"(rv32|risc-?v).*no fpu|rv32(i|e)m?a?c?(?![a-z])", Core("RV32IMC", has_fpu=False, has_int8_pairs=False)),
    (r"rv32|risc-?v", Core("RV32F", has_fpu=True, has_int8_pairs=False)),
)

UNKNOWN = Core("unknown", has_fpu=True, has_int8_pairs=False)


def find_core(text: str) -> Core:
    """The class of the core that `text` names, as in "Cortex-M4F" or "Xtensa LX6"; UNKNOWN where it fits none.

    "no FPU" in the text is believed.
    """
    lower = text.lower()
    core = next((core for pattern, core in _CLASSES if re.search(pattern, lower)), UNKNOWN)
    return Core(core.name, core.has_fpu and "no fpu" not in lower, core.has_int8_pairs)
