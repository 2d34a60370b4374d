"""The ELF loader: relocations, the closed list of externals, damaged objects, memory protection."""

from __future__ import annotations

import ctypes
import os
import platform
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from deepseek import runtime
from deepseek.errors import ExecutionError

CompileC = Callable[..., bytes]
IS_X86 = platform.machine() == "x86_64"
SOURCES = Path(__file__).parents[2] / "runtime"

# Global data through the GOT, calls through the PLT, pointers in data (64-bit relocations), a jump table and
# floating-point constants in read-only data, zero-initialized data.
RICH = """
extern void dsc_rt_launch(void *, void (*)(void *const *, const int64_t *, int64_t, int64_t), void *const *,
                          const int64_t *, int64_t, int32_t);
extern void *dsc_rt_arena(void *, int64_t);
int32_t counter = 40;
int32_t zeros[1000];
static const char *const words[] = {"zero", "one", "two"};
const char *const *exported_words = words;
__attribute__((noinline)) int32_t bump(int32_t by) { return counter += by; }
int32_t (*bump_pointer)(int32_t) = bump;
int32_t call_all(void) { return bump(1) + bump_pointer(1) + zeros[999]; }
char letter(int32_t i) { return exported_words[i][0]; }
double scale(double x) { return x * 3.25 + 0.1; }
int64_t choose(int64_t i) {
  switch (i) {
  case 0: return bump(0);
  case 1: return (int64_t)letter(1);
  case 2: return i * 77;
  case 3: return (int64_t)scale((double)i);
  case 4: return zeros[i] - 9;
  case 5: return i ^ 1234567;
  default: return -1;
  }
}
void *address_of_launch(void) { return (void *)dsc_rt_launch; }
static void square(void *const *buffers, const int64_t *dims, int64_t begin, int64_t end) {
  for (int64_t i = begin; i < end; ++i) {
    ((int64_t *)buffers[0])[i] = i * i + dims[0];
  }
}
int32_t dsc_main(void *rt, void *const *buffers, const int64_t *dims) {
  if (!dsc_rt_arena(rt, 100)) return 1;
  dsc_rt_launch(rt, square, buffers, dims, dims[1], 0);
  return 0;
}
"""


@pytest.fixture(scope="module")
def rich(compile_c: CompileC) -> bytes:
    return compile_c(RICH)


def call(module: runtime.Module, name: str, result: type, *arguments: object) -> object:
    return ctypes.CFUNCTYPE(result, *map(type, arguments))(module.symbol(name))(*arguments)


def test_data_got_plt_and_jump_tables(rich: bytes) -> None:
    module = runtime.Module(rich)
    assert call(module, "call_all", ctypes.c_int32) == 41 + 42
    assert call(module, "letter", ctypes.c_char, ctypes.c_int32(2)) == b"t"
    assert call(module, "scale", ctypes.c_double, ctypes.c_double(2.0)) == 2.0 * 3.25 + 0.1
    chosen = [call(module, "choose", ctypes.c_int64, ctypes.c_int64(i)) for i in range(7)]
    assert chosen == [42, ord("o"), 154, 9, -9, 5 ^ 1234567, -1]
    assert ctypes.c_int32.from_address(module.symbol("counter")).value == 42


def test_two_copies_share_no_data(rich: bytes) -> None:
    first, second = runtime.Module(rich), runtime.Module(rich)
    assert call(first, "bump", ctypes.c_int32, ctypes.c_int32(5)) == 45
    assert call(second, "bump", ctypes.c_int32, ctypes.c_int32(0)) == 40


def test_loaded_code_launches_on_the_pool(rich: bytes) -> None:
    module, context = runtime.Module(rich), runtime.Context(2)
    out = np.zeros(1000, np.int64)
    buffers, dims = (ctypes.c_void_p * 1)(out.ctypes.data), (ctypes.c_int64 * 2)(7, 1000)
    main = ctypes.CFUNCTYPE(ctypes.c_int32, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p)
    assert main(module.symbol("dsc_main"))(context.handle, buffers, dims) == 0
    np.testing.assert_array_equal(out, np.arange(1000) ** 2 + 7)


def test_externals_are_the_librarys_own(rich: bytes) -> None:
    library = ctypes.CDLL(str(runtime._LIBRARY))
    expected = ctypes.cast(library.dsc_rt_launch, ctypes.c_void_p).value
    assert call(runtime.Module(rich), "address_of_launch", ctypes.c_void_p) == expected


