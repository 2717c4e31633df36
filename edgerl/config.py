"""The options of a run, once: type, default, help, unit, range and source of each stand beside it. Validation, the
command line, study files, configuration files and the tables in docs/ are made from them.

Source `paper` is Sokar et al. (IJCAI 2022) with its released code; `TD3` is Fujimoto et al. (2018); `RigL` is Evci et
al. (2020); `RLx2` is Tan et al. (2023); `DSR` is Mostafa and Wang (2019).
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args

from edgerl.environments.arguments import NOTHING, Arguments, checked, task
from edgerl.errors import ConfigError, bare, nearest, quoted
from edgerl.files.toml import read_toml
from edgerl.options import Option, option, options_of

Algorithm = Literal["td3", "sac", "crossq"]
Topology = Literal["dense", "static", "dynamic"]
SparseTopology = Literal["static", "dynamic"]
Distribution = Literal["er", "uniform"]
OutputLayer = Literal["dense", "sparse"]
Growth = Literal["random", "gradient"]
DropCriterion = Literal["magnitude", "scaled-magnitude", "global-threshold"]
DropSchedule = Literal["constant", "cosine"]
Norm = Literal["none", "layer", "batch"]
HiddenActivation = Literal["relu", "elu", "silu", "tanh"]
ActorNorm = Literal["none", "batch"]
Optimiser = Literal["adam", "adamw"]
PolicyChoice = Literal["last", "best"]
Device = Literal["cpu", "cuda"]
Engine = Literal["auto", "native", "torch"]
Evaluation = Literal["auto", "separate", "between-episodes", "none"]
OnFault = Literal["stop", "truncate"]

METHOD_PREFIXES: Mapping[str, str] = {"dense": "", "static": "static-", "dynamic": "ds-"}
METHODS: Mapping[str, Mapping[str, str]] = {
    prefix + algorithm: {"algorithm": algorithm, "topology": topology}
    for algorithm in get_args(Algorithm)
    for topology, prefix in METHOD_PREFIXES.items()
}
"""What a method says in a word: td3, static-td3, ds-td3, sac, …"""

NEW = {"since": "0.2.0"}
"""Of a field that runs of 0.1.0 do not have: where it is missing, it has its default."""


def _option(default: Any, text: str, source: str = "edgerl", **more: str) -> Any:
    """A field that is an option; more: as edgerl.options has it, `since`, and `algorithms`, where not all have it."""
    return option(default, text, source=source, **more)


def _number(default: Any, text: str, interval: str, unit: str, source: str = "edgerl", **more: str) -> Any:
    """An option that is a number in `interval`, which validation reads."""
    return _option(default, text, source, range=interval, unit=unit, **more)


@dataclass(frozen=True)
class NetworkConfig:
    """Widths and sparsity of actor and critics."""

    hidden: tuple[int, ...] = _number(
        (256, 256), "Units of the hidden layers.", "[1, 65535]", "units per layer", "paper"
    )
    topology: Topology = _option(
        "dynamic", "Of actor and critics: dense; or sparse and static, or dynamic, which evolves.", "paper"
    )
    block: int = _number(
        1, "Unit of topology, in outputs: 1 (the paper's) or 4 (faster).", "[1, 4]", "outputs", "paper: 1"
    )
    sparsity: float | None = _number(
        None,
        "1 − connections / dense weights of each network, instead of λ1 and λ2.",
        "[0, 1)",
        "share",
        shown="the paper's λ for its tasks, else 0.5",
    )
    lambda1: float | None = _number(
        None, "Erdős–Rényi factor of the first layer.", "(0, inf)", "factor", "paper", shown="the paper's"
    )
    lambda2: float | None = _number(
        None, "Erdős–Rényi factor of further hidden layers.", "(0, inf)", "factor", "paper", shown="the paper's"
    )
    distribution: Distribution = _option(
        "er", "How a sparsity spreads connections over layers: er (Erdős–Rényi) or uniform.", "paper: er"
    )
    output_layer: OutputLayer = _option("dense", "dense, or sparse as the other layers at a sparsity.", "paper: dense")
    actor_sparsity: float | None = _number(
        None, "Like sparsity, for the actor.", "[0, 1)", "share", "RLx2", shown="sparsity"
    )
    critic_sparsity: float | None = _number(
        None, "Like sparsity, for each critic.", "[0, 1)", "share", "RLx2", shown="sparsity"
    )
    critic_hidden: tuple[int, ...] | None = _number(
        None, "Units of the critics' hidden layers.", "[1, 65535]", "units per layer", shown="hidden", **NEW
    )
    activation: HiddenActivation = _option(
        "relu", "Between the layers of actor and critics: relu, elu, silu or tanh.", "paper: relu", **NEW
    )
    critic_norm: Norm = _option(
        "none",
        "Norm of the critics: layer (LayerNorm, before activations), batch (batch renormalisation of each layer's "
        "inputs, for crossq), or none.",
        "DroQ: layer; CrossQ: batch",
        **NEW,
    )
    dropout: float = _number(
        0.0, "Share of the critics' hidden units that each pass leaves out.", "[0, 0.9]", "share", "DroQ: 0.01", **NEW
    )
    actor_norm: ActorNorm = _option(
        "none",
        "Norm of the actor: batch, which exports have folded in, or none.",
        "CrossQ: batch",
        algorithms="crossq",
        **NEW,
    )
    actor_topology: SparseTopology | None = _option(
        None, "Topology of the actor: static, or dynamic.", shown="topology", **NEW
    )
    critic_topology: SparseTopology | None = _option(None, "Topology of the critics.", shown="topology", **NEW)

    @property
    def sparsities(self) -> tuple[float | None, float | None]:
        """Of the actor and of each critic; None where none was given."""
        actor, critic = (self.sparsity if own is None else own for own in (self.actor_sparsity, self.critic_sparsity))
        return actor, critic

    @property
    def widths(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Units of the hidden layers of the actor and of each critic."""
        return self.hidden, self.hidden if self.critic_hidden is None else self.critic_hidden

    @property
    def evolving(self) -> tuple[bool, bool]:
        """Whether the topology of the actor, and that of each critic, evolves."""
        actor, critic = (own or self.topology for own in (self.actor_topology, self.critic_topology))
        return actor == "dynamic", critic == "dynamic"


