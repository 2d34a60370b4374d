//===- PrecisionPlan.h - precisions that were searched, in a file ----------===//
#pragma once
#include "dialects/dsc/DscOps.h"

namespace mlir::dsc {

/// What a plan says of the operations at one location.
struct PlannedPrecision {
  std::string weight, activation, accumulate, cache, reason;

  /// Whether anything is to be other than the types say.
  bool decides() const { return !weight.empty() || !cache.empty() || (!activation.empty() && activation != "f32"); }
};

/// A plan's entries by (location, name of the operation).
using PrecisionPlan = std::map<std::pair<std::string, std::string>, PlannedPrecision>;

/// Reads a plan; an error at `location` for a file that is none.
FailureOr<PrecisionPlan> readPrecisionPlan(Location location, StringRef path);

} // namespace mlir::dsc
