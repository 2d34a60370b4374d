//===- DscDims.cpp - sizes as expressions over named symbols --------------===//

#include "dialects/dsc/DscOps.h"
#include "mlir/Dialect/Arith/IR/Arith.h"
#include "mlir/Dialect/Tensor/IR/Tensor.h"
#include "llvm/ADT/StringExtras.h"

namespace mlir::dsc {

Value expandExpr(OpBuilder &b, Location loc, AffineExpr expr, ValueRange dims, ValueRange symbols) {
  switch (expr.getKind()) {
  case AffineExprKind::Constant:
    return arith::ConstantIndexOp::create(b, loc, cast<AffineConstantExpr>(expr).getValue());
  case AffineExprKind::DimId:
    return dims[cast<AffineDimExpr>(expr).getPosition()];
  case AffineExprKind::SymbolId:
    return symbols[cast<AffineSymbolExpr>(expr).getPosition()];
  default:
    break;
  }
  auto binary = cast<AffineBinaryOpExpr>(expr);
  Value lhs = expandExpr(b, loc, binary.getLHS(), dims, symbols);
  Value rhs = expandExpr(b, loc, binary.getRHS(), dims, symbols);
  switch (expr.getKind()) {
  case AffineExprKind::Add:
    return arith::AddIOp::create(b, loc, lhs, rhs);
  case AffineExprKind::Mul:
    return arith::MulIOp::create(b, loc, lhs, rhs);
  case AffineExprKind::FloorDiv:
    return arith::FloorDivSIOp::create(b, loc, lhs, rhs);
  case AffineExprKind::CeilDiv:
    return arith::CeilDivSIOp::create(b, loc, lhs, rhs);
  default:
    return arith::RemSIOp::create(b, loc, lhs, rhs);
  }
}

std::string printExpr(AffineExpr expr, ArrayRef<std::string> symbols) {
  if (auto constant = dyn_cast<AffineConstantExpr>(expr))
    return std::to_string(constant.getValue());
  if (auto symbol = dyn_cast<AffineSymbolExpr>(expr))
    return symbols[symbol.getPosition()];
  auto binary = cast<AffineBinaryOpExpr>(expr);
  std::string lhs = printExpr(binary.getLHS(), symbols);
  std::string rhs = printExpr(binary.getRHS(), symbols);
  auto parenthesize = [](AffineExpr e, std::string &text) {
    if (isa<AffineBinaryOpExpr>(e))
      text = "(" + text + ")";
  };
  if (expr.getKind() == AffineExprKind::Add) {
    auto constant = dyn_cast<AffineConstantExpr>(binary.getRHS());
    return constant && constant.getValue() < 0 ? lhs + " - " + rhs.substr(1) : lhs + " + " + rhs;
  }
  parenthesize(binary.getLHS(), lhs);
  parenthesize(binary.getRHS(), rhs);
  switch (expr.getKind()) {
  case AffineExprKind::Mul:
    return lhs + " * " + rhs;
  case AffineExprKind::FloorDiv:
    return lhs + " // " + rhs;
  case AffineExprKind::CeilDiv:
    return lhs + " ^/ " + rhs;
  default:
    return lhs + " % " + rhs;
  }
}

namespace {
/// expr := term (('+' | '-') term)* ; term := atom (('*' | '//' | '^/' | '%') atom)*
struct ExprParser {
  MLIRContext *context;
  StringRef text;
  function_ref<AffineExpr(StringRef)> symbol;

  bool take(StringRef token) {
    text = text.ltrim();
    return text.consume_front(token);
  }

  AffineExpr atom() {
    text = text.ltrim();
    if (take("(")) {
      AffineExpr inner = sum();
      return inner && take(")") ? inner : AffineExpr();
    }
    if (take("-")) {
      AffineExpr inner = atom();
      return inner ? -inner : inner;
    }
    if (!text.empty() && llvm::isDigit(text.front())) {
      int64_t value;
      if (text.consumeInteger(10, value))
        return {};
      return getAffineConstantExpr(value, context);
    }
    StringRef name = text.take_while([](char c) { return llvm::isAlnum(c) || c == '_' || c == '.'; });
    text = text.drop_front(name.size());
    return isSymbolName(name) ? symbol(name) : AffineExpr();
  }

