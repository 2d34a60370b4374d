//===- dsc-opt.cpp - run dsc passes on a file -----------------------------===//

#include "dialects/capi/Tools.h"

int main(int argc, char **argv) { return dscOptMain(argc, argv); }
