/* SPDX-License-Identifier: MIT */
/* Where everything lies in a learner's arena, and which configurations there are. */
#include "learner.h"

/* ------------------------------------------------------------------------------------------- the configuration */

static uint64_t full_positions(const edgerl_layer_plan *p) { return (uint64_t)p->n_inputs * (p->n_outputs / p->block); }

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

static int32_t check_network(const edgerl_network_plan *plan, uint32_t n_inputs, uint32_t n_outputs) {
    if (plan->n_layers < 2 || plan->n_layers > EDGERL_LEARNER_LAYERS) {
        return EDGERL_BAD_SHAPE;
    }
    if (plan->norm < EDGERL_NORM_NONE || plan->norm > EDGERL_NORM_BATCH || plan->evolves > 1 || !in_range(plan->learning_rate, 0, 1)) {
        return EDGERL_BAD_ARGUMENT;
    }
    const edgerl_layer_plan *layers = plan->layers;
    for (uint32_t i = 0; i < plan->n_layers; i++) {
        const int32_t status = check_plan(&layers[i], i == 0 ? n_inputs : layers[i - 1].n_outputs);
        if (status != EDGERL_OK) {
            return status;
        }
    }
    return layers[plan->n_layers - 1].n_outputs == n_outputs ? EDGERL_OK : EDGERL_BAD_SHAPE;
}

/* One that networks can learn with, and that this program has. */
static int is_activation(int32_t a) {
    return (a == EDGERL_RELU || a == EDGERL_ELU || a == EDGERL_SILU || a == EDGERL_TANH) && has_activation((activation)a);
}

EDGERL_INTERNAL int32_t check_config(const edgerl_learner_config *c) {
    if (c->n_observations < 1 || c->n_actions < 1 || c->n_observations > EDGERL_LEARNER_UNITS ||
        c->n_actions > EDGERL_LEARNER_UNITS - c->n_observations ||
        (is_stochastic(c) && c->n_actions > EDGERL_LEARNER_UNITS / 2)) {
        return EDGERL_BAD_SHAPE;
    }
    if (c->batch < 1 || c->batch > 65536 || c->policy_delay < 1 || c->n_step < 1 || c->n_step > 64 ||
        (c->lanes != 1 && c->lanes != 4 && c->lanes != 8 && c->lanes != 16) || growth_rule_of(c->growth) == NULL ||
        c->drop_schedule < EDGERL_DROP_CONSTANT || c->drop_schedule > EDGERL_DROP_COSINE || c->drop_criterion < EDGERL_DROP_MAGNITUDE ||
        c->drop_criterion > EDGERL_DROP_SCALED_MAGNITUDE || !is_activation(c->activation) || c->algorithm < EDGERL_TD3 ||
        c->algorithm > (is_built(EDGERL_IMITATION) ? EDGERL_CLIPPED_IMITATION : EDGERL_CROSSQ) || !in_range(c->dropout, 0, 0.9) ||
        (c->dropout > 0 && !EDGERL_DROPOUT) ||
        !in_range(c->initial_log_temperature, -100, 100) || !in_range(c->target_entropy, -1e6, 1e6) || c->optimiser < EDGERL_ADAM ||
        c->optimiser > EDGERL_ADAMW || !in_range(c->discount, 0, 1) || !in_range(c->soft_update, 0, 1) ||
        !in_range(c->weight_decay, 0, 1) || !in_range(c->first_moment_decay, 0, 1) || c->first_moment_decay == 1 ||
        !in_range(c->gradient_clip, 0, (double)FLT_MAX) ||
        c->actor.norm == EDGERL_NORM_LAYER || !in_range(c->target_noise, 0, 10) || !in_range(c->target_noise_clip, 0, 10) || !in_range(c->drop_fraction, 0, 1)) {
        return EDGERL_BAD_ARGUMENT;
    }
    const int has_batch_norms = c->actor.norm == EDGERL_NORM_BATCH || c->critic.norm == EDGERL_NORM_BATCH;
    if (has_batch_norms && (c->algorithm != EDGERL_CROSSQ || c->batch < 2)) {
        return EDGERL_BAD_ARGUMENT;
    }
    const int32_t actor = check_network(&c->actor, c->n_observations, outputs_of_actor(c));
    if (actor == EDGERL_OK && imitates(c)) {
        return c->critic.n_layers == 0 && c->policy_delay == 1 ? EDGERL_OK : EDGERL_BAD_ARGUMENT;
    }
    return actor != EDGERL_OK ? actor : check_network(&c->critic, c->n_observations + c->n_actions, 1);
}

