"""`relay logs` and `relay usage`: what the request log says."""

import datetime
import re
from collections.abc import Callable
from typing import Any, Final, TypeVar

import click

from relay.cli.numbers import WholeNumber
from relay.cli.output import json_option, print_csv, print_fields, print_line, print_rows
from relay.cli.root import location_options
from relay.cli.session import Session, with_database
from relay.store.log.margins import list_margins
from relay.store.log.reports import (
    USAGE_PARTS,
    USAGE_UNITS,
    CallFilter,
    ReportScope,
    Row,
    list_calls,
    list_usage,
    share_usage,
    show_call,
)

CALLS_SHOWN: Final = 50
ROWS_MAX: Final = 1_000_000
LOGS_SINCE: Final = datetime.timedelta(days=1)
USAGE_SINCE: Final = {
    "minute": datetime.timedelta(hours=1),
    "hour": datetime.timedelta(days=1),
    "day": datetime.timedelta(days=30),
}
"""How far back without --since: a look at a log of millions must not read all of it."""

CALL_COLUMNS: Final = (
    *("time", "request_id", "account", "key_name", "ip", "line", "channel", "model", "stream"),
    *("status", "reason", "input_tokens", "output_tokens", "cost_usd", "ttft_ms", "total_ms"),
)
TRY_COLUMNS: Final = ("channel", "outcome", "status", "asked_ms", "took_ms")
USAGE_COLUMNS: Final = (
    *("time", "requests", "errors", "limited", "input_tokens", "cached_tokens", "cached_share"),
    *("output_tokens", "cost_usd"),
)
SHARE_COLUMNS: Final = (
    *("requests", "input_tokens", "cached_tokens", "cached_share", "output_tokens", "cost_usd"),
)
MARGIN_COLUMNS: Final = (
    *("line", "model", "channel", "requests", "tokens", "earned_usd", "upstream_usd"),
    *("margin_usd", "margin_percent"),
)

_SPAN: Final = re.compile(r"([1-9][0-9]{0,5})([smhdw])")
_SPAN_UNITS: Final = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_MONTH: Final = re.compile(r"(2[0-9]{3})-(0[1-9]|1[0-2])")
_STATUS: Final = re.compile(r"([1-5])(xx|[0-9]{2})")

_Command = TypeVar("_Command", bound=Callable[..., Any])


def parse_moment(text: str, now: datetime.datetime) -> datetime.datetime:
    """Return the moment that "2h" before `now`, or an ISO 8601 time, stands for; UTC by default.

    Raises:
        ValueError: Neither of these.
    """
    span = _SPAN.fullmatch(text)
    if span:
        return now - datetime.timedelta(**{_SPAN_UNITS[span[2]]: int(span[1])})
    try:
        moment = datetime.datetime.fromisoformat(text)
    except ValueError:
        raise ValueError("expected a span such as 15m or 7d, or an ISO 8601 time") from None
    return moment if moment.tzinfo else moment.replace(tzinfo=datetime.UTC)


def parse_status(text: str) -> tuple[int, int]:
    """Return the first and last status that "429" or "5xx" stands for.

    Raises:
        ValueError: Neither of these.
    """
    status = _STATUS.fullmatch(text)
    if not status:
        raise ValueError("expected a status such as 429, or a class such as 5xx")
    first = int(status[1]) * 100
    return (first, first + 99) if status[2] == "xx" else (int(text), int(text))


def parse_month(text: str) -> tuple[datetime.datetime, datetime.datetime]:
    """Return the first moment of a month such as "2026-11", and of the one after it; UTC.

    Raises:
        ValueError: No month.
    """
    found = _MONTH.fullmatch(text)
    if not found:
        raise ValueError("expected a month such as 2026-11")
    since = datetime.datetime(int(found[1]), int(found[2]), 1, tzinfo=datetime.UTC)
    return since, (since + datetime.timedelta(days=31)).replace(day=1)


def _month(
    _ctx: click.Context, _parameter: click.Parameter, text: str | None
) -> tuple[datetime.datetime, datetime.datetime] | None:
    try:
        return None if text is None else parse_month(text)
    except ValueError as error:
        raise click.BadParameter(str(error)) from error


def _moment(
    _ctx: click.Context, _parameter: click.Parameter, text: str | None
) -> datetime.datetime | None:
    try:
        return None if text is None else parse_moment(text, datetime.datetime.now(datetime.UTC))
    except (ValueError, OverflowError) as error:
        raise click.BadParameter(str(error)) from error


def _status(
    _ctx: click.Context, _parameter: click.Parameter, text: str | None
) -> tuple[int, int] | None:
    try:
        return None if text is None else parse_status(text)
    except ValueError as error:
        raise click.BadParameter(str(error)) from error


def scope_options(command: _Command) -> _Command:
    """Add the options that say whose calls, and from when to when."""
    options = (
        click.option("--account", metavar="NAME", help="Only this account's."),
        click.option("--key", metavar="KEY", help="Only this key's: id, name or last four."),
        click.option("--model", metavar="NAME", help="Only for this model, as clients name it."),
        click.option("--line", metavar="NAME", help="Only over this line."),
        click.option("--since", callback=_moment, metavar="15m|ISO", help="From then on."),
        click.option("--until", callback=_moment, metavar="15m|ISO", help="Up to then."),
    )
    for option in reversed(options):
        command = option(command)
    return command


