"""`torch.compile(module, backend="deepseek")`: graphs that Dynamo captures, compiled for inference.

One program serves all sizes of a graph. A graph that cannot be compiled, or that needs gradients, runs in eager with a
warning that says why; `options={"fallback": False}` raises instead.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import torch

from deepseek.acg.convert import to_numpy
from deepseek.acg.graph import Program
from deepseek.errors import CompileError, InputError

from .importer import Imported, import_plan
from .module import unpack_results
from .pairs import real_view
from .plan import of_graph

__all__ = ["backend"]

_OPTIONS = {"fallback": True, "threads": None, "target": "cpu"}
_STATE = re.compile(r"_(parameters|buffers)_")


def backend(graph: torch.fx.GraphModule, example_inputs: list[Any], **more: Any) -> Callable[..., Any]:
    """The entry point that torch.compile calls, once per graph and set of guards.

    Options: fallback (True: eager where a graph cannot be compiled), threads, target. Raises `InputError` for others.
    """
    from torch._dynamo.backends.common import aot_autograd
    from torch._functorch.aot_autograd import make_boxed_func
    from torch.utils._python_dispatch import _disable_current_modes

    options = {**_OPTIONS, **(more.get("options") or {})}
    if unknown := options.keys() - _OPTIONS.keys():
        raise InputError(
            f"unknown options of the backend: {', '.join(sorted(unknown))}; known are {', '.join(_OPTIONS)}"
        )
    state = _state(graph, example_inputs)

    def compile_inference(module: torch.fx.GraphModule, fakes: list[Any]) -> Callable[..., Any]:
        try:
            if len(fakes) != len(example_inputs):
                raise CompileError("the graph that AOTAutograd made has other inputs than the one that Dynamo captured")
            with _disable_current_modes(), torch.no_grad():
                return make_boxed_func(_Compiled(module, example_inputs, state, options))
        except (CompileError, InputError) as error:
            if not options["fallback"]:
                raise
            return make_boxed_func(_eager(module, str(error)))

    def refuse_training(module: torch.fx.GraphModule, fakes: list[Any]) -> Callable[..., Any]:
        reason = "it needs gradients, and this backend is for inference: call it under torch.no_grad()"
        if not options["fallback"]:
            raise CompileError(reason)
        return make_boxed_func(_eager(module, reason))

    return aot_autograd(fw_compiler=refuse_training, bw_compiler=lambda module, fakes: make_boxed_func(module.forward),
                        inference_compiler=compile_inference)(graph, example_inputs)  # fmt: skip


def _eager(module: torch.fx.GraphModule, reason: str) -> Callable[..., Any]:
    warnings.warn(f"deepseek runs this graph in eager: {reason}", stacklevel=2)
    return module.forward


def _state(graph: torch.fx.GraphModule, example_inputs: list[Any]) -> dict[int, str]:
    """Inputs that are the module's: its parameters and buffers, and numbers that Dynamo wrapped in tensors."""
    found = {}
    placeholders = [node for node in graph.graph.nodes if node.op == "placeholder"]
    for number, (node, example) in enumerate(zip(placeholders, example_inputs)):
        if not isinstance(example, torch.Tensor):
            continue
        if isinstance(example, torch.nn.Parameter) or _STATE.search(node.name):
            found[number] = "weight"
        elif not example.ndim and node.users and all(user.target == "item" for user in node.users):
            found[number] = "number"
    return found


class _Compiled:
    """Programs of one graph: one, unless numbers of the module change."""

    def __init__(self, module: Any, examples: list[Any], state: Mapping[int, str], options: Mapping[str, Any]) -> None:
        self.module, self.state, self.options = module, state, options
        self.numbers = [n for n, kind in state.items() if kind == "number"]
        self.programs: dict[tuple[Any, ...], _Entry] = {}
        self._entry(examples)

    def _entry(self, arguments: list[Any]) -> _Entry:
        key = tuple(arguments[n].item() for n in self.numbers)
        if key not in self.programs:
            known = {
                n: ("weight", (f"input{n}", arguments[n].detach()))
                if kind == "weight"
                else ("value", arguments[n].item())
                for n, kind in self.state.items()
            }
            self.programs[key] = _Entry(import_plan(of_graph(self.module, arguments, known)), self.options)
        return self.programs[key]

    def __call__(self, *arguments: Any) -> Any:
        return self._entry(list(arguments)).run(arguments)


class _Entry:
    """A program, and the state of the weights that it holds."""

    def __init__(self, imported: Imported, options: Mapping[str, Any]) -> None:
        self.imported = imported
        self.program: Program = imported.graph.compile(options["target"], options["threads"])
        self.weights = [
            (int(name.removeprefix("input")), name) for name in imported.weights if name.startswith("input")
        ]
        self._bind(imported.weights)

    def _bind(self, weights: Mapping[str, torch.Tensor]) -> None:
        self.program.bind_weights({name: to_numpy(tensor) for name, tensor in weights.items()})
        self.seen = {name: _identity(tensor) for name, tensor in weights.items()}

    def run(self, arguments: tuple[Any, ...]) -> Any:
        if any(_identity(arguments[n]) != self.seen[name] for n, name in self.weights):
            self._bind({**self.imported.weights, **{name: arguments[n].detach() for n, name in self.weights}})
        arrays = [real_view(arguments[n]) for n in self.imported.inputs]
        if self.imported.seeded:
            arrays.append(torch.randint(2**63 - 1, ()))
        return unpack_results(self.imported, self.program.run_arrays(arrays), arguments)


def _identity(tensor: torch.Tensor) -> tuple[int, int]:
    """Changes when a tensor is replaced or written into."""
    return tensor.data_ptr(), tensor._version
