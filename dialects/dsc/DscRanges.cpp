//===- DscRanges.cpp - which values the results of dsc ops can have -------===//
//
// Each rule bounds the real result and widens it by the rounding of its
// evaluation: gamma_K of K roundings, in any order of a sum (Higham 2002,
// chapters 3 and 4).
//
//===----------------------------------------------------------------------===//

#include "dialects/dsc/DscChecks.h"
#include "dialects/dsc/DscOps.h"
#include "dialects/dsc/DscProducts.h"
#include "mlir/Dialect/Linalg/IR/Linalg.h"
#include "mlir/Dialect/Math/IR/Math.h"

using namespace mlir;
using namespace mlir::dsc;

/// Unknown for integers, which wrap around.
static SmallVector<Bounds> of(Value result, Bounds bounds, double roundings = 1) {
  if (!isa<FloatType>(getElementTypeOrSelf(result)))
    return {Bounds()};
  return {bounds.rounded(result.getType(), roundings).tightened(result.getType())};
}

/// Of elements that only move.
static SmallVector<Bounds> moved(Value result, Bounds bounds) { return of(result, bounds, 0); }

/// The sign that all terms of a sum have.
static Bounds keepSign(Bounds result, const Bounds &terms) {
  if (terms.lo >= 0)
    result.lo = std::max(result.lo, 0.0);
  if (terms.hi <= 0)
    result.hi = std::min(result.hi, 0.0);
  return result;
}

static double gammaOfSum(double terms, Type acc) {
  return gammaOf(std::min(terms, kLongestSum) + 16, unitRoundoff(acc));
}

//===----------------------------------------------------------------------===//
// Products
//===----------------------------------------------------------------------===//

static double times(double a, double b) { return a == 0 || b == 0 ? 0 : a * b; }

/// Bounds of what is multiplied when values are rounded to `type` first. Rows have `depth` elements.
static Bounds boundsAsRead(const Bounds &bounds, Type type, double depth) {
  double most = bounds.magnitude();
  RoundingLoss loss = lossOf(type, most);
  return bounds.perturbed(times(loss.relative, most) + loss.absolute,
                          times(loss.relative, bounds.norm) + times(std::sqrt(depth), loss.absolute));
}

MatmulFactors::MatmulFactors(MatmulOp op, const Bounds &lhs, const Bounds &rhs, RoundingTypes types) {
  RankedTensorType type = tensorType(op.getLhs());
  auto size = [&](int64_t dim) {
    return type.isDynamicDim(dim) ? kInfinity : static_cast<double>(type.getDimSize(dim));
  };
  if (op.getPackedRows())
    depth = size(1) * (type.getRank() == 4 ? size(3) : 1);
  else
    depth = size(type.getRank() - (op.getTransposeLhs() ? 2 : 1));
  x = boundsAsRead(lhs, types.lhs, depth);
  w = boundsAsRead(rhs, types.rhs, depth);
  bool lhsRows = !op.getTransposeLhs() && !op.getPackedRows(), rhsRows = op.getTransposeRhs();
  auto norm = [&](const Bounds &b, bool rows) {
    return std::min(rows ? b.norm : kInfinity, times(std::sqrt(depth), b.magnitude()));
  };
  xNorm = norm(x, lhsRows);
  wNorm = norm(w, rhsRows);
  sum = std::min(times(xNorm, wNorm), times(times(depth, x.magnitude()), w.magnitude()));
  acc = types.acc ? types.acc : defaultAccumulatorType(type.getElementType());
}

static RoundingTypes decided(PrecisionAttr precision) {
  return precision ? RoundingTypes{precision.getLhs(), precision.getRhs(), precision.getAcc(), precision.getResult()}
                   : RoundingTypes();
}

/// |y| <= min(|x| |w|, K max|x| max|w|), and K times the product of the intervals.
SmallVector<Bounds> MatmulOp::inferRanges(ArrayRef<Bounds> operands) {
  MatmulFactors factors(*this, operands[0], operands[1], decided(getPrecisionAttr()));
  Bounds each = (factors.x * factors.w).withoutNorm();
  Bounds real = both(dsc::sum(each, factors.depth, Float64Type::get(getContext())), Bounds::within(factors.sum));
  double error = gammaOfSum(factors.depth, factors.acc) * factors.sum;
  error += std::min(factors.depth, kLongestSum) * smallestNormal(factors.acc);
  if (factors.sum == 0)
    error = 0;
  Bounds result = keepSign(real.perturbed(error), each).rounded(factors.acc);
  if (getBias())
    result = (result + operands[2].withoutNorm()).rounded(factors.acc);
  return of(getResult(), result);
}

/// A cache holds zeros and what this program's own calls appended, unless its argument says otherwise.
static bool holdsOwnOnly(KvAppendOp op, const Bounds &cache) {
  return isa<BlockArgument>(op.getCache()) && !cache.isBounded();
}

/// Convex combinations of values, or 0. Numerators and the denominator use the same weights, whatever their error is.
SmallVector<Bounds> AttentionOp::inferRanges(ArrayRef<Bounds> operands) {
  return inferRangesFrom(operands, [](Value) { return Bounds(); });
}

