/* SPDX-License-Identifier: MIT */
/* What a learner's arena holds. */
#ifndef EDGERL_LEARNER_H
#define EDGERL_LEARNER_H

#include <float.h>

#include "kernels.h"
#include "random.h"

#define LEARNER_MAGIC 0x4c524c45u /* "ELRL" */
#define LEARNER_VERSION 3u
#define NETWORKS 3u

/* One layer. Offsets in bytes from the arena, 0: not there. */
typedef struct sparse_layer {
    uint32_t n_inputs, n_outputs, block;
    uint32_t rows, full_rows;     /* rows of blocks; those of full width */
    uint32_t blocks, full_blocks; /* stored blocks; those of full width, which come first */
    uint32_t is_dense, has_transposed;
    int32_t norm; /* an edgerl_norm: LayerNorm of its sums, or batch norm of its inputs */
    edgerl_learner_layer arrays;
    uint64_t column_starts, column_rows, column_places; /* the transposed index, of block 1 */
    uint32_t row_panels, column_panels; /* into how many ranges of inputs (of outputs) rows (columns) are cut, 1: not at all */
    uint64_t row_bounds, column_bounds; /* uint32 [panels - 1][rows or inputs]: where in its row a further panel begins */
    uint32_t topology;                  /* counts its changes */
    real guess[2];                      /* about which magnitude pruning cuts, per width: only speeds the search up */
} sparse_layer;

/* A complete copy of the actor's weights to act with. */
typedef struct acting_copy {
    uint64_t starts[EDGERL_LEARNER_LAYERS], columns[EDGERL_LEARNER_LAYERS], weight[EDGERL_LEARNER_LAYERS],
        bias[EDGERL_LEARNER_LAYERS];
    uint32_t topology[EDGERL_LEARNER_LAYERS]; /* which one it has */
} acting_copy;

/* A layer as a batch norm leaves it, for the present pass: offsets, 0 where there is no such norm. */
typedef struct folded_layer {
    uint64_t weight, bias;
    uint64_t statistics; /* [6][n_inputs], see batch_norm.c */
} folded_layer;

/* Where an update stands: a step, an item of the step, a row of the item (update.c). */
typedef struct progress_in_update {
    uint32_t step, item, row;
} progress_in_update;

typedef struct learner {
    uint32_t magic, version, sizeof_real;
    uint32_t is_abandoned; /* the present update: nothing of it is left to do but to finish */
    edgerl_learner_config config;
    edgerl_learner_bytes_of bytes;
    edgerl_learner_progress progress;
    progress_in_update place;
    real gradient_squares; /* of a network, where its gradient is cut: their sum over the layers so far */
    uint32_t width, stride;         /* columns of the batch, padded to vectors; numbers between two rows of activations */
    uint32_t published, publishing; /* copies of the actor that were ever made; that were ever begun */
    sparse_layer layers[NETWORKS][EDGERL_LEARNER_LAYERS];
    acting_copy acting[2];
    uint64_t acting_vectors[2];
    /* Scratch of an update. */
    uint64_t now, next; /* observation and action, [n + m][batch]; and those that follow, which in a joint batch lie beside them */
    uint64_t hidden[NETWORKS][EDGERL_LEARNER_LAYERS]; /* outputs of the layers; both critics may have the same memory for them */
    uint64_t sums[NETWORKS][EDGERL_LEARNER_LAYERS];   /* of layers that have a LayerNorm: what it is given */
    uint64_t mean[NETWORKS][EDGERL_LEARNER_LAYERS];   /* [2][batch]: the means that it found, and 1 / standard deviations */
    uint64_t slopes[NETWORKS][EDGERL_LEARNER_LAYERS]; /* of layers behind which is an activation that has_slopes */
    uint64_t kept[NETWORKS][EDGERL_LEARNER_LAYERS];   /* uint8: of layers with dropout, whether a pass kept the number */
    uint64_t norm_sums;                         /* [2][batch]: of its gradient */
    folded_layer folded[NETWORKS][EDGERL_LEARNER_LAYERS];
    uint64_t centring; /* [2][n_inputs]: what a batch norm adds to the gradient by an input x, slope (x - mean) + offset */
    uint64_t gradient[EDGERL_LEARNER_LAYERS];  /* of the loss, by each layer's output */
    uint64_t action_gradient;                  /* of Q1, by [observation and action] */
    uint64_t target_value, returns, discounts; /* [batch] */
    uint64_t noise;                            /* [batch][m] */
    uint64_t log_density;                      /* [batch]: of SAC's actions */
    uint64_t words;                            /* uint32 */
    uint64_t weight_gradient, bias_gradient, norm_gradient; /* gradients_of has where a layer's are */
    uint64_t workspace; /* of topology steps; lies over the activations where these are not needed then */
    uint64_t workspace_bytes;
} learner;

