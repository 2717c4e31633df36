/* SPDX-License-Identifier: MIT */
/* What a Cortex-M does between reset and main: vectors, .data, .bss, the FPU. Any core from ARMv6-M on. */
#include "semihosting.h"

#include <stdint.h>

int main(void);
void reset(void);
void fault(void);

/* From the linker script. */
extern uint32_t data_begin[], data_end[], data_in_flash[], bss_begin[], bss_end[], stack_limit[], stack_top[];
extern void (*const constructors_begin[])(void), (*const constructors_end[])(void);

#define STACK_PAINT 0xa5c3a5c3u

void reset(void) {
    for (uint32_t *to = data_begin, *from = data_in_flash; to < data_end;) {
        *to++ = *from++;
    }
    for (uint32_t *to = bss_begin; to < bss_end;) {
        *to++ = 0;
    }
    const uintptr_t painted = (uintptr_t)__builtin_frame_address(0) - 64;
    for (uint32_t *to = stack_limit; (uintptr_t)to < painted;) { /* so that stack_used() finds what was never written */
        *to++ = STACK_PAINT;
    }
#ifdef __ARM_FP
    volatile uint32_t *const coprocessor_access = (volatile uint32_t *)0xe000ed88u;
    *coprocessor_access |= 0xfu << 20; /* CP10 and CP11: the FPU, in full */
    __asm__ volatile("dsb\n\tisb" ::: "memory");
#endif
    for (void (*const *constructor)(void) = constructors_begin; constructor < constructors_end; constructor++) {
        (*constructor)();
    }
    semihosting_exit(main());
}

/* Bytes of stack below `from` that were ever written. */
uint32_t stack_used(const void *from);
uint32_t stack_used(const void *from) {
    const uint32_t *lowest = stack_limit;
    while (*lowest == STACK_PAINT) {
        lowest++;
    }
    const uint32_t used = (uint32_t)((uintptr_t)from - (uintptr_t)lowest);
    return (uintptr_t)lowest < (uintptr_t)from ? used : 0;
}

void fault(void) {
    semihosting_print("fault\n");
    semihosting_exit(3);
}

__attribute__((section(".vectors"), used)) static void *const vectors[16] = {
    stack_top, (void *)reset, (void *)fault, (void *)fault, (void *)fault, (void *)fault, (void *)fault, 0,
    0,         0,             0,             (void *)fault, (void *)fault, 0,             (void *)fault, (void *)fault,
};
