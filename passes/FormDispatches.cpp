//===- FormDispatches.cpp - group operations into dispatches --------------===//
//
// A group has at most one main operation. Members that consume its result do
// so at the index that its loop nest is at; members that feed it are read once
// per element, so computing them in place costs nothing.
//
//===----------------------------------------------------------------------===//

#include "mlir/Analysis/TopologicalSortUtils.h"
#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/Linalg/IR/Linalg.h"
#include "mlir/Dialect/Tensor/IR/Tensor.h"
#include "mlir/Transforms/RegionUtils.h"
#include "passes/Passes.h"
#include "passes/Weights.h"
#include "passes/codegen/KernelInterfaces.h"

namespace mlir::dsc {
#define GEN_PASS_DEF_FORMDISPATCHESPASS
#include "passes/Passes.h.inc"

namespace {

bool isView(Operation *op) { return isa<tensor::ExpandShapeOp, tensor::CollapseShapeOp, tensor::CastOp>(op); }

bool hasTensorResult(Operation *op) { return llvm::any_of(op->getResultTypes(), llvm::IsaPred<ShapedType>); }

/// The kernel interface of an operation that belongs in a dispatch.
KernelOpInterface computeOp(Operation *op) {
  auto kernelOp = dyn_cast_or_null<KernelOpInterface>(op);
  return kernelOp && hasTensorResult(op) && !kernelOp.isInline() ? kernelOp : KernelOpInterface();
}

struct Group {
  SmallVector<Operation *> ops;
  Operation *main = nullptr;
  DenseSet<Operation *> atIndex; // results are known at the index of the loop nest
};

class Grouping {
public:
  explicit Grouping(Block &block) : block(block) {}

  void run() {
    SmallVector<Operation *> ops;
    for (Operation &op : block)
      ops.push_back(&op);
    for (Operation *op : ops) {
      order[op] = next++;
      if (KernelOpInterface kernelOp = computeOp(op))
        place(kernelOp);
    }
  }

  SmallVector<Group *> groups() {
    SmallVector<Group *> result;
    for (auto &group : storage)
      if (!group->ops.empty())
        result.push_back(group.get());
    return result;
  }

private:
  void place(KernelOpInterface op) {
    Group *group = storage.emplace_back(std::make_unique<Group>()).get();
    group->ops.push_back(op);
    groupOf[op] = group;
    if (op.isMain())
      group->main = op;
    if (op.hasResultAtIndex())
      group->atIndex.insert(op);
    for (OpOperand &operand : op->getOpOperands()) {
      Operation *producer = operand.get().getDefiningOp();
      Group *from = groupOf.lookup(producer);
      if (!from || from == groupOf[op])
        continue;
      if (op.readsAtIndex(operand.getOperandNumber()) && from->atIndex.contains(producer))
        mergeAtIndex(from, groupOf[op]);
      else if (op.readsOnce(operand.getOperandNumber()))
        mergeProducer(from, producer, op, operand);
    }
  }

  /// The consumer's group continues at the index of the producer's.
  void mergeAtIndex(Group *from, Group *to) {
    if ((from->main && to->main) || !readsCorrectly(from, to) || !acyclic(from, to))
      return;
    for (Operation *op : to->ops)
      groupOf[op] = from;
    llvm::append_range(from->ops, to->ops);
    from->main = from->main ? from->main : to->main;
    from->atIndex.insert(to->atIndex.begin(), to->atIndex.end());
    to->ops.clear();
  }

  /// The consumer computes the producer where it needs it.
  void mergeProducer(Group *from, Operation *producer, Operation *consumer, OpOperand &operand) {
    if (from->main)
      return;
    Group *to = groupOf[consumer];
    bool onlyUse = llvm::all_of(from->ops, [&](Operation *op) {
      // What a body reads (tensor.extract) it may read many times: such a user is neither.
      return llvm::all_of(op->getUsers(),
                          [&](Operation *user) { return user == consumer || groupOf.lookup(user) == from; });
    });
    if (onlyUse && acyclic(from, to)) {
      for (Operation *op : from->ops)
        groupOf[op] = to;
      to->ops.insert(to->ops.begin(), from->ops.begin(), from->ops.end());
      from->ops.clear();
      return;
    }
    // Decoding a weight again is cheaper than storing it decoded.
    bool readsArguments = llvm::all_of(producer->getOperands(), llvm::IsaPred<BlockArgument>);
    if (onlyUse || !readsArguments)
      return;
    OpBuilder b(consumer);
    Operation *copy = b.clone(*producer);
    order[copy] = order[consumer];
    groupOf[copy] = to;
    to->ops.insert(to->ops.begin(), copy);
    operand.set(copy->getResult(cast<OpResult>(operand.get()).getResultNumber()));
    if (isOpTriviallyDead(producer)) {
      llvm::erase(from->ops, producer);
      groupOf.erase(producer);
      producer->erase();
    }
  }

