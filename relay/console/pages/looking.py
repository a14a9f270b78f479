"""What an account looks at: the overview, the log, one call, usage."""

import datetime
import shlex
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import urlencode

import msgspec

from relay.console.queries import keys, overview, usage
from relay.console.queries.calls import read_page
from relay.console.queries.detail import read_detail
from relay.console.queries.forms import (
    LogCursor,
    LogPageQuery,
    LogQuery,
    decode_cursor,
    to_filter,
)
from relay.console.queries.usage import DEFAULT_DAYS, UsageQuery
from relay.console.routes import Ask, Page, Shown
from relay.console.rows import CallDetail
from relay.console.signin.actor import Permit
from relay.console.views import (
    LogDetailView,
    LogFilter,
    LogsView,
    OverviewView,
    UsageView,
)
from relay.errors import BadRequest

ROWS: Final = 50


def as_curl(ask: Ask, path: str, query: Mapping[str, str] | None = None) -> str:
    """Return the call of the API that gives what a page shows."""
    address = f"{ask.request.scheme}://{ask.request.host}{path}"
    if query:
        address += "?" + urlencode(query)
    return f"curl -H 'Authorization: Bearer KEY' {shlex.quote(address)}"


def read_query(ask: Ask, kind: type[Any], *, more: tuple[str, ...] = ()) -> Any:
    """Return the query string as a filter; what a page does not know is left out, empty is nothing.

    Raises:
        BadRequest: CLIENT; a value that cannot be one.
    """
    known = {field.name for field in msgspec.structs.fields(kind)}
    given = {
        name: value.strip()
        for name, value in ask.request.query.items()
        if name in known and name not in more and value.strip()
    }
    try:
        return msgspec.convert(given, kind, strict=False)
    except msgspec.ValidationError as error:
        raise BadRequest(str(error)) from None


def kept(ask: Ask, **changed: str) -> dict[str, str]:
    """Return the query of this page with some of it changed; "" takes a part out."""
    query = {**ask.request.query, **changed}
    return {name: value for name, value in query.items() if value}


def to_fields(ask: Ask) -> LogFilter:
    """Return the filter as its form shows it."""
    names = LogFilter.__struct_fields__
    return LogFilter(**{name: ask.request.query.get(name, "")[:256] for name in names})


async def _show_overview(ask: Ask) -> Shown:
    now = ask.services.now()
    async with ask.services.connect() as connection:
        view: OverviewView = await overview.read_overview(
            connection, ask.actor.own, ask.actor.account, now
        )
    return Shown(view, as_curl(ask, "/account/v1/usage", {"by": "minute", "since": "6h"}))


async def _show_logs(ask: Ask) -> Shown:
    query: LogPageQuery = read_query(ask, LogPageQuery, more=("limit",))
    wanted = to_filter(query, ask.actor.own, ask.services.now())
    before = decode_cursor(query.cursor, LogCursor)
    async with ask.services.connect() as connection:
        page = await read_page(connection, wanted, ROWS, before)
        totals = (await usage.sum_up(connection, wanted)).whole if wanted.is_summed else None
        choices = await overview.list_choices(connection, ask.actor.own)
    filters = kept(ask, cursor="", limit="")
    following = None if page.next is None else "/logs?" + urlencode(kept(ask, cursor=page.next))
    view = LogsView(
        filter=to_fields(ask),
        choices=choices,
        totals=totals,
        logs=page.logs,
        next_url=following,
        export_url="/account/v1/logs/export?" + urlencode(filters),
        tail_url="/account/v1/logs?" + urlencode(filters),
    )
    return Shown(view, as_curl(ask, "/account/v1/logs", filters))


async def _show_call(ask: Ask) -> Shown:
    async with ask.services.connect() as connection:
        detail = await read_detail(connection, ask.part("id"), ask.actor.own)
    view = LogDetailView(detail=detail, curl=call_again(ask, detail))
    return Shown(view, as_curl(ask, f"/account/v1/logs/{detail.call.request_id}"))


def call_again(ask: Ask, detail: CallDetail) -> str:
    """Return the call as curl; its body was never kept."""
    address = f"{ask.services.calls_url}/{detail.call.endpoint}"
    return (
        f"curl {shlex.quote(address)} -H 'Authorization: Bearer KEY' "
        "-H 'Content-Type: application/json' -d @body.json"
    )


async def _show_usage(ask: Ask) -> Shown:
    query: UsageQuery = read_query(ask, UsageQuery)
    now = ask.services.now()
    days = DEFAULT_DAYS[query.by]
    plain = LogQuery(
        **{name: getattr(query, name) for name in ("since", "until", "key", "model", "line")},
        status=query.status,
        code=query.code,
    )
    wanted = to_filter(plain, ask.actor.own, now, days=days)
    until = min(wanted.until, now)
    length = max(until - wanted.since, datetime.timedelta(minutes=1))
    earlier = msgspec.structs.replace(wanted, since=wanted.since - length, until=wanted.since)
    async with ask.services.connect() as connection:
        rows = await usage.list_usage(connection, wanted, query.by, query.group)
        totals = await usage.sum_up(connection, wanted, query.group)
        before = await usage.sum_up(connection, earlier)
        tpm, rpm = await overview.read_limits(connection, ask.actor.own)
        view = UsageView(
            by=query.by,
            group=query.group,
            filter=to_fields(ask),
            choices=await overview.list_choices(connection, ask.actor.own),
            usage=rows,
            totals=totals.whole,
            before=before.whole,
            groups=totals.groups,
            rpm_limit=rpm,
            tpm_limit=tpm,
            addresses=await keys.list_places(connection, ask.actor.own, wanted.since),
        )
    return Shown(view, as_curl(ask, "/account/v1/usage", kept(ask)))


PAGES: Final = (
    Page(method="GET", path="/", permit=Permit.LOOK, work=_show_overview),
    Page(method="GET", path="/logs", permit=Permit.LOOK, work=_show_logs),
    Page(method="GET", path="/logs/{id}", permit=Permit.LOOK, work=_show_call),
    Page(method="GET", path="/usage", permit=Permit.LOOK, work=_show_usage),
)
