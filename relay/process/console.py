"""The console process, wired: the account's listener and the operator's socket file.

It carries no call, ships nothing and alarms nobody: whatever happens to it, clients do not notice,
and the supervisor starts it again. It starts without Postgres and says so on its pages.
"""

import asyncio
import contextlib
import os
import signal
import socket
import time
from pathlib import Path
from typing import Final

import uvloop
from aiohttp import web

from relay.console.account_notices import AccountNotices
from relay.console.server import ConsoleServer
from relay.console.services import Services
from relay.console.sites import account_side, operator_side
from relay.control.watch.notices import Notices
from relay.control.watch.webhook import Webhook, find_webhook
from relay.process import hardening
from relay.process.lifeline import Lifeline, Settings
from relay.process.site import RUNNER, serve_site
from relay.store.console_socket import listen
from relay.tasks import first_of
from relay.tls import TlsFiles

NICENESS: Final = 10
"""Where there is no CPU to spare, calls come first: this gets a tenth of what one worker has."""
SHUTDOWN_S: Final = 1.0


def run_console(lifeline: Lifeline) -> None:
    """Serve until SIGTERM or until the supervisor is gone.

    Raises:
        Unavailable: RELAY; the supervisor went before this process had started.
        ConfigError: RELAY; a secret cannot be found.
    """
    settings, listener = lifeline.receive_settings()
    hardening.refuse_dumps()
    hardening.raise_file_limit()
    os.nice(NICENESS)
    uvloop.run(_run(settings, lifeline, listener))


async def _run(settings: Settings, lifeline: Lifeline, listener: socket.socket | None) -> None:
    config, data_dir = settings.config, Path(settings.data_dir)
    asked = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, asked.set)
    services = Services(config, data_dir)
    url = find_webhook(config, os.environ)
    webhook = None if url is None else Webhook(url)
    notices = Notices(webhook, time.monotonic)
    async with contextlib.AsyncExitStack() as parts:
        parts.push_async_callback(services.close)
        alone = asyncio.create_task(lifeline.beat_until_alone(), name="lifeline")
        parts.callback(alone.cancel)
        if webhook is not None:
            telling = asyncio.create_task(webhook.run(), name="webhook")
            parts.callback(telling.cancel)
        account_notices = asyncio.create_task(AccountNotices(services).run(), name="notices")
        parts.callback(account_notices.cancel)
        sides = [(operator_side(services), listen(data_dir))]
        if listener is not None:
            sides.append((account_side(services, notices), listener))
        for side, sock in sides:
            await _serve(parts, side, sock, config.tls.console if sock is listener else None)
        lifeline.tell_ready()
        await first_of(asked.wait(), alone, account_notices)


async def _serve(
    parts: contextlib.AsyncExitStack,
    side: ConsoleServer,
    sock: socket.socket,
    files: TlsFiles | None,
) -> None:
    runner = web.AppRunner(
        side.application(), access_log=None, shutdown_timeout=SHUTDOWN_S, **RUNNER
    )
    parts.push_async_callback(runner.cleanup)
    await runner.setup()
    refreshing = asyncio.create_task(await serve_site(runner, sock, files), name="tls")
    parts.callback(refreshing.cancel)
