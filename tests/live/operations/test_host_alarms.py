"""Goal: what happens to a host reaches its operator's webhook, once, and that it is over, once.

Method: a whole relay with a webhook; a worker killed, its Postgres and its Redis stopped and let go
on, a reload that its configuration refuses and one that is good.
"""

import json
import os
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.flow.test_webhook import Receiver, receiving
from tests.live.relay_process import RelayProcess, family, until
from tests.live.relay_process import until_told as ask_until

pytestmark = [pytest.mark.live, pytest.mark.slow, pytest.mark.timeout(180)]


def told(receiver: Receiver) -> list[str]:
    return [json.loads(body)["event"] for body in receiver.bodies]


async def until_told(receiver: Receiver, *events: str) -> None:
    """Wait until each of `events` was told, and see that it was told once."""
    await until(lambda: set(events) <= set(told(receiver)), f"{events} are told", 40.0)
    assert {event: told(receiver).count(event) for event in events} == dict.fromkeys(events, 1)


@asynccontextmanager
async def stopped(relay: RelayProcess, *programs: str) -> AsyncIterator[None]:
    """Stop the embedded servers that are these programs, with all they run, for a while."""
    found = [one for one in family(relay.process.pid) if one.program in programs]
    assert found
    for process in found:
        os.kill(process.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for process in reversed(found):
            os.kill(process.pid, signal.SIGCONT)


def young_s(relay: RelayProcess) -> float:
    """Return when the worker published last of which we have known for longest."""
    return min((said.gauges["time_seconds"] for _, said in relay.workers().values()), default=0.0)


async def relay_says(relay: RelayProcess, line: str) -> None:
    """Wait until the metrics of the control process that serves say so."""

    async def said() -> bool:
        return line in await relay.metrics()

    await ask_until(said, line)


async def test_each_alarm_is_told_and_its_end(reachable: Path) -> None:
    config = reachable / "alarms.toml"
    config.write_text("")
    async with receiving() as receiver:
        environ = {"RELAY_ALERTS__WEBHOOK": receiver.url, "RELAY_CONFIG": str(config)}
        relay = RelayProcess.start(reachable / "alarms", environ=environ)
        async with relay:
            begun_s = time.time_ns() / 1e9
            await until(lambda: young_s(relay) > begun_s + 3, "the control process has looked")
            pid, _ = relay.workers()["worker-0"]
            os.kill(pid, signal.SIGKILL)
            await until_told(receiver, "worker_died", "worker_died_over")

            async with stopped(relay, "postgres"):
                await until_told(receiver, "postgres_lost")
            await until_told(receiver, "postgres_lost_over")

            async with stopped(relay, "valkey-server"):
                await until_told(receiver, "redis_lost")
            await until_told(receiver, "redis_lost_over")

            config.write_text("[server]\nnonsense = 1\n")
            relay.process.send_signal(signal.SIGHUP)
            await until_told(receiver, "reload_failed")
            config.write_text("")
            relay.process.send_signal(signal.SIGHUP)
            await until_told(receiver, "reload_failed_over")
            await relay_says(relay, 'relay_troubles{event="reload_failed"} 0.0')
        events = told(receiver)
    # Nothing else was told but what follows from a Postgres that is away, and no end is missing.
    begun = [event for event in events if not event.endswith("_over")]
    assert set(begun) <= {
        "worker_died",
        "postgres_lost",
        "redis_lost",
        "reload_failed",
        "shipping_waits",
    }
    assert sorted(begun) == sorted(
        event.removesuffix("_over") for event in events if event.endswith("_over")
    )
