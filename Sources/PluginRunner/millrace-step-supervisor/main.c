// The parent of one step's (or one plugin's) processes: starts the program, and leaves none of its
// descendants behind.
//
//   millrace-step-supervisor [--chdir DIR] [--cgroups N] -- PROGRAM [ARGUMENT...]
//
// It is a program of its own, in C, because what happens between fork and exec must not touch the
// Swift runtime, and because it must outlive a runner that dies by SIGKILL for the moment it takes
// to clean up behind it.
//
// File descriptors: 0, 1, 2 are the program's. 3 is a stream socket to the runner. 4 is a file with
// the program's environment, NAME=VALUE and a zero each: LD_PRELOAD and its kin are a pipeline's to
// set, and must not reach what stands between a step and the machine. 5 ... 5+N-1 are `cgroup.procs`
// files, open for writing, that the program joins before it begins.
//
// The runner writes single letters to 3:
//   t  SIGTERM to the program's process group
//   k  SIGKILL to the whole tree
//   s  SIGKILL to everything but the program itself (between two calls of a plugin)
// and reads lines:
//   started PID
//   failed ERRNO STAGE                         the program never began
//   swept                                      each time that `s` has been done
//   exited CODE SIGNAL CPU_MICROS PEAK_BYTES   after the last descendant is gone
// When the runner's end of 3 closes, the tree is killed: a runner that dies takes its steps along.
//
// How nothing escapes: the supervisor is a child subreaper (or process 1 of a pid namespace), so
// every orphan below it, whatever sessions it made, becomes its child; it kills and reaps until
// it has no child left.

#define _GNU_SOURCE
#include "CProcess.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { CONTROL = 3, ENVIRONMENT = 4, FIRST_CGROUP = 5, MAXIMUM_CGROUPS = 8 };

// While the tree is being killed we look again this often, for a fork that raced with the scan.
enum { RESCAN_MILLISECONDS = 10 };

static pid_t program = -1;
static int program_status = 0;
static int program_ended = 0;
static int killing = 0;
static long long cpu_micros = 0;
static long long peak_bytes = 0;

static void say(const char *format, long long a, long long b, long long c, long long d) {
  char line[128];
  int length = snprintf(line, sizeof line, format, a, b, c, d);
  for (int done = 0; done < length;) {
    ssize_t n = send(CONTROL, line + done, (size_t)(length - done), MSG_NOSIGNAL);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return;  // The runner is gone; its end of the socket tells the main loop.
    done += (int)n;
  }
}

struct process {
  pid_t pid;
  pid_t parent;
  int ours;
};

// Parent of a process from /proc/PID/stat; the name in it may hold anything, so look behind the
// last parenthesis.
static pid_t parent_of(const char *pid) {
  char path[64], text[512];
  snprintf(path, sizeof path, "/proc/%.20s/stat", pid);
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0) return -1;
  ssize_t n = read(fd, text, sizeof text - 1);
  close(fd);
  if (n <= 0) return -1;
  text[n] = 0;
  char *end = strrchr(text, ')');
  int parent = -1;
  if (end == NULL || sscanf(end + 1, " %*c %d", &parent) != 1) return -1;
  return parent;
}

static struct process *table = NULL;
static size_t table_count = 0;
static size_t table_room = 0;

static int note(pid_t pid, pid_t parent) {
  if (table_count == table_room) {
    size_t larger = table_room == 0 ? 1024 : table_room * 2;
    struct process *moved = realloc(table, larger * sizeof *table);
    if (moved == NULL) return 0;
    table = moved;
    table_room = larger;
  }
  table[table_count++] = (struct process){.pid = pid, .parent = parent, .ours = 0};
  return 1;
}

// Kills those in the table that descend from us, except one (or -1).
static void kill_noted(pid_t spared) {
  pid_t self = getpid();
  for (int found = 1; found;) {
    found = 0;
    for (size_t i = 0; i < table_count; i++) {
      if (table[i].ours) continue;
      int ours = table[i].parent == self;
      for (size_t j = 0; !ours && j < table_count; j++)
        ours = table[j].ours && table[j].pid == table[i].parent;
      if (ours) table[i].ours = found = 1;
    }
  }
  for (size_t i = 0; i < table_count; i++)
    if (table[i].ours && table[i].pid != spared) kill(table[i].pid, SIGKILL);
}

// Where /proc lists processes, those with greater numbers behind: a process' place without its number.
// -1: not known yet.
static long long first_place = -1;

