//===- ExpandMath.cpp - mathematical functions without libm ---------------===//
//
// After this pass no operation is left that LLVM would turn into a call of libm
// or compiler-rt, on x86-64 (any level) and AArch64. It works on scalars and
// vectors of any shape. f16 and bf16 are extended to f32, computed there and
// rounded once more, which for + - * / sqrt is the correct rounding (f32 has
// more than 2 p + 2 bits: Figueroa 1995).
//
// Largest errors in ulp, asserted by test/passes/test_expand_math.py. f32 was
// compared with f64 (exp and exp2 for all f32), f64 with mpmath; in parentheses
// what was measured.
//
//   function                        f32            f64
//   exp                             1    (0.89)    1    (0.83)
//   exp2                            1    (0.99)    1    (0.91)
//   log, log2, log10, log1p         0.51 (0.501)   1    (0.80)
//   expm1                           0.51 (0.506)   1.5  (1.02)
//   sin, cos, any argument          0.51 (0.501)   1    (0.78)
//   tan, any argument               0.51 (0.501)   1.5  (1.36)
//   asin, acos, atan                0.51 (0.501)   1    (0.81)
//   atan2                           0.51 (0.501)   1.5  (1.41)
//   sinh, cosh                      0.51 (0.502)   2    (1.47)
//   tanh                            1.5  (1.35)    2    (1.47)
//   asinh, acosh, atanh             0.51 (0.501)   2.5  (1.91)
//   erf                             1.5  (1.04)    1.5  (1.21)
//   erfc                            0.51 (0.502)   3    (2.76)
//   powf, fpowi                     0.51 (0.505)   1    (0.88)
//   cbrt                            0.51 (0.501)   1    (0.68)
//   rsqrt                           1.5  (1.48)    1.5  (1.49)
//   casts, remf, floor .. roundeven, classification: exact, or rounded once
//
// fma rounds once where the machine has it, else the product is rounded too.
// An integer divided by zero gives 0 and the lowest integer by -1 wraps around
// (as numpy); a float that no i32 or i64 holds gives the lowest integer, narrower
// integers are the low bits of the i32 (as x86). Nothing traps.
//
//===----------------------------------------------------------------------===//

#include "passes/codegen/ExpandMath.h"

#include "mlir/Dialect/SCF/IR/SCF.h"
#include "passes/DimsAnalysis.h"
#include "passes/Passes.h"
#include "llvm/ADT/StringMap.h"
#include "llvm/ADT/TypeSwitch.h"

