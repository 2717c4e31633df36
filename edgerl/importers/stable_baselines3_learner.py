"""SAC and TD3 of stable-baselines3 as what goes on learning: actor, critics and targets, what Adam knows of them, and
the options that they were trained with. What differs from there is numbered in docs/bring-your-own.md."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

import numpy as np

from edgerl.config import Config, HiddenActivation, make_config
from edgerl.edge.continual.trials import LARGEST_REWARD
from edgerl.errors import ConfigError, FileFormatError, UnsupportedModelError, bare, quoted, reason
from edgerl.importers import normalizers, state_dict
from edgerl.importers.options import Stated
from edgerl.importers.policy_file import provenance
from edgerl.importers.stable_baselines3 import OFF_POLICY_DEFAULT, WITHOUT_STATISTICS, Model, loaded, open_model
from edgerl.importers.state_dict import Network, StateDict
from edgerl.policy.activation import ActivationName
from edgerl.policy.compact import Array, CompactPolicy, action_scaling
from edgerl.policy.loss import sampled_observations

SETTINGS: Mapping[str, str] = {"gamma": "discount", "tau": "soft_update", "batch_size": "batch_size"}
SETTINGS_OF_TD3: Mapping[str, str] = {
    "policy_delay": "policy_delay",
    "target_policy_noise": "target_noise",
    "target_noise_clip": "target_noise_clip",
}
"""By the names that stable-baselines3 has for options of edgerl."""

OPTIMISERS: Mapping[str, str] = {"Adam": "adam", "AdamW": "adamw"}
"""By the name of PyTorch's class."""

SECOND_DECAY, EPSILON = 0.999, 1e-8
"""Of Adam, as edgerl has it."""

LARGEST_COUNT = 1 << 53


@dataclass(frozen=True)
class LearningModel:
    """A model that can learn on."""

    config: Config
    policy: CompactPolicy  # what the actor does, without exploring
    state: Mapping[str, Array]  # of the agent, as a checkpoint of edgerl has it
    expected_reward: float  # in magnitude: of a step, to explain what the critics say
    notes: tuple[str, ...]  # what a person should know


def read(data: bytes, path: Path, stated: Stated, learning_rate: float | None = None) -> LearningModel:
    """What of a model can learn on. learning_rate: instead of the model's own.

    Raises FileFormatError, UnsupportedModelError, ConfigError, MissingExtraError.
    """
    model = open_model(data, path, stated)
    if model.is_on_policy:
        raise UnsupportedModelError(
            f"{path} is of PPO or A2C, whose critic values observations without actions, so that there is nothing to "
            "learn on with; train SAC or TD3, or take the policy as it is: edgerl import"
        )
    actor, _ = model.policy()
    networks = _Networks(model)
    kind = f"stable-baselines3 {'SAC' if networks.is_soft else 'TD3'}"
    policy = replace(actor.signal.policy(), metadata=provenance(kind, path, data))
    of_actor, of_critics = (
        _read_optimiser(model, f"{network}.optimizer.pth", _parameters(model, network))
        for network in ("actor", "critic")
    )
    notes: list[str] = []
    options = networks.options() | _options(model.about, networks.is_soft, notes)
    config = _config(options | _options_of_adam(model, of_actor, learning_rate, notes), path)
    rewards = normalizers.reward_deviation(stated.normalizer)
    state = dict(networks.state(of_actor, of_critics, config.learning.policy_delay, rewards))
    if networks.is_soft:
        state["agent.temperature"] = _temperature(model, rewards, notes)
    notes += _notes_on_normaliser(stated.normalizer, policy, rewards)
    reward = (1 - config.learning.discount) * rewards * networks.largest_value(policy)
    if not reward <= LARGEST_REWARD:
        raise FileFormatError(f"{path} is not valid: its critics give values that are not finite")
    return LearningModel(config, policy, state, reward, tuple(notes))


# ---------------------------------------------------------------------------------------------------- optimisers


@dataclass(frozen=True)
class _Optimiser:
    """What Adam knows; moments by the name of what they belong to."""

    first: StateDict
    second: StateDict
    steps: int
    group: Mapping[str, Any]  # its options; empty where the model has none of it


def _parameters(model: Model, network: str) -> StateDict:
    """Of the actor or of the critics, in the order in which an optimiser has them."""
    return {name: values for name, values in model.state.items() if name.startswith(f"{network}.")}


