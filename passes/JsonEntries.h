//===- JsonEntries.h - lists that users keep in files ----------------------===//
#pragma once
#include "mlir/IR/Diagnostics.h"
#include "llvm/Support/JSON.h"

namespace mlir::dsc {

/// A string of an entry; "" if it has none.
inline std::string textOf(const llvm::json::Object &entry, StringRef key) {
  return entry.getString(key).value_or("").str();
}

/// Reads `{"version": 1, "KEY": [...]}` and calls `take` with every entry, which returns what is wrong with it ("" if
/// nothing is). An error at `location` says that `what` ("the plan") in the file cannot be used. With `mayLack` a file
/// that is not there holds no entries.
LogicalResult readJsonEntries(Location location, StringRef path, StringRef what, StringRef key, bool mayLack,
                              llvm::function_ref<std::string(const llvm::json::Object &)> take);

} // namespace mlir::dsc
