//===- MatmulKernel.cpp - schedules of matrix products --------------------===//

#include "passes/codegen/MatmulEmitter.h"
#include "passes/codegen/ScaledIntegers.h"
#include "passes/codegen/gpu/MatmulBlock.h"

namespace mlir::dsc {
namespace {

constexpr int64_t kTilesPerWorkgroup = 12;    // of rows at most: they share the work of fetching the next panel
constexpr int64_t kRowsPerWorkgroup = 288;    // rows, where nobody stages them, or the panel is decoded for them
constexpr int64_t kPanelBytes = 64 << 10;     // of the right side that all rows of a workgroup read in turn
constexpr int64_t kMaxStageBytes = 2 << 20;   // it lies on the stack
constexpr int64_t kTilePanelBytes = 16 << 10; // as kPanelBytes, where machine tiles read the stage at its pace

/// Rows of a register tile. Its sums, `columns` vectors that a step multiplies, one for the row's scalar and one to
/// spare fill the registers, with one more for a product that another instruction adds (measured best: 6 x 16 f32 on
/// AVX2, 12 x 32 on AVX-512).
int64_t tileRowsFor(TargetAttr target, StringRef instruction, int64_t vectors, int64_t columns) {
  bool apart = instruction == "fma" ? !target.hasFeature("fma") : target.getVectorBytes() == 32;
  return std::clamp<int64_t>((target.getVectorRegisters() - 2 - apart - columns) / vectors, 1, 12);
}

struct MatmulModel : KernelOpInterface::ExternalModel<MatmulModel, MatmulOp> {
  bool isMain(Operation *) const { return true; }
  bool canStage(Operation *op, unsigned operand) const {
    auto matmul = cast<MatmulOp>(op);
    return operand == 0 ? depthOf(matmul) > 0 && !matmul.getPackedRows()
                        : operand == 1 && (runOf(matmul) > 0 || inPairs(matmul));
  }

  /// Steps of the reduction where rows of the left side are contiguous and their length is known, else 0.
  static int64_t depthOf(MatmulOp op) {
    auto lhs = cast<RankedTensorType>(op.getLhs().getType());
    if (op.getPackedRows())
      return lhs.getDimSize(1) * (lhs.getRank() == 4 ? lhs.getDimSize(3) : 1);
    return op.getTransposeLhs() || ShapedType::isDynamic(lhs.getShape().back()) ? 0 : lhs.getShape().back();
  }
  /// Elements of a staged row: whole vectors. 0: not stageable, its rows being columns or of unknown length.
  static int64_t stageWidth(MatmulOp op, StringRef instruction) {
    return llvm::alignTo(depthOf(op), instruction == "bfp" ? kScaledSteps : 64);
  }
  /// What the steps of a block of the reduction are a multiple of.
  static int64_t depthUnit(MatmulOp op, bool scaled) {
    return scaled ? kScaledSteps : std::max<int64_t>(64, runOf(op) * runsTogether(op));
  }
  /// Whether the right side has neighbours along the reduction side by side, in 16 bits each.
  static bool inPairs(MatmulOp op) {
    return groupOf(op) == 2 && getElementTypeOrSelf(op.getRhs()).getIntOrFloatBitWidth() == 16;
  }
  /// What the instruction multiplies.
  static Type factorType(MatmulOp op, StringRef instruction) {
    if (instruction == "fma")
      return accumulatorOf(op);
    if (instruction == "bfp")
      return IntegerType::get(op.getContext(), 16);
    Type stored = getElementTypeOrSelf(op.getRhs());
    if (stored.isInteger(8))
      return groupOf(op) == 2 ? IntegerType::get(op.getContext(), 16) : stored;
    return BFloat16Type::get(op.getContext());
  }
  static bool stages(VariantAttr variant, int64_t operand) { return llvm::is_contained(variant.getStage(), operand); }
  static int64_t stageRowBytes(MatmulOp op, StringRef instruction) {
    unsigned bits = factorType(op, instruction).getIntOrFloatBitWidth();
    return stageWidth(op, instruction) * std::max(8u, bits) / 8;
  }

