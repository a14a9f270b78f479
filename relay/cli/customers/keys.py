"""`relay key`: made, listed, switched off and on, deleted."""

import datetime
import re
from collections.abc import Callable
from typing import Any, Final, TypeVar

import asyncpg
import click

from relay.billing.budget import canonical_budgets
from relay.cli.numbers import WholeNumber
from relay.cli.output import json_option, print_json, print_rows
from relay.cli.root import location_options
from relay.cli.session import Session, with_database
from relay.console.rows import FreshKey
from relay.console.signin import audit, management
from relay.console.signin.actor import command_actor
from relay.model import Allowance
from relay.store.billing.recharges import find_account
from relay.store.catalog.canonical import canonical_networks, canonical_usd
from relay.store.catalog.keys import (
    KeyTerms,
    create_key,
    delete_key,
    find_key,
    list_keys,
    set_disabled,
    set_key_budgets,
    set_limits,
)
from relay.store.log.addresses import Row, list_addresses
from relay.units import format_usd, parse_usd

_Command = TypeVar("_Command", bound=Callable[..., Any])

KEY_COLUMNS: Final = (
    "id",
    "account",
    "name",
    "last4",
    "disabled",
    "expires_at",
    "models",
    "networks",
    "lines",
    "quota_usd",
    "budgets",
    "spent_usd",
    "tpm",
    "rpm",
    "concurrency",
    "last_used_at",
)

_LIMITS: Final = (
    ("tpm", 2**53, "Tokens a minute."),
    ("rpm", 2**53, "Calls a minute."),
    ("concurrency", 2**31 - 1, "Calls at once."),
)
"""A key's own limits, beside those of its account and line; 0 = none."""

_SPAN: Final = re.compile(r"([1-9][0-9]{0,5})([smhdw])")
_SPAN_UNITS: Final = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def parse_expiry(text: str, now: datetime.datetime) -> datetime.datetime:
    """Return the moment that "30d" after `now`, or an ISO 8601 date or time, stands for.

    Raises:
        ValueError: Neither of these, or not in the future.
    """
    span = _SPAN.fullmatch(text)
    if span:
        return now + datetime.timedelta(**{_SPAN_UNITS[span[2]]: int(span[1])})
    try:
        moment = datetime.datetime.fromisoformat(text)
    except ValueError:
        raise ValueError("expected a span such as 30d or 12h, or an ISO 8601 time") from None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=datetime.UTC)
    if moment <= now:
        raise ValueError("that is in the past")
    return moment.astimezone(datetime.UTC)


def _expiry(
    _ctx: click.Context, _parameter: click.Parameter, text: str | None
) -> datetime.datetime | None:
    if text is None:
        return None
    try:
        return parse_expiry(text, datetime.datetime.now(datetime.UTC))
    except ValueError as error:
        raise click.BadParameter(str(error)) from error


def _models(_ctx: click.Context, _parameter: click.Parameter, text: str | None) -> list[str] | None:
    if text is None:
        return None
    models = sorted({name.strip() for name in text.split(",")} - {""})
    if not models:
        raise click.BadParameter("names no model")
    return models


def _networks(
    _ctx: click.Context, _parameter: click.Parameter, texts: tuple[str, ...]
) -> list[str] | None:
    try:
        return canonical_networks("allow-ip", texts) or None
    except ValueError as error:
        raise click.BadParameter(str(error)) from error


def _lines(
    _ctx: click.Context, _parameter: click.Parameter, names: tuple[str, ...]
) -> list[str] | None:
    return list(dict.fromkeys(names)) or None


def _quota(_ctx: click.Context, _parameter: click.Parameter, text: str | None) -> int | None:
    if text is None:
        return None
    try:
        return parse_usd(canonical_usd("quota", text))
    except ValueError as error:
        raise click.BadParameter(str(error)) from error


def read_budget_options(
    _ctx: click.Context, _parameter: click.Parameter, texts: tuple[str, ...]
) -> list[str] | None:
    """Return budgets in canonical form; None: none was given; []: there shall be none."""
    if not texts:
        return None
    if texts == ("none",):
        return []
    try:
        return canonical_budgets(texts)
    except ValueError as error:
        raise click.BadParameter(str(error)) from error


