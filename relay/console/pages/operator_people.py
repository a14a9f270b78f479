"""The operator's pages of people: users of all accounts, operators, the audit log."""

from typing import Any, Final, cast
from urllib.parse import urlencode

from relay.console.operator_api import people
from relay.console.pages.looking import kept
from relay.console.pages.settings import parse_role
from relay.console.queries.forms import IdCursor, decode_cursor, encode_cursor
from relay.console.routes import ID, Ask, Page, Redirect, Shown
from relay.console.rows import Role
from relay.console.signin import audit, users
from relay.console.signin.actor import Permit
from relay.console.views import AuditView, Notice, UsersView
from relay.store.billing.recharges import find_account

ROWS: Final = 100
ACCOUNTS_SHOWN: Final = 500


async def _show(ask: Ask, *, fresh: tuple[str, str] = ("", "")) -> Shown:
    search = ask.request.query.get("search", "")[:256].strip()
    async with ask.services.connect() as connection:
        names = await connection.fetch(
            "SELECT name FROM accounts WHERE deleted_at IS NULL ORDER BY name LIMIT $1",
            ACCOUNTS_SHOWN,
        )
        found = await users.list_users(connection, search=search)
    url, email = fresh
    accounts = [row["name"] for row in names]
    return Shown(
        UsersView(search=search, users=found, accounts=accounts, fresh_url=url, fresh_email=email)
    )


async def _show_users(ask: Ask) -> Shown:
    return await _show(ask)


async def _invite(ask: Ask) -> Shown:
    text = ask.text("role")
    role: Role = "operator" if text == "operator" else parse_role(text)
    made = await people.invite(ask, ask.text("email"), role, ask.text("account"))
    return await _show(ask, fresh=(made.url, made.email))


async def _reset(ask: Ask) -> Shown:
    made = await people.reset(ask, ask.number("id"))
    return await _show(ask, fresh=(made.url, made.email))


async def _disable(ask: Ask) -> Redirect:
    row = await people.switch(ask, ask.number("id"), disabled=True)
    text = f"{row.email} was signed out and cannot come back."
    return Redirect("/users", Notice(kind="good", text=text))


async def _enable(ask: Ask) -> Redirect:
    row = await people.switch(ask, ask.number("id"), disabled=False)
    return Redirect("/users", Notice(kind="good", text=f"{row.email} may sign in again."))


async def _show_audit(ask: Ask) -> AuditView:
    names = ("actor", "account", "act")
    given = {name: ask.request.query.get(name, "")[:256].strip() for name in names}
    before = decode_cursor(ask.request.query.get("cursor", ""), IdCursor)
    async with ask.services.connect() as connection:
        account_id = await find_account(connection, given["account"]) if given["account"] else None
        rows = await audit.list_acts(
            connection,
            account_id=account_id,
            before=None if before is None else before.id,
            limit=ROWS,
            act=given["act"],
            actor=given["actor"],
        )
    following = None
    if len(rows) == ROWS:
        cursor = encode_cursor(IdCursor(rows[-1].id))
        following = "/audit?" + urlencode(kept(ask, cursor=cursor))
    return AuditView(**cast(dict[str, Any], given), rows=rows, next_url=following)


def _page(method: str, path: str, work: Any) -> Page:
    return Page(method=method, path=path, permit=Permit.OPERATE, work=work)


PAGES: Final = (
    _page("GET", "/users", _show_users),
    _page("POST", "/users", _invite),
    _page("POST", f"/users/{ID}/reset", _reset),
    _page("POST", f"/users/{ID}/disable", _disable),
    _page("POST", f"/users/{ID}/enable", _enable),
    _page("GET", "/audit", _show_audit),
)
