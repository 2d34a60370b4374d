//===- ExpandMathElementary.cpp - exponentials, logarithms, powers --------===//
//
// f64 algorithms. Argument reductions after Cody and Waite, "Software Manual for
// the Elementary Functions" (1980); logarithms by s = f / (2 + f) and
// log(1 + f) = f - f^2/2 + s (f^2/2 + R(s^2)) as published with fdlibm (Ng 1993);
// double-double sums and products after Dekker (1971) and Knuth. Coefficients:
// our own Remez fits, the error that each leaves stands beside it.
//
//===----------------------------------------------------------------------===//

#include "passes/codegen/ExpandMath.h"

namespace mlir::dsc {

static constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
static constexpr double kRounder = 0x1.8p52; // x + this - this: x to the nearest integer, for |x| < 2^51
static constexpr int64_t kOne = 0x3ff0000000000000, kMantissa = 0x000fffffffffffff;
// ln 2 in two parts; times an integer below 2^21, or 2^11, the first is exact.
static constexpr double kLn2Hi = 0x1.62e42feep-1, kLn2Lo = 0x1.a39ef35793c76p-33;
static constexpr double kLn2High = 0x1.62e42fefa38p-1, kLn2Low = 0x1.ef35793c7673p-45;
static constexpr double kLn2 = 0x1.62e42fefa39efp-1, kLog2E = 0x1.71547652b82fep+0;

Pair twoSum(Num x, Num y) {
  Num sum = x + y, part = sum - x;
  return {sum, (x - (sum - part)) + (y - part)};
}

Pair fastTwoSum(Num x, Num y) {
  Num sum = x + y;
  return {sum, y - (sum - x)};
}

Pair twoProduct(Num x, Num y) {
  Num product = x * y;
  if (x.b->target.fma)
    return {product, fma(x, y, -product)};
  // Veltkamp's splitting into 26 bits each; clearing bits instead of multiplying cannot overflow.
  auto high = [](Num value) { return (value.bits() & ~0x7ffffff).bitcast(value.element()); };
  Num xh = high(x), yh = high(y), xl = x - xh, yl = y - yh;
  return {product, ((xh * yh - product) + xh * yl + xl * yh) + xl * yl};
}

/// Odd functions with f(x) = x at 0, where formulas lose the sign.
static Num keepZero(Num x, Num result) { return select(x == 0, x, result); }

//===----------------------------------------------------------------------===//
// Exponentials
//===----------------------------------------------------------------------===//

// (e^r - 1 - r) / r^2 on |r| <= ln(2) / 2, error 2^-64 (2^-33 quick) of e^r.
static constexpr double kExp[] = {0.5,
                                  0.166666666666666824,
                                  0.0416666666666660954,
                                  0.00833333333331699212,
                                  0.00138888888891161902,
                                  0.000198412698964901254,
                                  2.48015869259843545e-5,
                                  2.75572347525781254e-6,
                                  2.75575821091250771e-7,
                                  2.51120759727527082e-8,
                                  2.08266209109585624e-9};
static constexpr double kExpQuick[] = {0.500000007818104053,   0.166666667037426525,   0.0416662480636557364,
                                       0.00833329846633538637, 0.00139481541986237077, 0.000199008544679326411};

namespace {
/// e^x = 2^exponent (1 + r + rest), |r| <= ln(2) / 2; the exponent is an integer.
struct Exponential {
  Num r, rest, exponent;

