"""For the runtime's tests: objects (C through gcc, assembly of other machines through llvm-mc), and a GPU that is none."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from garbage import collected

import deepseek
from deepseek import runtime


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


class FakeCuda:
    """The driver that fake_cuda.c is, in this process."""

    def __init__(self, path: Path, nccl: Path) -> None:
        self.path, self.nccl_path = path, nccl
        self._cuda, self._nccl = ctypes.CDLL(str(path)), ctypes.CDLL(str(nccl))
        self._cuda.fake_cuda_log.restype = self._nccl.fake_nccl_log.restype = ctypes.c_char_p
        self._cuda.fake_cuda_used.restype = ctypes.c_long

    def log(self, *starts: str) -> list[str]:
        """Lines of the log so far that start with one of the words (all without), which is then empty."""
        lines = self._cuda.fake_cuda_log().decode().splitlines()
        self._cuda.fake_cuda_clear()
        return [line for line in lines if not starts or line.split()[0] in starts]

    def fail(self, function: str, code: int, after: int = 0) -> None:
        """Make the next call (or a later one) of a function return an error."""
        self._cuda.fake_cuda_fail(function.encode(), code, after)

    def live(self) -> int:
        """Streams, events, graphs, modules and pinned buffers that were not destroyed."""
        return self._cuda.fake_cuda_live()

    def most_links(self) -> int:
        """Compilations that ran at the same time, at most."""
        return self._cuda.fake_cuda_most_links()

    def used(self) -> int:
        """Bytes of device memory."""
        return self._cuda.fake_cuda_used()

    def depth(self) -> int:
        """Contexts that were made current and not put back."""
        return self._cuda.fake_cuda_depth()

    def nccl_log(self) -> list[str]:
        """All lines of NCCL's log."""
        return self._nccl.fake_nccl_log().decode().splitlines()

    def nccl_fail(self, function: str, code: int) -> None:
        """Make the next call of a function of NCCL fail; "async": a collective, later."""
        self._nccl.fake_nccl_fail(function.encode(), code)

    def nccl_live(self) -> int:
        """Groups that were neither left nor aborted."""
        return self._nccl.fake_nccl_live()


@pytest.fixture(scope="session")
def fake_libraries(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with libcuda.so.1 and libnccl.so.2 that need no GPU."""
    folder = tmp_path_factory.mktemp("fakes")
    for source, name in (("fake_cuda.c", "libcuda.so.1"), ("fake_nccl.c", "libnccl.so.2")):
        command = ["gcc", "-std=gnu11", "-O1", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC"]
        subprocess.run([*command, str(Path(__file__).parent / source), "-o", str(folder / name)], check=True)
    return folder


@pytest.fixture
def cuda(fake_libraries: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeCuda]:
    """A driver and a libdsc_rt of the test's own: both are copies, which share no state with those of other tests."""
    folder = tmp_path / "libraries"
    shutil.copytree(fake_libraries, folder)
    shutil.copy(runtime._LIBRARY.resolve(), folder / "libdsc_rt.so")
    monkeypatch.setenv("DEEPSEEK_LIBCUDA", str(folder / "libcuda.so.1"))
    monkeypatch.setenv("DEEPSEEK_LIBNCCL", str(folder / "libnccl.so.2"))
    with monkeypatch.context() as patch:
        patch.setattr(runtime, "_LIBRARY", folder / "libdsc_rt.so")
        library = runtime._library.__wrapped__()
    monkeypatch.setattr(runtime, "_library", lambda: library)
    fake = FakeCuda(folder / "libcuda.so.1", folder / "libnccl.so.2")
    with collected():
        yield fake
    assert fake.depth() == 0


GPU_TYPES = """
typedef void (*kernel)(void *const *, const int64_t *, int64_t, int64_t);
extern void dsc_rt_launch(void *, kernel, void *const *, const int64_t *, int64_t, int32_t);
extern void dsc_rt_defer(void *, kernel, void *const *, int32_t, const int64_t *, int64_t, int32_t);
extern void *dsc_rt_arena(void *, int64_t);
extern int32_t dsc_rt_threads(void *);
#define DESCRIPTOR(name, maps, ...) \\
  struct { uint32_t magic; int32_t fields[7]; int32_t map[maps][9]; char entry[32]; } const name = \\
      {0x44534B31, __VA_ARGS__, #name}
#define PLAIN(name, ...) \\
  struct { uint32_t magic; int32_t fields[7]; char entry[32]; } const name = {0x44534B31, __VA_ARGS__, #name}
"""


@pytest.fixture
def gpu_program(compile_c: Callable[..., bytes]) -> Callable[[str], runtime.Module]:
    """gpu_program(source) -> the module of C that launches; DESCRIPTOR and PLAIN (without maps) make descriptors."""
    return lambda source: runtime.Module(compile_c(GPU_TYPES + source))


@pytest.fixture
def run_program() -> Callable[..., int]:
    """run_program(module, device, name, buffers, dims): calls a function of the program as Executable does."""

    def run(module: runtime.Module, context: int, name: str, buffers: list[int], dims: list[int]) -> int:
        entry = ctypes.CFUNCTYPE(ctypes.c_int32, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p)
        addresses = (ctypes.c_void_p * max(len(buffers), 1))(*buffers)
        sizes = (ctypes.c_int64 * max(len(dims), 1))(*dims)
        return entry(module.symbol(name))(context, ctypes.addressof(addresses), ctypes.addressof(sizes))

    return run
