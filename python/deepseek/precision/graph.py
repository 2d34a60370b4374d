"""The operations of a module that a plan decides about, read from its text at the end of phase import."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from deepseek.frontend.checkpoint.checkpoint import Checkpoint
    from deepseek.package import ModelInfo

__all__ = [
    "STORED_OPERANDS",
    "Operation",
    "argument_attributes",
    "describe_to_plan",
    "location_name",
    "main_of",
    "operations_of",
    "weight_behind",
    "weight_elements",
]

_DYNAMIC = -(2**63)


def describe_to_plan(checkpoint: Checkpoint) -> tuple[ModelInfo, str]:
    """What the model is, and its graph in f32: of a decoder with the logits of all positions, by which plans are
    compared. What finds a sampler's candidates is not in it, and no decision."""
    from deepseek.package import describe, kind_of

    return describe(checkpoint, precision="f32", all_logits=kind_of(checkpoint) == "decoder")


@dataclass(frozen=True)
class Operation:
    """One operation. `weight` is the name of the stored operand and `shape` its values' ([out, in] of a product).

    `at` is the location that it comes from; `result` its result's shape with None for open sizes.
    """

    at: str
    op: str
    weight: str | None
    shape: tuple[int, ...]
    result: tuple[int | None, ...]
    stored: str  # "weight", "cache" or ""
    reads: str = ""  # the value that a product multiplies with its weight: products of one input share it
    scaled_by: tuple[str, ...] = ()  # weight and bias of the normalization that gives it, if only products read it


def weight_elements(text: str) -> dict[str, int]:
    """Numbers that each weight argument stands for, by name."""
    _context, module = _parsed(text)
    main = main_of(module)
    found: dict[str, int] = {}
    for argument, attributes in zip(main.regions[0].blocks[0].arguments, argument_attributes(main)):
        readers = [getattr(use.owner, "operation", use.owner) for use in argument.uses]
        if "dsc.weight" in attributes and readers:
            blocks = readers[0].name == "dsc.dequantize"
            shown = readers[0].results[0] if blocks else argument
            found[attributes["dsc.weight"].value] = math.prod(shown.type.shape)
    return found


def operations_of(text: str) -> list[Operation]:
    """The `dsc` operations of @main that compute, in order; weights that ordinary operations read are left out."""
    return [operation for operation in _parse(text) if operation.op.startswith("dsc.")]


def _parsed(text: str) -> tuple[Any, Any]:
    """The context and the module of a text, at the end of phase import."""
    from deepseek.compiler import lower_text, parse_module

    return parse_module(text if "dsc.phase" in text else lower_text(text, to_phase="import"))


def _parse(text: str) -> list[Operation]:
    _context, module = _parsed(text)
    main = main_of(module)
    block = main.regions[0].blocks[0]
    attributes = argument_attributes(main)
    found = []
    for op in block.operations:
        op = op.operation
        if op.name in ("dsc.dim", "dsc.dequantize") or not len(op.results) or is_view(op):
            continue
        weights = [(value, weight_behind(value, attributes)) for value in op.operands]
        result = tuple(None if n == _DYNAMIC else n for n in getattr(op.results[0].type, "shape", ()))
        stored = STORED_OPERANDS.get(op.name)
        if stored is None:
            found.extend(
                Operation(location_name(op), op.name, name, tuple(value.type.shape), result, "weight")
                for value, name in weights
                if name
            )
            if op.name.startswith("dsc.") and not any(name for _, name in weights):
                found.append(Operation(location_name(op), op.name, None, (), result, ""))
            continue
        value, name = weights[stored]
        shape = tuple(value.type.shape)
        if op.name == "dsc.matmul" and "transpose_rhs" not in op.attributes:
            shape = (*shape[:-2], shape[-1], shape[-2])
        kind = "weight" if name else "cache" if op.name == "dsc.kv_append" else ""
        product = op.name == "dsc.matmul"
        reads = op.operands[0].get_name() if product else ""
        scaled_by = _scales_of(op.operands[0], attributes) if product else ()
        found.append(Operation(location_name(op), op.name, name, shape, result, kind, reads, scaled_by))
    return found


# Which operand a decision's storage is about (PrecisionOpInterface::getStoredOperand).
STORED_OPERANDS = {"dsc.matmul": 1, "dsc.embedding": 0, "dsc.kv_append": 2}


def _scales_of(value: Any, attributes: list[dict[str, Any]]) -> tuple[str, ...]:
    """The weights that a normalization multiplies and shifts each channel of `value` with; none unless all that reads
    `value` are products with weights that nothing else reads: only then scales can move from the one to the others."""
    norm = getattr(value.owner, "operation", value.owner)
    scales = list(norm.operands)[1:] if getattr(norm, "name", "") in ("dsc.rms_norm", "dsc.layer_norm") else []
    names = tuple(weight_behind(scale, attributes) or "" for scale in scales)
    if not all(names) or any(len(_readers(argument_behind(scale))) != 1 for scale in scales):
        return ()

    def multiplies(op: Any, operand: int, wanted: int) -> bool:
        return op.name == "dsc.matmul" and operand == wanted and op.operands[0] == value

    for product, operand in _readers(value):
        if not multiplies(product, operand, 0) or "transpose_lhs" in product.attributes:
            return ()
        weight = product.operands[1]
        if not weight_behind(weight, attributes) or len(weight.type.shape) != 2:
            return ()
        if not all(multiplies(*reader, 1) for reader in _readers(argument_behind(weight))):
            return ()
    return names


def _readers(value: Any) -> list[tuple[Any, int]]:
    """The operations that compute with a value, through decoding and casts, and which operand it is."""
    found = []
    for use in value.uses:
        op = getattr(use.owner, "operation", use.owner)
        shows = op.name == "dsc.dequantize" or is_view(op)
        found += _readers(op.results[0]) if shows else [(op, use.operand_number)]
    return found


def main_of(module: Any) -> Any:
    """The operation of @main."""
    return next(
        op.operation
        for op in module.body.operations
        if op.operation.name == "func.func" and op.attributes["sym_name"].value == "main"
    )


def argument_attributes(main: Any) -> list[dict[str, Any]]:
    """Of every argument of @main."""
    found = (
        main.attributes["arg_attrs"]
        if "arg_attrs" in main.attributes
        else [()] * len(main.regions[0].blocks[0].arguments)
    )
    return [{entry.name: entry.attr for entry in attributes} if len(attributes) else {} for attributes in found]


def location_name(op: Any) -> str:
    """The name of the location that an operation comes from; "" if it has none."""
    return op.location.name_str if op.location.is_a_name() else ""


def is_view(op: Any) -> bool:
    """Whether an operation only says otherwise what a stored tensor holds."""
    if op.name != "linalg.generic" or len(op.operands) != 2:
        return False
    names = {inner.operation.name for inner in op.regions[0].blocks[0].operations}
    return names <= {"arith.extf", "arith.truncf", "linalg.yield"} and len(names) == 2


def argument_behind(value: Any) -> Any:
    """The argument that a value shows, through decoding and casts; None for one that was computed."""
    while True:
        op = getattr(value.owner, "operation", value.owner)
        if not hasattr(op, "operands"):
            return value
        if op.name != "dsc.dequantize" and not is_view(op):
            return None
        value = op.operands[0]


def weight_behind(value: Any, attributes: list[dict[str, Any]]) -> str | None:
    """The name of the weight that a value shows, through decoding and casts."""
    argument = argument_behind(value)
    entry = {} if argument is None else attributes[argument.arg_number]
    return entry["dsc.weight"].value if "dsc.weight" in entry else None
