"""Presets, ranges, and configurations that contradict themselves."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest

from edgerl.errors import ConfigError
from edgerl.training.config import (
    Config,
    EvolutionConfig,
    NetworkConfig,
    ScheduleConfig,
    TD3Config,
    from_json,
    make_config,
    option_names,
    plan_networks,
    to_json,
)


def test_the_default_is_the_papers_halfcheetah() -> None:
    config = make_config()
    assert config.environment == "HalfCheetah-v5"
    assert config.network == NetworkConfig((256, 256), "ds-td3", 1, None, 7.0, 64.0)
    assert (config.evolution.drop_fraction, config.evolution.evolution_interval) == (0.05, 1000)
    td3 = config.td3
    assert (td3.discount, td3.soft_update, td3.learning_rate, td3.weight_decay) == (0.99, 0.005, 1e-3, 2e-4)
    assert (td3.batch_size, td3.policy_delay) == (100, 2)
    assert (td3.target_noise, td3.target_noise_clip, td3.exploration_noise) == (0.2, 0.5, 0.1)
    schedule = config.schedule
    assert (schedule.steps, schedule.start_steps, schedule.replay_capacity) == (1_000_000, 25_000, 1_000_000)
    assert (schedule.evaluation_interval, schedule.evaluation_episodes) == (5000, 10)
    assert not config.normalize


@pytest.mark.parametrize(
    ("task", "lambda1"), [("Hopper-v5", 7), ("Walker2d-v5", 7), ("HalfCheetah", 7), ("Ant-v5", 40), ("Humanoid-v5", 61)]
)
def test_the_papers_lambdas_follow_the_task(task: str, lambda1: float) -> None:
    network = make_config(environment=task).network
    assert (network.lambda1, network.lambda2) == (lambda1, 64)


def test_a_task_that_the_paper_does_not_have_is_half_sparse() -> None:
    assert make_config(environment="Pendulum-v1").network.sparsity == 0.5
    assert make_config(hidden=(64, 64)).network.sparsity == 0.5
    assert make_config(environment="Ant-v4").network.sparsity == 0.5, "it has 27 observations: λ1 = 40 does not fit"


def test_a_list_of_widths_is_as_good_as_a_tuple() -> None:
    assert make_config(hidden=[256, 256]) == make_config()


def test_one_lambda_alone_leaves_the_other_to_the_paper() -> None:
    first, second = make_config(lambda1=5.0).network, make_config(lambda2=32.0).network
    assert (first.lambda1, first.lambda2) == (5.0, 64.0)
    assert (second.lambda1, second.lambda2) == (7.0, 32.0)


def test_quick_is_at_most_thirty_thousand_steps_of_the_same_algorithm() -> None:
    quick, paper = make_config("quick"), make_config()
    assert quick.schedule.steps <= 30_000
    assert (quick.network, quick.evolution, quick.td3) == (paper.network, paper.evolution, paper.td3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sparsity": 1.0}, r"sparsity is 1\.0; expected a number in \[0, 1\)"),
        ({"sparsity": -0.1}, r"sparsity is -0\.1; expected a number in \[0, 1\)"),
        ({"sparsity": float("nan")}, "sparsity is nan; expected a number"),
        ({"steps": 0}, r"steps is 0; expected a whole number in \[1, 1000000000000\]"),
        ({"steps": -5}, "steps is -5; expected a whole number"),
        ({"steps": 2.5}, r"steps is 2\.5; expected a whole number"),
        ({"seed": -1}, "seed is -1; expected a whole number"),
        ({"seed": 2**64}, "seed is 18446744073709551616; expected a whole number"),
        ({"steps": 10**400}, "steps is 1000"),
        ({"hidden": (0,)}, "hidden is 0; expected a whole number"),
        ({"hidden": ()}, "hidden has 0 layers; expected 1 to 8"),
        ({"hidden": 256}, "hidden is 256; expected whole numbers, one per layer"),
        ({"block": 2}, r"block is 2; expected 1 \(the paper's\) or 4"),
        ({"method": "sac"}, r"method is 'sac'; expected td3, static-td3, ds-td3"),
        ({"growth": "magic"}, "growth is 'magic'; expected random, gradient"),
        ({"policy": "worst"}, "policy is 'worst'; expected last, best"),
        ({"device": "tpu"}, "device is 'tpu'; expected cpu, cuda"),
        ({"normalize": "yes"}, "normalize is 'yes'; expected bool"),
        ({"method": "td3", "sparsity": 0.5}, "method td3 is dense and takes no sparsity"),
        ({"method": "td3", "block": 4}, "method td3 is dense and has no blocks"),
        ({"sparsity": 0.5, "lambda1": 7.0, "lambda2": 64.0}, "sparsity and lambda1/lambda2 were both given"),
        ({"lambda1": 7.0}, "only one of lambda1 and lambda2 was given"),
        ({"replay_capacity": 3, "n_step": 3}, "replay_capacity is 3; expected more than n_step"),
        ({"sede": 3}, r"option 'sede' is unknown; did you mean seed\?"),
    ],
)
def test_what_is_out_of_range_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_config(environment="Pendulum-v1", **options)


def test_an_environment_is_named_by_a_text() -> None:
    with pytest.raises(ConfigError, match="environment is 5; expected str"):
        make_config(environment=5)


def test_an_unknown_preset_is_refused() -> None:
    with pytest.raises(ConfigError, match="preset 'slow' is unknown; expected paper or quick"):
        make_config("slow")  # type: ignore[arg-type]


def test_every_number_has_a_unit_a_range_and_a_source() -> None:
    for section in (Config, NetworkConfig, EvolutionConfig, TD3Config, ScheduleConfig):
        for known in dataclasses.fields(section):
            if "int" in str(known.type) or "float" in str(known.type):
                assert known.metadata.keys() == {"unit", "range", "source"}, known.name


def test_a_configuration_goes_through_json_unchanged() -> None:
    config = make_config(environment="Ant-v5", seed=2**64 - 1, hidden=(300, 20), sparsity=0.75, normalize=True)
    assert from_json(json.loads(to_json(config)), "here") == config


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data.pop("td3"), "here: td3 is missing"),
        (lambda data: data.update(extra=1), r"here: config has not the keys of this version .*extra"),
        (lambda data: data["td3"].update(discount=2.0), r"here: discount is 2\.0; expected a number in \[0, 1\]"),
        (lambda data: data["schedule"].update(steps="many"), "here: steps is many; expected a whole number"),
        (lambda data: data.update(schedule=[]), "here: schedule has not the keys"),
        (lambda data: data["network"].update(lambda1=None, lambda2=None), "here: neither sparsity nor lambda1"),
        (lambda data: data.update(environment=3), "here: environment is 3; expected str"),
    ],
)
def test_a_hostile_configuration_is_refused(change: Any, message: str) -> None:
    data = json.loads(to_json(make_config()))
    change(data)
    with pytest.raises(ConfigError, match=message):
        from_json(data, "here")


def test_a_network_that_no_file_could_hold_is_refused_at_the_start() -> None:
    for hidden in ((60_000, 60_000), (4000,) * 6):
        with pytest.raises(ConfigError, match=r"a network 17-.* is too large; expected layers of at most 65536 units"):
            plan_networks(make_config(hidden=hidden).network, 17, 6)


def test_option_names_are_distinct() -> None:
    assert len(option_names()) == len(set(option_names()))


def test_plans_follow_the_method() -> None:
    actor, critic = plan_networks(make_config(method="td3").network, 17, 6)
    assert sum(p.connections for p in actor) == 71424
    assert sum(p.connections for p in critic) == 71680
