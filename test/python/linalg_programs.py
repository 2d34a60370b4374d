"""Programs of `linalg.generic` and `tensor` operations as frontends print them."""

from __future__ import annotations

import numpy as np
from strategies import DTYPES, EPSILON, Argument, Builder, Program, Tensor, integers, relative_to, within

ROW, COLUMN, BOTH = "d0", "d1", "d0, d1"

# Operation: body on %a0, and the part of the reals where it is defined or interesting.
UNARY = {
    "exp": (-20, 20), "exp2": (-20, 20), "expm1": (-5, 5), "log": (0.01, 50), "log2": (0.01, 50),
    "log1p": (-0.9, 50), "sqrt": (0, 50), "rsqrt": (0.01, 50), "sin": (-30, 30), "cos": (-30, 30),
    "tanh": (-6, 6), "erf": (-4, 4), "absf": (-9, 9), "floor": (-9, 9), "ceil": (-9, 9),
    "roundeven": (-9, 9), "trunc": (-9, 9),
}  # fmt: skip


def unary(element: str) -> Program:
    """Every function of one argument, each on values in its own range, as one program."""
    tensor = Tensor(element, ("m", "n"))
    arguments = tuple(
        Argument(f"x{i}", tensor, lambda rng, shape, r=span: rng.uniform(*r, shape))
        for i, span in enumerate(UNARY.values())
    )
    builder = Builder(*arguments)
    results = [
        (builder.map(tensor, f"%r = math.{name} %a0 : {element}", (f"%x{i}", tensor)), tensor)
        for i, name in enumerate(UNARY)
    ]
    return Program(f"unary-{element}", builder.module(*results), arguments, within(8 * EPSILON[element]))


def binary(element: str) -> Program:
    """Arithmetic, maxima, comparisons with select, and copysign and powf, of two floats."""
    tensor = Tensor(element, ("m", "n"))
    arguments = (
        Argument("x", tensor, lambda rng, shape: rng.uniform(0.5, 4, shape) * rng.choice([-1, 1], shape)),
        Argument("y", tensor, lambda rng, shape: rng.uniform(0.5, 4, shape) * rng.choice([-1, 1], shape)),
    )
    builder = Builder(*arguments)
    bodies = [
        f"%r = arith.{op} %a0, %a1 : {element}" for op in ("addf", "subf", "mulf", "divf", "maximumf", "minimumf")
    ]
    bodies += [
        f"%c = arith.cmpf {p}, %a0, %a1 : {element} ; %r = arith.select %c, %a0, %a1 : {element}"
        for p in ("olt", "uge", "oeq", "une")
    ]
    bodies += [
        f"%r = math.copysign %a0, %a1 : {element}",
        f"%p = math.absf %a0 : {element} ; %r = math.powf %p, %a1 : {element}",
    ]
    results = [(builder.map(tensor, body, ("%x", tensor), ("%y", tensor)), tensor) for body in bodies]
    return Program(f"binary-{element}", builder.module(*results), arguments, within(16 * EPSILON[element]))


SPECIAL = (np.nan, np.inf, -np.inf, 0.0, -0.0, 1.0, -2.5, 3.4e38, -3.4e38, 1.2e-38, 1e-44, -1e-44, 88.0, -104.0)


