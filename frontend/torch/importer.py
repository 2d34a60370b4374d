"""Walks the FX graph of an exported program and records it as a dsc graph.

An operation with a function in the registry is imported by it; another one is decomposed by PyTorch's own rules, on
the shapes that export found, and its parts are imported.
"""

from __future__ import annotations

import inspect
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, NoReturn

import torch
from torch.utils import _pytree as pytree

from deepseek import ACG
from deepseek.acg import source, tracing
from deepseek.acg.binding import Parameters
from deepseek.acg.graph import Graph
from deepseek.errors import CompileError

from . import randomness, registry
from .decompose import decompose, is_mutable
from .lines import at_node
from .pairs import Complex, is_complex, real_view
from .plan import Plan, of_program
from .randomness import NeedsSeedError
from .symbols import DimNames, python_function

_IGNORED = {
    "aten::_assert_tensor_metadata", "aten::_assert_scalar", "aten::_assert_async", "aten::sym_constrain_range",
    "aten::sym_constrain_range_for_size", "aten::_functional_assert_async", "aten::_print", "aten::_linalg_check_errors",
}  # fmt: skip


@dataclass
class Imported:
    """A graph, and how calls of the module become calls of it."""

    graph: Graph
    weights: dict[str, torch.Tensor]
    inputs: list[int]  # numbers of the tensors among the flat arguments
    buffers: list[str]  # buffers that are inputs because the module changes them, in the order of their arguments
    outputs: list[Any]  # per flat output ("result", n), ("complex", (n, m)), ("value", v) or ("input", n)
    mutations: list[tuple[str, str, int]]  # ("buffer" | "input", name or number, result)
    fixed: list[str]  # dims that export left open, but an operation needs as a number
    counts: Counter[str] = field(default_factory=Counter)
    ranges: dict[str, tuple[int, float]] = field(default_factory=dict)  # of named dims
    seeded: bool = False  # the last argument is the seed of random numbers


def import_program(exported: torch.export.ExportedProgram, examples: list[Any]) -> Imported:
    """The dsc graph of an exported program; `examples` are the flat arguments that it was exported with."""
    if any(is_mutable(node) for module in _modules(exported.graph_module) for node in module.graph.nodes):
        exported = exported.run_decompositions({})
    return import_plan(of_program(exported, examples))


def import_plan(plan: Plan) -> Imported:
    """The dsc graph of a graph of ATen operations without effects."""
    try:
        return _Importer(plan).run()
    except NeedsSeedError:
        return _Importer(plan).run(seeded=True)


def _modules(module: torch.fx.GraphModule) -> list[torch.fx.GraphModule]:
    return [m for m in module.modules() if isinstance(m, torch.fx.GraphModule)]


