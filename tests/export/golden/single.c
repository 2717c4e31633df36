/* See single.h, which says what this is.
 * SPDX-License-Identifier: MIT */
#include "single.h"

#include <stddef.h>

#if defined(__cplusplus) || !defined(__STDC_VERSION__) || __STDC_VERSION__ < 199901L
#error "single.c is C99: compile it as C; a program in C++ includes single.h and links it"
#elif SINGLE_TAG != 0x28d620f8
#error "single.h and single.c are of two exports: take both from one"
#elif defined(__AVR__) && (!defined(__FLASH) || defined(__STRICT_ANSI__))
#error "on an AVR, single.c reads its constants from flash by __flash, which GCC has with -std=gnu99 or gnu11"
#elif defined(__AVR__) && SINGLE_FLASH_BYTES > 65535
#error "on an AVR, __flash reads constants from the first 64 KiB, and single.c has more"
#else

#ifndef SINGLE_WEIGHTS
#define SINGLE_WEIGHTS
#endif
#ifndef SINGLE_SCRATCH
#define SINGLE_SCRATCH
#endif
#ifdef __AVR__ /* its flash is an address space of its own */
#define SINGLE_FLASH __flash
#else
#define SINGLE_FLASH
#endif

SINGLE_WEIGHTS static const SINGLE_FLASH float single_mean[3] = {
    0.272791326f, -0.982188106f, -1.107373f,
};

SINGLE_WEIGHTS static const SINGLE_FLASH float single_deviation[3] = {
    1.22089541f, 0.627037048f, 1.26554847f,
};

/* Layer 0: 3 inputs, 5 outputs, fp32, sparse columns, single connections, 8-bit rows. */
SINGLE_WEIGHTS static const SINGLE_FLASH float single_values0[7] = {
    -1.56529033f, -0.243751749f, -0.148490012f, 0.747128069f, -0.16884999f, 0.00470089028f, 0.125470877f,
};

SINGLE_WEIGHTS static const SINGLE_FLASH uint8_t single_counts0[3] = {
    2, 2, 3,
};

SINGLE_WEIGHTS static const SINGLE_FLASH uint8_t single_rows0[7] = {
    3, 4, 1, 2, 0, 1, 4,
};

SINGLE_WEIGHTS static const SINGLE_FLASH float single_bias0[5] = {
    2.11783886f, -1.11202073f, -0.377605021f, 2.04277158f, 0.646703005f,
};

/* Layer 1: 5 inputs, 2 outputs, fp32, sparse columns, single connections, 8-bit rows. */
SINGLE_WEIGHTS static const SINGLE_FLASH float single_values1[4] = {
    0.0427013077f, -0.226420507f, 0.327204853f, 0.265532196f,
};

SINGLE_WEIGHTS static const SINGLE_FLASH uint8_t single_counts1[5] = {
    1, 0, 2, 1, 0,
};

SINGLE_WEIGHTS static const SINGLE_FLASH uint8_t single_rows1[4] = {
    0, 0, 1, 0,
};

SINGLE_WEIGHTS static const SINGLE_FLASH float single_bias1[2] = {
    -1.07178736f, 0.914467216f,
};

SINGLE_WEIGHTS static const SINGLE_FLASH float single_centre[2] = {
    -0.124771982f, 0.384364545f,
};

SINGLE_WEIGHTS static const SINGLE_FLASH float single_half_range[2] = {
    0.855364442f, 0.671227992f,
};

SINGLE_WEIGHTS static const SINGLE_FLASH float single_example_observation[3] = {
    0.759519517f, -1.64878738f, 0.254388124f,
};

SINGLE_WEIGHTS static const SINGLE_FLASH float single_example_action[2] = {
    -0.640827596f, 0.869843245f,
};

/* Whether a number is neither infinite nor NaN; by its bits, which no compiler option for fast arithmetic touches. */
static int single_is_finite(float value) {
    const union {
        float real;
        uint32_t bits;
    } number = {value};
    return (number.bits & UINT32_C(0x7f800000)) != UINT32_C(0x7f800000);
}

