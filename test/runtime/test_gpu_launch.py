"""Launches on a GPU that is none: parameters byte by byte, grids, tensor maps, and errors that name their kernel."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from deepseek import runtime
from deepseek.errors import GpuError
from deepseek.runtime import gpu

# threads, shared bytes, buffers, dims, blocks per multiprocessor, cluster, maps
PROGRAM = """
static PLAIN(scale, 128, 0, 2, 1, 0, 1, 0);
static PLAIN(persist, 256, 100000, 1, 0, 2, 1, 0);
static PLAIN(cluster, 128, 0, 1, 0, 0, 4, 0);
static PLAIN(wide, 128, 0, 1, 0, 1, 16, 0);
static PLAIN(copy_bytes, 32, 0, 2, 1, 0, 1, 0);
static DESCRIPTOR(product, 2, 384, 200000, 2, 1, 1, 1, 2,
                  1, 6, 2, 128, 64, 128, 1, 1, 1,
                  0, 7, 1, 0, 256, 1, 1, 1, 1);
#define RUN(name, dispatch) \\
  int32_t run_##name(void *rt, void *const *buffers, const int64_t *dims) { \\
    dsc_rt_launch(rt, (kernel)&name, buffers, dims + 1, dims[0], dispatch); \\
    return dsc_rt_threads(rt); \\
  }
