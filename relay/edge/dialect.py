"""What the head of a request says beside its path: the key, the dialect, what goes on upstream."""

from typing import Final

from multidict import CIMultiDictProxy

from relay.call import Endpoint
from relay.model import Protocol
from relay.wire.anthropic import passed_on
from relay.wire.keys import PREFIX

Headers = CIMultiDictProxy[str]

QUERIES: Final = {Endpoint.MESSAGES: ("beta=true",), Endpoint.COUNT_TOKENS: ("beta=true",)}
"""Parts of a query that go on to an upstream; all others end here."""


def presented_key(headers: Headers) -> str | None:
    """Return the key that a client presents; None without one.

    Clients of both dialects send either form, and those that were set up twice send both: then the
    one that looks like a key of ours is meant.
    """
    scheme, _, token = headers.get("Authorization", "").partition(" ")
    bearer = token.strip() if scheme.lower() == "bearer" else ""
    found = [key for key in (bearer, headers.get("x-api-key"), headers.get("api-key")) if key]
    ours = (key for key in found if key.startswith(PREFIX))
    return next(ours, found[0] if found else None)


def spoken_in(headers: Headers) -> Protocol:
    """Return the dialect of a client whose path does not tell it."""
    return Protocol.ANTHROPIC if "anthropic-version" in headers else Protocol.OPENAI


def forwarded_headers(endpoint: Endpoint, headers: Headers) -> bytes:
    """Return the header lines of the client's that go on to an upstream.

    Raises:
        BadRequest: CLIENT; one of them is malformed.
    """
    if endpoint.dialect is not Protocol.ANTHROPIC:
        return b""
    return passed_on(headers.get("anthropic-version"), headers.getall("anthropic-beta", ()))


def forwarded_query(endpoint: Endpoint, target: str) -> str:
    """Return what of a request target's query goes on to an upstream, with its question mark."""
    given = target.partition("?")[2].split("&")
    kept = [part for part in QUERIES.get(endpoint, ()) if part in given]
    return f"?{'&'.join(kept)}" if kept else ""
