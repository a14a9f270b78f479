"""TLS to an upstream: an asyncio transport over a plain one, with OpenSSL in between.

    socket <--> plain transport <--ciphertext--> TlsTransport <--plaintext--> protocol

    SHAKING --verified--> OPEN --close, close_notify, error--> CLOSING --flushed--> CLOSED
       any --abort, socket gone--> CLOSED

uvloop's own TLS costs 46 KiB a connection, this one 23: buffers are shared (TlsBuffers), what
OpenSSL leaves lying about is let go of, and one that idles has neither timer nor queue. One read of
the socket is one call of the protocol, however many records it brought.

What the peer may do is OpenSSL's to judge: alerts, new keys, renegotiation. The end of TCP without
a close_notify, which whoever cuts the wire can forge, reaches the protocol as ssl.SSLEOFError.
"""

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Hashable
from typing import Any, Final, cast

from relay.clock import clock_s
from relay.upstream.tls_sending import CLOSED, OPEN, SHAKING, TlsBuffers, TlsSender
from relay.upstream.tls_sessions import TlsSessions

RECORD_BYTES_MAX: Final = 16 * 1024
"""Of plaintext; RFC 8446, section 5.1."""
TICKETS_COME_LATER: Final = "TLSv1.3"
"""There a session can be resumed when the server has sent a ticket, behind the handshake; it does
before it says anything else."""
FRAMING_BYTES: Final = 64
"""Two records are framed by less. Of a read more is gone to messages of TLS itself: a ticket,
mostly."""


class TlsPlace:
    """Where connections of TLS are made: a worker's buffers, and the sessions it may resume."""

    __slots__ = ("buffers", "sessions")

    def __init__(self) -> None:
        self.buffers = TlsBuffers()
        self.sessions = TlsSessions()


