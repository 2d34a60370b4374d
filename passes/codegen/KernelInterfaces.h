#pragma once
#include "dialects/dsc/DscOps.h"
#include "mlir/IR/OpDefinition.h"

namespace mlir::dsc {
class DimsAnalysis;
class KernelBuilder;
struct Index;
} // namespace mlir::dsc

#include "passes/codegen/KernelInterfaces.h.inc"

namespace mlir::dsc {
/// Attaches the kernel models of linalg, tensor, arith and dsc operations.
void registerKernelModels(DialectRegistry &registry);
} // namespace mlir::dsc
