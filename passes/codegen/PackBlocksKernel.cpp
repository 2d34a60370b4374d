//===- PackBlocksKernel.cpp - weights in panels of GGUF blocks ------------===//
//
// Writes the panels, and decodes them a vector of columns at a time: one load
// brings the same unit of adjacent rows, whose weights are cut out of it by
// shifts.
//
//===----------------------------------------------------------------------===//

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/LLVMIR/LLVMDialect.h"
#include "mlir/Dialect/MemRef/IR/MemRef.h"
#include "mlir/IR/Matchers.h"
#include "passes/codegen/Kernels.h"

namespace mlir::dsc {
namespace {

/// Reads one block of a vector of rows.
struct PanelReader {
  KernelBuilder &kernel;
  DequantizeOp op;
  BlockFormat format;
  Value panel, block, lane;
  int64_t lanes;

  VectorType vectorOf(Type element) { return VectorType::get({lanes}, element); }
  Value index(int64_t value) { return kernel.constantIndex(value); }

  /// The unit of `bytes` bytes at `offset` of the block, of every row, as integers of that size.
  Value unit(Value offset, int64_t bytes) {
    Value at = kernel.add(kernel.mul(offset, index(*op.getPanel())), kernel.mul(lane, index(bytes)));
    Value buffer = kernel.buffers.lookup(op.getBlocks());
    Value raw = vector::LoadOp::create(kernel, VectorType::get({lanes * bytes}, kernel.getI8Type()), buffer,
                                       ValueRange{panel, block, at});
    return vector::BitCastOp::create(kernel, vectorOf(kernel.getIntegerType(bytes * 8)), raw);
  }
  Value word(Value offset) { return unit(offset, 4); }
  Value word(int64_t offset) { return word(index(offset)); }
  /// The f16 at `offset`, as f32.
  Value half(int64_t offset) {
    Value bits = unit(index(offset), 2);
    return toFloat(arith::BitcastOp::create(kernel, vectorOf(kernel.getF16Type()), bits));
  }
  Value toFloat(Value v) { return kernel.convert(v, kernel.getF32Type()); }

  Value bits(int64_t value) {
    return arith::ConstantOp::create(
        kernel, DenseElementsAttr::get(vectorOf(kernel.getI32Type()), kernel.getI32IntegerAttr(value)));
  }
  /// A number of bits that is an index, for all lanes.
  Value count(Value amount) {
    Value narrow = arith::IndexCastOp::create(kernel, kernel.getI32Type(), amount);
    return vector::BroadcastOp::create(kernel, vectorOf(kernel.getI32Type()), narrow);
  }
  Value right(Value v, Value amount) { return arith::ShRUIOp::create(kernel, v, amount); }
  Value right(Value v, int64_t amount) { return amount ? right(v, bits(amount)) : v; }
  Value left(Value v, int64_t amount) { return amount ? Value(arith::ShLIOp::create(kernel, v, bits(amount))) : v; }
  Value keep(Value v, int64_t mask) { return arith::AndIOp::create(kernel, v, bits(mask)); }
  Value join(Value a, Value b) { return arith::OrIOp::create(kernel, a, b); }
  Value signedByte(Value v, int64_t number) { // number 0 is the lowest
    return arith::ShRSIOp::create(kernel, left(v, 24 - 8 * number), bits(24));
  }
  Value times(Value a, Value b) { return arith::MulFOp::create(kernel, a, b); }
  Value times(Value a, double b) { return times(a, kernel.splat(kernel.constant(kernel.getF32Type(), b))); }
  Value negated(Value v) { return arith::NegFOp::create(kernel, v); }

  /// The low 4 bits of `v` plus `bias`, as f32.
  Value nibble(Value v, int64_t bias) {
    if (lanes == 16) { // vpermps reads 4 bits of each index, whatever stands above them
      SmallVector<float> values;
      for (int64_t i = 0; i < 16; ++i)
        values.push_back(i + bias);
      Value table =
          arith::ConstantOp::create(kernel, DenseElementsAttr::get(vectorOf(kernel.getF32Type()), ArrayRef(values)));
      return LLVM::CallIntrinsicOp::create(kernel, table.getType(),
                                           kernel.getStringAttr("llvm.x86.avx512.permvar.sf.512"), ValueRange{table, v})
          .getResults();
    }
    Value low = keep(v, 15);
    return toFloat(bias ? Value(arith::AddIOp::create(kernel, low, bits(bias))) : low);
  }

