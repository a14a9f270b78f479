"""`relay user`: who may sign in to the console; invited, listed, switched off, given a link."""

from typing import Any, Final, cast

import click
import msgspec

from relay.cli.output import json_option, print_json, print_rows
from relay.cli.root import location_options
from relay.cli.session import Session, with_database
from relay.console.rows import Role, UserRow
from relay.console.signin import audit, links, users
from relay.console.signin.actor import command_actor
from relay.console.signin.links import Kind
from relay.console.signin.users import User
from relay.errors import NotFound
from relay.store.billing.recharges import find_account

COLUMNS: Final = ("id", "email", "role", "account", "state", "totp", "last_seen_at")


@click.group()
def user() -> None:
    """Invite, list, reset, disable and enable the console's users."""


@user.command()
@location_options
@click.option("--account", help="Whose user.")
@click.option("--email", required=True)
@click.option("--role", type=click.Choice(["owner", "member", "viewer"]), default="member")
@click.option("--operator", is_flag=True, help="Of the operator's side, without an account.")
@json_option
@click.pass_context
def invite(
    ctx: click.Context,
    account: str | None,
    email: str,
    role: str,
    *,
    operator: bool,
    as_json: bool,
) -> None:
    """Make a link by which somebody chooses a password; good once, for a week."""
    if operator == (account is not None):
        raise click.UsageError("give --account A, or --operator")
    wanted = cast(Role, "operator" if operator else role)

    async def work(on: Session) -> str:
        async with on.connection.transaction():
            account_id = await find_account(on.connection, account) if account else None
            user_id = await users.add_user(on.connection, email, wanted, account_id)
            path = await links.make_link(on.connection, on.load_pepper(), user_id, "invite")
            await audit.note(
                on.connection, command_actor(), "user.invite", email, wanted, account_id=account_id
            )
        return _address(on, operator=operator) + path

    _tell(with_database(ctx, work), as_json=as_json)


@user.command("list")
@location_options
@click.option("--account", help="Only this account's.")
@json_option
@click.pass_context
def list_command(ctx: click.Context, account: str | None, *, as_json: bool) -> None:
    """Show who may sign in."""

    async def work(on: Session) -> list[UserRow]:
        account_id = await find_account(on.connection, account) if account else None
        return await users.list_users(on.connection, account_id=account_id)

    rows: list[dict[str, Any]] = [msgspec.structs.asdict(row) for row in with_database(ctx, work)]
    print_rows(rows, COLUMNS, as_json=as_json)


@user.command()
@location_options
@click.argument("email")
@click.option("--operator", is_flag=True, help="The operator of that address.")
@json_option
@click.pass_context
def reset(ctx: click.Context, email: str, *, operator: bool, as_json: bool) -> None:
    """Make a link by which a user chooses another password; it ends their second factor too."""
    _tell(_link(ctx, email, "reset", operator=operator), as_json=as_json)


@user.command()
@location_options
@click.argument("email")
@click.option("--operator", is_flag=True, help="The operator of that address.")
@json_option
@click.pass_context
def link(ctx: click.Context, email: str, *, operator: bool, as_json: bool) -> None:
    """Make a link that signs a user in; good once, for an hour."""
    _tell(_link(ctx, email, "login", operator=operator), as_json=as_json)


@user.command()
@location_options
@click.argument("email")
@click.option("--operator", is_flag=True, help="The operator of that address.")
@click.pass_context
def disable(ctx: click.Context, email: str, *, operator: bool) -> None:
    """Sign a user out everywhere, for good."""
    _switch(ctx, email, operator=operator, disabled=True)


@user.command()
@location_options
@click.argument("email")
@click.option("--operator", is_flag=True, help="The operator of that address.")
@click.pass_context
def enable(ctx: click.Context, email: str, *, operator: bool) -> None:
    """Let a disabled user sign in again."""
    _switch(ctx, email, operator=operator, disabled=False)


def _link(ctx: click.Context, email: str, kind: Kind, *, operator: bool) -> str:
    async def work(on: Session) -> str:
        async with on.connection.transaction():
            found = await _find(on, email, operator=operator)
            path = await links.make_link(on.connection, on.load_pepper(), found.id, kind)
            await audit.note(
                on.connection,
                command_actor(),
                f"user.{kind}_link",
                found.email,
                account_id=found.account_id,
            )
        return _address(on, operator=operator) + path

    return with_database(ctx, work)


def _switch(ctx: click.Context, email: str, *, operator: bool, disabled: bool) -> None:
    async def work(on: Session) -> None:
        async with on.connection.transaction():
            found = await _find(on, email, operator=operator)
            await users.set_disabled(on.connection, found, disabled=disabled)
            act = "user.disable" if disabled else "user.enable"
            await audit.note(
                on.connection, command_actor(), act, found.email, account_id=found.account_id
            )

    with_database(ctx, work)
    click.echo(f"user {email} is {'disabled' if disabled else 'enabled'}", err=True)


async def _find(on: Session, email: str, *, operator: bool) -> User:
    side: users.Side = "operator" if operator else "account"
    found = await users.find_user(on.connection, users.canonical_email(email), side)
    if found is None:
        raise NotFound(f"there is no user {email!r}")
    return found


def _address(on: Session, *, operator: bool) -> str:
    server = on.config.server
    if operator:
        return f"http://{server.admin}"
    return on.config.console.url.rstrip("/") or f"http://{server.console}"


def _tell(url: str, *, as_json: bool) -> None:
    if as_json:
        print_json({"url": url})
    else:
        click.echo(url)
