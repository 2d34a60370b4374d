"""Elementwise operations: broadcasting, promotion and one linalg.generic per operation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from .. import dtypes, ir
from ..array import Array, as_array, describe, joint_kind, make
from ..dtypes import BOOL, F32, I32, I64, U32, DType
from ..ir import Body
from ..sizes import Size
from ..source import fail
from ..symint import SymInt
from ..tracing import active

Scalar = Callable[[Body, DType], str]


def operand(value: Any) -> Any:
    """Array, SymInt or python scalar (weak); everything else becomes a constant array."""
    return (
        value
        if isinstance(value, (bool, int, float, SymInt)) and not isinstance(value, np.generic)
        else as_array(value)
    )


def weak_type(value: Any) -> Any:
    """What promotion sees of an operand: its DType, or a python scalar."""
    return value.type if isinstance(value, Array) else 1 if isinstance(value, SymInt) else value


def common_type(operands: list[Any]) -> DType:
    ranks = [o.ndim if isinstance(o, Array) else 0 for o in operands]
    return dtypes.common([weak_type(o) for o in operands], joint_kind(*operands), ranks)


def literal(value: Any, dtype: DType) -> str:
    """`value : type` as a body constant; a value the type cannot hold is rounded (floats) or wrapped (ints)."""
    if dtype is BOOL:
        return "true" if value else "false"
    if dtype.is_float:
        number = np.asarray(value, np.float64).astype(dtype.numpy)
        if not np.isfinite(number):
            return f"0x{int(number.view(f'u{dtype.bits // 8}')):0{dtype.bits // 4}X} : {dtype.mlir}"
        text = repr(float(value) if abs(float(value)) < 1e30 and float(value) == float(number) else float(number))
        mantissa, _, exponent = text.partition("e")
        return f"{mantissa}{'' if '.' in mantissa else '.0'}{'e' + exponent if exponent else ''} : {dtype.mlir}"
    wrapped = int(value) & ((1 << dtype.bits) - 1)
    signed = wrapped - (1 << dtype.bits) if wrapped >> (dtype.bits - 1) else wrapped
    return f"{signed} : {dtype.mlir}"


def constant(body: Body, value: Any, dtype: DType) -> str:
    return body.emit(f"arith.constant {literal(value, dtype)}")


def cast(body: Body, x: str, source: DType, target: DType) -> str:
    """`x` converted as numpy's astype does."""
    if source is target or (source.mlir == target.mlir and BOOL not in (source, target)):
        return x
    if target is BOOL:
        zero = constant(body, 0, source)
        compare = "cmpf une" if source.is_float else "cmpi ne"
        return body.emit(f"arith.{compare}, {x}, {zero} : {source.mlir}")
    if source.is_float and target.is_float:
        if source.bits == target.bits:
            wide = body.emit(f"arith.extf {x} : {source.mlir} to f32")
            return body.emit(f"arith.truncf {wide} : f32 to {target.mlir}")
        op = "extf" if target.bits > source.bits else "truncf"
    elif source.is_float:
        if source.is_narrow:
            x, source = body.emit(f"arith.extf {x} : {source.mlir} to f32"), F32
        # Through a wider signed type: values out of range then wrap as they do in numpy on x86.
        if target.bits < 32 or target is U32:
            wide = I32 if target.bits < 32 else I64
            x = body.emit(f"arith.fptosi {x} : {source.mlir} to {wide.mlir}")
            return body.emit(f"arith.trunci {x} : {wide.mlir} to {target.mlir}")
        op = "fptoui" if target.kind == "u" else "fptosi"
    elif target.is_float:
        op = "sitofp" if source.kind == "i" else "uitofp"
        if target.is_narrow:
            wide = body.emit(f"arith.{op} {x} : {source.mlir} to f32")
            return body.emit(f"arith.truncf {wide} : f32 to {target.mlir}")
    else:
        op = "trunci" if target.bits < source.bits else "extsi" if source.kind == "i" else "extui"
    return body.emit(f"arith.{op} {x} : {source.mlir} to {target.mlir}")


