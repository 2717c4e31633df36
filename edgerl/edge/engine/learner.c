/* SPDX-License-Identifier: MIT */
/* A learner's arena: its size, its beginning, taking it up again, and acting. */
#include "learner.h"
#include "random.h"

#if defined(__x86_64__)
typedef uint32_t float_mode;
static float_mode flush_denormals(void) {
    const float_mode mode = __builtin_ia32_stmxcsr();
    __builtin_ia32_ldmxcsr(mode | 0x8040u); /* flush to zero, denormals are zero */
    return mode;
}
static void restore_float_mode(float_mode mode) { __builtin_ia32_ldmxcsr(mode); }
#elif defined(__aarch64__)
typedef uint64_t float_mode;
static float_mode flush_denormals(void) {
    float_mode mode;
    __asm__ volatile("mrs %0, fpcr" : "=r"(mode) : : "memory");
    __asm__ volatile("msr fpcr, %0" : : "r"(mode | UINT64_C(1) << 24) : "memory");
    return mode;
}
static void restore_float_mode(float_mode mode) { __asm__ volatile("msr fpcr, %0" : : "r"(mode) : "memory"); }
#elif defined(__ARM_FP)
typedef uint32_t float_mode;
static float_mode flush_denormals(void) {
    float_mode mode;
    __asm__ volatile("vmrs %0, fpscr" : "=r"(mode) : : "memory");
    __asm__ volatile("vmsr fpscr, %0" : : "r"(mode | UINT32_C(1) << 24) : "memory");
    return mode;
}
static void restore_float_mode(float_mode mode) { __asm__ volatile("vmsr fpscr, %0" : : "r"(mode) : "memory"); }
#else
typedef int float_mode;
static float_mode flush_denormals(void) { return 0; }
static void restore_float_mode(float_mode mode) { (void)mode; }
#endif

static void zero(void *bytes, uint64_t count) {
    unsigned char *p = bytes;
    for (uint64_t i = 0; i < count; i++) {
        p[i] = 0;
    }
}

static void copy(void *to, const void *from, uint64_t count) {
    unsigned char *p = to;
    const unsigned char *q = from;
    for (uint64_t i = 0; i < count; i++) {
        p[i] = q[i];
    }
}

/* ------------------------------------------------------------------------------------------- the configuration */

static int in_range(double x, double low, double high) { return x >= low && x <= high; } /* not where x is NaN */

static uint64_t full_positions(const edgerl_layer_plan *p) {
    return (uint64_t)p->n_inputs * (p->n_outputs / p->block);
}

static int32_t check_plan(const edgerl_layer_plan *p, uint32_t n_inputs) {
    if (p->n_inputs != n_inputs || p->n_outputs < 1 || p->n_outputs > EDGERL_LEARNER_UNITS) {
        return EDGERL_BAD_SHAPE;
    }
    if (p->block != 1 && p->block != 4) {
        return EDGERL_BAD_ARGUMENT;
    }
    const uint64_t narrow = p->n_outputs % p->block ? p->n_inputs : 0;
    const uint64_t blocks = (uint64_t)p->full_blocks + p->narrow_blocks;
    if (p->full_blocks > full_positions(p) || p->narrow_blocks > narrow || blocks < 1 ||
        blocks * p->block > EDGERL_LEARNER_WEIGHTS) {
        return EDGERL_BAD_SHAPE;
    }
    return EDGERL_OK;
}

static int32_t check_network(const edgerl_learner_config *c, const edgerl_layer_plan *plans, uint32_t n_inputs,
                             uint32_t n_outputs) {
    for (uint32_t i = 0; i < c->n_layers; i++) {
        const int32_t status = check_plan(&plans[i], i == 0 ? n_inputs : plans[i - 1].n_outputs);
        if (status != EDGERL_OK) {
            return status;
        }
    }
    return plans[c->n_layers - 1].n_outputs == n_outputs ? EDGERL_OK : EDGERL_BAD_SHAPE;
}

static int32_t check_config(const edgerl_learner_config *c) {
    if (c->n_layers < 2 || c->n_layers > EDGERL_LEARNER_LAYERS || c->n_observations < 1 || c->n_actions < 1 ||
        c->n_observations > EDGERL_LEARNER_UNITS || c->n_actions > EDGERL_LEARNER_UNITS - c->n_observations) {
        return EDGERL_BAD_SHAPE;
    }
    if (c->batch < 1 || c->batch > 65536 || c->policy_delay < 1 || c->n_step < 1 || c->n_step > 64 ||
        (c->lanes != 1 && c->lanes != 4 && c->lanes != 8 && c->lanes != 16) || c->growth < EDGERL_GROWTH_RANDOM ||
        c->growth > EDGERL_GROWTH_GRADIENT || c->drop_schedule < EDGERL_DROP_CONSTANT ||
        c->drop_schedule > EDGERL_DROP_COSINE || !in_range(c->discount, 0, 1) || !in_range(c->soft_update, 0, 1) ||
        !in_range(c->learning_rate, 0, 1) || !in_range(c->weight_decay, 0, 1) || !in_range(c->target_noise, 0, 10) ||
        !in_range(c->target_noise_clip, 0, 10) || !in_range(c->drop_fraction, 0, 1)) {
        return EDGERL_BAD_ARGUMENT;
    }
    const int32_t actor = check_network(c, c->actor, c->n_observations, c->n_actions);
    return actor != EDGERL_OK ? actor : check_network(c, c->critic, c->n_observations + c->n_actions, 1);
}

