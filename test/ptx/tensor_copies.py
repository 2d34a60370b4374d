"""Bulk copies in flight: loads land when someone asks for their mbarrier, stores when their group is waited for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np


@dataclass
class Load:
    """A bulk load: its bytes, where they go, and what the race checker calls it."""

    place: np.ndarray  # of each chunk, a byte in the batch's shared memory
    data: np.ndarray  # [chunks, bytes]
    bytes: int  # that the mbarrier counts
    epoch: object


@dataclass
class Store:
    """A bulk store of one thread: `land` reads shared memory and writes global memory."""

    thread: int
    group: int
    land: Callable[[], None]


class BulkCopies:
    """The bulk copies of one batch."""

    def __init__(self, machine) -> None:
        self.m = machine
        self.loads: dict[tuple[int, int], list[Load]] = {}
        self.stores: list[Store] = []
        self.open: dict[int, int] = {}  # the bulk group that each thread is filling

    def load(self, thread: int, key: tuple[int, int], place: np.ndarray, data: np.ndarray, count: int) -> None:
        from .ops_mbarrier import find

        find(self.m, key)
        races = self.m.races
        epoch = None if races is None else races.bulk_write(thread, key, place, data.shape[1])
        self.loads.setdefault(key, []).append(Load(place, data, count, epoch))

    def land(self, key: tuple[int, int]) -> None:
        """Everything on the way to an mbarrier arrives."""
        from .ops_mbarrier import complete_bytes

        for load in self.loads.pop(key, ()):
            self.m.shared_views[1, load.data.shape[1]][load.place // load.data.shape[1]] = load.data
            if self.m.races is not None:
                self.m.races.bulk_landed(key, load.epoch)
            complete_bytes(self.m, key, load.bytes)

    def land_waited(self) -> bool:
        """Nobody can run: lands the loads that somebody waits for; whether there were any."""
        keys = [key for key in self.m.waiting if key in self.loads]
        for key in keys:
            self.land(key)
        return bool(keys) and bool((self.m.pc != 2**31 - 1).any())

    def store(self, thread: int, land: Callable[[], None]) -> None:
        self.stores.append(Store(thread, self.open.get(thread, 0), land))

    def commit(self, ids: np.ndarray) -> None:
        for thread in ids.tolist():
            self.open[thread] = self.open.get(thread, 0) + 1

    def wait(self, ids: np.ndarray, pending: int) -> None:
        """Finishes all but the last `pending` committed groups of these threads; -1: all stores."""
        if not self.stores:
            return
        threads = set(ids.tolist())
        kept = []
        for store in self.stores:
            if store.thread in threads and store.group < self.open.get(store.thread, 0) - pending:
                store.land()
                self.m.events += 1
            else:
                kept.append(store)
        self.stores = kept
        if self.m.races is not None:
            for thread in threads:
                self.m.races.bulk_read_done(thread, self.open.get(thread, 0) - pending)

    def finish(self, sel) -> None:
        if self.stores:
            self.wait(self.m.ids[sel], -1)
