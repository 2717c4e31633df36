"""Files that could be read as another function than theirs without the comparison showing it, and those that a reader
could be ruined with: each is refused in one line, also where nothing is compared."""

from __future__ import annotations

import struct
import sys
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.helper as make
import pytest
import torch
from onnx import numpy_helper
from stable_baselines3 import PPO
from stable_baselines3.common.policies import ActorCriticPolicy
from torch import nn

import edgerl
from edgerl.errors import ConfigError, EdgerlError, FileFormatError, MissingExtraError, UnsupportedModelError
from edgerl.importers import normalizers
from edgerl.importers.options import Stated
from edgerl.importers.policy_file import read
from tests.importers.files import Task, exported, saved_checkpoint, scripted
from tests.importers.test_onnx import F32, W, _model

node = make.make_node
GEMM = node("Gemm", ["x", "w"], ["h"], transB=1)
ONES = np.ones(2, F32)
CENTRED = [
    node("Sub", ["x", "m"], ["n"]),
    node("Gemm", ["n", "w"], ["a"], transB=1),
    node("Gemm", ["x", "w"], ["b"], transB=1),
]
SPARSE = make.make_sparse_tensor(
    numpy_helper.from_array(np.array([5], F32), "v"), numpy_helper.from_array(np.array([1]), "i"), [2]
)
BRANCHES = [
    GEMM,
    node("Relu", ["h"], ["r"]),
    node("Gemm", ["x", "v"], ["g"], transB=1),
    node("Relu", ["g"], ["s"]),
    node("Concat", ["r", "s"], ["c"], axis=1),
    node("Gemm", ["c", "u"], ["y"]),
]
LAYERS = [
    part
    for i in range(70)
    for part in (node("MatMul", [f"r{i - 1}" if i else "x", "q"], [f"m{i}"]), node("Relu", [f"m{i}"], [f"r{i}"]))
]

