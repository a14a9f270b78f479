"""The signature of a payment callback: HMAC-SHA256 over timestamp, a dot, and the raw body. Pure.

    x-relay-timestamp: 1732406400
    x-relay-signature: 5f1c...                  64 hex digits

Several signatures may stand there, separated by commas: while the secret is changed, the sender
signs with the old one and the new one. A callback older than the window is refused, so a recorded
one cannot be played later; within the window a repetition is harmless, because orders are credited
once.
"""

import hashlib
import hmac
from typing import Final

WINDOW_S: Final = 300
"""Clocks differ and queues hold; five minutes is what payment providers use."""
SIGNATURES_MAX: Final = 4

_TIMESTAMP_DIGITS_MAX: Final = 12


def sign(secret: bytes, timestamp: str, body: bytes) -> str:
    """Return the signature of a body sent at `timestamp` (seconds since 1970, as text)."""
    return hmac.digest(secret, timestamp.encode() + b"." + body, hashlib.sha256).hex()


def is_fresh(timestamp: str, now_s: float) -> bool:
    """Return whether a timestamp is one, and lies within WINDOW_S of now."""
    if not (timestamp.isascii() and timestamp.isdecimal()):
        return False
    return len(timestamp) <= _TIMESTAMP_DIGITS_MAX and abs(now_s - int(timestamp)) <= WINDOW_S


def is_signed(secret: bytes, timestamp: str, signatures: str, body: bytes) -> bool:
    """Return whether one of `signatures` is ours; how far a wrong one is right does not show."""
    expected = sign(secret, timestamp, body).encode()
    given = signatures.split(",", SIGNATURES_MAX)[:SIGNATURES_MAX]
    words = (one.strip().lower().encode(errors="replace") for one in given)
    return any(hmac.compare_digest(expected, word) for word in words)
