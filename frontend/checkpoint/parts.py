"""The tensors that together hold one quantized matrix, checked against each other."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from deepseek.errors import CheckpointError
from deepseek.frontend.checkpoint.mapping import short_name
from deepseek.frontend.checkpoint.settings import shorten
from deepseek.frontend.checkpoint.tensors import Tensor

__all__ = ["FLOATS", "Parts"]

FLOATS = ("f16", "bf16", "f32")
_TYPES = {
    "i8": "i1", "i32": "<i4", "i64": "<i8", "f8_e4m3": "u1", "f16": "<f2", "bf16": "<u2", "f32": "<f4",
}  # fmt: skip


class Parts:
    """The tensors of the module `module` by the last part of their names. All methods raise `CheckpointError`."""

    def __init__(self, module: str, tensors: Mapping[str, Tensor], error: Callable[[str], CheckpointError]) -> None:
        self.module = module
        self._tensors = tensors
        self._error = error
        self._used: list[Tensor] = []

    def __contains__(self, part: str) -> bool:
        return part in self._tensors

    def error(self, name: str, text: str) -> CheckpointError:
        """An error about a tensor by its whole name."""
        return self._error(f"tensor {short_name(name)}: {text}")

    def part_error(self, part: str, text: str) -> CheckpointError:
        """An error that begins with what it is about: "tensor X.scales is missing"."""
        return self._error(f"tensor {short_name(f'{self.module}.{part}')} {text}")

    def sources(self) -> tuple[np.ndarray, ...]:
        """The bytes of all tensors that were asked for."""
        return tuple(tensor.data for tensor in self._used)

    def matrix(self, part: str, kinds: Sequence[str]) -> np.ndarray:
        """A tensor of two dimensions, neither of which is 0, of one of the types `kinds` (safetensors' names)."""
        found = self._typed(part, kinds)
        shape = self._tensors[part].shape
        if len(shape) != 2 or 0 in shape:
            raise self.part_error(part, f"has shape {shorten(list(shape))}, expected a matrix")
        return found

    def array(
        self, part: str, kinds: Sequence[str], shape: tuple[int, ...], also: Sequence[tuple[int, ...]] = ()
    ) -> np.ndarray:
        """A tensor in `shape`; stored so or as one of the shapes in `also`, which hold as many numbers."""
        found = self._typed(part, kinds)
        stored = self._tensors[part].shape
        if stored != shape and stored not in also:
            raise self.part_error(part, f"has shape {shorten(list(stored))}, expected {shorten(list(shape))}")
        return found.reshape(shape)

    def order(self, part: str, columns: int, width: int) -> np.ndarray | None:
        """The group of each of `columns`; None if there is no such tensor or it says what their order does."""
        if part not in self:
            return None
        found = self.array(part, ("i32", "i64"), (columns,))
        groups = -(-columns // width)
        if (found == -1).all() or np.array_equal(found, np.arange(columns) // width):
            return None
        if found.min() < 0 or found.max() >= groups:
            raise self.part_error(part, f"names groups {found.min()} to {found.max()}, expected 0 to {groups - 1}")
        return found

    def check_no_second_weight(self) -> None:
        """Raises an error for a `weight` beside other tensors that hold the matrix."""
        weight = self._tensors.get("weight")
        if weight is not None and all(weight is not used for used in self._used):
            others = next(part for part, tensor in self._tensors.items() if tensor is self._used[0])
            raise self.part_error("weight", f"stands beside {others}, expected one of the two")

    def _typed(self, part: str, kinds: Sequence[str]) -> np.ndarray:
        tensor = self._tensors.get(part)
        if tensor is None:
            others = ", ".join(map(short_name, sorted(self._tensors)[:6]))
            raise self.part_error(part, f"is missing, but there is {others}")
        if tensor.format.name not in kinds:
            raise self.part_error(part, f"is {tensor.format.name}, expected {' or '.join(kinds)}")
        self._used.append(tensor)
        return tensor.data.view(_TYPES[tensor.format.name])
