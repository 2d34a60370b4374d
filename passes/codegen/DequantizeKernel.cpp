//===- DequantizeKernel.cpp - weights out of blocks -----------------------===//
//
// Layouts and formulas of ggml-common.h's block structs. Products and sums are
// rounded separately, as the reference dequantization does.
//
//===----------------------------------------------------------------------===//

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "passes/Weights.h"
#include "passes/codegen/Kernels.h"

namespace mlir::dsc {
namespace {

/// Reads parts of one block; indices may be uniform or differ per lane.
struct BlockReader {
  KernelBuilder &kernel;
  DequantizeOp op;
  ArrayRef<Index> row; // of a panel: the panel's number and the row's in it
  Index block;         // number of the block in its row
  Index inner;         // number of the weight in its block
  BlockFormat format;

  AffineExpr d0() { return kernel.getAffineDimExpr(0); }
  AffineExpr d1() { return kernel.getAffineDimExpr(1); }

  Value wide(Value v) { // i8 -> i32, zero extended
    Type i32 = kernel.getI32Type();
    return arith::ExtUIOp::create(kernel, kernel.isVector(v) ? Type(kernel.vectorType(i32)) : i32, v);
  }
  /// The byte at `offset` of the block plus what `position` says.
  Value byte(int64_t offset, Index position) {
    if (op.getPanel()) {
      int64_t unit = format.unitAt(offset), inUnit = (offset - format.halvesEnd * (offset >= format.halvesEnd)) % unit;
      AffineExpr at = d0() + inUnit;
      AffineExpr place = (at.floorDiv(unit) * unit + (offset - inUnit)) * *op.getPanel() + d1() * unit + at % unit;
      return kernel.pull(op.getBlocks(), {row[0], block, kernel.apply(place, {position, row[1]})});
    }
    SmallVector<Index> at(row);
    int64_t bytes = op.getScales() ? format.codeBytes() : format.bytes;
    at.push_back(kernel.apply(d0() * bytes + d1() + offset, {block, position}));
    return kernel.pull(op.getBlocks(), at);
  }
  Value byte(int64_t offset) { return byte(offset, Index::uniform(kernel.constantIndex(0))); }

  Value i32(int64_t value, Value like) {
    Value v = arith::ConstantOp::create(kernel, kernel.getI32IntegerAttr(value));
    return kernel.isVector(like) ? kernel.splat(v) : v;
  }
  void match(Value &lhs, Value &rhs) {
    if (kernel.isVector(lhs) || kernel.isVector(rhs)) {
      lhs = kernel.splat(lhs);
      rhs = kernel.splat(rhs);
    }
  }
  template <typename Op> Value binary(Value lhs, Value rhs) {
    match(lhs, rhs);
    return Op::create(kernel, lhs, rhs);
  }
  /// A little-endian f16, as f32.
  Value half(int64_t offset) {
    Value low = wide(byte(offset)), high = wide(byte(offset + 1));
    Value bits = binary<arith::OrIOp>(low, binary<arith::ShLIOp>(high, i32(8, high)));
    bool vector = kernel.isVector(bits);
    Type i16 = kernel.getI16Type(), f16 = kernel.getF16Type();
    Value narrow = arith::TruncIOp::create(kernel, vector ? Type(kernel.vectorType(i16)) : i16, bits);
    Value value = arith::BitcastOp::create(kernel, vector ? Type(kernel.vectorType(f16)) : f16, narrow);
    return kernel.convert(value, kernel.getF32Type());
  }
  /// `expr` of the weight's number in the block, as an i32 value.
  Value number(AffineExpr expr) {
    Value v = kernel.indexValue(kernel.apply(expr, {inner}));
    Type i32 = kernel.getI32Type();
    return arith::IndexCastOp::create(kernel, kernel.isVector(v) ? Type(kernel.vectorType(i32)) : i32, v);
  }
  Index at(AffineExpr expr) { return kernel.apply(expr, {inner}); }
  /// `width` bits of `value` from bit `shift` on.
  Value bits(Value value, Value shift, int64_t width) {
    Value shifted = binary<arith::ShRUIOp>(value, shift);
    return binary<arith::AndIOp>(shifted, i32((1 << width) - 1, shifted));
  }
  Value toFloat(Value v) {
    Type f32 = kernel.getF32Type();
    return arith::SIToFPOp::create(kernel, kernel.isVector(v) ? Type(kernel.vectorType(f32)) : f32, v);
  }
  /// Weight i of 32 is the low half of byte i, or the high half of byte i - 16.
  Value nibble(int64_t offset) {
    Value shift = number(d0().floorDiv(16) * 4);
    return bits(wide(byte(offset, at(d0() % 16))), shift, 4);
  }
  /// Bit i of the 32 that follow `offset`, as bit 4.
  Value fifthBit(int64_t offset) {
    Value bit = bits(wide(byte(offset, at(d0().floorDiv(8)))), number(d0() % 8), 1);
    return binary<arith::ShLIOp>(bit, i32(4, bit));
  }
  Value minus(Value v, int64_t bias) { return binary<arith::SubIOp>(v, i32(bias, v)); }
  Value scaled(Value scale, Value q) { return binary<arith::MulFOp>(scale, toFloat(q)); }
  Value affine(Value q) { return binary<arith::AddFOp>(scaled(half(0), q), half(2)); }

