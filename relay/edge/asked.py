"""What the head of a request says: whom it is from, what it asks, how long it is."""

from typing import Protocol

import msgspec
from aiohttp.http_parser import RawRequestMessage
from multidict import CIMultiDictProxy

from relay.call import Endpoint
from relay.model import Protocol as Dialect


class Head(Protocol):
    """A head as aiohttp's parser gives it.

    Its own type, RawRequestMessage, calls it a tuple. What the C parser makes is none, and compiled
    code believes what it is told of types.
    """

    @property
    def method(self) -> str:
        """In upper case."""
        ...

    @property
    def path(self) -> str:
        """With its query."""
        ...

    @property
    def version(self) -> tuple[int, int]:
        """Of HTTP."""
        ...

    @property
    def headers(self) -> CIMultiDictProxy[str]:
        """Names in any case."""
        ...

    @property
    def should_close(self) -> bool:
        """No request follows on this connection."""
        ...

    @property
    def upgrade(self) -> bool:
        """Another protocol is asked for."""
        ...

    @property
    def chunked(self) -> bool:
        """The body comes in chunks."""
        ...


class Asked(msgspec.Struct, frozen=True):
    """What a head asks for, and who asks.

    `credential`: the digest of the presented key, b"" where it can be none; None: no key was given.
    `ip`: the client's address. `content_type`: as it came. `dialect`: what errors are told in.
    `query`, `forwarded`: what of the query and of the headers goes on to an upstream.
    """

    endpoint: Endpoint
    credential: bytes | None
    ip: str
    content_type: str
    dialect: Dialect
    query: str
    forwarded: bytes


def survey(message: object, data: bytes) -> tuple[int, bytes]:
    """Return what is still owed of the request that `data` begins, and its head.

    Args:
        message: What the parser made of it.
        data: The read that began it.

    Returns:
        Bytes that have not come yet, below 0 where nobody knows; the head, b"" where it is not
        whole in `data`.
    """
    end = data.find(b"\r\n\r\n") + len(b"\r\n\r\n")
    if end < len(b"\r\n\r\n") or not isinstance(message, RawRequestMessage):
        return -1, b""
    if message.chunked or message.upgrade:
        return -1, b""
    body_bytes = int(message.headers.get("Content-Length", 0))
    return end + body_bytes - len(data), data[:end]
