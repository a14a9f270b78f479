r"""Where calls wait that are over a limit of their line, model, account or key.

    pass_through   admitted at once --> Grant
         \--> over a limit --> the line's queue (flow.reserve.call_queues) --> Grant | Denied

Who is held up by a limit of the line stands before all behind it; who is held up by one of its own
account or key lets the other accounts pass.
"""

from collections.abc import Callable

from relay.flow.reserve.call_queues import CallQueue, CallQueues, Search, WaitingCall
from relay.limits.decision import Denied, Why
from relay.limits.limit_set import Costs, Grant, LimitSet
from relay.limits.scopes import Bucket, Measure, Scope
from relay.model import Line
from relay.ports import Limiter


class QueuedCall(WaitingCall):
    """A ticket of a call over its limits."""

    __slots__ = ("costs", "grant", "limit_set")

    def __init__(
        self,
        account_id: int,
        size: int,
        limit_set: LimitSet,
        costs: Costs,
        tokens: int,
        speak: Callable[[], None],
    ) -> None:
        bucket = _line_bucket(limit_set)
        super().__init__(account_id, tokens, size, Denied(Why.EMPTY, 0, bucket), speak)
        self.limit_set = limit_set
        self.costs = costs
        self.grant: Grant | None = None
        """What was found for it."""


class LimitSearch(Search):
    """Asks the limiter for the calls of one queue."""

    __slots__ = ("_held_up", "_limiter")

    def __init__(self, limiter: Limiter) -> None:
        self._limiter = limiter
        self._held_up: set[int] = set()
        """Accounts whose own limits nothing has been found under since one of them went."""

    async def look(self, ticket: WaitingCall) -> Denied | None:
        """Ask for what a call needs; see Search."""
        assert isinstance(ticket, QueuedCall)
        decision = self._limiter.admit(ticket.limit_set, ticket.costs)
        if decision is None:
            decision = await self._limiter.wait(ticket.limit_set, ticket.costs)
        if isinstance(decision, Denied):
            return decision
        ticket.grant = decision
        self._held_up.clear()
        return None

    def stand(self, ticket: WaitingCall) -> None:
        """Nothing: who comes while the line is busy asks nobody; see Search."""

    def give_back(self, ticket: WaitingCall) -> None:
        """Put back what was granted to a call that has gone; see Search."""
        assert isinstance(ticket, QueuedCall)
        grant, ticket.grant = ticket.grant, None
        if grant is not None:
            self._limiter.settle(grant, [0] * len(grant.costs))
            self._limiter.release(grant)

    def helps(self, denied: Denied) -> bool:
        """Tell whether waiting helps; see Search."""
        return denied.why is Why.EMPTY

    async def must_rest(self, queue: CallQueue, ticket: WaitingCall) -> bool:
        """Let the next account have its turn, where only this one is held up; see Search."""
        limit = ticket.denied.limit
        if limit is None or limit.scope is Scope.LINE:
            return True  # nobody of the line can go now
        self._held_up.add(ticket.account_id)
        queue.waiting.skip()
        if len(self._held_up) < queue.waiting.accounts:
            return False
        self._held_up.clear()
        return True

    def pace(self, ticket: WaitingCall) -> int:
        """Return the rate of the line's own bucket; see Search."""
        assert isinstance(ticket, QueuedCall)
        bucket = _line_bucket(ticket.limit_set)
        return 0 if bucket is None else bucket.rule.per_minute

    def end(self) -> None:
        """Nothing: nobody else goes by what was found; see Search."""


class LineQueues(CallQueues):
    """Where the calls of one worker wait for their limits."""

    def __init__(self, limiter: Limiter, speak_s: float) -> None:
        super().__init__(lambda _: LimitSearch(limiter), speak_s)
        self._limiter = limiter

    async def pass_through(self, line: Line, ticket: QueuedCall) -> Grant | Denied:
        """Return the decision on a call, as soon as it is its turn and there is room.

        Raises:
            asyncio.CancelledError: Its client has gone; nothing is taken.
        """
        if not self.is_busy(line):
            decision = await self._limiter.wait(ticket.limit_set, ticket.costs)
            if isinstance(decision, Grant) or not may_wait(line, decision):
                return decision
            ticket.denied = decision
        denied = await self.enter(line, ticket)
        if denied is not None:
            return denied
        assert ticket.grant is not None, "it was told to go"
        return ticket.grant


def may_wait(line: Line, denied: Denied) -> bool:
    """Tell whether a call that was denied so may wait for better."""
    return denied.why is Why.EMPTY and denied.wait_ms <= line.wait_ms


def _line_bucket(limit_set: LimitSet) -> Bucket | None:
    """Return the line's own bucket of tokens, by whose rate a queue moves."""
    for bucket in limit_set.buckets:
        if bucket.scope is Scope.LINE and bucket.measure is Measure.TOKENS:
            return bucket
    return None
