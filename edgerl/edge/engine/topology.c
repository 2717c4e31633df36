/* SPDX-License-Identifier: MIT */
/* How topologies change: drop and grow (Algorithm 1 of the paper, TopologyEvolution), and the targets' sparsity maintenance.
 *
 * A layer's blocks lie in the order of their positions (row of blocks * n_inputs + input), so lower blocks win ties.
 */
#include "learner.h"

#define NONE UINT32_MAX
#define NO_COLUMN UINT16_MAX

/* |x|, without a branch that nothing could foresee. */
static inline real size_of(real x) {
    union {
        real_bits bits;
        real value;
    } u = {key_of(x)};
    return u.value;
}

/* Mean |w| of a block `width` outputs wide. */
static inline real magnitude_of(const real *values, uint32_t block, uint32_t width) {
    if (block == 1) {
        return size_of(values[0]);
    }
    real sum = size_of(values[0]);
    for (uint32_t k = 1; k < block; k++) {
        sum += size_of(values[k]);
    }
    return width == 4 ? sum * (real)0.25 : sum / (real)width;
}

static inline void swap_keys(real_bits *a, real_bits *b) {
    const real_bits swap = *a;
    *a = *b;
    *b = swap;
}

/* The element that is number k when sorted; partitions `v` (Hoare's quickselect, the median of three as pivot). */
static real_bits kth_smallest(real_bits *v, uint32_t count, uint32_t k) {
    int64_t low = 0, high = (int64_t)count - 1;
    while (low < high) {
        const int64_t middle = low + (high - low) / 2;
        if (v[middle] < v[low]) {
            swap_keys(&v[middle], &v[low]);
        }
        if (v[high] < v[low]) {
            swap_keys(&v[high], &v[low]);
        }
        if (v[high] < v[middle]) {
            swap_keys(&v[high], &v[middle]);
        }
        const real_bits pivot = v[middle];
        int64_t i = low, j = high;
        while (i <= j) {
            while (v[i] < pivot) {
                i++;
            }
            while (v[j] > pivot) {
                j--;
            }
            if (i <= j) {
                swap_keys(&v[i], &v[j]);
                i++;
                j--;
            }
        }
        if ((int64_t)k <= j) {
            high = j;
        } else if ((int64_t)k >= i) {
            low = i;
        } else {
            break;
        }
    }
    return v[k];
}

/* What a selection of the smallest takes: everything below `limit`, and the first `ties` that equal it. */
typedef struct selection {
    real_bits limit;
    uint32_t ties;
} selection;

static selection smallest(const real_bits *keys, uint32_t count, uint32_t wanted, real_bits *scratch) {
    selection c = {0, 0};
    if (wanted == 0) {
        return c;
    }
    for (uint32_t i = 0; i < count; i++) {
        scratch[i] = keys[i];
    }
    c.limit = kth_smallest(scratch, count, wanted - 1);
    c.ties = wanted;
    for (uint32_t i = 0; i < count; i++) {
        c.ties -= keys[i] < c.limit;
    }
    return c;
}

/* The same where the element number `wanted` is known to lie above `low`, or near it: only what lies above is partitioned. */
static selection smallest_above(const real_bits *keys, uint32_t count, uint32_t wanted, real_bits low, real_bits *scratch) {
    uint32_t above = 0;
    for (uint32_t i = 0; i < count; i++) {
        scratch[above] = keys[i];
        above += keys[i] > low;
    }
    if (wanted <= count - above) {
        return smallest(keys, count, wanted, scratch);
    }
    selection c = {kth_smallest(scratch, above, wanted - (count - above) - 1), wanted};
    for (uint32_t i = 0; i < count; i++) {
        c.ties -= keys[i] < c.limit;
    }
    return c;
}

static inline int takes(selection *c, real_bits k) {
    if (k < c->limit) {
        return 1;
    }
    if (k == c->limit && c->ties > 0) {
        c->ties--;
        return 1;
    }
    return 0;
}

/* The nearest whole number, halves upwards. */
static uint32_t round_half_up(double x) { return (uint32_t)(x + 0.5); }

