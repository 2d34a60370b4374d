//===- AnnotateCost.cpp - write what operations and dispatches cost -------===//
//
// Asks CostOpInterface; changes nothing but the attribute `dsc.cost`. In a
// dispatch demand goes from the results to the inputs, as it does in kernels:
// a table that is decoded only where rows are looked up counts only there.
//
//===----------------------------------------------------------------------===//

#include "mlir/Transforms/RegionUtils.h"
#include "passes/DimsAnalysis.h"
#include "passes/GpuRates.h"
#include "passes/Passes.h"
#include "passes/codegen/KernelPlan.h"

namespace mlir::dsc {
#define GEN_PASS_DEF_ANNOTATECOSTPASS
#include "passes/Passes.h.inc"

namespace {

/// What an operation costs if all of its results are needed.
struct Work {
  AffineExpr operations;
  SmallVector<AffineExpr> counts; // elements read of every operand, then written of every result
};

struct Cost {
  AffineExpr operations, bytes;
};

class CostAnalysis {
public:
  explicit CostAnalysis(ModuleOp module) : dims(module), context(module.getContext()) {}

  /// Of an operation that stands alone.
  std::optional<Cost> costOf(CostOpInterface op) {
    std::optional<Work> work = workOf(op);
    if (!work)
      return std::nullopt;
    Cost cost{work->operations, number(0)};
    SmallVector<Value> values(op->getOperands());
    llvm::append_range(values, op->getResults());
    for (auto [value, count] : llvm::zip_equal(values, work->counts))
      cost.bytes = cost.bytes + bytes(value, count);
    return cost;
  }

  /// Of all operations inside; bytes are those of the inputs and results.
  std::optional<Cost> costOf(DispatchOp dispatch) {
    Block &body = dispatch.getBody().front();
    needed.clear();
    Cost cost{number(0), number(0)};
    for (Value value : body.getTerminator()->getOperands()) {
      std::optional<AffineExpr> whole = written(value);
      if (!whole)
        return std::nullopt;
      needed[value] = *whole;
      cost.bytes = cost.bytes + bytes(value, *whole);
    }
    for (Operation &op : llvm::reverse(body.without_terminator())) {
      if (llvm::none_of(op.getResults(), [&](Value result) { return needed.contains(result); }))
        continue;
      std::optional<Work> work = workOf(&op);
      if (!work)
        return std::nullopt;
      cost.operations = cost.operations + share(op, *work, work->operations);
      for (auto [operand, count] : llvm::zip(op.getOperands(), work->counts))
        if (isa<RankedTensorType>(operand.getType()))
          need(operand, share(op, *work, count));
      // What a region looks up is looked up once per element of a result.
      visitUsedValuesDefinedAbove(op.getRegions(), [&](OpOperand *use) {
        if (isa<RankedTensorType>(use->get().getType()))
          need(use->get(), share(op, *work, work->counts.back()));
      });
    }
    for (Value argument : body.getArguments())
      if (AffineExpr count = needed.lookup(argument))
        cost.bytes = cost.bytes + bytes(argument, count);
    return cost;
  }

  /// What a GPU takes at the rates of its data sheet, in nanoseconds: the longer of computing, in whole waves of
  /// blocks, and of reading and writing. Of the variant without a bound; empty if sizes do not say.
  std::string predictedTime(DispatchOp dispatch, TargetAttr target, const Cost &cost) {
    GpuRates rates = ratesOf(target);
    VariantAttr variant = dispatch.getSchedule()->getVariants().back();
    bool bytes8 = variant.getInstruction() == "wgmma8";
    bool matrix = bytes8 || llvm::is_contained({"mma", "wgmma"}, variant.getInstruction());
    AffineExpr blocks = workgroupCount(dispatch.getBody(), variant, dims);
    double perNs = matrix ? rates.matrixPerNs * (bytes8 ? 2 : 1) : rates.floatPerNs;
    auto fixed = [](AffineExpr expr) { return dyn_cast<AffineConstantExpr>(expr); };
    auto divided = [&](AffineExpr expr, double rate) -> std::string {
      if (auto known = fixed(expr))
        return std::to_string(static_cast<int64_t>(std::ceil(known.getValue() / rate)));
      return "(" + dims.print(expr) + ") / " + std::to_string(static_cast<int64_t>(rate));
    };
    std::string memory = divided(cost.bytes, rates.bytesPerNs), compute = divided(cost.operations, perNs);
    auto operations = fixed(cost.operations), count = fixed(blocks), bytes = fixed(cost.bytes);
    if (!operations || !count || !bytes)
      return "max(" + compute + ", " + memory + ")";
    int64_t all = std::max<int64_t>(1, count.getValue()), waves = llvm::divideCeil(all, rates.multiprocessors);
    double idle = static_cast<double>(waves * rates.multiprocessors) / all; // places of the last wave without a block
    double whole = std::max(operations.getValue() / perNs * (matrix ? idle : 1), bytes.getValue() / rates.bytesPerNs);
    return std::to_string(static_cast<int64_t>(std::ceil(whole)));
  }

