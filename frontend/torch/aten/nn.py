"""Neural network layers of ATen: norms, softmax, attention."""

from __future__ import annotations

import math
from typing import Any

from deepseek import ACG
from deepseek.acg import source

from ..registry import aten
from .random import dropout


@aten("softmax.int", "_softmax", "special_softmax")
def softmax(self: Any, dim: int, half_to_float: Any = False, dtype: Any = None) -> Any:
    wanted = dtype if dtype is not None else half_to_float if not isinstance(half_to_float, bool) else None
    x = self if wanted is None else self.astype(wanted)
    return ACG.softmax(x, dim) if x.ndim else ACG.ones_like(x)


@aten("_safe_softmax")
def safe_softmax(self: Any, dim: int, dtype: Any = None) -> Any:
    """Zeros where a row holds nothing but -inf."""
    x = self if dtype is None else self.astype(dtype)
    empty = ACG.all(ACG.equal(x, -math.inf), dim, True)
    return ACG.where(empty, 0.0, ACG.softmax(x, dim))


@aten("log_softmax.int", "_log_softmax", "special_log_softmax")
def log_softmax(self: Any, dim: int, half_to_float: Any = False, dtype: Any = None) -> Any:
    wanted = dtype if dtype is not None else half_to_float if not isinstance(half_to_float, bool) else None
    x = self if wanted is None else self.astype(wanted)
    return ACG.log_softmax(x, dim) if x.ndim else ACG.zeros_like(x)


def _rows(x: Any, normalized_shape: Any) -> Any:
    """x with the normalized dims as one."""
    count = len(normalized_shape)
    if count == 1:
        return x
    total: Any = 1
    for n in x.shape[-count:]:
        total = n * total
    return ACG.reshape(x, (*x.shape[:-count], total))


def _flat(parameter: Any) -> Any:
    return None if parameter is None else ACG.reshape(parameter, -1)


@aten("layer_norm")
def layer_norm(
    input: Any,
    normalized_shape: Any,
    weight: Any = None,
    bias: Any = None,
    eps: float = 1e-5,
    cudnn_enable: bool = True,
) -> Any:
    rows = _rows(input, normalized_shape)
    return ACG.reshape(ACG.layer_norm(rows, _flat(weight), _flat(bias), eps), input.shape)


@aten("native_layer_norm")
def native_layer_norm(input: Any, normalized_shape: Any, weight: Any, bias: Any, eps: float) -> Any:
    axes = tuple(range(input.ndim - len(normalized_shape), input.ndim))
    mean = ACG.mean(input, axes, True)
    scale = ACG.rsqrt(ACG.add(ACG.var(input, axes, True), eps))
    return layer_norm(input, normalized_shape, weight, bias, eps), mean, scale


@aten("rms_norm")
def rms_norm(input: Any, normalized_shape: Any, weight: Any = None, eps: float | None = None) -> Any:
    if eps is None:
        import torch

        eps = torch.finfo(getattr(torch, input.type.numpy.name)).eps
    rows = _rows(input, normalized_shape)
    scale = ACG.ones(rows.shape[-1], input.type) if weight is None else _flat(weight)
    return ACG.reshape(ACG.rms_norm(rows, scale, eps), input.shape)


@aten("_fused_rms_norm")
def fused_rms_norm(input: Any, normalized_shape: Any, weight: Any, eps: float | None) -> Any:
    axes = tuple(range(input.ndim - len(normalized_shape), input.ndim))
    wide = ACG.mean(ACG.multiply(input, input), axes, True)
    return rms_norm(input, normalized_shape, weight, eps), ACG.rsqrt(ACG.add(wide, eps or 1e-6))


def _channels(parameter: Any, rank: int) -> Any:
    return ACG.reshape(parameter, (1, -1, *[1] * (rank - 2)))


def _batch_norm(input: Any, weight: Any, bias: Any, mean: Any, var: Any, eps: float) -> Any:
    rank = input.ndim
    scale = ACG.rsqrt(ACG.add(var, eps))
    if weight is not None:
        scale = ACG.multiply(scale, weight)
    shift = ACG.negative(ACG.multiply(mean, scale))
    if bias is not None:
        shift = ACG.add(shift, bias)
    out = ACG.add(ACG.multiply(input, _channels(scale, rank)), _channels(shift, rank))
    return out.astype(input.type)


def _statistics(input: Any) -> tuple[Any, Any]:
    axes = tuple(a for a in range(input.ndim) if a != 1)
    return ACG.mean(input, axes), ACG.var(input, axes)


@aten("batch_norm")
def batch_norm(
    input: Any, weight: Any, bias: Any, running_mean: Any, running_var: Any, training: bool, momentum: float, eps: float,
    cudnn_enabled: bool,
) -> Any:  # fmt: skip
    mean, var = _statistics(input) if training or running_mean is None else (running_mean, running_var)
    return _batch_norm(input, weight, bias, mean, var, eps)


@aten("_native_batch_norm_legit_no_training")
def batch_norm_inference(
    input: Any, weight: Any, bias: Any, running_mean: Any, running_var: Any, momentum: float, eps: float
) -> Any:
    empty = ACG.zeros((0,), input.type)
    return _batch_norm(input, weight, bias, running_mean, running_var, eps), empty, empty


