//===- DscOps.cpp - verifiers, shapes, costs and folders of dsc ops -------===//

#include "dialects/dsc/DscOps.h"
#include "dialects/dsc/DscChecks.h"
#include "mlir/IR/Builders.h"
#include "mlir/IR/Matchers.h"
#include "mlir/IR/PatternMatch.h"

using namespace mlir;
using namespace mlir::dsc;

#define GET_OP_CLASSES
#include "dialects/dsc/DscOps.cpp.inc"

LogicalResult mlir::dsc::checkResultShapes(Operation *op) {
  MLIRContext *context = op->getContext();
  SmallVector<Dims> operandDims, resultDims;
  unsigned unknown = 0;
  for (Value operand : op->getOperands()) {
    Dims &dims = operandDims.emplace_back();
    for (int64_t size : tensorType(operand).getShape())
      dims.push_back(ShapedType::isDynamic(size) ? getAffineDimExpr(unknown++, context)
                                                 : getAffineConstantExpr(size, context));
  }
  cast<DimsOpInterface>(op).inferResultDims(operandDims, resultDims);
  for (auto [result, dims] : llvm::zip_equal(op->getResults(), resultDims)) {
    auto type = tensorType(result);
    if (type.getRank() != static_cast<int64_t>(dims.size()))
      return op->emitOpError() << "result must have rank " << dims.size() << ", got: " << type;
    for (auto [i, dim] : llvm::enumerate(dims))
      if (auto constant = dyn_cast<AffineConstantExpr>(dim))
        if (failed(checkSize(op, "inferred and written result sizes", constant.getValue(), type.getDimSize(i))))
          return failure();
  }
  return success();
}

//===----------------------------------------------------------------------===//
// matmul
//===----------------------------------------------------------------------===//

/// A packed left side lies like the right one: panels of rows that cover the rows, groups of the same size.
static LogicalResult checkPackedRows(MatmulOp op) {
  RankedTensorType lhs = tensorType(op.getLhs()), rhs = tensorType(op.getRhs());
  bool alike = lhs.getRank() == rhs.getRank() && (lhs.getRank() == 3 || lhs.getRank() == 4) && lhs.hasStaticShape() &&
               (lhs.getRank() == 3 || lhs.getDimSize(3) == rhs.getDimSize(3));
  if (!op.getPackedColumns() || op.getTransposeLhs() || !alike)
    return op.emitOpError(
               "a packed lhs must be static panels [m / t, k, t] or [m / t, k / g, t, g] beside such a rhs, got: ")
           << lhs << " and " << rhs;
  int64_t panel = lhs.getDimSize(2);
  if (panel == 0 || lhs.getDimSize(0) != llvm::divideCeil(*op.getPackedRows(), panel))
    return op.emitOpError("panels must cover the rows, got: ")
           << lhs.getDimSize(0) << " panels of " << panel << " for " << *op.getPackedRows();
  return success();
}

