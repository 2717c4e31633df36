/* A policy as C99: one observation to one action, without malloc, without stdio, without libm. A compiler may ask for
 * memcpy, memmove and memset, and for its own helpers where the processor has no floating point.
 *
 * SPDX-FileCopyrightText: 2026 The edgerl authors
 * SPDX-License-Identifier: MIT
 * The code is edgerl's, under that licence; the numbers in it, which your training found, are yours.
 *
 * Made by     edgerl <version>
 * Command     edgerl export --format c
 * Model       3-5-2, int8 weights, SHA-256 of its file 5d1f0cbb1b7e0a4f9a3c2d5e6f708192a3b4c5d6e7f8091a2b3c4d5e6f708192
 * Origin      environment Anything-v0, return -1.5, seed 1
 * Target      generic
 *
 * Takes 146 bytes of constants in flash, 32 bytes of scratch memory, and on a Cortex-M at -O2 less than
 * 300 bytes of stack.
 *
 * Contract
 * - quantised reads 3 numbers in the environment's own units and writes 2 in the environment's own units:
 *   normalisation and the scaling of each action to its bounds are inside. No action leaves its bounds.
 * - It returns 0; or QUANTISED_NOT_FINITE where a number of the observation, or of what comes of it, is
 *   infinite or NaN: then every action is the middle of its range, and what is safe instead is for you to know.
 * - observation and action may be the same array. Both must be there.
 * - quantised uses one static scratch buffer: one call at a time. quantised_r computes in yours: as many at a
 *   time as there are scratch buffers; nothing in one needs to be kept between calls.
 * - quantised_self_test returns 0 when this processor computes what the workstation did for one recorded
 *   observation, to 0.0001 of each action's range; else 1 + the number of the first action that differs, or
 *   -1 where the example was refused. Call it once at start, before a motor moves.
 * - To place constants and scratch, define QUANTISED_WEIGHTS and QUANTISED_SCRATCH as attributes
 *   for the compiler, as in -D'QUANTISED_SCRATCH=__attribute__((section(".dtcm")))'.
 *
 * Not its business: learning, batches, timing, a fallback for a late action, and compiler options that give up IEEE 754
 * (-ffast-math).
 */
#ifndef QUANTISED_H
#define QUANTISED_H

#include <stdint.h>

#define QUANTISED_VERSION "<version>"
#define QUANTISED_MODEL "5d1f0cbb1b7e0a4f9a3c2d5e6f708192a3b4c5d6e7f8091a2b3c4d5e6f708192"
#define QUANTISED_OBSERVATIONS 3
#define QUANTISED_ACTIONS 2
#define QUANTISED_FLASH_BYTES 146
#define QUANTISED_SCRATCH_BYTES 32
#define QUANTISED_NOT_FINITE 1
#define QUANTISED_TAG 0xf22bd380 /* the same in both files */

#ifdef __cplusplus
extern "C" {
#endif

typedef union {
    float real;
    int32_t integer;
} quantised_number;

typedef struct {
    quantised_number values[8];
} quantised_scratch;

int quantised(const float observation[3], float action[2]);
int quantised_r(const float observation[3], float action[2], quantised_scratch *scratch);
int quantised_self_test(void);

#ifdef __cplusplus
}
#endif

#endif
