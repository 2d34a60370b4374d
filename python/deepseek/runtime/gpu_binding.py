"""ctypes signatures of runtime/dsc_rt_gpu.h, and the life of a context. What users see is in `gpu` and `collectives`."""

from __future__ import annotations

import ctypes
import functools
import os
import threading
import weakref
from collections.abc import Callable
from typing import Any

from deepseek import runtime

__all__ = ["DeviceStruct", "Handle", "MemoryStruct", "load_library"]

POINTER, INT, INT64, SIZE, TEXT = ctypes.c_void_p, ctypes.c_int, ctypes.c_int64, ctypes.c_size_t, ctypes.c_char_p


class DeviceStruct(ctypes.Structure):
    _fields_ = [
        ("name", ctypes.c_char * 96),
        *(
            (name, ctypes.c_int32)
            for name in ("major", "minor", "multiprocessors", "shared_bytes", "clock_khz", "driver")
        ),
        *((name, ctypes.c_int64) for name in ("memory_bytes", "l2_bytes")),
    ]


class MemoryStruct(ctypes.Structure):
    _fields_ = [(name, ctypes.c_int64) for name in ("used", "high_water", "reserved", "count", "free", "total")]


SIGNATURES: dict[str, tuple[Any, list[Any]]] = {
    "dsc_rt_gpu_probe": (INT, [TEXT, SIZE]),
    "dsc_rt_gpu_count": (INT, []),
    "dsc_rt_gpu_info": (INT, [INT, POINTER, TEXT, SIZE]),
    "dsc_rt_create_gpu": (POINTER, [INT, TEXT, SIZE]),
    "dsc_rt_gpu_error": (INT, [POINTER, TEXT, SIZE]),
    "dsc_rt_gpu_synchronize": (INT, [POINTER]),
    "dsc_rt_gpu_stream": (POINTER, [POINTER]),
    "dsc_rt_attach": (POINTER, [POINTER, POINTER, TEXT, SIZE, TEXT, TEXT, SIZE]),
    "dsc_rt_gpu_compile": (INT, [POINTER, TEXT, SIZE, TEXT]),
    "dsc_rt_detach": (None, [POINTER]),
    "dsc_rt_gpu_alloc": (POINTER, [POINTER, INT64]),
    "dsc_rt_gpu_free": (None, [POINTER, POINTER]),
    "dsc_rt_gpu_trim": (INT64, [POINTER]),
    "dsc_rt_gpu_memory_info": (INT, [POINTER, POINTER]),
    "dsc_rt_gpu_shortage": (None, [POINTER] * 4),
    "dsc_rt_gpu_upload": (INT, [POINTER, POINTER, POINTER, INT64, ctypes.c_int32]),
    "dsc_rt_gpu_download": (INT, [POINTER, POINTER, POINTER, INT64]),
    "dsc_rt_gpu_copy": (INT, [POINTER, POINTER, POINTER, INT64]),
    "dsc_rt_gpu_fill": (INT, [POINTER, POINTER, INT, INT64]),
    "dsc_rt_gpu_event_create": (POINTER, [POINTER]),
    "dsc_rt_gpu_event_destroy": (None, [POINTER]),
    "dsc_rt_gpu_event_record": (INT, [POINTER]),
    "dsc_rt_gpu_event_synchronize": (INT, [POINTER]),
    "dsc_rt_gpu_event_done": (INT, [POINTER]),
    "dsc_rt_gpu_event_elapsed": (ctypes.c_double, [POINTER, POINTER]),
    "dsc_rt_gpu_capture_begin": (INT, [POINTER]),
    "dsc_rt_gpu_capture_end": (POINTER, [POINTER, POINTER]),
    "dsc_rt_gpu_graph_launch": (INT, [POINTER]),
    "dsc_rt_gpu_graph_destroy": (None, [POINTER]),
    "dsc_rt_comm_load": (INT, [TEXT, TEXT, SIZE]),
    "dsc_rt_comm_id": (INT, [POINTER, TEXT, SIZE]),
    "dsc_rt_comm_create": (POINTER, [POINTER, TEXT, INT, INT, TEXT, SIZE]),
    "dsc_rt_comm_all_reduce": (INT, [POINTER, POINTER, POINTER, INT64, INT, INT]),
    "dsc_rt_comm_all_gather": (INT, [POINTER, POINTER, POINTER, INT64, INT]),
    "dsc_rt_comm_reduce_scatter": (INT, [POINTER, POINTER, POINTER, INT64, INT, INT]),
    "dsc_rt_comm_all_to_all": (INT, [POINTER, POINTER, POINTER, INT64, INT]),
    "dsc_rt_comm_broadcast": (INT, [POINTER, POINTER, POINTER, INT64, INT, INT]),
    "dsc_rt_comm_send": (INT, [POINTER, POINTER, INT64, INT, INT]),
    "dsc_rt_comm_receive": (INT, [POINTER, POINTER, INT64, INT, INT]),
    "dsc_rt_comm_group_begin": (INT, [POINTER]),
    "dsc_rt_comm_group_end": (INT, [POINTER]),
    "dsc_rt_comm_check": (INT, [POINTER]),
    "dsc_rt_comm_abort": (INT, [POINTER]),
    "dsc_rt_comm_destroy": (None, [POINTER]),
}


def load_library() -> ctypes.CDLL:
    """libdsc_rt with the signatures of dsc_rt_gpu.h; raises ExecutionError."""
    return _declare(runtime._library())


@functools.cache
def _declare(library: ctypes.CDLL) -> ctypes.CDLL:
    for name, (result, arguments) in SIGNATURES.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library


class Handle:
    """A context, until it is closed; with what must be destroyed before it."""

    def __init__(self, library: ctypes.CDLL, context: int) -> None:
        self.library = library
        self.context: int | None = context
        self.lock = threading.RLock()  # finalizers may run while this very thread holds it
        self.children: dict[int, Callable[[int], None]] = {}
        _handles.add(self)

    def adopt(self, owner: object, child: int, destroy: Callable[[int], None]) -> None:
        """Destroy `child` when `owner` is gone or the context is closed, whichever is first."""
        self.children[child] = destroy
        weakref.finalize(owner, self.release, child).atexit = False

    def release(self, child: int) -> None:
        with self.lock:
            if destroy := self.children.pop(child, None):
                destroy(child)

    def free(self, address: int) -> None:
        with self.lock:
            if self.context is not None:
                self.library.dsc_rt_gpu_free(self.context, address)

    def detach(self, code: int, module: runtime.Module) -> None:
        """Take code back, while this finalizer's reference keeps its module."""
        with self.lock:
            if self.context is not None:
                self.library.dsc_rt_detach(code)

    def close(self) -> None:
        with self.lock:
            for child in list(self.children):
                self.release(child)
            context, self.context = self.context, None
            if context is not None:
                self.library.dsc_rt_destroy(context)


_handles: weakref.WeakSet[Handle] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    # CUDA does not survive fork(): contexts count as closed here, and a thread of the parent may have held a lock.
    for handle in list(_handles):
        handle.context, handle.lock, handle.children = None, threading.RLock(), {}


os.register_at_fork(after_in_child=_after_fork_in_child)
