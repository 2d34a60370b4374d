"""What an installation consists of, and that each part loads only what it needs."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
RUN = """
import numpy as np
from deepseek import ACG
x = np.arange(5, dtype=np.float32)
model = ACG.compile(lambda x: x * 2 + 3)
assert np.array_equal(model(x), x * 2 + 3)
"""
# Every file that this process has mapped.
MAPPED = """
print(*sorted({line.split()[-1] for line in open("/proc/self/maps") if "/" in line}), sep="\\n")
"""
# Makes every package but numpy and this one unknown to the process.
NUMPY_ONLY = """
import sys

class Others:
    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        if top not in {"numpy", "deepseek", *sys.stdlib_module_names}:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Others())
"""
COMPILER = re.compile(r"libDsc|libLLVM|libMLIR|/_mlir/")
MODULE = "func.func @main(%x: tensor<4xf32>) -> tensor<4xf32> { return %x : tensor<4xf32> }\n"


def objects(package: Path) -> list[Path]:
    """The ELF files of the package; a development tree links to the folders that hold them."""
    files = [Path(folder) / name for folder, _, names in os.walk(package, followlinks=True) for name in names]
    return [p for p in sorted(files) if ".so" in p.name and p.read_bytes()[:4] == b"\x7fELF"]


def test_import_and_cached_programs_load_no_compiler(python: Callable[[str], str]) -> None:
    assert COMPILER.search(python(RUN + MAPPED)), "the first run compiles"
    for code in ("import deepseek", "import deepseek.cli", RUN):
        mapped = python(code + MAPPED)
        assert not COMPILER.search(mapped), f"{code}: {mapped}"
    assert "libdsc_rt" in python(RUN + MAPPED)


def test_compiling_needs_numpy_only(python: Callable[[str], str]) -> None:
    python(NUMPY_ONLY + RUN)


def test_mlir_is_there_once(package: Path, tool: Callable[[str], Path]) -> None:
    files = [*objects(package), tool("dsc-opt"), tool("dsc-lsp-server")]
    diagnostic = b"does not dominate this use"  # of MLIR's verifier
    assert [p.name for p in files if diagnostic in p.read_bytes()] == ["libDscCompiler.so"]


def test_binaries_name_no_folder_of_the_machine_that_built_them(package: Path, tool: Callable[[str], Path]) -> None:
    files = [*objects(package), tool("dsc-opt"), tool("dsc-lsp-server")]
    checkout = f"{ROOT}/".encode()
    assert [p.name for p in files if checkout in p.read_bytes()] == []


def test_the_compiler_library_shows_its_c_api_only(package: Path) -> None:
    library = package / "_mlir" / "_mlir_libs" / "libDscCompiler.so"
    done = subprocess.run(["nm", "-D", "--defined-only", library], capture_output=True, text=True, check=True)
    names = [line.split()[-1] for line in done.stdout.splitlines()]
    assert "dscOptMain" in names and "mlirContextCreate" in names
    assert [n for n in names if not n.startswith(("mlir", "dsc"))] == []


def test_dsc_opt(tool: Callable[[str], Path], tmp_path: Path) -> None:
    file = tmp_path / "f.mlir"
    file.write_text(MODULE)
    opt = str(tool("dsc-opt"))
    bare = {"PATH": os.defpath}  # what it finds its library with is in the file itself
    version = subprocess.run([opt, "--version"], capture_output=True, text=True, env=bare, check=True).stdout
    assert "LLVM version 22.1.8" in version
    written = subprocess.run(
        [opt, "--dsc-compile=target=cpu:x86-64-v4 to=schedule", file],
        capture_output=True,
        text=True,
        env=bare,
        check=True,
    ).stdout
    assert "dsc.phase" in written and "func.func" in written
    file.write_text('func.func @f() -> index { %0 = dsc.dim "2b" : index return %0 : index }\n')
    failed = subprocess.run([opt, file], capture_output=True, text=True, env=bare, check=False)
    assert failed.returncode == 1 and 'op needs an identifier, got: "2b"' in failed.stderr


@pytest.mark.parametrize("target", ["aarch64", "x86-64-v3"])
def test_other_cpus_back_ends_are_in(python: Callable[[str], str], target: str) -> None:
    code = f"from deepseek import compiler; print(compiler.assembly({MODULE!r}, target='cpu:{target}'))"
    assert "dsc_main" in python(code)


def test_the_compilers_identity_is_its_content(package: Path, python: Callable[[str], str], tmp_path: Path) -> None:
    library = package / "_mlir" / "_mlir_libs" / "libDscCompiler.so"
    note = subprocess.run(["readelf", "-n", library], capture_output=True, text=True, check=True).stdout
    expected = re.search(r"Build ID: ([0-9a-f]{40})", note)
    assert expected
    code = "from deepseek import compiler; print(compiler._compiler_identity())"
    assert python(code).split() == ["0.1.0", expected[1]]
    copy = tmp_path / "elsewhere.so"
    copy.write_bytes(b"\x7fELF")
    code = f"""
import pathlib
from deepseek import compiler, errors
try:
    compiler._build_id(pathlib.Path({str(copy)!r}))
except errors.CompileError as error:
    print(error)
"""
    assert python(code).strip() == f"{copy} has no build id: reinstall deepseek-runtime"
