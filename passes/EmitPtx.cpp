//===- EmitPtx.cpp - kernels of a GPU become PTX in the manifest ----------===//
//
// One text per kernel, so that equal kernels of two models are one entry of the
// driver's and our own caches.
//
//===----------------------------------------------------------------------===//

#include "mlir/Dialect/LLVMIR/LLVMDialect.h"
#include "mlir/Dialect/LLVMIR/NVVMDialect.h"
#include "mlir/IR/Threading.h"
#include "passes/DimsAnalysis.h"
#include "passes/ObjectEmitter.h"
#include "passes/Passes.h"
#include "llvm/ADT/StringSet.h"

namespace mlir::dsc {
#define GEN_PASS_DEF_EMITPTXPASS
#include "passes/Passes.h.inc"

namespace {

struct EmitPtxPass : impl::EmitPtxPassBase<EmitPtxPass> {
  void runOnOperation() override {
    ModuleOp module = getOperation();
    auto target = module->getAttrOfType<TargetAttr>(kTargetAttr);
    auto manifest = module->getAttrOfType<DictionaryAttr>(kManifestAttr);
    if (!target || !target.isGpu())
      return;
    SmallVector<LLVM::LLVMFuncOp> kernels;
    for (auto function : module.getOps<LLVM::LLVMFuncOp>())
      if (function->hasAttr(kKernelAttr))
        kernels.push_back(function);
    SymbolTable symbols(module);
    Machine machine{target.getTriple(), target.getCpu(), target.getFeatures(), target.getVectorBytes()};
    SmallVector<std::string> texts(kernels.size());
    LogicalResult result = failableParallelForEachN(&getContext(), 0, kernels.size(), [&](size_t i) -> LogicalResult {
      SmallVector<char> text;
      OwningOpRef<ModuleOp> alone = isolate({kernels[i]}, symbols);
      if (std::string reason = emitCode(*alone, machine, /*assembly=*/true, text); !reason.empty())
        return kernels[i].emitError("cannot be made into PTX: ") << reason;
      texts[i].assign(text.begin(), text.end());
      return success();
    });
    if (failed(result))
      return signalPassFailure();
    Builder b(&getContext());
    SmallVector<NamedAttribute> entries;
    for (auto [kernel, text] : llvm::zip_equal(kernels, texts)) {
      auto threads = kernel->getAttrOfType<DenseI32ArrayAttr>(NVVM::NVVMDialect::getReqntidAttrName());
      entries.push_back(b.getNamedAttr(
          kernel.getName(),
          b.getDictionaryAttr({b.getNamedAttr("ptx", b.getStringAttr(text)),
                               b.getNamedAttr("threads", b.getI64IntegerAttr(threads ? threads[0] : 1))})));
    }
    SmallVector<NamedAttribute> fields(manifest ? manifest.getValue() : ArrayRef<NamedAttribute>());
    llvm::erase_if(fields, [](NamedAttribute field) { return field.getName() == "kernels"; });
    fields.push_back(b.getNamedAttr("kernels", b.getDictionaryAttr(entries)));
    module->setAttr(kManifestAttr, b.getDictionaryAttr(fields));
    eraseDeviceCode(module, kernels);
  }

  /// What only kernels used goes with them.
  void eraseDeviceCode(ModuleOp module, ArrayRef<LLVM::LLVMFuncOp> kernels) {
    llvm::StringSet<> used;
    for (LLVM::LLVMFuncOp kernel : kernels)
      kernel.walk([&](LLVM::AddressOfOp address) { used.insert(address.getGlobalName()); });
    for (LLVM::LLVMFuncOp kernel : kernels)
      kernel.erase();
    module.walk([&](LLVM::AddressOfOp address) { used.erase(address.getGlobalName()); });
    SmallVector<Operation *> dead;
    for (auto global : module.getOps<LLVM::GlobalOp>())
      if (used.contains(global.getSymName()))
        dead.push_back(global);
    for (Operation *op : dead)
      op->erase();
  }
};

} // namespace
} // namespace mlir::dsc
