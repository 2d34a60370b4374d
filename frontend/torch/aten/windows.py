"""Convolutions and pools of ATen."""

from __future__ import annotations

from typing import Any

from deepseek import ACG

from ..registry import aten


def _batched(x: Any, rank: int, fn: Any) -> Any:
    """`fn` on [n, c, *spatial]; torch also takes one example without n."""
    if x.ndim == rank + 2:
        return fn(x)
    out = fn(ACG.expand_dims(x, 0))
    return tuple(ACG.squeeze(v, 0) for v in out) if isinstance(out, tuple) else ACG.squeeze(out, 0)


@aten("convolution", "_convolution", "convolution_overrideable")
def convolution(
    input: Any, weight: Any, bias: Any, stride: Any, padding: Any, dilation: Any, transposed: bool, output_padding: Any,
    groups: int, *args: Any,
) -> Any:  # fmt: skip
    return _batched(
        input, weight.ndim - 2,
        lambda x: ACG.convolution(x, weight, bias, stride, padding, dilation, groups, transposed, output_padding),
    )  # fmt: skip


@aten("conv1d", "conv2d", "conv3d")
def conv(
    input: Any, weight: Any, bias: Any = None, stride: Any = 1, padding: Any = 0, dilation: Any = 1, groups: int = 1
) -> Any:
    rank = weight.ndim - 2
    if padding == "valid":
        padding = 0
    elif padding == "same":
        dilations = list(dilation) if isinstance(dilation, (list, tuple)) else [dilation] * rank
        dilations = dilations * rank if len(dilations) == 1 else dilations
        total = [d * (int(n) - 1) for d, n in zip(dilations, weight.shape[2:])]
        lead = [(0, 0)] * (input.ndim - rank)
        input = ACG.pad(input, [*lead, *((n // 2, n - n // 2) for n in total)])
        padding = 0
    return _batched(input, rank, lambda x: ACG.convolution(x, weight, bias, stride, padding, dilation, groups))


@aten("conv_transpose1d", "conv_transpose2d", "conv_transpose3d")
def conv_transpose(
    input: Any, weight: Any, bias: Any = None, stride: Any = 1, padding: Any = 0, output_padding: Any = 0,
    groups: int = 1, dilation: Any = 1,
) -> Any:  # fmt: skip
    return convolution(input, weight, bias, stride, padding, dilation, True, output_padding, groups)


def _max_pool(rank: int, indices: bool) -> Any:
    def apply(
        self: Any, kernel_size: Any, stride: Any = (), padding: Any = 0, dilation: Any = 1, ceil_mode: bool = False
    ) -> Any:
        values, positions = ACG.max_pool(self, kernel_size, stride, padding, dilation, ceil_mode, rank)
        return (values, positions) if indices else values

    return apply


def _avg_pool(rank: int) -> Any:
    def apply(
        self: Any, kernel_size: Any, stride: Any = (), padding: Any = 0, ceil_mode: bool = False,
        count_include_pad: bool = True, divisor_override: int | None = None,
    ) -> Any:  # fmt: skip
        return ACG.avg_pool(self, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override, rank)

    return apply


for _rank in (1, 2, 3):
    aten(f"max_pool{_rank}d")(_max_pool(_rank, False))
    aten(f"max_pool{_rank}d_with_indices")(_max_pool(_rank, True))
    aten(f"avg_pool{_rank}d")(_avg_pool(_rank))


def _adaptive(x: Any, size: Any, rank: int, reduce: Any) -> Any:
    """Window i of a dim of n elements is [floor(i n / o), ceil((i + 1) n / o)) for o windows."""
    counts = list(size) if isinstance(size, (list, tuple)) else [size] * rank
    for i, count in enumerate(counts):
        axis = x.ndim - rank + i
        if count is None:
            continue
        if isinstance(count, int) and count == 1:
            x = reduce(x, axis)
            continue
        n, count = int(x.shape[axis]), int(count)
        edges = [(j * n // count, -(-(j + 1) * n // count)) for j in range(count)]
        lead = (slice(None),) * axis
        x = ACG.concat([reduce(x[(*lead, slice(a, b))], axis) for a, b in edges], axis)
    return x


@aten(
    "adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d", "_adaptive_avg_pool2d", "_adaptive_avg_pool3d"
)
def adaptive_avg_pool(self: Any, output_size: Any) -> Any:
    return _adaptive(self, output_size, len(output_size), lambda x, axis: ACG.mean(x, axis, True))
