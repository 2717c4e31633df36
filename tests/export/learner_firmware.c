/* A robot whose sensors are arrays: learns from them with an exported learner, saves, loads. Runs on an emulated Cortex-M7
 * (files and arguments by semihosting) and on this machine. LIFE, a macro, says what to do; exit code 0: all of it went
 * as it should, else the number of the check that failed. */
#include "edgerl_learner.h"
#include "transitions.h" /* written by the test: FIRST, COUNT, UPDATES, FURTHER and the arrays */

#ifdef __ARM_EABI__

static intptr_t semihosting(uint32_t operation, const void *arguments) {
    register intptr_t r0 __asm__("r0") = (intptr_t)operation;
    register const void *r1 __asm__("r1") = arguments;
    __asm__ volatile("bkpt 0xab" : "+r"(r0) : "r"(r1) : "memory");
    return r0;
}

static int open_file(const char *name, uint32_t mode) {
    uint32_t length = 0;
    while (name[length] != 0) {
        length++;
    }
    const uint32_t arguments[3] = {(uint32_t)(uintptr_t)name, mode, length};
    return (int)semihosting(0x01, arguments);
}

static int move(uint32_t operation, int file, const void *data, size_t bytes) {
    const uint32_t arguments[3] = {(uint32_t)file, (uint32_t)(uintptr_t)data, (uint32_t)bytes};
    return semihosting(operation, arguments) == 0 ? 0 : -1;
}

static int write_file(void *file, const void *data, size_t bytes) { return move(0x05, *(const int *)file, data, bytes); }
static int read_file(void *file, void *data, size_t bytes) { return move(0x06, *(const int *)file, data, bytes); }

static void close_file(int file) {
    const uint32_t arguments[1] = {(uint32_t)file};
    (void)semihosting(0x02, arguments);
}

static int open_to_write(const char *name) { return open_file(name, 5); }
static int open_to_read(const char *name) { return open_file(name, 1); }

#else
#include <fcntl.h>
#include <unistd.h>

static int write_file(void *file, const void *data, size_t bytes) {
    return write(*(const int *)file, data, bytes) == (ssize_t)bytes ? 0 : -1;
}
static int read_file(void *file, void *data, size_t bytes) {
    return read(*(const int *)file, data, bytes) == (ssize_t)bytes ? 0 : -1;
}
static void close_file(int file) { close(file); }
static int open_to_write(const char *name) { return open(name, O_WRONLY | O_CREAT | O_TRUNC, 0600); }
static int open_to_read(const char *name) { return open(name, O_RDONLY); }

#endif

static int save(const char *name, int with_transitions) {
    int file = open_to_write(name);
    const int status = file < 0 ? -1 : edgerl_learner_save(write_file, &file, with_transitions);
    close_file(file);
    return status;
}

static int load(const char *name) {
    int file = open_to_read(name);
    const int status = file < 0 ? -1 : edgerl_learner_load(read_file, &file);
    close_file(file);
    return status;
}

static int observe(int first, int last) {
    for (int i = first; i < last; i++) {
        if (edgerl_learner_observe(OBSERVATIONS[i], ACTIONS[i], REWARDS[i], FOLLOWING[i], ENDS[i]) != EDGERL_LEARNER_OK) {
            return 0;
        }
    }
    return 1;
}

/* In slices of all sizes. */
static int learn(int updates) {
    uint32_t state = 1;
    while (updates > 0) {
        int complete = 0;
        state = state * 1664525u + 1013904223u;
        if (edgerl_learner_step(1 + (state >> 18), &complete) != EDGERL_LEARNER_OK) {
            return 0;
        }
        updates -= complete;
    }
    return 1;
}

