"""A module at the end of phase import as a differentiable function of torch tensors.

Calibration asks for what no compiled program gives: the gradient of a loss at the output of every product. Operations
are those that frontends write; an unknown one is an error that names it. Sums are in f32, as compiled code has them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from deepseek.errors import InputError
from deepseek.precision.graph import STORED_OPERANDS, argument_attributes, location_name, main_of, weight_behind

__all__ = ["Site", "TorchProgram"]

_DYNAMIC = -(2**63)
_DTYPES = {
    "f64": torch.float64, "f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16,
    "f8E4M3FN": torch.float8_e4m3fn, "f8E5M2": torch.float8_e5m2, "i64": torch.int64, "i32": torch.int32, "i16":
    torch.int16, "i8": torch.int8, "i1": torch.bool, "index": torch.int64,
}  # fmt: skip


@dataclass(frozen=True)
class Site:
    """A product with a weight or a lookup in one: where it stands, the weight's name, its sizes [out, in] ([rows,
    columns])."""

    at: str
    op: str
    weight: str
    shape: tuple[int, int]


Observer = Callable[[Site, Tensor, Tensor], Tensor]
"""Called with a site, what it multiplies [.., in] (of a lookup: ids) and its result; returns the result to go on
with."""


@dataclass
class _Run:
    """One pass: values of SSA names, sizes of symbols, and where the indices of a body's loops are."""

    inputs: list[Tensor]
    weights: Mapping[str, Tensor]
    observer: Observer | None
    caches: Mapping[str, torch.dtype]
    values: dict[Any, Any] = field(default_factory=dict)
    symbols: dict[str, int] = field(default_factory=dict)
    grids: list[Tensor] = field(default_factory=list)


class TorchProgram:
    """The function @main of `text`; `weights` holds the f32 values of its weight arguments by name."""

    def __init__(self, text: str, weights: Mapping[str, Tensor]) -> None:
        from deepseek.compiler import parse_module

        self._context, self._module = parse_module(text)
        self.weights = weights
        self._main = main_of(self._module)
        self._attributes = argument_attributes(self._main)
        self._block = self._main.regions[0].blocks[0]
        self._operations = [op.operation for op in self._block.operations]

    @property
    def input_types(self) -> list[tuple[str, list[int], torch.dtype]]:
        """(name, shape with -1 for open sizes, dtype) of the arguments that are no weights."""
        found = []
        for argument, attributes in zip(self._block.arguments, self._attributes):
            if "dsc.weight" not in attributes:
                name = attributes["dsc.name"].value if "dsc.name" in attributes else ""
                shape = [-1 if size == _DYNAMIC else size for size in argument.type.shape]
                found.append((name, shape, _DTYPES[str(argument.type.element_type)]))
        return found

    @property
    def weight_names(self) -> list[str]:
        """What @main reads of a checkpoint."""
        return [a["dsc.weight"].value for a in self._attributes if "dsc.weight" in a]

    @property
    def weight_types(self) -> dict[str, torch.dtype]:
        """What the arguments that hold weights are stored as; bytes for blocks."""
        return {
            attributes["dsc.weight"].value: _DTYPES.get(str(argument.type.element_type), torch.uint8)
            for argument, attributes in zip(self._block.arguments, self._attributes)
            if "dsc.weight" in attributes
        }

    @property
    def cache_results(self) -> dict[int, str]:
        """Which results are caches, by number, and where what is appended to them comes from."""
        owners = enumerate(value.owner for value in self._operations[-1].operands)
        appends = {number: getattr(owner, "operation", owner) for number, owner in owners}
        return {
            number: location_name(op) for number, op in appends.items() if getattr(op, "name", "") == "dsc.kv_append"
        }

    def sites(self) -> list[Site]:
        """Every product whose right side is a weight and every lookup in one, in order."""
        return [site for op in self._operations if (site := self._site(op))]

    def _site(self, op: Any) -> Site | None:
        stored = STORED_OPERANDS.get(op.name)
        name = None if stored is None else weight_behind(op.operands[stored], self._attributes)
        shape = op.operands[stored].type.shape if name else ()
        if len(shape) != 2:
            return None
        swapped = op.name == "dsc.matmul" and "transpose_rhs" not in op.attributes
        return Site(location_name(op), op.name, name, (shape[1], shape[0]) if swapped else (shape[0], shape[1]))

    def __call__(
        self,
        inputs: Sequence[Tensor],
        observer: Observer | None = None,
        weights: Mapping[str, Tensor] | None = None,
        caches: Mapping[str, torch.dtype] | None = None,
    ) -> list[Tensor]:
        """The results for the arguments that are no weights; `weights` stands for those of the program, `caches` says
        by location what is appended is rounded to first."""
        run = _Run(list(inputs), self.weights if weights is None else weights, observer, caches or {})
        rest = iter(run.inputs)
        for argument, attributes in zip(self._block.arguments, self._attributes):
            if "dsc.weight" in attributes:
                run.values[argument] = attributes["dsc.weight"].value  # its name, until somebody reads it
                continue
            value = next(rest)
            run.values[argument] = value
            if "dsc.dims" in attributes:
                for dim, size in zip(_dim_names(attributes["dsc.dims"]), value.shape):
                    run.symbols[dim] = size
        last = _last_uses(self._operations)
        for number, op in enumerate(self._operations[:-1]):
            run.values.update(zip(op.results, self._execute(run, op)))
            for value in last.get(number, ()):
                run.values.pop(value, None)
        return [run.values[value] for value in self._operations[-1].operands]

    def _execute(self, run: _Run, op: Any) -> Sequence[Any]:
        handler = _HANDLERS.get(op.name)
        if handler is None:
            raise InputError(f"{op.location}: calibration does not know the operation {op.name}")
        operands = [_read(run, run.values[value]) for value in op.operands]
        result = handler(run, op, operands)
        if run.observer and (site := self._site(op)):
            result = run.observer(site, operands[1 if op.name == "dsc.embedding" else 0], result)
        return result if isinstance(result, tuple) else (result,)


