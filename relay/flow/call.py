"""A call while it lives: what is asked and by whom, how far it has come, what it has tried.

One of these goes with a call from its arrival to its settlement. It holds no request content but
the question itself, which a retry needs; what does not change of it is three values of its own
(flow.request).
"""

import asyncio
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Final, Protocol

import msgspec

from relay.clock import clock_s
from relay.errors import RelayError
from relay.flow.ports import Backpressure, Client, Question, Sockets
from relay.flow.request import NO_FACTS, NO_RIGHTS, UNREAD, RequestFacts, RequestHead, Rights
from relay.flow.response import Response
from relay.flow.state.bound import Background, Bound
from relay.limits.limit_set import Grant, Tokens
from relay.model import Channel
from relay.records import FailedTry
from relay.splice.delivered import DeliveredText
from relay.stage import ADMITTED, COMMITTED, Stage
from relay.usage import Usage
from relay.wire.usage.delivered_tokens import Measured

if TYPE_CHECKING:
    from relay.flow.attempts.attempt import Attempt
    from relay.flow.reserve.budgets import BudgetHold
    from relay.flow.translated.plan import CallTranslation


class CallOwner(Protocol):
    """Who has a call asked at once."""

    __slots__ = ()

    def over(self, call: "Call") -> None:
        """The call is settled, its answer out; or its client has gone."""
        ...

    def fell(self, call: "Call", error: Exception) -> None:
        """Nothing of an answer is out, and none will come: tell the client why; `over` follows."""
        ...


class Delivery:
    """What a client had of an answer when it left."""

    __slots__ = ("answer", "bytes_out")

    def __init__(self, bytes_out: int, answer: Measured) -> None:
        self.bytes_out = bytes_out
        self.answer = answer


class Call(Backpressure):
    """The mutable state of one call: moved by the exchange and its attempts, read by the rest.

    `id` is the request id, a UUIDv7. `time_us` is microseconds since 1970 UTC at arrival; `*_s` are
    seconds of time.monotonic (uvloop's own clock ticks in milliseconds), 0.0 = not yet. `stage` is
    COMMITTED once the client has output of an answer; how far an attempt is, the attempt knows.
    """

    id: bytes
    client: Client
    time_us: int
    head: RequestHead
    request: RequestFacts
    rights: Rights
    question: Question
    stage: Stage
    begun_s: float
    asked_s: float
    """When its first channel was asked."""
    first_byte_s: float
    checked_s: float
    """When it was last told what the call has used so far."""
    # --- what it has taken ---
    body_bytes: int
    """What its body takes of the memory that all bodies may take."""
    free_body: "Callable[[Call], None] | None"
    """Told when the body is needed no more."""
    reserved: Tokens
    """What it was taken to use before it ran."""
    grant: Grant | None
    """What it has taken of its limits (flow.reserve.limits)."""
    hold_nanos: int
    """Money held for it (flow.reserve.credit)."""
    quota_hold_nanos: int
    """The same of its key's quota (flow.reserve.key_quotas)."""
    budget_holds: "list[BudgetHold] | None"
    """The same of its budgets (flow.reserve.budgets); None: it has none."""
    reservations_taken: int
    """How many of its reservations it has, in their order (flow.reserve.reservations)."""
    # --- whom it has asked ---
    affinity: int | None
    asked_channels: tuple[int, ...]
    """Ids of the channels asked; a handful at most, and a set takes 200 bytes."""
    attempt_count: int
    open_attempts: "list[Attempt]"
    """Attempts now under way: one, or two while one is hedged."""
    failed_tries: tuple[FailedTry, ...]
    splices: int
    splice_refusal: str
    """Why its stream could not be carried on, as its request tells already; "" = it could."""
    channel: Channel | None
    """The channel asked last; in the end the one that served."""
    served_model: str
    translation: "CallTranslation | None"
    """What it is to channels of other dialects, where one of them may have to serve it."""
    payer: "Attempt | None"
    """The attempt that the client pays for: the first one with output."""
    operator_input_tokens: int
    operator_output_tokens: int
    """Tokens of other attempts: the operator pays for them."""
    bound: Bound | None
    """What it refers to that one channel has; None for most."""
    background: Background | None
    """Set where its response goes on without it, and is settled when that has ended."""
    # --- what has gone out ---
    response: Response
    """Set before any channel is asked, and not there before."""
    spoken: bool
    """Its head went out while it waited for its limits."""
    notes: bytes
    """Header lines for the head of its answer, whatever that is; each ends in CRLF."""
    opening: bytes
    """The first events of a response that went out: an error told in band must fit them."""
    delivered_text: DeliveredText | None
    """What went out, kept where the stream may have to be carried on."""
    bytes_out: int
    events_out: int
    # --- how it ends ---
    usage: Usage | None
    settled: bool
    doom: RelayError | None
    """Why the whole call has to end, whatever its attempts say."""
    gone: bool
    """The client hung up."""
    abandoned: Delivery | None
    """What the client had when it left, where its answer is read on all the same."""
    sockets: Sockets | None
    """Its session's own connections; None for most."""
    owner: "CallOwner | None"
    """Who hears the end of a call that no task waits for."""
    on_leave: "Callable[[Call], None] | None"
    """Told when the client hangs up on a call that is under way."""
    has_task: bool
    """A task carries it out, and hears by its cancellation that the client has hung up."""
    task: "asyncio.Task[None] | None"
    """The exchange's own, where the call goes on after an attempt that failed."""
    __slots__ = tuple(__annotations__)  # each field is said once, above

    def __init__(self, id_: bytes, client: Client, time_us: int) -> None:
        self.id = id_
        self.client = client
        self.time_us = time_us
        self.head = UNREAD
        self.request = NO_FACTS
        self.rights = NO_RIGHTS
        self.question = FORGOTTEN
        self.stage = ADMITTED
        self.begun_s = self.asked_s = self.first_byte_s = self.checked_s = 0.0
        self.body_bytes = self.reservations_taken = 0
        self.hold_nanos = self.quota_hold_nanos = 0
        self.attempt_count = self.splices = self.bytes_out = self.events_out = 0
        self.operator_input_tokens = self.operator_output_tokens = 0
        self.reserved = (0, 0, 0)
        self.asked_channels = ()
        self.failed_tries = ()
        self.open_attempts = []
        self.served_model = self.splice_refusal = ""
        self.notes = self.opening = b""
        self.settled = self.gone = self.has_task = self.spoken = False
        self.free_body = self.owner = self.on_leave = self.task = None
        self.affinity = self.grant = self.channel = self.payer = self.translation = None
        self.budget_holds = None
        self.delivered_text = self.usage = self.doom = self.abandoned = None
        self.bound = self.background = self.sockets = None

    def __repr__(self) -> str:
        return f"<Call {self.request_id} {self.stage.name} attempts={self.attempt_count}>"

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
        if self.translation is not None:
            self.translation.forget()
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
        if self.on_leave is not None:
            self.on_leave(self)
        else:
            self.stop()

    # --- flow.ports.Backpressure: the client's appetite goes to whoever feeds it ---------------

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
