"""The GGUF reader against gguf-py (the format's reference implementation), and against damaged files."""

from __future__ import annotations

import os
import random
import struct
from pathlib import Path

import gguf
import numpy as np
import pytest

from deepseek.errors import CheckpointError
from deepseek.frontend.checkpoint.gguf import GGUFFile
from deepseek.frontend.checkpoint.tensors import BLOCK_FORMATS

SEED = 20


def write_sample(path: Path, alignment: int | None = None) -> dict[str, np.ndarray]:
    """A file with every metadata type and every block format; returns the raw bytes of each tensor."""
    writer = gguf.GGUFWriter(path, "llama")
    if alignment is not None:
        writer.add_custom_alignment(alignment)
    writer.add_uint8("k.u8", 200)
    writer.add_int8("k.i8", -3)
    writer.add_uint16("k.u16", 60000)
    writer.add_int16("k.i16", -30000)
    writer.add_uint32("k.u32", 4_000_000_000)
    writer.add_int32("k.i32", -5)
    writer.add_uint64("k.u64", 2**63)
    writer.add_int64("k.i64", -(2**62))
    writer.add_float32("k.f32", 0.5)
    writer.add_float64("k.f64", 0.1)
    writer.add_bool("k.yes", True)
    writer.add_bool("k.no", False)
    writer.add_string("k.text", "höhe \u2028 文")
    writer.add_array("k.strings", ["a", "", "ü"])
    writer.add_array("k.ints", [1, -2, 3])
    writer.add_array("k.floats", [0.25, -1.5])
    writer.add_array("k.bools", [True, False])
    rng = np.random.default_rng(SEED)
    raw = {}
    for kind, form in BLOCK_FORMATS.items():
        name = f"t.{form.name}"
        if form.name in ("f32", "f16"):
            value = rng.standard_normal((3, 2, 5)).astype(form.name.replace("f", "float"))
            writer.add_tensor(name, value)
        else:
            blocks = 2 if form.elements > 1 else 7
            value = rng.integers(0, 256, (3, blocks * form.bytes), dtype=np.uint8)
            writer.add_tensor(name, value, raw_dtype=gguf.GGMLQuantizationType(kind))
        raw[name] = np.ascontiguousarray(value).view(np.uint8).reshape(-1)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return raw


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("gguf") / "sample.gguf"
    write_sample(path)
    return path.read_bytes()


def failure(tmp_path: Path, data: bytes) -> str:
    path = tmp_path / "bad.gguf"
    path.write_bytes(data)
    with pytest.raises(CheckpointError) as caught:
        GGUFFile(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message and len(message) < 600
    return message


def header(version: int = 3, tensors: int = 0, metadata: int = 0) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", version, tensors, metadata)


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value.encode())) + value.encode()


def entry(name: str, shape: list[int], kind: int = 0, offset: int = 0) -> bytes:
    return text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset)


@pytest.mark.parametrize("alignment", [None, 8, 64, 4096])
def test_agrees_with_gguf_py(tmp_path: Path, alignment: int | None) -> None:
    path = tmp_path / "sample.gguf"
    raw = write_sample(path, alignment)
    ours, reference = GGUFFile(path), gguf.GGUFReader(path)
    assert ours.file_bytes == path.stat().st_size
    for key, field in reference.fields.items():
        if key.startswith("GGUF."):
            continue
        expected, value = field.contents(), ours.metadata[key]
        assert (list(value) if isinstance(expected, list) else value) == expected, key
    assert list(ours.tensors) == [tensor.name for tensor in reference.tensors]
    for tensor in reference.tensors:
        mine = ours.tensors[tensor.name]
        assert mine.shape == tuple(int(size) for size in tensor.shape[::-1])
        assert mine.format.name == tensor.tensor_type.name.lower()
        assert mine.nbytes == tensor.n_bytes
        assert not mine.data.flags.writeable
        np.testing.assert_array_equal(mine.data.reshape(-1), raw[tensor.name])


def test_block_sizes_are_those_of_gguf_py() -> None:
    for kind, form in BLOCK_FORMATS.items():
        assert (form.elements, form.bytes) == gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType(kind)]


def test_release_keeps_the_data_readable(tmp_path: Path) -> None:
    raw = write_sample(tmp_path / "sample.gguf")
    file = GGUFFile(tmp_path / "sample.gguf")
    file.release()
    np.testing.assert_array_equal(file.tensors["t.q8_0"].data.reshape(-1), raw["t.q8_0"])


def test_version_2_is_read_and_others_are_refused(tmp_path: Path, sample: bytes) -> None:
    path = tmp_path / "v2.gguf"
    path.write_bytes(sample[:4] + struct.pack("<I", 2) + sample[8:])
    assert len(GGUFFile(path).tensors) == len(BLOCK_FORMATS)
    assert "GGUF version is 1, expected 2 or 3" in failure(tmp_path, header(version=1))
    assert "GGUF version is 77, expected 2 or 3" in failure(tmp_path, header(version=77))
    assert "big-endian" in failure(tmp_path, b"GGUF" + struct.pack(">IQQ", 3, 0, 0))


