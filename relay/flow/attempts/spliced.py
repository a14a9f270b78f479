"""A second attempt that carries a broken stream on: its events become those of the first stream.

Only a spliced stream is read event by event; the first stream was not.
"""

from collections.abc import Callable

from relay.config import Switching
from relay.errors import (
    ChannelGarbled,
    ChannelRefused,
    ChannelTruncated,
    RelayError,
)
from relay.flow.attempts.attempt import Attempt, LastWord
from relay.flow.attempts.tail import StreamTail
from relay.flow.call import Call
from relay.flow.ports import Question
from relay.model import Channel
from relay.splice.rewrite import Continuation, join_usage
from relay.splice.state import SpliceState
from relay.stage import COMMITTED
from relay.wire.http import EVENT_STREAM
from relay.wire.sse import EventBuffer, close_event, event_payload, split_events
from relay.wire.usage.delivered_tokens import Measured


class SplicedAttempt(Attempt):
    """An attempt that goes on where another channel broke off.

    Args:
        call, channel, committed, settle: See Attempt.
        continuation: How the events are rewritten.
        limits: Bounds on one event.
    """

    def __init__(
        self,
        call: Call,
        channel: Channel,
        committed: Callable[[Attempt], None],
        settle: Callable[[Call], None],
        continuation: Continuation,
        limits: Switching,
    ) -> None:
        super().__init__(call, channel, committed, settle, limits)
        self._continuation = continuation
        self._events = EventBuffer(limits.event_bytes_max)
        self._tail = StreamTail()
        self.prefix_tokens = call.events_out

    @property
    def question(self) -> Question:
        """The client's question, asking for the rest of its answer."""
        return self.call.question.continue_with(self._continuation.fields)

    def measure(self, bytes_out: int, events_out: int) -> Measured:
        """Measure what went out, of this stream and of those before it; see Attempt."""
        return self._tail.measure(bytes_out, events_out)

    def _begin(self, kind: bytes, content_type: bytes, headers: dict[bytes, bytes]) -> None:
        """Take only what can go on: an event stream."""
        if kind != EVENT_STREAM:
            self.fail(ChannelRefused("The upstream answered in another form than was asked for."))

    def on_body(self, raw: bytes, parts: list[bytes], *, done: bool) -> None:
        """Rewrite and forward what one read brought."""
        if done:
            self._connection = None  # it is back in its pool
        if self._refusal is not None:
            self._hear_refusal(self._refusal, parts, done=done)
            return
        payload = b"".join(parts)
        self.bytes_in += len(payload)
        try:
            whole = self._events.feed(payload)
        except ChannelGarbled as error:
            self.fail(error)
            return
        if whole:
            self._forward(whole)
        if done and self.error is None:
            self._end()

    def on_lost(self, error: RelayError) -> None:
        """Judge a broken connection: an answer with its finish reason is whole."""
        self._connection = None
        if self._continuation.splice.state is SpliceState.FINISHED:
            self._end()
        else:
            self.fail(error)

    def last_word(self) -> LastWord:
        """Tell whether a silent answer is whole; see Attempt."""
        splice = self._continuation.splice
        if splice.state is not SpliceState.FINISHED:
            return LastWord.DUE
        return LastWord.FINAL if splice.marked or self._tail.usage() else LastWord.SAID

    def lapse(self, error: RelayError) -> None:
        """End on a stall: an answer with its finish reason is whole."""
        if self._continuation.splice.state is SpliceState.FINISHED:
            self._drop_connection()
            self._end()
        else:
            self.fail(error)

    def _forward(self, whole: bytes) -> None:
        self._tail.note(whole)
        splice = self._continuation.splice
        sent = splice.feed(map(event_payload, split_events(whole)))
        if sent:
            if self.stage is not COMMITTED:
                self.call.splices += 1
                self._commit()
            self.call.events_out += sent.count(b"\n\n")
            self.call.bytes_out += len(sent)
            if self.call.delivered_text is not None:
                self.call.delivered_text.add(sent)  # it may have to be carried on once more
            self.call.response.send_events(sent)
        if splice.state is SpliceState.BROKEN:
            self.fail(ChannelTruncated("The answer could not be carried on."))

    def _end(self) -> None:
        """End the answer; an event that was not closed ends nothing, but may hold the usage."""
        if self._continuation.splice.state is SpliceState.FINISHED:
            rest = close_event(self._events.take())
            if rest:
                self._forward(rest)
        if self.error is not None:
            return
        last = self._continuation.splice.end()
        if self._continuation.splice.state is SpliceState.BROKEN:
            self.fail(ChannelTruncated("The upstream ended before its answer was complete."))
            return
        usage = self._tail.usage()
        if usage is not None:
            continuation = self._continuation
            self.call.usage = join_usage(usage, continuation.tokens_before, continuation.extra)
        self._complete()
        self.call.response.send_events(last, last=True)
        self._resolve()
