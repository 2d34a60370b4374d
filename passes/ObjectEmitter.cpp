//===- ObjectEmitter.cpp - machine code from a module at the end of llvm --===//
//
// The object holds no paths, dates or names of this machine: the same module
// gives the same bytes.
//
//===----------------------------------------------------------------------===//

#include "passes/ObjectEmitter.h"

#include "mlir/IR/Threading.h"
#include "mlir/Target/LLVMIR/Export.h"
#include "passes/DimsAnalysis.h"
#include "llvm/ADT/SetVector.h"
#include "llvm/CodeGen/Passes.h"
#include "llvm/CodeGen/TargetPassConfig.h"
#include "llvm/IR/LegacyPassManager.h"
#include "llvm/IR/Module.h"
#include "llvm/MC/MCSubtargetInfo.h"
#include "llvm/MC/TargetRegistry.h"
#include "llvm/Passes/PassBuilder.h"
#include "llvm/Passes/StandardInstrumentations.h"
#include "llvm/Support/TargetSelect.h"
#include "llvm/Target/RegisterTargetPassConfigCallback.h"
#include "llvm/Target/TargetMachine.h"

namespace mlir::dsc {

/// Registers hold the sums of a tile, all of them. The pass that shortens chains of additions makes one sum two, which
/// lie in memory then, and takes vpdpwssd apart.
static void keepSums(llvm::TargetMachine &machine, llvm::PassManagerBase &, llvm::TargetPassConfig *config) {
  if (machine.getTargetTriple().isX86())
    config->disablePass(&llvm::MachineCombinerID);
}

static std::unique_ptr<llvm::TargetMachine> createMachine(const Machine &target, std::string &error) {
  static const llvm::RegisterTargetPassConfigCallback config(keepSums);
  static bool initialized = [] {
    // The back ends that passes/CMakeLists.txt links: LLVM's InitializeAll functions would need every one.
    LLVMInitializeX86TargetInfo();
    LLVMInitializeX86Target();
    LLVMInitializeX86TargetMC();
    LLVMInitializeX86AsmPrinter();
    LLVMInitializeX86AsmParser();
    LLVMInitializeAArch64TargetInfo();
    LLVMInitializeAArch64Target();
    LLVMInitializeAArch64TargetMC();
    LLVMInitializeAArch64AsmPrinter();
    LLVMInitializeNVPTXTargetInfo();
    LLVMInitializeNVPTXTarget();
    LLVMInitializeNVPTXTargetMC();
    LLVMInitializeNVPTXAsmPrinter();
    return true;
  }();
  (void)initialized;
  llvm::Triple triple(target.triple);
  const llvm::Target *backend = llvm::TargetRegistry::lookupTarget(triple, error);
  if (!backend)
    return nullptr;
  llvm::TargetOptions options;
  // A fused multiply-add stands only where the IR says so: Standard fuses llvm.fmuladd, which vector.fma becomes, and
  // nothing else; a machine without the instruction multiplies and adds.
  options.AllowFPOpFusion = llvm::FPOpFusion::Standard;
  options.FunctionSections = false;
  std::unique_ptr<llvm::TargetMachine> machine(
      backend->createTargetMachine(triple, target.cpu, target.features, options, llvm::Reloc::PIC_,
                                   llvm::CodeModel::Small, llvm::CodeGenOptLevel::Aggressive));
  // LLVM takes an unknown name for a machine without any feature, and then dies in code generation.
  if (machine && !machine->getMCSubtargetInfo()->isCPUStringValid(target.cpu)) {
    error = "unknown cpu \"" + target.cpu.str() + "\"";
    return nullptr;
  }
  return machine;
}

/// Attributes that MLIR has no place for.
static void prepareFunctions(llvm::Module &module, const Machine &target) {
  std::string width = std::to_string(target.vectorBytes * 8);
  for (llvm::Function &function : module) {
    if (function.isDeclaration())
      continue;
    function.addFnAttr("target-cpu", target.cpu);
    function.addFnAttr("target-features", target.features);
    function.addFnAttr("prefer-vector-width", width);
    function.addFnAttr("min-legal-vector-width", width);
    // Loops must not turn into calls of memcpy and its like: nothing would resolve them.
    function.addFnAttr("no-builtins");
    function.addFnAttr(llvm::Attribute::NoUnwind);
    // A program is one long line of launches: optimizing it costs more than its few instructions per launch
    // ever would, and the time would grow with a model's depth.
    if (!function.hasLocalLinkage() && !function.hasHiddenVisibility() &&
        function.getCallingConv() != llvm::CallingConv::PTX_Kernel) {
      function.addFnAttr(llvm::Attribute::OptimizeNone);
      function.addFnAttr(llvm::Attribute::NoInline);
    }
  }
}

/// Kernels are written with vectors, unrolled where it pays, and call nothing. Of LLVM's -O2 these passes give the same
/// speed in half the time.
static constexpr StringRef kKernelPasses =
    "function(sroa,early-cse<memssa>,simplifycfg,instcombine<no-verify-fixpoint>,loop-simplify,lcssa,"
    "loop-mssa(loop-rotate,licm),simplifycfg,gvn,instcombine<no-verify-fixpoint>,simplifycfg)";

static void optimize(llvm::Module &module, llvm::TargetMachine &machine) {
  llvm::PassInstrumentationCallbacks callbacks;
  llvm::OptNoneInstrumentation skip(/*DebugLogging=*/false); // honours the attribute optnone
  skip.registerCallbacks(callbacks);
  llvm::PassBuilder builder(&machine, llvm::PipelineTuningOptions(), std::nullopt, &callbacks);
  llvm::LoopAnalysisManager loops;
  llvm::FunctionAnalysisManager functions;
  llvm::CGSCCAnalysisManager graph;
  llvm::ModuleAnalysisManager modules;
  builder.registerModuleAnalyses(modules);
  builder.registerCGSCCAnalyses(graph);
  builder.registerFunctionAnalyses(functions);
  builder.registerLoopAnalyses(loops);
  builder.crossRegisterProxies(loops, functions, graph, modules);
  llvm::ModulePassManager passes;
  llvm::cantFail(builder.parsePassPipeline(passes, kKernelPasses));
  passes.run(module, modules);
}

/// Makes a function known to all objects that are merged.
static void share(LLVM::LLVMFuncOp function) {
  function.setLinkage(LLVM::Linkage::External);
  function.setVisibility_(LLVM::Visibility::Hidden);
  function.setDsoLocal(true);
}

OwningOpRef<ModuleOp> isolate(ArrayRef<LLVM::LLVMFuncOp> functions, SymbolTable &symbols) {
  OwningOpRef<ModuleOp> module = ModuleOp::create(symbols.getOp()->getLoc());
  OpBuilder b(module->getBodyRegion());
  llvm::SetVector<Operation *> used;
  for (LLVM::LLVMFuncOp function : functions)
    function.walk([&](LLVM::AddressOfOp address) { used.insert(symbols.lookup(address.getGlobalName())); });
  for (LLVM::LLVMFuncOp function : functions)
    used.remove(function.getOperation());
  for (Operation *op : used) {
    if (isa<LLVM::LLVMFuncOp>(op))
      share(cast<LLVM::LLVMFuncOp>(b.cloneWithoutRegions(*op)));
    else
      b.clone(*op);
  }
  for (LLVM::LLVMFuncOp function : functions)
    b.clone(*function.getOperation());
  return module;
}

/// The functions of a module in groups: first its program, then kernels, in groups of about the same size that depend
/// on nothing but the module. Sixteen are work for as many threads; each makes its passes anew.
static std::vector<SmallVector<LLVM::LLVMFuncOp>> groupFunctions(ModuleOp module, SymbolTable &symbols) {
  auto standsAlone = [&](LLVM::LLVMFuncOp function) {
    return function->hasAttr(kKernelAttr) &&
           !function
                .walk([&](Operation *op) {
                  auto address = dyn_cast<LLVM::AddressOfOp>(op);
                  auto global = address ? symbols.lookup<LLVM::GlobalOp>(address.getGlobalName()) : nullptr;
                  bool refers = address ? !global || !global.getConstant() : isa<LLVM::CallOp>(op);
                  return refers ? WalkResult::interrupt() : WalkResult::advance();
                })
                .wasInterrupted();
  };
  SmallVector<LLVM::LLVMFuncOp> program;
  SmallVector<std::pair<int64_t, LLVM::LLVMFuncOp>> kernels;
  for (auto function : module.getOps<LLVM::LLVMFuncOp>()) {
    if (!standsAlone(function)) {
      program.push_back(function);
      continue;
    }
    int64_t size = 0;
    function.walk([&](Operation *) { ++size; });
    kernels.push_back({size, function});
  }
  llvm::stable_sort(kernels, [](auto &a, auto &b) { return a.first > b.first; });
  constexpr size_t kMostGroups = 16;
  std::vector<SmallVector<LLVM::LLVMFuncOp>> groups(std::min(kMostGroups, kernels.size()));
  SmallVector<int64_t> sizes(groups.size(), 0);
  for (auto [size, function] : kernels) {
    auto least = llvm::min_element(sizes);
    *least += size;
    groups[least - sizes.begin()].push_back(function);
  }
  groups.insert(groups.begin(), program);
  return groups;
}

/// Generates code for groups of functions in parallel, which takes half of the time of compiling. Returns what is in
/// the way, or "".
static std::string emitMerged(ModuleOp module, const Machine &machine, SmallVectorImpl<char> &output) {
  SymbolTable symbols(module);
  std::vector<SmallVector<LLVM::LLVMFuncOp>> groups = groupFunctions(module, symbols);
  std::vector<SmallVector<char, 0>> objects(groups.size());
  std::vector<std::string> reasons(groups.size());
  parallelFor(module.getContext(), 0, groups.size(), [&](size_t i) {
    OwningOpRef<ModuleOp> group = isolate(groups[i], symbols);
    if (i > 0)
      for (auto kernel : group->getOps<LLVM::LLVMFuncOp>())
        share(kernel);
    reasons[i] = emitCode(*group, machine, /*assembly=*/false, objects[i]);
  });
  auto first = llvm::find_if(reasons, [](StringRef reason) { return !reason.empty(); });
  if (first != reasons.end())
    return *first;
  mergeObjects(objects, output);
  return "";
}

std::string emitCode(Operation *module, const Machine &target, bool assembly, SmallVectorImpl<char> &output) {
  std::string error;
  std::unique_ptr<llvm::TargetMachine> machine = createMachine(target, error);
  if (!machine)
    return "no code generator for the target: " + error;
  llvm::LLVMContext context;
  std::unique_ptr<llvm::Module> code = translateModuleToLLVMIR(module, context, "dsc");
  if (!code)
    return "it does not translate to LLVM IR";
  code->setDataLayout(machine->createDataLayout());
  code->setTargetTriple(machine->getTargetTriple());
  code->setSourceFileName("dsc");
  prepareFunctions(*code, target);
  optimize(*code, *machine);

  llvm::raw_svector_ostream stream(output);
  llvm::legacy::PassManager emitter;
  auto kind = assembly ? llvm::CodeGenFileType::AssemblyFile : llvm::CodeGenFileType::ObjectFile;
  if (machine->addPassesToEmitFile(emitter, stream, nullptr, kind))
    return "the target cannot emit this kind of file";
  emitter.run(*code);
  return "";
}

LogicalResult emitObject(ModuleOp module, bool assembly, SmallVectorImpl<char> &output) {
  auto target = module->getAttrOfType<TargetAttr>(kTargetAttr);
  auto phase = module->getAttrOfType<StringAttr>(kPhaseAttr);
  auto fail = [&](const llvm::Twine &reason) -> LogicalResult {
    return module.emitError("cannot be made into machine code: ") << reason;
  };
  if (!target || !phase || phase.getValue() != "llvm")
    return fail("it is not at the end of phase llvm");
  auto manifest = module->getAttrOfType<DictionaryAttr>(kManifestAttr);
  for (StringRef key : {"dispatches", "features", "init", "main", "statistics", "symbols", "target", "version"})
    if (!manifest || !manifest.contains(key))
      return fail("its dsc.manifest lacks \"" + key + "\"");
  // A GPU's kernels are text in the manifest by now; what is left is the host program, which needs nothing special.
  Machine machine = target.isGpu()
                        ? Machine{"x86_64-unknown-linux-gnu", "x86-64", "", 16}
                        : Machine{target.getTriple(), target.getCpu(), target.getFeatures(), target.getVectorBytes()};
  std::string reason = assembly ? emitCode(module, machine, assembly, output) : emitMerged(module, machine, output);
  return reason.empty() ? success() : fail(reason);
}

} // namespace mlir::dsc
