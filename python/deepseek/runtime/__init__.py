"""ctypes binding of libdsc_rt: thread pools, loaded objects, CPU features. Never loads the compiler.

GPUs are in `deepseek.runtime.gpu`, groups of them in `deepseek.runtime.collectives`.
"""

from __future__ import annotations

import ctypes
import functools
import math
import os
import threading
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from deepseek.buffers import address_of
from deepseek.errors import ExecutionError

__all__ = [
    "LIMITS",
    "VERSION",
    "Context",
    "Module",
    "Profile",
    "SaturationCounter",
    "cpu_features",
    "limit",
    "unsupported",
]

VERSION = 6  # DSC_RT_VERSION of runtime/dsc_rt.h that this binding was written for
_LIBRARY = Path(__file__).parents[1] / "lib" / "libdsc_rt.so"


@functools.cache
def _library() -> ctypes.CDLL:
    """Load libdsc_rt once and check its version; raises ExecutionError."""
    try:
        library = ctypes.CDLL(str(_LIBRARY))
    except OSError as error:
        raise ExecutionError(
            f"cannot load the runtime library: {error}; reinstall deepseek-runtime, or run `make build` in a checkout"
        ) from error
    pointer, size, int64, int32 = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int64, ctypes.c_int
    signatures = {
        "dsc_rt_version": (int32, []),
        "dsc_rt_create": (pointer, [int32]),
        "dsc_rt_destroy": (None, [pointer]),
        "dsc_rt_threads": (int32, [pointer]),
        "dsc_rt_launch": (None, [pointer, pointer, pointer, pointer, int64, ctypes.c_int32]),
        "dsc_rt_arena": (pointer, [pointer, int64]),
        "dsc_rt_arena_bytes": (int64, [pointer]),
        "dsc_rt_profile": (int64, [pointer, pointer, int64]),
        "dsc_rt_read_once": (None, [pointer, pointer, pointer, ctypes.c_int32]),
        "dsc_rt_load": (pointer, [ctypes.c_char_p, size, ctypes.c_char_p, size]),
        "dsc_rt_symbol": (pointer, [pointer, ctypes.c_char_p]),
        "dsc_rt_unload": (None, [pointer]),
        "dsc_rt_limit": (ctypes.c_double, [int32, int32]),
        "dsc_rt_cpu_features": (int32, [ctypes.c_char_p, size]),
        "dsc_rt_count_saturated": (int64, [*[pointer] * 3, ctypes.c_int32, int64, int64, *[pointer] * 3]),
    }
    try:
        for name, (result, arguments) in signatures.items():
            function = getattr(library, name)
            function.restype, function.argtypes = result, arguments
    except AttributeError as error:
        raise ExecutionError(f"{_LIBRARY} is no deepseek runtime library: {error}") from error
    version = library.dsc_rt_version()
    if version != VERSION:
        raise ExecutionError(
            f"{_LIBRARY} has runtime version {version}, this package needs {VERSION}: reinstall deepseek-runtime"
        )
    return library


@functools.cache
def cpu_features() -> frozenset[str]:
    """Names (as LLVM spells them) of the features that this CPU and operating system support."""
    library = _library()
    text = ctypes.create_string_buffer(library.dsc_rt_cpu_features(None, 0) + 1)
    library.dsc_rt_cpu_features(text, len(text))
    return frozenset(filter(None, text.value.decode().split(",")))


def unsupported(manifest: Mapping[str, Any]) -> str | None:
    """Why this machine cannot run the program of `manifest`, or None if it can."""
    from deepseek.runtime import gpu_target

    if gpu_target.is_gpu(str(manifest.get("target"))):
        return gpu_target.unsupported(manifest["target"])
    missing = sorted(set(manifest["features"]) - cpu_features())
    if not missing:
        return None
    return (
        f"this CPU lacks {', '.join(missing)}, for which the program was compiled ({manifest['target']}): "
        "compile it for this machine, or for any with AVX2 with `--target cpu:x86-64-v3`"
    )


_SPAN = np.dtype([("begin", np.int64), ("end", np.int64), ("dispatch", np.int32), ("part", np.int32)])


class Profile:
    """Spans of launches in the order of their ends.

    `spans` [n] has the fields begin and end (ns of `time.monotonic_ns`), dispatch (its index in the manifest) and part:
    -1 for a whole launch, else which part of it; every part runs on a thread of its own, part 0 on the caller's.
    """

    spans: np.ndarray

    def __init__(self) -> None:
        self.spans = np.zeros(0, _SPAN)

    @property
    def launches(self) -> np.ndarray:
        """The spans of whole launches."""
        return self.spans[self.spans["part"] < 0]

    def nanoseconds(self, dispatches: int) -> np.ndarray:
        """Time in each of the first `dispatches` dispatches: int64 [dispatches]."""
        sums = np.zeros(dispatches, np.int64)
        launches = self.launches[self.launches["dispatch"] < dispatches]
        np.add.at(sums, launches["dispatch"], launches["end"] - launches["begin"])
        return sums


