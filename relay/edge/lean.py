"""aiohttp's request handler without what only its own request loop needs.

A connection begins without a task, and its parser can be put away between two requests: for an open
stream they are thrice what the stream itself takes. Whoever derives from this starts `start` when
there is something to wait for.
"""

import asyncio
from collections import deque
from typing import Any, Final, cast

from aiohttp.http_parser import HttpRequestParser
from aiohttp.web import Server
from aiohttp.web_protocol import RequestHandler, RequestPayloadError

_NO_MESSAGES: Final[Any] = ()
"""Stands for the queue of parsed requests while there is no parser to fill it."""


class LeanConnection(RequestHandler):
    """A protocol object that parses what it is given and keeps what came of it in `_messages`.

    Args:
        server: aiohttp's server object, which keeps the set of connections.
    """

    __slots__ = ()

    def __init__(self, server: Server) -> None:
        super().__init__(
            server,
            loop=asyncio.get_running_loop(),
            keepalive_timeout=0,  # deadlines are the connection's own
            access_log=None,  # type: ignore[arg-type]  # aiohttp tests it for truth; its format
            # prints query strings, and with them keys
            auto_decompress=False,
        )

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin as RequestHandler does, but for its task and the options of its socket.

        The loop sets TCP_NODELAY, and SO_KEEPALIVE comes with the listener's.
        """
        assert self._manager is not None
        self.transport = cast("asyncio.Transport", transport)
        self._manager.connection_made(self, self.transport)

    def take_out_parser(self) -> None:
        """Have a parser, made as RequestHandler makes it."""
        if self._parser is not None:
            return
        self._messages = deque()
        self._parser = HttpRequestParser(
            self,
            self._loop,
            self._read_bufsize,
            max_line_size=self.max_line_size,
            max_field_size=self.max_field_size,
            max_headers=self.max_headers,
            payload_exception=RequestPayloadError,
            auto_decompress=False,
            max_msg_queue_size=self._max_msg_queue_size,
        )

    def put_away_parser(self) -> None:
        """Drop a parser that stands between two requests: it keeps all headers of the last one."""
        self._parser = None
        self._messages = _NO_MESSAGES

    def next_message(self) -> Any:
        """Return the first request that was parsed and its body; there is one."""
        message = self._messages.popleft()
        if self._parser is not None:
            self._parser.message_consumed()
        if self._buffer_paused and len(self._messages) <= self._msg_queue_resume_size:
            self._resume_reading_if_drained()
        return message

    def finish(self) -> None:
        """Take no more; close when what was written is out."""
        self._close = True
        if self.transport is not None:
            self.transport.close()
