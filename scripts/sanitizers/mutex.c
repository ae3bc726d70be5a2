// Tells the thread sanitizer of the slow ways of Swift's `Mutex`, for `scripts/sanitize thread`.
//
// The standard library is not compiled for the sanitizer. A lock without contention is inlined into
// our code, where the sanitizer sees it; one with contention is a call into the library, where the
// kernel hands the lock over unseen, and what it guards looks unguarded. Preloaded, this stands
// before those two calls.

#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdint.h>

void __tsan_acquire(void *);
void __tsan_release(void *);

#define SELF __attribute__((swift_context)) void *self
typedef __attribute__((swiftcall)) void (*lock_slow_t)(uint32_t thread, SELF);
typedef __attribute__((swiftcall)) void (*unlock_slow_t)(SELF);

#define LOCK_SLOW "$s15Synchronization12_MutexHandleV9_lockSlowyys6UInt32VF"
#define UNLOCK_SLOW "$s15Synchronization12_MutexHandleV11_unlockSlowyyF"

__attribute__((swiftcall)) void lock_slow(uint32_t thread, SELF) __asm__(LOCK_SLOW);
__attribute__((swiftcall)) void unlock_slow(SELF) __asm__(UNLOCK_SLOW);

__attribute__((swiftcall)) void lock_slow(uint32_t thread, SELF) {
  ((lock_slow_t)dlsym(RTLD_NEXT, LOCK_SLOW))(thread, self);
  __tsan_acquire(self);
}

__attribute__((swiftcall)) void unlock_slow(SELF) {
  __tsan_release(self);
  ((unlock_slow_t)dlsym(RTLD_NEXT, UNLOCK_SLOW))(self);
}