/* sin x for |x| <= π/2, to double precision. */
static double sine_of(double x) {
    double term = x, sum = x;
    for (int n = 2; n < 24; n += 2) {
        term *= -x * x / (double)(n * (n + 1));
        sum += term;
    }
    return sum;
}

/* The drop fraction of an evolution step (cosine: Evci et al. 2020). */
static double drop_fraction_at(const edgerl_learner_config *c, uint64_t update) {
    if (c->drop_schedule == EDGERL_DROP_CONSTANT) {
        return c->drop_fraction;
    }
    const double pi = 3.14159265358979323846;
    const double turn = pi * (double)update / (double)c->last_update;
    return c->drop_fraction * 0.5 * (1.0 + sine_of(pi / 2 - turn));
}

/* Whether a layer whose share rounds to nothing drops one block nevertheless: as long as half of a fraction above 0 is left. */
static int drops_at_least_one(const edgerl_learner_config *c, uint64_t update) {
    return c->drop_fraction > 0 && (c->drop_schedule == EDGERL_DROP_CONSTANT || update <= c->last_update / 2);
}

/* ---------------------------------------------------------------------------------------------------------- drop */

/* Mark the `wanted` smallest of the candidates as dropped. */
static void drop_smallest(const real_bits *keys, const uint32_t *candidates, uint32_t count, uint32_t wanted,
                          real_bits *scratch, uint8_t *dropped) {
    selection c = smallest(keys, count, wanted, scratch);
    for (uint32_t i = 0; i < count && wanted > 0; i++) {
        if (takes(&c, keys[i])) {
            dropped[candidates[i]] = 1;
        }
    }
}

static uint32_t width_of(const sparse_layer *layer, uint32_t block) {
    return block < layer->full_blocks ? layer->block : layer->n_outputs % layer->block;
}

/* What a layer's blocks are worth where some of them are dropped. */
typedef struct worth {
    const real *weight, *input_scale; /* null: an input's size counts for nothing */
    const uint16_t *columns;
    uint32_t block;
} worth;

/* Of block `i`, `width` outputs of which stand for weights. */
static inline real_bits worth_of(const worth *w, uint32_t i, uint32_t width) {
    const real magnitude = magnitude_of(w->weight + (size_t)i * w->block, w->block, width);
    return key_of(w->input_scale == NULL ? magnitude : magnitude * w->input_scale[w->columns[i]]);
}

/* The root mean square of each input of the layer in the last pass over the batch. */
static void scale_inputs(const pass *p, real *input_scale) {
    const learner *l = p->l;
    if (has_batch_norm(layer_of(p))) {
        scale_normalised_inputs(p, input_scale);
        return;
    }
    const real count = (real)l->config.batch * (real)(p->width / l->width);
    for (uint32_t input = 0; input < layer_of(p)->n_inputs; input++) {
        const real *x = input_of(l, p->network, p->index, l->now) + input * (size_t)l->stride;
        real sum = 0;
        for (uint32_t half = 0; half < p->width; half += l->width) {
            for (uint32_t b = half; b < half + l->config.batch; b++) {
                sum += x[b] * x[b];
            }
        }
        input_scale[input] = square_root(sum / count);
    }
}

static worth worth_in(const pass *p) {
    const learner *l = p->l;
    const sparse_layer *layer = layer_of(p);
    const int is_scaled = l->config.drop_criterion == EDGERL_DROP_SCALED_MAGNITUDE;
    return (worth){
        .weight = reals_at(l, layer->arrays.weight),
        .input_scale = is_scaled ? reals_at(l, lay_out_workspace(layer, l->workspace, &l->config).input_scale) : NULL,
        .columns = indices_at(l, layer->arrays.columns),
        .block = layer->block,
    };
}

/* The weights of one sign, as candidates. */
static uint32_t gather_sign(const sparse_layer *layer, const worth *of, int sign, real_bits *keys, uint32_t *candidates) {
    uint32_t count = 0;
    for (uint32_t i = 0; i < layer->blocks; i++) {
        if (sign > 0 ? of->weight[i] > 0 : of->weight[i] < 0) {
            keys[count] = worth_of(of, i, 1);
            candidates[count++] = i;
        }
    }
    return count;
}

