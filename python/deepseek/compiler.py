"""Runs the compiler's phases on a module and keeps the result on disk. Loads MLIR only when something is compiled."""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import struct
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from deepseek import cache, runtime
from deepseek.errors import CompileError

PHASES = ("import", "precision", "parallel", "fuse", "schedule", "host", "codegen", "llvm")

SCHEDULES = "DEEPSEEK_SCHEDULES"  # names a JSON file of schedules that come before the compiler's own

_LIBRARY = Path(__file__).parent / "_mlir" / "_mlir_libs" / "libDscCompiler.so"


@dataclass(frozen=True)
class Compiled:
    """Machine code of a module.

    `object` is a relocatable ELF object, `manifest` its signature, `compile_s` the seconds that passes and code
    generation took (0 on a cache hit), `key` the cache key.
    """

    object: bytes
    manifest: dict[str, Any]
    compile_s: float
    cache_hit: bool
    key: str


def compile_text(text: str, *, target: str = "cpu", plan: str = "", source_name: str = "module") -> Compiled:
    """Compiles a module, given as text at any phase, for `target`; or finds it in the disk cache.

    `plan` is a precision plan as text (`--dsc-select-precision`), `source_name` stands for the text in messages. Raises `CompileError` with the line, the rule that was broken
    and a `dsc-opt` command that shows the failure again.
    """
    if found := cached(text, target=target, plan=plan):
        return found
    begin = time.perf_counter()
    with _parsed(text, source_name) as (module, diagnostics):
        _run_phases(module, target, "llvm", diagnostics, plan=plan)
        try:
            code, manifest = _bindings()[1].emit_object(module)
        except ValueError as error:
            raise CompileError(_message(diagnostics, str(error))) from None
    key = cache_key(text, target, plan)
    compiled = Compiled(code, json.loads(manifest), time.perf_counter() - begin, False, key)
    cache.put(key, compiled.object, compiled.manifest)
    return compiled


def cached(text: str, *, target: str = "cpu", plan: str = "") -> Compiled | None:
    """What the disk cache holds of a module."""
    key = cache_key(text, target, plan)
    entry = cache.get(key)
    return None if entry is None else Compiled(entry["object"], entry["metadata"], 0.0, True, key)


def lower_text(
    text: str,
    *,
    target: str = "cpu",
    to_phase: str = "llvm",
    plan: str = "",
    source_name: str = "module",
    record_schedules: str | os.PathLike[str] | None = None,
) -> str:
    """The module at the end of `to_phase`, with locations. Raises `CompileError`.

    `record_schedules`: a JSON file that every dispatch's schedule is added to (`--dsc-schedule-dispatches`).
    """
    if to_phase not in PHASES:
        raise CompileError(f"unknown phase {to_phase!r}, known are {', '.join(PHASES)}")
    with _parsed(text, source_name) as (module, diagnostics):
        _run_phases(module, target, to_phase, diagnostics, os.fspath(record_schedules or ""), plan)
        return module.operation.get_asm(enable_debug_info=True) + "\n"


def assembly(text: str, *, target: str = "cpu", source_name: str = "module") -> str:
    """CPU assembly of a module given at any phase. Raises `CompileError`."""
    with _parsed(text, source_name) as (module, diagnostics):
        _run_phases(module, target, "llvm", diagnostics)
        return _bindings()[1].emit_assembly(module)


@contextmanager
def transformed(
    text: str, pipeline: str, prepare: Callable[[Any], None] | None = None, *, source_name: str = "module"
) -> Iterator[Any]:
    """The module behind passes, spelled as for `dsc-opt --pass-pipeline`; `prepare` may change it before they run.

    Valid within the `with` only. Raises `CompileError`.
    """
    ir, dsc = _bindings()
    from deepseek._mlir.passmanager import PassManager

    dsc.register_passes()
    with _parsed(text, source_name) as (module, diagnostics):
        if prepare is not None:
            prepare(module)
        try:
            PassManager.parse(pipeline, module.context).run(module.operation)
        except (ir.MLIRError, ValueError) as error:
            raise CompileError(_message(diagnostics, str(error))) from None
        yield module


def parse_module(text: str | bytes) -> tuple[Any, Any]:
    """(context, module) of a module as text or bytecode, all dialects loaded. Raises `CompileError`."""
    ir, dsc = _bindings()
    context = ir.Context()
    dsc.register(context)
    diagnostics: list[str] = []
    handler = context.attach_diagnostic_handler(_collector(diagnostics))
    try:
        return context, _parse(ir, text, context)
    except ir.MLIRError as error:
        raise CompileError(_message(diagnostics, str(error))) from None
    finally:
        handler.detach()


