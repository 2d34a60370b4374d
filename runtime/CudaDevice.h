//===- CudaDevice.h - What a GPU context holds (internal) -----------------===//

#ifndef DSC_RT_CUDADEVICE_H
#define DSC_RT_CUDADEVICE_H

#include "runtime/Cuda.h"
#include "runtime/CudaTable.h"
#include "runtime/dsc_rt_gpu.h"

#include <pthread.h>
#include <stdarg.h>

namespace dsc_rt {

/// The loaded driver, initialized, or null with a sentence in `message`;
/// `*reason` (may be null) is one of DSC_RT_GPU_*.
const Driver *loadDriver(char *message, size_t size, int *reason);

/// True in a process that is a child, by fork(), of the one that loaded the driver.
bool forkedFromDriver();

/// Writes "CUDA_ERROR_X (what it means)".
void describeError(const Driver *driver, CUresult result, char *out, size_t size);

/// vsnprintf that may get no memory at all; always false.
__attribute__((format(printf, 3, 4))) bool writeMessage(char *message, size_t size, const char *format, ...);

/// Device memory in blocks that lie beside each other in segments, which
/// cuMemAlloc gave. Best fit; neighbours that are free become one.
struct Pool {
  struct Segment;
  struct Block {
    CUdeviceptr address;
    size_t bytes;
    bool free;
    int64_t owner; // while it is free: the capture that may use it, 0: all
    Segment *segment;
    Block *previous, *next; // by address, within the segment
    Block *freeBefore, *freeAfter;
  };
  struct Segment {
    Block *first;
    size_t bytes;
    Segment *next;
  };
  Table blocks; // address of an allocation -> Block
  Segment *segments;
  Block *freeBlocks; // in no order
  int64_t used, highWater, reserved, count;
  pthread_mutex_t lock; // of all of this: memory may be freed by any thread
};

/// Pinned host memory through which uploads and downloads go in turns.
struct Staging {
  static constexpr int32_t kBuffers = 4;
  static constexpr size_t kBytes = size_t(4) << 20; // long enough for full bandwidth (about 50 GB/s: 80 us)
  void *buffers[kBuffers];
  CUevent done[kBuffers]; // the last copy from or to the buffer
  CUevent order;          // between the two streams
  int32_t next;
};

/// A kernel that was launched: its descriptor and function.
struct Kernel {
  const dsc_rt_gpu_kernel *descriptor;
  const dsc_rt_tensor_map *maps;
  const char *name; // in the module
  CUfunction function;
};

/// Tensor maps by what they were made of.
struct TensorMaps {
  static constexpr uint32_t kEntries = 1024; // a large model has about 500 matrices
  struct Entry {
    CUtensorMap map;
    const dsc_rt_tensor_map *of; // null: empty
    uint64_t words[10];          // address, sizes, strides
  } *entries;
  uint32_t count;
};

/// Event pairs around launches, from which spans are made.
struct Profile {
  struct Pair {
    CUevent begin, end;
    int32_t dispatch;
  } *pairs;
  int64_t capacity, count, created;
  CUevent start; // at `startTime` on the host's clock
  int64_t startTime;
  dsc_rt_span *spans; // null: no profile is taken
};

/// Launches beside each other while a graph is captured.
struct Branches {
  static constexpr int32_t kStreams = 4;
  CUstream streams[kStreams];
  CUevent fork, joins[kStreams];
  int32_t open; // that the next launch waits for
};

struct Gpu {
  const Driver *driver;
  CUdevice device;
  CUcontext primary;
  CUstream compute, copies;
  dsc_rt_gpu_device info;
  bool waits; // for every launch

  int32_t error; // 0: none; the first one stays
  char message[1024];
  const char *lastKernel; // launched, for errors that show later
  int32_t lastDispatch;
  int64_t requested, deviceFree, deviceTotal; // of the last shortage

  Table kernels; // address of a descriptor -> Kernel
  TensorMaps maps;
  dsc_rt_code *attached; // the last one first
  Pool pool;
  Staging staging;
  Profile profile;
  Branches branches;

  CUdeviceptr arena;
  size_t arenaBytes;
  struct Retired { // arenas that graphs use
    CUdeviceptr memory;
    Retired *next;
  } *retired;
  int64_t capturing; // number of the capture that goes on, 0: none
  int64_t captures;  // that were begun
  int32_t graphs;

  Gpu *next; // of all GPU contexts

  /// True on success; else keeps the first error: "what: CUDA_ERROR_X (..)".
  __attribute__((format(printf, 3, 4))) bool ok(CUresult result, const char *format, ...);
  /// Keeps an error that is not CUDA's; false.
  __attribute__((format(printf, 2, 3))) bool fail(const char *format, ...);
  __attribute__((format(printf, 3, 0))) void keep(CUresult result, const char *format, va_list arguments);
};

/// Makes the device's context current for its lifetime; puts back what was.
class Current {
public:
  explicit Current(const Gpu *gpu) : driver(gpu->driver) {
    CUcontext now = nullptr;
    pushed = (driver->ctxGetCurrent(&now) != CUDA_SUCCESS || now != gpu->primary) &&
             driver->ctxPushCurrent(gpu->primary) == CUDA_SUCCESS;
  }
  ~Current() {
    CUcontext popped;
    if (pushed)
      driver->ctxPopCurrent(&popped);
  }
  Current(const Current &) = delete;
  Current &operator=(const Current &) = delete;

private:
  const Driver *driver;
  bool pushed;
};

Gpu *gpuOf(dsc_rt_context *context);

// Called by dsc_rt.h's functions for GPU contexts.
void gpuDestroy(Gpu *gpu);
void gpuLaunch(Gpu *gpu, const void *kernel, void *const *buffers, const int64_t *dims, int64_t workgroups,
               int32_t dispatch);
void gpuDefer(Gpu *gpu, const void *kernel, void *const *buffers, const int64_t *dims, int64_t workgroups,
              int32_t dispatch);
void *gpuArena(Gpu *gpu, int64_t bytes);
int64_t gpuProfile(Gpu *gpu, dsc_rt_span *spans, int64_t capacity);

/// Forgets the GPU code of a module that is unloaded.
void gpuForget(dsc_rt_module *module);

// Between the files. A current context is expected.
void joinBranches(Gpu *gpu);
bool beginSpan(Gpu *gpu, int32_t dispatch);
void endSpan(Gpu *gpu);
void freeProfile(Gpu *gpu);
CUdeviceptr poolAlloc(Gpu *gpu, int64_t bytes);
void poolFree(Gpu *gpu, CUdeviceptr memory);
void poolRelease(Gpu *gpu, int64_t owner); // what a graph kept reserved
void poolDestroy(Gpu *gpu);
void releaseRetired(Gpu *gpu);
void freeStaging(Gpu *gpu);
void detachModule(Gpu *gpu, const dsc_rt_module *module); // null: all
/// Reads the descriptor and finds its function; false after an error.
bool lookUpFunction(Gpu *gpu, const void *descriptor, Kernel *kernel);

} // namespace dsc_rt

#endif // DSC_RT_CUDADEVICE_H
