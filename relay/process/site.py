"""A listener of aiohttp's on a socket that is there, in the clear or over TLS, within bounds.

aiohttp itself waits for a head or a body as long as anybody likes, and for any number of them. Here
a connection has until IDLE_S for its next request and BODY_S for a body, looked at once a second;
and there are CONNECTIONS_MAX at most: one more takes the place of whoever has been idle for
longest, or is turned away where nobody is. Over TLS as many again may be about to agree on one.
"""

import asyncio
import socket
import ssl
from collections.abc import Coroutine
from typing import Any, Final

from aiohttp import web

from relay.clock import clock_s, until_beat_s
from relay.tls import Handshakes, ListenerTls, TlsFiles

LOOK_S: Final = 1.0
"""How often connections are looked at, and the files of its certificate."""
HANDSHAKE_S: Final = 5.0
IDLE_S: Final = 60.0
BODY_S: Final = 30.0
CONNECTIONS_MAX: Final = 400
"""With another listener's in the same process within the 1,024 files that most systems allow."""

RUNNER: Final[dict[str, Any]] = {"auto_decompress": False}
"""How runners of such a listener are made: nobody has to send it what is encoded, and 20 KB may
become 20 MB before any bound on a body is looked at."""

_Seen = tuple[web.BaseRequest | None, int, float]
"""What a connection was last seen to be about, after how many requests, and since when."""


async def serve_site(
    runner: web.AppRunner, sock: socket.socket, files: TlsFiles | None
) -> Coroutine[Any, Any, None]:
    """Listen, and return the work that keeps its connections and its certificate, for ever.

    Raises:
        ConfigError: RELAY; the files are not there, or no good.
    """
    handshakes = Handshakes(CONNECTIONS_MAX, _refuse_handshake)
    tls = None if files is None else ListenerTls(files, handshakes)
    assert runner.server is not None
    visitors = Visitors(runner.server)
    await _BoundedSite(runner, sock, visitors, tls).start()
    return _look_forever(visitors, tls)


async def _look_forever(visitors: "Visitors", tls: ListenerTls | None) -> None:
    while True:
        await asyncio.sleep(until_beat_s(LOOK_S))
        visitors.look(clock_s())
        if tls is not None:
            tls.refresh()


class Visitors:
    """The connections of a listener.

    Args:
        server: aiohttp's, which has them.
    """

    def __init__(self, server: web.Server) -> None:
        self._server = server
        self._since: dict[web.RequestHandler, _Seen] = {}

    def __call__(self) -> asyncio.Protocol:
        """Return who speaks to a new connection."""
        here = [one for one in self._server.connections if _is_open(one)]
        if len(here) >= CONNECTIONS_MAX and not self._let_one_go(here):
            return _Full()
        return self._server()

    def look(self, now_s: float) -> None:
        """Cut whoever did not do his part in time."""
        seen: dict[web.RequestHandler, _Seen] = {}
        for one in self._server.connections:
            request, count = _standing(one)
            before = self._since.get(one)
            since_s = now_s
            if before is not None and before[0] is request and before[1] == count:
                since_s = before[2]
            seen[one] = request, count, since_s
            if request is None:
                late = now_s - since_s > IDLE_S
            else:
                late = now_s - since_s > BODY_S and not request.content.is_eof()
            if late and one.transport is not None:
                one.transport.abort()
        self._since = seen

    def _let_one_go(self, here: list[web.RequestHandler]) -> bool:
        """Cut whoever has been idle for longest; False: nobody is."""
        idle = [one for one in here if _standing(one)[0] is None]
        if not idle:
            return False
        # Who was not looked at yet has just come.
        oldest = min(idle, key=lambda one: self._since.get(one, (None, 0, clock_s()))[2])
        assert oldest.transport is not None
        oldest.transport.abort()
        return True


class _BoundedSite(web.SockSite):
    """aiohttp's site, with bounds on who comes."""

    def __init__(
        self,
        runner: web.AppRunner,
        sock: socket.socket,
        visitors: Visitors,
        tls: ListenerTls | None,
    ) -> None:
        super().__init__(runner, sock, ssl_context=tls.context if tls else None)
        self._visitors = visitors
        self._listens_on = sock
        self._tls = tls

    async def start(self) -> None:
        """Listen."""
        await web.BaseSite.start(self)
        self._server = await asyncio.get_running_loop().create_server(
            self._visitors,
            sock=self._listens_on,
            ssl=self._tls.context if self._tls else None,
            ssl_handshake_timeout=HANDSHAKE_S if self._tls else None,
            backlog=self._backlog,
        )


def _refuse_handshake() -> None:
    """Turn one more away, which its listener takes for a handshake that failed."""
    raise ssl.SSLError("too many handshakes at once")


class _Full(asyncio.Protocol):
    """Turns a connection away."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Drop it."""
        transport.close()


def _is_open(one: web.RequestHandler) -> bool:
    return one.transport is not None and not one.transport.is_closing()


def _standing(one: web.RequestHandler) -> tuple[web.BaseRequest | None, int]:
    """Return the request that a connection is about, None between two, and how many it had."""
    return one._current_request, one._request_count  # noqa: SLF001 - it tells nobody
