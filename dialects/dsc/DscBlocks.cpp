//===- DscBlocks.cpp - weights in block formats ---------------------------===//

#include "dialects/dsc/DscChecks.h"
#include "dialects/dsc/DscOps.h"
#include "llvm/ADT/StringSwitch.h"

using namespace mlir;
using namespace mlir::dsc;

//===----------------------------------------------------------------------===//
// dequantize
//===----------------------------------------------------------------------===//

// Sizes of ggml-common.h's block structs.
static constexpr BlockFormat kGgmlFormats[] = {
    {"q4_0", 32, 18, 0, 2}, {"q4_1", 32, 20, 0, 4},   {"q5_0", 32, 22, 0, 2},   {"q5_1", 32, 24, 0, 4},
    {"q8_0", 32, 34, 0, 2}, {"q4_k", 256, 144, 0, 4}, {"q5_k", 256, 176, 0, 4}, {"q6_k", 256, 210, 208, 210}};

// Integers in groups of at most this many have scales of 2 bytes, everything else of 4.
constexpr int64_t kLargestGroupOfHalfScale = 128;

std::optional<BlockFormat> mlir::dsc::findBlockFormat(StringRef name) {
  for (const BlockFormat &format : kGgmlFormats)
    if (format.name == name)
      return format;
  auto [kind, size] = name.rsplit("_g");
  auto codes = llvm::StringSwitch<BlockCodes>(kind)
                   .Case("int4", BlockCodes::Int4)
                   .Case("int8", BlockCodes::Int8)
                   .Case("fp8_e4m3", BlockCodes::E4M3)
                   .Case("fp8_e5m2", BlockCodes::E5M2)
                   .Default(BlockCodes::Ggml);
  int64_t group;
  if (codes == BlockCodes::Ggml || size.starts_with("0") || size.getAsInteger(10, group) || group < 32 || group % 32 ||
      group > (int64_t(1) << 24))
    return std::nullopt;
  bool integer = codes == BlockCodes::Int4 || codes == BlockCodes::Int8;
  int64_t scale = integer && group <= kLargestGroupOfHalfScale ? 2 : 4;
  int64_t bytes = scale + (codes == BlockCodes::Int4 ? group / 2 : group);
  return BlockFormat{name, group, bytes, 0, scale == 2 ? scale : 0, codes};
}

/// The named format, or none after an error.
static std::optional<BlockFormat> checkFormat(Operation *op, StringRef name) {
  std::optional<BlockFormat> format = findBlockFormat(name);
  if (!format) {
    InFlightDiagnostic error = op->emitOpError("unknown block format: \"") << name << "\", known are";
    for (const BlockFormat &known : kGgmlFormats)
      error << " " << known.name;
    error << ", and int4, int8, fp8_e4m3, fp8_e5m2 with _gN, N weights to a scale (a multiple of 32)";
  }
  return format;
}

static LogicalResult checkRows(Operation *op, RankedTensorType blocks, const BlockFormat &format) {
  if (blocks.getRank() < 1 || blocks.isDynamicDim(blocks.getRank() - 1))
    return op->emitOpError("bytes per row must be static, got: ") << blocks;
  if (blocks.getShape().back() % format.bytes != 0)
    return op->emitOpError("a row must hold whole blocks of ")
           << format.bytes << " bytes, got: " << blocks.getShape().back();
  return success();
}

/// Codes in rows of whole blocks, and a scale for each block.
static LogicalResult checkScales(DequantizeOp op, const BlockFormat &format) {
  RankedTensorType codes = tensorType(op.getBlocks()), scales = tensorType(op.getScales());
  if (format.codes == BlockCodes::Ggml || op.getPanel())
    return op.emitOpError("scales of their own need a format with one scale for each block, and no panel, got: \"")
           << op.getFormat() << "\"";
  int64_t bytes = codes.getRank() ? codes.getShape().back() : 0;
  bool whole = codes.getRank() && !ShapedType::isDynamic(bytes) && bytes % format.codeBytes() == 0;
  SmallVector<int64_t> expected(codes.getShape());
  if (whole)
    expected.back() = bytes / format.codeBytes();
  if (!whole || scales.getShape() != ArrayRef(expected))
    return op.emitOpError("a row of codes must be whole blocks of ")
           << format.codeBytes() << " bytes with one scale each, got: " << codes << " and " << scales;
  return success();
}

LogicalResult DequantizeOp::verify() {
  std::optional<BlockFormat> format = checkFormat(*this, getFormat());
  if (!format)
    return failure();
  RankedTensorType blocks = tensorType(getBlocks());
  if (getScales()) {
    if (failed(checkScales(*this, *format)))
      return failure();
  } else if (!getPanel()) {
    if (failed(checkRows(*this, blocks, *format)))
      return failure();
  } else if (*getPanel() < 1 || blocks.getRank() != 3 || !blocks.hasStaticShape() ||
             blocks.getDimSize(2) != *getPanel() * format->bytes) {
    return emitOpError("panels of blocks must be static [n / t, blocks, t * ")
           << format->bytes << "], got: " << blocks << " for t = " << *getPanel();
  }
  return checkResultShapes(*this);
}

void DequantizeOp::inferResultDims(ArrayRef<Dims> operands, SmallVectorImpl<Dims> &results) {
  std::optional<BlockFormat> format = findBlockFormat(getFormat());
  RankedTensorType blocks = tensorType(getBlocks());
  auto constant = [&](int64_t value) { return getAffineConstantExpr(value, getContext()); };
  Dims &dims = results.emplace_back(operands[0]);
  if (getPanel()) {
    dims[1] = constant(blocks.getDimSize(1) * format->block);
    dims[2] = constant(*getPanel());
  } else {
    int64_t bytes = getScales() ? format->codeBytes() : format->bytes;
    dims.back() = constant(blocks.getShape().back() / bytes * format->block);
  }
}

AffineExpr DequantizeOp::getOperationCount(ArrayRef<Dims>, ArrayRef<Dims> results) {
  return elementCount(results[0], getContext()) * 2;
}

//===----------------------------------------------------------------------===//
// pack_blocks
//===----------------------------------------------------------------------===//

LogicalResult PackBlocksOp::verify() {
  std::optional<BlockFormat> format = checkFormat(*this, getFormat());
  RankedTensorType blocks = tensorType(getBlocks());
  if (!format || failed(checkRows(*this, blocks, *format)))
    return failure();
  if (blocks.getRank() != 2 || !blocks.hasStaticShape() || static_cast<int64_t>(getPanel()) < 1)
    return emitOpError("packs a static matrix of blocks in panels of at least one row, got: ")
           << blocks << " in panels of " << static_cast<int64_t>(getPanel());
  return checkResultShapes(*this);
}

void PackBlocksOp::inferResultDims(ArrayRef<Dims>, SmallVectorImpl<Dims> &results) {
  std::optional<BlockFormat> format = findBlockFormat(getFormat());
  RankedTensorType blocks = tensorType(getBlocks());
  int64_t panel = getPanel();
  Dims &dims = results.emplace_back();
  for (int64_t size :
       {(blocks.getDimSize(0) + panel - 1) / panel, blocks.getDimSize(1) / format->bytes, panel * format->bytes})
    dims.push_back(getAffineConstantExpr(size, getContext()));
}

AffineExpr PackBlocksOp::getOperationCount(ArrayRef<Dims>, ArrayRef<Dims>) {
  return getAffineConstantExpr(0, getContext());
}
