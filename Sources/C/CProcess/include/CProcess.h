// What starting processes needs and Swift's view of the C library leaves out.
#ifndef MILLRACE_CPROCESS_H
#define MILLRACE_CPROCESS_H

#include <pthread.h>
#include <sys/types.h>

// Starts a program, found through PATH, in a session of its own, with default signal handling. It
// gets exactly `count` descriptors: descriptors[0] as 0, and so on; every other one is closed.
// Returns 0 or an errno.
int millrace_spawn(
    pid_t *pid, char *const arguments[], char *const environment[], const int descriptors[],
    int count);

// pipe2 with O_CLOEXEC, of at least `size` bytes where that is allowed. Returns 0 or an errno.
int millrace_pipe(int ends[2], int size);

// Waits on a condition of the monotonic clock, no longer than so many nanoseconds. Returns 0, or
// ETIMEDOUT.
int millrace_condition_wait(
    pthread_cond_t *condition, pthread_mutex_t *mutex, long long nanoseconds);

// A nameless file in memory, to be read from its beginning; closed in programs that are started.
// Returns its descriptor, or the negative of an errno.
int millrace_memory_file(const char *name);

// The newest process or thread of this pid namespace: numbers are given out in ascending order until
// they begin anew. -1: the system does not say.
pid_t millrace_newest_process(void);

// For how long numbers cannot have come round to where they were, by how many there are: no system
// starts more than 200 processes in a millisecond.
long long millrace_newest_process_milliseconds(void);

// Bytes of the names of an open file's extended attributes: 0 where there are none. -1: they cannot be
// read.
long millrace_attribute_bytes(int file);

#endif
