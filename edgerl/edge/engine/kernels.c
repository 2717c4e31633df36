/* SPDX-License-Identifier: MIT */
/* The learner's arithmetic: naive kernels, the reference, and those of each instruction set. */
#include "numeric.h"
#include "learner.h"
#include "random.h"

#if defined(__clang__)
#define UNROLL _Pragma("clang loop unroll(full)")
#else
#define UNROLL _Pragma("GCC unroll 16")
#endif
#define EACH(v, count) UNROLL for (uint32_t v = 0; v < (count); v++)
#define REST(v, count) UNROLL for (uint32_t v = 1; v < (count); v++)
#define HIDE(x) __asm__("" : "+r"(x))

/* y = W x + b for rows (of blocks) first_row … last_row - 1 of a layer; with the connections that only the target has, where
 * there are any. Activations have `width` columns, rows being `stride` apart. */
typedef struct forward_task {
    const uint32_t *starts;
    const uint16_t *columns;
    const real *values;
    const uint32_t *bounds; /* [panels - 1][rows]: where in its row each further range of inputs begins */
    uint32_t panels, rows;
    const uint32_t *extra_starts; /* null: none */
    const uint16_t *extra_columns;
    const real *extra_values;
    const real *bias;
    const real *x; /* [n_inputs][stride] */
    real *y;       /* [n_outputs, rounded up to blocks][stride] */
    uint32_t width, stride;
    uint32_t first_row, last_row;
    int relu;
} forward_task;

/* dx = Wᵀ dy, and 0 where `relu`, the output of the ReLU before, is 0. Block 1: for the inputs first … last - 1, by the
 * transposed index. Block 4: the part of the block rows first … last - 1 is added; the first begin, the last ones end it. */
typedef struct input_task {
    const uint32_t *starts;
    const uint16_t *columns;
    const real *values;
    const uint32_t *column_starts; /* [n_inputs + 1] */
    const uint16_t *rows;          /* the row of each connection of a column … */
    const uint16_t *places;        /* … and which one of its row it is */
    const uint32_t *bounds;        /* [panels - 1][lines], of rows of blocks, or of columns where block is 1 */
    uint32_t panels, lines, n_inputs;
    const real *dy;
    const real *relu; /* null: none */
    real *dx;
    uint32_t width, stride;
    uint32_t first_column; /* block 4: inputs before it are left out */
    uint32_t first, last;
} input_task;

/* gradient = dy xᵀ at the connections of rows first_row … last_row - 1. */
typedef struct weight_task {
    const uint32_t *starts;
    const uint16_t *columns;
    const uint32_t *bounds; /* [panels - 1][rows] */
    uint32_t panels, rows;
    const real *x, *dy;
    real *gradient; /* [blocks][block] */
    uint32_t width, stride;
    uint32_t first_row, last_row;
} weight_task;

/* One step of Adam with coupled weight decay on `count` numbers. */
typedef struct adam_task {
    real *weight, *first_moment, *second_moment;
    const real *gradient;
    size_t count;
    real weight_decay, first_share, second_keep, second_share, step_size, second_correction, epsilon;
} adam_task;

typedef struct kernels {
    void (*forward)(const forward_task *, uint32_t block);
    void (*input_gradient)(const input_task *, uint32_t block);
    void (*weight_gradient)(const weight_task *, uint32_t block);
    void (*row_sums)(const real *rows, uint32_t n_rows, uint32_t stride, uint32_t width, real *sums);
    void (*adam)(const adam_task *);
    void (*follow)(real *target, const real *online, size_t count, real fraction);
    void (*squash)(real *x, size_t count);
    void (*normals)(const uint32_t *words, uint32_t count, real *numbers);
    uint32_t (*gather)(const real *values, uint32_t first, uint32_t last, key limit, key *keys, uint32_t *candidates);
} kernels;

/* ------------------------------------------------------------------------------------------------ naive kernels */

static void forward_naive(const forward_task *t, uint32_t block) {
    for (uint32_t output = t->first_row * block; output < t->last_row * block; output++) {
        const uint32_t row = output / block, lane = output % block;
        for (uint32_t b = 0; b < t->width; b++) {
            real sum = t->bias[output];
            for (uint32_t i = t->starts[row]; i < t->starts[row + 1]; i++) {
                sum += t->values[i * (size_t)block + lane] * t->x[t->columns[i] * (size_t)t->stride + b];
            }
            for (uint32_t i = t->extra_starts == NULL ? 0 : t->extra_starts[row];
                 t->extra_starts != NULL && i < t->extra_starts[row + 1]; i++) {
                sum += t->extra_values[i * (size_t)block + lane] * t->x[t->extra_columns[i] * (size_t)t->stride + b];
            }
            t->y[output * (size_t)t->stride + b] = t->relu && sum < 0 ? 0 : sum;
        }
    }
}

