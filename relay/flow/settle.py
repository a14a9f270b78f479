"""The end of every call: what it used, what it costs, one record in the journal, once.

Charged is what was delivered: usage as the upstream reported it, or counted by us and marked as an
estimate. Nothing delivered, nothing charged; an error's text is never counted as tokens.
"""

import math
import time

import msgspec

from relay.billing.price import charge
from relay.call import CallEnd, EndReason, Stage, Usage
from relay.errors import (
    ChannelTimeout,
    ClientError,
    ClientGone,
    DeadlineSpent,
    KeyRevoked,
    RelayError,
    ShuttingDown,
    UpstreamRejected,
)
from relay.flow.active import ActiveCall
from relay.flow.counters import STATUS_CLASSES, Counters
from relay.flow.ports import Journal
from relay.flow.spending import Spending
from relay.flow.tolls import Tolls
from relay.model import FREE_PRICE, Protocol
from relay.wire.answer import error_status
from relay.wire.usage import find_usage

BYTES_PER_TOKEN: float = 4.0
"""Of a plain body nobody metered; English text is near this in every tokenizer."""

NOTHING = Usage()


class Settlement:
    """Writes the end of calls into the journal and the counters."""

    def __init__(
        self, journal: Journal, counters: Counters, spending: Spending, tolls: Tolls
    ) -> None:
        self._journal = journal
        self._counters = counters
        self._spending = spending
        self.tolls = tolls
        """What calls have to pay before they run; here their end is told."""

    def complete(self, call: ActiveCall) -> None:
        """Settle a call whose answer is whole; its last bytes are not out yet."""
        self._settle(call, 200, EndReason.COMPLETED, "")

    def fail(self, call: ActiveCall, error: RelayError) -> None:
        """Settle a call that ended with `error`, unless it is settled already."""
        if call.settled:
            return
        reason = _reason(call, error)
        # The status is what the client saw: the 200 was out once the stream had begun.
        told = error_status(error, call.dialect)
        status = 200 if call.stage is Stage.COMMITTED else told
        if reason is EndReason.CLIENT_GONE:
            status = told
            self._counters.client_gone += 1
        elif call.stage is Stage.COMMITTED:
            self._counters.truncated += 1
        self._settle(call, status, reason, error.code or error.kind)

    def checkpoint(self, call: ActiveCall) -> None:
        """Tell what a long stream has used so far."""
        if call.paid and not call.settled:
            self.tolls.update(call, usage_of(call))

    def _settle(self, call: ActiveCall, status: int, reason: EndReason, error_code: str) -> None:
        if call.settled:
            return
        call.settled = True
        usage = usage_of(call)
        begun_s = call.begun_s
        first_us = int((call.first_byte_s - begun_s) * 1e6) if call.first_byte_s else 0
        self._count(call, status, usage, first_us)
        if call.key is None or call.account is None:
            return  # nobody to write it down for: a stranger's call is only counted
        price, group = call.price, call.group
        cost_nanos, price_id, group_ppm, model_ppm = 0, 0, 0, 0
        if price is not None and group is not None and call.stage is Stage.COMMITTED:
            bill = charge(usage, price, group_multiplier_ppm=group.multiplier_ppm)
            cost_nanos, price_id = bill.cost_nanos, bill.price_id
            group_ppm, model_ppm = bill.group_multiplier_ppm, bill.model_multiplier_ppm
            if call.key.quota_nanos is not None:
                self._spending.add(call.key.id, cost_nanos)
        if call.paid:
            self.tolls.close(call, usage, cost_nanos)
        total_us = int((time.monotonic() - begun_s) * 1e6)
        self._journal.end(
            CallEnd(
                call.number.to_bytes(16, "big"),
                call.time_us + total_us,
                call.account.id,
                call.key.id,
                call.ip,
                call.endpoint,
                call.model,
                call.line.id if call.line else 0,
                call.stream,
                call.channel.id if call.channel else 0,
                call.served_model,
                status,
                reason,
                usage.input_tokens,
                usage.cached_tokens,
                usage.cache_write_tokens,
                usage.output_tokens,
                usage.reasoning_tokens,
                usage.estimated,
                first_us,
                total_us,
                call.attempts,
                cost_nanos,
                price_id,
                group_ppm,
                model_ppm,
                error_code,
            )
        )

    def _count(self, call: ActiveCall, status: int, usage: Usage, first_us: int) -> None:
        counters = self._counters
        line = call.line.name if call.line else ""
        counters.requests[line, call.endpoint, STATUS_CLASSES[status // 100]] += 1
        counters.events += call.events_out
        counters.bytes_out += call.bytes_out
        if usage is not NOTHING:
            tokens = counters.tokens
            tokens["input"] += usage.input_tokens
            tokens["output"] += usage.output_tokens
            if usage.cached_tokens:
                tokens["cached"] += usage.cached_tokens
        if first_us:
            counters.ttft.observe(first_us)
            counters.overhead.observe(int((call.asked_s - call.begun_s) * 1e6))


def usage_of(call: ActiveCall) -> Usage:
    """Return what the call used: reported, else counted from what went out, else nothing."""
    if call.stage is not Stage.COMMITTED or call.price is FREE_PRICE:
        return NOTHING
    if call.usage is not None:
        return call.usage
    if call.stream and call.dialect is Protocol.ANTHROPIC:
        begun = find_usage(call.opening, b"")
        if begun is not None:
            # Its first event tells the input to the token; only the output has to be counted.
            output = max(call.events_out, begun.output_tokens)
            return msgspec.structs.replace(begun, output_tokens=output, estimated=True)
    if call.stream:
        # Providers send about one event a token; the role and the ending make up for the few
        # events that carry two.
        output = call.events_out
    else:
        output = math.ceil(call.bytes_out / BYTES_PER_TOKEN) if call.counts_bytes else 0
    return Usage(input_tokens=call.input_estimate, output_tokens=output, estimated=True)


def _reason(call: ActiveCall, error: RelayError) -> EndReason:  # noqa: PLR0911 - a table
    match error:
        case ClientGone():
            return EndReason.CLIENT_GONE
        case KeyRevoked():
            return EndReason.KEY_REVOKED
        case ShuttingDown():
            return EndReason.SHUT_DOWN
        case UpstreamRejected():
            return EndReason.UPSTREAM_REJECTED
        case ClientError():
            return EndReason.REJECTED
        case DeadlineSpent():
            return EndReason.TIMED_OUT
    if call.stage is Stage.COMMITTED:
        return EndReason.TRUNCATED
    if isinstance(error, ChannelTimeout):
        return EndReason.TIMED_OUT
    return EndReason.UPSTREAM_FAILED if call.attempts else EndReason.REJECTED
