"""Where one worker leases credit: a connection to Postgres of its own, made anew after a failure.

It is asked by one task, never by a request. Whatever goes wrong is one error, and whether the lease
was made is unknown then: the next answer tells the sums (billing.purse.Lease).
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Final

import asyncpg

from relay.billing.shapes import BudgetRequest, CreditLease, CreditRequest
from relay.errors import DependencyDown
from relay.store import postgres
from relay.store.billing import budget_leases, credit_leases
from relay.store.kept import Kept
from relay.store.postgres import Connection, hang_up

ANSWER_S: Final = 2.0
"""Calls wait for an answer: a Postgres that takes longer counts as down, and is dialed anew."""


class LenderLink:
    """A connection on which leases are made for one life of a worker.

    Args:
        url: Returns where Postgres is; raises DependencyDown where nobody knows.
        noun: What is leased.
        recalls: The channel on which other workers say what they lack.
        on_recall: Called with what they say.
    """

    def __init__(
        self, url: Callable[[], str], noun: str, recalls: str, on_recall: Callable[[str], None]
    ) -> None:
        self._url = url
        self._noun = noun
        self._recalls = recalls
        self._on_recall = on_recall
        self._kept = Kept(self._connect, hang_up)

    @asynccontextmanager
    async def use(self) -> AsyncIterator[Connection]:
        """Yield the connection for one question.

        Raises:
            DependencyDown: RELAY; nobody knows whether anything was leased.
        """
        try:
            async with asyncio.timeout(ANSWER_S):
                with postgres.border():
                    async with self._kept.use() as connection:
                        yield connection
        except (asyncpg.PostgresError, TimeoutError) as error:
            # A deadlock or a failed check as well: what matters is that nobody knows the outcome.
            raise DependencyDown(f"no {self._noun} is leased ({type(error).__name__})") from error

    async def _connect(self) -> Connection:
        connection = await postgres.connect(self._url(), application=f"relay {self._noun}")
        try:
            await connection.add_listener(self._recalls, self._note_recall)
        except BaseException:
            connection.terminate()
            raise
        return connection

    def _note_recall(self, _connection: object, _pid: int, _channel: str, payload: object) -> None:
        self._on_recall(str(payload))

    def close(self) -> None:
        """Hang up; the next question dials anew."""
        self._kept.close()


class PostgresLender:
    """Leases credit for one life of a worker (implements flow.ports.CreditLender).

    Args:
        url: Returns where Postgres is; raises DependencyDown where nobody knows.
        owner: Returns the name that the worker's journal goes by: its calls are settled under it.
        ttl_s: For how long the worker may spend without renewing.
        on_recall: Called with the id of an account whose credit another worker lacks.
    """

    def __init__(
        self,
        url: Callable[[], str],
        owner: Callable[[], str],
        ttl_s: float,
        on_recall: Callable[[int], None] = lambda account_id: None,
    ) -> None:
        self._owner = owner
        self._ttl_s = ttl_s
        self._link = LenderLink(
            url, "credit", credit_leases.RECALL_CHANNEL, lambda told: on_recall(int(told))
        )

    async def lease(
        self, asks: Sequence[CreditRequest], surplus: Mapping[int, int]
    ) -> Mapping[int, CreditLease]:
        """Lease, give back and renew; see flow.ports.CreditLender."""
        async with self._link.use() as connection:
            return await credit_leases.lease(
                connection, self._owner(), asks, ttl_s=self._ttl_s, surplus=surplus
            )

    def close(self) -> None:
        """Hang up; the next question dials anew."""
        self._link.close()


class PostgresBudgetLender:
    """The same for windows of budgets (implements flow.ports.BudgetLender), by their names."""

    def __init__(
        self,
        url: Callable[[], str],
        owner: Callable[[], str],
        ttl_s: float,
        on_recall: Callable[[str], None] = lambda name: None,
    ) -> None:
        self._owner = owner
        self._ttl_s = ttl_s
        self._link = LenderLink(url, "budget", budget_leases.RECALL_CHANNEL, on_recall)

    async def lease(
        self, asks: Sequence[BudgetRequest], surplus: Mapping[str, int]
    ) -> Mapping[str, CreditLease]:
        """Lease, give back and renew; see flow.ports.BudgetLender."""
        async with self._link.use() as connection:
            return await budget_leases.lease(
                connection, self._owner(), asks, ttl_s=self._ttl_s, surplus=surplus
            )

    def close(self) -> None:
        """Hang up; the next question dials anew."""
        self._link.close()
