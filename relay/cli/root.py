"""The `relay` command: finds its subcommands when they are called, and turns errors into exits.

A subcommand's module is imported only when it runs, so that no command pays for another. Every
command takes --config and --data-dir, before or after its name.

    exit codes: 0 ok, 1 failed, 2 usage, 69 a dependency is down, 78 bad configuration
"""

import importlib
import os
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final, TypeVar

import click

from relay.compiled import describe
from relay.config import Config, load
from relay.errors import ConfigError, DependencyDown, RelayError
from relay.interpreter import describe_python

EXIT_FAILED: Final = 1
EXIT_DEPENDENCY_DOWN: Final = 69
EXIT_BAD_CONFIGURATION: Final = 78  # EX_CONFIG: the systemd unit does not restart on it.

COMMANDS: Final = {
    "account": "relay.cli.customers.accounts:account",
    "apply": "relay.cli.supply.catalog:apply",
    "audit": "relay.cli.customers.money:audit",
    "balance": "relay.cli.customers.money:balance",
    "bench": "relay.cli.host.bench:bench",
    "block": "relay.cli.supply.blocks:block",
    "channel": "relay.cli.supply.channels:channel",
    "check": "relay.cli.supply.catalog:check",
    "code": "relay.cli.customers.codes:code",
    "config": "relay.cli.host.config:config",
    "console": "relay.cli.host.serve:console",
    "control": "relay.cli.host.serve:control",
    "credit": "relay.cli.customers.money:credit",
    "db": "relay.cli.host.database:db",
    "demo-upstream": "relay.cli.host.serve:demo_upstream",
    "doctor": "relay.cli.host.doctor:doctor",
    "import": "relay.cli.supply.importing:import_group",
    "key": "relay.cli.customers.keys:key",
    "ledger": "relay.cli.customers.money:ledger",
    "limits": "relay.cli.supply.limits:limits",
    "line": "relay.cli.customers.accounts:line",
    "logs": "relay.cli.logs:logs",
    "maintenance": "relay.cli.host.maintenance:maintenance",
    "mock": "relay.cli.host.mock:mock",
    "models": "relay.cli.supply.models:models",
    "order": "relay.cli.customers.orders:order",
    "price": "relay.cli.supply.prices:price",
    "recharge": "relay.cli.customers.money:recharge",
    "serve": "relay.cli.host.serve:serve",
    "top": "relay.cli.host.top:top",
    "upgrade": "relay.cli.host.upgrade:upgrade",
    "usage": "relay.cli.logs:usage",
    "user": "relay.cli.customers.users:user",
    "worker": "relay.cli.host.serve:worker",
}

DATA_DIR_DEFAULT: Final = "var"

_CONFIG_PATH: Final = "relay.config_path"
_DATA_DIR: Final = "relay.data_dir"

_Command = TypeVar("_Command", bound=Callable[..., Any])


class RootGroup(click.Group):
    """A group whose commands are named in a table and imported when they are called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of all commands, the hidden ones too."""
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return the command of that name, importing its module."""
        if cmd_name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[cmd_name].partition(":")
        command = getattr(importlib.import_module(module), attribute)
        assert isinstance(command, click.Command)
        return command

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; an error of ours becomes one line on stderr and an exit code."""
        try:
            return super().invoke(ctx)
        except RelayError as error:
            click.echo(f"relay: {error.message}", err=True)
            ctx.exit(exit_code(error))


def exit_code(error: RelayError) -> int:
    """Return the exit code that stands for an error."""
    if isinstance(error, ConfigError):
        return EXIT_BAD_CONFIGURATION
    if isinstance(error, DependencyDown):
        return EXIT_DEPENDENCY_DOWN
    return EXIT_FAILED


def location_options(command: _Command) -> _Command:
    """Add --config and --data-dir to a subcommand; `load_context` reads what they say.

    They have no default here, so that they override the root's only where they are given.
    """
    return _config_option()(_data_dir_option()(command))


def load_context(ctx: click.Context) -> tuple[Config, Path]:
    """Return the configuration and the data dir that the command line and environment name.

    Raises:
        ConfigError: The file or a RELAY_SECTION__KEY variable is wrong.
    """
    return load(ctx.meta.get(_CONFIG_PATH), os.environ), data_dir(ctx)


def config_path(ctx: click.Context) -> Path | None:
    """Return the relay.toml that the command line or environment names; None: defaults."""
    found = ctx.meta.get(_CONFIG_PATH)
    assert found is None or isinstance(found, Path)
    return found


def data_dir(ctx: click.Context) -> Path:
    """Return the data dir of the command: a path that may not exist yet."""
    return Path(ctx.meta.get(_DATA_DIR, DATA_DIR_DEFAULT))


def _remember(slot: str) -> Callable[[click.Context, click.Parameter, Path | None], None]:
    def remember(ctx: click.Context, _parameter: click.Parameter, value: Path | None) -> None:
        if value is not None:
            ctx.meta[slot] = value

    return remember


def _config_option(envvar: str | None = None) -> Callable[[_Command], _Command]:
    return click.option(
        "--config",
        type=click.Path(path_type=Path),
        metavar="FILE",
        envvar=envvar,
        show_envvar=True,
        expose_value=False,
        callback=_remember(_CONFIG_PATH),
        help="The relay.toml to use.",
    )


def _data_dir_option(
    envvar: str | None = None, default: str | None = None
) -> Callable[[_Command], _Command]:
    return click.option(
        "--data-dir",
        type=click.Path(path_type=Path),
        metavar="DIR",
        envvar=envvar,
        show_envvar=True,
        default=default,
        show_default=True,
        expose_value=False,
        callback=_remember(_DATA_DIR),
        help="Where the relay keeps its files.",
    )


def _print_version(ctx: click.Context, _parameter: click.Parameter, value: bool) -> None:  # noqa: FBT001
    if not value or ctx.resilient_parsing:
        return
    libraries = ", ".join(f"{name} {version(name)}" for name in ("aiohttp", "uvloop", "msgspec"))
    stands_on = f"Python {describe_python()}, {libraries}"
    click.echo(f"relay {version('relay')}, {describe()} ({stands_on})")
    ctx.exit()


@click.group(cls=RootGroup, context_settings={"help_option_names": ["-h", "--help"]})
@_config_option(envvar="RELAY_CONFIG")
@_data_dir_option(envvar="RELAY_DATA_DIR", default=DATA_DIR_DEFAULT)
@click.option(
    "-V",
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_print_version,
    help="Print the versions of the relay and what it stands on.",
)
def main() -> None:
    """A high-throughput relay in front of LLM providers."""
