"""The cheap door: who dials in overload is answered before a connection is made of it.

    listening socket --> first bytes --> not let in: one prepared answer, and the end
                              |
                              +--> let in, or not plainly a call: a connection as ever, handed
                                   the bytes that were read

A loop takes one connection a turn of its listener; what it makes of one costs more than to refuse
it. So in overload the listener is closed, and the socket watched by an epoll of our own, with those
who have dialled and not asked: all of them are one callback of the loop. Behind the PROXY protocol
a balancer's header is read first. Not for TLS: there a no has to be encrypted, so those who dial
take the usual way, and their requests are looked at behind it.
"""

import asyncio
import contextlib
import os
import select
import socket
import struct
from collections.abc import Callable
from typing import Final, NamedTuple, Protocol, cast

from relay.clock import clock_s
from relay.edge.client.body import LINGER_S
from relay.wire.proxy_protocol import read_header

A_TURN: Final = 256
"""So much is done before others have their turn: 10 ms where nothing is compiled."""
MADE_COSTS: Final = 8
"""A connection that is made counts as so many that are refused."""
READ_BYTES: Final = 65_536
GUESTS_MAX: Final = 1_024
"""Who has dialled and not asked, or was refused and still sends; beyond it the oldest has to go."""
SILENT_S: Final = 0.5
"""Who asks nothing for so long gets a connection as ever, which has a deadline of its own."""
WAITED_S_MAX: Final = 0.03
"""Whose request has waited in the kernel for longer is refused: those who dialled later, and all
that are behind it in the queue, have more patience left. The first one of a turn tells it."""
_INFO_BYTES: Final = 104
_LAST_DATA_AT: Final = 52
_LAST_DATA: Final = struct.Struct("I")
"""Of struct tcp_info: tcpi_last_data_recv, milliseconds. Source: linux/tcp.h."""
REST_S: Final = 0.1
"""For how long nobody is taken where there are no descriptors."""


class Judge(Protocol):
    """Looks at what may be a request; see edge.door.Door.judge."""

    def __call__(self, read: bytes, *, last: bool, late: bool) -> tuple[bytes, bool] | None:
        """Return the no, b"" for none, and whether more is to come; None: it is not plain."""
        ...