static uint64_t absent_of(const sparse_layer *layer, const width_class *c) {
    return (uint64_t)(c->last_row - c->first_row) * layer->n_inputs - (c->last - c->first);
}

/* Drop the smallest of the blocks that can move; the only one stays, since nothing would be chosen. */
static void drop_one(const pass *p, const worth *of, const width_class *classes, uint32_t n_classes) {
    const learner *l = p->l;
    const sparse_layer *layer = layer_of(p);
    const topology_space w = lay_out_workspace(layer, l->workspace, &l->config);
    real_bits *keys = bytes_at(l, w.keys);
    uint32_t *candidates = words_at(l, w.candidates), *counts = words_at(l, w.counts), count = 0;
    uint8_t *dropped = bytes_at(l, w.dropped);
    for (uint32_t c = 0; c < n_classes; c++) {
        for (uint32_t i = classes[c].first; absent_of(layer, &classes[c]) > 0 && i < classes[c].last; i++) {
            keys[count] = worth_of(of, i, classes[c].width);
            candidates[count++] = i;
        }
    }
    if (count < 2) {
        return;
    }
    drop_smallest(keys, candidates, count, 1, bytes_at(l, w.scratch), dropped);
    for (uint32_t c = 0; c < n_classes; c++) {
        for (uint32_t i = classes[c].first; i < classes[c].last; i++) {
            counts[c] += dropped[i];
        }
    }
}

EDGERL_INTERNAL void select_drop(const pass *p) {
    learner *l = p->l;
    const sparse_layer *layer = layer_of(p);
    const uint64_t update = this_update(l);
    const topology_space w = lay_out_workspace(layer, l->workspace, &l->config);
    const worth of = worth_in(p);
    real_bits *keys = bytes_at(l, w.keys), *scratch = bytes_at(l, w.scratch);
    uint32_t *candidates = words_at(l, w.candidates), *counts = words_at(l, w.counts);
    uint8_t *dropped = bytes_at(l, w.dropped);
    const double fraction = drop_fraction_at(&l->config, update);
    if (of.input_scale != NULL) {
        scale_inputs(p, reals_at(l, w.input_scale));
    }
    if (layer->block == 1) {
        for (uint32_t i = 0; i < layer->blocks; i++) {
            dropped[i] = of.weight[i] == 0;
        }
        for (int sign = -1; sign <= 1; sign += 2) {
            const uint32_t count = gather_sign(layer, &of, sign, keys, candidates);
            drop_smallest(keys, candidates, count, round_half_up(fraction * count), scratch, dropped);
        }
    } else {
        for (uint32_t i = 0; i < layer->blocks; i++) {
            dropped[i] = 0;
            keys[i] = worth_of(&of, i, width_of(layer, i));
            candidates[i] = i;
        }
        drop_smallest(keys, candidates, layer->blocks, round_half_up(fraction * layer->blocks), scratch, dropped);
    }
    width_class classes[2];
    const uint32_t n_classes = classes_of(layer, classes);
    uint32_t all = 0;
    for (uint32_t c = 0; c < n_classes; c++) {
        const width_class *class = &classes[c];
        const uint64_t absent = absent_of(layer, class);
        uint32_t count = 0;
        for (uint32_t i = class->first; i < class->last; i++) {
            if (dropped[i]) {
                keys[count] = worth_of(&of, i, class->width);
                candidates[count++] = i;
            }
        }
        if (count > absent) {
            for (uint32_t i = 0; i < count; i++) {
                dropped[candidates[i]] = 0;
            }
            drop_smallest(keys, candidates, count, (uint32_t)absent, scratch, dropped);
            count = (uint32_t)absent;
        }
        counts[c] = count;
        all += count;
    }
    if (all == 0 && drops_at_least_one(&l->config, update)) {
        drop_one(p, &of, classes, n_classes);
    }
    counts[2] = counts[3] = 0; /* of the best so far */
    if (is_scored(l->config.growth)) {
        for (uint32_t i = 0; i < layer->n_inputs; i++) {
            indices_at(l, w.all_columns)[i] = (uint16_t)i;
        }
    }
}

/* ---------------------------------------------------------------------------------------------------------- grow */

