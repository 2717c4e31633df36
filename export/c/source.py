"""The text of a policy's header and C file."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Mapping, Set
from dataclasses import dataclass, field
from hashlib import sha256
from itertools import pairwise
from string import Template

import numpy as np

from edgerl import __version__
from edgerl.errors import UnsupportedModelError
from edgerl.export import PolicySource
from edgerl.export.c import kernels, vector_kernels
from edgerl.export.c.form import (
    ColumnwiseForm,
    DenseForm,
    Form,
    NibbleForm,
    OutlierForm,
    PolicyForm,
    RowForm,
    head_arrays,
    leaves_zeros,
    outlier_form,
    padded_outputs,
    policy_form,
)
from edgerl.export.c.options import Options
from edgerl.export.c.text import NOTICE, SPDX, array, comment_text, number
from edgerl.policy.activation import ACTIVATIONS, ActivationName
from edgerl.policy.cell import CELLS, CellName
from edgerl.policy.compact import Array, CompactPolicy, Layer, Precision, shifted
from edgerl.policy.contract import Contract
from edgerl.policy.loss import ActionDifference, action_difference, action_span, sampled_observations
from edgerl.policy.terms import Terms

MAXIMUM_FLASH_BYTES = 1 << 24
"""No microcontroller holds more constants, and a C file of them would have hundreds of megabytes."""

TOLERANCE, ROUNDED_TOLERANCE = 1e-5, 1e-4
"""Of the self-test, in shares of the action range. Where inputs of a layer are rounded, one is now and then rounded
otherwise."""

LOWEST = "-3.402823466e+38f"
"""Of float32."""

LARGEST_INPUT = 1 << 22
"""Of an int8 layer: float32 holds it, and its half."""

SMALLEST_RANGE = 1e-30
"""An int8 layer takes smaller inputs for zeros."""

_INTEGERS = {"uint8": "uint8_t", "uint16": "uint16_t", "uint32": "uint32_t"}
_VALUES: dict[Precision, str] = {"fp32": "float", "fp16": "uint16_t", "int8": "int8_t", "int4": "int8_t"}
_INTEGER_WEIGHTS = ("int8", "int4")


@dataclass(frozen=True)
class Provenance:
    """What the header says of the file's origin."""

    model_sha256: str
    command: str = PolicySource.command
    device: str | None = None  # the id of the device that the target stands for


@dataclass(frozen=True)
class CSource:
    """Two files, and what they take."""

    prefix: str
    header: str  # of <prefix>.h
    source: str  # of <prefix>.c
    layers: tuple[str, ...]  # how each is written: precision, layout, indices
    flash_bytes: int  # constants; code comes on top
    scratch_bytes: int
    state_bytes: int  # of cells
    history_bytes: int  # of steps that are stacked
    tolerance: float  # of the self-test, in shares of the action range
    rounds_inputs: bool  # of int8 layers
    policy: CompactPolicy = field(repr=False, compare=False)  # with its weights in the precision that is written


def loss(policy: CompactPolicy, made: CSource, recorded: Array | None) -> ActionDifference:
    """What smaller weights and rounded inputs change; not what float32 rounds, which the self-test allows for."""
    seen = sampled_observations(policy) if recorded is None else recorded
    before = policy.without_offset(seen, np.float64)
    after = c_actions(made.policy.without_offset, seen, rounds_inputs=made.rounds_inputs)
    return action_difference(before, after, action_span(policy), "sampled" if recorded is None else "recorded")


def generate(policy: CompactPolicy, *, options: Options, provenance: Provenance) -> CSource:
    """The C of `policy`; the same arguments give the same text.

    Raises UnsupportedModelError for a policy that C cannot hold: too large, or with numbers that are not finite.
    """
    _check_size(policy, sum(layer.connections for layer in policy.layers))  # a byte each, before anything is encoded
    form = policy_form(policy, options.dtype, options.layout, options.target)
    _check_size(policy, form.flash_bytes)
    _check_numbers(form.policy)
    code = _code(form, options.prefix)
    tag = f"0x{sha256(code.encode()).hexdigest()[:8]}"
    names = {"p": options.prefix, "P": options.prefix.upper(), "tag": tag, "spdx": SPDX, "float_h": "", "wide": ""}
    if form.policy.observation_offset is not None:
        names |= {"float_h": "#include <float.h>\n", "wide": _CHECK_OF_DOUBLE.substitute(names)}
    return CSource(
        prefix=options.prefix,
        header=_header(form, options, provenance, tag),
        source=_START_OF_SOURCE.substitute(names) + "\n" + code,
        layers=tuple(
            f"{layer.precision}{_beside(layer)}, {_layout_name(stored)}"
            for layer, stored in zip(form.policy.layers, form.layers, strict=True)
        ),
        flash_bytes=form.flash_bytes,
        scratch_bytes=form.scratch_bytes,
        state_bytes=form.state_bytes,
        history_bytes=form.history_bytes,
        tolerance=_tolerance(form),
        rounds_inputs=_has_integers(form),
        policy=form.policy,
    )


def _tolerance(form: PolicyForm) -> float:
    """How far the self-test's action may be from the workstation's, in shares of the action range."""
    return ROUNDED_TOLERANCE if _has_integers(form) else TOLERANCE


def _check_size(policy: CompactPolicy, n_bytes: int) -> None:
    if n_bytes > MAXIMUM_FLASH_BYTES:
        raise UnsupportedModelError(
            f"{policy.architecture[:60]} would be {n_bytes} bytes of constants in C or more; expected at most "
            f"{MAXIMUM_FLASH_BYTES}: prune it, or choose `layout` sparse"
        )


