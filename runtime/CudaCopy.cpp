//===- CudaCopy.cpp - Copies between host and device ----------------------===//
//
// Uploads and downloads go in pieces through a ring of pinned buffers on a
// stream of their own: the device copies one piece while the host copies the
// next. Events order that stream with the work of the context.
//
//===----------------------------------------------------------------------===//

#include "runtime/CudaDevice.h"

#include <string.h>

using namespace dsc_rt;

namespace {

CUdeviceptr addressOf(const void *memory) { return reinterpret_cast<CUdeviceptr>(memory); }

bool prepare(Gpu *gpu, int32_t index) {
  const Driver *driver = gpu->driver;
  Staging &staging = gpu->staging;
  if (!staging.done[index] &&
      !gpu->ok(driver->eventCreate(&staging.done[index], CU_EVENT_DISABLE_TIMING), "making an event"))
    return false;
  return staging.buffers[index] ||
         gpu->ok(driver->memHostAlloc(&staging.buffers[index], Staging::kBytes, CU_MEMHOSTALLOC_PORTABLE),
                 "%zu bytes of pinned memory", Staging::kBytes);
}

/// Whether a copy may begin; after an error it must not.
bool mayCopy(Gpu *gpu, int64_t bytes) {
  if (gpu->error)
    return false;
  if (bytes < 0)
    return gpu->fail("a copy of %lld bytes", (long long)bytes);
  if (gpu->capturing)
    return gpu->fail("uploads and downloads cannot be part of a graph: do them before and after it");
  return true;
}

/// Work that is issued to `later` waits for that of `earlier`.
bool order(Gpu *gpu, CUstream earlier, CUstream later) {
  return gpu->ok(gpu->driver->eventRecord(gpu->staging.order, earlier), "ordering a copy") &&
         gpu->ok(gpu->driver->streamWaitEvent(later, gpu->staging.order, 0), "ordering a copy");
}

bool upload(Gpu *gpu, CUdeviceptr target, const char *source, size_t bytes) {
  const Driver *driver = gpu->driver;
  Staging &staging = gpu->staging;
  for (size_t done = 0; done < bytes;) {
    int32_t index = staging.next;
    staging.next = (index + 1) % Staging::kBuffers;
    size_t piece = bytes - done < Staging::kBytes ? bytes - done : Staging::kBytes;
    if (!prepare(gpu, index) || !gpu->ok(driver->eventSynchronize(staging.done[index]), "waiting for an upload"))
      return false;
    memcpy(staging.buffers[index], source + done, piece);
    if (!gpu->ok(driver->memcpyHtoDAsync(target + done, staging.buffers[index], piece, gpu->copies),
                 "an upload of %zu bytes", bytes) ||
        !gpu->ok(driver->eventRecord(staging.done[index], gpu->copies), "an upload"))
      return false;
    done += piece;
  }
  return true;
}

bool download(Gpu *gpu, char *target, CUdeviceptr source, size_t bytes) {
  const Driver *driver = gpu->driver;
  Staging &staging = gpu->staging;
  size_t issued = 0, done = 0;
  int32_t first = staging.next, pieces = 0; // pieces: under way
  while (done < bytes) {
    if (issued < bytes && pieces < Staging::kBuffers) {
      int32_t index = (first + pieces) % Staging::kBuffers;
      size_t piece = bytes - issued < Staging::kBytes ? bytes - issued : Staging::kBytes;
      // An upload from the buffer comes before it on the stream.
      if (!prepare(gpu, index) ||
          !gpu->ok(driver->memcpyDtoHAsync(staging.buffers[index], source + issued, piece, gpu->copies),
                   "a download of %zu bytes", bytes) ||
          !gpu->ok(driver->eventRecord(staging.done[index], gpu->copies), "a download"))
        return false;
      issued += piece;
      ++pieces;
      continue;
    }
    size_t piece = bytes - done < Staging::kBytes ? bytes - done : Staging::kBytes;
    if (!gpu->ok(driver->eventSynchronize(staging.done[first]), "a download of %zu bytes", bytes))
      return false;
    memcpy(target + done, staging.buffers[first], piece);
    done += piece;
    first = (first + 1) % Staging::kBuffers;
    --pieces;
  }
  staging.next = first;
  return true;
}

} // namespace

void dsc_rt::freeStaging(Gpu *gpu) {
  Staging &staging = gpu->staging;
  if (gpu->copies)
    gpu->driver->streamSynchronize(gpu->copies);
  for (int32_t i = 0; i < Staging::kBuffers; ++i) {
    if (staging.buffers[i])
      gpu->driver->memFreeHost(staging.buffers[i]);
    if (staging.done[i])
      gpu->driver->eventDestroy(staging.done[i]);
  }
}

int dsc_rt_gpu_upload(dsc_rt_context *context, void *target, const void *source, int64_t bytes, int32_t ordered) {
  Gpu *gpu = gpuOf(context);
  if (!mayCopy(gpu, bytes) || bytes == 0)
    return gpu->error;
  Current current(gpu);
  if (!ordered || order(gpu, gpu->compute, gpu->copies))
    if (upload(gpu, addressOf(target), static_cast<const char *>(source), static_cast<size_t>(bytes)))
      order(gpu, gpu->copies, gpu->compute);
  return gpu->error;
}

int dsc_rt_gpu_download(dsc_rt_context *context, void *target, const void *source, int64_t bytes) {
  Gpu *gpu = gpuOf(context);
  if (!mayCopy(gpu, bytes) || bytes == 0)
    return gpu->error;
  Current current(gpu);
  // Nothing later needs to wait: the host does.
  if (order(gpu, gpu->compute, gpu->copies))
    download(gpu, static_cast<char *>(target), addressOf(source), static_cast<size_t>(bytes));
  return gpu->error;
}

int dsc_rt_gpu_copy(dsc_rt_context *context, void *target, const void *source, int64_t bytes) {
  Gpu *gpu = gpuOf(context);
  if (!gpu->error && bytes < 0)
    gpu->fail("a copy of %lld bytes", (long long)bytes);
  if (gpu->error || bytes == 0)
    return gpu->error;
  Current current(gpu);
  gpu->ok(gpu->driver->memcpyDtoDAsync(addressOf(target), addressOf(source), static_cast<size_t>(bytes), gpu->compute),
          "a copy of %lld bytes", (long long)bytes);
  return gpu->error;
}

int dsc_rt_gpu_fill(dsc_rt_context *context, void *target, int value, int64_t bytes) {
  Gpu *gpu = gpuOf(context);
  if (!gpu->error && bytes < 0)
    gpu->fail("filling %lld bytes", (long long)bytes);
  if (gpu->error || bytes == 0)
    return gpu->error;
  Current current(gpu);
  gpu->ok(gpu->driver->memsetD8Async(addressOf(target), static_cast<unsigned char>(value), static_cast<size_t>(bytes),
                                     gpu->compute),
          "filling %lld bytes", (long long)bytes);
  return gpu->error;
}
