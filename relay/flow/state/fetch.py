"""One question to a channel that no client asked for: its answer, whole or not at all.

A small one is gathered; a large one is taken line by line as it comes, and never held whole.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Final

from relay.clock import clock_s
from relay.errors import ChannelGarbled, ChannelTimeout, RelayError
from relay.model import Channel
from relay.ports import AnswerListener, Connection, Connections
from relay.wire.http import kept_head

ANSWER_S: Final = 30.0
ANSWER_BYTES_MAX: Final = 64 * 1024 * 1024
"""A response that has ended repeats all that it made, pictures included."""
STALL_S: Final = 30.0
"""Without a byte for so long, an answer in lines is given up."""
LINES_S: Final = 1_800.0
SLICE_S: Final = 0.005
LINE_BYTES_MAX: Final = 32 * 1024 * 1024


class Answer(AnswerListener):
    """Gathers an answer; `whole` is its status and its body."""

    __slots__ = ("_bytes", "_parts", "_status", "whole")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._status = 0
        self._parts: list[bytes] = []
        self._bytes = 0
        self.whole: asyncio.Future[tuple[int, bytes]] = loop.create_future()

    def on_head(self, status: int, headers: dict[bytes, bytes]) -> None:
        """Take the status."""
        self._status = status

    def on_body(self, raw: bytes, parts: list[bytes], *, done: bool) -> None:
        """Take what one read brought."""
        for part in parts:
            self._bytes += len(part)
            if self._bytes <= ANSWER_BYTES_MAX:
                self._parts.append(part)
        if done and not self.whole.done():
            if self._bytes > ANSWER_BYTES_MAX:
                self.whole.set_exception(ChannelGarbled("The upstream's answer is too long."))
            else:
                self.whole.set_result((self._status, b"".join(self._parts)))

    def on_frame(self, raw: bytes, payload: bytes) -> None:
        """Take a read that was one whole chunk."""
        self.on_body(raw, [payload], done=False)

    def on_lost(self, error: RelayError) -> None:
        """Take the news that there will be no answer."""
        if not self.whole.done():
            self.whole.set_exception(error)

    def on_fault(self, error: Exception) -> bool:
        """Hand a bug of ours to whoever waits."""
        if self.whole.done():
            return False
        self.whole.set_exception(error)
        return True


async def fetch(
    connections: Connections, channel: Channel, path: str, lines: bytes = b""
) -> tuple[int, bytes]:
    """Return status and body of what a channel has below its root.

    `lines`: further headers, each ending in CRLF.

    Raises:
        RelayError: It did not answer, or not in time.
        TimeoutError: The same.
    """
    async with asyncio.timeout(ANSWER_S):
        connection = connections.take(channel) or await connections.dial(channel)
        answer = Answer(asyncio.get_running_loop())
        try:
            connection.ask(kept_head(channel, "GET", path) + lines + b"\r\n", b"", answer)
            return await answer.whole
        except BaseException:
            connection.abort()
            raise


class Lines(AnswerListener):
    """Takes an answer line by line; `whole` is its status, once all of it was taken.

    Lines are taken for SLICE_S at most before others have their turn; meanwhile the upstream is
    not read, so that one read of it is all that waits.

    Args:
        loop: The running one.
        connection: Whose answer it is.
        take: Called with each line of a good answer that is not blank, without its end.
    """

    __slots__ = (
        "_connection",
        "_ended",
        "_lines",
        "_loop",
        "_paused",
        "_rest",
        "_rest_bytes",
        "_status",
        "_take",
        "bytes_in",
        "whole",
    )

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        connection: Connection,
        take: Callable[[bytes], None],
    ) -> None:
        self._loop = loop
        self._connection = connection
        self._take = take
        self._status = 0
        self._lines: deque[bytes] = deque()
        self._rest: list[bytes] = []
        self._rest_bytes = 0
        self._ended = False
        self._paused = False
        self.bytes_in = 0
        self.whole: asyncio.Future[int] = loop.create_future()

    def on_head(self, status: int, headers: dict[bytes, bytes]) -> None:
        """Take the status."""
        self._status = status

    def on_body(self, raw: bytes, parts: list[bytes], *, done: bool) -> None:
        """Take what one read brought."""
        if self.whole.done():
            return
        for part in parts:
            self.bytes_in += len(part)
            if 200 <= self._status < 300:
                self._split(part)
        if self._rest_bytes > LINE_BYTES_MAX:
            error = ChannelGarbled("A line of the upstream's answer is too long.")
            self.whole.set_exception(error)
            return
        if done:
            self._ended = True
            self._end_line(b"")
        if not self._paused:
            self._work()

    def on_frame(self, raw: bytes, payload: bytes) -> None:
        """Take a read that was one whole chunk."""
        self.on_body(raw, [payload], done=False)

    def on_lost(self, error: RelayError) -> None:
        """Take the news that the answer will not be whole."""
        if not self.whole.done():
            self.whole.set_exception(error)

    def on_fault(self, error: Exception) -> bool:
        """Hand a bug of ours to whoever waits."""
        if self.whole.done():
            return False
        self.whole.set_exception(error)
        return True

    def _split(self, part: bytes) -> None:
        *ended, rest = part.split(b"\n")
        for line in ended:
            self._end_line(line)
        if rest:
            self._rest.append(rest)
            self._rest_bytes += len(rest)

    def _end_line(self, last: bytes) -> None:
        line = last
        if self._rest:
            line = b"".join([*self._rest, last])
            self._rest.clear()
            self._rest_bytes = 0
        self._lines.append(line)

    def _work(self) -> None:
        """Take lines that have come, for a while."""
        until_s, lines = clock_s() + SLICE_S, self._lines
        try:
            while lines and not self.whole.done():
                line = lines.popleft().strip()
                if line:
                    self._take(line)
                if clock_s() > until_s and lines:
                    self._rest_a_while()
                    return
        except Exception as error:  # noqa: BLE001 - it goes to whoever waits
            self.whole.set_exception(error)
        if self._paused:
            self._paused = False
            if not self._ended:
                self._connection.resume()
        if self._ended and not self.whole.done():
            self.whole.set_result(self._status)

    def _rest_a_while(self) -> None:
        if not self._paused:
            self._paused = True
            if not self._ended:  # else it is back in its pool, for others
                self._connection.pause()
        self.bytes_in += 1  # it does not stand still
        self._loop.call_soon(self._work)


async def fetch_lines(
    connections: Connections,
    channel: Channel,
    path: str,
    take: Callable[[bytes], None],
    lines: bytes = b"",
) -> int:
    """Take what a channel has below its root line by line; return the status.

    `take`: called with each line of a good answer; the rest as `fetch` has it.

    Raises:
        RelayError: It did not answer, not in time, or broke off: what was taken is not all.
        TimeoutError: The same.
    """
    async with asyncio.timeout(LINES_S):
        connection = connections.take(channel) or await connections.dial(channel)
        answer = Lines(asyncio.get_running_loop(), connection, take)
        try:
            connection.ask(kept_head(channel, "GET", path) + lines + b"\r\n", b"", answer)
            seen = -1
            while not answer.whole.done():
                if answer.bytes_in == seen:
                    raise ChannelTimeout("The upstream's answer stands still.")
                seen = answer.bytes_in
                await asyncio.wait([answer.whole], timeout=STALL_S)
            return answer.whole.result()
        except BaseException:
            connection.abort()
            raise
