//===- Weights.h - what depends on weights alone --------------------------===//
#pragma once
#include "passes/DimsAnalysis.h"

namespace mlir::dsc {

/// Of a dsc.dequantize: whoever reads its result decodes blocks itself, in registers.
inline constexpr llvm::StringLiteral kDecodedByReaderAttr = "dsc.decoded_by_reader";

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