/* ------------------------------------------------------------------------------------------------- the layout */

/* How many panels lines over `length` positions are cut into, where each has `worth` blocks in each panel on average. */
static uint32_t panels_of(uint32_t length, uint32_t blocks, uint32_t lines, uint32_t worth) {
    const uint32_t panels = (length + PANEL - 1) / PANEL;
    return blocks / lines / panels >= worth ? panels : 1;
}

/* What a layer has. */
typedef struct layer_parts {
    int32_t norm; /* an edgerl_norm */
    int target, transposed;
} layer_parts;

static void lay_out_layer(sparse_layer *layer, const edgerl_layer_plan *p, layer_parts has, uint64_t *end, uint64_t *derived) {
    layer->n_inputs = p->n_inputs;
    layer->n_outputs = p->n_outputs;
    layer->block = p->block;
    layer->full_rows = p->n_outputs / p->block;
    layer->rows = (p->n_outputs + p->block - 1) / p->block;
    layer->full_blocks = p->full_blocks;
    layer->blocks = p->full_blocks + p->narrow_blocks;
    layer->is_dense =
        p->full_blocks == full_positions(p) && (layer->rows == layer->full_rows || p->narrow_blocks == p->n_inputs);
    const uint64_t weights = weights_of(layer), units = units_of(layer);
    layer->arrays.starts = set_aside(end, (uint64_t)layer->rows + 1, sizeof(uint32_t));
    layer->arrays.columns = set_aside(end, layer->blocks, sizeof(uint16_t));
    layer->arrays.weight = set_aside(end, weights, sizeof(real));
    layer->arrays.first_moment = set_aside(end, weights, sizeof(real));
    layer->arrays.second_moment = set_aside(end, weights, sizeof(real));
    if (has.target) {
        layer->arrays.target = set_aside(end, weights, sizeof(real));
    }
    if (has.target && !layer->is_dense) {
        layer->arrays.in_target = set_aside(end, (layer->blocks + 31u) / 32u, sizeof(uint32_t));
        layer->arrays.extra_starts = set_aside(end, (uint64_t)layer->rows + 1, sizeof(uint32_t));
        layer->arrays.extra_columns = set_aside(end, layer->blocks, sizeof(uint16_t));
        layer->arrays.extra_target = set_aside(end, weights, sizeof(real));
    }
    layer->arrays.bias = set_aside(end, units, sizeof(real));
    layer->arrays.bias_first_moment = set_aside(end, units, sizeof(real));
    layer->arrays.bias_second_moment = set_aside(end, units, sizeof(real));
    if (has.target) {
        layer->arrays.bias_target = set_aside(end, units, sizeof(real));
    }
    layer->norm = has.norm;
    if (has.norm != EDGERL_NORM_NONE) {
        const uint64_t numbers = 2 * (uint64_t)scales_of(layer);
        layer->arrays.norm = set_aside(end, numbers, sizeof(real));
        layer->arrays.norm_first_moment = set_aside(end, numbers, sizeof(real));
        layer->arrays.norm_second_moment = set_aside(end, numbers, sizeof(real));
        if (has.target) {
            layer->arrays.norm_target = set_aside(end, numbers, sizeof(real));
        }
    }
    if (has.norm == EDGERL_NORM_BATCH) {
        layer->arrays.running = set_aside(end, 2 * (uint64_t)p->n_inputs, sizeof(real));
    }
    layer->row_panels =
        panels_of(layer->n_inputs, layer->blocks, layer->rows, layer->block == 4 ? BLOCK_PANEL_WORTH : PANEL_WORTH);
    layer->column_panels =
        has.transposed && layer->block == 1 ? panels_of(layer->rows, layer->blocks, layer->n_inputs, PANEL_WORTH) : 1;
    /* Offsets of what can be made anew are relative to the end of the state, which is not known yet. */
    layer->has_transposed = has.transposed && p->block == 1;
    if (layer->has_transposed) {
        layer->column_starts = set_aside(derived, (uint64_t)p->n_inputs + 1, sizeof(uint32_t));
        layer->column_rows = set_aside(derived, layer->blocks, sizeof(uint16_t));
        layer->column_places = set_aside(derived, layer->blocks, sizeof(uint16_t));
    }
    layer->row_bounds = set_aside(derived, (uint64_t)(layer->row_panels - 1) * layer->rows, sizeof(uint32_t));
    layer->column_bounds = set_aside(derived, (uint64_t)(layer->column_panels - 1) * layer->n_inputs, sizeof(uint32_t));
}

