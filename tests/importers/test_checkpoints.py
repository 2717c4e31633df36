"""Checkpoints of rsl_rl and models of CleanRL, in the layouts that their versions write."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import edgerl
from edgerl.errors import ConfigError, EdgerlError, UnsupportedModelError
from edgerl.policy.cell import CELLS, CellName

from .files import Actor, StatefulActor, actions, mutated, scripted

OBSERVATIONS = np.random.default_rng(0).normal(0, 2, (100, 9)).astype(np.float32)


def _mlp(outputs: int = 4) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(9, 16), nn.ELU(), nn.Linear(16, 12), nn.ELU(), nn.Linear(12, outputs))


def _named(module: nn.Module, prefix: str) -> dict[str, Any]:
    return {f"{prefix}{name}": value for name, value in module.state_dict().items()}


def _normaliser(prefix: str = "") -> dict[str, Any]:
    rng = torch.Generator().manual_seed(1)
    deviation = torch.rand(1, 9, generator=rng)
    mean = torch.randn(1, 9, generator=rng)
    parts = {"_mean": mean, "_var": deviation**2, "_std": deviation, "count": torch.tensor(99)}
    return {prefix + name: value for name, value in parts.items()}


def _seen(normaliser: dict[str, Any]) -> torch.Tensor:
    """The observations as EmpiricalNormalization gives them on: 0.01 is added to the deviation."""
    found = {name.rpartition(".")[2]: value for name, value in normaliser.items()}
    return (torch.from_numpy(OBSERVATIONS) - found["_mean"]) / (found["_std"] + 1e-2)


ACTOR, CRITIC = _mlp(), _named(_mlp(1), "critic.")
COMMON = {"optimizer_state_dict": {"state": {}, "param_groups": [{"lr": 1e-3}]}, "iter": 1500, "infos": None}
LAYOUTS: dict[str, tuple[dict[str, Any], str]] = {
    "1.0, legged_gym": (
        {"model_state_dict": {**_named(ACTOR, "actor."), **CRITIC, "std": torch.ones(4)}, **COMMON},
        "",
    ),
    "2.1": (
        {
            "model_state_dict": {**_named(ACTOR, "actor."), **CRITIC, "log_std": torch.ones(4)},
            "obs_norm_state_dict": _normaliser(),
            "critic_obs_norm_state_dict": _normaliser(),
            **COMMON,
        },
        "obs_norm_state_dict",
    ),
    "2.3, distilled": (
        {
            "model_state_dict": {**_named(ACTOR, "student."), **_named(_mlp(), "teacher."), "std": torch.ones(4)},
            "obs_norm_state_dict": _normaliser(),
            **COMMON,
        },
        "obs_norm_state_dict",
    ),
    "3.3": (
        {
            "model_state_dict": {
                **_named(ACTOR, "actor."),
                **CRITIC,
                **_normaliser("actor_obs_normalizer."),
                **_normaliser("critic_obs_normalizer."),
                "std": torch.ones(4),
            },
            **COMMON,
        },
        "model_state_dict",
    ),
    "5.4": (
        {
            "actor_state_dict": {
                **_named(ACTOR, "mlp."),
                **_normaliser("obs_normalizer."),
                "distribution.std_param": torch.ones(4),
            },
            "critic_state_dict": _named(_mlp(1), "mlp."),
            **COMMON,
        },
        "actor_state_dict",
    ),
    "5.4, distilled": (
        {
            "student_state_dict": {**_named(ACTOR, "mlp."), "distribution.log_std_param": torch.ones(4)},
            "teacher_state_dict": _named(_mlp(), "mlp."),
            **COMMON,
        },
        "",
    ),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_checkpoint_of_rsl_rl(layout: str, tmp_path: Path) -> None:
    content, normaliser = LAYOUTS[layout]
    torch.save(content, tmp_path / "model_1500.pt")
    with pytest.raises(ConfigError, match=r"does not say its activation; name it: `activation` elu, rsl_rl's default"):
        edgerl.import_policy(tmp_path / "model_1500.pt", tmp_path / "policy.safetensors")
    report = edgerl.import_policy(tmp_path / "model_1500.pt", tmp_path / "policy.safetensors", activation="elu")
    kept = {name: value for name, value in content.get(normaliser, {}).items() if name.rpartition(".")[2][0] == "_"}
    actor_only = {name: value for name, value in kept.items() if not name.startswith("critic")}
    x = _seen(actor_only) if normaliser else torch.from_numpy(OBSERVATIONS)
    with torch.no_grad():
        expected = ACTOR(x).numpy()
    np.testing.assert_allclose(edgerl.load(tmp_path / "policy.safetensors")(OBSERVATIONS), expected, atol=5e-6)
    assert report.kind.startswith("rsl_rl ")
    assert not report.policy.is_bounded


def test_deviations_that_the_network_makes_are_left_out(tmp_path: Path) -> None:
    actor = _mlp(8)
    torch.save({"actor_state_dict": _named(actor, "mlp."), "critic_state_dict": {}, **COMMON}, tmp_path / "model.pt")
    policy = edgerl.import_policy(tmp_path / "model.pt", tmp_path / "p.safetensors", activation="elu").policy
    with torch.no_grad():
        expected = actor(torch.from_numpy(OBSERVATIONS))[:, :4].numpy()
    np.testing.assert_allclose(policy(OBSERVATIONS), expected, atol=5e-6)


RECURRENT: dict[str, tuple[str, str, str, str]] = {  # part, prefix of the layers, of the cells, of the normaliser
    "2.1": ("model_state_dict", "actor.", "memory_a.rnn.", ""),
    "2.3, distilled": ("model_state_dict", "student.", "memory_s.rnn.", ""),
    "3.3": ("model_state_dict", "actor.", "memory_a.rnn.", "actor_obs_normalizer."),
    "5.5": ("actor_state_dict", "mlp.", "rnn.rnn.", "obs_normalizer."),
}


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("kind", CELLS)
@pytest.mark.parametrize("layout", RECURRENT)
def test_a_recurrent_checkpoint_of_rsl_rl(layout: str, kind: CellName, layers: int, tmp_path: Path) -> None:
    part, prefix, cells, normaliser = RECURRENT[layout]
    torch.manual_seed(0)
    rnn = getattr(nn, kind.upper())(9, 20, layers)
    actor = nn.Sequential(nn.Linear(20, 16), nn.ELU(), nn.Linear(16, 4))
    state = {
        **_named(actor, prefix),
        **_named(rnn, cells),
        "std": torch.ones(4),
        "distribution.std_param": torch.ones(4),
    }
    content = {part: {**state, **(_normaliser(normaliser) if normaliser else {})}, **COMMON}
    if not normaliser:
        content["obs_norm_state_dict"] = _normaliser()
    content |= {"critic_state_dict": _named(getattr(nn, kind.upper())(9, 8), "rnn.rnn.")}
    torch.save(content, tmp_path / "model.pt")
    report = edgerl.import_policy(tmp_path / "model.pt", tmp_path / "policy.safetensors", activation="elu")
    with torch.no_grad():
        expected = actor(rnn(_seen(_normaliser()))[0]).numpy()
    np.testing.assert_allclose(edgerl.load(tmp_path / "policy.safetensors")(OBSERVATIONS), expected, atol=5e-6)
    assert report.kind.endswith(", recurrent")
    assert report.policy.architecture == f"9-{'-'.join([f'{kind}20'] * layers)}-16-4"
    assert report.difference is not None
    assert report.difference.observations > 1000


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (
            {"weight_hh_l0": torch.zeros(40, 20)},
            "has 40 rows for 20 units; expected 3 .*GRU.* or 4 .*LSTM",
        ),
        ({"weight_ih_l0": torch.zeros(60, 9)}, r"weight_ih_l0 has the shape \[60, 9\]; expected \[80, 9\]"),
        ({"bias_hh_l0": torch.zeros(20)}, r"bias_hh_l0 has the shape \[20\]; expected \[80\]"),
        ({"bias_ih_l0": torch.full((80,), np.nan)}, "bias_ih_l0 holds a number that is not finite"),
        ({"weight_ih_l0_reverse": torch.zeros(80, 9)}, "expected cells of one direction, not projected"),
        ({"weight_hr_l0": torch.zeros(20, 20)}, "expected cells of one direction, not projected"),
        ({"weight_ih_l1": torch.zeros(80, 20)}, "'memory_a.rnn.weight_hh_l1' is missing"),
    ],
)
def test_cells_that_are_none_are_refused(change: dict[str, Any], problem: str, tmp_path: Path) -> None:
    state = _named(nn.LSTM(9, 20), "memory_a.rnn.") | {f"memory_a.rnn.{name}": value for name, value in change.items()}
    state |= _named(nn.Linear(20, 4), "actor.0.")
    torch.save({"model_state_dict": state, **COMMON}, tmp_path / "model.pt")
    with pytest.raises(EdgerlError, match=problem):
        edgerl.import_policy(tmp_path / "model.pt", tmp_path / "p.safetensors", activation="elu")


class CleanActor(nn.Module):
    """Of CleanRL's td3_continuous_action.py and sac_continuous_action.py."""

    def __init__(self, last: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.fc1, self.fc2 = nn.Linear(9, 32), nn.Linear(32, 32)
        setattr(self, last, nn.Linear(32, 2))
        self.last = last
        self.register_buffer("action_scale", torch.tensor([[2.0, 0.5]]))
        self.register_buffer("action_bias", torch.tensor([[0.0, 1.0]]))
        if last == "fc_mean":
            self.fc_logstd = nn.Linear(32, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.fc2(torch.relu(self.fc1(x))))
        return torch.tanh(getattr(self, self.last)(x)) * self.action_scale + self.action_bias


@pytest.mark.parametrize(("last", "kind"), [("fc_mu", "CleanRL TD3 or DDPG"), ("fc_mean", "CleanRL SAC")])
def test_an_actor_of_cleanrl(last: str, kind: str, tmp_path: Path) -> None:
    actor, path = CleanActor(last), tmp_path / "td3.cleanrl_model"
    torch.save((actor.state_dict(), {"fc1.weight": torch.zeros(1, 1)}, {}), path)
    report = edgerl.import_policy(path, tmp_path / "p.safetensors")
    with torch.no_grad():
        expected = actor(torch.from_numpy(OBSERVATIONS)).numpy()
    np.testing.assert_allclose(report.policy(OBSERVATIONS), expected, atol=1e-6)
    assert (report.kind, report.policy.head) == (kind, "tanh")
    assert report.policy.action_low.tolist() == [-2, 0.5]


def test_a_ppo_of_cleanrl_must_say_what_its_file_does_not(tmp_path: Path) -> None:
    torch.manual_seed(0)
    mean = nn.Sequential(nn.Linear(9, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 3))
    path = tmp_path / "ppo.cleanrl_model"
    torch.save({**_named(mean, "actor_mean."), "actor_logstd": torch.zeros(1, 3), **CRITIC}, path)
    with pytest.raises(ConfigError, match=r"does not save the statistics; name them: `normalizer` statistics\.npz"):
        edgerl.import_policy(path, tmp_path / "p.safetensors")
    plain = edgerl.import_policy(path, tmp_path / "p.safetensors", normalizer="none").policy
    with torch.no_grad():
        np.testing.assert_allclose(plain(OBSERVATIONS), mean(torch.from_numpy(OBSERVATIONS)).numpy(), atol=1e-6)
    running = np.random.default_rng(0).normal(size=9), np.random.default_rng(1).random(9) + 0.1
    np.savez(tmp_path / "statistics.npz", mean=running[0], var=running[1], clip=10.0)
    policy = edgerl.import_policy(path, tmp_path / "q.safetensors", normalizer=tmp_path / "statistics.npz").policy
    seen = np.clip((OBSERVATIONS - running[0]) / np.sqrt(running[1] + 1e-8), -10, 10).astype(np.float32)
    with torch.no_grad():
        np.testing.assert_allclose(policy(OBSERVATIONS), mean(torch.from_numpy(seen)).numpy(), atol=1e-5)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ({"weights": torch.zeros(3)}, "holds no policy in a layout that is known"),
        ([1, 2], "holds no policy in a layout that is known"),
        ({"actor_state_dict": {"mlp.0.weight": torch.zeros(2, 2)}}, None),
        (
            {"actor_state_dict": {"mlp.0.weight": torch.zeros(2, 2), "mlp.2.weight": torch.zeros(2, 3)}},
            "expected .any, 2",
        ),
        ({"actor_state_dict": {"mlp.0.weight": torch.zeros(2)}}, "expected .any, any"),
        ({"actor_state_dict": {"mlp.0.weight": 3}}, "mlp.0.weight' is missing"),
        (({"fc1.weight": torch.zeros(2, 2), "fc_mu.weight": torch.zeros(1, 2)},), "'fc2.weight' is missing"),
        (
            {
                "model_state_dict": {"actor.0.weight": torch.zeros(1, 2)},
                "obs_norm_state_dict": {"_mean": torch.zeros(1, 3)},
            },
            "_mean has the shape .1, 3",
        ),
    ],
)  # fmt: skip
def test_files_without_a_policy_are_refused_in_one_line(content: Any, problem: str | None, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "model.pt")
    if problem is None:
        assert (
            edgerl.import_policy(tmp_path / "model.pt", tmp_path / "p", activation="elu").policy.architecture == "2-1"
        )
        return
    with pytest.raises(EdgerlError, match=problem) as refused:
        edgerl.import_policy(tmp_path / "model.pt", tmp_path / "p.safetensors", activation="elu")
    assert "\n" not in str(refused.value)


