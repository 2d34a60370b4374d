"""tools/lint_layers.py finds each kind of fault in a small tree, and nothing in a sound one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

LINT = Path(__file__).resolve().parents[2] / "tools" / "lint_layers.py"

SOUND = {
    "dialects/dsc/DscOps.cpp": """
#include "dialects/dsc/DscOps.h"
#include "mlir/IR/Builders.h"
LogicalResult MatmulOp::verify() {
  return emitOpError("contraction sizes must match, got: ") << lhsK << " != " << rhsK;
}
""",
    "test/dialects/dsc/ops-invalid.mlir": "// expected-error @below {{contraction sizes must match, got: 4 != 5}}\n",
    "passes/Passes.td": 'def SelectPrecisionPass : Pass<"dsc-select-precision"> {\n}\n',
    "passes/SelectPrecision.cpp": '#include "passes/Passes.h"\n#include "runtime/dsc_rt.h"\n',
    "test/passes/select-precision.mlir": "// RUN: dsc-opt %s --dsc-select-precision\n",
    "runtime/Arena.cpp": '#include "runtime/dsc_rt.h"\n#include <sys/mman.h>\n',
    "python/DscExtension.cpp": '#include "dialects/capi/Dsc.h"\n#include "mlir/Bindings/Python/Nanobind.h"\n',
    "python/deepseek/model.py": """
import numpy as np
from typing import TYPE_CHECKING
if TYPE_CHECKING:
    import torch
def load(path):
    from .frontend.checkpoint import gguf
    import tokenizers
""",
    "python/deepseek/reference/numerics.py": "import ml_dtypes\n",
    "frontend/torch/importer.py": "import torch\n",
    "frontend/torch_export.py": "from deepseek import ACG\ndef export(module):\n    import torch\n",
    "test/python/test_model.py": "import torch\nimport deepseek.reference\n",
}

FAULTS = {
    "dialect includes a pass": (
        "dialects/dsc/X.cpp",
        '#include "passes/Passes.h"\n',
        "dialects must not include",
    ),
    "dialect includes the runtime": (
        "dialects/dsc/X.cpp",
        '#include "runtime/dsc_rt.h"\n',
        "dialects must not",
    ),
    "pass includes runtime internals": (
        "passes/X.cpp",
        '#include "runtime/Context.h"\n',
        "passes must not include",
    ),
    "runtime includes MLIR": (
        "runtime/X.cpp",
        '#include "llvm/ADT/StringRef.h"\n',
        "runtime must not include",
    ),
    "runtime includes Python": (
        "runtime/X.cpp",
        "#include <Python.h>\n",
        "runtime must not include Python.h",
    ),
    "binding includes a dialect": (
        "python/X.cpp",
        '#include "dialects/dsc/DscOps.h"\n',
        "python must not include",
    ),
    "include by bare name": ("passes/X.cpp", '#include "Passes.h"\n', "not root-relative"),
    "torch in the package": (
        "python/deepseek/x.py",
        "def f():\n    import torch\n",
        "torch belongs to frontend/",
    ),
    "extra imported eagerly": ("python/deepseek/x.py", "import tokenizers\n", "numpy only"),
    "extra imported in a try": (
        "python/deepseek/x.py",
        "try:\n    import jinja2\nexcept E:\n    pass\n",
        "numpy only",
    ),
    "compiler loaded eagerly": ("python/deepseek/x.py", "from ._mlir import ir\n", "inside functions"),
    "frontend loaded eagerly": ("python/deepseek/x.py", "from . import frontend\n", "inside functions"),
    "runtime reaches the compiler": (
        "python/deepseek/runtime/x.py",
        "def f():\n    from ..compiler import compile_text\n",
        "where the compiler is absent",
    ),
    "relative import from a subpackage": (
        "python/deepseek/cli/x.py",
        "from .._mlir import ir\n",
        "imports deepseek._mlir.ir at the top",
    ),
    "package uses the oracle": (
        "python/deepseek/x.py",
        "from .reference import compare\n",
        "oracle is test support",
    ),
    "frontend imports above itself": (
        "frontend/x.py",
        "from deepseek.cli import main\n",
        "frontend must not import",
    ),
    "frontend imports torch eagerly": ("frontend/x.py", "import torch\n", "inside the function"),
    "package imports test": (
        "python/deepseek/x.py",
        "def f():\n    import test.support\n",
        "nothing imports test",
    ),
    "syntax error": ("tools/x.py", "def f(:\n", "does not parse"),
    "long file": ("passes/X.cpp", "\n" * 451, "451 lines, more than 450"),
    "machine path": ("README.md", "cd /" + "home/someone/tree\n", "names a path of one machine"),
    "sibling of the repository": ("docs/x.md", "see ../" + "shared/x\n", "names a path of one machine"),
    "pass without a source": (
        "passes/More.td",
        'def FooPass : Pass<"dsc-foo"> {\n}\n',
        "must be in a file Foo.cpp",
    ),
    "pass without a test": (
        "passes/More.td",
        'def FooPass : Pass<"dsc-foo"> {\n}\n',
        "needs a lit test foo.mlir",
    ),
    "pass and flag differ": ("passes/More.td", 'def FooPass : Pass<"dsc-bar"> {\n}\n', "must match: BarPass"),
    "untested op error": ("dialects/dsc/X.cpp", 'emitOpError() << "rank must be " << 2;\n', "'rank must be'"),
    "untested pass error": (
        "passes/X.cpp",
        'op->emitError("no " "schedule for") << n;\n',
        "'no schedule for'",
    ),
    "error expected in words only": (
        "dialects/dsc/X.cpp",
        '// expected-error {{not a test}}\nemitOpError("not a test");\n',
        "'not a test'",
    ),
}


def write_tree(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, encoding="utf-8")


def run_lint(root: Path) -> tuple[int, list[str]]:
    done = subprocess.run([sys.executable, str(LINT), str(root)], capture_output=True, text=True, check=False)
    assert not done.stderr
    return done.returncode, done.stdout.splitlines()


def test_a_sound_tree_passes(tmp_path: Path) -> None:
    write_tree(tmp_path, SOUND)
    assert run_lint(tmp_path) == (0, [])


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_found_where_it_is(tmp_path: Path, fault: str) -> None:
    name, text, message = FAULTS[fault]
    write_tree(tmp_path, SOUND | {name: text})
    status, lines = run_lint(tmp_path)
    assert status == 1
    assert any(line.startswith(f"{name}:") and message in line for line in lines), lines
    assert all(line.startswith(f"{name}:") for line in lines), lines


def test_a_test_that_names_the_pass_only_in_its_file_name_is_not_enough(tmp_path: Path) -> None:
    write_tree(tmp_path, SOUND | {"test/passes/select-precision.mlir": "// RUN: dsc-opt %s\n"})
    status, lines = run_lint(tmp_path)
    assert status == 1
    assert "--dsc-select-precision needs a lit test" in lines[0]


def test_a_tree_inside_git_is_read_without_ignored_files(tmp_path: Path) -> None:
    write_tree(tmp_path, SOUND | {".gitignore": "/build/\n", "build/X.md": "/" + "home/someone\n"})
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    assert run_lint(tmp_path) == (0, [])


def test_a_tree_outside_git_is_read_without_its_environment(tmp_path: Path) -> None:
    write_tree(tmp_path, SOUND | {".venv/lib/x.py": "\n" * 451, "build/x.cpp": "\n" * 451})
    assert run_lint(tmp_path) == (0, [])