  StringAttr print(AffineExpr expr) { return StringAttr::get(context, dims.print(expr)); }

private:
  AffineExpr number(int64_t value) { return getAffineConstantExpr(value, context); }

  AffineExpr bytes(Value value, AffineExpr count) {
    Type type = getElementTypeOrSelf(value);
    return count * (type.isIntOrFloat() ? llvm::divideCeil(type.getIntOrFloatBitWidth(), 8) : sizeof(int64_t));
  }

  /// None if a size has no name.
  std::optional<Work> workOf(Operation *op) {
    SmallVector<Dims> operands, results;
    auto visit = [&](ValueRange values, SmallVectorImpl<Dims> &shapes) {
      return llvm::all_of(values, [&](Value value) {
        bool tensor = isa<RankedTensorType>(value.getType());
        shapes.push_back(tensor ? dims.get(value) : Dims());
        return !llvm::is_contained(shapes.back(), AffineExpr());
      });
    };
    if (!visit(op->getOperands(), operands) || !visit(op->getResults(), results))
      return std::nullopt;
    if (auto costs = dyn_cast<CostOpInterface>(op))
      return Work{costs.getOperationCount(operands, results), costs.getElementCounts(operands, results)};
    return Work{number(0), elementCounts(operands, results, context)};
  }

  /// Elements of a value that its operation writes.
  std::optional<AffineExpr> written(Value value) {
    if (Operation *op = value.getDefiningOp()) {
      std::optional<Work> work = workOf(op);
      if (!work)
        return std::nullopt;
      return work->counts[op->getNumOperands() + cast<OpResult>(value).getResultNumber()];
    }
    Dims sizes = dims.get(value);
    return llvm::is_contained(sizes, AffineExpr()) ? std::optional<AffineExpr>() : elementCount(sizes, context);
  }

  /// `count` for as much of the results as is needed.
  AffineExpr share(Operation &op, const Work &work, AffineExpr count) {
    if (op.getNumResults() != 1)
      return count;
    AffineExpr whole = work.counts.back(), part = needed.lookup(op.getResult(0));
    if (part == whole || whole == number(0))
      return count;
    AffineExpr product = part * count;
    return product == number(0) ? product : product.floorDiv(whole);
  }

  void need(Value value, AffineExpr count) {
    AffineExpr &sum = needed[value], whole = elementCount(dims.get(value), context);
    sum = !sum ? count : sum == whole || count == whole ? whole : sum + count;
  }

  DimsAnalysis dims;
  MLIRContext *context;
  DenseMap<Value, AffineExpr> needed; // elements of every value in the dispatch
};

struct AnnotateCostPass : impl::AnnotateCostPassBase<AnnotateCostPass> {
  void runOnOperation() override {
    CostAnalysis costs(getOperation());
    auto target = getOperation()->getAttrOfType<TargetAttr>(kTargetAttr);
    getOperation()->walk<WalkOrder::PreOrder>([&](Operation *op) {
      if (auto dispatch = dyn_cast<DispatchOp>(op)) {
        std::optional<Cost> cost = costs.costOf(dispatch);
        annotate(op, cost, costs);
        if (cost && target && target.isGpu() && dispatch.getSchedule())
          predict(dispatch, costs.predictedTime(dispatch, target, *cost));
        return WalkResult::skip();
      }
      if (auto single = dyn_cast<CostOpInterface>(op))
        annotate(op, costs.costOf(single), costs);
      return WalkResult::advance();
    });
  }

  void predict(DispatchOp dispatch, const std::string &nanoseconds) {
    Builder b(&getContext());
    NamedAttrList fields(dispatch->getAttrOfType<DictionaryAttr>(kCostAttr));
    fields.set("predicted_ns", b.getStringAttr(nanoseconds));
    dispatch->setAttr(kCostAttr, fields.getDictionary(&getContext()));
  }

  /// Leaves an operation alone if one of its sizes has no name.
  void annotate(Operation *op, const std::optional<Cost> &cost, CostAnalysis &costs) {
    if (!cost)
      return;
    Builder b(&getContext());
    op->setAttr(kCostAttr, b.getDictionaryAttr({b.getNamedAttr("bytes", costs.print(cost->bytes)),
                                                b.getNamedAttr("operations", costs.print(cost->operations))}));
  }
};

} // namespace
} // namespace mlir::dsc
