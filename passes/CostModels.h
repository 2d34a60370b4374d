//===- CostModels.h - costs of operations that other dialects define ------===//
#pragma once
#include "mlir/IR/DialectRegistry.h"

namespace mlir::dsc {

/// CostOpInterface of `linalg.generic` and `tensor.extract_slice`. What has no model reads all of its operands and
/// computes nothing.
void registerCostModels(DialectRegistry &registry);

} // namespace mlir::dsc
