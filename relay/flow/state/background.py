"""Jobs that go on without their client: held once, settled once, when they end.

    POST with background: true --> queued: the call stays open, its money held
                               --> its channel is asked how it stands, less and less often
                               --> completed, failed, cancelled, incomplete --> settled, one log row

What kinds of them there are, wire.state.jobs says. Whoever reads a response meanwhile, over
whatever worker, reads it as the provider tells it, and pays nothing: only the worker that made it
settles it, or, where that is gone, whoever takes its calls over (flow.state.adopted). A stream of
such a response that breaks off, or whose client leaves, ends in the same way: the provider goes on,
and bills.

Source: OpenAI API reference, Background mode: usage is told with the end, and not before.
"""

import asyncio
import contextlib
import logging
from collections import Counter
from typing import Final

from relay.backoff import backoff_s
from relay.clock import clock_s, dice
from relay.errors import ChannelGarbled, RateLimited, Unavailable
from relay.flow.call import Call
from relay.flow.settle import Settlement
from relay.flow.state.looks import NOT_FOUND, OK, Looks
from relay.flow.state.remembered import Remembered
from relay.model import Channel
from relay.ports import Connections
from relay.usage import NOTHING
from relay.wire.state.jobs import JobEnd, job_of

FIRST_S: Final = 1.0
RETRY_S: Final = 15.0
GONE_MAX: Final = 5
"""So often it may be unknown where it was made before it is taken for gone."""
PENDING_MAX: Final = 10_000
SHARE_MAX: Final = 1_000
"""Of one account: nobody keeps others from having any."""
LOOK_S: Final = 0.25
LAST_LOOK_S: Final = 5.0
ASKED_AT_ONCE: Final = 8

LOST: Final = "results_lost"

_log = logging.getLogger(__name__)


class _Pending:
    """A job that has not ended."""

    __slots__ = ("asked", "call", "channel", "due_s", "gone", "job", "name", "since_s", "task")

    def __init__(self, call: Call, channel: Channel, name: str, now_s: float) -> None:
        self.call = call
        self.channel = channel
        self.name = name
        self.job = job_of(call.head.endpoint)
        self.since_s = now_s
        self.due_s = now_s + FIRST_S
        self.asked = 0
        self.gone = 0
        self.task: asyncio.Task[bool] | None = None


class BackgroundCalls:
    """All jobs that one worker has begun and not settled.

    Args:
        connections: The pool of upstream connections.
        settlement: Ends their calls.
        remembered: What clients had of them before they were counted.
    """

    def __init__(
        self, connections: Connections, settlement: Settlement, remembered: Remembered
    ) -> None:
        self.remembered = remembered
        self.looks = Looks(connections, clock_s)
        """Shared with who settles what workers left that are gone."""
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
                f"{SHARE_MAX} {job_of(call.head.endpoint).word}s of this account have not ended.",
                retry_after_s=RETRY_S,
            )
        if len(self._pending) >= PENDING_MAX:
            word = job_of(call.head.endpoint).word
            raise Unavailable(f"Too many {word}s run now.", retry_after_s=RETRY_S)

    def take_on(self, call: Call) -> bool:
        """Keep a call open whose job goes on; False: it has to be settled as any other."""
        background, channel = call.background, call.channel
        if background is None or not background.name or channel is None or background.taken:
            return False
        call.forget_question()
        if call.payer is not None:
            background.tokens = call.payer.measure(call.bytes_out, call.events_out).size
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
        hours for one, nor guesses what it will have cost.
        """
        asking = [one.task for one in self._pending if one.task is not None]
        if self._task is not None:
            self._task.cancel()
            for task in asking:
                task.cancel()
            await asyncio.gather(self._task, *asking, return_exceptions=True)
            self._task = None
        left, self._pending = [one for one in self._pending if not one.call.settled], []
        if within_s > 0:
            await self._ask_once_more(left)

    async def _ask_once_more(self, left: list[_Pending]) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LAST_LOOK_S):
                await asyncio.gather(*(self._ask(one) for one in left))

    async def _look(self) -> None:
        """Ask for what is due, a few at once, until nothing is pending.

        One that takes long, whose results are read, holds up nobody but its own kind.
        """
        while self._pending:
            now_s = clock_s()
            busy = Counter(one.job for one in self._pending if one.task is not None)
            for one in self._pending:
                if one.due_s <= now_s and one.task is None and busy[one.job] < ASKED_AT_ONCE:
                    busy[one.job] += 1
                    one.task = asyncio.get_running_loop().create_task(self._ask(one))
            tasks = [one.task for one in self._pending if one.task is not None]
            if tasks:
                await asyncio.wait(tasks, timeout=LOOK_S)
                self._forget_ended()
            else:
                await asyncio.sleep(LOOK_S)
        self._task = None

    def _forget_ended(self) -> None:
        left: list[_Pending] = []
        for one in self._pending:
            task = one.task
            if task is None or not task.done():
                left.append(one)
                continue
            one.task = None
            bug = None if task.cancelled() else task.exception()
            if bug is not None:
                _log.error("a look at a job failed", exc_info=bug)
            if task.cancelled() or bug is not None or not task.result():
                left.append(one)
            else:
                self._per_account[_account_of(one.call)] -= 1
        self._per_account = +self._per_account
        self._pending = left

    async def _ask(self, pending: _Pending) -> bool:
        """Ask how a job stands; return whether it is settled."""
        pending.asked += 1
        job, request = pending.job, pending.call.request
        wait_s = backoff_s(
            pending.asked, first_s=FIRST_S, most_s=job.most_s, jitter=0.3, dice=dice()
        )
        pending.due_s = clock_s() + wait_s
        input_each = request.input_estimate // max(1, request.asked.requests)
        status, end = await self.looks.look(pending.channel, job, pending.name, input_each)
        if status == OK:
            pending.gone = 0
        elif status == NOT_FOUND:
            pending.gone += 1
            usage, _ = await self.remembered.find(pending.name)
            if usage is not None:  # it was deleted, and looked at before
                end = JobEnd(usage)
        # One that is unknown to a credential may be known to the one that made it: an operator who
        # is told has days to set that right.
        gone = pending.gone >= GONE_MAX and not job.watched
        if end is None and (gone or clock_s() - pending.since_s > job.total_s):
            _log.warning("a job was lost", extra={"reason": job.word, "count": pending.asked})
            if job.lost_end is not None:
                self._give_up(pending)
                return True
            end = JobEnd(None)
        if end is None:
            return False
        await self._settle(pending, end)
        return True

    def _give_up(self, pending: _Pending) -> None:
        """Settle a call for nothing, of whose job nobody will know what it used."""
        error = ChannelGarbled("What it used cannot be read.")
        error.code = LOST
        pending.call.usage = NOTHING
        self._settlement.fail(pending.call, error)
        self._note_counted(pending)

    def _note_counted(self, pending: _Pending) -> None:
        if pending.call.request.asked.requests:
            self.remembered.note_counted(pending.name)

    async def _settle(self, pending: _Pending, end: JobEnd) -> None:
        """Settle a call by what its provider says, or else by what went out of the response.

        One that failed without usage, and of which nobody read anything, costs nothing.
        """
        call, background, usage = pending.call, pending.call.background, end.usage
        if usage is None and background is not None:
            _, tokens = await self.remembered.find(pending.name)
            background.tokens = max(background.tokens, tokens)
            if end.free_unread and not tokens and not call.request.stream:
                usage = NOTHING
        call.usage = usage
        self._settlement.complete(call)
        self._note_counted(pending)


def _account_of(call: Call) -> int:
    account = call.rights.account
    return 0 if account is None else account.id
