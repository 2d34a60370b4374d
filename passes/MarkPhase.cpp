//===- MarkPhase.cpp - record the phase that a module has completed -------===//

#include "passes/DimsAnalysis.h"
#include "passes/Passes.h"

namespace mlir::dsc {
#define GEN_PASS_DEF_MARKPHASEPASS
#include "passes/Passes.h.inc"

namespace {

struct MarkPhasePass : impl::MarkPhasePassBase<MarkPhasePass> {
  using MarkPhasePassBase::MarkPhasePassBase;
  void runOnOperation() override { getOperation()->setAttr(kPhaseAttr, StringAttr::get(&getContext(), phase)); }
};

} // namespace
} // namespace mlir::dsc
