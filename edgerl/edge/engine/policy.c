/* SPDX-License-Identifier: MIT */
/* Inference: one observation to one action, layer by layer and, in a layer, input by input.
 *
 * A batch of one uses every weight once, so what counts is which weights are read. A layer is kept by columns: what
 * lies in the column of an input that ReLU zeroed is never touched.
 */
#include "numeric.h"

#define POLICY_MAGIC 0x4c4f5045u /* "EPOL" */

/* One layer in the arena; offsets are in bytes from the arena's start. */
typedef struct policy_layer {
    uint32_t n_inputs, n_outputs;
    uint32_t n_padded; /* outputs, rounded up to whole vectors */
    uint32_t units;    /* what the next layer is given: all outputs, or a cell's units */
    uint32_t state;    /* where a cell's state begins in the policy's: h [units], then of an LSTM c [units] */
    int32_t layout;
    uint64_t values; /* dense: [n_inputs][n_padded]; sparse: [connections]; blocks: [blocks][4] */
    uint64_t rows;   /* uint16: the outputs of the connections, or the block rows of the blocks, input by input */
    uint64_t starts; /* uint32 [n_inputs + 1]: where each input's begin in them */
    uint64_t bias;   /* [n_padded] */
    uint64_t norm;   /* scales, then shifts: [2][n_padded]; 0 where there is none */
    float norm_epsilon;
    int32_t activation;
} policy_layer;

typedef struct policy_state {
    uint32_t magic, n_layers;
    int32_t isa;
    uint32_t normalises, n_actions;
    uint64_t bytes;
    uint64_t layers;              /* layer [n_layers] */
    uint64_t mean, scale;         /* [n_observations], where it normalises */
    int32_t head;
    float clip;
    uint64_t bounds[2];           /* [n_actions]: centre and half_range of head tanh, low and high of head clip */
    uint64_t observation, action; /* [n_observations], [n_actions]: the caller's, in its own units */
    uint64_t active;              /* uint32 [widest layer]: the inputs that are not zero */
    uint64_t vectors[2];          /* [widest layer]: outputs of even and of odd layers */
    uint64_t state, following;    /* [n_state]: of all cells, and what it becomes if it is finite */
    uint32_t n_state;
} policy_state;

/* What stands between two layers: sums [count], and room up to whole vectors. */
typedef struct policy_between {
    uint32_t count;
    int32_t activation;
    float norm_epsilon;
    const float *norm_scale, *norm_shift; /* null where there is no norm */
} policy_between;

/* A recurrent cell: its sums [4][units], in whose place its outputs [units] are written, and its state before and after. */
typedef struct policy_cell {
    uint32_t units;
    int32_t kind;
    float *sums;
    const float *state;
    float *following;
} policy_cell;

/* A layer's arrays, found in the arena. */
typedef struct policy_columns {
    uint32_t n_padded;
    const float *values;
    const uint16_t *rows;
    const uint32_t *starts;
    const float *bias;
} policy_columns;

/* The inputs of a layer: all of them, and which are not zero, in rising order. */
typedef struct policy_active {
    uint32_t count;
    const uint32_t *inputs; /* [count] */
    const float *values;    /* [n_inputs] */
} policy_active;

/* ---------------------------------------------------------------------------------------------- naive kernels */

static void naive_dense_columns(const policy_columns *layer, const policy_active *x, float *outputs) {
    for (uint32_t row = 0; row < layer->n_padded; row++) {
        outputs[row] = layer->bias[row];
    }
    for (uint32_t k = 0; k < x->count; k++) {
        for (uint32_t row = 0; row < layer->n_padded; row++) {
            outputs[row] += layer->values[(size_t)x->inputs[k] * layer->n_padded + row] * x->values[x->inputs[k]];
        }
    }
}

static void naive_sparse_columns(const policy_columns *layer, const policy_active *x, float *outputs) {
    for (uint32_t row = 0; row < layer->n_padded; row++) {
        outputs[row] = layer->bias[row];
    }
    for (uint32_t k = 0; k < x->count; k++) {
        for (uint32_t i = layer->starts[x->inputs[k]]; i < layer->starts[x->inputs[k] + 1u]; i++) {
            outputs[layer->rows[i]] += layer->values[i] * x->values[x->inputs[k]];
        }
    }
}

static void naive_block_columns(const policy_columns *layer, const policy_active *x, float *outputs) {
    for (uint32_t row = 0; row < layer->n_padded; row++) {
        outputs[row] = layer->bias[row];
    }
    for (uint32_t k = 0; k < x->count; k++) {
        for (uint32_t i = layer->starts[x->inputs[k]]; i < layer->starts[x->inputs[k] + 1u]; i++) {
            for (uint32_t lane = 0; lane < 4; lane++) {
                outputs[4u * layer->rows[i] + lane] += layer->values[4u * (size_t)i + lane] * x->values[x->inputs[k]];
            }
        }
    }
}

/* ---------------------------------------------------------------------------------------------- activations */

static inline float sigmoid(float x) { return 1.0f / (1.0f + (float)exponential((real)-x)); }

