//===- RaiseAttention.cpp - a softmax between two products ----------------===//
//
// From the product of weights and values backwards: a softmax, what scales and
// masks the scores, the product of queries and keys.
//
//===----------------------------------------------------------------------===//

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/Math/IR/Math.h"
#include "passes/raise/Raisers.h"

namespace mlir::dsc {
namespace {

/// Scores before the softmax: cap * tanh(scale * q k / cap) + masks, where `conditions` hold.
struct Scores {
  TermRef product = nullptr;
  double scale = 1, cap = 0;
  SmallVector<TermRef> masks, conditions;
};

/// What pairs of a query and a key see each other.
struct Visibility {
  bool causal = false;
  std::optional<int64_t> window;
  SmallVector<TermRef> masks, conditions; // all that is neither
};

struct Raiser {
  Terms &terms;
  MatmulOp root;
  AffineExpr batch, head, query, key, column;
  int64_t heads = 1;
  std::string problem;

  Raiser(Terms &terms, MatmulOp root) : terms(terms), root(root) {}

  AffineExpr constant(int64_t value) { return getAffineConstantExpr(value, root.getContext()); }

  /// Whether `condition` says that all scores of the row of `weights` are -infinity.
  bool seesNothing(TermRef condition, TermRef weights) {
    weights = terms.withoutCasts(weights);
    auto softmax = weights->isElement() ? weights->value.getDefiningOp<SoftmaxOp>() : SoftmaxOp();
    TermRef all = terms.expand(condition);
    if (!softmax || all->kind != Term::Reduce || !isa<arith::AndIOp>(all->op))
      return false;
    TermRef compared = terms.expand(all->operands[1]);
    auto compare = compared->kind == Term::Apply ? dyn_cast<arith::CmpFOp>(compared->op) : arith::CmpFOp();
    if (!compare || compare.getPredicate() != arith::CmpFPredicate::OEQ)
      return false;
    Dims row(weights->index);
    row.back() = all->position;
    TermRef score = terms.element(softmax.getInput(), row);
    auto matches = [&](unsigned i) {
      return terms.floatConstant(compared->operands[i]) == -INFINITY && terms.same(compared->operands[1 - i], score);
    };
    return matches(0) || matches(1);
  }

  /// An element of an operand of a batched product.
  TermRef operand(Value tensor, bool isTransposed, ArrayRef<AffineExpr> leading, AffineExpr row, AffineExpr column) {
    Dims index(leading);
    index.append(isTransposed ? Dims{column, row} : Dims{row, column});
    return terms.element(tensor, index);
  }

  static bool hides(std::optional<double> value) { return value && *value <= -1e4; }

  bool parse(TermRef term, Scores &scores) {
    term = terms.withoutCasts(term);
    if (term->isElement() && term->value.getDefiningOp<MatmulOp>()) {
      scores.product = term;
      return terms.dependsOn(term, query) && terms.dependsOn(term, key);
    }
    if (auto select = terms.match<arith::SelectOp>(term); !select.empty() && hides(terms.floatConstant(select[2]))) {
      scores.conditions.push_back(select[0]);
      return parse(select[1], scores);
    }
    if (auto sum = terms.match<arith::AddFOp>(term); !sum.empty()) {
      for (unsigned i : {0, 1}) {
        Scores inner;
        if (!parse(sum[i], inner))
          continue;
        inner.masks.push_back(sum[1 - i]);
        llvm::append_range(inner.conditions, scores.conditions);
        scores = inner;
        return true;
      }
      return false;
    }
    double factor = 0;
    TermRef scaled = nullptr;
    if (auto product = terms.match<arith::MulFOp>(term); !product.empty()) {
      for (unsigned i : {0, 1})
        if (std::optional<double> found = terms.floatConstant(product[i]))
          factor = *found, scaled = product[1 - i];
    } else if (auto quotient = terms.match<arith::DivFOp>(term); !quotient.empty()) {
      if (std::optional<double> found = terms.floatConstant(quotient[1]))
        factor = 1 / *found, scaled = quotient[0];
    }
    if (!scaled)
      return false;
    Scores inner;
    auto capped = terms.match<math::TanhOp>(terms.withoutCasts(scaled));
    if (!parse(capped.empty() ? scaled : capped[0], inner) || !inner.masks.empty() || !inner.conditions.empty() ||
        inner.cap)
      return false;
    scores.product = inner.product;
    scores.scale = inner.scale * factor;
    scores.cap = capped.empty() ? 0 : factor;
    return true;
  }

