"""The request log of all accounts, for operators; each call explained as its holder sees it."""

from typing import Final
from urllib.parse import urlencode

from relay.console.pages.looking import ROWS, as_curl, call_again, kept, read_query, to_fields
from relay.console.queries import usage
from relay.console.queries.calls import read_page
from relay.console.queries.detail import read_detail
from relay.console.queries.forms import LogCursor, LogPageQuery, Text, decode_cursor, to_filter
from relay.console.routes import Ask, Page, Shown
from relay.console.signin.actor import Permit
from relay.console.views import LogDetailView, OperatorLogsView
from relay.store.billing.recharges import find_account


class OperatorLogQuery(LogPageQuery, frozen=True, kw_only=True):
    """Whose calls as well; "" = everybody's."""

    account: Text = ""


async def _show_logs(ask: Ask) -> Shown:
    query: OperatorLogQuery = read_query(ask, OperatorLogQuery, more=("limit",))
    before = decode_cursor(query.cursor, LogCursor)
    async with ask.services.connect() as connection:
        account_id = await find_account(connection, query.account) if query.account else None
        wanted = to_filter(query, account_id, ask.services.now())
        page = await read_page(connection, wanted, ROWS, before)
        totals = (await usage.sum_up(connection, wanted)).whole if wanted.is_summed else None
    following = None if page.next is None else "/logs?" + urlencode(kept(ask, cursor=page.next))
    view = OperatorLogsView(
        account=query.account,
        filter=to_fields(ask),
        totals=totals,
        logs=page.logs,
        next_url=following,
    )
    return Shown(view, as_curl(ask, "/admin/v1/logs", kept(ask, cursor="", limit="")))


async def _show_call(ask: Ask) -> Shown:
    async with ask.services.connect() as connection:
        detail = await read_detail(connection, ask.part("id"), None)
    view = LogDetailView(detail=detail, curl=call_again(ask, detail))
    return Shown(view, as_curl(ask, f"/admin/v1/logs/{detail.call.request_id}"))


PAGES: Final = (
    Page(method="GET", path="/logs", permit=Permit.OPERATE, work=_show_logs),
    Page(method="GET", path="/logs/{id}", permit=Permit.OPERATE, work=_show_call),
)
