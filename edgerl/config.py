"""What a run is: one frozen dataclass per concern. Every field has its unit, its range and its source beside it, and
the range is what validation reads.

Source `paper` is Sokar et al. (IJCAI 2022) with its released code; `TD3` is Fujimoto et al. (2018); `RigL` is Evci et
al. (2020); `RLx2` is Tan et al. (2023).
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args, get_type_hints

from edgerl.environments.arguments import NOTHING, Arguments, checked, task
from edgerl.errors import ConfigError, nearest

Method = Literal["td3", "static-td3", "ds-td3"]
Distribution = Literal["er", "uniform"]
OutputLayer = Literal["dense", "sparse"]
Growth = Literal["random", "gradient"]
DropSchedule = Literal["constant", "cosine"]
Preset = Literal["paper", "quick"]
PolicyChoice = Literal["last", "best"]
Device = Literal["cpu", "cuda"]
Engine = Literal["auto", "native", "torch"]
Evaluation = Literal["auto", "separate", "between-episodes", "none"]
OnFault = Literal["stop", "truncate"]

NEW = {"since": "0.2.0"}
"""Of a field that runs of 0.1.0 do not have: where it is missing, it has its default."""


def _number(default: Any, unit: str, interval: str, source: str, **more: str) -> Any:
    return field(default=default, metadata={"unit": unit, "range": interval, "source": source, **more})


@dataclass(frozen=True)
class NetworkConfig:
    """Widths and sparsity of actor and critics."""

    hidden: tuple[int, ...] = _number((256, 256), "units per layer", "[1, 65535]", "paper")
    method: Method = "ds-td3"
    block: int = _number(1, "outputs per block: 1 or 4", "[1, 4]", "paper: 1")
    sparsity: float | None = _number(None, "1 − connections / dense weights, per network", "[0, 1)", "edgerl")
    lambda1: float | None = _number(None, "Erdős–Rényi factor of the first layer", "(0, inf)", "paper")
    lambda2: float | None = _number(None, "Erdős–Rényi factor of further hidden layers", "(0, inf)", "paper")
    distribution: Distribution = "er"  # of the connections that a sparsity leaves; paper: er
    output_layer: OutputLayer = "dense"  # sparse: in the budget of a sparsity, like the others; paper: dense
    actor_sparsity: float | None = _number(None, "as sparsity, for the actor instead of it", "[0, 1)", "RLx2")
    critic_sparsity: float | None = _number(None, "as sparsity, for each critic instead of it", "[0, 1)", "RLx2")

    @property
    def sparsities(self) -> tuple[float | None, float | None]:
        """Of the actor and of each critic; None where none was given."""
        actor, critic = (self.sparsity if own is None else own for own in (self.actor_sparsity, self.critic_sparsity))
        return actor, critic


@dataclass(frozen=True)
class EvolutionConfig:
    """Drop and grow."""

    drop_fraction: float = _number(0.05, "share of a layer's blocks (ζ)", "[0, 1]", "paper")
    evolution_interval: int = _number(1000, "critic updates (e)", "[1, 1000000000000]", "paper")
    growth: Growth = "random"
    drop_schedule: DropSchedule = "constant"  # cosine: ζ falls to 0 over the run, after RigL; paper: constant
    # None: those of the run; of a run that was extended, those that it had when it began
    drop_schedule_steps: int | None = _number(None, "steps of the cosine", "[1, 1000000000000]", "edgerl", **NEW)


@dataclass(frozen=True)
class TD3Config:
    """TD3 itself."""

    discount: float = _number(0.99, "per step (γ)", "[0, 1]", "TD3")
    soft_update: float = _number(0.005, "share of the online weights (τ)", "(0, 1]", "TD3")
    learning_rate: float = _number(1e-3, "Adam", "(0, 1]", "paper")
    weight_decay: float = _number(2e-4, "coupled L2, biases too", "[0, 1]", "paper")
    batch_size: int = _number(100, "transitions", "[1, 65536]", "paper")
    policy_delay: int = _number(2, "critic updates per actor update (d)", "[1, 1000]", "TD3")
    target_noise: float = _number(0.2, "standard deviation, actions in [−1, 1]", "[0, 10]", "TD3")
    target_noise_clip: float = _number(0.5, "actions in [−1, 1]", "[0, 10]", "TD3")
    exploration_noise: float = _number(0.1, "standard deviation, actions in [−1, 1]", "[0, 10]", "TD3")
    n_step: int = _number(1, "rewards per return", "[1, 64]", "TD3: 1")
    n_step_delay: int = _number(0, "critic updates with 1-step returns before", "[0, 1000000000000]", "RLx2")


@dataclass(frozen=True)
class ScheduleConfig:
    """When things happen, in environment steps."""

    steps: int = _number(1_000_000, "steps", "[1, 1000000000000]", "paper")
    start_steps: int = _number(25_000, "random steps before learning", "[1, 1000000000000]", "paper")
    replay_capacity: int = _number(1_000_000, "transitions", "[1, 4294967295]", "paper")
    evaluation_interval: int = _number(5000, "steps", "[1, 1000000000000]", "paper")
    evaluation_episodes: int = _number(10, "episodes", "[1, 1000000000000]", "paper")
    checkpoint_interval: int = _number(10_000, "steps", "[1, 1000000000000]", "edgerl")
    # None, when a run starts: the environment's own limit; where it states none, DEFAULT_EPISODE_STEPS
    max_episode_steps: int | None = _number(None, "steps", "[1, 1000000000000]", "edgerl", **NEW)


@dataclass(frozen=True)
class Config:
    """A whole run; the same configuration, machine and thread count give the same bits."""

    environment: str = "HalfCheetah-v5"
    env_args: Arguments = field(default=NOTHING, metadata=NEW)  # of the function that makes the environment
    seed: int = _number(0, "any", "[0, 18446744073709551615]", "edgerl")
    normalize: bool = False
    policy: PolicyChoice = "last"
    device: Device = "cpu"
    engine: Engine = "auto"  # native: sparse, in C, on the CPU; auto: native on the CPU, torch on CUDA
    threads: int = _number(1, "of PyTorch", "[1, 1024]", "edgerl")
    # separate: in a second environment; auto: separate, or between-episodes where there can be only one
    evaluation: Evaluation = field(default="auto", metadata=NEW)
    on_fault: OnFault = field(default="stop", metadata=NEW)  # of the environment; truncate: end the episode there
    network: NetworkConfig = field(default_factory=NetworkConfig)
    evolution: EvolutionConfig = field(default_factory=EvolutionConfig)
    td3: TD3Config = field(default_factory=TD3Config)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)

    def __post_init__(self) -> None:
        object.__setattr__(self, "env_args", checked(self.env_args))

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

QUICK = ScheduleConfig(
    steps=30_000,
    start_steps=10_000,
    replay_capacity=100_000,
    evaluation_interval=5000,
    evaluation_episodes=3,
    checkpoint_interval=5000,
)
"""The `quick` preset: minutes instead of hours, the same algorithm."""

PRESETS: Mapping[str, ScheduleConfig] = {"paper": ScheduleConfig(), "quick": QUICK}

_SECTIONS = {"network": NetworkConfig, "evolution": EvolutionConfig, "td3": TD3Config, "schedule": ScheduleConfig}


def make_config(preset: Preset = "paper", **options: Any) -> Config:
    """A configuration from a preset and options named like the fields of any section; None leaves the preset's value.

    Raises ConfigError for an unknown option, a value out of range, or options that contradict each other.
    """
    if preset not in PRESETS:
        raise ConfigError(f"preset {preset!r} is unknown; expected {' or '.join(PRESETS)}")
    config = Config(schedule=PRESETS[preset])
    for name, value in options.items():
        if value is not None:
            config = _with_option(config, name, value)
    _check_ranges(config)
    return validated(_with_densities(_with_warm_up(config, options.get("start_steps"))))


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
        f"steps is {steps}, and the first {start_steps} (start_steps) are random, before learning begins; expected "
        "more steps than those"
    )


def with_episode_limit(config: Config, own: int | None) -> Config:
    """The configuration with a limit of episodes: the one that was asked for, or else the environment's `own`, or else
    DEFAULT_EPISODE_STEPS."""
    limit = config.schedule.max_episode_steps or own or DEFAULT_EPISODE_STEPS
    return replace(config, schedule=replace(config.schedule, max_episode_steps=limit))


def _with_option(config: Config, name: str, value: Any) -> Config:
    value = tuple(value) if isinstance(value, list) else value
    for section, kind in _SECTIONS.items():
        if name in (known.name for known in dataclasses.fields(kind)):
            return replace(config, **{section: replace(getattr(config, section), **{name: value})})
    if name in _SECTIONS or name not in (known.name for known in dataclasses.fields(Config)):
        raise ConfigError(f"option {name!r} is unknown{nearest(name, option_names())}")
    return replace(config, **{name: value})


def option_names() -> list[str]:
    """The names of all options of `make_config`."""
    names = [f.name for f in dataclasses.fields(Config) if f.name not in _SECTIONS]
    return names + [f.name for kind in _SECTIONS.values() for f in dataclasses.fields(kind)]


def _with_densities(config: Config) -> Config:
    """Fill in what the user left open: the paper's λ for its tasks and widths, half density elsewhere.

    An option that only a sparsity can follow (another distribution, sparse output layers, a sparsity of one network)
    leaves the λ out too: what it does not say itself is half dense.
    """
    network = config.network
    if network.method == "td3" or None not in network.sparsities:
        return config
    lambdas = PAPER_LAMBDAS.get(config.environment.removesuffix("-v5"))
    if lambdas is None or network.hidden != (256, 256) or _beyond_lambdas(network):
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
        raise ConfigError(f"block is {network.block}; expected 1 (the paper's) or 4")
    if not 1 <= len(network.hidden) <= 8:
        raise ConfigError(f"hidden has {len(network.hidden)} layers; expected 1 to 8")
    _check_lambdas(network)
    if network.method == "td3":
        _check_dense(network)
    if config.engine == "native" and config.device == "cuda":
        raise ConfigError("engine native runs on the CPU, and device is cuda; use --device cpu or --engine torch")
    _check_drop_schedule(config)
    if config.evaluation == "none" and config.policy == "best":
        raise ConfigError("policy best was asked for, and evaluation none; expected evaluations, or policy last")
    if config.schedule.replay_capacity <= config.td3.n_step:
        raise ConfigError(f"replay_capacity is {config.schedule.replay_capacity}; expected more than n_step")
    return config


def _given_sparsities(network: NetworkConfig) -> list[str]:
    names = ("sparsity", "actor_sparsity", "critic_sparsity")
    return [name for name in names if getattr(network, name) is not None]


def _beyond_lambdas(network: NetworkConfig) -> list[str]:
    """The options, in words, that only a sparsity can follow."""
    given = _given_sparsities(network)
    if network.distribution == "uniform":
        given.append("distribution uniform")
    if network.output_layer == "sparse":
        given.append("output_layer sparse")
    return given


def _check_drop_schedule(config: Config) -> None:
    schedule, end = config.schedule, config.evolution.drop_schedule_steps
    if end is None:
        return
    if config.evolution.drop_schedule == "constant":
        raise ConfigError(
            f"drop_schedule_steps is {end}, and the drop schedule is constant; use --drop-schedule cosine"
        )
    if not schedule.start_steps < end <= schedule.steps:
        raise ConfigError(
            f"steps is {schedule.steps}, and the cosine schedule ends at step {end}; expected at least {end} steps, "
            f"and an end after the first {schedule.start_steps}, which are random"
        )


def _check_lambdas(network: NetworkConfig) -> None:
    """λ say the density of each hidden layer, hence contradict everything else that says one."""
    if (network.lambda1, network.lambda2) == (None, None):
        return
    if beyond := _beyond_lambdas(network):
        raise ConfigError(
            f"{beyond[0]} and lambda1/lambda2 were both given; expected one of them (λ are Erdős–Rényi factors of the "
            "hidden layers, a sparsity is of a whole network)"
        )
    if None in (network.lambda1, network.lambda2):
        raise ConfigError("only one of lambda1 and lambda2 was given; expected both")


def _check_dense(network: NetworkConfig) -> None:
    if _given_sparsities(network) or (network.lambda1, network.lambda2) != (None, None):
        raise ConfigError(
            "method td3 is dense and takes no sparsity; use --method ds-td3 or static-td3, or leave it out"
        )
    for is_set, what in (
        (network.block != 1, "blocks"),
        (network.distribution != "er", "distribution of connections"),
        (network.output_layer != "dense", "sparse output layer"),
    ):
        if is_set:
            raise ConfigError(f"method td3 is dense and has no {what}; use --method ds-td3 or static-td3")


def _check_ranges(config: Config) -> None:
    for section in (config, config.network, config.evolution, config.td3, config.schedule):
        hints = get_type_hints(type(section))
        for known in dataclasses.fields(section):
            _check(known, hints[known.name], getattr(section, known.name))


def _check(known: dataclasses.Field[Any], hint: Any, value: Any) -> None:
    interval = known.metadata.get("range")
    if interval is None:
        choices = get_args(hint)
        if (choices and value not in choices) or (hint in (bool, str) and type(value) is not hint):
            expected = ", ".join(map(str, choices)) or getattr(hint, "__name__", str(hint))
            raise ConfigError(f"{known.name} is {value!r}; expected {expected}")
        return
    if value is None and known.default is None:
        return
    whole, many = hint is int or int in get_args(hint), isinstance(known.default, tuple)
    if many and not isinstance(value, tuple):
        raise ConfigError(f"{known.name} is {value!r}; expected whole numbers, one per layer")
    for number in value if many else (value,):
        is_number = type(number) is int or (type(number) is float and not whole)
        if not is_number or not _inside(number, interval):
            kind = "a whole number" if whole else "a number"
            raise ConfigError(f"{known.name} is {number}; expected {kind} in {interval} ({known.metadata['unit']})")


def _inside(value: float, interval: str) -> bool:
    match = re.fullmatch(r"([\[(])(\S+), (\S+)([\])])", interval)
    assert match is not None, interval
    low, high = (int(end) if re.fullmatch(r"-?\d+", end) else float(end) for end in (match[2], match[3]))
    above = value >= low if match[1] == "[" else value > low
    return above and (value <= high if match[4] == "]" else value < high) and value not in (math.inf, -math.inf)


def extended(config: Config, steps: int) -> Config:
    """The configuration of a run that goes on to another number of steps. A cosine schedule keeps the end that it had;
    without one, it is that of a run which had so many steps from the start.

    Raises ConfigError for a number that is out of range, or too small for learning or for the schedule.
    """
    evolution, schedule = config.evolution, replace(config.schedule, steps=steps)
    if evolution.drop_schedule == "cosine" and config.network.method == "ds-td3":
        end = evolution.drop_schedule_steps or config.schedule.steps
        evolution = replace(evolution, drop_schedule_steps=None if end == steps else end)
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


def from_json(data: Mapping[str, Any], source: str) -> Config:
    """A configuration from parsed JSON, which is not trusted. Raises ConfigError that names `source`."""
    try:
        sections = {name: _section(kind, data[name], name) for name, kind in _SECTIONS.items()}
        config: Config = _section(Config, {**data, **sections}, "config")
        config = validated(config)
        network = config.network
        if network.method != "td3" and network.lambda1 is None and None in network.sparsities:
            raise ConfigError("neither lambda1 and lambda2 nor a sparsity of both networks is there")
    except KeyError as error:
        raise ConfigError(f"{source}: {error.args[0]} is missing") from error
    except ConfigError as error:
        raise ConfigError(f"{source}: {error}") from error
    return config


def _section(kind: type[Any], data: Any, name: str) -> Any:
    fields = dataclasses.fields(kind)
    known, needed = {f.name for f in fields}, {f.name for f in fields if "since" not in f.metadata}
    if not isinstance(data, Mapping) or not needed <= set(data) <= known:
        odd = sorted(map(str, (set(data) - known) | (needed - set(data))))[0] if isinstance(data, Mapping) else data
        raise ConfigError(
            f"{name} has not the keys of this version of edgerl (first difference: {str(odd)[:40]}); use the version "
            "that made it, or train anew"
        )
    return kind(**{key: tuple(value) if isinstance(value, list) else value for key, value in data.items()})
