"""The toll of limits: tokens, requests and seats of a call's line, model, account and key.

    take    reserved from what this worker has leased --> runs, no waiting
    wait    it has not leased enough: the bank is asked, in the call's own task
    update  a long stream has used more than was reserved: the difference is booked
    close   what the call used is booked in place of what was reserved, its seats are free

What a kind of call draws on is worked out once and kept, as long as its key, line and account are
the very same objects of the catalog: a changed limit is in force with the next call, and its
buckets go on as they are.
"""

import time
from typing import Final

from relay.clock import clock_s
from relay.flow.active import ActiveCall
from relay.flow.counters import Counters
from relay.flow.ports import Toll
from relay.flow.refusals import refusal
from relay.flow.stages import COMMITTED
from relay.limits.decision import Denied, Why
from relay.limits.estimate import Estimator, Guess
from relay.limits.headers import anthropic_headers, openai_headers
from relay.limits.scheme import Costs, Grant, Scheme, Tokens
from relay.limits.scopes import PLAIN, Bucket, Limit, Limited, Scope, Terms, limit_of, limits_of
from relay.model import Account, Key, Line, Protocol
from relay.ports import Limiter
from relay.usage import Usage

CONTRACTS_MAX: Final = 20_000
"""Kinds of calls that are kept worked out; the one made first is forgotten first."""
LIMITS_MAX: Final = 50_000
_ANTHROPIC: Final = Protocol.ANTHROPIC
NOTES_S: Final = 0.1
"""How long header lines are used again: they are as old as the last lease in any case."""


class Contract(Scheme):
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


class Rates(Toll):
    """Takes from the limits for each call.

    Args:
        limiter: Where the limits are kept.
        estimator: What this worker knows of models and keys.
        counters: What is counted.
    """

    def __init__(self, limiter: Limiter, estimator: Estimator, counters: Counters) -> None:
        self._limiter = limiter
        self._estimator = estimator
        self._counters = counters
        self._contracts: dict[tuple[int, int, str, bool], Contract] = {}
        self._limits: dict[tuple[object, ...], Limit] = {}

    def take(self, call: ActiveCall) -> bool:
        """Take what is leased already; see flow.ports.Toll."""
        contract = self._contract_of(call)
        if contract.empty:
            return True
        call.reserved = tokens = expect(call, contract.guess, contract)
        costs = contract.costs(tokens)
        decision = self._limiter.admit(contract, costs)
        if decision is None:
            return False
        self._begin(call, contract, costs, decision)
        return True

    async def wait(self, call: ActiveCall) -> None:
        """Ask the bank for what is not leased; see flow.ports.Toll."""
        contract = self._contract_of(call)
        call.reserved = expect(call, contract.guess, contract)
        costs = contract.costs(call.reserved)
        self._begin(call, contract, costs, await self._limiter.wait(contract, costs))

    def update(self, call: ActiveCall, usage: Usage) -> None:
        """Book what a stream has used beyond what was reserved; see flow.ports.Toll."""
        grant = call.grant
        if grant is not None:
            self._limiter.settle(grant, grant.scheme.costs(at_least(call.reserved, usage)))

    def close(self, call: ActiveCall, usage: Usage, cost_nanos: int) -> None:
        """Book what the call used and free its seats; see flow.ports.Toll."""
        grant = call.grant
        if grant is None:
            return
        call.grant = None
        contract = grant.scheme
        assert isinstance(contract, Contract)
        tokens = used(call, usage)
        self._limiter.settle(grant, contract.costs(tokens))
        if grant.seated:
            self._limiter.release(grant)
        self._counters.line_tokens[contract.line.name] += tokens[0] - tokens[1] + tokens[2]
        if call.usage is not None and call.stage is COMMITTED:
            contract.guess.learn(call.text_bytes, usage, choices=call.choices)

    def _begin(
        self, call: ActiveCall, contract: Contract, costs: Costs, decision: Grant | Denied
    ) -> None:
        denied = not isinstance(decision, Grant)
        now_s = clock_s()
        # A refusal beside figures of the last good call would look like a mistake.
        if now_s > contract.notes_until_s or denied is not contract.notes_denied:
            contract.notes_until_s = now_s + NOTES_S
            contract.notes_denied = denied
            contract.notes = self._note(call, contract)
        call.notes += contract.notes
        if isinstance(decision, Grant):
            call.grant = decision
        else:
            self._deny(call, contract, costs, decision)

    def _deny(self, call: ActiveCall, contract: Contract, costs: Costs, denied: Denied) -> None:
        limit = denied.limit
        requested = costs[contract.buckets.index(limit)] if isinstance(limit, Bucket) else 1
        if limit is None or denied.why is Why.LOST:
            what = ("limiter", denied.why.value)
        elif isinstance(limit, Bucket):
            what = (limit.scope.value, limit.measure.value)
        else:
            what = (limit.scope.value, "concurrency")
        self._counters.limited[contract.line.name, *what] += 1
        raise refusal(call, denied, requested)

    def _note(self, call: ActiveCall, contract: Contract) -> bytes:
        """Return the header lines that tell how the limits stand, in the client's dialect."""
        standings = self._limiter.standings(contract)
        if call.dialect is _ANTHROPIC:
            lines = anthropic_headers(standings, time.time_ns() // 1_000_000)
        else:
            lines = openai_headers(standings)
        return b"".join(b"%b: %b\r\n" % line for line in lines)

    def _contract_of(self, call: ActiveCall) -> Contract:
        key, line, account = call.key, call.line, call.account
        assert key is not None and line is not None and account is not None, "it was admitted"
        name = (key.id, line.id, call.model, call.dialect is _ANTHROPIC)
        found = self._contracts.get(name)
        if (
            found is not None
            and found.key is key
            and found.line is line
            and found.account is account
        ):
            return found
        guess = self._estimator.guess(key.id, call.model)
        limits = limits_of(line, account, key, call.model, self._limit)
        made = Contract(limits, key, line, account, guess)
        self._contracts.pop(name, None)
        if len(self._contracts) >= CONTRACTS_MAX:
            del self._contracts[next(iter(self._contracts))]
        self._contracts[name] = made
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


def expect(call: ActiveCall, guess: Guess, scheme: Scheme) -> Tokens:
    """Return what a call is likely to use, its answer cut to what the scheme can ever hold."""
    asked = guess.input_tokens(call.text_bytes, call.images)
    answer = 0
    if call.counts_bytes:  # other answers are no text: vectors, pictures, sound
        answer = guess.output_tokens(call.output_tokens_max, call.choices)
        answer = scheme.fit(asked, answer)
    return asked, 0, answer


def used(call: ActiveCall, usage: Usage) -> Tokens:
    """Return what a call that has ended used of its limits.

    An estimate gives nothing back. Nothing delivered is nothing used, unless the client left an
    upstream that was reading its prompt.
    """
    if call.stage is not COMMITTED:
        return (call.reserved[0], 0, 0) if call.gone and call.attempts else (0, 0, 0)
    if usage.estimated:
        return at_least(call.reserved, usage)
    return usage.input_tokens, usage.cached_tokens, usage.output_tokens


def at_least(reserved: Tokens, usage: Usage) -> Tokens:
    """Return what was reserved, or what was counted where that is more."""
    return max(reserved[0], usage.input_tokens), 0, max(reserved[2], usage.output_tokens)
