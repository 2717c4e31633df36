/* SPDX-License-Identifier: MIT */
/* Calls a policy for recorded observations between two marks, and prints what it answered.

   The program that reads this (edgerl/profiling/microcontroller) counts what is executed between the marks. */
#include "recorded.h" /* CALLS, N_OBSERVATIONS, N_ACTIONS, number, static const number recorded[CALLS][N_OBSERVATIONS] */
#include "semihosting.h"

#include <stdint.h>
#include <string.h>

int measured_call(const number *observation, float *action);
uint32_t stack_used(const void *from);
void mark_begin(void);
void mark_end(void);

__attribute__((noinline)) void mark_begin(void) { __asm__ volatile("" ::: "memory"); }
__attribute__((noinline)) void mark_end(void) { __asm__ volatile("" ::: "memory"); }

static volatile uint32_t *const systick_control = (volatile uint32_t *)0xe000e010u;
static volatile uint32_t *const systick_reload = (volatile uint32_t *)0xe000e014u;
static volatile uint32_t *const systick_value = (volatile uint32_t *)0xe000e018u;

/* The instructions of all calls by the clock, where QEMU lets an instruction be a nanosecond (-icount shift=0). */
static void print_ticks(void) {
    static float action[N_ACTIONS];
    unsigned long ticks = 0;
    *systick_reload = 0xffffffu;
    *systick_value = 0;
    *systick_control = 5; /* on, from the processor's clock, without an interrupt */
    for (int call = 0; call < CALLS; call++) {
        const uint32_t before = *systick_value;
        (void)measured_call(recorded[call], action);
        ticks += (before - *systick_value) & 0xffffffu;
    }
    semihosting_print_number("ticks", ticks);
}

static void print_action(const float *action) {
    char line[9 * N_ACTIONS + 1];
    char *to = line;
    for (int i = 0; i < N_ACTIONS; i++) {
        uint32_t bits;
        memcpy(&bits, &action[i], sizeof bits);
        for (int shift = 28; shift >= 0; shift -= 4) {
            *to++ = "0123456789abcdef"[(bits >> shift) & 15u];
        }
        *to++ = ' ';
    }
    to[-1] = '\n';
    *to = '\0';
    semihosting_print("action ");
    semihosting_print(line);
}

int main(void) {
    static float actions[CALLS][N_ACTIONS];
    uint32_t here = 0;
    int status = 0;
    for (int call = 0; call < CALLS; call++) {
        mark_begin();
        status |= measured_call(recorded[call], actions[call]);
        mark_end();
    }
    semihosting_print_number("stack", stack_used(&here));
    for (int call = 0; call < CALLS; call++) {
        print_action(actions[call]);
    }
    print_ticks();
    return status;
}
