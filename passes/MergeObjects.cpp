//===- MergeObjects.cpp - one relocatable object of several ---------------===//
//
// What `ld -r` does, for objects that LLVM has just written: sections stand
// behind each other, symbols meet by name. A hidden symbol has met its users
// then and becomes local. Only what is loaded is kept.
//
//===----------------------------------------------------------------------===//

#include "passes/ObjectEmitter.h"
#include "llvm/ADT/StringMap.h"
#include "llvm/MC/StringTableBuilder.h"
#include "llvm/Object/ELF.h"

namespace mlir::dsc {
namespace {

using Elf = llvm::object::ELF64LE;
using File = llvm::object::ELFFile<Elf>;

template <typename T> StringRef bytesOf(ArrayRef<T> values) {
  return {reinterpret_cast<const char *>(values.data()), values.size() * sizeof(T)};
}

struct Merger {
  struct Section {
    Elf::Shdr header;
    StringRef name;
    std::string contents;
  };
  struct Symbol {
    Elf::Sym entry;
    StringRef name;
    uint32_t number; // in the table that is written
  };
  /// Where an object's sections and symbols are among those of all; 0: not kept.
  struct Places {
    SmallVector<uint32_t> sections, symbols;
  };
  std::vector<Section> sections = std::vector<Section>(1); // the first of both is none
  std::vector<Symbol> symbols = std::vector<Symbol>(1);
  llvm::StringMap<uint32_t> shared; // places of symbols that are not local to an object

  void merge(ArrayRef<SmallVector<char, 0>> objects, SmallVectorImpl<char> &output) {
    std::vector<File> files;
    std::vector<Places> places;
    for (const SmallVector<char, 0> &object : objects) {
      files.push_back(llvm::cantFail(File::create({object.data(), object.size()})));
      places.push_back(add(files.back()));
    }
    uint32_t table = sections.size();
    addTables(table);
    for (auto [file, own] : llvm::zip_equal(files, places))
      addRelocations(file, own, table);
    write(files.front().getHeader(), table + 1, output);
  }

  Places add(const File &file) {
    Places places;
    const Elf::Shdr *table = nullptr;
    for (const Elf::Shdr &header : llvm::cantFail(file.sections())) {
      if (header.sh_type == llvm::ELF::SHT_SYMTAB)
        table = &header;
      bool loaded = header.sh_flags & llvm::ELF::SHF_ALLOC;
      places.sections.push_back(loaded ? sections.size() : 0);
      if (!loaded)
        continue;
      StringRef contents;
      if (header.sh_type != llvm::ELF::SHT_NOBITS)
        contents = bytesOf(llvm::cantFail(file.getSectionContents(header)));
      sections.push_back({header, llvm::cantFail(file.getSectionName(header)), contents.str()});
    }
    StringRef names = llvm::cantFail(file.getStringTableForSymtab(*table));
    for (const Elf::Sym &entry : llvm::cantFail(file.symbols(table)))
      places.symbols.push_back(addSymbol(entry, llvm::cantFail(entry.getName(names)), places));
    return places;
  }

  uint32_t addSymbol(Elf::Sym entry, StringRef name, const Places &places) {
    bool local = entry.getBinding() == llvm::ELF::STB_LOCAL, isDefined = entry.st_shndx != llvm::ELF::SHN_UNDEF;
    if (isDefined)
      entry.st_shndx = entry.st_shndx < places.sections.size() ? places.sections[entry.st_shndx] : 0;
    if (local && entry.st_shndx == 0)
      return 0; // of a file, or of a section that is not kept
    uint32_t place = symbols.size();
    if (!local)
      place = shared.try_emplace(name, place).first->second;
    if (place == symbols.size()) {
      symbols.push_back({entry, name, 0});
    } else if (isDefined) {
      assert(symbols[place].entry.st_shndx == llvm::ELF::SHN_UNDEF && "defined twice");
      symbols[place].entry = entry;
    }
    return place;
  }

