"""People: found by e-mail on their side, invited, switched off, given a password or a code."""

import re
from typing import Any, Final, Literal

import asyncpg
import msgspec

from relay.console.queries.forms import format_moment
from relay.console.rows import Role, UserRow
from relay.errors import BadRequest, Conflict, NotFound
from relay.store.postgres import Connection

EMAIL_CHARS_MAX: Final = 254
USERS_MAX: Final = 500
"""Of one account; more are no account but an organisation with a directory of its own."""
_EMAIL: Final = re.compile(r"[^@\s,;<>\"]+@[^@\s,;<>\"]+")

Side = Literal["account", "operator"]

_FIND: Final = """
    SELECT users.*, accounts.name AS account
    FROM users LEFT JOIN accounts ON accounts.id = account_id
    WHERE email = $1 AND (account_id IS NULL) = $2
        AND (account_id IS NULL OR NOT accounts.disabled AND accounts.deleted_at IS NULL)"""


class User(msgspec.Struct, frozen=True, kw_only=True):
    """Somebody who may sign in."""

    id: int
    email: str
    role: Role
    account_id: int | None
    account: str
    password: str | None
    totp_sealed: bytes | None
    totp_step: int
    disabled: bool


def canonical_email(text: str) -> str:
    """Return an e-mail address as it is kept.

    Raises:
        BadRequest: CLIENT; it cannot be one.
    """
    email = text.strip().lower()
    if len(email) > EMAIL_CHARS_MAX or not _EMAIL.fullmatch(email) or not email.isprintable():
        raise BadRequest("that is no e-mail address")
    return email


async def find_user(connection: Connection, email: str, side: Side) -> User | None:
    """Return the user of that address on one side; None: there is none, or its account is off."""
    row = await connection.fetchrow(_FIND, email, side == "operator")
    return None if row is None else to_user(row)


async def add_user(connection: Connection, email: str, role: Role, account_id: int | None) -> int:
    """Add somebody who has no password yet; return the id. Inviting again changes the role.

    Raises:
        BadRequest: CLIENT; that is no address.
        Conflict: CLIENT; somebody of that address is there already, here or in another account.
    """
    assert (role == "operator") == (account_id is None)
    if account_id is not None:
        count = await connection.fetchval(
            "SELECT count(*) FROM (SELECT FROM users WHERE account_id = $1 LIMIT $2) AS found",
            account_id,
            USERS_MAX,
        )
        if count >= USERS_MAX:
            raise Conflict(f"an account has at most {USERS_MAX} users")
    user_id: int | None = await connection.fetchval(
        """INSERT INTO users (account_id, email, role) VALUES ($1, $2, $3)
        ON CONFLICT (email, (account_id IS NULL)) DO UPDATE SET role = excluded.role
        WHERE users.password IS NULL AND users.account_id IS NOT DISTINCT FROM excluded.account_id
        RETURNING id""",
        account_id,
        canonical_email(email),
        role,
    )
    if user_id is None:
        raise Conflict("this address cannot be invited: it is in use")
    return user_id


async def find_in_account(connection: Connection, user_id: int, account_id: int | None) -> User:
    """Return a user of one account (None: an operator).

    Raises:
        NotFound: CLIENT; there is none of that id there.
    """
    row = await connection.fetchrow(
        """SELECT users.*, accounts.name AS account
        FROM users LEFT JOIN accounts ON accounts.id = account_id
        WHERE users.id = $1 AND account_id IS NOT DISTINCT FROM $2""",
        user_id,
        account_id,
    )
    if row is None:
        raise NotFound("there is no such user")
    return to_user(row)


async def find_by_id(connection: Connection, user_id: int) -> User:
    """Return any user; for operators only.

    Raises:
        NotFound: CLIENT; there is none of that id.
    """
    row = await connection.fetchrow(
        """SELECT users.*, accounts.name AS account
        FROM users LEFT JOIN accounts ON accounts.id = account_id WHERE users.id = $1""",
        user_id,
    )
    if row is None:
        raise NotFound("there is no such user")
    return to_user(row)


