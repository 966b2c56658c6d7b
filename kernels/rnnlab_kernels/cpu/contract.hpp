// Parameters' gradients, summed over all steps and rows at once. See program.hpp for the legend; M and N are the
// widths of the two factors.
#pragma once

// Rows of the sequences that are summed up from zero before they are added to what there is. A panel of that depth
// stays in L1, even where another thread of the processor's takes half of it. The error grows with the depth and with
// the number of blocks: a long sum has deeper ones.
constexpr long DEPTH = 96, MOST_DEPTH = 128;
constexpr long PANEL = 4;    // vectors of columns of the right factors
constexpr long PANELS = 8;   // in a block of the result
constexpr long UNIT = 3;     // vectors of columns of the left factor in a panel: eight times six rows of the result
constexpr long STRIP = 8;    // vectors of columns whose sums are kept at once
constexpr long MOST_RIGHTS = 64;
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

// What the threads share out: the rows of the sequences, whose sums are added up in the end, or the rows or the columns
// of the result.
enum class Share { DEPTH, HEIGHT, COLUMNS };

struct Contraction : Sum {
  Factor left;  // its result: the column sums, or nothing
  long rights;
  const Factor* right;
  long columns;  // vectors of all right factors side by side
  Share share;
  long depth, height, width;  // of a block: rows of the sequences, rows of the result and vectors of its columns
  char* memory;
  long memory_bytes;
  Barrier* barrier;

  long first_of(Share what, long units, int thread) const { return share == what ? units * thread / threads : 0; }
  long last_of(Share what, long units, int thread) const {
    return share == what ? units * (thread + 1) / threads : units;
  }
};

// The part of a panel that belongs to one right factor.
struct Piece {
  const Factor* right;
  long column, wide;   // of the factor
  long panel, within;  // where the panel begins in the block, and the piece in the panel
  long size;           // how wide the panel is
};

// A block of columns of all right factors side by side: panels of PANEL vectors, the last two nearly equal.
struct Columns {
  long width, panels, pieces;  // the width in vectors
  Piece piece[PANELS + MOST_RIGHTS];

  long start(long panel) const {
    if (panel == panels) return width;
    const long before = PANEL * (panel - 1);
    return panel && panel == panels - 1 ? before + (width - before + 1) / 2 : PANEL * panel;
  }

  Columns(const Contraction& job, long from, long until)
      : width(until - from), panels((width + PANEL - 1) / PANEL), pieces(0) {
    long first = -from;  // where a factor begins in the block
    for (long i = 0; i < job.rights; i++) {
      const Factor& right = job.right[i];
      const long end = first + vectors(right.width);
      for (long p = 0; p < panels; p++) {
        const long a = start(p), b = start(p + 1), low = a > first ? a : first, high = b < end ? b : end;
        if (low >= high) continue;
        const long column = (low - first) * VL, wide = (high - low) * VL, left = right.width - column;
        piece[pieces++] = {&right, column, wide < left ? wide : left, a * VL, (low - a) * VL, (b - a) * VL};
      }
      first = end;
    }
  }
};

// What a thread keeps of a block of the result, of at most height x width vectors.
struct Block {
  S *left, *right;   // the factors, packed
  S *sums, *some;    // the column sums, and those of a few rows of the sequences
  S* result;         // panels side by side: [panel][row][column of the panel]
  long *step, *row;  // of the rows of the sequences that are packed

  Block(Arena& arena, const Contraction& job)
      : left(arena.take<S>((job.height + UNIT * VL) * job.depth)), right(arena.take<S>(job.width * VL * job.depth)),
        sums(arena.take<S>(job.height + VL)), some(arena.take<S>(job.height + VL)),
        result(arena.take<S>(job.height * job.width * VL)), step(arena.take<long>(job.depth)),
        row(arena.take<long>(job.depth)) {}

  const STORED* at(const Steps& steps, long r) const { return steps.at(step[r], row[r]); }
};

static void find_places(const Contraction& job, const Block& block, long k, long deep) {
  long t = k / job.B, b = k % job.B;
  for (long r = 0; r < deep; r++) {
    if (job.rows) t = job.rows[k + r] / job.B, b = job.rows[k + r] % job.B;
    block.step[r] = t, block.row[r] = b;
    if (++b == job.B) t++, b = 0;
  }
}

// By halves, so that rounding errors do not pile up.
INLINE V sum_rows(const V* rows) {
  V half[VL / 2];
  for (long r = 0; r < VL / 2; r++) half[r] = rows[r] + rows[r + VL / 2];
  for (long step = VL / 4; step > 0; step /= 2)
    for (long r = 0; r < step; r++) half[r] = half[r] + half[r + step];
  return half[0];
}

