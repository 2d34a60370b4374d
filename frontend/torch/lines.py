"""The user's source line that a node, or an error, comes from."""

from __future__ import annotations

import re
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from deepseek.acg import source

_TORCH = str(Path(torch.__file__).resolve().parent)
_OURS = str(Path(__file__).resolve().parents[2])
_FRAME = re.compile(r'File "([^"]+)", line (\d+)')


def _is_users(file: str) -> bool:
    return not file.startswith(("<", _TORCH, _OURS))


def node_line(node: Any) -> tuple[str, int] | None:
    """(file, line) of the innermost frame outside of torch that made a node, else the innermost one."""
    frames = _FRAME.findall(node.meta.get("stack_trace") or "")
    for file, line in reversed(frames):
        if _is_users(file):
            return file, int(line)
    return (frames[-1][0], int(frames[-1][1])) if frames else None


def user_line(error: BaseException) -> str:
    """`file:line: `source`` of the innermost frame of an error that is not torch's or ours."""
    seen: BaseException | None = error
    while seen is not None:
        named = [(f, int(n)) for f, n in _FRAME.findall(str(seen)) if _is_users(f)]
        if named:
            return source.show_line(*named[-1])
        for frame in reversed(traceback.extract_tb(seen.__traceback__)):
            if _is_users(frame.filename) and "site-packages" not in frame.filename:
                return source.show_line(frame.filename, frame.lineno or 0)
        seen = seen.__cause__ or seen.__context__
    return "unknown line"


@contextmanager
def at_node(node: Any) -> Iterator[None]:
    """Operations made inside, and errors, belong to the node's module and line."""
    stack = node.meta.get("nn_module_stack") or {}
    path = list(stack.values())[-1][0] if stack else ""
    with source.position(*(node_line(node) or ("unknown", 0)), _scope(path, node)):
        yield


def _scope(path: str, node: Any) -> str:
    """`model.layers.0.self_attn.q_proj` as `model/layers.0/self_attn/q_proj`."""
    path = re.sub(r"@\d+$", "", path.removeprefix("L['self']").lstrip("."))
    return re.sub(r"\.(?!\d+(\.|$))", "/", path) or node.name
