#ifndef DSC_KERNEL_INTERFACES_TD
#define DSC_KERNEL_INTERFACES_TD

include "mlir/IR/OpBase.td"

def KernelOpInterface : OpInterface<"KernelOpInterface"> {
  let cppNamespace = "::mlir::dsc";
  let description = [{
    How an operation takes part in a kernel. A kernel has at most one main
    operation, which writes a loop nest and hands out its result vector by
    vector; every other operation can give its value at any index ("pull").
    A kernel without a main operation loops over its results.

    Implementations are external models in passes/codegen.
  }];
  let methods = [
    InterfaceMethod<"Whether the operation writes its own loop nest.",
      "bool", "isMain", (ins), "", "return false;">,
    InterfaceMethod<[{
        Whether the value at an index depends on the operands at the same index
        only, so that any shape can be walked as one row.
      }], "bool", "isPointwise", (ins), "", "return false;">,
    InterfaceMethod<"Whether the operation is copied into every dispatch that uses it.",
      "bool", "isInline", (ins), "", "return false;">,
    InterfaceMethod<"Whether a result is available at the index that the loop nest is at.",
      "bool", "hasResultAtIndex", (ins), "", "return true;">,
    InterfaceMethod<[{
        Whether operand `operand` is read at exactly the index of the result
        that is being computed.
      }], "bool", "readsAtIndex", (ins "unsigned":$operand), "", "return false;">,
    InterfaceMethod<"Whether no element of operand `operand` is read twice.",
      "bool", "readsOnce", (ins "unsigned":$operand), "", [{
        return ::llvm::cast<::mlir::dsc::KernelOpInterface>($_op.getOperation()).readsAtIndex(operand);
      }]>,
    InterfaceMethod<[{
        Dimension of result `result` along which the operands lie contiguously in
        memory: vectors are read along it, and transposed if it is not the last.
      }], "int64_t", "getContiguousDim", (ins "unsigned":$result), "", [{
        return ::llvm::cast<::mlir::ShapedType>($_op->getResult(result).getType()).getRank() - 1;
      }]>,
    InterfaceMethod<"The operand that result `result` updates in place, or -1.",
      "int64_t", "getTiedOperand", (ins "unsigned":$result), "", "return -1;">,
    InterfaceMethod<[{
        Value of result `result` at `index`: a scalar when every index is
        uniform, else a vector of the builder's width.
      }], "::mlir::Value", "pull",
      (ins "::mlir::dsc::KernelBuilder &":$kernel, "unsigned":$result,
           "::llvm::ArrayRef<::mlir::dsc::Index>":$index), "", [{
        llvm_unreachable("a main operation gives its value only at its own index");
      }]>,
    InterfaceMethod<[{
        Whether a schedule may stage operand `operand`: a workgroup computes what
        it needs of it into memory near the thread, before anything else.
      }], "bool", "canStage", (ins "unsigned":$operand), "", "return false;">,
    InterfaceMethod<[{
        For a result in panels [n / t, k, t]: how many elements along k share a
        scale and an offset, so that a product may apply them to a sum. 0: none do.
      }], "int64_t", "getRunLength", (ins "unsigned":$result), "", "return 0;">,
    InterfaceMethod<"What the codes of such runs stand for where they are integers.",
      "std::optional<::mlir::dsc::RunCodes>", "getRunCodes", (ins "unsigned":$result), "", "return std::nullopt;">,
    InterfaceMethod<"How many of them share words, and so are read together; their number divides a row's.",
      "int64_t", "getRunsTogether", (ins "unsigned":$result), "", "return 1;">,
    InterfaceMethod<[{
        Runs `run` and those read together with it, which follow, of a vector's worth of
        columns, from column `lane` of panel `panel` on. Each says which it is: they come
        in an order in which neighbours share most words.
      }], "::llvm::SmallVector<::mlir::dsc::ScaledRun>", "pullRuns",
      (ins "::mlir::dsc::KernelBuilder &":$kernel, "unsigned":$result, "::mlir::Value":$panel,
           "::mlir::Value":$run, "::mlir::Value":$lane), "", [{
        llvm_unreachable("gives no runs");
      }]>,
    InterfaceMethod<"Default schedule on a target.",
      "::mlir::dsc::ScheduleAttr", "getDefaultSchedule",
      (ins "::mlir::dsc::TargetAttr":$target, "::mlir::dsc::DimsAnalysis &":$dims), "", "return {};">,
    InterfaceMethod<"Number of rows, which variants are chosen by.",
      "::mlir::AffineExpr", "getRows", (ins "::mlir::dsc::DimsAnalysis &":$dims), "", "return {};">,
    InterfaceMethod<"Number of workgroups under `variant`.",
      "::mlir::AffineExpr", "getWorkgroups",
      (ins "::mlir::dsc::VariantAttr":$variant, "::mlir::dsc::DimsAnalysis &":$dims), "", "return {};">,
    InterfaceMethod<"What workgroups leave to a second launch, in memory between the two.",
      "::mlir::dsc::PartialResults", "getPartialResults",
      (ins "::mlir::dsc::VariantAttr":$variant, "::mlir::dsc::DimsAnalysis &":$dims), "", "return {};">,
    InterfaceMethod<"Writes the loop nest of one workgroup of the second launch.",
      "::llvm::LogicalResult", "emitMerge",
      (ins "::mlir::dsc::KernelBuilder &":$kernel, "::mlir::dsc::VariantAttr":$variant), "", [{
        llvm_unreachable("nothing to merge: the operation leaves no partial results");
      }]>,
    InterfaceMethod<"Writes the loop nest of one workgroup.",
      "::llvm::LogicalResult", "emitKernel",
      (ins "::mlir::dsc::KernelBuilder &":$kernel, "::mlir::dsc::VariantAttr":$variant), "", [{
        return $_op->emitOpError("has no loop nest of its own");
      }]>];
}

#endif