static inline void *bytes_at(const learner *l, uint64_t offset) { return (char *)(uintptr_t)l + offset; }
static inline real *reals_at(const learner *l, uint64_t offset) { return (real *)bytes_at(l, offset); }
static inline uint32_t *words_at(const learner *l, uint64_t offset) { return (uint32_t *)bytes_at(l, offset); }
static inline uint16_t *indices_at(const learner *l, uint64_t offset) { return (uint16_t *)bytes_at(l, offset); }

static inline size_t weights_of(const sparse_layer *layer) { return (size_t)layer->blocks * layer->block; }
static inline size_t units_of(const sparse_layer *layer) { return (size_t)layer->rows * layer->block; } /* outputs, padded */
static inline int has_target(const sparse_layer *layer) { return layer->arrays.target != 0; }

/* Whether a program has code for an algorithm; a constant. */
static inline int is_built(edgerl_algorithm algorithm) { return (EDGERL_ALGORITHMS >> algorithm & 1u) != 0; }

/* A program whose learner runs another algorithm has no code for what follows. */
#define ONLY_WITH(algorithm)    \
    if (!is_built(algorithm)) { \
        return;                 \
    }

static inline int has_layer_norm(const sparse_layer *layer) { return EDGERL_NORMS && layer->norm == EDGERL_NORM_LAYER; }
static inline int has_batch_norm(const sparse_layer *layer) {
    return is_built(EDGERL_CROSSQ) && layer->norm == EDGERL_NORM_BATCH;
}

/* Scales of a layer's norm. */
static inline size_t scales_of(const sparse_layer *layer) {
    return has_batch_norm(layer) ? layer->n_inputs : has_layer_norm(layer) ? units_of(layer) : 0;
}

/* Features, so that four of them can always be taken. */
static inline uint64_t padded(uint64_t features) { return round_up(features, 4); }

static inline const edgerl_network_plan *network_plan(const edgerl_learner_config *c, uint32_t network) {
    return network == EDGERL_ACTOR ? &c->actor : &c->critic;
}

/* Whether it is an actor alone, which learns the actions that it is shown. */
static inline int imitates(const edgerl_learner_config *c) {
    return is_built(EDGERL_IMITATION) && c->algorithm >= EDGERL_IMITATION;
}

/* Whether the actor's actions are its outputs, cut, instead of their tanh. */
static inline int is_clipped(const edgerl_learner_config *c) {
    return is_built(EDGERL_IMITATION) && c->algorithm == EDGERL_CLIPPED_IMITATION;
}

/* Whether the actor gives a distribution of actions: means, then logarithms of deviations, of tanh's argument. */
static inline int is_stochastic(const edgerl_learner_config *c) {
    return (is_built(EDGERL_SAC) || is_built(EDGERL_CROSSQ)) && (!is_built(EDGERL_TD3) || c->algorithm != EDGERL_TD3) && !imitates(c);
}

/* Whether critics learn from what was and what follows in one pass. */
static inline int has_joint_batch(const edgerl_learner_config *c) {
    return is_built(EDGERL_CROSSQ) && c->algorithm == EDGERL_CROSSQ;
}

/* Whether the gradient of a network is cut to a norm: then all of it must be known before any of its layers learns. */
static inline int clips_gradients(const edgerl_learner_config *c) { return EDGERL_CLIPPING && c->gradient_clip > 0; }

