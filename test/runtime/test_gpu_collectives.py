"""Groups of GPUs with a driver and an NCCL that are none, and the store that passes a group's id on."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import deepseek
from deepseek.errors import ExecutionError, GpuError, InputError
from deepseek.runtime import collectives, gpu
from deepseek.runtime.collectives import Communicator
from deepseek.runtime.store import TcpStore


class Table(dict):
    """A store within one process, with the methods of torch.distributed's."""

    set = dict.__setitem__
    get = dict.__getitem__


@pytest.fixture
def device(cuda: object) -> Iterator[gpu.Device]:
    with gpu.Device(0) as device:
        yield device


@pytest.fixture
def group(device: gpu.Device) -> Communicator:
    """Rank 1 of 4: the fake NCCL waits for no one where it is given no folder."""
    store = Table({"deepseek/nccl/0": b"id".ljust(127, b"\0") + bytes([77])})
    return Communicator(device, store, 1, 4)


def test_nccl_is_found_or_named(cuda: object, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setenv("DEEPSEEK_LIBNCCL", "/nowhere/libnccl.so.2")
        found = collectives.find_nccl()
        assert not found.ok and found.reason == (
            "several GPUs need NCCL: pip install nvidia-nccl-cu13 (/nowhere/libnccl.so.2: cannot open shared object "
            "file: No such file or directory)"
        )
        with gpu.Device(0) as device, pytest.raises(GpuError, match="pip install nvidia-nccl-cu13"):
            Communicator(device, Table(), 0, 2)
        patch.setenv("DEEPSEEK_LIBNCCL", str(cuda.path))
        assert re.search("libcuda.so.1 lacks the function nccl", collectives.find_nccl().reason)
    assert collectives.find_nccl() == collectives.Nccl(True, "2.27.3", "")


def test_nccl_of_the_package(cuda: object, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    folder = tmp_path / "packages" / "nvidia" / "nccl" / "lib"
    folder.mkdir(parents=True)
    (folder / "libnccl.so.2").write_bytes(cuda.nccl_path.read_bytes())
    monkeypatch.delenv("DEEPSEEK_LIBNCCL")
    monkeypatch.syspath_prepend(tmp_path / "packages")
    monkeypatch.delitem(sys.modules, "nvidia", raising=False)
    if collectives._packaged() != str(folder / "libnccl.so.2"):
        pytest.skip("this environment has another package nvidia")
    assert collectives.find_nccl().ok


def test_collectives(cuda: object, device: gpu.Device, group: Communicator) -> None:
    one, four, other = device.allocate(1024), device.allocate(4096), device.allocate(4096)
    group.all_reduce(one, "bf16")
    group.all_reduce(one, "f32", "max", source=device.allocate(1024))
    group.all_gather(four, one, "u8")
    group.reduce_scatter(one, four, "f16", "sum")
    group.broadcast(one, "i64", root=3)
    group.all_to_all(four, other, "f32")
    group.send(one, "i32", 2)
    group.receive(one, "f64", 0)
    with group.together():
        group.send(one, "u32", 0)
        group.receive(one, "u32", 0)
    group.check()
    assert cuda.nccl_log() == [
        "init 1 of 4, id",
        "all_reduce 512 type 9 operation 0 in place",
        "all_reduce 256 type 7 operation 2",
        "all_gather 1024 type 1",
        "reduce_scatter 512 type 6 operation 0",
        "broadcast 128 type 4 root 3",
        "group",
        *[
            line
            for rank in range(4)
            for line in (
                f"send 256 type 7 to {rank} at {1024 * rank}",
                f"receive 256 type 7 from {rank} at {1024 * rank}",
            )
        ],
        "end",
        "send 256 type 2 to 2 at 0",
        "receive 128 type 8 from 0 at 0",
        "group",
        "send 256 type 3 to 0 at 0",
        "receive 256 type 3 from 0 at 0",
        "end",
    ]
    assert cuda.depth() == 0
    group.close()
    assert cuda.nccl_live() == 0 and cuda.nccl_log()[-1] == "destroy"
    with pytest.raises(GpuError, match="is gone"):
        group.all_reduce(one, "bf16")


def test_arguments_that_make_no_sense(device: gpu.Device, group: Communicator) -> None:
    one, three = device.allocate(10), device.allocate(30)
    for call, message in (
        (lambda: group.all_reduce(one, "f32"), "10 bytes are no whole number of f32"),
        (lambda: group.all_reduce(one, "f8"), "collectives have no element 'f8': u8, u32"),
        (lambda: group.all_reduce(one, "f16", "product"), "collectives have no operation 'product': sum, max"),
        (lambda: group.all_gather(three, one, "u8"), "30 bytes are not 4 times 10"),
        (lambda: group.reduce_scatter(one, three, "u8"), "30 bytes are not 4 times 10"),
        (lambda: group.all_to_all(one, one, "u8"), "needs two buffers of equal parts for 4 ranks"),
        (lambda: Communicator(device, Table(), 4, 4), "rank must be 0 to 3, got 4"),
    ):
        with pytest.raises(InputError, match=re.escape(message)):
            call()
    with pytest.raises(GpuError, match="send: 10 elements of type 0, operation 0, rank 7 of 4"):
        group.send(one, "u8", 7)
    short = Table({"deepseek/nccl/1": b"short"})
    with pytest.raises(GpuError, match="the store has 5 bytes under 'deepseek/nccl/1', the id of a group has 128"):
        Communicator(device, short, 1, 4, name="1")


def test_errors_of_nccl(cuda: object, device: gpu.Device, group: Communicator) -> None:
    buffer = device.allocate(64)
    cuda.nccl_fail("ncclAllReduce", 5)
    with pytest.raises(GpuError, match=r"all_reduce: NCCL error 5, unhandled error \(socket closed\)"):
        group.all_reduce(buffer, "f32")
    group.all_reduce(buffer, "f32")
    cuda.nccl_fail("ncclSend", 5)
    with pytest.raises(GpuError, match="all_to_all: NCCL error 5"):
        group.all_to_all(buffer, device.allocate(64), "f32")
    assert cuda.nccl_log()[-1] == "end"  # the group of transfers was ended
    cuda.nccl_fail("ncclCommInitRank", 2)
    with pytest.raises(GpuError, match="joining the group: NCCL error 2"):
        Communicator(device, Table(), 0, 4)
    cuda.nccl_fail("ncclGetUniqueId", 2)
    with pytest.raises(GpuError, match="the id of a new group: NCCL error 2"):
        Communicator(device, Table(), 0, 4)


def test_a_rank_that_is_gone_aborts_the_group(cuda: object, device: gpu.Device, group: Communicator) -> None:
    buffer = device.allocate(64)
    group.all_reduce(buffer, "f32")
    group.wait()
    cuda.nccl_fail("async", 6)
    message = "a collective failed: NCCL error 6, remote process exited or there was a network error"
    with pytest.raises(GpuError, match=message):
        group.check()
    with pytest.raises(GpuError, match=message):
        group.wait()
    assert cuda.nccl_log()[-1] == "abort" and cuda.nccl_live() == 0
    with pytest.raises(GpuError, match="all_reduce: the group was aborted"):
        group.all_reduce(buffer, "f32")
    group.abort()  # twice is harmless
    group.close()
    buffer.fill(0)
    device.synchronize()


def test_waiting_has_an_end(
    cuda: object, device: gpu.Device, group: Communicator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu.Event, "done", False)
    with pytest.raises(GpuError, match=r"rank 1 has waited 0\.05 s for the other 3 ranks"):
        group.wait(timeout=0.05)
    assert cuda.nccl_log()[-1] == "abort"


@pytest.mark.parametrize(("state", "last"), [(0, "destroy"), (6, "abort")])
def test_groups_end_with_their_device(cuda: object, state: int, last: str) -> None:
    with gpu.Device(0) as device:
        group = Communicator(device, Table(), 0, 2)
        cuda.nccl_fail("async", state)
    assert cuda.nccl_live() == 0 and cuda.nccl_log()[-1] == last and cuda.live() == 0
    group.close()


def test_two_processes_make_a_group(fake_libraries: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEEPSEEK_LIBCUDA", str(fake_libraries / "libcuda.so.1"))
    monkeypatch.setenv("DEEPSEEK_LIBNCCL", str(fake_libraries / "libnccl.so.2"))
    monkeypatch.setenv("FAKE_NCCL_FOLDER", str(tmp_path))
    monkeypatch.setenv("FAKE_CUDA_DEVICES", "2")
    script = """
import ctypes, os, sys
from deepseek.runtime.collectives import Communicator
from deepseek.runtime.gpu import Device
from deepseek.runtime.store import TcpStore
rank, port = int(sys.argv[1]), int(sys.argv[2])
with TcpStore(port, rank, timeout=30) as store, Device(rank) as device:
    if rank == 0:
        print(store.port, flush=True)
    group = Communicator(device, store, rank, 2)
    group.all_reduce(device.allocate(64), "f32")
    group.wait()
    if rank == 0:
        store.get("done")  # who serves goes last
    else:
        store.set("done", b"")
    nccl = ctypes.CDLL(os.environ["DEEPSEEK_LIBNCCL"])
    nccl.fake_nccl_log.restype = ctypes.c_char_p
    print(nccl.fake_nccl_log().decode())
"""
    site = str(Path(deepseek.__file__).parents[1])
    start = lambda rank, port: subprocess.Popen(  # noqa: E731
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {site!r})\n{script}", str(rank), str(port)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    first = start(0, 0)
    port = int(first.stdout.readline())
    second = start(1, port)
    texts = []
    for process in (first, second):
        out, errors = process.communicate(timeout=60)
        assert process.returncode == 0, errors
        texts.append(out.splitlines())
    identity = f"id of process {first.pid}"
    assert texts[0][0] == f"init 0 of 2, {identity}" and texts[1][0] == f"init 1 of 2, {identity}"
    assert all(text[1] == "all_reduce 16 type 7 operation 0 in place" for text in texts)


def test_store_passes_values_on() -> None:
    with TcpStore(0, 0, timeout=10) as server:
        client = TcpStore(server.port, 1, timeout=10)
        server.set("a", b"1")
        assert client.get("a") == b"1"
        client.set("a", b"2")
        assert server.get("a") == b"2"
        large = bytes(range(256)) * 4096
        client.set("large", large)
        assert server.get("large") == large and server.get("a") == b"2"
        client.set("empty", b"")
        assert client.get("empty") == b""
        waiting: list[bytes] = []
        threads = [threading.Thread(target=lambda: waiting.append(client.get("later"))) for _ in range(5)]
        for thread in threads:
            thread.start()
        time.sleep(0.05)
        assert waiting == []
        server.set("later", b"now")
        for thread in threads:
            thread.join()
        assert waiting == [b"now"] * 5


def test_store_errors() -> None:
    with TcpStore(0, 0, timeout=0.2) as server:
        assert server.host == "127.0.0.1"
        with pytest.raises(ExecutionError, match=r"no process has set 'x' in 0\.2 s: are all ranks running"):
            TcpStore(server.port, 1, timeout=0.2).get("x")
        with pytest.raises(ExecutionError, match=f"rank 0 cannot listen at 127.0.0.1:{server.port}"):
            TcpStore(server.port, 0)
        with pytest.raises(ExecutionError, match="a key may have 1024 bytes"):
            server.set("k" * 2000, b"")
        # what speaks another language does no harm
        for junk in (b"", b"GET / HTTP/1.1\r\n\r\n", b"\xff" * 21, b"\xff" * 1000):
            with socket.create_connection(("127.0.0.1", server.port)) as connection:
                connection.sendall(junk)
        server.set("still", b"here")
        assert server.get("still") == b"here"
        port = server.port
    with pytest.raises(ExecutionError, match=rf"rank 0 is not at 127\.0\.0\.1:{port} after 0\.2 s"):
        TcpStore(port, 1, timeout=0.2).get("still")
    with pytest.raises(ExecutionError, match="only rank 0 can take a free port"):
        TcpStore(0, 1)


def test_a_connection_to_itself_is_no_store(monkeypatch: pytest.MonkeyPatch) -> None:
    """TCP connects a socket to itself where nobody listens and its own port is the one that it asks for."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    attempts = []

    def connect(address: tuple[str, int], timeout: float) -> socket.socket:
        attempts.append(timeout)
        connection = socket.socket()
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        connection.bind(address)
        connection.connect(address)
        return connection

    monkeypatch.setattr(socket, "create_connection", connect)
    with pytest.raises(ExecutionError, match="rank 0 is not at .* after 0.2 s: nobody listens"):
        TcpStore(port, 1, timeout=0.2).get("key")
    assert len(attempts) > 1


def test_a_process_may_come_before_rank_0() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    found: list[bytes] = []
    early = threading.Thread(target=lambda: found.append(TcpStore(port, 1, timeout=20).get("key")))
    early.start()
    time.sleep(0.1)
    with TcpStore(port, 0) as server:
        server.set("key", b"value")
        early.join()
    assert found == [b"value"]
