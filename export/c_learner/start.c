/* @ABOUT@ See edgerl_learner.h.
 * @SPDX@
 *
 * C11 for GCC and Clang; the engine is described in docs/engine.md. */
#include "edgerl_learner.h"

#if defined(__cplusplus)
#error "edgerl_learner.c is C11: compile it as C; a program in C++ includes edgerl_learner.h and links it"
#elif !defined(__GNUC__) || defined(__TINYC__) || __STDC_VERSION__ < 199901L
#error "edgerl_learner.c is C11 for GCC and Clang: compile it with one of them, from -std=c99 on"
#elif __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "edgerl_learner.c holds a little-endian state, and this processor is big-endian"
#elif __SIZEOF_INT__ < 4 || __SIZEOF_DOUBLE__ < 8
#error "edgerl_learner.c needs int of 32 bits and double of 64, which this processor's compiler has not"
#elif defined(__i386__) && !defined(__SSE2_MATH__)
#error "for i386, compile edgerl_learner.c and what includes edgerl_learner.h with -malign-double -msse2 -mfpmath=sse"
#else

_Static_assert(sizeof(struct { char first; uint64_t second; }) == 16,
               "edgerl_learner.c needs 64-bit numbers on multiples of 8 bytes; for i386, compile with -malign-double");

