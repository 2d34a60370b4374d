"""Compiles a module that a user wrote in a process of its own.

Graphs that this package traces are well formed. A file may hold anything, and MLIR's own verifiers and LLVM end the
process on some of it: here that becomes a `CompileError` like every other.
"""

from __future__ import annotations

import os
import pickle
import shlex
import signal
import subprocess
import sys
from typing import Any

from deepseek import errors
from deepseek.compiler import Compiled, cached
from deepseek.errors import CompileError

__all__ = ["assembly", "compile_text", "lower_text"]

_START = "import sys; sys.path[:] = sys.argv[1:]; from deepseek.isolation import serve; serve()"
_LAST_WORDS = ("Assertion `", "LLVM ERROR", "UNREACHABLE")


def compile_text(text: str, *, target: str = "cpu", source_name: str = "module") -> Compiled:
    """Like `deepseek.compiler.compile_text`, whatever the text is. Raises `CompileError`."""
    if found := cached(text, target=target):
        return found
    return _call("compile_text", text, target=target, source_name=source_name)


def lower_text(
    text: str,
    *,
    target: str = "cpu",
    to_phase: str = "llvm",
    plan: str = "",
    source_name: str = "module",
    record_schedules: str | os.PathLike[str] | None = None,
) -> str:
    """Like `deepseek.compiler.lower_text`, whatever the text is. Raises `CompileError`."""
    options = {"target": target, "to_phase": to_phase, "plan": plan, "source_name": source_name}
    return _call("lower_text", text, record_schedules=os.fspath(record_schedules or ""), **options)


def assembly(text: str, *, target: str = "cpu", source_name: str = "module") -> str:
    """Like `deepseek.compiler.assembly`, whatever the text is. Raises `CompileError`."""
    return _call("assembly", text, target=target, source_name=source_name)


def _call(function: str, text: str, **options: str) -> Any:
    try:
        result = subprocess.run(
            [sys.executable, "-c", _START, *sys.path],
            input=pickle.dumps((function, text, options)),
            capture_output=True,
            check=False,
        )
    except OSError as error:
        raise CompileError(f"the compiler's process cannot be started: {error}") from None
    if result.returncode == 0:
        name, value = pickle.loads(result.stdout)
        if name is None:
            return value
        raise getattr(errors, name)(value)
    ending = signal.Signals(-result.returncode).name if result.returncode < 0 else f"status {result.returncode}"
    lines = result.stderr.decode(errors="replace").splitlines()
    said = next((line[line.find(words) :] for line in lines for words in _LAST_WORDS if words in line), "")
    again = f"--dsc-compile=target={options['target']} to={options.get('to_phase', 'llvm')}"
    raise CompileError(
        f"{options['source_name']} breaks a rule that the compiler does not check: its process ended with {ending}"
        + (f", {said}" if said else "")
        + f"\nto run its passes alone: dsc-opt {shlex.quote(again)} {shlex.quote(options['source_name'])}"
    )


def serve() -> None:
    """In the process: one call from stdin, its result to stdout as (name of an error or None, value or message)."""
    from deepseek import compiler

    answer = os.dup(1)
    os.dup2(2, 1)  # what LLVM prints is no answer
    function, text, options = pickle.loads(sys.stdin.buffer.read())
    try:
        reply = (None, getattr(compiler, function)(text, **options))
    except errors.DeepseekError as error:
        reply = (type(error).__name__, str(error))
    with os.fdopen(answer, "wb") as file:
        file.write(pickle.dumps(reply))
