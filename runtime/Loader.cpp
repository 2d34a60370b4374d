//===- Loader.cpp - Loads relocatable ELF objects -------------------------===//
//
// Maps the allocated sections of one ELF64 relocatable object (x86-64 or
// AArch64, position independent, small code model) into one contiguous range,
// together with a global offset table and stubs for calls to the runtime:
//
//   code, stubs (read, execute) | constants, GOT (read) | data (read, write)
//
// The object is not trusted to be well formed: every offset, size and index is
// checked before use, and what is not understood is refused with a sentence.
//
//===----------------------------------------------------------------------===//

#include "runtime/Loader.h"
#include "runtime/Context.h"
#include "runtime/CudaDevice.h"

#include <stdarg.h>
#include <stdio.h>
#include <unistd.h>

using namespace dsc_rt;

struct dsc_rt_module {
  uint8_t *base;
  size_t size;
  struct Export {
    const char *name; // in `names`
    void *address;
  } *exports;
  size_t exportCount;
  char *names;
};

namespace {

/// The closed list of what an object may call.
struct External {
  const char *name;
  void *address;
};
const External kExternals[] = {
    {"dsc_rt_launch", reinterpret_cast<void *>(dsc_rt_launch)},
    {"dsc_rt_defer", reinterpret_cast<void *>(dsc_rt_defer)},
    {"dsc_rt_arena", reinterpret_cast<void *>(dsc_rt_arena)},
    {"dsc_rt_threads", reinterpret_cast<void *>(dsc_rt_threads)},
};

uint64_t alignUp(uint64_t value, uint64_t alignment) { return (value + alignment - 1) & ~(alignment - 1); }

} // namespace

const char *dsc_rt::machineName(unsigned machine) {
  return machine == EM_X86_64 ? "x86-64" : machine == EM_AARCH64 ? "AArch64" : "unknown";
}

void dsc_rt::moduleRange(const dsc_rt_module *module, const uint8_t **base, size_t *size) {
  *base = module->base;
  *size = module->size;
}

bool Loader::fail(const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  if (messageSize)
    vsnprintf(message, messageSize, format, arguments);
  va_end(arguments);
  return false;
}

//===----------------------------------------------------------------------===//
// Reading
//===----------------------------------------------------------------------===//

bool Loader::readHeader() {
  if (size < sizeof(header))
    return fail("object is truncated: an ELF header takes 64 bytes, got %llu", (unsigned long long)size);
  memcpy(&header, bytes, sizeof(header));
  if (memcmp(header.e_ident, ELFMAG, SELFMAG) != 0 || header.e_ident[EI_CLASS] != ELFCLASS64 ||
      header.e_ident[EI_DATA] != ELFDATA2LSB)
    return fail("object is not a little-endian ELF64 file");
  if (header.e_type != ET_REL)
    return fail("object must be relocatable (ELF type 1), got type %u", header.e_type);
  if (header.e_machine != kMachine)
    return fail("object is for %s (machine %u), this machine is %s (%u): "
                "compile it for this target",
                machineName(header.e_machine), header.e_machine, machineName(kMachine), kMachine);
  if (header.e_shentsize != sizeof(Elf64_Shdr))
    return fail("section headers must take 64 bytes, got %u", header.e_shentsize);
  if (!inFile(header.e_shoff, uint64_t(header.e_shnum) * sizeof(Elf64_Shdr)))
    return fail("object is truncated: %u section headers at byte %llu of %llu", header.e_shnum,
                (unsigned long long)header.e_shoff, (unsigned long long)size);
  return true;
}