/* tanh within 4e-7, never beyond -1 and 1: x P(x^2) / Q(x^2), so that every board computes the same without libm. */
static float single_tanh(float x) {
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

/* A Cortex-M with a floating-point unit loads and stores four numbers by one instruction, which no compiler finds. */
#if defined(__GNUC__) && defined(__ARM_FP) && (__ARM_FP & 4) && __ARM_ARCH_PROFILE == 'M' && !defined(__SOFTFP__)
#define SINGLE_HAS_VLDM 1
#else
#define SINGLE_HAS_VLDM 0
#endif

/* The sums of a layer begin at its biases; what a last block has beyond the outputs, at zero. */
static void single_start(size_t outputs, size_t padded, const SINGLE_FLASH float *bias, float *restrict y) {
    for (size_t j = 0; j < outputs; j++) {
        y[j] = bias[j];
    }
    for (size_t j = outputs; j < padded; j++) {
        y[j] = 0.0f;
    }
}

/* Adds to y the weights of each of x[inputs] that is above `above`: counts[inputs] entries, each of which has its row
 * and a weight. */
static void single_columns1_fp32_row8_count8(
    size_t inputs, float above, const SINGLE_FLASH uint8_t *counts, const SINGLE_FLASH uint8_t *rows,
    const SINGLE_FLASH float *values, const float *restrict x, float *restrict y
) {
    const float *const last = x + inputs;
    while (x != last) {
        const size_t count = *counts++;
        const float input = x[0];
        x++;
        if (input > above) {
            const SINGLE_FLASH uint8_t *const end = rows + count;
            const SINGLE_FLASH uint8_t *const whole = rows + count / 4 * 4;
            while (rows != whole) {
                float *const y0 = y + rows[0];
                float *const y1 = y + rows[1];
                float *const y2 = y + rows[2];
                float *const y3 = y + rows[3];
                rows += 4;
#if SINGLE_HAS_VLDM
                __asm__ volatile(
                    "vldmia %[values]!, {s12-s15}\n"
                    "vldr s8, [%[y0]]\n"
                    "vldr s9, [%[y1]]\n"
                    "vldr s10, [%[y2]]\n"
                    "vldr s11, [%[y3]]\n"
                    "vfma.f32 s8, s12, %[input]\n"
                    "vfma.f32 s9, s13, %[input]\n"
                    "vfma.f32 s10, s14, %[input]\n"
                    "vfma.f32 s11, s15, %[input]\n"
                    "vstr s8, [%[y0]]\n"
                    "vstr s9, [%[y1]]\n"
                    "vstr s10, [%[y2]]\n"
                    "vstr s11, [%[y3]]\n"
                    : [values] "+r"(values)
                    : [y0] "r"(y0), [y1] "r"(y1), [y2] "r"(y2), [y3] "r"(y3), [input] "t"(input)
                    : "s8", "s9", "s10", "s11", "s12", "s13", "s14", "s15", "memory");
#else
                float sum00 = y0[0];
                float sum10 = y1[0];
                float sum20 = y2[0];
                float sum30 = y3[0];
                sum00 += values[0] * input;
                sum10 += values[1] * input;
                sum20 += values[2] * input;
                sum30 += values[3] * input;
                y0[0] = sum00;
                y1[0] = sum10;
                y2[0] = sum20;
                y3[0] = sum30;
                values += 4;
#endif
            }
            while (rows != end) {
                float *const y0 = y + rows[0];
                rows += 1;
                float sum00 = y0[0];
                sum00 += values[0] * input;
                y0[0] = sum00;
                values += 1;
            }
        } else {
            rows += count;
            values += count;
        }
    }
}

static int single_refuse(float *action) {
    for (size_t j = 0; j < 2; j++) {
        action[j] = single_centre[j];
    }
    return SINGLE_NOT_FINITE;
}

int single_r(const float observation[3], float action[2], single_scratch *scratch) {
    float *const even = scratch->values, *const odd = scratch->values + 3;
    for (size_t i = 0; i < 3; i++) {
        if (!single_is_finite(observation[i])) {
            return single_refuse(action);
        }
        even[i] = (observation[i] - single_mean[i]) * single_deviation[i];
    }
    single_start(5, 5, single_bias0, odd);
    single_columns1_fp32_row8_count8(3, -3.402823466e+38f, single_counts0, single_rows0, single_values0, even, odd);
    single_start(2, 2, single_bias1, even);
    single_columns1_fp32_row8_count8(5, 0.0f, single_counts1, single_rows1, single_values1, odd, even);
    for (size_t j = 0; j < 2; j++) {
        if (!single_is_finite(even[j])) {
            return single_refuse(action);
        }
    }
    for (size_t j = 0; j < 2; j++) {
        action[j] = single_centre[j] + single_half_range[j] * single_tanh(even[j]);
    }
    return 0;
}

SINGLE_SCRATCH static single_scratch single_memory;

int single(const float observation[SINGLE_OBSERVATIONS], float action[SINGLE_ACTIONS]) {
    return single_r(observation, action, &single_memory);
}

int single_self_test(void) {
    float action[SINGLE_ACTIONS];
    float *const observation = (float *)(void *)single_memory.values; /* the first layer's inputs */
    for (int i = 0; i < SINGLE_OBSERVATIONS; i++) {
        observation[i] = single_example_observation[i];
    }
    if (single(observation, action) != 0) {
        return -1;
    }
    for (int j = 0; j < SINGLE_ACTIONS; j++) {
        const float difference = action[j] - single_example_action[j];
        const float allowed = 2.0f * single_half_range[j] * 9.99999975e-06f;
        if (!(difference <= allowed && -difference <= allowed)) {
            return 1 + j;
        }
    }
    return 0;
}

#endif
