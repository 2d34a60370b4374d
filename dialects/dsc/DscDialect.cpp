//===- DscDialect.cpp - registration and attributes of the dsc dialect ----===//

#include "dialects/dsc/DscOps.h"
#include "mlir/Dialect/Linalg/IR/Linalg.h"
#include "mlir/Dialect/Tensor/IR/Tensor.h"
#include "mlir/IR/Builders.h"
#include "mlir/IR/DialectImplementation.h"
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
  StringAttr reason;
  auto parseField = [&]() -> ParseResult {
    StringRef field;
    SMLoc loc = parser.getCurrentLocation();
    if (parser.parseKeyword(&field) || parser.parseEqual())
      return failure();
    if (field == "scales")
      return parser.parseCommaSeparatedList(AsmParser::Delimiter::Square,
                                            [&] { return parser.parseInteger(scales.emplace_back()); });
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
  return get(parser.getContext(), lhs, rhs, acc, result, scales, reason);
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
  if (getReason())
    fields.push_back([&] { printer << "reason = " << getReason(); });
  printer << "<";
  llvm::interleaveComma(fields, printer, [](auto &print) { print(); });
  printer << ">";
}

//===----------------------------------------------------------------------===//
// Schedules
//===----------------------------------------------------------------------===//

LogicalResult VariantAttr::verify(function_ref<InFlightDiagnostic()> emitError, int64_t maxRows, ArrayRef<int64_t> tile,
                                  ArrayRef<int64_t> workgroup, int64_t unroll) {
  if (maxRows < 0)
    return emitError() << "max_rows must not be negative, got: " << maxRows;
  if (unroll < 1)
    return emitError() << "unroll must be positive, got: " << unroll;
  for (ArrayRef<int64_t> sizes : {tile, workgroup})
    for (int64_t size : sizes)
      if (size < 1)
        return emitError() << "schedule sizes must be positive, got: " << size;
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
