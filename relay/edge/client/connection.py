"""One client connection: a leaner loop of requests around aiohttp's low-level handler and C parser.

aiohttp's own request loop makes two tasks, a writer, a request and a response object for each
call, and logs and echoes raw bytes when parsing fails. Here answers go straight to the transport,
and no byte of a request can reach a log or an error body.

A request whose head came before is served without a parser or a task, whether its body came with
it or in many reads. All others go through edge.client.request_loop.

Where a connection stands is its phase (edge.client.phase). Until when the client has to do its part
is set with it; a sweep once a second acts on that, so that no request needs a timer.
"""

import asyncio
import math
from typing import TYPE_CHECKING, cast

from relay.clock import clock_s
from relay.config import Timeouts
from relay.edge.client.arrivals import REQUEST_BYTES, Arrivals
from relay.edge.client.coming_body import ComingBody
from relay.edge.client.head_cache import HeadCache
from relay.edge.client.phase import CLOSING, GONE, HEAD, HELD, QUEUED, RECEIVING, RESTING, RUNNING
from relay.edge.client.request_loop import PIECE_BYTES_MAX, RequestLoop
from relay.edge.ports import ServicePort
from relay.errors import RequestTimeout
from relay.flow.request import RequestHead

if TYPE_CHECKING:
    from relay.edge.server import ConnectionServer


