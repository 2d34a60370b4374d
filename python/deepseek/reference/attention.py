"""Scaled dot-product attention and the KV cache."""

from __future__ import annotations

import numpy as np

from deepseek.reference.dsc import contract, softmax_last
from deepseek.reference.interpreter import Node, operation


@operation("dsc.attention")
def attention(node: Node) -> np.ndarray:
    """result[b, i, h] = sum_j softmax_j(scale * q[b, i, h] . k[b, j, g]) v[b, j, g], g = h / (h_q / h_kv).

    Vaswani et al. 2017, eq. 1; grouped heads: Ainslie et al. 2023. q is [b, s, h, d]. k and v are
    [b, t, h_kv, d], or planes 0 and 1 of a cache [b, 2, h_kv, capacity, d] of which `lengths[b]`
    positions are valid, the s current ones included. `causal`: query i sees the positions up to
    t - s + i (lengths - s + i), its own one. `window`: none that is that many or more before its own
    (Beltagy et al. 2020). `soft_cap`: scores become c tanh(scores / c) (Gemma 2, 2024). `mask`
    [b, h_q, s, t], each size 1 or that of the scores: booleans hide keys, numbers are added. A query
    that sees nothing gives zeros. What a query does not see by its position is never touched: NaN
    there does not reach the result.
    """
    element = node.result_element()
    accumulator = node.numerics.accumulator(element)
    [query], key_operand, value_operand, cache_operand, lengths_operand, mask_operand = node.segments()
    query = query.astype(accumulator)
    batch, queries, heads, _ = query.shape
    if cache_operand:
        [cache], [lengths] = cache_operand, lengths_operand
        keys, values = cache[:, 0], cache[:, 1]
        if np.any(lengths < 0) or np.any(lengths > cache.shape[3]):
            raise node.error(f"lengths must be between 0 and the capacity {cache.shape[3]}, got {lengths.tolist()}")
    else:
        keys, values = (np.swapaxes(x, 1, 2) for x in (*key_operand, *value_operand))
        lengths = np.full(batch, keys.shape[2])
    if keys.shape[0] != batch or heads % keys.shape[1]:
        raise node.error(f"query {list(query.shape)} does not fit {keys.shape[0]} rows of {keys.shape[1]} KV heads")
    group = heads // keys.shape[1]
    scale = accumulator.type(node.attribute("scale"))
    window = node.attribute("window") if node.has("window") else None
    cap = accumulator.type(node.attribute("soft_cap")) if node.has("soft_cap") else None
    mask = np.broadcast_to(mask_operand[0], (batch, heads, queries, keys.shape[2])) if mask_operand else None
    out = np.zeros(query.shape, accumulator)
    for row in range(batch):
        valid = int(lengths[row])
        key, value = (np.repeat(x[row, :, :valid].astype(accumulator), group, axis=0) for x in (keys, values))
        for i in range(queries):
            own = valid - queries + i
            first = max(own - window + 1, 0) if window else 0
            end = max(own + 1, 0) if node.has("causal") else valid
            if first >= end:
                continue
            scores = contract(query[row, i, :, None, :], np.swapaxes(key[:, first:end], 1, 2), node.numerics) * scale
            if cap is not None:
                scores = cap * np.tanh(scores / cap)
            hidden = np.zeros(heads, bool)
            if mask is not None:
                part = mask[row, :, None, i, first:end]
                scores = np.where(part, scores, -np.inf) if part.dtype == bool else scores + part.astype(accumulator)
                hidden = np.all(scores == -np.inf, axis=-1)[:, 0]
            weights = softmax_last(np.where(hidden[:, None, None], 0, scores), node.numerics)
            out[row, i] = np.where(hidden[:, None], 0, contract(weights, value[:, first:end], node.numerics)[:, 0])
    return node.check_shape(node.result(out))


@operation("dsc.kv_append")
def kv_append(node: Node) -> np.ndarray:
    """result[b, 0, :, positions[b] + i] = key[b, i], plane 1 from value; all else as in the cache."""
    key, value, cache, positions = node.operands
    steps, capacity = key.shape[1], cache.shape[3]
    if np.any(positions < 0) or np.any(positions + steps > capacity):
        raise node.error(f"{steps} steps at positions {positions.tolist()} leave the capacity {capacity}")
    out = np.array(cache)
    for row, position in enumerate(positions):
        for plane, x in enumerate((key, value)):
            out[row, plane, :, position : position + steps] = np.swapaxes(x[row], 0, 1)
    return node.check_shape(out)
