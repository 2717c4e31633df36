/* SPDX-License-Identifier: MIT */
/* Measures one policy on this machine, one observation at a time, and prints a JSON object: benchmark POLICY
 *
 * Part of edgerl's benchmark bundle (docs/devices.md, "Measuring"). Linux, GCC or Clang, and no library but C's:
 *
 *     cc -std=c11 -O3 -ffp-contract=fast -fno-math-errno -o benchmark benchmark.c
 *
 * POLICY is laid out as edgerl/profiling/measuring/bundle.py writes it; all in it is checked. Exit codes: 0 measured, 64 no POLICY
 * was named, 65 it is damaged, 71 the system refused something.
 */
#define _GNU_SOURCE 1 /* to choose the processor */
#pragma GCC diagnostic ignored "-Wunused-function" /* of the engine's, this program uses a part */

#include "base.c"
#include "policy.c"

#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>
#include <time.h>

enum { NO_POLICY = 64, DAMAGED = 65, REFUSED = 71 };

#define LAYOUT_REPEATS 7u
#define DENSE_IS_SLOWER_BELOW 64u /* connections of as many positions: as edgerl.edge.policy */
#define LAYOUT_NS UINT64_C(1000000) /* how long one repeat may take; where one observation takes longer, it is one */
#define WARM_UP_NS UINT64_C(200000000)
#define MEASURED_NS UINT64_C(1000000000)
#define FEWEST_CALLS 100u
#define MOST_CALLS 20000u
#define CLOCK_READINGS 1001u
#define COLD_CALLS 31u
#define CACHE_LINE 32u /* bytes; the smallest there is */
#define LEAST_EVICTED (UINT64_C(8) << 20)
#define MOST_EVICTED (UINT64_C(64) << 20)
#define LARGEST_FILE (UINT64_C(1) << 31)

/* ---------------------------------------------------------------------------------------------- what goes wrong */

_Noreturn static void leave(int code, const char *what) {
    fprintf(stderr, "edgerl-benchmark: %s\n", what);
    exit(code);
}

static void check_status(int32_t status) {
    if (status != EDGERL_OK) {
        leave(DAMAGED, edgerl_status_text(status));
    }
}

static void *allocate(uint64_t bytes) {
    void *memory = NULL;
    if (bytes > SIZE_MAX / 2 || posix_memalign(&memory, EDGERL_ALIGNMENT, bytes ? (size_t)bytes : 1) != 0) {
        leave(REFUSED, "this machine has too little memory for the policy");
    }
    return memory;
}

/* ---------------------------------------------------------------------------------------------- the policy */

typedef struct policy_header {
    char magic[16];  /* "edgerl policy 2\n" */
    char sha256[64]; /* of policy.safetensors, hexadecimal */
    uint32_t n_layers, normalises;
    uint32_t n_measured; /* observations that are timed in turn */
    uint32_t n_checked;  /* the first ones, whose actions are printed */
    uint32_t head;       /* an edgerl_head */
    float clip;          /* 0: none */
} policy_header;

typedef struct layer_header {
    uint32_t n_inputs, n_outputs, block, n_blocks, is_sparse, activation;
    float norm_epsilon; /* 0: no norm */
} layer_header;

/* A policy file in memory; all pointers point into it. */
typedef struct model {
    policy_header header;
    edgerl_layer layers[EDGERL_MAX_LAYERS];
    edgerl_policy_config config;
    uint32_t n, m;             /* observations, actions */
    const float *observations; /* [n_measured][n] */
} model;

/* What is left of the file. */
typedef struct reader {
    const unsigned char *next;
    uint64_t left;
} reader;

/* The next array, of `count` items of `size` bytes; each array is padded to four bytes. No count exceeds 48 bits. */
static const void *take(reader *file, uint64_t count, uint64_t size) {
    const uint64_t bytes = round_up(count * size, 4);
    if (bytes > file->left) {
        leave(DAMAGED, "the policy is truncated; make the bundle again");
    }
    const void *array = file->next;
    file->next += bytes;
    file->left -= bytes;
    return array;
}

