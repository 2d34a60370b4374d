"""The `dsc` dialect's graph operations except attention: the formulas of its operation docs.

With the float64 mode all of this is float64. When strict, f16 and bf16 operands are widened to
f32, every step is rounded to f32, sums run from the first to the last element, and the result
is rounded once to its type; f64 computes in f64. A `precision` attribute is a decision about
later phases and changes nothing here.
"""

from __future__ import annotations

import numpy as np

from deepseek.reference.dequantize import dequantize
from deepseek.reference.interpreter import Node, operation
from deepseek.reference.numerics import Numerics, signed


def contract(a: np.ndarray, b: np.ndarray, numerics: Numerics) -> np.ndarray:
    """Matrix product of [.., M, K] and [.., K, N] in the operands' common type.

    Strict: K products added one by one from the first, each rounded.
    """
    if not numerics.strict:
        return np.matmul(a, b)
    leading = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    total = np.zeros((*leading, a.shape[-2], b.shape[-1]), a.dtype)
    for k in range(a.shape[-1]):
        total += a[..., :, k, None] * b[..., None, k, :]
    return total


@operation("dsc.matmul")
def matmul(node: Node) -> np.ndarray:
    """result[.., m, n] = sum_k lhs[.., m, k] * rhs[(..,) k, n] (+ bias[n]); integers wrap."""
    if node.has("packed_columns"):  # as every one with packed_rows
        raise node.error("with packed_columns belongs to a later phase")
    lhs, rhs, *bias = node.operands
    element = node.result_element()
    if element.is_float:
        accumulator = node.numerics.accumulator(element)
        lhs, rhs, *bias = (x.astype(accumulator) for x in (lhs, rhs, *bias))
    else:
        lhs, rhs, *bias = (signed(x) for x in (lhs, rhs, *bias))
    lhs = np.swapaxes(lhs, -1, -2) if node.has("transpose_lhs") else lhs
    rhs = np.swapaxes(rhs, -1, -2) if node.has("transpose_rhs") else rhs
    if lhs.shape[-1] != rhs.shape[-2]:
        raise node.error(f"contraction sizes must match, got {lhs.shape[-1]} and {rhs.shape[-2]}")
    if rhs.ndim > 2 and rhs.shape[:-2] != lhs.shape[:-2]:
        raise node.error(f"leading sizes must match, got {list(lhs.shape[:-2])} and {list(rhs.shape[:-2])}")
    result = contract(lhs, rhs, node.numerics)
    if bias:
        result = result + bias[0]
    return node.check_shape(node.result(result))


@operation("dsc.rms_norm")
def rms_norm(node: Node) -> np.ndarray:
    """input / sqrt(mean(input^2) + eps) * weight over the last dimension (Zhang and Sennrich 2019, eq. 4)."""
    accumulator = node.numerics.accumulator(node.result_element())
    x, weight = (v.astype(accumulator) for v in node.operands)
    eps = accumulator.type(node.attribute("eps"))
    mean = node.numerics.sum(x * x, -1) / accumulator.type(x.shape[-1])
    return node.result(x / np.sqrt(mean + eps)[..., None] * weight)


@operation("dsc.layer_norm")
def layer_norm(node: Node) -> np.ndarray:
    """(input - mean) / sqrt(variance + eps) * weight + bias over the last dimension (Ba et al. 2016)."""
    accumulator = node.numerics.accumulator(node.result_element())
    (x,), weight, bias = ([v.astype(accumulator) for v in group] for group in node.segments())
    eps, count = accumulator.type(node.attribute("eps")), accumulator.type(x.shape[-1])
    centered = x - (node.numerics.sum(x, -1) / count)[..., None]
    variance = node.numerics.sum(centered * centered, -1) / count
    out = centered / np.sqrt(variance + eps)[..., None]
    for parameter in weight:
        out = out * parameter
    for parameter in bias:
        out = out + parameter
    return node.result(out)


def softmax_last(x: np.ndarray, numerics: Numerics) -> np.ndarray:
    """exp(x - max) / sum(exp(x - max)) over a last dimension of any size."""
    if x.shape[-1] == 0:
        return x
    shifted = x - np.max(x, axis=-1, keepdims=True)
    # exp is taken in float64 and rounded: the correctly rounded value when strict.
    exponential = np.exp(shifted.astype(np.float64)).astype(x.dtype)
    return exponential / numerics.sum(exponential, -1)[..., None]


@operation("dsc.softmax")
def softmax(node: Node) -> np.ndarray:
    """exp(input - max) / sum(exp(input - max)) over the last dimension."""
    accumulator = node.numerics.accumulator(node.result_element())
    return node.result(softmax_last(node.operands[0].astype(accumulator), node.numerics))


@operation("dsc.rope")
def rope(node: Node) -> np.ndarray:
    """Rotates the pairs (x1, x2) of input [b, s, h, d] to (x1 cos - x2 sin, x2 cos + x1 sin).

    cos and sin are [b, s, d / 2]. Pairs are (i, i + d / 2) as in GPT-NeoX, or (2i, 2i + 1) with
    `interleaved` (Su et al. 2021, eq. 34).
    """
    accumulator = node.numerics.accumulator(node.result_element())
    x, cos, sin = (v.astype(accumulator) for v in node.operands)
    half = x.shape[-1] // 2
    cos, sin = cos[:, :, None, :], sin[:, :, None, :]
    interleaved = node.has("interleaved")
    first, second = (x[..., 0::2], x[..., 1::2]) if interleaved else (x[..., :half], x[..., half:])
    rotated = (first * cos - second * sin, second * cos + first * sin)
    joined = np.stack(rotated, axis=-1).reshape(x.shape) if interleaved else np.concatenate(rotated, axis=-1)
    return node.check_shape(node.result(joined))


@operation("dsc.embedding")
def embedding(node: Node) -> np.ndarray:
    """result[.., :] = table[ids[..], :]; an id outside of the table reads the nearest row."""
    table, ids = node.operands
    if ids.size and not table.shape[0]:
        raise node.error("cannot read from a table without rows")
    rows = np.clip(ids, 0, max(table.shape[0] - 1, 0)).astype(np.int64)
    return node.check_shape(node.result(table[rows]))


@operation("dsc.dequantize")
def dequantize_op(node: Node) -> np.ndarray:
    """The values of GGUF blocks: float32 arithmetic in both modes, as the format defines it."""
    values = dequantize(node.operands[0], node.attribute("format"))
    return node.check_shape(node.numerics.cast(values, node.result_element()))
