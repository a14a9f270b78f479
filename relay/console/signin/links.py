"""Links that are good once: to choose the first password, to choose another one, to sign in."""

from typing import Final, Literal

from relay.console.rows import Role
from relay.console.signin import tokens
from relay.console.signin.users import Side, User, add_user, find_user, to_user
from relay.store.postgres import Connection
from relay.store.secrets.vault import Pepper

Kind = Literal["invite", "reset", "login"]

LIFE_HOURS: Final[dict[Kind, int]] = {"invite": 7 * 24, "reset": 24, "login": 1}
PATHS: Final[dict[Kind, str]] = {"invite": "invite", "reset": "invite", "login": "link"}

_FIND: Final = """
    SELECT users.*, accounts.name AS account, kind
    FROM sign_in_links JOIN users ON users.id = user_id
    LEFT JOIN accounts ON accounts.id = users.account_id
    WHERE digest = $1 AND used_at IS NULL AND expires_at > now() AND NOT users.disabled
        AND (account_id IS NULL) = $2 AND kind = ANY($3::text[])
        AND (account_id IS NULL OR NOT accounts.disabled AND accounts.deleted_at IS NULL)"""


async def make_link(connection: Connection, pepper: Pepper, user_id: int, kind: Kind) -> str:
    """Return the path of a new link; those of its kind that were open end."""
    token = tokens.mint()
    await connection.execute(
        """UPDATE sign_in_links SET used_at = now()
        WHERE user_id = $1 AND kind = $2 AND used_at IS NULL""",
        user_id,
        kind,
    )
    await connection.execute(
        """INSERT INTO sign_in_links (digest, user_id, kind, expires_at)
        VALUES ($1, $2, $3, now() + make_interval(hours => $4))""",
        tokens.digest(pepper, token, "link"),
        user_id,
        kind,
        LIFE_HOURS[kind],
    )
    return f"/{PATHS[kind]}/{token}"


async def sign_in_link(
    connection: Connection, pepper: Pepper, email: str, account_id: int | None
) -> str:
    """Return the path of a link that signs a user in, made as an owner or operator if needed."""
    user = await find_user(connection, email, "operator" if account_id is None else "account")
    if user is not None and user.account_id == account_id:
        user_id = user.id
    else:
        role: Role = "operator" if account_id is None else "owner"
        user_id = await add_user(connection, email, role, account_id)
    return await make_link(connection, pepper, user_id, "login")


async def find_link(
    connection: Connection, pepper: Pepper, token: str, side: Side, kinds: tuple[Kind, ...]
) -> tuple[User, Kind] | None:
    """Return whose link it is and of which kind; None: it was used, is old, or never was."""
    digest = tokens.digest(pepper, token, "link")
    row = await connection.fetchrow(_FIND, digest, side == "operator", list(kinds))
    return None if row is None else (to_user(row), row["kind"])


async def use_link(connection: Connection, pepper: Pepper, token: str) -> bool:
    """Use a link up; False: somebody was faster."""
    used = await connection.fetchval(
        """UPDATE sign_in_links SET used_at = now()
        WHERE digest = $1 AND used_at IS NULL AND expires_at > now() RETURNING user_id""",
        tokens.digest(pepper, token, "link"),
    )
    return used is not None
