//===- GenerateKernels.cpp - write kernels as loops over vectors ----------===//
//
// Replaces every kernel function on tensors by one on buffers. The body of the
// old one says what to compute, its schedule how.
//
//===----------------------------------------------------------------------===//

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/LLVMIR/LLVMDialect.h"
#include "mlir/Dialect/Linalg/IR/Linalg.h"
#include "mlir/Dialect/Math/IR/Math.h"
#include "mlir/Dialect/MemRef/IR/MemRef.h"
#include "mlir/Dialect/SCF/IR/SCF.h"
#include "mlir/Dialect/Tensor/IR/Tensor.h"
#include "mlir/Dialect/Vector/IR/VectorOps.h"
#include "passes/Passes.h"
#include "passes/codegen/KernelPlan.h"
#include "passes/codegen/Kernels.h"
#include "passes/codegen/gpu/Block.h"

namespace mlir::dsc {
#define GEN_PASS_DEF_GENERATEKERNELSPASS
#include "passes/Passes.h.inc"

SmallVector<Value> transposeSquare(KernelBuilder &kernel, SmallVector<Value> rows) {
  int64_t n = rows.size();
  SmallVector<int64_t> low, high;
  for (int64_t i = 0; i < n; ++i) {
    low.push_back(i / 2 + i % 2 * n);
    high.push_back(n / 2 + i / 2 + i % 2 * n);
  }
  for (int64_t round = 1; round < n; round *= 2) {
    SmallVector<Value> next;
    for (int64_t i = 0; i < n / 2; ++i)
      for (ArrayRef<int64_t> lanes : {ArrayRef<int64_t>(low), ArrayRef<int64_t>(high)})
        next.push_back(vector::ShuffleOp::create(kernel, rows[i], rows[i + n / 2], lanes));
    rows = std::move(next);
  }
  return rows;
}

namespace {

/// The part of [0, limit) that block `number` of `size` covers.
std::pair<Value, Value> blockRange(KernelBuilder &kernel, Value number, int64_t size, Value limit) {
  Value begin = kernel.mul(number, kernel.constantIndex(size));
  return {begin, kernel.min(kernel.add(begin, kernel.constantIndex(size)), limit)};
}

/// Loops over the result of a map whose operands are contiguous along `dim`, not along the last dimension: reads
/// vectors along `dim`, and writes their transposes.
void emitTransposedMap(KernelBuilder &kernel, Region &region, VariantAttr variant, int64_t dim) {
  auto [output, buffer] = kernel.outputs[0];
  Dims sizes = kernel.dims.get(output);
  int64_t last = sizes.size() - 1, lanes = kernel.kernelLanes(region);
  ArrayRef<int64_t> block = variant.getWorkgroup();

  // A workgroup is one index of the other dimensions, a block of `dim` and a block of the last.
  SmallVector<Value> counts;
  for (int64_t i = 0; i <= last; ++i) {
    Value size = kernel.size(output, i);
    int64_t step = i == dim ? block[0] : i == last ? block[1] : 1;
    counts.push_back(kernel.floorDiv(kernel.add(size, kernel.constantIndex(step - 1)), step));
  }
  SmallVector<Value> at = kernel.delinearize(kernel.workgroup, counts);
  auto [runBegin, runEnd] = blockRange(kernel, at[dim], block[0], kernel.size(output, dim));
  auto [begin, end] = blockRange(kernel, at[last], block[1], kernel.size(output, last));
  auto point = [&](Index run, Index column) {
    SmallVector<Index> index(llvm::map_range(at, Index::uniform));
    index[dim] = run;
    index[last] = column;
    return index;
  };

  auto tileType = MemRefType::get({lanes, lanes}, cast<MemRefType>(buffer.getType()).getElementType());
  Value tile = kernel.allocate(tileType);
  Value zero = kernel.constantIndex(0), square = kernel.constantIndex(lanes);
  Value whole = kernel.add(begin, kernel.mul(kernel.floorDiv(kernel.sub(end, begin), lanes), square));
  kernel.vectorLoop(runBegin, runEnd, lanes, [&](Value run) {
    kernel.forLoop(begin, whole, lanes, [&](Value column) {
      kernel.forLoop(zero, square, 1, [&](Value i) {
        Value value = kernel.pull(output, point(Index::lanes(run), Index::uniform(kernel.add(column, i))));
        kernel.store(value, tile, {Index::uniform(i), Index::lanes(zero)});
      });
      Value mask =
          std::exchange(kernel.mask, Value()); // all lanes of the rows loaded count, the last ones are not stored
      SmallVector<Value> rows;
      for (int64_t i = 0; i < lanes; ++i)
        rows.push_back(vector::LoadOp::create(kernel, kernel.vectorType(tileType.getElementType()), tile,
                                              ValueRange{kernel.constantIndex(i), zero}));
      for (auto [i, row] : llvm::enumerate(transposeSquare(kernel, rows))) {
        Value position = kernel.add(run, kernel.constantIndex(i));
        auto store = [&, row = row] {
          kernel.store(row, buffer, point(Index::uniform(position), Index::lanes(column)));
        };
        if (mask)
          kernel.ifThen(arith::CmpIOp::create(kernel, arith::CmpIPredicate::slt, position, runEnd), store);
        else
          store();
      }
      kernel.mask = mask;
    });
  });
  auto columns = dyn_cast<AffineConstantExpr>(sizes[last]);
  if (columns && columns.getValue() % lanes == 0 && block[1] % lanes == 0)
    return; // no column is left
  kernel.forLoop(runBegin, runEnd, 1, [&](Value run) {
    kernel.vectorLoop(whole, end, lanes,
                      [&](Value column) { kernel.storeOutputs(point(Index::uniform(run), Index::lanes(column))); });
  });
}

/// Loops over panels of words: reads runs of words from as many rows as a vector has lanes, and writes their
/// transposes.
void emitWordPack(KernelBuilder &kernel, linalg::PackOp pack, VariantAttr variant) {
  auto [output, buffer] = kernel.outputs[0];
  int64_t panel = pack.getStaticInnerTiles()[0], group = pack.getStaticInnerTiles()[1], lanes = kernel.vectorBytes / 4;
  int64_t rowDim = pack.getInnerDimsPos()[0], depthDim = pack.getInnerDimsPos()[1];
  auto source = cast<RankedTensorType>(pack.getSource().getType());
  int64_t block[] = {variant.getWorkgroup()[0], static_cast<int64_t>(llvm::alignTo(variant.getWorkgroup()[1], 16))};
  Value steps = kernel.size(output, 1), columns = kernel.constantIndex(panel);
  SmallVector<Value> counts{kernel.size(output, 0)};
  for (auto [size, step] : {std::pair(steps, block[0]), std::pair(columns, block[1])})
    counts.push_back(kernel.floorDiv(kernel.add(size, kernel.constantIndex(step - 1)), step));
  SmallVector<Value> at = kernel.delinearize(kernel.workgroup, counts);
  auto [runBegin, runEnd] = blockRange(kernel, at[1], block[0], steps);
  auto [begin, end] = blockRange(kernel, at[2], block[1], columns);
  Value zero = kernel.constantIndex(0), lastRow = kernel.constantIndex(source.getDimSize(rowDim) - 1);
  bool padded = source.getDimSize(rowDim) % panel != 0;

  VectorType rowType = VectorType::get({lanes * group}, source.getElementType());
  Value tile = kernel.allocate(MemRefType::get({lanes, lanes * group}, source.getElementType()));
  Value flat = memref::CollapseShapeOp::create(kernel, buffer, SmallVector<ReassociationIndices>{{0}, {1}, {2, 3}});
  kernel.vectorLoop(runBegin, runEnd, lanes, [&](Value run) {
    bool tail = static_cast<bool>(std::exchange(kernel.mask, Value()));
    Value first = kernel.mul(run, kernel.constantIndex(group)), left;
    if (tail)
      left = kernel.mul(kernel.sub(runEnd, run), kernel.constantIndex(group));
    kernel.forLoop(begin, end, lanes, [&](Value column) {
      kernel.forLoop(zero, kernel.constantIndex(lanes), 1, [&](Value i) {
        Value row = kernel.add(kernel.mul(at[0], columns), kernel.add(column, i));
        for (int64_t part = 0; part < group; ++part) {
          Value offset = kernel.constantIndex(part * lanes);
          SmallVector<Index> point(2);
          point[rowDim] = Index::uniform(padded ? kernel.min(row, lastRow) : row);
          point[depthDim] = Index::lanes(kernel.add(first, offset));
          if (tail)
            kernel.mask = vector::CreateMaskOp::create(kernel, kernel.vectorType(kernel.getI1Type()),
                                                       ValueRange{kernel.sub(left, offset)});
          Value value = kernel.splat(kernel.pull(pack.getSource(), point));
          kernel.mask = {};
          if (padded) {
            Value inside = arith::CmpIOp::create(kernel, arith::CmpIPredicate::sle, row, lastRow);
            value = arith::SelectOp::create(kernel, kernel.splat(inside), value,
                                            kernel.splat(kernel.scalar(pack.getPaddingValue())));
          }
          kernel.store(value, tile, {Index::uniform(i), Index::lanes(offset)});
        }
      });
      SmallVector<Value> rows;
      for (int64_t i = 0; i < lanes; ++i) {
        Value row = vector::LoadOp::create(kernel, rowType, tile, ValueRange{kernel.constantIndex(i), zero});
        rows.push_back(vector::BitCastOp::create(kernel, VectorType::get({lanes}, kernel.getI32Type()), row));
      }
      for (auto [i, words] : llvm::enumerate(transposeSquare(kernel, rows))) {
        Value position = kernel.add(run, kernel.constantIndex(i));
        auto store = [&, words = words] {
          Value row = vector::BitCastOp::create(kernel, rowType, words);
          Value element = kernel.mul(column, kernel.constantIndex(group));
          vector::StoreOp::create(kernel, row, flat, ValueRange{at[0], position, element});
        };
        if (tail)
          kernel.ifThen(arith::CmpIOp::create(kernel, arith::CmpIPredicate::slt, position, runEnd), store);
        else
          store();
      }
    });
  });
}

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
  if (llvm::is_contained(sizes, getAffineConstantExpr(0, kernel.getContext())))
    return; // no element, so no workgroup either
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
    auto [begin, end] = blockRange(kernel, kernel.workgroup, block.back(), count);
    kernel.vectorLoop(begin, end, lanes, [&](Value i) { kernel.storeOutputs({Index::lanes(i)}); });
    return;
  }
  bool shared = !variant.getThreads().empty();
  std::optional<int64_t> dim = shared ? std::nullopt : transposedDim(region);
  if (dim)
    return emitTransposedMap(kernel, region, variant, *dim);
  if (linalg::PackOp pack = shared ? linalg::PackOp() : wordPack(region))
    return emitWordPack(kernel, pack, variant);
  Value columns = kernel.size(output, sizes.size() - 1);
  lanes = kernel.lanesOver(columns, lanes);
  Value columnBlocks = kernel.floorDiv(kernel.add(columns, kernel.constantIndex(block[1] - 1)), block[1]);
  Value rowBlock = kernel.createOrFold<arith::DivUIOp>(kernel.workgroup, columnBlocks);
  Value columnBlock = kernel.createOrFold<arith::RemUIOp>(kernel.workgroup, columnBlocks);
  auto [columnBegin, columnEnd] = blockRange(kernel, columnBlock, block[1], columns);
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
  if (failed(verifyKernel(kernel, target, dims)))
    return failure();
  auto variant = kernel->getAttrOfType<VariantAttr>(kScheduleAttr);
  OpBuilder b(kernel);
  auto tied = kernel->getAttrOfType<DenseI64ArrayAttr>(kTiedAttr);
  SmallVector<Type> types;
  for (Type type : kernel.getArgumentTypes())
    types.push_back(bufferType(type));
  for (auto [i, type] : llvm::enumerate(kernel.getResultTypes()))
    if (!tied || tied[i] < 0)
      types.push_back(bufferType(type));
  PartialResults partial = partialResults(kernel.getBody(), variant, dims);
  if (partial.element)
    types.push_back(bufferType(partial));
  unsigned bufferCount = types.size();
  types.append(2, b.getIndexType());
  auto lowered = func::FuncOp::create(b, kernel.getLoc(), kernel.getName(), b.getFunctionType(types, {}));
  lowered.setPrivate();
  lowered->setAttr(kKernelAttr, b.getUnitAttr());
  lowered->setAttr(kScheduleAttr, variant);
  Block *entry = lowered.addEntryBlock();
  b.setInsertionPointToStart(entry);

