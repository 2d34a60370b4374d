//===- Tools.cpp - main functions of the command line tools ---------------===//

#include "dialects/capi/Tools.h"

#include "mlir/Tools/mlir-lsp-server/MlirLspServerMain.h"
#include "mlir/Tools/mlir-opt/MlirOptMain.h"
#include "passes/Registration.h"

using namespace mlir;

int dscOptMain(int argc, char **argv) {
  DialectRegistry registry;
  dsc::registerAll(registry);
  dsc::registerPasses();
  return asMainReturnCode(MlirOptMain(argc, argv, "dsc optimizer driver\n", registry));
}

int dscLspServerMain(int argc, char **argv) {
  DialectRegistry registry;
  dsc::registerAll(registry);
  return asMainReturnCode(MlirLspServerMain(argc, argv, registry));
}
