// The time loop: rows to threads, panels, states from step to step, lengths and resets. See program.hpp for the legend.
#pragma once

constexpr long MOST_STEPS = 768;  // of a chunk
constexpr long SUMMED = 64;       // rows, about, that are summed up before they join the sums of all before them

struct Call {
  const Program& p;
  long T, B;
  int threads;
  bool columns;  // threads share every row, by columns, instead of dealing the rows out
  bool backwards;
  const int64_t* lengths;
  const uint8_t* resets;
  Steps *in, *initial, *out, *final;
  const Steps* total;  // where each total goes
  int* order;  // batch rows by falling length
  S* panels;
  char* memory;
  Barrier barrier;

  long length(long b) const {
    if (!lengths) return T;
    return lengths[b] < 0 ? 0 : lengths[b] < T ? lengths[b] : T;
  }
  int groups() const { return columns ? 1 : threads; }
  long most_rows() const { return (B + groups() - 1) / groups(); }
  long chunk_steps(long rows) const {
    long bytes = 0;
    for (int i = 0; i < p.buffers; i++)
      if (p.buffer_sizes[i].chunk) bytes += LD(p.buffer_sizes[i].width) * sizeof(S);
    long most = p.outside ? half_of_l2() / (bytes ? bytes : 1) : MOST_STEPS;
    most = most < 48 ? 48 : most > MOST_STEPS ? MOST_STEPS : most;
    const long steps = most / (rows ? rows : 1) < 1 ? 1 : most / (rows ? rows : 1);
    return steps < T ? steps : T ? T : 1;
  }
  long panel_bytes() const {
    long values = 0;
    for (int i = 0; i < p.panels; i++)
      values += p.panel_sizes[i].depth * p.panel_sizes[i].count * vectors(p.panel_sizes[i].width) * VL;
    return values * sizeof(S);
  }

  long total_values() const {
    long values = 0;
    for (int i = 0; i < p.totals; i++) values += LD(p.total_widths[i]);
    return values;
  }

  // What the threads of one group share.
  void lay_out_rows(Arena& arena, Ctx& c) const {
    const long rows = most_rows(), steps = chunk_steps(rows);
    for (int i = 0; i < p.states; i++) {
      const long count = rows * LD(p.state_widths[i]);
      S *cur = arena.take<S>(count), *nxt = arena.take<S>(count);
      S* restarted = p.adjoint && resets ? arena.take<S>(count) : nullptr;
      if (c.cur) c.cur[i] = cur, c.nxt[i] = nxt, c.restarted[i] = restarted;
    }
    for (int i = 0; i < p.buffers; i++) {
      S* buffer = arena.take<S>(rows * (p.buffer_sizes[i].chunk ? steps : 1) * LD(p.buffer_sizes[i].width));
      if (c.buf) c.buf[i] = buffer;
    }
  }
  // What each thread has for itself.
  void lay_out_thread(Arena& arena, Ctx& c) const {
    c.cur = arena.take<S*>(p.states);
    c.nxt = arena.take<S*>(p.states);
    c.restarted = arena.take<S*>(p.states);
    c.buf = arena.take<S*>(p.buffers);
    c.panel = arena.take<const S*>(p.panels);
    c.total = arena.take<S*>(p.totals);
    c.sums = arena.take<S>(2 * total_values());
    c.tile = arena.take<S>(TILE * MOST_SUMS * VL);
    c.tm = arena.take<int>(most_rows() * chunk_steps(most_rows()));
    c.bm = arena.take<int>(most_rows() * chunk_steps(most_rows()));
  }
};

template <typename E> void put_row(E* to, const S* from, const S* more, long width) {
  for (long j = 0; j < width; j += VL) {
    V x = load(from + j, width - j);
    if (more) x = x + load(more + j, width - j);
    store(to + j, x, width - j);
  }
}
// A caller's initial and final states are of the type of the arithmetic, whatever the sequences are stored in.
INLINE S* state_row(const Steps& states, long b) { return (S*)states.p + b * states.b_stride; }

