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

/// What the numbers of a block of this greatest magnitude are divided by.
static Value scaleFor(OpBuilder &b, Location loc, Value greatest, Type element) {
  Value scale = arith::DivFOp::create(b, loc, greatest, constant(b, loc, largest(element)));
  Value isZero = arith::CmpFOp::create(b, loc, arith::CmpFPredicate::OEQ, scale, constant(b, loc, 0));
  return arith::SelectOp::create(b, loc, isZero, constant(b, loc, 1), scale);
}

/// A number in units of its scale, within the range of the type.
static Value numberIn(OpBuilder &b, Location loc, Value value, Value scale, Type element) {
  return clamp(b, loc, arith::DivFOp::create(b, loc, value, scale), largest(element));
}

/// Where the elements of rows read what their blocks have one of.
static AffineMap blockMap(Builder &b, int64_t rank, int64_t blocks, int64_t group) {
  SmallVector<AffineExpr> at;
  for (int64_t i = 0; i + 1 < rank; ++i)
    at.push_back(b.getAffineDimExpr(i));
  at.push_back(blocks > 1 ? b.getAffineDimExpr(rank - 1).floorDiv(group) : b.getAffineConstantExpr(0));
  return AffineMap::get(rank, 0, at, b.getContext());
}

/// On what roundInBlocks made: the format that it is exact in.
constexpr StringLiteral kRoundedAttr = "dsc.rounded";

static std::string formatName(Type element, int64_t group) {
  StringRef codes = element.isInteger(8) ? "int8" : isa<Float8E4M3FNType>(element) ? "fp8_e4m3" : "fp8_e5m2";
  return codes.str() + "_g" + std::to_string(group);
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
  auto round = [&](OpBuilder &inner, ValueRange values) -> Value {
    Value scale = scaleFor(inner, loc, values[1], element), code = numberIn(inner, loc, values[0], scale, element);
    if (isa<FloatType>(element)) {
      code = arith::TruncFOp::create(inner, loc, element, code);
      code = arith::ExtFOp::create(inner, loc, inner.getF32Type(), code);
    } else {
      code = math::RoundEvenOp::create(inner, loc, code);
    }
    return arith::MulFOp::create(inner, loc, code, scale);
  };
  AffineMap identity = b.getMultiDimIdentityMap(rank);
  Value result =
      map(b, loc, {value, greatest}, {identity, blockMap(b, rank, blocks, group)}, b.getF32Type(), &dims, round);
  if (columns % (blocks > 1 ? group : columns) == 0)
    result.getDefiningOp()->setAttr(kRoundedAttr, b.getStringAttr(formatName(element, blocks > 1 ? group : columns)));
  return result;
}

std::optional<BlockFormat> roundedFormat(Value value) {
  Operation *op = value.getDefiningOp();
  auto name = op ? op->getAttrOfType<StringAttr>(kRoundedAttr) : StringAttr();
  return name ? findBlockFormat(name.getValue()) : std::nullopt;
}

static Type codeType(const BlockFormat &format, MLIRContext *context) {
  if (format.codes == BlockCodes::E4M3)
    return Float8E4M3FNType::get(context);
  return Float8E5M2Type::get(context);
}

