"""One call from admission to settlement: the loop over attempts, and every way out of it.

    choose a channel -> connect -> ask -> the pump carries the answer -> done
         ^                                     | failed
         |            routing.table decides    v
         +---- SWITCH, SPLICE <----------------+----> FAIL, TRUNCATE, STOP: the call ends

No rule of switching is written here: `decide` says what to do, this does it.
"""

import asyncio
from collections.abc import Awaitable

from relay.clock import dice, now_us
from relay.config import Config
from relay.errors import ChannelDrained, ChannelSpent, ClientGone, RelayError, forget_frames
from relay.flow.abandoned import AbandonedAnswers
from relay.flow.asker import Asker
from relay.flow.attempts.attempt import Attempt
from relay.flow.balancer import Balancer
from relay.flow.call import Call, CallOwner
from relay.flow.hedge import race
from relay.flow.reserve.channel_queues import ChannelQueues, Room
from relay.flow.response import Response
from relay.flow.running import RunningCalls
from relay.flow.settle import Settlement
from relay.flow.splice import Splicer, note_carried
from relay.flow.state.batches import may_run
from relay.flow.state.binding import StateRouter
from relay.flow.translated.translator import Translator
from relay.model import Channel
from relay.ports import Connections, Journal
from relay.records import CallStart, Endpoint
from relay.routing.affinity import affinity_of
from relay.routing.budget import Effort
from relay.routing.table import Action, Outcome, classify_error, decide
from relay.splice.rewrite import Continuation
from relay.stage import COMMITTED
from relay.usage import NOTHING
from relay.wire.dialects.known import TABLES
from relay.wire.http import JSON

Next = tuple[Channel, Continuation | None]
"""The channel to ask next, and how its answer goes on where another one broke off."""


