/* SPDX-License-Identifier: MIT */
/* What a learner's arena holds. */
#ifndef EDGERL_LEARNER_H
#define EDGERL_LEARNER_H

#include "random.h"

#define LEARNER_MAGIC 0x4c524c45u /* "ELRL" */
#define LEARNER_VERSION 2u
#define NETWORKS 3u

/* One layer. Offsets in bytes from the arena, 0: not there. */
typedef struct layer {
    uint32_t n_inputs, n_outputs, block;
    uint32_t rows, full_rows;      /* rows of blocks; those of full width */
    uint32_t blocks, full_blocks;  /* stored blocks; those of full width, which come first */
    uint32_t is_dense, has_transposed;
    edgerl_learner_layer at;
    uint64_t column_starts, column_rows, column_places; /* the transposed index, of block 1 */
    uint32_t row_panels, column_panels; /* into how many ranges of inputs (of outputs) rows (columns) are cut, 1: not at all */
    uint64_t row_bounds, column_bounds; /* uint32 [panels - 1][rows or inputs]: where in its row a further panel begins */
    uint32_t topology; /* counts its changes */
    real guess[2]; /* about which magnitude pruning cuts, per width: only speeds the search up */
} layer;

/* A complete copy of the actor's weights to act with. */
typedef struct acting {
    uint64_t starts[EDGERL_LEARNER_LAYERS], columns[EDGERL_LEARNER_LAYERS], weight[EDGERL_LEARNER_LAYERS],
        bias[EDGERL_LEARNER_LAYERS];
    uint32_t topology[EDGERL_LEARNER_LAYERS]; /* which one it has */
} acting;

/* Where an update stands: an instruction of the program, an item of the instruction, a row of the item. */
typedef struct place {
    uint32_t instruction, item, row;
} place;

typedef struct learner {
    uint32_t magic, version, sizeof_real;
    uint32_t is_abandoned; /* the present update: nothing of it is left to do but to finish */
    edgerl_learner_config config;
    edgerl_learner_bytes_of bytes;
    edgerl_learner_progress progress;
    place place;
    uint32_t width, stride; /* columns of the batch, padded to vectors; numbers between two rows of activations */
    uint32_t published, publishing; /* copies of the actor that were ever made; that were ever begun */
    layer layers[NETWORKS][EDGERL_LEARNER_LAYERS];
    acting acting[2];
    uint64_t acting_vectors[2];
    /* Scratch of an update. */
    uint64_t now, next;                        /* observation and action, [n + m][batch]; and those that follow */
    uint64_t hidden[2][EDGERL_LEARNER_LAYERS]; /* outputs of the actor's layers; of a critic's */
    uint64_t gradient[EDGERL_LEARNER_LAYERS];  /* of the loss, by each layer's output */
    uint64_t action_gradient;                  /* of Q1, by [observation and action] */
    uint64_t target_value, returns, discounts; /* [batch] */
    uint64_t noise;                            /* [batch][m] */
    uint64_t words;                            /* uint32 */
    uint64_t weight_gradient, bias_gradient;
    uint64_t workspace; /* of topology steps; lies over the activations where these are not needed then */
    uint64_t workspace_bytes;
} learner;

static inline void *at(const learner *l, uint64_t offset) { return (char *)(uintptr_t)l + offset; }
static inline real *reals(const learner *l, uint64_t offset) { return (real *)at(l, offset); }
static inline uint32_t *words_at(const learner *l, uint64_t offset) { return (uint32_t *)at(l, offset); }
static inline uint16_t *indices_at(const learner *l, uint64_t offset) { return (uint16_t *)at(l, offset); }

static inline size_t weights_of(const layer *y) { return (size_t)y->blocks * y->block; }
static inline size_t units_of(const layer *y) { return (size_t)y->rows * y->block; } /* outputs, padded */

