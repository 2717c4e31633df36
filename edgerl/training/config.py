"""What a run is: one frozen dataclass per concern. Every field has its unit, its range and its source beside it, and
the range is what validation reads.

Source `paper` is Sokar et al. (IJCAI 2022) with its released code; `TD3` is Fujimoto et al. (2018).
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any, Literal, get_args, get_type_hints

from edgerl.compact.file import MAXIMUM_NETWORK_POSITIONS
from edgerl.compact.policy import MAXIMUM_POSITIONS, MAXIMUM_UNITS
from edgerl.errors import ConfigError, nearest
from edgerl.training.topology import LayerPlan, plan_by_lambdas, plan_by_sparsity, plan_dense

Method = Literal["td3", "static-td3", "ds-td3"]
Growth = Literal["random", "gradient"]
Preset = Literal["paper", "quick"]
PolicyChoice = Literal["last", "best"]
Device = Literal["cpu", "cuda"]


def _number(default: Any, unit: str, interval: str, source: str) -> Any:
    return field(default=default, metadata={"unit": unit, "range": interval, "source": source})


@dataclass(frozen=True)
class NetworkConfig:
    """Widths and sparsity of actor and critics."""

    hidden: tuple[int, ...] = _number((256, 256), "units per layer", "[1, 65535]", "paper")
    method: Method = "ds-td3"
    block: int = _number(1, "outputs per block: 1 or 4", "[1, 4]", "paper: 1")
    sparsity: float | None = _number(None, "1 − connections / dense weights, per network", "[0, 1)", "edgerl")
    lambda1: float | None = _number(None, "Erdős–Rényi factor of the first layer", "(0, inf)", "paper")
    lambda2: float | None = _number(None, "Erdős–Rényi factor of further hidden layers", "(0, inf)", "paper")


@dataclass(frozen=True)
class EvolutionConfig:
    """Drop and grow."""

    drop_fraction: float = _number(0.05, "share of a layer's blocks (ζ)", "[0, 1]", "paper")
    evolution_interval: int = _number(1000, "critic updates (e)", "[1, 1000000000000]", "paper")
    growth: Growth = "random"


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


@dataclass(frozen=True)
class ScheduleConfig:
    """When things happen, in environment steps."""

    steps: int = _number(1_000_000, "steps", "[1, 1000000000000]", "paper")
    start_steps: int = _number(25_000, "random steps before learning", "[1, 1000000000000]", "paper")
    replay_capacity: int = _number(1_000_000, "transitions", "[1, 1000000000000]", "paper")
    evaluation_interval: int = _number(5000, "steps", "[1, 1000000000000]", "paper")
    evaluation_episodes: int = _number(10, "episodes", "[1, 1000000000000]", "paper")
    checkpoint_interval: int = _number(10_000, "steps", "[1, 1000000000000]", "edgerl")


@dataclass(frozen=True)
class Config:
    """A whole run; the same configuration, machine and thread count give the same bits."""

    environment: str = "HalfCheetah-v5"
    seed: int = _number(0, "any", "[0, 18446744073709551615]", "edgerl")
    normalize: bool = False
    policy: PolicyChoice = "last"
    device: Device = "cpu"
    threads: int = _number(1, "of PyTorch", "[1, 1024]", "edgerl")
    network: NetworkConfig = field(default_factory=NetworkConfig)
    evolution: EvolutionConfig = field(default_factory=EvolutionConfig)
    td3: TD3Config = field(default_factory=TD3Config)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)


PAPER_LAMBDAS = {"HalfCheetah": (7, 64), "Hopper": (7, 64), "Walker2d": (7, 64), "Ant": (40, 64), "Humanoid": (61, 64)}
"""λ1 and λ2 of the paper's five tasks, at v5 (other versions have other observations), for its 256-256 networks."""

DEFAULT_SPARSITY = 0.5
"""What a task that the paper does not have gets, and about what the paper's λ give its own."""

QUICK = ScheduleConfig(
    steps=30_000,
    start_steps=10_000,
    replay_capacity=100_000,
    evaluation_interval=5000,
    evaluation_episodes=3,
    checkpoint_interval=5000,
)
"""The `quick` preset: minutes instead of hours, the same algorithm."""

_SECTIONS = {"network": NetworkConfig, "evolution": EvolutionConfig, "td3": TD3Config, "schedule": ScheduleConfig}


def make_config(preset: Preset = "paper", **options: Any) -> Config:
    """A configuration from a preset and options named like the fields of any section; None leaves the preset's value.

    Raises ConfigError for an unknown option, a value out of range, or options that contradict each other.
    """
    if preset not in get_args(Preset):
        raise ConfigError(f"preset {preset!r} is unknown; expected {' or '.join(get_args(Preset))}")
    config = Config(schedule=QUICK if preset == "quick" else ScheduleConfig())
    for name, value in options.items():
        if value is not None:
            config = _with_option(config, name, value)
    _check_ranges(config)
    return validated(_with_paper_lambdas(config))


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


