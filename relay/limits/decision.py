"""What a call that asks to run is told: yes, no and why, or wait; and who waits with it."""

import enum
from collections import deque
from collections.abc import Callable
from typing import Final

import msgspec

from relay.limits.lease import Lease, Pairs
from relay.limits.scopes import Bucket, ConcurrencyLimit

CROWDED_MS: Final = 100
LOST_MS: Final = 1_000


class Why(enum.StrEnum):
    """Why a call was denied."""

    EMPTY = "empty"
    """429: the bucket lacks the tokens; waiting helps."""
    TOO_LARGE = "too_large"
    """400: the bucket can never hold that much."""
    LOST = "lost"
    """503: Redis cannot be asked, and the bucket is closed then."""
    CROWDED = "crowded"
    """503: too many wait already, or for too long."""


class Denied(msgspec.Struct, frozen=True):
    """A call that may not run. `limit`: what binds; None where nothing does."""

    why: Why
    wait_ms: int
    limit: Bucket | ConcurrencyLimit | None = None


class Admitted(enum.Enum):
    """A call that may run: its costs are taken."""

    ADMITTED = "admitted"


ADMITTED: Final = Admitted.ADMITTED


class Waiter:
    """A call that waits. `decide` is called once, unless the waiter is dropped before."""

    __slots__ = ("decide", "decision", "groups", "pairs", "reserved")

    def __init__(self, pairs: Pairs) -> None:
        self.pairs = pairs
        self.groups: set[str] = set()
        self.reserved: Pairs = []
        self.decision: Admitted | Denied | None = None
        self.decide: Callable[[], None] | None = None


class BucketGroup:
    """The buckets that one script call may touch."""

    __slots__ = ("aboard", "flying", "hungry", "lost_since_ms", "owed", "waiting")

    def __init__(self) -> None:
        self.waiting: deque[Waiter] = deque()
        self.hungry: list[Lease] = []
        self.owed: dict[Lease, None] = {}
        """Leases with debt to report or surplus to give back; ordered, so that runs repeat."""
        self.flying = False
        self.aboard: list[Waiter] = []
        self.lost_since_ms: float | None = None


class PermitRequest(msgspec.Struct, frozen=True):
    """What a worker asks for one room."""

    key: str
    permits: int
    used: int
    need: int
    spare: int
    rank: int = 0
