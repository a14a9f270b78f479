"""Where server-sent events begin and end, as bytes.

An event ends at a blank line: LF LF, or CRLF CRLF, or a mix. Lone CRs, which the standard also
allows, were in none of 1,037 recorded streams and are not taken for line ends. Nothing here looks
into an event until something else has found a reason to.

Whether something is in a block is asked with `rfind`: over kilobytes in which it is not, that takes
a third of the time of `find`, which prepares for the worst, and `in` would try its left side as a
number first and throw an exception away.

Source: docs/streams.md, "Boundaries".
"""

import re
from typing import Any, Final

from relay.decoding import Decoder, Undecodable
from relay.errors import ChannelGarbled

LIFE_BYTES_MAX: Final = 64
"""A longer block is part of an answer: comments and pings are short, and no chunk of chat is."""
_CR: Final = 13
_LF: Final = 10
_BOUNDARY: Final = re.compile(rb"\n\r?\n")
_LIFE: Final = re.compile(
    rb"(?::[^\n]*\n|\r?\n|event: ?ping\r?\n|data: ?\{\s*\"type\"\s*:\s*\"ping\"\s*\}\r?\n)+"
)


_any = Decoder(Any)


class EventBuffer:
    """Cuts a stream of bytes at event boundaries; what follows the last one is kept back.

    Args:
        event_bytes_max: More than this without a boundary is no event stream.
    """

    __slots__ = ("_held", "_max", "_seam", "held_bytes")

    def __init__(self, event_bytes_max: int) -> None:
        self._max = event_bytes_max
        self._held: list[bytes] = []
        self.held_bytes = 0
        """What is kept back now."""
        self._seam = b""

    def feed(self, chunk: bytes) -> bytes:
        """Return the longest prefix of what has arrived that ends on an event boundary.

        Args:
            chunk: Bytes off the socket; any length, split anywhere, even inside a CRLF.

        Returns:
            Whole events ready to forward, b"" if none; the very same object as `chunk` where
            nothing was kept back and it ends on a boundary.

        Raises:
            ChannelGarbled: CHANNEL; event_bytes_max bytes came without a boundary.
        Source: WHATWG HTML, Server-sent events, "Parsing an event stream".
        """
        if not self.held_bytes:
            if chunk[-2:] == b"\n\n":
                return chunk
            end = _last_boundary(chunk)
            if end == len(chunk):
                return chunk
            self._keep(chunk[end:])
            return chunk[:end]
        return self._feed_behind(chunk)

    def take(self) -> bytes:
        """Return what is kept back, and keep nothing: the stream has ended."""
        rest = b"".join(self._held)
        self._drop()
        return rest

    def _feed_behind(self, chunk: bytes) -> bytes:
        # Only the seam and the new bytes are searched: what is kept was searched before. So one
        # long event in many reads costs no more than its length.
        seam = self._seam
        end = _last_boundary(seam + chunk) - len(seam)
        if end <= 0:
            self._keep(chunk)
            return b""
        whole = b"".join(self._held) + chunk[:end]
        self._drop()
        if end < len(chunk):
            self._keep(chunk[end:])
        return whole

    def _keep(self, rest: bytes) -> None:
        self._held.append(rest)
        self.held_bytes += len(rest)
        self._seam = (self._seam + rest)[-3:]
        if self.held_bytes > self._max:
            raise ChannelGarbled("The upstream sent too long an event.")

    def _drop(self) -> None:
        self._held.clear()
        self.held_bytes = 0
        self._seam = b""


def split_events(block: bytes) -> list[bytes]:
    """Return the events of a block, each with its terminator; a rest without one comes last."""
    # Most blocks are one event, which says so by itself.
    if block.endswith(b"\n\n") and block.find(b"\n\n") == len(block) - 2 and _CR not in block:
        return [block]
    events: list[bytes] = []
    at = 0
    # One pass: searching anew for each of two boundaries would go over the rest of the block for
    # every event of it.
    for found in _BOUNDARY.finditer(block):
        events.append(block[at : found.end()])
        at = found.end()
    if at < len(block):
        events.append(block[at:])
    return events


def event_end(block: bytes, at: int) -> int:
    """Return where the event that `at` is in ends, behind its terminator; a rest ends the block."""
    found = _BOUNDARY.search(block, at)
    return len(block) if found is None else found.end()


