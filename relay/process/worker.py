"""A worker process, wired: settings and socket in, data plane up, drained out. No rules here.

    settings -> journal, catalog follower, DataServer, health sharing -> listen -> ready
             -> SIGTERM -> drain

It ends by itself when the supervisor is gone: nobody would replace it, and the next supervisor
wants its port.
"""

import asyncio
import contextlib
import gc
import os
import secrets
import signal
import socket
from pathlib import Path
from typing import Final

import msgspec
import uvloop

from relay.clock import clock_ms, clock_s, until_beat_s, wall_s
from relay.flow.counters import Counters
from relay.flow.reserve.budgets import Budgets
from relay.flow.reserve.channel_quotas import ChannelQuotas
from relay.flow.reserve.credit import Credit
from relay.flow.reserve.limits import LimitReservation
from relay.limits.estimate import Estimator
from relay.process import hardening
from relay.process.composition import adopt, compose_server
from relay.process.lifeline import Lifeline, Settings, end_within
from relay.process.memory import fit_bodies, keep_freed_memory, memory_bytes
from relay.store import metrics as worker_metrics
from relay.store.billing.credit_lender import PostgresBudgetLender, PostgresLender
from relay.store.catalog.follower import CatalogFollower, Copy, poll_s
from relay.store.embedded.locate import database_url, redis_url
from relay.store.health.sharing import HealthSharing
from relay.store.limits.limiter import Limiter
from relay.store.limits.node_lists import COPY, find_nodes
from relay.store.limits.nodes import Nodes
from relay.store.log.journal import Journal
from relay.store.log.unended import PostgresUnended
from relay.store.outage import balances, catalog, fleet
from relay.store.outage.balances import OutageCredit
from relay.store.owners import RedisOwners
from relay.store.secrets.vault import load_pepper, open_vault
from relay.store.thinking import SharedThinking
from relay.tasks import first_of
from relay.units import parse_usd

PUBLISH_S: Final = 1.0
QUIET_TURNS: Final = 2
"""So many times as long it is until what nobody has moved is published again."""
CLOSE_S: Final = 2.0
"""Seconds for the journal's last sync and for closing the connections to Postgres and Redis."""

_STATM: Final = Path("/proc/self/statm")
_PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")

GC_THRESHOLDS: Final = (20_000, 20, 50)
"""Young objects of a call are freed by reference counts; the collector is for the odd cycle. With
the start-up objects frozen a full collection has little to walk."""


def run_worker(lifeline: Lifeline) -> None:
    """Serve until SIGTERM or until the supervisor is gone.

    Raises:
        Unavailable: RELAY; the supervisor went before this process had started.
        ConfigError: RELAY; a secret cannot be found.
        DependencyDown: RELAY; the embedded Postgres is not up.
    """
    settings, listener = lifeline.receive_settings()
    assert listener is not None, "a worker is given its socket"
    hardening.refuse_dumps()
    hardening.raise_file_limit()
    keep_freed_memory()
    uvloop.run(_run(settings, lifeline, listener))


async def _run(settings: Settings, lifeline: Lifeline, listener: socket.socket) -> None:
    config, data_dir = settings.config, Path(settings.data_dir)
    server = fit_bodies(config.server, memory_bytes())
    settings = msgspec.structs.replace(
        settings, config=msgspec.structs.replace(config, server=server)
    )
    copy = data_dir / "run" / COPY
    nodes = await find_nodes(config, lambda: redis_url(config, data_dir), copy)
    await Worker(settings, lifeline, listener, nodes).run()


