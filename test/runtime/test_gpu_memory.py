"""Device memory and copies on a GPU that is none, which does its work as late as CUDA allows."""

from __future__ import annotations

import gc
import random
import threading
from collections.abc import Iterator

import numpy as np
import pytest

from deepseek.errors import GpuError, GpuMemoryError, InputError
from deepseek.runtime import gpu

MIB = 1 << 20


@pytest.fixture
def device(cuda: object) -> Iterator[gpu.Device]:
    with gpu.Device(0) as device:
        cuda.log()
        yield device


def test_allocations_share_segments(cuda: object, device: gpu.Device) -> None:
    buffers = [device.allocate(size) for size in (0, 1, 512, 513, 10 * MIB)]
    assert len({buffer.address for buffer in buffers}) == 5
    assert all(buffer.address % 512 == 0 for buffer in buffers)
    assert cuda.log("alloc") == [f"alloc {64 * MIB}"]
    large = device.allocate(60 * MIB - 700)
    assert cuda.log("alloc") == [f"alloc {60 * MIB}"]
    assert device.memory() == gpu.Memory(
        used=512 + 512 + 512 + 1024 + 10 * MIB + 60 * MIB - 512,
        high_water=512 + 512 + 512 + 1024 + 10 * MIB + 60 * MIB - 512,
        reserved=124 * MIB,
        count=6,
        free=(1 << 30) - 124 * MIB,
        total=1 << 30,
    )
    del large
    for buffer in buffers:
        buffer.free()
    found = device.memory()
    assert (found.used, found.count, found.reserved) == (0, 0, 124 * MIB) and found.high_water > 69 * MIB
    assert device.trim() == 124 * MIB and device.trim() == 0
    assert device.memory().reserved == 0 and cuda.used() == 0


def test_freed_memory_is_taken_again(cuda: object, device: gpu.Device) -> None:
    first, second, third = (device.allocate(size) for size in (4 * MIB, 1 * MIB, 2 * MIB))
    addresses = [buffer.address for buffer in (first, second, third)]
    keep = device.allocate(512)  # so that `third` does not join the rest
    first.free()
    third.free()
    assert device.allocate(2 * MIB).address == addresses[2]  # best fit
    gc.collect()
    second.free()  # the three become one
    whole = device.allocate(7 * MIB)
    assert whole.address == addresses[0] and keep.address == whole.address + 7 * MIB
    first.free()  # a second time: nothing
    assert device.memory().count == 2
    assert len(cuda.log("alloc")) == 1


@pytest.mark.parametrize("seed", range(3))
def test_random_allocations_never_overlap(device: gpu.Device, seed: int) -> None:
    choice = random.Random(seed)
    live: list[gpu.Buffer] = []
    most = used = 0
    for step in range(2000):
        if live and choice.random() < 0.5:
            live.pop(choice.randrange(len(live))).free()
        else:
            live.append(device.allocate(choice.choice((1, 700, 5000, 100_000, 3 * MIB))))
        if step % 100 == 0:
            spans = sorted((buffer.address, buffer.address + max(buffer.nbytes, 1)) for buffer in live)
            assert all(before[1] <= after[0] for before, after in zip(spans, spans[1:]))
            used = sum(buffer.nbytes + -buffer.nbytes % 512 for buffer in live)
            assert device.memory().used == used and device.memory().count == len(live)
            most = max(most, used)
    assert device.memory().high_water >= most
    for buffer in live:
        buffer.free()
    device.trim()
    assert device.memory().reserved == 0  # all neighbours were joined


def test_out_of_memory_gives_unused_segments_back(cuda: object, device: gpu.Device) -> None:
    unused = [device.allocate(300 * MIB) for _ in range(3)]
    pattern = np.arange(1000)
    kept = device.upload(pattern)
    for buffer in unused:
        buffer.free()
    cuda.log()
    large = device.allocate(800 * MIB)
    assert cuda.log("alloc", "free") == [
        f"alloc {800 * MIB} refused",
        *[f"free {300 * MIB}"] * 3,
        f"alloc {800 * MIB}",
    ]
    assert large.nbytes == 800 * MIB
    np.testing.assert_array_equal(device.download(kept, 1000, pattern.dtype), pattern)


def test_segments_that_are_given_back_are_no_longer_used(cuda: object, device: gpu.Device) -> None:
    buffer = device.allocate(300 * MIB)
    buffer.fill(7)  # waits in the stream
    buffer.free()
    device.allocate(800 * MIB)
    device.synchronize()  # an illegal address if the memory had been given back before the fill


def test_a_small_segment_when_a_shared_one_is_too_large(cuda: object, device: gpu.Device) -> None:
    most = device.allocate(1000 * MIB)
    small = device.allocate(1000)
    assert cuda.log("alloc") == [f"alloc {1000 * MIB}", f"alloc {64 * MIB} refused", f"alloc {2 * MIB}"]
    del most, small


