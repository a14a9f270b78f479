"""One client connection: a leaner loop of requests around aiohttp's low-level handler and C parser.

aiohttp's own request loop makes two tasks, a writer, a request and a response object for each
call, and logs and echoes raw bytes when parsing fails. Here answers go straight to the transport,
and no byte of a request can reach a log or an error body.

A request that one read brought whole is served at once, within that read's callback. A task serves
one that has to wait for anything but its answer, and ends with it; what parses is put away with it.
So an open stream is a call, and neither a task nor a parser.

One request is served at a time, and one a turn of the loop: of what a client sends ahead the parser
gets a small piece whenever the request before is answered, and no more while the client has not
taken its answers. What waits is bounded; a client that sends more ahead of an answer is cut, since
a connection that is not read cannot show that its client has left.

Where a connection stands is its phase (edge.client.phase). Until when the client has to do its part
is set with it; a sweep once a second acts on that, so that no request needs a timer.
"""

import asyncio
import math
from typing import TYPE_CHECKING, Final, cast

from aiohttp.streams import StreamReader

from relay.clock import clock_s
from relay.config import Timeouts
from relay.edge.client.body import TakeBytes, drop_rest, read_paced, take_whole
from relay.edge.client.early import EarlyBytes
from relay.edge.client.head import HEAD_BYTES_MAX, survey
from relay.edge.client.head_cache import HeadCache, remember
from relay.edge.client.parser import RequestParser
from relay.edge.client.phase import (
    ANSWERING,
    CARRIED,
    CLOSING,
    GONE,
    HEAD,
    HELD,
    QUEUED,
    RECEIVING,
    RESTING,
    RUNNING,
)
from relay.edge.client.socket import EARLY_HOLDS, PARSER_HOLDS, ClientSocket
from relay.edge.ports import ServicePort
from relay.errors import HeadTooLarge, RelayError, RequestTimeout
from relay.flow.call import Call, CallOwner
from relay.flow.request import RequestHead

if TYPE_CHECKING:
    from relay.edge.server import ConnectionServer

PIECE_BYTES_MAX: Final = 16 * 1024
"""What the parser gets at once where nobody knows how long the request is."""