def _dim_names(attribute: Any) -> list[str]:
    text = str(attribute)
    return [name.strip().strip('"') for name in text[text.index("[") + 1 : text.rindex("]")].split(",")]


def _last_uses(operations: list[Any]) -> dict[int, list[Any]]:
    last: dict[Any, int] = {}
    for number, op in enumerate(operations):
        for value in (*op.operands, *op.results):
            last[value] = number
        for region in op.regions:
            for block in region.blocks:
                for inner in block.operations:
                    last.update((value, number) for value in inner.operation.operands)
    dead: dict[int, list[Any]] = {}
    for value, number in last.items():
        dead.setdefault(number, []).append(value)
    return dead


def _read(run: _Run, value: Any) -> Any:
    """The value itself, or the weight of that name."""
    return run.weights[value] if isinstance(value, str) else value


def _body(op: Any) -> list[Any]:
    return list(op.regions[0].blocks[0].operations)


# Handlers by operation: (run, op, operands) -> result or tuple of results.
_HANDLERS: dict[str, Callable[[_Run, Any, list[Any]], Any]] = {}


def _handles(*names: str) -> Callable[[Any], Any]:
    def register(handler: Any) -> Any:
        _HANDLERS.update(dict.fromkeys(names, handler))
        return handler

    return register


def _number(op: Any, name: str, default: Any = None) -> Any:
    return op.attributes[name].value if name in op.attributes else default


@_handles("dsc.dim")
def _dim(run: _Run, op: Any, operands: list[Any]) -> int:
    return run.symbols[op.attributes["symbol"].value]


@_handles("dsc.dequantize")
def _dequantize(run: _Run, op: Any, operands: list[Any]) -> Tensor:
    return operands[0]  # weights are given as values


@_handles("dsc.matmul")
def _matmul(run: _Run, op: Any, operands: list[Any]) -> Tensor:
    lhs, rhs, *bias = operands
    lhs = lhs.mT if "transpose_lhs" in op.attributes else lhs
    rhs = rhs.mT if "transpose_rhs" in op.attributes else rhs
    out = lhs @ rhs.to(lhs.dtype)
    return out + bias[0] if bias else out


