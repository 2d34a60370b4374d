"""A model and matrix products: ours against torch, torch.compile, llama.cpp and IREE, in turn in one process.

Every side gets the same token ids, also those that it decodes, and the same number of threads. Peers that are not
installed are named as missing: pip install torch transformers accelerate gguf; llama-cpp-python; iree-base-compiler
iree-base-runtime.

python bench/peers.py [--model smollm2-135m] [--prompt-tokens 512] [--new-tokens 32] [--rounds 5] [--threads 2]
    [--skip NAME ...] [--json]
"""

from __future__ import annotations

import argparse
import functools
import importlib.metadata
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

SEED = 0
IDS = 256  # tokens that every vocabulary has
PRODUCTS = ((2048, 2048, 2048), (1000, 1777, 333))  # m, n, k
SETTLE_SECONDS = 0.02  # other sides' threads go on polling for a while after their last work


@dataclass
class Side:
    """One way to run the model: `prefill` begins a new sequence, `step` appends one token to it."""

    name: str
    precision: str
    prefill: Callable[[list[int]], Any]
    step: Callable[[int], Any]
    compile_s: float = 0.0  # before the first run
    cold_s: float = 0.0  # compile_s, and the first prefill and step
    rates: list[tuple[float, float]] = field(default_factory=list)  # prefill and decode tokens/s of every round


def ours(precision: str, options: argparse.Namespace) -> Side:
    from deepseek import Model

    model = Model.from_pretrained(options.model, precision=precision, threads=options.threads)
    session = model.session()

    def prefill(ids: list[int]) -> None:
        session.reset()
        session.forward([ids])

    return Side("ours", precision, prefill, lambda token: session.forward([[token]]), model.compile_s)


def torch_dtype(precision: str) -> Any:
    import torch

    return {"f32": torch.float32, "bf16": torch.bfloat16}[precision]


@functools.cache
def torch_model(path: str, precision: str) -> Any:
    """transformers' model of the same GGUF file."""
    from transformers import AutoModelForCausalLM

    folder, file = os.path.split(path)
    return AutoModelForCausalLM.from_pretrained(folder, gguf_file=file, dtype=torch_dtype(precision)).eval()


def torch_eager(precision: str, options: argparse.Namespace) -> Side:
    import torch

    model, cache = torch_model(options.model, precision), None

    @torch.inference_mode()
    def forward(ids: list[int], past: Any) -> None:
        nonlocal cache
        cache = model(torch.tensor([ids]), past_key_values=past, use_cache=True, logits_to_keep=1).past_key_values

    return Side("torch", precision, lambda ids: forward(ids, None), lambda token: forward([token], cache))


def torch_compiled(precision: str, options: argparse.Namespace) -> Side:
    """With a cache of fixed size, so that every step runs the same code."""
    import torch
    from transformers import StaticCache

    model = torch_model(options.model, precision)
    cache = StaticCache(model.config, max_cache_len=options.prompt_tokens + options.new_tokens)
    compiled, length = torch.compile(model), 0

    @torch.inference_mode()
    def forward(ids: list[int], past: int) -> None:
        nonlocal length
        if past == 0:
            cache.reset()
        positions = torch.arange(past, past + len(ids))[None]
        compiled(torch.tensor([ids]), position_ids=positions, past_key_values=cache, use_cache=True, logits_to_keep=1)
        length = past + len(ids)

    return Side("torch.compile", precision, lambda ids: forward(ids, 0), lambda token: forward([token], length))


def new_llama(path: str, prompt_tokens: int, positions: int, threads: int, extra_buffers: bool) -> Any:
    """llama.cpp's model; `extra_buffers`: weights may be laid out for the instructions of this CPU (AMX)."""
    from llama_cpp import Llama, llama_cpp

    defaults = llama_cpp.llama_model_default_params

    def parameters() -> Any:
        values = defaults()
        values.use_extra_bufts = extra_buffers
        return values

    llama_cpp.llama_model_default_params = parameters  # the constructor offers no such argument
    try:
        return Llama(
            path,
            n_ctx=positions,
            n_batch=prompt_tokens,
            n_ubatch=prompt_tokens,
            n_threads=threads,
            n_threads_batch=threads,
            verbose=False,
        )
    finally:
        llama_cpp.llama_model_default_params = defaults


def llama_cpp(precision: str, options: argparse.Namespace) -> Side:
    arguments = (options.model, options.prompt_tokens, options.prompt_tokens + options.new_tokens, options.threads)
    # The AMX kernels of some versions end the process on some virtual machines: try in another one.
    trial = f"import peers; peers.new_llama(*{arguments}, True).eval([1] * {options.prompt_tokens})"
    child = subprocess.run(
        [sys.executable, "-c", trial], cwd=Path(__file__).parent, stderr=subprocess.DEVNULL, check=False
    )
    llama = new_llama(*arguments, child.returncode == 0)

    def append(ids: list[int]) -> None:
        llama.eval(ids)
        llama._ctx.get_logits()  # waits for them

    def prefill(ids: list[int]) -> None:
        llama.reset()
        append(ids)

    name = "llama.cpp" if child.returncode == 0 else "llama.cpp, AMX off"
    return Side(name, precision, prefill, lambda token: append([token]))


