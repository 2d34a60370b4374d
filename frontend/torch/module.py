"""A compiled PyTorch module: callable like the module, with eager's structure of results."""

from __future__ import annotations

import copy
import inspect
import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch.utils import _pytree as pytree

from deepseek.acg.convert import to_numpy
from deepseek.acg.graph import Program
from deepseek.acg.jit import CacheInfo
from deepseek.errors import CompileError, InputError

from .exporting import as_module, export_module, named_arguments
from .importer import Imported, import_program
from .pairs import real_view

__all__ = ["CompiledModule", "TracedModule"]


@dataclass(eq=False)
class _Entry:
    """One program: what it was exported for, and its code."""

    spec: Any
    example: list[Any]
    imported: Imported
    out_spec: Any
    target: str
    threads: int | None

    @cached_property
    def program(self) -> Program:
        """Machine code; made when it is first asked for."""
        program = self.imported.graph.compile(self.target, self.threads)
        return program.bind_weights({name: to_numpy(tensor) for name, tensor in self.imported.weights.items()})

    def accepts(self, spec: Any, leaves: list[Any]) -> bool:
        if spec != self.spec or len(leaves) != len(self.example):
            return False
        tensors = set(self.imported.inputs)
        for i, (leaf, example) in enumerate(zip(leaves, self.example)):
            if isinstance(example, torch.Tensor):
                if not isinstance(leaf, torch.Tensor) or leaf.dtype != example.dtype or leaf.ndim != example.ndim:
                    return False
            elif i not in tensors and (type(leaf) is not type(example) or leaf != example):
                return False
        arrays = [real_view(leaves[i]) for i in self.imported.inputs]
        return self._fits(arrays) and self.imported.graph.accepts(arrays)

    def _fits(self, arrays: list[torch.Tensor]) -> bool:
        """Whether sizes are what the export fixed, equal where it needs that, and in the ranges that it found."""
        sizes: dict[str, int] = {}
        for argument, array in zip(self.imported.graph.arguments, arrays):
            for wanted, size in zip(argument.shape, array.shape):
                if isinstance(wanted, int):
                    if wanted != size:
                        return False
                elif sizes.setdefault(wanted, size) != size:
                    return False
        ranges = self.imported.ranges
        return all(low <= sizes[name] <= high for name, (low, high) in ranges.items() if name in sizes)


