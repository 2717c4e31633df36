"""How a policy becomes C."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from edgerl.options import Checked, option

Precision = Literal["fp32", "fp16", "int8"]
Target = Literal["cortex-m4", "cortex-m7", "esp32", "rp2040", "generic", "linux-x86-64", "linux-aarch64", "cortex-a"]
Layout = Literal["auto", "dense", "sparse"]


@dataclass(frozen=True)
class Options(Checked):
    """How a policy becomes C."""

    dtype: Precision | None = option(None, "Precision of the weights.", shown="as the policy stores them")
    target: Target = option(
        "generic",
        "A core (cortex-m4, cortex-m7, esp32, rp2040, generic; linux-x86-64, linux-aarch64, cortex-a), or a device, "
        "whose budgets are then kept.",
        other="device",
    )
    layout: Layout = option("auto", "How each layer is held; auto: what is faster and not much larger.")
    prefix: str = option("edgerl_policy", "Prefix of every name, and of the files.")
    project: bool = option(False, "With files for CMake, PlatformIO and Arduino, ESP-IDF, and Zephyr.")
    measure: bool | None = option(
        None,
        "Compile it for the target's Cortex-M, and count its instructions in QEMU.",
        shown="where the cross compiler is",
    )

    def __post_init__(self) -> None:
        from edgerl.export.c.text import check_prefix

        super().__post_init__()
        check_prefix(self.prefix)