SIDES: tuple[tuple[str, str, Callable[[str, argparse.Namespace], Side]], ...] = (
    ("ours", "f32", ours),
    ("torch", "f32", torch_eager),
    ("torch.compile", "f32", torch_compiled),
    ("ours", "bf16", ours),
    ("torch", "bf16", torch_eager),
    ("torch.compile", "bf16", torch_compiled),
    ("ours", "as-stored", ours),
    ("llama.cpp", "as-stored", llama_cpp),
)


def run(side: Side, ids: list[int], new_ids: list[int]) -> tuple[float, float]:
    """(prefill, decode) tokens per second."""
    time.sleep(SETTLE_SECONDS)
    begin = time.perf_counter()
    side.prefill(ids)
    middle = time.perf_counter()
    for token in new_ids:
        side.step(token)
    return len(ids) / (middle - begin), len(new_ids) / (time.perf_counter() - middle)


def compare_models(options: argparse.Namespace, missing: dict[str, str]) -> list[dict[str, Any]]:
    """A row per peer; ratios are medians of those of the rounds."""
    rng = np.random.Generator(np.random.PCG64(SEED))
    ids = rng.integers(0, IDS, options.prompt_tokens + options.new_tokens).tolist()
    ids, new_ids = ids[: options.prompt_tokens], ids[options.prompt_tokens :]
    sides = []
    for name, precision, make in SIDES:
        if name in missing or name in options.skip:
            continue
        try:
            side = make(precision, options)
            begin = time.perf_counter()
            run(side, ids, new_ids[:1])
            side.cold_s = side.compile_s + time.perf_counter() - begin - SETTLE_SECONDS
            sides.append(side)
        except Exception as error:  # a peer may fail in any way of its own
            if name == "ours":
                raise
            missing[name] = f"{precision}: {type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
        show(f"{name} {precision} is ready")
    for number in range(options.rounds + 1):
        for side in sides:
            rates = run(side, ids, new_ids)
            if number > 0:  # the first round warms up
                side.rates.append(rates)
        show(f"round {number}/{options.rounds}")
    own = {side.precision: side for side in sides if side.name == "ours"}
    return [row(own[side.precision], side) for side in sides if side.name != "ours"]


def row(own: Side, peer: Side) -> dict[str, Any]:
    values: dict[str, Any] = {"peer": peer.name, "precision": peer.precision}
    for column, phase in enumerate(("prefill", "decode")):
        pairs = [(a[column], b[column]) for a, b in zip(own.rates, peer.rates)]
        values[phase] = {
            "ours_tokens_per_s": statistics.median(a for a, _ in pairs),
            "peer_tokens_per_s": statistics.median(b for _, b in pairs),
            "ratio": statistics.median(a / b for a, b in pairs),
        }
    return values | {"ours_cold_s": own.cold_s, "peer_cold_s": peer.cold_s}


def our_product(m: int, n: int, k: int, dtype: str, options: argparse.Namespace) -> Callable[[], Any]:
    """The right side is a weight, packed beforehand."""
    from deepseek.cli import gemm

    product = gemm.prepare(m, n, k, dtype, threads=options.threads)
    return lambda: product.executable(*product.inputs)


def torch_product(m: int, n: int, k: int, dtype: str, options: argparse.Namespace) -> Callable[[], Any]:
    import torch

    a, b = (torch.randn(shape).to(torch_dtype(dtype)) for shape in ((m, k), (k, n)))
    return lambda: torch.matmul(a, b)


def iree_product(m: int, n: int, k: int, dtype: str, options: argparse.Namespace) -> Callable[[], Any]:
    """Both operands are given at run time, so IREE packs them there if it does."""
    import iree.compiler
    import iree.runtime

    shapes = {"m": f"tensor<{m}x{n}x{dtype}>", "a": f"tensor<{m}x{k}x{dtype}>", "b": f"tensor<{k}x{n}x{dtype}>"}
    text = """func.func @main(%x: {a}, %w: {b}) -> {m} {{
      %zero = arith.constant 0.0 : {dtype}
      %empty = tensor.empty() : {m}
      %init = linalg.fill ins(%zero : {dtype}) outs(%empty : {m}) -> {m}
      %y = linalg.matmul ins(%x, %w : {a}, {b}) outs(%init : {m}) -> {m}
      return %y : {m}
    }}""".format(dtype=dtype, **shapes)
    code = iree.compiler.compile_str(
        text, target_backends=["llvm-cpu"], extra_args=["--iree-llvmcpu-target-cpu=host", "--iree-opt-data-tiling"]
    )
    iree.runtime.flags.parse_flags(f"--task_topology_max_group_count={options.threads}")
    config = iree.runtime.Config("local-task")
    module = iree.runtime.load_vm_flatbuffer(code, driver="local-task")
    rng = np.random.default_rng(SEED)
    operands = [
        iree.runtime.asdevicearray(config.device, rng.standard_normal(shape, np.float32)) for shape in ((m, k), (k, n))
    ]
    return lambda: module.main(*operands).to_host()


