/* SPDX-License-Identifier: MIT */
/* Philox, and sets of random numbers. */
#include "random.h"

EDGERL_INTERNAL void philox(const draws *d, uint32_t block, uint32_t words[4]) { philox_inline(d, block, words); }

EDGERL_INTERNAL void draw(const draws *d, uint32_t first, uint32_t count, uint32_t *words) {
    for (uint32_t i = 0; i < count; i += 4) {
        uint32_t four[4];
        philox(d, (first + i) / 4, four);
        for (uint32_t k = 0; k < 4 && i + k < count; k++) {
            words[i + k] = four[k];
        }
    }
}

/* Put the heap's element at `i` where it belongs among those below it. */
static void sift_down(uint32_t *values, uint32_t i, uint32_t count) {
    for (uint32_t child; (child = 2 * i + 1) < count; i = child) {
        if (child + 1 < count && values[child + 1] > values[child]) {
            child++;
        }
        if (values[i] >= values[child]) {
            return;
        }
        const uint32_t swap = values[i];
        values[i] = values[child];
        values[child] = swap;
    }
}

EDGERL_INTERNAL void sort_ascending(uint32_t *values, uint32_t count) {
    for (uint32_t i = count / 2; i-- > 0;) {
        sift_down(values, i, count);
    }
    for (uint32_t last = count; last-- > 1;) {
        const uint32_t swap = values[0];
        values[0] = values[last];
        values[last] = swap;
        sift_down(values, 0, last);
    }
}

#define SET_EMPTY UINT32_MAX

EDGERL_INTERNAL uint32_t set_slots(uint32_t count) {
    uint32_t slots = 4;
    while (slots < 2 * count) {
        slots *= 2;
    }
    return slots;
}

/* Add to a hash set, open addressing; 0 where it was in there already. */
static int set_add(uint32_t *set, uint32_t slots, uint32_t value) {
    uint32_t at = (value * 0x9E3779B1u) & (slots - 1);
    for (; set[at] != SET_EMPTY; at = (at + 1) & (slots - 1)) {
        if (set[at] == value) {
            return 0;
        }
    }
    set[at] = value;
    return 1;
}

EDGERL_INTERNAL void sample_without_replacement(const draws *d, uint32_t count, uint32_t population, uint32_t *chosen,
                                                uint32_t *set) {
    const uint32_t slots = set_slots(count);
    for (uint32_t i = 0; i < slots; i++) {
        set[i] = SET_EMPTY;
    }
    uint32_t words[4] = {0, 0, 0, 0};
    for (uint32_t i = 0; i < count; i++) {
        if (i % 4 == 0) {
            philox(d, i / 4, words);
        }
        const uint32_t top = population - count + i;
        const uint32_t candidate = below(words[i % 4], (uint64_t)top + 1);
        if (set_add(set, slots, candidate)) {
            chosen[i] = candidate;
        } else {
            set_add(set, slots, top);
            chosen[i] = top;
        }
    }
    sort_ascending(chosen, count);
}
