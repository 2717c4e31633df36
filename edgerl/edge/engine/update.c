/* SPDX-License-Identifier: MIT */
/* One pass through the loop of Algorithm 1: what each operation does to some rows of a layer, and the table of steps that they
 * make, which can be interrupted at any row. */
#include "learner.h"
#include "numeric.h"

/* ------------------------------------------------------------------------------------------------------- sampling */

static uint64_t size_of_replay(const edgerl_replay *r) { return r->count < r->capacity ? r->count : r->capacity; }

/* Bytes of a row before reward and boundary. */
static uint64_t tail_of_row(const learner *l, const edgerl_replay *r) {
    const uint64_t numbers = (imitates(&l->config) ? 1 : 2) * (uint64_t)l->config.n_observations + l->config.n_actions;
    return r->format == EDGERL_ROWS_FLOAT16 ? round_up(2 * numbers, 4) : 4 * numbers;
}

static uint64_t bytes_of_row(const learner *l, const edgerl_replay *r) {
    return tail_of_row(l, r) + (imitates(&l->config) ? 0 : 2 * sizeof(float));
}

static const char *transition(const learner *l, const edgerl_replay *r, uint64_t index) {
    const uint64_t stride = r->stride > 0 ? r->stride : bytes_of_row(l, r);
    return (const char *)r->rows + (r->count - size_of_replay(r) + index) % r->room * stride;
}

/* `count` numbers of a row, from number `first` on, into a column of a buffer. */
static void put_numbers(const learner *l, const edgerl_replay *r, const char *row, uint32_t first, uint32_t count, real *to) {
    const float *numbers = (const float *)row + first;
    const uint16_t *halves = (const uint16_t *)row + first;
    for (uint32_t i = 0; i < count; i++) {
        to[i * (size_t)l->stride] = (real)(r->format == EDGERL_ROWS_FLOAT16 ? float_of_half(halves[i]) : numbers[i]);
    }
}

static void put_observation(const learner *l, const edgerl_replay *r, const char *row, uint32_t first, real *to) {
    put_numbers(l, r, row, first, l->config.n_observations, to);
    for (uint32_t i = 0; r->mean != NULL && i < l->config.n_observations; i++) {
        real *x = &to[i * (size_t)l->stride];
        *x = (real)(((float)*x - r->mean[i]) * r->scale[i]);
    }
}

typedef struct row_end {
    float reward, boundary;
} row_end;

static row_end end_of_row(const learner *l, const edgerl_replay *r, const char *row) {
    const float *tail = (const float *)(row + tail_of_row(l, r));
    const row_end end = {tail[0], tail[1]};
    return end;
}

#define CONTINUES 0.0f
#define TERMINATED 1.0f

/* The transition number `index` from the oldest, or the window of up to n_step that begins there: it ends at a boundary and at
 * the newest transition, and its discount is γ to the number of its steps, 0 where it terminated. */
static void put_transition(learner *l, const edgerl_replay *r, uint32_t column, uint64_t index) {
    const uint32_t n = l->config.n_observations, m = l->config.n_actions;
    const uint64_t size = size_of_replay(r);
    const float gamma = (float)l->config.discount;
    const char *t = transition(l, r, index);
    put_observation(l, r, t, 0, reals_at(l, l->now) + column);
    put_numbers(l, r, t, n, m, row_at(l, l->now, n) + column);
    if (imitates(&l->config)) {
        return;
    }
    row_end end = end_of_row(l, r, t);
    const uint32_t steps = this_update(l) > l->config.n_step_delay ? l->config.n_step : 1;
    float sum = end.reward, discount = gamma;
    for (uint32_t ahead = 1; ahead < steps && end.boundary == CONTINUES && index + ahead < size; ahead++) {
        t = transition(l, r, index + ahead);
        end = end_of_row(l, r, t);
        sum += discount * end.reward;
        discount *= gamma;
    }
    put_observation(l, r, t, n + m, reals_at(l, l->next) + column);
    ((float *)bytes_at(l, l->returns))[column] = sum;
    ((float *)bytes_at(l, l->discounts))[column] = end.boundary == TERMINATED ? 0 : discount;
}

/* As ONLY_WITH: SAC, or CrossQ, which has its actor. */
#define ONLY_IF_STOCHASTIC                                   \
    if (!is_built(EDGERL_SAC) && !is_built(EDGERL_CROSSQ)) { \
        return;                                              \
    }

/* Standard normal numbers, one for each action of the batch. */
static void draw_noise(const pass *p, purpose of) {
    learner *l = p->l;
    const uint32_t count = l->config.batch * l->config.n_actions, even = count + count % 2;
    const draws noise = draws_for(l->config.seed, of, this_update(l), EDGERL_ACTOR, 0);
    draw(&noise, 0, even, words_at(l, l->words));
    p->kernels->normals(words_at(l, l->words), even, reals_at(l, l->noise));
}

/* Line 9 of Algorithm 1, and the noise of the target actions. */
static void sample(const pass *p) {
    learner *l = p->l;
    const edgerl_replay *r = p->replay;
    const edgerl_learner_config *c = &l->config;
    uint32_t *words = words_at(l, l->words);
    const draws indices = draws_for(c->seed, PURPOSE_REPLAY, this_update(l), EDGERL_ACTOR, 0);
    draw(&indices, 0, c->batch, words);
    for (uint32_t i = 0; i < c->batch; i++) { /* the rows are far apart in memory: ask for all before the first is needed */
        const char *t = transition(l, r, below(words[i], size_of_replay(r)));
        for (uint64_t byte = 0; byte < bytes_of_row(l, r); byte += 64) {
            __builtin_prefetch(t + byte);
        }
    }
    for (uint32_t column = 0; column < l->width; column++) {
        /* The padding repeats a transition: no gradient ever comes from there. */
        put_transition(l, r, column, below(words[column < c->batch ? column : 0], size_of_replay(r)));
    }
    if (!imitates(c)) {
        draw_noise(p, PURPOSE_TARGET_NOISE);
    }
}

static void policy_noise(const pass *p) {
    ONLY_IF_STOCHASTIC
    draw_noise(p, PURPOSE_POLICY);
}

/* --------------------------------------------------------------------------------------- the elementwise operations */

static real clip(real x, real bound) { return x < -bound ? -bound : x > bound ? bound : x; }

static void target_action(const pass *p) {
    ONLY_WITH(EDGERL_TD3)
    learner *l = p->l;
    const uint32_t n = l->config.n_observations, m = l->config.n_actions;
    const real *noise = reals_at(l, l->noise);
    const real deviation = (real)l->config.target_noise, bound = (real)l->config.target_noise_clip;
    real *from = result_of(l, EDGERL_ACTOR);
    p->kernels->squash(from, (size_t)m * l->stride);
    for (uint32_t a = 0; a < m; a++) {
        const real *action = from + a * (size_t)l->stride;
        real *to = row_at(l, l->next, n + a);
        for (uint32_t b = 0; b < l->width; b++) {
            const real e = b < l->config.batch ? clip(noise[(size_t)b * m + a] * deviation, bound) : 0;
            to[b] = clip(action[b] + e, 1);
        }
    }
}

/* α, what entropy is worth. */
static real temperature(const learner *l) { return exponential((real)l->progress.log_temperature); }

/* What the density of a sample's action costs: α log π(a | s); of a deterministic policy nothing. */
static real entropy_cost(const learner *l, uint32_t b) {
    return is_stochastic(&l->config) ? temperature(l) * reals_at(l, l->log_density)[b] : 0;
}

static void target_value(const pass *p) {
    learner *l = p->l;
    real *target = reals_at(l, l->target_value);
    const float *returns = bytes_at(l, l->returns), *discounts = bytes_at(l, l->discounts);
    const real *q = result_of(l, p->network) + (p->width - l->width); /* what follows is the second half of a joint batch */
    for (uint32_t b = 0; b < l->width; b++) {
        if (p->network == EDGERL_CRITIC_1) {
            target[b] = q[b];
        } else {
            const real least = q[b] < target[b] || q[b] != q[b] ? q[b] : target[b];
            target[b] = (real)returns[b] + (real)discounts[b] * (least - entropy_cost(l, b));
        }
    }
}

/* The rows of a gradient that pad it to a multiple of four hold 0. */
static void zero_padding(const learner *l, real *gradient, uint32_t n_rows) {
    zero(gradient + n_rows * (size_t)l->stride, (padded(n_rows) - n_rows) * l->stride * sizeof(real));
}

