"""A translated stream: an upstream's whole events in, the client's out, one write for each read.

    on_body --> HELD     translated, but nothing of it is output yet: another channel may serve
            --> FLOWING  committed: every read's events go out at once

Each event is decoded: this is no hot path, and its channels are asked only where none speaks the
client's own dialect.
"""

from collections.abc import Callable

from relay.clock import clock_s
from relay.config import Switching
from relay.errors import ChannelGarbled, ChannelRefused, ChannelTruncated, RelayError
from relay.flow.attempts.attempt import Attempt, LastWord
from relay.flow.attempts.tail import StreamTail
from relay.flow.call import Call
from relay.flow.translated.attempt import TranslatedAttempt
from relay.flow.translated.plan import CallTranslation
from relay.model import Channel
from relay.records import Endpoint
from relay.stage import COMMITTED, ENDED
from relay.translate.answers import StreamTranslator
from relay.usage import Usage
from relay.wire.classify import FirstBlock, StreamEnding, find_error, judge_first
from relay.wire.http import EVENT_STREAM
from relay.wire.refusals.identity import known_by
from relay.wire.refusals.upstream_errors import read_reported_error
from relay.wire.sse import (
    LIFE_BYTES_MAX,
    EventBuffer,
    close_event,
    event_payload,
    is_sign_of_life,
    split_events,
)
from relay.wire.usage.delivered_tokens import Measured


