"""The Redis servers that limits live on: one, or the shards of a Redis Cluster.

A cluster's shard is known by the first slot that it had when we started; who serves it is asked
anew for each connection, so a failover is followed. Slots that move to another shard while we run
are not: their buckets live on the worker's share until it is restarted.
"""

from bisect import bisect_right
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

import msgspec

from relay.errors import DependencyDown
from relay.limits.scopes import hash_slot
from relay.store.limits.resp import connect, in_time

Locate = Callable[[], Awaitable[str]]
Ranges = list[tuple[int, int, str]]
"""(first slot, last slot, URL of the primary) of each range, in order."""

ASK_S: Final = 0.05
"""For one server that is asked the way; Redis bounds the whole search."""
SLOTS: Final = 16_384


class Nodes(msgspec.Struct, frozen=True):
    """Where to ask. `locates` gives each shard's URL; `firsts` its first slots, in order.

    `owners`: for each of `firsts` the place in `locates`. One Redis has no slots at all.
    """

    locates: tuple[Locate, ...]
    firsts: tuple[int, ...] = ()
    owners: tuple[int, ...] = ()

    def group_of(self, tag: str) -> str:
        """Return what one script call may touch: everything, or what shares a hash tag."""
        return tag if self.firsts else ""

    def place_of(self, group: str) -> int:
        """Return the place in `locates` of who keeps a group."""
        if not self.firsts:
            return 0
        return self.owners[bisect_right(self.firsts, hash_slot(group)) - 1]

    def tag_at(self, place: int) -> str:
        """Return a hash tag that is kept at a place; "" where there is one Redis."""
        if not self.firsts:
            return ""
        tags = (f"{{at:{number}}}" for number in range(SLOTS))
        return next(tag for tag in tags if self.place_of(tag) == place)


def one_node(locate: Locate) -> Nodes:
    """Return a single Redis, found by `locate`."""
    return Nodes((locate,))


async def ask_ranges(seeds: Sequence[str]) -> Ranges:
    """Return which node of a Redis Cluster has which slots.

    Args:
        seeds: URLs of some of its nodes; the login of the first is used for all.

    Raises:
        DependencyDown: No seed answers, or slots are not served.
    """
    ranges = await _ranges(seeds)
    if sum(last - first + 1 for first, last, _ in ranges) != SLOTS:
        raise DependencyDown("the limiter's cluster does not serve all slots")
    return ranges


def cluster_nodes(seeds: Sequence[str], ranges: Ranges) -> Nodes:
    """Return the shards of a Redis Cluster; `seeds` are asked who serves them now."""
    primaries = sorted({url for _, _, url in ranges})
    firsts = tuple(first for first, _, _ in ranges)
    owners = tuple(primaries.index(url) for _, _, url in ranges)
    known = [*seeds, *primaries]
    locates = tuple(
        _owner_of(known, firsts[owners.index(place)]) for place in range(len(primaries))
    )
    return Nodes(locates, firsts, owners)


def find_owner(seeds: Sequence[str], tag: str) -> Locate:
    """Return what finds the node of a cluster that keeps a hash tag."""
    return _owner_of(seeds, hash_slot(tag))


def _owner_of(seeds: Sequence[str], slot: int) -> Locate:
    async def locate() -> str:
        found = [url for first, last, url in await _ranges(seeds) if first <= slot <= last]
        if not found:
            raise DependencyDown("the limiter's cluster does not serve a slot")
        return found[0]

    return locate


async def _ranges(seeds: Sequence[str]) -> Ranges:
    login, _, _ = seeds[0].removeprefix("redis://").rpartition("@")
    before = f"redis://{login}@" if login else "redis://"
    for seed in seeds:
        try:
            reply = await in_time(_ask(seed), ASK_S, "a node of the limiter's cluster is too slow")
        except DependencyDown:
            continue
        if isinstance(reply, list) and reply:
            return sorted(
                (first, last, f"{before}{primary[0].decode()}:{primary[1]}")
                for first, last, primary, *_ in reply
            )
    raise DependencyDown("no node of the limiter's cluster answers")


async def _ask(seed: str) -> Any:
    connection = await connect(seed)
    try:
        [reply] = await connection.ask([("CLUSTER", "SLOTS")])
    finally:
        connection.close()
    return reply