// Copies a vector of each row into a panel of the left factor, and returns their sum.
template <long first = 0, long rows = VL> INLINE V copy_rows(S* to, const STORED* const* at, long column) {
  if constexpr (rows == 1) {
    const V row = load(at[first] + column, VL);
    store(to + first * UNIT * VL, row);
    return row;
  } else {
    const V half = copy_rows<first, rows / 2>(to, at, column);
    return half + copy_rows<first + rows / 2, rows / 2>(to, at, column);
  }
}
static V copy_some(S* to, const STORED* const* at, long column, long n, long wide) {
  V rows[VL];
  for (long r = 0; r < VL; r++) rows[r] = r < n ? load(at[r] + column, wide) : V{};
  for (long r = 0; r < n; r++) store(to + r * UNIT * VL, rows[r]);
  return sum_rows(rows);
}

// Columns [from, until) of the left factor, as panels of UNIT vectors side by side.
static void pack_left(const Contraction& job, const Block& block, long deep, long from, long until, bool summing) {
  if (summing) __builtin_memset(block.some, 0, (until - from + VL) * sizeof(S));
  for (long i = 0; i < deep; i += VL) {
    const STORED* at[VL];
    const long n = deep - i < VL ? deep - i : VL;
    for (long r = 0; r < n; r++) at[r] = block.at(job.left.steps, i + r);
    for (long m = from; m < until; m += VL) {
      const long column = m - from, within = column % (UNIT * VL);
      S* const to = block.left + (column - within) * deep + i * UNIT * VL + within;
      const V sum = n == VL && until - m >= VL ? copy_rows(to, at, m) : copy_some(to, at, m, n, until - m);
      if (summing) store(block.some + column, load(block.some + column) + sum);
    }
  }
  if (summing)
    for (long m = 0; m < until - from; m++) block.sums[m] += block.some[m];
}

// The right factors, as panels side by side. Whole rows are read, in order.
static void pack_right(const Block& block, const Columns& columns, long deep) {
  for (long r = 0; r < deep; r++)
    for (long i = 0; i < columns.pieces; i++) {
      const Piece& piece = columns.piece[i];
      const STORED* from = block.at(piece.right->steps, r) + piece.column;
      S* const to = block.right + piece.panel * deep + r * piece.size + piece.within;
      long v = 0;
      for (; v + VL <= piece.wide; v += VL) store(to + v, load(from + v, VL));
      if (v < piece.wide) store(to + v, load(from + v, piece.wide - v));
    }
}

// Rows [from, until) of the result over rows [first, last) of the sequences.
static void sum_block(const Contraction& job, const Block& block, const Columns& columns, long from, long until,
                      long first, long last, bool summing) {
  const long height = until - from, parts = (last - first + job.depth - 1) / job.depth;
  if (summing) __builtin_memset(block.sums, 0, (height + VL) * sizeof(S));
  for (long part = 0; part < parts; part++) {
    const long k = first + (last - first) * part / parts, deep = first + (last - first) * (part + 1) / parts - k;
    find_places(job, block, k, deep);
    pack_left(job, block, deep, from, until, summing);
    pack_right(block, columns, deep);
    for (long p = 0; p < columns.panels; p++) {
      const long start = columns.start(p) * VL, wide = columns.start(p + 1) * VL - start;
      for (long m = 0; m < height; m += UNIT * VL)
        multiply(block.left + m * deep, 1, UNIT * VL, block.right + start * deep, deep, wide / VL,
                 block.result + start * height + m * wide, wide, height - m < UNIT * VL ? height - m : UNIT * VL,
                 part ? ADDED : FRESH);
    }
  }
}

// Writes rows [first, last) of the block that begins at row `from` of the result, added up over the blocks of `parts`
// threads.
static void write_block(const Contraction& job, const Block& block, const Columns& columns, long from, long height,
                        long first, long last, int parts, bool summing) {
  const auto added = [&](const S* p) {
    V sum = load(p);
    for (int part = 1; part < parts; part++) sum = sum + load((const S*)((const char*)p + part * job.memory_bytes));
    return sum;
  };
  for (long i = 0; i < columns.pieces; i++) {
    const Piece& piece = columns.piece[i];
    for (long m = first; m < last; m++) {
      const S* sums = block.result + piece.panel * height + m * piece.size + piece.within;
      S* to = piece.right->result + (from + m) * piece.right->width + piece.column;
      for (long v = 0; v < piece.wide; v += VL) store(to + v, added(sums + v), piece.wide - v);
    }
  }
  if (summing)
    for (long m = first; m < last; m += VL) store(job.left.result + from + m, added(block.sums + m), last - m);
}

