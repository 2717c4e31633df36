/* SPDX-License-Identifier: MIT */
/* A Linux program that runs an exported policy: its self-test, then an action for each line of observations on the input.

   aarch64-linux-gnu-gcc -O3 -static linux.c edgerl_policy.c -lm -o policy; echo "0.1 0.2 …" | ./policy */
#include "edgerl_policy.h"

#include <stdio.h>

int main(void) {
    if (edgerl_policy_self_test() != 0) {
        fputs("self-test: this machine computes something else\n", stderr);
        return 1;
    }
    float observation[EDGERL_POLICY_OBSERVATIONS], action[EDGERL_POLICY_ACTIONS];
    for (;;) {
        for (int i = 0; i < EDGERL_POLICY_OBSERVATIONS; i++) {
            if (scanf("%f", &observation[i]) != 1) {
                return 0;
            }
        }
        if (edgerl_policy(observation, action) != 0) {
            fputs("the policy refused its observation\n", stderr);
            return 2;
        }
        for (int i = 0; i < EDGERL_POLICY_ACTIONS; i++) {
            printf("%.9g%c", (double)action[i], i + 1 < EDGERL_POLICY_ACTIONS ? ' ' : '\n');
        }
    }
}
