"""Matrix products of ATen."""

from __future__ import annotations

from typing import Any

from deepseek import ACG

from ..registry import aten


@aten("linear")
def linear(input: Any, weight: Any, bias: Any = None) -> Any:
    if weight.ndim == 1:
        out = ACG.matmul(input, weight)
        return out if bias is None else ACG.add(out, bias)
    return ACG.matmul(input, weight, bias=bias, transpose_rhs=True)


@aten("mm", "matmul", "mv", "linalg_matmul")
def mm(self: Any, other: Any = None, mat2: Any = None, vec: Any = None) -> Any:
    return ACG.matmul(self, other if other is not None else mat2 if mat2 is not None else vec)


@aten("bmm")
def bmm(self: Any, mat2: Any) -> Any:
    return ACG.matmul(self, mat2)


@aten("dot", "vdot")
def dot(self: Any, tensor: Any = None, other: Any = None) -> Any:
    return ACG.sum(ACG.multiply(self, tensor if other is None else other)).astype(self.type)


def _plus(bias: Any, product: Any, beta: Any, alpha: Any) -> Any:
    scaled = product if alpha == 1 else ACG.multiply(product, _fit(alpha, product))
    if beta == 0:
        return scaled
    return ACG.add(bias if beta == 1 else ACG.multiply(bias, _fit(beta, bias)), scaled).astype(product.type)


def _fit(number: Any, x: Any) -> Any:
    return number if x.type.is_float else int(number)


@aten("addmm")
def addmm(self: Any, mat1: Any, mat2: Any, beta: Any = 1, alpha: Any = 1) -> Any:
    if beta == 1 and alpha == 1 and self.ndim == 1 and self.shape[0] == mat2.shape[1] and self.type is mat1.type:
        return ACG.matmul(mat1, mat2, bias=self)
    return _plus(self, ACG.matmul(mat1, mat2), beta, alpha)


@aten("addmv")
def addmv(self: Any, mat: Any, vec: Any, beta: Any = 1, alpha: Any = 1) -> Any:
    return _plus(self, ACG.matmul(mat, vec), beta, alpha)


@aten("baddbmm")
def baddbmm(self: Any, batch1: Any, batch2: Any, beta: Any = 1, alpha: Any = 1) -> Any:
    return _plus(self, ACG.matmul(batch1, batch2), beta, alpha)


@aten("addbmm")
def addbmm(self: Any, batch1: Any, batch2: Any, beta: Any = 1, alpha: Any = 1) -> Any:
    return _plus(self, ACG.sum(ACG.matmul(batch1, batch2), 0).astype(batch1.type), beta, alpha)


@aten("addr")
def addr(self: Any, vec1: Any, vec2: Any, beta: Any = 1, alpha: Any = 1) -> Any:
    return _plus(self, ACG.multiply(ACG.expand_dims(vec1, 1), vec2), beta, alpha)


@aten("outer", "ger")
def outer(self: Any, vec2: Any) -> Any:
    return ACG.multiply(ACG.expand_dims(self, 1), vec2)


@aten("_trilinear")
def trilinear(
    i1: Any, i2: Any, i3: Any, expand1: Any, expand2: Any, expand3: Any, sumdim: Any, unroll_dim: int = 1
) -> Any:
    total = None
    for x, axes in ((i1, expand1), (i2, expand2), (i3, expand3)):
        for axis in sorted(axes):
            x = ACG.expand_dims(x, axis)
        total = x if total is None else ACG.multiply(total, x)
    return ACG.sum(total, tuple(sumdim)) if sumdim else total
