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

/// What a reader fetches long before it is read. A core that decodes issues too few loads to keep memory busy: 60 % of
/// its bandwidth without this, 85 % with it.
struct Ahead {
  Value stream, first; // the panels as bytes, and where it begins
  int64_t bytes = 0;
};

/// What group `number` of `block` fetches.
Ahead aheadOf(DequantizeOp op, KernelBuilder &kernel, const BlockFormat &format, Value panel, Value block,
              Value number) {
  constexpr int64_t kAhead = 4096;
  Value buffer = kernel.buffers.lookup(op.getBlocks());
  auto type = cast<MemRefType>(buffer.getType());
  int64_t bytes = type.getDimSize(2) * blockRunLength(op) * blockRunsTogether(op) / format.block;
  Value stream = memref::CollapseShapeOp::create(kernel, buffer, SmallVector<ReassociationIndices>{{0, 1, 2}});
  auto index = [&](int64_t value) { return kernel.constantIndex(value); };
  Value before = kernel.add(kernel.mul(panel, index(type.getDimSize(1))), block);
  Value at = kernel.add(kernel.mul(before, index(type.getDimSize(2))), kernel.mul(number, index(bytes)));
  return {stream, kernel.add(at, index(kAhead)), bytes};
}

/// Reads one block of a vector of rows.
struct PanelReader {
  KernelBuilder &kernel;
  DequantizeOp op;
  BlockFormat format;
  Value panel, block, lane;
  int64_t lanes;
  Ahead ahead; // of the first vector of a panel, else nothing

  VectorType vectorOf(Type element) { return VectorType::get({lanes}, element); }
  void fetch(Value offset) {
    memref::PrefetchOp::create(kernel, ahead.stream, kernel.add(ahead.first, offset), /*isWrite=*/false,
                               /*localityHint=*/2, /*isDataCache=*/true);
  }
  void fetchAll() {
    for (int64_t offset = 0; offset < ahead.bytes; offset += kLineBytes)
      fetch(index(offset));
  }
  /// The share of one of the runs that are read together, the one at `position` in their order, at its codes number
  /// `i`: all lines at once would wait for one another.
  void fetchShare(int64_t position, Value i) {
    if (!ahead.stream)
      return;
    int64_t fours = blockRunLength(op) / 4, together = blockRunsTogether(op);
    int64_t bytes = ahead.bytes / (together * fours), beside = std::min(together, kRunsAtOnce);
    int64_t before = position / beside * beside * fours + position % beside;
    for (int64_t offset = 0; offset < bytes; offset += kLineBytes)
      fetch(kernel.add(kernel.mul(i, index(beside * bytes)), index(before * bytes + offset)));
  }
  Value index(int64_t value) { return kernel.constantIndex(value); }
  int64_t number(Value constant) { return *getConstantIntValue(constant); }

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
  Value wordAt(int64_t offset, Value i) { return kernel.add(kernel.mul(i, index(4)), index(offset)); }
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
  Value halfByte(Value offset, int64_t i) {
    return right(word(kernel.add(offset, index(i % 16 / 4 * 4))), 8 * (i % 4) + i / 16 * 4);
  }

