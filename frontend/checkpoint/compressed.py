"""compressed-tensors' layouts of a quantized matrix, as llm-compressor writes them.

Source: https://github.com/vllm-project/compressed-tensors (0.20): integers packed into 32-bit words (`weight_packed`,
`weight_shape`), or integers and floats of 8 bits as they are (`weight`), with `weight_scale`, and for some with
`weight_zero_point` and `weight_g_idx`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import numpy as np

from deepseek.frontend.checkpoint.parts import FLOATS, Parts
from deepseek.frontend.checkpoint.repack import QuantizedMatrix, unpack_words
from deepseek.frontend.checkpoint.settings import Settings, shorten
from deepseek.frontend.checkpoint.tensors import Tensor

__all__ = ["CompressedTensors"]

_PACKED = "pack-quantized"
_FORMATS = (_PACKED, "int-quantized", "float-quantized", "naive-quantized")
_STRATEGIES = ("tensor", "channel", "group", "block")


@dataclass(frozen=True)
class _Scheme:
    """How the modules that `targets` names are quantized; `block` is (height, width), 0 for all rows or columns."""

    targets: tuple[str, ...]
    bits: int
    floats: bool
    packed: bool
    strategy: str
    block: tuple[int, int]


class CompressedTensors:
    """Reads the matrices of a checkpoint with this `quantization_config`. Raises `CheckpointError`."""

    parts = frozenset({"weight_packed", "weight_scale", "weight_shape", "weight_zero_point", "weight_g_idx"})

    def __init__(self, config: Settings) -> None:
        config.refuse_unless({"transform_config": {}})
        sparsity = config.get("sparsity_config", dict, {})
        if sparsity.get("format", "dense") != "dense":
            raise config.error(f"config.json: sparsity_config has format {shorten(sparsity['format'])}, expected dense")
        self._format = config.get("format", str)
        groups = config.require("config_groups", dict)
        self._schemes = [scheme for name, values in groups.items() if (scheme := self._scheme(config, name, values))]

    def is_code(self, weight: Tensor | None) -> bool:
        """Whether a `weight` cannot be numbers as they are."""
        return weight is not None and weight.format.name in ("i8", "f8_e4m3")

    def read(self, parts: Parts) -> QuantizedMatrix:
        """The matrix of a module."""
        scheme = self._scheme_of(parts)
        if scheme.packed:
            words = parts.matrix("weight_packed", ("i32",))
            rows, columns = (int(size) for size in parts.array("weight_shape", ("i64", "i32"), (2,)))
            expected = (rows, -(-columns * scheme.bits // 32))
            if min(rows, columns) < 1 or words.shape != expected:
                raise parts.part_error(
                    "weight_packed",
                    f"has shape {list(words.shape)}, expected {list(expected)} for {scheme.bits} bits of the "
                    f"weight_shape {[rows, columns]}",
                )
        else:
            words = parts.matrix("weight", ("f8_e4m3",) if scheme.floats else ("i8",))
            rows, columns = words.shape
        height, width = scheme.block[0] or rows, scheme.block[1] or columns
        blocks = (-(-rows // height), -(-columns // width))
        also = ([(), (1,)] if blocks == (1, 1) else []) + ([(rows,)] if blocks == (rows, 1) else [])
        scales = parts.array("weight_scale", FLOATS, blocks, also)
        order = parts.order("weight_g_idx", columns, width)
        bits = 0 if scheme.floats else scheme.bits if scheme.packed else 8
        middle = np.uint8(1 << max(bits, 1) - 1)

        def codes_of(begin: int, end: int) -> np.ndarray:
            part = words[begin:end]
            return (unpack_words(part, bits, columns) - middle).view(np.int8) if scheme.packed else part

        zeros_of = None
        if "weight_zero_point" in parts:
            packed = scheme.packed and scheme.strategy in ("channel", "group")
            if packed:
                zeros = parts.array("weight_zero_point", ("i32",), (-(-rows * bits // 32), blocks[1]))
                zeros = (unpack_words(zeros.T, bits, rows) - middle).view(np.int8).T
            else:
                zeros = parts.array("weight_zero_point", ("f8_e4m3",) if scheme.floats else ("i8", "i32"), blocks, also)
            if zeros.any():
                if scheme.floats:
                    raise parts.part_error("weight_zero_point", "is not 0, expected no zero points for 8-bit floats")
                each = 1 if packed else height

                def zeros_of(begin: int, end: int) -> np.ndarray:
                    return zeros[np.arange(begin, end) // each]

        return QuantizedMatrix((rows, columns), bits, codes_of, scales, height, width, zeros_of, order)

    def _scheme(self, config: Settings, name: str, values: Any) -> _Scheme | None:
        noun = f"config.json: quantization_config: {shorten(name)[1:-1]}:"
        if not isinstance(values, dict):
            raise config.error(f"{noun} is {shorten(values)}, expected an object")
        group = Settings(values, noun, config.error)
        weights = group.get("weights", dict)
        if weights is None:
            return None
        weights = Settings(weights, f"{noun} weights:", config.error)
        form = group.get("format", str, self._format)
        if form not in _FORMATS:
            raise config.error(f"{noun} format is {shorten(form)}, expected one of {', '.join(_FORMATS)}")
        bits, kind = weights.positive("num_bits"), weights.get("type", str, "int")
        packed = form == _PACKED
        allowed = {"int": range(2, 9), "float": () if packed else (8,)}.get(kind, ())
        if bits not in allowed:
            raise config.error(
                f"{noun} has weights of type {shorten(kind)} with {bits} bits, which {form} does not hold"
            )
        size = weights.get("group_size", int)
        strategy = weights.get("strategy", str)
        if strategy is None:
            strategy = "tensor" if size is None else "channel" if size == -1 else "group"
        if strategy not in _STRATEGIES:
            raise config.error(f"{noun} strategy is {shorten(strategy)}, expected one of {', '.join(_STRATEGIES)}")
        block = {"tensor": (0, 0), "channel": (1, 0)}.get(strategy)
        if strategy == "group":
            block = (1, weights.positive("group_size"))
        elif strategy == "block":
            block = tuple(weights.require("block_structure", list))
            if len(block) != 2 or not all(type(n) is int and 0 < n < 2**31 for n in block):
                raise config.error(f"{noun} block_structure is {shorten(list(block))}, expected two sizes")
        targets = group.get("targets", list, ["Linear"])
        return _Scheme(tuple(map(str, targets)), bits, kind == "float", packed, strategy, block)

    def _scheme_of(self, parts: Parts) -> _Scheme:
        """The first that names the module, else the first that names its class, which is all but the name's business."""
        module = parts.module
        for scheme in self._schemes:
            if any(_names(target, module) for target in scheme.targets):
                return scheme
        kind = "Embedding" if module.endswith("embed_tokens") else "Linear"
        for scheme in self._schemes:
            if kind in scheme.targets:
                return scheme
        part = next(part for part in ("weight_packed", "weight_scale", "weight") if part in parts)
        raise parts.part_error(part, "belongs to no config_groups of config.json's quantization_config")


def _names(target: str, module: str) -> bool:
    """Whether a target of a config group names the module; one that begins with "re:" is a regular expression."""
    if not target.startswith("re:"):
        return target == module
    try:
        return re.match(target[3:], module) is not None
    except (re.error, RecursionError, OverflowError):
        return False
