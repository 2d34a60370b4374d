//===- ExpandMathF32.cpp - e^x, 2^x, tanh and erf in f32 ------------------===//
//
// The hot ones (softmax, sigmoid, SiLU, GELU), in f32 throughout: for e^x,
// reduction in two parts after Cody and Waite (1980), a polynomial of degree 6,
// scaling through the exponent bits. Every other function of f32 is computed in
// f64.
//
//===----------------------------------------------------------------------===//

#include "passes/codegen/ExpandMath.h"

namespace mlir::dsc {

// (e^r - 1 - r) / r^2 on |r| <= ln(2) / 2: our own Remez fit, error 2^-28 of e^r.
static constexpr double kExp[] = {0.499999934420097825, 0.16666520566048304, 0.0416683891275301324,
                                  0.00836872650338618511, 0.0013814578578404367};
// x + this - this is the integer nearest to x, for |x| < 2^21; the low bits of x + this hold it + twice the exponent
// bias.
static constexpr double kRounder = 0x1.8p23 + 2 * 127;

/// e^(r + tail) on |r| <= ln(2) / 2.
static Num expReduced(Num r, Num tail) {
  Num series = polynomial(r, kExp, kExp);
  if (r.b->target.fma)
    return fma(fma(series, r, r(1.0)), r, r(1.0));
  // The small terms first: with two roundings each, Horner's last steps would cost an ulp.
  return 1 + (r + (r * r * series + tail));
}

/// p 2^n for shifted = n + kRounder, in two factors, so that only the last product rounds.
static Num scale(Num p, Num shifted) {
  Num bits = shifted.bits(), half = (bits << 22) & 0xff800000, rest = (bits << 23) - half;
  return p * half.bitcast(p.element()) * rest.bitcast(p.element());
}

Num expandExpF32(Num x) {
  Num clamped = clamp(x, -104, 89);
  Num shifted = fma(clamped, x(0x1.715476p+0), x(kRounder)), n = shifted - kRounder;
  // ln 2 in two parts; n times the first, of 9 bits, is exact.
  Num high = fma(n, x(-0x1.63p-1), clamped), r = fma(n, x(0x1.bd0106p-13), high);
  return scale(expReduced(r, n * 0x1.bd0106p-13 - (r - high)), shifted);
}

Num expandExp2F32(Num x) {
  Num clamped = clamp(x, -151, 129), shifted = clamped + kRounder;
  return scale(expReduced((clamped - (shifted - kRounder)) * 0x1.62e43p-1, x(0.0)), shifted);
}

// Our own fits in the sense of Lawson (1961), rounded to f32.
// (tanh(x) / x - 1) / z in z = x^2 <= 0.625^2; error 2^-27 of tanh.
static constexpr double kTanh[] = {-0.333332807, 0.133314416, -0.0537397042, 0.0206390545, -0.00570495287};
// erf(x) / x - 1 in z = x^2 <= 1; error 2^-29 of erf.
static constexpr double kErf[] = {0.128379166,   -0.37612626,     0.112835854,   -0.026853811,
                                  0.00518832728, -0.000801018905, 7.85384691e-05};
// ln(erfc(x)) on 1 <= x <= 4; error 2^-37 of erf.
static constexpr double kLogErfc[] = {0.000123432794, -1.12919331,    -0.63422209,    -0.106924832,    0.0238038078,
                                      -0.00334119168, 9.44828134e-05, 6.60910155e-05, -1.26932709e-05, 7.98918563e-07};

Num expandTanhF32(Num x) {
  Num size = clamp(x.abs(), 0, 10), z = size * size;
  Num small = fma(size * z, polynomial(z, kTanh, kTanh), size);
  Num large = 1 - 2 / (expandExpF32(size + size) + 1);
  return select(size < 0.625, small, large).withSign(x);
}

Num expandErfF32(Num x) {
  Num size = clamp(x.abs(), 0, 4), z = size * size;
  Num small = fma(size, polynomial(z, kErf, kErf), size);
  Num large = 1 - expandExpF32(polynomial(size, kLogErfc, kLogErfc));
  return select(size < 1, small, large).withSign(x);
}

} // namespace mlir::dsc
