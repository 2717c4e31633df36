/* ------------------------------------------------------------------------------------------ the learner on board */

#ifndef EDGERL_LEARNER_RAM_SECTION
#define EDGERL_LEARNER_RAM_SECTION /* where it shall lie, such as __attribute__((section(".dtcm"))) */
#endif

/* All memory there is. */
static struct __attribute__((aligned(ENGINE_ALIGNMENT))) {
    unsigned char arena[ARENA_BYTES];
    uint32_t rows[EDGERL_LEARNER_TRANSITIONS][ROW_WORDS];
    float seen[EDGERL_LEARNER_OBSERVATIONS]; /* the observation that is acted upon, normalised */
    float noise[EDGERL_LEARNER_ACTIONS + EDGERL_LEARNER_ACTIONS % 2];
    uint32_t words[EDGERL_LEARNER_ACTIONS + EDGERL_LEARNER_ACTIONS % 2];
    uint64_t remembered; /* transitions; number i lies in row i % EDGERL_LEARNER_TRANSITIONS */
    uint32_t has_begun;
    uint32_t follows; /* the next transition may belong to the last one */
    uint32_t explored, refused, saturated, saves;
} own EDGERL_LEARNER_RAM_SECTION;

_Static_assert(sizeof own == EDGERL_LEARNER_RAM, "takes the memory that was announced");
_Static_assert((sizeof(learner) + ENGINE_ALIGNMENT - 1) / ENGINE_ALIGNMENT * ENGINE_ALIGNMENT == NETWORKS_AT,
               "lays the arena out as the workstation does");

/* Take up the networks in the arena, behind its header, which is written anew. */
static int32_t take_up(const engine_learner_progress *progress) {
    learner *l = (learner *)(void *)own.arena;
    zero(l, sizeof *l);
    l->magic = LEARNER_MAGIC;
    l->version = LEARNER_VERSION;
    l->sizeof_real = sizeof(real);
    l->config = CONFIG;
    l->progress = *progress;
    return engine_learner_open(own.arena, sizeof own.arena, &CONFIG);
}

int edgerl_learner_init(void) {
    zero(&own, sizeof own);
    size_t to = NETWORKS_AT;
    for (size_t i = 0; i < sizeof INITIAL / sizeof INITIAL[0];) { /* so many zeros, then so many words as they are */
        const uint32_t zeros = INITIAL[i] & 0xffffu, words = INITIAL[i] >> 16;
        to += 4 * (size_t)zeros;
        copy(own.arena + to, INITIAL + i + 1, 4 * (uint64_t)words);
        to += 4 * (size_t)words;
        i += 1 + (size_t)words;
    }
    own.has_begun = take_up(&PROGRESS) == ENGINE_OK;
    return own.has_begun ? EDGERL_LEARNER_OK : EDGERL_LEARNER_NOT_BEGUN;
}

/* ------------------------------------------------------------------------------------------------------- acting */

/* noise: null for the action without any. */
static int answer(const float *observation, const float *noise, float *action) {
    if (!own.has_begun) {
        return EDGERL_LEARNER_NOT_BEGUN;
    }
    for (uint32_t i = 0; i < EDGERL_LEARNER_OBSERVATIONS; i++) {
        own.seen[i] = NORMALISED(observation[i], i);
    }
    if (!all_finite(own.seen, EDGERL_LEARNER_OBSERVATIONS)) {
        return EDGERL_LEARNER_NOT_FINITE;
    }
    float unit[EDGERL_LEARNER_ACTIONS];
    if (noise == NULL) {
        (void)engine_learner_action(own.arena, own.seen, unit);
    } else {
        (void)engine_learner_sample(own.arena, own.seen, noise, unit);
    }
    if (!all_finite(unit, EDGERL_LEARNER_ACTIONS)) {
        return EDGERL_LEARNER_NOT_FINITE;
    }
    for (uint32_t i = 0; i < EDGERL_LEARNER_ACTIONS; i++) {
        const float a = ACTION_CENTRE[i] + ACTION_HALF_RANGE[i] * unit[i];
        action[i] = a < ACTION_LOW[i] ? ACTION_LOW[i] : a > ACTION_HIGH[i] ? ACTION_HIGH[i] : a;
    }
    return EDGERL_LEARNER_OK;
}

