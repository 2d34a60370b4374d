//===- Pipelines.cpp - phases and the passes of each ----------------------===//
//
// The one place that knows the order of passes. Each step says why it stands
// where it does.
//
//===----------------------------------------------------------------------===//

#include "passes/Pipelines.h"

#include "mlir/Conversion/Passes.h"
#include "mlir/Dialect/Arith/Transforms/Passes.h"
#include "mlir/Dialect/Func/IR/FuncOps.h"
#include "mlir/Dialect/LLVMIR/LLVMDialect.h"
#include "mlir/Dialect/Linalg/Passes.h"
#include "mlir/Dialect/MemRef/Transforms/Passes.h"
#include "mlir/Pass/PassManager.h"
#include "mlir/Transforms/Passes.h"
#include "passes/DimsAnalysis.h"
#include "passes/Passes.h"

namespace mlir::dsc {
ArrayRef<StringRef> phases() {
  static constexpr StringRef names[] = {"import",   "precision", "parallel", "fuse",
                                        "schedule", "host",      "codegen",  "llvm"};
  return names;
}

int64_t phaseIndex(StringRef name) {
  auto it = llvm::find(phases(), name);
  return it == phases().end() ? -1 : it - phases().begin();
}

static void buildImport(OpPassManager &pm) {
  // One form of elementwise and reduction from here on, whichever frontend wrote them.
  pm.addPass(createNormalizePass());
  pm.addPass(createNameDimsPass());
  // After naming, equal sizes are equal values: CSE finds what frontends repeat.
  pm.addPass(createCanonicalizerPass());
  pm.addPass(createCSEPass());
  // One value per computation: patterns compare values.
  pm.addPass(createRaisePass());
  pm.addPass(createCanonicalizerPass());
  pm.addPass(createCSEPass());
}

static void buildPrecision(OpPassManager &pm, const PhaseOptions &options) {
  // What the user wrote in the IR is obeyed without a plan too.
  pm.addPass(createSelectPrecisionPass({options.plan}));
  pm.addPass(createLegalizePrecisionPass());
  // Readers of one weight share its decoding, rounded activations are rounded once.
  pm.addPass(createCanonicalizerPass());
  pm.addPass(createCSEPass());
}

static void buildFuse(OpPassManager &pm, const PhaseOptions &options) {
  // Changes operand types, so before regions fix them.
  pm.addPass(createPackMatmulPass());
  pm.addPass(createFormDispatchesPass());
  // What is prepared of one weight for several readers is prepared once: @init returns no value twice.
  pm.addPass(createCSEPass());
  // Dispatches move whole: decoding and packing one weight stay one kernel.
  pm.addPass(createHoistWeightsPass());
  pm.addPass(createCSEPass());
  if (options.checkInplace)
    pm.addPass(createCheckInplacePass());
}

static void buildSchedule(OpPassManager &pm, const PhaseOptions &options) {
  pm.addPass(createScheduleDispatchesPass({options.schedules, options.record}));
  // Kernels hide what is in them; launches keep the cost of their dispatch for the manifest.
  pm.addPass(createAnnotateCostPass());
  // Inside regions only constants and sizes are left to tidy; equal regions must print equally.
  pm.addPass(createOutlineKernelsPass());
  // What may run beside what is seen on values, before buffers are shared.
  pm.addPass(createBatchLaunchesPass());
}

static void buildHost(OpPassManager &pm, const PhaseOptions &options) {
  // On launches, before buffers: afterwards a copy would be one launch among others.
  if (options.checkInplace)
    pm.addPass(createCheckInplacePass());
  pm.addPass(createLowerHostPass());
  // Offsets and sizes repeat from launch to launch.
  pm.addNestedPass<func::FuncOp>(createCSEPass());
}

static void buildCodegen(OpPassManager &pm) {
  pm.addPass(createGenerateKernelsPass());
  OpPassManager &functions = pm.nest<func::FuncOp>();
  functions.addPass(createCanonicalizerPass());
  functions.addPass(createCSEPass());
  functions.addPass(createLoopInvariantCodeMotionPass());
  // After LICM: expansions are long, and constants inside them hoist in LLVM.
  pm.addPass(createExpandMathPass());
}

static void buildLlvm(OpPassManager &pm) {
  // First, while every function is one block.
  pm.addPass(createLowerAbiPass());
  // Kernels beside each other, where a pass needs no symbols of the module.
  auto functions = [&]() -> OpPassManager & { return pm.nest<LLVM::LLVMFuncOp>(); };
  functions().addPass(memref::createExpandStridedMetadataPass());
  functions().addPass(createLowerAffinePass());
  functions().addPass(createSCFToControlFlowPass());
  ConvertVectorToLLVMPassOptions vectors;
  // Sums across lanes may be trees: their order is still fixed by the code.
  vectors.reassociateFPReductions = true;
  functions().addPass(createConvertVectorToLLVMPass(vectors));
  functions().addPass(createConvertMathToLLVMPass());
  functions().addPass(createConvertIndexToLLVMPass());
  functions().addPass(arith::createArithExpandOpsPass());
  functions().addPass(createArithToLLVMConversionPass());
  pm.addPass(createFinalizeMemRefToLLVMConversionPass());
  pm.addPass(createConvertControlFlowToLLVMPass());
  functions().addPass(createReconcileUnrealizedCastsPass());
  // Before folding, which removes the casts of constants.
  pm.addPass(createMovedFloatsAsBitsPass());
  functions().addPass(createCanonicalizerPass());
  functions().addPass(createCSEPass());
  // Operations without an intrinsic become inline PTX; there are none for a CPU.
  pm.addPass(createConvertNVVMToLLVMPass());
  pm.addPass(createEmitPtxPass());
}

void buildPhase(OpPassManager &pm, StringRef phase, const PhaseOptions &options) {
  // Every phase may start from a file, so every phase makes sure of the target.
  SetTargetPassOptions target;
  target.target = options.target;
  pm.addPass(createSetTargetPass(target));
  switch (phaseIndex(phase)) {
  case 0:
    buildImport(pm);
    break;
  case 1:
    buildPrecision(pm, options);
    break;
  case 3:
    buildFuse(pm, options);
    break;
  case 4:
    buildSchedule(pm, options);
    break;
  case 5:
    buildHost(pm, options);
    break;
  case 6:
    buildCodegen(pm);
    break;
  case 7:
    buildLlvm(pm);
    break;
  default: // parallel decides nothing yet
    break;
  }
  MarkPhasePassOptions mark;
  mark.phase = phase.str();
  pm.addPass(createMarkPhasePass(mark));
}

FailureOr<std::pair<int64_t, int64_t>> phaseSpan(ModuleOp module, StringRef from, StringRef to) {
  auto unknown = [&](StringRef name) {
    return module.emitError("unknown phase: \"") << name << "\", known are " << llvm::join(phases(), ", ");
  };
  auto done = module->getAttrOfType<StringAttr>(kPhaseAttr);
  int64_t next = done ? phaseIndex(done.getValue()) + 1 : 0;
  int64_t first = from.empty() ? next : phaseIndex(from), last = phaseIndex(to);
  if (first < 0)
    return unknown(from), failure();
  if (last < 0)
    return unknown(to), failure();
  if (next > 0 && !module->getAttr(kSymbolsAttr))
    return module.emitError("stands behind phase import but lists no dsc.symbols"), failure();
  if (done && next == 0)
    return unknown(done.getValue()), failure();
  if (first != next)
    return module.emitError("cannot run from phase ")
               << phases()[first] << ": the module stands "
               << (done ? "behind " + done.getValue().str() : std::string("before import")),
           failure();
  return std::pair(first, last);
}

} // namespace mlir::dsc