  /// Weight i of 32 is the low half of byte i of the 16 at `offset`, or the high half of byte i - 16.
  Value halfByte(int64_t offset, int64_t i) { return right(word(offset + i % 16 / 4 * 4), 8 * (i % 4) + i / 16 * 4); }

  /// Four of them from 4 i on, a byte each.
  Value halfBytes(Value offset, int64_t i) {
    return keep(right(word(kernel.add(offset, index(i % 4 * 4))), i / 4 * 4), 0x0f0f0f0f);
  }
  Value halfBytes(int64_t offset, int64_t i) { return halfBytes(index(offset), i); }

  /// Bits 4 i to 4 i + 3 of `v`, each as bit 4 of a byte.
  Value fifthBits(Value v, int64_t i) {
    if (lanes != 16) { // copies 7 bits apart: bit n of the first stands at bit 8 n of one of them
      Value copies = arith::MulIOp::create(kernel, keep(right(v, 4 * i), 15), bits(0x02040810));
      return keep(copies, 0x10101010);
    }
    SmallVector<int32_t> spread; // vpermd reads 4 bits of each index, whatever stands above them
    for (int32_t n = 0; n < 16; ++n)
      spread.push_back((n & 1) << 4 | (n & 2) << 11 | (n & 4) << 18 | (n & 8) << 25);
    VectorType words = vectorOf(kernel.getI32Type());
    Value table = arith::ConstantOp::create(kernel, DenseElementsAttr::get(words, ArrayRef(spread)));
    return LLVM::CallIntrinsicOp::create(kernel, words, kernel.getStringAttr("llvm.x86.avx512.permvar.si.512"),
                                         ValueRange{table, right(v, 4 * i)})
        .getResults();
  }

  /// Four bytes with sign as codes, whose zero is 128.
  Value unsignedBytes(Value v) { return arith::XOrIOp::create(kernel, v, bits(int32_t(0x80808080))); }

  /// Bit i of `v`, as bit 4, with what lies beside it.
  Value fifthBit(Value v, int64_t i) { return i >= 4 ? right(v, i - 4) : left(v, 4 - i); }

  ScaledRun q4(Value offset, int64_t quants, int64_t bias) {
    return {half(0), offset, [=, *this](int64_t i) mutable { return nibble(halfByte(quants, i), bias); },
            [=, *this](int64_t i) mutable { return halfBytes(quants, i); }};
  }
  ScaledRun q5(Value scale, Value offset, int64_t high) {
    return {scale, offset,
            [=, *this](int64_t i) mutable {
              Value low = keep(halfByte(high + 4, i), 15);
              return toFloat(join(low, keep(fifthBit(word(high), i), 16)));
            },
            [=, *this](int64_t i) mutable { return join(halfBytes(high + 4, i), fifthBits(word(high), i)); }};
  }

