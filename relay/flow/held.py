"""What is held back of an answer until it is sure that it goes to the client."""


class Held:
    """Bytes in the pieces they came in; joined once, when they are let go."""

    __slots__ = ("_pieces", "size_bytes")

    def __init__(self) -> None:
        self._pieces: list[bytes] = []
        self.size_bytes = 0

    def add(self, piece: bytes) -> None:
        """Hold a piece."""
        self._pieces.append(piece)
        self.size_bytes += len(piece)

    def release(self) -> bytes:
        """Return all that was held, and hold nothing; a single piece comes back as it is."""
        whole = self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)
        self._pieces.clear()
        self.size_bytes = 0
        return whole
