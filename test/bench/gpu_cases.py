"""What test/bench/gpu.py runs: programs, their operands, references in float64, and how much work they are."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

_ALONE = """<<tile = [64, 256], workgroup = [128, 256], unroll = 4, depth = 64, instruction = "wgmma",
    threads = [3, 128]>>"""


@dataclass(frozen=True)
class Case:
    """One program: `sizes` are those of its kind, `timed` cases are too large for a reference of all elements."""

    kind: str
    sizes: tuple[int, ...]
    timed: bool = False

    @property
    def name(self) -> str:
        return "-".join([self.kind, *map(str, self.sizes)])


def cases(quick: bool, target: str) -> list[Case]:
    numeric = [Case("gemm", s) for s in ((1, 256, 512), (7, 264, 520), (127, 320, 1000), (1000, 1777, 336))]
    numeric += [Case("gemm-fp8", s) for s in ((1, 256, 512), (7, 264, 640), (300, 1777, 1280))]
    numeric += [Case("attention", s) for s in ((1, 127, 8, 2, 64), (2, 200, 4, 4, 128), (1, 70, 2, 1, 256))]
    numeric += [Case("decode-attention", s) for s in ((1, 1000, 8, 2, 128), (3, 77, 4, 4, 64))]
    numeric += [Case("rms_norm", s) for s in ((7, 576), (127, 4096))]
    if quick:
        return numeric
    timed = [Case("gemm", (n, n, n), True) for n in (512, 1024, 2048, 4096, 8192)]
    if target == "sm_90a":
        timed += [Case("gemm-alone", (n, n, n), True) for n in (4096, 8192)]
    timed += [Case("gemm-fp8", (n, n, n), True) for n in (1024, 4096, 8192)]
    timed += [Case("gemm", (m, 4096, 4096), True) for m in (1, 16, 64)]
    timed += [Case("attention", (1, t, 16, 16, 128), True) for t in (2048, 4096, 16384)]
    timed += [Case("decode-attention", (8, 8192, 32, 8, 128), True)]
    timed += [Case("rms_norm", (16384, 4096), True)]
    return numeric + timed


def program(case: Case) -> str:
    """The module of a case."""
    if case.kind in ("gemm", "gemm-alone"):
        m, n, k = case.sizes
        x, w, y = f"tensor<?x{k}xbf16>", f"tensor<{n}x{k}xbf16>", f"tensor<?x{n}xf32>"
        product = f"dsc.matmul %x, %w {{transpose_rhs}} : ({x}, {w}) -> {y}"
        if case.kind == "gemm-alone":  # blocks that share nothing: what clusters bring
            product = f"""dsc.dispatch (%x, %w) schedule {_ALONE} : ({x}, {w}) -> {y} {{
  ^bb0(%a: {x}, %b: {w}):
    %z = {product.replace("%x, %w", "%a, %b")}
    dsc.yield %z : {y}
  }}"""
        return f"func.func @main(%x: {x}, %w: {w}) -> {y} {{\n  %y = {product}\n  return %y : {y}\n}}"
    if case.kind == "gemm-fp8":  # e4m3, scales of 1x128 on both sides
        m, n, k = case.sizes
        wide, lines = (f"tensor<{rows}x{k}xf32>" for rows in ("?", n)), ("?", n)
        codes, scales = zip(*((f"tensor<{rows}x{k}xi8>", f"tensor<{rows}x{k // 128}xf32>") for rows in lines))
        x, w = wide
        form, y = '{format = "fp8_e4m3_g128"}', f"tensor<?x{n}xf32>"
        return f"""func.func @main(%x: {codes[0]} {{dsc.dims = #dsc.dims<["m", "_"]>}}, %xs: {scales[0]} {{dsc.dims = #dsc.dims<["m", "_"]>}},
    %w: {codes[1]}, %ws: {scales[1]}) -> {y} {{
  %a = dsc.dequantize %x scales %xs : {scales[0]} {form} : {codes[0]} -> {x}
  %b = dsc.dequantize %w scales %ws : {scales[1]} {form} : {codes[1]} -> {w}
  %y = dsc.matmul %a, %b {{transpose_rhs}} : ({x}, {w}) -> {y}
  return %y : {y}
}}"""
    if case.kind == "rms_norm":
        columns = case.sizes[1]
        x, w = f"tensor<?x{columns}xbf16>", f"tensor<{columns}xbf16>"
        return f"""func.func @main(%x: {x}, %w: {w}) -> {x} {{
  %y = dsc.rms_norm %x, %w {{eps = 1.0e-05 : f64}} : ({x}, {w}) -> {x}
  return %y : {x}
}}"""
    _, _, heads, kv_heads, depth = case.sizes
    q, k = f"tensor<?x?x{heads}x{depth}xbf16>", f"tensor<?x?x{kv_heads}x{depth}xbf16>"
    queries, keys = (f'{{dsc.dims = #dsc.dims<["b", "{name}", "_", "_"]>}}' for name in "st")
    scale = depth**-0.5
    return f"""func.func @main(%q: {q} {queries}, %k: {k} {keys}, %v: {k} {keys}) -> {q} {{
  %y = dsc.attention %q, %k, %v {{causal, scale = {scale:.9f} : f32}} : ({q}, {k}, {k}) -> {q}
  return %y : {q}
}}"""


def bf16(values: np.ndarray) -> np.ndarray:
    import ml_dtypes

    return values.astype(ml_dtypes.bfloat16)


def operands(case: Case, rng: np.random.Generator) -> list[np.ndarray]:
    if case.kind in ("gemm", "gemm-alone"):
        m, n, k = case.sizes
        return [bf16(rng.standard_normal(shape, np.float32)) for shape in ((m, k), (n, k))]
    if case.kind == "gemm-fp8":
        import ml_dtypes

        m, n, k = case.sizes
        pairs = [
            (
                rng.standard_normal((lines, k), np.float32).astype(ml_dtypes.float8_e4m3fn).view(np.int8),
                rng.uniform(0.5, 2, (lines, k // 128)).astype(np.float32),
            )
            for lines in (m, n)
        ]
        return [array for pair in pairs for array in pair]
    if case.kind == "rms_norm":
        rows, columns = case.sizes
        return [bf16(rng.standard_normal(shape, np.float32)) for shape in ((rows, columns), (columns,))]
    batch, keys, heads, kv_heads, depth = case.sizes
    positions = 1 if case.kind == "decode-attention" else keys
    shapes = [(batch, positions, heads, depth), (batch, keys, kv_heads, depth), (batch, keys, kv_heads, depth)]
    return [bf16(rng.standard_normal(shape, np.float32)) for shape in shapes]


def largest_error(case: Case, inputs: list[np.ndarray], result: np.ndarray, rng: np.random.Generator) -> float:
    """max |a - b| / max |b| against float64, of up to 64 rows of a large result."""
    wide = [x.astype(np.float64) if x.size < 1 << 24 else x for x in inputs]

    def some(count: int) -> np.ndarray:
        return np.arange(count) if count <= 256 or not case.timed else rng.choice(count, 64, replace=False)

    if case.kind == "gemm-fp8":
        import ml_dtypes

        rows = some(len(result))
        x, xs, w, ws = inputs
        factors = [
            c.view(ml_dtypes.float8_e4m3fn).astype(np.float32).astype(np.float64) * s.astype(np.float64).repeat(128, 1)
            for c, s in ((x[rows], xs[rows]), (w, ws))
        ]
        wanted, actual = factors[0] @ factors[1].T, result[rows]
    elif case.kind in ("gemm", "gemm-alone"):
        rows = some(len(result))
        wanted, actual = wide[0][rows].astype(np.float64) @ np.asarray(wide[1], np.float64).T, result[rows]
    elif case.kind == "rms_norm":
        x = wide[0].astype(np.float64)
        wanted, actual = x / np.sqrt((x**2).mean(1, keepdims=True) + 1e-5) * wide[1], result
    else:
        q, k, v = inputs
        batch, positions, heads, depth = q.shape
        keys, group = k.shape[1], heads // k.shape[2]
        rows = some(positions)
        wanted, actual = np.empty((batch, len(rows), heads, depth)), result[:, rows]
        for b in range(batch):
            for h in range(heads):
                scores = q[b, rows, h].astype(np.float64) @ k[b, :, h // group].astype(np.float64).T * depth**-0.5
                scores[np.arange(keys)[None, :] > rows[:, None] + keys - positions] = -np.inf
                weights = np.exp(scores - scores.max(1, keepdims=True))
                wanted[b, :, h] = weights @ v[b, :, h // group].astype(np.float64) / weights.sum(1, keepdims=True)
    difference = np.abs(actual.astype(np.float64) - wanted)
    return float(np.nan_to_num(difference, nan=np.inf).max() / np.abs(wanted).max())


BOUND = {
    "gemm": 1e-5,
    "gemm-alone": 1e-5,
    "gemm-fp8": 1e-4,
    "attention": 1e-2,
    "decode-attention": 1e-2,
    "rms_norm": 6e-3,
}  # f32 sums; bf16 results


def work_of(case: Case) -> tuple[float, float]:
    """Operations, and bytes that must be moved."""
    if case.kind == "gemm-fp8":
        m, n, k = case.sizes
        return 2.0 * m * n * k, (m * k + n * k) * (1 + 4 / 128) + 4.0 * m * n
    if case.kind in ("gemm", "gemm-alone"):
        m, n, k = case.sizes
        return 2.0 * m * n * k, 2.0 * (m * k + n * k) + 4.0 * m * n
    if case.kind == "rms_norm":
        return 0.0, 4.0 * case.sizes[0] * case.sizes[1]
    batch, keys, heads, kv_heads, depth = case.sizes
    positions = 1 if case.kind == "decode-attention" else keys
    seen = positions * keys - positions * (positions - 1) / 2
    return 4.0 * batch * heads * depth * seen, 4.0 * batch * depth * (keys * kv_heads + positions * heads)