ODD: dict[str, tuple[list[Any], dict[str, Any], str]] = {
    "branches": (BRANCHES, {"w": W, "v": 2 * W, "u": np.ones((4, 2), F32)}, "joins values that different layers made"),
    "one of two is normalised": (
        [*CENTRED, node("Concat", ["a", "b"], ["y"], axis=1)],
        {"w": W, "m": np.ones(3, F32)},
        "joins values that different layers made",
    ),
    "a gate of other sums": (
        [*CENTRED, node("Sigmoid", ["a"], ["s"]), node("Mul", ["s", "b"], ["y"])],
        {"w": W, "m": np.ones(3, F32)},
        "multiplies two computed values",
    ),
    "a gate of sums that were clipped": (
        [GEMM, node("Clip", ["h", "l", "t"], ["c"]), node("Sigmoid", ["h"], ["s"]), node("Mul", ["s", "c"], ["y"])],
        {"w": W, "l": F32(-0.1), "t": F32(0.1)},
        "multiplies two computed values",
    ),
    "Dropout in training": (
        [GEMM, node("Dropout", ["h", "ratio", "training"], ["y"])],
        {"w": W, "ratio": F32(0.5), "training": np.array(True)},
        "is in training mode",
    ),
    "BatchNormalization in training": (
        [GEMM, node("BatchNormalization", ["h", "o", "o", "o", "o"], ["y", "p", "q"], training_mode=1)],
        {"w": W, "o": ONES},
        "is in training mode",
    ),
    "a sparse constant": (
        [node("Constant", [], ["b"], sparse_value=SPARSE), GEMM, node("Add", ["h", "b"], ["y"])],
        {"w": W},
        "has a sparse constant",
    ),
    "a third dimension": (
        [node("Add", ["x", "c"], ["y"])],
        {"c": np.zeros((1, 1, 3), F32)},
        r"has a constant of the shape \[1, 1, 3\]",
    ),
    "parts of more than there is": (
        [node("Split", ["x", "i"], ["p", "q"], axis=1), node("Gemm", ["q", "w"], ["y"], transB=1)],
        {"w": W[:, :2].copy(), "i": np.array([1, 5])},
        r"splits 3 numbers into parts of \[1, 5\]",
    ),
    "a shape without its batch": (
        [node("Shape", ["x"], ["s"], start=1), node("Reshape", ["x", "s"], ["y"])],
        {},
        r"reshapes 3 numbers to \[3\]",
    ),
    "Min of three": ([GEMM, node("Min", ["h", "o", "o"], ["y"])], {"w": W, "o": ONES}, "'y' cannot be read"),
    "Add of one": ([GEMM, node("Add", ["h"], ["y"])], {"w": W}, "'y' cannot be read"),
    "indices that are not whole": (
        [node("Gather", ["x", "i"], ["y"], axis=1)],
        {"i": np.array([0, 1], F32)},
        "'y' cannot be read",
    ),
    "equal bounds": ([GEMM, node("Clip", ["h", "o", "o"], ["y"])], {"w": W, "o": F32(1)}, "low is not below its high"),
    "an infinite bias": (
        [node("Div", ["o", "z"], ["i"]), GEMM, node("Add", ["h", "i"], ["y"])],
        {"w": W, "o": F32(1), "z": F32(0)},
        "bias holds a value that is not finite",
    ),
    "weights beyond float32": (
        [node("Gemm", ["x", "w"], ["y"], transB=1, alpha=1e38)],
        {"w": 1e38 * W},
        "values holds a value that is not finite",
    ),
    "70 layers": (
        [*LAYERS, node("Gemm", ["r69", "w"], ["y"], transB=1)],
        {"w": W, "q": np.eye(3, dtype=F32)},
        "not a list of 1 to 64",
    ),
    "1e9 numbers by Concat": (
        [node("Concat", ["c"] * 10_000, ["d"], axis=0), node("Add", ["x", "d"], ["y"])],
        {"c": np.zeros(100_000, F32)},
        "makes a constant of 1000000000 numbers",
    ),
    "1e11 numbers by Gather": (
        [node("Gather", ["c", "i"], ["d"], axis=0), node("Add", ["x", "d"], ["y"])],
        {"c": np.zeros((100, 1000), F32), "i": np.zeros((1000, 1000), np.int64)},
        "makes a constant of 100000000000 numbers",
    ),
    "a chain of large constants": (
        [
            node("Add", ["p", "q"], ["c0"]),
            *(node("Neg", [f"c{i}"], [f"c{i + 1}"]) for i in range(100)),
            node("MatMul", ["x", "c100"], ["y"]),
        ],
        {"p": np.zeros((1, 4000), F32), "q": np.zeros((4000, 1), F32)},
        "all numbers together are more than 134217728",
    ),
    "rows chosen millions of times": (
        [GEMM, node("Gather", ["h", "i"], ["c"], axis=1), node("Tanh", ["c"], ["y"])],
        {"w": W, "i": np.zeros(6_000_000, np.int32)},
        "makes 6000000 × 3 weights",
    ),
    "an activation of what was clipped, at the end": (
        [GEMM, node("Clip", ["h", "l", "t"], ["c"]), node("Sigmoid", ["c"], ["y"])],
        {"w": W, "l": F32(-0.1), "t": F32(0.1)},
        "its output is the activation sigmoid of what was clipped",
    ),
    "a text": (
        [node("Cast", ["w"], ["t"], to=onnx.TensorProto.STRING), node("MatMul", ["x", "t"], ["y"])],
        {"w": W},
        "makes texts",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", ODD)
def test_what_could_be_misread_is_refused_also_unchecked(case: str, tmp_path: Path) -> None:
    nodes, constants, problem = ODD[case]
    (tmp_path / "m.onnx").write_bytes(_model(nodes, constants).SerializeToString())
    with pytest.raises(EdgerlError, match=problem) as refused:
        edgerl.import_policy(tmp_path / "m.onnx", tmp_path / "p.safetensors", check=False)
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "p.safetensors").exists()


def test_a_model_that_is_older_or_of_other_dimensions_or_has_its_own_operators(tmp_path: Path) -> None:
    def refused(model: onnx.ModelProto, problem: str) -> None:
        with pytest.raises(UnsupportedModelError, match=problem):
            read(model.SerializeToString(), tmp_path / "m.onnx", Stated())

    nodes = [node("Gemm", ["x", "w"], ["y"], transB=1)]
    model = _model(nodes, {"w": W})
    model.opset_import[0].version = 8
    refused(model, "has opset 8; expected 9 or later")
    model = _model(nodes, {"w": W})
    model.graph.input[0].type.tensor_type.shape.dim.add().dim_value = 4
    refused(model, r"has an input of 3 dimensions; expected \[batch, observation\]")
    model = _model(nodes, {"w": W})
    own = make.make_function("", "Gemm", ["x", "w"], ["y"], [node("MatMul", ["x", "w"], ["y"])], model.opset_import)
    model.functions.append(own)
    refused(model, "defines operators of ONNX anew")


def test_only_what_was_read_is_run(tmp_path: Path) -> None:
    """Beside the action stands a constant of 6.4e10 bytes, which onnxruntime would make."""
    nodes = [node("Gemm", ["x", "w"], ["action"], transB=1), node("ConstantOfShape", ["size"], ["other"])]
    model = _model(nodes, {"w": W, "size": np.array([126_000, 127_000])}, output="action")
    model.graph.output.append(make.make_tensor_value_info("other", onnx.TensorProto.FLOAT, None))
    original = read(model.SerializeToString(), tmp_path / "m.onnx", Stated())
    x = np.random.default_rng(0).normal(size=(5, 3)).astype(F32)
    np.testing.assert_allclose(original.act(x), x @ W.T, rtol=1e-5, atol=1e-6)


def test_names_in_messages_are_printable(tmp_path: Path) -> None:
    nodes = [node("Gemm", ["x", "w"], [name], transB=1) for name in ("a\x1b[31m\nb", "c")]
    model = _model(nodes, {"w": W}, output="c")
    model.graph.output.append(make.make_tensor_value_info("a\x1b[31m\nb", onnx.TensorProto.FLOAT, None))
    with pytest.raises(UnsupportedModelError, match="has the outputs c, ") as refused:
        read(model.SerializeToString(), tmp_path / "m.onnx", Stated())
    assert str(refused.value).isprintable()


def test_weights_beside_a_model_are_bounded_together(tmp_path: Path) -> None:
    path = exported(nn.Sequential(nn.Linear(9, 8), nn.ELU(), nn.Linear(8, 2)), tmp_path / "m.onnx")
    onnx.save(onnx.load(path), path, save_as_external_data=True, location="data", size_threshold=0)
    (tmp_path / "data").write_bytes(bytes(1 << 25))
    model = onnx.load(path, load_external_data=False)
    for tensor in model.graph.initializer:
        del tensor.external_data[1:]  # all of the file
    path.write_bytes(model.SerializeToString())
    with pytest.raises(FileFormatError, match="where at most 0 are read"):
        edgerl.import_policy(path, tmp_path / "p.safetensors", external_data=True)
    for location in ("\0", "x" * 300):
        model.graph.initializer[0].external_data[0].value = location
        path.write_bytes(model.SerializeToString())
        with pytest.raises(UnsupportedModelError, match="expected a regular file in its own folder"):
            edgerl.import_policy(path, tmp_path / "p.safetensors", external_data=True)


# ------------------------------------------------------------------------------------------------- checkpoints


def _named(module: nn.Module, prefix: str) -> dict[str, Any]:
    return {prefix + name: value for name, value in module.state_dict().items()}


def test_the_normaliser_of_a_distilled_policy_of_rsl_rl_3_is_read(tmp_path: Path) -> None:
    """Its StudentTeacher keeps it beside the student; that of the teacher is another's."""
    torch.manual_seed(0)
    student = nn.Sequential(nn.Linear(9, 8), nn.ELU(), nn.Linear(8, 2))
    mean, std = torch.randn(1, 9), torch.rand(1, 9)
    state = {
        **_named(student, "student."),
        **_named(student, "teacher."),
        "student_obs_normalizer._mean": mean,
        "student_obs_normalizer._std": std,
        "teacher_obs_normalizer._mean": mean + 1,
        "teacher_obs_normalizer._std": std,
        "std": torch.ones(2),
    }
    torch.save({"model_state_dict": state, "iter": 1}, tmp_path / "model.pt")
    report = edgerl.import_policy(tmp_path / "model.pt", tmp_path / "p.safetensors", activation="elu")
    x = torch.randn(20, 9)
    with torch.no_grad():
        expected = student((x - mean) / (std + 1e-2)).numpy()
    np.testing.assert_allclose(report.policy(x.numpy()), expected, rtol=1e-4, atol=1e-5)
    assert report.kind == "rsl_rl 3, distilled"


PASSED_OVER: dict[str, tuple[Any, str]] = {
    "a norm without weights": (
        {"actor_state_dict": _named(nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Tanh(), nn.Linear(4, 2)), "mlp.")},
        r"has layers mlp\.\{0, 3\}; expected affine layers mlp\.0, mlp\.2",
    ),
    "two layers in a row": (
        {"actor_state_dict": _named(nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)), "mlp.")},
        r"has layers mlp\.\{0, 1\}",
    ),
    "an encoder": (
        {
            "model_state_dict": {
                **_named(nn.Sequential(nn.Linear(3, 2)), "actor."),
                "actor.encoder.0.weight": torch.zeros(3, 3),
            }
        },
        "has the tensor 'actor.encoder.0.weight'; expected affine layers",
    ),
    "a number of thousands of digits": (
        {"actor_state_dict": {"mlp.0.weight": torch.zeros(2, 2), "mlp." + "1" * 5000 + ".weight": torch.zeros(2, 2)}},
        "has the tensor 'mlp.111",
    ),
    "a third layer of CleanRL": (
        {f"{name}.weight": torch.zeros(2, 2) for name in ("fc1", "fc2", "fc3", "fc_mu")},
        "has other hidden layers than CleanRL's fc1 and fc2",
    ),
    "many tensors without a storage": (
        {
            "actor_state_dict": {
                "mlp.0.weight": torch.zeros(2, 2),
                **{f"other{i}": torch.zeros(1).expand(1 << 23) for i in range(9)},
            }
        },
        r"has 75497476 numbers in actor_state_dict",
    ),
}


