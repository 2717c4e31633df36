"""Which programs read policy.onnx, and how exactly: the table of docs/onnx.md, measured.

    python benchmarks/readers.py [READER …]

Every reader is installed in an environment of its own, in a temporary folder, and removed after its turn; pip and npm
need PyPI and the npm registry. The oldest onnxruntime needs a Python 3.6 from pyenv or the PATH. A reader that cannot
be installed is listed as not tried.

The files: a normalised policy, 17-256-256-m with a tenth of the connections, for each m of ACTIONS and each variant.
Each is loaded by a process of its own, which acts on 1000 observations one at a time and all at once: within one
standard deviation, up to a million deviations, with zeros, and with denormal numbers. The error is the largest
difference to the policy in float64, in shares of the action range, over actions that float32 resolves to 1e-5: first of
the ordinary observations, then of those beyond one deviation.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from edgerl.commands.export import export_policy
from edgerl.export.onnx import graph as onnx_export
from edgerl.policy.compact import Array, CompactPolicy, Precision, make_layer

HIDDEN = (17, 256, 256)
ACTIONS = (1, 6, 8, 17)
DENSITY = 0.1
VARIANTS: dict[str, tuple[Precision, bool]] = {
    "fp32": ("fp32", False),
    "fp16": ("fp16", False),
    "int8": ("int8", False),
    "sparse": ("fp32", True),
}
"""Name → (precision, with sparse initialisers)."""

RESOLVED = 1e-5
EXTREME = range(400, 800)
"""The observations of more than one deviation."""

Errors = tuple[float, float]
"""The largest within one deviation, of zeros and of denormal numbers; and the largest up to a million deviations."""

SECONDS = 300
"""For one file, compilation included."""

PYTHON = """
import os, sys
import numpy as np
path, n = sys.argv[1], int(sys.argv[2])
observations = np.fromfile("observations.f32", np.float32).reshape(-1, n)
def done(one, all_at_once):
    np.concatenate([one, all_at_once]).astype(np.float32).tofile("actions.f32")
def each(act):
    return np.concatenate([np.array(act(observations[i : i + 1])).reshape(1, -1) for i in range(len(observations))])
def run(act):
    done(each(act), np.array(act(observations)))
"""
"""Before each program in Python, for Python 3.6: `act` takes [batch, n] and returns [batch, m]."""

ONNXRUNTIME = """
import onnxruntime
session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
run(lambda x: session.run(["action"], {"observation": x})[0])
"""

OPENVINO = """
import openvino
core = openvino.Core()
compiled = core.compile_model(core.read_model(path), "CPU", OPTIONS)
run(lambda x: compiled(x)[0])
"""

OPENCV = """
import cv2
net = cv2.dnn.readNetFromONNX(path)
def act(x):
    net.setInput(x)
    return net.forward()
run(act)
"""

TRACT = """
import tract
runnable = tract.onnx().load(path).into_model().into_runnable()
run(lambda x: runnable.run([x])[0].to_numpy())
"""

TVM = """
import onnx, tvm
from tvm import relax
from tvm.relax.frontend.onnx import from_onnx
def compiled(batch):
    module = from_onnx(onnx.load(path), shape_dict={"observation": (batch, n)})
    machine = relax.VirtualMachine(tvm.compile(module, target="llvm"), tvm.cpu())
    return lambda x: machine["main"](tvm.runtime.tensor(x)).numpy()
done(each(compiled(1)), compiled(len(observations))(observations))
"""

IREE = """
import subprocess
import iree.runtime
folder = os.path.dirname(sys.executable)
subprocess.run([folder + "/iree-import-onnx", path, "-o", "m.mlir"], check=True)
subprocess.run([folder + "/iree-compile", "m.mlir", "--iree-hal-target-device=local", "-o", "m.vmfb",
                "--iree-hal-local-target-device-backends=llvm-cpu", "--iree-llvmcpu-target-cpu=host"], check=True)
module = iree.runtime.load_vm_flatbuffer_file("m.vmfb", driver="local-task")
run(lambda x: module.policy(x).to_host())
"""

NCNN = """
import glob, subprocess
import ncnn
program = glob.glob(sys.prefix + "/lib/python*/site-packages/pnnx/pnnx")[0]
os.chmod(program, 0o755)
with open(path, "rb") as model, open("m.onnx", "wb") as copy:
    copy.write(model.read())
