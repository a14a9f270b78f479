"""The requests of one connection, one after the other: parsed, kept until their turn, served.

A request that one read brought whole is served at once, within that read's callback. A task serves
one that has to wait for anything but its answer, and ends with it; what parses is put away with it.
So an open stream is a call, and neither a task nor a parser.

One request is served at a time, and one a turn of the loop: of what a client sends ahead the parser
gets a small piece whenever the request before is answered, and no more while the client has not
taken its answers. What waits is bounded; a client that sends more ahead of an answer is cut, since
a connection that is not read cannot show that its client has left.
"""

import asyncio
from typing import TYPE_CHECKING, Final

from aiohttp.streams import StreamReader

from relay.config import Timeouts
from relay.edge.client.arrivals import REQUEST_BYTES
from relay.edge.client.body import TakeBytes, drop_rest, read_paced, take_whole
from relay.edge.client.early import EarlyBytes
from relay.edge.client.head import HEAD_BYTES_MAX, survey
from relay.edge.client.head_cache import HeadCache, remember
from relay.edge.client.parser import RequestParser
from relay.edge.client.phase import (
    ANSWERING,
    CARRIED,
    CLOSING,
    HEAD,
    HELD,
    QUEUED,
    RECEIVING,
    RESTING,
    RUNNING,
)
from relay.edge.client.socket import EARLY_HOLDS, PARSER_HOLDS, ClientSocket
from relay.edge.ports import ServicePort
from relay.errors import HeadTooLarge, RelayError
from relay.flow.call import Call, CallOwner

if TYPE_CHECKING:
    from relay.edge.server import ConnectionServer

PIECE_BYTES_MAX: Final = 16 * 1024
"""What the parser gets at once where nobody knows how long the request is."""


class RequestLoop(ClientSocket, CallOwner):
    """Serves what is parsed of a connection, in its turn.

    Args:
        server: aiohttp's server object; ours keeps the set of connections.
        service: Answers the requests.
        timeouts: How long a client may take for what.
    """

    __slots__ = (
        "_arrivals",
        "_body_bytes",
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
        self, server: "ConnectionServer", service: ServicePort, timeouts: Timeouts
    ) -> None:
        super().__init__(timeouts)
        self._server = server
        self._service = service
        self._arrivals = server.arrivals
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

    # --- what comes before its turn -------------------------------------------------------------

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

    def take_rest(self) -> bytes:
        """Return all that has come behind the request that is served."""
        return self._piece(1 << 30) if self._early is not None else b""

    def _put_back(self, rest: bytes) -> None:
        """Keep what came with a request but is behind it."""
        if self._early is None:
            self._early = EarlyBytes()
        self._early.put_back(rest)

    # --- requests that are parsed ---------------------------------------------------------------

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
        if waiting > 1:
            self._arrivals.count(waiting - 1)
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
        self.linger()

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
        parsing = self._parsing
        if parsing is not None and self._owed_bytes == 0 and not parsing.waiting:
            parsing.let_go()
            self._parsing = None

    # --- turns ----------------------------------------------------------------------------------

    def _rest(self) -> None:
        """Wait for the next request; where it has come already, for its turn."""
        if self._phase >= CLOSING:
            return
        if not self.keeps_alive:
            self.close()
            return
        self._move(RESTING)
        if self._early is not None or self._has_requests():
            self._move(HELD)
            if not self._writing_paused:
                self._arrivals.wait_ahead(self._take_turn)

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

    def _has_requests(self) -> bool:
        """Tell whether a request was parsed that nobody serves yet."""
        return self._parsing is not None and self._parsing.waiting > 0

    # --- the end of a call (flow.call.CallOwner) ------------------------------------------------

    def over(self, call: Call) -> None:
        """The answer is out: rest until the next request."""
        self._service.let_go(call)
        self._rest()

    def fell(self, call: Call, error: Exception) -> None:
        """The call ended in an error, of which nothing is told yet."""
        self._service.guard(call, self, error)

    # --- the task, where something has to be waited for -----------------------------------------

    def leave_to_loop(self, call: Call) -> None:
        """Have a task carry out a call for which something has to be waited."""
        assert self._task is None
        if self._phase < CLOSING:  # else it is settled all the same
            self._move(CARRIED)
        self._left = call
        self._start_task()

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
            if payload.exception() is not None and not running:
                self.linger()  # what is behind it cannot be told apart any more
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
            body = await read_paced(payload, bytes_max, self._timeouts, self._expect_by, take)
        finally:
            if self._phase < CLOSING:
                self._move(ANSWERING)
        arrivals = self._arrivals
        if len(body) >= REQUEST_BYTES and arrivals.crowded(len(body)):
            await arrivals.turn()
        return body

    def _expect_by(self, deadline_s: float) -> None:
        self.deadline_s = deadline_s
