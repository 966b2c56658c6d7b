// The time loop around a Program's stages. A generated source includes this file inside the Program's namespace, after
// its sizes (STATES, PANEL_SIZES, ...) and its phases (pre, loop, post). Legend and virtual rows as in driver.hpp.

struct Call {
  const int64_t* a;
  const Core* core;
  long T, B;
  int threads;
  bool backwards;
  const int64_t* lengths;
  const uint8_t* resets;
  bool columns;  // threads share every row, by columns, instead of the rows
  Ctx shared;
  int* order;  // batch rows by falling length
  S* panels;
  char* contexts;
  long context_bytes;
  Barrier barrier;

  long length(long b) const {
    if (!lengths) return T;
    return lengths[b] < 0 ? 0 : lengths[b] < T ? lengths[b] : T;
  }
};

// Takes memory piece by piece; with no memory it only counts.
struct Arena {
  char* p;
  long used;
  template <typename E> E* take(long count) {
    char* at = p + used;
    used += (count * (long)sizeof(E) + 63) / 64 * 64;
    return (E*)at;
  }
};

INLINE long chunk_steps(const Call& call, long rows) {
  long bytes = 0;
  for (int i = 0; i < BUFFERS; i++) if (BUFFER_SIZES[i].chunk) bytes += LD(BUFFER_SIZES[i].width) * sizeof(S);
  long most = OUTSIDE ? (384L << 10) / (bytes ? bytes : 1) : 512;
  most = most < 48 ? 48 : most > 768 ? 768 : most;
  long steps = most / (rows ? rows : 1);
  steps = steps < 1 ? 1 : steps;
  return steps < call.T ? steps : call.T;
}

static void lay_out(Arena& arena, Ctx& c, long rows, long steps, bool resets) {
  for (int i = 0; i < STATES; i++) {
    c.cur[i] = arena.take<S>(rows * LD(STATE_WIDTHS[i]));
    c.nxt[i] = arena.take<S>(rows * LD(STATE_WIDTHS[i]));
    if (ADJOINT && resets) c.restarted[i] = arena.take<S>(rows * LD(STATE_WIDTHS[i]));
  }
  for (int i = 0; i < BUFFERS; i++)
    c.buf[i] = arena.take<S>(rows * (BUFFER_SIZES[i].chunk ? steps : 1) * LD(BUFFER_SIZES[i].width));
}

static void put_row(const Steps& to, long b, const S* from, const S* more, long width) {
  for (long j = 0; j < width; j += VL) {
    V x = load(from + j, width - j);
    if (more) x = x + load(more + j, width - j);
    store(to.at(0, b) + j, x, width - j);
  }
}
static void get_row(S* to, const Steps& from, long b, long width) {
  for (long j = 0; j < width; j += VL) store(to + j, load(from.at(0, b) + j, width - j), width - j);
}

