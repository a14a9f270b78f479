"""A client's socket: where a connection stands, and what of it outlasts its requests.

Where it stands is its phase (edge.client.phase), which `_move` alone changes, and with it the
deadline.
"""

import asyncio
import math
from collections.abc import Callable
from typing import Final, cast

from relay.clock import clock_s
from relay.config import Timeouts
from relay.edge.client.body import LINGER_S
from relay.edge.client.head import ParsedHead
from relay.edge.client.phase import (
    CLOSING,
    FRESH,
    HEAD,
    HELD,
    RECEIVING,
    RESTING,
    illegal_move,
    may_move,
)
from relay.flow.ports import Backpressure, Client
from relay.flow.response import swallow
from relay.limits.addresses import Visitor

FIRST_REQUEST_S: Final = 2.0
"""How long a connection that has asked nothing yet is kept while draining."""
PARSER_HOLDS: Final = 1
"""Reading stops: the parser has as much of a body as it takes."""
EARLY_HOLDS: Final = 2
"""Reading stops: enough has come before its turn."""


DOOR_HOLDS: Final = 4
"""Reading stops for a moment: its address tries keys (edge.door)."""


class ClientSocket(Client):
    """The part of a connection that a call sees: where its answer goes, and how fast."""

    __slots__ = (
        "_backpressure",
        "_phase",
        "_read_holds",
        "_timeouts",
        "_unsent_bytes",
        "_writing_paused",
        "bodiless",
        "deadline_s",
        "handed_over",
        "keeps_alive",
        "let_in",
        "peer_ip",
        "takes_chunks",
        "told_ip",
        "transport",
        "visitor",
        "write",
    )

    def __init__(self, timeouts: Timeouts) -> None:
        self._timeouts = timeouts
        self._phase = FRESH
        self.deadline_s = math.inf
        """Until when the client has to do its part, in seconds of time.monotonic."""
        self._read_holds = 0
        """Why the transport is paused: PARSER_HOLDS, EARLY_HOLDS, DOOR_HOLDS."""
        self._unsent_bytes = 0
        """What the client had not taken when it was last looked at, HELD."""
        self.transport: asyncio.Transport | None = None
        self.write: Callable[[bytes], None] = swallow
        """The transport's own write; a connection that is gone swallows what comes."""
        self._writing_paused = False
        self._backpressure: Backpressure | None = None
        self.peer_ip = ""
        self.told_ip = ""
        """Its client's address, as a trusted balancer told it before all else."""
        self.visitor: Visitor | None = None
        """What the door knows of its address; None: a proxy's, or none."""
        self.let_in = False
        """In overload its request was looked at before it was parsed, and let in."""
        self.keeps_alive = True
        self.bodiless = False
        """The request was a HEAD: its answer has no body."""
        self.takes_chunks = True
        self.handed_over = False
        """Another protocol has its socket: it hears of its end, and of nothing else."""

    @property
    def secure(self) -> bool:
        """Whether its client reached us over TLS."""
        transport = self.transport
        return transport is not None and transport.get_extra_info("ssl_object") is not None

    def take_in(self, transport: asyncio.Transport) -> None:
        """Begin: it is connected."""
        peer = transport.get_extra_info("peername")
        self.peer_ip = self.told_ip or (peer[0] if peer else "")
        self.transport = transport
        self.write = transport.write
        self.deadline_s = clock_s() + self._timeouts.head_s

    def let_out(self) -> None:
        """End: the client is gone, and whoever feeds it hears of it now."""
        self.write = swallow
        self.transport = None
        if self._backpressure is not None:
            self._backpressure.leave()

    def connection_lost(self, exc: BaseException | None) -> None:
        """The client is gone."""
        self.let_out()

    def close(self) -> None:
        """Take no more; close when what was written is out."""
        if self._phase < CLOSING:
            self._move(CLOSING)
        if self.transport is not None:
            self.transport.close()

    def linger(self) -> None:
        """Take no more, but let the client go on sending for a moment, unread: it has its answer.

        Closing at once would have the kernel reset the connection, and a client that sends before
        it reads would never see why.
        """
        transport = self.transport
        if self._phase >= CLOSING or transport is None or not transport.can_write_eof():
            self.close()
            return
        self._move(CLOSING)
        self.deadline_s = clock_s() + LINGER_S
        transport.write_eof()
        self.let_read(self._read_holds)

    @property
    def awaited(self) -> bool:
        """Whether an answer is due, or a first request may be on its way."""
        return self._phase != RESTING and self._phase < CLOSING

    @property
    def idle(self) -> bool:
        """Whether nothing of a request has come since the last answer, or at all."""
        return self._phase < HEAD

    @property
    def serving(self) -> bool:
        """Whether a request is being served."""
        return RECEIVING <= self._phase < CLOSING

    @property
    def phase(self) -> int:
        """Where it stands (edge.client.phase)."""
        return self._phase

    def _move(self, phase: int) -> None:
        """Go to another phase; the one place that changes it, and the deadline with it.

        Raises:
            AssertionError: `phase` does not follow the one it is in: a bug of ours.
        """
        if not may_move(self._phase, phase):
            raise illegal_move(self._phase, phase)
        self._phase = phase
        if phase == RESTING:
            self.deadline_s = clock_s() + self._timeouts.idle_s
        elif phase == HEAD:
            self.deadline_s = clock_s() + self._timeouts.head_s
        elif phase == HELD and self._writing_paused:
            self._unsent_bytes = self.unsent_bytes
            self.deadline_s = clock_s() + self._timeouts.write_s
        else:
            self.deadline_s = math.inf

    def hand_over(self, protocol: object) -> None:
        """Let `protocol` have the socket from now on.

        The connection stays open, and busy, until it is told that its socket is gone.
        """
        assert self.transport is not None
        self.handed_over = True
        self.transport.set_protocol(cast("asyncio.Protocol", protocol))

    def retire(self) -> None:
        """Close after the answer that is due (draining); now where none is.

        A client that has just connected cannot know of the end: its first request may be on its
        way, and gets an answer. So does one that has sent a part of a request.
        """
        self.keeps_alive = False
        if self.awaited:
            self.deadline_s = min(self.deadline_s, clock_s() + FIRST_REQUEST_S)
        else:
            self.close()

    def note(self, message: ParsedHead, *, loses_rest: bool) -> None:
        """Note what a head says of its connection.

        `loses_rest`: the parser may have lost what is behind it.

        HTTP/1.0 is served one request a connection: what it says of keeping one is an extension,
        and with a Transfer-Encoding its framing cannot be trusted.
        Source: RFC 9112, section 6.1.
        """
        current = message.version >= (1, 1)
        self.keeps_alive = self.keeps_alive and current and not message.should_close
        if message.upgrade and loses_rest:
            self.keeps_alive = False
        self.takes_chunks = current
        self.bodiless = message.method == "HEAD"

    @property
    def unsent_bytes(self) -> int:
        """What the client has not taken yet."""
        return self.transport.get_write_buffer_size() if self.transport is not None else 0

    def set_backpressure(self, backpressure: Backpressure | None) -> None:
        """Tell `backpressure` from now on of a full and of a drained buffer."""
        self._backpressure = backpressure
        if backpressure is not None and self._writing_paused:
            backpressure.pause()

    def hold_reading(self, reason: int) -> None:
        """Read no more, for one of the reasons."""
        if not self._read_holds and self.transport is not None:
            self.transport.pause_reading()
        self._read_holds |= reason

    def let_read(self, reason: int) -> None:
        """Read on, unless there is another reason not to."""
        if not self._read_holds:
            return
        self._read_holds &= ~reason
        transport = self.transport
        if not self._read_holds and transport is not None and not transport.is_closing():
            transport.resume_reading()

    def pause_reading(self) -> None:
        """Do as a transport does, for the parser: it has enough."""
        self.hold_reading(PARSER_HOLDS)

    def resume_reading(self) -> None:
        """Do as a transport does, for the parser: it can take more."""
        self.let_read(PARSER_HOLDS)

    def cut(self) -> None:
        """Drop the connection at once, unsent bytes with it."""
        if self.transport is not None:
            self.transport.abort()

    def pause_writing(self) -> None:
        """The client is slower than its upstream."""
        self._writing_paused = True
        if self._backpressure is not None:
            self._backpressure.pause()

    def resume_writing(self) -> None:
        """The client has caught up."""
        self._writing_paused = False
        if self._backpressure is not None:
            self._backpressure.resume()
