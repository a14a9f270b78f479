"""Goal: two relays on one Redis and one Postgres are one, through a failover of that Redis.

Method: two hosts in network namespaces of their own, behind Sentinels and on a cluster. A line of
30M tokens a minute is offered half as much again over both while the primary is killed; a balance
for fifty calls meets five hundred at once; a key is disabled. A machine of two cores cannot make
500 calls a second beside two relays, so the calls are large ones; the tokens are as sold.
"""

import asyncio
import json
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from decimal import Decimal
from pathlib import Path
from typing import Final, NamedTuple

import pytest

from relay.store.billing.audit import run_audit
from tests.live.flood import Call, Crowd, Upstream, request_of
from tests.live.host_rig import Host
from tests.live.redis_servers import Fleet, start_cluster, start_trio
from tests.live.relay_process import ask, question, settle, until_told
from tests.live.two_hosts import Pair, two_hosts
from tests.live.wires import Wire, Wires

pytestmark = [pytest.mark.live, pytest.mark.slow, pytest.mark.timeout(280)]

CATALOG: Final = """
[[channel]]
name = "plenty"
base_url = "http://{upstream}/v1"
models = ["flood", "cent"]
[[line]]
name = "sold"
kind = "dedicated"
channels = ["plenty"]
[[group]]
name = "all"
lines = ["sold"]
[[price]]
model = "flood"
input = "0"
output = "0"
[[price]]
model = "cent"
input = "0"
output = "0"
per_call = "0.01"
[[account]]
name = "folk"
group = "all"
credit_limit = "1000000"
[[account]]
name = "fifty"
group = "all"
"""
INPUT_TOKENS: Final = 4_000
OUTPUT_TOKENS: Final = 2_000
CALL_TOKENS: Final = INPUT_TOKENS + OUTPUT_TOKENS
SOLD_PER_S: Final = 500_000
OFFERED_PER_S: Final = 1.5 * SOLD_PER_S / CALL_TOKENS
FLOOD_S: Final = float(os.environ.get("RELAY_FLEET_FLOOD_S", "84"))
BURST_GONE_S: Final = 18.0
"""What the line had saved up is spent by then: 6 s of its rate, at half of that a second."""
KILLED_AT_S: Final = 35.0
WINDOW_S: Final = 60.0
CALLS: Final = 500
CENTS: Final = 50


class Redis(NamedTuple):
    """A Redis that can be failed over: what the hosts are told of it, and who is killed."""

    environ: dict[str, str]
    victim: int
    successor: int
    fleet: Fleet


@pytest.fixture(params=["Sentinels", "a cluster"])
async def redis(
    request: pytest.FixtureRequest, program: Path, tmp_path: Path, wires: Wires
) -> AsyncIterator[Redis]:
    with ExitStack() as ends:
        fleet = Fleet(program, tmp_path, ends, wires.here(Wire.REDIS))
        if request.param == "Sentinels":
            trio = await start_trio(fleet)
            yield Redis(
                address("redis+sentinel", fleet, trio.sentinels, "/relay"),
                trio.primary,
                trio.replica,
                fleet,
            )
        else:
            ports, replica = await start_cluster(fleet)
            yield Redis(address("redis+cluster", fleet, ports), ports[0], replica, fleet)


def address(scheme: str, fleet: Fleet, ports: list[int], path: str = "") -> dict[str, str]:
    """Return what a host is told: one address of all that Redis is for."""
    hosts = ",".join(f"{fleet.address}:{port}" for port in ports)
    return {"RELAY_REDIS__URL": f"{scheme}://{hosts}{path}"}


@asynccontextmanager
async def serving(
    folder: Path, wires: Wires, database_url: str, redis: Redis
) -> AsyncIterator[Pair]:
    loop = asyncio.get_running_loop()
    here = wires.here(Wire.CLIENTS)
    upstream = await loop.create_server(lambda: Upstream(INPUT_TOKENS, OUTPUT_TOKENS), here, 0)
    async with upstream, two_hosts(folder, wires, database_url, redis.environ) as pair:
        await pair.begin()
        port = upstream.sockets[0].getsockname()[1]
        await pair.one.apply(CATALOG.format(upstream=f"{here}:{port}"))
        yield pair


