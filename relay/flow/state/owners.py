"""Who made what: keyed digests in this worker's memory, and in Redis for all of them.

    learn --> memory (bounded) --> Redis, on its way before the client hears of it
    known <-- memory
    find  <-- memory <-- Redis, bounded in time; only for what this worker does not know

A digest is keyed by the relay's pepper, so that neither store tells whose ids they are. Of what is
listed (videos) the names stand under such a digest of their account, the newest ones. Where Redis
cannot be asked, what this worker made is still found; the rest is nobody's.
"""

import hashlib
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Final, Protocol

from relay.flow.state.bound import Owner
from relay.wire.state.marks import (
    BATCH,
    CONTENT_BATCH,
    CONVERSATION,
    FILE,
    KIND_BYTES,
    MESSAGE_BATCH,
    RESPONSE,
    VIDEO,
)

if TYPE_CHECKING:
    from relay.flow.call import Call

KEPT_MAX: Final = 50_000
"""What one worker remembers, of some 200 bytes each; Redis has the rest."""
DAY_S: Final = 86_400
SHORT_S: Final = DAY_S
"""Reasoning and items: of use while a session lasts."""
TTL_S: Final = {
    RESPONSE: 3 * DAY_S,
    CONVERSATION: 30 * DAY_S,
    FILE: 30 * DAY_S,
    BATCH: 30 * DAY_S,
    MESSAGE_BATCH: 30 * DAY_S,
    CONTENT_BATCH: 30 * DAY_S,
    VIDEO: 30 * DAY_S,
}
"""How long it is known who has what, by its kind. A provider keeps responses for longer: a hundred
of them a second are 26 million in three days, and take Redis some 3 GB."""
LISTED_KINDS: Final = frozenset({VIDEO, BATCH, MESSAGE_BATCH, CONTENT_BATCH})
"""Of these it is known as well what an account has made, by name: a list is asked for."""
LISTED_MAX: Final = 200
LISTS_MAX: Final = 1_000
LINK_S: Final = 60 * DAY_S
"""Longer than it is known who has what a link is about."""
LINKS_MAX: Final = 10_000
MADE: Final = b"made:"
"""Links a file to the batch that made it."""
DIGEST_BYTES: Final = 16
OWNERS_MAX: Final = 4096
"""Kinds of owners that are kept as one object each."""
_FIELDS: Final = 4


class OwnerStore(Protocol):
    """Where all workers find what any of them learned."""

    def put(self, digest: bytes, value: bytes, ttl_s: int) -> None:
        """Keep a value; never waits, and may fail without a word.

        What is kept outlives this worker, if it is killed when the client has its answer.
        """
        ...

    async def get(self, digests: Sequence[bytes]) -> list[bytes | None]:
        """Return what is kept under each; bounded in time.

        Raises:
            DependencyDown: RELAY; nobody knows.
        """
        ...

    def push(self, digest: bytes, value: bytes, ttl_s: int) -> None:
        """Put a value before a list, of which the first LISTED_MAX are kept; else as `put`."""
        ...

    def drop(self, digest: bytes, value: bytes) -> None:
        """Take a value out of a list; else as `put`."""
        ...

    async def listed(self, digest: bytes) -> list[bytes]:
        """Return a list; bounded in time.

        Raises:
            DependencyDown: RELAY; nobody knows.
        """
        ...