subprocess.run([program, "m.onnx", "inputshape=[1,%d]f32" % n, "fp16=%d" % (not EXACT)], check=True)
net = ncnn.Net()
if EXACT:
    net.opt.use_fp16_packed = net.opt.use_fp16_storage = net.opt.use_fp16_arithmetic = False
net.load_param("m.ncnn.param")
net.load_model("m.ncnn.bin")
def act(x):
    extractor = net.create_extractor()
    extractor.input("in0", ncnn.Mat(x[0]))
    return np.array(extractor.extract("out0")[1])
one = each(act)
done(one, one)
"""

ONNX2TORCH = """
import types
for name in ("torchvision", "torchvision.ops"):  # for images; it needs CUDA
    sys.modules[name] = types.ModuleType(name)
sys.modules["torchvision.ops"].roi_align = None
import onnx2torch, torch
module = onnx2torch.convert(path).eval()
with torch.no_grad():
    run(lambda x: module(torch.from_numpy(x)).numpy())
"""

REFERENCE = """
import onnx, onnx.reference
model = onnx.load(path)
OPTIONS
evaluator = onnx.reference.ReferenceEvaluator(model)
run(lambda x: evaluator.run(None, {"observation": x})[0])
"""

JAVASCRIPT = """
import fs from "node:fs";
import * as ort from "onnxruntime-web";
const [path, n] = [process.argv[2], Number(process.argv[3])];
const bytes = fs.readFileSync("observations.f32");
const observations = new Float32Array(bytes.buffer, bytes.byteOffset, bytes.length / 4);
ort.env.wasm.numThreads = 1;
const session = await ort.InferenceSession.create(fs.readFileSync(path));
const act = async (x) =>
  (await session.run({ observation: new ort.Tensor("float32", x, [x.length / n, n]) })).action.data;
