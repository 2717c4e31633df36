/* SPDX-License-Identifier: MIT */
/* The kernels of one instruction set, over the batch; included once per set (kernels.c).
 *
 * Expects LANES (numbers in a vector), TARGET (the attribute that allows the instructions), CHUNK (vectors of the
 * batch for which four rows' sums fit in the registers: 2 or 4) and K(name), the name with the set's suffix.
 *
 * Activations lie feature-major, [feature][stride], so that a weight multiplies a contiguous vector. The sums of a row, or
 * of a row of blocks, stay in registers while its connections stream past: hence arrays whose bounds are known at compile
 * time, one instance of each kernel per number of vectors. A batch of more vectors is taken in chunks.
 */
#define INLINE TARGET static inline __attribute__((always_inline))
#define vec K(vec)

#if LANES == 1
typedef real vec;
#else
typedef real vec __attribute__((vector_size(LANES * sizeof(real)), aligned(sizeof(real)), may_alias));
typedef int32_t K(ivec) __attribute__((vector_size(LANES * sizeof(int32_t)), aligned(4), may_alias));
typedef union K(quarters) {
    vec whole;
    float4 parts[LANES / 4];
} K(quarters);
#endif

/* Row `index` of a tile, rows `stride` bytes apart. Hidden from the optimiser, which else spends an instruction on the
 * address of each vector. */
INLINE const real *K(row)(const real *x, uint32_t index, size_t stride) {
    const char *p = (const char *)x + index * stride;
    HIDE(p);
    return (const real *)(const void *)p;
}

INLINE vec K(load)(const real *p) { return *(const vec *)p; }
INLINE void K(store)(real *p, vec x) { *(vec *)p = x; }

/* x where it is not negative, else 0; NaN stays. */
INLINE vec K(relu)(vec x) {
#if LANES == 1
    return x < 0 ? 0 : x;
#else
    return (vec)((K(ivec))x & ~(x < 0));
#endif
}

/* g where x > 0, else 0: the gradient through ReLU whose output was x. */
INLINE vec K(where_positive)(vec x, vec g) {
#if LANES == 1
    return x > 0 ? g : 0;
#else
    return (vec)((K(ivec))g & (x > 0));
#endif
}

/* By the reciprocal root of Newton's method from the well-known first guess: four times the speed of the processor's own on
 * wide vectors, within 2e-7, and the same bits everywhere. The product comes before the square, which could overflow. */
INLINE vec K(square_root)(vec x) {
#if LANES == 1
    return square_root(x);
#else
    vec y = (vec)(0x5f375a86 - ((K(ivec))x >> 1));
    EACH(i, 3) { y *= (real)1.5 - (real)0.5 * (x * y) * y; }
    return x * y;
#endif
}

/* The sums over the lanes of four vectors, to out[4]. */
INLINE void K(sum4)(const vec x[4], real *out, const int accumulate) {
#if LANES == 1
    EACH(i, 4) { out[i] = accumulate ? out[i] + x[i] : x[i]; }
#else
#if LANES == 4
#define LOW 0, 4, 1, 5
#define HIGH 2, 6, 3, 7
#define FIRST 0, 1, 4, 5
#define SECOND 2, 3, 6, 7
#elif LANES == 8
#define LOW 0, 8, 1, 9, 4, 12, 5, 13
#define HIGH 2, 10, 3, 11, 6, 14, 7, 15
#define FIRST 0, 1, 8, 9, 4, 5, 12, 13
#define SECOND 2, 3, 10, 11, 6, 7, 14, 15
#else
#define LOW 0, 16, 1, 17, 4, 20, 5, 21, 8, 24, 9, 25, 12, 28, 13, 29
#define HIGH 2, 18, 3, 19, 6, 22, 7, 23, 10, 26, 11, 27, 14, 30, 15, 31
#define FIRST 0, 1, 16, 17, 4, 5, 20, 21, 8, 9, 24, 25, 12, 13, 28, 29
#define SECOND 2, 3, 18, 19, 6, 7, 22, 23, 10, 11, 26, 27, 14, 15, 30, 31
#endif
    const vec ab = SHUFFLE(x[0], x[1], LOW) + SHUFFLE(x[0], x[1], HIGH);
    const vec cd = SHUFFLE(x[2], x[3], LOW) + SHUFFLE(x[2], x[3], HIGH);
    const K(quarters) sums = {SHUFFLE(ab, cd, FIRST) + SHUFFLE(ab, cd, SECOND)};
    float4 sum = sums.parts[0];
    REST(i, LANES / 4) { sum += sums.parts[i]; }
    if (accumulate) {
        sum += *(float4 *)out;
    }
    *(float4 *)out = sum;
#undef LOW
#undef HIGH
#undef FIRST
#undef SECOND
#endif
}

