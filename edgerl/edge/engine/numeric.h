/* SPDX-License-Identifier: MIT */
/* Functions of numbers, without libm: the same code on every machine. */
#ifndef EDGERL_NUMERIC_H
#define EDGERL_NUMERIC_H

#include "base.h"

#ifdef EDGERL_DOUBLE
#include <math.h> /* for tests only */
#endif

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

/* A binary16 number as float32, exactly; denormals too, whatever the processor's mode does with its own. */
static inline float float_of_half(uint16_t half) {
    const uint32_t sign = (uint32_t)(half & 0x8000u) << 16, exponent = half >> 10 & 31u, mantissa = half & 1023u;
    union {
        float value;
        uint32_t bits;
    } u = {(float)mantissa * 5.9604644775390625e-8f}; /* 2^-24 */
    if (exponent > 0) {
        u.bits = (exponent == 31 ? 255u : exponent + 112u) << 23 | mantissa << 13;
    }
    u.bits |= sign;
    return u.value;
}

#ifdef EDGERL_DOUBLE

static inline double square_root(double x) { return sqrt(x); }

#else

typedef union float_bits {
    float value;
    int32_t bits;
} float_bits;

/* By the reciprocal root of Newton's method from the well-known first guess, within 2e-7: the same bits on every machine, and
 * faster than wide vectors have it. The product comes before the square, which could overflow. */
static inline float square_root(float x) {
    float_bits y = {x};
    y.bits = (int32_t)(UINT32_C(0x5f375a86) - (uint32_t)(y.bits >> 1)); /* beyond 2^31 for -0 */
    for (int i = 0; i < 3; i++) {
        y.value *= 1.5f - 0.5f * (x * y.value) * y.value;
    }
    return x * y.value;
}

/* The natural logarithm of x > 0, within 2e-7 (the polynomial is Cephes's, Moshier 1992). */
static inline float logarithm(float x) {
    float_bits u = {x};
    const int32_t shifted = u.bits - 0x3f3504f3; /* √½: the rest lies in [√½, √2) */
    const int32_t exponent = shifted >> 23;
    u.bits -= (int32_t)((uint32_t)exponent << 23);
    const float f = u.value - 1.0f, e = (float)exponent;
    float p = 7.0376836292e-2f;
    p = p * f - 1.1514610310e-1f;
    p = p * f + 1.1676998740e-1f;
    p = p * f - 1.2420140846e-1f;
    p = p * f + 1.4249322787e-1f;
    p = p * f - 1.6668057665e-1f;
    p = p * f + 2.0000714765e-1f;
    p = p * f - 2.4999993993e-1f;
    p = p * f + 3.3333331174e-1f;
    return f + (p * f * f * f - 2.12194440e-4f * e - 0.5f * f * f) + 0.693359375f * e;
}

#endif

#ifdef EDGERL_DOUBLE

static inline double exponential(double x) { return exp(x); }
static inline double logarithm_real(double x) { return log(x); }

#else

/* e^x within 2e-7 of itself, for x in [-87, 88], to which others are clipped; NaN for NaN (the polynomial is Cephes's). Clipped by
 * bits: where a compiler sees a constant it makes a branch for it, and then no vector code of a loop over an array. */
static inline float exponential(float x) {
    const int32_t is_low = -(x < -87.0f), is_high = -(x > 88.0f);
    float_bits clipped = {x};
    clipped.bits = (clipped.bits & ~(is_low | is_high)) | (is_low & (int32_t)0xc2ae0000) | (is_high & 0x42b00000);
    const float twos = clipped.value * 1.44269504f;
    const int32_t n = (int32_t)(twos + (twos < 0 ? -0.5f : 0.5f));
    const float f = (clipped.value - (float)n * 0.693359375f) + (float)n * 2.12194440e-4f;
    float p = 1.9875691500e-4f;
    p = p * f + 1.3981999507e-3f;
    p = p * f + 8.3334519073e-3f;
    p = p * f + 4.1665795894e-2f;
    p = p * f + 1.6666665459e-1f;
    p = p * f + 5.0000001201e-1f;
    float_bits power = {0};
    power.bits = (n + 127) << 23;
    return (p * f * f + f + 1.0f) * power.value;
}

static inline float logarithm_real(float x) { return logarithm(x); }

#endif

/* A stochastic policy's deviation is between e^-20 and e^2, as published implementations have it. */
static inline real clipped_log_deviation(real x) { return x < -20 ? -20 : x > 2 ? 2 : x; }

/* √x in double precision, by two more steps of Newton. */
static inline double double_root(double x) {
#ifdef EDGERL_DOUBLE
    return sqrt(x);
#else
    double root = (double)square_root((float)x);
    root = 0.5 * (root + x / root);
    return 0.5 * (root + x / root);
#endif
}

/* ------------------------------------------------------------------------------------------------------ denormals */

/* Flushed to zero, as operands too, from here on; what restores the processor's mode. */
#if defined(__x86_64__)
typedef uint32_t float_mode;
#define FLUSHING 0x8040u /* flush to zero, denormals are zero */
static inline float_mode flush_denormals(void) {
    const float_mode mode = __builtin_ia32_stmxcsr();
    __builtin_ia32_ldmxcsr(mode | FLUSHING);
    return mode;
}
static inline void restore_float_mode(float_mode mode) { __builtin_ia32_ldmxcsr(mode); }
#elif defined(__aarch64__)
typedef uint64_t float_mode;
#define FLUSHING (UINT64_C(1) << 24)
static inline float_mode flush_denormals(void) {
    float_mode mode;
    __asm__ volatile("mrs %0, fpcr" : "=r"(mode) : : "memory");
    __asm__ volatile("msr fpcr, %0" : : "r"(mode | FLUSHING) : "memory");
    return mode;
}
static inline void restore_float_mode(float_mode mode) { __asm__ volatile("msr fpcr, %0" : : "r"(mode) : "memory"); }
#elif defined(__ARM_FP)
typedef uint32_t float_mode;
#define FLUSHING (UINT32_C(1) << 24)
static inline float_mode flush_denormals(void) {
    float_mode mode;
    __asm__ volatile("vmrs %0, fpscr" : "=r"(mode) : : "memory");
    __asm__ volatile("vmsr fpscr, %0" : : "r"(mode | FLUSHING) : "memory");
    return mode;
}
static inline void restore_float_mode(float_mode mode) { __asm__ volatile("vmsr fpscr, %0" : : "r"(mode) : "memory"); }
#else
typedef uint32_t float_mode;
#define FLUSHING 0u
static inline float_mode flush_denormals(void) { return 0; }
static inline void restore_float_mode(float_mode mode) { (void)mode; }
#endif

#endif
