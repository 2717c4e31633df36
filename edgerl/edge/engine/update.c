/* SPDX-License-Identifier: MIT */
/* One pass through the loop of Algorithm 1, as a program of instructions whose items can be interrupted at any row. */
#include "learner.h"
#include "random.h"

typedef enum operation {
    SAMPLE,
    TARGET_FORWARD,  /* a target network, on what follows */
    TARGET_ACTION,   /* a' = clip(π'(s') + clip(ε)) */
    TARGET_VALUE,    /* y = r + γ min(Q1', Q2') */
    FORWARD,         /* an online network, on the batch */
    CRITIC_LOSS,     /* the mean square error's gradient */
    BACKWARD,        /* gradients and Adam, from the last layer to the first */
    EVOLVE,          /* where it is due */
    POLICY_ACTION,   /* a = π(s), in place of the batch's actions */
    POLICY_LOSS,     /* the gradient of -Q1 */
    ACTION_GRADIENT, /* through the first critic, to the actions */
    POLICY_GRADIENT, /* through tanh */
    SOFT_UPDATE,
    PUBLISH,
    FINISH
} operation;

typedef struct instruction {
    operation operation;
    uint32_t network;
} instruction;

/* The first ones are of every update, those from POLICY_BEGIN on of every `policy_delay`-th. */
static const instruction program[] = {
    {SAMPLE, EDGERL_ACTOR},
    {TARGET_FORWARD, EDGERL_ACTOR},
    {TARGET_ACTION, EDGERL_ACTOR},
    {TARGET_FORWARD, EDGERL_CRITIC_1},
    {TARGET_VALUE, EDGERL_CRITIC_1},
    {TARGET_FORWARD, EDGERL_CRITIC_2},
    {TARGET_VALUE, EDGERL_CRITIC_2},
    {FORWARD, EDGERL_CRITIC_1},
    {CRITIC_LOSS, EDGERL_CRITIC_1},
    {BACKWARD, EDGERL_CRITIC_1},
    {EVOLVE, EDGERL_CRITIC_1},
    {FORWARD, EDGERL_CRITIC_2},
    {CRITIC_LOSS, EDGERL_CRITIC_2},
    {BACKWARD, EDGERL_CRITIC_2},
    {EVOLVE, EDGERL_CRITIC_2},
#define POLICY_BEGIN 15u
    {FORWARD, EDGERL_ACTOR},
    {POLICY_ACTION, EDGERL_ACTOR},
    {FORWARD, EDGERL_CRITIC_1},
    {POLICY_LOSS, EDGERL_CRITIC_1},
    {ACTION_GRADIENT, EDGERL_CRITIC_1},
    {POLICY_GRADIENT, EDGERL_ACTOR},
    {BACKWARD, EDGERL_ACTOR},
    {EVOLVE, EDGERL_ACTOR},
    {SOFT_UPDATE, EDGERL_ACTOR},
    {SOFT_UPDATE, EDGERL_CRITIC_1},
    {SOFT_UPDATE, EDGERL_CRITIC_2},
    {PUBLISH, EDGERL_ACTOR},
    {FINISH, EDGERL_ACTOR},
};
#define LAST_INSTRUCTION (sizeof program / sizeof program[0] - 1)

/* ------------------------------------------------------------------------------------------------ where things are */

static uint64_t this_update(const learner *l) { return l->progress.updates + 1; }

static uint32_t kind_of(uint32_t network) { return network == EDGERL_ACTOR ? 0 : 1; }

/* The input of a layer: the batch (`first` is l->now or l->next), or the output of the layer before. */
static real *input_of(const learner *l, uint32_t network, uint32_t index, uint64_t first) {
    return reals(l, index == 0 ? first : l->hidden[kind_of(network)][index - 1]);
}

static real *output_of(const learner *l, uint32_t network, uint32_t index) {
    return reals(l, l->hidden[kind_of(network)][index]);
}

