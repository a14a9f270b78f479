"""aiohttp's request handler, by which a connection has its requests parsed.

It has the C parser, the bounds on what a client may send ahead, and the flow control of bodies. It
serves nothing and knows no deadline; a connection keeps one only while there is something to parse,
so that an open stream does not pay for it.
"""

import asyncio
from typing import Final, Protocol, cast

from aiohttp.http_exceptions import LineTooLong
from aiohttp.http_parser import RawRequestMessage
from aiohttp.streams import StreamReader
from aiohttp.web import Server
from aiohttp.web_protocol import RequestHandler

from relay.edge.client.head import FIELD_BYTES_MAX, FIELDS_MAX, TARGET_BYTES_MAX, ParsedHead
from relay.errors import BadRequest, HeadTooLarge, RelayError, TargetTooLong, forget_frames

TOO_MANY: Final = "Too many headers received"
"""What aiohttp says of a head with too many fields; it has no class of its own."""

Parsed = tuple[ParsedHead | None, StreamReader]
"""A head and the body that follows it; without a head, what came is no request."""


class Reading(Protocol):
    """What a client's bytes come from."""

    def pause_reading(self) -> None:
        """Stop."""
        ...

    def resume_reading(self) -> None:
        """Go on."""
        ...


class RequestParser(RequestHandler):
    """Parses what it is given, and keeps what came of it until it is taken.

    Args:
        server: aiohttp's server object.
        reading: Of the connection: paused while too much has come.
    """

    __slots__ = ("payload",)

    def __init__(self, server: Server, reading: Reading) -> None:
        super().__init__(
            server,
            loop=asyncio.get_running_loop(),
            keepalive_timeout=0,  # deadlines are the connection's own
            access_log=None,  # type: ignore[arg-type]  # aiohttp tests it for truth; its format
            # prints query strings, and with them keys
            auto_decompress=False,
            max_line_size=TARGET_BYTES_MAX,
            max_field_size=FIELD_BYTES_MAX,
            max_headers=FIELDS_MAX,
        )
        self.transport = cast("asyncio.Transport", reading)  # it asks nothing else of it
        self.payload: StreamReader | None = None
        """What the body comes in of the request that is being served."""

    def data_received(self, data: bytes) -> None:
        """Parse more; who waits for a body that breaks off hears of it at once."""
        super().data_received(data)
        self._forget_frames()
        payload = self.payload
        if payload is not None and not payload.is_eof() and payload.exception() is None:
            error = self.fault()
            if error is not None:
                payload.set_exception(error)

    def _forget_frames(self) -> None:
        """Keep what is wrong with a request without the frame that keeps it: they are a ring."""
        if self._messages:
            message = self._messages[-1][0]
            if not isinstance(message, RawRequestMessage):
                forget_frames(message.exc)

    @property
    def waiting(self) -> int:
        """How many requests were parsed and not taken."""
        return len(self._messages)

    @property
    def encoded(self) -> bool:
        """Whether the body of the first request has to be decoded, which takes time."""
        message = self.first()[0]
        return message is not None and message.compression is not None

    def first(self) -> Parsed:
        """Return the first request that was parsed; there is one."""
        message, payload = self._messages[0]
        return (message if isinstance(message, RawRequestMessage) else None), payload

    def fault(self) -> RelayError | None:
        """Return what is wrong with what came last; None: nothing.

        The parser's own words quote the request; ours do not.
        """
        if not self._messages:
            return None
        message = self._messages[-1][0]
        if isinstance(message, RawRequestMessage):
            return None
        cause = message.exc
        if isinstance(cause, LineTooLong):
            # It has two bounds, and says which one was passed only by its number.
            if cause.args[1] == TARGET_BYTES_MAX:
                return TargetTooLong(f"The request target is over {TARGET_BYTES_MAX} bytes.")
            return HeadTooLarge(f"A header field is over {FIELD_BYTES_MAX} bytes.")
        if getattr(cause, "message", "") == TOO_MANY:
            return HeadTooLarge(f"There are more than {FIELDS_MAX} header fields.")
        return BadRequest("The request is not valid HTTP/1.1.")

    def take(self) -> Parsed:
        """Take out the first request that was parsed; there is one."""
        parsed = self.first()
        self._messages.popleft()
        if self._parser is not None:
            self._parser.message_consumed()
        if self._buffer_paused and len(self._messages) <= self._msg_queue_resume_size:
            self._resume_reading_if_drained()
        return parsed

    def let_go(self) -> None:
        """Parse no more, and hold nothing: what it holds refers back to it.

        Else a parser, its requests and their bodies are a ring that stays until the garbage
        collector comes by. A body that is there already can be read still.
        """
        self._force_close = True  # a body that is read asks for more, and gets nothing
        self._parser = None
        self._messages.clear()
        self.payload = None
        self.transport = None
