"""Calls in flight: seats that workers hold in blocks, and count on their own.

A block expires 15 s after it was last renewed, so a killed worker frees its seats by itself. Seats
in use are never taken away; spare ones come only from an eighth of what is free, so that a nearly
full room is counted exactly. Taking and releasing a seat is local and synchronous: no cancellation
can lose one.
"""

import math
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

from relay.limits.decision import ADMITTED, Admitted, Denied, Why
from relay.limits.scopes import Room
from relay.limits.wish import Wish

TTL_MS: Final = 15_000
RENEW_MS: Final = 5_000
SPARE_MIN: Final = 2
SPARE_PARTS: Final = 10
FREE_PARTS: Final = 8
SETTLE_MS: Final = 1_000
"""A block with seats to spare is asked for this often: where the room is full, it loses them."""
DENY_MS: Final = 50
"""How long a full room is not asked again."""
WAIT_MS: Final = 1_000
"""What a client is told: nobody knows when the next call ends."""
ROOMS_MAX: Final = 200


def grant_seats(seats: int, others: int, used: int, need: int, spare: int) -> int:
    """Return how large a worker's block may be; the reference for store/lua/slots.lua.

    Args:
        seats: What the room has.
        others: What the other workers' blocks hold.
        used: Seats of this worker that calls sit on: kept even where there are too many.
        need: Calls of this worker that wait for one.
        spare: What it would like beside.
    """
    free = seats - others
    block = max(used, min(used + need, free))
    return block + max(0, min(spare, (free - block) // FREE_PARTS))


class Block:
    """The seats of one room that this worker holds."""

    __slots__ = ("asked_ms", "denied_until_ms", "granted", "room", "used", "waiting")

    def __init__(self, room: Room) -> None:
        self.room = room
        self.used = 0
        self.granted = 0
        self.waiting = 0
        self.asked_ms = -math.inf
        self.denied_until_ms = -math.inf

    @property
    def spare(self) -> int:
        """How many seats to hold beside those in use."""
        return max(SPARE_MIN, self.used // SPARE_PARTS) if self.used + self.waiting > 0 else 0

    def due(self, now_ms: float) -> bool:
        """Tell whether the block must be asked for, renewed or made smaller."""
        if self.waiting > 0:
            return True
        if self.granted == 0:
            return False
        age_ms = now_ms - self.asked_ms
        loose = self.granted > self.used
        return age_ms >= RENEW_MS or (loose and age_ms >= SETTLE_MS)


class SeatTicket:
    """A call that waits for a seat in each of its rooms; `decide` is called once."""

    __slots__ = ("asked", "blocks", "decide", "decision")

    def __init__(self, blocks: list[Block]) -> None:
        self.blocks = blocks
        self.asked: set[str] = set()
        """Groups that were asked with this call's need in the question."""
        self.decision: Admitted | Denied | None = None
        self.decide: Callable[[], None] | None = None


class Seats:
    """All blocks of one worker.

    Args:
        group_of: Names the group of a room: what one script call may touch.
        on_due: Called with a group when there is something to ask.
    """

    def __init__(self, group_of: Callable[[Room], str], on_due: Callable[[str], None]) -> None:
        self._group_of = group_of
        self._on_due = on_due
        self._blocks: dict[str, Block] = {}
        self._waiting: deque[SeatTicket] = deque()
        self._aboard: dict[str, list[Block]] = {}
        self._lost: set[str] = set()

    def take(self, rooms: Sequence[Room], now_ms: float) -> Admitted | Denied | None:
        """Take a seat that is there in every room, or in none; None = the bank must be asked."""
        blocks = [self._open(room) for room in rooms]
        for block in blocks:
            if block.used >= block.granted:
                return self._bar(blocks, now_ms)
        return self._sit(blocks)

    def ask(self, rooms: Sequence[Room], now_ms: float) -> Admitted | Denied | SeatTicket:
        """Take a seat in every room, or in none; what this worker lacks is asked of the bank."""
        decision = self.take(rooms, now_ms)
        if decision is not None:
            return decision
        ticket = SeatTicket([self._open(room) for room in rooms])
        for block in ticket.blocks:
            block.waiting += 1
        self._waiting.append(ticket)
        for block in ticket.blocks:
            if block.used >= block.granted:
                self._on_due(self._group_of(block.room))
        return ticket

    def foresee(self, rooms: Sequence[Room], now_ms: float) -> Denied | None:
        """Return why a seat would be denied without asking; takes nothing."""
        return self._bar([self._open(room) for room in rooms], now_ms)

    def leave(self) -> dict[str, list[Wish]]:
        """Return what to ask of each group so that this worker holds no seat any more."""
        found: dict[str, list[Wish]] = {}
        for block in self._blocks.values():
            wish = Wish(block.room.key, block.room.seats, 0, 0, 0)
            found.setdefault(self._group_of(block.room), []).append(wish)
        return found

    def release(self, rooms: Sequence[Room]) -> None:
        """Give the seats of one call back: once for each that `take` or its ticket admitted."""
        for room in rooms:
            block = self._blocks[room.key]
            assert block.used > 0, f"a seat of {room.key} was released twice"
            block.used -= 1

    def drop(self, ticket: SeatTicket) -> None:
        """Give up a ticket whose call has gone."""
        if ticket.decision is None:
            self._close(ticket, Denied(Why.CROWDED, WAIT_MS))

    def sweep(self, now_ms: float) -> None:
        """Find what must be renewed or given back; forget what is empty. Every 250 ms."""
        for key, block in list(self._blocks.items()):
            if block.due(now_ms):
                self._on_due(self._group_of(block.room))
            elif block.used == block.granted == block.waiting == 0:
                del self._blocks[key]

    def take_wishes(self, name: str, now_ms: float) -> list[Wish]:
        """Return what to ask for a group now; empty if nothing, or if it was asked already."""
        if name in self._aboard:
            return []
        due = [
            block
            for block in self._blocks.values()
            if self._group_of(block.room) == name and block.due(now_ms)
        ][:ROOMS_MAX]
        if due:
            self._aboard[name] = due
            for ticket in self._waiting:
                ticket.asked.add(name)
        for block in due:
            block.asked_ms = now_ms
            # The bank may shrink the block: until it has answered, nobody sits on a spare seat.
            block.granted = min(block.granted, block.used)
        return [
            Wish(block.room.key, block.room.seats, block.used, block.waiting, block.spare)
            for block in due
        ]

    def land(self, name: str, granted: Sequence[int], now_ms: float) -> None:
        """Take in how large the blocks are now, in the order of the wishes."""
        self._lost.discard(name)
        asked = self._aboard.pop(name, [])
        for block, size in zip(asked, granted, strict=True):
            block.granted = size
        self._decide(name, now_ms)

    def lose(self, name: str, now_ms: float) -> None:
        """Take in that the bank cannot be asked: blocks stay as they are, and none grows."""
        self._lost.add(name)
        self._aboard.pop(name, None)
        self._decide(name, now_ms)

    def regain(self, name: str) -> None:
        """Take in that the bank answers again."""
        self._lost.discard(name)

    def _open(self, room: Room) -> Block:
        block = self._blocks.get(room.key)
        if block is None:
            block = self._blocks[room.key] = Block(room)
        block.room = room
        return block

    def _bar(self, blocks: list[Block], now_ms: float) -> Denied | None:
        for block in blocks:
            if block.used < block.granted:
                continue
            lost = self._group_of(block.room) in self._lost
            if lost or now_ms < block.denied_until_ms:
                return Denied(Why.EMPTY, WAIT_MS, block.room)
        return None

    def _sit(self, blocks: list[Block]) -> Admitted:
        for block in blocks:
            block.used += 1
        return ADMITTED

    def _decide(self, name: str, now_ms: float) -> None:
        """Seat who can be, in order; refuse whose room was asked for and is full."""
        waiting, self._waiting = self._waiting, deque()
        for ticket in waiting:
            if ticket.decision is not None:
                continue
            short = [block for block in ticket.blocks if block.used >= block.granted]
            full = [block for block in short if self._group_of(block.room) == name]
            if not short:
                self._sit(ticket.blocks)
                self._close(ticket, ADMITTED)
            elif full and (name in ticket.asked or name in self._lost):
                full[0].denied_until_ms = now_ms + DENY_MS
                self._close(ticket, Denied(Why.EMPTY, WAIT_MS, full[0].room))
            else:
                self._waiting.append(ticket)
                self._on_due(self._group_of(short[0].room))

    def _close(self, ticket: SeatTicket, decision: Admitted | Denied) -> None:
        ticket.decision = decision
        for block in ticket.blocks:
            block.waiting -= 1
        if ticket.decide is not None:
            ticket.decide()
