//===- NameDims.cpp - name every dynamic dimension ------------------------===//
//
// After this pass sizes are expressions over dsc.dim, and the module lists the
// symbols in `dsc.symbols`, the order in which a call passes them.
//
//===----------------------------------------------------------------------===//

#include "mlir/Dialect/Tensor/IR/Tensor.h"
#include "passes/DimsAnalysis.h"
#include "passes/Passes.h"

namespace mlir::dsc {
#define GEN_PASS_DEF_NAMEDIMSPASS
#include "passes/Passes.h.inc"

namespace {

/// Names the dims of argument `index`, keeping names that are there.
LogicalResult nameArgument(func::FuncOp function, unsigned index, DimsAnalysis &dims) {
  auto type = dyn_cast<RankedTensorType>(function.getArgumentTypes()[index]);
  if (!type)
    return function.emitOpError("argument ")
           << index << " must be a ranked tensor, got: " << function.getArgumentTypes()[index];
  auto given = function.getArgAttrOfType<DimsAttr>(index, kDimsAttr);
  if (given && static_cast<int64_t>(given.getNames().size()) != type.getRank())
    return function.emitOpError("argument ") << index << " needs one name per dimension, got: " << given;
  Builder b(function.getContext());
  SmallVector<StringAttr> names;
  for (int64_t i = 0; i < type.getRank(); ++i) {
    StringRef name = given ? given.getNames()[i].getValue() : "_";
    if (!type.isDynamicDim(i)) {
      if (name != "_")
        return function.emitOpError("argument ")
               << index << " names the static dimension " << i << ": \"" << name << "\"";
      names.push_back(b.getStringAttr("_"));
      continue;
    }
    std::string fresh = "arg" + std::to_string(index) + "_" + std::to_string(i);
    if (name == "_")
      name = fresh;
    if (!isSymbolName(name))
      return function.emitOpError("argument ") << index << " has a bad dimension name: \"" << name << "\"";
    dims.symbol(name, /*create=*/true);
    names.push_back(b.getStringAttr(name));
  }
  function.setArgAttr(index, kDimsAttr, DimsAttr::get(function.getContext(), names));
  return success();
}

struct NameDimsPass : impl::NameDimsPassBase<NameDimsPass> {
  void runOnOperation() override {
    ModuleOp module = getOperation();
    DimsAnalysis dims(module);
    for (auto function : module.getOps<func::FuncOp>())
      for (unsigned i = 0, e = function.getNumArguments(); i < e; ++i)
        if (failed(nameArgument(function, i, dims)))
          return signalPassFailure();
    dims.store(module);

    auto named = module.walk([&](DimOp dim) {
      if (dims.symbol(dim.getSymbol()))
        return WalkResult::advance();
      dim.emitOpError("names no dimension of an argument: \"") << dim.getSymbol() << "\"";
      return WalkResult::interrupt();
    });
    if (named.wasInterrupted())
      return signalPassFailure();

    module.walk([&](tensor::DimOp dim) {
      AffineExpr size = dims.getIndex(dim);
      if (!size)
        return;
      OpBuilder b(dim);
      dim.replaceAllUsesWith(dims.materialize(b, dim.getLoc(), size));
      dim.erase();
    });

    // Every size must be known from here on: name the first operation where it is not.
    auto known = module.walk([&](Operation *op) {
      for (Value result : op->getResults())
        if (isa<RankedTensorType>(result.getType()) && !dims.getAttr(result)) {
          op->emitOpError("has a size that does not follow from the named dimensions: ") << result.getType();
          return WalkResult::interrupt();
        }
      return WalkResult::advance();
    });
    if (known.wasInterrupted())
      signalPassFailure();
  }
};

} // namespace
} // namespace mlir::dsc