namespace mlir::dsc {
#define GEN_PASS_DEF_EXPANDMATHPASS
#include "passes/Passes.h.inc"

MathTarget MathTarget::of(TargetAttr target) {
  MathTarget result;
  if (!target)
    return result;
  if (target.getTriple().starts_with("aarch64") || target.isGpu()) {
    result.fma = result.rounding = result.halfCasts = true;
    result.brainCasts = target.isGpu();
    return result;
  }
  SmallVector<StringRef> features;
  target.getFeatures().split(features, ',');
  auto has = [&](StringRef name) { return llvm::is_contained(features, name); };
  result.fma = has("+fma");
  result.rounding = has("+sse4.1");
  result.halfCasts = has("+f16c");
  result.halfArithmetic = has("+avx512fp16");
  return result;
}

using Unary = Num (*)(Num);

/// Functions of f32 that stay in f32.
static const llvm::StringMap<Unary> &f32Functions() {
  static const llvm::StringMap<Unary> functions = {{"math.exp", expandExpF32},
                                                   {"math.exp2", expandExp2F32},
                                                   {"math.tanh", expandTanhF32},
                                                   {"math.erf", expandErfF32}};
  return functions;
}

/// Functions of f64, by the operation's name; of f32 computed in f64.
static const llvm::StringMap<Unary> &f64Functions() {
  static const llvm::StringMap<Unary> functions = {
      {"math.exp", expandExp},     {"math.exp2", expandExp2},   {"math.expm1", expandExpm1}, {"math.log", expandLog},
      {"math.log2", expandLog2},   {"math.log10", expandLog10}, {"math.log1p", expandLog1p}, {"math.sin", expandSin},
      {"math.cos", expandCos},     {"math.tan", expandTan},     {"math.sinh", expandSinh},   {"math.cosh", expandCosh},
      {"math.tanh", expandTanh},   {"math.asin", expandAsin},   {"math.acos", expandAcos},   {"math.atan", expandAtan},
      {"math.asinh", expandAsinh}, {"math.acosh", expandAcosh}, {"math.atanh", expandAtanh}, {"math.erf", expandErf},
      {"math.erfc", expandErfc},   {"math.cbrt", expandCbrt}};
  return functions;
}

static const llvm::StringMap<Unary> &roundings() {
  static const llvm::StringMap<Unary> functions = {{"math.floor", expandFloor},
                                                   {"math.ceil", expandCeil},
                                                   {"math.trunc", expandTrunc},
                                                   {"math.round", expandRound},
                                                   {"math.roundeven", expandRoundEven}};
  return functions;
}

static bool isNarrow(Type type) {
  Type element = getElementTypeOrSelf(type);
  return isa<FloatType>(element) && element.getIntOrFloatBitWidth() < 32;
}

namespace {
class Expander {
public:
  Expander(MathBuilder &builder) : b(builder) {}

  /// The value to use instead of the operation's only result; null: it stays.
  Value expand(Operation *op) {
    b.setLoc(op->getLoc());
    b.setInsertionPoint(op);
    if (Value value = expandIntegers(op))
      return value;
    if (Value value = expandCast(op))
      return value;
    if (Value value = expandClassification(op))
      return value;
    bool narrow = llvm::any_of(op->getOperandTypes(), isNarrow) || llvm::any_of(op->getResultTypes(), isNarrow);
    return narrow ? expandNarrow(op) : expandWide(op);
  }

  /// Both values of math.sincos.
  std::pair<Value, Value> expandSincos(math::SincosOp op) {
    b.setLoc(op.getLoc());
    b.setInsertionPoint(op);
    return {finish(math::SinOp::create(b, op.getOperand())), finish(math::CosOp::create(b, op.getOperand()))};
  }

private:
  Num num(Value value) { return {&b, value}; }

  /// Expands an operation made on the way.
  Value finish(Operation *op) {
    OpBuilder::InsertionGuard guard(b);
    Value value = expand(op);
    if (!value)
      return op->getResult(0);
    op->erase();
    return value;
  }

  Value expandIntegers(Operation *op) {
    if (isa<arith::DivSIOp, arith::DivUIOp, arith::RemSIOp, arith::RemUIOp, arith::FloorDivSIOp, arith::CeilDivSIOp,
            arith::CeilDivUIOp>(op))
      return expandDivision(b, op);
    if (isa<math::IPowIOp>(op))
      return expandIntegerPower(num(op->getOperand(0)), num(op->getOperand(1))).v;
    return {};
  }

  Value expandCast(Operation *op) {
    if (op->getNumOperands() != 1 || op->getNumResults() != 1)
      return {};
    Num x = num(op->getOperand(0));
    Type to = getElementTypeOrSelf(op->getResult(0));
    if (isa<arith::ExtFOp>(op))
      return isNarrow(x.type()) ? extend(x, to).v : Value();
    if (isa<arith::TruncFOp>(op))
      return isNarrow(to) ? truncate(x, to).v : Value();
    if (isa<arith::SIToFPOp, arith::UIToFPOp>(op))
      return isNarrow(to) ? integerToFloat(x, to, isa<arith::SIToFPOp>(op)).v : Value();
    if (isa<arith::FPToSIOp, arith::FPToUIOp>(op))
      return floatToInteger(isNarrow(x.type()) ? extend(x, b.getF32Type()) : x, to, isa<arith::FPToSIOp>(op)).v;
    return {};
  }

