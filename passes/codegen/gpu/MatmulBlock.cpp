//===- MatmulBlock.cpp - what kernels of matrix products share on a GPU ---===//

#include "passes/codegen/gpu/MatmulBlock.h"
#include "passes/codegen/gpu/Wgmma.h"

#include "mlir/Dialect/Arith/IR/Arith.h"

namespace mlir::dsc {

bool multipliesCodes(const BlockFormat &format, int64_t depth) {
  assert(depth % 16 == 0 && "blocks are multiples of 32; TMA wants lines that are multiples of 16 bytes");
  return (format.codes == BlockCodes::E4M3 || format.codes == BlockCodes::E5M2) &&
         (format.block == depth || format.block % kCodeSlice == 0);
}

std::optional<CodeFactors> codeFactors(MatmulOp op) {
  CodeFactors found{op.getLhs().getDefiningOp<DequantizeOp>(), op.getRhs().getDefiningOp<DequantizeOp>(), {}, {}};
  if (!found.lhs || !found.rhs || !found.lhs.getScales() || !found.rhs.getScales())
    return std::nullopt;
  found.lhsFormat = *findBlockFormat(found.lhs.getFormat());
  found.rhsFormat = *findBlockFormat(found.rhs.getFormat());
  int64_t depth = cast<RankedTensorType>(op.getLhs().getType()).getShape().back();
  bool lines = op.getTransposeRhs() && !op.getTransposeLhs() && accumulatorOf(op).isF32();
  if (!lines || !multipliesCodes(found.lhsFormat, depth) || !multipliesCodes(found.rhsFormat, depth))
    return std::nullopt;
  return found;
}

FloatType matrixFactorType(MatmulOp op) {
  Type lhs = getElementTypeOrSelf(op.getLhs()), rhs = getElementTypeOrSelf(op.getRhs());
  if (!accumulatorOf(op).isF32() || op.getPackedColumns())
    return {};
  if (lhs.isF16() && rhs.isF16())
    return cast<FloatType>(lhs);
  if ((lhs.isBF16() && rhs.isBF16()) || mayRoundFactors(op.getPrecision()))
    return BFloat16Type::get(op.getContext());
  return {};
}

MatmulBlock::MatmulBlock(MatmulOp op, KernelBuilder &kernel, VariantAttr variant)
    : op(op), kernel(kernel), variant(variant), shape(matmulShape(op, kernel.dims)), type(matrixFactorType(op)),
      accType(accumulatorOf(op)) {
  auto index = [&](Value v) { return Int{&kernel, v}; };
  for (AffineExpr size : shape.rows)
    rowSizes.push_back(kernel.materialize(size));
  rows = index(kernel.materialize(elementCount(shape.rows, op.getContext())));
  columns = index(kernel.materialize(shape.columns));
  depth = index(kernel.materialize(shape.depth));
  thread = index(threadNumber(kernel)).asI32();
}

/// Blocks that run at the same time share operands: eight rows of blocks are walked column by column.
void MatmulBlock::locate(Int number) {
  constexpr int64_t kGroup = 8;
  ArrayRef<int64_t> size = variant.getWorkgroup();
  // Blocks of a cluster are neighbours: the last one may have no rows.
  int64_t cluster = variant.getCluster(), together = size[0] * cluster;
  Int rowBlocks = (rows + (together - 1)) / together * cluster, columnBlocks = (columns + (size[1] - 1)) / size[1];
  Int perBatch = rowBlocks * columnBlocks;
  batchNumber = constant(0);
  batch.clear();
  if (!shape.batch.empty()) {
    batchNumber = number / perBatch;
    number = number % perBatch;
    SmallVector<Value> sizes;
    for (AffineExpr extent : shape.batch)
      sizes.push_back(kernel.materialize(extent));
    for (Value i : kernel.delinearize(batchNumber, sizes))
      batch.push_back(Index::uniform(i));
  }
  Int perGroup = columnBlocks * kGroup, group = number / perGroup, first = group * kGroup, within = number % perGroup;
  Int high = min(rowBlocks - first, constant(kGroup));
  firstRow = (first + within % high) * size[0];
  firstColumn = (within / high) * size[1];
}

MatmulBlock::Factor MatmulBlock::factor(bool rhs) {
  Factor result{rhs ? op.getRhs() : op.getLhs(), false, {}, rhs ? firstColumn : firstRow, rhs ? columns : rows};
  Value buffer = kernel.buffers.lookup(result.tensor);
  std::optional<int64_t> length = staticDepth();
  bool along = rhs ? op.getTransposeRhs() : !op.getTransposeLhs();
  result.direct = buffer && along && length && *length % 8 == 0 && getElementTypeOrSelf(result.tensor) == type;
  if (!result.direct)
    return result;
  result.pointer = globalPointer(kernel, buffer);
  if (!batch.empty())
    result.pointer = behind(kernel, result.pointer, batchNumber * result.lines * depth * 2);
  return result;
}

SmallVector<Index> MatmulBlock::pullIndex(bool rhs, Int line, Index k) {
  SmallVector<Index> at(batch);
  if (!rhs) {
    llvm::append_range(at, llvm::map_range(kernel.delinearize(line, rowSizes), Index::uniform));
    at.push_back(k);
    if (op.getTransposeLhs())
      std::swap(at[at.size() - 1], at[at.size() - 2]);
    return at;
  }
  at.push_back(Index::uniform(line));
  at.push_back(k);
  if (!op.getTransposeRhs())
    std::swap(at[at.size() - 1], at[at.size() - 2]);
  return at;
}

Value MatmulBlock::pullChunk(bool rhs, Int line, Int k) {
  constexpr int64_t kLanes = 8;
  VectorType chunk = VectorType::get({kLanes}, type);
  Value tensor = rhs ? op.getRhs() : op.getLhs();
  Int lines = rhs ? columns : rows;
  Value none = arith::ConstantOp::create(kernel, kernel.getZeroAttr(chunk));
  Int inside = line < lines;
  std::optional<int64_t> length = staticDepth();
  if (length && *length % kLanes == 0) {
    Int both = inside.with(arith::AndIOp::create(kernel, inside, k < depth));
    return ifElse(kernel, both, none, [&] {
      kernel.width = kLanes;
      Value value = kernel.splat(kernel.pull(tensor, pullIndex(rhs, line, Index::lanes(k))));
      value = kernel.convert(value, type);
      kernel.width = 1;
      return value;
    });
  }
  SmallVector<Value> elements;
  Value zero = kernel.zero(type);
  for (int64_t i = 0; i < kLanes; ++i) {
    Int at = k + i;
    Int both = inside.with(arith::AndIOp::create(kernel, inside, at < depth));
    elements.push_back(ifElse(kernel, both, zero, [&] {
      return kernel.convert(kernel.pull(tensor, pullIndex(rhs, line, Index::uniform(at))), type);
    }));
  }
  return vector::FromElementsOp::create(kernel, chunk, elements);
}

SmallVector<Index> MatmulBlock::rowIndex(Int row) {
  SmallVector<Index> at(batch);
  llvm::append_range(at, llvm::map_range(kernel.delinearize(row, rowSizes), Index::uniform));
  return at;
}

void MatmulBlock::finish(ArrayRef<Index> at, Int column, Value sums) {
  Index lanes = Index::lanes(column);
  Value value = sums;
  if (op.getBias()) {
    Value bias = kernel.splat(kernel.convert(kernel.pull(op.getBias(), {lanes}), accType));
    value = isa<FloatType>(accType) ? Value(arith::AddFOp::create(kernel, value, bias))
                                    : Value(arith::AddIOp::create(kernel, value, bias));
  }
  kernel.current[op.getResult()] = kernel.convert(value, getElementTypeOrSelf(op.getResult()));
  SmallVector<Index> place(at);
  place.push_back(lanes);
  leave(place);
}

void MatmulBlock::finishPair(ArrayRef<Index> at, Int row, Int column, Value first, Value second) {
  auto count = dyn_cast<AffineConstantExpr>(shape.columns);
  auto exists = [&](Int column) -> Value { return arith::AndIOp::create(kernel, row < rows, column < columns); };
  if (count && count.getValue() % 2 == 0) {
    kernel.ifThen(exists(column), [&] {
      kernel.width = 2;
      finish(at, column, vector::FromElementsOp::create(kernel, kernel.vectorType(accType), ValueRange{first, second}));
      kernel.width = 1;
    });
    return;
  }
  const Value pair[] = {first, second};
  for (auto [i, value] : llvm::enumerate(pair)) {
    Int place = column + static_cast<int64_t>(i);
    kernel.ifThen(exists(place), [&, value = value] { finish(at, place, value); });
  }
}

LogicalResult emitGpuMatmul(MatmulOp op, KernelBuilder &kernel, VariantAttr variant) {
  kernel.team = Team(); // threads share more than rows here
  if (variant.getInstruction() == "mma")
    return emitMatmulMma(op, kernel, variant);
  if (variant.getInstruction() == "wgmma" || variant.getInstruction() == "wgmma8")
    return emitMatmulWgmma(op, kernel, variant);
  if (variant.getInstruction() != "fma")
    return op.emitOpError("has no instruction \"") << variant.getInstruction() << "\" on this GPU";
  return variant.getMaxRows() == 1 && op.getTransposeRhs() ? emitMatmulRow(op, kernel, variant)
                                                           : emitMatmulThreads(op, kernel, variant);
}

bool canUseWgmma(MatmulOp op) {
  FloatType factor = matrixFactorType(op);
  auto lhs = cast<RankedTensorType>(op.getLhs().getType());
  int64_t depth = lhs.getShape().back();
  return factor && lhs.getElementType() == factor && getElementTypeOrSelf(op.getRhs()) == factor &&
         op.getTransposeRhs() && !op.getTransposeLhs() && !ShapedType::isDynamic(depth) && depth % 8 == 0;
}

/// Columns of a block: as many as give the instruction its full rate, unless much of the last block is empty.
static int64_t wgmmaColumns(MatmulOp op) {
  int64_t columns = cast<RankedTensorType>(op.getResult().getType()).getShape().back(), best = 256;
  if (ShapedType::isDynamic(columns))
    return best;
  // Smaller tiles read more of the left side per product. By estimate: no GPU was at hand to measure it.
  constexpr std::pair<int64_t, double> choices[] = {{256, 1.0}, {192, 1.03}, {128, 1.12}, {64, 1.4}};
  double least = INFINITY;
  for (auto [size, cost] : choices)
    if (double total = cost * llvm::alignTo(columns, size); total < least) {
      least = total;
      best = size;
    }
  return best;
}

ScheduleAttr gpuMatmulSchedule(MatmulOp op, TargetAttr target, DimsAnalysis &dims) {
  MLIRContext *context = op.getContext();
  SmallVector<VariantAttr> variants;
  auto add = [&](int64_t maxRows, ArrayRef<int64_t> tile, ArrayRef<int64_t> workgroup, int64_t stages, int64_t depth,
                 StringRef instruction, ArrayRef<int64_t> threads, int64_t cluster = 1) {
    variants.push_back(VariantAttr::get(context, maxRows, tile, workgroup, stages, depth, /*stage=*/{}, instruction,
                                        threads, cluster));
  };
  // One row is bound by memory: two steps of four columns per warp keep about 32 KiB of a multiprocessor's reads in
  // flight, twice what memory of 3.35 TB/s needs at an assumed latency of 0.6 us (Little's law).
  if (op.getTransposeRhs())
    add(1, {1, 4}, {1, 32}, 2, 0, "fma", {8, kWarp});
  bool hopper = target.getCpu() == "sm_90a";
  if (hopper && codeFactors(op)) {
    // Sums of a slice and sums of all share the registers. Few rows are bound by memory all the same.
    add(64, {kGroupRows, 64}, {2 * kGroupRows, 64}, 8, kCodeSlice, "wgmma8", {3, kWarpgroup});
    add(0, {kGroupRows, 128}, {2 * kGroupRows, 128}, 6, kCodeSlice, "wgmma8", {3, kWarpgroup});
  } else if (matrixFactorType(op)) {
    constexpr int64_t kDepth = 64; // elements of a row of a swizzled tile
    add(16, {16, 16}, {16, 64}, 4, kDepth, "mma", {4, kWarp});
    add(64, {32, 32}, {64, 64}, 4, kDepth, "mma", {4, kWarp});
    if (hopper && canUseWgmma(op)) {
      int64_t columns = wgmmaColumns(op);
      int64_t stages = columns > 128 ? 4 : 6;
      // With more rows than a block's, two blocks share what they read of the right side.
      add(128, {64, columns}, {128, columns}, stages, kDepth, "wgmma", {3, 128});
      add(0, {64, columns}, {128, columns}, stages, kDepth, "wgmma", {3, 128}, /*cluster=*/2);
    } else {
      add(0, {64, 32}, {128, 128}, 3, kDepth, "mma", {8, kWarp});
    }
  } else {
    add(0, {4, 4}, {64, 64}, 1, 0, "fma", {8, kWarp});
  }
  // Of a known number of rows one variant is enough; the kernel of one row is told by its bound.
  auto known = dyn_cast<AffineConstantExpr>(elementCount(matmulShape(op, dims).rows, context));
  if (!known || known.getValue() <= 1)
    return ScheduleAttr::get(context, variants);
  const auto *chosen = llvm::find_if(variants, [&](VariantAttr variant) {
    return variant.getMaxRows() == 0 || known.getValue() <= variant.getMaxRows();
  });
  return ScheduleAttr::get(context,
                           VariantAttr::get(context, 0, chosen->getTile(), chosen->getWorkgroup(), chosen->getUnroll(),
                                            chosen->getDepth(), chosen->getStage(), chosen->getInstruction(),
                                            chosen->getThreads(), chosen->getCluster()));
}

} // namespace mlir::dsc