  /// Whoever depends on a main operation must read it at its index.
  bool readsCorrectly(Group *from, Group *to) {
    Group *mainGroup = from->main ? from : to->main ? to : nullptr;
    if (!mainGroup)
      return true;
    for (Group *group : {from, to})
      for (Operation *op : group->ops)
        for (OpOperand &operand : op->getOpOperands()) {
          Operation *producer = operand.get().getDefiningOp();
          bool dependsOnMain = mainGroup->atIndex.contains(producer);
          if (dependsOnMain && !cast<KernelOpInterface>(op).readsAtIndex(operand.getOperandNumber()))
            return false;
        }
    // A body reads tensors at positions of its own.
    for (Operation *result : mainGroup->atIndex)
      for (Operation *user : result->getUsers()) {
        Group *reader = user->getBlock() == &block ? nullptr : groupOf.lookup(ancestor(user));
        if (reader && (reader == from || reader == to))
          return false;
      }
    return true;
  }

  /// No path leaves the union and comes back.
  bool acyclic(Group *a, Group *b) {
    DenseSet<Operation *> members(a->ops.begin(), a->ops.end());
    members.insert(b->ops.begin(), b->ops.end());
    unsigned last = 0;
    for (Operation *op : members)
      last = std::max(last, order.lookup(op));
    SmallVector<Operation *> worklist;
    DenseSet<Operation *> seen;
    auto visitUsers = [&](Operation *op) {
      for (Operation *use : op->getUsers()) {
        Operation *user = ancestor(use);
        if (user && (!order.contains(user) || order.lookup(user) <= last) && !members.contains(user) &&
            seen.insert(user).second)
          worklist.push_back(user);
      }
    };
    for (Operation *op : members)
      visitUsers(op);
    while (!worklist.empty()) {
      Operation *op = worklist.pop_back_val();
      if (!order.contains(op)) // not reached yet, so behind every member
        continue;
      SmallVector<Operation *> group{op};
      if (Group *other = groupOf.lookup(op)) // a dispatch waits for all its inputs
        group = other->ops;
      for (Operation *member : group)
        for (Operation *use : member->getUsers()) {
          Operation *user = ancestor(use);
          if (members.contains(user))
            return false;
          if (user && order.contains(user) && order.lookup(user) <= last && seen.insert(user).second)
            worklist.push_back(user);
        }
    }
    return true;
  }

  /// The operation of the block that `user` is or is inside of: bodies read tensors too.
  Operation *ancestor(Operation *user) { return block.findAncestorOpInBlock(*user); }

  Block &block;
  SmallVector<std::unique_ptr<Group>> storage;
  DenseMap<Operation *, Group *> groupOf;
  DenseMap<Operation *, unsigned> order;
  unsigned next = 1;
};

/// Moves a group into a dispatch at the place of its last operation.
class DispatchBuilder {
public:
  DispatchBuilder(Group &group, Block &block) : group(group), members(group.ops.begin(), group.ops.end()) {
    llvm::sort(group.ops, [](Operation *a, Operation *b) { return a->isBeforeInBlock(b); });
  }

  LogicalResult build() {
    SmallVector<Value> results;
    for (Operation *op : group.ops)
      for (Value result : op->getResults())
        if (llvm::any_of(result.getUsers(), [&](Operation *user) { return !isMember(user); }))
          results.push_back(result);
    Operation *last = group.ops.back();
    if (results.empty()) {
      eraseMembers();
      return success();
    }
    OpBuilder b(last);
    Location loc = group.main ? group.main->getLoc() : last->getLoc();
    OperationState state(loc, DispatchOp::getOperationName());
    Block *body = new Block();
    state.addRegion()->push_back(body);
    OpBuilder inner(last->getContext());
    inner.setInsertionPointToEnd(body);
    for (Operation *op : group.ops) {
      SetVector<Value> operands(op->operand_begin(), op->operand_end());
      getUsedValuesDefinedAbove(op->getRegions(), operands);
      for (Value operand : operands)
        if (failed(bring(operand, inner, body, op)))
          return failure();
      inner.clone(*op, map);
    }
    SmallVector<Value> yielded;
    SmallVector<int64_t> tied;
    for (Value result : results) {
      yielded.push_back(map.lookup(result));
      tied.push_back(-1);
      auto kernelOp = cast<KernelOpInterface>(result.getDefiningOp());
      int64_t operand = kernelOp.getTiedOperand(cast<OpResult>(result).getResultNumber());
      if (operand >= 0)
        tied.back() = cast<BlockArgument>(map.lookup(kernelOp->getOperand(operand))).getArgNumber();
    }
    YieldOp::create(inner, loc, yielded);
    state.addOperands(inputs);
    state.addTypes(ValueRange(results).getTypes());
    if (llvm::any_of(tied, [](int64_t input) { return input >= 0; }))
      state.addAttribute("tied", b.getDenseI64ArrayAttr(tied));
    Operation *dispatch = b.create(state);
    for (auto [old, result] : llvm::zip_equal(results, dispatch->getResults()))
      old.replaceUsesWithIf(result, [&](OpOperand &use) { return !isMember(use.getOwner()); });
    eraseMembers();
    return success();
  }

private:
  bool isMember(Operation *op) {
    while (op && !members.contains(op))
      op = op->getParentOp();
    return op;
  }

