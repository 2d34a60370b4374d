"""Expressions in named sizes, as compiled modules print them, and the places that kernels come from."""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Mapping

from deepseek.errors import InputError

_OPERATORS = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: lambda a, b: a // b if b else 0,
    ast.MatMult: lambda a, b: -(-a // b) if b else 0,
    ast.Mod: lambda a, b: a % b if b else 0,
}


def evaluate(text: str, sizes: Mapping[str, int]) -> int:
    """Value of a size as compiled modules print it: names, numbers, + - * // %, and ^/ for a quotient rounded up.

    Raises `InputError` for anything else and for names that are not in `sizes`.
    """

    def value(node: ast.expr) -> int:
        if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
            return _OPERATORS[type(node.op)](value(node.left), value(node.right))
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
            return -value(node.operand)
        if isinstance(node, ast.Constant) and type(node.value) is int:
            return node.value
        if isinstance(node, ast.Name) and (name := names[int(node.id[1:])]) in sizes:
            return sizes[name]
        raise InputError(f"cannot evaluate {text!r} with sizes of {', '.join(sizes) or 'nothing'}")

    names: list[str] = []  # a name may be "layers.0.n" or a word of Python's

    def place(match: re.Match[str]) -> str:
        names.append(match[0])
        return f"x{len(names) - 1}"

    try:
        # ^/ binds as * does, and so does Python's @.
        tree = ast.parse(re.sub(r"[A-Za-z_][\w.]*", place, text).replace("^/", "@"), mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise InputError(f"cannot evaluate {text!r}: it is no expression") from None
    return value(tree.body)


def layerless(location: str) -> str:
    """layers.3/mlp/up_proj as layers.*/mlp/up_proj."""
    return re.sub(r"(?<=[./])\d+(?=[./]|$)", "*", location)