static void lay_out_acting(learner *l, uint64_t *end) {
    for (uint32_t which = 0; which < 2; which++) {
        for (uint32_t i = 0; i < l->config.actor.n_layers; i++) {
            const sparse_layer *layer = &l->layers[EDGERL_ACTOR][i];
            l->acting[which].starts[i] = set_aside(end, (uint64_t)layer->rows + 1, sizeof(uint32_t));
            l->acting[which].columns[i] = set_aside(end, layer->blocks, sizeof(uint16_t));
            l->acting[which].weight[i] = set_aside(end, weights_of(layer), sizeof(real));
            l->acting[which].bias[i] = set_aside(end, units_of(layer), sizeof(real));
        }
    }
}

static uint64_t larger(uint64_t a, uint64_t b) { return a > b ? a : b; }

/* Units of a layer of a plan, padded; 0 where there is no such layer. */
static uint64_t padded_units(const edgerl_network_plan *plan, uint32_t index) {
    return index < plan->n_layers ? padded(plan->layers[index].n_outputs) : 0;
}

/* Numbers for the gradients by weights, by biases, and by scales and shifts of a norm. */
typedef struct gradient_room {
    uint64_t weights, units, norms;
} gradient_room;

/* Of layer `index`, in whichever network it is largest. */
static gradient_room gradient_room_of(const learner *l, uint32_t index) {
    gradient_room most = {0, 0, 0};
    for (uint32_t n = 0; n < NETWORKS; n++) {
        const sparse_layer *layer = &l->layers[n][index];
        const uint64_t row = is_scored(l->config.growth) ? 4 * (uint64_t)layer->n_inputs : 0; /* that growth scores */
        most.weights = larger(most.weights, round_up(larger(weights_of(layer), row), 16));
        most.units = larger(most.units, padded(layer->n_outputs));
        most.norms = larger(most.norms, round_up(2 * (uint64_t)scales_of(layer), 16));
    }
    return most;
}

/* Of all layers before `index`, which are kept where gradients are cut. */
static gradient_room gradient_room_before(const learner *l, uint32_t index) {
    gradient_room all = {0, 0, 0};
    for (uint32_t i = 0; clips_gradients(&l->config) && i < index; i++) {
        const gradient_room room = gradient_room_of(l, i);
        all.weights += room.weights;
        all.units += room.units;
        all.norms += room.norms;
    }
    return all;
}

EDGERL_INTERNAL parameter_gradients gradients_of(const pass *p) {
    const learner *l = p->l;
    const gradient_room before = gradient_room_before(l, p->index);
    return (parameter_gradients){
        l->weight_gradient + before.weights * sizeof(real),
        l->bias_gradient + before.units * sizeof(real),
        l->norm_gradient + before.norms * sizeof(real),
    };
}

