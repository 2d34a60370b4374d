"""Disk cache of compiled objects under $XDG_CACHE_HOME/deepseek (default ~/.cache/deepseek).

One entry is one file objects/KEY.bin: a header, JSON metadata, the object, and a SHA-256 over all of it and
the key. Writers replace files atomically; whatever does not verify counts as a miss. A cache that cannot be
written costs one warning per process, never an error.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import struct
import time
import warnings
from pathlib import Path
from typing import Any

from deepseek.files import TEMPORARY_SUFFIX, replacing

__all__ = ["DEFAULT_MAX_BYTES", "directory", "get", "put"]

DEFAULT_MAX_BYTES = 4 << 30

_HEADER = struct.Struct("<8sQQ32s")  # magic with format version, metadata bytes, object bytes, SHA-256
_MAGIC = b"DSCOBJ\x00\x01"
_KEY = re.compile(r"[A-Za-z0-9_-]{1,128}")
_ABANDONED_SECONDS = 3600.0  # a temporary file this old has lost its writer

_warned = False


def directory() -> Path:
    """Folder of the entries; raises OSError if there is no home folder."""
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if not base.is_absolute():  # the XDG specification: relative paths are to be ignored
        try:
            base = Path.home() / ".cache"
        except RuntimeError as error:
            raise OSError(str(error)) from error
    return base / "deepseek" / "objects"


def get(key: str) -> dict[str, Any] | None:
    """Return {"object": bytes, "metadata": dict} of `key`, or None if there is no intact entry."""
    _check_key(key)
    if _max_bytes() == 0:
        return None
    try:
        path = directory() / f"{key}.bin"
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        _warn(error)
        return None
    entry = _decode(key, content)
    with contextlib.suppress(OSError):
        if entry is None:
            path.unlink()
        else:
            os.utime(path)  # the age that eviction goes by
    return entry


def put(key: str, object: bytes, metadata: dict[str, Any]) -> None:
    """Store an object with JSON-serializable metadata, then evict the least recently used entries.

    The cache holds at most $DEEPSEEK_CACHE_MAX_BYTES (default 4 GiB; 0 turns it off).
    """
    _check_key(key)
    content = _encode(key, object, metadata)
    limit = _max_bytes()
    if len(content) > limit:
        return
    try:
        folder = directory()
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        # No sync: a half-written entry fails its checksum.
        with replacing(folder / f"{key}.bin", sync=False, private=True) as file:
            file.write(content)
        _evict(folder, limit, keep=f"{key}.bin")
    except OSError as error:
        _warn(error)


def _check_key(key: str) -> None:
    if not _KEY.fullmatch(key):
        raise ValueError(f"a cache key is 1 to 128 letters, digits, '_' or '-', got {key!r}")


def _digest(key: str, metadata: bytes, object: bytes) -> bytes:
    # The lengths keep two different splits of the same bytes apart.
    digest = hashlib.sha256(struct.pack("<QQ", len(metadata), len(object)))
    for part in (_MAGIC, key.encode(), metadata, object):
        digest.update(part)
    return digest.digest()


def _encode(key: str, object: bytes, metadata: dict[str, Any]) -> bytes:
    text = json.dumps(metadata, sort_keys=True).encode()
    return _HEADER.pack(_MAGIC, len(text), len(object), _digest(key, text, object)) + text + object


def _decode(key: str, content: bytes) -> dict[str, Any] | None:
    if len(content) < _HEADER.size:
        return None
    magic, metadata_size, object_size, digest = _HEADER.unpack_from(content)
    if magic != _MAGIC or len(content) != _HEADER.size + metadata_size + object_size:
        return None
    text = content[_HEADER.size : _HEADER.size + metadata_size]
    object = content[_HEADER.size + metadata_size :]
    if _digest(key, text, object) != digest:
        return None
    return {"object": object, "metadata": json.loads(text)}


def _evict(folder: Path, limit: int, keep: str) -> None:
    """Remove abandoned temporary files and, beyond `limit` bytes, the least recently used entries."""
    entries: list[tuple[float, int, str]] = []
    total = 0
    with os.scandir(folder) as listing:
        for item in listing:
            # Other processes write and evict at the same time.
            with contextlib.suppress(FileNotFoundError):
                status = item.stat(follow_symlinks=False)
                if item.name.endswith(TEMPORARY_SUFFIX) and time.time() - status.st_mtime > _ABANDONED_SECONDS:
                    Path(item.path).unlink()
                elif item.name.endswith(".bin"):
                    total += status.st_size
                    if item.name != keep:
                        entries.append((status.st_mtime, status.st_size, item.path))
    for _, size, path in sorted(entries) if total > limit else ():
        with contextlib.suppress(FileNotFoundError):
            Path(path).unlink()
        total -= size
        if total <= limit:
            return


def _max_bytes() -> int:
    text = os.environ.get("DEEPSEEK_CACHE_MAX_BYTES", "")
    if not text:
        return DEFAULT_MAX_BYTES
    if not text.isascii() or not text.isdigit():
        _warn(f"DEEPSEEK_CACHE_MAX_BYTES must be a number of bytes, got {text!r}")
        return DEFAULT_MAX_BYTES
    return int(text)


def _warn(reason: object) -> None:
    global _warned
    if _warned:
        return
    _warned = True
    warnings.warn(
        f"the compilation cache does not work, programs are compiled anew each time: {reason}; "
        "set XDG_CACHE_HOME to a writable folder with free space",
        RuntimeWarning,
        stacklevel=3,
    )
