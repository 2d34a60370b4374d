//===- ObjectEmitter.h - machine code from modules in the LLVM dialect ----===//
#pragma once
#include "dialects/dsc/DscOps.h"
#include "mlir/IR/BuiltinOps.h"

namespace mlir::dsc {

/// What code is made for, as LLVM spells it.
struct Machine {
  StringRef triple, cpu, features;
  int64_t vectorBytes;
};

/// Appends an object, or assembly (PTX for a GPU), of a module in the LLVM dialect. Returns what is in the way, or "".
std::string emitCode(Operation *module, const Machine &machine, bool assembly, SmallVectorImpl<char> &output);

/// Machine code of a module at the end of phase llvm: a relocatable object, or assembly. A GPU's module gives that of
/// its host program.
LogicalResult emitObject(ModuleOp module, bool assembly, SmallVectorImpl<char> &output);

} // namespace mlir::dsc