def size_scalar(body: Body, size: Size, target: DType) -> str:
    """A size of the program as a scalar of type `target`."""
    wide = body.emit(f"arith.index_cast {body.capture(size)} : index to i64")
    return cast(body, wide, I64, target)


def broadcast_shapes(arrays: list[Array], what: str) -> tuple[Size, ...]:
    """NumPy's broadcast shape; equal sizes are unified, a size of 1 is asked for only where sizes differ."""
    dims = active().dims
    rank = max((array.ndim for array in arrays), default=0)
    shape: list[Size] = [1] * rank
    for array in arrays:
        for axis, size in enumerate(array.sizes, rank - array.ndim):
            have = dims.resolve(shape[axis])
            if have == size or size == 1:
                continue
            if have == 1:
                shape[axis] = size
                continue
            known = dims.is_equal(have, size)
            hints = dims.hint(have), dims.hint(size)
            if known or (known is None and (None in hints or hints[0] == hints[1])):
                dims.equal(have, size, f"{what} can broadcast {', '.join(map(describe, arrays))}")
                shape[axis] = have if isinstance(have, int) else size
            elif hints[0] == 1 and dims.equal(have, 1):
                shape[axis] = size
            elif not (hints[1] == 1 and dims.equal(size, 1)):
                fail(f"{what}: shapes do not broadcast: {', '.join(map(describe, arrays))}")
    return tuple(dims.resolve(size) for size in shape)


def broadcast_map(array: Array, shape: tuple[Size, ...]) -> ir.Map:
    """How `array` is indexed in loops over `shape`: by the trailing loops, by 0 where it is stretched."""
    offset = len(shape) - array.ndim
    return tuple(
        None if size == 1 and shape[axis + offset] != 1 else axis + offset for axis, size in enumerate(array.sizes)
    )


def pointwise(
    name: str,
    operands: list[Any],
    loop: list[DType],
    made: DType,
    result: DType,
    scalar: Callable[..., str],
    exact_scalars: bool = False,
) -> Array:
    """scalar(body, *operands) over the broadcast operands, each first cast to its type in `loop`.

    16-bit floats are widened to f32 for `scalar`; what it gives, of type `made`, is converted to `result`.
    `exact_scalars`: numbers and 0-d arrays are not rounded to a 16-bit loop type first (as torch does not).
    """
    arrays = list({id(o): o for o in operands if isinstance(o, Array)}.values())
    numbers = {id(array): i for i, array in enumerate(arrays)}
    shape = broadcast_shapes(arrays, name)
    body, texts = Body(), []
    for o, dtype in zip(operands, loop):
        if isinstance(o, Array):
            x, kept = f"%in{numbers[id(o)]}", o.type
            if not (exact_scalars and not o.ndim and shape):
                x, kept = cast(body, x, kept, dtype), dtype
            texts.append(cast(body, x, kept, dtype.compute))
        elif isinstance(o, SymInt):
            texts.append(size_scalar(body, o.resolved, dtype.compute))
        else:
            rounded = np.asarray(o, np.float64).astype(dtype.numpy) if dtype.is_narrow and not exact_scalars else o
            texts.append(constant(body, rounded, dtype.compute))
    out = cast(body, scalar(body, *texts), made, result)
    maps = [broadcast_map(array, shape) for array in arrays]
    loops = tuple(range(len(shape)))
    values = [array.acg_value for array in arrays]
    return make(ir.Generic(values, maps, [(shape, result)], loops, len(shape), body, [out]), *arrays)


def astype(x: Any, dtype: Any, copy: bool = True) -> Array:
    """`x` with elements converted to `dtype` as numpy's astype does (floats to ints truncate)."""
    x = as_array(x)
    target = dtypes.parse(dtype)
    return x if target is x.type else convert(x, target)


def convert(x: Array, target: DType) -> Array:
    """astype to a DType."""
    if x.type is target:
        return x
    body = Body()
    out = cast(body, "%in0", x.type, target)
    rank = tuple(range(x.ndim))
    return make(ir.Generic([x.acg_value], [rank], [(x.sizes, target)], rank, x.ndim, body, [out]), x)
