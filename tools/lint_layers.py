"""Lint of what no formatter sees: who may import whom, file length, names in four places, tested messages.

The layers are those of the architecture:
  dialects -> MLIR                       passes -> dialects, MLIR, runtime/dsc_rt.h
  bindings -> dialects/capi, passes      runtime -> nothing but the C and C++ libraries
  frontend -> deepseek.ACG (+ torch, onnx, ... inside functions; folders named torch are loaded when there is torch)
  deepseek -> bindings and frontend inside functions; numpy is all that it imports at the top
Nothing imports test, nor the oracle that tests use, deepseek.reference. Prints one line per finding, `file:line: what; what to do`, and exits 1 if there is any.
"""

from __future__ import annotations

import argparse
import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

MAX_LINES = 450
MLIR = ("mlir/", "mlir-c/", "llvm/", "llvm-c/")
# First path parts that an #include "..." or <...> with a slash may name, by folder of the including file.
INCLUDES = {
    "dialects": (*MLIR, "dialects/"),
    "dialects/capi": (*MLIR, "dialects/", "passes/"),  # registers the passes for the bindings
    "passes": (*MLIR, "dialects/", "passes/", "runtime/dsc_rt.h"),
    "python": (*MLIR, "nanobind/", "dialects/capi/", "passes/"),
    "runtime": ("runtime/", "sys/", "linux/", "asm/"),
}
FORBIDDEN_HEADERS = {"runtime": re.compile(r"^(Python\.h|mlir|llvm|torch|nanobind|cuda|nccl)")}
# Modules and packages that work where the compiler is absent: they must not reach it, lazily or not.
RUNTIME_MODULES = {"runtime", "executable.py", "signature.py", "host_memory.py", "gpu_memory.py"}
COMPILER_MODULES = ("deepseek._mlir", "deepseek.compiler", "deepseek.acg", "deepseek.frontend")
# What frontends build on; everything else of the package is above them.
FRONTEND_MAY = (
    "deepseek.ACG",
    "deepseek.acg",
    "deepseek.errors",
    "deepseek.formats",
    "deepseek.frontend",
    "deepseek.heap",
    "deepseek._mlir",
    "deepseek.dialects",
)
EAGER_MODULES = {"numpy", "deepseek", *sys.stdlib_module_names}
TORCH = {"torch", "torch_mlir", "torchvision"}
# Absolute homes and mounts of one machine, and files beside the repository.
MACHINE_PATH = re.compile(r"(?<![\w.)}*])/(?:home|root|Users|work|farm|mnt|scratch)/\w|\.\./shared\b")
TEXT_SUFFIXES = {
    ".py",
    ".cpp",
    ".h",
    ".c",
    ".td",
    ".mlir",
    ".md",
    ".txt",
    ".toml",
    ".cmake",
    ".yml",
    ".json",
    "",
}


@dataclass(frozen=True)
class Finding:
    path: Path
    line: int
    text: str

    def __str__(self) -> str:
        return f"{self.path.as_posix()}:{self.line}: {self.text}"


