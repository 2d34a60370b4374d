"""Complex tensors: two real arrays."""

from __future__ import annotations

from typing import Any

import torch

from deepseek import ACG

# The real type of each complex one.
PARTS = {torch.complex32: torch.float16, torch.complex64: torch.float32, torch.complex128: torch.float64}


class Complex:
    """re + i im. Only operations registered with `registry.on_complex` take one."""

    def __init__(self, re: Any, im: Any) -> None:
        self.re, self.im = re, im

    @staticmethod
    def of(value: Any) -> Complex:
        """A number or a real array as a complex one."""
        if isinstance(value, Complex):
            return value
        if isinstance(value, complex):
            return Complex(value.real, value.imag)
        return Complex(value, ACG.zeros_like(value) if isinstance(value, ACG.Array) else 0.0)

    @staticmethod
    def of_pairs(x: Any) -> Complex:
        """From an array whose last dim holds (re, im)."""
        return Complex(x[..., 0], x[..., 1])

    @property
    def shape(self) -> tuple[Any, ...]:
        return self.re.shape

    @property
    def size(self) -> Any:
        return self.re.size

    @property
    def ndim(self) -> int:
        return self.re.ndim

    @property
    def type(self) -> Any:
        """The type of the parts."""
        return self.re.type


def is_complex(value: Any) -> bool:
    return isinstance(value, Complex)


def real_view(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor as the program takes it: a complex one as its parts in a last dim of 2."""
    return torch.view_as_real(tensor.detach().resolve_conj()) if tensor.is_complex() else tensor
