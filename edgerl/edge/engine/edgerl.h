/* SPDX-License-Identifier: MIT */
/* edgerl: sparse reinforcement-learning policies on small machines.
 *
 * Freestanding C11: no malloc, no stdio, no libm, no mutable globals. The caller owns all memory: it asks how many bytes
 * an arena needs, provides them aligned to EDGERL_ALIGNMENT, and may copy, move or map them as bytes between two calls,
 * since an arena holds offsets and never pointers; a policy's on another machine only if that has the same instruction
 * sets. An arena belongs to one thread at a time, where nothing else is said: calls write in it. It is trusted; what comes
 * from elsewhere is checked by edgerl_learner_open.
 *
 * Functions return a status; where it is not EDGERL_OK, there is no result, and an arena that was to be built holds
 * nothing. Numbers are the machine's own float32 and integers; the shapes of arrays stand beside them in brackets, last
 * index fastest.
 */
#ifndef EDGERL_H
#define EDGERL_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* What stands before each function's declaration: a program that includes the engine's one file may make them static. */
#ifndef EDGERL_API
#define EDGERL_API
#endif

#define EDGERL_ALIGNMENT 64u    /* bytes; of an arena */
#define EDGERL_MAX_LAYERS 64u   /* affine layers of one network */
#define EDGERL_MAX_UNITS 65536u /* inputs or outputs of one layer: indices have 16 bits */

/* name, value, what it means */
#define EDGERL_STATUS_LIST(X)                                                                 \
    X(EDGERL_OK, 0, "done")                                                                   \
    X(EDGERL_BAD_ARGUMENT, 1, "a pointer is null, or a number is out of its range")           \
    X(EDGERL_BAD_SHAPE, 2, "a layer is empty or too wide, or two layers do not fit")          \
    X(EDGERL_BAD_INDEX, 3, "an index is out of range, not increasing, or there are too many") \
    X(EDGERL_NOT_FINITE, 4, "a number is NaN or infinite")                                    \
    X(EDGERL_ARENA_TOO_SMALL, 5, "the arena has too few bytes")                               \
    X(EDGERL_ARENA_MISALIGNED, 6, "the arena is not aligned to 64 bytes")                     \
    X(EDGERL_ARENA_INVALID, 7, "the arena holds no policy, or no learner")                    \
    X(EDGERL_TOO_LARGE, 8, "the arena would have more bytes than this machine can address")   \
    X(EDGERL_BUSY, 9, "an update is under way; complete it first")

typedef enum edgerl_status {
#define EDGERL_STATUS_VALUE(name, value, text) name = value,
    EDGERL_STATUS_LIST(EDGERL_STATUS_VALUE)
#undef EDGERL_STATUS_VALUE
} edgerl_status;

/* What a status means, in English; never null. */
EDGERL_API const char *edgerl_status_text(int32_t status);

/* Instruction sets, each including those before it. */
typedef enum edgerl_isa {
    EDGERL_ISA_NAIVE = 0,    /* plain C, the reference that all others are compared with */
    EDGERL_ISA_BASELINE = 1, /* vectors of four: SSE2 on x86-64, NEON on aarch64, scalar code elsewhere */
    EDGERL_ISA_AVX2 = 2,     /* with FMA */
    EDGERL_ISA_AVX512 = 3    /* F, VL, DQ and BW */
} edgerl_isa;

/* The best instruction set that this processor has. */
EDGERL_API int32_t edgerl_isa_best(void);

/* Whether this thread flushes denormals to zero from here on, in all code that it runs; learning and acting do so anyway. */
EDGERL_API int32_t edgerl_flush_denormals(int32_t wanted);

/* ---------------------------------------------------------------------------------------------------------------------
 * Policy: one observation to one action.
 *
 *     normalised = (observation - mean) * scale          (where they are given)
 *     action     = centre + half_range * tanh(W_L relu(... relu(W_1 normalised + b_1) ...) + b_L)
 */