static int write_actions(const char *name, int (*act)(const float *, float *)) {
    float actions[ACTED][EDGERL_LEARNER_ACTIONS];
    for (int i = 0; i < ACTED; i++) {
        if (act(OBSERVATIONS[i], actions[i]) != EDGERL_LEARNER_OK) {
            return 0;
        }
    }
    int file = open_to_write(name);
    const int status = write_file(&file, actions, sizeof actions);
    close_file(file);
    return status == 0;
}

static int go_on(const char *name) {
    return observe(FIRST, COUNT) && learn(FURTHER) && save(name, 1) == EDGERL_LEARNER_OK;
}

static int refuses(void) {
    const float infinite = OBSERVATIONS[0][0] / 0.0f;
    float observation[EDGERL_LEARNER_OBSERVATIONS], action[EDGERL_LEARNER_ACTIONS] = {7};
    int complete = 1;
    for (int i = 0; i < (int)EDGERL_LEARNER_OBSERVATIONS; i++) {
        observation[i] = OBSERVATIONS[0][i];
    }
    observation[0] = infinite;
    edgerl_learner_counters counters;
    return edgerl_learner_step(1, &complete) == EDGERL_LEARNER_WAITING && complete == 0 &&
           edgerl_learner_act(observation, action) == EDGERL_LEARNER_NOT_FINITE && action[0] == 7.0f &&
           edgerl_learner_observe(OBSERVATIONS[0], ACTIONS[0], infinite, FOLLOWING[0], 0) == EDGERL_LEARNER_NOT_FINITE &&
           edgerl_learner_observe(OBSERVATIONS[0], ACTIONS[0], 0, observation, 0) == EDGERL_LEARNER_NOT_FINITE &&
           edgerl_learner_count(&counters) == EDGERL_LEARNER_OK && counters.refused == 2 && counters.transitions == 0;
}

static int not_begun(void) {
    float action[EDGERL_LEARNER_ACTIONS];
    edgerl_learner_counters counters;
    return edgerl_learner_act(OBSERVATIONS[0], action) == EDGERL_LEARNER_NOT_BEGUN &&
           edgerl_learner_step(1, NULL) == EDGERL_LEARNER_NOT_BEGUN && save("nothing.bin", 1) == EDGERL_LEARNER_NOT_BEGUN &&
           edgerl_learner_count(&counters) == EDGERL_LEARNER_NOT_BEGUN &&
           edgerl_learner_observe(OBSERVATIONS[0], ACTIONS[0], 0, FOLLOWING[0], 0) == EDGERL_LEARNER_NOT_BEGUN;
}

static int first_life(void) {
    if (!not_begun()) {
        return 1;
    }
    if (edgerl_learner_init() != EDGERL_LEARNER_OK || !refuses() || edgerl_learner_init() != EDGERL_LEARNER_OK) {
        return 2;
    }
    if (!observe(0, FIRST) || !learn(UPDATES)) {
        return 3;
    }
    if (!write_actions("explored.bin", edgerl_learner_explore) || save("saved.bin", 1) != EDGERL_LEARNER_OK ||
        !write_actions("actions.bin", edgerl_learner_act)) {
        return 4;
    }
    if (!go_on("uninterrupted.bin")) {
        return 5;
    }
    if (edgerl_learner_step(1, NULL) != EDGERL_LEARNER_OK || save("nothing.bin", 1) != EDGERL_LEARNER_BUSY) {
        return 6;
    }
    return 0;
}

static int second_life(void) {
    if (load("saved.bin") != EDGERL_LEARNER_OK) {
        return 1;
    }
    return go_on("resumed.bin") ? 0 : 2;
}

/* The learner is what it was at first. */
static int after_damage(void) {
    const int status = load("saved.bin");
    if (status != EDGERL_LEARNER_REFUSED && status != EDGERL_LEARNER_FAILED) {
        return 1;
    }
    return save("initial.bin", 1) == EDGERL_LEARNER_OK ? 0 : 2;
}

int main(void) {
    static int (*const LIVES[])(void) = {first_life, second_life, after_damage};
    return LIVES[LIFE]();
}
