//===- Loader.h - State of one object being loaded (internal) -------------===//

#ifndef DSC_RT_LOADER_H
#define DSC_RT_LOADER_H

#include "runtime/dsc_rt.h"

#include <elf.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

// The machine whose objects are accepted. Tests of the other machine's
// relocations build this file with that machine's number.
#if !defined(DSC_RT_LOADER_MACHINE)
#if defined(__x86_64__)
#define DSC_RT_LOADER_MACHINE EM_X86_64
#elif defined(__aarch64__)
#define DSC_RT_LOADER_MACHINE EM_AARCH64
#else
#error "the loader knows x86-64 and AArch64"
#endif
#endif

namespace dsc_rt {

constexpr uint16_t kMachine = DSC_RT_LOADER_MACHINE;
// Keeps every distance within the object in reach of 32-bit displacements.
constexpr uint64_t kMaxImage = uint64_t(1) << 30;
constexpr uint64_t kMaxAlignment = 4096;
constexpr uint64_t kStubSize = 16;

/// Name of an ELF machine number for messages.
const char *machineName(unsigned machine);

/// Memory of `count` zeroed elements; a null pointer means out of memory.
template <typename T> class Array {
public:
  explicit Array(size_t count) : data(static_cast<T *>(calloc(count ? count : 1, sizeof(T)))) {}
  ~Array() { free(data); }
  Array(const Array &) = delete;
  Array &operator=(const Array &) = delete;
  T &operator[](size_t i) { return data[i]; }
  explicit operator bool() const { return data != nullptr; }
  T *take() {
    T *taken = data;
    data = nullptr;
    return taken;
  }

private:
  T *data;
};

/// What a relocation does with its symbol.
enum Kind { Unsupported, Ignored, NotPic, Direct, Call, ThroughGot };

struct RelocationType {
  Kind kind;
  unsigned bytes; // written at r_offset
};

/// One table per machine.
RelocationType classify(uint32_t type);

/// The image in this order: read and execute, read, read and write.
enum Region { Code, Constants, Data, RegionCount, NotLoaded = RegionCount };

struct Section {
  Elf64_Shdr header;
  Region region;
  uint64_t offset; // in the image
};

struct Symbol {
  Elf64_Sym entry;
  const char *name;
  int64_t got; // slot numbers, -1: none
  int64_t stub;
  bool needed; // some relocation of a loaded section refers to it
  uint64_t address;
};

class Loader {
public:
  Loader(const void *elf, uint64_t size, char *message, size_t messageSize)
      : bytes(static_cast<const uint8_t *>(elf)), size(size), message(message), messageSize(messageSize) {}
  ~Loader() {
    if (image)
      munmap(image, imageSize);
    free(sections);
    free(symbols);
  }
  Loader(const Loader &) = delete;
  Loader &operator=(const Loader &) = delete;

  /// Returns the module, or null after writing the message.
  dsc_rt_module *run() {
    if (!readHeader() || !readSections() || !readSymbols() || !planTables() || !map() || !resolve() || !relocate() ||
        !protect())
      return nullptr;
    return exportSymbols();
  }

private:
  /// Writes the message; always false.
  __attribute__((format(printf, 2, 3))) bool fail(const char *format, ...);
  bool failMemory() { return fail("out of memory while loading the object"); }

  /// True if [offset, offset + length) lies in the file.
  bool inFile(uint64_t offset, uint64_t length) const { return offset <= size && length <= size - offset; }

  bool readHeader();
  bool readSections();
  bool placeSections();
  bool readSymbols();
  bool planTables();
  bool planRelocation(const Section &relocations, const Elf64_Rela &entry);
  bool map();
  bool resolve();
  bool relocate();
  bool relocateX86(const Symbol &symbol, uint8_t *place, const Elf64_Rela &entry);
  bool relocateAArch64(const Symbol &symbol, uint8_t *place, const Elf64_Rela &entry);
  bool outOfReach(const Symbol &symbol, const Elf64_Rela &entry);
  uint64_t targetOf(const Symbol &symbol, const Elf64_Rela &entry) const;
  bool protect();
  void writeStub(uint64_t stub, uint64_t slot);
  dsc_rt_module *exportSymbols();

  bool isRelocationOfLoaded(const Section &section) const {
    return section.header.sh_type == SHT_RELA && section.header.sh_info < sectionCount &&
           sections[section.header.sh_info].region != NotLoaded;
  }
  Elf64_Rela relocation(const Section &section, uint64_t index) const {
    Elf64_Rela entry;
    memcpy(&entry, bytes + section.header.sh_offset + index * sizeof(entry), sizeof(entry));
    return entry;
  }
  uint64_t addressOf(uint64_t offset) const { return reinterpret_cast<uint64_t>(image) + offset; }

  const uint8_t *bytes;
  uint64_t size;
  char *message;
  size_t messageSize;

  Elf64_Ehdr header = {};
  Section *sections = nullptr;
  uint64_t sectionCount = 0;
  Symbol *symbols = nullptr;
  uint64_t symbolCount = 0;

  uint64_t gotSlots = 0, stubs = 0;
  uint64_t gotOffset = 0, stubOffset = 0;
  uint64_t regionOffset[RegionCount + 1] = {}; // page aligned; last: the end
  uint8_t *image = nullptr;
  uint64_t imageSize = 0;
};

} // namespace dsc_rt

#endif // DSC_RT_LOADER_H
