"""cp.async in flight: the bytes land when a thread waits for their group, as late as the ISA allows.

A kernel that reads without waiting therefore reads what was there before (PTX ISA, 'cp.async', 'cp.async.wait_group').
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass
class Flight:
    """One cp.async of some threads: where their bytes go, the bytes, each thread's group number."""

    ids: np.ndarray
    place: np.ndarray  # byte in the batch's shared memory
    data: np.ndarray  # [threads, bytes]
    group: np.ndarray
    epoch: object = None  # the race checker's name of these writes


class Copies:
    """The copies of one batch."""

    def __init__(self, machine) -> None:
        self.m = machine
        self.flights: list[Flight] = []
        self.open = np.zeros(machine.n, np.int64)  # the group that each thread is filling

    def issue(self, ids: np.ndarray, place: np.ndarray, data: np.ndarray) -> None:
        epoch = None
        if self.m.races is not None:
            epoch = self.m.races.copy_issued(ids, place, data.shape[1], self.open[ids])
        self.flights.append(Flight(ids, place, data, self.open[ids], epoch))

    def commit(self, sel) -> None:
        self.open[sel] += 1

    def wait(self, sel, pending: int) -> None:
        """Lands all but the last `pending` committed groups of these threads; -1: also what is not committed."""
        limit = np.full(self.m.n, -1, np.int64)
        limit[sel] = self.open[sel] - pending
        kept = []
        for flight in self.flights:
            due = flight.group < limit[flight.ids]
            count = np.count_nonzero(due)
            if count == len(due):
                self.land(flight.place, flight.data)
            elif not count:
                kept.append(flight)
            else:
                self.land(flight.place[due], flight.data[due])
                rest = ~due
                kept.append(
                    Flight(flight.ids[rest], flight.place[rest], flight.data[rest], flight.group[rest], flight.epoch)
                )
        self.flights = kept
        if self.m.races is not None:
            self.m.races.copy_waited(sel, limit)

    def land(self, place: np.ndarray, data: np.ndarray) -> None:
        size = data.shape[1]
        self.m.shared_views[1, size][place // size] = data

    def finish(self, sel) -> None:
        """A thread has ended: its copies land."""
        if self.flights:
            self.wait(sel, -1)
