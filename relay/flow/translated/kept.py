"""Thinking that upstreams signed, kept between a call of a function and its result.

    take(...)  an answer's records --> memory, bounded in bytes and time --> the store, sealed
    find(...)  from memory alone, while a request is translated
    fetch(...) what memory lacks, from the store: another worker may have served the turn before

Everything is known by a keyed digest of who pays and of the call's id, so that nobody's id leads
to anybody else's thinking. A record belongs to the channel that signed it, where the provider
takes back only what the same credential was given.
"""

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from typing import Final, NamedTuple

from relay.flow.ports import ThinkingStore
from relay.model import Channel
from relay.translate.ways import takes_any_signature

BYTES_MAX: Final = 64 << 20
"""Of all records that a worker holds in memory."""
KEPT_S: Final = 6 * 3600.0
"""A conversation that rests for longer goes on without what was thought before."""
ENTRY_BYTES: Final = 300
"""What a record takes beside its text."""
FETCHED_MAX: Final = 128
"""Ids that are asked for at once: the latest ones; older turns can do without."""
_SEPARATOR: Final = b"\0"


class KeptRecord(NamedTuple):
    """`channel_id`: who signed it."""

    channel_id: int
    record: str
    until_s: float


class KeptThinking:
    """All records of one worker.

    Args:
        pepper: Keys the digests.
        clock_s: Seconds of a monotonic clock.
        store: What workers share; None = each has its own only.
        bytes_max: What memory may hold.
    """

    def __init__(
        self,
        pepper: bytes,
        clock_s: Callable[[], float],
        store: ThinkingStore | None = None,
        bytes_max: int = BYTES_MAX,
    ) -> None:
        self._key = hashlib.blake2b(b"thinking", key=pepper[:64], digest_size=32).digest()
        self._clock_s = clock_s
        self.store = store
        self._bytes_max = bytes_max
        self._records: OrderedDict[bytes, KeptRecord] = OrderedDict()
        self.size_bytes = 0

    def __len__(self) -> int:
        return len(self._records)

    def take(self, account_id: int, channel: Channel, pairs: Iterable[tuple[str, str]]) -> None:
        """Keep what a channel signed: (the client's call id, a record) each."""
        for call_id, record in pairs:
            digest = self._digest(account_id, call_id)
            self._add(digest, channel.id, record)
            if self.store is not None:
                self.store.put(digest, b"%d\0%b" % (channel.id, record.encode()))

    def find(self, account_id: int, call_id: str, channel: Channel) -> str | None:
        """Return the record of a call that a channel will take back, None without one."""
        found = self._records.get(self._digest(account_id, call_id))
        if found is None or found.until_s < self._clock_s():
            return None
        signed_here = found.channel_id == channel.id or takes_any_signature(channel)
        return found.record if signed_here else None

    def any_of(self, account_id: int, call_ids: Iterable[str]) -> bool:
        """Tell whether anything is known here of some calls, whoever signed it."""
        return any(self._digest(account_id, one) in self._records for one in call_ids)

    def missing(self, account_id: int, call_ids: Iterable[str]) -> list[str]:
        """Return those ids that nothing is known of here, and that may be asked for elsewhere."""
        if self.store is None or not self.store.connected:
            return []
        absent = [one for one in call_ids if self._digest(account_id, one) not in self._records]
        return absent[-FETCHED_MAX:]

    async def fetch(self, account_id: int, call_ids: Sequence[str]) -> bool:
        """Bring into memory what other workers kept; bounded, and never a reason to fail.

        Returns:
            True: there was something.
        """
        if self.store is None or not call_ids:
            return False
        digests = [self._digest(account_id, one) for one in call_ids]
        found = await self.store.get(digests)
        for digest, value in found.items():
            number, _, record = value.partition(_SEPARATOR)
            if number.isdigit():
                self._add(digest, int(number), record.decode("utf-8", "replace"))
        return bool(found)

    def _add(self, digest: bytes, channel_id: int, record: str) -> None:
        now_s = self._clock_s()
        before = self._records.pop(digest, None)
        if before is not None:
            self.size_bytes -= _size(before)
        kept = KeptRecord(channel_id, record, now_s + KEPT_S)
        self._records[digest] = kept
        self.size_bytes += _size(kept)
        while self._records:
            oldest = next(iter(self._records.values()))
            if self.size_bytes <= self._bytes_max and oldest.until_s >= now_s:
                return
            self._records.popitem(last=False)
            self.size_bytes -= _size(oldest)

    def _digest(self, account_id: int, call_id: str) -> bytes:
        named = b"%d\0%b" % (account_id, call_id.encode("utf-8", "replace"))
        return hashlib.blake2b(named, key=self._key, digest_size=16).digest()


def _size(kept: KeptRecord) -> int:
    return len(kept.record) + ENTRY_BYTES
