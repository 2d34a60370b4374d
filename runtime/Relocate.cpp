//===- Relocate.cpp - Relocations of x86-64 and AArch64 -------------------===//
//
// What LLVM emits for position independent code in the small code model (ELF
// for the x86-64 psABI 1.0, 4.4; ELF for the Arm 64-bit architecture, 5.7).
//
//===----------------------------------------------------------------------===//

#include "runtime/Loader.h"

using namespace dsc_rt;

RelocationType dsc_rt::classify(uint32_t type) {
  if (kMachine == EM_X86_64) {
    switch (type) {
    case R_X86_64_NONE:
      return {Ignored, 0};
    case R_X86_64_64:
    case R_X86_64_PC64:
      return {Direct, 8};
    case R_X86_64_PC32:
    case R_X86_64_PLT32:
      return {Call, 4};
    case R_X86_64_GOTPCREL:
    case R_X86_64_GOTPCRELX:
    case R_X86_64_REX_GOTPCRELX:
      return {ThroughGot, 4};
    case R_X86_64_32:
    case R_X86_64_32S:
      return {NotPic, 4};
    }
    return {Unsupported, 0};
  }
  switch (type) {
  case R_AARCH64_NONE:
    return {Ignored, 0};
  case R_AARCH64_ABS64:
  case R_AARCH64_PREL64:
    return {Direct, 8};
  case R_AARCH64_PREL32:
  case R_AARCH64_ADR_PREL_PG_HI21:
  case R_AARCH64_ADD_ABS_LO12_NC:
  case R_AARCH64_LDST8_ABS_LO12_NC:
  case R_AARCH64_LDST16_ABS_LO12_NC:
  case R_AARCH64_LDST32_ABS_LO12_NC:
  case R_AARCH64_LDST64_ABS_LO12_NC:
  case R_AARCH64_LDST128_ABS_LO12_NC:
    return {Direct, 4};
  case R_AARCH64_CALL26:
  case R_AARCH64_JUMP26:
    return {Call, 4};
  case R_AARCH64_ADR_GOT_PAGE:
  case R_AARCH64_LD64_GOT_LO12_NC:
    return {ThroughGot, 4};
  case R_AARCH64_ABS32:
    return {NotPic, 4};
  }
  return {Unsupported, 0};
}

namespace {

/// Sets the immediate of an AArch64 ADRP to the page distance `pages`.
uint32_t encodeAdrp(uint32_t instruction, int64_t pages) {
  uint32_t low = pages & 3, high = (pages >> 2) & 0x7ffff;
  return (instruction & ~(3u << 29 | 0x7ffffu << 5)) | low << 29 | high << 5;
}

/// Sets the 12-bit unsigned immediate of an AArch64 ADD, LDR or STR.
uint32_t encodeImm12(uint32_t instruction, uint32_t immediate) {
  return (instruction & ~(0xfffu << 10)) | (immediate & 0xfff) << 10;
}

template <typename T> void write(uint8_t *place, T value) { memcpy(place, &value, sizeof(value)); }

bool fitsSigned(int64_t value, int bits) {
  return value >= -(int64_t(1) << (bits - 1)) && value < (int64_t(1) << (bits - 1));
}

} // namespace

bool Loader::planRelocation(const Section &relocations, const Elf64_Rela &entry) {
  const Section &target = sections[relocations.header.sh_info];
  uint32_t type = ELF64_R_TYPE(entry.r_info);
  uint64_t index = ELF64_R_SYM(entry.r_info);
  if (index >= symbolCount)
    return fail("a relocation refers to symbol %llu of %llu", (unsigned long long)index,
                (unsigned long long)symbolCount);
  Symbol &symbol = symbols[index];
  RelocationType info = classify(type);
  if (info.kind == Ignored)
    return true;
  if (info.kind == NotPic)
    return fail("relocation type %u against \"%s\" needs a 32-bit address: "
                "compile position independent code (PIC)",
                type, symbol.name);
  if (info.kind == Unsupported)
    return fail("relocation type %u against \"%s\" is not supported on %s", type, symbol.name, machineName(kMachine));
  if (target.header.sh_type == SHT_NOBITS)
    return fail("a relocation writes to section %u, which has no contents", relocations.header.sh_info);
  if (entry.r_offset > target.header.sh_size || info.bytes > target.header.sh_size - entry.r_offset)
    return fail("a relocation writes %u bytes at byte %llu of section %u, "
                "which has %llu",
                info.bytes, (unsigned long long)entry.r_offset, relocations.header.sh_info,
                (unsigned long long)target.header.sh_size);
  uint16_t home = symbol.entry.st_shndx;
  if (home != SHN_UNDEF && home != SHN_ABS && sections[home].region == NotLoaded)
    return fail("a relocation refers to \"%s\" in section %u, which is not "
                "loaded",
                symbol.name, home);
  symbol.needed = true;
  // A runtime function may be farther away than a 32-bit displacement
  // reaches, so calls go through a stub that reads the GOT.
  bool needsStub = info.kind == Call && home == SHN_UNDEF;
  if (symbol.got < 0 && (info.kind == ThroughGot || needsStub))
    symbol.got = gotSlots++;
  if (symbol.stub < 0 && needsStub)
    symbol.stub = stubs++;
  return true;
}

bool Loader::outOfReach(const Symbol &symbol, const Elf64_Rela &entry) {
  return fail("relocation type %u against \"%s\" does not reach its target", unsigned(ELF64_R_TYPE(entry.r_info)),
              symbol.name);
}

