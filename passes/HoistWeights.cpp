//===- HoistWeights.cpp - move what depends on weights alone into @init ---===//

#include "mlir/IR/IRMapping.h"
#include "passes/Passes.h"
#include "passes/Weights.h"

namespace mlir::dsc {
#define GEN_PASS_DEF_HOISTWEIGHTSPASS
#include "passes/Passes.h.inc"

namespace {

/// Removes weight arguments that nothing in `main` reads any more; ties are renumbered.
void dropUnusedWeights(func::FuncOp main) {
  llvm::BitVector dead(main.getNumArguments());
  SmallVector<int64_t> newIndex;
  int64_t next = 0;
  for (unsigned i = 0; i < main.getNumArguments(); ++i) {
    if (main.getArgAttr(i, kWeightAttr) && main.getArgument(i).use_empty())
      dead.set(i);
    newIndex.push_back(dead.test(i) ? -1 : next++);
  }
  for (unsigned i = 0; i < main.getNumResults(); ++i)
    if (auto tied = main.getResultAttrOfType<IntegerAttr>(i, kTiedAttr))
      main.setResultAttr(i, kTiedAttr, IntegerAttr::get(tied.getType(), newIndex[tied.getInt()]));
  (void)main.eraseArguments(dead);
}

/// Whether what an operation computes depends on the sizes of a call.
bool readsDims(Operation &op) {
  return op.walk([](DimOp) { return WalkResult::interrupt(); }).wasInterrupted();
}

/// Whether a result leaves @main, as it is or under another shape.
bool isReturned(Operation *op) {
  return llvm::any_of(op->getUsers(), [](Operation *user) {
    return isa<func::ReturnOp>(user) || (!isa<DispatchOp>(user) && isReturned(user));
  });
}

struct HoistWeightsPass : impl::HoistWeightsPassBase<HoistWeightsPass> {
  void runOnOperation() override {
    ModuleOp module = getOperation();
    auto main = module.lookupSymbol<func::FuncOp>("main");
    if (!main || main.isDeclaration() || module.lookupSymbol("init"))
      return;
    SmallVector<Operation *> moved;
    DenseSet<Operation *> movedSet;
    for (Operation &op : main.front().without_terminator()) {
      bool fromWeights = op.getNumOperands() > 0 && llvm::all_of(op.getOperands(), [&](Value operand) {
                           auto argument = dyn_cast<BlockArgument>(operand);
                           return argument ? isWeightArgument(main, argument.getArgNumber())
                                           : movedSet.contains(operand.getDefiningOp());
                         });
      if (!fromWeights || isReturned(&op) || readsDims(op))
        continue;
      moved.push_back(&op);
      movedSet.insert(&op);
    }
    // A view of a weight that @main reads stays: there is nothing to compute. Later ones first.
    SmallVector<Operation *> backwards(llvm::reverse(moved));
    for (Operation *op : backwards) {
      bool readOutside = llvm::any_of(op->getUsers(), [&](Operation *user) { return !movedSet.contains(user); });
      bool readInside = llvm::any_of(op->getUsers(), [&](Operation *user) { return movedSet.contains(user); });
      if (isa<DispatchOp>(op) || !isa<BlockArgument>(op->getOperand(0)) || !readOutside)
        continue;
      if (readInside) { // one for each side
        Operation *copy = OpBuilder(op).clone(*op);
        op->replaceUsesWithIf(copy->getResults(), [&](OpOperand &use) { return !movedSet.contains(use.getOwner()); });
        continue;
      }
      movedSet.erase(op);
      llvm::erase(moved, op);
    }
    if (moved.empty())
      return;

    SetVector<Value> inputs;
    SmallVector<Value> results;
    for (Operation *op : moved) {
      hoisted += isa<DispatchOp>(op);
      for (Value operand : op->getOperands())
        if (isa<BlockArgument>(operand))
          inputs.insert(operand);
      for (Value result : op->getResults())
        if (llvm::any_of(result.getUsers(), [&](Operation *user) { return !movedSet.contains(user); }))
          results.push_back(result);
    }

    OpBuilder b(main);
    auto init = func::FuncOp::create(
        b, main.getLoc(), "init",
        b.getFunctionType(ValueRange(inputs.getArrayRef()).getTypes(), ValueRange(results).getTypes()));
    Block *body = init.addEntryBlock();
    IRMapping map;
    for (auto [i, input] : llvm::enumerate(inputs)) {
      map.map(input, body->getArgument(i));
      auto argument = cast<BlockArgument>(input);
      init.setArgAttrs(i, main.getArgAttrDict(argument.getArgNumber()));
    }
    b.setInsertionPointToEnd(body);
    for (Operation *op : moved)
      b.clone(*op, map);
    SmallVector<Value> returned;
    for (Value result : results)
      returned.push_back(map.lookup(result));
    func::ReturnOp::create(b, main.getLoc(), returned);

    for (auto [i, result] : llvm::enumerate(results)) {
      NamedAttribute prepared(b.getStringAttr(kPreparedAttr), b.getI64IntegerAttr(i));
      unsigned position = main.getNumArguments();
      (void)main.insertArgument(position, result.getType(), b.getDictionaryAttr(prepared), result.getLoc());
      result.replaceAllUsesWith(main.getArgument(position));
    }
    for (Operation *op : llvm::reverse(moved))
      op->erase();
    dropUnusedWeights(main);
    DimsAnalysis dims(module);
    for (auto function : {init, main}) // prepared weights are static: names are all "_"
      for (unsigned i = 0; i < function.getNumArguments(); ++i)
        if (!function.getArgAttr(i, kDimsAttr) && isa<RankedTensorType>(function.getArgument(i).getType()))
          if (DimsAttr names = dims.getAttr(function.getArgument(i)))
            function.setArgAttr(i, kDimsAttr, names);
  }
};

} // namespace
} // namespace mlir::dsc