int edgerl_learner_act(const float observation[EDGERL_LEARNER_OBSERVATIONS], float action[EDGERL_LEARNER_ACTIONS]) {
    return answer(observation, NULL, action);
}

/* Standard normal numbers into own.noise, of the next action that is explored. */
static void draw_exploration(void) {
    const uint32_t count = sizeof own.words / sizeof own.words[0];
    const draws d = draws_for(CONFIG.seed, PURPOSE_EXPLORATION, own.explored, ENGINE_ACTOR, 0);
    draw(&d, 0, count, own.words);
    normals_naive(own.words, count, own.noise);
}

int edgerl_learner_explore(const float observation[EDGERL_LEARNER_OBSERVATIONS], float action[EDGERL_LEARNER_ACTIONS]) {
    draw_exploration();
    const int status = answer(observation, is_stochastic(&CONFIG) ? own.noise : NULL, action);
    if (status != EDGERL_LEARNER_OK) {
        return status;
    }
    own.explored++;
    for (uint32_t i = 0; !is_stochastic(&CONFIG) && i < EDGERL_LEARNER_ACTIONS; i++) {
        const float a = action[i] + ACTION_HALF_RANGE[i] * (NOISE * own.noise[i]);
        action[i] = a < ACTION_LOW[i] ? ACTION_LOW[i] : a > ACTION_HIGH[i] ? ACTION_HIGH[i] : a;
    }
    return EDGERL_LEARNER_OK;
}

/* ---------------------------------------------------------------------------------------------------- observing */

#if ROWS_ARE_HALVES
/* The nearest binary16 number of |x| <= 65504, of two the even one. */
static uint16_t half_of(float x) {
    float_bits u = {x};
    const uint32_t sign = (uint32_t)u.bits >> 16 & 0x8000u;
    uint32_t size = (uint32_t)u.bits & 0x7fffffffu;
    if (size < 0x38800000u) { /* below 2^-14: its last digit is worth as much as that of numbers about a half */
        float_bits shifted = {(x < 0 ? -x : x) + 0.5f};
        size = (uint32_t)shifted.bits - 0x3f000000u;
    } else {
        size = (size + 0xfffu + (size >> 13 & 1u) - 0x38000000u) >> 13;
    }
    return (uint16_t)(sign | size);
}

static float saturated(float x) {
    own.saturated += x < -65504.0f || x > 65504.0f;
    return x < -65504.0f ? -65504.0f : x > 65504.0f ? 65504.0f : x;
}

static void put_number(uint32_t *row, uint32_t at_number, float x) { ((uint16_t *)row)[at_number] = half_of(x); }
#define STORED(x, i) saturated(((x) - STORAGE_MEAN[i]) * STORAGE_SCALE[i])
#else
static void put_number(uint32_t *row, uint32_t at_number, float x) { ((float *)row)[at_number] = x; }
#define STORED(x, i) (x)
#endif

/* The transition that was remembered last is followed by something else. */
static void break_off(void) {
    if (own.remembered > 0) {
        float *boundary = (float *)&own.rows[(own.remembered - 1) % EDGERL_LEARNER_TRANSITIONS][ROW_WORDS - 1];
        *boundary = *boundary == CONTINUES ? 3.0f : *boundary;
    }
}

