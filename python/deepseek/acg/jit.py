"""ACG.compile: traces a function on its first call, and again only if dtypes, ranks, statics or guards differ."""

from __future__ import annotations

import functools
import os
import threading
import weakref
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from ..errors import InputError
from .binding import Parameters
from .convert import is_tensor, leaf_key
from .graph import Program
from .tracing import is_traced, trace_bound


class CacheInfo(NamedTuple):
    compiles: int
    hits: int


class CompiledFunction:
    """A function that runs as machine code; called on traced arrays it becomes part of the caller's trace."""

    def __init__(
        self, fn: Callable[..., Any], target: str, threads: int | None, dims: Mapping[str, Any] | None
    ) -> None:
        functools.update_wrapper(self, fn)
        self._fn, self._target, self._threads, self._dims = fn, target, threads, dims or {}
        self._parameters = Parameters(fn)
        self._programs: dict[Any, list[Program]] = {}
        self._compiles = self._hits = 0
        self._bound: weakref.WeakKeyDictionary[Any, CompiledFunction] = weakref.WeakKeyDictionary()
        self._lock = threading.RLock()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        bound = self._parameters.bind(args, kwargs)
        if is_traced(bound.leaves):
            return self._fn(*args, **kwargs)
        arrays = [leaf for _, leaf in bound.leaves if is_tensor(leaf)]
        key = (bound.structure, tuple(leaf_key(leaf) for _, leaf in bound.leaves))
        with self._lock:
            program = next((p for p in self._programs.get(key, ()) if p.graph.accepts(arrays)), None)
            if program is None:
                graph = trace_bound(self._fn, self._parameters, bound, self._dims)
                program = graph.compile(self._target, self._threads)
                self._programs.setdefault(key, []).append(program)
                self._compiles += 1
            else:
                self._hits += 1
        return program.run_arrays(arrays)

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        """A method is compiled per object: what it reads from the object is fixed when it is traced."""
        if instance is None:
            return self
        if instance not in self._bound:
            method = self._fn.__get__(instance, owner)
            self._bound[instance] = CompiledFunction(method, self._target, self._threads, self._dims)
        return self._bound[instance]

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the program of the calls so far as an artifact for `deepseek.load`.

        Raises `InputError` unless there is exactly one: calls of other dtypes or ranks have programs of their own,
        and `ACG.trace(fn, *examples).compile().save(path)` chooses one.
        """
        programs = [program for found in self._programs.values() for program in found]
        if len(programs) != 1:
            raise InputError(
                f"{self.__name__} has {len(programs)} programs, expected one: call it first, or save one of "
                "ACG.trace(fn, *examples).compile()"
            )
        programs[0].save(path)

    def cache_info(self) -> CacheInfo:
        """How many programs were compiled, and how many calls reused one."""
        return CacheInfo(self._compiles, self._hits)


def compile(
    fn: Callable[..., Any] | None = None,
    *,
    target: str = "cpu",
    threads: int | None = None,
    dims: Mapping[str, Any] | None = None,
) -> Any:
    """Compiles array functions: @ACG.compile, ACG.compile(fn), or @ACG.compile(target=, threads=, dims=).

    numpy in gives numpy out, torch in gives torch out. Dims are symbolic: a program is reused for every size
    that answers the questions asked while tracing alike. `dims` promises names: {"x": ("b", "s", 64)}.
    Errors: InputError for a call that does not fit, CompileError for a program that cannot be compiled.
    """
    if fn is None:
        return lambda found: CompiledFunction(found, target, threads, dims)
    return CompiledFunction(fn, target, threads, dims)
