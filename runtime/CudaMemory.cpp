//===- CudaMemory.cpp - Device memory of a GPU context --------------------===//
//
// All work of a context is one stream, so memory that was freed may be taken
// again at once: what its new owner issues comes behind what the old one did.
// The driver is asked for whole segments only, and gets unused ones back when it
// has no more, or on request.
//
//===----------------------------------------------------------------------===//

#include "runtime/CudaDevice.h"

#include <stdlib.h>

using namespace dsc_rt;

using Block = Pool::Block;
using Segment = Pool::Segment;

namespace {

constexpr size_t kUnit = 512;                    // alignment; TMA needs 128, tensor cores 16
constexpr size_t kGranularity = size_t(2) << 20; // pages of the device
constexpr size_t kShared = size_t(64) << 20;     // a segment of small allocations
constexpr size_t kOwnSegment = size_t(32) << 20; // from here on an allocation has its own
constexpr int64_t kMostBytes = int64_t(1) << 46;

size_t roundUp(size_t bytes, size_t unit) { return (bytes + unit - 1) / unit * unit; }

class Lock {
public:
  explicit Lock(Pool &pool) : mutex(&pool.lock) { pthread_mutex_lock(mutex); }
  ~Lock() { pthread_mutex_unlock(mutex); }
  Lock(const Lock &) = delete;
  Lock &operator=(const Lock &) = delete;

private:
  pthread_mutex_t *mutex;
};

void addFree(Pool &pool, Block *block) {
  block->free = true;
  block->freeBefore = nullptr;
  block->freeAfter = pool.freeBlocks;
  if (pool.freeBlocks)
    pool.freeBlocks->freeBefore = block;
  pool.freeBlocks = block;
}

void removeFree(Pool &pool, Block *block) {
  block->free = false;
  (block->freeBefore ? block->freeBefore->freeAfter : pool.freeBlocks) = block->freeAfter;
  if (block->freeAfter)
    block->freeAfter->freeBefore = block->freeBefore;
}

/// Appends `next`, which lies right behind `block`, to it.
void absorb(Pool &pool, Block *block, Block *next) {
  removeFree(pool, next);
  block->bytes += next->bytes;
  block->next = next->next;
  if (block->next)
    block->next->previous = block;
  free(next);
}

/// Makes one of a free block and its free neighbours.
void merge(Pool &pool, Block *block) {
  auto joins = [&](const Block *other) { return other && other->free && other->owner == block->owner; };
  if (joins(block->next))
    absorb(pool, block, block->next);
  if (joins(block->previous))
    absorb(pool, block->previous, block);
}

/// The smallest free block of at least `bytes`, as an allocation; null if there is none, or no host memory.
Block *take(Gpu *gpu, size_t bytes) {
  Pool &pool = gpu->pool;
  Block *best = nullptr;
  for (Block *block = pool.freeBlocks; block; block = block->freeAfter)
    if (block->bytes >= bytes && (!best || block->bytes < best->bytes) &&
        (block->owner == 0 || block->owner == gpu->capturing))
      best = block;
  if (!best || !pool.blocks.insert(best->address, best))
    return nullptr;
  removeFree(pool, best);
  auto *rest = best->bytes > bytes ? static_cast<Block *>(calloc(1, sizeof(Block))) : nullptr;
  if (!rest)
    return best;
  rest->address = best->address + bytes;
  rest->bytes = best->bytes - bytes;
  rest->owner = best->owner;
  rest->segment = best->segment;
  rest->previous = best;
  rest->next = best->next;
  if (rest->next)
    rest->next->previous = rest;
  best->next = rest;
  best->bytes = bytes;
  addFree(pool, rest);
  return best;
}

/// Asks the driver for a segment, which becomes one free block.
CUresult addSegment(Gpu *gpu, size_t bytes) {
  auto *segment = static_cast<Segment *>(calloc(1, sizeof(Segment)));
  auto *block = static_cast<Block *>(calloc(1, sizeof(Block)));
  CUdeviceptr address = 0;
  CUresult result = segment && block ? gpu->driver->memAlloc(&address, bytes) : CUDA_ERROR_OUT_OF_MEMORY;
  if (result != CUDA_SUCCESS) {
    free(segment);
    free(block);
    return result;
  }
  Pool &pool = gpu->pool;
  block->address = address;
  block->bytes = bytes;
  block->segment = segment;
  *segment = {block, bytes, pool.segments};
  pool.segments = segment;
  pool.reserved += static_cast<int64_t>(bytes);
  addFree(pool, block);
  return CUDA_SUCCESS;
}

/// Gives segments that are one free block back to the driver.
int64_t trim(Gpu *gpu) {
  if (gpu->capturing) // waiting would end the capture
    return 0;
  Pool &pool = gpu->pool;
  int64_t given = 0;
  bool waited = false;
  for (Segment **link = &pool.segments; *link;) {
    Segment *segment = *link;
    Block *block = segment->first;
    if (!block->free || block->next || block->owner) {
      link = &segment->next;
      continue;
    }
    if (!waited) { // work that was issued before it was freed
      gpu->driver->streamSynchronize(gpu->compute);
      gpu->driver->streamSynchronize(gpu->copies);
      waited = true;
    }
    removeFree(pool, block);
    gpu->driver->memFree(block->address);
    given += static_cast<int64_t>(segment->bytes);
    *link = segment->next;
    free(block);
    free(segment);
  }
  pool.reserved -= given;
  return given;
}

void keepShortage(Gpu *gpu, CUresult result, int64_t bytes) {
  size_t available = 0, total = 0;
  gpu->driver->memGetInfo(&available, &total);
  bool first = !gpu->error;
  gpu->ok(result,
          "no device memory for %lld bytes: %lld of %lld are free, this context has reserved %lld and uses %lld",
          (long long)bytes, (long long)available, (long long)total, (long long)gpu->pool.reserved,
          (long long)gpu->pool.used);
  if (!first)
    return;
  gpu->requested = bytes;
  gpu->deviceFree = static_cast<int64_t>(available);
  gpu->deviceTotal = static_cast<int64_t>(total);
}

} // namespace

