"""Events, graphs and profiles on a GPU that is none."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from deepseek.errors import GpuError
from deepseek.runtime import gpu

PROGRAM = """
static PLAIN(work, 128, 0, 1, 0, 0, 1, 0);
static PLAIN(copy_bytes, 32, 0, 2, 1, 0, 1, 0);
int32_t copy(void *rt, void *const *buffers, const int64_t *dims) {
  dsc_rt_launch(rt, (kernel)&copy_bytes, buffers, dims, 1, dims[1]);
  return 0;
}
/* dims[0] launches beside the last one */
int32_t branches(void *rt, void *const *buffers, const int64_t *dims) {
  for (int64_t i = 0; i < dims[0]; ++i) dsc_rt_defer(rt, (kernel)&work, buffers, 1, dims, 1, (int32_t)i);
  dsc_rt_launch(rt, (kernel)&work, buffers, dims, dims[1], 100);
  dsc_rt_launch(rt, (kernel)&work, buffers, dims, 1, 101);
  return 0;
}
int32_t with_arena(void *rt, void *const *buffers, const int64_t *dims) {
  void *arena = dsc_rt_arena(rt, dims[0]);
  if (!arena) return 1;
  void *const own[2] = {buffers[0], arena}, *const back[2] = {arena, buffers[1]};
  dsc_rt_launch(rt, (kernel)&copy_bytes, own, dims, 1, 0);
  dsc_rt_launch(rt, (kernel)&copy_bytes, back, dims, 1, 1);
  return 0;
}
"""
PTX = """.version 8.3
.target sm_90a
.visible .entry work(.param .u64 a, .param .u64 n) { ret; }
.visible .entry copy_bytes(.param .u64 a, .param .u64 b, .param .u64 bytes, .param .u64 n) { ret; }
"""
MIB = 1 << 20
Run = Callable[[str, list[int], list[int]], int]


@pytest.fixture
def device(cuda: object) -> Iterator[gpu.Device]:
    with gpu.Device(0) as device:
        yield device


@pytest.fixture
def run(device: gpu.Device, gpu_program: Callable, run_program: Callable, cuda: object) -> Iterator[Run]:
    module = gpu_program(PROGRAM)
    code = device.load(module, PTX)
    cuda.log()
    yield lambda name, buffers, dims: run_program(module, device.handle, name, buffers, dims)
    del code


def copy(run: Run, source: gpu.Buffer, target: gpu.Buffer, dispatch: int = 0) -> None:
    run("copy", [source.address, target.address], [source.nbytes, dispatch])


def test_events(run: Run, device: gpu.Device) -> None:
    first, second = device.event().record(), device.event()
    for _ in range(4):
        run("branches", [0], [0, 1])
    second.record()
    assert not second.done and second.done  # the fake driver is ready the second time
    assert second.milliseconds_since(first) == pytest.approx(8 * 0.25)
    third = device.event().record()
    third.synchronize()
    assert third.done


def test_events_that_are_not_done_have_no_time(device: gpu.Device) -> None:
    first, second = device.event().record(), device.event().record()
    with pytest.raises(GpuError, match="the time between two events: CUDA error 600"):
        second.milliseconds_since(first)


def test_a_graph_is_launched_again(run: Run, cuda: object, device: gpu.Device) -> None:
    source, middle, target = device.upload(np.arange(100)), device.allocate(800), device.allocate(800)
    with device.graph() as graph:
        copy(run, source, middle)
        copy(run, middle, target)
        graph.keep(source, middle, target)
    assert cuda.log("capture", "instantiate", "graph") == ["capture mode=2", "instantiate 2"]  # relaxed
    target.fill(0)
    assert not device.download(target, 100, np.int64).any()
    for step in range(3):
        device.upload(np.arange(100) + step, into=source)
        graph.launch()
        assert device.download(target, 100, np.int64).tolist() == list(range(step, 100 + step))
    assert cuda.log("graph", "launch") == ["graph of 2"] * 3
    del graph
    gc.collect()
    device.synchronize()


def test_a_graph_gets_other_sizes_and_addresses(run: Run, cuda: object, device: gpu.Device) -> None:
    source, target = device.upload(np.arange(100)), device.allocate(800)
    other = device.upload(np.arange(100) + 50)
    with device.graph() as graph:
        copy(run, source, target)
    with device.graph(into=graph) as same:
        copy(run, other, target)
    assert same is graph
    assert cuda.log("instantiate", "update") == ["instantiate 1", "update 1"]
    graph.launch()
    assert device.download(target, 100, np.int64)[0] == 50
    with device.graph(into=graph):  # of another shape: made anew
        run("branches", [0], [0, 1])
        copy(run, source, target)
    assert cuda.log("instantiate", "update") == ["update 3 refused", "instantiate 3"]
    graph.launch()
    assert device.download(target, 100, np.int64)[0] == 0
    before = cuda.live()
    del graph, same
    assert cuda.live() == before - 1


@pytest.mark.parametrize("deferred", [1, 3, 4, 6])
@pytest.mark.parametrize("last", [0, 1])
def test_deferred_launches_are_branches(run: Run, cuda: object, device: gpu.Device, deferred: int, last: int) -> None:
    run("branches", [0], [deferred, last])
    assert cuda.log("fork", "join") == []  # only while a graph is captured
    with device.graph() as graph:
        run("branches", [0], [deferred, last])
    log = cuda.log("fork", "join", "launch")
    streams = [line.split()[6] for line in log if line.startswith("launch")]
    branches = min(deferred, 4)
    expected = [f"s{2 + index}" for index in range(branches)] + ["s0"] * (deferred - branches + last + 1)
    assert streams == expected
    assert [line for line in log if line.startswith("fork")] == [f"fork s{2 + i} from s0" for i in range(branches)]
    joins = [index for index, line in enumerate(log) if line.startswith("join")]
    assert [log[index] for index in joins] == [f"join s{2 + i} to s0" for i in range(branches)]
    assert joins[-1] == len(log) - 2  # before the launch that comes after
    graph.launch()
    device.synchronize()


def test_branches_without_a_launch_are_joined(
    run: Run, cuda: object, device: gpu.Device, gpu_program: Callable
) -> None:
    with device.graph() as graph:
        run("branches", [0], [1, 1])
    graph.launch()
    cuda.fail("cuLaunchKernel", 701, after=1)
    with pytest.raises(GpuError, match='launch of kernel "work" .dispatch 100'), device.graph():
        run("branches", [0], [1, 1])
    with device.graph() as graph:  # the stream works again
        run("branches", [0], [1, 1])
    graph.launch()
    device.synchronize()


def test_a_failed_launch_is_no_graph(run: Run, cuda: object, device: gpu.Device) -> None:
    live = cuda.live()
    cuda.fail("cuLaunchKernel", 701)
    with pytest.raises(GpuError, match="CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES"), device.graph() as graph:
        run("branches", [0], [0, 1])
    assert cuda.live() == live
    with pytest.raises(GpuError, match="or what was to be used is gone"):
        graph.launch()
    run("branches", [0], [0, 1])
    device.synchronize()


def test_the_first_of_two_errors_is_raised(
    run: Run, cuda: object, device: gpu.Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_CUDA_FAIL", "cuStreamEndCapture:901")
    cuda.fail("cuLaunchKernel", 701)
    with pytest.raises(GpuError, match="^launch of kernel .*CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES$"), device.graph():
        run("branches", [0], [0, 1])


def test_an_exception_ends_the_capture(run: Run, cuda: object, device: gpu.Device) -> None:
    source, target = device.upload(np.arange(100)), device.allocate(800)
    with device.graph() as graph:
        copy(run, source, target)
    live = cuda.live()
    with pytest.raises(ZeroDivisionError), device.graph(into=graph):
        copy(run, target, source)
        raise ZeroDivisionError
    assert cuda.live() == live
    graph.launch()  # as it was
    assert device.download(target, 100, np.int64).tolist() == list(range(100))


def test_what_cannot_be_captured(run: Run, device: gpu.Device) -> None:
    buffer = device.upload(np.arange(100))
    for copies in (lambda: device.upload(np.arange(100), into=buffer), lambda: device.download(buffer, 100, np.int64)):
        with pytest.raises(GpuError, match="uploads and downloads cannot be part of a graph"), device.graph():
            copies()
    with pytest.raises(GpuError, match="a graph is being captured already"), device.graph(), device.graph():
        pass
    with device.graph() as graph:
        buffer.fill(3)
        buffer.copy_from(buffer, 0)
    graph.launch()
    assert device.download(buffer, 1, np.uint8)[0] == 3


def test_memory_freed_in_a_capture_stays_with_the_graph(run: Run, cuda: object, device: gpu.Device) -> None:
    source, target = device.upload(np.full(1000, 1, np.uint8)), device.allocate(1000)
    with device.graph() as graph:
        temporary = device.allocate(1000)
        copy(run, source, temporary)
        copy(run, temporary, target)
        address = temporary.address
        temporary.free()
        again = device.allocate(1000)  # within the capture it may be taken again
        assert again.address == address
        again.free()
    other = device.upload(np.full(1000, 9, np.uint8))
    assert other.address != address
    graph.launch()
    assert device.download(other, 1000, np.uint8).tolist() == [9] * 1000
    assert device.download(target, 1000, np.uint8).tolist() == [1] * 1000
    with device.graph(into=graph):
        copy(run, source, target)
    assert device.allocate(1000).address == address  # the graph does not use it any more
    with device.graph(into=graph):
        temporary = device.allocate(100_000)
        temporary.free()
    del graph
    gc.collect()
    del source, target, other, temporary, again
    gc.collect()
    device.trim()
    assert device.memory().reserved == 0


def test_the_arena_of_a_graph_stays(run: Run, cuda: object, device: gpu.Device) -> None:
    source, target = device.upload(np.arange(1000)), device.allocate(8000)
    with device.graph() as graph:
        assert run("with_arena", [source.address, target.address], [8000]) == 0
    large = device.allocate(40 * MIB)
    assert run("with_arena", [large.address, large.address], [40 * MIB]) == 0  # grows
    assert device.memory().count == 5
    other = device.upload(np.full(2 * MIB, 7, np.uint8))  # would take the old one's place
    graph.launch()
    assert device.download(target, 1000, np.int64).tolist() == list(range(1000))
    found = device.download(other, 2 * MIB, np.uint8)
    assert found.min() == found.max() == 7
    del graph
    gc.collect()
    assert device.memory().count == 5  # `other` is one more, the old arena is back


def test_profiles_are_spans_of_launches(run: Run, cuda: object, device: gpu.Device) -> None:
    before = time.monotonic_ns()
    with device.profile(10) as profile:
        run("branches", [0], [2, 1])
        device.synchronize()
        run("branches", [0], [0, 0])
    spans = profile.spans
    assert spans["dispatch"].tolist() == [0, 1, 100, 101, 101] and set(spans["part"].tolist()) == {-1}
    assert (spans["end"] - spans["begin"]).tolist() == [250_000] * 5  # 0.25 ms each, says the fake driver
    assert (np.diff(spans["begin"]) == 250_000).all()
    assert before <= spans["begin"][0] <= time.monotonic_ns() + 10_000_000
    np.testing.assert_array_equal(profile.nanoseconds(102)[[0, 1, 100, 101]], [250_000] * 3 + [500_000])
    run("branches", [0], [0, 1])
    with device.profile(2) as profile:
        run("branches", [0], [2, 1])  # more launches than there is room for
    assert profile.spans["dispatch"].tolist() == [0, 1]
    live = cuda.live()
    with device.profile(1000) as profile:
        with device.graph() as graph:
            run("branches", [0], [2, 1])
        graph.launch()
    assert len(profile.spans) == 0
    del graph
    assert cuda.live() <= live + 5  # events of branches and streams


def test_profiles_that_fail(run: Run, cuda: object, device: gpu.Device) -> None:
    cuda.fail("cuEventCreate", 2)
    with pytest.raises(MemoryError, match="making an event"), device.profile(3):
        pass
    with device.profile(3) as profile:
        run("copy", [0x5000, 0x6000], [64, 5])
        run("branches", [0], [0, 1])
    assert len(profile.spans) == 0
    with pytest.raises(GpuError, match="waiting for the launches of a profile: CUDA_ERROR_ILLEGAL_ADDRESS"):
        device.check()
