"""Numbers and speed of a GPU's kernels, in one command of less than eight minutes on a Hopper GPU.

    python test/bench/gpu.py --prepare programs          # on any machine with the compiler: writes one .dsc per case
    python test/bench/gpu.py --programs programs         # where the GPU is: driver, numpy, ml_dtypes, and torch to compare with
    python test/bench/gpu.py                             # both at once

First every kernel's results are compared with float64 (their buffers begin as NaN), then products, attention and
normalization are timed beside torch's, turn by turn, and a decode step of a 7B llama with random weights. Writes
gpu.json and gpu.svg into --output.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))

from gpu_cases import BOUND, Case, bf16, cases, largest_error, operands, program, work_of

HBM_BYTES_PER_S = {"H100": 3.35e12, "H200": 4.8e12, "A100": 2.039e12}  # data sheets, SXM
REPEATS = 7
LLAMA_7B = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 4096, "intermediate_size": 11008,
    "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 32, "vocab_size": 32000,
    "max_position_embeddings": 4096, "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "hidden_act": "silu",
    "tie_word_embeddings": False, "torch_dtype": "bfloat16", "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip


def prepare(folder: Path, target: str, quick: bool) -> None:
    """Compiles every case, and the 7B llama by its shapes alone, into `folder`."""
    from deepseek import artifact
    from deepseek.compiler import compile_text
    from deepseek.frontend.checkpoint.checkpoint import open_checkpoint
    from deepseek.package import describe

    folder.mkdir(parents=True, exist_ok=True)
    seconds = {}
    texts = {case.name: program(case) for case in cases(quick, target)}
    if not quick:
        with tempfile.TemporaryDirectory() as shape:
            (Path(shape) / "config.json").write_text(json.dumps(LLAMA_7B))
            texts["llama-7b"] = describe(open_checkpoint(Path(shape), shapes_only=True), precision="bf16")[1]
    for name, text in texts.items():
        begin = time.perf_counter()
        compiled = compile_text(text, target=target)
        seconds[name] = time.perf_counter() - begin
        artifact.write(folder / f"{name}.dsc", text=text, object=compiled.object, manifest=compiled.manifest)
        print(f"{name:32} compiled in {seconds[name]:.2f} s", flush=True)
    (folder / "compile.json").write_text(json.dumps({"target": target, "seconds": seconds}, indent=1))


class Launcher:
    """A program with its arguments on the device: `launch` issues it, nothing is copied."""

    def __init__(self, path: Path) -> None:
        from deepseek.artifact import Artifact
        from deepseek.executable import Executable

        opened = Artifact(path)
        self.executable = Executable(opened.object, opened.manifest)
        self.device = self.executable.context

    def bind(self, inputs: list[Any]) -> list[Any]:
        """Takes arrays, or DeviceArrays, as the inputs; returns the results' DeviceArrays, which begin as NaN."""
        from deepseek.gpu_memory import DeviceArray

        program = self.executable
        self.inputs = [x if isinstance(x, DeviceArray) else DeviceArray.of(self.device, x) for x in inputs]
        arrays, self.binding = program._signature.check(self.inputs, program._memory.kinds)
        for spec, array in zip(program._signature.inputs, arrays, strict=True):
            program._weights.buffers[spec.slot] = array.address
        self.results = []
        for spec, shape in zip(program._signature.results, self.binding.shapes, strict=True):
            if spec.tied:
                self.results.append(arrays[spec.slot])
                continue
            made = DeviceArray.zeros(self.device, shape, spec.dtype)
            made.buffer.fill(0xFF)
            program._weights.buffers[spec.slot] = made.address
            self.results.append(made)
        return self.results

    def launch(self) -> None:
        program = self.executable
        program._memory._call(
            program._main, ctypes.addressof(program._weights.buffers), ctypes.addressof(self.binding.dims), "timing"
        )

    def seconds(self, least: float = 0.02) -> float:
        """Time of one launch, of enough of them to last `least` seconds."""
        return _timed(self.launch, self.device, least)


def _timed(launch: Callable[[], None], device: Any, least: float) -> float:
    def elapsed(count: int) -> float:
        begin, end = device.event().record(), device.event()
        for _ in range(count):
            launch()
        end.record()
        end.synchronize()
        return end.milliseconds_since(begin) / 1e3

    return per_launch(elapsed, least)


def per_launch(elapsed: Callable[[int], float], least: float) -> float:
    """Seconds of one launch; `elapsed` times a number of them, which grows until they last `least` seconds."""
    count = 1
    while True:
        seconds = elapsed(count)
        if seconds >= least or count >= 4096:
            return seconds / count
        count = min(4096, max(count * 2, int(count * least / max(seconds, 1e-7))))


