// Parameters' gradients, summed over all steps and rows at once. See program.hpp for the legend; M and N are the
// widths of the two factors.
#pragma once

constexpr long DEPTH = 128;  // rows of the sequences at a time: a panel of them stays in L1, and the factors in L2
constexpr long PANEL = 4;    // vectors of columns
constexpr long PANELS = 8;   // packed at a time

// result[M, N] = left[T*B, M]^T right[T*B, N], and, where wanted, the column sums of left.
struct Factor { Steps steps; long width; S* result; };

struct Contraction {
  long T, B;
  int threads;
  Factor left;    // its result: the column sums, or nothing
  long rights;
  const Factor* right;
  bool by_columns;  // threads share the columns of the result, for a left factor too narrow to share its rows
  char* memory;
  long memory_bytes;
};

// Rows [k, k + deep) of the sequence, columns [from, until), transposed: to[column][row].
static void turn_over(S* to, long ld, const Contraction& job, long k, long deep, long from, long until, S* sums) {
  const Steps& steps = job.left.steps;
  for (long i = 0; i < deep; i += VL) {
    const STORED* at[VL];
    const long n = deep - i < VL ? deep - i : VL;
    for (long r = 0; r < n; r++) at[r] = steps.at((k + i + r) / job.B, (k + i + r) % job.B);
    for (long m = from; m < until; m += VL) {
      V rows[VL];
      const long wide = until - m < VL ? until - m : VL;
      for (long r = 0; r < VL; r++) rows[r] = r < n ? load(at[r] + m, wide) : V{};
      if (sums) {  // by halves, so that rounding errors do not pile up
        V half[VL / 2];
        for (long r = 0; r < VL / 2; r++) half[r] = rows[r] + rows[r + VL / 2];
        for (long step = VL / 4; step > 0; step /= 2)
          for (long r = 0; r < step; r++) half[r] = half[r] + half[r + step];
        store(sums + m - from, load(sums + m - from, wide) + half[0], wide);
      }
      transpose(rows);
      for (long r = 0; r < wide; r++) store(to + (m - from + r) * ld + i, rows[r]);
    }
  }
}

// Rows [k, k + deep) of the sequence, columns [n, n + wide), as panels side by side. Whole rows are read, in order.
static void pack_rows(S* panel, const Steps& steps, long B, long k, long deep, long n, long wide) {
  const long full = wide / (PANEL * VL) * (PANEL * VL), rest = vectors(wide - full);
  for (long r = 0, t = k / B, b = k % B; r < deep; r++) {
    const STORED* p = steps.at(t, b) + n;
    for (long j = 0; j < full; j += PANEL * VL)
      for (long v = 0; v < PANEL; v++)
        store(panel + j * deep + (r * PANEL + v) * VL, load(p + j + v * VL, VL));
    for (long v = 0; v < rest; v++)
      store(panel + full * deep + (r * rest + v) * VL, load(p + full + v * VL, wide - full - v * VL));
    if (++b == B) b = 0, t++;
  }
}

// The result's rows [from, from + height) and columns [n, n + wide), of one panel.
static void add_product(const S* turned, long ld, const S* panel, long deep, const Factor& right, long from, long height,
                        long n, long wide, bool more, S* tile) {
  const long all = vectors(wide);
  S* const result = right.result + from * right.width + n;
  if (wide == all * VL) return gemm(turned, ld, panel, deep, all, result, right.width, height, more ? ADDED : FRESH);
  for (long m = 0; m < height; m += TILE) {
    const long rows = height - m < TILE ? height - m : TILE;
    gemm(turned + m * ld, ld, panel, deep, all, tile, all * VL, rows, FRESH);
    for (long r = 0; r < rows; r++)
      for (long v = 0; v < all; v++) {
        S* to = result + (m + r) * right.width + v * VL;
        V sum = load(tile + (r * all + v) * VL);
        if (more) sum = load(to, wide - v * VL) + sum;
        store(to, sum, wide - v * VL);
      }
  }
}

