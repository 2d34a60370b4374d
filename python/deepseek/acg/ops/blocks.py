"""The building blocks that are dsc ops: matmul, attention, norms, rope, embedding, softmax, dequantize."""

from __future__ import annotations

from typing import Any

from deepseek.formats import PLAIN_BITS, find_format

from .. import dtypes, ir, sizes
from ..array import Array, as_array, describe, function, make
from ..dtypes import BF16, BOOL, F16, F32, F64, I32, I64, DType
from ..sizes import Size
from ..source import fail
from ..symint import SymInt
from ..tracing import active
from . import elementwise, reduce
from .layout import broadcast_to, expand_dims, reshape, squeeze, swapaxes, transpose
from .pointwise import broadcast_shapes, common_type, convert, literal
from .reduce import normalize_axis


def _op(
    name: str,
    operands: list[Array],
    shape: tuple[Size, ...],
    dtype: DType,
    attributes: str = "",
    words: list[str] | None = None,
) -> Array:
    """`dsc.name %a, %b {attributes} : (types) -> type`; with `words`, operands after the first follow these."""
    if words is None:
        names = ", ".join(f"{{{i}}}" for i in range(len(operands)))
    else:
        names = " ".join(["{0}", *(f"{word} {{{i + 1}}}" for i, word in enumerate(words))])
    types = ", ".join(f"{{t{i}}}" for i in range(len(operands)))
    shown = f" {{{{{attributes}}}}}" if attributes else ""
    template = f"dsc.{name} {names}{shown} : ({types}) -> {{r}}"
    return make(ir.Op(template, [o.acg_value for o in operands], shape, dtype), *operands)


def _must_equal(a: Size, b: Size, what: str, *arrays: Array) -> None:
    if not active().dims.equal(a, b, f"{what}: {sizes.show(a)} == {sizes.show(b)}"):
        fail(f"{what}, got {' and '.join(map(describe, arrays))}")


def _rank(x: Array, rank: int, name: str, layout: str) -> None:
    if x.ndim != rank:
        fail(f"{name} must be {layout}, got {describe(x)}")


def _shape(shape: tuple[Size, ...]) -> list[Any]:
    return [s if isinstance(s, int) else SymInt(active().dims, s) for s in shape]


def _fix(x: Array, *axes: int) -> None:
    """Makes sizes numbers that the dsc op needs as such (heads, head size)."""
    for axis in axes:
        int(SymInt(active().dims, x.sizes[axis]))


def _number(value: float, dtype: DType = F32) -> str:
    return literal(float(value), dtype)


@function
def matmul(
    a: Any,
    b: Any,
    *,
    bias: Any = None,
    transpose_lhs: bool = False,
    transpose_rhs: bool = False,
    factors: str | None = None,
) -> Array:
    """numpy.matmul: [..., m, k] @ [..., k, n]; 1-D operands gain and lose a dim; batch dims broadcast.

    transpose_lhs, transpose_rhs: the operand is stored with its last two dims exchanged. bias: [n].
    factors: "bf16" allows both operands of an f32 product to be rounded to bf16 where that is faster; sums stay f32.
    """
    a, b = as_array(a), as_array(b)
    _check_factors("matmul", factors)
    if not a.ndim or not b.ndim:
        fail(f"matmul needs arrays of at least one dim, got {describe(a)} and {describe(b)}", "use * for scalars")
    dtype = common_type([a, b])
    if dtype is BOOL:
        return elementwise.not_equal(matmul(convert(a, I32), convert(b, I32)), 0)
    # A 16-bit weight of an f32 product is widened where it is read.
    mixed = a.type is F32 and b.type in (F16, BF16) and dtype is F32
    a, b = convert(a, dtype), b if mixed else convert(b, dtype)
    vector_a, vector_b = a.ndim == 1, b.ndim == 1
    if vector_a:
        a, transpose_lhs = expand_dims(a, 0), False
    if vector_b:
        b, transpose_rhs = expand_dims(b, 1), False
    a, transpose_lhs = _untransposed(a, transpose_lhs)
    b, transpose_rhs = _untransposed(b, transpose_rhs)
    m, k = (-1, -2) if transpose_lhs else (-2, -1)
    k2, n = (-1, -2) if transpose_rhs else (-2, -1)
    _must_equal(a.sizes[k], b.sizes[k2], "matmul: contraction sizes must match", a, b)
    if b.ndim > 2:
        a, b = _same_batch(a, b)
    shape = (*a.sizes[:-2], a.sizes[m], b.sizes[n])
    flags = ", ".join(["transpose_lhs"] * transpose_lhs + ["transpose_rhs"] * transpose_rhs)
    operands = [a, b]
    suffix = f" {{{{{flags}}}}}" if flags else ""
    head, types = "dsc.matmul {0}, {1}", "{t0}, {t1}"
    if bias is not None:
        bias = convert(as_array(bias), dtype)
        _rank(bias, 1, "the bias of matmul", "[n]")
        _must_equal(bias.sizes[0], b.sizes[n], "matmul: the bias must have n elements", bias, b)
        operands.append(bias)
        head, types = head + " bias {2}", types + ", {t2}"
    if factors and dtype is F32:
        head += f" precision <lhs = {factors}, rhs = {factors}, acc = f32>"
    template = f"{head}{suffix} : ({types}) -> {{r}}"
    out = make(ir.Op(template, [o.acg_value for o in operands], shape, dtype), *operands)
    if vector_a:
        out = squeeze(out, -2)
    return squeeze(out, -1) if vector_b else out


