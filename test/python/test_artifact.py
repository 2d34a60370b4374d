"""Artifacts: what was saved runs again, and whatever happened to the file is a clear error."""

from __future__ import annotations

import errno
import os
import resource
import shutil
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

import deepseek
from deepseek import ACG, ArtifactError, InputError, artifact, runtime
from deepseek.artifact import Artifact
from deepseek.loading import executable


def scaled(x, y):
    return {"sum": x * 2 + y, "rows": x.shape[0]}


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "a folder" / "f.dsc"
    path.parent.mkdir()
    ACG.trace(scaled, np.ones((2, 3), np.float32), np.ones(3, np.float32)).compile().save(path)
    return path


def with_weight(x):
    return ACG.matmul(x, ACG.weight("w", (5, 4), "f32"), transpose_rhs=True) + ACG.weight("b", (5,), "f32")


@pytest.fixture(scope="module")
def weights():
    random = np.random.default_rng(0)
    return {
        "w": random.standard_normal((5, 4), np.float32),
        "b": random.standard_normal(5, np.float32),
        "unused": np.zeros(9, np.float32),
    }


def message(path) -> str:
    with pytest.raises(ArtifactError) as caught:
        Artifact(path)
    return str(caught.value)


def test_function_comes_back(saved):
    for rows in (1, 7, 127):
        x = np.random.default_rng(rows).standard_normal((rows, 11), np.float32)
        result = deepseek.load(saved)(x, x[0])
        np.testing.assert_array_equal(result["sum"], x * 2 + x[0])
        assert result["rows"] == rows


def test_torch_comes_back(tmp_path):
    import torch

    x = torch.randn(3, 4)
    ACG.trace(lambda x: (x + 1, [x * 2]), x).compile().save(tmp_path / "f.dsc")
    first, (second,) = deepseek.load(tmp_path / "f.dsc")(x)
    assert torch.equal(first, x + 1) and torch.equal(second, x * 2)


def test_compiled_function_saves_its_only_program(tmp_path):
    double = ACG.compile(lambda x: x + x)
    with pytest.raises(InputError, match="has 0 programs, expected one"):
        double.save(tmp_path / "f.dsc")
    double(np.ones(3))
    double.save(tmp_path / "f.dsc")
    assert deepseek.load(tmp_path / "f.dsc")(np.ones(4)).tolist() == [2.0] * 4
    double(np.ones((3, 3)))
    with pytest.raises(InputError, match="has 2 programs, expected one"):
        double.save(tmp_path / "f.dsc")


def test_weights_come_back(tmp_path, weights):
    path = tmp_path / "f.dsc"
    x = np.random.default_rng(1).standard_normal((3, 4), np.float32)
    program = ACG.trace(with_weight, x).compile()
    program.save(path)
    with pytest.raises(deepseek.ExecutionError, match="has no weights yet"):
        deepseek.load(path)(x)
    program.bind_weights(weights).save(path)
    expected = x.astype(np.float64) @ weights["w"].T + weights["b"]
    np.testing.assert_allclose(deepseek.load(path)(x), expected, rtol=0, atol=1e-6 * np.abs(expected).max())
    stored = Artifact(path).weights
    assert stored.keys() == {"w", "b"}
    for name, array in stored.items():
        np.testing.assert_array_equal(array, weights[name])
        assert array.ctypes.data % 64 == 0 and not array.flags.writeable


def test_external_weights(tmp_path, weights):
    source = tmp_path / "source" / "weights.bin"
    source.parent.mkdir()
    source.write_bytes(weights["b"].tobytes() + bytes(4) + weights["w"].tobytes())
    x = np.ones((2, 4), np.float32)
    program = ACG.trace(with_weight, x).compile().bind_weights(weights)
    file = artifact.ExternalFile(source)
    path = tmp_path / "f.dsc"
    artifact.write(
        path,
        text=program.graph.mlir,
        object=program.compiled.object,
        manifest=program.compiled.manifest,
        weights={name: weights[name] for name in ("w", "b")},
        external={"b": (file, 0), "w": (file, 24)},
    )
    expected = program(x)
    np.testing.assert_array_equal(deepseek.load(path)(x), expected)
    content = source.read_bytes()
    source.write_bytes(content[:-1] + b"\1")
    assert f"{source} is damaged: the checksum of bytes 0 to 104 does not match" in message(path)
    source.write_bytes(content[:-1])
    assert "as it was when compiled: it has 103 bytes, expected 104" in message(path)
    source.unlink()
    assert f"needs its weights in {source}" in message(path)
    (tmp_path / "weights.bin").write_bytes(content)  # moved together with the artifact
    np.testing.assert_array_equal(deepseek.load(path)(x), expected)


def test_equal_input_gives_equal_bytes(saved, tmp_path):
    script = textwrap.dedent(
        """
        import sys
        import numpy as np
        from deepseek import ACG
        def scaled(x, y):
            return {"sum": x * 2 + y, "rows": x.shape[0]}
        ACG.trace(scaled, np.ones((2, 3), np.float32), np.ones(3, np.float32)).compile().save(sys.argv[1])
        """
    )
    contents = []
    for index, seed in enumerate("12"):
        folder = tmp_path / f"folder {index}"
        folder.mkdir()
        (folder / "program.py").write_text(script)
        environment = os.environ | {"PYTHONHASHSEED": seed, "XDG_CACHE_HOME": str(folder)}
        subprocess.run([sys.executable, str(folder / "program.py"), str(folder / "f.dsc")], env=environment, check=True)
        contents.append((folder / "f.dsc").read_bytes())
    assert contents[0] == contents[1]
    assert str(tmp_path).encode() not in contents[0]
    assert b"program.py" in contents[0]  # locations keep the file's name


