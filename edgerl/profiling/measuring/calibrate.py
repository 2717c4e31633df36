"""A profile of this machine: what its runtimes take, measured with the engines themselves in half a minute.

Random networks are timed as a control loop calls them: `edgerl.edge.Policy` in each of its layouts, `OnnxPolicy`. The
costs of latency/estimate.py are fitted to the times by relative least squares. Then networks that are not part of the
fit are estimated and timed, and the error of the estimates is the profile's `error_ratio`. Where that is too large, or
a cost comes out as zero, there is no profile.

The clock counts this thread's processor time, so other programs do not count, except for what they do to the caches and
the memory.
"""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from statistics import median
from time import thread_time_ns

import numpy as np
import numpy.typing as npt

from edgerl.edge.acting.onnx_policy import OnnxPolicy
from edgerl.edge.acting.policy import LAYOUTS, Layout, LayoutChoice, Policy
from edgerl.errors import CheckFailed
from edgerl.policy.compact import Array, CompactPolicy, make_layer
from edgerl.profiling.budgets.device import Device, parse_device
from edgerl.profiling.budgets.model import policy_rows
from edgerl.profiling.latency.estimate import ITEM_BYTES, active_shares, estimate_latency, layout_multiply_adds
from edgerl.profiling.measuring.host import Host, describe_host, profile_text
from edgerl.profiling.measuring.measure import Act

WriteOnnx = Callable[[CompactPolicy, Path], object]
Progress = Callable[[str], None]
Vector = npt.NDArray[np.float64]

N_OBSERVATIONS, N_ACTIONS = 17, 6
"""As HalfCheetah has."""

WIDTHS, DENSITIES = (16, 48, 96, 192, 384, 512), (0.5, 0.2, 0.1, 0.05)
SHAPES = ((16,), (16,) * 4, (16,) * 8, (256,), (16, 256), (256, 16), (512, 16), (16, 512), (64, 64), (128, 128))
"""Hidden layers of dense networks, deep or uneven, to separate the costs of calls, layers, inputs and multiply-adds."""

NARROWEST_SPARSE = 64
"""In narrower layers the cost of a connection is lost in that of the call."""

CHECKED_WIDTHS, CHECKED_DENSITIES = (24, 64, 144, 288, 448), (1.0, 0.3, 0.15, 0.07)

CALLS = 128
"""Different observations: a processor's branch prediction memorises fewer, and a control loop repeats none."""

ROUNDS, REPEATS = 15, 2
"""Each network is timed in every round, so that a slow moment of the machine affects all of them."""

LONGEST_REPEAT_US = 5000

NEAR_SHARE = 0.6
"""Of a cache's size: larger weights may not fit into it beside everything else."""

WIDEST = 2048
"""Units of a layer that no cache holds: 16 MB of weights."""

COVERAGE, SMALLEST_ERROR_RATIO = 0.9, 0.15
"""`error_ratio` covers nine in ten of the checked networks; other work on the machine has at least this effect."""

NATIVE_COSTS = (
    "call_overhead_us",
    "layer_overhead_us",
    "dense_input_overhead_ns",
    "sparse_input_overhead_ns",
    "dense_ns_per_multiply_add",
    "sparse_block_1_ns_per_multiply_add",
    "sparse_block_4_ns_per_multiply_add",
)
ONNXRUNTIME_COSTS = ("call_overhead_us", "layer_overhead_us", "dense_ns_per_multiply_add")
"""By their keys in a profile."""

SMALLEST_COST = 1e-6
"""µs: nothing takes a thousandth of a nanosecond."""

LARGEST_ERROR_RATIO = 0.5
"""The limit of the check; docs/devices.md says why."""


def calibrate(write_onnx: WriteOnnx | None, device_id: str, progress: Progress) -> str:
    """The text of a profile of this machine; `write_onnx` is None where onnxruntime is not installed.

    Raises ConfigError where this is not Linux, MissingExtraError where the native engine was not built, CheckFailed
    where the times are too disturbed for a profile.
    """
    host = describe_host()
    with _on_one_core(), tempfile.TemporaryDirectory() as folder:

        def onnx_act(policy: CompactPolicy) -> Act:
            assert write_onnx is not None
            path = Path(folder) / "policy.onnx"
            write_onnx(policy, path)
            return OnnxPolicy(path)

        progress("native: timing networks in each layout")
        figures = {"native": _native_figures(host)}
        bandwidths = _bandwidths(host, figures["native"])
        if write_onnx is not None:
            progress("onnxruntime: timing networks")
            figures["onnxruntime"] = _onnx_figures(host, onnx_act)
        progress("timing networks that are not part of the fit")
        device = parse_device(profile_text(host, figures, bandwidths).encode(), device_id, device_id)
        figures["native"] |= _checked(device, "native", Policy)
        if write_onnx is not None:
            figures["onnxruntime"] |= _checked(device, "onnxruntime", onnx_act)
    return profile_text(host, figures, bandwidths)


