"""A WebSocket to an upstream: its handshake, its messages, its end.

    connection of the pool --take over--> OPENING --101--> OPEN --close, error--> CLOSED
                                             | another answer: told as any refusal

Source: RFC 6455, sections 4.1 (a client's handshake) and 5.3 (it masks what it sends).
"""

import asyncio
import base64
import os
from typing import Final, Protocol

from relay.errors import ChannelGarbled, ConnectionBroken, RelayError
from relay.flow.attempts.buffer import RefusalReader
from relay.model import Channel
from relay.upstream.connection import UpstreamConnection
from relay.wire.http import kept_head
from relay.wire.websocket import (
    CLOSE,
    MESSAGE_TOO_BIG,
    NORMAL,
    PING,
    PONG,
    TEXT,
    TOO_LARGE,
    FrameReader,
    Message,
    WebSocketError,
    accept_of,
    close_frame,
    frame_of,
)

HEAD_BYTES_MAX: Final = 64 * 1024
MESSAGE_BYTES_MAX: Final = 64 * 1024 * 1024
LENGTH_DIGITS_MAX: Final = 18
UNSENT_BYTES_MAX: Final = 64 * 1024
"""Beyond it no ping is answered: who takes nothing hears nothing."""
SWITCHED: Final = 101
NO_STATUS: Final = 1005
_END: Final = b"\r\n\r\n"


class SocketListener(Protocol):
    """Who hears what an upstream says over its socket."""

    def heard(self, text: bytes) -> None:
        """Take a text."""
        ...

    def upstream_slow(self, *, slow: bool) -> None:
        """The upstream takes nothing more for now, or does again."""
        ...

    def upstream_gone(self, code: int) -> None:
        """Take the news that the socket is closed, and with what."""
        ...


