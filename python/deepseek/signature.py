"""What a compiled program takes and gives, as its manifest says: checks arguments and weights, knows result shapes."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from deepseek.errors import ExecutionError, InputError
from deepseek.formats import ML_DTYPES

__all__ = ["ENTRY", "ITEM_BYTES", "Binding", "BoundWeights", "Entry", "Input", "Result", "Signature", "check_weights"]

_MAX_BINDINGS = 256  # distinct shape tuples remembered per program
ITEM_BYTES = {
    "f64": 8,
    "f32": 4,
    "f16": 2,
    "bf16": 2,
    "f8E4M3FN": 1,
    "f8E5M2": 1,
    "i64": 8,
    "i32": 4,
    "i16": 2,
    "i8": 1,
    "i1": 1,
}
Entry = Callable[[int, int, int], int]  # dsc_main or dsc_init: (context, buffers, dims) -> 0, 1: out of memory
ENTRY = ctypes.CFUNCTYPE(ctypes.c_int32, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p)
_SHAPES = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p)


@dataclass(frozen=True)
class Input:
    """An argument of a call."""

    slot: int  # position in the buffers of dsc_main
    label: str  # for messages: argument 1 ("y")
    dtype: np.dtype
    shape: tuple[int | str, ...]  # a str is the name of a symbol
    tied: bool


@dataclass(frozen=True)
class Result:
    """A result of a call; a tied one is the argument that was updated in place."""

    slot: int  # position in the buffers of dsc_main; of a tied one: position in the call's inputs
    tied: bool
    dtype: np.dtype
    shape: tuple[int | str, ...]


@dataclass(frozen=True)
class Binding:
    """What one tuple of input shapes means: symbol values and result shapes."""

    dims: ctypes.Array
    shapes: tuple[tuple[int, ...], ...]  # of the results, tied ones included


@dataclass(frozen=True)
class BoundWeights:
    """Weights of a program: buffers of dsc_main that have their addresses, and what these are of."""

    buffers: ctypes.Array
    kept: list[Any]


class Signature:
    """The inputs and results of one program."""

    def __init__(self, manifest: Mapping[str, Any], symbol: Callable[[str], int]) -> None:
        """`symbol` gives the address of a function of the program. Raises what a malformed manifest leads to."""
        arguments = manifest["main"]["args"]
        self.inputs = _plan_inputs(arguments)
        self.results = _plan_results(manifest["main"]["results"], self.inputs, len(arguments))
        self.slots = len(arguments) + sum(not result.tied for result in self.results)
        self._tied = any(spec.tied for spec in self.inputs)
        self.symbols = {symbol["name"]: symbol for symbol in manifest["symbols"]}
        self._dynamic = sum(isinstance(size, str) for result in self.results for size in result.shape)
        self._shapes = _SHAPES(symbol("dsc_main_shapes")) if self._dynamic else None
        self._bindings: dict[tuple[tuple[int, ...], ...], Binding] = {}

    def check(self, inputs: Sequence[Any], kinds: tuple[type, ...]) -> tuple[list[Any], Binding]:
        """The arguments of a call, contiguous, and what their shapes mean; raises InputError if they do not fit.

        Arguments are arrays of numpy, or of the other `kinds` as they are.
        """
        if len(inputs) != len(self.inputs):
            names = ", ".join(spec.label for spec in self.inputs)
            raise InputError(f"expected {len(self.inputs)} arguments ({names}), got {len(inputs)}")
        arrays = [_checked(array, spec, kinds) for array, spec in zip(inputs, self.inputs, strict=True)]
        key = tuple([array.shape for array in arrays])
        return arrays, self._bindings.get(key) or self._bind(key)

    def check_overlap(self, arrays: Sequence[Any], addresses: Sequence[int]) -> None:
        """Refuse an input that shares memory with one that is updated in place."""
        if not self._tied:
            return
        order = sorted(range(len(arrays)), key=addresses.__getitem__)
        end, last = 0, order[0]  # the furthest end so far, and whose it is
        tied_end, tied_last = 0, order[0]
        for index in order:
            size = arrays[index].nbytes
            if not size:
                continue
            start, tied = addresses[index], self.inputs[index].tied
            limit, other = (end, last) if tied else (tied_end, tied_last)
            if start < limit:
                a, b = (index, other) if tied else (other, index)
                raise InputError(
                    f"{self.inputs[a].label}: is updated in place and must not share memory with {self.inputs[b].label}"
                )
            if start + size > end:
                end, last = start + size, index
            if tied and start + size > tied_end:
                tied_end, tied_last = start + size, index

    def _bind(self, shapes: tuple[tuple[int, ...], ...]) -> Binding:
        """Check input shapes against the signature; raises InputError on the first that does not fit."""
        values: dict[str, tuple[int, int, int]] = {}  # symbol -> size, argument, dim
        for index, (spec, shape) in enumerate(zip(self.inputs, shapes, strict=True)):
            if len(shape) != len(spec.shape):
                raise InputError(f"{spec.label}: must have {len(spec.shape)} dims {_signature(spec)}, got {shape}")
            for dim, (expected, size) in enumerate(zip(spec.shape, shape, strict=True)):
                if not isinstance(expected, str):
                    if size != expected:
                        raise InputError(f"{spec.label}: dim {dim} must be {expected}, got {size}")
                elif expected in values:
                    self._check_equal(spec, index, dim, size, values[expected])
                else:
                    self._check_promises(spec, dim, size)
                    values[expected] = (size, index, dim)
        missing = [name for name in self.symbols if name not in values]
        if missing:
            raise ExecutionError(f'no argument gives the size of "{missing[0]}": compile the program again')
        dims = (ctypes.c_int64 * max(len(self.symbols), 1))(*[values[name][0] for name in self.symbols])
        binding = Binding(dims, self._result_shapes(dims))
        if len(self._bindings) >= _MAX_BINDINGS:
            self._bindings.clear()
        self._bindings[shapes] = binding
        return binding

    def _check_equal(self, spec: Input, index: int, dim: int, size: int, first: tuple[int, int, int]) -> None:
        value, argument, origin = first
        if size == value:
            return
        source = f"dim {origin}" if argument == index else self.inputs[argument].label
        raise InputError(f'{spec.label}: dim {dim} is "{spec.shape[dim]}" = {value} from {source}, got {size}')

    def _check_promises(self, spec: Input, dim: int, size: int) -> None:
        symbol = self.symbols[spec.shape[dim]]
        least, most, divisor = symbol.get("min") or 0, symbol.get("max"), symbol.get("divisor") or 1
        if size < least:
            rule = f"at least {least}"
        elif most is not None and size > most:
            rule = f"at most {most}"
        elif size % divisor:
            rule = f"a multiple of {divisor}"
        else:
            return
        raise InputError(f'{spec.label}: dim {dim} is "{spec.shape[dim]}", which must be {rule}, got {size}')

    def _result_shapes(self, dims: ctypes.Array) -> tuple[tuple[int, ...], ...]:
        sizes = (ctypes.c_int64 * max(self._dynamic, 1))()
        if self._shapes is not None:
            self._shapes(ctypes.addressof(dims), ctypes.addressof(sizes))
        following = iter(sizes)
        return tuple(
            tuple(next(following) if isinstance(size, str) else size for size in result.shape)
            for result in self.results
        )


def _label(kind: str, index: int, name: str | None) -> str:
    return f'{kind} {index} ("{name}")' if name else f"{kind} {index}"


def _signature(spec: Input) -> str:
    return "[" + ", ".join(f'"{size}"' if isinstance(size, str) else str(size) for size in spec.shape) + "]"


def _plan_inputs(arguments: Sequence[dict[str, Any]]) -> list[Input]:
    plans: list[Input] = []
    for slot, argument in enumerate(arguments):
        if argument["kind"] == "input":
            label = _label("argument", len(plans), argument["name"])
            dtype = _numpy_dtype(argument["dtype"], argument["unsigned"], label)
            plans.append(Input(slot, label, dtype, tuple(argument["shape"]), argument["tied"]))
    return plans


def _plan_results(results: Sequence[dict[str, Any]], inputs: Sequence[Input], slot: int) -> list[Result]:
    positions = {spec.slot: index for index, spec in enumerate(inputs)}
    plans: list[Result] = []
    for index, result in enumerate(results):
        tied, shape = result["tied"], tuple(result["shape"])
        if tied is not None:
            plans.append(Result(positions[tied], True, inputs[positions[tied]].dtype, shape))
            continue
        dtype = _numpy_dtype(result["dtype"], result["unsigned"], _label("result", index, result["name"]))
        plans.append(Result(slot, False, dtype, shape))
        slot += 1
    return plans


def _numpy_dtype(name: str, unsigned: bool, label: str) -> np.dtype:
    if name == "i1":
        return np.dtype(np.bool_)
    if name not in ML_DTYPES:
        return np.dtype(f"{'u' if unsigned else name[0]}{ITEM_BYTES[name]}")
    try:
        import ml_dtypes
    except ImportError as error:
        raise ExecutionError(f"{label} is {ML_DTYPES[name]}, which numpy lacks: pip install ml_dtypes") from error
    return np.dtype(getattr(ml_dtypes, ML_DTYPES[name]))


def _checked(array: Any, spec: Input, kinds: tuple[type, ...]) -> Any:
    """Return `array` or a contiguous copy of it; its shape is checked later."""
    if not isinstance(array, (np.ndarray, *kinds)):
        others = "".join(f" or {kind.__name__}" for kind in kinds)
        raise InputError(f"{spec.label}: must be a numpy array{others}, got {type(array).__name__}")
    if array.dtype is not spec.dtype and array.dtype != spec.dtype:
        raise InputError(f"{spec.label}: dtype must be {spec.dtype}, got {array.dtype}")
    if not isinstance(array, np.ndarray):
        return array
    flags = array.flags
    if not spec.tied:
        return array if flags.c_contiguous and flags.aligned else array.copy(order="C")
    if not flags.c_contiguous or not flags.aligned:
        raise InputError(
            f"{spec.label}: is updated in place and must be C-contiguous and aligned, got shape {array.shape} "
            f"with strides {array.strides}"
        )
    if not flags.writeable:
        raise InputError(f"{spec.label}: is updated in place and must be writable, got a read-only array")
    return array


def check_weights(arguments: Sequence[dict[str, Any]], weights: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The weights that `arguments` of a manifest name, contiguous; raises InputError if they do not fit."""
    arrays: dict[str, np.ndarray] = {}
    missing = sorted({argument["weight"] for argument in arguments} - weights.keys())
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise InputError(f'weight "{missing[0]}"{more} missing from the {len(weights)} weights given')
    for argument in arguments:
        name, shape = argument["weight"], tuple(argument["shape"])
        array = weights[name]
        if not isinstance(array, np.ndarray):
            raise InputError(f'weight "{name}" must be a numpy array, got {type(array).__name__}')
        if array.shape != shape:
            raise InputError(f'weight "{name}" must have shape {shape}, got {array.shape}')
        if not _holds(array.dtype, argument):
            raise InputError(f'weight "{name}" must have dtype {argument["dtype"]}, got {array.dtype}')
        contiguous = array.flags.c_contiguous and array.flags.aligned
        arrays[name] = array if contiguous else array.copy(order="C")
    return arrays


def _holds(dtype: np.dtype, argument: dict[str, Any]) -> bool:
    """True if a weight of `dtype` has the bits that the program expects."""
    name = argument["dtype"]
    if dtype.kind in "iu":  # raw bits
        return dtype.isnative and dtype.itemsize == ITEM_BYTES[name]
    if name in ML_DTYPES:
        return dtype.name == ML_DTYPES[name]
    return dtype == _numpy_dtype(name, argument["unsigned"], argument["weight"])
