"""Launches, the thread pool's life and profile."""

from __future__ import annotations

import ctypes
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest

from deepseek import runtime
from deepseek.errors import ExecutionError

IS_X86 = platform.machine() == "x86_64"

KERNELS = """
typedef void (*kernel)(void *const *, const int64_t *, int64_t, int64_t);
/* a kernel from what one workgroup does */
#define KERNEL(name) \\
  static void one_##name(void *const *, const int64_t *, int64_t); \\
  void name(void *const *buffers, const int64_t *dims, int64_t begin, int64_t end) { \\
    for (int64_t i = begin; i < end; ++i) one_##name(buffers, dims, i); \\
  } \\
  static void one_##name(void *const *buffers, const int64_t *dims, int64_t i)
extern void dsc_rt_launch(void *, kernel, void *const *, const int64_t *, int64_t, int32_t);
extern void dsc_rt_defer(void *, kernel, void *const *, int32_t, const int64_t *, int64_t, int32_t);

KERNEL(count) {
  __atomic_fetch_add((int32_t *)buffers[0] + i, 1, __ATOMIC_RELAXED);
}
/* which thread ran the workgroup */
KERNEL(who) {
  ((int64_t *)buffers[0])[i] = (int64_t)__builtin_thread_pointer();
}
/* buffers[1] is the context: 16 inner workgroups for each outer one */
KERNEL(inner) {
  __atomic_fetch_add((int32_t *)buffers[0] + dims[0] * 16 + i, 1, __ATOMIC_RELAXED);
}
KERNEL(outer) {
  int64_t row[1] = {i};
  dsc_rt_launch(buffers[1], inner, buffers, row, 16, 1);
}
KERNEL(spin) {
  for (volatile int64_t n = 0; n < dims[0]; ++n) {}
}
/* only workgroup dims[1] takes long */
KERNEL(spin_one) {
  if (i == dims[1]) one_spin(buffers, dims, i);
  ((int64_t *)buffers[0])[i] += 1;
}
KERNEL(halve) {
  ((float *)buffers[0])[i] *= 0.5f;
}
/* dims[0] grids of dims[1 + i] workgroups beside each other, each with a buffer of its own; then one of 0 */
int32_t batch(void *rt, void *const *buffers, const int64_t *dims) {
  for (int64_t i = 0; i < dims[0]; ++i) {
    void *const own[1] = {buffers[i]};
    dsc_rt_defer(rt, who, own, 1, dims, dims[1 + i], 0);
  }
  dsc_rt_launch(rt, who, buffers, dims, 0, 0);
  return 0;
}
/* many launches from native code, so that they follow one another closely */
int32_t many(void *rt, void *const *buffers, const int64_t *dims) {
  for (int64_t i = 0; i < dims[0]; ++i) dsc_rt_launch(rt, count, buffers, dims, dims[1], 0);
  return 0;
}
void *thread_pointer(void) { return __builtin_thread_pointer(); }
#if defined(__x86_64__)
uint32_t float_mode(uint32_t set) {
  uint32_t old;
  __asm__ volatile("stmxcsr %0" : "=m"(old));
  if (set) __asm__ volatile("ldmxcsr %0" ::"m"(set));
  return old;
}
#endif
"""


@pytest.fixture(scope="module")
def kernels(compile_c: Callable[..., bytes]) -> runtime.Module:
    return runtime.Module(compile_c(KERNELS))


def launch(
    context: runtime.Context,
    kernel: int,
    buffers: list[int],
    workgroups: int,
    dims: list[int] | None = None,
    dispatch: int = 0,
) -> None:
    array = (ctypes.c_void_p * len(buffers))(*buffers)
    sizes = (ctypes.c_int64 * 4)(*(dims or []))
    runtime._library().dsc_rt_launch(context.handle, kernel, array, sizes, workgroups, dispatch)


