//===- Rounding.cpp - casts of whole tensors -------------------------------===//

#include "passes/Rounding.h"

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/Linalg/IR/Linalg.h"
#include "mlir/Dialect/Math/IR/Math.h"
#include "mlir/Dialect/Tensor/IR/Tensor.h"
#include "llvm/ADT/StringSwitch.h"

namespace mlir::dsc {

Type plainStorage(StringRef name, MLIRContext *context) {
  Builder b(context);
  return llvm::StringSwitch<Type>(name)
      .Case("f32", b.getF32Type())
      .Case("f16", b.getF16Type())
      .Case("bf16", b.getBF16Type())
      .Default(Type());
}

using Body = function_ref<Value(OpBuilder &, ValueRange)>;

static Value empty(OpBuilder &b, Location loc, Value like, ArrayRef<int64_t> shape, Type element, DimsAnalysis *dims) {
  Dims sizes = dims ? dims->get(like) : Dims();
  SmallVector<OpFoldResult> extents;
  for (auto [i, size] : llvm::enumerate(shape))
    extents.push_back(ShapedType::isDynamic(size) ? OpFoldResult(dims->materialize(b, loc, sizes[i]))
                                                  : OpFoldResult(b.getIndexAttr(size)));
  return tensor::EmptyOp::create(b, loc, extents, element);
}

/// An operation over the elements of `inputs[0]`; `maps` say where the others are read.
static Value map(OpBuilder &b, Location loc, ValueRange inputs, ArrayRef<AffineMap> maps, Type element,
                 DimsAnalysis *dims, Body body) {
  auto type = cast<RankedTensorType>(inputs[0].getType());
  SmallVector<AffineMap> all(maps);
  all.push_back(b.getMultiDimIdentityMap(type.getRank()));
  SmallVector<utils::IteratorType> loops(type.getRank(), utils::IteratorType::parallel);
  Value out = empty(b, loc, inputs[0], type.getShape(), element, dims);
  return linalg::GenericOp::create(b, loc, out.getType(), inputs, ValueRange{out}, all, loops,
                                   [&](OpBuilder &inner, Location at, ValueRange values) {
                                     linalg::YieldOp::create(inner, at, body(inner, values));
                                   })
      .getResult(0);
}

static Value constant(OpBuilder &b, Location loc, double value) {
  return arith::ConstantOp::create(b, loc, b.getF32FloatAttr(value));
}

static double largest(Type element) {
  if (element.isInteger(8))
    return 127;
  return llvm::APFloat::getLargest(cast<FloatType>(element).getFloatSemantics()).convertToDouble();
}

static Value clamp(OpBuilder &b, Location loc, Value value, double most) {
  Value low = arith::MaximumFOp::create(b, loc, value, constant(b, loc, -most));
  return arith::MinimumFOp::create(b, loc, low, constant(b, loc, most));
}

Value castTensor(OpBuilder &b, Location loc, Value value, Type element, DimsAnalysis *dims, bool saturate) {
  auto type = cast<RankedTensorType>(value.getType());
  if (type.getElementType() == element)
    return value;
  AffineMap identity = b.getMultiDimIdentityMap(type.getRank());
  return map(b, loc, value, {identity}, element, dims, [&](OpBuilder &inner, ValueRange values) -> Value {
    Value v = values[0];
    if (saturate)
      v = clamp(inner, loc, v, largest(element));
    bool narrower = element.getIntOrFloatBitWidth() < type.getElementTypeBitWidth();
    return narrower ? Value(arith::TruncFOp::create(inner, loc, element, v))
                    : Value(arith::ExtFOp::create(inner, loc, element, v));
  });
}

Value roundInBlocks(OpBuilder &b, Location loc, Value value, Type element, int64_t group, DimsAnalysis &dims) {
  auto type = cast<RankedTensorType>(value.getType());
  int64_t rank = type.getRank(), columns = type.getShape().back(), blocks = llvm::divideCeil(columns, group);
  MLIRContext *context = b.getContext();
  // Magnitudes in blocks: [.., blocks, group], zeros behind the end of a row.
  Value padded = value;
  if (blocks > 1 && columns % group) {
    SmallVector<int64_t> shape(type.getShape());
    shape.back() = blocks * group - columns;
    Value zeros = empty(b, loc, value, shape, type.getElementType(), &dims);
    zeros = linalg::FillOp::create(b, loc, constant(b, loc, 0), zeros).getResult(0);
    padded = tensor::ConcatOp::create(b, loc, rank - 1, ValueRange{value, zeros});
  }
  SmallVector<int64_t> split(type.getShape());
  split.back() = blocks;
  split.push_back(blocks > 1 ? group : columns);
  SmallVector<ReassociationIndices> groups;
  for (int64_t i = 0; i < rank; ++i)
    groups.push_back({i});
  groups.back().push_back(rank);
  Dims sizes = dims.get(value);
  SmallVector<OpFoldResult> extents;
  for (int64_t i = 0; i <= rank; ++i)
    extents.push_back(ShapedType::isDynamic(split[i]) ? OpFoldResult(dims.materialize(b, loc, sizes[i]))
                                                      : OpFoldResult(b.getIndexAttr(split[i])));
  Value inBlocks = tensor::ExpandShapeOp::create(b, loc, RankedTensorType::get(split, type.getElementType()), padded,
                                                 groups, extents);
  // The greatest of each block.
  AffineMap all = b.getMultiDimIdentityMap(rank + 1), kept = all.dropResult(rank);
  SmallVector<utils::IteratorType> loops(rank, utils::IteratorType::parallel);
  loops.push_back(utils::IteratorType::reduction);
  Value start = empty(b, loc, inBlocks, ArrayRef(split).drop_back(), b.getF32Type(), &dims);
  start = linalg::FillOp::create(b, loc, constant(b, loc, 0), start).getResult(0);
  Value greatest = linalg::GenericOp::create(b, loc, start.getType(), ValueRange{inBlocks}, ValueRange{start},
                                             ArrayRef<AffineMap>{all, kept}, loops,
                                             [&](OpBuilder &inner, Location at, ValueRange values) {
                                               Value magnitude = math::AbsFOp::create(inner, at, values[0]);
                                               Value more = arith::MaximumFOp::create(inner, at, magnitude, values[1]);
                                               linalg::YieldOp::create(inner, at, more);
                                             })
                       .getResult(0);
  // code = round(x / scale), in the range of the type; x = code * scale.
  SmallVector<AffineExpr> at;
  for (int64_t i = 0; i + 1 < rank; ++i)
    at.push_back(b.getAffineDimExpr(i));
  at.push_back(blocks > 1 ? b.getAffineDimExpr(rank - 1).floorDiv(group) : b.getAffineConstantExpr(0));
  AffineMap identity = b.getMultiDimIdentityMap(rank);
  double most = largest(element);
  auto round = [&](OpBuilder &inner, ValueRange values) -> Value {
    Value zero = constant(inner, loc, 0);
    Value scale = arith::DivFOp::create(inner, loc, values[1], constant(inner, loc, most));
    Value isZero = arith::CmpFOp::create(inner, loc, arith::CmpFPredicate::OEQ, scale, zero);
    scale = arith::SelectOp::create(inner, loc, isZero, constant(inner, loc, 1), scale);
    Value code = clamp(inner, loc, arith::DivFOp::create(inner, loc, values[0], scale), most);
    if (isa<FloatType>(element)) {
      code = arith::TruncFOp::create(inner, loc, element, code);
      code = arith::ExtFOp::create(inner, loc, inner.getF32Type(), code);
    } else {
      code = math::RoundEvenOp::create(inner, loc, code);
    }
    return arith::MulFOp::create(inner, loc, code, scale);
  };
  return map(b, loc, {value, greatest}, {identity, AffineMap::get(rank, 0, at, context)}, b.getF32Type(), &dims, round);
}

} // namespace mlir::dsc