@pytest.mark.parametrize("case", PASSED_OVER)
def test_what_stands_between_or_beside_the_layers_is_not_passed_over(case: str, tmp_path: Path) -> None:
    content, problem = PASSED_OVER[case]
    torch.save(content, tmp_path / "model.pt")
    with pytest.raises(UnsupportedModelError, match=problem):
        edgerl.import_policy(tmp_path / "model.pt", tmp_path / "p.safetensors", activation="elu")


def test_a_checkpoint_that_unpacks_to_more_is_refused(tmp_path: Path) -> None:
    saved_checkpoint(tmp_path / "model.pt")
    with (
        zipfile.ZipFile(tmp_path / "model.pt") as whole,
        zipfile.ZipFile(tmp_path / "bomb.pt", "w", zipfile.ZIP_DEFLATED) as bomb,
    ):
        for name in whole.namelist():
            bomb.writestr(name, whole.read(name))
        bomb.writestr("model/data/9", bytes((1 << 28) + 1))
    with pytest.raises(UnsupportedModelError, match=r"unpacks to 2684.* bytes; expected at most 268435456"):
        edgerl.import_policy(tmp_path / "bomb.pt", tmp_path / "p.safetensors", activation="elu")


# ------------------------------------------------------------------------------------------------- stable-baselines3


