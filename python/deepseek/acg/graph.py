"""Graph: a traced program as text plus the calling convention that the text carries in `dsc.signature`."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import InputError
from ..files import replacing
from . import sizes, tree
from .binding import Parameters
from .convert import from_numpy, is_tensor, leaf_key, to_numpy
from .dims import Guard

if TYPE_CHECKING:
    from ..compiler import Compiled
    from ..explain import Explanation

_ARGUMENT = re.compile(r"%arg\d+: tensor<([^>]*)> \{(.*)\}(?: loc\(.*\))?[,)]")
_RESULT = re.compile(r"tensor<([^>]*)> \{([^{}]*)\}")
_STRING = r'"((?:[^"\\]|\\.)*)"'


@dataclass(frozen=True)
class Argument:
    """An entry argument; shape entries are ints and dim names; kind is "input" or "weight"."""

    name: str
    kind: str
    dtype: str
    shape: tuple[int | str, ...]
    tied: bool
    unsigned: bool


@dataclass(frozen=True)
class Result:
    """An entry result; an unnamed size is "?"; tied is the number of the argument whose buffer it is."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]
    tied: int | None


class Graph:
    """A traced program: text, file, or callable (compiled for this CPU at the first call)."""

    def __init__(
        self,
        text: str,
        name: str = "program",
        structure: tree.Structure | None = None,
        parameters: Parameters | None = None,
    ) -> None:
        self.mlir = text
        self.name = name
        found = re.search(r"dsc\.signature = " + _STRING, text)
        if found is None:
            raise InputError("this module has no dsc.signature: it was not written by ACG")
        self.signature = json.loads(_unquote(found[1]))
        self._outputs = tree.from_json(self.signature["outputs"]) if structure is None else structure
        self._symbols = {name: sizes.Symbol(name) for name in self.signature["symbols"]}
        self.guards = [Guard(r, sizes.from_json(data, self._symbols)) for r, data in self.signature["guards"]]
        self.parameters = parameters or Parameters.from_json(name, self.signature["parameters"])
        self._traced = structure is not None  # else the text comes from a file and may be anything
        self._default: Program | None = None

    def __str__(self) -> str:
        return self.mlir

    @cached_property
    def results(self) -> tuple[Result, ...]:
        head = re.search(r"\) -> \((.*)\) \{$", self.mlir, re.M)
        found = []
        for kind, attributes in _RESULT.findall(_plain_dims(head[1])) if head else []:
            tied = re.search(r"dsc\.tied = (\d+)", attributes)
            name, dtype, shape = _described(kind, attributes, "dsc.name")
            found.append(Result(name, dtype, shape, int(tied[1]) if tied else None))
        return tuple(found)

    @cached_property
    def arguments(self) -> tuple[Argument, ...]:
        tied = {result.tied for result in self.results}
        found = []
        for kind, attributes in _ARGUMENT.findall(self.mlir):
            is_weight = "dsc.weight = " in attributes
            name, dtype, shape = _described(kind, attributes, "dsc.weight" if is_weight else "dsc.name")
            role = "weight" if is_weight else "input"
            found.append(Argument(name, role, dtype, shape, len(found) in tied, "dsc.unsigned" in attributes))
        return tuple(found)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the text; the file is complete or not there."""
        with replacing(path) as file:
            file.write(self.mlir.encode())

    def dump(self, folder: str | os.PathLike[str], target: str = "cpu") -> None:
        """Writes the module after each phase into a folder, with index.html that compares them (`deepseek.phases`)."""
        from .. import compiler, isolation
        from ..phases import dump

        lower = (compiler if self._traced else isolation).lower_text
        dump(self.mlir, folder, target=target, name=self.name, lower=lower)

    def symbol_values(self, arrays: list[Any]) -> Callable[[sizes.Symbol], int]:
        """Reads a symbol's value off the array arguments of a call."""
        sources = self.signature["symbols"]

        def value(symbol: sizes.Symbol) -> int:
            number, axis = sources[symbol.name]
            return int(arrays[number].shape[axis])

        return value

    def accepts(self, arrays: list[Any]) -> bool:
        """Whether the sizes of a call are among those that this program was traced for."""
        value = self.symbol_values(arrays)
        return all(guard.holds(value) for guard in self.guards)

    def compile(self, target: str = "cpu", threads: int | None = None) -> Program:
        """Machine code for `target`, callable like the traced function."""
        if self._traced:
            from ..compiler import compile_text
        else:
            from ..isolation import compile_text

        return Program(self, compile_text(self.mlir, target=target, source_name=self.name), threads)

    def run(self, *args: Any, **kwargs: Any) -> Any:
        """Runs the program; compiled for this CPU at the first call."""
        return self._compiled(*args, **kwargs)

    def explain(self, sizes: Mapping[str, int] | None = None) -> Explanation:
        """What the program is made of, compiled for this CPU (`Program.explain`)."""
        return self._compiled.explain(sizes)

    @property
    def _compiled(self) -> Program:
        if self._default is None:
            self._default = self.compile()
        return self._default

    __call__ = run


