/* libFuzzer on a learner's arena: whatever is in it, it is refused, or as good as any (`use` in learner_test.c).
 *
 *     learner_fuzzer corpus FOLDER    writes states to begin with
 *     learner_fuzzer …                as every program of libFuzzer
 */
#define main learner_test
#include "learner_test.c"
#undef main

size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t most);

static image images[N_FUZZ_CASES];

static void write_corpus(const char *folder) {
    for (uint32_t i = 0; i < N_FUZZ_CASES; i++) {
        char path[4096];
        snprintf(path, sizeof path, "%s/%u", folder, i);
        FILE *file = fopen(path, "wb");
        if (file == NULL || fwrite(images[i].bytes, 1, images[i].count, file) != images[i].count || fclose(file) != 0) {
            abort();
        }
    }
}

int LLVMFuzzerInitialize(int *argc, char ***argv) {
    gap_bytes = EDGERL_ALIGNMENT;
    for (uint32_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        rows[i] = random_below(8) == 0 ? (float)random_below(4) : random_number();
    }
    for (uint32_t i = 0; i < N_FUZZ_CASES; i++) {
        const edgerl_replay replay = {rows, 9, 9, 13, NULL, NULL, EDGERL_ROWS_FLOAT32, 0};
        images[i] = make_image(&FUZZ_CASES[i], &replay);
    }
    if (*argc == 3 && strcmp((*argv)[1], "corpus") == 0) {
        write_corpus((*argv)[2]);
        exit(failures != 0);
    }
    return 0;
}

/* Of a size that is a state's, half of the time damage where it matters: in the header and in index arrays. */
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t most, unsigned int seed) {
    random_state = seed * 2654435761u | 1;
    for (uint32_t i = 0; i < N_FUZZ_CASES && random_below(2) == 0; i++) {
        if (images[i].count == size) {
            damage(&images[i], data, images);
            return size;
        }
    }
    return LLVMFuzzerMutate(data, size, most);
}

/* The configuration alone, from exactly these bytes. */
static void read_config(const uint8_t *data, size_t size) {
    const size_t whole = round_up(size + 1, EDGERL_ALIGNMENT);
    unsigned char *arena = new_arena(whole);
    edgerl_learner_config config;
    edgerl_learner_bytes_of bytes;
    memcpy(arena, data, size);
    ASAN_POISON_MEMORY_REGION(arena + size, whole - size);
    const int32_t status = edgerl_learner_config_in(arena, size, &config);
    CHECK(status != EDGERL_OK || edgerl_learner_bytes(&config, &bytes) == EDGERL_OK, "a configuration");
    ASAN_UNPOISON_MEMORY_REGION(arena, whole);
    free(arena);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    const size_t room = images[0].room + images[1].room;
    read_config(data, size);
    subject s = {new_arena(room), {0}, {{{0}}, 0}, 0};
    memcpy(s.arena, data, size < room ? size : room);
    noting = &s.gaps;
    const int32_t status = edgerl_learner_open(s.arena, room, NULL);
    noting = NULL;
    if (status == EDGERL_OK) {
        use(&s, room, 0);
    } else {
        edgerl_learner_progress progress;
        CHECK(edgerl_learner_progress_of(s.arena, &progress) == EDGERL_ARENA_INVALID, "refused, but there");
    }
    free(s.arena);
    if (failures != 0) {
        abort();
    }
    return 0;
}
