//===- ScheduleDispatches.cpp - choose a schedule for every dispatch ------===//
//
// Decides only: writes `schedule`, never code. One that is there is kept.
//
//===----------------------------------------------------------------------===//

#include "passes/Passes.h"
#include "passes/codegen/KernelPlan.h"

namespace mlir::dsc {
#define GEN_PASS_DEF_SCHEDULEDISPATCHESPASS
#include "passes/Passes.h.inc"

namespace {
struct ScheduleDispatchesPass : impl::ScheduleDispatchesPassBase<ScheduleDispatchesPass> {
  void runOnOperation() override {
    ModuleOp module = getOperation();
    auto target = module->getAttrOfType<TargetAttr>(kTargetAttr);
    if (!target) {
      module.emitError("has no target: run --dsc-set-target first");
      return signalPassFailure();
    }
    DimsAnalysis dims(module);
    if (failed(verifySizes(module, dims)))
      return signalPassFailure();
    module.walk([&](DispatchOp dispatch) {
      if (!dispatch.getSchedule())
        dispatch.setScheduleAttr(defaultSchedule(dispatch.getBody(), target, dims));
    });
  }
};
} // namespace
} // namespace mlir::dsc
