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
    t - s + i (lengths - s + i). A query that sees nothing gives zeros. What a query does not see
    is never touched: NaN there does not reach the result.
    """
    element = node.result_element()
    accumulator = node.numerics.accumulator(element)
    query = node.operands[0].astype(accumulator)
    batch, queries, heads, _ = query.shape
    if node.operands[1].ndim == 5:
        _, cache, lengths = node.operands
        keys, values = cache[:, 0], cache[:, 1]
        if np.any(lengths < 0) or np.any(lengths > cache.shape[3]):
            raise node.error(f"lengths must be between 0 and the capacity {cache.shape[3]}, got {lengths.tolist()}")
    else:
        keys, values = (np.swapaxes(x, 1, 2) for x in node.operands[1:3])
        lengths = np.full(batch, keys.shape[2])
    if keys.shape[0] != batch or heads % keys.shape[1]:
        raise node.error(f"query {list(query.shape)} does not fit {keys.shape[0]} rows of {keys.shape[1]} KV heads")
    group = heads // keys.shape[1]
    scale = accumulator.type(node.attribute("scale"))
    out = np.zeros(query.shape, accumulator)
    for row in range(batch):
        valid = int(lengths[row])
        key, value = (np.repeat(x[row, :, :valid].astype(accumulator), group, axis=0) for x in (keys, values))
        for i in range(queries):
            seen = max(valid - queries + i + 1, 0) if node.has("causal") else valid
            if seen == 0:
                continue
            scores = contract(query[row, i, :, None, :], np.swapaxes(key[:, :seen], 1, 2), node.numerics) * scale
            weights = softmax_last(scores, node.numerics)
            out[row, i] = contract(weights, value[:, :seen], node.numerics)[:, 0]
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
