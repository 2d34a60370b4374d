//===- PrecisionPlan.cpp - precisions that were searched, in a file --------===//

#include "passes/PrecisionPlan.h"

#include "passes/JsonEntries.h"

namespace mlir::dsc {

FailureOr<PrecisionPlan> readPrecisionPlan(Location location, StringRef path) {
  PrecisionPlan plan;
  auto take = [&](const llvm::json::Object &entry) -> std::string {
    std::string at = textOf(entry, "at"), op = textOf(entry, "op");
    if (at.empty() || op.empty())
      return "needs \"at\", a location, and \"op\", the name of an operation";
    PlannedPrecision precision{textOf(entry, "weight"), textOf(entry, "activation"), textOf(entry, "accumulate"),
                               textOf(entry, "kv_cache"), textOf(entry, "reason")};
    bool added = plan.try_emplace({at, op}, std::move(precision)).second;
    return added ? "" : "decides " + op + " at " + at + " again";
  };
  if (failed(readJsonEntries(location, path, "the plan", "ops", /*mayLack=*/false, take)))
    return failure();
  return plan;
}

} // namespace mlir::dsc