def _with_paper_lambdas(config: Config) -> Config:
    """Fill in what the user left open: the paper's λ for its tasks and widths, half density elsewhere."""
    network = config.network
    if network.method == "td3" or network.sparsity is not None:
        return config
    lambdas = PAPER_LAMBDAS.get(config.environment.removesuffix("-v5"))
    if lambdas is None or network.hidden != (256, 256):
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
    lambdas = (network.lambda1, network.lambda2)
    if network.sparsity is not None and lambdas != (None, None):
        raise ConfigError("sparsity and lambda1/lambda2 were both given; expected one of them")
    if (network.lambda1 is None) != (network.lambda2 is None):
        raise ConfigError("only one of lambda1 and lambda2 was given; expected both")
    if network.method == "td3" and (network.sparsity is not None or lambdas != (None, None)):
        raise ConfigError(
            "method td3 is dense and takes no sparsity; use --method ds-td3 or static-td3, or leave it out"
        )
    if network.method == "td3" and network.block != 1:
        raise ConfigError("method td3 is dense and has no blocks; use --method ds-td3 or static-td3")
    if config.schedule.replay_capacity <= config.td3.n_step:
        raise ConfigError(f"replay_capacity is {config.schedule.replay_capacity}; expected more than n_step")
    return config


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
    whole, many = isinstance(known.default, int | tuple), isinstance(known.default, tuple)
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


def plan_networks(
    config: NetworkConfig, n_observations: int, n_actions: int
) -> tuple[tuple[LayerPlan, ...], tuple[LayerPlan, ...]]:
    """The layers of the actor and of each critic. Raises ConfigError where the sparsity asked for is impossible."""
    actor = (n_observations, *config.hidden, n_actions)
    critic = (n_observations + n_actions, *config.hidden, 1)
    for widths in (actor, critic):
        _check_size(widths)
    if config.method == "td3":
        return plan_dense(actor), plan_dense(critic)
    if config.lambda1 is not None and config.lambda2 is not None:
        lambdas = (config.lambda1, config.lambda2)
        return plan_by_lambdas(actor, lambdas, config.block), plan_by_lambdas(critic, lambdas, config.block)
    assert config.sparsity is not None  # make_config and from_json see to it
    return plan_by_sparsity(actor, config.sparsity, config.block), plan_by_sparsity(
        critic, config.sparsity, config.block
    )


def _check_size(widths: tuple[int, ...]) -> None:
    """Refuse at the start what no policy file could hold at the first checkpoint."""
    sizes = [n * m for n, m in pairwise(widths)]
    if max(widths) > MAXIMUM_UNITS or max(sizes) > MAXIMUM_POSITIONS or sum(sizes) > MAXIMUM_NETWORK_POSITIONS:
        raise ConfigError(
            f"a network {'-'.join(map(str, widths))} is too large; expected layers of at most {MAXIMUM_UNITS} units "
            f"and {MAXIMUM_POSITIONS} weights, {MAXIMUM_NETWORK_POSITIONS} in all"
        )


def to_json(config: Config) -> str:
    """The content of config.json."""
    return json.dumps(dataclasses.asdict(config), indent=2) + "\n"


def from_json(data: Mapping[str, Any], source: str) -> Config:
    """A configuration from parsed JSON, which is not trusted. Raises ConfigError that names `source`."""
    try:
        sections = {name: _section(kind, data[name], name) for name, kind in _SECTIONS.items()}
        config: Config = _section(Config, {**data, **sections}, "config")
        config = validated(config)
        sparse = config.network.method != "td3"
        if sparse and config.network.sparsity is None and config.network.lambda1 is None:
            raise ConfigError("neither sparsity nor lambda1 and lambda2 is there")
    except KeyError as error:
        raise ConfigError(f"{source}: {error.args[0]} is missing") from error
    except ConfigError as error:
        raise ConfigError(f"{source}: {error}") from error
    return config


def _section(kind: type[Any], data: Any, name: str) -> Any:
    known = {f.name for f in dataclasses.fields(kind)}
    if not isinstance(data, Mapping) or set(data) != known:
        odd = sorted(map(str, set(data) ^ known))[0] if isinstance(data, Mapping) else data
        raise ConfigError(f"{name} has not the keys of this version of edgerl (first difference: {str(odd)[:40]})")
    return kind(**{key: tuple(value) if isinstance(value, list) else value for key, value in data.items()})
