"""Scratch memory of contexts, CPU features, and a library that does not fit."""

from __future__ import annotations

import ctypes
import platform
from collections.abc import Callable
from pathlib import Path

import pytest

from deepseek import runtime
from deepseek.errors import ExecutionError

IS_X86 = platform.machine() == "x86_64"


def arena(context: runtime.Context, size: int) -> int | None:
    return runtime._library().dsc_rt_arena(context.handle, size)


def test_arena_grows_only() -> None:
    context = runtime.Context(1)
    addresses = [arena(context, size) for size in (0, 1, 64, 100_000)]
    assert len(set(addresses)) == 1
    for size in (1 << 20, 3 << 20, 40 << 20):
        address = arena(context, size)
        assert address % 64 == 0
        ctypes.memset(address, 0xA5, size)
    assert arena(context, 5) == address
    assert ctypes.string_at(address + size - 1, 1) == b"\xa5"


@pytest.mark.parametrize("size", [-1, -(1 << 63), 1 << 50, 1 << 60, (1 << 63) - 1])
def test_arena_refuses_impossible_sizes(size: int) -> None:
    context = runtime.Context(1)
    assert arena(context, size) is None
    assert arena(context, 1 << 20) is not None


def test_arena_out_of_memory_is_survived(run_python: Callable) -> None:
    script = """
import resource
from deepseek import runtime
context = runtime.Context(1)
arena = lambda size: runtime._library().dsc_rt_arena(context.handle, size)
assert arena(64 << 20)
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (100 << 20), resource.RLIM_INFINITY))
assert arena(1 << 30) is None
assert arena(80 << 20)
print("done")
"""
    result = run_python(script)
    assert result.stdout == "done\n", result.stderr


@pytest.mark.skipif(not IS_X86, reason="/proc/cpuinfo of x86-64")
def test_cpu_features_are_those_of_the_kernel() -> None:
    cpuinfo = Path("/proc/cpuinfo").read_text()
    flags = set(next(line for line in cpuinfo.splitlines() if line.startswith("flags")).split(":")[1].split())
    same = ["avx", "avx2", "fma", "f16c", "bmi2", "avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512cd"]
    names = {name: name for name in same} | {
        "sse4.2": "sse4_2",
        "bmi": "bmi1",
        "lzcnt": "abm",
        "avx512vnni": "avx512_vnni",
        "avx512bf16": "avx512_bf16",
        "avx512fp16": "avx512_fp16",
        "avxvnni": "avx_vnni",
    }
    features = runtime.cpu_features()
    assert {name for name in names if name in features} == {name for name, flag in names.items() if flag in flags}
    for tile in ("amx-tile", "amx-int8", "amx-bf16"):  # may be refused to this process
        assert tile not in features or tile.replace("-", "_") in flags


def test_version_and_library_errors(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    unchecked = runtime._library.__wrapped__
    monkeypatch.setattr(runtime, "VERSION", 99)
    with pytest.raises(ExecutionError, match="has runtime version 6, this package needs 99"):
        unchecked()
    monkeypatch.setattr(runtime, "_LIBRARY", tmp_path / "libdsc_rt.so")
    with pytest.raises(ExecutionError, match="cannot load the runtime library: .*libdsc_rt.so.*make build"):
        unchecked()
