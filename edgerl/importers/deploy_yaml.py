"""deploy.yaml of unitree_rl_lab and unitree_rl_mjlab: the contract of a policy for one of Unitree's robots.

Its gains are in the order of the robot's motors, everything else in that of the policy's joints; `joint_ids_map` has
the motor of each joint. Here gains are put in the order of joints, too.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

from edgerl.errors import FileFormatError, quoted, reason, require
from edgerl.files.atomic import read_bytes
from edgerl.files.kind import TEXT, refuse_other_kinds
from edgerl.policy.contract import MAXIMUM_ITEMS, Contract, from_dict

MAXIMUM_BYTES = 1 << 16
"""Unitree's own have two thousand."""

_SLICE = "tag:yaml.org,2002:python/object/apply:builtins.slice"
"""The one tag that they have: of joints which are all the joints."""


def read(path: Path) -> Contract:
    """The contract that the file states. Raises FileFormatError, MissingExtraError."""
    data = read_bytes(path, MAXIMUM_BYTES)
    refuse_other_kinds(data, path, "a deploy.yaml of unitree_rl_lab", TEXT)
    try:
        return _contract(_loaded(data))
    except ValueError as error:
        raise FileFormatError(f"{path} is no deploy.yaml of unitree_rl_lab that can be read: it has {error}") from error


def merged(stated: Contract, read_with_it: Contract) -> Contract:
    """What a contract states, and where it states nothing, what the policy's own file says."""
    known = {name: getattr(stated, name) for name in stated.as_dict()}
    return replace(read_with_it, **known)


def _loaded(data: bytes) -> Any:
    """The plain lists, mappings, texts and numbers in a YAML text. Raises ValueError."""
    yaml = require("yaml", "export")

    class Loader(yaml.SafeLoader):  # type: ignore[misc,name-defined]  # loaded when it is needed
        """Knows no tag of Python but a slice, which it reads as a list; no aliases, of which bombs are made."""

        def compose_node(self, parent: Any, index: Any) -> Any:
            if self.check_event(yaml.AliasEvent):
                raise yaml.YAMLError("an alias, expected every value in its own place")
            return super().compose_node(parent, index)

        def construct_mapping(self, node: Any, deep: bool = False) -> Any:
            mapping = super().construct_mapping(node, deep)
            if len(mapping) != len(node.value):
                raise yaml.YAMLError("a name twice in one mapping")
            return mapping

    Loader.add_constructor(_SLICE, lambda loader, node: loader.construct_sequence(node))
    try:
        return yaml.load(data, Loader)  # a SafeLoader
    except Exception as error:  # PyYAML's constructors raise what an odd value leads them to
        raise ValueError(f"no YAML: {reason(error)}") from error


def _contract(stated: Any) -> Contract:
    if not isinstance(stated, dict):
        raise ValueError("no mapping of names to values")
    joints, motors = _list(stated, "default_joint_pos"), _list(stated, "joint_ids_map")
    actions, terms = (_parts(stated, name) for name in ("actions", "observations"))
    if any(action.get("joint_ids") not in (None, [None] * 3, list(range(len(joints)))) for action in actions.values()):
        raise ValueError("an action with joint_ids, expected all joints in their order")
    scales, clips = [_list(term, "scale") for term in terms.values()], [term.get("clip") for term in terms.values()]
    contract = {
        "step_dt": [stated.get("step_dt")],
        "observation_names": list(terms),
        "observation_terms_size": [len(scale) for scale in scales],
        "observation_terms_scale": [scale[:1] if scale.count(scale[0]) == len(scale) else scale for scale in scales],
        "observation_terms_clip": [_clip(clip) for clip in clips] if any(clips) else [],
        "observation_terms_flatten_history_dim": [1] * len(terms),
        "observation_terms_history_length": [term.get("history_length", 1) for term in terms.values()],
        "command_names": list(_parts(stated, "commands")),
        "joint_ids_map": motors,
        "default_joint_pos": joints,
        "joint_stiffness": _of_joints(_list(stated, "stiffness"), motors),
        "joint_damping": _of_joints(_list(stated, "damping"), motors),
        "action_scale": list(chain.from_iterable(_list(action, "scale") for action in actions.values())),
        "action_offset": list(chain.from_iterable(_list(action, "offset") for action in actions.values())),
    }
    if any(action.get("clip") for action in actions.values()):
        bounds = chain.from_iterable(_list(action, "clip") for action in actions.values())
        contract["action_clip"] = [_clip(each) for each in bounds]
    return from_dict(contract)  # `joint_names` of an action are patterns, in no order


def _of_joints(gains: list[Any], motors: list[Any]) -> list[Any]:
    """Gains of the motors, in the order of joints; of the motors that have a joint, where there are no more."""
    if not all(type(motor) is int for motor in motors):
        raise ValueError("a joint_ids_map of other things than whole numbers")
    numbers = sorted(motors) if len(gains) == len(motors) else list(range(len(gains)))
    try:
        return [gains[numbers.index(motor)] for motor in motors]
    except ValueError:
        raise ValueError(f"{len(gains)} gains for the {len(motors)} motors of joint_ids_map") from None


def _parts(stated: Mapping[str, Any], name: str) -> Mapping[str, Mapping[str, Any]]:
    """The mapping of that name, of names to mappings."""
    parts = stated.get(name)
    if not isinstance(parts, dict) or not all(isinstance(part, dict) for part in parts.values()):
        raise ValueError(f"no {name}, expected a mapping of mappings")
    return parts


def _list(stated: Mapping[str, Any], name: str) -> list[Any]:
    values = stated.get(name)
    if not isinstance(values, list) or not 0 < len(values) <= MAXIMUM_ITEMS:
        raise ValueError(f"{name} of {quoted(values)}, expected a list of 1 to {MAXIMUM_ITEMS}")
    return values


def _clip(bounds: Any) -> Any:
    """As a contract has it: None for no bound."""
    if not isinstance(bounds, list):
        return [None, None] if bounds is None else bounds
    return [None if isinstance(bound, float) and math.isinf(bound) else bound for bound in bounds]