class Worker:
    """The parts of one worker, and the order in which they come and go. Made in the event loop."""

    def __init__(
        self, settings: Settings, lifeline: Lifeline, listener: socket.socket, nodes: Nodes
    ) -> None:
        config, data_dir = settings.config, Path(settings.data_dir)
        self._config = config
        self._lifeline = lifeline
        self._listener = listener
        file = f"{settings.name}-{os.getpid()}"
        self._publisher = worker_metrics.Publisher(data_dir / "run" / "metrics", file)
        self._counters = Counters()
        journal_dir = Path(config.journal.dir) if config.journal.dir else data_dir / "journal"
        self._journal = Journal(journal_dir, settings.name, config.journal)
        pepper = load_pepper(config, data_dir, os.environ)
        vault = open_vault(config, data_dir, os.environ)
        self._thinking = SharedThinking(lambda: redis_url(config, data_dir), vault)
        # Host and pid are for people; containers may share both.
        name = f"{socket.gethostname()}-{file}-{secrets.token_hex(4)}"
        self._sharing = HealthSharing(lambda: redis_url(config, data_dir), name)
        self._owners = RedisOwners(lambda: redis_url(config, data_dir))
        self._limiter = Limiter(nodes, name, clock_ms)
        own = config.server.workers or len(os.sched_getaffinity(0))
        self._limiter.assume_fleet(fleet.read_fleet(fleet.copy_path(data_dir), own))
        estimator = Estimator()
        # Calls are settled under the journal's name, and so is the credit they are paid out of.
        self._lender = PostgresLender(
            lambda: database_url(config, data_dir),
            lambda: self._journal.generation,
            config.billing.lease_ttl_s,
            self._recall,
        )
        outage_nanos = parse_usd(config.billing.outage_usd)
        outage = OutageCredit(balances.copy_path(data_dir), outage_nanos)
        self._credit = Credit(self._lender, config.billing, outage)
        self._budget_lender = PostgresBudgetLender(
            lambda: database_url(config, data_dir),
            lambda: self._journal.generation,
            config.billing.lease_ttl_s,
            self._recall_budget,
        )
        self._budgets = Budgets(self._budget_lender, config.billing)
        self._server = compose_server(
            config,
            self._journal,
            self._counters,
            pepper.value,
            self._sharing.on_changes,
            reservations=[
                LimitReservation(
                    self._limiter, estimator, self._counters, config.timeouts.keepalive_comment_s
                ),
                self._budgets,
                self._credit,
            ],
            quotas=ChannelQuotas(self._limiter, estimator),
            owner_store=self._owners,
            thinking=self._thinking,
        )
        self._unended = PostgresUnended(lambda: database_url(config, data_dir))
        self._adopted = adopt(self._server, self._unended)
        url = database_url(config, data_dir)
        age_s_max = config.database.copy_age_max_s
        copy = Copy(catalog.copy_path(data_dir), age_s_max) if age_s_max else None
        self._follower = CatalogFollower(
            url, vault, self._server.swap, poll_s=poll_s(config), copy=copy
        )
        self._draining = False

    def _recall(self, account_id: int) -> None:
        """Give back credit that another worker lacks: lender and credit know each other."""
        self._credit.leasing.recall(account_id)

    def _recall_budget(self, name: str) -> None:
        """Do the same for a window of a budget."""
        self._budgets.recall(name)

    async def run(self) -> None:
        """Serve from the first snapshot on; return when drained."""
        asked, hurried = _on_sigterm(asyncio.get_running_loop())
        alone = asyncio.create_task(self._lifeline.beat_until_alone(), name="lifeline")
        async with contextlib.AsyncExitStack() as parts:
            parts.callback(alone.cancel)
            parts.push_async_callback(self._follower.stop)
            parts.push_async_callback(self._sharing.stop)
            parts.push_async_callback(self._owners.stop)
            parts.push_async_callback(self._thinking.stop)
            self._journal.open()
            parts.push_async_callback(self._journal.close)
            await parts.enter_async_context(self._limiter)
            parts.callback(self._lender.close)
            parts.push_async_callback(self._credit.leasing.stop)
            parts.callback(self._budget_lender.close)
            parts.push_async_callback(self._budgets.leasing.stop)
            parts.callback(self._unended.close)
            parts.push_async_callback(self._adopted.stop)
            await first_of(self._begin(), asked.wait(), alone)
            publisher = asyncio.create_task(self._publish_forever(), name="publisher")
            parts.callback(publisher.cancel)
            await first_of(
                asked.wait(),
                alone,
                publisher,
                self._follower.wait(),
                self._credit.leasing.wait_for_end(),
                self._budgets.leasing.wait_for_end(),
            )
            self._draining = True
            await self._adopted.stop()
            if not alone.done():
                drain = self._server.drain(self._config.server.drain_s)
                await first_of(drain, hurried.wait(), alone)
            await self._server.drain(0)
            # Nothing is served any more; what does not close now has to be ended.
            end_within(CLOSE_S)
            self._publish(0)

    async def _begin(self) -> None:
        await self._follower.start()
        self._sharing.start(self._server.engine.balancer.health)
        self._owners.start()
        self._credit.leasing.start()
        self._budgets.leasing.start()
        self._thinking.start()
        self._adopted.start()
        await self._server.start(self._listener)
        gc.collect()
        gc.freeze()
        gc.set_threshold(*GC_THRESHOLDS)
        self._publish(0)
        self._lifeline.tell_ready()

    async def _publish_forever(self) -> None:
        loop, moved, quiet = asyncio.get_running_loop(), -1, 0
        while True:
            wait_s = until_beat_s(PUBLISH_S)
            due_s = loop.time() + wait_s
            await asyncio.sleep(wait_s)
            before, moved = moved, self._counters.moved
            quiet = quiet + 1 if moved == before else 0
            if quiet % QUIET_TURNS == 0:
                self._publish(max(0, round((loop.time() - due_s) * 1e6)))

    def _publish(self, lag_us: int) -> None:
        self._counters.loop_lag_us = lag_us
        self._counters.limiter_fallback_ms = round(self._limiter.fallback_ms)
        self._counters.limiter_flights = self._limiter.batches
        self._counters.limiter_losses = self._limiter.losses
        gauges = {
            "time_seconds": wall_s(),
            "clock_seconds": clock_s(),
            "generation": float(self._follower.snapshot.generation),
            "snapshot_age_seconds": self._follower.age_s,
            "journal_healthy": float(self._journal.healthy),
            "draining": float(self._draining),
            "limiter_lost": float(self._limiter.lost),
            "limiter_workers": float(self._limiter.fleet),
            **self._credit.gauges(),
            "resident_memory_bytes": float(_resident_bytes()),
            "tasks": float(len(asyncio.all_tasks())),
        }
        # A disk without room must not stop the relay from relaying.
        with contextlib.suppress(OSError):
            unread = self._server.engine.background.looks.unread()
            figures = self._counters.snapshot(gauges, unread)
            self._publisher.publish(figures)


def _on_sigterm(loop: asyncio.AbstractEventLoop) -> tuple[asyncio.Event, asyncio.Event]:
    """Return the events of the first SIGTERM (drain) and of the second one (at once)."""
    asked, hurried = asyncio.Event(), asyncio.Event()

    def on_sigterm() -> None:
        if asked.is_set():
            hurried.set()
        asked.set()

    loop.add_signal_handler(signal.SIGTERM, on_sigterm)
    return asked, hurried


def _resident_bytes() -> int:
    """Return this process's resident memory; 0 where that cannot be read now.

    Source: proc(5), /proc/pid/statm: the second field, in pages.
    """
    try:
        return int(_STATM.read_bytes().split()[1]) * _PAGE_BYTES
    except OSError:  # no descriptor is free: a figure is missing, and calls go on
        return 0
