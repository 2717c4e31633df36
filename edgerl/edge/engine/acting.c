/* SPDX-License-Identifier: MIT */
/* Acting while learning: two copies of the actor, of which an update writes the one that is not in use. */
#include "learner.h"
#include "numeric.h"

/* -------------------------------------------------------------------------------------------- copies of the actor */

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

EDGERL_INTERNAL void publish_layer(const pass *p) {
    learner *l = p->l;
    const uint32_t index = p->index;
    const sparse_layer *layer = &l->layers[EDGERL_ACTOR][index];
    acting_copy *to = &l->acting[(l->published + 1) % 2];
    if (index == 0) {
        __atomic_store_n(&l->publishing, l->published + 1, __ATOMIC_RELAXED);
        __atomic_thread_fence(__ATOMIC_SEQ_CST); /* nothing of the copy may be seen before */
    }
    if (to->topology[index] != layer->topology) {
        copy_words(words_at(l, to->starts[index]), words_at(l, layer->arrays.starts), (uint64_t)layer->rows + 1);
        copy_indices(indices_at(l, to->columns[index]), indices_at(l, layer->arrays.columns), layer->blocks);
        to->topology[index] = layer->topology;
    }
    uint64_t weight = layer->arrays.weight, bias = layer->arrays.bias;
    if (has_batch_norm(layer)) {
        fold_running(p);
        weight = l->folded[EDGERL_ACTOR][index].weight;
        bias = l->folded[EDGERL_ACTOR][index].bias;
    }
    copy(bytes_at(l, to->weight[index]), bytes_at(l, weight), weights_of(layer) * sizeof(real));
    copy(bytes_at(l, to->bias[index]), bytes_at(l, bias), units_of(layer) * sizeof(real));
}

EDGERL_INTERNAL void publish(learner *l) { __atomic_store_n(&l->published, l->publishing, __ATOMIC_RELEASE); }

/* ------------------------------------------------------------------------------------------------------- acting */

/* outputs = W x + b of one layer for a single x. */
static void act_layer(const uint32_t *starts, const uint16_t *columns, const real *weight, const real *bias, uint32_t rows,
                      uint32_t block, const real *x, real *outputs) {
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
            outputs[4 * row] = a;
            outputs[4 * row + 1] = b;
            outputs[4 * row + 2] = c;
            outputs[4 * row + 3] = d;
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
        outputs[row] = (a + b) + (c + d);
    }
}

static void act_with(const learner *l, const acting_copy *with, const float *observation, const float *noise, float *action) {
    real *x = reals_at(l, l->acting_vectors[0]), *outputs = reals_at(l, l->acting_vectors[1]);
    for (uint32_t i = 0; i < l->config.n_observations; i++) {
        x[i] = (real)observation[i];
    }
    for (uint32_t i = 0; i < l->config.actor.n_layers; i++) {
        const sparse_layer *one = &l->layers[EDGERL_ACTOR][i];
        act_layer(words_at(l, with->starts[i]), indices_at(l, with->columns[i]), reals_at(l, with->weight[i]),
                  reals_at(l, with->bias[i]), one->rows, one->block, x, outputs);
        for (uint32_t k = 0; k < one->n_outputs; k++) {
            outputs[k] = activate(activation_behind(l, EDGERL_ACTOR, i), outputs[k]);
        }
        real *swap = x;
        x = outputs;
        outputs = swap;
    }
    for (uint32_t i = 0; i < l->config.n_actions; i++) {
        const real *log_deviation = x + l->config.n_actions;
        const real drawn = noise == NULL ? 0 : exponential(clipped_log_deviation(log_deviation[i])) * (real)noise[i];
        const real sum = x[i] + drawn;
        action[i] = (float)(is_clipped(&l->config) ? (sum < -1 ? -1 : sum > 1 ? 1 : sum) : tanh_real(sum));
    }
}

/* noise: null for the action without any. */
static int32_t act_in(const learner *l, const float *observation, const float *noise, float *action) {
    const float_mode mode = flush_denormals();
    uint32_t copy_in_use;
    do { /* again only where two updates were completed while this action was computed */
        copy_in_use = __atomic_load_n(&l->published, __ATOMIC_ACQUIRE);
        act_with(l, &l->acting[copy_in_use % 2], observation, noise, action);
        __atomic_thread_fence(__ATOMIC_ACQUIRE); /* all of the copy was read before */
    } while (__atomic_load_n(&l->publishing, __ATOMIC_RELAXED) - copy_in_use > 1);
    restore_float_mode(mode);
    return EDGERL_OK;
}

int32_t edgerl_learner_action(void *arena, const float *observation, float *action) {
    const int32_t status = check_learner(arena, observation, action);
    return status == EDGERL_OK ? act_in(arena, observation, NULL, action) : status;
}

int32_t edgerl_learner_sample(void *arena, const float *observation, const float *noise, float *action) {
    const int32_t status = noise == NULL ? EDGERL_BAD_ARGUMENT : check_learner(arena, observation, action);
    if (status == EDGERL_OK && !is_stochastic(&((const learner *)arena)->config)) {
        return EDGERL_BAD_ARGUMENT;
    }
    return status == EDGERL_OK ? act_in(arena, observation, noise, action) : status;
}
