"""The C functions that compute layers, as text: templates in which the generator fills in names and types."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from string import Template

from edgerl.policy.activation import LEAKY_SLOPE, ActivationName
from edgerl.policy.cell import CellName

FINITE = Template("""\
/* Whether a number is neither infinite nor NaN; by its bits, which no compiler option for fast arithmetic touches. */
static int ${p}_is_finite(float value) {
    const union {
        float real;
        uint32_t bits;
    } number = {value};
    return (number.bits & UINT32_C(0x7f800000)) != UINT32_C(0x7f800000);
}
""")

TANH_POLYNOMIALS = """\
    const float u = clamped * clamped;
    float p = -8.48870263e-14f;
    p = p * u + 5.27794579e-11f;
    p = p * u - 2.02252206e-08f;
    p = p * u + 1.11543068e-05f;
    p = p * u + 3.10395611e-03f;
    p = p * u + 1.30840093e-01f;
    p = p * u + 1.0f;
    float q = 2.54614512e-04f;
    q = q * u + 2.44951788e-02f;
    q = q * u + 4.64173377e-01f;
    q = q * u + 1.0f;
"""
"""p and q, of which tanh is clamped · p / q."""

TANH = Template(
    """\
/* tanh within 4e-7, never beyond -1 and 1: x P(x^2) / Q(x^2), so that every board computes the same without libm. */
static float ${p}_tanh(float x) {
    const float low = x < -9.0f ? -9.0f : x;
    const float clamped = low > 9.0f ? 9.0f : low;
"""
    + TANH_POLYNOMIALS
    + """\
    const float result = clamped * p / q;
    const float above = result < -1.0f ? -1.0f : result;
    return above > 1.0f ? 1.0f : above;
}
"""
)

EXPONENTIAL_POLYNOMIAL = """\
    const float f = (clipped - (float)n * 0.693359375f) + (float)n * 2.12194440e-4f;
    float p = 1.9875691500e-4f;
    p = p * f + 1.3981999507e-3f;
    p = p * f + 8.3334519073e-3f;
    p = p * f + 4.1665795894e-2f;
    p = p * f + 1.6666665459e-1f;
    p = p * f + 5.0000001201e-1f;
"""
"""p, of which e^f, f being what n halvings or doublings leave, is p f² + f + 1."""

EXPONENTIAL = Template(
    """\
/* e^x within 2e-7 of itself, x being clipped to [-87, 88]; NaN for NaN (the polynomial is Cephes's). */
static float ${p}_exp(float x) {
    const float low = x < -87.0f ? -87.0f : x;
    const float clipped = low > 88.0f ? 88.0f : low;
    const float twos = clipped * 1.44269504f;
    const int32_t n = (int32_t)(twos < 0.0f ? twos - 0.5f : twos + 0.5f);
"""
    + EXPONENTIAL_POLYNOMIAL
    + """\
    const union {
        uint32_t bits;
        float real;
    } power = {(uint32_t)(n + 127) << 23};
    return x != x ? x : (p * f * f + f + 1.0f) * power.real;
}
"""
)

GELU = Template("""\
/* x times the normal distribution's share below x, within 1e-7 of x (Abramowitz and Stegun 7.1.26). */
static float ${p}_gelu_of(float x) {
    const float magnitude = x < 0.0f ? -x : x;
    const float t = 1.0f / (1.0f + 0.231641882f * magnitude);
    float p = 1.061405429f;
    p = p * t - 1.453152027f;
    p = p * t + 1.421413741f;
    p = p * t - 0.284496736f;
    p = p * t + 0.254829592f;
    const float tail = 0.5f * p * t * ${p}_exp(-0.5f * x * x) * x;
    return x < 0.0f ? tail : x - tail;
}
""")

ACTIVATION = Template("""\
/* The activation ${name}, in place. */
static void ${p}_all_${name}(size_t count, ${number} *restrict x) {
    for (size_t i = 0; i < count; i++) {
        const float v = x[i]${real};
        x[i]${real} = ${formula};
    }
}
""")

ACTIVATIONS: Mapping[ActivationName, tuple[str, tuple[Template, ...]] | None] = {
    "identity": None,
    "relu": None,  # the layer behind passes over what it makes zero
    "leaky_relu": (f"v < 0.0f ? {LEAKY_SLOPE}f * v : v", ()),
    "elu": ("v > 0.0f ? v : ${p}_exp(v) - 1.0f", (EXPONENTIAL,)),
    "silu": ("v / (1.0f + ${p}_exp(-v))", (EXPONENTIAL,)),
    "tanh": ("${p}_tanh(v)", ()),
    "sigmoid": ("1.0f / (1.0f + ${p}_exp(-v))", (EXPONENTIAL,)),
    "gelu": ("${p}_gelu_of(v)", (EXPONENTIAL, GELU)),
}
"""Of one sum v: its formula and what that calls, beside tanh; None where there is nothing to compute."""


@dataclass(frozen=True)
class Mathematics:
    """The functions of one number that layers, cells and heads call."""

    word: Template | None  # what the others are made of
    tanh: Template
    exponential: Template
    activations: Mapping[ActivationName, tuple[str, tuple[Template, ...]] | None]  # as ACTIVATIONS


BRANCHING = Mathematics(None, TANH, EXPONENTIAL, ACTIVATIONS)

CELLS: Mapping[CellName, Template] = {
    "gru": Template("""\