def compare_products(options: argparse.Namespace, missing: dict[str, str]) -> list[dict[str, Any]]:
    """A row per product and peer, in GFLOP/s."""
    from deepseek import runtime

    rows = []
    for dtype, peers in (("f32", {"torch": torch_product, "iree": iree_product}), ("bf16", {"torch": torch_product})):
        for m, n, k in PRODUCTS:
            sides = {"ours": our_product(m, n, k, dtype, options)}
            for name, make in peers.items():
                if name in missing or name in options.skip:
                    continue
                try:
                    sides[name] = make(m, n, k, dtype, options)
                    sides[name]()
                except Exception as error:
                    sides.pop(name, None)
                    missing[name] = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
            rates: dict[str, list[float]] = {name: [] for name in sides}
            limits = []
            for number in range(options.rounds + 1):
                for name, compute in sides.items():
                    time.sleep(SETTLE_SECONDS)
                    compute()  # wakes threads that gave up polling
                    begin = time.perf_counter()
                    compute()
                    if number > 0:
                        rates[name].append(2e-9 * m * n * k / (time.perf_counter() - begin))
                limits.append(runtime.limit("f32", options.threads) or 0.0)
            show(f"{m} x {n} x {k} {dtype}")
            for name in [name for name in sides if name != "ours"]:
                rows.append(
                    {
                        "peer": name,
                        "m": m,
                        "n": n,
                        "k": k,
                        "dtype": dtype,
                        "ours_gflops": statistics.median(rates["ours"]),
                        "peer_gflops": statistics.median(rates[name]),
                        "ratio": statistics.median(a / b for a, b in zip(rates["ours"], rates[name])),
                        "f32_limit_gflops": max(limits),
                    }
                )
    return rows


PACKAGES = {
    "torch": ("torch", "transformers"),
    "torch.compile": ("torch", "transformers"),
    "llama.cpp": ("llama-cpp-python",),
    "iree": ("iree-base-compiler", "iree-base-runtime"),
}


def find_peers() -> tuple[dict[str, str], dict[str, str]]:
    """Versions of the packages that are there, and why a peer is missing."""
    versions, missing = {}, {}
    for peer, names in PACKAGES.items():
        for name in names:
            try:
                versions[name] = importlib.metadata.version(name)
            except importlib.metadata.PackageNotFoundError:
                missing[peer] = f"pip install {name}"
    return versions, missing


def show(text: str) -> None:
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)


def lines(report: dict[str, Any]) -> Iterator[str]:
    """The report in Markdown."""
    yield f"{report['prompt_tokens']} tokens of prefill, {report['new_tokens']} of decode, {report['threads']} threads;"
    yield f"{', '.join(f'{name} {version}' for name, version in report['versions'].items())}."
    yield ""
    yield "| peer | precision | phase | ours, tok/s | peer, tok/s | ratio | cold start: ours, peer |"
    yield "| --- | --- | --- | --- | --- | --- | --- |"
    for values in report["models"]:
        for phase in ("prefill", "decode"):
            rates = values[phase]
            cold = f"{values['ours_cold_s']:.1f} s, {values['peer_cold_s']:.1f} s" if phase == "prefill" else ""
            yield (
                f"| {values['peer']} | {values['precision']} | {phase} | {rates['ours_tokens_per_s']:.1f} | "
                f"{rates['peer_tokens_per_s']:.1f} | {rates['ratio']:.2f} | {cold} |"
            )
    yield ""
    yield "| product | peer | ours, GFLOP/s | peer, GFLOP/s | ratio | f32 limit |"
    yield "| --- | --- | --- | --- | --- | --- |"
    for values in report["products"]:
        yield (
            f"| {values['dtype']} {values['m']} x {values['n']} x {values['k']} | {values['peer']} | "
            f"{values['ours_gflops']:.0f} | {values['peer_gflops']:.0f} | {values['ratio']:.2f} | "
            f"{values['f32_limit_gflops']:.0f} |"
        )
    for peer, reason in report["missing"].items():
        yield f"\nmissing: {peer} ({reason})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m", help="a GGUF file, or a name (default: %(default)s)")
    parser.add_argument("--prompt-tokens", type=int, default=512)
    parser.add_argument("--new-tokens", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--skip", nargs="*", default=[], choices=[*PACKAGES], help="peers to leave out")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    from deepseek.names import find_model

    options.model = str(find_model(options.model).absolute())
    versions, missing = find_peers()
    with tempfile.TemporaryDirectory() as folder:  # every compiler starts with an empty cache
        os.environ |= {"XDG_CACHE_HOME": folder, "TORCHINDUCTOR_CACHE_DIR": folder}
        if "torch" in versions:
            import torch

            torch.set_num_threads(options.threads)
        report = {
            "prompt_tokens": options.prompt_tokens,
            "new_tokens": options.new_tokens,
            "rounds": options.rounds,
            "threads": options.threads,
            "versions": versions,
            "models": compare_models(options, missing),
            "products": compare_products(options, missing),
            "missing": missing,
        }
    show("")
    print(json.dumps(report) if options.json else "\n".join(lines(report)))


if __name__ == "__main__":
    main()