// The whole sequence for the rows of one group: batch[0], batch[stride], ... by falling length.
struct Rows {
  const Call& call;
  const Program& p;
  Ctx& c;
  const int* batch;
  const long stride, rows;
  const long r0, r1;  // this thread's share of them, for what is done row by row
  long active = 0;    // rows that run at the present step; they stand first
  long summed = 0;    // rows whose totals have not joined those of all before

  Rows(const Call& call, Ctx& c, const int* batch, long stride, long rows)
      : call(call), p(call.p), c(c), batch(batch), stride(stride), rows(rows),
        r0(rows * c.part / c.parts), r1(rows * (c.part + 1) / c.parts) {}

  long row(long r) const { return batch[r * stride]; }
  long time(long step) const { return call.backwards ? call.T - 1 - step : step; }
  long running(long t) const {
    if (!call.lengths) return rows;
    long low = 0, high = rows;
    while (low < high) {
      const long middle = (low + high) / 2;
      if (call.length(row(middle)) > t) low = middle + 1;
      else high = middle;
    }
    return low;
  }
  void enter(long r) {
    for (int s = 0; s < p.states; s++) {
      const long width = p.state_widths[s], ld = LD(width);
      S* state = c.cur[s] + r * ld;
      put_row(state, state_row(call.initial[s], row(r)), nullptr, width);
      const int before = p.before[s];
      if (before >= 0 && !call.out[before].p)  // its place in the sequence that both outputs share
        put_row((STORED*)call.out[before].t_stride + row(r) * call.out[before].b_stride, state, nullptr, width);
      if (call.backwards) __builtin_memcpy(c.nxt[s] + r * ld, state, ld * sizeof(S));
      if (p.adjoint && call.resets) __builtin_memset(c.restarted[s] + r * ld, 0, ld * sizeof(S));
    }
  }
  void leave(long r) {
    for (int s = 0; s < p.states; s++) {
      const long at = r * LD(p.state_widths[s]);
      const S* more = p.adjoint && call.resets ? c.restarted[s] + at : nullptr;
      put_row(state_row(call.final[s], row(r)), c.cur[s] + at, more, p.state_widths[s]);
    }
  }
  // How many steps from `begin` on make a chunk. Its buffers have room for so many of all rows; where few still run,
  // it has more steps, so that it does not read the weights for less.
  long chunk(long begin, long steps) const {
    const long left = call.T - begin;
    if (!call.lengths) return left < steps ? left : steps;
    const long room = call.most_rows() * steps;
    long count = 0;
    for (long total = 0; count < left && count < MOST_STEPS; count++) {
      total += running(time(begin + count));
      if (total > room) break;
    }
    return count;
  }
  // Lists the virtual rows of a chunk, and clears what lies past a row's length. Returns how many there are.
  long list(long begin, long count, long* offsets) {
    long total = 0;
    for (long i = 0; i < count; i++) {
      const long t = time(begin + i), n = running(t);
      offsets[i] = total;
      for (long r = 0; r < n; r++) c.tm[total + r] = (int)t, c.bm[total + r] = (int)row(r);
      total += n;
      for (long r = n > r0 ? n : r0; r < r1; r++)
        for (int o = 0; o < p.outputs; o++)
          __builtin_memset((void*)call.out[o].at(t, row(r)), 0, p.output_widths[o] * sizeof(STORED));
    }
    offsets[count] = total;
    return total;
  }
  bool restarts(long t, long r) const { return call.resets[t * call.B + row(r)]; }
  void restart_before(long t, long n) {
    for (long r = r0; r < r1 && r < n; r++)
      if (restarts(t, r))
        for (int s = 0; s < p.states; s++)
          put_row(c.cur[s] + r * LD(p.state_widths[s]), state_row(call.initial[s], row(r)), nullptr,
                  p.state_widths[s]);
    c.wait();
  }
  void restart_after(long t, long n) {
    for (long r = r0; r < r1 && r < n; r++)
      if (restarts(t, r))
        for (int s = 0; s < p.states; s++) {
          const long at = r * LD(p.state_widths[s]);
          S *gradient = c.nxt[s] + at, *sum = c.restarted[s] + at;
          for (long j = 0; j < p.state_widths[s]; j++) sum[j] += gradient[j], gradient[j] = 0;
        }
    c.wait();
  }
  // In two stages, so that rounding errors do not pile up.
  void sum_up() {
    const long values = call.total_values();
    for (long j = 0; j < values; j += VL) {
      store(c.sums + values + j, load(c.sums + values + j) + load(c.sums + j));
      store(c.sums + j, V{});
    }
    summed = 0;
  }
  void step(long t, long m0, long n) {
    if (!call.backwards)
      for (long r = n > r0 ? n : r0; r < r1 && r < active; r++) leave(r);
    active = n;
    if (n == 0) return;
    if (call.resets && !p.adjoint) restart_before(t, n);
    p.loop(c, m0, m0 + n);
    if (p.totals && (summed += n) >= SUMMED) sum_up();
    if (call.resets && p.adjoint) restart_after(t, n);
    S** other = c.cur;
    c.cur = c.nxt;
    c.nxt = other;
  }
  void run() {
    for (long r = r0; r < r1; r++) enter(r);
    c.wait();
    active = call.backwards ? 0 : running(0);
    if (!call.backwards)
      for (long r = active > r0 ? active : r0; r < r1; r++) leave(r);
    const long steps = call.chunk_steps(call.most_rows());
    long offsets[MOST_STEPS + 1];
    for (long begin = 0, count; begin < call.T; begin += count) {
      count = chunk(begin, steps);
      const long total = list(begin, count, offsets);
      if (total) p.pre(c, 0, total);
      if (p.totals) sum_up();
      for (long i = 0; i < count; i++) step(time(begin + i), offsets[i], offsets[i + 1] - offsets[i]);
      if (total) p.post(c, 0, total);
      if (p.totals) sum_up();
    }
    for (long r = r0; r < r1 && (call.backwards || r < active); r++) leave(r);
  }
};

