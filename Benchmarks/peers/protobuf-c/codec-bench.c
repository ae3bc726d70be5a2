// What protobuf-c itself takes, used as a C program would: codec-bench of the Swift library beside
// it. `codec-bench FILE small|large encode|decode SECONDS`.
//
// Encoding makes a buffer of the message's size, as the others do; decoding frees what it made.

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "echo.pb-c.h"
#include "report.pb-c.h"

static uint8_t bytes[65536];
static size_t bytes_count;
static Echo__EchoMsg *small;
static Report__Build *large;

static long first(const char *text) { return (unsigned char)text[0]; }

static long encode_small(void) {
  size_t size = echo__echo_msg__get_packed_size(small);
  uint8_t *buffer = malloc(size);
  size = echo__echo_msg__pack(small, buffer);
  // Seen by nobody else: without this the compiler could do without the buffer.
  __asm__ volatile("" : : "r"(buffer) : "memory");
  free(buffer);
  return (long)size;
}

static long decode_small(void) {
  Echo__EchoMsg *message = echo__echo_msg__unpack(NULL, bytes_count, bytes);
  long sum = (long)message->id + first(message->name);
  if (message->n_values > 0) sum += message->values[message->n_values - 1];
  if (message->blob.len > 0) sum += message->blob.data[message->blob.len - 1];
  echo__echo_msg__free_unpacked(message, NULL);
  return sum;
}

static long encode_large(void) {
  size_t size = report__build__get_packed_size(large);
  uint8_t *buffer = malloc(size);
  size = report__build__pack(large, buffer);
  __asm__ volatile("" : : "r"(buffer) : "memory");
  free(buffer);
  return (long)size;
}

static long decode_large(void) {
  Report__Build *message = report__build__unpack(NULL, bytes_count, bytes);
  long sum = first(message->title) + (long)message->n_counters;
  if (message->n_steps > 0) {
    const Report__Step *step = message->steps[message->n_steps - 1];
    sum += (long)step->id + first(step->name);
    if (step->n_samples > 0) sum += step->samples[step->n_samples - 1];
    if (step->n_labels > 0) sum += first(step->labels[step->n_labels - 1]);
    if (step->machine) sum += first(step->machine->host) + step->machine->port;
  }
  report__build__free_unpacked(message, NULL);
  return sum;
}

// Nanoseconds of this thread's CPU: what else runs on the machine does not count.
static double now(void) {
  struct timespec time;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
  return (double)time.tv_sec * 1e9 + (double)time.tv_nsec;
}

static int measure(double seconds, long (*operation)(void)) {
  const int batch = 200;
  long sum = 0, total = 0, count = 0;
  for (int i = 0; i < batch; i++) sum = operation();
  double began = now(), ended = began;
  while (ended < began + seconds * 1e9) {
    for (int i = 0; i < batch; i++) total += operation();
    count += batch;
    ended = now();
  }
  if (total != sum * count) {
    fprintf(stderr, "Not every operation came to the same\n");
    return 1;
  }
  printf("%f %ld\n", (ended - began) / (double)count, sum);
  return 0;
}

int main(int argc, char **argv) {
  if (argc != 5) {
    fprintf(stderr, "usage: codec-bench FILE small|large encode|decode SECONDS\n");
    return 1;
  }
  FILE *file = fopen(argv[1], "rb");
  if (!file) {
    perror(argv[1]);
    return 1;
  }
  bytes_count = fread(bytes, 1, sizeof bytes, file);
  fclose(file);
  int is_large = strcmp(argv[2], "large") == 0, decodes = strcmp(argv[3], "decode") == 0;
  if (is_large)
    large = report__build__unpack(NULL, bytes_count, bytes);
  else
    small = echo__echo_msg__unpack(NULL, bytes_count, bytes);
  if (!large && !small) {
    fprintf(stderr, "%s: not the message it should be\n", argv[1]);
    return 1;
  }
  return measure(atof(argv[4]), is_large ? (decodes ? decode_large : encode_large)
                                         : (decodes ? decode_small : encode_small));
}