int edgerl_learner_observe(const float observation[EDGERL_LEARNER_OBSERVATIONS],
                           const float action[EDGERL_LEARNER_ACTIONS], float reward,
                           const float next_observation[EDGERL_LEARNER_OBSERVATIONS], int end) {
    const uint32_t n = EDGERL_LEARNER_OBSERVATIONS, m = EDGERL_LEARNER_ACTIONS;
    if (!own.has_begun) {
        return EDGERL_LEARNER_NOT_BEGUN;
    }
    if (!all_finite(observation, n) || !all_finite(action, m) || !all_finite(next_observation, n) || !is_finite(reward)) {
        own.refused++;
        own.follows = 0;
        return EDGERL_LEARNER_NOT_FINITE;
    }
    if (!own.follows) {
        break_off();
    }
    uint32_t *row = own.rows[own.remembered % EDGERL_LEARNER_TRANSITIONS];
    for (uint32_t i = 0; i < n; i++) {
        put_number(row, i, STORED(observation[i], i));
        put_number(row, n + m + i, STORED(next_observation[i], i));
    }
    for (uint32_t i = 0; i < m; i++) {
        const float a = (action[i] - ACTION_CENTRE[i]) / ACTION_HALF_RANGE[i];
        put_number(row, n + i, a < -1.0f ? -1.0f : a > 1.0f ? 1.0f : a);
    }
    ((float *)row)[ROW_WORDS - 2] = reward;
    ((float *)row)[ROW_WORDS - 1] = end == EDGERL_LEARNER_TERMINATED  ? TERMINATED
                                    : end == EDGERL_LEARNER_TRUNCATED ? 2.0f
                                                                      : CONTINUES;
    own.remembered++;
    own.follows = 1;
    return EDGERL_LEARNER_OK;
}

/* ----------------------------------------------------------------------------------------------------- learning */

static uint32_t rows_in_use(void) {
    return own.remembered < EDGERL_LEARNER_TRANSITIONS ? (uint32_t)own.remembered : EDGERL_LEARNER_TRANSITIONS;
}

static int is_updating(void) { return !is_idle((const learner *)(const void *)own.arena); }

int edgerl_learner_step(uint32_t work, int *complete) {
    int32_t is_complete = 0;
    if (complete != NULL) {
        *complete = 0;
    }
    if (!own.has_begun) {
        return EDGERL_LEARNER_NOT_BEGUN;
    }
    if (!is_updating() && rows_in_use() < EDGERL_LEARNER_BATCH) {
        return EDGERL_LEARNER_WAITING;
    }
    const engine_replay replay = {
        .rows = own.rows,
        .room = EDGERL_LEARNER_TRANSITIONS,
        .capacity = EDGERL_LEARNER_TRANSITIONS,
        .count = own.remembered,
        .mean = ROWS_MEAN,
        .scale = ROWS_SCALE,
        .format = ROWS_ARE_HALVES ? ENGINE_ROWS_FLOAT16 : ENGINE_ROWS_FLOAT32,
    };
    (void)engine_learner_update(own.arena, &replay, work, &is_complete); /* its arguments are right */
    if (complete != NULL) {
        *complete = is_complete;
    }
    return EDGERL_LEARNER_OK;
}

int edgerl_learner_count(edgerl_learner_counters *counters) {
    if (!own.has_begun) {
        return EDGERL_LEARNER_NOT_BEGUN;
    }
    const engine_learner_progress *p = &((const learner *)(const void *)own.arena)->progress;
    *counters = (edgerl_learner_counters){
        .updates = p->updates,
        .transitions = own.remembered,
        .replaced = p->replaced,
        .abandoned = p->abandoned,
        .critic_loss = p->critic_loss_sum,
        .actor_loss = p->actor_loss_sum,
        .critic_losses = p->critic_losses,
        .actor_losses = p->actor_losses,
        .saves = own.saves,
        .refused = own.refused,
        .saturated = own.saturated,
        .is_updating = (uint32_t)is_updating(),
    };
    return EDGERL_LEARNER_OK;
}

/* ------------------------------------------------------------------------------------------- saving and loading */

#define SAVE_MAGIC 0x53524c45u /* "ELRS" */
#define SAVE_VERSION 1u

/* A save: this, the networks, the rows that are in use, and the CRC-32 of all of it. */
typedef struct save_header {
    uint32_t magic, version;
    uint64_t identity; /* of the export: its configuration, constants and initial state */
    uint64_t remembered;
    uint32_t rows, saves, explored, refused, saturated, reserved;
    engine_learner_progress progress;
} save_header;

#define NETWORK_BYTES (STATE_BYTES - NETWORKS_AT)
_Static_assert(sizeof(save_header) + NETWORK_BYTES + sizeof own.rows + 4 == EDGERL_LEARNER_SAVE, "saves what was announced");

