"""torch.export of a module on example inputs, with the dims that may change."""

from __future__ import annotations

import inspect
import io
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from typing import Any

import torch
from torch.utils import _pytree as pytree

from deepseek.errors import CompileError, InputError

from .lines import user_line

__all__ = ["export_module", "named_arguments"]


class _Function(torch.nn.Module):
    """A plain function of tensors as a module."""

    def __init__(self, fn: Any) -> None:
        super().__init__()
        self.fn = fn

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.fn(*args, **kwargs)


def as_module(module: Any) -> torch.nn.Module:
    """The module itself, or one around a function."""
    if isinstance(module, torch.nn.Module):
        return module
    if callable(module):
        return _Function(module)
    raise InputError(f"expected a torch.nn.Module or a function of tensors, got {type(module).__name__}")


def named_arguments(module: torch.nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments by the names of forward's parameters; raises `InputError` where they do not fit."""
    try:
        return dict(inspect.signature(module.forward).bind(*args, **kwargs).arguments)
    except TypeError as error:
        raise InputError(f"{type(module).__name__}.forward: {error}") from None


def _automatic(value: Any) -> Any:
    """Every dim of every tensor as one that export may leave open; sizes 0 and 1 mean something else and stay."""

    def leaf(x: Any) -> Any:
        if not isinstance(x, torch.Tensor):
            return None
        return {i: torch.export.Dim.AUTO for i, n in enumerate(x.shape) if n > 1} or None

    return pytree.tree_map(leaf, value)


def _asked(spec: Any, value: Any, path: str) -> Any:
    """The user's `dynamic` for one argument in torch.export's terms: {axis: name}, or a sequence with None between."""
    if spec is None:
        return pytree.tree_map(lambda x: None, value)
    if isinstance(value, torch.Tensor):
        entries = dict(enumerate(spec)) if isinstance(spec, (tuple, list)) else spec
        if isinstance(entries, set):
            entries = dict.fromkeys(entries)
            named = dict.fromkeys(entries, torch.export.Dim.DYNAMIC)
            return {axis % value.ndim: dim for axis, dim in named.items()}
        if not isinstance(entries, Mapping):
            raise InputError(f"dynamic of {path} must map axes to names, got {spec!r}: for example {{0: 'batch'}}")
        found = {}
        for axis, dim in entries.items():
            if not isinstance(axis, int) or not -value.ndim <= axis < value.ndim:
                raise InputError(f"dynamic names axis {axis!r} of {path}, which has shape {list(value.shape)}")
            if dim is not None and not isinstance(dim, int):
                found[axis % value.ndim] = torch.export.Dim.DYNAMIC if isinstance(dim, (str, bool)) else dim
            elif dim is True:
                found[axis % value.ndim] = torch.export.Dim.DYNAMIC
        return found or None
    if isinstance(value, (tuple, list)) and isinstance(spec, (tuple, list)) and len(spec) == len(value):
        return type(value)(_asked(s, v, f"{path}.{i}") for i, (s, v) in enumerate(zip(spec, value)))
    if isinstance(value, Mapping) and isinstance(spec, Mapping):
        return {key: _asked(spec.get(key), v, f"{path}.{key}") for key, v in value.items()}
    raise InputError(f"dynamic of {path} does not fit the example, a {type(value).__name__}")


def dynamic_shapes(arguments: Mapping[str, Any], dynamic: Mapping[str, Any] | None) -> dict[str, Any]:
    """torch.export's dynamic_shapes: as asked, or every dim that may change."""
    if dynamic is None:
        return {name: _automatic(value) for name, value in arguments.items()}
    unknown = set(dynamic) - set(arguments)
    if unknown:
        raise InputError(f"dynamic names {sorted(unknown)}, but the arguments are {sorted(arguments)}")
    return {name: _asked(dynamic.get(name), value, name) for name, value in arguments.items()}


@contextmanager
def _quiet() -> Iterator[None]:
    """Without torch's warnings, log lines and graphs of attempts that fail: the error that is raised says it."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def export_module(
    module: torch.nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], dynamic: Mapping[str, Any] | None
) -> torch.export.ExportedProgram:
    """The exported program. Without `dynamic` every dim may change, or none if export cannot have that.

    Raises `CompileError` with the user's line.
    """
    args = tuple(args)
    arguments = named_arguments(module, args, kwargs)
    shapes = dynamic_shapes(arguments, dynamic)
    attempts = [(shapes, False), (shapes, True)]
    if dynamic is None:
        attempts.append((None, False))
    first: Exception | None = None
    for wanted, strict in attempts:
        try:
            with torch.no_grad(), _quiet():
                return torch.export.export(module, args, dict(kwargs), dynamic_shapes=wanted, strict=strict)
        except Exception as error:  # export raises what the module raises, and a dozen types of its own
            first = first or error
    raise _explained(module, first) from first


def _explained(module: torch.nn.Module, error: Exception) -> CompileError:
    text = str(error).strip().split("\n\n")[0].splitlines()
    shown = " ".join(line.strip() for line in text if line.strip())[:400] or type(error).__name__
    kind = type(error).__name__
    advice = "torch.export cannot follow it"
    if "DataDependent" in kind or "data-dependent" in shown.lower() or "data dependent" in shown.lower():
        advice = "a shape or a branch depends on values: use torch.where, torch.cond, or pass the number as an argument"
    elif "Constraint" in kind or "dynamic" in shown:
        advice = "a dim that was to change is fixed by the module: leave it out of dynamic"
    elif "device" in shown.lower():
        advice = "move the module and its inputs to one device"
    return CompileError(f"{user_line(error)}: {type(module).__name__} cannot be exported: {kind}: {shown}; {advice}")
