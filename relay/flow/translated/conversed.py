"""An answer of Bedrock's Converse, told to its attempt as Anthropic would have given it."""

from typing import Final

from relay.errors import ChannelGarbled, RelayError
from relay.flow.attempts.attempt import Attempt
from relay.ports import AnswerListener
from relay.wire.http import EVENT_STREAM
from relay.wire.kinds.claude import FRAMES
from relay.wire.kinds.converse_answer import ConverseReader, message_of
from relay.wire.kinds.event_stream import EventStream, StreamGarbled

BODY_BYTES_MAX: Final = 64 * 1024 * 1024
_NAME: Final = b"x-amzn-requestid"


class ConversedAnswer(AnswerListener):
    """Stands between a connection and an attempt; a refusal passes as it is.

    Args:
        attempt: Whose answer it is.
        model: Of which it is asked.
    """

    __slots__ = ("_attempt", "_body", "_frames", "_model", "_name", "_reader")

    def __init__(self, attempt: Attempt, model: str) -> None:
        self._attempt = attempt
        self._model = model
        self._name = ""
        self._frames: EventStream | None = None
        self._reader: ConverseReader | None = None
        self._body: bytearray | None = None
        """What has come of an answer in one piece: nothing of it goes on before all is here."""

    def on_head(self, status: int, headers: dict[bytes, bytes]) -> None:
        """Find out in which form the answer comes."""
        if 200 <= status < 300:
            self._name = headers.get(_NAME, b"")[:64].decode("ascii", "replace")
            if headers.get(b"content-type", b"").startswith(FRAMES):
                self._frames = EventStream()
                self._reader = ConverseReader(self._name)
                headers = {**headers, b"content-type": EVENT_STREAM}
            else:
                self._body = bytearray()
                headers = {k: v for k, v in headers.items() if k != b"content-length"}
        self._attempt.on_head(status, headers)

    def on_body(self, raw: bytes, parts: list[bytes], *, done: bool) -> None:
        """Pass on what is whole; a frame that was changed on its way ends the answer."""
        frames, reader, body = self._frames, self._reader, self._body
        if frames is not None and reader is not None:
            self._tell(frames, reader, parts, done=done)
        elif body is not None:
            body += b"".join(parts)
            if len(body) > BODY_BYTES_MAX:
                self._attempt.fail(ChannelGarbled("The upstream's answer is too long."))
            elif done:
                said = message_of(bytes(body), self._name, self._model)
                self._attempt.on_body(b"", [said], done=True)
            else:
                self._attempt.bytes_in += 1  # it moves, and is no silence
        else:
            self._attempt.on_body(raw, parts, done=done)

    def on_frame(self, raw: bytes, payload: bytes) -> None:
        """Take one chunk of a body, which happens to end as events end."""
        self.on_body(raw, [payload], done=False)

    def on_lost(self, error: RelayError) -> None:
        """Pass on that the answer will not be whole."""
        self._attempt.on_lost(error)

    def on_fault(self, error: Exception) -> bool:
        """Pass on a bug of ours."""
        return self._attempt.on_fault(error)

    def _tell(
        self, frames: EventStream, reader: ConverseReader, parts: list[bytes], *, done: bool
    ) -> None:
        try:
            events = b"".join([reader.event(message) for message in frames.feed(b"".join(parts))])
        except StreamGarbled:
            self._attempt.fail(ChannelGarbled("The upstream's frames do not hold together."))
            return
        if done:
            events += reader.end()
        if events or done:
            self._attempt.on_body(b"", [events] if events else [], done=done)