/* ---------------------------------------------------------------------------------------------------- forward */

/* Up to four vectors have two sets of sums, so that an addition need not wait for the one before. */
INLINE void K(add_row)(const uint32_t count, vec *even, vec *odd, const real *values, const uint16_t *columns,
                       uint32_t i, uint32_t end, const real *x, size_t stride) {
    for (; i + 1 < end; i += 2) {
        const real *p = K(row)(x, columns[i], stride), *q = K(row)(x, columns[i + 1], stride);
        EACH(v, count) { even[v] += K(load)(p + v * LANES) * values[i]; }
        EACH(v, count) {
            if (count <= 4) {
                odd[v] += K(load)(q + v * LANES) * values[i + 1];
            } else {
                even[v] += K(load)(q + v * LANES) * values[i + 1];
            }
        }
    }
    if (i < end) {
        const real *p = K(row)(x, columns[i], stride);
        EACH(v, count) { even[v] += K(load)(p + v * LANES) * values[i]; }
    }
}

INLINE void K(forward_panel_1)(const uint32_t count, const forward_task *t, size_t at, panel p) {
    const real *x = t->x + at;
    size_t stride = t->stride * sizeof(real);
    HIDE(x);
    HIDE(stride);
    for (uint32_t row = t->first_row; row < t->last_row; row++) {
        real *y = t->y + row * (size_t)t->stride + at;
        vec even[8], odd[4];
        EACH(v, count) {
            if (p.first) {
                even[v] = (vec){0} + t->bias[row];
            } else {
                even[v] = K(load)(y + v * LANES);
            }
        }
        EACH(v, 4) { odd[v] = (vec){0}; }
        K(add_row)(count, even, odd, t->values, t->columns, p.from[row], p.to[row], x, stride);
        if (p.last && t->extra_starts != NULL) {
            K(add_row)(count, even, odd, t->extra_values, t->extra_columns, t->extra_starts[row],
                       t->extra_starts[row + 1], x, stride);
        }
        EACH(v, count) {
            if (count <= 4) {
                even[v] += odd[v % 4];
            }
            K(store)(y + v * LANES, p.last && t->relu ? K(relu)(even[v]) : even[v]);
        }
    }
}

INLINE void K(forward_rows_1)(const uint32_t count, const forward_task *t, size_t at) {
    for (uint32_t i = 0; i < t->panels; i++) {
        K(forward_panel_1)(count, t, at, panel_of(t->starts, t->bounds, t->rows, t->panels, i));
    }
}

INLINE void K(add_block_row)(const uint32_t count, vec sums[4][4], const real *values, const uint16_t *columns,
                             uint32_t i, uint32_t end, const real *x, size_t stride) {
    for (; i < end; i++) {
        const real *p = K(row)(x, columns[i], stride), *w = values + 4 * (size_t)i;
        EACH(v, count) {
            const vec input = K(load)(p + v * LANES);
            EACH(k, 4) { sums[k][v] += input * w[k]; }
        }
    }
}

INLINE void K(forward_panel_4)(const uint32_t count, const forward_task *t, size_t at, panel p) {
    const real *x = t->x + at;
    size_t stride = t->stride * sizeof(real);
    HIDE(x);
    HIDE(stride);
    for (uint32_t row = t->first_row; row < t->last_row; row++) {
        real *y = t->y + 4 * row * (size_t)t->stride + at;
        vec sums[4][4];
        EACH(k, 4) {
            EACH(v, count) {
                if (p.first) {
                    sums[k][v] = (vec){0} + t->bias[4 * row + k];
                } else {
                    sums[k][v] = K(load)(y + k * (size_t)t->stride + v * LANES);
                }
            }
        }
        K(add_block_row)(count, sums, t->values, t->columns, p.from[row], p.to[row], x, stride);
        if (p.last && t->extra_starts != NULL) {
            K(add_block_row)(count, sums, t->extra_values, t->extra_columns, t->extra_starts[row],
                             t->extra_starts[row + 1], x, stride);
        }
        EACH(k, 4) {
            EACH(v, count) {
                K(store)(y + k * (size_t)t->stride + v * LANES, p.last && t->relu ? K(relu)(sums[k][v]) : sums[k][v]);
            }
        }
    }
}

INLINE void K(forward_rows_4)(const uint32_t count, const forward_task *t, size_t at) {
    for (uint32_t i = 0; i < t->panels; i++) {
        K(forward_panel_4)(count, t, at, panel_of(t->starts, t->bounds, t->rows, t->panels, i));
    }
}