/* ------------------------------------------------------------------------------------------------- the layout */

/* How many panels lines over `length` positions are cut into, where each has `worth` blocks in each panel on average. */
static uint32_t panels_of(uint32_t length, uint32_t blocks, uint32_t lines, uint32_t worth) {
    const uint32_t panels = (length + PANEL - 1) / PANEL;
    return blocks / lines / panels >= worth ? panels : 1;
}

static void lay_out_layer(layer *y, const edgerl_layer_plan *p, int has_transposed, uint64_t *end, uint64_t *derived) {
    y->n_inputs = p->n_inputs;
    y->n_outputs = p->n_outputs;
    y->block = p->block;
    y->full_rows = p->n_outputs / p->block;
    y->rows = (p->n_outputs + p->block - 1) / p->block;
    y->full_blocks = p->full_blocks;
    y->blocks = p->full_blocks + p->narrow_blocks;
    y->is_dense = p->full_blocks == full_positions(p) && (y->rows == y->full_rows || p->narrow_blocks == p->n_inputs);
    const uint64_t weights = weights_of(y), units = units_of(y);
    y->at.starts = set_aside(end, (uint64_t)y->rows + 1, sizeof(uint32_t));
    y->at.columns = set_aside(end, y->blocks, sizeof(uint16_t));
    y->at.weight = set_aside(end, weights, sizeof(real));
    y->at.first_moment = set_aside(end, weights, sizeof(real));
    y->at.second_moment = set_aside(end, weights, sizeof(real));
    y->at.target = set_aside(end, weights, sizeof(real));
    if (!y->is_dense) {
        y->at.in_target = set_aside(end, (y->blocks + 31u) / 32u, sizeof(uint32_t));
        y->at.extra_starts = set_aside(end, (uint64_t)y->rows + 1, sizeof(uint32_t));
        y->at.extra_columns = set_aside(end, y->blocks, sizeof(uint16_t));
        y->at.extra_target = set_aside(end, weights, sizeof(real));
    }
    y->at.bias = set_aside(end, units, sizeof(real));
    y->at.bias_first_moment = set_aside(end, units, sizeof(real));
    y->at.bias_second_moment = set_aside(end, units, sizeof(real));
    y->at.bias_target = set_aside(end, units, sizeof(real));
    y->row_panels = panels_of(y->n_inputs, y->blocks, y->rows, y->block == 4 ? BLOCK_PANEL_WORTH : PANEL_WORTH);
    y->column_panels = has_transposed && y->block == 1 ? panels_of(y->rows, y->blocks, y->n_inputs, PANEL_WORTH) : 1;
    /* Offsets of what can be made anew are relative to the end of the state, which is not known yet. */
    y->has_transposed = has_transposed && p->block == 1;
    if (y->has_transposed) {
        y->column_starts = set_aside(derived, (uint64_t)p->n_inputs + 1, sizeof(uint32_t));
        y->column_rows = set_aside(derived, y->blocks, sizeof(uint16_t));
        y->column_places = set_aside(derived, y->blocks, sizeof(uint16_t));
    }
    y->row_bounds = set_aside(derived, (uint64_t)(y->row_panels - 1) * y->rows, sizeof(uint32_t));
    y->column_bounds = set_aside(derived, (uint64_t)(y->column_panels - 1) * y->n_inputs, sizeof(uint32_t));
}

static void lay_out_acting(learner *l, uint64_t *end) {
    for (uint32_t copy = 0; copy < 2; copy++) {
        for (uint32_t i = 0; i < l->config.n_layers; i++) {
            const layer *y = &l->layers[EDGERL_ACTOR][i];
            l->acting[copy].starts[i] = set_aside(end, (uint64_t)y->rows + 1, sizeof(uint32_t));
            l->acting[copy].columns[i] = set_aside(end, y->blocks, sizeof(uint16_t));
            l->acting[copy].weight[i] = set_aside(end, weights_of(y), sizeof(real));
            l->acting[copy].bias[i] = set_aside(end, units_of(y), sizeof(real));
        }
    }
}

static uint64_t padded(uint64_t features) { return round_up(features, 4); }
static uint64_t larger(uint64_t a, uint64_t b) { return a > b ? a : b; }