  /// The scale and the minimum of the run that a weight of q4_k or q5_k is in, 6 bits each in 12 bytes. Runs 0 to 3
  /// have the low bits of bytes 0 to 3 and 4 to 7. Runs 4 to 7 have 4 bits in a half of bytes 8 to 11, and above them
  /// the 2 high bits of bytes 0 to 3 and 4 to 7. `late` is 1 for these and 0 for the former, instead of a branch.
  std::pair<Value, Value> scaleAndMinimum(int64_t offset) {
    AffineExpr run = d0().floorDiv(32), early = run % 4, late = run.floorDiv(4);
    Value low = number(63 - late * 48), high = number(late * 48);
    auto join = [&](Value lowBits, int64_t highBits) {
      Value two = binary<arith::ShRUIOp>(wide(byte(highBits, at(early))), i32(2, high));
      return binary<arith::OrIOp>(binary<arith::AndIOp>(lowBits, low), binary<arith::AndIOp>(two, high));
    };
    Value scale = join(wide(byte(offset, at(run + late * 4))), offset);
    Value halves = wide(byte(offset + 4, at(run)));
    Value minimum = join(binary<arith::ShRUIOp>(halves, number(late * 4)), offset + 4);
    return {scale, minimum};
  }
  /// d * scale * q - dmin * minimum. Weights 64 i .. 64 i + 31 are the low halves of 32 bytes, the next 32 weights
  /// their high halves. q5_k: bit r of byte i of the 32 at `high` is bit 4 of weight i of run r.
  Value k45(int64_t quants, std::optional<int64_t> high) {
    AffineExpr run = d0().floorDiv(32), i = d0() % 32;
    Value q = bits(wide(byte(quants, at(run.floorDiv(2) * 32 + i))), number((run % 2) * 4), 4);
    if (high) {
      Value bit = bits(wide(byte(*high, at(i))), number(run), 1);
      q = binary<arith::OrIOp>(q, binary<arith::ShLIOp>(bit, i32(4, bit)));
    }
    auto [scale, minimum] = scaleAndMinimum(4);
    return binary<arith::SubFOp>(scaled(scaled(half(0), scale), q), scaled(half(2), minimum));
  }

  Value q6k() {
    // 2 x 128 weights; each 128 are four runs of 32 over 64 bytes of low and 32 of high bits.
    AffineExpr part = d0().floorDiv(128), run = (d0() % 128).floorDiv(32), i = d0() % 32;
    Value low = bits(wide(byte(0, at(part * 64 + (run % 2) * 32 + i))), number(run.floorDiv(2) * 4), 4);
    Value high = bits(wide(byte(128, at(part * 32 + i))), number(run * 2), 2);
    Value q = minus(binary<arith::OrIOp>(low, binary<arith::ShLIOp>(high, i32(4, high))), 32);
    Value scale = signedByte(byte(192, at(part * 8 + run * 2 + i.floorDiv(16))));
    return scaled(scaled(half(208), scale), q);
  }

