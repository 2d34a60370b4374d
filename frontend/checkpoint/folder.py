"""A Hugging Face folder: config.json, one or several safetensors files, and the tokenizer's files."""

from __future__ import annotations

import contextlib
from pathlib import Path

from deepseek.frontend.checkpoint.checkpoint import Checkpoint
from deepseek.frontend.checkpoint.mapping import short_name
from deepseek.frontend.checkpoint.quantized import repack_tensors
from deepseek.frontend.checkpoint.safetensors import SafetensorsFile
from deepseek.frontend.checkpoint.settings import Settings, read_json, shorten
from deepseek.frontend.checkpoint.tensors import Tensor
from deepseek.frontend.checkpoint.tokenizer import TokenizerData

__all__ = ["FolderCheckpoint"]

_ONE_FILE = "model.safetensors"
_INDEX = "model.safetensors.index.json"


class FolderCheckpoint(Checkpoint):
    """A checkpoint in a folder; `config` is its config.json. With `shapes_only` it may lack weight files.

    Weights that another library quantized are repacked when they are first used (`quantized.py`).
    """

    container = "safetensors"

    def __init__(self, path: Path, *, shapes_only: bool = False) -> None:
        self.path = path
        if not (path / "config.json").is_file():
            raise self.error("has no config.json, expected a Hugging Face folder")
        self.config = Settings(read_json(path / "config.json"), "config.json:", self.error)
        self.architecture = self.config.require("model_type", str)
        self.shapes_only = shapes_only and not ((path / _ONE_FILE).exists() or (path / _INDEX).exists())
        shards, named = ([], {}) if self.shapes_only else self._shards()
        self._opened = [SafetensorsFile(path / name, index) for index, name in enumerate(shards)]
        self.files = [file.path for file in self._opened]
        self.file_bytes = sum(file.file_bytes for file in self._opened)
        self.tensors = self._merge(named)
        quantization = self.config.get("quantization_config", dict)
        if quantization is not None and not self.shapes_only:
            self.tensors = repack_tensors(quantization, self.tensors, self.error)

    def json(self, name: str) -> Settings | None:
        """Another JSON object of the folder, or None if there is no such file. Raises `CheckpointError`."""
        path = self.path / name
        with contextlib.suppress(OSError):  # a name that is too long: reading says so
            if not path.exists():
                return None
        return Settings(read_json(path), f"{name}:", self.error)

    def tokenizer_data(self) -> TokenizerData | None:
        """The tokenizer in tokenizer.json, or None if there is no such file."""
        if not (self.path / "tokenizer.json").exists():
            return None
        from deepseek.frontend.checkpoint.folder_tokenizer import read_tokenizer

        return read_tokenizer(self)

    def release(self) -> None:
        """Lets the operating system take back the pages that were read."""
        for file in self._opened:
            file.release()

    def _shards(self) -> tuple[list[str], dict[str, str]]:
        """The names of the weight files, and which of them should hold which tensor (empty for a single file)."""
        if (self.path / _ONE_FILE).exists():
            return [_ONE_FILE], {}
        if not (self.path / _INDEX).exists():
            others = sorted(entry.name for entry in self.path.iterdir() if entry.suffix in (".bin", ".pt", ".pth"))
            found = f", found {shorten(others)}: save the model again with safetensors" if others else ""
            raise self.error(f"has neither {_ONE_FILE} nor {_INDEX}{found}")
        index = Settings(read_json(self.path / _INDEX), f"{_INDEX}:", self.error)
        named = index.require("weight_map", dict)
        for tensor, name in named.items():
            # A path could lead out of the folder.
            plain = isinstance(name, str) and name.endswith(".safetensors") and Path(name).name == name
            if not plain or len(name.encode(errors="replace")) > 255:
                raise self.error(
                    f"{_INDEX} names {shorten(name)} for tensor {short_name(tensor)}, expected a .safetensors file"
                )
        shards = sorted(set(named.values()))
        missing = [name for name in shards if not (self.path / name).exists()]
        if missing:
            raise self.error(
                f"{_INDEX} names {missing[0]}, which is missing; {len(missing)} of {len(shards)} files are"
            )
        if not shards:
            raise self.error(f"{_INDEX} names no weight files")
        return shards, named

    def _merge(self, named: dict[str, str]) -> dict[str, Tensor]:
        tensors: dict[str, Tensor] = {}
        for file in self._opened:
            for name, tensor in file.tensors.items():
                if name in tensors:
                    other = self.files[tensors[name].file_index].name
                    raise self.error(f"tensor {short_name(name)} is in both {other} and {file.path.name}")
                tensors[name] = tensor
        for name, shard in named.items():
            held = tensors.get(name)
            if held is None or self.files[held.file_index].name != shard:
                raise self.error(f"{_INDEX} names tensor {short_name(name)} in {shard}, which does not hold it")
        return tensors
