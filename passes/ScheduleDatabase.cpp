//===- ScheduleDatabase.cpp - schedules of kernels, kept in a file --------===//

#include "passes/ScheduleDatabase.h"

#include "mlir/AsmParser/AsmParser.h"
#include "passes/JsonEntries.h"
#include "passes/codegen/KernelPlan.h"
#include "llvm/ADT/StringExtras.h"
#include "llvm/Support/FileUtilities.h"
#include "llvm/Support/SHA256.h"

namespace mlir::dsc {

static constexpr int64_t kVersion = 1;

template <typename T> static std::string printed(T value) {
  std::string text;
  llvm::raw_string_ostream(text) << value;
  return text;
}

/// An attribute of the kind that `text` must hold, or null, quietly. The parser itself fails on no text at all.
template <typename AttrT> static AttrT parseAs(MLIRContext *context, StringRef text) {
  ScopedDiagnosticHandler quiet(context, [](Diagnostic &) { return success(); });
  return text.empty() ? AttrT() : dyn_cast_or_null<AttrT>(parseAttribute(text, context));
}

FailureOr<ScheduleDatabase> ScheduleDatabase::read(Location location, StringRef path, bool mayLack) {
  ScheduleDatabase database;
  MLIRContext *context = location.getContext();
  auto take = [&](const llvm::json::Object &entry) -> std::string {
    auto target = parseAs<TargetAttr>(context, textOf(entry, "target"));
    auto schedule = parseAs<ScheduleAttr>(context, textOf(entry, "schedule"));
    std::string kernel = textOf(entry, "kernel");
    if (!target || !schedule || kernel.empty())
      return "needs a kernel, a target and a schedule as the IR spells them";
    database.entries[{target, StringAttr::get(context, kernel)}] = {textOf(entry, "where"), textOf(entry, "op"),
                                                                    schedule};
    return "";
  };
  if (failed(readJsonEntries(location, path, "the schedules", "schedules", mayLack, take)))
    return failure();
  return database;
}

StringAttr ScheduleDatabase::kernelKey(DispatchOp dispatch, DimsAnalysis &dims) {
  std::string text;
  llvm::raw_string_ostream os(text);
  OwningOpRef<func::FuncOp> kernel = kernelOf(dispatch, "kernel", dims);
  kernel->print(os, OpPrintingFlags().useLocalScope().enableDebugInfo(false));
  std::array<uint8_t, 32> digest = llvm::SHA256::hash(llvm::arrayRefFromStringRef(text));
  return StringAttr::get(dispatch.getContext(), llvm::toHex(ArrayRef(digest).take_front(8), /*LowerCase=*/true));
}

ScheduleAttr ScheduleDatabase::lookup(TargetAttr target, StringAttr kernel) const {
  return entries.lookup({target, kernel}).schedule;
}

void ScheduleDatabase::record(TargetAttr target, StringAttr kernel, DispatchOp dispatch) {
  KernelOpInterface main = findMainOp(dispatch.getBody());
  auto name = dyn_cast<NameLoc>(dispatch.getLoc());
  entries[{target, kernel}] = {name ? name.getName().str() : "", main ? main->getName().getStringRef().str() : "",
                               *dispatch.getSchedule()};
}

LogicalResult ScheduleDatabase::write(Location location, StringRef path) const {
  llvm::Error error = llvm::writeToOutput(path, [&](llvm::raw_ostream &os) {
    llvm::json::OStream json(os, /*IndentSize=*/1);
    json.object([&] {
      json.attribute("version", kVersion);
      json.attributeArray("schedules", [&] {
        for (const auto &[key, entry] : entries)
          json.object([&] {
            json.attribute("target", printed(key.first));
            json.attribute("kernel", key.second.getValue());
            json.attribute("where", entry.where);
            json.attribute("op", entry.op);
            json.attribute("schedule", printed(entry.schedule));
          });
      });
    });
    os << '\n';
    return llvm::Error::success();
  });
  if (error)
    return emitError(location) << "the schedules cannot be written to " << path << ": "
                               << llvm::toString(std::move(error));
  return success();
}

} // namespace mlir::dsc
