//===- ExpandMath.h - formulas over scalars and vectors -------------------===//
//
// What the files ExpandMath*.cpp share: `Num`, a value with operators, so that
// an expansion reads like the formula that it computes.
//
//===----------------------------------------------------------------------===//
#pragma once
#include "dialects/dsc/DscOps.h"
#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/Math/IR/Math.h"
#include "mlir/Dialect/Vector/IR/VectorOps.h"
#include "mlir/IR/ImplicitLocOpBuilder.h"
#include "mlir/IR/TypeUtilities.h"

namespace mlir::dsc {

/// What the machine computes with one instruction.
struct MathTarget {
  bool fma = false;            // fused multiply-add of f32 and f64
  bool rounding = false;       // floor, ceil, trunc, roundeven
  bool halfCasts = false;      // f16 <-> f32
  bool brainCasts = false;     // f32 -> bf16; a NaN becomes the canonical one
  bool halfArithmetic = false; // + - * / sqrt fma and comparisons of f16

  /// Without a target, what every machine has.
  static MathTarget of(TargetAttr target);
};

struct MathBuilder : ImplicitLocOpBuilder {
  using ImplicitLocOpBuilder::ImplicitLocOpBuilder;
  MathTarget target;
  bool quick = false; // the result will be rounded to f32: relative errors of 2^-33 do not show
};

/// `type` with other elements.
inline Type withElement(Type type, Type element) {
  auto shaped = dyn_cast<ShapedType>(type);
  return shaped ? Type(shaped.clone(element)) : element;
}

/// A scalar or vector of floats or integers. Operators ask the element type
/// which of the two it is; comparisons of integers are signed, shifts to the
/// right are logical, those of floats are ordered (false on NaN) except `!=`.
/// Numbers of C++ become constants of the other operand's type.
struct Num {
  MathBuilder *b;
  Value v;

  Type type() const { return v.getType(); }
  Type element() const { return getElementTypeOrSelf(v.getType()); }
  bool isFloat() const { return isa<FloatType>(element()); }
  unsigned width() const { return element().getIntOrFloatBitWidth(); }
  Num with(Value value) const { return {b, value}; }

  Num constant(TypedAttr one) const {
    TypedAttr value = one;
    if (auto shaped = dyn_cast<ShapedType>(type()))
      value = DenseElementsAttr::get(shaped, Attribute(one));
    return with(arith::ConstantOp::create(*b, value));
  }
  template <typename T> Num operator()(T value) const {
    static_assert(std::is_arithmetic_v<T>);
    if (isFloat())
      return constant(b->getFloatAttr(element(), static_cast<double>(value)));
    APInt bits(64, static_cast<uint64_t>(static_cast<int64_t>(value)));
    return constant(b->getIntegerAttr(element(), element().isIndex() ? bits : bits.trunc(width())));
  }
  Num operator()(Num value) const { return value; }

