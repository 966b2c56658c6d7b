// What a Program's generated stages use, and the table through which the shared routines (core.cpp) run them.
//
// Legend: T time, B batch. A *virtual row* m is one batch row at one step of a chunk of steps; rows of one step stand
// side by side. Rows are ordered by length, so those still running at a step come first.
#pragma once

constexpr long TILE = 48;  // rows whose sums are kept at once: 12 KB with four accumulators, so they stay in L1
constexpr int MOST_PIECES = 24;
constexpr int MOST_SUMS = 96;  // accumulators of one pass

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

INLINE VI lanes_below(long n) {
  VI index;
  for (long i = 0; i < VL; i++) index[i] = (Int)i;
  return index < (Int)n;
}

// What becomes of the sums: stored, begun from what is there, or begun from zero and added to it at the end.
enum Into : int { FRESH = 0, ONTO = 1, ADDED = 2 };

// C[rows, vectors] (+)= A[rows, depth] panel[depth, vectors]. Each sum runs over the depth in order, from the first to
// the last, so that a row's bits depend on nothing but the row.
typedef void Gemm(const S* a, long lda, const S* panel, long depth, long vectors, S* c, long ldc, long rows,
                  Into into);

struct Barrier;

// What a stage sees of a call. Each thread has its own; threads that share rows share the buffers.
struct Ctx {
  Gemm* gemm;
  Steps *in, *out, *initial, *final;
  S** cur;        // the states before a step
  S** nxt;        // and after it
  S** restarted;  // the gradients that resets send to the initial states
  S** buf;
  S* sums;        // of the totals: those of the last rows, and behind them those of all rows before
  S** total;      // where each total's sums of the last rows stand
  const S** panel;
  S* tile;
  int *tm, *bm;       // the step and the batch row of each virtual row of the chunk
  long part, parts;   // this thread's share of each stage, where threads share rows
  void (*meet)(Barrier*, int);
  Barrier* barrier;
  __attribute__((always_inline)) void wait() { if (parts > 1) meet(barrier, (int)parts); }
};

typedef void Phase(Ctx&, long m0, long m1);  // over virtual rows [m0, m1)

struct Program {
  int inputs, states, outputs, totals, buffers, panels;
  bool adjoint;
  bool outside;  // whether there are stages before or after the loop
  long flops;    // of one step and row
  const long *state_widths, *output_widths, *total_widths;
  const int* before;  // for each state, the output that holds it before a step where another holds it after, or -1
  const BufferSize* buffer_sizes;
  const PanelSize* panel_sizes;
  Phase *pre, *loop, *post;
};
