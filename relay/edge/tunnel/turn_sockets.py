"""The WebSockets by which channels answer the turns of a session, where they speak it.

    a turn --> take: the socket that has the turn before | an idle one
           --> dial: a handshake; refused: this channel is asked over HTTP for a while
    bytes of a request --> response.create: only what is new, where the socket has the turn before
    a text --> an event, as HTTP would have brought it: to its attempt it is a connection

So limits, switching, splices, metering and the log know nothing of it, and each text goes out to
the client as the same bytes. A provider keeps a turn that it was told not to store for the one
connection it was asked over, so a session has sockets of its own; what is lost with one is asked
for once more as a whole (wire.turns.context).

Source: OpenAI API reference, Responses over WebSocket; openai/codex (`responses_websockets`).
"""

import asyncio
from collections.abc import Callable
from typing import Final

from relay.clock import clock_s
from relay.edge.tunnel.turn import Turn
from relay.edge.tunnel.upstream_socket import SocketListener, UpstreamSocket
from relay.errors import ConnectionBroken, RelayError, forget_frames
from relay.flow.call import Call
from relay.flow.request import RequestHead
from relay.model import Channel
from relay.ports import AnswerListener
from relay.reach import Speaks
from relay.records import Endpoint
from relay.upstream.pool import UpstreamPool
from relay.wire.state.answered import opened
from relay.wire.state.marks import KIND_BYTES, RESPONSE
from relay.wire.turns.asked import (
    COMPLETED,
    CREATED,
    ENDS,
    ERROR,
    ToldRefusal,
    create_text,
    event_of,
    read_refusal_text,
    type_of,
)
from relay.wire.turns.frames import Delta
from relay.wire.websocket import NORMAL

OPEN_S: Final = 5.0
"""What a handshake may take; after that a turn is asked over HTTP."""
WITHOUT_S: Final = 300.0
"""For so long nobody asks a channel again that has refused a handshake."""
OLD_S: Final = 55 * 60.0
"""Providers end a connection after an hour."""
IDLE_S: Final = 600.0
BETA: Final = b"OpenAI-Beta: responses_websockets=2026-02-06\r\n"
PATH: Final = "/responses"
_PASSING: Final = frozenset({401, 403, 408, 429})
"""Statuses that say nothing of whether a channel speaks it."""


class SocketDesk:
    """Opens sockets to channels, and knows which of them have none.

    Args:
        pool: Dials upstreams.
    """

    def __init__(self, pool: UpstreamPool) -> None:
        self._pool = pool
        self._without: dict[tuple[int, int], float] = {}
        """Until when a channel, as the catalog has it, is not asked for one."""

    def may_speak(self, channel: Channel) -> bool:
        """Tell whether a channel speaks it, as far as anybody knows."""
        reach = channel.reach
        wish = Speaks.FOUND_OUT if reach is None else reach.websocket
        if channel.protocol is not Endpoint.RESPONSES.dialect or wish is Speaks.NO:
            return False
        if reach is not None and (reach.signs or reach.names_model):
            return False
        return wish is Speaks.YES or self._without.get(_key(channel), 0.0) < clock_s()

    async def open(
        self, channel: Channel, head: RequestHead, listener: SocketListener
    ) -> UpstreamSocket | None:
        """Open a socket; None: the channel has none.

        Raises:
            RelayError: It takes no connection.
        """
        socket = UpstreamSocket(channel, listener, model_gone_switches=False, hears_refusals=False)
        refused: RelayError | None = None
        connection = await self._pool.dial(channel)
        try:
            async with asyncio.timeout(OPEN_S):
                await socket.open(connection, PATH, head.forwarded + BETA)
        except TimeoutError:
            refused = ConnectionBroken("The upstream did not answer a handshake in time.")
        except RelayError as error:
            refused = error
        if refused is None:
            self._without.pop(_key(channel), None)
            return socket
        if socket.status not in _PASSING:
            self._without[_key(channel)] = clock_s() + WITHOUT_S
        forget_frames(refused)
        return None


