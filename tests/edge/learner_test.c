/* What holds for every learner, judged by the sanitizers and by the exit code; prints what does not hold.
 *
 *     learner_test updates            hundreds of updates of many configurations, whole and in slices, in arenas that move
 *     learner_test kernels            each instruction set against the naive kernels, step by step
 *     learner_test arguments          what is wrong is refused, and nothing written
 *     learner_test fuzz COUNT SEED    COUNT damaged arenas: refused, or as good as any
 *
 * In `updates` and `fuzz` every array in an arena is followed by bytes that the address sanitizer forbids.
 */
#include <sanitizer/asan_interface.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base.h"

/* Between base.h and the rest: what sets arrays aside leaves a gap behind each, and remembers where. */
#define MOST_GAPS 1024u
typedef struct gap {
    const uint64_t *cursor;
    uint64_t begin, end;
} gap;
typedef struct gaps {
    gap all[MOST_GAPS];
    uint32_t count;
} gaps;

static uint64_t gap_bytes;
static gaps *noting;

static inline uint64_t set_aside_with_gap(uint64_t *end, uint64_t count, uint64_t size) {
    const uint64_t offset = set_aside(end, count, size);
    *end += gap_bytes;
    if (gap_bytes > 0 && noting != NULL && noting->count < MOST_GAPS) {
        const gap g = {end, offset + count * size, *end};
        noting->all[noting->count++] = g;
    }
    return offset;
}
#define set_aside set_aside_with_gap

#include "learner.h"

static gaps of_workspace;
static unsigned char *arena_in_use; /* null: the workspace lies over other arrays, nothing is forbidden there */

static void forbid(unsigned char *arena, const gaps *g, uint64_t shift_of_derived) {
    for (uint32_t i = 0; i < g->count; i++) {
        const uint64_t shift = g->all[i].cursor == g->all[0].cursor ? 0 : shift_of_derived;
        ASAN_POISON_MEMORY_REGION(arena + shift + g->all[i].begin, g->all[i].end - g->all[i].begin);
    }
}

static inline topology_space lay_out_workspace_with_gaps(const sparse_layer *layer, uint64_t end,
                                                         const edgerl_learner_config *c) {
    gaps *before = noting;
    of_workspace.count = 0;
    noting = &of_workspace;
    const topology_space w = lay_out_workspace(layer, end, c);
    noting = before;
    if (end > 0 && arena_in_use != NULL) {
        const learner *l = (const void *)arena_in_use;
        ASAN_UNPOISON_MEMORY_REGION(arena_in_use + l->workspace, l->bytes.total - l->workspace);
        forbid(arena_in_use, &of_workspace, 0);
    }
    return w;
}
#define lay_out_workspace lay_out_workspace_with_gaps

#include "learner_cases.h"

#define RANDOM EDGERL_GROWTH_RANDOM
#define GRADIENT EDGERL_GROWTH_GRADIENT
#define CONSTANT EDGERL_DROP_CONSTANT
#define COSINE EDGERL_DROP_COSINE

static const learner_case CASES[] = {
    {"single connections", 5, 3, {17, 12}, 1, 50, 7, 5, 2, 1, RANDOM, CONSTANT, 40, 1, 0},
    {"blocks with a narrow row", 5, 3, {17, 13}, 4, 50, 7, 5, 2, 1, RANDOM, CONSTANT, 40, 1, 0},
    {"gradient growth, n-step", 6, 2, {9, 14}, 1, 30, 7, 4, 3, 5, GRADIENT, COSINE, 40, 0, 0},
    {"gradient growth in blocks", 6, 2, {9, 14}, 4, 40, 7, 4, 3, 3, GRADIENT, COSINE, 40, 0, 0},
    {"dense", 3, 2, {8, 9}, 4, 100, 7, 5, 2, 1, RANDOM, CONSTANT, 40, 1, 0},
    {"dense single connections", 3, 2, {8, 9}, 1, 100, 7, 5, 1, 2, GRADIENT, CONSTANT, 40, 1, 0},
    {"static", 5, 3, {17, 12}, 1, 20, 7, 0, 2, 1, RANDOM, CONSTANT, 40, 1, 0},
    {"one unit, one transition", 1, 1, {1, 1}, 1, 100, 1, 3, 1, 64, RANDOM, CONSTANT, 1, 1, 0},
    {"one unit in blocks", 1, 1, {1, 1}, 4, 100, 1, 3, 2, 1, GRADIENT, COSINE, 1, 1, 0},
    {"one connection", 4, 2, {5, 6}, 1, 1, 1, 2, 2, 2, RANDOM, CONSTANT, 3, 0, 0},
    {"one block", 4, 2, {5, 6}, 4, 1, 1, 2, 2, 2, GRADIENT, CONSTANT, 3, 0, 0},
    {"a batch in chunks", 3, 1, {7, 6}, 1, 60, 150, 6, 2, 1, GRADIENT, CONSTANT, 40, 1, 0},
    {"a batch in chunks, in blocks", 3, 1, {7, 6}, 4, 60, 150, 6, 2, 1, RANDOM, CONSTANT, 40, 1, 0},
    {"norms", 5, 3, {17, 12}, 1, 50, 7, 5, 2, 1, RANDOM, CONSTANT, 40, 1, NORM},
    {"norms in blocks with a narrow row", 5, 3, {17, 13}, 4, 50, 7, 5, 2, 1, GRADIENT, CONSTANT, 40, 1, NORM | ADAMW},
    {"a batch in chunks, with norms", 3, 1, {7, 6}, 1, 60, 150, 6, 2, 1, RANDOM, COSINE, 40, 1, NORM | SCALED},
    {"scaled magnitudes, deeper critics", 5, 3, {9, 14}, 4, 50, 7, 4, 3, 1, RANDOM, CONSTANT, 40, 0, SCALED | DEEPER},
    {"clipped gradients", 5, 3, {9, 14}, 4, 50, 7, 4, 3, 1, GRADIENT, CONSTANT, 40, 0, CLIPPED | DEEPER},
    {"SAC", 5, 3, {17, 12}, 1, 50, 7, 5, 1, 1, RANDOM, CONSTANT, 40, 1, SAC},
    {"SAC in blocks with a narrow row", 5, 3, {17, 13}, 4, 50, 7, 4, 3, 3, GRADIENT, COSINE, 40, 0, SAC | NORM | SCALED},
    {"CrossQ", 5, 3, {17, 12}, 1, 50, 7, 5, 1, 1, RANDOM, CONSTANT, 40, 1, CROSSQ | BATCH},
    {"CrossQ in blocks with a narrow row", 5, 3, {17, 13}, 4, 50, 7, 4, 3, 3, GRADIENT, COSINE, 40, 0, CROSSQ | BATCH | SCALED},
    {"CrossQ, a batch in chunks", 3, 1, {7, 6}, 1, 60, 150, 6, 2, 1, GRADIENT, CONSTANT, 40, 1, CROSSQ | BATCH | DEEPER},
    {"CrossQ without batch norms", 5, 3, {17, 12}, 1, 50, 7, 5, 2, 1, RANDOM, CONSTANT, 40, 1, CROSSQ | NORM | SCALED},
    {"CrossQ, clipped gradients", 5, 3, {17, 12}, 1, 50, 7, 5, 2, 1, RANDOM, CONSTANT, 40, 1, CROSSQ | NORM | CLIPPED},
    {"everything", 6, 2, {9, 14}, 1, 40, 7, 4, 3, 3, GRADIENT, COSINE, 40, 1, NORM | ADAMW | SCALED | DEEPER | CLIPPED},
};
#define N_CASES (sizeof CASES / sizeof CASES[0])

/* Layers wide enough to be cut into panels of inputs, and for every remainder of a vector. */
static const learner_case WIDE_CASES[] = {
    {"wide", 17, 6, {257, 33}, 1, 60, 100, 2, 2, 1, RANDOM, CONSTANT, 120, 1, 0},
    {"wide in blocks", 17, 6, {257, 33}, 4, 60, 100, 2, 2, 1, RANDOM, CONSTANT, 120, 1, 0},
    {"wide, gradient growth", 3, 1, {31, 258}, 4, 10, 50, 2, 2, 1, GRADIENT, CONSTANT, 120, 0, 0},
    {"wide, CrossQ", 17, 6, {257, 33}, 1, 60, 100, 2, 2, 1, RANDOM, CONSTANT, 120, 1, CROSSQ | BATCH},
    {"wide, with norms", 17, 6, {257, 33}, 1, 60, 100, 2, 2, 1, RANDOM, CONSTANT, 120, 1, NORM | SCALED},
};
#define N_WIDE_CASES (sizeof WIDE_CASES / sizeof WIDE_CASES[0])

static float rows[1 << 16];
static int failures;