  /// Scale and minimum of run `run` of 8: see BlockReader::scaleAndMinimum.
  std::pair<Value, Value> scaleAndMinimum(Value run) {
    Value low = word(4), high = word(8), rest = word(12);
    Value early = arith::CmpIOp::create(kernel, arith::CmpIPredicate::ult, run, index(4));
    Value first = count(kernel.mul(kernel.createOrFold<arith::RemUIOp>(run, index(4)), index(8)));
    auto pick = [&](Value word, int64_t half) {
      Value top = keep(right(right(word, first), 2), 48);
      Value late = join(keep(right(right(rest, first), half), 15), top);
      return toFloat(arith::SelectOp::create(kernel, early, keep(right(word, first), 63), late));
    };
    return {pick(low, 0), pick(high, 4)};
  }
  ScaledRun k45(Value run, int64_t quants, std::optional<int64_t> high) {
    auto [scale, minimum] = scaleAndMinimum(run);
    Value pair = kernel.mul(kernel.floorDiv(run, 2), index(32));
    Value half4 = count(kernel.mul(kernel.createOrFold<arith::RemUIOp>(run, index(2)), index(4)));
    Value bit = count(run);
    return {times(half(0), scale), negated(times(half(2), minimum)),
            [=, *this](int64_t i) mutable {
              Value low = right(right(word(kernel.add(pair, index(quants + i / 4 * 4))), half4), 8 * (i % 4));
              if (!high)
                return nibble(low, 0);
              Value fifth = keep(right(right(word(*high + i / 4 * 4), bit), 8 * (i % 4)), 1);
              return toFloat(join(keep(low, 15), left(fifth, 4)));
            },
            [=, *this](int64_t i) mutable {
              Value low = keep(right(word(kernel.add(pair, index(quants + i * 4))), half4), 0x0f0f0f0f);
              if (!high)
                return low;
              return join(low, left(keep(right(word(*high + i * 4), bit), 0x01010101), 4));
            }};
  }

  ScaledRun q6k(Value run) { // of 16: the first or second half of one of 2 x 4 runs of 32
    auto rest = [&](Value v, int64_t n) { return kernel.createOrFold<arith::RemUIOp>(v, index(n)); };
    Value part = kernel.floorDiv(run, 8), inPart = kernel.floorDiv(rest(run, 8), 2);
    Value first = kernel.mul(rest(run, 2), index(16));
    Value lowAt = kernel.add(kernel.add(kernel.mul(part, index(64)), kernel.mul(rest(inPart, 2), index(32))), first);
    Value highAt = kernel.add(kernel.mul(part, index(32)), first);
    Value half4 = count(kernel.mul(kernel.floorDiv(inPart, 2), index(4))), two = count(kernel.mul(inPart, index(2)));
    Value scales = word(kernel.add(kernel.mul(kernel.floorDiv(run, 4), index(4)), index(192)));
    Value scale = times(half(208), toFloat(signedByte(right(scales, count(kernel.mul(rest(run, 4), index(8)))), 0)));
    return {scale, times(scale, -32),
            [=, *this](int64_t i) mutable {
              Value low = keep(right(right(word(kernel.add(lowAt, index(i / 4 * 4))), half4), 8 * (i % 4)), 15);
              Value high = keep(right(right(word(kernel.add(highAt, index(128 + i / 4 * 4))), two), 8 * (i % 4)), 3);
              return toFloat(join(low, left(high, 4)));
            },
            [=, *this](int64_t i) mutable {
              Value low = keep(right(word(kernel.add(lowAt, index(i * 4))), half4), 0x0f0f0f0f);
              Value high = keep(right(word(kernel.add(highAt, index(128 + i * 4))), two), 0x03030303);
              return join(low, left(high, 4));
            }};
  }

  /// Weight i of 32 in the nibbles that begin at `offset`, laid out as q4_0's.
  Value halfByteAt(Value offset, int64_t i) {
    return right(word(kernel.add(offset, index(i % 16 / 4 * 4))), 8 * (i % 4) + i / 16 * 4);
  }
  /// Byte `number` of `v`, a code of 8 bits, as the f16 with its sign, exponent and significand: see
  /// BlockReader::half8. The factor between them is the scale's.
  Value half8(Value v, int64_t number) {
    Value top = left(v, 24 - 8 * number);
    top = format.codes == BlockCodes::E4M3 ? keep(arith::ShRSIOp::create(kernel, top, bits(1)), int32_t(0xBF800000))
                                           : keep(top, int32_t(0xFF000000));
    Value low = arith::TruncIOp::create(kernel, vectorOf(kernel.getI16Type()), right(top, 16));
    return toFloat(arith::BitcastOp::create(kernel, vectorOf(kernel.getF16Type()), low));
  }
  ScaledRun scaledCodes(Value run) {
    int64_t bytes = format.codes == BlockCodes::Int4 ? 16 : 32;
    Value first = kernel.add(kernel.mul(run, index(bytes)), index(format.codesBegin()));
    Value scale = format.halvesEnd
                      ? half(0)
                      : Value(arith::BitcastOp::create(kernel, vectorOf(kernel.getF32Type()), word(int64_t(0))));
    auto byteWord = [=, *this](int64_t i) mutable { return word(kernel.add(first, index(i / 4 * 4))); };
    switch (format.codes) {
    case BlockCodes::Int4:
      return {scale,
              {},
              [=, *this](int64_t i) mutable { return nibble(halfByteAt(first, i), -8); },
              [=, *this](int64_t i) mutable { return halfBytes(first, i); }};
    case BlockCodes::Int8:
      return {scale,
              {},
              [=, *this](int64_t i) mutable { return toFloat(signedByte(byteWord(i), i % 4)); },
              [=, *this](int64_t i) mutable { return unsignedBytes(byteWord(4 * i)); }};
    default:
      if (format.codes == BlockCodes::E4M3)
        scale = times(scale, 256);
      return {scale, {}, [=, *this](int64_t i) mutable { return half8(byteWord(i), i % 4); }, {}};
    }
  }

