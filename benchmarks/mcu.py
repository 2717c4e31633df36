"""The cost of an action on a Cortex-M4F and a Cortex-M7: edgerl's C against that of other exporters, in one run.

    python benchmarks/mcu.py --onnx2c PATH [--emlearn PYTHON] [--rltools FOLDER] [--run FOLDER …] [--steps N] [--json]

Instructions are counted in QEMU: exactly, without time. Cycles are models (edgerl/profiling/microcontroller/cycles.py):
for the M4F its manual's timing tables, without wait states; for the M7 LLVM's scheduling model. No board is involved.

Policies are trained, since zeros after a ReLU are skipped: HalfCheetah-v5, 17-64-64-6 and 17-256-256-6, both hidden
layers at the density, the output layer dense. They are trained here, --steps each (30 000), into --folder, and kept
there; --run FOLDER uses a run of yours instead of the one with its widths, density and block. A policy is measured as
exported, without its dead units, on observations of an episode that it plays.

Peers have the dense policy of the same widths: onnx2c (--onnx2c, a built one, see docs/c.md; without it known counts at
-O3 replace it, marked as such), emlearn (--emlearn: a Python that has it), the Arm kernels of RLtools (--rltools:
its folder `include`, as in PyPI's wheel) and a plain loop over the rows. The last column's peer is onnx2c's C of the
same policy's own ONNX file: dense as well, but without the dead units.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgerl.commands.export import export_policy
from edgerl.edge import Policy
from edgerl.errors import EdgerlError, UnsupportedModelError
from edgerl.export.c import Options
from edgerl.export.c.source import Provenance, generate
from edgerl.policy import format as policy_file
from edgerl.policy.compact import CompactPolicy
from edgerl.profiling.microcontroller.emulator import build_measured, execute
from edgerl.profiling.microcontroller.measure import Counted, count, measure_policy
from edgerl.profiling.microcontroller.toolchain import CORES, run_program
from edgerl.training.folder import read_config

ENVIRONMENT = "HalfCheetah-v5"
N_OBSERVATIONS, N_ACTIONS = 17, 6
WIDTHS = (64, 256)
DENSITIES = (1.0, 0.5, 0.2, 0.1, 0.05)
BLOCKS = (1, 4)
TARGETS = {"cortex-m4f": "cortex-m4", "cortex-m7": "cortex-m7"}
OPTIMISATIONS = ("-O2", "-O3")
CALLS = 32
LARGEST_DIFFERENCE = 1e-3  # of actions, in shares of their range: beyond it, it is another computation

KNOWN = {256: 357_194.0, 64: 28_295.0}
"""Instructions of onnx2c's C on a Cortex-M4F at -O3, counted earlier; for runs without onnx2c."""


@dataclass(frozen=True)
class Case:
    """A policy of the benchmark."""

    width: int
    density: float
    block: int

    @property
    def name(self) -> str:
        """Of its run folder."""
        return f"{self.width}-d{self.density:g}-b{self.block}"

    def sparsity(self, n_inputs: int, n_outputs: int) -> float:
        """Of a whole network with this density in its hidden layers and a dense output layer."""
        hidden = n_inputs * self.width + self.width**2
        kept = round(self.density * hidden) + self.width * n_outputs
        return round(1 - kept / (hidden + self.width * n_outputs), 4)


CASES = [Case(w, d, b) for w in WIDTHS for d in DENSITIES for b in BLOCKS if d < 1 or b == 1]


# ------------------------------------------------------------------------------------------------ policies


def trained(case: Case, folder: Path, steps: int) -> Path:
    """The policy file of a case's run in `folder`, trained now if it does not exist."""
    goal = folder / case.name
    if not (goal / "policy.safetensors").is_file():
        sparse = [
            *("--actor-sparsity", case.sparsity(N_OBSERVATIONS, N_ACTIONS)),
            *("--critic-sparsity", case.sparsity(N_OBSERVATIONS + N_ACTIONS, 1)),
            *("--distribution", "uniform", "--block", case.block),
        ]
        method = ["--method", "td3"] if case.density == 1 else sparse
        command = [
            "train",
            "--env",
            ENVIRONMENT,
            "--preset",
            "quick",
            "--hidden",
            f"{case.width},{case.width}",
            *method,
        ]
        _say(f"training {case.name}, {steps} steps")
        arguments = [str(part) for part in [*command, "--seed", 0, "--steps", steps, "--out", goal]]
        subprocess.run([sys.executable, "-m", "edgerl", *arguments], check=True, stdout=subprocess.DEVNULL)
    return goal / "policy.safetensors"