/* The gradient of the loss by what a network gives. */
static real *result_gradient(const learner *l, uint32_t network) {
    return reals_at(l, l->gradient[layers_of(l, network) - 1]);
}

/* A loss or a gradient that is not finite ends the update: nothing of it enters the networks. */
static void abandon(learner *l) { l->is_abandoned = 1; }

static void critic_loss(const pass *p) {
    learner *l = p->l;
    const real share = 1 / (real)l->config.batch, *q = result_of(l, p->network), *target = reals_at(l, l->target_value);
    real *gradient = result_gradient(l, p->network), sum = 0;
    for (uint32_t b = 0; b < p->width; b++) {
        const real difference = b < l->config.batch ? q[b] - target[b] : 0;
        gradient[b] = 2 * share * difference;
        sum += difference * difference;
    }
    zero_padding(l, gradient, 1);
    if (!is_finite(sum)) {
        abandon(l);
        return;
    }
    l->progress.critic_loss_sum += (double)(sum * share);
    l->progress.critic_losses += p->network == EDGERL_CRITIC_2;
}

static void policy_action(const pass *p) {
    ONLY_WITH(EDGERL_TD3)
    learner *l = p->l;
    const size_t count = (size_t)l->config.n_actions * l->stride;
    real *from = result_of(l, EDGERL_ACTOR);
    p->kernels->squash(from, count);
    copy(row_at(l, l->now, l->config.n_observations), from, count * sizeof(real));
}

static void policy_loss(const pass *p) {
    ONLY_WITH(EDGERL_TD3)
    learner *l = p->l;
    const real share = 1 / (real)l->config.batch, *q = result_of(l, EDGERL_CRITIC_1);
    real *gradient = result_gradient(l, EDGERL_CRITIC_1), sum = 0;
    for (uint32_t b = 0; b < l->width; b++) {
        gradient[b] = b < l->config.batch ? -share : 0;
        sum += b < l->config.batch ? q[b] : 0;
    }
    zero_padding(l, gradient, 1);
    if (!is_finite(sum)) {
        abandon(l);
        return;
    }
    l->progress.actor_loss_sum -= (double)(sum * share);
    l->progress.actor_losses++;
}

static void policy_gradient(const pass *p) {
    ONLY_WITH(EDGERL_TD3)
    const learner *l = p->l;
    const uint32_t m = l->config.n_actions;
    const real *action = result_of(l, EDGERL_ACTOR);
    const real *by_action = row_at(l, l->action_gradient, l->config.n_observations);
    real *gradient = result_gradient(l, EDGERL_ACTOR);
    for (size_t j = 0; j < (size_t)m * l->stride; j++) {
        gradient[j] = by_action[j] * (1 - action[j] * action[j]);
    }
    zero_padding(l, gradient, m);
}

/* ------------------------------------------------------------------------------------------------------- imitation */

#if (EDGERL_ALGORITHMS & 8u) != 0
/* The gradient of the head's matching loss by its sums, the integral of head(u) - a: it is the difference of the actions, which a
 * flat end of tanh does not take away; and the mean square of that difference, to report. */
static void imitation_loss(const pass *p) {
    learner *l = p->l;
    const uint32_t n = l->config.n_observations, m = l->config.n_actions;
    const real share = 1 / ((real)l->config.batch * (real)m);
    real *action = result_of(l, EDGERL_ACTOR), *gradient = result_gradient(l, EDGERL_ACTOR), sum = 0;
    if (!is_clipped(&l->config)) {
        p->kernels->squash(action, (size_t)m * l->stride);
    }
    for (uint32_t a = 0; a < m; a++) {
        const size_t row = a * (size_t)l->stride;
        const real *wanted = row_at(l, l->now, n + a);
        for (uint32_t b = 0; b < l->width; b++) {
            const real difference = b < l->config.batch ? clip(action[row + b], 1) - wanted[b] : 0;
            gradient[row + b] = 2 * share * difference;
            sum += difference * difference;
        }
    }
    zero_padding(l, gradient, m);
    if (!is_finite(sum)) {
        abandon(l);
        return;
    }
    l->progress.actor_loss_sum += (double)(sum * share);
    l->progress.actor_losses++;
}
#endif

/* ------------------------------------------------------------------------------------------------ a stochastic policy */

/* log(1 - tanh(u)²), without cancellation. */
static real log_slope(real u) {
    const real size = u < 0 ? -u : u;
    return 2 * ((real)0.69314718055994530942 - size - logarithm_real(1 + exponential(-2 * size)));
}

/* Actions drawn from the actor's distribution, into the rows behind the observations of `batch`, and the logarithms of their
 * densities: a = tanh(u), u = μ + σ ε. */
static void sample_actions(const pass *p, uint64_t batch) {
    ONLY_IF_STOCHASTIC
    learner *l = p->l;
    const uint32_t m = l->config.n_actions;
    const real *mean = result_of(l, EDGERL_ACTOR), *log_deviation = mean + m * (size_t)l->stride, *noise = reals_at(l, l->noise);
    const real half_log_2_pi = (real)0.91893853320467274178;
    real *log_density = reals_at(l, l->log_density);
    for (uint32_t b = 0; b < l->width; b++) {
        log_density[b] = -half_log_2_pi * (real)m;
    }
    for (uint32_t a = 0; a < m; a++) {
        const size_t row = a * (size_t)l->stride;
        real *action = row_at(l, batch, l->config.n_observations + a);
        for (uint32_t b = 0; b < l->width; b++) { /* without a branch: this becomes vector code */
            const real e = noise[(size_t)(b < l->config.batch ? b : 0) * m + a];
            const real log_size = clipped_log_deviation(log_deviation[row + b]), u = mean[row + b] + exponential(log_size) * e;
            action[b] = tanh_real(u);
            log_density[b] -= e * e / 2 + log_size + log_slope(u);
        }
    }
}

static void next_sample(const pass *p) { sample_actions(p, p->l->next); }

static void policy_sample(const pass *p) { sample_actions(p, p->l->now); }

/* The value of the first critic, kept until the second one has said its own. */
static void keep_value(const pass *p) {
    ONLY_IF_STOCHASTIC
    copy(reals_at(p->l, p->l->target_value), result_of(p->l, EDGERL_CRITIC_1), p->l->width * sizeof(real));
}

/* The gradient of -min(Q1, Q2), of which this critic has its samples; at the second one the loss. */
static void least_value_loss(const pass *p) {
    ONLY_IF_STOCHASTIC
    learner *l = p->l;
    const int is_second = p->network == EDGERL_CRITIC_2;
    const real share = 1 / (real)l->config.batch, *q = result_of(l, p->network);
    real *other = reals_at(l, l->target_value), *gradient = result_gradient(l, p->network), sum = 0;
    for (uint32_t b = 0; b < l->width; b++) {
        const int is_mine = is_second ? q[b] < other[b] : other[b] == 0;
        gradient[b] = is_mine && b < l->config.batch ? -share : 0;
        if (is_second) {
            sum += b < l->config.batch ? entropy_cost(l, b) - (is_mine ? q[b] : other[b]) : 0;
            other[b] = is_mine ? 1 : 0; /* from here on whose the sample is */
        }
    }
    zero_padding(l, gradient, 1);
    if (!is_finite(sum)) {
        abandon(l);
        return;
    }
    l->progress.actor_loss_sum += (double)(sum * share);
    l->progress.actor_losses += is_second ? 1 : 0;
}

/* The second critic's gradient by the actions waits for the first one's, where the next actions were. */
static void keep_action_gradient(const pass *p) {
    ONLY_IF_STOCHASTIC
    const learner *l = p->l;
    const uint32_t n = l->config.n_observations;
    for (uint32_t a = 0; a < l->config.n_actions; a++) {
        copy(row_at(l, l->next, n + a), row_at(l, l->action_gradient, n + a), l->width * sizeof(real));
    }
}

