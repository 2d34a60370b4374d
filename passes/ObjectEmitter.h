//===- ObjectEmitter.h - machine code from modules in the LLVM dialect ----===//
#pragma once
#include "dialects/dsc/DscOps.h"
#include "mlir/Dialect/LLVMIR/LLVMDialect.h"
#include "mlir/IR/BuiltinOps.h"
#include "mlir/IR/OwningOpRef.h"

namespace mlir::dsc {

/// What code is made for, as LLVM spells it.
struct Machine {
  StringRef triple, cpu, features;
  int64_t vectorBytes;
};

/// A module of some functions with the globals whose addresses they take, and declarations of such functions. What they
/// call must be among them.
OwningOpRef<ModuleOp> isolate(ArrayRef<LLVM::LLVMFuncOp> functions, SymbolTable &symbols);

/// Appends an object, or assembly (PTX for a GPU), of a module in the LLVM dialect. Returns what is in the way, or "".
std::string emitCode(Operation *module, const Machine &machine, bool assembly, SmallVectorImpl<char> &output);

/// One relocatable object of several. Functions that they share are hidden symbols, which none of the result's are.
void mergeObjects(ArrayRef<SmallVector<char, 0>> objects, SmallVectorImpl<char> &output);

/// Machine code of a module at the end of phase llvm: a relocatable object, made of parts, or assembly of the whole. A
/// GPU's module gives that of its host program.
LogicalResult emitObject(ModuleOp module, bool assembly, SmallVectorImpl<char> &output);

} // namespace mlir::dsc