/* x Φ(x): Φ(−x) by the rational approximation of Abramowitz and Stegun 7.1.26, within 1e-7. */
static inline float gelu(float x) {
    const float magnitude = x < 0 ? -x : x, t = 1.0f / (1.0f + 0.3275911f * 0.70710678f * magnitude);
    float p = 1.061405429f;
    p = p * t - 1.453152027f;
    p = p * t + 1.421413741f;
    p = p * t - 0.284496736f;
    p = p * t + 0.254829592f;
    const float tail = 0.5f * p * t * (float)exponential((real)(-0.5f * x * x)) * x;
    return x < 0 ? tail : x - tail;
}

/* Of one sum; NaN stays. */
static inline __attribute__((always_inline)) float activated(int32_t activation, float x) {
    switch (activation) {
    case EDGERL_LEAKY_RELU:
        return x < 0 ? 0.01f * x : x;
    case EDGERL_ELU:
        return x > 0 ? x : (float)exponential((real)x) - 1.0f;
    case EDGERL_SILU:
        return x * sigmoid(x);
    case EDGERL_TANH:
        return tanh_float(x);
    case EDGERL_SIGMOID:
        return sigmoid(x);
    case EDGERL_GELU:
        return gelu(x);
    default:
        return x; /* of ReLU too: the layer behind passes over what it makes zero */
    }
}

static inline __attribute__((always_inline)) void gru_unit(const policy_cell *c, uint32_t i) {
    const float *sums = c->sums + i;
    const float kept = sigmoid(sums[c->units]), reset = sigmoid(sums[0]);
    const float made = tanh_float(sums[2u * (size_t)c->units] + reset * sums[3u * (size_t)c->units]);
    c->following[i] = (1.0f - kept) * made + kept * c->state[i];
}

static inline __attribute__((always_inline)) void lstm_unit(const policy_cell *c, uint32_t i) {
    const float *sums = c->sums + i;
    const float entering = sigmoid(sums[0]), kept = sigmoid(sums[c->units]), leaving = sigmoid(sums[3u * (size_t)c->units]);
    const float memory = kept * c->state[c->units + i] + entering * tanh_float(sums[2u * (size_t)c->units]);
    c->following[c->units + i] = memory;
    c->following[i] = leaving * tanh_float(memory);
}

/* ---------------------------------------------------------------------------------------------- vector kernels */

/* Wide tiles have eight vectors: as many sums as hide the latency of an addition. Without vector registers they have
 * two, which the scalar ones hold. */
#define LANES VECTOR_LANES_BASELINE
#define TARGET TARGET_BASELINE
#if defined(__SSE2__) || defined(__ARM_NEON)
#define WIDE 8u
#else
#define WIDE 2u
#endif
#define K(name) name##_baseline
#include "policy.inc"

#if HAS_X86_LEVELS
#define LANES VECTOR_LANES_AVX2
#define TARGET TARGET_AVX2
#define WIDE 8u
#define K(name) name##_avx2
#include "policy.inc"

#define LANES VECTOR_LANES_AVX512
#define TARGET TARGET_AVX512
#define WIDE 8u
#define K(name) name##_avx512
#include "policy.inc"
#endif

typedef void policy_kernel(const policy_columns *layer, const policy_active *x, float *outputs);

/* By instruction set and layout, in the order of their numbers. */
static policy_kernel *const POLICY_KERNELS[][3] = {
    {naive_dense_columns, naive_sparse_columns, naive_block_columns},
    {dense_columns_baseline, sparse_columns_baseline, block_columns_baseline},
#if HAS_X86_LEVELS
    {dense_columns_avx2, sparse_columns_avx2, block_columns_avx2},
    {dense_columns_avx512, sparse_columns_avx512, block_columns_avx512},
#endif
};

typedef void policy_hidden(const policy_between *between, float *x);

static policy_hidden *const HIDDEN_KERNELS[] = {
    hidden_baseline,
    hidden_baseline,
#if HAS_X86_LEVELS
    hidden_avx2,
    hidden_avx512,
#endif
};

typedef void policy_step(const policy_cell *cell);

static policy_step *const CELL_KERNELS[] = {
    cell_baseline,
    cell_baseline,
#if HAS_X86_LEVELS
    cell_avx2,
    cell_avx512,
#endif
};

static uint32_t vector_lanes(int32_t isa) {
    switch (isa) {
    case EDGERL_ISA_AVX512:
        return VECTOR_LANES_AVX512;
    case EDGERL_ISA_AVX2:
        return VECTOR_LANES_AVX2;
    default:
        return VECTOR_LANES_BASELINE;
    }
}

/* ---------------------------------------------------------------------------------------------- checking */

static int is_sparse(const edgerl_layer *l) { return l->row_starts != NULL; }

static uint32_t block_rows(const edgerl_layer *l) { return (l->n_outputs + l->block - 1) / l->block; }