/* Where lines are cut into panels, chunks are narrow, so that a panel's tile stays in the first cache; else it is the cost of
 * each line itself that counts. */
TARGET static void K(forward)(const forward_task *t, uint32_t block) {
    if (HAS_BLOCK(1) && (block == 1 || !HAS_BLOCK(4))) {
        CHUNKS(EDGERL_CHUNKS, t->panels > 1 ? 4u : 8u, t->width, K(forward_rows_1))
    } else if (HAS_BLOCK(4)) {
        CHUNKS_4(CHUNK, t->width, K(forward_rows_4))
    }
}

/* --------------------------------------------------------------------------------------------- input gradient */

/* By columns: the sum over a column's connections of weight * output gradient. */
INLINE void K(input_panel_1)(const uint32_t count, const input_task *t, size_t at, panel p) {
    const real *dy = t->dy + at;
    size_t stride = t->stride * sizeof(real);
    HIDE(dy);
    HIDE(stride);
    for (uint32_t column = t->first; column < t->last; column++) {
        real *dx = t->dx + column * (size_t)t->stride + at;
        vec even[8], odd[4];
        EACH(v, count) {
            if (p.first) {
                even[v] = (vec){0};
            } else {
                even[v] = K(load)(dx + v * LANES);
            }
        }
        EACH(v, 4) { odd[v] = (vec){0}; }
        uint32_t i = p.from[column];
        const uint32_t end = p.to[column];
        for (; i + 1 < end; i += 2) {
            const uint32_t r = t->rows[i], s = t->rows[i + 1];
            const real a = t->values[t->starts[r] + t->places[i]], b = t->values[t->starts[s] + t->places[i + 1]];
            const real *g = K(row)(dy, r, stride), *h = K(row)(dy, s, stride);
            EACH(v, count) { even[v] += K(load)(g + v * LANES) * a; }
            EACH(v, count) {
                if (count <= 4) {
                    odd[v] += K(load)(h + v * LANES) * b;
                } else {
                    even[v] += K(load)(h + v * LANES) * b;
                }
            }
        }
        if (i < end) {
            const uint32_t r = t->rows[i];
            const real a = t->values[t->starts[r] + t->places[i]], *g = K(row)(dy, r, stride);
            EACH(v, count) { even[v] += K(load)(g + v * LANES) * a; }
        }
        const real *relu = !p.last || t->relu == NULL ? NULL : t->relu + column * (size_t)t->stride + at;
        EACH(v, count) {
            if (count <= 4) {
                even[v] += odd[v % 4];
            }
            K(store)(dx + v * LANES, relu == NULL ? even[v] : K(where_positive)(K(load)(relu + v * LANES), even[v]));
        }
    }
}

INLINE void K(input_columns_1)(const uint32_t count, const input_task *t, size_t at) {
    for (uint32_t i = 0; i < t->panels; i++) {
        K(input_panel_1)(count, t, at, panel_of(t->column_starts, t->bounds, t->lines, t->panels, i));
    }
}

/* By rows of blocks: the output gradients of four rows stay in registers, the input gradient in the first cache. */
INLINE void K(input_panel_4)(const uint32_t count, const input_task *t, size_t at, panel p) {
    const real *base = t->dx + at;
    size_t stride = t->stride * sizeof(real);
    HIDE(base);
    HIDE(stride);
    for (uint32_t row = t->first; row < t->last; row++) {
        vec dy[4][4];
        EACH(k, 4) {
            EACH(v, count) { dy[k][v] = K(load)(t->dy + (4 * row + k) * (size_t)t->stride + at + v * LANES); }
        }
        uint32_t i = p.from[row];
        while (i < p.to[row] && t->columns[i] < t->first_column) {
            i++;
        }
        for (; i < p.to[row]; i++) {
            real *dx = (real *)(uintptr_t)K(row)(base, t->columns[i], stride);
            const real *w = t->values + 4 * (size_t)i;
            EACH(v, count) {
                const vec sum = K(load)(dx + v * LANES) + dy[0][v] * w[0] + dy[1][v] * w[1];
                K(store)(dx + v * LANES, sum + (dy[2][v] * w[2] + dy[3][v] * w[3]));
            }
        }
    }
}

