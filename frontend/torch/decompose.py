"""PyTorch's own decompositions of one operation, traced on the shapes that export found."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch.utils import _pytree as pytree

from . import registry


@cache
def _table() -> dict[Any, Any]:
    """Rules for operations that have no function of their own here."""
    from torch._decomp import core_aten_decompositions, decomposition_table

    rules = {**decomposition_table, **core_aten_decompositions()}
    return {
        op: rule
        for op, rule in rules.items()
        if not isinstance(op, torch._ops.OpOverload) or (registry.find(op) or registry.find(op, True)) is None
    }


def decompose(node: torch.fx.Node) -> tuple[torch.fx.GraphModule, Callable[[Any, Any], list[Any]]] | None:
    """(graph of simpler operations, its flat inputs from the node's arguments), None if there is no rule."""
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.fx.experimental.proxy_tensor import make_fx

    target = node.target

    def meta(entry: Any) -> Any:
        return torch.fx.node.map_arg(entry, lambda n: n.meta.get("val"))

    args, kwargs = meta(node.args), meta(node.kwargs)
    flat, spec = pytree.tree_flatten((args, kwargs))
    dynamic = [isinstance(v, (torch.Tensor, torch.SymInt, torch.SymFloat, torch.SymBool)) for v in flat]
    modes = [v.fake_mode for v in flat if isinstance(v, torch._subclasses.FakeTensor)]
    if not modes:
        modes = [FakeTensorMode()]

    def call(*values: Any) -> Any:
        rest = iter(values)
        full = [next(rest) if is_input else v for v, is_input in zip(flat, dynamic)]
        found_args, found_kwargs = pytree.tree_unflatten(full, spec)
        return target(*found_args, **found_kwargs)

    def trace(fn: Any, rules: dict[Any, Any]) -> Any:
        return make_fx(fn, decomposition_table=rules, tracing_mode="real", _allow_non_fake_inputs=True)

    inputs = [v for v, is_input in zip(flat, dynamic) if is_input]
    try:
        with modes[0], torch.no_grad(), torch._dispatch.python.enable_python_dispatcher():
            graph = trace(call, _table())(*inputs)
            # Rules write in place: what they made is traced once more without that.
            if any(is_mutable(n) for n in graph.graph.nodes):
                graph = trace(torch.func.functionalize(graph), {})(*inputs)
    except (RuntimeError, NotImplementedError, TypeError, ValueError, AssertionError, KeyError):
        return None
    if any(n.target is target for n in graph.graph.nodes):
        return None

    def flat_inputs(found_args: Any, found_kwargs: Any) -> list[Any]:
        # The importer's arrays stand where the fake tensors stood.
        values = pytree.tree_leaves((found_args, found_kwargs), is_leaf=_is_leaf)
        return [v for v, is_input in zip(values, dynamic) if is_input]

    return graph, flat_inputs


def is_mutable(node: torch.fx.Node) -> bool:
    """Whether a node writes into one of its arguments; batch_norm updates its running statistics unannounced."""
    schema = getattr(node.target, "_schema", None)
    if node.op != "call_function" or schema is None:
        return False
    if node.target is torch.ops.aten.batch_norm.default:
        return bool(node.args[3] is not None and node.args[5])
    return schema.is_mutable


def _is_leaf(value: Any) -> bool:
    return not isinstance(value, (list, tuple, dict))
