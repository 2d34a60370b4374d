"""NAME.dsc: one file with a compiled program and all that it needs to run, mapped instead of read.

Layout, little endian:

    0   magic: "DSCART", a zero byte, the version of this layout
    8   bytes of the header (u64), bytes of the file (u64), 8 zero bytes
    32  SHA-256 of the header
    64  header: a JSON object, padded with blanks to a multiple of 64
    ... body: sections and weights, each at a multiple of 64, zeros between them

The header holds the program's manifest, where each section and weight lies, and the SHA-256 of every 4 MiB of the
body, so that every bit of the file is covered and verification runs on all CPUs. Equal input gives equal bytes: no
dates, no folders. `docs/artifact.md` describes every field.
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
import mmap
import os
import re
import shutil
import struct
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deepseek.errors import ArtifactError
from deepseek.files import replacing

if TYPE_CHECKING:
    import numpy as np

__all__ = ["Artifact", "ExternalFile", "write"]

_MAGIC = b"DSCART\x00\x03"  # the last byte is the version of the layout
_HEADER = struct.Struct("<8sQQ8s32s")
_ALIGNMENT = 64  # bytes: a cache line and the widest vector
_CHUNK = 4 << 20
_DTYPE = re.compile(r"<[fiu][248]|\|[iu]1")
_FOLDER = re.compile(r'"[^"\n]*/([^"/\n]+":\d+:\d+)')  # of a location in IR: "/folder/file.py":3:5


class ExternalFile:
    """A weight file that an artifact refers to instead of holding a copy; `path` must not change afterwards."""

    def __init__(self, path: Path) -> None:
        self.path = path


def write(
    path: str | os.PathLike[str],
    *,
    text: str,
    object: bytes,
    manifest: Mapping[str, Any],
    safer: tuple[bytes, Mapping[str, Any]] | None = None,
    model: Mapping[str, Any] | None = None,
    tokenizer: str | None = None,
    weights: Mapping[str, np.ndarray] | None = None,
    external: Mapping[str, tuple[ExternalFile, int]] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Writes `path` whole or not at all; an old file stays until the new one is complete.

    `text` is the module at the end of `import`, `safer` object and manifest of the same program in formats that cannot
    overflow, `model` describes a language model or encoder, `weights` are arrays
    by name (None: the program gets them from its caller). `external` maps names of `weights` to a file and the offset
    of their bytes in it: these are stored by reference. `progress` is called with (bytes written, bytes in all).
    Raises `ArtifactError` when the file cannot be written.
    """
    path = Path(path)
    sections = {"ir": _FOLDER.sub(r'"\1', text).encode(), "object": object}
    if tokenizer is not None:
        sections["tokenizer"] = tokenizer.encode()
    if safer is not None:
        sections["safer"] = safer[0]
    programs = {"manifest": manifest, "safer": safer and safer[1]}
    try:
        header, parts = _layout(sections, programs, model, weights, external or {})
        _replace(path, header, parts, progress or (lambda done, total: None))
    except OSError as error:
        raise ArtifactError(f"{error.filename or path} {_reason(error)}") from None


def _layout(
    sections: Mapping[str, bytes],
    programs: Mapping[str, Any],
    model: Mapping[str, Any] | None,
    weights: Mapping[str, np.ndarray] | None,
    external: Mapping[str, tuple[ExternalFile, int]],
) -> tuple[dict[str, Any], list[memoryview]]:
    """The header, with body offsets from the body's begin and no hashes yet, and the body's parts in order."""
    from deepseek import __version__, runtime

    parts: list[memoryview] = []
    offset = 0

    def place(data: Any) -> list[int]:
        nonlocal offset
        begin, size = offset, len(data)
        padding = -size % _ALIGNMENT
        parts.extend((memoryview(data), memoryview(bytes(padding))))
        offset += size + padding
        return [begin, size]

    header: dict[str, Any] = {
        "compiler": __version__,
        "runtime": runtime.VERSION,
        **programs,
        "model": model,
        "sections": {name: place(data) for name, data in sections.items()},
        "files": [],
        "weights": None,
    }
    if weights is not None:
        files = list(dict.fromkeys(external[name][0] for name in weights if name in external))
        header["files"] = [_describe_file(file.path) for file in files]
        header["weights"] = {}
        for name, array in sorted(weights.items()):
            entry: dict[str, Any] = {"dtype": array.dtype.str, "shape": list(array.shape)}
            if name in external:
                file, begin = external[name]
                entry |= {"file": files.index(file), "offset": begin}
            else:
                entry |= {"file": None, "offset": place(_bytes_of(array))[0]}
            header["weights"][name] = entry
    header["body_bytes"] = offset
    return header, parts