bool Loader::readSections() {
  sectionCount = header.e_shnum;
  sections = Array<Section>(sectionCount).take();
  if (!sections)
    return failMemory();
  for (uint64_t i = 0; i < sectionCount; ++i) {
    Section &section = sections[i];
    Elf64_Shdr &sh = section.header;
    memcpy(&sh, bytes + header.e_shoff + i * sizeof(sh), sizeof(sh));
    section.region = NotLoaded;
    if (sh.sh_type != SHT_NOBITS && sh.sh_type != SHT_NULL && !inFile(sh.sh_offset, sh.sh_size))
      return fail("object is truncated: section %llu covers %llu bytes at byte "
                  "%llu of %llu",
                  (unsigned long long)i, (unsigned long long)sh.sh_size, (unsigned long long)sh.sh_offset,
                  (unsigned long long)size);
    if (sh.sh_type == SHT_NULL || !(sh.sh_flags & SHF_ALLOC))
      continue;
    if (sh.sh_flags & (SHF_TLS | SHF_COMPRESSED))
      return fail("section %llu is %s, which the loader does not support", (unsigned long long)i,
                  sh.sh_flags & SHF_TLS ? "thread local" : "compressed");
    if (sh.sh_type == SHT_INIT_ARRAY || sh.sh_type == SHT_FINI_ARRAY || sh.sh_type == SHT_PREINIT_ARRAY)
      return fail("section %llu holds constructors, which the loader does not "
                  "run",
                  (unsigned long long)i);
    if ((sh.sh_flags & SHF_WRITE) && (sh.sh_flags & SHF_EXECINSTR))
      return fail("section %llu is both writable and executable", (unsigned long long)i);
    section.region = sh.sh_flags & SHF_EXECINSTR ? Code : sh.sh_flags & SHF_WRITE ? Data : Constants;
  }
  return true;
}

bool Loader::readSymbols() {
  const Elf64_Shdr *table = nullptr;
  for (uint64_t i = 0; i < sectionCount; ++i) {
    const Elf64_Shdr &sh = sections[i].header;
    if (sh.sh_type == SHT_SYMTAB_SHNDX)
      return fail("object has more than 65279 sections");
    if (sh.sh_type != SHT_SYMTAB)
      continue;
    if (table)
      return fail("object has two symbol tables");
    table = &sh;
  }
  if (!table)
    return fail("object has no symbol table");
  if (table->sh_entsize != sizeof(Elf64_Sym))
    return fail("symbols must take 24 bytes, got %llu", (unsigned long long)table->sh_entsize);
  if (table->sh_link >= sectionCount || sections[table->sh_link].header.sh_type != SHT_STRTAB)
    return fail("the symbol table names section %u as its strings, which is "
                "no string table",
                table->sh_link);
  const Elf64_Shdr &strings = sections[table->sh_link].header;
  auto *text = reinterpret_cast<const char *>(bytes + strings.sh_offset);

  symbolCount = table->sh_size / sizeof(Elf64_Sym);
  symbols = Array<Symbol>(symbolCount).take();
  if (!symbols)
    return failMemory();
  for (uint64_t i = 0; i < symbolCount; ++i) {
    Symbol &symbol = symbols[i];
    Elf64_Sym &entry = symbol.entry;
    memcpy(&entry, bytes + table->sh_offset + i * sizeof(entry), sizeof(entry));
    symbol.got = symbol.stub = -1;
    if (entry.st_name == 0) {
      symbol.name = "";
    } else if (entry.st_name >= strings.sh_size || !memchr(text + entry.st_name, 0, strings.sh_size - entry.st_name)) {
      return fail("the name of symbol %llu starts at byte %u of %llu in the "
                  "string table and does not end there",
                  (unsigned long long)i, entry.st_name, (unsigned long long)strings.sh_size);
    } else {
      symbol.name = text + entry.st_name;
    }
    if (entry.st_shndx == SHN_UNDEF || entry.st_shndx == SHN_ABS)
      continue;
    if (entry.st_shndx == SHN_COMMON)
      return fail("\"%s\" is a common symbol: compile with -fno-common", symbol.name);
    if (entry.st_shndx >= sectionCount)
      return fail("symbol %llu (\"%s\") is in section %u of %llu", (unsigned long long)i, symbol.name, entry.st_shndx,
                  (unsigned long long)sectionCount);
    const Section &home = sections[entry.st_shndx];
    if (home.region != NotLoaded && entry.st_value > home.header.sh_size)
      return fail("symbol %llu (\"%s\") is at byte %llu of a section of %llu "
                  "bytes",
                  (unsigned long long)i, symbol.name, (unsigned long long)entry.st_value,
                  (unsigned long long)home.header.sh_size);
  }
  return true;
}

