"""Which of an upstream's addresses is asked first, and a connection to the first that takes one.

A name often has several addresses, and one of them dead: a family that leads nowhere, a server
that is gone. So the next one is asked a quarter of a second after the first, not instead of a
failure, and what lost is asked last for a while.

Source: RFC 8305, sections 4 to 6.
"""

import ipaddress
import socket
from collections.abc import Sequence
from typing import Final

import aiohappyeyeballs

NEXT_AFTER_S: Final = 0.25
"""RFC 8305's Connection Attempt Delay."""
LOST_S: Final = 300.0
"""How long an address that lost is asked last: as long as the longest DNS answer is kept."""
LOST_MAX: Final = 1024
"""Addresses remembered; a relay asks a few dozen."""


class AddressBook:
    """What is known of the addresses of all upstreams."""

    def __init__(self) -> None:
        self._lost_until_s: dict[str, float] = {}

    def order(self, addresses: Sequence[str], now_s: float) -> list[str]:
        """Return the addresses in the order to ask them: those that lost lately come last."""
        lost = {address for address in addresses if self._lost_until_s.get(address, 0.0) > now_s}
        return sorted(addresses, key=lost.__contains__)

    def note_lost(self, addresses: Sequence[str], now_s: float) -> None:
        """Note that these were slower than another address, or could not be used."""
        for address in addresses:
            self._lost_until_s[address] = now_s + LOST_S
        if len(self._lost_until_s) > LOST_MAX:
            kept = {name: s for name, s in self._lost_until_s.items() if s > now_s}
            self._lost_until_s = kept if len(kept) <= LOST_MAX else {}

    def note_good(self, address: str) -> None:
        """Note that an address took a connection."""
        self._lost_until_s.pop(address, None)


async def connect_any(addresses: Sequence[str], port: int) -> tuple[socket.socket, str]:
    """Return a connection to the first of some addresses that takes one, and that address.

    Raises:
        OSError: None of them does.
    """
    endpoints = [_endpoint(address, port) for address in addresses]
    try:
        # In the order given: it is by what is known of them, not by their families alone.
        sock = await aiohappyeyeballs.start_connection(
            endpoints, happy_eyeballs_delay=NEXT_AFTER_S, interleave=0
        )
    except RuntimeError as error:  # uvloop's, for some addresses that are none
        raise OSError("no address takes a connection") from error
    return sock, addresses[[one[4][0] for one in endpoints].index(sock.getpeername()[0])]


def _endpoint(
    address: str, port: int
) -> tuple[socket.AddressFamily, socket.SocketKind, int, str, tuple[str | int, ...]]:
    if ":" in address:
        family, where = socket.AF_INET6, (str(ipaddress.ip_address(address)), port, 0, 0)
        return family, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", where
    return socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (address, port)