/* The gradients of one layer at a time; or, where they are cut, of all layers of a network. */
static void lay_out_gradients(learner *l, uint64_t *end) {
    gradient_room room = gradient_room_before(l, EDGERL_LEARNER_LAYERS);
    for (uint32_t i = 0; i < EDGERL_LEARNER_LAYERS; i++) {
        const gradient_room one = gradient_room_of(l, i);
        room.weights = larger(room.weights, one.weights);
        room.units = larger(room.units, one.units);
        room.norms = larger(room.norms, one.norms);
    }
    l->weight_gradient = set_aside(end, room.weights, sizeof(real));
    l->bias_gradient = set_aside(end, room.units, sizeof(real));
    if (room.norms > 0) {
        l->norm_gradient = set_aside(end, room.norms, sizeof(real));
    }
}

/* What the passes over a layer leave for the way back. */
static void lay_out_passes(learner *l, uint32_t network, uint32_t index, uint64_t *end) {
    const sparse_layer *layer = &l->layers[network][index];
    const uint64_t units = padded(layer->n_outputs), columns = l->stride;
    l->hidden[network][index] = set_aside(end, units * columns, sizeof(real));
    if (has_slopes(activation_behind(l, network, index))) {
        l->slopes[network][index] = set_aside(end, units * columns, sizeof(real));
    }
    if (has_dropout(&l->config, network, index)) {
        l->kept[network][index] = set_aside(end, units * columns, 1);
    }
    if (has_layer_norm(layer)) {
        l->sums[network][index] = set_aside(end, units * columns, sizeof(real));
        l->mean[network][index] = set_aside(end, 2 * columns, sizeof(real));
    }
    if (has_batch_norm(layer)) {
        folded_layer *to = &l->folded[network][index];
        to->weight = set_aside(end, weights_of(layer), sizeof(real));
        to->bias = set_aside(end, units_of(layer), sizeof(real));
        to->statistics = set_aside(end, 6 * (uint64_t)layer->n_inputs, sizeof(real));
    }
}

static void lay_out_scratch(learner *l, uint64_t *end) {
    const edgerl_learner_config *c = &l->config;
    const uint64_t columns = l->stride, inputs = padded((uint64_t)c->n_observations + c->n_actions);
    uint64_t most_inputs = inputs, workspace = 0;
    for (uint32_t n = 0; n < NETWORKS; n++) {
        for (uint32_t i = 0; i < layers_of(l, n); i++) {
            const sparse_layer *layer = &l->layers[n][i];
            most_inputs = larger(most_inputs, layer->n_inputs);
            if (!layer->is_dense) {
                workspace = larger(workspace, lay_out_workspace(layer, 0, c).end);
            }
        }
    }
    l->now = set_aside(end, inputs * columns, sizeof(real));
    l->next = has_joint_batch(c) ? l->now + l->width * sizeof(real) : set_aside(end, inputs * columns, sizeof(real));
    l->target_value = set_aside(end, columns, sizeof(real));
    l->returns = set_aside(end, columns, sizeof(float));
    l->discounts = set_aside(end, columns, sizeof(float));
    if (is_stochastic(c)) {
        l->log_density = set_aside(end, columns, sizeof(real));
    }
    const uint64_t noise = round_up((uint64_t)c->batch * c->n_actions, 4);
    l->noise = set_aside(end, noise, sizeof(real));
    l->words = set_aside(end, larger(noise, c->batch + 3u), sizeof(uint32_t));
    lay_out_gradients(l, end);
    if (c->critic.norm == EDGERL_NORM_LAYER) {
        l->norm_sums = set_aside(end, 2 * columns, sizeof(real));
    }
    if (c->actor.norm == EDGERL_NORM_BATCH || c->critic.norm == EDGERL_NORM_BATCH) {
        l->centring = set_aside(end, 2 * most_inputs, sizeof(real));
    }
    const uint64_t activations = *end;
    for (uint32_t i = 0; i < c->actor.n_layers || i < c->critic.n_layers; i++) {
        const uint64_t actor = padded_units(&c->actor, i), critic = padded_units(&c->critic, i);
        lay_out_passes(l, EDGERL_ACTOR, i, end);
        lay_out_passes(l, EDGERL_CRITIC_1, i, end);
        if (has_joint_batch(c)) {
            lay_out_passes(l, EDGERL_CRITIC_2, i, end);
        }
        l->gradient[i] = set_aside(end, larger(actor, critic) * columns, sizeof(real));
    }
    if (!has_joint_batch(c)) { /* then no pass over one critic is needed behind a pass over the other */
        copy(l->hidden[EDGERL_CRITIC_2], l->hidden[EDGERL_CRITIC_1], sizeof l->hidden[0]);
        copy(l->slopes[EDGERL_CRITIC_2], l->slopes[EDGERL_CRITIC_1], sizeof l->slopes[0]);
        copy(l->kept[EDGERL_CRITIC_2], l->kept[EDGERL_CRITIC_1], sizeof l->kept[0]);
        copy(l->sums[EDGERL_CRITIC_2], l->sums[EDGERL_CRITIC_1], sizeof l->sums[0]);
        copy(l->mean[EDGERL_CRITIC_2], l->mean[EDGERL_CRITIC_1], sizeof l->mean[0]);
    }
    l->action_gradient = set_aside(end, inputs * columns, sizeof(real));
    l->workspace = looks_at_activations(c) || has_joint_batch(c) ? *end : activations;
    l->workspace_bytes = workspace;
    *end = larger(*end, l->workspace + workspace);
}