def torch_equivalent(case: Case, inputs: list[np.ndarray]) -> Callable[[], Any] | None:
    """The same work by torch (cuBLAS, scaled_dot_product_attention, rms_norm), or None without torch on this GPU."""
    try:
        import torch
    except ImportError:
        return None
    if not torch.cuda.is_available():
        return None
    if case.kind == "gemm-fp8":  # cuBLAS with one scale for each row, which is less work
        a, b = (torch.from_numpy(x).cuda().view(torch.float8_e4m3fn) for x in (inputs[0], inputs[2]))
        rows, columns = (torch.ones(shape, device="cuda") for shape in ((len(a), 1), (1, len(b))))
        return lambda: torch._scaled_mm(a, b.T, rows, columns, out_dtype=torch.bfloat16)
    tensors = [torch.from_numpy(np.ascontiguousarray(x).view(np.int16)).cuda().view(torch.bfloat16) for x in inputs]
    functional = torch.nn.functional
    if case.kind in ("gemm", "gemm-alone"):
        return lambda: functional.linear(*tensors)
    if case.kind == "rms_norm":
        return lambda: functional.rms_norm(tensors[0], (case.sizes[1],), tensors[1], 1e-5)
    q, k, v = (x.transpose(1, 2).contiguous() for x in tensors)
    causal, grouped = case.kind == "attention", q.shape[1] != k.shape[1]
    return lambda: functional.scaled_dot_product_attention(q, k, v, is_causal=causal, enable_gqa=grouped)


def torch_seconds(run: Callable[[], Any], least: float = 0.02) -> float:
    import torch

    def elapsed(count: int) -> float:
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        for _ in range(count):
            run()
        end.record()
        end.synchronize()
        return begin.elapsed_time(end) / 1e3

    run()
    return per_launch(elapsed, least)


@dataclass
class Report:
    """What one run measured."""

    device: str = ""
    numerics: dict[str, float] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)
    timings: list[dict[str, Any]] = field(default_factory=list)
    decode: dict[str, Any] = field(default_factory=dict)
    compile_seconds: dict[str, float] = field(default_factory=dict)


def measure(case: Case, folder: Path, report: Report, rng: np.random.Generator) -> None:
    launcher = Launcher(folder / f"{case.name}.dsc")
    inputs = operands(case, rng)
    (result,) = launcher.bind(inputs)
    launcher.launch()
    error = largest_error(case, inputs, result.numpy(), rng)
    report.numerics[case.name] = error
    if not error <= BOUND[case.kind]:
        report.failures.append(f"{case.name}: error {error:.3g}, expected at most {BOUND[case.kind]}")
    line = f"{case.name:36} error {error:.2e}"
    if case.timed:
        line += "  " + time_case(case, launcher, inputs, report)
    print(line, flush=True)


