"""The pump: carries an event stream to the client as it comes, inside the socket's callback.

    on_head --> GATE     held until the first real event: then committed
                 --> EVENTS   whole events only, one write for each read

No payload byte is decoded, re-encoded or split on the way; where a read is exactly whole frames of
whole events, the very same bytes object goes to the client. Before the commit nothing of an answer
has reached the client, so that any failure can still be served by another channel.
"""

import enum
from collections.abc import Callable
from typing import Final

from relay.config import Switching
from relay.errors import (
    ChannelGarbled,
    ChannelRefused,
    ChannelTruncated,
    RelayError,
)
from relay.flow.attempts.attempt import Attempt, LastWord
from relay.flow.attempts.buffer import Buffer
from relay.flow.attempts.tail import StreamTail
from relay.flow.call import Call
from relay.model import Channel
from relay.records import Endpoint
from relay.stage import COMMITTED
from relay.usage import Usage
from relay.wire.classify import (
    FirstBlock,
    StreamEnding,
    drop_usage_event,
    find_error,
    judge_first,
)
from relay.wire.http import EVENT_STREAM, FRAME_OF_EVENTS_END, is_canonical
from relay.wire.refusals.identity import known_by
from relay.wire.refusals.upstream_errors import read_reported_error
from relay.wire.sse import (
    LIFE_BYTES_MAX,
    EventBuffer,
    close_event,
    count_events,
    count_line_events,
    event_payload,
    is_sign_of_life,
    split_events,
)
from relay.wire.usage.delivered_tokens import Measured

DONE_EVENT: Final = b"data: [DONE]\n\n"
OPENING_BYTES: Final = 4 * 1024
"""Where a stream that numbers its events shows it: it begins with the first of them."""
MARKED_ENDPOINTS: Final = frozenset({Endpoint.CHAT, Endpoint.COMPLETIONS})
"""Streams whose clients wait for [DONE]."""


class Mode(enum.Enum):
    """What the bytes of the running attempt are; see the module's picture."""

    GATE = "gate"
    EVENTS = "events"
    ENDED = "ended"


# Looked up once: a member of an enum is searched in its class each time it is named.
_GATE: Final = Mode.GATE
_EVENTS: Final = Mode.EVENTS
_ENDED: Final = Mode.ENDED


