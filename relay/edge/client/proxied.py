"""A connection that begins with the PROXY protocol: who its client is, from a trusted balancer.

Behind the header the transport is handed to the protocol that serves it, which then knows the
client by the header. Whoever is no trusted balancer, or says something else first, is cut.
"""

import asyncio
from collections.abc import Callable
from typing import Final, cast

from relay.edge.client.connection import ClientConnection
from relay.wire.proxy_protocol import read_header

HEADER_S: Final = 5.0


class ProxiedConnection(asyncio.Protocol):
    """Reads the header, and steps aside.

    Args:
        make: Makes the protocol that serves what follows.
        is_trusted: Tells whether an address is a balancer's.
    """

    def __init__(
        self, make: Callable[[], ClientConnection], is_trusted: Callable[[str], bool]
    ) -> None:
        self._make = make
        self._is_trusted = is_trusted
        self._transport: asyncio.Transport | None = None
        self._held = b""
        self._late: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Wait for the header."""
        self._transport = cast("asyncio.Transport", transport)
        peer = transport.get_extra_info("peername")
        if not self._is_trusted(peer[0] if peer else ""):
            self._transport.abort()
            return
        loop = asyncio.get_running_loop()
        self._late = loop.call_later(HEADER_S, self._transport.abort)

    def data_received(self, data: bytes) -> None:
        """Take the header in; what follows it is the client's."""
        assert self._transport is not None
        self._held += data
        try:
            header = read_header(self._held)
        except ValueError:
            self._transport.abort()
            return
        if header is None:
            return
        if self._late is not None:
            self._late.cancel()
        connection = self._make()
        connection.told_ip = header.address
        self._transport.set_protocol(cast("asyncio.Protocol", connection))
        connection.connection_made(self._transport)
        rest = self._held[header.length :]
        if rest:
            connection.data_received(rest)

    def connection_lost(self, exc: Exception | None) -> None:
        """It went before its header was whole."""
        if self._late is not None:
            self._late.cancel()
