/* libFuzzer on an exported learner: saves that are damaged, with a right checksum and with a wrong one, and calls with any
 * numbers. What is refused leaves the learner as it was exported; what is taken up works.
 *
 *     learner_fuzzer corpus FOLDER    writes saves to begin with
 *     learner_fuzzer …                as every program of libFuzzer
 *
 * An input is CALLS bytes that say what to do, and a save.
 */
#include "edgerl_learner.c"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CALLS 24u
#define N EDGERL_LEARNER_OBSERVATIONS
#define M EDGERL_LEARNER_ACTIONS

#define CHECK(condition)                                       \
    do {                                                       \
        if (!(condition)) {                                    \
            printf("line %d: %s\n", __LINE__, #condition);     \
            abort();                                           \
        }                                                      \
    } while (0)

size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t most);

typedef struct bytes {
    const uint8_t *data;
    size_t left;
} bytes;

static int give(void *context, void *to, size_t count) {
    bytes *from = context;
    if (count > from->left) {
        return -1;
    }
    memcpy(to, from->data, count);
    from->data += count;
    from->left -= count;
    return 0;
}

typedef struct saved {
    uint8_t data[EDGERL_LEARNER_SAVE];
    size_t count;
} saved;

static int take(void *context, const void *data, size_t count) {
    saved *to = context;
    CHECK(count <= sizeof to->data - to->count);
    memcpy(to->data + to->count, data, count);
    to->count += count;
    return 0;
}

static float odd_number(uint8_t which) {
    static const uint32_t BITS[] = {
        0x7fc00000, 0x7f800000, 0xff800000, 0x7f7fffff, 0xff7fffff, 0x00000001, 0x80000000, 0x477fe000, 0xc77ff000,
    };
    if (which >= sizeof BITS / sizeof BITS[0]) {
        return (float)(which - 128) / 32;
    }
    float x;
    memcpy(&x, &BITS[which], sizeof x);
    return x;
}

static void check_action(int status, const float *action, const float *before) {
    CHECK(status == EDGERL_LEARNER_OK || status == EDGERL_LEARNER_NOT_FINITE);
    for (uint32_t i = 0; i < M; i++) {
        const int is_within = action[i] >= ACTION_LOW[i] && action[i] <= ACTION_HIGH[i];
        CHECK(status == EDGERL_LEARNER_OK ? is_within : memcmp(&action[i], &before[i], sizeof before[i]) == 0);
    }
}

static void complete_update(void) {
    int complete = 0;
    const int status = edgerl_learner_step(UINT32_MAX, &complete);
    CHECK(status == EDGERL_LEARNER_WAITING || (status == EDGERL_LEARNER_OK && complete));
}

/* Save, load, and act as before; unless a number has gone beyond all bounds, which no load takes up. */
static void save_and_load(int with_transitions) {
    static saved one, other;
    one.count = other.count = 0;
    complete_update();
    CHECK(edgerl_learner_save(take, &one, with_transitions) == EDGERL_LEARNER_OK);
    bytes from = {one.data, one.count};
    const int status = edgerl_learner_load(give, &from);
    CHECK(status == EDGERL_LEARNER_OK || status == EDGERL_LEARNER_REFUSED);
    if (status == EDGERL_LEARNER_OK) {
        CHECK(from.left == 0 && edgerl_learner_save(take, &other, with_transitions) == EDGERL_LEARNER_OK);
        ((save_header *)(void *)other.data)->saves--; /* all else is the same, but the sum of it */
        CHECK(one.count == other.count && memcmp(one.data, other.data, one.count - 4) == 0);
    }
}

static void call(const uint8_t *what) {
    float observation[N], following[N], action[M], before[M];
    for (uint32_t i = 0; i < N; i++) {
        observation[i] = odd_number(what[1 + i % 2]);
        following[i] = odd_number(what[2 - i % 2]);
    }
    for (uint32_t i = 0; i < M; i++) {
        action[i] = before[i] = odd_number(what[2]);
    }
    int complete = 0;
    switch (what[0] % 8) {
    case 0:
        check_action(edgerl_learner_act(observation, action), action, before);
        break;
    case 1:
        check_action(edgerl_learner_explore(observation, action), action, before);
        break;
    case 2:
    case 3: {
        const int status = edgerl_learner_observe(observation, action, odd_number(what[1]), following, what[0] / 8 % 3);
        CHECK(status == EDGERL_LEARNER_OK || status == EDGERL_LEARNER_NOT_FINITE || status == EDGERL_LEARNER_BUSY);
        break;
    }
    case 4:
    case 5: {
        const int status = edgerl_learner_step(1u << what[1] % 20, &complete);
        CHECK(status == EDGERL_LEARNER_OK || status == EDGERL_LEARNER_WAITING);
        break;
    }
    case 6:
        save_and_load(what[1] % 2);
        break;
    default:
        complete_update();
    }
}