def specials() -> Program:
    """NaN, infinities, zeros, subnormals and the ends of the range through arithmetic and functions."""
    tensor, row, half = Tensor("f32", ("m", "n")), Tensor("f32", ("m",)), Tensor("bf16", ("m", "n"))
    arguments = tuple(Argument(name, tensor, lambda rng, shape: rng.choice(SPECIAL, shape)) for name in ("x", "y"))
    builder = Builder(*arguments)
    x, y = ("%x", tensor), ("%y", tensor)
    functions = ("exp", "log", "sqrt", "rsqrt", "tanh", "erf", "floor", "absf")
    results = [(builder.map(tensor, f"%r = math.{f} %a0 : f32", x), tensor) for f in functions]
    results += [
        (builder.map(tensor, f"%r = arith.{op} %a0, %a1 : f32", x, y), tensor)
        for op in ("addf", "mulf", "divf", "maximumf", "minimumf", "maxnumf")
    ]
    compared = "%c = arith.cmpf {}, %a0, %a1 : f32 ; %r = arith.select %c, %a0, %a1 : f32"
    results += [(builder.map(tensor, compared.format(p), x, y), tensor) for p in ("ogt", "ult", "uno")]
    results.append((builder.map(half, "%r = arith.truncf %a0 : f32 to bf16", x), half))
    top = builder.fill(row, "0xFF800000")
    body = "%r = arith.maximumf %a0, %o : f32"
    results.append((builder.generic(row, [("%x", tensor, BOTH)], ROW, 2, body, top), row))

    def tolerance(inputs: list[np.ndarray], expected: np.ndarray, index: int) -> float:
        """A few ulp, or two steps of the subnormals where all results are that small."""
        finite = np.abs(np.where(np.isfinite(expected), expected, 0).astype(np.float64))
        return max(8 * EPSILON["f32"], 2**-148 / max(np.max(finite, initial=0.0), 2**-149))

    # Strict, because float64 neither overflows nor underflows where f32 does.
    return Program("specials", builder.module(*results), arguments, tolerance, mode="strict", limit=5_000)


def integer(element: str) -> Program:
    """Wrapping integer arithmetic, bits, and comparisons of both signs."""
    tensor = Tensor(element, ("m", "n"))
    width = 8 * DTYPES[element].itemsize
    nonzero = lambda rng, shape: rng.integers(1, 100, shape) * rng.choice([-1, 1], shape)  # noqa: E731
    info = np.iinfo(DTYPES[element])
    arguments = (
        Argument("x", tensor, integers(info.min + 1, info.max)),  # the least integer / -1 is undefined
        Argument("y", tensor, nonzero),
        Argument("z", tensor, integers(0, width - 1)),
    )
    builder = Builder(*arguments)
    arithmetic = ("addi", "subi", "muli", "divsi", "divui", "remsi", "remui")
    operations = (*arithmetic, "andi", "ori", "xori", "maxsi", "maxui", "minsi", "minui")
    bodies = [(f"%r = arith.{op} %a0, %a1 : {element}", "%y") for op in operations]
    bodies += [(f"%r = arith.{op} %a0, %a1 : {element}", "%z") for op in ("shli", "shrsi", "shrui")]
    bodies += [
        (f"%c = arith.cmpi {p}, %a0, %a1 : {element} ; %r = arith.select %c, %a1, %a0 : {element}", "%y")
        for p in ("slt", "ult", "eq", "sge")
    ]
    results = [(builder.map(tensor, body, ("%x", tensor), (y, tensor)), tensor) for body, y in bodies]
    return Program(f"integer-{element}", builder.module(*results), arguments, within(0.0))


def broadcast() -> Program:
    """Rows, columns, a size-1 dim, a scalar tensor, a captured size, and both transposes."""
    full, row, column = Tensor("f32", ("m", "n")), Tensor("f32", ("n",)), Tensor("f32", ("m", 1))
    scalar, turned = Tensor("f32", ()), Tensor("f32", ("n", "m"))
    arguments = (Argument("x", full), Argument("row", row), Argument("column", column), Argument("scalar", scalar))
    builder = Builder(*arguments)
    add = "%r = arith.addf %a0, %a1 : f32"
    x = ("%x", full)
    results = [
        (builder.map(full, add, x, ("%row", row, "d1")), full),
        (builder.map(full, add, x, ("%column", column, "d0, 0")), full),
        (builder.map(full, add, x, ("%scalar", scalar, "")), full),
        (builder.map(full, add, ("%row", row, "d1"), ("%column", column, "d0, 0")), full),
        (builder.map(turned, "%r = arith.negf %a0 : f32", ("%x", full, "d1, d0")), turned),
        (
            builder.map(
                full,
                f"%i = linalg.index 1 : index ; %j = arith.addi %i, {builder.size('m')} : index ;"
                "%k = arith.index_cast %j : index to i32 ; %f = arith.sitofp %k : i32 to f32 ;"
                "%r = arith.mulf %a0, %f : f32",
                x,
            ),
            full,
        ),
    ]
    return Program("broadcast", builder.module(*results), arguments, within(2 * EPSILON["f32"]))