CUdeviceptr dsc_rt::poolAlloc(Gpu *gpu, int64_t requested) {
  if (requested < 0) {
    gpu->fail("device memory of %lld bytes", (long long)requested);
    return 0;
  }
  Pool &pool = gpu->pool;
  Lock lock(pool);
  CUresult result = CUDA_ERROR_OUT_OF_MEMORY;
  Block *block = nullptr;
  if (requested <= kMostBytes) {
    size_t bytes = roundUp(requested ? static_cast<size_t>(requested) : 1, kUnit), exact = roundUp(bytes, kGranularity);
    block = take(gpu, bytes);
    if (!block) {
      result = addSegment(gpu, bytes < kOwnSegment ? kShared : exact);
      if (result == CUDA_ERROR_OUT_OF_MEMORY && bytes < kOwnSegment)
        result = addSegment(gpu, exact);
      if (result == CUDA_ERROR_OUT_OF_MEMORY && trim(gpu) > 0)
        result = addSegment(gpu, exact);
      if (result == CUDA_SUCCESS)
        block = take(gpu, bytes);
      if (result == CUDA_SUCCESS && !block)
        result = CUDA_ERROR_OUT_OF_MEMORY; // of the host
    }
  }
  if (!block) {
    keepShortage(gpu, result, requested);
    return 0;
  }
  ++pool.count;
  pool.used += static_cast<int64_t>(block->bytes);
  if (pool.used > pool.highWater)
    pool.highWater = pool.used;
  return block->address;
}

void dsc_rt::poolFree(Gpu *gpu, CUdeviceptr memory) {
  Pool &pool = gpu->pool;
  Lock lock(pool);
  auto *block = static_cast<Block *>(pool.blocks.erase(memory));
  if (!block)
    return;
  --pool.count;
  pool.used -= static_cast<int64_t>(block->bytes);
  block->owner = gpu->capturing;
  addFree(pool, block);
  merge(pool, block);
}