class TurnSocket(SocketListener):
    """One socket to a channel, good for one turn at a time (implements ports.Connection).

    Args:
        channel: Whose it is.
        on_idle: Told when it may serve another turn.
        on_gone: Told when it is closed.
    """

    def __init__(
        self,
        channel: Channel,
        on_idle: "Callable[[TurnSocket], None]",
        on_gone: "Callable[[TurnSocket], None]",
    ) -> None:
        self.channel = channel
        self._on_idle = on_idle
        self._on_gone = on_gone
        self.reused = False
        self.silent = True
        self.last = ""
        """The response that its provider goes on from over it."""
        self.delta: Delta | None = None
        """What is new in the next question."""
        self.idle_since_s = self.opened_s = clock_s()
        self._socket: UpstreamSocket | None = None
        self._answer: AnswerListener | None = None
        self._begun = False
        self._name = ""
        self._whole: bytes | None = None
        """The question, where only what is new of it was sent."""

    def attach(self, socket: UpstreamSocket) -> None:
        """Take a socket that is open."""
        self._socket = socket

    # --- ports.Connection -------------------------------------------------------------------------

    def ask(self, head: bytes, body: bytes, answer: AnswerListener) -> None:
        """Ask for a turn; the head went with the handshake."""
        assert self._socket is not None
        delta, self.delta = self.delta, None
        short = create_text(body, delta) if delta is not None and delta.before == self.last else b""
        self._whole = body if short else None
        self._answer = answer
        self._begun, self._name, self.silent = False, "", True
        self._socket.say(short or create_text(body, None))

    def pause(self) -> None:
        """Stop reading."""
        if self._socket is not None:
            self._socket.hold(held=True)

    def resume(self) -> None:
        """Go on reading."""
        if self._socket is not None:
            self._socket.hold(held=False)

    def abort(self) -> None:
        """Drop it: nothing else ends a turn that is under way."""
        self._answer = None
        self._part(cut=True)

    def close(self) -> None:
        """Close it between turns."""
        self._part(cut=False)

    def _part(self, *, cut: bool) -> None:
        socket, self._socket = self._socket, None
        if socket is None:
            return
        self._on_gone(self)
        if cut:
            socket.cut()
        else:
            socket.close(NORMAL)

    # --- edge.tunnel.upstream_socket.SocketListener -----------------------------------------------

    def heard(self, text: bytes) -> None:
        """Hand a text on as the event that it is; what its reader raises ends the turn."""
        answer = self._answer
        if answer is None:
            return  # between turns a provider tells of its limits, or that it lives
        try:
            self._take(text, answer)
        except Exception as error:
            if self._answer is None or self._answer is answer:
                self.abort()
            if not answer.on_fault(error):
                raise

    def _take(self, text: bytes, answer: AnswerListener) -> None:
        kind = type_of(text)
        if kind == ERROR and not self._begun and self._refuse(answer, text):
            return
        self.silent = False
        event = event_of(kind, text)
        if not self._begun:
            self._begun = True
            answer.on_head(200, {b"content-type": b"text/event-stream"})
            if self._answer is not answer:
                return
        if kind == CREATED:
            marks = opened(event)
            if marks and marks[0].startswith(RESPONSE):
                self._name = marks[0][KIND_BYTES:].decode()
        done = kind in ENDS
        if done:
            self._rest(self._name if kind == COMPLETED else "")
        answer.on_body(event, [event], done=done)

    def upstream_slow(self, *, slow: bool) -> None:
        """Leave it to the transport: a question is one message."""

    def upstream_gone(self, code: int) -> None:
        """The socket is closed."""
        answer, self._answer = self._answer, None
        if self._socket is not None:
            self._socket = None
            self._on_gone(self)
        if answer is not None:
            answer.on_lost(ConnectionBroken("The upstream closed its WebSocket."))

    def _rest(self, last: str) -> None:
        """Be idle; what comes next may ask within this very call."""
        self._answer = self._whole = None
        self.last = last
        self.reused = True
        self.idle_since_s = clock_s()
        self._on_idle(self)

    def _refuse(self, answer: AnswerListener, text: bytes) -> bool:
        """Take an error instead of an answer; False where it has no status, and is an event."""
        told = read_refusal_text(text)
        if told.forgets and self._whole is not None and self._socket is not None:
            whole, self._whole = self._whole, None
            self._socket.say(create_text(whole, None))
            return True
        if told.is_over:
            # Nothing was done for it: the question goes over another socket.
            self._answer, self.reused = None, True
            self._part(cut=False)
            answer.on_lost(ConnectionBroken("The upstream has ended its WebSocket."))
            return True
        if not told.status:
            return False
        self.silent = False
        self._tell_refusal(answer, told)
        return True

    def _tell_refusal(self, answer: AnswerListener, told: ToldRefusal) -> None:
        self._begun = True
        answer.on_head(told.status, told.headers)
        if self._answer is answer:
            self._rest("")
            answer.on_body(told.body, [told.body], done=True)