static void lay_out_scratch(learner *l, uint64_t *end) {
    const edgerl_learner_config *c = &l->config;
    const uint64_t columns = l->stride, inputs = padded((uint64_t)c->n_observations + c->n_actions);
    uint64_t most_weights = 0, most_units = 0, most_inputs = inputs, workspace = 0;
    for (uint32_t n = 0; n < NETWORKS; n++) {
        for (uint32_t i = 0; i < c->n_layers; i++) {
            const layer *y = &l->layers[n][i];
            most_weights = larger(most_weights, weights_of(y));
            most_units = larger(most_units, padded(y->n_outputs));
            most_inputs = larger(most_inputs, y->n_inputs);
            if (!y->is_dense) {
                workspace = larger(workspace, lay_out_workspace(y, 0, c->growth).end);
            }
        }
    }
    l->now = set_aside(end, inputs * columns, sizeof(real));
    l->next = set_aside(end, inputs * columns, sizeof(real));
    l->target_value = set_aside(end, columns, sizeof(real));
    l->returns = set_aside(end, columns, sizeof(float));
    l->discounts = set_aside(end, columns, sizeof(float));
    const uint64_t noise = round_up((uint64_t)c->batch * c->n_actions, 4);
    l->noise = set_aside(end, noise, sizeof(real));
    l->words = set_aside(end, larger(noise, c->batch + 3u), sizeof(uint32_t));
    l->weight_gradient = set_aside(end, larger(most_weights, c->growth == EDGERL_GROWTH_GRADIENT ? 4 * most_inputs : 0),
                                   sizeof(real));
    l->bias_gradient = set_aside(end, most_units, sizeof(real));
    const uint64_t activations = *end;
    for (uint32_t i = 0; i < c->n_layers; i++) {
        const uint64_t actor = padded(c->actor[i].n_outputs), critic = padded(c->critic[i].n_outputs);
        l->hidden[0][i] = set_aside(end, actor * columns, sizeof(real));
        l->hidden[1][i] = set_aside(end, critic * columns, sizeof(real));
        l->gradient[i] = set_aside(end, larger(actor, critic) * columns, sizeof(real));
    }
    l->action_gradient = set_aside(end, inputs * columns, sizeof(real));
    l->workspace = c->growth == EDGERL_GROWTH_GRADIENT ? *end : activations;
    l->workspace_bytes = workspace;
    *end = larger(*end, l->workspace + workspace);
}

/* Where everything lies: a function of the configuration alone, so that an arena's own offsets need not be trusted. */
static void lay_out(learner *l, const edgerl_learner_config *config) {
    zero(l, sizeof *l);
    l->magic = LEARNER_MAGIC;
    l->version = LEARNER_VERSION;
    l->sizeof_real = sizeof(real);
    l->config = *config;
    l->width = (config->batch + config->lanes - 1) / config->lanes * config->lanes;
    /* Where rows are taken in chunks, an odd number of cache lines spreads the chunks over all of the first cache. */
    l->stride = l->width > 64 && l->width % 32 == 0 && config->lanes > 1 ? l->width + 16 : l->width;
    uint64_t end = round_up(sizeof(learner), EDGERL_ALIGNMENT), derived = 0;
    for (uint32_t n = 0; n < NETWORKS; n++) {
        for (uint32_t i = 0; i < config->n_layers; i++) {
            const edgerl_layer_plan *plan = n == EDGERL_ACTOR ? &config->actor[i] : &config->critic[i];
            lay_out_layer(&l->layers[n][i], plan, i > 0 || n == EDGERL_CRITIC_1, &end, &derived);
        }
    }
    l->bytes.state = end;
    for (uint32_t n = 0; n < NETWORKS; n++) {
        for (uint32_t i = 0; i < config->n_layers; i++) {
            layer *y = &l->layers[n][i];
            y->column_starts += end;
            y->column_rows += end;
            y->column_places += end;
            y->row_bounds += end;
            y->column_bounds += end;
        }
    }
    end += derived;
    lay_out_acting(l, &end);
    l->bytes.connections = end;
    uint64_t widest = config->n_observations;
    for (uint32_t i = 0; i < config->n_layers; i++) {
        widest = larger(widest, padded(config->actor[i].n_outputs));
    }
    l->acting_vectors[0] = set_aside(&end, widest, sizeof(real));
    l->acting_vectors[1] = set_aside(&end, widest, sizeof(real));
    lay_out_scratch(l, &end);
    l->bytes.total = end;
}

uint32_t edgerl_layout_number(void) {
    const uint32_t sizes[] = {sizeof(edgerl_layer),          sizeof(edgerl_policy_config), sizeof(edgerl_learner_config),
                              sizeof(edgerl_replay),         sizeof(edgerl_learner_layer), sizeof(edgerl_learner_progress),
                              sizeof(edgerl_learner_bytes_of)};
    uint32_t number = 0;
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        number = number * 1009 + sizes[i];
    }
    return number;
}

int32_t edgerl_learner_bytes(const edgerl_learner_config *config, edgerl_learner_bytes_of *bytes) {
    if (config == NULL || bytes == NULL) {
        return EDGERL_BAD_ARGUMENT;
    }
    const int32_t status = check_config(config);
    if (status != EDGERL_OK) {
        return status;
    }
    learner l;
    lay_out(&l, config);
    if (l.bytes.total > SIZE_MAX) {
        return EDGERL_TOO_LARGE;
    }
    *bytes = l.bytes;
    return EDGERL_OK;
}

