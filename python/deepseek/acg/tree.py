"""Nested tuples, lists and dicts: flatten to leaves with dotted paths, and back.

A structure is nested plain data (hashable, JSON-like): "*" is a leaf, ("none",), ("tuple", type, children),
("list", children), ("dict", keys, children).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

Structure = Any


def flatten(value: Any, path: str = "") -> tuple[Structure, list[tuple[str, Any]]]:
    """(structure, [(path, leaf), ...])."""
    leaves: list[tuple[str, Any]] = []
    return _flatten(value, path, leaves), leaves


def _flatten(value: Any, path: str, leaves: list[tuple[str, Any]]) -> Structure:
    def child(key: object, item: Any) -> Structure:
        return _flatten(item, f"{path}.{key}" if path else str(key), leaves)

    if value is None:
        return ("none",)
    if isinstance(value, tuple):
        named = type(value) if hasattr(value, "_fields") else tuple
        return ("tuple", named, tuple(child(i, item) for i, item in enumerate(value)))
    if type(value) is list:
        return ("list", tuple(child(i, item) for i, item in enumerate(value)))
    if type(value) is dict:
        return ("dict", tuple(value), tuple(child(key, item) for key, item in value.items()))
    leaves.append((path, value))
    return "*"


def unflatten(structure: Structure, leaves: Iterator[Any]) -> Any:
    """The value with this structure whose leaves are taken from `leaves` in order."""
    if structure == "*":
        return next(leaves)
    if structure[0] == "none":
        return None
    children = [unflatten(child, leaves) for child in structure[-1]]
    if structure[0] == "list":
        return children
    if structure[0] == "dict":
        return dict(zip(structure[1], children))
    return tuple(children) if structure[1] is tuple else structure[1](*children)


def to_json(structure: Structure) -> Any:
    if structure == "*":
        return structure
    children = [to_json(child) for child in structure[-1]] if len(structure) > 1 else []
    keys = [list(structure[1])] if structure[0] == "dict" else []
    return [structure[0], *keys, children]


def from_json(data: Any) -> Structure:
    """Inverse of to_json, but that named tuples come back as tuples."""
    if data == "*":
        return data
    children = tuple(map(from_json, data[-1]))
    if data[0] == "none":
        return ("none",)
    if data[0] == "dict":
        return ("dict", tuple(data[1]), children)
    return ("tuple", tuple, children) if data[0] == "tuple" else ("list", children)