class TurnSockets:
    """The sockets of one session (implements flow.ports.Sockets).

    Args:
        desk: Opens them.
        head: What the session's opening said.
    """

    def __init__(self, desk: SocketDesk, head: RequestHead) -> None:
        self._desk = desk
        self._head = head
        self._idle: list[TurnSocket] = []
        self._closed = False
        self._latest = 0
        """The channel that was asked last."""

    def may_serve(self, call: Call, channel: Channel) -> bool:
        """Tell whether a call may be asked over a socket of a channel."""
        return self._desk.may_speak(channel)

    def preferred(self, call: Call) -> int:
        """Return the channel that a call goes on with, 0 = any."""
        delta = _delta_of(call)
        before = delta.before if delta is not None else ""
        for socket in self._idle:
            if before and socket.last == before:
                return socket.channel.id
        return self._latest

    def take(self, call: Call, channel: Channel) -> TurnSocket | None:
        """Return an idle socket to a channel, None where there is none."""
        delta = _delta_of(call)
        before = delta.before if delta is not None else ""
        fit = [one for one in self._idle if _key(one.channel) == _key(channel)]
        if not fit:
            return None
        socket = next((one for one in fit if before and one.last == before), fit[-1])
        self._idle.remove(socket)
        return self._prepare(socket, delta)

    async def dial(self, call: Call, channel: Channel) -> TurnSocket | None:
        """Return a new socket to a channel; None: it has none, and is asked over HTTP.

        Raises:
            RelayError: It takes no connection.
        """
        made = TurnSocket(channel, self._keep, self._forget)
        socket = await self._desk.open(channel, self._head, made)
        if socket is None:
            return None
        made.attach(socket)
        return self._prepare(made, _delta_of(call))

    def _prepare(self, socket: TurnSocket, delta: Delta | None) -> TurnSocket:
        socket.delta = delta
        self._latest = socket.channel.id
        return socket

    def look(self, now_s: float) -> None:
        """Close what is old, or idle for long."""
        for socket in list(self._idle):
            if now_s - socket.opened_s > OLD_S or now_s - socket.idle_since_s > IDLE_S:
                socket.close()

    def close(self) -> None:
        """Close all, those that run when their turns have ended."""
        self._closed = True
        for socket in list(self._idle):
            socket.close()

    def _keep(self, socket: TurnSocket) -> None:
        if self._closed:
            socket.close()
        else:
            self._idle.append(socket)

    def _forget(self, socket: TurnSocket) -> None:
        if socket in self._idle:
            self._idle.remove(socket)


def _delta_of(call: Call) -> Delta | None:
    client = call.client
    return client.create.delta if isinstance(client, Turn) else None


def _key(channel: Channel) -> tuple[int, int]:
    return channel.id, channel.version
