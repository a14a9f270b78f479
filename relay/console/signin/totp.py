"""Codes of an authenticator: six digits of an HMAC over the half minute. Pure.

Source: RFC 6238 with SHA-1, 30 s, 6 digits, as every authenticator takes by default.
"""

import base64
import hashlib
import hmac
from typing import Final
from urllib.parse import quote

SECRET_BYTES: Final = 20
STEP_S: Final = 30
DIGITS: Final = 6
DRIFT_STEPS: Final = 1
"""A clock may be half a minute off, either way."""


def to_base32(secret: bytes) -> str:
    """Return a secret as people type it."""
    return base64.b32encode(secret).decode().rstrip("=")


def from_base32(text: str) -> bytes:
    """Return the secret again; b"" where it is none."""
    try:
        return base64.b32decode(text + "=" * (-len(text) % 8))
    except ValueError:
        return b""


def code_at(secret: bytes, step: int) -> str:
    """Return the code of one step (seconds since 1970 // 30)."""
    mac = hmac.digest(secret, step.to_bytes(8, "big"), hashlib.sha1)
    at = mac[-1] & 15
    number = int.from_bytes(mac[at : at + 4], "big") & 0x7FFFFFFF
    return str(number % 10**DIGITS).zfill(DIGITS)


def find_step(secret: bytes, code: str, now_s: float, last_step: int) -> int | None:
    """Return the step that a code is of, if it is near now and was not used before."""
    code = code.replace(" ", "")
    here = int(now_s) // STEP_S
    for step in range(here - DRIFT_STEPS, here + DRIFT_STEPS + 1):
        given = code.encode("utf-8", "surrogateescape")
        if step > last_step and hmac.compare_digest(code_at(secret, step).encode(), given):
            return step
    return None


def link_of(secret: bytes, email: str, issuer: str = "relay") -> str:
    """Return the otpauth:// link that an authenticator reads."""
    label = quote(f"{issuer}:{email}", safe="")
    return f"otpauth://totp/{label}?secret={to_base32(secret)}&issuer={quote(issuer)}"
