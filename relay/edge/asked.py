"""What the head of a request says: whom it is from, what it asks, how long it is."""

from typing import Protocol

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


class Asked:
    """What a head asks for, and who asks.

    `credential`: the digest of the presented key, b"" where it can be none; None: no key was given.
    `ip`: the client's address. `content_type`: as it came. `dialect`: what errors are told in.
    `query`, `forwarded`: what of the query and of the headers goes on to an upstream.
    """

    __slots__ = (
        "content_type",
        "credential",
        "dialect",
        "endpoint",
        "forwarded",
        "ip",
        "query",
    )

    def __init__(  # noqa: PLR0913 - a field a line
        self,
        endpoint: Endpoint,
        credential: bytes | None,
        ip: str,
        content_type: str,
        dialect: Dialect,
        query: str,
        forwarded: bytes,
    ) -> None:
        self.endpoint = endpoint
        self.credential = credential
        self.ip = ip
        self.content_type = content_type
        self.dialect = dialect
        self.query = query
        self.forwarded = forwarded


def survey(message: Head, data: bytes) -> tuple[int, bytes]:
    """Return what is still owed of the request that `data` begins, and its head.

    Args:
        message: What the parser made of it.
        data: The read that began it.

    Returns:
        Bytes that have not come yet, below 0 where nobody knows; the head, b"" where it is not
        whole in `data`.
    """
    end = data.find(b"\r\n\r\n") + len(b"\r\n\r\n")
    if end < len(b"\r\n\r\n") or message.chunked or message.upgrade:
        return -1, b""
    body_bytes = int(message.headers.get("Content-Length", 0))
    return end + body_bytes - len(data), data[:end]
