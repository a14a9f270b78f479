"""Keys: made, changed, rotated, and the three clicks of a leak: its calls, off, a new one."""

import datetime
from typing import Any, Final

import msgspec

from relay.console.account_api import keys as api
from relay.console.account_api.keys import KeyRequest, LimitRequest, ManagementRequest
from relay.console.pages.looking import as_curl
from relay.console.queries import keys, prices, usage
from relay.console.queries.calls import read_page
from relay.console.queries.forms import CallFilter, parse_end
from relay.console.routes import ID, Ask, Page, Redirect, Shown
from relay.console.rows import FreshKey
from relay.console.signin import management
from relay.console.signin.actor import Permit
from relay.console.views import KeyDetailView, KeysView, Notice
from relay.errors import BadRequest
from relay.store.postgres import Connection

CALLS_SHOWN: Final = 20
CLIENTS_SHOWN: Final = 20
LINE_FIELD: Final = "line:"
"""Before the name of each line that may be ticked."""


async def _draw(ask: Ask, connection: Connection, fresh: FreshKey | None) -> KeysView:
    account_id = ask.actor.own
    terms = await prices.read_terms(connection, account_id)
    return KeysView(
        keys=await keys.list_keys(connection, account_id),
        management_keys=await management.list_keys(connection, account_id)
        if ask.actor.may(Permit.PEOPLE)
        else [],
        fresh=fresh,
        models=sorted(terms.models or ()),
        lines=await keys.list_lines(connection, account_id),
    )


async def _show(ask: Ask, fresh: FreshKey | None = None, notice: Notice | None = None) -> Shown:
    async with ask.services.connect() as connection:
        view = await _draw(ask, connection, fresh)
    return Shown(view, as_curl(ask, "/account/v1/keys"), notice)


async def _show_keys(ask: Ask) -> Shown:
    return await _show(ask)


async def _create(ask: Ask) -> Shown:
    if ask.text("manage"):
        ask.actor.require(Permit.PEOPLE)
        wanted = ManagementRequest(
            name=ask.text("name", 128), expires=parse_end(ask.text("expires"), ask.services.now())
        )
        return await _show(ask, await api.create_management(ask, wanted))
    body: dict[str, Any] = {
        "name": ask.text("name", 128),
        "models": _words(ask.text("models", 8_000)),
        "networks": _words(ask.text("networks", 8_000)),
        "quota_usd": ask.text("quota_usd") or None,
        "budgets": _lines(ask.text("budgets", 1_000)),
        **{name: ask.text(name) or 0 for name in ("tpm", "rpm", "concurrency")},
        "lines": _read_lines(ask),
    }
    wanted_key: KeyRequest = _convert(body, KeyRequest)
    wanted_key.expires = parse_end(ask.text("expires"), ask.services.now())
    return await _show(ask, await api.create(ask, wanted_key))


def _lines(text: str) -> list[str]:
    """Return what stands between commas: a budget has a blank in it."""
    return [part.strip() for part in text.split(",") if part.strip()]


def _read_lines(ask: Ask) -> list[str] | None:
    """Return the lines that were ticked, the one called the default first; None: none was."""
    ticked = [name.removeprefix(LINE_FIELD) for name in ask.form if name.startswith(LINE_FIELD)]
    default = ask.text("default_line")
    return [default, *(name for name in ticked if name != default)] if default else ticked or None


def _words(text: str) -> list[str] | None:
    return text.replace(",", " ").split() or None


def _convert(body: dict[str, Any], kind: type[Any]) -> Any:
    try:
        return msgspec.convert(body, kind, strict=False)
    except msgspec.ValidationError as error:
        raise BadRequest(str(error)) from None


async def _show_key(ask: Ask) -> Shown:
    account_id, key_id = ask.actor.own, ask.number("id")
    now = ask.services.now()
    day = datetime.timedelta(days=1)
    async with ask.services.connect() as connection:
        key = await keys.find_key(connection, account_id, key_id)
        wanted = CallFilter(account_id=account_id, since=now - day, until=now, key=str(key_id))
        places = await keys.list_addresses(connection, account_id, key_id)
        recent = (now - day).isoformat()
        view = KeyDetailView(
            key=key,
            addresses=places,
            calls_24h=(await usage.sum_up(connection, wanted)).whole.requests,
            clients_24h=[p.address for p in places if p.last_seen > recent][:CLIENTS_SHOWN],
            logs=(await read_page(connection, _month(wanted), CALLS_SHOWN)).logs,
            models=sorted((await prices.read_terms(connection, account_id)).models or ()),
            lines=await keys.list_lines(connection, account_id),
        )
    return Shown(view, as_curl(ask, f"/account/v1/keys/{key_id}/addresses"))