async def set_role(connection: Connection, user: User, role: Role) -> None:
    """Change what a user of an account may do; the last owner stays one.

    Raises:
        Conflict: CLIENT; nobody would be left to manage the account.
    """
    assert role != "operator"
    if role != "owner":
        await _keep_an_owner(connection, user)
    await connection.execute("UPDATE users SET role = $2 WHERE id = $1", user.id, role)


async def set_disabled(connection: Connection, user: User, *, disabled: bool) -> None:
    """Switch a user off, which ends all their sessions, or on again.

    Raises:
        Conflict: CLIENT; nobody would be left to manage the account.
    """
    if disabled:
        await _keep_an_owner(connection, user)
        await connection.execute("DELETE FROM sessions WHERE user_id = $1", user.id)
        await connection.execute(
            "UPDATE sign_in_links SET used_at = now() WHERE user_id = $1 AND used_at IS NULL",
            user.id,
        )
    await connection.execute("UPDATE users SET disabled = $2 WHERE id = $1", user.id, disabled)


async def _keep_an_owner(connection: Connection, user: User) -> None:
    if user.role != "owner":
        return
    others = await connection.fetch(
        """SELECT id FROM users WHERE account_id = $1 AND role = 'owner' AND NOT disabled
        ORDER BY id FOR UPDATE""",
        user.account_id,
    )
    if not [row for row in others if row["id"] != user.id]:
        raise Conflict("the last owner of an account stays its owner")


async def set_password(connection: Connection, user_id: int, kept: str) -> None:
    """Keep a new password; all sessions end."""
    await connection.execute("UPDATE users SET password = $2 WHERE id = $1", user_id, kept)
    await connection.execute("DELETE FROM sessions WHERE user_id = $1", user_id)


async def set_totp(connection: Connection, user_id: int, sealed: bytes | None, step: int) -> None:
    """Ask for a second factor from now on, or no more."""
    await connection.execute(
        "UPDATE users SET totp_sealed = $2, totp_step = $3 WHERE id = $1", user_id, sealed, step
    )


async def use_step(connection: Connection, user_id: int, step: int) -> bool:
    """Note that the code of a step was used; False: it was used before, at this very moment."""
    used = await connection.fetchval(
        "UPDATE users SET totp_step = $2 WHERE id = $1 AND totp_step < $2 RETURNING id",
        user_id,
        step,
    )
    return used is not None


async def list_users(
    connection: Connection, *, account_id: int | None = None, search: str = "", limit: int = 500
) -> list[UserRow]:
    """Return users by address: one account's, or those of all whose address or account fits."""
    rows = await connection.fetch(
        """SELECT users.id, email, role, accounts.name AS account, users.disabled,
            password IS NULL AND NOT EXISTS (
                SELECT FROM user_identities WHERE user_id = users.id) AS invited,
            totp_sealed IS NOT NULL AS totp, users.created_at, last_seen_at
        FROM users LEFT JOIN accounts ON accounts.id = account_id
        WHERE ($1::bigint IS NULL OR account_id = $1)
            AND ($2 = '' OR strpos(email, lower($2)) > 0 OR accounts.name = $2)
        ORDER BY email LIMIT $3""",
        account_id,
        search,
        limit,
    )
    return [_to_row(row) for row in rows]


def to_user(row: asyncpg.Record) -> User:
    """Return a record of users, with its account's name, as a user."""
    named: dict[str, Any] = {field: row[field] for field in User.__struct_fields__}
    return User(**{**named, "account": row["account"] or ""})


def _to_row(row: asyncpg.Record) -> UserRow:
    state: Literal["active", "invited", "disabled"] = "active"
    if row["disabled"]:
        state = "disabled"
    elif row["invited"]:
        state = "invited"
    seen = row["last_seen_at"]
    return UserRow(
        id=row["id"],
        email=row["email"],
        role=row["role"],
        account=row["account"],
        state=state,
        totp=row["totp"],
        created_at=format_moment(row["created_at"]),
        last_seen_at=None if seen is None else format_moment(seen),
    )
