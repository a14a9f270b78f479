"""All leases of one worker, by bucket; a limit set remembers its own for as long as they live."""

from collections.abc import Iterator

from relay.limits.lease import Lease
from relay.limits.limit_set import LimitSet
from relay.limits.rate_headers import BucketLevel
from relay.limits.scopes import Bucket


class Leases:
    """The leases that there are, each made when its bucket is first drawn on."""

    def __init__(self) -> None:
        self._leases: dict[str, Lease] = {}
        self.epoch = 0
        """Moves when a lease is forgotten: what limit sets remember is out of date then."""

    def __iter__(self) -> Iterator[Lease]:
        return iter(list(self._leases.values()))

    def __len__(self) -> int:
        return len(self._leases)

    def drawn_on(self, limit_set: LimitSet, now_ms: float) -> list[Lease]:
        """Return the leases of a call that begins: its buckets are those of today's catalog.

        A bucket whose limit has changed keeps its lease.
        """
        if limit_set.epoch != self.epoch:
            limit_set.leases = [self._lease(bucket, now_ms) for bucket in limit_set.buckets]
            for lease, bucket in zip(limit_set.leases, limit_set.buckets, strict=True):
                lease.bucket = bucket
            limit_set.epoch = self.epoch
        return limit_set.leases

    def settled_on(self, limit_set: LimitSet, now_ms: float) -> list[Lease]:
        """Return the leases of a call that began before now: limits may have changed since."""
        if limit_set.epoch == self.epoch:
            return limit_set.leases
        return [self._lease(bucket, now_ms) for bucket in limit_set.buckets]

    def standings(self, limit_set: LimitSet, now_ms: float) -> list[BucketLevel]:
        """Return how full each bucket of a limit set was when it was last heard of."""
        found = [(bucket, self._leases.get(bucket.name)) for bucket in limit_set.buckets]
        return [
            BucketLevel(bucket, lease.standing_ms(now_ms), lease.balance)
            if lease is not None
            else BucketLevel(bucket, 0.0)
            for bucket, lease in found
        ]

    def forget(self, lease: Lease) -> None:
        """Forget an idle lease."""
        del self._leases[lease.bucket.name]
        self.epoch += 1

    def _lease(self, bucket: Bucket, now_ms: float) -> Lease:
        lease = self._leases.get(bucket.name)
        if lease is None:
            lease = self._leases[bucket.name] = Lease(bucket, now_ms)
        return lease
