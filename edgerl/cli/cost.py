"""`edgerl cost`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgerl.cli.support.options import takes_options_of_a_run
from edgerl.cli.support.output import Json, print_json, print_table
from edgerl.units import human_bytes

NAMES = {"crossq": "CrossQ"}
"""Of algorithms whose names are not abbreviations."""


@takes_options_of_a_run
def command(*, preset: str | None, config: Path | None, as_json: Json = False, **options: Any) -> None:
    """Say what a run would cost, exactly, before it exists. Takes the options of `edgerl train`.

    FLOPs are counted on the connections, as a sparse engine executes them; PyTorch executes the dense matrices.

    Example: edgerl cost --env Humanoid-v5 --sparsity 0.9
    """
    from edgerl.commands.cost import cost

    report = cost(options.pop("environment", None), preset=preset, config=config, **options)
    if as_json:
        print_json(report)
    else:
        _print(report)


def _print(report: dict[str, Any]) -> None:
    layers = [
        (f"{name} {index + 1}", f"{n_inputs}×{n_outputs}", str(count), f"{count / (n_inputs * n_outputs):.1%}")
        for name in ("actor", "critic")
        for index, layer in enumerate(report["layers"][name])
        for n_inputs, n_outputs, count in (layer.values(),)
    ]
    print_table(("layer", "inputs × outputs", "connections", "density"), layers)
    dense, sparse = report["training_flops_paper_dense"], report["training_flops_paper"]
    print(f"connections, actor and both critics: {report['connections']} of {report['connections_dense']}")
    algorithm = report["algorithm"]
    counterpart = f"dense {NAMES.get(algorithm, algorithm.upper())}'s {dense:.3g}"
    print(f"training FLOPs as the paper counts: {sparse:.3g}, {sparse / dense:.2f}× of {counterpart}")
    print(f"training FLOPs with targets, acting, optimiser and topology: {report['training_flops_full']:.3g}")
    print(f"inference FLOPs: {report['inference_flops']} of {report['inference_flops_dense']}")
    size = report["bytes"]
    print(f"compact fp32 file of the actor, while no unit is dead: {human_bytes(size)} ({size} bytes)")
