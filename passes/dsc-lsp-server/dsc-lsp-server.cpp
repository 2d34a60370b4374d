//===- dsc-lsp-server.cpp - dsc modules in an editor ----------------------===//

#include "dialects/capi/Tools.h"

int main(int argc, char **argv) { return dscLspServerMain(argc, argv); }
