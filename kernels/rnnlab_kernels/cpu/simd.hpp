// Vectors of the machine's own width, and elementary functions on them.
//
// REAL is the type of the arithmetic (float or double). A vector is a GCC/Clang vector extension, so the same text
// compiles for AVX-512, AVX2 and NEON. `n` in loads and stores is the number of columns left: lanes past it are
// neither read nor written. No function here may need -ffast-math: NaN and infinity behave as in the C library.
#pragma once

#include <stdint.h>
#if defined(__AVX512F__) && defined(__clang__)
#include <immintrin.h>
#endif

#define INLINE static inline __attribute__((always_inline))

typedef REAL S;
#if defined(__AVX512F__)
constexpr int VBYTES = 64;
#elif defined(__AVX__)
constexpr int VBYTES = 32;
#else
constexpr int VBYTES = 16;
#endif
constexpr long VL = VBYTES / sizeof(S);
constexpr bool DOUBLE = sizeof(S) == 8;

template <int size> struct Integer;
template <> struct Integer<4> { typedef int32_t type; };
template <> struct Integer<8> { typedef int64_t type; };
typedef Integer<sizeof(S)>::type Int;
typedef S V __attribute__((vector_size(VBYTES)));
typedef Int VI __attribute__((vector_size(VBYTES)));  // also a comparison's result: all bits or none

struct bf16 { uint16_t bits; };

#if defined(__AVX512F__)
// The few instructions that vector extensions lack. GCC reads them from its builtins, since parsing immintrin.h alone
// would take as long as the rest of the compilation.
typedef float V32 __attribute__((vector_size(64)));
typedef double V64 __attribute__((vector_size(64)));
#if defined(__clang__)
INLINE V32 masked_load(const float* p, unsigned m) { return (V32)_mm512_maskz_loadu_ps((__mmask16)m, p); }
INLINE V64 masked_load(const double* p, unsigned m) { return (V64)_mm512_maskz_loadu_pd((__mmask8)m, p); }
INLINE void masked_store(float* p, V32 v, unsigned m) { _mm512_mask_storeu_ps(p, (__mmask16)m, (__m512)v); }
INLINE void masked_store(double* p, V64 v, unsigned m) { _mm512_mask_storeu_pd(p, (__mmask8)m, (__m512d)v); }
INLINE V32 vector_sqrt(V32 v) { return (V32)_mm512_sqrt_ps((__m512)v); }
INLINE V64 vector_sqrt(V64 v) { return (V64)_mm512_sqrt_pd((__m512d)v); }
INLINE V32 rough_inverse(V32 v) { return (V32)_mm512_rcp14_ps((__m512)v); }
INLINE V32 second_if_nan_max(V32 a, V32 b) { return (V32)_mm512_max_ps((__m512)a, (__m512)b); }
INLINE V64 second_if_nan_max(V64 a, V64 b) { return (V64)_mm512_max_pd((__m512d)a, (__m512d)b); }
INLINE V32 second_if_nan_min(V32 a, V32 b) { return (V32)_mm512_min_ps((__m512)a, (__m512)b); }
INLINE V64 second_if_nan_min(V64 a, V64 b) { return (V64)_mm512_min_pd((__m512d)a, (__m512d)b); }
#else
INLINE V32 masked_load(const float* p, unsigned m) {
  return __builtin_ia32_loadups512_mask(p, V32{}, (unsigned short)m);
}
INLINE V64 masked_load(const double* p, unsigned m) {
  return __builtin_ia32_loadupd512_mask(p, V64{}, (unsigned char)m);
}
INLINE void masked_store(float* p, V32 v, unsigned m) { __builtin_ia32_storeups512_mask(p, v, (unsigned short)m); }
INLINE void masked_store(double* p, V64 v, unsigned m) { __builtin_ia32_storeupd512_mask(p, v, (unsigned char)m); }
constexpr int AS_SET = 4;  // round as the control register says
INLINE V32 vector_sqrt(V32 v) { return __builtin_ia32_sqrtps512_mask(v, v, -1, AS_SET); }
INLINE V64 vector_sqrt(V64 v) { return __builtin_ia32_sqrtpd512_mask(v, v, -1, AS_SET); }
INLINE V32 rough_inverse(V32 v) { return __builtin_ia32_rcp14ps512_mask(v, v, -1); }
INLINE V32 second_if_nan_max(V32 a, V32 b) { return __builtin_ia32_maxps512_mask(a, b, b, -1, AS_SET); }
INLINE V64 second_if_nan_max(V64 a, V64 b) { return __builtin_ia32_maxpd512_mask(a, b, b, -1, AS_SET); }
INLINE V32 second_if_nan_min(V32 a, V32 b) { return __builtin_ia32_minps512_mask(a, b, b, -1, AS_SET); }
INLINE V64 second_if_nan_min(V64 a, V64 b) { return __builtin_ia32_minpd512_mask(a, b, b, -1, AS_SET); }
#endif
INLINE unsigned lane_mask(long n) { return n >= VL ? (1u << VL) - 1 : (1u << n) - 1; }
#endif

