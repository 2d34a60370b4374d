"""A compiler for large models: checkpoints, PyTorch and array functions to machine code."""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

# Public name -> module that holds it; loaded at first use, so that `import deepseek` costs nothing.
_HOMES = {
    "ACG": ".acg",
    "Model": ".model",
    "compile": ".modules",
    "load": ".loading",
    "DeepseekError": ".errors",
    "CompileError": ".errors",
    "InputError": ".errors",
    "CheckpointError": ".errors",
    "ArtifactError": ".errors",
    "ExecutionError": ".errors",
}

__all__ = ["__version__"]
__all__ += list(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = importlib.import_module(_HOMES[name], __name__)
    value = module if name == "ACG" else getattr(module, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