  KernelBuilder builder(kernel.getLoc(), b, dims, target.getVectorBytes());
  builder.firstWorkgroup = entry->getArgument(bufferCount);
  builder.endWorkgroup = entry->getArgument(bufferCount + 1);
  builder.gpu = target.isGpu();
  builder.team = beginTeam(builder, variant.getThreads());
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
  if (partial.element) {
    builder.partial = entry->getArgument(next);
    lowered.setArgAttr(next, kDimsAttr, dims.getAttr(partial.sizes, bufferType(partial).getShape()));
  }
  bool merges = kernel->getAttrOfType<UnitAttr>(kMergeAttr) && partial.element;
  LogicalResult emitted = success();
  auto emitWorkgroup = [&](Value workgroup) {
    builder.workgroup = workgroup;
    if (KernelOpInterface main = findMainOp(kernel.getBody()))
      emitted = merges ? main.emitMerge(builder, variant) : main.emitKernel(builder, variant);
    else
      emitMap(builder, kernel.getBody(), variant);
  };
  if (builder.gpu) // a block runs one
    emitWorkgroup(builder.firstWorkgroup);
  else
    builder.forLoop(builder.firstWorkgroup, entry->getArgument(bufferCount + 1), 1, emitWorkgroup);
  if (failed(emitted))
    return failure();
  func::ReturnOp::create(builder);
  kernel.erase();
  return success();
}

struct GenerateKernelsPass : impl::GenerateKernelsPassBase<GenerateKernelsPass> {
  void getDependentDialects(DialectRegistry &registry) const override {
    registry.insert<DscDialect, arith::ArithDialect, LLVM::LLVMDialect, math::MathDialect, memref::MemRefDialect,
                    scf::SCFDialect, vector::VectorDialect>();
    insertGpuDialects(registry);
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
    if (DimsAnalysis dims(module); failed(verifySizes(module, dims)))
      return signalPassFailure();
    for (func::FuncOp kernel : kernels) {
      DimsAnalysis dims(module);
      if (failed(generateKernel(kernel, dims, target)))
        return signalPassFailure();
    }
  }
};

} // namespace
} // namespace mlir::dsc
