"""One client connection: a leaner loop of requests around aiohttp's low-level handler and C parser.

aiohttp's own request loop makes two tasks, a writer, a request and a response object for each
call, and logs and echoes raw bytes when parsing fails. Here answers go straight to the transport,
and no byte of a request can reach a log or an error body.

A request that one read brought whole is served at once, within that read's callback. A task serves
what has to wait for anything but its answer, and ends when nothing is left for it; what parses is
put away with it. So an open stream is a call, and neither a task nor a parser.

Where a connection stands is its phase (edge.phase), which `_move` alone changes. It sets with it
until when the client has to do its part, `deadline_s`; a sweep once a second acts on that, so that
no request needs a timer.
"""

import asyncio
import math
from typing import TYPE_CHECKING, Final, cast

from aiohttp.streams import StreamReader

from relay.clock import clock_s
from relay.config import Timeouts
from relay.edge.body import drop_rest, read_paced, take_whole
from relay.edge.head import ParsedHead, survey
from relay.edge.head_cache import HeadCache, remember
from relay.edge.parser import RequestParser
from relay.edge.phase import (
    ANSWERING,
    CARRIED,
    CLOSING,
    FRESH,
    GONE,
    HEAD,
    QUEUED,
    RECEIVING,
    RESTING,
    RUNNING,
    illegal_move,
    may_move,
)
from relay.edge.ports import ServicePort
from relay.edge.socket import ClientSocket
from relay.errors import BadRequest, RequestTimeout
from relay.flow.attempts.attempt import Attempt
from relay.flow.call import Call, CallOwner
from relay.flow.request import RequestHead

if TYPE_CHECKING:
    from relay.edge.server import ConnectionServer

EARLY_BYTES_MAX: Final = 256 * 1024
"""Of requests that come before the last one was answered."""

