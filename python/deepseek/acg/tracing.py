"""Runs a Python function on symbolic arrays and records what it does as dsc/linalg text.

`trace` is the one way in: examples give dtypes, ranks and size hints; placeholders (`spec`) leave sizes open.
"""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Callable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import InputError
from . import dtypes, ir, sizes, tree
from .binding import Bound, Parameters
from .convert import is_tensor, is_torch, leaf_key
from .dims import Dims
from .dtypes import DType
from .graph import Graph
from .ir import Argument, Node, Value
from .sizes import Size
from .source import fail
from .symint import SymInt

_state = threading.local()


@dataclass(frozen=True)
class Dim:
    """A named dim of a placeholder: sizes in [min, max] that are multiples of divisor."""

    name: str
    min: int = 0
    max: int | None = None
    divisor: int = 1


@dataclass(frozen=True)
class Spec:
    """A placeholder for an array argument; shape entries are ints, names or Dims."""

    dtype: DType
    shape: tuple[int | str | Dim, ...]
    name: str | None = None
    tied: bool = False


def dim(name: str, min: int = 0, max: int | None = None, divisor: int = 1) -> Dim:
    """A named dim with a range, for `spec` and `dims=`; say it once, afterwards its name means the same dim."""
    return Dim(name, min, max, divisor)


def spec(dtype: Any, shape: tuple[int | str | Dim, ...], name: str | None = None, *, tied: bool = False) -> Spec:
    """A placeholder in place of an example array. `tied`: the buffer is updated in place (a KV cache)."""
    return Spec(dtypes.parse(dtype), tuple(shape), name, tied)


class Trace:
    """The program under construction."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.dims = Dims()
        self.nodes: list[Node] = []
        self.arguments: list[Argument] = []
        self.weights: dict[str, Value] = {}

    def add(self, node: Node) -> Node:
        self.nodes.append(node)
        return node

    def argument(self, name: str, kind: str, shape: tuple[Size, ...], dtype: DType, tied: bool = False) -> Value:
        """A new entry argument."""
        argument = Argument(name, kind, shape, dtype, tied)
        self.arguments.append(argument)
        return argument.results[0]

    def named_dim(self, entry: str | Dim, hint: int | None) -> Size:
        """The symbol of a named dim; a Dim narrows its range."""
        wanted = Dim(entry) if isinstance(entry, str) else entry
        symbol = self.dims.symbols.get(wanted.name) or self.dims.new(wanted.name, hint=hint, declared=True)
        symbol.low = max(symbol.low, wanted.min)
        symbol.divisor = max(symbol.divisor, wanted.divisor)
        if wanted.max is not None:
            symbol.high = wanted.max if symbol.high is None else min(symbol.high, wanted.max)
        if hint is not None and symbol.hint not in (None, hint):
            raise InputError(f"dim {wanted.name} is {symbol.hint} in one argument and {hint} in another")
        return sizes.of(symbol)


def current() -> Trace | None:
    """The trace that is running in this thread."""
    stack = getattr(_state, "stack", None)
    return stack[-1] if stack else None


def active() -> Trace:
    """The running trace; an error outside of one."""
    found = current()
    if found is None:
        fail("ACG functions work on the arrays of a traced function", "call them inside @ACG.compile or ACG.trace")
    return found


@contextmanager
def _running(trace: Trace) -> Any:
    if not hasattr(_state, "stack"):
        _state.stack = []
    _state.stack.append(trace)
    try:
        yield
    finally:
        _state.stack.pop()


def weight(name: str, shape: tuple[int, ...], dtype: Any) -> Any:
    """The weight argument `name` of the program being traced; the same name gives the same argument."""
    from .array import Array

    running, found = active(), dtypes.parse(dtype)
    if name not in running.weights:
        running.weights[name] = running.argument(name, "weight", tuple(int(n) for n in shape), found)
    value = running.weights[name]
    if value.shape != tuple(shape) or value.dtype != found:
        fail(f"weight {name} is {list(value.shape)} {value.dtype} elsewhere, but {list(shape)} {found} here")
    return Array(running, value, running.kind)


def trace(
    fn: Callable[..., Any], *examples: Any, dims: Mapping[str, Any] | None = None, **keyword_examples: Any
) -> Graph:
    """Traces `fn` on example arrays or placeholders; see the module. `dims` names dims: {"x": ("b", "s", 64)}.

    A torch.nn.Module is exported instead, `dims` being `dynamic` of `deepseek.compile`; the result has `mlir`, `save`,
    `compile` and can be called too.
    """
    if _is_module(fn):
        from deepseek.frontend.torch import trace as trace_module

        return trace_module(fn, examples, keyword_examples, dims)
    parameters = Parameters(fn)
    return trace_bound(fn, parameters, parameters.bind(examples, keyword_examples), dims or {})


def _is_module(fn: Any) -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(fn, torch.nn.Module)


def trace_bound(
    fn: Callable[..., Any], parameters: Parameters, bound: Bound, dims: Mapping[str, Any], kind: str | None = None
) -> Graph:
    """The graph of `fn` for bound and flattened examples; `kind` is whose rules hold, torch's if any is a tensor."""
    from .array import Array

    structure, leaves = bound.structure, bound.leaves
    keys = [leaf_key(leaf) for _, leaf in leaves]
    running = Trace(kind or ("torch" if any(is_torch(leaf) for _, leaf in leaves) else "numpy"))
    sources: dict[str, list[int]] = {}
    inputs: list[Any] = []
    for path, leaf in leaves:
        if not is_tensor(leaf) and not isinstance(leaf, Spec):
            inputs.append(leaf)
            continue
        value = _input(running, path, leaf, dims.get(path), sources)
        inputs.append(Array(running, value, "torch" if is_torch(leaf) else running.kind))
    with _running(running):
        args, kwargs = Parameters.rebuild(structure, inputs)
        returned = fn(*args, **kwargs)
        out_structure, out_leaves = tree.flatten(returned)
        outputs, described = _outputs(running, out_leaves)
    signature = {
        "parameters": parameters.to_json(),
        "inputs": tree.to_json(structure),
        "leaves": keys,
        "symbols": sources,
        "guards": [[g.relation, sizes.to_json(g.size)] for g in running.dims.guards],
        "outputs": tree.to_json(out_structure),
        "results": described,
    }
    text = ir.print_module(
        running.dims, running.arguments, running.nodes, outputs, json.dumps(signature, separators=(",", ":"))
    )
    return Graph(text, parameters.name, out_structure, parameters)


