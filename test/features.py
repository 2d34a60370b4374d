"""What a compiled module's target says of its CPU."""

from __future__ import annotations

from spelled_out import AVX512_VNNI

__all__ = ["INTEGER_TARGETS", "has_fast_bf16_dots", "multiplies_pairs"]

# Where products of integers under scales are tested: this machine's instructions, AVX2's alone, and those of AVX-512,
# which this machine may lack.
INTEGER_TARGETS = ("cpu", "cpu:x86-64-v3", AVX512_VNNI)


def has_fast_bf16_dots(text: str) -> bool:
    """Whether dot products of bf16 beat f32 on the CPU of a module's text: those of cores with matrix tiles do not, which
    have arithmetic in f16 too (a hypervisor may hide the tiles)."""
    return "+avx512bf16" in text and "+amx-bf16" not in text and "+avx512fp16" not in text


def multiplies_pairs(text: str, instruction: str) -> bool:
    """Whether the CPU of a module's text has what `instruction` of a schedule stands for: "dot", of bf16, or "bfp"."""
    if instruction == "dot":
        return "+avx512bf16" in text
    return "+avx512vnni" in text or "vector_bytes = 32" in text  # of AVX2
