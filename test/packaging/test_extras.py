"""Frontends of frameworks: a missing one is named with its extra, ONNX says that it is not supported yet."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    from pip._vendor import tomli as tomllib

ROOT = Path(__file__).resolve().parents[2]
# Hides a package that may be installed.
ABSENT = """
import sys

class Without:
    def __init__(self, finder):
        self.find = finder.find_spec

    def find_spec(self, name, path=None, target=None):
        return None if name.partition(".")[0] == {name!r} else self.find(name, path, target)

sys.meta_path[:] = [Without(finder) for finder in sys.meta_path]
"""
# Stands for a package that may be missing.
PRESENT = """
import sys, tempfile, pathlib
folder = tempfile.TemporaryDirectory()
(pathlib.Path(folder.name) / {name!r}).mkdir()
(pathlib.Path(folder.name) / {name!r} / "__init__.py").touch()
sys.path.insert(0, folder.name)
"""
REPORT = """
try:
    {statement}
except Exception as error:
    print(type(error).__name__, error)
"""
NEEDS = {
    "torch": "the torch frontend needs PyTorch: pip install 'deepseek-runtime[torch]'",
    "onnx": "the onnx frontend needs the package onnx: pip install 'deepseek-runtime[onnx]'",
}
UNSUPPORTED = (
    "ONNX files are not supported yet in this version, got model.onnx: "
    "compile a function of arrays with deepseek.ACG.compile"
)
CALL = {
    "torch": "import deepseek; deepseek.compile(type('Model', (), {})(), (1,), dynamic={})",
    "onnx": "import deepseek; deepseek.compile('model.onnx')",
}


def report(python: Callable[[str], str], setup: str, statement: str) -> str:
    return python(setup + REPORT.format(statement=statement)).strip()


@pytest.mark.parametrize("name", ["torch", "onnx"])
def test_a_missing_framework_is_named_with_its_extra(python: Callable[[str], str], name: str) -> None:
    setup = ABSENT.format(name=name)
    assert report(python, setup, f"import deepseek.frontend.{name}") == f"ImportError {NEEDS[name]}"
    assert report(python, setup, CALL[name]) == f"CompileError {NEEDS[name]}"


@pytest.mark.parametrize("name", ["torch", "scipy"])
def test_searching_a_plan_names_what_is_missing(python: Callable[[str], str], name: str) -> None:
    call = "from deepseek.precision.planner import PlanOptions, make_plan; make_plan(None, [], PlanOptions())"
    absent = f"import importlib.util as u; f = u.find_spec; u.find_spec = lambda n, p=None: None if n == {name!r} else f(n, p)\n"
    expected = f"InputError searching a plan needs {name}: pip install 'deepseek-runtime[precision]'"
    missing_torch = expected.replace("scipy", "torch")  # where neither is there, torch is named first
    assert report(python, absent, call) in (expected, missing_torch)


def test_onnx_is_not_supported_yet(python: Callable[[str], str]) -> None:
    setup = PRESENT.format(name="onnx")
    assert report(python, setup, CALL["onnx"]) == f"CompileError {UNSUPPORTED}"
    direct = "from deepseek.frontend.onnx import compile; compile(type('Model', (), {})())"
    assert report(python, setup, direct).startswith("CompileError ")


def test_the_door_opens_without_any_framework(python: Callable[[str], str]) -> None:
    code = (
        "import sys, deepseek; assert callable(deepseek.compile); print(sorted({'torch', 'onnx'} & sys.modules.keys()))"
    )
    assert python(code).strip() == "[]"


def test_messages_name_extras_that_exist() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    assert {"torch", "precision", "onnx", "serve", "gpu", "all", "test"} == extras.keys()
    assert extras["all"] == ["deepseek-runtime[torch,precision,onnx,serve,gpu]"]
    for folder in ("python", "frontend"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            text = path.read_text(encoding="utf-8")
            for named in text.split("deepseek-runtime[")[1:]:
                assert named.partition("]")[0] in extras, path