def cache_key(text: str, target: str, plan: str = "") -> str:
    """Digest of all that the object depends on: module, target, plan, this machine, schedules, the compiler itself.

    Raises `CompileError` when $DEEPSEEK_SCHEDULES names a file that cannot be read.
    """
    digest = hashlib.sha256()
    native = ""
    if target.removesuffix("+strict") in ("cpu", "cpu:native"):
        native = f"{_l2_bytes()} " + ",".join(sorted(runtime.cpu_features()))
    for part in (text, target, plan, native, _schedules_text(), _compiler_identity()):
        digest.update(part.encode())
        digest.update(b"\0")
    return digest.hexdigest()


@lru_cache(maxsize=1)
def _compiler_identity() -> str:
    """Changes whenever the compiler does, and with nothing else: version, and the build id of its library."""
    from deepseek import __version__

    return f"{__version__} {_build_id(_LIBRARY)}"


def _build_id(library: Path) -> str:
    """The linker's digest of an ELF library's contents, in hex; "" if there is no such library."""
    try:
        with library.open("rb") as file:
            head = file.read(4096)
    except FileNotFoundError:
        return ""
    # The note's header: sizes of name and digest, type 3 (NT_GNU_BUILD_ID), name. It follows the program headers.
    note = head.find(struct.pack("<III4s", 4, 20, 3, b"GNU\0"))
    if note < 0:
        raise CompileError(f"{library} has no build id: reinstall deepseek-runtime")
    return head[note + 16 : note + 36].hex()


@lru_cache(maxsize=1)
def _bindings() -> tuple[Any, Any]:
    try:
        from deepseek._mlir import ir
        from deepseek._mlir._mlir_libs import _dsc
    except ImportError as error:
        raise CompileError(f"the compiler cannot be loaded ({error}): reinstall deepseek-runtime") from None
    return ir, _dsc


def _collector(diagnostics: list[str]) -> Any:
    """A diagnostic handler that keeps errors with their notes as text."""

    def handle(diagnostic: Any) -> bool:
        severity = str(diagnostic.severity).rpartition(".")[2].lower()
        if severity in ("error", "note"):
            location = str(diagnostic.location).removeprefix("loc(").removesuffix(")")
            diagnostics.append(f"{location}: {diagnostic.message}")
            diagnostics.extend(f"{note.location}: {note.message}" for note in diagnostic.notes[:2])
        return True

    return handle


def _parse(ir: Any, text: str | bytes, context: Any) -> Any:
    """The module; verified on this thread only, since MLIR's bindings handle errors without taking Python's lock."""
    context.enable_multithreading(False)
    try:
        return ir.Module.parse(text, context)
    finally:
        context.enable_multithreading(True)


@contextmanager
def _parsed(text: str, source_name: str) -> Iterator[tuple[Any, list[str]]]:
    ir, dsc = _bindings()
    with ir.Context() as context:
        dsc.register(context)
        diagnostics: list[str] = []
        handler = context.attach_diagnostic_handler(_collector(diagnostics))
        try:
            module = _parse(ir, text, context)
        except ir.MLIRError as error:
            message = _message(diagnostics, str(error))
            raise CompileError(f"{source_name} is not a module that this compiler reads: {message}") from None
        try:
            yield module, diagnostics
        finally:
            handler.detach()


def _schedules_text() -> str:
    path = os.environ.get(SCHEDULES)
    try:
        return Path(path).read_text(encoding="utf-8") if path else ""
    except (OSError, UnicodeDecodeError) as error:
        raise CompileError(f"{SCHEDULES} is {path}: {getattr(error, 'strerror', error)}") from None


def _l2_bytes() -> int:
    try:
        return os.sysconf("SC_LEVEL2_CACHE_SIZE")
    except (ValueError, OSError):
        return 0


def _run_phases(
    module: Any, target: str, to_phase: str, diagnostics: list[str], record: str = "", plan: str = ""
) -> None:
    _, dsc = _bindings()
    try:
        dsc.describe_target(target)
    except ValueError as error:
        raise CompileError(str(error)) from None
    schedules = os.environ.get(SCHEDULES, "")
    with as_file(plan) as path:
        ok, reproducer = dsc.run_phases(module, target, "", to_phase, path, schedules, record, _reproducers())
    if ok:
        return
    message = _message(diagnostics, "the compiler failed without saying why")
    if reproducer:
        message += f"\nto see it again: dsc-opt --run-reproducer {shlex.quote(reproducer)}"
    raise CompileError(message)


@contextmanager
def as_file(text: str) -> Iterator[str]:
    """The path of a temporary file that holds `text`; "" for no text."""
    if not text:
        yield ""
        return
    with tempfile.NamedTemporaryFile("w", encoding="utf-8", prefix="deepseek-plan-", suffix=".json") as file:
        file.write(text)
        file.flush()
        yield file.name


def _reproducers() -> str:
    """Folder for files that reproduce failures; beside the cache, or none when that is not writable."""
    try:
        folder = cache.directory().parent / "reproducers"
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return ""
    return str(folder) if os.access(folder, os.W_OK) else ""


def _message(diagnostics: list[str], fallback: str) -> str:
    return "\n".join(diagnostics[:3]) if diagnostics else fallback