def _check_factors(name: str, factors: str | None) -> None:
    if factors not in (None, "bf16"):
        fail(f'{name}: factors must be "bf16" or None, got {factors!r}', "leave it out to multiply what is there")


def _untransposed(x: Array, transposed: bool) -> tuple[Array, bool]:
    """The operand of a transpose of the last two dims, with the flag flipped: no copy is needed for x.T."""
    perm = getattr(x.acg_value.node, "transposed", None)
    if perm is None or perm != (*range(x.ndim - 2), x.ndim - 1, x.ndim - 2):
        return x, transposed
    return Array(x.trace, x.acg_value.node.inputs[0], x.kind), not transposed


def _same_batch(a: Array, b: Array) -> tuple[Array, Array]:
    """Both operands with the broadcast batch dims."""
    batch_a, batch_b = (_Leading(x, x.sizes[:-2]) for x in (a, b))
    shape = broadcast_shapes([batch_a, batch_b], "matmul")
    wanted = _shape(shape)
    return (
        broadcast_to(a, [*wanted, *a.shape[-2:]]),
        broadcast_to(b, [*wanted, *b.shape[-2:]]),
    )


class _Leading(Array):
    """An array seen as its batch dims only, for broadcasting."""

    __slots__ = ("_sizes",)

    def __init__(self, x: Array, batch: tuple[Size, ...]) -> None:
        super().__init__(x.trace, x.acg_value, x.kind)
        self._sizes = batch

    @property
    def sizes(self) -> tuple[Size, ...]:
        return tuple(self.trace.dims.resolve(size) for size in self._sizes)

    @property
    def ndim(self) -> int:
        return len(self._sizes)


@function
def einsum(subscripts: str, a: Any, b: Any) -> Array:
    """numpy.einsum of two operands as transposes and one matmul; no repeated labels, no ellipsis."""
    a, b = as_array(a), as_array(b)
    inputs, arrow, out = subscripts.replace(" ", "").partition("->")
    labels = inputs.split(",")
    if len(labels) != 2 or "." in subscripts or any(len(set(part)) != len(part) for part in [*labels, out]):
        fail(f'einsum "{subscripts}" is not supported', "two operands without repeated labels or ellipsis, or matmul")
    left, right = labels
    if not arrow:
        out = "".join(sorted(c for c in set(left + right) if (left + right).count(c) == 1))
    if len(left) != a.ndim or len(right) != b.ndim or not set(out) <= set(left + right):
        fail(f'einsum "{subscripts}" does not fit {describe(a)} and {describe(b)}')
    a, left = _sum_labels(a, left, right + out)
    b, right = _sum_labels(b, right, left + out)
    for label in set(left) & set(right):
        _must_equal(a.sizes[left.index(label)], b.sizes[right.index(label)], f'einsum: sizes of "{label}" differ', a, b)
    batch = [c for c in left if c in right and c in out]
    summed = [c for c in left if c in right and c not in out]
    rows, columns = [c for c in left if c not in right], [c for c in right if c not in left]
    x = transpose(a, [left.index(c) for c in batch + rows + summed])
    y = transpose(b, [right.index(c) for c in batch + summed + columns])
    known = dict(zip(left, a.shape)) | dict(zip(right, b.shape))

    def extent(names: list[str]) -> Any:
        total: Any = 1
        for c in names:
            total = total * known[c]
        return total

    lead = [known[c] for c in batch]
    x = reshape(x, [*lead, extent(rows), extent(summed)])
    y = reshape(y, [*lead, extent(summed), extent(columns)])
    found = batch + rows + columns
    return transpose(reshape(matmul(x, y), [known[c] for c in found]), [found.index(c) for c in out])


