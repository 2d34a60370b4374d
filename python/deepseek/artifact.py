"""One file that holds a compiled program: manifest, IR at the end of import, machine code.

Layout, little endian: magic (8 bytes), sizes of the three parts (3 x u64), SHA-256 over the parts, the parts.
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deepseek.errors import ArtifactError

if TYPE_CHECKING:
    from deepseek.compiler import Compiled
    from deepseek.executable import Executable

__all__ = ["Artifact", "load", "save"]

_MAGIC = b"DSCART\x00\x01"  # the last byte is the version of the layout
_HEADER = struct.Struct("<8s3Q32s")


@dataclass(frozen=True)
class Artifact:
    """What a file holds: machine code, its signature, and the IR that it was made from (text)."""

    object: bytes
    manifest: dict[str, Any]
    text: str

    def executable(self, threads: int | None = None) -> Executable:
        """The program, ready to be called; weights are bound by the caller. Raises `ExecutionError`."""
        from deepseek.executable import Executable

        return Executable(self.object, self.manifest, threads=threads)


def save(path: str | os.PathLike[str], compiled: Compiled, *, text: str, checkpoint: Path | None = None) -> None:
    """Writes `path` whole or not at all; same input, same bytes. `checkpoint`'s name is kept, its weights are not.

    Raises `ArtifactError` when the file cannot be written.
    """
    path = Path(path)
    manifest = dict(compiled.manifest) | {"checkpoint": checkpoint.name if checkpoint else None}
    parts = [json.dumps(manifest, sort_keys=True, separators=(",", ":")).encode(), text.encode(), compiled.object]
    digest = hashlib.sha256(b"".join(parts)).digest()
    temporary = None
    try:
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
            temporary = file.name
            file.write(_HEADER.pack(_MAGIC, *map(len, parts), digest))
            file.writelines(parts)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).chmod(0o666 & ~_umask())
        Path(temporary).replace(path)
    except OSError as error:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)
        raise ArtifactError(f"{path} cannot be written: {error.strerror}") from None


def load(path: str | os.PathLike[str]) -> Artifact:
    """Reads and verifies a file. Raises `ArtifactError` for one that is damaged or of another version."""
    path = Path(path)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ArtifactError(f"{path} cannot be read: {error.strerror}") from None
    if len(content) < _HEADER.size or content[:6] != _MAGIC[:6]:
        raise ArtifactError(f"{path} is not an artifact of this compiler")
    magic, manifest_size, text_size, object_size, digest = _HEADER.unpack_from(content)
    if magic != _MAGIC:
        raise ArtifactError(f"{path} is of version {magic[7]}, this version reads {_MAGIC[7]}: compile it again")
    expected = _HEADER.size + manifest_size + text_size + object_size
    if len(content) != expected:
        raise ArtifactError(f"{path} is truncated or damaged: it has {len(content)} bytes, expected {expected}")
    body = content[_HEADER.size :]
    if hashlib.sha256(body).digest() != digest:
        raise ArtifactError(f"{path} is damaged: its checksum does not match")
    manifest = json.loads(body[:manifest_size])
    text = body[manifest_size : manifest_size + text_size].decode()
    return Artifact(body[manifest_size + text_size :], manifest, text)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
