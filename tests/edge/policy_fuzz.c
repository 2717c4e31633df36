/* Damages the policy of vectors.h at random, 20000 times, and builds and runs what the engine accepts. The sanitizers
 * that this is compiled with are the judges; exit code 1 where nothing was refused or nothing accepted. */
#include "base.c"
#include "policy.c"
#include "vectors.h"

static _Alignas(EDGERL_ALIGNMENT) unsigned char arena[ARENA_BYTES];
static uint32_t state = 1;

static uint32_t below(uint32_t bound) {
    state ^= state << 13;
    state ^= state >> 17;
    state ^= state << 5;
    return state % bound;
}

/* Change some bytes of an array, often to what is nearly right; keep what it was in `kept`. */
static void damage(void *array, size_t bytes, unsigned char *kept) {
    unsigned char *content = array;
    for (size_t i = 0; i < bytes; i++) {
        kept[i] = content[i];
    }
    for (uint32_t changes = 1 + below(3); changes > 0; changes--) {
        const uint32_t at = below((uint32_t)bytes);
        content[at] = (unsigned char)(below(2) ? below(256) : content[at] + below(3) - 1);
    }
}

static void restore(void *array, size_t bytes, const unsigned char *kept) {
    for (size_t i = 0; i < bytes; i++) {
        ((unsigned char *)array)[i] = kept[i];
    }
}

int main(void) {
    static unsigned char kept[ARENA_BYTES];
    uint32_t accepted = 0, refused = 0;
    for (uint32_t round = 0; round < 20000; round++) {
        const uint32_t which = below(N_ARRAYS);
        damage(ARRAYS[which].content, ARRAYS[which].bytes, kept);
        for (uint32_t i = 0; i < N_LAYERS; i++) {
            LAYERS[i].layout = (int32_t)below(3);
        }
        const edgerl_policy_config config = {
            N_LAYERS, (int32_t)below(4), LAYERS, MEAN, SCALE, CENTRE, HALF_RANGE,
        };
        size_t bytes = 0;
        float action[N_ACTIONS];
        if (edgerl_policy_bytes(&config, &bytes) != EDGERL_OK) {
            refused++;
        } else if (bytes > sizeof arena || edgerl_policy_init(&config, arena, bytes) != EDGERL_OK ||
                   edgerl_policy_act(arena, OBSERVATIONS[below(N_VECTORS)], action) != EDGERL_OK) {
            return 2;
        } else {
            accepted++;
        }
        restore(ARRAYS[which].content, ARRAYS[which].bytes, kept);
    }
    return accepted < 100 || refused < 100;
}
