"""Reads safetensors files: the tensor table, and raw bytes as views of a mapping.

Layout: the header's size (8 bytes, little endian), the header (a JSON object), the data, which the tensors cover
without holes or overlaps. Format: https://github.com/huggingface/safetensors#format
"""

from __future__ import annotations

import math
import os
import struct
from typing import Any

import numpy as np

from deepseek.formats import Format
from deepseek.frontend.checkpoint.mapping import MappedFile, short_name
from deepseek.frontend.checkpoint.settings import parse_json, shorten
from deepseek.frontend.checkpoint.tensors import Tensor

__all__ = ["SafetensorsFile"]

_MAX_HEADER_BYTES = 100_000_000  # the limit of the reference implementation
_MAX_DIMS = 8
# Types whose elements are whole bytes. Only floats are weights; others may lie beside them, such as position ids.
_FORMATS = {
    name: Format(name.lower(), 1, size)
    for size, names in {
        1: ("BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2", "F8_E8M0"),
        2: ("U16", "I16", "F16", "BF16"),
        4: ("U32", "I32", "F32"),
        8: ("U64", "I64", "F64"),
    }.items()
    for name in names
}


class SafetensorsFile(MappedFile):
    """An open safetensors file; `metadata` maps names to texts, `tensors` maps names to `Tensor`.

    Raises `CheckpointError` when the file cannot be opened or is damaged. `file_index` goes into its tensors.
    """

    def __init__(self, path: str | os.PathLike[str], file_index: int = 0) -> None:
        super().__init__(path, "safetensors file")
        self.metadata: dict[str, str] = {}
        self.tensors: dict[str, Tensor] = {}
        self._file_index = file_index
        if self.file_bytes < 8:
            raise self.error(f"has {self.file_bytes} bytes, expected at least the 8 of the header's size")
        (size,) = struct.unpack("<Q", self._map[:8])
        if size > min(self.file_bytes - 8, _MAX_HEADER_BYTES):
            raise self.error(
                f"the header's size is {size}, expected at most {min(self.file_bytes - 8, _MAX_HEADER_BYTES)}; "
                "the file is truncated, damaged, or not a safetensors file"
            )
        self._place(self._header(size), begin=8 + size)

    def __repr__(self) -> str:
        return f"SafetensorsFile({str(self.path)!r}, {len(self.tensors)} tensors, {self.file_bytes} bytes)"

    def _header(self, size: int) -> dict[str, Any]:
        try:
            header = parse_json(self._map[8 : 8 + size])
        except ValueError as error:
            raise self.error(f"the header is not valid JSON: {error}") from None
        if not isinstance(header, dict):
            raise self.error(f"the header is {shorten(header)}, expected a JSON object")
        metadata = header.pop("__metadata__", {})
        if not isinstance(metadata, dict) or not all(isinstance(text, str) for text in metadata.values()):
            raise self.error("__metadata__ in the header is not an object of strings")
        self.metadata = metadata
        return header

    def _place(self, header: dict[str, Any], begin: int) -> None:
        """Checks the entries against each other and the file, and makes the views."""
        available = self.file_bytes - begin
        table = [(name, *self._entry(name, entry, available)) for name, entry in header.items()]
        position, previous = 0, "the header"
        data = np.frombuffer(self._map, np.uint8)
        for name, form, shape, first, last in sorted(table, key=lambda row: row[3:]):
            what = f"tensor {short_name(name)}"
            if first != position:
                problem = "overlaps" if first < position else "leaves a hole after"
                raise self.error(f"{what} at data offset {first} {problem} {previous}, which ends at {position}")
            position, previous = last, what
            view = data[begin + first : begin + last]
            try:
                view = view.reshape(*shape[:-1], shape[-1] * form.bytes) if shape else view
            except ValueError:  # an empty tensor whose other sizes are beyond what an array can index
                raise self.error(f"{what} has the impossible shape {shorten(list(shape))}") from None
            self.tensors[name] = Tensor(name, form, shape, view, self._file_index, begin + first)
        if position != available:
            raise self.error(f"the tensors end at data offset {position}, expected {available}, the end of the file")
        self.tensors = {name: self.tensors[name] for name in header}  # the order of the file

    def _entry(self, name: str, entry: Any, available: int) -> tuple[Format, tuple[int, ...], int, int]:
        what = f"tensor {short_name(name)}"
        if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
            raise self.error(f"{what} is {shorten(entry)}, expected an object with dtype, shape and data_offsets")
        dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
        form = _FORMATS.get(dtype) if isinstance(dtype, str) else None
        if form is None:
            raise self.error(f"{what} has dtype {shorten(dtype)}, expected one of {', '.join(_FORMATS)}")
        if not _are_sizes(shape):
            raise self.error(f"{what} has shape {shorten(shape)}, expected a list of at most {_MAX_DIMS} sizes")
        if not _are_sizes(offsets) or len(offsets) != 2:
            raise self.error(f"{what} has data_offsets {shorten(offsets)}, expected [begin, end]")
        first, last = offsets
        if not first <= last <= available:
            raise self.error(
                f"{what} takes bytes {first} to {last} of the data, but the file has {available} bytes of data; "
                "it is truncated or damaged"
            )
        expected = math.prod(shape) * form.bytes
        if last - first != expected:
            raise self.error(
                f"{what} takes {last - first} bytes, expected {shorten(expected)} for {dtype} of shape {shorten(shape)}"
            )
        return form, tuple(shape), first, last


def _are_sizes(values: Any) -> bool:
    return (
        isinstance(values, list)
        and len(values) <= _MAX_DIMS
        and all(type(value) is int and 0 <= value < 2**63 for value in values)
    )
