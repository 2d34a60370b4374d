//===- Target.h - names of machines and what they mean --------------------===//
#pragma once
#include "dialects/dsc/DscOps.h"

namespace mlir::dsc {

/// Resolves `cpu[:native|x86-64|x86-64-v3|x86-64-v4|aarch64]`. On failure
/// `error` says which names are known.
TargetAttr resolveTarget(MLIRContext *context, llvm::StringRef name, std::string &error);

} // namespace mlir::dsc
