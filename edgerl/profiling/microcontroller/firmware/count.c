/* SPDX-License-Identifier: MIT */
/* A plugin for QEMU's translator (API version 1): how often each instruction was executed between two marks.

   Declarations of its own, since distributions ship none; they are those of qemu-plugin.h.
   -plugin count.so,out=FILE,begin=ADDRESS,end=ADDRESS,skip=ADDRESS-ADDRESS,… writes "address executions left" a line,
   where `left` is how often the next instruction was another than the one behind it, and "call instructions" for each
   pass between the marks. What lies in a skipped range [first, last) does not count. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct qemu_plugin_tb;
struct qemu_plugin_insn;
typedef uint64_t plugin_id;
size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *);
struct qemu_plugin_insn *qemu_plugin_tb_get_insn(const struct qemu_plugin_tb *, size_t);
uint64_t qemu_plugin_insn_vaddr(const struct qemu_plugin_insn *);
size_t qemu_plugin_insn_size(const struct qemu_plugin_insn *);
void qemu_plugin_register_vcpu_tb_trans_cb(plugin_id, void (*)(plugin_id, struct qemu_plugin_tb *));
void qemu_plugin_register_vcpu_insn_exec_cb(struct qemu_plugin_insn *, void (*)(unsigned, void *), int, void *);
void qemu_plugin_register_atexit_cb(plugin_id, void (*)(plugin_id, void *), void *);

int qemu_plugin_version = 1;

typedef struct {
    uint64_t address, next, executions, left;
    int is_skipped;
} instruction;

enum { ROOM = 1 << 21 /* halfwords of 4 MiB of code */, RANGES = 8 };
static uint64_t skipped[RANGES][2];
static int ranges;
static instruction *code[ROOM];
static instruction *last;
static uint64_t begin, end, executed;
static int counting;
static FILE *out;

static void on_execution(unsigned cpu, void *which) {
    instruction *here = which;
    (void)cpu;
    if (here->address == begin) {
        counting = 1;
        executed = 0;
        last = NULL;
        return;
    }
    if (!counting) {
        return;
    }
    if (last && here->address != last->next) {
        last->left++;
    }
    if (here->address == end) {
        counting = 0;
        fprintf(out, "call %llu\n", (unsigned long long)executed);
        return;
    }
    if (here->is_skipped) {
        last = NULL;
        return;
    }
    here->executions++;
    executed++;
    last = here;
}

static int is_skipped(uint64_t address) {
    for (int i = 0; i < ranges; i++) {
        if (skipped[i][0] <= address && address < skipped[i][1]) {
            return 1;
        }
    }
    return 0;
}

static void on_translation(plugin_id id, struct qemu_plugin_tb *block) {
    (void)id;
    for (size_t i = 0; i < qemu_plugin_tb_n_insns(block); i++) {
        struct qemu_plugin_insn *translated = qemu_plugin_tb_get_insn(block, i);
        const uint64_t address = qemu_plugin_insn_vaddr(translated);
        instruction **place = &code[(address >> 1) % ROOM];
        if (!*place) {
            *place = calloc(1, sizeof **place);
            (*place)->address = address;
            (*place)->next = address + qemu_plugin_insn_size(translated);
            (*place)->is_skipped = is_skipped(address);
        }
        qemu_plugin_register_vcpu_insn_exec_cb(translated, on_execution, 0, *place);
    }
}

static void at_exit(plugin_id id, void *unused) {
    (void)id, (void)unused;
    for (size_t i = 0; i < ROOM; i++) {
        if (code[i] && code[i]->executions) {
            fprintf(out, "%llx %llu %llu\n", (unsigned long long)code[i]->address,
                    (unsigned long long)code[i]->executions, (unsigned long long)code[i]->left);
        }
    }
    fclose(out);
}

int qemu_plugin_install(plugin_id id, const void *info, int argc, char **argv) {
    (void)info;
    for (int i = 0; i < argc; i++) {
        if (!strncmp(argv[i], "out=", 4)) {
            out = fopen(argv[i] + 4, "w");
        } else if (!strncmp(argv[i], "begin=", 6)) {
            begin = strtoull(argv[i] + 6, NULL, 16);
        } else if (!strncmp(argv[i], "end=", 4)) {
            end = strtoull(argv[i] + 4, NULL, 16);
        } else if (!strncmp(argv[i], "skip=", 5) && ranges < RANGES) {
            char *dash;
            skipped[ranges][0] = strtoull(argv[i] + 5, &dash, 16);
            skipped[ranges++][1] = strtoull(dash + 1, NULL, 16);
        }
    }
    if (!out || !begin || !end) {
        return 1;
    }
    qemu_plugin_register_vcpu_tb_trans_cb(id, on_translation);
    qemu_plugin_register_atexit_cb(id, at_exit, NULL);
    return 0;
}
