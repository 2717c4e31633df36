/* A policy as C99: one observation to one action, without malloc, without stdio, without libm. A compiler may ask for
 * memcpy, memmove and memset, and for its own helpers where the processor has no floating point.
 *
 * SPDX-FileCopyrightText: 2026 The edgerl authors
 * SPDX-License-Identifier: MIT
 * The code is edgerl's, under that licence; the numbers in it, which your training found, are yours.
 *
 * Made by     edgerl <version>
 * Command     edgerl export --format c
 * Model       3-5-2, fp32 weights, SHA-256 of its file 5d1f0cbb1b7e0a4f9a3c2d5e6f708192a3b4c5d6e7f8091a2b3c4d5e6f708192
 * Origin      environment Anything-v0, return -1.5, seed 1
 * Target      generic
 *
 * Takes 181 bytes of constants in flash, 48 bytes of scratch memory, and on a Cortex-M at -O2 less than
 * 300 bytes of stack.
 *
 * Contract
 * - blocks reads 3 numbers in the environment's own units and writes 2 in the environment's own units:
 *   normalisation and the scaling of each action to its bounds are inside. No action leaves its bounds.
 * - It returns 0; or BLOCKS_NOT_FINITE where a number of the observation, or of what comes of it, is
 *   infinite or NaN: then every action is the middle of its range, and what is safe instead is for you to know.
 * - observation and action may be the same array. Both must be there.
 * - blocks uses one static scratch buffer: one call at a time. blocks_r computes in yours: as many at a
 *   time as there are scratch buffers; nothing in one needs to be kept between calls.
 * - blocks_self_test returns 0 when this processor computes what the workstation did for one recorded
 *   observation, to 1e-05 of each action's range; else 1 + the number of the first action that differs, or
 *   -1 where the example was refused. Call it once at start, before a motor moves.
 * - To place constants and scratch, define BLOCKS_WEIGHTS and BLOCKS_SCRATCH as attributes
 *   for the compiler, as in -D'BLOCKS_SCRATCH=__attribute__((section(".dtcm")))'.
 *
 * Not its business: learning, batches, timing, a fallback for a late action, and compiler options that give up IEEE 754
 * (-ffast-math).
 */
#ifndef BLOCKS_H
#define BLOCKS_H

#include <stdint.h>

#define BLOCKS_VERSION "<version>"
#define BLOCKS_MODEL "5d1f0cbb1b7e0a4f9a3c2d5e6f708192a3b4c5d6e7f8091a2b3c4d5e6f708192"
#define BLOCKS_OBSERVATIONS 3
#define BLOCKS_ACTIONS 2
#define BLOCKS_FLASH_BYTES 181
#define BLOCKS_SCRATCH_BYTES 48
#define BLOCKS_NOT_FINITE 1
#define BLOCKS_TAG 0xd0cdf1b6 /* the same in both files */

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
    float values[12];
} blocks_scratch;

int blocks(const float observation[3], float action[2]);
int blocks_r(const float observation[3], float action[2], blocks_scratch *scratch);
int blocks_self_test(void);

#ifdef __cplusplus
}
#endif

#endif