def case_of(run: Path) -> Case:
    """The case of the user's own run: the density nearest to that of its hidden layers."""
    network = read_config(run).network
    width, dense = network.hidden[0], network.topology == "dense"
    policy = policy_file.load(run / "policy.safetensors")
    positions = N_OBSERVATIONS * width + width**2
    share = sum(layer.connections for layer in policy.layers[:-1]) / positions
    density = 1.0 if dense else min(DENSITIES[1:], key=lambda known: abs(np.log(known / share)))
    return Case(width, density, 1 if dense else network.block)


def played(policy: CompactPolicy) -> NDArray[np.float32]:
    """[CALLS, n] observations of an episode that the policy plays, 20 steps apart."""
    import gymnasium

    environment = gymnasium.make(ENVIRONMENT)
    act = Policy(policy, "dense")  # of one layout, so that the observations are the same each time
    observation, _ = environment.reset(seed=1)
    observations = []
    for _ in range(20 * CALLS):
        observations.append(observation)
        observation, *_ = environment.step(act(observation.astype(np.float32)))
    return np.array(observations[::20], np.float32)


def zero_share(policy: CompactPolicy, observations: NDArray[np.float32]) -> float:
    """The share of the hidden units' values that are zero, over the observations."""
    zeros = total = 0
    values = observations
    for layer in policy.layers[:-1]:
        values = np.maximum(values @ layer.matrix().T + layer.bias, 0)
        zeros, total = zeros + int(np.count_nonzero(values == 0)), total + values.size
    return zeros / total


# ------------------------------------------------------------------------------------------------ C of each exporter

Measure = Callable[[CompactPolicy, NDArray[np.float32], str, str, Path], Counted]


def _count(source: Path, entry: str, observations: NDArray[np.float32], core: str, optimisation: str) -> Counted:
    measured = measure_policy([source], entry, observations, N_ACTIONS, core, optimisation)
    assert measured.counted is not None, measured.not_counted
    return measured.counted


def measure_edgerl(
    policy: CompactPolicy, observations: NDArray[np.float32], core: str, optimisation: str, folder: Path
) -> Counted:
    """edgerl's own export."""
    sha256 = hashlib.sha256(policy_file.to_bytes(policy)).hexdigest()
    made = generate(policy, options=Options(target=TARGETS[core]), provenance=Provenance(sha256))  # type: ignore[arg-type]
    (folder / f"{made.prefix}.h").write_text(made.header)
    (folder / f"{made.prefix}.c").write_text(made.source)
    return _count(folder / f"{made.prefix}.c", made.prefix, observations, core, optimisation)


def measure_plain(
    policy: CompactPolicy, observations: NDArray[np.float32], core: str, optimisation: str, folder: Path
) -> Counted:
    """The straightforward loop over dense matrices."""
    (folder / "plain.c").write_text(plain_source(policy))
    return _count(folder / "plain.c", "plain", observations, core, optimisation)


def plain_source(policy: CompactPolicy) -> str:
    """C99 of a dense policy: `int plain(const float *observation, float *action)`."""
    texts = ["#include <math.h>", "int plain(const float *observation, float *action);"]
    calls, values = [], "observation"
    for index, layer in enumerate(policy.layers):
        texts.append(_c_array(f"weight{index}", layer.matrix()) + _c_array(f"bias{index}", layer.bias))
        last = index == len(policy.layers) - 1
        goal = "action" if last else f"hidden{index}"
        if not last:
            texts.append(f"static float hidden{index}[{layer.n_outputs}];")
        end = "tanhf(sum)" if last else "sum > 0.0f ? sum : 0.0f"
        calls.append(
            f"    for (int i = 0; i < {layer.n_outputs}; i++) {{\n        float sum = bias{index}[i];\n"
            f"        for (int j = 0; j < {layer.n_inputs}; j++) {{\n"
            f"            sum += weight{index}[{layer.n_inputs} * i + j] * {values}[j];\n        }}\n"
            f"        {goal}[i] = {end};\n    }}"
        )
        values = goal
    body = "\n".join(calls)
    return "\n".join([*texts, f"int plain(const float *observation, float *action) {{\n{body}\n    return 0;\n}}", ""])


