"""Between what callers pass (numpy, torch, python scalars) and the numpy arrays that an executable takes.

torch is never imported here: a torch tensor can only come from a process that has imported it.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

from ..errors import InputError
from . import dtypes

_STATIC = (bool, int, float, str, bytes, type, np.dtype)


def is_torch(value: Any) -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def is_tensor(value: Any) -> bool:
    return isinstance(value, (np.ndarray, np.generic)) or is_torch(value)


def leaf_key(leaf: Any) -> tuple[Any, ...]:
    """What of an argument the traced program depends on besides sizes: (kind, dtype, rank) or (type, value)."""
    if isinstance(leaf, (np.ndarray, np.generic)):
        dtype = dtypes.find(leaf.dtype)
        return ("numpy", dtype.name if dtype else str(leaf.dtype), leaf.ndim)
    if is_torch(leaf):
        dtype = dtypes.find(leaf.dtype)
        return ("torch", dtype.name if dtype else str(leaf.dtype), leaf.ndim)
    if hasattr(leaf, "tied") and hasattr(leaf, "shape"):
        return ("numpy", leaf.dtype.name, len(leaf.shape))
    if isinstance(leaf, _STATIC) or type(leaf).__module__ == "torch":
        return ("static", type(leaf).__name__, repr(leaf))
    raise InputError(
        f"an argument of type {type(leaf).__name__} is not supported: pass numpy arrays, torch tensors, "
        "numbers, strings, or tuples, lists and dicts of them"
    )


def to_numpy(leaf: Any) -> np.ndarray:
    """A C-contiguous, native-endian view or copy of an argument; types that numpy lacks become those of ml_dtypes."""
    if not is_torch(leaf):
        array = np.asarray(leaf, order="C")
        return array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))
    torch = sys.modules["torch"]
    if leaf.device.type != "cpu":
        raise InputError(f"a tensor is on {leaf.device}: this program runs on the CPU, pass tensor.cpu()")
    tensor = leaf.detach().resolve_conj().resolve_neg().contiguous()
    known = dtypes.find(tensor.dtype)
    if known in dtypes.FROM_ML_DTYPES:
        raw = torch.int16 if known.bits == 16 else torch.uint8
        return tensor.view(raw).numpy().view(known.numpy)
    return tensor.numpy()


def from_numpy(array: np.ndarray, kind: str) -> Any:
    """A result in the caller's kind: a numpy array or a torch tensor on the same memory."""
    if kind != "torch":
        return array
    torch = sys.modules.get("torch")
    if torch is None:
        raise InputError("this program was traced with torch tensors: import torch before running it")
    known = dtypes.find(array.dtype)
    if known in dtypes.FROM_ML_DTYPES:
        raw = np.int16 if known.bits == 16 else np.uint8
        return torch.from_numpy(array.view(raw)).view(getattr(torch, known.numpy.name))
    return torch.from_numpy(array)
