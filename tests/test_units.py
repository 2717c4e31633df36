"""Quantities as people type and read them."""

from __future__ import annotations

import pytest

from edgerl.errors import ConfigError
from edgerl.units import (
    human_bytes,
    human_estimate,
    human_seconds,
    parse_bytes,
    parse_count,
    parse_seconds,
    parse_share,
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("64KiB", 65536), ("1.5MB", 1_500_000), ("2 MiB", 2097152), ("65536", 65536), ("1GiB", 1 << 30), ("3kB", 3000)],
)
def test_bytes(text: str, expected: int) -> None:
    assert parse_bytes(text, "--budget-memory") == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [("500us", 5e-4), ("500µs", 5e-4), ("500μs", 5e-4), ("2ms", 2e-3), ("0.1s", 0.1), ("1e3ns", 1e-6)],
)
def test_seconds(text: str, expected: float) -> None:
    assert parse_seconds(text, "--budget-latency") == pytest.approx(expected, rel=1e-12)


def test_counts() -> None:
    assert parse_count("1e6", "--budget-flops") == 1_000_000
    assert parse_count("250000", "--budget-flops") == 250_000


@pytest.mark.parametrize(("text", "expected"), [("3%", 0.03), ("0.5 %", 0.005), ("0.03", 0.03), ("100%", 1)])
def test_shares(text: str, expected: float) -> None:
    assert parse_share(text, "--max-loss") == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("text", ["", "KiB", "64Kib", "-1KiB", "0", "nan", "inf", "1e999", "1.2.3MB", "64 K iB"])
def test_bad_bytes(text: str) -> None:
    with pytest.raises(ConfigError, match=r"--budget-memory is .*; expected a number of bytes, such as 64KiB"):
        parse_bytes(text, "--budget-memory")


@pytest.mark.parametrize("text", ["500", "500 hours", "-1us", "0us"])
def test_bad_seconds(text: str) -> None:
    with pytest.raises(ConfigError, match=r"--budget-latency is .*; expected a time with its unit, such as 500us"):
        parse_seconds(text, "--budget-latency")


@pytest.mark.parametrize("text", ["1M", "many", "-1e6"])
def test_bad_counts(text: str) -> None:
    with pytest.raises(ConfigError, match=r"--budget-flops is .*; expected a number, such as 1e6"):
        parse_count(text, "--budget-flops")


@pytest.mark.parametrize("text", ["3 percent", "%", "-3%", "0%", "3%%"])
def test_bad_shares(text: str) -> None:
    with pytest.raises(ConfigError, match=r"--max-loss is .*; expected a share, such as 3% or 0.03"):
        parse_share(text, "--max-loss")


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (42_189, "41.2 KiB"),
        (1.1 * 2**20, "1.1 MiB"),
        (2**31, "2.00 GiB"),
    ],
)
def test_bytes_to_read(count: float, text: str) -> None:
    assert human_bytes(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (41.3e-6, "41.3 µs"),
        (2.1e-3, "2.1 ms"),
        (3.2, "3.2 s"),
        (250, "4 min 10 s"),
        (3599.6, "1 h 00 min"),
        (7500, "2 h 05 min"),
    ],
)
def test_durations_to_read(seconds: float, text: str) -> None:
    assert human_seconds(seconds) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(4.1e-7, "0.41 µs"), (4.12e-5, "41 µs"), (4.1e-4, "410 µs"), (9.99e-4, "1 ms"), (4, "4 s")],
)
def test_estimates_have_two_digits(seconds: float, text: str) -> None:
    assert human_estimate(seconds) == text
