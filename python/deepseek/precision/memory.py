"""What a plan's program takes in memory: predicted from its signature, before anything runs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from deepseek.executable import ITEM_BYTES

if TYPE_CHECKING:
    from deepseek.frontend.checkpoint.checkpoint import Checkpoint
    from deepseek.precision.plan import Plan

__all__ = ["predicted_memory"]

_PROMPT = 512  # tokens of one prefill
_POSITIONS = 1024  # that the caches have room for


def predicted_memory(checkpoint: Checkpoint, plan: Plan, target: str = "cpu") -> dict[str, int]:
    """Bytes of `weights` as the program keeps them (panels, and what is read twice in both forms), of the `kv_cache` of
    one sequence of `positions`, and of the `arena` of a call with `prompt_tokens`; of an encoder `kv_cache` is 0.

    Compiles the program. Raises `CompileError`.
    """
    from deepseek.compiler import compile_text, lower_text
    from deepseek.explain_host import arena
    from deepseek.package import describe

    text = describe(checkpoint, precision="f32")[1]
    decisions = plan.for_compiler()
    manifest = compile_text(text, target=target, plan=decisions).manifest
    sizes = {"b": 1, "s": _PROMPT, "c": _POSITIONS}
    arguments = manifest["main"]["args"]
    kept = [argument for argument in arguments if argument["kind"] != "input"]
    caches = [argument for argument in arguments if argument["tied"]]
    host = lower_text(text, target=target, to_phase="host", plan=decisions)
    return {
        "prompt_tokens": _PROMPT,
        "positions": _POSITIONS if caches else 0,
        "weights": sum(_bytes(argument, sizes) for argument in kept),
        "kv_cache": sum(_bytes(argument, sizes) for argument in caches),
        "arena": arena(host, sizes),
    }


def _bytes(argument: Mapping[str, Any], sizes: Mapping[str, int]) -> int:
    return math.prod(sizes.get(size, size) for size in argument["shape"]) * ITEM_BYTES[argument["dtype"]]
