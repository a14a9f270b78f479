"""The audit log: what was done, by whom, when, from where. Only ever added to."""

from typing import Any

import asyncpg

from relay.console.queries.forms import format_moment
from relay.console.rows import AuditRow
from relay.console.signin.actor import Actor
from relay.store.acts import Act, keep_act
from relay.store.postgres import Connection


async def note(
    connection: Connection,
    actor: Actor,
    act: str,
    target: str = "",
    detail: str = "",
    *,
    account_id: int | None = None,
) -> None:
    """Keep an act; call it in the transaction that does it.

    Args:
        connection: To the database.
        actor: Who.
        act: As "key.disable".
        target: What it was done to: a name, an id, an order number.
        detail: What else there is to know; no secret.
        account_id: Whose matter it is; None = the actor's own account.
    """
    kept = Act(
        actor=actor.label,
        act=act,
        target=target,
        detail=detail,
        user_id=actor.user_id,
        account_id=actor.account_id if account_id is None else account_id,
        ip=actor.ip,
    )
    await keep_act(connection, kept)


async def list_acts(
    connection: Connection,
    *,
    account_id: int | None,
    before: int | None,
    limit: int,
    act: str = "",
    actor: str = "",
) -> list[AuditRow]:
    """Return acts, newest first: one account's, or all where `account_id` is None."""
    rows = await connection.fetch(
        """SELECT audit_log.id, at, actor, accounts.name AS account, act, target, detail,
            host(ip) AS ip
        FROM audit_log LEFT JOIN accounts ON accounts.id = audit_log.account_id
        WHERE ($1::bigint IS NULL OR audit_log.account_id = $1)
            AND ($2::bigint IS NULL OR audit_log.id < $2)
            AND ($3 = '' OR starts_with(act, $3)) AND ($4 = '' OR actor = $4)
        ORDER BY audit_log.id DESC LIMIT $5""",
        account_id,
        before,
        act,
        actor,
        limit,
    )
    return [to_row(row) for row in rows]


def to_row(row: asyncpg.Record) -> AuditRow:
    """Return a record as it is shown."""
    named: dict[str, Any] = {
        name: row[name] for name in ("id", "actor", "account", "act", "target", "detail", "ip")
    }
    return AuditRow(time=format_moment(row["at"]), **named)
