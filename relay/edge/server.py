"""The data plane of one worker behind its listener, whose connections and descriptors it counts.

`DataServer` is all that the process around it knows: give it a catalog, a socket, and time to
drain.
"""

import asyncio
import contextlib
import logging
import math
import resource
import socket
from collections.abc import Callable
from email.utils import formatdate
from itertools import islice
from typing import Final, cast

from aiohttp import web

from relay.clock import clock_s, until_beat_s
from relay.config import Config
from relay.edge.client.arrivals import Arrivals
from relay.edge.client.connection import ClientConnection
from relay.edge.client.proxied import ProxiedConnection
from relay.edge.door import Door
from relay.edge.overload.screen import Screen
from relay.edge.question import AT_ONCE_BYTES_MAX
from relay.edge.service import Service
from relay.errors import ShuttingDown
from relay.flow.counters import Counters
from relay.flow.engine import Engine
from relay.flow.request import RequestHead
from relay.model import Snapshot
from relay.tls import Handshakes, ListenerTls
from relay.upstream.descriptors import few_left
from relay.upstream.pool import UpstreamPool
from relay.wire.client_ip import is_within, read_networks
from relay.wire.http import renew_date

log = logging.getLogger("relay.edge")

SWEEP_S: Final = 1.0
EXPIRED_A_TURN: Final = 64
EXPIRY_PAUSE_S: Final = 0.02
"""So 3,200 a second: a cut connection takes some 30 us, and others' streams wait for it."""
POLL_S: Final = 0.05
IDLE_LOOKS_MAX: Final = 64
"""Of the longest open connections, that one is looked for among which nobody needs now."""
FILES_KEPT: Final = 64
"""Descriptors that clients and upstreams leave to the journal, the databases and the like."""
HANDSHAKES_MAX: Final = 4_096
"""TLS handshakes at once: some 200 MB. As many clients as that come back together."""
LAST_WORDS_S: Final = 1.0
"""After the drain deadline: time for error events to reach their clients."""


class ConnectionServer(web.Server):
    """aiohttp's low-level server, making our connections; it knows those that are open.

    `on_full`: told that there is no room for another one. `upstreams`: tells how many connections
    to upstreams are open; with those of clients they are at most `files_max`.
    """

    def __init__(self, config: Config, service: Service, counters: Counters, door: Door) -> None:
        super().__init__(_unused, handler_cancellation=True)
        self._config = config
        self._service = service
        self._counters = counters
        self._door = door
        self.connections_max = config.server.connections_max
        self.files_max = 2 * config.server.connections_max
        self.on_full: Callable[[], None] = _nothing
        self.upstreams: Callable[[], int] = _none
        self.arrivals, self.first_arrivals = door.arrivals, Arrivals()
        """Who waits where too many come at once; who is of a dedicated line, among its own."""
        self.open: dict[ClientConnection, None] = {}
        """In the order in which they came."""

    def __call__(self) -> ClientConnection:  # type: ignore[override]  # it stands for their handler
        """Make the protocol object of a new connection."""
        config = self._config
        at_once = min(config.server.body_bytes_max, AT_ONCE_BYTES_MAX)
        return ClientConnection(self, self._service, config.timeouts, at_once)

    def open_connection(self, connection: ClientConnection) -> None:
        """Count a connection; over the limit an idle one has to go, else the newest."""
        self._door.enter(connection)
        self.open[connection] = None
        self._counters.connections = len(self.open)
        if len(self.open) <= self.connections_max:
            if len(self.open) + self.upstreams() >= self.files_max:
                self.on_full()  # it is served, but the next ones wait
            return
        idle = next((c for c in islice(self.open, IDLE_LOOKS_MAX) if c.idle), connection)
        if idle is not connection:
            idle.cut()
        else:
            connection.cut()
            self.on_full()

    def goes_first(self, request_head: RequestHead) -> bool:
        """Tell whether a request goes before those of others, as far as its head says."""
        return self._door.goes_first(request_head)

    def judge(self, read: bytes, *, last: bool) -> tuple[bytes, bool] | None:
        """Look at what a client sent, unparsed; see edge.door.Door."""
        return self._door.judge(read, last=last)

    @property
    def has_room(self) -> bool:
        """Whether one more may come."""
        files = len(self.open) + self.upstreams()
        return len(self.open) < self.connections_max and files < self.files_max

    def forget_connection(self, connection: ClientConnection) -> None:
        """Forget a connection."""
        self._door.leave(connection)
        self.open.pop(connection, None)
        self._counters.connections = len(self.open)