def list_files(root: Path) -> list[Path]:
    """Files of the tree relative to root: what git tracks or would add, or everything outside git."""
    command = ["git", "-C", str(root), "ls-files", "-coz", "--exclude-standard"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode == 0:
        names = [Path(n) for n in done.stdout.split("\0") if n]
    else:
        tops = [p for p in root.iterdir() if p.name not in {".venv", ".git", "build", "dist"}]
        names = [p.relative_to(root) for top in tops for p in (top, *top.rglob("*"))]
    return sorted(p for p in set(names) if (root / p).is_file() and not (root / p).is_symlink())


def check_includes(path: Path, text: str) -> Iterator[Finding]:
    layer = "dialects/capi" if path.parts[:2] == ("dialects", "capi") else path.parts[0]
    if layer not in INCLUDES or path.suffix not in {".cpp", ".h", ".c"}:
        return
    for number, line in enumerate(text.splitlines(), 1):
        match = re.match(r'\s*#\s*include\s*(?:"([^"]+)"|<([^>]+)>)', line)
        if not match:
            continue
        header = match[1] or match[2]
        forbidden = FORBIDDEN_HEADERS.get(layer)
        if forbidden and forbidden.match(header):
            yield Finding(path, number, f"{layer} must not include {header}: it links the C++ library only")
        elif match[1] and "/" not in header:
            yield Finding(path, number, f'"{header}" is not root-relative: write the path from the repository root')
        elif "/" in header and not header.startswith(INCLUDES[layer]):
            allowed = ", ".join(INCLUDES[layer])
            yield Finding(path, number, f"{layer} must not include {header}: allowed are {allowed}")


def package_of(path: Path) -> list[str]:
    """The dotted package that a module's relative imports start from."""
    parts = list(path.parts[:-1])
    if parts[:2] == ["python", "deepseek"]:
        return parts[1:]
    return ["deepseek", *parts] if parts[:1] == ["frontend"] else parts


def imports_of(path: Path, tree: ast.Module) -> Iterator[tuple[str, int, bool]]:
    """(module, line, eager) of every import; `from a import b` counts as a.b, and eager is at import time."""

    def walk(node: ast.AST, eager: bool) -> Iterator[tuple[str, int, bool]]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
                continue  # annotations only: never executed
            if isinstance(child, ast.Import):
                yield from ((alias.name, child.lineno, eager) for alias in child.names)
            elif isinstance(child, ast.ImportFrom):
                base = package_of(path)
                prefix = base[: len(base) - child.level + 1] if child.level else []
                module = ".".join([*prefix, *(child.module or "").split(".")]).strip(".")
                yield from ((f"{module}.{alias.name}", child.lineno, eager) for alias in child.names)
            else:
                inner = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)
                yield from walk(child, eager and not isinstance(child, inner))

    yield from walk(tree, True)


def within(module: str, packages: tuple[str, ...]) -> bool:
    return any(module == p or module.startswith(f"{p}.") for p in packages)


def import_problem(path: Path, module: str, eager: bool) -> str | None:
    """Why this import breaks the layering, or None."""
    top = module.split(".")[0]
    if path.parts[0] == "test":
        return None
    if top in {"test", "tests", "conftest"} and path.parts[0] in {"python", "frontend", "tools"}:
        return f"imports {module}: nothing imports test"
    if path.parts[0] == "frontend":
        if top == "deepseek" and not within(module, FRONTEND_MAY):
            return f"frontend must not import {module}: allowed are {', '.join(FRONTEND_MAY)}"
        if eager and top not in EAGER_MODULES | (TORCH if "torch" in path.parts else set()):
            return f"imports {module} at the top: import it inside the function that needs it"
        return None
    if path.parts[:2] != ("python", "deepseek") or path.parts[2] == "dialects":
        return None  # deepseek/dialects are generated bindings, installed below deepseek/_mlir
    if path.parts[2] == "reference":
        return None  # test support: may import what the test extra brings
    if within(module, ("deepseek.reference",)):
        return f"imports {module}: the oracle is test support"
    if path.parts[2:4] == ("precision", "torch"):
        return None  # calibration needs gradients: loaded when there is torch
    if top in TORCH:
        return f"imports {module}: torch belongs to frontend/, precision/torch and tests"
    if path.parts[2] in RUNTIME_MODULES and within(module, COMPILER_MODULES):
        return f"imports {module}: {path.parts[2]} runs compiled code where the compiler is absent"
    if eager and within(module, ("deepseek._mlir", "deepseek.frontend")):
        return f"imports {module} at the top: load the compiler and the frontends inside functions"
    if eager and top not in EAGER_MODULES:
        return f"imports {module} at the top: the small core needs numpy only, import it inside a function"
    return None


def check_imports(path: Path, text: str) -> Iterator[Finding]:
    if path.suffix != ".py":
        return
    try:
        tree = ast.parse(text)
    except SyntaxError as error:
        yield Finding(path, error.lineno or 1, f"does not parse: {error.msg}")
        return
    for module, line, eager in imports_of(path, tree):
        if problem := import_problem(path, module, eager):
            yield Finding(path, line, problem)


def check_text(path: Path, text: str) -> Iterator[Finding]:
    lines = text.splitlines()
    if path.suffix in {".py", ".cpp", ".h", ".td"} and len(lines) > MAX_LINES:
        yield Finding(path, len(lines), f"{len(lines)} lines, more than {MAX_LINES}: split it by meaning")
    for number, line in enumerate(lines, 1):
        if match := MACHINE_PATH.search(line):
            yield Finding(path, number, f"names a path of one machine, {match[0]!r}: make it relative")


