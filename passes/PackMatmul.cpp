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
#include "passes/Rounding.h"
#include "passes/Weights.h"
#include "passes/codegen/KernelPlan.h"
#include "passes/codegen/Kernels.h"

namespace mlir::dsc {
#define GEN_PASS_DEF_PACKMATMULPASS
#include "passes/Passes.h.inc"

namespace {

/// Elements along the reduction that are multiplied at once lie together: pairs of floats, which also widen with few
/// operations, and as many bytes as the target's dot products take.
int64_t groupFor(Type element, TargetAttr target) {
  if (element.isBF16() || element.isF16())
    return 2;
  return element.isInteger(8) && target ? bytesOfDots(target) : 1;
}

/// A matrix in panels of its dimension `dim`, groups of the other one lying together, both padded with zeros.
Value packMatrix(OpBuilder &b, Value matrix, int64_t dim, int64_t panel, int64_t group) {
  Location loc = matrix.getLoc();
  auto type = cast<RankedTensorType>(matrix.getType());
  int64_t size = type.getDimSize(dim), depth = type.getDimSize(1 - dim);
  SmallVector<int64_t> shape{llvm::divideCeil(size, panel), llvm::divideCeil(depth, group), panel};
  SmallVector<int64_t> dims{dim};
  SmallVector<OpFoldResult> tiles{b.getIndexAttr(panel)};
  if (group > 1) {
    shape.push_back(group);
    dims.push_back(1 - dim);
    tiles.push_back(b.getIndexAttr(group));
  }
  Value padding = size % panel == 0 && depth % group == 0
                      ? Value()
                      : arith::ConstantOp::create(b, loc, b.getZeroAttr(type.getElementType()));
  Value empty = tensor::EmptyOp::create(b, loc, shape, type.getElementType());
  SmallVector<int64_t> outer = dim == 0 ? SmallVector<int64_t>() : SmallVector<int64_t>{1, 0};
  return linalg::PackOp::create(b, loc, matrix, empty, dims, tiles,
                                padding ? std::optional<Value>(padding) : std::nullopt, outer)
      ->getResult(0);
}

void packRhs(MatmulOp op, int64_t panel, int64_t group) {
  OpBuilder b(op);
  int64_t dim = op.getTransposeRhs() ? 0 : 1;
  int64_t columns = cast<RankedTensorType>(op.getRhs().getType()).getDimSize(dim);
  op.getRhsMutable().assign(packMatrix(b, op.getRhs(), dim, panel, group));
  op.setTransposeRhs(false);
  op.setPackedColumns(columns);
}

void packLhs(MatmulOp op, int64_t panel, int64_t group) {
  OpBuilder b(op);
  int64_t dim = op.getTransposeLhs() ? 1 : 0;
  int64_t rows = cast<RankedTensorType>(op.getLhs().getType()).getDimSize(dim);
  op.getLhsMutable().assign(packMatrix(b, op.getLhs(), dim, panel, group));
  op.setTransposeLhs(false);
  op.setPackedRows(rows);
}

/// The weight's blocks, if they are what the product is to read: whole rows of the reduction, not kept expanded.
DequantizeOp blocksOf(MatmulOp op) {
  auto source = op.getRhs().getDefiningOp<DequantizeOp>();
  auto lhs = cast<RankedTensorType>(op.getLhs().getType());
  bool rows = op.getTransposeRhs() && !op.getTransposeLhs() && !ShapedType::isDynamic(lhs.getShape().back());
  bool single = getElementTypeOrSelf(op.getLhs()).isF32() && getElementTypeOrSelf(op.getRhs()).isF32();
  return source && rows && single && !source.getExpanded() && !source.getPanel() ? source : DequantizeOp();
}

/// The right side decoded out of panels of blocks.
void packBlocks(MatmulOp op, DequantizeOp source, int64_t panel) {
  OpBuilder b(op);
  std::optional<BlockFormat> format = findBlockFormat(source.getFormat());
  auto type = cast<RankedTensorType>(source.getBlocks().getType());
  int64_t columns = type.getDimSize(0), blocks = type.getDimSize(1) / format->bytes;
  int64_t panels = llvm::divideCeil(columns, panel);
  auto packedType = type.clone({panels, blocks, panel * format->bytes});
  auto valueType = RankedTensorType::get({panels, blocks * format->block, panel}, getElementTypeOrSelf(op.getRhs()));
  Value packed =
      PackBlocksOp::create(b, source.getLoc(), packedType, source.getBlocks(), source.getFormatAttr(), panel);
  op.getRhsMutable().assign(DequantizeOp::create(b, source.getLoc(), valueType, packed, Value(), source.getFormatAttr(),
                                                 b.getI64IntegerAttr(panel), UnitAttr()));
  op.setTransposeRhs(false);
  op.setPackedColumns(columns);
}

/// A GPU decodes the blocks of a weight as it multiplies.
void readBlocks(MatmulOp op) {
  auto source = op.getRhs().getDefiningOp<DequantizeOp>();
  auto lhs = cast<RankedTensorType>(op.getLhs().getType());
  bool rows = op.getTransposeRhs() && !op.getTransposeLhs() && !ShapedType::isDynamic(lhs.getShape().back());
  if (!source || !rows || source.getExpanded())
    return;
  OpBuilder b(op);
  auto copy = cast<DequantizeOp>(b.clone(*source));
  copy->setAttr(kDecodedByReaderAttr, b.getUnitAttr());
  op.getRhsMutable().assign(copy);
  if (isOpTriviallyDead(source))
    source.erase();
}

/// Products of 8-bit floats under scales, where the target multiplies those: both sides become codes and scales.
class CodeSplitting {
public:
  explicit CodeSplitting(ModuleOp module) : dims(module) {}

