"""Goal: a dedicated line of 30M tokens a minute that is offered 45M admits what it was sold.

Method: a real relay with two workers, real HTTP calls of 1,500 tokens each at a fixed pace, and a
trickle of calls on another line, which must not notice.
"""

import asyncio
import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.live.flood import Call, Crowd, Upstream, quantile, request_of
from tests.live.relay_process import RelayProcess

pytestmark = [pytest.mark.live, pytest.mark.slow, pytest.mark.timeout(280)]

CATALOG = """
[[channel]]
name = "flooded"
base_url = "http://127.0.0.1:{port}/v1"
models = ["flood"]
[[channel]]
name = "calm"
base_url = "http://127.0.0.1:{port}/v1"
models = ["calm"]
[[line]]
name = "sold"
kind = "dedicated"
channels = ["flooded"]
[[line]]
name = "other"
kind = "dedicated"
channels = ["calm"]
[[group]]
name = "all"
lines = ["sold", "other"]
[[price]]
model = "flood"
input = "0"
output = "0"
[[price]]
model = "calm"
input = "0"
output = "0"
[[account]]
name = "folk"
group = "all"
credit_limit = "1000000"
"""
CALL_TOKENS = 1_500
CALLS_PER_S = 500
CALM_PER_S = 4.0
CALM_S = 30.0
FLOOD_S = 80.0
WINDOW_S = 60.0


async def test_thirty_million_a_minute(reachable: Path) -> None:
    loop = asyncio.get_running_loop()
    upstream = await loop.create_server(lambda: Upstream(1_000, 500), "127.0.0.1", 0)
    port = upstream.sockets[0].getsockname()[1]
    async with upstream, RelayProcess.start(reachable / "flood") as relay:
        await relay.apply(CATALOG.format(port=port))
        key = await relay.make_key("flooder")
        listens = int(relay.address.rpartition(":")[2])
        flood = Crowd(request_of(key, "flood", 4_000, 500))
        calm = Crowd(request_of(key, "calm", 4_000, 500))
        await calm.connect(listens, 8)
        await calm.offer(CALM_PER_S, CALM_S)
        before = calm.calls[:]
        batches = await batches_of(relay)
        await flood.connect(listens, 96)  # a connection that asks nothing for long is closed
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(flood.offer(CALLS_PER_S, FLOOD_S))
            tasks.create_task(calm.offer(CALM_PER_S, FLOOD_S))
        listed = json.loads(await relay.cli("line", "list", "--json"))
        lost = flood.lost
        explained = json.loads(await relay.cli("limits", "explain", "--key", "flooder", "--json"))
        batches = await batches_of(relay) - batches
    during = calm.calls[len(before) :]
    admitted = [call for call in flood.calls if call.status == 200]
    refused = [call for call in flood.calls if call.status == 429]
    said: dict[str, Any] = {
        "offered_m": round(len(flood.calls) * CALL_TOKENS * 60 / FLOOD_S / 1e6, 2),
        "most_in_60s_m": round(windows(admitted)[1] / 1e6, 2),
        "least_in_60s_m": round(windows(admitted)[0] / 1e6, 2),
        "refused_ms": [round(quantile([c.took_s for c in refused], q), 2) for q in (0.5, 0.99)],
        "admitted_ms": [round(quantile([c.took_s for c in admitted], q), 2) for q in (0.5, 0.99)],
        "calm_before_ms": [round(quantile([c.took_s for c in before], q), 2) for q in (0.5, 0.99)],
        "calm_during_ms": [round(quantile([c.took_s for c in during], q), 2) for q in (0.5, 0.99)],
        "flights_per_call": round(batches / (len(flood.calls) + len(during)), 4),
        "late": flood.late,
        "load": {row["name"]: row["tpm_load"] for row in listed},
    }
    sys.stdout.write(json.dumps(said) + "\n")
    assert [row["limit"] for row in explained["limits"] if row["binds"]] == [30_000_000]
    assert len(admitted) + len(refused) == len(flood.calls) and lost == 0
    assert said["late"] < 0.01 * len(flood.calls), said
    assert said["most_in_60s_m"] <= 33.3, said
    assert said["least_in_60s_m"] >= 29.7, said
    assert said["refused_ms"][0] <= 5, said
    assert all(call.status == 200 for call in calm.calls)
    assert said["calm_during_ms"][1] <= said["calm_before_ms"][1] + 10, said
    assert said["flights_per_call"] <= 0.05, said


def windows(calls: list[Call]) -> tuple[int, int]:
    """Return the least and the most tokens of any 60 s, by steps of 250 ms."""
    times = sorted(call.asked_s for call in calls)
    begun_s, most, least = times[0], 0, 10**12
    at = begun_s
    while at + WINDOW_S <= begun_s + FLOOD_S:
        inside = CALL_TOKENS * sum(1 for t in times if at <= t < at + WINDOW_S)
        most, least = max(most, inside), min(least, inside)
        at += 0.25
    return least, most


async def batches_of(relay: RelayProcess) -> int:
    await relay.figures_published()
    found = re.search(r"^relay_limiter_flights_total (\S+)$", await relay.metrics(), re.MULTILINE)
    assert found is not None
    return int(float(found[1]))