def _read_optimiser(model: Model, member: str, parameters: StateDict) -> _Optimiser:
    """The one that has these parameters; zeros where it has made no step, or is not there. Raises FileFormatError,
    UnsupportedModelError."""
    names = list(parameters)
    nothing = {name: np.zeros(values.shape) for name, values in parameters.items()}
    if member not in model.archive.namelist():
        return _Optimiser(nothing, nothing, 0, {})
    saved = loaded(model.archive, member, model.path)
    try:
        (group,) = saved["param_groups"]
        if not saved["state"]:
            return _Optimiser(nothing, nothing, 0, dict(group))
        entries = dict(zip(names, (saved["state"][key] for key in group["params"]), strict=True))
        first, second = (
            state_dict.tensors({name: entry[part] for name, entry in entries.items()}, model.path, member)
            for part in ("exp_avg", "exp_avg_sq")
        )
        steps = int(entries[names[0]]["step"])
        if not 0 <= steps <= LARGEST_COUNT:
            raise ValueError(f"{steps} steps")
    except (UnsupportedModelError, FileFormatError):
        raise
    except Exception as error:  # a file that was made up can make it raise anything
        raise FileFormatError(
            f"{model.path} is not valid: {member} is not the state of an Adam for these networks ({reason(error)})"
        ) from error
    return _Optimiser(first, second, steps, dict(group))


# ---------------------------------------------------------------------------------------------------- networks


@dataclass(frozen=True)
class _Layers:
    """A network: of each layer the names of the affine layers whose outputs it has, one after the other."""

    name: str  # of edgerl's
    names: Sequence[tuple[str, ...]]
    has_target: bool
    gradient: float  # what the derivatives of our loss are, by theirs
    outputs: float = 1.0  # likewise what the network gives