  ScaledRun read(Value run) {
    if (format.codes != BlockCodes::Ggml)
      return scaledCodes(run);
    StringRef name = format.name;
    if (name == "q4_0")
      return q4({}, 2, -8);
    if (name == "q4_1")
      return q4(half(2), 4, 0);
    if (name == "q5_0") {
      Value scale = half(0);
      return q5(scale, times(scale, -16), 2);
    }
    if (name == "q5_1")
      return q5(half(0), half(2), 4);
    if (name == "q4_k")
      return k45(run, 16, std::nullopt);
    if (name == "q5_k")
      return k45(run, 48, 16);
    if (name == "q6_k")
      return q6k(run);
    return {half(0),
            {},
            [=, *this](int64_t i) mutable { // q8_0
              return toFloat(signedByte(word(2 + i / 4 * 4), i % 4));
            },
            [=, *this](int64_t i) mutable { return unsignedBytes(word(2 + i * 4)); }};
  }
};

/// Fetches the run that lies `kAhead` bytes behind number `inBlock` of `block`. A core that decodes issues too few
/// loads to keep memory busy: 60 % of its bandwidth without this, 85 % with it.
void fetchAhead(DequantizeOp op, KernelBuilder &kernel, const BlockFormat &format, Value panel, Value block,
                Value inBlock) {
  constexpr int64_t kAhead = 4096, kLine = 64;
  Value buffer = kernel.buffers.lookup(op.getBlocks());
  auto type = cast<MemRefType>(buffer.getType());
  int64_t bytes = type.getDimSize(2) * blockRunLength(op) / format.block;
  Value flat = memref::CollapseShapeOp::create(kernel, buffer, SmallVector<ReassociationIndices>{{0, 1, 2}});
  auto index = [&](int64_t value) { return kernel.constantIndex(value); };
  Value number = kernel.add(kernel.mul(panel, index(type.getDimSize(1))), block);
  Value at = kernel.add(kernel.mul(number, index(type.getDimSize(2))), kernel.mul(inBlock, index(bytes)));
  for (int64_t line = 0; line < bytes; line += kLine)
    memref::PrefetchOp::create(kernel, flat, ValueRange{kernel.add(at, index(kAhead + line))}, /*isWrite=*/false,
                               /*localityHint=*/2, /*isDataCache=*/true);
}

/// A workgroup writes one panel.
struct PackBlocksModel : KernelOpInterface::ExternalModel<PackBlocksModel, PackBlocksOp> {
  bool isMain(Operation *) const { return true; }
  bool hasResultAtIndex(Operation *) const { return false; }

  ScheduleAttr getDefaultSchedule(Operation *op, TargetAttr, DimsAnalysis &) const {
    return singleVariant(op->getContext(), {1}, {1});
  }
  AffineExpr getWorkgroups(Operation *op, VariantAttr variant, DimsAnalysis &dims) const {
    return dims.get(op->getResult(0))[0].ceilDiv(variant.getWorkgroup()[0]);
  }

