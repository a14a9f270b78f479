"""One keep-alive connection to an upstream: HTTP/1.1 responses off a socket, as bytes.

    IDLE --ask--> ASKED --head--> HEADED --last byte--> IDLE (back to the pool)
      any --error, close, abort--> CLOSED

Nothing is decoded here; what one read brought is handed on in one call. A connection whose peer did
anything unasked for is never used again.

It is what asyncio calls a Protocol, but does not derive from it, so that it can be compiled
(relay.compiled); uvloop goes by the methods.
"""

import asyncio
import contextlib
import enum
import ssl
from collections.abc import Callable
from typing import Final, cast

import httptools

from relay.errors import ChannelGarbled, ConnectionBroken, RelayError
from relay.ports import AnswerListener, Connection
from relay.wire.http import FRAME_OF_EVENTS_END, lower_name, plain_frame

HEAD_BYTES_MAX: Final = 64 * 1024
"""A response head. nginx refuses heads over its 4-8 KiB proxy buffer; CDNs send 10 KiB."""
BARE_BYTES_MAX: Final = 64 * 1024
"""What may come of a chunked answer without a byte of its body: trailers, bounded as a head is."""
INTERIM_MAX: Final = 8
"""1xx answers before the real one: one is normal, an endless row of them is an attack."""
REFUSED_FROM: Final = 400
"""Statuses of refusals."""
JOIN_BYTES_MAX: Final = 64 * 1024
"""Below this a head and body are joined into one write; above it the copy costs more."""


class ConnectionState(enum.Enum):
    """Where the connection is between questions."""

    IDLE = "idle"
    ASKED = "asked"
    HEADED = "headed"
    CLOSED = "closed"


# Looked up once: a member of an enum is searched in its class each time it is named.
_IDLE: Final = ConnectionState.IDLE
_ASKED: Final = ConnectionState.ASKED
_HEADED: Final = ConnectionState.HEADED
_CLOSED: Final = ConnectionState.CLOSED


