"""One attempt to sign in elsewhere, kept by the browser that began it. Pure.

The cookie holds state, nonce and PKCE verifier under our signature: an answer counts only in the
browser that asked for it, once, and within ten minutes.
"""

import hmac
from hashlib import blake2b
from typing import Final

import msgspec

from relay.console.signin import tokens
from relay.store.secrets.vault import Pepper

LIFE_S: Final = 600
CHARS_MAX: Final = 3_000
NEXT_CHARS_MAX: Final = 500
"""A cookie has its bounds; who wants to go farther ends at the front page."""


class Journey(msgspec.Struct, frozen=True, array_like=True):
    """What is known of an attempt."""

    state: str
    nonce: str
    verifier: str
    ends_s: int
    side: str
    following: str
    """The path to go to in the end."""


def begin(side: str, following: str, now_s: float) -> Journey:
    """Return a new attempt."""
    minted = (tokens.mint(), tokens.mint(), tokens.mint())
    fits = len(following) <= NEXT_CHARS_MAX and following.isascii()
    return Journey(*minted, int(now_s) + LIFE_S, side, following if fits else "")


def seal(pepper: Pepper, journey: Journey) -> str:
    """Return an attempt as a cookie's value."""
    text = msgspec.json.encode(journey).hex()
    return f"{text}.{_sign(pepper, text)}"


def open_journey(pepper: Pepper, sealed: str, side: str, now_s: float) -> Journey | None:
    """Return the attempt of a cookie; None: it is none of ours, of this side, or an old one."""
    text, _, signature = sealed.rpartition(".")
    given = signature.encode("utf-8", "surrogateescape")
    if not hmac.compare_digest(_sign(pepper, text).encode(), given):
        return None
    journey = msgspec.json.decode(bytes.fromhex(text), type=Journey)
    return journey if now_s < journey.ends_s and journey.side == side else None


def _sign(pepper: Pepper, text: str) -> str:
    return blake2b(
        text.encode("utf-8", "surrogateescape"),
        key=pepper.value,
        person=b"journey".ljust(16, b"\0"),
        digest_size=32,
    ).hexdigest()
