"""The operator's pages of the machine: overview, channels, lines, accounts, maintenance."""

import asyncio
import datetime
import itertools
from typing import Any, Final, Literal
from urllib.parse import urlencode

from relay.console.queries import operator as queries
from relay.console.queries.forms import format_moment
from relay.console.routes import Ask, Page, Redirect
from relay.console.rows import WindowRow
from relay.console.signin import audit
from relay.console.signin.actor import Permit
from relay.console.views import (
    AccountsView,
    ChannelsView,
    LinesView,
    MaintenanceView,
    Notice,
    OperatorOverviewView,
)
from relay.control.watch.probe import probe
from relay.store.billing import recharges
from relay.store.catalog import listings
from relay.store.catalog.snapshot import load_channel
from relay.store.maintenance import read_wishes
from relay.windows import nights

WINDOWS_SHOWN: Final = 7
MISSING_SHOWN: Final = 8


async def _show_overview(ask: Ask) -> OperatorOverviewView:
    async with ask.services.connect() as connection:
        return await queries.read_overview(ask.services, connection)


async def _show_channels(ask: Ask) -> ChannelsView:
    async with ask.services.connect() as connection:
        return ChannelsView(channels=await queries.list_channels(ask.services, connection))


async def _drain(ask: Ask) -> Redirect:
    name, evicted = ask.part("name"), bool(ask.text("now"))
    async with ask.services.connect() as connection, connection.transaction():
        await listings.set_drained(connection, name, drained=True, evicted=evicted)
        said = "running calls move off it" if evicted else "running calls finish"
        await audit.note(connection, ask.actor, "channel.drain", name, said)
    return Redirect("/channels", Notice(kind="good", text=f"Channel {name} is drained: {said}."))


async def _enable(ask: Ask) -> Redirect:
    name = ask.part("name")
    async with ask.services.connect() as connection, connection.transaction():
        await listings.set_drained(connection, name, drained=False)
        await audit.note(connection, ask.actor, "channel.enable", name)
    return Redirect("/channels", Notice(kind="good", text=f"Channel {name} is in service."))


async def _test(ask: Ask) -> Redirect:
    """Ask a channel's upstream for its models, with the channel's credential."""
    name = ask.part("name")
    async with ask.services.connect() as connection, connection.transaction():
        channel = await load_channel(connection, ask.services.vault, name)
        await audit.note(connection, ask.actor, "channel.test", name)
    found = await asyncio.to_thread(probe, channel)
    text = f"Channel {name}: {found.reason}, {found.total_ms} ms"
    if found.missing:
        text += f"; its list lacks {', '.join(found.missing[:MISSING_SHOWN])}"
    kind: Literal["good", "warn", "bad"] = "bad"
    if found.ok:
        kind = "warn" if found.missing else "good"
    return Redirect("/channels", Notice(kind=kind, text=text + "."))


async def _show_lines(ask: Ask) -> LinesView:
    async with ask.services.connect() as connection:
        return LinesView(lines=await queries.list_lines(ask.services, connection))


async def _show_accounts(ask: Ask) -> AccountsView:
    search = ask.request.query.get("search", "")[:128].strip()
    after = ask.request.query.get("after", "")[:256]
    async with ask.services.connect() as connection:
        rows = await queries.list_accounts(connection, search=search, after=after)
    following = None
    if len(rows) == queries.ACCOUNTS_SHOWN:
        query = {"search": search, "after": rows[-1].name}
        following = "/accounts?" + urlencode({name: text for name, text in query.items() if text})
    return AccountsView(search=search, accounts=rows, next_url=following)


async def _credit(ask: Ask) -> Redirect:
    """Credit by hand: who does it is whose session it is."""
    account = ask.part("name")
    async with ask.services.connect() as connection, connection.transaction():
        account_id = await recharges.find_account(connection, account)
        row = await recharges.credit_by_hand(
            connection,
            account,
            ask.text("amount_usd", 40),
            actor=ask.actor.label,
            reason=ask.text("reason", 1_000),
            ref=ask.text("ref", 256),
        )
        said = f"{row['amount_usd']} USD, {row['ref']}: {ask.text('reason', 1_000)}"
        await audit.note(connection, ask.actor, "credit.book", account, said, account_id=account_id)
    booked = "were booked" if row["booked"] else "had been booked before under this reference"
    text = f"{row['amount_usd']} USD {booked}."
    return Redirect("/accounts", Notice(kind="good", text=text))


async def _show_maintenance(ask: Ask) -> MaintenanceView:
    config = ask.services.config.maintenance
    async with ask.services.connect() as connection:
        wishes = await read_wishes(connection)
        now = ask.services.now()
        windows = list_windows(config.window, config.zone, now, wishes.skip_until)
        return await queries.read_maintenance(ask.services, connection, windows)


def list_windows(
    window: str, zone: str, now: datetime.datetime, skip_until: datetime.datetime | None
) -> list[WindowRow]:
    """Return the windows of the coming days, the one that is open first."""
    rows: list[WindowRow] = []
    is_next = True
    for span in itertools.islice(nights(window, zone, now), WINDOWS_SHOWN):
        if skip_until is not None and span.opens < skip_until:
            state = "skipped"
        elif span.holds(now):
            state = "now"
        else:
            state, is_next = "next" if is_next else "planned", False
        rows.append(
            WindowRow(
                starts=format_moment(span.opens),
                ends=format_moment(span.closes),
                state=state,  # type: ignore[arg-type]
            )
        )
    return rows


def _get(path: str, work: Any) -> Page:
    return Page(method="GET", path=path, permit=Permit.OPERATE, work=work)


def _post(path: str, work: Any) -> Page:
    return Page(method="POST", path=path, permit=Permit.OPERATE, work=work)


PAGES: Final = (
    _get("/", _show_overview),
    _get("/channels", _show_channels),
    _post("/channels/{name}/drain", _drain),
    _post("/channels/{name}/enable", _enable),
    _post("/channels/{name}/test", _test),
    _get("/lines", _show_lines),
    _get("/accounts", _show_accounts),
    _post("/accounts/{name}/credit", _credit),
    _get("/maintenance", _show_maintenance),
)
