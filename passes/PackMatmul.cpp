//===- PackMatmul.cpp - store matmul weights in column panels -------------===//
//
// Packing changes an operand's type, so it is decided before dispatches form:
// decoding a weight and packing it then become one pass over memory.
//
//===----------------------------------------------------------------------===//

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/Linalg/IR/Linalg.h"
#include "mlir/Dialect/Tensor/IR/Tensor.h"
#include "passes/Passes.h"
#include "passes/Weights.h"

namespace mlir::dsc {
#define GEN_PASS_DEF_PACKMATMULPASS
#include "passes/Passes.h.inc"

namespace {

/// Elements along the reduction that fill 32 bits lie together: what dot instructions multiply at once. A pair of bf16
/// also widens with two operations; bytes need the instruction.
int64_t groupFor(Type element, TargetAttr target) {
  if (element.isBF16())
    return 2;
  return element.isInteger(8) && target && target.hasFeature("avx512vnni") ? 4 : 1;
}

void packRhs(MatmulOp op, int64_t panel, int64_t group) {
  OpBuilder b(op);
  Location loc = op.getRhs().getLoc();
  auto type = cast<RankedTensorType>(op.getRhs().getType());
  int64_t columnDim = op.getTransposeRhs() ? 0 : 1;
  int64_t columns = type.getDimSize(columnDim), depth = type.getDimSize(1 - columnDim);
  SmallVector<int64_t> shape{llvm::divideCeil(columns, panel), llvm::divideCeil(depth, group), panel};
  SmallVector<int64_t> dims{columnDim};
  SmallVector<OpFoldResult> tiles{b.getIndexAttr(panel)};
  if (group > 1) {
    shape.push_back(group);
    dims.push_back(1 - columnDim);
    tiles.push_back(b.getIndexAttr(group));
  }
  Value padding = columns % panel == 0 && depth % group == 0
                      ? Value()
                      : arith::ConstantOp::create(b, loc, b.getZeroAttr(type.getElementType()));
  Value empty = tensor::EmptyOp::create(b, loc, shape, type.getElementType());
  SmallVector<int64_t> outer = columnDim == 0 ? SmallVector<int64_t>() : SmallVector<int64_t>{1, 0};
  Value packed = linalg::PackOp::create(b, loc, op.getRhs(), empty, dims, tiles,
                                        padding ? std::optional<Value>(padding) : std::nullopt, outer)
                     ->getResult(0);
  op.getRhsMutable().assign(packed);
  op.setTransposeRhs(false);
  op.setPackedColumns(columns);
}

struct PackMatmulPass : impl::PackMatmulPassBase<PackMatmulPass> {
  using PackMatmulPassBase::PackMatmulPassBase;

  void runOnOperation() override {
    ModuleOp module = getOperation();
    if (panel < 0) {
      module.emitError("panel must not be negative, got: ") << panel.getValue();
      return signalPassFailure();
    }
    auto target = module->getAttrOfType<TargetAttr>(kTargetAttr);
    if (!target && panel == 0) {
      module.emitError("has no target: run --dsc-set-target first, or give panel");
      return signalPassFailure();
    }
    for (auto function : module.getOps<func::FuncOp>()) {
      WeightAnalysis weights(function);
      SmallVector<MatmulOp> ops;
      function.walk([&](MatmulOp op) {
        auto rhs = cast<RankedTensorType>(op.getRhs().getType());
        if (!op.getPackedColumns() && rhs.getRank() == 2 && rhs.hasStaticShape() && rhs.getNumElements() > 0 &&
            weights.isWeight(op.getRhs()))
          ops.push_back(op);
      });
      for (MatmulOp op : ops) {
        Type element = getElementTypeOrSelf(op.getRhs());
        Type sum = element.isInteger(8) ? getElementTypeOrSelf(op.getResult()) : defaultAccumulatorType(element);
        int64_t bytes = std::max(1u, sum.getIntOrFloatBitWidth() / 8);
        // Groups want a lhs whose rows can be staged, with zeros behind their ends.
        auto lhs = cast<RankedTensorType>(op.getLhs().getType());
        bool widened = (element.isBF16() || (element.isInteger(8) && sum.isInteger(32))) && !op.getTransposeLhs() &&
                       !ShapedType::isDynamic(lhs.getShape().back());
        packRhs(op, panel ? panel : 2 * target.getVectorBytes() / bytes, widened ? groupFor(element, target) : 1);
        ++packed;
      }
    }
  }
};

} // namespace
} // namespace mlir::dsc