static void work(void* context, int thread) {
  Call& call = *(Call*)context;
  const Program& p = call.p;
  Ctx c{};
  c.gemm = gemm;
  c.in = call.in;
  c.out = call.out;
  c.meet = meet;
  c.barrier = &call.barrier;
  c.parts = call.columns ? call.threads : 1;
  c.part = call.columns ? thread : 0;
  Arena arena{call.memory, 0};
  Ctx others{};
  for (int i = 0; i < call.threads; i++) call.lay_out_thread(arena, i == thread ? c : others);
  const int group = call.columns ? 0 : thread;
  others.cur = nullptr, others.buf = nullptr;
  for (int i = 0; i < call.groups(); i++) call.lay_out_rows(arena, i == group ? c : others);

  __builtin_memset(c.sums, 0, 2 * call.total_values() * sizeof(S));
  for (long i = 0, start = 0; i < p.totals; start += LD(p.total_widths[i]), i++) c.total[i] = c.sums + start;
  S* panel = call.panels;
  long turn = 0;  // threads pack the blocks in turn
  for (int i = 0; i < p.panels; i++) {
    const PanelSize& size = p.panel_sizes[i];
    const long all = vectors(size.width);
    for (long first = 0; first < all; first += size.per)
      if (turn++ % call.threads == thread)
        pack_block(panel + first * size.depth * size.count * VL, size, call.in[size.matrix], first,
                   all - first < size.per ? all - first : size.per);
    c.panel[i] = panel;
    panel += size.depth * size.count * all * VL;
  }
  if (call.threads > 1) meet(&call.barrier, call.threads);

  // Rows of all lengths to every thread, or else neighbours in memory.
  const long least = call.B / call.groups(), extra = call.B % call.groups();
  const long rows = least + (group < extra);
  const int* first = call.lengths ? call.order + group : call.order + group * least + (group < extra ? group : extra);
  Rows(call, c, first, call.lengths ? call.groups() : 1, rows).run();
}