  void addConditions(TermRef term, SmallVectorImpl<TermRef> &found) {
    if (auto both = terms.match<arith::AndIOp>(term); !both.empty()) {
      addConditions(both[0], found);
      addConditions(both[1], found);
      return;
    }
    found.push_back(terms.expand(term)->kind == Term::Apply ? terms.expand(term) : term);
  }

  /// Sorts a condition into `seen`; false if it is a general one.
  bool classify(TermRef term, Visibility &seen) {
    if (term->kind == Term::Constant && cast<BoolAttr>(term->constant).getValue())
      return true;
    auto compare = term->kind == Term::Apply ? dyn_cast<arith::CmpIOp>(term->op) : arith::CmpIOp();
    if (!compare || term->operands[0]->kind != Term::Position || term->operands[1]->kind != Term::Position)
      return false;
    AffineExpr lhs = term->operands[0]->position, rhs = term->operands[1]->position, distance;
    using Predicate = arith::CmpIPredicate;
    switch (compare.getPredicate()) { // distance >= 0
    case Predicate::sle:
      distance = rhs - lhs;
      break;
    case Predicate::slt:
      distance = rhs - lhs - 1;
      break;
    case Predicate::sge:
      distance = lhs - rhs;
      break;
    case Predicate::sgt:
      distance = lhs - rhs - 1;
      break;
    default:
      return false;
    }
    AffineExpr own = query + terms.positions.extentOf(key) - terms.positions.extentOf(query);
    if (terms.positions.simplify(distance - (own - key)) == 0) {
      seen.causal = true;
      return true;
    }
    auto width = dyn_cast<AffineConstantExpr>(terms.positions.simplify(distance - (key - own)));
    if (!width || width.getValue() < 0)
      return false;
    seen.window = std::min(seen.window.value_or(INT64_MAX), width.getValue() + 1);
    return true;
  }

  Visibility visibility(const Scores &scores) {
    Visibility seen;
    SmallVector<TermRef> conditions;
    for (TermRef condition : scores.conditions)
      addConditions(condition, conditions);
    for (TermRef condition : conditions)
      if (!classify(condition, seen))
        seen.conditions.push_back(condition);
    for (TermRef mask : scores.masks) {
      mask = terms.withoutCasts(mask);
      if (terms.floatConstant(mask) == 0.0)
        continue;
      // 0 where a query sees a key: the same as a condition if it is one that leaves every query something to see.
      auto select = terms.match<arith::SelectOp>(mask);
      Visibility also(seen);
      if (!select.empty() && terms.floatConstant(select[1]) == 0.0 && hides(terms.floatConstant(select[2]))) {
        SmallVector<TermRef> parts;
        addConditions(select[0], parts);
        if (llvm::all_of(parts, [&](TermRef part) { return classify(part, also); })) {
          seen = also;
          continue;
        }
      }
      seen.masks.push_back(mask);
    }
    return seen;
  }

  /// The constant n of `dim floordiv n` in the positions of a term, or 0.
  static int64_t divisorOf(TermRef term, AffineExpr dim) {
    int64_t divisor = 0;
    for (AffineExpr expr : term->index)
      expr.walk([&](AffineExpr inner) {
        auto binary = dyn_cast<AffineBinaryOpExpr>(inner);
        if (binary && inner.getKind() == AffineExprKind::FloorDiv && binary.getLHS() == dim)
          if (auto constant = dyn_cast<AffineConstantExpr>(binary.getRHS()))
            divisor = constant.getValue();
      });
    for (TermRef operand : term->operands)
      divisor = std::max(divisor, divisorOf(operand, dim));
    return divisor;
  }

  /// `term` without constant factors, which go to `scale`.
  TermRef withoutScale(TermRef term, double &scale) {
    term = terms.withoutCasts(term);
    if (auto product = terms.match<arith::MulFOp>(term); !product.empty()) {
      for (unsigned i : {0, 1})
        if (std::optional<double> factor = terms.floatConstant(product[i])) {
          scale *= *factor;
          return withoutScale(product[1 - i], scale);
        }
    } else if (auto quotient = terms.match<arith::DivFOp>(term); !quotient.empty()) {
      if (std::optional<double> factor = terms.floatConstant(quotient[1])) {
        scale /= *factor;
        return withoutScale(quotient[0], scale);
      }
    }
    return term;
  }

