"""What a client sends before its turn: kept in order, handed out in pieces, and bounded."""

from typing import Final

EARLY_BYTES_MAX: Final = 256 * 1024
"""Of requests that come before the last one was answered."""


class EarlyBytes:
    """Bytes that came before their turn."""

    __slots__ = ("_bytes",)

    def __init__(self) -> None:
        self._bytes = bytearray()

    def __len__(self) -> int:
        return len(self._bytes)

    def keep(self, data: bytes) -> bool:
        """Keep more; return whether that is within bounds."""
        self._bytes += data
        return len(self._bytes) <= EARLY_BYTES_MAX

    def put_back(self, data: bytes) -> None:
        """Put back what was taken out too much."""
        self._bytes[:0] = data

    def take(self, bytes_max: int) -> bytes:
        """Take out the next bytes."""
        piece = bytes(self._bytes[:bytes_max])
        del self._bytes[:bytes_max]
        return piece
