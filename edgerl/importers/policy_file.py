"""`edgerl.import_policy`: a policy of another program, as a policy.safetensors that has been compared with it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from edgerl import __version__
from edgerl.edge.acting.actions import check_order
from edgerl.environments.make import make
from edgerl.errors import CheckFailed, ConfigError, FileFormatError, UnsupportedModelError
from edgerl.files.atomic import read_bytes, refuse_existing
from edgerl.files.kind import BRAX_FOLDER, BRAX_PICKLE, ONNX, OURS, RL_TOOLS, STABLE_BASELINES3, TAR, kind_of
from edgerl.importers import (
    brax,
    cleanrl,
    deploy_yaml,
    normalizers,
    onnx,
    rl_tools,
    rsl_rl,
    skrl,
    stable_baselines3,
    state_dict,
    torchscript,
)
from edgerl.importers.options import Stated
from edgerl.importers.signal import Signal, Unfit
from edgerl.importers.state_dict import Network
from edgerl.policy import format as policy_format
from edgerl.policy.activation import ActivationName
from edgerl.policy.compact import Array, CompactPolicy
from edgerl.policy.contract import Contract, checked
from edgerl.policy.loss import ActionDifference, action_difference, action_span, resolution, sampled_observations

TOLERANCE = 1e-5
"""Largest difference to the original, of the action range: float32 rounds either."""

PYTORCH = "a PyTorch file"


@dataclass(frozen=True)
class ImportReport:
    """What was written, and what it was compared with."""

    path: Path
    source: Path
    kind: str  # such as: stable-baselines3 PPO or A2C
    policy: CompactPolicy
    difference: ActionDifference | None  # to the original's actions; None where they were not compared
    notes: tuple[str, ...]  # what a person should know

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        policy = self.policy
        return {
            "policy": str(self.path),
            "source": str(self.source),
            "kind": self.kind,
            "architecture": policy.architecture,
            "activations": [layer.activation for layer in policy.layers[:-1]],
            "norms": [layer.norm is not None for layer in policy.layers[:-1]],
            "head": policy.head,
            "normalises": policy.observation_mean is not None,
            "observation_clip": policy.observation_clip,
            "action_bounds": [policy.action_low.tolist(), policy.action_high.tolist()] if policy.is_bounded else None,
            "contract": policy.contract.as_dict(),
            "action_difference": None if self.difference is None else asdict(self.difference),
            "notes": list(self.notes),
        }


READERS: Mapping[str, Callable[[bytes, Path, Stated], tuple[Network, str]]] = {
    BRAX_FOLDER: brax.read,
    BRAX_PICKLE: brax.read_pickle,
    RL_TOOLS: rl_tools.read,
}
"""Of kinds that one reader takes as they are."""


@dataclass(frozen=True)
class Original:
    """A policy as its file has it."""

    kind: str
    policy: CompactPolicy  # without an example, and what it says about itself
    act: Callable[[Array], Array]  # the same by onnxruntime or PyTorch: observations [count, n] → actions [count, m]
    notes: tuple[str, ...] = ()


@np.errstate(over="ignore", invalid="ignore")  # what becomes infinite is refused
def import_policy(
    file: str | Path,
    path: str | Path = "policy.safetensors",
    *,
    activation: ActivationName | None = None,
    normalizer: str | Path | None = None,
    env: str | None = None,
    contract: str | Path | None = None,
    external_data: bool = False,
    check: bool = True,
    force: bool = False,
) -> ImportReport:
    """Write the policy that another program trained to `path`, once its actions are those of the original.

    file: an ONNX model; a TorchScript file; a model of stable-baselines3 (PPO, A2C, SAC, TQC, TD3, DDPG); a
    checkpoint of rsl_rl, skrl (PPO) or RLtools (HDF5); the folder of a checkpoint of Brax or MuJoCo Playground, or its
    pickled parameters; a model of CleanRL. activation: of the hidden layers, where the file does not say it.
    normalizer: a file with the statistics of observations, where they are not in the policy's: VecNormalize of
    stable-baselines3, an .npz with `mean` and `var`, or, for parameters of Brax, these themselves; "none" where there
    are none. What contradicts the file is refused. env: the environment that it is for, which the file then names.
    contract: deploy.yaml of unitree_rl_lab, whose observation terms, joints, gains and rate the file then states.
    external_data: an ONNX model may have its weights in files beside it. check: compare with the original, on 1000
    observations.

    Raises FileFormatError, UnsupportedModelError, ConfigError, OutputError, MissingExtraError; CheckFailed, writing
    nothing, where an action differs by more than 1e-5 of its range.
    """
    source, goal = Path(file), Path(path)
    stated = Stated(activation, normalizer, external_data)
    refuse_existing(goal, force=force)
    data = content_of(source)
    original = read(data, source, stated)
    about = provenance(original.kind, source, data)
    policy = replace(original.policy, metadata=about | ({} if env is None else {"environment": env}))
    if contract is not None:
        policy = replace(policy, contract=_with_stated(policy.contract, Path(contract)))
    policy = _storable(policy.with_example(sampled_observations(policy)[0]), source)
    if env is not None:
        _check_environment(policy, env)
    difference = _compared(policy, original, source) if check else None
    policy_format.save(policy, goal, force=force)
    return ImportReport(goal, source, original.kind, policy, difference, original.notes)


def content_of(source: Path) -> bytes:
    """The bytes of a file, or of a checkpoint's folder as an archive. Raises FileFormatError, UnsupportedModelError."""
    return brax.archived(source) if source.is_dir() else read_bytes(source, state_dict.MAXIMUM_BYTES)


def provenance(kind: str, source: Path, data: bytes) -> dict[str, Any]:
    """What a file that was made of `data` says about itself."""
    return {
        "edgerl": __version__,
        "imported_from": kind,
        "source": source.name,
        "source_sha256": sha256(data).hexdigest(),
    }


