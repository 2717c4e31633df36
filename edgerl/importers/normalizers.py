"""Statistics of observations in a file of their own: a VecNormalize of stable-baselines3, or arrays in an .npz.

A VecNormalize is a pickle, which is read as data: edgerl.importers.pickled.
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgerl.errors import FileFormatError, UnsupportedModelError, quoted, reason
from edgerl.files.atomic import read_bytes
from edgerl.importers import pickled
from edgerl.importers.pickled import PickledArray, Record
from edgerl.importers.state_dict import Network
from edgerl.policy.compact import MAXIMUM_UNITS, Array

MAXIMUM_BYTES = 1 << 24

NONE = "none"
"""Instead of a file: the policy takes observations as they are."""


@dataclass(frozen=True)
class Statistics:
    """observation → clip((observation − mean) / √(variance + epsilon), ±clip)."""

    mean: Array  # float64 [n]
    variance: Array  # float64 [n]
    epsilon: float
    clip: float  # infinite: none


class _Normalizer(Record):
    """VecNormalize itself."""


_STAND_INS: Mapping[str, type[Record]] = {
    "stable_baselines3.common.vec_env.vec_normalize.VecNormalize": _Normalizer,
    "stable_baselines3.common.running_mean_std.RunningMeanStd": Record,
    "gymnasium.spaces.box.Box": Record,
    "gym.spaces.box.Box": Record,
    "gymnasium.spaces.dict.Dict": Record,
}


def read(path: Path) -> Statistics | None:
    """What is done with observations; None where a VecNormalize leaves them.

    Raises FileFormatError, UnsupportedModelError.
    """
    data = _read(path)
    return _arrays(data, path) if data.startswith(b"PK") else _vec_normalize(data, path)


def _read(path: Path) -> bytes:
    data = read_bytes(path)
    if len(data) > MAXIMUM_BYTES:
        raise UnsupportedModelError(f"{path} has {len(data)} bytes; expected statistics, of at most {MAXIMUM_BYTES}")
    return data


def _arrays(data: bytes, path: Path) -> Statistics:
    """From an .npz with mean and var, and perhaps epsilon and clip: without them as VecNormalize has them."""
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            found = {
                name: np.asarray(arrays[name], np.float64)
                for name in ("mean", "var", "epsilon", "clip")
                if name in arrays
            }
        epsilon, clip = (float(found.get(name, default)) for name, default in (("epsilon", 1e-8), ("clip", np.inf)))
        return _checked(found["mean"].reshape(-1), found["var"].reshape(-1), epsilon, clip)
    except Exception as error:  # numpy's, zipfile's, zlib's and ours
        raise FileFormatError(
            f"{path} is not an .npz with `mean` and `var` of observations ({reason(error)})"
        ) from error


def reward_deviation(stated: str | Path | None) -> float:
    """What a VecNormalize divides rewards by; 1 where it leaves them, and where there is none.

    Raises FileFormatError.
    """
    if stated is None or str(stated) == NONE:
        return 1.0
    path = Path(stated)
    data = _read(path)
    fields = {} if data.startswith(b"PK") else _loaded(data, path).fields
    if fields.get("norm_reward") is not True:
        return 1.0
    try:
        return math.sqrt(_number(fields["ret_rms"].fields["var"]) + _number(fields["epsilon"]))
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        raise FileFormatError(f"{path} is a VecNormalize that edgerl cannot read: it has {reason(error)}") from error


def _vec_normalize(data: bytes, path: Path) -> Statistics | None:
    fields = _loaded(data, path).fields
    if fields.get("norm_obs") is False:
        return None
    try:
        return _statistics(fields)
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        raise FileFormatError(f"{path} is a VecNormalize that edgerl cannot read: it has {reason(error)}") from error


def _loaded(data: bytes, path: Path) -> _Normalizer:
    try:
        found = pickled.load(data, _STAND_INS)
    except Exception as error:  # a hostile pickle can make it raise anything
        raise FileFormatError(
            f"{path} is not a VecNormalize of stable-baselines3, as its save() writes ({reason(error)})"
        ) from error
    if not isinstance(found, _Normalizer):
        raise FileFormatError(f"{path} is a pickle of something else than a VecNormalize of stable-baselines3")
    return found


def apply(stated: str | Path | None, network: Network) -> None:
    """Normalise the observations of a network that has no layer yet, by the statistics in a file; NONE: not at all.

    Raises FileFormatError, UnsupportedModelError.
    """
    if stated is None or str(stated) == NONE:
        return
    path = Path(stated)
    statistics, size = read(path), network.signal.size
    if statistics is None:
        return
    if statistics.mean.size != size:
        raise UnsupportedModelError(
            f"{path} has statistics of {statistics.mean.size} numbers; the policy takes {size} observations"
        )
    network.normalised(statistics.mean, np.sqrt(statistics.variance + statistics.epsilon))
    if np.isfinite(statistics.clip):
        network.clipped(-statistics.clip, statistics.clip)


def _statistics(fields: dict[str, Any]) -> Statistics:
    running = fields["obs_rms"].fields
    mean, variance = (running[name].made() for name in ("mean", "var"))
    epsilon, clip = (_number(fields[name]) for name in ("epsilon", "clip_obs"))
    return _checked(mean, variance, epsilon, clip)


def _checked(mean: Array, variance: Array, epsilon: float, clip: float) -> Statistics:
    """Raises ValueError."""
    if mean.shape != variance.shape or mean.ndim != 1 or not 1 <= mean.size <= MAXIMUM_UNITS:
        raise ValueError(f"statistics of the shapes {mean.shape} and {variance.shape}")
    if not np.isfinite(mean).all() or not np.isfinite(variance).all() or np.any(variance + epsilon <= 0):
        raise ValueError("statistics that are not finite, or a negative variance")
    if not clip > 0:
        raise ValueError(f"the clip {clip}")
    return Statistics(mean, variance, epsilon, clip)


def _number(value: Any) -> float:
    number = value.made().item() if isinstance(value, PickledArray) else value
    if isinstance(number, bool) or not isinstance(number, int | float) or not 0 < number < 1e30:
        raise ValueError(f"the number {quoted(value)}")
    return float(number)
