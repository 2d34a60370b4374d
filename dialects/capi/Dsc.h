//===- Dsc.h - C API of the dsc dialect and its compiler ------------------===//
//
// All that bindings see of our C++: the dialect's registration, its passes,
// and one driver that runs phases and makes object code.
//
//===----------------------------------------------------------------------===//
#pragma once
#include "mlir-c/IR.h"

#ifdef __cplusplus
extern "C" {
#endif

MLIR_DECLARE_CAPI_DIALECT_REGISTRATION(Dsc, dsc);

/// Registers every dialect, interface and translation that a dsc module uses.
MLIR_CAPI_EXPORTED void dscRegisterAll(MlirContext context);

/// Registers the passes by name. Safe to call more than once.
MLIR_CAPI_EXPORTED void dscRegisterPasses(void);

/// Runs the phases from `from` (empty: where the module stands) to `to`, with the files `plan` of
/// --dsc-select-precision, `schedules` and `record` of --dsc-schedule-dispatches (empty: none). On failure writes a
/// reproducer: the IR before the failing pass, in a file below `reproducerDir` (empty: none), whose path goes to
/// `reproducer`.
MLIR_CAPI_EXPORTED MlirLogicalResult dscRunPhases(MlirModule module, MlirStringRef target, MlirStringRef from,
                                                  MlirStringRef to, MlirStringRef plan, MlirStringRef schedules,
                                                  MlirStringRef record, MlirStringRef reproducerDir,
                                                  MlirStringCallback reproducer, void *userData);

/// Translates a module at the end of phase llvm to a relocatable object, and
/// prints its manifest as JSON; the object first, then the manifest.
MLIR_CAPI_EXPORTED MlirLogicalResult dscEmitObject(MlirModule module, MlirStringCallback object,
                                                   MlirStringCallback manifest, void *objectData, void *manifestData);

/// Assembly text of the same object.
MLIR_CAPI_EXPORTED MlirLogicalResult dscEmitAssembly(MlirModule module, MlirStringCallback text, void *userData);

/// Canonical description of a target name, as cache keys need it, or failure
/// with the reason in `text`.
MLIR_CAPI_EXPORTED MlirLogicalResult dscDescribeTarget(MlirStringRef target, MlirStringCallback text, void *userData);

#ifdef __cplusplus
}
#endif
