/* SPDX-License-Identifier: MIT */
/* Output and exit through the debugger, or QEMU with -semihosting: all that these programs need of a board. */
#ifndef SEMIHOSTING_H
#define SEMIHOSTING_H

void semihosting_print(const char *text);
void semihosting_print_number(const char *name, unsigned long number);

/* Ends the program; under QEMU with this exit code. */
void semihosting_exit(int code);

#endif
