"""Kernels for instructions that this machine need not have: they run with those instructions spelled out."""

from __future__ import annotations

import functools
import json
import re
from typing import Any

from deepseek import compiler
from deepseek.executable import Executable

__all__ = ["AVX512_BF16", "AVX512_VNNI", "SPELLED_OUT", "to_assembly", "to_executable", "to_schedule"]

AVX512_VNNI, AVX512_BF16 = "AVX-512 with VNNI, spelled out", "AVX-512 with BF16, spelled out"
SPELLED_OUT = {AVX512_VNNI: ",+avx512vnni", AVX512_BF16: ",+avx512vnni,+avx512bf16"}
_FEATURES = (
    "+sse3,+ssse3,+sse4.1,+sse4.2,+popcnt,+avx,+avx2,+fma,+f16c,+bmi,+bmi2,+lzcnt,+movbe"
    ",+avx512f,+avx512bw,+avx512cd,+avx512dq,+avx512vl"
)


def _numbers(first: int, step: int, count: int) -> str:
    return "[" + ", ".join(str(first + step * i) for i in range(count)) + "]"


def _dot(name: str, element: str, count: int, left: str) -> str:
    """Sums of products of `count` neighbours that fill 32 bits (Intel SDM, VPDPWSSD, VPDPBUSD)."""
    narrow, wide, sums = f"vector<{16 * count}x{element}>", f"vector<{16 * count}xi32>", "vector<16xi32>"
    text = f"""llvm.func internal @{name}(%0: {sums}, %a: {narrow}, %b: {narrow}) -> {sums} {{
      %l = llvm.{left} %a : {narrow} to {wide}
      %r = llvm.sext %b : {narrow} to {wide}
      %p = llvm.mul %l, %r : {wide}\n"""
    for i in range(count):
        text += f"      %q{i} = llvm.shufflevector %p, %p {_numbers(i, count, 16)} : {wide}\n"
        text += f"      %{i + 1} = llvm.add %{i}, %q{i} : {sums}\n"
    return text + f"      llvm.return %{count} : {sums}\n    }}\n"


def _permute(name: str, element: str) -> str:
    """Elements of a table, numbered by the low four bits of each index (VPERMPS, VPERMD)."""
    table = f"vector<16x{element}>"
    text = f"""llvm.func internal @{name}(%t: {table}, %i: vector<16xi32>) -> {table} {{
      %m = llvm.mlir.constant(15 : i32) : i32
      %r0 = llvm.mlir.undef : {table}\n"""
    for lane in range(16):
        text += f"""      %n{lane} = llvm.mlir.constant({lane} : i32) : i32
      %i{lane} = llvm.extractelement %i[%n{lane} : i32] : vector<16xi32>
      %j{lane} = llvm.and %i{lane}, %m : i32
      %v{lane} = llvm.extractelement %t[%j{lane} : i32] : {table}
      %r{lane + 1} = llvm.insertelement %v{lane}, %r{lane}[%n{lane} : i32] : {table}\n"""
    return text + f"      llvm.return %r16 : {table}\n    }}\n"


_ROUNDED = """llvm.func internal @cvtps2dq(%x: vector<16xf32>, %o: vector<16xi32>, %m: i16, %r: i32) -> vector<16xi32> {
      %a = llvm.shufflevector %x, %x [0, 1, 2, 3, 4, 5, 6, 7] : vector<16xf32>
      %b = llvm.shufflevector %x, %x [8, 9, 10, 11, 12, 13, 14, 15] : vector<16xf32>
      %c = llvm.call_intrinsic "llvm.x86.avx.cvt.ps2dq.256"(%a) : (vector<8xf32>) -> vector<8xi32>
      %d = llvm.call_intrinsic "llvm.x86.avx.cvt.ps2dq.256"(%b) : (vector<8xf32>) -> vector<8xi32>
      %e = llvm.shufflevector %c, %d [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15] : vector<8xi32>
      llvm.return %e : vector<16xi32>
    }
"""
_HIGH_PRODUCT = """llvm.func internal @pmulhrsw(%a: vector<32xi16>, %b: vector<32xi16>) -> vector<32xi16> {
      %l = llvm.sext %a : vector<32xi16> to vector<32xi32>
      %r = llvm.sext %b : vector<32xi16> to vector<32xi32>
      %p = llvm.mul %l, %r : vector<32xi32>
      %h = llvm.mlir.constant(dense<16384> : vector<32xi32>) : vector<32xi32>
      %n = llvm.mlir.constant(dense<15> : vector<32xi32>) : vector<32xi32>
      %s = llvm.add %p, %h : vector<32xi32>
      %q = llvm.ashr %s, %n : vector<32xi32>
      %w = llvm.trunc %q : vector<32xi32> to vector<32xi16>
      llvm.return %w : vector<32xi16>
    }
"""
# Of 32 bits each, an upper and a lower bf16 (VDPBF16PS, but for small numbers, which that takes as zeros).
_BF16_DOT = """llvm.func internal @vdpbf16ps(%0: vector<16xf32>, %a: vector<16xi32>, %b: vector<16xi32>) -> vector<16xf32> {
      %m = llvm.mlir.constant(dense<-65536> : vector<16xi32>) : vector<16xi32>
      %n = llvm.mlir.constant(dense<16> : vector<16xi32>) : vector<16xi32>
      %p = llvm.and %a, %m : vector<16xi32>
      %q = llvm.and %b, %m : vector<16xi32>
      %r = llvm.shl %a, %n : vector<16xi32>
      %s = llvm.shl %b, %n : vector<16xi32>
      %t = llvm.bitcast %p : vector<16xi32> to vector<16xf32>
      %u = llvm.bitcast %q : vector<16xi32> to vector<16xf32>
      %v = llvm.bitcast %r : vector<16xi32> to vector<16xf32>
      %w = llvm.bitcast %s : vector<16xi32> to vector<16xf32>
      %1 = llvm.intr.fma(%t, %u, %0) : (vector<16xf32>, vector<16xf32>, vector<16xf32>) -> vector<16xf32>
      %2 = llvm.intr.fma(%v, %w, %1) : (vector<16xf32>, vector<16xf32>, vector<16xf32>) -> vector<16xf32>
      llvm.return %2 : vector<16xf32>
    }
"""
# What LLVM calls each instruction, how it is called here, and what it computes.
_INSTRUCTIONS = (
    ("llvm.x86.avx512.vpdpwssd.512", "vpdpwssd", _dot("vpdpwssd", "i16", 2, "sext")),
    ("llvm.x86.avx512.vpdpbusd.512", "vpdpbusd", _dot("vpdpbusd", "i8", 4, "zext")),
    ("llvm.x86.avx512.permvar.sf.512", "vpermps", _permute("vpermps", "f32")),
    ("llvm.x86.avx512.permvar.si.512", "vpermd", _permute("vpermd", "i32")),
    ("llvm.x86.avx512.mask.cvtps2dq.512", "cvtps2dq", _ROUNDED),
    ("llvm.x86.avx512.pmul.hr.sw.512", "pmulhrsw", _HIGH_PRODUCT),
    ("llvm.x86.avx512bf16.dpbf16ps.512", "vdpbf16ps", _BF16_DOT),
)


