//===- AttentionKernels.cpp - attention over keys and values, and its cache ===//
//
// Online softmax (Milakov and Gimelshein 2018): keys are read in blocks of one
// vector of scores, and no row of scores is ever stored.
//
//===----------------------------------------------------------------------===//

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/Math/IR/Math.h"
#include "mlir/Dialect/Vector/IR/VectorOps.h"
#include "passes/codegen/Kernels.h"

namespace mlir::dsc {
namespace {

struct AttentionEmitter {
  AttentionOp op;
  KernelBuilder &kernel;
  Type type; // of scores and sums
  int64_t lanes, depth;
  Value batch, kvHead;

  int64_t chunks() const { return llvm::divideCeil(depth, lanes); }

  /// Chunk `c` of a head vector; beyond its end lanes are masked and read as 0.
  Value readChunk(Value tensor, SmallVector<Index> at, int64_t c) {
    if ((c + 1) * lanes > depth)
      kernel.mask = vector::CreateMaskOp::create(kernel, VectorType::get({lanes}, kernel.getI1Type()),
                                                 ValueRange{kernel.constantIndex(depth - c * lanes)});
    at.push_back(Index::lanes(kernel.constantIndex(c * lanes)));
    Value value = kernel.splat(kernel.convert(kernel.pull(tensor, at), type));
    kernel.mask = {};
    return value;
  }

  Value readKv(int64_t plane, Value position, int64_t c) {
    auto u = [](Value v) { return Index::uniform(v); };
    if (op.getCache())
      return readChunk(op.getCache(), {u(batch), u(kernel.constantIndex(plane)), u(kvHead), u(position)}, c);
    return readChunk(plane == 0 ? op.getKey() : op.getValue(), {u(batch), u(position), u(kvHead)}, c);
  }

  /// Number of keys in row `batch`.
  Value keyCount() {
    if (!op.getCache())
      return kernel.size(op.getKey(), 1);
    Value length = kernel.pull(op.getLengths(), {Index::uniform(batch)});
    length = arith::IndexCastOp::create(kernel, kernel.getIndexType(), length);
    return kernel.min(length, kernel.size(op.getCache(), 3));
  }