class Exchange:
    """Serves admitted calls over the channels of their line."""

    def __init__(  # noqa: PLR0913 - a part a line
        self,
        connections: Connections,
        journal: Journal,
        running_calls: RunningCalls,
        balancer: Balancer,
        settlement: Settlement,
        config: Config,
        translator: Translator,
        state: StateRouter,
    ) -> None:
        self._translator = translator
        self._state = state
        self._journal = journal
        self._reservations = settlement.reservations
        self._running_calls = running_calls
        self._balancer = balancer
        self._settlement = settlement
        self._limits = config.switching
        self._total_us = int(config.timeouts.total_s * 1e6)
        complete = settlement.complete
        self._splicer = Splicer(balancer, config.timeouts, complete, settlement.delivered_tokens)
        self._asker = Asker(connections, balancer, complete, config.switching, state.owners)
        self._abandoned = AbandonedAnswers(self._asker, settlement, self._close, config.billing)
        self._rooms = ChannelQueues(
            self._choose_first,
            balancer.quotas,
            balancer.note_spent,
            config.timeouts.keepalive_comment_s,
        )
        # Bound once: a method bound for each call is 64 bytes of every open stream.
        self._on_end, self._on_leave = self._end_at_once, self._leave

    def ask_at_once(self, call: Call, owner: CallOwner) -> bool:
        """Ask the call's first channel within this very callback, if nothing has to be waited for.

        Most calls end without a task having been woken for them: their answer goes out from the
        upstream's callback, and `owner` hears that it is out. If the first attempt fails instead,
        the call goes on in a task of the exchange's own, and `owner` hears how it ended.

        Returns:
            False: nothing was asked; `run` has to carry the call out.

        Raises:
            RelayError: The call may not run, or no channel is left to ask.
        """
        if call.rights.line is not None and call.rights.line.hedge_ms:
            return False
        if call.bound is not None and not self._state.bind(call):
            return False
        translatable = not call.rights.foreign or self._translator.prepare(call)
        if not translatable or not self._reservations.take(call):
            return False
        channel = self._choose_first(call)
        if channel is None and not self._rooms.may_wait(call):
            raise self._balancer.none_left(call)
        quota = self._balancer.quotas.take(call, channel) if channel is not None else None
        if channel is None or quota is None:
            return False
        connection = self._asker.take(call, channel)
        if connection is None:
            self._balancer.quotas.give_back(quota)
            return False
        asker = self._asker
        self._open(call)
        call.owner = owner
        attempt = asker.attempt_on(call, channel)
        attempt.quota = quota
        try:
            asker.ask_over(connection, attempt, self._on_end)
        except BaseException:
            asker.end(attempt)
            self._close(call)
            raise
        return True

    async def run(self, call: Call, owner: CallOwner, failed: Attempt | None = None) -> bool:
        """Carry the call out, as far as something has to be waited for besides its answer.

        Args:
            call: An admitted call.
            owner: Who hears of the answer's end, as with `ask_at_once`.
            failed: The attempt that was asked at once and failed, where one was.

        Returns:
            True: an answer is under way, and `owner` hears what becomes of it. False: it is out,
            and the call settled.

        Raises:
            RelayError: Nothing has reached the client; the edge settles the call and answers.
            asyncio.CancelledError: The client hung up; its upstream is cancelled, the call settled.
        """
        call.has_task = True
        room: Room | None = None
        if failed is None:
            if call.bound is not None and await self._find(call):
                return False
            if call.rights.foreign and not self._translator.prepare(call):
                await self._before_paying(call, self._translator.complete(call))
            paid, room = await self._pay(call)
            if not paid:
                return False
            self._open(call)
        running = False
        try:
            running = await self._serve(call, owner, failed, room)
        except asyncio.CancelledError:
            if call.abandoned is None:  # else its answer is read on without us (flow.abandoned)
                call.stop()
                self._settlement.fail(call, ClientGone("The client closed the connection."))
            raise
        except RelayError as error:
            self._settlement.fail(call, error)
            if not call.response.opened:
                raise
            self._tell_in_band(call, error)
            forget_frames(error)
        finally:
            if not running and call.abandoned is None:
                self._close(call)
        return running

    async def _pay(self, call: Call) -> tuple[bool, Room | None]:
        """Take what a call has to take before it may run; wait where that is needed.

        Returns:
            False: it was refused, in band: a comment had told its client that it waits. And the
            channel to ask, where its quota is taken already.
        """
        room: Room | None = None
        try:
            await self._reservations.pay(call)
            if self._rooms.may_wait(call):
                room = await self._rooms.find(call)
        except RelayError as error:
            if not call.spoken:
                raise
            self._settlement.fail(call, error)
            self._tell_in_band(call, error)
            forget_frames(error)
            return False, None
        except asyncio.CancelledError:
            self._settlement.fail(call, ClientGone("The client closed the connection."))
            raise
        return True, room

    async def _find(self, call: Call) -> bool:
        """Bind a call to what it refers to; tell whether that was all, and its answer is out."""
        await self._before_paying(call, self._state.find(call))
        told = None if call.bound is None else call.bound.told
        if told is None:
            return False
        call.response = Response(call.client, call.id, call.notes)
        call.commit()
        call.usage = NOTHING
        self._settlement.complete(call)
        call.response.send_whole(JSON, told)
        return True

    async def _before_paying(self, call: Call, work: Awaitable[None]) -> None:
        """Wait for what has to be known of a call before it takes anything."""
        try:
            await work
        except asyncio.CancelledError:
            self._settlement.fail(call, ClientGone("The client closed the connection."))
            raise

    def _open(self, call: Call) -> None:
        """Put a call under way: watched, and written down before any channel is asked."""
        if not call.spoken:
            call.response = Response(call.client, call.id, call.notes)
        call.client.set_backpressure(call)
        if call.request.stream:
            self._splicer.prepare(call)
        call.on_leave = self._on_leave
        self._running_calls.add(call)
        self._journal.start(start_record(call))

    def _close(self, call: Call) -> None:
        call.client.set_backpressure(None)
        self._running_calls.remove(call)
        if call.delivered_text is not None:
            call.delivered_text.release()
        # An attempt and its call refer to each other: left so, the question would live until the
        # garbage collector ran.
        call.payer = call.doom = None

    def _end_at_once(self, attempt: Attempt, error: RelayError | None) -> None:
        """An attempt that was asked at once is over, well or not."""
        call = attempt.call
        assert call.owner is not None
        if error is not None:
            call.task = asyncio.get_running_loop().create_task(self._carry(call, attempt))
            return
        self._asker.end(attempt)
        self._close(call)
        call.owner.over(call)

    async def _carry(self, call: Call, failed: Attempt) -> None:
        """Go on with a call whose first attempt failed; its owner hears of the end only."""
        owner, running = call.owner, False
        assert owner is not None
        try:
            running = await self.run(call, owner, failed)
        except Exception as error:  # noqa: BLE001 - the owner tells them apart
            owner.fell(call, error)
        finally:
            call.task = None
            if not running:
                owner.over(call)

    def _leave(self, call: Call) -> None:
        """The client hung up: its answer is read on where that is worth it, or all of it ends."""
        if not self._abandoned.take_on(call):
            call.stop()
        if call.task is not None:
            call.task.cancel()
            call.task = None
        if not call.has_task:  # one that was cancelled before it began will never run
            self._desert(call)

    def _desert(self, call: Call) -> None:
        """The client hung up on a call that no task waits for."""
        assert call.owner is not None
        if call.abandoned is None:
            gone = ClientGone("The client closed the connection.")
            for attempt in list(call.open_attempts):
                self._asker.judge(attempt, gone)
                self._asker.end(attempt)
            self._settlement.fail(call, gone)
            self._close(call)
        call.owner.over(call)

    def _first(self, call: Call) -> Channel:
        channel = self._choose_first(call)
        if channel is None:
            raise self._balancer.none_left(call)
        return channel

    def _choose_first(self, call: Call) -> Channel | None:
        """Return the channel to ask first, None where none is left."""
        rights = call.rights
        if (len(rights.channels) > 1 or rights.foreign) and rights.account is not None:
            session = call.head.session or call.question.session
            call.affinity = affinity_of(rights.account.id, session) if session else None
        return self._preferred(call) or self._balancer.choose(call)

    def _preferred(self, call: Call) -> Channel | None:
        """Return the channel that has what the call refers to, where others may stand in for it."""
        preferred = call.bound.preferred if call.bound is not None else 0
        if not preferred and call.sockets is not None:
            preferred = call.sockets.preferred(call)
        return self._state.preferred(call, preferred) if preferred else None

    async def _serve(
        self, call: Call, owner: CallOwner, failed: Attempt | None, room: Room | None
    ) -> bool:
        """Ask one channel after the other until one is about to answer; see `run`."""
        hedged = call.rights.line is not None and call.rights.line.hedge_ms > 0
        # What is begun twice is charged twice, whoever hears of it.
        hedged = hedged and call.head.kept is None and call.background is None
        asker = self._asker
        if room is not None:
            attempt = asker.attempt_on(call, room.channel)
            attempt.quota = room.grant
        else:
            attempt = failed or asker.attempt_on(call, self._first(call))
        while True:
            broken: RelayError | None = None
            try:
                if hedged:
                    try:
                        await race(asker, call, attempt, self._translator.complete)
                    finally:
                        asker.give_back_unasked(attempt)
                    return False
                if attempt is failed:
                    await asker.begin_again(attempt, self._on_end)
                else:
                    await asker.begin(attempt, self._on_end)
            except RelayError as error:
                broken = error
            if broken is None:
                call.owner = owner
                call.has_task = False
                return True
            if call.rights.foreign:  # awaited behind the `except`: see flow.reserve.leasing
                await self._translator.complete(call)
            if call.committed and self._splicer.end(call, broken):
                return False
            effort = self._effort_of(call)
            following = self._decide(call, attempt, broken, effort)
            forget_frames(broken)
            wait_us = effort.backoff_us(now_us(), dice())
            if wait_us:
                await asyncio.sleep(wait_us / 1e6)
            attempt = asker.attempt_on(call, *following)

    def _effort_of(self, call: Call) -> Effort:
        """Return the tries and the time that a call has spent and has left."""
        effort = Effort(self._limits.attempts_max, int(call.begun_s * 1e6) + self._total_us)
        effort.attempts = call.attempt_count
        return effort

    def _decide(self, call: Call, attempt: Attempt, error: RelayError, effort: Effort) -> Next:
        """Return where to go on after a failed attempt; raise its error where nowhere."""
        outcome = classify_error(error)
        committed = call.committed
        stage = COMMITTED if committed else attempt.stage
        if call.bound is not None:
            self._state.release(call, outcome)
        carried = self._splicer.plan(call, outcome, error) if committed else None
        barred = committed or call.doom or may_run(call, attempt.stage, outcome)
        other = None if barred else self._balancer.choose(call)
        may_switch = (
            other is not None
            and not (outcome is Outcome.FORBIDDEN and _count(call, outcome) > 1)
            and effort.left(now_us())
            # What an operator moves is no retry, and must not be lost to a budget for those.
            and (outcome is Outcome.DRAINED or self._balancer.take_retry(call, other))
        )
        action = decide(
            stage,
            outcome,
            may_switch=may_switch,
            may_splice=carried is not None,
            head_out=call.response.opened,
        )
        if action is Action.SPLICE and carried is not None:
            note_carried(call, carried[1])
            return carried
        if action is Action.SWITCH and other is not None:
            return other, None
        if isinstance(error, ChannelSpent):
            self._balancer.note_spent(call, error)
        if outcome is Outcome.MODEL_GONE and _count(call, outcome) == len(call.failed_tries):
            _tell_missing(error)
        if error.switch and error.retry_after_s is None:
            # Our tries are spent: without this every client would multiply them by its own.
            error.should_retry = False
        if call.bound is not None:
            error = self._state.told(call, outcome, error)
        raise error

    # --- moved by an operator ----------------------------------------------------------------

    def move_off(self, call: Call, channel_id: int) -> None:
        """Take a call off a channel that an operator wants empty, where that can be done whole."""
        preference = ChannelDrained("The channel is being drained.")
        for attempt in list(call.open_attempts):
            if attempt.channel.id != channel_id:
                continue
            if call.committed:
                possible = self._splicer.could_carry(call, Outcome.DRAINED, preference)
            else:
                left = self._effort_of(call).left(now_us())
                possible = left and self._balancer.choose(call) is not None
            if possible:
                attempt.fail(preference)

    def _tell_in_band(self, call: Call, error: RelayError) -> None:
        """End an answer that has begun: a stream with an error event, a body by breaking off."""
        # A stream ends whole, and its connection stays as its head said: it may be in use by now.
        if call.request.stream:
            endpoint = call.head.endpoint
            if call.background is not None and call.background.taken:
                endpoint = Endpoint.RESPONSE  # it goes on, and can be taken up again
            event = TABLES[call.head.dialect].error_event(
                error, call.request_id, endpoint, call.opening, call.events_out
            )
            call.response.send_events(event, last=True)
        else:
            call.client.cut()


def _count(call: Call, outcome: Outcome) -> int:
    return sum(failed.outcome == outcome.value for failed in call.failed_tries)


def _tell_missing(error: RelayError) -> None:
    error.status, error.code, error.kind = 404, "model_not_found", "invalid_request_error"
    error.message = "No provider of this model has it now, or has it at this endpoint."
    error.param = "model"


def start_record(call: Call) -> CallStart:
    """Return what is written down of a call before any channel is asked."""
    rights, request = call.rights, call.request
    assert rights.key is not None and rights.account is not None and rights.line is not None
    return CallStart(
        call.id,
        call.time_us,
        rights.account.id,
        rights.key.id,
        call.head.ip,
        call.head.endpoint,
        request.model,
        rights.line.id,
        request.stream,
        request.input_estimate,
    )
