"""Addresses whose new connections the kernel drops for a moment, before they cost us anything.

    dials DIALS_MAX times in SHUT_S --> its SYNs are dropped until these are over --> open again

A connection that is taken and let go costs a worker 20 to 50 us, and whoever tries ten thousand
keys a second dials as often where it is not read. A filter on the listening socket stops that in
the kernel. Connections that are there do not see it: who shows a good key on one is served on. A
client whose SYN was dropped sends it again after a second (RFC 6298, section 2.1). Where a system
takes no such filter every connection is taken.
"""

import array
import asyncio
import contextlib
import socket
import struct
from typing import Final

from relay.wire.packet_filter import ADDRESSES_MAX, drop_program

DIALS_MAX: Final = 64
"""New connections of an address in a SHUT_S: as many as one that is refused may have at all."""
SHUT_S: Final = 1.0
"""How long connections are counted; it begins with one, and with its end all are let in again."""

_ATTACH_FILTER: Final = 26
_DETACH_FILTER: Final = 27
"""Source: socket(7), SO_ATTACH_FILTER; asm-generic/socket.h."""
_INSTRUCTION_BYTES: Final = 8
_INFO_BYTES: Final = 104
_WAITING_AT: Final = 24
_WAITING: Final = struct.Struct("I")
"""Of struct tcp_info: for a listening socket tcpi_unacked is how many wait to be accepted.

Source: tcp(7), TCP_INFO; net/ipv4/tcp.c of Linux, tcp_get_info."""
_FPROG: Final = struct.Struct("HL")
"""struct sock_fprog: how many instructions, and where they are."""


class Shutter:
    """Shuts addresses out of one listening socket."""

    def __init__(self) -> None:
        self._socket: socket.socket | None = None
        self._dials: dict[str, int] = {}
        """Address -> its new connections since it was open."""
        self._shut: set[str] = set()
        self._timer: asyncio.TimerHandle | None = None

    def watch(self, listener: socket.socket) -> None:
        """Shut addresses out of this socket from now on; who left it shut before has gone."""
        self._socket = listener
        self._put(b"")

    def stop(self) -> None:
        """Leave the socket open to all."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._open()
        self._socket = None

    def waiting(self) -> int:
        """Return how many connections wait in the kernel to be taken; 0 where it does not say."""
        if self._socket is None:
            return 0
        with contextlib.suppress(OSError, struct.error):
            told = self._socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _INFO_BYTES)
            return int(_WAITING.unpack_from(told, _WAITING_AT)[0])
        return 0

    def note_dial(self, key: str) -> None:
        """Note a new connection of an address that is watched; shut it out where it dials on.

        `key`: see limits.addresses.address_key.
        """
        if self._socket is None:
            return
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(SHUT_S, self._forget)
        count = self._dials[key] = self._dials.get(key, 0) + 1
        if count == DIALS_MAX and len(self._shut) < ADDRESSES_MAX:
            self._shut.add(key)
            with contextlib.suppress(ValueError):  # no address of the Internet
                self._put(drop_program(self._shut))

    def _forget(self) -> None:
        self._timer = None
        self._open()

    def _open(self) -> None:
        self._dials.clear()
        if self._shut:
            self._shut.clear()
            self._put(b"")

    def _put(self, program: bytes) -> None:
        """Put a program on the socket in place of the one there; b"" = none.

        The kernel copies it. Where it can do no such thing, or the socket is closed, all is left.
        """
        if self._socket is None:
            return
        with contextlib.suppress(OSError):
            if not program:
                self._socket.setsockopt(socket.SOL_SOCKET, _DETACH_FILTER, 0)
                return
            held = array.array("B", program)
            told = _FPROG.pack(len(program) // _INSTRUCTION_BYTES, held.buffer_info()[0])
            self._socket.setsockopt(socket.SOL_SOCKET, _ATTACH_FILTER, told)