async def test_thirty_million_a_minute_over_both_through_a_failover(
    folder: Path, wires: Wires, empty_database_url: str, redis: Redis
) -> None:
    async with serving(folder, wires, empty_database_url, redis) as pair:
        key = await pair.one.make_key("flooder")
        await pair.key_works(key)
        crowds = [Crowd(request_of(key, "flood", INPUT_TOKENS * 4, OUTPUT_TOKENS)) for _ in pair]
        for host, crowd in zip(pair, crowds, strict=True):
            await crowd.connect(8080, 48, host.address.partition(":")[0])
        begun_s = time.monotonic()
        async with asyncio.TaskGroup() as tasks:
            for crowd in crowds:
                tasks.create_task(crowd.offer(OFFERED_PER_S / 2, FLOOD_S))
            tasks.create_task(fail_over(redis))
        calls = [call for crowd in crowds for call in crowd.calls]
        lost = [await fallback_s(host) for host in pair]
    admitted = [call for call in calls if call.status == 200]
    least, most = windows(admitted, begun_s + BURST_GONE_S)
    each = [sum(call.status == 200 for call in crowd.calls) * CALL_TOKENS for crowd in crowds]
    statuses = Counter(call.status for call in calls)
    said = {
        "offered_m_a_minute": round(len(calls) * CALL_TOKENS * 60 / FLOOD_S / 1e6, 2),
        "least_in_60s_m": round(least / 1e6, 2),
        "most_in_60s_m": round(most / 1e6, 2),
        "by_host_m": [round(tokens / 1e6, 2) for tokens in each],
        "on_shares_s": lost,
        "late": [crowd.late for crowd in crowds],
        "statuses": statuses,
    }
    sys.stdout.write(json.dumps(said) + "\n")
    assert set(statuses) == {200, 429}, said
    assert sum(lost) > 0, "the failover was noticed"
    assert least >= 60 * SOLD_PER_S * 0.99, said
    assert most <= 60 * SOLD_PER_S * 1.01, said


async def fail_over(redis: Redis) -> None:
    """Kill the primary in the middle, and see that its replica takes over."""
    await asyncio.sleep(KILLED_AT_S)
    redis.fleet.processes[redis.victim].send_signal(signal.SIGKILL)
    await redis.fleet.says(redis.successor, b"role:master", "INFO", "replication")


def windows(calls: list[Call], from_s: float) -> tuple[int, int]:
    """Return the least and the most tokens of any 60 s, behind the first burst."""
    times = sorted(call.asked_s for call in calls)
    found = []
    while from_s + WINDOW_S <= times[-1]:
        found.append(CALL_TOKENS * sum(1 for t in times if from_s <= t < from_s + WINDOW_S))
        from_s += 0.5
    return min(found), max(found)


async def fallback_s(host: Host) -> float:
    """Return for how long a host's limits lived on its workers' shares."""
    await host.figures_published()
    for line in (await host.metrics()).splitlines():
        if line.startswith("relay_limiter_fallback_seconds_total"):
            return float(line.rpartition(" ")[2])
    return 0.0


async def test_five_hundred_calls_on_a_balance_for_fifty(
    folder: Path, wires: Wires, empty_database_url: str, redis: Redis
) -> None:
    async with (
        serving(folder, wires, empty_database_url, redis) as pair,
        pair.books() as books,
    ):
        key = await make(pair, "fifty")
        await pair.one.cli(
            "recharge", "--account", "fifty", "--amount", "0.50", "--order", "fleet-1"
        )
        body = question("cent", max_tokens=1)
        answers = await asyncio.gather(
            *(ask(pair[number % 2], key, body) for number in range(CALLS))
        )
        statuses = Counter(answer.status for answer in answers)
        assert set(statuses) == {200, 429}, statuses
        assert statuses[200] <= CENTS
        # What one host leased and did not need comes back, whoever asks then.
        while (await ask(pair.two, key, body)).status == 200:
            statuses[200] += 1
        assert statuses[200] == CENTS

        async def settled() -> bool:
            row = await books.fetchrow(
                "SELECT balance_nanos FROM balances JOIN accounts ON id = account_id "
                "WHERE name = 'fifty'"
            )
            return row is not None and Decimal(row[0]) == 0

        await until_told(settled, "the balance is spent to the last cent")
        assert (await run_audit(books)).drifts == []


async def make(pair: Pair, account: str) -> str:
    """Make a key of an account without a balance; wait until both hosts know it."""
    made = await pair.one.api("keys", {"account": account, "name": account})
    key: str = made["key"]
    for host in pair:
        await settle(host, key, 200)
    return key


async def test_a_key_is_disabled_on_both_within_a_second(
    folder: Path, wires: Wires, empty_database_url: str, redis: Redis
) -> None:
    async with serving(folder, wires, empty_database_url, redis) as pair:
        key = await make(pair, "folk")
        await pair.one.cli("key", "disable", "folk")
        disabled_s = time.monotonic()
        for last_s in await asyncio.gather(*(settle(host, key, 401) for host in pair)):
            assert last_s < disabled_s + 1.0, last_s - disabled_s