BUDGET_METAVAR: Final = "'50 usd/month@ZONE'"


def _limit_options(default: int | None) -> Callable[[_Command], _Command]:
    """Add the options that say what a key's own limits are; 0 = none."""

    def add(command: _Command) -> _Command:
        for name, most, what in reversed(_LIMITS):
            command = click.option(
                f"--{name}", type=WholeNumber(0, most), default=default, metavar="N", help=what
            )(command)
        return command

    return add


@click.group()
def key() -> None:
    """Create, list, limit, disable, enable and delete API keys."""


@key.command()
@location_options
@click.option("--account", required=True, help="Who pays.")
@click.option("--name", default="", help="What the log calls it; default: by its last characters.")
@click.option(
    "--expires", "expires_at", callback=_expiry, metavar="30d|ISO", help="When it stops working."
)
@click.option("--models", callback=_models, metavar="A,B", help="The only models it may use.")
@click.option(
    "--allow-ip",
    "networks",
    multiple=True,
    callback=_networks,
    metavar="CIDR",
    help="A network it may be used from; repeatable. Default: any.",
)
@click.option(
    "--line",
    "lines",
    multiple=True,
    callback=_lines,
    metavar="NAME",
    help="A line it may use, the default first; repeatable. Default: all of its account.",
)
@click.option(
    "--quota", "quota_nanos", callback=_quota, metavar="USD", help="What it may spend in all."
)
@click.option(
    "--budget",
    "budgets",
    multiple=True,
    callback=read_budget_options,
    metavar=BUDGET_METAVAR,
    help="What it may use (usd, tokens or requests) in a day, week or month; repeatable.",
)
@_limit_options(default=0)
@click.option("--manage", is_flag=True, help="A key for the account's own API; it calls no model.")
@json_option
@click.pass_context
def create(
    ctx: click.Context, /, account: str, name: str, *, manage: bool, as_json: bool, **terms: Any
) -> None:
    """Make a key. It is shown once, now; only its digest is stored."""
    terms["budgets"] = terms["budgets"] or []
    if manage:
        _create_management(ctx, account, name, KeyTerms(**terms), as_json=as_json)
        return
    made = with_database(
        ctx,
        lambda on: create_key(on.connection, on.load_pepper(), account, name, KeyTerms(**terms)),
    )
    if as_json:
        print_json({"id": made.id, "key": made.key.reveal()})
        return
    click.echo(f"key {made.id} ({account}/{made.name}); it is shown this once:", err=True)
    click.echo(made.key.reveal())


def _create_management(
    ctx: click.Context, account: str, name: str, terms: KeyTerms, *, as_json: bool
) -> None:
    if terms != KeyTerms(expires_at=terms.expires_at):
        raise click.UsageError("a management key calls no model: only --expires means something")

    async def work(on: Session) -> FreshKey:
        account_id = await find_account(on.connection, account)
        pepper = on.load_pepper()
        made = await management.make_key(on.connection, pepper, account_id, name, terms.expires_at)
        actor = command_actor()
        target = f"{made.id} ({made.name})"
        await audit.note(
            on.connection, actor, "management_key.create", target, account_id=account_id
        )
        return made

    made = with_database(ctx, work)
    if as_json:
        print_json({"id": made.id, "key": made.key})
        return
    click.echo(f"management key {made.id} ({account}/{made.name}); shown this once:", err=True)
    click.echo(made.key)


@key.command("list")
@location_options
@click.option("--account", help="Only this account's.")
@json_option
@click.pass_context
def list_command(ctx: click.Context, account: str | None, *, as_json: bool) -> None:
    """Show keys (never the keys themselves)."""
    rows = with_database(ctx, lambda on: list_keys(on.connection, account))
    print_rows([key_row(row) for row in rows], KEY_COLUMNS, as_json=as_json)