/* Row `row` of a buffer. */
static real *row_at(const learner *l, uint64_t buffer, uint32_t row) { return reals(l, buffer) + row * (size_t)l->stride; }

/* ------------------------------------------------------------------------------------------------------- sampling */

static uint64_t size_of_replay(const edgerl_replay *r) { return r->count < r->capacity ? r->count : r->capacity; }

/* Bytes of a row before reward and boundary. */
static uint64_t tail_of_row(const learner *l, const edgerl_replay *r) {
    const uint64_t numbers = 2 * (uint64_t)l->config.n_observations + l->config.n_actions;
    return r->format == EDGERL_ROWS_FLOAT16 ? round_up(2 * numbers, 4) : 4 * numbers;
}

static uint64_t bytes_of_row(const learner *l, const edgerl_replay *r) { return tail_of_row(l, r) + 2 * sizeof(float); }

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
    row_end end = end_of_row(l, r, t);
    const uint32_t steps = this_update(l) > l->config.n_step_delay ? l->config.n_step : 1;
    put_observation(l, r, t, 0, reals(l, l->now) + column);
    put_numbers(l, r, t, n, m, row_at(l, l->now, n) + column);
    float sum = end.reward, discount = gamma;
    for (uint32_t step = 1; step < steps && end.boundary == CONTINUES && index + step < size; step++) {
        t = transition(l, r, index + step);
        end = end_of_row(l, r, t);
        sum += discount * end.reward;
        discount *= gamma;
    }
    put_observation(l, r, t, n + m, reals(l, l->next) + column);
    ((float *)at(l, l->returns))[column] = sum;
    ((float *)at(l, l->discounts))[column] = end.boundary == TERMINATED ? 0 : discount;
}

/* Line 9 of Algorithm 1, and the noise of the target actions. */
static void sample(learner *l, const edgerl_replay *r, const kernels *k) {
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
    const uint32_t count = c->batch * c->n_actions, even = count + count % 2;
    const draws noise = draws_for(c->seed, PURPOSE_TARGET_NOISE, this_update(l), EDGERL_ACTOR, 0);
    draw(&noise, 0, even, words);
    k->normals(words, even, reals(l, l->noise));
}

/* --------------------------------------------------------------------------------------- the elementwise operations */

static real clip(real x, real bound) { return x < -bound ? -bound : x > bound ? bound : x; }

static void target_action(learner *l, const kernels *k) {
    const uint32_t n = l->config.n_observations, m = l->config.n_actions;
    const real *noise = reals(l, l->noise);
    const real deviation = (real)l->config.target_noise, bound = (real)l->config.target_noise_clip;
    real *from = output_of(l, EDGERL_ACTOR, l->config.n_layers - 1);
    k->squash(from, (size_t)m * l->stride);
    for (uint32_t a = 0; a < m; a++) {
        const real *action = from + a * (size_t)l->stride;
        real *to = row_at(l, l->next, n + a);
        for (uint32_t b = 0; b < l->width; b++) {
            const real e = b < l->config.batch ? clip(noise[(size_t)b * m + a] * deviation, bound) : 0;
            to[b] = clip(action[b] + e, 1);
        }
    }
}

static void target_value(learner *l, uint32_t network) {
    real *y = reals(l, l->target_value);
    const float *returns = at(l, l->returns), *discounts = at(l, l->discounts);
    const real *q = output_of(l, network, l->config.n_layers - 1);
    for (uint32_t b = 0; b < l->width; b++) {
        if (network == EDGERL_CRITIC_1) {
            y[b] = q[b];
        } else {
            const real least = q[b] < y[b] || q[b] != q[b] ? q[b] : y[b];
            y[b] = (real)returns[b] + (real)discounts[b] * least;
        }
    }
}

/* The rows of a gradient that pad it to a multiple of four hold 0. */
static void zero_padding(const learner *l, real *gradient, uint32_t n_rows) {
    zero(gradient + n_rows * (size_t)l->stride, (padded(n_rows) - n_rows) * l->stride * sizeof(real));
}

