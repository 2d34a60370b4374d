//===- Weights.cpp - what depends on weights alone ------------------------===//

#include "passes/Weights.h"

#include "mlir/Interfaces/SideEffectInterfaces.h"
#include "mlir/Transforms/RegionUtils.h"

namespace mlir::dsc {

bool isWeightArgument(func::FuncOp function, unsigned index) {
  return function.getArgAttr(index, kWeightAttr) || function.getArgAttr(index, kPreparedAttr);
}

WeightAnalysis::Kind WeightAnalysis::classify(Value value) {
  auto it = cache.find(value);
  if (it != cache.end())
    return it->second;
  if (auto argument = dyn_cast<BlockArgument>(value)) {
    bool entry = argument.getOwner() == &function.front();
    return cache[value] = entry && isWeightArgument(function, argument.getArgNumber()) ? Weight : Varying;
  }
  Operation *op = value.getDefiningOp();
  if (!isPure(op) || isa<DimOp>(op))
    return cache[value] = Varying;
  SetVector<Value> inputs(op->operand_begin(), op->operand_end());
  getUsedValuesDefinedAbove(op->getRegions(), inputs);
  Kind kind = Constant;
  for (Value input : inputs)
    kind = std::max(kind, classify(input));
  return cache[value] = kind;
}

} // namespace mlir::dsc
