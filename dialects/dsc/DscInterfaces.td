#ifndef DSC_INTERFACES_TD
#define DSC_INTERFACES_TD

include "mlir/IR/OpBase.td"

def DimsOpInterface : OpInterface<"DimsOpInterface"> {
  let cppNamespace = "::mlir::dsc";
  let description = [{
    Result shapes as expressions in the operands' shapes. One statement serves
    the verifier, shape reification and the symbolic dimension analysis.
  }];
  let methods = [InterfaceMethod<[{
      Given the dimensions of every operand (empty for a scalar), appends the
      dimensions of every result. Only called on verified operand ranks.
    }],
    "void", "inferResultDims",
    (ins "::llvm::ArrayRef<::mlir::dsc::Dims>":$operandDims,
         "::llvm::SmallVectorImpl<::mlir::dsc::Dims> &":$resultDims)>];
}

def PrecisionOpInterface : OpInterface<"PrecisionOpInterface"> {
  let cppNamespace = "::mlir::dsc";
  let description = "What precisions an operation may compute in, and the decision written on it.";
  let methods = [
    InterfaceMethod<"The decision, or null while there is none.",
      "::mlir::dsc::PrecisionAttr", "getPrecisionDecision", (ins), "", [{
        return $_op.getPrecisionAttr();
      }]>,
    InterfaceMethod<"Writes the decision; types stay as they are.",
      "void", "setPrecisionDecision", (ins "::mlir::dsc::PrecisionAttr":$precision), "", [{
        $_op.setPrecisionAttr(precision);
      }]>,
    InterfaceMethod<"Type in which partial sums are kept when operands have the given element type.",
      "::mlir::Type", "getAccumulatorType", (ins "::mlir::Type":$elementType), "", [{
        return ::mlir::dsc::defaultAccumulatorType(elementType);
      }]>,
    InterfaceMethod<"Whether the operation is defined with operands of this element type.",
      "bool", "isLegalElementType", (ins "::mlir::Type":$elementType), "", [{
        return ::llvm::isa<::mlir::FloatType>(elementType);
      }]>,
    InterfaceMethod<[{
      The operand that lies in memory between calls, a weight or a cache, and
      whose storage a decision may name; null if there is none.
    }],
      "::mlir::OpOperand *", "getStoredOperand", (ins), "", [{ return nullptr; }]>,
    InterfaceMethod<"Whether the stored operand may be of a narrower type than the operation computes in.",
      "bool", "widensStoredOperand", (ins), "", [{ return false; }]>,
    InterfaceMethod<[{
      Error of one element of the result, against real arithmetic, when values
      are rounded to the given types: `lhs` the first operand, `rhs` the other
      factor or the stored operand, `acc` sums, `result` the result. Bounded as
      in Higham 2002, "Accuracy and Stability of Numerical Algorithms", chapter
      3; unknown by default.
    }],
      "::mlir::dsc::RoundingError", "getRoundingError",
      (ins "::llvm::ArrayRef<::mlir::dsc::Bounds>":$operands, "const ::mlir::dsc::RoundingTypes &":$types), "", [{
        return ::mlir::dsc::RoundingError();
      }]>];
}

def RangeOpInterface : OpInterface<"RangeOpInterface"> {
  let cppNamespace = "::mlir::dsc";
  let description = [{
    Which values results can have: intervals that hold every computed element,
    and bounds of the Euclidean norm of rows. Holds for scalars and tensors
    without NaN; an operation without the interface may give any value.
  }];
  let methods = [InterfaceMethod<[{
      The bounds of every result, from those of every operand. Includes the
      rounding of the operation's own evaluation, in any order of its sums.
    }],
    "::llvm::SmallVector<::mlir::dsc::Bounds>", "inferRanges",
    (ins "::llvm::ArrayRef<::mlir::dsc::Bounds>":$operands)>,
    InterfaceMethod<[{
      The same where bounds of all values before this one are at hand: of a
      cache, what was appended to it says more than its elements together.
    }],
    "::llvm::SmallVector<::mlir::dsc::Bounds>", "inferRangesFrom",
    (ins "::llvm::ArrayRef<::mlir::dsc::Bounds>":$operands,
         "::llvm::function_ref<::mlir::dsc::Bounds(::mlir::Value)>":$boundsOf), "", [{
      return ::llvm::cast<::mlir::dsc::RangeOpInterface>($_op.getOperation()).inferRanges(operands);
    }]>];
}

def CostOpInterface : OpInterface<"CostOpInterface"> {
  let cppNamespace = "::mlir::dsc";
  let description = "Work of an operation as expressions in its dimensions.";
  let methods = [
    InterfaceMethod<[{
      Arithmetic operations (a fused multiply-add counts two) for operands and
      results of the given dimensions.
    }],
    "::mlir::AffineExpr", "getOperationCount",
    (ins "::llvm::ArrayRef<::mlir::dsc::Dims>":$operandDims,
         "::llvm::ArrayRef<::mlir::dsc::Dims>":$resultDims)>,
    InterfaceMethod<[{
      How many elements of every operand are read, then how many of every result
      are written. A cache counts as full: whoever knows how much of it is in use
      evaluates the expression there.
    }],
    "::llvm::SmallVector<::mlir::AffineExpr>", "getElementCounts",
    (ins "::llvm::ArrayRef<::mlir::dsc::Dims>":$operandDims,
         "::llvm::ArrayRef<::mlir::dsc::Dims>":$resultDims), "", [{
      return ::mlir::dsc::elementCounts(operandDims, resultDims, $_op->getContext());
    }]>];
}

#endif
