"""What a compiled program takes and gives, as its manifest says: checks arguments and weights, knows result shapes."""

from __future__ import annotations

import ctypes
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

from deepseek.errors import ExecutionError, InputError
from deepseek.formats import ML_DTYPES

__all__ = ["ENTRY", "ITEM_BYTES", "Binding", "Call", "Entry", "Held", "Input", "Result", "Signature", "check_weights"]

_MAX_BINDINGS = 256  # distinct shape tuples remembered per program and held arguments
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

    number: int  # among the results of the program
    slot: int  # position in the buffers of dsc_main; of a tied one: position in the call's arrays
    tied: bool
    dtype: np.dtype
    shape: tuple[int | str, ...]


@dataclass(frozen=True)
class Binding:
    """What one tuple of input shapes means: symbol values and result shapes."""

    dims: ctypes.Array
    shapes: tuple[tuple[int, ...], ...]  # of the call's results, tied ones included


@dataclass(frozen=True, eq=False)
class Form:
    """What a call gives and gets: everything, or what is left beside held arguments."""

    inputs: Sequence[Input]
    results: Sequence[Result]
    bindings: dict[tuple[tuple[int, ...], ...], Binding] = field(default_factory=dict)

    @cached_property
    def tied(self) -> bool:
        """Whether a call updates one of its arrays."""
        return any(spec.tied for spec in self.inputs)


class Held:
    """Neighbouring arguments that are updated in place, checked once for several calls.

    A call gives it in their place, and gets the other results.
    """

    def __init__(
        self, owner: Signature, first: int, arrays: Sequence[Any], addresses: Sequence[int], form: Form
    ) -> None:
        """`owner`: of the program; `form`: what is left for its calls to give and get."""
        self.owner, self.first, self.form = owner, first, form
        self.arrays = tuple(arrays)  # keeps them where they are
        specs = owner.inputs[first : first + len(arrays)]
        self.slots = [(spec.slot, address) for spec, address in zip(specs, addresses, strict=True)]
        order = sorted(range(len(arrays)), key=addresses.__getitem__)
        order = [index for index in order if arrays[index].nbytes]
        self._labels = [specs[index].label for index in order]
        self._starts = [addresses[index] for index in order]
        self._ends = [addresses[index] + arrays[index].nbytes for index in order]

    def check_apart(self, spec: Input, start: int, size: int) -> None:
        """Refuse another argument in `size` bytes at `start` that shares memory with a held one."""
        index = bisect_left(self._starts, start + size) - 1
        if size and index >= 0 and self._ends[index] > start:
            raise _shared(self._labels[index], spec.label)


@dataclass(slots=True)
class Call:
    """The checked arguments of a call."""

    form: Form
    arrays: list[Any]
    binding: Binding
    held: Held | None

    def check_overlap(self, addresses: Sequence[int]) -> None:
        """Refuse an input that shares memory with one that is updated in place."""
        if self.held is not None:
            for spec, array, address in zip(self.form.inputs, self.arrays, addresses, strict=True):
                self.held.check_apart(spec, address, array.nbytes)
        if self.form.tied:
            _check_apart(self.form.inputs, self.arrays, addresses)


