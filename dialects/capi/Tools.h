//===- Tools.h - main functions of the command line tools -----------------===//
//
// The tools are a few lines each around these, so that all of them and the
// bindings share one copy of the compiler.
//
//===----------------------------------------------------------------------===//
#pragma once
#include "mlir-c/Support.h"

#ifdef __cplusplus
extern "C" {
#endif

/// Runs passes on a file as mlir-opt does; the exit status.
MLIR_CAPI_EXPORTED int dscOptMain(int argc, char **argv);

/// Serves the language server protocol on stdin and stdout; the exit status.
MLIR_CAPI_EXPORTED int dscLspServerMain(int argc, char **argv);

#ifdef __cplusplus
}
#endif
