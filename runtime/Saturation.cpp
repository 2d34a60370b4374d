//===- Saturation.cpp - which numbers of a narrow cache met its limit -----===//

#include "runtime/dsc_rt.h"

#include <string.h>

// Four numbers at a time: 0x0401 carries into the sign's place from the code of the largest number (0x7BFF) on, and not
// into the next number.
static constexpr uint64_t kMagnitude = 0x7FFF7FFF7FFF7FFF, kCarry = 0x0401040104010401, kHit = 0x8000800080008000;

static int64_t countSaturated(const uint16_t *numbers, int64_t count) {
  int64_t found = 0, i = 0;
  for (; i + 4 <= count; i += 4) {
    uint64_t word;
    memcpy(&word, numbers + i, sizeof word);
    if (uint64_t hits = ((word & kMagnitude) + kCarry) & kHit)
      found += __builtin_popcountll(hits);
  }
  for (; i < count; ++i)
    found += (numbers[i] & 0x7FFF) >= 0x7BFF;
  return found;
}

extern "C" int64_t dsc_rt_count_saturated(void *const *caches, const int64_t *planes, const int64_t *sizes,
                                          int32_t cacheCount, int64_t capacity, int64_t rows, const int32_t *begins,
                                          const int32_t *ends, int64_t *counts) {
  int64_t total = 0;
  for (int32_t c = 0; c < cacheCount; ++c) {
    counts[c] = 0;
    for (int64_t row = 0; row < rows; ++row)
      for (int64_t plane = row * planes[c]; plane < (row + 1) * planes[c]; ++plane) {
        const uint16_t *first = static_cast<const uint16_t *>(caches[c]) + (plane * capacity + begins[row]) * sizes[c];
        counts[c] += countSaturated(first, (ends[row] - begins[row]) * sizes[c]);
      }
    total += counts[c];
  }
  return total;
}
