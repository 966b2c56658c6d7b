// Parameters' gradients, summed over all steps and rows at once. See program.hpp for the legend; M and N are the
// widths of the two factors.
#pragma once

constexpr long DEPTH = 128;  // rows of the sequences at a time: a panel of them stays in L1, and the factors in L2
constexpr long PANEL = 4;    // vectors of columns
constexpr long PANELS = 8;   // packed at a time
constexpr long STRIP = 8;    // vectors of columns whose sums are kept at once
constexpr long MOST_SUMMED = 8;  // products of one factor whose columns are summed up together

// result[M, N] = left[T*B, M]^T right[T*B, N], and, where wanted, the column sums of left.
struct Factor { Steps steps; long width; S* result; };

// What is summed up: `count` rows of sequences.
struct Sum {
  long count, B;
  const int64_t* rows;  // their places in [T*B], or nothing where they are all of them
  int threads;

  const STORED* at(const Steps& steps, long k) const {
    const long place = rows ? rows[k] : k;
    return steps.at(place / B, place % B);
  }
};

struct Contraction : Sum {
  Factor left;    // its result: the column sums, or nothing
  long rights;
  const Factor* right;
  bool by_columns;  // threads share the columns of the result, for a left factor too narrow to share its rows
  char* memory;
  long memory_bytes;
};

// By halves, so that rounding errors do not pile up.
INLINE V sum_rows(const V* rows) {
  V half[VL / 2];
  for (long r = 0; r < VL / 2; r++) half[r] = rows[r] + rows[r + VL / 2];
  for (long step = VL / 4; step > 0; step /= 2)
    for (long r = 0; r < step; r++) half[r] = half[r] + half[r + step];
  return half[0];
}

// Rows [k, k + deep) of the sequence, columns [from, until), transposed: to[column][row].
static void turn_over(S* to, long ld, const Contraction& job, long k, long deep, long from, long until, S* sums) {
  const Steps& steps = job.left.steps;
  for (long i = 0; i < deep; i += VL) {
    const STORED* at[VL];
    const long n = deep - i < VL ? deep - i : VL;
    for (long r = 0; r < n; r++) at[r] = job.at(steps, k + i + r);
    for (long m = from; m < until; m += VL) {
      V rows[VL];
      const long wide = until - m < VL ? until - m : VL;
      for (long r = 0; r < VL; r++) rows[r] = r < n ? load(at[r] + m, wide) : V{};
      if (sums) store(sums + m - from, load(sums + m - from, wide) + sum_rows(rows), wide);
      transpose(rows);
      for (long r = 0; r < wide; r++) store(to + (m - from + r) * ld + i, rows[r]);
    }
  }
}

// Rows [k, k + deep) of the sequence, columns [n, n + wide), as panels side by side. Whole rows are read, in order.
static void pack_rows(S* panel, const Contraction& job, const Steps& steps, long k, long deep, long n, long wide) {
  const long full = wide / (PANEL * VL) * (PANEL * VL), rest = vectors(wide - full);
  for (long r = 0; r < deep; r++) {
    const STORED* p = job.at(steps, k + r) + n;
    for (long j = 0; j < full; j += PANEL * VL)
      for (long v = 0; v < PANEL; v++)
        store(panel + j * deep + (r * PANEL + v) * VL, load(p + j + v * VL, VL));
    for (long v = 0; v < rest; v++)
      store(panel + full * deep + (r * rest + v) * VL, load(p + full + v * VL, wide - full - v * VL));
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
  const long depth = job.count, M = job.left.width;
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
        pack_rows(panel, job, right.steps, k, deep, n, wide);
        for (long at = 0; at < wide; at += PANEL * VL)
          add_product(turned, ld, panel + at * deep, deep, right, from, height, n + at,
                      wide - at < PANEL * VL ? wide - at : PANEL * VL, k > 0, tile);
      }
    }
  }
}

static Sum sum_of(const int64_t* a, int threads) { return {(long)a[0], (long)a[1], (const int64_t*)a[3], threads}; }

