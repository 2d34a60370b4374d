"""Operations of PyTorch that the importer knows, compiled one by one against eager."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import torch.nn.functional as F  # noqa: E402, N812

import deepseek  # noqa: E402
from deepseek.errors import CompileError  # noqa: E402
from deepseek.frontend.torch import registry  # noqa: E402

INF, NAN = math.inf, math.nan


def normal(*shape: int, seed: int = 0, dtype: Any = torch.float32) -> Any:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def positive(*shape: int) -> Any:
    x = normal(*shape)
    return x @ x.mT + torch.eye(shape[-1])


def compare(got: Any, want: Any, tolerance: float) -> None:
    """max|a - b| <= tolerance max|b|, infinities and NaN in the same places, integers equal."""
    a, b = (torch.utils._pytree.tree_leaves(v) for v in (got, want))
    assert len(a) == len(b)
    for x, y in zip(a, b):
        assert x.shape == y.shape and x.dtype == y.dtype
        if y.is_complex():
            x, y = torch.view_as_real(x.resolve_conj()), torch.view_as_real(y.resolve_conj())
        finite = y[y.isfinite()] if y.is_floating_point() else torch.zeros(0)
        scale = finite.abs().max().item() if finite.numel() else 0.0
        torch.testing.assert_close(x, y, rtol=0, atol=tolerance * scale, equal_nan=True)


def check(fn: Callable[..., Any], *args: Any, tolerance: float = 1e-5) -> Any:
    exe = deepseek.compile(fn, args)
    compare(exe(*(a.clone() for a in args)), fn(*(a.clone() for a in args)), tolerance)
    return exe


EDGES = torch.tensor([0.0, -0.0, 1.0, -2.5, 1e-42, -3e-39, INF, -INF, NAN, 3.4e38])

CASES: dict[str, tuple[Callable[..., Any], tuple[Any, ...]]] = {
    # bits
    "nextafter": (torch.nextafter, (EDGES, EDGES.flip(0))),
    "nextafter_same": (torch.nextafter, (EDGES, EDGES)),
    "nextafter_f64": (torch.nextafter, (normal(7).double(), torch.zeros(7).double())),
    "frexp": (torch.frexp, (EDGES[torch.isfinite(EDGES)],)),
    "view_dtype": (lambda x: x.view(torch.int32), (EDGES,)),
    "angle": (torch.angle, (EDGES,)),
    # in-place rules of decompositions
    "isclose": (lambda a, b: torch.isclose(a, b, equal_nan=True), (EDGES, EDGES.flip(0))),
    "quantile": (lambda x: torch.quantile(x, 0.3, dim=1), (normal(3, 7),)),
    "diff": (torch.diff, (normal(2, 7),)),
    "pad_circular": (lambda x: F.pad(x, (1, 2), mode="circular"), (normal(2, 3, 7),)),
    "instance_norm": (F.instance_norm, (normal(2, 3, 7),)),
    # empty slices
    "glu": (F.glu, (torch.zeros(2, 0),)),
    "cut_empty": (lambda x: x[:, 0:0], (normal(3, 5),)),
    # special functions
    "igamma": (torch.special.gammainc, (torch.tensor([0.5, 1, 7, 40, 250, 1000, 1000, 0, 2, 2]),
                                        torch.tensor([0.1, 1, 9, 35, 260, 1000, 950, 1, 0, INF]))),
    "igammac": (torch.special.gammaincc, (torch.tensor([0.5, 1, 7, 40, 250, 1000, 1000, 0, 2, 2]),
                                          torch.tensor([0.1, 1, 9, 35, 260, 1000, 1050, 1, 0, INF]))),
    "shifted_chebyshev": (torch.special.shifted_chebyshev_polynomial_t, (torch.rand(7), torch.arange(7.0))),
    # groups
    "histc": (lambda x: torch.histc(x, 5, -1, 1), (normal(31),)),
    "histc_own_ends": (lambda x: torch.histc(x, 4), (normal(31),)),
    "histc_flat": (lambda x: torch.histc(x, 4), (torch.ones(7),)),
    "bag_sum": (lambda i, o, w: F.embedding_bag(i, w, o, mode="sum"),
                (torch.tensor([1, 2, 0, 3, 3]), torch.tensor([0, 2, 2]), normal(4, 7))),
    "bag_max": (lambda i, o, w: F.embedding_bag(i, w, o, mode="max", padding_idx=3),
                (torch.tensor([1, 2, 0, 3, 3]), torch.tensor([0, 2, 3]), normal(4, 7))),
    "segments": (lambda x, n: torch.segment_reduce(x, "mean", lengths=n), (normal(7, 3), torch.tensor([3, 0, 4]))),
    "grouped_rows": (lambda x, w, o: torch._grouped_mm(x, w, offs=o),
                     (normal(16, 16, dtype=torch.bfloat16), normal(3, 16, 16, dtype=torch.bfloat16),
                      torch.tensor([5, 5, 16], dtype=torch.int32))),
    "cdist": (torch.cdist, (normal(2, 3, 7), normal(2, 5, 7, seed=1))),
    "cdist_inf": (lambda a, b: torch.cdist(a, b, p=INF), (normal(3, 7), normal(5, 7, seed=1))),
    "pdist": (F.pdist, (normal(5, 7),)),
    "nonzero_static": (lambda x: torch.nonzero_static(x, size=5), (torch.tensor([[0, 1, 2], [3, 0, 0]]),)),
    # windows and sampling
    "adaptive_max": (lambda x: F.adaptive_max_pool2d(x, (3, 2), return_indices=True), (normal(2, 3, 7, 5),)),
    "adaptive_max_1": (lambda x: F.adaptive_max_pool1d(x, 1, return_indices=True), (normal(2, 3, 7),)),
    "bilinear_aa": (lambda x: F.interpolate(x, (3, 4), mode="bilinear", antialias=True), (normal(1, 2, 7, 11),)),
    "bicubic_aa": (lambda x: F.interpolate(x, (9, 4), mode="bicubic", antialias=True), (normal(1, 2, 7, 11),)),
    "grid_3d": (lambda x, g: F.grid_sample(x, g, padding_mode="reflection", align_corners=False),
                (normal(2, 3, 4, 5, 6), normal(2, 2, 3, 4, 3, seed=1))),
    "grid_3d_nearest": (lambda x, g: F.grid_sample(x, g, mode="nearest", align_corners=True),
                        (normal(2, 3, 4, 5, 6), normal(2, 2, 3, 4, 3, seed=1))),
    "rrelu": (lambda x: F.rrelu(x, training=False), (EDGES,)),
    # linear algebra
    "lu": (torch.linalg.lu, (normal(2, 5, 7),)),
    "lu_tall": (torch.linalg.lu_factor, (normal(7, 3),)),
    "det": (torch.linalg.det, (normal(3, 4, 4),)),
    "det_0": (torch.linalg.det, (torch.zeros(0, 0),)),
    "slogdet": (torch.linalg.slogdet, (normal(5, 5),)),
    "inv_1": (torch.linalg.inv, (normal(1, 1),)),
    "inv_16": (torch.linalg.inv, (normal(16, 16),)),
    "solve": (torch.linalg.solve, (normal(2, 7, 7), normal(2, 7, 3, seed=1))),
    "solve_vector": (torch.linalg.solve, (normal(5, 5), normal(5, seed=1))),
    "solve_right": (lambda a, b: torch.linalg.solve(a, b, left=False), (normal(5, 5), normal(2, 5, seed=1))),
    "solve_upper": (lambda a, b: torch.linalg.solve_triangular(a, b, upper=True), (positive(5, 5), normal(5, 2))),
    "cholesky": (torch.linalg.cholesky, (positive(2, 7, 7),)),
    "cholesky_upper": (lambda a: torch.linalg.cholesky(a, upper=True), (positive(5, 5),)),
    "cholesky_solve": (torch.cholesky_solve, (normal(5, 2), torch.linalg.cholesky(positive(5, 5)))),
    "qr": (torch.linalg.qr, (normal(2, 7, 5),)),
    "qr_complete": (lambda a: torch.linalg.qr(a, mode="complete"), (normal(5, 3),)),
    "matrix_exp": (torch.linalg.matrix_exp, (normal(2, 5, 5) * 3,)),
    "matrix_rank": (torch.linalg.matrix_rank, (torch.outer(normal(5), normal(7)),)),
    "pinv": (torch.linalg.pinv, (normal(7, 3),)),
    "svdvals": (torch.linalg.svdvals, (normal(2, 3, 7),)),
    "eigvalsh": (torch.linalg.eigvalsh, (positive(7, 7),)),
    "eigvalsh_upper": (lambda a: torch.linalg.eigvalsh(a, UPLO="U"), (normal(4, 4),)),
    "ldl": (torch.linalg.ldl_factor, (normal(3, 7, 7) + normal(3, 7, 7).mT,)),
    "ldl_1": (torch.linalg.ldl_factor, (normal(1, 1),)),
    "ldl_pairs": (torch.linalg.ldl_factor, (torch.tensor([[0.0, 1, 2, 3], [1, 0, 4, 5], [2, 4, 0, 6], [3, 5, 6, 0]]),)),
    "ldl_solve": (torch.linalg.ldl_solve, (*torch.linalg.ldl_factor(normal(3, 7, 7) + normal(3, 7, 7).mT), normal(3, 7, 2))),
    # complex
    "fft_1": (torch.fft.fft, (normal(3, 1),)),
    "fft_7": (torch.fft.fft, (normal(3, 7),)),
    "fft_600": (torch.fft.fft, (normal(2, 600),)),
    "ifft2": (torch.fft.ifft2, (normal(2, 5, 7, dtype=torch.complex64),)),
    "rfft_ortho": (lambda x: torch.fft.rfft(x, norm="ortho"), (normal(2, 9),)),
    "irfft": (torch.fft.irfft, (normal(2, 5, dtype=torch.complex64),)),
    "irfft_odd": (lambda z: torch.fft.irfft(z, n=1023), (normal(2, 512, dtype=torch.complex64),)),
    "stft": (lambda x: torch.stft(x, 16, window=torch.hann_window(16), return_complex=True), (normal(2, 100),)),
    "complex_arithmetic": (lambda a, b: (a + b, a - 2j, a * b, a / b, 1 / b, a.conj() * b, a.abs(), torch.exp(a)),
                           (normal(5, dtype=torch.complex64), normal(5, dtype=torch.complex64, seed=1))),
    "complex_product": (lambda a, b: (a @ b.mT, a.sum(0), torch.cat([a, b]), a[1:, ::2].angle()),
                        (normal(3, 5, dtype=torch.complex64), normal(3, 5, dtype=torch.complex64, seed=1))),
    "rotary": (lambda x, f: torch.view_as_real(
                   torch.view_as_complex(x.reshape(2, 5, 4, 2)) * torch.polar(torch.ones_like(f), f)).flatten(2),
               (normal(2, 5, 8), normal(5, 4))),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_agrees_with_eager(name: str) -> None:
    fn, args = CASES[name]
    check(fn, *args, tolerance=1e-2 if any(a.dtype == torch.bfloat16 for a in args) else 2e-5)


@pytest.mark.parametrize(("m", "n"), [(1, 1), (5, 3), (3, 7), (7, 7)])
def test_svd(m: int, n: int) -> None:
    """Signs of singular vectors are free: the product and the singular values are what is compared."""
    a = normal(2, m, n)
    exe = deepseek.compile(lambda x: torch.linalg.svd(x, full_matrices=True), (a,))
    u, s, vh = (x.double() for x in exe(a))
    k = min(m, n)
    np.testing.assert_allclose(s.numpy(), np.linalg.svd(a.double().numpy(), compute_uv=False), rtol=1e-5)
    compare((u[..., :k] * s[..., None, :]) @ vh[..., :k, :], a.double(), 1e-5)
    compare(u.mT @ u, torch.eye(m).double().expand(2, m, m), 1e-5)
    compare(vh @ vh.mT, torch.eye(n).double().expand(2, n, n), 1e-5)


def test_svd_of_a_singular_matrix_has_a_whole_basis() -> None:
    a = torch.outer(normal(5), normal(4, seed=1))
    u, s, _ = deepseek.compile(torch.linalg.svd, (a,))(a)
    compare(u.mT @ u, torch.eye(5), 1e-5)
    assert (s[1:] < 1e-6 * s[0]).all()


def test_eigh() -> None:
    a = positive(2, 7, 7)
    values, vectors = deepseek.compile(torch.linalg.eigh, (a,))(a)
    np.testing.assert_allclose(values.numpy(), np.linalg.eigvalsh(a.double().numpy()), rtol=1e-5)
    compare(vectors @ torch.diag_embed(values) @ vectors.mT, a, 1e-5)


def test_cholesky_of_an_indefinite_matrix_says_so() -> None:
    a = torch.diag(torch.tensor([1.0, -1.0, 1.0]))
    assert deepseek.compile(torch.linalg.cholesky_ex, (a,))(a).info == 2


def test_lengths_of_transforms_may_change() -> None:
    exe = check(torch.fft.rfft, normal(3, 8))
    for n in (7, 1 << 4, 31):
        compare(exe(normal(3, n)), torch.fft.rfft(normal(3, n)), 1e-5)
    assert exe.cache_info().compiles == 1


def test_groups_of_other_sizes_reuse_the_program() -> None:
    exe = check(torch.cdist, normal(3, 7), normal(5, 7, seed=1))
    compare(exe(normal(9, 4), normal(2, 4)), torch.cdist(normal(9, 4), normal(2, 4)), 1e-5)
    assert exe.cache_info().compiles == 1


def test_equal_results_are_one_result() -> None:
    x = normal(7)
    got = deepseek.compile(lambda x: (x + 1, x + 1, x.new_zeros(0), x.new_zeros(0)), (x,))(x)
    compare(got, (x + 1, x + 1, x.new_zeros(0), x.new_zeros(0)), 0)


def test_batch_norm_updates_its_statistics() -> None:
    """Also without the counter, whose in-place addition is what export shows."""
    x, mean, var = normal(5, 3), torch.zeros(3), torch.ones(3)
    ours = mean.clone(), var.clone()
    exe = deepseek.compile(lambda x, m, v: F.batch_norm(x, m, v, training=True), (x, *ours))
    compare(exe(x, *ours), F.batch_norm(x, mean, var, training=True), 1e-5)
    compare(ours, (mean, var), 1e-5)


@pytest.mark.parametrize(
    ("fn", "args", "message"),
    [
        (torch.linalg.inv, (normal(40, 40),), "32 steps are the most"),
        (torch.tanh, (normal(3, dtype=torch.complex64),), "complex tensors are not supported by aten.tanh"),
        (lambda x: torch.masked_select(x, x > 0), (normal(3),), "size depends on values"),
        (lambda x: F.instance_norm(x, x[0, :, 0], x[0, :, 1]), (normal(2, 3, 7),), "call module.eval()"),
    ],
)
def test_refuses(fn: Callable[..., Any], args: tuple[Any, ...], message: str) -> None:
    with pytest.raises(CompileError, match=message.replace("(", r"\(").replace(")", r"\)")):
        deepseek.compile(fn, args)


def test_a_size_that_must_be_a_number_cannot_be_dynamic() -> None:
    class Inverse(torch.nn.Module):
        def forward(self, x: Any) -> Any:
            return torch.linalg.inv(x)

    with pytest.raises(CompileError, match="dim 0 of x .fixed at 5."):
        deepseek.compile(Inverse(), (normal(5, 5),), dynamic={"x": {0: "n", 1: "n"}})
    exe = deepseek.compile(Inverse(), (normal(3, 5, 5),), dynamic={"x": {0: "batch"}})
    compare(exe(normal(7, 5, 5)), torch.linalg.inv(normal(7, 5, 5)), 1e-4)


def test_a_name_is_registered_once() -> None:
    with pytest.raises(ValueError, match="registered twice"):
        registry.aten("add")(lambda: None)