/* ----------------------------------------------------------------------------------------------- the beginning */

/* The initial topology: `count` positions of a class, ascending, into starts and columns. */
static void draw_class(learner *l, const layer *y, uint32_t network, uint32_t index, const width_class *c) {
    const uint32_t count = c->last - c->first, positions = (c->last_row - c->first_row) * y->n_inputs;
    uint32_t *starts = words_at(l, y->at.starts);
    uint16_t *columns = indices_at(l, y->at.columns);
    const topology_space w = lay_out_workspace(y, l->workspace, l->config.growth);
    uint32_t *chosen = words_at(l, w.chosen), *set = words_at(l, w.set);
    const int all = count == positions;
    if (!all) {
        const draws d = draws_for(l->config.seed, PURPOSE_TOPOLOGY, 0, network, index + c->narrow);
        sample_without_replacement(&d, count, positions, chosen, set);
    }
    for (uint32_t i = 0, row = c->first_row; row < c->last_row; row++) {
        starts[row] = c->first + i;
        const uint32_t end = (row - c->first_row + 1) * y->n_inputs;
        for (; i < count && (all ? i : chosen[i]) < end; i++) {
            columns[c->first + i] = (uint16_t)((all ? i : chosen[i]) % y->n_inputs);
        }
    }
    starts[c->last_row] = c->last;
}

/* PyTorch's initial value of a dense layer's parameter, uniform in ±1/√n_in. */
static real initial_value(const draws *d, uint64_t position, double bound) {
    uint32_t words[4];
    philox(d, (uint32_t)(position / 4), words);
    return (real)((2.0 * (double)(words[position % 4] >> 8) / 16777216.0 - 1.0) / bound);
}

static double double_root(double x) {
#ifdef EDGERL_DOUBLE
    return sqrt(x);
#else
    double y = (double)square_root((float)x);
    y = 0.5 * (y + x / y);
    return 0.5 * (y + x / y);
#endif
}

static void draw_layer(learner *l, uint32_t network, uint32_t index) {
    const layer *y = &l->layers[network][index];
    width_class classes[2];
    const uint32_t n_classes = classes_of(y, classes);
    words_at(l, y->at.starts)[0] = 0;
    for (uint32_t i = 0; i < n_classes; i++) {
        draw_class(l, y, network, index, &classes[i]);
    }
    const double bound = double_root((double)y->n_inputs);
    const draws weights = draws_for(l->config.seed, PURPOSE_WEIGHT, 0, network, index);
    const draws biases = draws_for(l->config.seed, PURPOSE_BIAS, 0, network, index);
    const uint32_t *starts = words_at(l, y->at.starts);
    const uint16_t *columns = indices_at(l, y->at.columns);
    for (uint32_t row = 0; row < y->rows; row++) {
        for (uint32_t k = 0; k < y->block && row * y->block + k < y->n_outputs; k++) {
            const uint32_t output = row * y->block + k;
            for (uint32_t i = starts[row]; i < starts[row + 1]; i++) {
                const size_t at_weight = (size_t)i * y->block + k;
                reals(l, y->at.weight)[at_weight] = reals(l, y->at.target)[at_weight] =
                    initial_value(&weights, (uint64_t)output * y->n_inputs + columns[i], bound);
            }
            reals(l, y->at.bias)[output] = reals(l, y->at.bias_target)[output] = initial_value(&biases, output, bound);
        }
    }
    for (uint32_t i = 0; !y->is_dense && i < y->blocks; i++) {
        set_bit(words_at(l, y->at.in_target), i);
    }
}

/* Where in each line the further panels begin. */
static void find_panels(const uint32_t *starts, const uint16_t *positions, uint32_t lines, uint32_t panels, uint32_t *bounds) {
    for (uint32_t line = 0; line < lines; line++) {
        uint32_t i = starts[line];
        for (uint32_t further = 1; further < panels; further++) {
            while (i < starts[line + 1] && positions[i] < further * PANEL) {
                i++;
            }
            bounds[(size_t)(further - 1) * lines + line] = i;
        }
    }
}

