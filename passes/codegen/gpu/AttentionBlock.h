//===- AttentionBlock.h - attention by the blocks of a GPU ----------------===//
//
// A block holds queries of some positions and of all heads that read the same
// keys, 16 rows per warp, and walks over tiles of keys and values under an online
// softmax (Dao 2023, FlashAttention-2). Weights go from the sums of the first
// product to the operands of the second without leaving their lane: lane l of a
// warp holds columns 2 (l % 4) and 2 (l % 4) + 1 of every eight, of rows l / 4
// and l / 4 + 8.
//
//===----------------------------------------------------------------------===//
#pragma once
#include "passes/codegen/AttentionEmitter.h"
#include "passes/codegen/gpu/Block.h"

namespace mlir::dsc {

/// What the matrix instructions multiply, or null where neither bf16 nor f16 may stand for the operands.
FloatType attentionFactorType(AttentionOp op);

/// Few positions with split keys, and many.
ScheduleAttr gpuAttentionSchedule(AttentionOp op, TargetAttr target);

/// Writes the kernel of a variant.
LogicalResult emitGpuAttention(AttentionOp op, KernelBuilder &kernel, const AttentionPlan &plan, VariantAttr variant);

/// Products by the matrix instruction of a warp (mma.sync), tiles by cp.async.
LogicalResult emitAttentionMma(AttentionOp op, KernelBuilder &kernel, const AttentionPlan &plan, VariantAttr variant);
/// Products by that of four warps (wgmma), tiles by TMA.
LogicalResult emitAttentionWgmma(AttentionOp op, KernelBuilder &kernel, const AttentionPlan &plan, VariantAttr variant);
/// Without matrix instructions.
LogicalResult emitAttentionWarps(AttentionOp op, KernelBuilder &kernel, const AttentionPlan &plan, VariantAttr variant);
/// Whether keys and values can be copied by TMA and multiplied by wgmma.
bool canUseWgmma(AttentionOp op);

/// What both kernels share.
class AttentionBlock : protected AttentionEmitter {
protected:
  static constexpr int64_t kPanel = kTileRowBytes / 2; // elements of a head in one row of a tile in shared memory
  static constexpr int64_t kStages = 2;                // tiles of keys and values in shared memory

  AttentionBlock(AttentionOp op, KernelBuilder &kernel, const AttentionPlan &plan, int64_t warps);

  Int at(Value index) { return {&kernel, index}; }
  Int word(int64_t value);
  Value floatConstant(double value) { return kernel.constant(type, value); }
  int64_t queryBytes() const { return panels * blockRows * kTileRowBytes; }
  int64_t tileBytes() const { return panels * plan.keys * kTileRowBytes; } // of keys, and as many of values

  /// Goes to the workgroup; those with more keys come first. Sets the tiles of its split.
  void locate();
  /// Queries to `queries` as factors, such that powers of two of scores are weights, by `threads` threads.
  void copyQueries(int64_t threads);
  /// The two rows of the block that this lane holds sums of.
  Int rowOf(int64_t half) { return (warp * 16 + lane / 4).asIndex() + half * 8; }
  /// Sums, then the largest score and the sum of weights of two rows.
  SmallVector<Value> startState();
  /// Turns scores of a tile, from key `first` on, into weights, and shrinks what was summed up before.
  void updateState(Int first, MutableArrayRef<Value> scores, MutableArrayRef<Value> state);
  /// Weights k .. k + 15 of the two rows as a left operand of the second product.
  SmallVector<Value> packWeights(ArrayRef<Value> weights, int64_t k);
  void finish(ArrayRef<Value> state);

  FloatType factor;
  int64_t blockRows, panels;
  Value queries;          // in shared memory
  Int thread, lane, warp; // i32
  Int split, firstTile, tiles;

private:
  void finishScores(Int first, MutableArrayRef<Value> sums);
  Value combineRow(vector::CombiningKind kind, Value value);
  Value power(Value x);
};

} // namespace mlir::dsc
