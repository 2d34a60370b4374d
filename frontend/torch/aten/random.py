"""Random numbers of ATen: the distributions of torch, from a seed that is an argument of the program.

The numbers are not those of torch's generators.
"""

from __future__ import annotations

from typing import Any

from deepseek import ACG
from deepseek.acg import source

from ..randomness import draw
from ..registry import aten


def uniform_floats(shape: Any, dtype: Any = "float32") -> Any:
    seed, stream = draw()
    return ACG.random_uniform(seed, tuple(shape), dtype, stream)


def _normal(shape: Any, dtype: Any = "float32") -> Any:
    seed, stream = draw()
    return ACG.random_normal(seed, tuple(shape), dtype, stream)


def _integers(low: int, high: int, shape: Any, dtype: Any) -> Any:
    seed, stream = draw()
    return ACG.random_integers(seed, low, high, tuple(shape), "int64", stream).astype(dtype)


@aten("rand")
def rand(size: Any, *args: Any, dtype: Any = None, **options: Any) -> Any:
    return uniform_floats(size, dtype or "float32")


@aten("rand_like")
def rand_like(self: Any, *args: Any, dtype: Any = None, **options: Any) -> Any:
    return uniform_floats(self.shape, dtype or self.type)


@aten("randn")
def randn(size: Any, *args: Any, dtype: Any = None, **options: Any) -> Any:
    return _normal(size, dtype or "float32")


@aten("randn_like")
def randn_like(self: Any, *args: Any, dtype: Any = None, **options: Any) -> Any:
    return _normal(self.shape, dtype or self.type)


@aten("randint", "randint.default")
def randint(high: int, size: Any, *args: Any, dtype: Any = None, **options: Any) -> Any:
    return _integers(0, high, size, dtype or "int64")


@aten("randint.low", "randint.low_generator")
def randint_low(low: int, high: int, size: Any, *args: Any, dtype: Any = None, **options: Any) -> Any:
    return _integers(low, high, size, dtype or "int64")


@aten("randint_like")
def randint_like(self: Any, high: int, *args: Any, dtype: Any = None, **options: Any) -> Any:
    return _integers(0, high, self.shape, dtype or self.type)


@aten("randint_like.low_dtype")
def randint_like_low(self: Any, low: int, high: int, *args: Any, dtype: Any = None, **options: Any) -> Any:
    return _integers(low, high, self.shape, dtype or self.type)


@aten("randperm")
def randperm(n: Any, *args: Any, dtype: Any = None, **options: Any) -> Any:
    seed, stream = draw()
    bits = ACG.right_shift(ACG.random_bits(seed, (n,), stream), 1).astype("int64")
    return ACG.argsort(bits, 0).astype(dtype or "int64")


@aten("bernoulli", "bernoulli.Tensor")
def bernoulli(self: Any, p: Any = None, generator: Any = None) -> Any:
    chance = self if p is None else p
    return ACG.less(uniform_floats(self.shape), chance).astype(self.type)


@aten("uniform")
def uniform(self: Any, *bounds: Any, generator: Any = None, **named: Any) -> Any:
    low = bounds[0] if bounds else named.get("from", 0.0)
    high = bounds[1] if len(bounds) > 1 else named.get("to", 1.0)
    return ACG.add(ACG.multiply(uniform_floats(self.shape, self.type), high - low), low)


@aten("prims::_uniform_helper", "prims::uniform")
def uniform_helper(shape: Any, *args: Any, low: Any = 0.0, high: Any = 1.0, dtype: Any, **options: Any) -> Any:
    return ACG.add(ACG.multiply(uniform_floats(shape, dtype), high - low), low)


@aten("prims::normal")
def normal_of_shape(shape: Any, *args: Any, mean: Any = 0.0, std: Any = 1.0, dtype: Any, **options: Any) -> Any:
    return ACG.add(ACG.multiply(_normal(shape, dtype), std), mean)