static void contract_part(void* context, int thread) {
  const Contraction& job = *(const Contraction*)context;
  const long depth = job.T * job.B, M = job.left.width;
  const long units = (M + VL - 1) / VL;
  long from = 0, until = M;
  if (!job.by_columns) {
    from = units * thread / job.threads * VL;
    until = units * (thread + 1) / job.threads * VL;
    until = until < M ? until : M;
  }
  const long height = until - from, ld = DEPTH + VL;
  Arena arena{job.memory + thread * job.memory_bytes, 0};
  S* turned = arena.take<S>((height + VL) * ld);
  S* panel = arena.take<S>(DEPTH * PANELS * PANEL * VL);
  S* tile = arena.take<S>(TILE * PANEL * VL);
  S* sums = arena.take<S>(height + VL);
  const bool summing = job.left.result && (!job.by_columns || thread == 0);
  if (summing) __builtin_memset(job.left.result + from, 0, height * sizeof(S));
  for (long k = 0; k < depth; k += DEPTH) {
    const long deep = depth - k < DEPTH ? depth - k : DEPTH;
    if (summing) __builtin_memset(sums, 0, height * sizeof(S));
    turn_over(turned, ld, job, k, deep, from, until, summing ? sums : nullptr);
    if (summing)
      for (long m = 0; m < height; m++) job.left.result[from + m] += sums[m];
    for (long i = 0; i < job.rights; i++) {
      const Factor& right = job.right[i];
      const long blocks = (right.width + PANEL * VL - 1) / (PANEL * VL);
      const long first = job.by_columns ? blocks * thread / job.threads : 0;
      const long last = job.by_columns ? blocks * (thread + 1) / job.threads : blocks;
      for (long block = first; block < last; block += PANELS) {
        const long n = block * PANEL * VL, end = last * PANEL * VL < right.width ? last * PANEL * VL : right.width;
        const long wide = end - n < PANELS * PANEL * VL ? end - n : PANELS * PANEL * VL;
        pack_rows(panel, right.steps, job.B, k, deep, n, wide);
        for (long at = 0; at < wide; at += PANEL * VL)
          add_product(turned, ld, panel + at * deep, deep, right, from, height, n + at,
                      wide - at < PANEL * VL ? wide - at : PANEL * VL, k > 0, tile);
      }
    }
  }
}

// arguments: T, B, threads, then address, step stride, row stride, width and result of the left factor, then the
// number of right factors and the same for each.
static int contract(const int64_t* a, int threads) {
  Contraction job{};
  job.T = a[0];
  job.B = a[1];
  const auto factor = [](const int64_t* f) { return Factor{{(STORED*)f[0], (long)f[1], (long)f[2]}, (long)f[3], (S*)f[4]}; };
  job.left = factor(a + 3);
  job.rights = a[8];
  Factor rights[64];
  long columns = 0;
  for (long i = 0; i < job.rights; i++) {
    rights[i] = factor(a + 9 + 5 * i);
    columns += rights[i].width;
  }
  job.right = rights;
  job.threads = job.T * job.B * job.left.width * (columns + 1) < 100000 ? 1 : threads;
  job.by_columns = vectors(job.left.width) < 2 * job.threads && columns >= 2 * PANEL * VL * job.threads;
  Arena count{nullptr, 0};
  const long height = job.left.width + 2 * VL;
  count.take<S>(height * (DEPTH + VL));
  count.take<S>(DEPTH * PANELS * PANEL * VL + TILE * PANEL * VL + height + 64);
  job.memory_bytes = count.used + 256;
  job.memory_bytes = (job.memory_bytes + 63) / 64 * 64;
  job.memory = take_memory(job.memory_bytes * job.threads);
  if (!job.memory) return 1;
  const bool done = job.threads > 1 ? team(contract_part, &job, job.threads) : (contract_part(&job, 0), true);
  give_memory(job.memory);
  return done ? 0 : contract(a, 1);
}