SmallVector<Bounds> AttentionOp::inferRangesFrom(ArrayRef<Bounds> operands, function_ref<Bounds(Value)> boundsOf) {
  Value stored = getCache() ? getCache() : getValue();
  RankedTensorType type = tensorType(stored);
  int64_t keys = type.getDimSize(getCache() ? 3 : 1);
  Bounds values = operands[getCache() ? 1 : 2];
  // Values alone, where the cache holds nothing but what was appended.
  if (auto append = getCache() ? getCache().getDefiningOp<KvAppendOp>() : KvAppendOp())
    if (holdsOwnOnly(append, boundsOf(append.getCache())) && boundsOf(append.getValue()).isBounded())
      values = both(values, boundsOf(append.getValue()));
  Type element = getElementTypeOrSelf(getResult());
  double terms = ShapedType::isDynamic(keys) ? kLongestSum : static_cast<double>(keys);
  // Values are added before their sum is divided.
  Type acc = defaultAccumulatorType(element);
  if (terms * values.magnitude() > largestNumber(acc))
    return {Bounds()};
  // Every block of keys may rescale what was added before.
  double error = gammaOf(2 * terms + 64, unitRoundoff(acc));
  error = error < 1 ? (1 + error) / (1 - error) : kInfinity;
  PrecisionAttr precision = getPrecisionAttr();
  double narrow =
      std::max(unitRoundoff(element), precision && precision.getRhs() ? unitRoundoff(precision.getRhs()) : 0);
  error = error * (1 + narrow) * (1 + narrow) - 1;
  double slack = values.magnitude() == 0 ? 0 : values.magnitude() * error;
  Bounds hull = either(values, {0, 0, 0});
  Bounds result = keepSign(hull.perturbed(slack), hull);
  result.norm = values.norm == 0 ? 0 : values.norm * (1 + error);
  return of(getResult(), result);
}

SmallVector<Bounds> KvAppendOp::inferRanges(ArrayRef<Bounds> operands) {
  Bounds added = either(operands[0], operands[1]);
  return moved(getResult(), either(added, holdsOwnOnly(*this, operands[2]) ? Bounds{0, 0, 0} : operands[2]));
}

//===----------------------------------------------------------------------===//
// Normalization
//===----------------------------------------------------------------------===//

/// x / sqrt(mean(x^2) + eps) of rows of n: within sqrt(n), and within a / sqrt(a^2 / n + eps) where |x| <= a.
static Bounds normalized(const Bounds &input, double n, double eps, Type element) {
  // Squares that underflow must not show beside eps.
  if (!(eps >= 1e-30))
    return {};
  auto most = [&](double a) {
    return std::min(std::sqrt(n), a < kInfinity ? a / std::hypot(a / std::sqrt(n), std::sqrt(eps)) : kInfinity);
  };
  Bounds result = keepSign(Bounds::within(most(input.magnitude()), most(input.norm)), input);
  return result.widened(gammaOfSum(n, defaultAccumulatorType(element)));
}

SmallVector<Bounds> RmsNormOp::inferRanges(ArrayRef<Bounds> operands) {
  Type element = getElementTypeOrSelf(getResult());
  Bounds unit = normalized(operands[0], rowLength(getInput().getType()), getEps().convertToDouble(), element);
  return of(getResult(), (unit * operands[1]).rounded(element, 3));
}

/// The deviations from any mean satisfy the bound of rms_norm, so the mean's rounding does not show.
SmallVector<Bounds> LayerNormOp::inferRanges(ArrayRef<Bounds> operands) {
  Type element = getElementTypeOrSelf(getResult());
  double n = rowLength(getInput().getType());
  Bounds deviations = Bounds::within(2 * operands[0].magnitude());
  deviations = deviations.widened(gammaOfSum(n, defaultAccumulatorType(element)));
  Bounds result = normalized(deviations, n, getEps().convertToDouble(), element);
  if (getWeight())
    result = (result * operands[1]).rounded(element, 3);
  if (getBias())
    result = result + operands.back();
  return of(getResult(), result);
}

/// exp / sum is at most 1: a sum of numbers that are not negative is not less than any of them.
SmallVector<Bounds> SoftmaxOp::inferRanges(ArrayRef<Bounds>) {
  double error = gammaOfSum(rowLength(getInput().getType()), defaultAccumulatorType(getElementTypeOrSelf(getInput())));
  return of(getResult(), {0, 1 + 0x1p-20, 1 + error});
}

//===----------------------------------------------------------------------===//
// Positions, tables, formats
//===----------------------------------------------------------------------===//