/* How a layer's weights lie in the arena. Each is by input, and skips the inputs that are zero, as ReLU leaves half. */
typedef enum edgerl_layout {
    EDGERL_DENSE_COLUMNS = 0,  /* every weight: an input's column is added to all outputs */
    EDGERL_SPARSE_COLUMNS = 1, /* the connections of each input, with 16-bit output indices */
    EDGERL_BLOCK_COLUMNS = 2   /* the blocks of four outputs that an input is connected to: one index each */
} edgerl_layout;

/* What is done with the sums of a hidden layer: in a policy all of these, in a learner ReLU, ELU, SiLU or tanh. */
typedef enum edgerl_activation {
    EDGERL_RELU = 0,
    EDGERL_IDENTITY = 1,
    EDGERL_LEAKY_RELU = 2, /* of slope 0.01 */
    EDGERL_ELU = 3,
    EDGERL_SILU = 4,
    EDGERL_TANH = 5,
    EDGERL_SIGMOID = 6,
    EDGERL_GELU = 7, /* the exact one, within 1e-7 of x */
    EDGERL_GRU = 8,  /* recurrent cells: a layer of 4 u outputs, the sums of u units' gates, whose last u inputs are what it */
    EDGERL_LSTM = 9  /* gave for the last observation; the next layer is given u numbers (edgerl/policy/cell.py) */
} edgerl_activation;

/* How a policy's actions are made of its last layer's sums. */
typedef enum edgerl_head {
    EDGERL_HEAD_TANH = 0, /* centre + half_range * tanh(x) */
    EDGERL_HEAD_CLIP = 1,    /* x, but at least `low` and at most `high` */
    EDGERL_HEAD_GAUSSIAN = 2 /* as tanh; behind the n_actions sums there are as many logarithms of their deviations */
} edgerl_head;

/* One affine layer as the compact file has it (docs/format.md). */
typedef struct edgerl_layer {
    uint32_t n_inputs;
    uint32_t n_outputs;
    uint32_t block;             /* outputs per block, 1 or 4; of a dense layer: 1 */
    uint32_t n_blocks;          /* of a dense layer: 0 */
    int32_t layout;             /* an edgerl_layout: how to keep it, however it comes */
    const float *values;        /* dense: [n_outputs][n_inputs]; sparse: [n_blocks][block], where a last, narrower block
                                   is padded */
    const uint16_t *columns;    /* [n_blocks], strictly increasing in each block row; of a dense layer: null */
    const uint32_t *row_starts; /* [ceil(n_outputs / block) + 1]: block row r has blocks row_starts[r] up to
                                   row_starts[r + 1]; of a dense layer: null */
    const float *bias;          /* [n_outputs] */
    const float *norm_scale;    /* [n_outputs]: LayerNorm of the sums, before the activation; or null */
    const float *norm_shift;    /* [n_outputs], or null; both or neither */
    float norm_epsilon;         /* above 0, where there is a norm */
    int32_t activation;         /* an edgerl_activation; like the norm without a meaning in the last layer */
} edgerl_layer;

typedef struct edgerl_policy_config {
    uint32_t n_layers;
    int32_t isa; /* an edgerl_isa: the best one to use; a processor that lacks it uses the best it has */
    const edgerl_layer *layers;
    const float *mean;       /* [n_observations], or null */
    const float *scale;      /* [n_observations], or null; both or neither */
    const float *centre;     /* [n_actions]; of head clip: null */
    const float *half_range; /* [n_actions]; of head clip: null */
    const float *low;        /* [n_actions]; of head tanh: null */
    const float *high;       /* [n_actions]; of head tanh: null */
    int32_t head;            /* an edgerl_head */
    float clip;              /* normalised observations are clipped to [-clip, clip]; 0: they are not */
} edgerl_policy_config;

/* Bytes of the arena that `config` needs, into *bytes. Checks everything: what passes here can be built and run. */
EDGERL_API int32_t edgerl_policy_bytes(const edgerl_policy_config *config, size_t *bytes);