/* Whether a pass over a network leaves out units behind this layer. */
static inline int has_dropout(const edgerl_learner_config *c, uint32_t network, uint32_t index) {
    return EDGERL_DROPOUT && c->dropout > 0 && network != EDGERL_ACTOR && index + 1 < c->critic.n_layers;
}

static inline uint32_t outputs_of_actor(const edgerl_learner_config *c) {
    return c->algorithm == EDGERL_TD3 || imitates(c) ? c->n_actions : 2 * c->n_actions;
}

static inline uint32_t layers_of(const learner *l, uint32_t network) { return network_plan(&l->config, network)->n_layers; }

/* Between a layer and the next. */
static inline activation hidden_activation(const edgerl_learner_config *c) {
    return HAS_ACTIVATION_PASSES ? (activation)c->activation : RELU;
}

static inline activation activation_behind(const learner *l, uint32_t network, uint32_t index) {
    return index + 1 < layers_of(l, network) ? hidden_activation(&l->config) : LINEAR;
}

/* As far as it is computed where sums are stored and gradients made. */
static inline activation fused_behind(const learner *l, uint32_t network, uint32_t index) {
    return activation_behind(l, network, index) == RELU ? RELU : LINEAR;
}

/* Whether it is a pass of its own. */
static inline int has_pass_behind(const learner *l, uint32_t network, uint32_t index) {
    return HAS_ACTIVATION_PASSES && activation_behind(l, network, index) != fused_behind(l, network, index);
}

/* The input of a layer: the batch (`batch` is l->now or l->next), or the output of the layer before. */
static inline real *input_of(const learner *l, uint32_t network, uint32_t index, uint64_t batch) {
    return reals_at(l, index == 0 ? batch : l->hidden[network][index - 1]);
}

static inline real *output_of(const learner *l, uint32_t network, uint32_t index) {
    return reals_at(l, l->hidden[network][index]);
}

/* What a network gives for the batch. */
static inline real *result_of(const learner *l, uint32_t network) { return output_of(l, network, layers_of(l, network) - 1); }

/* Row `row` of a buffer. */
static inline real *row_at(const learner *l, uint64_t buffer, uint32_t row) {
    return reals_at(l, buffer) + row * (size_t)l->stride;
}

static inline int in_range(double x, double low, double high) { return x >= low && x <= high; } /* not where x is NaN */

static inline uint32_t get_bit(const uint32_t *bits, uint32_t i) { return bits[i / 32] >> (i % 32) & 1u; }
static inline void set_bit(uint32_t *bits, uint32_t i) { bits[i / 32] |= UINT32_C(1) << (i % 32); }
static inline void clear_bit(uint32_t *bits, uint32_t i) { bits[i / 32] &= ~(UINT32_C(1) << (i % 32)); }

/* Blocks that a line must have in each panel, on average, for panels to pay: of block 1 or in a forward pass, and of block 4. */
#define PANEL_WORTH 24u
#define BLOCK_PANEL_WORTH 4u

/* A class of a layer's blocks, which are only ever replaced by each other: those of full width, or the narrower last row. */
typedef struct width_class {
    uint32_t first_row, last_row;
    uint32_t first, last; /* blocks */
    uint32_t width;       /* outputs of a block */
    uint32_t narrow;      /* added to the layer in the draws */
} width_class;

static inline uint32_t classes_of(const sparse_layer *layer, width_class classes[2]) {
    const width_class full = {0, layer->full_rows, 0, layer->full_blocks, layer->block, 0};
    const width_class narrow = {
        layer->full_rows, layer->rows, layer->full_blocks, layer->blocks, layer->n_outputs % layer->block, NARROW};
    uint32_t count = 0;
    if (layer->full_rows > 0) {
        classes[count++] = full;
    }
    if (layer->rows > layer->full_rows) {
        classes[count++] = narrow;
    }
    return count;
}

/* ---------------------------------------------------------------------------------------------- growth (topology.c) */

/* A block that is absent has `gradient` [block], of which `width` stand for weights; the blocks with the largest scores grow. */
typedef real growth_score(const real *gradient, uint32_t block, uint32_t width);

