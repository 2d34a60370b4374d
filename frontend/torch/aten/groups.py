"""Operations of ATen on groups of rows: histograms, bags of embeddings, segments, grouped products."""

from __future__ import annotations

import math
from typing import Any

from deepseek import ACG
from deepseek.acg import source

from ..registry import aten


def _ends(x: Any, low: Any, high: Any) -> tuple[Any, Any]:
    """The ends of a histogram as f64 arrays: the data's own if both are equal, one apart if those are too."""
    if low != high:
        return ACG.asarray(float(low), "float64"), ACG.asarray(float(high), "float64")
    if isinstance(x.shape[0], int) and x.shape[0] == 0:
        return ACG.asarray(0.0, "float64"), ACG.asarray(1.0, "float64")
    start, end = (f(x).astype("float64") for f in (ACG.min, ACG.max))
    shift = ACG.where(ACG.equal(start, end), 1.0, 0.0)
    return ACG.subtract(start, shift), ACG.add(end, shift)


@aten("histc")
def histc(self: Any, bins: int = 100, min: Any = 0, max: Any = 0) -> Any:
    """Counts in bins of one width; the last one holds its upper end, elements outside are left out."""
    x = ACG.reshape(self, -1)
    low, high = _ends(x, min, max)
    wide = x.astype("float64")
    place = ACG.true_divide(ACG.multiply(ACG.subtract(wide, low), bins), ACG.subtract(high, low))
    inside = ACG.logical_and(ACG.greater_equal(wide, low), ACG.less_equal(wide, high))
    number = ACG.minimum(ACG.where(inside, place, 0.0).astype("int64"), bins - 1)
    return ACG.put(ACG.zeros((bins,), self.type), [number], inside.astype(self.type), "add")


@aten("_embedding_bag", "_embedding_bag_forward_only")
def embedding_bag(
    weight: Any, indices: Any, offsets: Any, scale_grad_by_freq: bool = False, mode: int = 0, sparse: bool = False,
    per_sample_weights: Any = None, include_last_offset: bool = False, padding_idx: int = -1,
) -> Any:  # fmt: skip
    """(bags of rows summed, averaged or their maximum, the bag of every index, sizes of bags, rows of maxima)."""
    starts = offsets[:-1] if include_last_offset else offsets
    bags, width = starts.shape[0], weight.shape[1]
    position = ACG.expand_dims(ACG.arange(indices.shape[0]), 1)
    bag = ACG.subtract(ACG.sum(ACG.less_equal(starts, position).astype("int64"), 1), 1)
    used = ACG.less(bag, bags)
    if padding_idx >= 0:
        used = ACG.logical_and(used, ACG.not_equal(indices, padding_idx))
    sizes = ACG.put(ACG.zeros((bags,), "int64"), [bag], used.astype("int64"), "add")
    rows = ACG.take(weight, indices, axis=0)
    if per_sample_weights is not None:
        rows = ACG.multiply(rows, ACG.expand_dims(per_sample_weights, 1))
    shown = ACG.expand_dims(used, 1)
    if mode == 2:
        rows = ACG.where(shown, rows, -math.inf).astype(weight.type)
        out = ACG.put(ACG.full((bags, width), -math.inf, weight.type), [bag], rows, "max")
        out = ACG.where(ACG.expand_dims(ACG.equal(sizes, 0), 1), 0.0, out).astype(weight.type)
        return out, bag, sizes, ACG.zeros((bags, width), indices.type)
    rows = ACG.where(shown, rows, 0.0).astype(weight.type)
    out = ACG.put(ACG.zeros((bags, width), weight.type), [bag], rows, "add")
    if mode == 1:
        out = ACG.true_divide(out, ACG.expand_dims(ACG.maximum(sizes, 1), 1).astype(weight.type))
    return out, bag, sizes, ACG.zeros((bags,), indices.type)


_EMPTY_SEGMENT = {"max": -math.inf, "min": math.inf, "sum": 0.0, "mean": math.nan, "prod": 1.0}


@aten("segment_reduce")
def segment_reduce(
    data: Any, reduce: str, lengths: Any = None, indices: Any = None, offsets: Any = None, axis: int = 0,
    unsafe: bool = False, initial: Any = None,
) -> Any:  # fmt: skip
    """Runs of the given lengths, or between the given offsets, of one axis reduced to an element each."""
    if indices is not None:
        source.fail("segment_reduce by indices is not supported", "pass lengths or offsets")
    at = axis % data.ndim
    if offsets is None:
        ends = ACG.cumsum(lengths, at)
        starts = ACG.subtract(ends, lengths)
    else:
        lead = (slice(None),) * at
        starts, ends = offsets[(*lead, slice(0, -1))], offsets[(*lead, slice(1, None))]
    place = ACG.arange(data.shape[at])
    starts, ends = ACG.expand_dims(starts, -1), ACG.expand_dims(ends, -1)
    member = ACG.logical_and(ACG.greater_equal(place, starts), ACG.less(place, ends))  # [.., segments, n]
    count = ACG.sum(member.astype("int64"), -1)
    trailing = data.ndim - at - 1
    wide = ACG.expand_dims(data, at)
    for _ in range(trailing):
        member, count = ACG.expand_dims(member, -1), ACG.expand_dims(count, -1)
    neutral = _EMPTY_SEGMENT["sum" if reduce == "mean" else reduce]
    parts = ACG.where(member, wide, neutral).astype(data.type)
    fold = {"max": ACG.max, "min": ACG.min, "prod": ACG.prod}.get(reduce, ACG.sum)
    found = fold(parts, at + 1)
    if initial is not None:
        join = {"max": ACG.maximum, "min": ACG.minimum, "prod": ACG.multiply}.get(reduce, ACG.add)
        found = join(found, float(initial))
    if reduce != "mean":
        return found
    mean = ACG.true_divide(found, ACG.maximum(count, 1).astype(data.type))
    return ACG.where(ACG.equal(count, 0), math.nan if initial is None else float(initial), mean).astype(data.type)