class Owners:
    """Everything one worker knows of who made what.

    Args:
        pepper: Keys the digests.
        store: Where the workers share it, None: each has its own.
        on_unended: Told of a call whose response has an id now, and goes on without it.
    """

    def __init__(
        self,
        pepper: bytes,
        store: OwnerStore | None = None,
        on_unended: "Callable[[Call], None] | None" = None,
    ) -> None:
        self._pepper = pepper[:64]
        self.store = store
        self.on_unended = on_unended
        self._known: dict[bytes, Owner] = {}
        self._shared: dict[tuple[int, int, int, str], Owner] = {}
        self._links: dict[bytes, bytes] = {}
        self._lists: dict[bytes, deque[bytes]] = {}
        """Where nobody shares them."""

    def __len__(self) -> int:
        return len(self._known)

    def owner(self, account_id: int, channel_id: int, line_id: int, model: str) -> Owner:
        """Return an owner; the same object for the same values."""
        name = (account_id, channel_id, line_id, model)
        found = self._shared.get(name)
        if found is None:
            if len(self._shared) >= OWNERS_MAX:
                self._shared.clear()
            found = self._shared[name] = Owner(*name)
        return found

    def learn(self, marks: Iterable[bytes], owner: Owner) -> None:
        """Note that `owner` made what the marks name."""
        for mark in marks:
            digest = self.digest(mark)
            if self._known.get(digest) is owner:
                continue
            self._remember(digest, owner)
            if self.store is not None:
                self.store.put(digest, _encode(owner), TTL_S.get(mark[:KIND_BYTES], SHORT_S))
            if mark[:KIND_BYTES] in LISTED_KINDS:
                self._list(mark, owner.account_id)

    async def made(self, kind: bytes, account_id: int) -> list[bytes]:
        """Return the names of what an account has made of a kind, the newest first.

        Raises:
            DependencyDown: RELAY; nobody knows.
        """
        at = self._list_at(kind, account_id)
        if self.store is not None:
            return list(dict.fromkeys(await self.store.listed(at)))
        return list(self._lists.get(at, ()))

    def unlist(self, kind: bytes, account_id: int, name: bytes) -> None:
        """Forget something that is no more."""
        at = self._list_at(kind, account_id)
        if self.store is not None:
            self.store.drop(at, name)
        elif name in self._lists.get(at, ()):
            self._lists[at].remove(name)

    def _list(self, mark: bytes, account_id: int) -> None:
        kind, name = mark[:KIND_BYTES], mark[KIND_BYTES:]
        at = self._list_at(kind, account_id)
        if self.store is not None:
            self.store.push(at, name, TTL_S[kind])
            return
        if at not in self._lists and len(self._lists) >= LISTS_MAX:
            del self._lists[next(iter(self._lists))]
        self._lists.setdefault(at, deque(maxlen=LISTED_MAX)).appendleft(name)

    def _list_at(self, kind: bytes, account_id: int) -> bytes:
        return self.digest(b"list:" + kind + b"%d" % account_id)

    def link(self, mark: bytes, name: bytes) -> None:
        """Note a name under a mark: of what a file was made, that a batch was counted."""
        digest = self.digest(mark)
        if len(self._links) >= LINKS_MAX:
            del self._links[next(iter(self._links))]
        self._links[digest] = name
        if self.store is not None:
            self.store.put(digest, name, LINK_S)

    async def linked(self, mark: bytes) -> bytes | None:
        """Return the name under a mark, None where there is none.

        Raises:
            DependencyDown: RELAY; nobody can be asked.
        """
        digest = self.digest(mark)
        found = self._links.get(digest)
        if found is None and self.store is not None:
            [found] = await self.store.get([digest])
        return found

    def known(self, marks: Sequence[bytes]) -> Owner | None:
        """Return who made the last of these that this worker knows of, None where it knows none."""
        for mark in reversed(marks):
            digest = self.digest(mark)
            owner = self._known.get(digest)
            if owner is not None:
                self._remember(digest, owner)
                return owner
        return None

    async def find(self, marks: Sequence[bytes]) -> Owner | None:
        """Return the same, by what all workers know.

        Raises:
            DependencyDown: RELAY; nobody can be asked, and this worker knows none of them.
        """
        owner = self.known(marks)
        if owner is not None or self.store is None or not marks:
            return owner
        digests = [self.digest(mark) for mark in reversed(marks)]
        for digest, value in zip(digests, await self.store.get(digests), strict=True):
            owner = self._decode(value) if value is not None else None
            if owner is not None:
                self._remember(digest, owner)
                return owner
        return None

    def _remember(self, digest: bytes, owner: Owner) -> None:
        """Keep it as the latest; what was asked for longest ago goes first."""
        known = self._known
        known.pop(digest, None)
        if len(known) >= KEPT_MAX:
            del known[next(iter(known))]
        known[digest] = owner

    def digest(self, mark: bytes) -> bytes:
        """Return what a mark is kept under."""
        return hashlib.blake2b(mark, key=self._pepper, digest_size=DIGEST_BYTES).digest()

    def _decode(self, value: bytes) -> Owner | None:
        parts = value.decode("utf-8", "replace").split(" ", _FIELDS - 1)
        if len(parts) != _FIELDS or not all(part.isdigit() for part in parts[:3]):
            return None  # of another release
        return self.owner(int(parts[0]), int(parts[1]), int(parts[2]), parts[3])


def _encode(owner: Owner) -> bytes:
    told = f"{owner.account_id} {owner.channel_id} {owner.line_id} {owner.model}"
    return told.encode("utf-8", "replace")
