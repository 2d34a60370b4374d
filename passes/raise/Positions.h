//===- Positions.h - index arithmetic inside iteration spaces -------------===//
//
// Positions are affine expressions in dims that run from 0 to their extent - 1
// and in the module's symbols, which are not negative. Two positions that are
// equal as polynomials are one expression after `simplify`.
//
//===----------------------------------------------------------------------===//
#pragma once
#include "passes/DimsAnalysis.h"
#include <map>

namespace mlir::dsc {

class Positions {
public:
  explicit Positions(MLIRContext *context) : context(context) {}

  /// A new dim of a given number of elements.
  AffineExpr newDim(AffineExpr extent);
  AffineExpr extentOf(AffineExpr dim) const { return extents[cast<AffineDimExpr>(dim).getPosition()]; }

  AffineExpr simplify(AffineExpr expr);
  /// Whether the expression is known to be at least 0.
  bool isNonNegative(AffineExpr expr);
  bool isLess(AffineExpr lhs, AffineExpr rhs) { return isNonNegative(rhs - lhs - 1); }
  /// 1 or 0 if `lhs predicate rhs` is known (signed), else -1.
  int decide(arith::CmpIPredicate predicate, AffineExpr lhs, AffineExpr rhs);

private:
  using Monomial = SmallVector<unsigned, 4>; // atoms in order, with repetition
  using Polynomial = std::map<Monomial, int64_t>;

  unsigned atom(AffineExpr expr);
  Polynomial polynomial(AffineExpr expr);
  AffineExpr expression(const Polynomial &polynomial);
  static void add(Polynomial &to, const Polynomial &other, int64_t factor = 1);
  static Polynomial multiply(const Polynomial &lhs, const Polynomial &rhs);
  /// numerator = quotient * denominator + rest, such that the rest has no multiple of the denominator.
  static bool split(const Polynomial &numerator, const Polynomial &denominator, Polynomial &quotient, Polynomial &rest);
  /// A lower bound in symbols; false if there is none.
  bool lowerBound(const Polynomial &polynomial, Polynomial &bound);

  MLIRContext *context;
  SmallVector<AffineExpr> extents;
  SmallVector<AffineExpr> atoms;
  DenseMap<AffineExpr, unsigned> atomNumbers;
};

} // namespace mlir::dsc