static void input_gradient_naive(const input_task *t, uint32_t block) {
    for (uint32_t column = t->first; block == 1 && column < t->last; column++) {
        for (uint32_t b = 0; b < t->width; b++) {
            const size_t at = column * (size_t)t->stride + b;
            real sum = 0;
            for (uint32_t i = t->column_starts[column]; i < t->column_starts[column + 1]; i++) {
                const uint32_t row = t->rows[i];
                sum += t->values[t->starts[row] + t->places[i]] * t->dy[row * (size_t)t->stride + b];
            }
            t->dx[at] = t->relu == NULL || t->relu[at] > 0 ? sum : 0;
        }
    }
    const size_t all = block > 1 ? t->n_inputs * (size_t)t->stride : 0;
    for (size_t i = 0; t->first == 0 && i < all; i++) {
        t->dx[i] = 0;
    }
    for (uint32_t row = t->first; block > 1 && row < t->last; row++) {
        for (uint32_t i = t->starts[row]; i < t->starts[row + 1]; i++) {
            for (uint32_t b = 0; t->columns[i] >= t->first_column && b < t->width; b++) {
                for (uint32_t k = 0; k < block; k++) {
                    t->dx[t->columns[i] * (size_t)t->stride + b] +=
                        t->values[i * (size_t)block + k] * t->dy[(row * block + k) * (size_t)t->stride + b];
                }
            }
        }
    }
    for (size_t i = 0; t->last == t->lines && t->relu != NULL && i < all; i++) {
        t->dx[i] = t->relu[i] > 0 ? t->dx[i] : 0;
    }
}

static void weight_gradient_naive(const weight_task *t, uint32_t block) {
    for (uint32_t row = t->first_row; row < t->last_row; row++) {
        for (uint32_t i = t->starts[row]; i < t->starts[row + 1]; i++) {
            for (uint32_t k = 0; k < block; k++) {
                const real *dy = t->dy + (row * block + k) * (size_t)t->stride, *x = t->x + t->columns[i] * (size_t)t->stride;
                real sum = 0;
                for (uint32_t b = 0; b < t->width; b++) {
                    sum += dy[b] * x[b];
                }
                t->gradient[i * (size_t)block + k] = sum;
            }
        }
    }
}

static void row_sums_naive(const real *rows, uint32_t n_rows, uint32_t stride, uint32_t width, real *sums) {
    for (uint32_t row = 0; row < n_rows; row++) {
        sums[row] = 0;
        for (uint32_t b = 0; b < width; b++) {
            sums[row] += rows[row * (size_t)stride + b];
        }
    }
}

static void adam_naive_from(const adam_task *t, size_t first) {
    for (size_t i = first; i < t->count; i++) {
        const real g = t->gradient[i] + t->weight[i] * t->weight_decay;
        t->first_moment[i] += (g - t->first_moment[i]) * t->first_share;
        t->second_moment[i] = t->second_moment[i] * t->second_keep + g * g * t->second_share;
        const real size = square_root(t->second_moment[i]) * t->second_correction + t->epsilon;
        t->weight[i] -= t->first_moment[i] * t->step_size / size;
    }
}

static void adam_naive(const adam_task *t) { adam_naive_from(t, 0); }

static void follow_naive(real *target, const real *online, size_t count, real fraction) {
    for (size_t i = 0; i < count; i++) {
        target[i] += (online[i] - target[i]) * fraction;
    }
}

static void squash_naive(real *x, size_t count) {
    for (size_t i = 0; i < count; i++) {
        x[i] = tanh_real(x[i]);
    }
}

static void normals_naive(const uint32_t *words, uint32_t count, real *numbers) {
    for (uint32_t i = 0; i < count; i += 2) {
        normal_pair(words[i], words[i + 1], &numbers[i], &numbers[i + 1]);
    }
}

/* Numbers first … last - 1 up to a magnitude: their magnitudes and which they are. May write further
 * elements, but never more than there are numbers. Without a branch, which nothing could foresee. */
static uint32_t gather_naive(const real *values, uint32_t first, uint32_t last, key limit, key *keys, uint32_t *candidates) {
    uint32_t count = 0;
    for (uint32_t i = first; i < last; i++) {
        const key found = key_of(values[i]);
        keys[count] = found;
        candidates[count] = i;
        count += found <= limit;
    }
    return count;
}

static const kernels kernels_naive __attribute__((unused)) = {
    forward_naive, input_gradient_naive, weight_gradient_naive, row_sums_naive, adam_naive,
    follow_naive,  squash_naive,         normals_naive,         gather_naive,
};

/* ------------------------------------------------------------------------------------ one set per instruction set */

#ifndef EDGERL_DOUBLE

/* Where the connections of one panel of a line begin and end, by line; whether it is the first, the last panel. */
typedef struct panel {
    const uint32_t *from, *to;
    int first, last;
} panel;

static inline panel panel_of(const uint32_t *starts, const uint32_t *bounds, uint32_t lines, uint32_t panels, uint32_t i) {
    const panel p = {
        i == 0 ? starts : bounds + (size_t)(i - 1) * lines,
        i + 1 == panels ? starts + 1 : bounds + (size_t)i * lines,
        i == 0,
        i + 1 == panels,
    };
    return p;
}

