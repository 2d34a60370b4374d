"""Scales of channels that move between a normalization and the products behind it, which leaves what they compute as
it is.

A product's weights W [out, in] become W diag(s), the normalization's weight n becomes n / s. Large s where inputs are
large protects the columns that matter (AWQ, Lin et al. 2024, section 3.2); where activations are rounded too, it takes
the outliers out of them (SmoothQuant, Xiao et al. 2023, section 4).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from deepseek.formats import Format
from deepseek.precision.torch.rounding import plain_error

__all__ = ["EXPONENTS", "Fold", "channel_scales", "fold_into"]

EXPONENTS = ((0.0, 0.0), (0.25, 0.0), (0.5, 0.0), (0.75, 0.0), (0.5, 0.5))
"""(a, b) that are tried: scales are (root mean square of the inputs)^a / (greatest weight of the column)^b. b = 0 is
AWQ's rule, (0.5, 0.5) is SmoothQuant's with its strength of 0.5."""

_WORTH = 0.95  # scales are taken if what is left of the error is less: rounding another text's luck is not
_SPAN = 64.0  # a channel's scale and the mean one differ by at most this factor either way


@dataclass(frozen=True)
class Fold:
    """A decision for one group: `exponents` of `EXPONENTS`, `scales` [in], and `values` [in], by name, of the
    normalization's weight and bias, as they are stored from then on."""

    exponents: tuple[float, float]
    scales: Tensor
    values: dict[str, Tensor]


def channel_scales(
    weights: Tensor, form: Format, hessian: Tensor, steps: tuple[Tensor, int, Tensor] | None = None
) -> list[tuple[tuple[float, float], Tensor, float]]:
    """For every matrix of `weights` [b, n, k]: the exponents whose scales [k] cost least under `hessian` [b, k, k],
    and by what factor they change what rounding the inputs to integers costs.

    `steps` says of inputs that are: the greatest magnitude of each channel [b, k], how many channels share a step,
    which follows the greatest of them, and that cost [b]. Without it the factor is 1.
    """
    mean_squares = hessian.diagonal(dim1=1, dim2=2)
    tops, norms = weights.abs().amax(1), weights.square().sum(1)
    best = [(EXPONENTS[0], torch.ones(weights.shape[2]), 1.0)] * len(weights)
    least = torch.full((len(weights),), torch.inf)
    for exponents in EXPONENTS:
        scales = _normalized(mean_squares.sqrt(), exponents[0]) / _normalized(tops, exponents[1])
        scales = scales.clamp(1 / _SPAN, _SPAN)
        inverse = 1 / scales
        error = plain_error(weights * scales[:, None], form, hessian * inverse[:, :, None] * inverse[:, None, :])
        factors = torch.ones(len(weights))
        if steps is not None:
            peaks, group, cost = steps
            before = _stepped(peaks, norms, group)
            after = _stepped(peaks * inverse, norms * scales.square(), group)
            factors = torch.where(before > 0, after / before, factors)
            error = error + cost * factors
        for number in torch.nonzero(error < least)[:, 0].tolist():
            best[number] = (exponents, scales[number], float(factors[number]))
        least = torch.minimum(least, error if any(exponents) else error * _WORTH)
    return best


def fold_into(exponents: tuple[float, float], scales: Tensor, kept: dict[str, Tensor]) -> Fold | None:
    """The fold of `scales` [k] into `kept`, the weight and bias of a normalization in the types that they are stored
    in.

    The weight is rounded to its type first and the scales follow it, so nothing is lost; a bias narrower than f32
    would lose something, and then there is no fold.
    """
    (name, weight), *biases = kept.items()
    if any(bias.dtype != torch.float32 for _, bias in biases):
        return None
    narrow = (weight.float() / scales).to(weight.dtype)
    exact = weight.float() / narrow.float()
    usable = exact.isfinite() & (exact > 0)
    scales = torch.where(usable, exact, torch.ones(()))
    values = {name: torch.where(usable, narrow, weight)}
    values.update((bias, value / scales) for bias, value in biases)
    return Fold(exponents, scales, values)


def _stepped(peaks: Tensor, norms: Tensor, group: int) -> Tensor:
    """[b], to a common factor: what steps by the greatest of each `group` channels cost under squared weights `norms`
    [b, k]."""
    b, k = peaks.shape
    padded = (torch.nn.functional.pad(x, (0, -k % group)).view(b, -1, group) for x in (peaks, norms))
    blocks, squares = padded
    return (blocks.amax(2).square() * squares.sum(2)).sum(1)


def _normalized(x: Tensor, power: float) -> Tensor:
    """x [b, k] to a power, around a geometric mean of 1; 1 where x is 0."""
    logs = torch.where(x > 0, x, torch.ones(())).log() * power
    return (logs - logs.mean(1, keepdim=True)).exp()
