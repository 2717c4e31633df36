"""Write the golden files anew: `python -m tests.export.golden`. They are text to be reviewed."""

from __future__ import annotations

import re
from pathlib import Path

from edgerl.export.c import Options
from edgerl.export.c.source import generate
from edgerl.policy.compact import Precision
from tests.export.compiled_c import PROVENANCE
from tests.policy.policies import random_policy

CASES: tuple[tuple[str, int, Precision], ...] = (("single", 1, "fp32"), ("blocks", 4, "fp32"), ("quantised", 1, "int8"))


def golden(name: str, block: int, precision: Precision) -> dict[str, str]:
    """File name → text, with the version of edgerl left out."""
    policy = random_policy(1, (3, 5, 2), block, precision, density=0.5)
    made = generate(policy, options=Options(prefix=name, layout="sparse"), provenance=PROVENANCE)
    header = re.sub(r"(edgerl |VERSION \")\d+\.\d+\.\d+", r"\1<version>", made.header)
    return {f"{name}.h": header, f"{name}.c": made.source}


if __name__ == "__main__":
    for case in CASES:
        for file, text in golden(*case).items():
            (Path(__file__).parent / file).write_text(text)