#define CHECK(condition, ...)                              \
    do {                                                   \
        if (!(condition)) {                                \
            printf("line %d: %s: ", __LINE__, #condition); \
            printf(__VA_ARGS__);                           \
            printf("\n");                                  \
            failures++;                                    \
        }                                                  \
    } while (0)

/* An arena of exactly so many bytes: what is behind it is forbidden too. */
static unsigned char *new_arena(uint64_t bytes) {
    unsigned char *arena = aligned_alloc(EDGERL_ALIGNMENT, (size_t)bytes);
    if (arena == NULL) {
        abort();
    }
    memset(arena, 0xA5, (size_t)bytes);
    return arena;
}

/* --------------------------------------------------------------------------------------------------------- updates */

typedef struct subject {
    unsigned char *arena;
    edgerl_learner_bytes_of bytes;
    gaps gaps;
    int workspace_apart; /* it lies over no other array */
} subject;

static void allow_all(const subject *s) { ASAN_UNPOISON_MEMORY_REGION(s->arena, s->bytes.total); }

static void forbid_gaps(subject *s) {
    const learner *l = (const void *)s->arena;
    const uint64_t workspace = l->workspace;
    gaps some = s->gaps;
    for (uint32_t i = 0; i < some.count; i++) { /* those under a workspace are in use */
        if (!s->workspace_apart && some.all[i].cursor == some.all[0].cursor && some.all[i].end > workspace) {
            some.all[i].begin = some.all[i].end;
        }
    }
    forbid(s->arena, &some, s->bytes.state);
    arena_in_use = s->workspace_apart ? s->arena : NULL;
}

static void open_subject(subject *s, const edgerl_learner_config *config) {
    s->gaps.count = 0;
    noting = &s->gaps;
    CHECK(edgerl_learner_bytes(config, &s->bytes) == EDGERL_OK, "the configuration");
    noting = NULL;
    s->arena = new_arena(s->bytes.total);
    s->workspace_apart = config->growth == EDGERL_GROWTH_GRADIENT;
    arena_in_use = NULL;
    CHECK(edgerl_learner_begin(config, s->arena, s->bytes.total) == EDGERL_OK, "init");
    forbid_gaps(s);
}

static void close_subject(subject *s) {
    allow_all(s);
    arena_in_use = NULL;
    free(s->arena);
}

/* To another place, as bytes. */
static void move(subject *s) {
    unsigned char *to = new_arena(s->bytes.total);
    allow_all(s);
    memcpy(to, s->arena, s->bytes.total);
    memset(s->arena, 0xA5, s->bytes.total);
    free(s->arena);
    s->arena = to;
    forbid_gaps(s);
}

static void act_now(const subject *s, const learner_case *c, float *action) {
    static const float observation[6] = {0.5f, -0.25f, 0.75f, -1.0f, 0.125f, 1.0f};
    CHECK(edgerl_learner_action(s->arena, observation, action) == EDGERL_OK, "%s", c->name);
}

/* Only the state's bytes, to another place, where it is taken up. */
static void reopen(subject *s, const learner_case *c) {
    unsigned char *to = new_arena(s->bytes.total);
    float before[3] = {0}, now[3] = {0};
    act_now(s, c, before);
    allow_all(s);
    memcpy(to, s->arena, s->bytes.state);
    free(s->arena);
    s->arena = to;
    arena_in_use = NULL;
    CHECK(edgerl_learner_open(s->arena, s->bytes.total, NULL) == EDGERL_OK, "%s", c->name);
    forbid_gaps(s);
    act_now(s, c, now);
    CHECK(memcmp(before, now, sizeof now) == 0, "%s: another action", c->name);
}

static void update(subject *s, const edgerl_replay *replay) {
    int32_t complete = 0;
    arena_in_use = s->workspace_apart ? s->arena : NULL;
    CHECK(edgerl_learner_update(s->arena, replay, UINT64_MAX, &complete) == EDGERL_OK && complete == 1, "a whole update");
}

/* An update in slices, with actions in between, which are those of before; the arena moves. */
static void update_in_slices(subject *s, const learner_case *c, const edgerl_replay *replay) {
    float before[3] = {0}, now[3] = {0};
    act_now(s, c, before);
    const uint32_t most = 1u << random_below(16), published = ((const learner *)(const void *)s->arena)->published;
    for (int32_t complete = 0; !complete;) {
        arena_in_use = s->workspace_apart ? s->arena : NULL;
        const uint64_t work = random_below(64) == 0 ? UINT64_MAX : random_below(most + 1);
        CHECK(edgerl_learner_update(s->arena, replay, work, &complete) == EDGERL_OK, "%s", c->name);
        if (random_below(16) == 0) {
            move(s);
        }
        act_now(s, c, now);
        CHECK(((const learner *)(const void *)s->arena)->published != published || memcmp(before, now, sizeof now) == 0,
              "%s: an action in the midst of an update", c->name);
    }
}

/* All that must be kept, but not the bytes in gaps. */
static int is_same_state(subject *a, subject *b) {
    allow_all(a);
    allow_all(b);
    const int same = memcmp(a->arena, b->arena, a->bytes.state) == 0;
    forbid_gaps(a);
    forbid_gaps(b);
    return same;
}

static uint32_t connections_of(const subject *s, uint32_t network, uint32_t index) {
    const learner *l = (const void *)s->arena;
    return words_at(l, l->layers[network][index].arrays.starts)[l->layers[network][index].rows];
}

static void check_updates(const learner_case *c, int32_t isa, uint32_t lanes, uint32_t updates) {
    const edgerl_learner_config config = config_of(c, isa, lanes);
    const edgerl_replay replay = fill_replay(c, rows);
    subject whole, sliced;
    open_subject(&whole, &config);
    open_subject(&sliced, &config);
    for (uint32_t i = 1; i <= updates; i++) {
        update(&whole, &replay);
        if (random_below(4) == 0) {
            update_in_slices(&sliced, c, &replay);
        } else {
            update(&sliced, &replay);
        }
        if (i % 16 == 0 || i == updates) {
            reopen(&sliced, c);
            reopen(&whole, c);
            CHECK(is_same_state(&whole, &sliced), "%s, isa %d, lanes %u, update %u: slices make a difference", c->name,
                  isa, lanes, i);
        }
    }
    edgerl_learner_progress progress;
    CHECK(edgerl_learner_progress_of(whole.arena, &progress) == EDGERL_OK && progress.updates == updates, "%s", c->name);
    for (uint32_t i = 0; i < config.critic.n_layers; i++) {
        const edgerl_layer_plan *p = &config.critic.layers[i];
        CHECK(connections_of(&whole, EDGERL_CRITIC_2, i) == p->full_blocks + p->narrow_blocks, "%s", c->name);
    }
    close_subject(&whole);
    close_subject(&sliced);
}

typedef struct machine {
    int32_t isa;
    uint32_t lanes;
} machine;

static const machine MACHINES[] = {
    {EDGERL_ISA_NAIVE, 1},   {EDGERL_ISA_NAIVE, 16},   {EDGERL_ISA_BASELINE, 4},
    {EDGERL_ISA_AVX2, 8},    {EDGERL_ISA_AVX512, 16},  {EDGERL_ISA_AVX512, 4},
    {EDGERL_ISA_AVX2, 16},   {EDGERL_ISA_AVX512, 1},
};
#ifdef EDGERL_DOUBLE
#define N_MACHINES 2u /* there are naive kernels only */
#else
#define N_MACHINES (sizeof MACHINES / sizeof MACHINES[0])
#endif

static int test_updates(void) {
    gap_bytes = EDGERL_ALIGNMENT;
    for (uint32_t i = 0; i < N_CASES; i++) {
        for (uint32_t m = 0; m < N_MACHINES; m++) {
            /* Hundreds of each configuration; the larger ones share them among the machines. */
            check_updates(&CASES[i], MACHINES[m].isa, MACHINES[m].lanes, CASES[i].batch > 10 ? 40 : 110);
        }
    }
    return failures != 0;
}

/* --------------------------------------------------------------------------------------------------------- kernels */

static int are_near(real a, real b) {
    const real difference = a < b ? b - a : a - b, size = a < 0 ? -a : a;
    return difference <= (real)1e-5 * (1 + size);
}

/* Words first … last - 1 of two arenas: the same bits, or two numbers that are near. */
static uint64_t first_difference(const unsigned char *a, const unsigned char *b, uint64_t first, uint64_t last) {
    for (uint64_t at_byte = first; at_byte < last; at_byte += sizeof(real)) {
        if (at_byte % 512 == 0 && last - at_byte >= 512 && memcmp(a + at_byte, b + at_byte, 512) == 0) {
            at_byte += 512 - sizeof(real);
            continue;
        }
        real x, y;
        memcpy(&x, a + at_byte, sizeof x);
        memcpy(&y, b + at_byte, sizeof y);
        if (memcmp(&x, &y, sizeof x) != 0 && !are_near(x, y)) {
            return at_byte;
        }
    }
    return last;
}

/* Whether a topology may have changed between two steps of an update: its workspace is left as it comes. */
static int is_topological(const step_of_update *steps, uint32_t from, uint32_t to) {
    for (uint32_t i = from; i <= to; i++) {
        if (steps[i].operations[0] == SELECT_DROP || steps[i].operations[0] == SOFT_UPDATE) {
            return 1;
        }
    }
    return to < from;
}

/* The same slices in two arenas, naive and with other kernels, the second being made equal to the first before each. */
static void check_kernels(const learner_case *c, int32_t isa, uint32_t lanes, uint32_t updates, uint64_t work) {
    random_state = 4; /* where a gradient is nearly 0, rounding decides the sign of Adam's first step: here none is */
    const edgerl_learner_config config = config_of(c, EDGERL_ISA_NAIVE, lanes);
    const edgerl_replay replay = fill_replay(c, rows);
    subject naive, other;
    open_subject(&naive, &config);
    open_subject(&other, &config);
    const learner *l = (const void *)naive.arena;
    learner *k = (void *)other.arena;
    const step_of_update *steps = update_of(&config).steps;
    while (l->progress.updates < updates) {
        int32_t complete;
        const uint32_t from = l->place.step;
        const uint64_t slice = 1 + random_word() % work;
        memcpy(other.arena, naive.arena, naive.bytes.total);
        k->config.isa = isa;
        (void)edgerl_learner_update(naive.arena, &replay, slice, &complete);
        (void)edgerl_learner_update(other.arena, &replay, slice, &complete);
        CHECK(memcmp(&l->place, &k->place, sizeof l->place) == 0, "%s: the update goes another way", c->name);
        const uint64_t first = round_up(sizeof(learner), EDGERL_ALIGNMENT);
        const uint64_t last = is_topological(steps, from, l->place.step) ? l->workspace : l->bytes.total;
        const uint64_t found = first_difference(naive.arena, other.arena, first, last);
        CHECK(found == last, "%s, isa %d, lanes %u, update %u, step %u (operation %d) to %u: byte %u of %u", c->name,
              isa, lanes, (uint32_t)l->progress.updates, from, steps[from].operations[0], l->place.step,
              (uint32_t)found, (uint32_t)last);
        if (failures > 10) {
            break;
        }
    }
    close_subject(&naive);
    close_subject(&other);
}

static int test_kernels(void) {
    for (uint32_t m = 2; m < N_MACHINES; m++) {
        for (uint32_t i = 0; i < N_CASES; i++) {
            check_kernels(&CASES[i], MACHINES[m].isa, MACHINES[m].lanes, 13, 2000);
        }
        for (uint32_t i = 0; i < N_WIDE_CASES && MACHINES[m].lanes > 1; i++) {
            check_kernels(&WIDE_CASES[i], MACHINES[m].isa, MACHINES[m].lanes, 2, 600000);
        }
    }
    for (uint32_t batch = 1; batch <= 144; batch += 3) { /* every number of vectors in a chunk, and every padding */
        for (uint32_t m = 2; m < 5; m++) {
            learner_case c = CASES[batch % 2];
            c.batch = batch;
            check_kernels(&c, MACHINES[m].isa, MACHINES[m].lanes, 2, 100000);
        }
    }
    return failures != 0;
}

/* ------------------------------------------------------------------------------------------------------- arguments */

static void expect_refusal(const edgerl_learner_config *config, int32_t expected, const char *what) {
    static const edgerl_learner_bytes_of untouched = {1, 2, 3};
    edgerl_learner_bytes_of bytes = untouched;
    const int32_t status = edgerl_learner_bytes(config, &bytes);
    CHECK(status == expected, "%s: status %d", what, status);
    CHECK(memcmp(&bytes, &untouched, sizeof bytes) == 0, "%s: something was written", what);
    unsigned char *arena = new_arena(1 << 16), *kept = new_arena(1 << 16);
    CHECK(edgerl_learner_begin(config, arena, 1 << 16) == expected, "%s", what);
    CHECK(memcmp(arena, kept, 1 << 16) == 0, "%s: something was written", what);
    free(arena);
    free(kept);
}

#define REFUSED(member, value, status)                \
    do {                                              \
        edgerl_learner_config wrong = right;          \
        wrong.member = (value);                       \
        expect_refusal(&wrong, status, #member " = " #value); \
    } while (0)

static void check_configurations(void) {
    const edgerl_learner_config right = config_of(&CASES[1], EDGERL_ISA_BASELINE, 4);
    const double not_a_number = (double)__builtin_nanf("");
    REFUSED(n_observations, 0, EDGERL_BAD_SHAPE);
    REFUSED(n_observations, EDGERL_LEARNER_UNITS + 1, EDGERL_BAD_SHAPE);
    REFUSED(n_observations, UINT32_MAX, EDGERL_BAD_SHAPE);
    REFUSED(n_observations, 6, EDGERL_BAD_SHAPE);
    REFUSED(n_actions, 0, EDGERL_BAD_SHAPE);
    REFUSED(n_actions, EDGERL_LEARNER_UNITS, EDGERL_BAD_SHAPE);
    REFUSED(n_actions, UINT32_MAX, EDGERL_BAD_SHAPE);
    REFUSED(n_actions, 2, EDGERL_BAD_SHAPE);
    REFUSED(actor.n_layers, 0, EDGERL_BAD_SHAPE);
    REFUSED(critic.n_layers, 0, EDGERL_BAD_SHAPE);
    REFUSED(actor.n_layers, 1, EDGERL_BAD_SHAPE);
    REFUSED(critic.n_layers, 1, EDGERL_BAD_SHAPE);
    REFUSED(actor.n_layers, 2, EDGERL_BAD_SHAPE);
    REFUSED(critic.n_layers, 2, EDGERL_BAD_SHAPE);
    REFUSED(actor.n_layers, EDGERL_LEARNER_LAYERS + 1, EDGERL_BAD_SHAPE);
    REFUSED(critic.n_layers, EDGERL_LEARNER_LAYERS + 1, EDGERL_BAD_SHAPE);
    REFUSED(batch, 0, EDGERL_BAD_ARGUMENT);
    REFUSED(batch, 65537, EDGERL_BAD_ARGUMENT);
    REFUSED(policy_delay, 0, EDGERL_BAD_ARGUMENT);
    REFUSED(n_step, 0, EDGERL_BAD_ARGUMENT);
    REFUSED(n_step, 65, EDGERL_BAD_ARGUMENT);
    REFUSED(lanes, 0, EDGERL_BAD_ARGUMENT);
    REFUSED(lanes, 2, EDGERL_BAD_ARGUMENT);
    REFUSED(lanes, 32, EDGERL_BAD_ARGUMENT);
    REFUSED(growth, -1, EDGERL_BAD_ARGUMENT);
    REFUSED(growth, 2, EDGERL_BAD_ARGUMENT);
    REFUSED(drop_criterion, -1, EDGERL_BAD_ARGUMENT);
    REFUSED(drop_criterion, 2, EDGERL_BAD_ARGUMENT);
    REFUSED(optimiser, -1, EDGERL_BAD_ARGUMENT);
    REFUSED(optimiser, 2, EDGERL_BAD_ARGUMENT);
    REFUSED(gradient_clip, -1, EDGERL_BAD_ARGUMENT);
    REFUSED(gradient_clip, not_a_number, EDGERL_BAD_ARGUMENT);
    REFUSED(gradient_clip, 1e39, EDGERL_BAD_ARGUMENT);
    REFUSED(algorithm, -1, EDGERL_BAD_ARGUMENT);
    REFUSED(algorithm, 3, EDGERL_BAD_ARGUMENT);
    REFUSED(algorithm, EDGERL_SAC, EDGERL_BAD_SHAPE); /* whose actor gives twice as many numbers */
    REFUSED(algorithm, EDGERL_CROSSQ, EDGERL_BAD_SHAPE);
    REFUSED(initial_log_temperature, not_a_number, EDGERL_BAD_ARGUMENT);
    REFUSED(initial_log_temperature, 101, EDGERL_BAD_ARGUMENT);
    REFUSED(target_entropy, 2e6, EDGERL_BAD_ARGUMENT);
    REFUSED(first_moment_decay, 1, EDGERL_BAD_ARGUMENT);
    REFUSED(first_moment_decay, -0.1, EDGERL_BAD_ARGUMENT);
    REFUSED(actor.norm, EDGERL_NORM_LAYER, EDGERL_BAD_ARGUMENT);
    REFUSED(critic.norm, -1, EDGERL_BAD_ARGUMENT);
    REFUSED(critic.norm, EDGERL_NORM_BATCH, EDGERL_BAD_ARGUMENT); /* of CrossQ alone */
    REFUSED(actor.norm, EDGERL_NORM_BATCH, EDGERL_BAD_ARGUMENT);
    REFUSED(critic.norm, 3, EDGERL_BAD_ARGUMENT);
    REFUSED(critic.evolves, 2, EDGERL_BAD_ARGUMENT);
    REFUSED(drop_schedule, -1, EDGERL_BAD_ARGUMENT);
    REFUSED(drop_schedule, 2, EDGERL_BAD_ARGUMENT);
    REFUSED(discount, 1.01, EDGERL_BAD_ARGUMENT);
    REFUSED(discount, not_a_number, EDGERL_BAD_ARGUMENT);
    REFUSED(soft_update, -0.01, EDGERL_BAD_ARGUMENT);
    REFUSED(soft_update, not_a_number, EDGERL_BAD_ARGUMENT);
    REFUSED(actor.learning_rate, 2, EDGERL_BAD_ARGUMENT);
    REFUSED(critic.learning_rate, 2, EDGERL_BAD_ARGUMENT);
    REFUSED(actor.learning_rate, not_a_number, EDGERL_BAD_ARGUMENT);
    REFUSED(critic.learning_rate, not_a_number, EDGERL_BAD_ARGUMENT);
    REFUSED(weight_decay, -1, EDGERL_BAD_ARGUMENT);
    REFUSED(target_noise, 11, EDGERL_BAD_ARGUMENT);
    REFUSED(target_noise_clip, -1, EDGERL_BAD_ARGUMENT);
    REFUSED(drop_fraction, 1.5, EDGERL_BAD_ARGUMENT);
    REFUSED(drop_fraction, not_a_number, EDGERL_BAD_ARGUMENT);
    REFUSED(actor.layers[0].block, 0, EDGERL_BAD_ARGUMENT);
    REFUSED(critic.layers[1].block, 2, EDGERL_BAD_ARGUMENT);
    REFUSED(actor.layers[0].n_inputs, 4, EDGERL_BAD_SHAPE);
    REFUSED(actor.layers[0].n_outputs, 0, EDGERL_BAD_SHAPE);
    REFUSED(actor.layers[1].n_inputs, 16, EDGERL_BAD_SHAPE);
    REFUSED(critic.layers[1].n_outputs, 65536, EDGERL_BAD_SHAPE);
    REFUSED(critic.layers[2].n_outputs, 2, EDGERL_BAD_SHAPE);
    REFUSED(actor.layers[0].full_blocks, 21, EDGERL_BAD_SHAPE);
    REFUSED(actor.layers[0].full_blocks, UINT32_MAX, EDGERL_BAD_SHAPE);
    REFUSED(actor.layers[0].narrow_blocks, 6, EDGERL_BAD_SHAPE);
    REFUSED(actor.layers[0].narrow_blocks, UINT32_MAX, EDGERL_BAD_SHAPE);
    edgerl_learner_config empty = right;
    empty.actor.layers[1].full_blocks = empty.actor.layers[1].narrow_blocks = 0;
    expect_refusal(&empty, EDGERL_BAD_SHAPE, "a layer without connections");
    expect_refusal(NULL, EDGERL_BAD_ARGUMENT, "no configuration");
    CHECK(edgerl_learner_bytes(&right, NULL) == EDGERL_BAD_ARGUMENT, "nowhere to write");
}

static void check_arenas(void) {
    const edgerl_learner_config config = config_of(&CASES[0], EDGERL_ISA_BASELINE, 4);
    edgerl_learner_bytes_of bytes;
    CHECK(edgerl_learner_bytes(&config, &bytes) == EDGERL_OK, "bytes");
    unsigned char *arena = new_arena(bytes.total + 64), *kept = new_arena(bytes.total + 64);
    CHECK(edgerl_learner_begin(&config, NULL, bytes.total) == EDGERL_BAD_ARGUMENT, "no arena");
    CHECK(edgerl_learner_begin(&config, arena + 4, bytes.total) == EDGERL_ARENA_MISALIGNED, "alignment");
    CHECK(edgerl_learner_open(NULL, bytes.total, NULL) == EDGERL_BAD_ARGUMENT, "no arena");
    CHECK(edgerl_learner_open(arena + 4, bytes.total, NULL) == EDGERL_ARENA_MISALIGNED, "alignment");
    CHECK(edgerl_learner_open(arena, 0, NULL) == EDGERL_ARENA_TOO_SMALL, "nothing");
    CHECK(edgerl_learner_open(arena, bytes.total, NULL) == EDGERL_ARENA_INVALID, "no learner");
    CHECK(memcmp(arena, kept, bytes.total + 64) == 0, "something was written");
    CHECK(edgerl_learner_begin(&config, arena, bytes.total - 1) == EDGERL_ARENA_TOO_SMALL, "one byte");
    edgerl_learner_config nothing;
    CHECK(edgerl_learner_config_of(arena, &nothing) == EDGERL_ARENA_INVALID, "half a learner");
    free(arena);
    free(kept);
}

/* Each function with a null where it takes a pointer, and with an arena that holds no learner. */
static void check_calls(void) {
    const edgerl_learner_config config = config_of(&CASES[0], EDGERL_ISA_BASELINE, 4);
    const edgerl_replay replay = fill_replay(&CASES[0], rows);
    const float observation[5] = {0};
    float action[3];
    edgerl_learner_config c;
    edgerl_learner_layer y;
    edgerl_learner_progress p;
    int32_t complete = 7;
    subject s;
    open_subject(&s, &config);
    unsigned char *kept = new_arena(s.bytes.total);
    memcpy(kept, s.arena, s.bytes.total);
    for (int which = 0; which < 2; which++) {
        void *no = which ? new_arena(s.bytes.total) : NULL;
        CHECK(edgerl_learner_config_of(no, &c) != EDGERL_OK, "no learner");
        CHECK(edgerl_learner_layer_of(no, 0, 0, &y) != EDGERL_OK, "no learner");
        CHECK(edgerl_learner_progress_of(no, &p) != EDGERL_OK, "no learner");
        CHECK(edgerl_learner_set_progress(no, &p) != EDGERL_OK, "no learner");
        CHECK(edgerl_learner_update(no, &replay, 1, &complete) != EDGERL_OK && complete == 7, "no learner");
        CHECK(edgerl_learner_action(no, observation, action) != EDGERL_OK, "no learner");
        free(no);
    }
    CHECK(edgerl_learner_config_of(s.arena, NULL) != EDGERL_OK, "null");
    CHECK(edgerl_learner_layer_of(s.arena, 0, 0, NULL) != EDGERL_OK, "null");
    CHECK(edgerl_learner_layer_of(s.arena, 3, 0, &y) == EDGERL_BAD_ARGUMENT, "network");
    CHECK(edgerl_learner_layer_of(s.arena, 0, 3, &y) == EDGERL_BAD_ARGUMENT, "layer");
    CHECK(edgerl_learner_progress_of(s.arena, NULL) != EDGERL_OK, "null");
    CHECK(edgerl_learner_set_progress(s.arena, NULL) != EDGERL_OK, "null");
    CHECK(edgerl_learner_action(s.arena, NULL, action) != EDGERL_OK, "null");
    CHECK(edgerl_learner_action(s.arena, observation, NULL) != EDGERL_OK, "null");
    CHECK(edgerl_learner_update(s.arena, &replay, 1, NULL) != EDGERL_OK, "null");
    CHECK(memcmp(s.arena, kept, s.bytes.total) == 0, "something was written");
    free(kept);
    close_subject(&s);
}

static void check_replays(void) {
    const edgerl_learner_config config = config_of(&CASES[0], EDGERL_ISA_BASELINE, 4);
    const edgerl_replay right = fill_replay(&CASES[0], rows);
    edgerl_replay wrong[11];
    subject s;
    open_subject(&s, &config);
    unsigned char *kept = new_arena(s.bytes.total);
    memcpy(kept, s.arena, s.bytes.total);
    for (uint32_t i = 0; i < 11; i++) {
        wrong[i] = right;
    }
    wrong[0].rows = NULL;
    wrong[1].count = 0;
    wrong[2].capacity = 0;
    wrong[3].capacity = right.room + 1;
    wrong[4].capacity = wrong[4].room = (uint64_t)UINT32_MAX + 1;
    wrong[5].mean = rows;
    wrong[6].scale = rows;
    wrong[7].format = 2;
    wrong[8].stride = 8;
    wrong[9].stride = 4 * 64 + 2;
    wrong[10].rows = (const char *)rows + 2;
    int32_t complete = 7;
    for (uint32_t i = 0; i < 11; i++) {
        CHECK(edgerl_learner_update(s.arena, &wrong[i], 1, &complete) == EDGERL_BAD_ARGUMENT, "replay %u", i);
    }
    CHECK(edgerl_learner_update(s.arena, NULL, 1, &complete) == EDGERL_BAD_ARGUMENT, "no replay");
    CHECK(complete == 7 && memcmp(s.arena, kept, s.bytes.total) == 0, "something was written");
    /* Once the batch is drawn, no replay is needed. */
    CHECK(edgerl_learner_update(s.arena, &right, 1, &complete) == EDGERL_OK && complete == 0, "the first slice");
    CHECK(edgerl_learner_update(s.arena, NULL, UINT64_MAX, &complete) == EDGERL_OK && complete == 1, "the rest");
    free(kept);
    close_subject(&s);
}

/* An update that is under way cannot be given another number: what it does depends on it. */
static void check_counters(void) {
    const edgerl_learner_config config = config_of(&CASES[0], EDGERL_ISA_BASELINE, 4);
    const edgerl_replay replay = fill_replay(&CASES[0], rows);
    edgerl_learner_progress p;
    int32_t complete;
    subject s;
    open_subject(&s, &config);
    CHECK(edgerl_learner_progress_of(s.arena, &p) == EDGERL_OK, "progress");
    p.updates = 3;
    CHECK(edgerl_learner_set_progress(s.arena, &p) == EDGERL_OK, "between updates");
    CHECK(edgerl_learner_update(s.arena, &replay, 1, &complete) == EDGERL_OK && !complete, "a slice");
    p.critic_loss_sum = 0;
    CHECK(edgerl_learner_set_progress(s.arena, &p) == EDGERL_OK, "sums may be set at any time");
    p.updates = 4;
    CHECK(edgerl_learner_set_progress(s.arena, &p) == EDGERL_BUSY, "in the midst of an update");
    p.updates = 3;
    p.evolution_is_due = 1;
    CHECK(edgerl_learner_set_progress(s.arena, &p) == EDGERL_BUSY, "in the midst of an update");
    CHECK(edgerl_learner_update(s.arena, &replay, UINT64_MAX, &complete) == EDGERL_OK && complete, "the rest");
    p.updates = EDGERL_LEARNER_UPDATES + 1;
    CHECK(edgerl_learner_set_progress(s.arena, &p) == EDGERL_BAD_ARGUMENT, "too many");
    p.updates = 4;
    p.evolution_is_due = 2;
    CHECK(edgerl_learner_set_progress(s.arena, &p) == EDGERL_BAD_ARGUMENT, "due twice");
    close_subject(&s);
}

/* An arena that was refused holds no learner: no call takes it. */
static void check_refused_arenas(void) {
    const edgerl_learner_config config = config_of(&CASES[0], EDGERL_ISA_BASELINE, 4);
    const float observation[5] = {0};
    float action[3];
    for (uint32_t which = 0; which < 4; which++) {
        subject s;
        open_subject(&s, &config);
        learner *l = (void *)s.arena;
        const int32_t expected[4] = {EDGERL_ARENA_INVALID, EDGERL_ARENA_INVALID, EDGERL_BUSY, EDGERL_NOT_FINITE};
        l->version += which == 0;
        l->sizeof_real += which == 1;
        l->place.item += which == 2;
        reals_at(l, l->layers[0][0].arrays.weight)[0] /= which == 3 ? 0 : 1;
        CHECK(edgerl_learner_open(s.arena, s.bytes.total, NULL) == expected[which], "%u", which);
        CHECK(edgerl_learner_action(s.arena, observation, action) == EDGERL_ARENA_INVALID, "%u", which);
        close_subject(&s);
    }
}

/* The rarest draws: where a logarithm is 0, its root is 0, whatever its sign. */
static void check_numbers(void) {
    CHECK(square_root((real)-0.0) == 0 && square_root(0) == 0, "the root of 0");
    real a, b;
    normal_pair(UINT32_MAX, UINT32_MAX, &a, &b);
    CHECK(are_near(a, 0) && are_near(b, 0), "%g %g", (double)a, (double)b);
    normal_pair(0, 0, &a, &b);
    CHECK(are_near(a, (real)5.768108) && are_near(b, 0), "%g %g", (double)a, (double)b);
}

/* The configuration in the beginning of a state: of each length, and nothing behind it is looked at. */
static void check_config_in(void) {
    const edgerl_learner_config config = config_of(&CASES[1], EDGERL_ISA_BASELINE, 4);
    edgerl_learner_config found, kept;
    memset(&found, 0x5A, sizeof found);
    kept = found;
    subject s;
    open_subject(&s, &config);
    allow_all(&s);
    for (size_t bytes = 0; bytes <= sizeof(learner) + 128; bytes += bytes < 64 || bytes + 8 > sizeof(learner) ? 1 : 61) {
        unsigned char *whole = new_arena(s.bytes.state), *part = whole + s.bytes.state / 64 * 64 - (bytes + 63) / 64 * 64;
        memcpy(part, s.arena, bytes);
        ASAN_POISON_MEMORY_REGION(part + bytes, (size_t)(whole + s.bytes.state - part) - bytes);
        const int32_t status = edgerl_learner_config_in(part, bytes, &found);
        ASAN_UNPOISON_MEMORY_REGION(whole, s.bytes.state);
        if (bytes < sizeof(learner)) {
            CHECK(status == EDGERL_ARENA_TOO_SMALL, "%u bytes: status %d", (uint32_t)bytes, status);
            CHECK(memcmp(&found, &kept, sizeof found) == 0, "%u bytes: something was written", (uint32_t)bytes);
        } else {
            CHECK(status == EDGERL_OK && memcmp(&found, &config, sizeof found) == 0, "%u bytes", (uint32_t)bytes);
        }
        free(whole);
    }
    found = kept;
    CHECK(edgerl_learner_config_in(NULL, s.bytes.state, &found) == EDGERL_BAD_ARGUMENT, "no state");
    CHECK(edgerl_learner_config_in(s.arena, s.bytes.state, NULL) == EDGERL_BAD_ARGUMENT, "nowhere to write");
    CHECK(edgerl_learner_config_in(s.arena + 4, s.bytes.state - 4, &found) == EDGERL_ARENA_MISALIGNED, "alignment");
    learner *l = (void *)s.arena;
    l->place.item = 1;
    CHECK(edgerl_learner_config_in(s.arena, s.bytes.state, &found) == EDGERL_BUSY, "in the midst of an update");
    l->place.item = 0;
    l->config.batch = 0;
    CHECK(edgerl_learner_config_in(s.arena, s.bytes.state, &found) == EDGERL_BAD_ARGUMENT, "no batch");
    l->magic = 0;
    CHECK(edgerl_learner_config_in(s.arena, s.bytes.state, &found) == EDGERL_ARENA_INVALID, "no learner");
    CHECK(memcmp(&found, &kept, sizeof found) == 0, "something was written");
    close_subject(&s);
}

/* The state's bytes of `from` in an arena that `config` needs; the status of taking it up. */
static int32_t open_with(subject *to, const subject *from, const edgerl_learner_config *config) {
    edgerl_learner_bytes_of bytes = {0};
    (void)edgerl_learner_bytes(config, &bytes);
    to->bytes = bytes;
    to->gaps.count = 0;
    to->workspace_apart = 0;
    to->arena = new_arena(bytes.total > from->bytes.total ? bytes.total : from->bytes.total);
    memcpy(to->arena, from->arena, from->bytes.state);
    return edgerl_learner_open(to->arena, bytes.total, config);
}

/* Words of all that is learnt. */
static uint64_t first_of_state(void) { return round_up(sizeof(learner), EDGERL_ALIGNMENT); }

/* The same state on another machine, and with another configuration. */
static void check_open_with(void) {
    const uint64_t gap_bytes_before = gap_bytes;
    gap_bytes = 0;
    for (uint32_t i = 0; i < N_CASES; i++) {
        const edgerl_learner_config own = config_of(&CASES[i], EDGERL_ISA_NAIVE, 1);
        const edgerl_replay replay = fill_replay(&CASES[i], rows);
        for (uint32_t m = 0; m < N_MACHINES; m++) {
            edgerl_learner_config other = own, found;
            other.isa = MACHINES[m].isa;
            other.lanes = MACHINES[m].lanes;
            subject a, b;
            open_subject(&a, &own);
            for (uint32_t k = 0; k < 3; k++) {
                update(&a, &replay);
            }
            CHECK(open_with(&b, &a, &other) == EDGERL_OK, "%s, lanes %u", CASES[i].name, other.lanes);
            CHECK(edgerl_learner_config_of(b.arena, &found) == EDGERL_OK && memcmp(&found, &other, sizeof found) == 0, "-");
            CHECK(memcmp(a.arena + first_of_state(), b.arena + first_of_state(), a.bytes.state - first_of_state()) == 0,
                  "%s, lanes %u: another state", CASES[i].name, other.lanes);
            float before[3] = {0}, now[3] = {0};
            act_now(&a, &CASES[i], before);
            act_now(&b, &CASES[i], now);
            CHECK(memcmp(before, now, sizeof now) == 0, "%s, lanes %u: another action", CASES[i].name, other.lanes);
            update(&a, &replay);
            update(&b, &replay);
            const uint64_t end = a.bytes.state, at_byte = first_difference(a.arena, b.arena, first_of_state(), end);
            CHECK(at_byte == end, "%s, lanes %u: byte %u", CASES[i].name, other.lanes, (uint32_t)at_byte);
            close_subject(&a);
            close_subject(&b);
        }
    }
    const edgerl_learner_config own = config_of(&CASES[1], EDGERL_ISA_NAIVE, 1);
    edgerl_learner_config wrong[9];
    for (uint32_t i = 0; i < 9; i++) {
        wrong[i] = own;
    }
    wrong[0].actor.layers[0].full_blocks--;
    wrong[1].critic.layers[1].narrow_blocks--;
    wrong[2].actor.layers[0].block = wrong[2].actor.layers[1].block = 1;
    wrong[2].actor.layers[0].narrow_blocks = wrong[2].actor.layers[1].narrow_blocks = 0;
    wrong[3].actor.n_layers = 2;
    wrong[4].n_observations++;
    wrong[5].actor.layers[1].n_outputs = wrong[5].actor.layers[2].n_inputs = 12;
    wrong[6].critic.n_layers = UINT32_MAX;
    wrong[7].batch = 0;
    wrong[8].critic.norm = EDGERL_NORM_LAYER;
    for (uint32_t i = 0; i < 9; i++) {
        subject a, b;
        open_subject(&a, &own);
        allow_all(&a);
        const int32_t status = open_with(&b, &a, &wrong[i]), expected = i == 7 ? EDGERL_BAD_ARGUMENT : EDGERL_BAD_SHAPE;
        float action[3];
        static const float observation[5];
        CHECK(edgerl_learner_open(b.arena, a.bytes.total, &wrong[i]) != EDGERL_OK, "configuration %u, once more", i);
        CHECK(b.bytes.total == 0 || status == expected, "configuration %u: status %d", i, status);
        CHECK(edgerl_learner_action(b.arena, observation, action) != EDGERL_OK || b.bytes.total == 0, "configuration %u", i);
        memcpy(b.arena, a.arena, a.bytes.state);
        CHECK(edgerl_learner_open(b.arena, a.bytes.total, &wrong[i]) == expected, "configuration %u", i);
        CHECK(edgerl_learner_action(b.arena, observation, action) == EDGERL_ARENA_INVALID, "configuration %u", i);
        free(b.arena);
        close_subject(&a);
    }
    edgerl_learner_config larger = own;
    larger.lanes = 16;
    subject a;
    open_subject(&a, &own);
    allow_all(&a);
    ((learner *)(void *)a.arena)->config.critic.n_layers = UINT32_MAX;
    CHECK(edgerl_learner_open(a.arena, a.bytes.total, NULL) == EDGERL_BAD_SHAPE, "more layers than there can be");
    CHECK(edgerl_learner_begin(&own, a.arena, a.bytes.total) == EDGERL_OK, "init");
    CHECK(edgerl_learner_open(a.arena, a.bytes.total, &larger) == EDGERL_ARENA_TOO_SMALL, "an arena of other lanes");
    close_subject(&a);
    gap_bytes = gap_bytes_before;
}

/* What a binary16 number is, in double precision and by its definition. */
static double value_of_half(uint32_t half) {
    const uint32_t exponent = half >> 10 & 31u, mantissa = half & 1023u;
    double value = exponent == 0 ? mantissa : mantissa + 1024.0;
    for (uint32_t e = exponent == 0 ? 1 : exponent; e > 25; e--) {
        value *= 2;
    }
    for (uint32_t e = exponent == 0 ? 1 : exponent; e < 25; e++) {
        value /= 2;
    }
    return half & 0x8000u ? -value : value;
}

/* Rows of halves, and rows with gaps between them: the same updates as rows of floats that hold the same numbers. */
static void check_halves(void) {
    for (uint32_t half = 0; half < 65536; half++) {
        const float f = float_of_half((uint16_t)half);
        if ((half >> 10 & 31u) == 31) {
            CHECK(half & 1023u ? f != f : (f - f != 0 && (f < 0) == (half >> 15)), "half %x", half);
        } else {
            CHECK((double)f == value_of_half(half) && !!__builtin_signbit(f) == half >> 15, "half %x", half);
        }
    }
    static float apart[1 << 16];
    static uint16_t halves[1 << 16];
    static const float mean[6] = {0.5f, -0.25f, 0, 1, 0.125f, -3}, scale[6] = {2, 0.5f, 1, 0.25f, 4, 1};
    for (uint32_t i = 0; i < 4; i++) {
        const learner_case *c = &CASES[i];
        const edgerl_learner_config config = config_of(c, EDGERL_ISA_BASELINE, 4);
        edgerl_replay replays[4]; /* floats, with gaps, halves, and normalised beforehand */
        replays[0] = fill_replay(c, rows);
        const uint32_t numbers = 2 * c->n + c->m, width = numbers + 2, padded_numbers = numbers + numbers % 2;
        const uint32_t gap = 5 + i, float_stride = width + gap, half_stride = padded_numbers + 4 + 2 * gap;
        CHECK(replays[0].room * float_stride <= sizeof apart / sizeof apart[0] &&
              replays[0].room * half_stride <= sizeof halves / sizeof halves[0], "%s", c->name);
        memset(apart, 0xFF, sizeof apart);
        memset(halves, 0xFF, sizeof halves);
        for (uint32_t row = 0; row < replays[0].room; row++) {
            float *own = rows + (size_t)row * width;
            for (uint32_t k = 0; k < numbers; k++) { /* of all magnitudes below 1, denormals too */
                const uint16_t half = (uint16_t)(random_below(0x3C01) | random_below(2) << 15);
                halves[row * half_stride + k] = half;
                own[k] = (float)value_of_half(half);
            }
            memcpy(halves + row * half_stride + padded_numbers, own + numbers, 2 * sizeof(float));
            memcpy(apart + row * float_stride, own, width * sizeof(float));
        }
        replays[1] = replays[2] = replays[3] = replays[0];
        replays[1].rows = apart;
        replays[1].stride = (uint32_t)(float_stride * sizeof(float));
        replays[2].rows = halves;
        replays[2].stride = (uint32_t)(half_stride * sizeof(uint16_t));
        replays[2].format = EDGERL_ROWS_FLOAT16;
        static float normalised[1 << 16];
        memcpy(normalised, rows, sizeof normalised);
        for (uint32_t k = 0; i % 2 && k < replays[0].room * c->n; k++) {
            const uint32_t of = k % c->n, now = k / c->n * width + of, next = now + c->n + c->m;
            normalised[now] = (rows[now] - mean[of]) * scale[of];
            normalised[next] = (rows[next] - mean[of]) * scale[of];
        }
        replays[3].rows = normalised;
        subject subjects[4];
        for (uint32_t r = 0; r < 4; r++) {
            replays[r].mean = i % 2 && r < 3 ? mean : NULL;
            replays[r].scale = i % 2 && r < 3 ? scale : NULL;
            open_subject(&subjects[r], &config);
            for (uint32_t k = 0; k < 9; k++) {
                update(&subjects[r], &replays[r]);
            }
        }
        for (uint32_t r = 1; r < 4; r++) {
            CHECK(is_same_state(&subjects[0], &subjects[r]), "%s, rows %u: another update", c->name, r);
            CHECK(((const learner *)(const void *)subjects[r].arena)->progress.abandoned == 0, "%s", c->name);
        }
        for (uint32_t r = 0; r < 4; r++) {
            close_subject(&subjects[r]);
        }
    }
}

/* The bytes of one network's layers: weights, moments, targets and topologies. */
static const unsigned char *network_at(const subject *s, uint32_t network, uint64_t *bytes) {
    const learner *l = (const void *)s->arena;
    const uint64_t begin = l->layers[network][0].arrays.starts;
    *bytes = (network + 1 < NETWORKS ? l->layers[network + 1][0].arrays.starts : s->bytes.state) - begin;
    return s->arena + begin;
}

static int is_same_network(const subject *a, const subject *b, uint32_t network) {
    uint64_t bytes;
    const unsigned char *own = network_at(a, network, &bytes);
    return memcmp(own, network_at(b, network, &bytes), bytes) == 0;
}

/* An update that meets a number that is not finite changes nothing from there on, is counted, and is followed by others. */
static void check_abandoned(void) {
    static const float BAD[] = {__builtin_nanf(""), __builtin_inff(), -__builtin_inff(), 3e38f};
    const uint64_t gap_bytes_before = gap_bytes;
    gap_bytes = 0;
    for (uint32_t i = 0; i < 7; i++) {
        const learner_case *c = &CASES[i];
        const edgerl_learner_config config = config_of(c, EDGERL_ISA_AVX512, 16);
        const edgerl_replay replay = fill_replay(c, rows);
        const uint32_t width = 2 * c->n + c->m + 2, count = (uint32_t)replay.room * width;
        static float good[1 << 16];
        memcpy(good, rows, sizeof good);
        for (uint32_t which = 0; which < 4 * 4; which++) {
            /* Reward, x, action, next x. An infinite input may end where ReLU cuts it off: then it may be learnt from. */
            const uint32_t first[4] = {width - 2, 0, c->n, c->n + c->m}, numbers[4] = {1, c->n, c->m, c->n};
            const int must_be_abandoned = which / 4 == 0 || which % 4 == 0;
            subject whole, sliced, before;
            open_subject(&whole, &config);
            open_subject(&sliced, &config);
            open_subject(&before, &config);
            for (uint32_t k = 0; k < 3; k++) { /* the next one is the actor's, too */
                update(&whole, &replay);
                update(&sliced, &replay);
                update(&before, &replay);
            }
            for (uint32_t k = 0; k < count; k += width) {
                for (uint32_t from = first[which % 4]; from < first[which % 4] + numbers[which % 4]; from++) {
                    rows[k + from] = BAD[which / 4];
                }
            }
            update(&whole, &replay);
            update_in_slices(&sliced, c, &replay);
            memcpy(rows, good, sizeof good);
            edgerl_learner_progress p;
            CHECK(edgerl_learner_progress_of(whole.arena, &p) == EDGERL_OK, "%s", c->name);
            CHECK(p.updates == 4 && (p.abandoned == 1 || !must_be_abandoned), "%s, %u: %u abandoned", c->name, which,
                  (uint32_t)p.abandoned);
            for (uint32_t n = 0; must_be_abandoned && n < NETWORKS; n++) {
                CHECK(is_same_network(&whole, &before, n), "%s, %u: network %u changed", c->name, which, n);
            }
            CHECK(is_same_state(&whole, &sliced), "%s, %u: slices make a difference", c->name, which);
            for (uint32_t k = 0; k < 3; k++) {
                update(&whole, &replay);
            }
            CHECK(!is_same_network(&whole, &before, EDGERL_CRITIC_1), "%s: it learns no more", c->name);
            reopen(&whole, c); /* which refuses what is not finite */
            CHECK(edgerl_learner_progress_of(whole.arena, &p) == EDGERL_OK && p.abandoned <= 1, "%s", c->name);
            close_subject(&whole);
            close_subject(&sliced);
            close_subject(&before);
        }
        /* Beyond all bounds in the second critic alone: the first one has made its step, nobody else does. */
        subject s, before;
        open_subject(&s, &config);
        open_subject(&before, &config);
        for (uint32_t k = 0; k < 3; k++) {
            update(&s, &replay);
            update(&before, &replay);
        }
        for (uint32_t b = 0; b < 2; b++) {
            const learner *l = (const void *)(b ? before.arena : s.arena);
            reals_at(l, l->layers[EDGERL_CRITIC_2][2].arrays.bias)[0] = sizeof(real) == 4 ? (real)3e38 : (real)1e200;
        }
        float acted[3] = {0}, now[3] = {0};
        act_now(&s, c, acted);
        update(&s, &replay);
        act_now(&s, c, now);
        const edgerl_learner_progress *p = &((const learner *)(const void *)s.arena)->progress;
        CHECK(p->abandoned == 1 && memcmp(acted, now, sizeof now) == 0, "%s", c->name);
        CHECK(!is_same_network(&s, &before, EDGERL_CRITIC_1), "%s: the first critic", c->name);
        CHECK(is_same_network(&s, &before, EDGERL_ACTOR) && is_same_network(&s, &before, EDGERL_CRITIC_2), "%s", c->name);
        close_subject(&s);
        close_subject(&before);
    }
    gap_bytes = gap_bytes_before;
}

/* Positions of a layer that another topology of it lacks. */
static uint32_t positions_lacking(const learner *l, const sparse_layer *layer, const uint32_t *starts, const uint16_t *columns) {
    const uint32_t *own_starts = words_at(l, layer->arrays.starts);
    const uint16_t *own = indices_at(l, layer->arrays.columns);
    uint32_t lacking = 0;
    for (uint32_t row = 0; row < layer->rows; row++) {
        for (uint32_t i = own_starts[row]; i < own_starts[row + 1]; i++) {
            uint32_t k = starts[row];
            while (k < starts[row + 1] && columns[k] != own[i]) {
                k++;
            }
            lacking += k == starts[row + 1];
        }
    }
    return lacking;
}

/* The counter of replaced blocks against the topologies before and after. */
static void check_replaced(void) {
    for (uint32_t i = 0; i < N_CASES; i++) {
        const edgerl_learner_config config = config_of(&CASES[i], EDGERL_ISA_BASELINE, 4);
        const edgerl_replay replay = fill_replay(&CASES[i], rows);
        subject s;
        open_subject(&s, &config);
        allow_all(&s);
        unsigned char *before = new_arena(s.bytes.state);
        const learner *l = (const void *)s.arena;
        uint64_t expected = 0;
        for (uint32_t k = 0; k < 30; k++) {
            memcpy(before, s.arena, s.bytes.state);
            update(&s, &replay);
            for (uint32_t n = 0; n < NETWORKS; n++) {
                for (uint32_t layer_index = 0; layer_index < layers_of(l, n); layer_index++) {
                    const sparse_layer *layer = &l->layers[n][layer_index];
                    expected += positions_lacking(l, layer, (const void *)(before + layer->arrays.starts),
                                                  (const void *)(before + layer->arrays.columns));
                }
            }
            CHECK(l->progress.replaced == expected, "%s, update %u: %u replaced, expected %u", CASES[i].name, k,
                  (uint32_t)l->progress.replaced, (uint32_t)expected);
        }
        CHECK((expected > 0) == (CASES[i].evolution_interval > 0 && CASES[i].percent < 100) || CASES[i].percent == 1,
              "%s: %u replaced", CASES[i].name, (uint32_t)expected);
        free(before);
        close_subject(&s);
    }
}

static int test_arguments(void) {
    check_configurations();
    check_arenas();
    check_calls();
    check_replays();
    check_counters();
    check_refused_arenas();
    check_config_in();
    check_open_with();
    check_halves();
    check_abandoned();
    check_replaced();
    check_numbers();
    return failures != 0;
}

/* ------------------------------------------------------------------------------------------------------------ fuzz */

/* Tiny, with all that a file can have: targets of their own, narrow rows, dense layers. */
static const learner_case FUZZ_CASES[] = {
    {"single connections", 2, 1, {5, 3}, 1, 50, 2, 3, 2, 2, RANDOM, CONSTANT, 9, 1, 0},
    {"blocks", 2, 1, {6, 3}, 4, 60, 2, 3, 2, 1, RANDOM, COSINE, 9, 1, 0},
    {"gradient growth", 2, 1, {3, 5}, 4, 60, 2, 3, 1, 1, GRADIENT, CONSTANT, 9, 0, 0},
    {"norms", 2, 1, {5, 3}, 4, 60, 2, 3, 2, 1, RANDOM, CONSTANT, 9, 1, NORM | DEEPER},
    {"SAC", 2, 1, {5, 3}, 1, 60, 2, 3, 2, 1, RANDOM, CONSTANT, 9, 1, SAC},
    {"CrossQ", 2, 1, {5, 3}, 4, 60, 2, 3, 2, 1, RANDOM, CONSTANT, 9, 1, CROSSQ | BATCH},
};
#define N_FUZZ_CASES 6u
#define FUZZ_ROOM (1u << 14) /* bytes that an arena has more than it needs: some larger configurations fit */

typedef struct image {
    unsigned char *bytes; /* of a state that has learnt for a while */
    size_t count, room;
    uint32_t spans[64][2]; /* the index arrays: begin, length */
    uint32_t n_spans;
} image;

static void note_span(image *m, uint64_t at_byte, uint64_t count) {
    if (at_byte != 0 && count != 0 && m->n_spans < 64) {
        m->spans[m->n_spans][0] = (uint32_t)at_byte;
        m->spans[m->n_spans++][1] = (uint32_t)count;
    }
}

static image make_image(const learner_case *c, const edgerl_replay *replay) {
    const edgerl_learner_config config = config_of(c, EDGERL_ISA_AVX512, 1);
    subject s;
    open_subject(&s, &config);
    for (uint32_t i = 0; i < 7; i++) {
        update(&s, replay);
    }
    image m = {malloc(s.bytes.state), s.bytes.state, s.bytes.total + FUZZ_ROOM, {{0}}, 0};
    allow_all(&s);
    memcpy(m.bytes, s.arena, m.count);
    for (uint32_t i = 0; i < 9; i++) {
        const sparse_layer *layer = &((const learner *)(const void *)s.arena)->layers[i / 3][i % 3];
        note_span(&m, layer->arrays.starts, (layer->rows + 1) * sizeof(uint32_t));
        note_span(&m, layer->arrays.columns, layer->blocks * sizeof(uint16_t));
        note_span(&m, layer->arrays.in_target, sizeof(uint32_t));
        note_span(&m, layer->arrays.extra_starts, (layer->rows + 1) * sizeof(uint32_t));
        note_span(&m, layer->arrays.extra_columns, layer->blocks * sizeof(uint16_t));
    }
    close_subject(&s);
    return m;
}

/* Where to do damage: in the header, in an index array, or anywhere. */
static size_t place_in(const image *m) {
    const size_t header = offsetof(learner, layers);
    switch (random_below(5)) {
    case 0:
    case 1:
        return random_below((uint32_t)header);
    case 2:
    case 3: {
        const uint32_t *span = m->spans[random_below(m->n_spans)];
        return span[0] + random_below(span[1]);
    }
    default:
        return random_below((uint32_t)m->count);
    }
}

static void put_value(unsigned char *to, size_t left) {
    static const uint64_t ODD[] = {
        0, 1, 2, 3, 4, 5, 7, 8, 9, 16, 31, 32, 33, 64, 255, 256, 65534, 65535, 65536, 65537, 1 << 20, 0x7fffffff, 0x80000000,
        0xfffffffe, 0xffffffff, UINT64_C(1) << 32, UINT64_C(1) << 53, UINT64_C(1) << 63, UINT64_MAX,
        /* float: NaN, infinite, largest, 1, -1; double: infinite, NaN, 1, -1, half, largest */
        0x7fc00000, 0x7f800000, 0xff800000, 0x7f7fffff, 0x3f800000, 0xbf800000, 0x7ff0000000000000, 0x7ff8000000000000,
        0x3ff0000000000000, 0xbff0000000000000, 0x3fe0000000000000, 0x7fefffffffffffff,
    };
    const uint64_t value = ODD[random_below(sizeof ODD / sizeof ODD[0])];
    const size_t size = (size_t)2 << random_below(3);
    memcpy(to, &value, left < size ? left : size);
}

static void damage(const image *m, unsigned char *arena, const image *others) {
    for (uint32_t changes = 1 + random_below(2); changes > 0; changes--) {
        const uint32_t kind = random_below(5);
        size_t where = place_in(m);
        if (kind == 0) {
            arena[where] ^= (unsigned char)(1u << random_below(8));
        } else if (kind == 1) {
            arena[where] = (unsigned char)(arena[where] + random_below(3) - 1);
        } else if (kind <= 3) {
            where &= ~(size_t)(random_below(4) == 0 ? 1 : 3);
            put_value(arena + where, m->count - where);
        } else {
            const image *other = &others[random_below(N_FUZZ_CASES)];
            const size_t from = place_in(other);
            size_t length = (size_t)1 << random_below(9);
            length = length < m->count - where ? length : m->count - where;
            length = length < other->count - from ? length : other->count - from;
            memcpy(arena + where, other->bytes + from, length);
        }
    }
}

/* What an arena that opens must survive: an action, and three updates of which one evolves. Then it still holds a learner that
 * opens, unless its numbers have gone beyond all bounds. */
static void use(subject *s, size_t room, uint32_t case_number) {
    const learner *l = (const void *)s->arena;
    const edgerl_learner_config config = l->config;
    const uint64_t updates = l->progress.updates;
    s->bytes = l->bytes;
    s->workspace_apart = config.growth == EDGERL_GROWTH_GRADIENT;
    forbid_gaps(s);
    float *observation = calloc(config.n_observations, sizeof(float)), *action = calloc(config.n_actions, sizeof(float));
    const uint32_t width = 2 * config.n_observations + config.n_actions + 2;
    const edgerl_replay replay = {rows, 9, 9, 13, NULL, NULL, EDGERL_ROWS_FLOAT32, 0};
    CHECK(9 * width <= sizeof rows / sizeof rows[0], "case %u", case_number);
    CHECK(edgerl_learner_action(s->arena, observation, action) == EDGERL_OK, "case %u", case_number);
    for (uint32_t i = 0; i < 3; i++) {
        int32_t complete = 0;
        CHECK(edgerl_learner_update(s->arena, &replay, UINT64_MAX, &complete) == EDGERL_OK && complete, "case %u", case_number);
    }
    CHECK(edgerl_learner_action(s->arena, observation, action) == EDGERL_OK, "case %u", case_number);
    free(observation);
    free(action);
    allow_all(s);
    arena_in_use = NULL;
    const int32_t status = edgerl_learner_open(s->arena, room, NULL);
    const int at_the_end = updates + 3 > EDGERL_LEARNER_UPDATES;
    CHECK(status == EDGERL_OK || status == EDGERL_NOT_FINITE || (status == EDGERL_BAD_ARGUMENT && at_the_end),
          "case %u: status %d", case_number, status);
}

static int test_fuzz(uint32_t count, uint32_t seed) {
    image images[N_FUZZ_CASES];
    gap_bytes = EDGERL_ALIGNMENT;
    for (uint32_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        rows[i] = random_below(8) == 0 ? (float)random_below(4) : random_number();
    }
    for (uint32_t i = 0; i < N_FUZZ_CASES; i++) {
        const edgerl_replay replay = {rows, 9, 9, 13, NULL, NULL, EDGERL_ROWS_FLOAT32, 0};
        images[i] = make_image(&FUZZ_CASES[i], &replay);
    }
    uint32_t found[16] = {0};
    for (uint32_t number = 0; number < count && failures == 0; number++) {
        random_state = (seed + number) * 2654435761u | 1;
        (void)random_word();
        const image *m = &images[random_below(N_FUZZ_CASES)];
        const int truncated = random_below(50) == 0;
        const size_t room = truncated ? random_below((uint32_t)m->room) / 64 * 64 : m->room;
        unsigned char *arena = new_arena(room + 64 * (room == 0)); /* its end is where the sanitizer looks */
        unsigned char *whole = new_arena(m->room);
        memcpy(whole, m->bytes, m->count);
        damage(m, whole, images);
        memcpy(arena, whole, room < m->count ? room : m->count);
        free(whole);
        if (room > 0) { /* the configuration alone, from a beginning of any length */
            edgerl_learner_config config;
            edgerl_learner_bytes_of bytes;
            const size_t part = random_below(2) == 0 ? room : random_below((uint32_t)room + 1);
            ASAN_POISON_MEMORY_REGION(arena + part, room - part);
            const int32_t status = edgerl_learner_config_in(arena, part, &config);
            ASAN_UNPOISON_MEMORY_REGION(arena, room);
            CHECK(status != EDGERL_OK || edgerl_learner_bytes(&config, &bytes) == EDGERL_OK, "case %u", number);
        }
        subject s = {arena, {0}, {{{0}}, 0}, 0};
        noting = &s.gaps;
        const int32_t status = edgerl_learner_open(arena, room, NULL);
        noting = NULL;
        found[status]++;
        if (status == EDGERL_OK) {
            use(&s, room, number);
        } else if (room >= sizeof(learner)) {
            edgerl_learner_progress progress;
            CHECK(edgerl_learner_progress_of(arena, &progress) == EDGERL_ARENA_INVALID, "case %u: refused, but there", number);
        }
        free(arena);
    }
    for (uint32_t i = 0; i < N_FUZZ_CASES; i++) {
        free(images[i].bytes);
    }
    for (int32_t i = 0; i < 16; i++) {
        printf("%u: %s\n", found[i], edgerl_status_text(i));
    }
    CHECK(found[EDGERL_OK] * 10 > count && found[EDGERL_OK] * 10 < 9 * count, "some damage is harmless, some is not");
    CHECK(count < 1000 || (found[EDGERL_BAD_INDEX] && found[EDGERL_NOT_FINITE] && found[EDGERL_BAD_SHAPE] &&
                           found[EDGERL_BAD_ARGUMENT] && found[EDGERL_ARENA_INVALID] && found[EDGERL_ARENA_TOO_SMALL]),
          "every kind of damage");
    return failures != 0;
}

int main(int argc, char **argv) {
    const char *what = argc > 1 ? argv[1] : "";
    if (strcmp(what, "updates") == 0) {
        return test_updates();
    }
    if (strcmp(what, "kernels") == 0) {
        return test_kernels();
    }
    if (strcmp(what, "arguments") == 0) {
        return test_arguments();
    }
    if (strcmp(what, "fuzz") == 0 && argc == 4) {
        return test_fuzz((uint32_t)strtoul(argv[2], NULL, 10), (uint32_t)strtoul(argv[3], NULL, 10));
    }
    printf("updates, kernels, arguments or fuzz COUNT SEED\n");
    return 2;
}
