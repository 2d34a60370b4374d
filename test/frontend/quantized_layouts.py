"""Quantized matrices of other libraries: random ones in each layout, and a decoder of one number at a time."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from deepseek.precision.plan import write_safetensors

BF16 = ml_dtypes.bfloat16
FP8 = ml_dtypes.float8_e4m3fn
KINDS = {"int32": "I32", "int64": "I64", "int8": "I8", "float16": "F16", "float32": "F32", "bfloat16": "BF16", "float8_e4m3fn": "F8_E4M3"}  # fmt: skip


@dataclass
class Case:
    """A layout: `quantize(rng, out, in)` gives a module's tensors, `number(tensors, o, i)` decodes one weight of them."""

    config: dict[str, Any]
    quantize: Callable[[np.random.Generator, int, int], dict[str, np.ndarray]]
    number: Callable[[dict[str, np.ndarray], int, int], float]
    formats: dict[int, str]  # by the length of a row


def write(folder: Path, base: Path, arrays: dict[str, np.ndarray], quantization: dict[str, Any] | None) -> Path:
    """`base` with other weights and a `quantization_config`."""
    folder.mkdir(exist_ok=True)
    config = json.loads((base / "config.json").read_text())
    if quantization is not None:
        config["quantization_config"] = quantization
    (folder / "config.json").write_text(json.dumps(config))
    kinds = {name: KINDS[array.dtype.name] for name, array in arrays.items()}
    raw = {name: array.view(f"u{array.dtype.itemsize}") for name, array in arrays.items() if array.dtype in (BF16, FP8)}
    write_safetensors(folder / "model.safetensors", arrays | raw, {"format": "pt"}, kinds)
    return folder


def linears(weights: dict[str, np.ndarray]) -> Iterator[tuple[str, tuple[int, int]]]:
    for name, value in weights.items():
        if name.endswith("_proj.weight"):
            yield name.removesuffix(".weight"), value.shape


def quantized(folder: Path, base: tuple[Path, dict[str, np.ndarray]], case: Case) -> tuple[Path, dict[str, np.ndarray]]:
    """A folder in the case's layout, and all its weights as f32, decoded one by one."""
    rng = np.random.default_rng(5)
    stored, decoded = dict(base[1]), dict(base[1])
    for module, (rows, columns) in linears(base[1]):
        parts = case.quantize(rng, rows, columns)
        del stored[f"{module}.weight"]
        stored |= {f"{module}.{part}": array for part, array in parts.items()}
        streams = dict(parts)
        values = [[case.number(streams, o, i) for i in range(columns)] for o in range(rows)]
        decoded[f"{module}.weight"] = np.array(values, np.float32)
    return write(folder, base[0], stored, case.config), decoded