def _check_numbers(policy: CompactPolicy) -> None:
    for name, values in _floats(policy):
        if not np.isfinite(values).all():
            raise UnsupportedModelError(f"{name} holds a number that is not finite; C has no literal for it")


def _floats(policy: CompactPolicy) -> list[tuple[str, Array]]:
    named: list[tuple[str, Array | None]] = [
        ("the observation's offset", policy.observation_offset),
        ("the observation's mean", policy.observation_mean),
        ("the observation's scale", policy.observation_scale),
        ("the example observation", policy.example_observation),
        ("the example action", policy.example_action),
        ("a bound of the actions", np.concatenate(list(head_arrays(policy).values()))),
    ]
    for index, layer in enumerate(policy.layers):
        exact = None if layer.outliers is None else layer.outliers.values
        named += [(f"layer {index}", part) for part in (layer.values, layer.bias, layer.scale, exact)]
        if layer.norm is not None:
            named += [(f"the norm of layer {index}", part) for part in (layer.norm.scale, layer.norm.shift)]
    return [(name, values) for name, values in named if values is not None]


def _beside(layer: Layer) -> str:
    """How many outliers there are."""
    return "" if layer.outliers is None else f" and {len(layer.outliers.values)} fp32 outliers"


def _layout_name(form: Form) -> str:
    if isinstance(form, NibbleForm):
        return "dense, two weights a byte"
    if isinstance(form, DenseForm):
        return "dense"
    unit = "single connections" if form.block == 1 else f"blocks of {form.block}"
    if isinstance(form, RowForm):
        return f"sparse rows, {unit}, {8 * form.columns.itemsize}-bit columns"
    index = "8-bit distances" if form.is_delta else f"{8 * form.rows.itemsize}-bit rows"
    return f"sparse columns, {unit}, {index}"


# ------------------------------------------------------------------------------------------------------- the header

_HEADER = Template("""\
/* A policy as C99: one observation to one action, without malloc, without stdio, without libm. A compiler may ask for
 * memcpy, memmove and memset, and for its own helpers where the processor has no floating point.
 *
 * $notice
 *
 * Made by     edgerl $version
 * Command     $command
 * Model       $architecture, $precisions, SHA-256 of its file $sha256
 * Origin      $about
 * Target      $target
 *
 * Takes $flash bytes of constants in flash, $scratch bytes of scratch memory,$state and $stack
 *
 * Contract
 * - $p reads $N numbers in the environment's own units and writes $M in the environment's own units:
 *   normalisation and the scaling of each action to its bounds are inside. No action leaves its bounds.
 * - It returns 0; or ${P}_NOT_FINITE where a number of the observation, or of what comes of it, is
 *   infinite or NaN: then every action is the middle of its range, and what is safe instead is for you to know.
 * - $arrays Both must be there.
 * - $p uses one static scratch buffer: one call at a time. ${p}_r computes in yours: as many at a
 *   time as there are scratch buffers; nothing in one needs to be kept between calls.$recurrent$of_terms
 * - ${p}_self_test returns 0 when this processor computes what the workstation did for one recorded
 *   observation, to $tolerance of each action's range; else 1 + the number of the first action that differs, or
 *   -1 where the example was refused. Call it once at start, before a motor moves.
 * - To place constants and scratch, define ${P}_WEIGHTS and ${P}_SCRATCH as attributes
 *   for the compiler, as in -D'${P}_SCRATCH=__attribute__((section(".dtcm")))'.
$robot *
 * Not its business: learning, batches, timing, a fallback for a late action, and compiler options that give up IEEE 754
 * (-ffast-math).
 */
#ifndef ${P}_H
#define ${P}_H

#include <stdint.h>

#define ${P}_VERSION "$version"
#define ${P}_MODEL "$sha256"
#define ${P}_OBSERVATIONS $N
#define ${P}_ACTIONS $M
#define ${P}_FLASH_BYTES $flash
#define ${P}_SCRATCH_BYTES $scratch
$state_macro$history_macro#define ${P}_NOT_FINITE 1
#define ${P}_TAG $tag /* the same in both files */

#ifdef __cplusplus
extern "C" {
#endif

${union}typedef struct {
    $number values[$values];
} ${p}_scratch;

${state_type}${history_type}int $p(const $given observation[$N], float action[$M]);
int ${p}_r(const $given observation[$N], float action[$M], ${p}_scratch *scratch$state_argument);
${steps}${resets}int ${p}_self_test(void);

#ifdef __cplusplus
}
#endif

#endif
""")

_STACK_OF_MICROCONTROLLER = """\
on a Cortex-M at -O2 less than
 * 300 bytes of stack.\
"""

_STACK_OF_APPLICATION_PROCESSOR = """\
less than 1 KiB of stack.
 *
 * Compile it with -O3, and for the processor that it runs on: -march=native there, elsewhere -march=x86-64-v3 or
 * -mcpu=cortex-a72, as it may be. Below -O3 GCC computes one number at a time.\
"""

_RECURRENT = Template("""
 * - It is recurrent: an action depends on the observations before. $p keeps them in a static state, which is zero at
 *   start; call ${p}_reset where an episode begins. ${p}_r keeps them in yours, which ${p}_reset_r makes
 *   zero. Where something is not finite, the state stays as it was. The self-test resets the static one.\
""")

_STATE_TYPE = Template("""\
typedef struct {
    float values[$count];
} ${p}_state;

""")

_ROBOT = """\
 *
 * Robot, as in training; what of it is behind an action, such as action_scale and gains, is for your code to apply:
"""