/* The transposed index of block 1: each column's rows, and which connection of its row each is. */
static void transpose(learner *l, const layer *y) {
    const uint32_t *starts = words_at(l, y->at.starts);
    const uint16_t *columns = indices_at(l, y->at.columns);
    uint32_t *column_starts = words_at(l, y->column_starts);
    zero(column_starts, ((uint64_t)y->n_inputs + 1) * sizeof(uint32_t));
    for (uint32_t i = 0; i < y->blocks; i++) {
        column_starts[columns[i] + 1]++;
    }
    for (uint32_t j = 0; j < y->n_inputs; j++) {
        column_starts[j + 1] += column_starts[j];
    }
    for (uint32_t row = 0; row < y->rows; row++) { /* the starts move on to the next column's … */
        for (uint32_t i = starts[row]; i < starts[row + 1]; i++) {
            const uint32_t to = column_starts[columns[i]]++;
            indices_at(l, y->column_rows)[to] = (uint16_t)row;
            indices_at(l, y->column_places)[to] = (uint16_t)(i - starts[row]);
        }
    }
    for (uint32_t j = y->n_inputs; j > 0; j--) { /* … and back */
        column_starts[j] = column_starts[j - 1];
    }
    column_starts[0] = 0;
    find_panels(column_starts, indices_at(l, y->column_rows), y->n_inputs, y->column_panels,
                words_at(l, y->column_bounds));
}

/* What follows from a layer's topology. */
static void index_layer(learner *l, layer *y) {
    y->topology++;
    find_panels(words_at(l, y->at.starts), indices_at(l, y->at.columns), y->rows, y->row_panels,
                words_at(l, y->row_bounds));
    if (y->has_transposed) {
        transpose(l, y);
    }
}

/* Whoever acts with a copy that is overtaken reads it while it is written, and tries again: what it reads must at least be an
 * index of one topology or the other. */
static void copy_words(uint32_t *to, const uint32_t *from, uint64_t count) {
    for (uint64_t i = 0; i < count; i++) {
        __atomic_store_n(&to[i], from[i], __ATOMIC_RELAXED);
    }
}

static void copy_indices(uint16_t *to, const uint16_t *from, uint64_t count) {
    for (uint64_t i = 0; i < count; i++) {
        __atomic_store_n(&to[i], from[i], __ATOMIC_RELAXED);
    }
}

/* Copy a layer of the actor, the first one first, to the acting copy that is not in use. */
static void publish_layer(learner *l, uint32_t index) {
    const layer *y = &l->layers[EDGERL_ACTOR][index];
    acting *to = &l->acting[(l->published + 1) % 2];
    if (index == 0) {
        __atomic_store_n(&l->publishing, l->published + 1, __ATOMIC_RELAXED);
        __atomic_thread_fence(__ATOMIC_SEQ_CST); /* nothing of the copy may be seen before */
    }
    if (to->topology[index] != y->topology) {
        copy_words(words_at(l, to->starts[index]), words_at(l, y->at.starts), (uint64_t)y->rows + 1);
        copy_indices(indices_at(l, to->columns[index]), indices_at(l, y->at.columns), y->blocks);
        to->topology[index] = y->topology;
    }
    copy(at(l, to->weight[index]), at(l, y->at.weight), weights_of(y) * sizeof(real));
    copy(at(l, to->bias[index]), at(l, y->at.bias), units_of(y) * sizeof(real));
}

/* Act with the copy that was made last from now on. */
static void publish(learner *l) { __atomic_store_n(&l->published, l->publishing, __ATOMIC_RELEASE); }

static int32_t check_arena(const void *arena, size_t bytes, uint64_t needed) {
    if (arena == NULL) {
        return EDGERL_BAD_ARGUMENT;
    }
    if (!is_aligned(arena)) {
        return EDGERL_ARENA_MISALIGNED;
    }
    return bytes < needed ? EDGERL_ARENA_TOO_SMALL : EDGERL_OK;
}

/* What is made anew from the state. */
static void derive(learner *l) {
    for (uint32_t n = 0; n < NETWORKS; n++) {
        for (uint32_t i = 0; i < l->config.n_layers; i++) {
            index_layer(l, &l->layers[n][i]);
        }
    }
    for (uint32_t i = 0; i < l->config.n_layers; i++) {
        publish_layer(l, i);
    }
    publish(l);
}

/* Lay out an arena of `bytes` bytes; it is no learner yet. The layout is made in the arena itself, for want of stack on small
 * machines. */
static int32_t lay_out_arena(const edgerl_learner_config *config, void *arena, size_t bytes) {
    int32_t status = check_config(config);
    if (status != EDGERL_OK) {
        return status;
    }
    learner *l = arena;
    lay_out(l, config);
    l->magic = 0;
    if (l->bytes.total > SIZE_MAX) {
        return EDGERL_TOO_LARGE;
    }
    return l->bytes.total > bytes ? EDGERL_ARENA_TOO_SMALL : EDGERL_OK;
}

int32_t edgerl_learner_init(const edgerl_learner_config *config, void *arena, size_t bytes) {
    int32_t status = config == NULL ? EDGERL_BAD_ARGUMENT : check_arena(arena, bytes, sizeof(learner));
    if (status != EDGERL_OK) {
        return status;
    }
    const edgerl_learner_config own = *config; /* it may lie in the arena */
    status = lay_out_arena(&own, arena, bytes);
    if (status != EDGERL_OK) {
        return status;
    }
    learner *l = arena;
    zero((char *)arena + sizeof(learner), l->bytes.total - sizeof(learner));
    for (uint32_t n = 0; n < NETWORKS; n++) {
        for (uint32_t i = 0; i < own.n_layers; i++) {
            draw_layer(l, n, i);
        }
    }
    l->magic = LEARNER_MAGIC;
    derive(l);
    return EDGERL_OK;
}

