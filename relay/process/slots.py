"""The places the supervisor keeps filled, and how patient it is with who fills them."""

import asyncio
import socket
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from relay.backoff import backoff_s
from relay.process.child import Child
from relay.process.succession.handover import HandedChild

AGAIN_S: Final = 0.25
AGAIN_S_MAX: Final = 5.0
"""Waits before the next child, from the second young death in a row on; the first costs none."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RestartBackoff:
    """How long children are waited for, in seconds."""

    start_s: float = 60.0
    """A child not ready by then is killed: imports and one snapshot take about a second."""
    silent_s: float = 10.0
    """A child that has not beaten for so long is stuck and killed; ten beats were due."""
    relief_s: float = 2.5
    """A worker that has not beaten for so long does not serve its queue: another one does."""
    young_s: float = 10.0
    """A child that dies younger than this has not served: the next one is started later."""
    grace_s: float = 10.0
    """What a child without client streams gets between SIGTERM and SIGKILL."""
    last_s: float = 2.0
    """What a child gets in a hurry, and beyond server.drain_s: to end its streams with an event
    that says so, and to write its journal."""

    def is_stuck(self, child: Child, now_s: float) -> bool:
        """Tell whether a child has to be killed: it does not get ready, or is silent."""
        if not child.is_ready and child.age_s > self.start_s:
            return True
        return child.silent_s(now_s) > self.silent_s


@dataclass(kw_only=True, slots=True, eq=False)
class Slot:
    """A place that has to be filled: its command, its socket, and who serves it now.

    `drains`: its child has client streams to finish, and gets server.drain_s for it. `vital`: the
    relay serves only once it is filled. `lasting`: its child listens by itself, so there cannot be
    two, and it outlives a reload.
    """

    name: str
    command: Sequence[str]
    listener: socket.socket | None = None
    drains: bool = False
    vital: bool = True
    lasting: bool = False
    child: Child | None = None
    served: asyncio.Event = field(default_factory=asyncio.Event)
    """Set once a child on this slot has become ready."""
    swapped: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when another child was put here beside it."""
    relieving: bool = False
    """Whether that is under way."""
    renew: bool = False
    """Whether somebody asked for a new worker here."""
    young_deaths: int = 0

    def why_relieve(self, child: Child, now_s: float, backoff: RestartBackoff) -> str:
        """Return why its queue is to be served by another one, in words; "": it is not."""
        if child.silent_s(now_s) > backoff.relief_s:
            return "child is silent"
        return "child is too large" if self.renew else ""

    def count_death(self, age_s: float, backoff: RestartBackoff) -> float:
        """Note that the slot's child died at this age; return how long the next one has to wait."""
        self.young_deaths = self.young_deaths + 1 if age_s < backoff.young_s else 0
        if self.young_deaths <= 1:
            return 0.0
        return backoff_s(self.young_deaths - 1, first_s=AGAIN_S, most_s=AGAIN_S_MAX)


def hear_all(children: Iterable[Child], slots: Iterable[Slot]) -> None:
    """Take in what children have said, and take over which slots they ask new workers for."""
    for child in children:
        child.hear()
        for slot in slots:
            if slot.name in child.renewals:
                slot.renew = True
        child.renewals.clear()


def hand_all(
    children: Mapping[Child, Slot | None], current_pids: Collection[int]
) -> list[HandedChild]:
    """Return what the next program has to know of each child; the spare one is nobody yet."""
    return [
        child.hand(current=child.pid in current_pids, drains=slot.drains)
        for child, slot in children.items()
        if slot is not None
    ]
