"""One keep-alive connection of the load: asks, and reads just enough to know what came back.

    IDLE --ask--> HEAD --empty line--> BODY --last byte--> IDLE

No HTTP parser and no JSON: a generator must cost less than what it measures. Events are counted by
their blank lines; one whose blank line is split over two HTTP chunks is missed, which no server we
know of does.
"""

import asyncio
import enum
import re
from collections import deque
from collections.abc import Callable
from time import monotonic_ns
from typing import Final, cast

from benchmarks.load.tally import Tally

_LAST_CHUNK: Final = b"\r\n0\r\n\r\n"
_TOKEN: Final = re.compile(
    rb'"(?:content|reasoning_content|text|arguments|delta|partial_json)":\s*"[^"]'
)
"""The first text of an answer: an event that only names the role is no output yet."""
_PROMPT: Final = re.compile(rb'"(?:prompt|input)_tokens":\s*(\d+)')
_COMPLETION: Final = re.compile(rb'"(?:completion|output)_tokens":\s*(\d+)')
_INPUT: Final = b'"input_tokens":'
_FIRST_BYTES: Final = 2048
"""Of a stream, in which some dialects tell the tokens of the prompt."""
_LAST_BYTES: Final = 4096
"""Of an answer, in which its usage is. A regular expression over more would cost more than all."""
_ENDS: Final = (b"[DONE]", b'"message_stop"', b'"response.completed"', b'"response.incomplete"')
_READS_KEPT: Final = 4
"""Usage, `[DONE]` and the last chunk may come in a read each."""
_READ_BYTES_MIN: Final = 256
"""Shorter reads are joined to one, so that what is kept is long enough to hold the usage."""
_HEAD_BYTES_MAX: Final = 64 * 1024
_UNANSWERED: Final = frozenset({"closed", "reset", "truncated", "unfinished"})
"""Ways to fail that leave a caller waiting: they count in latency as no quick answer may."""


class Phase(enum.Enum):
    """Where a connection is."""

    IDLE = "idle"
    HEAD = "head"
    BODY = "body"
    CLOSED = "closed"


