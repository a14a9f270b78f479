"""The reservation of limits: tokens, requests and permits of a call's line, model, account and key.

    take    reserved from what this worker has leased --> runs, no waiting
    wait    it has not leased enough: Redis is asked, in the call's own task
    update  a long stream has used more than was reserved: the difference is booked
    close   what the call used is booked in place of what was reserved, its permits are free

What a kind of call draws on is worked out once and kept, as long as its key, line and account are
the very same objects of the catalog: a changed limit is in force with the next call, and its
buckets go on as they are.
"""

from typing import Final

from relay.clock import clock_s, wall_ns
from relay.flow.call import Call
from relay.flow.counters import Counters
from relay.flow.ports import Reservation
from relay.flow.reserve.line_queues import LineQueues, QueuedCall, may_wait
from relay.flow.reserve.refusals import refusal
from relay.flow.response import Response
from relay.limits.decision import Denied, Why
from relay.limits.estimate import RATIO_MIN, Estimator, Guess
from relay.limits.limit_set import Costs, Grant, LimitSet, Tokens
from relay.limits.rate_headers import rate_headers
from relay.limits.scopes import PLAIN, Bucket, Limit, Limited, Scope, Terms, limit_of, limits_of
from relay.model import Account, Dialect, Key, Line
from relay.ports import Limiter
from relay.stage import COMMITTED
from relay.usage import Usage
from relay.wire.dialects.known import TABLES

CALL_LIMITS_MAX: Final = 20_000
"""Kinds of calls that are kept worked out; the one made first is forgotten first."""
LIMITS_MAX: Final = 50_000
COMMENT_S: Final = 15.0
QUEUE_MS: Final = b"x-relay-queue-ms: "
"""The header line that says how long a call has waited; its number and CRLF follow."""
NOTES_S: Final = 0.1
"""How long header lines are reused: they are as old as the last lease in any case."""


class CallLimits(LimitSet):
    """What limits the calls of one key to one model on one line, and what is believed of them."""

    __slots__ = ("account", "guess", "key", "line", "notes", "notes_denied", "notes_until_s")

    def __init__(
        self, limits: tuple[Limit, ...], key: Key, line: Line, account: Account, guess: Guess
    ) -> None:
        super().__init__(limits)
        self.key = key
        self.line = line
        self.account = account
        self.guess = guess
        self.notes = b""
        self.notes_denied = False
        self.notes_until_s = 0.0