static void run_rows(Call& call, Ctx& c, const int* batch, long stride, long rows) {
  const long T = call.T, steps = chunk_steps(call, rows);
  const bool forward_time = !call.backwards;
  const auto row = [&](long r) { return (long)batch[r * stride]; };
  const long r0 = rows * c.part / c.parts, r1 = rows * (c.part + 1) / c.parts;  // this thread's rows
  const auto leave = [&](long r) {
    for (int s = 0; s < STATES; s++) {
      const long ld = LD(STATE_WIDTHS[s]);
      const S* more = ADJOINT && call.resets ? c.restarted[s] + r * ld : nullptr;
      put_row(c.final[s], row(r), c.cur[s] + r * ld, more, STATE_WIDTHS[s]);
    }
  };
  for (long r = r0; r < r1; r++)
    for (int s = 0; s < STATES; s++) {
      const long ld = LD(STATE_WIDTHS[s]);
      get_row(c.cur[s] + r * ld, c.initial[s], row(r), STATE_WIDTHS[s]);
      const int before = BEFORE[s];
      if (before >= 0 && !c.out[before].p) {
        const Steps slot{(STORED*)c.out[before].t_stride, 0, c.out[before].b_stride};
        put_row(slot, row(r), c.cur[s] + r * ld, nullptr, STATE_WIDTHS[s]);
      }
      if (!forward_time) memcpy(c.nxt[s] + r * ld, c.cur[s] + r * ld, ld * sizeof(S));
      if (ADJOINT && call.resets) memset(c.restarted[s] + r * ld, 0, ld * sizeof(S));
    }
  c.wait();

  const auto running = [&](long t) {  // rows whose length exceeds t
    long low = 0, high = rows;
    while (low < high) {
      const long middle = (low + high) / 2;
      if (call.length(row(middle)) > t) low = middle + 1; else high = middle;
    }
    return low;
  };
  long active = forward_time ? running(0) : 0;
  if (forward_time) for (long r = active > r0 ? active : r0; r < r1; r++) leave(r);
  long offsets[1025];
  for (long begin = 0; begin < T; begin += steps) {
    const long count = T - begin < steps ? T - begin : steps;
    long total = 0;
    for (long i = 0; i < count; i++) {
      const long t = forward_time ? begin + i : T - 1 - begin - i, n = running(t);
      offsets[i] = total;
      for (long r = 0; r < n; r++) c.tm[total + r] = (int)t, c.bm[total + r] = (int)row(r);
      total += n;
      for (long r = n > r0 ? n : r0; r < r1; r++)
        for (int o = 0; o < OUTPUTS; o++) memset((void*)c.out[o].at(t, row(r)), 0, OUTPUT_WIDTHS[o] * sizeof(STORED));
    }
    offsets[count] = total;
    if (total == 0) continue;
    pre(c, 0, total);
    for (long i = 0; i < count; i++) {
      const long t = forward_time ? begin + i : T - 1 - begin - i;
      const long m0 = offsets[i], n = offsets[i + 1] - m0;
      if (forward_time) for (long r = n > r0 ? n : r0; r < r1 && r < active; r++) leave(r);
      active = n;
      if (n == 0) continue;
      if (!ADJOINT && call.resets) {
        for (long r = r0; r < r1 && r < n; r++)
          if (call.resets[t * call.B + row(r)])
            for (int s = 0; s < STATES; s++)
              get_row(c.cur[s] + r * LD(STATE_WIDTHS[s]), c.initial[s], row(r), STATE_WIDTHS[s]);
        c.wait();
      }
      loop(c, m0, m0 + n);
      if (ADJOINT && call.resets) {
        for (long r = r0; r < r1 && r < n; r++)
          if (call.resets[t * call.B + row(r)])
            for (int s = 0; s < STATES; s++) {
              S *state = c.nxt[s] + r * LD(STATE_WIDTHS[s]), *sum = c.restarted[s] + r * LD(STATE_WIDTHS[s]);
              for (long j = 0; j < STATE_WIDTHS[s]; j++) sum[j] += state[j], state[j] = 0;
            }
        c.wait();
      }
      for (int s = 0; s < STATES; s++) { S* other = c.cur[s]; c.cur[s] = c.nxt[s]; c.nxt[s] = other; }
    }
    post(c, 0, total);
  }
  for (long r = r0; r < r1 && r < active; r++) leave(r);
  if (!forward_time) for (long r = active > r0 ? active : r0; r < r1; r++) leave(r);
}

static void work(void* context, int part) {
  Call& call = *(Call*)context;
  // Panels are packed together, block by block in turn.
  long turn = 0;
  S* panel = call.panels;
  Ctx c = call.shared;
  for (int i = 0; i < PANELS; i++) {
    const PanelSize& size = PANEL_SIZES[i];
    const Steps& matrix = c.in[size.matrix];
    const long all = vectors(size.width);
    for (long first = 0; first < all; first += size.per, turn++) {
      if (turn % call.threads != part) continue;
      const long here = all - first < size.per ? all - first : size.per;
      pack_block(panel + first * size.depth * size.count * VL, matrix.p,
                 size.transposed ? matrix.b_stride : matrix.t_stride,
                 size.transposed ? matrix.t_stride : matrix.b_stride, size, first, here);
    }
    c.panel[i] = panel;
    panel += size.depth * size.count * all * VL;
  }
  if (call.threads > 1) call.barrier.wait(call.threads);
  const int sharers = call.columns ? call.threads : 1, groups = call.threads / sharers;
  const int group = part / sharers;
  const long least = call.B / groups, extra = call.B % groups;
  const long rows = least + (group < extra), most = least + (extra > 0);
  Arena arena{call.contexts + group * call.context_bytes, 0};
  const long steps = chunk_steps(call, rows);
  lay_out(arena, c, most, chunk_steps(call, most) > steps ? chunk_steps(call, most) : steps, call.resets);
  Arena own{call.contexts + groups * call.context_bytes, 0};
  const long virtual_rows = most * (steps + 1) + 1;
  for (int i = 0; i <= part; i++) {
    c.tile = own.take<S>(TILE * MOST_PIECES * 4 * VL);
    c.tm = own.take<int>(virtual_rows + 1024);
    c.bm = own.take<int>(virtual_rows + 1024);
  }
  c.part = part % sharers;
  c.parts = sharers;
  c.barrier = &call.barrier;
  if (call.lengths) run_rows(call, c, call.order + group, groups, rows);
  else run_rows(call, c, call.order + group * least + (group < extra ? group : extra), 1, rows);
}

