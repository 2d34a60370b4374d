"""Modules that the tests of GPU targets compile, and their kernels."""

from __future__ import annotations

from deepseek.compiler import compile_text


def kernels(text: str, target: str) -> dict[str, str]:
    """PTX by the name of the kernel."""
    entries = compile_text(text, target=target).manifest["kernels"]
    return {name: entry["ptx"] for name, entry in entries.items()}


def matmul(rows: int | str, columns: int, depth: int, *, dtype: str = "bf16", result: str = "f32") -> str:
    """x [rows, depth] times w [columns, depth] transposed; rows "?" are dynamic."""
    x, w, y = (
        f"tensor<{rows}x{depth}x{dtype}>",
        f"tensor<{columns}x{depth}x{dtype}>",
        f"tensor<{rows}x{columns}x{result}>",
    )
    return f"""func.func @main(%x: {x}, %w: {w}) -> {y} {{
  %y = dsc.matmul %x, %w {{transpose_rhs}} : ({x}, {w}) -> {y}
  return %y : {y}
}}"""


def attention(heads: int, kv_heads: int, depth: int, *, dtype: str = "bf16", attributes: str = "causal") -> str:
    """Queries [b, s, heads, depth] over keys and values [b, t, kv_heads, depth]."""
    q, k = f"tensor<?x?x{heads}x{depth}x{dtype}>", f"tensor<?x?x{kv_heads}x{depth}x{dtype}>"
    queries, keys = (f'{{dsc.dims = #dsc.dims<["b", "{name}", "_", "_"]>}}' for name in "st")
    return f"""func.func @main(%q: {q} {queries}, %k: {k} {keys}, %v: {k} {keys}) -> {q} {{
  %y = dsc.attention %q, %k, %v {{{attributes}{", " if attributes else ""}scale = 0.125 : f32}} : ({q}, {k}, {k}) -> {q}
  return %y : {q}
}}"""


def cached_attention(heads: int, kv_heads: int, depth: int, *, dtype: str = "f16", attributes: str = "causal") -> str:
    """Queries over a cache [b, 2, kv_heads, t, depth] of which `lengths` positions are valid."""
    q, c = f"tensor<?x?x{heads}x{depth}x{dtype}>", f"tensor<?x2x{kv_heads}x?x{depth}x{dtype}>"
    return f"""func.func @main(%q: {q} {{dsc.dims = #dsc.dims<["b", "s", "_", "_"]>}},
    %c: {c} {{dsc.dims = #dsc.dims<["b", "_", "_", "t", "_"]>}}, %n: tensor<?xi32> {{dsc.dims = #dsc.dims<["b"]>}}) -> {q} {{
  %y = dsc.attention %q cache %c lengths %n {{{attributes}, scale = 0.125 : f32}} : ({q}, {c}, tensor<?xi32>) -> {q}
  return %y : {q}
}}"""


def rms_norm(columns: int, *, dtype: str = "f32") -> str:
    """Rows of `columns` elements."""
    x, w = f"tensor<?x{columns}x{dtype}>", f"tensor<{columns}x{dtype}>"
    return f"""func.func @main(%x: {x}, %w: {w}) -> {x} {{
  %y = dsc.rms_norm %x, %w {{eps = 1.0e-05 : f64}} : ({x}, {w}) -> {x}
  return %y : {x}
}}"""
