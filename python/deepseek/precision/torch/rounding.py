"""Rounding of weights: to nearest, with searched scales, and with compensation of each column's error.

Compensated rounding is GPTQ (Frantar et al. 2023) on a Hessian whose tokens are weighted by the energy of the loss's
gradient: a plain one is dominated by the few tokens on which attention rests. Matrices of one shape go together, so
that a step of Python serves all layers.
"""

from __future__ import annotations

import torch
from torch import Tensor

from deepseek.formats import Format

__all__ = ["ROUNDINGS", "Rounded", "plain_error", "round_weights"]

ROUNDINGS = ("rtn", "mse-scale", "gptq", "awq")
"""awq is gptq of weights whose channels are scaled (`smoothing`), where a normalization can take the scales."""

_DAMPING = 0.01  # of the Hessian's mean diagonal, as in GPTQ
_BLOCK = 64  # columns whose errors are passed on together
# Scales that are tried, relative to the one that just holds the greatest magnitude.
_BYTE_STEPS = [0.75 + i / 32 for i in range(9)]
_NIBBLE_STEPS = [0.70 + i / 40 for i in range(19)]
_FLOAT_STEPS = [2.0 ** (i / 12) for i in range(12)]  # within one octave: floats have the same steps in the next


class Rounded:
    """Numbers that have codes [b, n, k] in units of their scales [b, n, blocks]."""

    def __init__(self, numbers: Tensor, scales: Tensor, form: Format) -> None:
        self.numbers, self.scales, self.form = numbers, scales, form

    @property
    def values(self) -> Tensor:
        """The weights that they stand for, f32 [b, n, k]."""
        return self.numbers * self.scales.repeat_interleave(self.form.elements, 2)


def round_weights(weights: Tensor, form: Format, method: str, hessian: Tensor | None = None) -> Rounded:
    """Rounds f32 weights [b, n, k] to `form` by a method of `ROUNDINGS`.

    `hessian` [b, k, k] weighs errors, for all but "rtn". The same bits for any number of threads when torch runs each
    operation on one.
    """
    if method == "rtn":
        return _nearest(weights, _scales(weights, form, None), form)
    scales = _scales(weights, form, _importance(hessian))
    if method == "mse-scale":
        return _nearest(weights, scales, form)
    order = hessian.diagonal(dim1=1, dim2=2).argsort(dim=1, descending=True, stable=True)
    numbers = _compensated(weights, scales, form, hessian, order)
    return Rounded(numbers, scales, form)


def plain_error(weights: Tensor, form: Format, hessian: Tensor) -> Tensor:
    """[b]: half of what the errors of the nearest numbers weigh, each by what is left of it when those of other
    columns make up for it: what `round_weights` can be expected to reach, at a small part of its time."""
    importance = _importance(hessian)
    rounded = _nearest(weights, _scales(weights, form, importance), form)
    return ((rounded.values - weights).square() * importance[:, None]).sum((1, 2)) / 2


def _importance(hessian: Tensor) -> Tensor:
    return _inverse_factor(hessian, None).diagonal(dim1=1, dim2=2) ** -2


def _codes(values: Tensor, form: Format) -> Tensor:
    """The nearest numbers that have a code, for values in units of the scale."""
    if form.codes.startswith("int"):
        return values.round().clamp_(form.lowest, form.largest)
    narrow = torch.float8_e4m3fn if form.codes == "fp8_e4m3" else torch.float8_e5m2
    return values.clamp(-form.largest, form.largest).to(narrow).float()


def _stored(scales: Tensor, form: Format) -> Tensor:
    """Scales as they are stored; 1 where there is nothing to scale."""
    kept = scales.half().float() if form.scale_bytes == 2 else scales
    return torch.where((kept != 0) & kept.isfinite(), kept, torch.ones(()))


def _scales(weights: Tensor, form: Format, importance: Tensor | None) -> Tensor:
    """Scales [b, n, blocks]: of the greatest magnitude, or those of least error under `importance` [b, k]."""
    b, n, k = weights.shape
    grouped = weights.view(b, n, k // form.elements, form.elements)
    if importance is None:
        return _stored(grouped.abs().amax(3) / form.largest, form)
    if form.codes in ("int4", "int5"):  # the longer side goes where codes reach one step further
        high, low = grouped.amax(3), grouped.amin(3)
        base = torch.where(high >= -low, high, low) / form.lowest
        steps = _NIBBLE_STEPS
    else:
        base = grouped.abs().amax(3) / form.largest
        steps = _BYTE_STEPS if form.codes == "int8" else _FLOAT_STEPS
    weighing = importance.view(b, 1, k // form.elements, form.elements)
    best = error = None
    for step in steps:
        scales = _stored(base * step, form)
        rounded = _codes(grouped / scales[..., None], form) * scales[..., None]
        found = ((rounded - grouped).square_() * weighing).sum(3)
        if best is None:
            best, error = scales, found
        else:
            better = found < error
            best, error = torch.where(better, scales, best), torch.where(better, found, error)
    return best


def _nearest(weights: Tensor, scales: Tensor, form: Format) -> Rounded:
    each = scales.repeat_interleave(form.elements, 2)
    return Rounded(_codes(weights / each, form), scales, form)


def _inverse_factor(hessian: Tensor, order: Tensor | None) -> Tensor:
    """The upper Cholesky factor of the damped Hessian's inverse, its columns in `order`."""
    b, k, _ = hessian.shape
    if order is not None:
        hessian = hessian.gather(1, order[:, :, None].expand(-1, -1, k))
        hessian = hessian.gather(2, order[:, None, :].expand(-1, k, -1))
    mean = hessian.diagonal(dim1=1, dim2=2).mean(1)
    # A Hessian of zeros (nothing reaches these weights) weighs all columns alike.
    damped = hessian + (_DAMPING * mean + (mean == 0)).view(b, 1, 1) * torch.eye(k)
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(damped))
    return torch.linalg.cholesky(inverse, upper=True)


def _compensated(weights: Tensor, scales: Tensor, form: Format, hessian: Tensor, order: Tensor) -> Tensor:
    """Numbers [b, n, k]: columns one after the other in `order`, each one's error taken up by those behind it."""
    b, n, k = weights.shape
    factor = _inverse_factor(hessian, order)
    rows = order[:, :, None].expand(-1, -1, n)
    left = weights.transpose(1, 2).gather(1, rows).contiguous()  # [b, k, n]: a column's weights are neighbours
    each = scales.repeat_interleave(form.elements, 2).transpose(1, 2).gather(1, rows).contiguous()
    numbers = torch.empty_like(left)
    for begin in range(0, k, _BLOCK):
        end = min(begin + _BLOCK, k)
        errors = torch.empty(b, end - begin, n)
        for j in range(begin, end):
            numbers[:, j] = _codes(left[:, j] / each[:, j], form)
            error = (left[:, j] - numbers[:, j] * each[:, j]) / factor[:, j, j, None]
            errors[:, j - begin] = error
            if j + 1 < end:
                left[:, j + 1 : end] -= factor[:, j, j + 1 : end, None] * error[:, None]
        if end < k:
            left[:, end:].baddbmm_(factor[:, begin:end, end:].transpose(1, 2), errors, alpha=-1)
    return torch.empty_like(numbers).scatter_(1, rows, numbers).transpose(1, 2).contiguous()
