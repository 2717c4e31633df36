/* Loaded before the C library (LD_PRELOAD): every operation on a file below a folder is counted, and one of them fails, or is
 * the last thing that its process did. Tests call `faulty_arm` first; until then nothing is counted.
 *
 * A write that fails has written half of its data, and so has one in which the process is killed. Other operations that
 * fail have had no effect. Nothing is really synced: this machine stays on. Files of TensorBoard, which a thread of its own writes, have no number; but where everything
 * fails from then on, they do too.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/types.h>
#include <unistd.h>

static char folder[4096];
static long count, fail_at;
static int fault; /* an errno; 0: SIGKILL */
static int is_lasting, is_failing;

/* Begin to count operations on files below `path`, an absolute one; number `at` (-1: none) fails with `code`. */
void faulty_arm(const char *path, long at, int code, int lasting) {
    snprintf(folder, sizeof folder, "%s/", path);
    count = 0;
    fail_at = at;
    fault = code;
    is_lasting = lasting;
    is_failing = 0;
}

/* Operations so far. */
long faulty_count(void) { return count; }

#define REAL(result, name, ...) ((result(*)(__VA_ARGS__))dlsym(RTLD_NEXT, #name))

static int is_ours(const char *path) {
    char here[4096] = "";
    if (folder[0] == 0) {
        return 0;
    }
    if (path[0] != '/') {
        if (getcwd(here, sizeof here - 1) == NULL) {
            return 0;
        }
        strcat(here, "/");
    }
    const size_t length = strlen(here);
    snprintf(here + length, sizeof here - length, "%s", path);
    return strncmp(here, folder, strlen(folder)) == 0;
}

static void path_of(int descriptor, char path[4096]) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
    const ssize_t length = readlink(link, path, 4095);
    path[length < 0 ? 0 : length] = 0;
}

enum { NEEDS_ROOM = 1, NO_ROOM = 2, WRITES = 3 };

/* Whether the operation on `path` is to fail. A process that is to be killed is killed here, in a write by `after_write`. */
static int fails(const char *path, int kind) {
    if (!is_ours(path)) {
        return 0;
    }
    int now = 0;
    if (strstr(path, ".tfevents.") == NULL) {
        now = count++ == fail_at;
        is_failing |= now;
    }
    if (now && fault == 0 && kind != WRITES) {
        kill(getpid(), SIGKILL);
    }
    errno = fault;
    return (now || (is_failing && is_lasting)) && (fault != ENOSPC || kind != NO_ROOM);
}

static int fd_fails(int descriptor, int kind) {
    char path[4096];
    path_of(descriptor, path);
    return path[0] == '/' && fails(path, kind); /* a pipe is not a file */
}

#define OPEN(name)                                                            \
    int name(const char *path, int flags, ...) {                              \
        va_list rest;                                                         \
        va_start(rest, flags);                                                \
        const mode_t mode = flags & O_CREAT ? va_arg(rest, mode_t) : 0;       \
        va_end(rest);                                                         \
        return fails(path, flags & O_CREAT ? NEEDS_ROOM : NO_ROOM) ? -1 : REAL(int, name, const char *, int, ...)(path, flags, mode); \
    }
OPEN(open)
OPEN(open64)

#define OPENAT(name)                                                          \
    int name(int at, const char *path, int flags, ...) {                      \
        va_list rest;                                                         \
        va_start(rest, flags);                                                \
        const mode_t mode = flags & O_CREAT ? va_arg(rest, mode_t) : 0;       \
        va_end(rest);                                                         \
        return fails(path, flags & O_CREAT ? NEEDS_ROOM : NO_ROOM) ? -1 : REAL(int, name, int, const char *, int, ...)(at, path, flags, mode); \
    }
OPENAT(openat)
OPENAT(openat64)

static ssize_t after_write(ssize_t written) {
    if (fault == 0) {
        kill(getpid(), SIGKILL);
    }
    errno = fault;
    return written < 0 ? written : -1;
}

ssize_t write(int descriptor, const void *data, size_t bytes) {
    const int failing = fd_fails(descriptor, WRITES);
    const ssize_t written = REAL(ssize_t, write, int, const void *, size_t)(descriptor, data, failing ? bytes / 2 : bytes);
    return failing ? after_write(written) : written;
}

#define PWRITE(name, offset_type)                                                                    \
    ssize_t name(int descriptor, const void *data, size_t bytes, offset_type offset) {               \
        const int failing = fd_fails(descriptor, WRITES);                                                 \
        const ssize_t written = REAL(ssize_t, name, int, const void *, size_t, offset_type)(         \
            descriptor, data, failing ? bytes / 2 : bytes, offset);                                  \
        return failing ? after_write(written) : written;                                             \
    }
PWRITE(pwrite, off_t)
PWRITE(pwrite64, off64_t)

ssize_t read(int descriptor, void *data, size_t bytes) {
    return fd_fails(descriptor, NO_ROOM) ? -1 : REAL(ssize_t, read, int, void *, size_t)(descriptor, data, bytes);
}

int fsync(int descriptor) {
    if (folder[0] == 0) {
        return REAL(int, fsync, int)(descriptor);
    }
    return fd_fails(descriptor, NEEDS_ROOM) ? -1 : 0;
}

int msync(void *memory, size_t bytes, int flags) { /* of the replay memory: nothing else is mapped to be written */
    if (folder[0] == 0) {
        return REAL(int, msync, void *, size_t, int)(memory, bytes, flags);
    }
    return fails(folder, NEEDS_ROOM) ? -1 : 0;
}

int posix_fallocate64(int descriptor, off64_t offset, off64_t bytes) {
    return fd_fails(descriptor, NEEDS_ROOM) ? fault : REAL(int, posix_fallocate64, int, off64_t, off64_t)(descriptor, offset, bytes);
}

int posix_fallocate(int descriptor, off_t offset, off_t bytes) {
    return fd_fails(descriptor, NEEDS_ROOM) ? fault : REAL(int, posix_fallocate, int, off_t, off_t)(descriptor, offset, bytes);
}

#define TWO_PATHS(name) \
    int name(const char *a, const char *b) { return fails(b, NEEDS_ROOM) ? -1 : REAL(int, name, const char *, const char *)(a, b); }
TWO_PATHS(rename)
TWO_PATHS(symlink)

#define ONE_PATH(name) \
    int name(const char *path) { return fails(path, NO_ROOM) ? -1 : REAL(int, name, const char *)(path); }
ONE_PATH(unlink)
ONE_PATH(rmdir)

int mkdir(const char *path, mode_t mode) { return fails(path, NEEDS_ROOM) ? -1 : REAL(int, mkdir, const char *, mode_t)(path, mode); }