static int32_t check_index(const edgerl_layer *l) {
    const uint32_t n_rows = block_rows(l);
    if (l->n_blocks > (uint64_t)n_rows * l->n_inputs || l->row_starts[0] != 0 || l->row_starts[n_rows] != l->n_blocks) {
        return EDGERL_BAD_INDEX;
    }
    for (uint32_t row = 0; row < n_rows; row++) {
        const uint32_t start = l->row_starts[row], end = l->row_starts[row + 1];
        if (start > end || end > l->n_blocks) {
            return EDGERL_BAD_INDEX;
        }
        for (uint32_t i = start; i < end; i++) {
            if (l->columns[i] >= l->n_inputs || (i > start && l->columns[i] <= l->columns[i - 1])) {
                return EDGERL_BAD_INDEX;
            }
        }
    }
    return EDGERL_OK;
}

static int32_t check_policy_layer(const edgerl_layer *l) {
    if (l->values == NULL || l->bias == NULL || is_sparse(l) != (l->columns != NULL) || (l->block != 1 && l->block != 4) ||
        (!is_sparse(l) && (l->block != 1 || l->n_blocks != 0)) || l->layout < EDGERL_DENSE_COLUMNS ||
        l->layout > EDGERL_BLOCK_COLUMNS) {
        return EDGERL_BAD_ARGUMENT;
    }
    if (l->n_inputs < 1 || l->n_inputs > EDGERL_MAX_UNITS || l->n_outputs < 1 || l->n_outputs > EDGERL_MAX_UNITS) {
        return EDGERL_BAD_SHAPE;
    }
    const int32_t status = is_sparse(l) ? check_index(l) : EDGERL_OK;
    if (status != EDGERL_OK) {
        return status;
    }
    const uint64_t stored = is_sparse(l) ? (uint64_t)l->n_blocks * l->block : (uint64_t)l->n_inputs * l->n_outputs;
    return all_finite(l->values, stored) && all_finite(l->bias, l->n_outputs) ? EDGERL_OK : EDGERL_NOT_FINITE;
}

static int is_cell(int32_t activation) { return activation == EDGERL_GRU || activation == EDGERL_LSTM; }

/* What layer i gives to the next one; behind the last stands the head. */
static uint32_t given_by(const edgerl_policy_config *config, uint32_t i) {
    const edgerl_layer *l = &config->layers[i];
    return i + 1 < config->n_layers && is_cell(l->activation) ? l->n_outputs / 4u : l->n_outputs;
}

/* What layer i is given by the one before, or of the observation. */
static uint32_t given_to(const edgerl_policy_config *config, uint32_t i) {
    const edgerl_layer *l = &config->layers[i];
    return i + 1 < config->n_layers && is_cell(l->activation) ? l->n_inputs - l->n_outputs / 4u : l->n_inputs;
}

static uint32_t state_of(const edgerl_policy_config *config, uint32_t i) {
    const int32_t kind = i + 1 < config->n_layers ? config->layers[i].activation : EDGERL_RELU;
    return kind == EDGERL_LSTM ? 2u * given_by(config, i) : kind == EDGERL_GRU ? given_by(config, i) : 0;
}

/* What stands behind a layer: of the last one nothing does. */
static int32_t check_between(const edgerl_layer *l) {
    if (is_cell(l->activation) && (l->n_outputs % 4u != 0 || l->n_inputs <= l->n_outputs / 4u || l->norm_scale != NULL)) {
        return EDGERL_BAD_SHAPE;
    }
    if (l->activation < EDGERL_RELU || l->activation > EDGERL_LSTM || (l->norm_scale == NULL) != (l->norm_shift == NULL)) {
        return EDGERL_BAD_ARGUMENT;
    }
    if (l->norm_scale == NULL) {
        return EDGERL_OK;
    }
    if (!all_finite(l->norm_scale, l->n_outputs) || !all_finite(l->norm_shift, l->n_outputs)) {
        return EDGERL_NOT_FINITE;
    }
    return l->norm_epsilon > 0 && all_finite(&l->norm_epsilon, 1) ? EDGERL_OK : EDGERL_BAD_ARGUMENT;
}

static int32_t check_policy_layers(const edgerl_policy_config *config) {
    for (uint32_t i = 0; i < config->n_layers; i++) {
        const int32_t status = check_policy_layer(&config->layers[i]);
        if (status != EDGERL_OK) {
            return status;
        }
        const int32_t between = i + 1 < config->n_layers ? check_between(&config->layers[i]) : EDGERL_OK;
        if (between != EDGERL_OK) {
            return between;
        }
        if (i > 0 && given_to(config, i) != given_by(config, i - 1)) {
            return EDGERL_BAD_SHAPE;
        }
    }
    return EDGERL_OK;
}

static uint32_t actions_of(const edgerl_policy_config *config) {
    const uint32_t outputs = config->layers[config->n_layers - 1].n_outputs;
    return config->head == EDGERL_HEAD_GAUSSIAN ? outputs / 2 : outputs;
}

/* One of the two arrays that an action is made with: centre and half_range, or low and high. */
static const float *bound_of(const edgerl_policy_config *config, uint32_t which) {
    if (config->head == EDGERL_HEAD_CLIP) {
        return which == 0 ? config->low : config->high;
    }
    return which == 0 ? config->centre : config->half_range;
}