def time_case(case: Case, launcher: Launcher, inputs: list[np.ndarray], report: Report) -> str:
    peer = torch_equivalent(case, inputs)
    ours, theirs = [], []
    for _ in range(REPEATS):  # in turns: clocks drift
        ours.append(launcher.seconds())
        if peer is not None:
            theirs.append(torch_seconds(peer))
    operations, moved = work_of(case)
    seconds = statistics.median(ours)
    entry = {
        "case": case.name,
        "seconds": seconds,
        "tflops": operations / seconds / 1e12,
        "gb_per_s": moved / seconds / 1e9,
    }
    if case.kind == "rms_norm":
        entry["of_copy"] = moved / seconds / copy_bandwidth(launcher.device, int(moved) // 2)
    if theirs:
        entry["torch_seconds"] = statistics.median(theirs)
        entry["ratio"] = statistics.median(b / a for a, b in zip(ours, theirs, strict=True))
    report.timings.append(entry)
    text = f"{seconds * 1e6:9.1f} us {entry['tflops']:7.1f} TFLOP/s {entry['gb_per_s']:7.0f} GB/s"
    return text + (f"  {entry['ratio']:.2f} of torch's speed" if theirs else "")


def copy_bandwidth(device: Any, nbytes: int) -> float:
    """Bytes read and written per second by a copy on the device."""
    source, target = device.allocate(nbytes), device.allocate(nbytes)
    seconds = statistics.median(_timed(lambda: target.copy_from(source), device, 0.02) for _ in range(REPEATS))
    return 2 * nbytes / seconds


def decode(folder: Path, report: Report) -> None:
    """One token of a 7B llama after 512 positions, random weights, as a CUDA graph."""
    launcher = Launcher(folder / "llama-7b.dsc")
    program, device = launcher.executable, launcher.device
    rng = np.random.default_rng(0)
    known: dict[tuple[int, ...], np.ndarray] = {}
    weights = {}
    init = program.manifest["init"]
    for argument in program.manifest["main"]["args"] + (init["args"] if init else []):
        if argument["kind"] != "weight":
            continue
        shape = tuple(argument["shape"])
        if shape not in known:  # equal numbers in different places: only one copy has to be drawn
            values = rng.standard_normal(shape, np.float32) * np.float32(shape[-1] ** -0.5)
            known[shape] = values if argument["dtype"] == "f32" else bf16(values).view(np.uint16)
        weights[argument["weight"]] = known[shape]
    program.bind_weights(weights)
    positions, capacity = 512, 1024
    caches = [
        program.zeros((1, 2, spec.shape[2], capacity, spec.shape[4]), spec.dtype)
        for spec in program._signature.inputs
        if spec.tied
    ]
    launcher.bind([np.array([[1]], np.int32), np.array([positions], np.int32), *caches, np.ones(1, np.float32)])
    launcher.launch()
    with device.graph() as graph:
        launcher.launch()
    seconds = statistics.median(_timed(graph.launch, device, 0.2) for _ in range(REPEATS))
    plain = statistics.median(launcher.seconds(0.2) for _ in range(3))
    read = program.kept_bytes + positions * sum(c.nbytes for c in caches) // capacity
    peak = next((rate for name, rate in HBM_BYTES_PER_S.items() if name in device.info.name), None)
    report.decode = {
        "tokens_per_s": 1 / seconds,
        "without_graph_tokens_per_s": 1 / plain,
        "bytes_per_token": read,
        "of_data_sheet_bandwidth": read / seconds / peak if peak else None,
        "of_copy_bandwidth": read / seconds / copy_bandwidth(device, 1 << 30),
    }
    print("llama 7B, bf16, batch 1:", json.dumps(report.decode), flush=True)


def draw(report: Report, path: Path) -> None:
    """Bars of TFLOP/s, torch's beside ours."""
    entries = [entry for entry in report.timings if entry["tflops"] > 0]
    height, width, left = 22, 640, 260
    most = max((max(e["tflops"], e["tflops"] * e.get("ratio", 1)) for e in entries), default=1)
    rows = []
    for i, entry in enumerate(entries):
        y = 30 + i * height
        bars = [(entry["tflops"], "#2b6cb0", 0)]
        if "torch_seconds" in entry:
            bars.append((entry["tflops"] * entry["seconds"] / entry["torch_seconds"], "#cbd5e0", 9))
        rows.append(f'<text x="{left - 8}" y="{y + 12}" text-anchor="end">{entry["case"]}</text>')
        for value, colour, down in bars:
            rows.append(
                f'<rect x="{left}" y="{y + down}" width="{value / most * (width - 60):.1f}" height="8" fill="{colour}"/>'
            )
        rows.append(
            f'<text x="{left + entry["tflops"] / most * (width - 60) + 4:.1f}" y="{y + 9}">{entry["tflops"]:.0f}</text>'
        )
    total = 40 + len(entries) * height
    path.write_text(
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{left + width}" height="{total}" font-family="sans-serif" font-size="11">'
        f'<text x="8" y="18" font-size="13">{report.device}: TFLOP/s, ours (blue) and torch (grey)</text>{"".join(rows)}</svg>'
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prepare", metavar="DIR", type=Path, help="only compile the programs, into DIR")
    parser.add_argument("--programs", metavar="DIR", type=Path, help="take compiled programs from DIR")
    parser.add_argument("--target", default="sm_90a", help="default: sm_90a")
    parser.add_argument("--output", metavar="DIR", type=Path, default=Path(), help="where gpu.json and gpu.svg go")
    parser.add_argument("--quick", action="store_true", help="numbers of small sizes only")
    options = parser.parse_args()
    if options.prepare:
        prepare(options.prepare, options.target, options.quick)
        return 0
    from deepseek.errors import GpuError
    from deepseek.gpu_memory import default_device

    try:
        device = default_device()
    except GpuError as error:
        print(f"gpu.py: {error}", file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory() as made:
        folder = options.programs
        if folder is None:
            folder = Path(made)
            prepare(folder, options.target, options.quick)
        report = Report(device=device.info.name)
        compiled = json.loads((folder / "compile.json").read_text())
        report.compile_seconds = compiled["seconds"]
        rng = np.random.default_rng(0)
        for case in cases(options.quick, compiled["target"]):
            measure(case, folder, report, rng)
        if not options.quick:
            decode(folder, report)
    options.output.mkdir(parents=True, exist_ok=True)
    (options.output / "gpu.json").write_text(json.dumps(asdict(report), indent=1))
    draw(report, options.output / "gpu.svg")
    for failure in report.failures:
        print(f"wrong: {failure}", file=sys.stderr)
    print(f"{len(report.numerics) - len(report.failures)} of {len(report.numerics)} cases are right")
    return 1 if report.failures else 0


if __name__ == "__main__":
    sys.exit(main())
