"""What the flow needs of what is around it, beside relay.ports; see there."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

import msgspec

from relay.billing.shapes import BudgetRequest, CreditLease, CreditRequest
from relay.model import Channel
from relay.ports import Connection
from relay.usage import Usage

if TYPE_CHECKING:
    from relay.flow.call import Call


class Client(Protocol):
    """The client's side of a call, as the edge offers it."""

    keeps_alive: bool
    """Set to False to have the connection closed after this answer."""
    takes_chunks: bool
    """False for HTTP/1.0, where the end of the body is the end of the connection."""
    write: Callable[[bytes], None]
    """The transport's own write."""

    @property
    def unsent_bytes(self) -> int:
        """What the client has not taken yet."""
        ...

    def set_backpressure(self, backpressure: "Backpressure | None") -> None:
        """Tell `backpressure` when the client's buffer is full and when it has drained."""
        ...

    def cut(self) -> None:
        """Drop the client's connection at once."""
        ...


class Sockets(Protocol):
    """Connections of a session's own, by which its calls are asked where a channel has them."""

    __slots__ = ()

    def may_serve(self, call: "Call", channel: Channel) -> bool:
        """Tell whether a call may be asked over one."""
        ...

    def preferred(self, call: "Call") -> int:
        """Return the channel that a call goes on with, 0 = any."""
        ...

    def take(self, call: "Call", channel: Channel) -> Connection | None:
        """Return an idle one, None if there is none."""
        ...

    async def dial(self, call: "Call", channel: Channel) -> Connection | None:
        """Make a new one; None: the channel has none, and is asked as any other.

        Raises:
            RelayError: It takes no connection at all.
        """
        ...


class Backpressure(Protocol):
    """What stops and goes with the client's appetite."""

    __slots__ = ()

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

    strips_usage: bool
    """The client did not ask for the usage event that we ask for, so it does not get it."""

    @property
    def session(self) -> bytes:
        """What calls of one conversation share: they find their prompt cache by it; b"" = none."""
        ...

    def frame(self, channel: Channel, model: str) -> tuple[bytes, bytes]:
        """Return content type and body for `channel`, which knows the model as `model`."""
        ...

    def continue_with(self, fields: Mapping[str, msgspec.Raw]) -> "Question":
        """Return the same question with another top level: the rest of an answer is asked for."""
        ...


class Reservation(Protocol):
    """Something that a call takes before it may run, and that is settled when it has ended."""

    __slots__ = ()

    def take(self, call: "Call") -> bool:
        """Take what the call may use, without waiting.

        Returns:
            False: nothing was taken, `wait` has to.

        Raises:
            RelayError: The call may not run; nothing was taken.
        """
        ...

    async def wait(self, call: "Call") -> None:
        """Take what the call may use as soon as that can be decided; bounded.

        Raises:
            RelayError: The call may not run; nothing was taken.
            asyncio.CancelledError: Nothing was taken.
        """
        ...

    def update(self, call: "Call", usage: Usage) -> None:
        """Take note of what a running call has used so far; never blocks."""
        ...

    def close(self, call: "Call", usage: Usage, cost_nanos: int) -> None:
        """Put what the call used in place of what it took, and free the rest; never blocks."""
        ...


class ThinkingStore(Protocol):
    """Where workers keep what upstreams signed of their thinking; sealed, and only for a while."""

    __slots__ = ()

    @property
    def connected(self) -> bool:
        """Whether it is worth asking."""
        ...

    def put(self, digest: bytes, value: bytes) -> None:
        """Keep a value; never blocks, and may fail unseen."""
        ...

    async def get(self, digests: Sequence[bytes]) -> Mapping[bytes, bytes]:
        """Return what is known of some digests; bounded in time, nothing where that fails."""
        ...


class OutageLender(Protocol):
    """What accounts may spend while nobody can be asked for credit."""

    __slots__ = ()

    def advance_nanos(self, account_id: int) -> int:
        """Return what an account may spend on this worker in the outage that runs."""
        ...

    def end(self) -> None:
        """Note that the outage is over."""
        ...


class CreditLender(Protocol):
    """Where a worker leases credit of accounts."""

    __slots__ = ()

    async def lease(
        self, asks: Sequence[CreditRequest], surplus: Mapping[int, int]
    ) -> Mapping[int, CreditLease]:
        """Lease what is asked, give back what is surplus (by account), renew all; bounded in time.

        Returns:
            How each asked account stands; one that may not call is left out.

        Raises:
            RelayError: RELAY; nobody knows whether anything of it was done.
        """
        ...


class BudgetLender(Protocol):
    """Where a worker leases windows of budgets; as CreditLender, by the names of windows."""

    __slots__ = ()

    async def lease(
        self, asks: Sequence[BudgetRequest], surplus: Mapping[str, int]
    ) -> Mapping[str, CreditLease]:
        """Lease what is asked, give back what is surplus, renew all; bounded in time.

        Raises:
            RelayError: RELAY; nobody knows whether anything of it was done.
        """
        ...
