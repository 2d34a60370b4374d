//===- MatmulTiles.cpp - products on the machine's matrix tiles ------------===//
//
// A tile register holds 16 rows of 64 bytes. One instruction multiplies a tile
// of the left side, its rows along the reduction, with one of the right side,
// its rows groups of the reduction by columns, which is how panels lie in
// memory. Sums leave the registers through memory: their rows are then vectors
// like those of other products. (Intel SDM vol. 1, chapter 18.)
//
//===----------------------------------------------------------------------===//

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/LLVMIR/LLVMDialect.h"
#include "mlir/Dialect/MemRef/IR/MemRef.h"
#include "passes/codegen/MatmulEmitter.h"

namespace mlir::dsc {
namespace {

int64_t bytesOf(Value buffer) { return std::max(8u, cast<MemRefType>(buffer.getType()).getElementTypeBitWidth()) / 8; }

/// Address of an element of a buffer of static shape.
Value addressOf(KernelBuilder &kernel, Value buffer, ArrayRef<Value> index) {
  Value linear = kernel.constantIndex(0);
  for (auto [size, at] : llvm::zip_equal(cast<MemRefType>(buffer.getType()).getShape(), index))
    linear = kernel.add(kernel.mul(linear, kernel.constantIndex(size)), at);
  Value base = memref::ExtractAlignedPointerAsIndexOp::create(kernel, buffer);
  Value address = kernel.add(base, kernel.mul(linear, kernel.constantIndex(bytesOf(buffer))));
  Value word = arith::IndexCastOp::create(kernel, kernel.getI64Type(), address);
  return LLVM::IntToPtrOp::create(kernel, LLVM::LLVMPointerType::get(kernel.getContext()), word);
}

/// Calls a tile instruction on registers and what else it takes.
void callTile(KernelBuilder &kernel, StringRef name, ArrayRef<int64_t> registers, ValueRange operands = {}) {
  SmallVector<Value> arguments;
  for (int64_t number : registers)
    arguments.push_back(arith::ConstantOp::create(kernel, kernel.getI8IntegerAttr(number)));
  llvm::append_range(arguments, operands);
  LLVM::CallIntrinsicOp::create(kernel, kernel.getStringAttr("llvm.x86." + name), arguments);
}

/// Loads or stores a tile whose rows are `stride` bytes apart.
void moveTile(KernelBuilder &kernel, StringRef name, int64_t number, Value address, int64_t stride) {
  Value apart = arith::ConstantOp::create(kernel, kernel.getI64IntegerAttr(stride));
  callTile(kernel, name, {number}, {address, apart});
}

} // namespace

/// All registers hold whole tiles while the kernel runs; then they are given back, so that switching threads does not
/// save them.
void MatmulEmitter::configureTiles() {
  // Palette 1, bytes per row from byte 16 on, rows from byte 48 on.
  SmallVector<int8_t> bytes(64, 0);
  bytes[0] = 1;
  for (int64_t i = 0; i < kMachineTiles; ++i) {
    bytes[16 + 2 * i] = 64;
    bytes[48 + i] = kMachineTileRows;
  }
  auto function = kernel.getInsertionBlock()->getParent()->getParentOfType<func::FuncOp>();
  Operation *workgroups = function.front().findAncestorOpInBlock(*kernel.getInsertionBlock()->getParentOp());
  OpBuilder::InsertionGuard guard(kernel);
  kernel.setInsertionPoint(workgroups);
  Value config = constantBuffer(
      kernel, DenseElementsAttr::get(RankedTensorType::get({64}, kernel.getI8Type()), ArrayRef<int8_t>(bytes)));
  callTile(kernel, "ldtilecfg", {}, {addressOf(kernel, config, {kernel.constantIndex(0)})});
  kernel.setInsertionPointAfter(workgroups);
  callTile(kernel, "tilerelease", {});
}

/// Writes rows [begin, end) of the left side into `stage`, every 64 bytes of a row below those of the row before it.
/// Rows that a tile has too many of stay as they are: no other row's sums read them.
void MatmulEmitter::fillTileStage(Value begin, Value end) {
  Type element = cast<MemRefType>(stage.getType()).getElementType();
  int64_t width = std::min(kernel.kernelLanes(*op->getParentRegion()), kernel.lanesOf(element));
  int64_t length = block ? block : staticDepth();
  Value zero = kernel.constantIndex(0);
  kernel.forLoop(begin, end, 1, [&](Value row) {
    SmallVector<Index> at(batch);
    llvm::append_range(at, rowIndex(row));
    at.emplace_back();
    Value number = kernel.sub(row, begin), tile = kernel.floorDiv(number, tileRows);
    Value inTile = kernel.sub(number, kernel.mul(tile, kernel.constantIndex(tileRows)));
    auto store = [&](Value value, Value blockNumber, Value k) {
      Value chunks = kernel.floorDiv(k, chunk());
      Value rowNumber = kernel.add(kernel.mul(chunks, kernel.constantIndex(tileRows)), inTile);
      Value inChunk = kernel.sub(k, kernel.mul(chunks, kernel.constantIndex(chunk())));
      Value position = kernel.add(kernel.mul(rowNumber, kernel.constantIndex(chunk())), inChunk);
      SmallVector<Value> index{blockNumber, tile, position};
      if (kernel.isVector(value))
        vector::StoreOp::create(kernel, value, stage, index);
      else
        memref::StoreOp::create(kernel, value, stage, index);
    };
    kernel.forLoop(zero, depth, length, [&](Value blockBegin) {
      Value blockNumber = kernel.floorDiv(blockBegin, length);
      Value blockEnd = kernel.min(kernel.add(blockBegin, kernel.constantIndex(length)), depth);
      kernel.vectorLoop(blockBegin, blockEnd, width, [&](Value k) {
        at.back() = Index::lanes(k);
        store(stagedValue(at, element), blockNumber, kernel.sub(k, blockBegin));
      });
    });
    int64_t outer = std::exchange(kernel.width, width);
    Value none = width > 1 ? kernel.splat(kernel.zero(element)) : kernel.zero(element);
    int64_t last = (staticDepth() - 1) / length;
    for (int64_t k = llvm::alignTo(staticDepth(), width); k % chunk() != 0; k += width)
      store(none, kernel.constantIndex(last), kernel.constantIndex(k - last * length));
    kernel.width = outer;
  });
}

/// Copies what is left of a panel behind its last whole chunk.
void MatmulEmitter::fillLastChunk(Value column) {
  Value panels = kernel.buffers.lookup(op.getRhs());
  Value flat = memref::CollapseShapeOp::create(kernel, panels, SmallVector<ReassociationIndices>{{0}, {1}, {2, 3}});
  Value panel = kernel.floorDiv(column, vectors * lanes);
  Type element = getElementTypeOrSelf(op.getRhs());
  VectorType type = vectorOf(lanes * group, element);
  Value none = arith::ConstantOp::create(kernel, kernel.getZeroAttr(type));
  int64_t first = staticDepth() / chunk() * kMachineTileRows, count = llvm::divideCeil(staticDepth(), group);
  for (int64_t row = 0; row < kMachineTileRows; ++row)
    for (int64_t v = 0; v < vectors; ++v) {
      Value at = kernel.constantIndex(v * lanes * group), value = none;
      if (first + row < count)
        value = vector::LoadOp::create(kernel, type, flat, ValueRange{panel, kernel.constantIndex(first + row), at});
      vector::StoreOp::create(kernel, value, lastChunk, ValueRange{kernel.constantIndex(row), at});
    }
}

/// Adds the products of k in [begin, end) to a tile's rows of `partial`, which begin at row `sums`.
void MatmulEmitter::accumulateTiles(const Tile &tile, Value sums, Value begin, Value end) {
  int64_t high = tileRows / kMachineTileRows, firstLhs = high * vectors, firstRhs = firstLhs + high;
  auto forSums = [&](StringRef name) {
    for (int64_t r = 0; r < high; ++r)
      for (int64_t v = 0; v < vectors; ++v) {
        Value row = kernel.add(sums, kernel.constantIndex(r * kMachineTileRows));
        moveTile(kernel, name, r * vectors + v, addressOf(kernel, partial, {row, kernel.constantIndex(v * lanes)}),
                 vectors * lanes * 4);
      }
  };
  auto isFirst = [&](arith::CmpIPredicate predicate) -> Value {
    return arith::CmpIOp::create(kernel, predicate, begin, kernel.constantIndex(0));
  };
  kernel.ifThen(isFirst(arith::CmpIPredicate::eq), [&] {
    for (int64_t i = 0; i < firstLhs; ++i)
      callTile(kernel, "tilezero", {i});
  });
  if (block)
    kernel.ifThen(isFirst(arith::CmpIPredicate::ne), [&] { forSums("tileloadd64"); });

  StringRef multiply = isa<FloatType>(accType) ? "tdpbf16ps" : "tdpbssd";
  Value blockNumber = block ? kernel.floorDiv(begin, block) : begin;
  Value stageTile = kernel.floorDiv(kernel.sub(tile.rowNumbers[0], stageBegin), tileRows);
  auto step = [&](Value k, Value right, int64_t rightStride) {
    Value left = addressOf(kernel, stage,
                           {blockNumber, stageTile, kernel.mul(kernel.sub(k, begin), kernel.constantIndex(tileRows))});
    auto behind = [&](Value address, int64_t bytes) -> Value {
      return LLVM::GEPOp::create(kernel, address.getType(), kernel.getI8Type(), address,
                                 ArrayRef<LLVM::GEPArg>{static_cast<int32_t>(bytes)});
    };
    for (int64_t v = 0; v < vectors; ++v)
      moveTile(kernel, "tileloadd64", firstRhs + v, behind(right, v * 64), rightStride);
    for (int64_t r = 0; r < high; ++r) {
      moveTile(kernel, "tileloadd64", firstLhs + r, behind(left, r * kMachineTileRows * 64), 64);
      for (int64_t v = 0; v < vectors; ++v)
        callTile(kernel, multiply, {r * vectors + v, firstLhs + r, firstRhs + v});
    }
  };
  Prefetch next = prefetchAfter(tile, begin, end);
  int64_t length = block ? block : staticDepth(), turns = std::max<int64_t>(1, length / chunk());
  Value whole =
      kernel.add(begin, kernel.mul(kernel.floorDiv(kernel.sub(end, begin), chunk()), kernel.constantIndex(chunk())));
  kernel.forLoop(begin, whole, chunk(), [&](Value k) {
    Value turn = kernel.floorDiv(kernel.sub(k, begin), chunk());
    prefetchNext(next, turn);
    if (tile.fetchesResults) {
      int64_t perTurn = llvm::divideCeil(tileRows, turns);
      for (int64_t i = 0; i < perTurn; ++i)
        prefetchResults(tile, kernel.add(kernel.mul(turn, kernel.constantIndex(perTurn)), kernel.constantIndex(i)));
    }
    Value zero = kernel.constantIndex(0), right;
    if (rhsStage)
      right = addressOf(kernel, rhsStage, {kernel.floorDiv(kernel.sub(k, rhsBegin), group), zero});
    else
      right = addressOf(kernel, kernel.buffers.lookup(op.getRhs()),
                        {kernel.floorDiv(tile.column, vectors * lanes), kernel.floorDiv(k, group), zero, zero});
    step(k, right, vectors * 64);
  });
  if (lastChunk && (!block || tile.fetchesResults))
    step(whole, addressOf(kernel, lastChunk, {kernel.constantIndex(0), kernel.constantIndex(0)}), vectors * 64);
  forSums("tilestored64");
}

/// Hands the tile's rows of `partial` that lie before row `end` of the result to whoever reads it.
void MatmulEmitter::finishTiles(const Tile &tile, Value sums, Value end) {
  Value first = tile.rowNumbers[0];
  kernel.forLoop(first, kernel.min(kernel.add(first, kernel.constantIndex(tileRows)), end), 1, [&](Value row) {
    Value at = kernel.add(sums, kernel.sub(row, first));
    SmallVector<Value> values;
    for (int64_t v = 0; v < vectors; ++v)
      values.push_back(vector::LoadOp::create(kernel, vectorOf(lanes, accType), partial,
                                              ValueRange{at, kernel.constantIndex(v * lanes)}));
    finishRow(tile, rowIndex(row), values);
  });
}

/// The rows of a workgroup by one tile of columns.
void MatmulEmitter::tileColumns(Value column, Value rowBegin, Value rowEnd) {
  kernel.width = lanes;
  Value zero = kernel.constantIndex(0);
  if (lastChunk)
    fillLastChunk(column);
  auto forBlock = [&](Value k, Value end, bool last) {
    if (rhsStage)
      fillRhsStage(column, k, end);
    kernel.forLoop(rowBegin, rowEnd, tileRows, [&](Value row) {
      Tile tile;
      tile.column = column;
      tile.rowNumbers = {row};
      tile.fetchesResults = last;
      Value sums = block ? kernel.sub(row, rowBegin) : zero;
      accumulateTiles(tile, sums, k, end);
      if (last) {
        tile.masks = columnMasks(column);
        finishTiles(tile, sums, rowEnd);
      }
    });
  };
  int64_t lastBlock = block ? (staticDepth() - 1) / block * block : 0;
  kernel.forLoop(zero, kernel.constantIndex(lastBlock), std::max<int64_t>(1, block),
                 [&](Value k) { forBlock(k, kernel.add(k, kernel.constantIndex(block)), /*last=*/false); });
  forBlock(kernel.constantIndex(lastBlock), depth, /*last=*/true);
  kernel.width = 1;
}

} // namespace mlir::dsc
