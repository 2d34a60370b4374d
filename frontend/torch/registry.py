"""Which function imports an ATen operation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

_HANDLERS: dict[str, Callable[..., Any]] = {}


def aten(*names: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Registers a function for operations, "add" for every overload or "add.Tensor" for one.

    It takes the operation's arguments by their names in the schema, tensors being ACG arrays, and gives its results.
    """

    def register(fn: Callable[..., Any]) -> Callable[..., Any]:
        for name in names:
            full = name if "::" in name else f"aten::{name}"
            if full in _HANDLERS:
                raise ValueError(f"{full} is registered twice, by {_HANDLERS[full].__name__} and {fn.__name__}")
            _HANDLERS[full] = fn
        return fn

    return register


def find(target: Any) -> Callable[..., Any] | None:
    """The function for an OpOverload: of this overload, else of the operation."""
    from . import aten as _aten  # noqa: F401 (fills the registry)

    name = target._schema.name
    return _HANDLERS.get(f"{name}.{target._overloadname}", _HANDLERS.get(name))


def named(name: str) -> Callable[..., Any] | None:
    """The function for an operation of ATen by its name, or that of its default overload."""
    return _HANDLERS.get(f"aten::{name}", _HANDLERS.get(f"aten::{name}.default", _HANDLERS.get(f"aten::{name}.self")))


def names() -> list[str]:
    """Every registered operation."""
    from . import aten as _aten  # noqa: F401

    return sorted(_HANDLERS)