static void contract_part(void* context, int thread) {
  const Contraction& job = *(const Contraction*)context;
  const long M = job.left.width, units = vectors(M);
  const long first = job.first_of(Share::DEPTH, job.count, thread), last = job.last_of(Share::DEPTH, job.count, thread);
  const long top = job.first_of(Share::HEIGHT, units, thread), bottom = job.last_of(Share::HEIGHT, units, thread);
  const long begin = job.first_of(Share::COLUMNS, job.columns, thread);
  const long end = job.last_of(Share::COLUMNS, job.columns, thread);
  const long across = (end - begin + job.width - 1) / job.width;
  const long down = ((bottom - top) * VL + job.height - 1) / job.height;
  Arena arena{job.memory + thread * job.memory_bytes, 0};
  const Block block(arena, job);
  for (long i = 0; i < across; i++) {
    const Columns columns(job, begin + (end - begin) * i / across, begin + (end - begin) * (i + 1) / across);
    for (long j = 0; j < down; j++) {
      const long from = (top + (bottom - top) * j / down) * VL, after = (top + (bottom - top) * (j + 1) / down) * VL;
      const long until = after < M ? after : M, height = until - from;
      const bool summing = job.left.result && begin + i == 0;
      sum_block(job, block, columns, from, until, first, last, summing);
      if (job.share != Share::DEPTH) {
        write_block(job, block, columns, from, height, 0, height, 1, summing);
        continue;
      }
      meet(job.barrier, job.threads);
      const long low = units * thread / job.threads * VL, high = units * (thread + 1) / job.threads * VL;
      Arena all{job.memory, 0};
      write_block(job, Block(all, job), columns, 0, M, low, high < M ? high : M, job.threads, summing);
    }
  }
}

static Sum sum_of(const int64_t* a, int threads) { return {(long)a[0], (long)a[1], (const int64_t*)a[3], threads}; }

// How a contraction is cut up. A block of the result stays in L2 while all rows of the sequences pass.
static void plan(Contraction& job) {
  const long M = job.left.width, units = vectors(M), row = sizeof(S), most = PANELS * PANEL;
  if (job.count * M * job.columns * VL < 100000) job.threads = 1;
  job.depth = job.count > DEPTH * MOST_DEPTH ? MOST_DEPTH : DEPTH;
  job.width = job.columns < most ? job.columns : most;
  const long right = job.width * VL * job.depth * row, each = (job.width * VL + job.depth) * row;
  const long fit = (2 * half_of_l2() - right) / each / (UNIT * VL) * (UNIT * VL);
  job.height = fit > UNIT * VL ? fit : UNIT * VL;
  if (job.height > units * VL) job.height = units * VL;
  const bool whole = job.width == job.columns && job.height == units * VL;
  // Adding up costs as much as M rows of the right factors that are packed by every thread.
  if (whole && job.count >= 2 * M && job.count >= DEPTH / 2 * job.threads) {
    job.share = Share::DEPTH;
    return;
  }
  job.share = job.columns > units ? Share::COLUMNS : Share::HEIGHT;
  const long shared = job.columns > units ? job.columns : units;
  if (job.threads > shared) job.threads = (int)shared;
}

// arguments: count, B, threads, rows, then address, step stride, row stride, width and result of the left factor, then
// the number of right factors and the same for each.
static int contract(const int64_t* a, int threads) {
  Contraction job{};
  static_cast<Sum&>(job) = sum_of(a, threads);
  const auto factor = [](const int64_t* f) {
    return Factor{{(STORED*)f[0], (long)f[1], (long)f[2]}, (long)f[3], (S*)f[4]};
  };
  job.left = factor(a + 4);
  job.rights = a[9];
  Factor rights[MOST_RIGHTS];
  for (long i = 0; i < job.rights; i++) {
    rights[i] = factor(a + 10 + 5 * i);
    job.columns += vectors(rights[i].width);
  }
  job.right = rights;
  if (!job.left.width || !job.columns) return 0;
  plan(job);
  Arena count{nullptr, 0};
  Block(count, job);
  job.memory_bytes = count.used;
  job.memory = take_memory(job.memory_bytes * job.threads);
  if (!job.memory) return 1;
  Barrier barrier;
  job.barrier = &barrier;
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
      if ((k + VL) % MOST_DEPTH == 0 || k + VL >= job.count)
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
