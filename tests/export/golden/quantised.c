/* See quantised.h, which says what this is.
 * SPDX-License-Identifier: MIT */
#include "quantised.h"

#include <stddef.h>

#if defined(__cplusplus) || !defined(__STDC_VERSION__) || __STDC_VERSION__ < 199901L
#error "quantised.c is C99: compile it as C; a program in C++ includes quantised.h and links it"
#elif QUANTISED_TAG != 0xf22bd380
#error "quantised.h and quantised.c are of two exports: take both from one"
#elif defined(__AVR__) && (!defined(__FLASH) || defined(__STRICT_ANSI__))
#error "on an AVR, quantised.c reads its constants from flash by __flash, which GCC has with -std=gnu99 or gnu11"
#elif defined(__AVR__) && QUANTISED_FLASH_BYTES > 65535
#error "on an AVR, __flash reads constants from the first 64 KiB, and quantised.c has more"
#else

#ifndef QUANTISED_WEIGHTS
#define QUANTISED_WEIGHTS
#endif
#ifndef QUANTISED_SCRATCH
#define QUANTISED_SCRATCH
#endif
#ifdef __AVR__ /* its flash is an address space of its own */
#define QUANTISED_FLASH __flash
#else
#define QUANTISED_FLASH
#endif

QUANTISED_WEIGHTS static const QUANTISED_FLASH float quantised_mean[3] = {
    0.272791326f, -0.982188106f, -1.107373f,
};

QUANTISED_WEIGHTS static const QUANTISED_FLASH float quantised_deviation[3] = {
    1.22089541f, 0.627037048f, 1.26554847f,
};

/* Layer 0: 3 inputs, 5 outputs, int8, sparse columns, single connections, 8-bit rows. */
QUANTISED_WEIGHTS static const QUANTISED_FLASH int8_t quantised_values0[7] = {
    -127, -127, -127, 127, -127, 4, 65,
};

QUANTISED_WEIGHTS static const QUANTISED_FLASH uint8_t quantised_counts0[3] = {
    2, 2, 3,
};

QUANTISED_WEIGHTS static const QUANTISED_FLASH uint8_t quantised_rows0[7] = {
    3, 4, 1, 2, 0, 1, 4,
};

QUANTISED_WEIGHTS static const QUANTISED_FLASH float quantised_scale0[5] = {
    0.00133052748f, 0.00117021264f, 0.00588389859f, 0.0123261213f, 0.00192030508f,
};

QUANTISED_WEIGHTS static const QUANTISED_FLASH float quantised_bias0[5] = {
    2.11783886f, -1.11202073f, -0.377605021f, 2.04277158f, 0.646703005f,
};

/* Layer 1: 5 inputs, 2 outputs, int8, sparse columns, single connections, 8-bit rows. */
QUANTISED_WEIGHTS static const QUANTISED_FLASH int8_t quantised_values1[4] = {
    20, -108, 127, 127,
};

QUANTISED_WEIGHTS static const QUANTISED_FLASH uint8_t quantised_counts1[5] = {
    1, 0, 2, 1, 0,
};

QUANTISED_WEIGHTS static const QUANTISED_FLASH uint8_t quantised_rows1[4] = {
    0, 0, 1, 0,
};

QUANTISED_WEIGHTS static const QUANTISED_FLASH float quantised_scale1[2] = {
    0.00209180475f, 0.00257741613f,
};

QUANTISED_WEIGHTS static const QUANTISED_FLASH float quantised_bias1[2] = {
    -1.07178736f, 0.914467216f,
};

QUANTISED_WEIGHTS static const QUANTISED_FLASH float quantised_centre[2] = {
    -0.124771982f, 0.384364545f,
};

QUANTISED_WEIGHTS static const QUANTISED_FLASH float quantised_half_range[2] = {
    0.855364442f, 0.671227992f,
};

QUANTISED_WEIGHTS static const QUANTISED_FLASH float quantised_example_observation[3] = {
    0.759519517f, -1.64878738f, 0.254388124f,
};

QUANTISED_WEIGHTS static const QUANTISED_FLASH float quantised_example_action[2] = {
    -0.641625762f, 0.869843245f,
};

/* Whether a number is neither infinite nor NaN; by its bits, which no compiler option for fast arithmetic touches. */
static int quantised_is_finite(float value) {
    const union {
        float real;
        uint32_t bits;
    } number = {value};
    return (number.bits & UINT32_C(0x7f800000)) != UINT32_C(0x7f800000);
}