static int drive(const int64_t* a, int threads) {
  Call call{};
  call.a = a;
  call.core = (const Core*)a[0];
  call.T = a[1];
  call.B = a[2];
  call.threads = threads;
  call.backwards = a[4];
  call.lengths = (const int64_t*)a[5];
  call.resets = (const uint8_t*)a[6];
  const long sharing = a[7];
  Ctx& c = call.shared;
  c.core = call.core;
  const int64_t* next = a + 8;
  const auto steps_of = [&](Steps& s) { s = {(STORED*)next[0], (long)next[1], (long)next[2]}; next += 3; };
  for (int i = 0; i < INPUTS; i++) steps_of(c.in[i]);
  for (int i = 0; i < STATES; i++) steps_of(c.initial[i]);
  for (int i = 0; i < OUTPUTS; i++) steps_of(c.out[i]);
  for (int i = 0; i < STATES; i++) steps_of(c.final[i]);
  const long B = call.B;
  if (call.T * B * FLOPS < 200000) call.threads = 1;
  if (sharing) call.columns = sharing == 2;
  else call.columns = B < 4 * call.threads;
  if (call.threads == 1) call.columns = false;
  if (!call.columns && call.threads > B) call.threads = (int)B;

  const int groups = call.columns ? 1 : call.threads;
  const long most = (B + groups - 1) / groups, least = B / groups;
  const long steps = chunk_steps(call, least) > chunk_steps(call, most) ? chunk_steps(call, least) : chunk_steps(call, most);
  Arena arena{nullptr, 0};
  Ctx sizes{};
  long panel_values = 0;
  for (int i = 0; i < PANELS; i++)
    panel_values += PANEL_SIZES[i].depth * PANEL_SIZES[i].count * vectors(PANEL_SIZES[i].width) * VL;
  const long panel_bytes = panel_values * (long)sizeof(S), counts = (call.T + 2) * (long)sizeof(int);
  const long shared_bytes = panel_bytes > counts ? panel_bytes : counts;
  arena.take<char>(shared_bytes);
  arena.take<int>(B);
  const long before = arena.used;
  lay_out(arena, sizes, most, steps, call.resets);
  call.context_bytes = arena.used - before;
  arena.used = before + groups * call.context_bytes;
  for (int i = 0; i < call.threads; i++) {
    arena.take<S>(TILE * MOST_PIECES * 4 * VL);
    arena.take<int>(most * (steps + 1) + 1 + 1024);
    arena.take<int>(most * (steps + 1) + 1 + 1024);
  }
  char* memory = (char*)call.core->take(arena.used);
  if (!memory) return 1;
  Arena real{memory, 0};
  call.panels = (S*)real.take<char>(shared_bytes);
  call.order = real.take<int>(B);
  call.contexts = memory + real.used;

  if (call.lengths) {  // longest first; rows of one length in the order of the batch
    int* place = (int*)memory;  // the panels are not packed yet
    memset(place, 0, (call.T + 2) * sizeof(int));
    for (long b = 0; b < B; b++) place[call.T - call.length(b) + 1]++;
    for (long i = 0; i <= call.T; i++) place[i + 1] += place[i];
    for (long b = 0; b < B; b++) call.order[place[call.T - call.length(b)]++] = (int)b;
  } else {
    for (long b = 0; b < B; b++) call.order[b] = (int)b;
  }
  if (call.threads == 1) work(&call, 0);
  else if (!call.core->team(work, &call, call.threads)) {
    call.core->give(memory);
    return drive(a, 1);
  }
  call.core->give(memory);
  return 0;
}
