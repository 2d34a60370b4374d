"""Models and programs on an emulated GPU through deepseek's own interface, against the same on the CPU."""

from __future__ import annotations

import json
import re
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from dsc_programs import DSC_PROGRAMS
from linalg_programs import LINALG_PROGRAMS
from strategies import Program, _array

import deepseek
from deepseek.artifact import Artifact
from deepseek.cli import main
from deepseek.compiler import compile_text
from deepseek.errors import ArtifactError, ExecutionError, GpuError, GpuMemoryError, InputError
from deepseek.executable import Executable
from deepseek.frontend.checkpoint.checkpoint import open_checkpoint
from deepseek.gpu_memory import DeviceArray
from deepseek.model import Model
from deepseek.precision.groups import parse_activation
from deepseek.precision.planner import PlanOptions
from deepseek.precision.static import static_plan
from gpu.programs import matmul
from gpu.virtual_gpu import VirtualGpu

TARGETS = ("sm_80", "sm_90a")
PROGRAMS = {program.name: program for program in (*DSC_PROGRAMS, *LINALG_PROGRAMS)}
BF16_LOGITS = 2.0**-6
"""Of the largest logit: factors of products are rounded to bf16, by 2^-9 each, and five products follow each other."""


def executable(text: str, target: str = "cpu") -> Executable:
    code = compile_text(text, target=target)
    return Executable(code.object, code.manifest)


def place(gpu: VirtualGpu, target: str) -> None:
    """Makes the device the oldest one that runs `target`."""
    gpu.set(capability=int(target[3:5]))


# Programs.


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("rows", [1, 7, 127, 1000])
def test_products(gpu: VirtualGpu, target: str, rows: int) -> None:
    """bf16 products of 576 terms: exact in f32, whose sums differ by their order, u |a||b| per term."""
    place(gpu, target)
    rng = np.random.default_rng(rows)
    x, w = (rng.standard_normal(shape).astype(ml_dtypes.bfloat16) for shape in ((rows, 576), (192, 576)))
    text = matmul("?", 192, 576)
    (actual,), (expected,) = executable(text, target)(x, w), executable(text)(x, w)
    bound = np.abs(x.astype(np.float64)) @ np.abs(w.astype(np.float64)).T
    assert np.all(np.abs(actual - expected.astype(np.float64)) <= 2e-7 * 576**0.5 * bound)
    assert gpu.launches.total() == 1


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(
    "name", ["rms_norm-f32-576", "softmax-f32-2d", "unary-f32", "embedding-bf16-i64", "dequantize-q4_k"]
)
def test_programs(gpu: VirtualGpu, target: str, name: str) -> None:
    """Both are within the program's tolerance of exact values, hence within twice that of each other."""
    place(gpu, target)
    program: Program = PROGRAMS[name]
    rng = np.random.default_rng(5)
    sizes = dict(zip(program.symbols(), (7, 33)))
    arrays = {a.name: _array(a, rng, a.tensor.shape(sizes)) for a in program.arguments}
    weights = {a.name: arrays[a.name] for a in program.arguments if a.weight}
    inputs = [arrays[a.name] for a in program.arguments if not a.weight]
    results = []
    for chosen in ("cpu", target):
        compiled = executable(program.text, chosen)
        if weights:
            compiled.bind_weights(weights)
        results.append(compiled(*inputs))
    for index, (expected, actual) in enumerate(zip(*results, strict=True)):
        tolerance = 2 * program.tolerance([*inputs, *weights.values()], expected, index)
        scale = np.abs(expected.astype(np.float64)).max()
        np.testing.assert_allclose(actual.astype(np.float64), expected.astype(np.float64), 0, tolerance * scale)


APPEND = PROGRAMS["kv_append-f32"]


def append_arguments(capacity: int = 40) -> tuple[np.ndarray, ...]:
    rng = np.random.default_rng(2)
    k, v = rng.standard_normal((2, 2, 7, 3, 16), np.float32)
    return k, v, rng.standard_normal((2, 2, 3, capacity, 16), np.float32), np.array([3, 30], np.int32)


