"""What the flow needs of the drivers around it, as Protocols: it knows none of them by name."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

import msgspec

from relay.billing.shapes import Lease, LeaseAsk
from relay.call import CallCheckpoint, CallEnd, CallStart, Endpoint
from relay.errors import RelayError
from relay.limits.decision import Denied
from relay.limits.headers import Standing
from relay.limits.scheme import Costs, Grant, Scheme
from relay.model import Channel
from relay.usage import Usage

if TYPE_CHECKING:
    from relay.flow.active import ActiveCall


class Journal(Protocol):
    """The worker's append-only file of calls."""

    @property
    def healthy(self) -> bool:
        """False while records cannot be made safe: no new paid work may start."""
        ...

    def start(self, record: CallStart) -> None:
        """Note an admitted call; never blocks."""
        ...

    def checkpoint(self, record: CallCheckpoint) -> None:
        """Note what a running call would be charged if the worker died now; never blocks."""
        ...

    def end(self, record: CallEnd) -> None:
        """Note how a call ended; never blocks."""
        ...


class Answer(Protocol):
    """Who listens to an upstream's answer. Called from the socket's callback: must not block."""

    def on_head(self, status: int, headers: dict[bytes, bytes]) -> None:
        """Take the status and headers (names in lower case) of a final response."""
        ...

    def on_body(self, raw: bytes, parts: list[bytes], *, done: bool) -> None:
        """Take what one read brought.

        Args:
            raw: The very bytes of the read, framing and all.
            parts: The body bytes in them, in order; the list is reused after the call returns.
            done: The message is whole.
        """
        ...

    def on_frame(self, raw: bytes, payload: bytes) -> None:
        """Take a read that was exactly one chunk of a body, and ends on a blank line.

        Args:
            raw: The very bytes of the read: a frame, plainly written.
            payload: What is in it.
        """
        ...

    def on_lost(self, error: RelayError) -> None:
        """Take the news that the connection broke before the message was whole."""
        ...


class Connection(Protocol):
    """One upstream connection, good for one question at a time."""

    @property
    def reused(self) -> bool:
        """True when it has answered before: the peer may have closed it meanwhile."""
        ...

    @property
    def silent(self) -> bool:
        """True while no byte has come in answer to the last question."""
        ...

    def ask(self, head: bytes, body: bytes, answer: Answer) -> None:
        """Send a request; `answer` hears of the response."""
        ...

    def pause(self) -> None:
        """Stop reading: the client takes no more for now."""
        ...

    def resume(self) -> None:
        """Go on reading."""
        ...

    def abort(self) -> None:
        """Drop the connection at once; `answer` hears nothing more."""
        ...


class Connections(Protocol):
    """The pool of upstream connections."""

    def head(self, channel: Channel, endpoint: Endpoint, query: str) -> bytes:
        """Return the prepared request head (wire.heads.request_head) for a channel's endpoint."""
        ...

    def take(self, channel: Channel) -> Connection | None:
        """Return an idle connection to the channel's server, None if there is none."""
        ...

    async def dial(self, channel: Channel) -> Connection:
        """Make a new connection.

        Raises:
            ConnectFailed: NETWORK; refused, unresolved, TLS not verified, or too slow.
        """
        ...


class Client(Protocol):
    """The client's side of a call, as the edge offers it."""

    keeps_alive: bool
    """Set to False to have the connection closed after this answer."""

    @property
    def takes_chunks(self) -> bool:
        """False for HTTP/1.0, where the end of the body is the end of the connection."""
        ...

    @property
    def write(self) -> Callable[[bytes], None]:
        """The transport's own write."""
        ...

    @property
    def unsent_bytes(self) -> int:
        """What the client has not taken yet."""
        ...

    def watch(self, valve: "Valve | None") -> None:
        """Tell `valve` from now on when the client's buffer is full and when it has drained."""
        ...

    def cut(self) -> None:
        """Drop the client's connection at once."""
        ...


class Valve(Protocol):
    """What stops and goes with the client's appetite."""

    def pause(self) -> None:
        """The client's buffer is above its high-water mark."""
        ...

    def resume(self) -> None:
        """The client's buffer has drained."""
        ...

    def leave(self) -> None:
        """The client is gone: nothing may be written to it any more."""
        ...


class Question(Protocol):
    """What a client asks, ready to be framed for any channel."""

    @property
    def fields(self) -> Mapping[str, msgspec.Raw] | None:
        """The top level of a JSON body, values verbatim; None for a form."""
        ...

    @property
    def strips_usage(self) -> bool:
        """The client did not ask for the usage event that we ask for: it is kept from it."""
        ...

    @property
    def session(self) -> bytes:
        """What calls of one conversation share: they find their prompt cache by it; b"" = none."""
        ...

    def frame(self, channel: Channel, model: str) -> tuple[bytes, bytes]:
        """Return content type and body for `channel`, which knows the model as `model`."""
        ...

    def carry_on(self, fields: Mapping[str, msgspec.Raw]) -> "Question":
        """Return the same question with another top level: the rest of an answer is asked for."""
        ...


class Limiter(Protocol):
    """Where tokens, requests and seats are taken from, in units of a scheme's buckets."""

    def admit(self, scheme: Scheme, costs: Costs) -> Grant | Denied | None:
        """Take all costs from what is leased, or none; None: `wait` has to decide."""
        ...

    async def wait(self, scheme: Scheme, costs: Costs) -> Grant | Denied:
        """Take what `admit` could not decide on; bounded, and nothing is taken if cancelled."""
        ...

    def foresee(self, scheme: Scheme, costs: Costs) -> Denied | None:
        """Return why a call would be denied now without asking anybody; takes nothing."""
        ...

    def settle(self, grant: Grant, costs: Costs) -> None:
        """Book costs in place of what was booked before; never blocks."""
        ...

    def release(self, grant: Grant) -> None:
        """Free a call's seats; never blocks, and a second time does nothing."""
        ...

    def hold_back(self, scheme: Scheme, wait_ms: int) -> None:
        """Let nobody take from these buckets for a while."""
        ...

    def standings(self, scheme: Scheme) -> list[Standing]:
        """Return how full the buckets are."""
        ...


class Toll(Protocol):
    """Something that a call takes before it may run, and that is settled when it has ended."""

    def take(self, call: "ActiveCall") -> bool:
        """Take what the call may use, without waiting.

        Returns:
            False: nothing was taken, `wait` has to.

        Raises:
            RelayError: The call may not run; nothing was taken.
        """
        ...

    async def wait(self, call: "ActiveCall") -> None:
        """Take what the call may use as soon as that can be decided; bounded.

        Raises:
            RelayError: The call may not run; nothing was taken.
            asyncio.CancelledError: Nothing was taken.
        """
        ...

    def update(self, call: "ActiveCall", usage: Usage) -> None:
        """Take note of what a running call has used so far; never blocks."""
        ...

    def close(self, call: "ActiveCall", usage: Usage, cost_nanos: int) -> None:
        """Put what the call used in place of what it took, and free the rest; never blocks."""
        ...


class Lender(Protocol):
    """Where a worker leases credit of accounts."""

    async def lease(
        self, asks: Sequence[LeaseAsk], surplus: Mapping[int, int]
    ) -> Mapping[int, Lease]:
        """Lease what is asked, give back what is surplus (by account), renew all; bounded in time.

        Returns:
            How each asked account stands; one that may not call is left out.

        Raises:
            RelayError: RELAY; nobody knows whether anything of it was done.
        """
        ...
