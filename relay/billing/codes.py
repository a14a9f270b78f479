"""Redemption codes: made from random bytes, read back however a person types them. Pure.

A code is 26 characters of Crockford's base32 in groups ("3K7QM-..."): 130 bits, of which the last
two are zero. Only its keyed digest is stored, so whoever reads the table can redeem nothing.
"""

import hashlib
import hmac
from typing import Final

RANDOM_BYTES: Final = 16
CODE_CHARS: Final = 26
GROUP_CHARS: Final = 5

_ALPHABET: Final = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_MISREAD: Final = str.maketrans("OIL", "011")
_DOMAIN: Final = b"relay redemption code\0"
"""The pepper keys digests of API keys too: neither can ever be mistaken for the other."""


def mint(random: bytes) -> str:
    """Return the code that 16 random bytes make."""
    assert len(random) == RANDOM_BYTES
    number = int.from_bytes(random) << 2
    digits = [_ALPHABET[number >> 5 * at & 31] for at in reversed(range(CODE_CHARS))]
    groups = (digits[at : at + GROUP_CHARS] for at in range(0, CODE_CHARS, GROUP_CHARS))
    return "-".join("".join(group) for group in groups)


def normalise(text: str) -> str:
    """Return a code without dashes and spaces, in capitals, with O, I and L read as digits.

    Raises:
        ValueError: It cannot be a code.
    """
    bare = "".join(text.replace("-", " ").split()).upper().translate(_MISREAD)
    if len(bare) != CODE_CHARS or set(bare) - set(_ALPHABET):
        raise ValueError("not a redemption code")
    return bare


def digest(pepper: bytes, code: str) -> bytes:
    """Return what is stored of a code, 32 bytes.

    Raises:
        ValueError: It cannot be a code.
    """
    return hmac.digest(pepper, _DOMAIN + normalise(code).encode(), hashlib.sha256)