LogicalResult MatmulOp::verify() {
  RankedTensorType lhs = tensorType(getLhs()), rhs = tensorType(getRhs());
  int64_t rank = lhs.getRank();
  if (rank < 2)
    return emitOpError("lhs must have rank 2 or more, got: ") << lhs;
  auto left = dyn_cast<FloatType>(lhs.getElementType()), right = dyn_cast<FloatType>(rhs.getElementType());
  bool narrower = left && right && right.getWidth() < left.getWidth();
  if (!narrower && failed(checkElementTypes(*this, getLhs(), getRhs())))
    return failure();
  if (getPackedRows() && failed(checkPackedRows(*this)))
    return failure();
  int64_t lhsK = lhs.getDimSize(getPackedRows() ? 1 : rank - (getTransposeLhs() ? 2 : 1));
  int64_t rhsK, columns;
  if (getPackedColumns()) {
    columns = *getPackedColumns();
    if ((rhs.getRank() != 3 && rhs.getRank() != 4) || !rhs.hasStaticShape() || getTransposeRhs())
      return emitOpError("a packed rhs must be static panels [n / t, k, t] or [n / t, k / g, t, g], got: ") << rhs;
    int64_t panel = rhs.getDimSize(2);
    if (panel == 0 || rhs.getDimSize(0) != llvm::divideCeil(columns, panel))
      return emitOpError("panels must cover the columns, got: ")
             << rhs.getDimSize(0) << " panels of " << panel << " for " << columns;
    rhsK = rhs.getDimSize(1);
    if (rhs.getRank() == 4 && !getPackedRows()) { // the last group is padded with zeros
      int64_t group = rhs.getDimSize(3);
      if (group > 0 && !ShapedType::isDynamic(lhsK) && llvm::divideCeil(lhsK, group) == rhsK)
        rhsK = lhsK;
      else
        rhsK *= group;
    }
  } else {
    if (rhs.getRank() != 2 && rhs.getRank() != rank)
      return emitOpError("rhs must have rank 2 or the rank of lhs, got: ") << rhs;
    int64_t last = rhs.getRank() - 1;
    rhsK = rhs.getDimSize(getTransposeRhs() ? last : last - 1);
    columns = rhs.getDimSize(getTransposeRhs() ? last - 1 : last);
    if (rhs.getRank() > 2)
      for (int64_t i = 0; i < rank - 2; ++i)
        if (failed(checkSize(*this, "batch sizes", lhs.getDimSize(i), rhs.getDimSize(i))))
          return failure();
  }
  if (failed(checkSize(*this, "contraction sizes", lhsK, rhsK)))
    return failure();
  if (getBias()) {
    if (failed(checkRank(*this, "bias", getBias(), 1)) ||
        failed(checkSize(*this, "bias and column counts", tensorType(getBias()).getDimSize(0), columns)))
      return failure();
  }
  Type element = lhs.getElementType(), result = getElementTypeOrSelf(getResult());
  bool widened = element.isInteger(8) && result.isInteger(32);
  if (result != element && result != defaultAccumulatorType(element) && !widened)
    return emitOpError("result elements must be the operands' or their accumulator's, got: ")
           << result << " from " << element;
  return checkResultShapes(*this);
}

AffineExpr MatmulOp::getDepth(ArrayRef<AffineExpr> lhs) {
  if (!getPackedRows())
    return lhs[lhs.size() - (getTransposeLhs() ? 2 : 1)];
  return lhs.size() == 4 ? lhs[1] * lhs[3] : lhs[1];
}

bool MatmulOp::isLegalElementType(Type type) { return type.isIntOrFloat(); }

OpOperand *MatmulOp::getStoredOperand() { return &getRhsMutable(); }

bool MatmulOp::widensStoredOperand() { return true; }

void MatmulOp::inferResultDims(ArrayRef<Dims> operands, SmallVectorImpl<Dims> &results) {
  const Dims &lhs = operands[0], &rhs = operands[1];
  size_t rank = lhs.size();
  Dims &dims = results.emplace_back();
  if (getPackedRows()) {
    dims.push_back(getAffineConstantExpr(*getPackedRows(), getContext()));
  } else {
    dims.append(lhs.begin(), lhs.end() - 2);
    dims.push_back(lhs[rank - (getTransposeLhs() ? 1 : 2)]);
  }
  dims.push_back(getPackedColumns() ? getAffineConstantExpr(*getPackedColumns(), getContext())
                                    : rhs[rhs.size() - (getTransposeRhs() ? 2 : 1)]);
}

AffineExpr MatmulOp::getOperationCount(ArrayRef<Dims> operands, ArrayRef<Dims> results) {
  return elementCount(results[0], getContext()) * getDepth(operands[0]) * 2;
}

/// A bias of zeros is no bias.
static LogicalResult dropZeroBias(MatmulOp op, PatternRewriter &rewriter) {
  DenseElementsAttr bias;
  if (!op.getBias() || !matchPattern(op.getBias(), m_Constant(&bias)) || !bias.isSplat())
    return failure();
  bool zero = isa<FloatType>(bias.getElementType()) ? bias.getSplatValue<APFloat>().isPosZero()
                                                    : bias.getSplatValue<APInt>().isZero();
  if (!zero)
    return failure();
  rewriter.modifyOpInPlace(op, [&] { op.getBiasMutable().clear(); });
  return success();
}

void MatmulOp::getCanonicalizationPatterns(RewritePatternSet &patterns, MLIRContext *) { patterns.add(dropZeroBias); }

//===----------------------------------------------------------------------===//
// attention and its cache
//===----------------------------------------------------------------------===//

