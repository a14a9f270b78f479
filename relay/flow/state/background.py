"""Responses that go on without their client: held once, settled once, when they end.

    POST with background: true --> queued: the call stays open, its money held
                               --> its channel is asked how it stands, less and less often
                               --> completed, failed, cancelled, incomplete --> settled, one log row

Whoever reads the response meanwhile, over whatever worker, reads it as the provider tells it, and
pays nothing: only the worker that made it settles it, or, where that is gone, whoever takes its
calls over (flow.state.adopted). A stream of such a response that breaks off,
or whose client leaves, ends in the same way: the provider goes on, and bills.

Source: OpenAI API reference, Background mode: usage is told with the end, and not before.
"""

import asyncio
import contextlib
import logging
from collections import Counter
from typing import Final
from urllib.parse import quote

from relay.backoff import backoff_s
from relay.clock import clock_s, dice
from relay.errors import RateLimited, RelayError, Unavailable
from relay.flow.call import Call
from relay.flow.settle import NOTHING, Settlement
from relay.flow.state.fetch import fetch
from relay.flow.state.remembered import Remembered
from relay.model import Channel
from relay.ports import Connections
from relay.usage import Usage
from relay.wire.state.answered import UNENDED, read_kept
from relay.wire.usage.reader import find_usage_of_body

FIRST_S: Final = 1.0
MOST_S: Final = 15.0
"""A provider keeps an ended response for minutes: it is seen well before that."""
TOTAL_S: Final = 6 * 3600.0
"""A response that has not ended by then never will."""
GONE_MAX: Final = 5
"""So often it may be unknown where it was made before it is taken for gone."""
PENDING_MAX: Final = 10_000
SHARE_MAX: Final = 1_000
"""Of one account: nobody keeps others from having any."""
LOOK_S: Final = 0.25
LAST_LOOK_S: Final = 5.0
ASKED_AT_ONCE: Final = 8
FREE_ENDS: Final = frozenset({"failed", "cancelled"})
"""Costs nothing where no usage is told, and nothing was delivered."""
OK: Final = 200
NOT_FOUND: Final = 404

_log = logging.getLogger(__name__)


class _Pending:
    """A response that has not ended."""

    __slots__ = ("asked", "call", "channel", "due_s", "gone", "name", "path", "since_s")

    def __init__(self, call: Call, channel: Channel, name: str, now_s: float) -> None:
        self.call = call
        self.channel = channel
        self.name = name
        self.path = f"/responses/{quote(name, safe='')}"
        self.since_s = now_s
        self.due_s = now_s + FIRST_S
        self.asked = 0
        self.gone = 0


class BackgroundCalls:
    """All background responses that one worker has made and not settled.

    Args:
        connections: The pool of upstream connections.
        settlement: Ends their calls.
        remembered: What clients had of them before they were counted.
    """

    def __init__(
        self, connections: Connections, settlement: Settlement, remembered: Remembered
    ) -> None:
        self.remembered = remembered
        self._connections = connections
        self._settlement = settlement
        self._pending: list[_Pending] = []
        self._per_account: Counter[int] = Counter()
        self._task: asyncio.Task[None] | None = None

    def __len__(self) -> int:
        return len(self._pending)

    def require_room(self, call: Call) -> None:
        """Refuse a call for one more where there are too many: what is made has to be settled.

        Raises:
            RateLimited: CLIENT; its account has enough of them.
            Unavailable: RELAY; all accounts have.
        """
        if self._per_account[_account_of(call)] >= SHARE_MAX:
            raise RateLimited(
                f"{SHARE_MAX} background responses of this account have not ended.",
                retry_after_s=MOST_S,
            )
        if len(self._pending) >= PENDING_MAX:
            raise Unavailable("Too many background responses run now.", retry_after_s=MOST_S)

    def take_on(self, call: Call) -> bool:
        """Keep a call open whose response goes on; False: it has to be settled as any other."""
        background, channel = call.background, call.channel
        if background is None or not background.name or channel is None or background.taken:
            return False
        call.forget_question()
        if call.payer is not None:
            background.tokens = call.payer.delivered_tokens(call.bytes_out, call.events_out)
        background.taken = True  # from here on its end is told like any other's
        name = background.name.decode("utf-8", "replace")
        self._per_account[_account_of(call)] += 1
        self._pending.append(_Pending(call, channel, name, clock_s()))
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._look(), name="background")
        return True

    async def close(self, within_s: float) -> None:
        """Ask once more where there is time; the rest is left to those who serve afterwards.

        It is written down with all that it takes to settle it (flow.state.adopted): nobody waits
        hours for a response, nor guesses what it will have cost.
        """
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None
        left, self._pending = self._pending, []
        if within_s > 0:
            await self._ask_once_more(left)

    async def _ask_once_more(self, left: list[_Pending]) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LAST_LOOK_S):
                await asyncio.gather(*(self._ask(one) for one in left))

    async def _look(self) -> None:
        """Ask for what is due, a few at once, until nothing is pending."""
        while self._pending:
            now_s = clock_s()
            due = [one for one in self._pending if one.due_s <= now_s][:ASKED_AT_ONCE]
            ended = await asyncio.gather(*(self._ask(one) for one in due))
            gone = {id(one) for one, end in zip(due, ended, strict=True) if end}
            for one in due:
                if id(one) in gone:
                    self._per_account[_account_of(one.call)] -= 1
            if gone:
                self._per_account = +self._per_account
                self._pending = [one for one in self._pending if id(one) not in gone]
            if len(due) < ASKED_AT_ONCE:
                await asyncio.sleep(LOOK_S)
        self._task = None

    async def _ask(self, pending: _Pending) -> bool:
        """Ask how a response stands; return whether it is settled."""
        pending.asked += 1
        wait_s = backoff_s(pending.asked, first_s=FIRST_S, most_s=MOST_S, jitter=0.3, dice=dice())
        pending.due_s = clock_s() + wait_s
        status, body = 0, b""
        with contextlib.suppress(RelayError, TimeoutError):
            status, body = await fetch(self._connections, pending.channel, pending.path)
        if status == OK:
            pending.gone = 0
            kept = read_kept(body)
            if kept.status and kept.status not in UNENDED:
                await self._settle(pending, find_usage_of_body(body), kept.status)
                return True
        elif status == NOT_FOUND:
            pending.gone += 1
            usage, _ = await self.remembered.find(pending.name)
            if usage is not None:  # it was deleted, and looked at before
                await self._settle(pending, usage, "")
                return True
        if pending.gone >= GONE_MAX or clock_s() - pending.since_s > TOTAL_S:
            _log.warning("a background response was lost", extra={"count": pending.asked})
            await self._settle(pending, None, "")
            return True
        return False

    async def _settle(self, pending: _Pending, usage: Usage | None, status: str) -> None:
        """Settle a call by what its provider says, or else by what went out of the response.

        One that failed without usage, and of which nobody read anything, costs nothing.
        """
        call, background = pending.call, pending.call.background
        if usage is None and background is not None:
            _, tokens = await self.remembered.find(pending.name)
            background.tokens = max(background.tokens, tokens)
            if status in FREE_ENDS and not tokens and not call.request.stream:
                usage = NOTHING
        call.usage = usage
        self._settlement.complete(call)


def _account_of(call: Call) -> int:
    account = call.rights.account
    return 0 if account is None else account.id
