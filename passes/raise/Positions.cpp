//===- Positions.cpp - index arithmetic inside iteration spaces -----------===//

#include "passes/raise/Positions.h"

namespace mlir::dsc {

AffineExpr Positions::newDim(AffineExpr extent) {
  extents.push_back(extent);
  return getAffineDimExpr(extents.size() - 1, context);
}

unsigned Positions::atom(AffineExpr expr) {
  auto [it, isNew] = atomNumbers.try_emplace(expr, atoms.size());
  if (isNew)
    atoms.push_back(expr);
  return it->second;
}

void Positions::add(Polynomial &to, const Polynomial &other, int64_t factor) {
  for (auto &[monomial, coefficient] : other)
    if (!(to[monomial] += coefficient * factor))
      to.erase(monomial);
}

Positions::Polynomial Positions::multiply(const Polynomial &lhs, const Polynomial &rhs) {
  Polynomial product;
  for (auto &[left, a] : lhs)
    for (auto &[right, b] : rhs) {
      Monomial joined(left);
      joined.append(right.begin(), right.end());
      llvm::sort(joined);
      add(product, {{joined, a * b}});
    }
  return product;
}

bool Positions::split(const Polynomial &numerator, const Polynomial &denominator, Polynomial &quotient,
                      Polynomial &rest) {
  if (denominator.size() != 1 || denominator.begin()->second <= 0)
    return false;
  const auto &[divisor, scale] = *denominator.begin();
  for (auto &[monomial, coefficient] : numerator) {
    Monomial left;
    std::set_difference(monomial.begin(), monomial.end(), divisor.begin(), divisor.end(), std::back_inserter(left));
    if (left.size() + divisor.size() == monomial.size() && coefficient % scale == 0)
      add(quotient, {{left, coefficient / scale}});
    else
      add(rest, {{monomial, coefficient}});
  }
  return true;
}

Positions::Polynomial Positions::polynomial(AffineExpr expr) {
  if (auto constant = dyn_cast<AffineConstantExpr>(expr))
    return constant.getValue() ? Polynomial{{{}, constant.getValue()}} : Polynomial{};
  auto binary = dyn_cast<AffineBinaryOpExpr>(expr);
  if (!binary)
    return {{{atom(expr)}, 1}};
  Polynomial lhs = polynomial(binary.getLHS()), rhs = polynomial(binary.getRHS());
  if (expr.getKind() == AffineExprKind::Add) {
    add(lhs, rhs);
    return lhs;
  }
  if (expr.getKind() == AffineExprKind::Mul)
    return multiply(lhs, rhs);
  Polynomial quotient, rest;
  if (expr.getKind() == AffineExprKind::CeilDiv || !split(lhs, rhs, quotient, rest))
    return {{{atom(expr)}, 1}};
  bool isMod = expr.getKind() == AffineExprKind::Mod;
  AffineExpr left = expression(rest), denominator = expression(rhs);
  if (isNonNegative(left) && isLess(left, denominator))
    return isMod ? rest : quotient;
  AffineExpr opaque = isMod ? left % denominator : left.floorDiv(denominator);
  Polynomial result = isa<AffineConstantExpr>(opaque) ? polynomial(opaque) : Polynomial{{{atom(opaque)}, 1}};
  if (!isMod)
    add(result, quotient);
  return result;
}

AffineExpr Positions::expression(const Polynomial &polynomial) {
  AffineExpr sum = getAffineConstantExpr(0, context);
  for (auto &[monomial, coefficient] : polynomial) {
    AffineExpr product = getAffineConstantExpr(1, context);
    for (unsigned number : monomial)
      product = product * atoms[number];
    sum = sum + product * coefficient;
  }
  return sum;
}

AffineExpr Positions::simplify(AffineExpr expr) { return expression(polynomial(expr)); }

bool Positions::lowerBound(const Polynomial &given, Polynomial &bound) {
  for (auto &[monomial, coefficient] : given) {
    Polynomial product{{{}, coefficient}};
    for (unsigned number : monomial) {
      AffineExpr expr = atoms[number];
      Polynomial least, most;
      if (isa<AffineSymbolExpr>(expr)) {
        least = most = {{{number}, 1}};
      } else if (isa<AffineDimExpr>(expr)) {
        most = polynomial(extentOf(expr) - 1);
      } else {
        auto binary = cast<AffineBinaryOpExpr>(expr);
        if (!isNonNegative(binary.getLHS()))
          return false;
        if (coefficient < 0 && expr.getKind() == AffineExprKind::Mod)
          most = polynomial(binary.getRHS() - 1);
        else if (coefficient < 0)
          return false;
      }
      product = multiply(product, coefficient < 0 ? most : least);
    }
    add(bound, product);
  }
  return true;
}

bool Positions::isNonNegative(AffineExpr expr) {
  Polynomial bound;
  return lowerBound(polynomial(expr), bound) && llvm::all_of(bound, [](auto &entry) { return entry.second >= 0; });
}

int Positions::decide(arith::CmpIPredicate predicate, AffineExpr lhs, AffineExpr rhs) {
  using Predicate = arith::CmpIPredicate;
  bool less = isLess(lhs, rhs), greater = isLess(rhs, lhs);
  bool atMost = less || isNonNegative(rhs - lhs), atLeast = greater || isNonNegative(lhs - rhs);
  auto known = [](bool yes, bool no) { return yes ? 1 : no ? 0 : -1; };
  switch (predicate) {
  case Predicate::eq:
    return known(atMost && atLeast, less || greater);
  case Predicate::ne:
    return known(less || greater, atMost && atLeast);
  case Predicate::slt:
    return known(less, atLeast);
  case Predicate::sle:
    return known(atMost, greater);
  case Predicate::sgt:
    return known(greater, atMost);
  case Predicate::sge:
    return known(atLeast, less);
  default:
    return -1;
  }
}

} // namespace mlir::dsc
