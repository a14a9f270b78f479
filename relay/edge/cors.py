"""What lets web pages of other origins call the relay, where the operator wants that.

Without `[server] cors_origins` nothing of this is sent, and no browser lets a page read an answer.
Source: WHATWG Fetch, "CORS protocol".
"""

import re
from collections.abc import Sequence
from typing import Final

from multidict import CIMultiDictProxy

METHODS: Final = "GET, POST"
MAX_AGE_S: Final = 86_400
"""How long a browser need not ask again; none keeps it for longer."""
SEEN: Final = (
    *("x-request-id", "request-id", "retry-after", "retry-after-ms", "x-should-retry"),
    *(f"x-ratelimit-{what}" for what in ("limit-requests", "limit-tokens")),
    *(f"x-ratelimit-{what}" for what in ("remaining-requests", "remaining-tokens")),
    *(f"x-ratelimit-{what}" for what in ("reset-requests", "reset-tokens")),
)
"""Header fields of answers that a page may read."""
_NAMES: Final = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z, \t]{1,2048}")
"""Of the header fields that a page wants to send."""


class Cors:
    """The answers to pages of some origins.

    Args:
        origins: As browsers send them, `https://chat.example.org`; "*" is all.
    """

    __slots__ = ("_any", "_origins", "_seen")

    def __init__(self, origins: Sequence[str]) -> None:
        self._any = "*" in origins
        self._origins = frozenset(origins)
        self._seen = f"Access-Control-Expose-Headers: {', '.join(SEEN)}\r\n"

    def lines(self, headers: CIMultiDictProxy[str]) -> bytes:
        """Return the header lines of an answer to a request with these headers; b"" = none."""
        if not self._origins:
            return b""
        allowed = self._allowed(headers.get("Origin"))
        return (allowed + self._seen).encode("ascii") if allowed else b""

    def preflight(self, headers: CIMultiDictProxy[str]) -> bytes | None:
        """Return the header lines that answer a browser's question whether it may send a request.

        Returns:
            None: it is no such question, or not of an origin that may.
        """
        allowed = self._allowed(headers.get("Origin"))
        if not allowed or "Access-Control-Request-Method" not in headers:
            return None
        wanted = headers.get("Access-Control-Request-Headers", "")
        lines = f"{allowed}Access-Control-Allow-Methods: {METHODS}\r\n"
        lines += f"Access-Control-Max-Age: {MAX_AGE_S}\r\n"
        if _NAMES.fullmatch(wanted):
            # Fields that we do not know are ignored, so there is none to keep out.
            lines += f"Access-Control-Allow-Headers: {wanted}\r\n"
        return lines.encode("ascii")

    def _allowed(self, origin: str | None) -> str:
        if origin is None or not self._origins:
            return ""
        if self._any:
            return "Access-Control-Allow-Origin: *\r\n"
        if origin in self._origins:
            return f"Access-Control-Allow-Origin: {origin}\r\nVary: Origin\r\n"
        return ""
