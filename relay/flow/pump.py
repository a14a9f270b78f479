"""The pump: carries an upstream's answer to the client as it comes, inside the socket's callback.

    on_head --> REFUSAL (not 2xx)     collected, read, the attempt fails
            --> GATE    (SSE)         held until the first real event: then committed
                 --> EVENTS           whole events only, one write for each read
            --> WHOLE   (JSON)        held while small, sent as one piece with its length
                 --> PASSING          larger bodies and audio: passed on with backpressure

No payload byte is decoded, re-encoded or split on the way; where a read is exactly whole frames of
whole events, the very same bytes object goes to the client. Before the commit nothing of an answer
has reached the client, so that any failure can still be served by another channel.
"""

import enum
from collections.abc import Callable
from typing import Final

from relay.call import Endpoint, Stage, Usage
from relay.config import Switching
from relay.errors import (
    ChannelGarbled,
    ChannelRefused,
    ChannelReportedError,
    ChannelTruncated,
    RelayError,
)
from relay.flow.active import ActiveCall
from relay.flow.attempt import Attempt
from relay.flow.held import Held
from relay.flow.trace import Trace
from relay.model import Channel
from relay.routing.gates import CLIENT_FAULT_CODES
from relay.wire.heads import EVENT_STREAM, is_canonical
from relay.wire.refusal import is_error_body, read_refusal, reject
from relay.wire.sse import EventBuffer, close_event, split_events
from relay.wire.usage import find_usage
from relay.wire.verdict import (
    UNKNOWN_ERROR,
    Ending,
    First,
    drop_usage_event,
    find_error,
    judge_first,
)

DONE_EVENT: Final = b"data: [DONE]\n\n"
REFUSAL_BYTES_MAX: Final = 64 * 1024
MARKED_ENDPOINTS: Final = frozenset({Endpoint.CHAT, Endpoint.COMPLETIONS})
"""Streams whose clients wait for [DONE]."""


class Mode(enum.Enum):
    """What the bytes of the running attempt are; see the module's picture."""

    AWAITED = "awaited"
    REFUSAL = "refusal"
    GATE = "gate"
    EVENTS = "events"
    WHOLE = "whole"
    PASSING = "passing"
    ENDED = "ended"


