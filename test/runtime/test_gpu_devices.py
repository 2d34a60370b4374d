"""GPUs that are found, and every reason why there is none, with a driver that is none (fake_cuda.c)."""

from __future__ import annotations

import ctypes
import gc
import json
import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from deepseek import runtime
from deepseek.cli import main
from deepseek.errors import ExecutionError, GpuError
from deepseek.runtime import gpu


def test_devices_and_their_properties(cuda: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_CUDA_DEVICES", "2")
    monkeypatch.setenv("FAKE_CUDA_MEMORY", str(80 << 30))
    found = gpu.probe()
    assert (found.ok, found.reason) == (True, "")
    assert [device.name for device in found.devices] == ["Fake GPU 0", "Fake GPU 1"]
    device = found.devices[1]
    assert (device.index, device.capability, device.driver) == (1, (9, 0), (12, 4))
    assert (device.multiprocessors, device.shared_bytes, device.clock_khz) == (132, 227 << 10, 1980000)
    assert (device.memory_bytes, device.l2_bytes) == (80 << 30, 50 << 20)
    assert cuda.log("retain") == []  # looking makes no context


@pytest.mark.parametrize(
    ("variables", "devices", "reason"),
    [
        (
            {"FAKE_CUDA_VERSION": "12020"},
            0,
            "the NVIDIA driver supports CUDA 12.2, compiled code needs 12.3 or newer: update the driver",
        ),
        ({"FAKE_CUDA_DEVICES": "0"}, 0, "the NVIDIA driver finds no GPU: is one passed to this container"),
        (
            {"FAKE_CUDA_CAPABILITY": "75"},
            1,
            r"Fake GPU 0,? has compute capability 7\.5, compiled code needs 8\.0 \(A100\) or newer",
        ),
        (
            {"FAKE_CUDA_FAIL": "cuInit:802"},
            0,
            "the NVIDIA driver does not start: cuInit: CUDA_ERROR_SYSTEM_NOT_READY",
        ),
        ({"FAKE_CUDA_FAIL": "cuInit:999"}, 0, "the NVIDIA driver does not start: cuInit: CUDA error 999"),
        (
            {"DEEPSEEK_LIBCUDA": "/nowhere/libcuda.so.1"},
            0,
            "no NVIDIA driver: /nowhere/libcuda.so.1: cannot open shared object file",
        ),
        ({"FAKE_CUDA_FAIL": "cuDeviceGetName:802"}, None, "GPU 0 cannot be asked for its properties"),
    ],
)
def test_reasons_why_there_is_none(
    cuda: object, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], devices: int | None, reason: str
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(GpuError, match=reason):
        gpu.Device(0)
    if devices is None:
        return
    found = gpu.probe()
    assert not found.ok and re.search(reason, found.reason) and "\n" not in found.reason
    assert len(found.devices) == devices


def test_a_later_look_finds_it(cuda: object, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setenv("DEEPSEEK_LIBCUDA", "/nowhere/libcuda.so.1")
        assert not gpu.probe().ok
    assert gpu.probe().ok


def test_a_library_that_is_no_driver(cuda: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEEPSEEK_LIBCUDA", str(cuda.nccl_path))
    assert "is no CUDA driver: it has no cuDriverGetVersion or cuInit" in gpu.probe().reason


def test_a_driver_that_lacks_a_function(cuda: object, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    source = "int cuInit(unsigned f) { return (int)f; } int cuDriverGetVersion(int *v) { *v = 12040; return 0; }"
    (tmp_path / "old.c").write_text(source)
    subprocess.run(["gcc", "-shared", "-fPIC", "old.c", "-o", "old.so"], cwd=tmp_path, check=True)
    monkeypatch.setenv("DEEPSEEK_LIBCUDA", str(tmp_path / "old.so"))
    assert re.search("old.so lacks the function cu[A-Za-z_0-9]+: reinstall the NVIDIA driver", gpu.probe().reason)


def test_importing_looks_for_nothing(run_python: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    script = """
import ctypes
calls = []
real = ctypes.CDLL
ctypes.CDLL = lambda *arguments, **named: calls.append(arguments) or real(*arguments, **named)
from deepseek.runtime import collectives, gpu, store
assert calls == [], calls
maps = open("/proc/self/maps").read()
assert "libdsc_rt" not in maps and "libcuda" not in maps
"""
    done = run_python(script)
    assert done.returncode == 0, done.stderr


def test_life_of_a_context(cuda: object) -> None:
    with gpu.Device(0) as device:
        assert device.threads == runtime._library().dsc_rt_threads(device.handle) == 132
        assert device.stream
        buffer, event = device.allocate(100), device.event()
        assert cuda.live() > 0 and cuda.used() > 0
    assert cuda.log("retain", "release") == ["retain 0", "release 0"]
    assert (cuda.live(), cuda.used()) == (0, 0)
    device.close()
    with pytest.raises(GpuError, match="the device Fake GPU 0 is closed"):
        buffer.fill(1)
    with pytest.raises(GpuError, match="is closed, or what was to be used is gone"):
        event.record()
    del buffer, event  # their finalizers come after the context


def test_a_context_ends_with_its_last_reference(cuda: object) -> None:
    device = gpu.Device(0)
    buffer = device.upload(np.arange(10))
    del device
    assert buffer.device.download(buffer, 10, np.int64).tolist() == list(range(10))
    del buffer
    gc.collect()
    assert cuda.log("release") == ["release 0"] and (cuda.live(), cuda.used()) == (0, 0)


def test_contexts_of_one_device_are_apart(cuda: object) -> None:
    with gpu.Device(0) as first, gpu.Device(0) as second:
        first.allocate(1 << 20)
        assert second.memory().used == 0 and first.memory().free == second.memory().free
    with pytest.raises(GpuError, match="there is no GPU 3: this machine has 1"):
        gpu.Device(3)


@pytest.mark.parametrize("function", ["cuDevicePrimaryCtxRetain", "cuStreamCreate", "cuEventCreate"])
def test_a_context_that_cannot_be_made(cuda: object, function: str) -> None:
    cuda.fail(function, 2)
    with pytest.raises(GpuError, match="CUDA_ERROR_OUT_OF_MEMORY"):
        gpu.Device(0)
    assert cuda.live() == 0 and cuda.used() == 0


def test_a_fork_cannot_use_it(cuda: object) -> None:
    device = gpu.Device(0)
    buffer = device.allocate(100)
    child = os.fork()
    if child == 0:
        try:
            reason = gpu.probe().reason
            del buffer
            device.close()
            os._exit(0 if "fork" in reason and "start processes by spawn" in reason else 1)
        finally:
            os._exit(2)
    assert os.waitpid(child, 0)[1] == 0
    buffer.fill(0)
    device.synchronize()


def test_thread_pools_take_no_gpu_code(cuda: object, compile_c: Callable) -> None:
    module, context = runtime.Module(compile_c("int32_t f(void) { return 1; }")), runtime.Context(1)
    message = ctypes.create_string_buffer(100)
    library = gpu.load_library()
    assert library.dsc_rt_attach(module._handle, context.handle, b"x", 1, None, message, 100) is None
    assert b"the context is a thread pool" in message.value
    assert isinstance(GpuError("x"), ExecutionError)


def test_doctor_describes_devices(
    cuda: object, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FAKE_CUDA_DEVICES", "2")
    monkeypatch.setenv("FAKE_CUDA_MEMORY", str(80 * 10**9))
    assert main(["doctor"]) == 0
    text = capsys.readouterr().out
    line = "Fake GPU 1, sm_90, 132 multiprocessors, 80.0 GB, driver for CUDA 12.4"
    assert re.search(rf"^gpu +1: {re.escape(line)}$", text, re.M)
    assert re.search(r"^nccl +version 2\.27\.3 \(several GPUs\)$", text, re.M)
    assert main(["doctor", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["gpu"]
    assert found["ok"] and found["reason"] == "" and found["devices"][0]["capability"] == [9, 0]
    assert found["nccl"] == {"ok": True, "version": "2.27.3", "reason": ""}


def test_doctor_names_reasons(
    cuda: object, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with monkeypatch.context() as patch:
        patch.setenv("DEEPSEEK_LIBNCCL", "/nowhere/libnccl.so.2")
        assert main(["doctor"]) == 0
        text = capsys.readouterr().out
        assert re.search(r"^nccl +several GPUs need NCCL: pip install nvidia-nccl-cu13 \(/nowhere", text, re.M)
    monkeypatch.setenv("FAKE_CUDA_CAPABILITY", "75")
    assert main(["doctor"]) == 0
    text = capsys.readouterr().out
    assert re.search(r"^gpu +none: Fake GPU 0 has compute capability 7\.5", text, re.M)
    assert re.search(r"^gpu +0: Fake GPU 0, sm_75", text, re.M) and not re.search("^nccl", text, re.M)
    monkeypatch.setenv("FAKE_CUDA_DEVICES", "0")
    assert main(["doctor", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["gpu"]
    assert not found["ok"] and "finds no GPU" in found["reason"] and found["devices"] == [] and found["nccl"] is None
