//===- AttentionMerge.cpp - adds up the splits of attention ---------------===//
//
// Each split of the keys left, per row, sums relative to its own largest score
// (Dao et al. 2023, Flash-Decoding). They are added in order, whichever thread
// made them.
//
//===----------------------------------------------------------------------===//

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/Vector/IR/VectorOps.h"
#include "passes/codegen/AttentionEmitter.h"

namespace mlir::dsc {
namespace {

struct MergeEmitter : AttentionEmitter {
  using AttentionEmitter::AttentionEmitter;

  /// Calls `body(split, value so far)`, from the first split to the last.
  Value forSplits(double initial, function_ref<Value(Value, Value)> body) {
    return kernel.forLoop(
        zero, constant(plan.splits), 1, vectorConstant(initial),
        [&](Value split, ValueRange carried) { return SmallVector<Value>{body(split, carried[0])}; })[0];
  }

  void mergeRow(Value row, Value factors) {
    auto read = [&](Value split, Index depth) {
      return kernel.splat(kernel.load(kernel.partial, type, partialIndex(split, row, depth)));
    };
    Index largestAt = uniform(constant(plan.depth)), sumAt = uniform(constant(plan.depth + 1));
    kernel.width = plan.lanes;
    Value largest =
        forSplits(lowest, [&](Value split, Value before) { return larger(read(split, largestAt), before); });
    Value sum = forSplits(0, [&](Value split, Value before) {
      Value factor = exponential(arith::SubFOp::create(kernel, read(split, largestAt), largest));
      storeVector(factor, factors, split, zero);
      return vector::FMAOp::create(kernel, factor, read(split, sumAt), before);
    });
    Value divisor = orOne(sum);
    kernel.width = 1;
    storeResult(row, [&](Value depth) {
      Value merged = forSplits(0, [&](Value split, Value before) {
        return vector::FMAOp::create(kernel, loadVector(factors, split, zero), read(split, Index::lanes(depth)),
                                     before);
      });
      return arith::DivFOp::create(kernel, merged, divisor);
    });
  }

  void workgroup() {
    SmallVector<Value> at = kernel.delinearize(kernel.workgroup, {kernel.size(op.getQuery(), 0), positions});
    place(at[1], at[0], zero, zero);
    Value factors = allocate({plan.splits, plan.lanes});
    Value first = kernel.team.shares() ? kernel.team.team : zero; // a GPU's teams take turns
    kernel.forLoop(first, constant(plan.heads), kernel.team.teams, [&](Value head) { mergeRow(head, factors); });
  }
};

} // namespace

void emitAttentionMerge(AttentionOp op, KernelBuilder &kernel, const AttentionPlan &plan) {
  MergeEmitter(op, kernel, plan).workgroup();
}

} // namespace mlir::dsc
