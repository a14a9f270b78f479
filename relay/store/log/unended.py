"""Background responses whose worker has died: kept in Postgres until somebody knows how they ended.

    dead journal --keep--> row, its hold set apart --claim--> a worker asks the provider
                                                   --settle--> log row, charge, hold freed, no row

Keeping one is part of the transaction that closes its journal, settling one a transaction by
itself: whoever dies in between does all of it again, or nothing. A row that is claimed is due again
after a while, so that it is not lost with whoever claimed it.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Final
from uuid import UUID

import asyncpg
import msgspec

from relay.errors import DependencyDown
from relay.model import FREE_PRICE
from relay.records import CallCheckpoint, CallEnd, CallStart, UnendedCall
from relay.store import postgres
from relay.store.billing.credit_leases import close_owner, set_apart
from relay.store.catalog.snapshot import read_price
from relay.store.kept import Kept
from relay.store.log.writer import Mark, Part, forget_mark, write_batch
from relay.store.postgres import Connection, hang_up

HELD_S: Final = 5 * 86_400.0
"""How long its money may stay held; a batch is settled, or given up, within four days."""
FIRST_S: Final = 2.0
MOST_S: Final = 15.0
DOUBLINGS_MAX: Final = 8
LOOKS_OFTEN: Final = 100
SELDOM_S: Final = 60.0
"""Between two looks at what was looked at so often: it takes hours."""
ANSWER_S: Final = 10.0

_KEEP: Final = """
    INSERT INTO unended_calls (request_id, owner, start, checkpoint) VALUES ($1, $2, $3, $4)
    ON CONFLICT DO NOTHING"""
# None is due later than in $6 seconds, unless Postgres's clock was set back: then it is due now.
_CLAIM: Final = """
    WITH due AS (
        SELECT request_id FROM unended_calls
        WHERE due_at <= now() OR due_at > now() + make_interval(secs => $6)
        ORDER BY due_at LIMIT $1 FOR UPDATE SKIP LOCKED
    )
    UPDATE unended_calls AS kept SET looks = looks + 1,
        due_at = now() + make_interval(
            secs => CASE WHEN looks < $5 THEN least($3, $2 * 2 ^ least(looks, $4)) ELSE $6 END)
    FROM due WHERE kept.request_id = due.request_id
    RETURNING kept.request_id, start, checkpoint, gone"""
_SETTLE: Final = "DELETE FROM unended_calls WHERE request_id = $1 RETURNING owner"
_GONE: Final = """
    UPDATE unended_calls SET gone = gone + 1, due_at = now() + make_interval(secs => $2)
    WHERE request_id = $1"""

_encode = msgspec.msgpack.Encoder().encode
_decode_start = msgspec.msgpack.Decoder(CallStart).decode
_decode_checkpoint = msgspec.msgpack.Decoder(CallCheckpoint).decode


async def keep_unended(
    connection: Connection,
    generation: str,
    calls: Sequence[tuple[CallStart, CallCheckpoint]],
) -> None:
    """Keep calls of a dead worker whose responses go on, and what is held for them.

    Args:
        connection: In the transaction that closes the worker's journal, before its credit is freed.
        generation: The life of the worker.
        calls: Each with `unended` in its checkpoint.
    """
    for start, checkpoint in calls:
        assert checkpoint.unended is not None
        request_id = UUID(bytes=start.request_id)
        owner = f"unended-{request_id.hex}"
        kept = await connection.execute(
            _KEEP, request_id, owner, _encode(start), _encode(checkpoint)
        )
        if kept.endswith(" 1"):
            await set_apart(
                connection,
                generation,
                owner,
                start.account_id,
                checkpoint.unended.hold_nanos,
                ttl_s=HELD_S,
            )


class PostgresUnended:
    """Where workers claim and settle such calls, on a connection of its own.

    Args:
        url: Returns where Postgres is; raises DependencyDown where nobody knows.
    """

    def __init__(self, url: Callable[[], str]) -> None:
        self._url = url
        self._kept = Kept(self._connect, hang_up)
        self._turn = asyncio.Lock()

    async def claim(self, count: int) -> list[UnendedCall]:
        """Return calls to be asked for now, at most `count`: nobody else asks for them meanwhile.

        Raises:
            DependencyDown: RELAY.
        """
        async with self._use() as connection:
            rows = await connection.fetch(
                _CLAIM, count, FIRST_S, MOST_S, DOUBLINGS_MAX, LOOKS_OFTEN, SELDOM_S
            )
            calls = [
                (_decode_start(row["start"]), _decode_checkpoint(row["checkpoint"]), row["gone"])
                for row in rows
            ]
            ids = {one.unended.price_id for _, one, _ in calls if one.unended is not None}
            prices = {
                row["id"]: read_price(row)
                for row in (
                    await connection.fetch(
                        "SELECT * FROM prices WHERE id = ANY($1::bigint[])", list(ids)
                    )
                    if ids
                    else ()
                )
            }
        return [
            UnendedCall(start, one, prices.get(one.unended.price_id, FREE_PRICE), gone)
            for start, one, gone in calls
            if one.unended is not None
        ]

    async def settle(self, end: CallEnd) -> bool:
        """Log, charge and forget a call, and free what was held for it; False: somebody did.

        Raises:
            DependencyDown: RELAY; nobody knows whether it was done.
        """
        async with self._use() as connection:
            return await settle_unended(connection, end)

    async def note_gone(self, request_id: bytes) -> None:
        """Note that a call's provider did not know its response.

        Raises:
            DependencyDown: RELAY.
        """
        async with self._use() as connection:
            await connection.execute(_GONE, UUID(bytes=request_id), 2 * FIRST_S)

    def close(self) -> None:
        """Hang up."""
        self._kept.close()

    async def _connect(self) -> Connection:
        return await postgres.connect(self._url(), application="relay unended calls")

    @asynccontextmanager
    async def _use(self) -> AsyncIterator[Connection]:
        try:
            async with self._turn, asyncio.timeout(ANSWER_S):
                with postgres.border():
                    async with self._kept.use() as connection:
                        yield connection
        except (asyncpg.PostgresError, TimeoutError) as error:
            raise DependencyDown(f"no call is taken over ({type(error).__name__})") from error


async def settle_unended(connection: Connection, end: CallEnd) -> bool:
    """Settle a call that is kept, once; see PostgresUnended.settle."""
    async with connection.transaction():
        owner = await connection.fetchval(_SETTLE, UUID(bytes=end.request_id))
        if owner is None:
            return False
        await write_batch(connection, [Part(owner, Mark(), [end])])
        await forget_mark(connection, owner)
        await close_owner(connection, owner)
    return True