  AffineExpr term() {
    AffineExpr lhs = atom();
    while (lhs) {
      if (take("*")) {
        AffineExpr rhs = atom();
        lhs = rhs ? lhs * rhs : rhs;
      } else if (take("//")) {
        AffineExpr rhs = atom();
        lhs = rhs ? lhs.floorDiv(rhs) : rhs;
      } else if (take("^/")) {
        AffineExpr rhs = atom();
        lhs = rhs ? lhs.ceilDiv(rhs) : rhs;
      } else if (take("%")) {
        AffineExpr rhs = atom();
        lhs = rhs ? lhs % rhs : rhs;
      } else {
        break;
      }
    }
    return lhs;
  }

  AffineExpr sum() {
    AffineExpr lhs = term();
    while (lhs) {
      bool minus = false;
      if (!take("+") && !(minus = take("-")))
        break;
      AffineExpr rhs = term();
      lhs = !rhs ? rhs : minus ? lhs - rhs : lhs + rhs;
    }
    return lhs;
  }
};
} // namespace

AffineExpr parseExpr(MLIRContext *context, StringRef text, function_ref<AffineExpr(StringRef)> symbol) {
  ExprParser parser{context, text, symbol};
  AffineExpr expr = parser.sum();
  return parser.text.trim().empty() ? expr : AffineExpr();
}

bool isSymbolName(StringRef name) {
  return !name.empty() && (llvm::isAlpha(name.front()) || name.front() == '_') && name != "_" &&
         llvm::all_of(name, [](char c) { return llvm::isAlnum(c) || c == '_' || c == '.'; });
}

LogicalResult reifyFromDims(Operation *op, OpBuilder &b, ReifiedRankedShapedTypeDims &shapes) {
  SmallVector<Dims> operandDims, resultDims;
  SmallVector<Value> sizes;
  for (Value operand : op->getOperands()) {
    Dims &dims = operandDims.emplace_back();
    auto type = dyn_cast<RankedTensorType>(operand.getType());
    for (int64_t i = 0, e = type ? type.getRank() : 0; i < e; ++i) {
      if (!type.isDynamicDim(i)) {
        dims.push_back(b.getAffineConstantExpr(type.getDimSize(i)));
        continue;
      }
      dims.push_back(b.getAffineDimExpr(sizes.size()));
      sizes.push_back(tensor::DimOp::create(b, op->getLoc(), operand, i));
    }
  }
  cast<DimsOpInterface>(op).inferResultDims(operandDims, resultDims);
  for (const Dims &dims : resultDims) {
    SmallVector<OpFoldResult> &shape = shapes.emplace_back();
    for (AffineExpr dim : dims)
      if (auto constant = dyn_cast<AffineConstantExpr>(dim))
        shape.push_back(b.getIndexAttr(constant.getValue()));
      else
        shape.push_back(expandExpr(b, op->getLoc(), dim, sizes, {}));
  }
  return success();
}

AffineExpr elementCount(ArrayRef<AffineExpr> dims, MLIRContext *context) {
  AffineExpr count = getAffineConstantExpr(1, context);
  for (AffineExpr dim : dims)
    count = count * dim;
  return count;
}

SmallVector<AffineExpr> elementCounts(ArrayRef<Dims> operands, ArrayRef<Dims> results, MLIRContext *context) {
  SmallVector<AffineExpr> counts;
  for (ArrayRef<Dims> values : {operands, results})
    for (const Dims &dims : values)
      counts.push_back(elementCount(dims, context));
  return counts;
}

Type defaultAccumulatorType(Type elementType) {
  if (elementType.isF16() || elementType.isBF16())
    return Float32Type::get(elementType.getContext());
  return elementType;
}

} // namespace mlir::dsc
