"""A plan's weights as a checkpoint that other programs load, in a Hugging Face folder.

compressed-tensors: https://github.com/vllm-project/compressed-tensors (0.20): integers of 8 bits and floats of 8 bits
as they are with `weight_scale`, narrower integers packed into 32-bit words, the low bits first, with `weight_shape`.

block-fp8: floats of 8 bits with a scale for each block of 128x128, `weight_scale_inv`, as published with DeepSeek-V3
(arXiv 2412.19437, section 3.3). A plan has a scale for each row, so its numbers are rounded once more.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from deepseek.errors import InputError
from deepseek.formats import PLAIN_BITS, Format, find_format, to_fp8
from deepseek.precision.plan import Plan, write_safetensors

if TYPE_CHECKING:
    from deepseek.frontend.checkpoint.checkpoint import Checkpoint

__all__ = ["LAYOUTS", "apply_plan", "block_fp8", "pack_words"]

_Parts = dict[str, tuple[np.ndarray, str]]  # tensors of a module by the last part of their names, with their types

_WEIGHT_FILES = re.compile(r".*\.(safetensors|bin|pt|pth|gguf)|.*\.safetensors\.index\.json")
_BITS = {"int4": 4, "int5": 5, "int8": 8, "fp8_e4m3": 8}
_BLOCK = 128


def apply_plan(plan: Plan, checkpoint: Checkpoint, folder: Path, layout: str = "compressed-tensors") -> list[str]:
    """Writes `folder`, which must not exist or be empty, in one of `LAYOUTS`; returns the names of its files.

    Raises `InputError`.
    """
    if checkpoint.container != "safetensors":
        raise InputError(
            f"{checkpoint.path}: only Hugging Face folders can be written again, this is {checkpoint.container}"
        )
    plan.check_model(checkpoint)
    if folder.exists() and any(folder.iterdir()):
        raise InputError(f"{folder}: is not empty, and nothing in it is overwritten: name another folder")
    writer = LAYOUTS[layout](plan)
    arrays: dict[str, np.ndarray] = {}
    kinds: dict[str, str] = {}
    for name, tensor in checkpoint.tensors.items():
        entry = plan.tensors.get(name)
        form = find_format(entry["format"], tensor.shape[-1]) if entry else tensor.format
        stored = plan.arrays[name] if entry else tensor.array
        if form.name in PLAIN_BITS:
            parts = {"": (stored, {"bf16": "BF16", "f16": "F16", "f32": "F32"}[form.name])}
        else:
            parts = writer.add(name, form, stored, tensor.shape)
        for part, (array, kind) in parts.items():
            full = f"{name.removesuffix('.weight')}.{part}" if part else name
            arrays[full], kinds[full] = array, kind
    config = json.loads((checkpoint.path / "config.json").read_text(encoding="utf-8"))
    config.pop("quantization_config", None)
    config |= writer.configuration()
    folder.mkdir(parents=True, exist_ok=True)
    for path in sorted(checkpoint.path.iterdir()):
        if path.is_file() and path.name != "config.json" and not _WEIGHT_FILES.fullmatch(path.name):
            shutil.copy(path, folder / path.name)
    try:
        write_safetensors(folder / "model.safetensors", arrays, {"format": "pt"}, kinds)
        (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise InputError(f"{error.filename or folder}: cannot be written: {error.strerror}") from None
    return sorted(path.name for path in folder.iterdir())


def pack_words(numbers: np.ndarray, bits: int) -> np.ndarray:
    """Numbers [rows, columns] of at least -2^(bits - 1) as int32 [rows, words]: number i of 32 begins at bit i * bits."""
    rows, columns = numbers.shape
    padded = np.zeros((rows, -(-columns // 32) * 32), np.uint8)
    padded[:, :columns] = (numbers + (1 << bits - 1)).astype(np.uint8)
    streams = np.unpackbits(padded.reshape(rows, -1, 1), axis=2, bitorder="little")[..., :bits]
    words = np.packbits(streams.reshape(rows, -1), axis=1, bitorder="little").view("<i4")
    return np.ascontiguousarray(words[:, : -(-columns * bits // 32)])


def block_fp8(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """f32 values [out, in] as e4m3 codes (uint8) and f32 scales [ceil(out / 128), ceil(in / 128)]: code times scale.

    A block's greatest magnitude becomes 448, the greatest of e4m3; the scale of a block of zeros is 1.
    """
    rows, columns = values.shape
    padded = np.pad(np.abs(values), ((0, -rows % _BLOCK), (0, -columns % _BLOCK)))
    most = padded.reshape(-(-rows // _BLOCK), _BLOCK, -1, _BLOCK).max((1, 3))
    scales = most / np.float32(448)
    scales = np.where(scales > 0, scales, np.float32(1))
    each = np.repeat(np.repeat(scales, _BLOCK, 0)[:rows], _BLOCK, 1)[:, :columns]
    return to_fp8(values / each, "fp8_e4m3"), scales


class _CompressedTensors:
    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._groups: dict[str, dict[str, Any]] = {}

    def add(self, name: str, form: Format, stored: np.ndarray, shape: tuple[int, ...]) -> _Parts:
        """The tensors that hold the weight `name`."""
        if form.codes not in _BITS:
            raise InputError(f"{name}: {form.name} has no place in a compressed-tensors checkpoint")
        activation = _activation(self._plan, name)
        scheme = self._groups.setdefault(f"{form.name} {activation}", _scheme(form, shape[-1], activation))
        scheme["targets"].append(f"re:^{re.escape(name.removesuffix('.weight'))}$")
        numbers, scales = form.split(stored)
        parts = {"weight_scale": (scales, "F32")}
        if form.codes.startswith("fp8"):
            return {"weight": (numbers, "F8_E4M3"), **parts}
        if form.codes == "int8":
            return {"weight": (numbers.astype(np.int8), "I8"), **parts}
        packed = pack_words(numbers.astype(np.int16), _BITS[form.codes])
        return {"weight_packed": (packed, "I32"), "weight_shape": (np.array(shape, np.int64), "I64"), **parts}

    def configuration(self) -> dict[str, Any]:
        """What config.json says of the weights that were added."""
        return {"quantization_config": _configuration(list(self._groups.values()))} if self._groups else {}


class _BlockFP8:
    def __init__(self, plan: Plan) -> None:
        self._products = {row.get("tensor") for row in plan.ops if row["op"] == "dsc.matmul"}
        # Tables that are looked up have no block scales in this layout, also where they are the head's weight too.
        self._tables = {row.get("tensor") for row in plan.ops if row["op"] == "dsc.embedding"}
        self._written: set[str] = set()

    def add(self, name: str, form: Format, stored: np.ndarray, shape: tuple[int, ...]) -> _Parts:
        """The tensors that hold the weight `name`."""
        if form.codes != "fp8_e4m3":
            raise InputError(
                f"{name}: {form.name} has no place in a block-fp8 checkpoint: it holds fp8 and plain numbers"
            )
        values = form.decode(stored)
        if name in self._tables or name not in self._products:
            return {"": (values, "F32")}
        self._written.add(name)
        codes, scales = block_fp8(values)
        return {"weight": (codes, "F8_E4M3"), "weight_scale_inv": (scales, "F32")}

    def configuration(self) -> dict[str, Any]:
        """What config.json says of the weights that were added."""
        if not self._written:
            return {}
        plain = {name.removesuffix(".weight") for name in self._products - self._written if name}
        if self._products & self._tables:  # a tied head: transformers makes a module of its own for it
            plain.add("lm_head")
        return {
            "quantization_config": {
                "quant_method": "fp8",
                "fmt": "e4m3",
                "weight_block_size": [_BLOCK, _BLOCK],
                "activation_scheme": "dynamic",
                "modules_to_not_convert": sorted(plain),
            }
        }


def _activation(plan: Plan, weight: str) -> str:
    return next(
        (row["activation"] for row in plan.ops if row.get("tensor") == weight and row["op"] == "dsc.matmul"), "f32"
    )


def _scheme(form: Format, columns: int, activation: str) -> dict[str, Any]:
    row = form.elements == columns
    floats = form.codes.startswith("fp8")
    layout = "float-quantized" if floats else "int-quantized" if form.codes == "int8" else "pack-quantized"
    weights = {
        "num_bits": _BITS[form.codes],
        "type": "float" if floats else "int",
        "symmetric": True,
        "strategy": "channel" if row else "group",
        "group_size": None if row else form.elements,
        "dynamic": False,
    }
    inputs = None
    if activation not in ("f32", "bf16"):
        if not activation.endswith("_row"):
            raise InputError(f"activations as {activation} have no place in a compressed-tensors checkpoint")
        kind = "float" if activation.startswith("fp8") else "int"
        inputs = {"num_bits": 8, "type": kind, "symmetric": True, "strategy": "token", "dynamic": True}
    return {
        "targets": [],
        "weights": weights,
        "input_activations": inputs,
        "output_activations": None,
        "format": layout,
    }


def _configuration(groups: list[Mapping[str, Any]]) -> dict[str, Any]:
    layouts = {group["format"] for group in groups}
    return {
        "quant_method": "compressed-tensors",
        "quantization_status": "compressed",
        "format": layouts.pop() if len(layouts) == 1 else "mixed-precision",
        "config_groups": {f"group_{number}": group for number, group in enumerate(groups)},
        "ignore": [],
    }


LAYOUTS = {"compressed-tensors": _CompressedTensors, "block-fp8": _BlockFP8}
"""What `apply_plan` can write, by name."""