//===----------------------------------------------------------------------===//
// Layout
//===----------------------------------------------------------------------===//

bool Loader::planTables() {
  for (uint64_t i = 0; i < sectionCount; ++i) {
    const Section &section = sections[i];
    const Elf64_Shdr &sh = section.header;
    if (sh.sh_type == SHT_REL && sh.sh_info < sectionCount && sections[sh.sh_info].region != NotLoaded)
      return fail("section %llu holds relocations without addends, which the "
                  "loader does not support",
                  (unsigned long long)i);
    if (!isRelocationOfLoaded(section))
      continue;
    if (sh.sh_entsize != sizeof(Elf64_Rela))
      return fail("relocations must take 24 bytes, got %llu", (unsigned long long)sh.sh_entsize);
    for (uint64_t r = 0; r < sh.sh_size / sizeof(Elf64_Rela); ++r)
      if (!planRelocation(section, relocation(section, r)))
        return false;
  }
  return placeSections();
}

bool Loader::placeSections() {
  uint64_t page = sysconf(_SC_PAGESIZE), end = 0;
  for (int region = Code; region < RegionCount; ++region) {
    end = alignUp(end, page);
    regionOffset[region] = end;
    for (uint64_t i = 0; i < sectionCount; ++i) {
      Section &section = sections[i];
      if (section.region != region)
        continue;
      uint64_t alignment = section.header.sh_addralign ? section.header.sh_addralign : 1;
      if ((alignment & (alignment - 1)) || alignment > kMaxAlignment)
        return fail("section %llu has alignment %llu: must be a power of two "
                    "up to %llu",
                    (unsigned long long)i, (unsigned long long)alignment, (unsigned long long)kMaxAlignment);
      section.offset = end = alignUp(end, alignment);
      if (section.header.sh_size > kMaxImage - end)
        return fail("section %llu takes %llu bytes: an object may take %llu "
                    "in memory",
                    (unsigned long long)i, (unsigned long long)section.header.sh_size, (unsigned long long)kMaxImage);
      end += section.header.sh_size;
    }
    if (region == Code) {
      stubOffset = alignUp(end, kStubSize);
      end = stubOffset + stubs * kStubSize;
    } else if (region == Constants) {
      gotOffset = alignUp(end, sizeof(uint64_t));
      end = gotOffset + gotSlots * sizeof(uint64_t);
    }
    if (end > kMaxImage)
      return fail("the object takes more than %llu bytes in memory", (unsigned long long)kMaxImage);
  }
  imageSize = alignUp(end, page);
  regionOffset[RegionCount] = imageSize;
  if (imageSize == 0)
    return fail("object has no code or data");
  return true;
}