static void sort_rows(Call& call, int* places) {
  __builtin_memset(places, 0, (call.T + 2) * sizeof(int));
  for (long b = 0; b < call.B; b++) places[call.T - call.length(b) + 1]++;
  for (long i = 0; i <= call.T; i++) places[i + 1] += places[i];
  for (long b = 0; b < call.B; b++) call.order[places[call.T - call.length(b)]++] = (int)b;
}

// The totals of all threads, in their order.
static void add_totals(const Call& call) {
  const Program& p = call.p;
  const long values = call.total_values();
  S* first = nullptr;
  Arena arena{call.memory, 0};
  for (int thread = 0; thread < call.threads; thread++) {
    Ctx c{};
    call.lay_out_thread(arena, c);
    if (thread == 0) first = c.sums + values;
    else for (long j = 0; j < values; j += VL) store(first + j, load(first + j) + load(c.sums + values + j));
  }
  for (int i = 0; i < p.totals; first += LD(p.total_widths[i]), i++)
    put_row(call.total[i].p, first, nullptr, p.total_widths[i]);
}

// How the threads divide the work: by rows, unless there are fewer rows than threads and a step is long enough for a
// meeting after each of its stages.
static void share(Call& call, int threads, long sharing) {
  call.threads = call.T * call.B * call.p.flops < 200000 ? 1 : threads;
  call.columns = call.threads > 1 && (sharing ? sharing == 2 : call.B < call.threads && call.B * call.p.flops >= 40000);
  if (!call.columns && call.threads > call.B) call.threads = (int)call.B;
}

static int run_program(const Program& p, const int64_t* arguments, int threads) {
  const int64_t* a = arguments;
  Call call{p, (long)a[0], (long)a[1], 1, false, a[3] != 0, (const int64_t*)a[4], (const uint8_t*)a[5]};
  share(call, threads, a[6]);
  const long tables = p.inputs + p.outputs + 2 * p.states + p.totals;
  const long panel_bytes = call.panel_bytes(), sort_bytes = (call.T + 2) * (long)sizeof(int);

  Arena count{nullptr, 0};
  Ctx nothing{};
  for (int i = 0; i < call.threads; i++) call.lay_out_thread(count, nothing);
  for (int i = 0; i < call.groups(); i++) call.lay_out_rows(count, nothing);
  const long work_bytes = count.used;
  count.take<Steps>(tables);
  count.take<int>(call.B);
  count.take<char>(panel_bytes > sort_bytes ? panel_bytes : sort_bytes);
  char* memory = take_memory(count.used);
  if (!memory) return 1;

  Arena arena{memory, work_bytes};
  Steps* table = arena.take<Steps>(tables);
  call.memory = memory;
  call.order = arena.take<int>(call.B);
  call.panels = (S*)arena.take<char>(panel_bytes);
  for (long i = 0; i < tables; i++) table[i] = {(STORED*)a[7 + 3 * i], (long)a[8 + 3 * i], (long)a[9 + 3 * i]};
  call.in = table;
  call.initial = call.in + p.inputs;
  call.out = call.initial + p.states;
  call.final = call.out + p.outputs;
  call.total = call.final + p.states;
  for (int i = 0; i < p.outputs; i++)
    if (call.out[i].p) prefer_large_pages(call.out[i].p, call.T * call.out[i].t_stride * (long)sizeof(STORED));
  if (call.lengths) sort_rows(call, (int*)call.panels);
  else for (long b = 0; b < call.B; b++) call.order[b] = (int)b;

  const bool done = call.threads > 1 ? team(work, &call, call.threads) : (work(&call, 0), true);
  if (done && p.totals) add_totals(call);
  give_memory(memory);
  return done ? 0 : run_program(p, arguments, 1);
}