/* Build the policy in `arena` of `bytes` bytes; nothing of `config` is needed afterwards. */
EDGERL_API int32_t edgerl_policy_init(const edgerl_policy_config *config, void *arena, size_t bytes);

/* An episode begins: the state of all cells becomes zero, as it is in an arena that was just built. */
EDGERL_API int32_t edgerl_policy_reset(void *arena);

/* observation [n_observations] -> action [n_actions], each within centre ± half_range, or within low and high. Every action is NaN where a number
 * of the observation is NaN or infinite, or becomes infinite by normalisation. What cells would keep that is not finite is not kept: their state stays as it was. */
EDGERL_API int32_t edgerl_policy_act(void *arena, const float *observation, float *action);

/* The same with an action drawn from the distribution of a policy of head Gaussian; noise [n_actions]: standard normal
 * numbers. Of any other EDGERL_BAD_ARGUMENT. */
EDGERL_API int32_t edgerl_policy_sample(void *arena, const float *observation, const float *noise, float *action);

/* edgerl_policy_act with an observation and an action that lie in the arena, for callers to whom each argument costs time: the
 * byte offsets, from the arena's start, of [n_observations] floats to write and of [n_actions] floats to read. */
EDGERL_API int32_t edgerl_policy_windows(const void *arena, size_t *observation, size_t *action);
EDGERL_API int32_t edgerl_policy_act_in_place(void *arena);

/* Where in the arena the state of all cells lies, as a byte offset, and how many floats it is: to keep it and to put it back. */
EDGERL_API int32_t edgerl_policy_state_window(const void *arena, size_t *state, size_t *count);

/* One layer alone, without norm, activation and head, for `count` inputs one after the other: to measure it, or to compare it with
 * a reference. inputs [count][n_inputs of the layer] -> outputs [count][n_outputs of the layer] */
EDGERL_API int32_t edgerl_policy_run_layer(void *arena, uint32_t layer, const float *inputs, float *outputs, uint32_t count);

/* ------------------------------------------------------------------------------------------------------------------------
 * Learner: DS-TD3 (Sokar et al., IJCAI 2022) on truly sparse networks, with TD3 and Static-TD3 as special cases.
 *
 * Everything that learns lies in one arena: actor, two critics, their targets, Adam's moments, topologies and counters.
 * Its time and memory follow the number of connections. The replay memory is the caller's.
 */

#define EDGERL_LEARNER_UNITS 65535u                /* inputs or outputs of one of its layers */
#define EDGERL_LEARNER_WEIGHTS (UINT64_C(1) << 28) /* stored weights of one of its layers */
#define EDGERL_LEARNER_UPDATES (UINT64_C(1) << 53) /* updates that it can ever make; draws repeat after 2^32 */
#define EDGERL_LEARNER_LAYERS 9u                   /* affine layers of one network, at most: eight hidden ones and the output */

/* One layer: how many blocks it has. A layer that has all of them is dense and never evolves. */
typedef struct edgerl_layer_plan {
    uint32_t n_inputs;
    uint32_t n_outputs;
    uint32_t block;         /* outputs per block: 1 or 4 */
    uint32_t full_blocks;   /* blocks of full width */
    uint32_t narrow_blocks; /* blocks in the narrower last row, where n_outputs is no multiple of block */
} edgerl_layer_plan;

typedef enum edgerl_network { EDGERL_ACTOR = 0, EDGERL_CRITIC_1 = 1, EDGERL_CRITIC_2 = 2 } edgerl_network;

typedef enum edgerl_growth {
    EDGERL_GROWTH_RANDOM = 0,  /* SET: uniformly among the absent blocks */
    EDGERL_GROWTH_GRADIENT = 1 /* RigL: the absent blocks with the largest gradient */
} edgerl_growth;

