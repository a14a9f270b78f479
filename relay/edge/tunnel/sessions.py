"""All sessions of a worker: revoked, drained, and swept once a second."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from relay.clock import clock_s
from relay.edge.tunnel.opening import VoiceDesk
from relay.edge.tunnel.ports import TurnService
from relay.edge.tunnel.session import Session
from relay.edge.tunnel.turn_sockets import TurnSockets
from relay.edge.tunnel.voice import VoiceSession
from relay.errors import KeyRevoked
from relay.flow.request import RequestHead
from relay.records import Endpoint
from relay.wire.turns.context import ContextRoom

if TYPE_CHECKING:
    from relay.edge.client.request_loop import RequestLoop


class Sessions:
    """The sessions that are open.

    Args:
        name: Returns a new request id.
        voice: Opens sessions of voice.
    """

    def __init__(self, name: Callable[[], str], voice: VoiceDesk) -> None:
        self.name = name
        self._voice = voice
        self.room = ContextRoom()
        self._open: dict[Session | VoiceSession, None] = {}
        self._retired = False

    def __len__(self) -> int:
        return len(self._open)

    def open_session(
        self, service: TurnService, connection: "RequestLoop", request_head: RequestHead
    ) -> None:
        """Take a connection's socket over."""
        transport = connection.transport
        assert transport is not None
        session: Session | VoiceSession
        if request_head.endpoint is Endpoint.REALTIME:
            session = VoiceSession(self, service, self._voice, connection, request_head, transport)
        else:
            sockets = TurnSockets(self._voice.sockets, request_head)
            session = Session(self, service, connection, sockets, request_head, transport)
        self._open[session] = None
        early = connection.take_rest()
        connection.hand_over(session)
        if early:
            session.data_received(early)
        if self._retired:
            session.retire()

    def forget(self, session: "Session | VoiceSession") -> None:
        """Forget a session that is gone."""
        self._open.pop(session, None)

    def revoke_where(self, revoked: Callable[[RequestHead], bool]) -> None:
        """Close the sessions whose key is no longer good."""
        for session in list(self._open):
            if revoked(session.request_head):
                session.revoke(KeyRevoked("The API key was revoked."))

    def retire(self) -> None:
        """Close all, each between its turns."""
        self._retired = True
        for session in list(self._open):
            session.retire()

    def sweep(self) -> None:
        """Look at each once."""
        now_s = clock_s()
        for session in list(self._open):
            session.look(now_s)
