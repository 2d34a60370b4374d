//===- CpuFeatures.cpp - Features that CPU and operating system support ---===//
//
// Names are LLVM's. On x86 a vector feature counts only if the system saves its
// registers (XCR0), as the Intel SDM vol. 1, 14.3 and 15.2 demand.
//
//===----------------------------------------------------------------------===//

#include "runtime/dsc_rt.h"

#include <string.h>

#if defined(__x86_64__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#elif defined(__aarch64__)
#include <asm/hwcap.h>
#include <sys/auxv.h>
#endif

namespace {

/// Appends names to a buffer that may be too small, counting all of them.
class List {
public:
  List(char *out, size_t size) : out(out), size(size) {
    if (size)
      out[0] = '\0';
  }

  void add(const char *name) {
    if (length)
      append(',');
    for (; *name; ++name)
      append(*name);
  }

  int count() const { return static_cast<int>(length); }

private:
  void append(char c) {
    if (length + 1 < size) {
      out[length] = c;
      out[length + 1] = '\0';
    }
    ++length;
  }

  char *out;
  size_t size;
  size_t length = 0;
};

#if defined(__x86_64__)

enum Register { EAX, EBX, ECX, EDX };
enum Leaf { Leaf1, Leaf7, Leaf7Sub1, Extended1, LeafCount };
enum State : unsigned { None = 0, Avx = 0x6, Avx512 = 0xe6, Tile = 0x60000 };

struct Feature {
  const char *name;
  Leaf leaf;
  Register reg;
  int bit;
  State state;
};

constexpr Feature kFeatures[] = {
    {"sse3", Leaf1, ECX, 0, None},
    {"ssse3", Leaf1, ECX, 9, None},
    {"sse4.1", Leaf1, ECX, 19, None},
    {"sse4.2", Leaf1, ECX, 20, None},
    {"popcnt", Leaf1, ECX, 23, None},
    {"movbe", Leaf1, ECX, 22, None},
    {"lzcnt", Extended1, ECX, 5, None},
    {"avx", Leaf1, ECX, 28, Avx},
    {"avx2", Leaf7, EBX, 5, Avx},
    {"fma", Leaf1, ECX, 12, Avx},
    {"f16c", Leaf1, ECX, 29, Avx},
    {"bmi", Leaf7, EBX, 3, None},
    {"bmi2", Leaf7, EBX, 8, None},
    {"avx512f", Leaf7, EBX, 16, Avx512},
    {"avx512bw", Leaf7, EBX, 30, Avx512},
    {"avx512dq", Leaf7, EBX, 17, Avx512},
    {"avx512vl", Leaf7, EBX, 31, Avx512},
    {"avx512cd", Leaf7, EBX, 28, Avx512},
    {"avx512ifma", Leaf7, EBX, 21, Avx512},
    {"avx512vbmi", Leaf7, ECX, 1, Avx512},
    {"avx512vbmi2", Leaf7, ECX, 6, Avx512},
    {"avx512bitalg", Leaf7, ECX, 12, Avx512},
    {"avx512vpopcntdq", Leaf7, ECX, 14, Avx512},
    {"avx512vnni", Leaf7, ECX, 11, Avx512},
    {"avx512bf16", Leaf7Sub1, EAX, 5, Avx512},
    {"avx512fp16", Leaf7, EDX, 23, Avx512},
    {"avxvnni", Leaf7Sub1, EAX, 4, Avx},
    {"gfni", Leaf7, ECX, 8, None},
    {"amx-tile", Leaf7, EDX, 24, Tile},
    {"amx-int8", Leaf7, EDX, 25, Tile},
    {"amx-bf16", Leaf7, EDX, 22, Tile},
};

unsigned enabledStates() {
  unsigned low, high;
  asm volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return low;
}

/// Tiles are off in a process until it asks for them
/// (Documentation/arch/x86/xstate.rst).
bool requestTiles() {
  constexpr int kRequestPermission = 0x1023, kTileData = 18;
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
}

void addFeatures(List &list) {
  unsigned leaves[LeafCount][4] = {};
  auto query = [&](Leaf leaf, unsigned number, unsigned sub) {
    unsigned *r = leaves[leaf];
    __get_cpuid_count(number, sub, &r[EAX], &r[EBX], &r[ECX], &r[EDX]);
  };
  query(Leaf1, 1, 0);
  query(Leaf7, 7, 0);
  if (leaves[Leaf7][EAX] >= 1)
    query(Leaf7Sub1, 7, 1);
  query(Extended1, 0x80000001u, 0);

  constexpr int kOsXsave = 27;
  bool xsave = leaves[Leaf1][ECX] >> kOsXsave & 1;
  unsigned states = xsave ? enabledStates() : 0;
  bool hasTiles = leaves[Leaf7][EDX] >> 24 & 1;
  if ((states & Tile) == Tile && (!hasTiles || !requestTiles()))
    states &= ~unsigned(Tile);
  for (const Feature &feature : kFeatures)
    if ((leaves[feature.leaf][feature.reg] >> feature.bit & 1) && (states & feature.state) == feature.state)
      list.add(feature.name);
}

#elif defined(__aarch64__)

void addFeatures(List &list) {
  unsigned long caps = getauxval(AT_HWCAP), caps2 = getauxval(AT_HWCAP2);
  struct Feature {
    const char *name;
    bool present;
  };
  const Feature features[] = {
      {"neon", (caps & HWCAP_ASIMD) != 0},       {"dotprod", (caps & HWCAP_ASIMDDP) != 0},
      {"fullfp16", (caps & HWCAP_ASIMDHP) != 0}, {"bf16", (caps2 & HWCAP2_BF16) != 0},
      {"i8mm", (caps2 & HWCAP2_I8MM) != 0},      {"sve", (caps & HWCAP_SVE) != 0},
  };
  for (const Feature &feature : features)
    if (feature.present)
      list.add(feature.name);
}

#endif

} // namespace

int dsc_rt_cpu_features(char *out, size_t size) {
  List list(out, size);
  addFeatures(list);
  return list.count();
}