  /// Adds the table of symbols, and that of all names behind it.
  void addTables(uint32_t table) {
    llvm::StringTableBuilder names(llvm::StringTableBuilder::ELF);
    for (Section &section : sections)
      names.add(section.name);
    for (Symbol &symbol : symbols) {
      names.add(symbol.name);
      if (symbol.entry.getVisibility() != llvm::ELF::STV_HIDDEN || symbol.entry.st_shndx == llvm::ELF::SHN_UNDEF)
        continue;
      symbol.entry.setBinding(llvm::ELF::STB_LOCAL);
      symbol.entry.setVisibility(llvm::ELF::STV_DEFAULT);
    }
    names.finalizeInOrder();
    std::vector<Elf::Sym> entries;
    Elf::Shdr header = {};
    for (bool local : {true, false}) {
      for (Symbol &symbol : symbols) {
        if ((symbol.entry.getBinding() == llvm::ELF::STB_LOCAL) != local)
          continue;
        symbol.number = entries.size();
        symbol.entry.st_name = names.getOffset(symbol.name);
        entries.push_back(symbol.entry);
      }
      if (local)
        header.sh_info = entries.size();
    }
    for (Section &section : sections)
      section.header.sh_name = names.getOffset(section.name);
    header.sh_type = llvm::ELF::SHT_SYMTAB;
    header.sh_link = table + 1;
    header.sh_entsize = sizeof(Elf::Sym);
    header.sh_addralign = alignof(uint64_t);
    sections.push_back({header, "", bytesOf(ArrayRef(entries)).str()});

    header = {};
    header.sh_type = llvm::ELF::SHT_STRTAB;
    header.sh_addralign = 1;
    llvm::SmallString<0> text;
    llvm::raw_svector_ostream stream(text);
    names.write(stream);
    sections.push_back({header, "", text.str().str()});
  }

  void addRelocations(const File &file, const Places &places, uint32_t table) {
    for (Elf::Shdr header : llvm::cantFail(file.sections())) {
      uint32_t target = header.sh_type == llvm::ELF::SHT_RELA ? places.sections[header.sh_info] : 0;
      if (!target)
        continue;
      std::vector<Elf::Rela> entries(llvm::cantFail(file.relas(header)).vec());
      for (Elf::Rela &entry : entries) {
        uint32_t place = places.symbols[entry.getSymbol(/*isMips64EL=*/false)];
        assert(place && "refers to what is not kept");
        entry.setSymbol(symbols[place].number, /*IsMips64EL=*/false);
      }
      header.sh_name = 0;
      header.sh_link = table;
      header.sh_info = target;
      sections.push_back({header, "", bytesOf(ArrayRef(entries)).str()});
    }
  }

  void write(Elf::Ehdr header, uint32_t names, SmallVectorImpl<char> &output) {
    auto alignTo = [&](uint64_t alignment) { output.resize(llvm::alignTo(output.size(), alignment)); };
    output.resize(sizeof(header));
    for (Section &section : llvm::drop_begin(sections)) {
      alignTo(std::max<uint64_t>(1, section.header.sh_addralign));
      section.header.sh_offset = output.size();
      if (section.header.sh_type != llvm::ELF::SHT_NOBITS)
        section.header.sh_size = section.contents.size();
      output.append(section.contents.begin(), section.contents.end());
    }
    alignTo(alignof(uint64_t));
    header.e_shoff = output.size();
    header.e_shnum = sections.size();
    header.e_shstrndx = names;
    for (const Section &section : sections)
      llvm::append_range(output, bytesOf(ArrayRef(section.header)));
    llvm::copy(bytesOf(ArrayRef(header)), output.begin());
  }
};

} // namespace

void mergeObjects(ArrayRef<SmallVector<char, 0>> objects, SmallVectorImpl<char> &output) {
  Merger().merge(objects, output);
}

} // namespace mlir::dsc
