/* Builds the policy of vectors.h in each layout on each instruction set, and compares its actions with those there.
 * Exit code 0: all are within the tolerance; else the number of the check that failed. */
#include "base.c"
#include "policy.c"
#include "vectors.h"

static _Alignas(EDGERL_ALIGNMENT) unsigned char arena[ARENA_BYTES];

static int is_near(const float *actions, const float *expected) {
    for (uint32_t i = 0; i < N_ACTIONS; i++) {
        const float difference = actions[i] - expected[i];
        if (!(difference < TOLERANCE && difference > -TOLERANCE)) {
            return 0;
        }
    }
    return 1;
}

static int check(int32_t isa, int32_t layout) {
    size_t bytes = 0;
    for (uint32_t i = 0; i < N_LAYERS; i++) {
        LAYERS[i].layout = layout;
    }
    const edgerl_policy_config config = {N_LAYERS, isa, LAYERS, MEAN, SCALE, CENTRE, HALF_RANGE};
    if (edgerl_policy_bytes(&config, &bytes) != EDGERL_OK || bytes > sizeof arena) {
        return 1;
    }
    if (edgerl_policy_init(&config, arena, bytes) != EDGERL_OK) {
        return 2;
    }
    for (uint32_t i = 0; i < N_VECTORS; i++) {
        float action[N_ACTIONS];
        if (edgerl_policy_act(arena, OBSERVATIONS[i], action) != EDGERL_OK || !is_near(action, ACTIONS[i])) {
            return 3;
        }
    }
    return 0;
}

int main(void) {
    for (int32_t isa = EDGERL_ISA_NAIVE; isa <= edgerl_isa_best(); isa++) {
        for (int32_t layout = EDGERL_DENSE_COLUMNS; layout <= EDGERL_BLOCK_COLUMNS; layout++) {
            const int failed = check(isa, layout);
            if (failed) {
                return 10 * (3 * isa + layout) + failed;
            }
        }
    }
    return 0;
}
