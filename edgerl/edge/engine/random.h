/* SPDX-License-Identifier: MIT */
/* Every random number of a run: Philox4x32-10 (Salmon et al., SC 2011), a function of the seed and a counter.
 *
 * The counter is (index, purpose and network, layer, draw / 4), as in edgerl/edge/engine/random.py: both engines draw the
 * same numbers.
 */
#ifndef EDGERL_RANDOM_H
#define EDGERL_RANDOM_H

#include "numeric.h"

typedef enum purpose {
    PURPOSE_TOPOLOGY = 0,
    PURPOSE_WEIGHT = 1,
    PURPOSE_BIAS = 2,
    PURPOSE_GROWTH = 3,
    PURPOSE_REPLAY = 4,
    PURPOSE_TARGET_NOISE = 5,
    PURPOSE_EXPLORATION = 6,
    PURPOSE_POLICY = 11,
    PURPOSE_DROPOUT = 12,
    PURPOSE_TARGET_DROPOUT = 13,
    PURPOSE_POLICY_DROPOUT = 14
} purpose;

/* One sequence of words; `layer` has NARROW added for a layer's narrow blocks. */
typedef struct draws {
    uint64_t seed;
    uint32_t index, purpose_and_network, layer;
} draws;

#define NARROW (UINT32_C(1) << 16)

static inline draws draws_for(uint64_t seed, purpose what, uint64_t index, uint32_t network, uint32_t layer) {
    const draws d = {seed, (uint32_t)index, (uint32_t)what << 8 | network, layer};
    return d;
}

/* Words 4 * block … 4 * block + 3 of a sequence. Inlined in a loop over blocks, it becomes vector code. */
static inline void philox_inline(const draws *d, uint32_t block, uint32_t words[4]) {
    uint32_t x0 = d->index, x1 = d->purpose_and_network, x2 = d->layer, x3 = block;
    uint32_t key0 = (uint32_t)d->seed, key1 = (uint32_t)(d->seed >> 32);
    for (int round = 0; round < 10; round++) {
        const uint64_t a = (uint64_t)x0 * 0xD2511F53u, b = (uint64_t)x2 * 0xCD9E8D57u;
        x0 = (uint32_t)(b >> 32) ^ x1 ^ key0;
        x1 = (uint32_t)b;
        x2 = (uint32_t)(a >> 32) ^ x3 ^ key1;
        x3 = (uint32_t)a;
        key0 += 0x9E3779B9u;
        key1 += 0xBB67AE85u;
    }
    words[0] = x0;
    words[1] = x1;
    words[2] = x2;
    words[3] = x3;
}

/* The same, once in a program. */
EDGERL_INTERNAL void philox(const draws *d, uint32_t block, uint32_t words[4]);

/* Words first … first + count - 1 of a sequence; `first` is a multiple of four. */
EDGERL_INTERNAL void draw(const draws *d, uint32_t first, uint32_t count, uint32_t *words);

/* Heapsort, ascending: no worst case, no stack. */
EDGERL_INTERNAL void sort_ascending(uint32_t *values, uint32_t count);

/* Slots of a hash set of `count` numbers, at most 2^28. */
EDGERL_INTERNAL uint32_t set_slots(uint32_t count);

/* `count` distinct numbers in [0, population), ascending, every set equally likely: Floyd's algorithm F2 (Bentley, Floyd,
 * CACM 1987). `set` has set_slots(count) elements. */
EDGERL_INTERNAL void sample_without_replacement(const draws *d, uint32_t count, uint32_t population, uint32_t *chosen,
                                                uint32_t *set);

/* A word → an integer in [0, bound), bound <= 2^32. */
static inline uint32_t below(uint32_t word, uint64_t bound) { return (uint32_t)(((uint64_t)word * bound) >> 32); }

/* A word → [0, 1), a multiple of 2^-24. */
static inline real uniform(uint32_t word) { return (real)(word >> 8) * (real)(1.0 / 16777216.0); }

#ifdef EDGERL_DOUBLE

static inline void normal_pair(uint32_t first, uint32_t second, double *a, double *b) {
    const double radius = sqrt(-2.0 * log(uniform(first) + 1.0 / 16777216.0));
    const double angle = 2.0 * 3.14159265358979323846 * uniform(second);
    *a = radius * cos(angle);
    *b = radius * sin(angle);
}

#else

/* Two words → two standard normal numbers (Box and Muller), within 1e-6. No branch: a loop becomes vector code. */
static inline void normal_pair(uint32_t first, uint32_t second, float *a, float *b) {
    const float radius = square_root(-2.0f * logarithm(uniform(first) + 1.0f / 16777216.0f));
    const float turns = 4.0f * uniform(second);
    const int32_t quarter = (int32_t)(turns + 0.5f);
    const float r = (turns - (float)quarter) * 1.57079633f, z = r * r;
    const float sine = ((-1.9515295891e-4f * z + 8.3321608736e-3f) * z - 1.6666654611e-1f) * z * r + r;
    const float cosine =
        ((2.443315711809948e-5f * z - 1.388731625493765e-3f) * z + 4.166664568298827e-2f) * z * z - 0.5f * z + 1.0f;
    const float along = quarter & 1 ? sine : cosine, across = quarter & 1 ? cosine : sine;
    *a = radius * ((quarter + 1) & 2 ? -along : along);
    *b = radius * (quarter & 2 ? -across : across);
}

#endif

#endif
