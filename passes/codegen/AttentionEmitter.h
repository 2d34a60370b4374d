//===- AttentionEmitter.h - what the loop nests of attention share --------===//
//
// Blocks of queries meet blocks of keys (Dao 2022) under an online softmax
// (Milakov and Gimelshein 2018): no row of scores is ever stored whole. Query
// heads that share keys are rows of one block.
//
//===----------------------------------------------------------------------===//
#pragma once
#include "passes/codegen/Kernels.h"

namespace mlir::dsc {

/// What a schedule decides, for a group of query heads that read the same keys.
struct AttentionPlan {
  int64_t tileRows, tileColumns; // of the register tile
  int64_t positions, heads;      // of queries, per workgroup
  int64_t splits;                // parts of the keys, each with workgroups of its own
  int64_t keys;                  // of a block
  int64_t lanes, depth;          // of a vector; elements of a head
  bool dots;                     // products of pairs of 16 bits
  bool scaled;                   // which are integers under scales, else bf16

  int64_t rows() const { return positions * heads; }
  int64_t vectors() const { return tileColumns / lanes; }
  int64_t paddedDepth() const { return llvm::alignTo(depth, lanes); }
  /// Elements of a row that is whole vectors of pairs.
  int64_t pairedDepth() const { return llvm::alignTo(depth, 2 * lanes); }
};

int64_t kvHeads(AttentionOp op);
/// Query heads that read the same keys.
int64_t groupSize(AttentionOp op);

struct AttentionEmitter {
  AttentionOp op;
  KernelBuilder &kernel;
  Type type; // of scores and sums
  AttentionPlan plan;
  Value zero, one, batch, kvHead, firstHead, firstPosition, positions, keys;

  AttentionEmitter(AttentionOp op, KernelBuilder &kernel, const AttentionPlan &plan);

  static Index uniform(Value value) { return Index::uniform(value); }
  Value constant(int64_t value) { return kernel.constantIndex(value); }
  Value clampToZero(Value value);
  Value vectorConstant(double value) { return kernel.splat(kernel.constant(type, value)); }
  Value isLess(Value lhs, Value rhs);
  Value ceilDiv(Value value, int64_t divisor) {
    return kernel.floorDiv(kernel.add(value, constant(divisor - 1)), divisor);
  }
  /// Memory near the thread.
  Value allocate(ArrayRef<int64_t> shape, Type element = {});
  Value loadVector(Value buffer, Value row, Value column);
  void storeVector(Value value, Value buffer, Value row, Value column);
  Value loadScalar(Value buffer, ValueRange at);
  Value larger(Value lhs, Value rhs);
  /// A sum of weights to divide by: a query that sees nothing gives zeros, not 0 / 0.
  Value orOne(Value sum);
  /// 2^x of a vector for x <= 0. In f32 what is less than 2^-125 becomes 0: processors take a hundred times as long for
  /// subnormal numbers.
  Value exponential(Value x);

  /// Where a workgroup stands; `share` is its part of the query heads that read the same keys.
  void place(Value firstPosition, Value batch, Value kvHead, Value share);

  /// Keys (plane 0) or values (plane 1), as scores are computed.
  Value readKv(int64_t plane, Value position, Index depth);
  /// Fetches them: a split is a few KiB in each plane, too short for the processor to see a stream.
  void prefetchKv(int64_t plane, Value position, Index depth);
  /// Elements of keys and values in a line of the cache.
  int64_t kvLine();
  /// Number of keys in row `batch`.
  Value keyCount();
  /// Position of a row; rows beyond the end repeat the last position and are not stored.
  Value positionOf(Value row);
  Value headOf(Value row);
  /// Number of keys that a row sees; grows with the row.
  Value visible(Value row);
  /// The first key that a row sees; grows with the row.
  Value firstVisible(Value row);
  /// Scores from products of keys with what storeQuery wrote.
  Value finishScore(Value product);
  bool sameForAllRows();
  /// A vector of what is added to the scores of a row, from key `position` on.
  Value maskOf(Value row, Value position);
  /// Writes a row of queries, such that powers of two of scores are weights; zeros follow it in its last vector.
  void storeQuery(Value row, Value buffer, Value bufferRow);
  /// Where a split leaves element `depth` of a row; its largest score and the sum of its weights stand behind the last.
  SmallVector<Index> partialIndex(Value split, Value row, Index depth);
  /// Hands a row of the result to whoever reads it; `at(depth)` gives a vector.
  void storeResult(Value row, function_ref<Value(Value)> at);

  static constexpr double kLog2e = 1.4426950408889634;
  static constexpr double lowest = -std::numeric_limits<float>::max();

private:
  std::pair<Value, SmallVector<Index>> kvAt(int64_t plane, Value position, Index depth);
};

/// Many rows: lanes lie along queries, so that keys and values are read as scalars where they are.
void emitAttentionOfManyRows(AttentionOp op, KernelBuilder &kernel, const AttentionPlan &plan);
/// Few rows: lanes lie along the elements of a head.
void emitAttentionOfFewRows(AttentionOp op, KernelBuilder &kernel, const AttentionPlan &plan);
/// Adds up what the splits of few rows left, always in the same order (Dao et al. 2023, Flash-Decoding).
void emitAttentionMerge(AttentionOp op, KernelBuilder &kernel, const AttentionPlan &plan);

} // namespace mlir::dsc