def _c_array(name: str, values: NDArray[np.float32], kind: str = "static const float") -> str:
    numbers = ", ".join(f"{float(value):.9g}" for value in values.ravel())
    return f"{kind} {name}[{values.size}] = {{{numbers}}};\n"


def onnx2c_with(program: Path) -> Measure:
    """onnx2c's C of the policy's ONNX file."""

    def measure(
        policy: CompactPolicy, observations: NDArray[np.float32], core: str, optimisation: str, folder: Path
    ) -> Counted:
        export_policy(policy, "onnx", folder / "policy.onnx", force=True)
        text = run_program([program, "-d", "batch:1", "policy.onnx"], folder, "onnx2c")
        call = "int call(const float *o, float *a);\nint call(const float *o, float *a) {\n"
        inputs = f"(const float (*)[{N_OBSERVATIONS}])o, (float (*)[{N_ACTIONS}])a"
        (folder / "onnx2c.c").write_text(f"{text}\n{call}    entry({inputs});\n    return 0;\n}}\n")
        return _count(folder / "onnx2c.c", "call", observations, core, optimisation)

    return measure


def emlearn_with(python: Path) -> Measure:
    """emlearn's `loadable` C; the Python that has emlearn writes it."""
    script = (
        "import emlearn.net, numpy, sys\n"
        "d = numpy.load(sys.argv[1]); n = len(d.files) // 2\n"
        "w, b = [d[f'w{i}'] for i in range(n)], [d[f'b{i}'] for i in range(n)]\n"
        "print(emlearn.net.c_generate_net_loadable(['relu'] * (n - 1) + ['tanh'], w, b, 'net'))\n"
    )

    def measure(
        policy: CompactPolicy, observations: NDArray[np.float32], core: str, optimisation: str, folder: Path
    ) -> Counted:
        matrices = {f"w{i}": layer.matrix().T for i, layer in enumerate(policy.layers)}
        np.savez(folder / "net.npz", **matrices, **{f"b{i}": layer.bias for i, layer in enumerate(policy.layers)})
        text = run_program([python, "-c", script, "net.npz"], folder, "emlearn")
        include = run_program([python, "-c", "import emlearn; print(emlearn.includedir)"], folder, "emlearn").strip()
        call = "int call(const float *o, float *a);\nint call(const float *o, float *a) {\n"
        regress = f"    return net_regress(o, {N_OBSERVATIONS}, a, {N_ACTIONS});\n}}\n"
        (folder / "emlearn.c").write_text("#include <stdint.h>\n" + text + call + regress)
        measured = measure_policy(
            [folder / "emlearn.c"], "call", observations, N_ACTIONS, core, optimisation, flags=["-I", include]
        )
        assert measured.counted is not None, measured.not_counted
        return measured.counted

    return measure


def rltools_with(include: Path) -> Measure:
    """The Arm kernels of RLtools, which are C++17 templates."""

    def measure(
        policy: CompactPolicy, observations: NDArray[np.float32], core: str, optimisation: str, folder: Path
    ) -> Counted:
        (folder / "rltools.cpp").write_text(rltools_source(policy))
        options = ["-std=c++17", "-mthumb", "-ffp-contract=fast", "-fno-exceptions", "-fno-rtti", "-ffunction-sections"]
        command = ["arm-none-eabi-g++", *options, *CORES[core].flags, optimisation, "-I", include]
        run_program([*command, "-c", "rltools.cpp", "-o", "rltools.o"], folder, "rltools")
        call = "int call(const float *o, float *a);\nint measured_call(const float *o, float *a);\n"
        call += "int measured_call(const float *o, float *a) { return call(o, a); }\n"
        program = build_measured([folder / "rltools.o"], call, observations, N_ACTIONS, CORES[core], folder)
        return count(execute(program, CORES[core]), core)

    return measure


