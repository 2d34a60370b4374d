//===- Driver.cpp - run phases for Python and tools -----------------------===//

#include "passes/Driver.h"

#include "mlir/IR/Diagnostics.h"
#include "mlir/IR/OwningOpRef.h"
#include "mlir/IR/Verifier.h"
#include "mlir/Parser/Parser.h"
#include "mlir/Pass/PassManager.h"
#include "llvm/Support/FileSystem.h"
#include "llvm/Support/Path.h"
#include "llvm/Support/raw_ostream.h"

namespace mlir::dsc {

/// The module is verified once: after every pass that would be a tenth of the time.
static LogicalResult runPhase(ModuleOp module, StringRef phase, const PhaseOptions &options) {
  PassManager pm(module.getContext());
  pm.enableVerifier(false);
  buildPhase(pm, phase, options);
  return failed(pm.run(module)) ? failure() : verify(module);
}

/// Runs the failing phase again to find the pass, quietly: its messages are known.
static std::string writeReproducer(OwningOpRef<ModuleOp> start, StringRef phase, const PhaseOptions &options,
                                   StringRef directory) {
  llvm::SmallString<128> path;
  if (llvm::sys::fs::create_directories(directory))
    return "";
  llvm::SmallString<128> model(directory);
  llvm::sys::path::append(model, "dsc-reproducer-%%%%%%.mlir");
  int descriptor;
  if (llvm::sys::fs::createUniqueFile(model, descriptor, path))
    return "";
  llvm::raw_fd_ostream(descriptor, /*shouldClose=*/true).flush();

  MLIRContext *context = start->getContext();
  bool threads = context->isMultithreadingEnabled();
  context->disableMultithreading();
  {
    ScopedDiagnosticHandler quiet(context, [](Diagnostic &) { return success(); });
    PassManager pm(context);
    buildPhase(pm, phase, options);
    pm.enableCrashReproducerGeneration(path, /*genLocalReproducer=*/true);
    (void)pm.run(*start);
  }
  context->enableMultithreading(threads);
  uint64_t size = 0;
  bool written = !llvm::sys::fs::file_size(path, size) && size > 0;
  if (!written)
    llvm::sys::fs::remove(path);
  return written ? path.str().str() : "";
}

LogicalResult runPhases(ModuleOp module, const PhaseOptions &options, StringRef from, StringRef to,
                        StringRef reproducerDir, std::string &reproducer) {
  auto span = phaseSpan(module, from, to);
  if (failed(span))
    return failure();
  for (int64_t i = span->first; i <= span->second; ++i) {
    OwningOpRef<ModuleOp> boundary;
    if (!reproducerDir.empty())
      boundary = module.clone();
    if (succeeded(runPhase(module, phases()[i], options)))
      continue;
    if (boundary)
      reproducer = writeReproducer(std::move(boundary), phases()[i], options, reproducerDir);
    return failure();
  }
  return success();
}

} // namespace mlir::dsc
