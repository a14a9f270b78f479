"""Goal: the kernel drops what it should and nothing else.

Method: an interpreter of the few instructions that there are, over heads of IP packets. The kernel
itself is asked in tests/flow/test_door.py.
"""

import ipaddress
import struct

import pytest

from relay.wire.packet_filter import ADDRESSES_MAX, drop_program

NET_OFF = 2**32 - 0x100000


def packet(ip: str) -> bytes:
    """Return the head of a packet from an address, addresses and version alone being true."""
    address = ipaddress.ip_address(ip)
    if address.version == 4:
        return b"\x45" + bytes(11) + address.packed + bytes(4)
    return b"\x60" + bytes(7) + address.packed + bytes(16)


def drops(program: bytes, ip: str) -> bool:
    """Run a program over the head of a packet."""
    head, accumulator, at = packet(ip), 0, 0
    instructions = list(struct.iter_unpack("=HBBI", program))
    while True:
        code, yes, no, operand = instructions[at]
        at += 1
        if code == 0x20:
            (accumulator,) = struct.unpack_from(">I", head, operand - NET_OFF)
        elif code == 0x30:
            accumulator = head[operand - NET_OFF]
        elif code == 0x74:
            accumulator >>= operand
        elif code == 0x15:
            at += yes if accumulator == operand else no
        else:
            assert code == 0x06, "none of ours"
            return bool(operand == 0)


@pytest.mark.parametrize(
    ("keys", "dropped", "taken"),
    [
        (["203.0.113.9"], ["203.0.113.9"], ["203.0.113.8", "2001:db8::9", "::ffff:203.0.113.9"]),
        (
            ["203.0.113.9", "2001:db8:1:2::/64", "198.51.100.7"],
            ["203.0.113.9", "198.51.100.7", "2001:db8:1:2::1", "2001:db8:1:2:ffff::"],
            ["203.0.113.7", "2001:db8:1:3::1", "2001:db9:1:2::1", "::1"],
        ),
        (["2001:db8:1:2::/64"], ["2001:db8:1:2::"], ["0.1.0.2", "32.1.13.184"]),
        ([], [], ["127.0.0.1", "::1"]),
    ],
)
def test_what_is_named_is_dropped_and_nothing_else(
    keys: list[str], dropped: list[str], taken: list[str]
) -> None:
    program = drop_program(keys)
    assert [drops(program, ip) for ip in dropped] == [True] * len(dropped)
    assert [drops(program, ip) for ip in taken] == [False] * len(taken)


def test_as_many_as_there_may_be_are_within_a_jump() -> None:
    fours = [f"10.0.0.{number}" for number in range(ADDRESSES_MAX)]
    sixes = [f"2001:db8:0:{number:x}::/64" for number in range(ADDRESSES_MAX)]
    for keys in (fours, sixes, fours[:30] + sixes[:30]):
        program = drop_program(keys)
        assert all(drops(program, key.removesuffix("/64")) for key in keys)
        assert not drops(program, "10.0.1.1") and not drops(program, "2001:db8:1::")


@pytest.mark.parametrize("key", ["203.0.113.0/24", "2001:db8::/48", "/run/a.sock"])
def test_what_is_neither_is_refused(key: str) -> None:
    with pytest.raises(ValueError):
        drop_program([key])
