// The routines that all Programs share, compiled once for each type of the arithmetic and of storage. MICRO_KERNELS,
// written by microkernels.py, is included here: for each number of rows and vectors, sums in that many registers.
#include "simd.hpp"
#include "program.hpp"
#include "team.hpp"
#include "pack.hpp"
#include MICRO_KERNELS

namespace {

// C[rows, vectors] (+)= A[rows, depth] panel[depth, vectors], where element (row, k) of A is a[row * lda + k * step].
template <int vectors> void multiply_vectors(const S* a, long lda, long step, const S* panel, long ldp, long depth,
                                             S* c, long ldc, long rows, Into into) {
  // Blocks of nearly equal height: 16 rows are 6 + 5 + 5 and not 6 + 6 + 4.
  const long most = MOST_ROWS[vectors], blocks = (rows + most - 1) / most;
  // The panel that follows this one in memory comes into L2 meanwhile, piece by piece.
  const char* ahead = (const char*)(panel + depth * ldp);
  for (long i = 0; i < blocks; i++) {
    const long first = rows * i / blocks, height = rows * (i + 1) / blocks - first;
    KERNELS[vectors][height](a + first * lda, lda, step, panel, ldp, depth, c + first * ldc, ldc, into, ahead);
    ahead += depth * 64;
  }
}

void multiply(const S* a, long lda, long step, const S* panel, long depth, long vectors, S* c, long ldc, long rows,
              Into into) {
  const long ldp = vectors * VL;
  while (vectors > 0) {
    const long now = vectors <= MOST_VECTORS ? vectors : vectors < 2 * MOST_VECTORS ? (vectors + 1) / 2 : MOST_VECTORS;
    switch (now) {
      case 4: multiply_vectors<4>(a, lda, step, panel, ldp, depth, c, ldc, rows, into); break;
      case 3: multiply_vectors<3>(a, lda, step, panel, ldp, depth, c, ldc, rows, into); break;
      case 2: multiply_vectors<2>(a, lda, step, panel, ldp, depth, c, ldc, rows, into); break;
      default: multiply_vectors<1>(a, lda, step, panel, ldp, depth, c, ldc, rows, into);
    }
    vectors -= now;
    panel += now * VL;
    c += now * VL;
  }
}

void gemm(const S* a, long lda, const S* panel, long depth, long vectors, S* c, long ldc, long rows, Into into) {
  multiply(a, lda, 1, panel, depth, vectors, c, ldc, rows, into);
}

#include "loop.hpp"
#include "contract.hpp"

}  // namespace

#define EXPORT extern "C" __attribute__((visibility("default")))

// arguments: T, B, threads, backwards, lengths, resets, sharing (0 as it pays, 1 by rows, 2 by columns), then an
// address, a step's stride and a row's stride for each input, initial state, output, final state and total.
EXPORT int rnnlab_run(const void* program, const int64_t* arguments) {
  return run_program(*(const Program*)program, arguments, (int)arguments[2]);
}

// See contract() for the arguments.
EXPORT int rnnlab_contract(const int64_t* arguments) { return contract(arguments, (int)arguments[2]); }

// See column_sums() for the arguments.
EXPORT int rnnlab_column_sums(const int64_t* arguments) { return column_sums(arguments, (int)arguments[2]); }