/* The gradient of α log π(a | s) - min(Q1, Q2) by means and logarithms of deviations. */
static void distribution_gradient(const pass *p) {
    ONLY_IF_STOCHASTIC
    const learner *l = p->l;
    const uint32_t n = l->config.n_observations, m = l->config.n_actions;
    const real *log_deviation = result_of(l, EDGERL_ACTOR) + m * (size_t)l->stride, *noise = reals_at(l, l->noise);
    const real cost = temperature(l) / (real)l->config.batch;
    real *by_mean = result_gradient(l, EDGERL_ACTOR), *by_log_deviation = by_mean + m * (size_t)l->stride;
    for (uint32_t a = 0; a < m; a++) {
        const real *action = row_at(l, l->now, n + a), *first = row_at(l, l->action_gradient, n + a);
        const real *second = row_at(l, l->next, n + a);
        for (uint32_t b = 0; b < l->width; b++) {
            const size_t at = a * (size_t)l->stride + b;
            const int is_real = b < l->config.batch;
            const real e = is_real ? noise[(size_t)b * m + a] : 0, log_size = clipped_log_deviation(log_deviation[at]);
            const real by_u = (first[b] + second[b]) * (1 - action[b] * action[b]) + (is_real ? 2 * cost * action[b] : 0);
            by_mean[at] = by_u;
            by_log_deviation[at] =
                is_real && log_size == log_deviation[at] ? by_u * exponential(log_size) * e - cost : 0; /* 0 beyond the clip */
        }
    }
    zero_padding(l, by_mean, 2 * m);
}

/* x to the power n, by squaring. */
static double power(double x, uint64_t n) {
    double result = 1;
    for (; n > 0; n >>= 1, x *= x) {
        if (n & 1) {
            result *= x;
        }
    }
    return result;
}

/* One step of Adam on log α, down the gradient of -log α (log π + target entropy). */
static void step_temperature(const pass *p) {
    ONLY_IF_STOCHASTIC
    learner *l = p->l;
    const edgerl_learner_config *c = &l->config;
    edgerl_learner_progress *to = &l->progress;
    const real *log_density = reals_at(l, l->log_density);
    double sum = 0;
    for (uint32_t b = 0; b < c->batch; b++) {
        sum += (double)log_density[b];
    }
    const double gradient = -(sum / (double)c->batch + c->target_entropy);
    const uint64_t count = steps_of(l, EDGERL_ACTOR);
    to->temperature_first_moment += (gradient - to->temperature_first_moment) * (1 - 0.9);
    to->temperature_second_moment = to->temperature_second_moment * 0.999 + gradient * gradient * (1 - 0.999);
    const double size = double_root(to->temperature_second_moment) / double_root(1 - power(0.999, count)) + 1e-8;
    to->log_temperature -= c->actor.learning_rate / (1 - power(0.9, count)) * to->temperature_first_moment / size;
}

/* --------------------------------------------------------------------------------------------- passes over a layer */

/* Panels of rows, where a row has enough in each; the weight gradient of blocks gains by them in any case. */
static uint32_t worth_panels(const sparse_layer *layer) {
    return layer->blocks / layer->rows >= PANEL_WORTH * layer->row_panels ? layer->row_panels : 1;
}

/* Where an online network's sums are until a norm or an activation has them. */
static real *sums_of(const pass *p) {
    const learner *l = p->l;
    return has_layer_norm(layer_of(p)) ? reals_at(l, l->sums[p->network][p->index]) : output_of(l, p->network, p->index);
}

static forward_task forward_task_of(const pass *p, int is_target, uint64_t batch) {
    const learner *l = p->l;
    const sparse_layer *layer = layer_of(p);
    const folded_layer *folded = has_batch_norm(layer) ? &l->folded[p->network][p->index] : NULL;
    const int has_extra = is_target && !layer->is_dense && words_at(l, layer->arrays.extra_starts)[layer->rows] > 0;
    return (forward_task){
        .starts = words_at(l, layer->arrays.starts),
        .columns = indices_at(l, layer->arrays.columns),
        .values = reals_at(l, folded != NULL ? folded->weight : is_target ? layer->arrays.target : layer->arrays.weight),
        .bounds = words_at(l, layer->row_bounds),
        .panels = worth_panels(layer),
        .rows = layer->rows,
        .extra_starts = has_extra ? words_at(l, layer->arrays.extra_starts) : NULL,
        .extra_columns = has_extra ? indices_at(l, layer->arrays.extra_columns) : NULL,
        .extra_values = has_extra ? reals_at(l, layer->arrays.extra_target) : NULL,
        .bias = reals_at(l, folded != NULL ? folded->bias : is_target ? layer->arrays.bias_target : layer->arrays.bias),
        .x = input_of(l, p->network, p->index, batch),
        .y = is_target ? output_of(l, p->network, p->index) : sums_of(p),
        .width = p->width,
        .stride = l->stride,
        .first_row = p->first,
        .last_row = p->last,
        .after = has_layer_norm(layer) ? LINEAR : fused_behind(l, p->network, p->index),
    };
}

static void forward(const pass *p) {
    const forward_task task = forward_task_of(p, 0, p->l->now);
    p->kernels->forward(&task, layer_of(p)->block);
}

static void next_forward(const pass *p) {
    ONLY_IF_STOCHASTIC
    const forward_task task = forward_task_of(p, 0, p->l->next);
    p->kernels->forward(&task, layer_of(p)->block);
}

static void target_forward(const pass *p) {
    const forward_task task = forward_task_of(p, 1, p->l->next);
    p->kernels->forward(&task, layer_of(p)->block);
}

/* Of 2^16 random numbers so many leave a unit out. */
static uint32_t dropout_threshold(const edgerl_learner_config *c) {
    const double exactly = c->dropout * 65536;
    const uint32_t below = (uint32_t)exactly;
    return below + (exactly > below); /* one at least */
}

/* Dropout in the columns from `column` on, of numbers that lie in x. */
static dropout_task dropout_task_of(const pass *p, purpose of, real *x, uint32_t column, uint32_t width) {
    const learner *l = p->l;
    const uint32_t threshold = dropout_threshold(&l->config);
    return (dropout_task){
        .draws = draws_for(l->config.seed, of, this_update(l), p->network, p->index),
        .unit_words = (l->config.batch + 7) / 8 * 4,
        .threshold = threshold,
        .scale = (real)(65536 / (double)(65536 - threshold)),
        .x = x + column,
        .kept = (uint8_t *)bytes_at(l, l->kept[p->network][p->index]) + column,
        .width = width,
        .stride = l->stride,
        .first = p->first,
        .last = p->last,
    };
}

static void drop_out(const pass *p, purpose of, real *sums, uint32_t column) {
    const dropout_task task = dropout_task_of(p, of, sums, column, p->l->width);
    p->kernels->drop_out(&task);
}

/* Some units of a target network; what becomes of them is in the same place whether there is a norm or not. */
static void target_dropout(const pass *p) {
    if (EDGERL_DROPOUT) {
        drop_out(p, PURPOSE_TARGET_DROPOUT, output_of(p->l, p->network, p->index), 0);
    }
}

/* Of a critic that learns; in a joint batch what follows is left out as by a target. */
static void dropout(const pass *p) {
    if (!EDGERL_DROPOUT) {
        return;
    }
    drop_out(p, PURPOSE_DROPOUT, sums_of(p), 0);
    if (p->width > p->l->width) {
        drop_out(p, PURPOSE_TARGET_DROPOUT, sums_of(p), p->l->width);
    }
}

/* Of a critic that values the actor's actions. */
static void policy_dropout(const pass *p) {
    if (EDGERL_DROPOUT) {
        drop_out(p, PURPOSE_POLICY_DROPOUT, sums_of(p), 0);
    }
}

static void dropout_gradient(const pass *p) {
    if (EDGERL_DROPOUT) {
        const dropout_task task = dropout_task_of(p, PURPOSE_DROPOUT, reals_at(p->l, p->l->gradient[p->index]), 0, p->width);
        p->kernels->drop_out_gradient(&task);
    }
}

/* What a layer's norm does, to vectors of the batch that are `lanes` wide, or (lanes 1) to units. */
static norm_task norm_task_of(const pass *p, int is_target, uint32_t lanes) {
    const learner *l = p->l;
    const sparse_layer *layer = layer_of(p);
    const real *parameters = reals_at(l, is_target ? layer->arrays.norm_target : layer->arrays.norm);
    real *by_norm = reals_at(l, gradients_of(p).norms);
    return (norm_task){
        .scale = parameters,
        .shift = parameters + units_of(layer),
        .x = is_target ? output_of(l, p->network, p->index) : reals_at(l, l->sums[p->network][p->index]),
        .y = output_of(l, p->network, p->index),
        .dy = reals_at(l, l->gradient[p->index]),
        .mean = reals_at(l, l->mean[p->network][p->index]),
        .deviation = reals_at(l, l->mean[p->network][p->index]) + l->stride,
        .sums = reals_at(l, l->norm_sums),
        .scale_gradient = by_norm,
        .shift_gradient = by_norm + units_of(layer),
        .n_units = layer->n_outputs,
        .width = p->width,
        .stride = l->stride,
        .first = p->first * lanes,
        .last = p->last * lanes,
        .after = fused_behind(l, p->network, p->index),
    };
}

