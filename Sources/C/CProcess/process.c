#define _GNU_SOURCE
#include "CProcess.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

int millrace_spawn(
    pid_t *pid, char *const arguments[], char *const environment[], const int descriptors[],
    int count) {
  posix_spawn_file_actions_t actions;
  posix_spawnattr_t attributes;
  int error = posix_spawn_file_actions_init(&actions);
  if (error != 0) return error;
  error = posix_spawnattr_init(&attributes);
  if (error != 0) {
    posix_spawn_file_actions_destroy(&actions);
    return error;
  }
  // First above all of them, so that no target is overwritten before it was copied.
  int above = count;
  for (int i = 0; i < count; i++)
    if (descriptors[i] >= above) above = descriptors[i] + 1;
  for (int i = 0; i < count && error == 0; i++)
    error = posix_spawn_file_actions_adddup2(&actions, descriptors[i], above + i);
  for (int i = 0; i < count && error == 0; i++)
    error = posix_spawn_file_actions_adddup2(&actions, above + i, i);
  if (error == 0) error = posix_spawn_file_actions_addclosefrom_np(&actions, count);
  sigset_t all, none;
  sigfillset(&all);
  sigemptyset(&none);
  posix_spawnattr_setsigdefault(&attributes, &all);
  posix_spawnattr_setsigmask(&attributes, &none);
  posix_spawnattr_setflags(
      &attributes, POSIX_SPAWN_SETSIGDEF | POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSID);
  if (error == 0)
    error = posix_spawnp(pid, arguments[0], &actions, &attributes, arguments, environment);
  posix_spawnattr_destroy(&attributes);
  posix_spawn_file_actions_destroy(&actions);
  return error;
}

int millrace_condition_wait(
    pthread_cond_t *condition, pthread_mutex_t *mutex, long long nanoseconds) {
  struct timespec end;
  clock_gettime(CLOCK_MONOTONIC, &end);
  nanoseconds += end.tv_nsec;
  end.tv_sec += nanoseconds / 1000000000;
  end.tv_nsec = nanoseconds % 1000000000;
  return pthread_cond_timedwait(condition, mutex, &end);
}

int millrace_memory_file(const char *name) {
  int file = memfd_create(name, MFD_CLOEXEC);
  return file < 0 ? -errno : file;
}

int millrace_pipe(int ends[2], int size) {
  if (pipe2(ends, O_CLOEXEC) != 0) return errno;
  if (size > 0) (void)fcntl(ends[1], F_SETPIPE_SZ, size);
  return 0;
}