static int32_t check_policy(const edgerl_policy_config *config) {
    if (config == NULL || config->layers == NULL || config->head < EDGERL_HEAD_TANH || config->head > EDGERL_HEAD_GAUSSIAN ||
        bound_of(config, 0) == NULL || bound_of(config, 1) == NULL || !(config->clip >= 0) ||
        (config->mean == NULL) != (config->scale == NULL) || config->n_layers < 1 || config->n_layers > EDGERL_MAX_LAYERS ||
        config->isa < EDGERL_ISA_NAIVE || config->isa > EDGERL_ISA_AVX512) {
        return EDGERL_BAD_ARGUMENT;
    }
    const int32_t status = check_policy_layers(config);
    if (status != EDGERL_OK) {
        return status;
    }
    if (config->head == EDGERL_HEAD_GAUSSIAN && config->layers[config->n_layers - 1].n_outputs % 2 != 0) {
        return EDGERL_BAD_SHAPE;
    }
    const uint32_t n = given_to(config, 0), m = actions_of(config);
    const int finite = all_finite(bound_of(config, 0), m) && all_finite(bound_of(config, 1), m) &&
                       (config->mean == NULL || (all_finite(config->mean, n) && all_finite(config->scale, n)));
    return finite ? EDGERL_OK : EDGERL_NOT_FINITE;
}

/* ---------------------------------------------------------------------------------------------- building */

/* A walk over a layer's weights, four outputs and one input at a time: block row by block row, inputs rising. */
typedef struct walk {
    const edgerl_layer *source;
    uint32_t lanes;           /* rows of the source in four outputs: four of single weights, one of blocks */
    uint32_t block_row;       /* of four outputs */
    uint32_t column;          /* the input */
    float four[4];            /* the weights from it to outputs 4 block_row ... + 3; zero where there is none */
    uint32_t n_weights;       /* of these four: at least one is not zero */
    uint32_t next[4], end[4]; /* where these rows stand, and end: in `columns`, or, dense, at an input */
} walk;

static void enter_block_row(walk *w) {
    const edgerl_layer *l = w->source;
    for (uint32_t lane = 0; lane < w->lanes; lane++) {
        const uint32_t row = w->lanes * w->block_row + lane;
        const int has_row = row < block_rows(l);
        w->next[lane] = is_sparse(l) && has_row ? l->row_starts[row] : 0;
        w->end[lane] = !has_row ? 0 : is_sparse(l) ? l->row_starts[row + 1] : l->n_inputs;
    }
}

static walk begin_walk(const edgerl_layer *source) {
    walk w = {.source = source, .lanes = 4u / source->block};
    enter_block_row(&w);
    return w;
}

/* The input that a row stands at. */
static uint32_t input_at(const edgerl_layer *l, uint32_t place) { return is_sparse(l) ? l->columns[place] : place; }

/* The input of the next weights in this block row; n_inputs where there are no more. */
static uint32_t next_column(const walk *w) {
    uint32_t column = w->source->n_inputs;
    for (uint32_t lane = 0; lane < w->lanes; lane++) {
        if (w->next[lane] < w->end[lane]) {
            const uint32_t own = input_at(w->source, w->next[lane]);
            column = own < column ? own : column;
        }
    }
    return column;
}

/* Take the weights of `column` from single rows. */
static void take_singles(walk *w) {
    const edgerl_layer *l = w->source;
    for (uint32_t lane = 0; lane < 4; lane++) {
        const uint32_t place = w->next[lane];
        const int has_weight = place < w->end[lane] && input_at(l, place) == w->column;
        const size_t stored = is_sparse(l) ? place : (size_t)(4u * w->block_row + lane) * l->n_inputs + place;
        w->four[lane] = has_weight ? l->values[stored] : 0;
        w->next[lane] += has_weight ? 1u : 0u;
    }
}

/* Take a whole block; what pads it counts as zero. */
static void take_block(walk *w) {
    const float *stored = w->source->values + 4u * (size_t)w->next[0]++;
    for (uint32_t lane = 0; lane < 4; lane++) {
        w->four[lane] = 4u * w->block_row + lane < w->source->n_outputs ? stored[lane] : 0;
    }
}

/* Go on to the next four that are not all zero; 0 where there are none. */
static int step_walk(walk *w) {
    const uint32_t n_block_rows = (w->source->n_outputs + 3u) / 4u;
    while (w->block_row < n_block_rows) {
        w->column = next_column(w);
        if (w->column == w->source->n_inputs) {
            w->block_row++;
            enter_block_row(w);
            continue;
        }
        if (w->lanes == 4) {
            take_singles(w);
        } else {
            take_block(w);
        }
        w->n_weights = 0;
        for (uint32_t lane = 0; lane < 4; lane++) {
            w->n_weights += w->four[lane] != 0;
        }
        if (w->n_weights > 0) {
            return 1;
        }
    }
    return 0;
}

/* How many entries these four are in a sparse layout: connections, or one block. */
static uint32_t entries_of(const walk *w) { return w->source->layout == EDGERL_SPARSE_COLUMNS ? w->n_weights : 1u; }

