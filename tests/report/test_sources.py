"""What a report reads: curves, topologies and sensors against arithmetic by hand, and one line for what it cannot."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import edgerl
from edgerl.config import make_config
from edgerl.errors import ConfigError, FileFormatError
from edgerl.policy.compact import make_layer
from edgerl.report import details, sources
from edgerl.report.curves import group_labels, learning_curves
from edgerl.report.topology import actor_pictures, by_degree, sensors
from edgerl.studies.statistics import Interval, interquartile_mean
from edgerl.training import checkpoint as checkpoint_file
from tests.foreign import write_actor

SMALL: dict[str, Any] = {
    "hidden": (18, 13),
    "sparsity": 0.5,
    "batch_size": 8,
    "steps": 200,
    "start_steps": 30,
    "evaluation_interval": 50,
    "evaluation_episodes": 1,
    "drop_fraction": 0.25,
    "evolution_interval": 20,
}


def train(out: str = "run", **options: Any) -> Path:
    return edgerl.train("robots:robot", out=out, **(SMALL | options)).folder


def test_a_report_prices_a_file_of_another_program_only_where_it_can_run(tmp_path: Path) -> None:
    from edgerl.profiling.budgets.device import device_ids, find_device
    from edgerl.profiling.budgets.model import read_model
    from edgerl.report.budgets import device_budgets

    shown = device_budgets(read_model(write_actor(tmp_path / "ppo.onnx")))
    assert {device["runtime"] for device in shown} == {"onnxruntime"}
    boards = [device for device in map(find_device, device_ids()) if device.default_runtime == "onnxruntime"]
    assert [device["id"] for device in shown] == [device.id for device in boards]


def run_with(at: list[float], returns: list[float], **options: Any) -> Any:
    """As much of a run as curves need; a step takes a second."""
    metrics = {"step": np.array(at), "return_mean": np.array(returns), "return_deviation": np.full(len(at), 3.0)}
    metrics["elapsed_seconds"] = metrics["step"]
    return SimpleNamespace(
        config=make_config(**({"start_steps": 1, "evaluation_interval": 1} | options)), metrics=metrics, name="run"
    )


def test_runs_of_one_setting_share_a_curve_and_a_seed_is_no_setting() -> None:
    runs = [
        run_with([10, 20], [1, 2], seed=0),
        run_with([10, 20], [3, 6], seed=1),
        run_with([10, 20], [5, 4], seed=2),
        run_with([10], [9], sparsity=0.8),
        run_with([10], [7], method="td3"),
    ]
    curves = {curve.label: curve for curve in learning_curves(runs)}
    assert list(curves) == ["ds-td3, lambda1 7, lambda2 64", "ds-td3, sparsity 0.8", "td3"]
    paper = curves["ds-td3, lambda1 7, lambda2 64"]
    assert paper.returns.middle.tolist() == [3, 4]
    assert (paper.returns.low[0], paper.returns.high[0]) == (1, 5), "of 27 resamples the extreme ones are within 95 %"
    assert not paper.interval_is_over_episodes
    single = curves["td3"]
    assert single.interval_is_over_episodes
    # Ten episodes with a deviation of 3 around their mean: the standard error is 3 / √9.
    assert (single.returns.low[0], single.returns.high[0]) == pytest.approx((7 - 1.96, 7 + 1.96))


def test_the_final_return_is_the_mean_of_the_last_ten_evaluations() -> None:
    (curve,) = learning_curves([run_with(list(range(1, 31)), list(range(1, 31)))])
    assert curve.final == Interval(25.5, None, None)
    runs = [run_with(list(range(1, 31)), [value] * 30) for value in (1, 2, 6)]
    assert learning_curves(runs)[0].final == interquartile_mean([np.array([1.0, 2.0, 6.0])])


def test_a_return_is_of_evaluations_since_learning_began(tmp_path: Path) -> None:
    """The same in the curves and in a run's headline: 4 of the quick preset's 6 evaluations."""
    schedule = {"steps": 30_000, "start_steps": 10_000}
    steps, returns = [5000.0 * i for i in range(1, 7)], [-9000.0, -9000, 1, 2, 3, 6]
    (curve,) = learning_curves([run_with(steps, returns, **schedule)])
    assert (curve.final, curve.evaluations, curve.start_steps) == (Interval(3, None, None), 4, 10_000)
    (curve,) = learning_curves([run_with(steps[:2], returns[:2], **schedule)])
    assert (curve.final, curve.evaluations) == (None, 0)
    folder = train(steps=200, start_steps=60, evaluation_interval=50)
    header, *rows = [line.split(",") for line in (folder / "metrics.csv").read_text().splitlines()]
    for row, value in zip(rows, (-9000, 1, 2, 6), strict=True):
        row[header.index("return_mean")] = str(value)
    (folder / "metrics.csv").write_text("".join(",".join(line) + "\n" for line in (header, *rows)))
    page = edgerl.write_report([folder], tmp_path / "page.html", force=True).path
    text = page.read_text()
    assert "<dt>return</dt><dd>3<small>the mean of the last 3 evaluations</small></dd>" in text
    assert "<td>3</td><td>the mean of the last 3 evaluations</td>" in text
    assert "<td>50, before learning</td><td>\N{MINUS SIGN}9\u202f000</td>" in text
    assert '"start":60' in text
    (folder / "metrics.csv").write_text("".join(",".join(line) + "\n" for line in (header, rows[0])))
    text = edgerl.write_report([folder], page, force=True).path.read_text()
    assert "<dt>return</dt><dd>–<small>learning begins at step 60</small></dd>" in text


def test_evaluations_between_episodes_of_any_length_make_one_curve() -> None:
    """They wait for the end of an episode, which comes at another step in every run."""
    schedule = {"steps": 300, "evaluation_interval": 100, "start_steps": 10}
    runs = [run_with([103, 207, 300], [1, 2, 3], seed=0, **schedule)]
    runs.append(run_with([111, 200, 300], [3, 4, 5], seed=1, **schedule))
    (curve,) = learning_curves(runs)
    assert (curve.returns.steps.tolist(), curve.returns.middle.tolist()) == ([100, 200, 300], [2, 3, 4])
    # A run that ended once at step 150, where it was evaluated: a row more, which counts in its return.
    (curve,) = learning_curves([run_with([100, 150, 200, 300], [1, 9, 2, 4], **schedule)])
    assert (curve.returns.steps.tolist(), curve.returns.middle.tolist()) == ([100, 200, 300], [1, 2, 4])
    assert (curve.final, curve.evaluations, len(curve.returns.low)) == (Interval(4, None, None), 4, 3)


def test_what_was_not_evaluated_is_a_gap(tmp_path: Path) -> None:
    """Rows without a return, as `edgerl train --evaluation none` leaves them."""
    nan = float("nan")
    (curve,) = learning_curves([run_with([1, 2, 3, 4], [1, nan, 3, nan]), run_with([1], [nan])])
    assert (curve.returns.steps.tolist(), curve.returns.middle.tolist()) == ([1, 3], [1, 3])
    assert (curve.final, curve.best, len(curve.runs)) == (Interval(3, None, None), 3, 1)
    assert learning_curves([run_with([1, 2], [nan, nan])]) == []
    folder = train()
    header, *rows = [line.split(",") for line in (folder / "metrics.csv").read_text().splitlines()]
    for row in rows:
        row[header.index("return_mean")] = row[header.index("return_deviation")] = ""
    (folder / "metrics.csv").write_text("".join(",".join(line) + "\n" for line in (header, *rows)))
    text = edgerl.write_report([folder], tmp_path / "page.html", force=True).path.read_text()
    assert "<dt>return</dt><dd>–<small>nothing was evaluated</small></dd>" in text
    assert 'id="connections-0"' in text, "what else was measured is shown"
    assert 'id="learning"' not in text


def test_success_rates_are_a_curve_and_a_headline(tmp_path: Path) -> None:
    runs = [run_with([10, 20, 30], [0, 0, 0], seed=seed, start_steps=10) for seed in range(2)]
    runs[0].metrics["success_rate"] = np.array([float("nan"), 0.5, 1])
    assert learning_curves(runs)[0].success is None, "one of them does not tell"
    runs[1].metrics["success_rate"] = np.array([0, 0.25, 0.5])
    (curve,) = learning_curves(runs)
    assert curve.success is not None
    assert (curve.success.steps.tolist(), curve.success.middle.tolist()) == ([20, 30], [0.375, 0.75])
    assert curve.final_success == (0.75 + 0.375) / 2
    (single,) = learning_curves(runs[:1])
    assert single.success is not None
    # Half of ten episodes: the standard error is √(.5 · .5 / 9); of all of them there is none.
    margin = 1.96 * (0.25 / 9) ** 0.5
    assert single.success.low.tolist() == [pytest.approx(0.5 - margin), 1]
    assert single.success.high.tolist() == [pytest.approx(0.5 + margin), 1]
    folder = train()
    header, *rows = [line.split(",") for line in (folder / "metrics.csv").read_text().splitlines()]
    if "success_rate" in header:
        at = header.index("success_rate")
        header, rows = header[:at] + header[at + 1 :], [row[:at] + row[at + 1 :] for row in rows]
    lines = [
        [*header, "success_rate"],
        *([*row, rate] for row, rate in zip(rows, ("", "0.25", "0.5", "1"), strict=True)),
    ]
    (folder / "metrics.csv").write_text("".join(",".join(line) + "\n" for line in lines))
    text = edgerl.write_report([folder], tmp_path / "page.html", force=True).path.read_text()
    assert "<dt>success</dt><dd>58%<small>the mean of the last 4 evaluations</small></dd>" in text
    assert 'id="success-0"' in text


def test_a_run_that_goes_on_is_not_averaged_with_finished_ones() -> None:
    """Its low beginning would make the mean drop where it ends, or lift the end where it has none."""
    schedule = {"steps": 3000, "start_steps": 10, "evaluation_interval": 1000}
    steps = [1000.0, 2000.0, 3000.0]
    done = [run_with(steps, [1, 2, value], seed=seed, **schedule) for seed, value in enumerate((3, 6))]
    (curve,) = learning_curves([*done, run_with([1000], [-100], seed=2, **schedule)])
    assert curve.returns.steps.tolist() == steps
    assert curve.returns.middle.tolist() == [1, 2, 4.5]
    assert (curve.n_finished, curve.n_of_setting, curve.runs) == (2, 3, tuple(done))
    assert (curve.final.value, curve.best, curve.seconds) == (2.5, 6, 3000)
    (curve,) = learning_curves([done[0], run_with([1000], [-100], seed=2, **schedule)])
    assert curve.interval_is_over_episodes, "no band of no width: it is that of one run"


def test_where_no_run_is_finished_all_are_shown_as_far_as_they_all_are() -> None:
    runs = [run_with([1000, 2000, 3000], [1, 2, 90], seed=0), run_with([1000, 2000], [3, 6], seed=1)]
    (curve,) = learning_curves(runs)
    assert (curve.returns.steps.tolist(), curve.returns.middle.tolist()) == ([1000, 2000], [2, 4])
    assert (curve.n_finished, curve.n_of_setting) == (0, 2)
    assert (curve.final.value, curve.best, curve.seconds) == (3, 6, 2000)
    with pytest.raises(FileFormatError, match="no evaluation at the same step; make a report of each"):
        learning_curves([run_with([1], [1], seed=0), run_with([2], [1], seed=1)])


def test_labels_name_only_what_differs() -> None:
    runs = [run_with([1], [1], steps=100_000), run_with([1], [1], steps=200_000), run_with([1], [1], method="td3")]
    assert group_labels(runs) == ["ds-td3, steps 100000", "ds-td3, steps 200000", "td3"]


@pytest.mark.parametrize(("engine", "block"), [("native", 1), ("native", 4), ("torch", 1)])
def test_the_pictures_are_the_topologies_before_and_after(engine: str, block: int) -> None:
    """A run that has not evolved yet is at its beginning; one that has, has other connections, and as many."""
    young = sources.read([train("young", engine=engine, block=block, evolution_interval=10_000)]).runs[0]
    assert all((picture.before == picture.after).all() for picture in actor_pictures(young))  # type: ignore[union-attr]
    run = sources.read([train(engine=engine, block=block)]).runs[0]
    pictures = actor_pictures(run)
    assert [picture.after.shape for picture in pictures] == [(18, 4), (13, 18), (2, 13)]
    for layer, picture in enumerate(pictures):
        assert picture.before is not None
        recorded = run.metrics[f"connections.actor.{layer}"][-1]
        assert picture.before.sum() == picture.after.sum() == recorded
    assert any((picture.before != picture.after).any() for picture in pictures)  # type: ignore[union-attr]
    assert run.checkpoint is not None
    weights = run.checkpoint.policy.layers[0].matrix()
    assert not weights[~pictures[0].after].any(), "where there is no connection there is no weight"
    found = sensors(run.checkpoint.policy, pictures, run)
    assert found.degree_now.tolist() == pictures[0].after.sum(axis=0).tolist() == found.degrees[-1].tolist()
    np.testing.assert_allclose(found.mass_now, np.abs(weights).sum(axis=0), rtol=1e-6)
    np.testing.assert_allclose(found.mass_now, found.masses[-1], rtol=1e-6)
    order = by_degree(pictures)[1]
    assert (np.diff(pictures[1].after.sum(axis=1)[order]) <= 0).all()


@pytest.mark.parametrize("engine", ["native", "torch"])
def test_what_is_said_of_now_is_of_the_policy_that_the_run_keeps(engine: str, tmp_path: Path) -> None:
    """With --policy best it is not the last actor, whose topology alone the checkpoint has."""
    seeds = (train(f"run{seed}", engine=engine, policy="best", seed=seed) for seed in range(20))
    read = (sources.read([folder]).runs[0] for folder in seeds)
    run = next(run for run in read if run.checkpoint.policy.metadata["step"] < SMALL["steps"])  # type: ignore[union-attr]
    assert run.checkpoint is not None
    best, pictures = run.checkpoint.policy, actor_pictures(run)
    weights = best.layers[0].matrix()
    found = sensors(best, pictures, run)
    assert found.degree_now.tolist() == (weights != 0).sum(axis=0).tolist()
    np.testing.assert_allclose(found.mass_now, np.abs(weights).sum(axis=0), rtol=1e-6)
    for picture, layer in zip(pictures, best.layers, strict=True):
        assert (picture.after == (layer.matrix() != 0)).all()
    text = edgerl.write_report([run.folder], tmp_path / "page.html", force=True).path.read_text()
    assert text.count(f"Of the best policy at step {best.metadata['step']}, which the run keeps.") == 2
    last = edgerl.write_report([train("last", engine=engine)], tmp_path / "last.html").path.read_text()
    assert last.count("Of the actor at step 200, the last checkpoint.") == 2


def test_compaction_tells_trained_connections_from_weights_that_are_not_zero(tmp_path: Path) -> None:
    """A connection that has just grown weighs nothing."""
    folder = train(evolution_interval=1)
    (run,) = sources.read([folder]).runs
    assert run.checkpoint is not None
    trained, not_zero = run.metrics["connections.actor.0"][-1], run.checkpoint.policy.layers[0].connections
    assert not_zero < trained
    text = edgerl.write_report([folder], tmp_path / "page.html", force=True).path.read_text()
    assert f"<td>1</td><td>4 × 18</td><td>4 × {run.policy.layers[0].n_outputs}</td>" in text  # type: ignore[union-attr]
    assert f"<td>{trained:.0f}</td><td>{not_zero}</td>" in text


def test_a_policy_that_lost_every_unit_is_shown(tmp_path: Path) -> None:
    """A unit of each layer is kept, for its bias."""
    folder = train()
    path = folder / "checkpoint.safetensors"
    checkpoint = checkpoint_file.read(path)
    first, second, last = checkpoint.policy.layers
    nothing = make_layer(np.zeros((second.n_outputs, second.n_inputs), np.float32), np.full(second.n_outputs, -1.0), 1)
    checkpoint = dataclasses.replace(
        checkpoint, policy=dataclasses.replace(checkpoint.policy, layers=(first, nothing, last))
    )
    checkpoint_file.write(path, checkpoint)
    (folder / "policy.safetensors").unlink()
    text = edgerl.write_report([folder], tmp_path / "page.html", force=True).path.read_text()
    assert "<td>4-18-13-2</td><td>4-1-1-2</td>" in text
    assert text.count("<td>0</td><td>0%</td>") == 4


def test_a_sparse_layer_without_its_topology_is_not_called_dense(tmp_path: Path) -> None:
    folder = train()
    checkpoint = checkpoint_file.read(folder / "checkpoint.safetensors")
    for layer in range(2):
        del checkpoint.tensors[f"actor.{layer}.mask"]
    checkpoint_file.write(folder / "checkpoint.safetensors", checkpoint)
    text = edgerl.write_report([folder], tmp_path / "page.html", force=True).path.read_text()
    assert text.count("Dense: every connection exists.") == 1, "the output layer is"
    first, second, _ = actor_pictures(sources.read([folder]).runs[0])
    assert not first.after.all()
    assert not second.after.all()


def test_a_topology_that_was_drawn_otherwise_is_not_shown(tmp_path: Path) -> None:
    """As in a version that drew it from other numbers: what was ever connected does not hold it."""
    folder = train()
    path = folder / "checkpoint.safetensors"
    checkpoint = checkpoint_file.read(path)
    checkpoint.tensors["actor.0.ever_active"] = checkpoint.tensors["actor.0.mask"]
    checkpoint_file.write(path, checkpoint)
    (run,) = sources.read([folder]).runs
    pictures = actor_pictures(run)
    assert pictures[0].before is None
    assert pictures[1].before is not None
    edgerl.write_report([folder], tmp_path / "page.html", force=True)


def test_a_study_is_its_runs_and_a_run_is_read_once() -> None:
    for seed in (0, 1):
        train(f"study/run{seed}", seed=seed, steps=60)
    Path("study/latest").symlink_to("run1")
    Path("study/notes").mkdir()
    found = sources.read([Path("study"), Path("study/run0"), Path("study/run1/policy.safetensors")])
    assert [run.name for run in found.runs] == ["run0", "run1"]
    assert [model.name for model in found.models] == ["policy.safetensors"]


def test_long_tables_are_thinned_and_keep_their_ends(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    path.write_text("step,x\n" + "".join(f"{step},{step / 2}\n" for step in range(1, 30_001)))
    table = sources.read_table(path, "mend")
    assert sources.MAXIMUM_POINTS // 2 < len(table["step"]) <= sources.MAXIMUM_POINTS
    assert (table["step"][0], table["step"][-1]) == (1, 30_000)
    assert (table["x"] == table["step"] / 2).all()
    assert np.diff(table["step"]).max() <= 32
    # A run that is not as far keeps the same steps, but for its last ten.
    path.write_text("step,x\n" + "".join(f"{step},{step / 2}\n" for step in range(1, 29_001)))
    assert np.isin(sources.read_table(path, "mend")["step"][:-10], table["step"]).all()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("step,x\n1,2\n3", "does not end with a whole line"),
        ("step,x\n1,2\n3\n", r"has 1 of 2 columns in line 3: it was cut off"),
        ("step,x\n1,2\n3,\n", "holds something that is not a number"),
        ("step,x\n1,nan\n", "holds a number that is not finite, or beyond 1e[+]100, or steps that do not rise"),
        ("step,x\n1,1e308\n", "beyond 1e[+]100"),
        ("step,x\n2,1\n1,1\n", "steps that do not rise"),
        ("x,y\n1,2\n", "does not end with a whole line of a table"),
        ("\udcff", "is not text in UTF-8 .*; restore the file, or train the run again"),
        ("", "does not end with a whole line of a table"),
    ],
)
def test_half_written_metrics_are_refused_with_the_remedy(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "metrics.csv"
    path.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(FileFormatError, match=message) as raised:
        sources.read_table(path, "mend")
    assert "\n" not in str(raised.value)


def test_a_run_without_evaluations_yet_is_no_error(tmp_path: Path) -> None:
    folder = train(steps=40, evaluation_interval=1000, start_steps=30)
    (folder / "metrics.csv").write_text((folder / "metrics.csv").read_text().splitlines()[0] + "\n")
    for name in ("checkpoint.safetensors", "policy.safetensors", "topology.csv", "versions.json"):
        (folder / name).unlink()
    assert b"no evaluation yet" in edgerl.write_report([folder], tmp_path / "page.html", force=True).path.read_bytes()


def test_an_older_run_is_shown_and_the_page_says_what_it_lacks(tmp_path: Path) -> None:
    folder = train()
    for name in ("topology.csv", "versions.json"):
        (folder / name).unlink()
    text = edgerl.write_report([folder], tmp_path / "page.html", force=True).path.read_text()
    for part in ("the share ever active layer by layer", "its sensors over training", "versions"):
        assert f"This run was made by a version that did not record {part}" in text


def test_pictures_that_would_make_the_page_too_large_are_left_out_and_it_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = train(steps=60)
    monkeypatch.setattr(details, "MAXIMUM_MASK_BITS", 100)
    text = edgerl.write_report([folder], tmp_path / "page.html", force=True).path.read_text()
    assert "Not pictured: the page would grow too large." in text
    assert "<canvas data-layer" not in text


def test_too_many_runs_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    train("study/a", steps=60)
    train("study/b", steps=60)
    monkeypatch.setattr(sources, "MAXIMUM_RUNS", 1)
    with pytest.raises(ConfigError, match="2 runs were named; expected at most 1; name fewer"):
        sources.find([Path("study")])