def test_every_flipped_bit_is_found(saved):
    content = saved.read_bytes()
    random = np.random.default_rng(2)
    for position in [*range(80), *random.integers(0, len(content), 400), len(content) - 1]:
        damaged = bytearray(content)
        damaged[position] ^= 1 << random.integers(8)
        saved.write_bytes(damaged)
        assert str(saved) in message(saved)
    saved.write_bytes(content)
    assert Artifact(saved).model is None


def test_every_truncation_is_found(saved):
    content = saved.read_bytes()
    for size in [*range(1, 70), *range(70, len(content), 997), len(content) - 1]:
        saved.write_bytes(content[:size])
        assert str(saved) in message(saved)
    saved.write_bytes(b"")
    assert message(saved) == f"{saved} is empty, expected an artifact (.dsc)"
    saved.write_bytes(content + b"\0")
    assert "is damaged" in message(saved)


def test_other_versions_are_refused(saved, monkeypatch):
    content = saved.read_bytes()
    saved.write_bytes(content[:7] + b"\x09" + content[8:])
    assert "has layout version 9, this version reads 3: compile the model again" in message(saved)
    saved.write_bytes(content)
    monkeypatch.setattr(deepseek, "__version__", "9.9")
    header, _ = artifact.json.JSONDecoder().raw_decode(content[64:].decode("latin-1"))
    assert f"was compiled by deepseek-runtime {header['compiler']}" in message(saved)


def test_missing_features_are_named(saved, monkeypatch):
    rest = runtime.cpu_features() - {"avx2", "fma"}
    monkeypatch.setattr(runtime, "cpu_features", lambda: rest)
    for load in (deepseek.load, lambda path: executable(Artifact(path))):
        with pytest.raises(ArtifactError) as caught:
            load(saved)
        assert str(caught.value).startswith(
            f"{saved} cannot run here: this CPU lacks avx2, fma, for which the program was compiled"
        )
    assert Artifact(saved).manifest["features"]  # it can still be looked into


def test_not_an_artifact(tmp_path):
    path = tmp_path / "x.dsc"
    assert message(path) == f"{path} cannot be read: No such file or directory"
    path.write_text("func.func")
    assert "begins with b'func.f', expected an artifact (.dsc)" in message(path)
    assert "is not a regular file" in message(tmp_path)
    os.mkfifo(tmp_path / "pipe.dsc")
    assert "is not a regular file" in message(tmp_path / "pipe.dsc")


def program_parts(path: Path) -> dict:
    opened = Artifact(path)
    return {"text": opened.text, "object": opened.object, "manifest": opened.manifest}


def in_child(action) -> int:
    """Exit status, or minus the signal, of a forked process that runs `action`."""
    child = os.fork()
    if child == 0:
        try:
            action()
        except ArtifactError as error:
            os.write(2, str(error).encode())
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_a_folder_that_refuses_leaves_the_old_file(saved, capfd):
    parts, before = program_parts(saved), saved.read_bytes()
    saved.parent.chmod(0o555)

    def write() -> None:
        if os.geteuid() == 0:  # root may write everywhere
            os.setuid(65534)
        artifact.write(saved, **parts)

    for folder in saved.parents[1:4]:  # pytest's own folders, private by default: the other user must get through
        folder.chmod(0o755)
    assert in_child(write) == 1
    assert "cannot be written: Permission denied; the old file, if any, is unchanged" in capfd.readouterr().err
    saved.parent.chmod(0o755)
    assert saved.read_bytes() == before and list(saved.parent.iterdir()) == [saved]


def test_a_full_disk_leaves_the_old_file(saved, monkeypatch, capfd):
    parts, before = program_parts(saved), saved.read_bytes()
    usage = shutil.disk_usage(saved.parent)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=100))
    with pytest.raises(
        ArtifactError, match=rf"no space left on the device: {len(before)} bytes are needed, 100 are free"
    ):
        artifact.write(saved, **parts)
    monkeypatch.undo()

    def write() -> None:  # the space ends while writing
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
        artifact.write(saved, **parts)

    assert in_child(write) == 1
    assert f"cannot be written: {os.strerror(errno.EFBIG)}" in capfd.readouterr().err
    assert saved.read_bytes() == before and list(saved.parent.iterdir()) == [saved]


def test_a_killed_writer_leaves_the_old_file(saved):
    parts, before = program_parts(saved), saved.read_bytes()
    kill = lambda done, total: os.kill(os.getpid(), signal.SIGKILL)  # noqa: E731
    assert in_child(lambda: artifact.write(saved, **parts, progress=kill)) == -signal.SIGKILL
    assert saved.read_bytes() == before


def test_loading_needs_numpy_only(saved):
    script = textwrap.dedent(
        f"""
        import sys
        class Refuse:
            def find_spec(self, name, path=None, target=None):
                if name.partition(".")[0] in ("torch", "tokenizers", "jinja2", "ml_dtypes") or "_mlir" in name:
                    raise ImportError(name)
        sys.meta_path.insert(0, Refuse())
        import deepseek, numpy as np
        result = deepseek.load({str(saved)!r})(np.ones((2, 3), np.float32), np.zeros(3, np.float32))
        assert result["sum"].tolist() == [[2.0] * 3] * 2
        maps = open("/proc/self/maps").read()
        assert "dsc_rt" in maps and "LLVM" not in maps and "MLIR" not in maps and "Dsc" not in maps, maps
        """
    )
    subprocess.run([sys.executable, "-c", script], check=True)
