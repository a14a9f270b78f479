"""What is remembered of an answer while it passes: enough to judge its ending and find its usage.

That is its last events, and its first ones where they report usage, as the very blocks that went
by, or the ends of long ones: nothing is decoded until the answer has ended.
"""

from typing import Final

from relay.records import Endpoint
from relay.usage import Usage
from relay.wire.classify import StreamEnding, done_marker, judge_ending
from relay.wire.sse import event_start
from relay.wire.usage.delivered_tokens import Measured, measure_stream
from relay.wire.usage.reader import USAGE_OBJECT, find_usage

TAIL_BLOCKS: Final = 4
"""Usage, finish, moderation and [DONE] may come in a read each: the last four tell the ending."""
SEARCHED_BYTES_MAX: Final = 2 * 1024
"""A first block up to this is looked through for usage when it goes by, and let go where there is
none. In a longer one that would cost more than keeping it does: it is read when the answer ends."""
TAIL_BYTES: Final = 16 * 1024
"""A longer block is tail enough by itself: usage was within 8 KiB of every recorded end."""


class StreamTail:
    """The last blocks of one attempt's answer, and the first one where it reports usage."""

    __slots__ = ("_first", "_opening_bytes", "_tail")

    def __init__(self) -> None:
        self._first: bytes | None = None
        self._opening_bytes = 0
        self._tail: list[bytes] = []

    def note(self, block: bytes) -> None:
        """Remember a block that went by; called for every read of a stream."""
        if self._first is None:
            self._opening_bytes = len(block)
            kept = len(block) > SEARCHED_BYTES_MAX or (
                block.rfind(b'"usage') >= 0 and USAGE_OBJECT.search(block) is not None
            )
            self._first = block[:TAIL_BYTES] if kept else b""
        if len(block) > TAIL_BYTES:
            # Its last whole events are tail enough: not four reads of a flood of them.
            self._tail.clear()
            block = block[event_start(block, len(block) - TAIL_BYTES) :]
        # A list of four takes an eighth of what a deque does, for each open stream.
        self._tail.append(block)
        if len(self._tail) > TAIL_BLOCKS:
            del self._tail[0]

    def ending(self, endpoint: Endpoint) -> StreamEnding:
        """Judge how the answer ended."""
        return judge_ending(b"".join(self._tail), endpoint)

    def has_done_marker(self) -> bool:
        """Tell whether `[DONE]` went by."""
        return done_marker(b"".join(self._tail))

    def measure(self, bytes_out: int, events_out: int) -> Measured:
        """Measure what went out, by what the last blocks show of it."""
        return measure_stream(b"".join(self._tail), bytes_out, events_out, self._opening_bytes)

    def end(self) -> bytes:
        """Return the last blocks."""
        return b"".join(self._tail)

    def usage(self) -> Usage | None:
        """Return what the answer used, None where it did not say."""
        return find_usage(self._first or b"", b"".join(self._tail))