  /// A mask over [b, h, s, t] with size 1 where it does not depend on a dim.
  Value maskTensor(TermRef term) {
    const AffineExpr all[] = {batch, head, query, key};
    if (Value found = terms.findAlias(term, all, root, /*allowOnes=*/true))
      return found;
    Dims dims;
    for (AffineExpr dim : all)
      dims.push_back(isa<AffineDimExpr>(dim) && terms.dependsOn(term, dim) ? dim : terms.positions.newDim(constant(1)));
    return terms.materialize(term, dims, root);
  }

  /// One mask of all: as it is, or a sum in which what is hidden is -infinity.
  Value joinMasks(OpBuilder &b, const Visibility &seen) {
    SmallVector<Value> parts;
    SmallVector<TermRef> wanted(seen.masks);
    llvm::append_range(wanted, seen.conditions);
    for (TermRef term : wanted)
      parts.push_back(maskTensor(term));
    if (llvm::is_contained(parts, Value())) {
      problem = "its mask reads a tensor at positions that depend on values";
      return {};
    }
    if (parts.size() == 1)
      return parts[0];
    Location loc = root.getLoc();
    MLIRContext *context = b.getContext();
    Type element = defaultAccumulatorType(getElementTypeOrSelf(root.getType()));
    SmallVector<int64_t> shape(4, 1);
    SmallVector<Value> dynamic(4);
    SmallVector<AffineMap> maps;
    for (Value part : parts) {
      auto type = cast<RankedTensorType>(part.getType());
      SmallVector<AffineExpr> at;
      for (auto [axis, size] : llvm::enumerate(type.getShape())) {
        at.push_back(size == 1 ? constant(0) : getAffineDimExpr(axis, context));
        if (size == 1)
          continue;
        shape[axis] = size;
        if (ShapedType::isDynamic(size))
          dynamic[axis] = terms.sizes.materialize(b, loc, terms.sizes.get(part)[axis]);
      }
      maps.push_back(AffineMap::get(4, 0, at, context));
    }
    maps.push_back(AffineMap::getMultiDimIdentityMap(4, context));
    llvm::erase(dynamic, Value());
    Value empty = tensor::EmptyOp::create(b, loc, shape, element, dynamic);
    SmallVector<utils::IteratorType> loops(4, utils::IteratorType::parallel);
    auto body = [&](OpBuilder &inner, Location at, ValueRange values) {
      auto number = [&](double value) -> Value {
        return arith::ConstantOp::create(inner, at, inner.getFloatAttr(element, value));
      };
      Value sum;
      for (Value value : values.drop_back()) {
        if (value.getType().isInteger(1))
          value = arith::SelectOp::create(inner, at, value, number(0), number(-INFINITY));
        else if (value.getType() != element)
          value = arith::ExtFOp::create(inner, at, element, value);
        sum = sum ? Value(arith::AddFOp::create(inner, at, sum, value)) : value;
      }
      linalg::YieldOp::create(inner, at, sum);
    };
    return linalg::GenericOp::create(b, loc, empty.getType(), parts, empty, maps, loops, body).getResult(0);
  }