FIRST_REQUEST_S: Final = 2.0
"""How long a connection that has asked nothing yet is kept while draining."""


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
        "_body",
        "_body_bytes_max",
        "_early",
        "_head",
        "_head_cache",
        "_left",
        "_owed_bytes",
        "_parsing",
        "_phase",
        "_server",
        "_service",
        "_task",
        "_timeouts",
        "deadline_s",
    )

    def __init__(
        self,
        server: "ConnectionServer",
        service: ServicePort,
        timeouts: Timeouts,
        body_bytes_max: int,
    ) -> None:
        super().__init__()
        self._phase = FRESH
        self._server = server
        self._service = service
        self._timeouts = timeouts
        self._body_bytes_max = body_bytes_max
        self._parsing: RequestParser | None = None
        self._task: asyncio.Task[None] | None = None
        """The loop of requests, while it runs."""
        self._body: StreamReader | None = None
        """What a request's body comes in, while RECEIVING."""
        self._owed_bytes = 0
        """What the parser still waits for; 0 = it is between requests, below 0 = nobody knows."""
        self._head = b""
        """The head of the request that the loop begins with, where one read brought it whole."""
        self._head_cache: HeadCache | None = None
        self._left: tuple[Call, Attempt | None] | None = None
        """A call that is CARRIED by a task which has not begun, and the attempt that failed."""
        self._early = b""
        """What came while a call was RUNNING or CARRIED."""
        self.deadline_s = math.inf

    # --- asyncio's and the sweep's side --------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin: the first head is due.

        The loop has set TCP_NODELAY, and SO_KEEPALIVE comes with the listener's.
        """
        self.take_in(cast("asyncio.Transport", transport))
        self.deadline_s = clock_s() + self._timeouts.head_s
        self._server.open_connection(self)

    def data_received(self, data: bytes) -> None:
        """Take what the client sent: what becomes of it depends on the phase."""
        phase = self._phase
        if phase < QUEUED:
            self._take_request(data)
        elif phase < RUNNING:
            self._feed(data)
        elif phase < CLOSING:
            self._keep_early(data)

    def _take_request(self, data: bytes) -> None:
        """Serve a request that begins as the last one did; leave all others to the parser."""
        begins = not self._owed_bytes
        if begins and self._head_cache is not None:
            body = self._head_cache.body_of(data, self._body_bytes_max)
            if body is not None:
                self._serve_at_once(self._head_cache.request_head, body)
                return
        parsing = self._parsing
        if parsing is None:
            parsing = self._parsing = RequestParser(self._server, self.transport)
        parsing.data_received(data)
        self._see_request(parsing, data, begins=begins)

    def _feed(self, data: bytes) -> None:
        """Give more to the parser, while a task serves what came before."""
        assert self._parsing is not None
        self._parsing.data_received(data)
        if self._owed_bytes >= 0:
            self._owed_bytes -= len(data)  # below 0: a further request has begun

    def _keep_early(self, data: bytes) -> None:
        self._early += data
        if len(self._early) > EARLY_BYTES_MAX and self.transport is not None:
            self.transport.pause_reading()

    def eof_received(self) -> bool:
        """Let the transport close."""
        return False

    def connection_lost(self, exc: BaseException | None) -> None:
        """The client is gone: its upstream is dropped now, its task is cancelled next."""
        self._move(GONE)
        if self._left is not None and self._left[1] is None:
            self._service.desert(self._left[0])
        self.let_out()
        self._server.forget_connection(self)
        if self._parsing is not None:
            self._parsing.transport = None
        if self._task is not None:
            self._task.cancel()

    def close(self) -> None:
        """Take no more; close when what was written is out."""
        if self._phase < CLOSING:
            self._move(CLOSING)
        self.hang_up()

    def expire(self) -> None:
        """The client did not do its part in time."""
        self.deadline_s = math.inf
        if self._body is not None:
            self._body.set_exception(
                RequestTimeout("The request body did not arrive in time."),
            )
        elif not self.serving:
            self.cut()

    def retire(self) -> None:
        """Close after the answer that is due (draining); now where none is.

        A client that has just connected cannot know of the end: its first request may be on its
        way, and gets an answer. So does one that has sent a part of a request.
        """
        self.keeps_alive = False
        if self.awaited:
            self.deadline_s = min(self.deadline_s, clock_s() + FIRST_REQUEST_S)
        else:
            self.close()

    @property
    def awaited(self) -> bool:
        """Whether an answer is due, or a first request may be on its way."""
        return self._phase != RESTING and self._phase < CLOSING

    @property
    def serving(self) -> bool:
        """Whether a request is being served."""
        return RECEIVING <= self._phase < CLOSING

    @property
    def phase(self) -> int:
        """Where it stands (edge.phase)."""
        return self._phase

    def _move(self, phase: int) -> None:
        """Go to another phase; the one place that changes it, and the deadline with it.

        Raises:
            AssertionError: `phase` does not follow the one it is in: a bug of ours.
        """
        if not may_move(self._phase, phase):
            raise illegal_move(self._phase, phase)
        self._phase = phase
        if phase == RESTING:
            self.deadline_s = clock_s() + self._timeouts.idle_s
        elif phase == HEAD:
            self.deadline_s = clock_s() + self._timeouts.head_s
        else:
            self.deadline_s = math.inf

    def _has_requests(self) -> bool:
        """Tell whether a request was parsed that nobody serves yet."""
        return self._parsing is not None and self._parsing.waiting > 0

    # --- requests served at once (flow.call.CallOwner) --------------------------------------------

    def over(self, call: Call) -> None:
        """The answer is out: rest until the next request."""
        self._service.let_go(call)
        self._rest()

    def broken(self, attempt: Attempt) -> None:
        """An attempt failed: the loop goes on from there."""
        self.leave_to_loop(attempt.call, attempt)

    def leave_to_loop(self, call: Call, failed: Attempt | None) -> None:
        """Have a loop go on with a call that no task waits for."""
        assert self._task is None
        if self._phase < CLOSING:  # else it is settled all the same
            self._move(CARRIED)
        self._left = (call, failed)
        self._start_task()

    def _serve_at_once(self, request_head: RequestHead, body: bytes) -> None:
        self._move(RUNNING)
        if not self._service.serve_at_once(self, request_head, body):
            self._rest()

    def _see_request(self, parsing: RequestParser, data: bytes, *, begins: bool) -> None:
        """See whether a request has come, while none is served: one that is whole is, at once.

        `begins`: it is the first thing in `data`, so that where it ends can be told.
        """
        self._owed_bytes, self._head = -1, b""
        waiting = parsing.waiting
        if not waiting:
            if self._phase != HEAD:
                # A head that is not whole with its first bytes has a deadline from then on.
                self._move(HEAD)
            return
        message, payload = parsing.first()
        if begins and waiting == 1 and message is not None:
            self._owed_bytes, self._head = survey(message, data)
        if message is not None and not self._owed_bytes and payload.is_eof():
            self._serve_whole(message, payload)
        else:
            self._move(QUEUED)
            self._start_task()

    def _serve_whole(self, message: ParsedHead, payload: StreamReader) -> None:
        head, self._head = self._head, b""
        self._parsing = None
        self._move(RUNNING)
        self._note(message)
        request_head, running = self._service.serve_whole(self, message, payload)
        self._head_cache = (
            remember(head, request_head) if head and request_head is not None else None
        )
        if not running:
            self._rest()

    def _note(self, message: ParsedHead) -> None:
        """Note what a head says of its connection."""
        self.keeps_alive = self.keeps_alive and not message.should_close
        self.takes_chunks = message.version >= (1, 1)

    def _rest(self) -> None:
        """Wait for the next request, or go on with what came of it already."""
        if self._phase >= CLOSING or not self.keeps_alive:
            self.close()
            return
        self._move(RESTING)
        if self._has_requests():
            self._move(QUEUED)
            self._start_task()
        if self._early and self.transport is not None:
            early, self._early = self._early, b""
            self.transport.resume_reading()
            self.data_received(early)

    # --- the task, where something has to be waited for ------------------------------------------

    def _start_task(self) -> None:
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._serve())

    async def _serve(self) -> None:
        """Serve what could not be served at once, until nothing is left or one side had enough."""
        running = False
        try:
            if self._left is not None:
                (call, failed), self._left = self._left, None
                running = await self._service.go_on(self, call, failed)
            else:
                while self._wants_next(running=running):
                    running = await self._serve_parsed()
        except BaseException:
            self.keeps_alive = False
            raise
        finally:
            self._task = None
            if not self._owed_bytes and not self._has_requests():
                self._parsing = None
            if not running:
                self._rest()
            elif self._phase < CLOSING:
                self._move(RUNNING)

    def _wants_next(self, *, running: bool) -> bool:
        """Tell whether the task has one more request to serve."""
        if running or not self.keeps_alive or self._phase >= CLOSING:
            return False
        return self._has_requests()

    async def _serve_parsed(self) -> bool:
        """Serve one request that was parsed; return whether its answer runs on without us."""
        assert self._parsing is not None
        message, payload = self._parsing.take()
        if message is None:
            # The parser's own words quote the request; ours do not.
            self._service.refuse(self, BadRequest("The request is not valid HTTP/1.1."))
            return False
        head, self._head = self._head, b""
        self._move(ANSWERING)
        self._note(message)
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

    async def read_body(self, payload: StreamReader, bytes_max: int) -> bytes:
        """Return the whole body.

        Raises:
            TooLarge: CLIENT; it is over `bytes_max`.
            RequestTimeout: CLIENT; it did not come in time.
            BadRequest: CLIENT; it broke off or its framing is wrong.
        """
        if payload.is_eof():
            return take_whole(payload, bytes_max)
        self._body = payload
        self._move(RECEIVING)
        try:
            return await read_paced(payload, bytes_max, self._timeouts, self._expect_by)
        finally:
            self._body = None
            if self._phase < CLOSING:
                self._move(ANSWERING)

    def _expect_by(self, deadline_s: float) -> None:
        self.deadline_s = deadline_s
