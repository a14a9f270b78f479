"""A client's socket: what of a connection outlasts its requests, and knows nothing of them."""

import asyncio
from collections.abc import Callable

from relay.flow.ports import Backpressure, Client
from relay.flow.response import swallow


class ClientSocket(Client):
    """The part of a connection that a call sees: where its answer goes, and how fast."""

    __slots__ = (
        "_backpressure",
        "_writing_paused",
        "keeps_alive",
        "peer_ip",
        "takes_chunks",
        "transport",
        "write",
    )

    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self.write: Callable[[bytes], None] = swallow
        """The transport's own write; a connection that is gone swallows what comes."""
        self._writing_paused = False
        self._backpressure: Backpressure | None = None
        self.peer_ip = ""
        self.keeps_alive = True
        self.takes_chunks = True

    def take_in(self, transport: asyncio.Transport) -> None:
        """Begin: it is connected."""
        peer = transport.get_extra_info("peername")
        self.peer_ip = peer[0] if peer else ""
        self.transport = transport
        self.write = transport.write

    def let_out(self) -> None:
        """End: the client is gone, and whoever feeds it hears of it now."""
        self.write = swallow
        self.transport = None
        if self._backpressure is not None:
            self._backpressure.leave()

    def hang_up(self) -> None:
        """Close when what was written is out."""
        if self.transport is not None:
            self.transport.close()

    @property
    def unsent_bytes(self) -> int:
        """What the client has not taken yet."""
        return self.transport.get_write_buffer_size() if self.transport is not None else 0

    def set_backpressure(self, backpressure: Backpressure | None) -> None:
        """Tell `backpressure` from now on of a full and of a drained buffer."""
        self._backpressure = backpressure
        if backpressure is not None and self._writing_paused:
            backpressure.pause()

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
