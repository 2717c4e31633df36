/* SPDX-License-Identifier: MIT */
/* Batch renormalisation (Ioffe 2017) of what a layer is given. It is folded into the layer's weights and biases before each pass,
 * and its gradient found from theirs: both cost as little as the layer has connections. Over the activations themselves go only
 * the sums of their statistics, and on the way back what these add to the gradient by each sample. */
#include "learner.h"
#include "numeric.h"

/* As CrossQ's authors have them: added to variances; share of a batch's statistics in the running ones; passes over a network in
 * training before r and d are no longer 1 and 0; and their bounds from then on. */
#define RENORM_EPSILON ((real)1e-3)
#define RENORM_FOLLOWING ((real)0.01)
#define RENORM_WARM_UP 100000u
#define RENORM_LARGEST_RATIO ((real)3)
#define RENORM_LARGEST_SHIFT ((real)5)

/* Of each input x: y = level + slope (x - mean), where slope is γ ratio and level γ shift + β. */
typedef struct affine_of_inputs {
    real *mean, *variance, *ratio, *shift, *slope, *level; /* [n_inputs]; the variance only of a batch */
} affine_of_inputs;

static affine_of_inputs affine_in(const pass *p) {
    const uint32_t n = layer_of(p)->n_inputs;
    real *first = reals_at(p->l, p->l->folded[p->network][p->index].statistics);
    return (affine_of_inputs){first, first + n, first + 2 * n, first + 3 * n, first + 4 * n, first + 5 * n};
}

static batch_task batch_task_of(const pass *p) {
    const learner *l = p->l;
    const affine_of_inputs a = affine_in(p);
    return (batch_task){
        .x = input_of(l, p->network, p->index, l->now),
        .dx = p->index > 0 ? reals_at(l, l->gradient[p->index - 1]) : NULL,
        .mean = a.mean,
        .variance = a.variance,
        .slope = reals_at(l, l->centring),
        .offset = reals_at(l, l->centring) + layer_of(p)->n_inputs,
        .width = p->width,
        .half = l->width,
        .batch = l->config.batch,
        .stride = l->stride,
        .first = p->first,
        .last = p->last,
        .before = p->index > 0 ? fused_behind(l, p->network, p->index - 1) : LINEAR,
    };
}

EDGERL_INTERNAL void batch_statistics(const pass *p) {
    ONLY_WITH(EDGERL_CROSSQ)
    const batch_task task = batch_task_of(p);
    p->kernels->batch_statistics(&task);
}

/* -------------------------------------------------------------------------------------------------------- folding */

/* Weights slope · w, and biases with w · (level - slope · mean) of all inputs; one instance for each size of a block. */
static inline void fold_rows(const pass *p, const affine_of_inputs *a, const uint32_t block) {
    const learner *l = p->l;
    const sparse_layer *layer = layer_of(p);
    const uint32_t *starts = words_at(l, layer->arrays.starts);
    const uint16_t *columns = indices_at(l, layer->arrays.columns);
    const real *weight = reals_at(l, layer->arrays.weight), *bias = reals_at(l, layer->arrays.bias);
    real *to = reals_at(l, l->folded[p->network][p->index].weight), *to_bias = reals_at(l, l->folded[p->network][p->index].bias);
    for (uint32_t row = 0; row < layer->rows; row++) {
        real sums[4] = {0, 0, 0, 0};
        for (uint32_t i = starts[row]; i < starts[row + 1]; i++) {
            const uint32_t j = columns[i];
            const real slope = a->slope[j], rest = a->level[j] - slope * a->mean[j];
            for (uint32_t k = 0; k < block; k++) {
                const size_t at = (size_t)i * block + k;
                to[at] = weight[at] * slope;
                sums[k] += weight[at] * rest;
            }
        }
        for (uint32_t k = 0; k < block; k++) {
            to_bias[row * block + k] = bias[row * block + k] + sums[k];
        }
    }
}

static void fold(const pass *p) {
    const sparse_layer *layer = layer_of(p);
    const affine_of_inputs a = affine_in(p);
    const real *scale = reals_at(p->l, layer->arrays.norm), *shift = scale + layer->n_inputs;
    for (uint32_t j = 0; j < layer->n_inputs; j++) {
        a.slope[j] = scale[j] * a.ratio[j];
        a.level[j] = scale[j] * a.shift[j] + shift[j];
    }
    if (layer->block == 4) {
        fold_rows(p, &a, 4);
    } else {
        fold_rows(p, &a, 1);
    }
}

static real within(real x, real low, real high) { return x < low ? low : x > high ? high : x; }

EDGERL_INTERNAL void fold_batch(const pass *p) {
    ONLY_WITH(EDGERL_CROSSQ)
    const sparse_layer *layer = layer_of(p);
    const affine_of_inputs a = affine_in(p);
    const real *running_mean = reals_at(p->l, layer->arrays.running), *running_variance = running_mean + layer->n_inputs;
    const int is_warm = steps_of(p->l, p->network) > RENORM_WARM_UP;
    for (uint32_t j = 0; j < layer->n_inputs; j++) {
        const real deviation = square_root(a.variance[j] + RENORM_EPSILON);
        const real running = square_root(running_variance[j] + RENORM_EPSILON);
        const real r = is_warm ? within(deviation / running, 1 / RENORM_LARGEST_RATIO, RENORM_LARGEST_RATIO) : 1;
        a.ratio[j] = r / deviation;
        a.shift[j] = is_warm ? within((a.mean[j] - running_mean[j]) / running, -RENORM_LARGEST_SHIFT, RENORM_LARGEST_SHIFT) : 0;
    }
    fold(p);
}

