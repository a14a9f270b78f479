"""Who may sign in to an account, what was done there, and how it is told of what concerns it."""

from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta

from relay.console.account_notices import may_ask
from relay.console.queries.forms import IdCursor, PageQuery, Text, decode_cursor, encode_cursor
from relay.console.routes import ID, Ask, Route
from relay.console.rows import AuditRow, UserRow
from relay.console.signin import audit, links, users
from relay.console.signin.actor import Permit
from relay.errors import BadRequest
from relay.model import Secret
from relay.store.billing import low_balances
from relay.store.billing.recharges import parse_positive
from relay.store.postgres import Connection
from relay.store.secrets.vault import webhook_owner
from relay.units import format_usd

AccountRole = Literal["owner", "member", "viewer"]

URL_CHARS_MAX: Final = 2_000


class AccountUsers(msgspec.Struct, frozen=True):
    """Who may sign in to the account, by address."""

    users: list[UserRow]


class GuestRequest(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Whom to invite."""

    email: Annotated[str, Meta(min_length=3, max_length=users.EMAIL_CHARS_MAX)]
    role: AccountRole = "member"


class Guest(msgspec.Struct, frozen=True):
    """The link by which somebody chooses a password, good once."""

    email: str
    url: str


class RoleRequest(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """What a user may do from now on."""

    role: AccountRole


class AccountAuditQuery(PageQuery, frozen=True, kw_only=True):
    """Which acts."""

    act: Text = ""
    """The beginning of it: "key." or "key.disable"."""


class AccountActs(msgspec.Struct, frozen=True):
    """What was done in the account, newest first."""

    audit: list[AuditRow]
    next: str | None


class Contacts(msgspec.Struct, frozen=True):
    """How an account is told of what concerns it."""

    webhook: bool
    """Whether it has one: its address may be a secret, and is shown to owners on their page."""
    low_balance_usd: str | None
    """Below this it is told that its balance is low; null = never."""


class WebhookRequest(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Where notices go; "" = nowhere."""

    url: Annotated[str, Meta(max_length=URL_CHARS_MAX)]


class AlertRequest(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """From which balance on to tell; null = never."""

    low_balance_usd: Annotated[str, Meta(min_length=1, max_length=40)] | None


async def invite(ask: Ask, email: str, role: AccountRole) -> Guest:
    """Make a user of the actor's account and the link that lets them in, and note it.

    Raises:
        BadRequest: CLIENT; that is no address.
        Conflict: CLIENT; the address is in use.
    """
    email = users.canonical_email(email)
    async with ask.services.connect() as connection, connection.transaction():
        user_id = await users.add_user(connection, email, role, ask.actor.own)
        path = await links.make_link(connection, ask.services.pepper, user_id, "invite")
        await audit.note(connection, ask.actor, "user.invite", email, role)
    return Guest(email, ask.services.address("account") + path)


async def set_role(ask: Ask, user_id: int, role: AccountRole) -> UserRow:
    """Change what a user of the actor's account may do, and note it.

    Raises:
        NotFound: CLIENT; there is no such user in it.
        Conflict: CLIENT; the last owner stays one.
    """
    async with ask.services.connect() as connection, connection.transaction():
        user = await users.find_in_account(connection, user_id, ask.actor.own)
        await users.set_role(connection, user, role)
        await audit.note(connection, ask.actor, "user.role", user.email, role)
        return await _row_of(connection, ask, user_id)


async def switch(ask: Ask, user_id: int, *, disabled: bool) -> UserRow:
    """Switch a user of the actor's account off or on, and note it.

    Raises:
        NotFound: CLIENT; there is no such user in it.
        Conflict: CLIENT; the last owner stays one.
    """
    async with ask.services.connect() as connection, connection.transaction():
        user = await users.find_in_account(connection, user_id, ask.actor.own)
        await users.set_disabled(connection, user, disabled=disabled)
        act = "user.disable" if disabled else "user.enable"
        await audit.note(connection, ask.actor, act, user.email)
        return await _row_of(connection, ask, user_id)


async def set_webhook(ask: Ask, url: str) -> None:
    """Send the notices of the actor's account to a URL from now on, "" = to none, and note it.

    Raises:
        BadRequest: CLIENT; it is none that the relay may ask.
    """
    if url and not may_ask(url):
        raise BadRequest("url: an https address that everybody reaches", param="url")
    account_id = ask.actor.own
    sealed = ask.services.vault.seal(Secret(url), webhook_owner(account_id)) if url else b""
    async with ask.services.connect() as connection, connection.transaction():
        await connection.execute(
            """INSERT INTO account_contacts (account_id, webhook_sealed) VALUES ($1, $2)
            ON CONFLICT (account_id) DO UPDATE SET webhook_sealed = excluded.webhook_sealed""",
            account_id,
            sealed,
        )
        await audit.note(connection, ask.actor, "account.webhook", "", "set" if url else "off")


async def set_alert(ask: Ask, low_balance_usd: str | None) -> None:
    """Tell the actor's account when its balance is below an amount, and note it.

    Raises:
        BadRequest: CLIENT; that is no amount.
    """
    nanos = parse_positive(low_balance_usd) if low_balance_usd else None
    async with ask.services.connect() as connection, connection.transaction():
        await low_balances.set_threshold(connection, ask.actor.own, nanos)
        await audit.note(connection, ask.actor, "account.alert", "", low_balance_usd or "off")


async def _row_of(connection: Connection, ask: Ask, user_id: int) -> UserRow:
    rows = await users.list_users(connection, account_id=ask.actor.own)
    return next(row for row in rows if row.id == user_id)


async def _list(ask: Ask) -> AccountUsers:
    async with ask.services.connect() as connection:
        return AccountUsers(await users.list_users(connection, account_id=ask.actor.own))


async def _invite(ask: Ask) -> Guest:
    wanted: GuestRequest = ask.body
    return await invite(ask, wanted.email, wanted.role)


async def _set_role(ask: Ask) -> UserRow:
    wanted: RoleRequest = ask.body
    return await set_role(ask, ask.number("id"), wanted.role)


async def _disable(ask: Ask) -> UserRow:
    return await switch(ask, ask.number("id"), disabled=True)


async def _enable(ask: Ask) -> UserRow:
    return await switch(ask, ask.number("id"), disabled=False)


async def _audit(ask: Ask) -> AccountActs:
    query: AccountAuditQuery = ask.query
    before = decode_cursor(query.cursor, IdCursor)
    async with ask.services.connect() as connection:
        rows = await audit.list_acts(
            connection,
            account_id=ask.actor.own,
            before=None if before is None else before.id,
            limit=query.limit,
            act=query.act,
        )
    full = len(rows) == query.limit
    return AccountActs(rows, encode_cursor(IdCursor(rows[-1].id)) if full else None)


async def _contacts(ask: Ask) -> Contacts:
    async with ask.services.connect() as connection:
        row = await connection.fetchrow(
            """SELECT low_balance_nanos, coalesce(webhook_sealed, '') <> '' AS webhook
            FROM accounts LEFT JOIN account_contacts ON account_id = id WHERE id = $1""",
            ask.actor.own,
        )
    assert row is not None, "accounts are never taken out of the table"
    nanos: int | None = row["low_balance_nanos"]
    return Contacts(row["webhook"], None if nanos is None else format_usd(nanos))


async def _set_webhook(ask: Ask) -> Contacts:
    wanted: WebhookRequest = ask.body
    await set_webhook(ask, wanted.url)
    return await _contacts(ask)


async def _set_alert(ask: Ask) -> Contacts:
    wanted: AlertRequest = ask.body
    await set_alert(ask, wanted.low_balance_usd)
    return await _contacts(ask)


def _route(method: str, path: str, permit: Permit, work: Any, summary: str, **fields: Any) -> Route:
    path = f"/account/v1/{path}"
    return Route(method=method, path=path, permit=permit, work=work, summary=summary, **fields)


ROUTES: Final = (
    _route("GET", "users", Permit.PEOPLE, _list, "Who may sign in", answer=AccountUsers),
    _route(
        "POST",
        "users",
        Permit.PEOPLE,
        _invite,
        "Invite somebody: a link, good once",
        body=GuestRequest,
        answer=Guest,
        status=201,
    ),
    _route(
        "POST",
        f"users/{ID}/role",
        Permit.PEOPLE,
        _set_role,
        "Change what somebody may do",
        body=RoleRequest,
        answer=UserRow,
    ),
    _route(
        "POST", f"users/{ID}/disable", Permit.PEOPLE, _disable, "Sign somebody out", answer=UserRow
    ),
    _route(
        "POST", f"users/{ID}/enable", Permit.PEOPLE, _enable, "Let them in again", answer=UserRow
    ),
    _route(
        "GET",
        "audit",
        Permit.PEOPLE,
        _audit,
        "What was done, by whom",
        query=AccountAuditQuery,
        answer=AccountActs,
    ),
    _route("GET", "contacts", Permit.LOOK, _contacts, "How the account is told", answer=Contacts),
    _route(
        "POST",
        "contacts/webhook",
        Permit.PEOPLE,
        _set_webhook,
        "Where notices go",
        body=WebhookRequest,
        answer=Contacts,
    ),
    _route(
        "POST",
        "contacts/alert",
        Permit.MONEY,
        _set_alert,
        "From which balance on to tell",
        body=AlertRequest,
        answer=Contacts,
    ),
)
