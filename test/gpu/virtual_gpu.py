"""A GPU that is the emulator of test/ptx: libdsc_rt finds test/runtime/fake_cuda.c as its driver, whose launches run here."""

from __future__ import annotations

import ctypes
import functools
import shutil
import struct
import subprocess
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from ptx import Kernel, TensorMap
from ptx.memory import GlobalMemory

from deepseek import gpu_memory, runtime

_DRIVER = Path(__file__).parents[1] / "runtime" / "fake_cuda.c"
_LAUNCHER = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.c_char_p, ctypes.c_char_p, *[ctypes.c_uint] * 4, ctypes.POINTER(ctypes.c_ubyte)
)
_MAP_BYTES = 128
# Of CUtensorMapDataType; what is only copied may be of any type of the size.
_ELEMENT_BYTES = {0: 1, 1: 2, 2: 4, 3: 4, 4: 8, 5: 8, 6: 2, 7: 4, 8: 8, 9: 2}
_SWIZZLE_BYTES = {0: 0, 1: 32, 2: 64, 3: 128}

_kernel = functools.lru_cache(maxsize=None)(Kernel.parse)


def build_driver(folder: Path) -> Path:
    """libcuda.so.1 without a GPU."""
    path = folder / "libcuda.so.1"
    subprocess.run(["cc", "-std=gnu11", "-O1", "-shared", "-fPIC", str(_DRIVER), "-o", str(path)], check=True)
    return path


class VirtualGpu:
    """What `deepseek` takes for GPU 0 of this machine, for one test.

    `launches` counts the kernels that ran; an exception of the emulator fails its launch and is kept in `errors`.
    """

    def __init__(self, driver: Path, folder: Path, patch: pytest.MonkeyPatch) -> None:
        self.launches: Counter[str] = Counter()
        self.errors: list[Exception] = []
        folder.mkdir()
        # Copies, so that this test's driver and runtime share no state with those of others.
        shutil.copy(driver, folder / "libcuda.so.1")
        shutil.copy(runtime._LIBRARY.resolve(), folder / "libdsc_rt.so")
        self._patch = patch
        patch.setenv("DEEPSEEK_LIBCUDA", str(folder / "libcuda.so.1"))
        patch.setenv("XDG_CACHE_HOME", str(driver.parent / "cache"))  # one for all tests: nothing compiles twice
        patch.setattr(gpu_memory, "_devices", {})
        with patch.context() as inner:
            inner.setattr(runtime, "_LIBRARY", folder / "libdsc_rt.so")
            library = runtime._library.__wrapped__()
        patch.setattr(runtime, "_library", lambda: library)
        self.set(capability=90, multiprocessors=4)
        self._driver = ctypes.CDLL(str(folder / "libcuda.so.1"))
        self._launcher = _LAUNCHER(self._launch)  # kept: C holds its address
        self._driver.fake_cuda_launcher(self._launcher)
        self._driver.fake_cuda_log.restype = ctypes.c_char_p

    def set(self, **settings: int | str) -> None:
        """capability (90), multiprocessors (4), memory (bytes), devices, version (12040): FAKE_CUDA_* of the driver."""
        for name, value in settings.items():
            self._patch.setenv(f"FAKE_CUDA_{name.upper()}", str(value))

    def log(self, *starts: str) -> list[str]:
        """What was asked of the driver, by the first word: "graph", "instantiate", "upload", .."""
        lines = self._driver.fake_cuda_log().decode().splitlines()
        return [line for line in lines if line.split()[0] in starts]

    def clear_log(self) -> None:
        """Forgets what was asked so far."""
        self._driver.fake_cuda_clear()

    def check(self) -> None:
        """Raises the emulator's first exception."""
        if self.errors:
            raise self.errors.pop(0)

    def _launch(
        self, name: bytes, ptx: bytes, grid: int, block: int, shared: int, cluster: int, parameters: object
    ) -> int:
        try:
            kernel = _kernel(ptx.decode())
            memory = self._memory()
            values: list[object] = []
            for parameter in kernel.function.params:
                raw = bytes(parameters[parameter.offset : parameter.offset + parameter.size])  # type: ignore[index]
                values.append(
                    _tensor_map(raw, memory) if parameter.size == _MAP_BYTES else int.from_bytes(raw, "little")
                )
            kernel.launch(grid, block, values, shared, memory=memory, cluster=cluster)
            self.launches[kernel.name] += 1
        except Exception as error:
            self.errors.append(error)
            return 1
        return 0

    def _memory(self) -> GlobalMemory:
        """The driver's allocations."""
        memory = GlobalMemory()
        data, size, number = ctypes.c_void_p(), ctypes.c_size_t(), -1
        while (number := self._driver.fake_cuda_memory(number, ctypes.byref(data), ctypes.byref(size))) >= 0:
            array = np.ctypeslib.as_array((ctypes.c_ubyte * size.value).from_address(data.value or 0))
            memory.place(array, f"allocation {number}")
        return memory


def _tensor_map(raw: bytes, memory: GlobalMemory) -> TensorMap:
    """From the words that cuTensorMapEncodeTiled of fake_cuda.c writes."""
    words = struct.unpack("<32I", raw)
    element, rank, _, swizzle = words[:4]
    (address,) = struct.unpack_from("<Q", raw, 24)
    size = _ELEMENT_BYTES[element]
    buffer = memory.locate(address)
    data = buffer.source[address - buffer.base :]
    return TensorMap(
        array=data[: data.size // size * size].view(f"u{size}"),
        sizes=tuple(words[8 : 8 + rank]),
        strides=tuple(words[13 : 13 + rank - 1]),
        box=tuple(words[18 : 18 + rank]),
        swizzle=_SWIZZLE_BYTES[swizzle],
    )