def test_unknown_symbol_is_named_on_lookup(rich: bytes) -> None:
    with pytest.raises(ExecutionError, match='does not define "nowhere"'):
        runtime.Module(rich).symbol("nowhere")
    with pytest.raises(ExecutionError, match='"square"'):  # static
        runtime.Module(rich).symbol("square")


@pytest.mark.parametrize(
    "source",
    [
        "extern int puts(const char *); int f(void) { return puts(0); }",
        "extern int puts(const char *); void *f(void) { return (void *)puts; }",
        "extern int puts(const char *); void *table[] = {(void *)puts};",
    ],
)
def test_other_externals_are_refused_by_name(compile_c: CompileC, source: str) -> None:
    with pytest.raises(ExecutionError, match='undefined symbol "puts": an object may use only dsc_rt_launch'):
        runtime.Module(compile_c(source))


@pytest.mark.parametrize(
    ("source", "flags", "message"),
    [
        ("_Thread_local int x = 3; int f(void) { return x; }", ["-fPIC"], "thread local"),
        ("__attribute__((constructor)) void f(void) {}", [], "constructors"),
        ("int x;", ["-fcommon"], '"x" is a common symbol: compile with -fno-common'),
        pytest.param(
            "int x[9]; int f(long i) { return x[i]; }",
            ["-fno-pic", "-mcmodel=small"],
            'against "x" needs a 32-bit address: compile position independent code',
            marks=pytest.mark.skipif(not IS_X86, reason="x86-64 relocations"),
        ),
    ],
)
def test_unsupported_objects(compile_c: CompileC, source: str, flags: list[str], message: str) -> None:
    with pytest.raises(ExecutionError, match=message):
        runtime.Module(compile_c(source, *flags))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda elf: elf[:63], "an ELF header takes 64 bytes, got 63"),
        (lambda elf: b"\x7fELG" + elf[4:], "not a little-endian ELF64 file"),
        (lambda elf: elf[:16] + b"\x03\x00" + elf[18:], "must be relocatable .* got type 3"),
        (
            lambda elf: elf[:18] + b"\x28\x00" + elf[20:],
            "object is for unknown .machine 40., this machine is",
        ),
        (lambda elf: elf[:-1], "truncated: [0-9]+ section headers at byte"),
        (lambda elf: elf[:60] + b"\x00\x00" + elf[62:], "no symbol table"),
        (lambda elf: elf[:58] + b"\x20\x00" + elf[60:], "section headers must take 64 bytes, got 32"),
    ],
)
def test_damaged_headers(rich: bytes, change: Callable[[bytes], bytes], message: str) -> None:
    with pytest.raises(ExecutionError, match=message):
        runtime.Module(change(rich))


def section_headers(elf: bytes) -> list[tuple[int, int, int, int]]:
    """(position of the header, sh_type, sh_offset, sh_size) of every section."""
    start, count = struct.unpack_from("<Q", elf, 40)[0], struct.unpack_from("<H", elf, 60)[0]
    positions = [start + 64 * i for i in range(count)]
    return [(at, *struct.unpack_from("<I", elf, at + 4), *struct.unpack_from("<QQ", elf, at + 24)) for at in positions]


def patched(elf: bytes, at: int, format: str, value: int) -> bytes:
    copy = bytearray(elf)
    struct.pack_into(format, copy, at, value)
    return bytes(copy)