RUN(scale, 3)
RUN(persist, 4)
RUN(cluster, 5)
RUN(wide, 6)
RUN(product, 7)
RUN(copy_bytes, 8)
static PLAIN(missing, 128, 0, 1, 0, 0, 1, 0);
static PLAIN(few, 128, 0, 1, 0, 0, 1, 0);
static PLAIN(many, 128, 0, 1, 0, 0, 1, 0);
static PLAIN(narrow, 128, 0, 1, 0, 0, 1, 0);
static PLAIN(huge, 128, 240000, 1, 0, 0, 1, 0);
static PLAIN(idle, 0, 0, 1, 0, 0, 1, 0);
static DESCRIPTOR(outside, 1, 128, 0, 1, 0, 0, 1, 1, 1, 6, 2, 128, 64, 64, 1, 1, 1);
static const int32_t nothing[9] = {0};
RUN(missing, 10)
RUN(few, 11)
RUN(many, 12)
RUN(narrow, 13)
RUN(huge, 14)
RUN(idle, 15)
RUN(outside, 16)
RUN(nothing, 17)
int32_t both(void *rt, void *const *buffers, const int64_t *dims) {
  dsc_rt_defer(rt, (kernel)&scale, buffers, 2, dims + 1, dims[0], 20);
  dsc_rt_launch(rt, (kernel)&scale, buffers, dims + 1, dims[0], 21);
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
ENTRIES = {
    "scale": "uuuu",
    "persist": "uu",
    "cluster": "uu",
    "wide": "uu",
    "copy_bytes": "uuuu",
    "product": "mmuuuu",
    "few": "u",
    "many": "uuu",
    "narrow": "uw",
    "huge": "uu",
    "idle": "uu",
    "outside": "muu",
}
KINDS = {"u": ".param .u64 p{}", "w": ".param .u32 p{}", "m": ".param .align 64 .b8 p{}[128]"}


def ptx(entries: dict[str, str] = ENTRIES, target: str = "sm_90a") -> str:
    texts = [f".version 8.3\n.target {target}\n.address_size 64"]
    for name, kinds in entries.items():
        parameters = ", ".join(KINDS[kind].format(index) for index, kind in enumerate(kinds))
        texts.append(f".visible .entry {name}({parameters}) {{ ret; }}")
    return "\n".join(texts) + "\n"


Run = Callable[[str, list[int], list[int]], int]


@pytest.fixture
def device(cuda: object) -> Iterator[gpu.Device]:
    with gpu.Device(0) as device:
        yield device


@pytest.fixture
def run(device: gpu.Device, gpu_program: Callable, run_program: Callable, cuda: object) -> Iterator[Run]:
    """run(name, buffers, [workgroups, *dims]) -> what the function of PROGRAM returns."""
    module = gpu_program(PROGRAM)
    code = device.load(module, ptx())
    cuda.log()
    yield lambda name, buffers, dims: run_program(module, device.handle, name, buffers, dims)
    del code


def launches(cuda: object) -> list[dict[str, str]]:
    """The launches of the log: name, grid, block, shared, cluster, stream, parameters."""
    found = []
    for line in cuda.log("launch"):
        _, name, *rest = line.split()
        values = dict(part.split("=") for part in rest if "=" in part)
        found.append({"name": name, "stream": rest[4], **values})
    return found


def test_parameters_are_buffers_dims_and_workgroups(run: Run, cuda: object, device: gpu.Device) -> None:
    assert run("run_scale", [0x7000, 0x123456789ABC], [5, -9]) == 132
    assert launches(cuda) == [
        {
            "name": "scale",
            "grid": "5,1,1",
            "block": "128,1,1",
            "shared": "0",
            "cluster": "0",
            "stream": "s0",
            "parameters": struct.pack("<QQqq", 0x7000, 0x123456789ABC, -9, 5).hex(),
        }
    ]
    device.check()


def test_functions_are_looked_up_once(run: Run, cuda: object) -> None:
    for _ in range(3):
        run("run_scale", [0, 0], [1, 1])
        run("run_persist", [0], [1])
    assert cuda.log("function", "attribute") == [
        "function scale",
        "function persist",
        "attribute 8 of persist = 100000",
    ]


def test_no_workgroups_are_no_launch(run: Run, cuda: object) -> None:
    run("run_scale", [0, 0], [0, 1])
    run("run_scale", [0, 0], [-3, 1])
    assert cuda.log() == []


@pytest.mark.parametrize(("workgroups", "blocks"), [(1, 1), (263, 263), (264, 264), (265, 264), (10**12, 264)])
def test_persistent_grids_fill_the_device(run: Run, cuda: object, workgroups: int, blocks: int) -> None:
    run("run_persist", [1], [min(workgroups, 2**31 - 2)])
    (launch,) = launches(cuda)
    assert (launch["grid"], launch["shared"], launch["block"]) == (f"{blocks},1,1", "100000", "256,1,1")
    assert launch["parameters"] == struct.pack("<QQ", 1, min(workgroups, 2**31 - 2)).hex()


@pytest.mark.parametrize(("workgroups", "blocks"), [(1, 4), (4, 4), (5, 8), (8, 8)])
def test_clusters_divide_the_grid(run: Run, cuda: object, workgroups: int, blocks: int) -> None:
    run("run_cluster", [1], [workgroups])
    (launch,) = launches(cuda)
    assert (launch["grid"], launch["cluster"]) == (f"{blocks},1,1", "4")
    assert launch["parameters"] == struct.pack("<QQ", 1, workgroups).hex()


@pytest.mark.parametrize(("workgroups", "blocks"), [(1, 16), (100, 112), (1000, 128)])
def test_large_persistent_clusters(run: Run, cuda: object, workgroups: int, blocks: int) -> None:
    run("run_wide", [1], [workgroups])  # 132 multiprocessors hold 8 clusters of 16
    assert cuda.log("attribute") == ["attribute 14 of wide = 1"]
    run("run_wide", [1], [workgroups])
    assert launches(cuda)[0]["grid"] == f"{blocks},1,1"


def words_of_map(parameters: str, index: int) -> list[int]:
    return list(struct.unpack_from("<32I", bytes.fromhex(parameters), 128 * index))


def test_tensor_maps(run: Run, cuda: object, device: gpu.Device) -> None:
    rows, columns = 1000, 512
    dims = [42, columns, rows, 2 * columns, 65536]  # a dim; sizes and the stride of the first map, size of the second
    run("run_product", [0x10000, 0x20040], [3, *dims])
    (launch,) = launches(cuda)
    # type (bf16: 9), rank, interleave, swizzle (128: 3), promotion (256 bytes: 3), fill, address, sizes, strides, box
    expected = [9, 2, 0, 3, 3, 0, 0x20040, 0, columns, rows, 0, 0, 0, 2 * columns, 0, 0, 0, 0, 64, 128, 0, 0, 0]
    assert words_of_map(launch["parameters"], 0) == expected + [0] * 9
    expected = [7, 1, 0, 0, 3, 0, 0x10000, 0, 65536, 0, 0, 0, 0, 0, 0, 0, 0, 0, 256, 0, 0, 0, 0]
    assert words_of_map(launch["parameters"], 1) == expected + [0] * 9
    assert launch["parameters"][512:] == struct.pack("<QQqq", 0x10000, 0x20040, 42, 3).hex()
    assert (launch["shared"], launch["grid"]) == ("200000", "3,1,1")
    device.check()


def test_tensor_maps_are_made_once(run: Run, cuda: object) -> None:
    def dims(rows: int) -> list[int]:
        return [3, 42, 512, rows, 1024, 65536]

    for _ in range(3):
        run("run_product", [0x10000, 0x20000], dims(1000))
    assert len(cuda.log("map")) == 2
    run("run_product", [0x10000, 0x30000], dims(1000))  # another right side
    assert len(cuda.log("map")) == 1
    run("run_product", [0x10000, 0x30000], dims(1001))
    assert len(cuda.log("map")) == 1
    for rows in range(2000):  # more than the table holds
        run("run_product", [0x10000, 0x30000], dims(rows + 1))
        (launch,) = launches(cuda)
        assert words_of_map(launch["parameters"], 0)[9] == rows + 1
        assert words_of_map(launch["parameters"], 1)[8] == 65536


def test_contexts_of_the_host_are_left_alone(run: Run, cuda: object) -> None:
    assert cuda.depth() == 0
    run("run_scale", [0, 0], [1, 1])
    assert cuda.depth() == 0


def test_deferred_launches_come_first(run: Run, cuda: object) -> None:
    run("both", [0, 0], [2, 7])
    assert [launch["stream"] for launch in launches(cuda)] == ["s0", "s0"]


def test_arena_grows_and_stays(run: Run, cuda: object, device: gpu.Device) -> None:
    source, target = device.upload(np.arange(1000, dtype=np.int32)), device.allocate(4000)
    for _ in range(2):
        assert run("with_arena", [source.address, target.address], [4000]) == 0
    assert device.arena_bytes == 2 << 20
    np.testing.assert_array_equal(device.download(target, 1000, np.int32), np.arange(1000))
    device.check()
    large = device.allocate(40 << 20)
    assert run("with_arena", [large.address, large.address], [40 << 20]) == 0
    assert device.arena_bytes == 40 << 20 and device.memory().count == 4
    assert run("with_arena", [large.address, large.address], [1 << 40]) == 1  # as of memory that is out on a CPU
    with pytest.raises(MemoryError):
        device.check()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("missing", 'the GPU code has no kernel "missing": it is not that of this program'),
        ("few", 'kernel "few" takes 1 parameters, the program passes 2'),
        ("many", 'kernel "many" takes at least 3 parameters, the program passes 2'),
        ("narrow", 'parameter 1 of kernel "narrow" has 4 bytes, the program passes 8'),
        ("huge", 'kernel "huge" needs 240000 bytes of shared memory, a block of Fake GPU 0 has 232448'),
        ("idle", 'the descriptor of kernel "idle" is damaged: 0 threads'),
        ("outside", 'tensor map 0 of kernel "outside" is damaged: buffer 1 of 1, rank 2'),
        ("nothing", "a launch names no GPU kernel: the program was compiled for a CPU"),
    ],
)
def test_kernels_that_do_not_fit(run: Run, cuda: object, device: gpu.Device, name: str, message: str) -> None:
    run(f"run_{name}", [0x1000], [1, 64, 64, 128])
    with pytest.raises(GpuError, match=message):
        device.check()
    assert launches(cuda) == []
    run("run_scale", [0, 0], [1, 1])
    device.check()
    assert len(launches(cuda)) == 1


