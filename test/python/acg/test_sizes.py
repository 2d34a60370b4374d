"""Symbolic sizes: canonical arithmetic equals integer arithmetic, and what is learned stays true."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from deepseek.acg import sizes
from deepseek.acg.dims import Dims
from deepseek.acg.sizes import Size
from deepseek.acg.symint import SymInt

NAMES = ("a", "b", "c")
NUMBERS = st.tuples(*[st.integers(0, 40)] * 3)
EXPRESSIONS = st.recursive(
    st.sampled_from(NAMES) | st.integers(-5, 20),
    lambda inner: st.tuples(st.sampled_from(("+", "-", "*", "//", "%", "min", "max")), inner, inner),
    max_leaves=8,
)


def build(tree: object, symbols: dict[str, sizes.Symbol], value: dict[str, int]) -> tuple[Size, int]:
    """The symbolic and the numeric value; a divisor that is not positive is replaced by 3."""
    if isinstance(tree, int):
        return tree, tree
    if isinstance(tree, str):
        return sizes.of(symbols[tree]), value[tree]
    op, left, right = tree
    (x, m), (y, n) = build(left, symbols, value), build(right, symbols, value)
    if op in ("//", "%") and n <= 0:
        y, n = 3, 3
    if op in "+-*":
        return {"+": sizes.add, "-": sizes.sub, "*": sizes.mul}[op](x, y), {"+": m + n, "-": m - n, "*": m * n}[op]
    return sizes.call(op, x, y), {"//": lambda: m // n, "%": lambda: m % n, "min": lambda: min(m, n)}.get(
        op, lambda: max(m, n)
    )()


@given(EXPRESSIONS, NUMBERS)
def test_arithmetic(tree: object, numbers: tuple[int, ...]) -> None:
    value = dict(zip(NAMES, numbers))
    symbols = {name: sizes.Symbol(name) for name in NAMES}
    size, expected = build(tree, symbols, value)
    assert sizes.evaluate(size, lambda s: value[s.name]) == expected
    assert sizes.from_json(sizes.to_json(size), symbols) == size


@given(EXPRESSIONS, EXPRESSIONS, NUMBERS, NUMBERS)
def test_guards_reproduce_the_answers(
    first: object, second: object, example: tuple[int, ...], other: tuple[int, ...]
) -> None:
    """Sizes for which all guards hold give the answers of the example."""
    dims = Dims()
    value = dict(zip(NAMES, example))
    symbols = {name: dims.new(name, hint=n) for name, n in value.items()}
    (x, m), (y, n) = build(first, symbols, value), build(second, symbols, value)
    assert dims.at_least(x, y) == (m >= n)
    assert dims.equal(x, y) == (m == n)
    assert (SymInt(dims, x) < SymInt(dims, y)) == (m < n)

    def at(symbol: sizes.Symbol) -> int:
        return dict(zip(NAMES, other))[symbol.name]

    assert all(guard.holds(lambda s: value[s.name]) for guard in dims.guards)
    low, high = dims.bounds(dims.resolve(x))
    assert low <= m <= high
    assert sizes.evaluate(dims.resolve(x), lambda s: value[s.name]) == m
    try:
        same = all(guard.holds(at) for guard in dims.guards)
        u, v = sizes.evaluate(x, at), sizes.evaluate(y, at)
    except ZeroDivisionError:
        return
    if same:
        assert (u >= v) == (m >= n) and (u == v) == (m == n)
        assert sizes.evaluate(dims.resolve(x), at) == u
