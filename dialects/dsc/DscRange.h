//===- DscRange.h - intervals that hold the elements of a tensor ----------===//
//
// `Bounds` hold every element that is computed, not only its real value: what
// rounds widens them. They say nothing of NaN: no value of the program is
// assumed to be one. An infinite bound stands for every number and for an
// overflow.
//
//===----------------------------------------------------------------------===//
#pragma once
#include "mlir/IR/BuiltinTypes.h"
#include "mlir/IR/Value.h"
#include <cmath>
#include <limits>

namespace mlir::dsc {

inline constexpr double kInfinity = std::numeric_limits<double>::infinity();

/// Sums whose length is dynamic are assumed to have at most this many terms where their rounding is bounded: the
/// longest context of the models that are read.
inline constexpr double kLongestSum = 1 << 17;

/// lo <= every element <= hi, and the Euclidean norm of each row (the last dimension) is at most `norm`.
struct Bounds {
  double lo = -kInfinity, hi = kInfinity, norm = kInfinity;

  static Bounds of(double value) { return {value, value, kInfinity}; }
  static Bounds within(double magnitude, double norm = kInfinity) { return {-magnitude, magnitude, norm}; }

  double magnitude() const { return std::max(std::abs(lo), std::abs(hi)); }
  /// The least magnitude of an element.
  double least() const { return lo > 0 ? lo : hi < 0 ? -hi : 0; }
  bool isBounded() const { return magnitude() < kInfinity; }
  bool contains(double value) const { return lo <= value && value <= hi; }

  /// What holds after `count` roundings to `type`, each by a unit roundoff or by the smallest normal number, which
  /// machines may flush. Signs stay, and what exceeds the type becomes infinite.
  Bounds rounded(Type type, double count = 1) const;
  /// What holds for values with a relative error below `relative`, of which up to `absolute` may be flushed to 0: signs
  /// stay.
  Bounds widened(double relative, double absolute = 0) const;
  /// What holds for values with an absolute error of at most `error`, and rows with one whose norm is `rowError`.
  Bounds perturbed(double error, double rowError = kInfinity) const;
  /// What elements and rows of `type` say about each other; rows of an element type have `row` elements.
  Bounds tightened(Type type) const;
  Bounds tightened(Type element, double row) const;
  /// The elements alone.
  Bounds withoutNorm() const { return {lo, hi, kInfinity}; }
};

Bounds operator-(const Bounds &a);
Bounds operator+(const Bounds &a, const Bounds &b);
Bounds operator-(const Bounds &a, const Bounds &b);
Bounds operator*(const Bounds &a, const Bounds &b);
/// Unbounded where `b` contains 0.
Bounds operator/(const Bounds &a, const Bounds &b);
Bounds max(const Bounds &a, const Bounds &b);
Bounds min(const Bounds &a, const Bounds &b);
/// Values of either; of a row, all may come from one of them.
Bounds either(const Bounds &a, const Bounds &b);
/// Values of either, mixed within rows.
Bounds mixed(const Bounds &a, const Bounds &b);
/// What both say.
Bounds both(const Bounds &a, const Bounds &b);
/// `count` of them added in any order, with f32 or wider sums of `type`; infinite counts keep signs only.
Bounds sum(const Bounds &each, double count, Type type);

/// Half the distance from 1 to the next number of a type: 2^-24 of f32; 0 for what is no float.
double unitRoundoff(Type type);
/// The greatest finite number.
double largestNumber(Type type);
/// The smallest number of full precision.
double smallestNormal(Type type);

/// What rounding to a type loses of numbers up to `magnitude`: |rounded - x| <= relative |x| + absolute. Integers and
/// floats of 8 bits or less lie under a scale that makes the greatest magnitude their largest number; other floats may
/// be flushed to 0 below their normal numbers where a machine does that. Infinite for numbers that overflow.
struct RoundingLoss {
  double relative = 0, absolute = 0;
};
RoundingLoss lossOf(Type type, double magnitude);

/// K u / (1 - K u), which bounds the relative error of K roundings (Higham 2002, "Accuracy and Stability of Numerical
/// Algorithms", lemma 3.1); infinite from K u = 1 on.
double gammaOf(double terms, double u);

/// Elements of the last dimension: 1 of a scalar, infinite where they are dynamic.
double rowLength(Type type);

/// The types that values are rounded to: what a product reads, its sums and its result. Null: as the operation's own
/// types say.
struct RoundingTypes {
  Type lhs, rhs, acc, result;
};

/// Of one element of a result: the greatest absolute error, and a size to expect if roundings are independent of each
/// other.
struct RoundingError {
  double bound = kInfinity, estimate = kInfinity;
};

} // namespace mlir::dsc
