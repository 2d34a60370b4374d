"""The numbers that stored weights stand for."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from deepseek.formats import Format, find_format

if TYPE_CHECKING:
    from deepseek.frontend.checkpoint.tensors import Tensor

__all__ = ["round_to_nearest", "values_of"]


def values_of(tensor: Tensor) -> np.ndarray:
    """f32 values of a stored tensor in its shape; exact for every format."""
    name = tensor.format.name
    data = tensor.array
    if name == "f32":
        return np.asarray(data, np.float32)
    if name == "f16":
        return data.view(np.float16).astype(np.float32)
    if name == "bf16":
        return (data.astype(np.uint32) << 16).view(np.float32)
    form = find_format(name)
    rows = data.reshape(-1, data.shape[-1])
    values = form.decode(rows) if form is not None and form.codes else _decoder(name)(rows.view(np.int8))
    return values.reshape(tensor.shape)


def round_to_nearest(values: np.ndarray, form: Format) -> np.ndarray:
    """f32 values [out, in] as products read them in a format: each block's greatest magnitude gets the greatest code."""
    if form.name == "f32":
        return values
    if form.name == "f16":
        return values.astype(np.float16).view(np.uint16)
    if form.name == "bf16":
        bits = values.view(np.uint32)  # to nearest even; a NaN stays one
        rounded = (bits + 0x7FFF + (bits >> 16 & 1)) >> 16
        return np.where(np.isnan(values), bits >> 16 | 0x40, rounded).astype(np.uint16)
    rows = len(values)
    scales = form.round_scales(np.abs(values.reshape(rows, -1, form.elements)).max(-1) / np.float32(form.largest))
    return form.encode(form.round_codes(values / np.repeat(scales, form.elements, 1)), scales)


@lru_cache
def _decoder(name: str) -> Callable[[np.ndarray], np.ndarray]:
    """Decodes rows of ggml's blocks: compiled, as products decode them."""
    from deepseek import ACG

    return ACG.compile(lambda blocks: ACG.dequantize(blocks, name))
