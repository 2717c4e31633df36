"""What training and inference cost, computed from layer shapes only. Nothing here is measured or estimated.

Two counts of training, which must not be confused:

- `training_flops_paper`, as Sokar et al. (IJCAI 2022) count after Evci et al. (RigL): 3 passes (forward, and twice as
  much for backward), both critics at every step, the actor at every `policy_delay`-th, over all steps.
- `training_flops_full`, what a sparse engine executes: every pass of every update, the optimiser, target networks,
  topology evolution and acting.

Both count weights at 2 FLOPs per multiply-add, and no biases; `training_flops_full` counts norms and activations, too.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from edgerl.edge.engine.growth import GROWTH_RULES
from edgerl.policy.shape import NetworkShape, connections, dense

FLOPS_PER_MULTIPLY_ADD = 2

PAPER_PASSES = 3
"""Forward, gradient of the inputs, gradient of the weights; the paper gives each the cost of a forward pass."""

ADAM_FLOPS = 15
"""Per weight and optimiser step: weight decay 2, first moment 3, second moment 4, denominator 3, step 3."""

CLIPPING_FLOPS = 3
"""Per weight and optimiser step where gradients are cut to a norm: its square 2, its share 1."""

SOFT_UPDATE_FLOPS = 3
"""Per weight: τ · online + (1 − τ) · target."""

TARGET_PRUNING_FLOPS = 4
"""Per weight: its magnitude, and three comparisons for a selection without a sort (quickselect's expectation)."""

EVOLUTION_FLOPS = 4
"""Per weight and evolution step: its magnitude, and three comparisons to select what is dropped."""


NORM_FORWARD_FLOPS, NORM_BACKWARD_FLOPS = 8, 14
"""Per normalised unit and sample: mean 1, variance 3, x̂ 2, scale and shift 2; its gradient: through the activation 1,
by scale and shift 3, two means over the units 4, by the sum 6."""


ACTIVATION_FLOPS = {"relu": (0, 0), "elu": (25, 2), "silu": (31, 1), "tanh": (25, 3)}
"""Per unit and sample, forward and back: an exponential 24 or a quotient of polynomials 25; of SiLU its slope, too.
ReLU is a comparison of what a pass has at hand."""


DROPOUT_FLOPS = 1
"""Per hidden unit of a critic and sample, forward and back: its scale. Random bits are no floating-point numbers."""


BATCH_STATISTICS_FLOPS, CENTRING_FLOPS = 4, 5
"""Per input of a layer behind a batch norm and sample, in learning: difference, its square, two sums; what the
statistics add to its gradient 4, through the activation 1."""

FOLD_FLOPS, UNFOLD_FLOPS = 3, 9
"""Per weight and pass: a batch norm folded into it 1 and into the bias 2; its gradient 5, and two sums over the outputs
4."""

ACTOR_PASSES = {"td3": (1, 1), "sac": (3, 2), "crossq": (2, 2)}
"""Passes through a critic, forward and back, in an update of the actor: Q1; of SAC both, and Q1 forward once more,
since both share the memory of their activations; of CrossQ both. In the order of the engine's numbers."""


@dataclass(frozen=True)
class TrainingCost:
    """The FLOPs of one training run, as the paper counts them and as they are executed."""

    training_flops_paper: int
    training_flops_full: int
    updates: int


def inference_flops(actor: NetworkShape) -> int:
    """FLOPs of one action."""
    return FLOPS_PER_MULTIPLY_ADD * connections(actor)


def training_cost(
    actor: NetworkShape,
    critic: NetworkShape,
    *,
    batch_size: int,
    steps: int,
    start_steps: int,
    policy_delay: int,
    evolution_interval: int | None = None,
    growth: str = "random",
    updates_per_step: float = 1.0,
    evolving: tuple[bool, bool] = (True, True),
    norms: tuple[str, str] = ("none", "none"),
    algorithm: str = "td3",
    clips_gradients: bool = False,
    activation: str = "relu",
    has_dropout: bool = False,
) -> TrainingCost:
    """The cost of `steps` environment steps of an algorithm with two critics of the shape `critic`.

    The first `start_steps` act at random and train nothing. `evolution_interval` is the number of updates between two
    evolution steps; None where the topology is fixed, and then targets need no pruning either.
    `growth` names the rule (GROWTH_RULES), which has its price per absent weight. `evolving`: whether the topology of
    the actor, and that of each critic, evolves. `norms`: of the actor and of each critic. `activation`: of all of them.
    `has_dropout`: of critics. For the dense counterpart pass `edgerl.policy.shape.dense` of both networks.
    """
    acting_steps = max(0, steps - start_steps)
    updates = math.floor(acting_steps * updates_per_step)
    delayed_updates = updates // policy_delay
    evolutions = 0 if evolution_interval is None else max(0, updates - 1) // evolution_interval  # none at the last one
    passes, is_joint = ACTOR_PASSES[algorithm], algorithm == "crossq"
    forward, backward = ACTIVATION_FLOPS[activation]
    between_layers = _hidden_units(actor) * (updates * forward + delayed_updates * (forward + backward))
    has_norm, dropout_flops = norms[1] == "layer", has_dropout * DROPOUT_FLOPS
    between_layers += _hidden_units(critic) * _critic_flops(
        forward + dropout_flops + has_norm * NORM_FORWARD_FLOPS,
        backward + dropout_flops + has_norm * NORM_BACKWARD_FLOPS,
        (updates, delayed_updates),
        passes,
        is_joint=is_joint,
    )
    multiply_adds = updates * _critic_update(actor, critic, is_joint=is_joint)
    multiply_adds += delayed_updates * _actor_update(actor, critic, passes)
    # SAC's targets follow at every update, and its actor has none; CrossQ has none at all.
    with_targets = (algorithm == "td3", algorithm != "crossq")
    soft_updates = delayed_updates if algorithm == "td3" else updates
    following = _in_networks(connections, actor, critic, with_targets)
    pruned = (evolving[0] and with_targets[0], evolving[1] and with_targets[1])
    pruning = 0 if evolution_interval is None else _in_networks(connections, actor, critic, pruned)
    changing = 0 if evolution_interval is None else _in_networks(connections, actor, critic, evolving)
    absent = _in_networks(lambda shape: connections(dense(shape)) - connections(shape), actor, critic, evolving)
    full = (
        FLOPS_PER_MULTIPLY_ADD * batch_size * multiply_adds
        + (ADAM_FLOPS + CLIPPING_FLOPS * clips_gradients)
        * (updates * 2 * connections(critic) + delayed_updates * connections(actor))
        + soft_updates * (SOFT_UPDATE_FLOPS * following + TARGET_PRUNING_FLOPS * pruning)
        + evolutions * (EVOLUTION_FLOPS * changing + GROWTH_RULES[growth].flops(batch_size) * absent)
        + batch_size * between_layers
        + (norms[0] == "batch")  # the actor learns, gives next actions, and is copied to act with
        * _batch_norm_flops(actor, lessons=delayed_updates, samples=batch_size, folds=updates + delayed_updates)
        + (norms[1] == "batch")  # both critics learn from a joint batch, and value the actor's actions
        * 2
        * _batch_norm_flops(critic, lessons=updates, samples=2 * batch_size, folds=delayed_updates)
        + acting_steps * inference_flops(actor)  # acting: one forward pass per step that is not random
    )
    paper_updates = math.floor(steps * updates_per_step)
    paper = (
        FLOPS_PER_MULTIPLY_ADD
        * PAPER_PASSES
        * batch_size
        * (paper_updates * 2 * connections(critic) + paper_updates // policy_delay * connections(actor))
    )
    return TrainingCost(training_flops_paper=paper, training_flops_full=full, updates=updates)


def _in_networks(
    count: Callable[[NetworkShape], int], actor: NetworkShape, critic: NetworkShape, chosen: tuple[bool, bool]
) -> int:
    """The sum over the actor and both critics, as far as they are chosen."""
    return chosen[0] * count(actor) + 2 * chosen[1] * count(critic)


def _hidden_units(network: NetworkShape) -> int:
    return sum(layer.n_outputs for layer in network[:-1])


def _critic_flops(
    forward: int, backward: int, updates: tuple[int, int], passes: tuple[int, int], *, is_joint: bool
) -> int:
    """What takes so many FLOPs forward and backward, in that many updates of critics and actor: both critics on what
    follows, and forward and backward; those for the actor."""
    for_critics = 2 * (2 * forward + (1 + is_joint) * backward)
    return updates[0] * for_critics + updates[1] * (passes[0] * forward + passes[1] * backward)


def _batch_norm_flops(network: NetworkShape, *, lessons: int, samples: int, folds: int) -> int:
    """Of batch norms before all layers of a network that learns so often, from so many samples, and is folded so often
    with its running statistics."""
    statistics = BATCH_STATISTICS_FLOPS * sum(layer.n_inputs for layer in network)
    centring = CENTRING_FLOPS * sum(layer.n_inputs for layer in network[1:])
    by_weight = lessons * (FOLD_FLOPS + UNFOLD_FLOPS) + folds * FOLD_FLOPS
    return lessons * samples * (statistics + centring) + by_weight * connections(network)


def _critic_update(actor: NetworkShape, critic: NetworkShape, *, is_joint: bool) -> int:
    """Multiply-adds per sample: an actor for the next actions; two critics on what follows, and two forward and
    backward, which is through both halves of a joint batch."""
    forward = connections(actor) + 2 * 2 * connections(critic)
    weight_gradients = 2 * connections(critic)
    input_gradients = 2 * connections(critic[1:])
    return forward + (1 + is_joint) * (weight_gradients + input_gradients)


def _actor_update(actor: NetworkShape, critic: NetworkShape, passes: tuple[int, int]) -> int:
    """Multiply-adds per sample: the actor, critics forward and back to their action inputs, the actor backward."""
    critics = sum(passes) * connections(critic)  # back: input gradients through every layer
    return connections(actor) + critics + connections(actor) + connections(actor[1:])
