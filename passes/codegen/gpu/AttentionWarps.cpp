//===- AttentionWarps.cpp - attention without matrix instructions ---------===//
//
// For types that bf16 and f16 must not stand for. A warp takes a row of queries
// and walks over keys, 32 at a time: each lane has the score of one key, then a
// part of the row of sums.
//
//===----------------------------------------------------------------------===//

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/Math/IR/Math.h"
#include "mlir/Dialect/MemRef/IR/MemRef.h"
#include "passes/codegen/gpu/AttentionBlock.h"

namespace mlir::dsc {
namespace {

class WarpAttention : AttentionBlock {
public:
  WarpAttention(AttentionOp op, KernelBuilder &kernel, const AttentionPlan &plan, int64_t warps)
      : AttentionBlock(op, kernel, plan, warps), warps(warps) {}

  void run() {
    locate();
    rowMemory = sharedMemory(kernel, "queries", MemRefType::get({warps, plan.depth}, type));
    myLane = lane.asIndex();
    myWarp = warp.asIndex();
    kernel.team = {1, kWarp, {}, myLane};
    kernel.forLoop(myWarp, constant(plan.rows()), warps, [&](Value row) {
      Int position = at(firstPosition) + at(row) / plan.heads;
      kernel.ifThen(position < at(positions), [&] { attend(at(row)); });
    });
    kernel.team = Team();
  }

private:
  void attend(Int row) {
    double scale = op.getScale().convertToDouble();
    scale = op.getSoftCap() ? scale / op.getSoftCap()->convertToDouble() : scale * kLog2e;
    forMyDepths([&](int64_t, Int depth) {
      Value query = kernel.convert(kernel.pull(op.getQuery(), resultAt(row, depth)), type);
      query = arith::MulFOp::create(kernel, query, floatConstant(scale));
      memref::StoreOp::create(kernel, query, rowMemory, ValueRange{myWarp, depth});
    });
    syncWarp(kernel);
    Int end = at(visible(row)), first = at(firstVisible(row));
    int64_t parts = llvm::divideCeil(plan.depth, kWarp);
    SmallVector<Value> state(parts, floatConstant(0));
    state.push_back(floatConstant(lowest));
    state.push_back(floatConstant(0));
    state = kernel.forLoop(first / kWarp * kWarp, end, kWarp, state,
                           [&](Value begin, ValueRange carried) { return step(row, at(begin), first, end, carried); });
    Value total = orOne(reduceTeam(kernel, vector::CombiningKind::ADD, state.back()));
    forMyDepths([&](int64_t part, Int depth) {
      Value value = arith::DivFOp::create(kernel, state[part], total);
      kernel.current[op.getResult()] = kernel.convert(value, getElementTypeOrSelf(op.getType()));
      kernel.storeOutputs(resultAt(row, depth));
    });
    syncWarp(kernel); // the memory is written again by the next row
  }

  SmallVector<Value> step(Int row, Int begin, Int first, Int end, ValueRange carried) {
    SmallVector<Value> state(carried);
    Value &largest = state[state.size() - 2], &total = state.back(), before = largest;
    Int key = begin + myLane, last = at(keys) - 1;
    Value score = scoreOf(row, min(key, last));
    Value seen = arith::AndIOp::create(kernel, key < end, first < key + 1);
    score = arith::SelectOp::create(kernel, seen, score, floatConstant(-INFINITY));
    largest = reduceTeam(kernel, vector::CombiningKind::MAXNUMF, arith::MaxNumFOp::create(kernel, largest, score));
    auto power = [&](Value x) { return math::Exp2Op::create(kernel, x); };
    Value weight = power(arith::SubFOp::create(kernel, score, largest));
    Value shrink = power(arith::SubFOp::create(kernel, before, largest));
    total = math::FmaOp::create(kernel, total, shrink, weight);
    int64_t parts = state.size() - 2;
    for (int64_t part = 0; part < parts; ++part)
      state[part] = arith::MulFOp::create(kernel, state[part], shrink);
    SmallVector<Value> sums =
        kernel.forLoop(zero, constant(kWarp), 1, ArrayRef(state).take_front(parts), [&](Value i, ValueRange running) {
          Value factor = fromLane(kernel, weight, at(i).asI32());
          SmallVector<Value> next(running);
          Int other = min(begin + at(i), last);
          for (int64_t part = 0; part < parts; ++part) {
            Int depth = min(myLane + part * kWarp, at(constant(plan.depth - 1)));
            next[part] = math::FmaOp::create(kernel, factor, readKv(1, other, Index::lanes(depth)), next[part]);
          }
          return next;
        });
    llvm::copy(sums, state.begin());
    return state;
  }

  Value scoreOf(Int row, Int key) {
    Value sum = kernel.forLoop(zero, constant(plan.depth), 1, floatConstant(0), [&](Value depth, ValueRange carried) {
      Value query = memref::LoadOp::create(kernel, rowMemory, ValueRange{myWarp, depth});
      Value product = math::FmaOp::create(kernel, query, readKv(0, key, Index::lanes(depth)), carried[0]);
      return SmallVector<Value>{product};
    })[0];
    sum = finishScore(sum);
    return op.getMask() ? Value(arith::AddFOp::create(kernel, sum, maskOf(row, key))) : sum;
  }

  /// Elements of a head that this lane holds.
  void forMyDepths(function_ref<void(int64_t, Int)> body) {
    for (int64_t part = 0; part * kWarp < plan.depth; ++part) {
      Int depth = myLane + part * kWarp;
      if ((part + 1) * kWarp <= plan.depth)
        body(part, depth);
      else
        kernel.ifThen(depth < plan.depth, [&] { body(part, depth); });
    }
  }
  SmallVector<Index> resultAt(Int row, Int depth) {
    return {uniform(batch), uniform(positionOf(row)), uniform(headOf(row)), Index::lanes(depth)};
  }

  int64_t warps;
  Value rowMemory; // queries of the row of each warp
  Int myLane, myWarp;
};

} // namespace

LogicalResult emitAttentionWarps(AttentionOp op, KernelBuilder &kernel, const AttentionPlan &plan,
                                 VariantAttr variant) {
  ArrayRef<int64_t> threads = variant.getThreads();
  if (threads.size() != 2 || threads[1] != kWarp || plan.splits != 1)
    return op.emitOpError("instruction \"fma\" needs warps, and no splits, got: ") << variant;
  WarpAttention(op, kernel, plan, threads[0]).run();
  return success();
}

} // namespace mlir::dsc