  /// Compares bits: the same for all types, whose subnormals differ.
  Value expandClassification(Operation *op) {
    if (!isa<math::IsNaNOp, math::IsInfOp, math::IsFiniteOp, math::IsNormalOp>(op))
      return {};
    Num x = num(op->getOperand(0)), bits = x.bits();
    const llvm::fltSemantics &format = cast<FloatType>(x.element()).getFloatSemantics();
    auto pattern = [](const llvm::APFloat &value) { return value.bitcastToAPInt().getSExtValue(); };
    int64_t infinity = pattern(llvm::APFloat::getInf(format));
    Num magnitude = bits & static_cast<int64_t>(~(uint64_t(-1) << (x.width() - 1)));
    if (isa<math::IsNaNOp>(op))
      return (magnitude > infinity).v;
    if (isa<math::IsInfOp>(op))
      return (magnitude == infinity).v;
    Num finite = magnitude < infinity;
    if (isa<math::IsFiniteOp>(op))
      return finite.v;
    return (finite & (magnitude >= pattern(llvm::APFloat::getSmallestNormalized(format)))).v;
  }

  /// The same operation on floats of another type.
  Operation *retyped(Operation *op, Type element) {
    OperationState state(op->getLoc(), op->getName());
    for (Value operand : op->getOperands()) {
      bool isFloat = isa<FloatType>(getElementTypeOrSelf(operand));
      state.operands.push_back(isFloat ? extend(num(operand), element).v : operand);
    }
    for (Type type : op->getResultTypes())
      state.types.push_back(isa<FloatType>(getElementTypeOrSelf(type)) ? withElement(type, element) : type);
    state.attributes = op->getDiscardableAttrDictionary().getValue();
    state.propertiesAttr = op->getPropertiesAsAttribute();
    return b.create(state);
  }

  Value expandNarrow(Operation *op) {
    if (!isa<arith::ArithDialect, math::MathDialect>(op->getDialect()) && !isa<vector::FMAOp, vector::ReductionOp>(op))
      return {};
    if (isa<arith::ConstantOp, arith::SelectOp, arith::BitcastOp>(op))
      return {};
    Num x = num(op->getOperand(0));
    // Sign bits.
    if (isa<arith::NegFOp>(op))
      return (x.bits() ^ 0x8000).bitcast(x.element()).v;
    if (isa<math::AbsFOp>(op))
      return (x.bits() & 0x7fff).bitcast(x.element()).v;
    if (isa<math::CopySignOp>(op))
      return ((x.bits() & 0x7fff) | (num(op->getOperand(1)).bits() & 0x8000)).bitcast(x.element()).v;
    if (isa<arith::MaxNumFOp, arith::MinNumFOp, arith::MaximumFOp, arith::MinimumFOp>(op))
      return truncate(extremum(op), x.element()).v;
    bool native = x.element().isF16() && b.target.halfArithmetic;
    if (native && isa<arith::AddFOp, arith::SubFOp, arith::MulFOp, arith::DivFOp, arith::CmpFOp, math::SqrtOp,
                      math::FmaOp, vector::FMAOp>(op))
      return {};
    Value result = finish(retyped(op, b.getF32Type()));
    if (!isNarrow(op->getResult(0).getType()))
      return result;
    return truncate(num(result), getElementTypeOrSelf(op->getResult(0))).v;
  }

  /// In f32 by comparisons: LLVM would turn the f32 operation between casts back into one of f16, and that into a call.
  Num extremum(Operation *op) {
    Num x = extend(num(op->getOperand(0)), b.getF32Type()), y = extend(num(op->getOperand(1)), b.getF32Type());
    bool isMax = isa<arith::MaxNumFOp, arith::MaximumFOp>(op);
    Num first = isMax ? x > y : x < y;
    if (isa<arith::MaxNumFOp, arith::MinNumFOp>(op))
      return select(first | isNan(y), x, y);
    // -0 is less than 0.
    Num same = (isMax ? x.bits() & y.bits() : x.bits() | y.bits()).bitcast(x.element());
    return select(isNan(x), x, select(isNan(y), y, select(x == y, same, select(first, x, y))));
  }

