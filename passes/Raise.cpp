//===- Raise.cpp - patterns of linalg that are dsc operations -------------===//

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/IR/Matchers.h"
#include "passes/Passes.h"
#include "passes/raise/Raisers.h"

namespace mlir::dsc {
#define GEN_PASS_DEF_RAISEPASS
#include "passes/Passes.h.inc"

namespace {

/// Whether an operation may be the last one of a norm or a rotation.
bool mayEndPattern(Operation *op) {
  if (op->getNumResults() != 1 || !isa<RankedTensorType>(op->getResult(0).getType()))
    return false;
  if (isa<tensor::ConcatOp, tensor::CollapseShapeOp>(op))
    return true;
  auto generic = dyn_cast<linalg::GenericOp>(op);
  if (!generic || generic.getNumReductionLoops())
    return false;
  Operation *last = generic.getBody()->getTerminator()->getOperand(0).getDefiningOp();
  return last && isa<arith::AddFOp, arith::SubFOp, arith::MulFOp, arith::DivFOp, arith::TruncFOp>(last);
}

void eraseUnused(func::FuncOp function) {
  for (Operation &op : llvm::make_early_inc_range(llvm::reverse(function.getBody().front())))
    if (isOpTriviallyDead(&op))
      op.erase();
}

struct RaisePass : impl::RaisePassBase<RaisePass> {
  void runOnOperation() override {
    ModuleOp module = getOperation();
    SmallVector<Attribute> remarks;
    for (auto function : module.getOps<func::FuncOp>()) {
      if (function.isDeclaration())
        continue;
      raiseRows(module, function);
      eraseUnused(function);
      raiseProducts(module, function, remarks);
      eraseUnused(function);
      composeLayouts(module, function);
      reuseDims(function);
      eraseUnused(function);
    }
    if (!remarks.empty())
      module->setAttr("dsc.not_raised", ArrayAttr::get(&getContext(), remarks));
  }

  /// Last operations first: a norm with its weight, before the one without that stands inside.
  void raiseRows(ModuleOp module, func::FuncOp function) {
    DimsAnalysis sizes(module);
    Terms terms(module, sizes);
    for (Operation &op : llvm::make_early_inc_range(llvm::reverse(function.getBody().front()))) {
      if (!mayEndPattern(&op) || op.use_empty())
        continue;
      Value result = op.getResult(0), raised = raiseRope(terms, result);
      if (!raised)
        raised = raiseNorm(terms, result);
      if (raised)
        result.replaceAllUsesWith(raised);
    }
  }

  void raiseProducts(ModuleOp module, func::FuncOp function, SmallVectorImpl<Attribute> &remarks) {
    DimsAnalysis sizes(module);
    Terms terms(module, sizes);
    for (auto product : llvm::make_early_inc_range(function.getBody().front().getOps<MatmulOp>())) {
      auto [replacement, problem] = raiseAttention(terms, product);
      if (replacement) {
        product.getResult().replaceAllUsesWith(replacement);
      } else if (!problem.empty()) {
        std::string text;
        llvm::raw_string_ostream stream(text);
        stream << "attention at " << product.getLoc() << " is computed with all its scores: " << problem;
        remarks.push_back(StringAttr::get(&getContext(), text));
        product.emitRemark("is no dsc.attention: ") << problem;
      }
    }
  }

  /// One `dsc.dim` per name, the first, which says most about it.
  void reuseDims(func::FuncOp function) {
    llvm::StringMap<DimOp> known;
    for (auto dim : function.getBody().front().getOps<DimOp>()) {
      auto [first, isNew] = known.try_emplace(dim.getSymbol(), dim);
      if (!isNew)
        dim.getResult().replaceAllUsesWith(first->second.getResult());
    }
  }

  /// Transposes and reshapes that undo each other go.
  void composeLayouts(ModuleOp module, func::FuncOp function) {
    DimsAnalysis sizes(module);
    Terms terms(module, sizes);
    for (Operation &op : function.getBody().front()) {
      if (!isa<linalg::GenericOp, tensor::ExpandShapeOp, tensor::CollapseShapeOp, tensor::ExtractSliceOp>(op) ||
          op.getNumResults() != 1)
        continue;
      Value result = op.getResult(0);
      Dims dims = terms.dimsOf(result);
      TermRef term = terms.element(result, dims);
      for (auto &[tensor, index] : llvm::reverse(term->aliases))
        if (tensor != result && index == dims && tensor.getType() == result.getType() &&
            terms.findAlias(term, dims, &op)) {
          result.replaceAllUsesWith(tensor);
          break;
        }
    }
  }
};

} // namespace
} // namespace mlir::dsc
