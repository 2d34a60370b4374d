"""What the fuzzer found in readers written in Python."""

from __future__ import annotations

import hashlib
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deepseek import artifact
from deepseek.errors import ArtifactError, CheckpointError, ExecutionError
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


def test_a_decoder_whose_type_is_a_list(tmp_path: Path) -> None:
    files = dict(seeds.folders()[0])
    tokenizer = json.loads(files["tokenizer.json"])
    tokenizer["decoder"] = {"type": []}
    files["tokenizer.json"] = json.dumps(tokenizer).encode()
    with pytest.raises(CheckpointError, match="decoder"):
        open_checkpoint(folder(tmp_path, files)).tokenizer_data()


@pytest.mark.parametrize("manifest", [{}, {"features": [1], "target": "cpu"}, {"features": [], "target": None}, []])
def test_an_artifact_with_a_malformed_manifest(manifest: Any, tmp_path: Path) -> None:
    artifact.write(tmp_path / "x.dsc", text="", object=b"", manifest=manifest)
    with pytest.raises(ArtifactError, match="is damaged: its header is malformed"):
        artifact.Artifact(tmp_path / "x.dsc")


def test_an_artifact_whose_weight_file_has_an_impossible_name(tmp_path: Path) -> None:
    source = tmp_path / "w.bin"
    source.write_bytes(bytes(4))
    manifest = {"features": [], "target": "cpu"}
    weights, external = {"w": np.zeros(1, np.float32)}, {"w": (artifact.ExternalFile(source), 0)}
    path = tmp_path / "x.dsc"
    artifact.write(path, text="", object=b"", manifest=manifest, weights=weights, external=external)
    changed = path.read_bytes()
    header = json.loads(changed[64 : 64 + int.from_bytes(changed[8:16], "little")])
    header["files"][0]["path"] = "/" + "a" * 300
    encoded = json.dumps(header).encode()
    encoded += b" " * (-len(encoded) % 64)
    body = changed[64 + int.from_bytes(changed[8:16], "little") :]
    start = changed[:8] + len(encoded).to_bytes(8, "little") + (64 + len(encoded) + len(body)).to_bytes(8, "little")
    path.write_bytes(start + bytes(8) + hashlib.sha256(encoded).digest() + encoded + body)
    with pytest.raises(ArtifactError, match="File name too long"):
        artifact.Artifact(path)


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