// arguments: count, B, threads, rows, then address, step stride, row stride, width and result of the left factor, then the
// number of right factors and the same for each.
static int contract(const int64_t* a, int threads) {
  Contraction job{};
  static_cast<Sum&>(job) = sum_of(a, threads);
  const auto factor = [](const int64_t* f) { return Factor{{(STORED*)f[0], (long)f[1], (long)f[2]}, (long)f[3], (S*)f[4]}; };
  job.left = factor(a + 4);
  job.rights = a[9];
  Factor rights[64];
  long columns = 0;
  for (long i = 0; i < job.rights; i++) {
    rights[i] = factor(a + 10 + 5 * i);
    columns += rights[i].width;
  }
  job.right = rights;
  if (job.count * job.left.width * (columns + 1) < 100000) job.threads = 1;
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

struct Product { Steps left; S* result; };

struct ColumnSums : Sum {
  Steps right;
  long width;
  S* total;  // of right alone, or nothing
  long products;
  Product product[MOST_SUMMED];
};

static void sum_columns(void* context, int thread) {
  const ColumnSums& job = *(const ColumnSums*)context;
  const long units = vectors(job.width), from = units * thread / job.threads * VL;
  const long last = units * (thread + 1) / job.threads * VL, until = last < job.width ? last : job.width;
  // The sums of right stand behind those of the products.
  V sums[MOST_SUMMED + 1][STRIP], block[MOST_SUMMED + 1][STRIP];
  for (long m = from; m < until; m += STRIP * VL) {
    const long strip = vectors(until - m) < STRIP ? vectors(until - m) : STRIP;
    for (long i = 0; i <= job.products; i++)
      for (long v = 0; v < strip; v++) sums[i][v] = block[i][v] = V{};
    for (long k = 0; k < job.count; k += VL) {
      const long n = job.count - k < VL ? job.count - k : VL;
      const STORED *at[VL], *left_at[MOST_SUMMED][VL];
      for (long r = 0; r < n; r++) {
        at[r] = job.at(job.right, k + r);
        for (long i = 0; i < job.products; i++) left_at[i][r] = job.at(job.product[i].left, k + r);
      }
      for (long v = 0; v < strip; v++) {
        const long j = m + v * VL, wide = until - j;
        V right[VL], product[VL];
        for (long r = 0; r < VL; r++) right[r] = r < n ? load(at[r] + j, wide) : V{};
        for (long i = 0; i < job.products; i++) {
          for (long r = 0; r < VL; r++) product[r] = r < n ? right[r] * load(left_at[i][r] + j, wide) : V{};
          block[i][v] = block[i][v] + sum_rows(product);
        }
        if (job.total) block[job.products][v] = block[job.products][v] + sum_rows(right);
      }
      if ((k + VL) % DEPTH == 0 || k + VL >= job.count)
        for (long i = 0; i <= job.products; i++)
          for (long v = 0; v < strip; v++) sums[i][v] = sums[i][v] + block[i][v], block[i][v] = V{};
    }
    for (long i = 0; i <= job.products; i++) {
      S* const result = i < job.products ? job.product[i].result : job.total;
      for (long v = 0; result && v < strip; v++) store(result + m + v * VL, sums[i][v], until - m - v * VL);
    }
  }
}

// arguments: count, B, threads, rows, then address, step stride, row stride, width and sums of the right factor, then
// the number of left factors that it is multiplied by, and address, strides and sums of the products for each.
static int column_sums(const int64_t* a, int threads) {
  ColumnSums job{};
  static_cast<Sum&>(job) = sum_of(a, threads);
  job.right = {(STORED*)a[4], (long)a[5], (long)a[6]};
  job.width = a[7];
  job.total = (S*)a[8];
  job.products = a[9];
  for (long i = 0; i < job.products; i++) {
    const int64_t* p = a + 10 + 4 * i;
    job.product[i] = {{(STORED*)p[0], (long)p[1], (long)p[2]}, (S*)p[3]};
  }
  if (job.threads > vectors(job.width)) job.threads = (int)vectors(job.width);
  if (job.count * job.width < 50000) job.threads = 1;
  if (job.threads == 1) return sum_columns(&job, 0), 0;
  return team(sum_columns, &job, job.threads) ? 0 : column_sums(a, 1);
}
