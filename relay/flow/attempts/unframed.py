"""An answer in AWS's frames, told to its attempt as the events that are in them."""

from relay.errors import ChannelGarbled, RelayError
from relay.flow.attempts.attempt import Attempt
from relay.ports import AnswerListener
from relay.wire.http import EVENT_STREAM
from relay.wire.kinds.claude import FRAMES, event_of
from relay.wire.kinds.event_stream import EventStream, StreamGarbled


class UnframedAnswer(AnswerListener):
    """Stands between a connection and an attempt; what comes without frames passes as it is."""

    __slots__ = ("_attempt", "_frames")

    def __init__(self, attempt: Attempt) -> None:
        self._attempt = attempt
        self._frames: EventStream | None = None

    def on_head(self, status: int, headers: dict[bytes, bytes]) -> None:
        """Find out whether frames come."""
        if 200 <= status < 300 and headers.get(b"content-type", b"").startswith(FRAMES):
            self._frames = EventStream()
            headers = {**headers, b"content-type": EVENT_STREAM}
        self._attempt.on_head(status, headers)

    def on_body(self, raw: bytes, parts: list[bytes], *, done: bool) -> None:
        """Pass on what is whole; a frame that was changed on its way ends the answer."""
        frames = self._frames
        if frames is None:
            self._attempt.on_body(raw, parts, done=done)
            return
        try:
            events = b"".join(event_of(message) for message in frames.feed(b"".join(parts)))
        except StreamGarbled:
            self._attempt.fail(ChannelGarbled("The upstream's frames do not hold together."))
            return
        if events or done:
            self._attempt.on_body(b"", [events], done=done)

    def on_frame(self, raw: bytes, payload: bytes) -> None:
        """Take one chunk of a body, which happens to end as events end."""
        self.on_body(raw, [payload], done=False)

    def on_lost(self, error: RelayError) -> None:
        """Pass on that the answer will not be whole."""
        self._attempt.on_lost(error)

    def on_fault(self, error: Exception) -> bool:
        """Pass on a bug of ours."""
        return self._attempt.on_fault(error)