@click.group(invoke_without_command=True)
@location_options
@scope_options
@click.option("--channel", metavar="NAME", help="Only over this channel.")
@click.option("--status", callback=_status, metavar="429|5xx", help="Only with this status.")
@click.option("--reason", metavar="REASON", help="Only those that ended so: truncated, ...")
@click.option("--ip", metavar="IP|CIDR", help="Only from there.")
@click.option(
    "--limit",
    type=WholeNumber(1, ROWS_MAX),
    default=CALLS_SHOWN,
    show_default=True,
    help="At most so many.",
)
@json_option
@click.pass_context
def logs(ctx: click.Context, /, *, limit: int, as_json: bool, **wanted: Any) -> None:
    """Show calls, newest first; without --since those of the last day."""
    if ctx.invoked_subcommand is not None:
        return
    if wanted["since"] is None:
        wanted["since"] = _default_since(wanted["until"], LOGS_SINCE)
    call_filter = CallFilter(**wanted)
    if as_json:
        with_database(ctx, lambda on: _print_lines(on, call_filter, limit))
        return
    rows = with_database(ctx, lambda on: _collect(on, call_filter, limit))
    if rows:
        print_rows(rows, CALL_COLUMNS, as_json=False)
    else:
        click.echo(f"no such calls since {wanted['since']:%Y-%m-%d %H:%M} UTC", err=True)


@logs.command()
@location_options
@click.argument("request_id")
@json_option
@click.pass_context
def show(ctx: click.Context, request_id: str, *, as_json: bool) -> None:
    """Show one call, the sum that made its cost, and each channel that was asked."""
    row = with_database(ctx, lambda on: show_call(on.connection, request_id))
    if as_json:
        print_line(row)
        return
    tries = row.pop("tries")
    print_fields(row, as_json=False)
    if tries:
        click.echo()
        print_rows(tries, TRY_COLUMNS, as_json=False)


@click.command()
@location_options
@scope_options
@click.option(
    "--by",
    "unit",
    type=click.Choice((*USAGE_UNITS, *USAGE_PARTS)),
    default="minute",
    show_default=True,
    help="Length of a row, or what the whole is shared out by.",
)
@click.option(
    "--margin",
    is_flag=True,
    help="Instead: earnings against providers' prices, by line, model and channel, a day back.",
)
@click.option(
    "--month", callback=_month, metavar="2026-11", help="Of this month (UTC): a bill, with --by."
)
@click.option("--csv", "as_csv", is_flag=True, help="Print CSV.")
@json_option
@click.pass_context
def usage(
    ctx: click.Context,
    /,
    *,
    unit: str,
    margin: bool,
    month: tuple[datetime.datetime, datetime.datetime] | None,
    as_csv: bool,
    as_json: bool,
    **scope: Any,
) -> None:
    """Show requests, tokens, errors and cost over time (UTC), oldest first.

    cached_share: how much of the input came from a provider's prompt cache.
    """
    if month is not None:
        if scope["since"] or scope["until"]:
            raise click.UsageError("give --month, or --since and --until")
        scope["since"], scope["until"] = month
    if as_csv and (as_json or margin):
        raise click.UsageError("--csv goes with neither --json nor --margin")
    if scope["since"] is None:
        span = USAGE_SINCE.get("hour" if margin else unit, USAGE_SINCE["hour"])
        scope["since"] = _default_since(scope["until"], span)
    if margin:
        _print_margins(ctx, scope, as_json=as_json)
        return
    read = share_usage if unit in USAGE_PARTS else list_usage
    rows = with_database(ctx, lambda on: read(on.connection, ReportScope(**scope), unit))
    columns = (unit, *SHARE_COLUMNS) if unit in USAGE_PARTS else USAGE_COLUMNS
    if as_json:
        for row in rows:
            print_line(row)
    elif as_csv:
        print_csv(rows, columns)
    elif rows:
        print_rows(rows, columns, as_json=False)
    else:
        click.echo(f"no usage since {scope['since']:%Y-%m-%d %H:%M} UTC", err=True)


def _print_margins(ctx: click.Context, scope: dict[str, Any], *, as_json: bool) -> None:
    if scope["account"] or scope["key"]:
        raise click.UsageError("--margin is told by line and model, not by account or key")
    until = scope["until"] or datetime.datetime.now(datetime.UTC)
    margins = with_database(
        ctx,
        lambda on: list_margins(
            on.connection, scope["since"], until, model=scope["model"], line=scope["line"]
        ),
    )
    print_rows([one.row() for one in margins], MARGIN_COLUMNS, as_json=as_json)


def _default_since(until: datetime.datetime | None, span: datetime.timedelta) -> datetime.datetime:
    return (until or datetime.datetime.now(datetime.UTC)) - span


async def _collect(on: Session, wanted: CallFilter, limit: int) -> list[Row]:
    return [row async for row in list_calls(on.connection, wanted, limit)]


async def _print_lines(on: Session, wanted: CallFilter, limit: int) -> None:
    """Print page by page: a million rows need not fit into memory."""
    async for row in list_calls(on.connection, wanted, limit):
        print_line(row)