static reader read_file(const char *path) {
    FILE *file = fopen(path, "rb");
    if (file == NULL || fseek(file, 0, SEEK_END) != 0) {
        leave(DAMAGED, "the policy cannot be read; make the bundle again");
    }
    const long size = ftell(file);
    if (size < 0 || (uint64_t)size > LARGEST_FILE) {
        leave(DAMAGED, "the policy has an impossible size; make the bundle again");
    }
    unsigned char *bytes = allocate((uint64_t)size);
    rewind(file);
    if (fread(bytes, 1, (size_t)size, file) != (size_t)size) {
        leave(DAMAGED, "the policy cannot be read; make the bundle again");
    }
    fclose(file);
    return (reader){bytes, (uint64_t)size};
}

static edgerl_layer read_layer(reader *file) {
    layer_header h;
    memcpy(&h, take(file, 1, sizeof h), sizeof h);
    if ((h.block != 1 && h.block != 4) || h.n_inputs > EDGERL_MAX_UNITS || h.n_outputs > EDGERL_MAX_UNITS) {
        leave(DAMAGED, "a layer of the policy has an impossible shape; make the bundle again");
    }
    edgerl_layer layer = {
        .n_inputs = h.n_inputs,
        .n_outputs = h.n_outputs,
        .block = h.block,
        .n_blocks = h.n_blocks,
        .layout = EDGERL_DENSE_COLUMNS,
        .activation = (int32_t)h.activation,
        .norm_epsilon = h.norm_epsilon,
    };
    if (h.is_sparse) {
        layer.values = take(file, (uint64_t)h.n_blocks * h.block, sizeof(float));
        layer.columns = take(file, h.n_blocks, sizeof(uint16_t));
        layer.row_starts = take(file, (h.n_outputs + h.block - 1) / h.block + 1, sizeof(uint32_t));
    } else {
        layer.values = take(file, (uint64_t)h.n_inputs * h.n_outputs, sizeof(float));
    }
    layer.bias = take(file, h.n_outputs, sizeof(float));
    if (h.norm_epsilon != 0) {
        layer.norm_scale = take(file, h.n_outputs, sizeof(float));
        layer.norm_shift = take(file, h.n_outputs, sizeof(float));
    }
    return layer;
}

static void read_policy(const char *path, model *p) {
    reader file = read_file(path);
    memcpy(&p->header, take(&file, 1, sizeof p->header), sizeof p->header);
    const policy_header *h = &p->header;
    if (memcmp(h->magic, "edgerl policy 2\n", sizeof h->magic) != 0 || h->n_layers < 1 ||
        h->n_layers > EDGERL_MAX_LAYERS || h->n_measured < 1 || h->n_checked > h->n_measured) {
        leave(DAMAGED, "the policy is not one of this version; make the bundle again");
    }
    for (uint32_t i = 0; i < h->n_layers; i++) {
        p->layers[i] = read_layer(&file);
    }
    p->n = p->layers[0].n_inputs;
    p->m = p->layers[h->n_layers - 1].n_outputs;
    p->config = (edgerl_policy_config){
        .n_layers = h->n_layers, .isa = edgerl_isa_best(), .layers = p->layers, .head = (int32_t)h->head, .clip = h->clip};
    if (h->normalises) {
        p->config.mean = take(&file, p->n, sizeof(float));
        p->config.scale = take(&file, p->n, sizeof(float));
    }
    const float *first = take(&file, p->m, sizeof(float)), *second = take(&file, p->m, sizeof(float));
    p->config.centre = p->config.low = first;
    p->config.half_range = p->config.high = second;
    p->observations = take(&file, (uint64_t)h->n_measured * p->n, sizeof(float));
}

static void *build(const edgerl_policy_config *config, size_t *bytes) {
    check_status(edgerl_policy_bytes(config, bytes));
    void *arena = allocate(*bytes);
    check_status(edgerl_policy_init(config, arena, *bytes));
    return arena;
}

/* ---------------------------------------------------------------------------------------------- time */

static uint64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * UINT64_C(1000000000) + (uint64_t)t.tv_nsec;
}