/* CRC-32 (IEEE 802.3), four bits at a time. */
static uint32_t checksum(uint32_t sum, const void *data, size_t bytes) {
    static const uint32_t REST[16] = {
        0x00000000u, 0x1db71064u, 0x3b6e20c8u, 0x26d930acu, 0x76dc4190u, 0x6b6b51f4u, 0x4db26158u, 0x5005713cu,
        0xedb88320u, 0xf00f9344u, 0xd6d6a3e8u, 0xcb61b38cu, 0x9b64c2b0u, 0x86d3d2d4u, 0xa00ae278u, 0xbdbdf21cu,
    };
    const unsigned char *p = data;
    sum = ~sum;
    for (size_t i = 0; i < bytes; i++) {
        sum ^= p[i];
        sum = sum >> 4 ^ REST[sum & 15u];
        sum = sum >> 4 ^ REST[sum & 15u];
    }
    return ~sum;
}

int edgerl_learner_save(edgerl_learner_write write, void *context, int with_transitions) {
    if (!own.has_begun) {
        return EDGERL_LEARNER_NOT_BEGUN;
    }
    if (is_updating()) {
        return EDGERL_LEARNER_BUSY;
    }
    const uint32_t rows = with_transitions ? rows_in_use() : 0;
    const save_header header = {
        .magic = SAVE_MAGIC,
        .version = SAVE_VERSION,
        .identity = IDENTITY,
        .remembered = rows > 0 ? own.remembered : 0,
        .rows = rows,
        .saves = own.saves + 1,
        .explored = own.explored,
        .refused = own.refused,
        .saturated = own.saturated,
        .progress = ((const learner *)(const void *)own.arena)->progress,
    };
    const size_t bytes = sizeof own.rows[0] * rows;
    uint32_t sum = checksum(0, &header, sizeof header);
    sum = checksum(sum, own.arena + NETWORKS_AT, NETWORK_BYTES);
    sum = checksum(sum, own.rows, bytes);
    if (write(context, &header, sizeof header) != 0 || write(context, own.arena + NETWORKS_AT, NETWORK_BYTES) != 0 ||
        (bytes > 0 && write(context, own.rows, bytes) != 0) || write(context, &sum, sizeof sum) != 0) {
        return EDGERL_LEARNER_FAILED;
    }
    own.saves++;
    return EDGERL_LEARNER_OK;
}

static int is_of_this_learner(const save_header *h) {
    const uint64_t rows = h->remembered < EDGERL_LEARNER_TRANSITIONS ? h->remembered : EDGERL_LEARNER_TRANSITIONS;
    return h->magic == SAVE_MAGIC && h->version == SAVE_VERSION && h->identity == IDENTITY && h->rows == rows;
}

/* All of a save into the memory. */
static int read_all(edgerl_learner_read read, void *context, save_header *header) {
    if (read(context, header, sizeof *header) != 0) {
        return EDGERL_LEARNER_FAILED;
    }
    if (!is_of_this_learner(header)) {
        return EDGERL_LEARNER_REFUSED;
    }
    zero(&own, sizeof own);
    const size_t bytes = sizeof own.rows[0] * header->rows;
    uint32_t sum = 0;
    if (read(context, own.arena + NETWORKS_AT, NETWORK_BYTES) != 0 || (bytes > 0 && read(context, own.rows, bytes) != 0) ||
        read(context, &sum, sizeof sum) != 0) {
        return EDGERL_LEARNER_FAILED;
    }
    uint32_t expected = checksum(0, header, sizeof *header);
    expected = checksum(expected, own.arena + NETWORKS_AT, NETWORK_BYTES);
    expected = checksum(expected, own.rows, bytes);
    return sum == expected && take_up(&header->progress) == ENGINE_OK ? EDGERL_LEARNER_OK : EDGERL_LEARNER_REFUSED;
}

int edgerl_learner_load(edgerl_learner_read read, void *context) {
    save_header header;
    const int status = read_all(read, context, &header);
    if (status != EDGERL_LEARNER_OK) {
        (void)edgerl_learner_init();
        return status;
    }
    own.remembered = header.remembered;
    own.explored = header.explored;
    own.refused = header.refused;
    own.saturated = header.saturated;
    own.saves = header.saves;
    own.has_begun = 1;
    return EDGERL_LEARNER_OK;
}
