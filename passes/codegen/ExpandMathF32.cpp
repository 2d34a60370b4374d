//===- ExpandMathF32.cpp - e^x and 2^x in f32 -----------------------------===//
//
// The hot ones (softmax, sigmoid, SiLU), in f32 throughout: reduction in two
// parts after Cody and Waite (1980), a polynomial of degree 6, scaling through
// the exponent bits. Every other function of f32 is computed in f64.
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

} // namespace mlir::dsc
