"""The safetensors reader against the reference implementation, and against damaged files."""

from __future__ import annotations

import json
import random
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deepseek.errors import CheckpointError
from deepseek.frontend.checkpoint.safetensors import SafetensorsFile

SEED = 11


def write_sample(path: Path) -> dict[str, Any]:
    """A file by the reference implementation with every float type; returns the torch tensors."""
    import torch
    from safetensors.torch import save_file

    generator = torch.Generator().manual_seed(SEED)
    values = {
        name: torch.randn(3, 2, 5, generator=generator).to(dtype)
        for name, dtype in [("f32", torch.float32), ("f16", torch.float16), ("bf16", torch.bfloat16), ("f64", torch.float64)]
    }  # fmt: skip
    values["position_ids"] = torch.arange(7)
    values["mask"] = torch.tensor([True, False])
    values["empty"] = torch.zeros(0, 4)
    values["höhe \u2028 文"] = torch.ones(1)
    save_file(values, path, metadata={"format": "pt", "note": "ü"})
    return values


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("safetensors") / "sample.safetensors"
    write_sample(path)
    return path.read_bytes()


def test_agrees_with_the_reference(tmp_path: Path) -> None:
    import torch

    path = tmp_path / "sample.safetensors"
    values = write_sample(path)
    file = SafetensorsFile(path, 3)
    assert file.metadata == {"format": "pt", "note": "ü"}
    assert file.file_bytes == path.stat().st_size
    assert file.tensors.keys() == values.keys()
    data = path.read_bytes()
    for name, expected in values.items():
        tensor = file.tensors[name]
        assert tensor.shape == tuple(expected.shape)
        raw = expected.contiguous().view(torch.uint8).numpy().tobytes() if expected.numel() else b""
        assert tensor.data.tobytes() == raw
        assert data[tensor.offset : tensor.offset + tensor.nbytes] == raw
        assert tensor.file_index == 3
        assert not tensor.data.flags.writeable
    assert {name: tensor.format.name for name, tensor in file.tensors.items()} == {
        "f32": "f32", "f16": "f16", "bf16": "bf16", "f64": "f64", "position_ids": "i64", "mask": "bool",
        "empty": "f32", "höhe \u2028 文": "f32",
    }  # fmt: skip
    np.testing.assert_array_equal(file.tensors["f32"].array, values["f32"].numpy())
    np.testing.assert_array_equal(file.tensors["f16"].array.view(np.float16), values["f16"].numpy())
    np.testing.assert_array_equal(file.tensors["bf16"].array, values["bf16"].view(torch.uint16).numpy())
    file.release()
    np.testing.assert_array_equal(file.tensors["f32"].array, values["f32"].numpy())


