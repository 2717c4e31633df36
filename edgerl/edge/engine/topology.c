/* SPDX-License-Identifier: MIT */
/* How topologies change: drop and grow (Algorithm 1 of the paper, TopologyEvolution), and the targets' sparsity maintenance.
 *
 * A layer's blocks lie in the order of their positions (row of blocks * n_inputs + input), so lower blocks win ties.
 */
#include "learner.h"
#include "random.h"

#define NONE UINT32_MAX
#define NO_COLUMN UINT16_MAX

/* |x|, without a branch that nothing could foresee. */
static inline real size_of(real x) {
    union {
        key bits;
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

static inline void swap_keys(key *a, key *b) {
    const key swap = *a;
    *a = *b;
    *b = swap;
}

/* The element that is number k when sorted; partitions `v` (Hoare's quickselect, the median of three as pivot). */
static key kth_smallest(key *v, uint32_t count, uint32_t k) {
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
        const key pivot = v[middle];
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
    key limit;
    uint32_t ties;
} selection;

static selection smallest(const key *keys, uint32_t count, uint32_t wanted, key *scratch) {
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
static selection smallest_above(const key *keys, uint32_t count, uint32_t wanted, key low, key *scratch) {
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

static inline int takes(selection *c, key k) {
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
static double sine(double x) {
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
    return c->drop_fraction * 0.5 * (1.0 + sine(pi / 2 - turn));
}

/* Whether a layer whose share rounds to nothing drops one block nevertheless: as long as half of a fraction above 0 is left. */
static int drops_at_least_one(const edgerl_learner_config *c, uint64_t update) {
    return c->drop_fraction > 0 && (c->drop_schedule == EDGERL_DROP_CONSTANT || update <= c->last_update / 2);
}

/* ---------------------------------------------------------------------------------------------------------- drop */

/* Mark the `wanted` smallest of the candidates as dropped. */
static void drop_smallest(const key *keys, const uint32_t *candidates, uint32_t count, uint32_t wanted, key *scratch,
                          uint8_t *dropped) {
    selection c = smallest(keys, count, wanted, scratch);
    for (uint32_t i = 0; i < count && wanted > 0; i++) {
        if (takes(&c, keys[i])) {
            dropped[candidates[i]] = 1;
        }
    }
}

static uint32_t width_of(const layer *y, uint32_t block) {
    return block < y->full_blocks ? y->block : y->n_outputs % y->block;
}

/* The weights of one sign, as candidates. */
static uint32_t gather_sign(const layer *y, const real *weight, int sign, key *keys, uint32_t *candidates) {
    uint32_t count = 0;
    for (uint32_t i = 0; i < y->blocks; i++) {
        if (sign > 0 ? weight[i] > 0 : weight[i] < 0) {
            keys[count] = key_of(weight[i]);
            candidates[count++] = i;
        }
    }
    return count;
}

static uint64_t absent_of(const layer *y, const width_class *c) {
    return (uint64_t)(c->last_row - c->first_row) * y->n_inputs - (c->last - c->first);
}

/* Drop the smallest of the blocks that can move; the only one stays, since nothing would be chosen. */
static void drop_one(learner *l, const layer *y, const width_class *classes, uint32_t n_classes) {
    const topology_space w = lay_out_workspace(y, l->workspace, l->config.growth);
    const real *weight = reals(l, y->at.weight);
    key *keys = at(l, w.keys);
    uint32_t *candidates = words_at(l, w.candidates), *counts = words_at(l, w.counts), count = 0;
    uint8_t *dropped = at(l, w.dropped);
    for (uint32_t c = 0; c < n_classes; c++) {
        for (uint32_t i = classes[c].first; absent_of(y, &classes[c]) > 0 && i < classes[c].last; i++) {
            keys[count] = key_of(magnitude_of(weight + (size_t)i * y->block, y->block, classes[c].width));
            candidates[count++] = i;
        }
    }
    if (count < 2) {
        return;
    }
    drop_smallest(keys, candidates, count, 1, at(l, w.scratch), dropped);
    for (uint32_t c = 0; c < n_classes; c++) {
        for (uint32_t i = classes[c].first; i < classes[c].last; i++) {
            counts[c] += dropped[i];
        }
    }
}

/* Choose what is dropped: block 1: all that is exactly zero and the fraction of the smallest positive and of the largest
 * negative weights; larger blocks: the fraction with the smallest mean |w|. Never more of a width than there are absent
 * positions to grow into; at least one of the layer, where it can and the fraction is not 0. */
static void select_drop(learner *l, const layer *y, uint64_t update) {
    const topology_space w = lay_out_workspace(y, l->workspace, l->config.growth);
    const real *weight = reals(l, y->at.weight);
    key *keys = at(l, w.keys), *scratch = at(l, w.scratch);
    uint32_t *candidates = words_at(l, w.candidates), *counts = words_at(l, w.counts);
    uint8_t *dropped = at(l, w.dropped);
    const double fraction = drop_fraction_at(&l->config, update);
    if (y->block == 1) {
        for (uint32_t i = 0; i < y->blocks; i++) {
            dropped[i] = weight[i] == 0;
        }
        for (int sign = -1; sign <= 1; sign += 2) {
            const uint32_t count = gather_sign(y, weight, sign, keys, candidates);
            drop_smallest(keys, candidates, count, round_half_up(fraction * count), scratch, dropped);
        }
    } else {
        for (uint32_t i = 0; i < y->blocks; i++) {
            dropped[i] = 0;
            keys[i] = key_of(magnitude_of(weight + (size_t)i * y->block, y->block, width_of(y, i)));
            candidates[i] = i;
        }
        drop_smallest(keys, candidates, y->blocks, round_half_up(fraction * y->blocks), scratch, dropped);
    }
    width_class classes[2];
    const uint32_t n_classes = classes_of(y, classes);
    uint32_t all = 0;
    for (uint32_t c = 0; c < n_classes; c++) {
        const width_class *class = &classes[c];
        const uint64_t absent = absent_of(y, class);
        uint32_t count = 0;
        for (uint32_t i = class->first; i < class->last; i++) {
            if (dropped[i]) {
                keys[count] = key_of(magnitude_of(weight + (size_t)i * y->block, y->block, class->width));
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
        drop_one(l, y, classes, n_classes);
    }
    counts[2] = counts[3] = 0; /* of the best so far */
    if (l->config.growth == EDGERL_GROWTH_GRADIENT) {
        for (uint32_t i = 0; i < y->n_inputs; i++) {
            indices_at(l, w.all_columns)[i] = (uint16_t)i;
        }
    }
}

/* ---------------------------------------------------------------------------------------------------------- grow */

/* Where the blocks of a class grow, ascending, counted from the class's first position: uniformly among the absent ones. */
static void choose_random_growth(learner *l, const layer *y, uint32_t network, uint32_t index, uint64_t update,
                                 const width_class *c, uint32_t count, uint32_t *chosen) {
    const topology_space w = lay_out_workspace(y, l->workspace, l->config.growth);
    const uint32_t *starts = words_at(l, y->at.starts);
    const uint16_t *columns = indices_at(l, y->at.columns);
    const uint32_t positions = (c->last_row - c->first_row) * y->n_inputs, absent = positions - (c->last - c->first);
    const draws d = draws_for(l->config.seed, PURPOSE_GROWTH, update, network, index + c->narrow);
    sample_without_replacement(&d, count, absent, chosen, words_at(l, w.set));
    /* The absent position number r is r + the present ones before it. */
    uint32_t i = c->first, row = c->first_row;
    for (uint32_t g = 0; g < count; g++) {
        for (; i < c->last; i++) {
            while (i >= starts[row + 1]) {
                row++;
            }
            if ((row - c->first_row) * y->n_inputs + columns[i] > chosen[g] + (i - c->first)) {
                break;
            }
        }
        chosen[g] += i - c->first;
    }
}

/* The best absent positions so far: a heap with the worst of them on top. */
typedef struct best {
    real *scores;
    uint32_t *positions;
    uint32_t count, room;
} best;

/* Whether a is worse to grow than b: a smaller gradient, or the same at a higher position. */
static inline int is_worse(const best *h, uint32_t a, uint32_t b) {
    return h->scores[a] < h->scores[b] || (h->scores[a] == h->scores[b] && h->positions[a] > h->positions[b]);
}

static inline void swap_candidates(best *h, uint32_t a, uint32_t b) {
    const real score = h->scores[a];
    const uint32_t position = h->positions[a];
    h->scores[a] = h->scores[b];
    h->positions[a] = h->positions[b];
    h->scores[b] = score;
    h->positions[b] = position;
}

/* Offer an absent position; they come in ascending order, so that a later one never displaces an equal. */
static void offer(best *h, real score, uint32_t position) {
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

/* Score the absent positions of one row of blocks by the mean |gradient| of a block (RigL: Evci et al. 2020), each row's
 * gradient being computed here and forgotten: the only place that touches absent connections. */
static void score_row(learner *l, const layer *y, uint32_t row, const real *gradient) {
    const topology_space w = lay_out_workspace(y, l->workspace, l->config.growth);
    uint32_t *counts = words_at(l, w.counts);
    width_class classes[2];
    const uint32_t n_classes = classes_of(y, classes), c = n_classes == 2 && row >= classes[1].first_row;
    const uint32_t before = c ? counts[0] : 0;
    best h = {reals(l, w.scores) + before, words_at(l, w.positions) + before, counts[2 + c], counts[c]};
    const uint32_t *starts = words_at(l, y->at.starts);
    const uint16_t *columns = indices_at(l, y->at.columns);
    uint32_t i = starts[row];
    for (uint32_t column = 0; column < y->n_inputs; column++) {
        if (i < starts[row + 1] && columns[i] == column) {
            i++;
            continue;
        }
        const real score = magnitude_of(gradient + (size_t)column * y->block, y->block, classes[c].width);
        offer(&h, score, (row - classes[c].first_row) * y->n_inputs + column);
    }
    counts[2 + c] = h.count;
}

/* ----------------------------------------------------------------------------------------------- one evolution step */

/* Merge what stays and what grows of a class: new rows, and for each block where its values come from: a block of before, or,
 * past their number, one that only the target had, or NONE. */
static void merge_class(learner *l, const layer *y, const topology_space *w, const width_class *c, const uint32_t *chosen,
                        uint32_t grown) {
    const uint32_t *starts = words_at(l, y->at.starts), *extra_starts = words_at(l, y->at.extra_starts);
    const uint16_t *columns = indices_at(l, y->at.columns);
    uint16_t *extra_columns = indices_at(l, y->at.extra_columns), *new_columns = indices_at(l, w->columns);
    const uint8_t *dropped = at(l, w->dropped);
    const uint32_t *bits = words_at(l, y->at.in_target);
    uint32_t *source = words_at(l, w->source), *new_starts = words_at(l, w->starts), *new_bits = words_at(l, w->set);
    uint32_t to = c->first, g = 0;
    for (uint32_t row = c->first_row; row < c->last_row; row++) {
        const uint32_t origin = (row - c->first_row) * y->n_inputs;
        uint32_t i = starts[row], e = extra_starts[row];
        new_starts[row] = to;
        for (;;) {
            while (i < starts[row + 1] && dropped[i]) {
                i++;
            }
            const uint32_t stays = i < starts[row + 1] ? columns[i] : NONE;
            const uint32_t grows = g < grown && chosen[g] - origin < y->n_inputs ? chosen[g] - origin : NONE;
            if (stays == NONE && grows == NONE) {
                break;
            }
            if (stays < grows) {
                source[to] = i;
                if (get_bit(bits, i)) {
                    set_bit(new_bits, to);
                }
                i++;
            } else {
                while (e < extra_starts[row + 1] && (extra_columns[e] == NO_COLUMN || extra_columns[e] < grows)) {
                    e++;
                }
                source[to] = NONE;
                if (e < extra_starts[row + 1] && extra_columns[e] == grows) {
                    source[to] = y->blocks + e;
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
static void merge_extra(learner *l, const layer *y, const topology_space *w) {
    const uint32_t *starts = words_at(l, y->at.starts), *extra_starts = words_at(l, y->at.extra_starts);
    const uint16_t *columns = indices_at(l, y->at.columns), *extra_columns = indices_at(l, y->at.extra_columns);
    const uint8_t *dropped = at(l, w->dropped);
    const uint32_t *bits = words_at(l, y->at.in_target);
    uint32_t *new_starts = words_at(l, w->extra_starts), to = 0;
    uint16_t *new_columns = indices_at(l, w->extra_columns);
    for (uint32_t row = 0; row < y->rows; row++) {
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
                copy_block(reals(l, w->values), to, reals(l, y->at.target), i++, y->block);
            } else {
                copy_block(reals(l, w->values), to, reals(l, y->at.extra_target), e++, y->block);
            }
            new_columns[to++] = (uint16_t)(left < kept ? left : kept);
        }
    }
    new_starts[y->rows] = to;
}

/* Bring the values of one array into their new order; what grew starts at 0, the target's with what it had. */
static void reorder(learner *l, const layer *y, const topology_space *w, uint64_t array, uint64_t extra) {
    const uint32_t *source = words_at(l, w->source);
    real *values = reals(l, array), *sorted = reals(l, l->weight_gradient);
    for (uint32_t i = 0; i < y->blocks; i++) {
        if (source[i] < y->blocks) {
            copy_block(sorted, i, values, source[i], y->block);
        } else {
            const real *from = source[i] == NONE || extra == 0 ? NULL : reals(l, extra);
            copy_block(sorted, i, from, source[i] - y->blocks, y->block);
        }
    }
    copy(values, sorted, weights_of(y) * sizeof(real));
}

/* Drop what was selected and grow as much, at weight 0 with zero moments. */
static void evolve(learner *l, layer *y, uint32_t network, uint32_t index, uint64_t update) {
    const topology_space w = lay_out_workspace(y, l->workspace, l->config.growth);
    const uint32_t *counts = words_at(l, w.counts);
    uint32_t *chosen = words_at(l, w.chosen);
    width_class classes[2];
    const uint32_t n_classes = classes_of(y, classes);
    for (uint32_t c = 0, before = 0; c < n_classes; before += counts[c], c++) {
        if (l->config.growth == EDGERL_GROWTH_RANDOM) {
            choose_random_growth(l, y, network, index, update, &classes[c], counts[c], chosen + before);
        } else {
            copy(chosen + before, words_at(l, w.positions) + before, counts[c] * sizeof(uint32_t));
            sort_ascending(chosen + before, counts[c]);
        }
    }
    zero(words_at(l, w.set), (y->blocks + 31u) / 32u * sizeof(uint32_t)); /* now the bits of in_target */
    words_at(l, w.starts)[0] = 0;
    for (uint32_t c = 0, before = 0; c < n_classes; before += counts[c], c++) {
        merge_class(l, y, &w, &classes[c], chosen + before, counts[c]);
        l->progress.replaced += counts[c];
    }
    merge_extra(l, y, &w);
    reorder(l, y, &w, y->at.target, y->at.extra_target);
    reorder(l, y, &w, y->at.weight, 0);
    reorder(l, y, &w, y->at.first_moment, 0);
    reorder(l, y, &w, y->at.second_moment, 0);
    copy(at(l, y->at.starts), at(l, w.starts), ((uint64_t)y->rows + 1) * sizeof(uint32_t));
    copy(at(l, y->at.columns), at(l, w.columns), (uint64_t)y->blocks * sizeof(uint16_t));
    copy(at(l, y->at.in_target), at(l, w.set), (y->blocks + 31u) / 32u * sizeof(uint32_t));
    copy(at(l, y->at.extra_starts), at(l, w.extra_starts), ((uint64_t)y->rows + 1) * sizeof(uint32_t));
    copy(at(l, y->at.extra_columns), at(l, w.extra_columns), words_at(l, w.extra_starts)[y->rows] * sizeof(uint16_t));
    copy(at(l, y->at.extra_target), at(l, w.values),
         (uint64_t)words_at(l, w.extra_starts)[y->rows] * y->block * sizeof(real));
    index_layer(l, y);
}

/* ------------------------------------------------------------------------------------ target sparsity maintenance */

/* Blocks up to a magnitude, as candidates. */
static uint32_t gather_up_to(const kernels *k, const real *values, uint32_t block, uint32_t width, uint32_t first,
                             uint32_t last, key limit, key *keys, uint32_t *candidates) {
    if (block == 1) {
        return k->gather(values, first, last, limit, keys, candidates);
    }
    uint32_t count = 0;
    for (uint32_t i = first; i < last; i++) {
        const key found = key_of(magnitude_of(values + 4 * (size_t)i, 4, width));
        keys[count] = found;
        candidates[count] = i;
        count += found <= limit;
    }
    return count;
}

/* A magnitude up to which `wanted` of a class's blocks may lie, where nothing is known yet. */
static real first_guess(const learner *l, const layer *y, const width_class *c, uint32_t wanted) {
    real sum = 0;
    for (uint32_t i = c->first; i < c->last; i++) {
        sum += magnitude_of(reals(l, y->at.target) + (size_t)i * y->block, y->block, c->width);
    }
    const real count = (real)(c->last - c->first + 1);
    return sum / count * (real)wanted / count;
}

/* Ties among what is pruned: the lower position first, whichever of the two lists it is in. */
static void prune_ties(learner *l, const layer *y, const width_class *c, selection cut, const key *keys,
                       const uint32_t *candidates, uint32_t online, uint32_t all) {
    const uint32_t *starts = words_at(l, y->at.starts), *extra_starts = words_at(l, y->at.extra_starts);
    const uint16_t *columns = indices_at(l, y->at.columns);
    uint16_t *extra_columns = indices_at(l, y->at.extra_columns);
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
            copy_block(reals(l, y->at.target), candidates[a], NULL, 0, y->block);
            clear_bit(words_at(l, y->at.in_target), candidates[a++]);
        } else {
            extra_columns[candidates[b++]] = NO_COLUMN;
        }
    }
}

/* Prune the union of a target's and the online connections of one width to the planned number: the smallest go, and restart at
 * 0 where the online network has them. */
static void prune_class(learner *l, const kernels *k, layer *y, const topology_space *w, const width_class *c,
                        uint32_t number) {
    const uint32_t first = words_at(l, y->at.extra_starts)[c->first_row], last = words_at(l, y->at.extra_starts)[c->last_row];
    const uint32_t wanted = last - first;
    if (wanted == 0) {
        return;
    }
    const real *target = reals(l, y->at.target), *extra = reals(l, y->at.extra_target);
    key *keys = at(l, w->keys);
    uint32_t *candidates = words_at(l, w->candidates), online, all;
    real guess = y->guess[number] > 0 ? y->guess[number] : first_guess(l, y, c, wanted);
    const key low = key_of(guess * (real)0.9);
    guess *= (real)1.125;
    for (uint32_t attempt = 0;; attempt++) {
        const key limit = attempt < 4 && guess > 0 ? key_of(guess) : ~(key)0; /* all of them, NaN too */
        online = gather_up_to(k, target, y->block, c->width, c->first, c->last, limit, keys, candidates);
        all = online + gather_up_to(k, extra, y->block, c->width, first, last, limit, keys + online,
                                    candidates + online);
        if (all >= wanted) {
            break;
        }
        guess *= 2;
    }
    const selection cut = smallest_above(keys, all, wanted, low, at(l, w->scratch));
    for (uint32_t i = 0; i < all; i++) {
        if (keys[i] >= cut.limit) {
            continue;
        }
        if (i < online) {
            copy_block(reals(l, y->at.target), candidates[i], NULL, 0, y->block);
            clear_bit(words_at(l, y->at.in_target), candidates[i]);
        } else {
            indices_at(l, y->at.extra_columns)[candidates[i]] = NO_COLUMN;
        }
    }
    prune_ties(l, y, c, cut, keys, candidates, online, all);
    union {
        key bits;
        real value;
    } found = {cut.limit};
    y->guess[number] = found.value; /* where the next search begins */
}

/* Close the gaps among what only the target has. */
static void compact_extra(learner *l, const layer *y) {
    uint32_t *starts = words_at(l, y->at.extra_starts), to = 0, i = 0;
    uint16_t *columns = indices_at(l, y->at.extra_columns);
    real *values = reals(l, y->at.extra_target);
    for (uint32_t row = 0; row < y->rows; row++) {
        const uint32_t end = starts[row + 1];
        starts[row] = to;
        for (; i < end; i++) {
            if (columns[i] != NO_COLUMN) {
                columns[to] = columns[i];
                copy_block(values, to++, values, i, y->block);
            }
        }
    }
    starts[y->rows] = to;
}

/* TargetSparsityMaintenance of Algorithm 1 for one layer, after the moving average over the union of both supports. */
static void prune_target(learner *l, const kernels *k, layer *y) {
    const topology_space w = lay_out_workspace(y, l->workspace, l->config.growth);
    uint32_t *bits = words_at(l, y->at.in_target);
    if (words_at(l, y->at.extra_starts)[y->rows] == 0) {
        return; /* nothing but the online network's own: its bits are all set already */
    }
    for (uint32_t i = 0; i < y->blocks / 32; i++) {
        bits[i] = UINT32_MAX;
    }
    for (uint32_t i = y->blocks / 32 * 32; i < y->blocks; i++) {
        set_bit(bits, i);
    }
    width_class classes[2];
    const uint32_t n_classes = classes_of(y, classes);
    for (uint32_t c = 0; c < n_classes; c++) {
        prune_class(l, k, y, &w, &classes[c], c);
    }
    compact_extra(l, y);
}
