"""cp.async.bulk and cp.async.bulk.tensor (PTX ISA, 'Data Movement and Conversion: Asynchronous copy').

Loads go to the block's own shared memory, or by multicast to that of several blocks of its cluster.
"""

from __future__ import annotations

import numpy as np

from .decode import op
from .errors import PtxError, Unsupported
from .memory import PARAM_WINDOW, SHARED_START
from .ops_mbarrier import number
from .syntax import Mem, Vec
from .tensor_map import TensorMap, swizzled

REDUCE = {"add": np.add, "min": np.minimum, "max": np.maximum}
CHUNK = 16
LOCAL_ADDRESS = (1 << 60) - 1


def bulk(d, ins):
    mods = ins.mods
    if "prefetch" in mods:
        return lambda m, sel: None
    if "commit_group" in mods:
        return lambda m, sel: m.bulk.commit(m.ids[sel])
    if "wait_group" in mods:
        pending = int(ins.operands[0].value)
        return lambda m, sel: m.bulk.wait(m.ids[sel], pending)
    if "tensor" in mods:
        if any(m.startswith("im2col") or m.startswith("tile::") for m in mods):
            raise Unsupported("this mode of cp.async.bulk.tensor")
        return tensor_load(d, ins) if into_shared(mods) else tensor_store(d, ins)
    return plain(d, ins)


def into_shared(mods) -> bool:
    """Whether the destination is shared memory."""
    spaces = [m.split("::")[0] for m in mods if m.split("::")[0] in ("shared", "global")]
    return spaces[0] == "shared"


def addresses(d, operand):
    base, offset = d.address(operand if isinstance(operand, Mem) else Mem(operand))
    return lambda m, sel: m.V[base][sel].astype(np.int64) + offset


def box_of(d, operand):
    """The tensor map and the coordinates of [map, {c0, c1, ...}], by position in the group of threads."""
    base = addresses(d, Mem(operand.base, operand.offset))
    vector = operand.rest[0]
    slots = [d.src(c, "s32") for c in (vector.items if isinstance(vector, Vec) else (vector,))]

    def read(m, sel):
        places = base(m, sel)
        coordinates = np.stack([m.V[s][sel] for s in slots], -1)
        for i, (place, at) in enumerate(zip(places.tolist(), coordinates.tolist())):
            yield i, map_at(m, place, len(slots)), at

    return read


def map_at(m, place: int, rank: int) -> TensorMap:
    found = m.memory.maps.get(place) or m.memory.maps.get(place + PARAM_WINDOW)
    if found is None:
        raise PtxError(f"no tensor map at {place:#x}")
    if len(found.sizes) != rank:
        raise PtxError(f"a tensor map of rank {len(found.sizes)} with {rank} coordinates")
    return found


def layout(tensor: TensorMap, start: int) -> np.ndarray:
    """Shared addresses of a box's 16-byte chunks in order."""
    if start % 128:
        raise PtxError(f"shared address {start:#x} of a tensor copy is not a multiple of 128")
    inner = tensor.box[0] * tensor.array.itemsize
    if tensor.swizzle and inner != tensor.swizzle:
        raise Unsupported(f"rows of {inner} bytes under a swizzle of {tensor.swizzle}")
    return swizzled(start + np.arange(0, tensor.bytes, CHUNK), tensor.swizzle)


def check_shared(m, ids, i, address) -> None:
    m.check(ids[i : i + 1].repeat(len(address)), address, CHUNK, SHARED_START, m.shared_end, "shared memory")


def tensor_load(d, ins):
    target, source, barrier = ins.operands[:3]
    to, box, at = addresses(d, target), box_of(d, source), addresses(d, barrier)
    mask = d.src(ins.operands[3], "u16") if "multicast::cluster" in ins.mods else None

    def run(m, sel):
        ids = m.ids[sel]
        starts, barriers = to(m, sel) & LOCAL_ADDRESS, at(m, sel) & LOCAL_ADDRESS
        masks = None if mask is None else m.V[mask][sel]
        for i, tensor, coordinates in box(m, sel):
            index, inside = tensor.places(coordinates)
            data = np.zeros(len(index), tensor.elements.dtype)
            data[inside] = tensor.elements[index[inside]]
            address = layout(tensor, int(starts[i]))
            check_shared(m, ids, i, address)
            own = int(m.block_of[ids[i]])
            for block in [own] if masks is None else blocks_of(m, own, int(masks[i])):
                place = address + block * m.shared_row
                chunks = data.view(np.uint8).reshape(-1, CHUNK)
                m.bulk.load(int(ids[i]), (block, int(barriers[i])), place, chunks, tensor.bytes)

    return run


