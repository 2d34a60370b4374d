#pragma once
#include "dialects/dsc/DscOps.h"
#include "mlir/IR/OpDefinition.h"
#include <functional>

namespace mlir::dsc {
class DimsAnalysis;
class KernelBuilder;
struct Index;

/// Adjacent elements of a column, for one vector of columns: element i is `scale * quant(i) + offset`.
struct ScaledRun {
  Value scale, offset; // f32 vectors; `offset` is null where there is none
  std::function<Value(int64_t)> quant;
};
} // namespace mlir::dsc

#include "passes/codegen/KernelInterfaces.h.inc"

namespace mlir::dsc {
/// Attaches the kernel models of linalg, tensor, arith and dsc operations.
void registerKernelModels(DialectRegistry &registry);
} // namespace mlir::dsc
