//===- Driver.h - run phases for Python and tools -------------------------===//
#pragma once
#include "passes/Pipelines.h"

namespace mlir::dsc {

/// Runs the phases `from` (empty: where the module stands) to `to`. If one
/// fails, runs it again on the IR of the last phase boundary, one pass at a
/// time on one thread, and writes the IR before the failing pass with that
/// pass as its pipeline into a file below `reproducerDir` (empty: no file).
llvm::LogicalResult runPhases(ModuleOp module, const PhaseOptions &options, llvm::StringRef from, llvm::StringRef to,
                              llvm::StringRef reproducerDir, std::string &reproducer);

} // namespace mlir::dsc
