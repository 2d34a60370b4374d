//===- Manifest.h - the signature that a compiled module shows its caller -===//
#pragma once
#include "passes/DimsAnalysis.h"

namespace mlir::dsc {

/// Writes `dsc.manifest` on a module at the end of the schedule phase.
void writeManifest(ModuleOp module, DimsAnalysis &dims);

/// An attribute tree as JSON.
void printJson(Attribute attribute, llvm::raw_ostream &os);

} // namespace mlir::dsc
