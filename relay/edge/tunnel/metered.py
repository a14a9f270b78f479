"""The responses of a session of voice, each a call: paid, metered, settled.

    the client asks (response.create) --> paid, then sent --> response.created --> response.done
    the provider begins by itself     ----------------------> response.created --> response.done

Where nobody asked, what is to pay is taken when the provider says that it begins; who may not pay
has it cancelled, and is charged what it came to. What is said is written down by another model:
each of its counts is a call as well.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Final

from relay.edge.tunnel.opening import VoiceDesk, facts_of
from relay.edge.tunnel.ports import TurnService
from relay.errors import (
    BadRequest,
    ChannelGarbled,
    ChannelReportedError,
    KeyRevoked,
    RelayError,
    ShuttingDown,
    UpstreamRejected,
    forget_frames,
)
from relay.flow.attempts.attempt import Attempt
from relay.flow.call import Call, Delivery
from relay.flow.request import RequestHead
from relay.flow.tunnelled import TunnelledAttempt
from relay.limits.limit_set import Grant
from relay.model import Channel
from relay.wire.turns.realtime import (
    delta_tokens,
    heard_tokens,
    read_server_event,
    read_voice_usage,
    response_of,
)
from relay.wire.turns.realtime_shapes import ClientEvent, ErrorTold, ServerEvent
from relay.wire.usage.delivered_tokens import Measured

DROPPED_MAX: Final = 256
RESPONSES_MAX: Final = 64
"""Of one session at once; providers make one after the other, but for a few beside it."""
NAME_CHARS_MAX: Final = 256


class Refusals:
    """What the responses of a session tell of it.

    `tell`: an error for the client, and the id of its event. `cancel`: a response has to end.
    """

    __slots__ = ("cancel", "tell")

    def __init__(
        self, tell: Callable[[RelayError, str | None], None], cancel: Callable[[str], None]
    ) -> None:
        self.tell = tell
        self.cancel = cancel


class MeteredResponses:
    """The responses of one session that have not ended.

    Args:
        service: Begins and ends calls.
        desk: Finds what they may do.
        head: What the session's opening said.
        channel: Whose the session is.
        model: That it is of.
        refusals: Hears what the client has to be told.
    """

    def __init__(
        self,
        service: TurnService,
        desk: VoiceDesk,
        head: RequestHead,
        channel: Channel,
        model: str,
        refusals: Refusals,
    ) -> None:
        self._service = service
        self._desk = desk
        self._head = head
        self._channel = channel
        self._model = model
        self._refusals = refusals
        self._asked: deque[tuple[str | None, TunnelledAttempt]] = deque()
        """Those that the client asked for and the provider has not begun; with its event's id."""
        self._begun: dict[str, TunnelledAttempt] = {}
        self._cancelled: dict[str, None] = {}
        self._dropped: dict[str, None] = {}
        """Ids of those that were settled before their provider ended them."""
        self._paying: dict[TunnelledAttempt, asyncio.Task[None]] = {}
        self._context_tokens = 0
        """Of all that was said, as the last response told it."""
        self._heard_tokens = 0
        """Of what the client has said since."""

    def __len__(self) -> int:
        return len(self._asked) + len(self._begun)

    def hear(self, size: int, *, sound: bool) -> None:
        """Note how much more the client has said."""
        self._heard_tokens += heard_tokens(size, sound=sound)

    # --- what the client asks for ---------------------------------------------------------------

    def begin(self, event: ClientEvent, size: int) -> tuple[Call, Grant | None]:
        """Begin the call of a response that the client asks for.

        Returns:
            The call, and what it has taken of its channel's quota; None: `pay` has to be awaited.

        Raises:
            RelayError: It may not run; it is settled.
        """
        if len(self) >= RESPONSES_MAX:
            raise BadRequest("Too many responses at once over one socket.", param="response")
        said = event.response.max_output_tokens if event.response is not None else None
        # "inf", 0 and less bound nothing.
        bound = said if isinstance(said, int) and said > 0 else None
        call = self._admit(self._model, bound, size)
        try:
            return call, self._desk.calls.take(call, self._channel)
        except Exception as error:  # noqa: BLE001 - the service sorts them
            told = self._service.fail_turn(call, error)
        self._service.let_go(call)
        raise told

    async def pay(self, call: Call) -> Grant:
        """Have a call pay; raises as `begin`."""
        refused: RelayError | None = None
        try:
            return await self._desk.calls.pay(call, self._channel)
        except RelayError as error:
            refused = error
        except BaseException:
            self._refuse(call, ShuttingDown("The session is over."))
            raise
        self._refuse(call, refused)
        raise refused

    def ask(self, call: Call, quota: Grant, event: ClientEvent) -> None:
        """Note that the provider is about to be asked for a response that was paid."""
        self._asked.append((event.event_id, self._start(call, quota)))

    # --- what the provider tells ----------------------------------------------------------------

    def created(self, text: bytes) -> None:
        """A response begins."""
        event = read_server_event(text)
        name = event.response.id if event is not None and event.response is not None else ""
        if name in self._begun:
            return
        if len(name) > NAME_CHARS_MAX or (not self._asked and len(self) >= RESPONSES_MAX):
            self._refusals.tell(ChannelGarbled("The upstream begins what nobody can follow."), None)
            return
        if self._asked:
            self._begun[name] = self._asked.popleft()[1]
        else:
            self._begin_unasked(name)

    def told(self, kind: bytes, text: bytes) -> None:
        """A response goes on."""
        attempt = self._begun.get(response_of(text))
        if attempt is not None:
            attempt.tell(len(text), *delta_tokens(kind, len(text)))

    def done(self, text: bytes) -> None:
        """A response has ended, one way or the other: it is charged for what it used."""
        event = read_server_event(text)
        told = event.response if event is not None else None
        name = told.id if told is not None else ""
        attempt = self._begun.pop(name, None)
        if attempt is None:
            if name in self._dropped:
                del self._dropped[name]
                self._cancelled.pop(name, None)
                return
            self.created(text)
            attempt = self._begun.pop(name, None)
            if attempt is None:
                return
        self._cancelled.pop(name, None)
        self._stop_paying(attempt)
        usage = read_voice_usage(told.usage) if told is not None else None
        if usage is not None and usage.input_tokens:
            self._context_tokens = usage.input_tokens + usage.output_tokens
            self._heard_tokens = 0
        call = attempt.call
        if usage is None and told is not None and told.status == "failed":
            self._end(
                attempt,
                ChannelReportedError("The upstream failed on this response.", upstream_code=""),
            )
            return
        self._desk.calls.complete(attempt, usage)
        self._service.let_go(call)

    def failed_event(self, error: ErrorTold) -> None:
        """The provider refuses something: perhaps a response that the client asked for."""
        for pair in self._asked:
            if pair[0] == error.event_id:
                self._asked.remove(pair)
                refused = UpstreamRejected("The upstream refused this response.")
                self._end(pair[1], refused)
                return

    def transcribed(self, event: ServerEvent, model: str) -> None:
        """Charge what writing down what was said has cost.

        Raises:
            RelayError: It may no longer be; nothing was charged.
        """
        usage = read_voice_usage(event.usage)
        if usage is None:
            return
        call = self._desk.begin(self._service, self._head, facts_of(model))
        attempt = self._start(call, None)
        self._pay_behind(attempt, "")
        self._stop_paying(attempt)
        self._desk.calls.complete(attempt, usage)
        self._service.let_go(call)

    def check_transcriber(self, model: str) -> None:
        """Refuse a model that writes down what is said where it could not be charged.

        Raises:
            RelayError: It may not.
        """
        self._desk.check_transcriber(self._service, self._head, self._channel, model)

    # --- ends -----------------------------------------------------------------------------------

    def end_all(self, error: RelayError) -> None:
        """End all that run, charged for what was told of them; it is one failure of the channel.

        A client may have many, and may well be why their provider closed: no one of them takes a
        channel from all others.
        """
        running = [*(attempt for _, attempt in self._asked), *self._begun.values()]
        for attempt in running[1:]:
            attempt.struck = True
        for attempt in running:
            attempt.fail(error)

    def abandon(self) -> None:
        """The client is gone: what runs is cancelled, and its provider says what it came to."""
        for name, attempt in self._begun.items():
            call = attempt.call
            call.gone = True
            call.abandoned = Delivery(call.bytes_out, Measured(0))
            self._cancel(name)

    # --- inside ---------------------------------------------------------------------------------

    def _admit(self, model: str, output_tokens_max: int | None, size: int) -> Call:
        facts = facts_of(
            model,
            output_tokens_max=output_tokens_max,
            input_estimate=self._context_tokens + self._heard_tokens,
            body_bytes=size,
        )
        call = self._desk.begin(self._service, self._head, facts)
        if all(one.id != self._channel.id for one in call.rights.channels):
            error = ShuttingDown("The channel of this session is taken out; open another one.")
            self._refuse(call, error)
            raise error
        return call

    def _refuse(self, call: Call, error: RelayError) -> None:
        self._desk.calls.refuse(call, error)
        self._service.let_go(call)

    def _start(self, call: Call, quota: Grant | None) -> TunnelledAttempt:
        return self._desk.calls.begin(call, self._channel, self._report, quota)

    def _begin_unasked(self, name: str) -> None:
        """Begin the call of a response that the provider begins by itself."""
        try:
            call = self._admit(self._model, None, 0)
        except RelayError as error:
            _note(self._dropped, name)
            self._cancel(name)
            self._refusals.tell(error, None)
            return
        attempt = self._begun[name] = self._start(call, None)
        self._pay_behind(attempt, name)

    def _cancel(self, name: str) -> None:
        """Have a response end, once."""
        if name not in self._cancelled:
            _note(self._cancelled, name)
            self._refusals.cancel(name)

    def _pay_behind(self, attempt: TunnelledAttempt, name: str) -> None:
        """Have a call pay that runs already; where it may not, its response is cancelled."""
        try:
            attempt.quota = self._desk.calls.take(attempt.call, self._channel)
        except RelayError as error:
            self._cancel(name)
            self._refusals.tell(error, None)
            return
        if attempt.quota is None:
            task = asyncio.get_running_loop().create_task(self._pay_late(attempt, name))
            self._paying[attempt] = task

    async def _pay_late(self, attempt: TunnelledAttempt, name: str) -> None:
        refused: RelayError | None = None
        try:
            attempt.quota = await self._desk.calls.pay(attempt.call, self._channel)
        except RelayError as error:
            refused = error
        self._paying.pop(attempt, None)
        if refused is not None:
            self._cancel(name)
            self._refusals.tell(refused, None)
            forget_frames(refused)

    def _stop_paying(self, attempt: TunnelledAttempt) -> None:
        task = self._paying.pop(attempt, None)
        if task is not None:
            task.cancel()

    def _report(self, attempt: Attempt, error: RelayError | None) -> None:
        """A call has to end: its key was revoked, it is too late, or its socket is gone."""
        assert isinstance(attempt, TunnelledAttempt) and error is not None
        for pair in self._asked:
            if pair[1] is attempt:
                self._asked.remove(pair)
                break
        for name, one in list(self._begun.items()):
            if one is attempt:
                del self._begun[name]
                _note(self._dropped, name)
                self._cancel(name)
        quiet = attempt.call.gone or isinstance(error, KeyRevoked)  # all of its session hears that
        self._end(attempt, error)
        if not quiet:
            self._refusals.tell(error, None)

    def _end(self, attempt: TunnelledAttempt, error: RelayError) -> None:
        self._stop_paying(attempt)
        call = attempt.call
        self._desk.calls.fail(attempt, error)
        self._service.let_go(call)
        forget_frames(error)


def _note(names: dict[str, None], name: str) -> None:
    """Keep a name; of many the oldest is forgotten."""
    if len(names) >= DROPPED_MAX:
        del names[next(iter(names))]
    names[name] = None
