"""What clients had of background jobs before anybody counted them: for who settles those.

    a stream of it read again --> about how many tokens went out   } this worker, and Redis for all
    deleted                   --> how it had ended, asked before   }

A provider tells what a response used with the response; of one that was cancelled it often tells
nothing, of one that was deleted it cannot. Without this its client would have had it for nothing.
One that has not ended is not deleted at all: a response is cancelled first, a video waited for.
"""

from typing import Final

import msgspec

from relay.errors import Conflict, DependencyDown, RelayError, Unavailable
from relay.extras import Extras
from relay.flow.call import Call
from relay.flow.state.fetch import fetch
from relay.flow.state.owners import MADE, Owners
from relay.ports import Connections
from relay.records import Endpoint
from relay.usage import COUNTS, NOTHING, Usage
from relay.wire.state.answered import read_kept
from relay.wire.state.jobs import VIDEO_JOB, job_of
from relay.wire.state.marks import KIND_BYTES
from relay.wire.state.paths import KeptPath

KEPT_MAX: Final = 10_000
KEPT_S: Final = 86_400
OK: Final = 200
NOT_FOUND: Final = 404
AGAIN_S: Final = 2.0
_ENDED: Final = b"ended:"
_READ: Final = b"read:"
_COUNTED_FIRST: Final = frozenset({Endpoint.MESSAGE_BATCH, Endpoint.CONTENT_BATCH, Endpoint.FILE})
_COUNTED: Final = b"counted:"
_CANCEL: Final = "This response has not ended: cancel it first."
_WAIT: Final = "This video has not ended: it can be deleted when it has."
SIZES: Final = 24
"""Numbers of tokens are kept by their length in bits: a shorter reading hides no longer one."""


class _Told(msgspec.Struct, array_like=True):
    """A usage as it is kept."""

    counts: list[int]
    extras: Extras | None
    untold: int
    total_tokens: int
    tier_told: bool


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(_Told).decode


class Remembered:
    """Keeps what is known of responses by their names.

    Args:
        owners: Keys what is kept, and knows where all workers share it.
        connections: The pool of upstream connections.
    """

    def __init__(self, owners: Owners, connections: Connections) -> None:
        self._owners = owners
        self._connections = connections
        self._known: dict[bytes, bytes] = {}

    def note_read(self, call: Call, tokens: int) -> None:
        """Note about how many tokens a call brought of a response that its provider keeps."""
        kept = call.head.kept
        if kept is not None and kept.mark and tokens > 0:
            size = min(tokens.bit_length(), SIZES - 1)
            self._keep(_READ + b"%d:" % size + kept.mark[KIND_BYTES:], b"%d" % tokens)

    async def look_last(self, call: Call) -> None:
        """Ask how a job has ended that is about to be deleted, or whether it was counted.

        Raises:
            Conflict: CLIENT; it has not ended, or was not counted.
            Unavailable: CHANNEL; its provider does not say.
        """
        kept = call.head.kept
        assert kept is not None
        if kept.endpoint in _COUNTED_FIRST:
            await self._require_counted(kept)
            return
        try:
            status, body = await fetch(self._connections, call.rights.channels[0], kept.path)
        except (RelayError, TimeoutError):
            status, body = 0, b""
        job = job_of(call.head.endpoint)
        if status not in (OK, NOT_FOUND):
            raise Unavailable("Its provider does not answer now; try again.", retry_after_s=AGAIN_S)
        if status == NOT_FOUND or not (job is VIDEO_JOB or read_kept(body).background):
            return
        if job.begun(body):
            raise Conflict(_WAIT if job is VIDEO_JOB else _CANCEL)
        end = job.read_end(body)
        if end is not None and end.usage is not None:
            self._keep(_ENDED + kept.mark[KIND_BYTES:], _encode(_to_told(end.usage)))

    def note_counted(self, name: str) -> None:
        """Note that a batch was settled: what it has made may be deleted."""
        self._owners.link(_COUNTED + name.encode(), b"1")

    async def _require_counted(self, kept: KeptPath) -> None:
        """Refuse to delete what a batch has made before that was counted."""
        name: bytes | None = kept.mark[KIND_BYTES:]
        try:
            if kept.endpoint is Endpoint.FILE:
                name = await self._owners.linked(MADE + kept.mark[KIND_BYTES:])
            if name is None or await self._owners.linked(_COUNTED + name) is not None:
                return
        except DependencyDown:
            raise Unavailable(
                "The relay cannot find out now whether this was counted; try again.",
                retry_after_s=AGAIN_S,
            ) from None
        raise Conflict("This batch has not ended, or was not counted yet: delete it in a minute.")

    async def find(self, name: str) -> tuple[Usage | None, int]:
        """Return what a job used where that is known, and how many tokens of it were read."""
        mark = name.encode()
        keys = [_ENDED + mark, *(_READ + b"%d:" % size + mark for size in range(SIZES))]
        digests = [self._owners.digest(key) for key in keys]
        found = [self._known.get(digest) for digest in digests]
        if self._owners.store is not None:
            try:
                shared = await self._owners.store.get(digests)
            except DependencyDown:
                shared = [None] * len(digests)
            found = [theirs or ours for theirs, ours in zip(shared, found, strict=True)]
        read = max((int(one) for one in found[1:] if one is not None and one.isdigit()), default=0)
        return _to_usage(found[0]), read

    def _keep(self, key: bytes, value: bytes) -> None:
        digest = self._owners.digest(key)
        if len(self._known) >= KEPT_MAX:
            del self._known[next(iter(self._known))]
        self._known[digest] = value
        if self._owners.store is not None:
            self._owners.store.put(digest, value, KEPT_S)


def _to_told(usage: Usage) -> _Told:
    counts = [int(getattr(usage, name)) for name in COUNTS]
    return _Told(counts, usage.extras, usage.untold, usage.total_tokens, usage.tier_told)


def _to_usage(value: bytes | None) -> Usage | None:
    if value is None:
        return None
    try:
        told = _decode(value)
    except msgspec.DecodeError:
        return None  # of another release
    if len(told.counts) != len(COUNTS):
        return None
    usage = Usage(
        *told.counts,
        extras=told.extras,
        untold=told.untold,
        total_tokens=told.total_tokens,
        tier_told=told.tier_told,
    )
    return NOTHING if usage == NOTHING else usage
