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
    importer = _Importer(exported, examples)
    try:
        return importer.run()
    except NeedsSeedError:
        return importer.run(seeded=True)


def _modules(module: torch.fx.GraphModule) -> list[torch.fx.GraphModule]:
    return [m for m in module.modules() if isinstance(m, torch.fx.GraphModule)]


class _Importer:
    def __init__(self, exported: torch.export.ExportedProgram, examples: list[Any]) -> None:
        self.exported, self.examples = exported, examples
        self.module = exported.graph_module
        self.counts: Counter[str] = Counter()
        self.weights: dict[str, torch.Tensor] = {}
        self.canonical: dict[Any, str] = {}

    def run(self, seeded: bool = False) -> Imported:
        """The graph; `seeded`, its last argument is an int64 that random numbers follow from."""
        from torch.export.graph_signature import InputKind, OutputKind

        signature = self.exported.graph_signature
        changed = {
            spec.target
            for spec in signature.output_specs
            if spec.kind in (OutputKind.BUFFER_MUTATION, OutputKind.PARAMETER_MUTATION)
        }
        placeholders = [node for node in self.module.graph.nodes if node.op == "placeholder"]
        arrays: list[tuple[str, torch.Tensor, Any]] = []
        bind: list[tuple[torch.fx.Node, Any]] = []  # placeholder -> ("array", n), ("weight", name) or ("value", v)
        inputs, buffers = [], []
        number = 0
        for node, spec in zip(placeholders, signature.input_specs):
            if spec.kind is InputKind.USER_INPUT:
                example = self.examples[number]
                if isinstance(node.meta.get("val"), torch.Tensor):
                    inputs.append(number)
                    bind.append((node, ("complex" if example.is_complex() else "array", len(arrays))))
                    arrays.append((node.name, real_view(example), node.meta["val"]))
                elif isinstance(node.meta.get("val"), (torch.SymInt, torch.SymFloat, torch.SymBool)):
                    bind.append((node, ("symbol", node.meta["val"])))
                else:
                    bind.append((node, ("value", example)))
                number += 1
            elif spec.kind in (InputKind.PARAMETER, InputKind.BUFFER, InputKind.CONSTANT_TENSOR):
                tensor = self._tensor(spec.target)
                if spec.target in changed and tensor.is_complex():
                    raise CompileError(f"the module changes its complex buffer {spec.target}: that is not supported")
                if spec.target in changed:
                    buffers.append(spec.target)
                    bind.append((node, ("buffer", len(buffers) - 1)))
                else:
                    bind.append((node, ("weight", (spec.target, tensor))))
            else:
                raise CompileError(f"an input of kind {spec.kind.name} ({node.name}) is not supported")
        first_buffer = len(arrays)
        arrays += [(name.replace(".", "_"), self._tensor(name), None) for name in buffers]
        if seeded:
            arrays.append(("random_seed", torch.zeros((), dtype=torch.int64), None))
        parameters = [inspect.Parameter(name, inspect.Parameter.POSITIONAL_ONLY) for name, _, _ in arrays]
        known = Parameters(lambda: None, inspect.Signature(parameters))
        known.name = "main"
        examples = [torch.empty(_hints(tensor), dtype=tensor.dtype) for _, tensor, _ in arrays]
        names = DimNames(self.exported)
        dims = {name: names.of(name, val) for name, _, val in arrays if val is not None}
        dims |= {name: tuple(tensor.shape) for name, tensor, val in arrays if val is None}
        described: dict[str, Any] = {}

        def body(*values: Any) -> Any:
            env: dict[torch.fx.Node, Any] = {}
            for node, (kind, what) in bind:
                if kind == "weight":
                    env[node] = self._weight(*what)
                elif kind == "symbol":
                    env[node] = names.size(what)
                elif kind == "complex":
                    env[node] = Complex.of_pairs(values[what])
                else:
                    env[node] = what if kind == "value" else values[what + (first_buffer if kind == "buffer" else 0)]
            names.learn(values)
            with randomness.seeded(values[-1] if seeded else None):
                outputs = self._walk(self.module, env)
            results, found, mutations = [], [], []
            position = {id(v): i for i, v in enumerate(values)}
            user_inputs = [
                node.name
                for node, spec in zip(placeholders, signature.input_specs)
                if spec.kind is InputKind.USER_INPUT
            ]
            for value, spec in zip(outputs, signature.output_specs):
                if is_complex(value):
                    if spec.kind is not OutputKind.USER_OUTPUT:
                        raise CompileError(
                            f"the module writes into the complex tensor {spec.target}: return it instead"
                        )
                    found.append(("complex", (len(results), len(results) + 1)))
                    results += [value.re, value.im]
                    continue
                if not isinstance(value, (ACG.Array, ACG.SymInt)):
                    found.append(("value", value))
                    continue
                if spec.kind is OutputKind.USER_OUTPUT and id(value) in position and position[id(value)] < first_buffer:
                    found.append(("input", inputs[position[id(value)]]))
                    continue
                results.append(value)
                if spec.kind is OutputKind.USER_OUTPUT:
                    found.append(("result", len(results) - 1))
                elif spec.kind is OutputKind.USER_INPUT_MUTATION:
                    mutations.append(("input", user_inputs.index(spec.target), len(results) - 1))
                elif spec.kind in (OutputKind.BUFFER_MUTATION, OutputKind.PARAMETER_MUTATION):
                    mutations.append(("buffer", spec.target, len(results) - 1))
            described.update(outputs=found, mutations=mutations)
            return tuple(results)

        graph = tracing.trace_bound(body, known, known.bind(tuple(examples), {}), dims, "torch")
        fixed = [
            f"dim {axis} of {argument.name} (fixed at {size})"
            for argument in graph.arguments
            for axis, (size, asked) in enumerate(zip(argument.shape, dims.get(argument.name, ())))
            if isinstance(size, int) and not isinstance(asked, int) and asked is not None
        ]
        outputs, mutations = described["outputs"], described["mutations"]
        return Imported(
            graph, self.weights, inputs, buffers, outputs, mutations, fixed, self.counts, names.bounds, seeded
        )

    def _tensor(self, name: str) -> torch.Tensor:
        for store in (self.exported.state_dict, self.exported.constants):
            if name in store:
                return store[name]
        raise CompileError(f"the exported program lacks the tensor {name}")

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