/* Run the kernel's instance for `count` vectors, where this program has one. */
#define CHUNK_OF(has, count, kernel)        \
    if (((has) >> (count) & 1u) != 0) {     \
        kernel(count, t, at);               \
    }

/* Apply `kernel` to a batch of `width` columns in chunks of one to `at_most` (4 or 8) vectors, each with its own instance. */
#define CHUNKS(has, at_most, width, kernel)                                            \
    for (uint32_t at = 0, count; at < (width); at += count * LANES) {                  \
        count = chunk_of(((width) - at) / LANES, at_most);                             \
        switch (count) {                                                               \
        case 1: CHUNK_OF(has, 1, kernel) break;                                        \
        case 2: CHUNK_OF(has, 2, kernel) break;                                        \
        case 3: CHUNK_OF(has, 3, kernel) break;                                        \
        case 4: CHUNK_OF(has, 4, kernel) break;                                        \
        case 5: CHUNK_OF(has, 5, kernel) break;                                        \
        case 6: CHUNK_OF(has, 6, kernel) break;                                        \
        case 7: CHUNK_OF(has, 7, kernel) break;                                        \
        default: CHUNK_OF(has, 8, kernel) break;                                       \
        }                                                                              \
    }

/* The same in chunks of at most `at_most` vectors, 2 or 4, a constant. */
#define CHUNKS_4(at_most, width, kernel)                                               \
    for (uint32_t at = 0, count; at < (width); at += count * LANES) {                  \
        count = chunk_of(((width) - at) / LANES, at_most);                             \
        if (count == 1) {                                                              \
            CHUNK_OF(EDGERL_BLOCK_CHUNKS, 1, kernel)                                   \
        } else if (count == 2 || (at_most) == 2) {                                     \
            CHUNK_OF(EDGERL_BLOCK_CHUNKS, 2, kernel)                                   \
        } else if (count == 3) {                                                       \
            CHUNK_OF(EDGERL_BLOCK_CHUNKS, 3, kernel)                                   \
        } else {                                                                       \
            CHUNK_OF(EDGERL_BLOCK_CHUNKS, 4, kernel)                                   \
        }                                                                              \
    }

#define HAS_BLOCK(block) ((EDGERL_BLOCKS & (block)) != 0)

/* Vectors of the next chunk where `left` are left: as few chunks as possible, of about the same size. */
static inline uint32_t chunk_of(uint32_t left, uint32_t at_most) {
    const uint32_t chunks = (left + at_most - 1) / at_most;
    return (left + chunks - 1) / chunks;
}

#if defined(__clang__)
#define SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define SHUFFLE(a, b, ...) __builtin_shuffle(a, b, (K(ivec)){__VA_ARGS__})
#endif

#if defined(__x86_64__) || defined(__aarch64__) || defined(__ARM_NEON)
#define BASELINE_LANES 4
#else
#define BASELINE_LANES 1 /* without vector registers, vectors would live in memory */
#endif

#define LANES BASELINE_LANES
#define TARGET TARGET_BASELINE
#if defined(__aarch64__)
#define CHUNK 4
#else
#define CHUNK 2
#endif
#define K(name) name##_baseline
#include "kernels.h"

#if HAS_X86_LEVELS
#define LANES 8
#define TARGET TARGET_AVX2
#define CHUNK 2
#define K(name) name##_avx2
#include "kernels.h"

#define LANES 16
#define TARGET TARGET_AVX512
#define CHUNK 4
#define K(name) name##_avx512
#include "kernels.h"
#endif

#endif

static uint32_t lanes_of(int32_t isa) {
#ifdef EDGERL_DOUBLE
    (void)isa;
    return 1;
#else
    switch (isa) {
    case EDGERL_ISA_NAIVE:
        return 1;
    case EDGERL_ISA_AVX2:
        return 8;
    case EDGERL_ISA_AVX512:
        return 16;
    default:
        return BASELINE_LANES;
    }
#endif
}

uint32_t edgerl_lanes(int32_t isa) { return lanes_of(usable_isa(isa)); }

/* The best kernels that this processor can run on a batch padded to `lanes`. */
static const kernels *kernels_of(int32_t isa, uint32_t lanes) {
#ifndef EDGERL_DOUBLE
    for (int32_t level = usable_isa(isa); level > EDGERL_ISA_NAIVE; level--) {
        if (lanes % lanes_of(level) != 0) {
            continue;
        }
#if HAS_X86_LEVELS
        if (level == EDGERL_ISA_AVX512) {
            return &kernels_avx512;
        }
        if (level == EDGERL_ISA_AVX2) {
            return &kernels_avx2;
        }
#endif
        return &kernels_baseline;
    }
#else
    (void)isa;
    (void)lanes;
#endif
#if defined(EDGERL_BASELINE_ONLY) && BASELINE_LANES == 1
    return &kernels_baseline; /* for any number of lanes: nothing else is needed */
#else
    return &kernels_naive;
#endif
}