/* How absent blocks are chosen. A new rule is an enumerator of edgerl_growth, its score, and its case in growth_rule_of. */
typedef struct growth_rule {
    growth_score *score; /* null: drawn, every set equally likely */
} growth_rule;

/* Null where there is no such rule. */
EDGERL_INTERNAL const growth_rule *growth_rule_of(int32_t growth);

static inline int is_scored(int32_t growth) { return growth_rule_of(growth)->score != NULL; }

/* Whether steps of the topology look at what the last pass left. */
static inline int looks_at_activations(const edgerl_learner_config *c) {
    return is_scored(c->growth) || c->drop_criterion == EDGERL_DROP_SCALED_MAGNITUDE;
}

/* What steps of the topology need while they last. */
typedef struct topology_space {
    uint64_t keys;                   /* real_bits [2 N]: magnitudes */
    uint64_t scratch;                /* real_bits [2 N]: the same, to be partitioned */
    uint64_t candidates;             /* uint32 [2 N] */
    uint64_t dropped;                /* uint8 [N] */
    uint64_t chosen;                 /* uint32 [N]: positions to grow */
    uint64_t set;                    /* uint32 [set_slots(N)] */
    uint64_t source;                 /* uint32 [N]: where a block's values come from */
    uint64_t starts, extra_starts;   /* uint32 [R + 1] */
    uint64_t columns, extra_columns; /* uint16 [N] */
    uint64_t values;                 /* real [N][block] */
    uint64_t counts;                 /* uint32 [4]: blocks dropped per width; best candidates so far per width */
    uint64_t input_scale;            /* real [n_inputs]: root mean squares; only where the drop criterion looks at them */
    uint64_t all_columns;            /* uint16 [n_inputs]; these three only where the growth rule scores */
    uint64_t scores;                 /* real [N] */
    uint64_t positions;              /* uint32 [N] */
    uint64_t end;
} topology_space;

static inline topology_space lay_out_workspace(const sparse_layer *layer, uint64_t end, const edgerl_learner_config *c) {
    topology_space w;
    w.keys = set_aside(&end, 2 * (uint64_t)layer->blocks, sizeof(real_bits));
    w.scratch = set_aside(&end, 2 * (uint64_t)layer->blocks, sizeof(real_bits));
    w.candidates = set_aside(&end, 2 * (uint64_t)layer->blocks, sizeof(uint32_t));
    w.dropped = set_aside(&end, layer->blocks, 1);
    w.chosen = set_aside(&end, layer->blocks, sizeof(uint32_t));
    w.set = set_aside(&end, set_slots(layer->blocks), sizeof(uint32_t));
    w.source = set_aside(&end, layer->blocks, sizeof(uint32_t));
    w.starts = set_aside(&end, (uint64_t)layer->rows + 1, sizeof(uint32_t));
    w.extra_starts = set_aside(&end, (uint64_t)layer->rows + 1, sizeof(uint32_t));
    w.columns = set_aside(&end, layer->blocks, sizeof(uint16_t));
    w.extra_columns = set_aside(&end, layer->blocks, sizeof(uint16_t));
    w.values = set_aside(&end, weights_of(layer), sizeof(real));
    w.counts = set_aside(&end, 4, sizeof(uint32_t));
    w.input_scale = w.all_columns = w.scores = w.positions = end;
    if (c->drop_criterion == EDGERL_DROP_SCALED_MAGNITUDE) {
        w.input_scale = set_aside(&end, layer->n_inputs, sizeof(real));
    }
    if (is_scored(c->growth)) {
        w.all_columns = set_aside(&end, layer->n_inputs, sizeof(uint16_t));
        w.scores = set_aside(&end, layer->blocks, sizeof(real));
        w.positions = set_aside(&end, layer->blocks, sizeof(uint32_t));
    }
    w.end = end;
    return w;
}

/* ------------------------------------------------------------------------------- what one part has for the others */

