/* SPDX-License-Identifier: MIT */
#include "semihosting.h"

enum { SYS_WRITE0 = 0x04, SYS_EXIT_EXTENDED = 0x20, ADP_STOPPED_APPLICATION_EXIT = 0x20026 };

static int call(int operation, const void *argument) {
    register int r0 __asm__("r0") = operation;
    register const void *r1 __asm__("r1") = argument;
    __asm__ volatile("bkpt 0xab" : "+r"(r0) : "r"(r1) : "memory");
    return r0;
}

void semihosting_print(const char *text) { call(SYS_WRITE0, text); }

void semihosting_print_number(const char *name, unsigned long number) {
    char digits[12] = {0};
    int at = 10;
    digits[at] = '\n';
    do {
        digits[--at] = (char)('0' + number % 10);
        number /= 10;
    } while (number > 0);
    semihosting_print(name);
    semihosting_print(" ");
    semihosting_print(digits + at);
}

void semihosting_exit(int code) {
    const int reason_and_code[2] = {ADP_STOPPED_APPLICATION_EXIT, code};
    call(SYS_EXIT_EXTENDED, reason_and_code);
    for (;;) {
    }
}
