//===- DscStructure.cpp - verifiers of sizes, dispatches and launches -----===//

#include "dialects/dsc/DscOps.h"

using namespace mlir;
using namespace mlir::dsc;

LogicalResult DimOp::verify() {
  if (!isSymbolName(getSymbol()))
    return emitOpError("needs an identifier, got: \"") << getSymbol() << "\"";
  if (getMin().value_or(0) < 0)
    return emitOpError("min must not be negative, got: ") << *getMin();
  if (getMax() && static_cast<int64_t>(*getMax()) < static_cast<int64_t>(getMin().value_or(0)))
    return emitOpError("max must be at least min, got: ") << *getMax() << " < " << getMin().value_or(0);
  if (getDivisor() && static_cast<int64_t>(*getDivisor()) < 1)
    return emitOpError("divisor must be positive, got: ") << *getDivisor();
  return success();
}

LogicalResult DispatchOp::verify() {
  Block &block = getBody().front();
  if (block.getArgumentTypes() != getInputs().getTypes())
    return emitOpError("region arguments must have the types of the inputs");
  auto yield = cast<YieldOp>(block.getTerminator());
  if (yield.getValues().getTypes() != getResults().getTypes())
    return emitOpError("yielded types must be the result types");
  if (!getTied())
    return success();
  if (getTied()->size() != getNumResults())
    return emitOpError("tied needs one entry per result, got: ")
           << getTied()->size() << " for " << getNumResults() << " results";
  for (auto [index, input] : llvm::enumerate(*getTied())) {
    if (input == -1)
      continue;
    if (input < 0 || input >= static_cast<int64_t>(getInputs().size()))
      return emitOpError("tied names input ") << input << " of " << getInputs().size();
    if (getInputs()[input].getType() != getResult(index).getType())
      return emitOpError("a tied result must have its input's type, got: ")
             << getResult(index).getType() << " and " << getInputs()[input].getType();
  }
  return success();
}

LogicalResult LaunchOp::verifySymbolUses(SymbolTableCollection &symbols) {
  if (getKernels().empty())
    return emitOpError("needs a kernel");
  for (auto kernel : getKernels().getAsRange<FlatSymbolRefAttr>())
    if (!symbols.lookupNearestSymbolFrom(*this, kernel))
      return emitOpError("names an unknown kernel: ") << kernel;
  return success();
}

