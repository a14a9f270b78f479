"""The pool of upstream connections: idle ones kept per server, new ones dialled with TLS verified.

A connection belongs to an origin (scheme, host, port), not to a channel: several channels of one
provider share its sockets, since the credential goes with each request. The last one used is
taken first, so that surplus ones fall idle and are closed before the server closes them.
"""

import asyncio
import math
import socket
import ssl
from collections import deque
from typing import Any, Final
from urllib.parse import urlsplit

from relay.clock import clock_s
from relay.config import Timeouts
from relay.errors import ConnectFailed, RelayError, Unavailable
from relay.model import Channel
from relay.ports import Connections
from relay.reach import Egress
from relay.records import Endpoint
from relay.upstream.addresses import AddressBook, connect_any
from relay.upstream.certificates import certificate_fault
from relay.upstream.connection import UpstreamConnection
from relay.upstream.descriptors import OUR_SHORTAGES, few_left
from relay.upstream.dns import Resolver
from relay.upstream.egress import make_context, pass_proxy, proxy_address
from relay.upstream.tls import TlsPlace, TlsTransport, open_tls
from relay.wire.http import request_head

Origin = tuple[str, str, int, Egress | None]
"""(scheme, host, port, the way out; None = the plain one)"""

SPARE_S: Final = 0.01
"""What the loop takes to close what was idle."""
PEER_SILENT_MS: Final = 60_000
"""TCP_USER_TIMEOUT: a peer that acknowledges nothing for this long is gone."""
PEER_ASKED_S: Final = 30
"""TCP_KEEPIDLE: a peer that is silent is asked for an acknowledgement this often. So one that
vanished is found in a minute or so while a model may think for many, and no NAT forgets it."""


