//===- Terms.cpp - what one element of a tensor is computed from ----------===//

#include "passes/raise/Terms.h"

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/IR/Matchers.h"

namespace mlir::dsc {

static bool isInteger(Type type) { return type.isIntOrIndex(); }

TermRef Terms::unique(Term term) {
  std::vector<const void *> key{reinterpret_cast<void *>(term.kind), term.type.getAsOpaquePointer(),
                                term.value.getAsOpaquePointer(), term.position.getAsOpaquePointer(),
                                term.constant.getAsOpaquePointer()};
  if (term.op) {
    key.push_back(term.op->getName().getAsOpaquePointer());
    key.push_back(term.op->getAttrDictionary().getAsOpaquePointer());
  }
  for (AffineExpr expr : term.index)
    key.push_back(expr.getAsOpaquePointer());
  for (TermRef operand : term.operands)
    key.push_back(operand);
  std::unique_ptr<Term> &entry = terms[key];
  if (!entry)
    entry = std::make_unique<Term>(std::move(term));
  return entry.get();
}

TermRef Terms::position(AffineExpr expr, Type type) {
  Term term{Term::Position, type};
  term.position = positions.simplify(expr);
  return unique(term);
}

TermRef Terms::constantOf(TypedAttr attribute) {
  auto integer = dyn_cast<IntegerAttr>(attribute);
  if (integer && !integer.getType().isInteger(1))
    return position(getAffineConstantExpr(integer.getInt(), attribute.getContext()), attribute.getType());
  Term term{Term::Constant, attribute.getType()};
  term.constant = attribute;
  return unique(term);
}

TermRef Terms::scalar(Value value) {
  TypedAttr constant;
  if (matchPattern(value, m_Constant(&constant)))
    return constantOf(constant);
  if (value.getType().isIndex())
    if (AffineExpr expr = sizes.getIndex(value))
      return position(expr, value.getType());
  Operation *op = value.getDefiningOp();
  if (op && isa<arith::ArithDialect>(op->getDialect()) && op->getNumResults() == 1)
    return apply(op, llvm::map_to_vector(op->getOperands(), [&](Value v) { return scalar(v); }));
  Term term{Term::Scalar, value.getType(), value};
  return unique(term);
}

TermRef Terms::foldIntegers(Operation *op, ArrayRef<TermRef> operands) {
  auto isPosition = [](TermRef term) { return term->kind == Term::Position; };
  auto boolean = [&](bool value) { return constantOf(BoolAttr::get(op->getContext(), value)); };
  auto known = [](TermRef term) -> std::optional<bool> {
    auto constant = term->kind == Term::Constant ? dyn_cast<BoolAttr>(term->constant) : BoolAttr();
    return constant ? std::optional(constant.getValue()) : std::nullopt;
  };
  Type type = op->getResult(0).getType();
  if (isa<arith::SelectOp>(op)) {
    if (std::optional<bool> condition = known(operands[0]))
      return operands[*condition ? 1 : 2];
    return operands[1] == operands[2] ? operands[1] : nullptr;
  }
  if (isa<arith::AndIOp, arith::OrIOp>(op) && type.isInteger(1)) {
    bool neutral = isa<arith::AndIOp>(op);
    for (unsigned i : {0, 1})
      if (std::optional<bool> value = known(operands[i]))
        return *value == neutral ? operands[1 - i] : boolean(!neutral);
    return operands[0] == operands[1] ? operands[0] : nullptr;
  }
  if (auto extend = dyn_cast<arith::ExtUIOp>(op))
    if (std::optional<bool> value = known(operands[0]))
      return position(getAffineConstantExpr(*value, op->getContext()), type);
  if (!llvm::all_of(operands, isPosition))
    return nullptr;
  if (isa<arith::IndexCastOp, arith::IndexCastUIOp, arith::ExtSIOp, arith::ExtUIOp, arith::TruncIOp>(op) &&
      !type.isInteger(1))
    return position(operands[0]->position, type);
  if (operands.size() != 2)
    return nullptr;
  AffineExpr lhs = operands[0]->position, rhs = operands[1]->position;
  if (isa<arith::AddIOp>(op))
    return position(lhs + rhs, type);
  if (isa<arith::SubIOp>(op))
    return position(lhs - rhs, type);
  if (isa<arith::MulIOp>(op))
    return position(lhs * rhs, type);
  if (isa<arith::MinSIOp, arith::MaxSIOp>(op)) {
    bool isMin = isa<arith::MinSIOp>(op);
    if (positions.isNonNegative(rhs - lhs))
      return operands[isMin ? 0 : 1];
    return positions.isNonNegative(lhs - rhs) ? operands[isMin ? 1 : 0] : nullptr;
  }
  if (auto compare = dyn_cast<arith::CmpIOp>(op)) {
    int result = positions.decide(compare.getPredicate(), lhs, rhs);
    return result < 0 ? nullptr : boolean(result);
  }
  return nullptr;
}

TermRef Terms::apply(Operation *op, ArrayRef<TermRef> operands) {
  if (auto extract = dyn_cast<tensor::ExtractOp>(op)) {
    auto index = llvm::map_to_vector<4>(operands.drop_front(), [](TermRef operand) { return operand->position; });
    return llvm::is_contained(index, AffineExpr()) ? nullptr : element(extract.getTensor(), index);
  }
  if (TermRef folded = foldIntegers(op, operands))
    return folded;
  auto isOne = [&](TermRef term) { return term->kind == Term::Constant && floatConstant(term) == 1.0; };
  if (isa<arith::MulFOp, arith::DivFOp>(op) && isOne(operands[1]))
    return operands[0];
  if (isa<arith::MulFOp>(op) && isOne(operands[0]))
    return operands[1];
  Term term{Term::Apply, op->getResult(0).getType()};
  term.op = op;
  term.operands.assign(operands.begin(), operands.end());
  return unique(term);
}

Dims Terms::dimsOf(Value tensor) {
  return llvm::map_to_vector<4>(sizes.get(tensor), [&](AffineExpr size) { return positions.newDim(size); });
}

bool Terms::follow(Value &tensor, Dims &index) {
  Operation *op = tensor.getDefiningOp();
  if (!op)
    return false;
  MLIRContext *context = op->getContext();
  if (auto castOp = dyn_cast<tensor::CastOp>(op)) {
    tensor = castOp.getSource();
    return isa<RankedTensorType>(tensor.getType());
  }
  if (auto expand = dyn_cast<tensor::ExpandShapeOp>(op)) {
    Dims shape = sizes.get(tensor), source;
    for (const ReassociationIndices &group : expand.getReassociationIndices()) {
      AffineExpr linear = getAffineConstantExpr(0, context);
      for (int64_t i : group)
        linear = linear * shape[i] + index[i];
      source.push_back(linear);
    }
    tensor = expand.getSrc(), index = source;
    return true;
  }
  if (auto collapse = dyn_cast<tensor::CollapseShapeOp>(op)) {
    Dims shape = sizes.get(collapse.getSrc()), source(shape.size(), getAffineConstantExpr(0, context));
    for (auto [group, linear] : llvm::zip_equal(collapse.getReassociationIndices(), index)) {
      AffineExpr rest = linear;
      for (int64_t i : llvm::reverse(group)) {
        source[i] = i == group.front() ? rest : rest % shape[i];
        rest = rest.floorDiv(shape[i]);
      }
    }
    tensor = collapse.getSrc(), index = source;
    return true;
  }
  if (auto slice = dyn_cast<tensor::ExtractSliceOp>(op)) {
    auto asExpr = [&](OpFoldResult value) {
      if (auto attribute = dyn_cast<Attribute>(value))
        return getAffineConstantExpr(cast<IntegerAttr>(attribute).getInt(), context);
      return sizes.getIndex(cast<Value>(value));
    };
    llvm::SmallBitVector dropped = slice.getDroppedDims();
    Dims source;
    size_t next = 0;
    for (auto [i, offset, stride] : llvm::enumerate(slice.getMixedOffsets(), slice.getMixedStrides())) {
      AffineExpr start = asExpr(offset), step = asExpr(stride);
      if (!start || !step)
        return false;
      source.push_back(dropped.test(i) ? start : start + index[next++] * step);
    }
    tensor = slice.getSource(), index = source;
    return true;
  }
  if (auto concat = dyn_cast<tensor::ConcatOp>(op)) {
    AffineExpr &at = index[concat.getDim()], start = getAffineConstantExpr(0, context);
    for (Value input : concat.getInputs()) {
      AffineExpr end = start + sizes.get(input)[concat.getDim()];
      if (positions.isLess(at, end) && positions.isNonNegative(at - start)) {
        at = at - start, tensor = input;
        return true;
      }
      start = end;
    }
    return false;
  }
  auto generic = dyn_cast<linalg::GenericOp>(op);
  if (!generic || generic.getNumDpsInputs() != 1 || generic.getNumResults() != 1 || generic.getNumReductionLoops())
    return false;
  auto yielded = dyn_cast<BlockArgument>(generic.getBody()->getTerminator()->getOperand(0));
  AffineMap output = generic.getIndexingMapsArray().back();
  if (!yielded || yielded.getArgNumber() != 0 || !output.isIdentity())
    return false;
  Dims source;
  for (AffineExpr expr : generic.getIndexingMapsArray().front().getResults())
    source.push_back(expr.replaceDims(index));
  tensor = generic.getDpsInputOperand(0)->get(), index = source;
  return true;
}

TermRef Terms::element(Value tensor, ArrayRef<AffineExpr> at) {
  SmallVector<std::pair<Value, Dims>> path;
  Dims index(at);
  do {
    for (auto [expr, size] : llvm::zip_equal(index, cast<RankedTensorType>(tensor.getType()).getShape()))
      expr = size == 1 ? getAffineConstantExpr(0, expr.getContext()) : positions.simplify(expr);
    path.emplace_back(tensor, index);
  } while (follow(tensor, index));
  Term term{Term::Element, getElementTypeOrSelf(tensor), tensor};
  term.index = index;
  TermRef found = unique(term);
  for (auto &entry : path)
    if (!llvm::is_contained(found->aliases, entry))
      found->aliases.push_back(entry);
  if (!isInteger(found->type))
    return found;
  TermRef computed = expand(found);
  return computed->kind == Term::Position || computed->kind == Term::Constant ? computed : found;
}

TermRef Terms::expand(TermRef term) {
  if (!term->isElement())
    return term;
  if (TermRef known = expanded.lookup(term))
    return known;
  expanded[term] = term; // what comes back to itself is no formula
  TermRef computed = compute(term);
  computed = computed ? expand(computed) : term;
  return expanded[term] = computed;
}

TermRef Terms::compute(TermRef term) {
  Operation *op = term->value.getDefiningOp();
  if (!op)
    return nullptr;
  if (auto fill = dyn_cast<linalg::FillOp>(op))
    return scalar(fill.getInputs()[0]);
  DenseElementsAttr dense;
  if (matchPattern(op, m_Constant(&dense)) && dense.isSplat())
    return constantOf(cast<TypedAttr>(dense.getSplatValue<Attribute>()));
  if (auto concat = dyn_cast<tensor::ConcatOp>(op))
    return isInteger(term->type) ? computeConcat(concat, term->index) : nullptr;
  if (auto scan = dyn_cast<ScanOp>(op)) {
    // Running sums of zeros are zeros.
    if (scan.getKind() != "add" || !isInteger(term->type))
      return nullptr;
    Dims index(term->index);
    index.back() = positions.newDim(sizes.get(term->value).back());
    TermRef input = element(scan.getInput(), index);
    bool isZero = input->kind == Term::Position && input->position == 0;
    return isZero ? input : nullptr;
  }
  if (auto generic = dyn_cast<linalg::GenericOp>(op))
    return computeGeneric(generic, cast<OpResult>(term->value).getResultNumber(), term->index);
  return nullptr;
}

/// Where the first part is a single element, and says what the formula of the second says there.
TermRef Terms::computeConcat(tensor::ConcatOp op, ArrayRef<AffineExpr> index) {
  AffineExpr at = index[op.getDim()], zero = getAffineConstantExpr(0, op.getContext());
  Value first = op.getInputs().front();
  if (op.getInputs().size() != 2 || cast<RankedTensorType>(first.getType()).getDimSize(op.getDim()) != 1 ||
      !isa<AffineDimExpr>(at))
    return nullptr;
  Dims source(index);
  source[op.getDim()] = zero;
  TermRef single = element(first, source);
  source[op.getDim()] = at - 1;
  TermRef others = element(op.getInputs().back(), source);
  if (single->kind != Term::Position || others->kind != Term::Position)
    return nullptr;
  return positions.simplify(others->position.replace(at, zero) - single->position) == zero ? others : nullptr;
}

TermRef Terms::computeGeneric(linalg::GenericOp op, unsigned result, ArrayRef<AffineExpr> index) {
  SmallVector<AffineMap> maps = op.getIndexingMapsArray();
  AffineMap output = maps[op.getNumDpsInputs() + result];
  if (!output.isProjectedPermutation() || op.getNumReductionLoops() > 1)
    return nullptr;
  Dims point(op.getNumLoops());
  for (auto [expr, at] : llvm::zip_equal(output.getResults(), index))
    point[cast<AffineDimExpr>(expr).getPosition()] = at;
  AffineExpr reduced;
  for (auto [loop, expr] : llvm::enumerate(point)) {
    if (expr)
      continue;
    for (auto [operand, map] : llvm::zip_equal(op->getOperands(), maps))
      for (auto [axis, source] : llvm::enumerate(map.getResults()))
        if (source == getAffineDimExpr(loop, op.getContext()))
          reduced = sizes.get(operand)[axis];
    if (!reduced)
      return nullptr;
    expr = reduced = positions.newDim(reduced);
  }
  DenseMap<Value, TermRef> known;
  Block *body = op.getBody();
  for (auto [argument, operand, map] : llvm::zip_equal(body->getArguments(), op->getOperands(), maps)) {
    Dims at;
    for (AffineExpr expr : map.getResults())
      at.push_back(expr.replaceDims(point));
    known[argument] = element(operand, at);
  }
  auto lookup = [&](Value value) {
    TermRef found = known.lookup(value);
    return found ? found : scalar(value);
  };
  Value yielded = body->getTerminator()->getOperand(result);
  Value accumulator = body->getArgument(op.getNumDpsInputs() + result);
  for (Operation &inner : body->without_terminator()) {
    if (inner.getNumResults() != 1 || inner.getNumRegions())
      return nullptr;
    if (auto loop = dyn_cast<linalg::IndexOp>(inner)) {
      known[loop] = position(point[loop.getDim()], loop.getType());
      continue;
    }
    if (reduced && inner.getResult(0) == yielded)
      break;
    SmallVector<TermRef> operands;
    for (Value operand : inner.getOperands())
      operands.push_back(isa<RankedTensorType>(operand.getType()) ? nullptr : lookup(operand));
    TermRef computed = apply(&inner, operands);
    if (!computed) // reads a tensor at a position that depends on values
      return nullptr;
    known[inner.getResult(0)] = computed;
  }
  if (!reduced)
    return lookup(yielded);
  Operation *combiner = yielded.getDefiningOp();
  if (!combiner || combiner->getNumOperands() != 2 || !llvm::is_contained(combiner->getOperands(), accumulator))
    return nullptr;
  Term term{Term::Reduce, yielded.getType()};
  term.op = combiner;
  term.position = reduced;
  Value other = combiner->getOperand(combiner->getOperand(0) == accumulator ? 1 : 0);
  term.operands = {known[accumulator], lookup(other)};
  return unique(term);
}

TermRef Terms::withoutCasts(TermRef term) {
  for (;;) {
    TermRef found = expand(term);
    if (found->kind != Term::Apply || !isa<arith::ExtFOp, arith::TruncFOp>(found->op))
      return term;
    term = found->operands[0];
  }
}

bool Terms::same(TermRef lhs, TermRef rhs, unsigned depth) {
  lhs = withoutCasts(lhs), rhs = withoutCasts(rhs);
  if (lhs == rhs)
    return true;
  if (!depth)
    return false;
  TermRef left = expand(lhs), right = expand(rhs);
  if (left == right)
    return true;
  if (left->kind != Term::Apply || right->kind != Term::Apply || left->op->getName() != right->op->getName() ||
      left->op->getAttrDictionary() != right->op->getAttrDictionary() ||
      left->operands.size() != right->operands.size())
    return false;
  return llvm::all_of(llvm::zip_equal(left->operands, right->operands),
                      [&](auto pair) { return same(std::get<0>(pair), std::get<1>(pair), depth - 1); });
}

std::optional<double> Terms::floatConstant(TermRef term) {
  TermRef found = expand(withoutCasts(term));
  auto constant = found->kind == Term::Constant ? dyn_cast<FloatAttr>(found->constant) : FloatAttr();
  return constant ? std::optional(constant.getValueAsDouble()) : std::nullopt;
}

TermRef Terms::substitute(TermRef term, AffineExpr dim, AffineExpr by) {
  switch (term->kind) {
  case Term::Element: {
    // From each tensor that holds it, so that all of them are known to hold the new one too.
    TermRef found = nullptr;
    auto aliases = term->aliases;
    for (auto &[tensor, index] : aliases)
      found = element(tensor, llvm::map_to_vector(index, [&](AffineExpr e) { return e.replace(dim, by); }));
    return found;
  }
  case Term::Position:
    return position(term->position.replace(dim, by), term->type);
  case Term::Apply:
    return apply(term->op,
                 llvm::map_to_vector(term->operands, [&](TermRef operand) { return substitute(operand, dim, by); }));
  default:
    return term;
  }
}

bool Terms::dependsOn(TermRef term, AffineExpr dim) {
  auto uses = [&](AffineExpr expr) { return expr.isFunctionOfDim(cast<AffineDimExpr>(dim).getPosition()); };
  if (term->kind == Term::Position)
    return uses(term->position);
  if (term->kind == Term::Element)
    return llvm::any_of(term->index, uses);
  return llvm::any_of(term->operands, [&](TermRef operand) { return dependsOn(operand, dim); });
}

} // namespace mlir::dsc
