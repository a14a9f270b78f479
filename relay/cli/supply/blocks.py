"""`relay block`: who is refused at the door, who is let in whatever, and what a code means."""

import datetime
from ipaddress import ip_network
from typing import Any, Final

import click

from relay.cli.customers.keys import parse_expiry
from relay.cli.output import json_option, print_fields, print_rows
from relay.cli.root import location_options
from relay.cli.session import Session, with_database
from relay.console.signin.actor import command_actor
from relay.errors import BadRequest
from relay.limits.addresses import Rule, address_key, read_code
from relay.store.catalog.blocks import (
    add_block,
    find_block,
    find_covering,
    list_blocks,
    remove_block,
)
from relay.wire.client_ip import network_of

COLUMNS: Final = ("code", "does", "network", "path", "reason", "actor", "created_at", "expires_at")
MEANINGS: Final = {
    Rule.WRONG_KEYS: "it tried too many wrong API keys (door.wrong_keys_max, wrong_keys_refused); "
    "it is let in again door.refused_s after the last one",
    Rule.REQUESTS: "it made too many requests a minute (door.rpm); waiting helps",
    Rule.CONNECTIONS: "it had too many connections (door.connections_max, and 64 while it is "
    "refused); closing some helps",
}


@click.group()
def block() -> None:
    """Block or allow networks and paths, and explain the codes of refusals."""


@block.command()
@location_options
@click.option("--network", metavar="CIDR", help="Whom: an address or a network; default: anybody.")
@click.option("--path", default="", metavar="/v1/...", help="What: how paths begin; default: all.")
@click.option("--reason", required=True, help="Why; shown to whoever looks the code up.")
@click.option("--expires", metavar="7d|ISO", help="Until when; default: until it is removed.")
@click.option("--allow", is_flag=True, help="Let in instead, whatever a block or a rule says.")
@json_option
@click.pass_context
def add(
    ctx: click.Context, /, network: str | None, path: str, expires: str | None, **fields: Any
) -> None:
    """Refuse a network, a path, or both; every worker does within a second.

    Requests get 403 with the code that is printed here; answers that run go on.
    """
    as_json = fields.pop("as_json")
    try:
        network = None if network is None else str(network_of(network, strict=False))
        until = parse_expiry(expires, datetime.datetime.now(datetime.UTC)) if expires else None
    except ValueError as error:
        raise click.UsageError(str(error)) from error

    async def work(on: Session) -> dict[str, Any]:
        return await add_block(
            on.connection,
            network=network,
            path=path,
            expires_at=until,
            actor=command_actor().label,
            **fields,
        )

    print_fields(with_database(ctx, work), as_json=as_json)


@block.command("list")
@location_options
@json_option
@click.pass_context
def list_command(ctx: click.Context, *, as_json: bool) -> None:
    """Show what is in force."""
    print_rows(with_database(ctx, lambda on: list_blocks(on.connection)), COLUMNS, as_json=as_json)


@block.command()
@location_options
@click.argument("code")
@click.pass_context
def remove(ctx: click.Context, code: str) -> None:
    """End an entry by its code (B-7); every worker knows within a second."""
    rule, found = _read(code)
    if rule is not Rule.BLOCKED:
        raise BadRequest(
            f"{code} is no entry: {MEANINGS[rule]}. To let {found} in at once: "
            f"relay block add --allow --network {found} --reason ... --expires 1d"
        )
    assert isinstance(found, int)
    with_database(ctx, lambda on: remove_block(on.connection, found, command_actor().label))
    click.echo(f"{code} is removed", err=True)


@block.command()
@location_options
@click.argument("code")
@json_option
@click.pass_context
def explain(ctx: click.Context, code: str, *, as_json: bool) -> None:
    """Say what a code means that a client was told, or what is in force for an address."""
    print_fields(with_database(ctx, lambda on: _explain(on, code)), as_json=as_json)


async def _explain(on: Session, code: str) -> dict[str, Any]:
    try:
        rule, found = read_code(code)
    except ValueError:
        return await _explain_address(on, code)
    if rule is Rule.BLOCKED:
        assert isinstance(found, int)
        row = await find_block(on.connection, found)
        now = datetime.datetime.now(datetime.UTC)
        expired = row["expires_at"] is not None and row["expires_at"] <= now
        state = "removed" if row["removed_at"] else "expired" if expired else "in force"
        return {"code": row["code"], "state": state, **row}
    covering = await find_covering(on.connection, str(found))
    return {
        "code": code,
        "address": str(found),
        "meaning": MEANINGS[rule],
        "entries": [row["code"] for row in covering] or None,
    }


async def _explain_address(on: Session, text: str) -> dict[str, Any]:
    try:
        network = str(ip_network(address_key(text), strict=False))
    except ValueError:
        raise BadRequest(
            f"{text[:40]!r} is neither a code (B-7, W-MFRGGZA) nor an address"
        ) from None
    covering = await find_covering(on.connection, network)
    return {
        "address": network,
        "meaning": "nothing in force names it" if not covering else "these entries name it",
        "entries": [f"{row['code']} ({row['does']}): {row['reason']}" for row in covering] or None,
    }


def _read(code: str) -> tuple[Rule, Any]:
    try:
        return read_code(code)
    except ValueError as error:
        raise BadRequest(str(error)) from None