// Kills every descendant, except one (or -1).
static void kill_descendants(pid_t spared) {
  if (getpid() == 1 && spared < 0) {
    kill(-1, SIGKILL);
    return;
  }
  DIR *directory = opendir("/proc");
  if (directory == NULL) {
    if (program > 0 && program != spared && !program_ended) kill(-program, SIGKILL);
    return;
  }
  table_count = 0;
  long long next = -1;
  for (struct dirent *entry; (entry = readdir(directory)) != NULL; next = entry->d_off) {
    if (entry->d_name[0] < '1' || entry->d_name[0] > '9') continue;
    pid_t pid = (pid_t)atoi(entry->d_name);
    if (next >= 0) first_place = next - pid;
    if (!note(pid, parent_of(entry->d_name))) break;
  }
  closedir(directory);
  kill_noted(spared);
}

static long long now_milliseconds(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return time.tv_sec * 1000LL + time.tv_nsec / 1000000;
}

// The newest process of the system, looked at often enough to know that numbers have not begun anew
// in between: while they have not, `is_sure`.
static pid_t newest = -1;
static long long newest_time = 0;
static int is_sure = 0;
// How often it is yet looked at while nothing happens: after that the next sweep looks at everything.
enum { LOOKS = 25 };
static int looks_left = 0;

static void look_for_newest(void) {
  long long now = now_milliseconds();
  pid_t number = millrace_newest_process();
  is_sure = is_sure && number > 0 && number >= newest &&
            now - newest_time < millrace_newest_process_milliseconds();
  newest = number;
  newest_time = now;
}

// Kills every descendant except the program.
//
// A look at every process of the machine takes milliseconds, and most calls of a plugin start none.
// Whatever descends from the program and was not there at an earlier sweep has a number that was given
// out since, so only those are looked at; in their order, so that a parent that ended has left its
// children to us when they are. The earlier sweep is the last but one: a process has its number a
// moment before anybody can see it, so each number is looked at twice.
static void sweep(void) {
  static pid_t last = -1, last_but_one = -1;
  static DIR *directory = NULL;
  look_for_newest();
  pid_t since = is_sure ? last_but_one : -1;
  last_but_one = is_sure ? last : -1;
  last = newest;
  is_sure = newest > 0;
  looks_left = LOOKS;
  if (directory == NULL) directory = opendir("/proc");
  if (since <= 0 || first_place < 0 || directory == NULL) {
    kill_descendants(program);
    return;
  }
  table_count = 0;
  note(program, getpid());
  seekdir(directory, first_place + since + 1);
  for (struct dirent *entry; (entry = readdir(directory)) != NULL;) {
    pid_t pid = (pid_t)atoi(entry->d_name);
    // Greater ones are old, from before numbers began anew, or so new that the next sweep has them.
    if (pid > newest) break;
    if (pid > since) note(pid, parent_of(entry->d_name));
  }
  kill_noted(program);
}

// Reaps what has ended. Returns 0 when there is no child left.
static int reap(void) {
  for (;;) {
    int status;
    struct rusage usage;
    pid_t pid = wait4(-1, &status, WNOHANG, &usage);
    if (pid == 0) return 1;
    if (pid < 0) {
      if (errno == EINTR) continue;
      return 0;
    }
    cpu_micros += (usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) * 1000000LL +
                  usage.ru_utime.tv_usec + usage.ru_stime.tv_usec;
    if (usage.ru_maxrss * 1024LL > peak_bytes) peak_bytes = usage.ru_maxrss * 1024LL;
    if (pid == program) {
      program_status = status;
      program_ended = 1;
      killing = 1;  // What the program leaves behind ends with it.
    }
  }
}

// In the child, before exec: says over `report` which stage failed, and why.
static void fail(int report, int stage) {
  int words[2] = {errno, stage};
  ssize_t ignored = write(report, words, sizeof words);
  (void)ignored;
  _exit(127);
}

// The strings of the environment's file, or NULL.
static char **read_environment(void) {
  struct stat status;
  if (fstat(ENVIRONMENT, &status) != 0) return NULL;
  size_t size = (size_t)status.st_size, done = 0, count = 0;
  char *text = malloc(size + 1);
  if (text == NULL) return NULL;
  while (done < size) {
    ssize_t n = pread(ENVIRONMENT, text + done, size - done, (off_t)done);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return NULL;
    done += (size_t)n;
  }
  text[size] = 0;
  for (size_t i = 0; i < size; i++) count += text[i] == 0;
  char **strings = malloc((count + 1) * sizeof *strings);
  if (strings == NULL) return NULL;
  for (size_t i = 0; i < count; i++, text += strlen(text) + 1) strings[i] = text;
  strings[count] = NULL;
  return strings;
}

static void run_program(char **arguments, const char *folder, int cgroups, int report) {
  setsid();
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  for (int i = 0; i < cgroups; i++)
    if (write(FIRST_CGROUP + i, "0", 1) != 1) fail(report, 1);
  // When memory runs out the kernel shall pick the step, not its supervisor.
  int score = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);
  if (score >= 0) {
    ssize_t ignored = write(score, "500", 3);
    (void)ignored;
    close(score);
  }
  for (int number = 1; number < 65; number++) signal(number, SIG_DFL);
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, NULL);
  if (folder != NULL && chdir(folder) != 0) fail(report, 2);
  char **variables = read_environment();
  if (variables == NULL) fail(report, 4);
  environ = variables;
  execvp(arguments[0], arguments);
  fail(report, 3);
}