/// Whether two values are the cosine and the sine of the same angles, computed alike.
static bool areOfOneAngle(Value cos, Value sin) {
  auto first = cos.getDefiningOp<linalg::GenericOp>(), second = sin.getDefiningOp<linalg::GenericOp>();
  if (!first || !second || first.getInputs() != second.getInputs() ||
      first.getIndexingMaps() != second.getIndexingMaps() || first.getNumReductionLoops() != 0)
    return false;
  Block &a = first->getRegion(0).front(), &b = second->getRegion(0).front();
  if (a.getOperations().size() != b.getOperations().size())
    return false;
  IRMapping same;
  same.map(a.getArguments(), b.getArguments());
  bool functions = false;
  for (auto [left, right] : llvm::zip(a, b)) {
    bool angle = isa<math::CosOp>(left) && isa<math::SinOp>(right);
    functions |= angle && left.getNextNode() == a.getTerminator() && right.getNextNode() == b.getTerminator() &&
                 a.getTerminator()->getOperand(0) == left.getResult(0) &&
                 b.getTerminator()->getOperand(0) == right.getResult(0);
    if (!angle && (left.getName() != right.getName() || left.getAttrDictionary() != right.getAttrDictionary()))
      return false;
    for (auto [x, y] : llvm::zip_equal(left.getOperands(), right.getOperands()))
      if (same.lookupOrDefault(x) != y)
        return false;
    same.map(left.getResults(), right.getResults());
  }
  return functions;
}

/// Rotations keep the norm of a pair; tables that are no cosines and sines of one angle scale it.
SmallVector<Bounds> RopeOp::inferRanges(ArrayRef<Bounds> operands) {
  Type element = getElementTypeOrSelf(getResult());
  Bounds x = operands[0];
  double cos = operands[1].magnitude(), sin = operands[2].magnitude();
  double scale = areOfOneAngle(getCos(), getSin()) ? 1 + 8 * unitRoundoff(element) : std::hypot(cos, sin);
  double pair = std::min(std::sqrt(2.0) * x.magnitude(), x.norm);
  if (x.magnitude() == 0)
    return of(getResult(), {0, 0, 0});
  Bounds result = Bounds::within(std::min(pair * scale, x.magnitude() * (cos + sin)), x.norm * scale);
  return of(getResult(), result.rounded(element, 4));
}

SmallVector<Bounds> EmbeddingOp::inferRanges(ArrayRef<Bounds> operands) { return {operands[0]}; }

/// Bounds of a weight in blocks are those of the numbers that it stands for.
SmallVector<Bounds> DequantizeOp::inferRanges(ArrayRef<Bounds> operands) {
  if (getScales()) // are not looked at
    return {Bounds()};
  if (getPanel())
    return moved(getResult(), either(operands[0], {0, 0, 0}).withoutNorm());
  bool exact = getElementTypeOrSelf(getResult()).getIntOrFloatBitWidth() >= 32;
  return of(getResult(), operands[0], exact ? 0 : 1);
}

SmallVector<Bounds> PackBlocksOp::inferRanges(ArrayRef<Bounds> operands) {
  return {either(operands[0], {0, 0, 0}).withoutNorm()};
}

//===----------------------------------------------------------------------===//
// Order
//===----------------------------------------------------------------------===//

/// Products of numbers within [-1, 1] stay there.
static Bounds powersOf(const Bounds &factors) {
  return factors.magnitude() <= 1 ? keepSign(Bounds::within(1), {std::min(factors.lo, 0.0), kInfinity}) : Bounds();
}

SmallVector<Bounds> ScanOp::inferRanges(ArrayRef<Bounds> operands) {
  Bounds x = operands[0].withoutNorm();
  Type acc = defaultAccumulatorType(getElementTypeOrSelf(getInput()));
  double n = rowLength(getInput().getType());
  if (getKind() == "add")
    return of(getResult(), either(x, dsc::sum(x, n, acc)));
  if (getKind() == "mul")
    return moved(getResult(), powersOf(x));
  if (getKind() != "logaddexp")
    return moved(getResult(), x);
  Bounds grown{x.lo, x.hi + std::log(std::max(n, 1.0)), kInfinity};
  return of(getResult(), grown.perturbed(gammaOfSum(8 * n, acc) * (grown.magnitude() + 1)));
}

SmallVector<Bounds> SortOp::inferRanges(ArrayRef<Bounds>) {
  return {{0, std::max(0.0, rowLength(getInput().getType()) - 1), kInfinity}};
}

SmallVector<Bounds> ScatterOp::inferRanges(ArrayRef<Bounds> operands) {
  Bounds x = operands[0], updates = operands[2];
  if (getKind() == "set")
    return moved(getResult(), either(x, updates));
  if (getKind() == "max" || getKind() == "min")
    return moved(getResult(), mixed(x, updates));
  if (getKind() == "mul")
    return moved(getResult(), powersOf(either(x, updates)));
  int64_t rows = tensorType(getUpdates()).getDimSize(0);
  double count = ShapedType::isDynamic(rows) ? kInfinity : static_cast<double>(rows);
  Type element = getElementTypeOrSelf(getResult());
  Bounds total = (x + dsc::sum(either(updates, {0, 0, 0}), count, element)).withoutNorm();
  Bounds result = total.perturbed(gammaOfSum(count, element) * total.magnitude());
  return of(getResult(), x.lo >= 0 && updates.lo >= 0 ? keepSign(result, {0, kInfinity, kInfinity}) : result);
}
