//===- ScheduleDispatches.cpp - choose a schedule for every dispatch ------===//
//
// Decides only: writes `schedule`, never code. One that is there is kept; one
// that a file has for the same kernel and target comes before the default.
//
//===----------------------------------------------------------------------===//

#include "passes/Passes.h"
#include "passes/ScheduleDatabase.h"
#include "passes/codegen/KernelPlan.h"

namespace mlir::dsc {
#define GEN_PASS_DEF_SCHEDULEDISPATCHESPASS
#include "passes/Passes.h.inc"

namespace {
struct ScheduleDispatchesPass : impl::ScheduleDispatchesPassBase<ScheduleDispatchesPass> {
  using ScheduleDispatchesPassBase::ScheduleDispatchesPassBase;
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
    FailureOr<ScheduleDatabase> known = ScheduleDatabase(), kept = ScheduleDatabase();
    if (!schedules.empty())
      known = ScheduleDatabase::read(module.getLoc(), schedules, /*mayLack=*/false);
    if (!record.empty())
      kept = ScheduleDatabase::read(module.getLoc(), record, /*mayLack=*/true);
    if (failed(known) || failed(kept))
      return signalPassFailure();
    WalkResult walked = module.walk([&](DispatchOp dispatch) {
      bool asks = !schedules.empty() || !record.empty();
      StringAttr key = asks ? ScheduleDatabase::kernelKey(dispatch, dims) : StringAttr();
      if (!dispatch.getSchedule()) {
        if (ScheduleAttr schedule = asks ? known->lookup(target, key) : ScheduleAttr()) {
          dispatch.setScheduleAttr(schedule);
          if (failed(verifySchedule(dispatch, target, dims))) {
            dispatch.emitOpError("got its schedule from ") << schedules << ", kernel " << key.getValue();
            return WalkResult::interrupt();
          }
          ++fromFile;
        } else {
          dispatch.setScheduleAttr(defaultSchedule(dispatch.getBody(), target, dims));
        }
      }
      if (!record.empty())
        kept->record(target, key, dispatch);
      return WalkResult::advance();
    });
    if (walked.wasInterrupted() || (!record.empty() && failed(kept->write(module.getLoc(), record))))
      signalPassFailure();
  }
};
} // namespace
} // namespace mlir::dsc