class DataServer:
    """The data plane of a worker behind its listener; process.composition composes it.

    Args:
        config: The whole of relay.toml.
        counters: What is counted.
        engine: What calls run through.
        pool: The connections to upstreams.
        service: Serves requests of clients.
        door: What addresses may do.
    """

    def __init__(
        self,
        config: Config,
        counters: Counters,
        engine: Engine,
        pool: UpstreamPool,
        service: Service,
        door: Door,
    ) -> None:
        self._config = config
        self.counters = counters
        self.engine = engine
        self.pool = pool
        self._service = service
        self._door = door
        self._connections = ConnectionServer(config, service, counters, door)
        self._connections.on_full = self._stop_accepting
        self._connections.upstreams = self._count_upstreams
        self._trusted = read_networks(config.server.trusted_proxies)
        self._handshakes = Handshakes(HANDSHAKES_MAX, self._stop_accepting)
        files = config.tls.relay
        self._tls = ListenerTls(files, self._handshakes) if files else None
        self._socket: socket.socket | None = None
        self._listener: asyncio.Server | None = None
        self._queue: socket.socket | None = None
        """The copy of it that connections are taken from; detached where the loop has given up."""
        is_trusted = self._is_trusted if config.server.proxy_protocol else None
        self._screen = Screen(door.judge, self._make_seen, is_trusted)
        """Takes the listener's place in overload."""
        door.on_gate = self._turn_gate
        self._opening: asyncio.Task[None] | None = None
        self._sweeper: asyncio.TimerHandle | None = None

    def swap(self, snapshot: Snapshot) -> None:
        """Serve by `snapshot` from now on; calls whose key is no longer good end now."""
        if self.engine.moves_channels(snapshot):
            self.pool.forget_heads()
        self._door.swap(snapshot)
        self.engine.swap(snapshot)
        if self._service.sessions:
            self._service.sessions.revoke_where(self.engine.is_revoked)

    async def start(self, sock: socket.socket) -> None:
        """Listen on `sock`, which is bound already."""
        loop = asyncio.get_running_loop()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)  # its connections inherit it
        files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        wanted = self._config.server.connections_max
        self._connections.connections_max = allowed = connections_allowed(wanted, files)
        self._door.calls_max = allowed
        self._connections.files_max = max(2, files - FILES_KEPT)
        if allowed < wanted:
            log.warning(
                "the limit of open files allows fewer connections than connections_max",
                extra={"count": allowed},
            )
        self._socket = sock
        self._door.shutter.watch(sock)
        renew_date(formatdate(usegmt=True))
        await self._accept()
        self.engine.running_calls.start()
        self._sweeper = loop.call_later(until_beat_s(SWEEP_S), self._sweep)

    async def _accept(self) -> None:
        """Take connections from the socket's queue; a copy of it is closed to stop that."""
        assert self._socket is not None
        self._queue = self._socket.dup()
        proxied = self._config.server.proxy_protocol
        self._listener = await asyncio.get_running_loop().create_server(
            self._make_proxied
            if proxied
            else cast("Callable[[], asyncio.Protocol]", self._connections),
            sock=self._queue,
            backlog=self._config.server.backlog,
            ssl=self._tls.context if self._tls else None,
            ssl_handshake_timeout=self._config.timeouts.head_s if self._tls else None,
        )

    def _is_trusted(self, ip: str) -> bool:
        return is_within(ip, self._trusted)

    def _make_proxied(self) -> ProxiedConnection:
        return ProxiedConnection(self._connections, self._is_trusted)

    def _make_seen(self, let_in: bool) -> asyncio.Protocol:  # noqa: FBT001
        """Make the protocol of a connection whose first bytes were read."""

        def make() -> ClientConnection:
            connection = self._connections()
            connection.let_in = let_in
            return connection

        if self._config.server.proxy_protocol:
            return ProxiedConnection(make, self._is_trusted)
        return cast("asyncio.Protocol", make())

    def _turn_gate(self, shut: bool) -> None:  # noqa: FBT001
        """Have who dials answered by the cheap door in overload, by the loop else."""
        self._connections.arrivals.strict = self._connections.first_arrivals.strict = shut
        taking = self._listener is not None or self._screen.is_open
        if taking and self._tls is None and shut != self._screen.is_open:
            self._stop_accepting()
            self._accept_again()

    def _stop_accepting(self) -> None:
        """Leave who comes in the socket's queue until one of those here has gone."""
        self._screen.close()
        if self._listener is not None:
            self._listener.close()
            self._listener = self._queue = None

    def _accept_again(self) -> None:
        """Take connections again where there is room for some."""
        if self._listener is not None or self._socket is None or self._screen.is_open:
            return
        idle = self._opening is None or self._opening.done()
        room = self._connections.has_room and not self._handshakes.are_full
        if not idle or not room or few_left():
            return
        if self._door.gate.shut and self._tls is None:
            self._screen.open(self._socket)
        else:
            self._opening = asyncio.get_running_loop().create_task(self._reopen())

    def _look_at_files(self) -> None:
        """Stop accepting where descriptors run short, and let go of those that nobody uses.

        A loop that cannot accept drops who waits, or gives its listener up for good: both are seen
        here, a second later at most.
        """
        unused = not self._connections.open and not self.pool.open_count
        short = few_left(1) if unused else few_left()  # others have used up what is short then
        if short or not self._connections.has_room:
            self.pool.close_idle(math.inf)
        if short:
            self._stop_accepting()
        elif self._queue is not None and self._queue.fileno() < 0:
            self._listener = None

    def _count_upstreams(self) -> int:
        return self.pool.open_count

    async def _reopen(self) -> None:
        with contextlib.suppress(OSError):  # no descriptor is free: it is tried again in a second
            await self._accept()

    async def drain(self, deadline_s: float) -> None:
        """Take no new connection, let running calls end, then end what is left.

        Args:
            deadline_s: Seconds that running calls have.
        """
        loop = asyncio.get_running_loop()
        if self._opening is not None:
            self._opening.cancel()
        if self._listener is not None or self._screen.is_open:
            await asyncio.sleep(POLL_S)  # who queues in the kernel has connected: take them in
        self._stop_accepting()
        await self._screen.settle()
        self._door.shutter.stop()
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        for connection in list(self._connections.open):
            connection.retire()
        self._service.sessions.retire()
        until_s = loop.time() + deadline_s
        while self._awaits_clients() and loop.time() < until_s:  # noqa: ASYNC110
            # Polling costs a call nothing. An event would cost every call, for one drain.
            await asyncio.sleep(POLL_S)
        if self.engine.end_all(ShuttingDown("The relay is restarting; try again.")):
            await asyncio.sleep(LAST_WORDS_S)
        await self.engine.background.close(max(0.0, until_s - loop.time()))
        for connection in list(self._connections.open):
            if connection.serving:
                connection.cut()
            else:
                connection.close()  # lets its last answer out
        if self._sweeper is not None:
            self._sweeper.cancel()
        self.engine.running_calls.stop()
        self.pool.close()

    def _awaits_clients(self) -> bool:
        """Tell whether a call runs, or a client that just connected may be about to ask."""
        return self.counters.inflight > 0 or any(c.awaited for c in self._connections.open)

    def _expire(self, late: list[ClientConnection]) -> None:
        """End those that are late, a few in each turn: thousands may have come together."""
        now_s = clock_s()
        for connection in late[:EXPIRED_A_TURN]:
            if connection.deadline_s < now_s:  # it may have done its part meanwhile
                connection.expire()
        rest = late[EXPIRED_A_TURN:]
        if rest:
            asyncio.get_running_loop().call_later(EXPIRY_PAUSE_S, self._expire, rest)

    def _sweep(self) -> None:
        """Act on client deadlines and idle upstream connections, once a second."""
        loop = asyncio.get_running_loop()
        self._sweeper = loop.call_later(until_beat_s(SWEEP_S), self._sweep)
        renew_date(formatdate(usegmt=True))
        if self._tls is not None:
            self._tls.refresh()
        now_s = clock_s()
        self._expire([one for one in self._connections.open if one.deadline_s < now_s])
        self._screen.sweep()
        if self._listener is not None and self._door.gate.shut:
            self._turn_gate(shut=True)  # the listener was just being opened
        self._look_at_files()
        self._accept_again()
        self._service.sessions.sweep()
        self.pool.close_idle(now_s)


def connections_allowed(wanted: int, files: int) -> int:
    """Return how many clients may be connected where `files` may be open: each may need two.

    Source: RLIMIT_NOFILE in getrlimit(2); a call takes its client's socket and its upstream's.
    """
    return max(1, min(wanted, (files - FILES_KEPT) // 2))


def _nothing() -> None:
    """Stand where nobody listens."""


def _none() -> int:
    """Stand where nobody counts."""
    return 0


async def _unused(request: web.BaseRequest) -> web.StreamResponse:
    """Stand where aiohttp wants a handler; ClientConnection.start never calls it."""
    raise AssertionError("requests are served by edge.service")
