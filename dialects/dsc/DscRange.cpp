//===- DscRange.cpp - interval arithmetic and #dsc.range ------------------===//

#include "dialects/dsc/DscOps.h"
#include "mlir/IR/Builders.h"
#include "mlir/IR/DialectImplementation.h"
#include "mlir/IR/TypeUtilities.h"
#include "llvm/ADT/StringExtras.h"

using namespace mlir;
using namespace mlir::dsc;

//===----------------------------------------------------------------------===//
// Formats
//===----------------------------------------------------------------------===//

static const llvm::fltSemantics *semantics(Type type) {
  auto element = dyn_cast_or_null<FloatType>(type ? getElementTypeOrSelf(type) : Type());
  return element ? &element.getFloatSemantics() : nullptr;
}

double mlir::dsc::unitRoundoff(Type type) {
  const llvm::fltSemantics *format = semantics(type);
  return format ? std::ldexp(1.0, -static_cast<int>(llvm::APFloat::semanticsPrecision(*format))) : 0;
}

double mlir::dsc::largestNumber(Type type) {
  const llvm::fltSemantics *format = semantics(type);
  return format ? llvm::APFloat::getLargest(*format).convertToDouble() : kInfinity;
}

double mlir::dsc::smallestNormal(Type type) {
  const llvm::fltSemantics *format = semantics(type);
  return format ? llvm::APFloat::getSmallestNormalized(*format).convertToDouble() : 0;
}

/// Numbers below the normal ones: machines flush those of f32, f64 and bf16, all others are rounded gradually.
static double underflowOf(const llvm::fltSemantics &format) {
  double normal = llvm::APFloat::getSmallestNormalized(format).convertToDouble();
  return normal < 0x1p-120 ? normal : llvm::APFloat::getSmallest(format).convertToDouble() / 2;
}

RoundingLoss mlir::dsc::lossOf(Type type, double magnitude) {
  Type element = type ? getElementTypeOrSelf(type) : Type();
  if (!element || magnitude == 0)
    return {};
  if (!element.isIntOrFloat())
    return {kInfinity, kInfinity};
  unsigned width = element.getIntOrFloatBitWidth();
  const llvm::fltSemantics *format = semantics(element);
  if (!format)
    return {0, magnitude / (std::ldexp(2.0, width - 1) - 2) * (1 + 0x1p-20)};
  // f32 rounds the scale and the quotient too.
  if (width <= 8)
    return {unitRoundoff(element) * (1 + 0x1p-18),
            magnitude * (underflowOf(*format) / largestNumber(element) + 0x1p-20)};
  if (magnitude > largestNumber(element))
    return {kInfinity, kInfinity};
  return {unitRoundoff(element), underflowOf(*format)};
}

double mlir::dsc::gammaOf(double terms, double u) {
  double product = terms * u;
  return product < 1 ? product / (1 - product) : kInfinity;
}

double mlir::dsc::rowLength(Type type) {
  auto shaped = dyn_cast<ShapedType>(type);
  if (!shaped || (shaped.hasRank() && shaped.getRank() == 0))
    return 1;
  if (!shaped.hasRank() || shaped.isDynamicDim(shaped.getRank() - 1))
    return kInfinity;
  return static_cast<double>(shaped.getShape().back());
}

//===----------------------------------------------------------------------===//
// Arithmetic
//===----------------------------------------------------------------------===//

/// A product in which 0 times any number is 0, even where the number is not bounded.
static double times(double a, double b) { return a == 0 || b == 0 ? 0 : a * b; }

/// What the analysis itself loses: its sums and products are rounded to f64.
static constexpr double kOwnError = 0x1p-49;

Bounds Bounds::widened(double relative, double absolute) const {
  Bounds result = *this;
  relative += kOwnError;
  if (std::isnan(lo) || std::isnan(hi))
    return {};
  // A value that is not negative stays so when its relative error is below 1 and what is lost is flushed to 0.
  if (lo != 0)
    result.lo = lo > 0 ? std::max(0.0, lo * (1 - relative) - absolute) : lo * (1 + relative) - absolute;
  if (hi != 0)
    result.hi = hi < 0 ? std::min(0.0, hi * (1 - relative) + absolute) : hi * (1 + relative) + absolute;
  result.norm = times(norm, 1 + relative) + (absolute > 0 ? std::sqrt(absolute) : 0);
  if (std::isnan(result.norm))
    result.norm = kInfinity;
  return result;
}