  /// Whether it did.
  bool run(MatmulOp op) {
    auto weight = op.getRhs().getDefiningOp<DequantizeOp>();
    bool rows = op.getTransposeRhs() && !op.getTransposeLhs() && getElementTypeOrSelf(op.getResult()).isF32();
    if (!weight || !rows || weight.getScales() || weight.getPanel() || weight.getExpanded() ||
        cast<RankedTensorType>(weight.getType()).getRank() != 2)
      return false;
    int64_t depth = cast<RankedTensorType>(op.getLhs().getType()).getShape().back();
    std::optional<BlockFormat> inputs = roundedFormat(op.getLhs()), weights = findBlockFormat(weight.getFormat());
    if (!inputs || !multipliesCodes(*inputs, depth) || !multipliesCodes(*weights, depth))
      return false;
    Operation *rounded = op.getLhs().getDefiningOp();
    op.getLhsMutable().assign(once(op.getLhs(), [&] { return codesOfRounded(op.getLhs(), dims); }));
    op.getRhsMutable().assign(once(op.getRhs(), [&] { return splitBlocks(weight); }));
    for (Operation *old : {rounded, weight.getOperation()})
      if (isOpTriviallyDead(old)) {
        split.erase(old->getResult(0));
        old->erase();
      }
    return true;
  }

private:
  Value once(Value value, function_ref<Value()> make) {
    Value &known = split[value];
    return known ? known : known = make();
  }

  DimsAnalysis dims;
  DenseMap<Value, Value> split;
};

/// A GPU multiplies matrices as they lie. Where it may round left sides, it does so once, and where they are made.
class LhsRounding {
public:
  explicit LhsRounding(ModuleOp module) : dims(module) {}

  void run(MatmulOp op) {
    bool rounds = mayRoundFactors(op.getPrecision()) && getElementTypeOrSelf(op.getRhs()).isBF16();
    if (rounds && getElementTypeOrSelf(op.getLhs()).isF32())
      op.getLhsMutable().assign(rounded(op.getLhs()));
  }

private:
  Value rounded(Value value) {
    if (Value known = roundings.lookup(value))
      return known;
    Operation *op = value.getDefiningOp();
    OpBuilder b(value.getContext());
    Value result;
    if (isa_and_nonnull<tensor::CollapseShapeOp, tensor::ExpandShapeOp>(op)) {
      Value source = rounded(op->getOperand(0));
      b.setInsertionPoint(op);
      Operation *view = b.clone(*op);
      view->setOperand(0, source);
      result = view->getResult(0);
      result.setType(cast<RankedTensorType>(value.getType()).clone(b.getBF16Type()));
    } else {
      b.setInsertionPointAfterValue(value);
      result = castTensor(b, value.getLoc(), value, b.getBF16Type(), &dims);
    }
    return roundings[value] = result;
  }

  DimsAnalysis dims;
  DenseMap<Value, Value> roundings;
};

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
    if (target && target.isGpu()) {
      LhsRounding rounding(module);
      CodeSplitting splitting(module);
      SmallVector<MatmulOp> ops;
      module.walk([&](MatmulOp op) { ops.push_back(op); });
      for (MatmulOp op : ops) {
        if (target.getCpu() == "sm_90a" && splitting.run(op))
          continue;
        rounding.run(op);
        readBlocks(op);
      }
      return;
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
        Type sum = element.isInteger(8) ? getElementTypeOrSelf(op.getResult())
                                        : defaultAccumulatorType(getElementTypeOrSelf(op.getLhs()));
        int64_t bytes = std::max(1u, sum.getIntOrFloatBitWidth() / 8);
        // Groups want a lhs whose rows can be staged, with zeros behind their ends.
        auto lhs = cast<RankedTensorType>(op.getLhs().getType());
        bool widened = (element.isBF16() || element.isF16() || (element.isInteger(8) && sum.isInteger(32))) &&
                       !op.getTransposeLhs() && !ShapedType::isDynamic(lhs.getShape().back());
        int64_t width = panel ? panel.getValue() : 2 * target.getVectorBytes() / bytes;
        if (DequantizeOp source = blocksOf(op)) {
          packBlocks(op, source, width);
          if (isOpTriviallyDead(source))
            source.erase();
          ++packed;
          continue;
        }
        int64_t group = widened ? groupFor(element, target) : 1;
        packRhs(op, width, group);
        ++packed;
        int64_t rowPanel = target && weights.isWeight(op.getLhs()) ? preferredRowPanel(op, target) : 0;
        if (rowPanel)
          packLhs(op, rowPanel, group);
      }
    }
  }
};

} // namespace
} // namespace mlir::dsc