/* A GRU: its next state of its sums y[4][units], which become its outputs y[units]. */
static void ${p}_gru(size_t units, const float *state, ${number} *restrict following, ${number} *restrict y) {
    for (size_t i = 0; i < units; i++) {
        const float reset = 1.0f / (1.0f + ${p}_exp(-y[i]${real}));
        const float kept = 1.0f / (1.0f + ${p}_exp(-y[units + i]${real}));
        const float made = ${p}_tanh(y[2 * units + i]${real} + reset * y[3 * units + i]${real});
        following[i]${real} = (1.0f - kept) * made + kept * state[i];
        y[i]${real} = following[i]${real};
    }
}
"""),
    "lstm": Template("""\
/* An LSTM: its next state [2][units] of its sums y[4][units], which become its outputs y[units]. */
static void ${p}_lstm(size_t units, const float *state, ${number} *restrict following, ${number} *restrict y) {
    for (size_t i = 0; i < units; i++) {
        const float entering = 1.0f / (1.0f + ${p}_exp(-y[i]${real}));
        const float kept = 1.0f / (1.0f + ${p}_exp(-y[units + i]${real}));
        const float leaving = 1.0f / (1.0f + ${p}_exp(-y[3 * units + i]${real}));
        const float memory = kept * state[units + i] + entering * ${p}_tanh(y[2 * units + i]${real});
        following[units + i]${real} = memory;
        following[i]${real} = leaving * ${p}_tanh(memory);
        y[i]${real} = following[i]${real};
    }
}
"""),
}

OWN_OUTPUTS = Template("""\
/* A cell's own last outputs, as the rest of its inputs x. */
static void ${p}_own(size_t units, const float *state, ${number} *restrict x) {
    for (size_t i = 0; i < units; i++) {
        x[i]${real} = state[i];
    }
}
""")

RECTIFY = Template("""\
/* ReLU, in place. */
static void ${p}_rectify(size_t count, ${number} *restrict x) {
    for (size_t i = 0; i < count; i++) {
        x[i]${real} = x[i]${real} < 0.0f ? 0.0f : x[i]${real};
    }
}
""")

NORM = Template("""\
/* LayerNorm, in place: mean 0 and variance 1 over the layer, times a scale, plus a shift. */
static void ${p}_norm(
    size_t count, float epsilon, const ${P}_FLASH float *scale, const ${P}_FLASH float *shift, ${number} *restrict x
) {
    float sum = 0.0f, squares = 0.0f;
    for (size_t i = 0; i < count; i++) {
        sum += x[i]${real};
    }
    const float mean = sum / (float)count;
    for (size_t i = 0; i < count; i++) {
        const float centred = x[i]${real} - mean;
        squares += centred * centred;
    }
    const float variance = squares / (float)count + epsilon;
    union {
        float real;
        uint32_t bits;
    } root = {variance}; /* 1 / sqrt(variance) by Newton's method, from the well-known first guess */
    root.bits = UINT32_C(0x5f375a86) - (root.bits >> 1);
    for (int step = 0; step < 3; step++) {
        root.real *= 1.5f - 0.5f * (variance * root.real) * root.real;
    }
    for (size_t i = 0; i < count; i++) {
        x[i]${real} = (x[i]${real} - mean) * root.real * scale[i] + shift[i];
    }
}
""")

CLIP = Template("""\
/* A number, but at least `low` and at most `high`; NaN stays. */
static float ${p}_clip(float x, float low, float high) {
    const float above = x < low ? low : x;
    return above > high ? high : above;
}
""")

HALF = Template("""\
/* A binary16 number as float: one instruction where the processor has it, else by its bits. */
static inline float ${p}_half(uint16_t half) {
#if defined(__GNUC__) && defined(__ARM_FP) && (__ARM_FP & 4) && __ARM_ARCH_PROFILE == 'M' && !defined(__SOFTFP__)
    const union {
        uint32_t bits;
        float real;
    } number = {half};
    float value;
    __asm__("vcvtb.f32.f16 %0, %1" : "=t"(value) : "t"(number.real));
    return value;
#else
    union {
        uint32_t bits;
        float real;
    } number = {(uint32_t)(half & 0x7fffu) << 13};
    number.real *= 5.19229686e+33f; /* 2^112: the two kinds of exponent begin so far apart; right for subnormals, too */
    number.bits |= (uint32_t)(half & 0x8000u) << 16;
    return number.real;
#endif
}
""")

ARM = Template("""\
/* A Cortex-M with a floating-point unit loads and stores four numbers by one instruction, which no compiler finds. */
#if defined(__GNUC__) && defined(__ARM_FP) && (__ARM_FP & 4) && __ARM_ARCH_PROFILE == 'M' && !defined(__SOFTFP__)
#define ${P}_HAS_VLDM 1
#else
#define ${P}_HAS_VLDM 0
#endif
""")

START = Template("""\
/* The sums of a layer begin at its biases; what a last block has beyond the outputs, at zero. */
static void ${p}_start(size_t outputs, size_t padded, const ${P}_FLASH float *bias, ${number} *restrict y) {
    for (size_t j = 0; j < outputs; j++) {
        y[j]${real} = bias[j];
    }
    for (size_t j = outputs; j < padded; j++) {
        y[j]${real} = 0.0f;
    }
}
""")

CLEAR = Template("""\
/* The sums of an integer layer begin at zero. */
static void ${p}_clear(size_t outputs, ${number} *restrict y) {
    for (size_t j = 0; j < outputs; j++) {
        y[j].integer = 0;
    }
}
""")

DENSE = Template("""\
/* Adds four columns of weights, each times its input, to y[outputs]: four multiply-adds for a load and a store. */
static void ${p}_four_${dtype}(
    size_t outputs, const ${value} *const column[4], const ${input} input[4], ${number} *restrict y
) {
    const ${value} *a = column[0], *b = column[1], *c = column[2], *d = column[3];
    const ${input} p = input[0], q = input[1], r = input[2], s = input[3];
    const ${number} *const whole = y + outputs / 4 * 4, *const end = y + outputs;
    while (y != whole) {
${body}    }
    while (y != end) {
        ${input} sum = y[0]${part};
        sum += ${a} * p;
        sum += ${b} * q;
        sum += ${c} * r;
        sum += ${d} * s;
        y[0]${part} = sum;
        y++;
    }
}

