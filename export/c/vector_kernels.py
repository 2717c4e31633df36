"""The C functions of application processors, as text: those of kernels.py that a vector unit and caches ask otherwise.

They are written so that GCC and Clang make vectors of them at -O3, without -ffast-math. Each output is a sum of its
own, of its inputs in their order, or of two or four fixed parts of them. Sums lie in memory, or are few enough for any
compiler to keep in registers; and no loop holds a branch, nor a choice between numbers that a compiler turns into one
(GCC does, where one of them is constant: hence the bits of `within`).
"""

from __future__ import annotations

from collections.abc import Mapping
from string import Template

from edgerl.export.c.kernels import EXPONENTIAL_POLYNOMIAL, TANH_POLYNOMIALS, Mathematics
from edgerl.policy.activation import LEAKY_SLOPE, ActivationName

WORD = Template("""\
typedef union {
    float real;
    uint32_t bits;
} ${p}_word;

/* x, but no further from zero than the float whose bits are `bound`, nor is what is not finite. */
static inline float ${p}_within(float x, uint32_t bound) {
    const ${p}_word given = {x};
    const uint32_t beyond = (given.bits & UINT32_C(0x7fffffff)) - bound; /* its first bit says that it is not */
    const uint32_t magnitude = bound + (beyond & (UINT32_C(0) - (beyond >> 31)));
    const ${p}_word result = {.bits = (given.bits & UINT32_C(0x80000000)) | magnitude};
    return result.real;
}
""")

MAGNITUDE = Template("""\
static inline float ${p}_magnitude(float x) {
    ${p}_word number = {x};
    number.bits &= UINT32_C(0x7fffffff);
    return number.real;
}
""")

TANH = Template(
    """\
/* tanh within 4e-7, never beyond -1 and 1: x P(x^2) / Q(x^2), so that every board computes the same without libm. NaN
 * for what is not finite. */
static inline float ${p}_tanh(float x) {
    const float clamped = ${p}_within(x, UINT32_C(0x41100000)); /* 9 */
"""
    + TANH_POLYNOMIALS
    + """\
    return ${p}_within(clamped * p / q, UINT32_C(0x3f800000)) /* 1 */ + 0.0f * x;
}
"""
)

EXPONENTIAL = Template(
    """\
/* e^x within 2e-7 of itself, x being clipped to [-87, 87] (the polynomial is Cephes's); NaN for what is not finite. */
static inline float ${p}_exp(float x) {
    const float clipped = ${p}_within(x, UINT32_C(0x42ae0000)); /* 87 */
    const int32_t n = (int32_t)(clipped * 1.44269504f + 126.5f) - 126; /* the nearest, without asking for the sign */
"""
    + EXPONENTIAL_POLYNOMIAL
    + """\
    const ${p}_word power = {.bits = (uint32_t)(n + 127) << 23};
    return (p * f * f + f + 1.0f) * power.real + 0.0f * x;
}
"""
)

GELU = Template("""\
/* x times the normal distribution's share below x, within 1e-7 of x (Abramowitz and Stegun 7.1.26). */
static inline float ${p}_gelu_of(float x) {
    const float magnitude = ${p}_magnitude(x);
    const float near = ${p}_within(x, UINT32_C(0x41600000)); /* 14: beyond, the smaller share is below 1e-40 */
    const float t = 1.0f / (1.0f + 0.231641882f * magnitude);
    float p = 1.061405429f;
    p = p * t - 1.453152027f;
    p = p * t + 1.421413741f;
    p = p * t - 0.284496736f;
    p = p * t + 0.254829592f;
    return 0.5f * (x + magnitude) - 0.5f * p * t * ${p}_exp(-0.5f * near * near) * magnitude;
}
""")

ACTIVATIONS: Mapping[ActivationName, tuple[str, tuple[Template, ...]] | None] = {
    "identity": None,
    "relu": None,  # the layer behind passes over what it makes zero
    "leaky_relu": (f"v > {LEAKY_SLOPE}f * v ? v : {LEAKY_SLOPE}f * v", ()),
    "elu": (
        "0.5f * (v + ${p}_magnitude(v)) + (${p}_exp(0.5f * (v - ${p}_magnitude(v))) - 1.0f)",
        (MAGNITUDE, EXPONENTIAL),
    ),
    "silu": ("v / (1.0f + ${p}_exp(-v))", (EXPONENTIAL,)),
    "tanh": ("${p}_tanh(v)", ()),
    "sigmoid": ("1.0f / (1.0f + ${p}_exp(-v))", (EXPONENTIAL,)),
    "gelu": ("${p}_gelu_of(v)", (MAGNITUDE, EXPONENTIAL, GELU)),
}

BRANCHLESS = Mathematics(WORD, TANH, EXPONENTIAL, ACTIVATIONS)

EIGHT = Template("""\
/* Adds eight columns of weights, each times its input, to y[outputs]: as many as there are registers for. */
static inline void ${p}_eight_${dtype}(
    size_t outputs, const ${value} *const column[8], const float input[8], float *restrict y
) {
    const ${value} *a = column[0], *b = column[1], *c = column[2], *d = column[3];
    const ${value} *e = column[4], *f = column[5], *g = column[6], *h = column[7];
    const float p = input[0], q = input[1], r = input[2], s = input[3];
    const float t = input[4], u = input[5], v = input[6], w = input[7];
    for (size_t j = 0; j < outputs; j++) {
        float sum = y[j];
        sum += ${load}a[j]${loaded} * p;
        sum += ${load}b[j]${loaded} * q;
        sum += ${load}c[j]${loaded} * r;
        sum += ${load}d[j]${loaded} * s;
        sum += ${load}e[j]${loaded} * t;
        sum += ${load}f[j]${loaded} * u;
        sum += ${load}g[j]${loaded} * v;
        sum += ${load}h[j]${loaded} * w;
        y[j] = sum;
    }
}
""")

