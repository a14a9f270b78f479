"""The head of a connection's last request, remembered for those that begin alike.

A client that keeps its connection sends the same head again and again: only the length differs.
The strict parser has accepted those very bytes before, so it has nothing to add; a request that
came whole in one read and begins alike is known by two comparisons. Everything else goes through
the parser.
"""

from typing import Final

from relay.flow.request import RequestHead

LENGTH: Final = b"\r\ncontent-length:"
LENGTH_DIGITS_MAX: Final = 9
HEAD_BYTES_MAX: Final = 4096
"""Longer heads are not kept: a connection must not cost much memory."""


class HeadCache:
    """The last head of a connection: the bytes on both sides of its length, and what they mean."""

    __slots__ = ("_after", "_before", "request_head")

    def __init__(self, before: bytes, after: bytes, request_head: RequestHead) -> None:
        self._before = before
        self._after = after
        self.request_head = request_head

    def body_of(self, data: bytes, bytes_max: int) -> bytes | None:
        """Return the body of a request that is whole in `data` and begins as this one did."""
        at = len(self._before)
        if data[:at] != self._before:
            return None
        end = data.find(b"\r\n", at, at + LENGTH_DIGITS_MAX + 2)
        digits = data[at:end]
        begin = end + len(self._after)
        if end < 0 or data[end:begin] != self._after or not digits.isdigit():
            return None
        size = int(digits)
        return data[begin:] if len(data) - begin == size <= bytes_max else None


def remember(head: bytes, request_head: RequestHead) -> HeadCache | None:
    """Return the memory of a head that the parser has accepted, None where it is not worth one.

    An accepted head has one length at most; `head` ends with its empty line.
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
    return HeadCache(head[:begin], head[begin + len(digits) :], request_head)
