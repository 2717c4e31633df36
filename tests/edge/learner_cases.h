/* Small learners for the C tests: configurations and replay memories that are the same on every machine. */
#include "edgerl.c"

static uint32_t random_state = 1;

static uint32_t random_word(void) {
    random_state ^= random_state << 13;
    random_state ^= random_state >> 17;
    random_state ^= random_state << 5;
    return random_state;
}

static uint32_t random_below(uint32_t bound) { return random_word() % bound; }

/* In [-1, 1), exactly. */
static float random_number(void) { return (float)(random_word() >> 8) / 8388608.0f - 1.0f; }

/* A learner in a few numbers: all layers have the same density, but the output layers are dense. */
typedef struct learner_case {
    const char *name;
    uint32_t n, m, widths[2], block, percent, batch;
    uint32_t evolution_interval, policy_delay, n_step, growth, drop_schedule;
    uint32_t transitions;  /* in the replay memory */
    uint32_t dense_output; /* 0: as sparse as the others */
    uint32_t parts;        /* bits: NORM, ADAMW, SCALED, DEEPER, SAC or CROSSQ, BATCH, CLIPPED */
} learner_case;

#define NORM 1u   /* of the critics */
#define ADAMW 2u
#define SCALED 4u /* connections are dropped by scaled magnitude */
#define DEEPER 8u /* the critics have one layer more, and wider ones */
#define SAC 16u   /* else TD3 */
#define CROSSQ 32u
#define BATCH 64u /* batch norms of all networks */
#define CLIPPED 128u /* gradients are cut */

static uint32_t share_of(uint32_t positions, uint32_t percent) { return (positions * percent + 50) / 100; }

static edgerl_layer_plan plan_of(uint32_t n_inputs, uint32_t n_outputs, uint32_t block, uint32_t percent) {
    edgerl_layer_plan p = {n_inputs, n_outputs, block, share_of(n_inputs * (n_outputs / block), percent), 0};
    p.narrow_blocks = n_outputs % block ? share_of(n_inputs, percent) : 0;
    if (p.full_blocks + p.narrow_blocks == 0) {
        p.full_blocks = n_outputs >= block;
        p.narrow_blocks = n_outputs < block;
    }
    return p;
}

static edgerl_learner_config config_of(const learner_case *c, int32_t isa, uint32_t lanes) {
    edgerl_learner_config config = {
        .seed = 0x123456789u + c->n,
        .evolution_interval = c->evolution_interval,
        .last_update = 1000,
        .n_step_delay = 5,
        .n_observations = c->n,
        .n_actions = c->m,
        .batch = c->batch,
        .policy_delay = c->policy_delay,
        .n_step = c->n_step,
        .lanes = lanes,
        .isa = isa,
        .growth = (int32_t)c->growth,
        .drop_schedule = (int32_t)c->drop_schedule,
        .discount = 0.97,
        .soft_update = 0.05,
        .weight_decay = 0.0002,
        .first_moment_decay = 0.9,
        .gradient_clip = c->parts & CLIPPED ? 0.1 : 0,
        .algorithm = c->parts & CROSSQ ? EDGERL_CROSSQ : c->parts & SAC ? EDGERL_SAC : EDGERL_TD3,
        .target_entropy = -(double)c->m,
        .initial_log_temperature = -1,
        .optimiser = c->parts & ADAMW ? EDGERL_ADAMW : EDGERL_ADAM,
        .drop_criterion = c->parts & SCALED ? EDGERL_DROP_SCALED_MAGNITUDE : EDGERL_DROP_MAGNITUDE,
        .target_noise = 0.2,
        .target_noise_clip = 0.5,
        .drop_fraction = 0.3,
        .actor = {.learning_rate = 0.003, .n_layers = 3, .evolves = 1},
        .critic = {.learning_rate = 0.003, .n_layers = c->parts & DEEPER ? 4 : 3, .evolves = 1},
    };
    config.critic.norm = c->parts & NORM ? EDGERL_NORM_LAYER : EDGERL_NORM_NONE;
    if (c->parts & BATCH) {
        config.actor.norm = config.critic.norm = EDGERL_NORM_BATCH;
    }
    const uint32_t output = c->dense_output ? 100 : c->percent;
    edgerl_layer_plan *actor = config.actor.layers, *critic = config.critic.layers;
    actor[0] = plan_of(c->n, c->widths[0], c->block, c->percent);
    actor[1] = plan_of(c->widths[0], c->widths[1], c->block, c->percent);
    actor[2] = plan_of(c->widths[1], c->parts & (SAC | CROSSQ) ? 2 * c->m : c->m, c->block, output);
    const uint32_t more = c->parts & DEEPER ? 3 : 0;
    critic[0] = plan_of(c->n + c->m, c->widths[0] + more, c->block, c->percent);
    critic[1] = plan_of(c->widths[0] + more, c->widths[1], c->block, c->percent);
    critic[2] = more > 0 ? plan_of(c->widths[1], 10, c->block, c->percent) : plan_of(c->widths[1], 1, c->block, output);
    critic[3] = plan_of(10, 1, c->block, output);
    return config;
}

/* Transitions of random numbers with some boundaries of each kind; a full ring that was written one and a half times. */
static edgerl_replay fill_replay(const learner_case *c, float *rows) {
    const uint32_t width = 2 * c->n + c->m + 2, room = c->transitions + c->transitions / 2;
    for (uint32_t i = 0; i < room; i++) {
        for (uint32_t k = 0; k + 1 < width; k++) {
            rows[i * width + k] = random_number();
        }
        const uint32_t boundary = random_below(8);
        rows[i * width + width - 1] = boundary < 4 ? (float)boundary : 0;
    }
    const edgerl_replay r = {rows, room, c->transitions, room + c->transitions / 2, NULL, NULL, EDGERL_ROWS_FLOAT32, 0};
    return r;
}