/// A cache is [b, 2, h_kv, capacity, d].
static LogicalResult checkCache(Operation *op, Value cache) {
  if (failed(checkRank(op, "cache", cache, 5)))
    return failure();
  return checkSize(op, "cache planes and key/value", tensorType(cache).getDimSize(1), 2);
}

/// [b, h_q, s, t], each size being 1 or that of the scores.
static LogicalResult checkMask(AttentionOp op) {
  if (!op.getMask())
    return success();
  if (failed(checkRank(op, "mask", op.getMask(), 4)))
    return failure();
  RankedTensorType mask = tensorType(op.getMask()), query = tensorType(op.getQuery());
  if (!mask.getElementType().isInteger(1) && !isa<FloatType>(mask.getElementType()))
    return op.emitOpError("mask must hold booleans or floats, got: ") << mask;
  int64_t keys = op.getCache() ? tensorType(op.getCache()).getDimSize(3) : tensorType(op.getKey()).getDimSize(1);
  const int64_t sizes[] = {query.getDimSize(0), query.getDimSize(2), query.getDimSize(1), keys};
  for (auto [size, expected] : llvm::zip_equal(mask.getShape(), sizes))
    if (size != 1 && failed(checkSize(op, "mask and score sizes", size, expected)))
      return failure();
  return success();
}

LogicalResult AttentionOp::verify() {
  if (failed(checkRank(*this, "query", getQuery(), 4)))
    return failure();
  if (static_cast<bool>(getCache()) == static_cast<bool>(getKey()))
    return emitOpError("needs either keys and values or a cache");
  if (static_cast<bool>(getKey()) != static_cast<bool>(getValue()))
    return emitOpError("needs values with its keys");
  if (static_cast<bool>(getCache()) != static_cast<bool>(getLengths()))
    return emitOpError("needs lengths with its cache");
  RankedTensorType query = tensorType(getQuery());
  int64_t kvHeads, depth, batch;
  if (getCache()) {
    if (failed(checkCache(*this, getCache())) || failed(checkRank(*this, "lengths", getLengths(), 1)) ||
        failed(checkSize(*this, "batch sizes", query.getDimSize(0), tensorType(getLengths()).getDimSize(0))))
      return failure();
    RankedTensorType cache = tensorType(getCache());
    if (cache.getElementTypeBitWidth() > query.getElementTypeBitWidth())
      return emitOpError("the cache must not be wider than the query, got: ")
             << cache.getElementType() << " and " << query.getElementType();
    batch = cache.getDimSize(0), kvHeads = cache.getDimSize(2), depth = cache.getDimSize(4);
  } else {
    if (failed(checkRank(*this, "key", getKey(), 4)) || failed(checkRank(*this, "value", getValue(), 4)) ||
        failed(checkElementTypes(*this, getQuery(), getKey())) ||
        failed(checkElementTypes(*this, getQuery(), getValue())))
      return failure();
    RankedTensorType key = tensorType(getKey()), value = tensorType(getValue());
    for (int64_t i = 0; i < 4; ++i)
      if (failed(checkSize(*this, "key and value sizes", key.getDimSize(i), value.getDimSize(i))))
        return failure();
    batch = key.getDimSize(0), kvHeads = key.getDimSize(2), depth = key.getDimSize(3);
  }
  if (failed(checkSize(*this, "batch sizes", query.getDimSize(0), batch)) ||
      failed(checkSize(*this, "head sizes", query.getDimSize(3), depth)))
    return failure();
  int64_t heads = query.getDimSize(2);
  if (ShapedType::isDynamic(heads) || ShapedType::isDynamic(kvHeads) || query.isDynamicDim(3))
    return emitOpError("head counts and head size must be static, got: ") << query;
  if (kvHeads == 0 || heads % kvHeads != 0)
    return emitOpError("query heads must be a multiple of key/value heads, got: ") << heads << " and " << kvHeads;
  if (getWindow() && *getWindow() <= 0)
    return emitOpError("window must be positive, got: ") << *getWindow();
  if (getSoftCap() && !(getSoftCap()->convertToDouble() > 0))
    return emitOpError("soft_cap must be positive, got: ") << getSoftCapAttr();
  if (failed(checkMask(*this)) || failed(checkElementTypes(*this, getQuery(), getResult())))
    return failure();
  return checkResultShapes(*this);
}

void AttentionOp::inferResultDims(ArrayRef<Dims> operands, SmallVectorImpl<Dims> &results) {
  results.push_back(operands[0]);
}

