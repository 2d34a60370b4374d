//===- RangeAnalysis.cpp - write the ranges of values, and hazards ---------===//
//
// Writes `dsc.range`, `dsc.hazards` and `dsc.errors`; no type and no decision.
// Values are visited in the order in which they are computed: a graph has no
// loops, and what has a region without a model may give anything.
//
//===----------------------------------------------------------------------===//

#include "mlir/Dialect/Func/IR/FuncOps.h"
#include "mlir/IR/Builders.h"
#include "mlir/IR/TypeUtilities.h"
#include "passes/CalibratedRanges.h"
#include "passes/DimsAnalysis.h"
#include "passes/Passes.h"
#include <set>

namespace mlir::dsc {
#define GEN_PASS_DEF_RANGEANALYSISPASS
#include "passes/Passes.h.inc"

namespace {

constexpr llvm::StringLiteral kHazardsAttr = "dsc.hazards", kErrorsAttr = "dsc.errors";

/// What is proved of a value, and what also follows from data; the latter lies within the former.
struct Knowledge {
  Bounds proved, likely;
};

struct NamedType {
  StringRef name;
  Type type;
};

/// Formats that plans name.
SmallVector<NamedType> narrowFormats(MLIRContext *context) {
  return {{"f16", Float16Type::get(context)},
          {"bf16", BFloat16Type::get(context)},
          {"fp8_e4m3", Float8E4M3FNType::get(context)},
          {"fp8_e5m2", Float8E5M2Type::get(context)}};
}

bool isFloat(Value value) { return isa<FloatType>(getElementTypeOrSelf(value)); }

Bounds tightened(const Bounds &bounds, Value value) {
  return isFloat(value) ? bounds.tightened(value.getType()) : bounds;
}

struct RangeAnalysisPass : impl::RangeAnalysisPassBase<RangeAnalysisPass> {
  using RangeAnalysisPassBase::RangeAnalysisPassBase;

  void runOnOperation() override {
    ModuleOp module = getOperation();
    FailureOr<CalibratedRanges> read = readCalibratedRanges(module.getLoc(), ranges);
    if (failed(read))
      return signalPassFailure();
    seen = std::move(*read);
    used.clear();
    for (auto function : module.getOps<func::FuncOp>())
      if (!function.isDeclaration())
        visit(function);
    for (const auto &[key, bounds] : seen)
      if (!used.count(key)) {
        module.emitError("a range is given for ")
            << key.second << " at " << key.first << ", which this model does not have: it is of another model";
        return signalPassFailure();
      }
  }

  void visit(func::FuncOp function) {
    known.clear();
    for (BlockArgument argument : function.getArguments())
      if (auto range = function.getArgAttrOfType<RangeAttr>(argument.getArgNumber(), kRangeAttr)) {
        Bounds bounds = tightened(range.getBounds(), argument);
        known[argument] = {range.getCalibrated() ? Bounds() : bounds, bounds};
      }
    for (Operation &op : function.front().without_terminator())
      visit(&op);
  }

  void visit(Operation *op) {
    auto ranged = dyn_cast<RangeOpInterface>(op);
    if (!ranged)
      return;
    SmallVector<Bounds> proved, likely;
    for (Value operand : op->getOperands()) {
      Knowledge knowledge = known.lookup(operand);
      proved.push_back(knowledge.proved);
      likely.push_back(knowledge.likely);
    }
    SmallVector<Bounds> provedResults =
        ranged.inferRangesFrom(proved, [&](Value value) { return known.lookup(value).proved; });
    SmallVector<Bounds> likelyResults =
        ranged.inferRangesFrom(likely, [&](Value value) { return known.lookup(value).likely; });
    SmallVector<Attribute> attributes;
    for (auto [i, result] : llvm::enumerate(op->getResults())) {
      Knowledge &knowledge = known[result];
      knowledge.proved = tightened(provedResults[i], result);
      knowledge.likely = tightened(both(knowledge.proved, likelyResults[i]), result);
      if (const Bounds *given = calibrationOf(op); given && i == 0)
        knowledge.likely = tightened(both(knowledge.likely, *given), result);
      bool followsFromData = !knowledge.proved.isBounded() && knowledge.likely.isBounded();
      attributes.push_back(
          RangeAttr::get(&getContext(), followsFromData ? knowledge.likely : knowledge.proved, followsFromData));
      if (isa<DscDialect>(op->getDialect()) && isFloat(result))
        ++(followsFromData ? calibrated : knowledge.proved.isBounded() ? this->proved : unknown);
    }
    bool ours = isa<DscDialect>(op->getDialect());
    if (attributes.empty() || (!ours && !all) || !llvm::all_of(op->getResults(), isFloat))
      return;
    op->setAttr(kRangeAttr, attributes.size() == 1 ? attributes.front() : Builder(op).getArrayAttr(attributes));
    writeHazards(op, cast<RangeAttr>(attributes.front()).getBounds());
    if (auto rounds = dyn_cast<PrecisionOpInterface>(op); rounds && errors)
      writeErrors(rounds, likely);
  }

  const Bounds *calibrationOf(Operation *op) {
    auto name = op->getLoc()->findInstanceOf<NameLoc>();
    if (!name)
      return nullptr;
    std::pair key(name.getName().str(), op->getName().getStringRef().str());
    auto it = seen.find(key);
    if (it == seen.end())
      return nullptr;
    used.insert(key);
    return &it->second;
  }

  void writeHazards(Operation *op, const Bounds &bounds) {
    SmallVector<Attribute> hazards;
    Builder b(op);
    double most = bounds.magnitude();
    for (const NamedType &format : narrowFormats(&getContext())) {
      if (most > largestNumber(format.type))
        hazards.push_back(b.getStringAttr(format.name + " overflow"));
      else if (most > 0 && most < smallestNormal(format.type))
        hazards.push_back(b.getStringAttr(format.name + " underflow"));
    }
    op->removeAttr(kHazardsAttr);
    if (!hazards.empty())
      op->setAttr(kHazardsAttr, b.getArrayAttr(hazards));
  }

  void writeErrors(PrecisionOpInterface op, ArrayRef<Bounds> operands) {
    Builder b(op);
    auto errorOf = [&](const RoundingTypes &types, double unit) {
      RoundingError error = op.getRoundingError(operands, types);
      return Attribute(b.getDenseF64ArrayAttr({error.bound / unit, error.estimate / unit}));
    };
    SmallVector<NamedAttribute> formats{b.getNamedAttr("f32", errorOf({}, unitRoundoff(b.getF32Type())))};
    SmallVector<NamedType> types = narrowFormats(&getContext());
    types.push_back({"int8", b.getI8Type()});
    for (const NamedType &format : types) {
      Type type = format.type;
      double unit = isa<FloatType>(type) ? unitRoundoff(type) : 0x1p-8;
      formats.push_back(b.getNamedAttr(
          format.name, b.getDictionaryAttr({b.getNamedAttr("lhs", errorOf({type, {}, {}, {}}, unit)),
                                            b.getNamedAttr("rhs", errorOf({{}, type, {}, {}}, unit)),
                                            b.getNamedAttr("result", errorOf({{}, {}, {}, type}, unit)),
                                            b.getNamedAttr("all", errorOf({type, type, {}, type}, unit))})));
    }
    op->setAttr(kErrorsAttr, b.getDictionaryAttr(formats));
  }

  CalibratedRanges seen;
  std::set<std::pair<std::string, std::string>> used;
  DenseMap<Value, Knowledge> known;
};

} // namespace
} // namespace mlir::dsc
