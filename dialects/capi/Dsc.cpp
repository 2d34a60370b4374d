//===- Dsc.cpp - C API of the dsc dialect and its compiler ----------------===//

#include "dialects/capi/Dsc.h"

#include "dialects/dsc/DscOps.h"
#include "mlir/CAPI/IR.h"
#include "mlir/CAPI/Registration.h"
#include "mlir/CAPI/Support.h"
#include "mlir/CAPI/Wrap.h"
#include "passes/Driver.h"
#include "passes/Manifest.h"
#include "passes/ObjectEmitter.h"
#include "passes/Registration.h"
#include "passes/Target.h"
#include <mutex>
#include <vector>

using namespace mlir;

MLIR_DEFINE_CAPI_DIALECT_REGISTRATION(Dsc, dsc, mlir::dsc::DscDialect)

namespace {
/// Hands diagnostics on when it goes away, on the thread that made it: a handler in Python must not run on MLIR's
/// threads, which do not hold the interpreter's lock.
class DeferredDiagnostics {
public:
  explicit DeferredDiagnostics(MLIRContext *context) : engine(context->getDiagEngine()) {
    handler = engine.registerHandler([this](Diagnostic &diagnostic) {
      std::lock_guard<std::mutex> lock(mutex);
      deferred.push_back(std::move(diagnostic));
    });
  }
  ~DeferredDiagnostics() {
    engine.eraseHandler(handler);
    for (Diagnostic &diagnostic : deferred)
      engine.emit(std::move(diagnostic));
  }

private:
  DiagnosticEngine &engine;
  DiagnosticEngine::HandlerID handler;
  std::mutex mutex;
  std::vector<Diagnostic> deferred;
};
} // namespace

static void send(MlirStringCallback callback, void *userData, StringRef text) { callback(wrap(text), userData); }

void dscRegisterAll(MlirContext context) {
  DialectRegistry registry;
  dsc::registerAll(registry);
  unwrap(context)->appendDialectRegistry(registry);
  unwrap(context)->loadAllAvailableDialects();
}

void dscRegisterPasses(void) { dsc::registerPasses(); }

MlirLogicalResult dscRunPhases(MlirModule module, MlirStringRef target, MlirStringRef from, MlirStringRef to,
                               MlirStringRef plan, MlirStringRef schedules, MlirStringRef record,
                               MlirStringRef reproducerDir, MlirStringCallback reproducer, void *userData) {
  DeferredDiagnostics diagnostics(unwrap(module).getContext());
  std::string file;
  dsc::PhaseOptions options{unwrap(target).str(), /*checkInplace=*/true, unwrap(plan).str(), unwrap(schedules).str(),
                            unwrap(record).str()};
  LogicalResult result = dsc::runPhases(unwrap(module), options, unwrap(from), unwrap(to), unwrap(reproducerDir), file);
  if (!file.empty())
    send(reproducer, userData, file);
  return wrap(result);
}

MlirLogicalResult dscEmitObject(MlirModule module, MlirStringCallback object, MlirStringCallback manifest,
                                void *objectData, void *manifestData) {
  DeferredDiagnostics diagnostics(unwrap(module).getContext());
  SmallVector<char> bytes;
  if (failed(dsc::emitObject(unwrap(module), /*assembly=*/false, bytes)))
    return wrap(failure());
  std::string json;
  llvm::raw_string_ostream os(json);
  dsc::printJson(unwrap(module)->getAttr(dsc::kManifestAttr), os);
  send(object, objectData, StringRef(bytes.data(), bytes.size()));
  send(manifest, manifestData, json);
  return wrap(success());
}

MlirLogicalResult dscEmitAssembly(MlirModule module, MlirStringCallback text, void *userData) {
  DeferredDiagnostics diagnostics(unwrap(module).getContext());
  SmallVector<char> bytes;
  if (failed(dsc::emitObject(unwrap(module), /*assembly=*/true, bytes)))
    return wrap(failure());
  send(text, userData, StringRef(bytes.data(), bytes.size()));
  return wrap(success());
}

MlirLogicalResult dscDescribeTarget(MlirStringRef target, MlirStringCallback text, void *userData) {
  MLIRContext context(MLIRContext::Threading::DISABLED);
  context.loadDialect<dsc::DscDialect>();
  std::string message;
  dsc::TargetAttr attr = dsc::resolveTarget(&context, unwrap(target), message);
  if (attr) {
    message.clear();
    llvm::raw_string_ostream(message) << attr;
  }
  send(text, userData, message);
  return wrap(success(static_cast<bool>(attr)));
}
