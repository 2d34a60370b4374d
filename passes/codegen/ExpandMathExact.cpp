//===- ExpandMathExact.cpp - casts, rounding, remainders, integers --------===//
//
// Everything here is exact or rounded once to nearest even, subnormals included.
// f64 reaches the 16 bit formats through f32 rounded to odd (Boldo and
// Melquiond, "Emulation of FMA and correctly rounded sums", 2008): f32 has more
// than two bits beyond theirs, so the second rounding sees all that it needs.
//
//===----------------------------------------------------------------------===//

#include "mlir/Dialect/SCF/IR/SCF.h"
#include "mlir/IR/Matchers.h"
#include "passes/codegen/ExpandMath.h"

namespace mlir::dsc {

//===----------------------------------------------------------------------===//
// Float casts
//===----------------------------------------------------------------------===//

/// f16 to f32 by integers: the exponent is moved, subnormals are normalized by a subtraction.
static Num extendHalf(Num x) {
  Num bits = x.bits().resize(32), magnitude = (bits & 0x7fff) << 13;
  Type f32 = x.b->getF32Type();
  Num normal = magnitude + ((127 - 15) << 23), special = magnitude + ((255 - 31) << 23);
  Num subnormal = ((magnitude + (113 << 23)).bitcast(f32) - (magnitude(113 << 23)).bitcast(f32)).bits();
  Num result = select(magnitude < (1 << 23), subnormal, select(magnitude >= (31 << 23), special, normal));
  return (result | ((bits & 0x8000) << 16)).bitcast(f32);
}

/// The exact value of a float of 8 bits as f32: e5m2 is an f16 cut short, e4m3 one whose exponent counts from 8 less.
static Num extendEight(Num x) {
  Num bits = x.bits().resize(16);
  Type half = x.b->getF16Type(), single = x.b->getF32Type();
  if (!isa<Float8E4M3FNType>(x.element()))
    return extend((bits << 8).bitcast(half), single);
  Num sign = (bits & 0x80) << 8, magnitude = bits & 0x7f;
  Num value = extend(((magnitude << 7) | sign).bitcast(half), single) * 256.0;
  Num nan = ((sign.resize(32) << 16) | 0x7fc00000).bitcast(single);
  return select(magnitude == 0x7f, nan, value);
}

Num extend(Num x, Type element) {
  if (x.width() == 8) {
    Num wide = extendEight(x);
    return element.getIntOrFloatBitWidth() < 32 ? truncate(wide, element) : wide.floatAs(element);
  }
  if (x.element().isBF16())
    return (x.bits().resize(32) << 16).bitcast(x.b->getF32Type()).floatAs(element);
  if (x.element().isF16() && !x.b->target.halfCasts)
    return extendHalf(x).floatAs(element);
  return x.floatAs(element);
}

/// f32 to bf16: adds almost half of the last place, and one more where that is odd; NaN becomes quiet.
static Num truncateToBrain(Num x) {
  Num bits = x.bits(), high = bits >> 16;
  Num rounded = (bits + ((high & 1) + 0x7fff)) >> 16;
  return select(isNan(x), high | 0x40, rounded).resize(16).bitcast(x.b->getBF16Type());
}

/// f32 to f16 by integers; subnormals are rounded by adding 1/2, whose last place is theirs (Giesen 2012).
static Num truncateToHalf(Num x) {
  Num bits = x.bits(), magnitude = bits & 0x7fffffff;
  Num normal = (magnitude + (((magnitude >> 13) & 1) + (0xfff - ((127 - 15) << 23)))) >> 13;
  Num half = x(0.5), subnormal = (magnitude.bitcast(x.element()) + half).bits() - half.bits();
  Num nan = ((magnitude >> 13) & 0x3ff) | 0x7e00;
  Num special = select(magnitude > 0x7f800000, nan, 0x7c00); // 65536 and above overflow; normal values do by rounding
  Num result = select(magnitude < (113 << 23), subnormal, select(magnitude >= 0x47800000, special, normal));
  return (result | ((bits >> 16) & 0x8000)).resize(16).bitcast(x.b->getF16Type());
}

/// f64 to f32, where an inexact result gets an odd last bit.
static Num roundToOdd(Num x) {
  Num rounded = x.floatAs(x.b->getF32Type()), back = rounded.floatAs(x.element()).abs(), magnitude = x.abs();
  Num bits = rounded.bits(), odd = (bits & 1) != 0;
  Num step = select(back < magnitude, 1, select(back > magnitude, -1, bits(0)));
  return select(odd, bits, bits + step).bitcast(rounded.element());
}

/// What a float of 8 bits is made of: e4m3 has no infinity and one NaN (OCP 8-bit floating point, 2023).
struct EightBits {
  int64_t significand, bias, overflow, nan;
  static EightBits of(Type element) {
    return isa<Float8E4M3FNType>(element) ? EightBits{3, 7, 0x7f, 0x7f} : EightBits{2, 15, 0x7c, 0x7e};
  }
};

/// f32 to a float of 8 bits, rounded to nearest even; beyond the range comes infinity, or NaN where there is none.
static Num truncateToEight(Num x, Type element) {
  EightBits form = EightBits::of(element);
  int64_t shift = 23 - form.significand;
  Num bits = x.bits(), magnitude = bits & 0x7fffffff;
  int64_t rebias = ((int64_t(1) << (shift - 1)) - 1) - ((127 - form.bias) << 23);
  Num normal = (magnitude + (((magnitude >> shift) & 1) + rebias)) >> shift;
  // The last place of this number is that of the subnormals.
  Num step = x(std::ldexp(1.0, 24 - form.bias - form.significand));
  Num subnormal = (magnitude.bitcast(x.element()) + step).bits() - step.bits();
  Num result = select(magnitude < ((128 - form.bias) << 23), subnormal, normal);
  result = select(result > form.overflow, form.overflow, result);
  result = select(magnitude > 0x7f800000, form.nan, result);
  return (result | ((bits >> 24) & 0x80)).resize(8).bitcast(element);
}

Num truncate(Num x, Type element) {
  if (element.getIntOrFloatBitWidth() == 8) {
    if (x.element().isF64())
      x = roundToOdd(x);
    return truncateToEight(extend(x, x.b->getF32Type()), element);
  }
  bool narrow = element.isBF16() || element.isF16();
  if (!narrow || (element.isF16() && x.b->target.halfArithmetic))
    return x.with(arith::TruncFOp::create(*x.b, withElement(x.type(), element), x.v));
  if (x.element().isF64())
    x = roundToOdd(x);
  bool native = element.isBF16() ? x.b->target.brainCasts : x.b->target.halfCasts;
  if (element.isBF16() && !native)
    return truncateToBrain(x);
  return native ? x.with(arith::TruncFOp::create(*x.b, withElement(x.type(), element), x.v)) : truncateToHalf(x);
}

//===----------------------------------------------------------------------===//
// Floats and integers
//===----------------------------------------------------------------------===//

/// The conversion sees 0 where it would be undefined.
static Num floatToSigned(Num x, unsigned width) {
  Num fits = x.abs() < std::ldexp(1.0, width - 1);
  Type type = withElement(x.type(), x.b->getIntegerType(width));
  Num converted = x.with(arith::FPToSIOp::create(*x.b, type, select(fits, x, 0.0).v));
  return select(fits, converted, static_cast<int64_t>(uint64_t(1) << (width - 1)));
}

Num floatToInteger(Num x, Type element, bool isSigned) {
  unsigned width = element.getIntOrFloatBitWidth();
  if (isSigned || width < 32)
    return floatToSigned(x, std::max(32u, width)).resize(width);
  double half = std::ldexp(1.0, width - 1);
  Num upper = x >= half;
  Num result = floatToSigned(select(upper, x - half, x), width);
  return select(upper, result ^ static_cast<int64_t>(uint64_t(1) << (width - 1)), result);
}

Num integerToFloat(Num x, Type element, bool isSigned) {
  auto convert = [&](Num value, Type to) {
    Type type = withElement(value.type(), to);
    return value.with(isSigned ? Value(arith::SIToFPOp::create(*x.b, type, value.v))
                               : Value(arith::UIToFPOp::create(*x.b, type, value.v)));
  };
  if (element.isF32() || element.isF64())
    return convert(x, element);
  if (x.width() <= 16)
    return truncate(convert(x, x.b->getF32Type()), element);
  if (x.width() > 32) {
    // More bits than f64 has: the lowest 12 become one that says whether any of them was set.
    Num low = x & 0xfff, sticky = (x & ~0xfff) | select(low != 0, 0x800, low(0));
    Num magnitude = isSigned ? select(x < 0, 0 - x, x) : x;
    x = select((magnitude >> 53) != 0, sticky, x);
  }
  return truncate(convert(x, x.b->getF64Type()), element);
}

//===----------------------------------------------------------------------===//
// Rounding to integers
//===----------------------------------------------------------------------===//

/// Rounds |x| to nearest even, where `x` may have a fraction at all; the rest is `finish`.
static Num roundWith(Num x, function_ref<Num(Num magnitude, Num nearest)> finish) {
  double limit = x.width() == 64 ? 0x1p52 : 0x1p23; // from here on every float is whole
  Num magnitude = x.abs(), nearest = (magnitude + limit) - limit;
  return select(magnitude < limit, finish(magnitude, nearest).withSign(x), x);
}

Num expandRoundEven(Num x) {
  return roundWith(x, [](Num, Num nearest) { return nearest; });
}
Num expandTrunc(Num x) {
  return roundWith(x, [](Num magnitude, Num nearest) { return select(nearest > magnitude, nearest - 1, nearest); });
}
Num expandRound(Num x) {
  return roundWith(x,
                   [](Num magnitude, Num nearest) { return select(magnitude - nearest == 0.5, nearest + 1, nearest); });
}
Num expandFloor(Num x) {
  Num down = expandRoundEven(x);
  return select(down > x, down - 1, down);
}
Num expandCeil(Num x) {
  Num up = expandRoundEven(x);
  return select(up < x, (up + 1).withSign(x), up);
}

//===----------------------------------------------------------------------===//
// Remainder
//===----------------------------------------------------------------------===//

static Value flatten(Num x) {
  auto type = dyn_cast<VectorType>(x.type());
  if (!type || type.getRank() == 1)
    return x.v;
  return vector::ShapeCastOp::create(*x.b, VectorType::get({type.getNumElements()}, type.getElementType()), x.v);
}

Num anyLane(Num mask) {
  if (!isa<VectorType>(mask.type()))
    return mask;
  return mask.with(vector::ReductionOp::create(*mask.b, vector::CombiningKind::OR, flatten(mask)));
}

namespace {
/// significand 2^(exponent - 1023), 1 <= significand < 2, of a positive f64.
struct Scaled {
  Num significand, exponent;
};
} // namespace

static Scaled decompose(Num x) {
  Num subnormal = x < 0x1p-1022, bits = select(subnormal, x * 0x1p54, x).bits();
  Num significand = ((bits & 0x000fffffffffffff) | 0x3ff0000000000000).bitcast(x.element());
  return {significand, (bits >> 52) - select(subnormal, 54, bits(0))};
}

static Num powerOfTwo(Num n) { return ((n + 1023) << 52).bitcast(n.b->getF64Type()); }

/// x mod y in f64: subtracts multiples q y 2^k, q < 2^25, until less than y is left. With y in halves of 26 bits
/// every product and difference is exact, so the result is.
Num expandRemainder(Num x, Num y) {
  MathBuilder &b = *x.b;
  Type f64 = b.getF64Type(), original = x.element();
  x = x.floatAs(f64);
  y = y.floatAs(f64);
  Num size = y.abs(), start = x.abs();
  Num valid = (start < std::numeric_limits<double>::infinity()) & (size > 0);
  start = select(valid, start, 0.0);
  Scaled scaled = decompose(size);
  auto loop = scf::WhileOp::create(
      b, TypeRange{start.type()}, ValueRange{start.v},
      [&](OpBuilder &, Location, ValueRange values) {
        Num rest = x.with(values[0]);
        scf::ConditionOp::create(b, anyLane(rest >= size).v, values);
      },
      [&](OpBuilder &, Location, ValueRange values) {
        Num rest = x.with(values[0]);
        // y 2^k has the exponent of the rest less 24; two factors, since one could leave the range of f64.
        Num exponent = decompose(rest).exponent - 24;
        exponent = select(exponent < scaled.exponent, scaled.exponent, exponent) + 1024;
        Num half = exponent >> 1, other = exponent - half;
        Num divisor = scaled.significand * powerOfTwo(half - 1023) * powerOfTwo(other - 1024);
        Num high = (divisor.bits() & ~0x7ffffff).bitcast(f64), low = divisor - high;
        Num quotient = expandTrunc(rest / divisor);
        Num left = (rest - quotient * high) - quotient * low;
        // The quotient may have been rounded up.
        left = select(left < 0, left + divisor, left);
        scf::YieldOp::create(b, select(rest >= size, left, rest).v);
      });
  Num result = select(valid, x.with(loop.getResult(0)).withSign(x), std::numeric_limits<double>::quiet_NaN());
  return select(isNan(x), x, select(isNan(y), y, result)).floatAs(original);
}

//===----------------------------------------------------------------------===//
// Integers
//===----------------------------------------------------------------------===//

Value expandDivision(MathBuilder &b, Operation *op) {
  Num x{&b, op->getOperand(0)}, y{&b, op->getOperand(1)};
  bool isSigned = isa<arith::DivSIOp, arith::RemSIOp, arith::FloorDivSIOp, arith::CeilDivSIOp>(op);
  APInt constant;
  if (matchPattern(y.v, m_ConstantInt(&constant)) && !constant.isZero() && !(isSigned && constant.isAllOnes()))
    return {};
  unsigned width = x.element().isIndex() ? 64 : x.width();
  Num byZero = y == 0, trap = byZero;
  if (isSigned) // the lowest integer by -1 traps too; by 1 it gives what wrapping around gives
    trap = trap | ((y == -1) & (x == static_cast<int64_t>(uint64_t(-1) << (width - 1))));
  Num divisor = select(trap, 1, y);
  auto binary = [&](auto tag, Num l, Num r) { return l.with(decltype(tag)::create(b, l.v, r.v)); };
  if (isa<arith::RemSIOp>(op))
    return binary(arith::RemSIOp(), x, divisor).v;
  if (isa<arith::RemUIOp>(op))
    return binary(arith::RemUIOp(), x, divisor).v;
  Num quotient = isSigned ? binary(arith::DivSIOp(), x, divisor) : binary(arith::DivUIOp(), x, divisor);
  if (isa<arith::FloorDivSIOp, arith::CeilDivSIOp, arith::CeilDivUIOp>(op)) {
    Num rest = x - quotient * divisor, inexact = rest != 0;
    if (isa<arith::FloorDivSIOp>(op))
      quotient = select(inexact & ((rest ^ divisor) < 0), quotient - 1, quotient);
    else if (isSigned)
      quotient = select(inexact & ((rest ^ divisor) >= 0), quotient + 1, quotient);
    else
      quotient = select(inexact, quotient + 1, quotient);
  }
  return select(byZero, 0, quotient).v;
}

/// By squaring, one bit of the exponent after the other; 1/x^-y, rounded towards 0, for negative y, and 0 for x = 0.
Num expandIntegerPower(Num x, Num y) {
  MathBuilder &b = *x.b;
  Value start = arith::ConstantIndexOp::create(b, 0), step = arith::ConstantIndexOp::create(b, 1);
  Value end = arith::ConstantIndexOp::create(b, x.width() - 1);
  auto loop = scf::ForOp::create(b, start, end, step, ValueRange{x(1).v, x.v, y.v});
  {
    OpBuilder::InsertionGuard guard(b);
    b.setInsertionPointToStart(loop.getBody());
    auto carried = loop.getRegionIterArgs();
    Num result = x.with(carried[0]), base = x.with(carried[1]), rest = x.with(carried[2]);
    scf::YieldOp::create(b,
                         ValueRange{select((rest & 1) != 0, result * base, result).v, (base * base).v, (rest >> 1).v});
  }
  Num inverse = select(x == 1, 1, select(x == -1, select((y & 1) != 0, -1, y(1)), x(0)));
  return select(y < 0, inverse, x.with(loop.getResult(0)));
}

} // namespace mlir::dsc
