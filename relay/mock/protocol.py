"""One client connection of the mock: requests off the socket, answers played onto it.

One answer at a time; requests that are pipelined behind it wait, within a bound.
"""

import asyncio
from collections import deque
from typing import Final, cast

import httptools

from relay.mock.answers.answer import MockAnswer
from relay.mock.options import BODY_BYTES_MAX, PIPELINED_MAX, MockOptions
from relay.mock.plan import AnswerPlan, End, Style, lay_out
from relay.mock.player import Player, reset
from relay.mock.record import Record, ServedRecord
from relay.mock.rejections import reject
from relay.mock.service import MockReply, MockRequest, MockService

_CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"


class MockProtocol(asyncio.Protocol):
    """The protocol of one connection.

    Args:
        service: Says what to answer.
        record: Takes note of connections and calls.
        options: The pace.
        connections: The server's open connections: this one adds and removes itself.
    """

    def __init__(
        self,
        service: MockService,
        record: Record,
        options: MockOptions,
        connections: set["MockProtocol"],
    ) -> None:
        self._service = service
        self._record = record
        self._options = options
        self._connections = connections
        self._parser = httptools.HttpRequestParser(self)
        self._pending: deque[tuple[MockRequest, bool]] = deque()
        self._player: Player | None = None
        self._served: ServedRecord | None = None
        self._end = End.KEEP
        self._keep_alive = True
        self._over = False
        self._url = b""
        self._headers: dict[bytes, bytes] = {}
        self._body: list[bytes] = []
        self._body_bytes = 0

    # --- asyncio ------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take a new connection."""
        self._transport = cast("asyncio.Transport", transport)
        self._connections.add(self)
        self._record.connect()

    def connection_lost(self, exc: Exception | None) -> None:
        """Note that the client is gone, and whether it left in the middle of an answer."""
        if self._player is not None:
            self._player.stop()
            self._note(self._player, aborted=True)
            self._player = None
        self._pending.clear()
        self._connections.discard(self)
        self._record.disconnect()

    def data_received(self, data: bytes) -> None:
        """Feed the parser; what is no HTTP is answered with 400 and the end."""
        if self._over:
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserCallbackError:
            raise
        except httptools.HttpParserUpgrade:
            # Answered already as the plain request that it also is; what follows is not HTTP.
            self._over = True
            self._transport.close()
        except httptools.HttpParserError:
            self._turn_away(reject(400, "The request is not HTTP/1.1 as this server speaks it."))

    def pause_writing(self) -> None:
        """The client reads slower than we write."""
        self._record.pause()
        if self._player is not None:
            self._player.pause()

    def resume_writing(self) -> None:
        """The client has caught up."""
        if self._player is not None:
            self._player.resume()

    def cut(self) -> None:
        """Drop the connection as a crash would: RST, in the middle of whatever runs."""
        reset(self._transport)

    # --- httptools ----------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        """Forget the last request."""
        self._url = b""
        self._headers = {}
        self._body = []
        self._body_bytes = 0

    def on_url(self, url: bytes) -> None:
        """Take a part of the URL: a read may end inside it."""
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header."""
        self._headers[name.lower()] = value

    def on_headers_complete(self) -> None:
        """Tell a client that asks first to send its body."""
        if self._headers.get(b"expect", b"").lower() == b"100-continue":
            self._transport.write(_CONTINUE)

    def on_body(self, body: bytes) -> None:
        """Take a part of the body."""
        self._body_bytes += len(body)
        if self._body_bytes <= BODY_BYTES_MAX:
            self._body.append(body)

    def on_message_complete(self) -> None:
        """Answer a whole request, or put it behind the one that is being answered."""
        if self._over:
            return
        if self._body_bytes > BODY_BYTES_MAX:
            self._turn_away(reject(413))
            return
        request = MockRequest(
            method=self._parser.get_method().decode("ascii"),
            path=self._url.partition(b"?")[0].decode("latin-1"),
            headers=self._headers,
            body=b"".join(self._body),
            chunked=self._parser.get_http_version() != "1.0",
        )
        keep_alive = self._parser.should_keep_alive()
        if self._player is None:
            self._answer(request, keep_alive=keep_alive)
        elif len(self._pending) < PIPELINED_MAX:
            self._pending.append((request, keep_alive))
        else:
            self.cut()

    # --- one answer ---------------------------------------------------------------------------

    def _answer(self, request: MockRequest, *, keep_alive: bool) -> None:
        reply = self._service.reply(request)
        self._keep_alive = keep_alive
        self._play(reply)

    def _play(self, reply: MockReply) -> None:
        called = reply.served is not None
        self._served = reply.served
        self._end = reply.plan.end
        self._player = Player(
            self._transport,
            reply.plan,
            interval_s=self._options.interval_ms / 1000 if called else 0.0,
            on_end=self._ended,
        )
        self._player.start(self._options.ttft_ms / 1000 if called else 0.0)

    def _ended(self, player: Player) -> None:
        self._note(player, aborted=False)
        self._player = None
        self._over = self._end is not End.KEEP or not self._keep_alive
        if self._end is End.KEEP and not self._keep_alive:
            self._transport.close()
        elif self._pending and not self._over:
            request, keep_alive = self._pending.popleft()
            self._answer(request, keep_alive=keep_alive)

    def _note(self, player: Player, *, aborted: bool) -> None:
        if self._served is None:
            return
        self._served.completion_tokens = player.tokens
        self._served.at_event = player.frames
        self._served.aborted = aborted
        self._record.end(self._served)
        self._served = None

    def _turn_away(self, answer: MockAnswer) -> None:
        """Answer what is no request, and close: nobody knows where the next one would begin."""
        if self._over:
            return
        self._over = True
        self._record.reject()
        plan: AnswerPlan = lay_out(answer, Style(server=self._options.name))
        for wire, _tokens in ((plan.head, 0), *plan.frames):
            self._transport.write(wire)
        self._transport.close()
