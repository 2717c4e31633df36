"""From a masked network to its compact form: exact removal of dead units, optional magnitude pruning, quantisation.

A network here is a list of (weight [outputs, inputs], bias [outputs]), in any precision: float64 shows that removal is
exact. What stands between its layers and behind the last is in `Functions`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from edgerl.errors import ConfigError, UnsupportedModelError
from edgerl.policy.activation import RELU
from edgerl.policy.compact import CompactPolicy, Layer, Outliers, Precision, as_blocks, make_layer, product
from edgerl.policy.loss import action_span

Array = npt.NDArray[Any]
Affine = tuple[Array, Array]

LARGEST_VALUES: dict[str, int] = {"int8": 127, "int4": 7}

OUTLIERS: dict[str, float] = {"int8": 0.01, "int4": 0.02}
"""The share of the weights that `edgerl prune` keeps exact."""

WIDE = 10.0
"""The largest weight of a row over the root mean square of all, above which rounding may cost return: of fourteen
policies of other programs the two that lost a tenth and more have rows of 15 (docs/compress.md)."""

LARGEST_SHARE = 0.125
"""Of a row, and of all weights: an outlier takes six bytes, and with more of them fp16 is the smaller form."""


def _relu(_layer: int, sums: Array) -> Array:
    return RELU.forward(sums)


@dataclass(frozen=True)
class Functions:
    """What a network does besides its affine layers; by default ReLU between them and tanh behind the last."""

    hidden: Callable[[int, Array], Array] = _relu  # (layer, its sums [..., units]) → what the next one is given
    head: Callable[[Array], Array] = np.tanh  # outputs [..., m] → actions [..., m] in shares of half their range
    normed: frozenset[int] = frozenset()  # the layers with a norm, in which a unit without connections still counts


PLAIN = Functions()


def functions_of(policy: CompactPolicy) -> Functions:
    """Those of a policy."""
    layers, half = policy.layers, action_span(policy) / 2
    normed = frozenset(index for index, layer in enumerate(layers[:-1]) if layer.norm is not None)

    def head(outputs: Array) -> Array:
        unit: Array = np.tanh(outputs)  # exactly, where an action divided by its range would not be
        return unit if policy.head == "tanh" else policy.actions_of(outputs) / half.astype(outputs.dtype)

    return Functions(lambda index, sums: layers[index].hidden(sums), head, normed)


def network_of(policy: CompactPolicy) -> list[Affine]:
    """The affine layers of a policy, float32."""
    return [(layer.matrix(), layer.bias) for layer in policy.layers]


def remove_dead_units(network: Sequence[Affine], block: int, functions: Functions = PLAIN) -> list[Affine]:
    """The same function with fewer hidden units; repeated until nothing changes.

    A unit without outgoing weights is dropped. A unit without incoming ones is a constant, which is folded into the
    next layer's bias. With block > 1 units leave only in whole blocks; a dead unit in a living block is left as zeros.
    Constants are summed in float64 and rounded to the biases' own precision once, at the end. All units of a layer with
    a norm stay: each counts in its mean.
    """
    silenced = silence_dead_units(network, functions)
    return keep_units(silenced, living_units(silenced, block, functions))


def silence_dead_units(network: Sequence[Affine], functions: Functions = PLAIN) -> list[Affine]:
    """The same function, with the dead units that `remove_dead_units` removes kept as zeros."""
    copied = [(weight.copy(), bias.astype(np.float64)) for weight, bias in network]
    pairs = [(index, *pair) for index, pair in enumerate(pairwise(copied)) if index not in functions.normed]
    while any(_zero_dead_units(layer, following, functions, index) for index, layer, following in pairs):
        pass
    return [(weight, bias.astype(before.dtype)) for (weight, bias), (_, before) in zip(copied, network, strict=True)]


def living_units(network: Sequence[Affine], block: int, functions: Functions = PLAIN) -> list[Array]:
    """For each hidden layer which units, bool, are in a block that is not all zeros; its first block where all are,
    since no layer is empty."""
    living = []
    for index, ((weight, bias), (next_weight, _)) in enumerate(pairwise(network)):
        units = weight.any(axis=1) | (bias != 0) | next_weight.any(axis=0) | (index in functions.normed)
        blocks = np.logical_or.reduceat(units, np.arange(0, len(units), block))
        blocks[0] |= not blocks.any()
        living.append(np.repeat(blocks, block)[: len(units)])
    return living


def keep_units(network: Sequence[Affine], kept: Sequence[Array]) -> list[Affine]:
    """The network with only these units (bool) of each hidden layer."""
    smaller = list(network)
    for index, units in enumerate(kept):
        (weight, bias), (next_weight, next_bias) = smaller[index : index + 2]
        smaller[index : index + 2] = [(weight[units], bias[units]), (next_weight[:, units], next_bias)]
    return smaller


def _zero_dead_units(layer: Affine, following: Affine, functions: Functions, index: int) -> bool:
    """Turn the dead units between two layers into zeros, in place; whether anything changed."""
    (weight, bias), (next_weight, next_bias) = layer, following
    constant = ~weight.any(axis=1) & next_weight.any(axis=0)
    if constant.any():
        constants = functions.hidden(index, bias[constant])
        next_bias += product(next_weight[:, constant].astype(np.float64), constants)
        next_weight[:, constant] = 0
    unheard = ~next_weight.any(axis=0) & (weight.any(axis=1) | (bias != 0))
    weight[unheard], bias[unheard] = 0, 0
    return bool(constant.any() or unheard.any())


def weights_left(network: Sequence[Affine], sparsity: float, dense_weights: int) -> tuple[int, int]:
    """(those that hidden layers keep, so that 1 − weights / dense_weights = sparsity; those that they have now).

    Raises ConfigError where the sparsity is below the network's own, or above what the output layer allows.
    """
    present = sum(int(np.count_nonzero(weight)) for weight, _ in network)
    output = int(np.count_nonzero(network[-1][0]))
    valid = 0 <= sparsity < 1
    wanted = round(dense_weights * (1 - sparsity)) if valid else 0
    if not valid or wanted > present:
        own = 1 - present / dense_weights
        raise ConfigError(f"sparsity is {sparsity:g}; expected more than the policy's {own:.4f}, and below 1")
    if wanted <= output:
        highest = math.floor((1 - (output + 1) / dense_weights) * 1e4) / 1e4
        raise ConfigError(f"sparsity is {sparsity:g}; expected at most {highest:g}, since the output layer is kept")
    return wanted - output, present - output


def prune_by_magnitude(network: Sequence[Affine], sparsity: float, block: int, dense_weights: int) -> list[Affine]:
    """Remove the blocks with the smallest mean |w| of all hidden layers, until 1 − weights / dense_weights = sparsity.

    dense_weights: of the network as trained. The output layer is kept, as in training.

    Raises ConfigError where the sparsity is below the network's own, or above what the output layer allows.
    """
    left, present = weights_left(network, sparsity, dense_weights)
    blocks = [as_blocks(weight, block).reshape(-1, block) for weight, _ in network[:-1]]
    counts = np.concatenate([np.count_nonzero(b, axis=1) for b in blocks])
    sizes = np.concatenate([np.abs(b).sum(axis=1) / np.maximum(np.count_nonzero(b, axis=1), 1) for b in blocks])
    order = np.argsort(sizes, kind="stable")
    order = order[counts[order] > 0]
    removed = np.zeros(len(counts), bool)
    removed[order[: np.searchsorted(np.cumsum(counts[order]), present - left, side="right")]] = True
    pruned = []
    for (weight, bias), gone in zip(
        network[:-1], np.split(removed, np.cumsum([len(b) for b in blocks[:-1]])), strict=True
    ):
        by_row = np.repeat(gone.reshape(-1, weight.shape[1]), block, axis=0)[: len(weight)]
        pruned.append((np.where(by_row, weight.dtype.type(0), weight), bias))
    return [*pruned, network[-1]]


def quantise_layer(weight: Array, bias: Array, block: int, precision: Precision, exact: Array | None = None) -> Layer:
    """A layer whose weights are stored as `precision`; biases stay float32.

    int8 and int4 are symmetric with one scale per output row: weight = scale · value, |value| ≤ 127 and 7. exact:
    where their weights are kept as they are (bool [n_outputs, n_inputs]).

    Raises UnsupportedModelError where a weight does not fit into fp16.
    """
    if precision in LARGEST_VALUES:
        steps, outliers = LARGEST_VALUES[precision], None if exact is None else _outliers(weight, exact)
        if exact is not None:
            weight = np.where(exact, weight.dtype.type(0), weight)
        largest = np.abs(weight).max(axis=1)
        smallest = np.finfo(np.float32).tiny  # a denormal scale has few bits, and devices flush it
        scale = np.where(largest > 0, np.maximum(largest / steps, smallest), 1).astype(np.float32)
        values = np.rint(weight / scale[:, None]).clip(-steps, steps).astype(np.int8)
        layer = make_layer(values, bias, block, scale, is_int4=precision == "int4")
        return replace(layer, outliers=outliers)
    limit = np.finfo(np.float16 if precision == "fp16" else np.float32).max
    if np.abs(weight).max(initial=0) > limit:
        raise UnsupportedModelError(f"a weight of {np.abs(weight).max():g} does not fit into {precision}; use fp32")
    return make_layer(weight.astype(np.float16 if precision == "fp16" else np.float32), bias, block)


def _outliers(weight: Array, exact: Array) -> Outliers | None:
    """Those weights; None where there are none."""
    rows, columns = np.nonzero(exact)
    starts = np.concatenate([[0], np.cumsum(exact.sum(axis=1))])
    values = weight[rows, columns].astype(np.float32)
    return Outliers(values, columns.astype(np.uint16), starts.astype(np.uint32)) if len(rows) else None


def widest_row(layer: Layer, weight: Array) -> float:
    """The largest weight over the root mean square of those that are not zero, of the row of `weight` where it is
    largest; without the outliers of `layer`, which stores it."""
    rest = weight.astype(np.float64)
    if layer.outliers is not None:
        rest[layer.outliers.rows, layer.outliers.columns] = 0
    squares, counts = np.square(rest), np.count_nonzero(rest, axis=1)
    return math.sqrt((squares.max(axis=1) * counts / np.where(counts > 0, squares.sum(axis=1), 1)).max())


def describe_wide_rows(before: CompactPolicy, after: CompactPolicy) -> tuple[str, ...]:
    """A warning for people, of each int8 or int4 layer with a row that is WIDE; before: the same network in fp32."""
    pairs = zip(before.layers, after.layers, strict=True)
    widths = {i: widest_row(new, old.matrix()) for i, (old, new) in enumerate(pairs) if new.scale is not None}
    return tuple(
        f"layer {index} has an {after.layers[index].precision} row whose largest weight is {width:.1f} times its root "
        f"mean square (above {WIDE:g}), which rounds the others coarsely: compare returns, or keep more outliers "
        "(edgerl prune --outliers)"
        for index, width in widths.items()
        if width > WIDE
    )


def find_outliers(network: Sequence[Affine], share: float) -> list[Array]:
    """Which weights are kept exact for the least loss (bool [n_outputs, n_inputs] each): `share` of all.

    A row's squared error is its weights times the square of its scale, which its largest weight sets. Rows get
    outliers where one takes the most of that away, be it only together with the next ones.
    """
    steps = sorted(
        ((gain, layer, row, kept) for layer, (weight, _) in enumerate(network) for gain, row, kept in _steps(weight)),
        key=lambda step: -step[0],
    )
    exact = [np.zeros(weight.shape, bool) for weight, _ in network]
    left = round(share * sum(int(np.count_nonzero(weight)) for weight, _ in network))
    counts: dict[tuple[int, int], int] = {}
    for _, layer, row, kept in steps:
        more = kept - counts.get((layer, row), 0)
        if more > left:
            break
        left, counts[layer, row] = left - more, kept
    for (layer, row), kept in counts.items():
        exact[layer][row, np.argsort(-np.abs(network[layer][0][row]), kind="stable")[:kept]] = True
    return exact


def _steps(weight: Array) -> Iterator[tuple[float, int, int]]:
    """(squared error less for each of them, row, outliers of the row then): the gains of a row never rise."""
    sizes = -np.sort(-np.abs(weight.astype(np.float64)), axis=1)
    counts = np.count_nonzero(weight, axis=1)
    for row, (falling, count) in enumerate(zip(sizes, counts, strict=True)):
        most = int(count * LARGEST_SHARE)
        errors, kept = np.square(falling[: most + 1]) * (count - np.arange(most + 1)), 0
        while kept < most:
            gains = (errors[kept] - errors[kept + 1 :]) / np.arange(1, most - kept + 1)
            best = int(np.argmax(gains))
            kept += best + 1
            yield float(gains[best]), row, kept


def compact(policy: CompactPolicy, *, sparsity: float | None = None, precision: Precision = "fp32") -> CompactPolicy:
    """The policy without dead units, pruned to `sparsity` where that is given, and stored as `precision`.

    sparsity: 1 − weights / weights of a dense network of `policy`'s own widths.

    Raises ConfigError, UnsupportedModelError.
    """
    if policy.is_recurrent:
        raise UnsupportedModelError(
            f"the policy, {policy.architecture}, is recurrent, and only perceptrons can be pruned; export it as it is"
        )
    block = policy.layers[0].block
    functions = functions_of(policy)
    network = remove_dead_units(network_of(policy), block, functions)
    if sparsity is not None:
        positions = sum(layer.n_inputs * layer.n_outputs for layer in policy.layers)
        network = prune_by_magnitude(network, sparsity, block, positions)
        network = remove_dead_units(network, block, functions)
    return with_network(policy, network, precision)


@dataclass(frozen=True)
class Storage:
    """How a layer's weights are stored."""

    precision: Precision
    exact: Array | None = None  # int8 and int4: which are kept as they are, bool [n_outputs, n_inputs]; None: none are