static void normalise_by(const pass *p, int is_target) {
    const norm_task task = norm_task_of(p, is_target, p->l->config.lanes);
    p->kernels->normalise(&task);
    if (task.last == p->width) {
        zero_padding(p->l, task.y, layer_of(p)->n_outputs);
    }
}

static void normalise(const pass *p) { normalise_by(p, 0); }

static void target_normalise(const pass *p) { normalise_by(p, 1); }

/* The sums of the gradient over the units of each sample. */
static void norm_sums(const pass *p) {
    const norm_task task = norm_task_of(p, 0, p->l->config.lanes);
    p->kernels->norm_sums(&task);
}

/* The gradient by the layer's sums, and by scales and shifts. */
static void norm_gradient(const pass *p) {
    const norm_task task = norm_task_of(p, 0, 1);
    p->kernels->norm_gradient(&task);
    for (size_t unit = task.last; task.last == task.n_units && unit < units_of(layer_of(p)); unit++) {
        task.scale_gradient[unit] = task.shift_gradient[unit] = 0;
    }
}

static activation_task activation_task_of(const pass *p) {
    const learner *l = p->l;
    return (activation_task){
        .kind = activation_behind(l, p->network, p->index),
        .y = output_of(l, p->network, p->index),
        .slope = reals_at(l, l->slopes[p->network][p->index]),
        .gradient = reals_at(l, l->gradient[p->index]),
        .width = p->width,
        .stride = l->stride,
        .first = p->first,
        .last = p->last,
    };
}

/* What stands behind some units of a layer, where it is a pass of its own. */
static void activate_units(const pass *p) {
    if (HAS_ACTIVATION_PASSES) {
        const activation_task task = activation_task_of(p);
        p->kernels->activate(&task);
    }
}

static void lead_units_back(const pass *p) {
    if (HAS_ACTIVATION_PASSES) {
        const activation_task task = activation_task_of(p);
        p->kernels->activation_gradient(&task);
    }
}

/* What the rows of an input gradient are: inputs where block is 1, rows of blocks else. */
static uint32_t input_gradient_rows(const sparse_layer *layer) { return layer->block == 1 ? layer->n_inputs : layer->rows; }

/* Of the first layer only by those inputs that are actions. */
static input_task input_task_of(const pass *p) {
    const learner *l = p->l;
    const sparse_layer *layer = layer_of(p);
    const int is_first = p->index == 0, by_columns = layer->block == 1;
    const uint32_t from = is_first ? l->config.n_observations : 0;
    return (input_task){
        .starts = words_at(l, layer->arrays.starts),
        .columns = indices_at(l, layer->arrays.columns),
        .values = reals_at(l, has_batch_norm(layer) ? l->folded[p->network][p->index].weight : layer->arrays.weight),
        .column_starts = by_columns ? words_at(l, layer->column_starts) : NULL,
        .rows = by_columns ? indices_at(l, layer->column_rows) : NULL,
        .places = by_columns ? indices_at(l, layer->column_places) : NULL,
        .bounds = words_at(l, by_columns ? layer->column_bounds : layer->row_bounds),
        .panels = by_columns ? layer->column_panels : layer->row_panels,
        .lines = by_columns ? layer->n_inputs : layer->rows,
        .n_inputs = layer->n_inputs,
        .dy = reals_at(l, l->gradient[p->index]),
        .x = input_of(l, p->network, p->index, l->now),
        .dx = reals_at(l, is_first ? l->action_gradient : l->gradient[p->index - 1]),
        .width = p->width,
        .stride = l->stride,
        .first_column = from,
        .first = by_columns && p->first < from ? from : p->first,
        .last = p->last,
        .before = is_first ? LINEAR : fused_behind(l, p->network, p->index - 1),
    };
}

static void run_input_task(const pass *p, const input_task *task) {
    const sparse_layer *layer = layer_of(p);
    p->kernels->input_gradient(task, layer->block);
    if (p->index > 0 && p->last == input_gradient_rows(layer)) {
        zero_padding(p->l, task->dx, layer->n_inputs);
    }
}

/* The gradient by a layer's inputs, in learning: where a batch norm adds to it, centre_gradient leads through the activation. */
static void input_gradient(const pass *p) {
    input_task task = input_task_of(p);
    if (has_batch_norm(layer_of(p))) {
        task.before = LINEAR;
    }
    run_input_task(p, &task);
}

/* The same on the way to the actions: a batch norm has its running statistics, which no sample moves. */
static void action_gradient(const pass *p) {
    const input_task task = input_task_of(p);
    run_input_task(p, &task);
}

static weight_task weight_task_of(const pass *p) {
    const learner *l = p->l;
    const sparse_layer *layer = layer_of(p);
    return (weight_task){
        .starts = words_at(l, layer->arrays.starts),
        .columns = indices_at(l, layer->arrays.columns),
        .bounds = words_at(l, layer->row_bounds),
        .panels = layer->row_panels,
        .rows = layer->rows,
        .x = input_of(l, p->network, p->index, l->now),
        .dy = reals_at(l, l->gradient[p->index]),
        .gradient = reals_at(l, gradients_of(p).weights),
        .width = p->width,
        .stride = l->stride,
        .first_row = p->first,
        .last_row = p->last,
    };
}

/* The gradient by a layer's weights and, at its last row, biases. */
static void weight_gradient(const pass *p) {
    const learner *l = p->l;
    const sparse_layer *layer = layer_of(p);
    const weight_task task = weight_task_of(p);
    p->kernels->weight_gradient(&task, layer->block);
    if (p->last == layer->rows) {
        const uint32_t n_rows = (uint32_t)padded(layer->n_outputs);
        real *by_bias = reals_at(l, gradients_of(p).biases);
        p->kernels->row_sums(task.dy, n_rows, l->stride, p->width, by_bias);
    }
}

/* Gradients whose squares, and so Adam's moments, stay finite. */
#define LARGEST_GRADIENT ((real)1e18)

static int all_moderate(const real *gradient, size_t count) {
    real_bits largest = 0;
    for (size_t i = 0; i < count; i++) {
        const real_bits k = key_of(gradient[i]);
        largest = k > largest ? k : largest;
    }
    return largest < key_of(LARGEST_GRADIENT);
}

/* What a layer learns: arrays of `count` numbers, as offsets. */
typedef struct parameter {
    uint64_t value, first_moment, second_moment, target, gradient;
    size_t count;
} parameter;

/* Connections, biases and, where there is a norm, its scales and shifts; how many. */
static uint32_t parameters_of(const pass *p, parameter parameters[3]) {
    const sparse_layer *layer = layer_of(p);
    const edgerl_learner_layer *a = &layer->arrays;
    const parameter_gradients by = gradients_of(p);
    parameters[0] = (parameter){a->weight, a->first_moment, a->second_moment, a->target, by.weights, weights_of(layer)};
    parameters[1] =
        (parameter){a->bias, a->bias_first_moment, a->bias_second_moment, a->bias_target, by.biases, units_of(layer)};
    parameters[2] =
        (parameter){a->norm, a->norm_first_moment, a->norm_second_moment, a->norm_target, by.norms, 2 * scales_of(layer)};
    return scales_of(layer) > 0 ? 3 : 2;
}

/* Adam or AdamW, on one layer, whose gradient is known and moderate; and what a batch norm saw enters its running statistics. */
static void step_adam(const pass *p) {
    learner *l = p->l;
    const edgerl_learner_config *c = &l->config;
    parameter parameters[3];
    const uint32_t n_parameters = parameters_of(p, parameters);
    if (has_batch_norm(layer_of(p))) {
        follow_statistics(p);
    }
    const uint64_t count = steps_of(l, p->network);
    const double rate = network_plan(c, p->network)->learning_rate, first_keep = c->first_moment_decay;
    const int is_decoupled = c->optimiser == EDGERL_ADAMW;
    for (uint32_t i = 0; i < n_parameters; i++) {
        const adam_task task = {
            .weight = reals_at(l, parameters[i].value),
            .first_moment = reals_at(l, parameters[i].first_moment),
            .second_moment = reals_at(l, parameters[i].second_moment),
            .gradient = reals_at(l, parameters[i].gradient),
            .count = parameters[i].count,
            .weight_decay = is_decoupled ? 0 : (real)c->weight_decay,
            .weight_keep = is_decoupled ? (real)(1 - rate * c->weight_decay) : 1,
            .first_share = (real)(1 - first_keep),
            .second_keep = (real)0.999,
            .second_share = (real)(1 - 0.999),
            .step_size = (real)(rate / (1 - power(first_keep, count))),
            .second_correction = (real)(1 / double_root(1 - power(0.999, count))),
            .epsilon = (real)1e-8,
        };
        p->kernels->adam(&task);
    }
}

