"""`edgerl cost`."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgerl.cli.support.output import Json, print_json, print_table
from edgerl.units import human_bytes

if TYPE_CHECKING:
    from edgerl.algorithms.topology import LayerPlan
    from edgerl.config import Config


def command(
    env: Annotated[str, typer.Option(help="Gymnasium id, or module:factory.")] = "HalfCheetah-v5",
    method: Annotated[str, typer.Option(help="td3, static-td3 or ds-td3.")] = "ds-td3",
    sparsity: Annotated[
        float | None, typer.Option(help="1 − connections / dense weights of each network; instead of λ1 and λ2.")
    ] = None,
    lambda1: Annotated[float | None, typer.Option(help="Erdős–Rényi factor of the first layer.")] = None,
    lambda2: Annotated[float | None, typer.Option(help="Erdős–Rényi factor of further hidden layers.")] = None,
    actor_sparsity: Annotated[
        float | None, typer.Option(help="1 − connections / dense weights of the actor.", show_default="--sparsity")
    ] = None,
    critic_sparsity: Annotated[
        float | None, typer.Option(help="1 − connections / dense weights of each critic.", show_default="--sparsity")
    ] = None,
    distribution: Annotated[
        str | None,
        typer.Option(help="Of connections at a sparsity: er (Erdős–Rényi) or uniform.", show_default="er"),
    ] = None,
    output_layer: Annotated[
        str | None, typer.Option(help="dense, or sparse as the other layers at a sparsity.", show_default="dense")
    ] = None,
    block: Annotated[int | None, typer.Option(help="Unit of topology: 1 or 4 outputs.", show_default="1")] = None,
    growth: Annotated[str | None, typer.Option(help="random (SET) or gradient (RigL).", show_default="random")] = None,
    hidden: Annotated[str | None, typer.Option(help="Units of the hidden layers.", show_default="256,256")] = None,
    steps: Annotated[int | None, typer.Option(help="Environment steps.", show_default="1000000")] = None,
    as_json: Json = False,
) -> None:
    """Say what a run would cost, exactly, before it exists.

    FLOPs are counted on the connections, as a sparse engine executes them; PyTorch executes the dense matrices.

    Example: edgerl cost --env Humanoid-v5 --sparsity 0.9
    """
    from edgerl.cli.train import parse_hidden
    from edgerl.config import make_config

    config = make_config(
        environment=env,
        method=method,
        sparsity=sparsity,
        lambda1=lambda1,
        lambda2=lambda2,
        actor_sparsity=actor_sparsity,
        critic_sparsity=critic_sparsity,
        distribution=distribution,
        output_layer=output_layer,
        block=block,
        growth=growth,
        hidden=None if hidden is None else parse_hidden(hidden),
        steps=steps,
    )
    report = _report(config)
    if as_json:
        print_json(report)
    else:
        _print(report)


def _report(config: Config) -> dict[str, Any]:
    from edgerl.algorithms.topology import plan_networks
    from edgerl.environments.make import make
    from edgerl.policy.shape import connections, dense
    from edgerl.profiling.budgets.costs import inference_flops, training_cost

    environment = make(config.environment)
    plans = plan_networks(config.network, environment.n_observations, environment.n_actions)
    environment.close()
    actor, critic = (tuple(layer.shape for layer in network) for network in plans)
    evolves = config.network.method == "ds-td3"
    sizes: dict[str, Any] = {
        "batch_size": config.td3.batch_size,
        "steps": config.schedule.steps,
        "start_steps": config.schedule.start_steps,
        "policy_delay": config.td3.policy_delay,
    }
    interval = config.evolution.evolution_interval if evolves else None
    cost = training_cost(actor, critic, **sizes, evolution_interval=interval, growth=config.evolution.growth)
    return {
        "environment": config.environment,
        "method": config.network.method,
        "layers": {
            name: [asdict(layer) for layer in network] for name, network in (("actor", actor), ("critic", critic))
        },
        "connections_dense": connections(dense(actor)) + 2 * connections(dense(critic)),
        "connections": connections(actor) + 2 * connections(critic),
        "training_flops_paper_dense": training_cost(dense(actor), dense(critic), **sizes).training_flops_paper,
        "training_flops_paper": cost.training_flops_paper,
        "training_flops_full": cost.training_flops_full,
        "inference_flops_dense": inference_flops(dense(actor)),
        "inference_flops": inference_flops(actor),
        "bytes": _file_bytes(plans[0]),
    }


def _file_bytes(actor: tuple[LayerPlan, ...]) -> int:
    """The actor's compact fp32 file while no unit is dead: built, not computed, so that it is what a run will write."""
    import numpy as np

    from edgerl.algorithms.topology import draw_mask, expand
    from edgerl.edge.engine.random import Draws, Network
    from edgerl.policy.compact import CompactPolicy, make_layer
    from edgerl.policy.format import to_bytes

    masks = [expand(draw_mask(plan, Draws(0), Network.ACTOR, i), plan) for i, plan in enumerate(actor)]
    layers = [
        make_layer(mask.astype(np.float32), np.zeros(plan.n_outputs), plan.block)
        for mask, plan in zip(masks, actor, strict=True)
    ]
    ones = np.ones(actor[-1].n_outputs, np.float32)
    policy = CompactPolicy(tuple(layers), action_low=-ones, action_high=ones)
    return len(to_bytes(policy.with_example(np.zeros(actor[0].n_inputs))))


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
    print(f"training FLOPs as the paper counts: {sparse:.3g}, {sparse / dense:.2f}× of dense TD3's {dense:.3g}")
    print(f"training FLOPs with targets, acting, optimiser and topology: {report['training_flops_full']:.3g}")
    print(f"inference FLOPs: {report['inference_flops']} of {report['inference_flops_dense']}")
    size = report["bytes"]
    print(f"compact fp32 file of the actor, while no unit is dead: {human_bytes(size)} ({size} bytes)")