INLINE V all(S x) { return V{} + x; }
INLINE VI alli(Int x) { return VI{} + x; }
INLINE V choose(VI mask, V yes, V no) { return mask ? yes : no; }
INLINE V as_real(VI x) { return (V)x; }
INLINE VI as_int(V x) { return (VI)x; }

// Loads and stores of whole vectors.
INLINE V load(const S* p) { V v; __builtin_memcpy(&v, p, sizeof v); return v; }
INLINE void store(S* p, V v) { __builtin_memcpy(p, &v, sizeof v); }

// Loads and stores of the first n lanes.
INLINE V load(const S* p, long n) {
#if defined(__AVX512F__)
  return masked_load(p, lane_mask(n));
#else
  if (n >= VL) return load(p);
  V v{};
  __builtin_memcpy(&v, p, n * sizeof(S));
  return v;
#endif
}
INLINE void store(S* p, V v, long n) {
#if defined(__AVX512F__)
  masked_store(p, v, lane_mask(n));
#else
  if (n >= VL) store(p, v);
  else __builtin_memcpy(p, &v, n * sizeof(S));
#endif
}
INLINE void add(S* p, V v, long n) { store(p, load(p, n) + v, n); }

INLINE float widen(bf16 x) { uint32_t u = (uint32_t)x.bits << 16; float f; __builtin_memcpy(&f, &u, 4); return f; }
INLINE bf16 narrow(float x) {
  uint32_t u;
  __builtin_memcpy(&u, &x, 4);
  if (x != x) return {(uint16_t)0x7fc0};
  return {(uint16_t)((u + 0x7fff + ((u >> 16) & 1)) >> 16)};
}
typedef uint16_t Half __attribute__((vector_size(VBYTES / sizeof(S) * 2)));
typedef uint32_t Wide __attribute__((vector_size(VBYTES / sizeof(S) * 4)));
INLINE V load(const bf16* p, long n) {
  Half half{};
  if (n >= VL) __builtin_memcpy(&half, p, sizeof half);
  else __builtin_memcpy(&half, p, n * sizeof(bf16));
  Wide bits = __builtin_convertvector(half, Wide) << 16;
  V v{};
  __builtin_memcpy(&v, &bits, sizeof bits);  // only float arithmetic stores bfloat16, and then the sizes are equal
  return v;
}
INLINE void store(bf16* p, V v, long n) {
  Wide bits{};
  __builtin_memcpy(&bits, &v, sizeof bits);
  Wide rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  Wide nan = (Wide)((bits & 0x7fffffff) > 0x7f800000);
  Half half = __builtin_convertvector((rounded & ~nan) | (nan & 0x7fc0), Half);
  if (n >= VL) __builtin_memcpy(p, &half, sizeof half);
  else __builtin_memcpy(p, &half, n * sizeof(bf16));
}
INLINE S load_one(const S* p) { return *p; }
INLINE S load_one(const bf16* p) { return widen(*p); }
INLINE void store_one(S* p, S v) { *p = v; }
INLINE void store_one(bf16* p, S v) { *p = narrow(v); }

