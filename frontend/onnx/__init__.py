"""ONNX files to `dsc`. Importing this needs the package onnx."""

from __future__ import annotations

import importlib.util
from typing import Any

from deepseek.errors import CompileError

__all__ = ["compile"]

if importlib.util.find_spec("onnx") is None:
    raise ImportError("the onnx frontend needs the package onnx: pip install 'deepseek-runtime[onnx]'")


def compile(file: Any, example_inputs: Any = None, **options: Any) -> Any:
    """Refuses `file`, whatever its inputs and options: raises `CompileError`."""
    raise CompileError(
        f"ONNX files are not supported yet in this version, got {file}: "
        "compile a function of arrays with deepseek.ACG.compile"
    )