@_handles("dsc.embedding")
def _embedding(run: _Run, op: Any, operands: list[Any]) -> Tensor:
    return operands[0][operands[1].long()]


@_handles("dsc.rms_norm")
def _rms_norm(run: _Run, op: Any, operands: list[Any]) -> Tensor:
    x, weight = operands
    return x * torch.rsqrt((x * x).mean(-1, keepdim=True) + _number(op, "eps")) * weight


@_handles("dsc.layer_norm")
def _layer_norm(run: _Run, op: Any, operands: list[Any]) -> Tensor:
    _, has_weight, has_bias = op.attributes["operandSegmentSizes"]
    rest = iter(operands[1:])
    weight = next(rest) if has_weight else None
    bias = next(rest) if has_bias else None
    x = operands[0]
    return torch.nn.functional.layer_norm(x, x.shape[-1:], weight, bias, _number(op, "eps"))


@_handles("dsc.softmax")
def _softmax(run: _Run, op: Any, operands: list[Any]) -> Tensor:
    return operands[0].softmax(-1)


@_handles("dsc.rope")
def _rope(run: _Run, op: Any, operands: list[Any]) -> Tensor:
    x, cos, sin = operands
    cos, sin = cos[:, :, None, :], sin[:, :, None, :]
    if "interleaved" in op.attributes:
        first, second = x[..., 0::2], x[..., 1::2]
        return torch.stack([first * cos - second * sin, second * cos + first * sin], -1).flatten(-2)
    first, second = x.chunk(2, -1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], -1)


@_handles("dsc.kv_append")
def _kv_append(run: _Run, op: Any, operands: list[Any]) -> Tensor:
    key, value, cache, positions = operands
    new = torch.stack([key, value], 1).transpose(2, 3)  # [b, 2, h, s, d]
    if narrow := run.caches.get(location_name(op)):
        most = torch.finfo(narrow).max  # caches saturate
        new = new.clamp(-most, most).to(narrow)
    new = new.to(cache.dtype)
    s = new.shape[3]
    if s == cache.shape[3] and not positions.any():
        return new
    cache = cache.clone()
    for row, position in enumerate(positions.tolist()):
        cache[row, :, :, position : position + s] = new[row]
    return cache


@_handles("dsc.attention")
def _attention(run: _Run, op: Any, operands: list[Any]) -> Tensor:
    _, has_key, _, has_cache, _, has_mask = op.attributes["operandSegmentSizes"]
    query = operands[0].transpose(1, 2)  # [b, h, s, d]
    b, heads, s, _ = query.shape
    mask = operands[-1] if has_mask else None
    if has_cache:
        cache, lengths = operands[1].to(query.dtype), operands[2].long()
        key, value = cache[:, 0], cache[:, 1]
    else:
        key, value = operands[1].transpose(1, 2), operands[2].transpose(1, 2)
        lengths = torch.full((b,), key.shape[2])
    t = key.shape[2]
    causal, window = "causal" in op.attributes, _number(op, "window")
    cap, scale = _number(op, "soft_cap"), _number(op, "scale")
    whole = bool((lengths == t).all())
    if whole and mask is None and window is None and cap is None and (not causal or s == t):
        out = torch.nn.functional.scaled_dot_product_attention(
            query, key, value, is_causal=causal, scale=scale, enable_gqa=True
        )
        return out.transpose(1, 2)
    group = heads // key.shape[1]
    key, value = key.repeat_interleave(group, 1), value.repeat_interleave(group, 1)
    scores = query @ key.mT * scale
    if cap is not None:
        scores = cap * torch.tanh(scores / cap)
    at = torch.arange(t)
    seen = (at[None, :] < lengths[:, None])[:, None, None, :]
    if causal or window is not None:
        own = (lengths[:, None] - s + torch.arange(s))[:, None, :, None]
        seen = seen & (at <= own) if causal else seen
        seen = seen & (at > own - window) if window is not None else seen
    if mask is not None and mask.dtype == torch.bool:
        seen = seen & mask
    elif mask is not None:
        scores = scores + mask
    scores = scores.masked_fill(~seen, -math.inf)
    weights = scores.softmax(-1).nan_to_num(0.0)
    return (weights @ value).transpose(1, 2)


