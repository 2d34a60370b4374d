//===- SetTarget.cpp - write the target description on the module ---------===//

#include "passes/DimsAnalysis.h"
#include "passes/Passes.h"
#include "passes/Target.h"

namespace mlir::dsc {
#define GEN_PASS_DEF_SETTARGETPASS
#include "passes/Passes.h.inc"

namespace {

struct SetTargetPass : impl::SetTargetPassBase<SetTargetPass> {
  using SetTargetPassBase::SetTargetPassBase;
  void runOnOperation() override {
    ModuleOp module = getOperation();
    auto present = module->getAttrOfType<TargetAttr>(kTargetAttr);
    if (present && target.empty())
      return;
    std::string error;
    TargetAttr wanted = resolveTarget(&getContext(), target, error);
    if (!wanted) {
      module.emitError(error);
      return signalPassFailure();
    }
    if (present && present != wanted) {
      module.emitError("is already for target ") << present.getName() << ", not " << wanted.getName();
      return signalPassFailure();
    }
    module->setAttr(kTargetAttr, wanted);
  }
};

} // namespace
} // namespace mlir::dsc