@pytest.mark.parametrize("threads", [1, 2, 3, 4])
def test_every_workgroup_runs_once(kernels: runtime.Module, threads: int) -> None:
    context = runtime.Context(threads)
    assert context.threads == threads
    for workgroups in (-5, 0, 1, 2, 3, 4, 5, 7, 64, 1001):
        out = np.zeros(1002, np.int32)
        launch(context, kernels.symbol("count"), [out.ctypes.data], workgroups)
        np.testing.assert_array_equal(out, np.arange(1002) < workgroups)


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("profiled", [False, True])
@pytest.mark.parametrize("sizes", [[1, 1, 1], [5], [7, 0, 2], [3, 1, 4, 1, 5], [2] * 12])
def test_deferred_grids_share_the_threads(
    kernels: runtime.Module, threads: int, profiled: bool, sizes: list[int]
) -> None:
    """Every workgroup runs; no part is more than one workgroup longer than another (profiled: grid by grid)."""
    context = runtime.Context(threads)
    outs = [np.zeros(size + 1, np.int64) for size in sizes]
    buffers = (ctypes.c_void_p * len(sizes))(*(out.ctypes.data for out in outs))
    dims = np.array([len(sizes), *sizes], np.int64)
    run = ctypes.CFUNCTYPE(ctypes.c_int32, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p)(kernels.symbol("batch"))
    with context.profile(12) if profiled else nullcontext():
        run(context.handle, ctypes.addressof(buffers), dims.ctypes.data)
    assert all(out[:-1].all() and not out[-1] for out in outs)
    ran = np.concatenate([out[:-1] for out in outs])
    _, counts = np.unique(ran, return_counts=True)
    if not profiled and len(sizes) <= 8:
        assert counts.max() - counts.min() <= 1
        assert len(counts) == min(threads, len(ran))


@pytest.mark.parametrize(("threads", "workgroups"), [(2, 2), (2, 101), (4, 3), (4, 4), (4, 1003), (3, 1)])
def test_partition_is_static_and_contiguous(kernels: runtime.Module, threads: int, workgroups: int) -> None:
    context = runtime.Context(threads)
    out = np.zeros(workgroups, np.int64)
    launch(context, kernels.symbol("who"), [out.ctypes.data], workgroups)
    starts = np.flatnonzero(np.diff(out)) + 1
    lengths = np.diff([0, *starts, workgroups])
    assert len(lengths) == len(set(out.tolist())) == min(threads, workgroups)
    assert lengths.max() - lengths.min() <= 1
    caller = ctypes.CFUNCTYPE(ctypes.c_int64)(kernels.symbol("thread_pointer"))()
    assert out[0] == caller
    again = np.zeros(workgroups, np.int64)
    launch(context, kernels.symbol("who"), [again.ctypes.data], workgroups)
    np.testing.assert_array_equal(again, out)


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_many_launches(kernels: runtime.Module, threads: int) -> None:
    context, out = runtime.Context(threads), np.zeros(3, np.int32)
    buffers = (ctypes.c_void_p * 1)(out.ctypes.data)
    entry = ctypes.CFUNCTYPE(ctypes.c_int32, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p)
    many = entry(kernels.symbol("many"))
    many(context.handle, buffers, (ctypes.c_int64 * 2)(5000, 3))
    np.testing.assert_array_equal(out, 5000)


def test_launch_inside_a_kernel(kernels: runtime.Module) -> None:
    context, out = runtime.Context(2), np.zeros(20 * 16, np.int32)
    launch(context, kernels.symbol("outer"), [out.ctypes.data, context.handle], 20)
    np.testing.assert_array_equal(out, 1)


def test_launches_of_two_host_threads_on_one_context(kernels: runtime.Module) -> None:
    context, out = runtime.Context(2), np.zeros((2, 64), np.int32)

    def run(row: int) -> None:
        for _ in range(500):
            launch(context, kernels.symbol("count"), [out[row].ctypes.data], 64)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(run, range(2)))
    np.testing.assert_array_equal(out, 500)


def test_sleeping_workers_wake(kernels: runtime.Module) -> None:
    context, out = runtime.Context(3), np.zeros(3, np.int32)
    for _ in range(40):
        launch(context, kernels.symbol("count"), [out.ctypes.data], 3)
        time.sleep(0.002)  # ten times the polling time
    np.testing.assert_array_equal(out, 40)


def test_idle_workers_use_no_cpu(kernels: runtime.Module) -> None:
    context = runtime.Context(2)
    launch(context, kernels.symbol("spin"), [0], 2, [1])
    time.sleep(0.05)
    before = time.process_time()
    time.sleep(0.2)
    assert time.process_time() - before < 0.1


def test_a_sleeping_caller_wakes(kernels: runtime.Module) -> None:
    # The worker's part takes far longer than the caller polls.
    context, out = runtime.Context(2), np.zeros(2, np.int64)
    for _ in range(5):
        launch(context, kernels.symbol("spin_one"), [out.ctypes.data], 2, [2_000_000, 1])
    np.testing.assert_array_equal(out, 5)


def tasks() -> int:
    return sum(1 for _ in Path("/proc/self/task").iterdir())