class CompiledModule:
    """What `deepseek.compile` gives. Weights are the module's own memory, read when the program was compiled.

    Calls with other dtypes, ranks, constants or sizes than the program holds for compile another program, unless
    `dynamic` said what may change.
    """

    def __init__(
        self,
        module: Any,
        example_inputs: Any,
        example_kwargs: Mapping[str, Any] | None = None,
        *,
        target: str = "cpu",
        dynamic: Mapping[str, Any] | None = None,
        dump_ir: str | Path | None = None,
        threads: int | None = None,
        traced_only: bool = False,
    ) -> None:
        self.module = as_module(module)
        self._takes_seed = "seed" in inspect.signature(self.module.forward).parameters
        self._target, self._dynamic, self._threads, self._dump = target, dynamic, threads, dump_ir
        self._entries: list[_Entry] = []
        self._compiles = self._hits = 0
        args, kwargs = _arguments(example_inputs)
        kwargs = {**kwargs, **(example_kwargs or {})}
        entry = self._entry(args, kwargs)
        if not traced_only:
            entry.program  # noqa: B018 (compiles now)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The module's results. `seed=` fixes the random numbers of a module that draws some; without it they follow
        from torch.manual_seed. They are not those that eager draws.
        """
        seed = None if self._takes_seed else kwargs.pop("seed", None)
        leaves, spec = pytree.tree_flatten(self._normal(args, kwargs))
        entry = next((e for e in self._entries if e.accepts(spec, leaves)), None)
        if entry is None:
            if self._dynamic is not None:
                raise InputError(
                    f"{self._name} was compiled for {_shown(self._entries[0].example)} with dynamic={dict(self._dynamic)}, "
                    f"but is called with {_shown(leaves)}"
                )
            entry = self._entry(args, kwargs)
        else:
            self._hits += 1
        return self._run(entry, leaves, seed)

    @property
    def _name(self) -> str:
        return type(self.module).__name__

    def _normal(self, args: Any, kwargs: Any) -> Any:
        return named_arguments(self.module, args, kwargs)

    def _entry(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> _Entry:
        leaves, spec = pytree.tree_flatten(self._normal(args, kwargs))
        for leaf in leaves:
            if isinstance(leaf, torch.Tensor) and leaf.device.type not in ("cpu", "meta"):
                raise InputError(
                    f"a tensor argument is on {leaf.device}: this target runs on the CPU, pass it by .cpu()"
                )
        exported = export_module(self.module, args, kwargs, self._dynamic)
        flat = pytree.tree_leaves(exported.example_inputs or (args, kwargs))
        imported = import_program(exported, flat)
        if self._dynamic is not None and imported.fixed:
            raise CompileError(
                f"{self._name}: dynamic asks for sizes that operations need as numbers: {', '.join(imported.fixed)}; "
                "leave them out of dynamic"
            )
        if self._dump is not None and not self._entries:
            imported.graph.dump(self._dump, self._target)
        examples, out_spec = [_signature(leaf) for leaf in leaves], exported.call_spec.out_spec
        entry = _Entry(spec, examples, imported, out_spec, self._target, self._threads)
        self._entries.append(entry)
        self._compiles += 1
        return entry

    def _run(self, entry: _Entry, leaves: list[Any], seed: int | None) -> Any:
        imported = entry.imported
        named = {**dict(self.module.named_buffers()), **dict(self.module.named_parameters())}
        arrays = [real_view(leaves[i]) for i in imported.inputs] + [named[name].detach() for name in imported.buffers]
        if imported.seeded:
            arrays.append(torch.randint(2**63 - 1, ()) if seed is None else torch.tensor(int(seed)))
        results = entry.program.run_arrays(arrays)
        for kind, which, number in imported.mutations:
            target = named[which] if kind == "buffer" else leaves[which]
            with torch.no_grad():
                target.copy_(results[number])
        return pytree.tree_unflatten(unpack_results(imported, results, leaves), entry.out_spec)

    def for_target(self, target: str, threads: int | None) -> CompiledModule:
        """The same graphs, compiled for another target."""
        other = copy.copy(self)
        other._target, other._threads = target, threads
        other._entries = [replace(entry, target=target, threads=threads) for entry in self._entries]
        other._compiles, other._hits = len(other._entries), 0
        other.program  # noqa: B018 (compiles now)
        return other

    def cache_info(self) -> CacheInfo:
        """How many programs were compiled, and how many calls reused one."""
        return CacheInfo(self._compiles, self._hits)

    @property
    def graph(self) -> Any:
        """The dsc graph of the first program."""
        return self._entries[0].imported.graph

    @property
    def program(self) -> Program:
        """The first program."""
        return self._entries[0].program

    def explain(self, sizes: Mapping[str, int] | None = None) -> Any:
        """What the first program is made of (`deepseek.explain.Explanation`): print it, or `to_json()`.

        Costs are expressions in named sizes, or numbers for given `sizes`: {"input_ids_0": 1, "input_ids_1": 128}.
        """
        return self.program.explain(sizes, self.counts(), self._name)

    def counts(self) -> Counter[str]:
        """How many operations of the exported graph were imported directly and by decomposition."""
        return self._entries[0].imported.counts


class TracedModule:
    """What `ACG.trace` gives for a module: its graph as text, compiled when it is first called."""

    def __init__(self, module: Any, args: Any, kwargs: Mapping[str, Any], dynamic: Mapping[str, Any] | None) -> None:
        self._compiled = CompiledModule(module, tuple(args), kwargs, dynamic=dynamic, traced_only=True)

    @property
    def mlir(self) -> str:
        """The graph's text."""
        return self._compiled.graph.mlir

    def __str__(self) -> str:
        return self.mlir

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the text; the file is complete or not there."""
        self._compiled.graph.save(path)

    def compile(self, target: str = "cpu", threads: int | None = None) -> CompiledModule:
        """The compiled module."""
        return self._compiled.for_target(target, threads)

    def explain(self, sizes: Mapping[str, int] | None = None) -> Any:
        """What the graph is made of (`CompiledModule.explain`)."""
        return self._compiled.explain(sizes)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Runs the module as traced; compiled for this CPU at the first call."""
        return self._compiled(*args, **kwargs)


def unpack_results(imported: Imported, results: Any, leaves: Any) -> list[Any]:
    """The module's flat outputs from the program's results and the flat arguments of the call."""
    pick = {"result": results.__getitem__, "input": leaves.__getitem__, "value": lambda v: v}
    pick["complex"] = lambda parts: torch.complex(*(results[n] for n in parts))
    return [pick[kind](which) for kind, which in imported.outputs]


def _arguments(example_inputs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Positional and keyword arguments from a tuple, a list, a dict of keyword arguments, or one tensor."""
    if example_inputs is None:
        return (), {}
    if isinstance(example_inputs, Mapping):
        return (), dict(example_inputs)
    if isinstance(example_inputs, (tuple, list)):
        return tuple(example_inputs), {}
    return (example_inputs,), {}


def _signature(leaf: Any) -> Any:
    """A tensor without its data: what calls are compared with."""
    return torch.empty(leaf.shape, dtype=leaf.dtype, device="meta") if isinstance(leaf, torch.Tensor) else leaf


def _shown(leaves: list[Any]) -> str:
    return ", ".join(f"{str(x.dtype)[6:]}{list(x.shape)}" if isinstance(x, torch.Tensor) else repr(x) for x in leaves)