def _input(running: Trace, path: str, leaf: Any, named: Any, sources: dict[str, list[int]]) -> Value:
    """The argument for one example or placeholder; `sources` collects where each symbol is read."""
    number = len(running.arguments)
    shape: list[Size] = []
    if isinstance(leaf, Spec):
        for axis, entry in enumerate(leaf.shape):
            if isinstance(entry, (str, Dim)):
                shape.append(running.named_dim(entry, None))
                sources.setdefault(shape[-1].key, [number, axis])
            else:
                shape.append(int(entry))
        return running.argument(leaf.name or path, "input", tuple(shape), leaf.dtype, leaf.tied)
    dtype = dtypes.find(leaf.dtype)
    if dtype is None:
        raise InputError(f"argument {path} has dtype {leaf.dtype}, which is not supported")
    example = tuple(leaf.shape)
    if named is not None and len(named) != len(example):
        raise InputError(f"dims names {len(named)} dims of {path}, but it has shape {list(example)}")
    for axis, hint in enumerate(example):
        entry = named[axis] if named is not None else None
        if isinstance(entry, (str, Dim)):
            shape.append(running.named_dim(entry, hint))
            sources.setdefault(shape[-1].key, [number, axis])
        elif entry is not None:
            if entry != hint:
                raise InputError(f"dim {axis} of {path} was promised to be {entry}, but it is {hint}")
            shape.append(int(entry))
        else:
            symbol = running.dims.new(f"{path.replace('.', '_')}_{axis}", hint=int(hint))
            shape.append(sizes.of(symbol))
            sources[symbol.name] = [number, axis]
    return running.argument(path, "input", tuple(shape), dtype)


def _outputs(running: Trace, leaves: list[tuple[str, Any]]) -> tuple[list[tuple[str, Value, int | None]], list[Any]]:
    """Entry results and, per output leaf, ["array", index, kind], ["size", expression] or ["value", constant]."""
    from .array import Array, as_array

    outputs: list[tuple[str, Value, int | None]] = []
    described: list[Any] = []
    for path, leaf in leaves:
        if isinstance(leaf, (np.ndarray, np.generic)):
            leaf = as_array(leaf)
        if isinstance(leaf, Array):
            # A value that is returned twice is one result; the caller gets a copy.
            values = [value for _, value, _ in outputs]
            if leaf.acg_value not in values:
                outputs.append((path or "out", leaf.acg_value, _tied(running, leaf.acg_value)))
                values.append(leaf.acg_value)
            described.append(["array", values.index(leaf.acg_value), leaf.kind])
        elif isinstance(leaf, SymInt):
            described.append(["size", sizes.to_json(leaf.size)])
        elif isinstance(leaf, (bool, int, float, str)):
            described.append(["value", leaf])
        else:
            fail(
                f"a traced function cannot return {type(leaf).__name__}",
                "return arrays, numbers, or containers of them",
            )
    return outputs, described


def _tied(running: Trace, value: Value) -> int | None:
    """The number of the tied argument whose buffer `value` is after its kv_appends."""
    start = value
    while isinstance(value.node, ir.Op) and value.node.in_place is not None:
        value = value.node.inputs[value.node.in_place]
    if value is start or not isinstance(value.node, Argument) or not value.node.tied:
        return None
    return running.arguments.index(value.node)


def is_traced(leaves: list[tuple[str, Any]]) -> bool:
    """Whether any leaf belongs to a running trace: the function is then traced into its caller."""
    module = sys.modules.get(__package__ + ".array")
    return module is not None and any(isinstance(leaf, (module.Array, SymInt)) for _, leaf in leaves)