EDGERL_INTERNAL void fold_running(const pass *p) {
    ONLY_WITH(EDGERL_CROSSQ)
    const sparse_layer *layer = layer_of(p);
    const affine_of_inputs a = affine_in(p);
    const real *running_mean = reals_at(p->l, layer->arrays.running), *running_variance = running_mean + layer->n_inputs;
    for (uint32_t j = 0; j < layer->n_inputs; j++) {
        a.mean[j] = running_mean[j];
        a.ratio[j] = 1 / square_root(running_variance[j] + RENORM_EPSILON);
        a.shift[j] = 0;
    }
    fold(p);
}

/* ------------------------------------------------------------------------------------------------------- gradients */

/* From the products of output gradients with inputs x to those with y; sums over the connections of an input make the sums over
 * the batch of the gradient by y, and of its product with x - mean. */
static inline void unfold_rows(const pass *p, const affine_of_inputs *a, real *by_y, real *by_product, const uint32_t block) {
    const learner *l = p->l;
    const sparse_layer *layer = layer_of(p);
    const uint32_t *starts = words_at(l, layer->arrays.starts);
    const uint16_t *columns = indices_at(l, layer->arrays.columns);
    const real *weight = reals_at(l, layer->arrays.weight), *bias_gradient = reals_at(l, gradients_of(p).biases);
    real *gradient = reals_at(l, gradients_of(p).weights);
    for (uint32_t row = 0; row < layer->rows; row++) {
        for (uint32_t i = starts[row]; i < starts[row + 1]; i++) {
            const uint32_t j = columns[i];
            real sum = 0, product = 0;
            for (uint32_t k = 0; k < block; k++) {
                const size_t at = (size_t)i * block + k;
                const real by_bias = bias_gradient[row * block + k], centred = gradient[at] - a->mean[j] * by_bias;
                sum += weight[at] * by_bias;
                product += weight[at] * centred;
                gradient[at] = a->slope[j] * centred + a->level[j] * by_bias;
            }
            by_y[j] += sum;
            by_product[j] += product;
        }
    }
}

EDGERL_INTERNAL void batch_norm_gradient(const pass *p) {
    ONLY_WITH(EDGERL_CROSSQ)
    const learner *l = p->l;
    const sparse_layer *layer = layer_of(p);
    const affine_of_inputs a = affine_in(p);
    const uint32_t n = layer->n_inputs;
    real *by_scale = reals_at(l, gradients_of(p).norms), *by_shift = by_scale + n;
    real *slope = reals_at(l, l->centring), *offset = slope + n;
    const real share = 1 / ((real)l->config.batch * (real)(p->width / l->width));
    zero(by_scale, 2 * (uint64_t)n * sizeof(real));
    if (layer->block == 4) {
        unfold_rows(p, &a, by_shift, by_scale, 4);
    } else {
        unfold_rows(p, &a, by_shift, by_scale, 1);
    }
    for (uint32_t j = 0; j < n; j++) {
        slope[j] = -a.slope[j] * by_scale[j] * share / (a.variance[j] + RENORM_EPSILON);
        offset[j] = -a.slope[j] * by_shift[j] * share;
        by_scale[j] = a.ratio[j] * by_scale[j] + a.shift[j] * by_shift[j];
    }
}

EDGERL_INTERNAL void centre_gradient(const pass *p) {
    ONLY_WITH(EDGERL_CROSSQ)
    const batch_task task = batch_task_of(p);
    p->kernels->batch_gradient(&task);
}

EDGERL_INTERNAL void unfold_row_of_all(const pass *p, uint32_t row, real *gradient) {
    ONLY_WITH(EDGERL_CROSSQ)
    const learner *l = p->l;
    const sparse_layer *layer = layer_of(p);
    const affine_of_inputs a = affine_in(p);
    for (uint32_t k = 0; k < layer->block; k++) {
        const real *dy = row_at(l, l->gradient[p->index], row * layer->block + k);
        real by_bias = 0;
        for (uint32_t b = 0; b < p->width; b++) {
            by_bias += dy[b];
        }
        for (uint32_t j = 0; j < layer->n_inputs; j++) {
            real *g = &gradient[(size_t)j * layer->block + k];
            *g = a.slope[j] * (*g - a.mean[j] * by_bias) + a.level[j] * by_bias;
        }
    }
}

EDGERL_INTERNAL void scale_normalised_inputs(const pass *p, real *input_scale) {
    ONLY_WITH(EDGERL_CROSSQ)
    const affine_of_inputs a = affine_in(p);
    for (uint32_t j = 0; j < layer_of(p)->n_inputs; j++) {
        input_scale[j] = square_root(a.slope[j] * a.slope[j] * a.variance[j] + a.level[j] * a.level[j]);
    }
}

/* ---------------------------------------------------------------------------------------------- running statistics */

EDGERL_INTERNAL int are_statistics_finite(const pass *p) {
    const affine_of_inputs a = affine_in(p);
    for (uint32_t j = 0; j < layer_of(p)->n_inputs; j++) {
        if (!is_finite(a.mean[j]) || !is_finite(a.variance[j])) {
            return 0;
        }
    }
    return 1;
}

EDGERL_INTERNAL void follow_statistics(const pass *p) {
    ONLY_WITH(EDGERL_CROSSQ)
    const sparse_layer *layer = layer_of(p);
    const affine_of_inputs a = affine_in(p); /* mean and variance lie one behind the other, as the running ones do */
    p->kernels->follow(reals_at(p->l, layer->arrays.running), a.mean, 2 * (size_t)layer->n_inputs, RENORM_FOLLOWING);
}