void dsc_rt::poolRelease(Gpu *gpu, int64_t owner) {
  Pool &pool = gpu->pool;
  Lock lock(pool);
  for (Block *block = pool.freeBlocks; block; block = block->freeAfter)
    if (block->owner == owner)
      block->owner = 0;
  // Segment by segment: merging frees blocks, of which the other list may point to the next.
  for (Segment *segment = pool.segments; segment; segment = segment->next)
    for (Block *block = segment->first; block; block = block->next)
      while (block->free && block->next && block->next->free && block->next->owner == block->owner)
        absorb(pool, block, block->next);
}

void dsc_rt::poolDestroy(Gpu *gpu) {
  Pool &pool = gpu->pool;
  while (Segment *segment = pool.segments) {
    pool.segments = segment->next;
    gpu->driver->memFree(segment->first->address);
    for (Block *block = segment->first; block;) {
      Block *next = block->next;
      free(block);
      block = next;
    }
    free(segment);
  }
  pool.blocks.release();
  gpu->kernels.eraseIf([](void *kernel) {
    free(kernel);
    return true;
  });
  gpu->kernels.release();
  free(gpu->maps.entries);
}

void dsc_rt::releaseRetired(Gpu *gpu) {
  while (Gpu::Retired *retired = gpu->retired) {
    gpu->retired = retired->next;
    poolFree(gpu, retired->memory);
    free(retired);
  }
}

void *dsc_rt::gpuArena(Gpu *gpu, int64_t bytes) {
  if (bytes < 0)
    return nullptr;
  auto address = [&] { return reinterpret_cast<void *>(gpu->arena); };
  if (gpu->arena && static_cast<uint64_t>(bytes) <= gpu->arenaBytes)
    return address();
  if (gpu->error || bytes > kMostBytes)
    return nullptr;
  Current current(gpu);
  if (gpu->arena && (gpu->graphs > 0 || gpu->capturing)) {
    auto *retired = static_cast<Gpu::Retired *>(malloc(sizeof(Gpu::Retired)));
    if (!retired)
      return nullptr;
    *retired = {gpu->arena, gpu->retired};
    gpu->retired = retired;
  } else if (gpu->arena) {
    poolFree(gpu, gpu->arena); // before the larger one is taken: the peak is lower
  }
  size_t needed = roundUp(bytes ? static_cast<size_t>(bytes) : 1, kGranularity);
  // A sequence that grows call by call must not take more anew each time.
  size_t comfortable = roundUp(gpu->arenaBytes + gpu->arenaBytes / 4, kGranularity);
  if (comfortable > needed)
    needed = comfortable;
  gpu->arena = poolAlloc(gpu, static_cast<int64_t>(needed));
  gpu->arenaBytes = gpu->arena ? needed : 0;
  return address();
}

void *dsc_rt_gpu_alloc(dsc_rt_context *context, int64_t bytes) {
  Gpu *gpu = gpuOf(context);
  if (gpu->error)
    return nullptr;
  Current current(gpu);
  return reinterpret_cast<void *>(poolAlloc(gpu, bytes));
}

void dsc_rt_gpu_free(dsc_rt_context *context, void *memory) {
  if (memory)
    poolFree(gpuOf(context), reinterpret_cast<CUdeviceptr>(memory));
}

int64_t dsc_rt_gpu_trim(dsc_rt_context *context) {
  Gpu *gpu = gpuOf(context);
  Current current(gpu);
  Lock lock(gpu->pool);
  return trim(gpu);
}

int dsc_rt_gpu_memory_info(dsc_rt_context *context, dsc_rt_gpu_memory *info) {
  Gpu *gpu = gpuOf(context);
  {
    const Pool &pool = gpu->pool;
    Lock lock(gpu->pool);
    *info = {pool.used, pool.highWater, pool.reserved, pool.count, 0, 0};
  }
  if (gpu->error)
    return gpu->error;
  Current current(gpu);
  size_t available = 0, total = 0;
  if (gpu->ok(gpu->driver->memGetInfo(&available, &total), "asking for the device's memory")) {
    info->device_free = static_cast<int64_t>(available);
    info->device = static_cast<int64_t>(total);
  }
  return gpu->error;
}

void dsc_rt_gpu_shortage(dsc_rt_context *context, int64_t *requested, int64_t *available, int64_t *total) {
  const Gpu *gpu = gpuOf(context);
  *requested = gpu->requested;
  *available = gpu->deviceFree;
  *total = gpu->deviceTotal;
}
