"""`edgerl cost`: the paper's figures, exactly, and equal to what a run has."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import edgerl as library
from edgerl.training.logs import read_metrics

Run = Callable[..., tuple[int, str, str]]


def _cost(edgerl: Run, *arguments: object) -> dict[str, Any]:
    code, out, _ = edgerl("cost", *arguments, "--json")
    assert code == 0
    report: dict[str, Any] = json.loads(out)
    return report


def test_halfcheetah_at_the_papers_setting(edgerl: Run) -> None:
    report = _cost(edgerl)
    assert report["connections_dense"] == 214784
    assert report["connections"] == 106169
    # 2 FLOPs × 3 passes × batch 100 × 1e6 steps × (two critics + half an actor)
    assert report["training_flops_paper_dense"] == 6 * 10**8 * (143360 + 71424 // 2)
    assert f"{report['training_flops_paper_dense']:.2e}" == "1.07e+14"
    assert f"{report['training_flops_paper'] / report['training_flops_paper_dense']:.2f}" == "0.49"
    assert (report["inference_flops_dense"], report["inference_flops"]) == (142848, 72430)
    assert report["training_flops_full"] > report["training_flops_paper"]


@pytest.mark.parametrize(
    ("task", "dense", "sparse"),
    [("Hopper-v5", 207872, 105233), ("Ant-v5", 283904, 144824), ("Humanoid-v5", 477440, 215774)],
)
def test_connections_of_the_other_tasks(edgerl: Run, task: str, dense: int, sparse: int) -> None:
    report = _cost(edgerl, "--env", task)
    assert (report["connections_dense"], report["connections"]) == (dense, sparse)


@pytest.mark.parametrize("block", [1, 4])
@pytest.mark.parametrize(
    "options",
    [
        {"sparsity": 0.3},
        {"sparsity": 0.8},
        {"sparsity": 0.8, "distribution": "uniform"},
        {"sparsity": 0.9, "output_layer": "sparse", "growth": "gradient"},
        {"actor_sparsity": 0.85, "critic_sparsity": 0.2, "distribution": "uniform", "output_layer": "sparse"},
    ],
    ids=lambda options: "-".join(map(str, options.values())),
)
def test_cost_is_what_a_run_really_has(edgerl: Run, block: int, options: dict[str, Any]) -> None:
    words = [word for name, value in options.items() for word in (f"--{name.replace('_', '-')}", value)]
    report = _cost(edgerl, "--env", "robots:robot", "--hidden", "30,21", "--block", block, *words)
    schedule = {"steps": 60, "start_steps": 20, "evaluation_interval": 20, "evolution_interval": 7}
    network = {"hidden": (30, 21), "block": block, **options}
    result = library.train("robots:robot", replay_capacity=50, batch_size=8, **schedule, **network)
    for row in read_metrics(result.folder):
        assert report["connections"] == sum(value for name, value in row.items() if name.startswith("connections."))
        actor = sum(value for name, value in row.items() if name.startswith("connections.actor"))
        assert report["inference_flops"] == 2 * actor
    assert result.policy.stat().st_size <= report["bytes"], "dead units and zeros are not stored"


def test_connections_of_every_layer_follow_the_options(edgerl: Run) -> None:
    options = ("--actor-sparsity", 0.9, "--critic-sparsity", 0.75, "--distribution", "uniform")
    counts = {
        output_layer: [
            [layer["connections"] for layer in network]
            for network in _cost(edgerl, *options, "--output-layer", output_layer)["layers"].values()
        ]
        for output_layer in ("dense", "sparse")
    }
    # Actor: 7142.4 of 71424 weights, or the 5606.4 beside 1536 in an output layer; critic: 17920, or 17664 beside 256.
    assert counts["sparse"] == [[435, 6554, 154], [1472, 16384, 64]]
    assert counts["dense"] == [[349, 5257, 1536], [1456, 16208, 256]]


def test_gradient_growth_costs_the_gradients_of_what_is_absent(edgerl: Run) -> None:
    random, gradient = (_cost(edgerl, "--growth", growth) for growth in ("random", "gradient"))
    absent, evolutions = 214784 - 106169, 974  # every 1000 of 975 000 updates, the last one excepted
    assert gradient["training_flops_full"] - random["training_flops_full"] == evolutions * (2 * 100 + 4) * absent
    assert gradient["training_flops_paper"] == random["training_flops_paper"]


def test_bytes_are_those_of_the_file_that_a_run_writes(edgerl: Run) -> None:
    report = _cost(edgerl, "--env", "HalfCheetah-v5")
    result = library.train("HalfCheetah-v5", steps=5, start_steps=4, replay_capacity=50, evaluation_episodes=1)
    assert report["bytes"] == result.policy.stat().st_size


@pytest.mark.parametrize("algorithm", ["sac", "crossq"])
@pytest.mark.parametrize("block", [1, 4])
def test_a_stochastic_policy_has_no_deviations_in_its_file(edgerl: Run, block: int, algorithm: str) -> None:
    options = ("--hidden", "30,21", "--block", block, "--algorithm", algorithm)
    report = _cost(edgerl, "--env", "HalfCheetah-v5", *options)
    sizes = {"hidden": (30, 21), "block": block, "replay_capacity": 50, "batch_size": 8, "evaluation_episodes": 1}
    result = library.train("HalfCheetah-v5", algorithm=algorithm, steps=5, start_steps=4, **sizes)
    assert report["bytes"] == result.policy.stat().st_size
    first, second, _ = (layer["connections"] for layer in report["layers"]["actor"])
    assert report["inference_flops"] == 2 * (first + second + 21 * 6)
    assert report["inference_flops_dense"] == 2 * (17 * 30 + 30 * 21 + 21 * 6)


@pytest.mark.parametrize(("algorithm", "name"), [("sac", "SAC"), ("crossq", "CrossQ")])
def test_cost_of_another_algorithm_for_people(edgerl: Run, algorithm: str, name: str) -> None:
    code, out, _ = edgerl("cost", "--algorithm", algorithm)
    assert code == 0
    assert f"× of dense {name}'s " in out


def test_cost_for_people(edgerl: Run) -> None:
    code, out, _ = edgerl("cost")
    assert code == 0
    assert "connections, actor and both critics: 106169 of 214784" in out
    assert "0.49× of dense TD3's 1.07e+14" in out
    assert "inference FLOPs: 72430 of 142848" in out


def test_cost_refuses_what_training_would(edgerl: Run) -> None:
    code, out, err = edgerl("cost", "--sparsity", "0.99")
    assert (code, out) == (2, "")
    assert "expected at most 0.9784" in err
    assert list(Path().iterdir()) == []