// Each lane from the one `by` places on.
#if defined(__clang__) || __GNUC__ >= 12
template <long... i> struct Indices {};
template <long n, long... i> struct Count : Count<n - 1, n - 1, i...> {};
template <long... i> struct Count<0, i...> { typedef Indices<i...> type; };
template <long by, long... i> INLINE V rotate(V v, Indices<i...>) {
  return __builtin_shufflevector(v, v, ((i + by) % VL)...);
}
template <long by> INLINE V rotate(V v) { return rotate<by>(v, typename Count<VL>::type()); }
#else
template <long by> INLINE V rotate(V v) {
  V y;
  for (long i = 0; i < VL; i++) y[i] = v[(i + by) % VL];
  return y;
}
#endif
// The sum of the lanes in each of them, in one fixed order.
template <long by = VL / 2> INLINE V sum_lanes(V v) {
  if constexpr (by == 0) return v;
  else return sum_lanes<by / 2>(v + rotate<by>(v));
}
INLINE V vmax(V a, V b) { V m = a > b ? a : b; return a != a ? a : m; }
INLINE V vmin(V a, V b) { V m = a < b ? a : b; return a != a ? a : m; }
template <long by = VL / 2> INLINE V max_lanes(V v) {
  if constexpr (by == 0) return v;
  else return max_lanes<by / 2>(vmax(v, rotate<by>(v)));
}

INLINE V vabs(V x) { return as_real(as_int(x) & (Int)~((Int)1 << (sizeof(S) * 8 - 1))); }
INLINE V vneg(V x) { return as_real(as_int(x) ^ (Int)((Int)1 << (sizeof(S) * 8 - 1))); }
INLINE V copysign_of(V magnitude, V sign) {
  const Int bit = (Int)((Int)1 << (sizeof(S) * 8 - 1));
  return as_real((as_int(magnitude) & ~bit) | (as_int(sign) & bit));
}
INLINE V vsign(V x) { return x > 0 ? all(1) : (x < 0 ? all(-1) : V{}); }  // of a NaN zero, as in torch
INLINE V vrelu(V x) { return x < 0 ? V{} : x; }
INLINE V vsqrt(V x) {
#if defined(__AVX512F__)
  return vector_sqrt(x);
#else
  V y;
  for (long i = 0; i < VL; i++) y[i] = DOUBLE ? __builtin_sqrt(x[i]) : __builtin_sqrtf(x[i]);
  return y;
#endif
}
INLINE V vrsqrt(V x) { return 1 / vsqrt(x); }

// 1/d for d that is finite, normal and whose inverse is normal: a short Newton step where the machine has one.
INLINE V quick_inverse(V d) {
#if defined(__AVX512F__)
  if constexpr (!DOUBLE) {
    V y = (V)rough_inverse((V32)d);
    return y + y * (1 - d * y);
  }
#endif
  return 1 / d;
}

