/* SPDX-License-Identifier: MIT */
/* What a status means, and what this processor can do. */
#include "base.h"
#include "numeric.h"

const char *edgerl_status_text(int32_t status) {
    switch (status) {
#define EDGERL_STATUS_CASE(name, value, text) \
    case value:                               \
        return text;
        EDGERL_STATUS_LIST(EDGERL_STATUS_CASE)
#undef EDGERL_STATUS_CASE
    default:
        return "no status of this library";
    }
}

int32_t edgerl_flush_denormals(int32_t wanted) {
    const float_mode mode = flush_denormals();
    if (!wanted) {
        restore_float_mode(mode & ~FLUSHING);
    }
    return EDGERL_OK;
}

int32_t edgerl_isa_best(void) {
#if HAS_X86_LEVELS
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512bw")) {
        return EDGERL_ISA_AVX512;
    }
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
        return EDGERL_ISA_AVX2;
    }
#endif
    return EDGERL_ISA_BASELINE;
}