static inline uint32_t get_bit(const uint32_t *bits, uint32_t i) { return bits[i / 32] >> (i % 32) & 1u; }
static inline void set_bit(uint32_t *bits, uint32_t i) { bits[i / 32] |= UINT32_C(1) << (i % 32); }
static inline void clear_bit(uint32_t *bits, uint32_t i) { bits[i / 32] &= ~(UINT32_C(1) << (i % 32)); }

/* Inputs (or outputs) of one panel: a narrow tile of so many rows of activations stays in the first cache. */
#define PANEL 128u
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

static inline uint32_t classes_of(const layer *y, width_class classes[2]) {
    const width_class full = {0, y->full_rows, 0, y->full_blocks, y->block, 0};
    const width_class narrow = {y->full_rows, y->rows,   y->full_blocks,
                                y->blocks,    y->n_outputs % y->block, 65536u};
    uint32_t count = 0;
    if (y->full_rows > 0) {
        classes[count++] = full;
    }
    if (y->rows > y->full_rows) {
        classes[count++] = narrow;
    }
    return count;
}

/* What steps of the topology need while they last. */
typedef struct topology_space {
    uint64_t keys;       /* key [2 N]: magnitudes */
    uint64_t scratch;    /* key [2 N]: the same, to be partitioned */
    uint64_t candidates; /* uint32 [2 N] */
    uint64_t dropped;    /* uint8 [N] */
    uint64_t chosen;     /* uint32 [N]: positions to grow */
    uint64_t set;        /* uint32 [set_slots(N)] */
    uint64_t source;     /* uint32 [N]: where a block's values come from */
    uint64_t starts, extra_starts;   /* uint32 [R + 1] */
    uint64_t columns, extra_columns; /* uint16 [N] */
    uint64_t values;                 /* real [N][block] */
    uint64_t counts;                 /* uint32 [4]: blocks dropped per width; best candidates so far per width */
    uint64_t all_columns;            /* uint16 [n_inputs]; these three only where growth goes by gradient */
    uint64_t scores;                 /* real [N] */
    uint64_t positions;              /* uint32 [N] */
    uint64_t end;
} topology_space;

#ifdef EDGERL_DOUBLE
typedef uint64_t key;
#else
typedef uint32_t key;
#endif

/* |x| as an integer of the same order, NaN above all: whatever the weights hold, a selection ends. */
static inline key key_of(real x) {
    union {
        real value;
        key bits;
    } u = {x};
    return u.bits & ~((key)1 << (sizeof(key) * 8 - 1));
}

static inline topology_space lay_out_workspace(const layer *y, uint64_t end, int32_t growth) {
    topology_space w;
    w.keys = set_aside(&end, 2 * (uint64_t)y->blocks, sizeof(key));
    w.scratch = set_aside(&end, 2 * (uint64_t)y->blocks, sizeof(key));
    w.candidates = set_aside(&end, 2 * (uint64_t)y->blocks, sizeof(uint32_t));
    w.dropped = set_aside(&end, y->blocks, 1);
    w.chosen = set_aside(&end, y->blocks, sizeof(uint32_t));
    w.set = set_aside(&end, set_slots(y->blocks), sizeof(uint32_t));
    w.source = set_aside(&end, y->blocks, sizeof(uint32_t));
    w.starts = set_aside(&end, (uint64_t)y->rows + 1, sizeof(uint32_t));
    w.extra_starts = set_aside(&end, (uint64_t)y->rows + 1, sizeof(uint32_t));
    w.columns = set_aside(&end, y->blocks, sizeof(uint16_t));
    w.extra_columns = set_aside(&end, y->blocks, sizeof(uint16_t));
    w.values = set_aside(&end, weights_of(y), sizeof(real));
    w.counts = set_aside(&end, 4, sizeof(uint32_t));
    w.all_columns = w.scores = w.positions = end;
    if (growth == EDGERL_GROWTH_GRADIENT) {
        w.all_columns = set_aside(&end, y->n_inputs, sizeof(uint16_t));
        w.scores = set_aside(&end, y->blocks, sizeof(real));
        w.positions = set_aside(&end, y->blocks, sizeof(uint32_t));
    }
    w.end = end;
    return w;
}

#endif