static uint64_t count_entries(const edgerl_layer *source) {
    uint64_t count = 0;
    for (walk w = begin_walk(source); step_walk(&w);) {
        count += entries_of(&w);
    }
    return count;
}

/* Lay a layer out behind *end. */
static policy_layer plan_policy_layer(const edgerl_layer *source, int32_t isa, uint64_t *end) {
    policy_layer l = {.n_inputs = source->n_inputs, .n_outputs = source->n_outputs, .layout = source->layout};
    l.n_padded = (uint32_t)round_up(source->n_outputs, vector_lanes(isa));
    l.activation = source->activation;
    l.norm_epsilon = source->norm_epsilon;
    l.bias = set_aside(end, l.n_padded, sizeof(float));
    l.norm = source->norm_scale == NULL ? 0 : set_aside(end, 2 * (uint64_t)l.n_padded, sizeof(float));
    if (l.layout == EDGERL_DENSE_COLUMNS) {
        l.values = set_aside(end, (uint64_t)l.n_inputs * l.n_padded, sizeof(float));
        return l;
    }
    const uint64_t entries = count_entries(source);
    l.values = set_aside(end, l.layout == EDGERL_BLOCK_COLUMNS ? 4 * entries : entries, sizeof(float));
    l.rows = set_aside(end, entries, sizeof(uint16_t));
    l.starts = set_aside(end, (uint64_t)l.n_inputs + 1, sizeof(uint32_t));
    return l;
}

/* Lay a policy out; where `layers` is not null, [n_layers] are written there. */
static policy_state plan_policy(const edgerl_policy_config *config, policy_layer *layers) {
    policy_state p = {.magic = POLICY_MAGIC, .n_layers = config->n_layers, .isa = usable_isa(config->isa)};
    p.head = config->head;
    p.clip = config->clip;
    uint64_t end = 0, widest = 0;
    set_aside(&end, 1, sizeof(policy_state));
    p.layers = set_aside(&end, p.n_layers, sizeof(policy_layer));
    for (uint32_t i = 0; i < p.n_layers; i++) {
        const policy_layer l = plan_policy_layer(&config->layers[i], p.isa, &end);
        widest = l.n_inputs > widest ? l.n_inputs : widest;
        widest = l.n_padded > widest ? l.n_padded : widest;
        if (layers != NULL) {
            layers[i] = l;
            layers[i].units = given_by(config, i);
            layers[i].state = p.n_state;
        }
        p.n_state += state_of(config, i);
    }
    const uint32_t n = given_to(config, 0), m = actions_of(config);
    p.n_actions = m;
    p.normalises = config->mean != NULL;
    p.mean = set_aside(&end, p.normalises ? n : 0, sizeof(float));
    p.scale = set_aside(&end, p.normalises ? n : 0, sizeof(float));
    p.bounds[0] = set_aside(&end, m, sizeof(float));
    p.bounds[1] = set_aside(&end, m, sizeof(float));
    p.observation = set_aside(&end, n, sizeof(float));
    p.action = set_aside(&end, m, sizeof(float));
    p.active = set_aside(&end, round_up(widest, VECTOR_LANES_AVX512), sizeof(uint32_t));
    p.vectors[0] = set_aside(&end, widest, sizeof(float));
    p.vectors[1] = set_aside(&end, widest, sizeof(float));
    p.state = set_aside(&end, p.n_state, sizeof(float));
    p.following = set_aside(&end, p.n_state, sizeof(float));
    p.bytes = end;
    return p;
}

static void fill_dense(const edgerl_layer *source, const policy_layer *l, float *values) {
    for (uint64_t i = 0; i < (uint64_t)l->n_inputs * l->n_padded; i++) {
        values[i] = 0;
    }
    for (walk w = begin_walk(source); step_walk(&w);) {
        for (uint32_t lane = 0; lane < 4 && 4u * w.block_row + lane < l->n_outputs; lane++) {
            values[(size_t)w.column * l->n_padded + 4u * w.block_row + lane] = w.four[lane];
        }
    }
}

/* Where each input's entries begin: counted, then added up. */
static void fill_starts(const edgerl_layer *source, uint32_t *starts) {
    for (uint32_t i = 0; i <= source->n_inputs; i++) {
        starts[i] = 0;
    }
    for (walk w = begin_walk(source); step_walk(&w);) {
        starts[w.column + 1] += entries_of(&w);
    }
    for (uint32_t i = 0; i < source->n_inputs; i++) {
        starts[i + 1] += starts[i];
    }
}

static void append_weights(const walk *w, float *values, uint16_t *rows, uint32_t *cursor) {
    for (uint32_t lane = 0; lane < 4; lane++) {
        if (w->four[lane] != 0) {
            values[*cursor] = w->four[lane];
            rows[(*cursor)++] = (uint16_t)(4u * w->block_row + lane);
        }
    }
}

static void append_block(const walk *w, float *values, uint16_t *rows, uint32_t *cursor) {
    for (uint32_t lane = 0; lane < 4; lane++) {
        values[4u * (size_t)*cursor + lane] = w->four[lane];
    }
    rows[(*cursor)++] = (uint16_t)w->block_row;
}