static int by_size(const void *a, const void *b) {
    const uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}

static void sort(uint64_t *times, uint32_t count) { qsort(times, count, sizeof *times, by_size); }

/* The smallest time that `per_mille` of all are not above; `times` are sorted. */
static uint64_t quantile(const uint64_t *times, uint32_t count, uint32_t per_mille) {
    return times[((uint64_t)count * per_mille + 999) / 1000 - 1];
}

/* Keep the processor busy until its clock has risen. */
static void wake_up(void) {
    for (const uint64_t end = now_ns() + WARM_UP_NS; now_ns() < end;) {
    }
}

/* What reading the clock takes, ns: the median of many readings right after another. */
static uint64_t clock_cost(void) {
    uint64_t times[CLOCK_READINGS];
    for (uint32_t i = 0; i < CLOCK_READINGS; i++) {
        const uint64_t begin = now_ns();
        times[i] = now_ns() - begin;
    }
    sort(times, CLOCK_READINGS);
    return quantile(times, CLOCK_READINGS, 500);
}

static uint64_t less_clock(uint64_t time, uint64_t clock) { return time > clock ? time - clock : 0; }

/* ---------------------------------------------------------------------------------------------- layouts */

/* An arena that holds one layer in one layout. */
static void *build_layer(const edgerl_layer *layer, int32_t layout, int32_t isa) {
    edgerl_layer own = *layer;
    own.layout = layout;
    float *ones = allocate((uint64_t)own.n_outputs * sizeof(float));
    for (uint32_t i = 0; i < own.n_outputs; i++) {
        ones[i] = 1;
    }
    own.norm_scale = own.norm_shift = NULL;
    const edgerl_policy_config config = {.n_layers = 1, .isa = isa, .layers = &own, .centre = ones, .half_range = ones};
    size_t bytes = 0;
    void *arena = build(&config, &bytes);
    free(ones);
    return arena;
}

/* inputs [count][n_inputs] -> outputs [count][n_outputs]; the time, ns. */
static uint64_t run_layer(void *arena, const float *inputs, float *outputs, uint32_t count) {
    const uint64_t begin = now_ns();
    check_status(edgerl_policy_run_layer(arena, 0, inputs, outputs, count));
    return now_ns() - begin;
}

/* The median time for *count inputs, which become fewer where that takes long. */
static uint64_t time_layer(void *arena, const float *inputs, float *outputs, uint32_t *count) {
    run_layer(arena, inputs, outputs, 1); /* into the caches */
    const uint64_t affordable = LAYOUT_NS / (run_layer(arena, inputs, outputs, 1) + 1);
    *count = affordable >= *count ? *count : affordable > 1 ? (uint32_t)affordable : 1;
    uint64_t times[LAYOUT_REPEATS];
    for (uint32_t i = 0; i < LAYOUT_REPEATS; i++) {
        times[i] = run_layer(arena, inputs, outputs, *count) / *count;
    }
    sort(times, LAYOUT_REPEATS);
    return quantile(times, LAYOUT_REPEATS, 500);
}

static int is_too_sparse(const edgerl_layer *l) {
    const uint64_t positions = (uint64_t)l->n_inputs * l->n_outputs;
    return l->row_starts != NULL && (uint64_t)l->n_blocks * l->block * DENSE_IS_SLOWER_BELOW < positions;
}

/* Choose the fastest layout of a layer for these inputs [count][n_inputs]; outputs [count][n_outputs], activated: a norm before
 * that is left out, since only the zeros matter. */
static void choose_layout(edgerl_layer *layer, int32_t isa, const float *inputs, float *outputs, uint32_t count) {
    uint64_t best = UINT64_MAX;
    uint32_t timed = count;
    for (int32_t layout = is_too_sparse(layer); layout <= EDGERL_BLOCK_COLUMNS; layout++) { /* dense is 0 */
        void *arena = build_layer(layer, layout, isa);
        const uint64_t time = time_layer(arena, inputs, outputs, &timed);
        if (time < best) {
            best = time;
            layer->layout = layout;
        }
        free(arena);
    }
    void *arena = build_layer(layer, layer->layout, isa);
    run_layer(arena, inputs, outputs, count);
    free(arena);
    for (uint64_t i = 0; i < (uint64_t)count * layer->n_outputs; i++) {
        outputs[i] = layer->activation == EDGERL_RELU && outputs[i] < 0 ? 0 : activated(layer->activation, outputs[i]);
    }
}