class Made(asyncio.Protocol):
    """Stands for a connection until its transport is there; then it gets what was read of it."""

    def __init__(self, protocol: asyncio.Protocol, first: bytes) -> None:
        self._protocol = protocol
        self._first = first

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Step aside."""
        cast("asyncio.Transport", transport).set_protocol(self._protocol)
        self._protocol.connection_made(transport)
        if self._first:
            self._protocol.data_received(self._first)


class _Accepting(Protocol):
    def _accept(self) -> tuple[int, tuple[str, int]]:
        """Do as `accept`, but make no object of what was taken: that costs as much as to refuse."""
        ...


class _Guest(NamedTuple):
    sock: socket.socket
    until_s: float
    header: bytes
    """What a balancer said of it."""
    refused: bool


class Screen:
    """The cheap door of one listening socket.

    Args:
        judge: See there.
        make: Makes the protocol of a connection; `let_in`: it was judged.
        is_trusted: Whether an address is a balancer's; None: there is no PROXY protocol.
    """

    def __init__(
        self,
        judge: Judge,
        make: Callable[[bool], asyncio.Protocol],
        is_trusted: Callable[[str], bool] | None,
    ) -> None:
        self._judge = judge
        self._make = make
        self._is_trusted = is_trusted
        self._socket: socket.socket | None = None
        self._poll: select.epoll | None = None
        self._guests: dict[int, _Guest] = {}
        """By descriptor, in the order in which they came."""
        self._making: set[asyncio.Task[object]] = set()
        self._spent = 0
        self._late = False
        """Who is taken now has waited for too long."""

    @property
    def is_open(self) -> bool:
        """Whether it takes who dials."""
        return self._poll is not None

    def open(self, sock: socket.socket) -> None:
        """Take who dials at a listening socket from now on; nobody else may."""
        sock.settimeout(0)  # another process may take from it as well
        self._socket = sock
        self._poll = select.epoll()
        self._poll.register(sock, select.EPOLLIN)
        asyncio.get_running_loop().add_reader(self._poll.fileno(), self._turn)

    def close(self) -> None:
        """Take nobody any more; who is here gets a connection as ever."""
        if self._poll is None:
            return
        asyncio.get_running_loop().remove_reader(self._poll.fileno())
        self._poll.close()
        self._poll = self._socket = None
        guests, self._guests = self._guests, {}
        for guest in guests.values():
            if guest.refused:
                guest.sock.close()
            else:
                self._hand_over(guest.sock, guest.header, let_in=False)

    async def settle(self) -> None:
        """Wait until all that are to be connections are some."""
        if self._making:
            await asyncio.wait(self._making)

    def sweep(self) -> None:
        """Let go of those whose time is over; called every so often."""
        now_s = clock_s()
        for guest in [one for one in self._guests.values() if one.until_s < now_s]:
            self._dismiss(guest)

    # --- one turn of the loop ---------------------------------------------------------------------

    def _turn(self) -> None:
        """Answer who has asked, then take who dials, as far as a turn goes."""
        poll, listener = self._poll, self._socket
        if poll is None or listener is None:
            return
        self._spent = 0
        self._late = dialled = False
        for number, _ in poll.poll(0, A_TURN):
            guest = self._guests.get(number)
            if guest is None:
                dialled = True
            else:
                self._hear(guest)
        while dialled and self._spent < A_TURN and self._poll is not None:
            try:
                number, peer = cast("_Accepting", listener)._accept()  # noqa: SLF001
            except BlockingIOError:
                break
            except ConnectionError:
                continue
            except OSError:  # no descriptor is free
                poll.unregister(listener)
                asyncio.get_running_loop().call_later(REST_S, self._watch_again, poll)
                return
            if not self._spent:
                self._late = _waited_s(number) > WAITED_S_MAX
            self._take(number, peer)
        self._late = False

    def _watch_again(self, poll: select.epoll) -> None:
        if self._poll is poll and self._socket is not None:
            poll.register(self._socket, select.EPOLLIN)

    def _take(self, number: int, peer: tuple[str, int]) -> None:
        """Take who has dialled: most of them are refused without an object made of their socket."""
        self._spent += 1
        if self._is_trusted is not None and not self._is_trusted(peer[0]):
            os.close(number)
            return
        os.set_blocking(number, False)
        try:
            read = os.read(number, READ_BYTES)
        except BlockingIOError:
            self._keep(_Guest(_socket_of(number), clock_s() + SILENT_S, b"", refused=False))
            return
        except OSError:
            read = b""
        if not read:
            os.close(number)
            return
        if self._is_trusted is None:
            judged = self._judge(read, last=True, late=self._late)
            if judged is not None and judged[0] and not judged[1]:
                with contextlib.suppress(OSError):  # its client has gone
                    os.write(number, judged[0])
                os.close(number)
                return
            self._answer(_socket_of(number), read, judged)
            return
        self._see(_socket_of(number), read)

    def _hear(self, guest: _Guest) -> None:
        self._spent += 1
        if not guest.refused:
            self._forget(guest.sock)
            self._read(guest.sock, guest.header)
            return
        try:
            said = guest.sock.recv(READ_BYTES, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return
        except OSError:
            said = b""
        if not said:
            self._dismiss(guest)

    def _read(self, sock: socket.socket, before: bytes) -> None:
        try:
            read = sock.recv(READ_BYTES, socket.MSG_DONTWAIT)
        except BlockingIOError:
            self._keep(_Guest(sock, clock_s() + SILENT_S, before, refused=False))
            return
        except OSError:
            read = b""
        if not read:
            sock.close()
            return
        self._see(sock, before + read)

    def _see(self, sock: socket.socket, read: bytes) -> None:
        """Answer a first read, or have a connection made for it."""
        asked = read
        if self._is_trusted is not None:
            try:
                header = read_header(read)
            except ValueError:
                sock.close()
                return
            asked = read[header.length :] if header is not None else b""
            if not asked:
                self._keep(_Guest(sock, clock_s() + SILENT_S, read, refused=False))
                return
        self._answer(sock, read, self._judge(asked, last=True, late=self._late))

    def _answer(self, sock: socket.socket, read: bytes, judged: tuple[bytes, bool] | None) -> None:
        if judged is None or not judged[0]:
            self._hand_over(sock, read, let_in=judged is not None)
            return
        answer, owed = judged
        with contextlib.suppress(OSError):  # its client has gone
            sock.send(answer, socket.MSG_DONTWAIT)
            if owed:
                # Closed at once, its client would be reset, and never see why.
                sock.shutdown(socket.SHUT_WR)
                self._keep(_Guest(sock, clock_s() + LINGER_S, b"", refused=True))
                return
        sock.close()

    # --- who stays --------------------------------------------------------------------------------

    def _keep(self, guest: _Guest) -> None:
        assert self._poll is not None
        if len(self._guests) >= GUESTS_MAX:
            self._dismiss(next(iter(self._guests.values())))
        self._guests[guest.sock.fileno()] = guest
        self._poll.register(guest.sock, select.EPOLLIN)

    def _forget(self, sock: socket.socket) -> None:
        assert self._poll is not None
        del self._guests[sock.fileno()]
        self._poll.unregister(sock)

    def _dismiss(self, guest: _Guest) -> None:
        self._forget(guest.sock)
        if guest.refused:
            guest.sock.close()
        else:
            self._hand_over(guest.sock, guest.header, let_in=False)

    def _hand_over(self, sock: socket.socket, first: bytes, *, let_in: bool) -> None:
        """Make a connection of it."""
        self._spent += MADE_COSTS
        sock.settimeout(0)
        loop = asyncio.get_running_loop()
        making = loop.create_task(self._connect(sock, Made(self._make(let_in), first)))
        self._making.add(making)
        making.add_done_callback(self._making.discard)

    @staticmethod
    async def _connect(sock: socket.socket, protocol: Made) -> None:
        with contextlib.suppress(OSError):  # its client has gone
            await asyncio.get_running_loop().connect_accepted_socket(lambda: protocol, sock)


def _socket_of(number: int) -> socket.socket:
    """Return what stands for a descriptor from now on."""
    return socket.socket(fileno=number)


def _waited_s(number: int) -> float:
    """Return how long ago a client has sent something, seconds; 0 where the kernel does not say."""
    sock = _socket_of(number)
    try:
        told = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _INFO_BYTES)
        return float(_LAST_DATA.unpack_from(told, _LAST_DATA_AT)[0]) / 1_000
    except (OSError, struct.error):
        return 0.0
    finally:
        sock.detach()