def test_damaged_tables(rich: bytes) -> None:
    symtab, rela, nobits, progbits = 2, 4, 8, 1
    headers = section_headers(rich)
    first = {kind: next(h for h in headers if h[1] == kind and h[3] > 0) for kind in (symtab, rela, nobits)}
    code = next(h for h in headers if h[1] == progbits and struct.unpack_from("<Q", rich, h[0] + 8)[0] & 4 and h[3])
    symbols, relocations = first[symtab][2], first[rela][2]
    function = next(
        symbols + 24 * i for i in range(first[symtab][3] // 24) if rich[symbols + 24 * i + 4] & 15 == 2
    )  # fmt: skip
    cases = [
        (patched(rich, code[0] + 32, "<Q", 1 << 63), "section .* covers 9223372036854775808 bytes"),
        (patched(rich, code[0] + 48, "<Q", 3), "alignment 3: must be a power of two"),
        (patched(rich, code[0] + 48, "<Q", 1 << 20), "alignment 1048576"),
        (patched(rich, code[0] + 8, "<Q", 7), "both writable and executable"),
        (patched(rich, first[nobits][0] + 32, "<Q", 1 << 40), "takes 1099511627776 bytes"),
        (patched(rich, first[symtab][0] + 40, "<I", 9999), "section 9999 as its strings"),
        (patched(rich, first[symtab][0] + 56, "<Q", 23), "symbols must take 24 bytes, got 23"),
        (patched(rich, first[rela][0] + 56, "<Q", 16), "relocations must take 24 bytes, got 16"),
        (patched(rich, function, "<I", 1 << 30), "the name of symbol"),
        (patched(rich, function + 6, "<H", 60000), "is in section 60000"),
        (patched(rich, function + 8, "<Q", 1 << 40), "is at byte 1099511627776 of a section"),
        (patched(rich, relocations, "<Q", 1 << 40), "writes . bytes at byte 1099511627776"),
        (patched(rich, relocations + 12, "<I", 1 << 24), "refers to symbol 16777216"),
        (patched(rich, relocations + 8, "<I", 199), "relocation type 199 .* is not supported"),
    ]
    for elf, message in cases:
        with pytest.raises(ExecutionError, match=message):
            runtime.Module(elf)


def test_message_is_cut_to_its_buffer(rich: bytes) -> None:
    library = ctypes.CDLL(str(runtime._LIBRARY))
    library.dsc_rt_load.restype = ctypes.c_void_p
    message = ctypes.create_string_buffer(b"x" * 15)
    assert library.dsc_rt_load(b"", ctypes.c_size_t(0), message, ctypes.c_size_t(8)) is None
    assert message.raw == b"object \x00" + b"x" * 7 + b"\x00"
    assert library.dsc_rt_load(b"", ctypes.c_size_t(0), None, ctypes.c_size_t(0)) is None


def test_truncation_gives_a_message(rich: bytes) -> None:
    for length in range(0, len(rich), 97):
        with pytest.raises(ExecutionError, match="cannot load compiled code: .{10}"):
            runtime.Module(rich[:length])


def test_mutations_never_crash(rich: bytes, tmp_path: Path, run_python: Callable) -> None:
    # Two thirds of the cases damage only the tables, where a loader goes wrong; the seed makes it repeatable.
    (tmp_path / "rich.o").write_bytes(rich)
    script = """
import pathlib, random, struct
from deepseek import runtime
from deepseek.errors import ExecutionError

rich = pathlib.Path("rich.o").read_bytes()
headers = struct.unpack_from("<Q", rich, 40)[0]
kinds = {1: "code", 2: "symbols", 3: "strings", 4: "relocations"}
tables = [range(0, 64), range(headers, len(rich))]
for at in range(headers, len(rich), 64):
    kind, offset, size = *struct.unpack_from("<I", rich, at + 4), *struct.unpack_from("<QQ", rich, at + 24)
    if kinds.get(kind) in ("symbols", "relocations"):
        tables.append(range(offset, offset + size))
random.seed(2)
loaded = 0
for case in range(500):
    elf = bytearray(rich)
    for _ in range(random.choice((1, 1, 2, 8))):
        at = random.choice(random.choice(tables)) if case % 3 else random.randrange(len(rich))
        elf[at] = random.choice((0, 1, 0x7f, 0x80, 0xff, random.randrange(256)))
    try:
        runtime.Module(bytes(elf))
        loaded += 1
    except ExecutionError as error:
        assert len(str(error)) > len("cannot load compiled code: "), case
print("done", 0 < loaded < 500)
"""
    result = run_python(script)
    assert result.returncode == 0, result.stderr
    assert result.stdout == "done True\n"


def test_code_is_not_writable_and_data_not_executable(rich: bytes) -> None:
    module = runtime.Module(rich)
    protections = {}
    for line in Path("/proc/self/maps").read_text().splitlines():
        span, mode = line.split()[:2]
        begin, end = (int(part, 16) for part in span.split("-"))
        for name in ("dsc_main", "counter", "zeros"):
            if begin <= module.symbol(name) < end:
                protections[name] = mode
    assert protections == {"dsc_main": "r-xp", "counter": "rw-p", "zeros": "rw-p"}


def test_unload_unmaps(rich: bytes) -> None:
    for _ in range(3):
        runtime.Module(rich)
    before = len(Path("/proc/self/maps").read_text().splitlines())
    for _ in range(50):
        runtime.Module(rich)
    others = 25 if "ASAN_OPTIONS" in os.environ else 5  # mappings of the process itself: AddressSanitizer adds some
    assert len(Path("/proc/self/maps").read_text().splitlines()) <= before + others


AARCH64 = """
  .text
  .globl entry, near
  .type entry,%function
  .type near,%function
near: ret
entry:
  adrp x0, bytes
  add x0, x0, :lo12:bytes
  ldrb w1, [x0, :lo12:bytes]
  ldrh w1, [x0, :lo12:halves]
  ldr w1, [x0, :lo12:words]
  ldr x1, [x0, :lo12:longs]
  ldr q1, [x0, :lo12:quads]
  adrp x2, :got:dsc_rt_launch
  ldr x2, [x2, :got_lo12:dsc_rt_launch]
  bl dsc_rt_arena
  b near
  .section .other,"ax",%progbits
  .globl far
  .type far,%function
far: bl near
  .data
  .balign 16
  .space 48
  .globl quads, longs, words, halves, bytes, tables
  .type quads,%object
  .type longs,%object
  .type words,%object
  .type halves,%object
  .type bytes,%object
  .type tables,%object
quads: .space 16
longs: .space 8
words: .space 4
halves: .space 2
bytes: .space 2
tables: .xword entry + 8
  .word near - . + 0
  .word 0
  .xword near - .
"""


def test_aarch64_relocations(assemble: Callable[[str, str], bytes], tmp_path: Path) -> None:
    # The same sources, told to accept AArch64 objects: the code is decoded here, never run.
    command = ["g++", "-std=c++17", "-shared", "-fPIC", "-fno-exceptions", "-fno-rtti", "-DDSC_RT_BUILD"]
    command += ["-DDSC_RT_LOADER_MACHINE=183", f"-I{SOURCES.parent}", "-o", str(tmp_path / "libloader.so")]
    subprocess.run([*command, *map(str, sorted(SOURCES.glob("*.cpp"))), "-pthread"], check=True)
    library = ctypes.CDLL(str(tmp_path / "libloader.so"))
    library.dsc_rt_load.restype = library.dsc_rt_symbol.restype = ctypes.c_void_p
    elf, message = assemble("aarch64-linux-gnu", AARCH64), ctypes.create_string_buffer(200)
    module = ctypes.c_void_p(library.dsc_rt_load(elf, ctypes.c_size_t(len(elf)), message, ctypes.c_size_t(200)))
    assert module.value, message.value

    def symbol(name: str) -> int:
        return library.dsc_rt_symbol(module, name.encode())

    def read(address: int, format: str) -> int:
        return struct.unpack(format, ctypes.string_at(address, struct.calcsize(format)))[0]

    def signed(value: int, bits: int) -> int:
        return value - (1 << bits) if value >> (bits - 1) else value

    def adrp(at: int) -> int:
        instruction = read(at, "<I")
        assert instruction & 0x9F000000 == 0x90000000
        pages = signed((instruction >> 5 & 0x7FFFF) << 2 | instruction >> 29 & 3, 21)
        return (at & ~0xFFF) + pages * 4096

    def low12(at: int, scale: int) -> int:
        return (read(at, "<I") >> 10 & 0xFFF) * scale

    def branch(at: int) -> int:
        return at + 4 * signed(read(at, "<I") & 0x3FFFFFF, 26)

    entry = symbol("entry")
    assert adrp(entry) + low12(entry + 4, 1) == symbol("bytes")
    for index, (name, scale) in enumerate(
        [("bytes", 1), ("halves", 2), ("words", 4), ("longs", 8), ("quads", 16)], start=2
    ):
        assert low12(entry + 4 * index, scale) == symbol(name) & 0xFFF, name
    launch = ctypes.cast(library.dsc_rt_launch, ctypes.c_void_p).value
    assert read(adrp(entry + 28) + low12(entry + 32, 8), "<Q") == launch
    stub = branch(entry + 36)
    arena = ctypes.cast(library.dsc_rt_arena, ctypes.c_void_p).value
    assert read(adrp(stub) + low12(stub + 4, 8), "<Q") == arena
    assert read(stub, "<I") & 31 == 16  # adrp x16
    assert read(stub + 4, "<I") & ~(0xFFF << 10) == 0xF9400211  # ldr x17, [x16]
    assert read(stub + 8, "<I") == 0xD61F0220  # br x17
    assert branch(entry + 40) == symbol("near")
    assert branch(symbol("far")) == symbol("near")
    tables = symbol("tables")
    assert read(tables, "<Q") == entry + 8
    assert tables + 8 + read(tables + 8, "<i") == symbol("near")
    assert tables + 16 + read(tables + 16, "<q") == symbol("near")
    library.dsc_rt_unload(module)


def test_foreign_machine_is_named(assemble: Callable[[str, str], bytes]) -> None:
    triple, name = ("aarch64-linux-gnu", "AArch64") if IS_X86 else ("x86_64-linux-gnu", "x86-64")
    with pytest.raises(ExecutionError, match=f"object is for {name} .* compile it for this target"):
        runtime.Module(assemble(triple, ".text\nnop\n"))
