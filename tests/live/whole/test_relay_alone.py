"""Goal: Postgres and Redis away, a worker and the whole relay start and serve; nothing is lost.

Method: a real relay on databases of its own, which are stopped under it. Then a worker is killed,
or the whole relay and started again, calls are made on active and on idle accounts, and when the
databases are back every call has to be in the log, once, and the books without drift.
"""

import asyncio
import os
import signal
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from relay.store.embedded.embedded import Embedded
from tests.live.host_rig import Host, own_databases
from tests.live.relay_process import ask, question, until, until_told

pytestmark = [pytest.mark.live, pytest.mark.timeout(180)]

CATALOG = """
[[channel]]
name = "mock"
base_url = "{upstream}"
models = ["steady"]
[[line]]
name = "town"
channels = ["mock"]
concurrency = 100
[[group]]
name = "folk"
lines = ["town"]
[[price]]
model = "steady"
input = "1"
output = "2"
[[account]]
name = "busy"
group = "folk"
[[account]]
name = "idle"
group = "folk"
[[account]]
name = "broke"
group = "folk"
"""
CALLS = 30


@pytest.fixture
def folder(reachable: Path) -> Path:
    found = Path(tempfile.mkdtemp(prefix="alone-", dir=reachable))
    found.chmod(0o755)
    return found


@pytest.fixture
async def databases(folder: Path) -> AsyncIterator[Embedded]:
    async with own_databases(folder) as found:
        yield found


@pytest.fixture
async def host(folder: Path, databases: Embedded, upstream: str) -> AsyncIterator[Host]:
    host = Host(folder / "host", databases)
    await host.begin()
    try:
        await host.apply(CATALOG.format(upstream=upstream))
        for account in ("busy", "idle"):
            await host.cli(
                "recharge", "--account", account, "--amount", "20", "--order", f"o-{account}"
            )
        yield host
    finally:
        await host.end()


async def make_keys(host: Host) -> dict[str, str]:
    keys = {name: await host.make_key(f"k-{name}", name) for name in ("busy", "idle", "broke")}
    assert (await ask(host, keys["busy"])).status == 200
    return keys


async def copied(host: Host, wanted: int) -> None:
    """Wait until the copies on disk know the keys and the balances."""
    folder = host.data_dir / "copies"
    generation = max(said.gauges["generation"] for _, said in host.workers().values())
    before = {name: _stamp(folder / name) for name in ("catalog", "balances")}
    assert generation >= wanted
    await until(lambda: _stamp(folder / "catalog") > before["catalog"], "the catalog is copied")
    await until(
        lambda: _stamp(folder / "balances") > before["balances"], "the balances are copied", 40
    )


def _stamp(path: Path) -> float:
    return path.stat().st_mtime if path.exists() else 0.0


async def calls(host: Host, key: str, count: int) -> set[str]:
    answers = await asyncio.gather(*(ask(host, key) for _ in range(count)))
    failed = {answer.body for answer in answers if answer.status != 200}
    assert not failed
    return {answer.request_id for answer in answers}


async def booked(host: Host, key_name: str, wanted: set[str]) -> None:
    rows = await host.rows(key_name, len(wanted))
    assert sorted(row["request_id"] for row in rows) == sorted(wanted)


async def test_a_relay_without_its_databases_starts_serves_and_books_it_all(
    host: Host, databases: Embedded
) -> None:
    keys = await make_keys(host)
    await copied(host, 1)
    await databases.stop()
    made: dict[str, set[str]] = {"busy": set(), "idle": set()}

    # A worker dies: its successor serves at once, though nobody can be asked.
    (_, (victim, _)), *_ = host.workers().items()
    os.kill(victim, signal.SIGKILL)
    await until(lambda: victim not in {pid for pid, _ in host.workers().values()}, "it is replaced")
    for name in made:
        made[name] |= await calls(host, keys[name], CALLS)

    # The whole relay goes, without a word, and comes back.
    host.destroy()
    await host.begin()
    assert host.said("starting without Postgres")
    for name in made:
        made[name] |= await calls(host, keys[name], CALLS)
    refused = await ask(host, keys["broke"])
    assert refused.status == 503

    async def told() -> bool:
        status, said = await host.readiness()
        reasons = " ".join(said["degraded"])
        return status == 200 and "Redis" in reasons and "the catalog was last confirmed" in reasons

    await until_told(told, "readiness tells what is away")
    assert (await ask(host, "sk-relay-" + "x" * 40)).status == 401

    await databases.start()

    async def well() -> bool:
        status, said = await host.readiness()
        return status == 200 and not said["degraded"]

    await until_told(well, "the relay is well again", 40)
    made["idle"] |= await calls(host, keys["idle"], 5)
    # The first call of the busy account was made before.
    rows = await host.rows("k-busy", len(made["busy"]) + 1)
    assert {row["request_id"] for row in rows} > made["busy"]
    await booked(host, "k-idle", made["idle"])
    assert (await ask(host, keys["broke"])).status == 429
    assert "no drift" in (await host.cli("audit")).lower()


async def test_the_outage_of_an_account_ends_where_its_advance_does(
    host: Host, databases: Embedded
) -> None:
    host.environ["RELAY_BILLING__OUTAGE_USD"] = "0.01"
    keys = await make_keys(host)
    await copied(host, 1)
    await databases.stop()
    host.destroy()
    await host.begin()
    dear = question(max_tokens=4000)  # holds 0.008 USD: one such call at a time and worker
    answers = await asyncio.gather(*(ask(host, keys["idle"], dear) for _ in range(8)))
    statuses = sorted(answer.status for answer in answers)
    assert statuses.count(200) in (1, 2), statuses
    assert statuses.count(503) == 8 - statuses.count(200)


async def test_a_copy_that_is_too_old_is_not_served_from(host: Host, databases: Embedded) -> None:
    await make_keys(host)
    await copied(host, 1)
    host.environ["RELAY_DATABASE__COPY_AGE_MAX_S"] = "60"
    await databases.stop()
    host.destroy()
    copy = host.data_dir / "copies" / "catalog"
    os.utime(copy, (copy.stat().st_atime, copy.stat().st_mtime - 120))
    host.launch()
    await until(lambda: host.said("the copy on disk is"), "it says that the copy is too old")
    assert (await host.readiness())[0] != 200
    await databases.start()
    await host.until_ready()