/// The address a relocation computes with: its symbol's, GOT slot's or stub's,
/// plus the addend. Unsigned, so that a damaged addend wraps.
uint64_t Loader::targetOf(const Symbol &symbol, const Elf64_Rela &entry) const {
  Kind kind = classify(ELF64_R_TYPE(entry.r_info)).kind;
  uint64_t target = symbol.address;
  if (kind == ThroughGot)
    target = addressOf(gotOffset + symbol.got * sizeof(uint64_t));
  else if (kind == Call && symbol.stub >= 0)
    target = addressOf(stubOffset + symbol.stub * kStubSize);
  return target + entry.r_addend;
}

/// Writes a jump to the address in a GOT slot; both are offsets in the image.
void Loader::writeStub(uint64_t stub, uint64_t slot) {
  uint8_t *out = image + stub;
  if (kMachine == EM_X86_64) {
    memset(out, 0xcc, kStubSize); // int3
    auto distance = static_cast<int32_t>(slot - (stub + 6));
    out[0] = 0xff; // jmp *distance(%rip)
    out[1] = 0x25;
    memcpy(out + 2, &distance, sizeof(distance));
    return;
  }
  uint64_t from = addressOf(stub), to = addressOf(slot);
  auto pages = static_cast<int64_t>((to >> 12) - (from >> 12));
  const uint32_t code[4] = {
      encodeAdrp(0x90000010, pages),              // adrp x16, slot
      encodeImm12(0xf9400211, (to & 0xfff) >> 3), // ldr x17, [x16, :lo12:slot]
      0xd61f0220,                                 // br x17
      0xd503201f,                                 // nop
  };
  memcpy(out, code, sizeof(code));
}

bool Loader::relocateX86(const Symbol &symbol, uint8_t *place, const Elf64_Rela &entry) {
  uint64_t target = targetOf(symbol, entry);
  auto at = reinterpret_cast<uint64_t>(place);
  uint32_t type = ELF64_R_TYPE(entry.r_info);
  if (type == R_X86_64_64) {
    write<uint64_t>(place, target);
  } else if (type == R_X86_64_PC64) {
    write<uint64_t>(place, target - at);
  } else {
    auto distance = static_cast<int64_t>(target - at);
    if (!fitsSigned(distance, 32))
      return outOfReach(symbol, entry);
    write<int32_t>(place, static_cast<int32_t>(distance));
  }
  return true;
}

bool Loader::relocateAArch64(const Symbol &symbol, uint8_t *place, const Elf64_Rela &entry) {
  uint64_t target = targetOf(symbol, entry);
  auto at = reinterpret_cast<uint64_t>(place);
  uint32_t type = ELF64_R_TYPE(entry.r_info);
  auto distance = static_cast<int64_t>(target - at);
  uint32_t instruction;
  memcpy(&instruction, place, sizeof(instruction));
  // log2 of the access size, by which a load's or store's immediate is scaled.
  unsigned scale = 0;
  switch (type) {
  case R_AARCH64_ABS64:
    write<uint64_t>(place, target);
    return true;
  case R_AARCH64_PREL64:
    write<int64_t>(place, distance);
    return true;
  case R_AARCH64_PREL32:
    if (!fitsSigned(distance, 32))
      return outOfReach(symbol, entry);
    write<int32_t>(place, static_cast<int32_t>(distance));
    return true;
  case R_AARCH64_CALL26:
  case R_AARCH64_JUMP26:
    if (!fitsSigned(distance, 28) || (distance & 3))
      return outOfReach(symbol, entry);
    write<uint32_t>(place, (instruction & 0xfc000000) | ((distance >> 2) & 0x03ffffff));
    return true;
  case R_AARCH64_ADR_PREL_PG_HI21:
  case R_AARCH64_ADR_GOT_PAGE: {
    auto pages = static_cast<int64_t>((target >> 12) - (at >> 12));
    if (!fitsSigned(pages, 21))
      return outOfReach(symbol, entry);
    write<uint32_t>(place, encodeAdrp(instruction, pages));
    return true;
  }
  case R_AARCH64_LDST128_ABS_LO12_NC:
    scale = 4;
    break;
  case R_AARCH64_LDST64_ABS_LO12_NC:
  case R_AARCH64_LD64_GOT_LO12_NC:
    scale = 3;
    break;
  case R_AARCH64_LDST32_ABS_LO12_NC:
    scale = 2;
    break;
  case R_AARCH64_LDST16_ABS_LO12_NC:
    scale = 1;
    break;
  default: // ADD and 8-bit accesses
    break;
  }
  uint32_t low = target & 0xfff;
  if (low & ((1u << scale) - 1))
    return fail("relocation type %u against \"%s\" is misaligned: byte %u of "
                "its page",
                type, symbol.name, low);
  write<uint32_t>(place, encodeImm12(instruction, low >> scale));
  return true;
}

bool Loader::relocate() {
  for (uint64_t i = 0; i < sectionCount; ++i) {
    const Section &section = sections[i];
    if (!isRelocationOfLoaded(section))
      continue;
    const Section &target = sections[section.header.sh_info];
    for (uint64_t r = 0; r < section.header.sh_size / sizeof(Elf64_Rela); ++r) {
      Elf64_Rela entry = relocation(section, r);
      if (classify(ELF64_R_TYPE(entry.r_info)).kind == Ignored)
        continue;
      Symbol &symbol = symbols[ELF64_R_SYM(entry.r_info)];
      uint8_t *place = image + target.offset + entry.r_offset;
      bool ok = kMachine == EM_X86_64 ? relocateX86(symbol, place, entry) : relocateAArch64(symbol, place, entry);
      if (!ok)
        return false;
    }
  }
  return true;
}
