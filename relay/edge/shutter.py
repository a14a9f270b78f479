"""Addresses whose new connections the kernel drops for a moment, before they cost a worker anything.

    cut so often within a moment --> their SYNs are dropped for SHUT_S --> open again

A connection that is taken and cut costs a worker some 50 us, and whoever tries ten thousand keys a
second dials as often where it is refused. A filter on the listening socket stops that in the
kernel. Connections that are there do not see it: who shows a good key on one is served on. A client
whose SYN was dropped sends it again after a second (RFC 6298, section 2.1). Where a system takes no
such filter all are cut, as before.
"""

import array
import asyncio
import contextlib
import socket
import struct
from typing import Final

from relay.wire.packet_filter import ADDRESSES_MAX, drop_program

CUT_MAX: Final = 16
"""Connections of an address that are taken and cut, since it was open again."""
SHUT_S: Final = 1.0
"""For how long an address is shut out, and what is counted of the others is forgotten."""

_ATTACH_FILTER: Final = 26
_DETACH_FILTER: Final = 27
"""Source: socket(7), SO_ATTACH_FILTER; asm-generic/socket.h."""
_INSTRUCTION_BYTES: Final = 8
_FPROG: Final = struct.Struct("HL")
"""struct sock_fprog: how many instructions, and where they are."""


class Shutter:
    """Shuts addresses out of one listening socket."""

    def __init__(self) -> None:
        self._socket: socket.socket | None = None
        self._cut: dict[str, int] = {}
        """Address -> connections that were cut, since the last look."""
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

    def note_cut(self, key: str) -> None:
        """Note that a connection of an address was cut; shut it out where there were too many.

        `key`: see limits.addresses.address_key.
        """
        if self._socket is None:
            return
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(SHUT_S, self._forget)
        count = self._cut[key] = self._cut.get(key, 0) + 1
        if count == CUT_MAX and len(self._shut) < ADDRESSES_MAX:
            self._shut.add(key)
            with contextlib.suppress(ValueError):  # no address of the Internet
                self._put(drop_program(self._shut))

    def _forget(self) -> None:
        self._timer = None
        self._open()

    def _open(self) -> None:
        self._cut.clear()
        if self._shut:
            self._shut.clear()
            self._put(b"")

    def _put(self, program: bytes) -> None:
        """Put a program on the socket in place of the one there; b"" = none.

        The kernel copies it. What it cannot do, and a socket that is closed already, change nothing.
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
