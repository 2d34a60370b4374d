"""What a compiled module's target says of its CPU."""

from __future__ import annotations

__all__ = ["has_fast_bf16_dots"]


def has_fast_bf16_dots(text: str) -> bool:
    """Whether dot products of bf16 beat f32 on the CPU of a module's text: those of cores with matrix tiles do not, which
    have arithmetic in f16 too (a hypervisor may hide the tiles)."""
    return "+avx512bf16" in text and "+amx-bf16" not in text and "+avx512fp16" not in text
