"""What the head of a request says, read once for all requests of a connection that begin alike.

A client that keeps its connection sends the same head again and again: only the length differs.
The strict parser has accepted those very bytes before, so it has nothing to add; a request that
came whole in one read and begins alike is known by two comparisons. Everything else goes through
the parser.
"""

from typing import Final

import msgspec
from aiohttp.http_parser import RawRequestMessage

from relay.call import Endpoint
from relay.model import Protocol

LENGTH: Final = b"\r\ncontent-length:"
LENGTH_DIGITS_MAX: Final = 9
HEAD_BYTES_MAX: Final = 4096
"""Longer heads are not kept: a connection must not cost much memory."""


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
    dialect: Protocol
    query: str
    forwarded: bytes


class Memory(msgspec.Struct, frozen=True):
    """The last head of a connection: the bytes on both sides of its length, and what they mean."""

    before: bytes
    after: bytes
    asked: Asked

    def body_of(self, data: bytes, bytes_max: int) -> bytes | None:
        """Return the body of a request that is whole in `data` and begins as this one did."""
        if not data.startswith(self.before):
            return None
        at = len(self.before)
        end = data.find(b"\r\n", at, at + LENGTH_DIGITS_MAX + 2)
        digits = data[at:end]
        if end < 0 or not digits.isdigit() or not data.startswith(self.after, end):
            return None
        size = int(digits)
        begin = end + len(self.after)
        return data[begin:] if len(data) - begin == size <= bytes_max else None


def remember(head: bytes, asked: Asked) -> Memory | None:
    """Return the memory of a head that the parser has accepted, None where it is not worth one.

    Accepted it has one length at most; `head` ends in the empty line.
    """
    at = head.lower().find(LENGTH)
    if at < 0 or len(head) > HEAD_BYTES_MAX:
        return None
    at += len(LENGTH)
    value = head[at : head.index(b"\r\n", at)]
    digits = value.strip(b" \t")
    if not digits.isdigit():
        return None
    begin = at + value.index(digits)
    return Memory(head[:begin], head[begin + len(digits) :], asked)


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
