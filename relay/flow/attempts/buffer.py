"""What is held back of an answer until it is sure whom it is for."""

from typing import Final

from relay.clock import wall_s
from relay.errors import RelayError
from relay.model import Channel
from relay.wire.refusals.identity import known_by
from relay.wire.refusals.upstream_errors import read_refusal

REFUSAL_BYTES_MAX: Final = 64 * 1024


class Buffer:
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


class RefusalReader:
    """An upstream's answer other than 2xx: it tells what to do, and whom to tell what it says.

    Args:
        status: Its HTTP status.
        headers: Its headers, names in lower case.
        channel: Whose it is.
        model_gone_switches: Whose fault a 404 is (`[switching]`).
    """

    __slots__ = ("_buffer", "_channel", "_gone_switches", "_headers", "status")

    def __init__(
        self,
        status: int,
        headers: dict[bytes, bytes],
        channel: Channel,
        *,
        model_gone_switches: bool,
    ) -> None:
        self._channel = channel
        self._gone_switches = model_gone_switches
        self.status = status
        self._headers = headers
        self._buffer = Buffer()

    def feed(self, payload: bytes, *, done: bool) -> RelayError | None:
        """Return the error that it amounts to, None while more of it may tell."""
        self._buffer.add(payload)
        if done or self._buffer.size_bytes > REFUSAL_BYTES_MAX:
            return read_refusal(
                self.status,
                self._headers,
                self._buffer.release(),
                now_s=wall_s(),
                model_gone_switches=self._gone_switches,
                dialect=self._channel.protocol,
                ours=known_by(self._channel),
            )
        return None
