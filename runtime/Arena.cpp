//===- Arena.cpp - Grow-only scratch memory -------------------------------===//

#include "runtime/Context.h"
#include "runtime/CudaDevice.h"

#include <sys/mman.h>

using namespace dsc_rt;

namespace {

constexpr size_t kHugePage = size_t(2) << 20;

size_t roundUp(size_t bytes, size_t unit) { return (bytes + unit - 1) / unit * unit; }

/// Maps `bytes` (a multiple of kHugePage) at a multiple of kHugePage, so that
/// the kernel can back all of it with huge pages.
void *mapAligned(size_t bytes) {
  size_t length = bytes + kHugePage;
  void *mapped = mmap(nullptr, length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (mapped == MAP_FAILED)
    return nullptr;
  auto start = reinterpret_cast<uintptr_t>(mapped);
  uintptr_t aligned = roundUp(start, kHugePage);
  if (aligned > start)
    munmap(mapped, aligned - start);
  if (size_t tail = start + length - (aligned + bytes))
    munmap(reinterpret_cast<void *>(aligned + bytes), tail);
  auto *data = reinterpret_cast<void *>(aligned);
  madvise(data, bytes, MADV_HUGEPAGE); // an optimization; refusal is fine
  return data;
}

} // namespace

void *Arena::reserve(int64_t bytes) {
  if (bytes < 0 || static_cast<size_t>(bytes) > SIZE_MAX / 4)
    return nullptr;
  size_t needed = roundUp(bytes ? bytes : 1, kHugePage);
  if (needed <= capacity)
    return data;
  // A sequence that grows call by call must not map anew each time.
  size_t comfortable = roundUp(capacity + capacity / 4, kHugePage);
  release(); // before mapping: the contents are not kept, the peak is lower
  if (comfortable > needed && (data = mapAligned(comfortable)))
    capacity = comfortable;
  else if ((data = mapAligned(needed)))
    capacity = needed;
  return data;
}

void Arena::release() {
  if (data)
    munmap(data, capacity);
  data = nullptr;
  capacity = 0;
}

void *dsc_rt_arena(dsc_rt_context *context, int64_t bytes) {
  return context->gpu ? gpuArena(context->gpu, bytes) : context->arena.reserve(bytes);
}

int64_t dsc_rt_arena_bytes(dsc_rt_context *context) {
  return static_cast<int64_t>(context->gpu ? context->gpu->arenaBytes : context->arena.capacity);
}
