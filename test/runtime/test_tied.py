"""Arguments that a program updates in place, given anew in each call or held over several."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable

import numpy as np
import pytest
from manifests import argument, manifest, result, symbol

from deepseek.errors import InputError
from deepseek.executable import Executable

# cache[n] += x[n], and a fresh result: the size of the cache
TIED = """
int32_t dsc_main(void *rt, void *const *b, const int64_t *dims) {
  for (int64_t i = 0; i < dims[0]; ++i) ((float *)b[1])[i] += ((float *)b[0])[i];
  ((int64_t *)b[3])[0] = dims[0];
  return 0;
}
void dsc_main_shapes(const int64_t *dims, int64_t *out) { out[0] = dims[0]; out[1] = dims[1]; }
"""
TIED_MANIFEST = manifest(
    [symbol("n"), symbol("m")],
    [
        argument("f32", ["n"], "x"),
        argument("f32", ["n"], "cache", tied=True),
        argument("f32", ["m"], "other", tied=True),
    ],
    [
        result("f32", ["?"], "cache", tied=1),
        result("i64", [1], "size"),
        result("f32", ["?"], "other", tied=2),
    ],
)


@pytest.fixture
def program(compile_c: Callable[..., bytes]) -> Executable:
    return Executable(compile_c(TIED), TIED_MANIFEST, threads=2)


def zeros(*shape: int) -> np.ndarray:
    return np.zeros(shape, np.float32)


def test_tied_inputs_are_updated_in_place(program: Executable) -> None:
    x, cache, other = np.ones(5, np.float32), zeros(5), zeros(3)
    for step in range(1, 4):
        first, size, second = program(x, cache, other)
        assert first is cache
        assert second is other
        np.testing.assert_array_equal(cache, step)
        assert size == [5]
    np.testing.assert_array_equal(x, 1)


def test_tied_errors(program: Executable) -> None:
    x, memory = np.ones(5, np.float32), zeros(20)
    frozen = zeros(5)
    frozen.flags.writeable = False
    place = "is updated in place and must"
    for inputs, message in [
        ((x, memory[:10:2], zeros(3)), f'argument 1 ("cache"): {place} be C-contiguous and aligned, got shape (5,) '
                                       "with strides (8,)"),
        ((x, frozen, zeros(3)), f'argument 1 ("cache"): {place} be writable, got a read-only array'),
        ((x, memory[:5], memory[4:8]), f'argument 2 ("other"): {place} not share memory with argument 1 ("cache")'),
        ((memory[3:8], memory[:5], zeros(3)), f'argument 1 ("cache"): {place} not share memory with argument 0 ("x")'),
        ((memory[:5], memory[3:8], zeros(3)), f'argument 1 ("cache"): {place} not share memory with argument 0 ("x")'),
        ((memory[:5], memory[:5], zeros(3)), f'argument 1 ("cache"): {place} not share memory with argument 0 ("x")'),
    ]:  # fmt: skip
        with pytest.raises(InputError) as caught:
            program(*inputs)
        assert str(caught.value) == message
    assert program(memory[:5], memory[5:10], memory[10:12])[0].base is memory  # neighbours are fine


def test_held_arguments_are_updated_in_place(program: Executable) -> None:
    x, cache, other = np.ones(5, np.float32), zeros(5), zeros(3)
    held = program.hold(1, [cache, other])
    for step in range(1, 4):
        (size,) = program(x, held)  # without the held ones
        np.testing.assert_array_equal(cache, step)
        assert size == [5]
    program(x, second := zeros(5), zeros(3))  # another call leaves other addresses in the buffers
    program(x, held)
    np.testing.assert_array_equal(second, 1)
    np.testing.assert_array_equal(cache, 4)
    third = zeros(5)
    both = [program.hold(1, [cache, other]), program.hold(1, [third, zeros(3)])]
    for step in range(1, 4):
        for each in both:
            program(x, each)
        np.testing.assert_array_equal(third, step)
        np.testing.assert_array_equal(cache, 4 + step)


@pytest.mark.parametrize(("first", "results"), [(1, ["size", "other"]), (2, ["cache", "size"])])
def test_some_of_the_arguments_are_held(program: Executable, first: int, results: list[str]) -> None:
    given = [np.ones(5, np.float32), zeros(5), zeros(3)]
    held = program.hold(first, given[first : first + 1])
    for step in range(1, 4):
        found = dict(zip(results, program(*given[:first], held, *given[first + 1 :]), strict=True))
        assert found["size"] == [5]
        for name, array in (("cache", given[1]), ("other", given[2])):
            assert name not in found or found[name] is array
        np.testing.assert_array_equal(given[1], step)


def test_held_arguments_live_as_long_as_they_are_held(program: Executable) -> None:
    cache = zeros(5)
    alive = weakref.ref(cache)
    held = program.hold(1, [cache, zeros(3)])
    del cache
    gc.collect()
    program(np.ones(5, np.float32), held)
    assert alive() is not None
    np.testing.assert_array_equal(alive(), 1)
    del held
    gc.collect()
    assert alive() is None  # the program refers to what it last ran on, but does not keep it


def test_held_errors(program: Executable, compile_c: Callable[..., bytes]) -> None:
    x, memory = np.ones(5, np.float32), zeros(20)
    for first, arrays, message in [
        (0, [x], 'argument 0 ("x"): is not updated in place and cannot be held'),
        (2, [memory[:3], memory[5:8]], "arguments 2 to 3 cannot be held: there are 3"),
        (1, [], "arguments 1 to 0 cannot be held: there are 3"),
        (-1, [memory], "arguments -1 to -1 cannot be held: there are 3"),
        (1, [memory[:5], memory[4:7]], 'argument 2 ("other"): is updated in place and must not share memory with '
                                       'argument 1 ("cache")'),
        (1, [memory[:5].astype("f8")], 'argument 1 ("cache"): dtype must be float32, got float64'),
    ]:  # fmt: skip
        with pytest.raises(InputError) as caught:
            program.hold(first, arrays)
        assert str(caught.value) == message
    held, part = program.hold(1, [memory[:5], memory[7:10]]), program.hold(1, [memory[:5]])
    stranger = Executable(compile_c(TIED), TIED_MANIFEST).hold(1, [memory[:5], memory[7:10]])
    shared = "is updated in place and must not share memory with"
    for inputs, message in [
        ((held,), 'held arguments must stand in the place of argument 1 ("cache")'),
        ((held, x), 'held arguments must stand in the place of argument 1 ("cache")'),
        ((x, held, x), 'expected 1 arguments beside the held ones (argument 0 ("x")), got 2'),
        ((x, part, held), 'argument 2 ("other"): must be a numpy array, got Held'),
        ((x, stranger), "held arguments belong to another program"),
        ((memory[2:7], held), f'argument 1 ("cache"): {shared} argument 0 ("x")'),
        ((memory[5:10], held), f'argument 2 ("other"): {shared} argument 0 ("x")'),
        ((memory[0:5], held), f'argument 1 ("cache"): {shared} argument 0 ("x")'),
        ((x, part, memory[3:8]), f'argument 1 ("cache"): {shared} argument 2 ("other")'),
        ((np.ones(4, np.float32), held), 'argument 1 ("cache"): dim 0 is "n" = 4 from argument 0 ("x"), got 5'),
    ]:
        with pytest.raises(InputError) as caught:
            program(*inputs)
        assert str(caught.value) == message
    assert not memory.any()
    program(memory[10:15], held)  # apart is fine
