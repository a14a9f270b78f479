"""The client's socket under a session: what goes out over it, its room, its end."""

import asyncio
from collections import deque
from typing import Final

from relay.clock import clock_s
from relay.edge.tunnel.ports import TurnService
from relay.edge.tunnel.turn import NOBODY
from relay.errors import RelayError
from relay.flow.call import Call
from relay.flow.request import RequestHead
from relay.wire.websocket import FrameReader, Message, WebSocketError, close_frame

PIECE_BYTES: Final = 16 * 1024
"""What is looked through in one turn where frames begin: some thousands of the smallest."""
CLOSE_S: Final = 2.0
"""How long a peer has to answer a closing frame."""
PING_S: Final = 30.0
"""A session that is silent both ways is asked for a sign of life."""
WRITE_S: Final = 60.0
"""A client that has enough to read takes some of it within this."""


class ClientSocket:
    """One client's socket.

    Args:
        service: Gives room for what is not whole.
        request_head: What its opening said.
        transport: The socket.
        bytes_max: Of one message.
    """

    def __init__(
        self,
        service: TurnService,
        request_head: RequestHead,
        transport: asyncio.Transport,
        bytes_max: int,
    ) -> None:
        self._service = service
        self.request_head = request_head
        self._transport: asyncio.Transport | None = transport
        self._reader = FrameReader(bytes_max, masked=True)
        self._early = b""
        """What was read and is not looked through."""
        self._inbox: deque[Message] = deque()
        """What is not heard."""
        self._incoming: Call | None = None
        """The call that a message which is not whole takes its room by."""
        self._closing_s = 0.0
        """Since when it is closing; 0.0 = it is not."""
        self._paused_s = 0.0
        """Since when its client takes nothing."""
        self._unsent_bytes = 0
        self._heard_s = self._told_s = clock_s()

    @property
    def unsent_bytes(self) -> int:
        """What the client has not taken yet."""
        return 0 if self._transport is None else self._transport.get_write_buffer_size()

    def eof_received(self) -> bool:
        """Let the transport close."""
        return False

    def write(self, frames: bytes) -> None:
        """Send whole frames."""
        if self._transport is not None and not self._closing_s:
            self._told_s = clock_s()
            self._transport.write(frames)

    def cut_soon(self) -> None:
        """Close without waiting for the peer, which does not speak as it should."""
        if self._transport is not None:
            self._transport.close()

    def cut(self) -> None:
        """Drop the connection at once."""
        if self._transport is not None:
            self._transport.abort()

    def _close(self, code: int, reason: str) -> None:
        """Send the closing frame, and wait a little for the peer's."""
        self.write(close_frame(code, reason))
        self._closing_s = clock_s()

    def _read_piece(self) -> None:
        """Read the frames of a piece of what came.

        Raises:
            WebSocketError: They break the rules; nothing that follows can be read.
            RelayError: There is no room for a message that is not whole.
        """
        size = max(PIECE_BYTES, self._reader.owed_bytes)
        piece, self._early = self._early[:size], self._early[size:]
        try:
            self._inbox.extend(self._reader.feed(piece))
            if self._reader.held_bytes:
                self._hold_room(self._reader.held_bytes)
        except (WebSocketError, RelayError):
            self._forget_read()
            raise

    def _forget_read(self) -> None:
        self._early = b""
        self._inbox.clear()
        self._release_room()

    def _hold_room(self, size: int) -> None:
        """Take the room for a message of which so much has come.

        Raises:
            RelayError: There is none, or the key is no longer good.
        """
        call = self._incoming
        if call is None:
            call = self._incoming = self._service.begin_turn(NOBODY, self.request_head)
        if size > call.body_bytes:
            self._service.hold_turn(call, size - call.body_bytes)

    def _release_room(self) -> None:
        if self._incoming is not None:
            self._service.let_go(self._incoming)
            self._incoming = None

    def _takes_nothing(self, now_s: float) -> bool:
        """Tell whether the client has taken nothing of what it was told for long."""
        unsent_bytes = self.unsent_bytes
        if unsent_bytes < self._unsent_bytes:
            self._paused_s = now_s
        self._unsent_bytes = unsent_bytes
        return now_s - self._paused_s > WRITE_S