def check_passes(root: Path, files: list[Path]) -> Iterator[Finding]:
    """One name, four places: FooBarPass, --dsc-foo-bar, FooBar.cpp, test/passes/foo-bar.mlir."""
    sources = {p.stem for p in files if p.parts[0] == "passes" and p.suffix == ".cpp"}
    tests = {p.stem: p for p in files if p.parts[:2] == ("test", "passes") and p.suffix == ".mlir"}
    for path in (p for p in files if p.parts[0] == "passes" and p.suffix == ".td"):
        text = (root / path).read_text(encoding="utf-8")
        for match in re.finditer(r'^def\s+(\w+)\s*:\s*Pass<"([^"]+)"', text, re.MULTILINE):
            name, flag = match.groups()
            line = text.count("\n", 0, match.start()) + 1
            stem = flag.removeprefix("dsc-")
            expected = "".join(word[:1].upper() + word[1:] for word in stem.split("-"))
            if not flag.startswith("dsc-") or name.lower() != f"{expected}Pass".lower():
                yield Finding(path, line, f"{name} and --{flag} must match: {expected}Pass and --dsc-{stem}")
            if name.removesuffix("Pass") not in sources:
                yield Finding(path, line, f"{name} must be in a file {name.removesuffix('Pass')}.cpp below passes/")
            if stem not in tests or flag not in (root / tests[stem]).read_text(encoding="utf-8"):
                yield Finding(path, line, f"--{flag} needs a lit test {stem}.mlir below test/passes that runs it")


def string_pieces(code: str) -> Iterator[tuple[int, list[str]]]:
    """(offset, literal pieces) of each emitError/emitOpError statement of C++ code."""
    literal = r'"(?:[^"\\\n]|\\.)*"'
    code = re.sub(rf"({literal})|//[^\n]*", lambda m: m[1] or " " * len(m[0]), code)
    token = re.compile(rf"{literal}|'(?:[^'\\]|\\.)'|[;{{}}]")
    for start in re.finditer(r"\bemit(?:Op)?Error\b\s*\(", code):
        pieces, end = [], start.end()
        for match in token.finditer(code, start.end()):
            if match[0] in ";{}":
                break
            if match[0][0] != '"':
                continue
            value = match[0][1:-1].replace('\\"', '"').replace("\\\\", "\\").replace("\\n", "\n")
            if pieces and not code[end : match.start()].strip():
                pieces[-1] += value  # adjacent literals are one
            else:
                pieces.append(value)
            end = match.end()
        if pieces:
            yield start.start(), pieces


def expected_texts(root: Path, files: list[Path]) -> str:
    """Every line of the tests that expects an error: expected-error comments, FileCheck lines, pytest's match."""
    lines = []
    for path in files:
        if path.parts[0] == "test" and path.suffix in {".mlir", ".py"}:
            text = (root / path).read_text(encoding="utf-8")
            lines += [
                s for s in text.splitlines() if re.search(r"expected-error|match\(|match=|(CHECK|ERR)[\w-]*:.*error", s)
            ]
    return "\n".join(lines)


def check_diagnostics(root: Path, files: list[Path]) -> Iterator[Finding]:
    expected = expected_texts(root, files)
    for path in files:
        if path.parts[0] not in {"dialects", "passes"} or path.suffix not in {".cpp", ".h"}:
            continue
        code = (root / path).read_text(encoding="utf-8")
        for offset, pieces in string_pieces(code):
            # The longest piece stands for the message: values and quotes between pieces vary per test.
            piece = max((p.strip(" '\"\n,:;()") for p in pieces), key=len)
            if re.search(r"\w{2}", piece) and piece not in expected:
                line = code.count("\n", 0, offset) + 1
                yield Finding(path, line, f"no expected-error in test/ holds {piece!r}: add the case that triggers it")


def find_problems(root: Path) -> list[Finding]:
    """All findings of a tree, in order of file and line."""
    files = list_files(root)
    found: list[Finding] = []
    for path in files:
        if path.suffix not in TEXT_SUFFIXES or path.name == "LICENSE":
            continue
        try:
            text = (root / path).read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        for check in (check_includes, check_imports, check_text):
            found += check(path, text)
    found += check_passes(root, files)
    found += check_diagnostics(root, files)
    return sorted(found, key=lambda f: (f.path, f.line))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = Path(__file__).resolve().parent.parent
    parser.add_argument("root", nargs="?", type=Path, default=default, help="the tree to check")
    found = find_problems(parser.parse_args().root.resolve())
    for finding in found:
        print(finding)
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())