AffineExpr AttentionOp::getOperationCount(ArrayRef<Dims> operands, ArrayRef<Dims>) {
  // Two products per pair of a query and a key that it sees; causal, query i of s sees t - s + i + 1.
  const Dims &query = operands[0];
  AffineExpr s = query[1], t = operands[1][getCache() ? 3 : 1];
  AffineExpr pairs = getCausal() ? s * t * 4 - s * s * 2 + s * 2 : s * t * 4;
  return query[0] * query[2] * query[3] * pairs;
}

OpOperand *KvAppendOp::getStoredOperand() { return &getCacheMutable(); }

LogicalResult KvAppendOp::verify() {
  if (failed(checkRank(*this, "key", getKey(), 4)) || failed(checkRank(*this, "value", getValue(), 4)) ||
      failed(checkCache(*this, getCache())) || failed(checkRank(*this, "positions", getPositions(), 1)) ||
      failed(checkElementTypes(*this, getKey(), getCache())) ||
      failed(checkElementTypes(*this, getValue(), getCache())))
    return failure();
  RankedTensorType key = tensorType(getKey()), value = tensorType(getValue()), cache = tensorType(getCache());
  for (int64_t i = 0; i < 4; ++i)
    if (failed(checkSize(*this, "key and value sizes", key.getDimSize(i), value.getDimSize(i))))
      return failure();
  if (failed(checkSize(*this, "batch sizes", key.getDimSize(0), cache.getDimSize(0))) ||
      failed(checkSize(*this, "key/value head counts", key.getDimSize(2), cache.getDimSize(2))) ||
      failed(checkSize(*this, "head sizes", key.getDimSize(3), cache.getDimSize(4))))
    return failure();
  if (getResult().getType() != getCache().getType())
    return emitOpError("result must have the cache's type, got: ") << getResult().getType();
  // Linear use: the append writes into the very buffer, so an older view of it must not be read.
  for (Operation *user : getCache().getUsers())
    if (user != *this && user->getBlock() == (*this)->getBlock() && (*this)->isBeforeInBlock(user))
      return emitOpError("the cache is used again after the append, by: ") << user->getName();
  return checkResultShapes(*this);
}

void KvAppendOp::inferResultDims(ArrayRef<Dims> operands, SmallVectorImpl<Dims> &results) {
  results.push_back(operands[2]);
}

AffineExpr KvAppendOp::getOperationCount(ArrayRef<Dims>, ArrayRef<Dims>) {
  return getAffineConstantExpr(0, getContext());
}

SmallVector<AffineExpr> KvAppendOp::getElementCounts(ArrayRef<Dims> operands, ArrayRef<Dims> results) {
  SmallVector<AffineExpr> counts = elementCounts(operands, results, getContext());
  counts[2] = getAffineConstantExpr(0, getContext()); // the rest of the cache is not touched
  counts.back() = counts[0] + counts[1];
  return counts;
}

//===----------------------------------------------------------------------===//
// Normalization, positions, tables
//===----------------------------------------------------------------------===//

/// `parameter` is one value per element of the last dimension of `input`.
static LogicalResult checkLastDimension(Operation *op, Value input, StringRef what, Value parameter) {
  RankedTensorType type = tensorType(input);
  if (type.getRank() < 1)
    return op->emitOpError("input must have a dimension to normalize, got: ") << type;
  if (!parameter)
    return success();
  if (failed(checkRank(op, what, parameter, 1)) || failed(checkElementTypes(op, input, parameter)))
    return failure();
  return checkSize(op, (what + " and last input sizes").str(), tensorType(parameter).getDimSize(0),
                   type.getShape().back());
}

LogicalResult RmsNormOp::verify() {
  if (failed(checkLastDimension(*this, getInput(), "weight", getWeight())))
    return failure();
  return checkResultShapes(*this);
}

void RmsNormOp::inferResultDims(ArrayRef<Dims> operands, SmallVectorImpl<Dims> &results) {
  results.push_back(operands[0]);
}

AffineExpr RmsNormOp::getOperationCount(ArrayRef<Dims> operands, ArrayRef<Dims>) {
  return elementCount(operands[0], getContext()) * 4;
}

