/* SPDX-License-Identifier: MIT */
/* What stands between two layers. A new one is an enumerator, a case in each of these functions, and one in each of their
 * namesakes for vectors (kernels.inc); the compiler names a case that lacks. */
#ifndef EDGERL_ACTIVATION_H
#define EDGERL_ACTIVATION_H

#include "base.h"

typedef enum activation { LINEAR, RELU } activation;

/* Of every network, behind each layer but the last. */
#define HIDDEN_ACTIVATION RELU

/* NaN stays. */
static inline real activate(activation a, real x) {
    switch (a) {
    case LINEAR:
        return x;
    case RELU:
        return x < 0 ? 0 : x;
    }
    return x;
}

/* The gradient by an activation's input, from that by its output, which was y. */
static inline real activation_gradient(activation a, real y, real gradient) {
    switch (a) {
    case LINEAR:
        return gradient;
    case RELU:
        return y > 0 ? gradient : 0;
    }
    return gradient;
}

#endif