  Value expandWide(Operation *op) {
    return llvm::TypeSwitch<Operation *, Value>(op)
        .Case<math::FmaOp, vector::FMAOp>([&](Operation *) {
          return b.target.fma ? Value() : fma(num(op->getOperand(0)), num(op->getOperand(1)), num(op->getOperand(2))).v;
        })
        .Case([&](math::RsqrtOp rsqrt) { return (1 / sqrt(num(rsqrt.getOperand()))).v; })
        .Case([&](math::ClampFOp clamp) {
          Value low = arith::MaximumFOp::create(b, clamp.getValue(), clamp.getMin());
          return arith::MinimumFOp::create(b, low, clamp.getMax()).getResult();
        })
        .Case([&](arith::RemFOp rem) { return expandRemainder(num(rem.getLhs()), num(rem.getRhs())).v; })
        .Case<math::PowFOp, math::Atan2Op, math::FPowIOp>([&](Operation *) { return expandBinary(op); })
        .Default([&](Operation *) { return expandUnary(op); });
  }

  /// `f` on f64; operands of f32 are extended, where a shorter polynomial is enough.
  template <typename F> Value inF64(Num x, F f) {
    Type element = x.element();
    b.quick = element.isF32();
    Num result = f(x.floatAs(b.getF64Type())).floatAs(element);
    b.quick = false;
    return result.v;
  }

  Value expandBinary(Operation *op) {
    Num x = num(op->getOperand(0)), y = num(op->getOperand(1));
    return inF64(x, [&](Num wide) {
      if (isa<math::FPowIOp>(op))
        return expandPowInteger(wide, integerToFloat(y, b.getF64Type(), true), (y & 1) != 0);
      Num other = y.floatAs(b.getF64Type());
      return isa<math::PowFOp>(op) ? expandPow(wide, other) : expandAtan2(wide, other);
    });
  }

  Value expandUnary(Operation *op) {
    if (!isa<math::MathDialect>(op->getDialect()) || op->getNumOperands() != 1)
      return {};
    Num x = num(op->getOperand(0));
    StringRef name = op->getName().getStringRef();
    if (Unary rounding = roundings().lookup(name))
      return b.target.rounding ? Value() : rounding(x).v;
    if (Unary function = x.element().isF32() ? f32Functions().lookup(name) : nullptr)
      return function(x).v;
    Unary function = f64Functions().lookup(name);
    return function ? inF64(x, function) : Value();
  }

  MathBuilder &b;
};

struct ExpandMathPass : impl::ExpandMathPassBase<ExpandMathPass> {
  void runOnOperation() override {
    ModuleOp module = getOperation();
    MathBuilder builder(module.getLoc(), &getContext());
    builder.target = MathTarget::of(module->getAttrOfType<TargetAttr>(kTargetAttr));
    Expander expander(builder);
    SmallVector<Operation *> operations;
    module.walk([&](Operation *op) { operations.push_back(op); });
    for (Operation *op : operations) {
      if (auto sincos = dyn_cast<math::SincosOp>(op)) {
        auto [sin, cos] = expander.expandSincos(sincos);
        sincos.getSin().replaceAllUsesWith(sin);
        sincos.getCos().replaceAllUsesWith(cos);
        op->erase();
        continue;
      }
      Value value = op->getNumResults() == 1 ? expander.expand(op) : Value();
      if (!value)
        continue;
      op->getResult(0).replaceAllUsesWith(value);
      op->erase();
    }
  }
};
} // namespace
} // namespace mlir::dsc