def test_mutated_checkpoints_are_read_or_refused(tmp_path: Path) -> None:
    torch.save(LAYOUTS["5.4"][0], tmp_path / "model.pt")
    whole, rng, path = (tmp_path / "model.pt").read_bytes(), np.random.default_rng(0), tmp_path / "mutated.pt"
    for _ in range(400):
        path.write_bytes(mutated(whole, rng))
        try:
            edgerl.import_policy(path, tmp_path / "p.safetensors", activation="elu", force=True)
        except EdgerlError:
            continue


@pytest.mark.parametrize("activation", [nn.ELU, nn.SiLU])
def test_torchscript_as_isaac_lab_exports_it(activation: type[nn.Module], tmp_path: Path) -> None:
    module = Actor(activation, clip=2.0)
    scripted(module, tmp_path / "policy.pt")
    report = edgerl.import_policy(tmp_path / "policy.pt", tmp_path / "policy.safetensors")
    assert report.kind == "TorchScript"
    np.testing.assert_allclose(report.policy(OBSERVATIONS), actions(module, OBSERVATIONS), atol=5e-6)


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("kind", CELLS)
def test_recurrent_torchscript_as_the_exporters_for_robots_write_it(
    kind: CellName, layers: int, tmp_path: Path
) -> None:
    module = StatefulActor(kind, layers)
    module.hidden_state += 1.0  # as left behind by an episode: a policy begins with zeros
    scripted(module, tmp_path / "policy.pt")
    report = edgerl.import_policy(tmp_path / "policy.pt", tmp_path / "policy.safetensors")
    assert report.policy.architecture == f"9-{'-'.join([f'{kind}20'] * layers)}-12-4"
    assert report.difference is not None
    assert (report.difference.observations, report.difference.largest < 1e-5) == (1001, True)
    np.testing.assert_allclose(report.policy(OBSERVATIONS), module.episode(OBSERVATIONS), atol=5e-6)


