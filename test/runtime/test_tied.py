"""Arguments that a program updates in place, and calls that are prepared once and repeated."""

from __future__ import annotations

import gc
import threading
import time
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


def test_prepared_calls_read_what_arrays_hold_then(program: Executable) -> None:
    x, cache, other = np.ones(5, np.float32), zeros(5), zeros(3)
    prepared = program.prepare(x, cache, other)
    np.testing.assert_array_equal(cache, 0)  # nothing ran yet
    for step in (1, 10, 100):
        x[:] = step
        first, size, second = prepared()
        assert first is cache and second is other and size == [5]
    np.testing.assert_array_equal(cache, 111)
    # Other calls of the program have addresses of their own.
    another, third = zeros(4), zeros(5)
    beside = program.prepare(np.ones(4, np.float32), another, zeros(3))
    program(np.ones(5, np.float32), third, other)
    for _ in range(3):
        assert beside()[1] == [4]
        assert prepared()[1] == [5]
    np.testing.assert_array_equal(another, 3)
    np.testing.assert_array_equal(third, 1)
    np.testing.assert_array_equal(cache, 411)


def test_prepared_calls_keep_their_arrays(program: Executable) -> None:
    cache = zeros(5)
    alive = weakref.ref(cache)
    prepared = program.prepare(np.ones(5, np.float32), cache, zeros(3))
    del cache
    gc.collect()
    prepared()
    np.testing.assert_array_equal(alive(), 1)
    del prepared
    gc.collect()
    assert alive() is None


def test_prepared_errors(program: Executable) -> None:
    memory = zeros(20)
    with pytest.raises(InputError, match=r'argument 0 \("x"\): must be C-contiguous and aligned, got strides \(8,\)'):
        program.prepare(memory[:10:2], zeros(5), zeros(3))
    with pytest.raises(InputError, match="must not share memory"):
        program.prepare(memory[:5], memory[4:9], zeros(3))
    with pytest.raises(InputError, match="result 1 cannot stay on a GPU"):
        program.prepare(memory[:5], memory[5:10], zeros(3), out={1: zeros(1)})
    assert not memory.any()


# y[n] = w[1] * x[n]
SCALE = """
int32_t dsc_main(void *rt, void *const *b, const int64_t *dims) {
  for (int64_t i = 0; i < dims[0]; ++i) ((float *)b[2])[i] = ((float *)b[1])[0] * ((float *)b[0])[i];
  return 0;
}
void dsc_main_shapes(const int64_t *dims, int64_t *out) { out[0] = dims[0]; }
"""


@pytest.fixture
def scale(compile_c: Callable[..., bytes]) -> Executable:
    arguments = [argument("f32", ["n"], "x"), argument("f32", [1], kind="weight", weight="w")]
    program = Executable(compile_c(SCALE), manifest([symbol("n")], arguments, [result("f32", ["?"])]), threads=2)
    program.bind_weights({"w": np.full(1, 2, np.float32)})
    return program


@pytest.mark.parametrize("n", [1, 100, 1 << 15])  # results of their own memory, and of blocks that are used again
def test_results_of_prepared_calls_stay_where_they_are(scale: Executable, n: int) -> None:
    x = np.ones(n, np.float32)
    prepared = scale.prepare(x)
    (first,) = prepared()
    for step in range(1, 6):
        x[:] = step
        (found,) = prepared()
        assert found is first
        others = [scale(np.full(n, -1, np.float32))[0] for _ in range(3)]
        np.testing.assert_array_equal(first, 2 * step)
        assert not any(np.shares_memory(first, other) for other in others)


def test_prepared_calls_read_the_weights_that_were_bound(scale: Executable) -> None:
    x = np.ones(3, np.float32)
    prepared = scale.prepare(x)
    assert prepared.is_current
    scale.bind_weights({"w": np.full(1, 7, np.float32)})
    gc.collect()
    assert not prepared.is_current
    np.testing.assert_array_equal(prepared()[0], 2)
    np.testing.assert_array_equal(scale(x)[0], 7)
    assert scale.prepare(x).is_current


def test_weights_are_bound_while_a_call_waits(scale: Executable) -> None:
    """It reads those that it began with, or the new ones, but no freed memory."""
    found: list[np.ndarray] = []
    with scale.context.lock:
        thread = threading.Thread(target=lambda: found.append(scale(np.ones(3, np.float32))[0]))
        thread.start()
        time.sleep(0.05)
        scale.bind_weights({"w": np.full(1, 7, np.float32)})
    thread.join()
    assert found[0].tolist() in ([2, 2, 2], [7, 7, 7])
    np.testing.assert_array_equal(scale(np.ones(3, np.float32))[0], 7)
