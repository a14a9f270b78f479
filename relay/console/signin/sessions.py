"""Browsers that are signed in: made at log-in, found by the cookie's digest, ended."""

from typing import Any, Final

import msgspec

from relay.console.queries.forms import format_moment
from relay.console.rows import Role, SessionRow
from relay.console.signin import tokens
from relay.console.signin.users import Side, User
from relay.store.postgres import Connection
from relay.store.secrets.vault import Pepper

LIFE_DAYS: Final = 14
IDLE_HOURS: Final = 24
SEEN_EVERY_S: Final = 60
"""How often it is written down that a session was used."""
AGENT_CHARS_MAX: Final = 200
SESSIONS_MAX: Final = 50
"""Of one user; the oldest end when there are more."""

_FIND: Final = """
    SELECT users.id AS user_id, email, role, users.account_id, accounts.name AS account,
        sessions.seen_at < now() - make_interval(secs => $2) AS stale
    FROM sessions JOIN users ON users.id = user_id
    LEFT JOIN accounts ON accounts.id = users.account_id
    WHERE digest = $1 AND expires_at > now() AND NOT users.disabled
        AND seen_at > now() - make_interval(hours => $3)
        AND (users.account_id IS NULL) = $4
        AND (users.account_id IS NULL OR NOT accounts.disabled AND accounts.deleted_at IS NULL)"""


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """Whose session it is."""

    user_id: int
    email: str
    role: Role
    account_id: int | None
    account: str


async def open_session(
    connection: Connection, pepper: Pepper, user: User, *, ip: str, agent: str
) -> str:
    """Sign a browser in; return the token for its cookie."""
    token = tokens.mint()
    await connection.execute(
        """INSERT INTO sessions (digest, user_id, expires_at, ip, agent)
        VALUES ($1, $2, now() + make_interval(days => $3), $4::text::inet, $5)""",
        tokens.digest(pepper, token, "session"),
        user.id,
        LIFE_DAYS,
        ip or None,
        agent[:AGENT_CHARS_MAX],
    )
    await connection.execute(
        """DELETE FROM sessions WHERE user_id = $1 AND (expires_at < now() OR id IN (
            SELECT id FROM sessions WHERE user_id = $1 ORDER BY id DESC OFFSET $2))""",
        user.id,
        SESSIONS_MAX,
    )
    await connection.execute("UPDATE users SET last_seen_at = now() WHERE id = $1", user.id)
    return token


async def find_session(connection: Connection, digest: bytes, side: Side) -> Found | None:
    """Return whose session it is; None: nobody's, or not of this side."""
    row = await connection.fetchrow(_FIND, digest, SEEN_EVERY_S, IDLE_HOURS, side == "operator")
    if row is None:
        return None
    if row["stale"]:
        await connection.execute("UPDATE sessions SET seen_at = now() WHERE digest = $1", digest)
        await connection.execute(
            "UPDATE users SET last_seen_at = now() WHERE id = $1", row["user_id"]
        )
    named: dict[str, Any] = {field: row[field] for field in Found.__struct_fields__}
    return Found(**{**named, "account": row["account"] or ""})


async def end_session(connection: Connection, digest: bytes) -> None:
    """Sign a browser out."""
    await connection.execute("DELETE FROM sessions WHERE digest = $1", digest)


async def end_one(connection: Connection, user_id: int, session_id: int) -> None:
    """Sign out another browser of the same user."""
    await connection.execute(
        "DELETE FROM sessions WHERE user_id = $1 AND id = $2", user_id, session_id
    )


async def end_others(connection: Connection, user_id: int, digest: bytes) -> None:
    """Sign out every browser of a user but one."""
    await connection.execute(
        "DELETE FROM sessions WHERE user_id = $1 AND digest <> $2", user_id, digest
    )


async def list_sessions(connection: Connection, user_id: int, digest: bytes) -> list[SessionRow]:
    """Return where a user is signed in, the newest first."""
    rows = await connection.fetch(
        """SELECT id, created_at, seen_at, host(ip) AS ip, agent, digest = $2 AS current
        FROM sessions WHERE user_id = $1 AND expires_at > now() ORDER BY seen_at DESC LIMIT $3""",
        user_id,
        digest,
        SESSIONS_MAX,
    )
    return [
        SessionRow(
            id=row["id"],
            created_at=format_moment(row["created_at"]),
            seen_at=format_moment(row["seen_at"]),
            ip=row["ip"],
            agent=row["agent"],
            current=row["current"],
        )
        for row in rows
    ]
