//===- GenerateKernels.cpp - write kernels as loops over vectors ----------===//
//
// Replaces every kernel function on tensors by one on buffers. The body of the
// old one says what to compute, its schedule how.
//
//===----------------------------------------------------------------------===//

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/Linalg/IR/Linalg.h"
#include "mlir/Dialect/Math/IR/Math.h"
#include "mlir/Dialect/MemRef/IR/MemRef.h"
#include "mlir/Dialect/SCF/IR/SCF.h"
#include "mlir/Dialect/Tensor/IR/Tensor.h"
#include "mlir/Dialect/Vector/IR/VectorOps.h"
#include "passes/Passes.h"
#include "passes/codegen/KernelPlan.h"
#include "passes/codegen/Kernels.h"

namespace mlir::dsc {
#define GEN_PASS_DEF_GENERATEKERNELSPASS
#include "passes/Passes.h.inc"

namespace {

/// Loops over the results of a kernel that has no main operation.
void emitMap(KernelBuilder &kernel, Region &region, VariantAttr variant) {
  Value output = kernel.outputs[0].first;
  Dims sizes = kernel.dims.get(output);
  int64_t lanes = kernel.kernelLanes(region);
  ArrayRef<int64_t> block = variant.getWorkgroup();
  if (sizes.empty()) {
    kernel.storeOutputs({});
    return;
  }
  auto range = [&](Value number, int64_t size, Value limit) {
    Value begin = kernel.mul(number, kernel.constantIndex(size));
    return std::pair(begin, kernel.min(kernel.add(begin, kernel.constantIndex(size)), limit));
  };
  if (isFlatMap(region)) {
    auto flatten = [&](Value &memref) {
      auto type = cast<MemRefType>(memref.getType());
      if (type.getRank() < 2)
        return;
      SmallVector<ReassociationIndices> all(1);
      for (int64_t i = 0; i < type.getRank(); ++i)
        all[0].push_back(i);
      memref = memref::CollapseShapeOp::create(kernel, memref, all);
    };
    for (auto &entry : kernel.buffers)
      flatten(entry.second);
    for (auto &entry : kernel.outputs)
      flatten(entry.second);
    Value count = kernel.materialize(elementCount(sizes, kernel.getContext()));
    auto [begin, end] = range(kernel.workgroup, block.back(), count);
    kernel.vectorLoop(begin, end, lanes, [&](Value i) { kernel.storeOutputs({Index::lanes(i)}); });
    return;
  }
  Value columns = kernel.size(output, sizes.size() - 1);
  Value columnBlocks = kernel.floorDiv(kernel.add(columns, kernel.constantIndex(block[1] - 1)), block[1]);
  Value rowBlock = kernel.createOrFold<arith::DivUIOp>(kernel.workgroup, columnBlocks);
  Value columnBlock = kernel.createOrFold<arith::RemUIOp>(kernel.workgroup, columnBlocks);
  auto [columnBegin, columnEnd] = range(columnBlock, block[1], columns);
  Value outer = kernel.workgroup;
  kernel.workgroup = rowBlock;
  forRows(kernel, ArrayRef(sizes).drop_back(), block[0],
          [&, begin = columnBegin, end = columnEnd](ArrayRef<Value> row) {
            kernel.vectorLoop(begin, end, lanes, [&](Value j) {
              SmallVector<Index> at;
              for (Value i : row)
                at.push_back(Index::uniform(i));
              at.push_back(Index::lanes(j));
              kernel.storeOutputs(at);
            });
          });
  kernel.workgroup = outer;
}

LogicalResult generateKernel(func::FuncOp kernel, DimsAnalysis &dims, TargetAttr target) {
  auto variant = kernel->getAttrOfType<VariantAttr>(kScheduleAttr);
  if (!variant)
    return kernel.emitOpError("needs a schedule of one variant");

  OpBuilder b(kernel);
  auto tied = kernel->getAttrOfType<DenseI64ArrayAttr>(kTiedAttr);
  SmallVector<Type> types;
  for (Type type : kernel.getArgumentTypes())
    types.push_back(bufferType(type));
  for (auto [i, type] : llvm::enumerate(kernel.getResultTypes()))
    if (!tied || tied[i] < 0)
      types.push_back(bufferType(type));
  unsigned bufferCount = types.size();
  types.push_back(b.getIndexType());
  auto lowered = func::FuncOp::create(b, kernel.getLoc(), kernel.getName(), b.getFunctionType(types, {}));
  lowered.setPrivate();
  lowered->setAttr(kKernelAttr, b.getUnitAttr());
  lowered->setAttr(kScheduleAttr, variant);
  Block *entry = lowered.addEntryBlock();
  b.setInsertionPointToStart(entry);

  KernelBuilder builder(kernel.getLoc(), b, dims, target.getVectorBytes());
  builder.workgroup = entry->getArgument(bufferCount);
  for (auto [i, argument] : llvm::enumerate(kernel.getArguments())) {
    builder.buffers[argument] = entry->getArgument(i);
    lowered.setArgAttr(i, kDimsAttr, dims.getAttr(argument));
  }
  unsigned next = kernel.getNumArguments();
  for (auto [i, value] : llvm::enumerate(kernel.front().getTerminator()->getOperands())) {
    if (tied && tied[i] >= 0) {
      builder.outputs.push_back({value, entry->getArgument(tied[i])});
      continue;
    }
    lowered.setArgAttr(next, kDimsAttr, dims.getAttr(value));
    builder.outputs.push_back({value, entry->getArgument(next++)});
  }
  if (KernelOpInterface main = findMainOp(kernel.getBody())) {
    if (failed(main.emitKernel(builder, variant)))
      return failure();
  } else {
    emitMap(builder, kernel.getBody(), variant);
  }
  func::ReturnOp::create(builder);
  kernel.erase();
  return success();
}

struct GenerateKernelsPass : impl::GenerateKernelsPassBase<GenerateKernelsPass> {
  void getDependentDialects(DialectRegistry &registry) const override {
    registry.insert<DscDialect, arith::ArithDialect, math::MathDialect, memref::MemRefDialect, scf::SCFDialect,
                    vector::VectorDialect>();
  }
  void runOnOperation() override {
    ModuleOp module = getOperation();
    auto target = module->getAttrOfType<TargetAttr>(kTargetAttr);
    if (!target) {
      module.emitError("has no target: run --dsc-set-target first");
      return signalPassFailure();
    }
    SmallVector<func::FuncOp> kernels;
    for (auto function : module.getOps<func::FuncOp>())
      if (function->hasAttr(kKernelAttr) &&
          !isa<MemRefType>(function.getFunctionType().getInputs().empty() ? Type(IndexType::get(&getContext()))
                                                                          : function.getFunctionType().getInput(0)))
        kernels.push_back(function);
    for (func::FuncOp kernel : kernels) {
      DimsAnalysis dims(module);
      if (failed(generateKernel(kernel, dims, target)))
        return signalPassFailure();
    }
  }
};

} // namespace
} // namespace mlir::dsc