class Signature:
    """The inputs and results of one program."""

    def __init__(self, manifest: Mapping[str, Any], symbol: Callable[[str], int]) -> None:
        """`symbol` gives the address of a function of the program. Raises what a malformed manifest leads to."""
        arguments = manifest["main"]["args"]
        self.inputs = _plan_inputs(arguments)
        self.results = _plan_results(manifest["main"]["results"], self.inputs, len(arguments))
        self.slots = len(arguments) + sum(not result.tied for result in self.results)
        self.symbols = {symbol["name"]: symbol for symbol in manifest["symbols"]}
        self._form = Form(self.inputs, self.results)
        self._dynamic = sum(isinstance(size, str) for result in self.results for size in result.shape)
        self._shapes = _SHAPES(symbol("dsc_main_shapes")) if self._dynamic else None

    def check(self, inputs: Sequence[Any], kinds: tuple[type, ...]) -> Call:
        """The arguments of a call, contiguous, and what their shapes mean; raises InputError if they do not fit.

        Arguments are arrays of numpy, or of the other `kinds` as they are, and one Held at most.
        """
        form = self._form
        held = next((given for given in inputs if type(given) is Held), None)
        if held is not None:
            form, inputs = held.form, self._beside(held, inputs)
        if len(inputs) != len(form.inputs):
            names = ", ".join(spec.label for spec in form.inputs)
            others = " beside the held ones" if held else ""
            raise InputError(f"expected {len(form.inputs)} arguments{others} ({names}), got {len(inputs)}")
        arrays = [_checked(array, spec, kinds) for array, spec in zip(inputs, form.inputs, strict=True)]
        key = tuple([array.shape for array in arrays])
        return Call(form, arrays, form.bindings.get(key) or self._bind(form, key, held), held)

    def hold(
        self, first: int, arrays: Sequence[Any], kinds: tuple[type, ...], address: Callable[[Input, Any], int]
    ) -> Held:
        """The arguments from number `first` on for several calls. Raises InputError if they do not fit, or are not
        updated in place."""
        end = first + len(arrays)
        if not 0 <= first < end <= len(self.inputs):
            raise InputError(f"arguments {first} to {end - 1} cannot be held: there are {len(self.inputs)}")
        specs = self.inputs[first:end]
        for spec in specs:
            if not spec.tied:
                raise InputError(f"{spec.label}: is not updated in place and cannot be held")
        arrays = [_checked(array, spec, kinds) for array, spec in zip(arrays, specs, strict=True)]
        addresses = [address(spec, array) for spec, array in zip(specs, arrays, strict=True)]
        _check_apart(specs, arrays, addresses)
        inputs = [*self.inputs[:first], *self.inputs[end:]]
        results = [
            replace(result, slot=result.slot - len(arrays)) if result.tied and result.slot >= end else result
            for result in self.results
            if not (result.tied and first <= result.slot < end)
        ]
        return Held(self, first, arrays, addresses, Form(inputs, results))

    def _beside(self, held: Held, inputs: Sequence[Any]) -> list[Any]:
        if held.owner is not self:
            raise InputError("held arguments belong to another program")
        if held.first >= len(inputs) or inputs[held.first] is not held:
            raise InputError(f"held arguments must stand in the place of {self.inputs[held.first].label}")
        return [*inputs[: held.first], *inputs[held.first + 1 :]]

    def _bind(self, form: Form, given: tuple[tuple[int, ...], ...], held: Held | None) -> Binding:
        """Check input shapes against the signature; raises InputError on the first that does not fit."""
        shapes = given
        if held is not None:
            shapes = (*given[: held.first], *(array.shape for array in held.arrays), *given[held.first :])
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
        all_shapes = self._result_shapes(dims)
        binding = Binding(dims, tuple(all_shapes[result.number] for result in form.results))
        if len(form.bindings) >= _MAX_BINDINGS:
            form.bindings.clear()
        form.bindings[given] = binding
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
            plans.append(Result(index, positions[tied], True, inputs[positions[tied]].dtype, shape))
            continue
        dtype = _numpy_dtype(result["dtype"], result["unsigned"], _label("result", index, result["name"]))
        plans.append(Result(index, slot, False, dtype, shape))
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


def _check_apart(specs: Sequence[Input], arrays: Sequence[Any], addresses: Sequence[int]) -> None:
    """Refuse an input that shares memory with one that is updated in place."""
    order = sorted(range(len(arrays)), key=addresses.__getitem__)
    end, last = 0, order[0]  # the furthest end so far, and whose it is
    tied_end, tied_last = 0, order[0]
    for index in order:
        size = arrays[index].nbytes
        if not size:
            continue
        start, tied = addresses[index], specs[index].tied
        limit, other = (end, last) if tied else (tied_end, tied_last)
        if start < limit:
            a, b = (index, other) if tied else (other, index)
            raise _shared(specs[a].label, specs[b].label)
        if start + size > end:
            end, last = start + size, index
        if tied and start + size > tied_end:
            tied_end, tied_last = start + size, index


def _shared(updated: str, other: str) -> InputError:
    return InputError(f"{updated}: is updated in place and must not share memory with {other}")


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
