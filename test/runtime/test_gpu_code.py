"""GPU code of a module: the driver's messages, architectures, and what is kept on disk."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from deepseek import runtime
from deepseek.errors import GpuError
from deepseek.runtime import gpu

PROGRAM = """
static PLAIN(scale, 128, 0, 1, 0, 0, 1, 0);
int32_t go(void *rt, void *const *buffers, const int64_t *dims) {
  dsc_rt_launch(rt, (kernel)&scale, buffers, dims, 1, 0);
  return 0;
}
"""


def ptx(target: str = "sm_90a", body: str = "ret;") -> str:
    entry = f".visible .entry scale(.param .u64 a, .param .u64 n) {{ {body} }}"
    return f"// made by a test\n.version 8.3\n.target {target}\n.address_size 64\n{entry}\n"


@pytest.fixture
def device(cuda: object) -> Iterator[gpu.Device]:
    with gpu.Device(0) as device:
        cuda.log()
        yield device


@pytest.fixture
def module(gpu_program: Callable) -> runtime.Module:
    return gpu_program(PROGRAM)


@pytest.fixture
def runs(device: gpu.Device, module: runtime.Module, run_program: Callable, cuda: object) -> Callable[[], None]:
    def check() -> None:
        run_program(module, device.handle, "go", [16], [0])
        device.synchronize()

    return check


def test_without_a_cache(cuda: object, device: gpu.Device, module: runtime.Module, runs: Callable) -> None:
    code = device.load(module, ptx())
    assert cuda.log("link", "load") == ["load ptx"]
    runs()
    del code


def test_machine_code_is_loaded_as_it_is(
    cuda: object, device: gpu.Device, module: runtime.Module, runs: Callable, tmp_path: Path
) -> None:
    code = device.load(module, b"\x7fELF" + ptx().encode() + b"\0", cache=tmp_path / "cubins")
    assert cuda.log("link", "load") == ["load cubin"]
    runs()
    assert list((tmp_path / "cubins").iterdir()) == []
    del code


@pytest.mark.parametrize("cached", [False, True])
def test_rejected_code_has_the_drivers_words(
    cuda: object, device: gpu.Device, module: runtime.Module, tmp_path: Path, cached: bool
) -> None:
    message = (
        "Fake GPU 0 does not take the GPU code: CUDA_ERROR_INVALID_PTX\n"
        "ptxas application ptx input, line 9; error: Parsing error near 'SYNTAX'"
    )
    with pytest.raises(GpuError) as caught:
        device.load(module, ptx(body="SYNTAX"), cache=tmp_path / "cubins" if cached else None)
    assert str(caught.value) == message
    assert not cached or list((tmp_path / "cubins").iterdir()) == []
    device.check()  # the context has no error


@pytest.mark.parametrize(
    ("target", "capability", "fits"),
    [
        ("sm_90a", 90, True),
        ("sm_90a", 100, False),
        ("sm_90a", 80, False),
        ("sm_80", 80, True),
        ("sm_80", 86, True),
        ("sm_80", 90, True),
        ("sm_90", 80, False),
        ("sm_100f", 103, True),
        ("sm_100f", 120, False),
    ],
)
def test_architectures(
    cuda: object, module: runtime.Module, monkeypatch: pytest.MonkeyPatch, target: str, capability: int, fits: bool
) -> None:
    monkeypatch.setenv("FAKE_CUDA_CAPABILITY", str(capability))
    with gpu.Device(0) as device:
        if fits:
            device.load(module, ptx(target))
            return
        message = f"the GPU code is for {target}, Fake GPU 0 is sm_{capability}: compile it for this GPU"
        with pytest.raises(GpuError, match=message):
            device.load(module, ptx(target))
        assert cuda.log("load") == []


def test_what_the_driver_made_is_kept(
    cuda: object, device: gpu.Device, module: runtime.Module, runs: Callable, tmp_path: Path
) -> None:
    folder = tmp_path / "deep" / "cubins"
    code = device.load(module, ptx(), cache=folder)
    assert cuda.log("link", "load") == ["link target=0x1005a", "load cubin"]  # CU_TARGET_COMPUTE_90A
    (path,) = folder.iterdir()
    assert path.suffix == ".cubin"
    written = path.stat().st_ino
    for _ in range(2):
        code = device.load(module, ptx(), cache=folder)
        assert cuda.log("link", "load") == ["load cubin"] and path.stat().st_ino == written
    runs()
    code = device.load(module, ptx(body="ret; ret;"), cache=folder)  # another text
    assert cuda.log("link", "load") == ["link target=0x1005a", "load cubin"]
    code = device.load(module, ptx("sm_80"), cache=folder)
    assert cuda.log("link", "load") == ["link target=0", "load cubin"]  # the linker takes the device's
    assert len(list(folder.iterdir())) == 3
    del code


def test_texts_are_compiled_at_the_same_time(
    cuda: object, device: gpu.Device, module: runtime.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_CUDA_LINK_MS", "50")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(4))
    folder = tmp_path / "deep" / "cubins"
    texts = [ptx(body="ret;" * n) for n in range(1, 7)]
    assert device.compile([*texts, *texts], folder) == 6  # the same text once
    assert cuda.log("link", "load") == ["link target=0x1005a"] * 6
    assert 2 <= cuda.most_links() <= 4
    assert len(list(folder.iterdir())) == 6
    assert device.compile(texts, folder) == 0
    codes = [device.load(module, text, cache=folder) for text in texts]
    assert cuda.log("link", "load") == ["load cubin"] * 6
    # What the driver refuses, or another GPU would run, is nobody's error before it is loaded.
    assert device.compile([ptx(body="SYNTAX"), ptx("sm_100a"), "\x7fELF"], folder) == 0
    with pytest.raises(GpuError, match="error: Parsing error near 'SYNTAX'"):
        device.load(module, ptx(body="SYNTAX"), cache=folder)
    (tmp_path / "file").write_text("")
    device.compile(texts, tmp_path / "file" / "cubins")  # a folder that cannot be made is none
    del codes


def test_drivers_and_architectures_are_kept_apart(
    fake_libraries: Path, tmp_path: Path, run_python: Callable, monkeypatch: pytest.MonkeyPatch, compile_c: Callable
) -> None:
    (tmp_path / "program.o").write_bytes(compile_c("int32_t f(void) { return 1; }"))
    monkeypatch.setenv("DEEPSEEK_LIBCUDA", str(fake_libraries / "libcuda.so.1"))
    script = f"""
