"""What the placeholders and outputs of a graph are: of an exported program, or of a graph that Dynamo captured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from deepseek.errors import CompileError

from .pairs import real_view


@dataclass
class Plan:
    """A graph, what its placeholders are bound to, and what its outputs are for."""

    module: torch.fx.GraphModule
    ranges: Mapping[Any, Any]  # of symbols
    # Per placeholder ("array", n), ("complex", n), ("buffer", n), ("weight", (name, tensor)), ("symbol", size) or
    # ("value", v).
    bound: list[tuple[torch.fx.Node, tuple[str, Any]]] = field(default_factory=list)
    # (name, example, value of the graph that has symbolic sizes): the program's arguments, then its buffers.
    arrays: list[tuple[str, torch.Tensor, Any]] = field(default_factory=list)
    buffers: list[tuple[str, torch.Tensor]] = field(default_factory=list)
    inputs: list[int] = field(default_factory=list)  # numbers of the tensors among the flat arguments
    user_inputs: list[str] = field(default_factory=list)  # names of the flat arguments
    # Per output ("user", None), ("input", argument that it is written into) or ("buffer", name)
    outputs: list[tuple[str, Any]] = field(default_factory=list)

    def bind_input(self, node: torch.fx.Node, example: Any) -> None:
        """The next flat argument."""
        number, value = len(self.user_inputs), node.meta.get("val")
        self.user_inputs.append(node.name)
        if isinstance(value, torch.Tensor):
            self.inputs.append(number)
            self.bound.append((node, ("complex" if value.is_complex() else "array", len(self.arrays))))
            self.arrays.append((node.name, real_view(example), value))
        elif isinstance(value, (torch.SymInt, torch.SymFloat, torch.SymBool)):
            self.bound.append((node, ("symbol", value)))
        else:
            self.bound.append((node, ("value", example)))


def of_program(exported: torch.export.ExportedProgram, examples: list[Any]) -> Plan:
    """The plan of an exported program; `examples` are the flat arguments that it was exported with."""
    from torch.export.graph_signature import InputKind, OutputKind

    signature, module = exported.graph_signature, exported.graph_module
    plan = Plan(module, exported.range_constraints)
    written = (OutputKind.BUFFER_MUTATION, OutputKind.PARAMETER_MUTATION)
    changed = {spec.target for spec in signature.output_specs if spec.kind in written}
    placeholders = [node for node in module.graph.nodes if node.op == "placeholder"]
    for node, spec in zip(placeholders, signature.input_specs):
        if spec.kind is InputKind.USER_INPUT:
            plan.bind_input(node, examples[len(plan.user_inputs)])
        elif spec.kind in (InputKind.PARAMETER, InputKind.BUFFER, InputKind.CONSTANT_TENSOR):
            tensor = _tensor(exported, spec.target)
            if spec.target not in changed:
                plan.bound.append((node, ("weight", (spec.target, tensor))))
                continue
            if tensor.is_complex():
                raise CompileError(f"the module changes its complex buffer {spec.target}: that is not supported")
            plan.bound.append((node, ("buffer", len(plan.buffers))))
            plan.buffers.append((spec.target, tensor))
        else:
            raise CompileError(f"an input of kind {spec.kind.name} ({node.name}) is not supported")
    for spec in signature.output_specs:
        if spec.kind is OutputKind.USER_INPUT_MUTATION:
            plan.outputs.append(("input", plan.user_inputs.index(spec.target)))
        elif spec.kind in written:
            plan.outputs.append(("buffer", spec.target))
        else:
            plan.outputs.append(("user", None))
    return plan


def of_graph(module: torch.fx.GraphModule, examples: list[Any], known: Mapping[int, tuple[str, Any]]) -> Plan:
    """The plan of a graph of ATen operations without effects, whose placeholders say their values in `meta["val"]`.

    `known` are those placeholders, by number, that are weights or numbers.
    """
    placeholders = [node for node in module.graph.nodes if node.op == "placeholder"]
    environments = [
        v.fake_mode.shape_env for n in placeholders if (v := n.meta.get("val")) is not None and hasattr(v, "fake_mode")
    ]
    ranges = next((e.var_to_range for e in environments if e is not None), {})
    plan = Plan(module, ranges)
    for number, (node, example) in enumerate(zip(placeholders, examples)):
        if number in known:
            plan.user_inputs.append(node.name)
            plan.bound.append((node, known[number]))
        else:
            plan.bind_input(node, example)
    (results,) = next(node for node in module.graph.nodes if node.op == "output").args
    plan.outputs = [("user", None)] * len(results)
    return plan


def _tensor(exported: torch.export.ExportedProgram, name: str) -> torch.Tensor:
    for store in (exported.state_dict, exported.constants):
        if name in store:
            return store[name]
    raise CompileError(f"the exported program lacks the tensor {name}")