/* A piece of an update: rows first … last - 1 of one layer of a network. */
typedef struct pass {
    learner *l;
    const kernel_table *kernels;
    const edgerl_replay *replay;
    uint32_t network, index;
    uint32_t first, last;
    uint32_t width; /* columns of the batch, padded; of a joint batch both halves */
} pass;

static inline sparse_layer *layer_of(const pass *p) { return &p->l->layers[p->network][p->index]; }

/* The update that is under way, counted from 1. */
static inline uint64_t this_update(const learner *l) { return l->progress.updates + 1; }

/* Steps that a network's optimiser will have made after this update. */
static inline uint64_t steps_of(const learner *l, uint32_t network) {
    return network == EDGERL_ACTOR ? this_update(l) / l->config.policy_delay : this_update(l);
}

/* layout.c */

EDGERL_INTERNAL int32_t check_config(const edgerl_learner_config *c);

/* Where everything lies: a function of the configuration alone, so that an arena's own offsets need not be trusted. */
EDGERL_INTERNAL void lay_out(learner *l, const edgerl_learner_config *config);

/* Where the gradients of a layer lie, by its weights, its biases, and its norm's scales and shifts. */
typedef struct parameter_gradients {
    uint64_t weights, biases, norms;
} parameter_gradients;

EDGERL_INTERNAL parameter_gradients gradients_of(const pass *p);

/* learner.c */

/* Whether an arena holds a learner, and neither pointer is null. */
EDGERL_INTERNAL int32_t check_learner(const void *arena, const void *a, const void *b);

/* No update is under way. */
EDGERL_INTERNAL int is_idle(const learner *l);

/* What follows from a layer's topology. */
EDGERL_INTERNAL void index_layer(learner *l, sparse_layer *layer);

/* acting.c */

/* Copy a layer of the actor, the first one first, to the acting copy that is not in use. */
EDGERL_INTERNAL void publish_layer(const pass *p);

/* Act with the copy that was made last from now on. */
EDGERL_INTERNAL void publish(learner *l);

/* batch_norm.c: of a layer that has a batch norm */

/* Means and variances of some of its inputs over the batch. */
EDGERL_INTERNAL void batch_statistics(const pass *p);

/* The weights and biases that do what the layer does behind its norm: with the statistics of the batch, or the running ones. */
EDGERL_INTERNAL void fold_batch(const pass *p);
EDGERL_INTERNAL void fold_running(const pass *p);

/* From gradients by folded weights to those by weights; by scales and shifts; and what centre_gradient adds. */
EDGERL_INTERNAL void batch_norm_gradient(const pass *p);

/* Complete the gradient by some of the layer's inputs, which also move the batch's statistics, and lead it through the activation
 * before them. */
EDGERL_INTERNAL void centre_gradient(const pass *p);

/* The same as batch_norm_gradient for a row of blocks with all of its positions, [n_inputs][block]. */
EDGERL_INTERNAL void unfold_row_of_all(const pass *p, uint32_t row, real *gradient);

/* Root mean squares of what the norm gave. */
EDGERL_INTERNAL void scale_normalised_inputs(const pass *p, real *input_scale);

EDGERL_INTERNAL int are_statistics_finite(const pass *p);

/* The running statistics follow those of the batch. */
EDGERL_INTERNAL void follow_statistics(const pass *p);

/* topology.c */

/* Choose what is dropped: block 1: all that is exactly zero and the fraction of the smallest positive and of the largest
 * negative weights; larger blocks: the fraction with the smallest mean |w|. Never more of a width than there are absent
 * positions to grow into; at least one of the layer, where it can and the fraction is not 0. */
EDGERL_INTERNAL void select_drop(const pass *p);

/* Score the absent positions of some rows of blocks, for rules that score: the only place that touches absent connections. Each
 * row's gradient is computed, over the weight gradient's scratch, and forgotten. */
EDGERL_INTERNAL void score_absent(const pass *p);

/* Drop what was selected and grow as much, at weight 0 with zero moments. */
EDGERL_INTERNAL void evolve(const pass *p);

/* TargetSparsityMaintenance of Algorithm 1 for one layer, after the moving average over the union of both supports. */
EDGERL_INTERNAL void prune_target(const pass *p);

#endif
