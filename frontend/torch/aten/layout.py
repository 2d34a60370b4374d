"""Shapes and order of elements in ATen."""

from __future__ import annotations

from typing import Any

from deepseek import ACG

from ..registry import aten

_OPEN = 2**62  # ends of slices beyond this mean "to the end"


@aten("view.default", "reshape", "_unsafe_view", "view_copy.default", "_reshape_alias")
def view(self: Any, size: Any, *args: Any) -> Any:
    return ACG.reshape(self, tuple(size))


@aten("view_as", "reshape_as")
def view_as(self: Any, other: Any) -> Any:
    return ACG.reshape(self, other.shape)


@aten("view.dtype", "view_copy.dtype")
def view_dtype(self: Any, dtype: Any) -> Any:
    return ACG.bitcast(self, dtype)


@aten("flatten.using_ints")
def flatten(self: Any, start_dim: int = 0, end_dim: int = -1) -> Any:
    if not self.ndim:
        return ACG.reshape(self, -1)
    start, end = start_dim % self.ndim, end_dim % self.ndim
    joined: Any = 1
    for n in self.shape[start : end + 1]:
        joined = n * joined
    return ACG.reshape(self, (*self.shape[:start], joined, *self.shape[end + 1 :]))


@aten("unflatten.int")
def unflatten(self: Any, dim: int, sizes: Any) -> Any:
    at = dim % self.ndim
    known, parts = 1, list(sizes)
    for n in parts:
        known = known * n if n != -1 else known
    parts = [self.shape[at] // known if n == -1 else n for n in parts]
    return ACG.reshape(self, (*self.shape[:at], *parts, *self.shape[at + 1 :]))


@aten("permute", "permute_copy", "prims::transpose")
def permute(self: Any, dims: Any) -> Any:
    return ACG.transpose(self, tuple(dims)) if self.ndim else self


@aten("transpose.int", "swapaxes", "swapdims", "transpose_copy.int")
def transpose(self: Any, dim0: int, dim1: int) -> Any:
    return ACG.swapaxes(self, dim0, dim1) if self.ndim else self


@aten("t", "t_copy", "numpy_T")
def t(self: Any) -> Any:
    return ACG.transpose(self)


@aten("mT", "adjoint")
def mt(self: Any) -> Any:
    return ACG.swapaxes(self, -1, -2)


@aten("movedim.intlist", "moveaxis.intlist")
def movedim(self: Any, source: Any, destination: Any) -> Any:
    rank = self.ndim
    source, destination = [s % rank for s in source], [d % rank for d in destination]
    order = [-1] * rank
    for s, d in zip(source, destination):
        order[d] = s
    rest = iter(a for a in range(rank) if a not in source)
    return ACG.transpose(self, tuple(next(rest) if a < 0 else a for a in order))


@aten("movedim.int", "moveaxis.int")
def movedim_one(self: Any, source: int, destination: int) -> Any:
    return movedim(self, [source], [destination])


@aten("expand", "expand_copy")
def expand(self: Any, size: Any, implicit: bool = False) -> Any:
    lead = len(size) - self.ndim
    shape = [self.shape[i - lead] if isinstance(n, int) and n == -1 else n for i, n in enumerate(size)]
    return ACG.broadcast_to(self, shape)


@aten("expand_as")
def expand_as(self: Any, other: Any) -> Any:
    return ACG.broadcast_to(self, other.shape)


@aten("broadcast_to")
def broadcast_to(self: Any, size: Any) -> Any:
    return expand(self, size)


@aten("prims::broadcast_in_dim")
def broadcast_in_dim(a: Any, shape: Any, broadcast_dimensions: Any) -> Any:
    kept = {d: a.shape[i] for i, d in enumerate(broadcast_dimensions)}
    return ACG.broadcast_to(ACG.reshape(a, tuple(kept.get(d, 1) for d in range(len(shape)))), tuple(shape))


@aten("squeeze.default", "squeeze_copy.default")
def squeeze(self: Any) -> Any:
    return ACG.squeeze(self, tuple(i for i, n in enumerate(self.shape) if isinstance(n, int) and n == 1))


@aten("squeeze.dim", "squeeze.dims", "squeeze_copy.dim", "squeeze_copy.dims", "prims::squeeze")
def squeeze_dim(self: Any, dim: Any) -> Any:
    chosen = dim if isinstance(dim, (list, tuple)) else [dim]
    axes = {d % self.ndim for d in chosen} if self.ndim else set()
    return ACG.squeeze(self, tuple(a for a in sorted(axes) if self.shape[a] == 1))


@aten("unsqueeze", "unsqueeze_copy")
def unsqueeze(self: Any, dim: int) -> Any:
    return ACG.expand_dims(self, dim)


@aten("cat", "concat", "concatenate")
def cat(tensors: Any, dim: int = 0) -> Any:
    # torch lets 1-d tensors without elements stand beside any others.
    kept = [x for x in tensors if not (x.ndim == 1 and x.sizes[0] == 0)] or tensors[:1]
    return ACG.concat(kept, dim)


@aten("stack")
def stack(tensors: Any, dim: int = 0) -> Any:
    return ACG.stack(tensors, dim)


@aten("split.Tensor", "split_copy.Tensor", "unsafe_split.Tensor")
def split(self: Any, split_size: int, dim: int = 0) -> Any:
    at = dim % self.ndim
    extent = int(self.shape[at])
    step = max(int(split_size), 1)
    return [_cut(self, at, start, min(start + step, extent)) for start in range(0, max(extent, 1), step)]


@aten("split_with_sizes", "split_with_sizes_copy", "split.sizes", "unsafe_split_with_sizes")
def split_with_sizes(self: Any, split_sizes: Any, dim: int = 0) -> Any:
    at, start, out = dim % self.ndim, 0, []
    for n in split_sizes:
        out.append(_cut(self, at, start, start + n))
        start = start + n
    return out


@aten("chunk", "unsafe_chunk")
def chunk(self: Any, chunks: int, dim: int = 0) -> Any:
    extent = int(self.shape[dim % self.ndim])
    return split(self, -(-extent // chunks), dim)


@aten("tensor_split.sections")
def tensor_split(self: Any, sections: int, dim: int = 0) -> Any:
    extent = int(self.shape[dim % self.ndim])
    small, more = divmod(extent, int(sections))
    return split_with_sizes(self, [small + (i < more) for i in range(int(sections))], dim)


def _cut(x: Any, axis: int, start: Any, stop: Any) -> Any:
    return x[(*[slice(None)] * axis, slice(start, stop))]


@aten("unbind.int", "unbind_copy.int")
def unbind(self: Any, dim: int = 0) -> Any:
    at = dim % self.ndim
    return [self[(*[slice(None)] * at, i)] for i in range(int(self.shape[at]))]


@aten("slice.Tensor", "slice_copy.Tensor")
def slice_(self: Any, dim: int = 0, start: Any = None, end: Any = None, step: int = 1) -> Any:
    at = dim % self.ndim
    start = None if isinstance(start, int) and start <= -_OPEN else start
    end = None if isinstance(end, int) and end >= _OPEN else end
    if start in (None, 0) and end is None and step == 1:
        return self
    return self[(*[slice(None)] * at, slice(start, end, step))]


@aten("narrow", "narrow_copy")
def narrow(self: Any, dim: int, start: Any, length: Any) -> Any:
    at = dim % self.ndim
    begin = start if not isinstance(start, int) or start >= 0 else self.shape[at] + start
    return _cut(self, at, begin, begin + length)


@aten("select.int", "select_copy.int")
def select(self: Any, dim: int, index: Any) -> Any:
    return self[(*[slice(None)] * (dim % self.ndim), index)]


@aten("flip", "prims::rev")
def flip(self: Any, dims: Any) -> Any:
    return ACG.flip(self, tuple(dims)) if self.ndim else self


@aten("fliplr")
def fliplr(self: Any) -> Any:
    return ACG.flip(self, 1)


@aten("flipud")
def flipud(self: Any) -> Any:
    return ACG.flip(self, 0)


@aten("roll")
def roll(self: Any, shifts: Any, dims: Any = ()) -> Any:
    if not dims:
        return ACG.reshape(roll(ACG.reshape(self, -1), shifts, [0]), self.shape)
    out = self
    for shift, dim in zip(shifts, dims):
        at = dim % self.ndim
        extent = out.shape[at]
        if isinstance(extent, int) and extent == 0:
            continue
        cut = (extent - shift) % extent
        out = ACG.concat([_cut(out, at, cut, None), _cut(out, at, 0, cut)], at)
    return out


@aten("repeat")
def repeat(self: Any, repeats: Any) -> Any:
    lead = len(repeats) - self.ndim
    shape = [*[1] * lead, *self.shape]
    x = ACG.reshape(self, [n for size in shape for n in (1, size)])
    x = ACG.broadcast_to(x, [n for size, count in zip(shape, repeats) for n in (count, size)])
    return ACG.reshape(x, [size * count for size, count in zip(shape, repeats)])


@aten("tile")
def tile(self: Any, dims: Any) -> Any:
    return repeat(self, [*[1] * (self.ndim - len(dims)), *dims])


@aten("repeat_interleave.self_int")
def repeat_interleave(self: Any, repeats: Any, dim: int | None = None, output_size: Any = None) -> Any:
    x, at = (ACG.reshape(self, -1), 0) if dim is None or not self.ndim else (self, dim % self.ndim)
    wide = ACG.expand_dims(x, at + 1)
    wide = ACG.broadcast_to(wide, [*x.shape[: at + 1], repeats, *x.shape[at + 1 :]])
    return ACG.reshape(wide, [*x.shape[:at], x.shape[at] * repeats, *x.shape[at + 1 :]])


@aten("constant_pad_nd")
def constant_pad_nd(self: Any, pad: Any, value: Any = 0) -> Any:
    pairs = [(pad[i], pad[i + 1]) for i in range(0, len(pad), 2)][::-1]
    return ACG.pad(self, [*[(0, 0)] * (self.ndim - len(pairs)), *pairs], value)


@aten("diagonal", "diagonal_copy", "linalg_diagonal")
def diagonal(self: Any, offset: int = 0, dim1: int = 0, dim2: int = 1) -> Any:
    a, b = dim1 % self.ndim, dim2 % self.ndim
    rest = [i for i in range(self.ndim) if i not in (a, b)]
    x = ACG.transpose(self, (a, b, *rest))
    rows, columns = int(x.shape[0]), int(x.shape[1])
    count = max(0, min(rows + min(offset, 0), columns - max(offset, 0)))
    if not count:
        return ACG.zeros((*x.shape[2:], 0), x.type)
    at = ACG.arange(count)
    picked = ACG.gather(x, [ACG.add(at, max(-offset, 0)), ACG.add(at, max(offset, 0))])
    return ACG.transpose(picked, (*range(1, picked.ndim), 0))


@aten("diag_embed")
def diag_embed(self: Any, offset: int = 0, dim1: int = -2, dim2: int = -1) -> Any:
    rank = self.ndim + 1
    a, b = dim1 % rank, dim2 % rank
    size = int(self.shape[-1]) + abs(offset)
    row, column = ACG.iota((size, size), 0), ACG.iota((size, size), 1)
    if int(self.shape[-1]) == 0:
        filled = ACG.zeros((*self.shape[:-1], size, size), self.type)
    else:
        source = ACG.clip(ACG.add(row, min(offset, 0)), 0, int(self.shape[-1]) - 1)
        on = ACG.equal(ACG.subtract(column, row), offset)
        filled = ACG.where(on, ACG.take(self, source, axis=-1), 0).astype(self.type)
    order = [-1] * rank
    order[a], order[b] = rank - 2, rank - 1
    rest = iter(range(rank - 2))
    return ACG.transpose(filled, tuple(next(rest) if n < 0 else n for n in order))


@aten("as_strided", "as_strided_copy")
def as_strided(self: Any, size: Any, stride: Any, storage_offset: Any = None) -> Any:
    """Elements of a tensor in C order at offset + sum(index * stride)."""
    flat = ACG.reshape(self, -1)
    shape = [int(n) for n in size]
    if 0 in shape:
        return ACG.zeros(shape, self.type)
    at = ACG.full(shape, int(storage_offset or 0), "int64")
    for axis, step in enumerate(stride):
        at = ACG.add(at, ACG.multiply(ACG.iota(shape, axis), int(step))) if step else at
    return ACG.take(flat, at, axis=0)


@aten("unfold", "unfold_copy")
def unfold(self: Any, dimension: int, size: int, step: int) -> Any:
    if not self.ndim:
        return ACG.reshape(self, (1,))
    at = dimension % self.ndim
    count = (self.shape[at] - size) // step + 1
    start = ACG.multiply(ACG.arange(count), step)
    positions = ACG.add(ACG.expand_dims(start, 1), ACG.arange(size))
    found = ACG.take(self, positions, axis=at)
    return ACG.transpose(found, (*range(at + 1), *range(at + 2, found.ndim), at + 1))


@aten("tril_indices")
def tril_indices(row: int, col: int, offset: int = 0, **options: Any) -> Any:
    return _triangle([(r, c) for r in range(row) for c in range(max(0, min(col, r + offset + 1)))])


@aten("triu_indices")
def triu_indices(row: int, col: int, offset: int = 0, **options: Any) -> Any:
    return _triangle([(r, c) for r in range(row) for c in range(max(0, r + offset), col)])


def _triangle(pairs: list[tuple[int, int]]) -> Any:
    import numpy as np

    return ACG.asarray(np.array(pairs, np.int64).reshape(-1, 2).T)
