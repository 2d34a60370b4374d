//===- Async.h - copies by TMA and barriers in shared memory (sm_90) ------===//
#pragma once
#include "passes/codegen/gpu/Block.h"

namespace mlir::dsc {

/// What a tensor map says: sizes in elements and strides in bytes, the fastest dimension first (its stride is that of
/// an element and is not named), and the box that one copy brings.
struct TensorMap {
  Dims sizes, strides;
  SmallVector<int64_t> box;
};

/// A tensor map of a buffer (an argument of the kernel) with a swizzle of 128 bytes, which the launch makes: a pointer.
Value tensorMapOf(KernelBuilder &kernel, Value buffer, const TensorMap &map);

/// Barriers in shared memory, eight bytes each.
struct Barriers {
  KernelBuilder &kernel;
  Value first; // pointer

  Value at(Int number) { return behind(kernel, first, number * 8); }
  void init(Int number, int64_t arrivals);
  /// What other threads wrote before they arrived is seen after it.
  void wait(Int number, Int parity);
  void arrive(Int number);
  /// Arrives at the same barrier of a block of the cluster (i32).
  void arriveAt(Int number, Int block);
  /// Arrives, and expects `bytes` that copies will bring.
  void expect(Int number, int64_t bytes);
};

/// Copies and other blocks of the cluster see the barriers that this thread has made.
void publishBarriers(KernelBuilder &kernel);

/// Starts to copy the box at `coordinates` (i32, fastest first) to shared memory; bytes count at the barrier. With a
/// `cluster` all its blocks get it, at the same place, and each one's barrier counts.
void copyBox(KernelBuilder &kernel, Value target, Value map, ValueRange coordinates, Value barrier,
             int64_t cluster = 1);

/// Starts to copy a box of shared memory, which fenceAsync must have made visible, to `coordinates`; what lies outside
/// of the tensor is left out.
void copyBoxBack(KernelBuilder &kernel, Value source, Value map, ValueRange coordinates);
/// Waits until all but the last `pending` of this thread's copies have read their box.
void waitForReads(KernelBuilder &kernel, int64_t pending);

/// Number of this block in its cluster, i32.
Int blockOfCluster(KernelBuilder &kernel);
/// All threads of all blocks of the cluster wait for each other.
void clusterBarrier(KernelBuilder &kernel);

} // namespace mlir::dsc
