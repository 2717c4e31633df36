/* Functions of numbers, without libm: the same code on every machine. */
#ifndef EDGERL_NUMERIC_H
#define EDGERL_NUMERIC_H

#include "base.h"

/* tanh within 4e-7; odd, never beyond ±1, NaN for NaN.
 *
 * x P(x²) / Q(x²), fitted to the smallest relative error on [-9, 9] (7e-9 before rounding); beyond, tanh is 1 - 3e-8.
 * No branch depends on x: a loop over an array becomes vector code. */
static inline float tanh_float(float x) {
    const float low = x < -9.0f ? -9.0f : x;
    const float clamped = low > 9.0f ? 9.0f : low;
    const float u = clamped * clamped;
    float p = -8.48870263e-14f;
    p = p * u + 5.27794579e-11f;
    p = p * u - 2.02252206e-08f;
    p = p * u + 1.11543068e-05f;
    p = p * u + 3.10395611e-03f;
    p = p * u + 1.30840093e-01f;
    p = p * u + 1.0f;
    float q = 2.54614512e-04f;
    q = q * u + 2.44951788e-02f;
    q = q * u + 4.64173377e-01f;
    q = q * u + 1.0f;
    const float result = clamped * p / q;
    const float above = result < -1.0f ? -1.0f : result;
    return above > 1.0f ? 1.0f : above;
}

#ifdef EDGERL_DOUBLE
/* tanh within 1e-14, for tests: Lambert's continued fraction at x / 32, then tanh 2y = 2 tanh y / (1 + tanh² y). */
static inline double tanh_real(double x) {
    const double low = x < -20.0 ? -20.0 : x;
    const double y = (low > 20.0 ? 20.0 : low) / 32.0;
    double fraction = 21.0;
    for (double odd = 19.0; odd >= 1.0; odd -= 2.0) {
        fraction = odd + y * y / fraction;
    }
    double result = y / fraction;
    for (int doubling = 0; doubling < 5; doubling++) {
        result = 2.0 * result / (1.0 + result * result);
    }
    return result;
}
#else
static inline float tanh_real(float x) { return tanh_float(x); }
#endif

#endif
