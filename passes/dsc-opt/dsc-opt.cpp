//===- dsc-opt.cpp - run dsc passes on a file -----------------------------===//

#include "mlir/Tools/mlir-opt/MlirOptMain.h"
#include "passes/Registration.h"

int main(int argc, char **argv) {
  mlir::DialectRegistry registry;
  mlir::dsc::registerAll(registry);
  mlir::dsc::registerPasses();
  return mlir::asMainReturnCode(mlir::MlirOptMain(argc, argv, "dsc optimizer driver\n", registry));
}