/* A loss or a gradient that is not finite ends the update: nothing of it enters the networks. */
static void abandon(learner *l) { l->is_abandoned = 1; }

static int real_is_sound(real x) { return x - x == 0; }

static void critic_loss(learner *l, uint32_t network) {
    const uint32_t last = l->config.n_layers - 1;
    const real share = 1 / (real)l->config.batch, *q = output_of(l, network, last), *y = reals(l, l->target_value);
    real *gradient = reals(l, l->gradient[last]), sum = 0;
    for (uint32_t b = 0; b < l->width; b++) {
        const real difference = b < l->config.batch ? q[b] - y[b] : 0;
        gradient[b] = 2 * share * difference;
        sum += difference * difference;
    }
    zero_padding(l, gradient, 1);
    if (!real_is_sound(sum)) {
        abandon(l);
        return;
    }
    l->progress.critic_loss_sum += (double)(sum * share);
    l->progress.critic_losses += network == EDGERL_CRITIC_2;
}

static void policy_action(learner *l, const kernels *k) {
    const size_t count = (size_t)l->config.n_actions * l->stride;
    real *from = output_of(l, EDGERL_ACTOR, l->config.n_layers - 1);
    k->squash(from, count);
    copy(row_at(l, l->now, l->config.n_observations), from, count * sizeof(real));
}

static void policy_loss(learner *l) {
    const uint32_t last = l->config.n_layers - 1;
    const real share = 1 / (real)l->config.batch, *q = output_of(l, EDGERL_CRITIC_1, last);
    real *gradient = reals(l, l->gradient[last]), sum = 0;
    for (uint32_t b = 0; b < l->width; b++) {
        gradient[b] = b < l->config.batch ? -share : 0;
        sum += b < l->config.batch ? q[b] : 0;
    }
    zero_padding(l, gradient, 1);
    if (!real_is_sound(sum)) {
        abandon(l);
        return;
    }
    l->progress.actor_loss_sum -= (double)(sum * share);
    l->progress.actor_losses++;
}

static void policy_gradient(learner *l) {
    const uint32_t m = l->config.n_actions, last = l->config.n_layers - 1;
    const real *action = output_of(l, EDGERL_ACTOR, last);
    const real *by_action = row_at(l, l->action_gradient, l->config.n_observations);
    real *gradient = reals(l, l->gradient[last]);
    for (size_t j = 0; j < (size_t)m * l->stride; j++) {
        gradient[j] = by_action[j] * (1 - action[j] * action[j]);
    }
    zero_padding(l, gradient, m);
}

/* --------------------------------------------------------------------------------------------- passes over a layer */

/* Panels of rows, where a row has enough in each; the weight gradient of blocks gains by them in any case. */
static uint32_t worth_panels(const layer *y) { return y->blocks / y->rows >= PANEL_WORTH * y->row_panels ? y->row_panels : 1; }

static void forward_rows(learner *l, const kernels *k, uint32_t network, uint32_t index, int is_target, uint32_t first,
                         uint32_t last) {
    const layer *y = &l->layers[network][index];
    const int has_extra = is_target && !y->is_dense && words_at(l, y->at.extra_starts)[y->rows] > 0;
    const forward_task task = {
        .starts = words_at(l, y->at.starts),
        .columns = indices_at(l, y->at.columns),
        .values = reals(l, is_target ? y->at.target : y->at.weight),
        .bounds = words_at(l, y->row_bounds),
        .panels = worth_panels(y),
        .rows = y->rows,
        .extra_starts = has_extra ? words_at(l, y->at.extra_starts) : NULL,
        .extra_columns = has_extra ? indices_at(l, y->at.extra_columns) : NULL,
        .extra_values = has_extra ? reals(l, y->at.extra_target) : NULL,
        .bias = reals(l, is_target ? y->at.bias_target : y->at.bias),
        .x = input_of(l, network, index, is_target ? l->next : l->now),
        .y = output_of(l, network, index),
        .width = l->width,
        .stride = l->stride,
        .first_row = first,
        .last_row = last,
        .relu = index + 1 < l->config.n_layers,
    };
    k->forward(&task, y->block);
}