class TranslatedStream(TranslatedAttempt):
    """An attempt whose answer is translated event by event.

    Args:
        call, channel, committed, settle, limits, plan: See TranslatedAttempt.
    """

    def __init__(
        self,
        call: Call,
        channel: Channel,
        committed: Callable[[Attempt], None],
        settle: Callable[[Call], None],
        limits: Switching,
        plan: CallTranslation,
    ) -> None:
        super().__init__(call, channel, committed, settle, limits, plan)
        self._events = EventBuffer(limits.event_bytes_max)
        self._tail = StreamTail()
        self._translator: StreamTranslator = StreamTranslator(
            self._upstream, self._client, self._terms, tells_trouble=False
        )
        self._held: list[bytes] = []
        self._held_bytes = 0
        self._events_in = 0

    def usage_so_far(self) -> Usage | None:
        """Return what the upstream has said of its usage; see Attempt."""
        return self._tail.usage()

    def measure(self, bytes_out: int, events_out: int) -> Measured:
        """Measure what the upstream gave; see Attempt."""
        return self._tail.measure(self.bytes_in, self._events_in)

    def usage_is_due(self) -> bool:
        """Tell whether only the usage is missing; see Attempt."""
        return self.stage is COMMITTED and self._has_ended() and self._tail.usage() is None

    def _begin(self, kind: bytes, content_type: bytes, headers: dict[bytes, bytes]) -> None:
        if kind != EVENT_STREAM:
            self.fail(ChannelRefused("The upstream answered in another form than was asked for."))

    def on_body(self, raw: bytes, parts: list[bytes], *, done: bool) -> None:
        """Translate and forward what one read brought."""
        if done:
            self._connection = None  # it is back in its pool
        if self._refusal is not None:
            self._hear_refusal(self._refusal, parts, done=done)
            return
        payload = parts[0] if len(parts) == 1 else b"".join(parts)
        self.bytes_in += len(payload)
        try:
            whole = self._events.feed(payload)
        except ChannelGarbled as error:
            self.fail(error)
            return
        if done:
            whole += close_event(self._events.take())
        if whole:
            self._carry(whole)
        if done and self._runs():
            self._end()

    def on_lost(self, error: RelayError) -> None:
        """Judge a broken connection: a stream that had said its last word is whole all the same."""
        self._connection = None
        if self._has_ended():
            self._end()
        elif self.stage is COMMITTED:
            self.fail(ChannelTruncated("The upstream broke off in the middle of its answer."))
        else:
            self.fail(error)

    def last_word(self) -> LastWord:
        """Tell whether a silent stream is whole; see Attempt."""
        if not self._has_ended():
            return LastWord.DUE
        if self._endpoint is not Endpoint.CHAT or self._tail.has_done_marker():
            return LastWord.FINAL
        return LastWord.SAID if self._tail.usage() is None else LastWord.FINAL

    def lapse(self, error: RelayError) -> None:
        """End on a stall: a stream that had said its last word only kept its connection open."""
        if self._has_ended():
            self._drop_connection()
            self._end()
        else:
            self.fail(error)

    def _carry(self, whole: bytes) -> None:
        """Translate some whole events; an error among them ends the attempt behind the others."""
        error: RelayError | None = None
        if whole.find(b'"error"') >= 0 and (code := find_error(whole)) is not None:
            whole, told = _split_at_error(whole)
            error = read_reported_error(event_payload(told), code, known_by(self.channel))
            if told.find(b'"usage') >= 0:
                self._tail.note(told)  # what it used until then is said nowhere else
        if whole:
            self._note(whole)
            self._send(self._translator.feed(whole))
            self._keep()
            trouble = self._translator.trouble
            if error is None and trouble is not None:
                error = self._failed_with(trouble)
        if error is not None:
            self.fail(error)

    def _note(self, whole: bytes) -> None:
        self._events_in += max(1, whole.count(b"\n\n"))
        if len(whole) < LIFE_BYTES_MAX and is_sign_of_life(whole):
            self.life_bytes += len(whole)
        else:
            self._tail.note(whole)

    def _keep(self) -> None:
        pairs = self._translator.take_signatures()
        if pairs:
            self._plan.keep(self.channel, pairs)

    def _send(self, block: bytes) -> None:
        """Send the client's events, once there is output among them."""
        if not block:
            return
        if self.stage is not COMMITTED:
            self._held.append(block)
            self._held_bytes += len(block)
            if self._held_bytes <= self._limits.gate_bytes_max:
                verdict = judge_first(block, self.call.head.endpoint)
                if verdict is not FirstBlock.OUTPUT:
                    return
            block = self._open_gate()
        self._count(block)
        self.call.response.send_events(block)
        self.call.response.spoke_s = clock_s()

    def _open_gate(self) -> bytes:
        """Commit; return what was held."""
        block = b"".join(self._held)
        self._held.clear()
        call = self.call
        if call.head.endpoint is Endpoint.RESPONSES:
            call.opening = block
        self._announce(())
        self._commit()
        if call.delivered_text is not None:
            call.delivered_text.release()  # what is translated is never carried on
            call.delivered_text = None
        call.forget_question()
        return block

    def _count(self, block: bytes) -> None:
        self.call.events_out += block.count(b"\n\n")
        self.call.bytes_out += len(block)

    def _runs(self) -> bool:
        return self.error is None and self.stage is not ENDED

    def _has_ended(self) -> bool:
        """Tell whether the upstream's last word was said."""
        return self._tail.ending(self._endpoint) is StreamEnding.COMPLETE

    def _end(self) -> None:
        """End the client's stream: whole only if the upstream said its last word."""
        if not self._has_ended():
            if self.stage is COMMITTED:
                self.fail(ChannelTruncated("The upstream ended before its answer was complete."))
            else:
                self.fail(ChannelTruncated("The upstream ended its stream before any output."))
            return
        last: bytes = self._translator.end()
        trouble = self._translator.trouble
        if trouble is not None:
            self.fail(self._failed_with(trouble))
            return
        self._keep()
        if self.stage is not COMMITTED:
            last = self._open_gate() + last
        self._count(last)
        self.call.usage = self._tail.usage()
        self._complete()
        self.call.response.send_events(last, last=True)
        self._resolve()


def _split_at_error(whole: bytes) -> tuple[bytes, bytes]:
    """Return the events before the first one that is an error, and that one."""
    good: list[bytes] = []
    for event in split_events(whole):
        if event.find(b'"error"') >= 0 and find_error(event) is not None:
            return b"".join(good), event
        good.append(event)
    return whole, b""