// exp(x) - 1 = p, reduced: x = n log(2) + r, p = exp(r) - 1. `scale` is 2^n, for n within the normal exponents.
struct Reduced { V p; V n; };
INLINE Reduced reduce_exp(V x) {
  const S magic = DOUBLE ? (S)6755399441055744.0 : (S)12582912.0f;  // rounds to an integer when added
  V n = (x * (S)1.4426950408889634074 + magic) - magic;
  V r = x - n * (DOUBLE ? (S)6.93147180369123816490e-01 : (S)0.693145751953125f);
  r = r - n * (DOUBLE ? (S)1.90821492927058770002e-10 : (S)1.42860682030941723212e-6f);
  V q;
  if constexpr (DOUBLE) {
    q = all((S)(1.0 / 6227020800.0));
    q = q * r + (S)(1.0 / 479001600.0);
    q = q * r + (S)(1.0 / 39916800.0);
    q = q * r + (S)(1.0 / 3628800.0);
    q = q * r + (S)(1.0 / 362880.0);
    q = q * r + (S)(1.0 / 40320.0);
    q = q * r + (S)(1.0 / 5040.0);
    q = q * r + (S)(1.0 / 720.0);
    q = q * r + (S)(1.0 / 120.0);
    q = q * r + (S)(1.0 / 24.0);
    q = q * r + (S)(1.0 / 6.0);
  } else {
    q = all((S)0.0013946581166237593);
    q = q * r + (S)0.008366659283638;
    q = q * r + (S)0.04166628047823906;
    q = q * r + (S)0.16666541993618011;
  }
  q = q * r + (S)0.5;
  return {r + (r * r) * q, n};
}
INLINE V power_of_two(V n) {  // n an integer within the normal exponents
  const S magic = DOUBLE ? (S)6755399441055744.0 : (S)12582912.0f;
  const int mantissa = DOUBLE ? 52 : 23;
  return as_real((as_int(n + magic) + (Int)(DOUBLE ? 1023 : 127)) << mantissa);
}
INLINE V clamp_range(V x, S low, S high) {  // a NaN stays
#if defined(__AVX512F__)
  return second_if_nan_min(all(high), second_if_nan_max(all(low), x));
#else
  x = x < low ? all(low) : x;
  return x > high ? all(high) : x;
#endif
}

