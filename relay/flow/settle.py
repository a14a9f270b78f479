"""The end of every call: what it used, what it costs, one record in the journal, once.

Charged is what was delivered (billing.charged): usage as the upstream reported it, or counted by us
and marked as an estimate. Nothing delivered, nothing charged; an error's text is never counted as
tokens. What the call cost beside it is the operator's (flow.attempts.failed).
"""

from collections.abc import Callable
from typing import Final

from relay.billing.charged import complete, input_max, output_max
from relay.billing.shapes import Delivered
from relay.billing.tariff import NO_TARIFF, Tariff
from relay.clock import clock_s
from relay.errors import (
    ChannelTimeout,
    ClientError,
    ClientGone,
    DeadlineSpent,
    KeyRevoked,
    OwnFault,
    RelayError,
    ShuttingDown,
    UpstreamRejected,
)
from relay.extras import NOTHING_ASKED
from relay.flow.attempts.failed import failed_tries_of, operator_cost_nanos
from relay.flow.call import Call
from relay.flow.counters import STATUS_CLASSES, Counters
from relay.flow.kept_answer import measure_kept, measure_read
from relay.flow.rejections import RejectionRows
from relay.flow.reserve.key_quotas import KeyQuotas
from relay.flow.reserve.reservations import Reservations
from relay.ports import Journal
from relay.records import CallCheckpoint, CallEnd, EndReason, Unended
from relay.routing.affinity import CACHED_TOKENS_MIN
from relay.splice.gates import Delivered as Kept
from relay.stage import COMMITTED
from relay.usage import NOTHING, Usage
from relay.wire.dialects.known import TABLES
from relay.wire.usage.counted import AnswerCounts
from relay.wire.usage.delivered_tokens import Measured

_COMPLETED: Final = EndReason.COMPLETED
_REJECTED: Final = EndReason.REJECTED


