//===- ObjectEmitter.h - machine code from a module at the end of llvm ----===//
#pragma once
#include "mlir/IR/BuiltinOps.h"
#include "llvm/ADT/SmallVector.h"

namespace mlir::dsc {

/// Optimizes and compiles `module` for its target into a relocatable ELF
/// object, or its assembly text. Errors go to the module's diagnostics.
llvm::LogicalResult emitObject(ModuleOp module, bool assembly, llvm::SmallVectorImpl<char> &output);

} // namespace mlir::dsc
