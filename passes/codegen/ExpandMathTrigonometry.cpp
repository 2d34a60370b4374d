//===- ExpandMathTrigonometry.cpp - circular functions --------------------===//
//
// f64 algorithms. Reduction by pi/2 after Cody and Waite (1980) below 2^30 and
// after Payne and Hanek, "Radian reduction for trigonometric functions" (1983)
// above; kernels and the breakpoints of atan as published with fdlibm (Ng 1993).
// Coefficients: our own Remez fits, the error that each leaves stands beside it.
//
//===----------------------------------------------------------------------===//

#include "mlir/Dialect/SCF/IR/SCF.h"
#include "passes/codegen/ExpandMath.h"

namespace mlir::dsc {

static constexpr double kHalfPi = 0x1.921fb54442d18p+0, kHalfPiLow = 0x1.1a62633145c07p-54;
static constexpr double kRounder = 0x1.8p52;

//===----------------------------------------------------------------------===//
// Reduction by pi/2
//===----------------------------------------------------------------------===//

namespace {
/// x = quadrant pi/2 + r + low, |r| <= pi/4; only the two lowest bits of the quadrant count.
struct Angle {
  Num r, low, quadrant;
};
} // namespace

/// pi/2 in parts of 23 bits: times an integer below 2^30 each is exact. The last holds all that is left.
static constexpr double kHalfPiParts[] = {0x1.921fb4p+0, 0x1.4442dp-24, 0x1.846988p-48, 0x1.8cc51701b839ap-72};
static constexpr double kLargeAngle = 0x1p30;

static Angle reduceSmall(Num x) {
  Num shifted = x * 0x1.45f306dc9c883p-1 + kRounder, n = shifted - kRounder;
  Num r = x - n * kHalfPiParts[0];
  if (x.b->quick) {
    r = (r - n * kHalfPiParts[1]) - n * (kHalfPiParts[2] + kHalfPiParts[3]);
    return {r, x(0.0), shifted.bits()};
  }
  Pair second = twoSum(r, -(n * kHalfPiParts[1]));
  Pair third = twoSum(second.hi, -(n * kHalfPiParts[2]));
  Pair sum = fastTwoSum(third.hi, (second.lo + third.lo) - n * kHalfPiParts[3]);
  return {sum.hi, sum.lo, shifted.bits()};
}

/// 64 zero bits, then the fraction bits of 2/pi.
static constexpr uint64_t kTwoOverPi[] = {
    0x0000000000000000, 0xa2f9836e4e441529, 0xfc2757d1f534ddc0, 0xdb6295993c439041, 0xfe5163abdebbc561,
    0xb7246e3a424dd2e0, 0x06492eea09d1921c, 0xfe1deb1cb129a73e, 0xe88235f52ebb4484, 0xe99c7026b45f7e41,
    0x3991d639835339f4, 0x9c845f8bbdf9283b, 0x1ff897ffde05980f, 0xef2f118b5a0a6d1f, 0x6d367ecf27cb09b7,
    0x4f463f669e5fea2d, 0x7527bac7ebe5f17b, 0x3d0739f78a5292ea, 0x6bfb5fb11f8d5d08, 0x56033046fc7b6bab};

/// Scalar, for 2^30 <= |x| < inf; anything for other x.
static Angle reduceLarge(Num x) {
  MathBuilder &b = *x.b;
  Num bits = x.bits(), mantissa = (bits & 0x000fffffffffffff) | 0x0010000000000000;
  // |x| = mantissa 2^e. Bits of 2/pi that give multiples of 4 are skipped: 192 bits from 64 + e - 2 on suffice.
  Num offset = ((bits >> 52) & 0x7ff) - (1075 - 62);
  offset = select(offset < 0, 0, offset);
  auto tableType = VectorType::get({std::size(kTwoOverPi)}, b.getI64Type());
  Value table = arith::ConstantOp::create(b, DenseElementsAttr::get(tableType, ArrayRef<uint64_t>(kTwoOverPi)));
  Num first = offset >> 6, shift = offset & 63, back = 63 - shift;
  auto word = [&](int64_t i) {
    Value position = arith::IndexCastOp::create(b, b.getIndexType(), (first + i).v);
    return x.with(vector::ExtractOp::create(b, table, position));
  };
  Num words[] = {word(0), word(1), word(2), word(3)};
  auto aligned = [&](int i) { return (words[i] << shift) | ((words[i + 1] >> 1) >> back); };
  auto multiply = [&](Num factor) {
    auto product = arith::MulUIExtendedOp::create(b, mantissa.v, factor.v);
    return Pair{x.with(product.getHigh()), x.with(product.getLow())};
  };
  // The product modulo 2^192; its upper two bits are the quadrant, the fraction behind them is rounded to nearest.
  Pair low = multiply(aligned(2)), middle = multiply(aligned(1));
  Num high = mantissa * aligned(0) + middle.hi;
  auto sum = arith::AddUIExtendedOp::create(b, low.hi.v, middle.lo.v);
  Num center = x.with(sum.getSum());
  high = high + x.with(arith::ExtUIOp::create(b, b.getI64Type(), sum.getOverflow()));
  Num quadrant = (high + (int64_t(1) << 61)) >> 62;
  Num fraction[] = {(high << 2) | (center >> 62), (center << 2) | (low.lo >> 62)};
  // 128 bits as four floats of 32 bits, the first one signed.
  auto part = [&](Num value, bool isSigned, double unit) {
    Type f64 = b.getF64Type();
    return x.with(isSigned ? Value(arith::SIToFPOp::create(b, f64, value.v))
                           : Value(arith::UIToFPOp::create(b, f64, value.v))) *
           unit;
  };
  Num top = x.with(arith::ShRSIOp::create(b, fraction[0].v, fraction[0](32).v));
  Pair exact = fastTwoSum(part(top, true, 0x1p-32), part(fraction[0] & 0xffffffff, false, 0x1p-64));
  Num rest = part(fraction[1] >> 32, false, 0x1p-96) + part(fraction[1] & 0xffffffff, false, 0x1p-128);
  Pair turn = fastTwoSum(exact.hi, exact.lo + rest);
  Pair angle = twoProduct(turn.hi, x(kHalfPi));
  angle.lo = angle.lo + (turn.hi * kHalfPiLow + turn.lo * kHalfPi);
  Num negative = x < 0;
  return {select(negative, -angle.hi, angle.hi), select(negative, -angle.lo, angle.lo),
          select(negative, 0 - quadrant, quadrant)};
}

/// The vector's lanes one by one; `x` is one-dimensional or a scalar.
static SmallVector<Value> reduceLargeLanes(Num x) {
  MathBuilder &b = *x.b;
  auto type = dyn_cast<VectorType>(x.type());
  if (!type) {
    Angle angle = reduceLarge(x);
    return {angle.r.v, angle.low.v, angle.quadrant.v};
  }
  Value start = arith::ConstantIndexOp::create(b, 0), step = arith::ConstantIndexOp::create(b, 1);
  Value end = arith::ConstantIndexOp::create(b, type.getNumElements());
  SmallVector<Value> initial = {x.v, x.v, x.bits().v};
  auto loop = scf::ForOp::create(b, start, end, step, initial);
  OpBuilder::InsertionGuard guard(b);
  b.setInsertionPointToStart(loop.getBody());
  Value lane = loop.getInductionVar();
  Angle angle = reduceLarge(x.with(vector::ExtractOp::create(b, x.v, lane)));
  SmallVector<Value> results;
  const Num parts[] = {angle.r, angle.low, angle.quadrant};
  for (auto [value, vector] : llvm::zip_equal(parts, loop.getRegionIterArgs()))
    results.push_back(vector::InsertOp::create(b, value.v, vector, lane));
  scf::YieldOp::create(b, results);
  return loop.getResults();
}

static Angle reduce(Num x) {
  MathBuilder &b = *x.b;
  Angle angle = reduceSmall(x);
  Num large = x.abs() >= kLargeAngle;
  SmallVector<Value> usual = {angle.r.v, angle.low.v, angle.quadrant.v};
  auto branch = scf::IfOp::create(b, ValueRange(usual).getTypes(), anyLane(large).v, /*withElseRegion=*/true);
  {
    OpBuilder::InsertionGuard guard(b);
    b.setInsertionPointToEnd(branch.elseBlock());
    scf::YieldOp::create(b, usual);
    b.setInsertionPointToEnd(branch.thenBlock());
    auto type = dyn_cast<VectorType>(x.type());
    Num flat = x;
    if (type && type.getRank() != 1)
      flat = x.with(vector::ShapeCastOp::create(b, VectorType::get({type.getNumElements()}, x.element()), x.v));
    SmallVector<Value> results = reduceLargeLanes(flat);
    // Infinity and NaN keep the NaN that they have.
    Num replace = large & (x.abs() < std::numeric_limits<double>::infinity());
    for (auto [result, other] : llvm::zip_equal(results, usual)) {
      if (result.getType() != other.getType())
        result = vector::ShapeCastOp::create(b, other.getType(), result);
      result = select(replace, x.with(result), x.with(other)).v;
    }
    scf::YieldOp::create(b, results);
  }
  return {x.with(branch.getResult(0)), x.with(branch.getResult(1)), x.with(branch.getResult(2))};
}

//===----------------------------------------------------------------------===//
// Sine, cosine, tangent
//===----------------------------------------------------------------------===//

// (sin(x) / x - 1) / z and ((cos(x) - 1) / z + 1/2) / z, z = x^2, |x| <= pi/4; errors 2^-58, 2^-64 (2^-37, 2^-43
// quick).
static constexpr double kSin[] = {-0.166666666666666324,  0.00833333333332232987,  -0.000198412698297357787,
                                  2.75573136652284697e-6, -2.50507536969453243e-8, 1.58965271022927959e-10};
static constexpr double kSinQuick[] = {-0.166666666414728798, 0.00833332936710900161, -0.000198393284692351449,
                                       2.71824835593255812e-6};
static constexpr double kCos[] = {0.0416666666666666019,   -0.00138888888888740077, 2.48015872894051043e-5,
                                  -2.75573143288724459e-7, 2.08757199355961836e-9,  -1.1359467830335944e-11};
static constexpr double kCosQuick[] = {0.0416666666225191662, -0.00138888837259705479, 2.47995125999516152e-5,
                                       -2.72096142923053085e-7};

static Pair sinKernel(Angle a) {
  Num z = a.r * a.r, cube = a.r * z;
  return fastTwoSum(a.r, cube * polynomial(z, kSin, kSinQuick) + a.low * (1 - 0.5 * z));
}

static Pair cosKernel(Angle a) {
  Num z = a.r * a.r, half = 0.5 * z, head = 1 - half;
  return fastTwoSum(head, ((1 - head) - half) + (z * z * polynomial(z, kCos, kCosQuick) - a.r * a.low));
}

static Num isOdd(Num quadrant) { return (quadrant & 1) != 0; }

/// sin of an angle whose quadrant is turned by `turn`.
static Num sinTurned(Angle a, int64_t turn) {
  Num quadrant = a.quadrant + turn;
  Num magnitude = select(isOdd(quadrant), cosKernel(a).hi, sinKernel(a).hi);
  return (magnitude.bits() ^ ((quadrant & 2) << 62)).bitcast(a.r.element());
}

Num expandSin(Num x) { return select(x == 0, x, sinTurned(reduce(x), 0)); }
Num expandCos(Num x) { return sinTurned(reduce(x), 1); }

Num expandTan(Num x) {
  Angle a = reduce(x);
  Num odd = isOdd(a.quadrant);
  Pair sin = sinKernel(a), cos = cosKernel(a);
  Num top = select(odd, -cos.hi, sin.hi), topLow = select(odd, -cos.lo, sin.lo);
  Num bottom = select(odd, sin.hi, cos.hi), bottomLow = select(odd, sin.lo, cos.lo);
  Num quotient = top / bottom;
  return select(x == 0, x, quotient + (topLow - quotient * bottomLow) / bottom);
}

//===----------------------------------------------------------------------===//
// Inverses
//===----------------------------------------------------------------------===//

// (atan(x) / x - 1) / z, z = x^2, |x| <= 7/16; error 2^-57 (2^-34 quick).
static constexpr double kAtan[] = {-0.333333333333329263,  0.199999999998750788,  -0.142857142723775199,
                                   0.111111103997828378,   -0.090908869852684121, 0.0769187380782508645,
                                   -0.0666104832957973153, 0.0583340577764948423, -0.0497620387980808043,
                                   0.0365159895352236072,  -0.0162703018340944403};
static constexpr double kAtanQuick[] = {-0.333333318426093705, 0.19999844845409892,    -0.142803119056820332,
                                        0.110237245250075444,  -0.0835982805156684078, 0.045055004884975422};
// (asin(x) / x - 1) / z, z = x^2 <= 1/4; error 2^-59 (2^-35 quick).
static constexpr double kAsin[] = {
    0.166666666666667629,  0.0749999999997019579,  0.0446428571751963932, 0.0303819426795990909, 0.0223722157829105636,
    0.0173515977269048348, 0.0139809917738515782,  0.0113975112976806309, 0.0107881083636310916, 0.00367670596667722324,
    0.0217798331962306101, -0.0211017211801185663, 0.032692992789434272};
static constexpr double kAsinQuick[] = {0.166666671897490959,  0.0749994814756879957, 0.0446601699022355914,
                                        0.0301101219819201564, 0.0246195047881938994, 0.00746465551122780287,
                                        0.0346994218639761695};

/// atan(|x|): atan(c) + atan((x - c) / (1 + c x)) with the nearest of c = 0, 1/2, 1, 3/2, inf.
static Num atanMagnitude(Num x) {
  Num magnitude = x.abs();
  struct Piece {
    double from, c, hi, lo;
  };
  static constexpr Piece pieces[] = {{7.0 / 16, 0.5, 0x1.dac670561bb4fp-2, 0x1.a2b7f222f65e2p-56},
                                     {11.0 / 16, 1, 0x1.921fb54442d18p-1, 0x1.1a62633145c07p-55},
                                     {19.0 / 16, 1.5, 0x1.f730bd281f69bp-1, 0x1.007887af0cbbdp-56}};
  Num numerator = magnitude, denominator = x(1.0), hi = x(0.0), lo = x(0.0);
  for (const Piece &piece : pieces) {
    Num inside = magnitude >= piece.from;
    numerator = select(inside, magnitude - piece.c, numerator);
    denominator = select(inside, 1 + piece.c * magnitude, denominator);
    hi = select(inside, piece.hi, hi);
    lo = select(inside, piece.lo, lo);
  }
  Num outside = magnitude >= 39.0 / 16;
  numerator = select(outside, -1.0, numerator);
  denominator = select(outside, magnitude, denominator);
  hi = select(outside, kHalfPi, hi);
  lo = select(outside, kHalfPiLow, lo);
  Num t = numerator / denominator, z = t * t;
  return hi + (t + (t * z * polynomial(z, kAtan, kAtanQuick) + lo));
}

Num expandAtan(Num x) { return atanMagnitude(x).withSign(x); }

Num expandAtan2(Num y, Num x) {
  constexpr double infinity = std::numeric_limits<double>::infinity();
  // 0/0 counts as 0 and inf/inf as 1.
  Num both = (x.abs() == infinity) & (y.abs() == infinity);
  Num quotient = select(both, 1, select(y == 0, 0, y.abs() / x.abs()));
  Num angle = atanMagnitude(quotient);
  // The sign of x counts even where it is 0.
  Num behind = x.bits() < 0;
  angle = select(behind, 2 * kHalfPi - (angle - 2 * kHalfPiLow), angle).withSign(y);
  return select(isNan(x), x, select(isNan(y), y, angle));
}

/// asin(s) / s - 1, z = s^2.
static Num asinSeries(Num z) { return z * polynomial(z, kAsin, kAsinQuick); }

/// 2 asin(sqrt((1 - |x|) / 2)) = acos(|x|), and its rounded half square root.
static Pair acosLarge(Num z) {
  Num root = sqrt(z);
  // What the root lost; where z = 0 nothing.
  Num head = (root.bits() & -(int64_t(1) << 32)).bitcast(z.element());
  Num lost = select(z > 0, (z - head * head) / (root + head), 0.0);
  return {2 * head, 2 * (lost + root * asinSeries(z))};
}

Num expandAsin(Num x) {
  Num magnitude = x.abs(), large = magnitude >= 0.5;
  Pair complement = acosLarge(0.5 * (1 - magnitude));
  Num small = x + x * asinSeries(x * x);
  Num result = (kHalfPi - complement.hi) - (complement.lo - kHalfPiLow);
  return select(x == 0, x, select(large, result.withSign(x), small));
}

Num expandAcos(Num x) {
  Num magnitude = x.abs(), large = magnitude >= 0.5;
  Pair complement = acosLarge(0.5 * (1 - magnitude));
  Num positive = complement.hi + complement.lo;
  Num negative = (2 * kHalfPi - complement.hi) - (complement.lo - 2 * kHalfPiLow);
  Num small = kHalfPi - (x - (kHalfPiLow - x * asinSeries(x * x)));
  return select(large, select(x < 0, negative, positive), small);
}

} // namespace mlir::dsc