int main(int count, char **arguments) {
  const char *folder = NULL;
  int cgroups = 0, at = 1;
  for (; at < count && strcmp(arguments[at], "--") != 0; at += 2) {
    if (at + 1 < count && strcmp(arguments[at], "--chdir") == 0) {
      folder = arguments[at + 1];
    } else if (at + 1 < count && strcmp(arguments[at], "--cgroups") == 0) {
      cgroups = atoi(arguments[at + 1]);
    } else {
      at = count;
    }
  }
  if (at + 1 >= count || cgroups < 0 || cgroups > MAXIMUM_CGROUPS) {
    fprintf(stderr,
            "usage: millrace-step-supervisor [--chdir DIR] [--cgroups N] -- PROGRAM [ARGUMENT...]\n"
            "It is started by millrace-plugin-runner, with a socket as file descriptor 3 and the program's\n"
            "environment as 4.\n");
    return 2;
  }
  setsid();
  prctl(PR_SET_CHILD_SUBREAPER, 1);
  signal(SIGINT, SIG_IGN);
  signal(SIGTERM, SIG_IGN);
  signal(SIGHUP, SIG_IGN);
  signal(SIGPIPE, SIG_IGN);
  sigset_t children;
  sigemptyset(&children);
  sigaddset(&children, SIGCHLD);
  sigprocmask(SIG_BLOCK, &children, NULL);
  int signals = signalfd(-1, &children, SFD_CLOEXEC | SFD_NONBLOCK);
  int report[2];
  if (signals < 0 || pipe2(report, O_CLOEXEC) != 0) {
    say("failed %lld 0\n", errno, 0, 0, 0);
    return 126;
  }
  for (int fd = CONTROL; fd < FIRST_CGROUP + cgroups; fd++) fcntl(fd, F_SETFD, FD_CLOEXEC);

  program = fork();
  if (program == 0) run_program(arguments + at + 1, folder, cgroups, report[1]);
  if (program < 0) {
    say("failed %lld 0\n", errno, 0, 0, 0);
    return 126;
  }
  close(report[1]);
  for (int fd = ENVIRONMENT; fd < FIRST_CGROUP + cgroups; fd++) close(fd);
  int words[2];
  ssize_t n;
  do n = read(report[0], words, sizeof words);
  while (n < 0 && errno == EINTR);
  close(report[0]);
  if (n == (ssize_t)sizeof words) {
    waitpid(program, NULL, 0);
    say("failed %lld %lld\n", words[0], words[1], 0, 0);
    return 127;
  }
  say("started %lld\n", program, 0, 0, 0);
  // Only the program may hold its ends of the pipes, or the runner never sees their ends.
  int nothing = open("/dev/null", O_RDWR);
  if (nothing >= 0) {
    for (int fd = 0; fd < 3; fd++) dup2(nothing, fd);
    if (nothing > 2) close(nothing);
  }

  struct pollfd waits[2] = {{.fd = CONTROL, .events = POLLIN}, {.fd = signals, .events = POLLIN}};
  for (;;) {
    int looks = looks_left > 0 && !killing;
    int patience = looks ? (int)(millrace_newest_process_milliseconds() / 2) + 1 : -1;
    if (poll(waits, 2, killing ? RESCAN_MILLISECONDS : patience) == 0 && looks) {
      look_for_newest();
      looks_left--;
    }
    struct signalfd_siginfo information;
    while (read(signals, &information, sizeof information) > 0) continue;
    char command;
    ssize_t got = recv(CONTROL, &command, 1, MSG_DONTWAIT);
    if (got == 0 || (got < 0 && errno != EAGAIN && errno != EINTR)) {
      killing = 1;
      waits[0].fd = -1;  // Ended: poll it no more.
    } else if (got == 1) {
      if (command == 't' && !program_ended) {
        kill(-program, SIGTERM);
        kill(-program, SIGCONT);
      }
      if (command == 'k') killing = 1;
      if (command == 's') {
        sweep();
        say("swept\n", 0, 0, 0, 0);
      }
    }
    if (!reap()) break;
    if (killing) kill_descendants(-1);
  }
  int code = WIFEXITED(program_status) ? WEXITSTATUS(program_status) : -1;
  int number = WIFSIGNALED(program_status) ? WTERMSIG(program_status) : 0;
  say("exited %lld %lld %lld %lld\n", code, number, cpu_micros, peak_bytes);
  return 0;
}