@dataclass(frozen=True)
class EvolutionConfig:
    """Drop and grow."""

    drop_fraction: float = _number(
        0.05, "Share of a layer's connections that a step drops and grows (ζ).", "[0, 1]", "share", "paper"
    )
    evolution_interval: int = _number(
        1000, "Critic updates from one step to the next (e).", "[1, 1000000000000]", "critic updates", "paper"
    )
    drop: DropCriterion = _option(
        "magnitude",
        "What connections are dropped by: the smallest magnitude, magnitude scaled by the size of the input, or a "
        "threshold for a whole network, which lets its connections move between layers (torch engine).",
        "paper: magnitude; Wanda: scaled-magnitude; DSR: global-threshold",
        **NEW,
    )
    growth: Growth = _option("random", "Where connections grow: random (SET) or gradient (RigL).", "paper: random")
    drop_schedule: DropSchedule = _option(
        "constant",
        "Over the run, the share dropped stays constant, or falls to 0 as a cosine (RigL).",
        "paper: constant",
    )
    evolution_steps: int | None = _number(
        None,
        "Steps after which the topology stays as it is; there a cosine reaches 0.",
        "[1, 1000000000000]",
        "steps",
        "RigL",
        shown="steps",
        **NEW,
    )


@dataclass(frozen=True)
class LearningConfig:
    """How actor and critics learn, whatever the algorithm, and what one of the algorithms alone has."""

    discount: float = _number(0.99, "Discount (γ).", "[0, 1]", "per step", "TD3")
    soft_update: float = _number(
        0.005,
        "Share of the online weights in a soft update of the targets (τ).",
        "(0, 1]",
        "share",
        "TD3",
        algorithms="td3, sac",
    )
    learning_rate: float = _number(1e-3, "Learning rate of Adam.", "(0, 1]", "per update", "paper")
    weight_decay: float = _number(2e-4, "Weight decay, biases included.", "[0, 1]", "per update", "paper")
    batch_size: int = _number(100, "Transitions in a batch.", "[1, 65536]", "transitions", "paper")
    policy_delay: int = _number(2, "Critic updates per actor update (d).", "[1, 1000]", "critic updates", "TD3")
    target_noise: float = _number(
        0.2,
        "Standard deviation of the noise on TD3's target actions.",
        "[0, 10]",
        "actions in [−1, 1]",
        "TD3",
        algorithms="td3",
    )
    target_noise_clip: float = _number(
        0.5,
        "Bound of the noise on TD3's target actions.",
        "[0, 10]",
        "actions in [−1, 1]",
        "TD3",
        algorithms="td3",
    )
    exploration_noise: float = _number(
        0.1,
        "Standard deviation of TD3's exploration noise.",
        "[0, 10]",
        "actions in [−1, 1]",
        "TD3",
        algorithms="td3",
    )
    initial_temperature: float = _number(
        1.0,
        "Temperature (α) at the beginning, which SAC adapts.",
        "(0, 1000]",
        "reward per nat",
        "SAC; DroQ: 0.1",
        algorithms="sac, crossq",
        **NEW,
    )
    target_entropy: float | None = _number(
        None,
        "Entropy of the policy that SAC aims at.",
        "[-1000, 1000]",
        "nats",
        "SAC",
        shown="−1 per action",
        algorithms="sac, crossq",
        **NEW,
    )
    n_step: int = _number(1, "n for n-step returns.", "[1, 64]", "steps", "TD3: 1")
    n_step_delay: int = _number(
        0, "Critic updates with 1-step returns before n-step ones.", "[0, 1000000000000]", "critic updates", "RLx2"
    )
    updates_per_step: float = _number(
        1.0, "Critic updates per environment step.", "[0.001, 1000]", "critic updates", "REDQ, DroQ: 20", **NEW
    )
    optimiser: Optimiser = _option(
        "adam", "adam, whose weight decay is coupled, or adamw, whose weight decay is not.", "paper: adam", **NEW
    )
    beta1: float = _number(0.9, "Decay of Adam's first moment (β₁).", "[0, 1)", "per update", "CrossQ: 0.5", **NEW)
    gradient_clip: float | None = _number(
        None, "L2 norm that the gradient of a network is cut to.", "[0.000001, 1000000]", "L2 norm", shown="none", **NEW
    )
    actor_learning_rate: float | None = _number(
        None, "Learning rate of the actor.", "(0, 1]", "per update", shown="learning_rate", **NEW
    )
    critic_learning_rate: float | None = _number(
        None, "Learning rate of the critics.", "(0, 1]", "per update", shown="learning_rate", **NEW
    )

    @property
    def learning_rates(self) -> tuple[float, float]:
        """Of the actor and of the critics."""
        actor, critic = (own or self.learning_rate for own in (self.actor_learning_rate, self.critic_learning_rate))
        return actor, critic

    def target_entropy_of(self, n_actions: int) -> float:
        """The one that was given, or else the one that SAC's authors recommend."""
        return -float(n_actions) if self.target_entropy is None else self.target_entropy

    def updates_after(self, steps: int) -> int:
        """Critic updates that so many environment steps with learning allow."""
        return math.floor(steps * self.updates_per_step)