  ScheduleAttr getDefaultSchedule(Operation *op, TargetAttr target, DimsAnalysis &dims) const {
    auto matmul = cast<MatmulOp>(op);
    if (target.isGpu())
      return gpuMatmulSchedule(matmul, target, dims);
    Type sum = accumulatorOf(matmul);
    int64_t lanes = target.getVectorBytes() * 8 / std::max(8u, sum.getIntOrFloatBitWidth());
    int64_t panel = 2 * lanes;
    if (matmul.getPackedColumns())
      panel = cast<RankedTensorType>(matmul.getRhs().getType()).getDimSize(2);
    int64_t vectors = std::max<int64_t>(1, panel / lanes);
    auto rowsFor = [&](StringRef instruction) {
      if (matmul.getPackedRows())
        return cast<RankedTensorType>(matmul.getLhs().getType()).getDimSize(2);
      // Members of a group become vectors of their own for `fma`.
      return tileRowsFor(target, instruction, vectors, instruction == "fma" ? vectors * groupOf(matmul) : vectors);
    };
    MLIRContext *context = op->getContext();
    int64_t run = runOf(matmul);
    StringRef instruction = (groupOf(matmul) > 1 || run) && dotPays(matmul, target) ? "dot" : "fma";
    int64_t rows = rowsFor(instruction);
    // One row is bound by memory: bf16 is widened, bytes have no cheaper way.
    StringRef single = isa<FloatType>(sum) ? "fma" : instruction;
    bool machineTiles = !matmul.getPackedRows() && hasTiles(matmul, target) && (groupOf(matmul) > 1 || run) &&
                        lanes == kMachineTileRows && (sum.isInteger() || mayRound(matmul)) &&
                        2 * kMachineTileRows * stageRowBytes(matmul, "tile") <= kMaxStageBytes;
    if (machineTiles) {
      instruction = "tile";
      rows = 2 * kMachineTileRows;
    }
    bool scaled = !machineTiles && instruction == "fma" && scaledPays(matmul, target) &&
                  rowsFor("bfp") * stageRowBytes(matmul, "bfp") <= kMaxStageBytes;
    if (scaled) {
      instruction = "bfp";
      rows = rowsFor(instruction);
    }
    if (run) // its rows must be staged, however long they are
      rows = std::clamp<int64_t>(kMaxStageBytes / std::max<int64_t>(1, stageRowBytes(matmul, instruction)), 1, rows);
    int64_t tiles = 8, depth = 0, wanted = machineTiles ? kTilePanelBytes : kPanelBytes;
    if (scaled && lanes < kMachineTileRows)
      wanted /= 2; // columns are half as many
    SmallVector<int64_t> stage;
    Type staged = factorType(matmul, instruction);
    int64_t bytes = rows * stageRowBytes(matmul, instruction);
    if (bytes > 0 && (bytes <= kMaxStageBytes || matmul.getPackedRows())) {
      if (!matmul.getPackedRows())
        stage = {0};
      int64_t panelBytes = panel * std::max(8u, staged.getIntOrFloatBitWidth()) / 8;
      int64_t length = depthOf(matmul);
      int64_t blocks = std::max<int64_t>(1, (length * panelBytes + wanted / 2) / wanted);
      depth = blocks == 1 ? 0 : llvm::alignTo(llvm::divideCeil(length, blocks), depthUnit(matmul, scaled));
      // What all tiles read for a panel stays in half of the cache, beside that panel and the next. Where the panel
      // becomes integers for them, more rows are worth more: what they read comes early enough from farther away.
      int64_t block = depth ? depth : length, rowBlock = bytes / length * block;
      int64_t near = (target.getL2Bytes() / 2 - 2 * panelBytes * block) / std::max<int64_t>(1, rowBlock);
      int64_t most = machineTiles ? 8 : kTilesPerWorkgroup;
      if (!machineTiles && (matmul.getPackedRows() || run || scaled))
        most = kRowsPerWorkgroup / rows;
      if (scaled)
        near = most;
      if (!matmul.getPackedRows())
        most = std::min(most, kMaxStageBytes / bytes);
      tiles = std::clamp<int64_t>(near, 1, most);
    }
    auto variant = [&](int64_t maxRows, int64_t high, int64_t rowsOfAll, int64_t wide, ArrayRef<int64_t> stage,
                       StringRef instruction, int64_t unroll = 1, int64_t depth = 0) {
      return VariantAttr::get(context, maxRows, {high, panel}, {rowsOfAll, wide * panel}, unroll, depth, stage,
                              instruction);
    };
    // A workgroup is as narrow as a tile: the next one finds its rows in the stage, and few rows are work for all
    // threads.
    int64_t wide = machineTiles ? 4 : bytes > 0 ? 1 : 2;
    SmallVector<int64_t> both{0, 1};
    VariantAttr many = variant(0, rows, rows * tiles, wide, run || scaled ? ArrayRef(both) : stage, instruction,
                               /*unroll=*/1, depth);
    if (matmul.getPackedRows())
      return ScheduleAttr::get(context, many);
    // Few rows multiply blocks in registers, many share a tile that is decoded once.
    int64_t fit = std::max<int64_t>(1, kMaxStageBytes / std::max<int64_t>(1, stageRowBytes(matmul, "fma")));
    if (run) {
      StringRef inRegisters = codesPay(matmul, target) ? "bfp" : "fma";
      SmallVector<VariantAttr> variants;
      for (int64_t most : {1, 2, 16}) { // decoding pays off over four rows; two would wait for two more
        int64_t all = std::min(most, fit), high = std::min<int64_t>(all, 4);
        if (most != 2 || fit > 2) // rows so long that no more fit have such a variant anyway
          variants.push_back(variant(most, high, all, 1, {0}, inRegisters));
      }
      variants.push_back(many);
      return ScheduleAttr::get(context, variants);
    }
    // One row leaves room for four independent sums, which hide the latency of the multiply-add.
    VariantAttr one = variant(1, 1, 1, 2, stage, single, /*unroll=*/4);
    if (!scaled)
      return ScheduleAttr::get(context, {one, many});
    int64_t few = std::min(rowsFor("fma"), fit);
    return ScheduleAttr::get(context,
                             {one, variant(16, few, std::min(2 * few, std::max(few, fit)), 1, {0}, "fma"), many});
  }

