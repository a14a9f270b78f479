"""Bring the whole relay up in order, and down in the opposite one.

    sockets -> embedded servers -> schema -> demo -> supervisor (workers, control) -> ... -> stop

The sockets come first: a taken port is found before anything was started. The embedded servers
stop last, when nobody needs them any more.
"""

import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable, Coroutine
from importlib.metadata import version
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from relay.backoff import Backoff
from relay.config import Config
from relay.errors import DependencyDown, RelayError
from relay.process.child import own_command
from relay.process.demo import Demo, declare_demo, invite_demo
from relay.process.listeners import Sockets, address_of, take_sockets
from relay.process.slots import RestartBackoff, Slot
from relay.process.succession.handover import Handover
from relay.process.succession.successor import Successor, return_to
from relay.process.supervisor import Supervisor
from relay.process.systemd import Notifier, hold_on
from relay.store import postgres
from relay.store.catalog.keys import check_pepper
from relay.store.embedded.embedded import Embedded
from relay.store.embedded.locate import database_url, redis_url
from relay.store.migrate import MigrationDelayed, migrate
from relay.store.outage import catalog
from relay.store.secrets.vault import load_pepper

REVIVE_S: Final = 1.0
PREPARE_S_MAX: Final = 5.0
SCHEMA_S: Final = 8.0
"""A start waits so long for its schema where it can begin with copies: callers queue meanwhile."""
DEMO_HOST: Final = "127.0.0.1"

_log = logging.getLogger(__name__)


class Report(msgspec.Struct, frozen=True):
    """What was started, for whoever tells people about it. Addresses are HOST:PORT."""

    listen: str
    admin: str
    console: str
    """Empty: none."""
    workers: int
    demo: Demo | None


async def run_relay(
    config: Config,
    data_dir: Path,
    handed: Handover | None,
    on_ready: Callable[[Report], None],
    *,
    demo: bool,
) -> None:
    """Run the relay until a signal ends it.

    Args:
        config: What it runs under.
        data_dir: Where it keeps its state; made if it is not there.
        handed: What an earlier program of this process has left; None: this is the first.
        on_ready: Called once when calls are served.
        demo: Whether to run the demonstration upstream too.

    Raises:
        RelayError: An address is taken.
        ConfigError: The configuration does not fit what is there.
        DependencyDown: The embedded servers do not come up, or Postgres does not and no copy of
            the catalog is on this host's disk.
    """
    task = asyncio.current_task()
    assert task is not None
    # Until the supervisor takes over: whatever was started so far is stopped in order.
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    notifier = Notifier(os.environ)
    async with contextlib.AsyncExitStack() as parts:
        # A migration, or a Postgres that is slow to say no, takes longer than a watchdog waits.
        building = asyncio.create_task(hold_on(notifier), name="building")
        try:
            supervisor, report = await _build(config, data_dir, handed, parts, notifier, demo=demo)
        except Exception as exc:
            if handed is None or handed.failure:
                raise
            return_to(handed, exc)  # now: embedded servers are stopped behind this block
        finally:
            building.cancel()
        await supervisor.run(lambda: on_ready(report))


async def _build(
    config: Config,
    data_dir: Path,
    handed: Handover | None,
    parts: contextlib.AsyncExitStack,
    notifier: Notifier,
    *,
    demo: bool,
) -> tuple[Supervisor, Report]:
    """Open, start and prepare all that the supervisor needs; `parts` undoes it."""
    demo_port = handed.demo_port if handed else _free_port() if demo else None
    sockets = take_sockets(config.server, handed)
    for sock in sockets.all():
        parts.callback(sock.close)
    embedded = Embedded(data_dir, postgres=not config.database.url, valkey=not config.redis.url)
    await embedded.start(adopt=handed is not None)
    parts.push_async_callback(embedded.stop)
    prepared = await _prepare_or_go_on(config, data_dir, demo_port, handed)
    if prepared.later is not None:
        parts.callback(asyncio.create_task(prepared.later, name="schema").cancel)
    reviver = asyncio.create_task(_revive_forever(embedded), name="reviver")
    parts.callback(reviver.cancel)
    if handed is None and prepared.demo is None:
        demo_port = None
    successor = Successor(data_dir, describe_release(), sockets.handed, demo_port, handed)
    slots = _slots(sockets, demo_port)
    supervisor = Supervisor(config, data_dir, slots, successor, notifier, RestartBackoff())
    report = Report(
        listen=address_of(sockets.workers[0]),
        admin=address_of(sockets.admin),
        console="" if sockets.console is None else address_of(sockets.console),
        workers=len(sockets.workers),
        demo=prepared.demo,
    )
    return supervisor, report


