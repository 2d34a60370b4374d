"""Inverse frequencies of rotary positions (Su et al. 2021), in float64, with the scalings of published checkpoints."""

from __future__ import annotations

import numpy as np

from deepseek.frontend.checkpoint.settings import Settings, shorten

__all__ = ["inverse_frequencies", "read_rope"]

_TYPES = ("default", "linear", "llama3")
_DEFAULT_BASE = 10000.0


def inverse_frequencies(base: float, head_dim: int) -> tuple[float, ...]:
    """base ** (-2 i / head_dim) for i < head_dim / 2, in radians per position."""
    exponent = np.arange(0, head_dim, 2, dtype=np.float64) / head_dim
    return tuple((base**-exponent).tolist())


def read_rope(config: Settings, head_dim: int, context: int) -> tuple[float, ...]:
    """The inverse frequencies that a Hugging Face config.json asks for.

    Written as `rope_theta` beside `rope_scaling` (transformers 4), or both inside `rope_parameters` (transformers 5).
    Raises `CheckpointError` for a type other than default, linear and llama3, and for numbers out of range.
    """
    # The order in which transformers 5 looks (modeling_rope_utils.py, convert_rope_params_to_dict).
    values = config.get("rope_scaling", dict) or config.get("rope_parameters", dict) or {}
    rope = Settings(values, "rope parameter", config.error)
    if any(isinstance(value, dict) for value in values.values()):
        raise config.error(f"rope parameters are {shorten(values)}, expected one set for all layers")
    kind = rope.get("rope_type", str) or rope.get("type", str, "default")
    if kind not in _TYPES:
        raise config.error(f"rope type is {kind!r}, expected one of {', '.join(_TYPES)}")
    for settings in (config, rope):
        settings.refuse_unless({"partial_rotary_factor": 1.0})
    base = rope.number("rope_theta", config.number("rope_theta", _DEFAULT_BASE))
    if base <= 0:
        raise config.error(f"rope_theta is {base}, expected a positive number")
    frequencies = inverse_frequencies(base, head_dim)
    if kind == "default":
        return frequencies
    factor = rope.number("factor")
    if factor < 1:
        raise config.error(f"the factor of rope type {kind} is {factor}, expected at least 1")
    if kind == "linear":
        return tuple(frequency / factor for frequency in frequencies)
    low, high = rope.number("low_freq_factor"), rope.number("high_freq_factor")
    if not 0 < low < high:
        raise config.error(f"low_freq_factor is {low} and high_freq_factor is {high}, expected 0 < low < high")
    # A value beside rope_parameters counts first, as in transformers 5.
    original = config.positive(
        "original_max_position_embeddings", rope.positive("original_max_position_embeddings", context)
    )
    return _llama3(frequencies, factor, low, high, original)


def _llama3(frequencies: tuple[float, ...], factor: float, low: float, high: float, original: int) -> tuple[float, ...]:
    """Llama 3.1's scaling: long wavelengths slow down by `factor`, short ones stay, those between are blended."""
    slow = np.array(frequencies)
    turns = original * slow / (2 * np.pi)  # full turns within the context that was trained first
    blend = np.clip((turns - low) / (high - low), 0.0, 1.0)
    return tuple(((1 - blend) * slow / factor + blend * slow).tolist())