/* tanh within 4e-7, never beyond -1 and 1: x P(x^2) / Q(x^2), so that every board computes the same without libm. */
static float quantised_tanh(float x) {
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

/* The sums of an integer layer begin at zero. */
static void quantised_clear(size_t outputs, quantised_number *restrict y) {
    for (size_t j = 0; j < outputs; j++) {
        y[j].integer = 0;
    }
}

/* x[inputs] to whole numbers of at most `limit`, in place; returns the step between two of them, or a negative number
 * where one of x is not finite. What ReLU would make zero becomes zero, unless x `is_signed`. */
static float quantised_quantise(size_t inputs, int32_t limit, int is_signed, quantised_number *restrict x) {
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
    const quantised_number range = {.integer = largest};
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
static void quantised_scale(
    size_t outputs, float step, const QUANTISED_FLASH float *scale, const QUANTISED_FLASH float *bias, quantised_number *restrict y
) {
    for (size_t j = 0; j < outputs; j++) {
        y[j].real = (float)y[j].integer * (step * scale[j]) + bias[j];
    }
}

/* Adds to y the weights of each of x[inputs] that is not zero: counts[inputs] entries, each of which has its row
 * and a weight. */
static void quantised_columns1_int8_row8_count8(
    size_t inputs, const QUANTISED_FLASH uint8_t *counts, const QUANTISED_FLASH uint8_t *rows,
    const QUANTISED_FLASH int8_t *values, const quantised_number *restrict x, quantised_number *restrict y
) {
    const quantised_number *const last = x + inputs;
    while (x != last) {
        const size_t count = *counts++;
        const int32_t input = x[0].integer;
        x++;
        if (input != 0) {
            const QUANTISED_FLASH uint8_t *const end = rows + count;
            const QUANTISED_FLASH uint8_t *const whole = rows + count / 4 * 4;
            while (rows != whole) {
                quantised_number *const y0 = y + rows[0];
                quantised_number *const y1 = y + rows[1];
                quantised_number *const y2 = y + rows[2];
                quantised_number *const y3 = y + rows[3];
                rows += 4;
                int32_t sum00 = y0[0].integer;
                int32_t sum10 = y1[0].integer;
                int32_t sum20 = y2[0].integer;
                int32_t sum30 = y3[0].integer;
                sum00 += values[0] * input;
                sum10 += values[1] * input;
                sum20 += values[2] * input;
                sum30 += values[3] * input;
                y0[0].integer = sum00;
                y1[0].integer = sum10;
                y2[0].integer = sum20;
                y3[0].integer = sum30;
                values += 4;
            }
            while (rows != end) {
                quantised_number *const y0 = y + rows[0];
                rows += 1;
                int32_t sum00 = y0[0].integer;
                sum00 += values[0] * input;
                y0[0].integer = sum00;
                values += 1;
            }
        } else {
            rows += count;
            values += count;
        }
    }
}

static int quantised_refuse(float *action) {
    for (size_t j = 0; j < 2; j++) {
        action[j] = quantised_centre[j];
    }
    return QUANTISED_NOT_FINITE;
}

int quantised_r(const float observation[3], float action[2], quantised_scratch *scratch) {
    quantised_number *const even = scratch->values, *const odd = scratch->values + 3;
    float step;
    for (size_t i = 0; i < 3; i++) {
        if (!quantised_is_finite(observation[i])) {
            return quantised_refuse(action);
        }
        even[i].real = (observation[i] - quantised_mean[i]) * quantised_deviation[i];
    }
    step = quantised_quantise(3, 4194304, 1, even);
    if (step < 0.0f) {
        return quantised_refuse(action);
    }
    quantised_clear(5, odd);
    quantised_columns1_int8_row8_count8(3, quantised_counts0, quantised_rows0, quantised_values0, even, odd);
    quantised_scale(5, step, quantised_scale0, quantised_bias0, odd);
    step = quantised_quantise(5, 4194304, 0, odd);
    if (step < 0.0f) {
        return quantised_refuse(action);
    }
    quantised_clear(2, even);
    quantised_columns1_int8_row8_count8(5, quantised_counts1, quantised_rows1, quantised_values1, odd, even);
    quantised_scale(2, step, quantised_scale1, quantised_bias1, even);
    for (size_t j = 0; j < 2; j++) {
        if (!quantised_is_finite(even[j].real)) {
            return quantised_refuse(action);
        }
    }
    for (size_t j = 0; j < 2; j++) {
        action[j] = quantised_centre[j] + quantised_half_range[j] * quantised_tanh(even[j].real);
    }
    return 0;
}

QUANTISED_SCRATCH static quantised_scratch quantised_memory;

int quantised(const float observation[QUANTISED_OBSERVATIONS], float action[QUANTISED_ACTIONS]) {
    return quantised_r(observation, action, &quantised_memory);
}

int quantised_self_test(void) {
    float action[QUANTISED_ACTIONS];
    float *const observation = (float *)(void *)quantised_memory.values; /* the first layer's inputs */
    for (int i = 0; i < QUANTISED_OBSERVATIONS; i++) {
        observation[i] = quantised_example_observation[i];
    }
    if (quantised(observation, action) != 0) {
        return -1;
    }
    for (int j = 0; j < QUANTISED_ACTIONS; j++) {
        const float difference = action[j] - quantised_example_action[j];
        const float allowed = 2.0f * quantised_half_range[j] * 9.99999975e-05f;
        if (!(difference <= allowed && -difference <= allowed)) {
            return 1 + j;
        }
    }
    return 0;
}

#endif
