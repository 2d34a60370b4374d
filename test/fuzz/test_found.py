"""What the fuzzer found in readers written in Python."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from deepseek.errors import CheckpointError, ExecutionError
from deepseek.executable import Executable
from deepseek.frontend.checkpoint.checkpoint import open_checkpoint
from deepseek.frontend.checkpoint.tokenizer import Tokenizer

sys.path.insert(0, str(Path(__file__).parent))

import seeds_checkpoint as seeds


def folder(path: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(content)
    return path


def test_a_shard_name_longer_than_file_names_can_be(tmp_path: Path) -> None:
    files = dict(seeds.folders()[1])
    index = json.loads(files["model.safetensors.index.json"])
    index["weight_map"]["model.norm.weight"] = "a" * 300 + ".safetensors"
    files["model.safetensors.index.json"] = json.dumps(index).encode()
    with pytest.raises(CheckpointError, match="names 'aaa.* expected a .safetensors file"):
        open_checkpoint(folder(tmp_path, files))


def test_a_token_id_that_would_take_gigabytes(tmp_path: Path) -> None:
    files = dict(seeds.folders()[0])
    tokenizer = json.loads(files["tokenizer.json"])
    tokenizer["model"]["vocab"]["abc"] = 2**31
    files["tokenizer.json"] = json.dumps(tokenizer).encode()
    with pytest.raises(CheckpointError, match="gives token 'abc' the id 2147483648"):
        open_checkpoint(folder(tmp_path, files)).tokenizer_data()


def test_a_backend_that_knows_other_ids(tmp_path: Path) -> None:
    data = open_checkpoint(folder(tmp_path, seeds.folders()[0])).tokenizer_data()
    backend = json.loads(data.backend)
    backend["model"]["vocab"]["abc"] = 32767
    tokenizer = Tokenizer(replace(data, backend=json.dumps(backend)))
    with pytest.raises(CheckpointError, match="makes token id 32767, expected one below"):
        tokenizer.encode("abc")


@pytest.mark.parametrize(
    "change",
    [
        lambda manifest: manifest.pop("main"),
        lambda manifest: manifest["main"]["args"][0].pop("shape"),
        lambda manifest: manifest["main"]["results"][0].update(dtype="f8"),
        lambda manifest: manifest["main"]["results"][0].update(tied=7),
        lambda manifest: manifest.update(symbols=None),
        lambda manifest: manifest.pop("init"),
    ],
)
def test_a_malformed_manifest(change: Any) -> None:
    import numpy as np

    from deepseek import ACG
    from deepseek.compiler import compile_text

    code = compile_text(ACG.trace(lambda x: x * 2 + 3, np.ones(5, np.float32)).mlir)
    manifest = json.loads(json.dumps(code.manifest))
    change(manifest)
    with pytest.raises(ExecutionError, match="malformed manifest .*: compile it again"):
        Executable(code.object, manifest)
