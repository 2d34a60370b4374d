//===- JsonEntries.cpp - lists that users keep in files --------------------===//

#include "passes/JsonEntries.h"

#include "llvm/Support/MemoryBuffer.h"

namespace mlir::dsc {

static constexpr int64_t kVersion = 1;

LogicalResult readJsonEntries(Location location, StringRef path, StringRef what, StringRef key, bool mayLack,
                              llvm::function_ref<std::string(const llvm::json::Object &)> take) {
  auto wrong = [&](const Twine &why) {
    return emitError(location) << what << " in " << path << " cannot be used: " << why;
  };
  auto file = llvm::MemoryBuffer::getFile(path, /*IsText=*/true);
  if (!file && mayLack && file.getError() == std::errc::no_such_file_or_directory)
    return success();
  if (!file)
    return wrong(file.getError().message());
  llvm::Expected<llvm::json::Value> parsed = llvm::json::parse((*file)->getBuffer());
  if (!parsed)
    return wrong(llvm::toString(parsed.takeError()));
  const llvm::json::Object *top = parsed->getAsObject();
  const llvm::json::Array *list = top ? top->getArray(key) : nullptr;
  if (!list || top->getInteger("version") != kVersion)
    return wrong("expected {\"version\": 1, \"" + key + "\": [...]}");
  const llvm::json::Object none;
  for (auto [number, value] : llvm::enumerate(*list)) {
    const llvm::json::Object *entry = value.getAsObject();
    std::string problem = take(entry ? *entry : none);
    if (!problem.empty())
      return wrong("entry " + Twine(number) + " " + problem);
  }
  return success();
}

} // namespace mlir::dsc
