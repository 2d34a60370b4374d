//===- Team.cpp - what the threads of a GPU's block do together -----------===//
//
// Loops that threads share, and values that they combine: by shuffles within a
// warp, through shared memory beyond it.
//
//===----------------------------------------------------------------------===//

#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/LLVMIR/NVVMDialect.h"
#include "mlir/Dialect/MemRef/IR/MemRef.h"
#include "passes/codegen/gpu/Block.h"
#include "llvm/ADT/ScopeExit.h"

namespace mlir::dsc {

Team beginTeam(KernelBuilder &kernel, ArrayRef<int64_t> threads) {
  Team team;
  if (threads.empty())
    return team;
  team.teams = threads[0];
  team.threads = threads[1];
  Value number = threadNumber(kernel), size = kernel.constantIndex(team.threads);
  bool one = team.teams == 1;
  team.team = one ? kernel.constantIndex(0) : kernel.createOrFold<arith::DivUIOp>(number, size);
  team.thread = one ? number : kernel.createOrFold<arith::RemUIOp>(number, size);
  return team;
}

static Value shuffle(KernelBuilder &kernel, Value value, NVVM::ShflKind kind, Value lane) {
  Type type = value.getType(), i32 = kernel.getI32Type(), i64 = kernel.getI64Type();
  auto constant = [&](int64_t v) -> Value { return arith::ConstantOp::create(kernel, kernel.getI32IntegerAttr(v)); };
  auto word = [&](Value v) -> Value {
    Value clamp = constant(kind == NVVM::ShflKind::up ? 0 : 31);
    return NVVM::ShflOp::create(kernel, v.getType(), constant(-1), v, lane, clamp, kind, UnitAttr());
  };
  if (type.isF32() || type.isInteger(32))
    return word(value);
  if (type.isIndex())
    return arith::IndexCastOp::create(kernel, type,
                                      shuffle(kernel, arith::IndexCastOp::create(kernel, i64, value), kind, lane));
  unsigned width = type.getIntOrFloatBitWidth();
  Type whole = kernel.getIntegerType(width);
  Value raw = isa<FloatType>(type) ? Value(arith::BitcastOp::create(kernel, whole, value)) : value;
  if (width < 32) {
    raw = arith::TruncIOp::create(kernel, whole, word(arith::ExtUIOp::create(kernel, i32, raw)));
  } else {
    Value shift = arith::ConstantOp::create(kernel, kernel.getI64IntegerAttr(32));
    Value high = arith::TruncIOp::create(kernel, i32, arith::ShRUIOp::create(kernel, raw, shift));
    Value low = arith::ExtUIOp::create(kernel, i64, word(arith::TruncIOp::create(kernel, i32, raw)));
    high = arith::ExtUIOp::create(kernel, i64, word(high));
    raw = arith::OrIOp::create(kernel, low, arith::ShLIOp::create(kernel, high, shift));
  }
  return isa<FloatType>(type) ? Value(arith::BitcastOp::create(kernel, type, raw)) : raw;
}

Value fromLane(KernelBuilder &kernel, Value value, Value lane) {
  return shuffle(kernel, value, NVVM::ShflKind::idx, lane);
}

void syncWarp(KernelBuilder &kernel) {
  NVVM::SyncWarpOp::create(kernel, Value(arith::ConstantOp::create(kernel, kernel.getI32IntegerAttr(-1))));
}

Value reduceTeam(KernelBuilder &kernel, vector::CombiningKind kind, Value value) {
  auto combine = [&](int64_t lanes, Value v) {
    for (int64_t bits = lanes / 2; bits > 0; bits /= 2)
      v = vector::makeArithReduction(kernel, kernel.getLoc(), kind, v,
                                     shuffle(kernel, v, NVVM::ShflKind::bfly,
                                             Value(arith::ConstantOp::create(kernel, kernel.getI32IntegerAttr(bits)))));
    return v;
  };
  int64_t threads = kernel.team.threads;
  value = combine(std::min(threads, kWarp), value);
  if (threads <= kWarp)
    return value;
  // One value of each warp, which all warps combine.
  int64_t warps = threads / kWarp;
  Type type = value.getType(), stored = type.isInteger(1) ? Type(kernel.getI8Type()) : type;
  auto cast = [&](Value v, Type to) { return v.getType() == to ? v : Int{&kernel, v}.as(to).v; };
  std::string name = "warps";
  llvm::raw_string_ostream(name) << stored;
  Value memory = sharedMemory(kernel, name, MemRefType::get({kernel.team.teams * warps}, stored));
  Value first = kernel.mul(kernel.team.team, kernel.constantIndex(warps));
  Value lane = kernel.createOrFold<arith::RemUIOp>(kernel.team.thread, kernel.constantIndex(kWarp));
  Value warp = kernel.add(first, kernel.floorDiv(kernel.team.thread, kWarp));
  kernel.ifThen(arith::CmpIOp::create(kernel, arith::CmpIPredicate::eq, lane, kernel.constantIndex(0)),
                [&] { memref::StoreOp::create(kernel, cast(value, stored), memory, ValueRange{warp}); });
  barrier(kernel);
  Value mine = kernel.add(first, kernel.createOrFold<arith::RemUIOp>(lane, kernel.constantIndex(warps)));
  value = combine(warps, cast(memref::LoadOp::create(kernel, memory, ValueRange{mine}), type));
  barrier(kernel); // the memory is written again by the next value
  return value;
}

Value beforeInTeam(KernelBuilder &kernel, Value value, function_ref<Value(Value, Value)> combine) {
  int64_t threads = kernel.team.threads;
  Int lane = Int{&kernel, kernel.team.thread} % kWarp;
  auto fromBelow = [&](Value v, int64_t distance) {
    return shuffle(kernel, v, NVVM::ShflKind::up,
                   Value(arith::ConstantOp::create(kernel, kernel.getI32IntegerAttr(distance))));
  };
  for (int64_t distance = 1; distance < std::min(threads, kWarp); distance *= 2) {
    Value joined = combine(fromBelow(value, distance), value);
    value = arith::SelectOp::create(kernel, lane < distance, value, joined);
  }
  Value inWarp = fromBelow(value, 1);
  if (threads <= kWarp)
    return inWarp;
  // The warps' totals in shared memory, all before this one's combined.
  assert(kernel.team.teams == 1 && "teams beyond a warp are alone in their block");
  Int warp = Int{&kernel, kernel.team.thread} / kWarp;
  Type type = value.getType(), stored = type.isInteger(1) ? Type(kernel.getI8Type()) : type;
  auto cast = [&](Value v, Type to) { return v.getType() == to ? v : Int{&kernel, v}.as(to).v; };
  std::string name = "totals";
  llvm::raw_string_ostream(name) << stored;
  Value memory = sharedMemory(kernel, name, MemRefType::get({threads / kWarp}, stored));
  kernel.ifThen(lane == kWarp - 1,
                [&] { memref::StoreOp::create(kernel, cast(value, stored), memory, ValueRange{warp}); });
  barrier(kernel);
  auto total = [&](Value of) { return cast(memref::LoadOp::create(kernel, memory, ValueRange{of}), type); };
  Value warps =
      kernel.forLoop(kernel.constantIndex(1), warp, 1, {total(kernel.constantIndex(0))},
                     [&](Value i, ValueRange carried) { return SmallVector<Value>{combine(carried[0], total(i))}; })[0];
  barrier(kernel); // the memory is written again by the next value
  Value both = arith::SelectOp::create(kernel, lane == 0, warps, combine(warps, inWarp));
  return arith::SelectOp::create(kernel, warp == 0, inWarp, both);
}

SmallVector<Value> KernelBuilder::sharedLoop(Value begin, Value end, int64_t lanes, ValueRange initial,
                                             function_ref<SmallVector<Value>(Value, ValueRange)> body) {
  int64_t outerWidth = width;
  auto restore = llvm::make_scope_exit([&] { width = outerWidth; });
  width = lanes;
  Value first = add(begin, mul(team.thread, constantIndex(lanes)));
  Value length = sub(end, begin);
  bool whole = lanesOver(length, lanes) == lanes;
  assert((whole || lanes == 1 || initial.empty()) && "a loop that carries values takes lanesOver()");
  if (lanes == 1 || whole)
    return forLoop(first, end, lanes * team.threads, initial, body);
  Value rest = createOrFold<arith::RemUIOp>(length, constantIndex(lanes)), full = sub(end, rest);
  forLoop(first, full, lanes * team.threads, initial, body);
  width = 1;
  return forLoop(add(full, team.thread), end, team.threads, initial, body);
}

} // namespace mlir::dsc