class UpstreamSocket:
    """One open socket; what asyncio calls a Protocol.

    Args:
        channel: Whose it is.
        listener: Hears what is said, once the socket is open.
        model_gone_switches: Whose fault a 404 is (`[switching]`).
        hears_refusals: What a refusal says is of interest, and waited for.
    """

    def __init__(
        self,
        channel: Channel,
        listener: SocketListener,
        *,
        model_gone_switches: bool,
        hears_refusals: bool = True,
    ) -> None:
        self._channel = channel
        self._listener = listener
        self._gone_switches = model_gone_switches
        self._hears_refusals = hears_refusals
        self.status = 0
        """What the handshake was answered with, 0 = nothing yet."""
        self._reader = FrameReader(MESSAGE_BYTES_MAX, masked=False)
        self._key = base64.b64encode(os.urandom(16)).decode()
        self._head = b""
        self._refusal: RefusalReader | None = None
        self._owed_bytes = -1
        """What is to come of a refusal; below 0 = nobody knows."""
        self._opened: asyncio.Future[None] | None = None
        self._connection: UpstreamConnection | None = None
        self._transport: asyncio.Transport | None = None
        self._open = self._closing = False
        self._code = 0

    async def open(self, connection: UpstreamConnection, path: str, forwarded: bytes) -> None:
        """Take a new connection over, and open a socket on it.

        Raises:
            RelayError: The upstream will not, or is gone.
        """
        self._opened = asyncio.get_running_loop().create_future()
        self._connection = connection
        self._transport = connection.hand_over(self)
        lines = (
            f"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: {self._key}\r\n"
            "Sec-WebSocket-Version: 13\r\n"
        )
        head = kept_head(self._channel, "GET", path) + lines.encode("ascii") + forwarded
        self._transport.write(head + b"\r\n")
        try:
            await self._opened
        except BaseException:
            self.cut()
            raise
        finally:
            self._opened = None
        self._open = True

    def say(self, text: bytes) -> None:
        """Send a text."""
        if self._transport is not None and not self._closing:
            self._transport.write(frame_of(TEXT, text, os.urandom(4)))

    def ping(self) -> None:
        """Ask for a sign of life."""
        if self._transport is not None and not self._closing:
            self._transport.write(frame_of(PING, b"", os.urandom(4)))

    def close(self, code: int) -> None:
        """Close, without waiting for the upstream's word."""
        if self._transport is not None and not self._closing:
            self._transport.write(close_frame(code, "", os.urandom(4)))
            self._closing = True
            self._transport.close()

    def cut(self) -> None:
        """Drop the connection at once."""
        if self._transport is not None:
            self._transport.abort()

    def hold(self, *, held: bool) -> None:
        """Read no more for now, or again."""
        if self._transport is None or self._transport.is_closing():
            return
        if held:
            self._transport.pause_reading()
        else:
            self._transport.resume_reading()

    # --- asyncio's side -----------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        """Take what the upstream sent."""
        if self._opened is not None and not self._opened.done():
            data = self._shake_hands(data)
        if not data or self._closing:
            return
        ping: bytes | None = None
        try:
            for message in self._reader.feed(data):
                if message.kind == PING:
                    ping = message.payload
                else:
                    self._hear(message)
        except WebSocketError as error:
            self.close(error.code)
        if ping is not None:
            self._pong(ping)

    def eof_received(self) -> bool:
        """Let the transport close."""
        return False

    def pause_writing(self) -> None:
        """The upstream is slower than the client."""
        self._listener.upstream_slow(slow=True)

    def resume_writing(self) -> None:
        """The upstream has caught up."""
        self._listener.upstream_slow(slow=False)

    def connection_lost(self, exc: BaseException | None) -> None:
        """The upstream is gone."""
        self._transport = None
        if self._connection is not None:
            self._connection.connection_lost(None)
            self._connection = None
        opened = self._opened
        if self._open:
            self._listener.upstream_gone(self._code or NO_STATUS)
        elif opened is not None and not opened.done():
            refused = self._refusal.feed(b"", done=True) if self._refusal is not None else None
            opened.set_exception(refused or ConnectionBroken("The upstream closed the connection."))

    # --- inside -------------------------------------------------------------------------------

    def _shake_hands(self, data: bytes) -> bytes:
        """Read the upstream's answer to the handshake; return what stands behind it."""
        if self._refusal is not None:
            self._refuse(self._refusal, data)
            return b""
        self._head += data
        end = self._head.find(_END)
        if end < 0:
            if len(self._head) > HEAD_BYTES_MAX:
                self._fail(ChannelGarbled("The upstream sent too long a response head."))
            return b""
        head, rest = self._head[:end], self._head[end + len(_END) :]
        self._head = b""
        status, headers = _read_head(head)
        self.status = status
        if status != SWITCHED and not self._hears_refusals:
            self._fail(ConnectionBroken("The upstream opens no socket."))
            return b""
        if status != SWITCHED:
            self._refusal = RefusalReader(
                status, headers, self._channel, model_gone_switches=self._gone_switches
            )
            length = headers.get(b"content-length", b"")
            known = length.isdigit() and len(length) <= LENGTH_DIGITS_MAX
            self._owed_bytes = int(length) if known else -1
            self._refuse(self._refusal, rest)
            return b""
        accepted = (accept_of(self._key) or "").encode()
        if headers.get(b"sec-websocket-accept") != accepted:
            self._fail(ChannelGarbled("The upstream answered another handshake."))
            return b""
        assert self._opened is not None
        self._opened.set_result(None)
        return rest

    def _refuse(self, refusal: RefusalReader, data: bytes) -> None:
        """Take more of what the upstream says instead; where its length is known, to its end."""
        done = 0 <= self._owed_bytes <= len(data)
        self._owed_bytes -= len(data) if self._owed_bytes > 0 else 0
        error = refusal.feed(data, done=done)
        if error is not None:
            self._fail(error)

    def _fail(self, error: RelayError) -> None:
        if self._opened is not None and not self._opened.done():
            self._opened.set_exception(error)
        self.cut()

    def _hear(self, message: Message) -> None:
        if message.kind == TEXT:
            self._listener.heard(message.payload)
        elif message.kind == CLOSE:
            self._code = message.close_code
            self.close(self._code if self._code != NO_STATUS else NORMAL)
        elif message.kind == TOO_LARGE:
            self.close(MESSAGE_TOO_BIG)

    def _pong(self, payload: bytes) -> None:
        """Answer the last ping of a read, as RFC 6455 allows in 5.5.3: of a flood no other."""
        transport = self._transport
        if transport is None or self._closing:
            return
        if transport.get_write_buffer_size() <= UNSENT_BYTES_MAX:
            transport.write(frame_of(PONG, payload, os.urandom(4)))


def _read_head(head: bytes) -> tuple[int, dict[bytes, bytes]]:
    """Return status and headers; 502 where it is no head of HTTP."""
    lines = head.split(b"\r\n")
    words = lines[0].split(b" ", 2)
    good = len(words) > 1 and words[0].startswith(b"HTTP/1.") and words[1].isdigit()
    pairs = (line.partition(b":") for line in lines[1:])
    headers = {name.strip().lower(): value.strip() for name, _, value in pairs}
    return int(words[1][:3]) if good else 502, headers