class _Importer:
    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.counts: Counter[str] = Counter()
        self.weights: dict[str, torch.Tensor] = {}
        self.canonical: dict[Any, str] = {}
        self.names = DimNames(plan.ranges)

    def run(self, seeded: bool = False) -> Imported:
        """The graph; `seeded`, its last argument is an int64 that random numbers follow from."""
        plan, names = self.plan, self.names
        arrays = [*plan.arrays, *((name.replace(".", "_"), tensor, None) for name, tensor in plan.buffers)]
        if seeded:
            arrays.append(("random_seed", torch.zeros((), dtype=torch.int64), None))
        parameters = [inspect.Parameter(name, inspect.Parameter.POSITIONAL_ONLY) for name, _, _ in arrays]
        known = Parameters(lambda: None, inspect.Signature(parameters))
        known.name = "main"
        examples = [torch.empty(_hints(tensor), dtype=tensor.dtype) for _, tensor, _ in arrays]
        dims = {name: tuple(tensor.shape) if val is None else names.of(name, val) for name, tensor, val in arrays}
        described: dict[str, Any] = {}

        def body(*values: Any) -> Any:
            names.learn(values)
            with randomness.seeded(values[-1] if seeded else None):
                outputs = self._walk(plan.module, {node: self._bound(what, values) for node, what in plan.bound})
            results, found, mutations = self._outputs(outputs, values)
            described.update(outputs=found, mutations=mutations)
            return tuple(results)

        graph = tracing.trace_bound(body, known, known.bind(tuple(examples), {}), dims, "torch")
        fixed = [
            f"dim {axis} of {argument.name} (fixed at {size})"
            for argument in graph.arguments
            for axis, (size, asked) in enumerate(zip(argument.shape, dims.get(argument.name, ())))
            if isinstance(size, int) and not isinstance(asked, int) and asked is not None
        ]
        return Imported(
            graph, self.weights, plan.inputs, [name for name, _ in plan.buffers], described["outputs"],
            described["mutations"], fixed, self.counts, names.bounds, seeded,
        )  # fmt: skip

    def _bound(self, what: tuple[str, Any], values: tuple[Any, ...]) -> Any:
        """The value of a placeholder."""
        kind, which = what
        if kind == "weight":
            return self._weight(*which)
        if kind == "symbol":
            return self.names.size(which)
        if kind == "value":
            return which
        if kind == "complex":
            return Complex.of_pairs(values[which])
        return values[which + (len(self.plan.arrays) if kind == "buffer" else 0)]

    def _outputs(self, outputs: Any, values: tuple[Any, ...]) -> tuple[list[Any], list[Any], list[Any]]:
        """(results of the program, how the module's outputs follow from them, what they are written into)"""
        results: list[Any] = []
        found: list[Any] = []
        mutations: list[Any] = []
        position = {id(v): i for i, v in enumerate(values)}
        for value, (kind, target) in zip(outputs, self.plan.outputs):
            if is_complex(value):
                if kind != "user":
                    raise CompileError(f"the module writes into the complex tensor {target}: return it instead")
                found.append(("complex", (len(results), len(results) + 1)))
                results += [value.re, value.im]
            elif not isinstance(value, (ACG.Array, ACG.SymInt)):
                found.append(("value", value))
            elif kind == "user" and position.get(id(value), len(values)) < len(self.plan.arrays):
                found.append(("input", self.plan.inputs[position[id(value)]]))
            else:
                results.append(value)
                if kind == "user":
                    found.append(("result", len(results) - 1))
                else:
                    mutations.append((kind, target, len(results) - 1))
        return results, found, mutations

    def _weight(self, name: str, tensor: torch.Tensor) -> Any:
        """The weight argument of a parameter; one that shares all of its memory with another is that one."""
        if tensor.device.type not in ("cpu", "meta"):
            raise CompileError(f"{name} is on {tensor.device}: this target runs on the CPU, call module.cpu() first")
        key = (tensor.data_ptr(), tensor.dtype, tuple(tensor.shape), tensor.stride()) if tensor.numel() else name
        name = self.canonical.setdefault(key, name)
        parts = self.weights.setdefault(name, real_view(tensor))
        found = ACG.weight(name, tuple(parts.shape), parts.dtype)
        return Complex.of_pairs(found) if tensor.is_complex() else found

    def _walk(self, module: torch.fx.GraphModule, env: dict[torch.fx.Node, Any]) -> Any:
        """The outputs of a graph whose placeholders are in `env`."""

        def value(entry: Any) -> Any:
            return torch.fx.node.map_arg(entry, lambda node: env[node])

        known: dict[Any, Any] = {}  # operations are pure: the same one of the same values is made once
        for node in module.graph.nodes:
            if node.op == "placeholder":
                continue
            if node.op == "output":
                return value(node.args[0])
            with at_node(node):
                if node.op == "get_attr":
                    env[node] = self._attribute(module, node)
                elif node.op == "call_function":
                    key = _key((node.target, node.args, node.kwargs))
                    if key is None or key not in known:
                        known[key] = self._call(module, node, value(node.args), value(node.kwargs))
                    env[node] = known[key]
                else:
                    source.fail(f"a graph node of kind {node.op} is not supported")
        return ()

    def _attribute(self, module: torch.fx.GraphModule, node: torch.fx.Node) -> Any:
        found: Any = module
        for part in node.target.split("."):
            found = getattr(found, part)
        if not isinstance(found, torch.Tensor):
            return found
        if found.numel() * found.element_size() <= 4096:
            parts = ACG.asarray(real_view(found))
            return Complex.of_pairs(parts) if found.is_complex() else parts
        return self._weight(f"constant.{node.target}", found)

    def _call(self, module: Any, node: torch.fx.Node, args: Any, kwargs: Any) -> Any:
        target = node.target
        if isinstance(target, torch._ops.HigherOrderOperator):
            return self._higher_order(node, args, kwargs)
        if not isinstance(target, torch._ops.OpOverload):
            return python_function(target, args, kwargs)
        name = target._schema.name
        if name in _IGNORED:
            return None
        if name in ("aten::sym_size", "aten::sym_numel"):
            return args[0].shape[args[1]] if len(args) > 1 else args[0].size
        if name in ("aten::item", "aten::_local_scalar_dense"):
            if isinstance(args[0], (int, float)):
                return args[0]
            source.fail(
                f"{target} gives a number that depends on values",
                "keep it in a tensor, or pass the number as an argument",
            )
        of_complex = any(map(is_complex, pytree.tree_leaves((args, kwargs))))
        handler = registry.find(target, of_complex)
        if handler is None and of_complex and registry.find(target) is not None:
            source.fail(
                f"complex tensors are not supported by {target}",
                "compute with the parts (torch.view_as_real), or register it: deepseek.frontend.torch.registry.on_complex",
            )
        if handler is not None:
            self.counts["direct"] += 1
            return self._handled(handler, node, args, kwargs)
        parts = decompose(node)
        if parts is None:
            _refuse(target, args)
        self.counts["decomposed"] += 1
        inner, flat = parts
        placeholders = [n for n in inner.graph.nodes if n.op == "placeholder"]
        values = [torch.fx.node.map_arg(a, lambda n: n) for a in flat(args, kwargs)]
        for part in inner.graph.nodes:
            part.meta.update({k: node.meta[k] for k in ("stack_trace", "nn_module_stack") if k in node.meta})
        return self._walk(inner, dict(zip(placeholders, values)))

    def _handled(self, handler: Any, node: torch.fx.Node, args: Any, kwargs: Any) -> Any:
        try:
            return handler(*args, **kwargs)
        except CompileError as error:
            raise CompileError(f"{error} [{node.target}]") from error
        except (TypeError, ValueError, IndexError, NotImplementedError, AttributeError) as error:
            shown = ", ".join(_describe(a) for a in args)
            raise CompileError(
                f"{source.show_line(*source.user_frame())}: {node.target}({shown}) is not supported in this form: {error}"
            ) from error

    def _higher_order(self, node: torch.fx.Node, args: Any, kwargs: Any) -> Any:
        name = node.target._name if hasattr(node.target, "_name") else str(node.target)
        if name in ("wrap_with_set_grad_enabled", "wrap_with_autocast"):
            at = next(i for i, a in enumerate(args) if isinstance(a, torch.fx.GraphModule))
            return self._inline(args[at], args[at + 1 :])
        if name == "cond":
            condition, then, otherwise, operands = args
            if isinstance(condition, bool):
                return self._inline(then if condition else otherwise, operands)
            # Both sides are computed: they have no effects.
            pairs = zip(self._inline(then, operands), self._inline(otherwise, operands))
            return tuple(ACG.where(condition, a, b) for a, b in pairs)
        if name == "scan":
            return self._scan(*args, **kwargs)
        source.fail(f"torch.{name} is not supported", "unroll it in Python, or use torch.where")

    def _inline(self, module: torch.fx.GraphModule, operands: Any) -> Any:
        placeholders = [n for n in module.graph.nodes if n.op == "placeholder"]
        return self._walk(module, dict(zip(placeholders, operands)))

    def _scan(self, combine: Any, init: Any, xs: Any, additional_inputs: Any = ()) -> Any:
        """torch's scan, step by step: its length must be known."""
        count = int(xs[0].shape[0])
        carry, collected = list(init), []
        for step in range(count):
            out = self._inline(combine, [*carry, *(x[step] for x in xs), *additional_inputs])
            carry, ys = list(out[: len(carry)]), out[len(carry) :]
            collected.append(ys)
        return (*carry, *(ACG.stack(ys) for ys in zip(*collected)))