EDGERL_INTERNAL const growth_rule *growth_rule_of(int32_t growth) {
    static const growth_rule random = {NULL}, gradient = {magnitude_of}; /* SET; RigL (Evci et al. 2020): mean |gradient| */
    switch ((edgerl_growth)growth) {
    case EDGERL_GROWTH_RANDOM:
        return &random;
    case EDGERL_GROWTH_GRADIENT:
        return &gradient;
    }
    return NULL;
}

/* Where the blocks of a class grow, ascending, counted from the class's first position: uniformly among the absent ones. */
static void draw_growth(const pass *p, const width_class *c, uint32_t count, uint32_t *chosen) {
    learner *l = p->l;
    const sparse_layer *layer = layer_of(p);
    const topology_space w = lay_out_workspace(layer, l->workspace, &l->config);
    const uint32_t *starts = words_at(l, layer->arrays.starts);
    const uint16_t *columns = indices_at(l, layer->arrays.columns);
    const uint32_t positions = (c->last_row - c->first_row) * layer->n_inputs, absent = positions - (c->last - c->first);
    const draws d = draws_for(l->config.seed, PURPOSE_GROWTH, this_update(l), p->network, p->index + c->narrow);
    sample_without_replacement(&d, count, absent, chosen, words_at(l, w.set));
    /* The absent position number r is r + the present ones before it. */
    uint32_t i = c->first, row = c->first_row;
    for (uint32_t g = 0; g < count; g++) {
        for (; i < c->last; i++) {
            while (i >= starts[row + 1]) {
                row++;
            }
            if ((row - c->first_row) * layer->n_inputs + columns[i] > chosen[g] + (i - c->first)) {
                break;
            }
        }
        chosen[g] += i - c->first;
    }
}

/* The best absent positions so far: a heap with the worst of them on top. */
typedef struct ranking {
    real *scores;
    uint32_t *positions;
    uint32_t count, room;
} ranking;

/* Whether a is worse to grow than b: a smaller score, or the same at a higher position. */
static inline int is_worse(const ranking *h, uint32_t a, uint32_t b) {
    return h->scores[a] < h->scores[b] || (h->scores[a] == h->scores[b] && h->positions[a] > h->positions[b]);
}

static inline void swap_candidates(ranking *h, uint32_t a, uint32_t b) {
    const real score = h->scores[a];
    const uint32_t position = h->positions[a];
    h->scores[a] = h->scores[b];
    h->positions[a] = h->positions[b];
    h->scores[b] = score;
    h->positions[b] = position;
}

/* Offer an absent position; they come in ascending order, so that a later one never displaces an equal. */
static void offer(ranking *h, real score, uint32_t position) {
    uint32_t i = 0;
    if (h->count < h->room) {
        i = h->count++;
        h->scores[i] = score;
        h->positions[i] = position;
        for (; i > 0 && is_worse(h, i, (i - 1) / 2); i = (i - 1) / 2) {
            swap_candidates(h, i, (i - 1) / 2);
        }
        return;
    }
    if (h->room == 0 || !(score > h->scores[0])) {
        return;
    }
    h->scores[0] = score;
    h->positions[0] = position;
    for (uint32_t child; (child = 2 * i + 1) < h->count; i = child) {
        if (child + 1 < h->count && is_worse(h, child + 1, child)) {
            child++;
        }
        if (!is_worse(h, child, i)) {
            return;
        }
        swap_candidates(h, i, child);
    }
}

/* Offer the absent positions of one row of blocks, whose gradient is [n_inputs][block]. */
static void score_row(learner *l, const sparse_layer *layer, uint32_t row, const real *gradient) {
    const topology_space w = lay_out_workspace(layer, l->workspace, &l->config);
    growth_score *score_of = growth_rule_of(l->config.growth)->score;
    uint32_t *counts = words_at(l, w.counts);
    width_class classes[2];
    const uint32_t n_classes = classes_of(layer, classes), c = n_classes == 2 && row >= classes[1].first_row;
    const uint32_t before = c ? counts[0] : 0;
    ranking h = {reals_at(l, w.scores) + before, words_at(l, w.positions) + before, counts[2 + c], counts[c]};
    const uint32_t *starts = words_at(l, layer->arrays.starts);
    const uint16_t *columns = indices_at(l, layer->arrays.columns);
    uint32_t i = starts[row];
    for (uint32_t column = 0; column < layer->n_inputs; column++) {
        if (i < starts[row + 1] && columns[i] == column) {
            i++;
            continue;
        }
        const real score = score_of(gradient + (size_t)column * layer->block, layer->block, classes[c].width);
        offer(&h, score, (row - classes[c].first_row) * layer->n_inputs + column);
    }
    counts[2 + c] = h.count;
}

