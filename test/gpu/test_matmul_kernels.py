"""Kernels that are right, and what the emulator says when a line of them is taken out.

PTX of our own compiler is changed as text: a barrier, a wait or an arrival less, another swizzle. Each must show as an
error that names the trouble, or as wrong numbers where nothing else can know.
"""

from __future__ import annotations

import re

import ml_dtypes
import numpy as np
import pytest
from ptx import Kernel, PtxError, TensorMap

from deepseek.compiler import compile_text
from deepseek.executable import Executable
from gpu.programs import attention, kernels, matmul
from gpu.virtual_gpu import VirtualGpu

BF16 = ml_dtypes.bfloat16
BLOCK_ROWS = 128
DEPTH = 64  # of a slice
MOST_SHARED = 227 << 10  # bytes


def threads_of(ptx: str) -> int:
    return int(re.search(r"\.reqntid (\d+)", ptx).group(1))


def random(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.standard_normal(shape).astype(BF16)


def relative_error(actual: np.ndarray, wanted: np.ndarray) -> float:
    return float(np.abs(actual.astype(np.float64) - wanted).max() / np.abs(wanted).max())


def run_hopper(
    ptx: str,
    rows: int,
    columns: int,
    depth: int,
    block_columns: int,
    *,
    cluster: int = 1,
    swizzle: int = 128,
    result: type = np.float32,
) -> float:
    """The product by wgmma on two blocks or two clusters, which take tiles in turns; the error relative to float64."""
    rng = np.random.default_rng(0)
    x, w = random(rng, rows, depth), random(rng, columns, depth)
    guarded = np.full(rows * columns + 4096, np.nan, result)  # what lies behind the result stays as it is
    y = guarded[: rows * columns].reshape(rows, columns)

    def tensor_map(array: np.ndarray, box: tuple[int, int]) -> TensorMap:
        lines, length = array.shape
        return TensorMap(array, box=box, swizzle=swizzle, sizes=(length, lines), strides=(length * array.itemsize,))

    maps = [tensor_map(x, (DEPTH, BLOCK_ROWS)), tensor_map(w, (DEPTH, block_columns // cluster))]
    if columns * y.itemsize % 16 == 0:
        maps.append(tensor_map(y, (128 // y.itemsize, 64)))
    tiles = -(-rows // (BLOCK_ROWS * cluster)) * cluster * -(-columns // block_columns)
    values = [*maps, x, w, y, rows, tiles]
    Kernel.parse(ptx).launch(min(tiles, 2 * cluster), threads_of(ptx), values, MOST_SHARED, cluster=cluster)
    assert np.isnan(guarded[rows * columns :].astype(np.float32)).all()
    return relative_error(y, x.astype(np.float64) @ w.astype(np.float64).T)


NAMES = {1: "matmul_0_rows128", 2: "matmul_0"}
"""Variants by the blocks of their clusters; whatever the rows that they are meant for, they are right for any number."""


def run_ampere(ptx: str, rows: int, columns: int, depth: int) -> float:
    rng = np.random.default_rng(0)
    x, w, y = random(rng, rows, depth), random(rng, columns, depth), np.full((rows, columns), np.nan, np.float32)
    tiles = -(-rows // 128) * -(-columns // 128)
    Kernel.parse(ptx).launch(tiles, threads_of(ptx), [x, w, y, rows, tiles], 3 * 256 * 128)
    return relative_error(y, x.astype(np.float64) @ w.astype(np.float64).T)


@pytest.mark.parametrize("cluster", NAMES)
@pytest.mark.parametrize(
    ("rows", "columns", "depth", "block_columns"),
    [
        (129, 500, 328, 256),  # two tiles each way, the last ones ragged; the ring wraps around
        (300, 192, 584, 192),  # more tiles than blocks
        (1, 128, 8, 128),  # one row, one slice of eight
        (127, 64, 1000, 64),
        (130, 130, 72, 192),  # rows of 520 bytes, which TMA does not write
    ],
)
def test_hopper(rows, columns, depth, block_columns, cluster):
    ptx = kernels(matmul("?", columns, depth), "sm_90a")[NAMES[cluster]]
    assert ("cp.async.bulk.tensor.2d.global.shared" in ptx) == (columns % 4 == 0)
    assert ("multicast::cluster" in ptx) == (cluster > 1)
    assert run_hopper(ptx, rows, columns, depth, block_columns, cluster=cluster) < 5e-7  # f32 sums


@pytest.mark.parametrize("cluster", NAMES)
@pytest.mark.parametrize(
    ("rows", "columns", "block_columns"), [(129, 504, 256), (257, 192, 192), (3, 72, 128), (300, 20, 64)]
)
def test_hopper_results_of_bf16(rows, columns, block_columns, cluster):
    ptx = kernels(matmul("?", columns, 136, result="bf16"), "sm_90a")[NAMES[cluster]]
    assert ("cp.async.bulk.tensor.2d.global.shared" in ptx) == (columns % 8 == 0)
    error = run_hopper(ptx, rows, columns, 136, block_columns, cluster=cluster, result=BF16)
    assert 1e-4 < error < 2**-8 * 1.001  # one rounding


@pytest.mark.parametrize(("batch", "rows", "columns"), [(3, 130, 72), (2, 127, 192), (1, 257, 264)])
def test_hopper_with_a_batch(gpu: VirtualGpu, batch, rows, columns):
    """Launched by the runtime, with the memory and the maps that the program asks for; rows end inside a panel."""
    gpu.set(capability=90)
    x, w, y = (f"tensor<{batch}x{shape}xbf16>" for shape in (f"{rows}x136", f"{columns}x136", f"{rows}x{columns}"))
    code = compile_text(
        f"""func.func @main(%x: {x}, %w: {w}) -> {y} {{
  %y = dsc.matmul %x, %w {{transpose_rhs}} : ({x}, {w}) -> {y}
  return %y : {y}
}}""",
        target="sm_90a",
    )
    rng = np.random.default_rng(0)
    x, w = random(rng, batch, rows, 136), random(rng, batch, columns, 136)
    (found,) = Executable(code.object, code.manifest)(x, w)
    wanted = x.astype(np.float64) @ w.astype(np.float64).transpose(0, 2, 1)
    assert 1e-4 < relative_error(found.view(BF16), wanted) < 2**-8 * 1.001  # one rounding
    assert gpu.launches["matmul_0"] == 1


@pytest.mark.parametrize(("rows", "columns", "depth"), [(129, 136, 328), (1, 128, 8), (200, 250, 200)])
def test_ampere(rows, columns, depth):
    assert run_ampere(kernels(matmul("?", columns, depth), "sm_80")["matmul_0"], rows, columns, depth) < 5e-7


@pytest.fixture(scope="module")
def hopper() -> str:
    return kernels(matmul("?", 192, 584), "sm_90a")[NAMES[1]]


@pytest.fixture(scope="module")
def clustered() -> str:
    return kernels(matmul("?", 192, 584), "sm_90a")[NAMES[2]]


@pytest.fixture(scope="module")
def ampere() -> str:
    return kernels(matmul("?", 136, 328), "sm_80")["matmul_0"]


def without(ptx: str, pattern: str, which: slice = slice(None)) -> str:
    """The text without the lines that match, or those `which` of them."""
    found = list(re.finditer(rf"^.*{pattern}.*$", ptx, flags=re.M))[which]
    assert found, pattern
    for line in reversed(found):
        ptx = ptx[: line.start()] + ptx[line.end() :]
    return ptx


def test_another_swizzle_gives_other_numbers(hopper):
    assert run_hopper(hopper, 300, 192, 584, 192) < 5e-7
    assert run_hopper(hopper, 300, 192, 584, 192, swizzle=0) > 0.1


def test_another_swizzle_of_ldmatrix(ampere):
    """The chunk of a row is exchanged with its number: without that, rows are read where others lie."""
    place = re.search(r"ldmatrix\S+ .*\[(%rd\d+)", ampere)
    broken = ampere.replace(f"[{place.group(1)}]", f"[{place.group(1)}+16]", 1)
    assert broken != ampere
    try:
        assert run_ampere(broken, 129, 136, 328) > 1e-3
    except PtxError as error:  # the chunk behind the last of a row may be nobody's
        assert "shared" in str(error) or "uninit" in str(error)


def test_a_consumer_that_never_frees_its_place(hopper):
    with pytest.raises(PtxError, match="deadlock"):
        run_hopper(without(hopper, r"mbarrier\.arrive\.shared\.b64"), 300, 192, 584, 192)


def test_a_producer_that_expects_other_bytes(hopper):
    found = re.search(r"mov\.b32 \t(%r\d+), (\d+);\n\tmbarrier\.arrive\.expect_tx", hopper)
    broken = hopper.replace(found.group(0), found.group(0).replace(found.group(2), str(int(found.group(2)) + 16)))
    with pytest.raises(PtxError, match="deadlock"):
        run_hopper(broken, 300, 192, 584, 192)


def test_a_barrier_of_memory_that_is_not_waited_for(hopper):
    """The consumer multiplies before the copy has come."""
    text = hopper.rindex("mbarrier.try_wait")
    begin, end = hopper.rindex("{", 0, text), hopper.index("}", text) + 1
    with pytest.raises(PtxError):
        run_hopper(hopper[:begin] + hopper[end:], 300, 192, 584, 192)


def test_sums_that_are_read_before_the_wait(hopper):
    with pytest.raises(PtxError):
        run_hopper(without(hopper, r"wgmma\.wait_group"), 300, 192, 584, 192)


@pytest.mark.parametrize(
    ("line", "which", "trouble"),
    [
        # The first is the block's; then each panel is opened and closed.
        (r"bar\.sync", slice(1, None, 2), "race"),  # a panel is written before its last copy is known to have read it
        (r"bar\.sync", slice(2, None, 2), "race"),  # it leaves before all threads have written
        (r"cp\.async\.bulk\.wait_group", slice(None), "race"),
        (r"fence\.proxy\.async", slice(None), "fence"),
    ],
)
def test_results_that_leave_too_early(hopper, line, which, trouble):
    with pytest.raises(PtxError, match=trouble):
        run_hopper(without(hopper, line, which), 300, 192, 584, 192)


# Warps leave a place of the ring by a barrier of each block of their cluster; the first barrier of all its blocks comes
# behind the initialization, the second before the end.


def only(ptx: str, pattern: str, replacement: str) -> str:
    """The text with the one match replaced."""
    changed, count = re.subn(pattern, replacement, ptx)
    assert count == 1, pattern
    return changed


def test_a_cluster_whose_other_block_is_not_told(clustered):
    """Warps that arrive twice at their own block's barrier instead of once at each block's."""
    broken = only(clustered, r"mapa\.shared::cluster\.u64 \t(%rd\d+), (%rd\d+), %r\d+;", r"mov.b64 \t\1, \2;")
    with pytest.raises(PtxError, match="race"):
        run_hopper(broken, 300, 192, 584, 192, cluster=2)


def test_a_cluster_whose_blocks_do_not_wait_for_each_other(clustered):
    """Barriers that count the warps of one block alone: the other block's places are written while they are read."""
    broken = re.sub(r"mov\.b32 \t(%r\d+), 16;", r"mov.b32 \t\1, 8;", clustered)
    assert broken != clustered
    with pytest.raises(PtxError, match="arrivals|race"):
        run_hopper(broken, 300, 192, 584, 192, cluster=2)


@pytest.mark.parametrize(
    ("which", "trouble"),
    [(slice(0, 1), "initialised it, nothing orders them"), (slice(1, 2), "ends, and nothing says")],
)
def test_a_cluster_without_its_barriers(clustered, which, trouble):
    """A block that does not wait at first may find no barrier; one that does not at last may be gone when others arrive."""
    broken = clustered
    for step in ("arrive", "wait"):
        broken = without(broken, rf"barrier\.cluster\.{step}", which)
    with pytest.raises(PtxError, match=trouble):
        run_hopper(broken, 300, 192, 584, 192, cluster=2)


def test_a_multicast_that_leaves_a_block_out(clustered):
    broken = only(clustered, r"mov\.b16 \t(%rs\d+), 3;", r"mov.b16 \t\1, 1;")
    with pytest.raises(PtxError, match="deadlock"):
        run_hopper(broken, 300, 192, 584, 192, cluster=2)


def test_a_barrier_less(ampere):
    assert run_ampere(ampere, 129, 136, 328) < 5e-7
    with pytest.raises(PtxError, match="race"):
        run_ampere(without(ampere, r"bar\.sync"), 129, 136, 328)


def test_a_copy_that_is_not_waited_for(ampere):
    with pytest.raises(PtxError):
        run_ampere(without(ampere, r"cp\.async\.wait_group"), 129, 136, 328)


def test_attention_without_its_barriers():
    ptx = kernels(attention(4, 2, 64), "sm_80")["attention_0"]
    rng = np.random.default_rng(0)
    q, k, v = (random(rng, 1, 70, heads, 64) for heads in (4, 2, 2))
    y = np.full(q.shape, np.nan, BF16)
    workgroups = -(-70 // 32) * 2

    def run(text: str) -> None:
        shared = 64 * 128 + 2 * 2 * 64 * 128
        Kernel.parse(text).launch(workgroups, threads_of(text), [q, k, v, y, 1, 70, 70, workgroups], shared)

    run(ptx)
    assert np.isfinite(y.astype(np.float32)).all()
    with pytest.raises(PtxError, match="race"):
        run(without(ptx, r"bar\.sync"))
