"""One session of voice: frames pass both ways as they are, and what they cost is told.

    client --> sound: on, unread             --> upstream's socket
           --> response.create: paid first, what stands behind it waits
           --> another model that writes down what is said: may it?
    client <-- all events, the same bytes    <-- response.*: metered; its end is charged first

It is what asyncio calls a Protocol: it takes a connection's socket over from edge.client. The
session lives as long as both sockets; what was said is kept by its provider alone, so it is never
moved. A client that leaves in the middle of a response has it cancelled and pays what it came to.

Source: OpenAI API reference, Realtime: client events and server events.
"""

import asyncio
from typing import TYPE_CHECKING, Final

from relay.clock import clock_s
from relay.edge.tunnel.client_socket import CLOSE_S, PING_S, ClientSocket
from relay.edge.tunnel.metered import MeteredResponses, Refusals
from relay.edge.tunnel.opening import VoiceDesk
from relay.edge.tunnel.ports import TurnService
from relay.edge.tunnel.upstream_socket import NO_STATUS, SocketListener, UpstreamSocket
from relay.errors import (
    BadRequest,
    ChannelGarbled,
    ChannelTruncated,
    ClientGone,
    QuotaExhausted,
    RelayError,
    ShuttingDown,
    Unauthenticated,
    forget_frames,
)
from relay.flow.call import Call
from relay.flow.request import RequestHead
from relay.limits.limit_set import Grant
from relay.wire.turns.realtime import (
    CREATE,
    CREATED,
    DONE,
    ERROR,
    SESSION_EVENTS,
    TRANSCRIBED,
    cancel_text,
    is_sound,
    read_client_event,
    read_server_event,
    refusal_text,
    transcriber_of,
    transcriber_param,
    type_of,
)
from relay.wire.turns.realtime_shapes import ClientEvent
from relay.wire.websocket import (
    CLOSE,
    GOING_AWAY,
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

MESSAGE_BYTES_MAX: Final = 16 * 1024 * 1024
"""Source: OpenAI, Realtime: a piece of sound may have 15 MiB."""
HEARD_MAX: Final = 64
"""Messages that are heard in one turn of the loop."""
LEAVE_S: Final = 3.0
"""What a provider has to say what a cancelled response came to."""
MESSAGE_S: Final = 60.0


class VoiceSession(ClientSocket, SocketListener):
    """A client's session of voice.

    Args:
        sessions: Keeps it.
        service: Begins and ends calls.
        desk: Opens it with a channel.
        connection: Whose socket it takes over; it is told of the end.
        request_head: What its opening said.
        transport: The socket.
    """

    def __init__(
        self,
        sessions: "Sessions",
        service: TurnService,
        desk: VoiceDesk,
        connection: "RequestLoop",
        request_head: RequestHead,
        transport: asyncio.Transport,
    ) -> None:
        super().__init__(service, request_head, transport, MESSAGE_BYTES_MAX)
        self._sessions = sessions
        self._desk = desk
        self._connection = connection
        self._upstream: UpstreamSocket | None = None
        self._responses: MeteredResponses | None = None
        self._task: asyncio.Task[None] | None = None
        """Opens the session, or waits for what a response has to pay."""
        self._transcribers: set[str] = set()
        """Models that may write down what is said; the one that does:"""
        self._transcriber = ""
        self._retiring = self._upstream_slow = self._held = False
        self._left_s = 0.0  # since when its client is gone, while what runs is waited for
        if request_head.model:
            self._begin(request_head.model)

    # --- asyncio's side: the client's socket ------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        """Take what the client sent."""
        self._heard_s = clock_s()
        self._early += data
        self._hear_some()

    def _look_through(self) -> None:
        """Read the frames of a piece of what came."""
        try:
            self._read_piece()
        except WebSocketError as error:
            self.close(error.code, str(error))
        except RelayError as error:
            self.tell(error, None)
            self.close(POLICY, "no room")

    def pause_writing(self) -> None:
        """The client is slower than its upstream."""
        self._paused_s, self._unsent_bytes = clock_s(), self.unsent_bytes
        if self._upstream is not None:
            self._upstream.hold(held=True)

    def resume_writing(self) -> None:
        """The client has caught up."""
        self._paused_s = 0.0
        if self._upstream is not None:
            self._upstream.hold(held=False)
        self._hear_some()

    def connection_lost(self, exc: BaseException | None) -> None:
        """The client is gone."""
        self._transport = None
        self._forget_read()
        if self._task is not None:
            self._task.cancel()
        self._connection.connection_lost(exc)
        if self._responses and self._upstream is not None:
            self._left_s = clock_s()
            self._upstream.hold(held=False)
            self._responses.abandon()
        else:
            self._part()

    # --- edge.tunnel.upstream_socket.SocketListener -----------------------------------------------

    def heard(self, text: bytes) -> None:
        """Take an event of the upstream's: what it costs is settled before it goes out."""
        kind = type_of(text)
        responses = self._responses
        if responses is not None and kind.startswith(b"response."):
            if kind == DONE:
                responses.done(text)
            elif kind == CREATED:
                responses.created(text)
            else:
                responses.told(kind, text)
        elif kind in (TRANSCRIBED, ERROR) or kind in SESSION_EVENTS:
            self._read(kind, text)
        self.write(frame_of(TEXT, text))
        if self._responses:
            return
        if self._left_s:
            self._part()
        elif self._retiring:
            self.close(SERVICE_RESTART, "the relay is restarting")

    def upstream_slow(self, *, slow: bool) -> None:
        """The upstream takes nothing more for now, or does again."""
        self._upstream_slow = slow
        self._hear_some()

    def upstream_gone(self, code: int) -> None:
        """The upstream has closed the session: what ran is charged for what was told."""
        self._upstream = None
        if self._responses is not None:
            self._responses.end_all(ChannelTruncated("The upstream closed this session."))
        if self._left_s:
            self._part()
        self.close(code if code != NO_STATUS else GOING_AWAY, "the upstream closed the session")

    # --- what the client sends --------------------------------------------------------------------

    def _hear_some(self) -> None:
        """Hear what may be heard now; no more is read while anything waits."""
        if self._early and not self._inbox:
            self._look_through()
        for _ in range(HEARD_MAX):
            if not self._inbox or self._waits():
                break
            self._hear(self._inbox.popleft())
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        held = bool(self._inbox or self._early) or self._waits()
        if held and not self._waits():
            asyncio.get_running_loop().call_soon(self._hear_some)
        if held is not self._held:
            self._held = held
            if held:
                transport.pause_reading()
            else:
                transport.resume_reading()

    def _waits(self) -> bool:
        return self._task is not None or self._upstream_slow or self._paused_s > 0

    def _hear(self, message: Message) -> None:
        kind = message.kind
        if kind == CLOSE:
            self._end(message)
        elif self._closing_s:
            return
        elif kind == PING:
            self.write(frame_of(PONG, message.payload))
        elif kind == TEXT:
            self._release_room()
            self._take(message.payload)
        elif kind == TOO_LARGE:
            self._release_room()
            self.tell(BadRequest(f"A message may have {MESSAGE_BYTES_MAX} bytes at most."), None)
        elif kind != PONG:
            self.tell(BadRequest("Frames are texts here: this one was binary."), None)

    def _take(self, payload: bytes) -> None:
        """Send an event on, once all that it costs may be paid."""
        sound = is_sound(payload)
        event = ClientEvent() if sound else read_client_event(payload)
        transcriber = transcriber_of(event.session)
        if self._upstream is None or self._responses is None:
            self._open_for(transcriber, event, payload)
            return
        if event.type == CREATE and self._retiring:
            self.tell(ShuttingDown("The relay is restarting; open another session."), event)
        elif event.type == CREATE:
            self._create(self._responses, event, payload)
        elif not transcriber or self._may_transcribe(transcriber, event):
            self._responses.hear(len(payload), sound=sound)
            self._upstream.say(payload)

    def _create(self, responses: MeteredResponses, event: ClientEvent, payload: bytes) -> None:
        """Have a response paid, and ask for it."""
        try:
            call, quota = responses.begin(event, len(payload))
        except RelayError as error:
            self.tell(error, event)
            return
        if quota is None:
            paying = self._pay(responses, call, event, payload)
            self._task = asyncio.get_running_loop().create_task(paying)
        else:
            self._ask(responses, call, quota, event, payload)

    async def _pay(
        self, responses: MeteredResponses, call: Call, event: ClientEvent, payload: bytes
    ) -> None:
        refused: RelayError | None = None
        try:
            quota = await responses.pay(call)
            self._ask(responses, call, quota, event, payload)
        except RelayError as error:
            refused = error
        finally:
            self._task = None
        if refused is not None:
            self.tell(refused, event)
        self._hear_some()

    def _ask(
        self,
        responses: MeteredResponses,
        call: Call,
        quota: Grant,
        event: ClientEvent,
        payload: bytes,
    ) -> None:
        responses.ask(call, quota, event)
        if self._upstream is not None:
            self._upstream.say(payload)
        else:
            responses.end_all(ChannelTruncated("The upstream closed this session."))

    # --- how it opens -----------------------------------------------------------------------------

    def _open_for(self, transcriber: str, event: ClientEvent, payload: bytes) -> None:
        """Open a session whose address names no model: its first event has to."""
        if not transcriber:
            self.tell(
                BadRequest(
                    "Name the model: in the address (?model=), or first of all in a session.update "
                    "of a session that transcribes.",
                    param="model",
                ),
                event,
            )
            return
        self._inbox.appendleft(Message(TEXT, payload))
        self._begin(transcriber)

    def _begin(self, model: str) -> None:
        self._task = asyncio.get_running_loop().create_task(self._open(model))

    async def _open(self, model: str) -> None:
        refused: RelayError | None = None
        try:
            channel, socket = await self._desk.open(self._service, self.request_head, model, self)
            refusals = Refusals(self._refused, self._cancel)
            self._responses = MeteredResponses(
                self._service, self._desk, self.request_head, channel, model, refusals
            )
            self._upstream = socket
            if self._transport is None:
                self._part()
        except RelayError as error:
            refused = error
        finally:
            self._task = None
        if refused is not None:
            self.tell(refused, None)
            self.close(POLICY if refused.status < 500 else GOING_AWAY, "no session")
        self._hear_some()

    # --- what the upstream tells ------------------------------------------------------------------

    def _read(self, kind: bytes, text: bytes) -> None:
        event = read_server_event(text)
        responses = self._responses
        if event is None or responses is None:
            return
        if kind == ERROR:
            if event.error is not None:
                responses.failed_event(event.error)
        elif kind == TRANSCRIBED:
            try:
                responses.transcribed(event, self._transcriber)
            except RelayError as error:
                self.tell(error, None)
                self.close(POLICY, "not allowed")
        else:
            self._transcriber = transcriber_of(event.session)
            asked = ClientEvent(session=event.session)
            if self._transcriber and not self._may_transcribe(self._transcriber, asked):
                self.close(POLICY, "its model may not write down what is said")

    def _may_transcribe(self, model: str, event: ClientEvent) -> bool:
        """Tell whether a model may write down what is said; the client hears why not."""
        if model in self._transcribers:
            return True
        responses = self._responses
        assert responses is not None
        try:
            responses.check_transcriber(model)
        except RelayError as error:
            error.param = transcriber_param(event.session)
            self.tell(error, event)
            return False
        self._transcribers.add(model)
        return True

    # --- ends -------------------------------------------------------------------------------------

    def tell(self, error: RelayError, event: ClientEvent | None) -> None:
        """Send an error, as an event; who may not pay or is not let in any more has to go."""
        self._refused(error, event.event_id if event is not None else None)

    def _refused(self, error: RelayError, event_id: str | None) -> None:
        self.write(frame_of(TEXT, refusal_text(error, self._sessions.name(), event_id)))
        if isinstance(error, ShuttingDown):
            self.retire()
        elif isinstance(error, (ChannelGarbled, Unauthenticated, QuotaExhausted)):
            self.close(POLICY, "it cannot go on")
        forget_frames(error)

    def _cancel(self, name: str) -> None:
        if self._upstream is not None and name:
            self._upstream.say(cancel_text(name))

    def retire(self) -> None:
        """Close between responses: the worker, or the channel, is about to end."""
        self._retiring = True
        if not self._responses and self._task is None:
            self.close(SERVICE_RESTART, "open another session")

    def revoke(self, error: RelayError) -> None:
        """Close: the key is no longer good."""
        self.tell(error, None)

    def close(self, code: int, reason: str) -> None:
        """Send the closing frame, and wait a little for the peer's."""
        if self._closing_s or self._transport is None:
            return
        self._close(code, reason)
        if self._upstream is not None and not self._responses:
            self._upstream.close(NORMAL)

    def _part(self) -> None:
        """Let go of the upstream too: the client is gone, and nothing runs any more."""
        self._sessions.forget(self)
        if self._responses is not None:
            self._responses.end_all(ClientGone("The client closed the connection."))
            self._responses = None  # they refer back to us
        if self._upstream is not None:
            self._upstream.close(NORMAL)

    def _end(self, message: Message) -> None:
        """The peer closes, or answers our closing."""
        if not self._closing_s:
            code = message.close_code
            self.write(close_frame(NORMAL if code == NO_STATUS else code))
        self.cut_soon()

    def look(self, now_s: float) -> None:
        """Act on what is late; called once a second."""
        if self._left_s:
            if now_s - self._left_s > LEAVE_S:
                self._part()
        elif self._closing_s:
            if now_s - self._closing_s > CLOSE_S:
                self.cut()
        elif self._paused_s and self._takes_nothing(now_s):
            self.cut()
        elif self._reader.held_bytes and now_s - self._heard_s > MESSAGE_S:
            self.close(POLICY, "a message did not go on in time")
        elif now_s - max(self._heard_s, self._told_s) > PING_S:
            self.write(frame_of(PING, b""))
            if self._upstream is not None:
                self._upstream.ping()