_OF_TERMS = Template("""
 * - ${p}_step does the same with the $K numbers of one step as they were measured: the terms
 *   $names
 *   of an observation. It clips and scales them, and stacks them on the steps before, as in training, in a static
 *   history of $history bytes. A first step fills it: call ${p}_reset where an episode begins.
 *   ${p}_step_r does so in your history, which ${p}_forget_r empties. A step that is not finite
 *   leaves a history as it was.\
""")

_HISTORY_MACRO = Template("#define ${P}_STEP $K\n#define ${P}_HISTORY_BYTES $history\n")

_HISTORY_TYPE = Template("""\
typedef struct {
    float values[$N]; /* what the policy was given last */
    int32_t is_begun;
} ${p}_history;

""")

_STEPS = Template("""\
int ${p}_step(const float step[$K], float action[$M]);
int ${p}_step_r(const float step[$K], float action[$M], ${p}_scratch *scratch,
    ${p}_history *history$state_argument);
""")

_SAME_ARRAY = "observation and action may be the same array."

_DOUBLE = """\
observation is double, of 64 bits: numbers so large lose in float what tells them apart. An offset is
 *   subtracted in double first; what is left of them is float.\
"""

_UNION = Template("""\
typedef union {
    float real;
    int32_t integer;
} ${p}_number;

""")


def _header(form: PolicyForm, options: Options, provenance: Provenance, tag: str) -> str:
    policy, device = form.policy, provenance.device
    about = ", ".join(f"{key} {value}" for key, value in sorted(policy.metadata.items()))
    precisions = sorted({layer.precision for layer in policy.layers})
    return _HEADER.substitute(
        p=options.prefix,
        P=options.prefix.upper(),
        tag=tag,
        notice=NOTICE,
        version=__version__,
        command=comment_text(provenance.command),
        architecture=policy.architecture,
        precisions=" and ".join(precisions) + " weights",
        sha256=re.sub("[^0-9a-f]", "", provenance.model_sha256)[:64],
        about=comment_text(about, 400) or "not known",
        target=options.target if device is None else f"{comment_text(device, 60)} ({options.target})",
        flash=form.flash_bytes,
        scratch=form.scratch_bytes,
        stack=_STACK_OF_APPLICATION_PROCESSOR if form.is_for_vectors else _STACK_OF_MICROCONTROLLER,
        tolerance=f"{_tolerance(form):g}",
        arrays=_SAME_ARRAY if policy.observation_offset is None else _DOUBLE,
        given=_given(policy),
        N=policy.n_observations,
        M=policy.n_actions,
        union=_UNION.substitute(p=options.prefix) if _has_integers(form) else "",
        number=_number(options.prefix, form),
        values=form.scratch_numbers,
        **_header_of_state(form, options.prefix),
        robot=_header_of_robot(policy.contract),
        **_header_of_terms(form, options.prefix),
        resets="".join(f"void {line};\n" for line in _resets(form, options.prefix)),
    )


def _header_of_state(form: PolicyForm, p: str) -> dict[str, str]:
    """What the header says of the state of cells; nothing where there is none."""
    if not form.policy.is_recurrent:
        return dict.fromkeys(("recurrent", "state", "state_macro", "state_type", "state_argument"), "")
    return {
        "recurrent": _RECURRENT.substitute(p=p),
        "state": f" {form.state_bytes} bytes of state,",
        "state_macro": f"#define {p.upper()}_STATE_BYTES {form.state_bytes}\n",
        "state_type": _STATE_TYPE.substitute(p=p, count=form.policy.n_state),
        "state_argument": f", {p}_state *state",
    }


def _header_of_robot(contract: Contract) -> str:
    """What the header says of the robot; nothing where the policy's contract is not known."""
    lines = []
    for name, text in contract.as_text().items():
        words = comment_text(text.replace(",", ", "), 4000)
        lines += textwrap.wrap(f"{name}: {words}", 110, subsequent_indent="  ", break_on_hyphens=False)
    return _ROBOT + "".join(f" *   {line}\n" for line in lines) if lines else ""


def _header_of_terms(form: PolicyForm, p: str) -> dict[str, str]:
    """What the header says of single steps; nothing where the contract doesn't say what they are."""
    if form.terms is None:
        return dict.fromkeys(("of_terms", "history_macro", "history_type", "steps"), "")
    policy = form.policy
    known = {
        "p": p,
        "P": p.upper(),
        "K": form.terms.n_step,
        "N": policy.n_observations,
        "M": policy.n_actions,
        "history": form.history_bytes,
        "names": comment_text(", ".join(policy.contract.observation_names) or "of the contract", 400),
        "state_argument": _header_of_state(form, p)["state_argument"],
    }
    return {
        "of_terms": _OF_TERMS.substitute(known),
        "history_macro": _HISTORY_MACRO.substitute(known),
        "history_type": _HISTORY_TYPE.substitute(known),
        "steps": _STEPS.substitute(known),
    }


def _resets(form: PolicyForm, p: str) -> list[str]:
    """Of what is kept from one call to the next."""
    own = [f"{p}_reset_r({p}_state *state)"] if form.policy.is_recurrent else []
    own += [] if form.terms is None else [f"{p}_forget_r({p}_history *history)"]
    return [f"{p}_reset(void)", *own] if own else []


def _given(policy: CompactPolicy) -> str:
    """The type of an observation's number."""
    return "float" if policy.observation_offset is None else "double"


def _has_integers(form: PolicyForm) -> bool:
    """Whether it sums whole numbers: an application processor multiplies floats as fast."""
    return not form.is_for_vectors and any(layer.precision in _INTEGER_WEIGHTS for layer in form.policy.layers)


