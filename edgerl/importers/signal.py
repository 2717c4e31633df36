"""What a network computes, while its file is read: a value as an affine function of the network's last vector.

A reader begins with the observation and applies, step by step, what the file says: scaling, matrices, norms,
activations, clips. Scales, signs, choices and orders are folded into the matrix before or behind them, so that what
comes out is a plain chain of layers; all numbers are float64 until then.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from edgerl.policy.activation import ActivationName
from edgerl.policy.cell import CELLS, GATES, CellName
from edgerl.policy.compact import MAXIMUM_POSITIONS, Array, CompactPolicy, Head, LayerNorm, make_layer

SATURATED = 9.0
"""Where tanh is ±1 but for 3e-8: a clip there, or beyond, changes nothing before it."""


class Unfit(ValueError):  # noqa: N818 — a reader makes an error of it, which names the place
    """A step that a policy cannot hold; the message says why."""


@dataclass(frozen=True)
class Affine:
    """bias + weight x for a vector x [inputs]. Without a weight: bias + scale · x[index]."""

    bias: Array  # [outputs]
    index: Array  # [outputs]; empty where there is a weight, like the scale
    scale: Array  # [outputs]
    weight: Array | None = None  # [outputs, inputs]

    @staticmethod
    def identity(size: int) -> Affine:
        """x itself."""
        return Affine(np.zeros(size), np.arange(size), np.ones(size))

    @staticmethod
    def matrix(weight: Array, bias: Array) -> Affine:
        """With a weight."""
        return Affine(bias, np.zeros(0, np.int64), np.zeros(0), weight)

    def weights(self, inputs: int) -> Array:
        """The weight [outputs, inputs], made where there is none."""
        if self.weight is not None:
            return self.weight
        made = np.zeros((_checked(len(self.bias), inputs), inputs))
        made[np.arange(len(self.bias)), self.index] = self.scale
        return made

    def times(self, factor: Array) -> Affine:
        """Times `factor` [outputs]."""
        if self.weight is not None:
            return Affine.matrix(self.weight * factor[:, None], self.bias * factor)
        return replace(self, bias=self.bias * factor, scale=self.scale * factor)

    def chosen(self, rows: Array) -> Affine:
        """These outputs, in this order."""
        if self.weight is not None:
            _checked(len(rows), self.weight.shape[1])
            return Affine.matrix(self.weight[rows], self.bias[rows])
        return Affine(self.bias[rows], self.index[rows], self.scale[rows])

    def behind(self, weight: Array, bias: Array, inputs: int) -> Affine:
        """weight · (this one) + bias."""
        _checked(len(weight), inputs)
        if self.weight is not None:
            return Affine.matrix(weight @ self.weight, weight @ self.bias + bias)
        product = np.zeros((len(weight), inputs))
        np.add.at(product.T, self.index, (weight * self.scale).T)
        return Affine.matrix(product, weight @ self.bias + bias)


def _checked(outputs: int, inputs: int) -> int:
    """The number of outputs. Raises Unfit, before anything is allocated, where the matrix is too large."""
    if outputs * inputs > MAXIMUM_POSITIONS:
        raise Unfit(f"makes {outputs} × {inputs} weights; expected at most {MAXIMUM_POSITIONS}")
    return outputs


@dataclass(frozen=True)
class Hidden:
    """A complete layer."""

    affine: Affine  # with a weight
    norm: LayerNorm | None
    activation: ActivationName | CellName

    @property
    def size(self) -> int:
        """How many numbers it gives."""
        return len(self.affine.bias) // (GATES if self.activation in CELLS else 1)


@dataclass(frozen=True)
class Signal:
    """A value: `affine` of the vector that the last of `hidden` layers makes, or else of the observation.

    Once a layer or a clip has taken the observation, `normaliser` is what stands between that and the observation, and
    `clip` the bound of the result, where there is one.
    """

    n_observations: int
    affine: Affine
    hidden: tuple[Hidden, ...] = ()
    norm: LayerNorm | None = None  # which waits for its activation
    bounds: tuple[Array, Array] | None = None  # low and high [outputs], where the last steps clipped it
    normaliser: Affine | None = None  # without a weight, in the observation's order
    clip: float | None = None

    @staticmethod
    def observation(size: int) -> Signal:
        """The first one."""
        return Signal(size, Affine.identity(size))

    @property
    def size(self) -> int:
        """How many numbers."""
        return len(self.affine.bias)

    @property
    def inputs(self) -> int:
        """How many numbers the vector has that it is a function of."""
        return self.hidden[-1].size if self.hidden else self.n_observations

    @property
    def is_sums(self) -> bool:
        """Whether a layer's matrix made it, without an activation yet."""
        return self.affine.weight is not None

    def times(self, factor: Array | float) -> Signal:
        """Times a number, or one for each."""
        if self._is_clipped_observation:
            return self._with_clip().times(factor)
        factors = np.broadcast_to(np.asarray(factor, np.float64), self.size)
        if self.norm is not None:
            scale, shift = self.norm.scale * factors, self.norm.shift * factors
            return replace(self, norm=replace(self.norm, scale=scale, shift=shift))
        return replace(self, affine=self.affine.times(factors), bounds=self._changed(lambda bound: bound * factors))

    def plus(self, term: Array | float) -> Signal:
        """Plus a number, or one for each."""
        if self._is_clipped_observation:
            return self._with_clip().plus(term)
        terms = np.broadcast_to(np.asarray(term, np.float64), self.size)
        if self.norm is not None:
            return replace(self, norm=replace(self.norm, shift=self.norm.shift + terms))
        affine = replace(self.affine, bias=self.affine.bias + terms)
        return replace(self, affine=affine, bounds=self._changed(lambda bound: bound + terms))

    def chosen(self, rows: Array) -> Signal:
        """These numbers, in this order."""
        if self._is_clipped_observation:
            return self._with_clip().chosen(rows)
        if self.norm is not None:
            raise Unfit("takes a part of what a norm makes")
        return replace(self, affine=self.affine.chosen(rows), bounds=self._changed(lambda bound: bound[rows]))

    def _changed(self, change: Callable[[Array], Array]) -> tuple[Array, Array] | None:
        """The bounds after a change of all numbers."""
        if self.bounds is None:
            return None
        ends = change(self.bounds[0]), change(self.bounds[1])
        return np.minimum(*ends), np.maximum(*ends)

    def joined(self, *others: Signal) -> Signal:
        """With the others behind it; all must be functions of one vector."""
        parts = [part._with_clip() if part._is_clipped_observation else part for part in (self, *others)]
        if not all(part.has_vector_of(parts[0]) for part in parts):
            raise Unfit("joins values that different layers made")
        if any(part.norm is not None or part.bounds is not None for part in parts):
            raise Unfit("joins values behind a norm or a clip")
        affines = [part.affine for part in parts]
        _checked(sum(part.size for part in parts), 1 if all(each.weight is None for each in affines) else self.inputs)
        bias = np.concatenate([each.bias for each in affines])
        if all(each.weight is None for each in affines):
            index, scale = (np.concatenate([getattr(each, name) for each in affines]) for name in ("index", "scale"))
            return replace(parts[0], affine=Affine(bias, index, scale))
        weight = np.concatenate([each.weights(self.inputs) for each in affines])
        return replace(parts[0], affine=Affine.matrix(weight, bias))

    def has_vector_of(self, other: Signal) -> bool:
        """Whether both are affine functions of one vector: behind the same layers, normaliser and clip."""
        if self.hidden is not other.hidden or self.clip != other.clip:
            return False
        first, second = self.normaliser, other.normaliser
        if first is None or second is None:
            return first is second
        return np.array_equal(first.scale, second.scale) and np.array_equal(first.bias, second.bias)

    def linear(self, weight: Array, bias: Array | float = 0.0) -> Signal:
        """weight [outputs, inputs] · x + bias."""
        if weight.shape[1] != self.size:
            raise Unfit(f"has weights for {weight.shape[1]} inputs and gets {self.size}")
        if self._is_clipped_observation:
            return self._with_clip().linear(weight, bias)
        before = self.activated("identity") if self.is_sums else self._with_normaliser()
        if before.bounds is not None:
            raise Unfit("multiplies what was clipped")
        biases = np.broadcast_to(np.asarray(bias, np.float64), len(weight))
        return replace(before, affine=before.affine.behind(weight.astype(np.float64), biases, before.inputs))

    def cell(self, name: CellName, weight: Array, bias: Array) -> Signal:
        """A recurrent cell: weight [4 units, inputs + units], bias [4 units], see edgerl.policy.cell."""
        units = len(weight) // GATES
        fed = self.linear(weight[:, :-units], bias)
        joined = np.concatenate([fed.affine.weights(fed.inputs), weight[:, -units:]], axis=1)
        done = Hidden(Affine.matrix(joined, fed.affine.bias), None, name)
        return replace(fed, affine=Affine.identity(units), hidden=(*fed.hidden, done))

    def _with_normaliser(self) -> Signal:
        """With what stands before the first layer as its normaliser, where that is in the observation's order."""
        if self.hidden or self.normaliser is not None or not np.array_equal(self.affine.index, np.arange(self.inputs)):
            return self
        constant = np.where(self.affine.scale == 0, self.affine.bias, 0)  # what no mean can express
        rest = replace(Affine.identity(self.inputs), bias=constant)
        return replace(self, affine=rest, normaliser=replace(self.affine, bias=self.affine.bias - constant))

    def normed(self, norm: LayerNorm) -> Signal:
        """LayerNorm of a layer's sums."""
        if not self.is_sums or self.norm is not None or self.bounds is not None:
            raise Unfit("normalises what is not a layer's sums")
        return replace(self, norm=norm)

    def activated(self, activation: ActivationName) -> Signal:
        """An activation of a layer's sums, which completes the layer."""
        if not self.is_sums:
            raise Unfit(f"is the activation {activation} without a layer before it")
        if self.bounds is not None and not (activation == "tanh" and _are_wide(self.bounds)):
            raise Unfit(f"is the activation {activation} of what was clipped")
        done = Hidden(self.affine, self.norm, activation)
        return replace(self, affine=Affine.identity(self.size), hidden=(*self.hidden, done), norm=None, bounds=None)

    def clipped(self, low: Array | float, high: Array | float) -> Signal:
        """At least `low`, and at most `high`: numbers, or one for each; they may be infinite."""
        lows, highs = (np.broadcast_to(np.asarray(bound, np.float64), self.size) for bound in (low, high))
        if np.any(lows > highs):
            raise Unfit("clips to a lower bound above the upper one")
        if self.norm is not None:
            raise Unfit("clips what a norm makes")
        if self.bounds is not None:
            lows, highs = np.clip(self.bounds[0], lows, highs), np.clip(self.bounds[1], lows, highs)
        return replace(self, bounds=(lows, highs))

    @property
    def _is_clipped_observation(self) -> bool:
        """Whether it is the observation behind a clip, whose other side may still follow."""
        return not self.hidden and not self.is_sums and self.bounds is not None

    def _with_clip(self) -> Signal:
        """The clipped observation, with its bounds as the policy's clip."""
        assert self.bounds is not None
        lows, highs = self.bounds
        ready, bound = replace(self, bounds=None)._with_normaliser(), float(highs[0])
        is_plain = ready.normaliser is not None and ready.clip is None and not ready.affine.bias.any()
        if not is_plain or not (0 < bound < np.inf) or np.any(highs != bound) or np.any(lows != -bound):
            raise Unfit("clips the observation otherwise than to [−c, c], all of it, once")
        return replace(ready, clip=bound)

    @np.errstate(over="ignore")  # a number too large for float32 becomes infinite, which no file holds
    def policy(self) -> CompactPolicy:
        """The policy whose actions this value is; without an example and what it says about itself."""
        ended, head = self._with_head()
        assert ended.bounds is not None
        low, high = (bound.astype(np.float32) for bound in ended.bounds)
        layers = [make_layer(each.affine.weight.astype(np.float32), each.affine.bias, 1) for each in ended.hidden]  # type: ignore[union-attr]
        for index, each in enumerate(ended.hidden[:-1]):
            layers[index] = replace(layers[index], norm=_float32(each.norm), activation=each.activation)
        mean, scale = _normalisation(ended.normaliser)
        return CompactPolicy(
            layers=tuple(layers),
            action_low=low,
            action_high=high,
            observation_mean=mean,
            observation_scale=scale,
            observation_clip=ended.clip,
            head=head,
        )

    def _with_head(self) -> tuple[Signal, Head]:
        """All as hidden layers, the last one's activation being the head's; with the bounds of the actions."""
        if not self.hidden and not self.is_sums:
            raise Unfit("holds no layer")
        if self.is_sums and self.norm is None:
            unbounded = np.full(self.size, -np.inf), np.full(self.size, np.inf)
            done = Hidden(self.affine, None, "identity")
            return replace(self, hidden=(*self.hidden, done), bounds=self.bounds or unbounded), "clip"
        if self.norm is None and self._ends_in_tanh():
            return self._with_tanh_as_head(), "tanh"
        ready = self.activated("identity") if self.is_sums else self
        affine = Affine.matrix(ready.affine.weights(ready.inputs), ready.affine.bias)
        return replace(ready, affine=affine)._with_head()

    def _ends_in_tanh(self) -> bool:
        """Whether it is tanh of a layer, scaled and shifted, and no clip narrows that."""
        last, reach = self.hidden[-1], np.abs(self.affine.scale)
        if last.activation != "tanh" or last.norm is not None or not reach.all():
            return False
        if self.bounds is None:
            return True
        room = (1 - 1e-6) * reach
        is_wide = (self.bounds[0] <= self.affine.bias - room) & (self.bounds[1] >= self.affine.bias + room)
        return bool(is_wide.all())

    def _with_tanh_as_head(self) -> Signal:
        """With the signs and the order of the actions in the last layer."""
        sums, reach = self.hidden[-1].affine.chosen(self.affine.index), np.abs(self.affine.scale)
        last = Hidden(sums.times(np.sign(self.affine.scale)), None, "tanh")
        bounds = self.affine.bias - reach, self.affine.bias + reach
        return replace(self, hidden=(*self.hidden[:-1], last), bounds=bounds)


def _are_wide(bounds: tuple[Array, Array]) -> bool:
    """Whether tanh does not see them."""
    return bool(bounds[0].max() <= -SATURATED and bounds[1].min() >= SATURATED)


def _float32(norm: LayerNorm | None) -> LayerNorm | None:
    return norm and replace(norm, scale=norm.scale.astype(np.float32), shift=norm.shift.astype(np.float32))


def _normalisation(normaliser: Affine | None) -> tuple[Array | None, Array | None]:
    """(mean, scale) of the observation, float32; None where it is taken as it is."""
    if normaliser is None or (np.all(normaliser.scale == 1) and not normaliser.bias.any()):
        return None, None
    scale = np.where(normaliser.scale == 0, 1, normaliser.scale)
    return (-normaliser.bias / scale).astype(np.float32), normaliser.scale.astype(np.float32)
