"""Half a log-in: that a password was right, kept by the browser until the code comes. Pure."""

import hmac
from hashlib import blake2b
from typing import Final

from relay.store.secrets.vault import Pepper

LIFE_S: Final = 300


def seal(pepper: Pepper, user_id: int, now_s: float) -> str:
    """Return a proof, good for five minutes, that this user's password was given."""
    text = f"{user_id}.{int(now_s) + LIFE_S}"
    return f"{text}.{_sign(pepper, text)}"


def open_half(pepper: Pepper, proof: str, now_s: float) -> int | None:
    """Return whose password it was; None: it is no proof, or an old one."""
    text, _, signature = proof.rpartition(".")
    given = signature.encode("utf-8", "surrogateescape")
    if not hmac.compare_digest(_sign(pepper, text).encode(), given):
        return None
    user_id, _, ends_s = text.partition(".")
    return int(user_id) if now_s < int(ends_s) else None


def _sign(pepper: Pepper, text: str) -> str:
    return blake2b(
        text.encode("utf-8", "surrogateescape"),
        key=pepper.value,
        person=b"half".ljust(16, b"\0"),
        digest_size=32,
    ).hexdigest()
