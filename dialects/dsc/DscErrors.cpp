//===- DscErrors.cpp - what roundings do to the results of dsc ops --------===//
//
// Bounds hold for every rounding: gamma_K of a sum of K products (Higham 2002,
// "Accuracy and Stability of Numerical Algorithms", eq. 3.5). Estimates take
// roundings for independent, so that squares add up and K of them count sqrt(K)
// (section 2.8 there).
//
//===----------------------------------------------------------------------===//

#include "dialects/dsc/DscChecks.h"
#include "dialects/dsc/DscOps.h"
#include "dialects/dsc/DscProducts.h"

using namespace mlir;
using namespace mlir::dsc;

static double times(double a, double b) { return a == 0 || b == 0 ? 0 : a * b; }

/// sqrt(sum of squares).
static double rootOf(std::initializer_list<double> parts) {
  double sum = 0;
  for (double part : parts)
    sum = std::hypot(sum, part);
  return sum;
}

static RoundingError checked(RoundingError error) {
  if (std::isnan(error.bound))
    error.bound = kInfinity;
  error.estimate = std::isnan(error.estimate) ? error.bound : std::min(error.estimate, error.bound);
  return error;
}

/// Rounds the result too: |y| <= magnitude.
static RoundingError withResult(double bound, double estimate, double magnitude, Type result) {
  RoundingLoss loss = lossOf(result, magnitude + bound);
  return checked({bound + times(loss.relative, magnitude + bound) + loss.absolute,
                  rootOf({estimate, times(loss.relative, magnitude), loss.absolute})});
}

static double terms(double count) { return std::min(count, kLongestSum); }

static Type accumulator(Value input, const RoundingTypes &types) {
  return types.acc ? types.acc : defaultAccumulatorType(getElementTypeOrSelf(input));
}

/// What sums are rounded to once more; null where they stay as they are.
static Type resultType(Value result, const RoundingTypes &types, Type acc) {
  Type type = types.result ? types.result : getElementTypeOrSelf(result);
  return type == acc ? Type() : type;
}

/// y = f(x) of which the relative errors of both factors pass to the result unchanged.
static RoundingError relative(double magnitude, RoundingLoss x, RoundingLoss w, double count, Type acc) {
  double u = unitRoundoff(acc);
  double factor = (1 + x.relative) * (1 + w.relative) * (1 + gammaOf(count, u)) - 1;
  return {times(magnitude, factor), times(magnitude, rootOf({x.relative, w.relative, std::sqrt(count) * u}))};
}

//===----------------------------------------------------------------------===//
// Products
//===----------------------------------------------------------------------===//

/// ((1 + u_lhs) (1 + u_rhs) (1 + gamma_K) - 1) sum |x_k w_k|; estimated as the root of u_lhs^2 sum x_k^2 w_k^2, the
/// same of u_rhs, K u_acc^2 (sum |x_k w_k|)^2 and u_result^2 y^2.
RoundingError MatmulOp::getRoundingError(ArrayRef<Bounds> operands, const RoundingTypes &types) {
  MatmulFactors factors(*this, operands[0], operands[1]);
  Type acc = accumulator(getLhs(), types);
  double x = factors.x.magnitude(), w = factors.w.magnitude(), depth = factors.depth, u = unitRoundoff(acc);
  double bias = getBias() ? operands[2].magnitude() : 0;
  RoundingLoss lhs = lossOf(types.lhs, x), rhs = lossOf(types.rhs, w);
  double count = terms(depth) + 2;
  double total = times(factors.sum, (1 + lhs.relative) * (1 + rhs.relative) * (1 + gammaOf(count, u)) - 1);
  // What underflows in a factor counts as much as the other factor; what underflows in a product counts itself.
  double lost = times(depth, times(lhs.absolute, w * (1 + rhs.relative)) + times(rhs.absolute, x * (1 + lhs.relative)) +
                                 lhs.absolute * rhs.absolute);
  lost = times(lost, 1 + gammaOf(count, u)) + times(count * smallestNormal(acc), factors.sum > 0);
  double bound = total + lost + times(bias, gammaOf(2, u));
  double spread = std::min(times(factors.xNorm, w), times(x, factors.wNorm));
  double estimate = rootOf({times(lhs.relative, spread), times(rhs.relative, spread),
                            times(std::sqrt(terms(depth)) * u, factors.sum + bias),
                            times(std::sqrt(depth), times(lhs.absolute, w) + times(rhs.absolute, x))});
  return withResult(bound, estimate, factors.sum + bias, resultType(getResult(), types, acc));
}