# ------------------------------------------------------------------------------------------------------- the C file


def _types(p: str, precision: Precision, number_type: str) -> kernels.Kernel:
    """What a layer of `precision` computes with, in scratch numbers of `number_type`."""
    has_integers = number_type != "float"
    value = _stored(p, _VALUES[precision])
    if precision in _INTEGER_WEIGHTS:
        return kernels.Kernel(value, "int32_t", "", ".integer", number_type, None)
    part = ".real" if has_integers else ""
    if precision == "fp16":
        return kernels.Kernel(value, "float", f"{p}_half", part, number_type, None)
    return kernels.Kernel(value, "float", "", part, number_type, f"{p.upper()}_HAS_VLDM")


def _stored(p: str, kind: str) -> str:
    """The type of a constant, in its address space."""
    return f"{p.upper()}_FLASH {kind}"


def _number(p: str, form: PolicyForm) -> str:
    """The type of one number of the scratch."""
    return f"{p}_number" if _has_integers(form) else "float"


def _code(form: PolicyForm, p: str) -> str:
    parts = [*_constants(form, p), *_functions(form, p)]
    parts.append(_act(form, p))
    parts.append(_end(form, p))
    return "\n".join(parts)


def _end(form: PolicyForm, p: str) -> str:
    """What calls the function: with the example as it lies in flash where that is double, which no AVR takes."""
    policy = form.policy
    span = f"2.0f * {p}_half_range[j]" if policy.head == "tanh" else f"{p}_span[j]"
    names = {"p": p, "P": p.upper(), "tolerance": number(_tolerance(form)), "span": span}
    names |= dict.fromkeys(("own_state", "begin", "passed_state", "forget", "steps"), "")
    if policy.is_recurrent:
        names["own_state"] = _OWN_STATE.substitute(names, count=policy.n_state)
        names["passed_state"] = f", &{p}_episode"
        names["begin"], names["forget"] = f"    {p}_reset();\n", f"    {p}_reset();\n"
    if form.terms is not None:
        names["steps"] = _step(form.terms, names, "" if not policy.is_recurrent else f", {p}_state *state")
    if _resets(form, p):
        names["steps"] += _reset(form, p)
    if policy.observation_offset is None:
        return _END_OF_SOURCE.substitute(names, given="float", example=_EXAMPLE.substitute(names), passed="observation")
    return _END_OF_SOURCE.substitute(names, given="double", example="", passed=f"{p}_example_observation")


def _step(terms: Terms, names: Mapping[str, str], state_argument: str) -> str:
    """The functions that make an observation of single steps."""
    p, pushes = names["p"], []
    past, first = 0, 0
    for size, length in zip(terms.sizes, terms.lengths, strict=True):
        pushes.append(f"    {p}_push({size}, {size * (length - 1)}, {first}, step, history, {past});\n")
        past, first = past + size * length, first + size
    return _STEP.substitute(
        names,
        pushes="".join(pushes),
        state_argument=state_argument,
        state=", state" if state_argument else "",
    )


def _reset(form: PolicyForm, p: str) -> str:
    calls = [f"    {p}_reset_r(&{p}_episode);\n"] if form.policy.is_recurrent else []
    calls += [] if form.terms is None else [f"    {p}_forget_r(&{p}_past);\n"]
    return f"\nvoid {p}_reset(void) {{\n{''.join(calls)}}}\n"


_START_OF_SOURCE = Template("""\
/* See $p.h, which says what this is.
 * $spdx */
#include "$p.h"

${float_h}#include <stddef.h>

#if defined(__cplusplus) || !defined(__STDC_VERSION__) || __STDC_VERSION__ < 199901L
#error "$p.c is C99: compile it as C; a program in C++ includes $p.h and links it"
#elif ${P}_TAG != $tag
#error "$p.h and $p.c are of two exports: take both from one"
${wide}#elif defined(__AVR__) && (!defined(__FLASH) || defined(__STRICT_ANSI__))
#error "on an AVR, $p.c reads its constants from flash by __flash, which GCC has with -std=gnu99 or gnu11"
#elif defined(__AVR__) && ${P}_FLASH_BYTES > 65535
#error "on an AVR, __flash reads constants from the first 64 KiB, and $p.c has more"
#else

#ifndef ${P}_WEIGHTS
#define ${P}_WEIGHTS
#endif
#ifndef ${P}_SCRATCH
#define ${P}_SCRATCH
#endif
#ifdef __AVR__ /* its flash is an address space of its own */
#define ${P}_FLASH __flash
#else
#define ${P}_FLASH
#endif
""")


