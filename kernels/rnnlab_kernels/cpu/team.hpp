// Threads, the barrier at which they meet, and scratch memory.
#pragma once

#include <stdlib.h>
#include <unistd.h>
#if defined(_OPENMP)
#include <omp.h>
#endif
#if defined(__linux__)
#include <sys/mman.h>
#endif

extern "C" int sched_yield(void);

INLINE void pause_briefly() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

struct Barrier {
  alignas(64) int waiting = 0;
  alignas(64) int round = 0;
};

static void meet(Barrier* barrier, int parts) {
  const int now = __atomic_load_n(&barrier->round, __ATOMIC_ACQUIRE);
  if (__atomic_add_fetch(&barrier->waiting, 1, __ATOMIC_ACQ_REL) == parts) {
    __atomic_store_n(&barrier->waiting, 0, __ATOMIC_RELAXED);
    __atomic_store_n(&barrier->round, now + 1, __ATOMIC_RELEASE);
    return;
  }
  for (int spins = 0; __atomic_load_n(&barrier->round, __ATOMIC_ACQUIRE) == now; spins++)
    if (spins < 4000) pause_briefly();
    else sched_yield();  // somebody else has the core that a thread of ours needs
}

// Calls body(context, part) for each part, on as many threads, and returns when all are done. Returns false, and
// calls nothing, where there are not so many threads.
static bool team(void (*body)(void*, int), void* context, int parts) {
#if defined(_OPENMP)
  int done = 0;
#pragma omp parallel num_threads(parts) reduction(+ : done)
  {
    if (omp_get_num_threads() == parts) {
      body(context, omp_get_thread_num());
      done = 1;
    }
  }
  return done == parts;
#else
  (void)body, (void)context;
  return parts == 0;
#endif
}

// Half of a core's second-level cache. A chunk of steps whose buffers fill it passes once over the weights before the
// loop; the other half is left to the weights of the loop.
static long half_of_l2() {
  static const long bytes = [] {
#if defined(_SC_LEVEL2_CACHE_SIZE)
    const long found = sysconf(_SC_LEVEL2_CACHE_SIZE);
#else
    const long found = 0;
#endif
    return found >= 512L << 10 && found <= 64L << 20 ? found / 2 : 384L << 10;
  }();
  return bytes;
}

// Takes memory piece by piece; with no memory it only counts.
struct Arena {
  char* memory;
  long used;
  template <typename E> E* take(long count) {
    E* at = memory ? (E*)(memory + used) : nullptr;
    used += (count * (long)sizeof(E) + 63) / 64 * 64;
    return at;
  }
};

// One block of memory is kept from call to call, so that the system need not map and clear it anew each time.
static char* kept = nullptr;
static long kept_bytes = 0;
static int kept_busy = 0;
constexpr long MOST_KEPT = 64L << 20, LARGE = 1L << 20, HUGE_PAGE = 2L << 20;

// Asks for large pages: memory that is new to the process is then mapped in a few faults and not in thousands.
static void prefer_large_pages(void* memory, long bytes) {
#if defined(__linux__)
  const uintptr_t first = ((uintptr_t)memory + HUGE_PAGE - 1) / HUGE_PAGE * HUGE_PAGE;
  const uintptr_t last = ((uintptr_t)memory + bytes) / HUGE_PAGE * HUGE_PAGE;
  if (last > first) madvise((void*)first, last - first, MADV_HUGEPAGE);
#else
  (void)memory, (void)bytes;
#endif
}

static char* fresh(long bytes) {
  void* memory = nullptr;
  if (posix_memalign(&memory, bytes >= LARGE ? HUGE_PAGE : 64, bytes)) return nullptr;
  prefer_large_pages(memory, bytes);
  return (char*)memory;
}

static char* take_memory(long bytes) {
  if (bytes <= MOST_KEPT && !__atomic_exchange_n(&kept_busy, 1, __ATOMIC_ACQUIRE)) {
    if (kept_bytes < bytes) {
      free(kept);
      const long rounded = bytes < LARGE ? bytes : (bytes + HUGE_PAGE - 1) / HUGE_PAGE * HUGE_PAGE;
      kept = fresh(rounded);
      kept_bytes = kept ? rounded : 0;
    }
    if (kept) return kept;
    __atomic_store_n(&kept_busy, 0, __ATOMIC_RELEASE);
  }
  return fresh(bytes);
}

static void give_memory(char* memory) {
  if (memory == kept) __atomic_store_n(&kept_busy, 0, __ATOMIC_RELEASE);
  else free(memory);
}
