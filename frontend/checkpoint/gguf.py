"""Reads GGUF v2 and v3 files: metadata, the tensor table, and raw block bytes as views of a mapping.

Everything read from the file is bounds-checked before it is used, so that a damaged file ends in one
`CheckpointError`. Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import mmap
import os
import struct
from collections.abc import Iterator
from typing import Any

import numpy as np

from deepseek.formats import Format
from deepseek.frontend.checkpoint.mapping import MappedFile, short_name
from deepseek.frontend.checkpoint.settings import Settings, describe
from deepseek.frontend.checkpoint.tensors import BLOCK_FORMATS, Tensor

__all__ = ["GGUFFile", "StringArray"]

# Named only so that the message about an unsupported file says what it holds.
_OTHER_FORMATS = {
    9: "q8_1", 10: "q2_k", 11: "q3_k", 15: "q8_k", 16: "iq2_xxs", 17: "iq2_xs",
    18: "iq3_xxs", 19: "iq1_s", 20: "iq4_nl", 21: "iq3_s", 22: "iq2_s", 23: "iq4_xs", 24: "i8", 25: "i16",
    26: "i32", 27: "i64", 28: "f64", 29: "iq1_m", 34: "tq1_0", 35: "tq2_0", 39: "mxfp4",
}  # fmt: skip

_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "B", 10: "Q", 11: "q", 12: "d"}
_BOOL, _STRING, _ARRAY = 7, 8, 9
_MAX_DIMS = 4  # GGML_MAX_DIMS
_MAX_NESTING = 4
_DEFAULT_ALIGNMENT = 32
# The fewest bytes that one entry can take; a count that cannot fit is refused before anything is read.
_MIN_METADATA_BYTES = 8 + 4 + 1
_MIN_TENSOR_BYTES = 8 + 4 + 4 + 8


class GGUFFile(MappedFile):
    """An open GGUF file; `metadata` maps keys to Python values, `tensors` maps names to `Tensor`.

    Metadata arrays are `StringArray` for strings, lists for nested arrays, numpy arrays for numbers.
    Raises `CheckpointError` when the file cannot be opened or is damaged.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        super().__init__(path, "GGUF file")
        self.metadata: dict[str, Any] = {}
        self.tensors: dict[str, Tensor] = {}
        _Parser(self, self._map).parse()

    def __repr__(self) -> str:
        return f"GGUFFile({str(self.path)!r}, {len(self.tensors)} tensors, {self.file_bytes} bytes)"

    @property
    def settings(self) -> Settings:
        """The metadata by typed access."""
        return Settings(self.metadata, "metadata key", self.error)

    def array(self, key: str, kind: type) -> Any:
        """Metadata array of `key`: `list[str]` for `kind=str`, else a numpy array; None when absent."""
        value = self.metadata.get(key)
        if value is None:
            return None
        numeric = isinstance(value, np.ndarray) and kind is not str
        strings = isinstance(value, StringArray) and kind is str
        if not (numeric or strings):
            raise self.error(f"metadata key {key} is {describe(value)}, expected an array of {kind.__name__}")
        return list(value) if strings else value


class StringArray:
    """Strings of a file, decoded anew whenever they are iterated over: as objects a vocabulary and its merges take 20
    MB."""

    def __init__(self, data: mmap.mmap, begin: int, length: int) -> None:
        self._data, self._begin, self._length = data, begin, length

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[str]:
        position, unpack, data = self._begin, struct.Struct("<Q").unpack_from, self._data
        for _ in range(self._length):
            begin = position + 8
            position = begin + unpack(data, position)[0]
            yield data[begin:position].decode()

    def __repr__(self) -> str:
        return f"<an array of {self._length} strings>"


