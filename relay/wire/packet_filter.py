"""A filter that has the kernel drop what comes from some addresses: a program in classic BPF.

    version 4: the source is one of these --> drop
    version 6: its first 64 bits are      --> drop
    else                                  --> take it

Source: Documentation/networking/filter.rst of Linux, "Berkeley Packet Filter (BPF)"; offsets of RFC
791, section 3.1, and RFC 8200, section 3. Offsets from SKF_NET_OFF on are those of the IP header.
"""

import struct
from collections.abc import Iterable
from ipaddress import ip_network
from typing import Final

ADDRESSES_MAX: Final = 60
"""A jump goes 255 instructions far: over four of each network of version 6."""

_INSTRUCTION: Final = struct.Struct("=HBBI")
_IP_HEADER: Final = 2**32 - 0x100000
"""SKF_NET_OFF."""
_LOAD_WORD: Final = 0x20
_LOAD_BYTE: Final = 0x30
_SHIFT_RIGHT: Final = 0x74
_JUMP_EQUAL: Final = 0x15
_RETURN: Final = 0x06
_DROP: Final = (_RETURN, 0, 0, 0)
_TAKE: Final = (_RETURN, 0, 0, 2**32 - 1)

Instruction = tuple[int, int, int, int]
"""Code, jump if true, jump if false, operand: a jump is how many instructions are left out."""


def drop_program(keys: Iterable[str]) -> bytes:
    """Return the program that drops what comes from any of `keys`, in the machine's byte order.

    Args:
        keys: Addresses of version 4, networks of 64 bits of version 6; at most ADDRESSES_MAX.

    Raises:
        ValueError: One of them is neither.
    """
    fours: list[Instruction] = []
    sixes: list[Instruction] = []
    for key in keys:
        network = ip_network(key)
        if network.version == 4 and network.prefixlen == 32:
            fours += [(_JUMP_EQUAL, 0, 1, int(network.network_address)), _DROP]
        elif network.version == 6 and network.prefixlen == 64:
            first, second = divmod(int(network.network_address) >> 64, 2**32)
            sixes += [
                (_LOAD_WORD, 0, 0, _IP_HEADER + 8),
                (_JUMP_EQUAL, 0, 3, first),
                (_LOAD_WORD, 0, 0, _IP_HEADER + 12),
                (_JUMP_EQUAL, 0, 1, second),
                _DROP,
            ]
        else:
            raise ValueError(f"no address and no /64: {key!r}")
    fours = [(_LOAD_WORD, 0, 0, _IP_HEADER + 12), *fours, _TAKE]
    program: list[Instruction] = [
        (_LOAD_BYTE, 0, 0, _IP_HEADER),
        (_SHIFT_RIGHT, 0, 0, 4),
        (_JUMP_EQUAL, 0, len(fours), 4),
        *fours,
        *sixes,
        _TAKE,
    ]
    return b"".join(_INSTRUCTION.pack(*each) for each in program)
