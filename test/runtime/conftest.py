"""Objects for the runtime's tests: C through gcc, assembly of other machines through llvm-mc."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path

import pytest

import deepseek


@pytest.fixture(scope="session")
def compile_c(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., bytes]:
    """compile_c(source, *flags) -> bytes of a relocatable object; <stdint.h> is included already."""
    folder = tmp_path_factory.mktemp("objects")

    def compile(source: str, *flags: str) -> bytes:
        (folder / "source.c").write_text("#include <stdint.h>\n" + source)
        command = ["gcc", "-c", "-O2", "-fPIC", "-ffreestanding", *flags, "source.c", "-o", "source.o"]
        subprocess.run(command, cwd=folder, check=True)
        return (folder / "source.o").read_bytes()

    return compile


@pytest.fixture(scope="session")
def assemble(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], bytes]:
    """assemble(triple, source) -> bytes of a relocatable object."""
    folder = tmp_path_factory.mktemp("assembly")
    tool = Path(sysconfig.get_path("platlib")) / "llvm" / "bin" / "llvm-mc"

    def run(triple: str, source: str) -> bytes:
        (folder / "source.s").write_text(source)
        command = [str(tool), f"-triple={triple}", "-filetype=obj", "source.s", "-o", "source.o"]
        subprocess.run(command, cwd=folder, check=True)
        return (folder / "source.o").read_bytes()

    return run


@pytest.fixture
def run_python(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """run_python(script, *arguments): a fresh interpreter that imports this deepseek; crashes stay there."""

    def run(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        path = str(Path(deepseek.__file__).parents[1])
        script = f"import sys; sys.path.insert(0, {path!r})\n{script}"
        command = [sys.executable, "-X", "faulthandler", "-c", script, *arguments]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)

    return run