/* What the exported policy does; the one that any refusal leads back to. */
static void act_at_first(float action[M]) {
    static const float observation[N] = {0.5f};
    CHECK(edgerl_learner_act(observation, action) == EDGERL_LEARNER_OK);
}

static void load_and_use(const uint8_t *calls, const uint8_t *save, size_t size, int is_altered) {
    float expected[M], found[M];
    CHECK(edgerl_learner_init() == EDGERL_LEARNER_OK);
    act_at_first(expected);
    bytes from = {save, size};
    const int status = edgerl_learner_load(give, &from);
    CHECK(!is_altered || status != EDGERL_LEARNER_OK || from.left > 0);
    if (status != EDGERL_LEARNER_OK) {
        CHECK(status == EDGERL_LEARNER_REFUSED || status == EDGERL_LEARNER_FAILED);
        act_at_first(found);
        CHECK(memcmp(expected, found, sizeof found) == 0);
    }
    for (uint32_t i = 0; i + 3 <= CALLS; i += 3) {
        call(calls + i);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static uint8_t whole[EDGERL_LEARNER_SAVE + 64];
    if (size < CALLS || size - CALLS > sizeof whole - 4) {
        return 0;
    }
    const size_t count = size - CALLS;
    const uint32_t sum = checksum(0, data + CALLS, count);
    memcpy(whole, data + CALLS, count);
    memcpy(whole + count, &sum, sizeof sum);
    const int is_altered = data[0] >= 128;
    whole[count] ^= (uint8_t)is_altered;
    load_and_use(data, whole, count + sizeof sum, is_altered);
    return 0;
}

/* Of bytes that have the length of a save: half of the time one odd number, mostly where the header is. */
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t most, unsigned int seed) {
    static const uint32_t ODD[] = {
        0, 1, 2, 8, 9, 10, 255, 65535, 65536, 0x7fffffff, 0x80000000, 0xffffffff, 0x7fc00000, 0x7f800000, 0x7f7fffff, 0x3f800000,
    };
    if (size < CALLS + sizeof(save_header) || seed % 2) {
        return LLVMFuzzerMutate(data, size, most);
    }
    const size_t end = seed / 2 % 3 ? CALLS + sizeof(save_header) : size - 4;
    const size_t where = CALLS + (seed / 6 % (end - CALLS)) / 4 * 4;
    memcpy(data + where, &ODD[seed / 64 % (sizeof ODD / sizeof ODD[0])], 4);
    return size;
}

static void write_corpus(const char *folder) {
    static saved one;
    for (uint32_t i = 0; i < 4; i++) {
        char path[4096];
        static const uint8_t calls[CALLS] = {0, 130, 120, 2, 140, 110, 4, 19, 0, 3, 100, 200, 6, 1, 0, 7, 0, 0, 6, 0, 0, 1, 130, 99};
        CHECK(edgerl_learner_init() == EDGERL_LEARNER_OK);
        for (uint32_t k = 0; k < 5 * i; k++) {
            const uint8_t what[3] = {(uint8_t)(2 + 8 * (k % 7 == 3)), (uint8_t)(100 + 9 * k % 50), (uint8_t)(120 + k)};
            call(what);
            complete_update();
        }
        one.count = 0;
        CHECK(edgerl_learner_save(take, &one, i % 3 != 2) == EDGERL_LEARNER_OK);
        snprintf(path, sizeof path, "%s/%u", folder, i);
        FILE *file = fopen(path, "wb");
        CHECK(file != NULL && fwrite(calls, 1, CALLS, file) == CALLS);
        CHECK(fwrite(one.data, 1, one.count - 4, file) == one.count - 4 && fclose(file) == 0);
    }
}

int LLVMFuzzerInitialize(int *argc, char ***argv) {
    if (*argc == 3 && strcmp((*argv)[1], "corpus") == 0) {
        write_corpus((*argv)[2]);
        exit(0);
    }
    return 0;
}
