"""Goal: operators see, start and skip the night; no client notices it, nor workers followed in it.

Method: a whole relay whose every worker is too large, called all the while from outside; the real
commands, and the admin API.
"""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.live.relay_process import RelayProcess, ask, question, until

pytestmark = [pytest.mark.live, pytest.mark.timeout(180)]


@pytest.fixture
async def relay(reachable: Path) -> AsyncIterator[RelayProcess]:
    environ = {
        "RELAY_MAINTENANCE__WORKER_BYTES_MAX": str(1024 * 1024),
        "RELAY_MAINTENANCE__WINDOW": "03:00-02:59",  # the night is now, but for a minute
    }
    relay = RelayProcess.start(reachable / "night", environ=environ)
    async with relay:
        yield relay


async def status(relay: RelayProcess) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(await relay.cli("maintenance", "status", "--json"))
    return found


async def test_a_night_that_nobody_notices(relay: RelayProcess) -> None:
    await relay.figures_published()
    before = {slot: pid for slot, (pid, _) in relay.workers().items()}
    statuses: list[int] = []
    done = asyncio.Event()

    async def call() -> None:
        while not done.is_set():
            statuses.append((await ask(relay, relay.key, question("demo-model"))).status)

    async with asyncio.TaskGroup() as group:
        for _ in range(4):
            group.create_task(call())
        said = await relay.cli("maintenance", "run")
        done.set()
    lines = {line.partition(":")[0]: line for line in said.splitlines()}
    assert set(lines) == {"memory", "backup", "rewrap", "retention", "vacuum", "reindex"}
    assert all(": done, " in line for line in lines.values()), said
    assert "2 of 2 steps; worker-0: " in lines["memory"]
    assert statuses.count(200) == len(statuses) > 20

    after = {slot: pid for slot, (pid, _) in relay.workers().items()}
    assert set(after) == set(before)
    assert not set(after.values()) & set(before.values())

    found = await status(relay)
    assert {work["outcome"] for work in found["works"]} == {"done"}
    assert "retention" in await relay.cli("maintenance", "status")
    figures = await relay.metrics()
    assert 'relay_maintenance_ok{work="vacuum"} 1.0' in figures
    assert 'relay_maintenance_duration_seconds{work="vacuum"}' in figures
    assert "maintenance: vacuum done" in relay.words.read_text()


async def test_nights_are_skipped_and_opened_again(relay: RelayProcess) -> None:
    await relay.cli("maintenance", "skip", "--nights", "3")
    found = await status(relay)
    assert found["skip_until"] is not None
    assert not found["open"]
    assert found["opens"] > found["skip_until"]
    assert (await relay.api("maintenance"))["skip_until"] is not None
    await relay.api("maintenance/skip", {"nights": 0})
    assert (await status(relay))["skip_until"] is None
    await relay.api("maintenance/run", {"works": ["backup"]})
    acts = "maintenance: backup done"
    await until(lambda: acts in relay.words.read_text(), "the back-up is looked at")


async def test_a_run_that_nobody_can_do_says_so(relay: RelayProcess) -> None:
    complaint = await relay.cli("maintenance", "run", "dust", code=2)
    assert complaint == ""
