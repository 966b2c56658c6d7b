// What every generated program calls and none contains: the matrix product of rows by a packed panel, threads and
// scratch memory. It is compiled once for each type of the arithmetic; programs reach it through this table.
#pragma once

struct Core {
  // C[rows, vectors] (+)= A[rows, depth] panel[depth, vectors]. Each sum runs over depth in order, from the first
  // to the last, so that a row's bits depend on nothing but the row.
  void (*gemm)(const S* a, long lda, const S* panel, long depth, long vectors, S* c, long ldc, long rows,
               int accumulate);
  // Calls body(context, part) for each part, on as many threads, and returns when all are done. Returns 0, and
  // calls nothing, where there are not so many threads.
  int (*team)(void (*body)(void*, int), void* context, int parts);
  // Memory for one call, on a 64-byte border; nothing where the machine has none left.
  void* (*take)(long bytes);
  void (*give)(void* memory);
};