def rltools_source(policy: CompactPolicy) -> str:
    """C++ that loads a dense policy into RLtools' layers before main, and evaluates them on its Arm device."""
    head = """#include <rl_tools/operations/arm.h>
#include <rl_tools/nn/layers/dense/operations_arm/opt.h>
#include <cstring>
namespace rlt = rl_tools;
using TI = rlt::devices::DefaultARM::index_t;
using Activation = rlt::nn::activation_functions::ActivationFunction;
template <TI N, TI M, Activation F>
using Layer = rlt::nn::layers::dense::Layer<
    rlt::nn::layers::dense::Configuration<rlt::numeric_types::Policy<float>, TI, M, F>,
    rlt::nn::capability::Forward<false>, rlt::tensor::Shape<TI, 1, 1, N>>;
template <TI M> using Row = rlt::Matrix<rlt::matrix::Specification<float, TI, 1, M, false>>;
static rlt::devices::DefaultARM device;
"""
    declarations, loads, calls = [f"static Row<{policy.n_observations}> row0;"], [], []
    for i, layer in enumerate(policy.layers):
        function = "TANH" if i == len(policy.layers) - 1 else "RELU"
        kind = f"Layer<{layer.n_inputs}, {layer.n_outputs}, Activation::{function}>"
        declarations.append(f"static {kind} layer{i}; static Row<{layer.n_outputs}> row{i + 1};")
        declarations += [_c_array(f"weight{i}", layer.matrix()), _c_array(f"bias{i}", layer.bias)]
        loads.append(f"    std::memcpy(layer{i}.weights.parameters._data, weight{i}, sizeof weight{i});")
        loads.append(f"    std::memcpy(layer{i}.biases.parameters._data, bias{i}, sizeof bias{i});")
        calls.append(f"    rlt::evaluate(device, layer{i}, row{i}, row{i + 1}, buffer, rng);")
    last = len(policy.layers)
    body = "\n".join(
        [
            "__attribute__((constructor)) static void load() {",
            *loads,
            '}\nextern "C" int call(const float *o, float *a);\nint call(const float *o, float *a) {',
            "    rlt::nn::layers::dense::Buffer buffer;\n    bool rng = false;",
            "    std::memcpy(row0._data, o, sizeof row0._data);",
            *calls,
            f"    std::memcpy(a, row{last}._data, sizeof row{last}._data);\n    return 0;\n}}\n",
        ]
    )
    return head + "\n".join(declarations) + "\n" + body


# ------------------------------------------------------------------------------------------------ the run


def measured(
    name: str, measure: Measure, policy: CompactPolicy, case: Case, observations: NDArray[np.float32]
) -> list[dict[str, Any]]:
    """A row for each core and optimisation. Raises where a peer's actions are not the policy's."""
    rows = []
    expected = np.array([policy(observation, np.float64) for observation in observations])
    for core in TARGETS:
        for optimisation in OPTIMISATIONS:
            with tempfile.TemporaryDirectory(prefix="edgerl-") as folder:
                counted = measure(policy, observations, core, optimisation, Path(folder))
            difference = float(np.abs(counted.actions - expected).max() / 2)
            if not difference < LARGEST_DIFFERENCE:
                raise UnsupportedModelError(f"{name} on {core}: its actions differ by {difference:.2g} of their range")
            rows.append(
                {
                    "exporter": name,
                    "width": case.width,
                    "density": case.density,
                    "block": case.block,
                    "zero_share": round(zero_share(policy, observations), 3),
                    "core": core,
                    "optimisation": optimisation,
                    "instructions": counted.instructions,
                    "cycles": counted.cycles,
                    "largest_difference": difference,
                }
            )
    return rows


def measure_all(policies: dict[Case, CompactPolicy], peers: dict[str, Measure]) -> list[dict[str, Any]]:
    """All rows: the peers with the dense policies, edgerl with all, onnx2c with each one's own ONNX file, too."""
    rows = []
    for case, policy in policies.items():
        _say(f"measuring {case.name}, {policy.architecture}")
        observations = played(policy)
        if case.density == 1:
            for name, measure in peers.items():
                rows += measured(name, measure, policy, case, observations)
        elif "onnx2c" in peers:
            rows += measured("onnx2c, own file", peers["onnx2c"], policy, case, observations)
        rows += measured("edgerl", measure_edgerl, policy, case, observations)
    return rows


