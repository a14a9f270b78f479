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

import asyncio
import enum
from collections.abc import Callable
from typing import Final

from relay.call import Endpoint, Stage
from relay.config import Switching
from relay.errors import ChannelGarbled, ChannelRefused, ChannelTruncated, RelayError
from relay.flow.active import ActiveCall
from relay.flow.held import Held
from relay.flow.outlet import Outlet
from relay.flow.ports import Connection
from relay.flow.trace import Trace
from relay.wire.heads import EVENT_STREAM, is_canonical
from relay.wire.refusal import is_error_body, read_refusal
from relay.wire.sse import EventBuffer, close_event, split_events
from relay.wire.verdict import Ending, First, drop_usage_event, find_error, judge_first

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


class Pump:
    """One call's pump; `begin` starts it anew for each attempt.

    Args:
        call: The call it serves.
        outlet: Where the answer goes.
        limits: Bounds on what may be held back.
        strip_usage: The usage event is ours, not the client's wish: keep it from the client.
        settle: Called once when the answer is complete, before its last bytes go out, so that
            no client can hold a whole answer that was not yet written down.
    """

    __slots__ = (
        "_aligned",
        "_call",
        "_connection",
        "_content_type",
        "_events",
        "_headers",
        "_held",
        "_length",
        "_limits",
        "_mode",
        "_settle",
        "_status",
        "_strip_usage",
        "_trace",
        "bytes_in",
        "outlet",
        "paused",
    )

    def __init__(
        self,
        call: ActiveCall,
        outlet: Outlet,
        limits: Switching,
        settle: Callable[[ActiveCall], None],
        *,
        strip_usage: bool,
    ) -> None:
        self._call = call
        self._limits = limits
        self._settle = settle
        self._strip_usage = strip_usage
        self._connection: Connection | None = None
        self._mode = Mode.ENDED
        self.outlet = outlet
        self.paused = False
        self.bytes_in = 0
        """Body bytes read; that it stands still is how a stall is noticed."""

    def begin(self, connection: Connection) -> None:
        """Get ready for the answer of a new attempt over `connection`."""
        self._connection = connection
        self._mode = Mode.AWAITED
        self._status = 0
        self._headers: list[tuple[bytes, bytes]] = []
        self._content_type = b""
        self._length: int | None = None
        self._events = EventBuffer(self._limits.event_bytes_max)
        self._held = Held()
        self._trace = Trace()
        self._aligned = False
        if self.paused:
            connection.pause()

    def stop(self) -> None:
        """Give the attempt up: its connection is dropped, what still comes of it is ignored."""
        self._mode = Mode.ENDED
        if self._connection is not None:
            self._connection.abort()
            self._connection = None

    # --- the client's appetite (Valve) ---------------------------------------------------------

    def pause(self) -> None:
        """The client is slow: stop reading its upstream."""
        self.paused = True
        if self._connection is not None:
            self._connection.pause()

    def resume(self) -> None:
        """The client has caught up."""
        self.paused = False
        if self._connection is not None:
            self._connection.resume()

    # --- the upstream's answer (Answer) --------------------------------------------------------

    def on_head(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        """Decide from the head what the body will be."""
        self._status = status
        self._headers = headers
        self._call.stage = Stage.HEADED
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
        elif kind == b"text/html" or self._call.stream is not (kind == EVENT_STREAM):
            self.fail(ChannelRefused("The upstream answered in another form than was asked for."))
        else:
            self._mode = Mode.GATE if self._call.stream else Mode.WHOLE

    def on_body(self, raw: bytes, parts: list[bytes], *, done: bool) -> None:
        """Carry on what one read brought: the hot path, one call for each read of a stream."""
        if self._mode is not Mode.EVENTS:
            self._take_cold(parts, done=done)
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
            outlet = self.outlet
            if sent is payload and aligned and outlet.chunks and is_canonical(raw, parts):
                outlet.write(raw)
            elif sent:
                outlet.write(outlet.frame(sent))

    def on_lost(self, error: RelayError) -> None:
        """Judge a broken connection: a stream that had said its last word is whole all the same."""
        self._connection = None
        if self._mode is Mode.EVENTS and self._trace.ending(self._call.endpoint) is Ending.COMPLETE:
            self._end_events(b"")
        elif self._call.stage is Stage.COMMITTED:
            self.fail(ChannelTruncated("The upstream broke off in the middle of its answer."))
        else:
            self.fail(error)

    # --- before the commit ------------------------------------------------------------------------

    def _take_cold(self, parts: list[bytes], *, done: bool) -> None:
        """Carry on a body that is not a committed event stream."""
        payload = b"".join(parts)
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
            verdict = judge_first(whole, self._call.endpoint)
            if verdict is First.ERROR:
                self.fail(ChannelRefused("The upstream began its stream with an error."))
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
        self._commit()
        if block.startswith(b"id:") or b"\nid:" in block:
            self.outlet.comments_safe = False
        if done:
            self._end_events(block)
            return
        sent = self._inspect(block)
        if sent:
            self.outlet.send_events(sent)

    def _take_whole(self, payload: bytes, *, done: bool) -> None:
        """Hold a plain body while it is small: a cut of it can then still be switched."""
        self._held.add(payload)
        if done:
            body = self._held.release()
            if is_error_body(body):
                self.fail(ChannelRefused("The upstream answered 200 with an error."))
                return
            self._commit()
            self._note(body)
            self._complete()
            self.outlet.send_whole(self._content_type, body)
            self._call.resolve(None)
        elif self._held.size_bytes > self._limits.gate_bytes_max:
            body = self._held.release()
            self._mode = Mode.PASSING
            self._commit()
            self._note(body)
            self.outlet.begin_body(self._content_type, self._length, body)

    def _take_passing(self, payload: bytes, *, done: bool) -> None:
        """Pass a large body on as it comes."""
        if payload:
            self._note(payload)
        if done:
            self._complete()
        self.outlet.send_body(payload, last=done)
        if done:
            self._call.resolve(None)

    def _commit(self) -> None:
        call = self._call
        call.stage = Stage.COMMITTED
        call.first_byte_s = asyncio.get_running_loop().time()

    # --- the stream itself ----------------------------------------------------------------------

    def _inspect(self, whole: bytes) -> bytes:
        """Return what of some whole events goes to the client, b"" if nothing does.

        Keeps what the ending will be judged by. An error in the stream ends the attempt here: what
        came before it goes out, the error itself is told in our own words.
        """
        if b'"error"' in whole and find_error(whole) is not None:
            self._cut_at_error(whole)
            return b""
        self._note(whole)
        return drop_usage_event(whole) if self._strip_usage else whole

    def _note(self, block: bytes) -> None:
        call = self._call
        call.events_out += block.count(b"\n\n") or block.count(b"\n\r\n")
        call.bytes_out += len(block)
        self._trace.note(block)

    def _cut_at_error(self, whole: bytes) -> None:
        good: list[bytes] = []
        for event in split_events(whole):
            if b'"error"' in event and find_error(event) is not None:
                break
            good.append(event)
        if good:
            block = b"".join(good)
            self._note(block)
            self.outlet.send_events(drop_usage_event(block) if self._strip_usage else block)
        self.fail(ChannelTruncated("The upstream reported an error in the middle of its answer."))

    def _end_events(self, whole: bytes) -> None:
        """End an event stream: complete only if the protocol's own last word was said."""
        whole += close_event(self._events.take())
        sent = self._inspect(whole) if whole else b""
        if self._mode is Mode.ENDED:
            return  # the last events held an error
        if self._trace.ending(self._call.endpoint) is not Ending.COMPLETE:
            self.outlet.send_events(sent)
            self.fail(ChannelTruncated("The upstream ended before its answer was complete."))
            return
        if self._call.endpoint in MARKED_ENDPOINTS and not self._trace.has_done_marker():
            sent += DONE_EVENT
        self._complete()
        self.outlet.send_events(sent, last=True)
        self._call.resolve(None)

    def _complete(self) -> None:
        """Settle a whole answer; its last bytes go out after this."""
        self._mode = Mode.ENDED
        self._connection = None
        self._call.usage = self._trace.usage()
        self._settle(self._call)

    def fail(self, error: RelayError) -> None:
        """End the running attempt with `error`; the exchange decides what comes of it."""
        self.stop()
        self._call.resolve(error)