def test_out_of_memory_has_the_numbers(device: gpu.Device) -> None:
    used = device.allocate(700 * MIB)
    with pytest.raises(GpuMemoryError) as caught:
        device.allocate(500 * MIB)
    assert isinstance(caught.value, MemoryError) and isinstance(caught.value, GpuError)
    assert (caught.value.requested, caught.value.free, caught.value.total) == (500 * MIB, 324 * MIB, 1 << 30)
    assert str(caught.value) == (
        f"no device memory for {500 * MIB} bytes: {324 * MIB} of {1 << 30} are free, this context has reserved "
        f"{700 * MIB} and uses {700 * MIB}: CUDA_ERROR_OUT_OF_MEMORY"
    )
    used.fill(1)  # the context goes on
    device.allocate(300 * MIB)
    with pytest.raises(GpuMemoryError, match="no device memory for 1152921504606846976 bytes"):
        device.allocate(1 << 60)
    with pytest.raises(GpuError, match="device memory of -1 bytes"):
        device.allocate(-1)


@pytest.mark.parametrize("nbytes", [0, 1, 4 * MIB - 1, 4 * MIB, 4 * MIB + 1, 40 * MIB + 5])
def test_copies_there_and_back(cuda: object, device: gpu.Device, nbytes: int) -> None:
    data = np.random.default_rng(1).integers(0, 256, nbytes, np.uint8)
    buffer = device.upload(data)
    sent = data.copy()
    data[:] = 0  # the upload has its own copy
    np.testing.assert_array_equal(device.download(buffer, nbytes, np.uint8), sent)
    pieces = -(-nbytes // (4 * MIB))
    copies = cuda.log("upload", "download")
    assert len(copies) == 2 * pieces
    assert all(line.endswith("s1") for line in copies)  # from and to pinned memory, not on the stream of launches


def test_uploads_come_behind_the_work_before(device: gpu.Device) -> None:
    source, target = device.upload(np.full(1000, 5, np.uint8)), device.allocate(1000)
    target.copy_from(source)  # still waits when its source is overwritten
    device.upload(np.full(1000, 6, np.uint8), into=source)
    assert device.download(target, 1000, np.uint8).tolist() == [5] * 1000
    device.upload(np.full(1000, 7, np.uint8), into=source)
    target.copy_from(source)  # and later work sees what was uploaded
    device.synchronize()
    assert device.download(target, 1000, np.uint8).tolist() == [7] * 1000


def test_uploads_in_turns_through_few_buffers(cuda: object, device: gpu.Device) -> None:
    arrays = [np.full(3 * MIB, index, np.uint8) for index in range(10)]
    buffers = [device.upload(array) for array in arrays]
    for index, buffer in enumerate(buffers):
        found = device.download(buffer, 3 * MIB, np.uint8)
        assert found.min() == found.max() == index


def test_reused_memory_is_ordered(device: gpu.Device) -> None:
    first, result = device.upload(np.full(1000, 1, np.uint8)), device.allocate(1000)
    result.copy_from(first)
    address = first.address
    first.free()
    second = device.upload(np.full(1000, 2, np.uint8))
    assert second.address == address
    assert device.download(result, 1000, np.uint8).tolist() == [1] * 1000


def test_parts_of_buffers(device: gpu.Device) -> None:
    buffer = device.allocate(100)
    buffer.fill(0)
    device.upload(np.arange(5, dtype=np.int32), into=buffer, offset=20)
    assert device.download(buffer, (2, 2), np.int32, offset=24).tolist() == [[1, 2], [3, 4]]
    assert device.download(buffer, 5, np.int32).tolist() == [0] * 5
    strided = np.arange(20, dtype=np.int32)[::4]
    device.upload(strided, into=buffer)
    assert device.download(buffer, 5, np.int32).tolist() == [0, 4, 8, 12, 16]
    with pytest.raises(InputError, match="bytes 84 to 104 are not in device memory of 100 bytes"):
        device.upload(np.arange(5, dtype=np.int32), into=buffer, offset=84)
    with pytest.raises(InputError, match="bytes -4 to 16"):
        device.download(buffer, 5, np.int32, offset=-4)
    with pytest.raises(InputError, match="are not in device memory of 10 bytes"):
        device.allocate(10).copy_from(buffer)
    buffer.free()
    with pytest.raises(InputError, match="the device memory was freed"):
        device.download(buffer, 5, np.int32)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("cuMemHostAlloc", "4194304 bytes of pinned memory: CUDA_ERROR_OUT_OF_MEMORY"),
        ("cuMemcpyHtoDAsync_v2", "an upload of 40 bytes: CUDA_ERROR_OUT_OF_MEMORY"),
        ("cuEventSynchronize", "waiting for an upload"),
        ("cuEventRecord", "ordering a copy"),
    ],
)
def test_uploads_that_fail(cuda: object, device: gpu.Device, function: str, message: str) -> None:
    buffer = device.allocate(40)
    cuda.fail(function, 2)
    with pytest.raises(GpuMemoryError, match=message) as caught:
        device.upload(np.arange(10, dtype=np.int32), into=buffer)
    assert caught.value.requested == 0  # no device memory was asked for
    device.upload(np.arange(10, dtype=np.int32), into=buffer)
    assert device.download(buffer, 10, np.int32).tolist() == list(range(10))


def test_memory_is_freed_by_any_thread(device: gpu.Device) -> None:
    buffers = [device.allocate(1000) for _ in range(1000)]
    parts = [buffers[index::4] for index in range(4)]
    buffers.clear()

    def free(part: list[gpu.Buffer]) -> None:
        for buffer in part:
            buffer.free()

    threads = [threading.Thread(target=free, args=(part,)) for part in parts]
    for thread in threads:
        thread.start()
    for _ in range(100):
        device.allocate(5000)
    for thread in threads:
        thread.join()
    gc.collect()
    assert device.memory().count == 0
