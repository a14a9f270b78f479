"""The list of an account's videos: made here, since many accounts share one of a provider's.

    the newest names of the account --after, order--> a page --> each asked where it was made

What its provider does not know any more is left out, and forgotten. A page is short, since each of
its rows is one question to a provider.

Source: OpenAI API reference, List videos.
"""

import asyncio
import re
from collections.abc import Callable
from typing import Final
from urllib.parse import parse_qs, urlsplit

import msgspec

from relay.errors import BadRequest, DependencyDown, RelayError, Unavailable
from relay.flow.call import Call
from relay.flow.state.fetch import fetch
from relay.flow.state.owners import Owners
from relay.model import Channel, Snapshot
from relay.ports import Connections
from relay.wire.state.jobs import VIDEO_JOB, read_video
from relay.wire.state.marks import VIDEO

PAGE_MAX: Final = 20
AT_ONCE: Final = 8
AGAIN_S: Final = 2.0
OK: Final = 200
NOT_FOUND: Final = 404
LIMIT_MAX: Final = 100
"""What a client may ask for; a page has PAGE_MAX at most, and says that there is more."""
_LIMIT: Final = re.compile("[0-9]{1,9}")
_UNKNOWN: Final = "The relay cannot find out now what you have; try again."

_encode = msgspec.json.Encoder().encode


class VideoList:
    """Makes pages of the list.

    Args:
        connections: The pool of upstream connections.
        snapshot: Returns the catalog as it is.
        owners: Who made what.
    """

    def __init__(
        self,
        connections: Connections,
        snapshot: Callable[[], Snapshot | None],
        owners: Owners,
    ) -> None:
        self._connections = connections
        self._snapshot = snapshot
        self._owners = owners

    async def page(self, call: Call) -> bytes:
        """Return the page that a call asks for, as JSON.

        Raises:
            BadRequest: CLIENT; limit or order is none.
            Unavailable: RELAY or CHANNEL; somebody that has to be asked does not answer.
        """
        kept, account = call.head.kept, call.rights.account
        assert kept is not None and account is not None
        limit, newest_first, after = _read_query(kept.path)
        try:
            names = await self._owners.made(VIDEO, account.id)
        except DependencyDown:
            raise Unavailable(_UNKNOWN, retry_after_s=AGAIN_S) from None
        if not newest_first:
            names.reverse()
        if after:
            names = names[names.index(after) + 1 :] if after in names else []
        wanted = names[:limit]
        turn = asyncio.Semaphore(AT_ONCE)
        found = await asyncio.gather(*(self._ask(account.id, name, turn) for name in wanted))
        rows = [row for row in found if row is not None]
        for name, row in zip(wanted[:-1], found, strict=False):
            if row is None:  # the last one stays: a page may be asked for behind it
                self._owners.unlist(VIDEO, account.id, name)
        told = {
            "object": "list",
            "data": [msgspec.Raw(row) for row in rows],
            "first_id": read_video(rows[0]).id if rows else None,
            # Where a page goes on is told by the last name that was looked at, whatever became of
            # it: a client that goes on from there misses nothing.
            "last_id": wanted[-1].decode() if wanted else None,
            "has_more": len(names) > len(wanted),
        }
        return _encode(told)

    async def _ask(self, account_id: int, name: bytes, turn: asyncio.Semaphore) -> bytes | None:
        """Return what a provider says of a video, None where there is none any more."""
        async with turn:
            channel = await self._channel_of(account_id, name)
            status, body = NOT_FOUND, b""
            if channel is not None:
                try:
                    path = VIDEO_JOB.path(name.decode())
                    status, body = await fetch(self._connections, channel, path)
                except (RelayError, TimeoutError):
                    status = 0
        if status == OK and read_video(body).id:
            return body
        if status == NOT_FOUND:
            return None
        raise Unavailable("A provider does not answer now; try again.", retry_after_s=AGAIN_S)

    async def _channel_of(self, account_id: int, name: bytes) -> Channel | None:
        try:
            owner = await self._owners.find((VIDEO + name,))
        except DependencyDown:
            raise Unavailable(_UNKNOWN, retry_after_s=AGAIN_S) from None
        snapshot = self._snapshot()
        if owner is None or owner.account_id != account_id or snapshot is None:
            return None
        return snapshot.channels.get(owner.channel_id)


def _read_query(path: str) -> tuple[int, bool, bytes]:
    """Return how many rows are asked for, whether the newest come first, and behind which one."""
    query = parse_qs(urlsplit(path).query)
    limit, order = query.get("limit", ["20"])[-1], query.get("order", ["desc"])[-1]
    if not (_LIMIT.fullmatch(limit) and 1 <= int(limit) <= LIMIT_MAX):
        raise BadRequest(f"limit must be from 1 to {LIMIT_MAX}.", param="limit")
    if order not in ("asc", "desc"):
        raise BadRequest("order must be asc or desc.", param="order")
    return min(int(limit), PAGE_MAX), order == "desc", query.get("after", [""])[-1].encode()
