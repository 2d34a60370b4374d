"""`deepseek.compile`: models of other frameworks, through the frontend that reads them."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from deepseek.errors import CompileError

__all__ = ["compile"]


def compile(
    module: Any,
    example_inputs: Any = None,
    *,
    target: str = "cpu",
    precision: str = "as-written",
    dynamic: dict[str, Any] | None = None,
    dump_ir: str | Path | None = None,
) -> Any:
    """Compiles a PyTorch module, or an ONNX file given by its path.

    Not supported yet in this version: functions of arrays are, by `deepseek.ACG.compile`. Raises `CompileError`,
    which names the extra to install when the framework is missing.
    """
    name = "onnx" if isinstance(module, (str, Path)) else "torch"
    try:
        frontend = importlib.import_module(f"deepseek.frontend.{name}")
    except ImportError as error:
        raise CompileError(str(error)) from None
    options = {"target": target, "precision": precision, "dynamic": dynamic, "dump_ir": dump_ir}
    return frontend.compile(module, example_inputs, **options)
