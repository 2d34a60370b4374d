//===- ScheduleDatabase.h - schedules of kernels, kept in a file ----------===//
#pragma once
#include "passes/DimsAnalysis.h"
#include "llvm/ADT/MapVector.h"

namespace mlir::dsc {

/// What was chosen for kernels, on any number of targets: a JSON file that tools and users edit.
///
///     {"version": 1, "schedules": [{"target": "#dsc.target<...>", "kernel": "89ab...", "where": "layers.0/mlp",
///                                   "op": "dsc.matmul", "schedule": "#dsc.schedule<<...>>"}]}
///
/// `target` and `kernel` are the key; `where` and `op` are for readers.
class ScheduleDatabase {
public:
  /// Reads `path`; reports what is wrong with it at `location`. With `mayLack` a missing file is an empty database.
  static FailureOr<ScheduleDatabase> read(Location location, StringRef path, bool mayLack);

  /// The key of a dispatch: a digest of its operations, types and dimensions, whatever its schedule and names are.
  static StringAttr kernelKey(DispatchOp dispatch, DimsAnalysis &dims);

  /// Null if there is none.
  ScheduleAttr lookup(TargetAttr target, StringAttr kernel) const;

  /// Adds or replaces the schedule of a dispatch that has one.
  void record(TargetAttr target, StringAttr kernel, DispatchOp dispatch);

  /// Writes the file whole or leaves it as it is.
  LogicalResult write(Location location, StringRef path) const;

private:
  struct Entry {
    std::string where, op;
    ScheduleAttr schedule;
  };
  llvm::MapVector<std::pair<TargetAttr, StringAttr>, Entry> entries;
};

} // namespace mlir::dsc