/* Choose the layouts of all layers, with the activations that the observations lead to. */
static void choose_layouts(model *p) {
    const uint32_t count = p->header.n_measured;
    float *x = allocate((uint64_t)count * p->n * sizeof(float));
    for (uint64_t i = 0; i < (uint64_t)count * p->n; i++) {
        const uint64_t k = i % p->n;
        x[i] = p->config.mean ? (p->observations[i] - p->config.mean[k]) * p->config.scale[k] : p->observations[i];
    }
    for (uint32_t i = 0; i < p->header.n_layers; i++) {
        float *outputs = allocate((uint64_t)count * p->layers[i].n_outputs * sizeof(float));
        choose_layout(&p->layers[i], p->config.isa, x, outputs, count);
        free(x);
        x = outputs;
    }
    free(x);
}

/* ---------------------------------------------------------------------------------------------- the machine */

/* The first line of a file of the system, or nothing. */
static void read_line(const char *path, char *line, int size) {
    line[0] = 0;
    FILE *file = fopen(path, "r");
    if (file == NULL) {
        return;
    }
    if (fgets(line, size, file) == NULL) {
        line[0] = 0;
    }
    fclose(file);
    line[strcspn(line, "\n")] = 0;
}

static uint64_t read_number(const char *path) {
    char line[32];
    read_line(path, line, sizeof line);
    return strtoull(line, NULL, 10);
}

static uint64_t cpu_number(int cpu, const char *name) {
    char path[96];
    snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu%d/cpufreq/%s", cpu, name);
    return read_number(path);
}

/* Stay on the fastest processor that this process may use, of several the last, since the first serves interrupts; -1
 * where the system does not let us. */
static int pin(void) {
    cpu_set_t allowed;
    if (sched_getaffinity(0, sizeof allowed, &allowed) != 0) {
        return -1;
    }
    size_t chosen = 0;
    uint64_t fastest = 0;
    for (size_t cpu = 0; cpu < CPU_SETSIZE; cpu++) {
        const uint64_t khz = CPU_ISSET(cpu, &allowed) ? cpu_number((int)cpu, "cpuinfo_max_freq") : 0;
        if (CPU_ISSET(cpu, &allowed) && khz >= fastest) {
            chosen = cpu;
            fastest = khz;
        }
    }
    CPU_ZERO(&allowed);
    CPU_SET(chosen, &allowed);
    return sched_setaffinity(0, sizeof allowed, &allowed) == 0 ? (int)chosen : -1;
}

/* Bytes of the largest cache, as the system names it; 0 where it does not. */
static uint64_t largest_cache(int cpu) {
    uint64_t largest = 0;
    for (int index = 0; index < 8; index++) {
        char path[96], line[32], *end;
        snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu%d/cache/index%d/size", cpu < 0 ? 0 : cpu, index);
        read_line(path, line, sizeof line);
        uint64_t bytes = strtoull(line, &end, 10);
        bytes <<= *end == 'K' ? 10 : *end == 'M' ? 20 : 0;
        largest = bytes > largest ? bytes : largest;
    }
    return largest;
}

static uint64_t bytes_to_evict(int cpu) {
    const uint64_t twice = 2 * largest_cache(cpu);
    return twice < LEAST_EVICTED ? LEAST_EVICTED : twice > MOST_EVICTED ? MOST_EVICTED : twice;
}

/* What /proc/cpuinfo says under `key`, or nothing. */
static void read_cpuinfo(const char *key, char *value, size_t size) {
    char line[256];
    value[0] = 0;
    FILE *file = fopen("/proc/cpuinfo", "r");
    while (file != NULL && value[0] == 0 && fgets(line, sizeof line, file) != NULL) {
        const char *colon = strchr(line, ':');
        if (colon != NULL && strncmp(line, key, strlen(key)) == 0) {
            snprintf(value, size, "%s", colon + 1 + (colon[1] == ' '));
            value[strcspn(value, "\n")] = 0;
        }
    }
    if (file != NULL) {
        fclose(file);
    }
}

