/* SPDX-License-Identifier: MIT */
/* The naive kernels, the reference; those of each instruction set, made from kernels.inc; and which of them to use. */
#include "kernels.h"
#include "numeric.h"
#include "random.h"

/* ------------------------------------------------------------------------------------------------ naive kernel_table */

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
            t->y[output * (size_t)t->stride + b] = activate(t->after, sum);
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
            t->dx[at] = t->before == LINEAR ? sum : activation_gradient(t->before, t->x[at], sum);
        }
    }
    const uint32_t all = block > 1 ? t->n_inputs : 0;
    for (uint32_t input = 0; t->first == 0 && input < all; input++) {
        zero(t->dx + input * (size_t)t->stride, t->width * sizeof(real));
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
    for (uint32_t input = 0; t->last == t->lines && t->before != LINEAR && input < all; input++) {
        for (uint32_t b = 0; b < t->width; b++) {
            const size_t at = input * (size_t)t->stride + b;
            t->dx[at] = activation_gradient(t->before, t->x[at], t->dx[at]);
        }
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

#if EDGERL_NORMS
static void normalise_naive(const norm_task *t) {
    for (uint32_t b = t->first; b < t->last; b++) {
        real sum = 0, squares = 0;
        for (uint32_t unit = 0; unit < t->n_units; unit++) {
            sum += t->x[unit * (size_t)t->stride + b];
        }
        const real mean = sum / (real)t->n_units;
        for (uint32_t unit = 0; unit < t->n_units; unit++) {
            const real difference = t->x[unit * (size_t)t->stride + b] - mean;
            squares += difference * difference;
        }
        const real deviation = 1 / square_root(squares / (real)t->n_units + NORM_EPSILON);
        for (uint32_t unit = 0; unit < t->n_units; unit++) {
            const size_t at = unit * (size_t)t->stride + b;
            t->y[at] = activate(t->after, (t->x[at] - mean) * deviation * t->scale[unit] + t->shift[unit]);
        }
        t->mean[b] = mean;
        t->deviation[b] = deviation;
    }
}

static void norm_sums_naive(const norm_task *t) {
    for (uint32_t b = t->first; b < t->last; b++) {
        real sum = 0, product = 0;
        for (uint32_t unit = 0; unit < t->n_units; unit++) {
            const size_t at = unit * (size_t)t->stride + b;
            sum += t->dy[at] * t->scale[unit];
            product += t->dy[at] * t->scale[unit] * (t->x[at] - t->mean[b]) * t->deviation[b];
        }
        t->sums[b] = sum / (real)t->n_units;
        t->sums[t->stride + b] = product / (real)t->n_units;
    }
}

static void norm_gradient_naive(const norm_task *t) {
    for (uint32_t unit = t->first; unit < t->last; unit++) {
        real by_scale = 0, by_shift = 0;
        for (uint32_t b = 0; b < t->width; b++) {
            const size_t at = unit * (size_t)t->stride + b;
            const real normalised = (t->x[at] - t->mean[b]) * t->deviation[b];
            const real rest = t->sums[b] + normalised * t->sums[t->stride + b];
            by_scale += t->dy[at] * normalised;
            by_shift += t->dy[at];
            t->dy[at] = (t->dy[at] * t->scale[unit] - rest) * t->deviation[b];
        }
        t->scale_gradient[unit] = by_scale;
        t->shift_gradient[unit] = by_shift;
    }
}

#define NORM_KERNEL(kernel) kernel
#else
#define NORM_KERNEL(kernel) NULL
#endif

#if (EDGERL_ALGORITHMS & 4u) != 0
static void batch_statistics_naive(const batch_task *t) {
    const real share = 1 / ((real)t->batch * (real)(t->width / t->half));
    for (uint32_t unit = t->first; unit < t->last; unit++) {
        const real *x = t->x + unit * (size_t)t->stride;
        real sum = 0, squares = 0;
        for (uint32_t b = 0; b < t->width; b++) {
            sum += b % t->half < t->batch ? x[b] : 0;
        }
        const real mean = sum * share;
        for (uint32_t b = 0; b < t->width; b++) {
            squares += b % t->half < t->batch ? (x[b] - mean) * (x[b] - mean) : 0;
        }
        t->mean[unit] = mean;
        t->variance[unit] = squares * share;
    }
}

static void batch_gradient_naive(const batch_task *t) {
    for (uint32_t unit = t->first; unit < t->last; unit++) {
        const real *x = t->x + unit * (size_t)t->stride;
        real *dx = t->dx + unit * (size_t)t->stride;
        for (uint32_t b = 0; b < t->width; b++) {
            const real gradient = dx[b] + (x[b] - t->mean[unit]) * t->slope[unit] + t->offset[unit];
            dx[b] = b % t->half < t->batch ? activation_gradient(t->before, x[b], gradient) : 0;
        }
    }
}

#define BATCH_KERNEL(kernel) kernel
#else
#define BATCH_KERNEL(kernel) NULL
#endif

#if HAS_ACTIVATION_PASSES
INLINED void activate_rows(activation a, const activation_task *t) {
    for (uint32_t unit = t->first; unit < t->last; unit++) {
        real *restrict y = t->y + unit * (size_t)t->stride;
        real *restrict slope = has_slopes(a) ? t->slope + unit * (size_t)t->stride : NULL;
        for (uint32_t b = 0; b < t->width; b++) {
            const real x = y[b], made = activate(a, x);
            if (has_slopes(a)) {
                slope[b] = slope_of_silu(x, made);
            }
            y[b] = made;
        }
    }
}

INLINED void lead_rows_back(activation a, const activation_task *t) {
    for (uint32_t unit = t->first; unit < t->last; unit++) {
        const real *restrict kept = (has_slopes(a) ? t->slope : t->y) + unit * (size_t)t->stride;
        real *restrict gradient = t->gradient + unit * (size_t)t->stride;
        for (uint32_t b = 0; b < t->width; b++) {
            gradient[b] = activation_gradient(a, kept[b], gradient[b]);
        }
    }
}

/* `of_rows` of the task's activation: a loop for each that the program has, of which the compiler makes vectors. */
#define IF_ACTIVATION(a, of_rows) \
    case a:                       \
        if (has_activation(a)) {  \
            of_rows(a, t);        \
        }                         \
        break;
#define EACH_ACTIVATION(of_rows)      \
    switch (t->kind) {                \
        IF_ACTIVATION(ELU, of_rows)   \
        IF_ACTIVATION(SILU, of_rows)  \
        IF_ACTIVATION(TANH, of_rows)  \
    case LINEAR:                      \
    case RELU: /* no pass of its own */ \
        break;                        \
    }

static void activate_naive(const activation_task *t) { EACH_ACTIVATION(activate_rows) }

static void activation_gradient_naive(const activation_task *t) { EACH_ACTIVATION(lead_rows_back) }

#define ACTIVATION_KERNEL(kernel) kernel
#else
#define ACTIVATION_KERNEL(kernel) NULL
#endif

#if EDGERL_DROPOUT
/* Blocks of Philox that are drawn at once. */
#define DRAWN_BLOCKS 16u

/* Of the numbers x[0] … x[count - 1], by half of each word. */
INLINED void drop_out_some(const dropout_task *t, const uint32_t *words, const uint32_t shift, uint32_t count, real *restrict x,
                           uint8_t *restrict kept) {
    for (uint32_t i = 0; i < count; i++) {
        const int keeps = (words[i] >> shift & 0xffffu) >= t->threshold;
        kept[i] = (uint8_t)keeps;
        x[i] = keeps ? x[i] * t->scale : 0;
    }
}

/* Numbers first … first + count - 1 of a row, as far as it has them. */
static inline uint32_t count_in_row(uint32_t first, uint32_t count, uint32_t width) {
    return first >= width ? 0 : first + count < width ? count : width - first;
}

INLINED void drop_out_rows(const dropout_task *t) {
    const uint32_t n = t->unit_words;
    for (uint32_t unit = t->first; unit < t->last; unit++) {
        real *x = t->x + unit * (size_t)t->stride;
        uint8_t *kept = t->kept + unit * (size_t)t->stride;
        for (uint32_t from = 0; from < n; from += 4 * DRAWN_BLOCKS) {
            const uint32_t count = n - from < 4 * DRAWN_BLOCKS ? n - from : 4 * DRAWN_BLOCKS;
            uint32_t words[4 * DRAWN_BLOCKS];
            for (uint32_t block = 0; block < DRAWN_BLOCKS; block++) { /* always as many: vector code */
                philox_inline(&t->draws, (unit * n + from) / 4 + block, words + 4 * block);
            }
            drop_out_some(t, words, 0, count_in_row(from, count, t->width), x + from, kept + from);
            drop_out_some(t, words, 16, count_in_row(n + from, count, t->width), x + n + from, kept + n + from);
        }
    }
}

INLINED void lead_rows_back_through_dropout(const dropout_task *t) {
    for (uint32_t unit = t->first; unit < t->last; unit++) {
        real *restrict gradient = t->x + unit * (size_t)t->stride;
        const uint8_t *restrict kept = t->kept + unit * (size_t)t->stride;
        for (uint32_t b = 0; b < t->width; b++) {
            gradient[b] = kept[b] ? gradient[b] * t->scale : 0;
        }
    }
}

static void drop_out_naive(const dropout_task *t) { drop_out_rows(t); }

static void drop_out_gradient_naive(const dropout_task *t) { lead_rows_back_through_dropout(t); }

#define DROPOUT_KERNEL(kernel) kernel
#else
#define DROPOUT_KERNEL(kernel) NULL
#endif

static void adam_naive_from(const adam_task *t, size_t first) {
    for (size_t i = first; i < t->count; i++) {
        const real g = t->gradient[i] + t->weight[i] * t->weight_decay;
        t->first_moment[i] += (g - t->first_moment[i]) * t->first_share;
        t->second_moment[i] = t->second_moment[i] * t->second_keep + g * g * t->second_share;
        const real size = square_root(t->second_moment[i]) * t->second_correction + t->epsilon;
        t->weight[i] = t->weight[i] * t->weight_keep - t->first_moment[i] * t->step_size / size;
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

EDGERL_INTERNAL void normals_naive(const uint32_t *words, uint32_t count, real *numbers) {
    for (uint32_t i = 0; i < count; i += 2) {
        normal_pair(words[i], words[i + 1], &numbers[i], &numbers[i + 1]);
    }
}

/* Numbers first … last - 1 up to a magnitude: their magnitudes and which they are. May write further
 * elements, but never more than there are numbers. Without a branch, which nothing could foresee. */
static uint32_t gather_naive(const real *values, uint32_t first, uint32_t last, real_bits limit, real_bits *keys,
                             uint32_t *candidates) {
    uint32_t count = 0;
    for (uint32_t i = first; i < last; i++) {
        const real_bits found = key_of(values[i]);
        keys[count] = found;
        candidates[count] = i;
        count += found <= limit;
    }
    return count;
}

static const kernel_table kernels_naive __attribute__((unused)) = {
    forward_naive,
    input_gradient_naive,
    weight_gradient_naive,
    row_sums_naive,
    NORM_KERNEL(normalise_naive),
    NORM_KERNEL(norm_sums_naive),
    NORM_KERNEL(norm_gradient_naive),
    BATCH_KERNEL(batch_statistics_naive),
    BATCH_KERNEL(batch_gradient_naive),
    ACTIVATION_KERNEL(activate_naive),
    ACTIVATION_KERNEL(activation_gradient_naive),
    DROPOUT_KERNEL(drop_out_naive),
    DROPOUT_KERNEL(drop_out_gradient_naive),
    adam_naive,
    follow_naive,
    squash_naive,
    normals_naive,
    gather_naive,
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

/* clang-format off */
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
/* clang-format on */

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
#include "kernels.inc"

#if HAS_X86_LEVELS
#define LANES 8
#define TARGET TARGET_AVX2
#define CHUNK 2
#define K(name) name##_avx2
#include "kernels.inc"

#define LANES 16
#define TARGET TARGET_AVX512
#define CHUNK 4
#define K(name) name##_avx512
#include "kernels.inc"
#endif

#endif

EDGERL_INTERNAL uint32_t lanes_of(int32_t isa) {
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

EDGERL_INTERNAL const kernel_table *kernels_of(int32_t isa, uint32_t lanes) {
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
