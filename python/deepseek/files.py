"""Files that are written whole or not at all."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

__all__ = ["TEMPORARY_SUFFIX", "replacing"]

TEMPORARY_SUFFIX = ".tmp"


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str], *, sync: bool = True, private: bool = False) -> Iterator[BinaryIO]:
    """A new file that takes the place of `path` when the block ends; when it raises, the old file stays as it was.

    `sync` waits until the data is on the device, so that a power failure cannot leave an empty file. `private` keeps
    it readable by its owner only. Raises OSError.
    """
    import tempfile  # slow to import, and most processes write no file

    path = Path(path)
    temporary = None
    try:
        # In the same folder: only within one file system is replacing atomic.
        handle, name = tempfile.mkstemp(prefix=f".{path.name[:200]}.", suffix=TEMPORARY_SUFFIX, dir=path.parent)
        temporary = Path(name)
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            if sync:
                os.fsync(file.fileno())
        if not private:
            umask = os.umask(0)
            os.umask(umask)
            temporary.chmod(0o666 & ~umask)  # mkstemp's files are private
        temporary.replace(path)
    except BaseException as error:
        if temporary is not None:
            with contextlib.suppress(OSError):
                temporary.unlink()
        if isinstance(error, OSError):  # the temporary name would tell the user nothing
            raise OSError(error.errno, error.strerror, str(path)) from None
        raise