class ClientConnection(ClientSocket, CallOwner):
    """A client's connection.

    It is what asyncio calls a Protocol. It does not derive from it, so that it can be compiled
    (relay.compiled); uvloop goes by the methods.

    Args:
        server: aiohttp's server object; ours keeps the set of connections.
        service: Answers the requests.
        timeouts: How long a client may take for what.
        body_bytes_max: Of a request that may be served at once.
    """

    __slots__ = (
        "_body_bytes",
        "_body_bytes_max",
        "_early",
        "_head",
        "_head_bytes",
        "_head_cache",
        "_left",
        "_owed_bytes",
        "_parsing",
        "_payload",
        "_server",
        "_service",
        "_task",
    )

    def __init__(
        self,
        server: "ConnectionServer",
        service: ServicePort,
        timeouts: Timeouts,
        body_bytes_max: int,
    ) -> None:
        super().__init__(timeouts)
        self._server = server
        self._service = service
        self._body_bytes_max = body_bytes_max
        self._parsing: RequestParser | None = None
        self._task: asyncio.Task[None] | None = None
        """Serves one request, or carries a call on."""
        self._payload: StreamReader | None = None
        """What the body of that request comes in."""
        self._owed_bytes = 0
        """What the parser still waits for; 0 = it is between requests, below 0 = nobody knows."""
        self._head = b""
        """The head of a request that waits for the task, where one read brought it whole."""
        self._head_bytes = 0
        """What has come of a head that is not whole, or since a body in chunks last grew."""
        self._body_bytes = 0
        """What a body in chunks had grown to by then."""
        self._head_cache: HeadCache | None = None
        self._left: Call | None = None
        """A call that is CARRIED by a task which has not begun."""
        self._early: EarlyBytes | None = None
        """What came before its turn, where anything did."""

    # --- asyncio's and the sweep's side --------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin: the first head is due.

        The loop has set TCP_NODELAY, and SO_KEEPALIVE comes with the listener's.
        """
        self.take_in(cast("asyncio.Transport", transport))
        self._server.open_connection(self)

    def data_received(self, data: bytes) -> None:
        """Take what the client sent: what becomes of it depends on the phase."""
        if self._phase < HELD and self._early is None and not self._writing_paused:
            if self._head_cache is not None and not self._owed_bytes:
                body = self._head_cache.body_of(data, self._body_bytes_max)
                if body is not None:
                    self._serve_at_once(self._head_cache.request_head, body)
                    return
            if len(data) <= PIECE_BYTES_MAX:
                self._parse(data)
                return
        elif self._early is None and self._body_is_open():
            self._feed(data)
            return
        elif self._phase >= CLOSING:
            return
        self._keep(data)
        if self._phase < HELD or self._body_is_open():
            self._take_early()

    def _keep(self, data: bytes) -> None:
        """Keep what came before its turn, within bounds."""
        if self._early is None:
            self._early = EarlyBytes()
        if self._early.keep(data):
            return
        if self._phase >= QUEUED and not self._body_is_open():
            self.cut()
        else:
            self.hold_reading(EARLY_HOLDS)

    def _take_early(self) -> None:
        """Go on with what came before its turn, as far as it is wanted now."""
        while self._early is not None:
            if self._phase < HELD:
                if self._writing_paused and self._phase != HEAD:
                    self._move(HELD)
                    return
                self._parse(self._piece(PIECE_BYTES_MAX))
            elif self._body_is_open():
                self._feed(
                    self._piece(self._owed_bytes if self._owed_bytes > 0 else PIECE_BYTES_MAX)
                )
            else:
                return

    def _piece(self, bytes_max: int) -> bytes:
        """Take out the next bytes of what came before its turn."""
        early = self._early
        assert early is not None
        piece = early.take(bytes_max)
        if not len(early):
            self._early = None
            self.let_read(EARLY_HOLDS)
        return piece

    def _put_back(self, rest: bytes) -> None:
        """Keep what came with a request but is behind it."""
        if self._early is None:
            self._early = EarlyBytes()
        self._early.put_back(rest)

    def _body_is_open(self) -> bool:
        """Tell whether the request that a task serves has not come whole."""
        if not QUEUED <= self._phase <= ANSWERING or self._payload is None:
            return False
        return self._owed_bytes > 0 or not self._payload.is_eof()

    def _feed(self, data: bytes) -> None:
        """Give more of a body to the parser, and nothing that is behind it."""
        parsing, owed = self._parsing, self._owed_bytes
        assert parsing is not None
        if owed > 0:
            if len(data) > owed:
                self._put_back(data[owed:])
                data = data[:owed]
            self._owed_bytes = owed - len(data)
            parsing.data_received(data)
            return
        parsing.data_received(data)
        payload = self._payload
        if payload is None or payload.total_bytes != self._body_bytes:
            self._body_bytes = payload.total_bytes if payload is not None else 0
            self._head_bytes = 0
        elif not self._read_holds & PARSER_HOLDS:  # else the parser keeps what it is given
            self._head_bytes += len(data)
        if self._head_bytes > HEAD_BYTES_MAX and payload is not None and not payload.is_eof():
            payload.set_exception(HeadTooLarge(f"Over {HEAD_BYTES_MAX} bytes between two chunks."))

    def eof_received(self) -> bool:
        """Let the transport close."""
        return False

    def connection_lost(self, exc: BaseException | None) -> None:
        """The client is gone: its upstream is dropped now, its task is cancelled next."""
        self._move(GONE)
        if self._left is not None:
            self._service.desert(self._left)
        self.let_out()
        self._server.forget_connection(self)
        if self._parsing is not None:
            self._parsing.transport = None
        if self._task is not None:
            self._task.cancel()

    def expire(self) -> None:
        """The client did not do its part in time."""
        self.deadline_s = math.inf
        if self._phase == RECEIVING and self._payload is not None:
            self._payload.set_exception(
                RequestTimeout("The request body did not arrive in time."),
            )
        elif self._phase == HELD and self.unsent_bytes < self._unsent_bytes:
            self._unsent_bytes = self.unsent_bytes
            self.deadline_s = clock_s() + self._timeouts.write_s
        elif not self.serving:
            self.cut()

    def resume_writing(self) -> None:
        """The client has caught up: its next request may be served."""
        super().resume_writing()
        if self._phase == HELD:
            asyncio.get_running_loop().call_soon(self._take_turn)

    def _has_requests(self) -> bool:
        """Tell whether a request was parsed that nobody serves yet."""
        return self._parsing is not None and self._parsing.waiting > 0

    # --- requests served at once (flow.call.CallOwner) --------------------------------------------

    def over(self, call: Call) -> None:
        """The answer is out: rest until the next request."""
        self._service.let_go(call)
        self._rest()

    def fell(self, call: Call, error: Exception) -> None:
        """The call ended in an error, of which nothing is told yet."""
        self._service.guard(call, self, error)

    def leave_to_loop(self, call: Call) -> None:
        """Have a task carry out a call for which something has to be waited."""
        assert self._task is None
        if self._phase < CLOSING:  # else it is settled all the same
            self._move(CARRIED)
        self._left = call
        self._start_task()

    def _serve_at_once(self, request_head: RequestHead, body: bytes) -> None:
        self._move(RUNNING)
        self.bodiless = False
        if not self._service.serve_at_once(self, request_head, body):
            self._rest()

    def _parse(self, piece: bytes) -> None:
        """Give the parser what may begin a request; serve one that came whole."""
        begins = not self._owed_bytes
        parsing = self._parsing
        if parsing is None:
            parsing = self._parsing = RequestParser(self._server, self)
        parsing.data_received(piece)
        self._owed_bytes, self._head = -1, b""
        waiting = parsing.waiting
        if not waiting:
            self._wait_for_head(len(piece))
            return
        message, payload = parsing.first()
        if begins and waiting == 1 and message is not None:
            self._owed_bytes, self._head = survey(message, piece)
            if self._owed_bytes < 0 and message.upgrade and self._head:
                # The parser has stopped behind it, as if another protocol followed.
                self._put_back(piece[self._owed_bytes :])
                self._owed_bytes = 0
        self._see_request(parsing, payload)

    def _wait_for_head(self, size: int) -> None:
        """Wait for the rest of a head, which has a deadline from its first bytes on."""
        if self._phase != HEAD:
            self._move(HEAD)
            self._head_bytes = 0
        self._head_bytes += size
        if self._head_bytes > HEAD_BYTES_MAX:
            self._refuse(HeadTooLarge(f"The head of the request is over {HEAD_BYTES_MAX} bytes."))

    def _see_request(self, parsing: RequestParser, payload: StreamReader) -> None:
        """Serve the first request that was parsed: at once where it is whole, else by a task."""
        error = parsing.fault() if parsing.waiting == 1 else None
        if error is not None:
            self._refuse(error)
            return
        self._payload = parsing.payload = payload
        if not payload.is_eof() and self._early is not None:
            self._move(QUEUED)
            self._take_early()
        if payload.is_eof() and not parsing.encoded:
            self._serve_whole(parsing)
            return
        if self._phase < HELD:
            self._move(QUEUED)
        self._start_task()

    def _refuse(self, error: RelayError) -> None:
        """Answer what is no request, and close."""
        self.keeps_alive = False
        self._service.refuse(self, error)
        self.close()

    def _serve_whole(self, parsing: RequestParser) -> None:
        head, self._head = self._head, b""
        message, payload = parsing.take()
        assert message is not None
        self._put_parser_away()
        self._move(RUNNING)
        self.note(message, loses_rest=self._owed_bytes < 0)
        request_head, running = self._service.serve_whole(self, message, payload)
        self._head_cache = (
            remember(head, request_head) if head and request_head is not None else None
        )
        if not running:
            self._rest()

    def _put_parser_away(self) -> None:
        """Let go of the parser and the body where nothing more may come of them."""
        self._payload = None
        self.let_read(PARSER_HOLDS)
        if self._owed_bytes == 0 and not self._has_requests():
            self._parsing = None

    def _rest(self) -> None:
        """Wait for the next request; where it has come already, for its turn."""
        if self._phase >= CLOSING or not self.keeps_alive:
            self.close()
            return
        self._move(RESTING)
        if self._early is not None or self._has_requests():
            self._move(HELD)
            if not self._writing_paused:
                asyncio.get_running_loop().call_soon(self._take_turn)

    def _take_turn(self) -> None:
        """Go on with what came early, unless its client has answers to take first."""
        if self._phase != HELD or self._writing_paused:
            return
        self._move(RESTING)
        if self._parsing is not None and self._has_requests():
            self._see_request(self._parsing, self._parsing.first()[1])
        else:
            self._take_early()
        if self._phase >= QUEUED:
            self.let_read(EARLY_HOLDS)  # a client that is not read cannot be seen to leave

    # --- the task, where something has to be waited for ------------------------------------------

    def _start_task(self) -> None:
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._serve())

    async def _serve(self) -> None:
        """Serve a request that could not be served at once, or carry a call on."""
        running = False
        try:
            if self._left is not None:
                call, self._left = self._left, None
                running = await self._service.go_on(self, call)
            elif self._phase < CLOSING:
                running = await self._serve_parsed()
        except BaseException:
            self.keeps_alive = False
            raise
        finally:
            self._task = None
            self._put_parser_away()
            if not running:
                self._rest()
            elif self._phase < CLOSING and self._phase != RUNNING:
                self._move(RUNNING)

    async def _serve_parsed(self) -> bool:
        """Serve one request that was parsed; return whether its answer runs on without us."""
        assert self._parsing is not None
        message, payload = self._parsing.take()
        assert message is not None
        head, self._head = self._head, b""
        self._move(ANSWERING)
        self.note(message, loses_rest=self._owed_bytes < 0)
        serving = self._service.serve(self, message, payload)
        del message  # the service drops it as soon as it has read it
        request_head, running = await serving
        self._head_cache = (
            remember(head, request_head) if head and request_head is not None else None
        )
        if not payload.is_eof():
            self.keeps_alive = False
            await drop_rest(payload)
        return running

    async def read_body(self, payload: StreamReader, bytes_max: int, take: TakeBytes) -> bytes:
        """Return the whole body.

        Args:
            payload: What it comes in.
            bytes_max: Beyond it nothing is read.
            take: Told of each piece; raises where there is no room for it.

        Raises:
            TooLarge: CLIENT; it is over `bytes_max`.
            RequestTimeout: CLIENT; it did not come in time.
            BadRequest: CLIENT; it broke off or its framing is wrong.
        """
        if payload.is_eof():
            body = take_whole(payload, bytes_max)
            take(len(body))
            return body
        self._move(RECEIVING)
        try:
            return await read_paced(payload, bytes_max, self._timeouts, self._expect_by, take)
        finally:
            if self._phase < CLOSING:
                self._move(ANSWERING)

    def _expect_by(self, deadline_s: float) -> None:
        self.deadline_s = deadline_s