  /// Makes an outside value known inside: constants and sizes are copied, tensors become inputs.
  LogicalResult bring(Value value, OpBuilder &inner, Block *body, Operation *user) {
    if (map.contains(value))
      return success();
    Operation *op = value.getDefiningOp();
    auto kernelOp = dyn_cast_or_null<KernelOpInterface>(op);
    bool copied = op && ((kernelOp && kernelOp.isInline()) || !isa<ShapedType>(value.getType()));
    if (!copied) {
      inputs.push_back(value);
      map.map(value, body->addArgument(value.getType(), value.getLoc()));
      return success();
    }
    for (Value operand : op->getOperands()) {
      if (isa<ShapedType>(operand.getType()) && !isa<ShapedType>(value.getType()))
        return user->emitOpError("uses a scalar that was read from a tensor, made by: ") << op->getName();
      if (failed(bring(operand, inner, body, user)))
        return failure();
    }
    inner.clone(*op, map);
    return success();
  }

  void eraseMembers() {
    for (Operation *op : llvm::reverse(group.ops))
      op->erase();
  }

  Group &group;
  DenseSet<Operation *> members;
  IRMapping map;
  SmallVector<Value> inputs;
};

Value copyOf(OpBuilder &b, Location loc, Value source, DimsAnalysis &dims) {
  auto type = cast<RankedTensorType>(source.getType());
  SmallVector<OpFoldResult> sizes;
  for (auto [size, dim] : llvm::zip_equal(type.getShape(), dims.get(source)))
    sizes.push_back(ShapedType::isDynamic(size) ? OpFoldResult(dims.materialize(b, loc, dim))
                                                : OpFoldResult(b.getIndexAttr(size)));
  Value empty = tensor::EmptyOp::create(b, loc, sizes, type.getElementType());
  AffineMap identity = b.getMultiDimIdentityMap(type.getRank());
  SmallVector<utils::IteratorType> loops(type.getRank(), utils::IteratorType::parallel);
  return linalg::GenericOp::create(
             b, loc, TypeRange(type), ValueRange{source}, ValueRange{empty}, ArrayRef<AffineMap>{identity, identity},
             loops, [](OpBuilder &inner, Location at, ValueRange args) { linalg::YieldOp::create(inner, at, args[0]); })
      .getResult(0);
}

Value viewSource(Value value) {
  while (Operation *op = value.getDefiningOp()) {
    if (!isView(op))
      break;
    value = op->getOperand(0);
  }
  return value;
}

/// Every result that leaves must be made by a dispatch, once: an argument, a
/// constant or a second use of one result is copied, a third one from the copy,
/// so that no two of them are the same computation.
void copySharedResults(func::FuncOp function, DimsAnalysis &dims) {
  Operation *terminator = function.front().getTerminator();
  OpBuilder b(terminator);
  DenseSet<Value> returned;
  DenseMap<Value, Value> copies;
  for (OpOperand &operand : terminator->getOpOperands()) {
    if (!isa<RankedTensorType>(operand.get().getType()) ||
        function.getResultAttr(operand.getOperandNumber(), kTiedAttr))
      continue;
    Value source = viewSource(operand.get());
    bool made = computeOp(source.getDefiningOp());
    if (made)
      made =
          cast<KernelOpInterface>(source.getDefiningOp()).getTiedOperand(cast<OpResult>(source).getResultNumber()) < 0;
    if (made && returned.insert(source).second)
      continue;
    Value &copy = copies[operand.get()];
    copy = copyOf(b, operand.get().getLoc(), copy ? copy : operand.get(), dims);
    operand.set(copy);
  }
  // A view needs memory to look at.
  function.walk([&](Operation *op) {
    auto source = isView(op) ? op->getOperand(0).getDefiningOp<KernelOpInterface>() : KernelOpInterface();
    if (source && source.isInline()) {
      OpBuilder before(op);
      op->setOperand(0, copyOf(before, op->getLoc(), op->getOperand(0), dims));
    }
  });
}

struct FormDispatchesPass : impl::FormDispatchesPassBase<FormDispatchesPass> {
  void runOnOperation() override {
    DimsAnalysis dims(getOperation());
    if (failed(verifySizes(getOperation(), dims)))
      return signalPassFailure();
    for (auto function : getOperation().getOps<func::FuncOp>()) {
      if (function.isDeclaration() || function->hasAttr(kKernelAttr))
        continue;
      copySharedResults(function, dims);
      Block &block = function.front();
      for (Operation &op : block)
        if (hasTensorResult(&op) && !isView(&op) && !isa<KernelOpInterface, DispatchOp>(op)) {
          op.emitOpError("has no kernel for this target");
          return signalPassFailure();
        }
      Grouping grouping(block);
      grouping.run();
      for (Group *group : grouping.groups()) {
        DispatchBuilder builder(*group, block);
        if (failed(builder.build()))
          return signalPassFailure();
      }
      sortTopologically(&block);
      function.walk([&](DispatchOp) { ++dispatches; });
    }
  }
};

} // namespace
} // namespace mlir::dsc