def _with_stated(contract: Contract, path: Path) -> Contract:
    """Raises FileFormatError, also where the file contradicts what the policy's own file says of other things."""
    try:
        return checked(deploy_yaml.merged(deploy_yaml.read(path), contract))
    except ValueError as error:
        raise FileFormatError(f"{path} does not fit what the policy's file says: together they have {error}") from error


def _storable(policy: CompactPolicy, source: Path) -> CompactPolicy:
    """The policy. Raises UnsupportedModelError where its file would not be read again."""
    try:
        return policy_format.from_bytes(policy_format.to_bytes(policy), source)
    except FileFormatError as error:
        what = str(error).removeprefix(f"{source} is not valid: ").removesuffix("; make the file again")
        raise UnsupportedModelError(f"{source} cannot become a policy: {what}") from error


def _check_environment(policy: CompactPolicy, env: str) -> None:
    """Raises UnsupportedModelError where it has other observations or actions, ConfigError where it has the contract's
    joints in another order, EnvironmentError, MissingExtraError."""
    with closing(make(env)) as environment:
        has, needs = (policy.n_observations, policy.n_actions), (environment.n_observations, environment.n_actions)
        n_step = sum(policy.contract.observation_terms_size)
        if has != needs and (n_step, policy.n_actions) != needs:
            steps = f" (or steps of {n_step})" if n_step else ""
            raise UnsupportedModelError(
                f"the policy maps {has[0]} observations{steps} to {has[1]} actions; {env} has {needs[0]} and {needs[1]}"
            )
        check_order(policy.contract, environment)


def read(data: bytes, path: Path, stated: Stated) -> Original:
    """The policy in a file of any kind that is known. Raises what `import_policy` does."""
    kind = kind_of(data) or "a file of an unknown kind"
    _check_stated(kind, data, path, stated)
    if kind == ONNX:
        model = onnx.read(data, path, stated)
        return Original("ONNX", replace(_policy(model.action, path), contract=model.contract), model)
    if kind.startswith(STABLE_BASELINES3):
        network, name = stable_baselines3.read(data, path, stated)
        notes = stable_baselines3.notes(data, path, stated)
        return Original(name, _policy(network.signal, path), network, notes)
    if kind.startswith(PYTORCH) and torchscript.is_torchscript(data):
        module = torchscript.read(data, path, stated)
        return Original("TorchScript", _policy(module.action, path), module)
    if kind.startswith(PYTORCH):
        return _pytorch(state_dict.load(data, path), path, stated)
    if kind in READERS:
        network, name = READERS[kind](data, path, stated)
        return Original(name, _policy(network.signal, path), network)
    if kind in OURS:
        raise UnsupportedModelError(f"{path} is {kind} already; every command takes it as it is")
    instead = "; RLtools writes a checkpoint.h5, too, where it is built with HDF5" if kind == TAR else ""
    raise FileFormatError(
        f"{path} is {kind}; expected an ONNX model, a model of stable-baselines3 or CleanRL, or a checkpoint of "
        f"rsl_rl, skrl, Brax or RLtools{instead}"
    )


def _check_stated(kind: str, data: bytes, path: Path, stated: Stated) -> None:
    """Raises ConfigError where an option means nothing to the file, and so would be passed over."""
    is_graph = kind == ONNX or (kind.startswith(PYTORCH) and torchscript.is_torchscript(data))
    if is_graph and (stated.activation is not None or stated.normalizer not in (None, normalizers.NONE)):
        option = "activation" if stated.activation is not None else "normalizer"
        raise ConfigError(f"{path} is a whole computation, which has its own `{option}`; leave that out")
    if stated.external_data and kind != ONNX:
        raise ConfigError(f"{path} is {kind}; `external_data` is for ONNX models")


def _pytorch(content: Any, path: Path, stated: Stated) -> Original:
    """Raises ConfigError where the file does not say what must be known."""
    if rsl_rl.is_checkpoint(content):
        network, name = rsl_rl.read(content, path, stated)
        return Original(name, _policy(network.signal, path), network)
    if skrl.is_agent(content):
        network, name = skrl.read(content, path, stated)
        return Original(name, _policy(network.signal, path), network, skrl.NOTES)
    actor = cleanrl.actor_in(content)
    if actor is None:
        raise UnsupportedModelError(
            f"{path} holds no policy in a layout that is known; expected a checkpoint of rsl_rl, an agent of "
            "skrl, or a model of CleanRL"
        )
    network, name = cleanrl.read(actor, path, stated)
    return Original(name, _policy(network.signal, path), network)


def _policy(signal: Signal, source: Path) -> CompactPolicy:
    try:
        return signal.policy()
    except Unfit as error:
        raise UnsupportedModelError(f"{source} cannot become a policy: it {error}") from error


def _compared(policy: CompactPolicy, original: Original, source: Path) -> ActionDifference:
    """Raises CheckFailed."""
    observations = sampled_observations(policy)
    expected, actions = original.act(observations), policy(observations, np.float64)
    if expected.shape != actions.shape:
        raise CheckFailed(
            f"{source} gives {expected.shape[1:]} actions, and the policy that was read {actions.shape[1:]}"
        )
    span = action_span(policy)
    shares = np.abs(expected - actions) / span
    allowed = np.maximum(TOLERANCE, resolution(policy, observations))
    if not np.all(shares <= allowed):
        worst = float(np.nanmax(shares)) if np.isfinite(shares).any() else float("nan")
        raise CheckFailed(
            f"{source} was read wrongly, or is not what it seems: actions differ from the original's by {worst:.2g} of "
            "their range; nothing was written"
        )
    return action_difference(expected, actions, span, "sampled")
