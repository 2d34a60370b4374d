"""PyTorch modules to `dsc`. Importing this needs PyTorch."""

from __future__ import annotations

import importlib.util
from typing import Any

from deepseek.errors import CompileError

__all__ = ["compile"]

if importlib.util.find_spec("torch") is None:
    raise ImportError("the torch frontend needs PyTorch and torch-mlir: pip install 'deepseek-runtime[torch]'")


def compile(module: Any, example_inputs: Any = None, **options: Any) -> Any:
    """Refuses `module`, whatever its inputs and options: raises `CompileError`."""
    raise CompileError(
        f"PyTorch modules are not supported yet in this version, got {type(module).__name__}: "
        "compile a function of arrays with deepseek.ACG.compile"
    )
