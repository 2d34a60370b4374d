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
