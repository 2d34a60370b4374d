"""Rounding: to nearest against numpy, compensated against what it promises."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from deepseek.formats import find_format
from deepseek.precision.torch.collect import one_thread_per_operation
from deepseek.precision.torch.rounding import round_weights

FORMATS = ["int8_row", "int8_g64", "q8_0", "q5_0", "q4_0", "int4_g64", "fp8_e4m3_row", "fp8_e5m2_row"]


def problem(columns: int = 192, seed: int = 0):
    """Weights [2, 40, k] and Hessians of related inputs [2, k, k]."""
    generator = torch.Generator().manual_seed(seed)
    weights = torch.randn(2, 40, columns, generator=generator) * 0.05
    mixing = torch.randn(2, columns, columns, generator=generator) * torch.logspace(0, -2, columns)[:, None]
    inputs = torch.randn(2, 500, columns, generator=generator) @ mixing
    return weights, inputs.mT @ inputs


def cost(weights, rounded, hessian) -> float:
    """The squared error of products, in float64."""
    difference = (rounded.values - weights).double()
    return float(((difference @ hessian.double()) * difference).sum())


@pytest.mark.parametrize("name", FORMATS)
def test_to_nearest_is_numpys(name):
    weights, _ = problem()
    form = find_format(name, 192)
    rounded = round_weights(weights, form, "rtn")
    w = weights.numpy().reshape(80, -1, form.elements)
    scales = form.round_scales(np.abs(w).max(-1) / np.float32(form.largest))
    expected = form.round_codes(w / scales[..., None]) * scales[..., None]
    assert np.array_equal(rounded.values.numpy().reshape(w.shape), expected)


@pytest.mark.parametrize("name", FORMATS)
def test_compensation_lowers_the_error_of_products(name):
    weights, hessian = problem()
    form = find_format(name, 192)
    costs = {m: cost(weights, round_weights(weights, form, m, hessian), hessian) for m in ("rtn", "mse-scale", "gptq")}
    assert costs["mse-scale"] <= costs["rtn"] * 1.05  # scales are chosen column by column, so luck may go against them
    assert costs["gptq"] < 0.6 * costs["rtn"]


@pytest.mark.parametrize("name", FORMATS)
def test_codes_are_those_of_the_format(name):
    """What is encoded decodes to the same values."""
    weights, hessian = problem()
    form = find_format(name, 192)
    rounded = round_weights(weights, form, "gptq", hessian)
    raw = form.encode(rounded.numbers[1].numpy(), rounded.scales[1].numpy())
    assert np.array_equal(form.decode(raw), rounded.values[1].numpy())


def test_the_bits_do_not_depend_on_threads():
    weights, hessian = problem()
    form = find_format("q4_0")
    found = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        with one_thread_per_operation():
            found.append(round_weights(weights, form, "gptq", hessian).values)
    assert torch.equal(*found)


def test_weights_that_nothing_reaches():
    weights, hessian = problem()
    hessian[0] = 0
    weights[1, 3] = 0
    rounded = round_weights(weights, find_format("q8_0"), "gptq", hessian)
    assert rounded.values.isfinite().all() and not rounded.values[1, 3].any()
    assert (rounded.values[0] - weights[0]).abs().max() < 0.05 * weights[0].abs().max()