Bounds Bounds::perturbed(double error, double rowError) const {
  return Bounds{lo - error, hi + error, norm + rowError}.widened(0);
}

Bounds Bounds::rounded(Type type, double count) const {
  const llvm::fltSemantics *format = semantics(type);
  if (!format)
    return *this;
  double u = unitRoundoff(type), tiny = underflowOf(*format);
  Bounds result = count == 0 ? *this : widened(gammaOf(count, u), count * tiny);
  // sqrt(tiny) bounds sqrt(n) tiny of a row where tiny is as small as f32's; other rows follow from their elements.
  if (count > 0 && tiny > 0x1p-120)
    result.norm = kInfinity;
  double largest = largestNumber(type);
  if (result.hi > largest)
    result.hi = kInfinity;
  if (result.lo < -largest)
    result.lo = -kInfinity;
  return result;
}

Bounds Bounds::tightened(Type element, double row) const {
  Bounds result = *this;
  result.norm = std::min(norm, times(std::sqrt(row), magnitude()) * (1 + kOwnError));
  result.lo = std::max(lo, -result.norm);
  result.hi = std::min(hi, result.norm);
  // A norm that follows from real arithmetic says nothing of an element that overflowed.
  double largest = largestNumber(element);
  if (result.hi > largest)
    result.hi = result.norm = kInfinity;
  if (result.lo < -largest)
    result.lo = -(result.norm = kInfinity);
  return result;
}

Bounds Bounds::tightened(Type type) const { return tightened(getElementTypeOrSelf(type), rowLength(type)); }

/// The hull of some numbers; nothing is known where one is none.
static Bounds hullOf(std::initializer_list<double> values, double norm) {
  Bounds result{kInfinity, -kInfinity, norm};
  for (double value : values) {
    if (std::isnan(value))
      return {-kInfinity, kInfinity, norm};
    result.lo = std::min(result.lo, value);
    result.hi = std::max(result.hi, value);
  }
  return result;
}

static double hypotenuse(double a, double b) { return std::sqrt(a * a + b * b); }

Bounds mlir::dsc::operator-(const Bounds &a) { return {-a.hi, -a.lo, a.norm}; }

Bounds mlir::dsc::operator+(const Bounds &a, const Bounds &b) {
  // Opposite infinities do not meet: lower bounds are no positive ones.
  return hullOf({a.lo + b.lo, a.hi + b.hi}, a.norm + b.norm);
}

Bounds mlir::dsc::operator-(const Bounds &a, const Bounds &b) { return a + -b; }

Bounds mlir::dsc::operator*(const Bounds &a, const Bounds &b) {
  return hullOf({times(a.lo, b.lo), times(a.lo, b.hi), times(a.hi, b.lo), times(a.hi, b.hi)},
                std::min(times(a.norm, b.magnitude()), times(b.norm, a.magnitude())));
}

Bounds mlir::dsc::operator/(const Bounds &a, const Bounds &b) {
  if (b.least() == 0)
    return {};
  // Reciprocals do not contain what is not between them: 1 / infinity is 0, which includes overflowed divisors.
  Bounds reciprocal{std::min(1 / b.lo, 1 / b.hi), std::max(1 / b.lo, 1 / b.hi), kInfinity};
  return (a * reciprocal).widened(kOwnError);
}

Bounds mlir::dsc::max(const Bounds &a, const Bounds &b) {
  return {std::max(a.lo, b.lo), std::max(a.hi, b.hi), hypotenuse(a.norm, b.norm)};
}

Bounds mlir::dsc::min(const Bounds &a, const Bounds &b) {
  return {std::min(a.lo, b.lo), std::min(a.hi, b.hi), hypotenuse(a.norm, b.norm)};
}

Bounds mlir::dsc::either(const Bounds &a, const Bounds &b) {
  return {std::min(a.lo, b.lo), std::max(a.hi, b.hi), std::max(a.norm, b.norm)};
}

Bounds mlir::dsc::mixed(const Bounds &a, const Bounds &b) {
  return {std::min(a.lo, b.lo), std::max(a.hi, b.hi), hypotenuse(a.norm, b.norm)};
}

Bounds mlir::dsc::both(const Bounds &a, const Bounds &b) {
  Bounds result{std::max(a.lo, b.lo), std::min(a.hi, b.hi), std::min(a.norm, b.norm)};
  // Two statements about one value agree on some number, up to the rounding of each.
  return result.lo <= result.hi ? result : a;
}