/* Whether the gradient of a layer is one to learn from; else the update is abandoned. */
static int check_gradient(const pass *p) {
    parameter parameters[3];
    const uint32_t n_parameters = parameters_of(p, parameters);
    for (uint32_t i = 0; i < n_parameters; i++) {
        if (!all_moderate(reals_at(p->l, parameters[i].gradient), parameters[i].count)) {
            abandon(p->l);
            return 0;
        }
    }
    if (has_batch_norm(layer_of(p)) && !are_statistics_finite(p)) {
        abandon(p->l);
        return 0;
    }
    return 1;
}

static void adam(const pass *p) {
    if (check_gradient(p)) {
        step_adam(p);
    }
}

/* Partial sums, which become vectors. */
#define SUMS 16u

static real sum_of_squares(const real *x, size_t count) {
    real sums[SUMS] = {0}, sum = 0;
    for (size_t i = 0; i + SUMS <= count; i += SUMS) {
        for (uint32_t k = 0; k < SUMS; k++) {
            sums[k] += x[i + k] * x[i + k];
        }
    }
    for (size_t i = count - count % SUMS; i < count; i++) {
        sum += x[i] * x[i];
    }
    for (uint32_t k = 0; k < SUMS; k++) {
        sum += sums[k];
    }
    return sum;
}

/* Add a layer to the norm of its network's gradient, which begins with the last layer. */
static void measure_gradient(const pass *p) {
    learner *l = p->l;
    if (!EDGERL_CLIPPING || !check_gradient(p)) {
        return;
    }
    parameter parameters[3];
    const uint32_t n_parameters = parameters_of(p, parameters);
    if (p->index + 1 == layers_of(l, p->network)) {
        l->gradient_squares = 0;
    }
    for (uint32_t i = 0; i < n_parameters; i++) {
        l->gradient_squares += sum_of_squares(reals_at(l, parameters[i].gradient), parameters[i].count);
    }
    if (!is_finite(l->gradient_squares)) {
        abandon(l);
    }
}

/* Adam on a layer, after its share of what cuts its network's gradient to the norm that is allowed, as PyTorch computes it. */
static void clipped_adam(const pass *p) {
    if (!EDGERL_CLIPPING) {
        return;
    }
    const learner *l = p->l;
    const real share = (real)l->config.gradient_clip / (square_root(l->gradient_squares) + (real)1e-6);
    parameter parameters[3];
    const uint32_t n_parameters = share < 1 ? parameters_of(p, parameters) : 0;
    for (uint32_t i = 0; i < n_parameters; i++) {
        real *gradient = reals_at(l, parameters[i].gradient);
        for (size_t k = 0; k < parameters[i].count; k++) {
            gradient[k] *= share;
        }
    }
    step_adam(p);
}

static void soft_update(const pass *p) {
    const learner *l = p->l;
    const sparse_layer *layer = layer_of(p);
    const real fraction = (real)l->config.soft_update;
    parameter parameters[3];
    const uint32_t n_parameters = parameters_of(p, parameters);
    for (uint32_t i = 0; i < n_parameters; i++) {
        p->kernels->follow(reals_at(l, parameters[i].target), reals_at(l, parameters[i].value), parameters[i].count, fraction);
    }
    if (!layer->is_dense) {
        const size_t count = (size_t)words_at(l, layer->arrays.extra_starts)[layer->rows] * layer->block;
        real *extra = reals_at(l, layer->arrays.extra_target);
        for (size_t i = 0; i < count; i++) {
            extra[i] += (0 - extra[i]) * fraction;
        }
    }
}

/* The critics' evolution makes the actor's due, which happens at its own next update. */
static void note_evolution(const pass *p) { p->l->progress.evolution_is_due = p->network != EDGERL_ACTOR; }

/* ----------------------------------------------------------------------------------------------- the table of steps */

typedef enum operation {
    NOTHING,
    SAMPLE,
    TARGET_FORWARD, /* a target network, on what follows */
    TARGET_ACTION,  /* a' = clip(π'(s') + clip(ε)) */
    TARGET_VALUE,   /* y = r + γ min(Q1', Q2') */
    FORWARD,        /* an online network, on the batch */
    CRITIC_LOSS,    /* the mean square error's gradient */
    NEXT_FORWARD,    /* an online network, on what follows */
    NEXT_SAMPLE,     /* a' of π(s') */
    TARGET_NORMALISE,
    NORMALISE,
    TARGET_DROPOUT, /* of sums, before their norm */
    DROPOUT,
    POLICY_DROPOUT,
    DROPOUT_GRADIENT,
    ACTIVATE, /* where that is a pass of its own */
    ACTIVATION_GRADIENT,
    BATCH_STATISTICS,
    FOLD_STATISTICS,   /* of a batch norm, into the layer behind it, with the statistics of the batch */
    FOLD_RUNNING, /* with the running statistics */
    NORM_SUMS,    /* of the gradient through a norm */
    NORM_GRADIENT,
    INPUT_GRADIENT, /* of all layers but the first */
    WEIGHT_GRADIENT,
    BATCH_NORM_GRADIENT,
    CENTRE_GRADIENT,
    ADAM,         /* where gradients are cut, their norm instead: */
    CLIPPED_ADAM, /* then Adam follows when it is known */
    SELECT_DROP,
    SCORE_ABSENT,
    DROP_AND_GROW,
    NOTE_EVOLUTION,
    POLICY_ACTION,   /* a = π(s), in place of the batch's actions */
    POLICY_LOSS,     /* the gradient of -Q1 */
    ACTION_GRADIENT, /* through the first critic, to the actions */
    POLICY_GRADIENT, /* through tanh */
    POLICY_NOISE,
    POLICY_SAMPLE,    /* a of π(s), in place of the batch's actions */
    KEEP_VALUE,       /* of Q1 */
    LEAST_VALUE_LOSS, /* the gradient of -min(Q1, Q2) */
    KEEP_ACTION_GRADIENT,
    DISTRIBUTION_GRADIENT, /* by means and deviations */
    STEP_TEMPERATURE,
    SOFT_UPDATE,
    PRUNE_TARGET,
    PUBLISH,
    IMITATION_LOSS /* the gradient of what the actor does otherwise than it is shown */
} operation;

typedef enum timing {
    EVERY_UPDATE,
    DELAYED, /* every `policy_delay`-th */
    EVOLVING /* every `evolution_interval`-th of the critics; of the actor its own next one */
} timing;

typedef enum order { ONCE, FIRST_TO_LAST, LAST_TO_FIRST } order;

/* Up to so many operations on each layer in turn, or once. */
#define OPERATIONS 9u
typedef struct step_of_update {
    timing when;
    uint32_t network;
    order layers;
    operation operations[OPERATIONS];
} step_of_update;

/* clang-format off */
/* On the way back through a network: it learns; or a critic says how its value changes with the actions. */
#define LEARN {ACTIVATION_GRADIENT, NORM_SUMS, NORM_GRADIENT, DROPOUT_GRADIENT, INPUT_GRADIENT, WEIGHT_GRADIENT, ADAM}
#define DIFFERENTIATED {ACTIVATION_GRADIENT, NORM_SUMS, NORM_GRADIENT, DROPOUT_GRADIENT, ACTION_GRADIENT}

