//===- BatchLaunches.cpp - launches that run beside each other ------------===//

#include "mlir/Dialect/Func/IR/FuncOps.h"
#include "mlir/Dialect/Tensor/IR/Tensor.h"
#include "passes/DimsAnalysis.h"
#include "passes/Launches.h"
#include "passes/Passes.h"

namespace mlir::dsc {
#define GEN_PASS_DEF_BATCHLAUNCHESPASS
#include "passes/Passes.h.inc"

Value bufferRoot(Value value) {
  while (Operation *op = value.getDefiningOp()) {
    if (isa<tensor::ExpandShapeOp, tensor::CollapseShapeOp, tensor::CastOp>(op)) {
      value = op->getOperand(0);
      continue;
    }
    auto launch = dyn_cast<LaunchOp>(op);
    int64_t tied = launch ? launch.getTiedInput(cast<OpResult>(value).getResultNumber()) : -1;
    if (tied < 0)
      break;
    value = launch.getBuffers()[tied];
  }
  return value;
}

bool LaunchBatch::isIndependent(LaunchOp launch) const {
  return llvm::none_of(launch.getBuffers(), [&](Value input) { return writes.contains(bufferRoot(input)); }) &&
         llvm::none_of(launch.getResults(), [&](Value result) {
           Value root = bufferRoot(result);
           return reads.contains(root) || writes.contains(root);
         });
}

void LaunchBatch::add(LaunchOp launch) {
  for (Value input : launch.getBuffers())
    reads.insert(bufferRoot(input));
  for (Value result : launch.getResults())
    writes.insert(bufferRoot(result));
  ++count;
}

void LaunchBatch::clear() { *this = LaunchBatch(); }

namespace {

constexpr size_t kMostLaunches = 8; // what the runtime keeps waiting

struct BatchLaunchesPass : impl::BatchLaunchesPassBase<BatchLaunchesPass> {
  void runOnOperation() override {
    for (auto function : getOperation().getOps<func::FuncOp>()) {
      if (function.isDeclaration() || function->hasAttr(kKernelAttr))
        continue;
      LaunchBatch batch;
      LaunchOp last;
      for (auto launch : function.front().getOps<LaunchOp>()) {
        if (last && batch.size() < kMostLaunches && batch.isIndependent(launch)) {
          last.setConcurrent(true);
          ++batched;
        } else {
          batch.clear();
        }
        batch.add(launch);
        last = launch;
      }
    }
  }
};

} // namespace
} // namespace mlir::dsc
