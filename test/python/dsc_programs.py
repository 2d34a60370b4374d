"""One program per `dsc` operation and configuration, with the tolerance that its formula justifies."""

from __future__ import annotations

import numpy as np
from block_formats import BLOCKS, random_blocks
from strategies import (
    EPSILON,
    Argument,
    Builder,
    Program,
    Tensor,
    Values,
    integers,
    normal,
    relative_to,
    within,
)


def matmul(
    name: str, lhs: Tensor, rhs: Tensor, result: Tensor, flags: str = "", bias: bool = False, weight: bool = False
) -> Program:
    """dsc.matmul; `flags` are its unit attributes, `weight` makes the right side a weight.

    The error of a sum of K products is at most K u sum|a b| (Higham 2002, eq. 3.5), and one rounding
    of the result.
    """
    arguments = [Argument("a", lhs), Argument("b", rhs, weight=weight)]
    columns = Tensor(result.element, result.dims[-1:])
    if bias:
        arguments.append(Argument("c", columns))
    builder = Builder(*arguments)
    types = ", ".join(str(a.tensor) for a in arguments)
    value = builder.value(f"dsc.matmul %a, %b{' bias %c' if bias else ''} {{{flags}}} : ({types}) -> {result}")

    def absolute_sum(inputs: list[np.ndarray]) -> np.ndarray:
        a, b, *c = [np.abs(x) for x in inputs]
        a = np.swapaxes(a, -1, -2) if "transpose_lhs" in flags else a
        b = np.swapaxes(b, -1, -2) if "transpose_rhs" in flags else b
        return a.shape[-1] * (a @ b) + (c[0] if c else 0.0)

    def tolerance(inputs: list[np.ndarray], expected: np.ndarray, index: int) -> float:
        if result.element not in EPSILON:
            return 0.0
        accumulate = EPSILON["f64" if result.element == "f64" else "f32"]
        return relative_to(absolute_sum, 2 * accumulate)(inputs, expected, index) + 2 * EPSILON[result.element]

    return Program(f"matmul-{name}", builder.module((value, result)), tuple(arguments), tolerance, limit=60_000)