class Program:
    """A compiled Graph. `executable` runs on numpy arrays; calling converts, checks and restores structure."""

    def __init__(self, graph: Graph, compiled: Compiled, threads: int | None = None) -> None:
        from ..executable import Executable

        self.graph = graph
        self.compiled = compiled
        self.executable = Executable(compiled.object, compiled.manifest, threads=threads)
        self._weights: Mapping[str, np.ndarray] | None = None

    def bind_weights(self, weights: Mapping[str, np.ndarray]) -> Program:
        """Gives the program the values of its `ACG.weight`s by name (`Executable.bind_weights`); returns itself."""
        self.executable.bind_weights(weights)
        self._weights = weights
        return self

    def explain(
        self, sizes: Mapping[str, int] | None = None, imported: Mapping[str, int] | None = None, name: str | None = None
    ) -> Explanation:
        """Operations per layer, kernels with their costs, memory: print it, or `to_json()`.

        Costs are expressions in named sizes, or numbers for given `sizes`: {"b": 1, "s": 128}. Raises `InputError` if one
        is missing.
        """
        from ..explain import explain

        return explain(
            self.graph.mlir, self.compiled.manifest, name=name or self.graph.name, imported=imported, sizes=sizes
        )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes an artifact for `deepseek.load`, with the weights that are bound. Raises `ArtifactError`."""
        from .. import artifact

        weights = None
        if self._weights is not None:
            used = {argument.name for argument in self.graph.arguments if argument.kind == "weight"}
            weights = {name: self._weights[name] for name in used}
        code = self.compiled
        artifact.write(path, text=self.graph.mlir, object=code.object, manifest=code.manifest, weights=weights)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        expected = self.graph.signature
        bound = self.graph.parameters.bind(args, kwargs)
        given, leaves = tree.to_json(bound.structure), bound.leaves
        if given != expected["inputs"] or len(leaves) != len(expected["leaves"]):
            raise InputError(
                f"{self.graph.name} was traced with {_count(expected['inputs'])}, but is called with {_count(given)}"
            )
        for number, ((_, leaf), wanted) in enumerate(zip(leaves, expected["leaves"])):
            if list(leaf_key(leaf)) != list(wanted):
                raise InputError(f"argument {number} of {self.graph.name} is {_kind(leaf)}, expected {_shown(wanted)}")
        arrays = [leaf for _, leaf in leaves if is_tensor(leaf)]
        value = self.graph.symbol_values(arrays)
        for guard in self.graph.guards:
            if not guard.holds(value):
                raise InputError(f"{self.graph.name} was traced for sizes with {guard}, which these arguments break")
        return self.run_arrays(arrays)

    def run_arrays(self, arrays: list[Any]) -> Any:
        """The call after all checks: `arrays` are the array leaves in order."""
        returned = self.executable(*map(to_numpy, arrays))
        values = [returned] if isinstance(returned, np.ndarray) else list(returned or [])
        value = self.graph.symbol_values(arrays)
        leaves: list[Any] = []
        given: set[int] = set()
        for entry in self.graph.signature["results"]:
            if entry[0] == "array":
                array = values[entry[1]]
                leaves.append(from_numpy(array.copy() if entry[1] in given else array, entry[2]))
                given.add(entry[1])
            elif entry[0] == "size":
                leaves.append(sizes.evaluate(sizes.from_json(entry[1], self.graph._symbols), value))
            else:
                leaves.append(entry[1])
        return tree.unflatten(self.graph._outputs, iter(leaves))


def load(path: str | os.PathLike[str]) -> Graph:
    """The Graph that `Graph.save` wrote."""
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read a graph from {path}: {error}") from None
    return Graph(text, path.stem)


def _unquote(text: str) -> str:
    """The inverse of source.quote, without the quotation marks."""
    return re.sub(rb"\\([0-9A-F]{2})", lambda m: bytes([int(m[1], 16)]), text.encode()).decode()


def _plain_dims(text: str) -> str:
    """`#dsc.dims<["b", "_"]>` as `("b", "_")`, so that attribute lists hold no brackets of types."""
    return re.sub(r"#dsc\.dims<\[([^\]]*)\]>", r"(\1)", text)


def _described(kind: str, attributes: str, key: str) -> tuple[str, str, tuple[int | str, ...]]:
    """(name, dtype, shape) of an argument or result from its printed type and attributes."""
    *extents, dtype = kind.split("x")
    named = re.search(r"\(([^)]*)\)", _plain_dims(attributes))
    dims = re.findall(_STRING, named[1]) if named else ["?"] * len(extents)
    shape = tuple(_unquote(d) if e == "?" else int(e) for e, d in zip(extents, dims))
    found = re.search(re.escape(key) + " = " + _STRING, attributes)
    return _unquote(found[1]) if found else "", dtype, shape


def _count(inputs: Any) -> str:
    leaves = json.dumps(inputs).count('"*"') if inputs else 0
    return f"{leaves} argument{'s' if leaves != 1 else ''}"


def _kind(leaf: Any) -> str:
    return _shown(leaf_key(leaf))


def _shown(key: Any) -> str:
    if key[0] == "static":
        return f"the {key[1]} {key[2]}"
    return f"a {key[0]} array of {key[1]} and rank {key[2]}"
