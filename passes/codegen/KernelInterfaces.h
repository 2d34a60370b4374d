#pragma once
#include "dialects/dsc/DscOps.h"
#include "mlir/IR/OpDefinition.h"
#include <functional>

namespace mlir::dsc {
class DimsAnalysis;
class KernelBuilder;
struct Index;

/// Adjacent elements of a column, for one vector of columns: element 4 i + j is `scale * quant(i, j) + offset`. Where
/// the elements are integer codes (see RunCodes), `codes(i)` is those of 4 elements from 4 i on, in a byte each. `i` is
/// a constant unless runs are read together.
struct ScaledRun {
  Value scale, offset; // f32 vectors; `offset` is null where there is none
  std::function<Value(Value, int64_t)> quant;
  std::function<Value(Value)> codes;
  int64_t number = 0; // of the runs that are read together
};

/// Codes from 0 to 2^bits - 1 that stand for `scale * (code - zero)`, or with a zero of 0 for `scale * code + offset`.
struct RunCodes {
  int64_t bits, zero;
};

/// What the workgroups of a launch leave to a second one, which merges it into the results.
struct PartialResults {
  Type element; // null if there is no second launch
  Dims sizes;
  AffineExpr workgroups; // of the second launch
};
} // namespace mlir::dsc

#include "passes/codegen/KernelInterfaces.h.inc"

namespace mlir::dsc {
/// Attaches the kernel models of linalg, tensor, arith and dsc operations.
void registerKernelModels(DialectRegistry &registry);
} // namespace mlir::dsc
