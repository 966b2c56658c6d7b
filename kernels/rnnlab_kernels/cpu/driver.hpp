// What a Program's generated stages use: sizes, contexts, barriers and the packing of weights.
//
// Legend: T time, B batch. A *virtual row* m is one batch row at one step of a chunk of steps; rows of one step stand
// side by side. Rows are ordered by length, so those still running at a step come first.
#pragma once
#include "core.hpp"

constexpr long TILE = 48;  // rows whose sums are kept at once: 12 KB with four accumulators, so they stay in L1
constexpr int MOST_PIECES = 25;

constexpr long vectors(long width) { return (width + VL - 1) / VL; }
// Every second row would fall on the same cache lines if rows were a multiple of 4 KB apart.
constexpr long LD(long width) {
  return vectors(width) * VL + (vectors(width) * VBYTES % 1024 == 0 ? VL : 0);
}
// How many vectors of columns a block takes, for a number of accumulators.
constexpr long per_block(long accumulators) { return accumulators >= 3 ? 1 : accumulators == 2 ? 2 : 4; }

struct BufferSize { long width; bool chunk; };
struct PanelSize { int matrix; long depth, width; long starts[MOST_PIECES]; int count; bool transposed; long per; };

struct Steps {  // [T, B, width] of the caller
  STORED* p;
  long t_stride, b_stride;
  __attribute__((always_inline)) STORED* at(long t, long b) const { return p + t * t_stride + b * b_stride; }
};

INLINE void pause_briefly() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}
extern "C" int sched_yield(void);

// Threads that share rows meet here after each stage.
struct Barrier {
  alignas(64) int waiting = 0;
  alignas(64) int round = 0;
  void wait(int parts) {
    const int now = __atomic_load_n(&round, __ATOMIC_ACQUIRE);
    if (__atomic_add_fetch(&waiting, 1, __ATOMIC_ACQ_REL) == parts) {
      __atomic_store_n(&waiting, 0, __ATOMIC_RELAXED);
      __atomic_store_n(&round, now + 1, __ATOMIC_RELEASE);
      return;
    }
    for (int spins = 0; __atomic_load_n(&round, __ATOMIC_ACQUIRE) == now; spins++)
      if (spins < 4000) pause_briefly();
      else sched_yield();
  }
};

INLINE VI lanes_below(long n) {
  VI index;
  for (long i = 0; i < VL; i++) index[i] = (Int)i;
  return index < (Int)n;
}

template <int inputs, int states, int outputs, int buffers, int panels>
struct Context {
  const Core* core;
  Steps in[inputs + 1], out[outputs + 1], initial[states + 1], final[states + 1];
  S* cur[states + 1];
  S* nxt[states + 1];
  S* restarted[states + 1];  // the gradients that resets send to the initial states
  S* buf[buffers + 1];
  const S* panel[panels + 1];
  S* tile;
  int *tm, *bm;  // the step and the batch row of each virtual row of the chunk
  long part, parts;  // this thread's share of each stage, where threads share rows
  Barrier* barrier;
  __attribute__((always_inline)) void wait() { if (parts > 1) barrier->wait((int)parts); }
};

#if defined(__clang__) || __GNUC__ >= 12
template <long... i> struct Indices {};
template <long n, long... i> struct Count : Count<n - 1, n - 1, i...> {};
template <long... i> struct Count<0, i...> { typedef Indices<i...> type; };
template <long... i> INLINE V interleave_low(V a, V b, Indices<i...>) {
  return __builtin_shufflevector(a, b, (i % 2 ? VL + i / 2 : i / 2)...);
}
template <long... i> INLINE V interleave_high(V a, V b, Indices<i...>) {
  return __builtin_shufflevector(a, b, (i % 2 ? VL + VL / 2 + i / 2 : VL / 2 + i / 2)...);
}
INLINE void transpose(V* rows) {  // a perfect shuffle, as often as VL has bits
  typename Count<VL>::type order;
  V other[VL];
  for (long round = 1; round < VL; round *= 2) {
    for (long i = 0; i < VL / 2; i++) {
      other[2 * i] = interleave_low(rows[i], rows[i + VL / 2], order);
      other[2 * i + 1] = interleave_high(rows[i], rows[i + VL / 2], order);
    }
    for (long i = 0; i < VL; i++) rows[i] = other[i];
  }
}
#else
INLINE void transpose(V* rows) {
  for (long i = 0; i < VL; i++)
    for (long j = 0; j < i; j++) { S x = rows[i][j]; rows[i][j] = rows[j][i]; rows[j][i] = x; }
}
#endif

// One block of a panel, [depth][count][here][VL], from a matrix whose element (k, column) stands at
// p[k * k_stride + column * c_stride].
static __attribute__((noinline)) void pack_block(S* panel, const STORED* p, long k_stride, long c_stride,
                                                 const PanelSize& size, long first, long here) {
  const long ld = size.count * here * VL;
  for (int piece = 0; piece < size.count; piece++)
    for (long q = 0; q < here; q++) {
      const long j = (first + q) * VL, n = size.width - j < VL ? size.width - j : VL;
      const STORED* from = p + (size.starts[piece] + j) * c_stride;
      S* to = panel + (piece * here + q) * VL;
      if (c_stride == 1) {
        for (long k = 0; k < size.depth; k++) store(to + k * ld, load(from + k * k_stride, n));
      } else if (k_stride == 1) {
        for (long k = 0; k < size.depth; k += VL) {
          V rows[VL];
          const long deep = size.depth - k < VL ? size.depth - k : VL;
          for (long i = 0; i < VL; i++) rows[i] = i < n ? load(from + i * c_stride + k, deep) : V{};
          transpose(rows);
          if (deep == VL) for (long i = 0; i < VL; i++) store(to + (k + i) * ld, rows[i]);
          else for (long i = 0; i < deep; i++) store(to + (k + i) * ld, rows[i]);
        }
      } else {
        for (long k = 0; k < size.depth; k++)
          for (long i = 0; i < VL; i++) to[k * ld + i] = i < n ? load_one(from + k * k_stride + i * c_stride) : 0;
      }
    }
}