def test_tied_arguments(gpu: VirtualGpu) -> None:
    """numpy's are updated on the host; device arrays stay where they are."""
    k, v, cache, positions = append_arguments()
    expected = executable(APPEND.text)(k, v, cache.copy(), positions)[0]
    program = executable(APPEND.text, "sm_90a")
    given = cache.copy()
    assert program(k, v, given, positions)[0] is given
    np.testing.assert_array_equal(given, expected)
    held = DeviceArray.of(program.context, cache)
    gpu.clear_log()
    assert program(k, v, held, positions)[0] is held
    moved = {int(line.split()[1]) for line in gpu.log("upload", "download")}
    assert moved == {k.nbytes, positions.nbytes}
    np.testing.assert_array_equal(held.numpy(), expected)
    prepared = program.prepare(k, v, held, positions)
    k *= 2
    again = executable(APPEND.text)(k, v, cache.copy(), positions)[0]
    assert prepared()[0] is held
    np.testing.assert_array_equal(held.numpy(), again)
    k /= 2
    # One row of it, by a slice.
    row = DeviceArray.of(program.context, cache)
    program(k[1:], v[1:], row[1:], positions[1:])
    np.testing.assert_array_equal(row.numpy(), np.concatenate([cache[:1], expected[1:]]))


def test_device_arguments_are_checked(gpu: VirtualGpu) -> None:
    k, v, cache, positions = append_arguments()
    program = executable(APPEND.text, "sm_90a")
    held = DeviceArray.of(program.context, cache)
    with pytest.raises(InputError, match=r"argument 2 .*must have 5 dims"):
        program(k, v, DeviceArray(held.buffer, (cache.size,), np.float32), positions)
    with pytest.raises(InputError, match="dtype must be float32, got int32"):
        program(k, v, DeviceArray(held.buffer, cache.shape, np.int32), positions)
    with pytest.raises(InputError, match="must be a numpy array or DeviceArray, got list"):
        program(k, v, [1.0], positions)
    with pytest.raises(InputError, match="must not share memory"):
        program(DeviceArray(held.buffer, k.shape, np.float32), v, held, positions)
    with pytest.raises(InputError, match="must be a numpy array, got DeviceArray"):
        executable(APPEND.text)(k, v, held, positions)
    with pytest.raises(InputError, match="threads is 2, but sm_90a is a GPU"):
        code = compile_text(APPEND.text, target="sm_90a")
        Executable(code.object, code.manifest, threads=2)
    with pytest.raises(InputError, match="a slice of neighbouring rows is expected"):
        held[::2]
    with pytest.raises(InputError, match="do not fit into"):
        held.copy_positions(held, 41)
    np.testing.assert_array_equal(held.numpy(), cache)


def test_what_kernels_must_not_do_reaches_the_caller(gpu: VirtualGpu) -> None:
    """The emulator's exception fails the launch as CUDA does, and says more."""
    text = matmul("?", 64, 64)
    code = compile_text(text, target="sm_80")
    for kernel in code.manifest["kernels"].values():
        kernel["ptx"] = (
            kernel["ptx"]
            .replace("ret;", "ld.global.b32 %r1, [%rd999]; ret;")
            .replace(".reg .b64 \t%rd<", ".reg .b64 \t%rd999; .reg .b64 \t%rd<")
        )
    x = np.ones((3, 64), ml_dtypes.bfloat16)
    with pytest.raises(GpuError, match="CUDA_ERROR_LAUNCH_FAILED"):
        Executable(code.object, code.manifest)(x, np.ones((64, 64), ml_dtypes.bfloat16))
    with pytest.raises(Exception, match="access of 4 bytes out of bounds"):
        gpu.check()


# Models.