def _constants(form: PolicyForm, p: str) -> list[str]:
    """All arrays, each named after its layer."""
    policy, attribute = form.policy, f"{p.upper()}_WEIGHTS"

    def floats(name: str, values: Array) -> str:
        return array(attribute, _stored(p, "float"), f"{p}_{name}", values)

    parts = []
    if policy.observation_offset is not None:
        parts.append(array(attribute, _stored(p, "double"), f"{p}_offset", policy.observation_offset))
    if policy.observation_mean is not None and policy.observation_scale is not None:
        parts += [floats("mean", policy.observation_mean), floats("deviation", policy.observation_scale)]
    for index, (layer, stored) in enumerate(zip(policy.layers, form.layers, strict=True)):
        kind = _stored(p, "uint8_t" if isinstance(stored, NibbleForm) else _VALUES[layer.precision])
        arrays = [array(attribute, kind, f"{p}_values{index}", stored.values)]
        for name, values in _indices(stored).items():
            arrays.append(array(attribute, _stored(p, _INTEGERS[values.dtype.name]), f"{p}_{name}{index}", values))
        if layer.scale is not None:
            arrays.append(floats(f"scale{index}", layer.scale))
        exact = outlier_form(layer)
        if exact is not None:
            for name, values in (("outlier_counts", exact.counts), ("outlier_columns", exact.columns)):
                arrays.append(array(attribute, _stored(p, _INTEGERS[values.dtype.name]), f"{p}_{name}{index}", values))
            arrays.append(floats(f"outliers{index}", exact.values))
        arrays.append(floats(f"bias{index}", layer.bias))
        if layer.norm is not None:
            arrays += [floats(f"norm_scale{index}", layer.norm.scale), floats(f"norm_shift{index}", layer.norm.shift)]
        weights = f"{layer.precision}{_beside(layer)}"
        title = f"/* Layer {index}: {layer.n_inputs} inputs, {layer.n_outputs} outputs, {weights}, "
        parts += [f"{title}{_layout_name(stored)}. */\n" + "\n".join(arrays)]
    parts += [floats(name, values) for name, values in head_arrays(policy).items()]
    if form.terms is not None:
        bounds = {"term_low": form.terms.low, "term_high": form.terms.high}
        parts += [floats(name, values) for name, values in {"term_scale": form.terms.scale, **bounds}.items()]
    parts.append(array(attribute, _stored(p, _given(policy)), f"{p}_example_observation", policy.example_observation))
    return [*parts, floats("example_action", _example_action(form))]


def _indices(form: Form) -> dict[str, Array]:
    """The arrays beside the values of a layer, by the names that their functions give them."""
    if isinstance(form, DenseForm | NibbleForm):
        return {}
    if isinstance(form, RowForm):
        return {"counts": form.counts, "columns": form.columns}
    return {"counts": form.counts, "rows": form.rows}


def _functions(form: PolicyForm, p: str) -> list[str]:
    """Those that some layer calls, each once."""
    policy = form.policy
    n, has_integers = _number(p, form), _has_integers(form)
    hidden = policy.layers[:-1]
    names = {"p": p, "P": p.upper(), "number": n, "real": ".real" if has_integers else ""}
    parts = [kernels.FINITE.substitute(p=p), *_mathematics(form, names)]
    if policy.is_recurrent:
        parts.append(kernels.OWN_OUTPUTS.substitute(names))
    if any(_is_rectified(form, index) for index in range(len(hidden))):
        parts.append(kernels.RECTIFY.substitute(names))
    if any(layer.norm is not None for layer in hidden):
        parts.append(kernels.NORM.substitute(names))
    if any(layer.precision == "fp32" for layer in policy.layers) and not form.is_for_vectors:
        parts.append(kernels.ARM.substitute(P=p.upper()))
    if any(layer.precision == "fp16" for layer in policy.layers):
        parts.append(kernels.HALF.substitute(p=p))
    if any(layer.precision not in _INTEGER_WEIGHTS for layer in policy.layers):
        parts.append(kernels.START.substitute(p=p, P=p.upper(), number=n, real=".real" if has_integers else ""))
    if form.is_for_vectors and any(layer.precision == "int8" for layer in policy.layers):
        parts += [vector_kernels.ZERO.substitute(names), vector_kernels.SCALE.substitute(names)]
    if has_integers:
        parts += [
            kernels.CLEAR.substitute(p=p, number=n),
            kernels.QUANTISE.substitute(p=p, P=p.upper(), number=n, smallest=number(SMALLEST_RANGE)),
        ]
    made: dict[str, str] = {}
    for layer, stored, is_signed in zip(policy.layers, form.layers, _are_signed(policy), strict=True):
        if form.is_for_vectors or isinstance(stored, RowForm):
            made = {**_vector_kernels(p, layer, stored, is_signed=is_signed), **made}
        else:
            made.setdefault(_kernel_name(layer, stored), _kernel(p, layer, stored, n))
        exact = outlier_form(layer)
        if exact is not None:
            made.setdefault(_outliers_name(exact), _outliers_function(p, exact, n))
    return [*parts, *made.values()]


def _mathematics(form: PolicyForm, names: Mapping[str, str]) -> list[str]:
    """The functions of one number, and those that call them for all numbers of a layer."""
    policy, hidden = form.policy, form.policy.layers[:-1]
    functions = vector_kernels.BRANCHLESS if form.is_for_vectors else kernels.BRANCHING
    parts = []
    if policy.is_recurrent or policy.head == "tanh" or any(layer.activation == "tanh" for layer in hidden):
        parts.append(functions.tanh.substitute(names))
    if policy.head == "clip" or policy.observation_clip is not None or form.terms is not None:
        parts.append(kernels.CLIP.substitute(names))
    parts += _activations({layer.activation for layer in hidden}, names, functions)
    calls = {functions.tanh.substitute(names), functions.exponential.substitute(names)}
    if functions.word is not None and not calls.isdisjoint(parts):
        parts.insert(0, functions.word.substitute(names))
    return parts


def _are_signed(policy: CompactPolicy) -> list[bool]:
    """Of each layer: whether its inputs are used as they are; else what ReLU would make zero is passed over."""
    return [True, *(not leaves_zeros(*pair) for pair in pairwise(policy.layers))]


def _is_rectified(form: PolicyForm, index: int) -> bool:
    """Whether ReLU is computed behind a layer: no cell passes over what it would make zero, and no sum of a row."""
    layer, following = form.policy.layers[index : index + 2]
    return layer.activation == "relu" and (following.cell is not None or isinstance(form.layers[index + 1], RowForm))


