"""Goal: the kernel drops what it should and nothing else.

Method: an interpreter of the few instructions that there are, over heads of IP packets. The kernel
itself is asked in tests/flow/test_door.py.
"""

import ipaddress
import struct

import pytest

from relay.wire.packet_filter import ADDRESSES_MAX, drop_program

NET_OFF = 2**32 - 0x100000
RANDOM = 2**32 - 0x1000 + 56
SYN, ACK = 0x02, 0x10


def packet(ip: str) -> bytes:
    """Return the head of a packet from an address, addresses and version alone being true."""
    address = ipaddress.ip_address(ip)
    if address.version == 4:
        return b"\x45" + bytes(11) + address.packed + bytes(4)
    return b"\x60" + bytes(7) + address.packed + bytes(16)


def drops(program: bytes, ip: str, *, flags: int = SYN, chance: float = 0.0) -> bool:
    """Run a program over the heads of a packet, with a number drawn by chance (0 to 1)."""
    head, accumulator, at = packet(ip), 0, 0
    drawn = {RANDOM: int(chance * 2**32)} if chance else {}
    drawn |= {13: flags}
    instructions = list(struct.iter_unpack("=HBBI", program))
    while True:
        code, yes, no, operand = instructions[at]
        at += 1
        if code in (0x20, 0x30) and operand in drawn:
            accumulator = drawn[operand]
        elif code == 0x54:
            accumulator &= operand
        elif code == 0x35:
            at += yes if accumulator >= operand else no
        elif code == 0x05:
            at += operand
        elif code == 0x20:
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


@pytest.mark.parametrize("ip", ["203.0.113.1", "2001:db8::1"])
def test_a_share_of_the_syns_is_taken_and_all_else(ip: str) -> None:
    program = drop_program(["198.51.100.7"], share=0.25)
    assert not drops(program, ip, chance=0.24) and drops(program, ip, chance=0.26)
    for flags in (ACK, SYN | ACK, 0x18, 0x11, 0x04):
        assert not drops(program, ip, flags=flags, chance=0.99), "a connection that is there"
    assert drops(program, "198.51.100.7", flags=ACK, chance=0.0)


def test_guests_are_taken_whatever_the_share_is() -> None:
    guests = ["203.0.113.1", "2001:db8:1:2::/64"]
    program = drop_program(["198.51.100.7"], share=0.02, guests=guests)
    for ip in ("203.0.113.1", "2001:db8:1:2::9"):
        assert not drops(program, ip, chance=0.99)
    for ip in ("203.0.113.2", "2001:db8:1:3::9", "198.51.100.7"):
        assert drops(program, ip, chance=0.99)


def test_as_many_guests_as_there_may_be_are_within_a_jump() -> None:
    fours = [f"10.0.0.{number}" for number in range(ADDRESSES_MAX)]
    sixes = [f"2001:db8:0:{number:x}::/64" for number in range(ADDRESSES_MAX)]
    for guests in (fours, sixes, fours[:30] + sixes[:30]):
        program = drop_program(sixes, share=0.02, guests=guests)
        spared = [guest for guest in guests if guest not in sixes]
        assert not any(drops(program, guest, chance=0.99) for guest in spared)
        assert drops(program, "10.0.1.1", chance=0.99)


@pytest.mark.parametrize("key", ["203.0.113.0/24", "2001:db8::/48", "/run/a.sock"])
def test_what_is_neither_is_refused(key: str) -> None:
    with pytest.raises(ValueError):
        drop_program([key])