  void row(Value position, Value head) {
    kernel.width = lanes;
    Value zeroIndex = kernel.constantIndex(0), one = kernel.constantIndex(1);
    Value keys = keyCount();
    if (op.getCausal()) {
      Value visible = kernel.add(kernel.sub(keys, kernel.size(op.getQuery(), 1)), kernel.add(position, one));
      keys = arith::MaxSIOp::create(kernel, kernel.min(visible, keys), zeroIndex);
    }
    Value lastKey = kernel.sub(keys, one);

    SmallVector<Index> at{Index::uniform(batch), Index::uniform(position), Index::uniform(head)};
    Value scale = kernel.splat(kernel.constant(type, op.getScale().convertToFloat()));
    SmallVector<Value> query;
    for (int64_t c = 0; c < chunks(); ++c)
      query.push_back(arith::MulFOp::create(kernel, readChunk(op.getQuery(), at, c), scale));

    Value zero = kernel.zero(type);
    Value lowest = kernel.constant(type, -std::numeric_limits<double>::infinity());
    SmallVector<Value> start{lowest, zero};
    start.append(chunks(), kernel.splat(zero));
    SmallVector<Value> sums = kernel.forLoop(zeroIndex, keys, lanes, start, [&](Value block, ValueRange carried) {
      SmallVector<Value> positions;
      Value scores = kernel.splat(zero);
      for (int64_t i = 0; i < lanes; ++i) {
        positions.push_back(kernel.min(kernel.add(block, kernel.constantIndex(i)), lastKey));
        Value dot;
        for (int64_t c = 0; c < chunks(); ++c) {
          Value key = readKv(0, positions[i], c);
          dot = dot ? Value(vector::FMAOp::create(kernel, query[c], key, dot))
                    : Value(arith::MulFOp::create(kernel, query[c], key));
        }
        Value score = kernel.reduce(vector::CombiningKind::ADD, dot);
        scores = vector::InsertOp::create(kernel, score, scores, ArrayRef<int64_t>{i});
      }
      Value valid = vector::CreateMaskOp::create(kernel, VectorType::get({lanes}, kernel.getI1Type()),
                                                 ValueRange{kernel.sub(keys, block)});
      scores = arith::SelectOp::create(kernel, valid, scores, kernel.splat(lowest));
      Value max = arith::MaximumFOp::create(kernel, carried[0], kernel.reduce(vector::CombiningKind::MAXIMUMF, scores));
      Value rescale = math::ExpOp::create(kernel, arith::SubFOp::create(kernel, carried[0], max));
      Value weights = math::ExpOp::create(kernel, arith::SubFOp::create(kernel, scores, kernel.splat(max)));
      Value total = arith::AddFOp::create(kernel, arith::MulFOp::create(kernel, carried[1], rescale),
                                          kernel.reduce(vector::CombiningKind::ADD, weights));
      SmallVector<Value> next{max, total};
      for (int64_t c = 0; c < chunks(); ++c)
        next.push_back(arith::MulFOp::create(kernel, carried[2 + c], kernel.splat(rescale)));
      for (int64_t i = 0; i < lanes; ++i) {
        Value weight = kernel.splat(vector::ExtractOp::create(kernel, weights, i));
        for (int64_t c = 0; c < chunks(); ++c)
          next[2 + c] = vector::FMAOp::create(kernel, weight, readKv(1, positions[i], c), next[2 + c]);
      }
      return next;
    });

    // A query that sees nothing gives zeros, not 0 / 0.
    Value empty = arith::CmpFOp::create(kernel, arith::CmpFPredicate::OEQ, sums[1], zero);
    Value divisor = kernel.splat(arith::SelectOp::create(kernel, empty, kernel.constant(type, 1), sums[1]));
    for (int64_t c = 0; c < chunks(); ++c) {
      if ((c + 1) * lanes > depth)
        kernel.mask = vector::CreateMaskOp::create(kernel, VectorType::get({lanes}, kernel.getI1Type()),
                                                   ValueRange{kernel.constantIndex(depth - c * lanes)});
      Value value = arith::DivFOp::create(kernel, sums[2 + c], divisor);
      kernel.current[op.getResult()] = kernel.convert(value, getElementTypeOrSelf(op.getType()));
      SmallVector<Index> out(at);
      out.push_back(Index::lanes(kernel.constantIndex(c * lanes)));
      kernel.storeOutputs(out);
      kernel.mask = {};
    }
    kernel.width = 1;
  }
};

struct AttentionModel : KernelOpInterface::ExternalModel<AttentionModel, AttentionOp> {
  bool isMain(Operation *) const { return true; }
  bool readsOnce(Operation *, unsigned operand) const { return operand == 0; }