def test_destroy_ends_every_worker(run_python: Callable) -> None:
    """In a process of its own: other tests' libraries start and end threads when they like."""
    script = """
import os, time
from deepseek import runtime

def tasks():
    return len(os.listdir("/proc/self/task"))

library, before = runtime._library(), tasks()
for index in range(50):
    handle = library.dsc_rt_create(4)
    assert tasks() == before + 3, (tasks(), before)
    if index % 2:
        time.sleep(0.001)  # asleep as well as polling
    library.dsc_rt_destroy(handle)
    assert tasks() == before, (tasks(), before)
library.dsc_rt_destroy(None)
print("all ended")
"""
    assert run_python(script).stdout == "all ended\n"


def test_default_thread_count_follows_the_affinity(run_python: Callable) -> None:
    script = """
import os
from deepseek import runtime
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
print(runtime.Context().threads, runtime.Context.default().threads)
"""
    assert run_python(script).stdout == "1 1\n"
    assert runtime.Context().threads == len(os.sched_getaffinity(0))


def test_thread_counts() -> None:
    assert runtime.Context.default(2) is runtime.Context.default(2)
    assert runtime.Context.default() is runtime.Context.default(len(os.sched_getaffinity(0)))
    for threads in (0, -1):
        with pytest.raises(ExecutionError, match=f"at least 1 .* got {threads}"):
            runtime.Context(threads)
    assert runtime._library().dsc_rt_create(-1) is None


def test_fork(compile_c: Callable[..., bytes], tmp_path: Path, run_python: Callable) -> None:
    (tmp_path / "kernels.o").write_bytes(compile_c(KERNELS))
    script = """
import ctypes, os, pathlib, threading
import numpy as np
from deepseek import runtime

module = runtime.Module(pathlib.Path("kernels.o").read_bytes())
context, library = runtime.Context(3), runtime._library()
tasks = lambda: len(os.listdir("/proc/self/task"))

def distinct_threads():
    out = np.zeros(300, np.int64)
    library.dsc_rt_launch(context.handle, module.symbol("who"), (ctypes.c_void_p * 1)(out.ctypes.data), None, 300, 0)
    assert out.all()
    return len(set(out.tolist()))

assert distinct_threads() == 3
context.lock.acquire()  # as if another thread of the parent were in a call
child = os.fork()
if child == 0:
    with context.lock:
        ok = tasks() == 1 and distinct_threads() == 3 and distinct_threads() == 3 and tasks() == 3
    grandchild = os.fork()
    if grandchild == 0:
        library.dsc_rt_destroy(context.handle)  # its workers do not exist here
        os._exit(tasks() - 1)
    ok = ok and os.waitpid(grandchild, 0)[1] == 0
    library.dsc_rt_destroy(context.handle)
    os._exit(0 if ok and tasks() == 1 else 1)
assert os.waitpid(child, 0)[1] == 0
assert distinct_threads() == 3
print("done")
"""
    result = run_python(script)
    assert result.stdout == "done\n", result.stderr


def test_workers_may_run_on_every_cpu(kernels: runtime.Module, all_processors: list[int]) -> None:
    # A worker that meets its caller on one CPU moves away, but does not stay pinned.
    before = set(Path("/proc/self/task").iterdir())
    context, out = runtime.Context(2), np.zeros(2, np.int32)
    (worker,) = set(Path("/proc/self/task").iterdir()) - before
    for _ in range(3000):
        launch(context, kernels.symbol("count"), [out.ctypes.data], 2)
    for thread in (0, int(worker.name)):
        assert os.sched_getaffinity(thread) == set(all_processors)


def test_sleeping_workers_wake_on_another_cpu_than_the_caller(
    kernels: runtime.Module, all_processors: list[int]
) -> None:
    """The caller is where the worker ran last and all other CPUs are busy: a scheduler lets the two take turns."""
    if len(all_processors) < 2:
        pytest.skip("there is one CPU")
    script = "import os, sys; os.sched_setaffinity(0, {int(sys.argv[1])})\nwhile True: pass"
    before = set(Path("/proc/self/task").iterdir())
    context, out = runtime.Context(2), np.zeros(2, np.int32)
    (worker,) = set(Path("/proc/self/task").iterdir()) - before

    def status(field: int) -> str:
        return (worker / "stat").read_text().rpartition(")")[2].split()[field - 3]  # numbers as in proc(5)

    def cpu() -> int:
        return int(status(39))

    apart = 0
    busy = [subprocess.Popen([sys.executable, "-c", script, str(cpu)]) for cpu in all_processors]
    try:
        for _ in range(20):
            launch(context, kernels.symbol("count"), [out.ctypes.data], 2)
            time.sleep(0.005)  # 25 times the polling time
            while status(3) != "S":  # it polls for longer where it has a part of a CPU only
                time.sleep(0.001)
            mine = cpu()
            os.sched_setaffinity(0, {mine})  # of this thread alone
            launch(context, kernels.symbol("count"), [out.ctypes.data], 2)
            apart += cpu() != mine
    finally:
        os.sched_setaffinity(0, all_processors)
        for process in busy:
            process.kill()
            process.wait()
    assert apart >= 18


