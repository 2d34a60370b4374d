"""What must not change when weights are rounded: a decoder's predictions, an encoder's vectors."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from deepseek.errors import InputError

__all__ = ["Tokens", "Vectors"]


class Tokens:
    """The mean KL divergence of next-token distributions in nats, over all positions; a window is token ids [s].

    Labels are drawn from the model itself, so that squared gradients of the log-likelihood give the Fisher information
    (Martens 2020, "New insights and perspectives on the natural gradient method", section 5).
    """

    def loss(self, result: Tensor, generator: torch.Generator) -> tuple[Tensor, int]:
        """What is differentiated, and over how many positions it sums."""
        flat = result.reshape(-1, result.shape[-1])
        if not flat.isfinite().all():
            raise InputError("the model gives logits that are not finite: its weights hold NaN or infinity")
        with torch.no_grad():
            labels = torch.multinomial(flat.softmax(-1), 1, generator=generator)[:, 0]
        return torch.nn.functional.cross_entropy(flat, labels, reduction="sum"), flat.shape[0]

    def remember(self, result: Tensor) -> Tensor:
        """What `compare` needs of a result: log-probabilities [s, vocabulary]."""
        return result.reshape(-1, result.shape[-1]).log_softmax(-1)

    def compare(self, before: Tensor, after: Tensor, window: np.ndarray) -> tuple[float, float]:
        """The error, and the increase of the mean negative log-likelihood of the window's own tokens."""
        following = torch.from_numpy(window[1:]).long()[:, None]
        lost = (before[:-1].gather(1, following) - after[:-1].gather(1, following)).double().mean()
        return float((before.exp() * (before - after)).sum(-1).double().mean()), float(lost)


class Vectors:
    """The mean of 1 - cosine of an encoder's vectors, which have unit length; a window is (ids [b, s], lengths [b]).

    A random direction u gives E[(d(u . v))^2] = |dv|^2, twice that error.
    """

    def loss(self, result: Tensor, generator: torch.Generator) -> tuple[Tensor, int]:
        """What is differentiated, and over how many texts it sums."""
        if not result.isfinite().all():
            raise InputError("the model gives vectors that are not finite: its weights hold NaN or infinity")
        return (result * torch.randn(result.shape, generator=generator)).sum(), result.shape[0]

    def remember(self, result: Tensor) -> Tensor:
        """What `compare` needs of a result: the vectors [b, hidden]."""
        return result

    def compare(self, before: Tensor, after: Tensor, window: Any) -> tuple[float, float]:
        """The error; there is no likelihood."""
        cosine = torch.nn.functional.cosine_similarity(before.double(), after.double(), dim=-1)
        return float(1 - cosine.mean()), 0.0
