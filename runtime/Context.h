//===- Context.h - What a dsc_rt_context holds (internal) -----------------===//

#ifndef DSC_RT_CONTEXT_H
#define DSC_RT_CONTEXT_H

#include "runtime/dsc_rt.h"

#include <atomic>
#include <pthread.h>
#include <time.h>

namespace dsc_rt {

struct Gpu; // CudaDevice.h

/// Where a module is mapped.
void moduleRange(const dsc_rt_module *module, const uint8_t **base, size_t *size);

inline int64_t nanosecondsNow() {
  timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<int64_t>(now.tv_sec) * 1000000000 + now.tv_nsec;
}

/// Grow-only scratch memory; all zero is the empty arena.
struct Arena {
  void *data;
  size_t capacity;

  void *reserve(int64_t bytes);
  void release();
};

/// One kernel and its grid.
struct Grid {
  dsc_rt_kernel kernel;
  void *const *buffers;
  const int64_t *dims;
  int64_t workgroups;
};

/// One launch as the workers see it: grids that run beside each other.
struct Job {
  const Grid *grids;
  int32_t count;
  int32_t callerCpu; // where the caller was when it launched
  int32_t dispatch;  // of the profile; -1: none is taken
};

/// Grids that wait for the next launch, with copies of their buffer addresses.
struct Deferred {
  static constexpr int32_t kGrids = 8, kBuffers = 64;
  Grid grids[kGrids + 1]; // room for the launch that takes them
  void *buffers[kBuffers];
  int32_t count, bufferCount;
};

/// Mapped files that launches read once.
struct ReadOnce {
  static constexpr int32_t kLaunches = 4; // until pages are given back: looking for them costs more than few hold
  void *const *starts;
  const size_t *sizes;
  int32_t count, launches;
};

/// One worker thread; a cache line each, since every worker writes its own.
struct alignas(64) Worker {
  std::atomic<uint32_t> parked; // futex word: 1 while asleep or about to be
  int32_t index;                // the part it runs; the caller runs part 0
  int32_t patience;             // launches on the caller's CPU before moving
  std::atomic<int32_t> cpu;     // where it was when it last went to sleep
  std::atomic<int32_t> steered; // so many next wakes are not to be on the caller's CPU
  std::atomic<int32_t> barred;  // a CPU that it must not run on until it wakes; -1: none
  dsc_rt_context *context;
  pthread_t thread;
};

} // namespace dsc_rt

struct dsc_rt_context {
  // Written by the caller once per launch, polled by the workers:
  // launch number << 16 | number of parts; 0 parts ends the workers.
  alignas(64) std::atomic<uint64_t> state;
  dsc_rt::Job job;
  std::atomic<int32_t> sleepers;

  // Written by every worker at the end of its part.
  alignas(64) std::atomic<uint32_t> pending;
  std::atomic<uint32_t> callerParked;

  alignas(64) std::atomic<bool> busy;
  std::atomic<uint32_t> generation; // fork count that the workers belong to
  int32_t requested;                // threads asked for
  bool cpuEach;                     // no more threads than CPUs
  std::atomic<int32_t> threads;     // threads there are, the caller included
  dsc_rt::Worker *workers;          // requested - 1 of them
  dsc_rt::Gpu *gpu;                 // instead of the threads; null: this is a thread pool

  dsc_rt::Deferred deferred;
  dsc_rt::ReadOnce readOnce;
  dsc_rt_span *spans; // of the profile, null while there is none
  int64_t spanCapacity;
  std::atomic<int64_t> spanCount; // may pass the capacity
  dsc_rt::Arena arena;
};

#endif // DSC_RT_CONTEXT_H