@_handles("arith.constant")
def _constant(run: _Run, op: Any, operands: list[Any]) -> Any:
    from deepseek.precision.torch.constants import constant_tensor

    return constant_tensor(op.attributes["value"])


@_handles("tensor.empty")
def _empty(run: _Run, op: Any, operands: list[Any]) -> Tensor:
    sizes = iter(operands)
    type_ = op.results[0].type
    shape = [int(next(sizes)) if size == _DYNAMIC else size for size in type_.shape]
    return torch.zeros((), dtype=_DTYPES[str(type_.element_type)]).expand(shape)


@_handles("linalg.fill")
def _fill(run: _Run, op: Any, operands: list[Any]) -> Tensor:
    value, out = operands
    return torch.as_tensor(value, dtype=out.dtype).expand(out.shape)


@_handles("tensor.cast")
def _cast(run: _Run, op: Any, operands: list[Any]) -> Tensor:
    return operands[0]


@_handles("tensor.dim")
def _tensor_dim(run: _Run, op: Any, operands: list[Any]) -> int:
    return operands[0].shape[int(operands[1])]


@_handles("tensor.collapse_shape", "tensor.expand_shape")
def _reshape(run: _Run, op: Any, operands: list[Any]) -> Tensor:
    x, *sizes = operands
    if op.name == "tensor.collapse_shape":
        groups = [[entry.value for entry in group] for group in op.attributes["reassociation"]]
        return x.reshape([math.prod(x.shape[i] for i in group) for group in groups])
    rest = iter(sizes)
    static = list(op.attributes["static_output_shape"])
    return x.reshape([int(next(rest)) if size == _DYNAMIC else size for size in static])


def _mixed(op: Any, name: str, rest: Any) -> list[int]:
    return [int(next(rest)) if value == _DYNAMIC else value for value in op.attributes[name]]


@_handles("tensor.extract_slice")
def _extract_slice(run: _Run, op: Any, operands: list[Any]) -> Tensor:
    rest = iter(operands[1:])
    offsets, sizes, strides = (_mixed(op, name, rest) for name in ("static_offsets", "static_sizes", "static_strides"))
    out = operands[0][
        tuple(slice(o, o + (n - 1) * step + 1 if n else o, step) for o, n, step in zip(offsets, sizes, strides))
    ]
    return out.reshape([int(n) for n in _result_shape(op, sizes)])


def _result_shape(op: Any, sizes: list[int]) -> list[int]:
    """The sizes that a slice keeps: some of those that are 1 are dropped."""
    kept, wanted = [], list(op.results[0].type.shape)
    for size in sizes:
        if wanted and (wanted[0] == size or (wanted[0] == _DYNAMIC)):
            kept.append(size)
            wanted.pop(0)
    return kept


@_handles("tensor.insert_slice")
def _insert_slice(run: _Run, op: Any, operands: list[Any]) -> Tensor:
    source, target, *rest = operands
    rest = iter(rest)
    offsets, sizes, strides = (_mixed(op, name, rest) for name in ("static_offsets", "static_sizes", "static_strides"))
    target = target.clone()
    index = tuple(slice(o, o + (n - 1) * step + 1 if n else o, step) for o, n, step in zip(offsets, sizes, strides))
    target[index] = source.reshape(sizes)
    return target


@_handles("tensor.concat")
def _concat(run: _Run, op: Any, operands: list[Any]) -> Tensor:
    return torch.cat(operands, op.attributes["dim"].value)


@_handles("linalg.generic")
def _generic(run: _Run, op: Any, operands: list[Any]) -> Any:
    from deepseek.precision.torch.structured import execute_generic

    return execute_generic(run, op, operands)
