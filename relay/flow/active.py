"""A call while it lives: what admission found, how far it has come, what it has tried.

One of these goes with a call from its arrival to its settlement. It holds no request content but
the question itself, which a retry needs.
"""

import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Final, Protocol

import msgspec

from relay.call import Endpoint, Stage, Try, Usage
from relay.errors import RelayError
from relay.flow.outlet import Outlet
from relay.flow.ports import Client, Question
from relay.limits.scheme import Grant, Tokens
from relay.model import Account, Channel, Group, Key, Line, Price
from relay.model import Protocol as Dialect
from relay.routing.delivered import Keeper

if TYPE_CHECKING:
    from relay.flow.attempt import Attempt


class Caller(Protocol):
    """Who has a call asked at once."""

    def over(self, call: "ActiveCall") -> None:
        """The call is settled, its answer out; or its client has gone."""
        ...

    def broken(self, attempt: "Attempt") -> None:
        """The attempt did not get an answer out: a task has to go on from it."""
        ...


class Forgotten:
    """Stands for the question of a call that is asked no more (implements flow.ports.Question)."""

    __slots__ = ()
    fields = None
    strips_usage = False
    session = b""

    def frame(self, channel: Channel, model: str) -> tuple[bytes, bytes]:
        """Fail: it is gone."""
        raise AssertionError("a forgotten question is asked again")

    def carry_on(self, fields: Mapping[str, msgspec.Raw]) -> "Forgotten":
        """Fail: it is gone."""
        raise AssertionError("a forgotten question is carried on")


FORGOTTEN: Final = Forgotten()


class ActiveCall(msgspec.Struct, eq=False):
    """The mutable state of one call: moved by the exchange and its attempts, read by the rest.

    `number` is the request id, a UUIDv7 as an integer. `time_us` is microseconds since 1970 UTC at
    arrival; `*_s` are seconds of time.monotonic (uvloop's own clock ticks in milliseconds), 0.0 =
    not yet. `stage` is COMMITTED once the client has output of an answer; how far an attempt is,
    the attempt knows.
    """

    number: int
    client: Client
    endpoint: Endpoint
    time_us: int
    tried: tuple[int, ...] = ()
    """Ids of the channels asked; a handful at most, and a set takes 200 bytes."""
    running: "list[Attempt]" = []
    """Its own, as each default here: attempts now under way: one, or two while one is hedged."""
    begun_s: float = 0.0
    dialect: Dialect = Endpoint.CHAT.dialect
    """What the client speaks: errors are told in it, and channels that speak it serve the call."""
    query: str = ""
    """What of the query goes on to an upstream, with its question mark."""
    forwarded: bytes = b""
    """Header lines of the client's that go on to an upstream."""
    ip: str = ""
    key: Key | None = None
    account: Account | None = None
    group: Group | None = None
    line: Line | None = None
    price: Price | None = None
    model: str = ""
    stream: bool = False
    input_estimate: int = 0
    output_tokens_max: int | None = None
    """The client's bound on each answer; None: it set none."""
    choices: int = 1
    """Answers or images asked for."""
    text_bytes: int = 0
    """Of its body, pictures left out."""
    images: int = 0
    reserved: Tokens = (0, 0, 0)
    """What it was taken to use before it ran."""
    grant: Grant | None = None
    """What it has taken of its limits (flow.rates)."""
    hold_nanos: int = 0
    """Money held for it (flow.purses)."""
    held_bytes: int = 0
    """What its body takes of the memory that all bodies may take."""
    free_body: "Callable[[ActiveCall], None] | None" = None
    """Told when the body is needed no more."""
    paid: int = 0
    """How many tolls it has paid, in their order (flow.tolls)."""
    notes: bytes = b""
    """Header lines for the head of its answer, whatever that is; each ends in CRLF."""
    counts_bytes: bool = False
    """The answer is text, so that its bytes tell its tokens where nobody reports them."""
    question: Question = FORGOTTEN
    outlet: Outlet = None  # type: ignore[assignment]  # set before any channel is asked
    affinity: int | None = None
    channels: tuple[Channel, ...] = ()
    """All that serve the model, lowest tier first."""
    channel: Channel | None = None
    """The channel asked last; in the end the one that served."""
    served_model: str = ""
    stage: Stage = Stage.ADMITTED
    attempts: int = 0
    tries: tuple[Try, ...] = ()
    """Those of them that failed."""
    splices: int = 0
    keeper: Keeper | None = None
    """What went out, kept where the stream may have to be carried on."""
    opening: bytes = b""
    """The first events of a response that went out: an error told in band must fit them."""
    asked_s: float = 0.0
    """When its first channel was asked."""
    left_s: float = 0.0
    """When its client left, where its answer is read on all the same (flow.drains); 0.0 = never."""
    left_events: int = 0
    left_bytes_out: int = 0
    """What had gone out by then."""
    first_byte_s: float = 0.0
    checked_s: float = 0.0
    """When it was last told what the call has used so far."""
    payer: "Attempt | None" = None
    """The attempt that the client pays for: the first one with output."""
    wasted_input: int = 0
    wasted_output: int = 0
    """Tokens of other attempts: the operator pays for them."""
    bytes_out: int = 0
    events_out: int = 0
    usage: Usage | None = None
    settled: bool = False
    gone: bool = False
    """The client hung up."""
    doom: RelayError | None = None
    """Why the whole call has to end, whatever its attempts say."""
    caller: "Caller | None" = None
    """Who hears the end of a call that no task waits for."""
    reads_on: "Callable[[ActiveCall], bool] | None" = None
    """Asked when the client hangs up, whether the answer is read on without it (flow.drains)."""
    deserted: "Callable[[ActiveCall], None] | None" = None
    """Told when the client hangs up on a call that no task waits for."""

    def __repr__(self) -> str:
        return f"<ActiveCall {self.request_id} {self.stage.name} attempts={self.attempts}>"

    @property
    def request_id(self) -> str:
        """What the client knows the call by."""
        return f"req_{self.number:032x}"

    @property
    def committed(self) -> bool:
        """Whether the client has output of an answer."""
        return self.stage is Stage.COMMITTED

    def commit(self) -> None:
        """Note that output of an answer is about to reach the client."""
        if self.stage is not Stage.COMMITTED:
            self.stage = Stage.COMMITTED
            self.first_byte_s = time.monotonic()

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
        for attempt in list(self.running):
            attempt.fail(error)

    def stop(self) -> None:
        """Drop all upstreams: nobody reads an answer any more."""
        for attempt in list(self.running):
            attempt.stop()

    def leave(self) -> None:
        """The client is gone: drop its upstreams in the same moment, write nothing more."""
        self.gone = True
        self.outlet.close()
        if self.reads_on is None or not self.reads_on(self):
            self.stop()
        if self.deserted is not None:
            self.deserted(self)

    # --- flow.ports.Valve: the client's appetite goes to whoever feeds it ---------------------

    def pause(self) -> None:
        """The client's buffer is full."""
        for attempt in self.running:
            attempt.pause()

    def resume(self) -> None:
        """The client's buffer has drained."""
        for attempt in self.running:
            attempt.resume()
