"""Microcontroller cores: which class a core belongs to, and what its instructions can do.

The published latencies of a class are fitted together (latency/model.py). What a core can do is from Arm's and
Espressif's technical reference manuals: a floating-point unit, and two or more int8 multiply-adds in one instruction
(Arm's DSP extension: SMLAD).
"""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class CoreClass:
    """A class of cores; `name` is how fitted figures are found."""

    name: str
    has_fpu: bool
    has_int8_pairs: bool  # at least two int8 multiply-adds in one instruction


_ARM = r"(cortex|arm|^) ?m"
_RISC_V = r"(rv|risc ?v) ?(32|64)"

# (what a plain text about the core matches; the class). The first that matches counts.
_CLASSES = (
    (_ARM + r"(0|1|23)(?!\d)", CoreClass("Cortex-M0+", has_fpu=False, has_int8_pairs=False)),
    (_ARM + r"3(?!\d)", CoreClass("Cortex-M3", has_fpu=False, has_int8_pairs=False)),
    (_ARM + r"4(?!\d)", CoreClass("Cortex-M4F", has_fpu=True, has_int8_pairs=True)),
    (_ARM + r"7(?!\d)", CoreClass("Cortex-M7", has_fpu=True, has_int8_pairs=True)),
    (_ARM + r"3[35](?!\d)", CoreClass("Cortex-M33F", has_fpu=True, has_int8_pairs=True)),
    (_ARM + r"(52|55|85)(?!\d)", CoreClass("Cortex-M55", has_fpu=True, has_int8_pairs=True)),
    (r"lx6(?!\d)", CoreClass("Xtensa LX6", has_fpu=True, has_int8_pairs=False)),
    (r"lx7(?!\d)", CoreClass("Xtensa LX7", has_fpu=True, has_int8_pairs=True)),
    (_RISC_V + r"[abcehikmv]*[dfg]|(rv|risc ?v).*fpu", CoreClass("RV32F", has_fpu=True, has_int8_pairs=False)),
    (_RISC_V + r"|risc ?v", CoreClass("RV32IMC", has_fpu=False, has_int8_pairs=False)),
)

_NO_FPU = re.compile(r"(no|without( an?)?) fpu|soft ?float")

UNKNOWN = CoreClass("unknown", has_fpu=True, has_int8_pairs=False)


def class_of_core(text: str) -> CoreClass:
    """The class of the core that `text` names, as in "Cortex-M4F" or "Xtensa LX6"; UNKNOWN where it fits none.

    Case and punctuation do not matter: "Arm Cortex M4" is the first, too. "no FPU" in the text is believed; a RISC-V
    has none unless the text says so, like most microcontrollers.
    """
    plain = plain_words(text)
    without_fpu = _NO_FPU.search(plain) is not None
    named = _NO_FPU.sub("", plain)
    core = next((core for pattern, core in _CLASSES if re.search(pattern, named)), UNKNOWN)
    return CoreClass(core.name, core.has_fpu and not without_fpu, core.has_int8_pairs)


def plain_words(text: str) -> str:
    """The text in lower case, with one space for anything between letters and digits."""
    return re.sub(r"[^a-z0-9]+", " ", text.lower()).strip()