/* What follows is valued by both targets, and both critics learn that: in every algorithm. */
#define CRITICS_LEARN                                                                                              \
    {EVERY_UPDATE, EDGERL_CRITIC_1, FIRST_TO_LAST, {TARGET_FORWARD, TARGET_DROPOUT, TARGET_NORMALISE, ACTIVATE}},  \
    {EVERY_UPDATE, EDGERL_CRITIC_1, ONCE, {TARGET_VALUE}},                                                         \
    {EVERY_UPDATE, EDGERL_CRITIC_2, FIRST_TO_LAST, {TARGET_FORWARD, TARGET_DROPOUT, TARGET_NORMALISE, ACTIVATE}},  \
    {EVERY_UPDATE, EDGERL_CRITIC_2, ONCE, {TARGET_VALUE}},                                                         \
    {EVERY_UPDATE, EDGERL_CRITIC_1, FIRST_TO_LAST, {FORWARD, DROPOUT, NORMALISE, ACTIVATE}},                       \
    {EVERY_UPDATE, EDGERL_CRITIC_1, ONCE, {CRITIC_LOSS}},                                                          \
    {EVERY_UPDATE, EDGERL_CRITIC_1, LAST_TO_FIRST, LEARN},                                                         \
    {EVERY_UPDATE, EDGERL_CRITIC_1, LAST_TO_FIRST, {CLIPPED_ADAM}},                                                \
    {EVOLVING, EDGERL_CRITIC_1, FIRST_TO_LAST, {SELECT_DROP, SCORE_ABSENT, DROP_AND_GROW}},                        \
    {EVERY_UPDATE, EDGERL_CRITIC_2, FIRST_TO_LAST, {FORWARD, DROPOUT, NORMALISE, ACTIVATE}},                       \
    {EVERY_UPDATE, EDGERL_CRITIC_2, ONCE, {CRITIC_LOSS}},                                                          \
    {EVERY_UPDATE, EDGERL_CRITIC_2, LAST_TO_FIRST, LEARN},                                                         \
    {EVERY_UPDATE, EDGERL_CRITIC_2, LAST_TO_FIRST, {CLIPPED_ADAM}},                                                \
    {EVOLVING, EDGERL_CRITIC_2, FIRST_TO_LAST, {SELECT_DROP, SCORE_ABSENT, DROP_AND_GROW}},                        \
    {EVOLVING, EDGERL_CRITIC_2, ONCE, {NOTE_EVOLUTION}}
/* clang-format on */

static const step_of_update UPDATE_OF_TD3[] = {
    {EVERY_UPDATE, EDGERL_ACTOR, ONCE, {SAMPLE}},
    {EVERY_UPDATE, EDGERL_ACTOR, FIRST_TO_LAST, {TARGET_FORWARD, ACTIVATE}},
    {EVERY_UPDATE, EDGERL_ACTOR, ONCE, {TARGET_ACTION}},
    CRITICS_LEARN,

    {DELAYED, EDGERL_ACTOR, FIRST_TO_LAST, {FORWARD, ACTIVATE}},
    {DELAYED, EDGERL_ACTOR, ONCE, {POLICY_ACTION}},
    {DELAYED, EDGERL_CRITIC_1, FIRST_TO_LAST, {FORWARD, POLICY_DROPOUT, NORMALISE, ACTIVATE}},
    {DELAYED, EDGERL_CRITIC_1, ONCE, {POLICY_LOSS}},
    {DELAYED, EDGERL_CRITIC_1, LAST_TO_FIRST, DIFFERENTIATED},
    {DELAYED, EDGERL_ACTOR, ONCE, {POLICY_GRADIENT}},
    {DELAYED, EDGERL_ACTOR, LAST_TO_FIRST, LEARN},
    {DELAYED, EDGERL_ACTOR, LAST_TO_FIRST, {CLIPPED_ADAM}},
    {EVOLVING, EDGERL_ACTOR, FIRST_TO_LAST, {SELECT_DROP, SCORE_ABSENT, DROP_AND_GROW}},
    {EVOLVING, EDGERL_ACTOR, ONCE, {NOTE_EVOLUTION}},
    {DELAYED, EDGERL_ACTOR, FIRST_TO_LAST, {SOFT_UPDATE, PRUNE_TARGET}},
    {DELAYED, EDGERL_CRITIC_1, FIRST_TO_LAST, {SOFT_UPDATE, PRUNE_TARGET}},
    {DELAYED, EDGERL_CRITIC_2, FIRST_TO_LAST, {SOFT_UPDATE, PRUNE_TARGET}},
    {DELAYED, EDGERL_ACTOR, FIRST_TO_LAST, {PUBLISH}},
};

static const step_of_update UPDATE_OF_SAC[] = {
    {EVERY_UPDATE, EDGERL_ACTOR, ONCE, {SAMPLE}},
    {EVERY_UPDATE, EDGERL_ACTOR, FIRST_TO_LAST, {NEXT_FORWARD, ACTIVATE}},
    {EVERY_UPDATE, EDGERL_ACTOR, ONCE, {NEXT_SAMPLE}},
    CRITICS_LEARN,

    {DELAYED, EDGERL_ACTOR, ONCE, {POLICY_NOISE}},
    {DELAYED, EDGERL_ACTOR, FIRST_TO_LAST, {FORWARD, ACTIVATE}},
    {DELAYED, EDGERL_ACTOR, ONCE, {POLICY_SAMPLE}},
    {DELAYED, EDGERL_CRITIC_1, FIRST_TO_LAST, {FORWARD, POLICY_DROPOUT, NORMALISE, ACTIVATE}},
    {DELAYED, EDGERL_CRITIC_1, ONCE, {KEEP_VALUE}},
    {DELAYED, EDGERL_CRITIC_2, FIRST_TO_LAST, {FORWARD, POLICY_DROPOUT, NORMALISE, ACTIVATE}},
    {DELAYED, EDGERL_CRITIC_2, ONCE, {LEAST_VALUE_LOSS}},
    {DELAYED, EDGERL_CRITIC_2, LAST_TO_FIRST, DIFFERENTIATED},
    {DELAYED, EDGERL_CRITIC_2, ONCE, {KEEP_ACTION_GRADIENT}},
    {DELAYED, EDGERL_CRITIC_1, FIRST_TO_LAST, {FORWARD, POLICY_DROPOUT, NORMALISE, ACTIVATE}}, /* again, in the memory of Q2's */
    {DELAYED, EDGERL_CRITIC_1, ONCE, {LEAST_VALUE_LOSS}},
    {DELAYED, EDGERL_CRITIC_1, LAST_TO_FIRST, DIFFERENTIATED},
    {DELAYED, EDGERL_ACTOR, ONCE, {DISTRIBUTION_GRADIENT}},
    {DELAYED, EDGERL_ACTOR, LAST_TO_FIRST, LEARN},
    {DELAYED, EDGERL_ACTOR, LAST_TO_FIRST, {CLIPPED_ADAM}},
    {EVOLVING, EDGERL_ACTOR, FIRST_TO_LAST, {SELECT_DROP, SCORE_ABSENT, DROP_AND_GROW}},
    {EVOLVING, EDGERL_ACTOR, ONCE, {NOTE_EVOLUTION}},
    {DELAYED, EDGERL_ACTOR, ONCE, {STEP_TEMPERATURE}},
    {EVERY_UPDATE, EDGERL_CRITIC_1, FIRST_TO_LAST, {SOFT_UPDATE, PRUNE_TARGET}},
    {EVERY_UPDATE, EDGERL_CRITIC_2, FIRST_TO_LAST, {SOFT_UPDATE, PRUNE_TARGET}},
    {DELAYED, EDGERL_ACTOR, FIRST_TO_LAST, {PUBLISH}},
};

/* As both networks of critics, and the actor, learn through batch norms. */
#define LEARN_THROUGH_NORMS                                                                                                  \
    {ACTIVATION_GRADIENT, NORM_SUMS,      NORM_GRADIENT,   DROPOUT_GRADIENT, WEIGHT_GRADIENT,                                \
     BATCH_NORM_GRADIENT, INPUT_GRADIENT, CENTRE_GRADIENT, ADAM}

