//===- Pipelines.h - phases and the passes of each ------------------------===//
#pragma once
#include "mlir/IR/BuiltinOps.h"
#include "mlir/Pass/PassManager.h"

namespace mlir::dsc {

struct PhaseOptions {
  std::string target;
  bool checkInplace = false;
  std::string plan;              // file, see --dsc-select-precision
  std::string schedules, record; // files, see --dsc-schedule-dispatches
};

/// Names of the phases in order.
llvm::ArrayRef<llvm::StringRef> phases();

/// Position of a phase, or -1.
int64_t phaseIndex(llvm::StringRef name);

/// Appends the passes of one phase.
void buildPhase(OpPassManager &pm, llvm::StringRef phase, const PhaseOptions &options);

/// Phases [first, last] to run on a module, from option values. Emits an error
/// for unknown names and for spans that do not fit the module's phase.
llvm::FailureOr<std::pair<int64_t, int64_t>> phaseSpan(ModuleOp module, llvm::StringRef from, llvm::StringRef to);

} // namespace mlir::dsc
