"""A call while it lives: what admission found, how far it has come, what it has tried.

One of these goes with a call from its arrival to its settlement. It holds no request content but
the question itself, which a retry needs.
"""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Final, Protocol

import msgspec

from relay.billing.tariff import Tariff
from relay.clock import clock_s
from relay.errors import RelayError
from relay.flow.ports import Backpressure, Client, Question
from relay.flow.response import Response
from relay.limits.limit_set import Grant, Tokens
from relay.model import Account, Channel, Dialect, Group, Key, Line
from relay.records import Endpoint, FailedTry
from relay.splice.delivered import DeliveredText
from relay.stage import ADMITTED, COMMITTED, Stage
from relay.usage import Usage

if TYPE_CHECKING:
    from relay.flow.attempts.attempt import Attempt


class CallOwner(Protocol):
    """Who has a call asked at once."""

    __slots__ = ()

    def over(self, call: "Call") -> None:
        """The call is settled, its answer out; or its client has gone."""
        ...

    def broken(self, attempt: "Attempt") -> None:
        """The attempt did not get an answer out: a task has to go on from it."""
        ...


_DIALECT: Final = Endpoint.CHAT.dialect


class Call(Backpressure):
    """The mutable state of one call: moved by the exchange and its attempts, read by the rest.

    `id` is the request id, a UUIDv7. `time_us` is microseconds since 1970 UTC at
    arrival; `*_s` are seconds of time.monotonic (uvloop's own clock ticks in milliseconds), 0.0 =
    not yet. `stage` is COMMITTED once the client has output of an answer; how far an attempt is,
    the attempt knows.
    """

    __slots__ = (
        "account",
        "affinity",
        "asked_channels",
        "asked_s",
        "attempt_count",
        "begun_s",
        "bytes_out",
        "channel",
        "channels",
        "checked_s",
        "choices",
        "client",
        "counts_bytes",
        "delivered_text",
        "deserted",
        "dialect",
        "doom",
        "endpoint",
        "events_out",
        "failed_tries",
        "first_byte_s",
        "forwarded",
        "free_body",
        "gone",
        "grant",
        "group",
        "held_bytes",
        "hold_nanos",
        "id",
        "images",
        "input_estimate",
        "ip",
        "key",
        "left_bytes_out",
        "left_events",
        "left_s",
        "line",
        "model",
        "notes",
        "open_attempts",
        "opening",
        "operator_input_tokens",
        "operator_output_tokens",
        "output_tokens_max",
        "owner",
        "payer",
        "query",
        "question",
        "reads_on",
        "reservations_taken",
        "reserved",
        "response",
        "served_model",
        "settled",
        "splices",
        "stage",
        "stream",
        "tariff",
        "text_bytes",
        "time_us",
        "usage",
    )

    id: bytes
    client: Client
    endpoint: Endpoint
    time_us: int
    asked_channels: tuple[int, ...]
    """Ids of the channels asked; a handful at most, and a set takes 200 bytes."""
    open_attempts: "list[Attempt]"
    """Attempts now under way: one, or two while one is hedged."""
    begun_s: float
    dialect: Dialect
    """What the client speaks: errors are told in it, and channels that speak it serve the call."""
    query: str
    """What of the query goes on to an upstream, with its question mark."""
    forwarded: bytes
    """Header lines of the client's that go on to an upstream."""
    ip: str
    key: Key | None
    account: Account | None
    group: Group | None
    line: Line | None
    tariff: Tariff | None
    """What it is charged by."""
    model: str
    stream: bool
    input_estimate: int
    output_tokens_max: int | None
    """The client's bound on each answer; None: it set none."""
    choices: int
    """Answers or images asked for."""
    text_bytes: int
    """Of its body, pictures left out."""
    images: int
    reserved: Tokens
    """What it was taken to use before it ran."""
    grant: Grant | None
    """What it has taken of its limits (flow.reserve.limits)."""
    hold_nanos: int
    """Money held for it (flow.reserve.credit)."""
    held_bytes: int
    """What its body takes of the memory that all bodies may take."""
    free_body: "Callable[[Call], None] | None"
    """Told when the body is needed no more."""
    reservations_taken: int
    """How many reservations it has paid, in their order (flow.reserve.reservations)."""
    notes: bytes
    """Header lines for the head of its answer, whatever that is; each ends in CRLF."""
    counts_bytes: bool
    """The answer is text, so that its bytes tell its tokens where nobody reports them."""
    question: Question
    response: Response
    """Set before any channel is asked, and not there before."""
    affinity: int | None
    channels: tuple[Channel, ...]
    """All that serve the model, lowest tier first."""
    channel: Channel | None
    """The channel asked last; in the end the one that served."""
    served_model: str
    stage: Stage
    attempt_count: int
    failed_tries: tuple[FailedTry, ...]
    """Those of them that failed."""
    splices: int
    delivered_text: DeliveredText | None
    """What went out, kept where the stream may have to be carried on."""
    opening: bytes
    """The first events of a response that went out: an error told in band must fit them."""
    asked_s: float
    """When its first channel was asked."""
    left_s: float
    """When its client left and its answer is read on all the same (flow.abandoned); 0.0 = never."""
    left_events: int
    left_bytes_out: int
    """What had gone out by then."""
    first_byte_s: float
    checked_s: float
    """When it was last told what the call has used so far."""
    payer: "Attempt | None"
    """The attempt that the client pays for: the first one with output."""
    operator_input_tokens: int
    operator_output_tokens: int
    """Tokens of other attempts: the operator pays for them."""
    bytes_out: int
    events_out: int
    usage: Usage | None
    settled: bool
    gone: bool
    """The client hung up."""
    doom: RelayError | None
    """Why the whole call has to end, whatever its attempts say."""
    owner: "CallOwner | None"
    """Who hears the end of a call that no task waits for."""
    reads_on: "Callable[[Call], bool] | None"
    """Asked when the client hangs up, whether the answer is read on without it (flow.abandoned)."""
    deserted: "Callable[[Call], None] | None"
    """Told when the client hangs up on a call that no task waits for."""

    def __init__(  # noqa: PLR0915 - a field a line
        self, id_: bytes, client: Client, endpoint: Endpoint, time_us: int
    ) -> None:
        self.id = id_
        self.client = client
        self.endpoint = endpoint
        self.time_us = time_us
        self.asked_channels = ()
        self.failed_tries = ()
        self.open_attempts = []
        self.begun_s = 0.0
        self.asked_s = 0.0
        self.left_s = 0.0
        self.first_byte_s = 0.0
        self.checked_s = 0.0
        self.dialect = _DIALECT
        self.query = ""
        self.ip = ""
        self.model = ""
        self.served_model = ""
        self.forwarded = b""
        self.notes = b""
        self.opening = b""
        self.key = None
        self.account = None
        self.group = None
        self.line = None
        self.tariff = None
        self.output_tokens_max = None
        self.grant = None
        self.free_body = None
        self.affinity = None
        self.channel = None
        self.delivered_text = None
        self.payer = None
        self.usage = None
        self.doom = None
        self.owner = None
        self.reads_on = None
        self.deserted = None
        self.stream = False
        self.counts_bytes = False
        self.settled = False
        self.gone = False
        self.input_estimate = 0
        self.text_bytes = 0
        self.images = 0
        self.hold_nanos = 0
        self.held_bytes = 0
        self.reservations_taken = 0
        self.attempt_count = 0
        self.splices = 0
        self.left_events = 0
        self.left_bytes_out = 0
        self.operator_input_tokens = 0
        self.operator_output_tokens = 0
        self.bytes_out = 0
        self.events_out = 0
        self.choices = 1
        self.reserved = (0, 0, 0)
        self.question = FORGOTTEN
        self.channels = ()
        self.stage = ADMITTED

    def __repr__(self) -> str:
        return f"<ActiveCall {self.request_id} {self.stage.name} attempts={self.attempt_count}>"

    @property
    def request_id(self) -> str:
        """What the client knows the call by."""
        return f"req_{self.id.hex()}"

    @property
    def committed(self) -> bool:
        """Whether the client has output of an answer."""
        return self.stage is COMMITTED

    def commit(self) -> None:
        """Note that output of an answer is about to reach the client."""
        if self.stage is not COMMITTED:
            self.stage = COMMITTED
            self.first_byte_s = clock_s()

    def forget_question(self) -> None:
        """Let go of the question: nobody can be asked it any more.

        A prompt may be a hundred times what a running stream needs beside it.
        """
        self.question = FORGOTTEN
        if self.free_body is not None:
            self.free_body(self)

    def end_early(self, error: RelayError) -> None:
        """Have the call end with `error`: its key was revoked, its time is up, we shut down.

        Safe at any moment: an attempt that waits is woken, one about to ask sees `doom`.
        """
        self.doom = error
        for attempt in list(self.open_attempts):
            attempt.fail(error)

    def stop(self) -> None:
        """Drop all upstreams: nobody reads an answer any more."""
        for attempt in list(self.open_attempts):
            attempt.stop()

    def leave(self) -> None:
        """The client is gone: drop its upstreams in the same moment, write nothing more."""
        self.gone = True
        self.response.close()
        if self.reads_on is None or not self.reads_on(self):
            self.stop()
        if self.deserted is not None:
            self.deserted(self)

    # --- flow.ports.Valve: the client's appetite goes to whoever feeds it ---------------------

    def pause(self) -> None:
        """The client's buffer is full."""
        for attempt in self.open_attempts:
            attempt.pause()

    def resume(self) -> None:
        """The client's buffer has drained."""
        for attempt in self.open_attempts:
            attempt.resume()


class Forgotten:
    """Stands for the question of a call that is asked no more (implements flow.ports.Question)."""

    __slots__ = ()
    fields = None
    strips_usage = False
    session = b""

    def frame(self, channel: Channel, model: str) -> tuple[bytes, bytes]:
        """Fail: it is gone."""
        raise AssertionError("a forgotten question is asked again")

    def continue_with(self, fields: Mapping[str, msgspec.Raw]) -> "Forgotten":
        """Fail: it is gone."""
        raise AssertionError("a forgotten question is carried on")


FORGOTTEN: Final = Forgotten()
