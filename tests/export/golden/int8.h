/* A policy as C99: one observation to one action, without malloc, without stdio, without any library.
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
 * - int8 reads 3 numbers in the environment's own units and writes 2 in the environment's own units:
 *   normalisation and the scaling of each action to its bounds are inside. No action leaves its bounds.
 * - It returns 0; or INT8_NOT_FINITE where a number of the observation, or of what comes of it, is
 *   infinite or NaN: then every action is the middle of its range, and what is safe instead is for you to know.
 * - observation and action may be the same array. Both must be there.
 * - int8 uses one static scratch buffer: one call at a time. int8_r computes in yours: as many at a
 *   time as there are scratch buffers; nothing in one needs to be kept between calls.
 * - int8_self_test returns 0 when this processor computes what the workstation did for one recorded
 *   observation, to 0.0001 of each action's range; else 1 + the number of the first action that differs, or
 *   -1 where the example was refused. Call it once at start, before a motor moves.
 * - To place constants and scratch, define INT8_WEIGHTS and INT8_SCRATCH as attributes
 *   for the compiler, as in -D'INT8_SCRATCH=__attribute__((section(".dtcm")))'.
 *
 * Not its business: learning, batches, timing, a fallback for a late action, and compiler options that give up IEEE 754
 * (-ffast-math).
 */
#ifndef INT8_H
#define INT8_H

#include <stdint.h>

#define INT8_VERSION "<version>"
#define INT8_MODEL "5d1f0cbb1b7e0a4f9a3c2d5e6f708192a3b4c5d6e7f8091a2b3c4d5e6f708192"
#define INT8_OBSERVATIONS 3
#define INT8_ACTIONS 2
#define INT8_FLASH_BYTES 146
#define INT8_SCRATCH_BYTES 32
#define INT8_NOT_FINITE 1
#define INT8_TAG 0xfb943ae1 /* the same in both files */

#ifdef __cplusplus
extern "C" {
#endif

typedef union {
    float real;
    int32_t integer;
} int8_number;

typedef struct {
    int8_number values[8];
} int8_scratch;

int int8(const float observation[3], float action[2]);
int int8_r(const float observation[3], float action[2], int8_scratch *scratch);
int int8_self_test(void);

#ifdef __cplusplus
}
#endif

#endif