@dataclass(frozen=True)
class ScheduleConfig:
    """When things happen, in environment steps."""

    steps: int = _number(1_000_000, "Environment steps.", "[1, 1000000000000]", "steps", "paper")
    start_steps: int = _number(
        25_000, "Steps with random actions before learning begins.", "[1, 1000000000000]", "steps", "paper"
    )
    replay_capacity: int = _number(
        1_000_000, "Transitions in the replay buffer.", "[1, 4294967295]", "transitions", "paper"
    )
    replay_distance: float | None = _number(
        None,
        "Half the mean square difference of the policy's actions from those of the oldest transitions, above which a "
        "tenth of the replay is dropped.",
        "[0, 2]",
        "actions in [−1, 1]",
        "RLx2: 0.2",
        shown="nothing is dropped",
        **NEW,
    )
    replay_check_interval: int = _number(
        10_000, "Steps from one check of that difference to the next.", "[1, 1000000000000]", "steps", "RLx2", **NEW
    )
    replay_minimum: int = _number(
        100_000, "Newest transitions that are never dropped so.", "[1, 4294967295]", "transitions", "RLx2", **NEW
    )
    evaluation_interval: int = _number(
        5000, "Steps from one evaluation to the next.", "[1, 1000000000000]", "steps", "paper"
    )
    evaluation_episodes: int = _number(10, "Episodes of an evaluation.", "[1, 1000000000000]", "episodes", "paper")
    checkpoint_interval: int = _number(10_000, "Steps from one checkpoint to the next.", "[1, 1000000000000]", "steps")
    # None, when a run starts: the environment's own limit; where it states none, DEFAULT_EPISODE_STEPS
    max_episode_steps: int | None = _number(
        None,
        "Steps after which an episode is cut.",
        "[1, 1000000000000]",
        "steps",
        shown="the environment's own, else 10000",
        **NEW,
    )


