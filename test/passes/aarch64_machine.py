"""Runs objects for AArch64 in an emulator (unicorn): a linker for what our compiler writes, and the runtime's calls."""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from unicorn import UC_ARCH_ARM64, UC_MODE_ARM, Uc
from unicorn.arm64_const import UC_ARM64_REG_CPACR_EL1, UC_ARM64_REG_LR, UC_ARM64_REG_SP, UC_ARM64_REG_X0

from deepseek.compiler import Compiled

_CODE, _STUBS, _STACK, _DATA = 0x100000, 0x8000000, 0x10000000, 0x20000000
_STACK_BYTES, _DATA_BYTES, _ARENA_BYTES = 32 << 20, 128 << 20, 32 << 20
_ELF_AARCH64 = 183

# Kernels take (buffers, dims, begin, end). A launch runs all workgroups at once, a deferred one too.
_STUB_CODE = {
    # mov x9, x1; mov x0, x2; mov x1, x3; mov x2, #0; mov x3, x4; br x9
    "dsc_rt_launch": (0xAA0103E9, 0xAA0203E0, 0xAA0303E1, 0xD2800002, 0xAA0403E3, 0xD61F0120),
    # mov x9, x1; mov x0, x2; mov x1, x4; mov x2, #0; mov x3, x5; br x9
    "dsc_rt_defer": (0xAA0103E9, 0xAA0203E0, 0xAA0403E1, 0xD2800002, 0xAA0503E3, 0xD61F0120),
    # mov x0, #_DATA >> 16, lsl #16; ret
    "dsc_rt_arena": (0xD2A00000 | (_DATA >> 16) << 5, 0xD65F03C0),
}