@pytest.mark.parametrize(
    ("target", "precision", "most", "usual"),
    [("sm_80", "f32", 2.0**-17, 2.0**-19), ("sm_80", "bf16", 2.0**-6, 2.0**-8), ("sm_90a", "bf16", 2.0**-6, 2.0**-8)],
)
def test_a_layer_of_smollm2(
    gpu: VirtualGpu, smollm2_layer: Path, target: str, precision: str, most: float, usual: float
) -> None:
    """A prefill of 24 tokens and three decode steps, of which the last ones are graphs: all kernels are emulated.

    `most` is the largest difference of a logit, relative to the largest logit, and `usual` the root of the mean of its
    square, both against the CPU's f32. Factors of bf16 are off by 2^-9, and five products follow each other; f32 sums
    of up to 1536 terms differ by their order.
    """
    place(gpu, target)
    ids = np.random.default_rng(1).integers(0, 512, (1, 27))
    exact = Model.from_pretrained(smollm2_layer, precision="f32").session()
    model = Model.from_pretrained(smollm2_layer, target=target, precision=precision)
    session = model.session()
    gpu.clear_log()
    for begin, end in ((0, 24), (24, 25), (25, 26), (26, 27)):
        expected, actual = exact.forward(ids[:, begin:end]), session.forward(ids[:, begin:end])
        scale = np.abs(expected).max()
        assert scale > 1
        assert np.abs(actual - expected).max() <= most * scale
        assert np.sqrt(np.mean((actual - expected) ** 2)) <= usual * scale
    # Every kernel that was issued ran, and all parts of the program are among them.
    assert {line.split()[1] for line in gpu.log("launch")} <= gpu.launches.keys()
    assert gpu.launches.keys() <= model.executable.manifest["kernels"].keys()
    parts = {re.sub(r"_rows\d+$", "", name.removesuffix("_merge")) for name in gpu.launches}
    assert parts == {dispatch["kernel"] for dispatch in model.executable.manifest["dispatches"]}
    assert len(gpu.launches) > 20
    # The first decode step is a prefill's program with other sizes, the second is made into a graph, the third is one.
    assert len(gpu.log("instantiate")) == 1
    assert len(gpu.log("graph")) == 2
    # Caches stay on the device: what is copied is ids, lengths and temperatures; logits come back, and of the 64
    # candidates ids and logits, with their total.
    assert {int(line.split()[1]) for line in gpu.log("upload")} == {24 * 4, 4}
    assert {int(line.split()[1]) for line in gpu.log("download")} == {512 * 4, 64 * 4, 4}


@pytest.mark.parametrize("activation", ["fp8", "fp8_e4m3_g64"])
def test_a_plan_in_8_bit_floats(gpu: VirtualGpu, smollm2_layer: Path, tmp_path: Path, activation: str) -> None:
    """The same plan on both. The CPU rounds factors to bf16 once more, and a number that is nearly between two codes
    takes the other one: they are nearer to each other than to the model in f32."""
    plan = static_plan(
        open_checkpoint(smollm2_layer), PlanOptions(formats=("fp8", "bf16"), activation=parse_activation(activation))
    )
    plan.save(tmp_path / "fp8.json")
    place(gpu, "sm_90a")
    choices = [("cpu", "f32"), ("cpu", str(tmp_path / "fp8.json")), ("sm_90a", str(tmp_path / "fp8.json"))]
    models = [Model.from_pretrained(smollm2_layer, target=name, precision=kind) for name, kind in choices]
    ids = np.random.default_rng(1).integers(0, 512, (1, 25))
    sessions = [model.session() for model in models]
    for begin, end in ((0, 24), (24, 25)):
        exact, expected, actual = (session.forward(ids[:, begin:end]) for session in sessions)
        assert np.linalg.norm(actual - expected) <= 0.5 * np.linalg.norm(expected - exact)
    ran = "".join(models[2].executable.manifest["kernels"][name]["ptx"] for name in gpu.launches)
    assert ("k32.f32.e4m3.e4m3" in ran) == (activation == "fp8")  # scales of 64 are no whole slices