@aten("native_batch_norm", "cudnn_batch_norm")
def native_batch_norm(
    input: Any, weight: Any, bias: Any, running_mean: Any, running_var: Any, training: bool, momentum: float, eps: float
) -> Any:
    if training or running_mean is None:
        mean, var = _statistics(input)
        return _batch_norm(input, weight, bias, mean, var, eps), mean, ACG.rsqrt(ACG.add(var, eps))
    return batch_norm_inference(input, weight, bias, running_mean, running_var, momentum, eps)


@aten("instance_norm")
def instance_norm(
    input: Any, weight: Any, bias: Any, running_mean: Any, running_var: Any, use_input_stats: bool, momentum: float,
    eps: float, cudnn_enabled: bool,
) -> Any:  # fmt: skip
    """Every example and channel by its own statistics."""
    if not use_input_stats:
        return _batch_norm(input, weight, bias, running_mean, running_var, eps)
    if running_mean is not None:
        source.fail(
            "instance_norm in training mode changes its running statistics, which torch.export does not record",
            "call module.eval(), or set track_running_stats=False",
        )
    axes = tuple(range(2, input.ndim))
    mean, var = ACG.mean(input, axes, True), ACG.var(input, axes, True)
    out = ACG.multiply(ACG.subtract(input, mean), ACG.rsqrt(ACG.add(var, eps)))
    if weight is not None:
        out = ACG.multiply(out, _channels(weight, input.ndim))
    return (out if bias is None else ACG.add(out, _channels(bias, input.ndim))).astype(input.type)


@aten("scaled_dot_product_attention")
def attention(
    query: Any, key: Any, value: Any, attn_mask: Any = None, dropout_p: float = 0.0, is_causal: bool = False,
    scale: float | None = None, enable_gqa: bool = False,
) -> Any:  # fmt: skip
    """q [.., h, s, d], k and v [.., h_kv, t, d]; the mask is added, or says where to look (bool)."""
    if query.ndim == 3:
        query, key, value = (ACG.expand_dims(x, 1) for x in (query, key, value))
        mask = None if attn_mask is None else _mask_of_rank(attn_mask, 3)
        mask = mask if mask is None else ACG.expand_dims(mask, 1)
        out = attention(query, key, value, mask, dropout_p, is_causal, scale, enable_gqa)
        return ACG.squeeze(out, 1)
    return _attention(query, key, value, attn_mask, is_causal, scale, dropout_p)


def _mask_of_rank(mask: Any, rank: int) -> Any:
    return ACG.reshape(mask, (*[1] * (rank - mask.ndim), *mask.shape)) if mask.ndim < rank else mask


def _attention(
    query: Any, key: Any, value: Any, mask: Any, is_causal: bool, scale: float | None, dropout_p: float
) -> Any:  # fmt: skip
    fits = query.ndim == 4 and query.shape[-1] == value.shape[-1] and query.shape[0] == key.shape[0]
    square = not is_causal or query.shape[-2] == key.shape[-2]
    if fits and mask is None and not dropout_p and square and query.shape[1] % key.shape[1] == 0:
        q, k, v = (ACG.swapaxes(x, 1, 2) for x in (query, key, value))
        return ACG.swapaxes(ACG.attention(q, k, v, causal=is_causal, scale=scale), 1, 2)
    if query.ndim > 3 and key.shape[-3] != query.shape[-3]:
        times = query.shape[-3] // key.shape[-3]
        key, value = (_repeat_heads(x, times) for x in (key, value))
    depth = int(query.shape[-1])
    factor = depth**-0.5 if scale is None else scale
    scores = ACG.multiply(ACG.matmul(query, key, transpose_rhs=True), factor)
    if is_causal:
        i = ACG.iota(scores.shape[-2:], 0)
        j = ACG.iota(scores.shape[-2:], 1)
        mask = ACG.less_equal(j, i)
    if mask is not None and mask.type.kind == "b":
        scores = ACG.where(mask, scores, -math.inf)
        weights = safe_softmax(scores, -1)
    else:
        weights = ACG.softmax(scores if mask is None else ACG.add(scores, mask).astype(scores.type), -1)
    return ACG.matmul(dropout(weights, dropout_p, True), value)


def _repeat_heads(x: Any, times: Any) -> Any:
    wide = ACG.expand_dims(x, -3)
    wide = ACG.broadcast_to(wide, (*x.shape[:-2], times, *x.shape[-2:]))
    return ACG.reshape(wide, (*x.shape[:-3], x.shape[-3] * times, *x.shape[-2:]))


@aten("_scaled_dot_product_flash_attention_for_cpu")
def flash_attention(
    query: Any, key: Any, value: Any, dropout_p: float = 0.0, is_causal: bool = False, attn_mask: Any = None,
    scale: float | None = None,
) -> Any:  # fmt: skip
    return attention(query, key, value, attn_mask, dropout_p, is_causal, scale), None


@aten("_scaled_dot_product_attention_math")
def math_attention(
    query: Any, key: Any, value: Any, attn_mask: Any = None, dropout_p: float = 0.0, is_causal: bool = False,
    dropout_mask: Any = None, scale: float | None = None, enable_gqa: bool = False,
) -> Any:  # fmt: skip
    return attention(query, key, value, attn_mask, dropout_p, is_causal, scale, enable_gqa), None