def event_start(block: bytes, at: int) -> int:
    """Return where the event that `at` is in begins, by the terminators that split_events sees."""
    last = block.rfind(b"\n\n", 0, at)
    # Only what stands behind that one: where there is none, the block is not gone over for it.
    last = max(last, block.rfind(b"\n\r\n", last + 1, at))
    if last < 0:
        return 0
    # Where line ends follow each other, which of them are pairs is told from the first one on.
    while last > 0 and block[last - 1] in b"\r\n":
        last -= 1
    start = 0
    for found in _BOUNDARY.finditer(block, last, at):
        start = found.end()
    return start


def count_line_events(parts: list[bytes]) -> int:
    """Return how many events end in the chunks of a read, 0 where that takes more than a look.

    It does not where each chunk is one event of one line, or a piece of one: no line ends in it but
    for the two that end the event. A number is looked for in bytes by memchr, at once; counting the
    line ends of a whole read would take a nanosecond for each of its bytes.

    Args:
        parts: The chunks; the first may be the rest of an event, the last the beginning of one.
    """
    events = 0
    for part in parts:
        ends = part[-2:] == b"\n\n"
        if _LF in (part[:-2] if ends else part):
            return 0
        events += ends
    return events


def count_events(block: bytes) -> int:
    """Return how many events a block of whole events holds."""
    if block.find(b"\n") == len(block) - 2 and block.endswith(b"\n\n"):
        return 1  # one event of one line, as most reads are: a count takes four times as long
    lines = block.count(b"\n")
    # Each event ends one line more than it has, so that where all have one line the first count
    # proves the second; that takes a third of the time of counting blank lines.
    events = block.count(b"\n\ndata: ") + 1
    if lines == 2 * events:
        return events
    return block.count(b"\n\n") or block.count(b"\n\r\n")


def close_event(rest: bytes) -> bytes:
    """Return a stream's last event with the blank line it lacks, b"" where it may be half of one.

    A stream may end anywhere, so what is not closed is an event only if its data are a JSON object
    to the last brace. Clients would fail on half of one, in words that blame nobody. `[DONE]` is no
    JSON: whoever waits for it is sent one of our own.
    """
    if not is_json_object(event_payload(rest)):
        return b""
    last = rest[rest.rfind(b"\n") + 1 :]
    if last.rstrip(b"\r") and not last.startswith(b"data:"):
        return b""  # another field, and nobody knows how much of it
    return rest + (b"\n" if rest.endswith(b"\n") else b"\n\n")


def is_sign_of_life(block: bytes) -> bool:
    """Tell whether a block of whole events is comments and pings alone."""
    return _LIFE.fullmatch(block) is not None


def event_payload(event: bytes) -> bytes:
    """Return the event's `data` lines joined by LF; b"" for a comment.

    Source: WHATWG HTML, Server-sent events, "Interpreting an event stream".
    """
    if event.startswith(b"data: ") and event.count(b"\n") == 2 and event.endswith(b"\n\n"):
        return event[6:-2]
    named = event.startswith(b"event: ") and event.count(b"\n") == 3
    if named and event.endswith(b"\n\n") and _CR not in event:
        at = event.find(b"\ndata: ")
        if at > 0:
            return event[at + 7 : -2]
    return b"\n".join(
        line[5:].removeprefix(b" ") for line in _lines(event) if line.startswith(b"data:")
    )


def event_name(event: bytes) -> bytes:
    """Return the event's `event` field, b"" where it has none."""
    name = b""
    for line in _lines(event):
        if line.startswith(b"event:"):
            name = line[6:].removeprefix(b" ")
    return name


def is_json_object(text: bytes) -> bool:
    """Tell whether bytes are a JSON object, whole to its last brace."""
    try:
        return isinstance(_any.decode(text), dict)
    except Undecodable:
        return False


def _lines(event: bytes) -> list[bytes]:
    return [line.removesuffix(b"\r") for line in event.split(b"\n")]


def _last_boundary(chunk: bytes) -> int:
    """Return where the bytes behind the last boundary begin, 0 if there is none."""
    plain = chunk.rfind(b"\n\n")
    crlf = chunk.rfind(b"\n\r\n", plain + 1)  # it is in CRLF CRLF too
    if crlf >= 0:
        return crlf + 3
    return plain + 2 if plain >= 0 else 0
