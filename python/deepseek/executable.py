"""A compiled program as a callable on numpy arrays: checks arguments, makes results, calls the machine code."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from deepseek import runtime
from deepseek.buffers import ResultPool, address_of, aligned_parts, mapped_files
from deepseek.errors import ExecutionError, InputError
from deepseek.formats import ML_DTYPES

__all__ = ["ITEM_BYTES", "Executable"]

_MAX_BINDINGS = 256  # distinct shape tuples remembered per executable
_MANIFEST_VERSION = 1
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
_ENTRY = ctypes.CFUNCTYPE(ctypes.c_int32, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p)
_SHAPES = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p)


@dataclass(frozen=True)
class _Input:
    slot: int  # position in the buffers of dsc_main
    label: str  # for messages: argument 1 ("y")
    dtype: np.dtype
    shape: tuple[int | str, ...]  # a str is the name of a symbol
    tied: bool


@dataclass(frozen=True)
class _Result:
    slot: int  # position in the buffers of dsc_main; of a tied one: position in the call's inputs
    tied: bool
    dtype: np.dtype
    shape: tuple[int | str, ...]


@dataclass(frozen=True)
class _Binding:
    """What one tuple of input shapes means: symbol values and result shapes."""

    dims: ctypes.Array
    shapes: tuple[tuple[int, ...], ...]  # of the results, tied ones included


class Executable:
    """One compiled object with its manifest, ready to be called on this machine.

    Results are 64-byte aligned arrays of their own that alias no input, except tied ones: these are the very input
    arrays, updated in place. Memory of large results is used again once nobody holds them. Calls from several
    threads take turns (one lock per context).
    """

    def __init__(self, object: bytes, manifest: dict[str, Any], *, threads: int | None = None) -> None:
        """Load the object; raises ExecutionError if this machine cannot run it or it is damaged."""
        if manifest.get("version") != _MANIFEST_VERSION:
            raise ExecutionError(
                f"compiled code has manifest version {manifest.get('version')!r}, this package reads "
                f"{_MANIFEST_VERSION}: compile it again"
            )
        if problem := runtime.lacking_features(manifest):
            raise ExecutionError(problem)
        self.manifest = manifest
        self.context = runtime.Context.default(threads)
        self._module = runtime.Module(object)  # keeps the code mapped
        self._main = _ENTRY(self._module.symbol("dsc_main"))

        try:
            needs_weights = self._plan(manifest)
        except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
            raise ExecutionError(
                f"compiled code has a malformed manifest ({type(error).__name__}: {error}): compile it again"
            ) from None
        if not needs_weights:
            self.bind_weights({})

    def _plan(self, manifest: dict[str, Any]) -> bool:
        """Prepares calls as the manifest describes them; returns whether the program waits for weights."""
        arguments, results = manifest["main"]["args"], manifest["main"]["results"]
        self._inputs = _plan_inputs(arguments)
        self._results = _plan_results(results, self._inputs, len(arguments))
        self._tied = [index for index, spec in enumerate(self._inputs) if spec.tied]
        self._symbols = {symbol["name"]: symbol for symbol in manifest["symbols"]}
        self._dynamic = sum(isinstance(size, str) for result in self._results for size in result.shape)
        self._shapes = _SHAPES(self._module.symbol("dsc_main_shapes")) if self._dynamic else None

        buffers = len(arguments) + sum(not result.tied for result in self._results)
        self._buffers = (ctypes.c_void_p * max(buffers, 1))()
        self._buffers_address = ctypes.addressof(self._buffers)
        self._bindings: dict[tuple[tuple[int, ...], ...], _Binding] = {}
        self._pool = ResultPool()
        self._kept: list[np.ndarray] = []  # weights and prepared buffers that dsc_main reads
        self._bound = False
        init = manifest["init"]
        return any(argument["kind"] != "input" for argument in arguments) or bool(init and init["args"])

    @property
    def kept_bytes(self) -> int:
        """Bytes of the weights that calls read: given ones where they lie, and prepared ones."""
        return sum(array.nbytes for array in self._kept)

    @property
    def bound(self) -> bool:
        """Whether the program has its weights, or needs none."""
        return self._bound

    def bind_weights(self, weights: Mapping[str, np.ndarray]) -> None:
        """Give the program its weights by name and run its initialization (dsc_init) on them.

        An array must have the manifest's shape and dtype, or integers of the same width (raw bits). Arrays that
        the program reads later are kept, not copied: do not write to them. Names that it does not use are
        ignored. Raises InputError for a missing or ill-shaped weight, ExecutionError when out of memory.
        """
        init = self.manifest["init"]
        arguments = self.manifest["main"]["args"]
        needed = [argument for argument in arguments if argument["kind"] == "weight"]
        arrays = _check_weights(needed + (init["args"] if init else []), weights)
        prepared = self._run_init(init, arrays) if init else []
        kept = {
            slot: arrays[argument["weight"]] if argument["kind"] == "weight" else prepared[argument["prepared"]]
            for slot, argument in enumerate(arguments)
            if argument["kind"] != "input"
        }
        with self.context.lock:
            for slot, array in kept.items():
                self._buffers[slot] = address_of(array)
            self._kept = list(kept.values())
            self._bound = True

    def _run_init(self, init: dict[str, Any], weights: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        try:
            # As bytes: only the machine code reads them, so bf16 needs no numpy dtype.
            prepared = aligned_parts(
                [math.prod(result["shape"]) * ITEM_BYTES[result["dtype"]] for result in init["results"]]
            )
        except MemoryError as error:
            raise ExecutionError("out of memory while allocating the prepared weights") from error
        addresses = [address_of(weights[argument["weight"]]) for argument in init["args"]]
        addresses += [address_of(array) for array in prepared]
        buffers = (ctypes.c_void_p * max(len(addresses), 1))(*addresses)
        dims = (ctypes.c_int64 * max(len(self._symbols), 1))()
        entry = _ENTRY(self._module.symbol("dsc_init"))
        # What was read of a file is in the prepared weights, too: both in memory would be twice the model.
        with self.context.lock, self.context.reading_once(mapped_files(weights.values())):
            code = entry(self.context.handle, ctypes.addressof(buffers), ctypes.addressof(dims))
        _check_code(code, "preparing the weights")
        return prepared

    def __call__(self, *inputs: np.ndarray) -> tuple[np.ndarray, ...]:
        """Run the program; raises InputError for arguments that do not fit, ExecutionError when out of memory."""
        if len(inputs) != len(self._inputs):
            names = ", ".join(spec.label for spec in self._inputs)
            raise InputError(f"expected {len(self._inputs)} arguments ({names}), got {len(inputs)}")
        arrays = [_checked(array, spec) for array, spec in zip(inputs, self._inputs, strict=True)]
        key = tuple([array.shape for array in arrays])
        binding = self._bindings.get(key) or self._bind(key)
        if not self._bound:
            raise ExecutionError("the program has no weights yet: call bind_weights first")

        addresses = [address_of(array) for array in arrays]
        if self._tied:
            self._check_overlap(arrays, addresses)
        results, result_addresses = self._make_results(arrays, binding)
        with self.context.lock:
            buffers = self._buffers
            for spec, address in zip(self._inputs, addresses, strict=True):
                buffers[spec.slot] = address
            for slot, address in result_addresses:
                buffers[slot] = address
            code = self._main(self.context.handle, self._buffers_address, binding.dims)
        if code:
            _check_code(code, "running the program")
        # The caller's own objects, even where a subclass of ndarray was given.
        return tuple([inputs[r.slot] if r.tied else a for r, a in zip(self._results, results, strict=True)])

    def _make_results(
        self, arrays: Sequence[np.ndarray], binding: _Binding
    ) -> tuple[list[np.ndarray], list[tuple[int, int]]]:
        results, addresses = [], []
        for result, shape in zip(self._results, binding.shapes, strict=True):
            if result.tied:
                results.append(arrays[result.slot])
                continue
            try:
                array, address = self._pool.empty(shape, result.dtype)
            except (MemoryError, ValueError) as error:
                raise ExecutionError(f"out of memory for a result of shape {shape} and {result.dtype}") from error
            results.append(array)
            addresses.append((result.slot, address))
        return results, addresses

    def _bind(self, shapes: tuple[tuple[int, ...], ...]) -> _Binding:
        """Check input shapes against the signature; raises InputError on the first that does not fit."""
        values: dict[str, tuple[int, int, int]] = {}  # symbol -> size, argument, dim
        for index, (spec, shape) in enumerate(zip(self._inputs, shapes, strict=True)):
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
        missing = [name for name in self._symbols if name not in values]
        if missing:
            raise ExecutionError(f'no argument gives the size of "{missing[0]}": compile the program again')
        dims = (ctypes.c_int64 * max(len(self._symbols), 1))(*[values[name][0] for name in self._symbols])
        binding = _Binding(dims, self._result_shapes(dims))
        if len(self._bindings) >= _MAX_BINDINGS:
            self._bindings.clear()
        self._bindings[shapes] = binding
        return binding

    def _check_equal(self, spec: _Input, index: int, dim: int, size: int, first: tuple[int, int, int]) -> None:
        value, argument, origin = first
        if size == value:
            return
        source = f"dim {origin}" if argument == index else self._inputs[argument].label
        raise InputError(f'{spec.label}: dim {dim} is "{spec.shape[dim]}" = {value} from {source}, got {size}')

    def _check_promises(self, spec: _Input, dim: int, size: int) -> None:
        symbol = self._symbols[spec.shape[dim]]
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
            for result in self._results
        )

    def _check_overlap(self, arrays: Sequence[np.ndarray], addresses: Sequence[int]) -> None:
        """Refuse an input that shares memory with one that is updated in place."""
        order = sorted(range(len(arrays)), key=addresses.__getitem__)
        end, last = 0, order[0]  # the furthest end so far, and whose it is
        tied_end, tied_last = 0, order[0]
        for index in order:
            size = arrays[index].nbytes
            if not size:
                continue
            start, tied = addresses[index], self._inputs[index].tied
            limit, other = (end, last) if tied else (tied_end, tied_last)
            if start < limit:
                a, b = (index, other) if tied else (other, index)
                raise InputError(
                    f"{self._inputs[a].label}: is updated in place and must not share memory with "
                    f"{self._inputs[b].label}"
                )
            if start + size > end:
                end, last = start + size, index
            if tied and start + size > tied_end:
                tied_end, tied_last = start + size, index


def _label(kind: str, index: int, name: str | None) -> str:
    return f'{kind} {index} ("{name}")' if name else f"{kind} {index}"


def _signature(spec: _Input) -> str:
    return "[" + ", ".join(f'"{size}"' if isinstance(size, str) else str(size) for size in spec.shape) + "]"


def _plan_inputs(arguments: Sequence[dict[str, Any]]) -> list[_Input]:
    plans: list[_Input] = []
    for slot, argument in enumerate(arguments):
        if argument["kind"] == "input":
            label = _label("argument", len(plans), argument["name"])
            dtype = _numpy_dtype(argument["dtype"], argument["unsigned"], label)
            plans.append(_Input(slot, label, dtype, tuple(argument["shape"]), argument["tied"]))
    return plans


def _plan_results(results: Sequence[dict[str, Any]], inputs: Sequence[_Input], slot: int) -> list[_Result]:
    positions = {spec.slot: index for index, spec in enumerate(inputs)}
    plans: list[_Result] = []
    for index, result in enumerate(results):
        tied, shape = result["tied"], tuple(result["shape"])
        if tied is not None:
            plans.append(_Result(positions[tied], True, inputs[positions[tied]].dtype, shape))
            continue
        dtype = _numpy_dtype(result["dtype"], result["unsigned"], _label("result", index, result["name"]))
        plans.append(_Result(slot, False, dtype, shape))
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


def _checked(array: np.ndarray, spec: _Input) -> np.ndarray:
    """Return `array` or a contiguous copy of it; its shape is checked later."""
    if not isinstance(array, np.ndarray):
        raise InputError(f"{spec.label}: must be a numpy array, got {type(array).__name__}")
    if array.dtype is not spec.dtype and array.dtype != spec.dtype:
        raise InputError(f"{spec.label}: dtype must be {spec.dtype}, got {array.dtype}")
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


def _check_weights(arguments: Sequence[dict[str, Any]], weights: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
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


def _check_code(code: int, action: str) -> None:
    if code == 1:
        raise ExecutionError(f"out of memory while {action}")
    if code:
        raise ExecutionError(f"{action} failed with code {code}")