const actions = [];
for (let i = 0; i < observations.length; i += n) actions.push(...(await act(observations.slice(i, i + n))));
actions.push(...(await act(observations)));
fs.writeFileSync("actions.f32", new Uint8Array(new Float32Array(actions).buffer));
process.exit(0);
"""

PNNX = ("ncnn", "--no-deps pnnx")  # it converts; the torch that it requires is only for its models


@dataclass(frozen=True)
class Reader:
    """A program that reads ONNX: what to install, in this order, and its lines; `needs` is its option in the table."""

    name: str
    install: tuple[str, ...]
    program: str
    version: str = ""  # the package that the table names the version of
    python: str = ""  # another than this one
    needs: str = ""
    borrows: bool = False  # torch from this environment, where it is the CPU's


READERS = (
    Reader("onnxruntime, oldest", ("pip==21.3.1", "onnxruntime==1.10.0"), ONNXRUNTIME, "onnxruntime", "3.6"),
    Reader("onnxruntime, newest", ("onnxruntime",), ONNXRUNTIME, "onnxruntime"),
    Reader("onnxruntime-web", ("onnxruntime-web",), JAVASCRIPT),
    Reader("OpenVINO", ("openvino",), OPENVINO.replace("OPTIONS", "{}"), "openvino"),
    Reader(
        "OpenVINO",
        ("openvino",),
        OPENVINO.replace("OPTIONS", '{"EXECUTION_MODE_HINT": "ACCURACY"}'),
        "openvino",
        needs="`EXECUTION_MODE_HINT=ACCURACY`",
    ),
    Reader("OpenCV", ("opencv-python-headless",), OPENCV, "opencv-python-headless"),
    Reader("tract", ("tract numpy",), TRACT, "tract"),
    Reader("TVM", ("apache-tvm onnx",), TVM, "apache-tvm"),
    Reader("IREE", ("iree-base-compiler[onnx] iree-base-runtime",), IREE, "iree-base-runtime"),
    Reader("ncnn", PNNX, NCNN.replace("EXACT", "False"), "ncnn"),
    Reader("ncnn", PNNX, NCNN.replace("EXACT", "True"), "ncnn", needs="`pnnx … fp16=0`, `opt.use_fp16_…=False`"),
    Reader("onnx2torch", ("--no-deps onnx2torch",), ONNX2TORCH, "onnx2torch", borrows=True),
    Reader("onnx.reference", ("onnx",), REFERENCE.replace("OPTIONS", ""), "onnx"),
    Reader(
        "onnx.reference",
        ("onnx",),
        REFERENCE.replace("OPTIONS", "model.opset_import[0].version = 19"),
        "onnx",
        needs="the opset raised to 19 in memory",
    ),
)


@dataclass(frozen=True)
class Case:
    """A file, and its expected actions."""

    variant: str
    path: Path
    observations: Array  # float32 [1000, 17]
    expected: Array  # float64 [1000, m]
    resolved: Array  # bool [1000, m]: float32 decides this action
    span: Array  # float64 [m]

    def errors(self, actions: Array) -> Errors:
        """Infinite for NaN."""
        both = actions.reshape(2, *self.expected.shape)
        shares = np.where(np.isnan(both), np.inf, np.abs(both - self.expected)) / self.span
        shares = np.where(self.resolved, shares, 0).max(axis=(0, 2))
        is_extreme = np.isin(np.arange(len(shares)), EXTREME)
        return float(shares[~is_extreme].max()), float(shares[is_extreme].max())


def random_policy(precision: Precision, n_actions: int) -> CompactPolicy:
    """Normalised, with another bound for each action."""
    draw = np.random.default_rng(0)
    layers = []
    for n, m in pairwise((*HIDDEN, n_actions)):
        weight = draw.normal(size=(m, n)) * (draw.random((m, n)) < DENSITY) / np.sqrt(n * DENSITY)
        scale = None
        if precision == "int8":
            scale = (np.abs(weight).max(axis=1) / 127 + 1e-9).astype(np.float32)
            weight = np.rint(weight / scale[:, None])
        dtype = {"fp32": np.float32, "fp16": np.float16, "int8": np.int8}[precision]
        layers.append(make_layer(weight.astype(dtype), draw.normal(size=m).astype(np.float32), 1, scale))
    low, high = (np.exp(draw.normal(size=n_actions)).astype(np.float32) for _ in range(2))
    mean, scale = draw.normal(size=HIDDEN[0]), np.exp(draw.normal(size=HIDDEN[0]))
    return CompactPolicy(tuple(layers), -low, high, mean.astype(np.float32), scale.astype(np.float32))


def observations_for(policy: CompactPolicy) -> Array:
    """[1000, n]: 400 within a deviation, 400 up to a million, 100 of zeros and other numbers, 100 denormal."""
    draw, n = np.random.default_rng(1), policy.n_observations
    deviations = draw.uniform(-1, 1, (900, n))
    deviations[400:800] *= 10 ** draw.uniform(0, 6, (400, 1))
    observations = policy.observation_mean + deviations / policy.observation_scale
    observations[800:] *= draw.random((100, n)) < 0.1
    denormal = draw.uniform(-1e-39, 1e-39, (100, n))
    return np.concatenate([observations, denormal]).astype(np.float32)


def make_cases(folder: Path) -> list[Case]:
    """One for each variant and number of actions."""
    cases = []
    for variant, (precision, sparse) in VARIANTS.items():
        for n_actions in ACTIONS:
            policy, path = random_policy(precision, n_actions), folder / f"{variant}-{n_actions}.onnx"
            export_policy(policy, "onnx", path, sparse_initializers=sparse)
            observations = observations_for(policy)
            resolved = onnx_export._resolution(policy, observations) <= RESOLVED
            span = policy.action_high.astype(np.float64) - policy.action_low
            cases.append(Case(variant, path, observations, policy(observations, np.float64), resolved, span))
    return cases


def find_python(version: str) -> str | None:
    """This one, or one of `version` on the PATH or in pyenv."""
    if not version:
        return sys.executable
    pyenv = sorted(Path("~/.pyenv/versions").expanduser().glob(f"{version}.*/bin/python"))
    return str(pyenv[-1]) if pyenv else shutil.which(f"python{version}")


def install(reader: Reader, folder: Path) -> list[str] | None:
    """The command that runs its program, before the file; None where it cannot be installed."""
    if reader.program is JAVASCRIPT:
        if subprocess.run(["npm", "install", "--silent", "--ignore-scripts", *reader.install], cwd=folder).returncode:
            return None
        (folder / "program.mjs").write_text(reader.program)
        return ["node", str(folder / "program.mjs")]
    python = find_python(reader.python)
    if python is None or subprocess.run([python, "-m", "venv", folder / "venv"]).returncode:
        return None
    inside = str(folder / "venv" / "bin" / "python")
    for packages in reader.install:
        if subprocess.run([inside, "-m", "pip", "install", "--quiet", *packages.split()]).returncode:
            return None
    if reader.borrows:
        borrowed = next((folder / "venv" / "lib").glob("python*/site-packages")) / "borrowed.pth"
        borrowed.write_text("\n".join(entry for entry in sys.path if entry.endswith("site-packages")))
    (folder / "program.py").write_text(PYTHON + reader.program)
    return [inside, str(folder / "program.py")]


def version_of(reader: Reader, command: list[str]) -> str:
    """The version of its package."""
    if reader.program is JAVASCRIPT:
        script = "console.log(require('./node_modules/onnxruntime-web/package.json').version)"
        process = subprocess.run(["node", "-e", script], cwd=Path(command[1]).parent, capture_output=True, text=True)
        return process.stdout.strip()
    shown = subprocess.run([command[0], "-m", "pip", "show", reader.version], capture_output=True, text=True).stdout
    return next(line for line in shown.splitlines() if line.startswith("Version: ")).removeprefix("Version: ")


def measure(command: list[str], case: Case, folder: Path) -> Errors | str:
    """The errors, or the reader's last line of output where it gave no actions."""
    result = folder / "actions.f32"
    result.unlink(missing_ok=True)
    case.observations.tofile(folder / "observations.f32")
    arguments = [*command, str(case.path), str(case.observations.shape[1])]
    try:
        done = subprocess.run(arguments, cwd=folder, capture_output=True, text=True, timeout=SECONDS)
    except subprocess.TimeoutExpired:
        return f"no answer in {SECONDS} s"
    if result.exists() and result.stat().st_size == 8 * case.expected.size:
        return case.errors(np.fromfile(result, np.float32))
    output = [line.strip() for line in done.stderr.splitlines() if line.strip()]
    errors = [line for line in output if "rror" in line]  # also a compiler's, whose last lines are the place
    return (errors or output or [f"exit code {done.returncode}"])[-1]