class LimitReservation(Reservation):
    """Takes from the limits for each call.

    Args:
        limiter: Where the limits are kept.
        estimator: What this worker knows of models and keys.
        counters: What is counted.
        comment_s: Between two signs of life to a stream that waits.
    """

    def __init__(
        self,
        limiter: Limiter,
        estimator: Estimator,
        counters: Counters,
        comment_s: float = COMMENT_S,
    ) -> None:
        self._limiter = limiter
        self._queues = LineQueues(limiter, comment_s)
        self._estimator = estimator
        self._counters = counters
        self._call_limits: dict[tuple[int, int, str, Dialect], CallLimits] = {}
        self._limits: dict[tuple[object, ...], Limit] = {}

    def take(self, call: Call) -> bool:
        """Take what is leased already; see flow.ports.Reservation."""
        call_limits = self._call_limits_of(call)
        if call_limits.empty:
            return True
        call.reserved = tokens = expect(call, call_limits.guess, call_limits)
        costs = call_limits.costs(tokens)
        line = call_limits.line
        if line.wait_ms and self._queues.is_busy(line):
            return False
        decision = self._limiter.admit(call_limits, costs)
        if decision is None:
            return False
        if line.wait_ms and isinstance(decision, Denied) and may_wait(line, decision):
            return False
        self._begin(call, call_limits, costs, decision)
        return True

    async def wait(self, call: Call) -> None:
        """Ask Redis for what is not leased; see flow.ports.Reservation."""
        call_limits = self._call_limits_of(call)
        call.reserved = expect(call, call_limits.guess, call_limits)
        costs = call_limits.costs(call.reserved)
        line = call_limits.line
        if not line.wait_ms:
            self._begin(call, call_limits, costs, await self._limiter.wait(call_limits, costs))
            return
        size, tokens = call.request.body_bytes, call.reserved[0] + call.reserved[2]
        account_id, begun_s = call_limits.account.id, clock_s()
        ticket = QueuedCall(
            account_id, size, call_limits, costs, tokens, lambda: speak(call, begun_s)
        )
        decision = await self._queues.pass_through(line, ticket)
        if ticket.queued:
            note_wait(call, begun_s)
        self._begin(call, call_limits, costs, decision)

    def update(self, call: Call, usage: Usage) -> None:
        """Book what a stream has used beyond what was reserved; see flow.ports.Reservation."""
        grant = call.grant
        if grant is not None and call.request.asked.requests:
            self.close(call, usage, 0)  # it has begun, and takes a day: it counts as one request
        elif grant is not None:
            self._limiter.settle(grant, grant.limit_set.costs(at_least(call.reserved, usage)))
            call_limits = grant.limit_set
            assert isinstance(call_limits, CallLimits)
            each = usage.output_tokens // call.request.choices
            call_limits.guess.under_way += each - grant.told
            grant.told = each

    def close(self, call: Call, usage: Usage, cost_nanos: int) -> None:
        """Book what the call used and free its permits; see flow.ports.Reservation."""
        grant = call.grant
        if grant is None:
            return
        call.grant = None
        call_limits = grant.limit_set
        assert isinstance(call_limits, CallLimits)
        call_limits.guess.running -= 1
        call_limits.guess.under_way -= grant.told
        tokens = used(call, usage)
        self._limiter.settle(grant, call_limits.costs(tokens))
        if grant.has_permits:
            self._limiter.release(grant)
        self._counters.line_tokens[call_limits.line.name] += tokens[0] - tokens[1] + tokens[2]
        batch = call.request.asked.requests > 0
        if call.usage is not None and call.stage is COMMITTED and not batch:
            request = call.request
            guess, images = call_limits.guess, request.images
            guess.learn(request.text_bytes, usage, choices=request.choices, images=images)

    def _begin(
        self, call: Call, call_limits: CallLimits, costs: Costs, decision: Grant | Denied
    ) -> None:
        denied = not isinstance(decision, Grant)
        now_s = clock_s()
        # A refusal beside figures of the last good call would look like a mistake.
        if now_s > call_limits.notes_until_s or denied is not call_limits.notes_denied:
            call_limits.notes_until_s = now_s + NOTES_S
            call_limits.notes_denied = denied
            call_limits.notes = self._note(call, call_limits)
        call.notes += call_limits.notes
        if isinstance(decision, Grant):
            call.grant = decision
            call_limits.guess.running += 1
        else:
            self._deny(call, call_limits, costs, decision)

    def _deny(self, call: Call, call_limits: CallLimits, costs: Costs, denied: Denied) -> None:
        limit = denied.limit
        requested = costs[call_limits.buckets.index(limit)] if isinstance(limit, Bucket) else 1
        if limit is None or denied.why is Why.LOST:
            what = ("limiter", denied.why.value)
        elif isinstance(limit, Bucket):
            what = (limit.scope.value, limit.measure.value)
        else:
            what = (limit.scope.value, "concurrency")
        self._counters.limited[call_limits.line.name, *what] += 1
        raise refusal(call, denied, requested)

    def _note(self, call: Call, call_limits: CallLimits) -> bytes:
        """Return the header lines that tell how the limits stand, in the client's dialect."""
        standings = self._limiter.standings(call_limits)
        table = TABLES[call.head.dialect]
        wall_ms = wall_ns() // 1_000_000 if table.rate_reset_is_moment else None
        lines = rate_headers(standings, table.rate_names, wall_ms)
        return b"".join(b"%b: %b\r\n" % line for line in lines)

    def _call_limits_of(self, call: Call) -> CallLimits:
        key, line, account = call.rights.key, call.rights.line, call.rights.account
        assert key is not None and line is not None and account is not None, "it was admitted"
        name = (key.id, line.id, call.request.model, call.head.dialect)
        found = self._call_limits.get(name)
        if (
            found is not None
            and found.key is key
            and found.line is line
            and found.account is account
        ):
            return found
        guess = self._estimator.guess(key.id, call.request.model)
        limits = limits_of(line, account, key, call.request.model, self._limit)
        made = CallLimits(limits, key, line, account, guess)
        self._call_limits.pop(name, None)
        if len(self._call_limits) >= CALL_LIMITS_MAX:
            del self._call_limits[next(iter(self._call_limits))]
        self._call_limits[name] = made
        return made

    def _limit(
        self, scope: Scope, owner: int, limited: Limited, terms: Terms = PLAIN, *, part: str = ""
    ) -> Limit:
        """Return a limit; the same numbers give the same object, whatever snapshot they are of."""
        name = (scope, owner, part, terms, limited.tpm, limited.rpm, limited.concurrency)
        found = self._limits.get(name)
        if found is None:
            if len(self._limits) >= LIMITS_MAX:
                self._limits.clear()
            found = self._limits[name] = limit_of(scope, owner, limited, terms, part=part)
        return found