def test_files_that_are_not_gguf(tmp_path: Path) -> None:
    assert "the file is empty" in failure(tmp_path, b"")
    assert "begins with b'PK\\x03\\x04', expected the magic b'GGUF'" in failure(tmp_path, b"PK\x03\x04" + bytes(99))
    with pytest.raises(CheckpointError, match="No such file"):
        GGUFFile(tmp_path / "absent.gguf")
    with pytest.raises(CheckpointError, match="not a regular file"):
        GGUFFile(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(CheckpointError, match="not a regular file"):
        GGUFFile(tmp_path / "pipe")


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (header(tensors=2**60), "tensor count is 1152921504606846976, but at most 0 tensors fit"),
        (header(metadata=2**64 - 1), "metadata count is 18446744073709551615, but at most 0 metadata fit"),
        (header(metadata=1) + struct.pack("<Q", 2**63) + bytes(16), "metadata key 0 of 1 needs 9223372036854775808 bytes"),
        (header(metadata=1) + text("k") + struct.pack("<IB", 13, 0), "metadata key k has value type 13, expected 0 to 12"),
        (header(metadata=1) + text("k") + struct.pack("<IB", 7, 2), "metadata key k is a bool stored as 2"),
        (header(metadata=2) + 2 * (text("k") + struct.pack("<II", 4, 0)), "metadata key k appears twice"),
        (header(metadata=1) + text("k") + struct.pack("<IIQ", 9, 4, 2**61), "metadata key k needs 9223372036854775808 bytes"),
        (header(metadata=1) + text("k") + struct.pack("<IIQ", 9, 8, 2**40), "1099511627776 items"),
        (header(metadata=1) + text("k") + struct.pack("<IIQ", 9, 99, 0), "element type 99, expected 0 to 12"),
        (header(metadata=1) + text("k") + struct.pack("<I", 9) + struct.pack("<IQ", 9, 1) * 8, "deeper than 4 levels"),
        (header(metadata=1) + struct.pack("<Q", 2) + b"\xff\xfe" + bytes(5), "not valid UTF-8"),
        (header(tensors=1) + entry("t", [4], 11), "tensor t has block format 11 (q3_k), expected one of f32, f16, q4_0"),
        (header(tensors=1) + entry("t", [4], 999), "tensor t has block format 999, expected one of"),
        (header(tensors=1) + entry("t", [31], 2), "tensor t is q4_0 with rows of 31 elements, expected a multiple of 32"),
        (header(tensors=1) + entry("t", [1] * 9), "tensor t has 9 dimensions, expected 1 to 4"),
        (header(tensors=1) + entry("t", [2**62, 2**62]), "bytes at data offset 0, but the file has 0 bytes of data"),
        (header(tensors=1) + entry("t", [0, 2**63, 2**63]), "tensor t has the impossible shape"),
        (header(tensors=1) + entry("t", [4], 0, 2**40) + bytes(64), "tensor t takes 16 bytes at data offset 1099511627776"),
        (header(tensors=1) + entry("t", [4], 0, 4) + bytes(64), "tensor t is at data offset 4, expected a multiple of 32"),
        (header(tensors=2) + entry("t", [4]) + entry("t", [4], 0, 32) + bytes(128), "tensor t appears twice"),
        (header(tensors=2) + entry("a", [9]) + entry("b", [4], 0, 32) + bytes(128), "tensor b at data offset 32 overlaps tensor a"),
        (
            header(metadata=1) + text("general.alignment") + struct.pack("<II", 4, 24),
            "general.alignment is 24, expected a power of two",
        ),
    ],
)  # fmt: skip
def test_damage_is_named(tmp_path: Path, data: bytes, expected: str) -> None:
    assert expected in failure(tmp_path, data)


def test_typed_access(tmp_path: Path) -> None:
    write_sample(tmp_path / "sample.gguf")
    file = GGUFFile(tmp_path / "sample.gguf")
    assert file.settings.require("k.i8", int) == -3
    assert file.settings.get("k.i8", float) == -3.0
    assert file.settings.get("k.absent", int, 7) == 7
    with pytest.raises(CheckpointError, match="metadata key k.text is str, expected int"):
        file.settings.get("k.text", int)
    with pytest.raises(CheckpointError, match="metadata key k.yes is bool, expected int"):
        file.settings.get("k.yes", int)
    with pytest.raises(CheckpointError, match="metadata key k.absent is missing"):
        file.settings.require("k.absent", str)
    with pytest.raises(CheckpointError, match="metadata key k.ints is an array of int32, expected an array of str"):
        file.array("k.ints", str)
    with pytest.raises(CheckpointError, match="metadata key k.strings is an array, expected int"):
        file.settings.get("k.strings", int)


def test_every_truncation_is_refused(tmp_path: Path, sample: bytes) -> None:
    file = tmp_path / "whole.gguf"
    file.write_bytes(sample)
    tensors = GGUFFile(file).tensors
    last = max(tensor.data.ctypes.data + tensor.nbytes for tensor in tensors.values())
    first = min(tensor.data.ctypes.data for tensor in tensors.values())
    data_begin = len(sample) - (-(-(last - first) // 32) * 32)
    end = data_begin + last - first  # what follows is padding
    for size in [*range(0, data_begin, 7), *range(data_begin, end, 61), end - 1]:
        failure(tmp_path, sample[:size])


def test_mutations_never_crash(tmp_path: Path, sample: bytes) -> None:
    """1000 damaged files: each is read or refused with a `CheckpointError`, and views stay inside the file."""
    draw = random.Random(SEED)
    path = tmp_path / "mutated.gguf"
    refused = 0
    for _ in range(1000):
        data = bytearray(sample)
        for _ in range(draw.randint(1, 4)):
            at = draw.randrange(0, min(len(data), 1800))
            choice = draw.random()
            if choice < 0.5:
                data[at] = draw.randrange(256)
            elif choice < 0.7:
                data[at : at + 8] = struct.pack("<Q", draw.choice([0, 1, 2**31, 2**32, 2**62, 2**63, 2**64 - 1]))
            elif choice < 0.85:
                del data[at : at + draw.randint(1, 40)]
            else:
                data[at:at] = bytes(draw.randint(1, 40))
        path.write_bytes(data)
        try:
            file = GGUFFile(path)
        except CheckpointError:
            refused += 1
            continue
        for tensor in file.tensors.values():
            tensor.data.sum()
    assert 400 < refused < 1000