bool Loader::map() {
  void *mapped = mmap(nullptr, imageSize, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (mapped == MAP_FAILED)
    return failMemory();
  image = static_cast<uint8_t *>(mapped);
  for (uint64_t i = 0; i < sectionCount; ++i) {
    const Section &section = sections[i];
    if (section.region != NotLoaded && section.header.sh_type != SHT_NOBITS)
      memcpy(image + section.offset, bytes + section.header.sh_offset, section.header.sh_size);
  }
  return true;
}

bool Loader::resolve() {
  for (uint64_t i = 0; i < symbolCount; ++i) {
    Symbol &symbol = symbols[i];
    uint16_t home = symbol.entry.st_shndx;
    if (home == SHN_ABS) {
      symbol.address = symbol.entry.st_value;
    } else if (home != SHN_UNDEF) {
      if (sections[home].region != NotLoaded)
        symbol.address = addressOf(sections[home].offset + symbol.entry.st_value);
    } else if (symbol.needed) {
      for (const External &external : kExternals)
        if (strcmp(symbol.name, external.name) == 0)
          symbol.address = reinterpret_cast<uint64_t>(external.address);
      if (!symbol.address)
        return fail("undefined symbol \"%s\": an object may use only "
                    "dsc_rt_launch, dsc_rt_defer, dsc_rt_arena and dsc_rt_threads",
                    symbol.name);
    }
    if (symbol.got >= 0)
      memcpy(image + gotOffset + symbol.got * sizeof(uint64_t), &symbol.address, sizeof(uint64_t));
    if (symbol.stub >= 0)
      writeStub(stubOffset + symbol.stub * kStubSize, gotOffset + symbol.got * sizeof(uint64_t));
  }
  return true;
}

bool Loader::protect() {
  auto set = [&](Region region, int protection) {
    uint64_t begin = regionOffset[region], end = regionOffset[region + 1];
    return begin == end || mprotect(image + begin, end - begin, protection) == 0;
  };
  auto *code = reinterpret_cast<char *>(image);
  __builtin___clear_cache(code, code + regionOffset[Constants]);
  if (!set(Code, PROT_READ | PROT_EXEC) || !set(Constants, PROT_READ))
    return fail("the system refuses executable memory (mprotect): is a "
                "security policy in force?");
  return true;
}

//===----------------------------------------------------------------------===//
// Exports
//===----------------------------------------------------------------------===//

dsc_rt_module *Loader::exportSymbols() {
  auto isExport = [&](const Symbol &symbol) {
    uint16_t home = symbol.entry.st_shndx;
    unsigned type = ELF64_ST_TYPE(symbol.entry.st_info);
    return ELF64_ST_BIND(symbol.entry.st_info) != STB_LOCAL && *symbol.name &&
           (type == STT_FUNC || type == STT_OBJECT) && home != SHN_UNDEF && home != SHN_ABS &&
           sections[home].region != NotLoaded;
  };
  size_t count = 0, nameBytes = 0;
  for (uint64_t i = 0; i < symbolCount; ++i)
    if (isExport(symbols[i])) {
      ++count;
      nameBytes += strlen(symbols[i].name) + 1;
    }
  Array<dsc_rt_module> module(1);
  Array<dsc_rt_module::Export> exports(count);
  Array<char> names(nameBytes);
  if (!module || !exports || !names) {
    failMemory();
    return nullptr;
  }
  size_t next = 0, used = 0;
  for (uint64_t i = 0; i < symbolCount; ++i) {
    if (!isExport(symbols[i]))
      continue;
    size_t length = strlen(symbols[i].name) + 1;
    memcpy(&names[used], symbols[i].name, length);
    exports[next++] = {&names[used], reinterpret_cast<void *>(symbols[i].address)};
    used += length;
  }
  module[0] = {image, imageSize, exports.take(), count, names.take()};
  image = nullptr;
  return module.take();
}

dsc_rt_module *dsc_rt_load(const void *elf, size_t size, char *message, size_t messageSize) {
  if (messageSize)
    message[0] = '\0';
  return Loader(elf, size, message, messageSize).run();
}

void *dsc_rt_symbol(dsc_rt_module *module, const char *name) {
  for (size_t i = 0; i < module->exportCount; ++i)
    if (strcmp(module->exports[i].name, name) == 0)
      return module->exports[i].address;
  return nullptr;
}

void dsc_rt_unload(dsc_rt_module *module) {
  if (!module)
    return;
  gpuForget(module);
  munmap(module->base, module->size);
  free(module->exports);
  free(module->names);
  free(module);
}
