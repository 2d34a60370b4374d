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
