"""Goal: each paid order is credited once, whatever dies between a callback and its answer.

Method: a shop that sends each callback on until it is answered with 200, several times at once and
in any order, to a whole relay whose control process and Postgres are killed with kill -9 meanwhile,
at moments drawn from a seed that is printed.
"""

import asyncio
import contextlib
import json
import logging
import os
import random
import signal
from pathlib import Path

import aiohttp
import orjson
import pytest

from tests.live.money_rig import SECRET, payment, signed
from tests.live.relay_process import Process, RelayProcess, family, until

pytestmark = pytest.mark.live

_log = logging.getLogger(__name__)

SHOPS = 8
PAUSE_S = 0.05
KILL_S = (0.05, 0.8)
CATALOG = """
[[group]]
name = "folk"
[[account]]
name = "acme"
group = "folk"
"""


def victims(relay: RelayProcess) -> list[Process]:
    """Return the control process and the Postgres of a relay, those that are there."""
    found = []
    for process in family(relay.process.pid):
        with contextlib.suppress(OSError):
            words = Path(f"/proc/{process.pid}/cmdline").read_bytes().split(b"\0")
            if b"control" in words or (process.program == "postgres" and b"-D" in words):
                found.append(process)
    return found


async def send_until_taken(relay: RelayProcess, orders: list[str]) -> None:
    """Be a shop: send each callback again until it is answered with 200."""
    timeout = aiohttp.ClientTimeout(total=5)
    async with aiohttp.ClientSession(timeout=timeout) as session:
        for order in orders:
            status = 0
            while status != 200:
                body = orjson.dumps(payment(order, amount="0.01"))
                with contextlib.suppress(aiohttp.ClientError, TimeoutError):
                    async with session.post(
                        f"http://{relay.admin}/hooks/payment", data=body, headers=signed(body)
                    ) as answer:
                        status = answer.status
                assert status in (0, 200, 500, 503), status
                if status != 200:
                    await asyncio.sleep(PAUSE_S)


async def kill_at_random(relay: RelayProcess, dice: random.Random, kills: int) -> None:
    """Kill one of the victims again and again, as soon as it is back."""
    for _ in range(kills):
        await asyncio.sleep(dice.uniform(*KILL_S))
        process = dice.choice(await until(lambda: victims(relay), "there is a victim"))
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGKILL)


async def pay_under_fire(folder: Path, *, orders: int, kills: int, seed: int) -> None:
    _log.warning("seed %d", seed)
    dice = random.Random(seed)
    environ = {"HOOK_SECRET": SECRET, "RELAY_BILLING__PAYMENT_SECRET": "env:HOOK_SECRET"}
    async with RelayProcess.start(folder / f"fire-{seed}", environ=environ) as relay:
        await relay.apply(CATALOG)
        numbers = [f"A-{number}" for number in range(orders)]
        shops = [dice.sample(numbers, orders // 2) for _ in range(SHOPS - 1)] + [numbers]
        await asyncio.gather(
            kill_at_random(relay, dice, kills), *(send_until_taken(relay, one) for one in shops)
        )

        async def found() -> int:
            with contextlib.suppress(AssertionError):
                listed = json.loads(
                    await relay.cli("order", "list", "--limit", str(orders + 1), "--json")
                )
                return [row["status"] for row in listed].count("credited")
            return 0

        credited = 0
        while credited < orders:
            credited = await found()
        assert credited == orders
        balance = json.loads(await relay.cli("balance", "--account", "acme", "--json"))
        assert balance["balance_usd"] == f"{orders / 100:.2f}".rstrip("0").rstrip(".")
        assert json.loads(await relay.cli("audit", "--json"))["drifts"] == []


@pytest.mark.timeout(150)
async def test_paid_orders_are_credited_once_under_kill_9(reachable: Path) -> None:
    await pay_under_fire(reachable, orders=60, kills=4, seed=2026)


@pytest.mark.slow
@pytest.mark.timeout(1800)
async def test_many_paid_orders_are_credited_once_under_kill_9(reachable: Path) -> None:
    await pay_under_fire(
        reachable, orders=1_000, kills=60, seed=random.SystemRandom().getrandbits(32)
    )