  /// Four of them from 4 i on, a byte each.
  Value halfBytes(Value offset, int64_t i) {
    return keep(right(word(kernel.add(offset, index(i % 4 * 4))), i / 4 * 4), 0x0f0f0f0f);
  }

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
    return {half(0), offset,
            [=, *this](Value i, int64_t j) mutable { return nibble(halfByte(index(quants), 4 * number(i) + j), bias); },
            [=, *this](Value i) mutable { return halfBytes(index(quants), number(i)); }};
  }
  ScaledRun q5(Value scale, Value offset, int64_t high) {
    return {scale, offset,
            [=, *this](Value i, int64_t j) mutable {
              int64_t element = 4 * number(i) + j;
              Value low = keep(halfByte(index(high + 4), element), 15);
              return toFloat(join(low, keep(fifthBit(word(high), element), 16)));
            },
            [=, *this](Value i) mutable {
              return join(halfBytes(index(high + 4), number(i)), fifthBits(word(high), number(i)));
            }};
  }

  /// Scales and minima of runs 2 `pair` and 2 `pair` + 1 of 8: see BlockReader::scaleAndMinimum.
  std::array<std::array<Value, 2>, 2> scalesAndMinima(Value pair) {
    auto all = [&](Value value) -> Value {
      return vector::BroadcastOp::create(kernel, vectorOf(kernel.getI32Type()), value);
    };
    auto pick = [&](Value condition, int64_t yes, int64_t no) -> Value {
      Value a = arith::ConstantOp::create(kernel, kernel.getI32IntegerAttr(yes));
      Value b = arith::ConstantOp::create(kernel, kernel.getI32IntegerAttr(no));
      return arith::SelectOp::create(kernel, condition, a, b);
    };
    Value early = arith::CmpIOp::create(kernel, arith::CmpIPredicate::ult, pair, index(2));
    Value number = kernel.createOrFold<arith::RemUIOp>(pair, index(2)), shift = count(kernel.mul(number, index(16)));
    Value joined = all(pick(early, 0x3f3f, 0x3030)), more = all(pick(early, 0, 2)), low = all(pick(early, 0, 0x0f0f));
    Value rest = right(word(12), shift);
    auto fields = [&](int64_t offset, int64_t half) -> std::array<Value, 2> {
      Value top = arith::AndIOp::create(kernel, right(right(word(offset), shift), more), joined);
      Value both = join(top, arith::AndIOp::create(kernel, right(rest, half), low));
      return {toFloat(keep(both, 255)), toFloat(right(both, 8))};
    };
    return {fields(4, 0), fields(8, 4)};
  }
  /// Runs 2 `pair` and 2 `pair` + 1 of 8, the halves of the same bytes.
  SmallVector<ScaledRun> k45(Value pair, int64_t quants, std::optional<int64_t> high) {
    auto [scales, minima] = scalesAndMinima(pair);
    Value scale = half(0), minimum = negated(half(2)), first = kernel.mul(pair, index(32));
    Value bit = count(kernel.mul(pair, index(2)));
    SmallVector<ScaledRun> runs;
    for (int64_t r = 0; r < 2; ++r) {
      auto halves = [=, *this](Value i) mutable { return word(kernel.add(first, wordAt(quants, i))); };
      auto fifths = [=, *this](Value i) mutable { return right(word(wordAt(*high, i)), bit); }; // bit r of each byte
      runs.push_back({times(scale, scales[r]), times(minimum, minima[r]),
                      [=, *this](Value i, int64_t j) mutable {
                        if (j == 0)
                          fetchShare(r, i);
                        Value low = right(halves(i), 8 * j + 4 * r);
                        return high ? toFloat(join(keep(low, 15), keep(fifthBit(fifths(i), 8 * j + r), 16)))
                                    : nibble(low, 0);
                      },
                      [=, *this](Value i) mutable {
                        fetchShare(r, i);
                        Value low = keep(right(halves(i), 4 * r), 0x0f0f0f0f);
                        return high ? join(low, keep(left(fifths(i), 4 - r), 0x10101010)) : low;
                      },
                      r});
    }
    return runs;
  }

  /// The 8 runs of 16 in half `part` of a block: two for each of four runs of 32, which are halves of 64 bytes with two
  /// more bits in 32.
  SmallVector<ScaledRun> q6k(Value part) {
    Value scale = half(208), low = kernel.mul(part, index(64)), high = kernel.mul(part, index(32));
    Value scalesAt = kernel.mul(part, index(8));
    SmallVector<ScaledRun> runs;
    // Two neighbours are halves of the same bytes, four have the same top bits.
    for (auto [position, r] : llvm::enumerate(std::array<int64_t, 8>{0, 4, 2, 6, 1, 5, 3, 7})) {
      int64_t number = r / 2, first = r % 2 * 16;
      auto halves = [=, *this](Value i) mutable {
        return right(word(kernel.add(low, wordAt(number % 2 * 32 + first, i))), number / 2 * 4);
      };
      auto tops = [=, *this](Value i) mutable { return word(kernel.add(high, wordAt(128 + first, i))); };
      Value scales = word(kernel.add(scalesAt, index(192 + r / 4 * 4)));
      Value own = times(scale, toFloat(signedByte(scales, r % 4)));
      runs.push_back({own, times(own, -32),
                      [=, *this](Value i, int64_t j) mutable {
                        if (j == 0)
                          fetchShare(position, i);
                        Value top = keep(right(tops(i), 8 * j + number * 2), 3);
                        return toFloat(join(keep(right(halves(i), 8 * j), 15), left(top, 4)));
                      },
                      [=, *this](Value i) mutable {
                        fetchShare(position, i);
                        Value top = number > 2 ? right(tops(i), 2) : left(tops(i), 4 - number * 2);
                        return join(keep(halves(i), 0x0f0f0f0f), keep(top, 0x30303030));
                      },
                      r});
    }
    return runs;
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
    auto four = [=, *this](Value i) mutable { return word(kernel.add(first, index(4 * number(i)))); };
    switch (format.codes) {
    case BlockCodes::Int4:
      return {scale,
              {},
              [=, *this](Value i, int64_t j) mutable { return nibble(halfByte(first, 4 * number(i) + j), -8); },
              [=, *this](Value i) mutable { return halfBytes(first, number(i)); }};
    case BlockCodes::Int8:
      return {scale,
              {},
              [=, *this](Value i, int64_t j) mutable { return toFloat(signedByte(four(i), j)); },
              [=, *this](Value i) mutable { return unsignedBytes(four(i)); }};
    default:
      if (format.codes == BlockCodes::E4M3)
        scale = times(scale, 256);
      return {scale, {}, [=, *this](Value i, int64_t j) mutable { return half8(four(i), j); }, {}};
    }
  }

  /// Runs that are read together, group `number` of the block's.
  SmallVector<ScaledRun> read(Value number) {
    if (blockRunsTogether(op) == 1)
      fetchAll();
    if (format.codes != BlockCodes::Ggml)
      return {scaledCodes(number)};
    StringRef name = format.name;
    if (name == "q4_0")
      return {q4({}, 2, -8)};
    if (name == "q4_1")
      return {q4(half(2), 4, 0)};
    if (name == "q5_0") {
      Value scale = half(0);
      return {q5(scale, times(scale, -16), 2)};
    }
    if (name == "q5_1")
      return {q5(half(0), half(2), 4)};
    if (name == "q4_k")
      return k45(number, 16, std::nullopt);
    if (name == "q5_k")
      return k45(number, 48, 16);
    if (name == "q6_k")
      return q6k(number);
    return {ScaledRun{half(0),
                      {},
                      [=, *this](Value i, int64_t j) mutable { // q8_0
                        return toFloat(signedByte(word(wordAt(2, i)), j));
                      },
                      [=, *this](Value i) mutable { return unsignedBytes(word(wordAt(2, i))); }}};
  }
};

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

int64_t blockRunsTogether(DequantizeOp op) {
  return llvm::StringSwitch<int64_t>(op.getFormat()).Cases({"q4_k", "q5_k"}, 2).Case("q6_k", 8).Default(1);
}

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

SmallVector<ScaledRun> pullBlockRuns(DequantizeOp op, KernelBuilder &kernel, Value panel, Value run, Value lane) {
  std::optional<BlockFormat> format = findBlockFormat(op.getFormat());
  int64_t together = blockRunsTogether(op), groups = format->block / blockRunLength(op) / together;
  Value group = kernel.floorDiv(run, together), block = kernel.floorDiv(group, groups);
  Value number = kernel.createOrFold<arith::RemUIOp>(group, kernel.constantIndex(groups));
  Ahead ahead = matchPattern(lane, m_Zero()) ? aheadOf(op, kernel, *format, panel, block, number) : Ahead();
  return PanelReader{kernel, op, *format, panel, block, lane, kernel.width, ahead}.read(number);
}

void registerPackBlocksModel(MLIRContext *context) { PackBlocksOp::attachInterface<PackBlocksModel>(*context); }

} // namespace mlir::dsc