/* y[outputs] += x[inputs] weights[inputs][outputs], for each input that ${condition}. */
static void ${p}_dense_${dtype}(
    size_t inputs, size_t outputs, ${above}const ${value} *weights, const ${number} *restrict x, ${number} *restrict y
) {
    const ${number} *const end = x + inputs;
    const ${value} *column[4];
    ${input} active[4];
    size_t count = 0;
    while (x != end) {
        const ${input} input = x[0]${part};
        x++;
        if (${test}) {
            column[count] = weights;
            active[count] = input;
            count++;
            if (count == 4) {
                ${p}_four_${dtype}(outputs, column, active, y);
                count = 0;
            }
        }
        weights += outputs;
    }
    if (count > 0) {
        for (; count < 4; count++) {
            column[count] = column[0];
            active[count] = 0;
        }
        ${p}_four_${dtype}(outputs, column, active, y);
    }
}
""")

NIBBLES = Template(
    """\
/* Two weights of four bits, as whole numbers. */
static inline int32_t ${p}_first(uint32_t pair) {
    return (int32_t)((pair & 15u) ^ 8u) - 8;
}

static inline int32_t ${p}_second(uint32_t pair) {
    return (int32_t)((pair >> 4) ^ 8u) - 8;
}

/* Adds four columns of weights, each times its input, to y[outputs]. */
static void ${p}_four_int4(
    size_t outputs, const ${value} *const column[4], const int32_t input[4], ${number} *restrict y
) {
    const ${value} *a = column[0], *b = column[1], *c = column[2], *d = column[3];
    const int32_t p = input[0], q = input[1], r = input[2], s = input[3];
    const ${number} *const whole = y + outputs / 2 * 2;
    while (y != whole) {
        const uint32_t e = *a++, f = *b++, g = *c++, h = *d++;
        y[0].integer += ${p}_first(e) * p + ${p}_first(f) * q + ${p}_first(g) * r + ${p}_first(h) * s;
        y[1].integer += ${p}_second(e) * p + ${p}_second(f) * q + ${p}_second(g) * r + ${p}_second(h) * s;
        y += 2;
    }
    if (outputs % 2 != 0) {
        y[0].integer += ${p}_first(*a) * p + ${p}_first(*b) * q + ${p}_first(*c) * r + ${p}_first(*d) * s;
    }
}
"""
    + DENSE.template[DENSE.template.index("\n/* y[outputs] += x[inputs]") :].replace(
        "weights += outputs;", "weights += (outputs + 1) / 2;"
    )
)

COLUMNS = Template("""\
/* Adds to y the weights of each of x[inputs] that ${condition}: counts[inputs] entries, each of which has ${index}
 * and ${weights}. */