@pytest.mark.parametrize("target", TARGETS)
def test_caches_grow_and_move(gpu: VirtualGpu, tiny: Path, target: str) -> None:
    """A batch beyond the first capacity, and a row that becomes a copy of another; enough rows for the largest tiles."""
    place(gpu, target)
    models = [Model.from_pretrained(tiny, target=name, precision="bf16") for name in ("cpu", target)]
    ids = np.random.default_rng(4).integers(0, 512, (2, 131))
    sessions = [model.session(2) for model in models]
    for begin, end in ((0, 126), (126, 131)):
        expected, actual = (session.forward(ids[:, begin:end]) for session in sessions)
        assert np.abs(actual - expected).max() <= BF16_LOGITS * np.abs(expected).max()
    assert sessions[1].capacity == 256
    assert sessions[1].cache_bytes == sessions[0].cache_bytes
    for session in sessions:
        session.move(1, 0)
    step = ids[[0, 0], :1]
    expected, actual = (session.forward(step) for session in sessions)
    np.testing.assert_array_equal(actual[0], actual[1])
    assert np.abs(actual - expected).max() <= BF16_LOGITS * np.abs(expected).max()
    ran = "".join(models[1].executable.manifest["kernels"][name]["ptx"] for name in gpu.launches)
    assert ("wgmma.mma_async" in ran, "cp.async.bulk.tensor" in ran) == (target == "sm_90a",) * 2
    # One row of the batch alone.
    expected, actual = (session.forward(step[:1], rows=range(1, 2)) for session in sessions)
    assert np.abs(actual - expected).max() <= BF16_LOGITS * np.abs(expected).max()


def test_sampling_leaves_the_logits_on_the_device(gpu: VirtualGpu, tiny: Path) -> None:
    """Tokens are those of the CPU: both compute in f32, and no draw falls between two that nearly tie."""
    place(gpu, "sm_80")
    cpu, there = (Model.from_pretrained(tiny, target=name, precision="f32") for name in ("cpu", "sm_80"))
    for options, everything in (
        ({}, False),
        ({"temperature": 0.8, "top_k": 20}, False),
        ({"temperature": 0.8, "top_p": 0.3}, False),
        ({"temperature": 1.0, "repetition_penalty": 1.3, "top_k": 9}, True),
    ):
        gpu.clear_log()
        found = there.generate([5, 6, 7], max_new_tokens=4, seed=3, **options).new_ids
        assert found == cpu.generate([5, 6, 7], max_new_tokens=4, seed=3, **options).new_ids
        assert (f"{512 * 4}" in {line.split()[1] for line in gpu.log("download")}) == everything
    session = there.session(2)
    first = session.step([[1], [2]])
    np.testing.assert_array_equal(first[1].everything()[first[1].ids], first[1].logits)
    expected = first[1].everything()
    there.session().step([[3]])  # another session has memory of its own
    np.testing.assert_array_equal(first[1].everything(), expected)
    session.forward([[1]], rows=range(1))
    with pytest.raises(ExecutionError, match="the logits of an earlier step are gone"):
        first[1].everything()
    program, held = there.executable, session._logits
    arguments = [np.array([[1]], np.int32), np.array([1], np.int32), *session._views(range(1)), np.ones(1, np.float32)]
    with pytest.raises(InputError, match=r"result 0 is \(1, 512\) float32, but goes to \(2, 512\) float32"):
        program(*arguments, out={0: held})
    with pytest.raises(InputError, match="result 0 must not share memory with an argument or another result"):
        program(*arguments, out={0: DeviceArray(session._caches[0].buffer, (1, 512), np.float32)})
    for missing in (1, 99):  # a cache is an argument
        with pytest.raises(InputError, match=f"there is no result {missing} of its own"):
            program(*arguments, out={missing: held[:1]})
    with pytest.raises(InputError, match="result 0 cannot stay on a GPU: the program runs on the CPU"):
        executable(matmul(1, 64, 64))(*[np.ones((n, 64), ml_dtypes.bfloat16) for n in (1, 64)], out={0: held})