def blocks_of(m, own: int, mask: int) -> list[int]:
    """The blocks of a cluster that a multicast goes to."""
    first, size = own - int(m.rank[own]), m.launch.cluster
    if not mask or mask >> size:
        raise PtxError(f"a multicast to blocks {mask:#x} of a cluster of {size}")
    blocks = [first + rank for rank in range(size) if mask >> rank & 1]
    if not m.alive[blocks].all():
        raise PtxError("a multicast to a block that has ended")
    return blocks


def tensor_store(d, ins):
    target, source = ins.operands[:2]
    box, at = box_of(d, target), addresses(d, source)
    reduce = "reduce" in ins.mods
    name = next((m for m in ins.mods if m in REDUCE), None)
    if reduce and name is None:
        raise Unsupported("this reduction")

    def run(m, sel):
        ids = m.ids[sel]
        starts = at(m, sel) & LOCAL_ADDRESS
        for i, tensor, coordinates in box(m, sel):
            address = layout(tensor, int(starts[i]))
            check_shared(m, ids, i, address)
            place = address + m.shared_base[ids[i]]
            index, inside = tensor.places(coordinates)
            send(m, int(ids[i]), place, lambda data, t=tensor, x=index, k=inside: write(t, x, k, data))

    def write(tensor, index, inside, data):
        values = data.reshape(-1).view(tensor.elements.dtype)[inside]
        if reduce:
            kind = tensor.array.dtype
            old = tensor.elements[index[inside]].view(kind)
            values = REDUCE[name](old, values.view(kind)).astype(kind).view(tensor.elements.dtype)
        tensor.elements[index[inside]] = values

    return run


def send(m, thread: int, place: np.ndarray, write) -> None:
    """Queues a store that reads these chunks when it lands."""
    if m.races is not None:
        m.races.bulk_read(thread, place, CHUNK, m.bulk.open.get(thread, 0))
    m.bulk.store(thread, lambda: write(m.shared_views[1, CHUNK][place // CHUNK]))


def plain(d, ins):
    """cp.async.bulk between global and shared memory: whole 16-byte chunks."""
    target, source, size, *rest = ins.operands
    to, at, count = addresses(d, target), addresses(d, source), number(d, size)
    loads = into_shared(ins.mods)
    if "reduce" in ins.mods or (loads and not any("mbarrier" in m for m in ins.mods)):
        raise Unsupported("this form of cp.async.bulk")
    if loads and any(m == "shared::cta" for m in ins.mods[ins.mods.index("bulk") + 2 :]):
        raise Unsupported("copies between blocks of a cluster")
    barrier = addresses(d, rest[0]) if loads else None

    def run(m, sel):
        ids, sizes = m.ids[sel], count(m, sel)
        targets, sources = to(m, sel), at(m, sel)
        for i, thread in enumerate(ids.tolist()):
            n = int(sizes[i])
            if n % CHUNK or n <= 0:
                raise PtxError(f"a bulk copy of {n} bytes, which is no multiple of 16")
            steps = np.arange(0, n, CHUNK)
            shared = ((targets if loads else sources)[i] & LOCAL_ADDRESS) + steps
            check_shared(m, ids, i, shared)
            place, who = shared + m.shared_base[thread], np.full(len(steps), thread)
            if loads:
                data = m.load("global", who, sources[i] + steps, 8, 2, [None]).view(np.uint8).reshape(-1, CHUNK)
                key = (int(m.block_of[thread]), int(barrier(m, sel)[i]) & LOCAL_ADDRESS)
                m.bulk.load(thread, key, place, data, n)
            else:
                out = targets[i] + steps
                m.load("global", who, out, 8, 2, [None])  # checks the bounds now
                send(
                    m,
                    thread,
                    place,
                    lambda data, w=who, o=out: m.store(
                        "global", w, o, 8, 2, np.ascontiguousarray(data).view(np.uint64), [None]
                    ),
                )

    return run


@op("tensormap")
def tensormap(d, ins):
    raise Unsupported("tensormap.replace")