def to_schedule(text: str, target: str) -> str:
    """A module at the end of the phase `schedule`. `target`: as everywhere, or of `SPELLED_OUT`."""
    if target not in SPELLED_OUT:
        return compiler.lower_text(text, target=target, to_phase="schedule")
    with compiler._parsed(_for_avx512(text, target), "module") as (module, diagnostics):
        _lower(module, "schedule", diagnostics)
        return str(module)


def to_assembly(text: str, target: str) -> str:
    """Assembly of a module, which this machine may be unable to run."""
    if target not in SPELLED_OUT:
        return compiler.assembly(text, target=target)
    with compiler._parsed(_for_avx512(text, target), "module") as (module, diagnostics):
        _lower(module, "llvm", diagnostics)
        return compiler._bindings()[1].emit_assembly(module)


def to_executable(text: str, target: str, threads: int = 1) -> Executable:
    """A module that runs here; of `SPELLED_OUT`, with instructions spelled out."""
    if target not in SPELLED_OUT:
        code = compiler.compile_text(text, target=target)
        return Executable(code.object, code.manifest, threads=threads)
    code, manifest = _spelled_out(text, target)
    contents = json.loads(manifest)
    contents["features"] = [feature for feature in contents["features"] if "avx512" not in feature]
    return Executable(code, contents, threads=threads)


@functools.lru_cache(4)
def _spelled_out(text: str, target: str) -> tuple[bytes, str]:
    with compiler._parsed(_for_avx512(text, target), "module") as (module, diagnostics):
        _lower(module, "llvm", diagnostics)
        text = str(module)
    functions = ""
    for intrinsic, name, function in _INSTRUCTIONS:
        text, count = re.subn(rf'llvm\.call_intrinsic "{re.escape(intrinsic)}"', f"llvm.call @{name}", text)
        functions += function if count else ""
    text = re.sub(r",\+avx512\w+", "", text.replace('cpu = "x86-64-v4"', 'cpu = "x86-64-v3"'))
    if "@vdpbf16ps" in text:  # functions have no arguments of bf16
        text = text.replace("vector<32xbf16>", "vector<16xi32>")
    assert functions
    assert "x86.avx512" not in text
    end = text.rindex("}")
    with compiler._parsed(text[:end] + functions + text[end:], "module") as (module, _):
        return compiler._bindings()[1].emit_object(module)


def _for_avx512(text: str, target: str) -> str:
    if "#dsc.target" in text:
        return text
    attribute = (
        '#dsc.target<"cpu:x86-64-v4", triple = "x86_64-unknown-linux-gnu", cpu = "x86-64-v4", '
        f'features = "{_FEATURES}{SPELLED_OUT[target]}", vector_bytes = 64, vector_registers = 32, l2_bytes = 2097152>'
    )
    return text.replace("module {", f"module attributes {{dsc.target = {attribute}}} {{", 1)


def _lower(module: Any, phase: str, diagnostics: list[str]) -> None:
    ok, _ = compiler._bindings()[1].run_phases(module, "", "", phase, "", "", "", "")
    assert ok, diagnostics
