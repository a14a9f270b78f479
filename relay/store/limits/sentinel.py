"""Which Redis is the primary now, as the Sentinels say."""

from collections.abc import Sequence
from typing import Any, Final

from relay.errors import DependencyDown
from relay.store.limits.nodes import Locate
from relay.store.limits.resp import connect, in_time

ASK_S: Final = 0.05
"""For one Sentinel; Redis bounds the whole search with its connect deadline."""


def follow_sentinels(sentinels: Sequence[str], service: str, *, login: str = "") -> Locate:
    """Return what finds the primary of `service`, anew for each connection.

    After a failover Redis's connection breaks, or the old primary answers READONLY; both end
    in a new search.

    Args:
        sentinels: URL of each.
        service: The name that they know the primary by.
        login: What stands before the host in the primary's URL ("user:password@").
    """

    async def locate() -> str:
        for sentinel in sentinels:
            try:
                reply = await in_time(_ask(sentinel, service), ASK_S, "a Sentinel is too slow")
            except DependencyDown:
                continue
            if isinstance(reply, list):
                host, port = (part.decode() for part in reply)
                return f"redis://{login}{host}:{port}"
        raise DependencyDown("no Sentinel knows the limiter's primary")

    return locate


async def _ask(sentinel: str, service: str) -> Any:
    connection = await connect(sentinel)
    try:
        [reply] = await connection.ask([("SENTINEL", "get-master-addr-by-name", service)])
    finally:
        connection.close()
    return reply