  Num fraction() const { return r + rest; }
};
} // namespace

/// e^(r + tail) - 1 - r on |r| <= ln(2) / 2.
static Num expRest(Num r, Num tail) { return fma(r * r, polynomial(r, kExp, kExpQuick), tail); }

/// e^(x + tail) for |x| < 2^20.
static Exponential exponential(Num x, Num tail) {
  Num shifted = fma(x, x(kLog2E), x(kRounder)), n = shifted - kRounder;
  Num high = x - n * kLn2Hi, low = n * kLn2Lo - tail, r = high - low;
  // The lowest bits of `shifted` hold n.
  return {r, expRest(r, (high - r) - low), shifted.bits() - x(kRounder).bits()};
}

/// x 2^n in two steps, so that only the last one rounds, for |n| <= 2000.
static Num scale(Num x, Num n) {
  Num biased = n + 2 * 1023, half = biased >> 1, rest = biased - half;
  return x * (half << 52).bitcast(x.element()) * (rest << 52).bitcast(x.element());
}

/// e^(x + tail) 2^shift.
static Num expSum(Num x, Num tail, int64_t shift = 0) {
  Exponential e = exponential(clamp(x, -746, 711), tail);
  return scale(1 + e.fraction(), e.exponent + shift);
}

Num expandExp(Num x) { return expSum(x, x(0.0)); }

Num expandExp2(Num x) {
  Num clamped = clamp(x, -1076, 1025), shifted = clamped + kRounder, n = shifted - kRounder;
  Pair r = twoProduct(clamped - n, x(kLn2));
  return scale(1 + (r.hi + expRest(r.hi, r.lo)), shifted.bits() - x(kRounder).bits());
}

Num expandExpm1(Num x) {
  Num clamped = clamp(x, -50, 709.8);
  Exponential e = exponential(clamped, x(0.0));
  // 2^(n-1), so that n = 1024 does not overflow before the sum does.
  Num power = ((e.exponent + 1022) << 52).bitcast(x.element());
  Pair head = fastTwoSum(power, x(-0.5)), sum = twoSum(head.hi, power * e.r);
  Num result = 2 * (sum.hi + (sum.lo + head.lo + power * e.rest));
  return select(x.abs() < 0x1p-54, x, result);
}

//===----------------------------------------------------------------------===//
// Logarithms
//===----------------------------------------------------------------------===//

// (2 atanh(s) / s - 2) / z, z = s^2, s <= 0.1716; error 2^-58 (2^-36 quick) of the sum.
static constexpr double kLog[] = {0.666666666666673513, 0.399999999994125388, 0.285714287429625902,
                                  0.222221985039548264, 0.181835684381331408, 0.153139328754985982,
                                  0.147972444122554975};
static constexpr double kLogQuick[] = {0.66666665642360623, 0.400003359622717047, 0.285372554731205264,
                                       0.235832323435700958};
// ((2 atanh(s) / s - 2) / z - 2/3) / z; error 2^-65.
static constexpr double kLogTail[] = {0.400000000000022671, 0.285714285700946313, 0.222222225208925817,
                                      0.181817842752143521, 0.153867618609391882, 0.132567060060881287,
                                      0.131974188613248722};

namespace {
/// x = 2^k (1 + f), sqrt(1/2) <= 1 + f < sqrt(2), for 0 < x < inf.
struct Split {
  Num k, f;
};
} // namespace

static Split split(Num x) {
  constexpr int64_t sqrtHalf = 0x3fe6a09e667f3bcd;
  Num subnormal = x < 0x1p-1022;
  Num shifted = select(subnormal, x * 0x1p54, x).bits() + (kOne - sqrtHalf);
  Num exponent = ((shifted >> 52) | x(0x1p52).bits()).bitcast(x.element()); // 2^52 + the biased exponent
  Num k = exponent - select(subnormal, 0x1p52 + 1023 + 54, x(0x1p52 + 1023));
  return {k, ((shifted & kMantissa) + sqrtHalf).bitcast(x.element()) - 1};
}

/// f^2/2 and s (f^2/2 + R): log(1 + f) = f - square + correction.
static std::pair<Num, Num> logParts(Num f) {
  Num s = f / (2 + f), z = s * s, square = 0.5 * f * f;
  return {square, s * (square + z * polynomial(z, kLog, kLogQuick))};
}

/// Where x is not in (0, inf).
static Num logSpecial(Num x, Num result) {
  result = select(x < kInfinity, result, x);
  return select(x > 0, result, select(x == 0, -kInfinity, select(isNan(x), x, kNan)));
}

Num expandLog(Num x) {
  auto [k, f] = split(x);
  auto [square, correction] = logParts(f);
  return logSpecial(x, k * kLn2Hi - ((square - (correction + k * kLn2Lo)) - f));
}

/// k unitHi + k unitLo + log(1 + f) (scaleHi + scaleLo), as FreeBSD's e_log2 and e_log10 sum it.
static Num logInBase(Num x, double scaleHi, double scaleLo, double unitHi, double unitLo) {
  auto [k, f] = split(x);
  auto [square, correction] = logParts(f);
  Num hi = ((f - square).bits() & -(int64_t(1) << 32)).bitcast(x.element());
  Num lo = ((f - hi) - square) + correction;
  auto [sum, error] = twoSum(k * unitHi, hi * scaleHi);
  Num rest = k * unitLo + ((lo + hi) * scaleLo + lo * scaleHi);
  return logSpecial(x, sum + (rest + error));
}
Num expandLog2(Num x) { return logInBase(x, 0x1.71547p+0, 0x1.94ae0bf85ddf4p-22, 1, 0); }
Num expandLog10(Num x) {
  return logInBase(x, 0x1.bcb7bp-2, 0x1.526e50e32a6abp-26, 0x1.34413508p-2, 0x1.f79fef311f12bp-34);
}

Num expandLog1p(Num x) {
  Num u = 1 + x;
  auto [k, f] = split(u);
  auto [square, correction] = logParts(f);
  // What the sum u lost, relative to u.
  Num lost = select(x < 1, x - (u - 1), 1 - (u - x)) / u;
  Num result = k * kLn2Hi - ((square - (correction + (k * kLn2Lo + lost))) - f);
  return keepZero(x, logSpecial(u, result));
}

/// log(x) with a relative error below 2^-63, for 0 < x < inf.
static Pair logPair(Num x) {
  auto [k, f] = split(x);
  // s = f / (2 + f); the sum and the quotient leave remainders.
  Pair sum = twoSum(x(2.0), f);
  Num s = f / sum.hi;
  Pair back = twoProduct(s, sum.hi);
  Num sLow = (((f - back.hi) - back.lo) - s * sum.lo) / sum.hi;
  Pair z = twoProduct(s, s);
  z.lo = z.lo + 2 * s * sLow;
  // log(1 + f) = s (2 + z (2/3 + z P(z)))
  Pair inner = fastTwoSum(x(0x1.5555555555555p-1), z.hi * polynomial(z.hi, kLogTail, kLogTail));
  inner.lo = inner.lo + 0x1.5555555555555p-55;
  Pair product = twoProduct(z.hi, inner.hi);
  product.lo = product.lo + (z.hi * inner.lo + z.lo * inner.hi);
  Pair factor = fastTwoSum(x(2.0), product.hi);
  factor.lo = factor.lo + product.lo;
  Pair log = twoProduct(s, factor.hi);
  log.lo = log.lo + (s * factor.lo + sLow * factor.hi);
  Pair total = twoSum(k * kLn2High, log.hi);
  total.lo = total.lo + (log.lo + k * kLn2Low);
  return total;
}

//===----------------------------------------------------------------------===//
// Powers
//===----------------------------------------------------------------------===//

/// |x|^y, and NaN where an operand is.
static Num powMagnitude(Num x, Num y) {
  Num magnitude = x.abs(), result = x;
  Num edge = select(magnitude == 0, -kInfinity, magnitude); // log(x) where that is not finite
  Num isEdge = (magnitude == 0) | (magnitude == kInfinity);
  if (x.b->quick) {
    auto [k, f] = split(magnitude);
    auto [square, correction] = logParts(f);
    Num log = k * kLn2Hi - ((square - (correction + k * kLn2Lo)) - f);
    result = expSum(y * select(isEdge, edge, log), x(0.0));
  } else {
    Pair log = logPair(magnitude);
    Pair product = twoProduct(y, log.hi);
    Num power = select(isEdge, y * edge, product.hi);
    Num usual = (power.abs() < 800) & (isEdge ^ 1);
    result = expSum(power, select(usual, product.lo + y * log.lo, 0.0));
  }
  result = select(isNan(x), x, select(isNan(y), y, result));
  result = select(magnitude == 1, select(y.abs() == kInfinity, 1, result), result);
  return select(y == 0, 1, result);
}

Num expandPow(Num x, Num y) {
  Num size = y.abs(), half = 0.5 * size;
  auto whole = [](Num v) { return select(v < 0x1p52, (v + 0x1p52) - 0x1p52, v); };
  Num integer = whole(size) == size, odd = integer & (whole(half) != half);
  Num result = powMagnitude(x, y);
  result = select(odd, result.withSign(x), result);
  // A negative base needs an integer; -inf and -0 are no bases in this sense.
  Num finite = x.abs() < kInfinity;
  result = select((x < 0) & finite & (integer ^ 1), select(isNan(y), y, kNan), result);
  return select(x == 1, 1, result);
}

Num expandPowInteger(Num x, Num y, Num odd) {
  Num result = powMagnitude(x, y);
  return select(x == 1, 1, select(odd, result.withSign(x), result));
}

Num expandCbrt(Num x) {
  Num magnitude = x.abs(), subnormal = magnitude < 0x1p-1022;
  Num scaled = select(subnormal, magnitude * 0x1p54, magnitude);
  // A third of the exponent and a straight line: 5 bits; each of Halley's steps triples them.
  Num third = ((scaled.bits() >> 32) * 0x55555556) >> 32;
  Num root = ((third + 0x2a9f7893) << 32).bitcast(x.element());
  for (int step = 0; step < 2; ++step) {
    Num ratio = scaled / (root * root);
    root = root * ((0.5 * root + ratio) / (root + 0.5 * ratio));
  }
  // Newton's step from a root of 26 bits, whose square is exact.
  Num rounded = ((root.bits() + 0x4000000) & ~0x7ffffff).bitcast(x.element());
  Num quotient = scaled / (rounded * rounded);
  root = rounded + rounded * ((quotient - rounded) / (2 * rounded + quotient));
  root = select(subnormal, root * 0x1p-18, root);
  return select((x == 0) | ((magnitude < kInfinity) ^ 1), x, root.withSign(x));
}

//===----------------------------------------------------------------------===//
// Hyperbolic functions
//===----------------------------------------------------------------------===//

// (sinh(x) / x - 1) / z, z = x^2 <= 1; error 2^-63 (2^-34 quick).
static constexpr double kSinh[] = {0.166666666666666685,   0.00833333333333313893, 0.000198412698414374264,
                                   2.75573191554076402e-6, 2.50521233887296323e-8, 1.60572410089945038e-10,
                                   7.75929446935539877e-13};
static constexpr double kSinhQuick[] = {0.166666664890687238, 0.00833335057565235196, 0.000198360700432229867,
                                        2.81742027518922957e-6};

Num expandSinh(Num x) {
  Num half = expSum(x.abs(), x(0.0), -1), z = x * x; // e^|x| / 2
  Num large = (half - 0.25 / half).withSign(x);
  Num small = x + x * z * polynomial(z, kSinh, kSinhQuick);
  return keepZero(x, select(x.abs() < 1, small, large));
}

Num expandCosh(Num x) {
  Num half = expSum(x.abs(), x(0.0), -1);
  return half + 0.25 / half;
}

// (tanh(x) / x - 1) / z, z = x^2, |x| <= 0.55; error 2^-60 (2^-34 quick).
static constexpr double kTanh[] = {-0.333333333333333,    0.13333333333326775,   -0.05396825396384343,
                                   0.021869488388059872,  -0.0088632326351119,   0.0035920923482218865,
                                   -0.001455544760639105, 0.0005884518668095974, -0.00023339916916810107,
                                   8.334010578559412e-05, -1.95083806303423e-05};
static constexpr double kTanhQuick[] = {-0.333333327396974299, 0.133332945087628996,    -0.053959770217571576,
                                        0.0217835988072984169, -0.00841621603722640145, 0.00239827408430639145};

Num expandTanh(Num x) {
  Num magnitude = x.abs(), z = x * x, power = expandExp(-2 * magnitude);
  Num large = (1 - 2 * power / (1 + power)).withSign(x);
  Num small = x + x * (z * polynomial(z, kTanh, kTanhQuick));
  return keepZero(x, select(magnitude < 0.55, small, large));
}

Num expandAsinh(Num x) {
  Num magnitude = x.abs(), square = magnitude * magnitude, huge = magnitude > 0x1p60;
  Num argument = magnitude + square / (1 + sqrt(1 + square));
  Num result = expandLog1p(select(huge, magnitude, argument));
  return keepZero(x, select(huge, result + kLn2, result).withSign(x));
}

Num expandAcosh(Num x) {
  Num t = x - 1, huge = x > 0x1p60;
  Num result = expandLog1p(select(huge, x, t + sqrt(2 * t + t * t)));
  return select(x < 1, kNan, select(huge, result + kLn2, result));
}

Num expandAtanh(Num x) {
  Num magnitude = x.abs();
  return keepZero(x, (0.5 * expandLog1p(2 * magnitude / (1 - magnitude))).withSign(x));
}

//===----------------------------------------------------------------------===//
// Error function
//===----------------------------------------------------------------------===//

// erf(x) / x - 1 in z = x^2 <= 1; error 2^-57 (2^-34 quick).
static constexpr double kErf[] = {0.128379167095512559,    -0.376126389031835484,   0.112837916709452424,
                                  -0.026866170643274883,   0.00522397760741487045,  -0.000854832598937946687,
                                  0.000120552953134249729, -1.49247445676253433e-5, 1.64475169269597352e-6,
                                  -1.62091730412429706e-7, 1.37229748035136152e-8,  -7.80120420496614321e-10};
static constexpr double kErfQuick[] = {0.128379167063088107,    -0.376126384833020355,  0.112837827406459104,
                                       -0.0268654455028069089,  0.00522107415281975774, -0.000848470323711308775,
                                       0.000112705007800371689, -9.6800534434431783e-6};
// (1 + 2x) e^(x^2) erfc(x) in t = (x - 3.75) / (x + 3.75) for 0 <= x <= 30 (the form of Shepherd and Laframboise,
// "Chebyshev approximation of (1+2x)exp(x^2)erfc x", 1981); error 2^-60 (2^-33 quick).
static constexpr double kErfc[] = {
    1.23751263083782748,     -0.140240598585546994,   0.00358541548546361354,  0.0822767384901490068,
    -0.108803930141702754,   0.0923043211602794372,   -0.058693398590653735,   0.0283622774199968238,
    -0.00974657954651177855, 0.00175562584833360911,  0.000293713589417847021, -0.000290154081885683442,
    5.16494126785397439e-5,  2.23843401655752675e-5,  -1.14449713972628572e-5, -9.74030667171003754e-7,
    1.75300631650239877e-6,  -5.61164192767867451e-8, -2.6000598832209991e-7,  2.18033218796899384e-8,
    3.92835671050124057e-8,  -2.69804127785820754e-9, -5.14065517347628536e-9, -4.94385870065921605e-12,
    3.26379887754566156e-10};
static constexpr double kErfcQuick[] = {1.23751263080601559,    -0.140240596973399884,   0.00358541978850655243,
                                        0.0822766688847093031,  -0.108804036601553175,   0.0923051744284913295,
                                        -0.0586923286968635619, 0.0283578147657788208,   -0.00975194082969119483,
                                        0.00176687420960073335, 0.000307889068102122133, -0.000303378407574488192,
                                        3.24412076075296341e-5, 2.75177295235629623e-5};

/// erfc(|x|).
static Num erfcMagnitude(Num x) {
  Num magnitude = clamp(x.abs(), 0, 28); // erfc(28) is 0 in f64
  Num factor = polynomial((magnitude - 3.75) / (magnitude + 3.75), kErfc, kErfcQuick) / (1 + 2 * magnitude);
  Pair square = twoProduct(magnitude, magnitude);
  Exponential e = exponential(-square.hi, -square.lo);
  // Rounded before scaling, so that results below 2^-1022 are rounded once.
  return scale(factor + factor * e.fraction(), e.exponent);
}

static Num erfSmall(Num x) { return x + x * polynomial(x * x, kErf, kErfQuick); }

Num expandErf(Num x) {
  Num large = (1 - erfcMagnitude(x)).withSign(x);
  return keepZero(x, select(x.abs() < 1, erfSmall(x), large));
}

Num expandErfc(Num x) {
  Num tail = erfcMagnitude(x);
  return select(x.abs() < 0.8, 1 - erfSmall(x), select(x < 0, 2 - tail, tail));
}

} // namespace mlir::dsc