static void ${p}_${name}(
    size_t inputs, ${above}const ${count} *counts, const ${row} *rows,
    const ${value} *values, const ${number} *restrict x, ${number} *restrict y
) {
    const ${number} *const last = x + inputs;
    while (x != last) {
        const size_t count = *counts++;
        const ${input} input = x[0]${part};
        x++;
        if (${test}) {
${loops}        } else {
            rows += count;
            values += ${skip};
        }
    }
}
""")


@dataclass(frozen=True)
class Kernel:
    """What a kernel computes with."""

    value: str  # type of a weight, as it is stored
    input: str  # type of an input and a sum
    load: str  # the function that makes the one of the other, or nothing
    part: str  # the member of a scratch number
    number: str  # type of a scratch number
    vldm: str | None  # the macro that says whether Arm's instructions are there; None where they are of no use

    def weight(self, stored: str) -> str:
        """The expression for a weight that is stored as `stored`."""
        return f"{self.load}({stored})" if self.load else stored


def dense_body(kernel: Kernel) -> str:
    """Four sums, four multiply-adds each."""
    lines = [f"{kernel.input} y{k} = y[{k}]{kernel.part};" for k in range(4)]
    for column, factor in zip("abcd", "pqrs", strict=True):
        lines += [f"y{k} += {kernel.weight(f'{column}[{k}]')} * {factor};" for k in range(4)]
    lines += [f"y[{k}]{kernel.part} = y{k};" for k in range(4)]
    lines += [f"{pointer} += 4;" for pointer in "abcdy"]
    return _indented(_either(kernel, _DENSE_ARM, lines), 8)


def column_loops(kernel: Kernel, row: str, block: int, is_delta: bool) -> str:
    """The entries of one column; connections by fours as long as there are four."""
    loops = [f"const {row} *const end = rows + count;"]
    if is_delta:
        loops.append(f"{kernel.number} *at = y;")
    if block == 1:
        loops += [f"const {row} *const whole = rows + count / 4 * 4;", "while (rows != whole) {"]
        loops += [*_entries(kernel, 4, 1, is_delta), "}"]
    loops += ["while (rows != end) {", *_entries(kernel, 1, block, is_delta), "}"]
    return _indented(loops, 12)


def _entries(kernel: Kernel, entries: int, block: int, is_delta: bool) -> list[str]:
    """`entries` entries of a column: all sums are loaded before any is stored, for no two are of one row."""
    lines = []
    for e in range(entries):
        base = ("at" if e == 0 else f"y{e - 1}") if is_delta else "y"
        scaled = f"rows[{e}]" if block == 1 else f"{block} * (size_t)rows[{e}]"
        lines.append(f"{kernel.number} *const y{e} = {base} + {scaled};")
    if is_delta:
        lines.append(f"at = y{entries - 1};")
    lines.append(f"rows += {entries};")
    pairs = [(e, k) for e in range(entries) for k in range(block)]
    sums = [f"{kernel.input} sum{e}{k} = y{e}[{k}]{kernel.part};" for e, k in pairs]
    sums += [f"sum{e}{k} += {kernel.weight(f'values[{block * e + k}]')} * input;" for e, k in pairs]
    sums += [f"y{e}[{k}]{kernel.part} = sum{e}{k};" for e, k in pairs]
    sums.append(f"values += {block * entries};")
    arm = {(4, 1): _FOUR_ARM, (1, 4): _BLOCK_ARM}.get((entries, block))
    lines += sums if arm is None else _either(kernel, arm, sums)
    return ["    " + line for line in lines]


def _either(kernel: Kernel, arm: tuple[list[str], list[str]], portable: list[str]) -> list[str]:
    """Arm's instructions where they are, else the portable lines."""
    if kernel.vldm is None:
        return portable
    instructions, operands = arm
    text = [f'    "{instruction}\\n"' for instruction in instructions]
    tail = [f"    {line}" for line in (*operands, f"{_CLOBBERED});")]
    return [f"#if {kernel.vldm}", "__asm__ volatile(", *text, *tail, "#else", *portable, "#endif"]


