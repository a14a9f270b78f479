"""Users of all accounts, operators, and the audit log."""

from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta

from relay.console.queries.forms import IdCursor, PageQuery, Text, decode_cursor, encode_cursor
from relay.console.routes import ID, Ask, Route
from relay.console.rows import AuditRow, Role, UserRow
from relay.console.signin import audit, links, users
from relay.console.signin.actor import Permit
from relay.errors import BadRequest, Conflict
from relay.store.billing.recharges import find_account


class UsersQuery(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Users whose address or account has this in it."""

    search: Text = ""


class Users(msgspec.Struct, frozen=True):
    """Who may sign in, by address."""

    users: list[UserRow]


class InviteRequest(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Whom to invite: as the flags of `relay user invite`."""

    email: Annotated[str, Meta(min_length=3, max_length=users.EMAIL_CHARS_MAX)]
    role: Literal["owner", "member", "viewer", "operator"] = "member"
    account: Text = ""


class Invited(msgspec.Struct, frozen=True):
    """A link that is good once."""

    email: str
    url: str


class AuditQuery(PageQuery, frozen=True, kw_only=True):
    """Which acts."""

    account: Text = ""
    act: Text = ""
    """The beginning of it: "key." or "key.disable"."""
    actor: Text = ""


class Acts(msgspec.Struct, frozen=True):
    """What was done, newest first."""

    audit: list[AuditRow]
    next: str | None


async def invite(ask: Ask, email: str, role: Role, account: str) -> Invited:
    """Make a user and the link by which they choose a password, and note it.

    Raises:
        BadRequest: CLIENT; an operator with an account, or anybody else without one.
        NotFound: CLIENT; there is no such account.
        Conflict: CLIENT; the address is in use.
    """
    if (role == "operator") == bool(account):
        raise BadRequest("an operator has no account, and everybody else has one", param="account")
    email = users.canonical_email(email)
    async with ask.services.connect() as connection, connection.transaction():
        account_id = await find_account(connection, account) if account else None
        user_id = await users.add_user(connection, email, role, account_id)
        path = await links.make_link(connection, ask.services.pepper, user_id, "invite")
        await audit.note(connection, ask.actor, "user.invite", email, role, account_id=account_id)
    side: users.Side = "operator" if account_id is None else "account"
    return Invited(email, ask.services.address(side) + path)


async def reset(ask: Ask, user_id: int) -> Invited:
    """Make the link by which a user chooses another password, and note it.

    Raises:
        NotFound: CLIENT; there is no such user.
    """
    async with ask.services.connect() as connection, connection.transaction():
        user = await users.find_by_id(connection, user_id)
        path = await links.make_link(connection, ask.services.pepper, user.id, "reset")
        await audit.note(
            connection, ask.actor, "user.reset", user.email, account_id=user.account_id
        )
    side: users.Side = "operator" if user.account_id is None else "account"
    return Invited(user.email, ask.services.address(side) + path)


async def switch(ask: Ask, user_id: int, *, disabled: bool) -> UserRow:
    """Switch a user off or on, and note it.

    Raises:
        NotFound: CLIENT; there is no such user.
        Conflict: CLIENT; oneself, or the last owner of an account.
    """
    async with ask.services.connect() as connection, connection.transaction():
        user = await users.find_by_id(connection, user_id)
        if user.id == ask.actor.user_id:
            raise Conflict("nobody switches themselves off")
        await users.set_disabled(connection, user, disabled=disabled)
        act = "user.disable" if disabled else "user.enable"
        await audit.note(connection, ask.actor, act, user.email, account_id=user.account_id)
        rows = await users.list_users(connection, search=user.email)
    return next(row for row in rows if row.id == user.id)


async def _list(ask: Ask) -> Users:
    query: UsersQuery = ask.query
    async with ask.services.connect() as connection:
        return Users(await users.list_users(connection, search=query.search))


async def _invite(ask: Ask) -> Invited:
    wanted: InviteRequest = ask.body
    return await invite(ask, wanted.email, wanted.role, wanted.account)


async def _reset(ask: Ask) -> Invited:
    return await reset(ask, ask.number("id"))


async def _disable(ask: Ask) -> UserRow:
    return await switch(ask, ask.number("id"), disabled=True)


async def _enable(ask: Ask) -> UserRow:
    return await switch(ask, ask.number("id"), disabled=False)


async def _audit(ask: Ask) -> Acts:
    query: AuditQuery = ask.query
    before = decode_cursor(query.cursor, IdCursor)
    async with ask.services.connect() as connection:
        rows = await audit.list_acts(
            connection,
            account_id=await find_account(connection, query.account) if query.account else None,
            before=None if before is None else before.id,
            limit=query.limit,
            act=query.act,
            actor=query.actor,
        )
    full = len(rows) == query.limit
    return Acts(rows, encode_cursor(IdCursor(rows[-1].id)) if full else None)


def _route(method: str, path: str, work: Any, summary: str, **fields: Any) -> Route:
    path = f"/admin/v1/{path}"
    return Route(
        method=method, path=path, permit=Permit.OPERATE, work=work, summary=summary, **fields
    )


ROUTES: Final = (
    _route("GET", "users", _list, "Who may sign in", query=UsersQuery, answer=Users),
    _route(
        "POST",
        "users",
        _invite,
        "Invite somebody: a link, good once",
        body=InviteRequest,
        answer=Invited,
        status=201,
    ),
    _route("POST", f"users/{ID}/reset", _reset, "A link for another password", answer=Invited),
    _route("POST", f"users/{ID}/disable", _disable, "Sign somebody out for good", answer=UserRow),
    _route("POST", f"users/{ID}/enable", _enable, "Let somebody in again", answer=UserRow),
    _route("GET", "audit", _audit, "What was done, by whom", query=AuditQuery, answer=Acts),
)
