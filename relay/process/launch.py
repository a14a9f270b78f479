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
from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec

from relay.config import Config, Server
from relay.errors import DependencyDown
from relay.process.child import own_command
from relay.process.demo import Demo, declare_demo, invite_demo
from relay.process.listeners import address_of, open_listeners, take_inherited
from relay.process.slots import RestartBackoff, Slot
from relay.process.supervisor import Supervisor
from relay.process.systemd import Notifier
from relay.store import postgres
from relay.store.embedded.embedded import Embedded
from relay.store.embedded.locate import database_url, redis_url
from relay.store.migrate import migrate

PREDECESSOR_S: Final = 3.0
"""How long workers of a supervisor that was killed may still hold the port."""
REVIVE_S: Final = 1.0
ADMIN_BACKLOG: Final = 128
DEMO_HOST: Final = "127.0.0.1"

_log = logging.getLogger(__name__)


class Sockets(msgspec.Struct, frozen=True):
    """What the relay listens on: one socket for each worker, the admin's, and the console's."""

    workers: list[socket.socket]
    admin: socket.socket
    console: socket.socket | None

    def all(self) -> list[socket.socket]:
        """Return each of them."""
        return [*self.workers, self.admin, *([] if self.console is None else [self.console])]


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
    reload: Callable[[], Config],
    on_ready: Callable[[Report], None],
    *,
    demo: bool,
) -> None:
    """Run the relay until a signal ends it.

    Args:
        config: What it runs under.
        data_dir: Where it keeps its state; made if it is not there.
        reload: Returns the configuration as it is now; raises ConfigError.
        on_ready: Called once when calls are served.
        demo: Whether to run the demonstration upstream too.

    Raises:
        RelayError: An address is taken.
        ConfigError: The configuration does not fit what is there.
        DependencyDown: Postgres or the embedded servers do not come up.
    """
    task = asyncio.current_task()
    assert task is not None
    # Until the supervisor takes over: whatever was started so far is stopped in order.
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    demo_port = _free_port() if demo else None
    async with contextlib.AsyncExitStack() as parts:
        sockets = _open_sockets(config.server)
        for sock in sockets.all():
            parts.callback(sock.close)
        embedded = Embedded(data_dir, postgres=not config.database.url, valkey=not config.redis.url)
        await embedded.start()
        parts.push_async_callback(embedded.stop)
        declared = await _prepare(config, data_dir, demo_port)
        reviver = asyncio.create_task(_revive_forever(embedded), name="reviver")
        parts.callback(reviver.cancel)
        slots = _slots(sockets, demo_port if declared else None)
        supervisor = Supervisor(
            config, data_dir, slots, reload, Notifier(os.environ), RestartBackoff()
        )
        report = Report(
            listen=address_of(sockets.workers[0]),
            admin=address_of(sockets.admin),
            console="" if sockets.console is None else address_of(sockets.console),
            workers=len(sockets.workers),
            demo=declared,
        )
        await supervisor.run(lambda: on_ready(report))


def _open_sockets(server: Server) -> Sockets:
    """Take the sockets "relay", "admin" and "console" from systemd, or open them."""
    inherited = take_inherited(os.environ, os.getpid())
    count = server.workers or len(os.sched_getaffinity(0))
    given = inherited.get("relay")
    workers = (
        [given[at % len(given)] for at in range(count)]
        if given
        else open_listeners(server.listen, count, server.backlog, PREDECESSOR_S)
    )
    admin = inherited.get("admin") or open_listeners(server.admin, 1, ADMIN_BACKLOG, PREDECESSOR_S)
    console = inherited.get("console")
    if console is None and server.console:
        console = open_listeners(server.console, 1, ADMIN_BACKLOG, PREDECESSOR_S)
    return Sockets(workers, admin[0], console[0] if console else None)


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


def _slots(sockets: Sockets, demo_port: int | None) -> list[Slot]:
    slots = [
        Slot(name="control", command=own_command("control"), listener=sockets.admin),
        Slot(name="console", command=own_command("console"), listener=sockets.console, vital=False),
    ]
    if demo_port is not None:
        command = own_command("demo-upstream", "--port", str(demo_port))
        slots.append(Slot(name="demo-upstream", command=command))
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