class Connection(asyncio.Protocol):
    """The protocol of one socket.

    Args:
        tally: Where to count.
        on_ready: Called when it can ask: connected, or whole again after an answer.
        on_closed: Called once when it is gone.
        booked_ns: When the call that it was made for was intended; 0 = made for none.
    """

    __slots__ = (
        "_boundary",
        "_intended_ns",
        "_kept",
        "_left",
        "_measured",
        "_on_closed",
        "_on_ready",
        "_prompt_tokens",
        "_read_ns",
        "_status",
        "_stream",
        "_tally",
        "_token_due",
        "_transport",
        "booked_ns",
        "phase",
    )

    def __init__(
        self,
        tally: Tally,
        on_ready: "Callable[[Connection], None]",
        on_closed: "Callable[[Connection], None]",
        booked_ns: int = 0,
    ) -> None:
        self.booked_ns = booked_ns
        self.phase = Phase.IDLE
        self._tally = tally
        self._on_ready = on_ready
        self._on_closed = on_closed
        self._kept: deque[bytes] = deque(maxlen=_READS_KEPT)
        self._boundary = b""
        self._left = 0
        self._stream = False
        self._measured = False
        self._token_due = False
        self._prompt_tokens = 0
        self._intended_ns = self._read_ns = 0
        self._status = 0

    def ask(self, request: bytes, intended_ns: int, *, measured: bool) -> None:
        """Send a request that was intended for `intended_ns`."""
        self.phase = Phase.HEAD
        self._tally.asked += 1
        self._intended_ns = intended_ns
        self._measured = measured
        self._token_due = True
        self._prompt_tokens = 0
        self._kept.clear()
        self._transport.write(request)

    def abort(self, *, counted: bool) -> None:
        """Drop the connection; where that is `counted`, a call on it is unfinished."""
        if counted:
            self._fail("unfinished")
        self._measured = False
        self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Be ready."""
        self._transport = cast("asyncio.Transport", transport)
        self._on_ready(self)

    def data_received(self, data: bytes) -> None:
        """Take what one read brought."""
        now_ns = monotonic_ns()
        self._tally.received_bytes += len(data)
        if self.phase is Phase.HEAD:
            data = self._read_head(data)
        if not data or self.phase is not Phase.BODY:
            return
        kept = self._kept
        if self._stream:
            if not kept:
                at = data.find(_INPUT, 0, _FIRST_BYTES)
                told = _PROMPT.match(data, at) if at >= 0 else None
                self._prompt_tokens = int(told[1]) if told else 0
            self._read_events(data, now_ns)
        if kept and len(kept[-1]) < _READ_BYTES_MIN:
            kept[-1] += data
        else:
            kept.append(data)
        if self._is_whole(data):
            self._finish(now_ns)

    def connection_lost(self, exc: Exception | None) -> None:
        """A connection that is closed under a call has failed it, unless that was its end."""
        phase, self.phase = self.phase, Phase.CLOSED
        if phase is Phase.BODY and self._left < -1:
            self._end_call(monotonic_ns())
        elif phase in (Phase.HEAD, Phase.BODY):
            if phase is Phase.BODY and self._stream:
                self._tally.open_streams -= 1
            self._fail("reset" if exc is not None else "closed")
        self._on_closed(self)

    def _read_head(self, data: bytes) -> bytes:
        """Take a head; return what follows it, b"" where it is not whole yet."""
        data = b"".join(self._kept) + data
        self._kept.clear()
        head, found, rest = data.partition(b"\r\n\r\n")
        if not found:
            self._kept.append(data)
            if len(data) > _HEAD_BYTES_MAX:
                self._transport.abort()
            return b""
        head = head.lower()
        self.phase = Phase.BODY
        self._status = int(head[9:12]) if head.startswith(b"http/1.") else 0
        self._stream = b"\r\ncontent-type: text/event-stream" in head
        self._token_due = self._stream
        self._boundary = b""
        if b"\r\ntransfer-encoding: chunked" in head:
            self._left = -1
        elif b"\r\ncontent-length:" in head:
            length = head.partition(b"\r\ncontent-length:")[2].partition(b"\r\n")[0]
            self._left = int(length)
        else:
            self._left = -2  # ends with the connection
        if self._stream:
            self._tally.open_streams += 1
        if self._left == 0:
            self._finish(monotonic_ns())
        return rest

    def _read_events(self, data: bytes, now_ns: int) -> None:
        tally = self._tally
        if not self._boundary:
            self._boundary = b"\n\n" if b"\n\n" in data else b"\r\n\r\n"
        events = data.count(self._boundary)
        if data[0] == 10 and self._kept and self._kept[-1].endswith(b"\n"):
            events += 1
        tally.events += events
        if self._token_due:
            if _TOKEN.search(data) is None:
                return
            self._token_due = False
            if self._measured:
                tally.ttft.record((now_ns - self._intended_ns) // 1000)
        elif self._measured:
            tally.gap.record((now_ns - self._read_ns) // 1000)
        self._read_ns = now_ns

    def _is_whole(self, data: bytes) -> bool:
        if self._left >= 0:
            self._left -= len(data)
            return self._left <= 0
        if self._left < -1:
            return False
        if len(data) >= len(_LAST_CHUNK):
            return data.endswith(_LAST_CHUNK)
        joined = b"".join(self._kept)
        return joined.endswith(_LAST_CHUNK) or joined == _LAST_CHUNK[2:]

    def _finish(self, now_ns: int) -> None:
        self.phase = Phase.IDLE
        self._end_call(now_ns)
        if not self._transport.is_closing():
            self._on_ready(self)

    def _end_call(self, now_ns: int) -> None:
        tally = self._tally
        tail = b"".join(self._kept)
        if self._stream:
            tally.open_streams -= 1
        if self._status != 200:
            self._fail(f"http_{self._status}")
            return
        if self._stream and not any(end in tail for end in _ENDS):
            self._fail("error_event" if b'"error"' in tail else "truncated")
            return
        tally.done += 1
        self._add_tokens(tail[-_LAST_BYTES:])
        if self._measured:
            self._measured = False
            tally.pending -= 1
            tally.answered += 1
            tally.latency.record((now_ns - self._intended_ns) // 1000)

    def _add_tokens(self, tail: bytes) -> None:
        prompt, completion = _PROMPT.search(tail), _COMPLETION.search(tail)
        if completion is not None:
            self._tally.completion_tokens += int(completion[1])
            self._tally.prompt_tokens += self._prompt_tokens or (int(prompt[1]) if prompt else 0)

    def _fail(self, kind: str) -> None:
        if self._measured:
            self._measured = False
            self._tally.pending -= 1
            if kind in _UNANSWERED:
                self._tally.leave(kind, self._intended_ns, wordless=self._token_due)
            else:
                self._tally.fail(kind, self._intended_ns)
