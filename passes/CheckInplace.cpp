//===- CheckInplace.cpp - tied buffers are updated, never copied ----------===//

#include "mlir/Dialect/Tensor/IR/Tensor.h"
#include "passes/DimsAnalysis.h"
#include "passes/Passes.h"

namespace mlir::dsc {
#define GEN_PASS_DEF_CHECKINPLACEPASS
#include "passes/Passes.h.inc"

namespace {

/// The value that `value` updates in place, or null.
Value previousState(Value value) {
  auto result = dyn_cast<OpResult>(value);
  if (!result)
    return {};
  int64_t tied = -1;
  if (auto dispatch = dyn_cast<DispatchOp>(result.getOwner()))
    tied = dispatch.getTiedInput(result.getResultNumber());
  else if (auto launch = dyn_cast<LaunchOp>(result.getOwner()))
    tied = launch.getTiedInput(result.getResultNumber());
  else if (auto append = dyn_cast<KvAppendOp>(result.getOwner()))
    return append.getCache();
  return tied < 0 ? Value() : result.getOwner()->getOperand(tied);
}

struct CheckInplacePass : impl::CheckInplacePassBase<CheckInplacePass> {
  void runOnOperation() override {
    for (auto function : getOperation().getOps<func::FuncOp>()) {
      if (function.isDeclaration() || function->hasAttr(kKernelAttr))
        continue;
      Operation *terminator = function.front().getTerminator();
      for (OpOperand &operand : terminator->getOpOperands()) {
        auto tied = function.getResultAttrOfType<IntegerAttr>(operand.getOperandNumber(), kTiedAttr);
        if (tied && failed(check(function, operand, tied.getInt())))
          return signalPassFailure();
      }
    }
  }

  LogicalResult check(func::FuncOp function, OpOperand &operand, int64_t argument) {
    Value state = operand.get();
    while (Value previous = previousState(state)) {
      // After the update nobody may ask for the state before it.
      Operation *update = state.getDefiningOp();
      for (Operation *user : previous.getUsers())
        if (user != update && update->isBeforeInBlock(user))
          return user->emitOpError("reads a tied buffer after it was updated: it would have to be copied");
      state = previous;
    }
    if (state == function.getArgument(argument))
      return success();
    return operand.getOwner()->emitOpError("result ")
           << operand.getOperandNumber() << " is tied to argument " << argument
           << " but made by something else: the tied buffer would be copied";
  }
};

} // namespace
} // namespace mlir::dsc