def _hiding(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """A mask to add: small numbers, some that hide one key, and rows of the lowest number."""
    drawn = np.where(rng.random(shape) < 0.2, -np.inf, rng.standard_normal(shape))
    return np.where(rng.random((*shape[:-1], 1)) < 0.1, float(np.finfo(np.float32).min), drawn)


def attention(
    element: str, flags: str, heads: int, kv_heads: int, size: int, cache: bool, mask: Tensor | None = None
) -> Program:
    """dsc.attention on keys and values or on a cache whose rows have any valid length."""
    query = Tensor(element, ("b", "s", heads, size))
    attributes = ", ".join([*filter(None, [flags]), f"scale = {size**-0.5!r} : f32"])
    if cache:
        arguments = (
            Argument("q", query, normal),
            Argument("cache", Tensor(element, ("b", 2, kv_heads, "t", size)), normal),
            Argument("lengths", Tensor("i32", ("b",)), integers(0, 0)),
        )
        operands = "%q cache %cache lengths %lengths"
    else:
        keys = Tensor(element, ("b", "t", kv_heads, size))
        arguments = (Argument("q", query, normal), Argument("k", keys, normal), Argument("v", keys, normal))
        operands = "%q, %k, %v"
    if mask is not None:
        arguments = (*arguments, Argument("m", mask, None if mask.element == "i1" else _hiding))
        operands += " mask %m"

    def any_length(rng: np.random.Generator, arrays: list[np.ndarray]) -> None:
        capacity = arrays[1].shape[3]
        arrays[2][:] = rng.integers(0, capacity, arrays[2].shape, endpoint=True)
        for row, length in enumerate(arrays[2]):
            arrays[1][row, :, :, length:] = np.nan  # what is not valid must not be read

    builder = Builder(*arguments)
    types = ", ".join(str(a.tensor) for a in arguments)
    value = builder.value(f"dsc.attention {operands} {{{attributes}}} : ({types}) -> {query}")
    # Scores of unit normals have an absolute error of some d u = 64 u, hence probabilities a relative one.
    return Program(
        f"attention-{'cache' if cache else 'kv'}-{element}-{flags or 'full'}-{heads}/{kv_heads}x{size}"
        + (f"-{mask}" if mask else ""),
        builder.module((value, query)),
        arguments,
        within(max(4 * EPSILON[element], 1e-5 if element != "f64" else 1e-12)),
        adjust=any_length if cache else None,
        sizes={"b": (0, 1, 2, 3), "s": (0, 1, 2, 7, 17, 33)},
        limit=6_000,
    )


def kv_append(element: str, heads: int = 3, size: int = 16) -> Program:
    """dsc.kv_append into a tied cache, at positions where the steps fit."""
    step, cache = Tensor(element, ("b", "s", heads, size)), Tensor(element, ("b", 2, heads, "c", size))
    arguments = (
        Argument("k", step),
        Argument("v", step),
        Argument("cache", cache),
        Argument("positions", Tensor("i32", ("b",)), integers(0, 0)),
    )

    def fitting(rng: np.random.Generator, arrays: list[np.ndarray]) -> None:
        room = arrays[2].shape[3] - arrays[0].shape[1]
        if room < 0:  # more steps than capacity: shorten the capacity's deficit away
            arrays[0], arrays[1] = (x[:, : arrays[2].shape[3]] for x in arrays[:2])
            room = 0
        arrays[3][:] = rng.integers(0, room, arrays[3].shape, endpoint=True)

    builder = Builder(*arguments)
    types = ", ".join(str(a.tensor) for a in arguments)
    value = builder.value(f"dsc.kv_append %k, %v into %cache at %positions : ({types}) -> {cache}")
    return Program(
        f"kv_append-{element}",
        builder.module((value, cache), tied={0: 2}),
        arguments,
        within(0.0),
        adjust=fitting,
        sizes={"b": (0, 1, 2, 3), "s": (0, 1, 2, 7, 17)},
        limit=20_000,
    )


def rms_norm(element: str, *dims: str | int) -> Program:
    tensor, weight = Tensor(element, dims), Tensor(element, dims[-1:])
    arguments = (Argument("x", tensor), Argument("w", weight))
    builder = Builder(*arguments)
    value = builder.value(f"dsc.rms_norm %x, %w {{eps = 1.0e-05 : f64}} : ({tensor}, {weight}) -> {tensor}")
    return Program(
        f"rms_norm-{element}-{dims[-1]}",
        builder.module((value, tensor)),
        arguments,
        # Squares do not cancel: a few roundings, and part of K u / 2 from their sum.
        within(4 * EPSILON[element] if element in ("f16", "bf16") else 64 * EPSILON[element]),
    )


def layer_norm(element: str, *dims: str | int, affine: bool = True) -> Program:
    tensor, weight = Tensor(element, dims), Tensor(element, dims[-1:])
    arguments = (Argument("x", tensor),) + ((Argument("w", weight), Argument("c", weight)) if affine else ())
    builder = Builder(*arguments)
    operands, types = ("%x weight %w bias %c", f"{tensor}, {weight}, {weight}") if affine else ("%x", f"{tensor}")
    value = builder.value(f"dsc.layer_norm {operands} {{eps = 1.0e-05 : f64}} : ({types}) -> {tensor}")
    return Program(
        f"layer_norm-{element}-{dims[-1]}{'' if affine else '-plain'}",
        builder.module((value, tensor)),
        arguments,
        # As rms_norm; the mean is subtracted from values of its own size, which costs a few more roundings.
        within(4 * EPSILON[element] if element in ("f16", "bf16") else 256 * EPSILON[element]),
    )


def rope(element: str, interleaved: bool, heads: int = 3, size: int = 32) -> Program:
    tensor, angles = Tensor(element, ("b", "s", heads, size)), Tensor(element, ("b", "s", size // 2))
    cosine: Values = lambda rng, shape: np.cos(rng.uniform(0, 6.3, shape))  # noqa: E731
    arguments = (Argument("x", tensor, normal), Argument("cos", angles, cosine), Argument("sin", angles, cosine))
    builder = Builder(*arguments)
    flags = "{interleaved} " if interleaved else ""
    value = builder.value(f"dsc.rope %x, %cos, %sin {flags}: ({tensor}, {angles}, {angles}) -> {tensor}")
    return Program(
        f"rope-{element}{'-interleaved' if interleaved else ''}",
        builder.module((value, tensor)),
        arguments,
        within(6 * EPSILON[element]),
        limit=2_000,
    )


def embedding(element: str, ids: str, rows: int = 33, columns: int = 48) -> Program:
    """dsc.embedding; ids reach beyond the table, which reads its nearest row."""
    table, index = Tensor(element, (rows, columns)), Tensor(ids, ("b", "s"))
    result = Tensor(element, ("b", "s", columns))
    arguments = (Argument("table", table, weight=True), Argument("ids", index, integers(-2, rows + 1)))
    builder = Builder(*arguments)
    value = builder.value(f"dsc.embedding %table, %ids : ({table}, {index}) -> {result}")
    return Program(f"embedding-{element}-{ids}", builder.module((value, result)), arguments, within(0.0), limit=5_000)


def softmax(element: str, *dims: str | int) -> Program:
    tensor = Tensor(element, dims)
    arguments = (Argument("x", tensor),)
    builder = Builder(*arguments)
    value = builder.value(f"dsc.softmax %x : {tensor}")
    # Rounding t = max - x gives exp(-t) an error of t exp(-t) u < u. The rest is exp and the sum, whose
    # error of up to n u cancels in part.
    r = 4 * EPSILON[element] if element in ("f16", "bf16") else 32 * EPSILON[element]
    return Program(f"softmax-{element}-{len(dims)}d", builder.module((value, tensor)), arguments, within(r))


def _ties(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Few different values: NaN, and both zeros, which are equal."""
    return rng.choice([-2.0, -0.5, -0.0, 0.0, 0.25, 3.0, np.nan], shape)


def scan(element: str, kind: str) -> Program:
    tensor = Tensor(element, ("m", "n"))
    values = {"mul": lambda rng, shape: rng.choice([-1.0, 1.0, 2.0, 0.5], shape)}.get(kind)
    arguments = (Argument("x", tensor, values if element in EPSILON else integers(-9, 9)),)
    builder = Builder(*arguments)
    value = builder.value(f'dsc.scan %x {{kind = "{kind}"}} : {tensor}')

    def magnitude(inputs: list[np.ndarray]) -> np.ndarray:
        return inputs[0].shape[-1] * np.sum(np.abs(inputs[0]) + 1, -1, keepdims=True)

    # A sum of n terms in order: n u sum|x| (Higham 2002, eq. 4.4); order and powers of two are exact.
    exact = kind in ("max", "min", "mul") or element not in EPSILON
    narrow = 2 * EPSILON[element] if element in ("f16", "bf16") else 0.0
    total = relative_to(magnitude, 2 * EPSILON["f64" if element == "f64" else "f32"])
    tolerance = within(0.0) if exact else lambda *a: total(*a) + narrow
    return Program(f"scan-{kind}-{element}", builder.module((value, tensor)), arguments, tolerance, limit=20_000)


def sort(element: str, flags: str = "", first: int | None = None) -> Program:
    """All positions or the `first` ones; rows may have fewer."""
    tensor, order = Tensor(element, ("m", "n")), Tensor("i64", ("m", first or "n"))
    arguments = (Argument("x", tensor, _ties if element in EPSILON else integers(-3, 3)),)
    builder = Builder(*arguments)
    value = builder.value(f"dsc.sort %x {flags}: {tensor} -> {order}")
    name = f"sort-{element}{'-descending' if flags else ''}{f'-first-{first}' if first else ''}"
    return Program(name, builder.module((value, order)), arguments, within(0.0), limit=20_000)


def scatter(element: str, kind: str) -> Program:
    """dsc.scatter at positions that repeat and reach outside; whole numbers, so that every order is exact."""
    table, updates = Tensor(element, ("n", "d")), Tensor(element, ("m", "d"))
    small = integers(-2, 2)
    arguments = (Argument("x", table, small), Argument("i", Tensor("i64", ("m",)), integers(-1, 9)),
                 Argument("u", updates, small if kind != "mul" else integers(-1, 1)))  # fmt: skip
    builder = Builder(*arguments)
    types = ", ".join(str(a.tensor) for a in arguments)
    value = builder.value(f'dsc.scatter %x, %i, %u {{kind = "{kind}"}} : ({types}) -> {table}')
    return Program(f"scatter-{kind}-{element}", builder.module((value, table)), arguments, within(0.0), limit=20_000)


def dequantize(format: str, rows: int = 7, blocks: int = 3) -> Program:
    """dsc.dequantize of a weight, whole and as the right side of a product."""
    block_bytes, block_values, _ = BLOCKS[format]
    raw = Tensor("i8", (rows, blocks * block_bytes))
    weight, x = Tensor("f32", (rows, blocks * block_values)), Tensor("f32", ("m", blocks * block_values))
    result = Tensor("f32", ("m", rows))

    def draw(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
        # Scales in +-[2^-7, 1): exponents 8 to 14.
        return random_blocks(format, rows, blocks, rng=rng, keep=0x9B, put=0x20).view(np.int8)

    arguments = (Argument("x", x, normal), Argument("w", raw, draw, weight=True))
    builder = Builder(*arguments)
    values = builder.value(f'dsc.dequantize %w {{format = "{format}"}} : {raw} -> {weight}')
    product = builder.value(f"dsc.matmul %x, {values} {{transpose_rhs}} : ({x}, {weight}) -> {result}")
    return Program(
        f"dequantize-{format}",
        builder.module((values, weight), (product, result)),
        arguments,
        # The formula in f32, with or without a fused multiply-add; a sum of up to 768 products.
        lambda inputs, expected, index: 4 * EPSILON["f32"] if index == 0 else 2e-5,
    )


DSC_PROGRAMS = (
    matmul("f32", Tensor("f32", ("m", "k")), Tensor("f32", ("k", "n")), Tensor("f32", ("m", "n"))),
    matmul("f64", Tensor("f64", ("m", "k")), Tensor("f64", ("k", "n")), Tensor("f64", ("m", "n"))),
    matmul("i32", Tensor("i32", ("m", "k")), Tensor("i32", ("k", "n")), Tensor("i32", ("m", "n"))),
    matmul("bf16", Tensor("bf16", ("m", "k")), Tensor("bf16", ("k", "n")), Tensor("bf16", ("m", "n"))),
    matmul("bf16-f32", Tensor("bf16", ("m", 64)), Tensor("bf16", (64, 48)), Tensor("f32", ("m", 48))),
    matmul("f16-f32", Tensor("f16", ("m", "k")), Tensor("f16", ("k", "n")), Tensor("f32", ("m", "n"))),
    matmul("static", Tensor("f32", ("b", "s", 96)), Tensor("f32", (96, 49)), Tensor("f32", ("b", "s", 49))),
    matmul("batch", Tensor("f32", ("b", "m", "k")), Tensor("f32", ("b", "k", "n")), Tensor("f32", ("b", "m", "n"))),
    matmul(
        "transpose_lhs", Tensor("f32", ("k", "m")), Tensor("f32", ("k", "n")), Tensor("f32", ("m", "n")), "transpose_lhs"
    ),
    matmul(
        "transpose_rhs", Tensor("f32", ("m", "k")), Tensor("f32", ("n", "k")), Tensor("f32", ("m", "n")), "transpose_rhs"
    ),
    matmul(
        "batch-transposes", Tensor("f32", ("b", "k", "m")), Tensor("f32", ("b", "n", "k")),
        Tensor("f32", ("b", "m", "n")), "transpose_lhs, transpose_rhs",
    ),
    matmul("bias", Tensor("f32", ("m", "k")), Tensor("f32", ("k", "n")), Tensor("f32", ("m", "n")), bias=True),
    matmul(
        "weight", Tensor("f32", ("b", "s", 64)), Tensor("f32", (80, 64)), Tensor("f32", ("b", "s", 80)),
        "transpose_rhs", weight=True,
    ),
    attention("f32", "causal", 9, 3, 64, cache=True),
    attention("f32", "", 4, 4, 16, cache=True),
    attention("f32", "causal", 4, 2, 16, cache=False),
    attention("f32", "", 6, 1, 32, cache=False),
    attention("f32", "causal", 8, 1, 80, cache=True),
    attention("f32", "causal", 2, 2, 96, cache=False),
    attention("f32", "causal", 24, 1, 256, cache=True),
    attention("bf16", "causal", 4, 2, 32, cache=True),
    attention("f16", "", 4, 2, 32, cache=False),
    attention("f64", "causal", 4, 2, 16, cache=False),
    attention("f32", "causal, window = 5 : i64", 4, 2, 16, cache=False),
    attention("f32", "causal, window = 9 : i64", 6, 2, 64, cache=True),
    attention("f32", "window = 3 : i64", 4, 4, 32, cache=False),
    attention("f32", "causal, soft_cap = 2.5 : f32", 4, 2, 32, cache=False),
    attention("f32", "causal, soft_cap = 2.5 : f32, window = 4 : i64", 4, 2, 32, cache=True),
    attention("f32", "", 4, 2, 32, cache=False, mask=Tensor("f32", ("b", 4, "s", "t"))),
    attention("f32", "causal", 4, 2, 16, cache=False, mask=Tensor("i1", ("b", 1, 1, "t"))),
    attention("f32", "", 3, 3, 40, cache=False, mask=Tensor("i1", (1, 1, "s", "t"))),
    attention("f32", "", 4, 2, 32, cache=False, mask=Tensor("f32", (1, 4, 1, "t"))),
    attention("bf16", "causal", 4, 2, 32, cache=False, mask=Tensor("i1", ("b", 4, "s", "t"))),
    attention("f64", "causal", 4, 2, 16, cache=False, mask=Tensor("f64", (1, 4, 1, "t"))),
    kv_append("f32"),
    kv_append("bf16"),
    rms_norm("f32", "b", "s", 576),
    rms_norm("f32", "m", "n"),
    rms_norm("bf16", "m", 64),
    rms_norm("f16", "m", 33),
    rms_norm("f64", "m", "n"),
    layer_norm("f32", "b", "s", 576),
    layer_norm("f32", "m", "n", affine=False),
    layer_norm("bf16", "m", 64),
    layer_norm("f64", "m", "n"),
    rope("f32", interleaved=False),
    rope("f32", interleaved=True),
    rope("bf16", interleaved=False),
    embedding("f32", "i32"),
    embedding("bf16", "i64"),
    softmax("f32", "m", "n"),
    softmax("f32", "b", "h", "s", "t"),
    softmax("f64", "m", "n"),
    softmax("f16", "m", "n"),
    softmax("bf16", "m", "n"),
    *(scan("f32", kind) for kind in ("add", "mul", "max", "min", "logaddexp")),
    scan("i64", "add"),
    scan("i32", "min"),
    scan("bf16", "add"),
    scan("f64", "logaddexp"),
    *(sort(element, flags) for element in ("f32", "i64", "f64") for flags in ("", "{descending} ")),
    *(
        sort(element, flags, first)
        for element, first in (("f32", 5), ("bf16", 1), ("i64", 40), ("i32", 3), ("f64", 2), ("i8", 33))
        for flags in ("", "{descending} ")
    ),
    *(scatter("f32", kind) for kind in ("set", "add", "mul", "max", "min")),
    scatter("i64", "add"),
    scatter("i8", "set"),
    *map(dequantize, BLOCKS),
)  # fmt: skip