class Pump(Attempt):
    """An attempt whose answer goes to the client as it is.

    Args:
        call, channel, committed, settle: See Attempt.
        limits: Bounds on what may be held back.
    """

    __slots__ = (
        "_aligned",
        "_content_type",
        "_events",
        "_headers",
        "_held",
        "_length",
        "_limits",
        "_mode",
        "_outlet",
        "_status",
        "_strip_usage",
        "_trace",
    )

    def __init__(
        self,
        call: ActiveCall,
        channel: Channel,
        committed: Callable[[Attempt], None],
        settle: Callable[[ActiveCall], None],
        limits: Switching,
    ) -> None:
        super().__init__(call, channel, committed, settle)
        self._limits = limits
        self._outlet = call.outlet
        self._strip_usage = call.question.strips_usage
        self._mode = Mode.AWAITED
        self._status = 0
        self._headers: list[tuple[bytes, bytes]] = []
        self._content_type = b""
        self._length: int | None = None
        self._events: EventBuffer
        self._held = Held()
        self._trace: Trace
        self._aligned = False

    def stop(self) -> None:
        """Give up; see Attempt."""
        self._mode = Mode.ENDED
        super().stop()

    # --- the upstream's answer (Answer) --------------------------------------------------------

    def on_head(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        """Decide from the head what the body will be."""
        self._status = status
        self._headers = headers
        self.stage = Stage.HEADED
        if not 200 <= status < 300:
            self._mode = Mode.REFUSAL
            return
        encoding = b""
        for name, value in headers:
            if name == b"content-type":
                self._content_type = value
            elif name == b"content-length":
                self._length = int(value)
            elif name == b"content-encoding":
                encoding = value
        kind = self._content_type.partition(b";")[0].strip().lower()
        if encoding not in (b"", b"identity"):
            self.fail(ChannelGarbled("The upstream encoded an answer nobody asked it to encode."))
        elif kind == b"text/html" or self.call.stream is not (kind == EVENT_STREAM):
            self.fail(ChannelRefused("The upstream answered in another form than was asked for."))
        else:
            self._mode = Mode.WHOLE
            if self.call.stream:
                self._mode = Mode.GATE
                self._events = EventBuffer(self._limits.event_bytes_max)
                self._trace = Trace()

    def on_body(self, raw: bytes, parts: list[bytes], *, done: bool) -> None:
        """Carry on what one read brought: the hot path, one call for each read of a stream."""
        if done:
            self._connection = None  # it is back in its pool, for the next call
        if self._mode is not Mode.EVENTS:
            payload = b"".join(parts)
            self._aligned = raw[-2:] == b"\r\n" and payload[-2:] == b"\n\n"
            self._take_cold(payload, done=done)
            return
        payload = parts[0] if len(parts) == 1 else b"".join(parts)
        self.bytes_in += len(payload)
        try:
            whole = self._events.feed(payload)
        except ChannelGarbled as error:
            self.fail(error)
            return
        aligned = self._aligned
        self._aligned = raw[-2:] == b"\r\n" and payload[-2:] == b"\n\n"
        if done:
            self._end_events(whole)
        elif whole:
            sent = self._inspect(whole)
            outlet = self._outlet
            if sent is payload and aligned and outlet.chunks and is_canonical(raw, parts):
                outlet.write(raw)
            elif sent:
                outlet.write(outlet.frame(sent))

    def on_lost(self, error: RelayError) -> None:
        """Judge a broken connection: a stream that had said its last word is whole all the same."""
        self._connection = None
        if self._mode is Mode.EVENTS and self._has_ended():
            self._end_events(b"")
        elif self.stage is Stage.COMMITTED:
            self.fail(ChannelTruncated("The upstream broke off in the middle of its answer."))
        else:
            self.fail(error)

    def lapse(self, error: RelayError) -> None:
        """End on a stall: a stream that had said its last word only kept its connection open."""
        if self._mode is Mode.EVENTS and self._has_ended():
            self._drop_connection()
            self._end_events(b"")
        else:
            self.fail(error)

    # --- before the commit ------------------------------------------------------------------------

    def _take_cold(self, payload: bytes, *, done: bool) -> None:
        """Carry on a body that is not a committed event stream."""
        self.bytes_in += len(payload)
        if self._mode is Mode.GATE:
            self._take_gate(payload, done=done)
        elif self._mode is Mode.WHOLE:
            self._take_whole(payload, done=done)
        elif self._mode is Mode.PASSING:
            self._take_passing(payload, done=done)
        elif self._mode is Mode.REFUSAL:
            self._held.add(payload)
            if done or self._held.size_bytes > REFUSAL_BYTES_MAX:
                self.fail(read_refusal(self._status, self._headers, self._held.release()))

    def _take_gate(self, payload: bytes, *, done: bool) -> None:
        """Hold an event stream back until it has shown its first real event."""
        try:
            whole = self._events.feed(payload)
        except ChannelGarbled as error:
            self.fail(error)
            return
        if done:
            whole += close_event(self._events.take())
        if whole:
            self._held.add(whole)
            verdict = judge_first(whole, self.call.endpoint)
            if verdict is First.ERROR:
                self.fail(_error_event(find_error(whole)))
                return
            if verdict is First.OUTPUT or self._held.size_bytes > self._limits.gate_bytes_max:
                self._open_gate(done=done)
                return
        if done:
            self.fail(ChannelTruncated("The upstream ended its stream before any output."))

    def _open_gate(self, *, done: bool) -> None:
        """Commit: from here on this channel has the call."""
        block = self._held.release()
        self._mode = Mode.EVENTS
        self.call.opening = block
        self._commit()
        if block.startswith(b"id:") or b"\nid:" in block:
            self._outlet.comments_safe = False
        if done:
            self._end_events(block)
            return
        sent = self._inspect(block)
        if sent:
            self._outlet.send_events(sent)

    def _take_whole(self, payload: bytes, *, done: bool) -> None:
        """Hold a plain body while it is small: a cut of it can then still be switched."""
        if done and not self._held.size_bytes:
            self._end_whole(payload)
            return
        self._held.add(payload)
        if done:
            self._end_whole(self._held.release())
        elif self._held.size_bytes > self._limits.gate_bytes_max:
            body = self._held.release()
            self._mode = Mode.PASSING
            self._trace = Trace()
            self._commit()
            self._note(body)
            self._outlet.begin_body(self._content_type, self._length, body)

    def _end_whole(self, body: bytes) -> None:
        """Send a plain body in one piece."""
        if is_error_body(body):
            self.fail(ChannelRefused("The upstream answered 200 with an error."))
            return
        self._commit()
        self.call.bytes_out = len(body)
        self._finish(find_usage(b"", body))
        self._outlet.send_whole(self._content_type, body)
        self._resolve()

    def _take_passing(self, payload: bytes, *, done: bool) -> None:
        """Pass a large body on as it comes."""
        if payload:
            self._note(payload)
        if done:
            self._finish(self._trace.usage())
        self._outlet.send_body(payload, last=done)
        if done:
            self._resolve()

    # --- the stream itself ----------------------------------------------------------------------

    def _inspect(self, whole: bytes) -> bytes:
        """Return what of some whole events goes to the client, b"" if nothing does.

        Keeps what the ending will be judged by. An error in the stream ends the attempt here: what
        came before it goes out, the error itself is told in our own words.
        """
        if b'"error"' in whole and (code := find_error(whole)) is not None:
            self._cut_at_error(whole, code)
            return b""
        self._note(whole)
        return drop_usage_event(whole) if self._strip_usage else whole

    def _note(self, block: bytes) -> None:
        call = self.call
        call.events_out += block.count(b"\n\n") or block.count(b"\n\r\n")
        call.bytes_out += len(block)
        self._trace.note(block)
        if call.keeper is not None:
            call.keeper.add(block)

    def _cut_at_error(self, whole: bytes, code: str) -> None:
        good: list[bytes] = []
        for event in split_events(whole):
            if b'"error"' in event and find_error(event) is not None:
                break
            good.append(event)
        if good:
            block = b"".join(good)
            self._note(block)
            self._outlet.send_events(drop_usage_event(block) if self._strip_usage else block)
        self.fail(_error_event(code))

    def _end_events(self, whole: bytes) -> None:
        """End an event stream: complete only if the protocol's own last word was said."""
        whole += close_event(self._events.take())
        sent = self._inspect(whole) if whole else b""
        if self._mode is Mode.ENDED:
            return  # the last events held an error
        if not self._has_ended():
            self._outlet.send_events(sent)
            self.fail(ChannelTruncated("The upstream ended before its answer was complete."))
            return
        if self.call.endpoint in MARKED_ENDPOINTS and not self._trace.has_done_marker():
            sent += DONE_EVENT
        self._finish(self._trace.usage())
        self._outlet.send_events(sent, last=True)
        self._resolve()

    def _has_ended(self) -> bool:
        """Tell whether the protocol's last word was said."""
        return self._trace.ending(self.call.endpoint) is Ending.COMPLETE

    def _finish(self, usage: Usage | None) -> None:
        """Settle a whole answer; its last bytes go out after this."""
        self._mode = Mode.ENDED
        self.call.usage = usage
        self._complete()


def _error_event(code: str | None) -> RelayError:
    """Return what an error inside a 200 amounts to: some, another channel would only repeat."""
    if code in CLIENT_FAULT_CODES:
        return reject(400, code)
    return ChannelReportedError(
        "The upstream reported an error inside its answer.", upstream_code=code or UNKNOWN_ERROR
    )
