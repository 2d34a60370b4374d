"""Binds call arguments to a function's parameters and flattens them, the same way for tracing and for calls."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..errors import InputError
from . import tree


@dataclass
class Bound:
    structure: tree.Structure
    leaves: list[tuple[str, Any]]


class Parameters:
    """The parameters of a function; positional by number if it does not tell them."""

    def __init__(self, fn: Callable[..., Any], signature: inspect.Signature | None = None) -> None:
        self.name = getattr(fn, "__name__", "program")
        self.signature = signature
        if signature is None:
            # Builtins may not tell their parameters.
            with contextlib.suppress(TypeError, ValueError):
                self.signature = inspect.signature(fn)

    def to_json(self) -> Any:
        """[[name, kind, default], ...]; a default that JSON cannot hold is left out."""
        if self.signature is None:
            return None
        return [
            [p.name, int(p.kind), *([p.default] if isinstance(p.default, (bool, int, float, str, type(None))) else [])]
            for p in self.signature.parameters.values()
        ]

    @staticmethod
    def from_json(name: str, data: Any) -> Parameters:
        """Inverse of to_json."""
        kinds = (
            inspect.Parameter(p[0], inspect._ParameterKind(p[1]), **dict(zip(["default"], p[2:]))) for p in data or []
        )
        found = Parameters(_nameless, inspect.Signature(list(kinds)) if data is not None else None)
        found.name = name
        return found

    def bind(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Bound:
        """Structure ("call", names, (positional, keyword)) and the leaves with their paths."""
        names: list[str] = []
        if self.signature is not None:
            try:
                bound = self.signature.bind(*args, **kwargs)
            except TypeError as error:
                raise InputError(f"{self.name}{self.signature}: {error}") from None
            bound.apply_defaults()
            args, kwargs = bound.args, bound.kwargs
            for parameter in self.signature.parameters.values():
                if parameter.kind is parameter.VAR_POSITIONAL:
                    names += [f"{parameter.name}.{i}" for i in range(len(args) - len(names))]
                elif parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD):
                    names.append(parameter.name)
        names += [f"arg{i}" for i in range(len(names), len(args))]
        structures, leaves = [], []
        for name, value in [*zip(names, args), *kwargs.items()]:
            structure, found = tree.flatten(value, name)
            structures.append(structure)
            leaves += found
        keys = tuple([None] * len(args) + list(kwargs))
        return Bound(("dict", keys, tuple(structures)), leaves)

    @staticmethod
    def rebuild(structure: tree.Structure, leaves: list[Any]) -> tuple[list[Any], dict[str, Any]]:
        """Positional and keyword arguments from a bound structure and new leaves."""
        source = iter(leaves)
        args: list[Any] = []
        kwargs: dict[str, Any] = {}
        for key, child in zip(structure[1], structure[2]):
            value = tree.unflatten(child, source)
            if key is None:
                args.append(value)
            else:
                kwargs[key] = value
        return args, kwargs


def _nameless(*args: Any) -> None:
    """Stands for a function that is known by its text only."""