from pathlib import Path
from deepseek import runtime
from deepseek.runtime import gpu
module = runtime.Module(Path("program.o").read_bytes())
with gpu.Device(0) as device:
    device.load(module, {ptx("sm_80")!r}, cache=Path("cubins"))
"""
    for version, capability, files in ((12040, 80, 1), (12040, 90, 2), (12050, 90, 3), (12050, 90, 3)):
        monkeypatch.setenv("FAKE_CUDA_VERSION", str(version))
        monkeypatch.setenv("FAKE_CUDA_CAPABILITY", str(capability))
        done = run_python(script)
        assert done.returncode == 0, done.stderr
        assert len(list((tmp_path / "cubins").iterdir())) == files


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: data[:30],
        lambda data: data[:-1],
        lambda data: data + b"x",
        lambda data: data[:-5] + b"x" + data[-4:],
        lambda data: b"x" + data[1:],
        lambda data: data[:8] + b"\0" * 16 + data[24:],
        lambda data: data[:24] + b"\xff" * 8 + data[32:],
    ],
)
def test_damaged_files_are_written_anew(
    cuda: object,
    device: gpu.Device,
    module: runtime.Module,
    runs: Callable,
    tmp_path: Path,
    damage: Callable[[bytes], bytes],
) -> None:
    code = device.load(module, ptx(), cache=tmp_path / "cubins")
    (path,) = (tmp_path / "cubins").iterdir()
    whole = path.read_bytes()
    path.write_bytes(damage(whole))
    cuda.log()
    code = device.load(module, ptx(), cache=tmp_path / "cubins")
    assert cuda.log("link", "load") == ["link target=0x1005a", "load cubin"]
    assert path.read_bytes() == whole and len(list(path.parent.iterdir())) == 1
    runs()
    del code


def test_a_file_that_the_driver_refuses(
    cuda: object, device: gpu.Device, module: runtime.Module, runs: Callable, tmp_path: Path
) -> None:
    device.load(module, ptx(), cache=tmp_path / "cubins")
    cuda.log()
    cuda.fail("cuModuleLoadDataEx", 200)
    code = device.load(module, ptx(), cache=tmp_path / "cubins")
    assert cuda.log("load") == ["load ptx"]
    runs()
    del code


@pytest.mark.parametrize("function", ["cuLinkCreate_v2", "cuLinkAddData_v2", "cuLinkComplete"])
def test_a_linker_that_does_not_work(
    cuda: object, device: gpu.Device, module: runtime.Module, runs: Callable, tmp_path: Path, function: str
) -> None:
    cuda.fail(function, 801)
    before = cuda.live()
    code = device.load(module, ptx(), cache=tmp_path / "cubins")
    assert cuda.log("load") == ["load ptx"] and cuda.live() == before + 1
    assert list((tmp_path / "cubins").iterdir()) == []
    runs()
    del code


def test_a_folder_that_cannot_be_used(
    cuda: object, device: gpu.Device, module: runtime.Module, runs: Callable, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("in the way")
    sealed = tmp_path / "sealed"
    sealed.mkdir(mode=0o500)
    for folder in (
        tmp_path / "file",
        tmp_path / "file" / "below",
        sealed,
        Path("/proc/nowhere"),
        tmp_path / ("x" * 5000),
    ):
        code = device.load(module, ptx(), cache=folder)
        runs()
    assert (tmp_path / "file").read_text() == "in the way"
    assert os.geteuid() == 0 or list(sealed.iterdir()) == []
    del code


def test_abandoned_files_are_no_entries(
    cuda: object, device: gpu.Device, module: runtime.Module, tmp_path: Path
) -> None:
    device.load(module, ptx(), cache=tmp_path)
    (path,) = tmp_path.glob("*.cubin")
    path.rename(path.with_name(f"{path.name}.123.tmp"))
    cuda.log()
    device.load(module, ptx(), cache=tmp_path)
    assert cuda.log("link") == ["link target=0x1005a"]
