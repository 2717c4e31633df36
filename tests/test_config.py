"""Presets, ranges, and configurations that contradict themselves."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import pytest

from edgerl.algorithms.agent import n_step_at
from edgerl.algorithms.evolution import drop_fraction_at, drops_at_least_one
from edgerl.algorithms.topology import plan_networks
from edgerl.config import (
    OPTIONS,
    Config,
    EvolutionConfig,
    LearningConfig,
    NetworkConfig,
    ScheduleConfig,
    from_json,
    make_config,
    stated_options,
    to_json,
    to_toml,
)
from edgerl.errors import ConfigError, bare


def test_the_default_is_the_papers_halfcheetah() -> None:
    config = make_config()
    assert config.environment == "HalfCheetah-v5"
    assert config.network == NetworkConfig((256, 256), "dynamic", 1, None, 7.0, 64.0)
    assert (config.evolution.drop_fraction, config.evolution.evolution_interval) == (0.05, 1000)
    learning = config.learning
    assert (learning.discount, learning.soft_update, learning.learning_rate, learning.weight_decay) == (
        0.99,
        0.005,
        1e-3,
        2e-4,
    )
    assert (learning.batch_size, learning.policy_delay) == (100, 2)
    assert (learning.target_noise, learning.target_noise_clip, learning.exploration_noise) == (0.2, 0.5, 0.1)
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


@pytest.mark.parametrize(
    ("options", "sparsities"),
    [
        ({"distribution": "uniform"}, (0.5, None, None)),
        ({"output_layer": "sparse"}, (0.5, None, None)),
        ({"actor_sparsity": 0.9}, (0.5, 0.9, None)),
        ({"critic_sparsity": 0.3}, (0.5, None, 0.3)),
        ({"actor_sparsity": 0.9, "critic_sparsity": 0.3}, (None, 0.9, 0.3)),
        ({"actor_sparsity": 0.9, "sparsity": 0.7}, (0.7, 0.9, None)),
    ],
)
def test_what_only_a_sparsity_can_follow_leaves_the_papers_lambdas_out(
    options: dict[str, Any], sparsities: tuple[float | None, ...]
) -> None:
    network = make_config(**options).network
    assert (network.lambda1, network.lambda2) == (None, None)
    assert (network.sparsity, network.actor_sparsity, network.critic_sparsity) == sparsities


@pytest.mark.parametrize("update", [1, 10, 99, 100])
def test_a_constant_schedule_drops_the_same_share(update: int) -> None:
    assert drop_fraction_at(EvolutionConfig(drop_fraction=0.3), update, 100) == 0.3


def test_the_cosine_schedule_ends_with_the_run() -> None:
    config = EvolutionConfig(drop_fraction=0.4, drop_schedule="cosine")
    shares = [drop_fraction_at(config, update, 300) for update in (1, 100, 150, 200, 300)]
    assert shares == pytest.approx([0.4, 0.3, 0.2, 0.1, 0], abs=2e-5)
    assert shares[-1] == 0


def test_a_small_layer_drops_one_as_long_as_half_of_the_drop_fraction_is_left() -> None:
    cosine = EvolutionConfig(drop_fraction=0.05, drop_schedule="cosine")
    assert [drops_at_least_one(cosine, update, 300) for update in (1, 150, 151, 300)] == [True, True, False, False]
    assert drops_at_least_one(EvolutionConfig(drop_fraction=0.05), 300, 300)
    assert not drops_at_least_one(EvolutionConfig(drop_fraction=0.0), 1, 300)


def test_n_step_returns_begin_after_their_delay() -> None:
    assert [n_step_at(LearningConfig(n_step=3, n_step_delay=2), update) for update in (1, 2, 3, 4)] == [1, 1, 3, 3]
    assert n_step_at(LearningConfig(n_step=3), 1) == 3


def test_quick_is_at_most_thirty_thousand_steps_of_the_same_algorithm() -> None:
    quick, paper = make_config("quick"), make_config()
    assert quick.schedule.steps <= 30_000
    assert (quick.network, quick.evolution, quick.learning) == (paper.network, paper.evolution, paper.learning)


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
        ({"topology": "sparse"}, "topology is 'sparse'; expected dense, static, dynamic"),
        (
            {"method": "ppo"},
            r"method is 'ppo'; expected td3, static-td3, .*, crossq, static-crossq, ds-crossq$",
        ),
        ({"method": "ds_sac"}, r"method is 'ds_sac'; expected .*; did you mean ds-sac\?$"),
        ({"method": ["td3"]}, r"method is \['td3'\]; expected td3, static-td3"),
        (
            {"method": "ds-td3", "algorithm": "sac"},
            "^method is ds-td3, whose algorithm is td3, and algorithm is 'sac'; leave out one of them$",
        ),
        (
            {"method": "sac", "topology": "static"},
            "^method is sac, whose topology is dense, and topology is 'static'; leave out one of them$",
        ),
        ({"growth": "magic"}, "growth is 'magic'; expected random, gradient"),
        ({"drop_schedule": "linear"}, "drop_schedule is 'linear'; expected constant, cosine"),
        ({"distribution": "erk"}, "distribution is 'erk'; expected er, uniform"),
        ({"output_layer": "none"}, "output_layer is 'none'; expected dense, sparse"),
        ({"engine": "c"}, "engine is 'c'; expected auto, native, torch"),
        (
            {"engine": "native", "device": "cuda"},
            "engine is native, which runs on the CPU, and device is cuda; use device cpu",
        ),
        ({"actor_sparsity": 1.0}, r"actor_sparsity is 1\.0; expected a number in \[0, 1\)"),
        ({"critic_sparsity": "half"}, r"critic_sparsity is half; expected a number in \[0, 1\)"),
        ({"n_step_delay": -1}, "n_step_delay is -1; expected a whole number"),
        ({"n_step_delay": 1.5}, r"n_step_delay is 1\.5; expected a whole number"),
        ({"policy": "worst"}, "policy is 'worst'; expected last, best"),
        ({"device": "tpu"}, "device is 'tpu'; expected cpu, cuda"),
        ({"normalize": "yes"}, "normalize is 'yes'; expected bool"),
        ({"topology": "dense", "sparsity": 0.5}, "^topology is dense, which has no sparsity; use topology dynamic or"),
        ({"topology": "dense", "actor_sparsity": 0.5}, "topology is dense, which has no sparsity"),
        ({"topology": "dense", "critic_sparsity": 0.5}, "topology is dense, which has no sparsity"),
        ({"method": "td3", "lambda1": 7.0, "lambda2": 64.0}, "topology is dense, which has no sparsity"),
        ({"topology": "dense", "block": 4}, "topology is dense, which has no blocks"),
        ({"topology": "dense", "distribution": "uniform"}, "topology is dense, which has no distribution of conn"),
        ({"topology": "dense", "output_layer": "sparse"}, "topology is dense, which has no sparse output layer"),
        ({"topology": "dense", "critic_topology": "dynamic"}, "topology is dense, which has no static or dynamic"),
        ({"sparsity": 0.5, "lambda1": 7.0, "lambda2": 64.0}, "^sparsity and lambda1, lambda2 were both given"),
        ({"actor_sparsity": 0.5, "lambda1": 7.0}, "^actor_sparsity and lambda1, lambda2 were both given; expected one"),
        ({"critic_sparsity": 0.5, "lambda2": 64.0}, "^critic_sparsity and lambda1, lambda2 were both given"),
        (
            {"distribution": "uniform", "lambda1": 7.0, "lambda2": 64.0},
            "^distribution and lambda1, lambda2 were",
        ),
        ({"output_layer": "sparse", "lambda1": 7.0, "lambda2": 64.0}, "^output_layer and lambda1, lambda2 were"),
        ({"lambda1": 7.0}, "only one of lambda1 and lambda2 was given"),
        ({"replay_capacity": 3, "n_step": 3}, "replay_capacity is 3; expected more than n_step"),
        (
            {"steps": 1000, "start_steps": 100, "updates_per_step": 0.001},
            r"updates_per_step is 0\.001, which makes no update in the 900 steps after start_steps; expected more",
        ),
        (
            {"algorithm": "sac", "exploration_noise": 0.2},
            r"^exploration_noise is 0\.2, which means nothing to algorithm sac; leave it out, or use algorithm td3$",
        ),
        (
            {"target_entropy": -1.0},
            r"^target_entropy is -1\.0, which means nothing to algorithm td3; leave it out, or use .* sac or crossq$",
        ),
        ({"method": "static-sac", "target_noise": 0.3}, r"^target_noise is 0\.3, which means nothing to algorithm sac"),
        ({"sede": 3}, r"option 'sede' is unknown; did you mean seed\?"),
    ],
)
def test_what_is_out_of_range_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as refused:
        make_config(environment="Pendulum-v1", **options)
    assert re.search(message, bare(refused.value)), refused.value


def test_an_environment_is_named_by_a_text() -> None:
    with pytest.raises(ConfigError, match="`environment` is 5; expected str"):
        make_config(environment=5)


def test_an_unknown_preset_is_refused() -> None:
    with pytest.raises(ConfigError, match="`preset` is 'slow'; expected paper, quick, fast"):
        make_config("slow")  # type: ignore[arg-type]


def test_the_fast_preset_is_crossq_at_a_tenth_and_gives_way_to_what_is_stated() -> None:
    config = make_config("fast")
    assert (config.algorithm, config.network.sparsity, config.schedule.steps) == ("crossq", 0.9, 300_000)
    assert config.learning == make_config(algorithm="crossq").learning
    assert make_config("fast", topology="dense") == make_config(
        algorithm="crossq", topology="dense", steps=300_000, start_steps=5000
    )
    assert make_config("fast", algorithm="td3", critic_sparsity=0.8).learning == make_config().learning
    assert make_config("fast", critic_sparsity=0.8).network.sparsities == (0.9, 0.8)
    assert make_config("fast", lambda1=7.0, lambda2=64.0).network.sparsity is None
    assert make_config("fast", block=4, sparsity=0.95).network.sparsity == 0.95


def test_every_number_has_a_unit_a_range_and_a_source() -> None:
    for section in (Config, NetworkConfig, EvolutionConfig, LearningConfig, ScheduleConfig):
        for known in dataclasses.fields(section):
            if "int" in str(known.type) or "float" in str(known.type):
                assert known.metadata.keys() - {"since", "shown", "algorithms"} == {
                    "help",
                    "unit",
                    "range",
                    "source",
                }, known.name


def test_a_configuration_goes_through_json_unchanged() -> None:
    config = make_config(environment="Ant-v5", seed=2**64 - 1, hidden=(300, 20), sparsity=0.75, normalize=True)
    assert from_json(json.loads(to_json(config)), "here") == config
    config = make_config(actor_sparsity=0.9, critic_sparsity=0.3, output_layer="sparse", distribution="uniform")
    assert from_json(json.loads(to_json(config)), "here") == config
    config = make_config(topology="dense", n_step=3, n_step_delay=1000, drop_schedule="cosine", engine="torch")
    assert from_json(json.loads(to_json(config)), "here") == config


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data.pop("learning"), "here: learning is missing"),
        (
            lambda data: data.update(extra=1),
            r"here: config was written by another version of edgerl: unknown or missing key .*extra",
        ),
        (lambda data: data["learning"].update(discount=2.0), r"here: discount is 2\.0; expected a number in \[0, 1\]"),
        (lambda data: data["schedule"].update(steps="many"), "here: steps is many; expected a whole number"),
        (lambda data: data.update(schedule=[]), "here: schedule was written by another version"),
        (
            lambda data: data["network"].update(lambda1=None, lambda2=None),
            "here: neither lambda1 and lambda2 nor a sparsity of both networks is there",
        ),
        (
            lambda data: data["network"].update(lambda1=None, lambda2=None, actor_sparsity=0.5),
            "here: neither lambda1 and lambda2 nor a sparsity of both networks is there",
        ),
        (lambda data: data.pop("engine"), r"here: config was written by another version .*engine"),
        (lambda data: data["network"].update(distribution=[]), r"here: distribution is \(\); expected er, uniform"),
        (lambda data: data["network"].update(output_layer="sparse"), "here: output_layer and lambda1, lambda2"),
        (lambda data: data.update(td3=data["learning"]), "here: config was written by another version .*td3"),
        (lambda data: data["network"].update(method="td3"), "here: network was written by another version .*method"),
        (lambda data: data["network"].pop("topology"), "here: network was written by another version .*topology"),
        (lambda data: data["network"].update(topology="dynamic "), "here: topology is 'dynamic '; expected dense, sta"),
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
            plan_networks(make_config(hidden=hidden), 17, 6)


def test_every_field_is_an_option_under_a_name_of_its_own() -> None:
    sections = (Config, NetworkConfig, EvolutionConfig, LearningConfig, ScheduleConfig)
    assert len(OPTIONS) == sum(len(dataclasses.fields(section)) for section in sections) - 4


def test_a_method_is_algorithm_and_topology_in_a_word() -> None:
    for word, algorithm, topology in (
        ("td3", "td3", "dense"),
        ("static-td3", "td3", "static"),
        ("ds-td3", "td3", "dynamic"),
        ("sac", "sac", "dense"),
        ("static-sac", "sac", "static"),
        ("ds-sac", "sac", "dynamic"),
    ):
        config = make_config(algorithm=algorithm, topology=topology)
        assert config.method_name == word
        assert make_config(method=word) == make_config(method=word, topology=topology, algorithm=algorithm) == config
    assert make_config(method=None) == make_config() == make_config(method="ds-td3")


def test_what_a_call_states_comes_before_a_file_in_whichever_words() -> None:
    Path("dense.toml").write_text('method = "td3"\nbatch_size = 9\n')
    Path("sac.toml").write_text('algorithm = "sac"\ntopology = "static"\n')
    dense, sac = Path("dense.toml"), Path("sac.toml")
    assert stated_options(config=dense) == {"algorithm": "td3", "topology": "dense", "batch_size": 9}
    assert stated_options(config=dense, topology="static")["topology"] == "static"
    assert stated_options(config=sac, method="td3") == {"algorithm": "td3", "topology": "dense"}
    Path("both.toml").write_text('method = "td3"\ntopology = "static"\n')
    with pytest.raises(ConfigError, match=r"^both.toml: method is td3, whose topology is dense, and topology is 'sta"):
        stated_options(config="both.toml")


def test_a_configuration_under_the_names_of_0_1_0_is_read() -> None:
    """Of TD3, as 0.1.0 wrote it, and with an algorithm, as its successors did before the names changed."""
    for algorithm in ("td3", "sac"):
        for method, topology in (("td3", "dense"), ("static-td3", "static"), ("ds-td3", "dynamic")):
            config = make_config(algorithm=algorithm, topology=topology)
            old = json.loads(to_json(config))
            assert (old["network"].pop("topology"), old["algorithm"]) == (topology, algorithm)
            old["network"]["method"] = method
            old["td3"] = old.pop("learning")
            assert from_json(old, "here") == config


@pytest.mark.parametrize("algorithm", ["td3", "sac"])
def test_a_file_that_states_every_option_is_read(algorithm: str) -> None:
    config = make_config(algorithm=algorithm)
    Path("all.toml").write_text(to_toml(config))
    stated = stated_options(config="all.toml")
    assert {"exploration_noise", "initial_temperature"} <= stated.keys()
    assert make_config(**stated) == config


def test_plans_follow_the_topology() -> None:
    actor, critic = plan_networks(make_config(topology="dense"), 17, 6)
    assert sum(p.connections for p in actor) == 71424
    assert sum(p.connections for p in critic) == 71680


def test_each_network_has_its_own_sparsity() -> None:
    actor, critic = plan_networks(make_config(actor_sparsity=0.9, sparsity=0.25), 17, 6)
    assert abs(sum(p.connections for p in actor) - 0.1 * 71424) <= 2
    assert abs(sum(p.connections for p in critic) - 0.75 * 71680) <= 2
    dense, half = plan_networks(make_config(actor_sparsity=0.0), 17, 6)
    assert all(p.is_dense for p in dense)
    assert abs(sum(p.connections for p in half) - 0.5 * 71680) <= 2


def test_the_output_layer_is_dense_unless_it_is_asked_to_be_sparse() -> None:
    for options, connections in (({}, 1536), ({"output_layer": "sparse"}, 154)):
        actor, _ = plan_networks(make_config(sparsity=0.9, distribution="uniform", **options), 17, 6)
        assert actor[-1].connections == connections


def test_an_impossible_sparsity_of_one_network_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"sparsity 0\.99 is impossible for 17-256-256-6.* expected at most 0\.9784"):
        plan_networks(make_config(actor_sparsity=0.99), 17, 6)
    actor, _ = plan_networks(make_config(actor_sparsity=0.99, output_layer="sparse"), 17, 6)
    assert abs(sum(p.connections for p in actor) - 0.01 * 71424) <= 3