class Context:
    """A pool of `threads` threads (the caller included) with its scratch memory.

    `threads=None` takes one thread per CPU that the process may use. Hold `lock` around every call that
    uses the context. After `os.fork` the child's first launch starts new threads.
    """

    lock: threading.Lock
    handle: int

    def __init__(self, threads: int | None = None) -> None:
        if threads is not None and threads < 1:
            raise ExecutionError(f"threads must be at least 1 (or None for all CPUs), got {threads}")
        library = _library()
        handle = library.dsc_rt_create(threads or 0)
        if not handle:
            raise ExecutionError(f"out of memory while starting {threads or 'all'} threads")
        self.handle = handle
        self.lock = threading.Lock()
        _contexts.add(self)
        # Not at exit: a daemon thread may still be inside a launch then.
        weakref.finalize(self, library.dsc_rt_destroy, handle).atexit = False

    @staticmethod
    def default(threads: int | None = None) -> Context:
        """Return the one shared context of this thread count, made on first use."""
        key = threads if threads is not None else len(os.sched_getaffinity(0))
        with _defaults_lock:
            if key not in _defaults:
                _defaults[key] = Context(key)
            return _defaults[key]

    @property
    def threads(self) -> int:
        """Threads that a launch uses; fewer than asked for if the system refused more."""
        return _library().dsc_rt_threads(self.handle)

    @property
    def arena_bytes(self) -> int:
        """Bytes of scratch memory that the context holds: the most that a call needed, in steps of 2 MiB."""
        return _library().dsc_rt_arena_bytes(self.handle)

    @contextmanager
    def reading_once(self, files: Mapping[int, int]) -> Iterator[None]:
        """Give back pages of read-only mappings (address -> bytes) every few launches; hold `lock` around the block."""
        starts = (ctypes.c_void_p * max(len(files), 1))(*files)
        sizes = (ctypes.c_size_t * max(len(files), 1))(*files.values())
        _library().dsc_rt_read_once(self.handle, starts, sizes, len(files))
        try:
            yield
        finally:
            _library().dsc_rt_read_once(self.handle, None, None, 0)

    @contextmanager
    def profile(self, launches: int) -> Iterator[Profile]:
        """Record up to `launches` launches while the block runs; what it yields is filled at the end of the block.

        Launches run one by one meanwhile, also those that may run beside each other. A dispatch may be two launches.
        """
        profile = Profile()
        spans = np.zeros(max(launches, 1) * (self.threads + 1), _SPAN)
        with self.lock:
            _library().dsc_rt_profile(self.handle, spans.ctypes.data, len(spans))
        try:
            yield profile
        finally:
            with self.lock:
                profile.spans = spans[: _library().dsc_rt_profile(self.handle, None, 0)]


LIMITS = ("f32", "bf16", "int8", "read", "bf16_tiles", "int8_tiles")


def limit(kind: str, threads: int = 1) -> float | None:
    """What this machine does at most on `threads` threads, measured now: "f32" (fused multiply-add), "bf16" and "int8"
    (dot products), "bf16_tiles" and "int8_tiles" (matrix tiles) in GFLOP/s or GOP/s, two operations per product, "read"
    (memory larger than any cache) in GB/s.

    None where the CPU has no such instruction. Takes about 0.1 s, "read" 1 GiB of memory and about 0.5 s.
    """
    value = _library().dsc_rt_limit(LIMITS.index(kind), threads)
    return value / 1e9 if value else None


class SaturationCounter:
    """Counts the numbers of f16 in caches that have the greatest magnitude, or are infinite or NaN.

    `caches` are [rows, .., capacity, size] and contiguous, of one number of rows and one capacity.
    """

    def __init__(self, caches: Sequence[np.ndarray]) -> None:
        rows, *_, capacity, _ = caches[0].shape
        self._kept = caches
        pointers = (ctypes.c_void_p * len(caches))(*[address_of(cache) for cache in caches])
        planes = (ctypes.c_int64 * len(caches))(*[math.prod(cache.shape[1:-2]) for cache in caches])
        sizes = (ctypes.c_int64 * len(caches))(*[cache.shape[-1] for cache in caches])
        self._caches = pointers, planes, sizes, len(caches), capacity, rows
        self._counts = np.empty(len(caches), np.int64)
        self._counts_address = address_of(self._counts)

    def __call__(self, begins: np.ndarray, ends: np.ndarray) -> np.ndarray | None:
        """int64 [caches] of positions `begins` to `ends` (int32 [rows], contiguous); None where all are 0."""
        count = _library().dsc_rt_count_saturated
        found = count(*self._caches, address_of(begins), address_of(ends), self._counts_address)
        return self._counts.copy() if found else None


class Module:
    """Machine code of one object, loaded into this process; unmapped when the last reference is gone."""

    def __init__(self, object: bytes) -> None:
        """Load an ELF relocatable object; raises ExecutionError if it is damaged or not for this machine."""
        library = _library()
        message = ctypes.create_string_buffer(512)
        handle = library.dsc_rt_load(object, len(object), message, len(message))
        if not handle:
            raise ExecutionError(f"cannot load compiled code: {message.value.decode(errors='replace')}")
        self._handle = handle
        weakref.finalize(self, library.dsc_rt_unload, handle).atexit = False

    def symbol(self, name: str) -> int:
        """Address of a global symbol; raises ExecutionError if the object does not define it."""
        address = _library().dsc_rt_symbol(self._handle, name.encode())
        if not address:
            raise ExecutionError(f'compiled code does not define "{name}"')
        return address


_contexts: weakref.WeakSet[Context] = weakref.WeakSet()
_defaults: dict[int, Context] = {}
_defaults_lock = threading.Lock()


def _after_fork_in_child() -> None:
    # A thread of the parent may have held these locks; it does not exist here.
    global _defaults_lock
    _defaults_lock = threading.Lock()
    for context in list(_contexts):
        context.lock = threading.Lock()


os.register_at_fork(after_in_child=_after_fork_in_child)
