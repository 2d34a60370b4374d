#include "passes/Passes.h"
namespace mlir::dsc {
#define GEN_PASS_DEF_EXPANDMATHPASS
#include "passes/Passes.h.inc"
struct Stub : impl::ExpandMathPassBase<Stub> { void runOnOperation() override {} };
}