def _changed_model(folder: Path, about: dict[str, Any], weights: dict[str, Any]) -> Path:
    import io
    import json

    PPO("MlpPolicy", Task(), policy_kwargs={"activation_fn": nn.ELU}, device="cpu").save(folder / "model.zip")
    with (
        zipfile.ZipFile(folder / "model.zip") as whole,
        zipfile.ZipFile(folder / "changed.zip", "w") as changed,
    ):
        for name in whole.namelist():
            data = whole.read(name)
            if name == "data":
                data = json.dumps(json.loads(data) | about).encode()
            if name == "policy.pth":
                buffer = io.BytesIO()
                torch.save(torch.load(io.BytesIO(data), weights_only=True) | weights, buffer)
                data = buffer.getvalue()
            changed.writestr(name, data)
    return folder / "changed.zip"


def test_layers_that_a_model_of_stable_baselines3_shares_with_the_critic_are_read(tmp_path: Path) -> None:
    """As in versions up to 1.7."""
    torch.manual_seed(0)
    shared, own = nn.Linear(5, 7), nn.Linear(7, 64)
    weights = {**_named(shared, "mlp_extractor.shared_net.0."), **_named(own, "mlp_extractor.policy_net.0.")}
    path = _changed_model(tmp_path, {}, weights)
    policy = edgerl.import_policy(path, tmp_path / "p.safetensors").policy
    assert policy.architecture == "5-7-64-64-2"
    first = policy.layers[0].hidden(np.ones(5, F32) @ policy.layers[0].matrix().T + policy.layers[0].bias)
    with torch.no_grad():
        np.testing.assert_allclose(first, nn.functional.elu(shared(torch.ones(5))).numpy(), atol=1e-6)


