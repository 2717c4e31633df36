"""policy.safetensors: byte-exact against a file written without edgerl, and every refusal its reader can give."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgerl.errors import FileFormatError, UnsupportedModelError
from edgerl.files.tensors import pack_tensors, unpack_tensors
from edgerl.policy import format as policy_file
from edgerl.policy.activation import ACTIVATIONS, ActivationName
from edgerl.policy.cell import CELLS, CellName
from edgerl.policy.compact import CompactPolicy, Head, Precision, make_layer
from edgerl.policy.contract import UNKNOWN
from tests.policy.golden import make as golden
from tests.policy.policies import assert_same, outlier_policy, random_policy, recurrent_policy

GOLDEN = Path(__file__).parent / "golden" / "policy.safetensors"
GOLDEN_OFFSET = GOLDEN.with_name("policy-offset.safetensors")
GOLDEN_PARTS = GOLDEN.with_name("policy-parts.safetensors")
GOLDEN_CELLS = GOLDEN.with_name("policy-cells.safetensors")
GOLDEN_CONTRACT = GOLDEN.with_name("policy-contract.safetensors")
GOLDEN_OUTLIERS = GOLDEN.with_name("policy-outliers.safetensors")
SOURCE = Path("policy.safetensors")

Metadata = dict[str, Any]
Tensors = dict[str, Any]


def test_the_golden_file_is_what_its_script_makes() -> None:
    assert GOLDEN.read_bytes() == golden.make()
    assert GOLDEN_OFFSET.read_bytes() == golden.make("offset")
    assert GOLDEN_PARTS.read_bytes() == golden.make("parts")
    assert GOLDEN_CELLS.read_bytes() == golden.make("cells")
    assert GOLDEN_CONTRACT.read_bytes() == golden.make("contract")
    assert GOLDEN_OUTLIERS.read_bytes() == golden.make("outliers")


def test_the_golden_file_is_read_and_written_byte_for_byte() -> None:
    for path in (GOLDEN, GOLDEN_OFFSET, GOLDEN_PARTS, GOLDEN_CELLS, GOLDEN_CONTRACT, GOLDEN_OUTLIERS):
        assert policy_file.to_bytes(policy_file.load(path)) == path.read_bytes()


def test_the_golden_files_content() -> None:
    policy = policy_file.load(GOLDEN)
    hidden, output = policy.layers
    assert policy.architecture == "2-5-2"
    assert hidden.matrix().tolist() == [[0, 0.5], [0, -1], [0, 2], [0, 0], [1.5, 0]]
    assert (output.matrix() * 128).tolist() == [[127, 0, -127, 1, -1], [4, 6, 10, 14, -22]]
    assert (policy.connections, hidden.stored_weights, hidden.n_bytes) == (13, 8, 2 * 8 + 4 * 5 + 2 * 2 + 4 * 3)
    assert (policy.action_low.tolist(), policy.action_high.tolist()) == ([-1, -3], [2, 0.5])
    assert policy.metadata == {"environment": "Golden-v0", "note": "é", "return": 1e-05}
    np.testing.assert_allclose(policy(policy.example_observation), golden.EXAMPLE, rtol=1e-6)
    np.testing.assert_allclose(policy.example_action, golden.EXAMPLE, rtol=1e-6)


def test_the_golden_file_with_an_offset() -> None:
    policy = policy_file.load(GOLDEN_OFFSET)
    assert policy.observation_offset is not None
    assert policy.observation_offset.tolist() == [5_800_000, 0]
    assert policy.example_observation.tolist() == [5_800_001.25, -1]
    np.testing.assert_allclose(policy(policy.example_observation), golden.SHIFTED_EXAMPLE, rtol=1e-6)
    np.testing.assert_allclose(policy.example_action, golden.SHIFTED_EXAMPLE, rtol=1e-6)


def test_the_golden_file_with_parts() -> None:
    policy = policy_file.load(GOLDEN_PARTS)
    hidden = policy.layers[0]
    assert (hidden.activation, policy.head, policy.observation_clip) == ("elu", "clip", 4.0)
    assert hidden.norm is not None
    assert (hidden.norm.scale.tolist(), hidden.norm.epsilon) == ([1, 1, 2, 1, 1], 0.25)
    assert (policy.action_low.tolist(), policy.action_high.tolist()) == ([-1, -3], [2, np.inf])
    np.testing.assert_allclose(policy(policy.example_observation), golden.EXAMPLE_OF_PARTS, rtol=1e-6)
    np.testing.assert_allclose(policy.example_action, golden.EXAMPLE_OF_PARTS, rtol=1e-6)


def test_the_golden_file_with_a_contract() -> None:
    """It is the plain one but for that, and so in its version: programs that know no contract run it all the same."""
    policy = policy_file.load(GOLDEN_CONTRACT)
    assert policy_file.version_of(policy) == 1
    assert policy.contract.as_dict() == golden.CONTRACT
    assert policy.contract.observation_terms_clip == ((-4, np.inf),)
    assert policy.contract.rate_hz == 50
    assert_same(replace(policy, contract=UNKNOWN), policy_file.load(GOLDEN))


def test_the_golden_file_with_cells() -> None:
    policy = policy_file.load(GOLDEN_CELLS)
    assert policy.architecture == "1-lstm1-gru1-1"
    assert (policy.n_observations, policy.n_state) == (1, 3)
    seen = (1.0, -0.5, 2.0, 0.25)
    np.testing.assert_allclose(
        policy(np.array(seen)[:, None], np.float64)[:, 0], golden.actions_of_cells(seen), rtol=1e-12
    )
    np.testing.assert_allclose(policy.example_action, golden.actions_of_cells((1.0,)), rtol=1e-6)


def test_the_golden_file_with_outliers() -> None:
    policy = policy_file.load(GOLDEN_OUTLIERS)
    hidden, output = policy.layers
    assert hidden.matrix().tolist() == [[0, 0.5], [0, -1], [0, 2], [0, 0], [1.5, 0]]
    assert (hidden.precision, hidden.connections, hidden.n_bytes) == ("int4", 4, 5 + 4 * 5 + 4 * 5)
    assert (output.matrix() * 128).tolist() == [[127, 32, -127, 1, -1], [4, 6, 10, 14, -22]]
    assert (output.connections, output.n_bytes) == (10, 10 + 4 * 2 + 4 * 2 + 4 + 2 + 4 * 3)
    np.testing.assert_allclose(policy(policy.example_observation), golden.EXAMPLE_OF_OUTLIERS, rtol=1e-6)
    np.testing.assert_allclose(policy.example_action, golden.EXAMPLE_OF_OUTLIERS, rtol=1e-6)


@given(
    st.integers(0, 2**32),
    st.sampled_from(list(CELLS)),
    st.integers(1, 3),
    st.sampled_from([0, 6]),
    st.sampled_from([1, 4]),
    st.sampled_from(["fp32", "fp16", "int8"]),
    st.sampled_from([0, 0.2, 1]),
)
@settings(max_examples=30)
def test_round_trip_of_cells(
    seed: int, kind: CellName, cells: int, before: int, block: int, precision: Precision, density: float
) -> None:
    policy, _ = recurrent_policy(
        kind, cells=cells, before=before, seed=seed, block=block, precision=precision, density=density
    )
    data = policy_file.to_bytes(policy)
    again = policy_file.from_bytes(data, SOURCE)
    assert_same(again, policy)
    assert policy_file.to_bytes(again) == data
    assert policy_file.version_of(policy) == 3


@given(
    st.integers(0, 2**32),
    st.lists(st.integers(1, 11), min_size=2, max_size=4),
    st.sampled_from([1, 4]),
    st.sampled_from(["fp32", "fp16", "int8"]),
    st.booleans(),
    st.sampled_from([0, 0.1, 0.5, 1]),
    st.booleans(),
)
def test_round_trip(
    seed: int, widths: list[int], block: int, precision: Precision, normalize: bool, density: float, offset: bool
) -> None:
    policy = random_policy(seed, tuple(widths), block, precision, normalize, density, offset)
    data = policy_file.to_bytes(policy)
    again = policy_file.from_bytes(data, SOURCE)
    assert_same(again, policy)
    assert policy_file.to_bytes(again) == data


@given(
    st.integers(0, 2**32),
    st.sampled_from(list(ACTIVATIONS)),
    st.booleans(),
    st.sampled_from(["tanh", "clip"]),
    st.one_of(st.none(), st.sampled_from([0.5, 10.0])),
    st.booleans(),
)
def test_round_trip_of_all_parts(
    seed: int, activation: ActivationName, norm: bool, head: Head, clip: float | None, offset: bool
) -> None:
    policy = random_policy(seed, activation=activation, norm=norm, head=head, clip=clip, offset=offset)
    data = policy_file.to_bytes(policy)
    again = policy_file.from_bytes(data, SOURCE)
    assert_same(again, policy)
    assert policy_file.to_bytes(again) == data
    is_plain = (activation, norm, head, clip) == ("relu", False, "tanh", None)
    assert policy_file.version_of(policy) == (3 if not is_plain else 2 if offset else 1)


@given(
    st.integers(0, 2**32),
    st.lists(st.integers(1, 30), min_size=2, max_size=4),
    st.sampled_from([1, 4]),
    st.sampled_from([0.2, 1]),
    st.booleans(),
    st.sampled_from(get_args(Head)),
    st.sampled_from(["int8", "int4"]),
)
def test_round_trip_of_outliers(
    seed: int, widths: list[int], block: int, density: float, offset: bool, head: Head, precision: Precision
) -> None:
    policy = outlier_policy(seed, tuple(widths), block, precision, density=density, offset=offset, head=head)
    data = policy_file.to_bytes(policy)
    again = policy_file.from_bytes(data, SOURCE)
    assert_same(again, policy)
    assert policy_file.to_bytes(again) == data
    is_new = any(layer.outliers is not None or layer.is_int4 for layer in policy.layers)
    assert (policy_file.version_of(policy) == 4) == is_new


def test_the_last_layer_has_no_norm() -> None:
    policy = random_policy(0, norm=True)
    with pytest.raises(ValueError, match="the last layer has a norm"):
        replace(policy, layers=policy.layers[:1])


def test_save_and_load(tmp_path: Path) -> None:
    policy = random_policy(0)
    policy_file.save(policy, tmp_path / "p.safetensors")
    assert_same(policy_file.load(str(tmp_path / "p.safetensors")), policy)
    assert [path.name for path in tmp_path.iterdir()] == ["p.safetensors"]


def test_metadata_survives_whatever_json_can_say() -> None:
    about = {
        "": [],
        "sha256": "x",
        "kind": "y",
        "nested": {"list": [1, 2.5, None, True, "\u2028\ud800"]},
        "big": 10**30,
    }
    policy = replace(random_policy(0), metadata=about)
    assert policy_file.from_bytes(policy_file.to_bytes(policy), SOURCE).metadata == about


# Hostile files, all with a valid checksum. Two layers, 4-6-2: a sparse one in blocks of 4 whose second block row is two
# wide, and a dense int8 one.


def _valid() -> tuple[Metadata, Tensors]:
    layers = [
        {"inputs": 4, "outputs": 6, "block": 4, "layout": "sparse", "precision": "fp32"},
        {"inputs": 6, "outputs": 2, "block": 4, "layout": "dense", "precision": "int8"},
    ]
    values = np.arange(1, 13, dtype=np.float32).reshape(3, 4)
    values[2, 2:] = 0
    tensors = {
        "layers.0.values": values,
        "layers.0.columns": np.array([1, 3, 0], np.uint16),
        "layers.0.row_starts": np.array([0, 2, 3], np.uint32),
        "layers.0.bias": np.ones(6, np.float32),
        "layers.1.values": np.arange(12, dtype=np.int8).reshape(2, 6),
        "layers.1.scale": np.ones(2, np.float32),
        "layers.1.bias": np.ones(2, np.float32),
        "action.low": np.array([-1, -2], np.float32),
        "action.high": np.array([1, 0.5], np.float32),
        "observation.mean": np.zeros(4, np.float32),
        "observation.scale": np.ones(4, np.float32),
        "example.observation": np.zeros(4, np.float32),
        "example.action": np.zeros(2, np.float32),
    }
    return {"layers": layers, "about": {}}, tensors


def _load(metadata: Metadata, tensors: Tensors, version: int = 1) -> CompactPolicy:
    return policy_file.from_bytes(pack_tensors("policy", version, metadata, tensors), SOURCE)


def _refused(metadata: Metadata, tensors: Tensors, problem: str, version: int = 1) -> None:
    with pytest.raises(
        FileFormatError, match=rf"^policy\.safetensors is not valid: [^\n]*{problem}[^\n]*; make the file again$"
    ):
        _load(metadata, tensors, version)


def test_the_file_that_the_hostile_ones_differ_from_is_valid() -> None:
    policy = _load(*_valid())
    assert policy.layers[0].matrix()[:, 3].tolist() == [5, 6, 7, 8, 0, 0]
    assert policy.layers[0].matrix()[:, 0].tolist() == [0, 0, 0, 0, 9, 10]


@pytest.mark.parametrize("name", [name for name in _valid()[1] if not name.startswith("observation")])
def test_a_missing_tensor(name: str) -> None:
    metadata, tensors = _valid()
    del tensors[name]
    _refused(metadata, tensors, f"tensor {name} is missing")


@pytest.mark.parametrize("name", ["mean", "scale"])
def test_normalisation_by_halves(name: str) -> None:
    metadata, tensors = _valid()
    del tensors[f"observation.{name}"]
    _refused(metadata, tensors, r"tensor observation\.(mean|scale) is missing")
    tensors = {key: tensor for key, tensor in tensors.items() if not key.startswith("observation")}
    assert _load(metadata, tensors).observation_mean is None


@pytest.mark.parametrize("name", list(_valid()[1]))
def test_a_tensor_of_another_type(name: str) -> None:
    metadata, tensors = _valid()
    tensors[name] = tensors[name].astype(np.float64)
    _refused(metadata, tensors, rf"{name} is float64\[.*\], expected [a-z]+[0-9]+\[.*\]")


@pytest.mark.parametrize("name", list(_valid()[1]))
@pytest.mark.parametrize("change", ["longer", "shorter", "deeper", "number"])
def test_a_tensor_of_another_shape(name: str, change: str) -> None:
    metadata, tensors = _valid()
    tensor = tensors[name]
    tensors[name] = {
        "longer": np.concatenate([tensor, tensor[:1]]),
        "shorter": tensor[:-1],
        "deeper": tensor[..., None],
        "number": tensor.ravel()[0].reshape(()),
    }[change]
    problem = r"is \w+\[.*\], expected \w+\[.*\]"
    _refused(metadata, tensors, problem)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", [name for name, tensor in _valid()[1].items() if tensor.dtype == np.float32])
def test_a_value_that_is_not_finite(name: str, value: float) -> None:
    metadata, tensors = _valid()
    tensors[name].flat[0] = value
    _refused(metadata, tensors, f"{name} holds a value that is not finite")


def _set(name: str, index: Any, value: Any) -> Callable[[Metadata, Tensors], None]:
    def change(_: Metadata, tensors: Tensors) -> None:
        tensors[name][index] = value

    return change


def _describe(layer: int, **changes: Any) -> Callable[[Metadata, Tensors], None]:
    def change(metadata: Metadata, _: Tensors) -> None:
        metadata["layers"][layer] |= changes

    return change


def _metadata(**changes: Any) -> Callable[[Metadata, Tensors], None]:
    return lambda metadata, _: metadata.update(changes)


def _surplus(name: str) -> Callable[[Metadata, Tensors], None]:
    return lambda _, tensors: tensors.update({name: np.zeros(1)})


def _without(key: str) -> Callable[[Metadata, Tensors], None]:
    def change(metadata: Metadata, _: Tensors) -> None:
        for layer in metadata["layers"]:
            layer.pop(key)

    return change


TOO_MANY = "has .*, expected 1 to 65536"
NOT_DESCRIBED = "is not described by inputs, outputs, block, layout, precision"

HOSTILE = {
    "column out of range": (_set("layers.0.columns", 1, 4), "layer 0 has a connection from input 4, expected below 4"),
    "columns fall": (_set("layers.0.columns", slice(0, 2), [3, 1]), "columns of layer 0 are not strictly increasing"),
    "column twice": (_set("layers.0.columns", 0, 3), "columns of layer 0 are not strictly increasing in each row"),
    "row starts fall": (_set("layers.0.row_starts", 1, 4), "row starts of layer 0 do not rise from 0 to its 3 blocks"),
    "row starts late": (_set("layers.0.row_starts", 0, 1), "row starts of layer 0 do not rise"),
    "row starts end early": (_set("layers.0.row_starts", 2, 2), "row starts of layer 0 do not rise"),
    "row starts end late": (_set("layers.0.row_starts", 2, 4), "row starts of layer 0 do not rise"),
    "row starts huge": (_set("layers.0.row_starts", 1, 2**32 - 1), "row starts of layer 0 do not rise"),
    "padding": (_set("layers.0.values", (2, 3), 1), "layer 0 has weights beyond its 6 outputs"),
    "low equals high": (_set("action.low", 0, 1), "an action bound's low is not below its high"),
    "low above high": (_set("action.low", 1, 3), "an action bound's low is not below its high"),
    "surplus tensor": (_surplus("layers.2.bias"), r"tensor 'layers\.2\.bias' does not belong in a policy"),
    "surplus tensor, odd name": (_surplus("a\n" * 99), r"tensor '(a\\n)+' does not belong in a policy"),
    "scale of fp32": (_surplus("layers.0.scale"), r"tensor 'layers\.0\.scale' does not belong in a policy"),
    "index of dense": (_surplus("layers.1.columns"), r"tensor 'layers\.1\.columns' does not belong in a policy"),
    "layers do not fit": (_describe(1, inputs=7), r"layers\.1\.values is int8\[2, 6\], expected int8\[2, 7\]"),
    "block 3": (_describe(0, block=3), "layer 0 has block 3 and layout 'sparse'"),
    "block true": (_describe(1, block=True), "layer 1 has block True and layout 'dense'"),
    "block 4.0": (_describe(1, block=4.0), "layer 1 has block 4.0"),
    "layout": (_describe(0, layout="\x1b[1m\n"), r"layer 0 has block 4 and layout '\\x1b\[1m\\n'"),
    "layout list": (_describe(0, layout=[]), r"layer 0 has block 4 and layout \[\]"),
    "precision": (_describe(0, precision="fp64"), "layer 0 has precision 'fp64', expected fp32, fp16, int8"),
    "precision list": (_describe(0, precision=["fp32"]), r"layer 0 has precision \['fp32'\]"),
    "precision of another": (_describe(0, precision="fp16"), "layers.0.values is float32.* expected float16"),
    "inputs true": (_describe(0, inputs=True), f"layer 0 {TOO_MANY}"),
    "inputs text": (_describe(0, inputs="4\n"), r"layer 0 has '4\\n' inputs, expected 1 to 65536"),
    "inputs float": (_describe(0, inputs=4.0), f"layer 0 {TOO_MANY}"),
    "inputs none": (_describe(0, inputs=None), f"layer 0 {TOO_MANY}"),
    "inputs 0": (_describe(0, inputs=0), f"layer 0 {TOO_MANY}"),
    "outputs negative": (_describe(1, outputs=-1), f"layer 1 {TOO_MANY}"),
    "outputs too many": (_describe(1, outputs=65537), f"layer 1 {TOO_MANY}"),
    "outputs huge": (_describe(1, outputs=10**4000), f"layer 1 {TOO_MANY}"),
    "positions": (_describe(0, inputs=65536, outputs=257), "layer 0 is 257 × 65536, expected at most 16777216"),
    "no layers": (_metadata(layers=[]), "its layers are not a list of 1 to 64"),
    "65 layers": (_metadata(layers=[{}] * 65), "its layers are not a list of 1 to 64"),
    "layers object": (_metadata(layers={"0": {}}), "its layers are not a list of 1 to 64"),
    "layers none": (_metadata(layers=None), "its layers are not a list of 1 to 64"),
    "layer list": (_metadata(layers=[[]]), f"layer 0 {NOT_DESCRIBED}"),
    "layer key missing": (_without("block"), f"layer 0 {NOT_DESCRIBED}"),
    "layer key surplus": (_describe(0, activation="relu"), f"layer 0 {NOT_DESCRIBED}"),
    "about list": (_metadata(about=[]), "its metadata 'about' is not a JSON object"),
    "about none": (_metadata(about=None), "its metadata 'about' is not a JSON object"),
}  # fmt: skip


@pytest.mark.parametrize(("change", "problem"), HOSTILE.values(), ids=HOSTILE)
def test_hostile_file(change: Callable[[Metadata, Tensors], None], problem: str) -> None:
    metadata, tensors = _valid()
    change(metadata, tensors)
    _refused(metadata, tensors, problem)


def _valid_parts() -> tuple[Metadata, Tensors]:
    """The same in version 3, with a norm, an upper bound that is infinite, and without normalisation."""
    metadata, tensors = _valid()
    metadata |= {"head": "clip", "observation_clip": 5.0}
    metadata["layers"][0] |= {"activation": "silu", "norm_epsilon": 1e-5}
    tensors["action.high"][1] = np.inf
    norm = {"layers.0.norm_scale": np.ones(6, np.float32), "layers.0.norm_shift": np.zeros(6, np.float32)}
    return metadata, tensors | norm


HOSTILE_PARTS = {
    "activation": (_describe(0, activation="swish"), "layer 0 has activation 'swish', expected relu, identity, leaky"),
    "activation list": (_describe(0, activation=["relu"]), r"layer 0 has activation \['relu'\]"),
    "epsilon 0": (_describe(0, norm_epsilon=0.0), "layer 0 has a norm with epsilon 0.0, expected a number above 0"),
    "epsilon whole": (_describe(0, norm_epsilon=1), "layer 0 has a norm with epsilon 1, expected a number above 0"),
    "epsilon huge": (_describe(0, norm_epsilon=1e200), "layer 0 has a norm with epsilon 1e.200"),
    "norm without tensors": (lambda _, tensors: tensors.pop("layers.0.norm_shift"), "tensor layers.0.norm_shift is"),
    "tensors without norm": (_describe(0, norm_epsilon=None), "tensor 'layers.0.norm_scale' does not belong"),
    "norm not finite": (_set("layers.0.norm_scale", 0, np.inf), "layers.0.norm_scale holds a value that is not finite"),
    "parts of the last layer": (_describe(1, activation="relu", norm_epsilon=None), f"layer 1 {NOT_DESCRIBED}"),
    "parts missing": (lambda metadata, _: metadata["layers"][0].pop("activation"), "layer 0 is not described by .*"),
    "head": (_metadata(head="softmax"), "its head is 'softmax', expected tanh or clip"),
    "head list": (_metadata(head=["clip"]), r"its head is \['clip'\]"),
    "clip 0": (_metadata(observation_clip=0.0), "its observation clip is 0.0, expected a number above 0, or null"),
    "clip text": (_metadata(observation_clip="5"), "its observation clip is '5'"),
    "bound NaN": (_set("action.low", 0, np.nan), "action.low holds a value that is not a number"),
    "infinite bounds of tanh": (_metadata(head="tanh"), "action.high holds a value that is not finite"),
    "bounds reversed": (_set("action.low", 1, np.inf), "an action bound's low is not below its high"),
}  # fmt: skip


@pytest.mark.parametrize(("change", "problem"), HOSTILE_PARTS.values(), ids=HOSTILE_PARTS)
def test_hostile_parts(change: Callable[[Metadata, Tensors], object], problem: str) -> None:
    metadata, tensors = _valid_parts()
    assert _load(metadata, tensors, 3).layers[0].activation == "silu"
    change(metadata, tensors)
    _refused(metadata, tensors, problem, 3)


HOSTILE_CELLS = {
    "gates": (_describe(0, outputs=3), "layer 0, of 2 inputs and 3 outputs, is no lstm: expected outputs for four"),
    "units": (_describe(0, inputs=1), "layer 0, of 1 inputs and 4 outputs, is no lstm"),
    "norm": (_describe(0, norm_epsilon=0.5), "layer 0, of 2 inputs and 4 outputs, is no lstm: .* no norm"),
    "of outputs": (_set("layers.1.values", (2, 1), 1), "layer 1, a gru, has weights where it must have none"),
    "of inputs": (_set("layers.1.values", (3, 0), 1), "layer 1, a gru, has weights where it must have none"),
    "next": (_describe(2, inputs=4), "layer 1 has 1 outputs, the next 4 inputs"),
    "last": (_describe(2, activation="lstm", norm_epsilon=None), f"layer 2 {NOT_DESCRIBED}"),
}  # fmt: skip


@pytest.mark.parametrize(("change", "problem"), HOSTILE_CELLS.values(), ids=HOSTILE_CELLS)
def test_hostile_cells(change: Callable[[Metadata, Tensors], object], problem: str) -> None:
    read, tensors = unpack_tensors(golden.make("cells"), SOURCE, "policy", (3,))
    metadata = {key: read[key] for key in ("layers", "about", "head", "observation_clip")}
    tensors = {name: tensor.copy() for name, tensor in tensors.items()}
    change(metadata, tensors)
    for index, layer in enumerate(metadata["layers"]):
        shape = layer["outputs"], layer["inputs"]
        tensors[f"layers.{index}.values"] = np.resize(tensors[f"layers.{index}.values"], shape)
        tensors[f"layers.{index}.bias"] = np.resize(tensors[f"layers.{index}.bias"], shape[0])
    _refused(metadata, tensors, problem, 3)


def _shortened(_: Metadata, tensors: Tensors) -> None:
    tensors["layers.0.values"] = tensors["layers.0.values"][:4]


def _as_fp16(metadata: Metadata, tensors: Tensors) -> None:
    metadata["layers"][0] |= {"precision": "fp16", "outliers": 1}
    tensors["layers.0.values"] = np.zeros((5, 2), np.float16)
    del tensors["layers.0.scale"]


HOSTILE_OUTLIERS = {
    "count": (_describe(1, outliers=11), "layer 1 has 11 outliers, expected a whole number, one a weight at most"),
    "negative": (_describe(1, outliers=-1), "layer 1 has -1 outliers"),
    "text": (_describe(1, outliers="1"), "layer 1 has '1' outliers"),
    "true": (_describe(1, outliers=True), "layer 1 has True outliers"),
    "key missing": (lambda metadata, _: metadata["layers"][0].pop("outliers"), "layer 0 is not described by .*"),
    "of fp16": (_as_fp16, "layer 0 has outliers beside fp16 weights, expected int8 or int4"),
    "none of them": (_describe(1, outliers=0), "tensor 'layers.1.outlier_columns' does not belong"),
    "tensor missing": (lambda _, tensors: tensors.pop("layers.1.outlier_values"), "tensor layers.1.outlier_values is"),
    "not finite": (_set("layers.1.outlier_values", 0, np.nan), "layers.1.outlier_values holds a value that is not"),
    "column": (_set("layers.1.outlier_columns", 0, 5), "layer 1 has a connection from input 5, expected below 5"),
    "starts": (_set("layers.1.outlier_row_starts", 2, 2), "the row starts of layer 1 do not rise from 0 to its 1"),
    "below -7": (_set("layers.0.values", 0, 0x80), "layers.0.values holds a value below -7, or one too many"),
    "int4 shape": (_shortened, "layers.0.values is uint8.4., expected uint8.5."),
    "int4 as int8": (_describe(0, precision="int8"), "layers.0.values is uint8.5., expected int8.5, 2."),
    "int4 without scale": (lambda _, tensors: tensors.pop("layers.0.scale"), "tensor layers.0.scale is missing"),
    "second weight": (_set("layers.1.outlier_columns", 0, 2), "layer 1 has an outlier where it has another weight"),
}  # fmt: skip


@pytest.mark.parametrize(("change", "problem"), HOSTILE_OUTLIERS.values(), ids=HOSTILE_OUTLIERS)
def test_hostile_outliers(change: Callable[[Metadata, Tensors], object], problem: str) -> None:
    read, tensors = unpack_tensors(golden.make("outliers"), SOURCE, "policy", (4,))
    metadata = {key: read[key] for key in ("layers", "about", "head", "observation_clip")}
    tensors = {name: tensor.copy() for name, tensor in tensors.items()}
    change(metadata, tensors)
    _refused(metadata, tensors, problem, 4)


def test_a_cell_has_no_outliers() -> None:
    read, tensors = unpack_tensors(golden.make("cells"), SOURCE, "policy", (3,))
    metadata = {key: read[key] for key in ("layers", "about", "head", "observation_clip")}
    for layer in metadata["layers"]:
        layer["outliers"] = 0
    assert _load(metadata, tensors, 4).is_recurrent
    metadata["layers"][0] |= {"precision": "int8", "outliers": 1}
    tensors |= {
        "layers.0.values": np.zeros((4, 2), np.int8),
        "layers.0.scale": np.ones(4, np.float32),
        "layers.0.outlier_values": np.ones(1, np.float32),
        "layers.0.outlier_columns": np.zeros(1, np.uint16),
        "layers.0.outlier_row_starts": np.array([0, 1, 1, 1, 1], np.uint32),
    }
    _refused(
        metadata, tensors, "layer 0, of 2 inputs and 4 outputs, is no lstm: .* no norm, no outliers and no int4", 4
    )


def test_layers_that_do_not_fit_together() -> None:
    metadata, tensors = _valid()
    metadata["layers"][1] |= {"inputs": 3}
    tensors["layers.1.values"] = tensors["layers.1.values"][:, :3]
    _refused(metadata, tensors, "layer 0 has 6 outputs, the next 3 inputs")


def test_a_metadata_key_that_is_missing() -> None:
    for key, problem in (("layers", "its layers are not a list"), ("about", "'about' is not a JSON object")):
        metadata, tensors = _valid()
        del metadata[key]
        _refused(metadata, tensors, problem)


def test_a_sparse_layer_of_dense_index_is_refused_where_two_rows_are_one() -> None:
    """Rows of one block each: the columns may fall from row to row, but not inside one."""
    metadata, tensors = _valid()
    tensors["layers.0.row_starts"][1] = 3
    tensors["layers.0.values"][2] = 1
    _refused(metadata, tensors, "columns of layer 0 are not strictly increasing")
    tensors["layers.0.columns"][:] = [0, 1, 3]
    assert _load(metadata, tensors).layers[0].matrix()[4:].any() == np.False_


def _empty_layers(count: int, width: int) -> tuple[Metadata, Tensors]:
    layer = {"inputs": width, "outputs": width, "block": 4, "layout": "sparse", "precision": "fp32"}
    tensors: Tensors = {}
    for index in range(count):
        tensors[f"layers.{index}.values"] = np.zeros((0, 4), np.float32)
        tensors[f"layers.{index}.columns"] = np.zeros(0, np.uint16)
        tensors[f"layers.{index}.row_starts"] = np.zeros(-(-width // 4) + 1, np.uint32)
        tensors[f"layers.{index}.bias"] = np.zeros(width, np.float32)
    for name in ("action.low", "example.observation", "example.action"):
        tensors[name] = np.zeros(width, np.float32)
    tensors["action.high"] = np.ones(width, np.float32)
    return {"layers": [layer] * count, "about": {}}, tensors


def test_a_small_file_cannot_unfold_to_gigabytes() -> None:
    assert _load(*_empty_layers(4, 4096)).connections == 0
    _refused(*_empty_layers(5, 4096), "its layers have more than 67108864 positions")
    assert _load(*_empty_layers(64, 2)).architecture == "-".join(["2"] * 65)


def test_what_the_format_cannot_hold_is_not_made() -> None:
    wide = np.zeros((1, 65537), np.float32)
    with pytest.raises(UnsupportedModelError, match=r"a layer is 1 × 65537; expected at most 65536 units"):
        make_layer(wide, np.zeros(1), 1)
    with pytest.raises(UnsupportedModelError, match=r"a layer is 65537 × 1; expected at most 65536 units"):
        make_layer(wide.T, np.zeros(65537), 1)
    large = np.broadcast_to(np.float32(0), (4097, 4096))
    with pytest.raises(UnsupportedModelError, match=r"a layer is 4097 × 4096; .* 16777216 weights"):
        make_layer(large, np.zeros(4097), 1)


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_numbers_that_are_no_json(number: str) -> None:
    """An old trap: such a text cannot be hashed, and no hash must not pass for the right one."""
    data = GOLDEN.read_bytes()
    (length,) = struct.unpack_from("<Q", data)
    header = json.loads(data[8 : 8 + length])
    metadata = json.loads(header["__metadata__"]["edgerl"])
    text = json.dumps({**metadata, "sha256": ""}, sort_keys=True, separators=(",", ":")).replace("1e-05", number)
    header["__metadata__"]["edgerl"] = text
    changed = json.dumps(header).encode()
    with pytest.raises(FileFormatError, match=r"is not an edgerl tensor file, or is truncated \([^\n]*\)$"):
        policy_file.from_bytes(struct.pack("<Q", len(changed)) + changed + data[8 + length :], SOURCE)


def test_an_offset_belongs_to_version_2_and_only_there() -> None:
    metadata, tensors = _valid()
    shift = {"example.observation": np.zeros(4), "observation.offset": np.full(4, 1e7)}
    assert _load(metadata, tensors | shift, 2).observation_offset is not None
    _refused(metadata, tensors | shift, r"example\.observation is float64\[4\], expected float32\[4\]")
    _refused(metadata, tensors | {"observation.offset": np.full(4, 1e7)}, "tensor 'observation.offset' does not belong")
    _refused(metadata, tensors, r"tensor observation\.offset is missing", 2)
    shift["example.observation"] = np.zeros(4, np.float32)
    _refused(metadata, tensors | shift, r"example\.observation is float32\[4\], expected float64\[4\]", 2)


@pytest.mark.parametrize("number", [0.5, -1e7 - 0.25, 2.0**53 + 2, -1e300])
def test_an_offset_is_whole_and_exact_in_float64(number: float) -> None:
    metadata, tensors = _valid()
    offset = np.array([0, 1e7, -(2.0**53), number])
    shift = {"example.observation": np.zeros(4), "observation.offset": offset}
    _refused(
        metadata, tensors | shift, r"observation\.offset holds a number that is not whole or beyond ±9\.0072e\+15", 2
    )


def test_a_file_of_another_kind() -> None:
    with pytest.raises(FileFormatError, match=r"policy\.safetensors holds 'checkpoint'; expected 'policy'"):
        policy_file.from_bytes(pack_tensors("checkpoint", 1, {}, {}), SOURCE)
    with pytest.raises(FileFormatError, match=r"has format version 5; this edgerl reads version 1 or 2 or 3 or 4"):
        policy_file.from_bytes(pack_tensors("policy", 5, {}, {}), SOURCE)


def test_the_specification_lists_as_many_refusals_as_the_reader_has() -> None:
    specification = (Path(__file__).parents[2] / "docs" / "format.md").read_text()
    _, _, section = specification.partition("### Refusals of a policy")
    section, _, _ = section.partition("\n## ")
    listed = [line for line in section.splitlines() if line.split(".")[0].isdecimal()]
    source = Path(policy_file.__file__).read_text()
    assert len(listed) == source.count("raise self.fail(")