  /// The bits of a float as an integer, and back.
  Num bits() const { return bitcast(b->getIntegerType(width())); }
  Num bitcast(Type to) const { return with(arith::BitcastOp::create(*b, withElement(type(), to), v)); }
  /// Integers become narrower or wider (without sign).
  Num resize(unsigned bits) const {
    Type to = withElement(type(), b->getIntegerType(bits));
    if (bits == width())
      return *this;
    return bits < width() ? with(arith::TruncIOp::create(*b, to, v)) : with(arith::ExtUIOp::create(*b, to, v));
  }
  /// f32 and f64 only: exact, or rounded to nearest even.
  Num floatAs(Type to) const {
    if (to == element())
      return *this;
    Type shaped = withElement(type(), to);
    return to.getIntOrFloatBitWidth() < width() ? with(arith::TruncFOp::create(*b, shaped, v))
                                                : with(arith::ExtFOp::create(*b, shaped, v));
  }
  Num abs() const { return with(math::AbsFOp::create(*b, v)); }
  Num withSign(Num sign) const { return with(math::CopySignOp::create(*b, v, sign.v)); }
  Num operator-() const { return with(arith::NegFOp::create(*b, v)); }
  Num compare(arith::CmpFPredicate f, arith::CmpIPredicate i, Num o) const {
    return isFloat() ? with(arith::CmpFOp::create(*b, f, v, o.v)) : with(arith::CmpIOp::create(*b, i, v, o.v));
  }
};

/// `lhs OP rhs`, where one of them may be a number of C++.
#define DSC_NUM_OPERATOR(OP, ...)                                                                                      \
  inline Num operator OP(Num x, Num y) { return __VA_ARGS__; }                                                         \
  template <typename T, typename = std::enable_if_t<std::is_arithmetic_v<T>>> Num operator OP(Num x, T y) {            \
    return x OP x(y);                                                                                                  \
  }                                                                                                                    \
  template <typename T, typename = std::enable_if_t<std::is_arithmetic_v<T>>> Num operator OP(T x, Num y) {            \
    return y(x) OP y;                                                                                                  \
  }
#define DSC_NUM_ARITHMETIC(OP, FLOAT, INTEGER)                                                                         \
  DSC_NUM_OPERATOR(OP, x.isFloat() ? x.with(FLOAT::create(*x.b, x.v, y.v)) : x.with(INTEGER::create(*x.b, x.v, y.v)))
#define DSC_NUM_INTEGER(OP, INTEGER) DSC_NUM_OPERATOR(OP, x.with(INTEGER::create(*x.b, x.v, y.v)))
#define DSC_NUM_COMPARISON(OP, FLOAT, INTEGER)                                                                         \
  DSC_NUM_OPERATOR(OP, x.compare(arith::CmpFPredicate::FLOAT, arith::CmpIPredicate::INTEGER, y))
DSC_NUM_ARITHMETIC(+, arith::AddFOp, arith::AddIOp)
DSC_NUM_ARITHMETIC(-, arith::SubFOp, arith::SubIOp)
DSC_NUM_ARITHMETIC(*, arith::MulFOp, arith::MulIOp)
DSC_NUM_ARITHMETIC(/, arith::DivFOp, arith::DivUIOp)
DSC_NUM_INTEGER(<<, arith::ShLIOp)
DSC_NUM_INTEGER(>>, arith::ShRUIOp)
DSC_NUM_INTEGER(&, arith::AndIOp)
DSC_NUM_INTEGER(|, arith::OrIOp)
DSC_NUM_INTEGER(^, arith::XOrIOp)
DSC_NUM_COMPARISON(<, OLT, slt)
DSC_NUM_COMPARISON(<=, OLE, sle)
DSC_NUM_COMPARISON(>, OGT, sgt)
DSC_NUM_COMPARISON(>=, OGE, sge)
DSC_NUM_COMPARISON(==, OEQ, eq)
DSC_NUM_COMPARISON(!=, UNE, ne)
#undef DSC_NUM_OPERATOR
#undef DSC_NUM_ARITHMETIC
#undef DSC_NUM_INTEGER
#undef DSC_NUM_COMPARISON

inline Num select(Num condition, Num yes, Num no) {
  return yes.with(arith::SelectOp::create(*yes.b, condition.v, yes.v, no.v));
}
template <typename T> Num select(Num condition, T yes, Num no) { return select(condition, no(yes), no); }
template <typename T> Num select(Num condition, Num yes, T no) { return select(condition, yes, yes(no)); }

inline Num isNan(Num x) { return x != x; }
inline Num sqrt(Num x) { return x.with(math::SqrtOp::create(*x.b, x.v)); }
/// x y + z, with one rounding where the machine can, else with two.
inline Num fma(Num x, Num y, Num z) {
  return x.b->target.fma ? x.with(math::FmaOp::create(*x.b, x.v, y.v, z.v)) : x * y + z;
}
/// The shorter polynomial where it is enough, by Horner's rule.
inline Num polynomial(Num x, ArrayRef<double> full, ArrayRef<double> quick) {
  ArrayRef<double> coefficients = x.b->quick ? quick : full;
  Num sum = x(coefficients.back());
  for (double coefficient : llvm::reverse(coefficients.drop_back()))
    sum = fma(sum, x, x(coefficient));
  return sum;
}
/// NaN stays NaN.
inline Num clamp(Num x, double low, double high) {
  Num below = select(x > high, high, x);
  return select(below < low, low, below);
}

/// An unevaluated sum of two floats (Dekker 1971).
struct Pair {
  Num hi, lo;
};
/// hi + lo = x + y exactly (Knuth, The Art of Computer Programming 2, 4.2.2).
Pair twoSum(Num x, Num y);
/// The same where |x| >= |y| or x = 0 (Dekker 1971).
Pair fastTwoSum(Num x, Num y);
/// hi + lo = x y exactly, f64 without overflow.
Pair twoProduct(Num x, Num y);

// f64 -> f64 (ExpandMathElementary.cpp).
Num expandExp(Num x);
Num expandExp2(Num x);
Num expandExpm1(Num x);
Num expandLog(Num x);
Num expandLog2(Num x);
Num expandLog10(Num x);
Num expandLog1p(Num x);
Num expandSinh(Num x);
Num expandCosh(Num x);
Num expandTanh(Num x);
Num expandAsinh(Num x);
Num expandAcosh(Num x);
Num expandAtanh(Num x);
Num expandErf(Num x);
Num expandErfc(Num x);
Num expandCbrt(Num x);
Num expandPow(Num x, Num y);
/// x^y for an integer y; `odd`: its lowest bit.
Num expandPowInteger(Num x, Num y, Num odd);

// f32 -> f32 (ExpandMathElementary.cpp).
Num expandExpF32(Num x);
Num expandExp2F32(Num x);
Num expandTanhF32(Num x);
Num expandErfF32(Num x);

// f64 -> f64 (ExpandMathTrigonometry.cpp).
Num expandSin(Num x);
Num expandCos(Num x);
Num expandTan(Num x);
Num expandAsin(Num x);
Num expandAcos(Num x);
Num expandAtan(Num x);
Num expandAtan2(Num y, Num x);

// ExpandMathExact.cpp: casts, rounding, remainders and integers; all exact or rounded once.
/// From any float to a wider float.
Num extend(Num x, Type element);
/// From any float to a narrower float, to nearest even.
Num truncate(Num x, Type element);
/// From f32 or f64; what does not fit gives the lowest integer, as on x86.
Num floatToInteger(Num x, Type element, bool isSigned);
Num integerToFloat(Num x, Type element, bool isSigned);
/// f32 and f64.
Num expandRemainder(Num x, Num y);
Num expandFloor(Num x);
Num expandCeil(Num x);
Num expandTrunc(Num x);
Num expandRound(Num x);
Num expandRoundEven(Num x);
/// One of arith's six divisions and remainders; 0 by 0. Null: cannot trap as it is.
Value expandDivision(MathBuilder &b, Operation *op);
Num expandIntegerPower(Num x, Num y);
/// i1: whether any lane of a mask is set.
Num anyLane(Num mask);

} // namespace mlir::dsc