def test_what_a_model_of_stable_baselines3_does_before_its_layers_is_not_passed_over(tmp_path: Path) -> None:
    dictionary = {"observation_space": {":type:": "<class 'gymnasium.spaces.dict.Dict'>"}}
    with pytest.raises(UnsupportedModelError, match=r"observes .*Dict.*; expected one vector, a Box"):
        edgerl.import_policy(_changed_model(tmp_path, dictionary, {}), tmp_path / "p.safetensors")
    extractor = {"policy_kwargs": {"features_extractor_class": "<class 'mine.Scaled'>"}}
    with pytest.raises(UnsupportedModelError, match=r"has the features extractor .*mine.Scaled"):
        edgerl.import_policy(_changed_model(tmp_path, extractor, {}), tmp_path / "p.safetensors")


@pytest.mark.parametrize("text", [b"obs", b"actions", b"actor.0.weight"])
def test_text_that_is_none(text: bytes, tmp_path: Path) -> None:
    """Protobuf hands it on as bytes."""
    path = exported(nn.Sequential(OrderedDict(actor=nn.Sequential(nn.Linear(9, 2)))), tmp_path / "m.onnx")
    data = path.read_bytes()
    assert text in data
    path.write_bytes(data.replace(text, b"\xdc" + text[1:]))
    with pytest.raises(FileFormatError, match="is not valid: it holds text that is not UTF-8"):
        edgerl.import_policy(path, tmp_path / "p.safetensors")


class MyPolicy(ActorCriticPolicy):
    """Of another module than stable-baselines3."""


def test_a_policy_class_of_ones_own_is_mentioned(tmp_path: Path) -> None:
    PPO(MyPolicy, Task(), device="cpu").save(tmp_path / "model.zip")
    report = edgerl.import_policy(tmp_path / "model.zip", tmp_path / "p.safetensors", normalizer="none")
    assert report.notes == (
        f"its policy class is of {__name__!r}: what that does besides its layers is not in the file",
    )


def test_what_compares_is_named_where_it_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    exported(nn.Sequential(nn.Linear(9, 2)), tmp_path / "m.onnx")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingExtraError, match=r"^onnxruntime is not installed; run: pip install 'edgerl\[export\]'$"):
        edgerl.import_policy(tmp_path / "m.onnx", tmp_path / "p.safetensors")
    assert edgerl.import_policy(tmp_path / "m.onnx", tmp_path / "p.safetensors", check=False).difference is None


def test_options_that_mean_nothing_to_a_file_or_contradict_it(tmp_path: Path) -> None:
    module = nn.Sequential(nn.Linear(9, 8), nn.ELU(), nn.Linear(8, 2))
    exported(module, tmp_path / "m.onnx")
    scripted(module, tmp_path / "s.pt")
    saved_checkpoint(tmp_path / "r.pt")
    model = _changed_model(tmp_path, {}, {})
    goal = tmp_path / "p.safetensors"
    for name in ("m.onnx", "s.pt"):
        with pytest.raises(ConfigError, match="a whole computation, which has its own `activation`"):
            edgerl.import_policy(tmp_path / name, goal, activation="elu")
        with pytest.raises(ConfigError, match="a whole computation, which has its own `normalizer`"):
            edgerl.import_policy(tmp_path / name, goal, normalizer="vecnormalize.pkl")
    with pytest.raises(ConfigError, match="has its own `normalizer`, or none"):
        edgerl.import_policy(tmp_path / "r.pt", goal, activation="elu", normalizer="vecnormalize.pkl")
    with pytest.raises(ConfigError, match="`external_data` is for ONNX models"):
        edgerl.import_policy(tmp_path / "r.pt", goal, activation="elu", external_data=True)
    with pytest.raises(ConfigError, match=r"`activation` is tanh, and .*changed\.zip says elu"):
        edgerl.import_policy(model, goal, activation="tanh")
    assert edgerl.import_policy(model, goal, activation="elu").policy.layers[0].activation == "elu"


