/* SPDX-License-Identifier: MIT */
/* What every part of the engine uses. */
#ifndef EDGERL_BASE_H
#define EDGERL_BASE_H

#include "edgerl.h"

/* What the engine's parts share. In one file (edgerl.c) all of it is static; parts that are compiled alone are linked. */
#ifndef EDGERL_INTERNAL
#define EDGERL_INTERNAL
#endif

/* The number type of the naive kernels, and an integer of its size; the tests compile them in double. */
#ifdef EDGERL_DOUBLE
typedef double real;
typedef uint64_t real_bits;
#else
typedef float real;
typedef uint32_t real_bits;
#endif

#define VECTOR_LANES_BASELINE 4u
#define VECTOR_LANES_AVX2 8u
#define VECTOR_LANES_AVX512 16u

/* Loads and stores need an alignment of one float only: no caller's array is aligned to more. */
#define VECTOR(lanes) __attribute__((vector_size((lanes) * 4u), aligned(4), may_alias))
typedef float float4 VECTOR(4);

/* A program that knows its configuration when it is compiled defines these, and has no code for any other: no further instruction
 * sets; bits of the blocks that its layers have (1 and 4); bits of how many vectors of a batch are taken at once, of single
 * connections and of blocks (edgerl.export.c_learner computes them). */
#ifndef EDGERL_BLOCKS
#define EDGERL_BLOCKS 5u
#endif

/* Bits of the algorithms that a learner may have (1: TD3, 2: SAC, 4: CrossQ, 8: imitation); a program whose learner has another
 * leaves the code out. */
#ifndef EDGERL_ALGORITHMS
#define EDGERL_ALGORITHMS 15u
#endif

/* Whether networks may have norms; a program whose learner has none leaves their code out. */
#ifndef EDGERL_NORMS
#define EDGERL_NORMS 1
#endif

/* Whether gradients may be cut; likewise. */
#ifndef EDGERL_CLIPPING
#define EDGERL_CLIPPING 1
#endif

/* Bits of the activations that a learner's networks may have, by number (ReLU, ELU, SiLU, tanh); likewise. */
#ifndef EDGERL_ACTIVATIONS
#define EDGERL_ACTIVATIONS 0x39u
#endif

/* Whether critics may have dropout; likewise. */
#ifndef EDGERL_DROPOUT
#define EDGERL_DROPOUT 1
#endif

#ifndef EDGERL_CHUNKS
#define EDGERL_CHUNKS 0x1feu
#endif
#ifndef EDGERL_BLOCK_CHUNKS
#define EDGERL_BLOCK_CHUNKS 0x1eu
#endif

#if defined(__x86_64__) && !defined(EDGERL_BASELINE_ONLY)
#define HAS_X86_LEVELS 1
#include <immintrin.h>
#define TARGET_AVX2 __attribute__((target("avx2,fma")))
#define TARGET_AVX512 __attribute__((target("avx512f,avx512vl,avx512dq,avx512bw,fma")))
typedef float float8 VECTOR(8);
typedef float float16 VECTOR(16);
#else
#define HAS_X86_LEVELS 0
#endif
#define TARGET_BASELINE

/* Loops of kernels whose bounds are known at compile time, and numbers that the optimiser shall not see through. */
#if defined(__clang__)
#define UNROLL _Pragma("clang loop unroll(full)")
#else
#define UNROLL _Pragma("GCC unroll 16")
#endif
#define EACH(v, count) UNROLL for (uint32_t v = 0; v < (count); v++)
#define REST(v, count) UNROLL for (uint32_t v = 1; v < (count); v++)
#define HIDE(x) __asm__("" : "+r"(x))

static inline uint64_t round_up(uint64_t count, uint64_t unit) { return (count + unit - 1) / unit * unit; }

/* |x| as an integer of the same order, NaN above all. */
static inline real_bits key_of(real x) {
    union {
        real value;
        real_bits bits;
    } u = {x};
    return u.bits & ~((real_bits)1 << (sizeof(real_bits) * 8 - 1));
}

/* Neither NaN nor infinite. By the bits: a compiler may be told that there are no others. */
static inline int is_finite(real x) { return key_of(x) < key_of((real)__builtin_inff()); }

static inline int all_finite(const float *values, uint64_t count) {
    for (uint64_t i = 0; i < count; i++) {
        if (!is_finite((real)values[i])) {
            return 0;
        }
    }
    return 1;
}

static inline void zero(void *bytes, uint64_t count) {
    unsigned char *p = bytes;
    for (uint64_t i = 0; i < count; i++) {
        p[i] = 0;
    }
}

static inline void copy(void *to, const void *from, uint64_t count) {
    unsigned char *p = to;
    const unsigned char *q = from;
    for (uint64_t i = 0; i < count; i++) {
        p[i] = q[i];
    }
}

static inline int is_aligned(const void *arena) { return (uintptr_t)arena % EDGERL_ALIGNMENT == 0; }

/* Set aside `count` items of `size` bytes in an arena that is filled up to *end; returns their offset. */
static inline uint64_t set_aside(uint64_t *end, uint64_t count, uint64_t size) {
    const uint64_t offset = *end;
    *end = round_up(offset + count * size, EDGERL_ALIGNMENT);
    return offset;
}

/* The instruction set to use where `asked` is allowed: never one that this processor lacks. */
static inline int32_t usable_isa(int32_t asked) {
    const int32_t best = edgerl_isa_best();
    return asked < best ? asked : best;
}

#endif
