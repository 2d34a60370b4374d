//===- DscDialect.cpp - registration and attributes of the dsc dialect ----===//

#include "dialects/dsc/DscOps.h"
#include "mlir/Dialect/Linalg/IR/Linalg.h"
#include "mlir/Dialect/Tensor/IR/Tensor.h"
#include "mlir/IR/Builders.h"
#include "mlir/IR/DialectImplementation.h"
#include "mlir/Interfaces/FunctionInterfaces.h"
#include "llvm/ADT/StringExtras.h"
#include "llvm/ADT/StringSet.h"
#include "llvm/ADT/TypeSwitch.h"

using namespace mlir;
using namespace mlir::dsc;

#include "dialects/dsc/DscDialect.cpp.inc"
#include "dialects/dsc/DscInterfaces.cpp.inc"
#define GET_ATTRDEF_CLASSES
#include "dialects/dsc/DscAttrs.cpp.inc"

void DscDialect::initialize() {
  addAttributes<
#define GET_ATTRDEF_LIST
#include "dialects/dsc/DscAttrs.cpp.inc"
      >();
  addOperations<
#define GET_OP_LIST
#include "dialects/dsc/DscOps.cpp.inc"
      >();
}

Operation *DscDialect::materializeConstant(OpBuilder &b, Attribute value, Type type, Location loc) {
  return arith::ConstantOp::materialize(b, value, type, loc);
}

//===----------------------------------------------------------------------===//
// Attributes that stand on operations of other dialects
//===----------------------------------------------------------------------===//

LogicalResult DscDialect::verifyOperationAttribute(Operation *op, NamedAttribute attribute) {
  if (attribute.getName() == "dsc.symbols") {
    auto names = dyn_cast<ArrayAttr>(attribute.getValue());
    llvm::StringSet<> seen;
    bool good = names && llvm::all_of(names, [&](Attribute name) {
                  auto text = dyn_cast<StringAttr>(name);
                  return text && isSymbolName(text.getValue()) && seen.insert(text.getValue()).second;
                });
    if (!good)
      return op->emitOpError("needs distinct names as dsc.symbols, got: ") << attribute.getValue();
  }
  if (attribute.getName() == "dsc.ranges") {
    auto ranges = dyn_cast<DictionaryAttr>(attribute.getValue());
    bool good = ranges && llvm::all_of(ranges, [](NamedAttribute entry) {
                  auto range = dyn_cast<DenseI64ArrayAttr>(entry.getValue());
                  return range && range.size() == 3 && range[0] >= 0 && range[1] >= -1 && range[2] >= 1;
                });
    if (!good)
      return op->emitOpError("needs [min, max, divisor] of each symbol as dsc.ranges, got: ") << attribute.getValue();
  }
  if (attribute.getName() == "dsc.range") {
    auto list = dyn_cast<ArrayAttr>(attribute.getValue());
    bool good = list ? list.size() == op->getNumResults() &&
                           llvm::all_of(list, [](Attribute range) { return isa<RangeAttr>(range); })
                     : isa<RangeAttr>(attribute.getValue()) && op->getNumResults() == 1;
    if (!good)
      return op->emitOpError("needs one #dsc.range per result as dsc.range, got: ") << attribute.getValue();
  }
  return success();
}

LogicalResult DscDialect::verifyRegionArgAttribute(Operation *op, unsigned, unsigned argument,
                                                   NamedAttribute attribute) {
  if (attribute.getName() == "dsc.range" && !isa<RangeAttr>(attribute.getValue()))
    return op->emitOpError("argument ") << argument
                                        << " needs a #dsc.range as dsc.range, got: " << attribute.getValue();
  return success();
}

LogicalResult DscDialect::verifyRegionResultAttribute(Operation *op, unsigned, unsigned result,
                                                      NamedAttribute attribute) {
  if (attribute.getName() != "dsc.tied")
    return success();
  auto function = dyn_cast<FunctionOpInterface>(op);
  auto tied = dyn_cast<IntegerAttr>(attribute.getValue());
  if (!function || !tied || !tied.getType().isSignlessInteger(64))
    return op->emitOpError("result ") << result
                                      << " needs the number of an argument as dsc.tied, got: " << attribute.getValue();
  if (tied.getInt() < 0 || tied.getInt() >= function.getNumArguments())
    return op->emitOpError("result ") << result << " is tied to argument " << tied.getInt() << " of "
                                      << function.getNumArguments();
  return success();
}

//===----------------------------------------------------------------------===//
// DimsAttr: `<` `[` (string (`,` string)*)? `]` `>`
//===----------------------------------------------------------------------===//

Attribute DimsAttr::parse(AsmParser &parser, Type) {
  SmallVector<StringAttr> names;
  auto parseName = [&] { return parser.parseAttribute(names.emplace_back()); };
  if (parser.parseLess() || parser.parseCommaSeparatedList(AsmParser::Delimiter::Square, parseName) ||
      parser.parseGreater())
    return {};
  return get(parser.getContext(), names);
}

