//===- NameDims.cpp - name every dynamic dimension ------------------------===//
//
// After this pass sizes are expressions over dsc.dim, and the module lists the
// symbols in `dsc.symbols`, the order in which a call passes them.
//
//===----------------------------------------------------------------------===//

#include "mlir/Dialect/Tensor/IR/Tensor.h"
#include "passes/DimsAnalysis.h"
#include "passes/Passes.h"
#include "llvm/ADT/MapVector.h"
#include "llvm/ADT/StringSet.h"
#include <numeric>

namespace mlir::dsc {
#define GEN_PASS_DEF_NAMEDIMSPASS
#include "passes/Passes.h.inc"

namespace {

/// Names the dims of argument `index`, keeping names that are there.
LogicalResult nameArgument(func::FuncOp function, unsigned index, const llvm::StringSet<> &taken, DimsAnalysis &dims) {
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
    while (name == "_" && taken.contains(fresh))
      fresh += "_";
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

/// Promises about sizes outlive the dsc.dim operations that make them: the
/// tightest per symbol as {min, max, divisor}, max -1 for none.
void storeRanges(ModuleOp module) {
  llvm::MapVector<StringAttr, std::array<int64_t, 3>> ranges;
  module.walk([&](DimOp dim) {
    if (!dim.getMin() && !dim.getMax() && !dim.getDivisor())
      return;
    auto &[min, max, divisor] = ranges.insert({dim.getSymbolAttr(), {0, -1, 1}}).first->second;
    min = std::max<int64_t>(min, dim.getMin().value_or(0));
    if (dim.getMax())
      max = max < 0 ? int64_t(*dim.getMax()) : std::min<int64_t>(max, *dim.getMax());
    divisor = std::lcm(divisor, int64_t(dim.getDivisor().value_or(1)));
  });
  Builder b(module.getContext());
  SmallVector<NamedAttribute> entries;
  for (auto &[name, range] : ranges)
    entries.push_back(b.getNamedAttr(name, b.getDenseI64ArrayAttr(range)));
  if (!entries.empty())
    module->setAttr(kRangesAttr, b.getDictionaryAttr(entries));
}

struct NameDimsPass : impl::NameDimsPassBase<NameDimsPass> {
  void runOnOperation() override {
    ModuleOp module = getOperation();
    DimsAnalysis dims(module);
    llvm::StringSet<> taken;
    for (auto function : module.getOps<func::FuncOp>())
      for (unsigned i = 0, e = function.getNumArguments(); i < e; ++i)
        if (auto given = function.getArgAttrOfType<DimsAttr>(i, kDimsAttr))
          for (StringAttr name : given.getNames())
            taken.insert(name.getValue());
    for (auto function : module.getOps<func::FuncOp>()) {
      for (unsigned i = 0, e = function.getNumArguments(); i < e; ++i)
        if (failed(nameArgument(function, i, taken, dims)))
          return signalPassFailure();
      for (Type type : function.getResultTypes())
        if (function.getName() == "main" && !isa<RankedTensorType>(type)) {
          function.emitOpError("results must be ranked tensors, got: ") << type;
          return signalPassFailure();
        }
    }
    dims.store(module);
    storeRanges(module);

    module.walk([&](tensor::DimOp dim) {
      AffineExpr size = dims.getIndex(dim);
      if (!size)
        return;
      OpBuilder b(dim);
      dim.replaceAllUsesWith(dims.materialize(b, dim.getLoc(), size));
      dim.erase();
    });

    // Every size must be known from here on: name the first operation where it is not.
    if (failed(verifySizes(module, dims)))
      signalPassFailure();
  }
};

} // namespace
} // namespace mlir::dsc
