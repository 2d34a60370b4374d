"""A file mapped into memory read-only, as all weight containers use it."""

from __future__ import annotations

import mmap
import os
import stat
from pathlib import Path

from deepseek.errors import CheckpointError

__all__ = ["MappedFile", "short_name"]


class MappedFile:
    """The mapped file at `path`; `kind` ("GGUF file") is for messages. Raises `CheckpointError`."""

    def __init__(self, path: str | os.PathLike[str], kind: str) -> None:
        self.path = Path(path)
        self._map = self._open(kind)
        self.file_bytes = len(self._map)

    def release(self) -> None:
        """Lets the operating system take back the pages that were read; they are read again on demand."""
        if hasattr(self._map, "madvise") and hasattr(mmap, "MADV_DONTNEED"):
            self._map.madvise(mmap.MADV_DONTNEED)

    def error(self, text: str) -> CheckpointError:
        """A `CheckpointError` that begins with this file's name."""
        return CheckpointError(f"{self.path}: {text}")

    def _open(self, kind: str) -> mmap.mmap:
        try:
            if not stat.S_ISREG(self.path.stat().st_mode):  # opening a pipe would wait for a writer
                raise self.error(f"is not a regular file, expected a {kind}")
            with self.path.open("rb") as file:
                if os.fstat(file.fileno()).st_size == 0:
                    raise self.error(f"the file is empty, expected a {kind}")
                return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise self.error(f"cannot be read as a {kind}: {reason}") from None


def short_name(name: str) -> str:
    """A name from a file as messages show it: whole if it is short and printable."""
    return name if len(name) <= 80 and name.isprintable() and name else repr(name[:80])