def _month(wanted: CallFilter) -> CallFilter:
    since = wanted.since - datetime.timedelta(days=29)
    return msgspec.structs.replace(wanted, since=since)


async def _disable(ask: Ask) -> Redirect:
    row = await api.switch(ask, ask.number("id"), disabled=True)
    text = f'Key "{row.name}" is refused everywhere within a second.'
    return Redirect(f"/keys/{row.id}", Notice(kind="good", text=text))


async def _enable(ask: Ask) -> Redirect:
    row = await api.switch(ask, ask.number("id"), disabled=False)
    return Redirect(f"/keys/{row.id}", Notice(kind="good", text=f'Key "{row.name}" works again.'))


async def _limit(ask: Ask) -> Redirect:
    names = ("tpm", "rpm", "concurrency")
    body: dict[str, Any] = {name: ask.text(name) or None for name in names}
    body["budgets"] = _lines(ask.text("budgets", 1_000))
    wanted = _convert(body, LimitRequest)
    row = await api.limit(ask, ask.number("id"), wanted)
    text = f'The limits of key "{row.name}" hold within a second.'
    return Redirect(f"/keys/{row.id}", Notice(kind="good", text=text))


async def _choose_lines(ask: Ask) -> Redirect:
    row = await api.choose_lines(ask, ask.number("id"), _read_lines(ask))
    text = f'The lines of key "{row.name}" hold within a second.'
    return Redirect(f"/keys/{row.id}", Notice(kind="good", text=text))


async def _rotate(ask: Ask) -> Shown:
    try:
        hours = float(ask.text("grace_hours") or 24)
    except ValueError:
        raise BadRequest("grace_hours: a number of hours", param="grace_hours") from None
    if not 0 <= hours <= keys.GRACE_HOURS_MAX:
        raise BadRequest(f"grace_hours: 0 to {keys.GRACE_HOURS_MAX}", param="grace_hours")
    made = await api.rotate(ask, ask.number("id"), datetime.timedelta(hours=hours))
    return await _show(ask, made)


async def _replace(ask: Ask) -> Shown:
    """Refuse a key that leaked, at once, and make another one under its name."""
    made = await api.rotate(ask, ask.number("id"), datetime.timedelta())
    text = f'The old key "{made.name}" is refused everywhere within a second.'
    return await _show(ask, made, Notice(kind="good", text=text))


async def _delete(ask: Ask) -> Redirect:
    row = await api.delete(ask, ask.number("id"))
    text = f'Key "{row.name}" is deleted; the log keeps its name.'
    return Redirect("/keys", Notice(kind="good", text=text))


async def _delete_management(ask: Ask) -> Redirect:
    name = await api.delete_management(ask, ask.number("id"))
    return Redirect("/keys", Notice(kind="good", text=f'Management key "{name}" is deleted.'))


def _post(path: str, work: Any, permit: Permit = Permit.KEYS) -> Page:
    return Page(method="POST", path=path, permit=permit, work=work)


PAGES: Final = (
    Page(method="GET", path="/keys", permit=Permit.LOOK, work=_show_keys),
    Page(method="GET", path=f"/keys/{ID}", permit=Permit.LOOK, work=_show_key),
    _post("/keys", _create),
    _post(f"/keys/{ID}/disable", _disable),
    _post(f"/keys/{ID}/enable", _enable),
    _post(f"/keys/{ID}/limit", _limit),
    _post(f"/keys/{ID}/lines", _choose_lines),
    _post(f"/keys/{ID}/rotate", _rotate),
    _post(f"/keys/{ID}/replace", _replace),
    _post(f"/keys/{ID}/delete", _delete),
    _post(f"/management-keys/{ID}/delete", _delete_management, Permit.PEOPLE),
)