/* Rows of the item "input gradient of a layer": inputs where block is 1, rows of blocks else. */
static uint32_t input_gradient_rows(const layer *y) { return y->block == 1 ? y->n_inputs : y->rows; }

/* The gradient by a layer's inputs; of the first layer only by those that are actions. */
static void input_gradient_of(learner *l, const kernels *k, uint32_t network, uint32_t index, uint32_t first,
                              uint32_t last) {
    const layer *y = &l->layers[network][index];
    const uint32_t from = index == 0 ? l->config.n_observations : 0;
    const real *relu = index == 0 ? NULL : input_of(l, network, index, l->now);
    real *dx = reals(l, index == 0 ? l->action_gradient : l->gradient[index - 1]);
    const input_task task = {
        .starts = words_at(l, y->at.starts),
        .columns = indices_at(l, y->at.columns),
        .values = reals(l, y->at.weight),
        .column_starts = y->block == 1 ? words_at(l, y->column_starts) : NULL,
        .rows = y->block == 1 ? indices_at(l, y->column_rows) : NULL,
        .places = y->block == 1 ? indices_at(l, y->column_places) : NULL,
        .bounds = words_at(l, y->block == 1 ? y->column_bounds : y->row_bounds),
        .panels = y->block == 1 ? y->column_panels : y->row_panels,
        .lines = y->block == 1 ? y->n_inputs : y->rows,
        .n_inputs = y->n_inputs,
        .dy = reals(l, l->gradient[index]),
        .relu = relu,
        .dx = dx,
        .width = l->width,
        .stride = l->stride,
        .first_column = from,
        .first = y->block == 1 && first < from ? from : first,
        .last = last,
    };
    k->input_gradient(&task, y->block);
    if (relu != NULL && last == input_gradient_rows(y)) {
        zero_padding(l, dx, y->n_inputs);
    }
}

