"""The C functions that compute layers, as text: templates in which the generator fills in names and types."""

from __future__ import annotations

from string import Template

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

TANH = Template("""\
/* tanh within 4e-7, never beyond -1 and 1: x P(x^2) / Q(x^2), so that every board computes the same without libm. */
static float ${p}_tanh(float x) {
    const float low = x < -9.0f ? -9.0f : x;
    const float clamped = low > 9.0f ? 9.0f : low;
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
    const float result = clamped * p / q;
    const float above = result < -1.0f ? -1.0f : result;
    return above > 1.0f ? 1.0f : above;
}
""")

HALF = Template("""\
/* A binary16 number as float: one instruction where the processor has it, else by its bits. */
static inline float ${p}_half(uint16_t half) {
#if defined(__GNUC__) && defined(__ARM_FP) && (__ARM_FP & 2) && !defined(__SOFTFP__)
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

START = Template("""\
/* The sums of a layer begin at its biases; what a last block has beyond the outputs, at zero. */
static void ${p}_start(size_t outputs, size_t padded, const float *bias, ${number} *restrict y) {
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
static void ${p}_four_${dtype}(size_t outputs, const ${value} *const column[4], const ${input} input[4],
                               ${number} *restrict y) {
    const ${value} *a = column[0], *b = column[1], *c = column[2], *d = column[3];
    const ${input} p = input[0], q = input[1], r = input[2], s = input[3];
    size_t left = outputs;
    for (; left >= ${unrolled}; left -= ${unrolled}) {
${body}        a += ${unrolled};
        b += ${unrolled};
        c += ${unrolled};
        d += ${unrolled};
        y += ${unrolled};
    }
    for (; left > 0; left--) {
        ${input} sum = y[0]${part};
        sum += ${load}(*a++) * p;
        sum += ${load}(*b++) * q;
        sum += ${load}(*c++) * r;
        sum += ${load}(*d++) * s;
        y[0]${part} = sum;
        y++;
    }
}

/* y[outputs] += x[inputs] weights[inputs][outputs], for each input that ${condition}. */
static void ${p}_dense_${dtype}(size_t inputs, size_t outputs, ${above}const ${value} *weights,
                                const ${number} *restrict x, ${number} *restrict y) {
    const ${value} *column[4];
    ${input} input[4];
    size_t count = 0;
    for (size_t i = 0; i < inputs; i++) {
        if (${test}) {
            column[count] = weights;
            input[count] = x[i]${part};
            count++;
            if (count == 4) {
                ${p}_four_${dtype}(outputs, column, input, y);
                count = 0;
            }
        }
        weights += outputs;
    }
    if (count > 0) {
        for (; count < 4; count++) {
            column[count] = column[0];
            input[count] = 0;
        }
        ${p}_four_${dtype}(outputs, column, input, y);
    }
}
""")

COLUMNS = Template("""\
/* Adds to y the connections of each of x[inputs] that ${condition}: counts[inputs] entries, each of which has ${entry}
 * and ${weights}. */
static void ${p}_${name}(size_t inputs, ${above}const ${count} *counts, const ${row} *rows,
                         const ${value} *values, const ${number} *restrict x, ${number} *restrict y) {
    for (size_t i = 0; i < inputs; i++) {
        size_t left = counts[i];
        if (${test}) {
            const ${input} input = x[i]${part};
${begin}            for (; left >= ${unrolled}; left -= ${unrolled}) {
${body}            }
            for (; left > 0; left--) {
${rest}            }
        } else {
            rows += left;
            values += ${skip};
        }
    }
}
""")


def dense_body(unrolled: int, kind: str, load: str, part: str) -> str:
    """`unrolled` sums, four multiply-adds each."""
    lines = [f"{kind} y{k} = y[{k}]{part};" for k in range(unrolled)]
    for column, factor in zip("abcd", "pqrs", strict=True):
        lines += [f"y{k} += {load}({column}[{k}]) * {factor};" for k in range(unrolled)]
    lines += [f"y[{k}]{part} = y{k};" for k in range(unrolled)]
    return _indented(lines, 8)


def column_entries(entries: int, block: int, is_delta: bool, kind: str, load: str, part: str, number: str) -> str:
    """`entries` entries of a column: all sums are loaded before any is stored, for no two are of one row."""
    base, lines = "at" if is_delta else "y", []
    for e in range(entries):
        scaled = f"rows[{e}]" if block == 1 else f"{block} * (size_t)rows[{e}]"
        if is_delta:
            lines.append(f"{number} *const y{e} = {'at' if e == 0 else f'y{e - 1}'} + {scaled};")
        else:
            lines.append(f"{number} *const y{e} = {base} + {scaled};")
    pairs = [(e, k) for e in range(entries) for k in range(block)]
    lines += [f"{kind} sum{e}{k} = y{e}[{k}]{part};" for e, k in pairs]
    lines += [f"sum{e}{k} += {load}(values[{block * e + k}]) * input;" for e, k in pairs]
    lines += [f"y{e}[{k}]{part} = sum{e}{k};" for e, k in pairs]
    if is_delta:
        lines.append(f"at = y{entries - 1};")
    lines += [f"rows += {entries};", f"values += {block * entries};"]
    return _indented(lines, 16)


def _indented(lines: list[str], depth: int) -> str:
    return "".join(f"{' ' * depth}{line}\n" for line in lines)


QUANTISE = Template("""\
/* x[inputs] to whole numbers of at most `limit`, in place; returns the step between two of them, or a negative number
 * where one of x is not finite. What ReLU would make zero becomes zero, unless `is_first`. */
static float ${p}_quantise(size_t inputs, int32_t limit, int is_first, ${number} *restrict x) {
    int32_t largest = 0;
    for (size_t i = 0; i < inputs; i++) {
        if (!is_first && x[i].integer < 0) {
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
    if (!(range.real > 1e-30f)) {
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
static void ${p}_scale(size_t outputs, float step, const float *scale, const float *bias, ${number} *restrict y) {
    for (size_t j = 0; j < outputs; j++) {
        y[j].real = (float)y[j].integer * (step * scale[j]) + bias[j];
    }
}
""")
