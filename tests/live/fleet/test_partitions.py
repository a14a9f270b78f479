"""Goal: a host that is cut off or paused harms nobody, keeps stated bounds, and comes back.

Method: two hosts in network namespaces on one Redis and one Postgres; for a while (a minute where
RELAY_FLEET_OUTAGE_S says 60) host 0 loses its wire to Redis, to Postgres, to both, or is stopped as
a hypervisor stops it, while clients call both. The bounds:

    host 1                serves as ever
    host 0, cut off       serves: limits on its share, credit of what is leased
    a line, meanwhile     1.5 times its rate: the share of host 0 beside all of it on host 1
    keys, meanwhile       made: unknown on host 0; disabled: refused there once it can ask again
    afterwards            within BACK_S: both as ever, each call in the log once, no drift
"""

import asyncio
import os
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractContextManager, ExitStack, asynccontextmanager
from pathlib import Path
from typing import Final, NamedTuple

import pytest

from relay.store.billing.audit import run_audit
from tests.live.flood import Crowd, Upstream, request_of
from tests.live.redis_servers import Fleet
from tests.live.relay_process import ask, question, settle, until_told
from tests.live.two_hosts import Pair, two_hosts
from tests.live.wires import Wire, Wires

pytestmark = [pytest.mark.live, pytest.mark.slow, pytest.mark.timeout(280)]

CATALOG: Final = """
[[channel]]
name = "plenty"
base_url = "http://{upstream}/v1"
models = ["open", "bounded"]
[[line]]
name = "free"
channels = ["plenty"]
[[line]]
name = "narrow"
tpm = 3000000
wait_ms = 0
channels = ["plenty"]
[[group]]
name = "all"
lines = ["free", "narrow"]
[[price]]
model = "open"
input = "0"
output = "0"
per_call = "0.000001"
[[price]]
model = "bounded"
input = "0"
output = "0"
[[account]]
name = "folk"
group = "all"
credit_limit = "1000"
"""
OUTAGE_S: Final = float(os.environ.get("RELAY_FLEET_OUTAGE_S", "10"))
BEFORE_S: Final = 8.0
"""The narrow line's burst is used up by then."""
BACK_S: Final = max(20.0, OUTAGE_S)
"""TCP asks a peer that was away again after up to as long as it was away."""
LATE_S: Final = 1.0
"""A machine with more to do than cores makes anybody wait for tenths of a second."""
CALLS_PER_S: Final = 10.0
TOKENS: Final = 5_000
NARROW_PER_S: Final = 50_000
NARROW_CALLS_PER_S: Final = 10.0
BURST_S: Final = 6.0


class Fault(NamedTuple):
    """What happens to host 0, and whether it answers meanwhile."""

    name: str
    wires: Sequence[Wire] = ()

    def strike(self, pair: Pair) -> AbstractContextManager[None]:
        return pair.wires.cut(0, *self.wires) if self.wires else pair.stopped(0)


FAULTS: Final = [
    Fault("from Redis", [Wire.REDIS]),
    Fault("from Postgres", [Wire.POSTGRES]),
    Fault("from both", [Wire.REDIS, Wire.POSTGRES]),
    Fault("paused"),
]
"""Where nothing is cut, the host is stopped."""


class Load(NamedTuple):
    """Clients of one host, on a line without and on one with a limit."""

    free: Crowd
    narrow: Crowd


@asynccontextmanager
async def serving(
    folder: Path, wires: Wires, database_url: str, program: Path, tmp_path: Path
) -> AsyncIterator[Pair]:
    loop = asyncio.get_running_loop()
    here = wires.here(Wire.CLIENTS)
    upstream = await loop.create_server(lambda: Upstream(TOKENS - 10, 10), here, 0)
    with ExitStack() as ends:
        fleet = Fleet(program, tmp_path, ends, wires.here(Wire.REDIS))
        environ = {"RELAY_REDIS__URL": fleet.url(fleet.start())}
        async with upstream, two_hosts(folder, wires, database_url, environ) as pair:
            await pair.begin()
            port = upstream.sockets[0].getsockname()[1]
            await pair.one.apply(CATALOG.format(upstream=f"{here}:{port}"))
            yield pair


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
async def test_a_host_that_is_cut_off(
    folder: Path,
    wires: Wires,
    empty_database_url: str,
    program: Path,
    tmp_path: Path,
    fault: Fault,
) -> None:
    async with serving(folder, wires, empty_database_url, program, tmp_path) as pair:
        free, narrow = [await make_key(pair, name) for name in ("free", "narrow")]
        gone = await make_key(pair, "gone")
        loads = [await connect(pair, place, free, narrow) for place in range(2)]
        offering = [asyncio.create_task(offer(load)) for load in loads]
        await asyncio.sleep(BEFORE_S)
        with fault.strike(pair):
            struck_s = time.monotonic()
            await asyncio.sleep(1.0)
            await pair.two.cli("key", "disable", "gone")
            disabled_s = time.monotonic()
            assert await settle(pair.two, gone, 401) < disabled_s + 1.0
            if Wire.POSTGRES in fault.wires:
                fresh = await pair.two.make_key("fresh")
                assert (await ask(pair.one, fresh, question("open"))).status == 401
                assert (await ask(pair.one, gone, question("open"))).status == 200
            await asyncio.sleep(max(OUTAGE_S - (time.monotonic() - struck_s), 0.0))
            mended_s = time.monotonic()
        await settle_within(pair, gone, 401, mended_s + BACK_S)
        await is_well(pair, mended_s + BACK_S)
        back_s = time.monotonic() - mended_s
        await asyncio.sleep(2.0)
        for task in offering:
            task.cancel()
        await asyncio.gather(*offering, return_exceptions=True)
        await all_answered(loads)
        check_calls(fault, loads, struck_s, mended_s, back_s)
        await check_books(pair, loads)