def failure(tmp_path: Path, data: bytes) -> str:
    path = tmp_path / "bad.safetensors"
    path.write_bytes(data)
    with pytest.raises(CheckpointError) as caught:
        SafetensorsFile(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message and len(message) < 600
    message.encode()
    return message


def whole(header: Any, data: int = 0) -> bytes:
    text = header.encode() if isinstance(header, str) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + bytes(data)


def entry(begin: int, end: int, shape: list[Any] | None = None, dtype: Any = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": [(end - begin) // 4] if shape is None else shape, "data_offsets": [begin, end]}


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", "the file is empty, expected a safetensors file"),
        (b"1234567", "has 7 bytes, expected at least the 8"),
        (struct.pack("<Q", 2**63) + b"{}", "the header's size is 9223372036854775808, expected at most 2"),
        (b"GGUF" + bytes(60), "the header's size is 1179993927, expected at most 56"),
        (whole("{"), "the header is not valid JSON"),
        (whole("[]"), "the header is [], expected a JSON object"),
        (whole("[" * 100_000), "the header is not valid JSON"),
        (struct.pack("<Q", 2) + b"\xff\xfe", "the header is not valid JSON: not UTF-8 at byte 0"),
        (whole('{"a": NaN}'), "NaN is not a JSON number"),
        (whole('{"a": ' + "9" * 5000 + "}"), "the header is not valid JSON"),
        (whole('{"t": {"dtype": "F32", "dtype": "F16"}}'), "the key 'dtype' appears twice"),
        (whole('{"t": 1, "t": 2}'), "the key 't' appears twice"),
        (whole('{"\\udc00": 1}'), "holds half of a surrogate pair"),
        (whole({"__metadata__": {"a": 1}}), "__metadata__ in the header is not an object of strings"),
        (whole({"t": 5}), "tensor t is 5, expected an object with dtype, shape and data_offsets"),
        (whole({"t": {"dtype": "F32", "shape": []}}), "expected an object with dtype, shape and data_offsets"),
        (whole({"t": entry(0, 4, dtype="Q4")}, 4), "tensor t has dtype 'Q4', expected one of"),
        (whole({"t": entry(0, 4, dtype=["F32"])}, 4), "tensor t has dtype ['F32'], expected one of"),
        (whole({"t": entry(0, 4, shape=[-1])}, 4), "tensor t has shape [-1], expected a list of at most 8 sizes"),
        (whole({"t": entry(0, 4, shape=[1.0])}, 4), "tensor t has shape [1.0], expected"),
        (whole({"t": entry(0, 4, shape=[True])}, 4), "tensor t has shape [True], expected"),
        (whole({"t": entry(0, 4, shape=[1] * 9)}, 4), "expected a list of at most 8 sizes"),
        (whole({"t": entry(0, 4, shape=[2**62, 2**62])}, 4), "tensor t takes 4 bytes, expected 85070591730234615865843651857942052864"),
        (whole({"t": entry(0, 0, shape=[0, 2**62, 2**62])}), "tensor t has the impossible shape"),
        (whole({"t": entry(0, 4, shape=[2])}, 4), "tensor t takes 4 bytes, expected 8 for F32 of shape [2]"),
        (whole({"t": entry(4, 0, shape=[1])}, 4), "tensor t takes bytes 4 to 0 of the data"),
        (whole({"t": entry(0, 8)}, 4), "tensor t takes bytes 0 to 8 of the data, but the file has 4 bytes of data"),
        (whole({"t": {"dtype": "F32", "shape": [1], "data_offsets": [0]}}, 4), "has data_offsets [0], expected [begin, end]"),
        (whole({"t": {"dtype": "F32", "shape": [1], "data_offsets": "04"}}, 4), "has data_offsets '04', expected"),
        (whole({"a": entry(0, 8), "b": entry(4, 12)}, 12), "tensor b at data offset 4 overlaps tensor a, which ends at 8"),
        (whole({"a": entry(0, 4), "b": entry(8, 12)}, 12), "tensor b at data offset 8 leaves a hole after tensor a, which ends at 4"),
        (whole({"a": entry(4, 8)}, 8), "tensor a at data offset 4 leaves a hole after the header"),
        (whole({"a": entry(0, 4)}, 8), "the tensors end at data offset 4, expected 8, the end of the file"),
    ],
)  # fmt: skip
def test_damage_is_named(tmp_path: Path, data: bytes, expected: str) -> None:
    assert expected in failure(tmp_path, data)


def test_huge_header_is_refused_before_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "sparse.safetensors"
    with path.open("wb") as file:
        file.write(struct.pack("<Q", 200_000_000))
        file.truncate(300_000_000)
    with pytest.raises(CheckpointError, match="the header's size is 200000000, expected at most 100000000"):
        SafetensorsFile(path)


def test_odd_offsets_are_read(tmp_path: Path) -> None:
    """A header of any length is valid, so that numbers may be unaligned."""
    path = tmp_path / "odd.safetensors"
    header = json.dumps({"b": entry(0, 3, [3], "U8"), "x": entry(3, 11)}).encode()
    header += b" " * ((5 - len(header)) % 8)
    path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(3) + np.array([1.5, -2], "<f4").tobytes())
    assert SafetensorsFile(path).tensors["x"].array.tolist() == [1.5, -2.0]


def test_every_truncation_is_refused(tmp_path: Path, sample: bytes) -> None:
    for size in [*range(0, len(sample), 13), len(sample) - 1]:
        failure(tmp_path, sample[:size])
    failure(tmp_path, sample + b"\0")


def test_mutations_never_crash(tmp_path: Path, sample: bytes) -> None:
    """1000 damaged files: each is read or refused with a `CheckpointError`, and views stay inside the file."""
    draw = random.Random(SEED)
    path = tmp_path / "mutated.safetensors"
    refused = 0
    for _ in range(1000):
        data = bytearray(sample)
        for _ in range(draw.randint(1, 3)):
            at = draw.randrange(len(data))
            choice = draw.random()
            if choice < 0.6:
                data[at] = draw.choice(b'0123456789"[]{},:FIB') if draw.random() < 0.7 else draw.randrange(256)
            elif choice < 0.8:
                del data[at : at + draw.randint(1, 20)]
            else:
                data[at:at] = data[at : at + draw.randint(1, 40)]
        path.write_bytes(data)
        try:
            tensors = SafetensorsFile(path).tensors
        except CheckpointError:
            refused += 1
            continue
        for tensor in tensors.values():
            tensor.array.sum()
    assert 300 < refused < 1000
