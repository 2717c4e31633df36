/* The engine's kernels on a layer of a learner, and the most that this core can do: benchmarks/kernels.py times them. */
#include "../edgerl/edge/engine/edgerl.c"

/* ------------------------------------------------------------------------------------------- kernels on one layer */

/* The tasks are the engine's own: its functions make them, and these kernels keep them instead of running them. */
static forward_task forward_kept;
static input_task input_kept;
static weight_task weight_kept;

static void keep_forward(const forward_task *t, uint32_t block) {
    forward_kept = *t;
    (void)block;
}

static void keep_input(const input_task *t, uint32_t block) {
    input_kept = *t;
    (void)block;
}

static void keep_weight(const weight_task *t, uint32_t block) {
    weight_kept = *t;
    (void)block;
}

static void no_row_sums(const real *rows, uint32_t n_rows, uint32_t stride, uint32_t width, real *sums) {
    (void)rows, (void)n_rows, (void)stride, (void)width, (void)sums;
}

static const kernels keeping = {
    .forward = keep_forward,
    .input_gradient = keep_input,
    .weight_gradient = keep_weight,
    .row_sums = no_row_sums,
};

enum { BENCH_FORWARD, BENCH_INPUT_GRADIENT, BENCH_WEIGHT_GRADIENT };

/* Run a kernel `times` times on a whole layer of the first critic. The input gradient is that of the layer alone, without the
 * ReLU before it, which the engine does in the same pass. */
void bench_kernel(void *arena, uint32_t which, uint32_t index, uint64_t times) {
    learner *l = arena;
    const layer *y = &l->layers[EDGERL_CRITIC_1][index];
    const kernels *k = kernels_of(l->config.isa, l->config.lanes);
    forward_rows(l, &keeping, EDGERL_CRITIC_1, index, 0, 0, y->rows);
    input_gradient_of(l, &keeping, EDGERL_CRITIC_1, index, 0, input_gradient_rows(y));
    weight_gradient_of(l, &keeping, EDGERL_CRITIC_1, index, 0, y->rows);
    input_kept.relu = NULL;
    for (uint64_t i = 0; i < times; i++) {
        if (which == BENCH_FORWARD) {
            k->forward(&forward_kept, y->block);
        } else if (which == BENCH_INPUT_GRADIENT) {
            k->input_gradient(&input_kept, y->block);
        } else {
            k->weight_gradient(&weight_kept, y->block);
        }
    }
}

/* ----------------------------------------------------------------------------------------- the peak of this core */

#define ACCUMULATORS 12 /* latency times throughput is 8 to 10 on current cores; two more registers hold the factors */

static volatile float factor = 0.999f, term = 0.001f, result; /* out of the compiler's sight */

/* `times` rounds of multiply-adds in registers, independent of each other and without memory operands. */
#define PEAK(name, target, vector)                                              \
    target static __attribute__((noinline)) void name(uint64_t times) {         \
        const vector m = (vector){0} + factor, c = (vector){0} + term;          \
        vector a[ACCUMULATORS], sum = {0};                                      \
        EACH(i, ACCUMULATORS) { a[i] = (vector){0} + (float)i; }                \
        for (uint64_t round = 0; round < times; round++) {                      \
            EACH(i, ACCUMULATORS) { a[i] = a[i] * m + c; }                      \
        }                                                                       \
        EACH(i, ACCUMULATORS) { sum += a[i]; }                                  \
        result = sum[0];                                                        \
    }

PEAK(peak_baseline, TARGET_BASELINE, float4)
#if HAS_X86_LEVELS
PEAK(peak_avx2, TARGET_AVX2, float8)
PEAK(peak_avx512, TARGET_AVX512, float16)
#endif

/* `times` rounds at this processor's widest vectors; how many floating-point operations a round has. */
uint32_t bench_peak(uint64_t times) {
#if HAS_X86_LEVELS
    if (edgerl_isa_best() == EDGERL_ISA_AVX512) {
        peak_avx512(times);
        return 2 * ACCUMULATORS * 16;
    }
    if (edgerl_isa_best() == EDGERL_ISA_AVX2) {
        peak_avx2(times);
        return 2 * ACCUMULATORS * 8;
    }
#endif
    peak_baseline(times);
    return 2 * ACCUMULATORS * 4;
}
