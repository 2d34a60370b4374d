"""Which operations decide together, and what each may be stored as."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from deepseek.errors import InputError
from deepseek.formats import PLAIN_BITS, find_format
from deepseek.precision.graph import Operation

__all__ = [
    "FORMATS",
    "DecisionGroup",
    "formats_for",
    "group_operations",
    "parse_activation",
    "parse_formats",
    "stored_bytes",
]

# What a user may allow, and the formats that it stands for, best first where they cost the same.
FORMATS: dict[str, tuple[str, ...]] = {
    "f32": ("f32",),
    "bf16": ("bf16",),
    "f16": ("f16",),
    "fp8": ("fp8_e4m3_row",),
    "fp8_e5m2": ("fp8_e5m2_row",),
    "int8": ("int8_row", "int8_g64", "q8_0"),
    "int5": ("q5_0",),
    "int4": ("q4_0", "int4_g64", "int4_g128"),
}


_ACTIVATIONS = ("fp8_e4m3", "fp8_e5m2", "int8")


@dataclass(frozen=True)
class DecisionGroup:
    """`ops` share a decision. `weights` are the tensors that they read, `shapes` their sizes [out, in]."""

    name: str
    ops: tuple[Operation, ...]
    weights: tuple[str, ...]
    shapes: tuple[tuple[int, int], ...]

    @property
    def scaled_by(self) -> tuple[str, ...]:
        """Weight and bias of the normalization that nothing but this group reads; none if there is no such."""
        found = {op.scaled_by for op in self.ops}
        return found.pop() if len(found) == 1 else ()

    @property
    def has_product(self) -> bool:
        """Whether one of the operations multiplies; else rows are only looked up."""
        return any(op.op == "dsc.matmul" for op in self.ops)


def parse_formats(text: str) -> list[str]:
    """The names in a list such as "fp8,bf16". Raises `InputError` for one that is unknown."""
    names = [name.strip() for name in text.split(",") if name.strip()]
    for name in names:
        form = find_format(name, 4096)
        if name not in FORMATS and (form is None or not (form.codes or name in PLAIN_BITS)):
            raise InputError(f"format {name!r} is not known, expected some of {', '.join(FORMATS)}")
    if not names:
        raise InputError(f"no format is named, expected some of {', '.join(FORMATS)}")
    return names


def parse_activation(text: str) -> str:
    """What products round their inputs to: f32 (nothing), bf16, or 8 bits under the scale of a row or of `_gN` of it.

    Raises `InputError`.
    """
    name = {"fp8": "fp8_e4m3_row", "int8": "int8_row"}.get(text, text)
    form = find_format(name, 4096)
    if name not in ("f32", "bf16") and (form is None or form.codes not in _ACTIVATIONS or "_" not in name):
        raise InputError(f"activation {text!r} is not known, expected f32, bf16, fp8, int8, or such as fp8_e4m3_g128")
    return name


def formats_for(group: DecisionGroup, allowed: Sequence[str]) -> list[str]:
    """The formats of `allowed` that every weight of the group can have: rows must be whole blocks."""
    wanted = [form for name in allowed for form in FORMATS.get(name, (name,))]

    def fits(name: str) -> bool:
        forms = [find_format(name, columns) for _, columns in group.shapes]
        return all(form is not None and columns % form.elements == 0 for form, (_, columns) in zip(forms, group.shapes))

    # A row that is one group of the same size would be the same format twice.
    found: dict[str, str] = {}
    for name in wanted:
        if fits(name):
            found.setdefault(find_format(name, group.shapes[0][1]).name, name)
    return list(found.values())


def stored_bytes(group: DecisionGroup, name: str) -> int:
    """Bytes of the group's weights in a format."""
    return sum(rows * find_format(name, columns).row_bytes(columns) for rows, columns in group.shapes)


def group_operations(operations: Sequence[Operation]) -> list[DecisionGroup]:
    """Groups of operations that read one weight or one input, in the order of the module.

    Products of one input (q, k and v; gate and up) run as one batch and round their input once, so they go together.
    """
    decided = [op for op in operations if op.stored == "weight" and op.op in ("dsc.matmul", "dsc.embedding")]
    decided = [op for op in decided if len(op.shape) == 2]
    parent = list(range(len(decided)))

    def root(i: int) -> int:
        while parent[i] != i:
            i = parent[i]
        return i

    first: dict[tuple[str, str], int] = {}
    for i, op in enumerate(decided):
        # Plans name operations by their place, so those of one place cannot be told apart.
        keys = [("weight", op.weight), (op.op, op.at)] + ([("reads", op.reads)] if op.reads else [])
        for key in keys:
            parent[root(i)] = root(first.setdefault(key, i))
    members: dict[int, list[Operation]] = {}
    for i, op in enumerate(decided):
        members.setdefault(root(i), []).append(op)
    groups = []
    for ops in members.values():
        weights = {op.weight: op.shape for op in ops}
        groups.append(DecisionGroup(_name(ops), tuple(ops), tuple(weights), tuple(weights.values())))
    return groups


def _name(ops: Sequence[Operation]) -> str:
    """layers.3/self_attn/q_proj+k_proj+v_proj"""
    head, _, _ = ops[0].at.rpartition("/")
    if all(op.at.rpartition("/")[0] == head for op in ops):
        return (head + "/" if head else "") + "+".join(dict.fromkeys(op.at.rpartition("/")[2] for op in ops))
    return "+".join(dict.fromkeys(op.at for op in ops))


def plain_bytes(shapes: Sequence[tuple[int, int]], bits: int = PLAIN_BITS["bf16"]) -> int:
    """Bytes of weights at so many bits for each number."""
    return sum(rows * columns for rows, columns in shapes) * bits // 8