  /// The f32 that begins a block.
  Value single() {
    Value bits = wide(byte(0));
    for (int64_t i = 1; i < 4; ++i) {
      Value high = wide(byte(i));
      bits = binary<arith::OrIOp>(bits, binary<arith::ShLIOp>(high, i32(8 * i, high)));
    }
    Type f32 = kernel.getF32Type();
    return arith::BitcastOp::create(kernel, kernel.isVector(bits) ? Type(kernel.vectorType(f32)) : f32, bits);
  }
  Value signedByte(Value v) {
    Type i32Type = kernel.getI32Type();
    return arith::ExtSIOp::create(kernel, kernel.isVector(v) ? Type(kernel.vectorType(i32Type)) : i32Type, v);
  }
  /// A code of 8 bits as the f16 that has its sign, exponent and significand: e5m2 is one cut short, e4m3 is one
  /// whose exponent counts from 8 less.
  Value half8(Value code) {
    auto masked = [&](int64_t mask, int64_t shift) {
      return binary<arith::ShLIOp>(binary<arith::AndIOp>(code, i32(mask, code)), i32(shift, code));
    };
    bool wider = format.codes == BlockCodes::E4M3;
    Value bits = wider ? binary<arith::OrIOp>(masked(127, 7), masked(128, 8)) : masked(255, 8);
    bool vector = kernel.isVector(bits);
    Type i16 = kernel.getI16Type(), f16 = kernel.getF16Type();
    Value narrow = arith::TruncIOp::create(kernel, vector ? Type(kernel.vectorType(i16)) : i16, bits);
    Value value = arith::BitcastOp::create(kernel, vector ? Type(kernel.vectorType(f16)) : f16, narrow);
    value = kernel.convert(value, kernel.getF32Type());
    Value factor = kernel.constant(kernel.getF32Type(), wider ? 256.0 : 1.0);
    return wider ? binary<arith::MulFOp>(value, factor) : value;
  }
  /// The scale of a block that is stored beside the codes.
  Value scaleBeside() {
    SmallVector<Index> at(row);
    at.push_back(block);
    return kernel.pull(op.getScales(), at);
  }
  /// One code times one scale.
  Value scaledCode() {
    Value scale = op.getScales() ? scaleBeside() : format.halvesEnd ? half(0) : single();
    int64_t begin = op.getScales() ? 0 : format.codesBegin();
    switch (format.codes) {
    case BlockCodes::Int4: {
      Value shift = number((d0() % 32).floorDiv(16) * 4);
      Value pair = wide(byte(begin, at(d0().floorDiv(32) * 16 + d0() % 16)));
      return scaled(scale, minus(bits(pair, shift, 4), 8));
    }
    case BlockCodes::Int8:
      return scaled(scale, signedByte(byte(begin, inner)));
    default:
      return binary<arith::MulFOp>(scale, half8(wide(byte(begin, inner))));
    }
  }

  Value read() {
    if (format.codes != BlockCodes::Ggml)
      return scaledCode();
    StringRef name = format.name;
    if (name == "q4_0")
      return scaled(half(0), minus(nibble(2), 8));
    if (name == "q4_1")
      return affine(nibble(4));
    if (name == "q5_0")
      return scaled(half(0), minus(binary<arith::OrIOp>(nibble(6), fifthBit(2)), 16));
    if (name == "q5_1")
      return affine(binary<arith::OrIOp>(nibble(8), fifthBit(4)));
    if (name == "q4_k")
      return k45(16, std::nullopt);
    if (name == "q5_k")
      return k45(48, 16);
    if (name == "q6_k")
      return q6k();
    return scaled(half(0), signedByte(byte(2, inner))); // q8_0
  }
};

struct DequantizeModel : KernelOpInterface::ExternalModel<DequantizeModel, DequantizeOp> {
  bool isInline(Operation *op) const {
    auto dequantize = cast<DequantizeOp>(op);
    return dequantize.getPanel() || dequantize.getScales() || op->hasAttr(kDecodedByReaderAttr);
  }
  int64_t getRunLength(Operation *op, unsigned) const { return blockRunLength(cast<DequantizeOp>(op)); }
  int64_t getRunsTogether(Operation *op, unsigned) const { return blockRunsTogether(cast<DequantizeOp>(op)); }
  std::optional<RunCodes> getRunCodes(Operation *op, unsigned) const { return blockRunCodes(cast<DequantizeOp>(op)); }
  SmallVector<ScaledRun> pullRuns(Operation *op, KernelBuilder &kernel, unsigned, Value panel, Value run,
                                  Value lane) const {
    return pullBlockRuns(cast<DequantizeOp>(op), kernel, panel, run, lane);
  }
  Value pull(Operation *op, KernelBuilder &kernel, unsigned, ArrayRef<Index> index) const {
    auto dequantize = cast<DequantizeOp>(op);
    std::optional<BlockFormat> format = findBlockFormat(dequantize.getFormat());
    AffineExpr d0 = kernel.getAffineDimExpr(0);
    // The panel's number and the row's stand around the column.
    SmallVector<Index> row(index);
    SmallVectorImpl<Index>::iterator at = row.end() - (dequantize.getPanel() ? 2 : 1);
    Index column = *at;
    row.erase(at);
    Index block, inner;
    if (format->block % kernel.width == 0 && kernel.isAligned(column)) { // all lanes are in one block
      Index base = Index::uniform(column.value);
      block = kernel.apply(d0.floorDiv(format->block), {base});
      inner = Index::lanes(kernel.apply(d0 % format->block, {base}).value);
    } else {
      block = kernel.apply(d0.floorDiv(format->block), {column});
      inner = kernel.apply(d0 % format->block, {column});
    }
    BlockReader reader{kernel, dequantize, row, block, inner, *format};
    return kernel.convert(reader.read(), getElementTypeOrSelf(dequantize.getType()));
  }
};

} // namespace

void registerDequantizeModel(MLIRContext *context) { DequantizeOp::attachInterface<DequantizeModel>(*context); }

} // namespace mlir::dsc