def test_kernels_of_later_architectures(
    cuda: object, monkeypatch: pytest.MonkeyPatch, gpu_program: Callable, run_program: Callable
) -> None:
    monkeypatch.setenv("FAKE_CUDA_CAPABILITY", "80")
    module = gpu_program(PROGRAM)
    with gpu.Device(0) as device:
        code = device.load(module, ptx(target="sm_80"))
        for name, feature in (("cluster", "clusters"), ("product", "tensor maps")):
            run_program(module, device.handle, f"run_{name}", [16, 16], [1, 64, 64, 64, 128, 64])
            with pytest.raises(GpuError, match=rf'kernel "{name}" uses {feature}, Fake GPU 0 \(sm_80\) has none'):
                device.check()
        del code


def test_the_first_error_stays_and_stops_the_rest(run: Run, cuda: object, device: gpu.Device) -> None:
    cuda.fail("cuLaunchKernel", 701)
    run("run_scale", [0, 0], [5, 1])
    run("run_persist", [0], [5])
    assert launches(cuda) == []  # the second one did nothing
    message = 'launch of kernel "scale" .dispatch 3, 5 blocks of 128 threads.: CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES$'
    with pytest.raises(GpuError, match=message):
        device.synchronize()
    device.synchronize()
    run("run_persist", [0], [5])
    assert len(launches(cuda)) == 1


def test_errors_of_kernels_show_later(run: Run, device: gpu.Device) -> None:
    run("run_copy_bytes", [0x5000, 0x6000], [1, 64])
    run("run_scale", [0, 0], [1, 1])
    device.check()
    message = (
        'waiting for the GPU .the last launch was "scale" of dispatch 3, .DEEPSEEK_CUDA_SYNC=1 names the one that '
        r"fails.: CUDA_ERROR_ILLEGAL_ADDRESS \(an illegal memory access was encountered\)"
    )
    with pytest.raises(GpuError, match=message):
        device.synchronize()