@aten("normal_functional")
def normal_functional(self: Any, mean: float = 0.0, std: float = 1.0, generator: Any = None) -> Any:
    return ACG.add(ACG.multiply(_normal(self.shape, self.type), std), mean)


@aten("normal.float_float")
def normal_of_numbers(mean: float, std: float, size: Any, *args: Any, dtype: Any = None, **options: Any) -> Any:
    return ACG.add(ACG.multiply(_normal(size, dtype or "float32"), std), mean)


@aten("normal.Tensor_float", "normal.float_Tensor", "normal.Tensor_Tensor")
def normal_of_tensors(mean: Any, std: Any = 1.0, generator: Any = None) -> Any:
    like = ACG.add(mean, std)
    return ACG.add(ACG.multiply(_normal(like.shape, like.type), std), mean)


@aten("exponential")
def exponential(self: Any, lambd: float = 1.0, generator: Any = None) -> Any:
    return ACG.true_divide(ACG.negative(ACG.log(ACG.subtract(1.0, uniform_floats(self.shape, self.type)))), lambd)


@aten("multinomial")
def multinomial(self: Any, num_samples: int, replacement: bool = False, generator: Any = None) -> Any:
    """With replacement by the inverse of the running sum; without by the largest log p - log(-log u) (Gumbel 1954)."""
    if not replacement:
        noise = ACG.negative(ACG.log(ACG.negative(ACG.log(uniform_floats(self.shape, self.type)))))
        return ACG.topk(ACG.add(ACG.log(self), noise), num_samples, -1)[1]
    totals = ACG.cumsum(self, -1)
    picked = ACG.multiply(uniform_floats((*self.shape[:-1], num_samples), self.type), totals[..., -1:])
    passed = ACG.less_equal(ACG.expand_dims(totals, -2), ACG.expand_dims(picked, -1))
    return ACG.minimum(ACG.sum(passed.astype("int64"), -1), self.shape[-1] - 1)


def dropout_mask(shape: Any, p: float) -> Any:
    """True where an element stays."""
    return ACG.greater_equal(uniform_floats(shape), p)


@aten("dropout")
def dropout(input: Any, p: float, train: bool) -> Any:
    return native_dropout(input, p, train)[0]


@aten("feature_dropout")
def feature_dropout(input: Any, p: float, train: bool) -> Any:
    """Whole channels, [n, c, ..]."""
    if not train or p == 0:
        return input
    if input.ndim < 2:
        source.fail("feature_dropout needs a tensor of at least 2 dims")
    shape = (*input.shape[:2], *[1] * (input.ndim - 2))
    return _scaled(input, dropout_mask(shape, p), p)


def _scaled(input: Any, mask: Any, p: float) -> Any:
    return ACG.where(mask, ACG.multiply(input, 1 / (1 - p) if p < 1 else 0.0), 0.0).astype(input.type)


@aten("native_dropout")
def native_dropout(input: Any, p: float, train: bool | None) -> Any:
    if train is False or p == 0:
        return input, ACG.ones(input.shape, "bool")
    mask = dropout_mask(input.shape, p)
    return _scaled(input, mask, p), mask


@aten("rrelu_with_noise_functional")
def rrelu_with_noise_functional(
    self: Any, noise: Any, lower: float = 0.125, upper: float = 1 / 3, training: bool = False, generator: Any = None
) -> Any:
    slope: Any = (lower + upper) / 2
    if training:
        slope = ACG.add(ACG.multiply(uniform_floats(self.shape, self.type), upper - lower), lower)
    drawn = ACG.where(ACG.greater(self, 0), 1.0, slope)
    noise = ACG.broadcast_to(drawn, self.shape).astype(self.type) if training else noise
    return ACG.multiply(self, drawn).astype(self.type), noise


@aten("rrelu_with_noise")
def rrelu_with_noise(self: Any, noise: Any, *options: Any, **more: Any) -> Any:
    return rrelu_with_noise_functional(self, noise, *options, **more)[0]