@key.command()
@location_options
@click.argument("key")
@click.option(
    "--budget",
    "budgets",
    multiple=True,
    callback=read_budget_options,
    metavar=f"{BUDGET_METAVAR}|none",
    help="All that it may use in a day, week or month from now on; repeatable.",
)
@_limit_options(default=None)
@json_option
@click.pass_context
def limit(
    ctx: click.Context,
    /,
    key: str,
    *,
    budgets: list[str] | None,
    as_json: bool,
    **limits: int | None,
) -> None:
    """Change what a key (by id, name or last four) may use a minute and at once; 0 = no limit.

    What is not given stays. Every worker knows within a second; buckets go on as they are. A new
    budget begins with what the log holds of its day, week or month.
    """

    async def work(on: Session) -> tuple[asyncpg.Record, Allowance]:
        row = await find_key(on.connection, key)
        if budgets is not None:
            await set_key_budgets(on.connection, row["id"], budgets)
        return row, await set_limits(on.connection, row["id"], **limits)

    row, now = with_database(ctx, work)
    shown: dict[str, Any] = {field: getattr(now, field) for field, _, _ in _LIMITS}
    left = list(row["budgets"]) if budgets is None else budgets
    if as_json:
        print_json({"id": row["id"], **shown, "budgets": left})
        return
    said = ", ".join(f"{field} {number or 'unlimited'}" for field, number in shown.items())
    said += f", budgets {' and '.join(left) or 'none'}"
    click.echo(f"key {_shown(row)}: {said}", err=True)


@key.command()
@location_options
@click.argument("key")
@click.pass_context
def disable(ctx: click.Context, key: str) -> None:
    """Refuse a key (by id, name or last four) everywhere within a second."""
    row = with_database(ctx, lambda on: _switch(on, key, disabled=True))
    click.echo(f"key {_shown(row)} is disabled", err=True)


@key.command()
@location_options
@click.argument("key")
@click.pass_context
def enable(ctx: click.Context, key: str) -> None:
    """Take a disabled key (by id, name or last four) again."""
    row = with_database(ctx, lambda on: _switch(on, key, disabled=False))
    click.echo(f"key {_shown(row)} is enabled", err=True)


ADDRESS_COLUMNS: Final = ("address", "first_seen", "last_seen", "requests")
ADDRESSES_SHOWN: Final = 1_000


@key.command()
@location_options
@json_option
@click.argument("key")
@click.pass_context
def addresses(ctx: click.Context, key: str, *, as_json: bool) -> None:
    """Show where a key (by id, name or last four) was used from, the newest place first."""

    async def work(on: Session) -> list[Row]:
        found = await find_key(on.connection, key)
        return await list_addresses(on.connection, found["id"], ADDRESSES_SHOWN)

    print_rows(with_database(ctx, work), ADDRESS_COLUMNS, as_json=as_json)


@key.command()
@location_options
@click.argument("key")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.pass_context
def delete(ctx: click.Context, key: str, *, yes: bool) -> None:
    """Delete a key (by id, name or last four) for good; the log keeps its name."""
    row = with_database(ctx, lambda on: find_key(on.connection, key))
    if not yes:
        click.confirm(f"delete key {_shown(row)} for good?", abort=True, err=True)
    with_database(ctx, lambda on: delete_key(on.connection, row["id"]))
    click.echo(f"key {_shown(row)} is deleted", err=True)


def key_row(row: asyncpg.Record) -> dict[str, Any]:
    """Return what may be shown of a key."""
    quota = row["quota_nanos"]
    return {
        "id": row["id"],
        "account": row["account"],
        "name": row["name"],
        "prefix": row["prefix"],
        "last4": row["last4"],
        "disabled": row["disabled"],
        "created_at": row["created_at"],
        "expires_at": row["expires_at"],
        "models": row["models"],
        "networks": None if row["networks"] is None else [str(ip) for ip in row["networks"]],
        "lines": list(row["lines"]) or None,
        "quota_usd": None if quota is None else format_usd(quota),
        "budgets": list(row["budgets"]) or None,
        "spent_usd": format_usd(row["spent_nanos"]),
        **{field: row[field] for field, _, _ in _LIMITS},
        "last_used_at": row["last_used_at"],
    }


async def _switch(on: Session, wanted: str, *, disabled: bool) -> asyncpg.Record:
    row = await find_key(on.connection, wanted)
    await set_disabled(on.connection, row["id"], disabled=disabled)
    return row


def _shown(row: asyncpg.Record) -> str:
    return f"{row['id']} ({row['account']}/{row['name']})"
