"""What data plane and drivers are to each other, as Protocols: neither knows the other by name.

Those that serve the hot path say that they are one (`class Journal(ports.Journal)`): compiled code
then calls them as it calls its own. All others, tests' stand-ins among them, need only have its
methods.
"""

from typing import Protocol

from relay.errors import RelayError
from relay.limits.decision import Denied
from relay.limits.limit_set import Costs, Grant, LimitSet
from relay.limits.rate_headers import BucketLevel
from relay.model import Channel
from relay.records import CallCheckpoint, CallEnd, CallStart, Endpoint


class Journal(Protocol):
    """The worker's append-only file of calls."""

    __slots__ = ()

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


class AnswerListener(Protocol):
    """Who listens to an upstream's answer. Called from the socket's callback: must not block."""

    __slots__ = ()

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

    def on_fault(self, error: Exception) -> bool:
        """Take what one of the methods above has raised: a bug of ours, and no more will come.

        Returns:
            False: nobody waits for the answer any more.
        """
        ...


class Connection(Protocol):
    """One upstream connection, good for one question at a time."""

    reused: bool
    """True when it has answered before: the peer may have closed it meanwhile."""
    silent: bool
    """True while no byte has come in answer to the last question."""

    def ask(self, head: bytes, body: bytes, answer: AnswerListener) -> None:
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

    __slots__ = ()

    def head(self, channel: Channel, endpoint: Endpoint, query: str, model: str) -> bytes:
        """Return the prepared request head (wire.http.request_head) for a channel's endpoint."""
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


class Limiter(Protocol):
    """Where tokens, requests and permits are taken from, in units of a limit set's buckets."""

    __slots__ = ()

    def admit(self, limit_set: LimitSet, costs: Costs) -> Grant | Denied | None:
        """Take all costs from what is leased, or none; None: `wait` has to decide."""
        ...

    async def wait(self, limit_set: LimitSet, costs: Costs) -> Grant | Denied:
        """Take what `admit` could not decide on; bounded, and nothing is taken if cancelled."""
        ...

    def foresee(self, limit_set: LimitSet, costs: Costs) -> Denied | None:
        """Return why a call would be denied now without asking anybody; takes nothing."""
        ...

    def settle(self, grant: Grant, costs: Costs) -> None:
        """Book costs in place of what was booked before; never blocks."""
        ...

    def release(self, grant: Grant) -> None:
        """Free a call's permits; never blocks, and a second time does nothing."""
        ...

    def hold_back(self, limit_set: LimitSet, wait_ms: int) -> None:
        """Let nobody take from these buckets for a while."""
        ...

    def standings(self, limit_set: LimitSet) -> list[BucketLevel]:
        """Return how full the buckets are."""
        ...
