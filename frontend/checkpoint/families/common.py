"""What all families share: weights as graph arguments, linear modules, and checks of a tensor table."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from deepseek import acg
from deepseek.errors import InputError
from deepseek.frontend.checkpoint.checkpoint import Checkpoint
from deepseek.frontend.checkpoint.mapping import short_name
from deepseek.frontend.checkpoint.tensors import BLOCK_FORMATS, PLAIN_FORMATS, StoredTensor, Tensor

__all__ = [
    "PRECISIONS",
    "check_precision",
    "check_tensors",
    "count_bytes",
    "count_elements",
    "linear",
    "matrix",
    "weight",
]

_MATRIX_FORMATS = tuple(form.name for form in BLOCK_FORMATS.values())
PRECISIONS = ("as-stored", "f32", "bf16", "f16")
_BITS = {"f32": 32, "bf16": 16, "f16": 16}


def check_precision(precision: str) -> None:
    """Raises `InputError` for a precision that no family knows."""
    if precision not in PRECISIONS:
        raise InputError(f"precision is {precision!r}, expected one of {', '.join(PRECISIONS)}")


def count_elements(tensors: Mapping[str, StoredTensor]) -> int:
    """Number of elements of all tensors together."""
    return sum(tensor.elements for tensor in tensors.values())


def count_bytes(tensors: Mapping[str, StoredTensor], precision: str) -> int:
    """Bytes of all tensors at `precision`; vectors are f32 unless they are stored in less."""
    total = 0
    for tensor in tensors.values():
        converted = precision != "as-stored" and len(tensor.shape) > 1
        total += tensor.elements * _BITS[precision] // 8 if converted else tensor.nbytes
    return total


def weight(tensors: Mapping[str, StoredTensor], name: str) -> Any:
    """The tensor as f32, exactly what its storage stands for."""
    stored = tensors[name]
    raw = acg.weight(name, *stored.argument)
    if stored.format == "f32":
        return raw
    return raw.astype("f32") if stored.format in PLAIN_FORMATS else acg.dequantize(raw, stored.format)


def matrix(tensors: Mapping[str, StoredTensor], name: str, precision: str) -> Any:
    """The tensor as the right side of a product, in memory as `precision` says; sums and the left side stay f32."""
    stored = tensors[name]
    raw = acg.weight(name, *stored.argument)
    if stored.format in PLAIN_FORMATS:
        return raw if precision in ("as-stored", stored.format) else raw.astype("f32").astype(precision)
    return acg.dequantize(raw, stored.format, expanded=precision != "as-stored").astype(
        "f32" if precision == "as-stored" else precision
    )


def linear(x: Any, tensors: Mapping[str, StoredTensor], module: str, scope: str, precision: str) -> Any:
    """x [..., in] times the weight [out, in] of `module`, plus its bias [out] if it has one."""
    with acg.scope(scope):
        bias = weight(tensors, f"{module}.bias") if f"{module}.bias" in tensors else None
        right = matrix(tensors, f"{module}.weight", precision)
        return acg.matmul(
            x, right, bias=bias, transpose_rhs=True, factors=factors(tensors[f"{module}.weight"], precision)
        )


def factors(stored: StoredTensor, precision: str) -> str | None:
    """What operands of products with a weight may be rounded to: as stored, with blocks and bf16 only."""
    rounded = stored.format not in ("f32", "f16") if precision == "as-stored" else precision == "bf16"
    return "bf16" if rounded else None


def check_tensors(
    checkpoint: Checkpoint,
    expected: Mapping[str, tuple[int, ...]],
    optional: Mapping[str, tuple[int, ...]],
    ignored: str = "",
) -> dict[str, StoredTensor]:
    """The expected tensors and the optional ones that are there. Raises `CheckpointError`.

    Without weights, all expected ones are bf16. Every other tensor is an error, unless `ignored`, a regular expression,
    matches its whole name: a tensor that the family does not use means that the checkpoint is of another kind. A bias
    of zeros, which GPTQ's programs add to every module, does not matter.
    """
    if checkpoint.shapes_only:
        return {name: StoredTensor("bf16", shape) for name, shape in expected.items()}
    used: dict[str, StoredTensor] = {}
    for name, shape in (*expected.items(), *optional.items()):
        tensor = checkpoint.tensors.get(name)
        if tensor is None:
            if name in expected:
                raise checkpoint.error(f"tensor {name} is missing, expected it with shape {list(shape)}")
            continue
        if tensor.shape != shape:
            raise checkpoint.error(f"tensor {name} has shape {list(tensor.shape)}, expected {list(shape)}")
        formats = PLAIN_FORMATS if len(shape) == 1 else _MATRIX_FORMATS
        blocks = len(shape) > 1 and tensor.format.codes
        if tensor.format.name not in formats and not blocks:
            raise checkpoint.error(f"tensor {name} is {tensor.format.name}, expected one of {', '.join(formats)}")
        used[name] = tensor.stored
    unused = [name for name in checkpoint.tensors if name not in used and not re.fullmatch(ignored, name)]
    unused = [name for name in unused if not (name.endswith(".bias") and _is_zero(checkpoint.tensors[name]))]
    if unused:
        more = f" and {len(unused) - 3} more" if len(unused) > 3 else ""
        raise checkpoint.error(
            f"has tensors that the {checkpoint.architecture} family does not use: {', '.join(map(short_name, unused[:3]))}{more}"
        )
    return used


def _is_zero(tensor: Tensor) -> bool:
    return len(tensor.shape) == 1 and not tensor.data.any()
