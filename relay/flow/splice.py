"""Whether and over which channel a broken stream can be carried on.

The gates are routing's; here they are given what happened. All of this runs only when a stream has
broken: a healthy one costs a list append for each read, and that only on lines that splice.
"""

from collections.abc import Callable
from typing import Final

import msgspec

from relay.clock import clock_s
from relay.config import Timeouts
from relay.errors import ChannelReportedError, RelayError, forget_frames
from relay.flow.balancer import Balancer
from relay.flow.call import Call
from relay.flow.kept_answer import read_kept
from relay.flow.settle import usage_of
from relay.model import Channel
from relay.records import Endpoint
from relay.routing.table import Outcome, classify_error
from relay.splice.delivered import DeliveredBudget, DeliveredText
from relay.splice.gates import (
    CARRIED,
    Delivered,
    Facts,
    Means,
    SpliceRefusal,
    means_on,
    plan_splice,
    refuse,
)
from relay.splice.response_items import DeliveredResponse
from relay.splice.responses import ended_event
from relay.splice.rewrite import Continuation, continue_stream

BROKEN: Final = frozenset({Outcome.CUT, Outcome.STALLED, Outcome.SERVER_ERROR, Outcome.ERROR_EVENT})
"""How a stream ends that said nothing against its request."""


class Splicer:
    """Plans splices for all calls of a worker.

    Args:
        balancer: Chooses who carries on.
        timeouts: Bounds of a call.
        complete: Settles a call whose answer is whole.
        counted: Tells about how many tokens of a call's answer went out as its model counts them,
            from what was read of it; None = nobody knows yet: a token is then an event, or four
            bytes of long ones, which takes a third too many for English words.
    """

    def __init__(
        self,
        balancer: Balancer,
        timeouts: Timeouts,
        complete: Callable[[Call], None],
        counted: Callable[[Call, Delivered], int | None],
    ) -> None:
        self._complete = complete
        self._counted = counted
        self._balancer = balancer
        self._timeouts = timeouts
        self._budget = DeliveredBudget()

    def prepare(self, call: Call) -> None:
        """Have the call keep what goes out, if its stream could be carried on at all."""
        fields = call.question.fields
        if (
            call.rights.line is None
            or not call.rights.line.splice
            or not call.request.stream
            or fields is None
        ):
            return
        refusal = plan_splice(call.head.endpoint, fields).refusal
        if refusal is None:
            call.delivered_text = DeliveredText(self._budget)
        else:
            call.splice_refusal = refusal.value

    def plan(
        self, call: Call, outcome: Outcome, error: RelayError
    ) -> tuple[Channel, Continuation] | None:
        """Return the channel to carry the call's stream on over, and how; None if none can.

        Args:
            call: A call whose client has part of an answer.
            outcome: What ended the attempt.
            error: The same, as it was raised.
        """
        line = call.rights.line
        if line is None or not line.splice:
            return None
        found = self._plan(call, outcome, error)
        if isinstance(found, SpliceRefusal):
            self._balancer.note_splice(line.name, found.value)
            return None
        channel, continuation, means = found
        self._balancer.note_splice(line.name, f"{CARRIED}{means.value}")
        return channel, continuation

    def end(self, call: Call, error: RelayError) -> bool:
        """End a broken stream well, behind a whole tool call; False where it cannot be.

        Args:
            call: A call whose client has part of an answer.
            error: What ended the attempt.
        """
        line = call.rights.line
        if line is None or not line.splice or classify_error(error) not in BROKEN:
            return False
        delivered = self._read(call) if call.head.endpoint is Endpoint.RESPONSES else None
        if not isinstance(delivered, DeliveredResponse):
            return False
        usage = usage_of(call)
        event = ended_event(delivered, usage.input_tokens, usage.output_tokens)
        if not event:
            return False
        self._balancer.note_splice(line.name, f"{CARRIED}whole_call")
        forget_frames(error)
        self._complete(call)
        call.response.send_events(event, last=True)
        return True

    def could_carry(self, call: Call, outcome: Outcome, error: RelayError) -> bool:
        """Tell whether `plan` would find a way; nothing has broken, and nothing is counted."""
        line = call.rights.line
        if line is None or not line.splice:
            return False
        return not isinstance(self._plan(call, outcome, error), SpliceRefusal)

    def _plan(
        self, call: Call, outcome: Outcome, error: RelayError
    ) -> tuple[Channel, Continuation, Means] | SpliceRefusal:
        """Return the same with the means, or why there is none."""
        fields = call.question.fields
        delivered = self._read(call)
        if fields is None or delivered is None:
            return SpliceRefusal(call.splice_refusal or SpliceRefusal.NOT_KEPT)
        plan = plan_splice(call.head.endpoint, fields)
        facts = Facts(
            plan=plan,
            sold=call.rights.line is not None and call.rights.line.splice,
            outcome=outcome,
            in_time=clock_s() - call.begun_s < self._timeouts.total_s,
            delivered=delivered,
            error_code=error.upstream_code if isinstance(error, ChannelReportedError) else None,
            splices=call.splices,
        )
        refusal = refuse(facts)
        if refusal is not None:
            return refusal
        able = tuple(
            channel
            for channel in call.rights.channels
            if channel.id not in call.asked_channels
            and means_on(channel, plan, delivered) is not None
        )
        channel = self._balancer.choose(call, able) if able else None
        means = means_on(channel, plan, delivered) if channel is not None else None
        if channel is None or means is None:
            return SpliceRefusal.NO_CHANNEL
        continuation = continue_stream(
            means, channel.resume, plan=plan, fields=fields, delivered=delivered
        )
        if isinstance(continuation, SpliceRefusal):
            return continuation
        return channel, continuation, means

    def _read(self, call: Call) -> Delivered | None:
        delivered = read_kept(call)
        tokens = None if delivered is None else self._counted(call, delivered)
        if delivered is None or tokens is None:
            return delivered
        return msgspec.structs.replace(delivered, tokens=tokens)


def note_carried(call: Call, continuation: Continuation) -> None:
    """Note beside the try that broke off in which way its stream goes on, for the log."""
    tries = call.failed_tries
    if tries:
        outcome = f"{tries[-1].outcome}, carried on by {continuation.means}"
        call.failed_tries = (*tries[:-1], msgspec.structs.replace(tries[-1], outcome=outcome))
