"""Who else is there: each worker tells its demand once a second, and learns its part of all.

While Redis cannot be asked, a worker keeps to this part of each limit: so the parts of all
workers together are the limit. A worker counts as alive while what it tells changes, by the
reader's own clock: nobody's wall clock matters.
"""

from collections.abc import Iterable, Mapping
from typing import Final

import msgspec

from relay.limits.lease import Lease

BEAT_MS: Final = 1_000
IDLE_BEAT_MS: Final = 2_000
"""Of a worker that has no leases, and so only tells that it lives."""
SILENT_MS_MAX: Final = 5_000
"""After this a worker that tells nothing new has no part any more."""
GONE_MS_MAX: Final = 30_000
"""After this its field is removed."""
BUCKETS_MAX: Final = 16
"""The buckets with most demand are told; of the others every worker has an equal part."""


class Beat(msgspec.Struct, array_like=True, frozen=True):
    """What a worker tells: a number that changes; by bucket name its demand a second and leases.

    `leased`: for those who look at the limits; below 0 it is usage that Redis has not heard of.
    """

    number: int
    demand: dict[str, int]
    leased: dict[str, int] = {}


class Heartbeat:
    """One worker's view of all of them.

    Args:
        worker: Name of this one, unlike any other's.
    """

    def __init__(self, worker: str) -> None:
        self._worker = worker
        self._number = 0
        self._own: dict[str, int] = {}
        self._heard: dict[str, tuple[int, float]] = {}
        """By worker: the last number it told, and when that was new."""

    def beat(self, leases: Iterable[Lease]) -> bytes:
        """Return what to tell now."""
        self._number += 1
        rates = ((int(i.per_ms * 1_000), i.bucket.name, i.balance) for i in leases)
        hottest = sorted(rates, reverse=True)[:BUCKETS_MAX]
        self._own = {key: rate for rate, key, _ in hottest if rate > 0}
        leased = {key: balance for _, key, balance in hottest if balance}
        return msgspec.msgpack.encode(Beat(self._number, self._own, leased))

    def hear(
        self, fields: Mapping[str, bytes], now_ms: float
    ) -> tuple[dict[str, float], float, list[str]]:
        """Return what all of them together mean for this one.

        Args:
            fields: By worker what it told last, this one's own included.
            now_ms: The worker's clock.

        Returns:
            The own share by bucket name, the share of all other buckets, and workers to remove.
        """
        beats = [self._read(worker, told, now_ms) for worker, told in fields.items()]
        alive = [beat for beat in beats if beat is not None]
        totals: dict[str, int] = {}
        for beat in alive:
            for key, rate in beat.demand.items():
                totals[key] = totals.get(key, 0) + rate
        shares = {key: rate / max(totals.get(key, rate), 1) for key, rate in self._own.items()}
        self._heard = {worker: seen for worker, seen in self._heard.items() if worker in fields}
        gone = [w for w, (_, at_ms) in self._heard.items() if now_ms - at_ms >= GONE_MS_MAX]
        return shares, 1 / max(len(alive), 1), gone

    def _read(self, worker: str, told: bytes, now_ms: float) -> Beat | None:
        """Return what a living worker tells; None if it is silent or cannot be understood."""
        try:
            beat = msgspec.msgpack.decode(told, type=Beat)
        except msgspec.DecodeError:
            beat = Beat(-1, {}, {})
        number, since_ms = self._heard.get(worker, (None, now_ms))
        if number != beat.number:
            since_ms = now_ms
        self._heard[worker] = beat.number, since_ms
        return beat if now_ms - since_ms < SILENT_MS_MAX else None
