//===- Limits.cpp - What this machine can do at most -----------------------===//
//
// Loops that do nothing else: independent sums in registers for each
// multiplying instruction, and a read of memory larger than any cache. What
// the compiler generates is measured against them in the same run.
//
//===----------------------------------------------------------------------===//

#include "runtime/dsc_rt.h"

#include <algorithm>
#include <string.h>
#include <string>
#include <sys/mman.h>
#include <thread>
#include <time.h>
#include <vector>

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

namespace {

constexpr int kSums = 16;
constexpr long kTurns = 1 << 21;  // about 0.03 s
constexpr int kTurnsPerTile = 16; // a tile takes as long as that many vectors
constexpr int kRepeats = 3;

double now() {
  timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return time.tv_sec + time.tv_nsec * 1e-9;
}

/// Keeps a value, and what it depends on, from being optimized away.
template <class T> void keep(const T &value) { asm volatile("" : : "m"(value) : "memory"); }

/// Sums that begin alike would be one.
template <class Sums> void makeDifferent(Sums &sums) {
  auto *bytes = reinterpret_cast<unsigned char *>(&sums);
  for (size_t i = 0; i < sizeof sums; ++i)
    bytes[i] = i / 64 % 32;
  asm volatile("" : "+m"(sums));
}

// Each returns the operations of one turn, two per multiplication and addition.
#if defined(__x86_64__)
__attribute__((target("avx512f"))) long multiplyF32Avx512(long turns) {
  __m512 sums[kSums], x = _mm512_set1_ps(1.0000001f), y = _mm512_set1_ps(1e-9f);
  makeDifferent(sums);
  for (long turn = 0; turn < turns; ++turn)
#pragma GCC unroll 16
    for (int i = 0; i < kSums; ++i)
      sums[i] = _mm512_fmadd_ps(sums[i], x, y);
  keep(sums);
  return kSums * 32;
}
__attribute__((target("avx2,fma"))) long multiplyF32Avx2(long turns) {
  __m256 sums[kSums - 4], x = _mm256_set1_ps(1.0000001f), y = _mm256_set1_ps(1e-9f);
  makeDifferent(sums);
  for (long turn = 0; turn < turns; ++turn)
#pragma GCC unroll 16
    for (int i = 0; i < kSums - 4; ++i)
      sums[i] = _mm256_fmadd_ps(sums[i], x, y);
  keep(sums);
  return (kSums - 4) * 16;
}
__attribute__((target("avx512f,avx512bf16"))) long multiplyBf16(long turns) {
  __m512 sums[kSums];
  auto x = (__m512bh)_mm512_set1_epi16(0x3f80), y = (__m512bh)_mm512_set1_epi16(0x0080);
  makeDifferent(sums);
  for (long turn = 0; turn < turns; ++turn)
#pragma GCC unroll 16
    for (int i = 0; i < kSums; ++i)
      sums[i] = _mm512_dpbf16_ps(sums[i], x, y);
  keep(sums);
  return kSums * 64;
}
__attribute__((target("avx512f,avx512vnni"))) long multiplyInt8(long turns) {
  __m512i sums[kSums], x = _mm512_set1_epi8(1), y = _mm512_set1_epi8(2);
  makeDifferent(sums);
  for (long turn = 0; turn < turns; ++turn)
#pragma GCC unroll 16
    for (int i = 0; i < kSums; ++i)
      sums[i] = _mm512_dpbusd_epi32(sums[i], x, y);
  keep(sums);
  return kSums * 128;
}
/// Bytes that were widened: pairs of 16 bits, whose products are added to the sums by another instruction. Additions
/// take one cycle, so few sums will do, and leave registers for products.
__attribute__((target("avx2"))) long multiplyInt8Avx2(long turns) {
  constexpr int sumCount = 6;
  __m256i sums[sumCount], x = _mm256_set1_epi16(1), y = _mm256_set1_epi16(2);
  makeDifferent(sums);
  for (long turn = 0; turn < turns; ++turn)
#pragma GCC unroll 16
    for (int i = 0; i < sumCount; ++i) {
      asm("" : "+x"(x)); // or all products were one
      sums[i] = _mm256_add_epi32(sums[i], _mm256_madd_epi16(x, y));
    }
  keep(sums);
  return sumCount * 32;
}
/// Eight whole tiles: 16 rows of 64 bytes.
__attribute__((target("amx-tile"))) void beginTiles() {
  struct alignas(64) {
    uint8_t palette = 1, start = 0, reserved[14] = {};
    uint16_t bytesPerRow[16] = {64, 64, 64, 64, 64, 64, 64, 64};
    uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
  } config;
  keep(config); // GCC takes it for eight bytes
  _tile_loadconfig(&config);
}
__attribute__((target("amx-tile,amx-bf16"))) long multiplyBf16Tiles(long turns) {
  beginTiles();
  for (long turn = 0; turn < turns; turn += kTurnsPerTile) {
    _tile_dpbf16ps(0, 4, 6);
    _tile_dpbf16ps(1, 4, 7);
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(3, 5, 7);
  }
  _tile_release();
  return 4 * 16 * 16 * 64 / kTurnsPerTile;
}
__attribute__((target("amx-tile,amx-int8"))) long multiplyInt8Tiles(long turns) {
  beginTiles();
  for (long turn = 0; turn < turns; turn += kTurnsPerTile) {
    _tile_dpbssd(0, 4, 6);
    _tile_dpbssd(1, 4, 7);
    _tile_dpbssd(2, 5, 6);
    _tile_dpbssd(3, 5, 7);
  }
  _tile_release();
  return 4 * 16 * 16 * 128 / kTurnsPerTile;
}
long multiplyF32Baseline(long turns) {
  __m128 sums[kSums - 4], x = _mm_set1_ps(1.0000001f), y = _mm_set1_ps(1e-9f);
  makeDifferent(sums);
  for (long turn = 0; turn < turns; ++turn)
#pragma GCC unroll 16
    for (int i = 0; i < kSums - 4; ++i)
      sums[i] = _mm_add_ps(_mm_mul_ps(sums[i], x), y);
  keep(sums);
  return (kSums - 4) * 8;
}
#elif defined(__aarch64__)
long multiplyF32Baseline(long turns) {
  float32x4_t sums[kSums], x = vdupq_n_f32(1.0000001f), y = vdupq_n_f32(1e-9f);
  makeDifferent(sums);
  for (long turn = 0; turn < turns; ++turn)
#pragma GCC unroll 16
    for (int i = 0; i < kSums; ++i)
      sums[i] = vfmaq_f32(y, sums[i], x);
  keep(sums);
  return kSums * 8;
}
#endif

/// The loop for a kind of product, or null where the CPU has no instruction for it.
long (*loopFor(int kind))(long) {
  char text[4096];
  dsc_rt_cpu_features(text, sizeof text);
  std::string features = std::string(",") + text + ",";
  auto has = [&](const char *name) { return features.find(std::string(",") + name + ",") != std::string::npos; };
#if defined(__x86_64__)
  if (kind == DSC_RT_LIMIT_F32)
    return has("avx512f") ? multiplyF32Avx512 : has("fma") && has("avx2") ? multiplyF32Avx2 : multiplyF32Baseline;
  if (kind == DSC_RT_LIMIT_BF16)
    return has("avx512bf16") ? multiplyBf16 : nullptr;
  if (kind == DSC_RT_LIMIT_INT8)
    return has("avx512vnni") ? multiplyInt8 : has("avx2") ? multiplyInt8Avx2 : nullptr;
  if (kind == DSC_RT_LIMIT_BF16_TILES)
    return has("amx-bf16") ? multiplyBf16Tiles : nullptr;
  if (kind == DSC_RT_LIMIT_INT8_TILES)
    return has("amx-int8") ? multiplyInt8Tiles : nullptr;
#elif defined(__aarch64__)
  if (kind == DSC_RT_LIMIT_F32)
    return multiplyF32Baseline;
#endif
  return nullptr;
}

/// Runs `body(thread)` on `threads` threads at once; seconds until the last has ended.
template <class Body> double timed(int threads, Body body) {
  std::vector<std::thread> others;
  double begin = now();
  for (int thread = 1; thread < threads; ++thread)
    others.emplace_back(body, thread);
  body(0);
  for (std::thread &other : others)
    other.join();
  return now() - begin;
}

double productLimit(int kind, int threads) {
  auto *loop = loopFor(kind);
  if (!loop)
    return 0;
  double best = 0;
  for (int repeat = 0; repeat < kRepeats; ++repeat) {
    long perTurn = 0;
    double seconds = timed(threads, [&](int thread) {
      long operations = loop(kTurns);
      if (thread == 0)
        perTurn = operations;
    });
    best = std::max(best, static_cast<double>(perTurn) * kTurns * threads / seconds);
  }
  return best;
}

/// Four streams per thread, fetched ahead, in huge pages: one stream in small pages reaches little more than half of
/// it. Streams a power of two apart would compete for the same banks of memory (a third of it, for one thread on Zen
/// 4).
double readLimit(int threads) {
  constexpr size_t size = size_t(1) << 30, streams = 4, ahead = 16, apart = 65; // vectors
  void *mapped = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (mapped == MAP_FAILED)
    return 0;
  madvise(mapped, size, MADV_HUGEPAGE);
  auto *words = static_cast<uint64_t *>(mapped);
  size_t share = size / sizeof(uint64_t) / threads;
  double best = 0;
  timed(threads, [&](int thread) { memset(words + thread * share, 1, share * sizeof(uint64_t)); });
  for (int repeat = 0; repeat < kRepeats; ++repeat) {
    double seconds = timed(threads, [&](int thread) {
      // The compiler's widest vectors will do, memory is slower.
      typedef uint64_t Vector __attribute__((vector_size(64)));
      const auto *from = reinterpret_cast<const Vector *>(words + thread * share);
      Vector a = {}, b = {};
      size_t distance = share / 8 / streams + apart, length = distance - streams * apart;
      for (size_t i = 0; i + 2 <= length; i += 2)
        for (size_t stream = 0; stream < streams; ++stream) {
          const Vector *at = from + stream * distance + i;
          __builtin_prefetch(at + ahead);
          __builtin_prefetch(at + ahead + 1);
          a += at[0];
          b += at[1];
        }
      Vector sum = a + b;
      keep(sum);
    });
    best = std::max(best, static_cast<double>(share) * sizeof(uint64_t) * threads / seconds);
  }
  munmap(mapped, size);
  return best;
}

} // namespace

double dsc_rt_limit(int kind, int threads) {
  if (threads < 1 || threads > 4096)
    return 0;
  return kind == DSC_RT_LIMIT_READ ? readLimit(threads) : productLimit(kind, threads);
}
