// Vectors of one ISA, for the translation units compiled with that ISA's flags (DEPTHWISE_ISA names it).
//
// Everything is internal to the including unit (anonymous namespace), and no standard header with templates
// is used: an inline function emitted here with weak linkage could replace the copy that older machines run.
#pragma once

#include <cstddef>
#include <cstdint>

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#define DEPTHWISE_INLINE inline __attribute__((always_inline))

// The constraint of a vector register in inline assembly.
#if defined(__AVX512F__)
#define DEPTHWISE_VECTOR_REGISTER "v"
#elif defined(__x86_64__)
#define DEPTHWISE_VECTOR_REGISTER "x"
#else
#define DEPTHWISE_VECTOR_REGISTER "w"
#endif

namespace {
namespace simd {

#if defined(__AVX512F__)
inline constexpr int kVectorBytes = 64, kRegisters = 32;
#elif defined(__AVX2__)
inline constexpr int kVectorBytes = 32, kRegisters = 16;
#elif defined(__aarch64__)
inline constexpr int kVectorBytes = 16, kRegisters = 32;
#else
inline constexpr int kVectorBytes = 16, kRegisters = 16;
#endif

struct f16 {
  std::uint16_t bits;
};
struct bf16 {
  std::uint16_t bits;
};

// Whether the registers hold the sums of large tiles and all their weights.
inline constexpr bool kManyRegisters = kRegisters >= 32;

// Whether fma() is one instruction, which needs no register for the product.
#if defined(__FMA__) || defined(__aarch64__)
inline constexpr bool kFused = true;
#else
inline constexpr bool kFused = false;
#endif

template <class T>
inline constexpr int kLanes = kVectorBytes / static_cast<int>(sizeof(T));

// Vector types by element; `_u` may sit at any element's address.
template <class T>
struct types;
template <>
struct types<float> {
  using integer = std::int32_t;
  typedef float vec __attribute__((vector_size(kVectorBytes)));
  typedef float vec_u __attribute__((vector_size(kVectorBytes), aligned(4), may_alias));
  typedef integer idx __attribute__((vector_size(kVectorBytes)));
};
template <>
struct types<double> {
  using integer = std::int64_t;
  typedef double vec __attribute__((vector_size(kVectorBytes)));
  typedef double vec_u __attribute__((vector_size(kVectorBytes), aligned(8), may_alias));
  typedef integer idx __attribute__((vector_size(kVectorBytes)));
};
template <class T>
using vec = typename types<T>::vec;
template <class T>
using index_vec = typename types<T>::idx;
template <class T>
using integer = typename types<T>::integer;
typedef std::uint32_t u32vec __attribute__((vector_size(kVectorBytes)));
typedef std::uint16_t u16half __attribute__((vector_size(kVectorBytes / 2)));

// What a storage type computes in.
template <class S>
struct compute_of {
  using type = float;
};
template <>
struct compute_of<double> {
  using type = double;
};
template <class S>
using compute_t = typename compute_of<S>::type;

// Subtracting +0 leaves every value as it is; adding it would lose the sign of -0.
template <class T>
DEPTHWISE_INLINE vec<T> broadcast(T x) {
  return x - vec<T>{};
}

// acc + x*y, rounded once where the ISA can; scalar and vector forms round alike.
DEPTHWISE_INLINE vec<float> fma(vec<float> x, vec<float> y, vec<float> acc) {
#if defined(__AVX512F__)
  return (vec<float>)_mm512_fmadd_ps((__m512)x, (__m512)y, (__m512)acc);
#elif defined(__FMA__)
  return (vec<float>)_mm256_fmadd_ps((__m256)x, (__m256)y, (__m256)acc);
#elif defined(__aarch64__)
  return (vec<float>)vfmaq_f32((float32x4_t)acc, (float32x4_t)x, (float32x4_t)y);
#else
  return acc + x * y;
#endif
}
DEPTHWISE_INLINE vec<double> fma(vec<double> x, vec<double> y, vec<double> acc) {
#if defined(__AVX512F__)
  return (vec<double>)_mm512_fmadd_pd((__m512d)x, (__m512d)y, (__m512d)acc);
#elif defined(__FMA__)
  return (vec<double>)_mm256_fmadd_pd((__m256d)x, (__m256d)y, (__m256d)acc);
#elif defined(__aarch64__)
  return (vec<double>)vfmaq_f64((float64x2_t)acc, (float64x2_t)x, (float64x2_t)y);
#else
  return acc + x * y;
#endif
}
#if defined(__FMA__) || defined(__aarch64__)
DEPTHWISE_INLINE float fma(float x, float y, float acc) { return __builtin_fmaf(x, y, acc); }
DEPTHWISE_INLINE double fma(double x, double y, double acc) { return __builtin_fma(x, y, acc); }
#else
DEPTHWISE_INLINE float fma(float x, float y, float acc) { return acc + x * y; }
DEPTHWISE_INLINE double fma(double x, double y, double acc) { return acc + x * y; }
#endif

// lanes[i] = x[indices[i]], indices below the number of lanes.
template <class T>
DEPTHWISE_INLINE vec<T> permute(vec<T> x, index_vec<T> indices) {
#if defined(__clang__)
  vec<T> r;
  for (int i = 0; i < kLanes<T>; ++i) r[i] = x[indices[i]];
  return r;
#else
  return __builtin_shuffle(x, indices);
#endif
}

// lanes[i] = the element indices[i] of x followed by y, indices below twice the number of lanes.
template <class T>
DEPTHWISE_INLINE vec<T> permute(vec<T> x, vec<T> y, index_vec<T> indices) {
#if defined(__clang__)
  vec<T> r;
  for (int i = 0; i < kLanes<T>; ++i)
    r[i] = indices[i] < kLanes<T> ? x[indices[i]] : y[indices[i] - kLanes<T>];
  return r;
#else
  return __builtin_shuffle(x, y, indices);
#endif
}

// Of products with 0: whether all factors were finite.
#if defined(__AVX512F__)
DEPTHWISE_INLINE int zeros(vec<float> x) {
  return _mm512_cmp_ps_mask((__m512)x, _mm512_setzero_ps(), _CMP_EQ_OQ);
}
DEPTHWISE_INLINE int zeros(vec<double> x) {
  return _mm512_cmp_pd_mask((__m512d)x, _mm512_setzero_pd(), _CMP_EQ_OQ);
}
#elif defined(__AVX2__)
DEPTHWISE_INLINE int zeros(vec<float> x) {
  return _mm256_movemask_ps(_mm256_cmp_ps((__m256)x, _mm256_setzero_ps(), _CMP_EQ_OQ));
}
DEPTHWISE_INLINE int zeros(vec<double> x) {
  return _mm256_movemask_pd(_mm256_cmp_pd((__m256d)x, _mm256_setzero_pd(), _CMP_EQ_OQ));
}
#else
template <class V>
DEPTHWISE_INLINE int zeros(V x) {
  int lanes = 0;
  for (int i = 0; i < static_cast<int>(sizeof x / sizeof x[0]); ++i) lanes |= (x[i] == 0) << i;
  return lanes;
}
#endif
template <class T>
DEPTHWISE_INLINE bool all_zero(vec<T> x) {
  return zeros(x) == (1 << kLanes<T>)-1;
}

// ---- 16-bit floats
// ---------------------------------------------------------------------------------------------

// Between 16 and 32 bits: of the instructions that do it, the compiler's own conversions take many.
#if defined(__AVX512F__)
DEPTHWISE_INLINE u32vec widen_bits(u16half h) { return (u32vec)_mm512_cvtepu16_epi32((__m256i)h); }
DEPTHWISE_INLINE u16half narrow_bits(u32vec u) { return (u16half)_mm512_cvtepi32_epi16((__m512i)u); }
#elif defined(__AVX2__)
DEPTHWISE_INLINE u32vec widen_bits(u16half h) { return (u32vec)_mm256_cvtepu16_epi32((__m128i)h); }
DEPTHWISE_INLINE u16half narrow_bits(u32vec u) {
  return (u16half)_mm_packus_epi32(_mm256_castsi256_si128((__m256i)u),
                                   _mm256_extracti128_si256((__m256i)u, 1));
}
#else
DEPTHWISE_INLINE u32vec widen_bits(u16half h) { return __builtin_convertvector(h, u32vec); }
DEPTHWISE_INLINE u16half narrow_bits(u32vec u) { return __builtin_convertvector(u, u16half); }
#endif

// One shuffle: a bfloat16 is the upper half of a float.
#if defined(__AVX512F__)
DEPTHWISE_INLINE vec<float> to_float(bf16, u16half h) {
  typedef std::uint16_t words __attribute__((vector_size(64)));
  constexpr words upper = {0, 0, 0, 1, 0, 2,  0, 3,  0, 4,  0, 5,  0, 6,  0, 7,
                           0, 8, 0, 9, 0, 10, 0, 11, 0, 12, 0, 13, 0, 14, 0, 15};
  return (vec<float>)_mm512_maskz_permutexvar_epi16(0xaaaaaaaau, (__m512i)upper,
                                                    _mm512_castsi256_si512((__m256i)h));
}
#elif defined(__AVX2__)
DEPTHWISE_INLINE vec<float> to_float(bf16, u16half h) {
  const __m256i upper = _mm256_setr_epi8(-1, -1, 0, 1, -1, -1, 2, 3, -1, -1, 4, 5, -1, -1, 6, 7,  //
                                         -1, -1, 8, 9, -1, -1, 10, 11, -1, -1, 12, 13, -1, -1, 14, 15);
  return (vec<float>)_mm256_shuffle_epi8(_mm256_broadcastsi128_si256((__m128i)h), upper);
}
#else
DEPTHWISE_INLINE vec<float> to_float(bf16, u16half h) { return (vec<float>)(widen_bits(h) << 16); }
#endif

DEPTHWISE_INLINE u16half from_float(bf16, vec<float> x) {
  const u32vec u = (u32vec)x;
  const u32vec rounded = u + 0x7fffu + ((u >> 16) & 1u);  // to nearest, ties to even
  return narrow_bits((x == x ? rounded : u | 0x400000u) >> 16);
}

#if defined(__AVX512F__)
DEPTHWISE_INLINE vec<float> to_float(f16, u16half h) { return (vec<float>)_mm512_cvtph_ps((__m256i)h); }
DEPTHWISE_INLINE u16half from_float(f16, vec<float> x) {
  return (u16half)_mm512_cvtps_ph((__m512)x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
#elif defined(__F16C__)
DEPTHWISE_INLINE vec<float> to_float(f16, u16half h) { return (vec<float>)_mm256_cvtph_ps((__m128i)h); }
DEPTHWISE_INLINE u16half from_float(f16, vec<float> x) {
  return (u16half)_mm256_cvtps_ph((__m256)x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
#elif defined(__aarch64__)
DEPTHWISE_INLINE vec<float> to_float(f16, u16half h) { return (vec<float>)vcvt_f32_f16((float16x4_t)h); }
DEPTHWISE_INLINE u16half from_float(f16, vec<float> x) { return (u16half)vcvt_f16_f32((float32x4_t)x); }
#else
// Shifting the 15 low bits into place scales the value by 2^-112, exactly, subnormals too.
DEPTHWISE_INLINE vec<float> to_float(f16, u16half h) {
  const u32vec u = widen_bits(h);
  const u32vec magnitude = (u32vec)((vec<float>)((u & 0x7fffu) << 13) * 0x1p112f);
  const u32vec special = (u32vec)((u & 0x7c00u) == 0x7c00u) & 0x7f800000u;
  return (vec<float>)(magnitude | special | ((u & 0x8000u) << 16));
}
// Subnormal results are rounded by adding 0.5, whose unit in the last place is float16's smallest subnormal.
DEPTHWISE_INLINE u16half from_float(f16, vec<float> x) {
  const u32vec sign = (u32vec)x & 0x80000000u, u = (u32vec)x ^ sign;
  const u32vec normal = (u - 0x38000000u + 0xfffu + ((u >> 13) & 1u)) >> 13;
  const u32vec tiny = (u32vec)((vec<float>)u + 0.5f) - 0x3f000000u;
  const u32vec is_tiny = (u32vec)(u < 0x38800000u), is_big = (u32vec)(u >= 0x47800000u);
  const u32vec is_nan = (u32vec)(u > 0x7f800000u);
  const u32vec big = 0x7c00u | (is_nan & 0x200u);
  const u32vec finite = (is_tiny & tiny) | (~is_tiny & normal);
  return narrow_bits(((is_big & big) | (~is_big & finite)) | (sign >> 16));
}
#endif

// ---- loads and stores
// ------------------------------------------------------------------------------------------

template <class T>
DEPTHWISE_INLINE vec<T> load(const T* p) {
  return *reinterpret_cast<const typename types<T>::vec_u*>(p);
}
template <class T>
DEPTHWISE_INLINE void store(T* p, vec<T> v) {
  *reinterpret_cast<typename types<T>::vec_u*>(p) = v;
}

// Asks for what is at an address that may lie outside any array, into the second-level cache: the first may
// have no room for it beside what is in use.
DEPTHWISE_INLINE void fetch(std::uintptr_t address) {
  __builtin_prefetch(reinterpret_cast<const void*>(address), 0, 2);
}

// Asks for a cache line that will be written, so that no store waits until another processor has given it up.
DEPTHWISE_INLINE void fetch_to_write(std::uintptr_t address) {
#if defined(__x86_64__)
  // The builtin emits it under a flag of its own alone; processors that lack it ignore it.
  __asm__ volatile("prefetchw (%0)" : : "r"(address));
#else
  __builtin_prefetch(reinterpret_cast<const void*>(address), 1, 2);
#endif
}

// Stores past the caches, to a vector's alignment. stream_fence() makes such stores visible to other threads.
#if defined(__x86_64__)
template <class T>
DEPTHWISE_INLINE void stream(T* p, vec<T> v) {
  typedef long long words __attribute__((vector_size(kVectorBytes)));
#if defined(__AVX512F__)
  _mm512_stream_si512(reinterpret_cast<__m512i*>(p), (__m512i)(words)v);
#elif defined(__AVX2__)
  _mm256_stream_si256(reinterpret_cast<__m256i*>(p), (__m256i)(words)v);
#else
  _mm_stream_si128(reinterpret_cast<__m128i*>(p), (__m128i)(words)v);
#endif
}
DEPTHWISE_INLINE void stream_fence() { _mm_sfence(); }
#else
template <class T>
DEPTHWISE_INLINE void stream(T* p, vec<T> v) {
  store(p, v);
}
DEPTHWISE_INLINE void stream_fence() {}
#endif

template <class H>
DEPTHWISE_INLINE vec<float> load_half(const H* p) {
  u16half h;
  __builtin_memcpy(&h, p, sizeof h);
  return to_float(H{}, h);
}
template <class H>
DEPTHWISE_INLINE void store_half(H* p, vec<float> v) {
  const u16half h = from_float(H{}, v);
  __builtin_memcpy(p, &h, sizeof h);
}
DEPTHWISE_INLINE vec<float> load(const f16* p) { return load_half(p); }
DEPTHWISE_INLINE vec<float> load(const bf16* p) { return load_half(p); }
DEPTHWISE_INLINE void store(f16* p, vec<float> v) { store_half(p, v); }
DEPTHWISE_INLINE void store(bf16* p, vec<float> v) { store_half(p, v); }
DEPTHWISE_INLINE void stream(f16* p, vec<float> v) { store_half(p, v); }
DEPTHWISE_INLINE void stream(bf16* p, vec<float> v) { store_half(p, v); }

// Copies `bytes` < Max bytes in power-of-two pieces; never touches a byte beyond.
template <int Max>
DEPTHWISE_INLINE void copy_pieces(void* to, const void* from, int bytes) {
  char* t = static_cast<char*>(to);
  const char* f = static_cast<const char*>(from);
  if constexpr (Max > 32)
    if (bytes & 32) __builtin_memcpy(t, f, 32), t += 32, f += 32;
  if constexpr (Max > 16)
    if (bytes & 16) __builtin_memcpy(t, f, 16), t += 16, f += 16;
  if constexpr (Max > 8)
    if (bytes & 8) __builtin_memcpy(t, f, 8), t += 8, f += 8;
  if constexpr (Max > 4)
    if (bytes & 4) __builtin_memcpy(t, f, 4), t += 4, f += 4;
  if (bytes & 2) __builtin_memcpy(t, f, 2);
}

// The first lanes of a vector as it is loaded again and again. Where the ISA masks loads of the element, no
// byte of the others is touched; elsewhere they are read.
#if defined(__AVX512F__)
template <class T>
struct LaneCount {
  unsigned mask;

  DEPTHWISE_INLINE explicit LaneCount(int n) : mask((1u << n) - 1) {}
};
DEPTHWISE_INLINE vec<float> load_lanes(const float* p, LaneCount<float> n) {
  return (vec<float>)_mm512_maskz_loadu_ps(static_cast<__mmask16>(n.mask), p);
}
DEPTHWISE_INLINE vec<double> load_lanes(const double* p, LaneCount<double> n) {
  return (vec<double>)_mm512_maskz_loadu_pd(static_cast<__mmask8>(n.mask), p);
}
template <class H>
DEPTHWISE_INLINE vec<float> load_lanes(const H* p, LaneCount<float> n) {
  return to_float(H{}, (u16half)_mm256_maskz_loadu_epi16(static_cast<__mmask16>(n.mask), p));
}
#else
template <class T>
struct LaneCount {
  index_vec<T> mask;

  DEPTHWISE_INLINE explicit LaneCount(int n) : mask{} {
    for (int i = 0; i < kLanes<T>; ++i) mask[i] = i < n ? -1 : 0;
  }
};
#if defined(__AVX2__)
DEPTHWISE_INLINE vec<float> load_lanes(const float* p, LaneCount<float> n) {
  return (vec<float>)_mm256_maskload_ps(p, (__m256i)n.mask);
}
DEPTHWISE_INLINE vec<double> load_lanes(const double* p, LaneCount<double> n) {
  return (vec<double>)_mm256_maskload_pd(p, (__m256i)n.mask);
}
#endif
template <class S>
DEPTHWISE_INLINE vec<compute_t<S>> load_lanes(const S* p, LaneCount<compute_t<S>>) {
  return load(p);
}
#endif

// The first n lanes (0 <= n <= lanes); the others read as 0 and are not written.
#if defined(__AVX512F__)
template <class S>
DEPTHWISE_INLINE vec<compute_t<S>> load_n(const S* p, int n) {
  constexpr int lanes = kLanes<compute_t<S>>;
  return load_lanes(p, LaneCount<compute_t<S>>(n < lanes ? n : lanes));
}
DEPTHWISE_INLINE void store_lanes(float* p, vec<float> v, LaneCount<float> n) {
  _mm512_mask_storeu_ps(p, static_cast<__mmask16>(n.mask), (__m512)v);
}
DEPTHWISE_INLINE void store_lanes(double* p, vec<double> v, LaneCount<double> n) {
  _mm512_mask_storeu_pd(p, static_cast<__mmask8>(n.mask), (__m512d)v);
}
template <class H>
DEPTHWISE_INLINE void store_lanes(H* p, vec<float> v, LaneCount<float> n) {
  _mm256_mask_storeu_epi16(p, static_cast<__mmask16>(n.mask), (__m256i)from_float(H{}, v));
}
template <class S>
DEPTHWISE_INLINE void store_n(S* p, vec<compute_t<S>> v, int n) {
  constexpr int lanes = kLanes<compute_t<S>>;
  store_lanes(p, v, LaneCount<compute_t<S>>(n < lanes ? n : lanes));
}
#else
template <class S>
DEPTHWISE_INLINE vec<compute_t<S>> load_n(const S* p, int n) {
  constexpr int lanes = kLanes<compute_t<S>>;
  if (n >= lanes) return load(p);
  alignas(kVectorBytes) S buffer[lanes] = {};
  copy_pieces<static_cast<int>(sizeof buffer)>(buffer, p, n * static_cast<int>(sizeof(S)));
  return load(buffer);
}
template <class S>
DEPTHWISE_INLINE void store_n(S* p, vec<compute_t<S>> v, int n) {
  constexpr int lanes = kLanes<compute_t<S>>;
  if (n >= lanes) return store(p, v);
  alignas(kVectorBytes) S buffer[lanes];
  store(buffer, v);
  copy_pieces<static_cast<int>(sizeof buffer)>(p, buffer, n * static_cast<int>(sizeof(S)));
}
#endif

template <class S>
DEPTHWISE_INLINE compute_t<S> load_one(const S* p) {
  if constexpr (sizeof(S) == sizeof(compute_t<S>)) {
    return *p;
  } else {
    return load_n(p, 1)[0];
  }
}
template <class S>
DEPTHWISE_INLINE void store_one(S* p, compute_t<S> x) {
  if constexpr (sizeof(S) == sizeof(compute_t<S>)) {
    *p = x;
  } else {
    store_n(p, broadcast(x), 1);
  }
}

}  // namespace simd
}  // namespace
