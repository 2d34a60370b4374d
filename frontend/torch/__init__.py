"""PyTorch modules to `dsc`. Importing this needs PyTorch."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

from deepseek.errors import InputError

__all__ = ["compile", "trace"]

if importlib.util.find_spec("torch") is None:
    raise ImportError("the torch frontend needs PyTorch: pip install 'deepseek-runtime[torch]'")

_PRECISIONS = ("as-written",)


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


def trace(module: Any, examples: Any, keyword_examples: Any, dynamic: dict[str, Any] | None = None) -> Any:
    """The module's graph; see `deepseek.ACG.trace`."""
    from .module import TracedModule

    return TracedModule(module, examples, keyword_examples, dynamic)