# Combiner: its operation, the initial value for floats
REDUCTIONS = {"addf": "0.0", "mulf": "1.0", "maximumf": "0xFF800000", "minimumf": "0x7F800000"}


def reduction(op: str, map_: str, keepdims: bool = False) -> Program:
    """A float reduction over the loops that `map_` lacks; with `keepdims` they become dims of size 1."""
    full = Tensor("f32", ("m", "n"))
    result = Tensor("f32", tuple({"d0": "m", "d1": "n"}[part] for part in map_.split(", ") if part))
    values = (lambda rng, shape: rng.uniform(0.9, 1.1, shape)) if op == "mulf" else None
    arguments = (Argument("x", full, values),)
    builder = Builder(*arguments)
    init = builder.fill(result, REDUCTIONS[op])
    value = builder.generic(result, [("%x", full, BOTH)], map_, 2, f"%r = arith.{op} %a0, %o : f32", init)
    if keepdims:
        kept = Tensor("f32", ("m", 1) if map_ == ROW else (1, "n"))
        sizes = ", ".join(builder.size(d) if isinstance(d, str) else "1" for d in kept.dims)
        value = builder.value(f"tensor.expand_shape {value} [[0, 1]] output_shape [{sizes}] : {result} into {kept}")
        result = kept
    axes = tuple(axis for axis, loop in enumerate(("d0", "d1")) if loop not in map_)
    rounding = 2 * EPSILON["f32"]
    # A product of n factors has a relative error of n u; here n <= 2000.
    tolerance = {
        "addf": relative_to(lambda i: np.sqrt(i[0].size + 1) * np.abs(i[0]).sum(axis=axes), rounding),
        "mulf": within(2_000 * EPSILON["f32"]),
    }.get(op, within(0.0))
    name = f"reduce-{op}-[{map_}]{'-keepdims' if keepdims else ''}"
    limit = 2_000 if op == "mulf" else 20_000
    return Program(name, builder.module((value, result)), arguments, tolerance, limit=limit)


def integer_reduction(element: str) -> Program:
    """Sum (wrapping), maximum and bitwise or over the last dimension."""
    full, result = Tensor(element, ("m", "n")), Tensor(element, ("m",))
    arguments = (Argument("x", full),)
    builder = Builder(*arguments)
    low = str(np.iinfo(DTYPES[element]).min) if element != "i1" else "false"
    operations = {"ori": "false", "andi": "true"} if element == "i1" else {"addi": "0", "maxsi": low, "ori": "0"}
    results = []
    for op, start in operations.items():
        init = builder.fill(result, start) if element != "i1" else _fill_bool(builder, result, start)
        body = f"%r = arith.{op} %o, %a0 : {element}"
        results.append((builder.generic(result, [("%x", full, BOTH)], ROW, 2, body, init), result))
    return Program(f"reduce-{element}", builder.module(*results), arguments, within(0.0))


def _fill_bool(builder: Builder, tensor: Tensor, constant: str) -> str:
    scalar = builder.value(f"arith.constant {constant}")  # a bool constant is printed without a type
    return builder.value(f"linalg.fill ins({scalar} : i1) outs({builder.empty(tensor)} : {tensor}) -> {tensor}")