@contextmanager
def _on_one_core() -> Iterator[None]:
    """Stay on one of the processors that this process may use: a migration costs more than an inference."""
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(allowed)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)


def random_policy(hidden: Sequence[int], density: float, block: int) -> CompactPolicy:
    """A policy of HalfCheetah's size whose units are zero after ReLU half of the time; its output layer is dense."""
    return _random_policy((N_OBSERVATIONS, *hidden, N_ACTIONS), density, block)


def _random_policy(widths: Sequence[int], density: float, block: int) -> CompactPolicy:
    generator = np.random.default_rng(0)
    layers = []
    for index, (n, m) in enumerate(pairwise(widths)):
        share = density if index < len(widths) - 2 else 1.0
        mask = np.repeat(generator.random((-(-m // block), n)) < share, block, axis=0)[:m]
        weight = generator.standard_normal((m, n), np.float32) * mask / np.float32(math.sqrt(n * share))
        layers.append(make_layer(weight, np.zeros(m, np.float32), block))
    bound = np.ones(widths[-1], np.float32)
    return CompactPolicy(tuple(layers), -bound, bound).with_example(generator.standard_normal(widths[0]))


def _microseconds(acts: Sequence[Act], n_inputs: int) -> list[float]:
    """Median time of a call of each; observations are standard normal."""
    observations = np.random.default_rng(1).standard_normal((CALLS, n_inputs), np.float32)
    own_observations = [observations[: _n_calls(act, observations[:1])] for act in acts]
    times: list[list[float]] = [[] for _ in acts]
    for _ in range(ROUNDS):
        for act, own, durations in zip(acts, own_observations, times, strict=True):
            _ = _one_repeat(act, own)  # into the caches
            durations += [_one_repeat(act, own) for _ in range(REPEATS)]
    return [median(durations) for durations in times]


def _n_calls(act: Act, observation: Array) -> int:
    """The number of calls in a repeat."""
    one = min(_one_repeat(act, observation) for _ in range(3))
    return CALLS if one * CALLS <= LONGEST_REPEAT_US else max(1, int(LONGEST_REPEAT_US / one))


def _one_repeat(act: Act, observations: Array) -> float:
    start = thread_time_ns()
    for observation in observations:
        act(observation)
    return (thread_time_ns() - start) / len(observations) / 1000


# ------------------------------------------------------------------------------------------------ what runtimes take


def _native_figures(host: Host) -> dict[str, float]:
    """Costs of the native engine. Raises CheckFailed."""
    cases = [(policy, Policy(policy, layout)) for policy, layout in _native_cases()]
    cases = [(policy, act) for policy, act in cases if act.n_bytes < _room(host)]
    items = np.array([_native_items(policy, act.layouts) for policy, act in cases])
    times = _microseconds([act for _, act in cases], N_OBSERVATIONS)
    return _fitted("native", NATIVE_COSTS, items, np.array(times))


def _room(host: Host) -> float:
    """Bytes of weights that fit into the second cache."""
    return NEAR_SHARE * host.caches[min(1, len(host.caches) - 1)][1].value


def _native_cases() -> Iterator[tuple[CompactPolicy, LayoutChoice]]:
    """Each layout by itself, to separate its costs, and as the engine chooses, as it will be used."""
    for hidden in SHAPES:
        yield random_policy(hidden, 1.0, 1), "dense"
    for width in WIDTHS:
        hidden = width, width
        yield random_policy(hidden, 1.0, 1), "dense"
        yield random_policy(hidden, 1.0, 1), "auto"
        for density in DENSITIES if width >= NARROWEST_SPARSE else ():
            single, blocks = (random_policy(hidden, density, block) for block in (1, 4))
            yield from ((single, "sparse"), (single, "auto"), (blocks, "block"), (blocks, "auto"))


def _native_items(policy: CompactPolicy, layouts: Sequence[Layout]) -> list[float]:
    """How often an inference has each cost: call, layers; inputs, dense or sparse; multiply-adds in each layout."""
    layers = policy_rows(policy).layers
    items = [1.0, float(len(layers)), *(0.0 for _ in range(2 + len(LAYOUTS)))]
    for layer, layout, share in zip(layers, layouts, active_shares(layers), strict=True):
        items[2 if layout == "dense" else 3] += share * layer.n_inputs
        items[4 + LAYOUTS.index(layout)] += share * layout_multiply_adds(layer)[layout]
    return items


def _onnx_figures(host: Host, onnx_act: Callable[[CompactPolicy], Act]) -> dict[str, float]:
    """Costs of onnxruntime. Raises CheckFailed."""
    policies = [random_policy(hidden, 1.0, 1) for hidden in (*SHAPES, *((width, width) for width in WIDTHS))]
    policies = [policy for policy in policies if ITEM_BYTES["dense"] * policy.connections < _room(host)]
    items = [[1.0, len(policy.layers), policy.connections] for policy in policies]
    times = _microseconds([onnx_act(policy) for policy in policies], N_OBSERVATIONS)
    return _fitted("onnxruntime", ONNXRUNTIME_COSTS, np.array(items), np.array(times))


def _fitted(runtime: str, keys: Sequence[str], items: Vector, times: Vector) -> dict[str, float]:
    """The costs whose sums are nearest to `times` (µs), relative to each time. Raises CheckFailed."""
    if not times.all():
        raise _disturbed(f"{runtime}: the clock of processor time stood still")
    costs, *_ = np.linalg.lstsq(items / times[:, None], np.ones(len(times)), rcond=None)
    for key, cost in zip(keys, costs, strict=True):
        if cost < SMALLEST_COST:
            raise _disturbed(f"{runtime}: {key} came out as zero")
    return {key: float(cost if key.endswith("_us") else 1e3 * cost) for key, cost in zip(keys, costs, strict=True)}


def _disturbed(what: str) -> CheckFailed:
    return CheckFailed(
        f"the times of {what}: something disturbed them, and no profile was written; end other programs, and run the "
        "same command again"
    )


def _bandwidths(host: Host, native: dict[str, float]) -> list[float]:
    """GB/s that the native engine reads from each cache, and from beyond the last.

    A nearer level is never slower, and the first two are not slower than the multiply-adds of smaller networks imply,
    whose weights they hold.
    """
    sizes = [cache.value for _, cache in host.caches]
    widths = [min(WIDEST, int(math.sqrt(NEAR_SHARE * size / 4))) for size in sizes]
    bandwidths = [_bandwidth(width, native) for width in (*(width for width in widths if width < WIDEST), WIDEST)]
    bandwidths += [bandwidths[-1]] * (len(widths) + 1 - len(bandwidths))
    implied = ITEM_BYTES["dense"] / native["dense_ns_per_multiply_add"]
    bandwidths[:2] = [max(bandwidth, implied) for bandwidth in bandwidths[:2]]
    return [max(bandwidths[place:]) for place in range(len(bandwidths))]


def _bandwidth(width: int, native: dict[str, float]) -> float:
    """GB/s at which a dense layer of `width` × `width` is read, all inputs being non-zero."""
    policy = _random_policy((width, width, 1), 1.0, 1)
    call, layers, inputs, _, dense, *_ = _native_items(policy, ("dense", "dense"))
    costs = native["call_overhead_us"], native["layer_overhead_us"], native["dense_input_overhead_ns"] / 1e3
    overhead = sum(count * cost for count, cost in zip((call, layers, inputs), costs, strict=True))
    rest = _microseconds([Policy(policy, "dense")], width)[0] - overhead
    if rest < overhead / 100:
        raise _disturbed(f"native: {width}×{width} weights seem to be read in no time")
    return ITEM_BYTES["dense"] * dense / rest / 1e3


def _checked(device: Device, runtime: str, make_act: Callable[[CompactPolicy], Act]) -> dict[str, float]:
    """The error ratio: how far off estimates of networks outside the fit are, as a factor minus one.

    Raises CheckFailed.
    """
    densities = CHECKED_DENSITIES if runtime == "native" else CHECKED_DENSITIES[:1]
    blocks = (1, 4) if runtime == "native" else (1,)
    policies = [
        random_policy((width, width), density, block)
        for width in CHECKED_WIDTHS
        for density in densities
        for block in blocks
    ]
    times = _microseconds([make_act(policy) for policy in policies], N_OBSERVATIONS)
    errors = []
    for policy, measured in zip(policies, times, strict=True):
        estimate = estimate_latency(device, device.runtime(runtime), policy_rows(policy).layers)
        factor = estimate.seconds * 1e6 / measured
        errors.append(max(factor, 1 / factor) - 1)
    rank = min(len(errors), math.ceil(COVERAGE * (len(errors) + 1)))
    error = sorted(errors)[rank - 1]
    if error > LARGEST_ERROR_RATIO:
        raise _disturbed(
            f"{runtime}: estimates of networks outside the fit are off by up to {error:.0%}, expected at most "
            f"{LARGEST_ERROR_RATIO:.0%}"
        )
    return {"error_ratio": max(SMALLEST_ERROR_RATIO, error)}