def _refuse(target: Any, args: Any) -> NoReturn:
    """Says why an operation that nothing here imports cannot be, and what to do."""
    tags = target.tags
    if torch.Tag.nondeterministic_seeded in tags:
        source.fail(f"{target} draws random numbers", "draw them outside and pass them as an argument")
    if torch.Tag.dynamic_output_shape in tags:
        source.fail(
            f"{target} gives a tensor whose size depends on values",
            "keep all elements and mask them (torch.where), or call it outside of the compiled module",
        )
    source.fail(
        f"{target} is not supported ({', '.join(map(_describe, args))})",
        "write it with other operations, or register it: deepseek.frontend.torch.registry.aten",
    )


def _key(entry: Any) -> Any:
    """A call as a key: numbers with their types, since 1 and 1.0 and True are equal; None if it has none."""
    try:
        leaves, spec = pytree.tree_flatten(entry)
        key = (str(spec), tuple((type(leaf), leaf) for leaf in leaves))
        hash(key)
    except TypeError:
        return None
    return key


def _hints(tensor: torch.Tensor) -> list[int]:
    return [int(n) for n in tensor.shape]


def _describe(value: Any) -> str:
    if isinstance(value, (ACG.Array, Complex)):
        return f"{'complex ' * is_complex(value)}{value.type.name}[{', '.join(map(str, value.shape))}]"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(_describe, value))}]"
    return str(value)