def test_generation_and_artifacts(gpu: VirtualGpu, tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """Greedy tokens of a file that was compiled for the GPU, and the same of the command line."""
    path = tmp_path / "tiny.dsc"
    assert main(["compile", str(tiny), "--target", "sm_90a", "--precision", "bf16", "-o", str(path)]) == 0
    capsys.readouterr()
    found = deepseek.load(path).generate([5, 6, 7], max_new_tokens=5)
    assert len(found.new_ids) == 5
    live = Model.from_pretrained(tiny, target="sm_90a", precision="bf16")
    assert live.generate([5, 6, 7], max_new_tokens=5).new_ids == found.new_ids
    assert live.memory()["arena"] > 0
    assert live.threads == 4
    assert main(["generate", str(path), "--prompt-ids", "5,6,7", "--max-new-tokens", "5", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["new_ids"] == found.new_ids
    assert main(["bench", str(path), "--profile"]) == 1
    assert "profiles compare with limits of CPUs, and sm_90a is a GPU" in capsys.readouterr().err


# What cannot be.


def failures(source: Path, target: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> set[str]:
    """What loading says through every door, which must be one sentence each."""
    said = set()
    with pytest.raises(GpuError) as caught:
        Model.from_pretrained(source, target=target)
    said.add(str(caught.value))
    path = tmp_path / f"{target}.dsc"
    assert main(["compile", str(source), "--target", target, "-o", str(path)]) == 0
    assert main(["inspect", str(path)]) == 0
    capsys.readouterr()
    with pytest.raises(ArtifactError) as refused:
        deepseek.load(path)
    said.add(str(refused.value).removeprefix(f"{path} cannot run here: "))
    for words in (["generate", str(source), "--target", target, "--prompt-ids", "1,2"], ["bench", str(path)]):
        assert main(words) == 1
        printed = capsys.readouterr()
        assert not printed.out and printed.err.startswith("deepseek: error: ") and printed.err.count("\n") < 4
    opened = Artifact(path)
    with pytest.raises(GpuError) as denied:
        Executable(opened.object, opened.manifest)
    said.add(str(denied.value))
    return said


def test_no_driver(gpu: VirtualGpu, tiny: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.setenv("DEEPSEEK_LIBCUDA", str(tmp_path / "libcuda.so.1"))
    (said,) = failures(tiny, "sm_90a", tmp_path, capsys)
    assert said.startswith("sm_90a needs a GPU: no NVIDIA driver: ") and "libcuda.so.1" in said


def test_old_driver(gpu: VirtualGpu, tiny: Path, tmp_path: Path, capsys) -> None:
    gpu.set(version=11080)
    assert failures(tiny, "sm_80", tmp_path, capsys) == {
        "sm_80 needs a GPU: the NVIDIA driver supports CUDA 11.8, compiled code needs 12.3 or newer: update the driver"
    }


@pytest.mark.parametrize(
    ("target", "capability", "message"),
    [
        ("sm_90a", 80, "sm_90a needs a GPU of compute capability 9.0, Fake GPU 0 has 8.0; sm_80 runs there"),
        ("sm_90a", 100, "sm_90a needs a GPU of compute capability 9.0, Fake GPU 0 has 10.0; sm_80 runs there"),
        (
            "sm_80",
            75,
            "sm_80 needs a GPU: Fake GPU 0 has compute capability 7.5, compiled code needs 8.0 (A100) or newer",
        ),
    ],
)
def test_wrong_architecture(
    gpu: VirtualGpu, tiny: Path, tmp_path: Path, capsys, target: str, capability: int, message: str
) -> None:
    gpu.set(capability=capability)
    assert failures(tiny, target, tmp_path, capsys) == {message}


def test_newer_devices_run_sm_80(gpu: VirtualGpu, tiny: Path) -> None:
    gpu.set(capability=120)
    assert Model.from_pretrained(tiny, target="sm_80").logits([1, 2, 3]).shape == (512,)


def test_out_of_memory(gpu: VirtualGpu, smollm2_layer: Path) -> None:
    """Of weights, and of caches, after which the model works on."""
    gpu.set(memory=4 << 20)
    with pytest.raises(GpuMemoryError, match="no device memory for [0-9]+ bytes: [0-9]+ of 4194304 are free"):
        Model.from_pretrained(smollm2_layer, target="sm_80", precision="bf16")
    gpu.set(memory=40 << 20)
    model = Model.from_pretrained(smollm2_layer, target="sm_80", precision="bf16")
    session = model.session(800)
    with pytest.raises(ExecutionError, match="no device memory for [0-9]+ bytes") as caught:
        session.forward(np.zeros((800, 1), np.int32))
    assert isinstance(caught.value, GpuMemoryError) and caught.value.total == 40 << 20
    assert session.capacity == 0
    assert np.isfinite(model.logits([1, 2, 3])).all()