/// Rounding queries and keys moves scores by at most delta, so each weight by a factor within exp(+-2 delta).
RoundingError AttentionOp::getRoundingError(ArrayRef<Bounds> operands, const RoundingTypes &types) {
  bool cached = static_cast<bool>(getCache());
  Bounds query = operands[0], key = operands[1], value = operands[cached ? 1 : 2];
  RankedTensorType stored = tensorType(cached ? getCache() : getValue());
  int64_t size = stored.getDimSize(cached ? 3 : 1);
  double keys = ShapedType::isDynamic(size) ? kLongestSum : static_cast<double>(size);
  Type acc = accumulator(getQuery(), types);
  double u = unitRoundoff(acc), depth = static_cast<double>(stored.getShape().back());
  double scale = std::abs(getScale().convertToDouble());
  double scores =
      times(scale, std::min(times(query.norm, key.norm), times(depth, times(query.magnitude(), key.magnitude()))));
  // The sum that a mask of numbers joins is rounded as a whole.
  if (getMask() && isa<FloatType>(getElementTypeOrSelf(getMask())))
    scores += operands.back().magnitude();
  RoundingLoss lhs = lossOf(types.lhs, query.magnitude()), rhs = lossOf(types.rhs, key.magnitude());
  RoundingLoss weight = lossOf(types.lhs, 1), read = lossOf(types.rhs, value.magnitude());
  double count = terms(depth) + 16;
  double lost = times(times(scale, depth), times(lhs.absolute, key.magnitude()) +
                                               times(rhs.absolute, query.magnitude()) + lhs.absolute * rhs.absolute);
  double delta =
      times(scores, (1 + lhs.relative) * (1 + rhs.relative) * (1 + gammaOf(count, u)) - 1) + 2 * lost + 16 * u;
  double gamma = gammaOf(2 * keys + 64, u);
  double sums = gamma < 1 ? (1 + gamma) / (1 - gamma) : kInfinity;
  double factor = std::exp(2 * delta) * (1 + weight.relative) * (1 + read.relative) * sums - 1;
  // Means of values, rounded or not, lie within their hull.
  factor = std::min(factor, 1 + (1 + weight.relative) * (1 + read.relative) * sums);
  double bound = times(value.magnitude(), factor) + read.absolute + times(keys * weight.absolute, value.magnitude());
  double moved = 2 * times(scores, rootOf({lhs.relative, rhs.relative, std::sqrt(count) * u}));
  double likely = rootOf({moved, 2 * lost / std::sqrt(depth), weight.relative, read.relative, std::sqrt(keys) * u});
  double estimate = times(value.magnitude(), likely) + read.absolute;
  return withResult(bound, estimate, value.magnitude(), resultType(getResult(), types, acc));
}

RoundingError KvAppendOp::getRoundingError(ArrayRef<Bounds> operands, const RoundingTypes &types) {
  double most = std::max(operands[0].magnitude(), operands[1].magnitude());
  RoundingLoss loss = lossOf(types.rhs, most);
  double error = times(loss.relative, most) + loss.absolute;
  return withResult(error, error, most, types.result);
}

RoundingError EmbeddingOp::getRoundingError(ArrayRef<Bounds> operands, const RoundingTypes &types) {
  double most = operands[0].magnitude();
  RoundingLoss loss = lossOf(types.rhs, most);
  double error = times(loss.relative, most) + loss.absolute;
  return withResult(error, error, most, types.result);
}

//===----------------------------------------------------------------------===//
// Normalization
//===----------------------------------------------------------------------===//

