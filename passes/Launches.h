//===- Launches.h - what launches read and write --------------------------===//
#pragma once
#include "dialects/dsc/DscOps.h"

namespace mlir::dsc {

/// The value whose memory `value` is: through views and ties.
Value bufferRoot(Value value);

/// Buffers that a batch of launches reads and writes.
class LaunchBatch {
public:
  /// Whether `launch` could run beside those added: it reads and writes nothing that they write, and writes nothing
  /// that they read.
  bool isIndependent(LaunchOp launch) const;
  void add(LaunchOp launch);
  void clear();
  size_t size() const { return count; }

private:
  DenseSet<Value> reads, writes;
  size_t count = 0;
};

} // namespace mlir::dsc
