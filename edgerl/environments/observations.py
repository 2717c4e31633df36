"""Names of the numbers of an observation, where MuJoCo has them: "front thigh angle", "left foot contact force z"."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from typing import Any

from edgerl.environments.arguments import NOTHING, Arguments
from edgerl.environments.consent import may_be_code
from edgerl.environments.make import registered
from edgerl.errors import EdgerlError

AXES = ("x", "y", "z")
INERTIA = ("xx", "yy", "zz", "xy", "xz", "yz", "mass · x", "mass · y", "mass · z", "mass")
"""Of a body in `cinert`, as MuJoCo lays it out: the rotational inertia, mass times the centre's offset, the mass."""

FREE, BALL, SLIDE = range(3)
"""mjtJoint; the rest are hinges."""


def observation_names(environment: str, n_observations: int, arguments: Arguments = NOTHING) -> tuple[str, ...] | None:
    """A name for each of the observations of a gymnasium id; None where they are unknown.

    gymnasium's MuJoCo tasks of version 5 state the parts of an observation (`observation_structure`), and MuJoCo names
    the joints and bodies. An environment that is code (see `may_be_code`) is not run for its names.
    """
    if may_be_code(environment, arguments):
        return None
    try:
        with closing(registered(environment, **arguments)) as made:
            names = _names(made.unwrapped)
    except EdgerlError:
        return None
    return names if names is not None and len(names) == n_observations else None


def fallback_names(n_observations: int) -> tuple[str, ...]:
    """Names by index, counted from 0."""
    return tuple(f"observation {index}" for index in range(n_observations))


def _names(environment: Any) -> tuple[str, ...] | None:
    structure, model = getattr(environment, "observation_structure", None), getattr(environment, "model", None)
    if not isinstance(structure, dict) or model is None:
        return None
    positions, velocities = list(_coordinates(model, velocity=False)), list(_coordinates(model, velocity=True))
    bodies = [_readable(model.body(index).name) or f"body {index}" for index in range(1, model.nbody)]
    skipped = int(structure.get("skipped_qpos", 0))
    parts = {
        "skipped_qpos": [],
        "qpos": positions[skipped:],
        "qvel": velocities,
        "cinert": [f"{body} inertia {part}" for body in bodies for part in INERTIA],
        "cvel": [
            f"{body} {kind} velocity {axis}" for body in bodies for kind in ("angular", "linear") for axis in AXES
        ],
        "qfrc_actuator": [f"{name.removesuffix(' velocity')} actuator force" for name in velocities[6:]],
        "cfrc_ext": [
            f"{body} contact {kind} {axis}" for body in bodies for kind in ("torque", "force") for axis in AXES
        ],
    }
    names: list[str] = []
    for part, size in structure.items():
        if not size or part == "skipped_qpos":
            continue
        if part not in parts or len(parts[part]) != size:
            return None
        names += parts[part]
    return tuple(names)


def _coordinates(model: Any, *, velocity: bool) -> Iterator[str]:
    """The name of each number of qpos or qvel, joint by joint."""
    for index in range(model.njnt):
        joint, kind = model.joint(index), int(model.jnt_type[index])
        name = _readable(joint.name) or f"joint {index}"
        if kind == FREE:
            if velocity:
                yield from (f"{name} {of} velocity {axis}" for of in ("linear", "angular") for axis in AXES)
            else:
                yield from (f"{name} position {axis}" for axis in AXES)
                yield from (f"{name} orientation {part}" for part in ("w", *AXES))
        elif kind == BALL:
            parts = AXES if velocity else ("w", *AXES)
            yield from (f"{name} {'velocity' if velocity else 'orientation'} {part}" for part in parts)
        elif velocity:
            yield f"{name} velocity"
        else:
            yield f"{name} {'position' if kind == SLIDE else 'angle'}"


ABBREVIATIONS = {"b": "back", "f": "front"}
"""HalfCheetah's: bthigh, ffoot."""


def _readable(name: str) -> str:
    """rootz → root z, bthigh → back thigh, thigh_left_joint → thigh left."""
    words = [word for word in name.split("_") if word not in ("", "joint")]
    joined = " ".join(words)
    if joined.startswith("root") and joined[4:] in AXES:
        return f"root {joined[4:]}"
    if joined[:1] in ABBREVIATIONS and joined[1:] in ("thigh", "shin", "foot"):
        return f"{ABBREVIATIONS[joined[0]]} {joined[1:]}"
    return joined