/// Rounded inputs change a result by (1 + u) / (1 - u): they are divided by a mean of themselves.
RoundingError RmsNormOp::getRoundingError(ArrayRef<Bounds> operands, const RoundingTypes &types) {
  double n = rowLength(getInput().getType()), eps = getEps().convertToDouble(), w = operands[1].magnitude();
  double most = inferRanges(operands).front().magnitude();
  Type acc = accumulator(getInput(), types);
  RoundingLoss input = lossOf(types.lhs, operands[0].magnitude()), weight = lossOf(types.rhs, w);
  RoundingLoss twice{(1 + input.relative) / (1 - input.relative) - 1, 0};
  RoundingError error = relative(most, twice, weight, terms(n) + 16, acc);
  // What underflows moves x / sqrt(mean + eps) by no more than 2 sqrt(n) / sqrt(eps) times itself.
  double lost =
      times(2 * std::sqrt(n) / std::sqrt(eps), times(input.absolute, w)) + times(std::sqrt(n), weight.absolute);
  lost += times(smallestNormal(acc), w + 1);
  return withResult(error.bound + lost, error.estimate + lost, most, resultType(getResult(), types, acc));
}

/// d / sqrt(mean(d^2) + eps) has a derivative of at most 1 / sqrt(eps) in the Euclidean norm, and lies within sqrt(n).
RoundingError LayerNormOp::getRoundingError(ArrayRef<Bounds> operands, const RoundingTypes &types) {
  double n = rowLength(getInput().getType()), eps = getEps().convertToDouble();
  double x = operands[0].magnitude(), w = getWeight() ? operands[1].magnitude() : 1;
  double bias = getBias() ? operands.back().magnitude() : 0;
  Type acc = accumulator(getInput(), types);
  double u = unitRoundoff(acc), count = terms(n) + 16;
  RoundingLoss input = lossOf(types.lhs, x), weight = getWeight() ? lossOf(types.rhs, w) : RoundingLoss();
  // Deviations err by the rounding of an element, of the mean, and of their difference.
  double each = times(x, 2 * input.relative + (1 + input.relative) * (gammaOf(count, u) + 2 * u)) + 2 * input.absolute;
  double moved = std::min(times(std::sqrt(n) / std::sqrt(eps), each), 2 * std::sqrt(n));
  double normal = std::sqrt(n) * (1 + gammaOf(count, u));
  RoundingError scaled = relative(times(normal, w), {}, weight, count, acc);
  double bound = scaled.bound + times(moved, w * (1 + weight.relative)) * (1 + gammaOf(count, u)) +
                 times(normal, weight.absolute) + times(bias, gammaOf(2, u));
  double likely = times(std::min(each / std::sqrt(eps), 2 * std::sqrt(n)), w);
  return withResult(bound, rootOf({scaled.estimate, likely, times(normal, weight.absolute), times(bias, u)}),
                    times(normal, w) + bias, resultType(getResult(), types, acc));
}

/// Inputs that move by delta change each result by a factor within exp(+-2 delta).
RoundingError SoftmaxOp::getRoundingError(ArrayRef<Bounds> operands, const RoundingTypes &types) {
  double x = operands[0].magnitude(), n = rowLength(getInput().getType());
  Type acc = accumulator(getInput(), types);
  double u = unitRoundoff(acc), gamma = gammaOf(terms(n) + 8, u);
  RoundingLoss input = lossOf(types.lhs, x);
  double delta = times(x, input.relative) + input.absolute, own = times(2 * x, u) + 8 * u;
  double factor = std::exp(2 * (delta + own)) * (gamma < 1 ? (1 + gamma) / (1 - gamma) : kInfinity) - 1;
  double bound = std::min(factor, 1 + 0x1p-20) + smallestNormal(acc) * (terms(n) + 1);
  double estimate = rootOf({2 * delta, 2 * own, std::sqrt(terms(n)) * u});
  return withResult(bound, estimate, 1, resultType(getResult(), types, acc));
}
