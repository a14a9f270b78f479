"""A call while it lives: what admission found, how far it has come, who may end it.

One of these goes with a call from its arrival to its settlement. It holds no request content.
"""

import asyncio

from relay.call import Endpoint, Stage, Usage
from relay.errors import RelayError
from relay.flow.ports import Client
from relay.model import Account, Channel, Group, Key, Line, Price


class ActiveCall:
    """The mutable state of one call: moved by the exchange and the pump, read by settle and watch.

    `number` is the request id, a UUIDv7 as an integer. `time_us` is microseconds since 1970 UTC at
    arrival; `*_s` are seconds of the loop's monotonic clock, 0.0 = not yet.
    """

    __slots__ = (
        "account",
        "attempts",
        "begun_s",
        "bytes_out",
        "channel",
        "client",
        "counts_bytes",
        "done",
        "doom",
        "endpoint",
        "events_out",
        "first_byte_s",
        "group",
        "input_estimate",
        "ip",
        "key",
        "line",
        "model",
        "number",
        "price",
        "request_id",
        "served_model",
        "settled",
        "stage",
        "stream",
        "time_us",
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
        self.channel: Channel | None = None
        self.model = ""
        self.served_model = ""
        self.stream = False
        self.input_estimate = 0
        self.stage = Stage.ADMITTED
        self.attempts = 0
        self.first_byte_s = 0.0
        self.bytes_out = 0
        self.counts_bytes = False
        """The answer is text, so that its bytes tell its tokens where nobody reports them."""
        self.events_out = 0
        self.usage: Usage | None = None
        self.settled = False
        self.doom: RelayError | None = None
        self.done: asyncio.Future[None] | None = None

    def __repr__(self) -> str:
        return f"<ActiveCall {self.request_id} {self.stage.name} attempts={self.attempts}>"

    def end_early(self, error: RelayError) -> None:
        """Have the call end with `error`: its key was revoked, its time is up, we shut down.

        Safe at any moment: an attempt that waits is woken, one about to begin sees `doom`.
        """
        self.doom = error
        self.resolve(error)

    def resolve(self, error: RelayError | None) -> None:
        """Wake the exchange with how the running attempt ended; the first word counts."""
        if self.done is not None and not self.done.done():
            if error is None:
                self.done.set_result(None)
            else:
                self.done.set_exception(error)