class ClientConnection(RequestLoop):
    """A client's connection.

    It is what asyncio calls a Protocol. It does not derive from it, so that it can be compiled
    (relay.compiled); uvloop goes by the methods.

    Args:
        server: aiohttp's server object; ours keeps the set of connections.
        service: Answers the requests.
        timeouts: How long a client may take for what.
        body_bytes_max: Of a request that may be served at once.
    """

    __slots__ = ("_body_bytes_max", "_coming", "_whole")

    def __init__(
        self,
        server: "ConnectionServer",
        service: ServicePort,
        timeouts: Timeouts,
        body_bytes_max: int,
    ) -> None:
        super().__init__(server, service, timeouts)
        self._body_bytes_max = body_bytes_max
        self._coming: ComingBody | None = None
        """A body that comes in several reads and needs no parser."""
        self._whole: ComingBody | None = None
        """One that is whole and waits for its turn."""

    # --- asyncio's and the sweep's side ---------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin: the first head is due.

        The loop has set TCP_NODELAY, and SO_KEEPALIVE comes with the listener's.
        """
        self.take_in(cast("asyncio.Transport", transport))
        self._server.open_connection(self)

    def data_received(self, data: bytes) -> None:
        """Take what the client sent; a request waits where too many have come at once."""
        if self._arrivals.strict and self._is_turned_away(data):
            return
        if self._phase < HEAD and self._early is None and self._arrivals.crowded(len(data)):
            crowd = self._crowd(len(data))
            if crowd is not None:
                self._keep(data)
                self._move(HELD)
                crowd.wait(self._begin_late)
                return
        self._receive(data)

    def _crowd(self, size: int) -> Arrivals | None:
        """Return among whom a request has to wait, where all wait; None: it goes before them."""
        if self._head_cache is None or not self._server.goes_first(self._head_cache.request_head):
            return self._arrivals
        first = self._server.first_arrivals
        return first if first.crowded(size) else None

    def _begin_late(self) -> None:
        """Begin what had to wait because too many came at once."""
        if self._phase == HELD and self._early is not None and not self._writing_paused:
            self._move(RESTING)
            data = self.take_rest()
            if not self._arrivals.strict or not self._is_turned_away(data):
                self._receive(data)

    def _is_turned_away(self, data: bytes) -> bool:
        """Look at what may be a request before it is parsed, in overload; answer a no at once."""
        if self.let_in or self._phase > RESTING or self._owed_bytes or self._writing_paused:
            return False
        if self._early is not None or self._coming is not None:
            return False
        judged = self._server.judge(data, last=not self.keeps_alive)
        if judged is None:
            return False
        answer, owed = judged
        if not answer:
            self.let_in = True
            return False
        self.write(answer)
        if owed:
            self.linger()
        elif self.keeps_alive and b"\r\nConnection: close\r\n" not in answer:
            self._move(RUNNING)
            self._rest()
        else:
            self.close()
        return True

    def _receive(self, data: bytes) -> None:
        """Take bytes: what becomes of them depends on the phase."""
        if self._coming is not None:
            self._collect(self._coming, data)
            return
        if self._phase < HELD and self._early is None and not self._writing_paused:
            if self._head_cache is not None and not self._owed_bytes:
                body = self._head_cache.body_of(data, self._body_bytes_max)
                if body is not None:
                    self._serve_at_once(self._head_cache.request_head, body)
                    return
                if self._begin_body(self._head_cache, data):
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

    def eof_received(self) -> bool:
        """Let the transport close."""
        return False

    def connection_lost(self, exc: BaseException | None) -> None:
        """The client is gone: its upstream is dropped now, its task is cancelled next."""
        self._move(GONE)
        if self._left is not None:
            self._service.desert(self._left)
        if self._coming is not None:
            self._service.let_go(self._coming.call)
            self._coming = None
        if self._whole is not None:
            self._service.desert(self._whole.call)
            self._whole = None
        self.let_out()
        self._server.forget_connection(self)
        if self._parsing is not None:
            self._parsing.let_go()
            self._parsing = None
        if self._task is not None:
            self._task.cancel()

    def expire(self) -> None:
        """The client did not do its part in time."""
        self.deadline_s = math.inf
        if self._coming is not None:
            self._leave_to_parser(self._coming)
        if RECEIVING >= self._phase >= QUEUED and self._payload is not None:
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
            self._arrivals.wait_ahead(self._take_turn)

    # --- requests whose head came before --------------------------------------------------------

    def _serve_at_once(self, request_head: RequestHead, body: bytes) -> None:
        self._move(RUNNING)
        self.bodiless = False
        if not self._service.serve_at_once(self, request_head, body):
            self._rest()

    def _begin_body(self, head_cache: HeadCache, data: bytes) -> bool:
        """Collect a body whose head came before; False: the parser has to see to it."""
        begin, size = head_cache.coming_body(data, self._body_bytes_max)
        if not begin:
            return False
        call = self._service.begin_body(self, head_cache.request_head)
        if call is None:
            return False
        self._move(RECEIVING)
        self._coming = ComingBody(call, data[:begin], size, self._timeouts)
        self._collect(self._coming, data[begin:])
        return True

    def _collect(self, coming: ComingBody, data: bytes) -> None:
        """Take more of a body; serve its request when it is whole."""
        owed_bytes = coming.owed_bytes
        if len(data) > owed_bytes:
            self._put_back(data[owed_bytes:])
            data = data[:owed_bytes]
        coming.add(data)
        if not self._service.take_more(coming.call, len(data)):
            self._leave_to_parser(coming)
            return
        if coming.owed_bytes:
            self.deadline_s = coming.deadline_s
            return
        self._coming = None
        self._move(RUNNING)
        self.bodiless = False
        if coming.size >= REQUEST_BYTES and self._arrivals.crowded(coming.size):
            crowd = self._crowd(coming.size)
            if crowd is not None:
                self._whole = coming
                crowd.wait(self._serve_late)
                return
        self._serve_whole_body(coming)

    def _serve_late(self) -> None:
        """Serve a body that had to wait because too much came at once."""
        coming, self._whole = self._whole, None
        if coming is not None:
            self._serve_whole_body(coming)

    def _serve_whole_body(self, coming: ComingBody) -> None:
        if not self._service.serve_received(self, coming.call, coming.body()):
            self._rest()

    def _leave_to_parser(self, coming: ComingBody) -> None:
        """Begin the request anew, where the parser and a task see how it is refused and drained."""
        self._coming = None
        self._service.let_go(coming.call)
        self._move(RESTING)
        self._put_back(coming.request())
        self._take_early()