/* The gradients by a panel's inputs begin at 0, and end with the ReLU, while they are in the first cache. */
INLINE void K(input_rows_4)(const uint32_t count, const input_task *t, size_t at) {
    for (uint32_t i = 0; i < t->panels; i++) {
        const uint32_t from = i * PANEL, to = i + 1 == t->panels ? t->n_inputs : (i + 1) * PANEL;
        for (uint32_t input = from; t->first == 0 && input < to; input++) {
            EACH(v, count) { K(store)(t->dx + input * (size_t)t->stride + at + v * LANES, (vec){0}); }
        }
        K(input_panel_4)(count, t, at, panel_of(t->starts, t->bounds, t->lines, t->panels, i));
        for (uint32_t input = from; t->last == t->lines && t->relu != NULL && input < to; input++) {
            real *dx = t->dx + input * (size_t)t->stride + at;
            const real *relu = t->relu + input * (size_t)t->stride + at;
            EACH(v, count) {
                K(store)(dx + v * LANES, K(where_positive)(K(load)(relu + v * LANES), K(load)(dx + v * LANES)));
            }
        }
    }
}

TARGET static void K(input_gradient)(const input_task *t, uint32_t block) {
    if (HAS_BLOCK(1) && (block == 1 || !HAS_BLOCK(4))) {
        CHUNKS(EDGERL_CHUNKS, t->panels > 1 ? 4u : 8u, t->width, K(input_columns_1))
    } else if (HAS_BLOCK(4)) {
        CHUNKS_4(CHUNK, t->width, K(input_rows_4))
    }
}

/* -------------------------------------------------------------------------------------------- weight gradient */

/* The products over the batch of a row's output gradient with the inputs of its connections, four at a time. */
INLINE void K(weight_panel_1)(const uint32_t count, const weight_task *t, size_t at, panel p) {
    const int accumulate = at > 0;
    const real *base = t->x + at;
    size_t stride = t->stride * sizeof(real);
    HIDE(base);
    HIDE(stride);
    for (uint32_t row = t->first_row; row < t->last_row; row++) {
        vec dy[8];
        EACH(v, count) { dy[v] = K(load)(t->dy + row * (size_t)t->stride + at + v * LANES); }
        const uint32_t end = p.to[row];
        for (uint32_t i = p.from[row]; i < end; i += 4) {
            vec sums[4];
            EACH(k, 4) {
                const uint32_t j = i + k < end ? i + k : end - 1; /* the last group repeats the last connection */
                const real *x = K(row)(base, t->columns[j], stride);
                sums[k] = K(load)(x) * dy[0];
                REST(v, count) { sums[k] += K(load)(x + v * LANES) * dy[v]; }
            }
            if (i + 4 <= end) {
                K(sum4)(sums, t->gradient + i, accumulate);
                continue;
            }
            real last[4];
            K(sum4)(sums, last, 0);
            for (uint32_t k = 0; i + k < end; k++) {
                t->gradient[i + k] = accumulate ? t->gradient[i + k] + last[k] : last[k];
            }
        }
    }
}

INLINE void K(weight_rows_1)(const uint32_t count, const weight_task *t, size_t at) {
    for (uint32_t i = 0; i < t->panels; i++) {
        K(weight_panel_1)(count, t, at, panel_of(t->starts, t->bounds, t->rows, t->panels, i));
    }
}

INLINE void K(weight_panel_4)(const uint32_t count, const weight_task *t, size_t at, panel p) {
    const int accumulate = at > 0;
    const real *base = t->x + at;
    size_t stride = t->stride * sizeof(real);
    HIDE(base);
    HIDE(stride);
    for (uint32_t row = t->first_row; row < t->last_row; row++) {
        vec dy[4][8];
        EACH(k, 4) {
            EACH(v, count) { dy[k][v] = K(load)(t->dy + (4 * row + k) * (size_t)t->stride + at + v * LANES); }
        }
        for (uint32_t i = p.from[row]; i < p.to[row]; i++) {
            const real *x = K(row)(base, t->columns[i], stride);
            vec sums[4];
            const vec first = K(load)(x);
            EACH(k, 4) { sums[k] = first * dy[k][0]; }
            REST(v, count) {
                const vec input = K(load)(x + v * LANES);
                EACH(k, 4) { sums[k] += input * dy[k][v]; }
            }
            K(sum4)(sums, t->gradient + 4 * (size_t)i, accumulate);
        }
    }
}

INLINE void K(weight_rows_4)(const uint32_t count, const weight_task *t, size_t at) {
    for (uint32_t i = 0; i < t->panels; i++) {
        K(weight_panel_4)(count, t, at, panel_of(t->starts, t->bounds, t->rows, t->panels, i));
    }
}