DENSE = Template("""\
/* y[outputs] += x[inputs] weights[inputs][outputs]. */
static void ${p}_dense_${dtype}(
    size_t inputs, size_t outputs, const ${value} *weights, const float *restrict x, float *restrict y
) {
    const size_t whole = inputs / 8 * 8;
    for (size_t i = 0; i < whole; i += 8) {
        const ${value} *const column[8] = {
            weights, weights + outputs, weights + 2 * outputs, weights + 3 * outputs,
            weights + 4 * outputs, weights + 5 * outputs, weights + 6 * outputs, weights + 7 * outputs,
        };
        ${p}_eight_${dtype}(outputs, column, x + i, y);
        weights += 8 * outputs;
    }
    if (whole < inputs) {
        const ${value} *column[8];
        float rest[8];
        for (size_t k = 0; k < 8; k++) {
            const int is_there = whole + k < inputs;
            column[k] = is_there ? weights + outputs * k : weights;
            rest[k] = is_there ? x[whole + k] : 0.0f;
        }
        ${p}_eight_${dtype}(outputs, column, rest, y);
    }
}
""")

ACTIVE = Template("""\
/* y[outputs] += x[inputs] weights[inputs][outputs], for each input that is above zero. */
static void ${p}_active_${dtype}(
    size_t inputs, size_t outputs, const ${value} *weights, const float *restrict x, float *restrict y
) {
    const ${value} *column[8];
    float active[8];
    size_t count = 0;
    for (size_t i = 0; i < inputs; i++) {
        const float input = x[i];
        column[count] = weights + outputs * i;
        active[count] = input;
        count += input > 0.0f; /* a branch would be foreseen wrongly every other time */
        if (count == 8) {
            ${p}_eight_${dtype}(outputs, column, active, y);
            count = 0;
        }
    }
    if (count > 0) {
        for (; count < 8; count++) {
            column[count] = column[0];
            active[count] = 0.0f;
        }
        ${p}_eight_${dtype}(outputs, column, active, y);
    }
}
""")

ZERO = Template("""\
/* The sums of a layer of whole numbers begin at zero. */
static void ${p}_zero(size_t outputs, float *restrict y) {
    for (size_t j = 0; j < outputs; j++) {
        y[j] = 0.0f;
    }
}
""")

SCALE = Template("""\
/* Sums of whole numbers to what they stand for, with the bias. */
static void ${p}_scale(
    size_t outputs, const ${P}_FLASH float *scale, const ${P}_FLASH float *bias, float *restrict y
) {
    for (size_t j = 0; j < outputs; j++) {
        y[j] = y[j] * scale[j] + bias[j];
    }
}
""")

ROWS = {
    1: Template("""\
/* y[rows] += weights x: counts[rows] connections, each of which has the number of its input and its weight. */
static void ${p}_${name}(
    size_t rows, const ${count} *counts, const ${column} *columns, const ${value} *values,
    const float *restrict x, float *restrict y
) {
    for (size_t r = 0; r < rows; r++) {
        float first = 0.0f, second = 0.0f, third = 0.0f, fourth = 0.0f;
        size_t count = counts[r];
        for (; count >= 4; count -= 4) {
            first += ${load}values[0]${loaded} * x[columns[0]];
            second += ${load}values[1]${loaded} * x[columns[1]];
            third += ${load}values[2]${loaded} * x[columns[2]];
            fourth += ${load}values[3]${loaded} * x[columns[3]];
            columns += 4;
            values += 4;
        }
        for (; count > 0; count--) {
            first += ${load}*values++${loaded} * x[*columns++];
        }
        y[r] += (first + second) + (third + fourth);
    }
}
"""),
    4: Template("""\
/* y[4 rows] += weights x: counts[rows] blocks, each of which has the number of its input and four weights. */
static void ${p}_${name}(
    size_t rows, const ${count} *counts, const ${column} *columns, const ${value} *values,
    const float *restrict x, float *restrict y
) {
    for (size_t r = 0; r < rows; r++) {
        float first[4] = {0.0f}, second[4] = {0.0f};
        size_t count = counts[r];
        for (; count >= 2; count -= 2) {
            const float p = x[columns[0]], q = x[columns[1]];
            for (size_t k = 0; k < 4; k++) {
                first[k] += ${load}values[k]${loaded} * p;
            }
            for (size_t k = 0; k < 4; k++) {
                second[k] += ${load}values[4 + k]${loaded} * q;
            }
            columns += 2;
            values += 8;
        }
        if (count > 0) {
            const float p = x[columns[0]];
            for (size_t k = 0; k < 4; k++) {
                first[k] += ${load}values[k]${loaded} * p;
            }
            columns++;
            values += 4;
        }
        for (size_t k = 0; k < 4; k++) {
            y[k] += first[k] + second[k];
        }
        y += 4;
    }
}
"""),
}
"""By block."""
