"""One session: messages off its socket, turns in their lanes, and how it ends.

    message --> TEXT: a turn --> its lane: one runs, others wait --> a call --> frames
            --> PING, PONG, CLOSE: answered
            --> too large, no text, no turn: an error frame, and the session goes on

It is what asyncio calls a Protocol: it takes a connection's socket over from edge.client when that
has asked for it. Each turn is a call like any other: rights, limits, money, a row of the log. What
a client sends ahead is bounded by the room for bodies, by a number of turns, and by its lanes.
"""

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Final

from relay.clock import clock_s
from relay.edge.tunnel.client_socket import CLOSE_S, PING_S, ClientSocket
from relay.edge.tunnel.ports import TurnService
from relay.edge.tunnel.turn import NOBODY, Turn
from relay.edge.tunnel.turn_sockets import TurnSockets
from relay.errors import (
    BadRequest,
    ClientError,
    CreditExhausted,
    RelayError,
    ShuttingDown,
    TooLarge,
    Unauthenticated,
    forget_frames,
)
from relay.flow.call import Call
from relay.flow.request import RequestHead
from relay.wire.turns.context import TurnContext, items_of
from relay.wire.turns.frames import Create, error_text, read_create, warm_up_texts
from relay.wire.websocket import (
    BINARY,
    CLOSE,
    NORMAL,
    PING,
    POLICY,
    PONG,
    SERVICE_RESTART,
    TEXT,
    TOO_LARGE,
    Message,
    WebSocketError,
    close_frame,
    frame_of,
)

if TYPE_CHECKING:
    from relay.edge.client.request_loop import RequestLoop
    from relay.edge.tunnel.sessions import Sessions

MESSAGE_BYTES_MAX: Final = 128 * 1024 * 1024
"""After a reconnect an agent sends all of its history in one message."""
LANES_MAX: Final = 16
WAITING_MAX: Final = 64
"""Turns that wait for those before them."""
IDLE_S: Final = 3600.0
"""Providers end a session after an hour; agents open another one."""
HEARD_MAX: Final = 8
"""Messages that are heard in one turn of the loop."""
MESSAGE_S: Final = 60.0
"""A message that has begun goes on within this."""