def _multiply_adds(sums: int, weights: int, factor: str) -> list[str]:
    """Instructions: four registers from number `sums` on gain four from number `weights` on, times `factor`."""
    return [f"vfma.f32 s{sums + k}, s{weights + k}, %[{factor}]" for k in range(4)]


_CLOBBERED = ": " + ", ".join(f'"s{k}"' for k in range(8, 16)) + ', "memory"'

_DENSE_ARM = (
    [
        "vldmia %[y], {s8-s11}",
        *(
            instruction
            for column, factor in zip("abcd", "pqrs", strict=True)
            for instruction in (f"vldmia %[{column}]!, {{s12-s15}}", *_multiply_adds(8, 12, factor))
        ),
        "vstmia %[y]!, {s8-s11}",
    ],
    [
        ': [a] "+r"(a), [b] "+r"(b), [c] "+r"(c), [d] "+r"(d), [y] "+r"(y)',
        ': [p] "t"(p), [q] "t"(q), [r] "t"(r), [s] "t"(s)',
    ],
)

_BLOCK_ARM = (
    [
        "vldmia %[values]!, {s12-s15}",
        "vldmia %[y], {s8-s11}",
        *_multiply_adds(8, 12, "input"),
        "vstmia %[y], {s8-s11}",
    ],
    [': [values] "+r"(values)', ': [y] "r"(y0), [input] "t"(input)'],
)

_FOUR_ARM = (
    [
        "vldmia %[values]!, {s12-s15}",
        *(f"vldr s{8 + k}, [%[y{k}]]" for k in range(4)),
        *_multiply_adds(8, 12, "input"),
        *(f"vstr s{8 + k}, [%[y{k}]]" for k in range(4)),
    ],
    [': [values] "+r"(values)', ': [y0] "r"(y0), [y1] "r"(y1), [y2] "r"(y2), [y3] "r"(y3), [input] "t"(input)'],
)


def _indented(lines: list[str], depth: int) -> str:
    """Lines of C at a depth; those of the preprocessor stay at the margin."""
    return "".join(f"{line.strip()}\n" if line.strip().startswith("#") else f"{' ' * depth}{line}\n" for line in lines)


QUANTISE = Template("""\
/* x[inputs] to whole numbers of at most `limit`, in place; returns the step between two of them, or a negative number
 * where one of x is not finite. What ReLU would make zero becomes zero, unless x `is_signed`. */
static float ${p}_quantise(size_t inputs, int32_t limit, int is_signed, ${number} *restrict x) {
    int32_t largest = 0;
    for (size_t i = 0; i < inputs; i++) {
        if (!is_signed && x[i].integer < 0) {
            x[i].integer = 0;
        }
        const int32_t magnitude = x[i].integer & INT32_C(0x7fffffff); /* floats of one sign rise as their bits do */
        if (magnitude > largest) {
            largest = magnitude;
        }
    }
    if (largest >= INT32_C(0x7f800000)) {
        return -1.0f;
    }
    const ${number} range = {.integer = largest};
    if (!(range.real > ${smallest})) {
        for (size_t i = 0; i < inputs; i++) {
            x[i].integer = 0;
        }
        return 0.0f;
    }
    const float factor = (float)limit / range.real;
    for (size_t i = 0; i < inputs; i++) {
        if (x[i].integer != 0) {
            const float scaled = x[i].real * factor;
            x[i].integer = (int32_t)(scaled < 0.0f ? scaled - 0.5f : scaled + 0.5f);
        }
    }
    return range.real / (float)limit;
}

/* Sums of whole numbers to what they stand for, with the bias. */
static void ${p}_scale(
    size_t outputs, float step, const ${P}_FLASH float *scale, const ${P}_FLASH float *bias, ${number} *restrict y
) {
    for (size_t j = 0; j < outputs; j++) {
        y[j].real = (float)y[j].integer * (step * scale[j]) + bias[j];
    }
}
""")

OUTLIERS = Template("""\
/* Adds the weights that are kept exact, of each output: count of them, each with its column. */
static void ${p}_${name}(
    size_t outputs, float step, ${count} *counts, ${column} *columns, const ${P}_FLASH float *values,
    const ${number} *restrict x, ${number} *restrict y
) {
    for (size_t j = 0; j < outputs; j++) {
        float sum = y[j].real;
        for (size_t left = counts[j]; left > 0; left--) {
            sum += *values++ * ((float)x[*columns++].integer * step);
        }
        y[j].real = sum;
    }
}
""")
