"""Where one worker leases credit: a connection to Postgres of its own, made anew after a failure.

It is asked by one task, never by a request. Whatever goes wrong is one error, and whether the lease
was made is unknown then: the next answer tells the sums (billing.purse.Lease).
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Final

import asyncpg

from relay.billing.shapes import CreditLease, CreditRequest
from relay.errors import DependencyDown
from relay.store import postgres
from relay.store.billing import credit_leases
from relay.store.postgres import Connection

ANSWER_S: Final = 2.0
"""Calls wait for an answer: a Postgres that takes longer counts as down, and is dialed anew."""


class PostgresLender:
    """Leases for one life of a worker (implements flow.ports.Lender).

    Args:
        url: Returns where Postgres is; raises DependencyDown where nobody knows.
        owner: Returns the name that the worker's journal goes by: its calls are settled under it.
        ttl_s: For how long the worker may spend without renewing.
    """

    def __init__(self, url: Callable[[], str], owner: Callable[[], str], ttl_s: float) -> None:
        self._url = url
        self._owner = owner
        self._ttl_s = ttl_s
        self._connection: Connection | None = None
        self.on_recall: Callable[[int], None] = lambda account_id: None
        """Called with the id of an account whose credit another worker lacks."""

    async def lease(
        self, asks: Sequence[CreditRequest], surplus: Mapping[int, int]
    ) -> Mapping[int, CreditLease]:
        """Lease, give back and renew; see flow.ports.Lender."""
        try:
            async with asyncio.timeout(ANSWER_S):
                with postgres.border():
                    connection = self._connection or await self._connect()
                    return await credit_leases.lease(
                        connection, self._owner(), asks, ttl_s=self._ttl_s, surplus=surplus
                    )
        except (asyncpg.PostgresError, TimeoutError) as error:
            # A deadlock or a failed check as well: what matters is that nobody knows the outcome.
            self.close()
            raise DependencyDown(f"no credit is leased ({type(error).__name__})") from error
        except BaseException:
            self.close()
            raise

    async def _connect(self) -> Connection:
        connection = await postgres.connect(self._url(), application="relay credit")
        self._connection = connection
        await connection.add_listener(credit_leases.RECALL_CHANNEL, self._note_recall)
        return connection

    def _note_recall(self, _connection: object, _pid: int, _channel: str, payload: object) -> None:
        self.on_recall(int(str(payload)))

    def close(self) -> None:
        """Hang up; the next question dials anew."""
        if self._connection is not None:
            self._connection.terminate()
            self._connection = None