  /// Whether factors may be rounded to bf16: they are bf16, or the operation's precision says so.
  static bool mayRound(MatmulOp op) {
    return getElementTypeOrSelf(op.getLhs()).isBF16() || mayRoundFactors(op.getPrecision());
  }

  /// Whether the target multiplies tiles of what the right side is stored as, or decoded to.
  static bool hasTiles(MatmulOp op, TargetAttr target) {
    Type stored = getElementTypeOrSelf(op.getRhs());
    bool bytes = stored.isInteger(8), halves = stored.isBF16() || runOf(op);
    return (bytes || halves) && target.hasFeature(bytes ? "amx-int8" : "amx-bf16");
  }

  static bool dotPays(MatmulOp op, TargetAttr target) {
    Type stored = getElementTypeOrSelf(op.getRhs());
    bool bytes = stored.isInteger(8);
    return bytes ? bytesOfDots(target) > 1 : hasFastBf16Dots(target) && !stored.isF16() && mayRound(op);
  }

  /// Whether integers under scales are multiplied faster than floats, where factors may be rounded.
  static bool scaledPays(MatmulOp op, TargetAttr target) {
    return multipliesPairs(target) && !target.isStrict() && mayRoundFactors(op.getPrecision()) && canScale(op) &&
           !op.getPackedRows();
  }
  /// Whether codes are multiplied faster as they are than decoded, where factors may be rounded.
  static bool codesPay(MatmulOp op, TargetAttr target) { return runCodesOf(op) && scaledPays(op, target); }
  static bool canScale(MatmulOp op) {
    return depthOf(op) > 0 && (runOf(op) || inPairs(op)) && accumulatorOf(op).isF32();
  }