# ------------------------------------------------------------------------------------------------- pickles, programs


def test_a_pickle_that_would_make_its_reader_allocate_is_refused(tmp_path: Path) -> None:
    """Eight bytes, for which pickle would make a list of 5e8 places."""
    path = tmp_path / "v.pkl"
    path.write_bytes(b"\x80\x04Nr" + struct.pack("<I", 500_000_000) + b".")
    with pytest.raises(FileFormatError, match="memorises more than it holds"):
        normalizers.read(path)


def test_a_pickle_of_a_thousand_levels_is_refused(tmp_path: Path) -> None:
    record = b"cstable_baselines3.common.running_mean_std\nRunningMeanStd\n)R"
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\n)R(K\x01"
        + b")"
        + b"\x85" * 100_000
        + b"cnumpy\ndtype\nX\x02\0\0\0f8\x85R\x89C\x00tb"
    )
    fields = b"}X\x04\0\0\0mean" + array + b"sX\x03\0\0\0var" + array + b"sb"
    normalizer = (
        b"cstable_baselines3.common.vec_env.vec_normalize\nVecNormalize\n)R}X\x07\0\0\0obs_rms" + record + fields
    )
    (tmp_path / "v.pkl").write_bytes(b"\x80\x03" + normalizer + b"sb.")
    with pytest.raises(FileFormatError, match="is a VecNormalize that edgerl cannot read"):
        normalizers.read(tmp_path / "v.pkl")


def test_a_pickle_that_calls_a_tensor_is_refused_without_more_words(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """PyTorch warns before it refuses it."""
    torch.save(torch.zeros(3), tmp_path / "model.pt")
    with zipfile.ZipFile(tmp_path / "model.pt") as whole, zipfile.ZipFile(tmp_path / "changed.pt", "w") as changed:
        for name in whole.namelist():
            data = whole.read(name)
            changed.writestr(name, data[:-1] + b")R." if name.endswith("/data.pkl") else data)
    with pytest.raises(UnsupportedModelError, match="holds more than tensors, which loading would execute"):
        edgerl.import_policy(tmp_path / "changed.pt", tmp_path / "p.safetensors")
    assert capfd.readouterr() == ("", "")


class Writes(nn.Module):
    """A program of TorchScript that writes a file."""

    def __init__(self) -> None:
        super().__init__()
        self.actor = nn.Linear(3, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        torch.save(x, "written")
        return self.actor(x)


class Loops(Writes):
    """One that never ends."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        n = 0
        while n < 2:
            x = x + 1
        return self.actor(x)


@pytest.mark.parametrize(("module", "problem"), [(Writes(), r"calls 'torch\.save'"), (Loops(), "with a loop")])
def test_programs_that_do_more_than_compute_are_not_run(
    module: nn.Module, problem: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    scripted(module, tmp_path / "policy.pt")
    with pytest.raises(UnsupportedModelError, match=problem):
        edgerl.import_policy(tmp_path / "policy.pt", tmp_path / "p.safetensors")
    assert not Path("written").exists()


@pytest.mark.parametrize(
    "statements",
    [
        'f = torch.save\n    f(input, "written")',
        '(input).save("written")',
        'f = getattr(input, "save")\n    f("written")',
        'ops.aten.save(input, "written")',
        'f = fork(input)',
        "a = __torch__.torch.classes.profiling.SourceStats",
    ],
)  # fmt: skip
def test_no_way_to_call_an_operator_is_overlooked(
    statements: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    scripted(nn.Sequential(nn.Linear(3, 2)), tmp_path / "policy.pt")
    with zipfile.ZipFile(tmp_path / "policy.pt") as whole, zipfile.ZipFile(tmp_path / "changed.pt", "w") as changed:
        for name in whole.namelist():
            line = b"    weight = self.weight\n"
            data = whole.read(name)
            changed.writestr(name, data.replace(line, line + f"    {statements}\n".encode()) if ".py" in name else data)
    with pytest.raises(UnsupportedModelError, match="a program is not run unseen"):
        edgerl.import_policy(tmp_path / "changed.pt", tmp_path / "p.safetensors")
    assert not Path("written").exists()
