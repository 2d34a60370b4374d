#pragma once
#include "mlir/IR/DialectRegistry.h"

namespace mlir::dsc {

/// Every dialect, interface model and translation that a dsc module meets.
void registerAll(DialectRegistry &registry);

/// The dsc passes, and the upstream ones that users mix with them.
void registerPasses();

} // namespace mlir::dsc
