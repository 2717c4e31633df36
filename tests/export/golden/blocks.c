/* See blocks.h, which says what this is.
 * SPDX-License-Identifier: MIT */
#include "blocks.h"

#include <stddef.h>

#if defined(__cplusplus) || !defined(__STDC_VERSION__) || __STDC_VERSION__ < 199901L
#error "blocks.c is C99: compile it as C; a program in C++ includes blocks.h and links it"
#elif BLOCKS_TAG != 0xd0cdf1b6
#error "blocks.h and blocks.c are of two exports: take both from one"
#elif defined(__AVR__) && (!defined(__FLASH) || defined(__STRICT_ANSI__))
#error "on an AVR, blocks.c reads its constants from flash by __flash, which GCC has with -std=gnu99 or gnu11"
#elif defined(__AVR__) && BLOCKS_FLASH_BYTES > 65535
#error "on an AVR, __flash reads constants from the first 64 KiB, and blocks.c has more"
#else

#ifndef BLOCKS_WEIGHTS
#define BLOCKS_WEIGHTS
#endif
#ifndef BLOCKS_SCRATCH
#define BLOCKS_SCRATCH
#endif
#ifdef __AVR__ /* its flash is an address space of its own */
#define BLOCKS_FLASH __flash
#else
#define BLOCKS_FLASH
#endif

BLOCKS_WEIGHTS static const BLOCKS_FLASH float blocks_mean[3] = {
    0.0355862379f, -0.506291687f, 0.593748093f,
};

BLOCKS_WEIGHTS static const BLOCKS_FLASH float blocks_deviation[3] = {
    2.43797302f, 1.37829649f, 0.44121182f,
};

/* Layer 0: 3 inputs, 5 outputs, fp32, sparse columns, blocks of 4, 8-bit rows. */
BLOCKS_WEIGHTS static const BLOCKS_FLASH float blocks_values0[12] = {
    -0.148490012f, 0.0f, 0.0f, 0.0f, 0.210485965f, 0.31564489f, -0.278351724f, -0.16884999f, 0.00470089028f, 0.0f, 0.0f,
    0.0f,
};

BLOCKS_WEIGHTS static const BLOCKS_FLASH uint8_t blocks_counts0[3] = {
    0, 1, 2,
};

BLOCKS_WEIGHTS static const BLOCKS_FLASH uint8_t blocks_rows0[3] = {
    1, 0, 1,
};

BLOCKS_WEIGHTS static const BLOCKS_FLASH float blocks_bias0[5] = {
    -0.275602907f, 1.29406381f, 1.00672436f, -2.71116257f, -1.88901329f,
};

/* Layer 1: 5 inputs, 2 outputs, fp32, sparse columns, blocks of 4, 8-bit rows. */
BLOCKS_WEIGHTS static const BLOCKS_FLASH float blocks_values1[8] = {
    -0.497310817f, -0.229870632f, 0.0f, 0.0f, -0.168870091f, -0.737041652f, 0.0f, 0.0f,
};

BLOCKS_WEIGHTS static const BLOCKS_FLASH uint8_t blocks_counts1[5] = {
    0, 1, 1, 0, 0,
};

BLOCKS_WEIGHTS static const BLOCKS_FLASH uint8_t blocks_rows1[2] = {
    0, 0,
};

BLOCKS_WEIGHTS static const BLOCKS_FLASH float blocks_bias1[2] = {
    -1.22735202f, -0.683226645f,
};

BLOCKS_WEIGHTS static const BLOCKS_FLASH float blocks_centre[2] = {
    -0.0120430291f, 0.35570702f,
};

BLOCKS_WEIGHTS static const BLOCKS_FLASH float blocks_half_range[2] = {
    0.918447196f, 0.744483113f,
};

BLOCKS_WEIGHTS static const BLOCKS_FLASH float blocks_example_observation[3] = {
    0.73165226f, -0.501440048f, 0.879160643f,
};

BLOCKS_WEIGHTS static const BLOCKS_FLASH float blocks_example_action[2] = {
    -0.900823295f, -0.341243953f,
};

/* Whether a number is neither infinite nor NaN; by its bits, which no compiler option for fast arithmetic touches. */
static int blocks_is_finite(float value) {
    const union {
        float real;
        uint32_t bits;
    } number = {value};
    return (number.bits & UINT32_C(0x7f800000)) != UINT32_C(0x7f800000);
}

