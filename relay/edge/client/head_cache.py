"""The head of a connection's last request, remembered for those that begin alike.

A client that keeps its connection sends the same head again and again: only the length differs.
The strict parser has accepted those very bytes before, so it has nothing to add; a request that
begins alike is known by two comparisons, whether its body came with it or is still to come.
Everything else goes through the parser.
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
        begin, size = self._survey(data)
        return data[begin:] if begin and len(data) - begin == size <= bytes_max else None

    def coming_body(self, data: bytes, bytes_max: int) -> tuple[int, int]:
        """Return where a body begins whose end has yet to come, and how long it will be.

        0, 0: `data` does not begin as the last request did, or there is no such body.
        """
        begin, size = self._survey(data)
        return (begin, size) if begin and len(data) - begin < size <= bytes_max else (0, 0)

    def _survey(self, data: bytes) -> tuple[int, int]:
        """Return where a body begins, and its length; 0, 0 behind another head."""
        at = len(self._before)
        if not data.startswith(self._before):
            return 0, 0
        end = data.find(b"\r\n", at, at + LENGTH_DIGITS_MAX + 2)
        if end < 0 or not data.startswith(self._after, end):
            return 0, 0
        digits = data[at:end]
        begin = end + len(self._after)
        return (begin, int(digits)) if digits.isdigit() else (0, 0)


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
