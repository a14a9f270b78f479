"""A command's way to the catalog: one connection for as long as its work takes."""

import asyncio
import errno
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import asyncpg
import click
import msgspec

from relay.cli.acts import SAID, read_act
from relay.cli.output import ReaderGone
from relay.cli.root import load_context
from relay.config import Config
from relay.errors import ConfigError
from relay.store import postgres
from relay.store.acts import keep_act
from relay.store.embedded.locate import database_url
from relay.store.postgres import Connection
from relay.store.secrets import desk, vault
from relay.store.secrets.vault import Pepper, Vault

_Result = TypeVar("_Result")


class Session(msgspec.Struct, frozen=True):
    """What a command works with."""

    config: Config
    data_dir: Path
    connection: Connection

    def open_vault(self) -> Vault:
        """Return the vault that opens the channels' credentials."""
        return vault.open_vault(self.config, self.data_dir, os.environ)

    def load_pepper(self) -> Pepper:
        """Return the pepper of the keys' digests."""
        return vault.load_pepper(self.config, self.data_dir, os.environ)


def ask_the_relay(data_dir: Path) -> None:
    """Have secrets that this shell does not have asked of the relay that runs on this host."""
    # Not what a command that began this one has left there: that one may be about another relay.
    os.environ[desk.VARIABLE] = str(data_dir.absolute())


def with_database(ctx: click.Context, work: Callable[[Session], Awaitable[_Result]]) -> _Result:
    """Run `work` on a connection to the catalog's database and return its result.

    Raises:
        DependencyDown: There is no database, or it does not answer.
        ConfigError: The configuration is wrong, or the database has no tables.
    """
    config, data_dir = load_context(ctx)
    ask_the_relay(data_dir)
    url = database_url(config, data_dir)

    async def run() -> _Result:
        connection = await postgres.connect(
            url, application="relay command", connect_s=config.database.connect_s
        )
        try:
            with postgres.border():
                done = await work(Session(config, data_dir, connection))
                await _note(ctx, connection)
                return done
        except ReaderGone as error:
            # Told on as what click knows, and only here: within the border it would look like
            # Postgres's connection.
            raise BrokenPipeError(errno.EPIPE, "nobody reads on") from error
        except asyncpg.UndefinedTableError as error:
            raise ConfigError(
                "the database has no schema yet: run `relay apply` or `relay serve` first"
            ) from error
        finally:
            await connection.close()

    return asyncio.run(run())


async def _note(ctx: click.Context, connection: Connection) -> None:
    """Write down, once, what a command did: nothing where it only looks."""
    act = read_act(ctx)
    if act is not None and not ctx.meta.get(SAID):
        ctx.meta[SAID] = True
        await keep_act(connection, act)