/* What a weight is worth when connections are dropped. */
typedef enum edgerl_drop_criterion {
    EDGERL_DROP_MAGNITUDE = 0,       /* |w|, as SET */
    EDGERL_DROP_SCALED_MAGNITUDE = 1 /* |w| times its input's root mean square over the batch, as Wanda (Sun et al. 2023) prunes */
} edgerl_drop_criterion;

typedef enum edgerl_drop_schedule {
    EDGERL_DROP_CONSTANT = 0, /* the drop fraction at every evolution step */
    EDGERL_DROP_COSINE = 1    /* drop_fraction / 2 * (1 + cos(pi * update / last_update)) */
} edgerl_drop_schedule;

typedef enum edgerl_algorithm {
    EDGERL_TD3 = 0, /* Fujimoto et al. 2018: the actor gives actions */
    EDGERL_SAC = 1, /* Haarnoja et al. 2018, with an automatic temperature: the actor gives means, then logarithms of deviations */
    EDGERL_CROSSQ = 2, /* Bhatt et al. 2024: SAC whose networks have no targets, but batch norms */
    EDGERL_IMITATION = 3, /* supervised: an actor alone, with the critic's n_layers 0, learns to act as the rows of a replay do */
    EDGERL_CLIPPED_IMITATION = 4 /* the same of an actor whose actions are its outputs, cut to [-1, 1], instead of their tanh */
} edgerl_algorithm;

/* What is done with a hidden layer's sums, before its activation, or with what each layer is given. */
typedef enum edgerl_norm {
    EDGERL_NORM_NONE = 0,
    EDGERL_NORM_LAYER = 1, /* LayerNorm (Ba et al. 2016): each sample's units get mean 0 and variance 1, times a scale, plus a shift */
    EDGERL_NORM_BATCH = 2 /* batch renormalisation (Ioffe 2017) of every layer's inputs, of CrossQ */
} edgerl_norm;

typedef enum edgerl_optimiser {
    EDGERL_ADAM = 0, /* Kingma and Ba 2015; weight decay is added to the gradient */
    EDGERL_ADAMW = 1 /* Loshchilov and Hutter 2019: weight decay shrinks the weights, beside the step */
} edgerl_optimiser;

/* A network: its affine layers, and how it learns. */
typedef struct edgerl_network_plan {
    double learning_rate; /* 0 to 1 */
    uint32_t n_layers;    /* 2 to EDGERL_LEARNER_LAYERS; of the critic where there is none 0 */
    int32_t norm;         /* an edgerl_norm; an actor has no LayerNorm, and no network but of CrossQ a batch norm */
    uint32_t evolves;     /* 0: its topology never changes */
    edgerl_layer_plan layers[EDGERL_LEARNER_LAYERS];
} edgerl_network_plan;

typedef struct edgerl_learner_config {
    uint64_t seed;
    uint64_t evolution_interval; /* critic updates between evolution steps; 0: the topology never changes */
    uint64_t last_update;        /* no evolution from this update on; UINT64_MAX: learning never ends */
    uint64_t n_step_delay;       /* updates that bootstrap after one step before n_step comes in */
    uint32_t n_observations;     /* with n_actions at most EDGERL_LEARNER_UNITS */
    uint32_t n_actions;
    uint32_t batch;        /* transitions per update: 1 to 65536; 2 at least where there is a batch norm */
    uint32_t policy_delay; /* critic updates per actor update: at least 1 */
    uint32_t n_step;       /* rewards per return: 1 to 64 */
    uint32_t lanes; /* numbers in a vector: 1, 4, 8 or 16; activations are padded to it. edgerl_lanes() for this machine */
    int32_t isa;    /* an edgerl_isa: the best one to use */
    int32_t growth;
    int32_t drop_criterion;
    int32_t drop_schedule;
    int32_t optimiser;
    int32_t algorithm;
    int32_t activation; /* an edgerl_activation, of all networks' hidden layers: ReLU, ELU, SiLU or tanh */
    double discount, soft_update, weight_decay; /* each 0 to 1 */
    double first_moment_decay;                  /* Adam's beta 1: 0 up to, but not 1 */
    double dropout;       /* share of the critics' hidden units that a pass leaves out: 0 to 0.9; see docs/algorithm.md */
    double gradient_clip; /* L2 norm that the gradient of a whole network is cut to: above 0, finite; 0: it is not */
    double target_noise, target_noise_clip;     /* of TD3: 0 to 10, actions being in [-1, 1] */
    double initial_log_temperature;             /* of SAC: -100 to 100 */
    double target_entropy;                      /* of SAC, in nats: -1e6 to 1e6 */
    double drop_fraction; /* 0 to 1; above 0 a layer drops at least one block, if two can move: see docs/algorithm.md */
    edgerl_network_plan actor, critic;
} edgerl_learner_config;

