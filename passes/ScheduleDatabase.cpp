//===- ScheduleDatabase.cpp - schedules of kernels, kept in a file --------===//

#include "passes/ScheduleDatabase.h"

#include "mlir/AsmParser/AsmParser.h"
#include "passes/codegen/KernelPlan.h"
#include "llvm/ADT/StringExtras.h"
#include "llvm/Support/FileUtilities.h"
#include "llvm/Support/JSON.h"
#include "llvm/Support/MemoryBuffer.h"
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
  auto wrong = [&](const Twine &what) {
    emitError(location) << "the schedules in " << path << " cannot be used: " << what;
    return failure();
  };
  auto file = llvm::MemoryBuffer::getFile(path, /*IsText=*/true);
  if (!file) {
    if (mayLack && file.getError() == std::errc::no_such_file_or_directory)
      return database;
    return wrong(file.getError().message());
  }
  llvm::Expected<llvm::json::Value> parsed = llvm::json::parse((*file)->getBuffer());
  if (!parsed)
    return wrong(llvm::toString(parsed.takeError()));
  const llvm::json::Object *top = parsed->getAsObject();
  const llvm::json::Array *list = top ? top->getArray("schedules") : nullptr;
  if (!list || top->getInteger("version") != kVersion)
    return wrong("expected {\"version\": 1, \"schedules\": [...]}");
  MLIRContext *context = location.getContext();
  for (auto [number, value] : llvm::enumerate(*list)) {
    const llvm::json::Object *entry = value.getAsObject();
    auto text = [&](StringRef key) { return entry ? entry->getString(key).value_or("").str() : std::string(); };
    auto target = parseAs<TargetAttr>(context, text("target"));
    auto schedule = parseAs<ScheduleAttr>(context, text("schedule"));
    if (!target || !schedule || text("kernel").empty())
      return wrong("entry " + Twine(number) + " needs a kernel, a target and a schedule as the IR spells them");
    database.entries[{target, StringAttr::get(context, text("kernel"))}] = {text("where"), text("op"), schedule};
  }
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
