// The part that all programs share (see core.hpp). MICRO_KERNELS, written by microkernels.py, is included here: for
// each number of rows and vectors, sums held in that many registers.
#include "simd.hpp"
#include "core.hpp"
#include <stdlib.h>
#if defined(_OPENMP)
#include <omp.h>
#endif
#if defined(__linux__)
#include <sys/mman.h>
#endif
#include MICRO_KERNELS

namespace {

template <int vectors> void gemm_vectors(const S* a, long lda, const S* panel, long ldp, long depth, S* c, long ldc,
                                         long rows, int accumulate) {
  // Blocks of nearly equal height: 16 rows are 6 + 5 + 5 and not 6 + 6 + 4.
  const long most = MOST_ROWS[vectors], blocks = (rows + most - 1) / most;
  for (long i = 0; i < blocks; i++) {
    const long first = rows * i / blocks, height = rows * (i + 1) / blocks - first;
    KERNELS[vectors][height](a + first * lda, lda, panel, ldp, depth, c + first * ldc, ldc, accumulate);
  }
}

void gemm(const S* a, long lda, const S* panel, long depth, long vectors, S* c, long ldc, long rows, int accumulate) {
  const long ldp = vectors * VL;
  while (vectors > 0) {
    const long now = vectors <= MOST_VECTORS ? vectors : vectors < 2 * MOST_VECTORS ? (vectors + 1) / 2 : MOST_VECTORS;
    switch (now) {
      case 4: gemm_vectors<4>(a, lda, panel, ldp, depth, c, ldc, rows, accumulate); break;
      case 3: gemm_vectors<3>(a, lda, panel, ldp, depth, c, ldc, rows, accumulate); break;
      case 2: gemm_vectors<2>(a, lda, panel, ldp, depth, c, ldc, rows, accumulate); break;
      default: gemm_vectors<1>(a, lda, panel, ldp, depth, c, ldc, rows, accumulate);
    }
    vectors -= now;
    panel += now * VL;
    c += now * VL;
  }
}

int team(void (*body)(void*, int), void* context, int parts) {
#if defined(_OPENMP)
  int done = 0;
#pragma omp parallel num_threads(parts) reduction(+ : done)
  {
    // In a pool that gives fewer threads than were asked for, those that came would wait for the others.
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

// One block of memory is kept from call to call, so that the system need not map and clear it anew each time.
char* kept = nullptr;
long kept_bytes = 0;
int kept_busy = 0;
constexpr long MOST_KEPT = 64L << 20, LARGE = 4L << 20;

void* fresh(long bytes) {
  void* memory = nullptr;
  if (posix_memalign(&memory, bytes >= LARGE ? 2L << 20 : 64, bytes)) return nullptr;
#if defined(__linux__)
  if (bytes >= LARGE) madvise(memory, bytes, MADV_HUGEPAGE);
#endif
  return memory;
}

void* take(long bytes) {
  if (bytes <= MOST_KEPT && !__atomic_exchange_n(&kept_busy, 1, __ATOMIC_ACQUIRE)) {
    if (kept_bytes < bytes) {
      free(kept);
      kept = (char*)fresh(bytes);
      kept_bytes = kept ? bytes : 0;
    }
    if (kept) return kept;
    __atomic_store_n(&kept_busy, 0, __ATOMIC_RELEASE);
  }
  return fresh(bytes);
}

void give(void* memory) {
  if (memory == kept) __atomic_store_n(&kept_busy, 0, __ATOMIC_RELEASE);
  else free(memory);
}

const Core core = {gemm, team, take, give};

}  // namespace

extern "C" __attribute__((visibility("default"))) const Core* rnnlab_core() { return &core; }