class UpstreamConnection(Connection):
    """The protocol object of one socket; see the module's picture.

    Args:
        on_idle: Called when an answer is whole and the connection may serve another.
        on_closed: Called once when the connection is gone.
    """

    __slots__ = (
        "_aligned",
        "_answer",
        "_bare_bytes",
        "_chunked",
        "_done",
        "_ended",
        "_head",
        "_head_bytes",
        "_headers",
        "_interims",
        "_keep_alive",
        "_long",
        "_on_closed",
        "_on_idle",
        "_parser",
        "_parts",
        "_paused",
        "_refused",
        "_sized",
        "_state",
        "_surplus_at",
        "_transport",
        "idle_since_s",
        "on_body",
        "on_header",
        "reused",
        "silent",
    )

    def __init__(
        self,
        on_idle: "Callable[[UpstreamConnection], None]",
        on_closed: "Callable[[UpstreamConnection], None]",
    ) -> None:
        self._on_idle = on_idle
        self._on_closed = on_closed
        self._state: ConnectionState = _CLOSED
        self._transport: asyncio.Transport | None = None
        self._answer: AnswerListener | None = None
        self._headers: dict[bytes, bytes] = {}
        self._parts: list[bytes] = []
        # httptools calls these for every piece of a body and for every header: methods of builtins
        # are C calls, where ours would be a Python frame each.
        self.on_body = self._parts.append
        # (Of a header that is there twice the first counts; setting an item is no such method.)
        self.on_header = self._headers.setdefault
        self._parser: httptools.HttpResponseParser | None = None
        self._paused = False
        self._ended = False
        """The peer itself said that nothing more comes: over TLS by a close_notify."""
        self._refused = False
        """The answer is a refusal: what it says is taken as far as it came."""
        self._aligned = False
        """The parser stands between two chunks of a body: a whole chunk can be read without it."""
        self._head: tuple[int, dict[bytes, bytes]] | None = None
        """Status and headers of a final response that its reader has not been told of."""
        self._surplus_at: int | None = None
        """Where in `_parts` a second, unasked-for message begins."""
        self._long = False
        """The question is longer than what every upstream reads before it answers."""
        self.reused = False
        self.silent = True
        self.idle_since_s = 0.0
        self._reset()

    def __repr__(self) -> str:
        return f"<UpstreamConnection {self._state.value} reused={self.reused}>"

    # --- what the flow asks of it -----------------------------------------------------------

    def ask(self, head: bytes, body: bytes, answer: AnswerListener) -> None:
        """Send a request; `answer` hears of the response until it is whole or lost."""
        assert self._state is _IDLE and self._transport is not None
        self._state = _ASKED
        self._answer = answer
        self.silent = True
        self._long = len(body) > JOIN_BYTES_MAX
        if not self._long:
            self._transport.write(head + body)
        else:
            self._transport.write(head)
            self._transport.write(body)

    def pause(self) -> None:
        """Stop reading: the client takes no more for now."""
        if self._transport is not None and not self._paused:
            self._paused = True
            self._transport.pause_reading()

    def resume(self) -> None:
        """Go on reading."""
        if self._transport is not None and self._paused:
            self._paused = False
            self._transport.resume_reading()

    def abort(self) -> None:
        """Drop the connection at once; its answer hears nothing more."""
        self._answer = None
        self._state = _CLOSED
        if self._transport is not None:
            self._transport.abort()

    def hand_over(self, protocol: object) -> asyncio.Transport:
        """Let `protocol` have the socket from now on; it tells us of its end (connection_lost)."""
        transport = self._transport
        assert transport is not None and self._state is _IDLE
        self._state = _CLOSED
        self._parser = None
        transport.set_protocol(cast("asyncio.Protocol", protocol))
        return transport

    def let_go(self) -> None:
        """Hold neither socket nor parser, which refer back: its dial was given up.

        uvloop closes the socket of one that is cancelled, and tells nobody of its end.
        """
        self._state = _CLOSED
        self._transport = self._parser = None

    @property
    def usable(self) -> bool:
        """True while it can be asked."""
        return (
            self._state is _IDLE
            and self._transport is not None
            and not self._transport.is_closing()
        )

    # --- asyncio's side -----------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin idle."""
        self._transport = cast("asyncio.Transport", transport)
        self._parser = httptools.HttpResponseParser(self)
        self._state = _IDLE

    def data_received(self, raw: bytes) -> None:
        """Parse what was read and hand it on in one call; what its reader raises ends the call."""
        answer, parser = self._answer, self._parser
        if answer is None or parser is None:
            # Bytes nobody asked for (a late 408, a second answer): not to be taken for the next
            # call's answer, so the connection ends here.
            self.abort()
            return
        try:
            if self._aligned and raw[-4:] == FRAME_OF_EVENTS_END:
                payload = plain_frame(raw)
                if payload is not None:
                    answer.on_frame(raw, payload)
                    return
            self._take(raw, answer, parser)
        except Exception as error:
            if not self._tell_fault(answer, error):
                raise

    def pause_writing(self) -> None:
        """Nothing: what is written is bounded by a question."""

    def resume_writing(self) -> None:
        """Nothing; see `pause_writing`."""

    def eof_received(self) -> bool:
        """Let the transport close; connection_lost tells the answer.

        Over TLS it is called for a close_notify alone, which only the peer can send: the end of TCP
        can be forged by whoever cuts the wire (there an SSLEOFError).

        Source: RFC 9112, section 9.8: a close without one makes an answer incomplete that is ended
        by the close of its connection.
        """
        self._ended = True
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """End: an answer that was due is lost, unless the end of the connection ends its body."""
        answer = self._answer
        unframed = self._state is _HEADED and not self._chunked and not self._sized
        cut = isinstance(exc, ssl.SSLEOFError)
        ended = (exc is None or (cut and self._refused)) and (self._ended or self._refused)
        whole = (unframed and ended) or self._lacks_trailers_only()
        self._answer = None
        self._state = _CLOSED
        self._transport = None
        self._parser = None  # it refers back to us
        self._on_closed(self)
        if answer is None:
            return
        try:
            if whole:
                # HTTP/1.0 style: whether the body was whole, only its own terminal event can say.
                answer.on_body(b"", [], done=True)
            else:
                answer.on_lost(ConnectionBroken("The upstream closed the connection."))
        except Exception as error:
            if not answer.on_fault(error):
                raise

    # --- httptools' side ----------------------------------------------------------------------

    def on_message_begin(self) -> None:
        """Refuse a second message behind the one that was asked for."""
        if self._done:
            self._keep_alive = False
            if self._surplus_at is None:
                self._surplus_at = len(self._parts)

    def on_headers_complete(self) -> None:
        """Note a final response; an interim one (100, 103) is passed over.

        Its reader is told outside the parser, which would hide a fault of ours as bad HTTP.
        """
        assert self._parser is not None
        if self._done or self._answer is None:
            return
        status = self._parser.get_status_code()
        if status < 200:
            self._interims += 1
            self._headers.clear()
            return
        self._state = _HEADED
        self._refused = status >= REFUSED_FROM
        # A refusal may come before a long question was read: the next one would lie behind it.
        unread = self._long and self._refused
        self._keep_alive = self._parser.should_keep_alive() and not unread
        headers = {lower_name(name): value for name, value in self._headers.items()}
        self._headers.clear()
        self._chunked = b"transfer-encoding" in headers
        self._sized = b"content-length" in headers
        self._head = (status, headers)

    def on_message_complete(self) -> None:
        """Note the end of the message; data_received acts on it."""
        if self._state is _HEADED:
            self._done = True

    # --- inside ---------------------------------------------------------------------------------

    def _take(
        self, raw: bytes, answer: AnswerListener, parser: httptools.HttpResponseParser
    ) -> None:
        self.silent = False
        try:
            parser.feed_data(raw)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            # Garbage behind a whole message does not unmake the message, only the connection.
            self._keep_alive = False
            if not self._done:
                self._fail(ChannelGarbled("The upstream answered with something not HTTP."))
                return
        if self._state is _ASKED:
            self._head_bytes += len(raw)
            if self._head_bytes > HEAD_BYTES_MAX or self._interims > INTERIM_MAX:
                self._fail(ChannelGarbled("The upstream sent too long a response head."))
            return
        if self._head is not None:
            (status, headers), self._head = self._head, None
            answer.on_head(status, headers)
            if self._answer is not answer:
                self._parts.clear()
                return  # it had no use for such a head and dropped us
        self._deliver(raw, answer)

    def _tell_fault(self, answer: AnswerListener, error: Exception) -> bool:
        """Tell an answer that its reader has failed: by now it may not be ours to end by.

        Where it was whole we are back in the pool, and perhaps asked by somebody else already.
        """
        self._parts.clear()
        if self._answer is None or self._answer is answer:
            self.abort()
        return answer.on_fault(error)

    def _reset(self) -> None:
        self._headers.clear()
        self._aligned = False
        self._head_bytes = 0
        self._bare_bytes = 0
        self._interims = 0
        self._chunked = False
        self._sized = False
        self._keep_alive = False
        self._done = False
        self._surplus_at = None
        self._head = None

    def _bound_bare(self, raw: bytes) -> None:
        """Bound what comes without any body: the end of an answer, or not even that.

        Trailers behind a whole body end with it, however long they would go on: the parser is told
        that they are over. What it does not take for an end then is no trailer.
        """
        self._bare_bytes += len(raw)
        if self._bare_bytes <= BARE_BYTES_MAX:
            return
        assert self._parser is not None
        self._keep_alive = False
        ends = {b"\n": b"\r\n", b"\r": b"\n\r\n"}
        with contextlib.suppress(httptools.HttpParserError, httptools.HttpParserUpgrade):
            self._parser.feed_data(ends.get(raw[-1:], b":\r\n\r\n"))
        if not self._done:
            self._fail(ChannelGarbled("The upstream sent too long a chunk head."))

    def _lacks_trailers_only(self) -> bool:
        """Tell whether the chunk that ends a body had come, and what was lost is behind it."""
        parser = self._parser
        if parser is None or self._state is not _HEADED or not self._chunked:
            return False
        # The parser takes an empty line for the end there, and nowhere else.
        with contextlib.suppress(httptools.HttpParserError, httptools.HttpParserUpgrade):
            parser.feed_data(b"\r\n")
        self._parts.clear()
        return self._done

    def _deliver(self, raw: bytes, answer: AnswerListener) -> None:
        if not self._parts and not self._done:
            self._bound_bare(raw)
        if self._answer is None:
            return  # it was told that this is no answer
        parts, done = self._parts, self._done
        self._aligned = (
            self._chunked
            and raw[-4:] == FRAME_OF_EVENTS_END
            and bool(parts)
            and parts[-1][-2:] == b"\n\n"
        )
        if done:
            if self._surplus_at is not None:
                del parts[self._surplus_at :]
            self._end_message()
        if parts or done:
            answer.on_body(raw, parts, done=done)
            parts.clear()

    def _end_message(self) -> None:
        """Go back to the pool before the answer is told, so that its reader finds us there."""
        self._answer = None
        transport = self._transport
        # A question that is not all out would be taken for the beginning of the next one.
        keep = (
            self._keep_alive
            and not self._paused
            and transport is not None
            and not transport.get_write_buffer_size()
        )
        self._reset()
        if not keep:
            self.abort()
            return
        self._state = _IDLE
        self.reused = True
        self._on_idle(self)

    def _fail(self, error: RelayError) -> None:
        answer = self._answer
        self.abort()
        if answer is not None:
            answer.on_lost(error)