class Session(ClientSocket):
    """A client's session.

    Args:
        sessions: Keeps it.
        service: Serves its turns.
        connection: Whose socket it takes over; it is told of the end.
        sockets: By which its channels are asked, where they have such.
        request_head: What its opening said: each turn is asked with it.
        transport: The socket.
    """

    def __init__(
        self,
        sessions: "Sessions",
        service: TurnService,
        connection: "RequestLoop",
        sockets: TurnSockets,
        request_head: RequestHead,
        transport: asyncio.Transport,
    ) -> None:
        super().__init__(service, request_head, transport, MESSAGE_BYTES_MAX)
        self._sessions = sessions
        self._connection = connection
        self._sockets = sockets
        self._context = TurnContext(sessions.room)
        self._running: dict[str, Turn] = {}
        self._waiting: dict[str, deque[tuple[Create, Call]]] = {}
        self._retiring = False
        self.writing_paused = False
        self._holding = False
        """No more is read: there is enough to hear."""
        self._turned_s = self._heard_s

    # --- asyncio's side ------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        """Take what the client sent."""
        self._heard_s = clock_s()
        self._early = self._early + data if self._early else data
        if not self._holding:
            self._take_turn()

    def _take_turn(self) -> None:
        """Hear a little of what came; then others have their turn, and no more is read till then.

        Whoever does not take what it is told is not heard: each answer would be kept for it.
        """
        held, self._holding = self._holding, False
        self._look_through()
        for _ in range(HEARD_MAX):
            if not self._inbox or self.writing_paused or self._transport is None:
                break
            self._hear(self._inbox.popleft())
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        self._hold_incoming()
        if self.writing_paused or self._inbox or self._early:
            self._holding = True
            if not held:
                transport.pause_reading()
            if not self.writing_paused:
                asyncio.get_running_loop().call_soon(self._take_turn)
        elif held:
            transport.resume_reading()

    def _look_through(self) -> None:
        """Read the frames of a piece of what came, where all before it was heard."""
        if not self._early or self._inbox:
            return
        try:
            self._read_piece()
        except WebSocketError as error:
            self.close(error.code, str(error))
            self.cut_soon()
        except RelayError as error:
            self._turn_away(error)

    def pause_writing(self) -> None:
        """The client is slower than its upstreams."""
        self.writing_paused = True
        self._paused_s, self._unsent_bytes = clock_s(), self.unsent_bytes
        for turn in list(self._running.values()):
            turn.pause()

    def resume_writing(self) -> None:
        """The client has caught up."""
        self.writing_paused = False
        for turn in list(self._running.values()):
            turn.resume()
        if self._holding:
            asyncio.get_running_loop().call_soon(self._take_turn)

    def connection_lost(self, exc: BaseException | None) -> None:
        """The client is gone: all of its turns end."""
        self._transport = None
        self._forget_read()
        for waiting in self._waiting.values():
            for _, call in waiting:
                self._service.desert(call)
        self._waiting.clear()
        for turn in list(self._running.values()):
            turn.leave()
        self._context.clear()
        self._sockets.close()
        self._sessions.forget(self)
        self._connection.connection_lost(exc)

    # --- messages ------------------------------------------------------------------------

    def _hear(self, message: Message) -> None:
        kind = message.kind
        if self._closing_s and kind != CLOSE:
            return
        if kind == PING:
            self.write(frame_of(PONG, message.payload))
        elif kind == CLOSE:
            self._end(message)
        elif kind == TEXT:
            self._begin(message.payload)
        elif kind == BINARY:
            self.tell(BadRequest("Frames are texts here: this one was binary."))
        elif kind == TOO_LARGE:
            self._release_room()
            self.tell(TooLarge(f"A message may have {MESSAGE_BYTES_MAX} bytes at most."))

    def _hold_incoming(self) -> None:
        """Take the room that a message needs which is not whole."""
        if not self._reader.held_bytes:
            return
        try:
            self._hold_room(self._reader.held_bytes)
        except RelayError as error:
            self._turn_away(error)

    def _turn_away(self, error: RelayError) -> None:
        """Close: there is no room for what comes."""
        self._release_room()
        self._refuse(error, None)
        self.close(POLICY, "no room")

    def _begin(self, payload: bytes) -> None:
        """Begin a turn, or have it wait for its lane."""
        self._release_room()
        self._turned_s = clock_s()
        lane = ""
        try:
            if self._retiring:
                raise ShuttingDown("The relay is restarting; open another session.")
            create = read_create(payload)
            lane = create.lane
            call = self._service.begin_turn(NOBODY, self.request_head)
            try:
                self._service.hold_turn(call, len(payload))
                self._check_lane(lane)
            except RelayError as error:
                self._service.fail_turn(call, error)
                self._service.let_go(call)
                raise
        except RelayError as error:
            self._refuse(error, lane)
            return
        if lane in self._running:
            self._waiting.setdefault(lane, deque()).append((create, call))
        else:
            self._start(create, call)

    def _check_lane(self, lane: str) -> None:
        waiting = sum(len(turns) for turns in self._waiting.values())
        if lane not in self._running and len(self._running) < LANES_MAX:
            return
        if lane in self._running and waiting < WAITING_MAX:
            return
        error = BadRequest("Too many turns at once over one socket.", param="stream_id")
        error.code = "websocket_stream_limit_reached"
        raise error

    def _start(self, create: Create, call: Call) -> None:
        """Ask for a turn whose lane is free."""
        if not create.generates:
            self._warm_up(create, call)
            return
        self._context.complete(create)
        kept = create.is_false("store")
        turn = Turn(self, create, items_of(create) if kept else None)
        turn.call, call.client, call.sockets = call, turn, self._sockets
        self._running[create.lane] = turn
        try:
            running = self._service.ask_turn(call, turn, create.body())
        except Exception as error:  # noqa: BLE001 - the service sorts them
            self.fail_turn(turn, call, error)
            self.end_turn(turn, call)
            return
        if not running:
            turn.task = asyncio.get_running_loop().create_task(self._run(turn, call))

    def _warm_up(self, create: Create, call: Call) -> None:
        """Take in the context of the turns to come; nobody is asked, and nothing is charged."""
        self._context.complete(create)
        name = f"resp_{call.id.hex()}"
        asked = items_of(create)
        if asked is not None:
            self._context.keep(name, asked, [])
        texts = warm_up_texts(create, name, call.time_us // 1_000_000)
        self.write(b"".join([frame_of(TEXT, text) for text in texts]))
        self._service.let_go(call)
        self._next(create.lane)

    async def _run(self, turn: Turn, call: Call) -> None:
        running = False
        try:
            running = await self._service.run_turn(call, turn)
        except asyncio.CancelledError:
            self._service.fail_turn(call, ClientError("The client closed the connection."))
            raise
        except Exception as error:  # noqa: BLE001 - the service sorts them
            self.fail_turn(turn, call, error)
        finally:
            turn.task = None
            if not running:
                turn.over(call)

    # --- ends ----------------------------------------------------------------------------

    def fail_turn(self, turn: Turn, call: Call, error: Exception) -> None:
        """Tell why a turn of which nothing is out will have no answer."""
        told = self._service.fail_turn(call, error)
        if not turn.ended:
            self._refuse(told, turn.create.lane, call)

    def end_turn(self, turn: Turn, call: Call) -> None:
        """Note that a turn is over; the next one of its lane begins."""
        if turn.ended:
            return
        turn.ended = True
        self._service.let_go(call)
        lane = turn.create.lane
        self._running.pop(lane, None)
        self._turned_s = clock_s()
        if turn.completed and turn.name and turn.asked is not None:
            self._context.keep(turn.name, turn.asked, turn.made)
        turn.call = None
        self._next(lane)

    def _next(self, lane: str) -> None:
        waiting = self._waiting.get(lane)
        if waiting and self._transport is not None and not self._retiring:
            create, call = waiting.popleft()
            if not waiting:
                del self._waiting[lane]
            self._start(create, call)
        elif self._retiring and not self._running:
            self.close(SERVICE_RESTART, "the relay is restarting")

    def _refuse(self, error: RelayError, lane: str | None, call: Call | None = None) -> None:
        self.tell(error, lane or "", call)
        if isinstance(error, (Unauthenticated, CreditExhausted)):
            self.close(POLICY, "not allowed")
        forget_frames(error)

    def tell(self, error: RelayError, lane: str = "", call: Call | None = None) -> None:
        """Send an error frame."""
        request_id = call.request_id if call is not None else self._sessions.name()
        self.write(frame_of(TEXT, error_text(error, request_id, lane)))

    def retire(self) -> None:
        """Close between turns: the worker is about to end."""
        self._retiring = True
        if not self._running:
            self.close(SERVICE_RESTART, "the relay is restarting")

    def revoke(self, error: RelayError) -> None:
        """Close: the key is no longer good."""
        self._refuse(error, None)

    def close(self, code: int, reason: str) -> None:
        """Send the closing frame, and wait a little for the peer's."""
        if self._closing_s or self._transport is None:
            return
        self._close(code, reason)

    def _end(self, message: Message) -> None:
        """The peer closes, or answers our closing."""
        if not self._closing_s:
            self.write(close_frame(NORMAL if message.close_code == 1005 else message.close_code))
        self.cut_soon()

    def look(self, now_s: float) -> None:
        """Act on what is late; called once a second."""
        self._sockets.look(now_s)
        if self._closing_s:
            if now_s - self._closing_s > CLOSE_S:
                self.cut()
        elif self.writing_paused and self._takes_nothing(now_s):
            self.cut()
        elif self._reader.held_bytes and now_s - self._heard_s > MESSAGE_S:
            self.close(POLICY, "a message did not go on in time")
        elif not self._running and now_s - self._turned_s > IDLE_S:
            error = BadRequest("This session is over after an hour; open another one.")
            error.code = "websocket_connection_limit_reached"
            self.tell(error)
            self.close(NORMAL, "idle")
        elif now_s - max(self._heard_s, self._told_s) > PING_S:
            self.write(frame_of(PING, b""))
