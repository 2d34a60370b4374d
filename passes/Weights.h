//===- Weights.h - what depends on weights alone --------------------------===//
#pragma once
#include "passes/DimsAnalysis.h"

namespace mlir::dsc {

/// Whether argument `index` of a function is a weight or made from weights.
bool isWeightArgument(func::FuncOp function, unsigned index);

/// Values that follow from weights and constants, with at least one weight.
class WeightAnalysis {
public:
  explicit WeightAnalysis(func::FuncOp function) : function(function) {}
  bool isWeight(Value value) { return classify(value) == Weight; }

private:
  enum Kind { Constant, Weight, Varying };
  Kind classify(Value value);

  func::FuncOp function;
  llvm::DenseMap<Value, Kind> cache;
};

} // namespace mlir::dsc