/* ------------------------------------------------------------------------------------------------ taking it up */

static int real_is_finite(real x) { return x - x == 0; }

static int32_t check_reals(const real *values, uint64_t count) {
    for (uint64_t i = 0; i < count; i++) {
        if (!real_is_finite(values[i])) {
            return EDGERL_NOT_FINITE;
        }
    }
    return EDGERL_OK;
}

/* Rows of rising columns; `most` at most, `exactly` that many where exact. */
static int32_t check_rows(const layer *y, const uint32_t *starts, const uint16_t *columns) {
    if (starts[0] != 0) {
        return EDGERL_BAD_INDEX;
    }
    for (uint32_t row = 0; row < y->rows; row++) {
        if (starts[row + 1] < starts[row] || starts[row + 1] > y->blocks) {
            return EDGERL_BAD_INDEX;
        }
        for (uint32_t i = starts[row]; i < starts[row + 1]; i++) {
            if (columns[i] >= y->n_inputs || (i > starts[row] && columns[i] <= columns[i - 1])) {
                return EDGERL_BAD_INDEX;
            }
        }
    }
    return EDGERL_OK;
}

/* The lanes of narrow blocks that stand for no weight hold 0. */
static int32_t check_padding(const layer *y, const real *values, uint64_t first, uint64_t last) {
    for (uint64_t i = first; y->rows > y->full_rows && i < last; i++) {
        for (uint32_t k = y->n_outputs % y->block; k < y->block; k++) {
            if (values[i * y->block + k] != 0) {
                return EDGERL_BAD_INDEX;
            }
        }
    }
    return EDGERL_OK;
}

/* A target has as many blocks of each width as its online network: so many that only it has as only that one has. */
static int32_t check_target(const learner *l, const layer *y) {
    const uint32_t *starts = words_at(l, y->at.starts), *extra = words_at(l, y->at.extra_starts);
    const uint16_t *columns = indices_at(l, y->at.columns), *extra_columns = indices_at(l, y->at.extra_columns);
    const uint32_t *bits = words_at(l, y->at.in_target);
    const int32_t status = check_rows(y, extra, extra_columns);
    if (status != EDGERL_OK) {
        return status;
    }
    for (uint32_t row = 0; row < y->rows; row++) {
        for (uint32_t i = starts[row], j = extra[row]; j < extra[row + 1]; j++) {
            while (i < starts[row + 1] && columns[i] < extra_columns[j]) {
                i++;
            }
            if (i < starts[row + 1] && columns[i] == extra_columns[j]) {
                return EDGERL_BAD_INDEX;
            }
        }
    }
    width_class classes[2];
    const uint32_t n_classes = classes_of(y, classes);
    for (uint32_t c = 0; c < n_classes; c++) {
        uint32_t lacking = 0;
        for (uint32_t i = classes[c].first; i < classes[c].last; i++) {
            if (get_bit(bits, i)) {
                continue;
            }
            lacking++;
            for (uint32_t k = 0; k < y->block; k++) {
                if (reals(l, y->at.target)[(size_t)i * y->block + k] != 0) {
                    return EDGERL_BAD_INDEX;
                }
            }
        }
        if (lacking != extra[classes[c].last_row] - extra[classes[c].first_row]) {
            return EDGERL_BAD_INDEX;
        }
    }
    return check_reals(reals(l, y->at.extra_target), (uint64_t)extra[y->rows] * y->block) == EDGERL_OK
               ? check_padding(y, reals(l, y->at.extra_target), extra[y->full_rows], extra[y->rows])
               : EDGERL_NOT_FINITE;
}

static int32_t check_layer_state(const learner *l, const layer *y) {
    const uint32_t *starts = words_at(l, y->at.starts);
    int32_t status = check_rows(y, starts, indices_at(l, y->at.columns));
    if (status == EDGERL_OK && (starts[y->rows] != y->blocks || starts[y->full_rows] != y->full_blocks)) {
        status = EDGERL_BAD_INDEX;
    }
    const uint64_t arrays[4] = {y->at.weight, y->at.first_moment, y->at.second_moment, y->at.target};
    const uint64_t biases[4] = {y->at.bias, y->at.bias_first_moment, y->at.bias_second_moment, y->at.bias_target};
    for (uint32_t i = 0; i < 4 && status == EDGERL_OK; i++) {
        status = check_reals(reals(l, arrays[i]), weights_of(y));
        if (status == EDGERL_OK) {
            status = check_reals(reals(l, biases[i]), units_of(y));
        }
        if (status == EDGERL_OK) {
            status = check_padding(y, reals(l, arrays[i]), y->full_blocks, y->blocks);
        }
        if (status == EDGERL_OK) {
            status = check_padding(y, reals(l, biases[i]), y->full_rows, y->rows);
        }
    }
    for (uint64_t i = 0; status == EDGERL_OK && i < weights_of(y); i++) {
        status = reals(l, y->at.second_moment)[i] < 0 ? EDGERL_BAD_ARGUMENT : EDGERL_OK;
    }
    for (uint64_t i = 0; status == EDGERL_OK && i < units_of(y); i++) {
        status = reals(l, y->at.bias_second_moment)[i] < 0 ? EDGERL_BAD_ARGUMENT : EDGERL_OK;
    }
    return status == EDGERL_OK && !y->is_dense ? check_target(l, y) : status;
}

