"""The `tensor` dialect on arrays (MLIR 22 reference, "tensor" dialect). No operation writes its operands."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from deepseek.reference.interpreter import DYNAMIC, Node, operation
from deepseek.reference.structured import take


def _mixed(static: Sequence[int], dynamic: Sequence[np.ndarray]) -> list[int]:
    """Sizes of which the dynamic ones are operands."""
    rest = iter(dynamic)
    return [int(next(rest)) if size == DYNAMIC else int(size) for size in static]


def _declared(node: Node, dynamic: Sequence[np.ndarray]) -> list[int]:
    return _mixed(node.op.results[0].type.shape, dynamic)


@operation("tensor.empty")
def empty(node: Node) -> np.ndarray:
    """Contents are undefined: NaN or a large pattern, so that a read of them shows."""
    dtype = node.numerics.storage(node.result_element())
    shape = _declared(node, node.operands)
    if dtype.kind == "b":
        return np.ones(shape, dtype)
    if dtype.kind == "i":
        return np.full(shape, np.iinfo(dtype).max // 3, dtype)
    return np.full(shape, np.nan, dtype)


@operation("tensor.dim")
def dim(node: Node) -> np.ndarray:
    x, index = node.operands
    return np.asarray(x.shape[int(index)], np.int64)


@operation("tensor.rank")
def rank(node: Node) -> np.ndarray:
    return np.asarray(node.operands[0].ndim, np.int64)


@operation("tensor.extract")
def extract(node: Node) -> np.ndarray:
    """One element, or one per point of the space when the indices are arrays (in a body)."""
    x, *indices = node.operands
    return take(x, indices) if indices else x


@operation("tensor.insert")
def insert(node: Node) -> np.ndarray:
    value, x, *indices = node.operands
    take(x, indices)
    out = np.array(x)
    out[tuple(int(i) for i in indices)] = value
    return out


def _slices(node: Node, shape: Sequence[int], offsets, sizes, strides) -> tuple[tuple[slice, ...], list[int]]:
    """The slice of a shape that static and dynamic offsets, sizes and strides describe."""
    offset, size, stride = (
        _mixed(node.attribute(f"static_{name}"), dynamic)
        for name, dynamic in (("offsets", offsets), ("sizes", sizes), ("strides", strides))
    )
    for axis, (o, n, s, extent) in enumerate(zip(offset, size, stride, shape)):
        if n < 0 or o < 0 or s < 1 or (n > 0 and o + (n - 1) * s >= extent):
            raise node.error(f"offset {o}, size {n}, stride {s} leave dimension {axis} of size {extent}")
    return tuple(slice(o, o + n * s, s) for o, n, s in zip(offset, size, stride)), size


@operation("tensor.extract_slice")
def extract_slice(node: Node) -> np.ndarray:
    """Size-1 dimensions that the result type lacks are dropped."""
    (x,), *dynamic = node.segments()
    slices, size = _slices(node, x.shape, *dynamic)
    wanted = list(node.op.results[0].type.shape)
    shape: list[int] = []
    for declared, actual in zip(node.attribute("static_sizes"), size):
        if len(shape) < len(wanted) and wanted[len(shape)] == declared:
            shape.append(actual)
        elif actual != 1:
            raise node.error(f"cannot drop a dimension of size {actual}")
    return node.check_shape(x[slices].reshape(shape))


@operation("tensor.insert_slice", "tensor.parallel_insert_slice")
def insert_slice(node: Node) -> np.ndarray:
    (source,), (x,), *dynamic = node.segments()
    slices, size = _slices(node, x.shape, *dynamic)
    out = np.array(x)
    out[slices] = source.reshape(size)
    return out


@operation("tensor.concat")
def concat(node: Node) -> np.ndarray:
    return node.check_shape(np.concatenate(node.operands, axis=node.attribute("dim")))


@operation("tensor.expand_shape")
def expand_shape(node: Node) -> np.ndarray:
    x, *dynamic = node.operands
    return node.check_shape(x.reshape(_mixed(node.attribute("static_output_shape"), dynamic)))


@operation("tensor.collapse_shape")
def collapse_shape(node: Node) -> np.ndarray:
    x = node.operands[0]
    groups = [[axis.value for axis in group] for group in node.attribute("reassociation")]
    return node.check_shape(x.reshape([math.prod(x.shape[axis] for axis in group) for group in groups]))


@operation("tensor.reshape")
def reshape(node: Node) -> np.ndarray:
    x, shape = node.operands
    return node.check_shape(x.reshape([int(size) for size in shape]))


@operation("tensor.cast")
def cast(node: Node) -> np.ndarray:
    return node.check_shape(node.operands[0])


@operation("tensor.splat")
def splat(node: Node) -> np.ndarray:
    value, *dynamic = node.operands
    return np.full(_declared(node, dynamic), value, np.asarray(value).dtype)


@operation("tensor.from_elements")
def from_elements(node: Node) -> np.ndarray:
    element = node.result_element()
    return np.array(node.operands, node.numerics.storage(element)).reshape(node.op.results[0].type.shape)


@operation("tensor.generate")
def generate(node: Node) -> np.ndarray:
    return _from_indices(node, _declared(node, node.operands))


@operation("tensor.pad")
def pad(node: Node) -> np.ndarray:
    (x,), low_operands, high_operands = node.segments()
    low = _mixed(node.attribute("static_low"), low_operands)
    high = _mixed(node.attribute("static_high"), high_operands)
    if min([*low, *high, 0]) < 0:
        raise node.error(f"padding must not be negative, got low {low}, high {high}")
    out = _from_indices(node, [before + n + after for before, n, after in zip(low, x.shape, high)])
    out[tuple(slice(before, before + n) for before, n in zip(low, x.shape))] = x
    return node.check_shape(out)


def _from_indices(node: Node, shape: list[int]) -> np.ndarray:
    """What the region yields for every index of a shape."""
    grids = np.meshgrid(*[np.arange(n) for n in shape], indexing="ij", sparse=True)
    return np.array(np.broadcast_to(node.run_region(*grids)[0], shape))


@operation("tensor.gather")
def gather(node: Node) -> np.ndarray:
    """Slices of size 1 along `gather_dims` at `indices[..., :]`, these dimensions kept or dropped."""
    x, indices = node.operands
    axes = node.attribute("gather_dims")
    moved = np.moveaxis(x, axes, range(len(axes)))
    picked = take(moved, [indices[..., i] for i in range(len(axes))])
    batch = indices.ndim - 1
    if len(node.op.results[0].type.shape) == batch + x.ndim:
        picked = np.expand_dims(picked, [batch + axis for axis in axes])
    return node.check_shape(picked)
