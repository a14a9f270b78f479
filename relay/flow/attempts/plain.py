"""A plain body, JSON or audio, on its way to the client.

    WHOLE (held while small, sent as one piece) --too large--> PASSING (passed on as it comes)

A small body goes out in one piece with its length, so that a cut of it can still be served by
another channel; a larger one is committed and passed on with backpressure.
"""

from typing import Final

from relay.errors import ChannelRefused, ChannelTruncated, RelayError
from relay.flow.attempts.attempt import Attempt, LastWord
from relay.flow.attempts.buffer import Buffer
from relay.flow.attempts.tail import StreamTail
from relay.records import Endpoint
from relay.usage import Usage
from relay.wire.http import EVENT_STREAM
from relay.wire.refusals.identity import known_by
from relay.wire.refusals.upstream_errors import (
    find_wrong,
    find_wrong_start,
    is_error_body,
    read_reported_error,
)
from relay.wire.sse import is_json_object
from relay.wire.usage.delivered_tokens import Measured, tokens_of_body, tokens_of_bytes
from relay.wire.usage.reader import find_media_usage, find_usage_of_body

_CHAT: Final = Endpoint.CHAT


class PlainAttempt(Attempt):
    """An attempt whose answer is one plain body.

    Args:
        call, channel, committed, settle, limits: See Attempt.
    """

    _content_type: bytes = b""
    _length: int | None = None
    _chunked: bool = False
    _buffer: Buffer | None = None
    _text_tokens: int | None = None
    """Of an answer that did not say what it used; None: it was not looked at."""
    _tail: StreamTail | None = None
    """What was remembered of a body that is passed on; None while it is held."""

    def _begin(self, kind: bytes, content_type: bytes, headers: dict[bytes, bytes]) -> None:
        if kind in (b"text/html", EVENT_STREAM):
            self.fail(ChannelRefused("The upstream answered in another form than was asked for."))
            return
        length = headers.get(b"content-length")
        self._content_type = content_type
        self._length = None if length is None else int(length)
        self._chunked = b"transfer-encoding" in headers

    def on_body(self, raw: bytes, parts: list[bytes], *, done: bool) -> None:
        """Take what one read brought: for most answers, all of it."""
        if done:
            self._connection = None  # it is back in its pool, for the next call
        if self._refusal is not None:
            self._hear_refusal(self._refusal, parts, done=done)
            return
        payload = parts[0] if len(parts) == 1 else b"".join(parts)
        self.bytes_in += len(payload)
        if self._tail is not None:
            self._pass_on(self._tail, payload, done=done)
        elif done and self._buffer is None:
            self._end_whole(payload)
        else:
            self._hold(payload, done=done)

    def measure(self, bytes_out: int, events_out: int) -> Measured:
        """Measure the answer; see Attempt."""
        tokens = self._text_tokens
        return Measured(tokens_of_bytes(bytes_out) if tokens is None else tokens)

    def on_lost(self, error: RelayError) -> None:
        """End: a body is whole only when its framing says so; one without any, if it is whole JSON.

        There are servers that leave a TLS connection without the close_notify that would say it.
        """
        self._connection = None
        buffer = self._buffer
        if buffer is not None and not self._chunked and self.last_word() is LastWord.SAID:
            self._buffer = None
            self._end_whole(buffer.release())
            return
        if self.call.committed:
            error = ChannelTruncated("The upstream broke off in the middle of its answer.")
        self.fail(error)

    def last_word(self) -> LastWord:
        """Tell whether a silent body is whole JSON, though its framing does not say so."""
        if self._tail is not None or self._buffer is None or self._length is not None:
            return LastWord.DUE
        body = self._buffer.release()
        self._buffer.add(body)
        return LastWord.SAID if is_json_object(body) else LastWord.DUE

    def lapse(self, error: RelayError) -> None:
        """End on a stall: JSON that is whole only kept its connection open."""
        buffer = self._buffer
        if buffer is not None and self.last_word() is LastWord.SAID:
            self._drop_connection()
            self._buffer = None
            self._end_whole(buffer.release())
        else:
            self.fail(error)

    def _hold(self, payload: bytes, *, done: bool) -> None:
        buffer = self._buffer
        if buffer is None:
            buffer = self._buffer = Buffer()
        buffer.add(payload)
        if done:
            self._end_whole(buffer.release())
        elif buffer.size_bytes > self._limits.gate_bytes_max:
            body = buffer.release()
            if not self._fits(find_wrong_start(body, self.call.head.endpoint)):
                return
            self._tail = StreamTail()
            self._commit()
            self._note(self._tail, body)
            self.call.response.begin_body(self._content_type, self._length, body)

    def _end_whole(self, body: bytes) -> None:
        """Send the body in one piece."""
        call = self.call
        if is_error_body(body):
            self.fail(read_reported_error(body, None, known_by(self.channel)))
            return
        if not self._fits(find_wrong(body, call.head.endpoint)):
            return
        endpoint = call.head.endpoint
        usage = find_usage_of_body(body, items=endpoint is not _CHAT)
        if usage is None:
            usage = find_media_usage(body, endpoint)
        if call.request.counts_bytes and (usage is None or usage.untold):
            self._text_tokens = tokens_of_body(body)
        self._send_whole(body, usage)

    def _send_whole(self, body: bytes, usage: Usage | None) -> None:
        self._commit()
        self.call.bytes_out = len(body)
        self._finish_whole(body, usage)
        self.call.response.send_whole(self._content_type, body)
        self._resolve()

    def _finish_whole(self, body: bytes, usage: Usage | None) -> None:
        """Settle a body that came in one piece; it goes out after this."""
        self._finish(usage)

    def _fits(self, wrong: str | None) -> bool:
        """Tell whether nothing is wrong with the body; a wrong one ends the attempt."""
        if wrong is not None:
            self.fail(ChannelRefused(wrong))
        return wrong is None

    def _pass_on(self, tail: StreamTail, payload: bytes, *, done: bool) -> None:
        if payload:
            self._note(tail, payload)
        if done:
            self._finish(tail.usage())
        self.call.response.send_body(payload, last=done)
        if done:
            self._resolve()

    def _note(self, tail: StreamTail, block: bytes) -> None:
        self.call.bytes_out += len(block)
        tail.note(block)

    def _finish(self, usage: Usage | None) -> None:
        """Settle a whole answer; its last bytes go out after this."""
        self.call.usage = usage
        self._complete()