EDGERL_INTERNAL void score_absent(const pass *p) {
    learner *l = p->l;
    const sparse_layer *layer = layer_of(p);
    const topology_space w = lay_out_workspace(layer, l->workspace, &l->config);
    const uint32_t starts[2] = {0, layer->n_inputs};
    real *gradient = reals_at(l, gradients_of(p).weights);
    for (uint32_t row = p->first; row < p->last; row++) {
        const weight_task task = {
            .starts = starts,
            .columns = indices_at(l, w.all_columns),
            .panels = 1,
            .rows = 1,
            .x = input_of(l, p->network, p->index, l->now),
            .dy = row_at(l, l->gradient[p->index], row * layer->block),
            .gradient = gradient,
            .width = p->width,
            .stride = l->stride,
            .first_row = 0,
            .last_row = 1,
        };
        p->kernels->weight_gradient(&task, layer->block);
        if (has_batch_norm(layer)) {
            unfold_row_of_all(p, row, gradient);
        }
        score_row(l, layer, row, gradient);
    }
}

/* ----------------------------------------------------------------------------------------------- one evolution step */

/* Merge what stays and what grows of a class: new rows, and for each block where its values come from: a block of before, or,
 * past their number, one that only the target had, or NONE. */
static void merge_class(learner *l, const sparse_layer *layer, const topology_space *w, const width_class *c,
                        const uint32_t *chosen, uint32_t grown) {
    const int with_target = has_target(layer);
    const uint32_t *starts = words_at(l, layer->arrays.starts), *extra_starts = words_at(l, layer->arrays.extra_starts);
    const uint16_t *columns = indices_at(l, layer->arrays.columns);
    uint16_t *extra_columns = indices_at(l, layer->arrays.extra_columns), *new_columns = indices_at(l, w->columns);
    const uint8_t *dropped = bytes_at(l, w->dropped);
    const uint32_t *bits = words_at(l, layer->arrays.in_target);
    uint32_t *source = words_at(l, w->source), *new_starts = words_at(l, w->starts), *new_bits = words_at(l, w->set);
    uint32_t to = c->first, g = 0;
    for (uint32_t row = c->first_row; row < c->last_row; row++) {
        const uint32_t origin = (row - c->first_row) * layer->n_inputs;
        uint32_t i = starts[row], e = with_target ? extra_starts[row] : 0;
        const uint32_t last_extra = with_target ? extra_starts[row + 1] : 0;
        new_starts[row] = to;
        for (;;) {
            while (i < starts[row + 1] && dropped[i]) {
                i++;
            }
            const uint32_t stays = i < starts[row + 1] ? columns[i] : NONE;
            const uint32_t grows = g < grown && chosen[g] - origin < layer->n_inputs ? chosen[g] - origin : NONE;
            if (stays == NONE && grows == NONE) {
                break;
            }
            if (stays < grows) {
                source[to] = i;
                if (with_target && get_bit(bits, i)) {
                    set_bit(new_bits, to);
                }
                i++;
            } else {
                while (e < last_extra && (extra_columns[e] == NO_COLUMN || extra_columns[e] < grows)) {
                    e++;
                }
                source[to] = NONE;
                if (e < last_extra && extra_columns[e] == grows) {
                    source[to] = layer->blocks + e;
                    set_bit(new_bits, to);
                    extra_columns[e] = NO_COLUMN;
                }
                g++;
            }
            new_columns[to++] = (uint16_t)(stays < grows ? stays : grows);
        }
    }
    new_starts[c->last_row] = to;
}