def casts() -> Program:
    """Between floats (round to nearest even), and between floats, integers and bools."""
    f32, i32 = Tensor("f32", ("m", "n")), Tensor("i32", ("m", "n"))

    def scaled(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
        """Ordinary, subnormal in f16, or subnormal in f32 and bf16."""
        return rng.uniform(-100, 100, shape) * 2.0 ** rng.choice([0, -20, -133])

    arguments = (Argument("x", f32, scaled), Argument("i", i32))
    builder = Builder(*arguments)
    results = []
    for source, element, op in [
        ("x", "bf16", "truncf"), ("x", "f16", "truncf"), ("x", "f64", "extf"), ("x", "i32", "fptosi"),
        ("x", "i64", "fptosi"), ("i", "f64", "sitofp"), ("i", "i8", "trunci"), ("i", "i64", "extsi"),
        ("i", "i64", "extui"), ("i", "i1", "trunci"),
    ]:  # fmt: skip
        operand = f32 if source == "x" else i32
        result = Tensor(element, operand.dims)
        body = f"%r = arith.{op} %a0 : {operand.element} to {element}"
        results.append((builder.map(result, body, (f"%{source}", operand)), result))
    return Program("casts", builder.module(*results), arguments, within(0.0))


def shapes() -> Program:
    """Slices, concatenation, expanded and collapsed dims, a constant, and a gather."""
    x, y, ids = Tensor("f32", ("m", 12)), Tensor("f32", ("n", 12)), Tensor("i64", ("k",))
    arguments = (Argument("x", x), Argument("y", y), Argument("ids", ids, integers(0, 4)))
    builder = Builder(*arguments)
    m, joined = builder.size("m"), Tensor("f32", ("m", 12))
    part = Tensor("f32", ("m", 5))
    cut = builder.value(f"tensor.extract_slice %x[0, 1] [{m}, 5] [1, 2] : {x} to {part}")
    both = Tensor("f32", ("m", 17))
    joined = builder.value(f"tensor.concat dim(1) %x, {cut} : ({x}, {part}) -> {both}")
    split, flat = Tensor("f32", ("m", 3, 4)), Tensor("f32", ("m", 12))
    expanded = builder.value(f"tensor.expand_shape %x [[0], [1, 2]] output_shape [{m}, 3, 4] : {x} into {split}")
    swapped, turned = Tensor("f32", ("m", 4, 3)), "d0, d2, d1"
    moved = builder.map(swapped, "%r = arith.addf %a0, %a0 : f32", (expanded, split, turned))
    collapsed = builder.value(f"tensor.collapse_shape {moved} [[0], [1, 2]] : {swapped} into {flat}")
    table = np.arange(60, dtype="<f4").reshape(5, 12) / 7
    rows = Tensor("f32", (5, 12))
    constant = builder.value(f'arith.constant dense<"0x{table.tobytes().hex().upper()}"> : {rows}')
    picked = Tensor("f32", ("k", 12))
    gathered = builder.map(
        picked,
        f"%p = arith.index_cast %a0 : i64 to index ; %q = linalg.index 1 : index ;"
        f"%r = tensor.extract {constant}[%p, %q] : {rows}",
        ("%ids", ids, "d0"),
    )
    results = [(cut, part), (joined, both), (moved, swapped), (collapsed, flat), (gathered, picked)]
    return Program("shapes", builder.module(*results), arguments, within(0.0), limit=50_000)


def chain() -> Program:
    """A softmax written out, which fuses and reuses its intermediate values."""
    full, row = Tensor("f32", ("m", "n")), Tensor("f32", ("m",))
    arguments = (Argument("x", full),)
    builder = Builder(*arguments)
    x = ("%x", full)
    top = builder.generic(
        row, [(*x, BOTH)], ROW, 2, "%r = arith.maximumf %a0, %o : f32", builder.fill(row, "0xFF800000")
    )
    body = "%s = arith.subf %a0, %a1 : f32 ; %r = math.exp %s : f32"
    exponential = builder.map(full, body, x, (top, row, ROW))
    total = builder.generic(
        row, [(exponential, full, BOTH)], ROW, 2, "%r = arith.addf %a0, %o : f32", builder.fill(row, "0.0")
    )
    value = builder.map(full, "%r = arith.divf %a0, %a1 : f32", (exponential, full), (total, row, ROW))
    return Program("chain", builder.module((value, full), (top, row)), arguments, within(32 * EPSILON["f32"]))


LINALG_PROGRAMS = (
    unary("f32"),
    unary("f64"),
    unary("bf16"),
    binary("f32"),
    binary("f16"),
    binary("bf16"),
    binary("f64"),
    specials(),
    integer("i32"),
    integer("i64"),
    integer("i8"),
    broadcast(),
    *(reduction("addf", map_) for map_ in (ROW, COLUMN, "")),
    *(reduction("addf", map_, keepdims=True) for map_ in (ROW, COLUMN)),
    *(reduction(op, ROW) for op in ("mulf", "maximumf", "minimumf")),
    reduction("maximumf", COLUMN),
    integer_reduction("i32"),
    integer_reduction("i64"),
    integer_reduction("i1"),
    casts(),
    shapes(),
    chain(),
)
