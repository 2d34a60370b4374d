//===- RangeModelsScalar.cpp - ranges of arith and math operations --------===//
//
// Interval arithmetic, widened by the rounding of code that --dsc-expand-math
// makes: one for arithmetic, at most 3 ulp for functions (the table in
// ExpandMath.cpp).
//
//===----------------------------------------------------------------------===//

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/Math/IR/Math.h"
#include "mlir/IR/Matchers.h"
#include "mlir/IR/TypeUtilities.h"
#include "passes/RangeModels.h"

namespace mlir::dsc {
namespace {

using Operands = ArrayRef<Bounds>;
using Rule = Bounds (*)(Operands);

/// Roundings of a function: 3 ulp are at most 6 unit roundoffs.
constexpr int kFunction = 8;

/// Integers that leave their type wrap around.
Bounds unlessWrapped(const Bounds &bounds, Type type) {
  Type element = getElementTypeOrSelf(type);
  if (!element.isIntOrIndex())
    return {};
  unsigned width = element.isIndex() ? 64 : element.getIntOrFloatBitWidth();
  double most = std::ldexp(1.0, width - 1) - 1;
  return width > 1 && bounds.lo >= -most && bounds.hi <= most ? bounds.withoutNorm() : Bounds();
}

template <typename OpT, Rule rule, int roundings>
struct Elementwise : RangeOpInterface::ExternalModel<Elementwise<OpT, rule, roundings>, OpT> {
  SmallVector<Bounds> inferRanges(Operation *op, Operands operands) const {
    Type type = op->getResult(0).getType();
    Bounds result = rule(operands);
    return {isa<FloatType>(getElementTypeOrSelf(type)) ? result.rounded(type, roundings) : unlessWrapped(result, type)};
  }
};

Bounds sumOf(Operands x) { return x[0] + x[1]; }
Bounds difference(Operands x) { return x[0] - x[1]; }
Bounds product(Operands x) { return x[0] * x[1]; }
Bounds quotient(Operands x) { return x[0] / x[1]; }
Bounds greater(Operands x) { return max(x[0], x[1]); }
Bounds lesser(Operands x) { return min(x[0], x[1]); }
Bounds negated(Operands x) { return -x[0]; }
Bounds same(Operands x) { return x[0]; }
Bounds chosen(Operands x) { return mixed(x[1], x[2]); }
Bounds fused(Operands x) { return x[0] * x[1] + x[2]; }
Bounds clamped(Operands x) { return min(max(x[0], x[1]), x[2]); }

Bounds absolute(Operands x) { return {x[0].least(), x[0].magnitude(), x[0].norm}; }

/// The magnitude of the first with any sign.
Bounds anySign(Operands x) { return Bounds::within(x[0].magnitude(), x[0].norm); }

/// Its sign is that of the dividend, and it is smaller than both.
Bounds remainder(Operands x) {
  double most = std::min(x[0].magnitude(), x[1].magnitude());
  return {x[0].lo >= 0 ? 0 : -most, x[0].hi <= 0 ? 0 : most, kInfinity};
}

/// x^y is monotone in each of both where x is not negative; of other x whole exponents are known.
Bounds power(Operands operands) {
  Bounds x = operands[0], y = operands[1];
  if (x.lo >= 0) {
    double corners[] = {std::pow(x.lo, y.lo), std::pow(x.lo, y.hi), std::pow(x.hi, y.lo), std::pow(x.hi, y.hi)};
    bool known = llvm::none_of(corners, [](double corner) { return std::isnan(corner); });
    // 0 to a negative power is infinite, and infinite bounds have no corner.
    if (!known || !x.isBounded() || !y.isBounded())
      return {0, kInfinity, kInfinity};
    return {*llvm::min_element(corners), *llvm::max_element(corners), kInfinity};
  }
  if (y.lo == y.hi && y.lo >= 0 && y.lo == std::trunc(y.lo)) {
    double most = std::pow(x.magnitude(), y.lo);
    return {std::fmod(y.lo, 2) == 0 ? 0 : -most, most, kInfinity};
  }
  return {};
}

using Function = double (*)(double);

/// A function that never falls, on the part of the interval where it is defined.
template <Function f> Bounds rising(Operands x) {
  double lo = f(x[0].lo), hi = f(x[0].hi);
  return {std::isnan(lo) ? -kInfinity : lo, std::isnan(hi) ? kInfinity : hi, kInfinity};
}
template <Function f> Bounds falling(Operands x) {
  Bounds result = rising<f>({x[0]});
  return {result.hi, result.lo, kInfinity};
}
/// |f(x)| <= |x| too.
template <Function f> Bounds shrinking(Operands x) {
  Bounds result = rising<f>(x);
  result.norm = x[0].norm;
  return result;
}

double exp(double x) { return std::exp(x); }
double exp2(double x) { return std::exp2(x); }
double expm1(double x) { return std::expm1(x); }
double log(double x) { return std::log(std::max(x, 0.0)); }
double log2(double x) { return std::log2(std::max(x, 0.0)); }
double log10(double x) { return std::log10(std::max(x, 0.0)); }
double log1p(double x) { return std::log1p(std::max(x, -1.0)); }
double sqrt(double x) { return std::sqrt(std::max(x, 0.0)); }
double rsqrt(double x) { return 1 / std::sqrt(std::max(x, 0.0)); }
double cbrt(double x) { return std::cbrt(x); }
double tanh(double x) { return std::tanh(x); }
double erf(double x) { return std::erf(x); }
double erfc(double x) { return std::erfc(x); }
double atan(double x) { return std::atan(x); }
double asin(double x) { return std::asin(std::clamp(x, -1.0, 1.0)); }
double acos(double x) { return std::acos(std::clamp(x, -1.0, 1.0)); }
double sinh(double x) { return std::sinh(x); }
double asinh(double x) { return std::asinh(x); }
double acosh(double x) { return std::acosh(std::max(x, 1.0)); }
double atanh(double x) { return std::atanh(std::clamp(x, -1.0, 1.0)); }
double floor(double x) { return std::floor(x); }
double ceil(double x) { return std::ceil(x); }
double trunc(double x) { return std::trunc(x); }
double round(double x) { return std::round(x); }
double roundeven(double x) { return std::nearbyint(x); }

Bounds cosine(Operands) { return Bounds::within(1); }
Bounds sine(Operands x) { return Bounds::within(std::min(1.0, x[0].magnitude()), x[0].norm); }
Bounds angle(Operands) { return Bounds::within(M_PI); }
Bounds hyperbolicCosine(Operands x) { return {std::cosh(x[0].least()), std::cosh(x[0].magnitude()), kInfinity}; }

/// Elements of a constant.
struct ConstantRange : RangeOpInterface::ExternalModel<ConstantRange, arith::ConstantOp> {
  SmallVector<Bounds> inferRanges(Operation *op, Operands) const {
    Attribute value = cast<arith::ConstantOp>(op).getValue();
    if (auto number = dyn_cast<FloatAttr>(value))
      return {Bounds::of(number.getValueAsDouble())};
    if (auto number = dyn_cast<IntegerAttr>(value))
      return {unlessWrapped(Bounds::of(number.getValue().roundToDouble(/*isSigned=*/true)), number.getType())};
    auto elements = dyn_cast<DenseFPElementsAttr>(value);
    if (!elements || elements.empty())
      return {Bounds()};
    auto wide = [](APFloat number) {
      bool lost;
      number.convert(APFloat::IEEEdouble(), APFloat::rmNearestTiesToEven, &lost);
      return number.convertToDouble();
    };
    if (elements.isSplat())
      return {Bounds::of(wide(elements.getSplatValue<APFloat>()))};
    Bounds result{kInfinity, -kInfinity, 0};
    int64_t row = elements.getType().getShape().back(), column = 0;
    double squares = 0;
    for (APFloat element : elements) {
      double number = wide(element);
      result.lo = std::min(result.lo, number);
      result.hi = std::max(result.hi, number);
      squares = (column++ % row ? squares : 0) + number * number;
      result.norm = std::max(result.norm, std::sqrt(squares) * (1 + 0x1p-40));
    }
    return {result};
  }
};

/// Integers as floats: within their type, where no more is known.
template <typename OpT, bool isSigned>
struct FromInteger : RangeOpInterface::ExternalModel<FromInteger<OpT, isSigned>, OpT> {
  SmallVector<Bounds> inferRanges(Operation *op, Operands operands) const {
    unsigned width = getElementTypeOrSelf(op->getOperand(0)).getIntOrFloatBitWidth();
    Bounds type = isSigned ? Bounds{-std::ldexp(1.0, width - 1), std::ldexp(1.0, width - 1), kInfinity}
                           : Bounds{0, std::ldexp(1.0, width) - 1, kInfinity};
    bool known = width > 1 && operands[0].isBounded() && (isSigned || operands[0].lo >= 0);
    return {(known ? both(operands[0].withoutNorm(), type) : type).rounded(op->getResult(0).getType())};
  }
};

/// Unsigned integers that are not negative as signed ones; a boolean is 0 or 1.
struct ExtendUnsigned : RangeOpInterface::ExternalModel<ExtendUnsigned, arith::ExtUIOp> {
  SmallVector<Bounds> inferRanges(Operation *op, Operands operands) const {
    unsigned width = getElementTypeOrSelf(op->getOperand(0)).getIntOrFloatBitWidth();
    if (width > 1 && operands[0].lo >= 0)
      return {operands[0]};
    return {unlessWrapped({0, std::ldexp(1.0, width) - 1, kInfinity}, op->getResult(0).getType())};
  }
};

template <typename OpT, Rule rule, int roundings> void attach(MLIRContext *context) {
  OpT::template attachInterface<Elementwise<OpT, rule, roundings>>(*context);
}

void attachArith(MLIRContext *context) {
  arith::ConstantOp::attachInterface<ConstantRange>(*context);
  arith::SIToFPOp::attachInterface<FromInteger<arith::SIToFPOp, true>>(*context);
  arith::UIToFPOp::attachInterface<FromInteger<arith::UIToFPOp, false>>(*context);
  arith::ExtUIOp::attachInterface<ExtendUnsigned>(*context);
  attach<arith::AddFOp, sumOf, 1>(context);
  attach<arith::SubFOp, difference, 1>(context);
  attach<arith::MulFOp, product, 1>(context);
  attach<arith::DivFOp, quotient, 2>(context);
  attach<arith::RemFOp, remainder, 1>(context);
  attach<arith::NegFOp, negated, 0>(context);
  attach<arith::MaximumFOp, greater, 0>(context);
  attach<arith::MaxNumFOp, greater, 0>(context);
  attach<arith::MinimumFOp, lesser, 0>(context);
  attach<arith::MinNumFOp, lesser, 0>(context);
  attach<arith::ExtFOp, same, 0>(context);
  attach<arith::TruncFOp, same, 1>(context);
  attach<arith::SelectOp, chosen, 0>(context);
  attach<arith::AddIOp, sumOf, 0>(context);
  attach<arith::SubIOp, difference, 0>(context);
  attach<arith::MulIOp, product, 0>(context);
  attach<arith::MaxSIOp, greater, 0>(context);
  attach<arith::MinSIOp, lesser, 0>(context);
  attach<arith::ExtSIOp, same, 0>(context);
  attach<arith::TruncIOp, same, 0>(context);
  attach<arith::IndexCastOp, same, 0>(context);
}

void attachMath(MLIRContext *context) {
  attach<math::AbsFOp, absolute, 0>(context);
  attach<math::CopySignOp, anySign, 0>(context);
  attach<math::FmaOp, fused, 2>(context);
  attach<math::ClampFOp, clamped, 0>(context);
  attach<math::PowFOp, power, kFunction>(context);
  attach<math::ExpOp, rising<exp>, kFunction>(context);
  attach<math::Exp2Op, rising<exp2>, kFunction>(context);
  attach<math::ExpM1Op, rising<expm1>, kFunction>(context);
  attach<math::LogOp, rising<log>, kFunction>(context);
  attach<math::Log2Op, rising<log2>, kFunction>(context);
  attach<math::Log10Op, rising<log10>, kFunction>(context);
  attach<math::Log1pOp, rising<log1p>, kFunction>(context);
  attach<math::SqrtOp, rising<sqrt>, kFunction>(context);
  attach<math::RsqrtOp, falling<rsqrt>, kFunction>(context);
  attach<math::CbrtOp, rising<cbrt>, kFunction>(context);
  attach<math::TanhOp, shrinking<tanh>, kFunction>(context);
  attach<math::ErfOp, rising<erf>, kFunction>(context);
  attach<math::ErfcOp, falling<erfc>, kFunction>(context);
  attach<math::AtanOp, shrinking<atan>, kFunction>(context);
  attach<math::AsinOp, rising<asin>, kFunction>(context);
  attach<math::AcosOp, falling<acos>, kFunction>(context);
  attach<math::SinhOp, rising<sinh>, kFunction>(context);
  attach<math::CoshOp, hyperbolicCosine, kFunction>(context);
  attach<math::AsinhOp, shrinking<asinh>, kFunction>(context);
  attach<math::AcoshOp, rising<acosh>, kFunction>(context);
  attach<math::AtanhOp, rising<atanh>, kFunction>(context);
  attach<math::Atan2Op, angle, kFunction>(context);
  attach<math::CosOp, cosine, kFunction>(context);
  attach<math::SinOp, sine, kFunction>(context);
  attach<math::FloorOp, rising<floor>, 0>(context);
  attach<math::CeilOp, rising<ceil>, 0>(context);
  attach<math::TruncOp, shrinking<trunc>, 0>(context);
  attach<math::RoundOp, rising<round>, 0>(context);
  attach<math::RoundEvenOp, rising<roundeven>, 0>(context);
}

} // namespace

void registerScalarRangeModels(DialectRegistry &registry) {
  registry.addExtension(+[](MLIRContext *context, DscDialect *, arith::ArithDialect *) { attachArith(context); });
  registry.addExtension(+[](MLIRContext *context, DscDialect *, math::MathDialect *) { attachMath(context); });
}

} // namespace mlir::dsc