class TlsTransport(TlsSender):
    """One connection: to its protocol a transport, to the plain transport a protocol.

    It derives from neither of asyncio's classes, so that it can be compiled (relay.compiled).
    Once connected it cannot be half-closed: an end from either side is the end.
    """

    __slots__ = ("_context", "_may_keep", "_origin", "_sessions", "_shaken")

    def __init__(
        self,
        place: TlsPlace,
        origin: Hashable,
        context: ssl.SSLContext,
        host: str,
        protocol: asyncio.Protocol,
    ) -> None:
        buffers = place.buffers
        connection = context.wrap_bio(
            buffers.incoming,
            buffers.outgoing,
            server_hostname=host,
            session=place.sessions.find(origin, context, clock_s()),
        )
        super().__init__(buffers, connection, protocol)
        self._sessions = place.sessions
        self._origin = origin
        self._context = context
        self._shaken: asyncio.Future[None] | None = asyncio.get_running_loop().create_future()
        """Who waits for the handshake."""
        self._may_keep = False
        """The handshake was in full, and nobody has looked yet for a session that it gave."""

    def __repr__(self) -> str:
        return f"<TlsTransport {self._state.value}>"

    @property
    def shaken(self) -> asyncio.Future[None] | None:
        """Done when hands are shaken and the peer is verified, or are not; None once it is."""
        return self._shaken

    def let_go(self) -> None:
        """Refer to nothing that refers back: nobody hears of it any more.

        uvloop closes the socket of a connection that is cancelled, and tells nobody of its end.
        """
        self._state = CLOSED
        if self._deadline is not None:
            self._deadline.cancel()
        self._deadline = None
        self._plain = self._ssl = self._protocol = None
        self._error = self._unsent = self._shaken = None

    # --- what a protocol asks of it -----------------------------------------------------------

    def is_closing(self) -> bool:
        """Tell whether nothing more can be written."""
        plain = self._plain
        return self._state is not OPEN or plain is None or plain.is_closing()

    def pause_reading(self) -> None:
        """Read no more of the socket for now."""
        if self._state is OPEN and self._plain is not None:
            self._plain.pause_reading()

    def resume_reading(self) -> None:
        """Go on reading."""
        if self._state is OPEN and self._plain is not None:
            self._plain.resume_reading()

    def set_protocol(self, protocol: asyncio.Protocol) -> None:
        """Have somebody else hear of the connection from now on."""
        self._protocol = protocol

    def get_protocol(self) -> asyncio.Protocol | None:
        """Return who hears of it."""
        return self._protocol

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Set how much the plain transport takes before it says that it is full, in bytes."""
        if self._plain is not None:
            self._plain.set_write_buffer_limits(high, low)

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Return what asyncio's transports tell: of TLS `ssl_object`, else of the socket."""
        if name == "ssl_object":
            return self._ssl
        return default if self._plain is None else self._plain.get_extra_info(name, default)

    # --- the plain transport's side -----------------------------------------------------------

    def connection_made(self, plain: asyncio.BaseTransport) -> None:
        """Begin to shake hands."""
        self._plain = cast("asyncio.Transport", plain)
        self._shake()

    def data_received(self, raw: bytes) -> None:
        """Decrypt what was read, and hand it on in one call."""
        if self._state is not OPEN:
            if self._state is SHAKING:
                self._buffers.incoming.write(raw)
                self._shake()
            return  # what comes when we have closed is for nobody
        self._buffers.incoming.write(raw)
        data, ended = self._decrypt(len(raw))
        protocol = self._protocol
        if data and protocol is not None:
            if self._may_keep:
                self._keep_session()
            protocol.data_received(data)
        if ended:
            self._end()
        if self._unsent is not None:
            self._send_on()  # the middle of a handshake may have held it up

    def eof_received(self) -> bool:
        """End: the peer did not say by TLS that it has nothing more to say."""
        if self._state is OPEN:
            self._error = ssl.SSLEOFError(ssl.SSL_ERROR_EOF, "the connection was cut")
        if self._state is OPEN or self._state is SHAKING:
            self.abort()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell whom it was for that the socket is closed."""
        protocol, shaken, error = self._protocol, self._shaken, self._error or exc
        self.let_go()
        if shaken is not None:
            if not shaken.done():
                shaken.set_exception(error or ConnectionResetError())
        elif protocol is not None:
            protocol.connection_lost(error)

    # --- inside -------------------------------------------------------------------------------

    def _shake(self) -> None:
        """Go on with the handshake; where it ends, begin."""
        connection, protocol, shaken = self._ssl, self._protocol, self._shaken
        assert connection is not None and protocol is not None and shaken is not None
        try:
            connection.do_handshake()
        except ssl.SSLWantReadError:
            self._pass_on()
            return
        except ssl.SSLError as error:
            self._fail(error)
            if not shaken.done():
                shaken.set_exception(error)
            return
        self._pass_on()
        self._state = OPEN
        self._shaken = None
        self._may_keep = not connection.session_reused
        if self._may_keep and connection.version() != TICKETS_COME_LATER:
            self._keep_session()
        left = self._buffers.incoming.pending
        data, ended = self._decrypt(left) if left else (b"", False)
        protocol.connection_made(cast("asyncio.Transport", self))
        if not shaken.done():
            shaken.set_result(None)
        if data:
            if self._may_keep:
                self._keep_session()
            protocol.data_received(data)
        if ended:
            self._end()

    def _decrypt(self, size: int) -> tuple[bytes, bool]:
        """Decrypt all that has come; return it, and whether the peer says that it was the last.

        Args:
            size: How many bytes have just come.
        """
        connection, incoming = self._ssl, self._buffers.incoming
        assert connection is not None
        data, ended = b"", False
        parts: list[bytes] | None = None
        try:
            data = connection.read(size)
            # What did not fill the room was all of its record: of that nothing can be pending.
            if incoming.pending or len(data) == size:
                parts = [data]
                ended = self._read_on(connection, parts)
            else:
                ended = not data
        except ssl.SSLWantReadError:
            pass  # half a record, or a message of TLS itself
        except ssl.SSLZeroReturnError:
            ended = True
        except ssl.SSLError as error:
            self._fail(error)
        if parts is not None:
            data = b"".join(parts)
        if size - len(data) > FRAMING_BYTES and self._state is OPEN:
            self._tidy(connection)
        self._pass_on()
        return data, ended

    def _read_on(self, connection: ssl.SSLObject, parts: list[bytes]) -> bool:
        """Read the other records of a read; return whether the peer says that there is no other.

        Raises:
            ssl.SSLError: The last of them is not whole, or wrong; `parts` has those before.
        """
        incoming = self._buffers.incoming
        last = parts[0]
        while last:
            pending = connection.pending() or min(incoming.pending, RECORD_BYTES_MAX)
            if not pending:
                return False
            last = connection.read(pending)
            parts.append(last)
        incoming.read()  # behind its last word
        return True

    def _tidy(self, connection: ssl.SSLObject) -> None:
        """Clear up behind messages of TLS itself.

        OpenSSL makes room for an answer to each, 16 KiB, and keeps it until something is written,
        which on a stream is never: writing nothing does.
        """
        with contextlib.suppress(ssl.SSLError):
            connection.write(b"")

    def _keep_session(self) -> None:
        """Look once for the session of a handshake in full, if none is known of its origin."""
        connection = self._ssl
        self._may_keep = False
        if connection is not None and self._sessions.wants(self._origin, self._context, clock_s()):
            self._sessions.keep(self._origin, self._context, connection, clock_s())

    def _end(self) -> None:
        """End, as the peer has said that it does."""
        if self._state is OPEN and self._protocol is not None:
            self._protocol.eof_received()
            self.close()


async def open_tls(transport: TlsTransport, sock: socket.socket) -> None:
    """Have a transport shake hands over a connected socket, and its protocol begin.

    The deadline is the caller's: one that is cancelled leaves nothing open.

    Raises:
        ssl.SSLError: The peer is not verified, or does not speak TLS.
        OSError: It is gone.
    """
    shaken = transport.shaken
    assert shaken is not None
    make: Any = lambda: transport  # noqa: E731 - by its methods asyncio's protocol
    try:
        await asyncio.get_running_loop().create_connection(make, sock=sock)
        await shaken
    except BaseException:
        transport.abort()
        transport.let_go()
        if not shaken.cancel() and not shaken.cancelled():
            shaken.exception()  # heard of, if not told
        raise
    finally:
        del shaken, make
