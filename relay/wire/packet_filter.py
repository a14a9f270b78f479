"""A filter that has the kernel drop what comes from some addresses: a program in classic BPF.

    version 4: the source is one of these    --> drop
    version 6: its first 64 bits are         --> drop
    no SYN, or its source is one of the guests --> take it
    a random number says so                  --> drop
    else                                     --> take it

Source: Documentation/networking/filter.rst of Linux, "Berkeley Packet Filter (BPF)"; offsets of RFC
791, section 3.1, RFC 8200, section 3, and RFC 9293, section 3.1. Offsets from SKF_NET_OFF on are
those of the IP header, from 0 on those of the TCP header; the sockets that come of a listening one
have its filter, so what is no SYN has to pass.
"""

import struct
from collections.abc import Iterable
from ipaddress import ip_network
from typing import Final

ADDRESSES_MAX: Final = 60
"""A jump goes 255 instructions far: over two of each address of version 4."""

_INSTRUCTION: Final = struct.Struct("=HBBI")
_IP_HEADER: Final = 2**32 - 0x100000
"""SKF_NET_OFF."""
_RANDOM: Final = 2**32 - 0x1000 + 56
"""SKF_AD_OFF + SKF_AD_RANDOM."""
_TCP_FLAGS: Final = 13
_SYN: Final = 0x02
_SYN_AND_ACK: Final = 0x12
_LOAD_WORD: Final = 0x20
_LOAD_BYTE: Final = 0x30
_SHIFT_RIGHT: Final = 0x74
_AND: Final = 0x54
_JUMP: Final = 0x05
_JUMP_EQUAL: Final = 0x15
_JUMP_AT_LEAST: Final = 0x35
_RETURN: Final = 0x06

Instruction = tuple[int, int, int, int]
"""Code, jump if true, jump if false, operand: a jump is how many instructions are left out."""
_DROP: Final[Instruction] = (_RETURN, 0, 0, 0)
_TAKE: Final[Instruction] = (_RETURN, 0, 0, 2**32 - 1)


def drop_program(keys: Iterable[str], *, share: float = 1.0, guests: Iterable[str] = ()) -> bytes:
    """Return the program that drops what it should, in the machine's byte order.

    Args:
        keys: Whose packets are dropped: addresses of version 4, networks of 64 bits of version 6;
            at most ADDRESSES_MAX.
        share: Of the SYNs of all others, what is taken, by chance; 1: all.
        guests: Whose SYNs are taken all the same, as `keys`.

    Raises:
        ValueError: One of them is neither.
    """
    program = _by_source(keys, _DROP)
    odds = int(share * 2**32)
    if odds < 2**32:
        program += [
            (_LOAD_BYTE, 0, 0, _TCP_FLAGS),
            (_AND, 0, 0, _SYN_AND_ACK),
            (_JUMP_EQUAL, 1, 0, _SYN),
            _TAKE,
            *_by_source(guests, _TAKE),
            (_LOAD_WORD, 0, 0, _RANDOM),
            (_JUMP_AT_LEAST, 0, 1, odds),
            _DROP,
        ]
    return b"".join(_INSTRUCTION.pack(*each) for each in [*program, _TAKE])


def _by_source(keys: Iterable[str], verdict: Instruction) -> list[Instruction]:
    """Return what gives a verdict on what comes from `keys`, and goes on behind itself else."""
    fours: list[Instruction] = []
    sixes: list[Instruction] = []
    for key in keys:
        network = ip_network(key)
        if network.version == 4 and network.prefixlen == 32:
            fours += [(_JUMP_EQUAL, 0, 1, int(network.network_address)), verdict]
        elif network.version == 6 and network.prefixlen == 64:
            first, second = divmod(int(network.network_address) >> 64, 2**32)
            sixes += [
                (_LOAD_WORD, 0, 0, _IP_HEADER + 8),
                (_JUMP_EQUAL, 0, 3, first),
                (_LOAD_WORD, 0, 0, _IP_HEADER + 12),
                (_JUMP_EQUAL, 0, 1, second),
                verdict,
            ]
        else:
            raise ValueError(f"no address and no /64: {key!r}")
    if not fours and not sixes:
        return []
    fours = [(_LOAD_WORD, 0, 0, _IP_HEADER + 12), *fours, (_JUMP, 0, 0, len(sixes))]
    return [
        (_LOAD_BYTE, 0, 0, _IP_HEADER),
        (_SHIFT_RIGHT, 0, 0, 4),
        (_JUMP_EQUAL, 0, len(fours), 4),
        *fours,
        *sixes,
    ]