def _activations(
    used: Set[ActivationName | CellName], names: Mapping[str, str], functions: kernels.Mathematics
) -> list[str]:
    """The functions of those that are not left to the kernels, and what they call, each once."""
    parts: dict[str, None] = {}
    for name in sorted(used):
        if name in CELLS:
            cell = kernels.CELLS[CELLS[name].name].substitute(names)
            parts |= {functions.exponential.substitute(names): None, cell: None}
            continue
        made = functions.activations[ACTIVATIONS[name].name]
        if made is not None:
            formula, called = made
            parts |= dict.fromkeys(template.substitute(names) for template in called)
            formula = Template(formula).substitute(names)
            parts[kernels.ACTIVATION.substitute(names, name=name, formula=formula)] = None
    return list(parts)


def _kernel_name(layer: Layer, form: Form) -> str:
    if isinstance(form, NibbleForm):
        return "dense_int4"
    precision = "int8" if layer.is_int4 else layer.precision
    if isinstance(form, DenseForm):
        return f"dense_{precision}"
    bits = 8 * form.counts.itemsize
    if isinstance(form, RowForm):
        return f"rows{form.block}_{precision}_column{8 * form.columns.itemsize}_count{bits}"
    kinds = f"{'delta' if form.is_delta else 'row'}{8 * form.rows.itemsize}_count{bits}"
    return f"columns{form.block}_{precision}_{kinds}"


def _vector_kernels(p: str, layer: Layer, form: Form, *, is_signed: bool) -> dict[str, str]:
    """Name → text of what an application processor calls for a layer; weights become floats as they are used."""
    load, loaded = {"fp32": ("", ""), "fp16": (f"{p}_half(", ")"), "int8": ("(float)", "")}[layer.precision]
    names = {"p": p, "dtype": layer.precision, "value": _stored(p, _VALUES[layer.precision])}
    names |= {"load": load, "loaded": loaded}
    if isinstance(form, RowForm):
        name = _kernel_name(layer, form)
        count, column = (_stored(p, _INTEGERS[part.dtype.name]) for part in (form.counts, form.columns))
        return {name: vector_kernels.ROWS[form.block].substitute(names, name=name, count=count, column=column)}
    dense = vector_kernels.DENSE if is_signed else vector_kernels.ACTIVE
    return {
        f"eight_{layer.precision}": vector_kernels.EIGHT.substitute(names),
        _dense_name(layer, is_signed): dense.substitute(names),
    }


def _dense_name(layer: Layer, is_signed: bool) -> str:
    """Of an application processor's function for a dense layer."""
    return f"{'dense' if is_signed else 'active'}_{layer.precision}"


def _kernel(p: str, layer: Layer, form: ColumnwiseForm, number_type: str) -> str:
    kernel, is_integer = _types(p, layer.precision, number_type), layer.precision in _INTEGER_WEIGHTS
    common = {
        "p": p,
        "number": number_type,
        "value": kernel.value,
        "input": kernel.input,
        **{column: kernel.weight(f"*{column}++") for column in "abcd"},
        "part": kernel.part,
        "test": "input != 0" if is_integer else "input > above",
        "condition": "is not zero" if is_integer else "is above `above`",
        "above": "" if is_integer else "float above, ",
    }
    if isinstance(form, NibbleForm):
        return kernels.NIBBLES.substitute(common | {"value": _stored(p, "uint8_t")}, dtype="int4")
    if isinstance(form, DenseForm):
        return kernels.DENSE.substitute(common, dtype=layer.precision, body=kernels.dense_body(kernel))
    row, unit = _stored(p, _INTEGERS[form.rows.dtype.name]), "row" if form.block == 1 else "row of blocks"
    return kernels.COLUMNS.substitute(
        common,
        name=_kernel_name(layer, form),
        count=_stored(p, _INTEGERS[form.counts.dtype.name]),
        row=row,
        index=f"its distance from the {unit} before" if form.is_delta else f"its {unit}",
        weights="a weight" if form.block == 1 else f"{form.block} weights",
        loops=kernels.column_loops(kernel, row, form.block, form.is_delta),
        skip="count" if form.block == 1 else f"{form.block} * count",
    )


def _outliers_name(exact: OutlierForm) -> str:
    return f"outliers_column{8 * exact.columns.itemsize}_count{8 * exact.counts.itemsize}"


def _outliers_function(p: str, exact: OutlierForm, number_type: str) -> str:
    """The function that adds such outliers."""
    count, column = (f"const {_stored(p, _INTEGERS[part.dtype.name])}" for part in (exact.counts, exact.columns))
    return kernels.OUTLIERS.substitute(
        p=p, P=p.upper(), name=_outliers_name(exact), number=number_type, count=count, column=column
    )


