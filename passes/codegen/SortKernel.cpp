//===- SortKernel.cpp - positions of a row in order ------------------------===//
//
// A whole row is sorted by exchanges. Its first positions alone are found by
// insertion, or, where a GPU's threads share the row, by narrowing their keys
// down digit by digit.
//
//===----------------------------------------------------------------------===//

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/Math/IR/Math.h"
#include "mlir/Dialect/MemRef/IR/MemRef.h"
#include "mlir/Dialect/SCF/IR/SCF.h"
#include "passes/codegen/Kernels.h"
#include "passes/codegen/gpu/Block.h"
#include <array>

namespace mlir::dsc {
namespace {

constexpr int64_t kDigitBits = 8, kDigits = 1 << kDigitBits;

struct SortEmitter {
  SortOp op;
  KernelBuilder &kernel;
  ArrayRef<Value> row;
  Type element = getElementTypeOrSelf(op.getInput());
  Value buffer = kernel.outputs[0].second;
  Value columns = kernel.size(op.getInput(), row.size());
  Value zero = kernel.constantIndex(0), one = kernel.constantIndex(1);

  Int index(Value v) { return {&kernel, v}; }
  Int i32(int64_t v) { return index(arith::ConstantOp::create(kernel, kernel.getI32IntegerAttr(v))); }

  Value input(Index column) {
    SmallVector<Index> at(llvm::map_range(row, Index::uniform));
    at.push_back(column);
    return kernel.pull(op.getInput(), at);
  }
  SmallVector<Value> place(Value column) {
    SmallVector<Value> at(row);
    at.push_back(column);
    return at;
  }
  Value position(Value column) { return memref::LoadOp::create(kernel, buffer, place(column)); }
  void setPosition(Value position, Value column) {
    memref::StoreOp::create(kernel, index(position).as(kernel.getI64Type()), buffer, place(column));
  }
  /// All threads of a block that shares the row see what was written.
  void meet() {
    if (kernel.team.shares())
      barrier(kernel);
  }
  /// Runs `body` at begin, begin + 1, ...; threads take turns.
  void forEach(Value begin, Value end, function_ref<void(Value)> body) {
    Value first = kernel.team.shares() ? kernel.add(begin, kernel.team.thread) : begin;
    kernel.forLoop(first, end, kernel.team.threads, body);
  }

  Value less(Value x, Value y);
  Value before(Value x, Value y) { return op.getDescending() ? less(y, x) : less(x, y); }

