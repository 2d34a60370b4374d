"""Where in the user's program something happens: locations of ops and messages that quote the line."""

from __future__ import annotations

import linecache
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

from ..errors import CompileError

_PACKAGE = str(Path(__file__).resolve().parent) + os.sep
_scopes = threading.local()


def user_frame() -> tuple[str, int]:
    """(absolute file, line) of the innermost frame outside this package, or what `position` says."""
    said = getattr(_scopes, "position", None)
    if said is not None:
        return said
    frame = sys._getframe(1)
    while frame is not None and frame.f_code.co_filename.startswith(_PACKAGE):
        frame = frame.f_back
    if frame is None:
        return "unknown", 0
    return frame.f_code.co_filename, frame.f_lineno


def short_name(file: str) -> str:
    """`file` relative to the working directory, or its base name: text and objects hold no absolute paths."""
    try:
        return Path(file).relative_to(Path.cwd()).as_posix()
    except ValueError:
        return Path(file).name


def quote(text: str) -> str:
    """An MLIR string literal."""
    out = []
    for byte in text.encode():
        plain = 32 <= byte < 127 and byte not in (34, 92)
        out.append(chr(byte) if plain else f"\\{byte:02X}")
    return '"' + "".join(out) + '"'


def location() -> str:
    """The `loc(...)` of an op made now: the scope if there is one, else the user's file and line."""
    names = getattr(_scopes, "names", None)
    if names:
        return f"loc({quote('/'.join(names))})"
    file, line = user_frame()
    return f"loc({quote(short_name(file))}:{line}:0)"


@contextmanager
def scope(name: str) -> Iterator[None]:
    """Names the ops made inside, `layers.7/self_attn/q_proj`; scopes inside each other are joined with "/"."""
    if getattr(_scopes, "names", None) is None:
        _scopes.names = []
    _scopes.names.append(name)
    try:
        yield
    finally:
        _scopes.names.pop()


@contextmanager
def position(file: str, line: int, name: str) -> Iterator[None]:
    """What is made inside comes from this line of a program that others have traced, and is named `name`."""
    before = getattr(_scopes, "position", None), getattr(_scopes, "names", None)
    _scopes.position, _scopes.names = (file, line), [name]
    try:
        yield
    finally:
        _scopes.position, _scopes.names = before


def show_line(file: str, line: int) -> str:
    """`model.py:7: `y = x @ w``, as messages begin."""
    text = linecache.getline(file, line).strip()
    return f"{short_name(file)}:{line}:" + (f" `{text}`" if text else "")


def fail(problem: str, instead: str = "") -> NoReturn:
    """Raises CompileError: `file:line`, the source line, the problem, and what to use instead."""
    shown = show_line(*user_frame())
    hint = f"; {instead}" if instead else ""
    raise CompileError(f"{shown.rstrip(':')}: {problem}{hint}")
