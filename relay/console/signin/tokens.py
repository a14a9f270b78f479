"""Secrets that are shown once and kept as keyed digests: sessions, links, management keys."""

import hmac
import secrets
from hashlib import blake2b
from typing import Final

from relay.store.secrets.vault import Pepper

TOKEN_BYTES: Final = 32
TOKEN_CHARS_MAX: Final = 128
MANAGEMENT_PREFIX: Final = "relaym_"
"""Told apart from a model key at a glance, by people and by scanners of leaks."""


def mint() -> str:
    """Return a new token of 256 bits, fit for a URL or a cookie."""
    return secrets.token_urlsafe(TOKEN_BYTES)


def mint_management() -> str:
    """Return a new management key."""
    return MANAGEMENT_PREFIX + mint()


def digest(pepper: Pepper, token: str, purpose: str) -> bytes:
    """Return the 32 bytes that a token is found by; those of another purpose are others."""
    return blake2b(
        token[: TOKEN_CHARS_MAX + 1].encode("utf-8", "surrogateescape"),
        key=pepper.value,
        person=purpose.encode().ljust(16, b"\0"),
        digest_size=32,
    ).digest()


def csrf_of(pepper: Pepper, session_digest: bytes) -> str:
    """Return what every form of a session has to carry; another site cannot know it."""
    return blake2b(
        session_digest, key=pepper.value, person=b"csrf".ljust(16, b"\0"), digest_size=16
    ).hexdigest()


def is_same(given: str, expected: str) -> bool:
    """Compare without telling by the time how far they agree."""
    return hmac.compare_digest(given.encode("utf-8", "surrogateescape"), expected.encode())