static const step_of_update UPDATE_OF_CROSSQ[] = {
    {EVERY_UPDATE, EDGERL_ACTOR, ONCE, {SAMPLE}},
    {EVERY_UPDATE, EDGERL_ACTOR, FIRST_TO_LAST, {FOLD_RUNNING, NEXT_FORWARD, ACTIVATE}},
    {EVERY_UPDATE, EDGERL_ACTOR, ONCE, {NEXT_SAMPLE}},
    /* On both halves: */
    {EVERY_UPDATE, EDGERL_CRITIC_1, FIRST_TO_LAST, {BATCH_STATISTICS, FOLD_STATISTICS, FORWARD, DROPOUT, NORMALISE, ACTIVATE}},
    {EVERY_UPDATE, EDGERL_CRITIC_1, ONCE, {TARGET_VALUE}},
    {EVERY_UPDATE, EDGERL_CRITIC_2, FIRST_TO_LAST, {BATCH_STATISTICS, FOLD_STATISTICS, FORWARD, DROPOUT, NORMALISE, ACTIVATE}},
    {EVERY_UPDATE, EDGERL_CRITIC_2, ONCE, {TARGET_VALUE}},
    {EVERY_UPDATE, EDGERL_CRITIC_1, ONCE, {CRITIC_LOSS}},
    {EVERY_UPDATE, EDGERL_CRITIC_1, LAST_TO_FIRST, LEARN_THROUGH_NORMS},
    {EVERY_UPDATE, EDGERL_CRITIC_1, LAST_TO_FIRST, {CLIPPED_ADAM}},
    {EVOLVING, EDGERL_CRITIC_1, FIRST_TO_LAST, {SELECT_DROP, SCORE_ABSENT, DROP_AND_GROW}},
    {EVERY_UPDATE, EDGERL_CRITIC_2, ONCE, {CRITIC_LOSS}},
    {EVERY_UPDATE, EDGERL_CRITIC_2, LAST_TO_FIRST, LEARN_THROUGH_NORMS},
    {EVERY_UPDATE, EDGERL_CRITIC_2, LAST_TO_FIRST, {CLIPPED_ADAM}},
    {EVOLVING, EDGERL_CRITIC_2, FIRST_TO_LAST, {SELECT_DROP, SCORE_ABSENT, DROP_AND_GROW}},
    {EVOLVING, EDGERL_CRITIC_2, ONCE, {NOTE_EVOLUTION}},

    {DELAYED, EDGERL_ACTOR, ONCE, {POLICY_NOISE}},
    {DELAYED, EDGERL_ACTOR, FIRST_TO_LAST, {BATCH_STATISTICS, FOLD_STATISTICS, FORWARD, ACTIVATE}},
    {DELAYED, EDGERL_ACTOR, ONCE, {POLICY_SAMPLE}},
    {DELAYED, EDGERL_CRITIC_1, FIRST_TO_LAST, {FOLD_RUNNING, FORWARD, POLICY_DROPOUT, NORMALISE, ACTIVATE}},
    {DELAYED, EDGERL_CRITIC_1, ONCE, {KEEP_VALUE}},
    {DELAYED, EDGERL_CRITIC_2, FIRST_TO_LAST, {FOLD_RUNNING, FORWARD, POLICY_DROPOUT, NORMALISE, ACTIVATE}},
    {DELAYED, EDGERL_CRITIC_2, ONCE, {LEAST_VALUE_LOSS}},
    {DELAYED, EDGERL_CRITIC_2, LAST_TO_FIRST, DIFFERENTIATED},
    {DELAYED, EDGERL_CRITIC_2, ONCE, {KEEP_ACTION_GRADIENT}},
    {DELAYED, EDGERL_CRITIC_1, ONCE, {LEAST_VALUE_LOSS}},
    {DELAYED, EDGERL_CRITIC_1, LAST_TO_FIRST, DIFFERENTIATED},
    {DELAYED, EDGERL_ACTOR, ONCE, {DISTRIBUTION_GRADIENT}},
    {DELAYED, EDGERL_ACTOR, LAST_TO_FIRST, LEARN_THROUGH_NORMS},
    {DELAYED, EDGERL_ACTOR, LAST_TO_FIRST, {CLIPPED_ADAM}},
    {EVOLVING, EDGERL_ACTOR, FIRST_TO_LAST, {SELECT_DROP, SCORE_ABSENT, DROP_AND_GROW}},
    {EVOLVING, EDGERL_ACTOR, ONCE, {NOTE_EVOLUTION}},
    {DELAYED, EDGERL_ACTOR, ONCE, {STEP_TEMPERATURE}},
    {DELAYED, EDGERL_ACTOR, FIRST_TO_LAST, {PUBLISH}},
};

#if (EDGERL_ALGORITHMS & 8u) != 0
static const step_of_update UPDATE_OF_IMITATION[] = {
    {EVERY_UPDATE, EDGERL_ACTOR, ONCE, {SAMPLE}},
    {EVERY_UPDATE, EDGERL_ACTOR, FIRST_TO_LAST, {FORWARD}},
    {EVERY_UPDATE, EDGERL_ACTOR, ONCE, {IMITATION_LOSS}},
    {EVERY_UPDATE, EDGERL_ACTOR, LAST_TO_FIRST, {INPUT_GRADIENT, WEIGHT_GRADIENT, ADAM}},
    {EVERY_UPDATE, EDGERL_ACTOR, LAST_TO_FIRST, {CLIPPED_ADAM}},
    {EVOLVING, EDGERL_ACTOR, FIRST_TO_LAST, {SELECT_DROP, SCORE_ABSENT, DROP_AND_GROW}},
    {EVERY_UPDATE, EDGERL_ACTOR, FIRST_TO_LAST, {PUBLISH}},
};
#endif

typedef struct table_of_steps {
    const step_of_update *steps;
    uint32_t count;
} table_of_steps;

static table_of_steps update_of(const edgerl_learner_config *c) {
    static const table_of_steps td3 = {UPDATE_OF_TD3, sizeof UPDATE_OF_TD3 / sizeof UPDATE_OF_TD3[0]};
    static const table_of_steps sac = {UPDATE_OF_SAC, sizeof UPDATE_OF_SAC / sizeof UPDATE_OF_SAC[0]};
    static const table_of_steps crossq = {UPDATE_OF_CROSSQ, sizeof UPDATE_OF_CROSSQ / sizeof UPDATE_OF_CROSSQ[0]};
#if (EDGERL_ALGORITHMS & 8u) != 0
    static const table_of_steps imitation = {UPDATE_OF_IMITATION, sizeof UPDATE_OF_IMITATION / sizeof UPDATE_OF_IMITATION[0]};
    if (imitates(c)) {
        return imitation;
    }
#endif
    return has_joint_batch(c) ? crossq : is_stochastic(c) ? sac : td3;
}

/* Columns that a step goes over: a critic learns from a joint batch, and values the actor's actions alone. */
static uint32_t step_width(const learner *l, const step_of_update *s) {
    const int is_joint = has_joint_batch(&l->config) && s->network != EDGERL_ACTOR && s->when != DELAYED;
    return is_joint ? 2 * l->width : l->width;
}

/* One operation on one layer: how many rows it has (none: there is nothing to do), and about how many multiply-adds each takes. */
typedef struct work_item {
    void (*run)(const pass *);
    uint32_t index, rows;
    uint64_t work;
} work_item;

/* Multiply-adds of one of the `rows` that a pass over a layer and `width` columns consists of. */
static uint64_t per_row(const sparse_layer *layer, uint32_t rows, uint32_t width) {
    return (weights_of(layer) / rows + 1) * width;
}