TARGET static void K(weight_gradient)(const weight_task *t, uint32_t block) {
    if (HAS_BLOCK(1) && (block == 1 || !HAS_BLOCK(4))) {
        CHUNKS(EDGERL_CHUNKS, 8u, t->width, K(weight_rows_1))
    } else if (HAS_BLOCK(4)) {
        CHUNKS(EDGERL_CHUNKS, 8u, t->width, K(weight_rows_4))
    }
}

/* ------------------------------------------------------------------------------------------------------- the rest */

/* The sums of rows over the batch: bias gradients. */
TARGET static void K(row_sums)(const real *rows, uint32_t n_rows, uint32_t stride, uint32_t width, real *sums) {
    for (uint32_t row = 0; row < n_rows; row += 4) {
        vec four[4];
        EACH(k, 4) {
            const real *x = rows + (row + k) * (size_t)stride;
            four[k] = K(load)(x);
            for (uint32_t at = LANES; at < width; at += LANES) {
                four[k] += K(load)(x + at);
            }
        }
        K(sum4)(four, sums + row, 0);
    }
}

TARGET static void K(adam)(const adam_task *t) {
    size_t i = 0;
    for (; i + LANES <= t->count; i += LANES) {
        const vec w = K(load)(t->weight + i);
        const vec g = K(load)(t->gradient + i) + w * t->weight_decay;
        vec m = K(load)(t->first_moment + i), v = K(load)(t->second_moment + i);
        m += (g - m) * t->first_share;
        v = v * t->second_keep + g * g * t->second_share;
        K(store)(t->first_moment + i, m);
        K(store)(t->second_moment + i, v);
        K(store)(t->weight + i, w - m * t->step_size / (K(square_root)(v) * t->second_correction + t->epsilon));
    }
    adam_naive_from(t, i);
}

TARGET static void K(follow)(real *target, const real *online, size_t count, real fraction) {
    size_t i = 0;
    for (; i + LANES <= count; i += LANES) {
        const vec t = K(load)(target + i);
        K(store)(target + i, t + (K(load)(online + i) - t) * fraction);
    }
    follow_naive(target + i, online + i, count - i, fraction);
}

/* x = tanh(x). */
TARGET static void K(squash)(real *x, size_t count) {
    for (size_t i = 0; i < count; i++) {
        x[i] = tanh_real(x[i]);
    }
}

/* Words → standard normal numbers, two from two (Box and Muller); sixteen pairs at a time become vector code. */
TARGET static void K(normals)(const uint32_t *words, uint32_t count, real *numbers) {
    uint32_t i = 0;
    for (; i + 32 <= count; i += 32) {
        uint32_t first[16], second[16];
        real a[16], b[16];
        for (uint32_t k = 0; k < 16; k++) {
            first[k] = words[i + 2 * k];
            second[k] = words[i + 2 * k + 1];
        }
        for (uint32_t k = 0; k < 16; k++) {
            normal_pair(first[k], second[k], &a[k], &b[k]);
        }
        for (uint32_t k = 0; k < 16; k++) {
            numbers[i + 2 * k] = a[k];
            numbers[i + 2 * k + 1] = b[k];
        }
    }
    normals_naive(words + i, count - i, numbers + i);
}

/* Numbers up to a magnitude, as candidates; see gather_naive. */
TARGET static uint32_t K(gather)(const real *values, uint32_t first, uint32_t last, key limit, key *keys,
                                 uint32_t *candidates) {
#if LANES == 16
    const __m512i most = _mm512_set1_epi32((int32_t)limit), mask = _mm512_set1_epi32(INT32_MAX);
    __m512i numbers = _mm512_add_epi32(_mm512_set1_epi32((int32_t)first),
                                       _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15));
    uint32_t count = 0, i = first;
    for (; i + 16 <= last; i += 16) {
        const __m512i k = _mm512_and_si512(_mm512_loadu_si512(values + i), mask);
        const __mmask16 taken = _mm512_cmple_epu32_mask(k, most);
        _mm512_storeu_si512(keys + count, _mm512_maskz_compress_epi32(taken, k));
        _mm512_storeu_si512(candidates + count, _mm512_maskz_compress_epi32(taken, numbers));
        count += (uint32_t)__builtin_popcount(taken);
        numbers = _mm512_add_epi32(numbers, _mm512_set1_epi32(16));
    }
    return count + gather_naive(values, i, last, limit, keys + count, candidates + count);
#else
    return gather_naive(values, first, last, limit, keys, candidates);
#endif
}

static const kernels K(kernels) = {
    K(forward), K(input_gradient), K(weight_gradient), K(row_sums), K(adam),
    K(follow),  K(squash),         K(normals),         K(gather),
};

#undef vec
#undef INLINE
#undef LANES
#undef TARGET
#undef CHUNK
#undef K