/* How the numbers of a transition are stored. */
typedef enum edgerl_rows {
    EDGERL_ROWS_FLOAT32 = 0, /* float32 [2 n + m + 2]; of imitation [n + m] */
    EDGERL_ROWS_FLOAT16 = 1  /* binary16 [2 n + m], one more where that is odd; reward and boundary float32; of imitation [n + m] */
} edgerl_rows;

/* Transitions in a ring of `room` rows, the newest `capacity` of the `count` ever appended being in use. A row is
 * observation [n], action [m] in [-1, 1], next observation [n], reward, boundary: 0 the episode goes on, 1 it terminated,
 * 2 it was truncated, 3 a transition is missing. What imitates is given rows of observation [n] and action [m] alone. */
typedef struct edgerl_replay {
    const void *rows;  /* aligned to 4 bytes */
    uint64_t room;     /* >= capacity */
    uint64_t capacity; /* < 2^32 */
    uint64_t count;
    const float *mean;  /* [n] or null: observations are normalised, (x - mean) * scale */
    const float *scale; /* [n] or null; both or neither */
    int32_t format;     /* an edgerl_rows */
    uint32_t stride;    /* bytes from row to row, a multiple of 4; 0: they lie without gaps */
} edgerl_replay;

/* Where a learner's bytes go. */
typedef struct edgerl_learner_bytes_of {
    uint64_t total;
    uint64_t state;       /* what must be kept to go on: the arena's first bytes */
    uint64_t connections; /* state, transposed indices and acting copies: what follows the connections */
} edgerl_learner_bytes_of;

/* Where the arrays of one layer lie: byte offsets from the arena. N = full_blocks + narrow_blocks blocks, R = ceil(n_outputs /
 * block) rows of blocks; `real` is float. */
typedef struct edgerl_learner_layer {
    uint64_t starts;        /* uint32 [R + 1] */
    uint64_t columns;       /* uint16 [N] */
    uint64_t weight;        /* real [N][block] */
    uint64_t first_moment;  /* real [N][block] */
    uint64_t second_moment; /* real [N][block] */
    uint64_t target;        /* real [N][block]: of the connections that the online network has; 0, like all that follows of a
                               target: the network has none */
    uint64_t in_target;     /* uint32 [ceil(N / 32)]: bit i: whether block i is in the target's support */
    uint64_t extra_starts;  /* uint32 [R + 1]: the target's blocks that the online network lacks */
    uint64_t extra_columns; /* uint16 [N] */
    uint64_t extra_target;  /* real [N][block] */
    uint64_t bias;          /* real [R * block], like the three below */
    uint64_t bias_first_moment;
    uint64_t bias_second_moment;
    uint64_t bias_target;
    uint64_t norm; /* real [2][R * block], of a batch norm [2][n_inputs]: scales, then shifts; like the three below 0 where the
                      layer has no norm */
    uint64_t norm_first_moment;
    uint64_t norm_second_moment;
    uint64_t norm_target;
    uint64_t running; /* real [2][n_inputs]: means, then variances; 0 where the layer has no batch norm */
} edgerl_learner_layer;

