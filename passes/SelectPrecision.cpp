//===- SelectPrecision.cpp - write the precisions that a plan names --------===//

#include "mlir/IR/Builders.h"
#include "passes/Passes.h"
#include "passes/PrecisionPlan.h"
#include "passes/Rounding.h"
#include "llvm/ADT/StringSwitch.h"

namespace mlir::dsc {
#define GEN_PASS_DEF_SELECTPRECISIONPASS
#include "passes/Passes.h.inc"

namespace {

/// `name` with the size of a row for `_row`.
std::string withRow(StringRef name, int64_t columns) {
  return name.ends_with("_row") ? (name.drop_back(4) + "_g" + Twine(columns)).str() : name.str();
}

struct Decision {
  PrecisionOpInterface op;
  const PlannedPrecision &planned;
  Type lhs, rhs, acc;
  SmallVector<int64_t> scales;
  StringAttr storage;

  LogicalResult refuse(const Twine &what) { return op->emitOpError("cannot follow the plan, which says ") << what; }

  LogicalResult store(StringRef key, StringRef format) {
    if (format.empty())
      return success();
    OpOperand *stored = op.getStoredOperand();
    auto type = stored ? dyn_cast<RankedTensorType>(stored->get().getType()) : RankedTensorType();
    if (!type || !type.getRank())
      return refuse("\"" + Twine(key) + "\": \"" + format + "\", but reads nothing that is stored");
    int64_t columns = type.getShape().back();
    std::string name = withRow(format, columns);
    if (!plainStorage(name, op.getContext())) {
      std::optional<BlockFormat> block = findBlockFormat(name);
      if (!block)
        return refuse("\"" + Twine(key) + "\": \"" + format + "\", which is no format");
      if (type.getRank() != 2 || !type.hasStaticShape() || columns % block->block)
        return refuse("\"" + Twine(key) + "\": \"" + format + "\" of a tensor whose rows are not whole blocks of " +
                      Twine(block->block));
    }
    storage = StringAttr::get(op.getContext(), name);
    return success();
  }

  /// What the operation multiplies: f32 as it is, bf16 rounded, 8 bits rounded under the scales of a block.
  LogicalResult activate() {
    StringRef name = planned.activation;
    if (name.empty() || name == "f32")
      return success();
    if (Type plain = plainStorage(name, op.getContext())) {
      if (!op.isLegalElementType(plain))
        return refuse("\"activation\": \"" + name + "\", which it is not defined for");
      lhs = rhs = plain;
      acc = op.getAccumulatorType(plain);
      return success();
    }
    auto type = cast<RankedTensorType>(op->getOperand(0).getType());
    int64_t columns = type.getRank() ? type.getShape().back() : ShapedType::kDynamic;
    if (ShapedType::isDynamic(columns))
      return refuse("\"activation\": \"" + name + "\" of rows whose length is not known");
    std::string resolved = withRow(name, columns);
    auto [kind, group] = StringRef(resolved).rsplit("_g");
    Builder b(op.getContext());
    lhs = llvm::StringSwitch<Type>(kind)
              .Case("fp8_e4m3", Float8E4M3FNType::get(op.getContext()))
              .Case("fp8_e5m2", Float8E5M2Type::get(op.getContext()))
              .Case("int8", b.getI8Type())
              .Default(Type());
    int64_t size = 0;
    if (!lhs || group.getAsInteger(10, size) || size < 1)
      return refuse("\"activation\": \"" + name + "\", which is no format of activations");
    acc = b.getF32Type();
    scales = {1, size};
    return success();
  }

  LogicalResult write() {
    if (!planned.accumulate.empty() && planned.accumulate != "f32")
      return refuse("\"accumulate\": \"" + planned.accumulate + "\", but sums are kept in f32");
    if (failed(store("weight", planned.weight)) || failed(store("kv_cache", planned.cache)) || failed(activate()))
      return failure();
    StringAttr reason = planned.reason.empty() ? StringAttr() : StringAttr::get(op.getContext(), planned.reason);
    op.setPrecisionDecision(PrecisionAttr::get(op.getContext(), lhs, rhs, acc, Type(), scales, storage, reason));
    return success();
  }
};

struct SelectPrecisionPass : impl::SelectPrecisionPassBase<SelectPrecisionPass> {
  using SelectPrecisionPassBase::SelectPrecisionPassBase;

  void runOnOperation() override {
    if (plan.empty())
      return;
    ModuleOp module = getOperation();
    FailureOr<PrecisionPlan> entries = readPrecisionPlan(module.getLoc(), plan);
    if (failed(entries))
      return signalPassFailure();
    std::set<std::pair<std::string, std::string>> used;
    WalkResult result = module.walk([&](Operation *candidate) {
      auto name = candidate->getLoc()->findInstanceOf<NameLoc>();
      if (!name)
        return WalkResult::advance();
      std::pair key(name.getName().str(), candidate->getName().getStringRef().str());
      auto entry = entries->find(key);
      if (entry == entries->end())
        return WalkResult::advance();
      used.insert(key);
      auto op = dyn_cast<PrecisionOpInterface>(candidate);
      if (!op && entry->second.decides()) {
        candidate->emitOpError("cannot follow the plan: it computes in the types of its operands only");
        return WalkResult::interrupt();
      }
      if (!op)
        return WalkResult::advance();
      ++decided;
      return Decision{op, entry->second, {}, {}, {}, {}, {}}.write().succeeded() ? WalkResult::advance()
                                                                                 : WalkResult::interrupt();
    });
    if (result.wasInterrupted())
      return signalPassFailure();
    for (const auto &[key, entry] : *entries)
      if (!used.count(key)) {
        module.emitError("the plan decides ")
            << key.second << " at " << key.first << ", which this model does not have: it is a plan for another model";
        return signalPassFailure();
      }
  }
};

} // namespace
} // namespace mlir::dsc
