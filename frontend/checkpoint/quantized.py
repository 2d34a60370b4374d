"""Folders whose weights another library quantized: several tensors of a module become one, `X.weight`.

Layouts: compressed-tensors (`compressed.py`); GPTQ and AWQ as AutoGPTQ, GPTQModel and AutoAWQ write them (4 bits: eight
numbers in an int32, scales and zero points for groups of inputs, everything transposed); 8-bit floats with a scale for
each block of 128x128, as published with DeepSeek-V3 (arXiv 2412.19437, section 3.3). Which format a matrix becomes:
`QuantizedMatrix.format`. What activations were rounded to is not followed: they stay f32.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from deepseek.errors import CheckpointError
from deepseek.frontend.checkpoint.compressed import CompressedTensors
from deepseek.frontend.checkpoint.parts import FLOATS, Parts
from deepseek.frontend.checkpoint.repack import QuantizedMatrix, unpack_words
from deepseek.frontend.checkpoint.settings import Settings, shorten
from deepseek.frontend.checkpoint.tensors import RepackedTensor, Tensor

__all__ = ["repack_tensors"]

# Scales of activations and caches.
_UNUSED = re.compile(r".*\.(input|output|q|k|v|kv)_(scale|zero_point|global_scale|scale_inv)")
_AWQ_NIBBLES = [0, 4, 1, 5, 2, 6, 3, 7]  # which nibble of a word holds output 0, 1, ..: AutoAWQ's WQLinear_GEMM


def repack_tensors(
    values: Mapping[str, Any], tensors: Mapping[str, Tensor], error: Callable[[str], CheckpointError]
) -> dict[str, Tensor]:
    """The tensors of a folder whose config.json has the `quantization_config` `values`, in formats of `formats.py`.

    Only shapes, scales and zero points are looked at; weights are repacked when they are asked for.
    Raises `CheckpointError` for a layout that is unknown, and for tensors that do not fit together.
    """
    config = Settings(dict(values), "config.json: quantization_config:", error)
    method = config.require("quant_method", str)
    if method not in _LAYOUTS:
        raise error(f"{config.noun} quant_method is {shorten(method)}, expected one of {', '.join(_LAYOUTS)}")
    layout = _LAYOUTS[method](config)
    modules: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        module, _, part = name.rpartition(".")
        modules.setdefault(module, {})[part] = tensor
    result: dict[str, Tensor] = {}
    for module, parts in modules.items():
        used = layout.parts & parts.keys()
        if used or layout.is_code(parts.get("weight")):
            found = Parts(module, parts, error)
            result[f"{module}.weight"] = _repacked(found, layout.read(found))
            used |= {"weight"}
        kept = {f"{module}.{part}" if module else part: tensor for part, tensor in parts.items() if part not in used}
        result |= {name: tensor for name, tensor in kept.items() if not _UNUSED.fullmatch(name)}
    return result


def _repacked(parts: Parts, matrix: QuantizedMatrix) -> RepackedTensor:
    parts.check_no_second_weight()
    name, form = f"{parts.module}.weight", matrix.format()
    return RepackedTensor(
        name, form, matrix.shape, parts.sources(), lambda: matrix.encode(form, lambda text: parts.error(name, text))
    )


class _GPTQ:
    """qweight [in * bits / 32, out], qzeros [groups, out * bits / 32], scales [groups, out], g_idx [in]."""

    parts = frozenset({"qweight", "qzeros", "scales", "g_idx"})

    def __init__(self, config: Settings) -> None:
        config.refuse_unless({"dynamic": {}, "is_marlin_format": False})
        self.bits = config.positive("bits")
        if self.bits not in (4, 8):
            raise config.error(f"{config.noun} bits is {self.bits}, expected 4 or 8")
        form = config.get("checkpoint_format", str, "gptq")
        if form not in ("gptq", "gptq_v2"):
            raise config.error(f"{config.noun} checkpoint_format is {shorten(form)}, expected gptq or gptq_v2")
        self.least_zero = 1 if form == "gptq" else 0
        self.group = _group_size(config)

    def is_code(self, weight: Tensor | None) -> bool:
        return False

    def read(self, parts: Parts) -> QuantizedMatrix:
        bits = self.bits
        words = parts.matrix("qweight", ("i32",))
        columns, rows = words.shape[0] * 32 // bits, words.shape[1]
        width = self.group or columns
        groups = -(-columns // width)
        scales = parts.array("scales", FLOATS, (groups, rows))
        zeros = parts.array("qzeros", ("i32",), (groups, -(-rows * bits // 32)))
        middle = 1 << bits - 1
        order = parts.order("g_idx", columns, width)

        def zeros_of(begin: int, end: int) -> np.ndarray:
            packed = unpack_words(zeros[:, begin * bits // 32 : -(-end * bits // 32)], bits, end - begin)
            return packed.T.astype(np.int16) + np.int16(self.least_zero - middle)

        def codes_of(begin: int, end: int) -> np.ndarray:
            return (unpack_words(words[:, begin:end].T, bits, columns) - np.uint8(middle)).view(np.int8)

        usual = zeros.view(np.uint32) == sum(middle - self.least_zero << at for at in range(0, 32, bits))
        return QuantizedMatrix(
            (rows, columns), bits, codes_of, scales.T, 1, width, None if usual.all() else zeros_of, order
        )


class _AWQ:
    """qweight [in, out / 8], qzeros [groups, out / 8], scales [groups, out]."""

    parts = frozenset({"qweight", "qzeros", "scales"})

    def __init__(self, config: Settings) -> None:
        config.refuse_unless({"bits": 4})
        version = config.get("version", str, "gemm")
        if version.lower() != "gemm":
            raise config.error(f"{config.noun} version is {shorten(version)}, expected gemm")
        self.group = _group_size(config)

    def is_code(self, weight: Tensor | None) -> bool:
        return False

    def read(self, parts: Parts) -> QuantizedMatrix:
        words = parts.matrix("qweight", ("i32",))
        columns, rows = words.shape[0], words.shape[1] * 8
        width = self.group or columns
        groups = -(-columns // width)
        scales = parts.array("scales", FLOATS, (groups, rows))
        zeros = parts.array("qzeros", ("i32",), (groups, rows // 8))

        def rows_of(words: np.ndarray, begin: int, end: int) -> np.ndarray:
            part = words[:, begin // 8 : end // 8]
            nibbles = unpack_words(part, 4, part.shape[1] * 8).reshape(len(words), -1, 8)[..., _AWQ_NIBBLES]
            return (np.ascontiguousarray(nibbles.reshape(len(words), -1).T) - np.uint8(8)).view(np.int8)

        usual = (zeros.view(np.uint32) == 0x88888888).all()
        return QuantizedMatrix(
            (rows, columns),
            4,
            lambda begin, end: rows_of(words, begin, end),
            scales.T,
            1,
            width,
            None if usual else lambda begin, end: rows_of(zeros, begin, end),
        )


class _BlockFP8:
    """weight F8_E4M3 [out, in], weight_scale_inv [ceil(out / block), ceil(in / block)], which multiplies.

    Without `weight_block_size` there is one scale, weight_scale, as vLLM has it.
    """

    parts = frozenset({"weight_scale_inv", "weight_scale"})

    def __init__(self, config: Settings) -> None:
        config.refuse_unless({"fmt": "e4m3"})
        block = config.get("weight_block_size", list)
        self.block = block
        if block is not None and (len(block) != 2 or not all(type(size) is int and 0 < size < 2**31 for size in block)):
            raise config.error(f"{config.noun} weight_block_size is {shorten(block)}, expected two sizes")

    def is_code(self, weight: Tensor | None) -> bool:
        return weight is not None and weight.format.name == "f8_e4m3"

    def read(self, parts: Parts) -> QuantizedMatrix:
        codes = parts.matrix("weight", ("f8_e4m3",))
        rows, columns = codes.shape
        height, width = self.block or (rows, columns)
        blocks = (-(-rows // height), -(-columns // width))
        if self.block:
            scales = parts.array("weight_scale_inv", FLOATS, blocks)
        else:
            scales = parts.array("weight_scale", FLOATS, blocks, [(), (1,)])
        return QuantizedMatrix((rows, columns), 0, lambda begin, end: codes[begin:end], scales, height, width)


_LAYOUTS: dict[str, Any] = {
    "compressed-tensors": CompressedTensors,
    "gptq": _GPTQ,
    "awq": _AWQ,
    "fp8": _BlockFP8,
}


def _group_size(config: Settings) -> int | None:
    """Inputs of a group; None: a whole row."""
    size = config.require("group_size", int)
    if size != -1 and not 0 < size < 2**31:
        raise config.error(f"{config.noun} group_size is {size}, expected -1 or a positive number")
    return None if size == -1 else size
