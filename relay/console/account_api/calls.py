"""The request log of an account."""

from typing import Final

from relay.console.account_api.export import ExportQuery, send_export
from relay.console.queries.calls import read_page
from relay.console.queries.detail import read_detail
from relay.console.queries.forms import LogCursor, LogPageQuery, decode_cursor, to_filter
from relay.console.queries.usage import DEFAULT_DAYS, UsageQuery, list_usage
from relay.console.routes import Ask, Route
from relay.console.rows import CallDetail, CallPage, UsageAnswer
from relay.console.signin.actor import Permit


async def _list(ask: Ask) -> CallPage:
    query: LogPageQuery = ask.query
    wanted = to_filter(query, ask.actor.own, ask.services.now())
    before = decode_cursor(query.cursor, LogCursor)
    async with ask.services.connect() as connection:
        return await read_page(connection, wanted, query.limit, before)


async def _show(ask: Ask) -> CallDetail:
    async with ask.services.connect() as connection:
        return await read_detail(connection, ask.part("id"), ask.actor.own)


async def _usage(ask: Ask) -> UsageAnswer:
    query: UsageQuery = ask.query
    now = ask.services.now()
    wanted = to_filter(query, ask.actor.own, now, days=DEFAULT_DAYS[query.by])
    async with ask.services.connect() as connection:
        return UsageAnswer(usage=await list_usage(connection, wanted, query.by, query.group))


ROUTES: Final = (
    Route(
        method="GET",
        path="/account/v1/logs",
        permit=Permit.LOOK,
        work=_list,
        summary="Calls, newest first; without `since` those of the last day",
        query=LogPageQuery,
        answer=CallPage,
    ),
    Route(
        method="GET",
        path="/account/v1/logs/export",
        permit=Permit.LOOK,
        work=send_export,
        summary="All calls of a filter, streamed as CSV or NDJSON",
        query=ExportQuery,
        raw=("text/csv", "application/x-ndjson"),
    ),
    Route(
        method="GET",
        path="/account/v1/logs/{id}",
        permit=Permit.LOOK,
        work=_show,
        summary="One call: its cost as a sum, and the channels asked",
        answer=CallDetail,
    ),
    Route(
        method="GET",
        path="/account/v1/usage",
        permit=Permit.LOOK,
        work=_usage,
        summary="Requests, tokens, errors, cost and times over time",
        query=UsageQuery,
        answer=UsageAnswer,
    ),
)
