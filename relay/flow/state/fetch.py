"""One small question to a channel that no client asked for: its answer, whole or not at all."""

import asyncio
from typing import Final

from relay.errors import ChannelGarbled, RelayError
from relay.model import Channel
from relay.ports import AnswerListener, Connections
from relay.wire.http import kept_head

ANSWER_S: Final = 30.0
ANSWER_BYTES_MAX: Final = 64 * 1024 * 1024
"""A response that has ended repeats all that it made, pictures included."""


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