Value codesOfRounded(Value rounded, DimsAnalysis &dims) {
  auto op = rounded.getDefiningOp<linalg::GenericOp>();
  std::optional<BlockFormat> format = roundedFormat(rounded);
  OpBuilder b(op);
  Location loc = op.getLoc();
  auto type = cast<RankedTensorType>(rounded.getType());
  Type element = codeType(*format, b.getContext());
  int64_t rank = type.getRank(), blocks = type.getShape().back() / format->block;
  Value value = op.getDpsInputs()[0], greatest = op.getDpsInputs()[1];
  AffineMap identity = b.getMultiDimIdentityMap(rank);
  Value scales = map(b, loc, greatest, {identity}, b.getF32Type(), &dims,
                     [&](OpBuilder &inner, ValueRange values) { return scaleFor(inner, loc, values[0], element); });
  auto encode = [&](OpBuilder &inner, ValueRange values) -> Value {
    Value code = numberIn(inner, loc, values[0], values[1], element);
    code = arith::TruncFOp::create(inner, loc, element, code);
    return arith::BitcastOp::create(inner, loc, inner.getI8Type(), code);
  };
  AffineMap perBlock = blockMap(b, rank, blocks, format->block);
  Value codes = map(b, loc, {value, scales}, {identity, perBlock}, b.getI8Type(), &dims, encode);
  return DequantizeOp::create(b, loc, type, codes, scales, b.getStringAttr(format->name), IntegerAttr(), UnitAttr());
}

Value splitBlocks(DequantizeOp source) {
  std::optional<BlockFormat> format = findBlockFormat(source.getFormat());
  OpBuilder b(source);
  Location loc = source.getLoc();
  auto type = cast<RankedTensorType>(source.getBlocks().getType());
  int64_t rows = type.getDimSize(0), blocks = type.getDimSize(1) / format->bytes, begin = format->codesBegin();
  SmallVector<ReassociationIndices> split{{0}, {1, 2}};
  Value bytes =
      tensor::ExpandShapeOp::create(b, loc, type.clone({rows, blocks, format->bytes}), source.getBlocks(), split);
  auto generic = [&](ValueRange inputs, ArrayRef<AffineMap> maps, ArrayRef<int64_t> shape, Type element, Body body) {
    SmallVector<AffineMap> all(maps);
    all.push_back(b.getMultiDimIdentityMap(shape.size()));
    SmallVector<utils::IteratorType> loops(shape.size(), utils::IteratorType::parallel);
    Value out = tensor::EmptyOp::create(b, loc, shape, element);
    return linalg::GenericOp::create(b, loc, out.getType(), inputs, ValueRange{out}, all, loops,
                                     [&](OpBuilder &inner, Location at, ValueRange values) {
                                       linalg::YieldOp::create(inner, at, body(inner, values));
                                     })
        .getResult(0);
  };
  AffineExpr row = b.getAffineDimExpr(0), block = b.getAffineDimExpr(1), place = b.getAffineDimExpr(2);
  Value codes = generic(bytes, AffineMap::get(3, 0, {row, block, place + begin}, b.getContext()),
                        {rows, blocks, format->codeBytes()}, b.getI8Type(),
                        [](OpBuilder &, ValueRange values) { return values[0]; });
  codes = tensor::CollapseShapeOp::create(b, loc, codes, split);
  // The f32 in front of a block's codes, the low byte first.
  SmallVector<AffineMap> maps;
  for (int64_t i = 0; i < begin; ++i)
    maps.push_back(AffineMap::get(2, 0, {row, block, b.getAffineConstantExpr(i)}, b.getContext()));
  SmallVector<Value> inputs(begin, bytes);
  Value scales =
      generic(inputs, maps, {rows, blocks}, b.getF32Type(), [&](OpBuilder &inner, ValueRange values) -> Value {
        Value bits;
        for (int64_t i = 0; i < begin; ++i) {
          Value byte = arith::ExtUIOp::create(inner, loc, inner.getI32Type(), values[i]);
          Value shift = arith::ConstantOp::create(inner, loc, inner.getI32IntegerAttr(8 * i));
          Value high = i ? Value(arith::ShLIOp::create(inner, loc, byte, shift)) : byte;
          bits = i ? Value(arith::OrIOp::create(inner, loc, bits, high)) : high;
        }
        return arith::BitcastOp::create(inner, loc, inner.getF32Type(), bits);
      });
  return DequantizeOp::create(b, loc, source.getType(), codes, scales, source.getFormatAttr(), IntegerAttr(),
                              UnitAttr());
}

} // namespace mlir::dsc