typedef struct edgerl_learner_progress {
    uint64_t updates;          /* critic updates that are complete, or were abandoned */
    uint32_t evolution_is_due; /* the actor's, at its next update */
    uint32_t reserved;
    double critic_loss_sum; /* since it was last set to 0 */
    double actor_loss_sum;  /* the loss of an actor is minus the mean of Q1 */
    uint64_t critic_losses; /* how many are in the sum */
    uint64_t actor_losses;
    uint64_t abandoned; /* updates that met a loss or a gradient that is not finite, and changed nothing from there on */
    uint64_t replaced;  /* blocks that evolution dropped, and grew as many */
    double log_temperature, temperature_first_moment, temperature_second_moment; /* of SAC */
} edgerl_learner_progress;

/* A number that changes with the sizes of this header's structures, for callers that declare them anew. */
EDGERL_API uint32_t edgerl_layout_number(void);

/* Numbers in a vector of an instruction set on this machine. */
EDGERL_API uint32_t edgerl_lanes(int32_t isa);

/* Bytes of the arena that `config` needs. Checks the configuration. Takes 10 KiB of stack: meant for the workstation. */
EDGERL_API int32_t edgerl_learner_bytes(const edgerl_learner_config *config, edgerl_learner_bytes_of *bytes);

/* Begin to learn: draws topologies and weights. */
EDGERL_API int32_t edgerl_learner_begin(const edgerl_learner_config *config, void *arena, size_t bytes);

/* Take up an arena whose state bytes were copied or mapped from elsewhere, between two updates; nothing in it is trusted. On
 * every status but EDGERL_OK the arena holds no learner any more; EDGERL_BUSY: the bytes are of the midst of an update.
 * `config`: what holds from now on, null for what the bytes say; its plans and numbers of observations, actions and layers
 * must be theirs, everything else may differ: another machine has other `lanes`. */
EDGERL_API int32_t edgerl_learner_open(void *arena, size_t bytes, const edgerl_learner_config *config);

/* The configuration in the first `bytes` of a state that is not opened yet, checked: a header of some KiB, or all of it.
 * edgerl_learner_bytes says what arena it needs. */
EDGERL_API int32_t edgerl_learner_config_in(const void *state, size_t bytes, edgerl_learner_config *config);

/* The configuration that is in an arena. */
EDGERL_API int32_t edgerl_learner_config_of(const void *arena, edgerl_learner_config *config);

/* Where the arrays of a layer lie. Who writes there calls edgerl_learner_open afterwards. */
EDGERL_API int32_t edgerl_learner_layer_of(const void *arena, uint32_t network, uint32_t layer, edgerl_learner_layer *arrays);

EDGERL_API int32_t edgerl_learner_progress_of(const void *arena, edgerl_learner_progress *progress);
EDGERL_API int32_t edgerl_learner_set_progress(void *arena, const edgerl_learner_progress *progress);

/* Go on with an update, or begin one, for about `work` multiply-adds (none where it is 0); *complete tells whether it is done.
 * The result is the same bits however it was sliced. The batch is drawn and copied in the first slice: `replay` may change
 * between two, or be null in the others. `work` is a rough measure of time; not divided are: the drawing of a batch, a row of
 * a layer, and of each layer its gradient's norm, Adam's step, the pruning of its target, the drop and the growth of its topology. */
EDGERL_API int32_t edgerl_learner_update(void *arena, const edgerl_replay *replay, uint64_t work, int32_t *complete);

/* observation [n_observations] -> the actor's action [n_actions] in [-1, 1], without noise. Uses a copy of the actor that
 * changes only at the end of an update: one thread, or one interrupt, may act at any time while another one learns (two may
 * not act at once). It never waits. */
EDGERL_API int32_t edgerl_learner_action(void *arena, const float *observation, float *action);

/* The same with an action drawn from the distribution that SAC's actor gives; noise [n_actions]: standard normal numbers. Of a
 * deterministic policy EDGERL_BAD_ARGUMENT. */
EDGERL_API int32_t edgerl_learner_sample(void *arena, const float *observation, const float *noise, float *action);

#ifdef __cplusplus
}
#endif

#endif
