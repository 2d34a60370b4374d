//===- DscStructure.cpp - verifiers of sizes, dispatches and launches -----===//

#include "dialects/dsc/DscOps.h"

using namespace mlir;
using namespace mlir::dsc;

LogicalResult DimOp::verify() {
  if (!isSymbolName(getSymbol()))
    return emitOpError("needs an identifier, got: \"") << getSymbol() << "\"";
  // The accessors are unsigned, the promises are not.
  auto number = [](std::optional<uint64_t> value, int64_t otherwise) { return value ? int64_t(*value) : otherwise; };
  int64_t min = number(getMin(), 0), max = number(getMax(), min), divisor = number(getDivisor(), 1);
  if (min < 0)
    return emitOpError("min must not be negative, got: ") << min;
  if (max < min)
    return emitOpError("max must be at least min, got: ") << max << " < " << min;
  if (divisor < 1)
    return emitOpError("divisor must be positive, got: ") << divisor;
  return success();
}

/// Every result is tied to one input of its own type, or to none (-1).
static LogicalResult verifyTied(Operation *op, std::optional<ArrayRef<int64_t>> tied, OperandRange inputs) {
  if (!tied)
    return success();
  if (tied->size() != op->getNumResults())
    return op->emitOpError("tied needs one entry per result, got: ")
           << tied->size() << " for " << op->getNumResults() << " results";
  for (auto [index, input] : llvm::enumerate(*tied)) {
    if (input == -1)
      continue;
    if (input < 0 || input >= static_cast<int64_t>(inputs.size()))
      return op->emitOpError("tied names input ") << input << " of " << inputs.size();
    if (inputs[input].getType() != op->getResult(index).getType())
      return op->emitOpError("a tied result must have its input's type, got: ")
             << op->getResult(index).getType() << " and " << inputs[input].getType();
  }
  return success();
}

LogicalResult DispatchOp::verify() {
  Block &block = getBody().front();
  if (block.getArgumentTypes() != getInputs().getTypes())
    return emitOpError("region arguments must have the types of the inputs");
  auto yield = cast<YieldOp>(block.getTerminator()); // SingleBlockImplicitTerminator has checked it
  if (yield.getValues().getTypes() != getResults().getTypes())
    return emitOpError("yielded types must be the result types");
  return verifyTied(*this, getTied(), getInputs());
}

LogicalResult LaunchOp::verify() { return verifyTied(*this, getTied(), getBuffers()); }

LogicalResult LaunchOp::verifySymbolUses(SymbolTableCollection &symbols) {
  if (getKernels().empty())
    return emitOpError("needs a kernel");
  for (auto kernel : getKernels().getAsRange<FlatSymbolRefAttr>())
    if (!symbols.lookupNearestSymbolFrom(*this, kernel))
      return emitOpError("names an unknown kernel: ") << kernel;
  return success();
}
