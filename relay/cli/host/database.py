"""`relay db`: the schema, and a role that may serve but not rewrite the books."""

import asyncpg
import click

from relay.cli.root import location_options
from relay.cli.session import Session, with_database
from relay.errors import ConfigError
from relay.store.migrate import migrate


@click.group()
def db() -> None:
    """Migrate the database, grant rights; as its owner."""


@db.command("migrate")
@location_options
@click.option(
    "--contract", is_flag=True, help="Also drop what only older releases need: none may run."
)
@click.pass_context
def migrate_command(ctx: click.Context, *, contract: bool) -> None:
    """Bring the schema up to date; `relay serve` and `relay apply` do it too, where they may."""
    for name in with_database(ctx, lambda on: migrate(on.connection, contract=contract)):
        click.echo(f"applied {name}", err=True)


@db.command()
@location_options
@click.argument("role")
@click.pass_context
def grant(ctx: click.Context, role: str) -> None:
    """Let ROLE serve: all it needs, and no way to change what was booked.

    Do it again after every upgrade, as the owner of the tables.
    """

    async def work(on: Session) -> None:
        try:
            await on.connection.execute("SELECT relay_grant($1)", role)
        except asyncpg.UndefinedObjectError:
            raise ConfigError(f"there is no role {role!r}: create it first") from None
        except asyncpg.InsufficientPrivilegeError:
            raise ConfigError("[database] url is not the owner of the tables") from None
        except asyncpg.UndefinedFunctionError:
            raise ConfigError("the schema is older than this: run `relay db migrate`") from None

    with_database(ctx, work)
    click.echo(f"{role} may serve", err=True)
