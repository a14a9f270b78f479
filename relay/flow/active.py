"""A call while it lives: what admission found, how far it has come, what it has tried.

One of these goes with a call from its arrival to its settlement. It holds no request content but
the question itself, which a retry needs.
"""

import time
from typing import TYPE_CHECKING

from relay.call import Endpoint, Stage, Usage
from relay.errors import RelayError
from relay.flow.outlet import Outlet
from relay.flow.ports import Client, Question
from relay.model import Account, Channel, Group, Key, Line, Price
from relay.routing.delivered import Keeper

if TYPE_CHECKING:
    from relay.flow.attempt import Attempt


class ActiveCall:
    """The mutable state of one call: moved by the exchange and its attempts, read by the rest.

    `number` is the request id, a UUIDv7 as an integer. `time_us` is microseconds since 1970 UTC at
    arrival; `*_s` are seconds of time.monotonic (uvloop's own clock ticks in milliseconds), 0.0 =
    not yet. `stage` is COMMITTED once the client has output of an answer; how far an attempt is,
    the attempt knows.
    """

    __slots__ = (
        "account",
        "affinity",
        "attempts",
        "begun_s",
        "bytes_out",
        "channel",
        "channels",
        "client",
        "counts_bytes",
        "doom",
        "endpoint",
        "events_out",
        "first_byte_s",
        "group",
        "input_estimate",
        "ip",
        "keeper",
        "key",
        "line",
        "model",
        "number",
        "opening",
        "outlet",
        "price",
        "question",
        "request_id",
        "running",
        "served_model",
        "settled",
        "splices",
        "stage",
        "stream",
        "time_us",
        "tried",
        "usage",
    )

    def __init__(self, number: int, client: Client, endpoint: Endpoint, time_us: int) -> None:
        self.number = number
        self.request_id = f"req_{number:032x}"
        self.client = client
        self.endpoint = endpoint
        self.time_us = time_us
        self.begun_s = 0.0
        self.ip = ""
        self.key: Key | None = None
        self.account: Account | None = None
        self.group: Group | None = None
        self.line: Line | None = None
        self.price: Price | None = None
        self.model = ""
        self.stream = False
        self.input_estimate = 0
        self.counts_bytes = False
        """The answer is text, so that its bytes tell its tokens where nobody reports them."""
        self.question: Question
        self.outlet: Outlet
        self.affinity: int | None = None
        self.channels: tuple[Channel, ...] = ()
        """All that serve the model, lowest tier first."""
        self.tried: set[int] = set()
        self.running: list[Attempt] = []
        """Attempts now under way: one, or two while one is hedged."""
        self.channel: Channel | None = None
        """The channel asked last; in the end the one that served."""
        self.served_model = ""
        self.stage = Stage.ADMITTED
        self.attempts = 0
        self.splices = 0
        self.keeper: Keeper | None = None
        """What went out, kept where the stream may have to be carried on."""
        self.opening = b""
        """The first events that went out: an error told in band must fit them."""
        self.first_byte_s = 0.0
        self.bytes_out = 0
        self.events_out = 0
        self.usage: Usage | None = None
        self.settled = False
        self.doom: RelayError | None = None
        """Why the whole call has to end, whatever its attempts say."""

    def __repr__(self) -> str:
        return f"<ActiveCall {self.request_id} {self.stage.name} attempts={self.attempts}>"

    @property
    def committed(self) -> bool:
        """Whether the client has output of an answer."""
        return self.stage is Stage.COMMITTED

    def commit(self) -> None:
        """Note that output of an answer is about to reach the client."""
        if self.stage is not Stage.COMMITTED:
            self.stage = Stage.COMMITTED
            self.first_byte_s = time.monotonic()

    def end_early(self, error: RelayError) -> None:
        """Have the call end with `error`: its key was revoked, its time is up, we shut down.

        Safe at any moment: an attempt that waits is woken, one about to ask sees `doom`.
        """
        self.doom = error
        for attempt in list(self.running):
            attempt.fail(error)

    def stop(self) -> None:
        """Drop all upstreams: nobody reads an answer any more."""
        for attempt in list(self.running):
            attempt.stop()

    def leave(self) -> None:
        """The client is gone: drop its upstreams in the same moment, write nothing more."""
        self.outlet.close()
        self.stop()

    # --- flow.ports.Valve: the client's appetite goes to whoever feeds it ---------------------

    def pause(self) -> None:
        """The client's buffer is full."""
        for attempt in self.running:
            attempt.pause()

    def resume(self) -> None:
        """The client's buffer has drained."""
        for attempt in self.running:
            attempt.resume()