  AffineExpr getRows(Operation *op, DimsAnalysis &dims) const {
    return elementCount(matmulShape(cast<MatmulOp>(op), dims).rows, op->getContext());
  }
  AffineExpr getWorkgroups(Operation *op, VariantAttr variant, DimsAnalysis &dims) const {
    MatmulShape shape = matmulShape(cast<MatmulOp>(op), dims);
    AffineExpr rows = elementCount(shape.rows, op->getContext());
    return elementCount(shape.batch, op->getContext()) * shape.columns.ceilDiv(variant.getWorkgroup()[1]) *
           rows.ceilDiv(variant.getWorkgroup()[0]).ceilDiv(variant.getCluster()) * variant.getCluster();
  }

  /// What the loop nest takes for granted of a user's schedule.
  static LogicalResult verify(MatmulOp op, VariantAttr variant, int64_t lanes, bool staged) {
    int64_t panel = variant.getTile()[1], group = groupOf(op);
    auto rhs = cast<RankedTensorType>(op.getRhs().getType());
    if (panel % lanes != 0 || variant.getWorkgroup()[1] % panel != 0)
      return op.emitOpError("tile columns must be a multiple of ")
             << lanes << " and divide the workgroup's, got: " << panel << " and " << variant.getWorkgroup()[1];
    if (op.getPackedColumns() && rhs.getDimSize(2) != panel)
      return op.emitOpError("tile columns must be the panel's, got: ") << panel << " and " << rhs.getDimSize(2);
    if (op.getPackedRows()) {
      int64_t rows = cast<RankedTensorType>(op.getLhs().getType()).getDimSize(2);
      if (variant.getTile()[0] != rows || variant.getWorkgroup()[0] % rows != 0 || variant.getInstruction() == "tile")
        return op.emitOpError("a packed lhs needs tiles of its panels' rows and instruction \"fma\" or \"dot\", got: ")
               << variant << " for panels of " << rows;
      staged = true;
    }
    bool fma = variant.getInstruction() == "fma", decoded = stages(variant, 1);
    if (runOf(op) && (!staged || variant.getUnroll() != 1 || (variant.getDepth() && !decoded)))
      return op.emitOpError("a rhs in blocks needs a staged lhs, unroll 1, and depth 0 unless it is staged itself");
    if (runOf(op) && fma)
      return verifyStage(op, variant);
    if (variant.getInstruction() == "bfp")
      return failed(verifyScaled(op, variant, lanes)) ? failure() : verifyStage(op, variant);
    auto target = op->getParentOfType<ModuleOp>()->getAttrOfType<TargetAttr>(kTargetAttr);
    bool bytes = rhs.getElementType().isInteger(8), halves = rhs.getElementType().getIntOrFloatBitWidth() == 16;
    int64_t members = bytes ? bytesOfDots(target) : halves ? 2 : 0, wanted = bytes && members == 2 ? 8 : 16;
    if (decoded)
      members = group = 2;
    if (!fma && (!staged || members != group || accumulatorOf(op).getIntOrFloatBitWidth() != 32 || lanes != wanted))
      return op.emitOpError("instruction \"") << variant.getInstruction()
                                              << "\" needs a staged lhs, 16 lanes of 32 bits, and a rhs in groups of 2 "
                                                 "bf16 or 4 i8, or with AVX2 8 lanes "
                                                 "and groups of 2 i8, got groups of "
                                              << group << " in " << rhs;
    if (variant.getInstruction() == "tile" && failed(verifyTiles(op, variant, lanes)))
      return failure();
    if (fma && group > 1 && (!stages(variant, 0) || group != 2 || !halves))
      return op.emitOpError("instruction \"fma\" reads groups of 2 bf16 with a staged lhs only, got: ") << rhs;
    return verifyStage(op, variant);
  }