@dataclass(frozen=True)
class Config:
    """A whole run; the same configuration, machine and thread count give the same bits."""

    environment: str = _option("HalfCheetah-v5", "Gymnasium id, module:id, or module:factory.", "paper")
    env_args: Arguments = _option(
        NOTHING, "Arguments of the function that makes the environment: numbers, true, false, or text in quotes.", **NEW
    )
    algorithm: Algorithm = _option(
        "td3",
        "td3; sac: a stochastic policy that is paid for its entropy; or crossq: SAC with batch norms, without targets.",
        **NEW,
    )
    seed: int = _number(0, "Seed of every random draw.", "[0, 18446744073709551615]", "any")
    normalize: bool = _option(False, "Standardise observations by their running mean and variance.")
    policy: PolicyChoice = _option("last", "Which evaluated policy is kept for export.")
    device: Device = _option("cpu", "Where the torch engine trains.")
    engine: Engine = _option(
        "auto", "native (sparse, in C, on the CPU), torch, or auto: native on the CPU, torch on CUDA."
    )
    threads: int = _number(1, "Threads of PyTorch; another number gives other bits.", "[1, 1024]", "threads")
    evaluation: Evaluation = _option(
        "auto",
        "Evaluate in a separate environment, in the training's own between-episodes, or not at all; auto: separate "
        "where the environment can be made twice.",
        **NEW,
    )
    on_fault: OnFault = _option(
        "stop", "Where a step of the environment fails or gives NaN: stop, or truncate the episode and go on.", **NEW
    )
    network: NetworkConfig = field(default_factory=NetworkConfig)
    evolution: EvolutionConfig = field(default_factory=EvolutionConfig)
    learning: LearningConfig = field(default_factory=LearningConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)

    def __post_init__(self) -> None:
        object.__setattr__(self, "env_args", checked(self.env_args))

    @property
    def method_name(self) -> str:
        """Topology and algorithm in a word, such as ds-td3, static-sac or sac."""
        return METHOD_PREFIXES[self.network.topology] + self.algorithm

    def actor_outputs(self, n_actions: int) -> int:
        """What the actor's last layer gives: actions, or the means and deviations of their distribution."""
        return 2 * n_actions if self.is_stochastic else n_actions

    @property
    def is_stochastic(self) -> bool:
        """Whether the policy is a distribution, and its entropy has a price, the temperature."""
        return self.algorithm != "td3"

    @property
    def task(self) -> str:
        """The environment with its arguments: what returns are comparable in."""
        return task(self.environment, self.env_args)


PAPER_LAMBDAS = {"HalfCheetah": (7, 64), "Hopper": (7, 64), "Walker2d": (7, 64), "Ant": (40, 64), "Humanoid": (61, 64)}
"""λ1 and λ2 of the paper's five tasks, at v5 (other versions have other observations), for its 256-256 networks."""

DEFAULT_SPARSITY = 0.5
"""What a task that the paper does not have gets, and about what the paper's λ give its own."""

DEFAULT_EPISODE_STEPS = 10_000
"""After which an episode is cut where neither the environment nor the user sets a limit."""

PRESETS: Mapping[str, Mapping[str, Any]] = {
    "paper": {},
    "quick": {
        "steps": 30_000,
        "start_steps": 10_000,
        "replay_capacity": 100_000,
        "replay_minimum": 10_000,
        "evaluation_interval": 5000,
        "evaluation_episodes": 3,
        "checkpoint_interval": 5000,
    },
    "fast": {"algorithm": "crossq", "sparsity": 0.9, "steps": 300_000, "start_steps": 5000},
}
"""What each has instead of the options' own defaults, which are the paper's. quick: minutes instead of hours, the same
algorithm. fast: the most return in the least time of one core, as measured (docs/results.md)."""

ALGORITHM_DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "sac": {"learning_rate": 3e-4, "batch_size": 256, "policy_delay": 1, "weight_decay": 0.0},
    "crossq": {
        "critic_norm": "batch",
        "actor_norm": "batch",
        "learning_rate": 1e-3,
        "beta1": 0.5,
        "batch_size": 256,
        "policy_delay": 3,
        "weight_decay": 0.0,
    },
}
"""What an algorithm has by default instead of the fields' own defaults: as its authors chose it."""

