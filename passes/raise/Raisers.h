//===- Raisers.h - patterns of terms that are dsc operations --------------===//
#pragma once
#include "passes/raise/Terms.h"

namespace mlir::dsc {

/// A product as its factors, quotients and roots taken apart: term^(+1 or -1), or 1/sqrt(term).
struct Factor {
  enum Power { One, Inverse, InverseRoot } power;
  TermRef term;
};
/// Factors of a term; `whole` is not looked into.
SmallVector<Factor> factorsOf(Terms &terms, TermRef term, TermRef whole = nullptr);
/// `sum` as signed terms.
SmallVector<std::pair<bool, TermRef>> summandsOf(Terms &terms, TermRef sum);

/// Replacements for `root`'s result, or null. Operations go before `root`.
Value raiseNorm(Terms &terms, Value root);
Value raiseRope(Terms &terms, Value root);

/// What became of a product of weights and values.
struct AttentionFound {
  Value replacement;
  std::string problem; // why it is not an attention, for a softmax between two products
};
AttentionFound raiseAttention(Terms &terms, MatmulOp root);

} // namespace mlir::dsc
