//===- CostModels.cpp - costs of operations that other dialects define ----===//

#include "passes/CostModels.h"

#include "dialects/dsc/DscOps.h"
#include "mlir/Dialect/Linalg/IR/Linalg.h"
#include "mlir/Dialect/Math/IR/Math.h"
#include "mlir/Dialect/Tensor/IR/Tensor.h"
#include "mlir/Interfaces/CastInterfaces.h"

namespace mlir::dsc {
namespace {

struct GenericCost : CostOpInterface::ExternalModel<GenericCost, linalg::GenericOp> {
  /// Every arithmetic operation of the body counts one per iteration, a function such as exp too; index arithmetic and
  /// changes of type count nothing.
  AffineExpr getOperationCount(Operation *op, ArrayRef<Dims> operands, ArrayRef<Dims>) const {
    auto generic = cast<linalg::GenericOp>(op);
    int64_t each = 0;
    for (Operation &inner : generic.getBody()->without_terminator()) {
      bool counts = inner.hasTrait<OpTrait::Elementwise>() && !isa<CastOpInterface>(inner) &&
                    !inner.getResult(0).getType().isIndex();
      each += !counts ? 0 : isa<math::FmaOp>(inner) ? 2 : 1;
    }
    SmallVector<AffineExpr> sizes(generic.getNumLoops());
    for (auto [map, dims] : llvm::zip_equal(generic.getIndexingMapsArray(), operands))
      for (auto [index, size] : llvm::zip(map.getResults(), dims))
        if (auto loop = dyn_cast<AffineDimExpr>(index))
          sizes[loop.getPosition()] = size;
    // The verifier asks that every loop is an index of its own somewhere.
    return elementCount(sizes, op->getContext()) * each;
  }

  SmallVector<AffineExpr> getElementCounts(Operation *op, ArrayRef<Dims> operands, ArrayRef<Dims> results) const {
    SmallVector<AffineExpr> counts = elementCounts(operands, results, op->getContext());
    for (OpOperand &operand : op->getOpOperands())
      if (!cast<linalg::GenericOp>(op).payloadUsesValueFromOperand(&operand))
        counts[operand.getOperandNumber()] = getAffineConstantExpr(0, op->getContext());
    return counts;
  }
};

struct ExtractSliceCost : CostOpInterface::ExternalModel<ExtractSliceCost, tensor::ExtractSliceOp> {
  AffineExpr getOperationCount(Operation *op, ArrayRef<Dims>, ArrayRef<Dims>) const {
    return getAffineConstantExpr(0, op->getContext());
  }

  SmallVector<AffineExpr> getElementCounts(Operation *op, ArrayRef<Dims> operands, ArrayRef<Dims> results) const {
    SmallVector<AffineExpr> counts = elementCounts(operands, results, op->getContext());
    counts.front() = counts.back();
    return counts;
  }
};

} // namespace

void registerCostModels(DialectRegistry &registry) {
  registry.addExtension(+[](MLIRContext *context, DscDialect *, linalg::LinalgDialect *, tensor::TensorDialect *) {
    linalg::GenericOp::attachInterface<GenericCost>(*context);
    tensor::ExtractSliceOp::attachInterface<ExtractSliceCost>(*context);
  });
}

} // namespace mlir::dsc
