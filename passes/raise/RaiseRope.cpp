//===- RaiseRope.cpp - rotary position embedding --------------------------===//
//
// Two halves of a result, each a sum of two products, that rotate pairs of an
// input by one angle (Su et al. 2021, eq. 34): pairs lie half a head apart, or
// beside each other.
//
//===----------------------------------------------------------------------===//

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "passes/raise/Raisers.h"

namespace mlir::dsc {
namespace {

void addSummands(Terms &terms, TermRef term, bool negative, SmallVectorImpl<std::pair<bool, TermRef>> &found) {
  term = terms.withoutCasts(term);
  if (auto sum = terms.match<arith::AddFOp>(term); !sum.empty()) {
    addSummands(terms, sum[0], negative, found);
    addSummands(terms, sum[1], negative, found);
  } else if (auto difference = terms.match<arith::SubFOp>(term); !difference.empty()) {
    addSummands(terms, difference[0], negative, found);
    addSummands(terms, difference[1], !negative, found);
  } else if (auto negated = terms.match<arith::NegFOp>(term); !negated.empty()) {
    addSummands(terms, negated[0], !negative, found);
  } else {
    found.emplace_back(negative, term);
  }
}

/// A sum as (is subtracted, term).
SmallVector<std::pair<bool, TermRef>> summandsOf(Terms &terms, TermRef sum) {
  SmallVector<std::pair<bool, TermRef>> found;
  addSummands(terms, sum, false, found);
  return found;
}

/// sign * a * b.
struct Product {
  bool negative = false;
  TermRef factors[2] = {};
};

/// `first` and `second` of a pair, rotated: first cos - second sin, second cos + first sin.
struct Rotation {
  TermRef first = nullptr, second = nullptr, cos = nullptr, sin = nullptr;
};

/// The x of -x or -1 x, or null.
TermRef negatedBy(Terms &terms, TermRef term) {
  if (auto negated = terms.match<arith::NegFOp>(term); !negated.empty())
    return negated[0];
  auto product = terms.match<arith::MulFOp>(term);
  for (unsigned i : {0, 1})
    if (!product.empty() && terms.floatConstant(product[i]) == -1.0)
      return product[1 - i];
  return nullptr;
}

bool matchProduct(Terms &terms, std::pair<bool, TermRef> summand, Product &product) {
  auto factors = terms.match<arith::MulFOp>(summand.second);
  if (factors.empty())
    return false;
  product.negative = summand.first;
  for (unsigned i : {0, 1}) {
    TermRef factor = terms.withoutCasts(factors[i]);
    if (TermRef negated = negatedBy(terms, factor)) {
      product.negative = !product.negative;
      factor = terms.withoutCasts(negated);
    }
    product.factors[i] = factor;
  }
  return true;
}

std::optional<Rotation> matchRotation(Terms &terms, TermRef lower, TermRef upper) {
  Product plus, minus, sums[2];
  auto low = summandsOf(terms, lower), high = summandsOf(terms, upper);
  if (low.size() != 2 || high.size() != 2 || !matchProduct(terms, low[0], plus) ||
      !matchProduct(terms, low[1], minus) || !matchProduct(terms, high[0], sums[0]) ||
      !matchProduct(terms, high[1], sums[1]))
    return std::nullopt;
  if (plus.negative)
    std::swap(plus, minus);
  if (plus.negative || !minus.negative || sums[0].negative || sums[1].negative)
    return std::nullopt;
  auto isProductOf = [&](const Product &product, TermRef a, TermRef b) {
    return (terms.same(product.factors[0], a) && terms.same(product.factors[1], b)) ||
           (terms.same(product.factors[1], a) && terms.same(product.factors[0], b));
  };
  for (unsigned i : {0, 1})
    for (unsigned j : {0, 1}) {
      Rotation found{plus.factors[i], minus.factors[j], plus.factors[1 - i], minus.factors[1 - j]};
      for (unsigned k : {0, 1})
        if (isProductOf(sums[k], found.second, found.cos) && isProductOf(sums[1 - k], found.first, found.sin) &&
            found.first->isElement() && found.second->isElement() && found.first->value == found.second->value)
          return found;
    }
  return std::nullopt;
}

} // namespace

Value raiseRope(Terms &terms, Value root) {
  auto type = cast<RankedTensorType>(root.getType());
  if (type.getRank() != 4 || type.isDynamicDim(3) || type.getDimSize(3) % 2 || !isa<FloatType>(type.getElementType()))
    return {};
  Operation *op = root.getDefiningOp();
  MLIRContext *context = op->getContext();
  int64_t half = type.getDimSize(3) / 2;
  Dims dims = terms.dimsOf(root);
  AffineExpr pair = terms.positions.newDim(getAffineConstantExpr(half, context));
  for (bool interleaved : {false, true}) {
    Dims lower(dims), upper(dims);
    lower[3] = interleaved ? pair * 2 : pair;
    upper[3] = interleaved ? pair * 2 + 1 : pair + half;
    auto rotation = matchRotation(terms, terms.element(root, lower), terms.element(root, upper));
    if (!rotation)
      continue;
    // Angles belong to positions, and are the same for all heads.
    auto dependsOn = [&](unsigned axis) {
      return terms.dependsOn(rotation->cos, dims[axis]) || terms.dependsOn(rotation->sin, dims[axis]);
    };
    unsigned sequence = dependsOn(1) ? 1 : 2, heads = 3 - sequence;
    if (dependsOn(heads) || !dependsOn(sequence) || type.isDynamicDim(heads))
      continue;
    // The input at a whole position is that of a pair at the dim that `root` has.
    TermRef input = nullptr;
    auto aliases = rotation->first->aliases;
    for (auto &[tensor, index] : aliases) {
      Dims whole = llvm::map_to_vector<4>(index, [&](AffineExpr e) { return e.replace(lower[3], dims[3]); });
      if (llvm::any_of(whole, [&](AffineExpr e) { return e.isFunctionOfDim(cast<AffineDimExpr>(pair).getPosition()); }))
        continue;
      TermRef candidate = terms.element(tensor, whole);
      if (terms.substitute(candidate, dims[3], lower[3]) == rotation->first &&
          terms.substitute(candidate, dims[3], upper[3]) == rotation->second)
        input = candidate;
    }
    if (!input)
      continue;
    Type element = type.getElementType();
    Dims order{dims[0], dims[sequence], dims[heads], dims[3]}, angles{dims[0], dims[sequence], pair};
    Value x = terms.materialize(input, order, op, element);
    Value cos = x ? terms.materialize(rotation->cos, angles, op, element) : Value();
    Value sin = cos ? terms.materialize(rotation->sin, angles, op, element) : Value();
    if (!sin)
      continue;
    OpBuilder b(op);
    Value rotated = RopeOp::create(b, op->getLoc(), x.getType(), x, cos, sin, interleaved);
    return sequence == 1 ? rotated : terms.transpose(b, op->getLoc(), rotated, {0, 2, 1, 3});
  }
  return {};
}

} // namespace mlir::dsc
