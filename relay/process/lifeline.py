"""The one connection between the supervisor and a child: settings down, signs of life up.

It is a pair of SOCK_SEQPACKET sockets, so a message is a packet and needs no framing:

    supervisor -> child    Settings (msgpack), once, and with them the listening socket (SCM_RIGHTS)
    child -> supervisor    READY once; BEAT and the moment, each second; control: RENEW and a slot,
                           at night
    end of file            the other side is gone, however it went

Settings travel this way and not by file or command line: a child runs under exactly the
configuration that was validated, whatever the file says by now, and no secret shows in a process
list. They may come long after the start: a spare child has loaded everything and waits for them.

That the supervisor died is told by the end of file and not by PR_SET_PDEATHSIG: the kernel closes a
socket on every way out, SIGKILL included; a death signal is bound to the *thread* that forked; and
a child that is told instead of killed can still end its streams with an error event.
"""

import asyncio
import contextlib
import signal
import socket
from typing import Final

import msgspec

from relay.clock import clock_s, until_beat_s
from relay.config import Config
from relay.errors import Unavailable

READY: Final = b"ready"
BEAT: Final = b"beat"
"""...and when, in seconds of the monotonic clock: the supervisor hears once a second, of all."""
RENEW: Final = b"renew "
"""...and the name of a slot: its worker is to be followed by a new one."""
BEAT_S: Final = 1.0
ALONE_S: Final = 1.8
"""What a child may still take to end its streams once it is alone: the next supervisor wants its
port within two seconds."""
PACKET_BYTES_MAX: Final = 64 * 1024


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """What a child is told to be. `name`: of its slot, as "worker-0"."""

    name: str
    config: Config
    data_dir: str


def send_settings(sock: socket.socket, settings: Settings, listener: socket.socket | None) -> None:
    """Tell the child at the other end of `sock` what it is, and give it its listening socket.

    Raises:
        OSError: The child is gone.
    """
    packet = msgspec.msgpack.encode(settings)
    assert len(packet) <= PACKET_BYTES_MAX
    socket.send_fds(sock, [packet], [] if listener is None else [listener.fileno()])


def end_within(wait_s: float) -> None:
    """Have the kernel end this process (SIGALRM) unless it has ended by itself in `wait_s`.

    It needs neither the event loop nor a thread. Of two calls, the earlier deadline holds.
    """
    left_s, _ = signal.getitimer(signal.ITIMER_REAL)
    signal.setitimer(signal.ITIMER_REAL, min(left_s or wait_s, wait_s))


class Lifeline:
    """The child's end."""

    def __init__(self, fd: int) -> None:
        self._sock = socket.socket(fileno=fd)

    def receive_settings(self) -> tuple[Settings, socket.socket | None]:
        """Wait to be told what to be; return that, and the socket to listen on, if any.

        Raises:
            Unavailable: RELAY; the supervisor has gone.
        """
        packet, fds, _, _ = socket.recv_fds(self._sock, PACKET_BYTES_MAX, 1)
        if not packet:
            raise Unavailable("the supervisor is gone")
        self._sock.settimeout(0)
        listener = socket.socket(fileno=fds[0]) if fds else None
        return msgspec.msgpack.decode(packet, type=Settings), listener

    def tell_ready(self) -> None:
        """Say that this child can serve."""
        self._send(READY)

    def ask_renewal(self, slot: str) -> None:
        """Ask for a new worker on a slot, beside the one that is there, which then drains."""
        self._send(RENEW + slot.encode())

    async def beat_until_alone(self) -> None:
        """Beat once a second; return when the supervisor is gone."""
        loop = asyncio.get_running_loop()
        gone = asyncio.Event()
        loop.add_reader(self._sock, self._receive, gone)
        try:
            while not gone.is_set():
                self._send(BEAT + b" %.3f" % clock_s())
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(until_beat_s(BEAT_S)):
                        await gone.wait()
        finally:
            loop.remove_reader(self._sock)

    def _receive(self, gone: asyncio.Event) -> None:
        with contextlib.suppress(BlockingIOError):
            try:
                packet = self._sock.recv(PACKET_BYTES_MAX)
            except ConnectionError:
                packet = b""
            if not packet:
                asyncio.get_running_loop().remove_reader(self._sock)
                end_within(ALONE_S)
                gone.set()

    def _send(self, packet: bytes) -> None:
        # A full socket means a supervisor that is stopped, a broken one that it died: neither
        # is a reason for the caller to fail, and the end of file tells the second one.
        with contextlib.suppress(BlockingIOError, ConnectionError):
            self._sock.send(packet)
