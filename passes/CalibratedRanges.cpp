//===- CalibratedRanges.cpp - ranges that were seen on data, in a file -----===//

#include "passes/CalibratedRanges.h"

#include "passes/JsonEntries.h"

namespace mlir::dsc {

FailureOr<CalibratedRanges> readCalibratedRanges(Location location, StringRef path) {
  CalibratedRanges ranges;
  if (path.empty())
    return ranges;
  auto take = [&](const llvm::json::Object &entry) -> std::string {
    std::string at = textOf(entry, "at"), op = textOf(entry, "op");
    if (at.empty() || op.empty())
      return "needs \"at\", a location, and \"op\", the name of an operation";
    std::optional<double> lo = entry.getNumber("lo"), hi = entry.getNumber("hi");
    double norm = entry.getNumber("norm").value_or(kInfinity);
    if (!lo || !hi || !(*lo <= *hi) || !(norm >= 0))
      return "needs numbers \"lo\" and \"hi\", which is not less, and a \"norm\" that is not negative if it has one";
    bool added = ranges.try_emplace({at, op}, Bounds{*lo, *hi, norm}).second;
    return added ? "" : "says the range of " + op + " at " + at + " again";
  };
  if (failed(readJsonEntries(location, path, "the ranges", "ranges", /*mayLack=*/false, take)))
    return failure();
  return ranges;
}

} // namespace mlir::dsc
