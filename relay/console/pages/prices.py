"""The prices page: an account's own prices; a stranger's, where the operator allows it."""

import datetime
from typing import Final

from relay.console.pages.looking import as_curl
from relay.console.queries import prices
from relay.console.queries.calls import read_page
from relay.console.queries.detail import read_detail
from relay.console.queries.forms import CallFilter
from relay.console.queries.prices import PUBLIC
from relay.console.routes import Ask, Page, Shown
from relay.console.rows import CallDetail
from relay.console.signin.actor import Permit
from relay.console.views import PricesView
from relay.errors import Unauthenticated
from relay.store.postgres import Connection
from relay.units import format_multiplier

WORKED_DAYS: Final = 7
WORKED_NANOS_MIN: Final = 1


async def _show_prices(ask: Ask) -> Shown:
    actor = ask.found
    if actor is None and not ask.services.config.console.public_prices:
        raise Unauthenticated("sign in first")
    search = ask.request.query.get("search", "")[:256].strip()
    async with ask.services.connect() as connection:
        terms = PUBLIC if actor is None else await prices.read_terms(connection, actor.own)
        account_id = None if actor is None else actor.own
        view = PricesView(
            search=search,
            group=terms.group,
            group_multiplier=format_multiplier(terms.multiplier_ppm),
            prices=await prices.list_prices(connection, terms, search),
            changes=await prices.list_changes(connection, terms, account_id),
            worked=None if actor is None else await _find_worked(ask, connection),
        )
    return Shown(view, "" if actor is None else as_curl(ask, "/account/v1/prices"))


async def _find_worked(ask: Ask, connection: Connection) -> CallDetail | None:
    """Return the account's newest call that cost something, to explain the sum by."""
    now = ask.services.now()
    wanted = CallFilter(
        account_id=ask.actor.own,
        since=now - datetime.timedelta(days=WORKED_DAYS),
        until=now,
        min_nanos=WORKED_NANOS_MIN,
    )
    page = await read_page(connection, wanted, 1)
    if not page.logs:
        return None
    return await read_detail(connection, page.logs[0].request_id, ask.actor.own)


PAGES: Final = (Page(method="GET", path="/prices", permit=Permit.PUBLIC, work=_show_prices),)
