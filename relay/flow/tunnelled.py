"""Calls whose answers come over a socket that is not theirs alone: one response of a session each.

    begun (paid, written down) --first output--> committed --told usage--> settled, one log row
          |                                          | the socket or the client is gone
          +-- refused: settled, nothing charged      +--> charged for what was told until then

To limits, money, deadlines, health and drains each is a call like any other; only who reads its
upstream is another one (edge.tunnel).
"""

from collections.abc import Callable

from relay.config import Switching
from relay.errors import RelayError
from relay.flow.attempts.attempt import Attempt, Report
from relay.flow.attempts.failed import note_failed_try
from relay.flow.balancer import Balancer
from relay.flow.call import Call
from relay.flow.exchange import start_record
from relay.flow.response import Response
from relay.flow.running import RunningCalls
from relay.flow.settle import Settlement
from relay.limits.limit_set import Grant
from relay.model import Channel
from relay.ports import Journal
from relay.routing.table import classify_error
from relay.stage import ASKED, COMMITTED
from relay.usage import Usage


class TunnelledAttempt(Attempt):
    """One response over a shared socket."""

    def __init__(
        self,
        call: Call,
        channel: Channel,
        committed: Callable[[Attempt], None],
        settle: Callable[[Call], None],
        limits: Switching,
    ) -> None:
        super().__init__(call, channel, committed, settle, limits)
        self._sound_thousandths = 0
        self._text_thousandths = 0

    def begin(self, report: Report) -> None:
        """Note that it is asked for; `report` hears why it fails, where it does."""
        self.stage = ASKED
        self.report = report

    def usage_so_far(self) -> Usage | None:
        """Return about what was told until now; see Attempt."""
        sound, text = self._sound_thousandths // 1000, self._text_thousandths // 1000
        return Usage(
            self.call.request.input_estimate,
            output_tokens=sound + text,
            audio_output_tokens=sound,
            estimated=True,
        )

    def tell(self, size: int, sound: int, text: int) -> None:
        """Note an event of it, and about how much it says, in thousandths of tokens."""
        self.bytes_in += size
        self.answered = True
        self._sound_thousandths += sound
        self._text_thousandths += text
        self.call.events_out += 1
        self.call.bytes_out += size
        if self.stage is not COMMITTED and (sound or text):
            self._commit()

    def finish(self, usage: Usage | None) -> None:
        """Settle it: its provider says that it has ended, and what it used."""
        used = usage is not None and bool(
            usage.input_tokens or usage.output_tokens or usage.extras is not None
        )
        if used and self.stage is not COMMITTED:
            self._commit()
        # A count of nothing is none where something was told.
        told = self._sound_thousandths or self._text_thousandths
        self.call.usage = usage if used or not told else None
        self._complete()

    def _begin(self, kind: bytes, content_type: bytes, headers: dict[bytes, bytes]) -> None:
        """Nothing: no head of HTTP is its own."""

    def on_body(self, raw: bytes, parts: list[bytes], *, done: bool) -> None:
        """Nothing: whoever has the socket tells."""

    def on_lost(self, error: RelayError) -> None:
        """End with the socket."""
        self.fail(error)


class TunnelledCalls:
    """Begins and ends such calls.

    Args:
        journal: Where they are written down.
        running_calls: Watches over them.
        balancer: Keeps what channels did.
        settlement: Ends them.
        limits: See Attempt.
    """

    def __init__(
        self,
        journal: Journal,
        running_calls: RunningCalls,
        balancer: Balancer,
        settlement: Settlement,
        limits: Switching,
    ) -> None:
        self._journal = journal
        self._running_calls = running_calls
        self.balancer = balancer
        self._settlement = settlement
        self.limits = limits

    def take(self, call: Call, channel: Channel) -> Grant | None:
        """Have a call pay what it has to, without waiting; None: `pay` has to.

        Returns:
            What it has taken of its channel's own quota.

        Raises:
            RelayError: It may not run.
        """
        if not self._settlement.reservations.take(call):
            return None
        return self.balancer.quotas.take(call, channel)

    async def pay(self, call: Call, channel: Channel) -> Grant:
        """Have a call pay what it has to, as soon as that can be decided; see `take`."""
        await self._settlement.reservations.pay(call)
        return await self.balancer.quotas.wait(call, channel)

    def refuse(self, call: Call, error: RelayError) -> None:
        """Settle a call that no channel was asked for."""
        self._settlement.fail(call, error)

    def choose(self, call: Call) -> Channel | None:
        """Return the channel that a session of the call's model is opened with next."""
        return self.balancer.choose(call)

    def try_channel(self, call: Call, channel: Channel) -> TunnelledAttempt:
        """Return an attempt to open a session; it is over by `tried`."""
        attempt = self._attempt_on(call, channel)
        call.open_attempts.append(attempt)
        self.balancer.begin(attempt)
        return attempt

    def tried(self, attempt: TunnelledAttempt, error: RelayError | None) -> None:
        """Note whether a session was opened, and hold it against its channel where it was not."""
        if error is not None:
            self._judge(attempt, error)
        self._end(attempt)

    def begin(
        self, call: Call, channel: Channel, report: Report, quota: Grant | None
    ) -> TunnelledAttempt:
        """Put a call under way: its channel is about to be asked, or answers already."""
        call.response = Response(call.client, call.id, call.notes)
        self._running_calls.add(call)
        self._journal.start(start_record(call))
        attempt = self._attempt_on(call, channel)
        call.channel = channel
        call.served_model = channel.models.get(call.request.model, "")
        call.open_attempts.append(attempt)
        call.asked_s = attempt.asked_s
        self.balancer.begin(attempt)
        attempt.quota = quota
        attempt.begin(report)
        return attempt

    def complete(self, attempt: TunnelledAttempt, usage: Usage | None) -> None:
        """Settle a call whose provider has told its end."""
        attempt.finish(usage)
        self._end(attempt)
        self._close(attempt.call)

    def fail(self, attempt: TunnelledAttempt, error: RelayError) -> None:
        """Settle a call that has failed: what was told of it is charged."""
        call = attempt.call
        self._judge(attempt, error)
        self._settlement.fail(call, error)
        self._end(attempt)
        self._close(call)

    def _attempt_on(self, call: Call, channel: Channel) -> TunnelledAttempt:
        call.attempt_count += 1
        return TunnelledAttempt(
            call, channel, self._on_commit, self._settlement.complete, self.limits
        )

    def _on_commit(self, attempt: Attempt) -> None:
        attempt.call.payer = attempt
        self.balancer.succeed(attempt)

    def _judge(self, attempt: TunnelledAttempt, error: RelayError) -> None:
        self.balancer.fail(attempt, classify_error(error), error)
        note_failed_try(attempt.call, attempt, error)

    def _end(self, attempt: TunnelledAttempt) -> None:
        self.balancer.end(attempt)
        self.balancer.quotas.close(attempt)
        attempt.call.open_attempts.remove(attempt)
        attempt.error = attempt.report = None

    def _close(self, call: Call) -> None:
        self._running_calls.remove(call)
        call.payer = call.doom = None