def test_workers_leave_signals_to_the_host() -> None:
    context = runtime.Context(3)
    blocked = [
        int(line.split()[1], 16)
        for task in Path("/proc/self/task").iterdir()
        for line in (task / "status").read_text().splitlines()
        if line.startswith("SigBlk:")
    ]
    interrupt = 1 << (2 - 1)
    assert sum(bool(mask & interrupt) for mask in blocked) >= context.threads - 1
    assert not any(mask & interrupt for mask in blocked[:1])  # the main thread


@pytest.mark.skipif(not IS_X86, reason="reads the x86-64 control register")
def test_float_mode_of_the_host_does_not_matter(kernels: runtime.Module) -> None:
    mode = ctypes.CFUNCTYPE(ctypes.c_uint32, ctypes.c_uint32)(kernels.symbol("float_mode"))
    context, tiny = runtime.Context(2), np.float32(2.0**-126)  # the smallest normal: its half is subnormal
    flush_to_zero = 0x9FC0
    previous = mode(flush_to_zero)
    try:
        created_inside = runtime.Context(2)
        results = []
        for pool in (context, created_inside):
            for workgroups in (1, 8):
                out = np.full(workgroups, tiny)
                launch(pool, kernels.symbol("halve"), [out.ctypes.data], workgroups)
                results.append(out)
        after = mode(0)
    finally:
        mode(previous)
    assert after & ~0x3F == flush_to_zero & ~0x3F  # the caller's mode is back
    for out in results:
        np.testing.assert_array_equal(out.view(np.uint32), 1 << 22)


def test_profile(kernels: runtime.Module) -> None:
    context = runtime.Context(2)
    spin = kernels.symbol("spin")
    begin = time.monotonic_ns()
    with context.profile(6) as profile:
        for _ in range(3):
            launch(context, spin, [0], 2, [10_000], dispatch=2)
        launch(context, spin, [0], 1, [1000], dispatch=0)
        launch(context, spin, [0], 2, [1000], dispatch=7)
        launch(context, spin, [0], 2, [1000], dispatch=-1)  # not recorded
        launch(context, spin, [0], 0, [1000], dispatch=1)  # nothing to run
        assert len(profile.spans) == 0  # until the end
    end = time.monotonic_ns()
    launches = profile.launches
    assert launches["dispatch"].tolist() == [2, 2, 2, 0, 7]
    times = [begin, *np.stack([launches["begin"], launches["end"]], 1).ravel().tolist(), end]
    assert times == sorted(times)
    # Parts lie within their launch, one per thread; a single workgroup is one part.
    parts = profile.spans[profile.spans["part"] >= 0]
    assert len(parts) == 9
    for whole in launches:
        own = parts[(parts["begin"] >= whole["begin"]) & (parts["end"] <= whole["end"])]
        assert sorted(own["part"].tolist()) == ([0] if whole["dispatch"] == 0 else [0, 1])
        assert set(own["dispatch"].tolist()) == {whole["dispatch"]}
    sums = profile.nanoseconds(3)
    assert sums.tolist() == [
        int((launches["end"] - launches["begin"])[launches["dispatch"] == index].sum()) for index in range(3)
    ]
    seen = profile.spans.copy()
    launch(context, spin, [0], 2, [1000], dispatch=0)
    np.testing.assert_array_equal(profile.spans, seen)


def test_profile_has_room_for_so_many_launches(kernels: runtime.Module) -> None:
    context = runtime.Context(1)
    for attempt in range(2):  # a profile begins empty
        with context.profile(3) as profile:
            for dispatch in range(10):
                launch(context, kernels.symbol("spin"), [0], 2, [1], dispatch=dispatch + attempt)
        assert profile.launches["dispatch"].tolist() == [attempt, 1 + attempt, 2 + attempt]
