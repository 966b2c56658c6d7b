// Weights into panels: [column block][depth][operand's pieces][vectors of the block], as the micro-kernels read them.
#pragma once

#if defined(__clang__) || __GNUC__ >= 12
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

// One vector of columns: element (k, column) of the matrix stands at p[k * k_stride + column * c_stride].
static void pack_columns(S* to, long ld, const STORED* p, long k_stride, long c_stride, long depth, long n) {
  if (c_stride == 1) {
    for (long k = 0; k < depth; k++) store(to + k * ld, load(p + k * k_stride, n));
  } else if (k_stride == 1) {
    for (long k = 0; k < depth; k += VL) {
      V rows[VL];
      const long deep = depth - k < VL ? depth - k : VL;
      for (long i = 0; i < VL; i++) rows[i] = i < n ? load(p + i * c_stride + k, deep) : V{};
      transpose(rows);
      for (long i = 0; i < deep; i++) store(to + (k + i) * ld, rows[i]);
    }
  } else {
    for (long k = 0; k < depth; k++)
      for (long i = 0; i < VL; i++) to[k * ld + i] = i < n ? load_one(p + k * k_stride + i * c_stride) : 0;
  }
}

// The block of a panel that starts at vector `first` and has `here` vectors of each piece.
static void pack_block(S* panel, const PanelSize& size, const Steps& matrix, long first, long here) {
  const long k_stride = size.transposed ? matrix.b_stride : matrix.t_stride;
  const long c_stride = size.transposed ? matrix.t_stride : matrix.b_stride;
  for (int piece = 0; piece < size.count; piece++)
    for (long q = 0; q < here; q++) {
      const long j = (first + q) * VL, n = size.width - j < VL ? size.width - j : VL;
      pack_columns(panel + (piece * here + q) * VL, size.count * here * VL,
                   matrix.p + (size.starts[piece] + j) * c_stride, k_stride, c_stride, size.depth, n);
    }
}