class Recurrent(nn.Module):
    """With an LSTM before the perceptron, whose state is forgotten."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn, self.actor = nn.LSTM(9, 4), nn.Linear(4, 2)

    def forward(self, obs: torch.Tensor) -> torch.Tensor:
        return self.actor(self.rnn(obs[None])[0][0])


class Counting(nn.Module):
    """Each action depends on how many there were before."""

    def __init__(self) -> None:
        super().__init__()
        self.actor = nn.Linear(9, 2)
        self.register_buffer("count", torch.zeros(2))

    def forward(self, obs: torch.Tensor) -> torch.Tensor:
        self.count += 1.0
        return self.actor(obs) + self.count


class Frozen(StatefulActor):
    """Its cells never change their state."""

    def forward_lstm(self, obs: torch.Tensor) -> torch.Tensor:
        x, _ = self.rnn(obs.unsqueeze(0), (self.hidden_state, self.cell_state))
        return self.actor(x.squeeze(0))


class Odd(nn.Module):
    """No chain of layers."""

    def __init__(self) -> None:
        super().__init__()
        self.actor = nn.Linear(9, 9)

    def forward(self, obs: torch.Tensor) -> torch.Tensor:
        return self.actor(obs) * obs


@pytest.mark.parametrize(
    ("module", "problem"),
    [
        (
            Recurrent(),
            "has recurrent cells that begin anew with every observation; expected their state in",
        ),
        (Counting(), "changes its buffer 'count' with an observation; expected that of the state of recurrent cells"),
        (Frozen("lstm", 1), "does not change its buffer 'cell_state' with an observation"),
        (Odd(), "cannot become a policy: the node Mul .* combines two computed values"),
        (nn.ReLU(), "holds no affine layer"),
    ],
)
def test_torchscript_that_is_no_policy(module: nn.Module, problem: str, tmp_path: Path) -> None:
    scripted(module, tmp_path / "policy.pt")
    with pytest.raises(UnsupportedModelError, match=problem):
        edgerl.import_policy(tmp_path / "policy.pt", tmp_path / "policy.safetensors")


def test_an_unknown_activation(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"`activation` is 'swish'; expected relu, identity, leaky_relu, elu, silu"):
        edgerl.import_policy(tmp_path / "x.pt", tmp_path / "p", activation="swish")  # type: ignore[arg-type]
