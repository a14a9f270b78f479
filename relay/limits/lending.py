"""What lines share: a channel's quota, reserved for dedicated lines and lent while they are idle.

Every class of line bids on the same bucket, and may draw only while more than its threshold is
left: so what the classes above do not use is drawn by those below, and is theirs again with their
next bid. A tenth of the burst is enough. Where a channel serves one class of line only, nothing is
kept from anybody. Redis lost, nothing is lent: each class keeps to its own part.

Source: docs/limits.md, "Reserve and lending".
"""

from collections.abc import Iterable
from typing import Final

import msgspec

from relay.limits.scopes import FIRST, Bid
from relay.model import Channel, Line, LineKind, Snapshot
from relay.units import PPM

CLASSES: Final = (LineKind.DEDICATED, LineKind.STANDARD, LineKind.TRAINING)
"""The first is never kept waiting by those behind it."""
TRAINING_PPM: Final = PPM // 5
"""Training's part of what is not reserved, beside standard lines, while Redis is lost."""

Bids = dict[LineKind, Bid]


def bids_on(channel: Channel, lines: Iterable[Line]) -> Bids:
    """Return how each class of the lines over a channel bids on its quota."""
    over = [line for line in lines if channel.id in line.channel_ids]
    kinds = {line.kind for line in over}
    present = [kind for kind in CLASSES if kind in kinds]
    parts = _parts_alone(present, reserve_ppm(channel, over))
    return {kind: Bid(rank, rank, parts[kind]) for rank, kind in enumerate(present)}


def all_bids(snapshot: Snapshot) -> dict[int, Bids]:
    """Return, by channel, how the classes of lines bid on those that have a quota."""
    return {
        channel.id: bids_on(channel, snapshot.lines.values())
        for channel in snapshot.channels.values()
        if channel.limited
    }


def bid_of(bids: dict[int, Bids], channel: Channel, line: Line | None) -> Bid:
    """Return how a line bids on a channel; as the only one, where nobody knows."""
    found = bids.get(channel.id)
    return found.get(line.kind, FIRST) if found and line is not None else FIRST


def reserve_ppm(channel: Channel, lines: Iterable[Line]) -> int:
    """Return how much of a channel's quota its dedicated lines have been sold.

    One without a limit of its own has been sold all; without a token quota half is as good a guess
    as any.
    """
    sold = [line.tpm for line in lines if line.kind is LineKind.DEDICATED]
    if not sold:
        return 0
    if not channel.tpm:
        return PPM // 2
    return PPM if 0 in sold else min(PPM, sum(sold) * PPM // channel.tpm)


def _parts_alone(present: list[LineKind], reserved_ppm: int) -> dict[LineKind, int]:
    if len(present) <= 1:
        return dict.fromkeys(present, PPM)
    rest = PPM - reserved_ppm
    training = rest * TRAINING_PPM // PPM if LineKind.STANDARD in present else rest
    if LineKind.TRAINING not in present:
        training = 0
    return {
        LineKind.DEDICATED: reserved_ppm,
        LineKind.STANDARD: rest - training,
        LineKind.TRAINING: training,
    }


class Lending(msgspec.Struct, frozen=True):
    """How a channel's tokens a minute stand: `reserve` sold, `used` of it, and what of it is lent.

    `loads`: what each class asks for a minute.
    """

    quota: int
    reserve: int
    loads: dict[LineKind, int]

    @property
    def used(self) -> int:
        """What the dedicated lines use of their reserve."""
        return min(self.reserve, self.loads.get(LineKind.DEDICATED, 0))

    @property
    def lent(self) -> int:
        """What of the reserve other classes use now."""
        others = sum(load for kind, load in self.loads.items() if kind is not LineKind.DEDICATED)
        return max(0, min(others - (self.quota - self.reserve), self.reserve - self.used))

    def borrowed(self, kind: LineKind) -> int:
        """Return how much of what is lent a class of line uses; the upper one first."""
        if kind is LineKind.DEDICATED:
            return 0
        left = self.quota - self.reserve
        for other in CLASSES[1:]:
            load = self.loads.get(other, 0)
            beyond, left = max(0, load - left), max(0, left - load)
            if other is kind:
                before = self.borrowed(LineKind.STANDARD) if kind is LineKind.TRAINING else 0
                return max(0, min(beyond, self.lent - before))
        return 0