  static LogicalResult verifyScaled(MatmulOp op, VariantAttr variant, int64_t lanes) {
    auto target = op->getParentOfType<ModuleOp>()->getAttrOfType<TargetAttr>(kTargetAttr);
    bool staged = stages(variant, 0) && (stages(variant, 1) || runCodesOf(op));
    if (!multipliesPairs(target) || !staged || !canScale(op) || 4 * lanes != target.getVectorBytes() ||
        variant.getUnroll() != 1 || variant.getDepth() % kScaledSteps != 0)
      return op.emitOpError(
                 "instruction \"bfp\" needs a target with the feature avx512vnni, or avx2 and vectors of 32 "
                 "bytes, both operands staged or a rhs of integer codes, tiles as wide as vectors of f32, "
                 "unroll 1, a depth that is a multiple of 256, and a rhs in blocks or in groups of 2 elements "
                 "of 16 bits, got: ")
             << variant;
    return success();
  }

  /// Sums, and what is multiplied for one step of them, stay in the machine's tiles.
  static LogicalResult verifyTiles(MatmulOp op, VariantAttr variant, int64_t lanes) {
    auto target = op->getParentOfType<ModuleOp>()->getAttrOfType<TargetAttr>(kTargetAttr);
    if (!hasTiles(op, target))
      return op.emitOpError("instruction \"tile\" needs a target with the feature ")
             << (getElementTypeOrSelf(op.getRhs()).isInteger(8) ? "amx-int8" : "amx-bf16") << ", got: " << target;
    int64_t rows = variant.getTile()[0], high = rows / kMachineTileRows, wide = variant.getTile()[1] / lanes;
    if (rows % kMachineTileRows != 0 || high * wide + high + wide > kMachineTiles || variant.getUnroll() != 1)
      return op.emitOpError("instruction \"tile\" needs unroll 1 and tiles of 16 rows by 16 columns, of which the "
                            "machine holds 8 with a row and a column of operands, got: ")
             << variant;
    return success();
  }

  static LogicalResult verifyStage(MatmulOp op, VariantAttr variant) {
    bool staged = stages(variant, 0), panels = op.getPackedRows().has_value();
    int64_t bytes = variant.getWorkgroup()[0] * stageRowBytes(op, variant.getInstruction());
    int64_t unit = depthUnit(op, /*scaled=*/false);
    if (variant.getDepth() % unit != 0 || (variant.getDepth() && !staged && !panels))
      return op.emitOpError("depth must be a multiple of ")
             << unit << " and needs a staged lhs, got: " << variant.getDepth();
    if (staged && bytes > kMaxStageBytes)
      return op.emitOpError("a workgroup may stage ") << kMaxStageBytes << " bytes, its rows take " << bytes;
    return success();
  }

