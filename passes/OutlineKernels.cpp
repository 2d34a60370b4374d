//===- OutlineKernels.cpp - dispatches become merged kernel functions -----===//

#include "mlir/IR/IRMapping.h"
#include "passes/Passes.h"
#include "passes/codegen/KernelPlan.h"

namespace mlir::dsc {
#define GEN_PASS_DEF_OUTLINEKERNELSPASS
#include "passes/Passes.h.inc"

namespace {

/// The dispatch's region as a function on tensors, under one variant of its schedule.
func::FuncOp outline(DispatchOp dispatch, StringRef name, VariantAttr variant, DimsAnalysis &dims) {
  func::FuncOp kernel = kernelOf(dispatch, name, dims);
  kernel->setAttr(kScheduleAttr, variant);
  return kernel;
}

/// What makes two kernels equal: all but their name and locations.
std::string fingerprint(DispatchOp dispatch, DimsAnalysis &dims) {
  std::string text;
  llvm::raw_string_ostream os(text);
  os << dispatch.getScheduleAttr();
  OwningOpRef<func::FuncOp> kernel = outline(dispatch, "kernel", dispatch.getSchedule()->getVariants().back(), dims);
  kernel->print(os, OpPrintingFlags().useLocalScope().enableDebugInfo(false));
  return text;
}

struct OutlineKernelsPass : impl::OutlineKernelsPassBase<OutlineKernelsPass> {
  void runOnOperation() override {
    ModuleOp module = getOperation();
    auto target = module->getAttrOfType<TargetAttr>(kTargetAttr);
    DimsAnalysis dims(module);
    if (failed(verifySizes(module, dims)))
      return signalPassFailure();
    llvm::StringMap<ArrayAttr> known;
    llvm::StringMap<unsigned> counts;
    SmallVector<DispatchOp> ops;
    module.walk([&](DispatchOp dispatch) { ops.push_back(dispatch); });
    for (DispatchOp dispatch : ops) {
      if (!dispatch.getSchedule()) {
        dispatch.emitOpError("has no schedule: run --dsc-schedule-dispatches first");
        return signalPassFailure();
      }
      if (target && failed(verifySchedule(dispatch, target, dims)))
        return signalPassFailure();
      ArrayAttr &names = known[fingerprint(dispatch, dims)];
      if (!names) {
        names = outlineVariants(dispatch, counts, dims);
        ++kernels;
      }
      OpBuilder b(dispatch);
      auto launch = LaunchOp::create(b, dispatch.getLoc(), dispatch.getResultTypes(), names, dispatch.getInputs(),
                                     Value(), dispatch.getTiedAttr(), IntegerAttr(), UnitAttr());
      if (Attribute cost = dispatch->getAttr(kCostAttr))
        launch->setAttr(kCostAttr, cost);
      dispatch.replaceAllUsesWith(launch.getResults());
      ++dispatches;
    }
    for (DispatchOp dispatch : llvm::reverse(ops))
      dispatch.erase();
  }

  ArrayAttr outlineVariants(DispatchOp dispatch, llvm::StringMap<unsigned> &counts, DimsAnalysis &dims) {
    KernelOpInterface main = findMainOp(dispatch.getBody());
    std::string base = main ? main->getName().stripDialect().str() : "map";
    if (base == "generic")
      base = "reduce";
    base += "_" + std::to_string(counts[base]++);
    SmallVector<Attribute> names;
    for (VariantAttr variant : dispatch.getSchedule()->getVariants()) {
      std::string name = base;
      if (variant.getMaxRows())
        name += "_rows" + std::to_string(variant.getMaxRows());
      func::FuncOp kernel = outline(dispatch, name, variant, dims);
      getOperation().push_back(kernel);
      if (partialResults(dispatch.getBody(), variant, dims).element) {
        func::FuncOp merge = outline(dispatch, name + "_merge", variant, dims);
        merge->setAttr(kMergeAttr, UnitAttr::get(&getContext()));
        getOperation().push_back(merge);
        kernel->setAttr(kMergeAttr, FlatSymbolRefAttr::get(merge));
      }
      names.push_back(FlatSymbolRefAttr::get(&getContext(), name));
    }
    return ArrayAttr::get(&getContext(), names);
  }
};

} // namespace
} // namespace mlir::dsc
