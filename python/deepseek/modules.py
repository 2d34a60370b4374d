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
    """Compiles a PyTorch module, or a function of tensors, for example inputs: a tuple, or a dict of keyword arguments.

    The result is called like the module and gives eager's structure; weights stay the module's own memory, and must
    not change afterwards. Every dim above 1 may change unless the module fixes it; other types, constants and fixed
    sizes compile another program. With `dynamic`, for example {"ids": {0: "batch", 1: "sequence"}}, just these may
    change and other calls raise `InputError`. `dump_ir`: a folder for the module after each phase.

    The result has `explain()`, `cache_info()` and `graph`. Raises `CompileError` with the module's line where
    torch.export or an operation refuses, or with the extra to install; `InputError` for arguments that do not fit. ONNX
    files are not supported yet.
    """
    name = "onnx" if isinstance(module, (str, Path)) else "torch"
    try:
        frontend = importlib.import_module(f"deepseek.frontend.{name}")
    except ImportError as error:
        raise CompileError(str(error)) from None
    options = {"target": target, "precision": precision, "dynamic": dynamic, "dump_ir": dump_ir}
    return frontend.compile(module, example_inputs, **options)
