"""The PROXY protocol, versions 1 and 2: a balancer tells who its client is, before all else.

Source: haproxy.org, "The PROXY protocol", versions 1 & 2.
"""

import ipaddress
from typing import Final, NamedTuple

SIGNATURE: Final = b"\r\n\r\n\x00\r\nQUIT\n"
V1_START: Final = b"PROXY "
V1_BYTES_MAX: Final = 107
V2_HEAD_BYTES: Final = 16
V2_BYTES_MAX: Final = V2_HEAD_BYTES + 2048
"""Addresses take 36 bytes; the rest is what a balancer adds of its own."""
_LOCAL: Final = 0x20
_PROXIED: Final = 0x21
_ADDRESS_BYTES: Final = {0x11: 4, 0x21: 16}
"""By family and transport: TCP over IPv4, and over IPv6."""
_PORTS_BYTES: Final = 4
_V1_WORDS: Final = 6


class ProxyHeader(NamedTuple):
    """What stood before the first byte of the client.

    `address`: the client's; "" where the balancer speaks for itself, or does not know.
    """

    address: str
    length: int


def read_header(data: bytes) -> ProxyHeader | None:
    """Return the header that `data` begins with; None: more has to come.

    Raises:
        ValueError: It does not begin with one.
    """
    if data.startswith(SIGNATURE):
        return _read_v2(data)
    if data.startswith(V1_START):
        return _read_v1(data)
    if SIGNATURE.startswith(data) or V1_START.startswith(data):
        return None
    raise ValueError("no PROXY header")


def _read_v1(data: bytes) -> ProxyHeader | None:
    line, end, _ = data[:V1_BYTES_MAX].partition(b"\r\n")
    if not end:
        if len(data) >= V1_BYTES_MAX:
            raise ValueError("the PROXY line does not end")
        return None
    length = len(line) + len(end)
    words = line.decode("ascii").split(" ")
    if words[1] == "UNKNOWN":
        return ProxyHeader("", length)
    if words[1] not in ("TCP4", "TCP6") or len(words) != _V1_WORDS:
        raise ValueError("not a PROXY line")
    kind = ipaddress.IPv4Address if words[1] == "TCP4" else ipaddress.IPv6Address
    return ProxyHeader(str(kind(words[2])), length)


def _read_v2(data: bytes) -> ProxyHeader | None:
    if len(data) < V2_HEAD_BYTES:
        return None
    command, family = data[12], data[13]
    length = V2_HEAD_BYTES + int.from_bytes(data[14:16], "big")
    if command not in (_LOCAL, _PROXIED) or length > V2_BYTES_MAX:
        raise ValueError("not a PROXY header of version 2")
    if len(data) < length:
        return None
    size = _ADDRESS_BYTES.get(family, 0)
    if command == _LOCAL or not size:
        return ProxyHeader("", length)
    if length < V2_HEAD_BYTES + 2 * size + _PORTS_BYTES:
        raise ValueError("the PROXY header is too short for its addresses")
    packed = data[V2_HEAD_BYTES : V2_HEAD_BYTES + size]
    return ProxyHeader(str(ipaddress.ip_address(packed)), length)
