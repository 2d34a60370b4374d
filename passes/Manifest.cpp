//===- Manifest.cpp - the signature that a compiled module shows its caller ==//

#include "passes/Manifest.h"

#include "mlir/IR/SymbolTable.h"
#include "llvm/Support/JSON.h"

namespace mlir::dsc {

static std::string typeName(Type type) {
  std::string text;
  llvm::raw_string_ostream(text) << cast<ShapedType>(type).getElementType();
  return text;
}

namespace {
struct ManifestWriter {
  ModuleOp module;
  DimsAnalysis &dims;
  Builder b;

  NamedAttribute named(StringRef name, Attribute value) { return b.getNamedAttr(name, value); }
  Attribute text(StringRef value) { return b.getStringAttr(value); }
  Attribute none() { return b.getUnitAttr(); }

  /// Sizes as numbers and names; "?" for an expression.
  Attribute shape(RankedTensorType type, const Dims &sizes) {
    SmallVector<Attribute> entries;
    for (auto [i, size] : llvm::enumerate(type.getShape())) {
      if (!ShapedType::isDynamic(size))
        entries.push_back(b.getI64IntegerAttr(size));
      else if (isa_and_nonnull<AffineSymbolExpr>(sizes[i]))
        entries.push_back(text(dims.print(sizes[i])));
      else
        entries.push_back(text("?"));
    }
    return b.getArrayAttr(entries);
  }

  Attribute argument(func::FuncOp function, unsigned i, bool tied) {
    auto weight = function.getArgAttrOfType<StringAttr>(i, kWeightAttr);
    auto prepared = function.getArgAttrOfType<IntegerAttr>(i, kPreparedAttr);
    auto name = function.getArgAttrOfType<StringAttr>(i, kNameAttr);
    Value value = function.getArgument(i);
    auto type = cast<RankedTensorType>(value.getType());
    return b.getDictionaryAttr(
        {named("name", name ? name : none()),
         named("kind", text(weight     ? "weight"
                            : prepared ? "prepared"
                                       : "input")),
         named("weight", weight ? weight : none()), named("prepared", prepared ? Attribute(prepared) : none()),
         named("dtype", text(typeName(type))), named("shape", shape(type, dims.get(value))),
         named("unsigned", b.getBoolAttr(static_cast<bool>(function.getArgAttr(i, kUnsignedAttr)))),
         named("tied", b.getBoolAttr(tied))});
  }

  Attribute program(func::FuncOp function) {
    DenseSet<int64_t> tiedArguments;
    SmallVector<Attribute> results, arguments;
    for (auto [i, value] : llvm::enumerate(function.front().getTerminator()->getOperands())) {
      auto tied = function.getResultAttrOfType<IntegerAttr>(i, kTiedAttr);
      auto name = function.getResultAttrOfType<StringAttr>(i, kNameAttr);
      if (tied)
        tiedArguments.insert(tied.getInt());
      auto type = cast<RankedTensorType>(value.getType());
      SmallVector<Attribute> sizes;
      for (int64_t size : type.getShape())
        sizes.push_back(ShapedType::isDynamic(size) ? text("?") : b.getI64IntegerAttr(size));
      results.push_back(b.getDictionaryAttr(
          {named("name", name ? name : none()), named("dtype", text(typeName(type))),
           named("shape", b.getArrayAttr(sizes)), named("tied", tied ? Attribute(tied) : none()),
           named("unsigned", b.getBoolAttr(static_cast<bool>(function.getResultAttr(i, kUnsignedAttr))))}));
    }
    for (unsigned i = 0; i < function.getNumArguments(); ++i)
      arguments.push_back(argument(function, i, tiedArguments.contains(i)));
    return b.getDictionaryAttr({named("args", b.getArrayAttr(arguments)), named("results", b.getArrayAttr(results))});
  }

  /// Range and divisor of a symbol, as --dsc-name-dims collected them.
  Attribute symbol(StringRef name) {
    int64_t min = 0, max = -1, divisor = 1;
    auto ranges = module->getAttrOfType<DictionaryAttr>(kRangesAttr);
    if (auto range = ranges ? ranges.getAs<DenseI64ArrayAttr>(name) : DenseI64ArrayAttr())
      min = range[0], max = range[1], divisor = range[2];
    return b.getDictionaryAttr({named("name", text(name)), named("min", b.getI64IntegerAttr(min)),
                                named("max", max >= 0 ? Attribute(b.getI64IntegerAttr(max)) : none()),
                                named("divisor", b.getI64IntegerAttr(divisor))});
  }