static int is_a_sum(double x) { return x - x == 0; }

static int32_t check_progress(const edgerl_learner_progress *p) {
    if (p->evolution_is_due > 1 || p->reserved != 0 || p->updates > EDGERL_LEARNER_UPDATES) {
        return EDGERL_BAD_ARGUMENT;
    }
    return is_a_sum(p->critic_loss_sum) && is_a_sum(p->actor_loss_sum) ? EDGERL_OK : EDGERL_NOT_FINITE;
}

/* No update is under way. */
static int is_idle(const learner *l) { return l->place.instruction == 0 && l->place.item == 0 && l->place.row == 0; }

/* Whether the bytes begin like a learner's between two updates. */
static int32_t check_header(const learner *l) {
    if (l->magic != LEARNER_MAGIC || l->version != LEARNER_VERSION || l->sizeof_real != sizeof(real)) {
        return EDGERL_ARENA_INVALID;
    }
    return is_idle(l) ? EDGERL_OK : EDGERL_BUSY;
}

static int same_plans(const edgerl_layer_plan *a, const edgerl_layer_plan *b, uint32_t count) {
    for (uint32_t i = 0; i < count; i++) {
        if (a[i].n_inputs != b[i].n_inputs || a[i].n_outputs != b[i].n_outputs || a[i].block != b[i].block ||
            a[i].full_blocks != b[i].full_blocks || a[i].narrow_blocks != b[i].narrow_blocks) {
            return 0;
        }
    }
    return 1;
}

/* Two configurations of which the same state can be, if they are valid. */
static int same_state(const edgerl_learner_config *a, const edgerl_learner_config *b) {
    return a->n_observations == b->n_observations && a->n_actions == b->n_actions && a->n_layers == b->n_layers &&
           a->n_layers <= EDGERL_LEARNER_LAYERS && same_plans(a->actor, b->actor, a->n_layers) &&
           same_plans(a->critic, b->critic, a->n_layers);
}

int32_t edgerl_learner_config_in(const void *state, size_t bytes, edgerl_learner_config *config) {
    if (config == NULL) {
        return EDGERL_BAD_ARGUMENT;
    }
    int32_t status = check_arena(state, bytes, sizeof(learner));
    const learner *l = state;
    if (status == EDGERL_OK) {
        status = check_header(l);
    }
    if (status == EDGERL_OK) {
        status = check_config(&l->config);
    }
    if (status == EDGERL_OK) {
        *config = l->config;
    }
    return status;
}

int32_t edgerl_learner_open(void *arena, size_t bytes, const edgerl_learner_config *config) {
    int32_t status = check_arena(arena, bytes, sizeof(learner));
    if (status != EDGERL_OK) {
        return status;
    }
    learner *l = arena;
    const edgerl_learner_config own = config == NULL ? l->config : *config; /* it may lie in the arena */
    const edgerl_learner_progress progress = l->progress;
    status = check_header(l);
    if (l->magic == LEARNER_MAGIC) {
        l->magic = 0; /* whatever is wrong with it, no other call takes it */
    }
    if (status == EDGERL_OK && !same_state(&own, &l->config)) {
        status = EDGERL_BAD_SHAPE;
    }
    if (status == EDGERL_OK) {
        status = check_progress(&progress);
    }
    if (status == EDGERL_OK) {
        status = lay_out_arena(&own, arena, bytes);
    }
    if (status != EDGERL_OK) {
        return status;
    }
    l->progress = progress;
    for (uint32_t n = 0; n < NETWORKS; n++) {
        for (uint32_t i = 0; i < own.n_layers; i++) {
            status = check_layer_state(l, &l->layers[n][i]);
            if (status != EDGERL_OK) {
                return status;
            }
        }
    }
    l->magic = LEARNER_MAGIC;
    zero((char *)arena + l->bytes.state, l->bytes.total - l->bytes.state);
    derive(l);
    return EDGERL_OK;
}

/* ------------------------------------------------------------------------------------------------------- asking */

static int32_t check_learner(const void *arena, const void *a, const void *b) {
    if (arena == NULL || a == NULL || b == NULL) {
        return EDGERL_BAD_ARGUMENT;
    }
    return ((const learner *)arena)->magic == LEARNER_MAGIC ? EDGERL_OK : EDGERL_ARENA_INVALID;
}