def _replace(path: Path, header: dict[str, Any], parts: list[memoryview], progress: Callable[[int, int], None]) -> None:
    count = -(-header["body_bytes"] // _CHUNK)
    # The hashes are known last but stand first: room for them is kept.
    begin = _HEADER.size + len(_encoded(header | {"chunks": ["0" * 64] * count}))
    total = begin + header["body_bytes"]
    free = shutil.disk_usage(path.parent).free
    if total > free:
        raise OSError(errno.ENOSPC, f"{total} bytes are needed, {free} are free", str(path))
    with replacing(path) as file:
        file.seek(begin)
        digests, done = [], begin
        for chunk in _chunks(parts):
            file.write(chunk)
            digests.append(hashlib.sha256(chunk).hexdigest())
            done += len(chunk)
            progress(done, total)
        encoded = _encoded(header | {"chunks": digests})
        file.seek(0)
        file.write(_HEADER.pack(_MAGIC, len(encoded), total, bytes(8), hashlib.sha256(encoded).digest()))
        file.write(encoded)


def _chunks(parts: Sequence[memoryview]) -> Iterator[memoryview]:
    """The concatenation of `parts` in pieces of `_CHUNK` bytes; only pieces that span parts are copied."""
    pending = bytearray()
    for part in parts:
        position = 0
        while position < len(part):
            piece = part[position : position + _CHUNK - len(pending)]
            position += len(piece)
            if len(piece) == _CHUNK:
                yield piece
                continue
            pending += piece
            if len(pending) == _CHUNK:
                yield memoryview(bytes(pending))
                pending.clear()
    if pending:
        yield memoryview(bytes(pending))


def _encoded(header: Mapping[str, Any]) -> bytes:
    text = json.dumps(header, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()
    return text + b" " * (-len(text) % _ALIGNMENT)


def _bytes_of(array: np.ndarray) -> memoryview:
    import numpy as np

    return memoryview(np.ascontiguousarray(array).reshape(-1).view(np.uint8))


def _describe_file(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        digests = []
        while block := file.read(_CHUNK):
            digests.append(hashlib.sha256(block).hexdigest())
        return {"path": str(path.resolve()), "bytes": file.tell(), "chunks": digests}


class Artifact:
    """An open artifact, verified: its parts are views of the mapped file.

    `manifest` is the program's signature and code description, `model` what kind of model it is (None for a plain
    program), `compiler` the version that wrote it.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Opens and verifies `path`. Raises `ArtifactError` for a file that is damaged, of another version, or whose
        external weights are missing or have changed."""
        self.path = Path(path)
        self._map = self._mapped(self.path)
        self.file_bytes = len(self._map)
        try:
            header, begin = self._read_header()
            self._verify(self.path, self._map, begin, header["chunks"], header["body_bytes"])
            self.header = header
            self.manifest: dict[str, Any] = header["manifest"]
            self.model: dict[str, Any] | None = header["model"]
            self.compiler: str = header["compiler"]
            self._sections = {name: self._section(begin, *place) for name, place in header["sections"].items()}
            parts = {"ir", "object"} | ({"safer"} if header["safer"] else set())
            if not parts <= self._sections.keys() or not isinstance(self.model, (dict, type(None))):
                raise ValueError("it lacks sections, or its model is no object")
            features, target = self.manifest["features"], self.manifest["target"]
            if not all(isinstance(name, str) for name in [target, *features]):
                raise ValueError("its target or a feature is no string")
            files = [self._external(entry) for entry in header["files"]]
            self._weights = self._weight_views(header["weights"], begin, files)
        except (LookupError, TypeError, ValueError, AttributeError, RecursionError, OSError) as error:
            raise self._error(f"is damaged: its header is malformed ({type(error).__name__}: {error})") from None

    def check_machine(self) -> None:
        """Raises `ArtifactError` when this machine lacks a CPU feature, or the GPU, that the code is for; anything but
        running is possible."""
        from deepseek import runtime

        if problem := runtime.unsupported(self.manifest):
            raise self._error(f"cannot run here: {problem}")

    @property
    def object(self) -> bytes:
        """The machine code: a relocatable ELF object."""
        return bytes(self._sections["object"])

    @property
    def safer(self) -> tuple[bytes, dict[str, Any]] | None:
        """Machine code and manifest of the same program in formats that cannot overflow, if the file holds one."""
        manifest = self.header["safer"]
        return None if manifest is None else (bytes(self._sections["safer"]), manifest)

    @cached_property
    def text(self) -> str:
        """The module at the end of `import`."""
        return self._decoded("ir")

    @property
    def tokenizer(self) -> str | None:
        """The tokenizer as JSON, or None."""
        return self._decoded("tokenizer") if "tokenizer" in self._sections else None

    @property
    def weights(self) -> dict[str, np.ndarray] | None:
        """Read-only arrays by name, or None if the program gets its weights from its caller."""
        return self._weights

    @property
    def external_files(self) -> list[str]:
        """Paths of the weight files that this artifact refers to."""
        return [entry["path"] for entry in self.header["files"]]

    def release(self) -> None:
        """Lets the operating system take back pages that were read; they are read again on demand."""
        if hasattr(mmap, "MADV_DONTNEED"):
            self._map.madvise(mmap.MADV_DONTNEED)

    def _error(self, text: str) -> ArtifactError:
        return ArtifactError(f"{self.path} {text}")

    def _decoded(self, section: str) -> str:
        try:
            return bytes(self._sections[section]).decode()
        except UnicodeDecodeError:
            raise self._error(f"is damaged: its section {section} is not UTF-8") from None

    def _mapped(self, path: Path) -> mmap.mmap:
        try:
            if not path.is_file():  # opening a pipe would wait for a writer
                path.stat()
                raise ArtifactError(f"{path} is not a regular file, expected an artifact (.dsc)")
            with path.open("rb") as file:
                return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except OSError as error:
            raise ArtifactError(f"{path} cannot be read: {error.strerror}") from None
        except ValueError:
            raise ArtifactError(f"{path} is empty, expected an artifact (.dsc)") from None

    def _read_header(self) -> tuple[dict[str, Any], int]:
        """The header and where the body begins."""
        from deepseek import __version__, runtime

        data = self._map
        if data[:6] != _MAGIC[:6]:
            raise self._error(f"begins with {data[:6]!r}, expected an artifact (.dsc), which begins with b'DSCART'")
        if data[6:8] != _MAGIC[6:8] and len(data) >= 8:
            raise self._error(
                f"has layout version {data[7]}, this version reads {_MAGIC[7]}: compile the model again with "
                f"deepseek-runtime {__version__}"
            )
        if len(data) < _HEADER.size:
            raise self._error(f"is truncated: it has {len(data)} bytes, its header alone takes {_HEADER.size}")
        _, header_bytes, file_bytes, zeros, digest = _HEADER.unpack_from(data)
        if file_bytes != len(data) or header_bytes > len(data) - _HEADER.size or zeros != bytes(8):
            kind = "truncated" if file_bytes > len(data) else "damaged"
            raise self._error(f"is {kind}: it has {len(data)} bytes, its header says {file_bytes}")
        encoded = data[_HEADER.size : _HEADER.size + header_bytes]
        if hashlib.sha256(encoded).digest() != digest:
            raise self._error("is damaged: the checksum of its header does not match")
        header = json.loads(encoded)
        if (header["compiler"], header["runtime"]) != (__version__, runtime.VERSION):
            raise self._error(
                f"was compiled by deepseek-runtime {header['compiler']} (runtime interface {header['runtime']}), this is "
                f"{__version__} (interface {runtime.VERSION}): compile the model again, or install that version"
            )
        begin = _HEADER.size + header_bytes
        if begin % _ALIGNMENT or header["body_bytes"] != len(data) - begin:
            raise self._error(f"is damaged: its body has {len(data) - begin} bytes, expected {header['body_bytes']}")
        return header, begin

    def _verify(self, path: Path, data: mmap.mmap, begin: int, digests: Sequence[str], size: int) -> None:
        if len(digests) != -(-size // _CHUNK):
            raise self._error(f"is damaged: it lists {len(digests)} checksums for {size} bytes")
        wrong = _first_mismatch(memoryview(data)[begin : begin + size], digests)
        if wrong is not None:
            first = begin + wrong * _CHUNK
            raise ArtifactError(
                f"{path} is damaged: the checksum of bytes {first} to {min(first + _CHUNK, begin + size)} does not match"
            )

    def _section(self, begin: int, offset: int, size: int) -> memoryview:
        if min(offset, size) < 0 or begin + offset + size > self.file_bytes:
            raise self._error(f"is damaged: a section of {size} bytes at {offset} ends behind the file")
        return memoryview(self._map)[begin + offset : begin + offset + size]

    def _external(self, entry: Mapping[str, Any]) -> mmap.mmap:
        """The mapped weight file: where it was, or beside the artifact, if both moved together."""
        stored = Path(entry["path"])
        beside = self.path.parent / stored.name
        path = next((path for path in (stored, beside) if path.is_file()), None)
        if path is None:
            raise self._error(f"needs its weights in {stored} (or {beside}), which is not there")
        data = self._mapped(path)
        if len(data) != entry["bytes"]:
            raise self._error(
                f"needs {path} as it was when compiled: it has {len(data)} bytes, expected {entry['bytes']}"
            )
        self._verify(path, data, 0, entry["chunks"], len(data))
        return data

    def _weight_views(
        self, table: Mapping[str, Any] | None, begin: int, files: Sequence[mmap.mmap]
    ) -> dict[str, np.ndarray] | None:
        import numpy as np

        if table is None:
            return None
        views = {}
        for name, entry in table.items():
            if not _DTYPE.fullmatch(entry["dtype"]) or min(entry["shape"], default=0) < 0 or entry["offset"] < 0:
                raise ValueError(f"weight {name} is {entry['dtype']} {entry['shape']} at {entry['offset']}")
            dtype, inside = np.dtype(entry["dtype"]), entry["file"] is None
            source = self._map if inside else files[entry["file"]]
            offset = entry["offset"] + (begin if inside else 0)
            count = math.prod(entry["shape"])
            if offset + count * dtype.itemsize > len(source):
                raise ValueError(f"weight {name} ends behind the file")
            views[name] = np.frombuffer(source, dtype, count, offset).reshape(entry["shape"])
        return views


def _first_mismatch(data: memoryview, digests: Sequence[str]) -> int | None:
    """Number of the first chunk whose SHA-256 differs; all CPUs take part, since hashlib releases the lock."""
    wrong: list[int] = []
    following = iter(range(len(digests)))

    def work() -> None:
        for index in following:  # one shared iterator: next() on it is atomic
            if hashlib.sha256(data[index * _CHUNK : (index + 1) * _CHUNK]).hexdigest() != digests[index]:
                wrong.append(index)

    helpers = [threading.Thread(target=work) for _ in range(min(len(os.sched_getaffinity(0)), len(digests)) - 1)]
    for helper in helpers:
        helper.start()
    work()
    for helper in helpers:
        helper.join()
    return min(wrong, default=None)


def _reason(error: OSError) -> str:
    if error.errno == errno.ENOSPC:
        more = "" if error.strerror == os.strerror(errno.ENOSPC) else f": {error.strerror}"
        return f"cannot be written: no space left on the device{more}; the old file, if any, is unchanged"
    return f"cannot be written: {error.strerror}; the old file, if any, is unchanged"