def _sum_labels(x: Array, labels: str, others: str) -> tuple[Array, str]:
    """x summed over the labels that nothing else uses."""
    lonely = tuple(i for i, c in enumerate(labels) if c not in others)
    kept = "".join(c for c in labels if c in others)
    return (convert(reduce.sum(x, lonely), x.type) if lonely else x), kept


def _on_last_axis(x: Array, axis: int, apply: Any) -> Array:
    at = normalize_axis(axis, x.ndim)
    if at == x.ndim - 1:
        return apply(x)
    return swapaxes(apply(swapaxes(x, at, -1)), at, -1)


def _float(x: Any) -> Array:
    x = as_array(x)
    return convert(x, dtypes.float_of(x.type, x.kind))


@function
def softmax(x: Any, axis: int = -1, dim: int | None = None) -> Array:
    """exp(x) / sum(exp(x)) along an axis."""
    x = _float(x)
    return _on_last_axis(x, axis if dim is None else dim, _softmax)


def _softmax(x: Array) -> Array:
    return make(ir.Op("dsc.softmax {0} : {r}", [x.acg_value], x.sizes, x.type), x)


@function
def log_softmax(x: Any, axis: int = -1, dim: int | None = None) -> Array:
    """x - logsumexp(x) along an axis; f32 inside for 16-bit floats."""
    x = _float(x)
    wide = convert(x, x.type.compute)
    at = axis if dim is None else dim
    top = reduce.max(wide, at, True)
    shifted = elementwise.subtract(wide, top)
    total = elementwise.log(reduce.sum(elementwise.exp(shifted), at, True))
    return convert(elementwise.subtract(shifted, total), x.type)


@function
def layer_norm(x: Any, weight: Any = None, bias: Any = None, eps: float = 1e-5) -> Array:
    """(x - mean) / sqrt(var + eps) * weight + bias over the last dim (Ba et al. 2016); f32 inside for 16-bit floats."""
    x = _float(x)
    operands, words = [x], []
    for word, parameter in (("weight", weight), ("bias", bias)):
        if parameter is None:
            continue
        array = convert(as_array(parameter), x.type)
        _rank(array, 1, f"the {word} of layer_norm", "[features]")
        _must_equal(x.sizes[-1], array.sizes[0], f"layer_norm: the {word} must have the size of the last dim", x, array)
        operands.append(array)
        words.append(word)
    return _op("layer_norm", operands, x.sizes, x.type, f"eps = {_number(eps, F64)}", words=words)


@function
def rms_norm(x: Any, weight: Any, eps: float = 1e-5) -> Array:
    """x / sqrt(mean(x**2) + eps) * weight over the last dim (Zhang & Sennrich 2019); weight: [last dim]."""
    x = _float(x)
    weight = convert(as_array(weight), x.type)
    _rank(weight, 1, "the weight of rms_norm", "[features]")
    _must_equal(x.sizes[-1], weight.sizes[0], "rms_norm: the weight must have the size of the last dim", x, weight)
    return _op("rms_norm", [x, weight], x.sizes, x.type, f"eps = {_number(eps, F64)}")


