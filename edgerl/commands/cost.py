"""`edgerl.cost`: what a run would cost, before it exists."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from edgerl.algorithms.topology import LayerPlan, draw_mask, expand, plan_networks
from edgerl.config import HiddenActivation, make_config, stated_options
from edgerl.edge.engine.random import Draws, Network
from edgerl.environments.make import make
from edgerl.policy.compact import CompactPolicy, make_layer, with_activation
from edgerl.policy.format import to_bytes
from edgerl.policy.shape import LayerShape, connections, dense
from edgerl.profiling.budgets.costs import inference_flops
from edgerl.studies.grid import cost_of_run


def cost(
    env: str | None = None, *, preset: str | None = None, config: str | Path | None = None, **options: Any
) -> dict[str, Any]:
    """What the run with these options would cost: connections, FLOPs of training and of acting, bytes of the policy.

    Options as `edgerl.train` takes them. Raises ConfigError, EnvironmentError, FileFormatError.
    """
    run = make_config(**stated_options(env, preset=preset, config=config, **options))
    environment = make(run.environment, arguments=run.env_args)
    n_actions = environment.n_actions
    plans = plan_networks(run, environment.n_observations, n_actions)
    environment.close()
    actor, critic = (tuple(layer.shape for layer in network) for network in plans)
    flops, policy = cost_of_run(run, actor, critic), _policy(plans[0], n_actions, run.network.activation)
    policy_shape = tuple(LayerShape(layer.n_inputs, layer.n_outputs, layer.connections) for layer in policy.layers)
    return {
        "environment": run.environment,
        "algorithm": run.algorithm,
        "method": run.method_name,
        "layers": {
            name: [asdict(layer) for layer in network] for name, network in (("actor", actor), ("critic", critic))
        },
        "connections_dense": connections(dense(actor)) + 2 * connections(dense(critic)),
        "connections": connections(actor) + 2 * connections(critic),
        "training_flops_paper_dense": cost_of_run(run, dense(actor), dense(critic)).training_flops_paper,
        "training_flops_paper": flops.training_flops_paper,
        "training_flops_full": flops.training_flops_full,
        "inference_flops_dense": inference_flops(dense(policy_shape)),
        "inference_flops": inference_flops(policy_shape),
        "bytes": len(to_bytes(policy.with_example(np.zeros(actor[0].n_inputs)))),
    }


def _policy(actor: tuple[LayerPlan, ...], n_actions: int, activation: HiddenActivation) -> CompactPolicy:
    """The actor's compact policy while no unit is dead: built, not computed, so that it is what a run will write.

    Of a last layer that gives deviations, too, it has the rows of the actions.
    """
    masks = [expand(draw_mask(plan, Draws(0), Network.ACTOR, i), plan) for i, plan in enumerate(actor)]
    masks[-1] = masks[-1][:n_actions]
    layers = with_activation(
        (
            make_layer(mask.astype(np.float32), np.zeros(len(mask)), plan.block)
            for mask, plan in zip(masks, actor, strict=True)
        ),
        activation,
    )
    ones = np.ones(n_actions, np.float32)
    return CompactPolicy(layers, action_low=-ones, action_high=ones)