class _Parser:
    """Walks the header once; `position` never passes the end of the mapping."""

    def __init__(self, file: GGUFFile, mapping: mmap.mmap) -> None:
        self.file = file
        self.bytes = mapping
        self.size = len(mapping)
        self.position = 0

    def parse(self) -> None:
        magic = self.bytes[:4]
        if magic != b"GGUF":
            raise self.file.error(f"begins with {magic!r}, expected the magic b'GGUF'")
        self.position = 4
        version = self.scalar("I", "the version")
        if version not in (2, 3):
            swapped = int.from_bytes(version.to_bytes(4, "little"), "big")
            if swapped in (2, 3):
                raise self.file.error("is a big-endian GGUF file, expected little-endian")
            raise self.file.error(f"GGUF version is {version}, expected 2 or 3")
        tensors = self.count("tensors", "tensor count", _MIN_TENSOR_BYTES)
        entries = self.count("metadata", "metadata count", _MIN_METADATA_BYTES)
        for index in range(entries):
            key = self.string(f"metadata key {index} of {entries}")
            if key in self.file.metadata:
                raise self.file.error(f"metadata key {short_name(key)} appears twice, expected unique keys")
            kind = self.scalar("I", f"the type of metadata key {short_name(key)}")
            self.file.metadata[key] = self.value(kind, f"metadata key {short_name(key)}", 0)
        table = [self.tensor_entry(index, tensors) for index in range(tensors)]
        self.place(table)

    def need(self, count: int, what: str) -> int:
        """Advances over `count` bytes and returns where they begin."""
        begin = self.position
        if count > self.size - begin:
            raise self.file.error(
                f"{what} needs {count} bytes at offset {begin}, but the file has {self.size} bytes; "
                "it is truncated or damaged"
            )
        self.position = begin + count
        return begin

    def scalar(self, code: str, what: str) -> Any:
        form = struct.Struct("<" + code)
        return form.unpack_from(self.bytes, self.need(form.size, what))[0]

    def count(self, noun: str, what: str, smallest: int) -> int:
        value = self.scalar("Q", f"the {what}")
        room = (self.size - self.position) // smallest
        if value > room:
            raise self.file.error(f"{what} is {value}, but at most {room} {noun} fit into the rest of the file")
        return value

    def string(self, what: str) -> str:
        length = self.scalar("Q", f"the length of {what}")
        begin = self.need(length, what)
        try:
            return self.bytes[begin : self.position].decode()
        except UnicodeDecodeError:
            raise self.file.error(f"{what} at offset {begin} is not valid UTF-8") from None

    def strings(self, length: int, what: str) -> StringArray:
        # The vocabulary and the merges are about 100,000 strings: this loop is the reader's time.
        position, size, data = self.position, self.size, self.bytes
        first, unpack = position, struct.Struct("<Q").unpack_from
        good = 0
        try:
            while good < length:
                begin = position + 8
                (count,) = unpack(data, position)
                if count > size - begin:
                    break
                position = begin + count
                data[begin:position].decode()
                good += 1
        except (struct.error, UnicodeDecodeError):
            pass
        self.position = position
        if good < length:
            raise self.file.error(
                f"{what}: item {good} of {length} at offset {position} is not a UTF-8 string inside the file; "
                "it is truncated or damaged"
            )
        return StringArray(data, first, length)

    def value(self, kind: int, what: str, depth: int) -> Any:
        if kind == _STRING:
            return self.string(what)
        if kind == _ARRAY:
            return self.items(what, depth + 1)
        if kind not in _SCALARS:
            raise self.file.error(f"{what} has value type {kind}, expected 0 to 12")
        value = self.scalar(_SCALARS[kind], what)
        if kind != _BOOL:
            return value
        if value > 1:
            raise self.file.error(f"{what} is a bool stored as {value}, expected 0 or 1")
        return bool(value)

    def items(self, what: str, depth: int) -> Any:
        if depth > _MAX_NESTING:
            raise self.file.error(f"{what} nests arrays deeper than {_MAX_NESTING} levels")
        kind = self.scalar("I", f"the element type of {what}")
        length = self.scalar("Q", f"the length of {what}")
        if kind in _SCALARS:
            dtype = np.dtype("?" if kind == _BOOL else "<" + _SCALARS[kind])
            begin = self.need(length * dtype.itemsize, what)
            raw = np.frombuffer(self.bytes[begin : self.position], np.uint8)
            if kind == _BOOL and raw.size and raw.max() > 1:
                raise self.file.error(f"{what} holds a bool stored as {raw.max()}, expected 0 or 1")
            return raw.view(dtype)
        smallest = {_STRING: 8, _ARRAY: 12}.get(kind)
        if smallest is None:
            raise self.file.error(f"{what} has element type {kind}, expected 0 to 12")
        if length * smallest > self.size - self.position:
            raise self.file.error(
                f"{what} has {length} items at offset {self.position}, more than fit into the file of {self.size} bytes"
            )
        if kind == _STRING:
            return self.strings(length, what)
        return [self.value(kind, what, depth) for _ in range(length)]

    def tensor_entry(self, index: int, total: int) -> tuple[str, Format, tuple[int, ...], int, int]:
        name = self.string(f"the name of tensor {index} of {total}")
        what = f"tensor {short_name(name)}"
        rank = self.scalar("I", f"the rank of {what}")
        if not 1 <= rank <= _MAX_DIMS:
            raise self.file.error(f"{what} has {rank} dimensions, expected 1 to {_MAX_DIMS}")
        shape = tuple(self.scalar("Q", f"the shape of {what}") for _ in range(rank))[::-1]
        kind = self.scalar("I", f"the block format of {what}")
        offset = self.scalar("Q", f"the offset of {what}")
        block = BLOCK_FORMATS.get(kind)
        if block is None:
            known = ", ".join(form.name for form in BLOCK_FORMATS.values())
            label = f" ({_OTHER_FORMATS[kind]})" if kind in _OTHER_FORMATS else ""
            raise self.file.error(f"{what} has block format {kind}{label}, expected one of {known}")
        if shape[-1] % block.elements:
            raise self.file.error(
                f"{what} is {block.name} with rows of {shape[-1]} elements, expected a multiple of {block.elements}"
            )
        nbytes = block.row_bytes(shape[-1])
        for size in shape[:-1]:
            nbytes *= size
        return name, block, shape, offset, nbytes

    def place(self, table: list[tuple[str, Format, tuple[int, ...], int, int]]) -> None:
        """Checks offsets and makes the views."""
        alignment = self.file.settings.get("general.alignment", int, _DEFAULT_ALIGNMENT)
        if alignment <= 0 or alignment & (alignment - 1):
            raise self.file.error(f"general.alignment is {alignment}, expected a power of two")
        base = -(-self.position // alignment) * alignment
        available = max(self.size - base, 0)
        data = np.frombuffer(self.bytes, np.uint8)
        end, previous = 0, ""
        for name, block, shape, offset, nbytes in sorted(table, key=lambda entry: (entry[3], entry[4])):
            what = f"tensor {short_name(name)}"
            if name in self.file.tensors:
                raise self.file.error(f"{what} appears twice, expected unique names")
            if offset % alignment:
                raise self.file.error(f"{what} is at data offset {offset}, expected a multiple of {alignment}")
            if nbytes > available or offset > available - nbytes:
                raise self.file.error(
                    f"{what} takes {nbytes} bytes at data offset {offset}, but the file has {available} bytes of data; "
                    "it is truncated or damaged"
                )
            if nbytes and offset < end:
                raise self.file.error(f"{what} at data offset {offset} overlaps {previous}, which ends at {end}")
            if nbytes:
                end, previous = offset + nbytes, what
            view = data[base + offset : base + offset + nbytes]
            try:
                view = view.reshape(*shape[:-1], block.row_bytes(shape[-1]))
            except ValueError:  # an empty tensor whose other sizes are beyond what an array can index
                raise self.file.error(f"{what} has the impossible shape {list(shape)}") from None
            self.file.tensors[name] = Tensor(name, block, shape, view, offset=base + offset)
        # The order of the file, which the sort by offset may have changed.
        self.file.tensors = {entry[0]: self.file.tensors[entry[0]] for entry in table}
