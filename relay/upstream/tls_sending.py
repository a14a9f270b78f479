"""The sending half of TLS to an upstream: what is to be sent, encrypted as the socket takes it.

    write --> [unsent, as it was given] --encrypted, a turn at a time--> plain transport --> socket

Of a long question 64 KiB are encrypted ahead of what the socket takes. The rest stays as it was
given, by reference: it exists once, and not a second time in ciphertext.
"""

import asyncio
import contextlib
import enum
import ssl
from collections import deque
from typing import Final

TURN_BYTES: Final = 64 * 1024
"""Encrypted at once: four full records, and as much as a transport takes before it says that it
is full (asyncio's high-water mark)."""
CLOSE_S: Final = 5.0
"""How long a connection that is closed has for what it was given to send: who takes nothing is
dropped then."""


class TlsState(enum.Enum):
    """Where a connection is: only ever moved downwards."""

    SHAKING = "shaking hands"
    OPEN = "open"
    CLOSING = "closing"
    CLOSED = "closed"


# Looked up once: a member of an enum is searched in its class each time it is named.
SHAKING: Final = TlsState.SHAKING
OPEN: Final = TlsState.OPEN
CLOSING: Final = TlsState.CLOSING
CLOSED: Final = TlsState.CLOSED


class TlsBuffers:
    """What stands between OpenSSL and sockets: one pair for all connections of a worker.

    OpenSSL takes all there is in `incoming` before it asks for more, half a record too, and what
    it leaves in `outgoing` is passed on at once: so both are empty whenever a transport is done
    with a call, and before it calls anybody who might use another one. A pair for each connection
    would keep, for as long as that is open, the room of the most that was ever in them.
    """

    __slots__ = ("incoming", "outgoing")

    def __init__(self) -> None:
        self.incoming = ssl.MemoryBIO()
        self.outgoing = ssl.MemoryBIO()


class TlsSender:
    """The half of a connection that sends; TlsTransport is the whole.

    Args:
        buffers: Those of the worker.
        protocol: asyncio's, whom the connection is for.
    """

    __slots__ = (
        "_buffers",
        "_deadline",
        "_error",
        "_full",
        "_plain",
        "_protocol",
        "_ssl",
        "_state",
        "_told_full",
        "_unsent",
    )

    def __init__(
        self, buffers: TlsBuffers, connection: ssl.SSLObject, protocol: asyncio.Protocol
    ) -> None:
        self._buffers = buffers
        self._ssl: ssl.SSLObject | None = connection
        self._protocol: asyncio.Protocol | None = protocol
        self._plain: asyncio.Transport | None = None
        self._state: TlsState = SHAKING
        self._error: Exception | None = None
        """What ended it, for the protocol to be told when the socket is closed."""
        self._unsent: deque[memoryview] | None = None
        """What waits for the socket; None = nothing, so that an idle connection has no queue."""
        self._full = False
        """The plain transport takes no more for now."""
        self._told_full = False
        """The protocol was told so."""
        self._deadline: asyncio.TimerHandle | None = None
        """When a connection that is closed is dropped."""

    # --- what a protocol asks of it -----------------------------------------------------------

    def write(self, data: bytes) -> None:
        """Send it, behind what was written before; dropped where the connection is over."""
        if self._state is not OPEN or not data:
            return
        if self._full or self._unsent is not None or len(data) > TURN_BYTES:
            if self._unsent is None:
                self._unsent = deque()
            self._unsent.append(memoryview(data))
            self._send_on()
            return
        connection = self._ssl
        assert connection is not None
        try:
            connection.write(data)
        except ssl.SSLWantReadError:
            self._unsent = deque([memoryview(data)])
        except ssl.SSLError as error:
            self._fail(error)
            return
        self._pass_on()

    def close(self) -> None:
        """Close it when all is sent that was written, and tell the peer so (a close_notify)."""
        plain = self._plain
        if self._state is SHAKING:
            self.abort()
        if self._state is not OPEN or plain is None:
            return
        self._state = CLOSING
        self._close_within()
        if self._unsent is None:
            self._say_last()
        else:
            plain.pause_reading()

    def abort(self) -> None:
        """Drop the connection at once, and what was not sent."""
        if self._state is CLOSED:
            return
        self._state = CLOSED
        self._unsent = None
        if self._plain is not None:
            self._plain.abort()

    def get_write_buffer_size(self) -> int:
        """Return how many bytes are not sent yet."""
        plain = self._plain
        size = 0 if plain is None else plain.get_write_buffer_size()
        if self._unsent is not None:
            size += sum(map(len, self._unsent))
        return size

    # --- the plain transport's side -----------------------------------------------------------

    def pause_writing(self) -> None:
        """The socket takes no more for now."""
        self._full = True
        self._tell_full()

    def resume_writing(self) -> None:
        """The socket takes more."""
        self._full = False
        self._send_on()

    # --- inside -------------------------------------------------------------------------------

    def _send_on(self) -> None:
        """Send of what waits as much as the socket takes."""
        connection, unsent = self._ssl, self._unsent
        try:
            while unsent and not self._full and connection is not None:
                first = unsent[0]
                sent = connection.write(first[:TURN_BYTES])
                if sent < len(first):
                    unsent[0] = first[sent:]
                else:
                    unsent.popleft()
                self._pass_on()
        except ssl.SSLWantReadError:
            self._pass_on()  # in the middle of a handshake that the peer began: then, again
        except ssl.SSLError as error:
            self._fail(error)
            return
        if unsent is not None and not unsent and self._unsent is unsent:
            self._unsent = None
            if self._state is CLOSING:
                self._say_last()
        self._tell_full()

    def _tell_full(self) -> None:
        """Tell the protocol when it is to write no more, and when it may again."""
        full = self._full or self._unsent is not None
        protocol = self._protocol
        if full is self._told_full or self._state is not OPEN or protocol is None:
            return
        self._told_full = full
        if full:
            protocol.pause_writing()
        else:
            protocol.resume_writing()

    def _pass_on(self) -> None:
        """Give the socket what OpenSSL has left for it."""
        outgoing = self._buffers.outgoing
        if outgoing.pending:
            ciphertext = outgoing.read()
            if self._plain is not None:
                self._plain.write(ciphertext)

    def _say_last(self) -> None:
        """Say that nothing more comes, and close the socket behind it."""
        connection, plain = self._ssl, self._plain
        if connection is not None:
            # The peer's own close_notify is not waited for: nobody reads any more.
            with contextlib.suppress(ssl.SSLError):
                connection.unwrap()
        self._pass_on()
        if plain is not None:
            plain.close()

    def _fail(self, error: Exception) -> None:
        """End the connection over something that the peer did, and tell it, if it listens."""
        plain = self._plain
        self._error = error
        self._buffers.incoming.read()
        if plain is None or plain.get_write_buffer_size():
            self._buffers.outgoing.read()
            self.abort()
            return
        self._state = CLOSING
        self._unsent = None
        self._pass_on()
        self._close_within()
        plain.close()

    def _close_within(self) -> None:
        if self._deadline is None and self._plain is not None:
            loop = asyncio.get_running_loop()
            self._deadline = loop.call_later(CLOSE_S, self._plain.abort)