def test_waiting_for_every_launch_names_the_kernel(
    cuda: object, monkeypatch: pytest.MonkeyPatch, gpu_program: Callable, run_program: Callable
) -> None:
    monkeypatch.setenv("DEEPSEEK_CUDA_SYNC", "1")
    module = gpu_program(PROGRAM)
    with gpu.Device(0) as device:
        code = device.load(module, ptx())
        run_program(module, device.handle, "run_copy_bytes", [0x5000, 0x6000], [1, 64])
        run_program(module, device.handle, "run_scale", [0, 0], [1, 1])
        with pytest.raises(GpuError, match='kernel "copy_bytes" .dispatch 8.: CUDA_ERROR_ILLEGAL_ADDRESS'):
            device.check()
        del code


def test_tensor_maps_that_the_driver_refuses(run: Run, device: gpu.Device) -> None:
    run("run_product", [0x10000, 0x20000], [3, 42, 500, 1000, 1001, 65536])
    message = (
        'a tensor map of kernel "product": address 0x20000, sizes 500 x 1000.., row of 1001 bytes, box 64 x 128.., '
        "swizzle 128: CUDA error 1"
    )
    with pytest.raises(GpuError, match=message):
        device.check()


def test_grids_that_are_too_large(run: Run, device: gpu.Device) -> None:
    run("run_scale", [0, 0], [1 << 31, 1])
    with pytest.raises(GpuError, match='kernel "scale" .dispatch 3.: 2147483648 workgroups are too many'):
        device.check()


def test_programs_without_gpu_code(device: gpu.Device, gpu_program: Callable, run_program: Callable) -> None:
    run_program(gpu_program(PROGRAM), device.handle, "run_scale", [0, 0], [1, 1])
    with pytest.raises(GpuError, match=r"a launch on a GPU of a program without GPU code \(dsc_rt_attach\)"):
        device.check()


def test_damaged_descriptors(device: gpu.Device, compile_c: Callable, run_program: Callable) -> None:
    # At the very end of the mapping: its maps or its name would lie outside.
    source = """
extern void dsc_rt_launch(void *, void *, void *const *, const int64_t *, int64_t, int32_t);
__attribute__((aligned(4096))) %s struct { char before[%d]; int32_t words[8]; char name[%d]; } at_end = {
  {0}, {0x44534B31, 128, 0, 1, 0, 0, 1, %d}, {%s}};
int32_t go(void *rt, void *const *buffers, const int64_t *dims) {
  dsc_rt_launch(rt, (void *)at_end.words, buffers, dims, 1, 0);
  return 0;
}
"""
    for maps, name, message in (
        (0, "'n'", "its name does not end"),
        (1, "'n'", "1 tensor maps"),
        (-1, "0", "-1 tensor maps"),
        (1 << 30, "0", "1073741824 tensor maps"),
    ):
        size = 4 if name == "0" else 1
        text = source % ("", 4096 - 32 - size - (-size % 4), size, maps, name if size == 1 else "'a', 'b', 'c', 0")
        if size == 1:  # no padding, so that the mapping ends with the name
            text = text.replace("char name[1]", "char name[4]").replace("{'n'}", "{'n','n','n','n'}")
        module = runtime.Module(compile_c(text))
        code = device.load(module, ptx())
        run_program(module, device.handle, "go", [0], [0])
        with pytest.raises(GpuError, match=f"the descriptor of a GPU kernel is damaged: {message}"):
            device.check()
        del code


def test_unloaded_modules_leave_nothing(
    cuda: object, device: gpu.Device, gpu_program: Callable, run_program: Callable
) -> None:
    for _ in range(3):
        module = gpu_program(PROGRAM)
        code = device.load(module, ptx())
        cuda.log()
        run_program(module, device.handle, "run_scale", [0, 0], [1, 1])
        assert cuda.log("function") == ["function scale"]  # also where the module is mapped at the same address
        code.unload()
        assert cuda.log("unload") == ["unload"]
        run_program(module, device.handle, "run_scale", [0, 0], [1, 1])
        with pytest.raises(GpuError, match="without GPU code"):
            device.check()
    # the module goes first: its code goes with it
    module = gpu_program(PROGRAM)
    library, message = gpu.load_library(), b"\0" * 100
    assert library.dsc_rt_attach(module._handle, device.handle, ptx().encode(), len(ptx()), None, message, 100)
    del module
    assert cuda.log("unload") == ["unload"]


def test_a_program_of_a_context_that_is_gone(cuda: object, gpu_program: Callable, tmp_path: Path) -> None:
    module = gpu_program(PROGRAM)
    with gpu.Device(0) as device:
        code = device.load(module, ptx())
    assert cuda.live() == 0
    code.unload()
    with gpu.Device(0) as device:
        device.load(module, ptx())
