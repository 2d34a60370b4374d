//===- TermTensors.cpp - tensors that hold terms --------------------------===//

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "passes/raise/Terms.h"

namespace mlir::dsc {

static bool isBefore(Value value, Operation *op) {
  Operation *definition = value.getDefiningOp();
  return !definition || (definition->getBlock() == op->getBlock() && definition->isBeforeInBlock(op));
}

Value Terms::findTensor(TermRef term, ArrayRef<AffineExpr> dims, Operation *before) {
  return findAlias(term, dims, before);
}

Value Terms::findAlias(TermRef term, ArrayRef<AffineExpr> dims, Operation *before, bool allowOnes) {
  AffineExpr zero = getAffineConstantExpr(0, before->getContext());
  for (auto &[tensor, index] : term->aliases) {
    if (index.size() != dims.size() || !isBefore(tensor, before))
      continue;
    Dims shape = sizes.get(tensor);
    bool fits = llvm::all_of(llvm::zip_equal(index, dims, shape), [&](auto entry) {
      auto [at, dim, size] = entry;
      if (allowOnes && at == zero && size == 1)
        return true;
      return at == dim ? positions.simplify(size - positions.extentOf(dim)) == zero
                       : at == zero && size == 1 && positions.extentOf(dim) == 1;
    });
    if (fits)
      return tensor;
  }
  return {};
}

Value Terms::transpose(OpBuilder &b, Location loc, Value tensor, ArrayRef<int64_t> order) {
  MLIRContext *context = b.getContext();
  auto type = cast<RankedTensorType>(tensor.getType());
  Dims dims = sizes.get(tensor);
  SmallVector<int64_t> shape;
  SmallVector<Value> dynamic;
  SmallVector<AffineExpr> from(order.size());
  for (auto [i, axis] : llvm::enumerate(order)) {
    shape.push_back(type.getDimSize(axis));
    if (type.isDynamicDim(axis))
      dynamic.push_back(sizes.materialize(b, loc, dims[axis]));
    from[axis] = getAffineDimExpr(i, context);
  }
  Value empty = tensor::EmptyOp::create(b, loc, shape, type.getElementType(), dynamic);
  SmallVector<AffineMap> maps{AffineMap::get(order.size(), 0, from, context),
                              AffineMap::getMultiDimIdentityMap(order.size(), context)};
  SmallVector<utils::IteratorType> loops(order.size(), utils::IteratorType::parallel);
  return linalg::GenericOp::create(
             b, loc, empty.getType(), tensor, empty, maps, loops,
             [](OpBuilder &inner, Location at, ValueRange values) { linalg::YieldOp::create(inner, at, values[0]); })
      .getResult(0);
}

Value Terms::findPermuted(TermRef term, ArrayRef<AffineExpr> dims, Operation *before) {
  for (auto &[tensor, index] : term->aliases) {
    SmallVector<int64_t> order;
    for (AffineExpr dim : dims)
      if (auto at = llvm::find(index, dim); at != index.end())
        order.push_back(at - index.begin());
    if (order.size() != dims.size() || index.size() != dims.size() || !isBefore(tensor, before))
      continue;
    Dims shape = sizes.get(tensor);
    if (!llvm::all_of(llvm::enumerate(order), [&](auto entry) {
          return positions.simplify(shape[entry.value()] - positions.extentOf(dims[entry.index()])) == 0;
        }))
      continue;
    OpBuilder b(before);
    return transpose(b, before->getLoc(), tensor, order);
  }
  return {};
}

Value Terms::reshape(TermRef term, ArrayRef<AffineExpr> dims, Operation *before) {
  if (!term->isElement() || !isBefore(term->value, before))
    return {};
  MLIRContext *context = before->getContext();
  AffineExpr zero = getAffineConstantExpr(0, context), one = getAffineConstantExpr(1, context);
  Dims shape = sizes.get(term->value);
  SmallVector<AffineExpr> order;
  SmallVector<ReassociationIndices> groups;
  for (auto [expr, size] : llvm::zip_equal(term->index, shape)) {
    // Dims of this axis, the one with the largest steps first.
    SmallVector<std::pair<AffineExpr, int64_t>> steps;
    for (AffineExpr dim : dims) {
      if (!expr.isFunctionOfDim(cast<AffineDimExpr>(dim).getPosition()))
        continue;
      AffineExpr step = positions.simplify(expr.replace(dim, one) - expr.replace(dim, zero));
      auto constant = dyn_cast<AffineConstantExpr>(step);
      steps.emplace_back(dim, constant ? constant.getValue() : INT64_MAX);
    }
    llvm::stable_sort(steps, [](auto &lhs, auto &rhs) { return lhs.second > rhs.second; });
    AffineExpr linear = zero, count = one;
    ReassociationIndices &group = groups.emplace_back();
    for (auto &[dim, step] : steps) {
      linear = linear * positions.extentOf(dim) + dim;
      count = count * positions.extentOf(dim);
      group.push_back(order.size());
      order.push_back(dim);
    }
    if (steps.empty() || positions.simplify(linear - expr) != zero || positions.simplify(count - size) != zero)
      return {};
  }
  if (order.size() != dims.size())
    return {};
  OpBuilder b(before);
  Location loc = before->getLoc();
  SmallVector<OpFoldResult> result;
  SmallVector<int64_t> types;
  for (AffineExpr dim : order) {
    AffineExpr extent = positions.extentOf(dim);
    auto constant = dyn_cast<AffineConstantExpr>(extent);
    types.push_back(constant ? constant.getValue() : ShapedType::kDynamic);
    result.push_back(constant ? OpFoldResult(b.getIndexAttr(constant.getValue()))
                              : OpFoldResult(sizes.materialize(b, loc, extent)));
  }
  Value tensor = term->value;
  if (order.size() != shape.size())
    tensor = tensor::ExpandShapeOp::create(b, loc, RankedTensorType::get(types, term->type), tensor, groups, result);
  SmallVector<int64_t> permutation;
  for (AffineExpr dim : dims)
    permutation.push_back(llvm::find(order, dim) - order.begin());
  return llvm::is_sorted(permutation) ? tensor : transpose(b, loc, tensor, permutation);
}

/// Leaves that a loop over `dims` can read; an element that it cannot read as it is becomes its formula.
bool Terms::collectLeaves(TermRef term, ArrayRef<AffineExpr> dims, Operation *before, SmallVectorImpl<Leaf> &leaves,
                          DenseMap<TermRef, TermRef> &chosen) {
  if (chosen.contains(term))
    return true;
  chosen[term] = term;
  if (term->isElement()) {
    for (auto &[tensor, index] : term->aliases) {
      bool readable = llvm::all_of(llvm::zip_equal(index, sizes.get(tensor)), [&](auto entry) {
        auto [at, size] = entry;
        if (at == 0)
          return size == 1;
        return llvm::is_contained(dims, at) && positions.simplify(size - positions.extentOf(at)) == 0;
      });
      if (readable && isBefore(tensor, before)) {
        leaves.push_back({term, tensor, index});
        return true;
      }
    }
    TermRef formula = expand(term);
    chosen[term] = formula;
    return formula != term && collectLeaves(formula, dims, before, leaves, chosen);
  }
  if (term->kind == Term::Reduce)
    return false;
  if (term->kind == Term::Position)
    return !term->position
                .walk([&](AffineExpr expr) {
                  bool isForeign = isa<AffineDimExpr>(expr) && !llvm::is_contained(dims, expr);
                  return isForeign ? WalkResult::interrupt() : WalkResult::advance();
                })
                .wasInterrupted();
  return llvm::all_of(term->operands,
                      [&](TermRef operand) { return collectLeaves(operand, dims, before, leaves, chosen); });
}

Value Terms::materialize(TermRef term, ArrayRef<AffineExpr> dims, Operation *before, Type elementType) {
  if (!elementType)
    elementType = term->type;
  if (term->type == elementType)
    for (auto find : {&Terms::findTensor, &Terms::reshape, &Terms::findPermuted})
      if (Value found = (this->*find)(term, dims, before))
        return found;
  SmallVector<Leaf> leaves;
  DenseMap<TermRef, TermRef> chosen;
  if (!collectLeaves(term, dims, before, leaves, chosen))
    return {};
  MLIRContext *context = before->getContext();
  OpBuilder b(before);
  Location loc = before->getLoc();
  SmallVector<int64_t> shape;
  SmallVector<Value> dynamic, inputs;
  for (AffineExpr dim : dims) {
    AffineExpr extent = positions.extentOf(dim);
    auto constant = dyn_cast<AffineConstantExpr>(extent);
    shape.push_back(constant ? constant.getValue() : ShapedType::kDynamic);
    if (!constant)
      dynamic.push_back(sizes.materialize(b, loc, extent));
  }
  SmallVector<AffineMap> maps;
  for (const Leaf &leaf : leaves) {
    SmallVector<AffineExpr> at;
    for (AffineExpr expr : leaf.index)
      at.push_back(expr == 0 ? expr : getAffineDimExpr(llvm::find(dims, expr) - dims.begin(), context));
    maps.push_back(AffineMap::get(dims.size(), 0, at, context));
    inputs.push_back(leaf.tensor);
  }
  maps.push_back(AffineMap::getMultiDimIdentityMap(dims.size(), context));
  Value empty = tensor::EmptyOp::create(b, loc, shape, elementType, dynamic);
  SmallVector<utils::IteratorType> loops(dims.size(), utils::IteratorType::parallel);
  auto body = [&](OpBuilder &inner, Location at, ValueRange arguments) {
    DenseMap<TermRef, Value> made;
    for (auto [leaf, argument] : llvm::zip(leaves, arguments))
      made[leaf.term] = argument;
    std::function<Value(TermRef, Type)> emit = [&](TermRef given, Type type) -> Value {
      TermRef wanted = chosen.lookup(given) ? chosen.lookup(given) : given;
      Value &value = made[wanted];
      if (!value) {
        Value result;
        if (wanted->kind == Term::Constant) {
          result = arith::ConstantOp::create(inner, at, wanted->constant);
        } else if (wanted->kind == Term::Scalar) {
          result = wanted->value;
        } else if (wanted->kind == Term::Position) {
          SmallVector<AffineExpr> replacements;
          SmallVector<Value> loopIndices;
          for (auto [i, dim] : llvm::enumerate(dims)) {
            unsigned number = cast<AffineDimExpr>(dim).getPosition();
            while (replacements.size() <= number)
              replacements.push_back(getAffineConstantExpr(0, context));
            replacements[number] = getAffineDimExpr(i, context);
            loopIndices.push_back(linalg::IndexOp::create(inner, at, i));
          }
          SmallVector<Value> symbols = sizes.materializeSymbols(b, loc);
          result = expandExpr(inner, at, wanted->position.replaceDims(replacements), loopIndices, symbols);
        } else {
          SmallVector<Value> operands;
          for (auto [operand, prototype] : llvm::zip_equal(wanted->operands, wanted->op->getOperands()))
            operands.push_back(emit(operand, prototype.getType()));
          Operation *clone = inner.clone(*wanted->op);
          clone->setOperands(operands);
          clone->setLoc(at);
          result = clone->getResult(0);
        }
        made[wanted] = result;
        return emit(given, type);
      }
      if (value.getType() == type)
        return value;
      if (isa<FloatType>(type))
        return type.getIntOrFloatBitWidth() > value.getType().getIntOrFloatBitWidth()
                   ? Value(arith::ExtFOp::create(inner, at, type, value))
                   : Value(arith::TruncFOp::create(inner, at, type, value));
      return arith::IndexCastOp::create(inner, at, type, value);
    };
    linalg::YieldOp::create(inner, at, emit(term, elementType));
  };
  return linalg::GenericOp::create(b, loc, empty.getType(), inputs, empty, maps, loops, body).getResult(0);
}

} // namespace mlir::dsc