@function
def attention(
    q: Any,
    k: Any = None,
    v: Any = None,
    *,
    cache: Any = None,
    lengths: Any = None,
    mask: Any = None,
    causal: bool = False,
    window: int | None = None,
    scale: float | None = None,
    soft_cap: float | None = None,
    factors: str | None = None,
) -> Array:
    """softmax(q k^T * scale) v with grouped heads: q [b, s, h, d], k and v [b, t, h_kv, d], h % h_kv == 0.

    With `cache` [b, 2, h_kv, capacity, d] and `lengths` [b] (valid positions, the s current ones included)
    instead of k and v. causal: query i is at position t - s + i (lengths - s + i) and sees none behind it;
    window: nor any that is `window` or more before it. mask: broadcasts to [b, h, s, t]; booleans say which keys a
    query sees, numbers are added to scores. scale None: d ** -0.5. soft_cap c: scores become c tanh(scores / c).
    factors: "bf16" allows what both products multiply to be rounded to bf16 where that is faster; sums stay f32.
    """
    _check_factors("attention", factors)
    q = _float(q)
    _rank(q, 4, "q of attention", "[b, s, h, d]")
    if (cache is None) == (k is None or v is None) or (cache is None) != (lengths is None):
        fail("attention needs either k and v, or cache and lengths")
    if cache is not None:
        sources = [as_array(cache), as_array(lengths)]
        _rank(sources[0], 5, "the cache of attention", "[b, 2, h_kv, capacity, d]")
        _rank(sources[1], 1, "the lengths of attention", "[b]")
        heads, keys, depth = sources[0].sizes[2:]
        _must_equal(sources[1].sizes[0], q.sizes[0], "attention: lengths must be [b]", sources[1], q)
        template = "dsc.attention {0} cache {1} lengths {2}"
        if sources[1].type is not I32:
            sources[1] = convert(sources[1], I32)
    else:
        sources = [convert(as_array(k), q.type), convert(as_array(v), q.type)]
        for source in sources:
            _rank(source, 4, "k and v of attention", "[b, t, h_kv, d]")
        for axis in range(4):
            _must_equal(*(s.sizes[axis] for s in sources), "attention: k and v must have one shape", *sources)
        keys, heads, depth = sources[0].sizes[1:]
        template = "dsc.attention {0}, {1}, {2}"
    _must_equal(q.sizes[0], sources[0].sizes[0], "attention: batch sizes must match", q, sources[0])
    _must_equal(q.sizes[3], depth, "attention: head sizes must match", q, sources[0])
    _fix(q, 2, 3)
    _fix(sources[0], *((2, 4) if cache is not None else (2, 3)))
    heads = active().dims.resolve(heads)
    if not heads or q.sizes[2] % heads:
        fail(
            f"attention: the heads of q must be a multiple of those of k, got {describe(q)} and {describe(sources[0])}"
        )
    scale = int(q.shape[3]) ** -0.5 if scale is None else scale
    attributes = f"{'causal, ' if causal else ''}scale = {_number(scale)}"
    if window is not None:
        if window < 1:
            fail(f"attention: window must be at least 1, got {window}")
        attributes += f", window = {int(window)} : i64"
    if soft_cap is not None:
        if not soft_cap > 0:
            fail(f"attention: soft_cap must be positive, got {soft_cap}")
        attributes += f", soft_cap = {_number(soft_cap)}"
    if mask is not None:
        sources.append(_mask(as_array(mask), q, keys))
        template += " mask {3}"
    if factors and q.type is F32:
        template += f" precision <lhs = {factors}, rhs = {factors}, acc = f32>"
    types = ", ".join(f"{{t{i}}}" for i in range(1 + len(sources)))
    template += f" {{{{{attributes}}}}} : ({types}) -> {{r}}"
    return make(ir.Op(template, [o.acg_value for o in [q, *sources]], q.sizes, q.type), q, *sources)


def _mask(mask: Array, q: Array, keys: Any) -> Array:
    """A mask of attention as [b, h, s, t] with sizes of 1."""
    if mask.ndim > 4 or not (mask.type.is_float or mask.type.kind == "b"):
        fail(f"attention: a mask must be booleans or floats of at most 4 dims, got {describe(mask)}")
    mask = expand_dims(mask, tuple(range(4 - mask.ndim)))
    for axis, size in enumerate((q.sizes[0], q.sizes[2], q.sizes[1], keys)):
        if active().dims.resolve(mask.sizes[axis]) != 1:
            _must_equal(mask.sizes[axis], size, "attention: a mask must broadcast to [b, h, s, t]", mask, q)
    return mask


