//===- CalibratedRanges.h - ranges that were seen on data, in a file -------===//
#pragma once
#include "dialects/dsc/DscOps.h"
#include <map>

namespace mlir::dsc {

/// Ranges by (location, name of the operation).
using CalibratedRanges = std::map<std::pair<std::string, std::string>, Bounds>;

/// Reads the file that --dsc-range-analysis describes; none for an empty path, an error at `location` for a file that
/// is none.
FailureOr<CalibratedRanges> readCalibratedRanges(Location location, StringRef path);

} // namespace mlir::dsc