static work_item item_of(const learner *l, const step_of_update *s, uint32_t number) {
    const uint32_t turn = number / OPERATIONS, i = s->layers == LAST_TO_FIRST ? layers_of(l, s->network) - 1 - turn : turn;
    const sparse_layer *layer = &l->layers[s->network][i];
    const uint32_t columns = input_gradient_rows(layer), if_sparse = !layer->is_dense, width = step_width(l, s);
    const uint32_t if_evolving = if_sparse && network_plan(&l->config, s->network)->evolves;
    const uint32_t to_score = if_evolving && is_scored(l->config.growth) ? layer->rows : 0;
    const uint64_t elementwise = 16 * (uint64_t)width * (l->config.n_observations + l->config.n_actions);
    const uint64_t by_row = per_row(layer, layer->rows, width), by_column = per_row(layer, columns, width);
    const uint32_t vectors_to_normalise = has_layer_norm(layer) ? width / l->config.lanes : 0;
    const uint32_t units_to_activate = has_pass_behind(l, s->network, i) ? layer->n_outputs : 0;
    const uint32_t units_to_drop = has_dropout(&l->config, s->network, i) ? layer->n_outputs : 0;
    const uint32_t batch_norms = has_batch_norm(layer) ? 1 : 0, batch_inputs = batch_norms * layer->n_inputs;
    const uint64_t by_vector = 16 * (uint64_t)layer->n_outputs * l->config.lanes, by_unit = 16 * (uint64_t)width;
    const uint32_t if_clipping = clips_gradients(&l->config) ? 1 : 0;
    const uint64_t sweep = 16 * weights_of(layer), selecting = 128 * (uint64_t)layer->blocks;
    switch (s->operations[number % OPERATIONS]) {
    case NOTHING:
        return (work_item){NULL, i, 0, 1};
    case SAMPLE:
        return (work_item){sample, i, 1, elementwise};
    case TARGET_FORWARD:
        return (work_item){target_forward, i, layer->rows, by_row};
    case TARGET_ACTION:
        return (work_item){target_action, i, 1, elementwise};
    case TARGET_VALUE:
        return (work_item){target_value, i, 1, elementwise};
    case FORWARD:
        return (work_item){forward, i, layer->rows, by_row};
    case CRITIC_LOSS:
        return (work_item){critic_loss, i, 1, elementwise};
    case NEXT_FORWARD:
        return (work_item){next_forward, i, layer->rows, by_row};
    case NEXT_SAMPLE:
        return (work_item){next_sample, i, 1, elementwise};
    case POLICY_NOISE:
        return (work_item){policy_noise, i, 1, elementwise};
    case POLICY_SAMPLE:
        return (work_item){policy_sample, i, 1, elementwise};
    case KEEP_VALUE:
        return (work_item){keep_value, i, 1, elementwise};
    case LEAST_VALUE_LOSS:
        return (work_item){least_value_loss, i, 1, elementwise};
    case KEEP_ACTION_GRADIENT:
        return (work_item){keep_action_gradient, i, 1, elementwise};
    case DISTRIBUTION_GRADIENT:
        return (work_item){distribution_gradient, i, 1, elementwise};
    case STEP_TEMPERATURE:
        return (work_item){step_temperature, i, 1, elementwise};
    case TARGET_NORMALISE:
        return (work_item){target_normalise, i, vectors_to_normalise, by_vector};
    case NORMALISE:
        return (work_item){normalise, i, vectors_to_normalise, by_vector};
    case TARGET_DROPOUT:
        return (work_item){target_dropout, i, units_to_drop, by_unit};
    case DROPOUT:
        return (work_item){dropout, i, units_to_drop, by_unit};
    case POLICY_DROPOUT:
        return (work_item){policy_dropout, i, units_to_drop, by_unit};
    case DROPOUT_GRADIENT:
        return (work_item){dropout_gradient, i, units_to_drop, by_unit};
    case ACTIVATE:
        return (work_item){activate_units, i, units_to_activate, 2 * by_unit};
    case ACTIVATION_GRADIENT:
        return (work_item){lead_units_back, i, units_to_activate, by_unit};
    case NORM_SUMS:
        return (work_item){norm_sums, i, vectors_to_normalise, by_vector};
    case NORM_GRADIENT:
        return (work_item){norm_gradient, i, has_layer_norm(layer) ? layer->n_outputs : 0, by_unit};
    case BATCH_STATISTICS:
        return (work_item){batch_statistics, i, batch_inputs, by_unit};
    case FOLD_STATISTICS:
        return (work_item){fold_batch, i, batch_norms, sweep};
    case FOLD_RUNNING:
        return (work_item){fold_running, i, batch_norms, sweep};
    case BATCH_NORM_GRADIENT:
        return (work_item){batch_norm_gradient, i, batch_norms, sweep};
    case CENTRE_GRADIENT:
        return (work_item){centre_gradient, i, i > 0 ? batch_inputs : 0, by_unit};
    case INPUT_GRADIENT:
        return (work_item){input_gradient, i, i > 0 ? columns : 0, by_column};
    case WEIGHT_GRADIENT:
        return (work_item){weight_gradient, i, layer->rows, by_row};
    case ADAM:
        return (work_item){if_clipping ? measure_gradient : adam, i, 1, sweep};
    case CLIPPED_ADAM:
        return (work_item){clipped_adam, i, if_clipping, sweep};
    case SELECT_DROP:
        return (work_item){select_drop, i, if_evolving, selecting};
    case SCORE_ABSENT:
        return (work_item){score_absent, i, to_score, (uint64_t)layer->n_inputs * layer->block * width};
    case DROP_AND_GROW:
        return (work_item){evolve, i, if_evolving, selecting};
    case NOTE_EVOLUTION:
        return (work_item){note_evolution, i, 1, 1};
    case POLICY_ACTION:
        return (work_item){policy_action, i, 1, elementwise};
    case POLICY_LOSS:
        return (work_item){policy_loss, i, 1, elementwise};
    case ACTION_GRADIENT:
        return (work_item){action_gradient, i, columns, by_column};
    case POLICY_GRADIENT:
        return (work_item){policy_gradient, i, 1, elementwise};
    case SOFT_UPDATE:
        return (work_item){soft_update, i, 1, sweep};
    case PRUNE_TARGET:
        return (work_item){prune_target, i, if_sparse, sweep};
    case PUBLISH:
        return (work_item){publish_layer, i, 1, weights_of(layer)};
    case IMITATION_LOSS:
#if (EDGERL_ALGORITHMS & 8u) != 0
        return (work_item){imitation_loss, i, 1, elementwise};
#else
        break;
#endif
    }
    return (work_item){NULL, i, 0, 1};
}

/* --------------------------------------------------------------------------------------------------- the update */

static int is_due(const learner *l, const step_of_update *s) {
    const edgerl_learner_config *c = &l->config;
    const uint64_t update = this_update(l);
    const int is_delayed = update % c->policy_delay == 0, follows = s->network == EDGERL_ACTOR && !imitates(c);
    switch (s->when) {
    case EVERY_UPDATE:
        return 1;
    case DELAYED:
        return is_delayed;
    case EVOLVING:
        return c->evolution_interval > 0 && update < c->last_update &&
               (follows ? is_delayed && l->progress.evolution_is_due == 1 : update % c->evolution_interval == 0);
    }
    return 0;
}

static void finish(learner *l) {
    publish(l);
    l->progress.updates++;
    l->progress.abandoned += l->is_abandoned;
    l->is_abandoned = 0;
    l->gradient_squares = 0;
    zero(&l->place, sizeof l->place);
}

/* Move on by some rows of an item that has `rows`; whether the update is complete, or abandoned. */
static int32_t advance(learner *l, uint32_t done, uint32_t rows) {
    progress_in_update *place = &l->place;
    place->row += done;
    if (place->row == rows) {
        place->row = 0;
        place->item++;
    }
    const table_of_steps update = update_of(&l->config);
    const step_of_update *now = &update.steps[place->step];
    if (place->item == OPERATIONS * (now->layers == ONCE ? 1 : layers_of(l, now->network))) {
        place->item = 0;
        do {
            place->step++;
        } while (place->step < update.count && !is_due(l, &update.steps[place->step]));
    }
    if (place->step < update.count && !l->is_abandoned) {
        return 0;
    }
    finish(l);
    return 1;
}

static int32_t check_replay(const learner *l, const edgerl_replay *r) {
    if (r == NULL || r->rows == NULL || (uintptr_t)r->rows % sizeof(float) != 0 || r->count == 0 || r->capacity == 0 ||
        r->capacity > r->room || r->capacity > UINT32_MAX || (r->mean == NULL) != (r->scale == NULL) ||
        (r->format != EDGERL_ROWS_FLOAT32 && r->format != EDGERL_ROWS_FLOAT16)) {
        return EDGERL_BAD_ARGUMENT;
    }
    return r->stride == 0 || (r->stride % sizeof(float) == 0 && r->stride >= bytes_of_row(l, r)) ? EDGERL_OK
                                                                                                 : EDGERL_BAD_ARGUMENT;
}

int32_t edgerl_learner_update(void *arena, const edgerl_replay *replay, uint64_t work, int32_t *complete) {
    const int32_t status = check_learner(arena, complete, complete);
    if (status != EDGERL_OK) {
        return status;
    }
    learner *l = arena;
    if (is_idle(l) && check_replay(l, replay) != EDGERL_OK) {
        return EDGERL_BAD_ARGUMENT;
    }
    pass p = {.l = l, .kernels = kernels_of(l->config.isa, l->config.lanes), .replay = replay};
    const float_mode mode = flush_denormals();
    *complete = 0;
    while (work > 0 && !*complete) {
        const step_of_update *now = &update_of(&l->config).steps[l->place.step];
        const work_item i = item_of(l, now, l->place.item);
        const uint64_t affordable = work / i.work;
        const uint32_t left = i.rows - l->place.row, rows = left <= affordable ? left : (uint32_t)affordable + 1;
        if (rows > 0) {
            p.network = now->network;
            p.index = i.index;
            p.width = step_width(l, now);
            p.first = l->place.row;
            p.last = p.first + rows;
            i.run(&p);
        }
        work = rows * i.work < work ? work - rows * i.work : 0;
        *complete = advance(l, rows, i.rows);
    }
    restore_float_mode(mode);
    return EDGERL_OK;
}