_SECTIONS = {
    "network": NetworkConfig,
    "evolution": EvolutionConfig,
    "learning": LearningConfig,
    "schedule": ScheduleConfig,
}


@dataclass(frozen=True)
class RunOption(Option):
    """One option of a run, for whoever lists them all."""

    section: str | None  # network, evolution, learning, schedule; None for one of the run as a whole

    @property
    def shown_default(self) -> str:
        """In words, with those of other presets and algorithms."""
        values = {**PRESETS, **ALGORITHM_DEFAULTS}
        others = {name: options[self.name] for name, options in values.items() if self.name in options}
        return super().shown_default + "".join(f", {name} {v}" for name, v in others.items() if v != self.default)

    def of(self, config: Config) -> Any:
        """Its value in a configuration."""
        return getattr(config if self.section is None else getattr(config, self.section), self.name)


def _options(section: str | None, kind: type[Any]) -> list[RunOption]:
    return [
        RunOption(**vars(option), section=section) for name, option in options_of(kind).items() if name not in _SECTIONS
    ]


OPTIONS: Mapping[str, RunOption] = {
    option.name: option for section, kind in ((None, Config), *_SECTIONS.items()) for option in _options(section, kind)
}
"""Every option of a run by its name, in which no two sections agree."""


def unused_by(algorithm: str) -> set[str]:
    """The options that mean nothing to an algorithm."""
    own = {name: known.metadata.get("algorithms") for name, known in OPTIONS.items()}
    return {name for name, algorithms in own.items() if algorithms and algorithm not in algorithms.split(", ")}


def make_config(preset: str | None = None, **options: Any) -> Config:
    """A configuration from a preset (default paper), OPTIONS by name, and a method of METHODS; None leaves the preset's
    value.

    Raises ConfigError for an unknown option, a value out of range, or options that contradict each other.
    """
    preset = preset or "paper"
    if preset not in PRESETS:
        raise ConfigError(f"`preset` is {quoted(preset)}; expected {', '.join(PRESETS)}")
    stated = spelled_out(options)
    chosen = _of_preset(preset, stated) | stated
    config = Config()
    for name, value in {**ALGORITHM_DEFAULTS.get(chosen.get("algorithm", "td3"), {}), **chosen}.items():
        config = _with_option(config, name, value)
    _check_ranges(config)
    _check_use(config, stated)
    return validated(_with_densities(_with_warm_up(config, stated.get("start_steps"))))


def _of_preset(preset: str, stated: Mapping[str, Any]) -> dict[str, Any]:
    """The preset's options; without its sparsity where networks are dense, or a λ says how sparse they are."""
    options = dict(PRESETS[preset])
    if stated.get("topology") == "dense" or stated.keys() & {"lambda1", "lambda2"}:
        options.pop("sparsity", None)
    return options


def spelled_out(options: Mapping[str, Any], methods: Mapping[str, Mapping[str, str]] = METHODS) -> dict[str, Any]:
    """The options that are not None, with what `method` says in place of it. Raises ConfigError where it is none of
    `methods`, or contradicts an option beside it."""
    stated = {name: value for name, value in options.items() if value is not None}
    if "method" not in stated:
        return stated
    method = stated.pop("method")
    if not isinstance(method, str) or method not in methods:
        known = f"{', '.join(methods)}{nearest(quoted(method), methods)}"
        raise ConfigError(f"`method` is {quoted(method)}; expected {known}")
    for name, meant in methods[method].items():
        if stated.setdefault(name, meant) != meant:
            raise ConfigError(
                f"`method` is {method}, whose `{name}` is {meant}, and `{name}` is {quoted(stated[name])}; leave out "
                "one of them"
            )
    return stated


def stated_options(
    env: str | None = None, *, preset: str | None = None, config: str | Path | None = None, **options: Any
) -> dict[str, Any]:
    """The preset and options of a call, and what the file `config` states and the call does not, spelled out.

    Raises ConfigError, FileFormatError.
    """
    filed = {} if config is None else from_toml(Path(config))
    return filed | spelled_out({"preset": preset, "environment": env, **options})


