"""aiohttp's request handler, by which a connection has its requests parsed.

It has the C parser, the bounds on what a client may send ahead, and the flow control of bodies. It
serves nothing and knows no deadline; a connection keeps one only while there is something to parse,
so that an open stream does not pay for it.
"""

import asyncio

from aiohttp.http_parser import RawRequestMessage
from aiohttp.streams import StreamReader
from aiohttp.web import Server
from aiohttp.web_protocol import RequestHandler

from relay.edge.head import ParsedHead

Parsed = tuple[ParsedHead | None, StreamReader]
"""A head and the body that follows it; without a head, what came is no request."""


class RequestParser(RequestHandler):
    """Parses what it is given, and keeps what came of it until it is taken.

    Args:
        server: aiohttp's server object.
        transport: Of the connection: paused while too much has come.
    """

    __slots__ = ()

    def __init__(self, server: Server, transport: asyncio.Transport | None) -> None:
        super().__init__(
            server,
            loop=asyncio.get_running_loop(),
            keepalive_timeout=0,  # deadlines are the connection's own
            access_log=None,  # type: ignore[arg-type]  # aiohttp tests it for truth; its format
            # prints query strings, and with them keys
            auto_decompress=False,
        )
        self.transport = transport

    @property
    def waiting(self) -> int:
        """How many requests were parsed and not taken."""
        return len(self._messages)

    def first(self) -> Parsed:
        """Return the first request that was parsed; there is one."""
        message, payload = self._messages[0]
        return (message if isinstance(message, RawRequestMessage) else None), payload

    def take(self) -> Parsed:
        """Take out the first request that was parsed; there is one."""
        parsed = self.first()
        self._messages.popleft()
        if self._parser is not None:
            self._parser.message_consumed()
        if self._buffer_paused and len(self._messages) <= self._msg_queue_resume_size:
            self._resume_reading_if_drained()
        return parsed