static void fill_sparse(const edgerl_layer *source, float *values, uint16_t *rows, uint32_t *starts) {
    fill_starts(source, starts);
    for (walk w = begin_walk(source); step_walk(&w);) {
        if (source->layout == EDGERL_SPARSE_COLUMNS) {
            append_weights(&w, values, rows, &starts[w.column]);
        } else {
            append_block(&w, values, rows, &starts[w.column]);
        }
    }
    for (uint32_t i = source->n_inputs; i > 0; i--) { /* each start has moved to the next one's place */
        starts[i] = starts[i - 1];
    }
    starts[0] = 0;
}

static void copy_floats(float *target, const float *source, uint32_t count) {
    for (uint32_t i = 0; i < count; i++) {
        target[i] = source[i];
    }
}

static float *floats(void *arena, uint64_t offset) { return (float *)((char *)arena + offset); }

static policy_layer *policy_layers(void *arena) {
    return (policy_layer *)((char *)arena + ((const policy_state *)arena)->layers);
}

static void fill_policy_layer(const edgerl_layer *source, void *arena, const policy_layer *l) {
    float *bias = floats(arena, l->bias);
    copy_floats(bias, source->bias, l->n_outputs);
    for (uint32_t i = l->n_outputs; i < l->n_padded; i++) {
        bias[i] = 0;
    }
    if (l->norm != 0) {
        copy_floats(floats(arena, l->norm), source->norm_scale, l->n_outputs);
        copy_floats(floats(arena, l->norm) + l->n_padded, source->norm_shift, l->n_outputs);
    }
    if (l->layout == EDGERL_DENSE_COLUMNS) {
        fill_dense(source, l, floats(arena, l->values));
    } else {
        fill_sparse(source, floats(arena, l->values), (uint16_t *)((char *)arena + l->rows),
                    (uint32_t *)((char *)arena + l->starts));
    }
}

int32_t edgerl_policy_bytes(const edgerl_policy_config *config, size_t *bytes) {
    if (bytes == NULL) {
        return EDGERL_BAD_ARGUMENT;
    }
    const int32_t status = check_policy(config);
    if (status != EDGERL_OK) {
        return status;
    }
    const policy_state p = plan_policy(config, NULL);
    if (p.bytes > SIZE_MAX) {
        return EDGERL_TOO_LARGE;
    }
    *bytes = (size_t)p.bytes;
    return EDGERL_OK;
}

int32_t edgerl_policy_init(const edgerl_policy_config *config, void *arena, size_t bytes) {
    size_t needed = 0;
    const int32_t status = edgerl_policy_bytes(config, &needed);
    if (status != EDGERL_OK) {
        return status;
    }
    if (arena == NULL) {
        return EDGERL_BAD_ARGUMENT;
    }
    if (!is_aligned(arena)) {
        return EDGERL_ARENA_MISALIGNED;
    }
    if (bytes < needed) {
        return EDGERL_ARENA_TOO_SMALL;
    }
    policy_state *p = arena;
    *p = plan_policy(config, (policy_layer *)((char *)arena + round_up(sizeof(policy_state), EDGERL_ALIGNMENT)));
    for (uint32_t i = 0; i < p->n_layers; i++) {
        fill_policy_layer(&config->layers[i], arena, &policy_layers(arena)[i]);
    }
    const uint32_t n = given_to(config, 0), m = p->n_actions;
    if (p->normalises) {
        copy_floats(floats(arena, p->mean), config->mean, n);
        copy_floats(floats(arena, p->scale), config->scale, n);
    }
    copy_floats(floats(arena, p->bounds[0]), bound_of(config, 0), m);
    copy_floats(floats(arena, p->bounds[1]), bound_of(config, 1), m);
    return edgerl_policy_reset(arena);
}

/* ---------------------------------------------------------------------------------------------- acting */

/* x, but at least `low` and at most `high`; NaN stays. */
static inline float clipped(float x, float low, float high) {
    const float above = x < low ? low : x;
    return above > high ? high : above;
}

static int32_t check_policy_arena(const void *arena) {
    if (arena == NULL) {
        return EDGERL_BAD_ARGUMENT;
    }
    if (!is_aligned(arena)) {
        return EDGERL_ARENA_MISALIGNED;
    }
    return ((const policy_state *)arena)->magic == POLICY_MAGIC ? EDGERL_OK : EDGERL_ARENA_INVALID;
}

int32_t edgerl_policy_reset(void *arena) {
    const int32_t status = check_policy_arena(arena);
    if (status != EDGERL_OK) {
        return status;
    }
    const policy_state *p = arena;
    for (uint32_t i = 0; i < p->n_state; i++) {
        floats(arena, p->state)[i] = 0;
    }
    return EDGERL_OK;
}