def _act(form: PolicyForm, p: str) -> str:
    """The function that computes the layers one after the other, between two buffers."""
    policy = form.policy
    part = ".real" if _has_integers(form) else ""
    first, second = "even", "odd"
    seen = "observation[i]" if policy.observation_offset is None else "seen"
    shift = "" if policy.observation_offset is None else _SHIFT.substitute(p=p)
    normalised = seen
    if policy.observation_mean is not None:
        normalised = f"({seen} - {p}_mean[i]) * {p}_deviation[i]"
    if policy.observation_clip is not None:
        bound = number(policy.observation_clip)
        normalised = f"{p}_clip({normalised}, -{bound}, {bound})"
    calls = []
    begin = 0  # of a cell's state
    for index, (layer, is_signed) in enumerate(zip(policy.layers, _are_signed(policy), strict=True)):
        if layer.cell is not None:
            calls.append(f"{p}_own({layer.units}, state->values + {begin}, {first} + {layer.n_fed});")
        calls += _calls(p, form, index, first, second, is_signed=is_signed)
        if layer.cell is not None:
            calls.append(f"{p}_{layer.cell.name}({layer.units}, state->values + {begin}, next + {begin}, {second});")
            begin += layer.n_state
        elif index + 1 < len(policy.layers):
            calls += _between(p, form, index, second)
        first, second = second, first
    return _ACT.substitute(
        p=p,
        P=p.upper(),
        number=_number(p, form),
        part=part,
        N=policy.n_observations,
        M=policy.n_actions,
        split=form.scratch[0],
        given=_given(policy),
        shift=shift,
        seen=seen,
        normalised=normalised,
        calls="".join(f"    {line}\n" for line in calls),
        output=first,
        action=(_TANH_ACTION if policy.head == "tanh" else _CLIP_ACTION).substitute(p=p, output=f"{first}[j]{part}"),
        step="    float step;\n" if _has_integers(form) else "",
        **_keeping(form, p),
    )


def _keeping(form: PolicyForm, p: str) -> dict[str, str]:
    """What keeps the state of cells; nothing where there is none."""
    policy = form.policy
    if not policy.is_recurrent:
        return dict.fromkeys(("state", "next", "keep"), "")
    part = ".real" if _has_integers(form) else ""
    return {
        "state": f", {p}_state *state",
        "next": f"    {_number(p, form)} *const next = scratch->values + {sum(form.scratch)};\n",
        "keep": _KEEP.substitute(p=p, part=part, count=policy.n_state),
    }


def _between(p: str, form: PolicyForm, index: int, y: str) -> list[str]:
    """What is done with the sums of a hidden layer."""
    calls, layer = [], form.policy.layers[index]
    assert layer.cell is None
    if layer.norm is not None:
        arrays = f"{p}_norm_scale{index}, {p}_norm_shift{index}"
        calls.append(f"{p}_norm({layer.n_outputs}, {number(layer.norm.epsilon)}, {arrays}, {y});")
    if kernels.ACTIVATIONS[ACTIVATIONS[layer.activation].name] is not None:
        calls.append(f"{p}_all_{layer.activation}({layer.n_outputs}, {y});")
    if _is_rectified(form, index):
        calls.append(f"{p}_rectify({layer.n_outputs}, {y});")
    return calls


