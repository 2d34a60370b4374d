"""Element types and the promotion rules of NumPy 2 and of torch."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any

import numpy as np

from deepseek.formats import ML_DTYPES

from .source import fail


@dataclass(frozen=True)
class DType:
    """`mlir` is the (signless) element type in the text; kind is f, i, u or b as in numpy."""

    name: str
    mlir: str
    kind: str
    bits: int

    @property
    def numpy(self) -> np.dtype:
        return _from_ml_dtypes(self.mlir) if self in FROM_ML_DTYPES else _NUMPY[self.name]

    @property
    def is_float(self) -> bool:
        return self.kind == "f"

    @property
    def is_narrow(self) -> bool:
        """Floats of 16 and 8 bits: computed in f32, rounded after each operation."""
        return self.kind == "f" and self.bits <= 16

    @property
    def compute(self) -> DType:
        return F32 if self.is_narrow else self

    def __str__(self) -> str:
        return self.name


F64, F32, F16, BF16 = (DType(n, n, "f", int(n.strip("bf"))) for n in ("f64", "f32", "f16", "bf16"))
F8E4M3, F8E5M2 = (DType(n.lower(), n, "f", 8) for n in ("f8E4M3FN", "f8E5M2"))
I64, I32, I16, I8 = (DType(f"i{n}", f"i{n}", "i", n) for n in (64, 32, 16, 8))
U64, U32, U16, U8 = (DType(f"u{n}", f"i{n}", "u", n) for n in (64, 32, 16, 8))
BOOL = DType("i1", "i1", "b", 1)
ALL = (F64, F32, F16, BF16, F8E4M3, F8E5M2, I64, I32, I16, I8, U64, U32, U16, U8, BOOL)

_LONG_NAMES = {"f": "float", "i": "int", "u": "uint"}
FROM_ML_DTYPES = {BF16, F8E4M3, F8E5M2}  # those that numpy lacks
_NUMPY = {d.name: np.dtype(f"{_LONG_NAMES[d.kind]}{d.bits}") for d in ALL if d not in (*FROM_ML_DTYPES, BOOL)}
_NUMPY |= {"i1": np.dtype(np.bool_)}
_BY_NUMPY = {numpy: d for d in ALL if d not in FROM_ML_DTYPES for numpy in [_NUMPY[d.name]]}
_BY_ML = {ML_DTYPES[d.mlir]: d for d in FROM_ML_DTYPES}
_BY_NAME = {d.name: d for d in ALL} | {str(numpy): d for numpy, d in _BY_NUMPY.items()} | _BY_ML
_BY_NAME |= {"float": F64, "int": I64, "half": F16, "double": F64, "u1": U8}


def _from_ml_dtypes(name: str) -> np.dtype:
    """A type that comes from another package: who does not use it does not have to install it."""
    try:
        import ml_dtypes
    except ImportError:
        fail(f"{ML_DTYPES[name]} is a type that numpy lacks", "pip install ml_dtypes")
    return np.dtype(getattr(ml_dtypes, ML_DTYPES[name]))


def find(value: Any) -> DType | None:
    """The DType for a DType, "f32", "float32", a numpy dtype or scalar type, float/int/bool, or a torch dtype."""
    if isinstance(value, DType):
        return value
    if isinstance(value, str) and value in _BY_NAME:
        return _BY_NAME[value]
    if type(value).__module__ == "torch":
        return _BY_NAME.get(str(value).removeprefix("torch."))
    try:
        dtype = np.dtype(value)
        return _BY_ML.get(dtype.name) or _BY_NUMPY.get(dtype.newbyteorder("="))
    except TypeError:
        return None


def parse(value: Any) -> DType:
    """Like find, but an unsupported type is a CompileError."""
    dtype = find(value)
    if dtype is None:
        fail(f"dtype {value} is not supported", f"use one of {', '.join(_BY_NAME)[:60]}...")
    return dtype


def public(dtype: DType, kind: str) -> Any:
    """What the user sees as x.dtype: a numpy dtype, or a torch dtype in a program of torch tensors."""
    if kind == "torch" and "torch" in sys.modules:
        return getattr(sys.modules["torch"], "bool" if dtype is BOOL else dtype.numpy.name)
    return dtype.numpy


def default_float(kind: str) -> DType:
    return F32 if kind == "torch" else F64


def _empty(operand: Any) -> Any:
    return np.empty(0, operand.numpy) if isinstance(operand, DType) else operand


def _is_weak_float(operand: Any) -> bool:
    return isinstance(operand, float)


def common(operands: list[Any], kind: str, ranks: list[int] | None = None) -> DType:
    """The common type of DTypes and python scalars (weak). `ranks`: torch lets 0-d tensors give way to others."""
    if kind == "torch":
        return _torch_common(operands, ranks or [1] * len(operands))
    strong = [o for o in operands if isinstance(o, DType)]
    if not strong:
        return find(np.result_type(*operands)) or F64
    if FROM_ML_DTYPES & {*strong}:
        # ml_dtypes widens its floats with a python float to f32; python scalars are weak here.
        weak = [o for o in operands if not isinstance(o, DType)]
        joint = _pairwise(strong)
        return joint if joint.is_float or not any(map(_is_weak_float, weak)) else _pairwise([joint, F64])
    found = find(np.result_type(*map(_empty, operands)))
    if found is None:
        fail(f"no common dtype for {', '.join(map(str, strong))}")
    return found


def _pairwise(dtypes: list[DType]) -> DType:
    joint = dtypes[0].numpy
    for dtype in dtypes[1:]:
        joint = np.promote_types(joint, dtype.numpy)
    return find(joint)


_TORCH_CATEGORY = {"b": 0, "u": 1, "i": 1, "f": 2}


def _torch_common(operands: list[Any], ranks: list[int]) -> DType:
    """torch.result_type: dims before 0-d tensors before python scalars, unless the category is higher."""
    groups: list[DType | None] = [None, None, None]
    for operand, rank in zip(operands, ranks):
        if isinstance(operand, DType):
            index = 0 if rank else 1
        else:
            index, operand = 2, BOOL if isinstance(operand, bool) else I64 if isinstance(operand, int) else F32
        groups[index] = operand if groups[index] is None else _torch_pair(groups[index], operand)
    result: DType | None = None
    for group in groups:
        if group is not None and (result is None or _TORCH_CATEGORY[group.kind] > _TORCH_CATEGORY[result.kind]):
            result = group
    return result


def _torch_pair(a: DType, b: DType) -> DType:
    if a is b:
        return a
    if _TORCH_CATEGORY[a.kind] != _TORCH_CATEGORY[b.kind]:
        return max(a, b, key=lambda d: _TORCH_CATEGORY[d.kind])
    if a.is_float:
        return F32 if a.bits == b.bits == 16 else max(a, b, key=lambda d: d.bits)
    return _BY_NUMPY[np.promote_types(a.numpy, b.numpy)]


def of_ufunc(ufunc: np.ufunc, operands: list[Any], kind: str) -> DType:
    """The result dtype of a numpy ufunc on DTypes and python scalars, by NumPy's own rules."""
    if any(o in FROM_ML_DTYPES for o in operands if isinstance(o, DType)):
        joint = common(operands, kind)
        operands = [joint] * len(operands)
    try:
        out = ufunc(*map(_empty, operands))
    except (TypeError, OverflowError) as error:
        shown = ", ".join(str(o.numpy if isinstance(o, DType) else o) for o in operands)
        fail(f"numpy does not define {ufunc.__name__}({shown}): {error}")
    return find((out[0] if isinstance(out, tuple) else out).dtype) or F64


def float_of(dtype: DType, kind: str, ufunc: np.ufunc = np.exp) -> DType:
    """The type in which exp, sqrt, ... of `dtype` are computed and returned."""
    if dtype.is_float:
        return dtype
    return F32 if kind == "torch" else of_ufunc(ufunc, [dtype], kind)
