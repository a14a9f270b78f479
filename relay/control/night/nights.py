"""The night: within the window of a zone, or when asked, each work in its turn; then it rests.

    look (every 5 s) --> window open, or a run asked for? --> works that are due
        memory, backup              each host does its own
        retention, vacuum, reindex  whoever holds the lock, for all

The steps are spread over what is left of the window, so that the machine has all night for them.
At its end a running statement is cancelled, and no step begins: what is left is due again the next
night, because each work is planned by what is there. A host that dies over a work leaves it
unfinished, and the next host that gets the lock does it again.
"""

import asyncio
import datetime
import logging
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Final, NamedTuple

import asyncpg
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from relay.control.looking import look_forever
from relay.control.night.shapes import Step, StepFailed, Turn, Work
from relay.night_rules import Maintenance
from relay.store import maintenance as book
from relay.store.maintenance import Outcome, Wishes, WorkDone
from relay.store.postgres import STATEMENT_S, Connection
from relay.windows import next_night

LOOK_S: Final = 5.0
BACKOFF_S_MAX: Final = 60.0
RETRY: Final = datetime.timedelta(minutes=15)
"""What failed is tried again so much later, while the night lasts."""
RUN_MAX: Final = datetime.timedelta(hours=4)
"""How long what was asked for may take."""
PAUSE_S_MAX: Final = 300.0
"""Between two steps; few of them need not be spread over hours."""

_log = logging.getLogger(__name__)


class Call(NamedTuple):
    """Why works are done now. `hurried`: somebody waits for them; no pauses."""

    since: datetime.datetime
    until: datetime.datetime
    hurried: bool
    works: Sequence[Work]


