"""Everything that deepseek raises on purpose; the command line prints these as one paragraph."""

from __future__ import annotations


class DeepseekError(Exception):
    """Base of all errors that a user can cause and mend."""


class CompileError(DeepseekError):
    """A program cannot be compiled; the message names the source line and the rule that was broken."""


class InputError(DeepseekError, ValueError):
    """A call's arguments do not fit the compiled signature (arity, dtype, rank, shape, dim promise)."""


class CheckpointError(DeepseekError):
    """A checkpoint is damaged, truncated, or of a kind that is not supported."""


class ArtifactError(DeepseekError):
    """A compiled artifact is damaged, of another version, or does not fit this machine."""


class ExecutionError(DeepseekError, RuntimeError):
    """Execution failed: out of memory, an object that cannot be loaded, an unsupported CPU."""


class GpuError(ExecutionError):
    """A GPU cannot be used, or what was issued to it failed; the message has CUDA's or NCCL's name for it."""


class GpuMemoryError(GpuError, MemoryError):
    """The device has no memory left: `requested`, `free` and `total` are bytes (0 where the driver did not say)."""

    def __init__(self, message: str, requested: int = 0, free: int = 0, total: int = 0) -> None:
        super().__init__(message)
        self.requested, self.free, self.total = requested, free, total