  ScheduleAttr getDefaultSchedule(Operation *op, TargetAttr target, DimsAnalysis &) const {
    return singleVariant(op->getContext(), {1, target.getVectorBytes() / 4}, {16});
  }
  AffineExpr getWorkgroups(Operation *op, VariantAttr variant, DimsAnalysis &dims) const {
    Dims query = dims.get(cast<AttentionOp>(op).getQuery());
    return query[0] * query[2] * query[1].ceilDiv(variant.getWorkgroup()[0]);
  }
  LogicalResult emitKernel(Operation *op, KernelBuilder &kernel, VariantAttr variant) const {
    auto attention = cast<AttentionOp>(op);
    auto query = cast<RankedTensorType>(attention.getQuery().getType());
    Value source = attention.getCache() ? attention.getCache() : attention.getKey();
    int64_t kvHeads = cast<RankedTensorType>(source.getType()).getDimSize(2);
    Type type = defaultAccumulatorType(query.getElementType());
    AttentionEmitter emitter{attention, kernel, type, kernel.lanesOf(type), query.getDimSize(3), {}, {}};
    int64_t block = variant.getWorkgroup()[0];
    Value positions = kernel.size(attention.getQuery(), 1);
    Value blocks = kernel.floorDiv(kernel.add(positions, kernel.constantIndex(block - 1)), block);
    SmallVector<Value> place = kernel.delinearize(
        kernel.workgroup, {kernel.size(attention.getQuery(), 0), kernel.size(attention.getQuery(), 2), blocks});
    emitter.batch = place[0];
    emitter.kvHead = kernel.floorDiv(place[1], query.getDimSize(2) / kvHeads);
    Value begin = kernel.mul(place[2], kernel.constantIndex(block));
    Value end = kernel.min(kernel.add(begin, kernel.constantIndex(block)), positions);
    kernel.forLoop(begin, end, 1, [&](Value position) { emitter.row(position, place[1]); });
    return success();
  }
};

/// Writes rows of keys and values into the buffer that the result shares with the cache.
struct KvAppendModel : KernelOpInterface::ExternalModel<KvAppendModel, KvAppendOp> {
  bool isMain(Operation *) const { return true; }
  bool hasResultAtIndex(Operation *) const { return false; }
  bool readsOnce(Operation *, unsigned operand) const { return operand < 2; }
  int64_t getTiedOperand(Operation *, unsigned) const { return 2; }

  ScheduleAttr getDefaultSchedule(Operation *op, TargetAttr target, DimsAnalysis &) const {
    return singleVariant(op->getContext(), {1, target.getVectorBytes() / 4}, {64});
  }
  AffineExpr getWorkgroups(Operation *op, VariantAttr variant, DimsAnalysis &dims) const {
    Dims rows = dims.get(cast<KvAppendOp>(op).getKey());
    rows.pop_back();
    return elementCount(rows, op->getContext()).ceilDiv(variant.getWorkgroup()[0]);
  }
  LogicalResult emitKernel(Operation *op, KernelBuilder &kernel, VariantAttr variant) const {
    auto append = cast<KvAppendOp>(op);
    Dims rows = kernel.dims.get(append.getKey());
    rows.pop_back();
    int64_t lanes = kernel.lanesOf(getElementTypeOrSelf(append.getKey()));
    Value capacity = kernel.size(append.getCache(), 3), depth = kernel.size(append.getKey(), 3);
    Value buffer = kernel.outputs[0].second;
    forRows(kernel, rows, variant.getWorkgroup()[0], [&](ArrayRef<Value> row) {
      Value start = kernel.pull(append.getPositions(), {Index::uniform(row[0])});
      start = arith::IndexCastOp::create(kernel, kernel.getIndexType(), start);
      Value position = kernel.add(start, row[1]);
      // One unsigned comparison also keeps negative positions out of memory.
      Value fits = arith::CmpIOp::create(kernel, arith::CmpIPredicate::ult, position, capacity);
      kernel.ifThen(fits, [&] {
        kernel.vectorLoop(kernel.constantIndex(0), depth, lanes, [&](Value j) {
          SmallVector<Index> from;
          for (Value i : row)
            from.push_back(Index::uniform(i));
          from.push_back(Index::lanes(j));
          const Value planes[] = {append.getKey(), append.getValue()};
          for (auto [plane, source] : llvm::enumerate(planes))
            kernel.store(
                kernel.pull(source, from), buffer,
                {from[0], Index::uniform(kernel.constantIndex(plane)), from[2], Index::uniform(position), from[3]});
        });
      });
    });
    return success();
  }
};

} // namespace

void registerAttentionModels(MLIRContext *context) {
  AttentionOp::attachInterface<AttentionModel>(*context);
  KvAppendOp::attachInterface<KvAppendModel>(*context);
}

} // namespace mlir::dsc