  void exchangeAll();
  void exchange(Value low, Value high);
  void insertAll(int64_t count);
  void insert(Value kept, Value last, Value x, Value column);
  void selectShared(int64_t count);
  Int key(Value x);
  struct Narrowed {
    Int prefix, wanted, equal;
  };
  using OverKeys = function_ref<void(function_ref<void(Int key, Int takesPart)>)>;
  Narrowed narrow(Int wanted, int64_t bits, Type type, OverKeys overKeys);
};

Value SortEmitter::less(Value x, Value y) {
  if (!isa<FloatType>(x.getType()))
    return arith::CmpIOp::create(kernel, arith::CmpIPredicate::slt, x, y);
  Value smaller = arith::CmpFOp::create(kernel, arith::CmpFPredicate::OLT, x, y);
  Value isNan = arith::CmpFOp::create(kernel, arith::CmpFPredicate::UNO, y, y);
  Value isNumber = arith::CmpFOp::create(kernel, arith::CmpFPredicate::ORD, x, x);
  return arith::OrIOp::create(kernel, smaller, arith::AndIOp::create(kernel, isNan, isNumber));
}

//===----------------------------------------------------------------------===//
// All positions
//===----------------------------------------------------------------------===//

/// Batcher's odd-even merge sort (Knuth, The Art of Computer Programming 3, 5.2.2, algorithm M) of positions in the
/// result's buffer: the exchanges of a step touch different ones.
void SortEmitter::exchangeAll() {
  Type i64 = kernel.getI64Type();
  if (kernel.team.shares())
    kernelFunction(kernel).setArgAttr(cast<BlockArgument>(buffer).getArgNumber(), kExchangedAttr, kernel.getUnitAttr());
  auto shiftLeft = [&](Value v, Value bits) -> Value { return arith::ShLIOp::create(kernel, v, bits); };
  auto shiftRight = [&](Value v, Value bits) -> Value { return arith::ShRUIOp::create(kernel, v, bits); };
  forEach(zero, columns, [&](Value i) { setPosition(i, i); });
  meet();
  // Rounds double p until it reaches the count.
  Value most = arith::MaxSIOp::create(kernel, columns, one);
  Value leading = math::CountLeadingZerosOp::create(kernel, index(kernel.sub(most, one)).as(i64));
  Value rounds = kernel.sub(kernel.constantIndex(64), index(leading).asIndex());
  kernel.forLoop(zero, rounds, 1, [&](Value round) {
    Value next = kernel.add(round, one);
    kernel.forLoop(zero, next, 1, [&](Value step) {
      Value bits = kernel.sub(round, step), k = shiftLeft(one, bits), twice = kernel.add(bits, one);
      Value start = arith::SelectOp::create(kernel, index(step) == 0, zero, k);
      // The partners of a step: runs of k positions, each with the run that follows.
      Value runs = shiftRight(kernel.add(kernel.sub(columns, start), kernel.sub(kernel.add(k, k), one)), twice);
      forEach(zero, shiftLeft(runs, bits), [&](Value pair) {
        Value inRun = arith::AndIOp::create(kernel, pair, kernel.sub(k, one));
        Value run = shiftLeft(shiftRight(pair, bits), twice);
        Value low = kernel.add(start, kernel.add(run, inRun)), high = kernel.add(low, k);
        Int together = index(shiftRight(low, next)) == index(shiftRight(high, next));
        kernel.ifThen(together & (index(high) < index(columns)), [&] { exchange(low, high); });
      });
      meet();
    });
  });
}

/// Exchanges two entries unless the first comes before the second.
void SortEmitter::exchange(Value low, Value high) {
  Value a = position(low), b = position(high);
  Value x = input(Index::uniform(index(a).asIndex())), y = input(Index::uniform(index(b).asIndex()));
  // Of equal ones the earlier comes first: no exchange is then without effect on the order.
  Value later = arith::CmpIOp::create(kernel, arith::CmpIPredicate::sgt, a, b);
  Value yes = arith::ConstantOp::create(kernel, kernel.getBoolAttr(true));
  Value notBefore = arith::AndIOp::create(kernel, arith::XOrIOp::create(kernel, before(x, y), yes), later);
  kernel.ifThen(arith::OrIOp::create(kernel, before(y, x), notBefore), [&] {
    setPosition(b, low);
    setPosition(a, high);
  });
}

//===----------------------------------------------------------------------===//
// The first positions, by one thread
//===----------------------------------------------------------------------===//

/// Keeps the first `count` of what was seen in order. Few of a long row come before the last one kept: vectors without
/// any are passed over.
void SortEmitter::insertAll(int64_t count) {
  Value wanted = kernel.constantIndex(count), last = kernel.constantIndex(count - 1);
  Type stored = element.isInteger(1) ? Type(kernel.getI8Type()) : element;
  Value kept = kernel.allocate(MemRefType::get({count}, stored));
  kernel.forLoop(zero, wanted, 1, [&](Value i) { setPosition(zero, i); });
  Value first = kernel.min(wanted, columns);
  kernel.forLoop(zero, first, 1, [&](Value i) { insert(kept, i, input(Index::uniform(i)), i); });
  int64_t lanes = kernel.kernelLanes(*op->getParentRegion());
  kernel.vectorLoop(first, columns, lanes, [&](Value j) {
    Value x = kernel.splat(input(Index::lanes(j)));
    Value least = kernel.splat(kernel.load(kept, element, {Index::uniform(last)}));
    // A NaN on either side counts here.
    bool descending = op.getDescending();
    Value hits = isa<FloatType>(element)
                     ? Value(arith::CmpFOp::create(
                           kernel, descending ? arith::CmpFPredicate::UGT : arith::CmpFPredicate::ULT, x, least))
                     : Value(arith::CmpIOp::create(
                           kernel, descending ? arith::CmpIPredicate::sgt : arith::CmpIPredicate::slt, x, least));
    if (kernel.mask)
      hits = arith::AndIOp::create(kernel, hits, kernel.mask);
    Value any =
        kernel.isVector(hits) ? Value(vector::ReductionOp::create(kernel, vector::CombiningKind::OR, hits)) : hits;
    kernel.ifThen(any, [&] {
      kernel.forLoop(j, kernel.min(kernel.add(j, kernel.constantIndex(lanes)), columns), 1, [&](Value column) {
        Value candidate = input(Index::uniform(column));
        Value worst = kernel.load(kept, element, {Index::uniform(last)});
        kernel.ifThen(before(candidate, worst), [&] { insert(kept, last, candidate, column); });
      });
    });
  });
}

/// Writes `x` to its place among entries [0, last); the others behind it move by one.
void SortEmitter::insert(Value kept, Value last, Value x, Value column) {
  auto loop = scf::WhileOp::create(kernel, TypeRange(kernel.getIndexType()), ValueRange(last));
  {
    OpBuilder::InsertionGuard guard(kernel);
    Block *condition = kernel.createBlock(&loop.getBefore(), {}, kernel.getIndexType(), kernel.getLoc());
    Value at = condition->getArgument(0), no = arith::ConstantOp::create(kernel, kernel.getBoolAttr(false));
    Value moves = ifElse(kernel, index(zero) < index(at), no,
                         [&] { return before(x, kernel.load(kept, element, {Index::uniform(kernel.sub(at, one))})); });
    scf::ConditionOp::create(kernel, moves, ValueRange(at));
    Block *body = kernel.createBlock(&loop.getAfter(), {}, kernel.getIndexType(), kernel.getLoc());
    Value to = body->getArgument(0), from = kernel.sub(to, one);
    kernel.store(kernel.load(kept, element, {Index::uniform(from)}), kept, {Index::uniform(to)});
    setPosition(position(from), to);
    scf::YieldOp::create(kernel, ValueRange(from));
  }
  kernel.store(x, kept, {Index::uniform(loop.getResult(0))});
  setPosition(column, loop.getResult(0));
}

//===----------------------------------------------------------------------===//
// The first positions, by all threads of a block
//===----------------------------------------------------------------------===//

/// An unsigned number that is the greater, the earlier an element comes.
Int SortEmitter::key(Value x) {
  unsigned width = element.getIntOrFloatBitWidth();
  Type raw = kernel.getIntegerType(width);
  auto constant = [&](const APInt &v) -> Value {
    return arith::ConstantOp::create(kernel, kernel.getIntegerAttr(raw, v));
  };
  Value sign = constant(APInt::getSignMask(width)), ones = constant(APInt::getAllOnes(width)), key;
  if (isa<FloatType>(element)) {
    Value none = kernel.zero(element);
    x = arith::SelectOp::create(kernel, arith::CmpFOp::create(kernel, arith::CmpFPredicate::OEQ, x, none), none, x);
    Value bits = arith::BitcastOp::create(kernel, raw, x);
    Value isNegative = arith::CmpIOp::create(kernel, arith::CmpIPredicate::slt, bits, constant(APInt(width, 0)));
    key = arith::XOrIOp::create(kernel, bits, arith::SelectOp::create(kernel, isNegative, ones, sign));
    key = arith::SelectOp::create(kernel, arith::CmpFOp::create(kernel, arith::CmpFPredicate::UNO, x, x), ones, key);
  } else {
    key = arith::XOrIOp::create(kernel, x, sign);
  }
  if (!op.getDescending())
    key = arith::XOrIOp::create(kernel, key, ones);
  return index(key).as(width <= 32 ? kernel.getI32Type() : kernel.getI64Type());
}

/// The key that is number `wanted` (i32, from 1) of all by size, how many `equal` ones there are and how many of these
/// are among the first `wanted`. Threads count digits of 8 bits, from the top, among keys that agree so far.
SortEmitter::Narrowed SortEmitter::narrow(Int wanted, int64_t bits, Type type, OverKeys overKeys) {
  Type i32Type = kernel.getI32Type();
  Value counts = sharedMemory(kernel, "counts", MemRefType::get({kDigits}, i32Type));
  Value found = sharedMemory(kernel, "found", MemRefType::get({3}, i32Type));
  int64_t threads = kernel.team.threads, digits = std::max<int64_t>(1, kDigits / threads);
  Value thread = kernel.team.thread, none = arith::ConstantOp::create(kernel, kernel.getIntegerAttr(type, 0));
  auto shiftRight = [&](Int v, Int by) { return index(arith::ShRUIOp::create(kernel, v.v, by.as(v.v.getType()).v)); };
  SmallVector<Value> start{none, wanted, i32(0)};
  SmallVector<Value> end =
      kernel.forLoop(zero, kernel.constantIndex(bits / kDigitBits), 1, start, [&](Value pass, ValueRange carried) {
        Int prefix = index(carried[0]), left = index(carried[1]);
        Int shift = index(kernel.constantIndex(bits - kDigitBits)) - index(pass) * kDigitBits;
        Int eight = i32(kDigitBits);
        forEach(zero, kernel.constantIndex(kDigits),
                [&](Value digit) { memref::StoreOp::create(kernel, i32(0), counts, digit); });
        barrier(kernel);
        Int above = shiftRight(shiftRight(prefix, shift), eight);
        overKeys([&](Int key, Int takesPart) {
          Int here = shiftRight(key, shift);
          kernel.ifThen(takesPart & (shiftRight(here, eight) == above), [&] {
            memref::AtomicRMWOp::create(kernel, arith::AtomicRMWKind::addi, i32(1), counts,
                                        ValueRange{(here & (kDigits - 1)).asIndex()});
          });
        });
        barrier(kernel);
        // Each thread has some digits, the first one those of the greatest keys.
        Int first = index(kernel.constantIndex(kDigits - 1)) - index(thread) * digits;
        auto countOf = [&](int64_t digit) {
          Value at = (first - digit).v;
          if (threads <= kDigits)
            return index(memref::LoadOp::create(kernel, counts, at));
          return index(ifElse(kernel, index(thread) < kDigits, i32(0),
                              [&]() -> Value { return memref::LoadOp::create(kernel, counts, at); }));
        };
        SmallVector<Int> own;
        for (int64_t digit = 0; digit < digits; ++digit)
          own.push_back(countOf(digit));
        Int total = own[0];
        for (Int count : ArrayRef(own).drop_front())
          total = total + count;
        Value ahead = beforeInTeam(kernel, total, [&](Value a, Value b) -> Value { return index(a) + index(b); });
        Int passed = select(index(thread) == 0, i32(0), index(ahead));
        for (auto [digit, count] : llvm::enumerate(own)) {
          Int next = passed + count;
          kernel.ifThen((passed < left) & (left < next + 1), [&, passed = passed, count = count] {
            std::array<Int, 3> values{(first - static_cast<int64_t>(digit)).asI32(), left - passed, count};
            for (auto [slot, value] : llvm::enumerate(values))
              memref::StoreOp::create(kernel, value, found, kernel.constantIndex(slot));
          });
          passed = next;
        }
        barrier(kernel);
        auto read = [&](int64_t slot) {
          return index(memref::LoadOp::create(kernel, found, kernel.constantIndex(slot)));
        };
        Value digit = arith::ShLIOp::create(kernel, read(0).as(type).v, shift.as(type).v);
        return SmallVector<Value>{prefix + index(digit), read(1), read(2)};
      });
  return {index(end[0]), index(end[1]), index(end[2])};
}

void SortEmitter::selectShared(int64_t count) {
  Type i32Type = kernel.getI32Type();
  int64_t width = element.getIntOrFloatBitWidth(), bits = llvm::alignTo(width, kDigitBits),
          threads = kernel.team.threads;
  Type keyType = width <= 32 ? i32Type : Type(kernel.getI64Type());
  int64_t lanes = kernel.lanesOver(columns, kernel.kernelLanes(*op->getParentRegion()));
  Int yes = index(arith::ConstantOp::create(kernel, kernel.getBoolAttr(true)));
  auto overRow = [&](function_ref<void(Int, Int)> body) { // key and column of each element
    kernel.vectorLoop(zero, columns, lanes, [&](Value j) {
      Value x = input(Index::lanes(j));
      if (!kernel.isVector(x))
        return body(key(x), index(j));
      for (int64_t lane = 0; lane < kernel.width; ++lane)
        body(key(vector::ExtractOp::create(kernel, x, lane)), index(j) + lane);
    });
  };
  auto notLess = [&](Int a, Int b) {
    return index(arith::CmpIOp::create(kernel, arith::CmpIPredicate::uge, a.v, b.v));
  };

  Value whole = kernel.min(columns, kernel.constantIndex(count));
  Int wanted = index(whole).asI32();
  forEach(whole, kernel.constantIndex(count), [&](Value i) { setPosition(zero, i); });
  kernel.ifThen(index(zero) < index(whole), [&] {
    // The first of each thread bound the key that is looked for: few others are then counted, and few threads wait for
    // each other where they count the same digit.
    Value bound = arith::ConstantOp::create(kernel, kernel.getIntegerAttr(keyType, 0));
    if (threads >= count) {
      Value own = kernel.allocate(MemRefType::get({1}, keyType));
      memref::StoreOp::create(kernel, bound, own, zero);
      overRow([&](Int key, Int) {
        Value greatest = arith::MaxUIOp::create(kernel, key, memref::LoadOp::create(kernel, own, zero));
        memref::StoreOp::create(kernel, greatest, own, zero);
      });
      Int mine = index(memref::LoadOp::create(kernel, own, zero));
      bound = narrow(wanted, bits, keyType, [&](function_ref<void(Int, Int)> body) { body(mine, yes); }).prefix;
    }
    Narrowed value = narrow(wanted, bits, keyType, [&](function_ref<void(Int, Int)> body) {
      overRow([&](Int key, Int) { body(key, notLess(key, index(bound))); });
    });
    // Of equal ones the first come first.
    auto reversed = [&](Int column) { return i32(-1) - column.asI32(); };
    Value lastColumn = ifElse(kernel, value.wanted < value.equal, i32(0), [&]() -> Value {
      return narrow(value.wanted, 32, i32Type,
                    [&](function_ref<void(Int, Int)> body) {
                      overRow([&](Int key, Int column) { body(reversed(column), key == value.prefix); });
                    })
          .prefix;
    });
    Value used = sharedMemory(kernel, "used", MemRefType::get({1}, i32Type));
    Value keys = sharedMemory(kernel, "keys", MemRefType::get({count}, keyType));
    Value places = sharedMemory(kernel, "places", MemRefType::get({count}, i32Type));
    kernel.ifThen(index(kernel.team.thread) == 0, [&] { memref::StoreOp::create(kernel, i32(0), used, zero); });
    barrier(kernel);
    overRow([&](Int key, Int column) {
      Value greater = arith::CmpIOp::create(kernel, arith::CmpIPredicate::ugt, key, value.prefix);
      Int tied = (key == value.prefix) & notLess(reversed(column), index(lastColumn));
      kernel.ifThen(arith::OrIOp::create(kernel, greater, tied), [&] {
        Value slot = memref::AtomicRMWOp::create(kernel, arith::AtomicRMWKind::addi, i32(1), used, zero);
        Value at = index(slot).asIndex();
        memref::StoreOp::create(kernel, key, keys, at);
        memref::StoreOp::create(kernel, column.asI32(), places, at);
      });
    });
    barrier(kernel);
    forEach(zero, whole, [&](Value entry) {
      Value mine = memref::LoadOp::create(kernel, keys, entry), place = memref::LoadOp::create(kernel, places, entry);
      Value rank = kernel.forLoop(zero, whole, 1, {zero}, [&](Value other, ValueRange carried) {
        Value theirs = memref::LoadOp::create(kernel, keys, other);
        Int greater = index(arith::CmpIOp::create(kernel, arith::CmpIPredicate::ugt, theirs, mine));
        Int earlier = index(memref::LoadOp::create(kernel, places, other)) < index(place);
        Value ahead = arith::OrIOp::create(kernel, greater, (index(theirs) == index(mine)) & earlier);
        return SmallVector<Value>{kernel.add(carried[0], arith::SelectOp::create(kernel, ahead, one, zero))};
      })[0];
      setPosition(place, rank);
    });
    barrier(kernel); // a next row writes the same memory
  });
}

} // namespace

void emitSortedRow(SortOp op, KernelBuilder &kernel, ArrayRef<Value> row) {
  SortEmitter emitter{op, kernel, row};
  if (!op.selects())
    return emitter.exchangeAll();
  int64_t count = op.getType().getShape().back();
  if (count == 0)
    return;
  return kernel.team.shares() ? emitter.selectShared(count) : emitter.insertAll(count);
}

} // namespace mlir::dsc