Bounds mlir::dsc::sum(const Bounds &each, double count, Type type) {
  Bounds total{times(count, std::min(each.lo, 0.0)), times(count, std::max(each.hi, 0.0)), kInfinity};
  if (each.lo > 0 && count < kInfinity)
    total.lo = count * each.lo;
  if (each.hi < 0 && count < kInfinity)
    total.hi = count * each.hi;
  // |error| <= gamma_{n-1} sum |x_i| in any order (Higham 2002, eq. 4.4); addition loses nothing to underflow.
  double u = unitRoundoff(type), longest = std::min(count, kLongestSum);
  double error = times(times(gammaOf(longest, u), count), each.magnitude()) + count * 0x1p-1022;
  if (std::isnan(error))
    error = kInfinity;
  Bounds result = total.perturbed(error);
  // Sums of numbers of one sign have it.
  if (each.lo >= 0)
    result.lo = std::max(result.lo, 0.0);
  if (each.hi <= 0)
    result.hi = std::min(result.hi, 0.0);
  return result.withoutNorm().rounded(type);
}

//===----------------------------------------------------------------------===//
// RangeAttr: `<` `[` number `,` number `]` (`,` `norm` `=` number)? `,` (`proved` | `calibrated`) `>`
//===----------------------------------------------------------------------===//

static ParseResult parseNumber(AsmParser &parser, double &value) {
  bool negative = succeeded(parser.parseOptionalMinus());
  if (succeeded(parser.parseOptionalKeyword("inf")))
    value = kInfinity;
  else if (parser.parseFloat(value))
    return failure();
  value = negative ? -value : value;
  return success();
}

/// As few digits as give the number again.
static void printNumber(AsmPrinter &printer, double value) {
  if (std::isinf(value)) {
    printer << (value < 0 ? "-inf" : "inf");
    return;
  }
  char text[40];
  for (int digits = 1; digits <= 16; ++digits) {
    std::snprintf(text, sizeof text, "%.*e", digits, value);
    if (std::strtod(text, nullptr) == value)
      break;
  }
  printer << text;
}

Attribute RangeAttr::parse(AsmParser &parser, Type) {
  Bounds bounds;
  SMLoc loc = parser.getCurrentLocation();
  if (parser.parseLess() || parser.parseLSquare() || parseNumber(parser, bounds.lo) || parser.parseComma() ||
      parseNumber(parser, bounds.hi) || parser.parseRSquare() || parser.parseComma())
    return {};
  if (succeeded(parser.parseOptionalKeyword("norm")) &&
      (parser.parseEqual() || parseNumber(parser, bounds.norm) || parser.parseComma()))
    return {};
  StringRef source;
  SMLoc sourceLoc = parser.getCurrentLocation();
  if (parser.parseKeyword(&source) || parser.parseGreater())
    return {};
  if (source != "proved" && source != "calibrated") {
    parser.emitError(sourceLoc, "a range is proved or calibrated, got: ") << source;
    return {};
  }
  return parser.getChecked<RangeAttr>(loc, parser.getContext(), llvm::APFloat(bounds.lo), llvm::APFloat(bounds.hi),
                                      llvm::APFloat(bounds.norm), source == "calibrated");
}

void RangeAttr::print(AsmPrinter &printer) const {
  Bounds bounds = getBounds();
  printer << "<[";
  printNumber(printer, bounds.lo);
  printer << ", ";
  printNumber(printer, bounds.hi);
  printer << "]";
  if (bounds.norm < kInfinity) {
    printer << ", norm = ";
    printNumber(printer, bounds.norm);
  }
  printer << ", " << (getCalibrated() ? "calibrated" : "proved") << ">";
}

LogicalResult RangeAttr::verify(function_ref<InFlightDiagnostic()> emitError, llvm::APFloat lo, llvm::APFloat hi,
                                llvm::APFloat norm, bool) {
  if (!(lo.convertToDouble() <= hi.convertToDouble()))
    return emitError() << "a range must begin before it ends, got: [" << lo.convertToDouble() << ", "
                       << hi.convertToDouble() << "]";
  if (!(norm.convertToDouble() >= 0))
    return emitError() << "norm must not be negative, got: " << norm.convertToDouble();
  return success();
}
