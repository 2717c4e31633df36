/* SPDX-License-Identifier: MIT */
/* What every part of the engine uses. */
#ifndef EDGERL_BASE_H
#define EDGERL_BASE_H

#include "edgerl.h"

/* The number type of the naive kernels; the tests compile them in double. */
#ifdef EDGERL_DOUBLE
typedef double real;
#else
typedef float real;
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

static inline uint64_t round_up(uint64_t count, uint64_t unit) { return (count + unit - 1) / unit * unit; }

static inline int is_finite(float x) {
    union {
        float value;
        uint32_t bits;
    } u = {x};
    return (u.bits & 0x7f800000u) != 0x7f800000u;
}

static inline int all_finite(const float *values, uint64_t count) {
    for (uint64_t i = 0; i < count; i++) {
        if (!is_finite(values[i])) {
            return 0;
        }
    }
    return 1;
}

static inline int is_aligned(const void *arena) { return (uintptr_t)arena % EDGERL_ALIGNMENT == 0; }

/* Set aside `count` items of `size` bytes in an arena that is filled up to *end; returns their offset. */
static inline uint64_t set_aside(uint64_t *end, uint64_t count, uint64_t size) {
    const uint64_t offset = *end;
    *end = round_up(offset + count * size, EDGERL_ALIGNMENT);
    return offset;
}

const char *edgerl_status_text(int32_t status) {
    switch (status) {
#define EDGERL_STATUS_CASE(name, value, text) \
    case value:                               \
        return text;
        EDGERL_STATUS_LIST(EDGERL_STATUS_CASE)
#undef EDGERL_STATUS_CASE
    default:
        return "no status of this library";
    }
}

int32_t edgerl_isa_best(void) {
#if HAS_X86_LEVELS
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512bw")) {
        return EDGERL_ISA_AVX512;
    }
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
        return EDGERL_ISA_AVX2;
    }
#endif
    return EDGERL_ISA_BASELINE;
}

/* The instruction set to use where `asked` is allowed: never one that this processor lacks. */
static inline int32_t usable_isa(int32_t asked) {
    const int32_t best = edgerl_isa_best();
    return asked < best ? asked : best;
}

#endif
