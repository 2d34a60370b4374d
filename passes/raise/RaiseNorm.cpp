//===- RaiseNorm.cpp - rms_norm and layer_norm ----------------------------===//

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/Math/IR/Math.h"
#include "passes/raise/Raisers.h"

namespace mlir::dsc {
namespace {

/// term, 1 / term or 1 / sqrt(term), of a product.
struct Factor {
  enum Power { One, Inverse, InverseRoot } power;
  TermRef term;
};

void addFactors(Terms &terms, TermRef term, bool inverse, TermRef whole, SmallVectorImpl<Factor> &factors) {
  term = terms.withoutCasts(term);
  if (whole && terms.same(term, whole, 2)) {
    factors.push_back({inverse ? Factor::Inverse : Factor::One, term});
    return;
  }
  if (auto product = terms.match<arith::MulFOp>(term); !product.empty()) {
    addFactors(terms, product[0], inverse, whole, factors);
    addFactors(terms, product[1], inverse, whole, factors);
  } else if (auto quotient = terms.match<arith::DivFOp>(term); !quotient.empty()) {
    if (terms.floatConstant(quotient[0]) != 1.0)
      addFactors(terms, quotient[0], inverse, whole, factors);
    addFactors(terms, quotient[1], !inverse, whole, factors);
  } else if (auto root = terms.match<math::SqrtOp>(term); !root.empty() && inverse) {
    factors.push_back({Factor::InverseRoot, terms.withoutCasts(root[0])});
  } else if (auto root = terms.match<math::RsqrtOp>(term); !root.empty() && !inverse) {
    factors.push_back({Factor::InverseRoot, terms.withoutCasts(root[0])});
  } else {
    factors.push_back({inverse ? Factor::Inverse : Factor::One, term});
  }
}

/// Factors of a term, quotients and roots taken apart; `whole` is not looked into.
SmallVector<Factor> factorsOf(Terms &terms, TermRef term, TermRef whole = nullptr) {
  SmallVector<Factor> factors;
  addFactors(terms, term, false, whole, factors);
  return factors;
}

/// `sum of x over the last dim / its size`: x as an element of the reduced dim, which is returned beside it.
struct Mean {
  TermRef element = nullptr;
  AffineExpr reduced;
};

Mean matchMean(Terms &terms, TermRef term) {
  term = terms.withoutCasts(term);
  double count = 0;
  TermRef sum = nullptr;
  if (auto quotient = terms.match<arith::DivFOp>(term); !quotient.empty()) {
    count = terms.floatConstant(quotient[1]).value_or(0), sum = quotient[0];
  } else if (auto product = terms.match<arith::MulFOp>(term); !product.empty()) {
    for (unsigned i : {0, 1})
      if (std::optional<double> factor = terms.floatConstant(product[i]))
        count = 1 / *factor, sum = product[1 - i];
  }
  if (!sum)
    return {};
  TermRef reduction = terms.expand(terms.withoutCasts(sum));
  if (reduction->kind != Term::Reduce || !isa<arith::AddFOp>(reduction->op) ||
      terms.floatConstant(reduction->operands[0]) != 0.0)
    return {};
  auto extent = dyn_cast<AffineConstantExpr>(terms.positions.extentOf(reduction->position));
  if (!extent || std::abs(count - extent.getValue()) > 1e-3)
    return {};
  return {terms.withoutCasts(reduction->operands[1]), reduction->position};
}

/// The x of x * x, or null.
TermRef matchSquare(Terms &terms, TermRef term) {
  auto product = terms.match<arith::MulFOp>(terms.withoutCasts(term));
  return !product.empty() && terms.same(product[0], product[1]) ? terms.withoutCasts(product[0]) : nullptr;
}

} // namespace

Value raiseNorm(Terms &terms, Value root) {
  auto type = cast<RankedTensorType>(root.getType());
  if (type.getRank() < 1 || type.isDynamicDim(type.getRank() - 1) || !isa<FloatType>(type.getElementType()))
    return {};
  Operation *op = root.getDefiningOp();
  Dims dims = terms.dimsOf(root);
  AffineExpr last = dims.back();
  TermRef whole = terms.withoutCasts(terms.element(root, dims)), product = whole, bias = nullptr;
  auto isPerColumn = [&](TermRef term) {
    return llvm::none_of(ArrayRef(dims).drop_back(), [&](AffineExpr dim) { return terms.dependsOn(term, dim); });
  };
  if (auto sum = terms.match<arith::AddFOp>(whole); !sum.empty()) {
    bool first = isPerColumn(sum[0]);
    if (!first && !isPerColumn(sum[1]))
      return {};
    bias = sum[first ? 0 : 1], product = sum[first ? 1 : 0];
  }
  // The root tells what is normalized, and that tells where the product's parts end.
  const Factor *scale = nullptr;
  SmallVector<Factor> factors = factorsOf(terms, product);
  for (const Factor &factor : factors)
    if (factor.power == Factor::InverseRoot)
      scale = &factor;
  if (!scale)
    return {};
  auto variance = terms.match<arith::AddFOp>(scale->term);
  if (variance.empty())
    return {};
  unsigned at = terms.floatConstant(variance[0]) ? 1 : 0;
  std::optional<double> eps = terms.floatConstant(variance[1 - at]);
  Mean squares = matchMean(terms, variance[at]);
  TermRef square = squares.element ? matchSquare(terms, squares.element) : nullptr;
  if (!eps || *eps < 0 || !square)
    return {};
  TermRef normalized = terms.withoutCasts(terms.substitute(square, squares.reduced, last));
  factors = factorsOf(terms, product, normalized);
  TermRef input = nullptr;
  SmallVector<TermRef> weights;
  for (const Factor &factor : factors) {
    if (factor.power == Factor::InverseRoot)
      continue;
    if (!input && factor.power == Factor::One && terms.same(factor.term, normalized))
      input = factor.term;
    else if (factor.power == Factor::One && isPerColumn(factor.term))
      weights.push_back(factor.term);
    else
      return {};
  }
  if (!input)
    return {};
  // x - mean(x) makes it a layer_norm.
  bool centered = false;
  if (auto difference = terms.match<arith::SubFOp>(normalized); !difference.empty()) {
    Mean mean = matchMean(terms, difference[1]);
    TermRef averaged = mean.element ? terms.substitute(mean.element, mean.reduced, last) : nullptr;
    centered = averaged && terms.same(averaged, difference[0]);
    if (centered)
      input = terms.withoutCasts(difference[0]);
  }
  if (bias && !centered)
    return {};
  Type element = type.getElementType();
  Value x = terms.materialize(input, dims, op, element);
  SmallVector<Value> parameters;
  for (TermRef weight : weights)
    parameters.push_back(terms.materialize(weight, {last}, op, element));
  Value offset = bias ? terms.materialize(bias, {last}, op, element) : Value();
  if (!x || llvm::is_contained(parameters, Value()) || (bias && !offset) || parameters.size() > 1)
    return {};
  OpBuilder b(op);
  Location loc = op->getLoc();
  Value weight = parameters.empty() ? Value() : parameters[0];
  if (centered)
    return LayerNormOp::create(b, loc, type, x, weight, offset, b.getF64FloatAttr(*eps), PrecisionAttr());
  if (!weight) {
    auto columns = RankedTensorType::get({type.getShape().back()}, element);
    weight = arith::ConstantOp::create(b, loc, DenseElementsAttr::get(columns, b.getFloatAttr(element, 1.0)));
  }
  return RmsNormOp::create(b, loc, type, x, weight, b.getF64FloatAttr(*eps), PrecisionAttr());
}

} // namespace mlir::dsc
