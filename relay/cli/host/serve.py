"""`relay serve`, and the hidden commands that its children run."""

import asyncio
import contextlib
import logging
import os
import sys
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click
import msgspec

from relay import event_log
from relay.cli.numbers import WholeNumber
from relay.cli.root import load_context, location_options
from relay.compiled import describe
from relay.config import Config
from relay.process.lifeline import Lifeline
from relay.process.succession import handover
from relay.process.succession.handover import Handover
from relay.process.succession.successor import MIGRATES, MIGRATING, REHEARSAL, return_to

if TYPE_CHECKING:
    from relay.process.launch import Report

PROXIES: Final = frozenset({"HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"})
"""Source: curl(1), ENVIRONMENT; in either case of letters."""

_log = logging.getLogger(__name__)

_Command = TypeVar("_Command", bound=Callable[..., Any])

_VARIABLES: Final = {
    "listen": "RELAY_SERVER__LISTEN",
    "admin": "RELAY_SERVER__ADMIN",
    "console": "RELAY_SERVER__CONSOLE",
    "workers": "RELAY_SERVER__WORKERS",
}
"""A flag is put into the environment, so that it also wins when the file is read again."""


@click.command()
@location_options
@click.option("--listen", metavar="HOST:PORT", help="Where clients call. [127.0.0.1:8080]")
@click.option("--admin", metavar="HOST:PORT", help="Health, metrics, admin. [127.0.0.1:8081]")
@click.option("--console", metavar="HOST:PORT", help="Account holders' pages. [127.0.0.1:8082]")
@click.option("--workers", type=WholeNumber(0, 1024), help="0 = one per core.")
@click.option("--demo", is_flag=True, help="With a scripted upstream, and a key to call it.")
@click.pass_context
def serve(ctx: click.Context, /, *, demo: bool, **flags: str | int | None) -> None:
    """Run the relay: workers, control process and, where none are configured, its databases.

    SIGTERM or Ctrl-C lets streams finish, twice ends them at once. SIGHUP, or `relay upgrade`,
    becomes the release and the configuration of now; what runs finishes beside it.
    """
    event_log.configure(os.environ)
    for flag, value in flags.items():
        if value is not None:
            os.environ[_VARIABLES[flag]] = str(value)
    rehearsed = os.environ.pop(REHEARSAL, None)
    handed = handover.take(os.environ)
    try:
        _serve(ctx, handed, rehearsed, demo=demo)
    except Exception as exc:
        if handed is None or handed.failure:
            raise
        return_to(handed, exc)


def _serve(
    ctx: click.Context, handed: Handover | None, rehearsed: str | None, *, demo: bool
) -> None:
    config, data_dir = load_context(ctx)
    data_dir = data_dir.absolute()
    if rehearsed is not None:
        from relay.process.succession.rehearsal import rehearse

        on_migrating = _tell_migrating if os.environ.pop(MIGRATES, None) else None
        asyncio.run(rehearse(config, data_dir, rehearsed, on_migrating))
        return
    _tell_of_proxies(os.environ)
    from relay.process.launch import run_relay

    if handed is not None and handed.failure:
        config = msgspec.msgpack.decode(handed.config, type=Config)

    def on_ready(report: "Report") -> None:
        _tell(report, data_dir)

    with contextlib.suppress(asyncio.CancelledError):  # SIGTERM before anything was served
        asyncio.run(run_relay(config, data_dir, handed, on_ready, demo=demo))


def _tell_migrating() -> None:
    """Tell the supervisor that rehearses that it may take longer now."""
    sys.stdout.buffer.write(MIGRATING)
    sys.stdout.buffer.flush()


def _child(command: _Command) -> _Command:
    """Add what the supervisor tells a child on its command line."""
    return click.option("--lifeline", "fd", type=int, required=True)(command)


@click.command(hidden=True)
@_child
def worker(fd: int) -> None:
    """Serve calls; started by the supervisor."""
    from relay.process.worker import run_worker

    event_log.configure(os.environ)
    run_worker(Lifeline(fd))


@click.command(hidden=True)
@_child
def control(fd: int) -> None:
    """Run the control plane; started by the supervisor."""
    from relay.process.control import run_control

    event_log.configure(os.environ)
    run_control(Lifeline(fd))


@click.command(hidden=True)
@_child
def console(fd: int) -> None:
    """Run the console; started by the supervisor."""
    from relay.process.console import run_console

    event_log.configure(os.environ)
    run_console(Lifeline(fd))


@click.command("demo-upstream", hidden=True)
@_child
@click.option("--port", type=int, required=True)
def demo_upstream(fd: int, port: int) -> None:
    """Run the demonstration's scripted upstream; started by the supervisor."""
    from relay.process.demo_upstream import run_demo_upstream

    event_log.configure(os.environ)
    run_demo_upstream(Lifeline(fd), port)


def _tell_of_proxies(environ: Mapping[str, str]) -> None:
    """Say that a proxy which the environment names for all programs is not used; its name only."""
    for name in sorted(environ):
        if name.upper() in PROXIES and environ[name]:
            _log.warning("upstreams are asked without this variable's proxy", extra={"path": name})


def _tell(report: "Report", data_dir: Path) -> None:
    """Say in short lines what runs where; to a log, in one event."""
    if not sys.stderr.isatty() and report.demo is None:
        _log.info("serving", extra={"address": report.listen, "count": report.workers})
        return
    token = data_dir / "secrets" / "admin.token"
    click.echo(f"relay {version('relay')}: http://{report.listen}/v1", err=True)
    click.echo(f"workers  {report.workers}, {describe()}", err=True)
    click.echo(f"admin    http://{report.admin} (token in {token})", err=True)
    if report.console:
        click.echo(f"console  http://{report.console}", err=True)
    if report.demo is not None and report.demo.operator_link:
        if report.console:
            link = f"http://{report.console}{report.demo.owner_link}"
            click.echo(f"         as the account's owner, once: {link}", err=True)
        link = f"http://{report.admin}{report.demo.operator_link}"
        click.echo(f"         as an operator, once:          {link}", err=True)
    click.echo(f"data     {data_dir}", err=True)
    if report.demo is not None:
        from relay.process.demo import describe_call

        click.echo("\n" + describe_call(f"http://{report.listen}/v1", report.demo), err=True)