/* Write the observation, normalised and clipped, to `normalised` [count]; 0 where a number of it is not finite. */
static int normalise_observation(void *arena, const float *observation, float *normalised, uint32_t count) {
    const policy_state *p = arena;
    const float *mean = floats(arena, p->mean), *scale = floats(arena, p->scale);
    int finite = 1;
    for (uint32_t i = 0; i < count; i++) {
        finite &= is_finite((real)observation[i]);
        normalised[i] = p->normalises ? (observation[i] - mean[i]) * scale[i] : observation[i];
    }
    for (uint32_t i = 0; p->clip > 0 && i < count; i++) {
        normalised[i] = clipped(normalised[i], -p->clip, p->clip);
    }
    for (uint32_t i = 0; i < count; i++) {
        finite &= is_finite((real)normalised[i]);
    }
    return finite;
}

/* The inputs among x [count] that are not zero, NaN included; negative numbers count as zero where `is_rectified`. No branch
 * depends on x: half of them would be mispredicted. */
static inline uint32_t collect(const float *x, uint32_t count, int is_rectified, uint32_t *inputs) {
    uint32_t n_active = 0;
    for (uint32_t i = 0; i < count; i++) {
        inputs[n_active] = i;
        n_active += is_rectified ? !(x[i] <= 0) : x[i] != 0;
    }
    return n_active;
}

#if HAS_X86_LEVELS
TARGET_AVX512 static inline uint32_t collect_avx512(const float *x, uint32_t count, int is_rectified, uint32_t *inputs) {
    __m512i index = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    uint32_t n_active = 0;
    for (uint32_t i = 0; i < count; i += 16) {
        const __mmask16 lanes = count - i < 16 ? (__mmask16)((1u << (count - i)) - 1) : (__mmask16)0xffff;
        const __m512 values = _mm512_maskz_loadu_ps(lanes, x + i);
        const __mmask16 chosen = is_rectified ? _mm512_mask_cmp_ps_mask(lanes, values, _mm512_setzero_ps(), _CMP_NLE_UQ)
                                              : _mm512_mask_cmp_ps_mask(lanes, values, _mm512_setzero_ps(), _CMP_NEQ_UQ);
        _mm512_storeu_si512(inputs + n_active, _mm512_maskz_compress_epi32(chosen, index));
        n_active += (uint32_t)__builtin_popcount(chosen);
        index = _mm512_add_epi32(index, _mm512_set1_epi32(16));
    }
    return n_active;
}
#endif

static inline policy_active find_active(void *arena, const float *x, uint32_t count, int is_rectified) {
    const policy_state *p = arena;
    uint32_t *inputs = (uint32_t *)((char *)arena + p->active);
#if HAS_X86_LEVELS
    if (p->isa == EDGERL_ISA_AVX512) {
        return (policy_active){collect_avx512(x, count, is_rectified, inputs), inputs, x};
    }
#endif
    return (policy_active){collect(x, count, is_rectified, inputs), inputs, x};
}

static void run_policy_layer(void *arena, uint32_t index, const policy_active *x, float *outputs) {
    const policy_layer *l = &policy_layers(arena)[index];
    const policy_columns found = {
        l->n_padded,
        floats(arena, l->values),
        (const uint16_t *)((char *)arena + l->rows),
        (const uint32_t *)((char *)arena + l->starts),
        floats(arena, l->bias),
    };
    POLICY_KERNELS[((const policy_state *)arena)->isa][l->layout](&found, x, outputs);
}

/* What the next layer is given for the sums of a hidden one, in their place; but for ReLU, which is left to find_active. */
static void run_hidden(void *arena, const policy_layer *l, float *sums) {
    if (l->activation == EDGERL_RELU && l->norm == 0) {
        return;
    }
    const float *norm = l->norm == 0 ? NULL : floats(arena, l->norm);
    const policy_between between = {l->n_outputs, l->activation, l->norm_epsilon, norm, norm + (norm == NULL ? 0 : l->n_padded)};
    HIDDEN_KERNELS[((const policy_state *)arena)->isa](&between, sums);
}

/* A number of a normal distribution, from a standard normal one. */
static float drawn(float mean, float log_deviation, float noise) {
    return mean + (float)exponential(clipped_log_deviation((real)log_deviation)) * noise;
}

/* A cell's next state, and its outputs in place of its sums. */
static void run_cell(void *arena, const policy_layer *l, float *sums) {
    const policy_state *p = arena;
    float *following = floats(arena, p->following) + l->state;
    const policy_cell cell = {l->units, l->activation, sums, floats(arena, p->state) + l->state, following};
    CELL_KERNELS[p->isa](&cell);
    copy_floats(sums, following, l->units);
}

/* What layer `index`, whose inputs from the layer before are in x, is given: of a cell its own last outputs behind them. */
static policy_active inputs_of(void *arena, uint32_t index, float *x) {
    const policy_state *p = arena;
    const policy_layer *l = &policy_layers(arena)[index];
    int is_rectified = index > 0 && l[-1].activation == EDGERL_RELU;
    if (index + 1 < p->n_layers && is_cell(l->activation)) {
        const uint32_t fed = l->n_inputs - l->units;
        for (uint32_t i = 0; is_rectified && i < fed; i++) {
            x[i] = x[i] < 0 ? 0 : x[i];
        }
        copy_floats(x + fed, floats(arena, p->state) + l->state, l->units);
        is_rectified = 0;
    }
    return find_active(arena, x, l->n_inputs, is_rectified);
}