/* ---------------------------------------------------------------------------------------------- measuring */

typedef struct measurement {
    uint32_t calls;
    uint64_t *times; /* [calls], sorted, the clock's own time taken off; ns */
    uint64_t clock, cold, evicted;
} measurement;

static uint64_t time_call(void *arena, const float *observation, float *action) {
    const uint64_t begin = now_ns();
    check_status(edgerl_policy_act(arena, observation, action));
    return now_ns() - begin;
}

/* The observations in turn. */
static const float *observation_of(const model *p, uint64_t call) {
    return p->observations + call % p->header.n_measured * p->n;
}

/* How many calls to time, after as many that nobody times as warm the processor up. */
static uint32_t warm_up(void *arena, const model *p, float *action) {
    const uint64_t begin = now_ns();
    uint64_t calls = 0, elapsed = 0;
    do {
        check_status(edgerl_policy_act(arena, observation_of(p, calls), action));
        calls++;
        elapsed = now_ns() - begin;
    } while (elapsed < WARM_UP_NS || calls < p->header.n_measured);
    const uint64_t wanted = MEASURED_NS / (elapsed / calls + 1);
    return wanted < FEWEST_CALLS ? FEWEST_CALLS : wanted > MOST_CALLS ? MOST_CALLS : (uint32_t)wanted;
}

/* The median time of calls that each come after `bytes` of other data went through the caches. */
static uint64_t time_cold(void *arena, const model *p, uint64_t bytes, uint64_t clock, float *action) {
    volatile unsigned char *data = allocate(bytes);
    uint64_t times[COLD_CALLS];
    for (uint32_t call = 0; call < COLD_CALLS; call++) {
        for (uint64_t i = 0; i < bytes; i += CACHE_LINE) {
            data[i] = (unsigned char)call;
        }
        times[call] = less_clock(time_call(arena, observation_of(p, call), action), clock);
    }
    free((void *)data);
    sort(times, COLD_CALLS);
    return quantile(times, COLD_CALLS, 500);
}

static measurement measure(void *arena, const model *p, int cpu) {
    float *action = allocate((uint64_t)p->m * sizeof(float));
    measurement r = {.calls = warm_up(arena, p, action), .clock = clock_cost(), .evicted = bytes_to_evict(cpu)};
    r.times = allocate((uint64_t)r.calls * sizeof *r.times);
    memset(r.times, 0, (size_t)r.calls * sizeof *r.times); /* no page of it is new to the loop */
    for (uint32_t call = 0; call < r.calls; call++) {
        r.times[call] = less_clock(time_call(arena, observation_of(p, call), action), r.clock);
    }
    sort(r.times, r.calls);
    r.cold = time_cold(arena, p, r.evicted, r.clock, action);
    free(action);
    return r;
}

/* ---------------------------------------------------------------------------------------------- printing */

/* A text as JSON; what is not printable ASCII becomes a question mark. */
static void print_text(const char *name, const char *text) {
    printf("\"%s\": \"", name);
    for (; *text; text++) {
        const char c = *text;
        if (c == '"' || c == '\\') {
            putchar('\\');
        }
        putchar(c >= ' ' && c <= '~' ? c : '?');
    }
    putchar('"');
}

static void print_number(const char *name, uint64_t number) { printf(", \"%s\": %llu", name, (unsigned long long)number); }

