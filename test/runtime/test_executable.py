"""Executable on objects written in C to the object ABI: signatures, weights, tied inputs, errors."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from manifests import argument, manifest, result, symbol

from deepseek import signature
from deepseek.errors import ExecutionError, InputError
from deepseek.executable import Executable

Build = Callable[..., Executable]

LAUNCH = """
typedef void (*kernel)(void *const *, const int64_t *, int64_t, int64_t);
extern void dsc_rt_launch(void *, kernel, void *const *, const int64_t *, int64_t, int32_t);
extern void *dsc_rt_arena(void *, int64_t);
"""

# z[n, 4] = x[n, 4] * 2 + y[n, 4]; s[] = the sum of all, computed in 64-bit
AXPY = (
    LAUNCH
    + """
static void row(void *const *b, const int64_t *dims, int64_t begin, int64_t end) {
  for (int64_t i = begin * 4; i < end * 4; ++i) ((float *)b[2])[i] = ((float *)b[0])[i] * 2.0f + ((float *)b[1])[i];
}
int32_t dsc_main(void *rt, void *const *b, const int64_t *dims) {
  dsc_rt_launch(rt, row, b, dims, dims[0], 0);
  double sum = 0;
  for (int64_t i = 0; i < dims[0] * 4; ++i) sum += ((float *)b[2])[i];
  ((float *)b[3])[0] = (float)sum;
  return 0;
}
void dsc_main_shapes(const int64_t *dims, int64_t *out) { out[0] = dims[0]; }
"""
)


AXPY_MANIFEST = manifest(
    [symbol("n", max=1000, divisor=2)],
    [argument("f32", ["n", 4], "x"), argument("f32", ["n", 4], "y")],
    [result("f32", ["?", 4], "z"), result("f32", [], "s")],
)


@pytest.fixture
def build(compile_c: Callable[..., bytes]) -> Build:
    def make(source: str, description: dict[str, Any], threads: int = 2) -> Executable:
        return Executable(compile_c(source), description, threads=threads)

    return make


@pytest.fixture
def axpy(build: Build) -> Executable:
    return build(AXPY, AXPY_MANIFEST)


def pair(n: int) -> tuple[np.ndarray, np.ndarray]:
    values = np.random.default_rng(n).standard_normal((2, n, 4)).astype(np.float32)
    return values[0], values[1]


def address(array: np.ndarray) -> int:
    return array.__array_interface__["data"][0]


@pytest.mark.parametrize("n", [0, 2, 100, 1000])
def test_call(axpy: Executable, n: int) -> None:
    x, y = pair(n)
    for _ in range(2):  # the second call takes the remembered binding
        z, s = axpy(x, y)
        np.testing.assert_array_equal(z, x * np.float32(2) + y)
        assert s.shape == ()
        np.testing.assert_allclose(s, z.sum(dtype=np.float64), rtol=1e-6)


def test_results_are_fresh_and_aligned(axpy: Executable) -> None:
    x, y = pair(8)
    calls = [axpy(x, y) for _ in range(10)]
    arrays = [array for results in calls for array in results]
    assert all(address(array) % 64 == 0 and array.flags.c_contiguous and array.flags.writeable for array in arrays)
    for index, array in enumerate(arrays):
        others = [x, y, *arrays[:index]]
        assert not any(np.shares_memory(array, other) for other in others)


def test_inputs_of_any_layout(axpy: Executable) -> None:
    x, y = pair(6)
    expected = x * np.float32(2) + y
    wide = np.zeros((12, 8), np.float32)
    wide[::2, ::2] = x
    unaligned = np.zeros(x.nbytes + 1, np.uint8)[1:].view(np.float32).reshape(x.shape)
    unaligned[...] = y
    read_only = x.copy()
    read_only.flags.writeable = False
    for first, second in [
        (wide[::2, ::2], y),
        (np.asfortranarray(x), y[::-1][::-1]),
        (read_only, unaligned),
        (x.view(np.memmap), y),
    ]:
        before = first.copy()
        np.testing.assert_array_equal(axpy(first, second)[0], expected)
        np.testing.assert_array_equal(first, before)


def zeros(*shape: int, dtype: str = "f4") -> np.ndarray:
    return np.zeros(shape, dtype)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ((zeros(2, 4),), 'expected 2 arguments (argument 0 ("x"), argument 1 ("y")), got 1'),
        (([[1.0]], zeros(2, 4)), 'argument 0 ("x"): must be a numpy array, got list'),
        ((zeros(2, 4), 3.0), 'argument 1 ("y"): must be a numpy array, got float'),
        ((zeros(2, 4), zeros(2, 4, dtype="f8")), 'argument 1 ("y"): dtype must be float32, got float64'),
        ((zeros(2, 4, dtype=">f4"), zeros(2, 4)), 'argument 0 ("x"): dtype must be float32, got >f4'),
        ((zeros(2, 4, 1), zeros(2, 4)), 'argument 0 ("x"): must have 2 dims ["n", 4], got (2, 4, 1)'),
        ((zeros(2, 5), zeros(2, 4)), 'argument 0 ("x"): dim 1 must be 4, got 5'),
        (
            (zeros(100, 4), zeros(98, 4)),
            'argument 1 ("y"): dim 0 is "n" = 100 from argument 0 ("x"), got 98',
        ),
        (
            (zeros(1002, 4), zeros(1002, 4)),
            'argument 0 ("x"): dim 0 is "n", which must be at most 1000, got 1002',
        ),
        ((zeros(3, 4), zeros(3, 4)), 'argument 0 ("x"): dim 0 is "n", which must be a multiple of 2, got 3'),
    ],
)
def test_input_errors(axpy: Executable, inputs: tuple, message: str) -> None:
    for _ in range(2):  # a refused shape is not remembered as good
        with pytest.raises(InputError) as caught:
            axpy(*inputs)
        assert str(caught.value) == message
    x, y = pair(2)
    np.testing.assert_array_equal(axpy(x, y)[0], x * np.float32(2) + y)


NOTHING = """
int32_t dsc_main(void *rt, void *const *b, const int64_t *dims) { return 0; }
void dsc_main_shapes(const int64_t *dims, int64_t *out) {}
"""


def test_square_and_minimum_errors(build: Build) -> None:
    square = build(NOTHING, manifest([symbol("n", min=2)], [argument("i32", ["n", "n"])], []))
    assert square(np.zeros((2, 2), np.int32)) == ()
    for shape, message in [
        ((3, 4), 'argument 0: dim 1 is "n" = 3 from dim 0, got 4'),
        ((1, 1), 'argument 0: dim 0 is "n", which must be at least 2, got 1'),
    ]:
        with pytest.raises(InputError) as caught:
            square(np.zeros(shape, np.int32))
        assert str(caught.value) == message


COPY = """
static void copy(char *to, const char *from, int64_t bytes) { while (bytes-- > 0) *to++ = *from++; }
int32_t dsc_main(void *rt, void *const *b, const int64_t *dims) {
  copy(b[1], b[0], dims[0] * WIDTH);
  return 0;
}
void dsc_main_shapes(const int64_t *dims, int64_t *out) { out[0] = dims[0]; }
"""


@pytest.mark.parametrize(
    ("name", "unsigned", "dtype"),
    [
        ("f64", False, "float64"),
        ("f32", False, "float32"),
        ("f16", False, "float16"),
        ("bf16", False, ml_dtypes.bfloat16),
        ("i64", False, "int64"),
        ("i64", True, "uint64"),
        ("i32", True, "uint32"),
        ("i16", False, "int16"),
        ("i16", True, "uint16"),
        ("i8", False, "int8"),
        ("i8", True, "uint8"),
        ("i1", False, "bool"),
    ],
)
def test_dtypes(compile_c: Callable[..., bytes], name: str, unsigned: bool, dtype: Any) -> None:
    dtype = np.dtype(dtype)
    object = compile_c(COPY, f"-DWIDTH={dtype.itemsize}")
    arguments, results = [argument(name, ["n"], unsigned=unsigned)], [result(name, ["n"], unsigned=unsigned)]
    x = np.arange(5).astype(dtype)
    (y,) = Executable(object, manifest([symbol("n")], arguments, results), threads=1)(x)
    assert y.dtype == dtype
    np.testing.assert_array_equal(y, x)


def test_bfloat16_without_ml_dtypes(build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ml_dtypes", None)
    description = manifest([symbol("n")], [argument("bf16", ["n"], "x")], [])
    with pytest.raises(ExecutionError, match="argument 0 .* is bfloat16.* pip install ml_dtypes"):
        build(NOTHING, description)


# prepared[i] = raw[i] * 0.5; out[n] = x[n] * prepared[n % 3] + bias[n % 3]
WEIGHTS = """
int32_t dsc_init(void *rt, void *const *b, const int64_t *dims) {
  for (int i = 0; i < 3; ++i) ((float *)b[1])[i] = ((int8_t *)b[0])[i] * 0.5f;
  return ((int8_t *)b[0])[0] == 99;
}
int32_t dsc_main(void *rt, void *const *b, const int64_t *dims) {
  const float *prepared = b[0], *x = b[1], *bias = b[2];
  for (int64_t i = 0; i < dims[0]; ++i) ((float *)b[3])[i] = x[i] * prepared[i % 3] + bias[i % 3];
  return 0;
}
void dsc_main_shapes(const int64_t *dims, int64_t *out) { out[0] = dims[0]; }
"""
WEIGHTS_MANIFEST = manifest(
    [symbol("n")],
    [
        argument("f32", [3], kind="prepared", prepared=0),
        argument("f32", ["n"], "x"),
        argument("f32", [3], kind="weight", weight="bias"),
    ],
    [result("f32", ["?"])],
    init={
        "args": [argument("i8", [3], kind="weight", weight="raw")],
        "results": [{"shape": [3], "dtype": "f32"}],
    },
)


def test_weights(build: Build) -> None:
    program = build(WEIGHTS, WEIGHTS_MANIFEST)
    x, bias = np.arange(7, dtype=np.float32), np.array([1, 2, 3], np.float32)
    with pytest.raises(ExecutionError, match="call bind_weights first"):
        program(x)
    for raw in (
        np.array([2, 4, -6], np.int8),
        np.array([2, 4, 250], np.uint8),
        np.array([2, 0, 4, 0, -6], np.int8)[::2],
    ):
        program.bind_weights({"raw": raw, "bias": bias, "unused": x})
        expected = x * np.array([1, 2, -3], np.float32)[np.arange(7) % 3] + bias[np.arange(7) % 3]
        np.testing.assert_array_equal(program(x)[0], expected)
    assert address(program._weights.kept[0]) % 64 == 0


@pytest.mark.parametrize(
    ("weights", "error", "message"),
    [
        ({}, InputError, 'weight "bias" and 1 more missing from the 0 weights given'),
        ({"bias": zeros(3)}, InputError, 'weight "raw" missing from the 1 weights given'),
        ({"bias": zeros(2), "raw": zeros(3)}, InputError, 'weight "bias" must have shape (3,), got (2,)'),
        ({"bias": zeros(3), "raw": zeros(3)}, InputError, 'weight "raw" must have dtype i8, got float32'),
        (
            {"bias": zeros(3, dtype="f8"), "raw": zeros(3, dtype="i1")},
            InputError,
            'weight "bias" must have dtype f32, got float64',
        ),
        (
            {"bias": [1], "raw": zeros(3, dtype="i1")},
            InputError,
            'weight "bias" must be a numpy array, got list',
        ),
        (
            {"bias": zeros(3), "raw": np.full(3, 99, np.int8)},
            ExecutionError,
            "out of memory while preparing the weights",
        ),
    ],
)
def test_weight_errors(build: Build, weights: dict, error: type, message: str) -> None:
    program = build(WEIGHTS, WEIGHTS_MANIFEST)
    with pytest.raises(error) as caught:
        program.bind_weights(weights)
    assert str(caught.value) == message


def test_out_of_memory(build: Build) -> None:
    failing = "int32_t dsc_main(void *rt, void *const *b, const int64_t *d) { return 1; }"
    with pytest.raises(ExecutionError, match="out of memory while running the program"):
        build(failing, manifest([], [], []))()
    huge = NOTHING.replace("{}", "{ out[0] = 1ll << 50; }")
    with pytest.raises(ExecutionError, match=r"out of memory for a result of shape \(1125899906842624,\)"):
        build(huge, manifest([], [], [result("f32", ["?"])]))()


def test_features_are_checked_before_loading() -> None:
    description = manifest([], [], [], features=["zvkned", "avx99"])
    with pytest.raises(ExecutionError, match=r"lacks avx99, zvkned,.*\(cpu:test\).*--target cpu:x86-64-v3"):
        Executable(b"no object", description)


def test_manifest_errors(build: Build) -> None:
    with pytest.raises(ExecutionError, match="manifest version 2, this package reads 1"):
        Executable(b"", {**manifest([], [], []), "version": 2})
    with pytest.raises(ExecutionError, match='does not define "dsc_main"'):
        build("int x;", manifest([], [], []))
    with pytest.raises(ExecutionError, match='no argument gives the size of "n"'):
        build(NOTHING, manifest([symbol("n")], [], []))()


def test_threads_take_turns(axpy: Executable) -> None:
    failures = []

    def work(n: int) -> None:
        x, y = pair(n)
        expected = x * np.float32(2) + y
        for _ in range(200):
            if not np.array_equal(axpy(x, y)[0], expected):
                failures.append(n)

    workers = [threading.Thread(target=work, args=(n,)) for n in (2, 50, 400)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert failures == []


def test_interrupt_leaves_it_usable(axpy: Executable) -> None:
    x, y = pair(100)
    expected = x * np.float32(2) + y
    previous = signal.signal(signal.SIGALRM, signal.default_int_handler)
    interrupts = 0
    try:
        for _ in range(30):
            signal.setitimer(signal.ITIMER_REAL, 0.002)
            try:
                while True:
                    axpy(x, y)
            except KeyboardInterrupt:
                interrupts += 1
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
    assert interrupts == 30
    assert not axpy.context.lock.locked()
    np.testing.assert_array_equal(axpy(x, y)[0], expected)


def test_remembered_bindings_are_bounded(build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signature, "_MAX_BINDINGS", 4)
    program = build(AXPY, AXPY_MANIFEST)
    for n in range(2, 40, 2):
        program(*pair(n))
        assert len(program._signature._bindings) <= 4


def test_profile(axpy: Executable) -> None:
    with axpy.context.profile(1) as profile:
        axpy(*pair(1000))
    assert profile.nanoseconds(1)[0] > 0
