"""Adaptive maxima, antialiased resizing and sampling at points of ATen."""

from __future__ import annotations

from typing import Any

from deepseek import ACG
from deepseek.acg import source

from ..registry import aten


@aten("adaptive_max_pool1d", "adaptive_max_pool2d", "adaptive_max_pool3d")
def adaptive_max_pool(self: Any, output_size: Any) -> Any:
    """(maxima, their positions in the flattened spatial dims) of windows [floor(i n / o), ceil((i + 1) n / o))."""
    counts = list(output_size) if isinstance(output_size, (list, tuple)) else [output_size]
    rank = len(counts)
    lead = self.ndim - rank
    extents = self.shape[lead:]
    places = []
    for axis, (n, count) in enumerate(zip(extents, counts)):
        i = ACG.arange(count)
        first = ACG.floor_divide(ACG.multiply(i, n), count)
        last = ACG.floor_divide(ACG.add(ACG.multiply(ACG.add(i, 1), n), count - 1), count)
        # A window's last element stands in again where the window is shorter than the longest one.
        place = ACG.add(ACG.expand_dims(first, 1), ACG.arange(n // count + 2))
        place = ACG.minimum(place, ACG.expand_dims(ACG.subtract(last, 1), 1))  # [o, k]
        shape = [1] * (2 * rank)
        shape[axis], shape[rank + axis] = place.shape
        places.append(ACG.reshape(place, shape))
    moved = ACG.transpose(self, (*range(lead, self.ndim), *range(lead)))
    windows = ACG.gather(moved, places)  # [*o, *k, *lead]
    flat: Any = 0
    for place, n in zip(places, extents):
        flat = ACG.add(ACG.multiply(flat, n), place)
    total: Any = 1
    for n in windows.shape[rank : 2 * rank]:
        total = n * total
    windows = ACG.reshape(windows, (*counts, total, *self.shape[:lead]))
    best = ACG.argmax(windows, rank, True)
    values = ACG.squeeze(ACG.take_along_axis(windows, best, rank), rank)
    flat = ACG.reshape(flat, (*counts, total, *[1] * lead))
    flat = ACG.broadcast_to(flat, windows.shape)
    positions = ACG.squeeze(ACG.take_along_axis(flat, best, rank), rank)
    order = (*range(rank, rank + lead), *range(rank))
    return ACG.transpose(values, order), ACG.transpose(positions, order)


def _triangle(t: Any) -> Any:
    return ACG.maximum(ACG.subtract(1.0, ACG.abs(t)), 0.0)


def _cubic(t: Any) -> Any:
    """Keys 1981 (IEEE TASSP 29, eq. 15) with a = -1/2."""
    x = ACG.abs(t)
    near = ACG.add(ACG.multiply(ACG.multiply(ACG.subtract(ACG.multiply(x, 1.5), 2.5), x), x), 1.0)
    far = ACG.multiply(ACG.subtract(ACG.multiply(ACG.subtract(2.5, ACG.multiply(x, 0.5)), x), 4.0), x)
    return ACG.where(ACG.less(x, 1.0), near, ACG.where(ACG.less(x, 2.0), ACG.add(far, 2.0), 0.0))


def _weights(n: Any, count: Any, kernel: Any, reach: float, align_corners: bool, scale: float | None) -> Any:
    """[count, n]: the kernel, stretched to the step between outputs when that is more than one element."""
    one = ACG.asarray(1.0, "float64")
    if align_corners:
        step = ACG.true_divide(ACG.multiply(one, n - 1), count - 1) if count != 1 else ACG.multiply(one, 0.0)
    elif scale is not None and scale > 0:
        step = ACG.multiply(one, 1.0 / scale)
    else:
        step = ACG.true_divide(ACG.multiply(one, n), count)
    stretch = ACG.maximum(step, 1.0)
    support = ACG.multiply(stretch, reach)
    center = ACG.multiply(step, ACG.add(ACG.expand_dims(ACG.arange(count).astype("float64"), 1), 0.5))
    place = ACG.arange(n).astype("float64")
    first = ACG.maximum(ACG.trunc(ACG.add(ACG.subtract(center, support), 0.5)), 0.0)
    end = ACG.trunc(ACG.add(ACG.add(center, support), 0.5))
    t = ACG.true_divide(ACG.add(ACG.subtract(place, center), 0.5), stretch)
    inside = ACG.logical_and(ACG.greater_equal(place, first), ACG.less(place, end))
    weight = ACG.where(inside, kernel(t), 0.0)
    return ACG.true_divide(weight, ACG.sum(weight, 1, True))


def _resized(x: Any, size: Any, align_corners: bool, scales: Any, kernel: Any, reach: float) -> Any:
    rows, columns = (
        _weights(n, count, kernel, reach, align_corners, scale).astype(x.type)
        for n, count, scale in zip(x.shape[2:], size, scales)
    )
    out = ACG.matmul(x, ACG.swapaxes(columns, 0, 1))
    return ACG.swapaxes(ACG.matmul(ACG.swapaxes(out, 2, 3), ACG.swapaxes(rows, 0, 1)), 2, 3)


def _antialiased(kernel: Any, reach: float) -> tuple[Any, Any]:
    def plain(
        self: Any, output_size: Any, align_corners: bool, scales_h: float | None = None, scales_w: float | None = None
    ) -> Any:
        return _resized(self, output_size, align_corners, (scales_h, scales_w), kernel, reach)

    def vec(input: Any, output_size: Any, align_corners: bool, scale_factors: Any = None) -> Any:
        scales = list(scale_factors) if scale_factors else [None, None]
        size = output_size or [int(int(n) * s) for n, s in zip(input.shape[2:], scales)]
        return _resized(input, size, align_corners, scales, kernel, reach)

    return plain, vec


for _name, _kernel, _reach in (("bilinear", _triangle, 1.0), ("bicubic", _cubic, 2.0)):
    _plain, _vec = _antialiased(_kernel, _reach)
    aten(f"_upsample_{_name}2d_aa.default")(_plain)
    aten(f"_upsample_{_name}2d_aa.vec")(_vec)


def _source_position(g: Any, n: Any, padding_mode: int, align_corners: bool) -> Any:
    """Where -1 .. 1 points to in a dim of n elements; outside as the mode (zeros, border, reflection) says."""
    size = ACG.asarray(n).astype(g.type)
    if align_corners:
        at = ACG.multiply(ACG.multiply(ACG.add(g, 1.0), 0.5), ACG.subtract(size, 1.0))
    else:
        at = ACG.multiply(ACG.subtract(ACG.multiply(ACG.add(g, 1.0), size), 1.0), 0.5)
    if padding_mode == 2:
        low = 0.0 if align_corners else -0.5
        span = ACG.subtract(size, 1.0) if align_corners else size
        span = ACG.maximum(span, 1e-30)
        away = ACG.abs(ACG.subtract(at, low))
        turns = ACG.floor(ACG.true_divide(away, span))
        rest = ACG.subtract(away, ACG.multiply(turns, span))
        even = ACG.equal(ACG.remainder(turns, 2.0), 0.0)
        at = ACG.where(even, ACG.add(rest, low), ACG.add(ACG.subtract(span, rest), low))
    if padding_mode:
        at = ACG.minimum(ACG.maximum(at, 0.0), ACG.subtract(size, 1.0))
    return at


@aten("grid_sampler_3d")
def grid_sampler_3d(input: Any, grid: Any, interpolation_mode: int, padding_mode: int, align_corners: bool) -> Any:
    """input [n, c, d, h, w] at grid [n, .., 3] of (x, y, z): between 8 neighbours, or at the nearest element."""
    if interpolation_mode > 1:
        source.fail("bicubic sampling of volumes is not defined", "use mode bilinear or nearest")
    extents = input.shape[2:]
    at = [
        _source_position(grid[..., 2 - axis], extents[axis], padding_mode, align_corners) for axis in range(3)
    ]  # [n, d', h', w'] each
    channels_last = ACG.transpose(input, (0, 2, 3, 4, 1))
    batch = ACG.reshape(ACG.arange(input.shape[0]), (-1, 1, 1, 1))

    def read(places: list[Any]) -> Any:
        inside = None
        for place, n in zip(places, extents):
            fits = ACG.logical_and(ACG.greater_equal(place, 0.0), ACG.less(place, n))
            inside = fits if inside is None else ACG.logical_and(inside, fits)
        whole = [ACG.where(inside, place, 0.0).astype("int64") for place in places]
        found = ACG.gather(channels_last, [batch, *whole])
        return ACG.where(ACG.expand_dims(inside, -1), found, 0.0).astype(input.type)

    if interpolation_mode == 1:
        out = read([ACG.round(place) for place in at])
    else:
        places, weight = [], None
        for axis, place in enumerate(at):
            # The neighbours below and above stand in a dim of 2 of their own.
            shape = [2 if d == axis else 1 for d in range(3)]
            up = ACG.reshape(ACG.arange(2), shape).astype(place.type)
            place = ACG.expand_dims(place, (-1, -2, -3))
            low = ACG.floor(place)
            part = ACG.subtract(place, low)
            share = ACG.where(ACG.equal(up, 1.0), part, ACG.subtract(1.0, part))
            places.append(ACG.add(low, up))
            weight = share if weight is None else ACG.multiply(weight, share)
        batch = ACG.expand_dims(batch, (-1, -2, -3))
        terms = ACG.multiply(read(places), ACG.expand_dims(weight, -1))
        out = ACG.sum(terms, (4, 5, 6))
    return ACG.transpose(out, (0, 4, 1, 2, 3)).astype(input.type)
