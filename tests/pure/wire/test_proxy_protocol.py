"""Goal: the PROXY protocol is read exactly, in any pieces, and nothing else passes for it.

Method: headers written by hand as its text shows them, cut at every byte, damaged, and any bytes.
"""

import ipaddress
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.wire.proxy_protocol import SIGNATURE, read_header

REST = b"GET / HTTP/1.1\r\n\r\n"


def v2(command: int, family: int, body: bytes) -> bytes:
    return SIGNATURE + struct.pack("!BBH", command, family, len(body)) + body


def addresses(source: str, target: str) -> bytes:
    packed = ipaddress.ip_address(source).packed + ipaddress.ip_address(target).packed
    return packed + struct.pack("!HH", 50_000, 443)


GOOD = [
    (b"PROXY TCP4 203.0.113.7 192.0.2.1 50000 443\r\n", "203.0.113.7"),
    (b"PROXY TCP6 2001:db8::7 2001:db8::1 50000 443\r\n", "2001:db8::7"),
    (b"PROXY UNKNOWN\r\n", ""),
    (b"PROXY UNKNOWN ffff::1 ffff::2 1 2\r\n", ""),
    (v2(0x21, 0x11, addresses("203.0.113.7", "192.0.2.1")), "203.0.113.7"),
    (v2(0x21, 0x21, addresses("2001:db8::7", "2001:db8::1")), "2001:db8::7"),
    (v2(0x21, 0x11, addresses("203.0.113.7", "192.0.2.1") + b"\x04\x00\x00"), "203.0.113.7"),
    (v2(0x20, 0x00, b""), ""),
    (v2(0x21, 0x00, b""), ""),
    (v2(0x21, 0x31, bytes(216)), ""),
]
BAD = [
    REST,
    b"\x16\x03\x01\x02\x00",
    b"PROXY TCP4 nowhere 192.0.2.1 1 2\r\n",
    b"PROXY TCP4 2001:db8::7 192.0.2.1 1 2\r\n",
    b"PROXY TCP4 203.0.113.7\r\n",
    b"PROXY UDP4 203.0.113.7 192.0.2.1 1 2\r\n",
    b"PROXY " + b"x" * 200,
    v2(0x31, 0x11, addresses("203.0.113.7", "192.0.2.1")),
    v2(0x22, 0x11, addresses("203.0.113.7", "192.0.2.1")),
    v2(0x21, 0x11, b"\x01\x02\x03\x04"),
    SIGNATURE + struct.pack("!BBH", 0x21, 0x11, 65_535),
]


@pytest.mark.parametrize(("header", "address"), GOOD)
def test_who_the_client_is_and_where_its_own_bytes_begin(header: bytes, address: str) -> None:
    found = read_header(header + REST)
    assert found is not None
    assert (found.address, found.length) == (address, len(header))


@pytest.mark.parametrize(("header", "_"), GOOD)
def test_a_part_of_a_header_is_waited_for(header: bytes, _: str) -> None:
    assert all(read_header(header[:length]) is None for length in range(len(header)))


@pytest.mark.parametrize("data", BAD)
def test_whatever_else_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        read_header(data)


@given(st.binary(max_size=300))
def test_any_bytes_are_a_header_or_an_error_or_too_few(data: bytes) -> None:
    try:
        found = read_header(data)
    except ValueError:
        return
    assert found is None or 0 < found.length <= len(data)