LogicalResult LayerNormOp::verify() {
  if (failed(checkLastDimension(*this, getInput(), "weight", getWeight())) ||
      failed(checkLastDimension(*this, getInput(), "bias", getBias())))
    return failure();
  return checkResultShapes(*this);
}

void LayerNormOp::inferResultDims(ArrayRef<Dims> operands, SmallVectorImpl<Dims> &results) {
  results.push_back(operands[0]);
}

AffineExpr LayerNormOp::getOperationCount(ArrayRef<Dims> operands, ArrayRef<Dims>) {
  return elementCount(operands[0], getContext()) * 8;
}

LogicalResult RopeOp::verify() {
  if (failed(checkRank(*this, "input", getInput(), 4)) || failed(checkRank(*this, "cos", getCos(), 3)) ||
      failed(checkRank(*this, "sin", getSin(), 3)) || failed(checkElementTypes(*this, getInput(), getCos())) ||
      failed(checkElementTypes(*this, getInput(), getSin())))
    return failure();
  RankedTensorType input = tensorType(getInput());
  int64_t depth = input.getDimSize(3);
  if (ShapedType::isDynamic(depth) || depth % 2 != 0)
    return emitOpError("head size must be static and even, got: ") << input;
  for (Value table : {getCos(), getSin()}) {
    RankedTensorType type = tensorType(table);
    if (failed(checkSize(*this, "angle and input batch sizes", type.getDimSize(0), input.getDimSize(0))) ||
        failed(checkSize(*this, "angle and input sequence sizes", type.getDimSize(1), input.getDimSize(1))) ||
        failed(checkSize(*this, "angle count and half the head size", type.getDimSize(2), depth / 2)))
      return failure();
  }
  return checkResultShapes(*this);
}

void RopeOp::inferResultDims(ArrayRef<Dims> operands, SmallVectorImpl<Dims> &results) {
  results.push_back(operands[0]);
}

AffineExpr RopeOp::getOperationCount(ArrayRef<Dims> operands, ArrayRef<Dims>) {
  return elementCount(operands[0], getContext()) * 3;
}

bool EmbeddingOp::isLegalElementType(Type type) { return type.isIntOrFloat(); }

OpOperand *EmbeddingOp::getStoredOperand() { return &getTableMutable(); }

LogicalResult EmbeddingOp::verify() {
  if (failed(checkRank(*this, "table", getTable(), 2)) || failed(checkElementTypes(*this, getTable(), getResult())))
    return failure();
  return checkResultShapes(*this);
}

void EmbeddingOp::inferResultDims(ArrayRef<Dims> operands, SmallVectorImpl<Dims> &results) {
  Dims &dims = results.emplace_back(operands[1]);
  dims.push_back(operands[0][1]);
}

AffineExpr EmbeddingOp::getOperationCount(ArrayRef<Dims>, ArrayRef<Dims>) {
  return getAffineConstantExpr(0, getContext());
}

SmallVector<AffineExpr> EmbeddingOp::getElementCounts(ArrayRef<Dims> operands, ArrayRef<Dims> results) {
  SmallVector<AffineExpr> counts = elementCounts(operands, results, getContext());
  counts[0] = counts.back(); // rows that are asked for
  return counts;
}

LogicalResult SoftmaxOp::verify() {
  if (tensorType(getInput()).getRank() < 1)
    return emitOpError("input must have a dimension to normalize, got: ") << getInput().getType();
  return success();
}

void SoftmaxOp::inferResultDims(ArrayRef<Dims> operands, SmallVectorImpl<Dims> &results) {
  results.push_back(operands[0]);
}

AffineExpr SoftmaxOp::getOperationCount(ArrayRef<Dims> operands, ArrayRef<Dims>) {
  return elementCount(operands[0], getContext()) * 5;
}

/// Over one element softmax is 1, except that NaN and infinity give NaN: only
/// a constant input is known to be neither.
OpFoldResult SoftmaxOp::fold(FoldAdaptor adaptor) {
  auto input = dyn_cast_or_null<DenseElementsAttr>(adaptor.getInput());
  auto type = cast<RankedTensorType>(getType());
  if (!input || !input.isSplat() || type.getShape().back() != 1 || !input.getSplatValue<APFloat>().isFinite())
    return {};
  APFloat one(cast<FloatType>(type.getElementType()).getFloatSemantics(), 1);
  return DenseElementsAttr::get(type, one);
}
