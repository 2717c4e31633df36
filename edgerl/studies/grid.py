"""The runs of a study: every combination of its grid, each with its name, its configuration and its exact costs."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from edgerl.algorithms.engine import Notice, with_engine
from edgerl.algorithms.topology import plan_networks
from edgerl.config import (
    METHODS,
    OPTIONS,
    Config,
    EvolutionConfig,
    make_config,
    spelled_out,
    unused_by,
    with_episode_limit,
)
from edgerl.environments.arguments import slug
from edgerl.environments.make import make_for_run
from edgerl.errors import ConfigError, bare
from edgerl.policy.shape import NetworkShape, connections, dense
from edgerl.profiling.budgets.costs import TrainingCost, training_cost
from edgerl.studies.study import VARIANT, Study, Value

TINY_DENSE = "tiny-dense"
"""A dense TD3 with as many connections as the sparse networks of the same options."""

EVOLUTION_KEYS = frozenset(known.name for known in dataclasses.fields(EvolutionConfig))
"""Options of an evolving topology."""

SPARSE_KEYS = frozenset(
    {
        "sparsity",
        "actor_sparsity",
        "critic_sparsity",
        "lambda1",
        "lambda2",
        "block",
        "distribution",
        "output_layer",
        "actor_topology",
        "critic_topology",
    }
)
"""Options of a sparse network."""

_METHODS = {**METHODS, TINY_DENSE: {"topology": "dense"}}


@dataclass(frozen=True)
class Sizes:
    """What a run has from its environment."""

    name: str  # the environment's, with its module and version
    n_observations: int
    n_actions: int
    episode_limit: int | None  # steps; None: it has none


@dataclass(frozen=True)
class PlannedRun:
    """One run of a study. Connections and FLOPs are exact, of the actor and both critics."""

    name: str
    method: str  # as in the study: tiny-dense is a dense TD3
    settings: Mapping[str, Value]  # the values of the grid's other keys that vary and that the method uses
    config: Config
    connections: int
    flops_paper: int  # as the paper counts
    flops_full: int
    flops_paper_dense: int  # of the dense networks of the same hidden layers

    @property
    def group(self) -> tuple[str, str, tuple[tuple[str, Value], ...]]:
        """What runs that differ only in their seed share: task, method, settings."""
        return self.config.task, self.method, tuple(self.settings.items())

    @property
    def label(self) -> str:
        """Method and settings: ds-td3, sparsity 0.9."""
        return label(self.method, self.settings)


def shown(value: Value) -> str:
    """A value in a name or a table: 0.25, gradient, 256x256."""
    return "x".join(map(str, value)) if isinstance(value, tuple) else str(value)


def label(method: str, settings: Mapping[str, Value]) -> str:
    """Method and settings, a variant by its name: ds-td3, sparsity 0.9, layer-norm."""
    return ", ".join([method, *(f"{_prefix(key, ' ')}{shown(value)}" for key, value in settings.items())])


def _prefix(key: str, separator: str) -> str:
    return "" if key == VARIANT else f"{key}{separator}"


def plan_runs(study: Study) -> list[PlannedRun]:
    """The runs of a study, seed by seed, so that the first part of them is a complete comparison. Combinations that
    differ only in what their method ignores (td3 a sparsity) are one run. The engine `auto` stays: see
    `on_this_machine`.

    Raises ConfigError, EnvironmentError.
    """
    sizes: dict[str, Sizes] = {}
    runs: dict[str, PlannedRun] = {}
    order = sorted(study.grid, key=lambda key: _FIRST.index(key) if key in _FIRST else len(_FIRST))
    for values in itertools.product(*(study.grid[key] for key in order)):
        combination = dict(zip(order, values, strict=True))
        run = _plan(study, combination, lambda config: _sizes(config, sizes))
        if runs.setdefault(run.name, run) != run:
            raise ConfigError(f"study {study.name} has two different runs named {run.name}; give one another name")
    return list(runs.values())


def on_this_machine(runs: Sequence[PlannedRun], notice: Notice) -> list[PlannedRun]:
    """The runs with the engine that `auto` means here; each different notice about it is passed on once."""
    notices: list[str] = []
    chosen = [dataclasses.replace(run, config=with_engine(run.config, notices.append)) for run in runs]
    for text in dict.fromkeys(notices):
        notice(text)
    return chosen


_FIRST = ("seed", "environment", "env_args")
"""The keys of a grid that vary most slowly."""


def _plan(study: Study, combination: Mapping[str, Value], sizes_of: Callable[[Config], Sizes]) -> PlannedRun:
    outer = {**study.fixed, **{key: value for key, value in combination.items() if key != VARIANT}}
    variant = study.variants.get(str(combination.get(VARIANT)), {})
    method = str(variant.get("method", outer["method"]))
    try:
        given = spelled_out(outer, _METHODS) | spelled_out(variant, _METHODS)
        unused = unused_by(given.get("algorithm", "td3")) - variant.keys()  # whose options are meant to be together
        for key in unused & given.keys():  # ignored options are checked, too
            OPTIONS[key].check(given.pop(key))
        sparse = {**given, "topology": "dynamic"}
        _config(study, sparse)
        ignored = _ignored(method, given)
        options = {k: v for k, v in (sparse if method == TINY_DENSE else given).items() if k not in ignored}
        config = _config(study, options)
        sizes = sizes_of(config)
        actor, critic = _shapes(config, sizes)
        dense_counterpart = dense(actor), dense(critic)
        if method == TINY_DENSE:
            n_connections, outputs = connections(actor) + 2 * connections(critic), config.actor_outputs(sizes.n_actions)
            hidden = tiny_dense(sizes, outputs, config.network.hidden, n_connections)
            own = SPARSE_KEYS | {"critic_hidden"}  # all three networks get the same hidden layers
            tiny = {k: v for k, v in options.items() if k not in own} | {"topology": "dense", "hidden": hidden}
            config = _config(study, tiny)
            actor, critic = _shapes(config, sizes)
    except ConfigError as error:
        raise ConfigError(f"study {study.name}: {bare(error)}") from error
    config = with_episode_limit(dataclasses.replace(config, environment=sizes.name), sizes.episode_limit)
    settings = {key: combination[key] for key in study.varying if key not in ignored | unused}
    cost = cost_of_run(config, actor, critic)
    return PlannedRun(
        name=_name(slug(sizes.name, config.env_args), method, settings, config.seed),
        method=method,
        settings=settings,
        config=config,
        connections=connections(actor) + 2 * connections(critic),
        flops_paper=cost.training_flops_paper,
        flops_full=cost.training_flops_full,
        flops_paper_dense=cost_of_run(config, *dense_counterpart).training_flops_paper,
    )


def _ignored(method: str, options: Mapping[str, Any]) -> frozenset[str]:
    """The options that mean nothing to a run of these."""
    if method == TINY_DENSE:
        return EVOLUTION_KEYS
    if options["topology"] == "dense":
        return SPARSE_KEYS | EVOLUTION_KEYS
    topologies = [options.get(name) for name in ("topology", "actor_topology", "critic_topology")]
    return frozenset() if "dynamic" in topologies else EVOLUTION_KEYS


def _config(study: Study, options: Mapping[str, Any]) -> Config:
    return make_config(study.preset, **options)


def _name(task: str, method: str, settings: Mapping[str, Value], seed: int) -> str:
    return "-".join(
        [task, method, *(f"{_prefix(key, '')}{shown(value)}" for key, value in settings.items()), f"seed{seed}"]
    )


def _sizes(config: Config, known: dict[str, Sizes]) -> Sizes:
    if config.task not in known:
        with contextlib.closing(make_for_run(config)) as made:
            known[config.task] = Sizes(made.name, made.n_observations, made.n_actions, made.own_episode_limit)
    return known[config.task]


def _shapes(config: Config, sizes: Sizes) -> tuple[NetworkShape, NetworkShape]:
    actor, critic = plan_networks(config, sizes.n_observations, sizes.n_actions)
    return tuple(layer.shape for layer in actor), tuple(layer.shape for layer in critic)


def cost_of_run(config: Config, actor: NetworkShape, critic: NetworkShape) -> TrainingCost:
    """The cost of a run with networks of these shapes: its own, or their dense counterparts."""
    network = config.network
    return training_cost(
        actor,
        critic,
        batch_size=config.learning.batch_size,
        steps=config.schedule.steps,
        start_steps=config.schedule.start_steps,
        policy_delay=config.learning.policy_delay,
        evolution_interval=config.evolution.evolution_interval if any(network.evolving) else None,
        growth=config.evolution.growth,
        updates_per_step=config.learning.updates_per_step,
        algorithm=config.algorithm,
        evolving=network.evolving,
        norms=(network.actor_norm, network.critic_norm),
        clips_gradients=config.learning.gradient_clip is not None,
        activation=network.activation,
        has_dropout=network.dropout > 0,
    )


def tiny_dense(sizes: Sizes, actor_outputs: int, hidden: Sequence[int], n_connections: int) -> tuple[int, ...]:
    """The hidden layers of the dense actor and critics that together come closest to `n_connections`.

    The layers keep the proportions of `hidden`: with width k of the first, the others are round(k · hidden_i /
    hidden_0), at least 1. Of two equally close widths it is the smaller. No layer is wider than in `hidden`.
    """

    def scaled(first: int) -> tuple[int, ...]:
        return tuple(max(1, (2 * first * width + hidden[0]) // (2 * hidden[0])) for width in hidden)

    def distance(first: int) -> int:
        widths = scaled(first)
        actor = (sizes.n_observations, *widths, actor_outputs)
        critic = (sizes.n_observations + sizes.n_actions, *widths, 1)
        return abs(sum(n * m for n, m in pairwise(actor)) + 2 * sum(n * m for n, m in pairwise(critic)) - n_connections)

    return scaled(min(range(1, hidden[0] + 1), key=distance))