def outlier_share(precision: Precision, outliers: float | None) -> float:
    """The share of weights that int8 and int4 keep exact; None: as much as pays (OUTLIERS). Raises ConfigError."""
    share = OUTLIERS.get(precision, 0.0) if outliers is None else outliers
    if not 0 <= share <= LARGEST_SHARE or (share and precision not in LARGEST_VALUES):
        raise ConfigError(
            f"`outliers` is {share:g} with {precision} weights; expected a share in [0, {LARGEST_SHARE}] with int8 "
            "and int4, and 0 with others"
        )
    return share


def storage_of(network: Sequence[Affine], precision: Precision, outliers: float | None = 0.0) -> list[Storage]:
    """Of each layer; outliers: see `outlier_share`. The first and the last layer, where an error is felt most, are int8
    with int4. Raises ConfigError."""
    share = outlier_share(precision, outliers)
    precisions: list[Precision] = [precision] * len(network)
    if precision == "int4":
        precisions[0] = precisions[-1] = "int8"
    exact = find_outliers(network, share) if share else [None] * len(network)
    return [Storage(*pair) for pair in zip(precisions, exact, strict=True)]


def stored(policy: CompactPolicy, network: Sequence[Affine], storage: Sequence[Storage]) -> CompactPolicy:
    """The same policy with another network, stored so. Raises UnsupportedModelError."""
    block = policy.layers[0].block
    layers = tuple(
        replace(quantise_layer(*affine, block, way.precision, way.exact), norm=layer.norm, activation=layer.activation)
        for affine, layer, way in zip(network, policy.layers, storage, strict=True)
    )
    return replace(policy, layers=layers).with_example(policy.example_observation)


def with_network(policy: CompactPolicy, network: Sequence[Affine], precision: Precision) -> CompactPolicy:
    """The same policy with another network, stored as `precision`, without outliers. Raises UnsupportedModelError."""
    return stored(policy, network, storage_of(network, precision))