/* The next state becomes the state, where all of it is finite. */
static void keep_state(void *arena) {
    const policy_state *p = arena;
    if (all_finite(floats(arena, p->following), p->n_state)) {
        copy_floats(floats(arena, p->state), floats(arena, p->following), p->n_state);
    }
}

/* The action of a policy that was checked; noise: null for the one without any. */
static void act(void *arena, const float *observation, const float *noise, float *action) {
    const policy_state *p = arena;
    const policy_layer *layers = policy_layers(arena);
    const int begins_with_cell = p->n_layers > 1 && is_cell(layers[0].activation);
    const uint32_t n = layers[0].n_inputs - (begins_with_cell ? layers[0].units : 0), m = p->n_actions;
    float *outputs = floats(arena, p->vectors[1]);
    if (!normalise_observation(arena, observation, outputs, n)) {
        for (uint32_t i = 0; i < m; i++) {
            action[i] = __builtin_nanf("");
        }
        return;
    }
    for (uint32_t i = 0; i < p->n_layers; i++) {
        const policy_active x = inputs_of(arena, i, outputs);
        outputs = floats(arena, p->vectors[i % 2]);
        run_policy_layer(arena, i, &x, outputs);
        if (i + 1 == p->n_layers) {
            break;
        }
        if (is_cell(layers[i].activation)) {
            run_cell(arena, &layers[i], outputs);
        } else {
            run_hidden(arena, &layers[i], outputs);
        }
    }
    keep_state(arena);
    const float *first = floats(arena, p->bounds[0]), *second = floats(arena, p->bounds[1]);
    for (uint32_t i = 0; i < m; i++) {
        const float u = noise == NULL ? outputs[i] : drawn(outputs[i], outputs[m + i], noise[i]);
        action[i] = p->head == EDGERL_HEAD_CLIP ? clipped(u, first[i], second[i]) : first[i] + second[i] * tanh_float(u);
    }
}

int32_t edgerl_policy_act(void *arena, const float *observation, float *action) {
    const int32_t status = check_policy_arena(arena);
    if (status != EDGERL_OK || observation == NULL || action == NULL) {
        return status != EDGERL_OK ? status : EDGERL_BAD_ARGUMENT;
    }
    act(arena, observation, NULL, action);
    return EDGERL_OK;
}

int32_t edgerl_policy_sample(void *arena, const float *observation, const float *noise, float *action) {
    const int32_t status = check_policy_arena(arena);
    if (status != EDGERL_OK) {
        return status;
    }
    if (observation == NULL || noise == NULL || action == NULL || ((const policy_state *)arena)->head != EDGERL_HEAD_GAUSSIAN) {
        return EDGERL_BAD_ARGUMENT;
    }
    act(arena, observation, noise, action);
    return EDGERL_OK;
}

int32_t edgerl_policy_windows(const void *arena, size_t *observation, size_t *action) {
    const int32_t status = check_policy_arena(arena);
    if (status != EDGERL_OK || observation == NULL || action == NULL) {
        return status != EDGERL_OK ? status : EDGERL_BAD_ARGUMENT;
    }
    *observation = (size_t)((const policy_state *)arena)->observation;
    *action = (size_t)((const policy_state *)arena)->action;
    return EDGERL_OK;
}

int32_t edgerl_policy_state_window(const void *arena, size_t *state, size_t *count) {
    const int32_t status = check_policy_arena(arena);
    if (status != EDGERL_OK || state == NULL || count == NULL) {
        return status != EDGERL_OK ? status : EDGERL_BAD_ARGUMENT;
    }
    *state = (size_t)((const policy_state *)arena)->state;
    *count = ((const policy_state *)arena)->n_state;
    return EDGERL_OK;
}

int32_t edgerl_policy_act_in_place(void *arena) {
    const int32_t status = check_policy_arena(arena);
    if (status == EDGERL_OK) {
        const policy_state *p = arena;
        act(arena, floats(arena, p->observation), NULL, floats(arena, p->action));
    }
    return status;
}

int32_t edgerl_policy_run_layer(void *arena, uint32_t index, const float *inputs, float *outputs, uint32_t count) {
    const int32_t status = check_policy_arena(arena);
    if (status != EDGERL_OK) {
        return status;
    }
    const policy_state *p = arena;
    if (inputs == NULL || outputs == NULL || index >= p->n_layers) {
        return EDGERL_BAD_ARGUMENT;
    }
    const policy_layer *l = &policy_layers(arena)[index];
    float *result = floats(arena, p->vectors[0]);
    for (size_t i = 0; i < count; i++) {
        const policy_active x = find_active(arena, inputs + i * l->n_inputs, l->n_inputs, 0);
        run_policy_layer(arena, index, &x, result);
        copy_floats(outputs + i * l->n_outputs, result, l->n_outputs);
    }
    return EDGERL_OK;
}
