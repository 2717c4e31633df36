/* @ABOUT@
 *
 * @NOTICE@
 *
 * A policy that acts and goes on learning, with @ALGORITHM@ on truly sparse networks, in one static block of memory: no malloc, no
 * stdio, no libm. memcpy and memset are asked for, and what the compiler itself needs (64-bit division, double precision).
 * The C file is C11 for GCC and Clang, little-endian, 32 or 64 bits; this header is C99 or C++. Compile with -O2 -ffp-contract=fast, which
 * -std=c11 would switch off: a quarter of an update's time.
 *
 *     edgerl_learner_init();                                at the start; then edgerl_learner_load, where something was saved
 *     edgerl_learner_explore(observation, action);          each period: act, read the sensors, tell what it led to …
 *     edgerl_learner_observe(observation, action, reward, next_observation, EDGERL_LEARNER_GOES_ON);
 *     edgerl_learner_step(20000, &complete);                … and learn in what is left of it, a slice at a time
 *     edgerl_learner_save(write, context, 1);               now and then, between two updates
 *
 * One thread calls them. edgerl_learner_act and edgerl_learner_explore alone may come from one interrupt (or another thread)
 * at any time while edgerl_learner_step or edgerl_learner_save runs; they never wait, and not both of them at once.
 *
 * Not here: a watched trial before what was learnt drives, as `edgerl learn` has it. Whoever needs one keeps the exported
 * policy beside this learner and chooses.
 */
#ifndef EDGERL_LEARNER_H
#define EDGERL_LEARNER_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define EDGERL_LEARNER_OBSERVATIONS @OBSERVATIONS@
#define EDGERL_LEARNER_ACTIONS @ACTIONS@
#define EDGERL_LEARNER_BATCH @BATCH@ /* transitions per update */
#define EDGERL_LEARNER_TRANSITIONS @CAPACITY@ /* that the replay memory keeps, the newest; @ROW@ bytes each in @PRECISION@ */
#define EDGERL_LEARNER_RAM @RAM@ /* bytes: networks and an update's scratch @ARENA@, replay @REPLAY@, the rest is counters */
#define EDGERL_LEARNER_SAVE @SAVE@ /* bytes that edgerl_learner_save writes at most; without transitions @SAVE_ALONE@ */

/* What the functions return. */
enum {
    EDGERL_LEARNER_OK = 0,
    EDGERL_LEARNER_WAITING = 1,    /* there are fewer transitions than a batch: nothing was done */
    EDGERL_LEARNER_BUSY = 2,       /* an update is under way: complete it first, by edgerl_learner_step */
    EDGERL_LEARNER_NOT_FINITE = 3, /* a number is NaN or infinite, or becomes so: nothing was changed or remembered */
    EDGERL_LEARNER_NOT_BEGUN = 4,  /* edgerl_learner_init has not been called, or failed */
    EDGERL_LEARNER_REFUSED = 5,    /* what was read is damaged, cut short, or of another learner */
    EDGERL_LEARNER_FAILED = 6      /* the callback returned something else than 0 */
};

/* How a transition ends. */
enum {
    EDGERL_LEARNER_GOES_ON = 0,
    EDGERL_LEARNER_TERMINATED = 1, /* what comes after it is worth nothing: it fell, it arrived */
    EDGERL_LEARNER_TRUNCATED = 2   /* the episode was cut here, and would have gone on */
};

/* Begin with what was exported. Takes some milliseconds; needs nothing before it. */
int edgerl_learner_init(void);

/* observation [EDGERL_LEARNER_OBSERVATIONS] -> action [EDGERL_LEARNER_ACTIONS], both in the robot's own units, the action
 * within its bounds. On every status but EDGERL_LEARNER_OK `action` is as it was: send what is safe. */
int edgerl_learner_act(const float observation[EDGERL_LEARNER_OBSERVATIONS], float action[EDGERL_LEARNER_ACTIONS]);

/* @EXPLORATION@ */
int edgerl_learner_explore(const float observation[EDGERL_LEARNER_OBSERVATIONS], float action[EDGERL_LEARNER_ACTIONS]);

/* Remember what an action led to; `end` is one of the three above. `action` is what was really sent. A call belongs to the
 * one before it: `observation` is that one's `next_observation`, unless it ended or was refused. */
int edgerl_learner_observe(const float observation[EDGERL_LEARNER_OBSERVATIONS],
                           const float action[EDGERL_LEARNER_ACTIONS], float reward,
                           const float next_observation[EDGERL_LEARNER_OBSERVATIONS], int end);

/* Go on with an update, or begin one, for about `work` multiply-adds; *complete (which may be null) tells whether it is done.
 * The result is the same bits however it is sliced. One update per transition is a good measure. */
int edgerl_learner_step(uint32_t work, int *complete);

/* Called with the bytes of a save, one piece after the other, of any size; 0 when it took (or gave) all of them. */
typedef int (*edgerl_learner_write)(void *context, const void *data, size_t bytes);
typedef int (*edgerl_learner_read)(void *context, void *data, size_t bytes);

/* Write all that was learnt; with its transitions, or (0) without them. Nothing changes, whatever the callback does. */
int edgerl_learner_save(edgerl_learner_write write, void *context, int with_transitions);

/* Take up what was saved by this very export. Read once, checked while it is read and before it counts. On every status but
 * EDGERL_LEARNER_OK the learner is what edgerl_learner_init makes of it. */
int edgerl_learner_load(edgerl_learner_read read, void *context);

typedef struct edgerl_learner_counters {
    uint64_t updates;      /* critic updates, those of the training included */
    uint64_t transitions;  /* that were remembered since edgerl_learner_init, saved ones included */
    uint64_t replaced;     /* blocks of connections that evolution dropped, and grew as many */
    uint64_t abandoned;    /* updates that met a number that is not finite, and changed nothing from there on */
    double critic_loss;    /* sums since the training began, and how many are in them */
    double actor_loss;
    uint64_t critic_losses, actor_losses;
    uint32_t saves;        /* of this learner, the one that it was loaded from included: the newer save has the larger */
    uint32_t refused;      /* transitions with a number that is not finite */
    uint32_t saturated;    /* numbers of observations that did not fit into fp16 */
    uint32_t is_updating;  /* an update is under way */
} edgerl_learner_counters;

int edgerl_learner_count(edgerl_learner_counters *counters);

#ifdef __cplusplus
}
#endif

#endif