int32_t edgerl_learner_config_of(const void *arena, edgerl_learner_config *config) {
    const int32_t status = check_learner(arena, config, config);
    if (status != EDGERL_OK) {
        return status;
    }
    *config = ((const learner *)arena)->config;
    return EDGERL_OK;
}

int32_t edgerl_learner_layer_of(const void *arena, uint32_t network, uint32_t index, edgerl_learner_layer *arrays) {
    const int32_t status = check_learner(arena, arrays, arrays);
    if (status != EDGERL_OK) {
        return status;
    }
    const learner *l = arena;
    if (network >= NETWORKS || index >= l->config.n_layers) {
        return EDGERL_BAD_ARGUMENT;
    }
    *arrays = l->layers[network][index].at;
    return EDGERL_OK;
}

int32_t edgerl_learner_progress_of(const void *arena, edgerl_learner_progress *progress) {
    const int32_t status = check_learner(arena, progress, progress);
    if (status != EDGERL_OK) {
        return status;
    }
    *progress = ((const learner *)arena)->progress;
    return EDGERL_OK;
}

int32_t edgerl_learner_set_progress(void *arena, const edgerl_learner_progress *progress) {
    int32_t status = check_learner(arena, progress, progress);
    if (status != EDGERL_OK) {
        return status;
    }
    learner *l = arena;
    const edgerl_learner_progress *now = &l->progress;
    const int is_same = progress->updates == now->updates && progress->evolution_is_due == now->evolution_is_due;
    if (!is_idle(l) && !is_same) {
        return EDGERL_BUSY; /* what an update does depends on its number: none can change it on the way */
    }
    status = check_progress(progress);
    if (status == EDGERL_OK) {
        l->progress = *progress;
    }
    return status;
}

/* ------------------------------------------------------------------------------------------------------- acting */

/* y = W x + b of one layer for a single x. */
static void act_layer(const uint32_t *starts, const uint16_t *columns, const real *weight, const real *bias, uint32_t rows,
                      uint32_t block, const real *x, real *y) {
    for (uint32_t row = 0; row < rows; row++) {
        const uint32_t end = starts[row + 1];
        uint32_t i = starts[row];
        if (block == 4) {
            real a = bias[4 * row], b = bias[4 * row + 1], c = bias[4 * row + 2], d = bias[4 * row + 3];
            for (; i < end; i++) {
                const real *w = weight + 4 * (size_t)i, input = x[columns[i]];
                a += w[0] * input;
                b += w[1] * input;
                c += w[2] * input;
                d += w[3] * input;
            }
            y[4 * row] = a;
            y[4 * row + 1] = b;
            y[4 * row + 2] = c;
            y[4 * row + 3] = d;
            continue;
        }
        real a = bias[row], b = 0, c = 0, d = 0; /* four sums: an addition need not wait for the one before */
        for (; i + 4 <= end; i += 4) {
            a += weight[i] * x[columns[i]];
            b += weight[i + 1] * x[columns[i + 1]];
            c += weight[i + 2] * x[columns[i + 2]];
            d += weight[i + 3] * x[columns[i + 3]];
        }
        for (; i < end; i++) {
            a += weight[i] * x[columns[i]];
        }
        y[row] = (a + b) + (c + d);
    }
}

static void act_with(const learner *l, const acting *with, const float *observation, float *action) {
    real *x = reals(l, l->acting_vectors[0]), *y = reals(l, l->acting_vectors[1]);
    for (uint32_t i = 0; i < l->config.n_observations; i++) {
        x[i] = (real)observation[i];
    }
    for (uint32_t i = 0; i < l->config.n_layers; i++) {
        const layer *one = &l->layers[EDGERL_ACTOR][i];
        act_layer(words_at(l, with->starts[i]), indices_at(l, with->columns[i]), reals(l, with->weight[i]),
                  reals(l, with->bias[i]), one->rows, one->block, x, y);
        for (uint32_t k = 0; i + 1 < l->config.n_layers && k < one->n_outputs; k++) {
            y[k] = y[k] < 0 ? 0 : y[k];
        }
        real *swap = x;
        x = y;
        y = swap;
    }
    for (uint32_t i = 0; i < l->config.n_actions; i++) {
        action[i] = (float)tanh_real(x[i]);
    }
}

int32_t edgerl_learner_act(void *arena, const float *observation, float *action) {
    const int32_t status = check_learner(arena, observation, action);
    if (status != EDGERL_OK) {
        return status;
    }
    const learner *l = arena;
    const float_mode mode = flush_denormals();
    uint32_t copy_in_use;
    do { /* again only where two updates were completed while this action was computed */
        copy_in_use = __atomic_load_n(&l->published, __ATOMIC_ACQUIRE);
        act_with(l, &l->acting[copy_in_use % 2], observation, action);
        __atomic_thread_fence(__ATOMIC_ACQUIRE); /* all of the copy was read before */
    } while (__atomic_load_n(&l->publishing, __ATOMIC_RELAXED) - copy_in_use > 1);
    restore_float_mode(mode);
    return EDGERL_OK;
}
