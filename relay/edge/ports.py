"""What a connection asks of whoever answers its requests (edge.service)."""

from typing import TYPE_CHECKING, NamedTuple, Protocol

from aiohttp.streams import StreamReader

from relay.edge.client.head import ParsedHead
from relay.errors import RelayError
from relay.flow.call import Call
from relay.flow.request import RequestHead

if TYPE_CHECKING:
    from relay.edge.client.request_loop import RequestLoop


class Served(NamedTuple):
    """What became of a request.

    `request_head`: kept where later requests may have the same head. `running`: its
    answer is still going out, and the client connection hears of its end (`over`). False: it is
    answered.
    """

    request_head: RequestHead | None
    running: bool


class ServicePort(Protocol):
    """What serves the requests of a connection (edge.service)."""

    __slots__ = ()

    async def serve(
        self, client: "RequestLoop", message: ParsedHead, payload: StreamReader
    ) -> Served:
        """Answer one request; raises nothing but CancelledError."""
        ...

    def serve_whole(
        self, client: "RequestLoop", message: ParsedHead, payload: StreamReader
    ) -> Served:
        """Begin to answer a request whose body is there; raises nothing."""
        ...

    def serve_at_once(self, client: "RequestLoop", request_head: RequestHead, body: bytes) -> bool:
        """Begin to answer a whole request; raises nothing.

        Returns:
            False: it is answered already. Otherwise the client hears of its end (`over`).
        """
        ...

    def begin_body(self, client: "RequestLoop", request_head: RequestHead) -> Call | None:
        """Begin a call whose body is still to come, None where it would be refused now."""
        ...

    def take_more(self, call: Call, size: int) -> bool:
        """Take the room that more of a coming body needs; False: there is none."""
        ...

    def serve_received(self, client: "RequestLoop", call: Call, body: bytes) -> bool:
        """Answer a call whose body has come; as `serve_at_once`."""
        ...

    async def go_on(self, client: "RequestLoop", call: Call) -> bool:
        """Carry out a call that was begun at once; raises nothing but CancelledError.

        Returns:
            Whether its answer runs, as in `Served`.
        """
        ...

    def guard(self, call: Call, client: "RequestLoop", error: Exception) -> None:
        """Answer a failure of a call of which nothing is out."""
        ...

    def let_go(self, call: Call) -> None:
        """Note that a call which was begun at once is over."""
        ...

    def desert(self, call: Call) -> None:
        """Settle a call whose client went before anybody was asked, and note that it is over."""
        ...

    def refuse(self, client: "RequestLoop", error: RelayError) -> None:
        """Answer what could not even be parsed."""
        ...