void DimsAttr::print(AsmPrinter &printer) const {
  printer << "<[";
  llvm::interleaveComma(getNames(), printer);
  printer << "]>";
}

//===----------------------------------------------------------------------===//
// PrecisionAttr: `<` (field `=` value) (`,` field `=` value)* `>`
//===----------------------------------------------------------------------===//

Attribute PrecisionAttr::parse(AsmParser &parser, Type) {
  Type lhs, rhs, acc, result;
  SmallVector<int64_t> scales;
  StringAttr storage, reason;
  auto parseField = [&]() -> ParseResult {
    StringRef field;
    SMLoc loc = parser.getCurrentLocation();
    if (parser.parseKeyword(&field) || parser.parseEqual())
      return failure();
    if (field == "scales")
      return parser.parseCommaSeparatedList(AsmParser::Delimiter::Square,
                                            [&] { return parser.parseInteger(scales.emplace_back()); });
    if (field == "storage")
      return parser.parseAttribute(storage);
    if (field == "reason")
      return parser.parseAttribute(reason);
    Type *type = llvm::StringSwitch<Type *>(field)
                     .Case("lhs", &lhs)
                     .Case("rhs", &rhs)
                     .Case("acc", &acc)
                     .Case("result", &result)
                     .Default(nullptr);
    if (!type)
      return parser.emitError(loc, "unknown precision field: ") << field;
    return parser.parseType(*type);
  };
  if (parser.parseCommaSeparatedList(AsmParser::Delimiter::LessGreater, parseField))
    return {};
  return get(parser.getContext(), lhs, rhs, acc, result, scales, storage, reason);
}

void PrecisionAttr::print(AsmPrinter &printer) const {
  SmallVector<std::function<void()>> fields;
  auto addType = [&](StringRef name, Type type) {
    if (type)
      fields.push_back([&printer, name, type] { printer << name << " = " << type; });
  };
  addType("lhs", getLhs());
  addType("rhs", getRhs());
  addType("acc", getAcc());
  addType("result", getResult());
  if (!getScales().empty())
    fields.push_back([&] {
      printer << "scales = [";
      llvm::interleaveComma(getScales(), printer);
      printer << "]";
    });
  if (getStorage())
    fields.push_back([&] { printer << "storage = " << getStorage(); });
  if (getReason())
    fields.push_back([&] { printer << "reason = " << getReason(); });
  printer << "<";
  llvm::interleaveComma(fields, printer, [](auto &print) { print(); });
  printer << ">";
}

//===----------------------------------------------------------------------===//
// Schedules
//===----------------------------------------------------------------------===//

Attribute VariantAttr::parse(AsmParser &parser, Type) {
  int64_t maxRows = 0, unroll = 1, depth = 0, cluster = 1;
  SmallVector<int64_t> tile, workgroup, stage, threads;
  std::string instruction = "fma";
  llvm::StringSet<> seen;
  auto parseSizes = [&](SmallVectorImpl<int64_t> &sizes) {
    return parser.parseCommaSeparatedList(AsmParser::Delimiter::Square,
                                          [&] { return parser.parseInteger(sizes.emplace_back()); });
  };
  auto parseField = [&]() -> ParseResult {
    StringRef name;
    SMLoc loc = parser.getCurrentLocation();
    if (parser.parseKeyword(&name) || parser.parseEqual())
      return failure();
    if (!seen.insert(name).second)
      return parser.emitError(loc, "field is given twice: ") << name;
    if (name == "max_rows")
      return parser.parseInteger(maxRows);
    if (name == "unroll")
      return parser.parseInteger(unroll);
    if (name == "depth")
      return parser.parseInteger(depth);
    if (name == "tile")
      return parseSizes(tile);
    if (name == "workgroup")
      return parseSizes(workgroup);
    if (name == "stage")
      return parseSizes(stage);
    if (name == "instruction")
      return parser.parseString(&instruction);
    if (name == "threads")
      return parseSizes(threads);
    if (name == "cluster")
      return parser.parseInteger(cluster);
    return parser.emitError(loc, "unknown field: ")
           << name << ", known are max_rows, tile, workgroup, unroll, depth, stage, instruction, threads, cluster";
  };
  SMLoc loc = parser.getCurrentLocation();
  if (parser.parseLess() || parser.parseCommaSeparatedList(parseField) || parser.parseGreater())
    return {};
  if (!seen.contains("tile") || !seen.contains("workgroup")) {
    parser.emitError(loc, "a variant needs tile and workgroup");
    return {};
  }
  return parser.getChecked<VariantAttr>(loc, parser.getContext(), maxRows, tile, workgroup, unroll, depth, stage,
                                        instruction, threads, cluster);
}

