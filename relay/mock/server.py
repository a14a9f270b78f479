"""The listening side of the mock: a port that can be closed and opened again while it runs.

    start -> MockServer: port, url, served, state, set_fail(), drop(), until(), close()

Connections are accepted by hand, not by `loop.create_server`, so that a port is closed or open at
the moment `set_fail` returns: tests of a dying channel need no waiting then.
"""

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Callable
from typing import Final

from relay.mock.batches import MockBatches
from relay.mock.faults import REFUSE, parse
from relay.mock.options import BACKLOG, MockOptions
from relay.mock.protocol import MockProtocol
from relay.mock.record import Record, RecordState, ServedRecord
from relay.mock.service import MockService

_ACCEPTED_AT_ONCE_MAX: Final = 64
"""Connections taken in one turn of the loop, so that a storm of them starves no stream."""


async def start(options: MockOptions, host: str = "127.0.0.1", port: int = 0) -> "MockServer":
    """Return a mock that listens; port 0 = any free one.

    Raises:
        OSError: The address is taken, or a TLS or served file cannot be opened.
        ValueError: An unknown fault, or half of a TLS pair.
    """
    for text in options.fail:
        parse(text)
    tls = _tls(options)
    sock = _bind(host, port)
    try:
        server = MockServer(options, sock, tls)
    except OSError:
        sock.close()
        raise
    server.set_fail(*options.fail)
    return server


class MockServer:
    """A running mock; `start` makes it.

    Args:
        options: How it behaves.
        sock: Bound, not listening yet.
        tls: None for plain HTTP.
    """

    def __init__(
        self, options: MockOptions, sock: socket.socket, tls: ssl.SSLContext | None
    ) -> None:
        self._options = options
        self._record = Record(options.name, options.served_path)
        self._service = MockService(options, self._record, self.set_fail)
        self._tls = tls
        self._sock = sock
        self._listening = False
        self._host, self._port = sock.getsockname()[:2]
        self._connections: set[MockProtocol] = set()
        self._accepting: set[asyncio.Task[None]] = set()

    @property
    def port(self) -> int:
        """The port: the same through closing and opening."""
        return int(self._port)

    @property
    def url(self) -> str:
        """The base URL for a client or a channel, without a slash at its end."""
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"{'https' if self._tls else 'http'}://{host}:{self._port}/v1"

    @property
    def served(self) -> list[ServedRecord]:
        """The calls that ended, oldest first."""
        return self._record.served

    @property
    def state(self) -> RecordState:
        """The counters, live: the same object each time."""
        return self._record.state

    @property
    def batches(self) -> MockBatches:
        """The files and batches that it keeps."""
        return self._service.batches

    def set_fail(self, *texts: str) -> None:
        """Put these faults in force for every request to come; none = be well again.

        `refuse` among them closes the port until it is lifted. What runs goes on: see `drop`.

        Raises:
            ValueError: As `faults.parse`; then nothing has changed.
        """
        faults = tuple([parse(text) for text in texts])
        self._service.faults = faults
        self._record.set_fail(texts)
        if any(fault.mode == REFUSE for fault in faults):
            self._shut()
        else:
            self._open()

    def drop(self) -> None:
        """Reset every open connection, as a host that goes down does."""
        for connection in tuple(self._connections):
            connection.cut()

    async def until(self, predicate: Callable[[RecordState], bool]) -> None:
        """Wait until `predicate` holds of the state; the caller brings the deadline."""
        await self._record.until(predicate)

    def clear(self) -> None:
        """Forget the calls that ended."""
        self._record.clear()

    async def close(self) -> None:
        """Close the port and every connection; a second time it does nothing."""
        self._shut()
        self._sock.close()
        for task in tuple(self._accepting):
            task.cancel()
        await asyncio.gather(*self._accepting, return_exceptions=True)
        self.drop()
        await self.until(lambda state: state.open == 0)
        self._record.close()

    def _open(self) -> None:
        if self._listening:
            return
        self._sock.listen(BACKLOG)
        asyncio.get_running_loop().add_reader(self._sock, self._accept)
        self._listening = True

    def _shut(self) -> None:
        """Stop listening, but hold the port by a socket that is bound only."""
        if not self._listening:
            return
        asyncio.get_running_loop().remove_reader(self._sock)
        self._sock.close()
        self._listening = False
        self._sock = _bind(self._host, self._port)

    def _accept(self) -> None:
        for _ in range(_ACCEPTED_AT_ONCE_MAX):
            try:
                sock, _address = self._sock.accept()
            except OSError:
                # Nothing more in the queue, or a client that has left it already.
                return
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            task = asyncio.get_running_loop().create_task(self._take(sock))
            self._accepting.add(task)
            task.add_done_callback(self._accepting.discard)

    async def _take(self, sock: socket.socket) -> None:
        # A handshake that fails is the client's affair: tests of TLS make many.
        with contextlib.suppress(OSError):
            await asyncio.get_running_loop().connect_accepted_socket(
                self._protocol, sock, ssl=self._tls
            )

    def _protocol(self) -> MockProtocol:
        return MockProtocol(self._service, self._record, self._options, self._connections)


def _bind(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.settimeout(0)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((host, port))
    except OSError:
        sock.close()
        raise
    return sock


def _tls(options: MockOptions) -> ssl.SSLContext | None:
    if options.tls_cert is None and options.tls_key is None:
        return None
    if options.tls_cert is None or options.tls_key is None:
        raise ValueError("TLS needs both a certificate and a key")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(options.tls_cert, options.tls_key)
    return context
