//===- RangeModels.h - ranges of operations that other dialects define ----===//
#pragma once
#include "dialects/dsc/DscOps.h"
#include "mlir/IR/DialectRegistry.h"

namespace mlir::dsc {

/// RangeOpInterface of `linalg.generic`, of what moves elements of tensors, and of scalars of floats. What has no model
/// may give any value.
void registerRangeModels(DialectRegistry &registry);
void registerScalarRangeModels(DialectRegistry &registry);

/// What is known of a value that a region uses and that is no operand: the bounds of a constant.
Bounds boundsOfCaptured(Value value);

} // namespace mlir::dsc
