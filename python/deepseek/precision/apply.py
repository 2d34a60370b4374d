"""A plan's weights as a checkpoint that other programs load: compressed-tensors' layout in a Hugging Face folder.

Layout: https://github.com/vllm-project/compressed-tensors (0.20): integers of 8 bits and floats of 8 bits as they are
with `weight_scale`, narrower integers packed into 32-bit words, the low bits first, with `weight_shape`.
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
from deepseek.formats import Format, find_format
from deepseek.precision.plan import Plan, write_safetensors

if TYPE_CHECKING:
    from deepseek.frontend.checkpoint.checkpoint import Checkpoint

__all__ = ["apply_plan", "pack_words"]

_WEIGHT_FILES = re.compile(r".*\.(safetensors|bin|pt|pth|gguf)|.*\.safetensors\.index\.json")
_BITS = {"int4": 4, "int5": 5, "int8": 8, "fp8_e4m3": 8}


def apply_plan(plan: Plan, checkpoint: Checkpoint, folder: Path) -> list[str]:
    """Writes `folder`, which must not exist or be empty, and returns the names of its files. Raises `InputError`."""
    if checkpoint.container != "safetensors":
        raise InputError(
            f"{checkpoint.path}: only Hugging Face folders can be written again, this is {checkpoint.container}"
        )
    plan.check_model(checkpoint)
    if folder.exists() and any(folder.iterdir()):
        raise InputError(f"{folder}: is not empty, and nothing in it is overwritten: name another folder")
    arrays: dict[str, np.ndarray] = {}
    kinds: dict[str, str] = {}
    groups: dict[str, dict[str, Any]] = {}
    for name, tensor in checkpoint.tensors.items():
        entry = plan.tensors.get(name)
        form = find_format(entry["format"], tensor.shape[-1]) if entry else None
        if form is None or not form.codes:
            kept = plan.arrays[name] if entry else tensor.array
            arrays[name] = kept
            if (form.name if form else tensor.format.name) == "f16":
                kinds[name] = "F16"
            continue
        if form.codes not in _BITS:
            raise InputError(f"{name}: {form.name} has no place in a compressed-tensors checkpoint")
        module = name.removesuffix(".weight")
        for part, (array, kind) in _compressed(plan.arrays[name], form, tensor.shape).items():
            arrays[f"{module}.{part}"] = array
            kinds[f"{module}.{part}"] = kind
        activation = _activation(plan, name)
        scheme = groups.setdefault(f"{form.name} {activation}", _scheme(form, tensor.shape[-1], activation))
        scheme["targets"].append(f"re:^{re.escape(module)}$")
    config = json.loads((checkpoint.path / "config.json").read_text(encoding="utf-8"))
    if groups:
        config["quantization_config"] = _configuration(list(groups.values()))
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


def _compressed(stored: np.ndarray, form: Format, shape: tuple[int, ...]) -> dict[str, tuple[np.ndarray, str]]:
    numbers, scales = form.split(stored)
    parts = {"weight_scale": (scales, "F32")}
    if form.codes.startswith("fp8"):
        return {"weight": (numbers, "F8_E4M3"), **parts}
    if form.codes == "int8":
        return {"weight": (numbers.astype(np.int8), "I8"), **parts}
    packed = pack_words(numbers.astype(np.int16), _BITS[form.codes])
    return {"weight_packed": (packed, "I32"), "weight_shape": (np.array(shape, np.int64), "I64"), **parts}


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