  LogicalResult emitKernel(Operation *op, KernelBuilder &kernel, VariantAttr variant) const {
    auto matmul = cast<MatmulOp>(op);
    if (kernel.gpu)
      return emitGpuMatmul(matmul, kernel, variant);
    Type accType = accumulatorOf(matmul);
    int64_t panel = variant.getTile()[1], tileRows = variant.getTile()[0];
    int64_t lanes = std::max<int64_t>(2, std::min(kernel.lanesOf(accType), panel)); // one column would be a scalar
    bool staged = stages(variant, 0), decoded = stages(variant, 1);
    if (failed(verify(matmul, variant, lanes, staged)))
      return failure();
    if (matmul.getPackedRows() && !kernel.buffers.contains(matmul.getLhs()))
      return op->emitOpError("a packed lhs must be an argument of the kernel");
    if (groupOf(matmul) > 1 && !kernel.buffers.contains(matmul.getRhs()))
      return op->emitOpError("a rhs in groups must be an argument of the kernel");
    if (runOf(matmul) && !kernel.buffers.contains(matmul.getRhs().getDefiningOp()->getOperand(0)))
      return op->emitOpError("the blocks of a rhs must be an argument of the kernel");
    bool fma = variant.getInstruction() == "fma";
    MatmulPlan plan{lanes,
                    panel / lanes,
                    tileRows,
                    llvm::divideCeil(variant.getWorkgroup()[0], tileRows),
                    variant.getUnroll(),
                    /*block=*/0,
                    decoded && !fma ? 2 : groupOf(matmul),
                    runOf(matmul),
                    variant.getInstruction() == "dot" || variant.getInstruction() == "bfp",
                    variant.getInstruction() == "tile",
                    variant.getInstruction() == "bfp" && decoded,
                    variant.getInstruction() == "bfp" && !decoded,
                    runCodesOf(matmul) && multipliesCodeBytes(runOf(matmul), *runCodesOf(matmul), lanes, tileRows),
                    variant,
                    /*stageType=*/{},
                    /*rhsStageType=*/{}};
    int64_t depth = depthOf(matmul);
    if (staged || matmul.getPackedRows())
      plan.block = variant.getDepth() < depth ? variant.getDepth() : 0;
    if (staged) {
      int64_t blocks = plan.block ? llvm::divideCeil(depth, plan.block) : 1;
      Type element =
          plan.codes && plan.codeBytes ? Type(kernel.getI8Type()) : factorType(matmul, variant.getInstruction());
      // Behind a tile is room for one vector, which stores of interleaved rows write beyond their end.
      int64_t steps = plan.block ? plan.block : stageWidth(matmul, variant.getInstruction());
      int64_t perTile = plan.codes ? plan.codeParts() * depth * tileRows : steps * tileRows + 64;
      plan.stageType = MemRefType::get({blocks, plan.tilesPerWorkgroup, perTile}, element);
      if (decoded) {
        int64_t length = plan.block ? plan.block : plan.scaled ? stageWidth(matmul, variant.getInstruction()) : depth;
        plan.rhsStageType = MemRefType::get({length / plan.group, panel * plan.group}, element);
      }
    }
    MatmulEmitter(matmul, kernel, plan).workgroup();
    return success();
  }
};

} // namespace

bool mayRoundFactors(std::optional<PrecisionAttr> precision) {
  auto isHalf = [](Type type) { return type && type.isBF16(); };
  return precision && isHalf(precision->getLhs()) && isHalf(precision->getRhs());
}

bool hasFastBf16Dots(TargetAttr target) {
  return target.hasFeature("avx512bf16") && !target.hasFeature("amx-bf16") && !target.hasFeature("avx512fp16");
}

int64_t bytesOfDots(TargetAttr target) {
  return target.hasFeature("avx512vnni") ? 4 : target.getVectorBytes() == 32 && multipliesPairs(target) ? 2 : 1;
}

int64_t preferredRowPanel(MatmulOp op, TargetAttr target) {
  Type element = getElementTypeOrSelf(op.getLhs());
  auto lhs = cast<RankedTensorType>(op.getLhs().getType());
  bool read = element.isF32() || (element.isBF16() && MatmulModel::dotPays(op, target));
  bool plain = op.getPackedColumns() && lhs.getRank() == 2 && lhs.hasStaticShape() && !runOf(op) &&
               element == getElementTypeOrSelf(op.getRhs());
  int64_t panel = plain ? cast<RankedTensorType>(op.getRhs().getType()).getDimSize(2) : 0;
  int64_t vectors = std::max<int64_t>(1, panel * 4 / target.getVectorBytes());
  int64_t rows = plain && read ? tileRowsFor(target, element.isF32() ? "fma" : "dot", vectors, vectors) : 0;
  return plain && lhs.getDimSize(op.getTransposeLhs() ? 1 : 0) < rows ? 0 : rows;
}

void registerMatmulModel(MLIRContext *context) { MatmulOp::attachInterface<MatmulModel>(*context); }

} // namespace mlir::dsc
