//===- MatmulThreads.cpp - matrix products without matrix instructions ----===//
//
// Products of one row, which only read the right side, and those of types that
// the matrix instructions do not multiply exactly.
//
//===----------------------------------------------------------------------===//

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/Math/IR/Math.h"
#include "passes/codegen/gpu/MatmulBlock.h"

namespace mlir::dsc {
namespace {

class ThreadEmitter : MatmulBlock {
public:
  ThreadEmitter(MatmulOp op, KernelBuilder &kernel, VariantAttr variant) : MatmulBlock(op, kernel, variant) {
    locate({&kernel, kernel.workgroup});
  }

  /// A warp takes the columns of a tile, its lanes parts of the reduction.
  void row() {
    int64_t wide = variant.getTile()[1];
    std::optional<int64_t> length = staticDepth();
    int64_t lanes = length && *length % 8 == 0 ? 8 : 1;
    Int lane = (thread % kWarp).asIndex(), column = firstColumn + (thread / kWarp).asIndex() * wide;
    SmallVector<Value> sums(wide, kernel.zero(accType));
    SmallVector<Int> places; // columns beyond the last read it again
    for (int64_t j = 0; j < wide; ++j)
      places.push_back(min(column + j, columns - 1));
    kernel.width = lanes;
    // Several steps at a time keep more reads in flight.
    int64_t step = lanes * kWarp, steps = variant.getUnroll();
    Int whole = depth / (step * steps) * (step * steps), begin = lane * lanes;
    auto run = [&](Int first, Int end, int64_t count) {
      sums = kernel.forLoop(first, end, step * count, sums, [&](Value k, ValueRange carried) {
        SmallVector<Value> next(carried), left;
        SmallVector<SmallVector<Value>> right(count);
        for (int64_t i = 0; i < count; ++i) {
          Index here = Index::lanes(kernel.add(k, kernel.constantIndex(i * step)));
          left.push_back(widened(op.getLhs(), pullIndex(false, constant(0), here)));
          for (Int place : places)
            right[i].push_back(widened(op.getRhs(), pullIndex(true, place, here)));
        }
        for (int64_t i = 0; i < count; ++i)
          for (auto [sum, factor] : llvm::zip_equal(next, right[i]))
            for (int64_t lane = 0; lane < lanes; ++lane)
              sum = multiplyAdd(element(left[i], lane), element(factor, lane), sum);
        return next;
      });
    };
    if (steps > 1)
      run(begin, whole, steps);
    run(steps > 1 ? whole + begin : begin, depth, 1);
    kernel.width = 1;
    kernel.team = {1, kWarp, {}, lane};
    for (Value &sum : sums)
      sum = reduceTeam(kernel, vector::CombiningKind::ADD, sum);
    kernel.team = Team();
    SmallVector<Index> at = rowIndex(constant(0));
    // Lane j hands out column j.
    Value mine = sums.back();
    for (int64_t j = wide - 1; j-- > 0;)
      mine = arith::SelectOp::create(kernel, lane == j, sums[j], mine);
    Int place = column + lane;
    Value exists = arith::AndIOp::create(kernel, lane < wide, place < columns);
    kernel.ifThen(exists, [&] { finish(at, place, mine); });
  }

  /// A thread takes a tile.
  void tiles() {
    int64_t high = variant.getTile()[0], wide = variant.getTile()[1];
    int64_t across = variant.getWorkgroup()[1] / wide;
    Int row = firstRow + (thread / across).asIndex() * high, column = firstColumn + (thread % across).asIndex();
    // Adjacent threads take adjacent columns.
    SmallVector<Int> rowNumbers, columnNumbers;
    for (int64_t i = 0; i < high; ++i)
      rowNumbers.push_back(min(row + i, rows - 1));
    for (int64_t j = 0; j < wide; ++j)
      columnNumbers.push_back(min(column + j * across, columns - 1));
    SmallVector<Value> sums(high * wide, kernel.zero(accType));
    sums = kernel.forLoop(constant(0), depth, 1, sums, [&](Value k, ValueRange carried) {
      SmallVector<Value> left, right, next;
      for (Int r : rowNumbers)
        left.push_back(widened(op.getLhs(), pullIndex(false, r, Index::uniform(k))));
      for (Int c : columnNumbers)
        right.push_back(widened(op.getRhs(), pullIndex(true, c, Index::uniform(k))));
      for (int64_t i = 0; i < high; ++i)
        for (int64_t j = 0; j < wide; ++j)
          next.push_back(multiplyAdd(left[i], right[j], carried[i * wide + j]));
      return next;
    });
    for (int64_t i = 0; i < high; ++i) {
      SmallVector<Index> at = rowIndex(row + i);
      for (int64_t j = 0; j < wide; ++j) {
        Int place = column + j * across;
        Value exists = arith::AndIOp::create(kernel, (row + i) < rows, place < columns);
        kernel.ifThen(exists, [&] { finish(at, place, sums[i * wide + j]); });
      }
    }
  }

private:
  Value widened(Value tensor, ArrayRef<Index> at) { return kernel.convert(kernel.pull(tensor, at), accType); }
  Value element(Value value, int64_t i) {
    return kernel.isVector(value) ? Value(vector::ExtractOp::create(kernel, value, i)) : value;
  }
  Value multiplyAdd(Value a, Value b, Value sum) {
    if (isa<FloatType>(accType))
      return math::FmaOp::create(kernel, a, b, sum);
    return arith::AddIOp::create(kernel, arith::MulIOp::create(kernel, a, b), sum);
  }
};

} // namespace

LogicalResult emitMatmulRow(MatmulOp op, KernelBuilder &kernel, VariantAttr variant) {
  ArrayRef<int64_t> threads = variant.getThreads();
  if (threads.size() != 2 || threads[1] != kWarp || variant.getTile()[1] > kWarp ||
      variant.getWorkgroup()[1] != threads[0] * variant.getTile()[1])
    return op.emitOpError("one row needs a tile of at most 32 columns for each warp of the workgroup, got: ")
           << variant;
  ThreadEmitter(op, kernel, variant).row();
  return success();
}

LogicalResult emitMatmulThreads(MatmulOp op, KernelBuilder &kernel, VariantAttr variant) {
  ArrayRef<int64_t> tile = variant.getTile(), block = variant.getWorkgroup(), threads = variant.getThreads();
  if (threads.size() != 2 || block[0] % tile[0] != 0 || block[1] % tile[1] != 0 ||
      block[0] / tile[0] * (block[1] / tile[1]) != threads[0] * threads[1])
    return op.emitOpError("needs one tile for each thread of the workgroup, got: ") << variant;
  ThreadEmitter(op, kernel, variant).tiles();
  return success();
}

} // namespace mlir::dsc