class Settlement:
    """Writes the end of calls into the journal and the counters."""

    def __init__(
        self,
        journal: Journal,
        counters: Counters,
        key_quotas: KeyQuotas,
        reservations: Reservations,
    ) -> None:
        self._journal = journal
        self._counters = counters
        self._key_quotas = key_quotas
        self.reservations = reservations
        """What calls have to pay before they run; here their end is told."""
        self.take_on: Callable[[Call], bool] | None = None
        """Keeps a call open whose response goes on at its provider; True where it does."""
        self.on_read: Callable[[Call, int], None] | None = None
        """Told about how many tokens were read of what a provider keeps."""
        self._counts = AnswerCounts()
        self._rejections = RejectionRows()

    def complete(self, call: Call) -> None:
        """Settle a call whose answer is whole; its last bytes are not out yet."""
        if call.background is not None and self._goes_on(call):
            return
        if call.abandoned is not None:
            self.fail(call, ClientGone("The client closed the connection."))
        else:
            self._settle(call, 200, _COMPLETED, "")

    def fail(self, call: Call, error: RelayError) -> None:
        """Settle a call that ended with `error`, unless it is settled already."""
        if call.settled or (call.background is not None and self._goes_on(call)):
            return
        reason = _reason(call, error)
        # The status is what the client saw: the 200 was out once the stream had begun.
        told = TABLES[call.head.dialect].error_status(error)
        status = 200 if call.stage is COMMITTED else told
        if isinstance(error, OwnFault) and not call.response.opened:
            status = told  # what was about to go out did not
        if reason is EndReason.CLIENT_GONE:
            status = told
            self._counters.client_gone += 1
        elif call.stage is COMMITTED:
            self._counters.truncated += 1
        self._settle(call, status, reason, error.code or error.kind)

    def _goes_on(self, call: Call) -> bool:
        """Tell whether a response in the background outlives its call: then it is settled later."""
        if call.usage is not None or call.stage is not COMMITTED or self.take_on is None:
            return False
        if not self.take_on(call):
            return False
        self.checkpoint(call)  # before its client hears the last of this answer
        return True

    def delivered_tokens(self, call: Call, found: Kept) -> int | None:
        """Return about how many tokens went out as the call's model counts; None = nobody knows.

        `found`: what was read of them. Where they are but text, all of it is measured; else the
        last events stand for the rest, which is right within a quarter or so.
        """
        answer = measure_read(found)
        if answer is not None:
            return self._counts.tokens(call.served_model, answer)
        tokens = self._counts.tokens(call.served_model, _measure(call))
        return None if tokens is None else _within_bound(call, tokens)

    def checkpoint(self, call: Call) -> None:
        """Write down what a running stream would be charged now, and tell those it has paid."""
        if call.settled or call.rights.key is None:
            return
        usage = usage_of(call, self._counts)
        tariff = _tariff_of(call, usage)
        self._journal.checkpoint(
            CallCheckpoint(
                call.id,
                call.channel.id if call.channel else 0,
                usage.output_tokens,
                usage.input_tokens,
                usage.cached_tokens,
                usage.cache_write_tokens,
                usage.reasoning_tokens,
                tariff.cost_nanos(usage),
                tariff.price_id,
                tariff.group_multiplier_ppm,
                tariff.model_multiplier_ppm,
                usage.cache_write_1h_tokens,
                usage.audio_input_tokens,
                usage.audio_output_tokens,
                usage.image_input_tokens,
                usage.image_output_tokens,
                usage.images,
                usage.extras,
                None if call.background is None else _unended(call),
            )
        )
        if call.reservations_taken:
            self.reservations.update(call, usage)

    def _settle(self, call: Call, status: int, reason: EndReason, error_code: str) -> None:
        if call.settled:
            return
        try:
            self._book(call, status, reason, error_code)
        except Exception:
            # A bug of ours: whoever ends the call by it writes it down, and nothing is charged.
            call.settled, call.usage = call.usage is NOTHING, NOTHING
            raise

    def _book(self, call: Call, status: int, reason: EndReason, error_code: str) -> None:
        # Most calls are served by their first attempt, and none was made in vain.
        at_once = call.attempt_count == 1 and call.payer is not None
        retry_nanos = 0 if at_once else operator_cost_nanos(call)
        call.settled = True
        if call.head.kept is not None and call.events_out and self.on_read is not None:
            tokens = 0
            if call.payer is not None:
                tokens = call.payer.measure(call.bytes_out, call.events_out).size
            self.on_read(call, tokens)
        usage = usage_of(call, self._counts, ended=True)
        if reason is _COMPLETED and call.request.stream and call.request.counts_bytes:
            self._learn(call)
        begun_s = call.begun_s
        first_us = int((call.first_byte_s - begun_s) * 1e6) if call.first_byte_s else 0
        self._count(call, status, usage, first_us)
        if call.rights.key is None or call.rights.account is None:
            return  # nobody to write it down for: a stranger's call is only counted
        tariff = _tariff_of(call, usage)
        cost_nanos = tariff.cost_nanos(usage)
        if cost_nanos and call.rights.key.quota_nanos is not None:
            self._key_quotas.add(call.rights.key.id, cost_nanos)
        if call.reservations_taken:
            self.reservations.close(call, usage, cost_nanos)
        if reason is _REJECTED and not self._is_written_down(call, call.rights.account.id):
            return
        total_us = int((clock_s() - begun_s) * 1e6)
        self._journal.end(
            CallEnd(
                call.id,
                call.time_us + total_us,
                call.rights.account.id,
                call.rights.key.id,
                call.head.ip,
                call.head.endpoint,
                call.request.model,
                call.rights.line.id if call.rights.line else 0,
                call.request.stream,
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
                call.attempt_count,
                cost_nanos,
                tariff.price_id,
                tariff.group_multiplier_ppm,
                tariff.model_multiplier_ppm,
                error_code,
                usage.cache_write_1h_tokens,
                usage.audio_input_tokens,
                usage.audio_output_tokens,
                usage.image_input_tokens,
                usage.image_output_tokens,
                usage.images,
                retry_nanos,
                () if at_once and error_code == "" else failed_tries_of(call),
                usage.extras,
                "" if call.translation is None else call.translation.way(call.channel),
            )
        )

    def _is_written_down(self, call: Call, account_id: int) -> bool:
        """Tell whether a refused call gets a row: it does where its start was written already."""
        if call.attempt_count or call.on_leave is not None or call.stage is COMMITTED:
            return True
        written = self._rejections.take(account_id, clock_s())
        if not written:
            self._counters.unlogged += 1
        return written

    def _learn(self, call: Call) -> None:
        """Learn from a whole stream how its model counts, for those that end before they say."""
        usage, model = call.usage, call.served_model
        if usage is None or usage.untold or call.payer is None or not self._counts.is_due(model):
            return
        self._counts.learn(model, usage, _measure(call, ended=True))

    def _count(self, call: Call, status: int, usage: Usage, first_us: int) -> None:
        counters = self._counters
        line = call.rights.line.name if call.rights.line else ""
        counters.requests[line, call.head.endpoint, STATUS_CLASSES[status // 100]] += 1
        counters.events += call.events_out
        counters.bytes_out += call.bytes_out
        if call.translation is not None:
            way: str = call.translation.way(call.channel)
            if way:
                counters.translated[way] += 1
        if usage is not NOTHING:
            tokens = counters.tokens
            tokens["input"] += usage.input_tokens
            tokens["output"] += usage.output_tokens
            if usage.cached_tokens:
                tokens["cached"] += usage.cached_tokens
            if usage.input_tokens >= CACHED_TOKENS_MIN and call.channel is not None:
                where = (line, call.channel.name, call.request.model)
                counters.prompt_tokens[where] += usage.input_tokens
                counters.cached_tokens[where] += usage.cached_tokens
            extras = usage.extras
            if extras is not None and (
                extras.disputed_input_tokens or extras.disputed_output_tokens
            ):
                counters.disputed_claims[call.channel.name if call.channel else ""] += 1
        if first_us:
            counters.ttft.observe(first_us)
            counters.overhead.observe(int((call.asked_s - call.begun_s) * 1e6))


def _tariff_of(call: Call, usage: Usage) -> Tariff:
    tariff = call.rights.tariff
    return NO_TARIFF if tariff is None or usage is NOTHING else tariff


def _unended(call: Call) -> Unended | None:
    """Return what another worker needs to settle a response that goes on without this one."""
    background, tariff = call.background, call.rights.tariff
    if background is None or not background.name or tariff is None:
        return None
    facts = _facts_of(call, 0, whole=True)
    return Unended(
        background.name.decode("utf-8", "replace"),
        call.hold_nanos,
        facts.input_max,
        facts.output_max,
        facts.tier,
        None if facts.asked is NOTHING_ASKED else facts.asked,
        tariff.price_id,
        tariff.group_multiplier_ppm,
        tariff.model_multiplier_ppm,
        call.served_model,
        call.attempt_count,
        int((call.first_byte_s - call.begun_s) * 1e6) if call.first_byte_s else 0,
    )


def usage_of(call: Call, counts: AnswerCounts | None = None, *, ended: bool = False) -> Usage:
    """Return what the client pays for; NOTHING, where that is not even a price per call.

    Args:
        call: Runs, or has ended.
        counts: How models count; None: a token is what we take for one.
        ended: This is its end, and time to read what was kept of it.
    """
    tariff = call.rights.tariff
    if call.stage is not COMMITTED or (tariff is not None and tariff.free):
        return NOTHING
    reported = call.usage
    if reported is NOTHING:
        return NOTHING
    if reported is None and call.request.asked.requests:
        return NOTHING  # a batch is charged by its results alone
    whole = reported is not None
    if reported is None and call.payer is not None:
        reported = call.payer.usage_so_far()
    said = whole and reported is not None and not reported.untold
    delivered = 0 if said else _delivered_tokens(call, counts, ended=ended)
    return complete(reported, _facts_of(call, delivered, whole=whole))


def _facts_of(call: Call, delivered: int, *, whole: bool) -> Delivered:
    """Return what is known of a call beside its upstream's word; `delivered`: tokens, about."""
    request, tariff = call.request, call.rights.tariff
    asked, bound = request.asked, request.output_tokens_max
    return Delivered(
        whole=whole,
        input_estimate=request.input_estimate,
        output_estimate=delivered,
        input_max=input_max(request.body_bytes, request.images, asked),
        output_max=output_max(bound, request.choices, call.bytes_out, asked),
        asked=asked,
        tier=tariff.dearer_tier(asked.tier) if asked.tier and tariff is not None else "",
    )


def _delivered_tokens(call: Call, counts: AnswerCounts | None, *, ended: bool) -> int:
    """Return about how many tokens of the answer went out while the client was there."""
    if not call.request.counts_bytes:
        return 0
    answer = _measure(call, ended=ended)
    tokens = answer.size if counts is None else counts.charged(call.served_model, answer)
    return _within_bound(call, tokens)


def _within_bound(call: Call, tokens: int) -> int:
    bound = call.request.output_tokens_max
    return tokens if bound is None else min(tokens, bound * call.request.choices)


def _measure(call: Call, *, ended: bool = False) -> Measured:
    """Measure what went out: by all of it where its call has ended and kept it, or by its end."""
    background, left = call.background, call.abandoned
    if background is not None and background.taken:
        return Measured(background.tokens)
    if call.payer is None:
        return Measured(0)
    if left is not None:
        return left.answer
    kept = measure_kept(call) if ended else None
    return call.payer.measure(call.bytes_out, call.events_out) if kept is None else kept


def _reason(call: Call, error: RelayError) -> EndReason:  # noqa: PLR0911 - a table
    match error:
        case ClientGone():
            return EndReason.CLIENT_GONE
        case KeyRevoked():
            return EndReason.KEY_REVOKED
        case ShuttingDown():
            return EndReason.SHUT_DOWN
        case ClientError() if call.stage is COMMITTED:
            return EndReason.TRUNCATED  # part of an answer is out, whoever is to blame
        case UpstreamRejected():
            return EndReason.UPSTREAM_REJECTED
        case ClientError():
            return EndReason.REJECTED
        case DeadlineSpent():
            return EndReason.TIMED_OUT
    if call.stage is COMMITTED:
        return EndReason.TRUNCATED
    if isinstance(error, ChannelTimeout):
        return EndReason.TIMED_OUT
    return EndReason.UPSTREAM_FAILED if call.attempt_count else EndReason.REJECTED