static void copy_block(real *to, uint32_t i, const real *from, uint32_t j, uint32_t block) {
    for (uint32_t k = 0; k < block; k++) {
        to[(size_t)i * block + k] = from == NULL ? 0 : from[(size_t)j * block + k];
    }
}

/* The target keeps what the online network drops: rows of what only the target has, anew, into the workspace. */
static void merge_extra(learner *l, const sparse_layer *layer, const topology_space *w) {
    const uint32_t *starts = words_at(l, layer->arrays.starts), *extra_starts = words_at(l, layer->arrays.extra_starts);
    const uint16_t *columns = indices_at(l, layer->arrays.columns), *extra_columns = indices_at(l, layer->arrays.extra_columns);
    const uint8_t *dropped = bytes_at(l, w->dropped);
    const uint32_t *bits = words_at(l, layer->arrays.in_target);
    uint32_t *new_starts = words_at(l, w->extra_starts), to = 0;
    uint16_t *new_columns = indices_at(l, w->extra_columns);
    for (uint32_t row = 0; row < layer->rows; row++) {
        uint32_t i = starts[row], e = extra_starts[row];
        new_starts[row] = to;
        for (;;) {
            while (i < starts[row + 1] && !(dropped[i] && get_bit(bits, i))) {
                i++;
            }
            while (e < extra_starts[row + 1] && extra_columns[e] == NO_COLUMN) {
                e++;
            }
            const uint32_t left = i < starts[row + 1] ? columns[i] : NONE;
            const uint32_t kept = e < extra_starts[row + 1] ? extra_columns[e] : NONE;
            if (left == NONE && kept == NONE) {
                break;
            }
            if (left < kept) {
                copy_block(reals_at(l, w->values), to, reals_at(l, layer->arrays.target), i++, layer->block);
            } else {
                copy_block(reals_at(l, w->values), to, reals_at(l, layer->arrays.extra_target), e++, layer->block);
            }
            new_columns[to++] = (uint16_t)(left < kept ? left : kept);
        }
    }
    new_starts[layer->rows] = to;
}

/* Bring the values of one array into their new order; what grew starts at 0, the target's with what it had. */
static void reorder(learner *l, const sparse_layer *layer, const topology_space *w, uint64_t scratch, uint64_t array,
                    uint64_t extra) {
    const uint32_t *source = words_at(l, w->source);
    real *values = reals_at(l, array), *sorted = reals_at(l, scratch);
    for (uint32_t i = 0; i < layer->blocks; i++) {
        if (source[i] < layer->blocks) {
            copy_block(sorted, i, values, source[i], layer->block);
        } else {
            const real *from = source[i] == NONE || extra == 0 ? NULL : reals_at(l, extra);
            copy_block(sorted, i, from, source[i] - layer->blocks, layer->block);
        }
    }
    copy(values, sorted, weights_of(layer) * sizeof(real));
}

/* What merge_class and merge_extra made of the target's support takes the place of the former. */
static void replace_extra(learner *l, const sparse_layer *layer, const topology_space *w) {
    const uint64_t extra = words_at(l, w->extra_starts)[layer->rows];
    copy(bytes_at(l, layer->arrays.in_target), bytes_at(l, w->set), (layer->blocks + 31u) / 32u * sizeof(uint32_t));
    copy(bytes_at(l, layer->arrays.extra_starts), bytes_at(l, w->extra_starts), ((uint64_t)layer->rows + 1) * sizeof(uint32_t));
    copy(bytes_at(l, layer->arrays.extra_columns), bytes_at(l, w->extra_columns), extra * sizeof(uint16_t));
    copy(bytes_at(l, layer->arrays.extra_target), bytes_at(l, w->values), extra * layer->block * sizeof(real));
}