/* tanh within 4e-7, never beyond -1 and 1: x P(x^2) / Q(x^2), so that every board computes the same without libm. */
static float blocks_tanh(float x) {
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
#define BLOCKS_HAS_VLDM 1
#else
#define BLOCKS_HAS_VLDM 0
#endif

/* The sums of a layer begin at its biases; what a last block has beyond the outputs, at zero. */
static void blocks_start(size_t outputs, size_t padded, const BLOCKS_FLASH float *bias, float *restrict y) {
    for (size_t j = 0; j < outputs; j++) {
        y[j] = bias[j];
    }
    for (size_t j = outputs; j < padded; j++) {
        y[j] = 0.0f;
    }
}

/* Adds to y the weights of each of x[inputs] that is above `above`: counts[inputs] entries, each of which has its row of blocks
 * and 4 weights. */
static void blocks_columns4_fp32_row8_count8(
    size_t inputs, float above, const BLOCKS_FLASH uint8_t *counts, const BLOCKS_FLASH uint8_t *rows,
    const BLOCKS_FLASH float *values, const float *restrict x, float *restrict y
) {
    const float *const last = x + inputs;
    while (x != last) {
        const size_t count = *counts++;
        const float input = x[0];
        x++;
        if (input > above) {
            const BLOCKS_FLASH uint8_t *const end = rows + count;
            while (rows != end) {
                float *const y0 = y + 4 * (size_t)rows[0];
                rows += 1;
#if BLOCKS_HAS_VLDM
                __asm__ volatile(
                    "vldmia %[values]!, {s12-s15}\n"
                    "vldmia %[y], {s8-s11}\n"
                    "vfma.f32 s8, s12, %[input]\n"
                    "vfma.f32 s9, s13, %[input]\n"
                    "vfma.f32 s10, s14, %[input]\n"
                    "vfma.f32 s11, s15, %[input]\n"
                    "vstmia %[y], {s8-s11}\n"
                    : [values] "+r"(values)
                    : [y] "r"(y0), [input] "t"(input)
                    : "s8", "s9", "s10", "s11", "s12", "s13", "s14", "s15", "memory");
#else
                float sum00 = y0[0];
                float sum01 = y0[1];
                float sum02 = y0[2];
                float sum03 = y0[3];
                sum00 += values[0] * input;
                sum01 += values[1] * input;
                sum02 += values[2] * input;
                sum03 += values[3] * input;
                y0[0] = sum00;
                y0[1] = sum01;
                y0[2] = sum02;
                y0[3] = sum03;
                values += 4;
#endif
            }
        } else {
            rows += count;
            values += 4 * count;
        }
    }
}

static int blocks_refuse(float *action) {
    for (size_t j = 0; j < 2; j++) {
        action[j] = blocks_centre[j];
    }
    return BLOCKS_NOT_FINITE;
}

int blocks_r(const float observation[3], float action[2], blocks_scratch *scratch) {
    float *const even = scratch->values, *const odd = scratch->values + 4;
    for (size_t i = 0; i < 3; i++) {
        if (!blocks_is_finite(observation[i])) {
            return blocks_refuse(action);
        }
        even[i] = (observation[i] - blocks_mean[i]) * blocks_deviation[i];
    }
    blocks_start(5, 8, blocks_bias0, odd);
    blocks_columns4_fp32_row8_count8(3, -3.402823466e+38f, blocks_counts0, blocks_rows0, blocks_values0, even, odd);
    blocks_start(2, 4, blocks_bias1, even);
    blocks_columns4_fp32_row8_count8(5, 0.0f, blocks_counts1, blocks_rows1, blocks_values1, odd, even);
    for (size_t j = 0; j < 2; j++) {
        if (!blocks_is_finite(even[j])) {
            return blocks_refuse(action);
        }
    }
    for (size_t j = 0; j < 2; j++) {
        action[j] = blocks_centre[j] + blocks_half_range[j] * blocks_tanh(even[j]);
    }
    return 0;
}

BLOCKS_SCRATCH static blocks_scratch blocks_memory;

int blocks(const float observation[BLOCKS_OBSERVATIONS], float action[BLOCKS_ACTIONS]) {
    return blocks_r(observation, action, &blocks_memory);
}

int blocks_self_test(void) {
    float action[BLOCKS_ACTIONS];
    float *const observation = (float *)(void *)blocks_memory.values; /* the first layer's inputs */
    for (int i = 0; i < BLOCKS_OBSERVATIONS; i++) {
        observation[i] = blocks_example_observation[i];
    }
    if (blocks(observation, action) != 0) {
        return -1;
    }
    for (int j = 0; j < BLOCKS_ACTIONS; j++) {
        const float difference = action[j] - blocks_example_action[j];
        const float allowed = 2.0f * blocks_half_range[j] * 9.99999975e-06f;
        if (!(difference <= allowed && -difference <= allowed)) {
            return 1 + j;
        }
    }
    return 0;
}

#endif