  Attribute dispatch(LaunchOp launch, int64_t index, StringRef program) {
    std::string location;
    if (auto name = dyn_cast<NameLoc>(launch.getLoc()))
      location = name.getName().str();
    else if (auto file = dyn_cast<FileLineColLoc>(launch.getLoc()))
      location = file.getFilename().str() + ":" + std::to_string(file.getLine());
    auto kernel = cast<FlatSymbolRefAttr>(launch.getKernels()[launch.getKernels().size() - 1]);
    auto costs = launch->getAttrOfType<DictionaryAttr>(kCostAttr);
    auto cost = [&](StringRef key) {
      auto expr = costs ? costs.getAs<StringAttr>(key) : StringAttr();
      return named(key, expr ? Attribute(expr) : none());
    };
    SmallVector<NamedAttribute> fields{named("index", b.getI64IntegerAttr(index)),
                                       named("kernel", text(kernel.getValue())),
                                       named("program", text(program)),
                                       named("location", text(location)),
                                       named("variants", b.getI64IntegerAttr(launch.getKernels().size())),
                                       cost("operations"),
                                       cost("bytes")};
    if (costs && costs.contains("predicted_ns"))
      fields.push_back(cost("predicted_ns"));
    return b.getDictionaryAttr(fields);
  }
};
} // namespace

void writeManifest(ModuleOp module, DimsAnalysis &dims) {
  ManifestWriter writer{module, dims, Builder(module.getContext())};
  Builder &b = writer.b;
  auto main = module.lookupSymbol<func::FuncOp>("main");
  auto init = module.lookupSymbol<func::FuncOp>("init");
  SmallVector<Attribute> symbols, dispatches;
  for (const std::string &name : dims.symbols())
    symbols.push_back(writer.symbol(name));
  DenseSet<Attribute> kernels;
  for (auto function : {main, init})
    if (function)
      for (auto launch : function.getOps<LaunchOp>()) {
        dispatches.push_back(writer.dispatch(launch, dispatches.size(), function.getName()));
        kernels.insert(launch.getKernels());
      }
  auto statistics = b.getDictionaryAttr({b.getNamedAttr("dispatches", b.getI64IntegerAttr(dispatches.size())),
                                         b.getNamedAttr("kernels", b.getI64IntegerAttr(kernels.size()))});
  auto target = module->getAttrOfType<TargetAttr>(kTargetAttr);
  SmallVector<StringRef> features;
  if (!target.isGpu()) // whose architecture is the target's name
    target.getFeatures().split(features, ',', -1, /*KeepEmpty=*/false);
  SmallVector<Attribute> names;
  for (StringRef feature : features)
    if (feature.consume_front("+"))
      names.push_back(b.getStringAttr(feature));
  module->setAttr(kManifestAttr,
                  b.getDictionaryAttr({b.getNamedAttr("version", b.getI64IntegerAttr(1)),
                                       b.getNamedAttr("target", b.getStringAttr(target.getName())),
                                       b.getNamedAttr("features", b.getArrayAttr(names)),
                                       b.getNamedAttr("symbols", b.getArrayAttr(symbols)),
                                       b.getNamedAttr("main", writer.program(main)),
                                       b.getNamedAttr("init", init ? writer.program(init) : Attribute(b.getUnitAttr())),
                                       b.getNamedAttr("dispatches", b.getArrayAttr(dispatches)),
                                       b.getNamedAttr("statistics", statistics)}));
}

static llvm::json::Value toJson(Attribute attribute) {
  if (auto text = dyn_cast<StringAttr>(attribute))
    return text.getValue().str();
  if (auto boolean = dyn_cast<BoolAttr>(attribute))
    return boolean.getValue();
  if (auto integer = dyn_cast<IntegerAttr>(attribute))
    return integer.getInt();
  if (auto array = dyn_cast<ArrayAttr>(attribute)) {
    llvm::json::Array values;
    for (Attribute element : array)
      values.push_back(toJson(element));
    return values;
  }
  if (auto dictionary = dyn_cast<DictionaryAttr>(attribute)) {
    llvm::json::Object object;
    for (NamedAttribute entry : dictionary)
      object[entry.getName().getValue()] = toJson(entry.getValue());
    return object;
  }
  return nullptr; // unit: nothing
}

void printJson(Attribute attribute, llvm::raw_ostream &os) { os << toJson(attribute); }

} // namespace mlir::dsc