EDGERL_INTERNAL void evolve(const pass *p) {
    learner *l = p->l;
    sparse_layer *layer = layer_of(p);
    const topology_space w = lay_out_workspace(layer, l->workspace, &l->config);
    const uint32_t *counts = words_at(l, w.counts);
    uint32_t *chosen = words_at(l, w.chosen);
    const uint64_t scratch = gradients_of(p).weights; /* which are needed no more */
    width_class classes[2];
    const uint32_t n_classes = classes_of(layer, classes);
    for (uint32_t c = 0, before = 0; c < n_classes; before += counts[c], c++) {
        if (is_scored(l->config.growth)) {
            copy(chosen + before, words_at(l, w.positions) + before, counts[c] * sizeof(uint32_t));
            sort_ascending(chosen + before, counts[c]);
        } else {
            draw_growth(p, &classes[c], counts[c], chosen + before);
        }
    }
    zero(words_at(l, w.set), (layer->blocks + 31u) / 32u * sizeof(uint32_t)); /* now the bits of in_target */
    words_at(l, w.starts)[0] = 0;
    for (uint32_t c = 0, before = 0; c < n_classes; before += counts[c], c++) {
        merge_class(l, layer, &w, &classes[c], chosen + before, counts[c]);
        l->progress.replaced += counts[c];
    }
    if (has_target(layer)) {
        merge_extra(l, layer, &w);
        reorder(l, layer, &w, scratch, layer->arrays.target, layer->arrays.extra_target);
        replace_extra(l, layer, &w);
    }
    reorder(l, layer, &w, scratch, layer->arrays.weight, 0);
    reorder(l, layer, &w, scratch, layer->arrays.first_moment, 0);
    reorder(l, layer, &w, scratch, layer->arrays.second_moment, 0);
    copy(bytes_at(l, layer->arrays.starts), bytes_at(l, w.starts), ((uint64_t)layer->rows + 1) * sizeof(uint32_t));
    copy(bytes_at(l, layer->arrays.columns), bytes_at(l, w.columns), (uint64_t)layer->blocks * sizeof(uint16_t));
    index_layer(l, layer);
}

/* ------------------------------------------------------------------------------------ target sparsity maintenance */

/* Blocks up to a magnitude, as candidates. */
static uint32_t gather_up_to(const kernel_table *k, const real *values, uint32_t block, uint32_t width, uint32_t first,
                             uint32_t last, real_bits limit, real_bits *keys, uint32_t *candidates) {
    if (block == 1) {
        return k->gather(values, first, last, limit, keys, candidates);
    }
    uint32_t count = 0;
    for (uint32_t i = first; i < last; i++) {
        const real_bits found = key_of(magnitude_of(values + 4 * (size_t)i, 4, width));
        keys[count] = found;
        candidates[count] = i;
        count += found <= limit;
    }
    return count;
}

/* A magnitude up to which `wanted` of a class's blocks may lie, where nothing is known yet. */
static real first_guess(const learner *l, const sparse_layer *layer, const width_class *c, uint32_t wanted) {
    real sum = 0;
    for (uint32_t i = c->first; i < c->last; i++) {
        sum += magnitude_of(reals_at(l, layer->arrays.target) + (size_t)i * layer->block, layer->block, c->width);
    }
    const real count = (real)(c->last - c->first + 1);
    return sum / count * (real)wanted / count;
}

/* Ties among what is pruned: the lower position first, whichever of the two lists it is in. */
static void prune_ties(learner *l, const sparse_layer *layer, const width_class *c, selection cut, const real_bits *keys,
                       const uint32_t *candidates, uint32_t online, uint32_t all) {
    const uint32_t *starts = words_at(l, layer->arrays.starts), *extra_starts = words_at(l, layer->arrays.extra_starts);
    const uint16_t *columns = indices_at(l, layer->arrays.columns);
    uint16_t *extra_columns = indices_at(l, layer->arrays.extra_columns);
    uint32_t a = 0, b = online, row_a = c->first_row, row_b = c->first_row;
    for (; cut.ties > 0; cut.ties--) {
        while (a < online && keys[a] != cut.limit) {
            a++;
        }
        while (b < all && keys[b] != cut.limit) {
            b++;
        }
        while (a < online && candidates[a] >= starts[row_a + 1]) {
            row_a++;
        }
        while (b < all && candidates[b] >= extra_starts[row_b + 1]) {
            row_b++;
        }
        const int is_online = a < online && (b == all || row_a < row_b ||
                                             (row_a == row_b && columns[candidates[a]] < extra_columns[candidates[b]]));
        if (is_online) {
            copy_block(reals_at(l, layer->arrays.target), candidates[a], NULL, 0, layer->block);
            clear_bit(words_at(l, layer->arrays.in_target), candidates[a++]);
        } else {
            extra_columns[candidates[b++]] = NO_COLUMN;
        }
    }
}

