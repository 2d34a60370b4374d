//===- Compile.cpp - run a span of the phases -----------------------------===//

#include "mlir/Pass/PassManager.h"
#include "passes/Passes.h"
#include "passes/Pipelines.h"

namespace mlir::dsc {
#define GEN_PASS_DEF_COMPILEPASS
#include "passes/Passes.h.inc"

namespace {
struct CompilePass : impl::CompilePassBase<CompilePass> {
  using CompilePassBase::CompilePassBase;

  void getDependentDialects(DialectRegistry &registry) const override {
    OpPassManager pm(ModuleOp::getOperationName());
    for (StringRef phase : phases())
      buildPhase(pm, phase, {});
    pm.getDependentDialects(registry);
  }

  void runOnOperation() override {
    auto span = phaseSpan(getOperation(), from, to);
    if (failed(span))
      return signalPassFailure();
    OpPassManager pm(ModuleOp::getOperationName());
    for (int64_t phase = span->first; phase <= span->second; ++phase)
      buildPhase(pm, phases()[phase], {target, checkInplace, plan, schedules, record});
    if (failed(runPipeline(pm, getOperation())))
      signalPassFailure();
  }
};
} // namespace
} // namespace mlir::dsc
