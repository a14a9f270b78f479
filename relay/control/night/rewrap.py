"""Secrets under the key before are sealed anew, so that it can be thrown away.

While hosts change from one master key to another, each opens what either has sealed. A secret that
somebody replaces meanwhile is left as that one wrote it.
"""

import datetime
from collections.abc import Awaitable, Callable
from typing import Final, NamedTuple

from relay.control.night.shapes import Plan, Step, Turn
from relay.store.postgres import Connection
from relay.store.secrets.vault import (
    Vault,
    channel_owner,
    token_owner,
    totp_owner,
    webhook_owner,
)


class Place(NamedTuple):
    """A column of sealed secrets: `row` is what tells its rows apart, and names their owners."""

    table: str
    row: str
    column: str
    owner: Callable[..., str]


PLACES: Final = (
    Place("channels", "name", "api_key_sealed", channel_owner),
    Place("channels", "name", "token_sealed", token_owner),
    Place("users", "id", "totp_sealed", totp_owner),
    Place("account_contacts", "account_id", "webhook_sealed", webhook_owner),
)


class Rewrap:
    """Plans what is to be sealed anew.

    Args:
        vault: Of the key of today, and of another one if there is one.
    """

    def __init__(self, vault: Vault) -> None:
        self._vault = vault

    async def plan(self, _connection: Connection, _now: datetime.datetime) -> Plan:
        """Return a step for each column; none where there is no other key."""
        if not self._vault.has_other:
            return Plan([], "no [secrets] master_key_other")
        return Plan([Step(f"{p.table}.{p.column}", self._seal_anew(p)) for p in PLACES])

    def _seal_anew(self, place: Place) -> Callable[[Turn], Awaitable[str]]:
        async def do(turn: Turn) -> str:
            rows = await turn.connection.fetch(
                f"SELECT {place.row} AS row, {place.column} AS sealed FROM {place.table} "  # noqa: S608 - ours
                f"WHERE octet_length({place.column}) > 0"
            )
            done = 0
            for row in rows:
                fresh = self._vault.seal_anew(row["sealed"], place.owner(row["row"]))
                if fresh is not None:
                    await turn.connection.execute(
                        f"UPDATE {place.table} SET {place.column} = $3 "  # noqa: S608 - ours
                        f"WHERE {place.row} = $1 AND {place.column} = $2",
                        row["row"],
                        row["sealed"],
                        fresh,
                    )
                    done += 1
            closed = [
                row["row"]
                for row in rows
                if self._vault.open(row["sealed"], place.owner(row["row"])) is None
            ]
            left = f", {len(closed)} cannot be opened" if closed else ""
            return f"{place.table}.{place.column}: {done} of {len(rows)} sealed anew{left}"

        return do
