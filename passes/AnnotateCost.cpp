//===- AnnotateCost.cpp - write what each operation costs -----------------===//
//
// Asks CostOpInterface; changes nothing but the attribute `dsc.cost`.
//
//===----------------------------------------------------------------------===//

#include "passes/DimsAnalysis.h"
#include "passes/Passes.h"

namespace mlir::dsc {
#define GEN_PASS_DEF_ANNOTATECOSTPASS
#include "passes/Passes.h.inc"

namespace {

struct AnnotateCostPass : impl::AnnotateCostPassBase<AnnotateCostPass> {
  void runOnOperation() override {
    DimsAnalysis dims(getOperation());
    getOperation()->walk([&](CostOpInterface op) { annotate(op, dims); });
  }

  /// Leaves an operation alone if one of its sizes has no name.
  void annotate(CostOpInterface op, DimsAnalysis &dims) {
    Builder b(&getContext());
    SmallVector<Dims> operands, results;
    AffineExpr bytes = b.getAffineConstantExpr(0);
    auto visit = [&](Value value, SmallVectorImpl<Dims> &shapes) {
      auto type = cast<RankedTensorType>(value.getType());
      if (!dims.getAttr(value))
        return false;
      shapes.push_back(dims.get(value));
      int64_t width = llvm::divideCeil(type.getElementTypeBitWidth(), 8);
      bytes = bytes + elementCount(shapes.back(), b.getContext()) * width;
      return true;
    };
    for (Value operand : op->getOperands())
      if (!visit(operand, operands))
        return;
    for (Value result : op->getResults())
      if (!visit(result, results))
        return;
    auto text = [&](AffineExpr expr) { return b.getStringAttr(dims.print(expr)); };
    op->setAttr("dsc.cost",
                b.getDictionaryAttr({b.getNamedAttr("bytes", text(bytes)),
                                     b.getNamedAttr("operations", text(op.getOperationCount(operands, results)))}));
  }
};

} // namespace
} // namespace mlir::dsc