class StreamAttempt(Attempt):
    """An attempt whose answer goes to the client as it is.

    Args:
        call, channel, committed, settle, limits: See Attempt.
    """

    _aligned: bool = False
    _counted: int = 0
    """Events of what is to be noted next, where its chunks tell; 0: it has to be counted."""
    _events: EventBuffer | None = None
    """Cuts reads at the ends of events; None while every read has ended with one."""
    _buffer: Buffer | None = None
    """What came before the first real event."""

    def __init__(
        self,
        call: Call,
        channel: Channel,
        committed: Callable[[Attempt], None],
        settle: Callable[[Call], None],
        limits: Switching,
    ) -> None:
        super().__init__(call, channel, committed, settle, limits)
        self._mode: Mode = _GATE
        self._response = call.response
        self._strip_usage = call.question.strips_usage
        self._tail = StreamTail()

    def usage_so_far(self) -> Usage | None:
        """Return what the stream has said of its usage; see Attempt."""
        return self._tail.usage()

    def measure(self, bytes_out: int, events_out: int) -> Measured:
        """Measure what went out; see Attempt."""
        return self._tail.measure(bytes_out, events_out)

    def usage_is_due(self) -> bool:
        """Tell whether only the usage is missing; see Attempt."""
        return self._mode is _EVENTS and self._has_ended() and self._tail.usage() is None

    def stop(self) -> None:
        """Give up; see Attempt."""
        self._mode = _ENDED
        super().stop()

    def renew(self) -> None:
        """Forget a connection that was closed before it took the question; see Attempt."""
        super().renew()
        self._mode = _GATE

    # --- the upstream's answer (Answer) --------------------------------------------------------

    def _begin(self, kind: bytes, content_type: bytes, headers: dict[bytes, bytes]) -> None:
        if kind != EVENT_STREAM:
            self.fail(ChannelRefused("The upstream answered in another form than was asked for."))

    def on_body(self, raw: bytes, parts: list[bytes], *, done: bool) -> None:
        """Carry on what one read brought: the hot path, one call for each read of a stream."""
        if done:
            self._connection = None  # it is back in its pool, for the next call
        if self._refusal is not None:
            self._hear_refusal(self._refusal, parts, done=done)
            return
        payload = parts[0] if len(parts) == 1 else self._join(parts)
        self.bytes_in += len(payload)
        if self._events is None and payload[-2:] == b"\n\n":
            whole = payload
        else:
            try:
                whole = self._feed(payload)
            except ChannelGarbled as error:
                self.fail(error)
                return
        aligned = self._aligned
        self._aligned = raw[-4:] == FRAME_OF_EVENTS_END and payload[-2:] == b"\n\n"
        if self._mode is _GATE:
            self._take_gate(whole, done=done)
        elif done:
            self._end_events(whole)
        elif whole:
            sent = self._inspect(whole)
            response = self._response
            if sent is payload and aligned and response.chunks and is_canonical(raw, parts):
                response.write(raw)
            elif sent:
                response.write(response.frame(sent))

    def on_frame(self, raw: bytes, payload: bytes) -> None:
        """Carry on what is whole as it came: the hottest path, one call for most events."""
        events = self._events
        if self._mode is not _EVENTS or (events is not None and events.held_bytes):
            self.on_body(raw, [payload], done=False)
            return
        self.bytes_in += len(payload)
        self._aligned = True
        sent = self._inspect(payload)
        response = self._response
        if sent is payload and response.chunks:
            response.write(raw)
        elif sent:
            response.write(response.frame(sent))

    def on_lost(self, error: RelayError) -> None:
        """Judge a broken connection: a stream that had said its last word is whole all the same."""
        self._connection = None
        if self._mode is _EVENTS and self._has_ended():
            self._end_events(b"")
        elif self.stage is COMMITTED:
            self.fail(ChannelTruncated("The upstream broke off in the middle of its answer."))
        else:
            self.fail(error)

    def last_word(self) -> LastWord:
        """Tell whether a silent stream is whole; see Attempt.

        Of several choices each has a finish reason, so that there only [DONE] is final.
        """
        if self._mode is not _EVENTS or not self._has_ended():
            return LastWord.DUE
        if self.call.head.endpoint not in MARKED_ENDPOINTS:
            several = self.call.request.choices > 1
            return LastWord.DUE if several else LastWord.FINAL
        if self._tail.has_done_marker():
            return LastWord.FINAL
        if self.call.request.choices > 1:
            return LastWord.DUE
        return LastWord.SAID if self._tail.usage() is None else LastWord.FINAL

    def lapse(self, error: RelayError) -> None:
        """End on a stall: a stream that had said its last word only kept its connection open."""
        if self._mode is _EVENTS and self._has_ended():
            self._drop_connection()
            self._end_events(b"")
        else:
            self.fail(error)

    def _join(self, parts: list[bytes]) -> bytes:
        """Return what the chunks of a read hold, its events counted where these tell."""
        joined = b"".join(parts)
        self._counted = count_line_events(parts) if self._buffer is None else 0
        return joined

    # --- before the commit ------------------------------------------------------------------------

    def _take_gate(self, whole: bytes, *, done: bool) -> None:
        """Hold an event stream back until it has shown its first real event."""
        if whole:
            buffer = self._buffer
            if buffer is None:
                buffer = self._buffer = Buffer()
            buffer.add(whole)
            verdict = judge_first(whole, self.call.head.endpoint)
            if verdict is FirstBlock.ERROR:
                self.fail(self._reported(whole, find_error(whole)))
                return
            if verdict is FirstBlock.OUTPUT or buffer.size_bytes > self._limits.gate_bytes_max:
                self._open_gate(buffer.release(), done=done)
                return
            self._counted = 0  # what is let go later is more than this read brought
        if done:
            self._end_gate()

    def _end_gate(self) -> None:
        """End without output: an event that was not closed may say why, but is no answer."""
        rest = self._rest()
        code = find_error(rest)
        if code is not None:
            self.fail(self._reported(rest, code))
        else:
            self.fail(ChannelTruncated("The upstream ended its stream before any output."))

    def _open_gate(self, block: bytes, *, done: bool) -> None:
        """Commit: from here on this channel has the call; `block` is what was held."""
        self._buffer = None
        self._mode = _EVENTS
        if self.call.head.endpoint is Endpoint.RESPONSES:
            self.call.opening = block
        self._commit()
        if self.call.delivered_text is None:
            self.call.forget_question()  # this stream will not be carried on: nobody asks again
        if block.startswith(b"id:") or block.rfind(b"\nid:", 0, OPENING_BYTES) >= 0:
            self._response.comments_safe = False
        if done:
            self._end_events(block)
            return
        sent = self._inspect(block)
        if sent:
            self._response.send_events(sent)

    def _feed(self, payload: bytes) -> bytes:
        """Return the whole events that a read completed; see EventBuffer.feed."""
        events = self._events
        if events is None:
            events = self._events = EventBuffer(self._limits.event_bytes_max)
        return events.feed(payload)

    def _rest(self) -> bytes:
        """Return the event that was not closed when its stream ended, b"" where it is not whole."""
        return b"" if self._events is None else close_event(self._events.take())

    # --- the stream itself ----------------------------------------------------------------------

    def _inspect(self, whole: bytes) -> bytes:
        """Return what of some whole events goes to the client, b"" if nothing does.

        Keeps what the ending will be judged by. An error in the stream ends the attempt here: what
        came before it goes out, the error itself is told in our own words.
        """
        if whole.rfind(b'"error"') >= 0 and (code := find_error(whole)) is not None:
            self._cut_at_error(whole, code)
            return b""
        self._note(whole)
        return drop_usage_event(whole) if self._strip_usage else whole

    def _note(self, block: bytes) -> None:
        call = self.call
        call.events_out += self._counted or count_events(block)
        self._counted = 0
        size = len(block)
        call.bytes_out += size
        if size < LIFE_BYTES_MAX and is_sign_of_life(block):
            self.life_bytes += size
        else:
            self._tail.note(block)
        if call.delivered_text is not None:
            call.delivered_text.add(block)

    def _cut_at_error(self, whole: bytes, code: str) -> None:
        self._counted = 0
        good: list[bytes] = []
        told = b""
        for event in split_events(whole):
            if b'"error"' in event and find_error(event) is not None:
                told = event
                break
            good.append(event)
        if good:
            block = b"".join(good)
            self._note(block)
            self._response.send_events(drop_usage_event(block) if self._strip_usage else block)
        if b'"usage' in told:
            self._tail.note(told)  # what it used until then is said nowhere else
        self.fail(self._reported(told, code))

    def _reported(self, block: bytes, code: str | None) -> RelayError:
        """Return what an error among these events amounts to."""
        events = (event for event in split_events(block) if find_error(event) is not None)
        said = event_payload(next(events, b""))
        return read_reported_error(said, code, known_by(self.channel))

    def _end_events(self, whole: bytes) -> None:
        """End an event stream: complete only if the protocol's own last word was said."""
        sent = self._inspect(whole) if whole else b""
        if self._mode is _ENDED:
            return  # the last events held an error
        complete = self._has_ended()
        rest = self._rest()
        if rest:
            # What was not closed ends nothing; but there may be more text in it, or the usage.
            self._response.send_events(sent)
            sent = self._inspect(rest)
            if self.error is not None:
                return
            complete = complete and self._has_ended()
        if not complete:
            self._response.send_events(sent)
            self.fail(ChannelTruncated("The upstream ended before its answer was complete."))
            return
        if self.call.head.endpoint in MARKED_ENDPOINTS and not self._tail.has_done_marker():
            sent += DONE_EVENT
        self._finish(self._tail.usage())
        self._response.send_events(sent, last=True)
        self._resolve()

    def _has_ended(self) -> bool:
        """Tell whether the protocol's last word was said."""
        return self._tail.ending(self.call.head.endpoint) is StreamEnding.COMPLETE

    def _finish(self, usage: Usage | None) -> None:
        """Settle a whole answer; its last bytes go out after this."""
        self._mode = _ENDED
        self.call.usage = usage
        self._complete()