static void print_machine(int cpu) {
    struct utsname system;
    char cpu_name[128], board[128], governor[64];
    if (uname(&system) != 0) {
        leave(REFUSED, "the system does not say what it is");
    }
    read_cpuinfo("model name", cpu_name, sizeof cpu_name);
    if (cpu_name[0] == 0) { /* as on aarch64 */
        read_cpuinfo("CPU part", cpu_name, sizeof cpu_name);
    }
    read_line("/proc/device-tree/model", board, sizeof board);
    char path[96];
    snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu%d/cpufreq/scaling_governor", cpu);
    read_line(path, governor, sizeof governor);
    printf("\"machine\": {");
    print_text("system", system.sysname);
    printf(", ");
    print_text("release", system.release);
    printf(", ");
    print_text("architecture", system.machine);
    printf(", ");
    print_text("cpu", cpu_name);
    printf(", ");
    print_text("board", board);
    printf(", ");
    print_text("governor", governor);
    printf(", \"pinned_to\": %d", cpu);
    print_number("mhz", cpu_number(cpu, "scaling_cur_freq") / 1000);
    printf("}");
}

/* The upper end of a time's bin: an octave has eight, and below 16 ns each is 1 ns wide. */
static uint64_t bin_end(uint64_t time) {
    uint32_t shift = 0;
    while (time >> shift >= 16) {
        shift++;
    }
    return (((time >> shift) + 1) << shift) - 1;
}

static void print_histogram(const measurement *r) {
    printf(", \"histogram\": [");
    for (uint32_t i = 0, count; i < r->calls; i += count) {
        const uint64_t end = bin_end(r->times[i]);
        for (count = 1; i + count < r->calls && r->times[i + count] <= end; count++) {
        }
        printf("%s[%llu, %u]", i ? ", " : "", (unsigned long long)end, count);
    }
    printf("]");
}

static void print_actions(void *arena, const model *p) {
    float *action = allocate((uint64_t)p->m * sizeof(float));
    printf(", \"actions\": [");
    for (uint32_t i = 0; i < p->header.n_checked; i++) {
        check_status(edgerl_policy_act(arena, observation_of(p, i), action));
        printf("%s[", i ? ", " : "");
        for (uint32_t k = 0; k < p->m; k++) {
            printf(is_finite(action[k]) ? "%s%.9g" : "%snull", k ? ", " : "", (double)action[k]);
        }
        printf("]");
    }
    printf("]");
    free(action);
}

static void print_engine(const model *p) {
    static const char *const isas[] = {"naive", "baseline", "avx2", "avx512"};
    static const char *const layouts[] = {"dense", "sparse", "block"};
    printf(", \"engine\": \"%s;", isas[p->config.isa]);
    for (uint32_t i = 0; i < p->header.n_layers; i++) {
        printf(" %s", layouts[p->layers[i].layout]);
    }
    printf("\"");
}

static void print_measurement(void *arena, const model *p, const measurement *r) {
    printf("{\"runtime\": \"c\"");
    print_engine(p);
#ifdef __clang__
    printf(", ");
    print_text("built_with", __VERSION__);
#else
    printf(", ");
    print_text("built_with", "GCC " __VERSION__);
#endif
    print_number("calls", r->calls);
    print_number("clock_ns", r->clock);
    print_number("p50_ns", quantile(r->times, r->calls, 500));
    print_number("p90_ns", quantile(r->times, r->calls, 900));
    print_number("p99_ns", quantile(r->times, r->calls, 990));
    print_number("max_ns", quantile(r->times, r->calls, 1000));
    print_number("cold_ns", r->cold);
    print_number("evicted_bytes", r->evicted);
    print_histogram(r);
    print_actions(arena, p);
    printf("}");
}

int main(int argc, char **argv) {
    static model p;
    if (argc != 2) {
        leave(NO_POLICY, "expected one argument, the policy: benchmark policy.bin");
    }
    read_policy(argv[1], &p);
    const int cpu = pin();
    size_t bytes = 0;
    check_status(edgerl_policy_bytes(&p.config, &bytes)); /* checks everything, before a layer is run alone */
    wake_up();
    choose_layouts(&p);
    void *arena = build(&p.config, &bytes);
    const measurement measured = measure(arena, &p, cpu);
    printf("{\"policy_sha256\": \"%.64s\", ", p.header.sha256);
    print_machine(cpu);
    printf(", \"measurements\": [");
    print_measurement(arena, &p, &measured);
    printf("]}\n");
    return fflush(stdout) == 0 ? 0 : REFUSED;
}