def note_wait(call: Call, begun_s: float) -> None:
    """Have the head say how long a call has waited, in all of its line's queues together."""
    before, found, rest = call.notes.partition(QUEUE_MS)
    earlier_ms, _, after = rest.partition(b"\r\n") if found else (b"0", b"", b"")
    waited_ms = int(earlier_ms) + int((clock_s() - begun_s) * 1_000)
    call.notes = b"%b%b%d\r\n%b" % (before, QUEUE_MS, waited_ms, after)


def speak(call: Call, begun_s: float) -> None:
    """Say to the client of a stream that its call is still waiting.

    The head goes out with the first comment; whatever fails behind it is told in band. Clients that
    take no comments hear nothing.
    """
    comment = TABLES[call.head.dialect].keep_alive
    if not call.request.stream or comment is None or call.client.unsent_bytes:
        return
    if not call.spoken:
        call.spoken = True
        note_wait(call, begun_s)
        call.response = Response(call.client, call.id, call.notes)
    call.response.send_comment(comment)


def expect(call: Call, guess: Guess, limit_set: LimitSet) -> Tokens:
    """Return what a call is likely to use, its answer cut to what the limit set can ever hold."""
    text_bytes = call.request.text_bytes
    asked = guess.input_tokens(text_bytes, call.request.images)
    asked = limit_set.fit_input(asked, int(text_bytes * RATIO_MIN))
    answer = 0
    if call.request.counts_bytes:  # other answers are no text: vectors, pictures, sound
        answer = guess.output_tokens(call.request.output_tokens_max, call.request.choices)
        answer = limit_set.fit(asked, answer)
    return asked, 0, answer


def used(call: Call, usage: Usage) -> Tokens:
    """Return what a call that has ended used of its limits.

    An estimate gives nothing back. Nothing delivered is nothing used, unless the client left an
    upstream that was reading its prompt.
    """
    if call.request.asked.requests:
        return 0, 0, 0  # a batch has limits of its own at its provider
    if call.stage is not COMMITTED:
        return (call.reserved[0], 0, 0) if call.gone and call.attempt_count else (0, 0, 0)
    if usage.estimated:
        return at_least(call.reserved, usage)
    return usage.input_tokens, usage.cached_tokens, usage.output_tokens


def at_least(reserved: Tokens, usage: Usage) -> Tokens:
    """Return what was reserved, or what was counted where that is more."""
    return max(reserved[0], usage.input_tokens), 0, max(reserved[2], usage.output_tokens)