/* Prune the union of a target's and the online connections of one width to the planned number: the smallest go, and restart at
 * 0 where the online network has them. */
static void prune_class(learner *l, const kernel_table *k, sparse_layer *layer, const topology_space *w, const width_class *c,
                        uint32_t number) {
    const uint32_t first = words_at(l, layer->arrays.extra_starts)[c->first_row],
                   last = words_at(l, layer->arrays.extra_starts)[c->last_row];
    const uint32_t wanted = last - first;
    if (wanted == 0) {
        return;
    }
    const real *target = reals_at(l, layer->arrays.target), *extra = reals_at(l, layer->arrays.extra_target);
    real_bits *keys = bytes_at(l, w->keys);
    uint32_t *candidates = words_at(l, w->candidates), online, all;
    real guess = layer->guess[number] > 0 ? layer->guess[number] : first_guess(l, layer, c, wanted);
    const real_bits low = key_of(guess * (real)0.9);
    guess *= (real)1.125;
    for (uint32_t attempt = 0;; attempt++) {
        const real_bits limit = attempt < 4 && guess > 0 ? key_of(guess) : ~(real_bits)0; /* all of them, NaN too */
        online = gather_up_to(k, target, layer->block, c->width, c->first, c->last, limit, keys, candidates);
        all = online + gather_up_to(k, extra, layer->block, c->width, first, last, limit, keys + online, candidates + online);
        if (all >= wanted) {
            break;
        }
        guess *= 2;
    }
    const selection cut = smallest_above(keys, all, wanted, low, bytes_at(l, w->scratch));
    for (uint32_t i = 0; i < all; i++) {
        if (keys[i] >= cut.limit) {
            continue;
        }
        if (i < online) {
            copy_block(reals_at(l, layer->arrays.target), candidates[i], NULL, 0, layer->block);
            clear_bit(words_at(l, layer->arrays.in_target), candidates[i]);
        } else {
            indices_at(l, layer->arrays.extra_columns)[candidates[i]] = NO_COLUMN;
        }
    }
    prune_ties(l, layer, c, cut, keys, candidates, online, all);
    union {
        real_bits bits;
        real value;
    } found = {cut.limit};
    layer->guess[number] = found.value; /* where the next search begins */
}

/* Close the gaps among what only the target has. */
static void compact_extra(learner *l, const sparse_layer *layer) {
    uint32_t *starts = words_at(l, layer->arrays.extra_starts), to = 0, i = 0;
    uint16_t *columns = indices_at(l, layer->arrays.extra_columns);
    real *values = reals_at(l, layer->arrays.extra_target);
    for (uint32_t row = 0; row < layer->rows; row++) {
        const uint32_t end = starts[row + 1];
        starts[row] = to;
        for (; i < end; i++) {
            if (columns[i] != NO_COLUMN) {
                columns[to] = columns[i];
                copy_block(values, to++, values, i, layer->block);
            }
        }
    }
    starts[layer->rows] = to;
}

EDGERL_INTERNAL void prune_target(const pass *p) {
    learner *l = p->l;
    sparse_layer *layer = layer_of(p);
    const topology_space w = lay_out_workspace(layer, l->workspace, &l->config);
    uint32_t *bits = words_at(l, layer->arrays.in_target);
    if (words_at(l, layer->arrays.extra_starts)[layer->rows] == 0) {
        return; /* nothing but the online network's own: its bits are all set already */
    }
    for (uint32_t i = 0; i < layer->blocks / 32; i++) {
        bits[i] = UINT32_MAX;
    }
    for (uint32_t i = layer->blocks / 32 * 32; i < layer->blocks; i++) {
        set_bit(bits, i);
    }
    width_class classes[2];
    const uint32_t n_classes = classes_of(layer, classes);
    for (uint32_t c = 0; c < n_classes; c++) {
        prune_class(l, p->kernels, layer, &w, &classes[c], c);
    }
    compact_extra(l, layer);
}