def _calls(p: str, form: PolicyForm, index: int, x: str, y: str, *, is_signed: bool) -> list[str]:
    """is_signed: x is used as it is; else what ReLU would make zero is passed over."""
    layer, stored = form.policy.layers[index], form.layers[index]
    padded = padded_outputs(layer, stored)
    name = _kernel_name(layer, stored)
    arguments = [str(padded // stored.block if isinstance(stored, RowForm) else layer.n_inputs)]
    if isinstance(stored, DenseForm | NibbleForm):
        arguments.append(str(layer.n_outputs))
        if form.is_for_vectors:
            name = _dense_name(layer, is_signed)
    if layer.precision not in _INTEGER_WEIGHTS and not form.is_for_vectors:
        arguments.append(LOWEST if is_signed else "0.0f")
    arguments += [f"{p}_{part}{index}" for part in _indices(stored)]
    arguments += [f"{p}_values{index}", x, y]
    kernel = f"{p}_{name}({', '.join(arguments)});"
    if layer.precision not in _INTEGER_WEIGHTS:
        return [f"{p}_start({layer.n_outputs}, {padded}, {p}_bias{index}, {y});", kernel]
    if form.is_for_vectors:
        scale = f"{p}_scale({layer.n_outputs}, {p}_scale{index}, {p}_bias{index}, {y});"
        return [f"{p}_zero({padded}, {y});", kernel, scale]
    calls = [
        f"step = {p}_quantise({layer.n_inputs}, {_limit(layer)}, {int(is_signed)}, {x});",
        "if (step < 0.0f) {",
        f"    return {p}_refuse(action);",
        "}",
        f"{p}_clear({padded}, {y});",
        kernel,
        f"{p}_scale({layer.n_outputs}, step, {p}_scale{index}, {p}_bias{index}, {y});",
    ]
    exact = outlier_form(layer)
    if exact is not None:
        arrays = f"{p}_outlier_counts{index}, {p}_outlier_columns{index}, {p}_outliers{index}"
        calls.append(f"{p}_{_outliers_name(exact)}({layer.n_outputs}, step, {arrays}, {x}, {y});")
    return calls


def _limit(layer: Layer) -> int:
    """The largest whole number for an input: no sum of 32 bits overflows, also where float32 rounds it up."""
    heaviest = int(np.abs(layer.stored_matrix().astype(np.int64)).sum(axis=1).max(initial=1))
    return min(LARGEST_INPUT, (2**31 - 256) // max(heaviest, 1) * 9999 // 10000)


def _example_action(form: PolicyForm) -> Array:
    """The action [m] for the policy's example, float32."""
    example = form.policy.example_observation[None]
    action: Array = c_actions(form.policy, example, rounds_inputs=_has_integers(form))[0].astype(np.float32)
    return action


def c_actions(policy: CompactPolicy, observations: Array, *, rounds_inputs: bool) -> Array:
    """Actions [count, m] for observations [count, n], float64; rounds_inputs: as an int8 layer rounds them."""
    limits = {id(layer): _limit(layer) for layer in policy.layers if rounds_inputs and layer.scale is not None}

    def given(layer: Layer, x: Array) -> Array:
        return _rounded(x, limits[id(layer)]) if id(layer) in limits else x

    def step(observation: Array, state: Array) -> tuple[Array, Array]:
        x = policy.normalised(shifted(observation, policy.observation_offset).astype(np.float64))
        outputs, following = policy.outputs_of(x, state.astype(np.float64), given)
        return policy.actions_of(outputs), following

    if policy.is_recurrent:
        return policy.actions_along(observations, step)
    return step(observations, policy.initial_state())[0]


def _rounded(x: Array, limit: int) -> Array:
    """Inputs [..., n] in steps of each observation's own largest."""
    largest = np.abs(x).max(axis=-1, initial=0, keepdims=True)
    is_seen = largest > SMALLEST_RANGE
    largest = np.where(is_seen, largest, 1)
    rounded: Array = np.where(is_seen, np.rint(x * (limit / largest)) * (largest / limit), 0)
    return rounded


_CHECK_OF_DOUBLE = Template("""\
#elif defined(__AVR__) || DBL_MANT_DIG < 53
#error "$p.c takes observations in double of 64 bits, which this processor's compiler has not"
""")

_SHIFT = Template("        const float seen = (float)(observation[i] - ${p}_offset[i]);\n")

_ACT = Template("""\
static int ${p}_refuse(float *action) {
    for (size_t j = 0; j < $M; j++) {
        action[j] = ${p}_centre[j];
    }
    return ${P}_NOT_FINITE;
}

int ${p}_r(const $given observation[$N], float action[$M], ${p}_scratch *scratch$state) {
    $number *const even = scratch->values, *const odd = scratch->values + $split;
$next${step}    for (size_t i = 0; i < $N; i++) {
$shift        if (!${p}_is_finite($seen)) {
            return ${p}_refuse(action);
        }
        even[i]$part = $normalised;
    }
$calls    for (size_t j = 0; j < $M; j++) {
        if (!${p}_is_finite($output[j]$part)) {
            return ${p}_refuse(action);
        }
    }
$keep    for (size_t j = 0; j < $M; j++) {
        action[j] = $action;
    }
    return 0;
}
""")

_KEEP = Template("""\
    for (size_t j = 0; j < $count; j++) {
        if (!${p}_is_finite(next[j]$part)) {
            return ${p}_refuse(action);
        }
    }
    for (size_t j = 0; j < $count; j++) {
        state->values[j] = next[j]$part;
    }
""")

_OWN_STATE = Template("""\
${P}_SCRATCH static ${p}_state ${p}_episode;

void ${p}_reset_r(${p}_state *state) {
    for (size_t j = 0; j < $count; j++) {
        state->values[j] = 0.0f;
    }
}
""")

_STEP = Template("""
${P}_SCRATCH static ${p}_history ${p}_past;

static float ${p}_measured(const float *step, size_t i) {
    return ${p}_clip(step[i], ${p}_term_low[i], ${p}_term_high[i]) * ${p}_term_scale[i];
}

/* Puts a term of `size` numbers behind the `kept` that it was before; a first one is all of them. */
static void ${p}_push(size_t size, size_t kept, size_t first, const float *step, ${p}_history *history, size_t begin) {
    float *const past = history->values + begin;
    for (size_t i = 0; i < kept; i++) {
        past[i] = history->is_begun ? past[i + size] : ${p}_measured(step, first + i % size);
    }
    for (size_t i = 0; i < size; i++) {
        past[kept + i] = ${p}_measured(step, first + i);
    }
}

void ${p}_forget_r(${p}_history *history) {
    history->is_begun = 0;
}

int ${p}_step_r(const float step[${P}_STEP], float action[${P}_ACTIONS], ${p}_scratch *scratch,
    ${p}_history *history$state_argument) {
    for (size_t i = 0; i < ${P}_STEP; i++) {
        if (!${p}_is_finite(step[i]) || !${p}_is_finite(${p}_measured(step, i))) {
            return ${p}_refuse(action);
        }
    }
$pushes    history->is_begun = 1;
    return ${p}_r(history->values, action, scratch$state);
}

int ${p}_step(const float step[${P}_STEP], float action[${P}_ACTIONS]) {
    return ${p}_step_r(step, action, &${p}_memory, &${p}_past$passed_state);
}
""")

_TANH_ACTION = Template("${p}_centre[j] + ${p}_half_range[j] * ${p}_tanh($output)")
_CLIP_ACTION = Template("${p}_clip($output, ${p}_low[j], ${p}_high[j])")

_EXAMPLE = Template("""\
    float *const observation = (float *)(void *)${p}_memory.values; /* the first layer's inputs */
    for (int i = 0; i < ${P}_OBSERVATIONS; i++) {
        observation[i] = ${p}_example_observation[i];
    }
""")

_END_OF_SOURCE = Template("""\
${P}_SCRATCH static ${p}_scratch ${p}_memory;
$own_state
int ${p}(const $given observation[${P}_OBSERVATIONS], float action[${P}_ACTIONS]) {
    return ${p}_r(observation, action, &${p}_memory$passed_state);
}
$steps
int ${p}_self_test(void) {
    float action[${P}_ACTIONS];
$begin${example}    if (${p}($passed, action) != 0) {
        return -1;
    }
$forget    for (int j = 0; j < ${P}_ACTIONS; j++) {
        const float difference = action[j] - ${p}_example_action[j];
        const float allowed = $span * $tolerance;
        if (!(difference <= allowed && -difference <= allowed)) {
            return 1 + j;
        }
    }
    return 0;
}

#endif
""")