def words(numbers: np.ndarray, bits: int) -> np.ndarray:
    """Unsigned numbers [rows, n] as int32 [rows, words], the low bits first."""
    rows = []
    for row in numbers.tolist():
        stream = sum(number << place * bits for place, number in enumerate(row))
        rows.append(np.frombuffer(stream.to_bytes(-(-len(row) * bits // 32) * 4, "little"), "<i4"))
    return np.array(rows)


def take(row: np.ndarray, place: int, bits: int) -> int:
    """Number `place` of a row of words."""
    first = place * bits // 32
    pair = sum((int(word) & 0xFFFFFFFF) << 32 * k for k, word in enumerate(row[first : first + 2]))
    return pair >> place * bits % 32 & (1 << bits) - 1


def random_scales(rng: np.random.Generator, shape: tuple[int, ...], dtype: Any, most: int) -> np.ndarray:
    return (rng.uniform(0.02, 0.1, shape) / most).astype(dtype)


def q4_1(code: int, zero: int, scale: Any) -> np.float32:
    """What a block of q4_1 holds: the offset is f16."""
    return np.float32(scale) * np.float32(code) + np.float32(np.float16(np.float32(-zero) * np.float32(scale)))


def gptq(bits: int, group: int, formats: dict[int, str], *, zeros=False, order=False, version="gptq") -> Case:
    def quantize(rng: np.random.Generator, rows: int, columns: int) -> dict[str, np.ndarray]:
        width = columns if group == -1 else group
        groups = -(-columns // width)
        middle, least = 1 << bits - 1, 1 if version == "gptq" else 0
        offsets = rng.integers(1, 2 * middle, (groups, rows)) if zeros else np.full((groups, rows), middle)
        index = np.arange(columns) // width
        return {
            "qweight": np.ascontiguousarray(words(rng.integers(0, 2 * middle, (rows, columns)), bits).T),
            "qzeros": words(offsets - least, bits),
            "scales": random_scales(rng, (groups, rows), np.float16, middle),
            "g_idx": (rng.permutation(index) if order else index).astype(np.int32),
            "bias": np.zeros(rows, np.float16),
        }

    def number(parts: dict[str, np.ndarray], o: int, i: int) -> float:
        at = parts["g_idx"][i]
        code = take(parts["qweight"][:, o], i, bits)
        zero = take(parts["qzeros"][at], o, bits) + (version == "gptq")
        scale = parts["scales"][at, o]
        return q4_1(code, zero, scale) if "q4_1" in formats.values() else np.float32(code - zero) * np.float32(scale)

    config = {
        "quant_method": "gptq",
        "bits": bits,
        "group_size": group,
        "checkpoint_format": version,
        "desc_act": order,
    }
    return Case(config, quantize, number, formats)


def awq(group: int, formats: dict[int, str]) -> Case:
    def quantize(rng: np.random.Generator, rows: int, columns: int) -> dict[str, np.ndarray]:
        groups = 1 if group == -1 else -(-columns // group)

        def packed(numbers: np.ndarray) -> np.ndarray:
            shuffled = numbers.reshape(len(numbers), -1, 8)[..., [0, 2, 4, 6, 1, 3, 5, 7]]
            return words(shuffled.reshape(numbers.shape), 4)

        return {
            "qweight": packed(rng.integers(0, 16, (columns, rows))),
            "qzeros": packed(rng.integers(0, 16, (groups, rows))),
            "scales": random_scales(rng, (groups, rows), np.float16, 8),
        }

    def number(parts: dict[str, np.ndarray], o: int, i: int) -> float:
        place = o // 8 * 8 + [0, 2, 4, 6, 1, 3, 5, 7].index(o % 8)
        at = 0 if group == -1 else i // group
        return q4_1(take(parts["qweight"][i], place, 4), take(parts["qzeros"][at], place, 4), parts["scales"][at, o])

    config = {"quant_method": "awq", "bits": 4, "group_size": group, "version": "gemm", "zero_point": True}
    return Case(config, quantize, number, formats)


def random_fp8(rng: np.random.Generator, rows: int, columns: int) -> np.ndarray:
    return rng.normal(0, 100, (rows, columns)).clip(-448, 448).astype(FP8)


def fp8(block: tuple[int, int] | None, dtype: Any, formats: dict[int, str]) -> Case:
    def quantize(rng: np.random.Generator, rows: int, columns: int) -> dict[str, np.ndarray]:
        shape = (-(-rows // block[0]), -(-columns // block[1])) if block else ()
        scales = np.array(random_scales(rng, shape, dtype, 200))
        extra = {"input_scale": np.ones(1, np.float32)}
        return {
            "weight": random_fp8(rng, rows, columns),
            "weight_scale_inv" if block else "weight_scale": scales,
        } | extra

    def number(parts: dict[str, np.ndarray], o: int, i: int) -> float:
        scale = parts["weight_scale_inv"][o // block[0], i // block[1]] if block else parts["weight_scale"]
        return np.float32(parts["weight"][o, i]) * np.float32(scale)

    config = {"quant_method": "fp8", "fmt": "e4m3", "activation_scheme": "dynamic"}
    config |= {"weight_block_size": list(block)} if block else {}
    return Case(config, quantize, number, formats)


def compressed(
    layout: str, bits: int, strategy: str, formats: dict[int, str], *, group=None, dtype=BF16, zeros=False, order=False
) -> Case:
    block = (64, 96)
    packed, floats = layout == "pack-quantized", layout == "float-quantized"
    middle = 1 << bits - 1

    def place(o: int, i: int) -> tuple[int, int]:
        places = {
            "tensor": (0, 0),
            "channel": (o, 0),
            "group": (o, i // (group or 1)),
            "block": (o // block[0], i // block[1]),
        }
        return places[strategy]

    def quantize(rng: np.random.Generator, rows: int, columns: int) -> dict[str, np.ndarray]:
        last = place(rows - 1, columns - 1)
        shape = (last[0] + 1, last[1] + 1)
        codes = rng.integers(-middle, middle, (rows, columns))
        parts = {"weight_scale": random_scales(rng, shape, dtype, 200 if floats else middle)}
        if zeros:
            offsets = rng.integers(-middle, middle, shape)
            if packed:
                parts["weight_zero_point"] = np.ascontiguousarray(words((offsets + middle).T, bits).T)
            else:
                parts["weight_zero_point"] = offsets.astype(np.int8)
        if order:
            parts["weight_g_idx"] = rng.permutation(np.arange(columns) // group).astype(np.int32)
        if packed:
            return parts | {"weight_packed": words(codes + middle, bits), "weight_shape": np.array([rows, columns])}
        if strategy == "tensor":
            parts = {part: array.reshape(1) for part, array in parts.items()}
        return parts | {"weight": random_fp8(rng, rows, columns) if floats else codes.astype(np.int8)}

    def number(parts: dict[str, np.ndarray], o: int, i: int) -> float:
        at = (o, parts["weight_g_idx"][i]) if order else place(o, i)
        at = at[1:] if strategy == "tensor" else at
        scale = parts["weight_scale"][at]
        if floats:
            return np.float32(parts["weight"][o, i]) * np.float32(scale)
        code = take(parts["weight_packed"][o], i, bits) - middle if packed else int(parts["weight"][o, i])
        zero = 0
        if zeros:
            held = parts["weight_zero_point"]
            zero = take(held[:, at[-1]], o, bits) - middle if packed else int(held[at])
        if "q4_1" in formats.values():
            return q4_1(code + middle, zero + middle, scale)
        return np.float32(code - zero) * np.float32(scale)

    weights = {
        "num_bits": bits,
        "type": "float" if floats else "int",
        "symmetric": not zeros,
        "strategy": strategy,
        "group_size": group,
        "block_structure": list(block) if strategy == "block" else None,
        "actorder": "group" if order else None,
    }
    config = {
        "quant_method": "compressed-tensors",
        "quantization_status": "compressed",
        "format": layout,
        "config_groups": {"group_0": {"targets": ["Linear"], "weights": weights, "format": layout}},
        "ignore": ["lm_head"],
    }
    return Case(config, quantize, number, formats)


OTHERS = {
    "gptq 4, g32": gptq(4, 32, {128: "q4_0", 192: "q4_0"}),
    "gptq 4, g128, short last groups": gptq(4, 128, {128: "int4_g128", 192: "int4_g64"}, version="gptq_v2"),
    "gptq 4, g64, zeros": gptq(4, 64, {128: "q4_1", 192: "q4_1"}, zeros=True),
    "gptq 8, rows": gptq(8, -1, {128: "int8_g128", 192: "int8_g192"}),
    "gptq 8, g64, zeros": gptq(8, 64, {128: "f32", 192: "f32"}, zeros=True),
    "gptq 4, g32, out of order": gptq(4, 32, {128: "f32", 192: "f32"}, order=True),
    "gptq 4, g48": gptq(4, 48, {128: "f32", 192: "f32"}),
    "awq g64": awq(64, {128: "q4_1", 192: "q4_1"}),
    "awq rows": awq(-1, {128: "q4_1", 192: "q4_1"}),
    "fp8 128x128": fp8((128, 128), np.float32, {128: "fp8_e4m3_g128", 192: "fp8_e4m3_g64"}),
    "fp8 96x40, bf16": fp8((96, 40), BF16, {128: "f32", 192: "f32"}),
    "fp8, one scale": fp8(None, np.float32, {128: "fp8_e4m3_g128", 192: "fp8_e4m3_g192"}),
}
COMPRESSED = {
    "pack 4, g64": compressed("pack-quantized", 4, "group", {128: "int4_g64", 192: "int4_g64"}, group=64),
    "pack 8, g32": compressed("pack-quantized", 8, "group", {128: "q8_0", 192: "q8_0"}, group=32, dtype=np.float16),
    "pack 4, rows, f32": compressed(
        "pack-quantized", 4, "channel", {128: "fp8_e4m3_g128", 192: "int4_g192"}, dtype=np.float32
    ),
    "pack 4, g32, zeros": compressed("pack-quantized", 4, "group", {128: "q4_1", 192: "q4_1"}, group=32, zeros=True),
    "pack 4, g32, zeros, f32": compressed(
        "pack-quantized", 4, "group", {128: "fp8_e4m3_g32", 192: "fp8_e4m3_g32"}, group=32, zeros=True, dtype=np.float32
    ),
    "pack 5, g64": compressed("pack-quantized", 5, "group", {128: "q5_0", 192: "q5_0"}, group=64),
    "pack 4, g32, out of order": compressed(
        "pack-quantized", 4, "group", {128: "f32", 192: "f32"}, group=32, order=True
    ),
    "int 8, rows": compressed("int-quantized", 8, "channel", {128: "int8_g128", 192: "int8_g192"}),
    "int 8, g64": compressed("naive-quantized", 8, "group", {128: "int8_g64", 192: "int8_g64"}, group=64),
    "int 8, g64, f32": compressed(
        "int-quantized", 8, "group", {128: "f32", 192: "f32"}, group=64, dtype=np.float32
    ),
    "int 8, tensor, zeros": compressed("int-quantized", 8, "tensor", {128: "f32", 192: "f32"}, zeros=True),
    "fp8, rows": compressed("float-quantized", 8, "channel", {128: "fp8_e4m3_g128", 192: "fp8_e4m3_g192"}),
    "fp8, tensor": compressed("float-quantized", 8, "tensor", {128: "fp8_e4m3_g128", 192: "fp8_e4m3_g192"}),
    "fp8, 64x96": compressed("float-quantized", 8, "block", {128: "fp8_e4m3_g32", 192: "fp8_e4m3_g96"}),
}  # fmt: skip


def stored_only(tmp_path: Path, plain: Any, name: str) -> tuple[Path, dict[str, np.ndarray]]:
    """A folder in a layout, and what it stores; decodes nothing."""
    case = (OTHERS | COMPRESSED)[name]
    rng = np.random.default_rng(5)
    stored = {name: array for name, array in plain[1].items() if not name.endswith("_proj.weight")}
    for module, shape in linears(plain[1]):
        stored |= {f"{module}.{part}": array for part, array in case.quantize(rng, *shape).items()}
    return write(tmp_path / "model", plain[0], stored, case.config), stored