@aten("_grouped_mm", "transformers::grouped_mm_fallback")
def grouped_mm(self: Any, mat2: Any, offs: Any = None, bias: Any = None, out_dtype: Any = None) -> Any:
    """Products of groups, which end at `offs` along the dim that both 2-d operands or the result have.

    Rows [m, k] by [g, k, n]: every group's product of all rows, of which each row keeps its own group's.
    """
    if self.ndim == 3 and mat2.ndim == 3:
        out = ACG.matmul(self, mat2)
    elif self.ndim == 2 and mat2.ndim == 2:
        out = ACG.matmul(ACG.where(_members(offs, self.shape[1]), self, 0).astype(self.type), mat2)
    else:
        by_rows = self.ndim == 2
        each = ACG.matmul(*(x if x.ndim == 3 else ACG.expand_dims(x, 0) for x in (self, mat2)))  # [g, m, n]
        n = each.shape[1] if by_rows else each.shape[2]
        group = ACG.sum(ACG.less_equal(ACG.expand_dims(offs, 1), ACG.arange(n)).astype("int64"), 0)
        if by_rows:
            out = ACG.gather(each, [group, ACG.arange(n)])
        else:
            out = ACG.transpose(ACG.gather(ACG.swapaxes(each, 1, 2), [group, ACG.arange(n)]))
    if bias is not None:
        out = ACG.add(out, bias)
    return out if out_dtype is None else out.astype(out_dtype)


def _members(offs: Any, count: Any) -> Any:
    """[g, 1, count]: whether a position belongs to the group."""
    ends = ACG.expand_dims(offs, 1)
    starts = ACG.expand_dims(ACG.concat([ACG.zeros((1,), offs.type), offs[:-1]], 0), 1)
    place = ACG.arange(count)
    return ACG.expand_dims(ACG.logical_and(ACG.greater_equal(place, starts), ACG.less(place, ends)), 1)


@aten("torch_nn::_linear_cross_entropy_batch_chunked")
def linear_cross_entropy(
    input: Any, linear_weight: Any, target: Any, linear_bias: Any, weight: Any, reduction: str, ignore_index: int,
    label_smoothing: float, *options: Any,
) -> Any:  # fmt: skip
    """(loss, no gradients): chunks save memory of the backward pass only."""
    losses, factors = _token_losses(input, linear_weight, target, linear_bias, weight, ignore_index, label_smoothing)
    total = ACG.sum(losses)
    loss = total if reduction == "sum" else ACG.true_divide(total, ACG.sum(factors))
    return loss.astype(input.type), None, None, None


@aten("torch_nn::_linear_cross_entropy_batch_chunked_no_reduction")
def linear_cross_entropy_each(
    input: Any, linear_weight: Any, target: Any, linear_bias: Any, weight: Any, ignore_index: int, *options: Any
) -> Any:
    losses, _ = _token_losses(input, linear_weight, target, linear_bias, weight, ignore_index, 0.0)
    return losses.astype(input.type)


def _token_losses(
    x: Any, matrix: Any, target: Any, bias: Any, weight: Any, ignore_index: int, smoothing: float
) -> tuple[Any, Any]:
    """(loss of every token, its share in the mean): torch.nn.functional.cross_entropy of a linear layer."""
    scores = ACG.log_softmax(ACG.matmul(x, matrix, bias=bias, transpose_rhs=True), -1)
    used = ACG.not_equal(target, ignore_index)
    safe = ACG.where(used, target, 0)
    own = ACG.squeeze(ACG.take_along_axis(scores, ACG.expand_dims(safe, -1), -1), -1)
    share = ACG.ones_like(own) if weight is None else ACG.take(weight, safe, axis=0)
    share = ACG.where(used, share, 0.0).astype(scores.type)
    losses = ACG.negative(ACG.multiply(own, share))
    if smoothing:
        all_classes = scores if weight is None else ACG.multiply(scores, weight)
        spread = ACG.where(used, ACG.negative(ACG.sum(all_classes, -1)), 0.0)
        spread = ACG.true_divide(spread, scores.shape[-1])
        losses = ACG.add(ACG.multiply(losses, 1 - smoothing), ACG.multiply(spread, smoothing))
    return losses, share
