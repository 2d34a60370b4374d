"""Array: a value of the program being traced. Its operators and methods are the functions of ops/."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np

from . import dtypes, ir
from .convert import is_torch, to_numpy
from .dtypes import DType
from .ir import Value
from .sizes import Size
from .source import fail
from .symint import SymInt, as_size
from .tracing import Trace, active

FUNCTIONS: dict[str, Callable[..., Any]] = {}
# Larger constants would make the text and the object hold what should be an argument.
MAX_CONSTANT_BYTES = 1 << 20


def function(fn: Callable[..., Any]) -> Callable[..., Any]:
    """Makes `fn` a public array function, found by operators, methods and numpy's dispatch under its name."""
    FUNCTIONS[fn.__name__] = fn
    return fn


class Array:
    """An array of the traced program: shape (ints and symbolic ints), dtype, and NumPy's operators and methods."""

    __slots__ = ("acg_value", "kind", "trace")
    __array_priority__ = 1000

    def __init__(self, trace: Trace, value: Value, kind: str) -> None:
        self.trace, self.acg_value, self.kind = trace, value, kind

    @property
    def sizes(self) -> tuple[Size, ...]:
        """The shape as plain sizes, after all that the trace knows."""
        return tuple(self.trace.dims.resolve(size) for size in self.acg_value.shape)

    @property
    def shape(self) -> tuple[Any, ...]:
        return tuple(n if isinstance(n, int) else SymInt(self.trace.dims, n) for n in self.sizes)

    @property
    def type(self) -> DType:
        return self.acg_value.dtype

    @property
    def dtype(self) -> Any:
        return dtypes.public(self.type, self.kind)

    @property
    def ndim(self) -> int:
        return len(self.acg_value.shape)

    @property
    def size(self) -> Any:
        total: Any = 1
        for n in self.shape:
            total = total * n
        return total

    @property
    def T(self) -> Array:  # noqa: N802 (numpy's name)
        return FUNCTIONS["transpose"](self)

    @property
    def mT(self) -> Array:  # noqa: N802
        return FUNCTIONS["swapaxes"](self, -1, -2)

    def __repr__(self) -> str:
        return f"ACG.Array({describe(self)})"

    def __len__(self) -> int:
        if not self.ndim:
            fail("len() of a 0-d array")
        return int(self.shape[0])

    def __getitem__(self, index: Any) -> Array:
        return FUNCTIONS["_getitem"](self, index)

    def __setitem__(self, index: Any, value: Any) -> None:
        fail("arrays of a traced function cannot be assigned to", "make a new array with ACG.where or ACG.concat")

    def __iter__(self) -> Any:
        if not self.ndim or not isinstance(self.sizes[0], int):
            fail(
                f"cannot loop over an array of shape {show_shape(self)}",
                "loop over range(x.shape[0]) to fix the size, or use whole-array functions",
            )
        return (self[i] for i in range(self.sizes[0]))

    def _no_value(self, tried: str, instead: str) -> Any:
        fail(f"{tried} needs the values of an array ({describe(self)}), which tracing does not have", instead)

    def __bool__(self) -> bool:
        return self._no_value("a condition (if, while, and, or, not, bool)", "use ACG.where, ACG.any or & | ~")

    def __int__(self) -> int:
        return self._no_value("int()", "keep the value in an array (x.astype), or pass the number as an argument")

    __index__ = __int__

    def __float__(self) -> float:
        return self._no_value("float()", "keep the value in an array (x.astype), or pass the number as an argument")

    def item(self) -> Any:
        return self._no_value("item()", "keep the value in an array, or return it from the function")

    def tolist(self) -> Any:
        return self._no_value("tolist()", "return the array from the function")

    def __array__(self, *args: Any, **kwargs: Any) -> np.ndarray:
        return self._no_value("numpy.asarray()", "use the ACG function of the same name on the array itself")

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **kwargs: Any) -> Any:
        name = {"absolute": "abs", "invert": "bitwise_not", "rint": "round"}.get(ufunc.__name__, ufunc.__name__)
        if method != "__call__" or kwargs or name not in FUNCTIONS:
            fail(f"numpy.{ufunc.__name__} of a traced array is not supported", "use ACG functions")
        return FUNCTIONS[name](*inputs)

    def __array_function__(self, fn: Any, types: Any, args: Any, kwargs: Any) -> Any:
        return _dispatch("numpy", fn.__name__, args, kwargs)

    @classmethod
    def __torch_function__(cls, fn: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _dispatch("torch", fn.__name__, args, kwargs or {})

    def __pos__(self) -> Array:
        return self

    __hash__ = object.__hash__


def _dispatch(library: str, name: str, args: Any, kwargs: Any) -> Any:
    """numpy.f(x) or torch.f(x) on traced arrays is ACG.f(x)."""
    found = FUNCTIONS.get(_SPELLINGS.get(name, name))
    if found is None and re.fullmatch(r"__\w+__", name) and hasattr(Array, name):
        left, *rest = map(as_array, args)
        return getattr(left, name)(*rest)
    if found is None:
        fail(f"{library}.{name} of a traced array is not supported", "use ACG functions")
    return found(*args, **kwargs)


_SPELLINGS = {
    "amax": "max", "amin": "min", "cat": "concat", "rsub": "subtract", "sub": "subtract", "mul": "multiply",
    "div": "true_divide", "absolute": "abs", "concatenate": "concat", "neg": "negative", "pow": "power",
    "eq": "equal", "ne": "not_equal", "lt": "less", "le": "less_equal", "gt": "greater", "ge": "greater_equal",
}  # fmt: skip

_METHODS = [
    "abs",
    "add",
    "all",
    "any",
    "argmax",
    "argmin",
    "astype",
    "clip",
    "exp",
    "log",
    "sqrt",
    "max",
    "mean",
    "min",
    "prod",
    "sum",
    "var",
    "std",
    "reshape",
    "transpose",
    "permute",
    "swapaxes",
    "squeeze",
    "expand_dims",
    "take",
    "round",
    "softmax",
    "where",
    "matmul",
    "tanh",
    "sigmoid",
    "broadcast_to",
    "flatten",
    "ravel",
]

_OPERATORS = {
    "add": "add", "sub": "subtract", "mul": "multiply", "truediv": "true_divide", "floordiv": "floor_divide",
    "mod": "remainder", "pow": "power", "matmul": "matmul", "and": "bitwise_and", "or": "bitwise_or",
    "xor": "bitwise_xor", "lshift": "left_shift", "rshift": "right_shift",
}  # fmt: skip
_COMPARISONS = {
    "eq": "equal", "ne": "not_equal", "lt": "less", "le": "less_equal", "gt": "greater", "ge": "greater_equal"
}  # fmt: skip
_UNARY = {"neg": "negative", "abs": "abs", "invert": "bitwise_not"}


def _install() -> None:
    def forward(name: str) -> Callable[..., Any]:
        return lambda *args, **kwargs: FUNCTIONS[name](*args, **kwargs)

    def reverse(name: str) -> Callable[..., Any]:
        return lambda self, other: FUNCTIONS[name](other, self)

    for method in _METHODS:
        setattr(Array, method, forward(method))
    for short, name in (_OPERATORS | _COMPARISONS | _UNARY).items():
        setattr(Array, f"__{short}__", forward(name))
    for short, name in _OPERATORS.items():
        setattr(Array, f"__r{short}__", reverse(name))


_install()


def show_shape(array: Array) -> str:
    """`[4, b]`: the shape as messages show it, with the example's sizes of unnamed dims."""
    return f"[{', '.join(str(n) for n in array.shape)}]"


def describe(array: Array) -> str:
    """`float32[x_0, 4]`."""
    return f"{array.type.numpy}{show_shape(array)}"


class Constant(ir.Node):
    """An array of the surrounding Python program, spelled into the text."""

    def __init__(self, data: np.ndarray, dtype: DType) -> None:
        super().__init__([], [(tuple(data.shape), dtype)])
        self.data = data

    def write(self, p: ir.Printer) -> None:
        (result,) = self.results
        p.assign(f"arith.constant dense<{self._elements(result.dtype)}> : {p.type(result)}", result)

    def _elements(self, dtype: DType) -> str:
        data = self.data
        if not data.size:
            return ""
        raw = data.tobytes()
        if dtype.kind == "b":
            texts = [str(bool(v)).lower() for v in data.reshape(-1)]
            return texts[0] if len(set(texts)) == 1 else _nested(data)
        one = raw[: data.itemsize]
        return f'"0x{one.hex().upper() if raw == one * data.size else raw.hex().upper()}"'


def _nested(data: np.ndarray) -> str:
    if not data.ndim:
        return str(bool(data)).lower()
    return f"[{', '.join(_nested(item) for item in data)}]"


def as_array(value: Any) -> Array:
    """`value` as an array of the running trace; numpy arrays, tensors and numbers become constants."""
    trace = active()
    if isinstance(value, Array):
        if value.trace is not trace:
            fail("an array of another traced function is used here", "pass it as an argument")
        return value
    if isinstance(value, SymInt):
        return FUNCTIONS["_size_array"](value)
    if isinstance(value, (list, tuple)) and any(isinstance(item, (Array, SymInt)) for item in value):
        return FUNCTIONS["stack"](value)
    kind = "torch" if is_torch(value) else trace.kind
    if isinstance(value, (bool, int, float)) and kind == "torch":
        data = np.asarray(value, np.float32 if isinstance(value, float) else None)
    else:
        data = to_numpy(value)
    dtype = dtypes.parse(data.dtype)
    if data.nbytes > MAX_CONSTANT_BYTES:
        fail(
            f"a constant array of shape {list(data.shape)} {data.dtype} is {data.nbytes} bytes, over 1 MiB",
            "pass it to the function as an argument",
        )
    node = trace.add(Constant(np.array(data, dtype.numpy), dtype))
    return Array(trace, node.results[0], kind)


def make(node: ir.Node, *operands: Array) -> Array:
    """Records `node` and gives its first result in the kind of its operands."""
    trace = active()
    trace.add(node)
    return Array(trace, node.results[0], joint_kind(*operands))


def joint_kind(*operands: Any) -> str:
    """torch if any operand is a tensor, the program's kind if there is none."""
    kinds = {operand.kind for operand in operands if isinstance(operand, Array)}
    return "torch" if "torch" in kinds else "numpy" if kinds else active().kind


def to_sizes(shape: Any) -> tuple[Size, ...]:
    """A shape argument (an int, SymInt or a sequence of them) as sizes; negative ones are refused."""
    entries = shape if isinstance(shape, (tuple, list)) else (shape,)
    found = []
    for entry in entries:
        size = as_size(entry)
        if size is None:
            fail(f"a shape is made of integers, got {type(entry).__name__}")
        if not active().dims.at_least(size, 0):
            fail(f"a size cannot be negative, got {entry}")
        found.append(size)
    return tuple(found)
