"""What a connection asks of whoever answers its requests (edge.site)."""

from typing import TYPE_CHECKING, Protocol

from aiohttp.streams import StreamReader

from relay.edge.asked import Asked, Head
from relay.errors import RelayError
from relay.flow.active import ActiveCall
from relay.flow.attempt import Attempt

if TYPE_CHECKING:
    from relay.edge.connection import ClientConnection


class Service(Protocol):
    """What serves the requests of a connection (edge.site)."""

    async def serve(
        self, client: "ClientConnection", message: Head, payload: StreamReader
    ) -> Asked | None:
        """Answer one request; raises nothing but CancelledError.

        Returns:
            What its head said, where others like it may be served at once.
        """
        ...

    def serve_at_once(self, client: "ClientConnection", asked: Asked, body: bytes) -> bool:
        """Begin to answer a whole request; raises nothing.

        Returns:
            False: it is answered already. Otherwise the client hears of its end (`over`), or that
            it has to be gone on with (`broken`).
        """
        ...

    async def go_on(
        self, client: "ClientConnection", call: ActiveCall, failed: Attempt | None
    ) -> None:
        """Carry out a call that was begun at once; raises nothing but CancelledError."""
        ...

    def let_go(self, call: ActiveCall) -> None:
        """Note that a call which was begun at once is over."""
        ...

    def desert(self, call: ActiveCall) -> None:
        """Settle a call whose client went before anybody was asked, and note that it is over."""
        ...

    def refuse(self, client: "ClientConnection", error: RelayError) -> None:
        """Answer what could not even be parsed."""
        ...