class _Networks:
    """Actor, critics and targets of a SAC or a TD3. Raises UnsupportedModelError where edgerl has no such ones."""

    def __init__(self, model: Model) -> None:
        self._state, self._path = model.state, model.path
        self.is_soft = "actor.mu.weight" in model.state
        actor = self._names("actor.latent_pi." if self.is_soft else "actor.mu.")
        self._actor: list[tuple[str, ...]] = [(name,) for name in actor]
        if self.is_soft:
            shape = model.state["actor.mu.weight"].shape
            state_dict.tensor(model.state, "actor.log_std.weight", shape, model.path)
            self._actor.append(("actor.mu", "actor.log_std"))
        numbers = sorted({name.split(".")[1] for name in model.state if name.startswith("critic.")})
        self._critics = [self._names(f"critic.{number}.") for number in numbers]
        self._activation: ActivationName = model.activation(OFF_POLICY_DEFAULT)
        self._check()

    def _names(self, prefix: str) -> list[str]:
        return state_dict.linear_names(self._state, prefix, self._path)

    def _check(self) -> None:
        outputs = max((self._outputs(names[-1]) for names in self._critics), default=1)
        if outputs > 1:
            raise UnsupportedModelError(
                f"{self._path} has critics that give {outputs} quantiles, as TQC's do; a learner has critics that give "
                "one value: train SAC or TD3"
            )
        if len(self._critics) != 2:
            raise UnsupportedModelError(
                f"{self._path} was trained with n_critics {len(self._critics)}, which is 1 in DDPG; expected 2, since "
                "a learner goes by the lower of two values: train TD3, or with policy_kwargs={'n_critics': 2}"
            )
        known = get_args(HiddenActivation)
        if self._activation not in known:
            raise UnsupportedModelError(
                f"{self._path} has the activation {self._activation}; a learner has {', '.join(known)}: train with one "
                "of them, or take the policy as it is: edgerl import"
            )

    def _outputs(self, name: str) -> int:
        return len(state_dict.tensor(self._state, f"{name}.weight", (None, None), self._path))

    def options(self) -> dict[str, Any]:
        """Widths of the hidden layers and what is between them, as options of edgerl."""
        networks = {"hidden": [names[0] for names in self._actor], "critic_hidden": self._critics[0]}
        widths = {option: tuple(map(self._outputs, names[:-1])) for option, names in networks.items()}
        return widths | {"activation": self._activation}

    def largest_value(self, policy: CompactPolicy) -> float:
        """What the critics say of the policy's own actions, the largest in magnitude. Raises FileFormatError where
        their layers do not fit together."""
        observations = sampled_observations(policy)
        centre, half_range = action_scaling(policy.action_low, policy.action_high)
        with np.errstate(over="ignore", invalid="ignore"):  # the caller looks at what comes of it
            actions = (policy(observations) - centre) / half_range
        x = np.concatenate([policy.normalised(observations), actions], axis=1)
        return max(float(np.abs(self._critic(names, x.shape[1])(x)).max()) for names in self._critics)

    def _critic(self, names: list[str], n_inputs: int) -> Network:
        critic = Network(n_inputs)
        state_dict.perceptron(critic, self._state, names[:-1], self._activation, self._path)
        critic.linear(self._state, names[-1], self._path)
        return critic

    def state(
        self, of_actor: _Optimiser, of_critics: _Optimiser, policy_delay: int, rewards: float
    ) -> Iterator[tuple[str, Array]]:
        """All networks, for rewards that are not divided by `rewards`, as those of the model were.

        Then values are that many times as large, and so are the derivatives of the actor's loss; those of the critics'
        loss are squares of it. The loss of SAC's critics is half of ours there.
        """
        half = 2.0 if self.is_soft else 1.0
        actor = _Layers("actor", self._actor, not self.is_soft, rewards)
        yield from self._arrays(actor, of_actor, of_critics.steps // policy_delay)
        for number, names in enumerate(self._critics, 1):
            critic = _Layers(f"critic_{number}", [(name,) for name in names], True, half * rewards**2, rewards)
            yield from self._arrays(critic, of_critics, of_critics.steps)
        yield "agent.counters", np.array([of_critics.steps, 0, 0, 0], np.int64)
        yield "agent.loss_sums", np.zeros(2)

    def _arrays(self, network: _Layers, optimiser: _Optimiser, steps: int) -> Iterator[tuple[str, Array]]:
        for index, names in enumerate(network.names):
            scale = network.outputs if index == len(network.names) - 1 else 1.0
            gradient = network.gradient / scale
            for part in ("weight", "bias"):
                here = f"{network.name}.{index}"
                yield f"{here}.{part}", self._joined(self._state, names, part, scale)
                yield f"{here}.{part}_first_moment", self._joined(optimiser.first, names, part, gradient)
                yield f"{here}.{part}_second_moment", self._joined(optimiser.second, names, part, gradient**2)
                yield f"{here}.{part}_steps", np.array(steps, np.float32)
                if network.has_target:
                    yield f"{here}.target_{part}", self._joined(self._state, names, part, scale, "_target")

    def _joined(self, arrays: StateDict, names: Iterable[str], part: str, scale: float, target: str = "") -> Array:
        found = []
        for name in names:
            shape = state_dict.tensor(self._state, f"{name}.weight", (None, None), self._path).shape
            own = f"{name}.{part}".replace(".", f"{target}.", 1)
            found.append(state_dict.tensor(arrays, own, shape if part == "weight" else shape[:1], self._path))
        with np.errstate(over="ignore"):  # a number too large for float32 becomes infinite, which no learner takes
            return (scale * np.concatenate(found)).astype(np.float32)


# ---------------------------------------------------------------------------------------------------- options


def _config(options: Mapping[str, Any], path: Path) -> Config:
    try:
        return make_config(topology="dense", **options)
    except ConfigError as error:
        raise UnsupportedModelError(f"{path} cannot become a learner: {bare(error)}") from error


def _options(about: Mapping[str, Any], is_soft: bool, notes: list[str]) -> dict[str, Any]:
    """Those of the algorithm that stand in its data as numbers; what is pickled there is left to edgerl's defaults."""
    options: dict[str, Any] = {"algorithm": "sac" if is_soft else "td3", "n_step": about.get("n_steps", 1)}
    for theirs, ours in (SETTINGS if is_soft else {**SETTINGS, **SETTINGS_OF_TD3}).items():
        if _is_number(about.get(theirs)):
            options[ours] = about[theirs]
        else:
            notes.append(f"the model does not state {theirs} as a number; the learner has edgerl's default")
    if not is_soft:
        return options | {"exploration_noise": _exploration_noise(about.get("action_noise"), notes)}
    if about.get("target_update_interval", 1) != 1:
        interval = quoted(about["target_update_interval"])
        notes.append(f"the model has target_update_interval {interval}; the learner's targets follow at every update")
    if _is_number(about.get("target_entropy")):  # until version 1.6 a number of numpy, where it was "auto"
        options["target_entropy"] = about["target_entropy"]
    return options


def _is_number(value: Any) -> bool:
    return type(value) in (int, float)


def _exploration_noise(noise: Any, notes: list[str]) -> float | None:
    """The deviation of a NormalActionNoise, as numpy printed it; None: edgerl's default."""
    if noise is None:
        notes.append("the model explored without action noise, and so does the learner")
        return 0.0
    is_normal = isinstance(noise, dict) and str(noise.get(":type:")).endswith(".NormalActionNoise'>")
    deviations = set(str(noise.get("_sigma")).strip("[]").split()) if is_normal else set()
    if len(deviations) == 1 and (found := re.fullmatch(r"\d+\.?\d*(e-?\d+)?", deviations.pop())):
        return float(found[0])
    notes.append("the model does not state one deviation of normal action noise; the learner has edgerl's default")
    return None


def _options_of_adam(
    model: Model, optimiser: _Optimiser, learning_rate: float | None, notes: list[str]
) -> dict[str, Any]:
    """Raises UnsupportedModelError, ConfigError."""
    said = model.keyword("optimizer_class")
    name = "Adam" if said is None else str(said).rstrip("'>").rpartition(".")[2]
    if name not in OPTIMISERS:
        raise UnsupportedModelError(
            f"{model.path} was trained with {quoted(said, 60)}; a learner has {' or '.join(OPTIMISERS)}"
        )
    group = optimiser.group
    options = {
        "optimiser": OPTIMISERS[name],
        "learning_rate": learning_rate or _learning_rate(model, group.get("lr"), notes),
    }
    if not group:
        notes.append("the model has no state of its optimisers; Adam begins anew")
        return options
    betas = group.get("betas")
    if not isinstance(betas, Sequence) or len(betas) != 2:
        raise FileFormatError(f"{model.path} is not valid: the betas of its optimiser are {quoted(betas)}")
    if (betas[1], group.get("eps"), group.get("amsgrad")) != (SECOND_DECAY, EPSILON, False):
        notes.append(
            f"the model's Adam has β₂ {quoted(betas[1])}, ε {quoted(group.get('eps'))} and amsgrad "
            f"{quoted(group.get('amsgrad'))}; the learner's has {SECOND_DECAY}, {EPSILON} and none"
        )
    return options | {"beta1": betas[0], "weight_decay": group.get("weight_decay")}


def _learning_rate(model: Model, last: Any, notes: list[str]) -> Any:
    """The model's own, or else the last one of its schedule. Raises ConfigError where that is none to go on with."""
    said = model.about.get("learning_rate")
    if _is_number(said):
        return said
    if not _is_number(last) or not 0 < last <= 1:
        raise ConfigError(
            f"{model.path} has its learning rate as a schedule, which is pickled, and the last one is {quoted(last)}; "
            "state one to go on with: `learning_rate` 3e-4"
        )
    notes.append(
        f"the model has its learning rate as a schedule, which is pickled; the learner keeps the last one, {last:g}: "
        "--learning-rate states another"
    )
    return last


# ---------------------------------------------------------------------------------------------------- temperature


def _temperature(model: Model, rewards: float, notes: list[str]) -> Array:
    """The logarithm of SAC's temperature, and its moments, as edgerl's checkpoints have them.

    Entropy is paid in the unit of rewards. Raises FileFormatError.
    """
    saved = loaded(model.archive, "pytorch_variables.pth", model.path)
    variables = state_dict.tensors(saved, model.path, "pytorch_variables.pth")
    if "log_ent_coef" not in variables:
        fixed = state_dict.row(variables, "ent_coef_tensor", 1, model.path)
        if not fixed > 0:
            raise FileFormatError(f"{model.path} has the entropy coefficient {fixed.item():g}; expected more than 0")
        notes.append(f"the model has the fixed entropy coefficient {fixed.item():g}; the learner adapts it from there")
        return np.array([math.log(rewards * fixed.item()), 0, 0])
    logarithm = state_dict.row(variables, "log_ent_coef", 1, model.path).item()
    moments = _read_optimiser(model, "ent_coef_optimizer.pth", {"log_ent_coef": variables["log_ent_coef"]})
    first, second = (
        state_dict.row(part, "log_ent_coef", 1, model.path).item() for part in (moments.first, moments.second)
    )
    return np.array([logarithm + math.log(rewards), first, second])


# ---------------------------------------------------------------------------------------------------- statistics


def _notes_on_normaliser(normalizer: str | Path | None, policy: CompactPolicy, rewards: float) -> Iterator[str]:
    if normalizer is None:
        yield WITHOUT_STATISTICS
    if policy.observation_clip is not None:
        yield f"the model clipped normalised observations to ±{policy.observation_clip:g}; the learner does not"
    if rewards != 1:
        yield (
            f"the model's rewards were divided by {rewards:.4g}; the learner's critics are scaled to rewards as the "
            "environment gives them"
        )
