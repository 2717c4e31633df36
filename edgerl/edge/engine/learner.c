/* SPDX-License-Identifier: MIT */
/* A learner: its beginning, taking it up again, and asking it. */
#include "learner.h"
#include "numeric.h"
#include "random.h"

/* ----------------------------------------------------------------------------------------------- the beginning */

/* The initial topology: `count` positions of a class, ascending, into starts and columns. */
static void draw_class(learner *l, const sparse_layer *layer, uint32_t network, uint32_t index, const width_class *c) {
    const uint32_t count = c->last - c->first, positions = (c->last_row - c->first_row) * layer->n_inputs;
    uint32_t *starts = words_at(l, layer->arrays.starts);
    uint16_t *columns = indices_at(l, layer->arrays.columns);
    const topology_space w = lay_out_workspace(layer, l->workspace, &l->config);
    uint32_t *chosen = words_at(l, w.chosen), *set = words_at(l, w.set);
    const int all = count == positions;
    if (!all) {
        const draws d = draws_for(l->config.seed, PURPOSE_TOPOLOGY, 0, network, index + c->narrow);
        sample_without_replacement(&d, count, positions, chosen, set);
    }
    for (uint32_t i = 0, row = c->first_row; row < c->last_row; row++) {
        starts[row] = c->first + i;
        const uint32_t end = (row - c->first_row + 1) * layer->n_inputs;
        for (; i < count && (all ? i : chosen[i]) < end; i++) {
            columns[c->first + i] = (uint16_t)((all ? i : chosen[i]) % layer->n_inputs);
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

/* A target begins as its online network. */
static void copy_to_target(learner *l, const sparse_layer *layer) {
    const edgerl_learner_layer *a = &layer->arrays;
    copy(bytes_at(l, a->target), bytes_at(l, a->weight), weights_of(layer) * sizeof(real));
    copy(bytes_at(l, a->bias_target), bytes_at(l, a->bias), units_of(layer) * sizeof(real));
    if (has_layer_norm(layer)) {
        copy(bytes_at(l, a->norm_target), bytes_at(l, a->norm), 2 * units_of(layer) * sizeof(real));
    }
    for (uint32_t i = 0; !layer->is_dense && i < layer->blocks; i++) {
        set_bit(words_at(l, a->in_target), i);
    }
}

static void draw_layer(learner *l, uint32_t network, uint32_t index) {
    const sparse_layer *layer = &l->layers[network][index];
    width_class classes[2];
    const uint32_t n_classes = classes_of(layer, classes);
    words_at(l, layer->arrays.starts)[0] = 0;
    for (uint32_t i = 0; i < n_classes; i++) {
        draw_class(l, layer, network, index, &classes[i]);
    }
    const double bound = double_root((double)layer->n_inputs);
    const draws weights = draws_for(l->config.seed, PURPOSE_WEIGHT, 0, network, index);
    const draws biases = draws_for(l->config.seed, PURPOSE_BIAS, 0, network, index);
    const uint32_t *starts = words_at(l, layer->arrays.starts);
    const uint16_t *columns = indices_at(l, layer->arrays.columns);
    for (uint32_t row = 0; row < layer->rows; row++) {
        for (uint32_t k = 0; k < layer->block && row * layer->block + k < layer->n_outputs; k++) {
            const uint32_t output = row * layer->block + k;
            for (uint32_t i = starts[row]; i < starts[row + 1]; i++) {
                const size_t at_weight = (size_t)i * layer->block + k;
                reals_at(l, layer->arrays.weight)[at_weight] =
                    initial_value(&weights, (uint64_t)output * layer->n_inputs + columns[i], bound);
            }
            reals_at(l, layer->arrays.bias)[output] = initial_value(&biases, output, bound);
        }
    }
    const uint32_t scales = has_layer_norm(layer) ? layer->n_outputs : has_batch_norm(layer) ? layer->n_inputs : 0;
    for (uint32_t unit = 0; unit < scales; unit++) {
        reals_at(l, layer->arrays.norm)[unit] = 1; /* the shifts are 0 */
    }
    for (uint32_t input = 0; has_batch_norm(layer) && input < layer->n_inputs; input++) {
        reals_at(l, layer->arrays.running)[layer->n_inputs + input] = 1; /* the means are 0 */
    }
    if (has_target(layer)) {
        copy_to_target(l, layer);
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
static void transpose(learner *l, const sparse_layer *layer) {
    const uint32_t *starts = words_at(l, layer->arrays.starts);
    const uint16_t *columns = indices_at(l, layer->arrays.columns);
    uint32_t *column_starts = words_at(l, layer->column_starts);
    zero(column_starts, ((uint64_t)layer->n_inputs + 1) * sizeof(uint32_t));
    for (uint32_t i = 0; i < layer->blocks; i++) {
        column_starts[columns[i] + 1]++;
    }
    for (uint32_t j = 0; j < layer->n_inputs; j++) {
        column_starts[j + 1] += column_starts[j];
    }
    for (uint32_t row = 0; row < layer->rows; row++) { /* the starts move on to the next column's … */
        for (uint32_t i = starts[row]; i < starts[row + 1]; i++) {
            const uint32_t to = column_starts[columns[i]]++;
            indices_at(l, layer->column_rows)[to] = (uint16_t)row;
            indices_at(l, layer->column_places)[to] = (uint16_t)(i - starts[row]);
        }
    }
    for (uint32_t j = layer->n_inputs; j > 0; j--) { /* … and back */
        column_starts[j] = column_starts[j - 1];
    }
    column_starts[0] = 0;
    find_panels(column_starts, indices_at(l, layer->column_rows), layer->n_inputs, layer->column_panels,
                words_at(l, layer->column_bounds));
}

EDGERL_INTERNAL void index_layer(learner *l, sparse_layer *layer) {
    layer->topology++;
    find_panels(words_at(l, layer->arrays.starts), indices_at(l, layer->arrays.columns), layer->rows, layer->row_panels,
                words_at(l, layer->row_bounds));
    if (layer->has_transposed) {
        transpose(l, layer);
    }
}

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
        for (uint32_t i = 0; i < layers_of(l, n); i++) {
            index_layer(l, &l->layers[n][i]);
        }
    }
    for (uint32_t i = 0; i < l->config.actor.n_layers; i++) {
        publish_layer(&(pass){.l = l, .network = EDGERL_ACTOR, .index = i});
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

int32_t edgerl_learner_begin(const edgerl_learner_config *config, void *arena, size_t bytes) {
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
        for (uint32_t i = 0; i < layers_of(l, n); i++) {
            draw_layer(l, n, i);
        }
    }
    l->progress.log_temperature = own.initial_log_temperature;
    l->magic = LEARNER_MAGIC;
    derive(l);
    return EDGERL_OK;
}

/* ------------------------------------------------------------------------------------------------ taking it up */

static int32_t check_reals(const real *values, uint64_t count) {
    for (uint64_t i = 0; i < count; i++) {
        if (!is_finite(values[i])) {
            return EDGERL_NOT_FINITE;
        }
    }
    return EDGERL_OK;
}

/* Rows of rising columns; `most` at most, `exactly` that many where exact. */
static int32_t check_rows(const sparse_layer *layer, const uint32_t *starts, const uint16_t *columns) {
    if (starts[0] != 0) {
        return EDGERL_BAD_INDEX;
    }
    for (uint32_t row = 0; row < layer->rows; row++) {
        if (starts[row + 1] < starts[row] || starts[row + 1] > layer->blocks) {
            return EDGERL_BAD_INDEX;
        }
        for (uint32_t i = starts[row]; i < starts[row + 1]; i++) {
            if (columns[i] >= layer->n_inputs || (i > starts[row] && columns[i] <= columns[i - 1])) {
                return EDGERL_BAD_INDEX;
            }
        }
    }
    return EDGERL_OK;
}

/* The lanes of narrow blocks that stand for no weight hold 0. */
static int32_t check_padding(const sparse_layer *layer, const real *values, uint64_t first, uint64_t last) {
    for (uint64_t i = first; layer->rows > layer->full_rows && i < last; i++) {
        for (uint32_t k = layer->n_outputs % layer->block; k < layer->block; k++) {
            if (values[i * layer->block + k] != 0) {
                return EDGERL_BAD_INDEX;
            }
        }
    }
    return EDGERL_OK;
}

/* A target has as many blocks of each width as its online network: so many that only it has as only that one has. */
static int32_t check_target(const learner *l, const sparse_layer *layer) {
    const uint32_t *starts = words_at(l, layer->arrays.starts), *extra = words_at(l, layer->arrays.extra_starts);
    const uint16_t *columns = indices_at(l, layer->arrays.columns), *extra_columns = indices_at(l, layer->arrays.extra_columns);
    const uint32_t *bits = words_at(l, layer->arrays.in_target);
    const int32_t status = check_rows(layer, extra, extra_columns);
    if (status != EDGERL_OK) {
        return status;
    }
    for (uint32_t row = 0; row < layer->rows; row++) {
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
    const uint32_t n_classes = classes_of(layer, classes);
    for (uint32_t c = 0; c < n_classes; c++) {
        uint32_t lacking = 0;
        for (uint32_t i = classes[c].first; i < classes[c].last; i++) {
            if (get_bit(bits, i)) {
                continue;
            }
            lacking++;
            for (uint32_t k = 0; k < layer->block; k++) {
                if (reals_at(l, layer->arrays.target)[(size_t)i * layer->block + k] != 0) {
                    return EDGERL_BAD_INDEX;
                }
            }
        }
        if (lacking != extra[classes[c].last_row] - extra[classes[c].first_row]) {
            return EDGERL_BAD_INDEX;
        }
    }
    return check_reals(reals_at(l, layer->arrays.extra_target), (uint64_t)extra[layer->rows] * layer->block) == EDGERL_OK
               ? check_padding(layer, reals_at(l, layer->arrays.extra_target), extra[layer->full_rows], extra[layer->rows])
               : EDGERL_NOT_FINITE;
}

/* The four arrays of a parameter (value, moments, target), of `count` numbers each, of which the blocks first … last - 1 are the
 * narrow ones. */
static int32_t check_parameter(const learner *l, const sparse_layer *layer, const uint64_t arrays[4], uint64_t count,
                               uint64_t first, uint64_t last) {
    for (uint32_t i = 0; i < 4 && arrays[i] != 0; i++) { /* the last one is the target's, and may not be there */
        int32_t status = check_reals(reals_at(l, arrays[i]), count);
        if (status == EDGERL_OK) {
            status = check_padding(layer, reals_at(l, arrays[i]), first, last);
        }
        if (status != EDGERL_OK) {
            return status;
        }
    }
    for (uint64_t i = 0; i < count; i++) {
        if (reals_at(l, arrays[2])[i] < 0) {
            return EDGERL_BAD_ARGUMENT;
        }
    }
    return EDGERL_OK;
}

/* Means, then variances. */
static int32_t check_running(const real *statistics, uint32_t count) {
    for (uint32_t i = 0; i < count; i++) {
        if (statistics[count + i] < 0) {
            return EDGERL_BAD_ARGUMENT;
        }
    }
    return check_reals(statistics, 2 * (uint64_t)count);
}

static int32_t check_layer_state(const learner *l, const sparse_layer *layer) {
    const uint32_t *starts = words_at(l, layer->arrays.starts);
    int32_t status = check_rows(layer, starts, indices_at(l, layer->arrays.columns));
    if (status == EDGERL_OK && (starts[layer->rows] != layer->blocks || starts[layer->full_rows] != layer->full_blocks)) {
        status = EDGERL_BAD_INDEX;
    }
    const edgerl_learner_layer *a = &layer->arrays;
    const uint64_t weights[4] = {a->weight, a->first_moment, a->second_moment, a->target};
    const uint64_t biases[4] = {a->bias, a->bias_first_moment, a->bias_second_moment, a->bias_target};
    const uint64_t norms[4] = {a->norm, a->norm_first_moment, a->norm_second_moment, a->norm_target};
    if (status == EDGERL_OK) {
        status = check_parameter(l, layer, weights, weights_of(layer), layer->full_blocks, layer->blocks);
    }
    if (status == EDGERL_OK) {
        status = check_parameter(l, layer, biases, units_of(layer), layer->full_rows, layer->rows);
    }
    if (status == EDGERL_OK && has_batch_norm(layer)) {
        status = check_parameter(l, layer, norms, 2 * scales_of(layer), 0, 0);
        if (status == EDGERL_OK) {
            status = check_running(reals_at(l, a->running), layer->n_inputs);
        }
    }
    if (status == EDGERL_OK && has_layer_norm(layer)) {
        status = check_parameter(l, layer, norms, 2 * units_of(layer), layer->full_rows, layer->rows);
        if (status == EDGERL_OK) {
            status = check_parameter(l, layer, norms, 2 * units_of(layer), layer->rows + layer->full_rows, 2u * layer->rows);
        }
    }
    return status == EDGERL_OK && has_target(layer) && !layer->is_dense ? check_target(l, layer) : status;
}

static int32_t check_progress(const edgerl_learner_progress *p) {
    if (p->evolution_is_due > 1 || p->reserved != 0 || p->updates > EDGERL_LEARNER_UPDATES) {
        return EDGERL_BAD_ARGUMENT;
    }
    const double numbers[] = {p->critic_loss_sum, p->actor_loss_sum, p->log_temperature, p->temperature_first_moment,
                              p->temperature_second_moment};
    for (uint32_t i = 0; i < sizeof numbers / sizeof numbers[0]; i++) {
        if (!in_range(numbers[i], -DBL_MAX, DBL_MAX)) {
            return EDGERL_NOT_FINITE;
        }
    }
    return p->temperature_second_moment >= 0 ? EDGERL_OK : EDGERL_BAD_ARGUMENT;
}

EDGERL_INTERNAL int is_idle(const learner *l) { return l->place.step == 0 && l->place.item == 0 && l->place.row == 0; }

/* Whether the bytes begin like a learner's between two updates. */
static int32_t check_header(const learner *l) {
    if (l->magic != LEARNER_MAGIC || l->version != LEARNER_VERSION || l->sizeof_real != sizeof(real)) {
        return EDGERL_ARENA_INVALID;
    }
    return is_idle(l) ? EDGERL_OK : EDGERL_BUSY;
}

static int same_layer(const edgerl_layer_plan *a, const edgerl_layer_plan *b) {
    return a->n_inputs == b->n_inputs && a->n_outputs == b->n_outputs && a->block == b->block &&
           a->full_blocks == b->full_blocks && a->narrow_blocks == b->narrow_blocks;
}

static int same_network(const edgerl_network_plan *a, const edgerl_network_plan *b) {
    if (a->n_layers != b->n_layers || a->n_layers > EDGERL_LEARNER_LAYERS || a->norm != b->norm) {
        return 0;
    }
    for (uint32_t i = 0; i < a->n_layers; i++) {
        if (!same_layer(&a->layers[i], &b->layers[i])) {
            return 0;
        }
    }
    return 1;
}

/* Two configurations of which the same state can be, if they are valid. */
static int same_state(const edgerl_learner_config *a, const edgerl_learner_config *b) {
    return a->n_observations == b->n_observations && a->n_actions == b->n_actions && a->algorithm == b->algorithm && same_network(&a->actor, &b->actor) &&
           same_network(&a->critic, &b->critic);
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
        for (uint32_t i = 0; i < layers_of(l, n); i++) {
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

EDGERL_INTERNAL int32_t check_learner(const void *arena, const void *a, const void *b) {
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
    if (network >= NETWORKS || index >= layers_of(l, network)) {
        return EDGERL_BAD_ARGUMENT;
    }
    *arrays = l->layers[network][index].arrays;
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
