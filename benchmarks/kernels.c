/* The engine's kernels on a layer of a learner, and the most that this core can do: benchmarks/kernels.py times them. */
#include "../edgerl/edge/engine/edgerl.c"

/* ------------------------------------------------------------------------------------------- kernels on one layer */

enum { BENCH_FORWARD, BENCH_INPUT_GRADIENT, BENCH_WEIGHT_GRADIENT };

/* Run a kernel `times` times on a whole layer of the first critic. The input gradient is that of the layer alone, without the
 * activation before it, which the engine does in the same pass. */
void bench_kernel(void *arena, uint32_t which, uint32_t index, uint64_t times) {
    learner *l = arena;
    const kernel_table *k = kernels_of(l->config.isa, l->config.lanes);
    const sparse_layer *layer = &l->layers[EDGERL_CRITIC_1][index];
    const pass rows = {.l = l, .network = EDGERL_CRITIC_1, .index = index, .last = layer->rows};
    pass lines = rows;
    lines.last = input_gradient_rows(layer);
    const forward_task forward = forward_task_of(&rows, 0);
    const weight_task weight_gradient = weight_task_of(&rows);
    input_task input_gradient = input_task_of(&lines);
    input_gradient.before = LINEAR;
    for (uint64_t i = 0; i < times; i++) {
        if (which == BENCH_FORWARD) {
            k->forward(&forward, layer->block);
        } else if (which == BENCH_INPUT_GRADIENT) {
            k->input_gradient(&input_gradient, layer->block);
        } else {
            k->weight_gradient(&weight_gradient, layer->block);
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