def cell(results: list[Errors | str]) -> str:
    """The largest errors over all numbers of actions, "ordinary / extreme"; or that it cannot be read."""
    numbers = [value for value in results if not isinstance(value, str)]
    if not numbers:
        return "refused"
    worst = " / ".join("NaN" if np.isinf(error) else f"{error:.0e}" for error in np.max(numbers, axis=0))
    refused = len(results) - len(numbers)
    return f"{worst}; {refused} of {len(results)} refused" if refused else worst


def row(reader: Reader, cases: list[Case], folder: Path) -> tuple[str, list[str]]:
    """The row of the table, and the reader's messages where it refused a file."""
    command = install(reader, folder)
    if command is None:
        return f"| {reader.name} | not tried: it could not be installed |" + " |" * len(VARIANTS), []
    version = version_of(reader, command)
    results = {case.path.stem: measure(command, case, folder) for case in cases}
    cells = [cell([results[case.path.stem] for case in cases if case.variant == variant]) for variant in VARIANTS]
    messages = [f"{reader.name} {version}, {name}: {text}" for name, text in results.items() if isinstance(text, str)]
    return f"| {reader.name} {version} | {' | '.join(cells)} | {reader.needs or 'none'} |", messages


def main() -> None:
    """Print the table as Markdown, and on stderr the messages of readers that refused."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("readers", nargs="*", metavar="READER", help="Names as in the table; default: all.")
    chosen = parser.parse_args().readers
    with tempfile.TemporaryDirectory() as files:
        cases = make_cases(Path(files))
        print(f"| reader | {' | '.join(VARIANTS)} | option |\n|{'---|' * (len(VARIANTS) + 2)}", flush=True)
        for reader in READERS:
            if chosen and reader.name not in chosen:
                continue
            with tempfile.TemporaryDirectory() as folder:
                line, messages = row(reader, cases, Path(folder))
            print(line, flush=True)
            print(*messages, sep="\n", end="\n" if messages else "", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