def describe_release() -> str:
    """Return which release this is, in words: its version, and the folder it was installed to."""
    return f"{version('relay')} {Path(sys.prefix).name}"


class _Prepared(NamedTuple):
    """What is left to do for the schema, and the demonstration, if one was declared."""

    later: Coroutine[None, None, None] | None
    demo: Demo | None


async def _prepare_or_go_on(
    config: Config, data_dir: Path, demo_port: int | None, handed: Handover | None
) -> _Prepared:
    """Bring the schema up to date; where that takes long, begin with the copies on this host.

    Postgres may be away, or a migration wait for a table that a dump is reading, or take minutes.
    """
    demo_port = demo_port if handed is None else None
    copied = bool(config.database.copy_age_max_s) and catalog.copy_path(data_dir).exists()
    preparing = asyncio.create_task(_prepare(config, data_dir, demo_port), name="prepare")
    # The release before serves while one that follows it waits; behind a start's sockets is nobody.
    waits = not copied or handed is not None or demo_port is not None
    try:
        async with asyncio.timeout(None if waits else SCHEMA_S):
            return _Prepared(None, await asyncio.shield(preparing))
    except TimeoutError:
        reason = "its schema is still being migrated"
    except DependencyDown as exc:
        if not copied or (handed is not None and isinstance(exc, MigrationDelayed)):
            raise  # there is nothing to begin with, or the release before has all that it needs
        reason = exc.message
    except BaseException:
        preparing.cancel()
        raise
    _log.error("starting without Postgres", extra={"reason": reason})
    return _Prepared(_prepare_later(config, data_dir, preparing), None)


def _free_port() -> int:
    """Return a port for the demo upstream: the same one however often its process is replaced."""
    with socket.create_server((DEMO_HOST, 0)) as probe:
        return int(probe.getsockname()[1])


async def _prepare(config: Config, data_dir: Path, demo_port: int | None) -> Demo | None:
    """Bring the schema up to date; declare the demonstration if it is wanted and fits."""
    url = database_url(config, data_dir)
    redis_url(config, data_dir)  # a bad reference is reported once, here, and not by every worker
    connection = await postgres.connect(url, connect_s=config.database.connect_s)
    try:
        for name in await migrate(connection):
            _log.info("migration applied", extra={"path": name})
        with postgres.border():
            await check_pepper(connection, load_pepper(config, data_dir, os.environ))
        if demo_port is None:
            return None
        upstream = f"http://{DEMO_HOST}:{demo_port}/v1"
        with postgres.border():
            found = await declare_demo(connection, config, data_dir, os.environ, upstream)
            if found is not None:
                found = await invite_demo(connection, config, data_dir, os.environ, found)
        if found is None:
            _log.warning("no demo: the catalog has channels of its own")
        return found
    finally:
        await connection.close()


async def _prepare_later(config: Config, data_dir: Path, begun: asyncio.Task[Demo | None]) -> None:
    """Go on until the schema is up to date: with what has begun, then again and again."""
    backoff = Backoff(first_s=REVIVE_S, most_s=PREPARE_S_MAX)
    while True:
        try:
            await begun
        except TimeoutError:
            pass  # Postgres did not even hear that we hung up
        except RelayError as exc:
            if not isinstance(exc, DependencyDown) or isinstance(exc, MigrationDelayed):
                _log.error("the schema cannot be brought up to date", extra={"reason": exc.message})
        else:
            _log.warning("Postgres is there, and its schema up to date")
            return
        backoff.fail()
        await asyncio.sleep(backoff.wait_s())
        begun = asyncio.create_task(_prepare(config, data_dir, None), name="prepare")


def _slots(sockets: Sockets, demo_port: int | None) -> list[Slot]:
    slots = [
        Slot(name="control", command=own_command("control"), listener=sockets.admin),
        Slot(name="console", command=own_command("console"), listener=sockets.console, vital=False),
    ]
    if demo_port is not None:
        command = own_command("demo-upstream", "--port", str(demo_port))
        slots.append(Slot(name="demo-upstream", command=command, lasting=True))
    slots += [
        Slot(name=f"worker-{at}", command=own_command("worker"), listener=sock, drains=True)
        for at, sock in enumerate(sockets.workers)
    ]
    return slots


async def _revive_forever(embedded: Embedded) -> None:
    """Start an embedded server again when it died on its own."""
    while True:
        await asyncio.sleep(REVIVE_S)
        try:
            for name in await embedded.revive():
                _log.error("embedded server was started again", extra={"child": name})
        except DependencyDown as exc:
            _log.error("embedded server does not start", extra={"reason": exc.message})