class UpstreamPool(Connections):
    """All upstream connections of one worker."""

    def __init__(
        self,
        timeouts: Timeouts,
        tls: ssl.SSLContext | None = None,
        resolver: Resolver | None = None,
    ) -> None:
        self._timeouts = timeouts
        self._tls = tls
        self._resolver = resolver or Resolver()
        self._addresses = AddressBook()
        self._tls_place = TlsPlace()
        self._idle: dict[Origin, deque[UpstreamConnection]] = {}
        self._open: dict[UpstreamConnection, Origin] = {}
        # Bound once: a method bound for each connection is 64 bytes of it.
        self._on_idle, self._on_closed = self._keep, self._forget
        self._origins: dict[str, Origin] = {}
        self._ways: dict[tuple[str, Egress], Origin] = {}
        self._contexts: dict[Egress, ssl.SSLContext] = {}
        self._heads: dict[tuple[int, int, str, str, str], bytes] = {}

    def __repr__(self) -> str:
        idle = sum(len(queue) for queue in self._idle.values())
        return f"<UpstreamPool {len(self._open)} open, {idle} idle>"

    @property
    def open_count(self) -> int:
        """Connections open, in use or idle."""
        return len(self._open)

    def head(self, channel: Channel, endpoint: Endpoint, query: str, model: str) -> bytes:
        """Return the prepared head for a channel's endpoint, and a model where paths name it."""
        key = (channel.id, channel.version, endpoint, query, model)
        head = self._heads.get(key)
        if head is None:
            head = self._heads[key] = request_head(channel, endpoint, query, model)
        return head

    def forget_heads(self) -> None:
        """Drop prepared heads: the catalog changed, and with it perhaps credentials."""
        self._heads.clear()
        self._origins.clear()
        self._ways.clear()
        self._contexts.clear()

    def take(self, channel: Channel) -> UpstreamConnection | None:
        """Return an idle connection to the channel's server, None if there is none."""
        queue = self._idle.get(self._origin(channel))
        while queue:
            connection = queue.pop()
            if connection.usable:
                return connection
        return None

    async def dial(self, channel: Channel) -> UpstreamConnection:
        """Make a new connection to the channel's server.

        Raises:
            ConnectFailed: NETWORK; refused, unresolved, TLS not verified, or too slow.
            Unavailable: RELAY; this process can open nothing more: no fault of the channel's.
        """
        origin = self._origin(channel)
        try:
            async with asyncio.timeout(self._timeouts.connect_s):
                made = await self._connect_or_spare(origin)
        except TimeoutError:
            raise ConnectFailed("The upstream did not take a connection in time.") from None
        except OSError as error:
            raise _failure(error) from None
        self._open[made] = origin
        return made

    async def _connect_or_spare(self, origin: Origin) -> UpstreamConnection:
        """Connect; where no descriptor is left for it, those of idle connections are taken.

        Raises:
            OSError: It did not come to a connection.
        """
        try:
            return await self._connect(origin)
        except OSError as error:
            if not (_is_ours(error) and any(self._idle.values())):
                raise
            self.close_idle(math.inf)
        await asyncio.sleep(SPARE_S)
        return await self._connect(origin)

    async def _connect(self, origin: Origin) -> UpstreamConnection:
        """Connect to the first address that takes a connection and speaks TLS, where that is due.

        Raises:
            OSError: There is none.
        """
        scheme, host, port, egress = origin
        loop, book = asyncio.get_running_loop(), self._addresses
        proxied = egress if egress is not None and egress.proxy else None
        near, near_port = (host, port) if proxied is None else proxy_address(proxied)
        left = book.order(await self._resolver.resolve(near), loop.time())
        failure: OSError | None = None
        while True:
            try:
                sock, address = await connect_any(left, near_port)
            except OSError:
                if failure is None:
                    raise
                raise failure from None  # what an address said that could be reached
            book.note_lost(left[: left.index(address)], loop.time())
            try:
                # One that takes connections and then is silent must not use up all the time.
                share_s = self._timeouts.connect_s / 2 if len(left) > 1 else None
                async with asyncio.timeout(share_s):
                    if proxied is not None:
                        await pass_proxy(sock, proxied, host, port)
                    made = await self._speak_over(sock, origin, self._tls_for(scheme, egress))
            except ssl.SSLCertVerificationError:
                raise
            except OSError as error:
                failure = failure or error
                book.note_lost([address], loop.time())
                left.remove(address)
                if not left:
                    raise failure from None
            else:
                book.note_good(address)
                return made

    async def _speak_over(
        self, sock: socket.socket, origin: Origin, context: ssl.SSLContext | None
    ) -> UpstreamConnection:
        connection = UpstreamConnection(self._on_idle, self._on_closed)
        # By its methods asyncio's protocol, if not by its class.
        protocol: Any = connection
        over: TlsTransport | None = None
        try:
            tune_socket(sock)
            if context is not None:
                over = TlsTransport(self._tls_place, origin, context, origin[1], protocol)
        except BaseException:
            sock.close()
            raise
        try:
            if over is not None:
                await open_tls(over, sock)
            else:
                loop = asyncio.get_running_loop()
                await loop.create_connection(lambda: protocol, sock=sock)
        except BaseException:
            connection.let_go()
            raise
        return connection

    def close_idle(self, now_s: float) -> None:
        """Close connections that were idle too long (called once a second or so)."""
        before_s = now_s - self._timeouts.pool_idle_s
        for queue in self._idle.values():
            while queue and (queue[0].idle_since_s < before_s or not queue[0].usable):
                queue.popleft().abort()

    def close(self) -> None:
        """Drop every connection."""
        for connection in list(self._open):
            connection.abort()
        self._idle.clear()

    def _keep(self, connection: UpstreamConnection) -> None:
        origin = self._open.get(connection)
        if origin is None:
            connection.abort()
            return
        connection.idle_since_s = clock_s()
        queue = self._idle.get(origin)
        if queue is None:
            queue = self._idle[origin] = deque()
        queue.append(connection)

    def _forget(self, connection: UpstreamConnection) -> None:
        self._open.pop(connection, None)

    def _context(self) -> ssl.SSLContext:
        """Return the context that verifies upstreams; made when the first one needs it (55 ms)."""
        if self._tls is None:
            self._tls = ssl.create_default_context()
        return self._tls

    def _tls_for(self, scheme: str, egress: Egress | None) -> ssl.SSLContext | None:
        if scheme != "https":
            return None
        if egress is None or not (egress.ca_file or egress.cert_file):
            return self._context()
        context = self._contexts.get(egress)
        if context is None:
            context = self._contexts[egress] = make_context(egress)
        return context

    def _origin(self, channel: Channel) -> Origin:
        reach = channel.reach
        if reach is not None and reach.egress is not None:
            return self._way(channel, reach.egress)
        origin = self._origins.get(channel.base_url)
        if origin is None:
            origin = self._origins[channel.base_url] = _origin_of(channel.base_url, None)
        return origin

    def _way(self, channel: Channel, egress: Egress) -> Origin:
        key = (channel.base_url, egress)
        origin = self._ways.get(key)
        if origin is None:
            origin = self._ways[key] = _origin_of(channel.base_url, egress)
        return origin


def _origin_of(base_url: str, egress: Egress | None) -> Origin:
    url = urlsplit(base_url)
    assert url.hostname is not None, "the catalog takes no base URL without a host"
    port = url.port or (443 if url.scheme == "https" else 80)
    return url.scheme, url.hostname, port, egress


def _is_ours(error: OSError) -> bool:
    """Tell whether a connection was not made for want of something of our own."""
    return error.errno in OUR_SHORTAGES or few_left()


def _failure(error: OSError) -> RelayError:
    """Return what a call is told of a connection that was not made.

    The system's text names addresses; the client has no use for those.
    """
    if _is_ours(error):
        return Unavailable("The relay is overloaded; try again.", retry_after_s=1.0)
    if isinstance(error, ssl.SSLCertVerificationError):
        return certificate_fault(error)
    if isinstance(error, ssl.SSLError):
        return ConnectFailed("The upstream did not agree to speak TLS.")
    return ConnectFailed("The upstream could not be reached.")


def tune_socket(sock: socket.socket) -> None:
    """Have the kernel find out about peers that vanished without a word."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, PEER_SILENT_MS)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, PEER_ASKED_S)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, PEER_ASKED_S // 3)
