"""Predictions of published points, and their statistics by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest

from edgerl.errors import FileFormatError
from edgerl.profiling.latency.evaluate import Prediction, class_errors, predict
from edgerl.profiling.latency.points import Point

POINT = Point("teensy-4.0", "interpreter", (30, 10, 2), "fp32", 5.16, "Cortex-M7", 600, None)


def test_a_device_is_predicted_at_the_clock_that_the_point_states() -> None:
    own, half = predict(POINT), predict(replace(POINT, clock_mhz=300.0))
    assert half.predicted_us == pytest.approx(2 * own.predicted_us)
    assert (own.basis, predict(replace(POINT, clock_mhz=None, cpu=None)).predicted_us) == ("profile", own.predicted_us)


def test_a_device_without_a_profile_is_predicted_from_its_core_and_flagged() -> None:
    unknown = predict(replace(POINT, device_id="my-m7"))
    assert unknown.basis == "cpu"
    assert unknown.uncertainty is not None
    assert predict(POINT).uncertainty is not None
    assert unknown.uncertainty > predict(POINT).uncertainty
    slow = predict(replace(POINT, device_id="my-m0", cpu="Cortex-M0"))
    assert slow.predicted_us > 10 * unknown.predicted_us  # soft float


def test_a_core_of_no_class_and_half_precision_are_unvalidated() -> None:
    for change in ({"cpu": "Cortex-A55", "device_id": "my-phone"}, {"precision": "fp16"}):
        found = predict(replace(POINT, **change))
        assert found.predicted_us > 0
        assert found.is_inside is None


def test_a_device_with_neither_is_refused() -> None:
    with pytest.raises(FileFormatError, match="'my-m7' has no profile, and its point names no cpu and mhz; add them"):
        predict(replace(POINT, device_id="my-m7", clock_mhz=None))
    with pytest.raises(FileFormatError, match="has no profile"):
        predict(replace(POINT, device_id="../secret.toml", cpu=None))


def test_a_linux_board_is_predicted_by_the_runtime_that_stands_for_the_class() -> None:
    point = replace(POINT, device_id="raspberry-pi-4b", cpu="Cortex-A72", clock_mhz=1500.0)
    found = {name: predict(replace(point, runtime_class=name)) for name in ("interpreter", "generated-c")}
    assert found["interpreter"].predicted_us > 26  # onnxruntime's call, 4.3 µs × 6
    assert found["generated-c"].predicted_us < 2  # 320 multiply-adds and no call from Python
    assert found["interpreter"].uncertainty is None
    assert found["interpreter"].interval is None
    slow = predict(replace(point, clock_mhz=750.0))
    assert slow.predicted_us == pytest.approx(2 * found["interpreter"].predicted_us, rel=1e-3)
    on_32_bit = predict(replace(point, device_id="beaglebone-black", clock_mhz=1000.0))  # no onnxruntime there
    assert on_32_bit.predicted_us > 0


def test_a_core_that_runs_linux_is_predicted_by_a_board_that_has_it() -> None:
    known = replace(POINT, device_id="raspberry-pi-4b", cpu=None, clock_mhz=1800.0, runtime_class="tuned-kernels")
    found = predict(replace(known, device_id="my-board", cpu="4x ARM Cortex A72"))
    assert (found.basis, found.uncertainty) == ("cpu", None)
    assert found.predicted_us == pytest.approx(
        predict(known).predicted_us, rel=0.1
    )  # a Raspberry Pi's or a BeagleBone's
    by_unknown_core = predict(replace(known, device_id="my-board", cpu="Cortex-A720"))  # another one
    assert by_unknown_core.predicted_us != pytest.approx(found.predicted_us, rel=0.1)


def test_statistics_by_hand() -> None:
    made = [
        Prediction(replace(POINT, latency_us=100.0), 110.0, 0.2, "profile"),
        Prediction(replace(POINT, latency_us=100.0), 60.0, 0.5, "profile"),  # from 40 to 90
        Prediction(replace(POINT, latency_us=100.0), 130.0, 0.5, "profile"),
        Prediction(replace(POINT, latency_us=100.0), 900.0, 0.5, "profile"),
        Prediction(replace(POINT, doubt="its note says SUSPECT"), 900.0, 0.5, "profile"),
    ]
    (errors,) = class_errors(made).values()
    assert errors.points == 4
    assert errors.median_error == pytest.approx((0.3 + 0.4) / 2)
    assert errors.p90_error == pytest.approx(0.4 + 0.7 * (8 - 0.4))
    assert errors.coverage == 2 / 4
    assert made[1].interval == pytest.approx((40.0, 90.0))
    assert made[0].error == pytest.approx(0.1)
    assert class_errors([replace(made[0], uncertainty=None)])["interpreter"].coverage is None
