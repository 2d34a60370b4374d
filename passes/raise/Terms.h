//===- Terms.h - what one element of a tensor is computed from ------------===//
//
// An element of a tensor, at a position over some dims, as a tree of scalar
// operations. Slices, reshapes, transposes, broadcasts and joints are index
// arithmetic and leave no trace, so one pattern holds for every layout. Trees
// grow when they are asked to: `element` stops at whatever computes, `expand`
// goes one step into it.
//
//===----------------------------------------------------------------------===//
#pragma once
#include "mlir/Dialect/Linalg/IR/Linalg.h"
#include "mlir/Dialect/Tensor/IR/Tensor.h"
#include "passes/raise/Positions.h"

namespace mlir::dsc {

struct Term {
  enum Kind {
    Element,  // value[index..]
    Constant, // constant
    Position, // an integer that is an expression in dims and symbols
    Scalar,   // an SSA value of no tensor
    Apply,    // op(operands..)
    Reduce,   // op over `position`, from operands[0], of operands[1]
  } kind;
  Type type;
  Value value;
  Dims index;
  AffineExpr position;
  TypedAttr constant;
  Operation *op = nullptr;
  SmallVector<const Term *, 3> operands;
  /// Tensors that hold this element, and where.
  mutable SmallVector<std::pair<Value, Dims>, 4> aliases;

  bool isElement() const { return kind == Element; }
};
using TermRef = const Term *;

class Terms {
public:
  Terms(ModuleOp module, DimsAnalysis &sizes) : positions(module.getContext()), sizes(sizes) {}

  Positions positions;
  DimsAnalysis &sizes;

  /// New dims that run over a tensor.
  Dims dimsOf(Value tensor);
  TermRef element(Value tensor, ArrayRef<AffineExpr> index);
  /// What an element is computed from; the term itself if that is not a formula.
  TermRef expand(TermRef term);
  /// The operands of a scalar operation; nothing if the term is another one.
  template <typename Op> ArrayRef<TermRef> match(TermRef term) {
    TermRef found = expand(term);
    return found->kind == Term::Apply && isa<Op>(found->op) ? ArrayRef(found->operands) : ArrayRef<TermRef>();
  }
  /// Without conversions between float types.
  TermRef withoutCasts(TermRef term);
  /// Whether two terms are the same formula, conversions between float types aside.
  bool same(TermRef lhs, TermRef rhs, unsigned depth = 10);
  std::optional<double> floatConstant(TermRef term);
  TermRef substitute(TermRef term, AffineExpr dim, AffineExpr by);
  bool dependsOn(TermRef term, AffineExpr dim);

  /// A tensor over `dims` of a term, made before `before` where there is none. Null if the term reads a tensor in a way
  /// that linalg.generic cannot.
  Value materialize(TermRef term, ArrayRef<AffineExpr> dims, Operation *before, Type elementType = {});
  /// A tensor that already holds it, a dim of size 1 standing for those that the term does not depend on.
  Value findAlias(TermRef term, ArrayRef<AffineExpr> dims, Operation *before, bool allowOnes = false);

  /// A transposed copy: dim i of the result is dim `order[i]` of the tensor.
  Value transpose(OpBuilder &b, Location loc, Value tensor, ArrayRef<int64_t> order);

private:
  TermRef unique(Term term);
  TermRef position(AffineExpr expr, Type type);
  TermRef constantOf(TypedAttr attribute);
  TermRef scalar(Value value);
  TermRef apply(Operation *op, ArrayRef<TermRef> operands);
  TermRef foldIntegers(Operation *op, ArrayRef<TermRef> operands);
  /// One step through a tensor operation that only moves elements; false if it does more.
  bool follow(Value &tensor, Dims &index);
  TermRef compute(TermRef element);
  TermRef computeGeneric(linalg::GenericOp op, unsigned result, ArrayRef<AffineExpr> index);
  TermRef computeConcat(tensor::ConcatOp op, ArrayRef<AffineExpr> index);
  Value findTensor(TermRef term, ArrayRef<AffineExpr> dims, Operation *before);
  /// A tensor with all dims of a term, in another order.
  Value findPermuted(TermRef term, ArrayRef<AffineExpr> dims, Operation *before);
  /// A tensor whose dims are products of `dims`, taken apart.
  Value reshape(TermRef term, ArrayRef<AffineExpr> dims, Operation *before);
  /// An element as a tensor that a loop can read.
  struct Leaf {
    TermRef term;
    Value tensor;
    Dims index;
  };
  bool collectLeaves(TermRef term, ArrayRef<AffineExpr> dims, Operation *before, SmallVectorImpl<Leaf> &leaves,
                     DenseMap<TermRef, TermRef> &chosen);

  std::map<std::vector<const void *>, std::unique_ptr<Term>> terms;
  DenseMap<TermRef, TermRef> expanded;
};

} // namespace mlir::dsc
