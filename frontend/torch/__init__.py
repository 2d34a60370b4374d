"""PyTorch modules to `dsc`. Importing this needs PyTorch."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

from deepseek.errors import InputError

__all__ = ["compile"]

if importlib.util.find_spec("torch") is None:
    raise ImportError("the torch frontend needs PyTorch and torch-mlir: pip install 'deepseek-runtime[torch]'")

_PRECISIONS = ("as-written", "f32")


def compile(
    module: Any,
    example_inputs: Any = None,
    *,
    target: str = "cpu",
    precision: str = "as-written",
    dynamic: dict[str, Any] | None = None,
    dump_ir: str | Path | None = None,
    threads: int | None = None,
) -> Any:
    """The module compiled for `example_inputs`; see `deepseek.compile`."""
    from .module import CompiledModule

    if precision not in _PRECISIONS:
        raise InputError(f"precision must be one of {', '.join(_PRECISIONS)}, got {precision!r}")
    return CompiledModule(module, example_inputs, target=target, dynamic=dynamic, dump_ir=dump_ir, threads=threads)
