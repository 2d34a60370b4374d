//===- Target.cpp - names of machines and what they mean ------------------===//

#include "passes/Target.h"

#include "llvm/ADT/StringMap.h"
#include "llvm/TargetParser/Host.h"
#include "llvm/TargetParser/Triple.h"

#if defined(__linux__)
#include <unistd.h>
#endif

namespace mlir::dsc {
// Features that change the code we make. Naming them all, rather than the
// machine's model, gives the same object on every machine that has them.
static constexpr StringRef kX86Features[] = {
    "sse3",     "ssse3",    "sse4.1",     "sse4.2",     "popcnt",     "avx",      "avx2",     "fma",
    "f16c",     "bmi",      "bmi2",       "lzcnt",      "movbe",      "avx512f",  "avx512bw", "avx512cd",
    "avx512dq", "avx512vl", "avx512vnni", "avx512bf16", "avx512fp16", "amx-tile", "amx-bf16", "amx-int8"};
static constexpr size_t kV3 = 13, kV4 = 18; // how many of them a level has

static constexpr int64_t kDefaultL2Bytes = 1 << 20;

static std::string joinFeatures(ArrayRef<StringRef> features) {
  std::string text;
  for (StringRef feature : features)
    text += (text.empty() ? "+" : ",+") + feature.str();
  return text;
}

/// Linux keeps tiles off in a process until it asks for them, and may refuse (Documentation/arch/x86/xstate.rst).
static bool mayUseTiles() {
#if defined(__x86_64__) && defined(__linux__)
  constexpr long kArchPrctl = 158, kRequestPermission = 0x1023, kTileData = 18;
  return syscall(kArchPrctl, kRequestPermission, kTileData) == 0;
#else
  return false;
#endif
}

/// The second-level cache of a core of this machine.
static int64_t l2BytesHere() {
  int64_t bytes = 0;
#if defined(__linux__) && defined(_SC_LEVEL2_CACHE_SIZE)
  bytes = sysconf(_SC_LEVEL2_CACHE_SIZE);
#endif
  return bytes >= kDefaultL2Bytes / 4 ? bytes : kDefaultL2Bytes; // virtual machines may hide it
}

/// GPUs by the name of their architecture, as NVIDIA's tools spell it. A thread reads and writes 16 bytes at once.
static TargetAttr gpuTarget(MLIRContext *context, StringRef name) {
  struct Gpu {
    StringRef name;
    int64_t l2Bytes;
  };
  // L2 of the A100 and H100: NVIDIA A100 (2020) and H100 (2022) Tensor Core GPU Architecture, white papers.
  static constexpr Gpu known[] = {{"sm_80", 40 << 20}, {"sm_90a", 50 << 20}};
  // PTX 8.0 is the first with wgmma, and what drivers from CUDA 12.0 on take.
  for (const Gpu &gpu : known)
    if (name == gpu.name)
      return TargetAttr::get(context, name, "nvptx64-nvidia-cuda", name, "+ptx80", 16, 255, gpu.l2Bytes);
  return {};
}

TargetAttr resolveTarget(MLIRContext *context, StringRef name, std::string &error) {
  if (TargetAttr gpu = gpuTarget(context, name))
    return gpu;
  StringRef kind = name.empty() ? "cpu" : name, suffix = kind;
  bool strict = kind.consume_back("+strict");
  suffix = suffix.drop_front(kind.size());
  StringRef level = "native";
  if (kind.consume_front("cpu:"))
    level = kind;
  else if (kind != "cpu")
    level = "";
  int64_t l2Bytes = level == "native" ? l2BytesHere() : kDefaultL2Bytes;
  auto x86 = [&](StringRef cpu, ArrayRef<StringRef> features, int64_t bytes, int64_t registers) {
    return TargetAttr::get(context, ("cpu:" + level + suffix).str(), "x86_64-unknown-linux-gnu", cpu,
                           joinFeatures(features), bytes, registers, l2Bytes);
  };
  auto aarch64 = [&] {
    return TargetAttr::get(context, ("cpu:" + level + suffix).str(), "aarch64-unknown-linux-gnu", "generic", "+neon",
                           16, 32, l2Bytes);
  };
  // Their products of bf16 flush subnormals and add pairs in their own way.
  auto isStrict = [](StringRef feature) { return feature != "avx512bf16" && feature != "amx-bf16"; };
  ArrayRef<StringRef> all(kX86Features);
  if (level == "x86-64")
    return x86("x86-64", {}, 16, 16);
  if (level == "x86-64-v3")
    return x86("x86-64-v3", all.take_front(kV3), 32, 16);
  if (level == "x86-64-v4")
    return x86("x86-64-v4", all.take_front(kV4), 64, 32);
  if (level == "aarch64")
    return aarch64();
  if (level == "native") {
    if (llvm::Triple(llvm::sys::getDefaultTargetTriple()).isAArch64())
      return aarch64();
    llvm::StringMap<bool> host = llvm::sys::getHostCPUFeatures();
    auto hasAll = [&](size_t count) {
      return llvm::all_of(all.take_front(count), [&](StringRef feature) { return host.lookup(feature); });
    };
    if (!hasAll(kV3))
      return x86("x86-64", {}, 16, 16);
    if (!hasAll(kV4))
      return x86("x86-64-v3", all.take_front(kV3), 32, 16);
    SmallVector<StringRef> features(all.take_front(kV4));
    for (StringRef extra : all.drop_front(kV4))
      if (host.lookup(extra) && (!strict || isStrict(extra)) && (!extra.starts_with("amx") || mayUseTiles()))
        features.push_back(extra);
    return x86("x86-64-v4", features, 64, 32);
  }
  error = "unknown target: \"" + name.str() +
          "\", known are cpu, cpu:native, cpu:x86-64, cpu:x86-64-v3, cpu:x86-64-v4, cpu:aarch64, each with or without "
          "+strict; and the GPUs sm_80 and sm_90a";
  return {};
}

} // namespace mlir::dsc
