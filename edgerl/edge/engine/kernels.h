/* SPDX-License-Identifier: MIT */
/* The learner's arithmetic: what each kernel takes, and the kernels of an instruction set as one table. */
#ifndef EDGERL_KERNELS_H
#define EDGERL_KERNELS_H

#include "activation.h"
#include "random.h"

/* Inputs (or outputs) of one panel: a narrow tile of so many rows of activations stays in the first cache. */
#define PANEL 128u

/* y = W x + b for rows (of blocks) first_row … last_row - 1 of a layer; with the connections that only the target has, where
 * there are any. Activations have `width` columns, rows being `stride` apart. */
typedef struct forward_task {
    const uint32_t *starts;
    const uint16_t *columns;
    const real *values;
    const uint32_t *bounds; /* [panels - 1][rows]: where in its row each further range of inputs begins */
    uint32_t panels, rows;
    const uint32_t *extra_starts; /* null: none */
    const uint16_t *extra_columns;
    const real *extra_values;
    const real *bias;
    const real *x; /* [n_inputs][stride] */
    real *y;       /* [n_outputs, rounded up to blocks][stride] */
    uint32_t width, stride;
    uint32_t first_row, last_row;
    activation after; /* of y */
} forward_task;

/* dx = Wᵀ dy, through the activation whose output x was. Block 1: for the inputs first … last - 1, by the
 * transposed index. Block 4: the part of the block rows first … last - 1 is added; the first begin, the last ones end it. */
typedef struct input_task {
    const uint32_t *starts;
    const uint16_t *columns;
    const real *values;
    const uint32_t *column_starts; /* [n_inputs + 1] */
    const uint16_t *rows;          /* the row of each connection of a column … */
    const uint16_t *places;        /* … and which one of its row it is */
    const uint32_t *bounds;        /* [panels - 1][lines], of rows of blocks, or of columns where block is 1 */
    uint32_t panels, lines, n_inputs;
    const real *dy;
    const real *x; /* the layer's inputs; not read where the activation is linear */
    real *dx;
    uint32_t width, stride;
    uint32_t first_column; /* block 4: inputs before it are left out */
    uint32_t first, last;
    activation before; /* of x */
} input_task;

/* gradient = dy xᵀ at the connections of rows first_row … last_row - 1. */
typedef struct weight_task {
    const uint32_t *starts;
    const uint16_t *columns;
    const uint32_t *bounds; /* [panels - 1][rows] */
    uint32_t panels, rows;
    const real *x, *dy;
    real *gradient; /* [blocks][block] */
    uint32_t width, stride;
    uint32_t first_row, last_row;
} weight_task;

/* LayerNorm and the activation behind it: y = activation(scale x̂ + shift), where x̂ = (x - mean) / deviation over the units of a
 * sample, and the way back from there to x. Rows are `stride` apart. */
typedef struct norm_task {
    const real *scale, *shift; /* [n_units] */
    const real *x;             /* [n_units][stride]: a layer's sums */
    real *y;                   /* [n_units][stride]; may be x */
    real *dy;                  /* [n_units][stride]: by the activation's input; becomes the gradient by x */
    real *mean, *deviation;    /* [stride]: the latter's reciprocal */
    real *sums;                /* [2][stride]: over the units, the means of scale · dy and of scale · dy · x̂ */
    real *scale_gradient, *shift_gradient; /* [n_units] */
    uint32_t n_units, width, stride;
    uint32_t first, last; /* columns of the batch; for norm_gradient units */
    activation after;
} norm_task;

/* Batch norm: the statistics of units first … last - 1 over the batch, and the way back: dx becomes what leads through the
 * activation behind which x is, of dx + slope (x - mean) + offset. Of each `half` of the columns the first `batch` are samples; the
 * gradient by the others is 0. Rows are `stride` apart. */
typedef struct batch_task {
    const real *x;             /* [n_units][stride] */
    real *dx;                  /* [n_units][stride] */
    real *mean, *variance;     /* [n_units] */
    const real *slope, *offset; /* [n_units] */
    uint32_t width, half, batch, stride;
    uint32_t first, last;
    activation before; /* x */
} batch_task;

/* An activation that is a pass of its own, of units first … last - 1; rows are `stride` apart. */
typedef struct activation_task {
    activation kind;
    real *y;        /* [n_units][stride]: sums, which become outputs */
    real *slope;    /* [n_units][stride]: likewise, of an activation that has_slopes; else null */
    real *gradient; /* [n_units][stride]: on the way back, by outputs; becomes that by sums */
    uint32_t width, stride;
    uint32_t first, last;
} activation_task;

/* Dropout in units first … last - 1: each number is left out where its 16 random bits are below `threshold`, else multiplied by
 * `scale`. A unit has `unit_words` words of `draws`, whose lower halves are its first samples'. Rows are `stride` apart. */
typedef struct dropout_task {
    draws draws;
    uint32_t unit_words; /* a multiple of 4 */
    uint32_t threshold;  /* below 2^16 */
    real scale;
    real *x;       /* [n_units][stride]: a layer's sums; on the way back the gradient by what became of them, then by them */
    uint8_t *kept; /* [n_units][stride]: whether */
    uint32_t width, stride;
    uint32_t first, last;
} dropout_task;

#define NORM_EPSILON ((real)1e-5) /* is added to the variance, as PyTorch does */

/* One step of Adam on `count` numbers: weight decay is added to the gradient, or what is kept of a weight is less than 1. */
typedef struct adam_task {
    real *weight, *first_moment, *second_moment;
    const real *gradient;
    size_t count;
    real weight_decay, weight_keep, first_share, second_keep, second_share, step_size, second_correction, epsilon;
} adam_task;

typedef struct kernel_table {
    void (*forward)(const forward_task *, uint32_t block);
    void (*input_gradient)(const input_task *, uint32_t block);
    void (*weight_gradient)(const weight_task *, uint32_t block);
    void (*row_sums)(const real *rows, uint32_t n_rows, uint32_t stride, uint32_t width, real *sums);
    void (*normalise)(const norm_task *);     /* forward */
    void (*norm_sums)(const norm_task *);     /* backward: sums over the units */
    void (*norm_gradient)(const norm_task *); /* backward: by scale, shift and the layer's sums */
    void (*batch_statistics)(const batch_task *);
    void (*batch_gradient)(const batch_task *);
    void (*activate)(const activation_task *);
    void (*activation_gradient)(const activation_task *);
    void (*drop_out)(const dropout_task *);
    void (*drop_out_gradient)(const dropout_task *); /* where the forward pass left out */
    void (*adam)(const adam_task *);
    void (*follow)(real *target, const real *online, size_t count, real fraction);
    void (*squash)(real *x, size_t count);
    void (*normals)(const uint32_t *words, uint32_t count, real *numbers);
    uint32_t (*gather)(const real *values, uint32_t first, uint32_t last, real_bits limit, real_bits *keys,
                       uint32_t *candidates);
} kernel_table;

/* Numbers in a vector of an instruction set. */
EDGERL_INTERNAL uint32_t lanes_of(int32_t isa);

/* The best kernels that this processor can run on a batch padded to `lanes`. */
EDGERL_INTERNAL const kernel_table *kernels_of(int32_t isa, uint32_t lanes);

/* Words → standard normal numbers, two from two, without vectors. */
EDGERL_INTERNAL void normals_naive(const uint32_t *words, uint32_t count, real *numbers);

#endif
