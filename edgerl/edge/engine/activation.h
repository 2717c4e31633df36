/* SPDX-License-Identifier: MIT */
/* What stands between two layers of a learner's network. ReLU is computed where sums are stored and where gradients are made; the
 * others, of which each number takes an exponential, in passes of their own. What a new one takes: docs/engine.md. */
#ifndef EDGERL_ACTIVATION_H
#define EDGERL_ACTIVATION_H

#include "numeric.h"

typedef enum activation {
    LINEAR = EDGERL_IDENTITY,
    RELU = EDGERL_RELU,
    ELU = EDGERL_ELU,
    SILU = EDGERL_SILU,
    TANH = EDGERL_TANH
} activation;

/* What is inlined where its arguments, such as an activation, are known: a loop becomes vector code. */
#define INLINED static inline __attribute__((always_inline))

static inline real sigmoid_real(real x) { return 1 / (1 + exponential(-x)); }

/* x, or 0 where it is above; by bits, for a branch would keep a loop from becoming vector code. */
static inline real not_above_zero(real x) {
    union {
        real value;
        real_bits bits;
    } u = {x};
    u.bits &= (real_bits)(x > 0) - 1;
    return u.value;
}

/* NaN stays. */
INLINED real activate(activation a, real x) {
    switch (a) {
    case LINEAR:
        return x;
    case RELU:
        return x < 0 ? 0 : x;
    case ELU:
        return (x < 0 ? 0 : x) + (exponential(not_above_zero(x)) - 1);
    case SILU:
        return x * sigmoid_real(x);
    case TANH:
        return tanh_real(x);
    }
    return x;
}

/* The slope at an input x whose output is y, of an activation whose outputs do not tell it. */
static inline int has_slopes(activation a) { return a == SILU; }

static inline real slope_of_silu(real x, real y) {
    const real share = sigmoid_real(x);
    return share + y * (1 - share);
}

/* The gradient by an activation's input, from that by its output, and the output, or the slope of one that has_slopes. */
INLINED real activation_gradient(activation a, real kept, real gradient) {
    switch (a) {
    case LINEAR:
        return gradient;
    case RELU:
        return kept > 0 ? gradient : 0;
    case ELU: {
        const real slope = kept + 1;
        return gradient * (kept > 0 ? 1 : slope);
    }
    case SILU:
        return gradient * kept; /* the slope */
    case TANH:
        return gradient * (1 - kept * kept);
    }
    return gradient;
}

/* Whether a program has code for an activation; a constant, where the activation is one. */
static inline int has_activation(activation a) { return (EDGERL_ACTIVATIONS >> (uint32_t)a & 1u) != 0; }

/* Whether any activation is a pass of its own. */
#define HAS_ACTIVATION_PASSES ((EDGERL_ACTIVATIONS & ~1u) != 0)

#endif