def _with_warm_up(config: Config, asked_for: int | None) -> Config:
    """A run too short for the preset's random steps has fewer of them: a quarter of its steps.

    Raises ConfigError where a run would end before it learns.
    """
    steps, start_steps = config.schedule.steps, config.schedule.start_steps
    if steps > start_steps:
        return config
    if asked_for is None and steps > 1:
        return _with_option(config, "start_steps", max(1, steps // 4))
    raise _nothing_learnt(config)


def _nothing_learnt(config: Config) -> ConfigError:
    steps, start_steps = config.schedule.steps, config.schedule.start_steps
    return ConfigError(
        f"`steps` is {steps}, and the first {start_steps} (`start_steps`) are random, before learning begins; expected "
        "more steps than those"
    )


def with_episode_limit(config: Config, own: int | None) -> Config:
    """The configuration with a limit of episodes: the one that was asked for, or else the environment's `own`, or else
    DEFAULT_EPISODE_STEPS."""
    limit = config.schedule.max_episode_steps or own or DEFAULT_EPISODE_STEPS
    return replace(config, schedule=replace(config.schedule, max_episode_steps=limit))


def _with_option(config: Config, name: str, value: Any) -> Config:
    if name not in OPTIONS:
        raise ConfigError(f"option {name!r} is unknown{nearest(name, [*OPTIONS, 'method'])}")
    value = tuple(value) if isinstance(value, list) else value
    section = OPTIONS[name].section
    changed = {name: value} if section is None else {section: replace(getattr(config, section), **{name: value})}
    return replace(config, **changed)


def _with_densities(config: Config) -> Config:
    """Fill in what the user left open: the paper's λ for its tasks and widths, half density elsewhere.

    An option that only a sparsity can follow (another distribution, sparse output layers, a sparsity of one network)
    leaves the λ out too: what it does not say itself is half dense.
    """
    network = config.network
    if network.topology == "dense" or None not in network.sparsities:
        return config
    lambdas = PAPER_LAMBDAS.get(config.environment.removesuffix("-v5"))
    if lambdas is None or set(network.widths) != {(256, 256)} or _beyond_lambdas(network):
        given = (network.lambda1, network.lambda2) != (None, None)
        return config if given else _with_option(config, "sparsity", DEFAULT_SPARSITY)
    lambda1, lambda2 = (
        float(paper) if own is None else own
        for own, paper in zip((network.lambda1, network.lambda2), lambdas, strict=True)
    )
    return replace(config, network=replace(network, lambda1=lambda1, lambda2=lambda2))


def validated(config: Config) -> Config:
    """The configuration itself, once every value is in its range and none contradicts another. Raises ConfigError."""
    _check_ranges(config)
    network = config.network
    if network.block not in (1, 4):
        raise ConfigError(f"`block` is {network.block}; expected 1 (the paper's) or 4")
    for name, widths in zip(("hidden", "critic_hidden"), network.widths, strict=True):
        if not 1 <= len(widths) <= 8:
            raise ConfigError(f"`{name}` has {len(widths)} layers; expected 1 to 8")
    if network.critic_norm == "layer" and min(network.widths[1]) < 2:
        raise ConfigError(
            "`critic_norm` is layer, and a layer of the critics has one unit, whose norm is always 0; expected two"
        )
    _check_batch_norms(config)
    _check_lambdas(network)
    if network.topology == "dense":
        _check_dense(network)
    if config.engine == "native" and config.device == "cuda":
        raise ConfigError(
            "`engine` is native, which runs on the CPU, and `device` is cuda; use `device` cpu or `engine` torch"
        )
    if config.engine == "native" and config.evolution.drop == "global-threshold":
        raise ConfigError(
            "`drop` is global-threshold, which moves connections between layers, and `engine` is native, whose layers "
            "have room for a fixed number; use `engine` torch or auto, or another `drop`"
        )
    _check_evolution_steps(config)
    if config.evaluation == "none" and config.policy == "best":
        raise ConfigError("`policy` is best and `evaluation` is none; expected evaluations, or `policy` last")
    learning_steps = config.schedule.steps - config.schedule.start_steps
    if learning_steps > 0 and config.learning.updates_after(learning_steps) == 0:
        raise ConfigError(
            f"`updates_per_step` is {config.learning.updates_per_step}, which makes no update in the {learning_steps} "
            "steps after `start_steps`; expected more of either"
        )
    schedule = config.schedule
    if schedule.replay_capacity <= config.learning.n_step:
        raise ConfigError(f"`replay_capacity` is {schedule.replay_capacity}; expected more than `n_step`")
    if schedule.replay_distance is not None and schedule.replay_capacity <= schedule.replay_minimum:
        raise ConfigError(
            f"`replay_distance` is {schedule.replay_distance:g}, and nothing could be dropped: `replay_minimum` is "
            f"{schedule.replay_minimum}, `replay_capacity` {schedule.replay_capacity}; expected more than the minimum"
        )
    return config


def _check_batch_norms(config: Config) -> None:
    """A target would see other batches than its network, whose statistics are not its own; CrossQ has none."""
    names = [name for name in ("critic_norm", "actor_norm") if getattr(config.network, name) == "batch"]
    if names and config.algorithm != "crossq":
        raise ConfigError(
            f"`{names[0]}` is batch and `algorithm` {config.algorithm}, and batch norms need one without targets; "
            f"use `algorithm` crossq, or `{names[0]}` none"
        )
    if names and config.learning.batch_size < 2:
        raise ConfigError(
            f"`{names[0]}` is batch and `batch_size` {config.learning.batch_size}, which has no variance; expected at "
            "least 2"
        )


def _given_sparsities(network: NetworkConfig) -> list[str]:
    names = ("sparsity", "actor_sparsity", "critic_sparsity")
    return [name for name in names if getattr(network, name) is not None]


def _beyond_lambdas(network: NetworkConfig) -> list[str]:
    """The options, in words, that only a sparsity can follow."""
    given = _given_sparsities(network)
    if network.distribution == "uniform":
        given.append("distribution")
    if network.output_layer == "sparse":
        given.append("output_layer")
    return given


def _check_evolution_steps(config: Config) -> None:
    schedule, end = config.schedule, config.evolution.evolution_steps
    if end is not None and not schedule.start_steps < end <= schedule.steps:
        raise ConfigError(
            f"`steps` is {schedule.steps}, and the topology's evolution ends at step {end} (`evolution_steps`); "
            f"expected at least {end} steps, and an end after the first {schedule.start_steps}, which are random"
        )


def _check_lambdas(network: NetworkConfig) -> None:
    """λ say the density of each hidden layer, hence contradict everything else that says one."""
    if (network.lambda1, network.lambda2) == (None, None):
        return
    if beyond := _beyond_lambdas(network):
        raise ConfigError(
            f"`{beyond[0]}` and `lambda1`, `lambda2` were both given; expected one of them (λ are Erdős–Rényi factors "
            "of the hidden layers, a sparsity is of a whole network)"
        )
    if None in (network.lambda1, network.lambda2):
        raise ConfigError("only one of `lambda1` and `lambda2` was given; expected both")


def _check_use(config: Config, stated: Mapping[str, Any]) -> None:
    """Nothing is stated in vain, except defaults: a configuration file states every option."""
    for name in sorted(unused_by(config.algorithm) & stated.keys()):
        known = OPTIONS[name]
        if stated[name] != known.default:
            raise ConfigError(
                f"`{name}` is {quoted(stated[name])}, which means nothing to `algorithm` {config.algorithm}; leave it "
                f"out, or use `algorithm` {known.metadata['algorithms'].replace(', ', ' or ')}"
            )


def _check_dense(network: NetworkConfig) -> None:
    for is_set, what in (
        (_given_sparsities(network) or (network.lambda1, network.lambda2) != (None, None), "sparsity"),
        (network.block != 1, "blocks"),
        (network.distribution != "er", "distribution of connections"),
        (network.output_layer != "dense", "sparse output layer"),
        (network.actor_topology or network.critic_topology, "static or dynamic network"),
    ):
        if is_set:
            raise ConfigError(f"`topology` is dense, which has no {what}; use `topology` dynamic or static")


def _check_ranges(config: Config) -> None:
    for known in OPTIONS.values():
        known.check(known.of(config))


def extended(config: Config, steps: int) -> Config:
    """The configuration of a run that goes on to another number of steps. A cosine schedule keeps the end that it had;
    without one, it is that of a run which had so many steps from the start.

    Raises ConfigError for a number that is out of range, or too small for learning or for the schedule.
    """
    evolution, schedule = config.evolution, replace(config.schedule, steps=steps)
    if evolution.drop_schedule == "cosine" and any(config.network.evolving):
        end = evolution.evolution_steps or config.schedule.steps
        evolution = replace(evolution, evolution_steps=None if end == steps else end)
    longer = validated(replace(config, evolution=evolution, schedule=schedule))
    if steps <= schedule.start_steps:
        raise _nothing_learnt(longer)
    return longer


def is_continued_by(earlier: Config, later: Config) -> bool:
    """Whether a run of the one configuration goes on with the other: the same, or one that extends it."""
    try:
        return earlier == later or extended(earlier, later.schedule.steps) == later
    except ConfigError:
        return False


def to_json(config: Config) -> str:
    """The content of config.json."""
    return json.dumps(dataclasses.asdict(config), indent=2) + "\n"


def flat(config: Config) -> dict[str, Any]:
    """Every value of a configuration under its dotted name, such as network.hidden."""
    fields: dict[str, Any] = {}
    for name, value in dataclasses.asdict(config).items():
        fields |= {f"{name}.{key}": inner for key, inner in value.items()} if isinstance(value, dict) else {name: value}
    return fields


def to_toml(config: Config) -> str:
    """A configuration file that states every option, so that `from_toml` and `make_config` give the same run."""
    lines: list[str] = []
    section: str | None = None
    for known in OPTIONS.values():
        if known.section != section:
            section = known.section
            lines.append(f"\n# {section}")
        if (value := known.of(config)) not in (None, NOTHING):
            lines.append(f"{known.name} = {_toml_value(value)}")
    return "\n".join(lines) + "\n"


def _toml_value(value: Any) -> str:
    if isinstance(value, Arguments):
        return "{ " + ", ".join(f"{json.dumps(name)} = {_toml_value(value[name])}" for name in sorted(value)) + " }"
    return repr(value) if isinstance(value, float) else json.dumps(value, ensure_ascii=False)


def from_toml(path: Path) -> dict[str, Any]:
    """What a configuration file states, spelled out and in range: options by name, and `preset`, where it is there.

    Raises FileFormatError, ConfigError; nothing in the file is trusted.
    """
    document = read_toml(path)
    try:
        stated = spelled_out(document)
        for name, value in stated.items():
            if name == "preset":
                continue
            if name not in OPTIONS:
                raise ConfigError(f"option {quoted(name, 80)} is unknown{nearest(name, [*OPTIONS, 'method'])}")
            stated[name] = checked(value) if name == "env_args" else tuple(value) if isinstance(value, list) else value
            OPTIONS[name].check(stated[name])
    except ConfigError as error:
        raise ConfigError(f"{path}: {bare(error)}") from error
    return stated


def from_json(data: Mapping[str, Any], source: str) -> Config:
    """A configuration from parsed JSON, which is not trusted. Raises ConfigError that names `source`."""
    try:
        data = _renamed(data)
        sections = {name: _section(kind, data[name], name) for name, kind in _SECTIONS.items()}
        config: Config = _section(Config, {**data, **sections}, "config")
        config = validated(config)
        network = config.network
        if network.topology != "dense" and network.lambda1 is None and None in network.sparsities:
            raise ConfigError("neither lambda1 and lambda2 nor a sparsity of both networks is there")
    except KeyError as error:
        raise ConfigError(f"{source}: {error.args[0]} is missing") from error
    except ConfigError as error:
        raise ConfigError(f"{source}: {bare(error)}") from error
    return config


def _renamed(data: Mapping[str, Any]) -> Mapping[str, Any]:
    """Under this version's names: 0.1.0 wrote `td3` for learning, and for a topology the method of TD3 that has it.

    Raises ConfigError where that is none.
    """
    if "td3" in data and "learning" not in data:
        data = {"learning" if name == "td3" else name: value for name, value in data.items()}
    network = data.get("network")
    if isinstance(network, Mapping) and "method" in network and "topology" not in network:
        topology = spelled_out({"method": network["method"]})["topology"]
        data = {**data, "network": {name: value for name, value in network.items() if name != "method"}}
        data["network"]["topology"] = topology
    return data


def _section(kind: type[Any], data: Any, name: str) -> Any:
    fields = dataclasses.fields(kind)
    known, needed = {f.name for f in fields}, {f.name for f in fields if "since" not in f.metadata}
    if not isinstance(data, Mapping) or not needed <= set(data) <= known:
        odd = sorted(map(str, (set(data) - known) | (needed - set(data))))[0] if isinstance(data, Mapping) else data
        raise ConfigError(
            f"{name} was written by another version of edgerl: unknown or missing key {quoted(odd)}; use that version, "
            "or train again"
        )
    return kind(**{key: tuple(value) if isinstance(value, list) else value for key, value in data.items()})
