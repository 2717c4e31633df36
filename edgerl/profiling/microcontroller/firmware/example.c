/* SPDX-License-Identifier: MIT */
/* A firmware that runs an exported policy: first its self-test, then a control loop of a hundred steps.

   Copy it beside the exported files. What is a robot's own is here a toy: observations that follow the actions. */
#include "edgerl_policy.h"
#include "semihosting.h"

static void read_observation(const float *action, float *observation) {
    for (int i = 0; i < EDGERL_POLICY_OBSERVATIONS; i++) { /* replace by sensors */
        observation[i] = 0.9f * observation[i] + 0.1f * action[i % EDGERL_POLICY_ACTIONS];
    }
}

int main(void) {
    static float observation[EDGERL_POLICY_OBSERVATIONS] = {0.1f}, action[EDGERL_POLICY_ACTIONS];

    if (edgerl_policy_self_test() != 0) {
        semihosting_print("self-test: this board computes something else\n");
        return 1;
    }
    semihosting_print("self-test: passed\n");

    for (unsigned long step = 0; step < 100; step++) { /* replace by: wait for the next period */
        read_observation(action, observation);
        if (edgerl_policy(observation, action) != 0) {
            semihosting_print("the policy refused its observation\n");
            return 2;
        }
    }
    semihosting_print_number("steps", 100);
    return 0;
}
