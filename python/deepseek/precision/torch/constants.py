"""Constants of the IR as torch tensors."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import torch

__all__ = ["constant_tensor"]

_NUMPY = {
    "f64": "<f8", "f32": "<f4", "f16": "<f2", "i64": "<i8", "i32": "<i4", "i16": "<i2", "i8": "<i1", "i1": "?",
}  # fmt: skip


def constant_tensor(attribute: Any) -> Any:
    """A scalar as a Python number, a dense attribute as a tensor."""
    if not hasattr(attribute.type, "shape"):
        return attribute.value
    element = str(attribute.type.element_type)
    shape = list(attribute.type.shape)
    if element == "bf16":  # the bindings have no buffer of this type
        numbers = re.findall(r"0x[0-9A-Fa-f]+|[-+0-9.eE]+", str(attribute).split("dense<")[1].rpartition(">")[0])
        values = [_bf16(number) for number in numbers]
        tensor = torch.tensor(values, dtype=torch.bfloat16)
        return tensor.expand(shape) if len(values) == 1 else tensor.reshape(shape)
    array = np.array(attribute).reshape(shape).astype(_NUMPY[element])
    return torch.from_numpy(np.ascontiguousarray(array))


def _bf16(text: str) -> float:
    if not text.startswith("0x"):
        return float(text)
    return float(np.array([int(text, 16) << 16], np.uint32).view(np.float32)[0])
