"""The control process, wired: admin listener, shipper, upkeep, an eye on channels and on money.

It never sees a client's request.

It starts without Postgres and waits for it; it ends when the supervisor says so or is gone. It is
the last to end, because it carries the workers' last records into the request log.
"""

import asyncio
import contextlib
import datetime
import os
import secrets
import signal
import socket
from collections.abc import Coroutine, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import uvloop
from aiohttp import web
from prometheus_client.registry import Collector

from relay.clock import clock_s, wall_s
from relay.config import Config
from relay.control.api.api import AdminApi
from relay.control.api.metrics import WorkerCollector
from relay.control.catalog.keeper import CatalogKeeper
from relay.control.catalog.tokens import TokenMinter
from relay.control.copies import Copies
from relay.control.night.nights import Nights
from relay.control.night.plans import make_works
from relay.control.night.upkeep import keep_up_forever
from relay.control.secrets_desk import SecretsDesk
from relay.control.shipper import Shipper
from relay.control.watch.channels import ChannelWatch
from relay.control.watch.host import HostWatch, Sources
from relay.control.watch.journals import JournalWatch
from relay.control.watch.money import MoneyWatch
from relay.control.watch.notices import Notices
from relay.control.watch.troubles import Troubles
from relay.control.watch.webhook import Webhook, find_webhook
from relay.errors import ConfigError
from relay.model import Secret
from relay.process import hardening
from relay.process.lifeline import Lifeline, Settings
from relay.process.site import RUNNER, serve_site
from relay.process.succession import outcome
from relay.process.succession.outcome import Result
from relay.records import CallEnd
from relay.store.catalog.follower import poll_s
from relay.store.embedded.locate import database_url, redis_url
from relay.store.metrics import Figures
from relay.store.migrate import connect_migrated
from relay.store.postgres import Connection
from relay.store.secrets.files import keep_secret
from relay.store.secrets.refs import resolve
from relay.store.secrets.vault import open_vault
from relay.tasks import Bell, first_of

if TYPE_CHECKING:
    from relay.control.otlp.exporter import OtlpExporter

TOKEN_BYTES: Final = 32
LAST_SHIPPING_S: Final = 5.0
"""Seconds for the last records to reach Postgres; the rest is shipped at the next start."""
POLL_S: Final = 0.05


def run_control(lifeline: Lifeline) -> None:
    """Serve until SIGTERM or until the supervisor is gone.

    Raises:
        Unavailable: RELAY; the supervisor went before this process had started.
        ConfigError: RELAY; a secret cannot be found.
    """
    settings, listener = lifeline.receive_settings()
    assert listener is not None, "the control process is given its socket"
    hardening.refuse_dumps()
    hardening.raise_file_limit()
    uvloop.run(Control(settings, lifeline, listener).run())