class Nights(Collector):
    """Does the works of one host, and of all where it is the one.

    Args:
        config: When, and what.
        host: The name of this one, unlike any other's.
        works: In the order of their turns.
        connect: Makes a connection; one is kept, and made anew after a failure.
        now: The time, UTC.
        pause_s_max: Between two steps.
    """

    def __init__(
        self,
        config: Maintenance,
        host: str,
        works: Sequence[Work],
        connect: Callable[[], Awaitable[Connection]],
        now: Callable[[], datetime.datetime],
        *,
        pause_s_max: float = PAUSE_S_MAX,
    ) -> None:
        self.done: list[WorkDone] = []
        """What each work did last, as far as was heard."""
        self._config = config
        self._host = host
        self._works = works
        self._connect = connect
        self._now = now
        self._pause_s_max = pause_s_max

    async def run(self) -> None:
        """Keep the nights for ever, whatever happens to Postgres meanwhile."""
        await look_forever(
            self._connect, self.look, name="maintenance", every_s=LOOK_S, most_s=BACKOFF_S_MAX
        )

    async def look(self, connection: Connection) -> None:
        """Do what is due now."""
        self.done = await book.list_works(connection)
        for call in self._calls(await book.read_wishes(connection)):
            for shared in (False, True):
                if self._due(call, shared=shared):
                    await self._do_all(connection, call, shared=shared)

    async def _do_all(self, connection: Connection, call: Call, *, shared: bool) -> None:
        async with book.sole_worker(connection, "" if shared else self._host) as ours:
            if not ours:
                return
            self.done = await book.list_works(connection)  # another may have done it meanwhile
            due, later = self._due(call, shared=shared), 0
            if not shared:
                later = len(self._due(call, shared=True))
            for at, work in enumerate(due):
                await self._do(connection, work, call, 1 / (len(due) - at + later))
            if shared:
                await book.forget_hosts(connection)

    # --- when -------------------------------------------------------------------------------

    def _calls(self, wishes: Wishes) -> Iterator[Call]:
        """Yield why works are to be done now, if at all: what was asked for first."""
        now = self._now()
        asked = wishes.run_asked_at
        if asked is not None and now < asked + RUN_MAX:
            named = [w for w in self._works if not wishes.run_works or w.name in wishes.run_works]
            yield Call(asked, asked + RUN_MAX, True, named)  # noqa: FBT003
        span = next_night(self._config.window, self._config.zone, now)
        if span.holds(now) and not (wishes.skip_until and span.opens < wishes.skip_until):
            yield Call(span.opens, span.closes, False, self._works)  # noqa: FBT003

    def _due(self, call: Call, *, shared: bool) -> list[Work]:
        return [work for work in call.works if work.shared is shared and self._is_due(work, call)]

    def _is_due(self, work: Work, call: Call) -> bool:
        place = (work.name, "" if work.shared else self._host)
        last = next((one for one in self.done if (one.work, one.host) == place), None)
        if last is None or last.started_at < call.since or last.ended_at is None:
            return True
        if last.outcome is Outcome.FAILED:
            return self._now() >= last.ended_at + RETRY
        return last.outcome is Outcome.STOPPED

    async def _goes_on(self, connection: Connection, call: Call) -> bool:
        """Tell whether the call still holds: nobody called it off, and it is not over."""
        calls = self._calls(await book.read_wishes(connection))
        return any(now.since == call.since and now.hurried == call.hurried for now in calls)

    # --- what -------------------------------------------------------------------------------

    async def _do(self, connection: Connection, work: Work, call: Call, share: float) -> None:
        """Do a work, and write down how it went; `share`: of what is left of the call's time."""
        place = (work.name, "" if work.shared else self._host)
        started = self._now()
        await book.begin_work(connection, *place, self._host, started)
        plan = await work.plan(connection, started)
        outcome, said, failed = Outcome.DONE, [], []
        for at, step in enumerate(plan.steps):
            if at and not call.hurried:
                left = len(plan.steps) - at
                await self._pause(connection, call, self._left_s(call) * share / left)
            if not await self._goes_on(connection, call):
                outcome = Outcome.STOPPED
                break
            try:
                said.append(await self._step(connection, step, call))
            except (StepFailed, asyncpg.PostgresError, TimeoutError) as exc:
                if connection.is_closed():
                    raise
                failed.append(f"{step.name}: {exc if isinstance(exc, StepFailed) else _say(exc)}")
        if failed and outcome is Outcome.DONE:
            outcome = Outcome.FAILED if self._left_s(call) > 0 else Outcome.STOPPED
        detail = _describe(len(plan.steps), said, failed, plan.note)
        await book.end_work(connection, *place, self._now(), outcome, detail)
        self.done = await book.list_works(connection)
        level = logging.WARNING if outcome is Outcome.FAILED else logging.INFO
        took_s = round((self._now() - started).total_seconds(), 1)
        extra = {"reason": detail, "age_s": took_s}
        _log.log(level, "maintenance: %s %s", work.name, outcome.value, extra=extra)

    async def _step(self, connection: Connection, step: Step, call: Call) -> str:
        try:
            return await step.do(Turn(connection, self._left_s(call)))
        finally:
            if not connection.is_closed():
                await connection.execute(
                    """SELECT set_config('statement_timeout', $1, false),
                        set_config('lock_timeout', '0', false)""",
                    f"{STATEMENT_S:.0f}s",
                )

    async def _pause(self, connection: Connection, call: Call, pause_s: float) -> None:
        """Wait between two steps, unless somebody waits for the night's end."""
        left_s = min(pause_s, self._pause_s_max)
        while left_s > 0 and await self._goes_on(connection, call):
            asked = (await book.read_wishes(connection)).run_asked_at
            if asked is not None and asked > call.since:
                return
            await asyncio.sleep(min(left_s, LOOK_S))
            left_s -= LOOK_S

    def _left_s(self, call: Call) -> float:
        return (call.until - self._now()).total_seconds()

    # --- seen -------------------------------------------------------------------------------

    def collect(self) -> Iterator[Metric]:
        """Return when each work last ended, how long it took, and whether all of it went well."""
        ended = GaugeMetricFamily(
            "relay_maintenance_last_run_seconds",
            "When a work of the night last ended, since 1970.",
            labels=("work",),
        )
        took = GaugeMetricFamily(
            "relay_maintenance_duration_seconds",
            "How long it took, pauses included.",
            labels=("work",),
        )
        well = GaugeMetricFamily(
            "relay_maintenance_ok", "0: its last run failed; 1: it did not.", labels=("work",)
        )
        for one in self.done:
            if one.host in ("", self._host) and one.ended_at is not None:
                ended.add_metric([one.work], one.ended_at.timestamp())
                took.add_metric([one.work], one.took_s or 0.0)
                well.add_metric([one.work], float(one.outcome is not Outcome.FAILED))
        yield from (ended, took, well)


def _say(error: BaseException) -> str:
    """Return what went wrong in Postgres in words that quote nothing."""
    match error:
        case asyncpg.LockNotAvailableError():
            return "a lock was not free in time"
        case asyncpg.QueryCanceledError() | TimeoutError():
            return "not done in time"
    return type(error).__name__


def _describe(steps: int, said: Sequence[str], failed: Sequence[str], note: str) -> str:
    parts = [f"{len(said)} of {steps} steps" if steps else "nothing to do", *failed, note, *said]
    return "; ".join(part for part in parts if part)