@function
def kv_append(k: Any, v: Any, cache: Any, positions: Any) -> Array:
    """The cache [b, 2, h_kv, capacity, d] with k and v [b, s, h_kv, d] written at positions[b] + 0 .. s - 1.

    Use only the result afterwards. With spec(..., tied=True) the buffer itself is updated.
    """
    cache, positions = as_array(cache), as_array(positions)
    k, v = convert(as_array(k), cache.type), convert(as_array(v), cache.type)
    _rank(cache, 5, "the cache of kv_append", "[b, 2, h_kv, capacity, d]")
    _rank(positions, 1, "the positions of kv_append", "[b]")
    for x in (k, v):
        _rank(x, 4, "k and v of kv_append", "[b, s, h_kv, d]")
        for axis, other in ((0, 0), (2, 2), (3, 4)):
            _must_equal(x.sizes[axis], cache.sizes[other], "kv_append: k, v and the cache must fit", x, cache)
    _must_equal(k.sizes[1], v.sizes[1], "kv_append: k and v must have one shape", k, v)
    _must_equal(cache.sizes[1], 2, "kv_append: the cache must hold two planes", cache)
    _must_equal(positions.sizes[0], k.sizes[0], "kv_append: positions must be [b]", positions, k)
    _fix(cache, 2, 4)
    operands = [k, v, cache, positions if positions.type is I32 else convert(positions, I32)]
    template = "dsc.kv_append {0}, {1} into {2} at {3} : ({t0}, {t1}, {t2}, {t3}) -> {r}"
    values = [o.acg_value for o in operands]
    return make(ir.Op(template, values, cache.sizes, cache.type, in_place=2), *operands)


@function
def rope(x: Any, cos: Any, sin: Any, interleaved: bool = False) -> Array:
    """Rotary embedding (Su et al. 2021) of x [b, s, h, d] by cos and sin [b, s, d/2].

    Pairs are (i, i + d/2), with `interleaved` (2i, 2i + 1).
    """
    x = _float(x)
    tables = [convert(as_array(cos), x.type), convert(as_array(sin), x.type)]
    _rank(x, 4, "x of rope", "[b, s, h, d]")
    _fix(x, 3)
    for table in tables:
        _rank(table, 3, "cos and sin of rope", "[b, s, d/2]")
        for axis in (0, 1):
            _must_equal(x.sizes[axis], table.sizes[axis], "rope: cos and sin must be [b, s, d/2]", x, table)
        _must_equal(x.sizes[3], sizes.mul(table.sizes[2], 2), "rope: cos and sin must be [b, s, d/2]", x, table)
    return _op("rope", [x, *tables], x.sizes, x.type, "interleaved" if interleaved else "")


@function
def embedding(table: Any, ids: Any) -> Array:
    """Rows of table [n, d] at ids [...]: [..., d]."""
    table, ids = as_array(table), as_array(ids)
    _rank(table, 2, "the table of embedding", "[n, d]")
    if ids.type.kind not in "iu":
        fail(f"embedding needs integer ids, got {describe(ids)}")
    if ids.type not in (I32, I64):
        ids = convert(ids, I64)
    return _op("embedding", [table, ids], (*ids.sizes, table.sizes[1]), table.type)


@function
def dequantize(w: Any, format: str, *, expanded: bool = False) -> Array:
    """The f32 values [rows, columns] of blocks w [rows, bytes per row] (int8); formats are those of `dsc.dequantize`.

    expanded: a weight's values are computed once, when it is bound, and kept; else products read its blocks.
    """
    w = as_array(w)
    form = find_format(format)
    if form is None or format in PLAIN_BITS:
        fail(f"block format {format} is not supported", "a name that dsc.dequantize knows, such as q8_0 or int8_g64")
    elements, block = form.elements, form.bytes
    _rank(w, 2, "the operand of dequantize", "[rows, bytes per row]")
    if w.type.bits != 8 or w.type is BOOL:
        fail(f"dequantize needs raw bytes (int8), got {describe(w)}")
    row = int(w.shape[1])
    if row % block:
        fail(f"rows of {row} bytes are not whole {format} blocks of {block} bytes")
    columns = row // block * elements
    kept = ", expanded" if expanded else ""
    template = f'dsc.dequantize {{0}} {{{{format = "{format}"{kept}}}}} : {{t0}} -> {{r}}'
    return make(ir.Op(template, [w.acg_value], (w.sizes[0], columns), F32), w)
