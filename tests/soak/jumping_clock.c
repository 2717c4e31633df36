/* Loaded before the C library (LD_PRELOAD): clocks that jump, by `clock_jump`, as the wall clock does when it is set, and as
 * a monotonic one does where a suspended machine resumes and counts the time. Waits for a moment wait as long as they would.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdint.h>
#include <sys/time.h>
#include <time.h>

#define BILLION INT64_C(1000000000)

static _Atomic int64_t wall_ahead, monotonic_ahead; /* ns */

void clock_jump(int64_t wall_seconds, int64_t monotonic_seconds) {
    wall_ahead += wall_seconds * BILLION;
    monotonic_ahead += monotonic_seconds * BILLION;
}

#define REAL(result, name, ...) ((result(*)(__VA_ARGS__))dlsym(RTLD_NEXT, #name))

static int64_t ahead(clockid_t clock) {
    switch (clock) {
    case CLOCK_REALTIME:
    case CLOCK_REALTIME_COARSE:
        return wall_ahead;
    case CLOCK_MONOTONIC:
    case CLOCK_MONOTONIC_RAW:
    case CLOCK_MONOTONIC_COARSE:
    case CLOCK_BOOTTIME:
        return monotonic_ahead;
    default:
        return 0; /* the processor's time */
    }
}

static struct timespec moved(const struct timespec *time, int64_t by) {
    const int64_t all = time->tv_sec * BILLION + time->tv_nsec + by;
    const struct timespec result = {all / BILLION, all % BILLION};
    return result;
}

int clock_gettime(clockid_t clock, struct timespec *time) {
    const int status = REAL(int, clock_gettime, clockid_t, struct timespec *)(clock, time);
    if (status == 0) {
        *time = moved(time, ahead(clock));
    }
    return status;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
    struct timespec time;
    (void)zone;
    clock_gettime(CLOCK_REALTIME, &time);
    now->tv_sec = time.tv_sec;
    now->tv_usec = time.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *seconds) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (seconds != NULL) {
        *seconds = now.tv_sec;
    }
    return now.tv_sec;
}

int clock_nanosleep(clockid_t clock, int flags, const struct timespec *time, struct timespec *rest) {
    const struct timespec until = flags & TIMER_ABSTIME ? moved(time, -ahead(clock)) : *time;
    return REAL(int, clock_nanosleep, clockid_t, int, const struct timespec *, struct timespec *)(clock, flags, &until, rest);
}

int sem_clockwait(sem_t *semaphore, clockid_t clock, const struct timespec *time) {
    const struct timespec until = moved(time, -ahead(clock));
    return REAL(int, sem_clockwait, sem_t *, clockid_t, const struct timespec *)(semaphore, clock, &until);
}

int sem_timedwait(sem_t *semaphore, const struct timespec *time) {
    const struct timespec until = moved(time, -ahead(CLOCK_REALTIME));
    return REAL(int, sem_timedwait, sem_t *, const struct timespec *)(semaphore, &until);
}

int pthread_cond_timedwait(pthread_cond_t *condition, pthread_mutex_t *mutex, const struct timespec *time) {
    const struct timespec until = moved(time, -ahead(CLOCK_MONOTONIC)); /* the one that Python chooses */
    return REAL(int, pthread_cond_timedwait, pthread_cond_t *, pthread_mutex_t *, const struct timespec *)(condition, mutex,
                                                                                                           &until);
}
