"""Whether and over which channel a broken stream can be carried on.

The gates are routing's; here they are given what happened. All of this runs only when a stream has
broken: a healthy one costs a list append for each read, and that only on lines that splice.
"""

from relay.clock import clock_s
from relay.config import Timeouts
from relay.errors import ChannelReportedError, RelayError
from relay.flow.active import ActiveCall
from relay.flow.referee import Referee
from relay.model import Channel
from relay.routing.delivered import Keeper, Shelf, read_delivered
from relay.routing.gates import Delivered, Facts, Refusal, means_on, plan_splice, refuse
from relay.routing.splice import Carriage, carry_on
from relay.routing.table import Outcome
from relay.wire.sse import event_payload, split_events


class Splicer:
    """Plans splices for all calls of a worker."""

    def __init__(self, referee: Referee, timeouts: Timeouts) -> None:
        self._referee = referee
        self._timeouts = timeouts
        self._shelf = Shelf()

    def prepare(self, call: ActiveCall) -> None:
        """Have the call keep what goes out, if its stream could be carried on at all."""
        fields = call.question.fields
        if call.line is None or not call.line.splice or not call.stream or fields is None:
            return
        if plan_splice(call.endpoint, fields).refusal is None:
            call.keeper = Keeper(self._shelf)

    def plan(
        self, call: ActiveCall, outcome: Outcome, error: RelayError
    ) -> tuple[Channel, Carriage] | None:
        """Return the channel to carry the call's stream on over, and how; None if none can.

        Args:
            call: A call whose client has part of an answer.
            outcome: What ended the attempt.
            error: The same, as it was raised.
        """
        fields = call.question.fields
        delivered = self._read(call)
        if fields is None or delivered is None:
            return None
        plan = plan_splice(call.endpoint, fields)
        facts = Facts(
            plan=plan,
            sold=call.line is not None and call.line.splice,
            outcome=outcome,
            in_time=clock_s() - call.begun_s < self._timeouts.total_s,
            delivered=delivered,
            error_code=error.upstream_code if isinstance(error, ChannelReportedError) else None,
            splices=call.splices,
        )
        if refuse(facts) is not None:
            return None
        able = tuple(
            channel
            for channel in call.channels
            if channel.id not in call.tried and means_on(channel, plan, delivered) is not None
        )
        channel = self._referee.choose(call, able) if able else None
        means = means_on(channel, plan, delivered) if channel is not None else None
        if channel is None or means is None:
            return None
        carriage = carry_on(means, channel.resume, plan=plan, fields=fields, delivered=delivered)
        return None if isinstance(carriage, Refusal) else (channel, carriage)

    def _read(self, call: ActiveCall) -> Delivered | None:
        if call.keeper is None or call.keeper.blocks is None:
            return None
        payloads = (
            event_payload(event) for block in call.keeper.blocks for event in split_events(block)
        )
        return read_delivered(payloads, call.endpoint)
