"""Targets that are GPUs, and whether this machine has one that runs them."""

from __future__ import annotations

__all__ = ["is_gpu", "unsupported"]


def is_gpu(target: str) -> bool:
    """Whether code for `target` runs on a GPU."""
    return target.startswith("sm_")


def unsupported(target: str) -> str | None:
    """Why this machine cannot run code for the GPU `target`, or None if it can. Makes no context.

    sm_90a runs on compute capability 9.0 alone, sm_80 on 8.0 and newer (PTX ISA 8.3, ".target").
    """
    from deepseek.runtime.gpu import probe

    found = probe()
    if not found.ok:
        return f"{target} needs a GPU: {found.reason}"
    device = found.devices[0]
    needed = divmod(int(target.removeprefix("sm_").rstrip("a")), 10)
    exactly = target.endswith("a")
    if device.capability == needed or (device.capability > needed and not exactly):
        return None
    major, minor = device.capability
    rule = f"of compute capability {needed[0]}.{needed[1]}{'' if exactly else ' or newer'}"
    other = "; sm_80 runs there" if exactly and device.capability >= (8, 0) else ""
    return f"{target} needs a GPU {rule}, {device.name} has {major}.{minor}{other}"