  Value run() {
    auto type = cast<RankedTensorType>(root.getType());
    int64_t rank = type.getRank();
    if (rank < 3 || rank > 4 || root.getBias() || !isa<FloatType>(type.getElementType()) ||
        cast<RankedTensorType>(root.getRhs().getType()).getRank() != rank)
      return {};
    Dims dims = terms.dimsOf(root.getResult()), leading(dims.begin(), dims.end() - 2);
    query = dims[rank - 2], column = dims[rank - 1];
    key = terms.positions.newDim(terms.sizes.get(root.getRhs())[rank - (root.getTransposeRhs() ? 1 : 2)]);
    auto weightsAt = [&] { return operand(root.getLhs(), root.getTransposeLhs(), leading, query, key); };
    auto softmaxAt = [&]() -> TermRef {
      TermRef weights = terms.withoutCasts(weightsAt());
      // Rows of which nothing is seen are zeros.
      if (auto select = terms.match<arith::SelectOp>(weights);
          !select.empty() && terms.floatConstant(select[1]) == 0.0 && seesNothing(select[0], select[2]))
        weights = terms.withoutCasts(select[2]);
      bool found = weights->isElement() && weights->value.getDefiningOp<SoftmaxOp>();
      return found ? weights : nullptr;
    };
    TermRef weights = softmaxAt();
    if (!weights)
      return {};
    problem = "its scores are not a product of queries and keys";
    auto softmax = weights->value.getDefiningOp<SoftmaxOp>();
    if (weights->index.back() != key)
      return {};
    if (rank == 3) {
      // Heads may be part of the batch; the reshape that joined them tells how many there are.
      heads = std::max<int64_t>(
          1, divisorOf(operand(root.getRhs(), root.getTransposeRhs(), leading, key, column), dims[0]));
      batch = terms.positions.newDim(terms.positions.simplify(terms.positions.extentOf(dims[0]).floorDiv(heads)));
      head = terms.positions.newDim(constant(heads));
      leading = {heads == 1 ? batch : batch * heads + head};
      weights = softmaxAt();
    } else {
      batch = dims[0], head = dims[1];
      auto count = dyn_cast<AffineConstantExpr>(terms.positions.extentOf(head));
      if (!count)
        return {};
      heads = count.getValue();
    }
    Scores scores;
    if (!weights || !parse(terms.element(softmax.getInput(), weights->index), scores))
      return {};
    auto product = scores.product->value.getDefiningOp<MatmulOp>();
    int64_t productRank = scores.product->index.size();
    Dims at(scores.product->index.begin(), scores.product->index.end() - 2);
    auto dependsOnPosition = [&](AffineExpr expr) {
      return llvm::any_of(ArrayRef{query, key},
                          [&](AffineExpr dim) { return expr.isFunctionOfDim(cast<AffineDimExpr>(dim).getPosition()); });
    };
    if (product.getBias() || llvm::any_of(at, dependsOnPosition) ||
        cast<RankedTensorType>(product.getRhs().getType()).getRank() != productRank ||
        scores.product->index[productRank - 2] != query || scores.product->index[productRank - 1] != key)
      return {};
    AffineExpr depth =
        terms.positions.newDim(terms.sizes.get(product.getLhs())[productRank - (product.getTransposeLhs() ? 2 : 1)]);
    TermRef q = operand(product.getLhs(), product.getTransposeLhs(), at, query, depth);
    // The right side of the product is [depth, key], transposed [key, depth].
    TermRef k = operand(product.getRhs(), !product.getTransposeRhs(), at, key, depth);
    TermRef v = operand(root.getRhs(), root.getTransposeRhs(), leading, key, column);
    q = withoutScale(q, scores.scale), k = withoutScale(k, scores.scale);

    problem = "keys and values have heads of different sizes";
    auto size = dyn_cast<AffineConstantExpr>(terms.positions.extentOf(depth));
    if (!size || terms.positions.extentOf(column) != size)
      return {};
    // Query heads that share keys and values.
    int64_t group = 1;
    if (!terms.dependsOn(k, head) && !terms.dependsOn(v, head))
      group = heads;
    else if (int64_t divisor = divisorOf(k, head); divisor && divisor == divisorOf(v, head))
      group = divisor;
    AffineExpr kvHead = terms.positions.newDim(constant(heads / group));
    AffineExpr first = group == heads ? constant(0) : kvHead * group;
    k = terms.substitute(k, head, first), v = terms.substitute(v, head, first);

    problem = "its queries, keys or values cannot be read as [batch, position, head, element]";
    Type element = type.getElementType();
    Value queries = terms.materialize(q, {batch, query, head, depth}, root, element);
    Value keys = queries ? terms.materialize(k, {batch, key, kvHead, depth}, root, element) : Value();
    Value values = keys ? terms.materialize(v, {batch, key, kvHead, column}, root, element) : Value();
    if (!values)
      return {};
    OpBuilder b(root);
    Location loc = root.getLoc();
    Visibility seen = visibility(scores);
    Value mask;
    if (!seen.masks.empty() || !seen.conditions.empty()) {
      mask = joinMasks(b, seen);
      if (!mask)
        return {};
    }
    auto number = [&](std::optional<int64_t> value) { return value ? b.getI64IntegerAttr(*value) : IntegerAttr(); };
    Value result = AttentionOp::create(b, loc, queries.getType(), queries, keys, values, /*cache=*/Value(),
                                       /*lengths=*/Value(), mask, seen.causal ? b.getUnitAttr() : UnitAttr(),
                                       b.getF32FloatAttr(scores.scale), number(seen.window),
                                       scores.cap ? b.getF32FloatAttr(scores.cap) : FloatAttr(),
                                       /*precision=*/PrecisionAttr());
    result = terms.transpose(b, loc, result, {0, 2, 1, 3});
    if (rank == 3)
      result = tensor::CollapseShapeOp::create(b, loc, type, result, ArrayRef<ReassociationIndices>{{0, 1}, {2}, {3}});
    return result;
  }
};

} // namespace

AttentionFound raiseAttention(Terms &terms, MatmulOp root) {
  Raiser raiser(terms, root);
  Value replacement = raiser.run();
  return {replacement, replacement ? "" : raiser.problem};
}

} // namespace mlir::dsc
