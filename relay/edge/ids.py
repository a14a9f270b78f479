"""The ids that requests are known by."""

from typing import Final

_LOW_BITS: Final = 0x3FFF_FFFF_FFFF_FFFF


class RequestIds:
    """Request ids: UUIDv7, 16 bytes, so that they sort by time; each is given once.

    The bits behind the time are a counter that starts anywhere: workers start at different places,
    and a worker never repeats itself.
    Source: RFC 9562, sections 5.7 and 6.2 (method 2: a random start, then increments).

    Args:
        start: 74 random bits.
    """

    __slots__ = ("_high", "_low")

    def __init__(self, start: int) -> None:
        self._high = 0x7 << 76 | (start >> 62) << 64 | 0x2 << 62
        self._low = start & _LOW_BITS

    def next(self, time_us: int) -> bytes:
        """Return the id of a request that arrived `time_us` microseconds after 1970."""
        self._low = low = self._low + 1 & _LOW_BITS
        return (time_us // 1000 << 80 | self._high | low).to_bytes(16, "big")