static void weight_gradient_of(learner *l, const kernels *k, uint32_t network, uint32_t index, uint32_t first,
                               uint32_t last) {
    const layer *y = &l->layers[network][index];
    const weight_task task = {
        .starts = words_at(l, y->at.starts),
        .columns = indices_at(l, y->at.columns),
        .bounds = words_at(l, y->row_bounds),
        .panels = y->row_panels,
        .rows = y->rows,
        .x = input_of(l, network, index, l->now),
        .dy = reals(l, l->gradient[index]),
        .gradient = reals(l, l->weight_gradient),
        .width = l->width,
        .stride = l->stride,
        .first_row = first,
        .last_row = last,
    };
    k->weight_gradient(&task, y->block);
    if (last == y->rows) {
        k->row_sums(task.dy, (uint32_t)padded(y->n_outputs), l->stride, l->width, reals(l, l->bias_gradient));
    }
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

/* Gradients whose squares, and so Adam's moments, stay finite. */
#define LARGEST_GRADIENT ((real)1e18)

static int all_moderate(const real *gradient, size_t count) {
    key largest = 0;
    for (size_t i = 0; i < count; i++) {
        const key k = key_of(gradient[i]);
        largest = k > largest ? k : largest;
    }
    return largest < key_of(LARGEST_GRADIENT);
}

/* Adam (Kingma, Ba 2015) with coupled weight decay, on the connections and biases of one layer. */
static void adam(learner *l, const kernels *k, uint32_t network, uint32_t index) {
    const layer *y = &l->layers[network][index];
    if (!all_moderate(reals(l, l->weight_gradient), weights_of(y)) || !all_moderate(reals(l, l->bias_gradient), units_of(y))) {
        abandon(l);
        return;
    }
    const uint64_t step = network == EDGERL_ACTOR ? this_update(l) / l->config.policy_delay : this_update(l);
    adam_task task = {
        .weight = reals(l, y->at.weight),
        .first_moment = reals(l, y->at.first_moment),
        .second_moment = reals(l, y->at.second_moment),
        .gradient = reals(l, l->weight_gradient),
        .count = weights_of(y),
        .weight_decay = (real)l->config.weight_decay,
        .first_share = (real)(1 - 0.9),
        .second_keep = (real)0.999,
        .second_share = (real)(1 - 0.999),
        .step_size = (real)(l->config.learning_rate / (1 - power(0.9, step))),
        .second_correction = (real)(1 / double_root(1 - power(0.999, step))),
        .epsilon = (real)1e-8,
    };
    k->adam(&task);
    task.weight = reals(l, y->at.bias);
    task.first_moment = reals(l, y->at.bias_first_moment);
    task.second_moment = reals(l, y->at.bias_second_moment);
    task.gradient = reals(l, l->bias_gradient);
    task.count = units_of(y);
    k->adam(&task);
}

static void soft_update(learner *l, const kernels *k, uint32_t network, uint32_t index) {
    const layer *y = &l->layers[network][index];
    const real fraction = (real)l->config.soft_update;
    k->follow(reals(l, y->at.target), reals(l, y->at.weight), weights_of(y), fraction);
    k->follow(reals(l, y->at.bias_target), reals(l, y->at.bias), units_of(y), fraction);
    if (!y->is_dense) {
        const size_t count = (size_t)words_at(l, y->at.extra_starts)[y->rows] * y->block;
        real *extra = reals(l, y->at.extra_target);
        for (size_t i = 0; i < count; i++) {
            extra[i] += (0 - extra[i]) * fraction;
        }
    }
}

/* The gradient of every position of one row of blocks, to score the absent ones; over the weight gradient's scratch. */
static void score(learner *l, const kernels *k, uint32_t network, uint32_t index, uint32_t row) {
    const layer *y = &l->layers[network][index];
    const topology_space w = lay_out_workspace(y, l->workspace, l->config.growth);
    const uint32_t starts[2] = {0, y->n_inputs};
    const weight_task task = {
        .starts = starts,
        .columns = indices_at(l, w.all_columns),
        .panels = 1,
        .rows = 1,
        .x = input_of(l, network, index, l->now),
        .dy = row_at(l, l->gradient[index], row * y->block),
        .gradient = reals(l, l->weight_gradient),
        .width = l->width,
        .stride = l->stride,
        .first_row = 0,
        .last_row = 1,
    };
    k->weight_gradient(&task, y->block);
    score_row(l, y, row, reals(l, l->weight_gradient));
}

/* --------------------------------------------------------------------------------------------------- the program */

/* One item of an instruction: how many rows it has, and about how many multiply-adds each takes. No rows: the instruction is
 * complete. */
typedef struct item {
    uint32_t rows;
    uint64_t work;
} item;

#define BACKWARD_PARTS 3u /* the gradient by the inputs, by the weights, Adam */
#define EVOLVE_PARTS 3u /* select what is dropped, score what could grow, change the topology */
#define SOFT_UPDATE_PARTS 2u

static int evolves(const learner *l, uint32_t network) {
    const edgerl_learner_config *c = &l->config;
    if (c->evolution_interval == 0) {
        return 0;
    }
    const int due = network == EDGERL_ACTOR ? l->progress.evolution_is_due == 1
                                            : this_update(l) % c->evolution_interval == 0;
    return due && this_update(l) < c->last_update;
}

/* Multiply-adds of one of the `rows` that a pass over a layer consists of. */
static uint64_t per_row(const learner *l, const layer *y, uint32_t rows) {
    return (weights_of(y) / rows + 1) * l->width;
}

static item backward_item(const learner *l, uint32_t network, uint32_t number) {
    const uint32_t index = l->config.n_layers - 1 - number / BACKWARD_PARTS;
    const layer *y = &l->layers[network][index];
    const item by_inputs = {index > 0 ? input_gradient_rows(y) : 0, per_row(l, y, input_gradient_rows(y))};
    const item by_weights = {y->rows, per_row(l, y, y->rows)}, adam_step = {1, 16 * weights_of(y)};
    return number % BACKWARD_PARTS == 0 ? by_inputs : number % BACKWARD_PARTS == 1 ? by_weights : adam_step;
}

/* How many items an instruction has in this update. */
static uint32_t count_items(const learner *l, instruction now) {
    switch (now.operation) {
    case TARGET_FORWARD:
    case FORWARD:
    case ACTION_GRADIENT:
    case PUBLISH:
        return l->config.n_layers;
    case BACKWARD:
        return l->config.n_layers * BACKWARD_PARTS;
    case EVOLVE:
        return evolves(l, now.network) ? l->config.n_layers * EVOLVE_PARTS : 0;
    case SOFT_UPDATE:
        return l->config.n_layers * SOFT_UPDATE_PARTS;
    default:
        return 1;
    }
}

static item describe(const learner *l, instruction now, uint32_t number) {
    item result = {1, 1};
    const layer *y;
    switch (now.operation) {
    case TARGET_FORWARD:
    case FORWARD:
        y = &l->layers[now.network][number];
        result.rows = y->rows;
        result.work = per_row(l, y, y->rows);
        break;
    case BACKWARD:
        return backward_item(l, now.network, number);
    case ACTION_GRADIENT:
        y = &l->layers[now.network][l->config.n_layers - 1 - number];
        result.rows = input_gradient_rows(y);
        result.work = per_row(l, y, input_gradient_rows(y));
        break;
    case EVOLVE:
        y = &l->layers[now.network][number / EVOLVE_PARTS];
        result.work = 128 * (uint64_t)y->blocks;
        if (number % EVOLVE_PARTS == 1) {
            result.rows = l->config.growth == EDGERL_GROWTH_GRADIENT ? y->rows : 0;
            result.work = (uint64_t)y->n_inputs * y->block * l->width;
        }
        result.rows = y->is_dense ? 0 : result.rows;
        break;
    case SOFT_UPDATE:
        y = &l->layers[now.network][number / SOFT_UPDATE_PARTS];
        result.work = 16 * weights_of(y);
        result.rows = number % SOFT_UPDATE_PARTS == 1 && y->is_dense ? 0 : 1;
        break;
    case PUBLISH:
        result.work = weights_of(&l->layers[EDGERL_ACTOR][number]);
        break;
    default:
        result.work = 16 * (uint64_t)l->width * (l->config.n_observations + l->config.n_actions);
        break;
    }
    return result;
}

static void run_backward(learner *l, const kernels *k, uint32_t network, uint32_t number, uint32_t first, uint32_t last) {
    const uint32_t index = l->config.n_layers - 1 - number / BACKWARD_PARTS;
    switch (number % BACKWARD_PARTS) {
    case 0:
        input_gradient_of(l, k, network, index, first, last);
        break;
    case 1:
        weight_gradient_of(l, k, network, index, first, last);
        break;
    default:
        adam(l, k, network, index);
        break;
    }
}

static void run_evolution(learner *l, const kernels *k, uint32_t network, uint32_t number, uint32_t first, uint32_t last) {
    const uint32_t index = number / EVOLVE_PARTS;
    layer *y = &l->layers[network][index];
    switch (number % EVOLVE_PARTS) {
    case 0:
        select_drop(l, y, this_update(l));
        break;
    case 1:
        for (uint32_t row = first; row < last; row++) {
            score(l, k, network, index, row);
        }
        break;
    default:
        evolve(l, y, network, index, this_update(l));
        break;
    }
}

/* Rows first … last - 1 of one item. */
static void run(learner *l, const kernels *k, const edgerl_replay *replay, instruction now, uint32_t number, uint32_t first,
                uint32_t last) {
    switch (now.operation) {
    case SAMPLE:
        sample(l, replay, k);
        break;
    case TARGET_FORWARD:
        forward_rows(l, k, now.network, number, 1, first, last);
        break;
    case TARGET_ACTION:
        target_action(l, k);
        break;
    case TARGET_VALUE:
        target_value(l, now.network);
        break;
    case FORWARD:
        forward_rows(l, k, now.network, number, 0, first, last);
        break;
    case CRITIC_LOSS:
        critic_loss(l, now.network);
        break;
    case BACKWARD:
        run_backward(l, k, now.network, number, first, last);
        break;
    case EVOLVE:
        run_evolution(l, k, now.network, number, first, last);
        break;
    case POLICY_ACTION:
        policy_action(l, k);
        break;
    case POLICY_LOSS:
        policy_loss(l);
        break;
    case ACTION_GRADIENT:
        input_gradient_of(l, k, now.network, l->config.n_layers - 1 - number, first, last);
        break;
    case POLICY_GRADIENT:
        policy_gradient(l);
        break;
    case SOFT_UPDATE:
        if (number % SOFT_UPDATE_PARTS == 0) {
            soft_update(l, k, now.network, number / SOFT_UPDATE_PARTS);
        } else {
            prune_target(l, k, &l->layers[now.network][number / SOFT_UPDATE_PARTS]);
        }
        break;
    case PUBLISH:
        publish_layer(l, number);
        break;
    default:
        publish(l);
        l->progress.updates++;
        l->progress.abandoned += l->is_abandoned;
        l->is_abandoned = 0;
        break;
    }
}

/* The instruction after this one. */
static uint32_t following(learner *l, uint32_t instruction_number) {
    const instruction now = program[instruction_number];
    if (now.operation == EVOLVE) {
        const int evolved = evolves(l, now.network);
        if (now.network == EDGERL_ACTOR && evolved) {
            l->progress.evolution_is_due = 0;
        } else if (now.network == EDGERL_CRITIC_2 && evolved) {
            l->progress.evolution_is_due = 1;
        }
    }
    const uint32_t next = instruction_number + 1;
    return next == POLICY_BEGIN && this_update(l) % l->config.policy_delay != 0 ? LAST_INSTRUCTION : next;
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

int32_t edgerl_learner_step(void *arena, const edgerl_replay *replay, uint64_t work, int32_t *complete) {
    const int32_t status = check_learner(arena, complete, complete);
    if (status != EDGERL_OK) {
        return status;
    }
    learner *l = arena;
    place *p = &l->place;
    if (p->instruction == 0 && p->item == 0 && check_replay(l, replay) != EDGERL_OK) {
        return EDGERL_BAD_ARGUMENT;
    }
    const kernels *k = kernels_of(l->config.isa, l->config.lanes);
    const float_mode mode = flush_denormals();
    *complete = 0;
    while (work > 0 && !*complete) {
        const instruction now = program[p->instruction];
        if (p->item == count_items(l, now)) {
            p->instruction = following(l, p->instruction);
            p->item = 0;
            continue;
        }
        const item i = describe(l, now, p->item);
        const uint64_t affordable = work / i.work;
        const uint32_t left = i.rows - p->row, rows = left <= affordable ? left : (uint32_t)affordable + 1;
        if (rows > 0) {
            run(l, k, replay, now, p->item, p->row, p->row + rows);
        }
        const uint64_t done = rows * i.work;
        work = done < work ? work - done : 0;
        p->row += rows;
        if (p->row == i.rows) {
            p->row = 0;
            p->item++;
        }
        if (now.operation == FINISH) {
            p->instruction = p->item = p->row = 0;
            *complete = 1;
        } else if (l->is_abandoned) {
            p->instruction = LAST_INSTRUCTION;
            p->item = p->row = 0;
        }
    }
    restore_float_mode(mode);
    return EDGERL_OK;
}
