"""The model families: each module reads a configuration (`read_config`) and writes the graph (`build_graph`)."""

from __future__ import annotations

from types import ModuleType

from deepseek.frontend.checkpoint.checkpoint import Checkpoint
from deepseek.frontend.checkpoint.families import bert, llama, qwen2

__all__ = ["FAMILIES", "find_family"]

# By what GGUF calls general.architecture and config.json calls model_type.
FAMILIES: dict[str, ModuleType] = {"bert": bert, "llama": llama, "qwen2": qwen2}


def find_family(checkpoint: Checkpoint) -> ModuleType:
    """The module of the checkpoint's architecture. Raises `CheckpointError` if there is none."""
    family = FAMILIES.get(checkpoint.architecture)
    if family is None:
        raise checkpoint.error(
            f"architecture is {checkpoint.architecture!r}, expected one of: {', '.join(sorted(FAMILIES))}"
        )
    return family