void VariantAttr::print(AsmPrinter &printer) const {
  auto sizes = [&](StringRef name, ArrayRef<int64_t> values) {
    printer << name << " = [";
    llvm::interleaveComma(values, printer);
    printer << "]";
  };
  printer << "<";
  if (getMaxRows())
    printer << "max_rows = " << getMaxRows() << ", ";
  sizes("tile", getTile());
  sizes(", workgroup", getWorkgroup());
  if (getUnroll() != 1)
    printer << ", unroll = " << getUnroll();
  if (getDepth())
    printer << ", depth = " << getDepth();
  if (!getStage().empty())
    sizes(", stage", getStage());
  if (getInstruction() != "fma")
    printer << ", instruction = \"" << getInstruction() << "\"";
  if (!getThreads().empty())
    sizes(", threads", getThreads());
  if (getCluster() != 1)
    printer << ", cluster = " << getCluster();
  printer << ">";
}

LogicalResult VariantAttr::verify(function_ref<InFlightDiagnostic()> emitError, int64_t maxRows, ArrayRef<int64_t> tile,
                                  ArrayRef<int64_t> workgroup, int64_t unroll, int64_t depth, ArrayRef<int64_t> stage,
                                  StringRef instruction, ArrayRef<int64_t> threads, int64_t cluster) {
  if (maxRows < 0)
    return emitError() << "max_rows must not be negative, got: " << maxRows;
  if (unroll < 1)
    return emitError() << "unroll must be positive, got: " << unroll;
  if (depth < 0)
    return emitError() << "depth must not be negative, got: " << depth;
  for (ArrayRef<int64_t> sizes : {tile, workgroup})
    for (int64_t size : sizes)
      if (size < 1)
        return emitError() << "schedule sizes must be positive, got: " << size;
  constexpr int64_t mostBlocks = 8; // of a cluster that every device takes
  if (cluster < 1 || cluster > mostBlocks || !llvm::isPowerOf2_64(cluster))
    return emitError() << "cluster must be a power of two, at most " << mostBlocks << ", got: " << cluster;
  constexpr int64_t mostThreads = 1024; // of a block: CUDA C++ Programming Guide, technical specifications
  bool block = threads.size() == 2 && threads[0] > 0 && threads[1] > 0;
  if (!threads.empty() && (!block || threads[0] > mostThreads || threads[1] > mostThreads / threads[0]))
    return emitError() << "threads must be teams and threads of a team, together at most " << mostThreads
                       << ", got: " << threads;
  if (block && !llvm::isPowerOf2_64(threads[1]))
    return emitError() << "threads of a team must be a power of two, got: " << threads[1];
  // A tile is code, not a loop, and shared by all threads.
  int64_t limit = (1 << 14) * (block ? threads[0] * threads[1] : 1);
  int64_t elements = std::min(unroll, limit + 1);
  for (int64_t size : tile)
    elements = std::min(elements * std::min(size, limit + 1), limit + 1);
  if (elements > limit)
    return emitError() << "a tile times unroll may hold " << limit << " elements, got more";
  for (int64_t operand : stage)
    if (operand < 0)
      return emitError() << "stage must list operand numbers, got: " << operand;
  if (!llvm::is_contained({"fma", "dot", "bfp", "tile", "mma", "wgmma", "wgmma8"}, instruction))
    return emitError() << "unknown instruction \"" << instruction
                       << "\", known are fma, dot, bfp, tile, mma, wgmma, wgmma8";
  return success();
}

LogicalResult ScheduleAttr::verify(function_ref<InFlightDiagnostic()> emitError, ArrayRef<VariantAttr> variants) {
  for (VariantAttr variant : variants.drop_back())
    if (variant.getMaxRows() == 0)
      return emitError() << "only the last variant may have no max_rows";
  if (variants.back().getMaxRows() != 0)
    return emitError() << "the last variant must have no max_rows, got: " << variants.back().getMaxRows();
  return success();
}

bool TargetAttr::hasFeature(StringRef feature) const {
  SmallVector<StringRef> flags;
  getFeatures().split(flags, ',');
  return llvm::is_contained(flags, ("+" + feature).str());
}

LogicalResult TargetAttr::verify(function_ref<InFlightDiagnostic()> emitError, StringRef, StringRef, StringRef,
                                 StringRef features, int64_t vectorBytes, int64_t vectorRegisters, int64_t l2Bytes) {
  SmallVector<StringRef> flags;
  features.split(flags, ',', /*MaxSplit=*/-1, /*KeepEmpty=*/false);
  for (StringRef flag : flags)
    if (flag.size() < 2 || !StringRef("+-").contains(flag.front()))
      return emitError() << "a feature must begin with + or -, got: \"" << flag << "\"";
  if (vectorBytes < 16 || vectorBytes > 256 || !llvm::isPowerOf2_64(vectorBytes))
    return emitError() << "vector_bytes must be a power of two from 16 to 256, got: " << vectorBytes;
  if (vectorRegisters < 1)
    return emitError() << "vector_registers must be positive, got: " << vectorRegisters;
  if (l2Bytes < 1 << 16)
    return emitError() << "l2_bytes must be at least 65536, got: " << l2Bytes;
  return success();
}
