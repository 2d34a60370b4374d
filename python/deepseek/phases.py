"""A module after each phase of the compiler, in a folder with a page that compares them. `dump_ir=`."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

from deepseek import compiler
from deepseek.errors import InputError
from deepseek.files import replacing
from deepseek.phases_html import compare

__all__ = ["dump"]

_PHASE = re.compile(r'\bdsc\.phase = "([^"]+)"')


def dump(
    text: str,
    folder: str | os.PathLike[str],
    *,
    target: str = "cpu",
    name: str = "module",
    lower: Callable[..., str] = compiler.lower_text,
) -> list[Path]:
    """Writes `0-traced.mlir`, `1-import.mlir` .. `8-llvm.mlir` and `index.html` into a folder, made if needed.

    Every phase starts from what the one before left; a module that stands behind a phase starts there. Raises
    `InputError` where the folder or a file in it cannot be written, `CompileError` where a phase fails; the phases
    before it are written then. `lower` runs a phase: `isolation.lower_text` for a text that may be anything.
    """
    path = Path(folder)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"dump_ir: {path} is no folder and cannot be made one: {error.strerror}") from None
    done = _PHASE.search(text)
    first = compiler.PHASES.index(done[1]) + 1 if done and done[1] in compiler.PHASES else 0
    given = done[1] if first else "traced"
    texts, written = {given: text}, []

    def write(file: Path, content: str) -> None:
        try:
            with replacing(file) as stream:
                stream.write(content.encode())
        except OSError as error:
            raise InputError(f"dump_ir: {file} cannot be written: {error.strerror}") from None
        written.append(file)

    write(path / f"{first}-{given}.mlir", text)
    try:
        for number, phase in enumerate(compiler.PHASES[first:], first + 1):
            text = lower(text, target=target, to_phase=phase, source_name=name)
            texts[phase] = text
            write(path / f"{number}-{phase}.mlir", text)
    finally:
        write(path / "index.html", compare(name, texts))
    return written
