"""One turn of a session: where its call writes to, and who hears of its end.

To its call it is a client over HTTP/1.0, so that events come in whole blocks, without chunks. The
head is taken off; each event's data go out as a frame, and a comment as a ping.
"""

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from relay.flow.call import Call, CallOwner
from relay.flow.ports import Backpressure, Client
from relay.flow.response import swallow
from relay.wire.sse import event_payload, split_events
from relay.wire.state.answered import opened
from relay.wire.state.marks import KIND_BYTES, RESPONSE
from relay.wire.turns.context import ITEM_DONE
from relay.wire.turns.frames import Create, event_text
from relay.wire.websocket import PING, TEXT, frame_of

if TYPE_CHECKING:
    from relay.edge.tunnel.session import Session

HEAD_END: Final = b"\r\n\r\n"
DONE: Final = b"[DONE]"
TYPE_BYTES: Final = 96
"""Within these an event says its type, wherever it is written first."""
COMPLETED: Final = b"response.completed"


class Turn(Client, CallOwner):
    """A turn, from its frame to its last event.

    Args:
        session: Whose it is.
        create: What it asks for.
        asked: All items that it was asked with.
    """

    __slots__ = (
        "_backpressure",
        "_head_out",
        "_session",
        "asked",
        "call",
        "completed",
        "create",
        "ended",
        "keeps_alive",
        "made",
        "name",
        "takes_chunks",
        "task",
        "write",
    )

    def __init__(self, session: "Session", create: Create, asked: bytes | None) -> None:
        self._session = session
        self.create = create
        self.asked = asked
        """None: nothing of the turn is kept."""
        self.call: Call | None = None
        self.task: asyncio.Task[None] | None = None
        """Carries it out, where something has to be waited for."""
        self.keeps_alive = True
        self.takes_chunks = False
        self.write: Callable[[bytes], None] = self._send
        self._head_out = False
        self._backpressure: Backpressure | None = None
        self.name = ""
        """The id of its response."""
        self.made: list[bytes] = []
        """Its events that hold whole items."""
        self.completed = False
        self.ended = False

    # --- flow.ports.Client -----------------------------------------------------------------------

    @property
    def unsent_bytes(self) -> int:
        """What the client has not taken yet."""
        return self._session.unsent_bytes

    def set_backpressure(self, backpressure: Backpressure | None) -> None:
        """Tell `backpressure` of a full and of a drained buffer."""
        self._backpressure = backpressure
        if backpressure is not None and self._session.writing_paused:
            backpressure.pause()

    def cut(self) -> None:
        """Drop the client's connection at once."""
        self._session.cut()

    # --- flow.call.CallOwner ---------------------------------------------------------------------

    def over(self, call: Call) -> None:
        """The answer is out, or its client has gone."""
        self.write = swallow
        self._session.end_turn(self, call)

    def fell(self, call: Call, error: Exception) -> None:
        """Nothing of an answer is out, and none will come."""
        self._session.fail_turn(self, call, error)

    # --- the session's side ----------------------------------------------------------------------

    def pause(self) -> None:
        """The client is slow."""
        if self._backpressure is not None:
            self._backpressure.pause()

    def resume(self) -> None:
        """The client has caught up."""
        if self._backpressure is not None:
            self._backpressure.resume()

    def leave(self) -> None:
        """The client is gone."""
        self.write = swallow
        if self._backpressure is not None:
            self._backpressure.leave()
        if self.task is not None:
            self.task.cancel()

    def _send(self, data: bytes) -> None:
        """Send what the call writes: a head once, then whole events."""
        if not self._head_out:
            self._head_out = True
            data = data[data.index(HEAD_END) + len(HEAD_END) :]
        frames: list[bytes] = []
        for event in split_events(data):
            payload = event_payload(event)
            if not payload:
                frames.append(frame_of(PING, b""))
            elif not payload.startswith(DONE):
                self._note(event, payload)
                lane = self.create.lane
                frames.append(frame_of(TEXT, event_text(payload, lane) if lane else payload))
        if frames:
            self._session.write(frames[0] if len(frames) == 1 else b"".join(frames))

    def _note(self, event: bytes, payload: bytes) -> None:
        """Keep what the next turn may refer to; nothing is decoded until the turn has ended."""
        if self.asked is None:
            return
        if not self.name:
            marks = opened(event)
            if marks and marks[0].startswith(RESPONSE):
                self.name = marks[0][KIND_BYTES:].decode()
        if payload.find(ITEM_DONE, 0, TYPE_BYTES) >= 0:
            self.made.append(payload)
        elif payload.find(COMPLETED, 0, TYPE_BYTES) >= 0:
            self.completed = True


class Nobody(Client):
    """Stands for the client of a call before its turn begins."""

    __slots__ = ("keeps_alive", "takes_chunks", "write")

    def __init__(self) -> None:
        self.keeps_alive = True
        self.takes_chunks = False
        self.write: Callable[[bytes], None] = swallow

    @property
    def unsent_bytes(self) -> int:
        """What nobody has not taken."""
        return 0

    def set_backpressure(self, backpressure: Backpressure | None) -> None:
        """Tell nobody."""

    def cut(self) -> None:
        """Drop nothing."""


NOBODY: Final = Nobody()
