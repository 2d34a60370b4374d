"""Scans, sorts and scatters: the formulas of the `dsc` operation docs, element by element."""

from __future__ import annotations

import numpy as np

from deepseek.reference.interpreter import Node, operation
from deepseek.reference.numerics import signed

_COMBINE = {
    "add": np.add, "mul": np.multiply, "max": np.maximum, "min": np.minimum, "logaddexp": np.logaddexp,
    "set": lambda old, new: new,
}  # fmt: skip


@operation("dsc.scan")
def scan(node: Node) -> np.ndarray:
    """result[.., i] = input[.., 0] op .. op input[.., i], in this order; logaddexp is log(exp(a) + exp(b))."""
    element = node.result_element()
    x = node.operands[0]
    x = x.astype(node.numerics.accumulator(element)) if element.is_float else signed(x)
    combine, out = _COMBINE[node.attribute("kind")], x.copy()
    for i in range(1, x.shape[-1]):
        out[..., i] = combine(out[..., i - 1], x[..., i])
    return node.check_shape(node.result(out))


@operation("dsc.sort")
def sort(node: Node) -> np.ndarray:
    """The positions that sort the last dimension, or the first of them: stable, a NaN greater than all numbers."""
    x = node.operands[0]
    if node.has("descending"):
        # Stable and descending: the ascending order of the row read backwards, read backwards.
        order = x.shape[-1] - 1 - np.argsort(x[..., ::-1], axis=-1, kind="stable")[..., ::-1]
    else:
        order = np.argsort(x, axis=-1, kind="stable")
    columns = node.op.results[0].type.shape[-1]
    if columns >= 0:
        order = order[..., :columns]
        order = np.pad(order, [*[(0, 0)] * (x.ndim - 1), (0, columns - order.shape[-1])])
    return node.check_shape(order.astype(np.int64))


@operation("dsc.scatter")
def scatter(node: Node) -> np.ndarray:
    """result = input; for j in order result[indices[j]] = result[indices[j]] op updates[j]; no row outside."""
    x, indices, updates = node.operands
    combine, out = _COMBINE[node.attribute("kind")], x.copy()
    for row, update in zip(indices, updates, strict=True):
        if 0 <= row < x.shape[0]:
            out[row] = node.result(combine(out[row], update))
    return node.check_shape(out)