EDGERL_INTERNAL void lay_out(learner *l, const edgerl_learner_config *config) {
    zero(l, sizeof *l);
    l->magic = LEARNER_MAGIC;
    l->version = LEARNER_VERSION;
    l->sizeof_real = sizeof(real);
    l->config = *config;
    l->width = (config->batch + config->lanes - 1) / config->lanes * config->lanes;
    /* Where rows are taken in chunks, an odd number of cache lines spreads the chunks over all of the first cache. */
    const uint32_t columns = has_joint_batch(config) ? 2 * l->width : l->width;
    l->stride = columns > 64 && columns % 32 == 0 && config->lanes > 1 ? columns + 16 : columns;
    uint64_t end = round_up(sizeof(learner), EDGERL_ALIGNMENT), derived = 0;
    for (uint32_t n = 0; n < NETWORKS; n++) {
        const edgerl_network_plan *plan = network_plan(config, n);
        for (uint32_t i = 0; i < plan->n_layers; i++) {
            const layer_parts has = {
                .norm = plan->norm == EDGERL_NORM_LAYER && i + 1 == plan->n_layers ? EDGERL_NORM_NONE : plan->norm,
                .target = config->algorithm == EDGERL_TD3 || (config->algorithm == EDGERL_SAC && n != EDGERL_ACTOR),
                .transposed = i > 0 || n == EDGERL_CRITIC_1 || (n == EDGERL_CRITIC_2 && config->algorithm != EDGERL_TD3),
            };
            lay_out_layer(&l->layers[n][i], &plan->layers[i], has, &end, &derived);
        }
    }
    l->bytes.state = end;
    for (uint32_t n = 0; n < NETWORKS; n++) {
        for (uint32_t i = 0; i < layers_of(l, n); i++) {
            sparse_layer *layer = &l->layers[n][i];
            layer->column_starts += end;
            layer->column_rows += end;
            layer->column_places += end;
            layer->row_bounds += end;
            layer->column_bounds += end;
        }
    }
    end += derived;
    lay_out_acting(l, &end);
    l->bytes.connections = end;
    uint64_t widest = config->n_observations;
    for (uint32_t i = 0; i < config->actor.n_layers; i++) {
        widest = larger(widest, padded_units(&config->actor, i));
    }
    l->acting_vectors[0] = set_aside(&end, widest, sizeof(real));
    l->acting_vectors[1] = set_aside(&end, widest, sizeof(real));
    lay_out_scratch(l, &end);
    l->bytes.total = end;
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

uint32_t edgerl_layout_number(void) {
    const uint32_t sizes[] = {sizeof(edgerl_layer),           sizeof(edgerl_policy_config), sizeof(edgerl_learner_config),
                              sizeof(edgerl_replay),          sizeof(edgerl_learner_layer), sizeof(edgerl_learner_progress),
                              sizeof(edgerl_learner_bytes_of)};
    uint32_t number = 0;
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        number = number * 1009 + sizes[i];
    }
    return number;
}
