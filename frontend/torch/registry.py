"""Which function imports an ATen operation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

_HANDLERS: dict[str, Callable[..., Any]] = {}
_COMPLEX: dict[str, Callable[..., Any]] = {}


def aten(*names: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Registers a function for operations, "add" for every overload or "add.Tensor" for one.

    It takes the operation's arguments by their names in the schema, tensors being ACG arrays, and gives its results.
    """
    return _register(_HANDLERS, names)


def on_complex(*names: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Registers a function for operations that have a complex tensor (`pairs.Complex`) among their arguments."""
    return _register(_COMPLEX, names)


def _register(table: dict[str, Callable[..., Any]], names: tuple[str, ...]) -> Any:
    def register(fn: Callable[..., Any]) -> Callable[..., Any]:
        for name in names:
            full = name if "::" in name else f"aten::{name}"
            if full in table:
                raise ValueError(f"{full} is registered twice, by {table[full].__name__} and {fn.__name__}")
            table[full] = fn
        return fn

    return register


def find(target: Any, of_complex: bool = False) -> Callable[..., Any] | None:
    """The function for an OpOverload: of this overload, else of the operation."""
    from . import aten as _aten  # noqa: F401 (fills the registry)

    table, name = _COMPLEX if of_complex else _HANDLERS, target._schema.name
    return table.get(f"{name}.{target._overloadname}", table.get(name))


def named(name: str) -> Callable[..., Any] | None:
    """The function for an operation of ATen by its name, or that of its default overload."""
    return _HANDLERS.get(f"aten::{name}", _HANDLERS.get(f"aten::{name}.default", _HANDLERS.get(f"aten::{name}.self")))


def names() -> list[str]:
    """Every registered operation."""
    from . import aten as _aten  # noqa: F401

    return sorted(_HANDLERS)
