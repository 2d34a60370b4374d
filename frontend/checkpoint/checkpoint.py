"""What model families and `Model` see of a checkpoint, whichever container it comes in."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from deepseek.errors import CheckpointError
from deepseek.frontend.checkpoint.gguf import GGUFFile
from deepseek.frontend.checkpoint.tensors import Tensor
from deepseek.frontend.checkpoint.tokenizer import TokenizerData

__all__ = ["Checkpoint", "GGUFCheckpoint", "open_checkpoint"]


class Checkpoint:
    """An open checkpoint: `container` is "gguf" or "safetensors", `architecture` names the model family.

    `tensors` by the file's own names; a tensor's `file_index` counts in `files`. The weights stay mapped, not read.
    """

    path: Path
    container: str
    architecture: str
    files: list[Path]
    tensors: dict[str, Tensor]
    file_bytes: int  # all weight files together
    shapes_only: bool = False  # a configuration without weights: graphs can be made, nothing can run

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self.path)!r}, {self.architecture}, {len(self.tensors)} tensors)"

    def arrays(self) -> dict[str, np.ndarray]:
        """Every tensor as its weight argument takes it, by name."""
        return {name: tensor.array for name, tensor in self.tensors.items()}

    def tokenizer_data(self) -> TokenizerData | None:
        """The tokenizer, or None if the checkpoint has none. Raises `CheckpointError` for one that is damaged."""
        raise NotImplementedError

    def release(self) -> None:
        """Lets the operating system take back the pages that were read; they are read again on demand."""
        raise NotImplementedError

    def error(self, text: str) -> CheckpointError:
        """A `CheckpointError` that begins with the checkpoint's path."""
        return CheckpointError(f"{self.path}: {text}")


class GGUFCheckpoint(Checkpoint):
    """A checkpoint in one GGUF file; `file` gives its metadata."""

    container = "gguf"

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.file = GGUFFile(path)
        self.path = self.file.path
        self.files = [self.path]
        self.file_bytes = self.file.file_bytes
        self.tensors = self.file.tensors
        self.architecture = self.file.settings.require("general.architecture", str)

    def tokenizer_data(self) -> TokenizerData | None:
        """The tokenizer of the metadata, or None if there is no key tokenizer.ggml.model."""
        if "tokenizer.ggml.model" not in self.file.metadata:
            return None
        from deepseek.frontend.checkpoint.gguf_tokenizer import read_tokenizer

        data = read_tokenizer(self.file)
        self.file.release()
        return data

    def release(self) -> None:
        """Lets the operating system take back the pages that were read."""
        self.file.release()


def open_checkpoint(path: str | os.PathLike[str], *, shapes_only: bool = False) -> Checkpoint:
    """Opens a GGUF file or a Hugging Face folder; `shapes_only`: a folder may hold no weights. Raises `CheckpointError`."""
    path = Path(path)
    if path.is_dir():
        from deepseek.frontend.checkpoint.folder import FolderCheckpoint

        return FolderCheckpoint(path, shapes_only=shapes_only)
    if path.suffix == ".safetensors":
        raise CheckpointError(f"{path}: is a weight file, expected the folder that holds it and config.json")
    return GGUFCheckpoint(path)