INLINE V vexp(V x) {
  x = clamp_range(x, DOUBLE ? (S)-746.0 : (S)-104.0, DOUBLE ? (S)710.0 : (S)89.0);
  Reduced e = reduce_exp(x);
  // Two factors, since 2^n itself may overflow or be subnormal.
  const S magic = DOUBLE ? (S)6755399441055744.0 : (S)12582912.0f;
  V half = (e.n * (S)0.5 + magic) - magic;
  return ((1 + e.p) * power_of_two(half)) * power_of_two(e.n - half);
}
INLINE V vexpm1(V x) {
  V big = vexp(x) - 1;
  V inside = clamp_range(x, (S)-40, (S)40);
  Reduced e = reduce_exp(inside);
  V scale = power_of_two(e.n);
  V small = scale * e.p + (scale - 1);
  V y = inside == x ? small : big;
  return x == 0 ? x : y;
}
// 1 / (1 + exp(-x))
INLINE V vsigmoid(V x) {
  const S limit = DOUBLE ? (S)708.0 : (S)87.33;  // below, the result is no normal number
  V z = clamp_range(x, -limit, limit);
  Reduced e = reduce_exp(-z);
  V scale = power_of_two(e.n);
  V y = quick_inverse(1 + (scale + scale * e.p));
  return x < -limit ? V{} : y;
}
// In double, m / (m + 2) with m = exp(2x) - 1. In float, an odd polynomial fitted to what lies below 0.625, and
// 1 - 2 / (exp(2|x|) + 1) above: the subtraction rounds the quotient's error away, so that 1 - tanh^2, which
// gradients need, keeps its precision.
INLINE V vtanh(V x) {
  if constexpr (DOUBLE) {
    V z = clamp_range(x, (S)-20, (S)20);
    Reduced e = reduce_exp(z + z);
    V scale = power_of_two(e.n);
    V m = scale * e.p + (scale - 1);
    return vabs(x) < (S)1e-9 ? x : m / (m + 2);
  }
  V a = vabs(x), z = x * x, q = all((S)-0.005704978373266316);
  q = q * z + (S)0.02063907874040143;
  q = q * z + (S)-0.05373971215647922;
  q = q * z + (S)0.13331442157531076;
  q = q * z + (S)-0.33333281940181925;
  V small = x + (x * z) * q;
  a = clamp_range(a, (S)0, (S)9.1);
  Reduced e = reduce_exp(a + a);
  V scale = power_of_two(e.n);
  V big = 1 - 2 * quick_inverse(1 + (scale + scale * e.p));
  return copysign_of(a < (S)0.625 ? small : big, x);
}
// log(2^k (1+f)), with the atanh series of fdlibm: log(1+f) = f - (f^2/2 - s (f^2/2 + R)), s = f / (2+f)
INLINE V log_reduced(V f, V k, V correction) {
  V s = f / (2 + f), z = s * s, half = (S)0.5 * f * f, r;
  if constexpr (DOUBLE) {
    r = all((S)(2.0 / 23));
    r = r * z + (S)(2.0 / 21);
    r = r * z + (S)(2.0 / 19);
    r = r * z + (S)(2.0 / 17);
    r = r * z + (S)(2.0 / 15);
    r = r * z + (S)(2.0 / 13);
    r = r * z + (S)(2.0 / 11);
    r = r * z + (S)(2.0 / 9);
    r = r * z + (S)(2.0 / 7);
  } else {
    r = all((S)(2.0 / 9));
    r = r * z + (S)(2.0 / 7);
  }
  r = r * z + (S)(2.0 / 5);
  r = r * z + (S)(2.0 / 3);
  r = r * z;
  const S high = DOUBLE ? (S)6.93147180369123816490e-01 : (S)0.693145751953125f;
  const S low = DOUBLE ? (S)1.90821492927058770002e-10 : (S)1.42860682030941723212e-6f;
  return k * high + (f - (half - (s * (half + r) + (k * low + correction))));
}
struct Split { V f; V k; };
INLINE Split split_log(V x) {  // x = 2^k (1+f), 1+f in [__builtin_sqrt(1/2), __builtin_sqrt(2))
  const int mantissa = DOUBLE ? 52 : 23;
  const S tiny = DOUBLE ? (S)2.2250738585072014e-308 : (S)1.17549435e-38f;
  VI subnormal = x < tiny;
  V scaled = x * (DOUBLE ? (S)18014398509481984.0 : (S)33554432.0f);  // 2^54 and 2^25
  V y = subnormal ? scaled : x;
  const Int offset = DOUBLE ? (Int)0x3fe6a09e667f3bcdLL : (Int)0x3f3504f3;
  VI bits = as_int(y) - offset;
  VI k = bits >> mantissa;
  V one_f = as_real((bits & (Int)(((Int)1 << mantissa) - 1)) + offset);
  V kr = __builtin_convertvector(k, V) - (subnormal ? all(DOUBLE ? (S)54 : (S)25) : V{});
  return {one_f - 1, kr};
}
INLINE V log_special(V x, V y) {
  y = x == 0 ? all(-(S)__builtin_inf()) : y;
  y = x < 0 ? all((S)__builtin_nan("")) : y;
  return (x == (S)__builtin_inf()) | (x != x) ? x : y;
}
INLINE V vlog(V x) {
  Split s = split_log(x);
  return log_special(x, log_reduced(s.f, s.k, V{}));
}
INLINE V vlog1p(V x) {
  V u = 1 + x;
  // What the sum rounded away, relative to u, by the difference that is exact.
  V lost = x > 1 ? (1 - (u - x)) : (x - (u - 1));
  Split s = split_log(u);
  V y = log_special(u, log_reduced(s.f, s.k, u > 0 ? lost / u : V{}));
  return vabs(x) < (S)1e-8 ? (DOUBLE ? x - (S)0.5 * x * x : x) : y;
}

#define LANES(name, call)                            \
  static __attribute__((noinline)) V name(V x) {     \
    V y;                                             \
    for (long i = 0; i < VL; i++) y[i] = (S)call;    \
    return y;                                        \
  }
LANES(vsin, (DOUBLE ? __builtin_sin(x[i]) : __builtin_sinf(x[i])))
LANES(vcos, (DOUBLE ? __builtin_cos(x[i]) : __builtin_cosf(x[i])))
LANES(verf, (DOUBLE ? __builtin_erf(x[i]) : __builtin_erff(x[i])))
static __attribute__((noinline)) V vpow(V x, V e) {
  V y;
  for (long i = 0; i < VL; i++) y[i] = (S)(DOUBLE ? __builtin_pow(x[i], e[i]) : __builtin_powf(x[i], e[i]));
  return y;
}