def tables(rows: Sequence[dict[str, Any]]) -> str:
    """Markdown: one table per width and core. Ratios are to onnx2c at -O3."""
    parts = []
    for width in WIDTHS:
        for core in TARGETS:
            chosen = [row for row in rows if row["width"] == width and row["core"] == core]
            if chosen:
                parts.append(_table(chosen, width, core))
    return "\n\n".join(parts)


def _table(rows: Sequence[dict[str, Any]], width: int, core: str) -> str:
    cells = {(row["exporter"], row["density"], row["block"], row["optimisation"]): row for row in rows}
    peer = cells.get(("onnx2c", 1.0, 1, "-O3"))
    instructions = peer["instructions"] if peer else KNOWN[width] if core == "cortex-m4f" else None
    cycles = peer["cycles"] if peer else None
    note = "" if peer else ", its known count" if instructions else ", which was not measured"
    lines = [
        f"17-{width}-{width}-6, {core}; × is against onnx2c -O3{note}",
        "",
        "| C by | density, block | zeros | -O2: instructions | × | modelled cycles | × "
        "| -O3: instructions | × | modelled cycles | × | × onnx2c of its own file: instructions, cycles |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for exporter, density, block in dict.fromkeys(key[:3] for key in cells):
        if exporter == "onnx2c, own file":
            continue
        pair = [cells[exporter, density, block, optimisation] for optimisation in OPTIMISATIONS]
        own = cells.get(("onnx2c, own file", density, block, "-O3")) if exporter == "edgerl" else None
        figures = [part for row in pair for part in _figures(row, instructions, cycles)]
        beside = (
            [_ratio(own["instructions"], pair[1]["instructions"]), _ratio(own["cycles"], pair[1]["cycles"])]
            if own
            else []
        )
        shape = f"{density:g}, {block}"
        lines.append(
            f"| {exporter} | {shape} | {100 * pair[0]['zero_share']:.0f} % "
            f"| {' | '.join(figures)} | {', '.join(beside) or '–'} |"
        )
    return "\n".join(lines)


def _figures(row: dict[str, Any], instructions: float | None, cycles: float | None) -> list[str]:
    counts = (row["instructions"], instructions), (row["cycles"], cycles)
    return [part for own, peer in counts for part in (_thousands(own), _ratio(peer, own))]


def _thousands(number: float | None) -> str:
    return "–" if number is None else f"{number:,.0f}".replace(",", " ")


def _ratio(peer: float | None, own: float | None) -> str:
    return "–" if peer is None or own is None else f"{peer / own:.2f}"


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main() -> None:
    """Train what is missing, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--onnx2c", type=Path, help="a built onnx2c")
    parser.add_argument("--emlearn", type=Path, help="a Python that has emlearn")
    parser.add_argument("--rltools", type=Path, help="the folder that holds rl_tools/")
    parser.add_argument("--run", type=Path, action="append", default=[], help="a run of your own")
    parser.add_argument("--folder", type=Path, default=Path("build/mcu"), help="where runs are trained and kept")
    parser.add_argument("--steps", type=int, default=30_000, help="of each training")
    parser.add_argument("--only", action="append", help="a case, such as 256-d0.1-b4; else all")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    own = {case_of(run): run / "policy.safetensors" for run in arguments.run}
    chosen = [case for case in CASES if not arguments.only or case.name in arguments.only]
    paths = {case: own.get(case) or trained(case, arguments.folder, arguments.steps) for case in chosen}
    peers: dict[str, Measure] = {"plain loop": measure_plain}
    if arguments.onnx2c:
        peers["onnx2c"] = onnx2c_with(arguments.onnx2c.resolve())
    if arguments.emlearn:
        peers["emlearn"] = emlearn_with(arguments.emlearn.absolute())
    if arguments.rltools:
        peers["RLtools"] = rltools_with(arguments.rltools.resolve())
    rows = measure_all({case: policy_file.load(path) for case, path in paths.items()}, peers)
    print(json.dumps(rows, indent=2) if arguments.json else tables(rows))


if __name__ == "__main__":
    try:
        main()
    except EdgerlError as error:
        sys.exit(str(error))