  LogicalResult emitKernel(Operation *op, KernelBuilder &kernel, VariantAttr variant) const {
    auto pack = cast<PackBlocksOp>(op);
    Value source = kernel.buffers.lookup(pack.getBlocks()), target;
    for (auto [value, buffer] : kernel.outputs)
      if (value == pack.getResult())
        target = buffer;
    if (!source || !target || kernel.outputs.size() != 1)
      return op->emitOpError("must stand alone in its kernel, between buffers");
    std::optional<BlockFormat> format = findBlockFormat(pack.getFormat());
    int64_t rows = cast<RankedTensorType>(pack.getBlocks().getType()).getDimSize(0);
    int64_t panel = pack.getPanel();
    auto index = [&](int64_t value) { return kernel.constantIndex(value); };
    Value zero = index(0), blocks = kernel.size(pack.getResult(), 1);
    auto copyRow = [&](Value number, Value block, Value r, Value row) {
      for (int64_t offset = 0; offset < format->bytes; offset += format->unitAt(offset)) {
        int64_t bytes = format->unitAt(offset);
        Value to = kernel.add(index(offset * panel), kernel.mul(r, index(bytes)));
        auto type = VectorType::get({bytes}, kernel.getI8Type());
        Value unit = arith::ConstantOp::create(kernel, kernel.getZeroAttr(type));
        if (row)
          unit = vector::LoadOp::create(
              kernel, type, source,
              ValueRange{row, kernel.add(kernel.mul(block, index(format->bytes)), index(offset))});
        vector::StoreOp::create(kernel, unit, target, ValueRange{number, block, to});
      }
    };
    Value begin = kernel.mul(kernel.workgroup, index(variant.getWorkgroup()[0]));
    Value panels = kernel.size(pack.getResult(), 0);
    Value end = kernel.min(kernel.add(begin, index(variant.getWorkgroup()[0])), panels);
    kernel.forLoop(begin, end, 1, [&](Value number) {
      Value first = kernel.mul(number, index(panel));
      Value filled = kernel.min(index(panel), kernel.sub(index(rows), first));
      kernel.forLoop(zero, blocks, 1, [&](Value block) {
        kernel.forLoop(zero, filled, 1, [&](Value r) { copyRow(number, block, r, kernel.add(first, r)); });
        if (rows % panel)
          kernel.forLoop(filled, index(panel), 1, [&](Value r) { copyRow(number, block, r, {}); });
      });
    });
    return success();
  }
};

} // namespace

int64_t blockRunLength(DequantizeOp op) { return !op.getPanel() ? 0 : op.getFormat() == "q6_k" ? 16 : 32; }

std::optional<RunCodes> blockRunCodes(DequantizeOp op) {
  if (!op.getPanel())
    return std::nullopt;
  BlockFormat format = *findBlockFormat(op.getFormat());
  switch (format.codes) {
  case BlockCodes::Ggml:
    return llvm::StringSwitch<RunCodes>(format.name)
        .Cases({"q4_1", "q4_k"}, {4, 0})
        .Cases({"q5_1", "q5_k"}, {5, 0})
        .Case("q4_0", {4, 8})
        .Case("q5_0", {5, 16})
        .Case("q6_k", {6, 32})
        .Case("q8_0", {8, 128});
  case BlockCodes::Int4:
    return RunCodes{4, 8};
  case BlockCodes::Int8:
    return RunCodes{8, 128};
  default:
    return std::nullopt;
  }
}

ScaledRun pullBlockRun(DequantizeOp op, KernelBuilder &kernel, Value panel, Value run, Value lane) {
  std::optional<BlockFormat> format = findBlockFormat(op.getFormat());
  int64_t perBlock = format->block / blockRunLength(op);
  Value block = kernel.floorDiv(run, perBlock);
  Value inBlock = kernel.createOrFold<arith::RemUIOp>(run, kernel.constantIndex(perBlock));
  if (matchPattern(lane, m_Zero()))
    fetchAhead(op, kernel, *format, panel, block, inBlock);
  return PanelReader{kernel, op, *format, panel, block, lane, kernel.width}.read(inBlock);
}

void registerPackBlocksModel(MLIRContext *context) { PackBlocksOp::attachInterface<PackBlocksModel>(*context); }

} // namespace mlir::dsc