class Control:
    """The parts of the control process."""

    def __init__(self, settings: Settings, lifeline: Lifeline, listener: socket.socket) -> None:
        self._config = settings.config
        self._data_dir = Path(settings.data_dir)
        self._lifeline = lifeline
        self._listener = listener
        journal_dir = Path(self._config.journal.dir or self._data_dir / "journal")
        self._shipper = Shipper(
            journal_dir, self._connect, self._config.journal, observe=self._observe
        )
        token = Secret(
            keep_secret(
                self._data_dir / "secrets" / "admin.token", secrets.token_urlsafe(TOKEN_BYTES)
            )
        )
        webhook = find_webhook(self._config, os.environ)
        vault = open_vault(self._config, self._data_dir, os.environ)
        changed = Bell()
        self._watch = ChannelWatch(
            lambda: redis_url(self._config, self._data_dir),
            self._connect_watch,
            vault,
            webhook,
            changed,
        )
        url = database_url(self._config, self._data_dir)
        self._copies = Copies(
            url,
            self._data_dir,
            vault,
            self._connect_copies,
            poll_s=poll_s(self._config),
            changed=changed,
        )
        # Couriers of its own: an outage that refuses every channel must not delay what is told of
        # money and keys.
        self._webhook = None if webhook is None else Webhook(webhook)
        notices = Notices(self._webhook, clock_s)
        self._money = MoneyWatch(
            self._config, self._connect_money, notices, logged=lambda: self._shipper.rows_shipped
        )
        metrics_dir = self._data_dir / "run" / "metrics"
        figures = Figures(metrics_dir)
        send = None if self._webhook is None else self._webhook.send
        self._journals = JournalWatch(figures, send, wall_s)
        self._keeper = CatalogKeeper(
            self._connect_keeper,
            open_vault(self._config, self._data_dir, os.environ),
            self._config.billing.official_max,
            send,
            clock_s,
        )
        opener = open_vault(self._config, self._data_dir, os.environ)
        self._minter = TokenMinter(self._connect_minter, opener, send, changed=changed)
        host = f"{socket.gethostname()} {self._data_dir.absolute()}"
        works = make_works(self._config, self._data_dir, vault, lifeline.ask_renewal, wall_s)
        self._nights = Nights(self._config.maintenance, host, works, self._connect_nights, _utc_now)
        file = self._data_dir / "run" / "troubles.json"
        troubles = Troubles(file, host, send, clock_s, _utc_now)
        sources = Sources(
            shipping_failures=lambda: self._shipper.failures,
            reload_failure=lambda: _reload_failure(self._data_dir),
            models_out=self._watch.models_out,
            works=lambda: self._nights.done,
        )
        self._host = HostWatch(figures, host, sources, troubles, wall_s)
        told = [self._watch, notices, self._keeper, self._minter, self._nights, troubles]
        collector = WorkerCollector(metrics_dir, self._gauges, wall_s, told)
        self._otlp = _open_otlp(self._config, host, collector)
        self._api = AdminApi(self._config, self._data_dir, token, collector, notices)

    async def run(self) -> None:
        """Serve until it is time to go; then ship what is left."""
        asked = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, asked.set)
        async with contextlib.AsyncExitStack() as parts:
            alone = parts.enter_context(_task(self._lifeline.beat_until_alone()))
            shipping = parts.enter_context(_task(self._shipper.run()))
            upkeep = parts.enter_context(_task(keep_up_forever(self._config, self._data_dir)))
            nights = parts.enter_context(_task(self._nights.run()))
            watching = parts.enter_context(_task(self._watch.run()))
            money = parts.enter_context(_task(self._money.run()))
            journals = parts.enter_context(_task(self._journals.run()))
            copies = parts.enter_context(_task(self._copies.run()))
            host = parts.enter_context(_task(self._host.run()))
            keeping = parts.enter_context(_task(self._keeper.run()))
            if self._webhook is not None:
                parts.enter_context(_task(self._webhook.run()))
            if self._otlp is not None:
                parts.enter_context(_task(self._otlp.run()))
            runner = web.AppRunner(self._api.application(), access_log=None, **RUNNER)
            parts.push_async_callback(runner.cleanup)
            await runner.setup()
            tls = await serve_site(runner, self._listener, self._config.tls.admin)
            parts.enter_context(_task(tls))
            # Before it is ready: a command given right after must find it.
            desk = SecretsDesk(self._config, self._data_dir)
            self._lifeline.tell_ready()
            asked_for = parts.enter_context(_task(desk.run()))
            minting = parts.enter_context(_task(self._minter.run()))
            works = (shipping, upkeep, watching, money, journals, copies, asked_for)
            await first_of(asked.wait(), alone, *works, keeping, minting, nights, host)
            host.cancel()  # the next control process looks after it
            await first_of(self._all_shipped(), alone, within_s=LAST_SHIPPING_S)
            if self._otlp is not None:
                await first_of(self._otlp.flush(), alone, within_s=LAST_SHIPPING_S)

    def _observe(self, ends: Sequence[CallEnd]) -> None:
        if self._otlp is not None:
            self._otlp.take(ends)

    async def _dial(self, application: str) -> Connection:
        url = database_url(self._config, self._data_dir)
        return await connect_migrated(url, application=application)

    async def _connect(self) -> Connection:
        return await self._dial("relay shipper")

    async def _connect_watch(self) -> Connection:
        return await self._dial("relay channel watch")

    async def _connect_money(self) -> Connection:
        return await self._dial("relay money watch")

    async def _connect_copies(self) -> Connection:
        return await self._dial("relay copies")

    async def _connect_keeper(self) -> Connection:
        return await self._dial("relay catalog keeper")

    async def _connect_nights(self) -> Connection:
        return await self._dial("relay maintenance")

    async def _connect_minter(self) -> Connection:
        return await self._dial("relay token minter")

    async def _all_shipped(self) -> None:
        """Wait until the log has all that the workers wrote, and nothing is leased to them."""
        while self._shipper.rows_waiting or self._shipper.journals:  # noqa: ASYNC110
            # The shipper has no event for it: journals that are left are folders on the disk.
            await asyncio.sleep(POLL_S)

    def _gauges(self) -> dict[str, float]:
        return {
            "relay_log_lag_bytes": float(self._shipper.lag_bytes()),
            "relay_log_queue_depth": float(self._shipper.rows_waiting),
            "relay_log_failures": float(self._shipper.failures),
        }


def _open_otlp(config: Config, host: str, collector: Collector) -> "OtlpExporter | None":
    """Return what sends to the collector that `[otlp]` names, None where it names none.

    Raises:
        ConfigError: RELAY; the packages for it are not installed, or a reference leads nowhere.
    """
    otlp = config.otlp
    if not otlp.url:
        return None
    try:
        from relay.control.otlp.exporter import OtlpExporter
    except ImportError as error:
        raise ConfigError("otlp.url: needs `pip install 'relay[otlp]'`") from error
    told = resolve(otlp.headers, os.environ, path="otlp.headers", optional=True).reveal()
    pairs = (pair.partition("=") for pair in told.split(",") if pair)
    headers = {name.strip(): value.strip() for name, _, value in pairs}
    return OtlpExporter(otlp.url, headers, host, collector, wall_s)


def _utc_now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)


def _reload_failure(data_dir: Path) -> str | None:
    """Return why the last reload did not succeed; "": it did, or none was; None: it runs."""
    found = outcome.read(data_dir)
    if found is None or found.result is Result.RUNNING:
        return None
    failed = found.result in (Result.REFUSED, Result.GIVEN_UP)
    return f"{found.result.value}: {found.reason}" if failed else ""


@contextlib.contextmanager
def _task(work: Coroutine[Any, Any, None]) -> Iterator[asyncio.Task[None]]:
    """Run `work` beside the block; what it raises is for who awaits it."""
    task = asyncio.create_task(work)
    try:
        yield task
    finally:
        task.cancel()
