"""API keys: their form, their checksum, and the digest they are known by.

    relay_ + 32 base62 random + 6 base62 of the CRC-32 of what is before them

The prefix makes a leaked key findable, the underscore lets a double click select all of it, and
the checksum tells a typo from a key without asking anyone. 32 base62 characters are 190 bits: such
a key cannot be guessed, so a fast keyed digest is enough to store it by.

Source: docs/reliability.md, "Keys and secrets".
"""

from hashlib import blake2b
from typing import Final
from zlib import crc32

PREFIX: Final = "relay_"
RANDOM_CHARS: Final = 32
CHECK_CHARS: Final = 6
RANDOM_BYTES: Final = 24
ALPHABET: Final = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"


def mint(random_bytes: bytes) -> str:
    """Return a new key made of `random_bytes` (RANDOM_BYTES of them, from the system's source)."""
    assert len(random_bytes) == RANDOM_BYTES
    body = PREFIX + _base62(int.from_bytes(random_bytes, "big"), RANDOM_CHARS)
    return body + _checksum(body)


def is_well_formed(key: str) -> bool:
    """Tell whether `key` has our prefix, length and checksum; no store is asked."""
    body, check = key[:-CHECK_CHARS], key[-CHECK_CHARS:]
    length = len(PREFIX) + RANDOM_CHARS + CHECK_CHARS
    return len(key) == length and key.startswith(PREFIX) and check == _checksum(body)


def digest(pepper: bytes, key: str) -> bytes:
    """Return the 32 bytes a key is stored and found by: BLAKE2b keyed with the pepper.

    Args:
        pepper: 16 to 64 bytes.
        key: As it was presented.
    Source: RFC 7693: keyed BLAKE2 is a MAC by itself. It takes a quarter of the time of HMAC-SHA256
        through OpenSSL, and every call pays it.
    """
    return blake2b(key.encode("utf-8", "surrogateescape"), key=pepper, digest_size=32).digest()


def last4(key: str) -> str:
    """Return what of a key may be shown."""
    return key[-4:]


def _checksum(body: str) -> str:
    return _base62(crc32(body.encode("utf-8", "surrogateescape")), CHECK_CHARS)


def _base62(number: int, chars: int) -> str:
    digits = []
    for _ in range(chars):
        number, digit = divmod(number, 62)
        digits.append(ALPHABET[digit])
    return "".join(reversed(digits))
