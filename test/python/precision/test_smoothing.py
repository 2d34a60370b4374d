"""Scales of channels: exact in what they leave unchanged, the best of those that are tried."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from deepseek.formats import find_format
from deepseek.precision.graph import operations_of
from deepseek.precision.groups import group_operations
from deepseek.precision.torch.rounding import plain_error, round_weights
from deepseek.precision.torch.smoothing import EXPONENTS, channel_scales, fold_into


def problem():
    """Weights [2, 24, 128] and Hessians of inputs whose every 16th channel is large, in the first matrix alone."""
    generator = torch.Generator().manual_seed(7)
    weights = torch.randn(2, 24, 128, generator=generator) * 0.1
    inputs = torch.randn(2, 400, 128, generator=generator)
    inputs[0, :, ::16] *= 40
    return weights, inputs


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_a_fold_changes_nothing(dtype):
    generator = torch.Generator().manual_seed(1)
    weight = torch.randn(64, generator=generator).to(dtype)
    weight[5], weight[6] = 0, -3
    wanted = torch.rand(64, generator=generator) * 5 + 0.1
    fold = fold_into((0.5, 0.0), wanted, {"n": weight})
    assert fold.values["n"].dtype == dtype
    products = fold.values["n"].double() * fold.scales.double()
    assert np.allclose(products.numpy(), weight.double().numpy(), rtol=2e-7, atol=0)
    steps = {torch.float32: 1e-6, torch.float16: 2e-3, torch.bfloat16: 1e-2}
    others = weight != 0
    assert np.allclose(fold.scales[others].numpy(), wanted[others].numpy(), rtol=steps[dtype])


def test_biases_are_scaled_where_they_can_be():
    weight, bias, scales = torch.ones(8), torch.arange(8.0), torch.full((8,), 3.0)
    fold = fold_into((0.5, 0.0), scales, {"n": weight, "b": bias})
    assert np.allclose((fold.values["b"] * fold.scales).numpy(), bias.numpy(), rtol=1e-6)
    assert fold_into((0.5, 0.0), scales, {"n": weight, "b": bias.bfloat16()}) is None


def test_nothing_overflows_in_a_narrow_type():
    weight = torch.tensor([6e4, 1.0, 1e-7], dtype=torch.float16)
    fold = fold_into((0.5, 0.0), torch.tensor([1e-2, 1.0, 64.0]), {"n": weight})
    assert fold.values["n"].isfinite().all() and fold.scales.isfinite().all()
    assert np.allclose((fold.values["n"].double() * fold.scales.double()).numpy(), weight.double().numpy(), rtol=2e-7)


def test_the_cheapest_scales_are_taken():
    weights, inputs = problem()
    hessian = inputs.mT @ inputs
    form = find_format("int4_g64", 128)
    for number, (exponents, scales, factor) in enumerate(channel_scales(weights, form, hessian)):
        costs = {}
        for a, b in EXPONENTS:
            x, w = inputs[number].double(), weights[number].double()
            tried = (x * x).sum(0).sqrt() ** a / w.abs().amax(0) ** b
            tried = tried / tried.log().mean().exp()
            hessian_of = (x / tried).mT @ (x / tried)
            costs[a, b] = float(plain_error((w * tried).float()[None], form, hessian_of.float()[None]))
            if (a, b) == exponents:
                assert np.allclose(scales.numpy(), tried.numpy(), rtol=1e-3)
        least = min(costs.values())
        assert costs[exponents] <= 1.001 * least or (not any(exponents) and costs[exponents] <= least / 0.949)
        assert factor == 1
        assert any(exponents) or number == 1


@pytest.mark.parametrize("name", ["int4_g64", "q4_0", "int8_row"])
def test_products_are_nearer_with_scales(name):
    """In float64, with compensated rounding on both sides."""
    weights, inputs = problem()
    form = find_format(name, 128)
    hessian = inputs.mT @ inputs
    exponents, scales, _ = channel_scales(weights, form, hessian)[0]
    assert any(exponents)
    x, w = inputs[0].double(), weights[0].double()

    def error(scales):
        scaled = hessian[:1] / (scales[:, None] * scales)
        rounded = round_weights(weights[:1] * scales, form, "awq", scaled).values[0].double() / scales.double()
        return float((x @ (rounded - w).mT).square().sum())

    assert error(scales) < 0.8 * error(torch.ones(128))


@pytest.mark.parametrize("group", [128, 64, 48])
def test_integer_inputs_lose_their_outliers(group):
    weights, inputs = problem()
    form = find_format("int8_row", 128)
    inputs[0, :, 64:] /= 40  # steps of the second block are small anyway
    peaks = inputs.abs().amax(1)
    steps = peaks, group, torch.tensor([1e6, 1e6])
    exponents, scales, factor = channel_scales(weights, form, inputs.mT @ inputs, steps)[0]
    assert any(exponents) and factor < 0.9

    def lost(s):
        """What rounding blocks of x / s to int8 does to products, in numpy."""
        x, w = (inputs[0] / s).double().numpy(), (weights[0] * s).double().numpy()
        found = np.zeros((len(x), len(w)))
        for begin in range(0, 128, group):
            part = x[:, begin : begin + group]
            step = np.abs(part).max(1, keepdims=True) / 127
            found += (np.round(part / step) * step - part) @ w[:, begin : begin + group].T
        return (found**2).sum()

    assert lost(scales) / lost(torch.ones(128)) == pytest.approx(factor, rel=0.7)  # of peaks and of what follows them


def test_a_matrix_that_cannot_be_judged_keeps_its_place():
    weights, inputs = problem()
    weights[1, 3, 3] = torch.nan
    found = channel_scales(weights, find_format("int4_g64", 128), inputs.mT @ inputs)
    assert [any(exponents) for exponents, _, _ in found] == [True, False]
    assert torch.equal(found[1][1], torch.ones(128))


NORM = "%n = dsc.rms_norm %x, %g {eps = 1.0e-5 : f64} : (tensor<?x32xf32>, tensor<32xf32>) -> tensor<?x32xf32>"
PRODUCT = "dsc.matmul %n, %{} {{transpose_rhs}} : (tensor<?x32xf32>, tensor<32x32xf32>) -> tensor<?x32xf32>"
SUM = "arith.addf %{}, %{} : tensor<{}x32xf32>"


def scaled_by(*body: str, last: str) -> set[tuple[str, ...]]:
    """What the decision groups of a program say; it normalizes x by g and has weights a and b."""
    arguments = ", ".join(f'%{name}: tensor<32x32xf32> {{dsc.weight = "{name}"}}' for name in "ab")
    norm = ", ".join(f'%{name}: tensor<32xf32> {{dsc.weight = "{name}"}}' for name in "gh")
    lines = "\n  ".join([NORM, *body, f"return %{last} : tensor<?x32xf32>"])
    text = f"func.func @main(%x: tensor<?x32xf32>, {norm}, {arguments}) -> tensor<?x32xf32> {{\n  {lines}\n}}"
    return {group.scaled_by for group in group_operations(operations_of(text))}


def test_normalizations_that_can_take_scales():
    one = "%p = " + PRODUCT.format("a")
    assert scaled_by(one, last="p") == {("g",)}
    assert scaled_by(one, "%q = " + PRODUCT.format("b"), "%r = " + SUM.format("p", "q", "?"), last="r") == {("g",)}


@pytest.mark.parametrize(
    "reader",
    [
        "%q = " + SUM.format("n", "p", "?"),  # the residual stream
        "%t = tensor.empty() : tensor<32x32xf32>\n  %c = linalg.add ins(%b, %b : tensor<32x32xf32>, tensor<32x32xf32>) "
        "outs(%t : tensor<32x32xf32>) -> tensor<32x32xf32>\n  %q = " + PRODUCT.format("c"),  # a computed weight
        "%c = " + SUM.format("a", "a", "32") + "\n  %q = dsc.matmul %x, %c {transpose_rhs} : (tensor<?x32xf32>, "
        "tensor<32x32xf32>) -> tensor<?x32xf32>",  # the weight elsewhere
        "%q = dsc.matmul %x, %a {transpose_rhs} : (tensor<?x32xf32>, tensor<32x32xf32>) -> tensor<?x32xf32>",  # unscaled
        "%q = dsc.rms_norm %p, %g {eps = 1.0e-5 : f64} : (tensor<?x32xf32>, tensor<32xf32>) -> tensor<?x32xf32>",
    ],
)
def test_others_that_read_it_forbid_scales(reader):
    one = "%p = " + PRODUCT.format("a")
    assert scaled_by(one, reader, "%r = " + SUM.format("p", "q", "?"), last="r") == {()}