async def make_key(pair: Pair, name: str) -> str:
    line = "narrow" if name == "narrow" else "free"
    made = await pair.one.cli("key", "create", "--account", "folk", "--name", name, "--line", line)
    key = next(word for word in made.split() if word.startswith("relay_"))
    await pair.key_works(key)
    return key


async def connect(pair: Pair, place: int, free: str, narrow: str) -> Load:
    host = pair[place].address.partition(":")[0]
    found = Load(
        Crowd(request_of(free, "open", 4 * (TOKENS - 10), 10)),
        Crowd(request_of(narrow, "bounded", 4 * (TOKENS - 10), 10)),
    )
    for crowd in found:
        await crowd.connect(8080, 16, host)
    return found


async def offer(load: Load) -> None:
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(load.free.offer(CALLS_PER_S, 3600))
        tasks.create_task(load.narrow.offer(NARROW_CALLS_PER_S, 3600))


async def settle_within(pair: Pair, key: str, status: int, until_s: float) -> None:
    """See that both hosts answer so in time, and go on to."""
    for host in pair:
        assert await settle(host, key, status) < until_s


async def is_well(pair: Pair, until_s: float) -> None:
    """Wait until neither host says that anything is degraded."""

    async def well() -> bool:
        said = [await host.readiness() for host in pair]
        return all(status == 200 and not told.get("degraded") for status, told in said)

    await until_told(well, "nothing is degraded", max(until_s - time.monotonic(), 0.1))


async def all_answered(loads: Sequence[Load]) -> None:
    async def idle() -> bool:
        return all(len(crowd.idle) == 16 for load in loads for crowd in load)

    await until_told(idle, "every call is answered")


def check_calls(
    fault: Fault, loads: Sequence[Load], struck_s: float, mended_s: float, back_s: float
) -> None:
    """See that no call failed, and that the narrow line stayed within its bound."""
    statuses = Counter(call.status for load in loads for call in load.free.calls)
    assert set(statuses) == {200}, statuses
    slow = {place: slowest(load, struck_s, mended_s) for place, load in enumerate(loads)}
    narrow = [call for load in loads for call in load.narrow.calls]
    assert {call.status for call in narrow} == {200, 429}, [
        [len(load.narrow.calls), load.narrow.late] for load in loads
    ]
    span_s = mended_s - struck_s
    admitted = TOKENS * sum(
        call.status == 200 and struck_s <= call.asked_s < mended_s for call in narrow
    )
    print(  # noqa: T201
        f"{fault.name}: slowest {slow}, narrow line {admitted / span_s / NARROW_PER_S:.2f} of its"
        f" rate, well again after {back_s:.1f} s"
    )
    assert slow[1] < LATE_S
    assert slow[0] < (LATE_S if fault.wires else span_s + BACK_S)
    assert admitted <= NARROW_PER_S * (1.5 * span_s + BURST_S / 2)
    assert admitted >= NARROW_PER_S * 0.4 * span_s
    assert all(crowd.lost == 0 for load in loads for crowd in load)


def slowest(load: Load, struck_s: float, mended_s: float) -> float:
    return max(call.took_s for call in load.free.calls if struck_s <= call.asked_s < mended_s)


async def check_books(pair: Pair, loads: Sequence[Load]) -> None:
    made = sum(len(load.free.calls) for load in loads)
    async with pair.books() as books:

        async def booked() -> bool:
            found = await books.fetchval(
                "SELECT count(*) FROM request_log WHERE model = 'open' AND key_id = "
                "(SELECT id FROM keys WHERE name = 'free')"
            )
            return bool(found == made)

        await until_told(booked, f"all {made} calls are in the log, once", BACK_S)
        assert (await run_audit(books)).drifts == []