class Machine:
    """One loaded object; `call` runs its programs."""

    def __init__(self, compiled: Compiled) -> None:
        self.manifest = compiled.manifest
        self._uc = Uc(UC_ARCH_ARM64, UC_MODE_ARM)
        self._uc.reg_write(UC_ARM64_REG_CPACR_EL1, 3 << 20)  # vector registers may be used
        for start, size in ((_CODE, 4 << 20), (_STUBS, 1 << 16), (_STACK, _STACK_BYTES), (_DATA, _DATA_BYTES)):
            self._uc.mem_map(start, size)
        self._stubs = {}
        for number, (name, words) in enumerate(_STUB_CODE.items()):
            self._stubs[name] = _STUBS + 64 * (number + 1)
            self._uc.mem_write(self._stubs[name], struct.pack(f"<{len(words)}I", *words))
        self._symbols = self._link(compiled.object)
        self._next = 0

    def _link(self, elf: bytes) -> dict[str, int]:
        assert struct.unpack_from("<H", elf, 18)[0] == _ELF_AARCH64
        (offset,) = struct.unpack_from("<Q", elf, 40)
        size, count = struct.unpack_from("<HH", elf, 58)
        # name, type, flags, address, offset, size, link, info, alignment
        sections = [struct.unpack_from("<IIQQQQIIQ", elf, offset + i * size) for i in range(count)]
        places, at = {}, _CODE
        for index, section in enumerate(sections):
            if section[2] & 2:  # is loaded
                at = -(-at // max(section[8], 1)) * max(section[8], 1)
                places[index] = at
                self._uc.mem_write(
                    at, elf[section[4] : section[4] + section[5]] if section[1] != 8 else bytes(section[5])
                )
                at += section[5]
        table = next(section for section in sections if section[1] == 2)
        names = sections[table[6]]
        addresses, symbols = [], {}
        for i in range(table[5] // 24):
            name, _, _, section, value, _ = struct.unpack_from("<IBBHQQ", elf, table[4] + 24 * i)
            start = names[4] + name
            text = elf[start : elf.index(b"\0", start)].decode()
            address = self._stubs.get(text) if section == 0 else places.get(section, 0) + value
            addresses.append(address)
            symbols[text] = address
        for section in sections:
            if section[1] == 4 and section[7] in places:  # relocations of a loaded section
                for i in range(section[5] // 24):
                    at, info, addend = struct.unpack_from("<QQq", elf, section[4] + 24 * i)
                    target = addresses[info >> 32]
                    assert target is not None, "the object calls what the runtime does not have"
                    self._relocate(places[section[7]] + at, info & 0xFFFFFFFF, target + addend)
        return symbols

    def _relocate(self, place: int, kind: int, value: int) -> None:
        """ELF for the Arm 64-bit Architecture, 5.7 (relocation types)."""
        if kind == 257:  # ABS64
            self._uc.mem_write(place, struct.pack("<Q", value))
            return
        (word,) = struct.unpack("<I", self._uc.mem_read(place, 4))
        scale = {277: 0, 278: 0, 284: 1, 285: 2, 286: 3, 299: 4}.get(kind)  # ADD and LDST{8,16,32,64,128}_ABS_LO12_NC
        if scale is not None:
            word |= (value & 0xFFF) >> scale << 10
        elif kind == 275:  # ADR_PREL_PG_HI21
            pages = (value >> 12) - (place >> 12)
            word |= (pages & 3) << 29 | (pages >> 2 & 0x7FFFF) << 5
        elif kind in (282, 283):  # JUMP26, CALL26
            word |= (value - place) >> 2 & 0x3FFFFFF
        else:
            raise NotImplementedError(f"relocation {kind}")
        self._uc.mem_write(place, struct.pack("<I", word))

    def _place(self, data: bytes) -> int:
        address = _DATA + _ARENA_BYTES + self._next
        self._next += -(-len(data) // 64) * 64 + 64
        assert self._next <= _DATA_BYTES - _ARENA_BYTES
        self._uc.mem_write(address, data)
        return address

    def _run(self, entry: str, buffers: Sequence[int], dims: Sequence[int]) -> None:
        array = self._place(struct.pack(f"<{len(buffers)}Q", *buffers))
        sizes = self._place(struct.pack(f"<{len(dims) + 1}q", *dims, 0))
        for register, value in enumerate((0, array, sizes)):
            self._uc.reg_write(UC_ARM64_REG_X0 + register, value)
        self._uc.reg_write(UC_ARM64_REG_SP, _STACK + _STACK_BYTES - 4096)
        self._uc.reg_write(UC_ARM64_REG_LR, _STUBS)
        self._uc.emu_start(self._symbols[entry], _STUBS)
        assert self._uc.reg_read(UC_ARM64_REG_X0) & 0xFFFFFFFF == 0

    def call(
        self,
        inputs: Sequence[np.ndarray],
        shapes: Sequence[tuple[int, ...]],
        dtypes: Sequence[Any],
        *,
        symbols: Mapping[str, int] | None = None,
        weights: Mapping[str, np.ndarray] | None = None,
    ) -> list[np.ndarray]:
        """Results of `dsc_main`, after `dsc_init` on `weights`; outputs begin as NaN or -1."""
        self._next = 0
        dims = [(symbols or {})[symbol["name"]] for symbol in self.manifest["symbols"]]
        prepared, init = [], self.manifest["init"]
        if init:
            sources = [self._place(weights[argument["weight"]].tobytes()) for argument in init["args"]]
            widths = {"f32": 4, "bf16": 2, "f16": 2, "i8": 1}
            prepared = [
                self._place(b"\xff" * (math.prod(result["shape"]) * widths[result["dtype"]]))
                for result in init["results"]
            ]
            self._run("dsc_init", sources + prepared, dims)
        following = iter(inputs)
        buffers = [
            self._place(next(following).tobytes()) if argument["kind"] == "input" else prepared[argument["prepared"]]
            for argument in self.manifest["main"]["args"]
        ]
        sizes = [math.prod(shape) * np.dtype(dtype).itemsize for shape, dtype in zip(shapes, dtypes, strict=True)]
        outputs = [self._place(b"\xff" * size) for size in sizes]
        self._run("dsc_main", buffers + outputs, dims)
        return [
            np.frombuffer(bytes(self._uc.mem_read(address, size)), dtype).reshape(shape)
            for address, size, shape, dtype in zip(outputs, sizes, shapes, dtypes, strict=True)
        ]
